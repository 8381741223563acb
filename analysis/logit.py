"""Logit: maximum likelihood on binomial cells, and the check whether there is a maximum at all.

Takes a design matrix with the numbers of successes and of trials of its rows; gives log-odds
with their covariance, or a record that says which of them are infinite. Does not know what a
column or a row stands for.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "BinomialCells",
    "LogitError",
    "LogitFit",
    "Separated",
    "binomial_cells",
    "clustered_covariance",
    "expit",
    "logit",
    "separation",
]

Array = NDArray[np.float64]

STEPS = 50
HALVINGS = 30
# The squared error left in an estimate, in units of its variance.
TOLERANCE = 1e-16
# Log-odds that a fit to overlapping trials may reach: a separated one is stationary, to
# TOLERANCE, only beyond 35, as its score falls with exp(-log-odds).
FAR = 20.0
# Lengths below this share of a column's own are rounding: the column is a sum of others.
DEPENDENT = 1e-7
# What the linear program may leave of a bound; a separating direction has length 1.
SLACK = 1e-5


class LogitError(ValueError):
    """Rows from which no logit can be fitted, whatever their outcomes."""


@dataclass(frozen=True, slots=True, eq=False)
class BinomialCells:
    """Rows of a design matrix X (n, p) with `successes` (n,) of `counts` (n,) trials each."""

    X: Array
    successes: Array
    counts: Array


@dataclass(frozen=True, slots=True, eq=False)
class LogitFit:
    """Log-odds `estimates` (p,) with the covariance (p, p) of independent trials.

    The covariance is the inverse of the information; `log_likelihood` leaves out the binomial
    coefficients, as for single trials. `note` is empty unless something is wrong.
    """

    estimates: Array
    covariance: Array
    log_likelihood: float
    converged: bool
    iterations: int
    note: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Separated:
    """Some of the trials can be fitted without error, so that the likelihood has no maximum.

    `columns` are those of X whose coefficients have no finite estimate, alone or in a sum with
    others of them; the rest keeps one. `rows` (n,) marks the rows that are fitted without error
    when the coefficients go to infinity along `direction` (p,).
    """

    columns: tuple[int, ...]
    rows: NDArray[np.bool_]
    direction: Array
    note: str


def expit(eta: Array) -> Array:
    """Probabilities of log-odds; no overflow at either end."""
    small = np.exp(-np.abs(eta))
    found: Array = np.where(eta >= 0, 1.0, small) / (1.0 + small)
    return found


def binomial_cells(
    X: Array, successes: Array, counts: Array
) -> tuple[BinomialCells, NDArray[np.intp]]:
    """Equal rows added up and rows without trials left out; the second part is each row's cell.

    Likelihoods of independent trials do not change by it, and a study of 400 queries shrinks by
    as much. The cell of a row without trials is -1. Raises LogitError where a number is not one,
    where there are more successes than trials or no trials, and where a column is a sum of others.
    """
    X, successes, counts = (np.asarray(a, dtype=np.float64) for a in (X, successes, counts))
    if X.ndim != 2 or successes.shape != counts.shape or len(X) != len(counts):
        raise LogitError(
            f"X of shape {X.shape} with {len(successes)} successes and {len(counts)} counts: "
            "give one of each per row"
        )
    bad = ~np.isfinite(X).all(axis=1) | ~np.isfinite(successes) | ~np.isfinite(counts)
    bad |= (successes < 0) | (successes > counts)
    if bad.any():
        row = int(np.argmax(bad))
        raise LogitError(
            f"row {row}: {successes[row]:g} successes of {counts[row]:g} trials at "
            f"{X[row]}: give finite numbers, and successes from 0 to the trials"
        )
    used = counts > 0
    if not used.any():
        raise LogitError("no row has a trial: give counts above 0")
    first, inverse = _distinct(X[used])
    k, n = (np.zeros(len(first)) for _ in range(2))
    np.add.at(k, inverse, successes[used])
    np.add.at(n, inverse, counts[used])
    cells = BinomialCells(X[used][first], k, n)
    if dependent := _dependent(cells.X):
        raise LogitError(
            f"columns {', '.join(map(str, dependent))} of X are sums of the others: leave them out"
        )
    of_row = np.full(len(X), -1)
    of_row[used] = inverse
    return cells, of_row


def logit(
    X: Array, successes: Array, counts: Array, names: Sequence[str] = ()
) -> LogitFit | Separated:
    """Maximum likelihood estimates of a logit, by Newton's steps; Separated if there are none.

    `counts` may be sums of weights. `names` (p,) of the columns are used in notes. Raises
    LogitError as `binomial_cells` does.
    """
    cells, _ = binomial_cells(X, successes, counts)
    fitted = _newton(cells)
    pure = (cells.successes == 0) | (cells.successes == cells.counts)
    furthest = np.max(np.abs(cells.X @ fitted.estimates)[pure], initial=0.0)
    if not fitted.converged or furthest > FAR:
        found = separation(X, successes, counts, names)
        if found is not None:
            return found
    return fitted


def clustered_covariance(
    X: Array, successes: Array, counts: Array, estimates: Array, clusters: NDArray[np.int64]
) -> tuple[Array, int]:
    """Covariance CR1 of a logit by sums of scores (Liang and Zeger 1986, times G/(G-1)); G - 1.

    `clusters` (n,) are numbers; G is that of those with trials. The same as sandwich's
    `vcovCL(type = "HC0")` in R. Raises LogitError for a single cluster.
    """
    used = counts > 0
    X, clusters = X[used], np.unique(clusters[used], return_inverse=True)[1]
    groups = int(clusters.max()) + 1
    if groups < 2:
        raise LogitError("1 cluster: errors by cluster need 2 or more")
    p = expit(X @ estimates)
    bread = np.linalg.inv((X * (counts[used] * p * (1 - p))[:, None]).T @ X)
    sums = cluster_sums(X * (successes[used] - counts[used] * p)[:, None], clusters, groups)
    covariance: Array = bread @ (sums.T @ sums) @ bread * (groups / (groups - 1))
    return covariance, groups - 1


def cluster_sums(rows: Array, clusters: NDArray[np.int64], groups: int) -> Array:
    """Sums (G, ...) of rows (n, ...) by cluster number from 0."""
    order = np.argsort(clusters, kind="stable")
    numbers, starts = np.unique(clusters[order], return_index=True)
    found = np.zeros((groups, *rows.shape[1:]))
    found[numbers] = np.add.reduceat(rows[order], starts, axis=0)
    return found


def separation(
    X: Array, successes: Array, counts: Array, names: Sequence[str] = ()
) -> Separated | None:
    """Whether a direction b has `x b >= 0` in all successes and `x b <= 0` in all failures.

    Then the likelihood rises for ever along it (Albert and Anderson 1984), by a linear program
    (Konis 2007), run until it finds no further row. A row with both outcomes must have `x b = 0`,
    which usually leaves a program of very few dimensions. None if the outcomes overlap.
    """
    cells, of_row = binomial_cells(X, successes, counts)
    mixed = (cells.successes > 0) & (cells.successes < cells.counts)
    scale = np.abs(cells.X).max(axis=0)
    scaled = cells.X / scale
    free = _null_space(scaled[mixed])
    signs = np.where(cells.successes > 0, 1.0, -1.0)
    wins = (scaled @ free) * signs[:, None]
    wins[mixed] = 0.0
    found = np.zeros(len(scaled), dtype=bool)
    direction = np.zeros(free.shape[1])
    while free.shape[1] and not found[~mixed].all():
        step = _separating(wins, ~found)
        more = ~found & (wins @ step > SLACK)
        if not more.any():
            break
        found |= more
        direction += step
    if not found.any():
        return None
    infinite = _not_estimable(scaled[~found], scaled.shape[1])
    rows = np.append(found, False)[of_row]
    trials = cells.counts[found].sum()
    named = ", ".join(names[c] if names else str(c) for c in infinite)
    note = (
        f"separated: {trials:g} of {cells.counts.sum():g} trials can be fitted without error, "
        f"so there is no finite estimate for {'' if names else 'columns '}{named}"
    )
    return Separated(infinite, rows, (free @ direction) / scale, note)


def _newton(cells: BinomialCells) -> LogitFit:
    """Newton's steps, halved where the likelihood would fall."""
    X, k, n = cells.X, cells.successes, cells.counts
    b = np.zeros(X.shape[1])
    value = _log_likelihood(cells, b)
    converged = False
    inverse = np.full((len(b), len(b)), np.nan)
    for iteration in range(1, STEPS + 1):
        p = expit(X @ b)
        score = X.T @ (k - n * p)
        try:
            inverse[:] = np.linalg.inv((X * (n * p * (1 - p))[:, None]).T @ X)
        except np.linalg.LinAlgError:
            break
        if converged:
            return LogitFit(b, inverse, value, True, iteration)
        step = inverse @ score
        converged = bool(0 <= score @ step < TOLERANCE)
        for _ in range(HALVINGS):
            raised = _log_likelihood(cells, b + step)
            if converged or raised >= value - 1e-12 * abs(value):
                break
            step = step / 2
        b, value = b + step, raised
    return LogitFit(b, inverse, value, False, iteration, f"no convergence in {iteration} steps")


