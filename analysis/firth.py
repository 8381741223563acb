"""Firth's penalised logit: finite log-odds where an arm or a level has no success at all.

Takes a design matrix with numbers of successes and trials per row; gives estimates, intervals and
tests by profiles of the penalised likelihood. All trials count as independent: there is no
clustering here. Does not know what a column or a row stands for.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.intervals import LEVEL, normal_quantile
from analysis.logit import BinomialCells, binomial_cells, expit

__all__ = ["FirthFit", "Profile", "firth", "flic", "profiles"]

Array = NDArray[np.float64]

STEPS = 100
HALVINGS = 30
# The squared error left in an estimate, in units of its variance: in a fit and along a profile,
# where half of it is what is left of the likelihood and is added.
TOLERANCE = 1e-18
PROFILE_TOLERANCE = 1e-8
# From here on the others and the held coefficient move together.
NEAR = 0.1
# From here on the likelihood says on which side of the bound the held one is.
RELIABLE = 1e-3
# What a bound's signed root of the likelihood ratio may be off.
ROOT_TOLERANCE = 1e-8
# No step moves a log-odds further, nor a bound further than this times its standard error.
LONGEST = 5.0
# A step that leaves more than this share of the squared error is slow.
SLOW = 0.03
# Curvature and information that differ by less make steps of like length.
ALIKE = 0.1
# The least curvature, as a share of the information.
FLAT = 0.01


@dataclass(frozen=True, slots=True, eq=False)
class FirthFit:
    """Log-odds `estimates` (p,) with the inverse (p, p) of the information there.

    `log_likelihood` is the penalised one. Where trials are separated an interval of `estimates`
    and `covariance` is wrong: take `profiles`.
    """

    estimates: Array
    covariance: Array
    log_likelihood: float
    converged: bool
    iterations: int
    note: str = ""


@dataclass(frozen=True, slots=True)
class Profile:
    """95 % bounds of one log-odds, its penalised likelihood ratio (chi-squared, 1 df) and p-value.

    What was not found is None, and `note` says so.
    """

    column: int
    low: float | None
    high: float | None
    statistic: float | None
    p_value: float | None
    converged: bool
    note: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class _Point:
    """The penalised likelihood at `b`: its score, the inverses of information and of curvature."""

    b: Array
    value: float
    score: Array
    inverse: Array
    curvature: Array


def firth(X: Array, successes: Array, counts: Array) -> FirthFit:
    """Estimates with the largest likelihood times root of the information's determinant.

    The bias of order 1/n is gone, and the estimates are finite whatever the outcomes (Firth 1993;
    Heinze and Schemper 2002; Kosmidis and Firth 2021). `counts` may be sums of weights. Raises
    LogitError as `binomial_cells` does.
    """
    cells, _ = binomial_cells(X, successes, counts)
    start = np.zeros(cells.X.shape[1])
    point, converged, steps = _climb(cells, start)
    note = "" if converged else f"no convergence in {steps} steps"
    return FirthFit(point.b, point.inverse, point.value, converged, steps, note)


def profiles(
    X: Array, successes: Array, counts: Array, fitted: FirthFit, columns: Sequence[int]
) -> tuple[Profile, ...]:
    """Profile intervals and penalised likelihood ratio tests of 0 (Heinze and Schemper 2002).

    `fitted` is what `firth` gave for the same rows. Bounds are where twice the fall of the
    penalised likelihood, all other coefficients refitted, is the quantile of chi-squared.
    """
    cells, _ = binomial_cells(X, successes, counts)
    products = _products(cells.X)
    exact = _point(cells, fitted.estimates, products)
    if exact is None:
        raise ArithmeticError("the information is singular at the estimates")
    ratios = np.linalg.eigvals(exact.curvature @ np.linalg.inv(exact.inverse)).real
    if np.max(np.abs(ratios - 1)) < ALIKE:
        products, exact = None, replace(exact, curvature=exact.inverse)
    return tuple(_profile(cells, exact, column, products) for column in columns)


def flic(
    X: Array, successes: Array, counts: Array, estimates: Array, intercept: int
) -> Array | None:
    """The estimates with the intercept refitted, so that fitted and observed successes agree.

    For rates and marginal effects: Firth's own estimates pull rates to 1/2 (FLIC; Puhr et al.
    2017). `intercept` is the number of that column of X. None where all outcomes are alike, since
    then no finite intercept does it.
    """
    total, most = float(successes.sum()), float(counts.sum())
    if not 0 < total < most:
        return None
    eta = X @ estimates
    shift = 0.0
    for _ in range(STEPS):
        p = expit(eta + shift)
        step = (total - counts @ p) / (counts @ (p * (1 - p)))
        shift += float(np.clip(step, -1.0, 1.0))
        if abs(step) < 1e-12:
            break
    refitted = estimates.copy()
    refitted[intercept] += shift
    return refitted


def _point(cells: BinomialCells, b: Array, products: Any = None) -> _Point | None:
    """The penalised likelihood at b; None where the information is singular in floating point.

    Without the `products` of columns the information stands for the curvature.
    """
    X, k, n = cells.X, cells.successes, cells.counts
    eta = X @ b
    p = expit(eta)
    weighted = X * np.sqrt(n * p * (1 - p))[:, None]
    information = weighted.T @ weighted
    try:
        root = np.linalg.cholesky(information)
    except np.linalg.LinAlgError:
        return None
    half = np.linalg.inv(root)
    inverse = half.T @ half
    leverage = np.square(weighted @ half.T).sum(axis=1)
    value = float(k @ eta - n @ np.logaddexp(0.0, eta) + np.log(np.diag(root)).sum())
    if not math.isfinite(value):
        return None
    score = X.T @ (k - n * p + leverage * (0.5 - p))
    curvature = inverse
    if products is not None:
        curvature = _curvature(cells, products, p, information, half, leverage)
    return _Point(b, value, score, inverse, curvature)


def _products(X: Array) -> Any:
    """Products of columns i <= j of X (n, p (p + 1) / 2), sparse: most rows have most levels at 0.

    In the order of `numpy.triu_indices`.
    """
    from scipy.sparse import csc_matrix, csr_matrix, hstack

    rows = csc_matrix(X)
    blocks = [rows[:, i:].multiply(csr_matrix(X[:, [i]])) for i in range(X.shape[1])]
    return hstack(blocks, format="csr")


def _curvature(
    cells: BinomialCells, products: Any, p: Array, information: Array, half: Array, leverage: Array
) -> Array:
    """Inverse of the second derivatives of the penalised likelihood, sign changed.

    Where outcomes are separated they are far from the information, and steps by that take
    hundreds. Where they make no hill their signs are turned, so that a step leads up. `half` is
    the inverse of the information's Cholesky factor.
    """
    X, n = cells.X, cells.counts
    width = X.shape[1]
    bent = leverage * (1 - 6 * p * (1 - p))
    slopes = n * p * (1 - p) * (1 - 2 * p)
    place = np.zeros((width, width), dtype=np.intp)
    place[np.triu_indices(width)] = np.arange(products.shape[1])
    third = np.asarray(products.T @ (X * slopes[:, None]))[np.maximum(place, place.T)]
    inverse = half.T @ half
    turned = (inverse @ third @ inverse).reshape(width, -1)
    found = information - 0.5 * (X * bent[:, None]).T @ X
    found += 0.5 * turned @ third.reshape(width, -1).T
    # Against the information: 1 where the two agree, below 0 where there is no hill.
    ratios, axes = np.linalg.eigh(half @ ((found + found.T) / 2) @ half.T)
    steps = (half.T @ axes) / np.sqrt(np.maximum(np.abs(ratios), FLAT))
    return np.asarray(steps @ steps.T)


def _climb(cells: BinomialCells, start: Array) -> tuple[_Point, bool, int]:
    """Steps by the information, and by the curvature once those are seen to be slow."""
    point = _point(cells, start)
    if point is None:
        raise ArithmeticError("the information is singular at the start")
    products, before = None, math.inf
    for step in range(1, STEPS + 1):
        move = _move(point, None)
        left = float(move @ point.score)
        if left < TOLERANCE:
            return point, True, step
        if products is None and left > SLOW * before:
            products = _products(cells.X)
        before = left
        tried = _raised(cells, point, move, products)
        if tried is None:
            return point, False, step
        point = tried
    return point, False, STEPS


def _raised(cells: BinomialCells, point: _Point, move: Array, products: Any) -> _Point | None:
    """The point a move away, or the first of its halves that does not fall; None without any."""
    move = move * min(1.0, LONGEST / np.max(np.abs(move)))
    for _ in range(HALVINGS):
        tried = _point(cells, point.b + move, products)
        if tried is not None and tried.value >= point.value - 1e-12 * abs(point.value):
            return tried
        move = move / 2
    return None


def _move(point: _Point, held: int | None) -> Array:
    """The step that brings the score of the coefficients to 0, but for the held one's."""
    move: Array = point.curvature @ point.score
    if held is not None:
        ridge = point.curvature[:, held] / point.curvature[held, held]
        move = move - ridge * move[held]
        move[held] = 0.0
    return move


