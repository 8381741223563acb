"""Power: how small a gap effect a plan can detect, before anything is paid.

Takes the planned trials, without outcomes, and a prior; gives the detectable size of every
effect under the estimator that will be used. Does not know prices.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

from analysis.covariance import generalized_inverse
from analysis.effects import AVERAGED, SIMPLE, averaged_contrasts
from analysis.gaps import changed_of, original_of, structural_zeros
from analysis.intervals import t_quantile
from analysis.observations import Observations, Term
from analysis.regressions import design_matrix, equal_query_weights, estimable, queries_at

__all__ = ["Detectable", "Prior", "detectable"]

POWER = 0.8


@dataclass(frozen=True, slots=True)
class Prior:
    """Expected rates in the two arms, and how much a contrast differs between queries (SD)."""

    train: float = 0.13
    deploy: float = 0.01
    tau: float = 0.1


@dataclass(frozen=True, slots=True)
class Detectable:
    """The smallest true effect found with 80 % power in a two-sided test at 5 %; proportions.

    `alike` holds when queries respond alike, `size` when they differ as the prior says; both are
    None when the plan cannot estimate the effect. `trials_for(target)` scales the plan. `term` is
    None for the baseline gap.
    """

    estimand: str
    term: Term | None
    trials: int
    queries: int
    within: float | None
    tau: float

    @property
    def alike(self) -> float | None:
        return None if self.within is None else self._reach() * self.within**0.5

    @property
    def size(self) -> float | None:
        if self.within is None:
            return None
        return float(self._reach() * (self.within + self.tau**2 / self.queries) ** 0.5)

    def trials_for(self, target: float) -> int | None:
        """Trials of this design that make `size` the target; None when more queries are needed."""
        if self.within is None:
            return None
        room = (target / self._reach()) ** 2 - self.tau**2 / self.queries
        if room <= 0:
            return None
        return int(np.ceil(self.trials * self.within / room))

    def _reach(self) -> float:
        df = self.queries - 1
        return t_quantile(0.975, df) + t_quantile(POWER, df)


def detectable(observations: Observations, prior: Prior) -> tuple[Detectable, ...]:
    """Detectable size of the baseline gap and of every simple and averaged effect.

    `Var = sum a_i^2 v_i + tau^2 / Q` with the weights a_i that the estimator gives to the trials
    and v_i = p(1-p) of their arm, as if no change had an effect: a cautious value, because
    changes that lower the gap lower the variance too. Structural zeros are left out.
    """
    return (
        _baseline(observations, prior),
        *_simple(observations, prior),
        *_averaged(observations, prior),
    )


def _variances(prior: Prior) -> dict[str, float]:
    return {arm: p * (1 - p) for arm, p in (("train", prior.train), ("deploy", prior.deploy))}


def _per_query(frame: pl.DataFrame, prior: Prior) -> dict[str, float]:
    """Sampling variance of each query's gap, for the queries with trials in both arms."""
    found: dict[str, float] = {}
    if frame.is_empty():
        return found
    counts = frame.group_by("query", "arm").len().pivot("arm", index="query", values="len")
    if not {"train", "deploy"} <= set(counts.columns):
        return found
    v = _variances(prior)
    for row in counts.drop_nulls().iter_rows(named=True):
        found[row["query"]] = v["train"] / row["train"] + v["deploy"] / row["deploy"]
    return found


def _baseline(observations: Observations, prior: Prior) -> Detectable:
    cells = _per_query(original_of(observations), prior)
    within = sum(cells.values()) / len(cells) ** 2 if len(cells) > 1 else None
    trials = observations.frame.height
    return Detectable("gap", None, trials, len(cells), within, prior.tau)


def _simple(observations: Observations, prior: Prior) -> Iterator[Detectable]:
    zeros = structural_zeros(observations.frame)
    before = _per_query(original_of(observations), prior)
    for term in observations.terms:
        changed = changed_of(observations, term)
        if set(changed["condition"].unique()) & zeros:
            continue
        after = _per_query(changed, prior)
        common = before.keys() & after.keys()
        within = None
        if len(common) > 1:
            within = sum(before[q] + after[q] for q in common) / len(common) ** 2
        trials = observations.frame.height
        yield Detectable(SIMPLE, term, trials, len(common), within, prior.tau)


def _averaged(observations: Observations, prior: Prior) -> Iterator[Detectable]:
    frame = observations.frame.filter(pl.col("weight").is_not_null())
    if frame.is_empty():
        return
    zeros = structural_zeros(frame)
    X = design_matrix(frame, observations.terms)
    w = equal_query_weights(frame)
    inverse = generalized_inverse((X * w[:, None]).T @ X)
    v = np.array([_variances(prior)[arm] for arm in frame["arm"]])
    queries = frame["query"].n_unique()
    contrasts = averaged_contrasts(frame, observations.terms, zeros)
    for term, parts in zip(observations.terms, contrasts, strict=True):
        if parts.structural_zero:
            continue
        within = None
        if queries_at(frame, term) > 1 and estimable(X, parts.gap):
            a = (X * w[:, None]) @ (inverse @ parts.gap)
            within = float(np.sum(a * a * v))
        yield Detectable(AVERAGED, term, frame.height, queries, within, prior.tau)
