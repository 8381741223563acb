"""Average marginal effects: what a logit says on the scale of rates.

Takes coefficients, any covariance of them, and the rows of the trials as they would be in each
arm with a factor at a level; gives rates, gaps and gap effects with delta-method errors.
Does not know how the coefficients were found or how the rows were made.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.logit import expit

__all__ = ["Counterfactual", "GapEffect", "Margin", "average_gap", "average_rate", "gap_effect"]

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Counterfactual:
    """The same trials in both arms: rows `train` and `deploy` (m, p) of the design matrix.

    For an averaged effect the rows of all trials with one factor set to a level; for the gap at
    one condition, as the original, a single row of each.
    """

    train: Array
    deploy: Array


@dataclass(frozen=True, slots=True, eq=False)
class Margin:
    """A rate, or a sum of rates with signs, its standard error and its gradient (p,).

    The error is None where the covariance gives none, as for a difference of equal rows.
    """

    estimate: float
    std_error: float | None
    gradient: Array


@dataclass(frozen=True, slots=True, eq=False)
class GapEffect:
    """How a change moves the gap: `effect` is the `train` part minus the `deploy` part."""

    effect: Margin
    train: Margin
    deploy: Margin


def average_rate(
    estimates: Array, covariance: Array, rows: Array, weights: Array | None = None
) -> Margin:
    """Mean of `expit(x b)` over rows (m, p), weighted by `weights` (m,), between 0 and 1."""
    p = expit(rows @ estimates)
    shares = np.full(len(p), 1 / len(p)) if weights is None else weights / weights.sum()
    return _margin(float(shares @ p), (shares * p * (1 - p)) @ rows, covariance)


def average_gap(
    estimates: Array, covariance: Array, rows: Counterfactual, weights: Array | None = None
) -> Margin:
    """Mean over rows of `expit(x_train b) - expit(x_deploy b)`, between -1 and 1.

    Not the coefficient of the arm, nor that of a product on any scale (Ai and Norton 2003).
    """
    train = average_rate(estimates, covariance, rows.train, weights)
    deploy = average_rate(estimates, covariance, rows.deploy, weights)
    return _minus(train, deploy, covariance)


def gap_effect(
    estimates: Array,
    covariance: Array,
    changed: Counterfactual,
    unchanged: Counterfactual,
    weights: Array | None = None,
) -> GapEffect:
    """Gap of the changed rows minus that of the unchanged ones, with its two parts.

    With single rows, of a removal and of the original, it is the model-based simple effect
    (g-computation); with those of all trials, the averaged one. The error is by the delta method:
    `g' V g` with the gradient g of the whole difference.
    """
    train, deploy = (
        _minus(
            average_rate(estimates, covariance, after, weights),
            average_rate(estimates, covariance, before, weights),
            covariance,
        )
        for after, before in (
            (changed.train, unchanged.train),
            (changed.deploy, unchanged.deploy),
        )
    )
    return GapEffect(_minus(train, deploy, covariance), train, deploy)


def _minus(a: Margin, b: Margin, covariance: Array) -> Margin:
    return _margin(a.estimate - b.estimate, a.gradient - b.gradient, covariance)


def _margin(estimate: float, gradient: Array, covariance: Array) -> Margin:
    variance = float(gradient @ covariance @ gradient)
    return Margin(estimate, math.sqrt(variance) if variance > 0 else None, gradient)
