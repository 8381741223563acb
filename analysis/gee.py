"""Generalised estimating equations: a logit whose trials are alike within a cluster.

Takes a design matrix with numbers of successes and trials per row and clusters; gives marginal
log-odds with robust and bias-reduced covariances. Does not know what a cluster is.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.logit import LogitError, Separated, cluster_sums, expit, logit

__all__ = ["GeeFit", "gee"]

Array = NDArray[np.float64]

STEPS = 100
# The squared error left in an estimate, in units of its variance.
TOLERANCE = 1e-16
# A correlation stays this share of the way from the bounds within which trials can have it.
WITHIN = 0.999


@dataclass(frozen=True, slots=True, eq=False)
class GeeFit:
    """Marginal log-odds `estimates` (p,), the working `correlation` of two trials of a cluster.

    `robust` (p, p) is the sandwich without a factor for few clusters, `bias_reduced` that of
    Mancl and DeRouen (2001), None where a column has values in one cluster only.
    """

    estimates: Array
    robust: Array
    bias_reduced: Array | None
    correlation: float
    scale: float
    clusters: int
    converged: bool
    iterations: int
    note: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class _State:
    """Scores (G, p) of the clusters, their informations (G, p, p), and the residuals' moments."""

    scores: Array
    information: Array
    correlation: float
    scale: float
    bounded: bool


def gee(
    X: Array,
    successes: Array,
    counts: Array,
    clusters: NDArray[np.int64],
    names: Sequence[str] = (),
) -> GeeFit | Separated:
    """Logit by estimating equations with exchangeable correlation (Liang and Zeger 1986).

    Every trial of a row is a member of the row's cluster (n,), a number. Correlation and scale
    are moments over residuals, as in R's geepack. Separated where a logit is, and LogitError as
    there and for a single cluster.
    """
    start = logit(X, successes, counts, names)
    if isinstance(start, Separated):
        return start
    used = np.flatnonzero(counts > 0)
    used = used[np.argsort(clusters[used], kind="stable")]
    numbers = np.unique(clusters[used], return_inverse=True)[1]
    if numbers[-1] < 1:
        raise LogitError("1 cluster: estimating equations need 2 or more")
    rows = (X[used], successes[used], counts[used], numbers)
    b, converged, taken = start.estimates, False, 0
    state = _state(*rows, b)
    while taken < STEPS and not converged:
        taken += 1
        total = state.scores.sum(axis=0)
        move = np.linalg.solve(state.information.sum(axis=0), total)
        b, before = b + move, state.correlation
        state = _state(*rows, b)
        still = abs(state.correlation - before) < 1e-10
        converged = bool(still and move @ total < TOLERANCE)
    notes = [] if converged else [f"no convergence in {taken} steps"]
    if state.bounded:
        notes.append(f"correlation held at its bound {state.correlation:.3g}")
    whole = state.information.sum(axis=0)
    robust = _sandwich(np.broadcast_to(whole, state.information.shape), state.scores)
    # Trials without the cluster determine `whole - information`: none do where it is singular.
    rest = whole - state.information
    reduced = None
    if np.all(np.linalg.cond(rest / np.sqrt(np.outer(np.diag(whole), np.diag(whole)))) < 1e10):
        reduced = _sandwich(rest, state.scores)
    else:
        notes.append("no bias-reduced errors: without one of the clusters no estimates")
    return GeeFit(
        b,
        robust,
        reduced,
        state.correlation,
        state.scale,
        len(state.scores),
        converged,
        taken,
        "; ".join(notes),
    )


def _state(X: Array, k: Array, n: Array, clusters: NDArray[np.int64], b: Array) -> _State:
    """Sums over the trials of each cluster; rows are sorted by it."""
    groups = int(clusters[-1]) + 1
    p = expit(X @ b)
    v = p * (1 - p)
    residuals = (k - n * p) / np.sqrt(v)
    squares = (k * (1 - p) ** 2 + (n - k) * p**2) / v
    sums = np.bincount(clusters, residuals)
    sizes = np.bincount(clusters, n)
    scale = float(squares.sum() / sizes.sum())
    pairs = float((sizes * (sizes - 1)).sum())
    products = float((sums**2).sum() - squares.sum())
    moment = products / (scale * pairs) if pairs > 0 else 0.0
    lowest = -WITHIN / max(1.0, float(sizes.max()) - 1)
    alike = min(max(moment, lowest), WITHIN)
    shrink = alike / (1 + (sizes - 1) * alike)

    means = cluster_sums(X * (n * np.sqrt(v))[:, None], clusters, groups)
    scores = cluster_sums(X * (k - n * p)[:, None], clusters, groups)
    scores -= (shrink * sums)[:, None] * means
    information = -shrink[:, None, None] * means[:, :, None] * means[:, None, :]
    weighted = X * (n * v)[:, None]
    ends = np.cumsum(np.bincount(clusters))
    for g, (start, end) in enumerate(zip(np.append(0, ends), ends, strict=False)):
        information[g] += weighted[start:end].T @ X[start:end]
    return _State(scores / (1 - alike), information / (1 - alike), alike, scale, alike != moment)


def _sandwich(breads: Array, scores: Array) -> Array:
    """Sum over clusters of squares of `bread^-1 score`.

    With the information of the other clusters as bread it is the estimator of Mancl and DeRouen:
    `D' V^-1 (1 - H)^-1 r` of a cluster is `B (B - B_g)^-1` times its score, by Woodbury's formula.
    """
    moves = np.linalg.solve(breads, scores[:, :, None])[:, :, 0]
    found: Array = moves.T @ moves
    return found
