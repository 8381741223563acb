"""Missing outcomes: rates, worst cases by enumeration, and tests that agree with R and scipy."""

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy import stats
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.proportion import proportion_confint

from analysis.missing import (
    drift,
    effect_bounds,
    gap_bounds,
    missing_between_arms,
    missing_rates,
)

REFERENCE = Path(__file__).parent / "reference"
FROM_R: dict[str, Any] = json.loads((REFERENCE / "judges.json").read_text("utf-8"))
LABELLED = pl.read_csv(REFERENCE / "data" / "labelled.csv")


def trials(seed: int, queries: int = 4, missing: float = 0.2) -> pl.DataFrame:
    """One condition, up to three trials a cell, some without an outcome."""
    rng = np.random.default_rng(seed)
    rows = [
        (f"q{q}", arm, 1, float(rng.random() < 0.4) if rng.random() > missing else None)
        for q, arm in itertools.product(range(queries), ("train", "deploy"))
        for _ in range(int(rng.integers(1, 4)))
    ]
    return pl.DataFrame(rows, schema=["query", "arm", "condition", "y"], orient="row")


def gap(frame: pl.DataFrame) -> list[float]:
    """Differences of the queries' means by plain loops."""
    rows = frame.select("query", "arm", "y").rows()
    found = []
    for query in sorted({r[0] for r in rows}):
        one, zero = (
            [y for q, a, y in rows if q == query and a == arm] for arm in ("train", "deploy")
        )
        found.append(float(np.mean(one) - np.mean(zero)))
    return found


def completions(frame: pl.DataFrame) -> list[pl.DataFrame]:
    """The frame with every choice of 0 and 1 for its missing outcomes."""
    holes = frame["y"].is_null().to_numpy()
    made = []
    for choice in itertools.product((0.0, 1.0), repeat=int(holes.sum())):
        y = frame["y"].fill_null(0.0).to_numpy().copy()
        y[holes] = choice
        made.append(frame.with_columns(y=pl.Series(y)))
    return made


def test_rates_of_every_cell_with_the_empty_ones() -> None:
    """A cell without trials and a cell without outcomes are listed, and say which they are."""
    frame = pl.DataFrame(
        {
            "query": [1, 1, 2, 2, 1, 2, 3],
            "arm": ["train", "train", "train", "deploy", "train", "deploy", "deploy"],
            "condition": [1, 1, 1, 1, 2, 3, 3],
            "y": [1.0, None, 0.0, 1.0, 1.0, None, None],
        }
    )
    found = missing_rates(frame, "y")
    assert found.select("condition", "arm", "n", "n_missing", "note").rows() == [
        (1, "train", 3, 1, None),
        (1, "deploy", 1, 0, None),
        (2, "train", 1, 0, None),
        (2, "deploy", 0, 0, "no trials"),
        (3, "train", 0, 0, "no trials"),
        (3, "deploy", 2, 2, "all missing"),
    ]
    assert found["rate"].to_list() == [1 / 3, 0.0, 0.0, None, None, 1.0]
    bounds = found.select("conf_low", "conf_high").row(0)
    assert bounds == pytest.approx(proportion_confint(1, 3, method="wilson"))
    assert found["conf_low"][3] is None


def test_the_difference_between_arms_agrees_with_r_and_statsmodels() -> None:
    """Least squares of missing on arm with CR1 by query: R's sandwich, statsmodels, t(Q - 1)."""
    found = missing_between_arms(LABELLED, "y")
    assert found is not None
    rate, difference, error = FROM_R["missing"]
    assert found.rate_deploy == pytest.approx(rate, rel=1e-9)
    assert found.difference == pytest.approx(difference, rel=1e-9)
    assert found.std_error == pytest.approx(error, rel=1e-9)
    assert found.p_value == pytest.approx(2 * stats.t.sf(difference / error, 15), rel=1e-9)
    X = np.column_stack([np.ones(LABELLED.height), (LABELLED["arm"] == "train").to_numpy()])
    groups = LABELLED["query"].rank("dense").to_numpy()
    fitted = OLS(LABELLED["y"].is_null().to_numpy().astype(float), X.astype(float)).fit(
        cov_type="cluster", cov_kwds={"groups": groups, "use_correction": False}
    )
    assert found.std_error == pytest.approx(fitted.bse[1] * math.sqrt(16 / 15))


