"""Synthesis: many estimates of one kind, with their errors, taken together.

Takes estimates and standard errors; gives their mean, the spread between them beyond chance, a
prediction for one more, and a regression on what they have in common.
Does not know what the estimates are of.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from analysis.intervals import Interval, t_quantile, z_interval

__all__ = ["Line", "Slope", "Spread", "line", "meta_regression", "random_effects"]


@dataclass(frozen=True, slots=True)
class Spread:
    """Random-effects summary; on the scale of the estimates.

    `tau` is the SD between true values, `tau_low` and `tau_high` its 95 % bounds; `i_squared` the
    share of the variance between estimates that is not chance; `low` and `high` predict one more
    true value, None for fewer than three estimates.
    """

    estimates: int
    mean: float
    std_error: float
    tau: float
    tau_low: float
    tau_high: float
    i_squared: float
    q: float
    p_value: float
    low: float | None
    high: float | None


def random_effects(estimates: Sequence[float], errors: Sequence[float]) -> Spread:
    """DerSimonian and Laird 1986, with Q-profile bounds of tau and Higgins' prediction interval.

    `tau^2 = max(0, (Q - (k - 1)) / (sum w - sum w^2 / sum w))`, `I^2 = max(0, (Q - (k - 1)) / Q)`;
    prediction `mean +- t(k - 2) sqrt(tau^2 + se^2)` (Higgins et al. 2009); bounds of tau by
    inverting Q's chi-squared law (Viechtbauer 2007). Needs two estimates with errors above 0.
    """
    y, v = np.asarray(estimates, dtype=float), np.asarray(errors, dtype=float) ** 2
    k = len(y)
    if k < 2 or not (v > 0).all():
        raise ValueError("a spread needs two estimates or more, each with an error above 0")
    w = 1 / v
    q = _heterogeneity(y, v, 0.0)
    excess = q - (k - 1)
    tau2 = max(0.0, excess / float(w.sum() - (w**2).sum() / w.sum()))
    weights = 1 / (v + tau2)
    mean = float((weights * y).sum() / weights.sum())
    error = math.sqrt(1 / float(weights.sum()))
    low = high = None
    if k > 2:
        reach = t_quantile(0.975, k - 2) * math.sqrt(tau2 + error**2)
        low, high = mean - reach, mean + reach
    return Spread(
        estimates=k,
        mean=mean,
        std_error=error,
        tau=math.sqrt(tau2),
        tau_low=_tau_at(y, v, 0.975),
        tau_high=_tau_at(y, v, 0.025),
        i_squared=max(0.0, excess / q) if q > 0 else 0.0,
        q=q,
        p_value=float(special.chdtrc(k - 1, q)),
        low=low,
        high=high,
    )


def _heterogeneity(y: NDArray[np.float64], v: NDArray[np.float64], tau2: float) -> float:
    w = 1 / (v + tau2)
    mean = (w * y).sum() / w.sum()
    return float((w * (y - mean) ** 2).sum())


def _tau_at(y: NDArray[np.float64], v: NDArray[np.float64], probability: float) -> float:
    """The tau at which the generalised Q has this cumulative probability."""
    target = float(special.chdtri(len(y) - 1, 1 - probability))
    if _heterogeneity(y, v, 0.0) <= target:
        return 0.0
    top = float(np.var(y) + v.max()) or 1.0
    while _heterogeneity(y, v, top) > target:
        top *= 2
    return math.sqrt(float(optimize.brentq(lambda t: _heterogeneity(y, v, t) - target, 0.0, top)))


@dataclass(frozen=True, slots=True)
class Slope:
    """One column's coefficient; `estimate` and the rest are None when it is not estimable."""

    estimate: float | None
    std_error: float | None
    interval: Interval | None


def meta_regression(
    estimates: Sequence[float], errors: Sequence[float], X: NDArray[np.float64], tau: float
) -> tuple[Slope, ...]:
    """Weighted least squares with weights `1 / (se^2 + tau^2)` and tau given; z intervals.

    `X` is k x p and has its intercept. A column that the others determine is not estimable, and
    neither is what it is mixed up with.
    """
    y, v = np.asarray(estimates, dtype=float), np.asarray(errors, dtype=float) ** 2 + tau**2
    gram = (X / v[:, None]).T @ X
    inverse = np.linalg.pinv(gram, hermitian=True)
    coefficients = inverse @ ((X / v[:, None]).T @ y)
    resolution = gram @ inverse
    slopes = []
    for i in range(X.shape[1]):
        unit = np.eye(X.shape[1])[i]
        if not np.allclose(resolution @ unit, unit, atol=1e-6):
            slopes.append(Slope(None, None, None))
            continue
        error = math.sqrt(float(inverse[i, i]))
        value = float(coefficients[i])
        slopes.append(Slope(value, error, z_interval(value, error)))
    return tuple(slopes)


@dataclass(frozen=True, slots=True)
class Line:
    """A straight line through points, by least squares."""

    intercept: float
    slope: float

    def at(self, x: float) -> float:
        return self.intercept + self.slope * x


def line(x: Sequence[float], y: Sequence[float]) -> Line:
    """The least-squares line of y on x; needs two different x."""
    slope, intercept = np.polyfit(np.asarray(x, dtype=float), np.asarray(y, dtype=float), 1)
    return Line(float(intercept), float(slope))
