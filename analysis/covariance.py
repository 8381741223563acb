"""Covariance of a linear fit whose rows come in clusters.

Takes the weighted design matrix, residuals and cluster numbers; gives the matrix and its degrees
of freedom. Does not know what a cluster is or which fit the residuals are from.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["cr1"]


def cr1(
    X: NDArray[np.float64],
    residuals: NDArray[np.float64],
    clusters: NDArray[np.int64],
    weights: NDArray[np.float64],
) -> tuple[NDArray[np.float64], int]:
    """Cluster-robust covariance CR1 (Liang and Zeger 1986, times G/(G-1)) and df = G - 1.

    `X` is n x p, the others have length n; `clusters` are numbers from 0. The bread uses the
    pseudo-inverse, so that terms that cannot be told apart do not break the others.
    """
    groups = int(clusters.max()) + 1
    bread = np.linalg.pinv((X * weights[:, None]).T @ X, hermitian=True)
    scores = np.zeros((groups, X.shape[1]))
    np.add.at(scores, clusters, X * (weights * residuals)[:, None])
    covariance = bread @ scores.T @ scores @ bread * groups / (groups - 1)
    return covariance, groups - 1
