"""Stimuli as a random factor, against metafor, lme4, the noncentral t, loops and simulation."""

import csv
import itertools
import json
import math
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import statsmodels.api as sm
import statsmodels.formula.api as smf
from scipy import stats

from analysis.stimuli import (
    Stimuli,
    averages_by,
    effects_by,
    gaps_by,
    leave_one_out,
    next_stimulus,
    paired_mean,
    sampled,
    share_above,
)
from analysis.synthesis import correlated_effects, covariance_of_means, heterogeneity

REFERENCE = Path(__file__).parent / "reference"
STORED: dict[str, Any] = json.loads((REFERENCE / "stimuli.json").read_text("utf-8"))
SETS = sorted(STORED["known"])


def effects(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Estimates and sampling variances of a set that R read too."""
    with (REFERENCE / "data" / "effects.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["set"] == name]
    return tuple(np.array([float(row[c]) for row in rows]) for c in ("y", "v"))


def crossed_trials(level: str) -> pl.DataFrame:
    frame = pl.read_csv(REFERENCE / "data" / "wordings.csv")
    return frame.filter(pl.col("a") == level).with_columns(pl.col("y").cast(pl.Float64))


def table(values: np.ndarray) -> Stimuli:
    queries, wordings = values.shape
    return Stimuli(
        tuple(f"q{i}" for i in range(queries)), tuple(f"w{i}" for i in range(wordings)), values
    )


@pytest.mark.parametrize("name", SETS)
def test_known_errors_give_what_metafor_gives(name: str) -> None:
    """Paule-Mandel tau^2, Q-profile bounds, Q, unweighted mean, its error, prediction interval."""
    y, v = effects(name)
    found, expected = correlated_effects(y, np.diag(v)), STORED["known"][name]
    assert found is not None
    assert found.tau**2 == pytest.approx(expected["tau2"], rel=1e-6, abs=1e-12)
    # metafor searches up to a bound of its own making, no finer than this.
    assert found.tau_low**2 == pytest.approx(expected["low"], rel=1e-4, abs=1e-9)
    assert found.tau_high**2 == pytest.approx(expected["high"], rel=1e-4, abs=1e-9)
    assert found.q == pytest.approx(expected["q"], rel=1e-9)
    assert found.p_value == pytest.approx(expected["p"], rel=1e-6)
    assert found.mean == pytest.approx(expected["mean"], rel=1e-9)
    assert found.std_error == pytest.approx(expected["se"], rel=1e-6)
    assert (found.low, found.high) == pytest.approx(tuple(expected["pi"]), rel=1e-6)


@pytest.mark.parametrize("name", SETS)
def test_correlated_errors_give_what_the_whole_precision_matrix_gives(name: str) -> None:
    """Q, tau^2 and its bounds are those that R finds by root search on y'P(tau^2)y."""
    y, v = effects(name)
    k, expected = len(y), STORED["correlated"][name]
    apart = np.abs(np.subtract.outer(np.arange(k), np.arange(k)))
    found = correlated_effects(y, np.sqrt(np.outer(v, v)) * 0.6**apart)
    assert found is not None
    assert found.q == pytest.approx(expected["q"], rel=1e-8)
    for tau, square in ((found.tau, "tau2"), (found.tau_low, "low"), (found.tau_high, "high")):
        assert tau**2 == pytest.approx(expected[square], rel=1e-6, abs=1e-11)


@pytest.mark.parametrize("name", SETS)
def test_a_part_that_all_share_is_no_spread_but_error_of_the_mean(name: str) -> None:
    """With equal errors and a common part tau^2, mean and error are metafor's rma.mv by REML."""
    y, _ = effects(name)
    found, expected = correlated_effects(y, np.eye(len(y)) * 0.001 + 0.002), STORED["shared"][name]
    assert found is not None
    assert found.tau**2 == pytest.approx(expected["tau2"], rel=1e-4, abs=1e-9)
    assert found.mean == pytest.approx(expected["mean"])
    assert found.std_error == pytest.approx(expected["se"], rel=1e-4)


@pytest.mark.parametrize("which", ["gap", "effect"])
def test_a_balanced_crossed_table_gives_the_components_of_lme4(which: str) -> None:
    """tau^2, mean and error of the REML fit with random queries and wordings, each t.test, and
    t.test on the means of the wordings."""
    before, after = crossed_trials("original"), crossed_trials("removed")
    cells = gaps_by(before, "y") if which == "gap" else effects_by(before, after, "y")
    found, expected = sampled(cells), STORED[which]
    assert found.spread is not None
    assert found.by_means is not None
    assert found.note is None
    assert found.spread.tau**2 == pytest.approx(expected["wording"], rel=1e-5)
    assert found.spread.mean == pytest.approx(expected["mean"])
    assert found.spread.std_error == pytest.approx(expected["se"], rel=1e-5)
    assert found.covariance is not None
    own = found.covariance[0, 0] - found.covariance[0, 1]
    assert own * expected["n_queries"] == pytest.approx(expected["rest"], rel=1e-5)
    shared = found.covariance[0, 1] * expected["n_queries"]
    assert shared == pytest.approx(expected["query"], rel=1e-5)
    means, by_means = found.by_means, expected["by_means"]
    assert (means.estimate, means.std_error, means.df) == pytest.approx(
        (by_means["estimate"], by_means["se"], by_means["df"])
    )
    assert (means.interval.low, means.interval.high, means.interval.p_value) == pytest.approx(
        (by_means["low"], by_means["high"], by_means["p"])
    )
    assert [s.name for s in found.stimuli] == sorted(expected["each"])
    for one in found.stimuli:
        row = expected["each"][one.name]
        assert (one.estimate, one.std_error, one.low, one.high) == pytest.approx(
            (row["estimate"], row["se"], row["low"], row["high"])
        )
        assert one.n_queries == expected["n_queries"]


@pytest.mark.slow
def test_stored_references_are_what_r_gives_now(tmp_path: Path) -> None:
    """R, run again, prints the stored numbers."""
    if shutil.which("Rscript") is None:
        pytest.skip("no Rscript here")
    packages = "quit(status = !all(sapply(c('metafor', 'lme4', 'jsonlite'), requireNamespace)))"
    if subprocess.run(["Rscript", "-e", packages], capture_output=True, check=False).returncode:
        pytest.skip("R lacks metafor, lme4 or jsonlite")
    done = subprocess.run(
        ["Rscript", "stimuli.R"], cwd=REFERENCE, capture_output=True, text=True, check=True
    )
    for kept, now in zip(numbers(STORED), numbers(json.loads(done.stdout)), strict=True):
        assert now == pytest.approx(kept, rel=1e-6, abs=1e-9)


def numbers(found: Any) -> Iterator[float]:
    """All numbers of a nested record, in order, versions left out."""
    if isinstance(found, dict):
        for name, value in found.items():
            if name != "versions":
                yield from numbers(value)
    elif isinstance(found, list):
        for value in found:
            yield from numbers(value)
    else:
        yield found


def test_cells_are_paired_within_query_and_wording() -> None:
    """Gaps and effects of each query and wording are those of loops; half empty cells are out."""
    rng = np.random.default_rng(3)
    rows = [
        (f"q{q}", f"w{w}", arm, level, float(rng.random() < 0.5) if rng.random() < 0.9 else None)
        for q, w, arm, level in itertools.product(range(5), range(3), ("train", "deploy"), "ab")
        for _ in range(rng.integers(0, 3))
    ]
    names = ["query", "wording", "arm", "level", "y"]
    frame = pl.DataFrame(rows, schema=names, orient="row")

    def gap(q: str, w: str, level: str) -> float:
        means = []
        for arm in ("train", "deploy"):
            y = [r[4] for r in rows if r[:4] == (q, w, arm, level) and r[4] is not None]
            means.append(sum(y) / len(y) if y else math.nan)
        return means[0] - means[1]

    before, after = (frame.filter(pl.col("level") == level) for level in "ab")
    for found, value in (
        (gaps_by(before, "y"), lambda q, w: gap(q, w, "a")),
        (effects_by(before, after, "y"), lambda q, w: gap(q, w, "b") - gap(q, w, "a")),
    ):
        seen = {
            (q, w): found.values[i, j]
            for i, q in enumerate(found.queries)
            for j, w in enumerate(found.names)
            if np.isfinite(found.values[i, j])
        }
        expected = {
            (f"q{q}", f"w{w}"): value(f"q{q}", f"w{w}")
            for q, w in itertools.product(range(5), range(3))
        }
        assert seen == pytest.approx({k: v for k, v in expected.items() if not math.isnan(v)})
        assert seen


def test_a_row_may_stand_for_many_trials() -> None:
    """Trials summed into rows with their number give the same gaps."""
    frame = crossed_trials("original")
    rows = frame.group_by("query", "wording", "arm").agg(pl.col("y").mean(), pl.len().alias("n"))
    halves = [
        frame.filter(pl.int_range(pl.len()) % 3 == 0).with_columns(pl.lit(1).alias("n")),
        frame.filter(pl.int_range(pl.len()) % 3 > 0)
        .group_by("query", "wording", "arm", maintain_order=True)
        .agg(pl.col("a").first(), pl.col("y").mean(), pl.len().cast(pl.Int32).alias("n")),
    ]
    mixed = pl.concat([half.select("query", "wording", "arm", "y", "n") for half in halves])
    expected = gaps_by(frame, "y")
    for one in (rows, mixed):
        assert gaps_by(one, "y").values == pytest.approx(expected.values)


def test_averaged_effects_by_wording_are_weighted_regressions() -> None:
    """Estimates are statsmodels' WLS within a wording, the spread of a column its CR0 error."""
    rng = np.random.default_rng(5)
    n = 300
    X = np.column_stack([np.ones(n), rng.integers(0, 2, (n, 3))]).astype(float)
    X = np.column_stack([X, X[:, 1] * X[:, 2]])
    y, weights = rng.random(n), rng.uniform(0.5, 2, n)
    queries = [f"q{i}" for i in rng.integers(0, 12, n)]
    wordings = [f"w{i}" for i in rng.integers(0, 4, n)]
    contrast = np.array([0.0, 0.0, 1.0, 0.0, 0.5])
    found = averages_by(X, y, weights, queries, wordings, contrast)
    assert found.names == ("w0", "w1", "w2", "w3")
    for j, name in enumerate(found.names):
        rows = np.array([w == name for w in wordings])
        groups = np.unique(np.array(queries)[rows], return_inverse=True)[1]
        fit = sm.WLS(y[rows], X[rows], weights=weights[rows]).fit(
            cov_type="cluster", cov_kwds={"groups": groups, "use_correction": False}
        )
        column = found.values[np.isfinite(found.values[:, j]), j]
        assert column.mean() == pytest.approx(float(contrast @ fit.params))
        error = math.sqrt(float(contrast @ fit.cov_params() @ contrast))
        assert column.std() / math.sqrt(len(column)) == pytest.approx(error)


def test_a_wording_that_does_not_have_the_contrast_is_left_out() -> None:
    """Without the level, or with one query, a wording gives no averaged effect."""
    X = np.column_stack([np.ones(12), [0, 1] * 4 + [0] * 4]).astype(float)
    queries = ["a", "a", "b", "b", "a", "a", "a", "a", "a", "b", "a", "b"]
    wordings = ["x"] * 4 + ["lone"] * 4 + ["never"] * 4
    y = np.arange(12) / 12
    found = averages_by(X, y, np.ones(12), queries, wordings, np.array([0.0, 1.0]))
    assert found.names == ("x",)
    assert np.nanmean(found.values[:, 0]) == pytest.approx(1 / 12)


def crossed(
    rng: np.random.Generator, seen: np.ndarray, tau: float, query: float, rest: float
) -> np.ndarray:
    queries, wordings = seen.shape
    values = 0.2 + rng.normal(0, tau, wordings) + rng.normal(0, query, (queries, 1))
    return np.where(seen, values + rng.normal(0, rest, seen.shape), np.nan)


def spread_of_queries(kind: str, queries: int, wordings: int) -> np.ndarray:
    """Which cells are tried: all, two or three wordings a query, or one."""
    q, w = np.indices((queries, wordings))
    each = {"crossed": wordings, "two": 2, "ragged": 1 + np.arange(queries)[:, None] % 3, "one": 1}
    return (w - q) % wordings < each[kind]


@pytest.mark.parametrize("kind", ["crossed", "two", "ragged", "one"])
def test_the_covariance_of_means_is_right_on_average(kind: str) -> None:
    """Over 3,000 tables the estimate is the covariance that the sets of queries imply."""
    rng = np.random.default_rng(6)
    seen = spread_of_queries(kind, 16, 4)
    n = seen.sum(axis=0)
    overlap = (seen.T.astype(int) @ seen) / np.outer(n, n)
    expected = 0.04 * overlap + np.diag(0.09 / n)
    found = np.mean(
        [covariance_of_means(crossed(rng, seen, 0.0, 0.2, 0.3), alike=True) for _ in range(3000)],
        axis=0,
    )
    if kind == "one":
        expected = np.diag(np.diag(expected))
    # A negative estimate of the common part is cut at 0.
    assert found == pytest.approx(expected, rel=0.06, abs=2e-4)


def test_own_variances_of_columns_are_told_apart() -> None:
    """Columns with errors of 1 to 5 get their own ones, right on average, also with gaps."""
    rng = np.random.default_rng(7)
    own = np.array([0.1, 0.2, 0.3, 0.4, 0.5])
    for missing in (0.0, 0.2):
        found = []
        for _ in range(2000):
            values = rng.normal(0, 0.3, (30, 1)) + rng.normal(0, own, (30, 5))
            values[rng.random(values.shape) < missing] = np.nan
            n = np.isfinite(values).sum(axis=0)
            covariance = covariance_of_means(values, alike=False)
            assert covariance is not None
            pairs = np.isfinite(values).T.astype(int) @ np.isfinite(values)
            shared = covariance[0, 1] * n[0] * n[1] / pairs[0, 1]
            found.append(np.diag(covariance) * n - shared)
        assert np.mean(found, axis=0) == pytest.approx(own**2, rel=0.06, abs=0.004)


def coverage(kind: str, tau: float, reps: int, seed: int) -> tuple[int, int, int, int]:
    """How often tau, the mean, a new wording and the share above .1 lie within their bounds."""
    rng = np.random.default_rng(seed)
    seen = spread_of_queries(kind, 24, 8)
    share = stats.norm.sf((0.1 - 0.2) / tau) if tau else 1.0
    held = np.zeros(4, dtype=int)
    for _ in range(reps):
        found = sampled(table(crossed(rng, seen, tau, 0.15, 0.3)))
        spread, above = found.spread, share_above(found, 0.1)
        assert spread is not None
        assert above is not None
        following = next_stimulus(found)
        assert following is not None
        reach = stats.t.ppf(0.975, 7) * spread.std_error
        held += [
            spread.tau_low <= tau <= spread.tau_high,
            abs(spread.mean - 0.2) <= reach,
            following.low <= 0.2 + rng.normal(0, tau) <= following.high,
            above.low <= share + 1e-12 and share <= above.high + 1e-12,
        ]
    return tuple(held.tolist())


@pytest.mark.parametrize("kind", ["crossed", "two"])
def test_bounds_hold_at_the_stated_rate(kind: str) -> None:
    """At least 179 of 200 tables hold tau, mean, a new wording and the share above .1."""
    assert min(coverage(kind, 0.12, 200, 8)) >= 179


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["crossed", "two", "ragged", "one"])
@pytest.mark.parametrize("tau", [0.0, 0.05, 0.12, 0.3])
def test_bounds_hold_at_the_stated_rate_everywhere(kind: str, tau: float) -> None:
    """At least 459 of 500, for tables from crossed to nested and spreads from none to large."""
    assert min(coverage(kind, tau, 500, 9)) >= 459


