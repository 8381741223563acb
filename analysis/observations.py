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

__all__ = [
    "Observations",
    "ObservationsError",
    "Term",
    "check_graded",
    "collapse",
    "listed",
    "observe",
    "yes_or_no",
]

REFERENCES = ("original", "present")

# In a column that is only yes or no, yes is the text as it was.
YES_OR_NO = ({"0", "1"}, {"0.0", "1.0"}, {"false", "true"})

# What the checked frame calls its own columns.
OWN = ("model", "arm", "query", "condition_id", "prompt", "wording", "weight", "condition", "n")

# A factor with more levels than this is a number of something, an id or a text.
MOST_LEVELS = 200
# How many names a message lists.
LISTED = 30


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

    Columns: `model`, `arm`, `query`, `condition_id`, `prompt`, `wording`, `weight`, `n`; factors.

    `levels` has the levels of each factor, reference first; null means not applicable.
    `condition` numbers the distinct combinations of levels. `weight` turns the rows into the
    target law of the design, and is null where there is none. `n` is how many trials a row stands
    for: 1 as observed, more once they are collapsed, when an outcome is their mean.
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
    placebo: str | None = None,
) -> Observations:
    """Check a frame and give it the names that the estimators use.

    Rows whose `role` is `control`, and arms other than the two in `arms`, are left out: they do not
    enter the gap. The first of `arms` is called train from here on, the second deploy. The
    reference level of a factor is what `reference` says, else `original`, else `present`, else 1
    or true where the others are 0 or false. A factor has at most 200 levels. Raises
    ObservationsError.
    """
    reference = reference or {}
    _check_names((arm, query), factors, outcomes, reference)
    optional = [column for column in (weight, prompt, wording, placebo) if column]
    _check_columns(frame, [arm, query, *factors, *outcomes, *optional])
    if "role" in frame.columns:
        frame = frame.filter(pl.col("role").cast(pl.String).ne_missing("control"))
    if frame.is_empty():
        raise ObservationsError(
            "the table has no rows to analyse: give it trials whose `role` is not `control`"
        )
    present = frame[arm].cast(pl.String).drop_nulls().unique().sort().to_list()
    for name in arms:
        if name not in present:
            raise ObservationsError(
                f"column `{arm}` never says `{name}`, only {listed(present) or 'null'}: "
                f"the gap needs both {' and '.join(arms)} trials; name the two values that make it"
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
        pl.lit(1, pl.Int64).alias("n"),
        *([pl.col(placebo).cast(pl.String).alias("placebo")] if placebo else []),
        *(pl.col(f).cast(pl.String).cast(pl.Enum(levels[f])) for f in factors),
        *(pl.col(o).cast(pl.Float64) for o in outcomes),
    ]
    return Observations(
        _numbered_conditions(frame.select(columns), levels), levels, tuple(outcomes)
    )


def collapse(observations: Observations, outcome: str, *, wordings: bool) -> Observations:
    """The trials in cells: rows that no estimator tells apart are one, with their mean.

    With `wordings` trials of different wordings stay apart, else they are summed out. Sums of
    weights, means and clustered scores are those of the trials, so that no estimate and no error
    changes.
    """
    graded = pl.when(pl.col(outcome).is_not_null()).then(pl.col("n")).otherwise(0)
    keys = ["model", "arm", "query", "condition", "weight"] + ["wording"] * wordings
    firsts = [*observations.levels, "condition_id"]
    cells = (
        observations.frame.group_by(keys, maintain_order=True)
        .agg(
            (pl.col(outcome) * pl.col("n")).sum().alias(outcome),
            graded.sum().alias("n"),
            *(pl.col(name).first() for name in firsts),
        )
        # A cell without a grade has no mean, rather than one of 0.
        .with_columns(
            pl.when(pl.col("n") > 0).then(pl.col(outcome) / pl.col("n")).alias(outcome),
            pl.lit(None, pl.String).alias("prompt"),
        )
    )
    if not wordings:
        cells = cells.with_columns(pl.lit(None, pl.String).alias("wording"))
    return Observations(cells, observations.levels, (outcome,))


