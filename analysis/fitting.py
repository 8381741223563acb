"""The fit: all tables of a study from its observations.

Takes one frame of trials and the names of its columns; gives gaps, effects and coefficients.
Does not know files or studies.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import polars as pl

from analysis.attribution import attribution
from analysis.between import differences
from analysis.coefficients import COEFFICIENTS, coefficients
from analysis.contrasts import many_wordings
from analysis.covariance import Kind
from analysis.effects import effects
from analysis.estimates import EFFECTS, ESTIMANDS, SIMPLE, Effect, correct, joined
from analysis.gaps import GAPS, changed_of, gaps, original_of, structural_zeros
from analysis.marginals import interactions, marginal_gaps
from analysis.observations import (
    Observations,
    ObservationsError,
    Term,
    check_graded,
    collapse,
    observe,
)
from analysis.placebo import changes, p_placebo
from analysis.sensitivity import sensitivity_rows
from analysis.spreads import SPREADS, spreads
from analysis.verbal import verbalised

__all__ = ["Results", "fit"]

# The outcome whose gap is split by whether the reasoning speaks of it, and that reasoning.
SPLIT = ("complied", "af_reasoning")


@dataclass(frozen=True, slots=True)
class Results:
    """The tables of a fit; proportions, null where unknown. Columns: docs/data.md."""

    gaps: pl.DataFrame
    effects: pl.DataFrame
    coefficients: pl.DataFrame
    spreads: pl.DataFrame


def fit(
    observations: pl.DataFrame,
    *,
    factors: Sequence[str],
    outcomes: Sequence[str],
    arm: str = "arm",
    query: str = "query_id",
    weight: str | None = None,
    prompt: str | None = None,
    wording: str | None = None,
    contrasts: Sequence[tuple[str, str]] = (("train", "deploy"),),
    reference: Mapping[str, str] | None = None,
    primary: str = SIMPLE,
    grader: str | None = None,
    covariance: Sequence[Kind] = (),
    sensitivity: bool = True,
    placebo: str | None = None,
    margin: float | None = None,
) -> Results:
    """Gaps, effects and coefficients of every model and outcome in a table of trials.

    `weight` names the column that turns the trials into the target law of averaged effects;
    without it they average over the table as it is. `prompt` names a column of prompt hashes:
    with it, conditions that render alike in both arms are recognised, within each value of the
    column `wording`. With five wordings or more errors allow for wordings as well as queries.
    `contrasts` names the pairs of arms that make a gap, each with tables of its own. `covariance`
    adds rows of coefficients; without `sensitivity` there are no rows of other estimators.
    `placebo` names a column that says which harmless edit was made in a trial, null for none: such
    trials enter no estimate, and simple effects are compared with theirs. `margin` is the gap of
    which wordings are said to be above. Raises ObservationsError.
    """
    if primary not in ESTIMANDS:
        raise ObservationsError(f"no estimand `{primary}`; there is {', '.join(ESTIMANDS)}")
    if taken := [f for f in factors if f in GAPS]:
        raise ObservationsError(f"`{taken[0]}` is a column of the table of gaps: rename the column")
    gap_rows: list[dict[str, Any]] = []
    effect_rows: list[dict[str, Any]] = []
    coefficient_rows: list[dict[str, Any]] = []
    spread_rows: list[dict[str, Any]] = []
    for pair in contrasts:
        checked = observe(
            observations,
            factors=factors,
            outcomes=outcomes,
            arm=arm,
            query=query,
            weight=weight,
            prompt=prompt,
            wording=wording,
            arms=pair,
            reference=reference,
            placebo=placebo,
        )
        check_graded(checked.frame, outcomes)
        checked, edits = _apart(checked, placebo is not None)
        label = {"contrast": "-".join(pair)}
        labels = _labels(checked)
        wordings = many_wordings(checked.frame)
        for outcome in outcomes:
            cells = collapse(checked, outcome, wordings=wordings)
            # Two half votes in a cell are no success: the trials say it, not the cells.
            binary = bool(checked.frame[outcome].drop_nulls().is_in([0.0, 1.0]).all())
            for model in checked.models:
                of_model = cells.of_model(model)
                if of_model.frame[outcome].is_null().all():
                    continue
                zeros = structural_zeros(checked.of_model(model).frame)
                gap_rows += [row | label for row in gaps(of_model, outcome, labels, zeros)]
                found = effects(of_model, outcome, primary=primary, grader=grader, zeros=zeros)
                if edits is not None:
                    _calibrate(found, of_model, edits.of_model(model), outcome)
                effect_rows += [row | label for row in found]
                further = [*_further(of_model, outcome)]
                if outcome == SPLIT[0] and SPLIT[1] in outcomes:
                    further += verbalised(checked.of_model(model), *SPLIT)
                if sensitivity:
                    further += sensitivity_rows(of_model, outcome, zeros, binary=binary)
                effect_rows += [row | label for row in _screened(further, grader)]
                worded = of_model
                if wording is not None and not wordings:
                    # Too few for the errors, and all the more to be spoken of.
                    worded = collapse(checked.of_model(model), outcome, wordings=True)
                spread_rows += [row | label for row in spreads(worded, outcome, margin)]
                if pair == contrasts[0]:
                    coefficient_rows += coefficients(of_model, outcome, covariance, binary=binary)
            if len(checked.models) > 1:
                between = _screened(differences(cells, outcome), grader)
                effect_rows += [row | label for row in between]
    gap_schema: dict[str, Any] = {}
    for column, kind in GAPS.items():
        gap_schema[column] = kind
        if column == "condition_id":
            gap_schema |= {f: pl.Enum(levels) for f, levels in checked.levels.items()}
    return Results(
        pl.DataFrame(gap_rows, schema=gap_schema),
        pl.DataFrame(effect_rows, schema=EFFECTS).select(list(EFFECTS)),
        pl.DataFrame(coefficient_rows, schema=COEFFICIENTS),
        pl.DataFrame(spread_rows, schema=SPREADS),
    )


def _apart(checked: Observations, edited: bool) -> tuple[Observations, Observations | None]:
    """The trials without a placebo edit, and those with one; None where there are none."""
    if not edited:
        return checked, None
    plain = replace(checked, frame=checked.frame.filter(pl.col("placebo").is_null()))
    edits = replace(checked, frame=checked.frame.filter(pl.col("placebo").is_not_null()))
    return plain, edits if edits.frame.height else None


def _calibrate(
    rows: list[dict[str, Any]], cells: Observations, edits: Observations, outcome: str
) -> None:
    """Give each simple effect its place among those of the placebo edits."""
    original = original_of(cells)
    afters = {
        name: edits.frame.filter(pl.col("placebo") == name)
        for name in edits.frame["placebo"].unique().sort()
    }
    if not afters:
        return
    placebos = changes(original, afters, outcome)
    for row in rows:
        if row["estimand"] == SIMPLE and row["p_value"] is not None:
            changed = changed_of(cells, Term(row["factor"], row["level"]))
            feature = changes(original, {"feature": changed}, outcome)
            if feature.queries == placebos.queries:
                found = p_placebo(placebos, feature.values[:, 0])
                row["p_placebo"] = found.p_value
                row["note"] = joined(row["note"], found.note)


def _further(cells: Observations, outcome: str) -> Iterator[Effect]:
    yield from marginal_gaps(cells, outcome)
    yield from interactions(cells, outcome)
    yield from attribution(cells, outcome)


def _screened(rows: Iterable[Effect], grader: str | None) -> Iterator[dict[str, Any]]:
    """The rows, each estimand a screen of its own."""
    by_estimand: dict[str, list[Effect]] = {}
    for row in rows:
        row.grader = grader
        by_estimand.setdefault(row.estimand, []).append(row)
    for of_estimand in by_estimand.values():
        correct(of_estimand, primary=False)
        yield from map(asdict, of_estimand)


def _labels(checked: Observations) -> dict[int, tuple[str, str | None]]:
    """Label and condition_id of each condition number."""
    conditions = checked.frame.unique("condition")
    labels = {}
    for row in conditions.iter_rows(named=True):
        changes = [
            f"{factor}={row[factor]}"
            for factor, (reference, *_) in checked.levels.items()
            if row[factor] not in (reference, None)
        ]
        labels[row["condition"]] = (",".join(changes) or "original", row["condition_id"])
    return labels