def test_taus_are_the_solutions_at_the_middles_of_the_slices() -> None:
    """All at once they are what the root search gives one by one, also where they are 0."""
    for name in SETS:
        y, v = effects(name)
        between = heterogeneity(y, np.diag(v))
        expected = [between.tau_at((i + 0.5) / 40) for i in range(40)]
        assert between.taus(40) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_a_nested_table_has_the_f_test_of_wordings() -> None:
    """Without a spread, Q over its df is the F of a one-way analysis of variance, and its p-value;
    in a crossed table that of two ways."""
    rng = np.random.default_rng(11)
    values = rng.normal(0.2, 0.3, (5, 4))
    nested = np.full((20, 4), np.nan)
    for w in range(4):
        nested[5 * w : 5 * w + 5, w] = values[:, w]
    found = sampled(table(nested)).spread
    expected = stats.f_oneway(*values.T)
    assert found is not None
    assert found.q / 3 == pytest.approx(expected.statistic)
    assert found.p_value == pytest.approx(expected.pvalue)
    crossed_values = values + rng.normal(0, 0.5, (5, 1))
    frame = pd.DataFrame(
        [(q, w, crossed_values[q, w]) for q in range(5) for w in range(4)], columns=["q", "w", "y"]
    )
    anova = sm.stats.anova_lm(smf.ols("y ~ C(q) + C(w)", frame).fit())
    found = sampled(table(crossed_values)).spread
    assert found is not None
    assert found.q / 3 == pytest.approx(anova.loc["C(w)", "F"])
    assert found.p_value == pytest.approx(anova.loc["C(w)", "PR(>F)"])