def _profile(cells: BinomialCells, top: _Point, column: int, products: Any) -> Profile:
    """The test of 0 and both bounds of one coefficient."""
    at_zero = _held(cells, top, column, products)
    low, high = (_bound(cells, top, column, side, products) for side in (-1, 1))
    lost = [name for name, bound in (("lower", low), ("upper", high)) if bound is None]
    notes = [f"no {name} bound found" for name in lost]
    if at_zero is None:
        notes.append("no convergence at 0")
    statistic = None if at_zero is None else max(0.0, 2 * (top.value - at_zero))
    p_value = None if statistic is None else math.erfc(math.sqrt(statistic / 2))
    return Profile(column, low, high, statistic, p_value, not notes, "; ".join(notes))


def _held(cells: BinomialCells, top: _Point, column: int, products: Any) -> float | None:
    """The largest penalised likelihood with one coefficient held at 0; None where not found."""
    point = _along(cells, top, np.zeros(len(top.b)), column, 0.0, products)
    for _ in range(STEPS):
        if point is None:
            return None
        move = _move(point, column)
        left = float(move @ point.score)
        if left < PROFILE_TOLERANCE:
            # What is left of a nearly quadratic hill.
            return point.value + left / 2
        point = _raised(cells, point, move, products)
    return None


def _along(
    cells: BinomialCells, point: _Point, move: Array, column: int, value: float, products: Any
) -> _Point | None:
    """The point after a move, with one coefficient then brought to a value along the ridge.

    Half the way, and half of that, where the likelihood cannot be computed there.
    """
    ridge = point.curvature[:, column] / point.curvature[column, column]
    whole = move + (value - point.b[column]) * ridge
    b = point.b + whole
    b[column] = value
    return _point(cells, b, products)


