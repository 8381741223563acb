"""The three tables together: their columns, models apart, and what must never change a number."""

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import statsmodels.formula.api as smf
from scipy import stats

import analysis
from analysis import Results, fit
from analysis.estimates import ESTIMANDS

FACTORS = ("tier", "rule")
GAPS = """model condition condition_id tier rule outcome contrast n_train n_deploy rate_train
rate_deploy gap std_error conf_low conf_high n_queries method note""".split()
EFFECTS = """model outcome contrast estimand factor level factor2 level2 reference estimate
train_part deploy_part std_error statistic df p_value p_holm q_bh p_placebo conf_low conf_high
n_trials n_clusters family grader correction role method note""".split()
COEFFICIENTS = """model outcome fit term estimate std_error statistic df p_value conf_low conf_high
covariance note""".split()
TABLES = ("gaps", "effects", "coefficients", "spreads")


def trials(seed: int = 0, queries: int = 11, model: str | None = None) -> pl.DataFrame:
    """A mixed design of two factors, unbalanced, with holes in the outcome and prompt ids."""
    rng = np.random.default_rng(seed)
    conditions = [*itertools.product(("original", "removed"), ("original", "removed", "softened"))]
    rows = []
    for q, (tier, rule), arm in itertools.product(range(queries), conditions, ("train", "deploy")):
        for _ in range(rng.integers(1, 6)):
            y = None if rng.random() < 0.05 else float(rng.random() < 0.3 + 0.2 * (arm == "train"))
            cue = "" if tier == "removed" else arm
            rows.append((f"q{q:02}", arm, tier, rule, y, rng.choice([0.5, 2.0]), f"{q}{rule}{cue}"))
    names = ["query_id", "arm", *FACTORS, "complied", "law", "prompt_id"]
    frame = pl.DataFrame(rows, schema=names, orient="row")
    frame = frame.with_columns(refused=1 - pl.col("complied"))
    return frame.with_columns(model=pl.lit(model)) if model else frame


def fitted(frame: pl.DataFrame, **options: Any) -> Results:
    """All tables with both outcomes, weights and prompts."""
    options = {"outcomes": ["complied", "refused"]} | options
    return fit(frame, factors=FACTORS, weight="law", prompt="prompt_id", **options)


def among(results: Results, rows: pl.Expr) -> Results:
    """Some rows of every table."""
    return Results(*(getattr(results, name).filter(rows) for name in TABLES))


def primary_rows(effects: pl.DataFrame) -> pl.DataFrame:
    """The rows of simple and averaged effects that carry the tests."""
    return effects.filter(pl.col("estimand").is_in(ESTIMANDS), pl.col("role") == "primary")


def assert_same(one: Results, other: Results) -> None:
    """All tables agree, floats to 1e-7 and everything else exactly."""
    for name in TABLES:
        left, right = getattr(one, name), getattr(other, name)
        assert left.columns == right.columns
        for column in left.columns:
            if left[column].dtype == pl.Float64:
                assert left[column].is_null().equals(right[column].is_null())
                np.testing.assert_allclose(
                    left[column].fill_null(0), right[column].fill_null(0), rtol=1e-7, atol=1e-9
                )
            else:
                assert left[column].equals(right[column])


def test_the_tables_have_the_columns_of_the_contract() -> None:
    """Names and order as documented, with types that hold also in an empty table."""
    for outcomes, rows in ((["complied", "refused"], 24 - 4), ([], 0)):
        results = fitted(trials(), outcomes=outcomes)
        assert results.gaps.columns == GAPS
        assert results.effects.columns == EFFECTS
        assert results.coefficients.columns == COEFFICIENTS
        assert results.effects["estimate"].dtype == pl.Float64
        assert results.effects["n_trials"].dtype == pl.Int64
        assert results.gaps["rule"].dtype == pl.Enum(["original", "removed", "softened"])
        assert primary_rows(results.effects).height == rows
        assert results.effects.is_empty() == (rows == 0)


