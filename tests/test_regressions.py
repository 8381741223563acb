"""The linear probability model agrees with statsmodels' formulas and with loops."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import polars as pl
import pytest
import statsmodels.formula.api as smf
from scipy import stats

from analysis.observations import Observations, Term, observe
from analysis.regressions import (
    Coefficient,
    LinearFit,
    coefficient_names,
    design_matrix,
    equal_query_weights,
    estimable,
    linear_probability,
)


def random_trials(
    seed: int, n: int = 600, factors: Sequence[str] = ("f", "g"), queries: int = 15
) -> pl.DataFrame:
    """Trials with levels drawn at random, some queries far more often than others."""
    rng = np.random.default_rng(seed)
    levels = {name: rng.choice(["original", "removed"], n, p=[0.7, 0.3]) for name in factors}
    query = np.minimum(rng.integers(0, queries, n), rng.integers(0, queries, n))
    train = rng.random(n) < 0.65
    rate = np.clip(0.1 + 0.25 * train + 0.03 * (query % 5), 0, 1)
    return pl.DataFrame(
        {
            "arm": np.where(train, "train", "deploy"),
            "query_id": [f"q{q}" for q in query],
            **levels,
            "complied": (rng.random(n) < rate).astype(float),
            "law": rng.choice([0.4, 1.0, 2.5], n),
        }
    )


def observed(frame: pl.DataFrame, factors: Sequence[str] = ("f", "g")) -> Observations:
    """The frame as the estimators want it, with its design weights."""
    return observe(frame, factors=factors, outcomes=["complied"], weight="law")


def fitted(frame: pl.DataFrame, factors: Sequence[str], *, weighted: bool) -> LinearFit:
    """The fit of a frame with these factors."""
    checked = observed(frame, factors)
    return linear_probability(checked.frame, "complied", checked.terms, weighted=weighted)


def pandas(frame: pl.DataFrame) -> pd.DataFrame:
    """The frame for a formula of statsmodels, without a detour through pyarrow."""
    return pd.DataFrame(frame.to_dict(as_series=False))


def unit(fit: LinearFit, label: str) -> np.ndarray:
    """The contrast that is the coefficient with a label."""
    return np.array([float(name.label == label) for name in fit.names])


def statsmodels_names(label: str) -> str:
    """A label of coefficients.csv as patsy writes it."""
    return "Intercept" if label == "intercept" else label.replace("[", "[T.")


@pytest.mark.parametrize("seed", range(3))
def test_the_unweighted_fit_is_statsmodels_ols_with_clusters(seed: int) -> None:
    """Every coefficient, error and degree of freedom is that of OLS on a formula, as CR1."""
    frame = random_trials(seed)
    fit = fitted(frame, ["f", "g"], weighted=False)
    groups = frame["query_id"].n_unique()
    model = smf.ols("complied ~ arm * (f + g)", pandas(frame))
    kwds = {"groups": frame["query_id"].rank("dense").to_numpy(), "use_correction": False}
    expected = model.fit(cov_type="cluster", cov_kwds=kwds, use_t=True)
    assert fit.df == groups - 1 == fit.clusters - 1
    assert fit.trials == len(frame)
    for name in fit.names:
        found = fit.contrast(unit(fit, name.label))
        assert found is not None
        theirs = statsmodels_names(name.label)
        assert found[0] == pytest.approx(expected.params[theirs], abs=1e-10)
        error = expected.bse[theirs] * (groups / (groups - 1)) ** 0.5
        assert found[1] == pytest.approx(error, rel=1e-8)


@pytest.mark.parametrize("seed", range(3))
def test_the_weighted_fit_is_statsmodels_wls_with_clusters(seed: int) -> None:
    """With weights that give each query a total of 1 in each arm, written as loops."""
    frame = random_trials(seed)
    totals: dict[tuple[str, str], float] = {}
    for row in frame.iter_rows(named=True):
        key = row["arm"], row["query_id"]
        totals[key] = totals.get(key, 0.0) + row["law"]
    weights = [r["law"] / totals[r["arm"], r["query_id"]] for r in frame.iter_rows(named=True)]
    model = smf.wls("complied ~ arm * (f + g)", pandas(frame), weights=weights)
    kwds = {"groups": frame["query_id"].rank("dense").to_numpy(), "use_correction": False}
    expected = model.fit(cov_type="cluster", cov_kwds=kwds, use_t=True)
    fit = fitted(frame, ["f", "g"], weighted=True)
    for name in fit.names:
        found = fit.contrast(unit(fit, name.label))
        assert found is not None
        theirs = statsmodels_names(name.label)
        assert found[0] == pytest.approx(expected.params[theirs], abs=1e-10)
        error = expected.bse[theirs] * (fit.clusters / (fit.clusters - 1)) ** 0.5
        assert found[1] == pytest.approx(error, rel=1e-8)


def test_a_contrast_has_the_estimate_and_error_of_statsmodels_t_test() -> None:
    """A sum of coefficients keeps their covariances."""
    frame = random_trials(3)
    fit = fitted(frame, ["f", "g"], weighted=False)
    model = smf.ols("complied ~ arm * (f + g)", pandas(frame))
    kwds = {"groups": frame["query_id"].rank("dense").to_numpy(), "use_correction": False}
    expected = model.fit(cov_type="cluster", cov_kwds=kwds, use_t=True).t_test(
        "arm[T.train]:f[T.removed] + f[T.removed] - 0.25 * arm[T.train]:g[T.removed] = 0"
    )
    weights = unit(fit, "arm[train]:f[removed]") + unit(fit, "f[removed]")
    weights = weights - 0.25 * unit(fit, "arm[train]:g[removed]")
    found = fit.contrast(weights)
    assert found is not None
    assert found[0] == pytest.approx(expected.effect[0])
    error = expected.sd[0, 0] * (fit.clusters / (fit.clusters - 1)) ** 0.5
    assert found[1] == pytest.approx(error)


def test_cell_means_with_balance_are_the_paired_t_test() -> None:
    """Without factors and with equal cells, arm[train] is the t-test on per-query differences."""
    rng = np.random.default_rng(5)
    y = rng.random((9, 2, 4)) < rng.random((9, 1, 1))
    rows = [
        (f"q{q}", ("deploy", "train")[a], float(y[q, a, r]))
        for q in range(9)
        for a in range(2)
        for r in range(4)
    ]
    frame = pl.DataFrame(rows, schema=["query_id", "arm", "complied"], orient="row")
    checked = observe(frame, factors=[], outcomes=["complied"])
    fit = linear_probability(checked.frame, "complied", (), weighted=False)
    found = fit.contrast(np.array([0.0, 1.0]))
    means = y.mean(axis=2)
    expected = stats.ttest_rel(means[:, 1], means[:, 0])
    assert found is not None
    assert found[0] / found[1] == pytest.approx(expected.statistic)
    assert fit.df == expected.df


def test_the_design_matrix_is_the_products_written_as_loops() -> None:
    """Intercept, terms, train and train times terms; a level that is not applicable counts 0."""
    frame = pl.DataFrame(
        {
            "arm": ["train", "deploy", "train", "deploy", "train"],
            "query_id": ["a", "a", "b", "b", "b"],
            "tier": ["original", "removed", "softened", "original", None],
            "tier_rule": ["removed", None, "original", "removed", "original"],
        }
    )
    checked = observe(frame, factors=["tier", "tier_rule"], outcomes=[])
    X = design_matrix(checked.frame, checked.terms)
    names = coefficient_names(checked.terms)
    assert X.shape == (5, len(names))
    for i, row in enumerate(frame.iter_rows(named=True)):
        for j, name in enumerate(names):
            expected = 1.0
            if name.arm:
                expected *= row["arm"] == "train"
            if name.term:
                expected *= row[name.term.factor] == name.term.level
            assert X[i, j] == expected


@pytest.mark.parametrize(
    ("coefficient", "label"),
    [
        (Coefficient(False, None), "intercept"),
        (Coefficient(True, None), "arm[train]"),
        (Coefficient(False, Term("f", "removed")), "f[removed]"),
        (Coefficient(True, Term("f", "removed")), "arm[train]:f[removed]"),
        (Coefficient(True, Term("a:b", "x[y]")), "arm[train]:a:b[x[y]]"),
    ],
)
def test_coefficients_are_labelled_as_the_table_says(coefficient: Coefficient, label: str) -> None:
    """The four kinds of term of coefficients.csv; names are literal."""
    assert coefficient.label == label


@pytest.mark.parametrize("seed", range(4))
def test_each_query_weighs_the_same_in_each_arm(seed: int) -> None:
    """Weights of a query in an arm add up to 1 and keep the ratios of the design weights."""
    checked = observed(random_trials(seed))
    frame = checked.frame.with_columns(pl.Series("w", equal_query_weights(checked.frame)))
    for _, cell in frame.group_by("arm", "query"):
        assert cell["w"].sum() == pytest.approx(1)
        assert (cell["w"] / cell["weight"]).std() == pytest.approx(0, abs=1e-12) or cell.height == 1


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_a_twin_factor_is_not_estimable_and_changes_no_other_number(
    seed: int, weighted: bool
) -> None:
    """Two factors that always change together are null; the rest is the fit without one."""
    factors = [f"f{i}" for i in range(2 + seed)]
    frame = random_trials(100 + seed, 200 + 90 * seed, factors)
    frame = frame.with_columns(pl.col("f0").alias("twin"))
    with_twin = fitted(frame, [*factors, "twin"], weighted=weighted)
    alone = fitted(frame, factors, weighted=weighted)
    for name in with_twin.names:
        found = with_twin.contrast(unit(with_twin, name.label))
        if name.term and name.term.factor in ("f0", "twin"):
            assert found is None
        else:
            expected = alone.contrast(unit(alone, name.label))
            assert found == pytest.approx(expected, rel=1e-7, abs=1e-9)
    both = unit(with_twin, "arm[train]:f0[removed]") + unit(with_twin, "arm[train]:twin[removed]")
    expected = alone.contrast(unit(alone, "arm[train]:f0[removed]"))
    assert with_twin.contrast(both) == pytest.approx(expected, rel=1e-7, abs=1e-9)


def test_the_sum_of_two_twins_is_estimable() -> None:
    """Of two factors that always go together the sum of the effects is known, and no more."""
    frame = random_trials(9).with_columns(pl.col("f").alias("twin"))
    checked = observed(frame, ["f", "twin"])
    X = design_matrix(checked.frame, checked.terms)
    assert not estimable(X, np.array([0.0, 1, 0, 0, 0, 0]))
    assert not estimable(X, np.array([0.0, 1, -1, 0, 0, 0]))
    assert estimable(X, np.array([0.0, 1, 1, 0, 0, 0]))


@pytest.mark.parametrize("seed", range(20))
def test_estimable_is_a_question_of_rank(seed: int) -> None:
    """A contrast is estimable exactly when it adds no rank as a further row."""
    rng = np.random.default_rng(seed)
    columns = int(rng.integers(3, 14))
    X = (rng.random((int(rng.integers(4, 60)), columns)) < 0.4).astype(float)
    X[:, -1] = X[:, 0] + X[:, 1]
    for _ in range(8):
        weights = rng.integers(-2, 3, columns).astype(float)
        if rng.random() < 0.5:
            weights = X[rng.integers(0, len(X))] - 0.5 * X[rng.integers(0, len(X))]
        rank = np.linalg.matrix_rank(X)
        expected = np.linalg.matrix_rank(np.vstack([X, weights])) == rank
        assert estimable(X, weights) == expected


@pytest.mark.parametrize("weighted", [False, True])
def test_a_level_seen_in_a_single_trial_is_still_estimable(weighted: bool) -> None:
    """One trial with the change in each arm among thousands is enough to be estimable."""
    frame = random_trials(2, 5000, ("f",)).with_columns(g=pl.lit("original"))
    rare = frame.with_row_index().with_columns(
        pl.when(pl.col("index").is_in([0, 1]))
        .then(pl.lit("removed"))
        .otherwise(pl.lit("original"))
        .alias("g"),
        pl.when(pl.col("index") < 2)
        .then(pl.Series(["train", "deploy"] * 2500))
        .otherwise(pl.col("arm"))
        .alias("arm"),
        pl.when(pl.col("index") < 2).then(0.001).otherwise(pl.col("law")).alias("law"),
    )
    fit = fitted(rare, ["f", "g"], weighted=weighted)
    assert fit.contrast(unit(fit, "arm[train]:g[removed]")) is not None


@pytest.mark.parametrize("weighted", [False, True])
def test_rows_without_an_outcome_are_as_if_they_were_not_there(weighted: bool) -> None:
    """A null outcome leaves its row out of estimates, errors, weights and counts."""
    frame = random_trials(6)
    mask = pl.int_range(pl.len()) % 7 == 0
    nulled = frame.with_columns(complied=pl.when(mask).then(None).otherwise(pl.col("complied")))
    one, other = (fitted(f, ["f", "g"], weighted=weighted) for f in (nulled, frame.filter(~mask)))
    np.testing.assert_allclose(one.estimates, other.estimates, atol=1e-12)
    np.testing.assert_allclose(one.covariance, other.covariance, atol=1e-14)
    assert (one.trials, one.clusters, one.df) == (other.trials, other.clusters, other.df)


def test_a_query_without_any_outcome_is_not_a_cluster() -> None:
    """Degrees of freedom count the queries that were graded."""
    frame = random_trials(6)
    complied = pl.when(pl.col("query_id") == "q3").then(None).otherwise(pl.col("complied"))
    fit = fitted(frame.with_columns(complied=complied), ["f", "g"], weighted=False)
    assert fit.clusters == frame["query_id"].n_unique() - 1
    assert fit.df == fit.clusters - 1


@pytest.mark.parametrize("weighted", [False, True])
def test_duplicated_rows_add_no_information(weighted: bool) -> None:
    """Every trial written three times gives the same estimates and the same errors."""
    frame = random_trials(7)
    once, thrice = (
        fitted(f, ["f", "g"], weighted=weighted) for f in (frame, pl.concat([frame] * 3))
    )
    np.testing.assert_allclose(thrice.estimates, once.estimates, atol=1e-10)
    np.testing.assert_allclose(thrice.covariance, once.covariance, atol=1e-12)
    assert thrice.df == once.df


@pytest.mark.parametrize("weighted", [False, True])
def test_the_order_of_rows_does_not_matter(weighted: bool) -> None:
    """Shuffled trials give the same fit."""
    frame = random_trials(8)
    straight, shuffled = (
        fitted(f, ["f", "g"], weighted=weighted)
        for f in (frame, frame.sample(fraction=1, shuffle=True, seed=1))
    )
    np.testing.assert_allclose(shuffled.estimates, straight.estimates, atol=1e-10)
    np.testing.assert_allclose(shuffled.covariance, straight.covariance, atol=1e-12)


def test_vote_shares_are_outcomes_too() -> None:
    """An outcome between 0 and 1 is fitted as it is."""
    rng = np.random.default_rng(0)
    frame = random_trials(9).with_columns(complied=pl.Series(rng.random(600)))
    fit = fitted(frame, ["f", "g"], weighted=False)
    expected = smf.ols("complied ~ arm * (f + g)", pandas(frame)).fit()
    found = fit.contrast(unit(fit, "arm[train]:g[removed]"))
    assert found is not None
    assert found[0] == pytest.approx(expected.params["arm[T.train]:g[T.removed]"])
