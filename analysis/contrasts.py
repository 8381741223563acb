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
    cells = [_cells(group) for group in groups]
    common = set.intersection(*(set(c["query"]) for c in cells)) if cells else set()
    if not common:
        return None
    cells = [c.filter(pl.col("query").is_in(list(common))) for c in cells]
    queries = len(common)
    means = [float(_by_query(c)["mean"].to_numpy().mean()) for c in cells]
    found = Contrast(
        float(sum(g.sign * mean for g, mean in zip(groups, means, strict=True))),
        tuple(means),
        tuple(int(c["n"].sum()) for c in cells),
        queries,
    )
    if queries < 2:
        return found
    influence = pl.concat(
        _influences(c, group.sign, mean, queries)
        for c, group, mean in zip(cells, groups, means, strict=True)
    )
    by_query = _clustered(influence, ["query"])
    if by_query <= NOTHING**2:
        return found
    number = influence["wording"].drop_nulls().n_unique()
    if wordings is None:
        wordings = many_wordings(influence)
    if not wordings or number < 2:
        return replace(found, std_error=by_query**0.5, df=float(queries - 1))
    by_wording = _clustered(influence, ["wording"])
    both = by_query + by_wording - _clustered(influence, ["query", "wording"])
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


def _cells(group: Group) -> pl.DataFrame:
    """Query, wording, mean and number of graded trials."""
    graded = group.frame.filter(pl.col(group.outcome).is_not_null())
    return (
        graded.group_by("query", "wording", maintain_order=True)
        .agg((pl.col(group.outcome) * pl.col("n")).sum().alias("sum"), pl.col("n").sum())
        .with_columns((pl.col("sum") / pl.col("n")).alias("mean"))
        # In one order, so that not even the last digit depends on that of the rows.
        .sort("query", "wording")
    )


def _by_query(cells: pl.DataFrame) -> pl.DataFrame:
    return cells.group_by("query", maintain_order=True).agg(
        (pl.col("sum").sum() / pl.col("n").sum()).alias("mean")
    )


def _influences(cells: pl.DataFrame, sign: float, mean: float, queries: int) -> pl.DataFrame:
    """What each cell adds to the estimate beyond its mean."""
    share = pl.col("n") / pl.col("n").sum().over("query")
    return cells.select(
        "query", "wording", (sign * share * (pl.col("mean") - mean) / queries).alias("z")
    )


def _clustered(influence: pl.DataFrame, by: list[str]) -> float:
    sums = influence.group_by(by, maintain_order=True).agg(pl.col("z").sum())["z"].to_numpy()
    groups = len(sums)
    return float(sums @ sums) * groups / (groups - 1) if groups > 1 else 0.0
