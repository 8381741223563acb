"""Missing outcomes and drift: what was not observed, and whether the gap moved during the run.

Takes frames of one row per trial with `query`, `arm` (train, deploy), `condition` and an outcome in
[0, 1] or null, for drift also `block`; gives rates of missing outcomes, a test between the arms,
worst-case bounds and a test of block x arm. Does not know why an outcome is missing, nor any model
of it.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from analysis.intervals import newcombe, t_interval, t_quantile, wilson

__all__ = [
    "MISSING",
    "Bounds",
    "Drift",
    "MissingDifference",
    "drift",
    "effect_bounds",
    "gap_bounds",
    "missing_between_arms",
    "missing_rates",
]

ARMS = ("train", "deploy")
TOLERATED = 0.05
ALPHA = 0.05
SPREAD = 1e-12

# The columns of `missing_rates`.
MISSING: dict[str, Any] = {
    "condition": pl.Int64,
    "arm": pl.String,
    "n": pl.Int64,
    "n_missing": pl.Int64,
    "rate": pl.Float64,
    "conf_low": pl.Float64,
    "conf_high": pl.Float64,
    "note": pl.String,
}


@dataclass(frozen=True, slots=True)
class MissingDifference:
    """Share of trials without an outcome in train and in deploy, and their difference.

    `std_error` is None where no query differs from its arm; `p_value` is None where nothing, or
    everything, is missing.
    """

    rate_train: float
    rate_deploy: float
    difference: float
    std_error: float | None
    low: float
    high: float
    df: int | None
    p_value: float | None
    method: str


@dataclass(frozen=True, slots=True)
class Bounds:
    """What an estimate could be, whatever the missing outcomes were (Manski 1990).

    `low` and `high` are the estimate with every missing outcome at the value that lowers, or
    raises, it most; `conf_low` and `conf_high` are the lower 95 % limit of the one and the upper
    of the other, and so hold for any value between (Horowitz and Manski 2000); None where no query
    differs from another. `needed` says whether they are to be reported, and `reason` why.
    """

    low: float
    high: float
    conf_low: float | None
    conf_high: float | None
    n_queries: int
    rate_missing: float
    needed: bool
    reason: str | None


@dataclass(frozen=True, slots=True)
class Drift:
    """Test that the gap is the same in every block; `gaps` are its values by block, in order."""

    gaps: tuple[tuple[str, float, int], ...]
    statistic: float | None
    df1: int | None
    df2: int | None
    p_value: float | None
    method: str
    note: str | None


def missing_rates(frame: pl.DataFrame, outcome: str) -> pl.DataFrame:
    """Missing outcomes of every cell, condition x arm, as a share with Wilson's interval.

    Cells without a single outcome say so in `note`, `no trials` or `all missing`: contrasts that
    need them cannot be estimated. Columns are those of MISSING.
    """
    counts = frame.group_by("condition", "arm").agg(
        pl.len().cast(pl.Int64).alias("n"),
        pl.col(outcome).null_count().cast(pl.Int64).alias("n_missing"),
    )
    cells = frame.select(pl.col("condition").unique().sort()).join(
        pl.DataFrame({"arm": ARMS}), how="cross"
    )
    rows = []
    for cell in cells.join(
        counts, on=["condition", "arm"], how="left", maintain_order="left"
    ).iter_rows(named=True):
        n, missing = cell["n"] or 0, cell["n_missing"] or 0
        interval = wilson(missing, n) if n else None
        rows.append(
            {
                "condition": cell["condition"],
                "arm": cell["arm"],
                "n": n,
                "n_missing": missing,
                "rate": missing / n if n else None,
                "conf_low": interval and interval.low,
                "conf_high": interval and interval.high,
                "note": "no trials" if not n else "all missing" if missing == n else None,
            }
        )
    return pl.DataFrame(rows, schema={**MISSING, "condition": frame.schema["condition"]})


def missing_between_arms(frame: pl.DataFrame, outcome: str) -> MissingDifference | None:
    """Whether outcomes are missing more often in one arm; None unless both arms have trials.

    Difference of the trials' shares, train minus deploy, with its CR1 error by query and Student's
    t with queries - 1 degrees of freedom. Where no query differs from its arm, Newcombe's interval
    and Fisher's exact test on the trials.
    """
    lost = frame[outcome].is_null().cast(pl.Float64).to_numpy()
    train = (frame["arm"] == "train").to_numpy()
    deploy = (frame["arm"] == "deploy").to_numpy()
    n1, n0 = int(train.sum()), int(deploy.sum())
    if not n1 or not n0:
        return None
    rate1, rate0 = float(lost[train].mean()), float(lost[deploy].mean())
    influence = train * (lost - rate1) / n1 - deploy * (lost - rate0) / n0
    error, queries = _clustered(influence[train | deploy], frame["query"].filter(train | deploy))
    if error is not None:
        test = t_interval(rate1 - rate0, error, queries - 1)
        return MissingDifference(
            rate1,
            rate0,
            rate1 - rate0,
            error,
            test.low,
            test.high,
            queries - 1,
            test.p_value,
            "CR1 by query, t(Q-1)",
        )
    k1, k0 = round(rate1 * n1), round(rate0 * n0)
    bounds = newcombe(k1, n1, k0, n0)
    p_value = _fisher(k1, n1, k0, n0) if 0 < k1 + k0 < n1 + n0 else None
    return MissingDifference(
        rate1, rate0, rate1 - rate0, None, bounds.low, bounds.high, None, p_value, "Fisher exact"
    )


def gap_bounds(frame: pl.DataFrame, outcome: str) -> Bounds | None:
    """Worst-case bounds of one condition's gap; None where no query has trials in both arms.

    Queries count equally, as in the gap itself: at the low end train's missing outcomes are 0 and
    deploy's 1, at the high end the other way round. Needed where more than 5 % are missing, or
    where the arms differ (p <= .05).
    """
    low, high = (_differences(_filled(frame, outcome, best)) for best in (False, True))
    if low.is_empty():
        return None
    rate = float(frame[outcome].is_null().mean())  # type: ignore[arg-type]
    reason = _reason(rate, missing_between_arms(frame, outcome))
    return _bounds(low["d"].to_numpy(), high["d"].to_numpy(), rate, reason)


def effect_bounds(changed: pl.DataFrame, reference: pl.DataFrame, outcome: str) -> Bounds | None:
    """Worst-case bounds of a gap effect, gap(changed) - gap(reference), paired by query.

    Each condition's missing outcomes take the values that push its gap the one way while the
    other's is pushed the other way. None where no query has trials in all four cells. Needed where
    more than 5 % of a condition's outcomes are missing, or the arms differ in either.
    """
    ends = []
    for best in (False, True):
        one = _differences(_filled(changed, outcome, best))
        zero = _differences(_filled(reference, outcome, not best))
        both = one.join(zero, on="query", suffix="_reference").sort("query")
        ends.append((both["d"] - both["d_reference"]).to_numpy())
    if not len(ends[0]):
        return None
    rates = [float(f[outcome].is_null().mean()) for f in (changed, reference)]  # type: ignore[arg-type]
    reasons = [
        _reason(rate, missing_between_arms(f, outcome))
        for rate, f in zip(rates, (changed, reference), strict=True)
    ]
    return _bounds(ends[0], ends[1], max(rates), next((r for r in reasons if r), None))


def drift(frame: pl.DataFrame, outcome: str) -> Drift:
    """Test of block x arm: did the gap move while the study ran?

    One difference d, train minus deploy, per query and block. Where every query stands in one
    block, as in a blocked plan: analysis of variance of d between blocks, F with blocks - 1 and
    queries - blocks degrees of freedom; queries are dealt to blocks at random, so that their
    spread is the same in each under the hypothesis. Where queries return in several blocks: Wald
    test of equal block means with CR1 by query, scaled to Hotelling's F with blocks - 1 and
    queries - blocks + 1, which it is exactly when every query is in every block. Rows without a
    block are left out.
    """
    known = frame.filter(pl.col("block").is_not_null())
    parts = [
        _differences(known.filter(pl.col("block") == block), outcome).with_columns(
            pl.lit(str(block)).alias("block")
        )
        for block in known["block"].unique().sort()
    ]
    parts = [part for part in parts if part.height]
    gaps = tuple((p["block"][0], float(p["d"].to_numpy().mean()), p.height) for p in parts)
    if len(parts) < 2:
        return Drift(gaps, None, None, None, None, "none", "fewer than two blocks with a gap")
    cells = pl.concat(parts)
    test = _anova if cells["query"].is_unique().all() else _hotelling
    statistic, df1, df2, method = test(cells)
    if statistic is None:
        return Drift(gaps, None, df1, df2, None, method, "too few queries, or none that differ")
    from scipy import special

    p_value = float(special.fdtrc(df1, df2, statistic))
    return Drift(gaps, statistic, df1, df2, p_value, method, None)


def _filled(frame: pl.DataFrame, outcome: str, best: bool) -> pl.DataFrame:
    """The frame with missing outcomes at the values that make the gap largest, or smallest."""
    value = (pl.col("arm") == "train") if best else (pl.col("arm") != "train")
    return frame.select(
        "query", "arm", pl.col(outcome).cast(pl.Float64).fill_null(value.cast(pl.Float64))
    ).rename({outcome: "d"} if outcome != "d" else {})


def _differences(frame: pl.DataFrame, outcome: str = "d") -> pl.DataFrame:
    """Train minus deploy of every query with outcomes in both: `query, d`."""
    train, deploy = (
        frame.filter(pl.col("arm") == arm, pl.col(outcome).is_not_null())
        .group_by("query")
        .agg(pl.col(outcome).cast(pl.Float64).mean().alias(arm))
        for arm in ARMS
    )
    both = train.join(deploy, on="query").sort("query")
    return both.select("query", (pl.col("train") - pl.col("deploy")).alias("d"))


def _bounds(
    low: NDArray[np.float64], high: NDArray[np.float64], rate: float, reason: str | None
) -> Bounds:
    queries = len(low)
    conf_low = conf_high = None
    if queries > 1 and min(low.std(), high.std()) > SPREAD:
        reach = t_quantile(0.975, queries - 1) / math.sqrt(queries)
        conf_low = float(low.mean() - reach * low.std(ddof=1))
        conf_high = float(high.mean() + reach * high.std(ddof=1))
    return Bounds(
        float(low.mean()),
        float(high.mean()),
        conf_low,
        conf_high,
        queries,
        rate,
        reason is not None,
        reason,
    )


def _reason(rate: float, arms: MissingDifference | None) -> str | None:
    if rate > TOLERATED:
        return f"{rate:.1%} of the outcomes are missing"
    if arms is not None and arms.p_value is not None and arms.p_value <= ALPHA:
        return (
            f"missing outcomes differ between the arms, {arms.rate_train:.1%} in train and "
            f"{arms.rate_deploy:.1%} in deploy"
        )
    return None


def _clustered(influence: NDArray[np.float64], queries: pl.Series) -> tuple[float | None, int]:
    """CR1 standard error of a sum of influence values, None where it would be 0; and clusters."""
    sums = (
        pl.DataFrame({"query": queries, "z": influence}).group_by("query").agg(pl.col("z").sum())
    )["z"].to_numpy()
    groups = len(sums)
    if groups < 2 or np.abs(sums).max() < SPREAD:
        return None, groups
    return math.sqrt(groups / (groups - 1) * float(sums @ sums)), groups


def _fisher(k1: int, n1: int, k0: int, n0: int) -> float:
    from scipy import stats

    return float(stats.fisher_exact([[k1, n1 - k1], [k0, n0 - k0]]).pvalue)


def _anova(cells: pl.DataFrame) -> tuple[float | None, int, int, str]:
    method = "ANOVA of query differences between blocks"
    d = cells["d"].to_numpy()
    within = cells.select((pl.col("d") - pl.col("d").mean().over("block")).pow(2).sum()).item()
    total = float(((d - d.mean()) ** 2).sum())
    blocks = cells["block"].n_unique()
    df1, df2 = blocks - 1, len(d) - blocks
    if df2 < 1 or within < SPREAD:
        return None, df1, df2, method
    return (total - within) / df1 / (within / df2), df1, df2, method


def _hotelling(cells: pl.DataFrame) -> tuple[float | None, int, int, str]:
    method = "Wald by query, Hotelling's F"
    blocks = cells["block"].n_unique()
    queries = cells["query"].n_unique()
    df1, df2 = blocks - 1, queries - blocks + 1
    if df2 < 1:
        return None, df1, df2, method
    centred = cells.with_columns(
        ((pl.col("d") - pl.col("d").mean().over("block")) / pl.len().over("block")).alias("z")
    )
    wide = centred.pivot(on="block", index="query", values="z", aggregate_function="sum")
    names = cells["block"].unique(maintain_order=True)
    scores = wide.select(names.to_list()).fill_null(0.0).to_numpy()
    covariance = scores.T @ scores * queries / (queries - 1)
    means = cells.group_by("block", maintain_order=True).agg(pl.col("d").mean())["d"].to_numpy()
    contrasts = np.hstack([-np.ones((df1, 1)), np.eye(df1)])
    spread = contrasts @ covariance @ contrasts.T
    if np.linalg.matrix_rank(spread, tol=SPREAD) < df1:
        return None, df1, df2, method
    apart = contrasts @ means
    wald = float(apart @ np.linalg.solve(spread, apart))
    return wald * df2 / ((queries - 1) * df1), df1, df2, method
