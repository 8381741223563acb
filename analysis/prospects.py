"""Prospects: how likely further trials, or further queries, are to decide a claim.

Takes the observations of one model and a claim with the p-values that it must come below; gives
the smallest block of trials that decides it with a stated probability. The probability is over
what the present data leave open, not at the present estimate alone.
Does not know what a model is or how trials are made.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from analysis.claims import SENSITIVITY, Claim, Readings, TReading, p_values
from analysis.covariance import generalized_inverse
from analysis.effects import averaged_contrasts
from analysis.gaps import changed_of, original_of
from analysis.intervals import t_quantile
from analysis.observations import Observations, Term
from analysis.regressions import design_matrix, equal_query_weights

__all__ = [
    "CELLS",
    "MOST_TIMES",
    "TARGET",
    "Averaged",
    "Block",
    "Draws",
    "Prospect",
    "Simple",
    "baseline_settled",
    "claim_decided",
    "draw",
    "more_queries",
    "more_trials",
    "probability",
]

# The probability of a verdict that a block of trials must reach.
TARGET = 0.8
DRAWS = 4000
CELLS = (("original", "train"), ("original", "deploy"), ("changed", "train"), ("changed", "deploy"))
# Fewer deploy than train trials, but never less than 30 of 100 in either arm.
LEAST_RATIO = 3 / 7
MOST_PER_QUERY = 10_000
MOST_TIMES = 100

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Block:
    """What is added: `per_query` trials in each of CELLS, a share of the design, or queries.

    Further queries come with as many trials each as the present ones have.
    """

    per_query: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    times: float = 0.0
    queries: int = 0


@dataclass(frozen=True, slots=True)
class Draws:
    """What is not known, drawn once: normal moves of three estimates, and factors of variances.

    The same draws serve every size of block, so that sizes are compared without their noise.
    """

    moves: Floats
    scales: Floats


def draw(rng: np.random.Generator, queries: int, size: int = DRAWS) -> Draws:
    """Draws for a variance that has been seen in so many queries."""
    df = queries - 1
    return Draws(rng.standard_normal((3, size)), df / rng.chisquare(df, (3, size)))


@dataclass(frozen=True, slots=True)
class Future:
    """The readings after a block, one for each draw."""

    before: TReading
    effect: TReading
    after: TReading | None


class Known(Protocol):
    """What the present data say about a change."""

    def future(self, block: Block, draws: Draws) -> Future:
        """Readings that may come out after the block."""


@dataclass(frozen=True, slots=True)
class Simple:
    """The original and one change, on the queries that both were seen with.

    `trials` is 4 x Q, in the order of CELLS; `within` the variance of an outcome within a query in
    each cell; `gaps` is 2 x Q: each query's gap before and after.
    """

    trials: Floats
    within: Floats
    gaps: Floats

    @classmethod
    def of(cls, observations: Observations, term: Term, outcome: str) -> "Simple | None":
        """The cells of a change; None with fewer than two queries in all four."""
        return cls._of_frames(original_of(observations), changed_of(observations, term), outcome)

    @classmethod
    def baseline(cls, observations: Observations, outcome: str) -> "Simple | None":
        """The original beside itself, for what asks for its gap alone."""
        original = original_of(observations)
        return cls._of_frames(original, original, outcome)

    @classmethod
    def _of_frames(
        cls, original: pl.DataFrame, changed: pl.DataFrame, outcome: str
    ) -> "Simple | None":
        frames = {"original": original, "changed": changed}
        cells = [_by_query(frames[name], outcome, arm) for name, arm in CELLS]
        common = set.intersection(*(set(cell["query"]) for cell in cells))
        if len(common) < 2:
            return None
        cells = [cell.filter(pl.col("query").is_in(list(common))).sort("query") for cell in cells]
        means = [cell["mean"].to_numpy() for cell in cells]
        return cls(
            np.array([cell["n"].to_numpy() for cell in cells], dtype=np.float64),
            np.array([_within(cell) for cell in cells]),
            np.array([means[0] - means[1], means[2] - means[3]]),
        )

    @property
    def queries(self) -> int:
        return int(self.trials.shape[1])

    def error(self, added: Sequence[float] = (0.0, 0.0, 0.0, 0.0)) -> Floats:
        """Variance of a query's gap before and after that is due to trials."""
        cells = self.within * np.mean(1 / (self.trials + np.array(added)[:, None]), axis=1)
        return np.array([cells[0] + cells[1], cells[2] + cells[3]])

    def future(self, block: Block, draws: Draws) -> Future:
        now, then = self.error(), self.error(block.per_query)
        queries = self.queries + block.queries
        now3, then3 = np.append(now, now.sum()), np.append(then, then.sum())
        effect = self.gaps[1] - self.gaps[0]
        seen = np.var([*self.gaps, effect], axis=1, ddof=1)
        between = np.maximum(seen[:, None] * draws.scales - now3[:, None], 0.0)
        errors = np.sqrt((between + then3[:, None]) / queries)
        # The mean of all trials, given that of the present ones, moves by what its variance loses.
        moves = np.diag((now - then) / self.queries)
        if block.queries:
            spread = np.cov(self.gaps)
            spread += np.diag(np.maximum(now - np.diag(spread), 0.0))
            moves = moves + spread * (1 / self.queries - 1 / queries)
        moved = self.gaps.mean(axis=1)[:, None] + _root(moves) @ draws.moves[:2]
        df = float(queries - 1)
        return Future(
            TReading(moved[0], errors[0], df),
            TReading(moved[1] - moved[0], errors[2], df),
            TReading(moved[1], errors[1], df),
        )


