"""Conditional logit: effects within strata, whatever the level of each stratum.

Takes a design matrix with numbers of successes and trials per row and strata; gives log-odds
conditional on each stratum's number of successes. Does not know what a stratum is. Gives no
rates: the strata's levels are conditioned away.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.logit import LogitError, Separated, binomial_cells, expit, separation

__all__ = ["ConditionalFit", "conditional_logit"]

Array = NDArray[np.float64]

STEPS = 50
HALVINGS = 30
# The squared error left in an estimate, in units of its variance.
TOLERANCE = 1e-16
# Logarithm of the size below which a frequency adds nothing in floating point.
NOTHING = -45.0
# Log-odds beyond which a fit may be one of separated outcomes, and the longest step.
FAR = 12.0
LONGEST = 5.0
ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class ConditionalFit:
    """Log-odds `estimates` (p,) within strata, and the inverse (p, p) of the information.

    `dropped` strata have successes only or failures only and say nothing, `strata` are the rest.
    """

    estimates: Array
    covariance: Array
    log_likelihood: float
    strata: int
    dropped: int
    converged: bool
    iterations: int
    note: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class _Stratum:
    """Different rows X (c, p) with `counts` (c,), and `total` successes with row sum `sum` (p,)."""

    X: Array
    counts: Array
    total: float
    sum: Array


def conditional_logit(
    X: Array,
    successes: Array,
    counts: Array,
    strata: NDArray[np.int64],
    names: Sequence[str] = (),
) -> ConditionalFit | Separated:
    """Logit given the number of successes in each stratum, exactly (Gail, Lubin, Rubinstein 1981).

    X has no intercept: a column must vary within strata. `strata` (n,) are numbers, `successes`
    and `counts` whole ones. Separated where no finite estimates exist within strata. Raises
    LogitError for a column without variation within strata, or strata that all drop out.
    """
    if np.any(successes != np.rint(successes)) or np.any(counts != np.rint(counts)):
        raise LogitError("a conditional logit counts trials: give whole successes and counts")
    numbers = np.unique(strata, return_inverse=True)[1]
    kept_rows, found, dropped = [], [], 0
    for g in range(int(numbers.max()) + 1):
        rows = np.flatnonzero((numbers == g) & (counts > 0))
        total = float(successes[rows].sum())
        if 0 < total < counts[rows].sum():
            kept_rows.append(rows)
            found.append(_stratum(X[rows], successes[rows], counts[rows]))
        else:
            dropped += len(rows) > 0
    if not found:
        raise LogitError("no stratum has both successes and failures: nothing to condition on")
    _check_columns(found)
    fitted = _newton(found, X.shape[1], dropped, FAR)
    if not fitted.converged:
        rows = np.concatenate(kept_rows)
        apart = _separation(X, successes, counts, numbers, rows, names)
        if apart is not None:
            return apart
        fitted = _newton(found, X.shape[1], dropped, np.inf)
    return fitted


def _stratum(X: Array, successes: Array, counts: Array) -> _Stratum:
    kinds, inverse = np.unique(X, axis=0, return_inverse=True)
    merged = np.bincount(inverse.ravel(), counts, minlength=len(kinds))
    return _Stratum(kinds, merged.astype(np.float64), float(successes.sum()), successes @ X)


def _check_columns(strata: Sequence[_Stratum]) -> None:
    """Raises LogitError for columns that, less their stratum's mean, are sums of the others."""
    centred = np.vstack([s.X - s.counts @ s.X / s.counts.sum() for s in strata])
    still = np.flatnonzero(np.abs(centred).max(axis=0) < ROUNDING)
    if len(still):
        raise LogitError(
            f"columns {', '.join(map(str, still))} of X do not vary within a stratum: "
            "leave them out"
        )
    ones = np.ones(len(centred))
    binomial_cells(centred, 0 * ones, ones)


def _newton(
    strata: Sequence[_Stratum], width: int, dropped: int, furthest: float
) -> ConditionalFit:
    """Newton's steps, halved where the conditional likelihood would fall.

    Given up once log-odds within a stratum differ by more than `furthest`.
    """
    b = np.zeros(width)
    value, score, information = _likelihood(strata, b)
    for step in range(1, STEPS + 1):
        try:
            covariance: Array = np.asarray(np.linalg.inv(information), dtype=np.float64)
        except np.linalg.LinAlgError:
            break
        move = covariance @ score
        left = float(move @ score)
        if 0 <= left < TOLERANCE:
            return ConditionalFit(b, covariance, value, len(strata), dropped, True, step)
        move *= min(1.0, LONGEST / np.max(np.abs(move)))
        before = value
        for _ in range(HALVINGS):
            value, score, information = _likelihood(strata, b + move)
            if value >= before - 1e-10 * abs(before):
                break
            move = move / 2
        b = b + move
        if max(float(np.ptp(s.X @ b)) for s in strata) > furthest:
            break
    note = f"no convergence in {step} steps"
    empty = np.full((width, width), np.nan)
    return ConditionalFit(b, empty, value, len(strata), dropped, False, step, note)


