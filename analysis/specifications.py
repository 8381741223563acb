"""Specifications: one effect, estimated in every way that could have been defended.

Takes a frame of estimates labelled by the choices behind them (grader, estimator, wording, query
subset, scale); gives them in order with intervals, and how many agree.
Does not know how an estimate was made, and makes no test over specifications: they share data.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from analysis.intervals import t_interval, z_interval

__all__ = ["Agreement", "SpecificationsError", "agreement", "curve", "curve_by"]

ALPHA = 0.05
OWN = ("position", "conf_low", "conf_high", "p_value", "significant", "agrees", "headline")


class SpecificationsError(ValueError):
    """Specifications that cannot be compared; the message names the column and the mend."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far the specifications say the same; shares are of those with an estimate.

    `agree` has the sign of the headline, `significant_agree` also a 95 % interval without 0;
    `significant_against` has the other sign and such an interval. Of those with a sign but no
    error nothing is said on significance: its shares are of `tested`. `low` and `high` are the
    smallest and the largest estimate, no interval: specifications share their data, so that their
    number is no sample size.
    """

    specifications: int
    estimated: int
    tested: int
    median: float | None
    low: float | None
    high: float | None
    agree: float | None
    significant_agree: float | None
    significant_against: float | None


def curve(
    specifications: pl.DataFrame,
    dimensions: Sequence[str],
    *,
    headline: Mapping[str, str] | None = None,
) -> pl.DataFrame:
    """The specification curve (Simonsohn, Simmons and Nelson 2020), smallest estimate first.

    `specifications` has the columns `dimensions`, `estimate`, `std_error` and, for Student's t,
    `df` (null: normal). Added are `position` from 1, `conf_low, conf_high, p_value, significant`
    (null without an error above 0), `headline`, and `agrees`: whether the estimate has the sign of
    the headline, or where none is named of the median. Those without an estimate come last,
    without a position. Raises SpecificationsError.
    """
    _check(specifications, dimensions)
    frame = specifications
    if "df" not in frame.columns:
        frame = frame.with_columns(pl.lit(None, pl.Float64).alias("df"))
    chosen = pl.lit(headline is not None)
    for dimension, level in (headline or {}).items():
        chosen &= pl.col(dimension).cast(pl.String) == level
    frame = frame.with_columns(
        pl.col("estimate").cast(pl.Float64).fill_nan(None), chosen.alias("headline")
    )
    sign = _sign(frame, headline)
    frame = frame.sort("estimate", *dimensions, nulls_last=True)
    bounds = [_bounds(*row) for row in frame.select("estimate", "std_error", "df").iter_rows()]
    columns = ("conf_low", "conf_high", "p_value")
    return frame.with_columns(
        pl.when(pl.col("estimate").is_not_null())
        .then(pl.int_range(1, pl.len() + 1, dtype=pl.Int64))
        .alias("position"),
        *(
            pl.Series(name, [row[i] for row in bounds], dtype=pl.Float64)
            for i, name in enumerate(columns)
        ),
        (pl.col("estimate").sign() == pl.lit(sign, pl.Float64)).alias("agrees"),
    ).with_columns((pl.col("p_value") < ALPHA).alias("significant"))


def agreement(found: pl.DataFrame) -> Agreement:
    """What a curve comes to in numbers."""
    estimated = found.filter(pl.col("estimate").is_not_null())
    tested = estimated.filter(pl.col("significant").is_not_null())
    estimates = estimated["estimate"].to_numpy()
    some = len(estimates) > 0
    return Agreement(
        specifications=found.height,
        estimated=estimated.height,
        tested=tested.height,
        median=float(estimated.select(pl.col("estimate").median()).item()) if some else None,
        low=float(estimates.min()) if some else None,
        high=float(estimates.max()) if some else None,
        agree=_share(estimated, pl.col("agrees")),
        significant_agree=_share(tested, pl.col("significant") & pl.col("agrees")),
        significant_against=_share(tested, pl.col("significant") & ~pl.col("agrees")),
    )


def curve_by(found: pl.DataFrame, dimensions: Sequence[str]) -> pl.DataFrame:
    """Which choice matters: `dimension, level, estimated, median, low, high, agree, significant`.

    Medians and ranges of the estimates, and shares as in `Agreement`, one row per level.
    """
    estimated = found.filter(pl.col("estimate").is_not_null())
    rows = [
        estimated.group_by(pl.col(dimension).cast(pl.String).alias("level"))
        .agg(
            pl.len().cast(pl.Int64).alias("estimated"),
            pl.col("estimate").median().alias("median"),
            pl.col("estimate").min().alias("low"),
            pl.col("estimate").max().alias("high"),
            pl.col("agrees").mean().alias("agree"),
            pl.col("significant").mean().alias("significant"),
        )
        .sort("level")
        .select(pl.lit(dimension).alias("dimension"), pl.all())
        for dimension in dimensions
    ]
    return pl.concat(rows)


def _check(specifications: pl.DataFrame, dimensions: Sequence[str]) -> None:
    wanted = [*dimensions, "estimate", "std_error"]
    if missing := [c for c in wanted if c not in specifications.columns]:
        raise SpecificationsError(
            f"no column {', '.join(f'`{c}`' for c in missing)}; "
            f"the table has {', '.join(specifications.columns)}"
        )
    if taken := [c for c in dimensions if c in OWN]:
        raise SpecificationsError(f"`{taken[0]}` is a column of the curve: rename the dimension")
    if not dimensions:
        raise SpecificationsError("no dimension: name the columns that tell specifications apart")
    twice = specifications.filter(specifications.select(dimensions).is_duplicated())
    if twice.height:
        which = ", ".join(f"{d}={twice[d][0]}" for d in dimensions)
        raise SpecificationsError(
            f"{which} stands there more than once: name a dimension that tells the rows apart"
        )


def _sign(frame: pl.DataFrame, headline: Mapping[str, str] | None) -> float | None:
    """The sign to agree with; None where it is 0 or there is no estimate."""
    chosen = frame.filter(pl.col("headline")) if headline is not None else frame
    if headline is not None and chosen.height != 1:
        which = ", ".join(f"{dimension}={level}" for dimension, level in headline.items())
        raise SpecificationsError(
            f"the headline {which} fits {chosen.height} specifications: it must fit one"
        )
    middle = chosen.select(pl.col("estimate").median()).item()
    return None if not middle else float(1 if middle > 0 else -1)


def _bounds(
    estimate: float | None, std_error: float | None, df: float | None
) -> tuple[float | None, float | None, float | None]:
    if estimate is None or std_error is None or not std_error > 0:
        return None, None, None
    found = z_interval(estimate, std_error) if df is None else t_interval(estimate, std_error, df)
    return found.low, found.high, found.p_value


def _share(rows: pl.DataFrame, condition: pl.Expr) -> float | None:
    share = rows.select(condition.mean()).item() if rows.height else None
    return None if share is None else float(share)
