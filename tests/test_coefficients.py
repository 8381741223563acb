"""Coefficients against statsmodels: OLS, GLM, GEE, conditional logit, and quadrature by hand."""

import itertools
import math
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import statsmodels.api as sm
import statsmodels.formula.api as smf
from scipy import optimize, stats
from statsmodels.discrete.conditional_models import ConditionalLogit

from analysis import fit

ARMS = ("train", "deploy")
FORMULA = "y ~ C(arm, Treatment('deploy')) * (a + b)"
TERMS = ["intercept", "a[removed]", "b[removed]", "arm[train]",
         "arm[train]:a[removed]", "arm[train]:b[removed]"]  # fmt: skip
# Where statsmodels has these terms.
PLACES = [0, 2, 3, 1, 4, 5]


def trials(seed: int = 0, queries: int = 21, deploy: float = 0.2) -> pl.DataFrame:
    """A crossed design of two factors, balanced, with queries that differ."""
    rng = np.random.default_rng(seed)
    shift = rng.normal(0, 0.8, queries)
    rows = []
    levels = ("original", "removed")
    for q, a, b, arm in itertools.product(range(queries), levels, levels, ARMS):
        eta = shift[q] - 1 + (arm == "train") * (1.5 - (a == "removed") - 0.3 * (b == "removed"))
        rate = 1 / (1 + np.exp(-eta)) if arm == "train" or deploy else 0.0
        rows += [(f"q{q:02}", arm, a, b, float(rng.random() < rate)) for _ in range(3)]
    return pl.DataFrame(rows, schema=["query_id", "arm", "a", "b", "y"], orient="row")


def rows_of(frame: pl.DataFrame, kind: str, **options: Any) -> list[dict[str, Any]]:
    """The rows of one fit."""
    table = fit(
        frame, factors=["a", "b"], outcomes=["y"], sensitivity=False, **options
    ).coefficients
    return table.filter(pl.col("fit") == kind).rows(named=True)


def data_of(frame: pl.DataFrame) -> tuple[pd.DataFrame, Any]:
    groups = frame["query_id"].rank("dense").to_numpy()
    return pd.DataFrame(frame.to_dict(as_series=False)), groups


def design(frame: pl.DataFrame) -> Any:
    """Columns in the order of TERMS."""
    x = [np.ones(frame.height), *((frame[f] == "removed").to_numpy() for f in "ab")]
    x = np.column_stack(x).astype(float)
    return np.hstack([x, x * (frame["arm"] == "train").to_numpy()[:, None]])


def test_each_covariance_that_is_asked_for_has_its_rows() -> None:
    """CR1 by default; CR0 and CR1S against statsmodels, CR2 and CR3 as named."""
    frame = trials()
    found = rows_of(frame, "lpm", covariance=("CR0", "CR1S", "CR1", "CR2", "CR3"))
    kinds = [row["covariance"] for row in found]
    assert kinds == [k for k in ("CR1", "CR0", "CR1S", "CR2", "CR3") for _ in TERMS]
    assert [row["term"] for row in found] == TERMS * 5
    data, groups = data_of(frame)
    for kind, corrected, factor in (
        ("CR0", False, 1.0), ("CR1", False, 21 / 20), ("CR1S", True, 1.0)
    ):  # fmt: skip
        expected = smf.ols(FORMULA, data).fit(
            cov_type="cluster", cov_kwds={"groups": groups, "use_correction": corrected}
        )
        for row, place in zip((r for r in found if r["covariance"] == kind), PLACES, strict=True):
            assert row["estimate"] == pytest.approx(expected.params.iloc[place])
            error = expected.bse.iloc[place] * math.sqrt(factor)
            assert row["std_error"] == pytest.approx(error)
            assert row["df"] == 20
            assert row["p_value"] == pytest.approx(2 * stats.t.sf(abs(row["estimate"] / error), 20))


