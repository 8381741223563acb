"""Sensitivity rows against statsmodels, numerical differentiation and all sign changes."""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import statsmodels.api as sm
import statsmodels.formula.api as smf
from numpy.typing import NDArray

from analysis import fit
from analysis.estimates import AVERAGED, SIMPLE

ARMS = ("train", "deploy")
LEVELS = ("original", "removed")
Floats = NDArray[np.float64]
Levels = tuple[str | None, ...]
CROSSED = list(itertools.product(LEVELS, ("original", "removed", "softened")))


def trials(
    conditions: Iterable[Levels] = CROSSED,
    *,
    seed: int = 0,
    queries: int = 21,
    unbalanced: bool = True,
    deploy: float = 0.15,
) -> pl.DataFrame:
    """Trials of every condition in both arms of every query, with design weights by condition."""
    rng = np.random.default_rng(seed)
    rows = []
    for q, (c, at), arm in itertools.product(range(queries), enumerate(conditions), ARMS):
        for _ in range(int(rng.integers(1, 6)) if unbalanced else 3):
            rate = deploy + (arm == "train") * (0.45 - 0.08 * c) + 0.01 * q * (deploy > 0)
            rows.append((f"q{q:02}", arm, *at, 0.5 + c % 3, float(rng.random() < rate)))
    names = ["query_id", "arm", *"abc"[: len(rows[0]) - 4], "law", "y"]
    kinds = {n: pl.Float64 if n in ("law", "y") else pl.String for n in names}
    return pl.DataFrame(rows, schema=kinds, orient="row")


def rows_of(
    frame: pl.DataFrame, estimand: str, method: str, factors: Sequence[str] = "ab", **options: Any
) -> dict[tuple[str, str], dict[str, Any]]:
    """The sensitivity rows of an estimand whose method begins so."""
    table = fit(frame, factors=factors, outcomes=["y"], weight="law", **options).effects
    rows = table.filter(
        pl.col("role") == "sensitivity",
        pl.col("estimand") == estimand,
        pl.col("method").str.starts_with(method),
    )
    return {(r["factor"], r["level"]): r for r in rows.iter_rows(named=True)}


def clustered(formula: str, frame: pl.DataFrame, family: Any = None) -> tuple[Any, Floats]:
    """A fit of statsmodels and its covariance by query, times G / (G - 1)."""
    data = pd.DataFrame(frame.to_dict(as_series=False))
    groups = frame["query_id"].rank("dense").to_numpy()
    kwds = {"groups": groups, "use_correction": False}
    model = smf.ols(formula, data) if family is None else smf.glm(formula, data, family=family)
    fitted = model.fit(cov_type="cluster", cov_kwds=kwds)
    size = frame["query_id"].n_unique()
    return fitted, np.asarray(fitted.cov_params()) * size / (size - 1)


TERMS = [("a", "removed"), ("b", "removed"), ("b", "softened")]
ORIGINAL = (pl.col("a") == "original") & (pl.col("b") == "original")
FORMULA = "y ~ C(arm, Treatment('deploy')) * (a + b)"


@pytest.mark.parametrize("seed", range(2))
def test_trials_counted_equally_are_a_least_squares_fit_of_four_cells(seed: int) -> None:
    """statsmodels on the original and the one change, CR1 and t(G - 1)."""
    frame = trials(seed=seed)
    found = rows_of(frame, SIMPLE, "trials counted equally")
    assert list(found) == TERMS
    for (factor, level), row in found.items():
        other = "b" if factor == "a" else "a"
        here = frame.filter(ORIGINAL | ((pl.col(factor) == level) & (pl.col(other) == "original")))
        fitted, covariance = clustered(f"y ~ C(arm, Treatment('deploy')) * {factor}", here)
        assert row["estimate"] == pytest.approx(fitted.params.iloc[3])
        assert row["std_error"] == pytest.approx(math.sqrt(covariance[3, 3]))
        assert (row["df"], row["n_trials"], row["method"][-3:]) == (20, here.height, "CR1")
        assert row["p_value"] is not None
        assert row["p_holm"] is row["q_bh"] is None


def test_the_unweighted_averaged_effect_is_a_least_squares_coefficient() -> None:
    """The product of arm and level in the fit of all trials; those without a weight are out."""
    frame = trials(seed=3)
    outside = trials(seed=4).with_columns(law=pl.lit(None, pl.Float64))
    found = rows_of(pl.concat([frame, outside]), AVERAGED, "linear probability without weights")
    fitted, covariance = clustered(FORMULA, frame)
    assert list(found) == TERMS
    for i, key in enumerate(TERMS, start=5):
        assert found[key]["estimate"] == pytest.approx(fitted.params.iloc[i])
        assert found[key]["std_error"] == pytest.approx(math.sqrt(covariance[i, i]))


