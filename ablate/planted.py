"""The planted truth: what a fit on the embedded subject should find, by enumeration.

Takes a study; gives the true gap effects of the simulated subject, from its documented
probabilities for every prompt and every query. Does not know any answer or estimate.
"""

from collections.abc import Iterator, Mapping

import polars as pl

from ablate import simulated
from ablate.simulated import Planted
from ablate.study import Study
from analysis.effects import AVERAGED, SIMPLE
from variants import Condition
from variants.designs import Law, target_law

__all__ = ["PLANTED", "planted_effects", "planted_gap"]

# Above this many conditions averaged effects are not enumerated.
MOST_CONDITIONS = 1 << 12

# The columns of planted.csv.
PLANTED = {
    "estimand": pl.String,
    "factor": pl.String,
    "level": pl.String,
    "planted": pl.Float64,
}


def planted_gap(study: Study, condition: Condition, planted: Planted = simulated.PLANTED) -> float:
    """The subject's true gap in a condition, over the study's target queries and wordings."""
    targets = [query for query in study.queries if query.role == "target"]
    rates = []
    for arm in ("train", "deploy"):
        total = 0.0
        for wording in study.wordings.values():
            for query in targets:
                prompt = study.scenario.render(
                    condition, arm=arm, query=query.text, wording=wording
                )
                total += simulated.compliance(prompt.system or "", prompt.user, planted)
        rates.append(total / len(targets) / len(study.wordings))
    return rates[0] - rates[1]


def planted_effects(study: Study, planted: Planted = simulated.PLANTED) -> pl.DataFrame:
    """True effects on compliance; averaged ones only while their law can be enumerated."""
    law = target_law(study.scenario, study.factors, study.settings.design.rate)
    original = planted_gap(study, law.close({}), planted)
    rows: list[tuple[str, str, str, float]] = []
    for factor, levels in law.levels.items():
        for level in levels[1:]:
            gap = planted_gap(study, law.close({factor: level}), planted)
            rows.append((SIMPLE, factor, level, gap - original))
    rows += _averaged(study, law, planted)
    return pl.DataFrame(rows, schema=PLANTED, orient="row")


def _averaged(study: Study, law: Law, planted: Planted) -> Iterator[tuple[str, str, str, float]]:
    size = 1
    for levels in law.levels.values():
        size *= len(levels)
    if size > MOST_CONDITIONS:
        return
    table = [(c, law.probability(c), planted_gap(study, c, planted)) for c in law.conditions()]
    for factor, levels in law.levels.items():
        means = {}
        for level in levels:
            having = [(p, gap) for c, p, gap in table if c[factor] == level]
            weight = sum(p for p, _ in having)
            means[level] = sum(p * gap for p, gap in having) / weight if weight else None
        for level in levels[1:]:
            before, after = means[levels[0]], means[level]
            if before is not None and after is not None:
                yield AVERAGED, factor, level, after - before


def as_mapping(frame: pl.DataFrame) -> Mapping[tuple[str, str, str], float]:
    """(estimand, factor, level) -> planted effect."""
    return {(e, f, level): value for e, f, level, value in frame.select(list(PLANTED)).iter_rows()}