def test_below_twenty_queries_the_linear_rows_are_cr2() -> None:
    """With balance the product rows are the t tests of the queries' own contrasts."""
    frame = trials(1, queries=9)
    found = {row["term"]: row for row in rows_of(frame, "lpm")}
    assert {row["covariance"] for row in found.values()} == {"CR2"}
    means = frame.group_by("query_id", "arm", "a").agg(pl.col("y").mean())
    wide = means.pivot(on=["arm", "a"], index="query_id", values="y")
    own = sum(
        sign * wide[f'{{"{arm}","{a}"}}'].to_numpy()
        for sign, arm, a in (
            (1, "train", "removed"), (-1, "train", "original"),
            (-1, "deploy", "removed"), (1, "deploy", "original"),
        )
    )  # fmt: skip
    row = found["arm[train]:a[removed]"]
    assert row["estimate"] == pytest.approx(np.mean(own))
    assert row["std_error"] == pytest.approx(stats.sem(own))
    assert row["df"] == pytest.approx(8)


def test_the_logit_is_statsmodels_glm_clustered_by_query() -> None:
    """Log-odds, CR1 errors and t(G - 1)."""
    frame = trials(2)
    data, groups = data_of(frame)
    expected = smf.glm(FORMULA, data, family=sm.families.Binomial()).fit(
        cov_type="cluster", cov_kwds={"groups": groups, "use_correction": False}
    )
    found = rows_of(frame, "logit")
    assert [row["term"] for row in found] == TERMS
    for row, place in zip(found, PLACES, strict=True):
        error = expected.bse.iloc[place] * math.sqrt(21 / 20)
        assert row["estimate"] == pytest.approx(expected.params.iloc[place], abs=1e-7)
        assert row["std_error"] == pytest.approx(error, rel=1e-6)
        assert (row["df"], row["covariance"], row["note"]) == (20, "CR1", None)


def test_the_estimating_equations_are_statsmodels_gee() -> None:
    """Exchangeable within queries, with the bias-reduced errors of Mancl and DeRouen."""
    frame = trials(3)
    _, groups = data_of(frame)
    order = np.argsort(groups, kind="stable")
    model = sm.GEE(
        frame["y"].to_numpy()[order],
        design(frame)[order],
        groups[order],
        family=sm.families.Binomial(),
        cov_struct=sm.cov_struct.Exchangeable(),
    )
    expected = model.fit(cov_type="bias_reduced", maxiter=200, ctol=1e-10)
    for i, row in enumerate(rows_of(frame, "gee")):
        assert row["term"] == TERMS[i]
        assert row["estimate"] == pytest.approx(expected.params[i], abs=2e-4)
        assert row["std_error"] == pytest.approx(expected.bse[i], rel=2e-3)
        assert (row["covariance"], row["df"]) == ("bias-reduced", 20)


def test_the_conditional_logit_is_that_of_statsmodels() -> None:
    """Within queries, and so without an intercept; model errors and z."""
    frame = trials(4)
    _, groups = data_of(frame)
    expected = ConditionalLogit(frame["y"].to_numpy(), design(frame)[:, 1:], groups=groups).fit(
        disp=False, gtol=1e-10
    )
    found = rows_of(frame, "clogit")
    assert [row["term"] for row in found] == TERMS[1:]
    for i, row in enumerate(found):
        assert row["estimate"] == pytest.approx(expected.params[i], abs=1e-4)
        assert row["std_error"] == pytest.approx(expected.bse[i], rel=1e-3)
        assert (row["covariance"], row["df"]) == ("model", None)
        z = abs(row["estimate"] / row["std_error"])
        assert row["p_value"] == pytest.approx(2 * stats.norm.sf(z))


