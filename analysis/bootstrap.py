"""The wild cluster bootstrap: a p-value of a contrast for so few clusters that no t is right.

Takes the design matrix, outcome, cluster numbers and analysis weights of a least-squares fit, row
by row or collapsed to cells; gives a p-value and how many sign changes it rests on. Does not know
what the contrast is about.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray

from analysis.covariance import FEWEST_CLUSTERS, Covariance, clustered, generalized_inverse

__all__ = ["BootstrapError", "WildBootstrap", "refusal", "wild_bootstrap"]

Array = NDArray[np.float64]

LISTED = 12  # clusters up to which all 2^G sign changes are listed
DRAWS = 9999  # sign changes drawn at random above that
# Equal statistics differ by rounding, and each sign change has one opposite that ties with it.
TIE = 1e-9
EXACT_ZERO = 1e-20  # of a square, relative to the scores'
# A residual this small beside the largest outcome is what a perfect fit leaves.
ROUNDING = 1e-12


class BootstrapError(Exception):
    """Too few clusters, or a contrast that the data do not speak of."""


@dataclass(frozen=True, slots=True)
class WildBootstrap:
    """Two-sided p-value of a contrast, its t statistic, and what the p-value rests on.

    `statistic` is studentised by CR1S, and None when the estimate does not vary between clusters.
    `draws` sign changes were compared; `listed` says these were all there are, so that the
    p-value has no Monte-Carlo error and is at least 2 / draws.
    """

    p_value: float
    statistic: float | None
    draws: int
    clusters: int
    listed: bool


def refusal(clusters: int) -> str | None:
    """Why there is no wild bootstrap for a number of clusters; None when there is one."""
    if clusters >= FEWEST_CLUSTERS:
        return None
    smallest = f"{2 / 2**clusters:.4g}".lstrip("0")
    return (
        f"{clusters} clusters have {2**clusters} sign changes, so that the smallest p-value is "
        f"{smallest}: a wild bootstrap needs at least {FEWEST_CLUSTERS}"
    )


def wild_bootstrap(
    X: Array,
    y: Array,
    clusters: NDArray[np.int64],
    weights: Array,
    contrast: ArrayLike,
    *,
    null: float = 0.0,
    counts: Array | None = None,
    rng: Generator | None = None,
) -> WildBootstrap:
    """Restricted wild cluster bootstrap of contrast = null (Cameron, Gelbach and Miller 2008).

    Residuals of the fit under the null are multiplied by one random sign for each cluster
    (Rademacher), and |t| by CR1S is compared with its value at the data; ties count. All 2^G
    signs are listed up to 12 clusters; above, 9999 are drawn from `rng` and the data count as one
    more. Shapes and cells are as in `covariance.clustered`; `contrast` (p,) weighs coefficients.

    BootstrapError: fewer than 6 clusters, more than 12 without `rng`, or a contrast that is not
    estimable. CovarianceError: as `clustered`.
    """
    direction = np.asarray(contrast, dtype=np.float64)
    inverse = generalized_inverse((X * weights[:, None]).T @ X)
    _refuse_inestimable(X, weights, inverse, direction)
    kept = weights > 0
    free = _fitted(X, y, weights, inverse)
    error = clustered(X, y - X @ free, clusters, weights, "CR1S", counts)
    why = refusal(error.clusters)
    if why is not None:
        raise BootstrapError(why)
    lean = inverse @ direction
    bound = free - lean * (float(direction @ free) - null) / float(direction @ lean)
    _, groups = np.unique(clusters[kept], return_inverse=True)
    residuals = _residuals(X[kept], y[kept], bound)
    pull, spread = _shares(X[kept], residuals, groups, weights[kept], inverse, lean)
    signs, listed = _signs(error.clusters, rng)
    extreme = _as_extreme(pull, spread, signs)
    p_value = float(extreme.mean()) if listed else (1 + int(extreme.sum())) / (1 + len(signs))
    statistic = _statistic(float(direction @ free) - null, error, direction, pull, spread)
    return WildBootstrap(p_value, statistic, len(signs), error.clusters, listed)


def _refuse_inestimable(X: Array, weights: Array, inverse: Array, direction: Array) -> None:
    projected = (X * weights[:, None]).T @ (X @ (inverse @ direction))
    if not direction.any() or not np.allclose(projected, direction, atol=1e-6):
        raise BootstrapError("the contrast is 0 or not estimable: the rows of X do not span it")


def _fitted(X: Array, y: Array, weights: Array, inverse: Array) -> Array:
    """Least-squares coefficients; rows of weight 0 may have no outcome."""
    kept = weights > 0
    return np.asarray(inverse @ (X[kept].T @ (weights[kept] * y[kept])), dtype=np.float64)


def _residuals(X: Array, y: Array, coefficients: Array) -> Array:
    fitted = X @ coefficients
    largest = max(float(np.abs(y).max()), float(np.abs(fitted).max()))
    residuals = y - fitted
    return np.where(np.abs(residuals) > ROUNDING * largest, residuals, 0.0)


def _shares(
    X: Array,
    residuals: Array,
    groups: NDArray[np.int64],
    weights: Array,
    inverse: Array,
    lean: Array,
) -> tuple[Array, Array]:
    """What each cluster's sign moves: the estimate (G,), and each cluster's score (G, G).

    With signs v the estimate less the null is `pull @ v`, and the scores are `spread @ v`.
    """
    size = int(groups.max()) + 1
    pulls, gains = np.zeros((size, X.shape[1])), np.zeros((size, X.shape[1]))
    np.add.at(pulls, groups, X * (weights * residuals)[:, None])
    np.add.at(gains, groups, X * (weights * (X @ lean))[:, None])
    pull = pulls @ lean
    return pull, np.diag(pull) - gains @ inverse @ pulls.T


def _signs(clusters: int, rng: Generator | None) -> tuple[Array, bool]:
    """Sign changes (draws, G), the first all +1 when they are listed, and whether they are."""
    if clusters <= LISTED:
        numbers = np.arange(2**clusters)[:, None] >> np.arange(clusters)
        return np.asarray(1.0 - 2.0 * (numbers & 1), dtype=np.float64), True
    if rng is None:
        raise BootstrapError(
            f"{clusters} clusters have too many sign changes to list (more than {LISTED} "
            "clusters): pass a random generator as rng, or rely on the clustered t"
        )
    drawn = 1.0 - 2.0 * rng.integers(0, 2, (DRAWS, clusters))
    return np.asarray(drawn, dtype=np.float64), False


def _as_extreme(pull: Array, spread: Array, signs: Array) -> NDArray[np.bool_]:
    """For which signs |t| is at least that of the data.

    Compared without division: a statistic may have no variance at all, there or in the data.
    """
    tiny = EXACT_ZERO * float(pull @ pull)
    here = np.vstack([np.ones(len(pull)), signs])
    effects, variances = (here @ pull) ** 2, ((here @ spread.T) ** 2).sum(axis=1)
    effects, variances = (np.where(part > tiny, part, 0.0) for part in (effects, variances))
    return np.asarray(effects[1:] * variances[0] >= effects[0] * variances[1:] * (1 - TIE))


def _statistic(
    distance: float, error: Covariance, direction: Array, pull: Array, spread: Array
) -> float | None:
    variance = float(direction @ error.matrix @ direction)
    if float((spread.sum(axis=1) ** 2).sum()) <= EXACT_ZERO * float(pull @ pull):
        return None
    return distance / math.sqrt(variance)