def _bound(
    cells: BinomialCells, top: _Point, column: int, side: int, products: Any
) -> float | None:
    """Where the signed root of the likelihood ratio reaches the normal quantile.

    The root is nearly a straight line in the held coefficient, with a known slope, so Newton's
    steps find the bound while the others are refitted (after Venzon and Moolgavkar 1988).
    """
    target = normal_quantile(0.5 + LEVEL / 2)
    inside, outside = float(top.b[column]), math.inf * side
    value = inside + side * target * math.sqrt(top.curvature[column, column])
    from_, move = top, np.zeros(len(top.b))
    for _ in range(STEPS):
        point = _along(cells, from_, move, column, value, products)
        if point is None:
            outside, value = value, (inside + value) / 2
            continue
        move = _move(point, column)
        left = float(move @ point.score)
        while left > NEAR:
            raised = _raised(cells, point, move, products)
            if raised is None:
                return None
            point, move = raised, _move(raised, column)
            left = float(move @ point.score)
        root = math.sqrt(max(0.0, 2 * (top.value - point.value) - left))
        if abs(root - target) < ROOT_TOLERANCE and left < PROFILE_TOLERANCE:
            return value
        if left < RELIABLE:
            inside, outside = (value, outside) if root < target else (inside, value)
        error = math.sqrt(point.curvature[column, column])
        pull = float((point.curvature @ point.score)[column]) / error**2
        step = (target - root) * root / (-side * pull) if -side * pull > 0 else math.inf
        step = math.copysign(min(abs(step), LONGEST * error), target - root)
        from_, value = point, value + side * step
        if not min(inside, outside) < value < max(inside, outside):
            value = (inside + outside) / 2
    return None