def test_the_random_intercept_is_a_maximum_of_the_integrated_likelihood() -> None:
    """By quadrature with 60 fixed nodes and a general optimizer."""
    frame = trials(5)
    X, y = design(frame), frame["y"].to_numpy()
    _, groups = data_of(frame)
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    parts = [(X[groups == g], y[groups == g]) for g in np.unique(groups)]

    def loss(theta: Any) -> float:
        total = 0.0
        for rows, hits in parts:
            eta = (rows @ theta[:-1])[:, None] + theta[-1] * nodes
            logs = np.where(hits[:, None] == 1, -np.logaddexp(0, -eta), -np.logaddexp(0, eta))
            total -= np.log((np.exp(logs.sum(axis=0)) * weights).sum())
        return total

    found = rows_of(frame, "glmm")
    sd = float(found[0]["note"].removeprefix("SD between queries "))
    start = np.append(np.zeros(6), 0.5)
    best = optimize.minimize(loss, start, method="BFGS", options={"gtol": 1e-6})
    np.testing.assert_allclose([row["estimate"] for row in found], best.x[:-1], atol=1e-3)
    assert sd == pytest.approx(abs(best.x[-1]), rel=5e-3)
    steps = np.eye(7) * 1e-3
    at = best.x
    information = np.array(
        [
            [
                (loss(at + s + t) - loss(at + s - t) - loss(at - s + t) + loss(at - s - t)) / 4e-6
                for t in steps
            ]
            for s in steps
        ]
    )
    errors = np.sqrt(np.diag(np.linalg.inv(information)))[:-1]
    np.testing.assert_allclose([row["std_error"] for row in found], errors, rtol=0.02)


def test_separated_trials_have_firths_rows_in_place_of_the_logits() -> None:
    """Deploy at 0: profile bounds are honest, and every linear row says `separated`."""
    frame = trials(6, deploy=0.0)
    kinds = fit(frame, factors=["a", "b"], outcomes=["y"]).coefficients["fit"].to_list()
    assert kinds == ["lpm"] * 6 + ["firth"] * 6
    assert all("separated" in row["note"] for row in rows_of(frame, "lpm"))
    for row in rows_of(frame, "firth"):
        assert abs(row["estimate"]) < 10
        assert row["conf_low"] < row["estimate"] < row["conf_high"]
        assert (row["covariance"], row["std_error"], row["df"]) == ("profile", None, None)
        assert "independence" in row["note"]
    gap = next(row for row in rows_of(frame, "firth") if row["term"] == "arm[train]")
    assert gap["p_value"] < 1e-6
    linear = next(row for row in rows_of(frame, "lpm") if row["term"] == "arm[train]")
    assert linear["p_value"] < 1e-6


def test_shares_of_votes_have_linear_rows_and_say_why_there_is_no_logit() -> None:
    """Null rows with a note."""
    frame = trials(7).with_columns(y=pl.col("y") * 0.5 + 0.25)
    found = rows_of(frame, "logit")
    assert [row["term"] for row in found] == TERMS
    assert {row["note"] for row in found} == {"not estimable: outcomes between 0 and 1"}
    assert {row["estimate"] for row in found} == {None}
    assert len(rows_of(frame, "lpm")) == 6
    assert rows_of(frame, "gee") == rows_of(frame, "firth") == []


def test_one_query_has_no_coefficients() -> None:
    """There is nothing to say of others."""
    assert fit(trials(queries=1), factors=["a", "b"], outcomes=["y"]).coefficients.is_empty()


def test_further_arms_have_no_coefficients_of_their_own() -> None:
    """Those of the first pair of arms."""
    frame = trials(8)
    third = frame.with_columns(arm=pl.col("arm").replace("train", "pilot"))
    both = pl.concat([frame, third.filter(pl.col("arm") == "pilot")])
    pairs = [("train", "deploy"), ("pilot", "deploy")]
    found = fit(both, factors=["a", "b"], outcomes=["y"], contrasts=pairs).coefficients
    assert found.equals(fit(frame, factors=["a", "b"], outcomes=["y"]).coefficients)
