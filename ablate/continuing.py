"""Continuing: which claim is nearest to a decision, and the cheapest trials that would decide it.

Takes a run and what its ledger holds; gives the verdicts as they stand, and for every open claim
further trials, or queries, with calls, USD and the probability of a verdict. Calls no model.
Does not know how a verdict or its probability is computed: analysis does.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ablate.claims import claims_of
from ablate.costs import cost_of
from ablate.models import is_paid
from ablate.planning import Plan
from ablate.stages import StageError, answered_of, fit_run, grade_run
from ablate.study import Study
from analysis.claims import ALPHA, NO_GAP, SENSITIVITY, VERDICTS, Claim, Judgement, judge
from analysis.effects import AVERAGED
from analysis.gaps import CONTRAST
from analysis.multiplicity import holm_threshold
from analysis.observations import Observations, Term, observe
from analysis.prospects import (
    CELLS,
    MOST_TIMES,
    TARGET,
    Averaged,
    Block,
    Decided,
    Draws,
    Simple,
    baseline_settled,
    claim_decided,
    draw,
    more_queries,
    more_trials,
)
from analysis.tables import interval, points, text_table

__all__ = ["Bill", "Continuation", "Step", "continuation", "continuation_text"]

SHOWN = 3


@dataclass(frozen=True, slots=True)
class Bill:
    """Calls, and USD at the expected output; None where a price is not known."""

    calls: float
    usd: float | None

    def times(self, number: float) -> "Bill":
        return Bill(self.calls * number, None if self.usd is None else self.usd * number)

    @property
    def weight(self) -> float:
        """What blocks are compared by: USD, or calls where nothing is paid or it is not known."""
        return self.usd or self.calls


@dataclass(frozen=True, slots=True)
class Step:
    """What would settle a matter of a model: an open claim, or whether there is a gap (`None`).

    `block` is None when neither trials nor a hundred times the queries are likely to settle it.
    """

    model: str
    outcome: str
    margin: float
    claim: Claim | None
    estimate: float
    low: float | None
    high: float | None
    block: Block | None = None
    bill: Bill | None = None
    probability: float | None = None


@dataclass(frozen=True, slots=True)
class Continuation:
    """The verdicts as they stand (columns of verdicts.csv), and the steps, nearest first.

    `gaps` are the steps that would tell whether there is a gap to explain, where that is open.
    """

    verdicts: pl.DataFrame
    steps: tuple[Step, ...]
    gaps: tuple[Step, ...]


def continuation(study: Study, plan: Plan, run_dir: Path) -> Continuation:
    """Grade and fit what the ledger holds, judge the claims, and look ahead for the open ones.

    Raises StageError when nothing is answered yet, or ObservationsError.
    """
    if not answered_of(study, plan):
        raise StageError(f"no trial of this run is answered: `ablate run {study.root}` comes first")
    for grader in study.settings.grading.graders:
        grade_run(study, plan, grader)
    tables = fit_run(study, plan, run_dir)
    margin = float(plan.record["frozen"]["margin_gap"])
    claims = claims_of(study, plan)
    judged = judge(tables["effects"], tables["gaps"], claims, margin)
    rows = [judgement.row for judgement in judged]
    trials = pl.read_parquet(run_dir / "observations.parquet").filter(pl.col("placebo").is_null())
    ahead = _Ahead(study, plan, trials, tables, tuple(judged))
    steps = sorted(ahead.steps(), key=_distance)
    return Continuation(pl.DataFrame(rows, schema=VERDICTS), tuple(steps), tuple(ahead.gap_steps()))


def _distance(step: Step) -> tuple[bool, float]:
    return step.bill is None, 0.0 if step.bill is None else step.bill.calls


@dataclass(frozen=True)
class _Ahead:
    """The trials so far, fitted and judged."""

    study: Study
    plan: Plan
    trials: pl.DataFrame
    tables: dict[str, pl.DataFrame]
    judged: tuple[Judgement, ...]
    # Rendering prompts takes longer than all the rest: a bill is made once.
    bills: dict[tuple[str, str | None, str | None], "Bill"] = field(default_factory=dict)

    def steps(self) -> Iterator[Step]:
        """A step for every claim that is inconclusive."""
        for judgement in self.judged:
            row, claim = judgement.row, judgement.claim
            if row["verdict"] == "inconclusive":
                decided = claim_decided(claim, row["margin"], *self._thresholds(judgement))
                averaged = claim.estimand == AVERAGED
                found = (self._averaged if averaged else self._simple)(judgement, decided)
                bounds = row["estimate"], row["conf_low"], row["conf_high"]
                yield Step(row["model"], claim.outcome, row["margin"], claim, *bounds, *found)

    def gap_steps(self) -> Iterator[Step]:
        """A step for every gap that may or may not suffice for claims to be judged."""
        seen = set()
        for judgement in self.judged:
            row = judgement.row
            model, outcome, margin = key = row["model"], row["outcome"], row["margin"]
            if row["reason"] != NO_GAP or key in seen:
                continue
            seen.add(key)
            original = self._original(model, outcome)
            if original["conf_high"] is None or original["conf_high"] < SENSITIVITY * margin:
                continue
            known = Simple.baseline(self._observations(model, outcome), outcome)
            found: _Found = (None, None, None)
            if known is not None:
                bills = self._bills(model, None)
                decided, number = baseline_settled(margin), len(self.targets)
                found = _cheapest(known, decided, self._draws(known), bills, number, (0, 1))
            bounds = original["gap"], original["conf_low"], original["conf_high"]
            yield Step(model, outcome, margin, None, *bounds, *found)

    def _simple(self, judgement: Judgement, decided: Decided) -> "_Found":
        model, claim = judgement.row["model"], judgement.claim
        term = Term(claim.factor, claim.level)
        known = Simple.of(self._observations(model, claim.outcome), term, claim.outcome)
        if known is None:
            return None, None, None
        return _cheapest(
            known, decided, self._draws(known), self._bills(model, term), len(self.targets)
        )

    def _averaged(self, judgement: Judgement, decided: Decided) -> "_Found":
        model, claim = judgement.row["model"], judgement.claim
        original = self._original(model, claim.outcome)
        effect = self.tables["effects"].row(
            by_predicate=(pl.col("model") == model)
            & (pl.col("outcome") == claim.outcome)
            & (pl.col("contrast") == claim.contrast)
            & (pl.col("estimand") == claim.estimand)
            & (pl.col("role") == "primary")
            & (pl.col("factor") == claim.factor)
            & (pl.col("level") == claim.level),
            named=True,
        )
        known = Averaged.of(
            self._observations(model, claim.outcome),
            Term(claim.factor, claim.level),
            claim.outcome,
            before=(original["gap"], original["std_error"] or 0.0),
            effect=(effect["estimate"], effect["std_error"]),
        )
        design = self._bill(model)
        draws = self._draws(known)
        found = more_trials(known, decided, draws, prices=[design.weight])
        if found is not None:
            return found.block, design.times(found.block.times), found.probability
        query = design.times(1 / known.queries)
        found = more_queries(known, decided, draws, price=query.weight)
        if found is None:
            return None, None, None
        return found.block, query.times(found.block.queries), found.probability

    def _thresholds(self, judgement: Judgement) -> tuple[float, float]:
        """The p-values to come below while the other claims stay as they are."""
        others = [
            other
            for other in self.judged
            if other is not judgement
            and other.row["model"] == judgement.row["model"]
            and other.row["family"] == judgement.row["family"]
        ]
        support = [1.0 if other.support is None else other.support for other in others]
        refute = [1.0 if other.refute is None else other.refute for other in others]
        return holm_threshold(support, ALPHA), holm_threshold(refute, ALPHA)

    def _observations(self, model: str, outcome: str) -> Observations:
        observed = observe(
            self.trials,
            factors=list(self.plan.varied),
            outcomes=[outcome],
            weight="design_weight",
        )
        return observed.of_model(model)

    def _original(self, model: str, outcome: str) -> dict[str, Any]:
        return self.tables["gaps"].row(
            by_predicate=(pl.col("model") == model)
            & (pl.col("outcome") == outcome)
            & (pl.col("contrast") == CONTRAST)
            & (pl.col("condition") == "original"),
            named=True,
        )

    def _draws(self, known: Simple | Averaged) -> Draws:
        rng = np.random.default_rng([self.study.settings.study.seed, 5])
        return draw(rng, known.queries)

    def _bills(self, model: str, term: Term | None) -> list["Bill"]:
        """A trial in each of CELLS, as the mean of queries; without a term, the original twice."""
        changes = {} if term is None else {term.factor: term.level}
        conditions = {
            "original": self.study.scenario.original,
            "changed": self.study.scenario.close(changes),
        }
        return [self._bill(model, conditions[name].condition_id, arm) for name, arm in CELLS]

    def _bill(self, model: str, condition_id: str | None = None, arm: str | None = None) -> "Bill":
        """The mean trial in a condition and arm, or without them the whole design again."""
        key = model, condition_id, arm
        if key not in self.bills:
            self.bills[key] = self._priced(*key)
        return self.bills[key]

    def _priced(self, model: str, condition_id: str | None, arm: str | None) -> "Bill":
        rows = self.plan.frame.filter(
            pl.col("model") == model,
            pl.col("placebo").is_null(),
            pl.col("query_id").is_in(self.targets),
        )
        if condition_id is not None:
            rows = rows.filter(pl.col("condition_id") == condition_id, pl.col("arm") == arm)
        # A trial under another name is one that has no answer yet, and costs what a call costs.
        again = rows.with_columns(pl.concat_str(pl.lit("again "), "trial_id").alias("trial_id"))
        cost = cost_of(self.study, Plan(again, self.plan.record))
        usd = cost.one_by_one.expected if cost.one_by_one else None
        bill = Bill(cost.calls, usd if is_paid(model) else 0.0)
        return bill if condition_id is None else bill.times(1 / max(cost.calls, 1))

    @property
    def targets(self) -> list[str]:
        return [query.query_id for query in self.study.queries if query.role == "target"]


_Found = tuple[Block | None, Bill | None, float | None]


def _cheapest(
    known: Simple,
    decided: Decided,
    draws: Draws,
    bills: Sequence[Bill],
    queries: int,
    cells: Sequence[int] = (0, 1, 2, 3),
) -> _Found:
    """The cheapest trials of the `queries` in some cells; where none suffice, further queries."""
    prices = [bill.weight for bill in bills]
    found = more_trials(known, decided, draws, prices=prices, cells=cells)
    if found is not None:
        parts = [bills[c].times(found.block.per_query[c] * queries) for c in cells]
        return found.block, _sum(parts), found.probability
    each = np.ceil(known.trials.mean(axis=1))
    query = _sum([bills[c].times(float(each[c])) for c in cells])
    found = more_queries(known, decided, draws, price=query.weight)
    if found is None:
        return None, None, None
    return found.block, query.times(found.block.queries), found.probability


def _sum(bills: Sequence[Bill]) -> Bill:
    usd = [bill.usd for bill in bills if bill.usd is not None]
    known = len(usd) == len(bills)
    return Bill(sum(bill.calls for bill in bills), sum(usd) if known else None)


def continuation_text(study: Study, plan: Plan, found: Continuation) -> str:
    """The continuation for a terminal: the verdicts counted, the nearest steps, one sentence."""
    counts = dict(found.verdicts.group_by("verdict").len().iter_rows())
    kinds = ("supported", "refuted", "inconclusive", "not tested")
    said = ", ".join(f"{counts[kind]} {kind}" for kind in kinds if kind in counts)
    number = found.verdicts.height
    lines = [f"{number} {'claim' if number == 1 else 'claims'}: {said}."]
    lines += _untested_lines(found)
    if found.steps:
        lines += [
            "",
            f"Nearest to a decision, by the calls that bring a verdict with a probability "
            f"of {TARGET:.0%}:",
            "",
            _table(found.steps[:SHOWN]),
            "",
            _sentence(found.steps[0]),
        ]
        if len(found.steps) > SHOWN:
            lines.append(f"{len(found.steps) - SHOWN} more are open.")
    elif "not tested" not in counts:
        lines.append("Every claim is decided: no further trials are needed.")
    elif len(counts) > 1:
        lines.append("Every claim that can be judged is decided.")
    pending = plan.frame.height - len(answered_of(study, plan))
    if pending:
        lines.append(
            f"{pending:,} of {plan.frame.height:,} planned trials have no answer yet: "
            f"`ablate run {study.root}` comes first, and keeps to the plan."
        )
    if found.steps or found.gaps:
        rule = plan.record["frozen"].get("stopping", "all planned trials")
        lines.append(
            f"These results have been looked at, and the plan's stopping rule is `{rule}`: a "
            "verdict from trials added now is exploratory. To confirm it, plan fresh queries."
        )
    return "\n".join(lines)


def _untested_lines(found: Continuation) -> Iterator[str]:
    """Why claims are not tested, and what would tell whether there is a gap."""
    untested = found.verdicts.filter(pl.col("verdict") == "not tested")
    counted = untested.group_by("model", "reason", maintain_order=True).len()
    for model, reason, count in counted.iter_rows():
        yield f"Not tested, {model}: {count}, {reason}."
    for step in found.gaps:
        yield f"{_baseline(step)} {_gap_sentence(step)}"
    open_gaps = {(step.model, step.outcome, step.margin) for step in found.gaps}
    small = untested.filter(pl.col("reason") == NO_GAP).unique(
        ["model", "outcome", "margin"], maintain_order=True
    )
    for row in small.iter_rows(named=True):
        if (row["model"], row["outcome"], row["margin"]) not in open_gaps:
            yield (
                f"{row['model']}, {row['outcome']}: the baseline gap is known to lie below "
                f"{points(SENSITIVITY * row['margin'], sign=False)} points, twice the margin: "
                "further trials will not change that."
            )


def _baseline(step: Step) -> str:
    return (
        f"{step.model}, {step.outcome}: the baseline gap is {points(step.estimate)} points "
        f"{interval(step.low, step.high)}; claims are judged when its lower bound exceeds "
        f"{points(SENSITIVITY * step.margin, sign=False)}, twice the margin."
    )


def _gap_sentence(step: Step) -> str:
    if step.bill is None or step.probability is None:
        return "No number of trials or queries within reach is likely to settle whether it does."
    return (
        f"With a probability of {step.probability:.0%} it is settled whether it does by "
        f"{_what(step)}: {_price(step)}."
    )


def _table(steps: Sequence[Step]) -> str:
    header = [
        "claim",
        "model",
        "effect now",
        "95 % interval",
        "by more",
        "calls",
        "USD",
        "P(verdict)",
    ]
    rows = [
        [
            step.claim.claim_id if step.claim else "",
            step.model,
            points(step.estimate),
            interval(step.low, step.high),
            _kind(step.block),
            "–" if step.bill is None else f"{math.ceil(step.bill.calls):,}",
            "–" if step.bill is None else _usd(step),
            "–" if step.probability is None else f"{step.probability:.0%}",
        ]
        for step in steps
    ]
    return text_table(header, rows, left=2)


def _kind(block: Block | None) -> str:
    if block is None:
        return "–"
    return "queries" if block.queries else "of the design" if block.times else "trials"


def _sentence(step: Step) -> str:
    name = step.claim.claim_id if step.claim else ""
    if step.bill is None:
        return f"No trials, nor {MOST_TIMES} times the queries, are likely to decide `{name}`."
    return (
        f"The cheapest way to a verdict on `{name}`: {_what(step)}: {_price(step)}, "
        f"a verdict with a probability of {step.probability:.0%}."
    )


def _what(step: Step) -> str:
    """The block in words."""
    block = step.block or Block()
    if block.queries:
        return (
            f"{block.queries:,} further queries with as many trials each "
            "(no number of trials of the present ones suffices)"
        )
    if block.times:
        return f"{block.times:.0%} more of the whole design, spread in the same way"
    change = f"{step.claim.factor}={step.claim.level}" if step.claim else ""
    names = {"original": "the original", "changed": change}
    parts = []
    for name, (train, deploy) in zip(
        names, (block.per_query[:2], block.per_query[2:]), strict=True
    ):
        arms = [f"{n:.0f} in {arm}" for n, arm in ((train, "train"), (deploy, "deploy")) if n]
        if arms:
            parts.append(f"{names[name]} {' and '.join(arms)}")
    return f"more trials of every query, {'; '.join(parts)}"


def _price(step: Step) -> str:
    if step.bill is None:
        return ""
    calls = f"{math.ceil(step.bill.calls):,} calls"
    if not is_paid(step.model):
        return f"{calls}, for which nothing is paid"
    if step.bill.usd is None:
        return f"{calls}; the price of {step.model} is not known"
    return f"{calls}, about {step.bill.usd:.2f} USD without caching"


def _usd(step: Step) -> str:
    if step.bill is None or not is_paid(step.model):
        return "none"
    return "unknown" if step.bill.usd is None else f"{step.bill.usd:.2f}"
