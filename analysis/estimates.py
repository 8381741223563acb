"""Estimates: the rows of effects.csv, whatever they estimate, and how bounds come to them.

Takes estimates with their errors; gives rows with bounds, tests and corrected p-values.
Does not know how any of them is estimated.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import polars as pl

from analysis.intervals import t_interval
from analysis.multiplicity import benjamini_hochberg, holm

__all__ = [
    "ATTRIBUTION", "AVERAGED", "DEPLOY_RATE", "DIFFERENCE", "EFFECTS", "ESTIMANDS", "INTERACTION",
    "MARGINAL", "SIMPLE", "TRAIN_RATE", "UNVERBALISED", "VERBALISED", "Effect", "correct", "infer",
    "joined",
]  # fmt: skip

CONTRAST = "train-deploy"
SIMPLE = "gap_effect_simple"
AVERAGED = "gap_effect_averaged"
ESTIMANDS = (SIMPLE, AVERAGED)
MARGINAL, INTERACTION, ATTRIBUTION = "marginal_gap", "interaction", "attribution"
VERBALISED, UNVERBALISED = "gap_verbalised", "gap_unverbalised"
TRAIN_RATE, DEPLOY_RATE = "rate_effect_train", "rate_effect_deploy"
DIFFERENCE = "model_difference"

# The columns of effects.csv.
EFFECTS: dict[str, Any] = {
    "model": pl.String,
    "outcome": pl.String,
    "contrast": pl.String,
    "estimand": pl.String,
    "factor": pl.String,
    "level": pl.String,
    "factor2": pl.String,
    "level2": pl.String,
    "reference": pl.String,
    "estimate": pl.Float64,
    "train_part": pl.Float64,
    "deploy_part": pl.Float64,
    "std_error": pl.Float64,
    "statistic": pl.Float64,
    "df": pl.Float64,
    "p_value": pl.Float64,
    "p_holm": pl.Float64,
    "q_bh": pl.Float64,
    "p_placebo": pl.Float64,
    "conf_low": pl.Float64,
    "conf_high": pl.Float64,
    "n_trials": pl.Int64,
    "n_clusters": pl.Int64,
    "family": pl.String,
    "grader": pl.String,
    "correction": pl.String,
    "role": pl.String,
    "method": pl.String,
    "note": pl.String,
}


@dataclass(slots=True)
class Effect:
    """One row of effects.csv as it is built; proportions, None where unknown."""

    model: str | None
    outcome: str
    estimand: str
    factor: str | None
    level: str | None
    reference: str | None
    estimate: float | None = None
    train_part: float | None = None
    deploy_part: float | None = None
    std_error: float | None = None
    statistic: float | None = None
    df: float | None = None
    p_value: float | None = None
    p_holm: float | None = None
    q_bh: float | None = None
    conf_low: float | None = None
    conf_high: float | None = None
    n_trials: int | None = None
    n_clusters: int | None = None
    family: str | None = None
    grader: str | None = None
    method: str | None = None
    note: str | None = None
    contrast: str = CONTRAST
    factor2: str | None = None
    level2: str | None = None
    p_placebo: float | None = None
    correction: str = "raw"
    role: str = "primary"


def infer(row: Effect, std_error: float, df: float | None, *, tested: bool = True) -> None:
    """Give a row its error and bounds, and its test unless it is not `tested`."""
    if row.estimate is None or df is None:
        return
    bounds = t_interval(row.estimate, std_error, df)
    row.std_error, row.df = std_error, df
    row.conf_low, row.conf_high = bounds.low, bounds.high
    if tested:
        row.statistic, row.p_value = bounds.statistic, bounds.p_value


def correct(rows: Iterable[Effect], *, primary: bool) -> None:
    """Correct the p-values of a family: Holm for the primary one, else Benjamini-Hochberg."""
    family = [row for row in rows if row.role == "primary"]
    p_values = [row.p_value for row in family]
    corrected = holm(p_values) if primary else benjamini_hochberg(p_values)
    for row, p_value in zip(family, corrected, strict=True):
        if primary:
            row.p_holm, row.family = p_value, "factors"
        else:
            row.q_bh, row.family = p_value, "screen"


def joined(*notes: str | None) -> str | None:
    """Notes in one text; None when there is none."""
    return "; ".join(dict.fromkeys(note for note in notes if note)) or None