def test_each_coefficient_is_statsmodels_ols_clustered_by_query() -> None:
    """Estimate, CR1 error, t(G - 1) test and bounds of the unweighted model, term by term."""
    frame = trials(1, queries=21).filter(pl.col("complied").is_not_null())
    data = pd.DataFrame(frame.to_dict(as_series=False))
    kwds = {"groups": frame["query_id"].rank("dense").to_numpy(), "use_correction": False}
    expected = smf.ols("complied ~ arm * (tier + rule)", data).fit(
        cov_type="cluster", cov_kwds=kwds, use_t=True
    )
    table = fitted(frame, outcomes=["complied"]).coefficients.filter(pl.col("fit") == "lpm")
    assert table["term"].to_list() == [
        "intercept",
        "tier[removed]",
        "rule[removed]",
        "rule[softened]",
        "arm[train]",
        "arm[train]:tier[removed]",
        "arm[train]:rule[removed]",
        "arm[train]:rule[softened]",
    ]
    for row in table.iter_rows(named=True):
        theirs = row["term"].replace("[", "[T.").replace("intercept", "Intercept")
        error = expected.bse[theirs] * (21 / 20) ** 0.5
        reach = stats.t.ppf(0.975, 20) * error
        statistic = expected.params[theirs] / error
        assert row["estimate"] == pytest.approx(expected.params[theirs])
        assert row["std_error"] == pytest.approx(error)
        assert row["statistic"] == pytest.approx(statistic)
        assert row["p_value"] == pytest.approx(2 * stats.t.sf(abs(statistic), 20))
        assert row["conf_low"] == pytest.approx(row["estimate"] - reach)
        assert row["conf_high"] == pytest.approx(row["estimate"] + reach)
        assert (row["covariance"], row["df"], row["note"]) == ("CR1", 20, None)


def test_coefficients_that_cannot_be_told_apart_are_null_and_say_so() -> None:
    """A factor that always goes with another, in coefficients and in averaged effects."""
    frame = trials(2).with_columns(pl.col("tier").alias("twin"))
    options = {"outcomes": ["complied"], "weight": "law"}
    both = fit(frame, factors=["tier", "rule", "twin"], **options)
    alone = fit(frame, factors=["rule", "tier"], **options)
    twins = both.coefficients.filter(pl.col("term").str.contains("tier|twin"))
    assert twins["note"].to_list() == ["not estimable"] * 4
    assert twins["estimate"].null_count() == twins["p_value"].null_count() == 4
    kept = both.coefficients.filter(~pl.col("term").str.contains("tier|twin"))
    other = alone.coefficients.filter(~pl.col("term").str.contains("tier|twin"))
    # What cannot be told apart has no logit at all.
    assert set(both.coefficients["fit"]) == {"lpm"}
    other = other.filter(pl.col("fit") == "lpm")
    assert kept["term"].to_list() == other["term"].to_list()
    np.testing.assert_allclose(kept["estimate"], other["estimate"])
    np.testing.assert_allclose(kept["std_error"], other["std_error"])
    effects = primary_rows(both.effects).filter(pl.col("level") == "removed")
    lost = effects.filter(pl.col("factor").is_in(["tier", "twin"]))
    assert lost["estimate"].null_count() == lost.height == 4
    assert all(note.startswith("not estimable") for note in lost["note"])


def test_constant_outcomes_have_coefficients_without_errors() -> None:
    """No variance at all: estimates stand, tests do not."""
    results = fitted(trials(3).with_columns(complied=0.0), outcomes=["complied"])
    table = results.coefficients.filter(pl.col("fit") == "lpm")
    np.testing.assert_allclose(table["estimate"], 0, atol=1e-12)
    assert table["std_error"].null_count() == table["p_value"].null_count() == table.height
    assert table["note"].unique().to_list() == ["boundary; separated"]
    assert (
        primary_rows(results.effects)["p_value"].null_count()
        == primary_rows(results.effects).height
    )


def test_models_are_fitted_apart() -> None:
    """The rows of a model are the fit of its trials alone, whatever other models did."""
    frames = {
        m: trials(i, queries=6 + 2 * i, model=m) for i, m in enumerate(("alpha", "beta", "gamma"))
    }
    together = fitted(pl.concat(frames.values()).sample(fraction=1, shuffle=True, seed=0))
    for model, frame in frames.items():
        own = among(together, pl.col("model") == model)
        pairs = pl.col("estimand") == "model_difference"
        assert (
            own.effects.filter(pairs).height == 2 * 4 * {"alpha": 2, "beta": 1, "gamma": 0}[model]
        )
        assert_same(replace(own, effects=own.effects.filter(~pairs)), fitted(frame))


def test_a_model_without_a_level_has_null_rows_for_it() -> None:
    """What another model saw is listed as not estimable, and changes no other number."""
    partial = trials(1, model="beta").filter(pl.col("rule") != "softened")
    both = fitted(pl.concat([trials(0, model="alpha"), partial]))
    own = primary_rows(both.effects).filter(pl.col("model") == "beta")
    lost = own.filter(pl.col("level") == "softened")
    assert lost.height == 4
    assert lost["estimate"].null_count() == 4
    assert all("not estimable" in note for note in lost["note"])
    alone = primary_rows(fitted(partial).effects)
    kept = own.filter(pl.col("level") != "softened")
    assert kept.select("factor", "level").equals(alone.select("factor", "level"))
    np.testing.assert_allclose(kept["estimate"], alone["estimate"], atol=1e-12)
    np.testing.assert_allclose(
        kept["p_holm"].fill_null(2), alone["p_holm"].fill_null(2), atol=1e-12
    )


