"""Observations: the one table that analysis accepts, checked, with the terms of its model.

Takes a frame with one row per trial (arm, query, factor levels, outcomes in [0, 1] or null);
gives the same rows with typed factor columns, the terms of a model, and its treatment matrix.
Does not know where the rows come from, what a level says, or any estimator.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

__all__ = ["Observations", "ObservationsError", "Term", "observe"]

REFERENCES = ("original", "present")

# In a column that is only yes or no, yes is the text as it was.
YES_OR_NO = ({"0", "1"}, {"0.0", "1.0"}, {"false", "true"})

# What the checked frame calls its own columns.
OWN = ("model", "arm", "query", "condition_id", "prompt", "wording", "weight", "condition")


class ObservationsError(ValueError):
    """A table that cannot be analysed; the message names the column and the mend."""


@dataclass(frozen=True, slots=True)
class Term:
    """A level of a factor other than its reference."""

    factor: str
    level: str


@dataclass(frozen=True, slots=True)
class Observations:
    """Checked trials: one row each, with the names that the estimators use.

    Columns: `model`, `arm`, `query`, `condition_id`, `prompt`, `wording`, `weight`; factors.

    `levels` has the levels of each factor, reference first; null means not applicable.
    `condition` numbers the distinct combinations of levels. `weight` turns the rows into the
    target law of the design, and is null where there is none.
    """

    frame: pl.DataFrame
    levels: Mapping[str, tuple[str, ...]]
    outcomes: tuple[str, ...]

    @property
    def terms(self) -> tuple[Term, ...]:
        return tuple(Term(f, level) for f, levels in self.levels.items() for level in levels[1:])

    @property
    def models(self) -> tuple[str | None, ...]:
        return tuple(sorted(self.frame["model"].unique(), key=lambda m: (m is None, m)))

    def of_model(self, model: str | None) -> "Observations":
        mask = pl.col("model").is_null() if model is None else pl.col("model") == model
        return Observations(self.frame.filter(mask), self.levels, self.outcomes)


def observe(
    frame: pl.DataFrame,
    *,
    factors: Sequence[str],
    outcomes: Sequence[str],
    arm: str = "arm",
    query: str = "query_id",
    weight: str | None = None,
    prompt: str | None = None,
    wording: str | None = None,
    arms: tuple[str, str] = ("train", "deploy"),
    reference: Mapping[str, str] | None = None,
) -> Observations:
    """Check a frame and give it the names that the estimators use.

    Rows whose `role` is `control`, and arms other than the two in `arms`, are left out: they do not
    enter the gap. The first of `arms` is called train from here on, the second deploy. The
    reference level of a factor is what `reference` says, else `original`, else `present`, else 1
    or true where the others are 0 or false. Raises ObservationsError.
    """
    reference = reference or {}
    _check_names(factors, outcomes, reference)
    wanted = [arm, query, *factors, *outcomes, *(c for c in (weight, prompt, wording) if c)]
    missing = [column for column in wanted if column not in frame.columns]
    if missing:
        raise ObservationsError(
            f"no column {', '.join(f'`{c}`' for c in missing)}; "
            f"the table has {', '.join(frame.columns)}"
        )
    if "role" in frame.columns:
        frame = frame.filter(pl.col("role").ne_missing("control"))
    if frame.is_empty():
        raise ObservationsError(
            "the table has no rows to analyse: give it trials whose `role` is not `control`"
        )
    present = frame[arm].cast(pl.String).unique().to_list()
    for name in arms:
        if name not in present:
            raise ObservationsError(
                f"column `{arm}` never says `{name}`: "
                f"the gap needs both {' and '.join(arms)} trials"
            )
    frame = frame.filter(pl.col(arm).cast(pl.String).is_in(list(arms)))
    if unnamed := frame[query].null_count():
        raise ObservationsError(
            f"column `{query}` is null in {unnamed} rows: name the query of every trial"
        )
    if weight:
        _check_weight(frame, weight)
    for outcome in outcomes:
        _check_outcome(frame, outcome)
    levels = {f: _levels(frame, f, reference.get(f)) for f in factors}
    columns = [
        (
            pl.col("model").cast(pl.String) if "model" in frame.columns else pl.lit(None, pl.String)
        ).alias("model"),
        pl.col(arm)
        .cast(pl.String)
        .replace_strict(dict(zip(arms, ("train", "deploy"), strict=True)))
        .alias("arm"),
        pl.col(query).cast(pl.String).alias("query"),
        (
            pl.col("condition_id").cast(pl.String)
            if "condition_id" in frame.columns
            else pl.lit(None, pl.String).alias("condition_id")
        ),
        (pl.col(prompt).cast(pl.String) if prompt else pl.lit(None, pl.String)).alias("prompt"),
        (pl.col(wording).cast(pl.String) if wording else pl.lit(None, pl.String)).alias("wording"),
        # A trial with no share in the law has no place in an average over it.
        (pl.col(weight).cast(pl.Float64).replace(0.0, None) if weight else pl.lit(1.0)).alias(
            "weight"
        ),
        *(pl.col(f).cast(pl.String).cast(pl.Enum(levels[f])) for f in factors),
        *(pl.col(o).cast(pl.Float64) for o in outcomes),
    ]
    checked = frame.select(columns).with_columns(
        pl.struct(factors).rank("dense").alias("condition")
        if factors
        else pl.lit(1).alias("condition")
    )
    return Observations(checked, levels, tuple(outcomes))


def treatment(frame: pl.DataFrame, terms: Sequence[Term]) -> NDArray[np.float64]:
    """Indicator columns of the terms, one row per trial; a level that is not applicable is 0."""
    found = np.zeros((frame.height, len(terms)))
    numbers: dict[str, tuple[NDArray[np.int64], list[str]]] = {}
    for i, term in enumerate(terms):
        if term.factor not in numbers:
            numbers[term.factor] = _numbered(frame[term.factor])
        codes, levels = numbers[term.factor]
        if term.level in levels:
            found[:, i] = codes == levels.index(term.level)
    return found


def _numbered(column: pl.Series) -> tuple[NDArray[np.int64], list[str]]:
    """Number of the level in each row, -1 for null, and the levels."""
    if not isinstance(column.dtype, pl.Enum):
        column = column.cast(pl.String)
        column = column.cast(pl.Enum(column.drop_nulls().unique().sort()))
    assert isinstance(column.dtype, pl.Enum)
    codes = column.to_physical().cast(pl.Int64).fill_null(-1).to_numpy()
    return codes, column.dtype.categories.to_list()


def at_reference(
    levels: Mapping[str, tuple[str, ...]], *, but: str | None = None, or_null: bool
) -> pl.Expr:
    """Rows with every factor except `but` at its reference, or not applicable with `or_null`."""
    expression = pl.lit(True)
    for factor, (reference, *_) in levels.items():
        if factor != but:
            expression &= (pl.col(factor).cast(pl.String) == reference).fill_null(or_null)
    return expression


def _check_names(
    factors: Sequence[str], outcomes: Sequence[str], reference: Mapping[str, str]
) -> None:
    names = [*factors, *outcomes]
    for name in names:
        if name in OWN:
            raise ObservationsError(f"`{name}` has a meaning of its own here: rename the column")
        if names.count(name) > 1:
            raise ObservationsError(f"column `{name}` is named twice: name it once")
    for name in reference:
        if name not in factors:
            raise ObservationsError(
                f"a reference level is given for `{name}`, which is not among the factors "
                f"{', '.join(factors)}: add it or leave it out"
            )


def _check_weight(frame: pl.DataFrame, weight: str) -> None:
    column = frame[weight]
    if not (column.dtype.is_numeric() or column.dtype == pl.Null):
        raise ObservationsError(f"weight `{weight}` holds {column.dtype}: it must be a number")
    wrong = column.cast(pl.Float64).drop_nulls()
    wrong = wrong.filter(~(wrong.is_finite() & (wrong >= 0)))
    if len(wrong):
        raise ObservationsError(
            f"weight `{weight}` holds {wrong[0]}: it must be 0 or more, or null outside the law"
        )


def _check_outcome(frame: pl.DataFrame, outcome: str) -> None:
    column = frame[outcome]
    if not (column.dtype.is_numeric() or column.dtype in (pl.Boolean, pl.Null)):
        raise ObservationsError(
            f"outcome `{outcome}` holds {column.dtype}: it must be a number in [0, 1] or null"
        )
    values = column.cast(pl.Float64).drop_nulls()
    wrong = values.filter(~values.is_between(0, 1))
    if len(wrong):
        raise ObservationsError(
            f"outcome `{outcome}` holds {wrong[0]}: every value must lie in [0, 1] or be null"
        )


def _levels(frame: pl.DataFrame, factor: str, reference: str | None) -> tuple[str, ...]:
    column = frame[factor]
    if not column.dtype.is_numeric() and not isinstance(column.dtype, pl.Enum):
        column = column.cast(pl.String)
    order = [str(level) for level in column.drop_nulls().unique().sort().cast(pl.String)]
    if len(order) < 2:
        only = f"only `{order[0]}`" if order else "nothing"
        raise ObservationsError(
            f"factor `{factor}` is {only} in this table: a factor needs two levels; leave it out"
        )
    first = reference or next((r for r in REFERENCES if r in order), None)
    if first is None and set(order) in YES_OR_NO:
        first = max(order)
    if first is None or first not in order:
        but = f", not `{first}`" if first else ""
        raise ObservationsError(
            f"factor `{factor}` has levels {', '.join(order)}{but}: say which one is the reference"
        )
    return (first, *(level for level in order if level != first))