def test_one_sided_tests_of_tau_are_those_of_q() -> None:
    """p_above and p_below are the tails of chi-squared at Q, and turn at the bounds of tau."""
    y, v = effects("differ")
    between = heterogeneity(y, np.diag(v))
    for tau in (0.0, 0.02, 0.1, 0.4):
        w = 1 / (v + tau**2)
        q = float((w * (y - np.average(y, weights=w)) ** 2).sum())
        assert between.q(tau) == pytest.approx(q)
        assert between.p_above(tau) == pytest.approx(stats.chi2.sf(q, 7))
        assert between.p_below(tau) == pytest.approx(stats.chi2.cdf(q, 7))
    assert between.p_above(between.tau_at(0.975)) == pytest.approx(0.025)
    assert between.p_below(between.tau_at(0.025)) == pytest.approx(0.025)


def test_without_sampling_error_the_share_has_the_exact_bounds() -> None:
    """Then they are those of the noncentral t (Owen 1968); threshold at, below, above the mean."""
    means = np.array([0.1, 0.3, 0.22, 0.05, 0.4, 0.18])
    found = sampled(table(np.tile(means, (4, 1))))
    assert found.spread is not None
    sd = means.std(ddof=1)
    assert found.spread.tau == pytest.approx(sd)
    assert found.spread.tau_low == pytest.approx(sd * math.sqrt(5 / stats.chi2.ppf(0.975, 5)))
    assert found.spread.tau_high == pytest.approx(sd * math.sqrt(5 / stats.chi2.ppf(0.025, 5)))
    following = next_stimulus(found)
    assert following is not None
    reach = stats.t.ppf(0.975, 5) * sd * math.sqrt(1 + 1 / 6)
    assert following.high == pytest.approx(means.mean() + reach, rel=2e-3)
    assert following.low == pytest.approx(means.mean() - reach, rel=2e-2)
    assert (found.spread.low, found.spread.high) == pytest.approx(
        (means.mean() - reach, means.mean() + reach)
    )
    for threshold in (0.05, means.mean(), 0.3):
        share = share_above(found, threshold)
        assert share is not None
        t = (means.mean() - threshold) / sd * math.sqrt(6)
        grid = np.linspace(-20, 20, 40001)
        levels = stats.nct.cdf(t, 5, grid)
        low, high = (
            stats.norm.cdf(grid[np.argmax(levels <= p)] / math.sqrt(6)) for p in (0.975, 0.025)
        )
        assert share.share == pytest.approx(stats.norm.cdf((means.mean() - threshold) / sd))
        assert (share.low, share.high) == pytest.approx((low, high), abs=2e-3)


