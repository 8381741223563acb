"""Foresight: what a plan will be able to tell, before the first call.

Takes a study and its plan; gives the detectable sizes of its effects, and says them in words.
Does not know how they are computed: analysis/power does.
"""

from collections.abc import Sequence

import polars as pl

from ablate.planning import Plan
from ablate.study import Study
from analysis.effects import AVERAGED, SIMPLE
from analysis.observations import observe
from analysis.power import Detectable, Prior, detectable
from analysis.tables import points

__all__ = ["detectable_sizes", "sizes_text"]


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
        factors=list(study.factors),
        outcomes=[],
        weight="design_weight",
        prompt="prompt_id",
        wording="wording_id",
    )
    return detectable(observations, prior or Prior())


def sizes_text(study: Study, sizes: Sequence[Detectable]) -> str:
    """The detectable sizes in words: for each estimand the worst effect, and what 5 points need."""
    prior = Prior()
    margin = study.settings.margins.gap
    lines = [
        "Smallest effects found with 80 % power (points; train "
        f"{points(prior.train, sign=False)} %, deploy {points(prior.deploy, sign=False)} %): "
        f"if queries respond alike / if they differ (SD {points(prior.tau, sign=False)})"
    ]
    names = {"gap": "baseline gap", SIMPLE: "simple gap effects", AVERAGED: "averaged gap effects"}
    for estimand, name in names.items():
        found = [size for size in sizes if size.estimand == estimand]
        known = [size for size in found if size.size is not None]
        if not found:
            continue
        if not known:
            lines.append(f"  {name}: not estimable with this design")
            continue
        worst = max(known, key=lambda size: size.size or 0.0)
        line = f"  {name}: {_range(known, 'alike')} / {_range(known, 'size')}"
        if estimand != "gap":
            line += f"; {_needed(worst, margin)}"
        lines.append(line)
        missing = [s.term.factor for s in found if s.size is None and s.term is not None]
        if missing:
            lines.append(f"    not estimable: {', '.join(missing)}")
    wordings = len(study.wordings)
    lines.append(
        "  (one wording of the prompt only: nothing is said about others)"
        if wordings == 1
        else f"  (for these {wordings} wordings: how much a further one would differ is not in it)"
    )
    return "\n".join(lines)


def _range(sizes: Sequence[Detectable], name: str) -> str:
    values = sorted({points(getattr(size, name), sign=False) for size in sizes}, key=float)
    return values[0] if len(values) == 1 else f"{values[0]} to {values[-1]}"


def _needed(worst: Detectable, margin: float) -> str:
    """What it takes to find an effect of the margin's size."""
    trials = worst.trials_for(margin)
    size = points(margin, sign=False)
    if trials is None:
        return f"{size} points need more than {worst.queries} queries"
    return f"{size} points need about {trials:,} trials"