def test_the_order_of_rows_never_matters() -> None:
    """Shuffled trials give the same tables."""
    frame = trials(4)
    for seed in range(3):
        shuffled = frame.sample(fraction=1, shuffle=True, seed=seed)
        assert_same(fitted(shuffled), fitted(frame))


def test_control_rows_and_further_arms_never_change_anything() -> None:
    """Neither rows of role control nor a third arm enter any table."""
    frame = trials(5).with_columns(role=pl.lit("target"))
    control = trials(6).with_columns(role=pl.lit("control"))
    other = trials(7).with_columns(arm=pl.lit("audit"), role=pl.lit("target"))
    assert_same(fitted(pl.concat([control, frame, other])), fitted(trials(5)))


def test_further_columns_never_change_anything() -> None:
    """Unmapped columns are ignored, also those called like a table's."""
    frame = trials(5).with_columns(estimate=pl.lit(3.0), gap=pl.lit("x"), wording_id=pl.lit("w"))
    assert_same(fitted(frame), fitted(trials(5)))


def test_outcomes_are_fitted_apart() -> None:
    """The rows of an outcome are those of its fit alone; an outcome never graded has none."""
    frame = trials(6).with_columns(af_reasoning=pl.lit(None, pl.Float64))
    together = fitted(frame, outcomes=["complied", "af_reasoning", "refused"])
    assert_same(together, fitted(frame))
    own = among(together, pl.col("outcome") == "refused")
    assert_same(own, fitted(frame, outcomes=["refused"]))


def test_the_gap_of_a_complement_is_the_gap_turned_round() -> None:
    """For 1 - y every gap and effect changes its sign and keeps its error and p-value."""
    results = fitted(trials(7))
    for table, value in ((results.gaps, "gap"), (results.effects, "estimate")):
        one, two = (table.filter(pl.col("outcome") == o) for o in ("complied", "refused"))
        np.testing.assert_allclose(one[value], -two[value], atol=1e-12)
        np.testing.assert_allclose(one["conf_low"].fill_null(0), -two["conf_high"].fill_null(0))
        np.testing.assert_allclose(one["std_error"].fill_null(0), two["std_error"].fill_null(0))


def test_columns_may_have_other_names() -> None:
    """arm, query, weight and prompt are what the caller says."""
    frame = trials(8)
    names = {"arm": "tier_of_user", "query_id": "item", "law": "w", "prompt_id": "p"}
    renamed = fit(
        frame.rename(names),
        factors=FACTORS,
        outcomes=["complied", "refused"],
        arm="tier_of_user",
        query="item",
        weight="w",
        prompt="p",
    )
    assert_same(renamed, fitted(frame))


def test_without_weights_averaged_effects_are_over_the_table_as_it_is() -> None:
    """No weight column is the same as a weight of 1 on every trial."""
    frame = trials(9)
    plain = fit(frame, factors=FACTORS, outcomes=["complied"])
    ones = fit(frame.with_columns(law=1), factors=FACTORS, outcomes=["complied"], weight="law")
    assert_same(plain, ones)
    tenfold = fit(
        frame.with_columns(law=10.0), factors=FACTORS, outcomes=["complied"], weight="law"
    )
    assert_same(plain, tenfold)


def test_a_table_without_factors_has_its_gap() -> None:
    """No factor: one condition, two coefficients, no effects."""
    results = fit(trials(1), factors=[], outcomes=["complied"])
    assert results.gaps["condition"].to_list() == ["original"]
    linear = results.coefficients.filter(pl.col("fit") == "lpm")
    assert linear["term"].to_list() == ["intercept", "arm[train]"]
    assert results.effects.is_empty()


def test_the_door_of_the_package() -> None:
    """What others import is what is listed."""
    assert sorted(analysis.__all__) == ["ObservationsError", "Results", "fit"]
    for name in analysis.__all__:
        assert getattr(analysis, name).__doc__


def test_an_estimand_that_does_not_exist_is_refused() -> None:
    """A misspelt primary estimand would leave every row without a corrected p-value."""
    frame = pl.DataFrame({"arm": ["train", "deploy"], "query_id": ["a", "a"]})
    with pytest.raises(analysis.ObservationsError, match="gap_effect_simple"):
        analysis.fit(frame, factors=[], outcomes=[], primary="gap_effect_simpel")
