"""Studies in which taking a feature out changes nothing on average, as cells of binomial counts."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
CHANGE = np.array([0.0, 0.0, 0.0, 1.0])  # of the gap, when the feature is out


@dataclass(frozen=True, slots=True)
class Cells:
    """Four cells a query at most: arm by original or removed, columns as in `y ~ arm * feature`."""

    X: Array
    y: Array
    clusters: NDArray[np.int64]
    counts: Array
    weights: Array


def null_study(
    rng: np.random.Generator,
    queries: int,
    samples: int,
    *,
    heterogeneous: bool,
    deploy_zero: bool = False,
    ragged: bool = False,
) -> Cells:
    """Queries count the same within arm; `ragged` cells have 1 to 2 `samples` - 1 trials.

    When `heterogeneous`, the removal moves each query's train rate up or down by up to its half.
    """
    level = rng.normal(0, 1.0, queries)
    train = 1 / (1 + np.exp(-(level - 0.8)))
    turn = rng.choice([-1.0, 1.0], queries) * rng.uniform(0.2, 0.8, queries) * heterogeneous
    deploy = np.zeros(queries) if deploy_zero else 1 / (1 + np.exp(-(level - 3.0)))
    rates = np.stack([deploy, deploy, train, train + turn * np.minimum(train, 1 - train)], axis=1)
    size = rng.integers(1, 2 * samples, rates.shape) if ragged else np.full(rates.shape, samples)
    y = rng.binomial(size, rates) / size
    row = np.array([[1, 0, 0, 0], [1, 0, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]], dtype=float)
    arm_totals = size.reshape(queries, 2, 2).sum(axis=2).repeat(2, axis=1)
    return Cells(
        np.tile(row, (queries, 1)),
        y.ravel(),
        np.repeat(np.arange(queries), 4),
        size.ravel().astype(float),
        (size / arm_totals).ravel(),
    )
