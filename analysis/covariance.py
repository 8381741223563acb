"""Covariance of a linear fit whose rows come in clusters.

Takes the design matrix, residuals, cluster numbers and analysis weights, row by row or collapsed
to cells of like trials; gives the covariance of the coefficients and the degrees of freedom of a
contrast. Does not know what a cluster is or which fit the residuals are from.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Covariance",
    "CovarianceError",
    "Kind",
    "choice",
    "choose",
    "clustered",
    "cr1",
    "generalized_inverse",
    "satterthwaite",
    "two_way",
]

Array = NDArray[np.float64]
Kind = Literal["CR0", "CR1", "CR1S", "CR2", "CR3"]

# Eigenvalues of a Gram matrix with unit diagonal that are below this are rounding: exact ones of
# a design of 30 columns come out near 1e-14, and a term seen in one trial of 10^6 has 1e-6.
NEGLIGIBLE = 1e-10
SEEN = 0.5  # least share of a contrast's variance that residuals must show for it to be tested
ENOUGH_CLUSTERS = 20  # from here on CR1 with t(G - 1) keeps its size
FEW_CLUSTERS = 10  # up to here all sign changes of a bootstrap can be listed
FEWEST_CLUSTERS = 6  # below, no sign change of a bootstrap has a p-value under .05


class CovarianceError(Exception):
    """Clusters, weights or a contrast for which no covariance can be given."""


@dataclass(frozen=True, slots=True)
class Moments:
    """What CR2's degrees of freedom need of each cluster, in r coordinates in which X'WX = I.

    `root` (p, r) leads from contrasts to these. With A a cluster's adjustment and Z its rows,
    `plain` (G, r, r) is Z'WAZ, `weighted` Z'WAWZ, `square` Z'WAAWZ; `spread` (r, r) is the sum
    of Z'WWZ over all rows.
    """

    root: Array
    plain: Array
    weighted: Array
    square: Array
    spread: Array


@dataclass(frozen=True, slots=True)
class Covariance:
    """Covariance of p coefficients, and what its degrees of freedom rest on.

    `matrix` is p x p; `clusters` counts those with a weight above 0, on the side that has fewer
    when there are two; `clipped` says that eigenvalues below 0 were set to 0 (two-way only).
    """

    matrix: Array
    kind: Kind | Literal["two-way CR1"]
    clusters: int
    clipped: bool = False
    moments: Moments | None = None

    def df(self, contrast: ArrayLike) -> float:
        """Degrees of freedom of Student's t: Satterthwaite's under CR2, else clusters - 1."""
        if self.moments is not None:
            return satterthwaite(self, contrast)
        return float(self.clusters - 1)


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows with a weight: residuals, per-trial weights, trials, and their clusters from 0."""

    X: Array
    residuals: Array
    weights: Array
    counts: Array
    groups: NDArray[np.int64]

    @property
    def clusters(self) -> int:
        return int(self.groups.max()) + 1

    @property
    def trials(self) -> float:
        return float(self.counts.sum())


def generalized_inverse(gram: Array) -> Array:
    """A generalized inverse of X'X, also where terms cannot be told apart.

    Columns are brought to length 1 first, so that a rare term is not taken for a missing one.
    """
    root = _inverse_root(gram)
    return np.asarray(root @ root.T, dtype=np.float64)


def cr1(
    X: Array,
    residuals: Array,
    clusters: NDArray[np.int64],
    weights: Array,
) -> tuple[Array, int]:
    """Cluster-robust covariance CR1 (Liang and Zeger 1986, times G/(G-1)) and df = G - 1.

    `X` is n x p, the others have length n; `clusters` are numbers. Terms that cannot be told
    apart do not break the others.
    """
    found = clustered(X, residuals, clusters, weights, "CR1")
    return found.matrix, found.clusters - 1