def design(at: Sequence[tuple[str, str, str]]) -> Floats:
    """Rows of statsmodels' design matrix: intercept, arm, a, b's levels, and arm times them."""
    rows = []
    for arm, a, b in at:
        x = [a == "removed", b == "removed", b == "softened"]
        t = arm == "train"
        rows.append([1, t, *x, *(t and e for e in x)])
    return np.array(rows, dtype=float)


def expit(eta: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-eta)))


def gradient(value: Callable[[Floats], float], at: Floats) -> Floats:
    """Central differences."""
    steps = np.eye(len(at)) * 1e-5
    return np.array([(value(at + s) - value(at - s)) / 2e-5 for s in steps])


def by_g_computation(
    rows: Sequence[tuple[float, str, str]], term: tuple[str, str]
) -> Callable[[Floats], float]:
    """The effect as a function of the coefficients: every condition with and without the level."""

    def value(beta: Floats) -> float:
        total = 0.0
        for weight, a, b in rows:
            for sign, level in ((1, term[1]), (-1, "original")):
                at = (level, b) if term[0] == "a" else (a, level)
                train, deploy = expit(design([("train", *at), ("deploy", *at)]) @ beta)
                total += sign * weight * (train - deploy)
        return total

    return value


@pytest.mark.parametrize("estimand", [SIMPLE, AVERAGED])
def test_the_logit_effect_is_g_computation_with_delta_method_errors(estimand: str) -> None:
    """Predictions of statsmodels' GLM; the error by numerical differentiation."""
    frame = trials(seed=5)
    found = rows_of(frame, estimand, "logit, g-computation")
    fitted, covariance = clustered(FORMULA, frame, sm.families.Binomial())
    beta = fitted.params.to_numpy()
    law = frame.group_by("a", "b").agg(pl.col("law").sum()).rows()
    total = sum(weight for _, _, weight in law)
    rows = [(weight / total, a, b) for a, b, weight in law]
    assert list(found) == TERMS
    for key, row in found.items():
        value = by_g_computation(
            [(1.0, "original", "original")] if estimand == SIMPLE else rows, key
        )
        slope = gradient(value, beta)
        assert row["estimate"] == pytest.approx(value(beta), abs=1e-7)
        assert row["std_error"] == pytest.approx(math.sqrt(slope @ covariance @ slope), rel=1e-5)
        assert row["df"] == 20
        assert row["train_part"] - row["deploy_part"] == pytest.approx(row["estimate"])


def test_what_goes_along_with_a_level_is_away_in_the_logit_too() -> None:
    """b needs a: without a there is no b, and b's effect is over the conditions that have a."""
    conditions = [("original", "original"), ("original", "removed"), ("removed", None)]
    frame = trials(conditions, seed=6)
    found = rows_of(frame, AVERAGED, "logit, g-computation")
    # Three conditions, three levels of a rate in each arm: the logit is the table of rates.
    cells = {
        (arm, c): frame.filter(
            pl.col("arm") == arm, pl.col("a") == at[0], pl.col("b").eq_missing(pl.lit(at[1]))
        )["y"].mean()
        for arm in ARMS
        for c, at in enumerate(conditions)
    }
    gaps = [float(cells["train", c]) - float(cells["deploy", c]) for c in range(3)]  # type: ignore[arg-type]
    present = frame.filter(pl.col("a") == "original").group_by("b").agg(pl.col("law").sum())
    share = dict(present.rows())
    before = sum(share[b] * gaps[i] for i, b in enumerate(LEVELS)) / sum(share.values())
    assert found["a", "removed"]["estimate"] == pytest.approx(gaps[2] - before, abs=1e-6)
    assert found["b", "removed"]["estimate"] == pytest.approx(gaps[1] - gaps[0], abs=1e-6)
    simple = rows_of(frame, SIMPLE, "logit, g-computation")
    assert simple["a", "removed"]["estimate"] == pytest.approx(gaps[2] - gaps[0], abs=1e-6)


def test_separated_trials_have_firths_estimates_and_no_interval() -> None:
    """Deploy at 0: the estimate is finite and says that it has no error."""
    frame = trials(seed=7, deploy=0.0)
    for estimand in (SIMPLE, AVERAGED):
        found = rows_of(frame, estimand, "Firth's logit")
        assert list(found) == TERMS
        for row in found.values():
            assert -1 < row["estimate"] < 1
            assert (row["std_error"], row["p_value"]) == (None, None)
            assert row["note"] == "separated: no interval"
        assert rows_of(frame, estimand, "logit") == {}


def signs_changed(own: Floats) -> float:
    """Share of all sign changes with a t statistic as large as that of the data."""

    def t(x: Floats) -> float:
        return abs(x.mean()) / x.std() if x.std() > 1e-14 else np.inf

    all_signs = itertools.product((1, -1), repeat=len(own))
    return float(np.mean([t(own * np.array(s)) >= t(own) * (1 - 1e-9) for s in all_signs]))