def test_few_wordings_say_so() -> None:
    """Below five there is a warning, with one no spread, and with lone queries no error."""
    rng = np.random.default_rng(10)
    values = rng.normal(0.2, 0.2, (10, 5))
    assert sampled(table(values)).note is None
    four = sampled(table(values[:, :4]))
    assert four.note is not None
    assert "these wordings only" in four.note
    assert four.spread is not None
    one = sampled(table(values[:, :1]))
    assert (one.spread, one.by_means, one.note) == (None, None, "no spread: one wording")
    nested = np.where(np.eye(5, dtype=bool), values[:5], np.nan)
    lone = sampled(table(nested))
    assert (lone.spread, lone.note) == (None, "no spread: no wording has two queries")
    assert all(s.std_error is None for s in lone.stimuli)
    assert sampled(table(np.empty((3, 0)))).note == "no spread: no wordings"
    never = np.column_stack([values, np.full(10, np.nan)])
    assert [s.name for s in sampled(table(never)).stimuli] == ["w0", "w1", "w2", "w3", "w4"]


def test_wordings_that_say_the_same_have_no_spread_and_no_p_value() -> None:
    """A table of equal values has tau 0 with bounds 0, and no error where there is no variance."""
    found = sampled(table(np.full((6, 5), 0.25)))
    assert found.by_means is None
    assert found.spread is not None
    assert (found.spread.tau, found.spread.tau_high) == (0.0, 0.0)
    assert all(s.std_error is None and s.low is None for s in found.stimuli)


