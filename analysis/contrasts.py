"""Contrasts: signed sums of mean rates over queries, with errors from queries and wordings.

Takes groups of trials (cells with their number of trials), each with a sign; gives the sum of
their means, queries counted equally, with an error that allows for queries that differ and, where
there are enough of them, for wordings. Does not know what a group is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from analysis.intervals import Interval, t_interval

__all__ = ["FEWEST_WORDINGS", "Contrast", "Group", "many_wordings", "paired"]

# With fewer wordings than this an error says nothing of others: "these wordings only".
FEWEST_WORDINGS = 5
# Below this all queries agree to the last digit: there is no information on an error.
NOTHING = 1e-12

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Group:
    """Trials whose mean enters a contrast `sign` times; `outcome` names their column."""

    sign: float
    frame: pl.DataFrame
    outcome: str


@dataclass(frozen=True, slots=True)
class Contrast:
    """A signed sum of means; proportions. `means` are those of the groups, `trials` their numbers.

    `std_error`, `df` and `bounds` are None where no query differs from another. `wordings` is
    how many wordings the error allows for, None where it allows for queries alone; `clipped` says
    that the error is that of one side alone, because the two-way one would have been below 0.
    """

    estimate: float
    means: tuple[float, ...]
    trials: tuple[int, ...]
    queries: int
    std_error: float | None = None
    df: float | None = None
    wordings: int | None = None
    clipped: bool = False

    @property
    def bounds(self) -> Interval | None:
        if self.std_error is None or self.df is None:
            return None
        return t_interval(self.estimate, self.std_error, self.df)

    @property
    def method(self) -> str:
        if self.wordings is None:
            return "paired by query, t(Q-1)"
        return "paired by query, two-way query x wording, t(min(Q,W)-1)"

    @property
    def note(self) -> str | None:
        return "two-way error clipped" if self.clipped else None


def paired(groups: Sequence[Group], *, wordings: bool | None = None) -> Contrast | None:
    """The sum of the groups' signed means over the queries that all of them have.

    A query's mean is over its trials, and queries count the same (Miller 2024, arXiv 2411.00640):
    with every query's own sum d_q the error by queries is sd(d_q) / sqrt(Q), t(Q - 1). With
    `wordings` (None: where the trials have five or more) it is that of Cameron, Gelbach and Miller
    (2011), V_q + V_w - V_qw of the summed influences of queries, wordings and their pairs, each
    times G/(G-1), with t(min(Q, W) - 1). None where no query has all groups.
    """
    cells = _cells(groups)
    group, query, wording = (_codes(cells[name]) for name in ("group", "query", "wording"))
    total, n = cells["sum"].to_numpy(), cells["n"].cast(pl.Float64).to_numpy()
    shape = len(groups), int(query.max(initial=-1)) + 1
    trials = np.bincount(group * shape[1] + query, n, shape[0] * shape[1]).reshape(shape)
    common: NDArray[np.bool_] = np.all(trials > 0, axis=0)
    queries = int(common.sum())
    if not queries:
        return None
    kept = common[query]
    group, query, wording, total, n = (a[kept] for a in (group, query, wording, total, n))
    signs = np.array([g.sign for g in groups])
    sums = np.bincount(group * shape[1] + query, total, trials.size).reshape(shape)
    means = (sums[:, common] / trials[:, common]).mean(axis=1)
    found = Contrast(
        float(signs @ means),
        tuple(means.tolist()),
        tuple(int(m) for m in trials[:, common].sum(axis=1)),
        queries,
    )
    # What each cell adds to the estimate beyond its group's mean.
    influence = signs[group] * (total - n * means[group]) / trials[group, query] / queries
    by_query = _clustered(influence, query)
    if queries < 2 or by_query <= NOTHING**2:
        return found
    named = cells["wording"].filter(pl.Series(kept)).drop_nulls()
    number = named.n_unique()
    if wordings is None:
        wordings = len(named) == len(wording) and number >= FEWEST_WORDINGS
    if not wordings or number < 2:
        return replace(found, std_error=by_query**0.5, df=float(queries - 1))
    by_wording = _clustered(influence, wording)
    pairs = query * (int(wording.max()) + 1) + wording
    both = by_query + by_wording - _clustered(influence, pairs)
    clipped = both <= NOTHING**2
    return replace(
        found,
        std_error=(max(by_query, by_wording) if clipped else both) ** 0.5,
        df=float(min(queries, number) - 1),
        wordings=number,
        clipped=clipped,
    )


def many_wordings(frame: pl.DataFrame) -> bool:
    """Whether there are enough wordings for an error that speaks of others."""
    wording = frame["wording"]
    return wording.null_count() == 0 and wording.n_unique() >= FEWEST_WORDINGS


def _cells(groups: Sequence[Group]) -> pl.DataFrame:
    """Group, query, wording, sum and number of the graded trials of each."""
    kinds = {"group": pl.Int64, "query": pl.String, "wording": pl.String}
    frames = [pl.DataFrame(schema=kinds | {"sum": pl.Float64, "n": pl.Int64})]
    for i, group in enumerate(groups):
        y = pl.col(group.outcome)
        own = group.frame.lazy().filter(y.is_not_null())
        frames.append(
            own.select(
                pl.lit(i, pl.Int64).alias("group"), "query", "wording",
                (y * pl.col("n")).alias("sum"), pl.col("n").cast(pl.Int64),
            ).collect()
        )  # fmt: skip
    # In one order, so that not even the last digit depends on that of the rows.
    keys = ["group", "query", "wording"]
    return pl.concat(frames).group_by(keys).agg(pl.col("sum", "n").sum()).sort(keys)


def _codes(column: pl.Series) -> NDArray[np.int64]:
    """Numbers of the values from 0 on; null has one of its own."""
    codes = column.rank("dense").cast(pl.Int64) - 1
    return codes.fill_null(column.n_unique() - 1).to_numpy()


def _clustered(influence: Floats, clusters: NDArray[np.int64]) -> float:
    """Sum of squares of the clusters' sums, times G / (G - 1)."""
    present = np.bincount(clusters) > 0
    sums = np.bincount(clusters, influence)[present]
    return float(sums @ sums) * len(sums) / (len(sums) - 1) if len(sums) > 1 else 0.0