@dataclass(frozen=True, slots=True)
class Part:
    """An estimate, its variance, and what of the variance is due to trials."""

    estimate: float
    variance: float
    within: float


@dataclass(frozen=True, slots=True)
class Averaged:
    """An averaged effect beside the baseline gap, both from the design's own trials."""

    before: Part
    effect: Part
    queries: int

    @classmethod
    def of(
        cls,
        observations: Observations,
        term: Term,
        outcome: str,
        *,
        before: tuple[float, float],
        effect: tuple[float, float],
    ) -> "Averaged":
        """The parts of an effect; `before` and `effect` are estimates with their errors."""
        frame = observations.frame.filter(
            pl.col("weight").is_not_null(), pl.col(outcome).is_not_null()
        )
        terms = observations.terms
        parts = list(averaged_contrasts(frame, terms, frozenset()))[terms.index(term)]
        X, w = design_matrix(frame, terms), equal_query_weights(frame)
        inverse = generalized_inverse((X * w[:, None]).T @ X)
        a = (X * w[:, None]) @ (inverse @ parts.gap)
        within = float(np.sum(a * a * _trial_variances(frame, outcome)))
        original = original_of(observations)
        cells = [_by_query(original, outcome, arm) for arm in ("train", "deploy")]
        common = set(cells[0]["query"]) & set(cells[1]["query"])
        noise = sum(
            _within(cell) * float((1 / cell["n"].to_numpy()).mean()) / len(common) for cell in cells
        )
        return cls(
            Part(before[0], before[1] ** 2, noise),
            Part(effect[0], effect[1] ** 2, within),
            frame["query"].n_unique(),
        )

    def future(self, block: Block, draws: Draws) -> Future:
        queries = self.queries + block.queries
        readings = []
        for part, move, scale in zip(
            (self.before, self.effect), draws.moves, draws.scales, strict=False
        ):
            then = part.within / (1 + block.times)
            between = np.maximum(part.variance * scale - part.within, 0.0)
            lost = part.within - then + part.variance * (1 - self.queries / queries)
            readings.append(
                TReading(
                    part.estimate + np.sqrt(lost) * move,
                    np.sqrt((between + then) * self.queries / queries),
                    float(queries - 1),
                )
            )
        return Future(readings[0], readings[1], None)


@dataclass(frozen=True, slots=True)
class Prospect:
    """A block and the probability that it brings a verdict; `cost` in the unit of the prices."""

    block: Block
    probability: float
    cost: float


Decided = Callable[[Future], NDArray[np.bool_]]


def claim_decided(claim: Claim, margin: float, support: float, refute: float) -> Decided:
    """Whether a claim gets a verdict; `support` and `refute` are the p-values to come below.

    A claim is judged only while there is a gap to explain.
    """

    def decided(future: Future) -> NDArray[np.bool_]:
        for_it, against = p_values(claim, Readings(future.effect, future.after), margin)
        judged = _bound(future.before, -1) > SENSITIVITY * margin
        return np.asarray(judged & ((for_it < support) | (against < refute)))

    return decided


def baseline_settled(margin: float) -> Decided:
    """Whether the baseline gap is known to lie on one side of what a claim takes to be judged."""

    def decided(future: Future) -> NDArray[np.bool_]:
        needed = SENSITIVITY * margin
        low, high = _bound(future.before, -1), _bound(future.before, 1)
        return np.asarray((low > needed) | (high < needed))

    return decided


def probability(known: Known, block: Block, decided: Decided, draws: Draws) -> float:
    """Share of the draws in which the block decides."""
    return float(decided(known.future(block, draws)).mean())


