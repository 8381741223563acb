"""Covariance of a linear fit whose rows come in clusters.

Takes the weighted design matrix, residuals and cluster numbers; gives the matrix and its degrees
of freedom. Does not know what a cluster is or which fit the residuals are from.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["cr1", "generalized_inverse"]

# Eigenvalues of a Gram matrix with unit diagonal that are below this are rounding: exact ones of
# a design of 30 columns come out near 1e-14, and a term seen in one trial of 10^6 has 1e-6.
NEGLIGIBLE = 1e-10


def generalized_inverse(gram: NDArray[np.float64]) -> NDArray[np.float64]:
    """A generalized inverse of X'X, also where terms cannot be told apart.

    Columns are brought to length 1 first, so that a rare term is not taken for a missing one.
    """
    lengths = np.sqrt(np.diag(gram))
    lengths[lengths == 0] = 1.0
    scale = np.outer(lengths, lengths)
    inverse = np.linalg.pinv(gram / scale, rtol=NEGLIGIBLE, hermitian=True) / scale
    return np.asarray(inverse, dtype=np.float64)


def cr1(
    X: NDArray[np.float64],
    residuals: NDArray[np.float64],
    clusters: NDArray[np.int64],
    weights: NDArray[np.float64],
) -> tuple[NDArray[np.float64], int]:
    """Cluster-robust covariance CR1 (Liang and Zeger 1986, times G/(G-1)) and df = G - 1.

    `X` is n x p, the others have length n; `clusters` are numbers from 0. Terms that cannot
    be told apart do not break the others.
    """
    groups = int(clusters.max()) + 1
    bread = generalized_inverse((X * weights[:, None]).T @ X)
    scores = np.zeros((groups, X.shape[1]))
    np.add.at(scores, clusters, X * (weights * residuals)[:, None])
    covariance = bread @ scores.T @ scores @ bread * groups / (groups - 1)
    return covariance, groups - 1
