"""Random-intercept logit: clusters that differ in their level, by a normal law.

Takes a design matrix with numbers of successes and trials per row and clusters; gives log-odds
for a cluster in the middle, and the standard deviation between clusters. Does not know what a
cluster is. Log-odds within clusters are larger than marginal ones: never compare the two.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.logit import LogitError, LogitFit, Separated, cluster_sums, expit, logit

__all__ = ["MixedFit", "mixed_logit"]

Array = NDArray[np.float64]

NODES = 15
STEPS = 100
HALVINGS = 30
# The squared error left in an estimate, in units of its variance.
TOLERANCE = 1e-12
# A standard deviation of log-odds from which the search starts, and below which it is taken for 0.
FIRST_SD = 0.5
LEAST_SD = 1e-4


@dataclass(frozen=True, slots=True, eq=False)
class MixedFit:
    """Log-odds `estimates` (p,) within clusters, with their covariance (p, p), and `sd` between.

    Errors are from the observed information of estimates and sd together. At the boundary, `sd` 0,
    it has no error (None) and the estimates are those of a logit; `note` says so.
    """

    estimates: Array
    covariance: Array
    sd: float
    sd_error: float | None
    log_likelihood: float
    clusters: int
    converged: bool
    iterations: int
    note: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """Rows sorted by cluster: `ends` (G,) are the numbers after each cluster's last row."""

    X: Array
    k: Array
    n: Array
    clusters: NDArray[np.intp]
    ends: NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class _Point:
    """The likelihood with its score and information in (estimates, sd), and the clusters' modes."""

    value: float
    score: Array
    information: Array
    modes: Array


def mixed_logit(
    X: Array,
    successes: Array,
    counts: Array,
    clusters: NDArray[np.int64],
    names: Sequence[str] = (),
) -> MixedFit | Separated:
    """Maximum likelihood by adaptive Gauss-Hermite quadrature, 15 nodes (Pinheiro and Bates 1995).

    The same model as `glmer(cbind(k, n - k) ~ X + (1 | cluster), binomial, nAGQ = 15)` in R.
    Separated where a logit is, and LogitError as there and for a single cluster.
    """
    start = logit(X, successes, counts, names)
    if isinstance(start, Separated):
        return start
    used = np.flatnonzero(counts > 0)
    used = used[np.argsort(clusters[used], kind="stable")]
    numbers = np.unique(clusters[used], return_inverse=True)[1]
    if numbers[-1] < 1:
        raise LogitError("1 cluster: a law of clusters needs 2 or more")
    ends = np.cumsum(np.bincount(numbers))
    rows = _Rows(X[used], successes[used], counts[used], numbers, ends)
    if not _spread(rows, start):
        note = "boundary: clusters differ no more than chance makes them"
        return MixedFit(
            start.estimates,
            start.covariance,
            0.0,
            None,
            start.log_likelihood,
            len(ends),
            start.converged,
            start.iterations,
            note,
        )
    return _newton(rows, start)


def _spread(rows: _Rows, start: LogitFit) -> bool:
    """Whether the likelihood rises with the variance from 0, at the estimates of the logit."""
    p = expit(rows.X @ start.estimates)
    residuals = np.bincount(rows.clusters, rows.k - rows.n * p)
    return bool(np.sum(residuals**2) > np.sum(rows.n * p * (1 - p)))


def _newton(rows: _Rows, start: LogitFit) -> MixedFit:
    """Newton's steps over estimates and sd, halved where the likelihood would fall."""
    theta = np.append(start.estimates, FIRST_SD)
    point = _likelihood(rows, theta, np.zeros(len(rows.ends)))
    converged, taken = False, 0
    while taken < STEPS and not converged:
        taken += 1
        move = _uphill(point)
        converged = bool(move @ point.score < TOLERANCE)
        for _ in range(HALVINGS):
            tried = theta + move
            raised = _likelihood(rows, tried, point.modes)
            if converged or raised.value >= point.value - 1e-12 * abs(point.value):
                break
            move = move / 2
        theta, point = tried, raised
    sd = abs(float(theta[-1]))
    notes = [] if converged else [f"no convergence in {taken} steps"]
    try:
        covariance = np.asarray(np.linalg.inv(point.information), dtype=np.float64)
    except np.linalg.LinAlgError:
        covariance = np.full((len(theta), len(theta)), np.nan)
    variance = float(covariance[-1, -1])
    if sd < LEAST_SD:
        notes.append("boundary: clusters differ no more than chance makes them")
    return MixedFit(
        theta[:-1],
        covariance[:-1, :-1],
        sd,
        variance**0.5 if variance > 0 and sd >= LEAST_SD else None,
        point.value,
        len(rows.ends),
        converged,
        taken,
        "; ".join(notes),
    )