def more_trials(
    known: Simple | Averaged,
    decided: Decided,
    draws: Draws,
    *,
    prices: Sequence[float],
    cells: Sequence[int] = (0, 1, 2, 3),
    target: float = TARGET,
) -> Prospect | None:
    """The cheapest block on the present queries that decides with probability `target`.

    `prices` are those of one trial of every query in each of CELLS, for an averaged effect that
    of the whole design once more. Trials go to `cells` in proportion to sqrt(variance / price),
    what is there already counted. None when no number of trials suffices.
    """
    if isinstance(known, Averaged):
        return _smallest(
            lambda size: Block(times=round(size, 3)),
            lambda block: probability(known, block, decided, draws),
            lambda block: block.times * prices[0],
            start=0.01,
            most=MOST_PER_QUERY,
            target=target,
        )
    price = np.array(prices, dtype=np.float64)
    weights = np.sqrt(known.within / price)
    for one, other in ((0, 1), (2, 3)):
        most = LEAST_RATIO * max(weights[one], weights[other])
        weights[[one, other]] = np.maximum(weights[[one, other]], most)
    there = known.trials.mean(axis=1)
    found = []
    for chosen in dict.fromkeys([tuple(cells), (2, 3) if 2 in cells else tuple(cells)]):
        used = np.isin(np.arange(len(CELLS)), chosen)

        def block_of(size: float, used: NDArray[np.bool_] = used) -> Block:
            added = np.where(used, np.ceil(np.maximum(size * weights - there, 0.0)), 0.0)
            return Block(per_query=tuple(added.tolist()))

        prospect = _smallest(
            block_of,
            lambda block: probability(known, block, decided, draws),
            lambda block: float(np.dot(block.per_query, price)),
            start=float((there[used] / weights[used]).min()) * 1.001,
            most=MOST_PER_QUERY / float(weights.max()),
            target=target,
        )
        if prospect is not None:
            found.append(prospect)
    return min(found, key=lambda prospect: prospect.cost, default=None)


def more_queries(
    known: Simple | Averaged,
    decided: Decided,
    draws: Draws,
    *,
    price: float,
    target: float = TARGET,
) -> Prospect | None:
    """The fewest further queries, each at `price`, that decide with probability `target`.

    None when a hundred times the present ones do not suffice.
    """
    return _smallest(
        lambda size: Block(queries=int(np.ceil(size))),
        lambda block: probability(known, block, decided, draws),
        lambda block: block.queries * price,
        start=1.0,
        most=MOST_TIMES * known.queries,
        target=target,
    )


def _smallest(
    block_of: Callable[[float], Block],
    chance: Callable[[Block], float],
    cost: Callable[[Block], float],
    *,
    start: float,
    most: float,
    target: float,
) -> Prospect | None:
    """The block of the least size whose chance reaches the target: doubled, then halved in."""
    low, high = 0.0, start
    # What the largest block does not reach, a smaller one reaches by luck of the draws at most.
    if chance(block_of(most)) < target:
        return None
    while chance(block_of(high)) < target:
        low, high = high, min(2 * high, most)
    while block_of(low) != block_of(high) and high - low > 1e-4 * high:
        middle = (low + high) / 2
        if block_of(middle) in (block_of(low), block_of(high)):
            low, high = (middle, high) if block_of(middle) == block_of(low) else (low, middle)
        elif chance(block_of(middle)) < target:
            low = middle
        else:
            high = middle
    block = block_of(high)
    return Prospect(block, chance(block), cost(block))


def _bound(reading: TReading, side: int) -> Floats:
    reach = t_quantile(0.975, float(reading.df)) * reading.std_error
    return np.asarray(reading.estimate + side * reach)


def _by_query(frame: pl.DataFrame, outcome: str, arm: str) -> pl.DataFrame:
    """`query, n, mean, squares` of an arm; squares about the query's own mean."""
    return (
        frame.filter(pl.col("arm") == arm, pl.col(outcome).is_not_null())
        .group_by("query")
        .agg(
            pl.len().alias("n"),
            pl.col(outcome).mean().alias("mean"),
            ((pl.col(outcome) - pl.col(outcome).mean()) ** 2).sum().alias("squares"),
        )
    )


def _within(cell: pl.DataFrame) -> float:
    """Variance of an outcome within a query.

    Where no query has two different answers it is that of a rate half a success from the border.
    """
    trials = int(cell["n"].sum())
    free = trials - cell.height
    squares = float(cell["squares"].sum())
    if free and squares > 0:
        return squares / free
    rate = (float((cell["n"] * cell["mean"]).sum()) + 0.5) / (trials + 1)
    return rate * (1 - rate)


def _trial_variances(frame: pl.DataFrame, outcome: str) -> Floats:
    """Variance of each trial given its query: that of its condition and arm, less what queries add.

    By how much queries add is seen where a query has several trials in one condition and arm.
    """
    cell = ["condition", "arm"]
    mean = pl.col(outcome).mean()
    around = frame.with_columns(
        ((mean * (1 - mean)).over(cell)).alias("spread"),
        pl.len().over(*cell, "query").alias("repeats"),
        ((pl.col(outcome) - mean.over(*cell, "query")) ** 2).alias("square"),
    )
    repeated = around.filter(pl.col("repeats") > 1)
    free = repeated.height - repeated.select(*cell, "query").n_unique()
    expected = float((repeated["spread"] * (1 - 1 / repeated["repeats"])).sum())
    share = float(repeated["square"].sum()) / expected if free and expected > 0 else 1.0
    return np.asarray(around["spread"].to_numpy() * min(share, 1.0))


def _root(covariance: Floats) -> Floats:
    """A matrix whose product with its transpose is the covariance, which may be singular."""
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0)))
