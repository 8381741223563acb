"""Comparing: a study with other designs, side by side, before anything is paid.

Takes a study and what is expected of its subject; gives, for each kind of design that the trials
suffice for, what it costs, detects and cannot tell apart, as tables and a figure. Does not know
how a plan, a cost or a detectable size is made.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import polars as pl

from ablate.costs import Cost, cost_of
from ablate.foresight import detectable_sizes
from ablate.planning import Plan, PlanError, condition_of, make_plan
from ablate.study import AVERAGED, SIMPLE, Study
from analysis.plots import Curve, curves
from analysis.power import Detectable, Prior
from analysis.tables import MISSING, points, text_table
from variants.designs import DESIGNS
from variants.diagnosis import Diagnosis, diagnose, diagnosis_text

__all__ = ["Offer", "Unfit", "diagnosis_of", "offer_of", "offers", "write_comparison"]


@dataclass(frozen=True)
class Offer:
    """What a design offers for the study's trials; `sizes` are for one model."""

    kind: str
    plan: Plan
    cost: Cost
    sizes: tuple[Detectable, ...]
    diagnosis: Diagnosis

    @property
    def usd(self) -> float | None:
        """USD of the cheapest way that is known to call one by one; None where prices are not."""
        ways = [way.expected for way in (self.cost.one_by_one, self.cost.cached) if way]
        return min(ways) if ways else None

    @cached_property
    def joint(self) -> float | None:
        """What is left, averaged over the design's law, of an effect that needs two more features.

        The share of the law with both at their reference, over all pairs; None without a law.
        """
        weighted = self.plan.frame.filter(
            pl.col("design_weight").is_not_null(), pl.col("arm") == "train"
        )
        if weighted.is_empty():
            return None
        weight = weighted["design_weight"].to_numpy()
        there = np.column_stack(
            [(weighted[f].to_physical() == 0).fill_null(False).to_numpy()
             for f in self.plan.varied]
        )  # fmt: skip
        pairs = (there * weight[:, None]).T @ there / weight.sum()
        k = len(pairs)
        return float((pairs.sum() - np.trace(pairs)) / (k * (k - 1))) if k > 1 else 1.0

    @cached_property
    def worst(self) -> dict[str, Detectable]:
        """For each estimand the effect that is hardest to detect, where one is estimable."""
        found: dict[str, Detectable] = {}
        for size in self.sizes:
            if size.size is not None and size.term is not None:
                other = found.get(size.estimand)
                if other is None or (other.size or 0.0) < size.size:
                    found[size.estimand] = size
        return found


@dataclass(frozen=True, slots=True)
class Unfit:
    """A kind of design that the study cannot have as it stands, and why."""

    kind: str
    reason: str


def offers(study: Study, prior: Prior | None = None) -> Iterator[Offer | Unfit]:
    """Every kind of design with the study's factors, trials, queries and wordings, own kind first.

    Options of the study's own design are kept for that kind alone.
    """
    own = study.settings.design.kind
    for kind in (own, *(kind for kind in DESIGNS if kind != own)):
        if kind == "listed" and study.listed is None:
            continue
        try:
            yield offer_of(_with(study, kind), kind, prior)
        except PlanError as error:
            yield Unfit(kind, str(error).removeprefix(f"{study.root}/study.toml: "))


def diagnosis_of(study: Study, plan: Plan) -> Diagnosis:
    """What the conditions of a plan can tell apart, by the trials that each one has."""
    roles = {query.query_id: query.role for query in study.queries}
    rows = (
        plan.frame.filter(
            pl.col("model") == pl.col("model").first(),
            pl.col("query_id").replace_strict(roles) == "target",
            pl.col("placebo").is_null(),
        )
        .group_by([*study.factors, "condition_id"], maintain_order=True)
        .len()
    )
    conditions = [condition_of(study, row) for row in rows.iter_rows(named=True)]
    varied = {name: levels for name, levels in study.factors.items() if name in plan.varied}
    return diagnose(conditions, (rows["len"] / rows["len"].sum()).to_list(), varied)


def offer_of(
    study: Study,
    kind: str,
    prior: Prior | None,
    count: int | None = None,
    *,
    diagnosed: bool = True,
) -> Offer:
    plan = make_plan(study, random_conditions=count)
    sizes = detectable_sizes(study, plan, prior)
    diagnosis = diagnosis_of(study, plan) if diagnosed else _NOTHING
    return Offer(kind, plan, cost_of(study, plan), sizes, diagnosis)