def test_without_spread_between_queries_the_test_is_fishers() -> None:
    """One of two trials lost in train in every query, none in deploy; nothing lost, no test."""
    frame = pl.DataFrame(
        {
            "query": [q for q in range(8) for _ in range(4)],
            "arm": ["train", "train", "deploy", "deploy"] * 8,
            "condition": [1] * 32,
            "y": [1.0, None, 0.0, 0.0] * 8,
        }
    )
    found = missing_between_arms(frame, "y")
    assert found is not None
    assert found.std_error is None
    assert found.p_value == pytest.approx(stats.fisher_exact([[8, 8], [0, 16]]).pvalue)
    whole = missing_between_arms(frame.with_columns(y=pl.lit(0.0)), "y")
    assert whole is not None
    assert (whole.difference, whole.p_value) == (0.0, None)
    assert missing_between_arms(frame.filter(pl.col("arm") == "train"), "y") is None


@pytest.mark.parametrize("seed", range(12))
def test_bounds_of_a_gap_are_the_extremes_over_all_completions(seed: int) -> None:
    """Every choice of 0 and 1 for the missing outcomes, by enumeration; limits by t-tests."""
    frame = trials(seed)
    every = [gap(f) for f in completions(frame)]
    found = gap_bounds(frame, "y")
    assert found is not None
    assert found.low == pytest.approx(min(np.mean(d) for d in every))
    assert found.high == pytest.approx(max(np.mean(d) for d in every))
    if found.conf_low is not None:
        worst = min(every, key=np.mean)
        expected = stats.ttest_1samp(worst, 0).confidence_interval(0.95)
        assert found.conf_low == pytest.approx(expected.low)
        best = max(every, key=np.mean)
        assert found.conf_high == pytest.approx(
            stats.ttest_1samp(best, 0).confidence_interval().high
        )
    assert found.rate_missing == pytest.approx(frame["y"].null_count() / frame.height)


@pytest.mark.parametrize("seed", range(6))
def test_bounds_of_an_effect_are_the_extremes_over_all_completions(seed: int) -> None:
    """Both conditions' missing outcomes range freely."""
    changed, reference = trials(seed, 3, 0.15), trials(seed + 100, 3, 0.15)
    effects = [
        np.mean(gap(one)) - np.mean(gap(zero))
        for one in completions(changed)
        for zero in completions(reference)
    ]
    found = effect_bounds(changed, reference, "y")
    assert found is not None
    assert (found.low, found.high) == pytest.approx((min(effects), max(effects)))
    rates = [f["y"].null_count() / f.height for f in (changed, reference)]
    assert found.rate_missing == pytest.approx(max(rates))