def clustered(
    X: Array,
    residuals: Array,
    clusters: NDArray[np.int64],
    weights: Array,
    kind: Kind,
    counts: Array | None = None,
) -> Covariance:
    """Covariance of a least-squares fit of weights `weights` that allows for clusters.

    `X` is (n, p), the others (n,). A row is a trial, or a cell: `counts` trials of one cluster
    that share their row of X and their weight, with the mean of their residuals and the sum of
    their weights. Cells give exactly what their trials would. Rows of weight 0 are left out, and
    so are clusters that have no other rows.

    CR0 is the plain sandwich (Liang and Zeger 1986); CR1 that times G/(G-1); CR1S that times
    (N-1)/(N-K), with N trials and K the rank of X (Stata); CR2 (Bell and McCaffrey 2002;
    Pustejovsky and Tipton 2018) is unbiased when all trials are independent with one variance,
    whatever the weights: the default target of clubSandwich for `lm` with weights; CR3 leaves
    out one cluster at a time, without a factor (G-1)/G. An adjustment that does not exist,
    because a term occurs in one cluster alone, is made with a generalized inverse.

    CovarianceError: fewer than 2 clusters, negative weights, or residuals that are not numbers.
    """
    rows = _with_weight(X, residuals, clusters, weights, counts)
    _refuse_one(rows.clusters, "")
    root = _inverse_root((rows.X * (rows.counts * rows.weights)[:, None]).T @ rows.X)
    if kind == "CR2":
        scores, moments = _bell_mccaffrey(rows, root)
        return Covariance(_sandwich(root, scores), kind, rows.clusters, moments=moments)
    scores = _scores(rows) @ root
    if kind == "CR3":
        scores = _left_out(rows, root, scores)
    factor = _small_sample(kind, rows.clusters, rows.trials, root.shape[1])
    return Covariance(factor * _sandwich(root, scores), kind, rows.clusters)


def two_way(
    X: Array,
    residuals: Array,
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    weights: Array,
) -> Covariance:
    """Covariance with clusters on two sides at once (Cameron, Gelbach and Miller 2011).

    V1 + V2 - V12, where V12 has a cluster for each pair that occurs, each with its own G/(G-1).
    Shapes are as in `clustered`, and cells must not mix pairs. If an eigenvalue of the sum is
    below 0, such are set to 0 and `clipped` says so. Degrees of freedom: the smaller G - 1.

    CovarianceError: as `clustered`, with the side that has one cluster.
    """
    numbers = (first, second, _pairs(first, second))
    sides = [_with_weight(X, residuals, side, weights, None) for side in numbers]
    _refuse_one(sides[0].clusters, " on the first side")
    _refuse_one(sides[1].clusters, " on the second side")
    root = _inverse_root((sides[0].X * sides[0].weights[:, None]).T @ sides[0].X)
    parts = [
        side.clusters / (side.clusters - 1) * _sandwich(root, _scores(side) @ root)
        for side in sides
    ]
    matrix = parts[0] + parts[1] - parts[2]
    values, vectors = np.linalg.eigh(matrix)
    clipped = bool(values.min() < -NEGLIGIBLE * max(np.trace(parts[0] + parts[1]), 0.0))
    if clipped:
        matrix = (vectors * np.maximum(values, 0.0)) @ vectors.T
    fewer = min(sides[0].clusters, sides[1].clusters)
    return Covariance(matrix, "two-way CR1", fewer, clipped)


def satterthwaite(covariance: Covariance, contrast: ArrayLike) -> float:
    """Degrees of freedom of a contrast under CR2 (Bell and McCaffrey 2002), above 0.

    Those of the chi-square with the mean and variance that the variance estimate has when trials
    are independent with one variance. `contrast` (p,) weighs the coefficients. They depend on
    the design alone, and are often well below clusters - 1. The contrast must be estimable.

    CovarianceError: not a CR2 covariance, or a contrast whose variance cannot be estimated.
    """
    moments = covariance.moments
    if moments is None:
        raise CovarianceError(f"{covariance.kind} has no Satterthwaite df: take CR2")
    direction = moments.root.T @ np.asarray(contrast, dtype=np.float64)
    plain = np.swapaxes(moments.plain, 1, 2) @ direction
    cross = plain @ (moments.weighted @ direction).T
    products = plain @ moments.spread @ plain.T - cross - cross.T
    np.fill_diagonal(products, products.diagonal() + (moments.square @ direction) @ direction)
    expected, true = float(np.trace(products)), float(direction @ moments.spread @ direction)
    # CR2 makes these equal where its adjustment exists. A term of one cluster alone leaves no
    # residual there, so that its variance would come from the clusters that do not have it.
    if true <= 0 or expected < SEEN * true:
        raise CovarianceError(
            "the contrast is 0, or most of its variance is that of a term seen in one cluster "
            "alone: there is no variance between clusters; have each level in at least 2"
        )
    return expected**2 / float(np.sum(products**2))