def _with(study: Study, kind: str) -> Study:
    """The study with another kind of design, asking for an estimand that the kind may have."""
    settings = study.settings
    design = settings.design
    if kind != design.kind:
        kept = {
            "kind",
            "factors",
            "levels",
            "trials",
            "exclude",
            "replicates",
            "wordings",
            "placebos",
        }
        design = type(design)(
            **{k: v for k, v in design.model_dump().items() if k in kept} | {"kind": kind}
        )
    estimand = SIMPLE if kind in ("one_at_a_time", "two_stage") else AVERAGED
    changed = settings.model_copy(
        update={
            "design": design,
            "study": settings.study.model_copy(update={"estimand": estimand}),
        }
    )
    return replace(study, settings=changed)


FIGURE = "designs.svg"
TIMES = (0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0)


def write_comparison(study: Study, prior: Prior | None = None) -> str:
    """All offers as tables, and the figure of detectable effect against cost in the folder."""
    found = list(offers(study, prior))
    fit = [offer for offer in found if isinstance(offer, Offer)]
    paid = all(offer.usd is not None for offer in fit)
    header = ["design", "conditions", "trials", "USD" if paid else "calls", "simple", "averaged"]
    header.append("left of a joint effect")
    rows = [
        [
            offer.kind,
            str(offer.plan.record["design"]["conditions"]),
            f"{offer.plan.frame.height:,}",
            f"{offer.usd:,.2f}" if offer.usd is not None else f"{offer.cost.calls:,}",
            *(_size(offer.worst.get(estimand), prior) for estimand in (SIMPLE, AVERAGED)),
            f"{100 * offer.joint:.0f} %" if offer.joint is not None else MISSING,
        ]
        for offer in fit
    ]
    lines = [
        "Smallest effect found with 80 % power, in points, for the hardest feature of each "
        "design:\n",
        text_table(header, rows, left=1),
        "",
        "Averaged effects average over different prompts: of an effect that needs two more "
        "features, the last column is left.",
        "",
        "By feature (averaged where the design has it, else simple):\n",
        text_table(*_by_feature(study, fit, prior), left=2),
    ]
    for offer in fit:
        lines.append(
            f"\n{offer.kind}: averaged over {_law(offer)}" if _law(offer) else f"\n{offer.kind}:"
        )
        notes = [*offer.plan.record["design"]["notes"], *diagnosis_text(offer.diagnosis, most=3)]
        lines += [f"  {note}" for note in notes]
    lines += [
        f"\nnot possible: {unfit.kind}: {unfit.reason}"
        for unfit in found
        if isinstance(unfit, Unfit)
    ]
    figure = curves(
        [curve for offer in fit if (curve := _curve(offer, paid)) is not None],
        title="Smallest detectable effect against cost",
        x_axis="USD" if paid else "calls",
        y_axis="smallest effect found with 80 % power, points (line: the margin)",
        margin=study.settings.margins.gap,
    )
    (study.root / FIGURE).write_text(figure, "utf-8")
    return "\n".join([*lines, f"\nFigure: {study.root / FIGURE}"])


def _law(offer: Offer) -> str:
    return str(offer.plan.record["design"]["law"])


def _size(size: Detectable | None, prior: Prior | None) -> str:
    """A detectable size; out of reach where it is more than the whole gap."""
    if size is None or size.size is None:
        return MISSING
    return "out of reach" if size.size > (prior or Prior()).gap else points(size.size, sign=False)


def _by_feature(
    study: Study, fit: list[Offer], prior: Prior | None
) -> tuple[list[str], list[list[str]]]:
    shown: list[dict[tuple[str, str], Detectable]] = []
    for offer in fit:
        estimand = AVERAGED if AVERAGED in offer.worst else SIMPLE
        shown.append({(s.term.factor, s.term.level): s for s in offer.sizes
                      if s.term is not None and s.estimand == estimand})  # fmt: skip
    rows = [
        [factor, level, *(_size(sizes.get((factor, level)), prior) for sizes in shown)]
        for factor, levels in study.factors.items()
        for level in levels[1:]
    ]
    return ["feature", "change", *(offer.kind for offer in fit)], rows


def _curve(offer: Offer, paid: bool) -> Curve | None:
    """The hardest effect of the estimand that a design is for, as its trials change in number."""
    size = offer.worst.get(AVERAGED) or offer.worst.get(SIMPLE)
    cost = offer.usd if paid else float(offer.cost.calls)
    if size is None or size.size is None or size.within is None or not cost:
        return None
    places = tuple(
        (cost * times, replace(size, within=size.within / times).size or 0.0) for times in TIMES
    )
    estimand = "averaged" if size.estimand == AVERAGED else "simple"
    return Curve(f"{offer.kind} ({estimand})", places, (cost, size.size))


_NOTHING = Diagnosis({}, (), (), (), (), None, None, None)