def test_influence_is_that_of_a_loop() -> None:
    """Without each unit: the estimate, the largest change, the jackknife error, what turns."""
    values = np.array([0.5, -0.1, -0.15, -0.05, -0.02, -0.1])
    units = ["a", "b", "c", "d", "e", "f"]
    found = leave_one_out(units, lambda kept: paired_mean(values[kept]))
    assert found is not None
    without = [np.delete(values, i).mean() for i in range(6)]
    assert found.estimates == pytest.approx(without)
    assert (found.by, found.change) == ("a", pytest.approx(without[0] - values.mean()))
    assert found.std_error == pytest.approx(stats.sem(values))
    assert found.turns_sign == ("a",)
    significant = [
        u for i, u in enumerate(units) if stats.ttest_1samp(np.delete(values, i), 0).pvalue < 0.05
    ]
    assert found.turns_significance == tuple(significant) == ("a",)
    assert found.lost == ()


def test_an_estimate_that_hangs_on_one_unit_is_said_to_be_lost() -> None:
    """Where nothing can be estimated without a unit, it is named and there is no jackknife."""
    values = np.array([0.5, 0.1, 0.2])
    units = ["a", "a", "b"]
    found = leave_one_out(units, lambda kept: paired_mean(values[kept]))
    assert found is not None
    assert found.lost == ("a",)
    assert found.estimates == (None, pytest.approx(0.3))
    assert found.std_error is None
    assert leave_one_out(["a", "a", "a"], lambda kept: paired_mean(values[kept])) is None