def choose(clusters: int) -> Kind:
    """The kind of clustered error for a number of clusters: CR1 from 20 on, below it CR2."""
    return "CR1" if clusters >= ENOUGH_CLUSTERS else "CR2"


def choice(clusters: int, of: str = "clusters") -> str:
    """Says which error, degrees of freedom and bootstrap go with a number of clusters, and why.

    `of` names what the clusters are, in the plural: "queries".
    """
    if clusters < 2:
        return f"no standard error: {clusters} {of}; at least 2 are needed"
    if choose(clusters) == "CR1":
        return f"standard errors CR1 over {clusters} {of}, t({clusters - 1})"
    said = f"standard errors CR2 with Satterthwaite degrees of freedom: only {clusters} {of}"
    if clusters > FEW_CLUSTERS:
        return said
    if clusters >= FEWEST_CLUSTERS:
        return f"{said}; wild bootstrap p-values over all {2**clusters} sign changes"
    lowest = f"{2 / 2**clusters:.4g}".lstrip("0")
    return f"{said}; no wild bootstrap: with {clusters} its p-value cannot be below {lowest}"


def _with_weight(
    X: Array,
    residuals: Array,
    clusters: NDArray[np.int64],
    weights: Array,
    counts: Array | None,
) -> _Rows:
    """The rows whose weight is above 0, with weights per trial that are 1 in the mean."""
    if not np.all(weights >= 0):
        raise CovarianceError("a weight is negative or missing: weights must be 0 or more")
    kept = weights > 0
    trials = np.ones(int(kept.sum())) if counts is None else counts[kept].astype(np.float64)
    if not np.all(trials > 0):
        raise CovarianceError("a cell has a weight and no trials: its count must be above 0")
    if not np.all(np.isfinite(residuals[kept])):
        raise CovarianceError("a residual is not a number: leave rows without an outcome out")
    if not len(trials):
        raise CovarianceError("no row has a weight above 0")
    total = weights[kept] * (trials.sum() / weights[kept].sum())
    _, groups = np.unique(clusters[kept], return_inverse=True)
    return _Rows(X[kept], residuals[kept], total / trials, trials, groups.astype(np.int64))


def _refuse_one(clusters: int, side: str) -> None:
    if clusters < 2:
        raise CovarianceError(
            f"{clusters} cluster{side}: an error between clusters needs at least 2"
        )