def _numbered_conditions(
    frame: pl.DataFrame, levels: Mapping[str, tuple[str, ...]]
) -> pl.DataFrame:
    """The frame with `condition`: 1, 2, ... for each combination of levels, the first levels first.

    As one whole number, because ranking a struct of many columns takes seconds for 10^6 rows.
    """
    code, size = pl.lit(0, pl.Int64), 1
    parts = []
    for factor, known in levels.items():
        if size * (len(known) + 1) >= 2**62:
            parts.append(code)
            code, size = pl.lit(0, pl.Int64), 1
        # Null is the smallest, as in a sorted struct.
        place = pl.col(factor).to_physical().cast(pl.Int64).fill_null(-1) + 1
        code, size = code * (len(known) + 1) + place, size * (len(known) + 1)
    parts.append(code)
    if len(parts) == 1:
        codes = frame.with_columns(parts[0].alias("code"))["code"]
        known_codes = codes.unique().sort()
        numbers = pl.int_range(1, len(known_codes) + 1, dtype=pl.Int64, eager=True)
        return frame.with_columns(codes.replace_strict(known_codes, numbers).alias("condition"))
    named = [part.alias(f"_{i}") for i, part in enumerate(parts)]
    ranks = frame.select(pl.struct(named).rank("dense").cast(pl.Int64).alias("condition"))
    return frame.with_columns(ranks["condition"])


def check_graded(frame: pl.DataFrame, outcomes: Sequence[str]) -> None:
    """Raise ObservationsError when there are rows and none has a value of any outcome."""
    if frame.height and outcomes and all(frame[outcome].is_null().all() for outcome in outcomes):
        raise ObservationsError(
            f"outcome {listed([f'`{outcome}`' for outcome in outcomes])} is null in every row: "
            "there is nothing to estimate; grade the trials, or name another outcome"
        )


def yes_or_no(levels: Sequence[str]) -> bool:
    """Whether levels are 0 and 1 or false and true, in any case of the letters."""
    return len(levels) == 2 and {level.lower() for level in levels} in YES_OR_NO


def listed(names: Sequence[str]) -> str:
    """Names for a message, the first of many."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


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
            expression &= (pl.col(factor) == reference).fill_null(or_null)
    return expression


def _check_names(
    places: Sequence[str],
    factors: Sequence[str],
    outcomes: Sequence[str],
    reference: Mapping[str, str],
) -> None:
    names = [*places, *factors, *outcomes]
    for name in (*factors, *outcomes):
        if name in (*OWN, "role"):
            raise ObservationsError(f"`{name}` has a meaning of its own here: rename the column")
    for name in names:
        if names.count(name) > 1:
            raise ObservationsError(
                f"column `{name}` is named twice: it is one of arm, query, factor and outcome"
            )
    for name in reference:
        if name not in factors:
            raise ObservationsError(
                f"a reference level is given for `{name}`, which is not among the factors "
                f"{listed(factors)}: add it or leave it out"
            )


def _check_columns(frame: pl.DataFrame, wanted: Sequence[str]) -> None:
    """The columns are there, and hold one value a row."""
    if missing := [f"`{column}`" for column in wanted if column not in frame.columns]:
        raise ObservationsError(
            f"no column {', '.join(missing)}; the table has {listed(frame.columns) or 'none'}"
        )
    known = [column for column in ("model", "role", "condition_id") if column in frame.columns]
    for column in (*wanted, *known):
        kind = frame.schema[column]
        if kind.is_nested() or kind in (pl.Binary, pl.Object):
            raise ObservationsError(
                f"column `{column}` holds {kind}: give text, numbers or booleans, one value a row"
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
    # NaN lies beyond every number, so that it is among the wrong.
    wrong = values.filter(~values.is_between(0, 1))
    if len(wrong):
        raise ObservationsError(
            f"outcome `{outcome}` holds {wrong[0]}: every value must lie in [0, 1] or be null"
        )


def _levels(frame: pl.DataFrame, factor: str, reference: str | None) -> tuple[str, ...]:
    column = frame[factor]
    if column.dtype.is_float() and column.is_nan().any():
        raise ObservationsError(
            f"factor `{factor}` holds NaN: a level that is not applicable is null"
        )
    if not column.dtype.is_numeric() and not isinstance(column.dtype, pl.Enum):
        column = column.cast(pl.String)
    found = column.unique().drop_nulls()
    if len(found) > MOST_LEVELS:
        raise ObservationsError(
            f"factor `{factor}` has {len(found)} levels, more than {MOST_LEVELS}: "
            "leave it out, or put its values into a few levels"
        )
    order = [str(level) for level in found.sort().cast(pl.String)]
    if len(order) < 2:
        only = f"only `{order[0]}`" if order else "nothing but null"
        raise ObservationsError(
            f"factor `{factor}` is {only} in this table: a factor needs two levels; leave it out"
        )
    first = reference or next((r for r in REFERENCES if r in order), None)
    if first is None and yes_or_no(order):
        first = max(order, key=str.lower)
    if first is None or first not in order:
        but = f", not `{first}`" if first else ""
        raise ObservationsError(
            f"factor `{factor}` has levels {listed(order)}{but}: "
            f"say which one is the reference, as in {factor}={order[0]}"
        )
    return (first, *(level for level in order if level != first))