@pytest.mark.parametrize("queries", [6, 8])
def test_the_bootstrap_of_a_simple_effect_lists_all_sign_changes(queries: int) -> None:
    """Of the queries' own changes of the gap, in a loop over all of them."""
    frame = trials(seed=8, queries=queries)
    found = rows_of(frame, SIMPLE, "wild cluster bootstrap")
    assert list(found) == TERMS
    means = frame.group_by("query_id", "arm", "a", "b").agg(pl.col("y").mean())
    for (factor, level), row in found.items():
        at = {"a": "original", "b": "original"} | {factor: level}
        own = [
            sum(
                sign * change * means.filter(query_id=q, arm=arm, **place)["y"][0]
                for sign, arm in ((1, "train"), (-1, "deploy"))
                for change, place in ((1, at), (-1, {"a": "original", "b": "original"}))
            )
            for q in frame["query_id"].unique().sort()
        ]
        assert row["p_value"] == pytest.approx(signs_changed(np.array(own)))
        assert row["method"] == f"wild cluster bootstrap, all {2**queries} sign changes"
        assert row["estimate"] is row["std_error"] is None


def test_with_balance_the_averaged_effect_has_the_sign_changes_of_its_queries() -> None:
    """Each query's own averaged change, with weights that are all alike."""
    frame = trials(seed=9, queries=7, unbalanced=False).with_columns(law=1.0)
    found = rows_of(frame, AVERAGED, "wild cluster bootstrap")
    means = frame.group_by("query_id", "arm", "a").agg(pl.col("y").mean())
    wide = means.pivot(on=["arm", "a"], index="query_id", values="y").sort("query_id")
    columns = [wide[f'{{"{arm}","{a}"}}'].to_numpy() for arm in ARMS for a in LEVELS[::-1]]
    own = columns[0] - columns[1] - columns[2] + columns[3]
    assert found["a", "removed"]["p_value"] == pytest.approx(signs_changed(own))


@pytest.mark.parametrize(("queries", "there"), [(5, False), (6, True), (10, True), (11, False)])
def test_the_bootstrap_is_for_few_queries_and_not_too_few(queries: int, there: bool) -> None:
    """Six to ten; below six no p-value could be under .05."""
    frame = trials(seed=1, queries=queries)
    for estimand in (SIMPLE, AVERAGED):
        assert bool(rows_of(frame, estimand, "wild cluster bootstrap")) == there


def test_shares_of_votes_have_no_logit() -> None:
    """Not even where two half votes make a whole one."""
    frame = trials(seed=2).with_columns(y=pl.lit(0.5))
    frame = pl.concat([frame, frame])
    varied = frame.with_columns(
        y=pl.when(pl.col("query_id") < "q1", pl.col("arm") == "train").then(1.0).otherwise("y")
    )
    for estimand in (SIMPLE, AVERAGED):
        assert rows_of(varied, estimand, "logit") == rows_of(varied, estimand, "Firth") == {}
    assert len(rows_of(varied, SIMPLE, "trials counted equally")) == 3


def test_structural_zeros_have_no_sensitivity_rows() -> None:
    """A gap that is 0 by construction is so under every estimator."""
    frame = trials(seed=3).with_columns(
        prompt=pl.format(
            "{} {} {}",
            "query_id",
            "b",
            pl.when(pl.col("a") == "removed").then(pl.lit("")).otherwise(pl.col("arm")),
        )
    )
    for estimand in (SIMPLE, AVERAGED):
        for method in ("trials", "linear", "logit"):
            found = rows_of(frame, estimand, method, prompt="prompt")
            assert ("a", "removed") not in found


def test_a_level_in_one_query_has_no_error_anywhere() -> None:
    """Estimates stand; no row pretends to know of other queries."""
    frame = trials(seed=4, queries=8).filter(
        (pl.col("b") != "softened") | (pl.col("query_id") == "q03")
    )
    table = fit(frame, factors="ab", outcomes=["y"], weight="law").effects
    lone = table.filter(pl.col("role") == "sensitivity", pl.col("level") == "softened")
    assert lone.height >= 3
    assert lone["p_value"].null_count() == lone["std_error"].null_count() == lone.height
    assert all("one query" in note or "separated" in note for note in lone["note"])


def test_sensitivity_rows_can_be_left_out_and_change_nothing_else() -> None:
    """The primary rows, with their corrected p-values, are the same with and without."""
    frame = trials(seed=5, queries=8)
    options: dict[str, Any] = {"factors": ["a", "b"], "outcomes": ["y"], "weight": "law"}
    full, short = fit(frame, **options), fit(frame, **options, sensitivity=False)
    assert short.effects.equals(full.effects.filter(pl.col("role") == "primary"))
    assert set(full.effects["role"]) == {"primary", "sensitivity"}
    assert short.coefficients.equals(full.coefficients)