def _pairs(first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    """A number for each pair that occurs."""
    _, one = np.unique(first, return_inverse=True)
    _, two = np.unique(second, return_inverse=True)
    return np.asarray(one * (int(two.max(initial=0)) + 1) + two, dtype=np.int64)


def _inverse_root(gram: Array) -> Array:
    """A (p, r) matrix R with RR' a generalized inverse of `gram`, and R'gram R = I of its rank."""
    lengths = np.sqrt(np.diag(gram))
    lengths[lengths == 0] = 1.0
    values, vectors = np.linalg.eigh(gram / np.outer(lengths, lengths))
    kept = values > NEGLIGIBLE * max(values.max(initial=0.0), 0.0)
    return np.asarray(vectors[:, kept] / np.sqrt(values[kept]) / lengths[:, None])


def _scores(rows: _Rows) -> Array:
    """Sum of weight times residual times row, for each cluster (G, p)."""
    from scipy import sparse  # np.add.at takes ten times as long

    pull = rows.counts * rows.weights * rows.residuals
    entries = (pull, (rows.groups, np.arange(len(pull))))
    shape = (rows.clusters, len(pull))
    return np.asarray(sparse.csr_matrix(entries, shape=shape) @ rows.X, dtype=np.float64)


def _sandwich(root: Array, scores: Array) -> Array:
    """Sum over clusters of the outer product of their (G, r) scores, for the coefficients."""
    half = scores @ root.T
    return np.asarray(half.T @ half, dtype=np.float64)


def _small_sample(kind: Kind, clusters: int, trials: float, rank: int) -> float:
    if kind not in ("CR1", "CR1S"):
        return 1.0
    factor = clusters / (clusters - 1)
    if kind == "CR1":
        return factor
    if trials <= rank:
        raise CovarianceError(
            f"CR1S needs more trials than terms, and there are {trials:g} for {rank}: take CR1"
        )
    return factor * (trials - 1) / (trials - rank)


def _by_cluster(rows: _Rows) -> list[NDArray[np.intp]]:
    """The row numbers of each cluster."""
    order = np.argsort(rows.groups, kind="stable")
    ends = np.cumsum(np.bincount(rows.groups))[:-1]
    return np.split(order, ends)


def _left_out(rows: _Rows, root: Array, scores: Array) -> Array:
    """Scores whose sums give the change of the coefficients when a cluster is left out (G, r)."""
    adjusted = np.empty_like(scores)
    weights = rows.counts * rows.weights
    for g, members in enumerate(_by_cluster(rows)):
        Z = rows.X[members] @ root
        rest = np.eye(Z.shape[1]) - (Z * weights[members, None]).T @ Z
        adjusted[g] = _power(rest, -1.0) @ scores[g]
    return adjusted


def _bell_mccaffrey(rows: _Rows, root: Array) -> tuple[Array, Moments]:
    """CR2's scores (G, r), and the moments its degrees of freedom need.

    A cell of n trials is one coordinate, its mean times sqrt(n): along the others, differences
    of like trials, a fit has no leverage and the adjustment is 1.
    """
    groups, rank = rows.clusters, root.shape[1]
    Z = (rows.X * np.sqrt(rows.counts)[:, None]) @ root
    WZ = Z * rows.weights[:, None]
    spread = WZ.T @ WZ
    means = rows.residuals * np.sqrt(rows.counts)
    scores = np.empty((groups, rank))
    plain, weighted, square = (np.empty((groups, rank, rank)) for _ in range(3))
    for g, members in enumerate(_by_cluster(rows)):
        here = _adjusted(Z[members], WZ[members], spread)
        scores[g] = here.T @ means[members]
        plain[g] = here.T @ Z[members]
        weighted[g] = here.T @ WZ[members]
        square[g] = here.T @ here
    return scores, Moments(root, plain, weighted, square, spread)


def _adjusted(Z: Array, WZ: Array, spread: Array) -> Array:
    """AWZ (n, r) of a cluster, where A is the inverse root of its residuals' covariance.

    That covariance, I - ZZ'W - WZZ' + Z spread Z', differs from I by rank 2r at most; so the
    root is taken there, and a cluster of any number of rows costs no more than n r^2.
    """
    rank = Z.shape[1]
    identity = np.eye(rank)
    middle = np.block([[spread, -identity], [-identity, np.zeros((rank, rank))]])
    basis, triangle = np.linalg.qr(np.hstack([Z, WZ]))
    unit = np.eye(len(triangle))
    change = _power(unit + triangle @ middle @ triangle.T, -0.5) - unit
    return np.asarray(WZ + basis @ (change @ (basis.T @ WZ)), dtype=np.float64)


def _power(matrix: Array, exponent: float) -> Array:
    """A power of a symmetric matrix along the eigenvectors where it is not 0."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    kept = values > NEGLIGIBLE
    return np.asarray((vectors[:, kept] * values[kept] ** exponent) @ vectors[:, kept].T)
