"""Foresight: what a plan will be able to tell, before the first call.

Takes a study and its plan; gives the detectable sizes of its effects, and says them in words.
Does not know how they are computed: analysis/power does.
"""

from collections.abc import Iterator, Sequence

import polars as pl

from ablate.planning import Plan
from ablate.study import Study
from analysis.effects import AVERAGED, SIMPLE
from analysis.observations import observe
from analysis.power import Detectable, Prior, detectable, out_of_reach
from analysis.tables import points
from variants.designs import Design

__all__ = ["detectable_sizes", "inclusion", "margin_text", "sizes_text"]

# Names of levels in one line.
LISTED = 12
# A standard deviation below this, in proportions, is not worth a line.
NOTABLE = 0.005


def detectable_sizes(
    study: Study, plan: Plan, prior: Prior | None = None
) -> tuple[Detectable, ...]:
    """Detectable size of the gap and of every effect for one model of the plan."""
    roles = {query.query_id: query.role for query in study.queries}
    frame = plan.of_models([next(iter(study.subjects))]).frame
    targets = frame.filter(
        frame["query_id"].replace_strict(roles) == "target", pl.col("placebo").is_null()
    )
    observations = observe(
        targets,
        factors=plan.varied,
        outcomes=[],
        weight="design_weight",
        prompt="prompt_id",
        wording="wording_id",
    )
    return detectable(observations, prior or Prior(), inclusion(plan.design))


def inclusion(design: Design | None) -> dict[str, float] | None:
    """The chance with which each condition of a design's random part came into it.

    A condition that stands for more of the law than is its own was drawn in place of others;
    one that stands for itself was there for sure. None where the design is not known.
    """
    if design is None:
        return None
    if design.masses is None:
        return {}
    drawn = [
        (condition.condition_id, probability, mass)
        for condition, probability, mass in zip(
            design.conditions, design.probabilities, design.masses, strict=True
        )
        if probability is not None and mass > 0
    ]
    whole = sum(mass for _, _, mass in drawn)
    return {name: min(1.0, probability * whole / mass) for name, probability, mass in drawn}


def sizes_text(study: Study, sizes: Sequence[Detectable]) -> str:
    """The detectable sizes in words: for each estimand the range, what is out of reach, and what
    an effect of the margin's size needs."""
    prior = sizes[0].prior if sizes else Prior()
    further = any(size.any_wording is not None for size in sizes)
    header = (
        f"Smallest effects found with 80 % power (points; train {_points(prior.train)} %, "
        f"deploy {_points(prior.deploy)} %): if queries respond alike / if they differ "
        f"(SD {_points(prior.tau)})"
    )
    lines = [header + f" / in any wording (SD {_points(prior.tau_wording)})" * further]
    names = {"gap": "baseline gap", SIMPLE: "simple gap effects", AVERAGED: "averaged gap effects"}
    for estimand, name in names.items():
        found = [size for size in sizes if size.estimand == estimand]
        known = [size for size in found if size.size is not None]
        if found and not known:
            lines.append(f"  {name}: not estimable with this design")
        elif found:
            lines.append(f"  {name}: {_line(known, study.settings.margins.gap)}")
            lines += [f"    {line}" for line in _warnings(study, found, prior)]
    wordings = len(study.wordings)
    if wordings == 1:
        lines.append("  (one wording of the prompt only: nothing is said about others)")
    elif not further:
        lines.append(
            f"  (for these {wordings} wordings: how much a further one would differ is not in it)"
        )
    return "\n".join(lines)


def margin_text(study: Study, prior: Prior | None) -> str:
    """The study's margin beside the one that the expected gap proposes."""
    margin, gap = study.settings.margins.gap, (prior or Prior()).gap
    proposed = min(0.05, 0.3 * max(gap, 0.0))
    said = f"Margin: {_points(margin)} points"
    if margin <= proposed + 5e-4:
        return said
    return (
        f"{said}; min(5, 0.3 x the expected gap of {_points(gap)}) = {_points(proposed)} is "
        "proposed: claims are judged only where the gap's lower bound exceeds twice the margin"
    )


def _line(known: Sequence[Detectable], margin: float) -> str:
    columns = ("alike", "size", "any_wording")
    ranges = [_range(known, column) for column in columns]
    line = " / ".join(text for text in ranges if text)
    worst = max(known, key=lambda size: size.size or 0.0)
    return line if worst.term is None else f"{line}; {_needed(worst, margin)}"


def _warnings(study: Study, found: Sequence[Detectable], prior: Prior) -> Iterator[str]:
    """What the plan does not study, and what no standard error will show."""
    missing = [size for size in found if size.size is None]
    if missing:
        yield f"not estimable: {_names(study, missing)}"
    beyond = out_of_reach(found, prior)
    small = [each.effect for each in beyond if not each.rare]
    if small:
        gap = _points(prior.gap)
        yield f"out of reach, even if the whole gap of {gap} went: {_names(study, small)}"
    rare = [each.effect for each in beyond if each.rare]
    if rare:
        seen = max(size.seen for size in rare)
        yield f"out of reach, in {100 * seen:.1f} % of the trials or less: {_names(study, rare)}"
    moved = max(size.aliased for size in found) ** 0.5
    if moved >= NOTABLE:
        yield (
            f"which conditions were drawn moves them by another {_points(moved)} (SD), which no "
            "standard error shows: more random conditions make it smaller"
        )


def _names(study: Study, sizes: Sequence[Detectable]) -> str:
    """Levels in words; the factor alone where it has one level besides the reference."""
    names = [
        term.factor if len(study.factors[term.factor]) == 2 else f"{term.factor}={term.level}"
        for term in (size.term for size in sizes)
        if term is not None
    ]
    listed = ", ".join(names[:LISTED])
    return listed if len(names) <= LISTED else f"{listed} and {len(names) - LISTED} more"


def _points(value: float) -> str:
    return points(value, sign=False)


def _range(sizes: Sequence[Detectable], name: str) -> str:
    known = [value for value in (getattr(size, name) for size in sizes) if value is not None]
    values = sorted({_points(value) for value in known}, key=float)
    return " to ".join(dict.fromkeys((values[0], values[-1]))) if values else ""


def _needed(worst: Detectable, margin: float) -> str:
    """What it takes to find an effect of the margin's size."""
    trials, size = worst.trials_for(margin), _points(margin)
    if trials is not None:
        return f"{size} points need about {trials:,} trials"
    return (
        f"{size} points need about {worst.queries_for(margin):,} queries with as many trials each"
    )