def _likelihood(strata: Sequence[_Stratum], b: Array) -> tuple[float, Array, Array]:
    """Conditional log-likelihood, its score and information, summed over strata."""
    value, score = 0.0, np.zeros(len(b))
    information = np.zeros((len(b), len(b)))
    for stratum in strata:
        log_sets, mean, covariance = _sums_over_sets(stratum, b)
        value += float(stratum.sum @ b) - log_sets
        score += stratum.sum - mean
        information += covariance
    return value, score, information


def _sums_over_sets(stratum: _Stratum, b: Array) -> tuple[float, Array, Array]:
    """Over all sets of `total` of a stratum's trials, weighted by exp(sum of x b): log of the sum
    of weights, mean (p,) and covariance (p, p) of the sum of x.

    The recursion of Gail, Lubin and Rubinstein takes trials x successes steps for each entry of
    the covariance. The same sums are the coefficient of z^total in a product over rows of
    (1 - p + p z)^count, read off by a discrete Fourier transform with the odds shifted so that
    `total` is expected: it is then exact to rounding, and repeated rows cost nothing.
    """
    X, n, total = stratum.X, stratum.counts, stratum.total
    eta = X @ b
    shift = _shift(eta, n, total)
    p: Array = np.asarray(expit(eta + shift), dtype=np.float64)
    # An odd number of frequencies leaves out z = -1, where 1 - p + p z may be 0.
    points = int(n.sum()) + 1 + int(n.sum()) % 2
    angles = (2 * np.pi / points * np.arange(points // 2 + 1)).astype(np.float64)
    angles = angles[: _audible(p, n, angles)]
    z = np.exp(1j * angles)
    mixed = 1 + p[:, None] * (z - 1)
    share = p[:, None] * z / mixed
    wave = np.exp(n @ np.log(mixed) - 1j * angles * total)
    wave[1:] *= 2  # the other half of the circle is its conjugate
    chance = float(wave.real.sum())
    wave = wave / chance

    hits = X.T @ (n[:, None] * share)
    mean = (hits @ wave).real
    second = ((hits * wave) @ hits.T).real
    within = n * ((share - share**2) @ wave).real
    covariance = second + (X * within[:, None]).T @ X - np.outer(mean, mean)
    log_sets = float(np.log(chance / points) + n @ np.logaddexp(0.0, eta + shift) - shift * total)
    return log_sets, mean, covariance


def _shift(eta: Array, n: Array, total: float) -> float:
    """What added to the log-odds makes `total` successes expected."""
    low = float(-eta.max() + np.log(total / (n.sum() - total)))
    high = float(-eta.min() + np.log(total / (n.sum() - total)))
    shift = (low + high) / 2
    for _ in range(200):
        p = expit(eta + shift)
        over = float(n @ p - total)
        if abs(over) < 1e-9 * total:
            break
        low, high = (low, shift) if over > 0 else (shift, high)
        slope = float(n @ (p * (1 - p)))
        shift = shift - over / slope if slope > 0 else low
        if not low < shift < high:
            shift = (low + high) / 2
    return shift


def _audible(p: Array, n: Array, angles: Array) -> int:
    """How many of the frequencies are large enough to count; their size falls with the angle."""
    low, high = 0, len(angles)
    while low < high:
        middle = (low + high) // 2
        size = 0.5 * n @ np.log1p(-2 * p * (1 - p) * (1 - np.cos(angles[middle])))
        low, high = (middle + 1, high) if size > NOTHING else (low, middle)
    return max(1, low)


def _separation(
    X: Array,
    successes: Array,
    counts: Array,
    numbers: NDArray[np.intp],
    rows: NDArray[np.intp],
    names: Sequence[str],
) -> Separated | None:
    """Separation within strata: that of a logit with an intercept for every stratum.

    A direction that moves only intercepts would need a stratum without variation.
    """
    columns = np.unique(numbers[rows], return_inverse=True)[1]
    intercepts = np.eye(int(columns.max()) + 1)[columns]
    width = X.shape[1]
    labels = [*names, *("" for _ in range(intercepts.shape[1]))] if names else ()
    found = separation(np.hstack([X[rows], intercepts]), successes[rows], counts[rows], labels)
    if found is None:
        return None
    infinite = tuple(c for c in found.columns if c < width)
    marked = np.zeros(len(X), dtype=bool)
    marked[rows] = found.rows
    named = ", ".join(names[c] if names else str(c) for c in infinite)
    note = f"separated within strata: no finite estimate for {'' if names else 'columns '}{named}"
    return Separated(infinite, marked, found.direction[:width], note)
