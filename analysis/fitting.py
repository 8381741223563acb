"""The fit: all tables of a study from its observations.

Takes one frame of trials and the names of its columns; gives gaps, effects and coefficients.
Does not know files or studies.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from analysis.effects import EFFECTS, ESTIMANDS, SIMPLE, effects
from analysis.gaps import GAPS, gaps
from analysis.intervals import t_interval
from analysis.observations import Observations, ObservationsError, observe
from analysis.regressions import linear_probability, queries_at

__all__ = ["Results", "fit"]

# The columns of coefficients.csv.
COEFFICIENTS: dict[str, Any] = {
    "model": pl.String,
    "outcome": pl.String,
    "fit": pl.String,
    "term": pl.String,
    "estimate": pl.Float64,
    "std_error": pl.Float64,
    "statistic": pl.Float64,
    "df": pl.Float64,
    "p_value": pl.Float64,
    "conf_low": pl.Float64,
    "conf_high": pl.Float64,
    "covariance": pl.String,
    "note": pl.String,
}


@dataclass(frozen=True, slots=True)
class Results:
    """The tables of a fit; proportions, null where unknown. Columns: docs/data.md."""

    gaps: pl.DataFrame
    effects: pl.DataFrame
    coefficients: pl.DataFrame


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
) -> Results:
    """Gaps, effects and coefficients of every model and outcome in a table of trials.

    `weight` names the column that turns the trials into the target law of averaged effects;
    without it they average over the table as it is. `prompt` names a column of prompt hashes:
    with it, conditions that render alike in both arms are recognised, within each value of the
    column `wording`. `contrasts` names the pairs of arms that make a gap, each with tables of its
    own. Raises ObservationsError.
    """
    if primary not in ESTIMANDS:
        raise ObservationsError(f"no estimand `{primary}`; there is {', '.join(ESTIMANDS)}")
    if taken := [f for f in factors if f in GAPS]:
        raise ObservationsError(f"`{taken[0]}` is a column of the table of gaps: rename the column")
    gap_rows, effect_rows, coefficient_rows = [], [], []
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
        )
        label = {"contrast": "-".join(pair)}
        labels = _labels(checked)
        for model in checked.models:
            of_model = checked.of_model(model)
            for outcome in outcomes:
                if of_model.frame[outcome].is_null().all():
                    continue
                gap_rows += [row | label for row in gaps(of_model, outcome, labels)]
                found = effects(of_model, outcome, primary=primary, grader=grader)
                effect_rows += [row | label for row in found]
                if pair == contrasts[0]:
                    coefficient_rows += _coefficients(of_model, outcome)
    gap_schema: dict[str, Any] = {}
    for column, kind in GAPS.items():
        gap_schema[column] = kind
        if column == "condition_id":
            gap_schema |= {f: pl.Enum(levels) for f, levels in checked.levels.items()}
    return Results(
        pl.DataFrame(gap_rows, schema=gap_schema),
        pl.DataFrame(effect_rows, schema=EFFECTS).select(list(EFFECTS)),
        pl.DataFrame(coefficient_rows, schema=COEFFICIENTS),
    )


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


def _coefficients(observations: Observations, outcome: str) -> list[dict[str, Any]]:
    """The unweighted linear probability model, one row per coefficient."""
    graded = observations.frame.filter(pl.col(outcome).is_not_null())
    if graded["arm"].n_unique() < 2 or graded["query"].n_unique() < 2:
        return []
    fitted = linear_probability(observations.frame, outcome, observations.terms, weighted=False)
    rows = []
    for i, name in enumerate(fitted.names):
        row: dict[str, Any] = dict.fromkeys(COEFFICIENTS)
        row |= {"model": observations.frame["model"][0], "outcome": outcome, "fit": "lpm"}
        row |= {"term": name.label, "covariance": "CR1"}
        found = fitted.contrast(np.eye(len(fitted.names))[i])
        if found is None:
            row["note"] = "not estimable"
        else:
            row["estimate"] = found[0]
            if name.term and queries_at(graded, name.term) < 2:
                row["note"] = "one query"
            elif found[1] > 1e-12:
                bounds = t_interval(*found, fitted.df)
                row |= {"std_error": found[1], "df": float(fitted.df)}
                row |= {"statistic": bounds.statistic, "p_value": bounds.p_value}
                row |= {"conf_low": bounds.low, "conf_high": bounds.high}
            else:
                row["note"] = "boundary"
        rows.append(row)
    return rows