def _uphill(point: _Point) -> Array:
    """Newton's step, with curvatures of the wrong sign turned round."""
    scale = np.sqrt(np.maximum(np.abs(np.diag(point.information)), 1e-12))
    values, vectors = np.linalg.eigh(point.information / np.outer(scale, scale))
    values = np.maximum(np.abs(values), 1e-8)
    move: Array = (vectors @ ((vectors.T @ (point.score / scale)) / values)) / scale
    return np.asarray(move * min(1.0, 3.0 / float(np.max(np.abs(move)))))


def _likelihood(rows: _Rows, theta: Array, modes: Array) -> _Point:
    """The likelihood with log-odds `x b + sd u`, u standard normal in each cluster.

    Score and information of a cluster are means over its posterior of those given u, the latter
    less the spread of the scores (Louis 1982).
    """
    X, k, n = rows.X, rows.k, rows.n
    b, sd = theta[:-1], float(theta[-1])
    fixed = X @ b
    modes, curvature = _modes(rows, fixed, sd, modes)
    points, weights = np.polynomial.hermite_e.hermegauss(NODES)
    u = modes[:, None] + points / np.sqrt(curvature)[:, None]
    eta = fixed[:, None] + sd * u[rows.clusters]
    p = expit(eta)
    groups = len(rows.ends)
    terms = k[:, None] * eta - n[:, None] * np.logaddexp(0.0, eta)
    logs = cluster_sums(terms, rows.clusters, groups) - 0.5 * u**2
    logs += np.log(weights) + 0.5 * points**2
    top = logs.max(axis=1, keepdims=True)
    shares = np.exp(logs - top)
    totals = shares.sum(axis=1, keepdims=True)
    shares = shares / totals
    value = np.log(totals[:, 0]) + top[:, 0] - 0.5 * np.log(2 * np.pi * curvature)

    residuals = k[:, None] - n[:, None] * p
    spreads = n[:, None] * p * (1 - p)
    posterior = shares[rows.clusters]
    of_node = u[rows.clusters]
    bent = X * (posterior * spreads).sum(axis=1)[:, None]
    cross = X.T @ (posterior * spreads * of_node).sum(axis=1)
    width = len(theta)
    information = np.empty((width, width))
    information[:-1, :-1] = bent.T @ X
    information[:-1, -1] = information[-1, :-1] = cross
    information[-1, -1] = (posterior * spreads * of_node**2).sum()
    score = np.zeros(width)
    sums = cluster_sums(residuals, rows.clusters, groups) * u
    begin = 0
    for g, end in enumerate(rows.ends):
        scores = np.vstack([X[begin:end].T @ residuals[begin:end], sums[g]])
        mean = scores @ shares[g]
        score += mean
        information -= (scores * shares[g]) @ scores.T - np.outer(mean, mean)
        begin = end
    return _Point(float(value.sum()), score, information, modes)


def _modes(rows: _Rows, fixed: Array, sd: float, modes: Array) -> tuple[Array, Array]:
    """The likeliest u of every cluster, and the curvature of its log-density there."""
    for _ in range(STEPS):
        p = expit(fixed + sd * modes[rows.clusters])
        slope = sd * np.bincount(rows.clusters, rows.k - rows.n * p) - modes
        weights = np.bincount(rows.clusters, rows.n * p * (1 - p)).astype(np.float64)
        curvature = sd * sd * weights + 1.0
        moves = np.clip(slope / curvature, -2.0, 2.0)
        modes = modes + moves
        if np.max(np.abs(moves)) < 1e-9:
            break
    return modes, curvature
