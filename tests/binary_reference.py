"""Data sets and stored references of the binary regressions."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

REFERENCE = Path(__file__).parent / "reference"
NAMES = (
    "balanced one_at_a_time separated heterogeneous crossed unbalanced six_clusters fraction"
).split()
OVERLAPPING = [name for name in NAMES if name != "separated"]


@dataclass(frozen=True, slots=True, eq=False)
class Trials:
    """Outcomes y (n,) at rows of X (n, p): intercept, levels, train, train x levels."""

    X: NDArray[np.float64]
    y: NDArray[np.float64]
    query: NDArray[np.int64]
    frame: pl.DataFrame
    factors: tuple[str, ...]

    def cells(self) -> tuple[Any, ...]:
        """X, successes, counts and query of trials added up by row and query."""
        both = np.column_stack([self.X, self.query])
        kinds, inverse = np.unique(both, axis=0, return_inverse=True)
        inverse = inverse.ravel()
        successes = np.bincount(inverse, self.y)
        counts = np.bincount(inverse).astype(float)
        return kinds[:, :-1], successes, counts, kinds[:, -1].astype(np.int64)


def design(frame: pl.DataFrame, factors: tuple[str, ...], levels: dict[str, list[str]]) -> Any:
    """Intercept, levels but `original`, train, and train times each."""
    columns = [np.ones(frame.height)]
    for factor in factors:
        for level in levels[factor]:
            columns.append((frame[factor] == level).cast(pl.Float64).to_numpy())
    train = (frame["arm"] == "train").cast(pl.Float64).to_numpy()
    return np.column_stack(columns + [column * train for column in columns])


def levels_of(frame: pl.DataFrame, factors: tuple[str, ...]) -> dict[str, list[str]]:
    return {f: sorted(set(frame[f]) - {"original"}) for f in factors}


@cache
def trials(name: str) -> Trials:
    """One of the data sets in reference/data, without missing outcomes."""
    frame = pl.read_csv(REFERENCE / "data" / f"{name}.csv").drop_nulls("y")
    factors = tuple(c for c in frame.columns if c not in ("query", "wording", "arm", "y"))
    X = design(frame, factors, levels_of(frame, factors))
    query = (frame["query"].rank("dense") - 1).cast(pl.Int64).to_numpy()
    return Trials(X, frame["y"].cast(pl.Float64).to_numpy(), query, frame, factors)


@cache
def stored(topic: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((REFERENCE / f"{topic}.json").read_text())
    return found