def _log_likelihood(cells: BinomialCells, b: Array) -> float:
    eta = cells.X @ b
    return float(cells.successes @ eta - cells.counts @ np.logaddexp(0.0, eta))


def _distinct(X: Array) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Numbers of the first of each kind of row, and the kind of every row."""
    # Sorting one number per row is twenty times faster than sorting rows. Column by column,
    # since a matrix product may round equal rows differently.
    key = np.zeros(len(X))
    for j, column in enumerate(X.T):
        key += column * np.sin(j + 1.0)
    _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
    if not np.array_equal(X[first][inverse], X):
        _, first, inverse = np.unique(X, axis=0, return_index=True, return_inverse=True)
    return first, inverse.ravel()


def _dependent(X: Array) -> list[int]:
    """Numbers of columns that are sums of the others, one for each that is too many."""
    from scipy.linalg import qr

    lengths = np.linalg.norm(X, axis=0)
    lengths[lengths == 0] = 1.0
    triangle = np.linalg.qr(X / lengths, mode="r")
    pivoted, order = qr(triangle, mode="r", pivoting=True)
    diagonal = np.zeros(X.shape[1])
    diagonal[: min(pivoted.shape)] = np.abs(np.diag(pivoted))
    return sorted(int(c) for c in order[diagonal < DEPENDENT])


def _null_space(X: Array) -> Array:
    """An orthonormal basis (p, r) of the directions b with X b = 0."""
    if not len(X):
        return np.eye(X.shape[1])
    triangle = np.linalg.qr(X, mode="r")
    _, lengths, directions = np.linalg.svd(triangle, full_matrices=True)
    rank = int(np.sum(lengths > DEPENDENT * max(1.0, lengths[0])))
    found: Array = directions[rank:].T
    return found


def _separating(wins: Array, counted: NDArray[np.bool_]) -> Array:
    """The b within [-1, 1] that has no negative `wins @ b` and the largest sum over `counted`."""
    from scipy.optimize import linprog

    rows = wins[np.abs(wins).max(axis=1) > SLACK]
    goal = wins[counted].mean(axis=0)
    found = linprog(-goal, A_ub=-rows, b_ub=np.zeros(len(rows)), bounds=(-1, 1), method="highs")
    if found.x is None:
        raise LogitError(f"the check for separation failed: {found.message}")
    return np.asarray(found.x)


def _not_estimable(X: Array, width: int) -> tuple[int, ...]:
    """Columns whose coefficient the rows of X do not determine."""
    unknown = _null_space(X.reshape(-1, width))
    return tuple(int(c) for c in np.flatnonzero(np.linalg.norm(unknown, axis=1) > 1e-6))