def test_bounds_are_called_for_above_five_per_cent_or_when_the_arms_differ() -> None:
    """3 of 60 are not, 4 of 60 are; 12 of 400 all in one arm are, spread over both are not."""

    def lost(n: int, queries: int, holes: list[int]) -> pl.DataFrame:
        y = [None if i in holes else float(i % 3 == 0) for i in range(n)]
        return pl.DataFrame(
            {
                "query": [i // 2 % queries for i in range(n)],
                "arm": ["train", "deploy"] * (n // 2),
                "condition": [1] * n,
                "y": y,
            },
            schema_overrides={"y": pl.Float64},
        )

    few = gap_bounds(lost(60, 10, [0, 3, 25]), "y")
    more = gap_bounds(lost(60, 10, [0, 3, 25, 33]), "y")
    assert few is not None
    assert more is not None
    assert (few.needed, few.reason) == (False, None)
    assert more.reason == "6.7% of the outcomes are missing"
    one_arm = gap_bounds(lost(400, 20, list(range(0, 24, 2))), "y")
    both = gap_bounds(lost(400, 20, list(range(12))), "y")
    assert one_arm is not None
    assert both is not None
    assert one_arm.reason is not None
    assert "6.0% in train and 0.0% in deploy" in one_arm.reason
    assert both.needed is False
    effect = effect_bounds(lost(400, 20, []), lost(400, 20, list(range(0, 24, 2))), "y")
    assert effect is not None
    assert effect.needed


def test_no_missing_outcome_leaves_the_estimate_as_its_bounds() -> None:
    """Low and high are then the gap itself, with the paired t interval; no query, no bounds."""
    frame = trials(3, queries=9, missing=0.0)
    expected = stats.ttest_1samp(gap(frame), 0).confidence_interval()
    found = gap_bounds(frame, "y")
    assert found is not None
    assert found.low == pytest.approx(np.mean(gap(frame)))
    assert found.high == pytest.approx(found.low)
    assert (found.conf_low, found.conf_high) == pytest.approx((expected.low, expected.high))
    assert gap_bounds(frame.filter(pl.col("arm") == "train"), "y") is None
    elsewhere = frame.with_columns(query=pl.lit("other"))
    assert effect_bounds(frame, elsewhere, "y") is None


def test_drift_between_blocks_of_queries_agrees_with_r_and_scipy() -> None:
    """Analysis of variance of the queries' differences."""
    found = drift(LABELLED, "y")
    statistic, df1, df2, p_value = FROM_R["drift"]
    assert (found.df1, found.df2) == (df1, df2)
    assert (found.statistic, found.p_value) == pytest.approx((statistic, p_value), rel=1e-9)
    graded = LABELLED.filter(pl.col("y").is_not_null())
    blocks = [gap(graded.filter(pl.col("block") == b)) for b in range(1, 5)]
    assert found.p_value == pytest.approx(stats.f_oneway(*blocks).pvalue, rel=1e-9)
    means = [(str(b), pytest.approx(np.mean(d)), 4) for b, d in enumerate(blocks, 1)]
    assert list(found.gaps) == means


def test_drift_over_blocks_that_share_queries_agrees_with_r() -> None:
    """Hotelling's test on the changes from the first pass, when every query is in every pass."""
    found = drift(LABELLED.drop("block").rename({"pass": "block"}), "y")
    statistic, df1, df2, p_value, _ = FROM_R["crossed"]
    assert (found.df1, found.df2) == (df1, df2)
    assert (found.statistic, found.p_value) == pytest.approx((statistic, p_value), rel=1e-9)
    assert "Hotelling" in found.method


def test_drift_over_two_passes_is_the_paired_t_test() -> None:
    """F is the square of t, also where a query missed a pass only in being left out."""
    two = LABELLED.drop("block").rename({"pass": "block"}).filter(pl.col("block") < 3)
    graded = two.filter(pl.col("y").is_not_null())
    passes = [gap(graded.filter(pl.col("block") == b)) for b in (1, 2)]
    found = drift(two, "y")
    assert found.statistic == pytest.approx(stats.ttest_rel(*passes).statistic ** 2)
    assert found.p_value == pytest.approx(stats.ttest_rel(*passes).pvalue)


def test_drift_is_not_tested_without_two_blocks_or_without_spread() -> None:
    """One block, blocks of one query each, and a gap that is the same everywhere."""
    one = drift(LABELLED.filter(pl.col("block") == 1), "y")
    assert one.p_value is None
    assert one.note == "fewer than two blocks with a gap"
    single = drift(LABELLED.filter(pl.col("query").is_in(["q00", "q01", "q02"])), "y")
    assert (single.df2, single.p_value) == (0, None)
    flat = LABELLED.with_columns(y=(pl.col("arm") == "train").cast(pl.Float64))
    assert drift(flat, "y").p_value is None
    unknown = LABELLED.with_columns(block=pl.lit(None, pl.Int64))
    assert drift(unknown, "y").gaps == ()


@pytest.mark.parametrize("shared", [False, True], ids=["nested", "crossed"])
def test_drift_has_its_size_and_finds_a_gap_that_fades(shared: bool) -> None:
    """Under no drift 5 % of 400 runs are rejected, within two Monte-Carlo errors; else most."""
    rng = np.random.default_rng(6)
    queries, blocks = 20, 4

    def rejects(fading: float) -> bool:
        rows = []
        for q in range(queries):
            own = rng.beta(2, 6)
            for b in range(blocks) if shared else [q % blocks]:
                lift = 0.4 - fading * b
                for arm, rate in (("train", min(1.0, own + lift)), ("deploy", own)):
                    hits = float((rng.random(6) < rate).mean())
                    rows.append((q, arm, b, hits))
        frame = pl.DataFrame(rows, schema=["query", "arm", "block", "y"], orient="row")
        p_value = drift(frame, "y").p_value
        return p_value is not None and p_value <= 0.05

    size = np.mean([rejects(0.0) for _ in range(400)])
    assert abs(size - 0.05) <= 2.5 * math.sqrt(0.05 * 0.95 / 400)
    assert np.mean([rejects(0.15) for _ in range(60)]) > 0.5
