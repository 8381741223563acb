"""Choosing: a new plan of a study, with what its settings leave open.

Takes a study and what is expected of its subject; gives the plan with as many random conditions
as cost least for their precision, and the second stage of a two-stage design. Does not know how
a design, a cost or a detectable size is made.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from ablate.comparing import Offer, offer_of
from ablate.costs import check_block
from ablate.planning import Plan, PlanError, make_plan
from ablate.stages import StageError, load_tables
from ablate.study import AVERAGED, SIMPLE, Study
from analysis.power import Prior
from variants import Condition
from variants.designs import Screened

__all__ = ["Choice", "best_plan", "choose_random", "screened_by"]

# How many distinct conditions a random part may have; the last is as many as there can be.
CANDIDATES = (48, 192, None)
# A trial may cost so much more before repeated conditions are worth their aliases.
WORTH = 0.02


@dataclass(frozen=True, slots=True)
class Choice:
    """How many distinct conditions a random part has (None: fresh ones), and why, in words."""

    conditions: int | None
    reason: str


def best_plan(
    study: Study,
    prior: Prior | None = None,
    screened: Mapping[Condition, Screened] | None = None,
) -> tuple[Plan, Choice | None]:
    """A new plan of the study, and what was chosen where study.toml leaves it open.

    Raises PlanError for a plan that cannot be made, or that the limits end within its first block.
    """
    choice = choose_random(study, prior)
    plan = make_plan(
        study, random_conditions=choice.conditions if choice else None, screened=screened
    )
    check_block(study, plan)
    return plan, choice


def screened_by(study: Study, run_dir: Path) -> dict[Condition, Screened]:
    """What a fitted run found of every single change, for the second stage. Raises StageError."""
    if study.settings.design.kind != "two_stage":
        raise StageError(
            f"--after: a {study.settings.design.kind} design has one stage: "
            'set design.kind = "two_stage"'
        )
    effects = load_tables(run_dir)["effects"].filter(
        pl.col("estimand") == SIMPLE,
        pl.col("role") == "primary",
        pl.col("outcome") == "complied",
        pl.col("model") == next(iter(study.subjects)),
        pl.col("contrast") == "train-deploy",
        pl.col("note").ne_missing("reference"),
        pl.col("estimate").is_not_null(),
    )
    return {
        study.scenario.close({row["factor"]: row["level"]}): Screened(
            row["estimate"], row["std_error"] or 0.0
        )
        for row in effects.iter_rows(named=True)
    }


def choose_random(study: Study, prior: Prior | None = None) -> Choice | None:
    """The number of random conditions whose averaged effects cost least for equal precision.

    Repeated conditions are cached and cheaper; fresh ones alias less: the variance that the draw
    of conditions adds is counted with that of the trials. None where there is nothing to choose.
    """
    design = study.settings.design
    if design.kind not in ("mixed", "random") or design.random_conditions is not None:
        return None
    if all(study.prices.of(model) is None for model in study.subjects):
        return Choice(None, "fresh conditions: they alias least, and no price speaks against them")
    found: list[tuple[float, float, float, int | None]] = []
    for count in CANDIDATES:
        try:
            offer = offer_of(study, design.kind, prior, count, diagnosed=False)
        except PlanError:
            continue
        variance = _variance(offer)
        if offer.usd is None or variance is None:
            return Choice(None, "fresh conditions: they alias least, and no price is known")
        found.append((offer.usd * variance, offer.usd, variance, count))
    best = min(found, key=lambda each: each[0])
    fresh = found[-1]
    if best[0] > (1 - WORTH) * fresh[0]:
        best = fresh
    others = [each for each in found if each is not best]
    against = max(others, key=lambda each: abs(np.log(each[0] / best[0]))) if others else best
    return Choice(
        best[3],
        f"{_count(best[3])}: for the same precision {_count(against[3])} would cost "
        f"{100 * (against[0] / best[0] - 1):.0f} % more ({_percent(against[1] / best[1])} a trial, "
        f"{_percent(against[2] / best[2])} variance)",
    )


def _variance(offer: Offer) -> float | None:
    """Mean variance of the averaged effects: of the trials and of the draw of conditions."""
    found = [
        size.within + size.sampled
        for size in offer.sizes
        if size.estimand == AVERAGED and size.within is not None
    ]
    return float(np.mean(found)) if found else None


def _count(conditions: int | None) -> str:
    return "fresh conditions" if conditions is None else f"{conditions} conditions"


def _percent(ratio: float) -> str:
    return f"{100 * (ratio - 1):+.0f} %"
