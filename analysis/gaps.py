"""Compliance gaps: how much more often an outcome occurs in the train arm than in deploy.

Takes observations; gives one row per condition with both rates, the gap paired by query, and an
interval that holds when an arm is at 0. Does not know contrasts between conditions.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from analysis.contrasts import Group, paired
from analysis.intervals import newcombe
from analysis.observations import Observations, Term, at_reference

__all__ = [
    "GAPS",
    "Gap",
    "changed_of",
    "gap_groups",
    "gap_of",
    "gaps",
    "original_of",
    "query_rates",
    "structural_zeros",
]

CONTRAST = "train-deploy"
LISTED_QUERIES = 10

# The columns of gaps.csv; the factor columns stand after condition_id.
GAPS: dict[str, Any] = {
    "model": pl.String,
    "condition": pl.String,
    "condition_id": pl.String,
    "outcome": pl.String,
    "contrast": pl.String,
    "n_train": pl.Int64,
    "n_deploy": pl.Int64,
    "rate_train": pl.Float64,
    "rate_deploy": pl.Float64,
    "gap": pl.Float64,
    "std_error": pl.Float64,
    "conf_low": pl.Float64,
    "conf_high": pl.Float64,
    "n_queries": pl.Int64,
    "method": pl.String,
    "note": pl.String,
}


@dataclass(frozen=True, slots=True)
class Gap:
    """Rates and gap as proportions over the queries seen in both arms; None where unknown."""

    n_train: int
    n_deploy: int
    rate_train: float | None
    rate_deploy: float | None
    gap: float | None
    std_error: float | None
    low: float | None
    high: float | None
    n_queries: int
    method: str
    note: str | None


def query_rates(frame: pl.DataFrame, outcome: str) -> pl.DataFrame:
    """Mean and number of graded trials per query and arm: `query, train, deploy, n_*`.

    Only queries with graded trials in both arms.
    """
    graded = frame.filter(pl.col(outcome).is_not_null())
    arms = [
        graded.filter(pl.col("arm") == arm)
        .group_by("query")
        .agg(
            ((pl.col(outcome) * pl.col("n")).sum() / pl.col("n").sum()).alias(arm),
            pl.col("n").sum().alias(f"n_{arm}"),
        )
        for arm in ("train", "deploy")
    ]
    return arms[0].join(arms[1], on="query").sort("query")


def gap_groups(frame: pl.DataFrame, outcome: str, sign: float = 1.0) -> list[Group]:
    """The two groups whose signed means make the gap of some trials."""
    return [
        Group(sign if arm == "train" else -sign, frame.filter(pl.col("arm") == arm), outcome)
        for arm in ("train", "deploy")
    ]


def gap_of(frame: pl.DataFrame, outcome: str) -> Gap:
    """The gap of one condition's trials, queries counted equally, paired by query.

    `gap = mean(d_q)`, `se = sd(d_q) / sqrt(Q)`, Student's t with Q - 1 (Miller 2024,
    arXiv 2411.00640); with five wordings or more two-way (see `contrasts.paired`). Where no query
    differs from another there is no such error: the interval is then Newcombe's on the rates and
    the trials that they are worth, and the error None.
    """
    found = paired(gap_groups(frame, outcome))
    if found is None:
        return Gap(0, 0, None, None, None, None, None, None, 0, "none", "no query in both arms")
    (rate1, rate0), (n1, n0), queries = found.means, found.trials, found.queries
    if found.bounds is not None:
        return Gap(
            n1, n0, rate1, rate0, found.estimate, found.std_error, found.bounds.low,
            found.bounds.high, queries, found.method, found.note,
        )  # fmt: skip
    rates = query_rates(frame, outcome)
    worth1, worth0 = _worth(rates["n_train"]), _worth(rates["n_deploy"])
    bounds = newcombe(rate1 * worth1, worth1, rate0 * worth0, worth0)
    note = "one query" if queries == 1 else "boundary"
    return Gap(
        n1, n0, rate1, rate0, found.estimate, None, bounds.low, bounds.high, queries,
        "newcombe, pooled", note,
    )  # fmt: skip


def gaps(
    observations: Observations,
    outcome: str,
    labels: Mapping[int, tuple[str, str | None]],
    zeros: frozenset[int] | None = None,
) -> list[dict[str, Any]]:
    """Rows of gaps.csv for one model: the original, single changes, and well observed conditions.

    `labels` maps a condition number to its label and condition_id; `zeros` are the structural
    ones, found from the prompts where None.
    """
    frame, levels = observations.frame, observations.levels
    zeros = structural_zeros(frame) if zeros is None else zeros

    def changes(condition: Mapping[str, Any]) -> int:
        return sum(condition[f] not in (levels[f][0], None) for f in levels)

    conditions = frame.unique("condition").sort("condition").iter_rows(named=True)
    well_observed = _well_observed(frame, outcome)
    listed = [c for c in conditions if changes(c) < 2 or c["condition"] in well_observed]
    trials = frame.filter(pl.col("condition").is_in([c["condition"] for c in listed]))
    by_condition = trials.partition_by("condition", as_dict=True)
    rows = []
    for condition in sorted(listed, key=changes):
        number = condition["condition"]
        gap = gap_of(by_condition[number,], outcome)
        label, condition_id = labels[number]
        notes = [n for n in (gap.note, "structural_zero" if number in zeros else None) if n]
        rows.append(
            {
                "model": condition["model"],
                "condition": label,
                "condition_id": condition_id,
                **{factor: condition[factor] for factor in levels},
                "outcome": outcome,
                "contrast": CONTRAST,
                "n_train": gap.n_train,
                "n_deploy": gap.n_deploy,
                "rate_train": gap.rate_train,
                "rate_deploy": gap.rate_deploy,
                "gap": gap.gap,
                "std_error": gap.std_error,
                "conf_low": gap.low,
                "conf_high": gap.high,
                "n_queries": gap.n_queries,
                "method": gap.method,
                "note": "; ".join(notes) or None,
            }
        )
    return rows


def _well_observed(frame: pl.DataFrame, outcome: str) -> set[int]:
    """Conditions with enough queries that were graded in both arms."""
    both = (
        frame.filter(pl.col(outcome).is_not_null(), pl.col("arm").is_in(["train", "deploy"]))
        .group_by("condition", "query")
        .agg(pl.col("arm").n_unique().alias("arms"))
        .filter(pl.col("arms") == 2)
        .group_by("condition")
        .len()
        .filter(pl.col("len") >= LISTED_QUERIES)
    )
    return set(both["condition"].to_list())


def structural_zeros(frame: pl.DataFrame) -> frozenset[int]:
    """Conditions whose prompts are the same text in both arms.

    They are so for every query, in every wording, that was seen in both; where none was, if both
    arms have the very same prompts. Empty where the table does not say which prompt a trial had.
    """
    known = frame.filter(pl.col("prompt").is_not_null(), pl.col("arm").is_in(["train", "deploy"]))
    shared = (
        known.group_by("condition", "query", "wording")
        .agg(pl.col("arm").n_unique().alias("arms"), pl.col("prompt").n_unique().alias("prompts"))
        .filter(pl.col("arms") == 2)
        .group_by("condition")
        .agg((pl.col("prompts") == 1).all().alias("alike"))
    )
    apart = (
        known.filter(~pl.col("condition").is_in(shared["condition"].to_list()))
        .group_by("condition", "prompt")
        .agg((pl.col("arm").n_unique() == 2).alias("both"))
        .group_by("condition")
        .agg(pl.col("both").all().alias("alike"))
    )
    found = pl.concat([shared, apart]).filter(pl.col("alike"))
    return frozenset(found["condition"].to_list())


def original_of(observations: Observations) -> pl.DataFrame:
    """The trials of the condition with every factor at its reference.

    A factor that needs another one away from its reference is not applicable there.
    """
    exact = observations.frame.filter(at_reference(observations.levels, or_null=False))
    if exact.height:
        return exact
    return observations.frame.filter(at_reference(observations.levels, or_null=True))


def changed_of(observations: Observations, term: Term) -> pl.DataFrame:
    """The trials of the condition in which this alone is changed, with what goes along."""
    if term.level not in observations.levels[term.factor]:
        return observations.frame.clear()
    return observations.frame.filter(
        at_reference(observations.levels, but=term.factor, or_null=True)
        & (pl.col(term.factor) == term.level)
    )


def _worth(trials: pl.Series) -> float:
    """Trials of a balanced table whose mean over queries varies as much; n where all are equal."""
    return float(len(trials) ** 2 / (1 / trials.to_numpy()).sum())
