"""Clustered covariances agree with R, statsmodels, whole matrices and loops, cells with trials."""

import json
import math
import shutil
import subprocess
from pathlib import Path
from typing import Any, get_args

import numpy as np
import polars as pl
import pytest
from null_studies import CHANGE, null_study
from numpy.typing import NDArray
from scipy.linalg import block_diag
from statsmodels.regression.linear_model import OLS, WLS

from analysis.covariance import (
    Covariance,
    CovarianceError,
    Kind,
    choice,
    choose,
    clustered,
    cr1,
    generalized_inverse,
    satterthwaite,
    two_way,
)
from analysis.intervals import t_interval

Array = NDArray[np.float64]
KINDS: tuple[Kind, ...] = get_args(Kind)
REFERENCE = Path(__file__).parent / "reference"
STORED = json.loads((REFERENCE / "covariance.json").read_text())
SETS = [name for name in STORED if name != "versions"]


def data(seed: int, n: int = 120, p: int = 4, groups: int = 11) -> tuple[Array, ...]:
    """Design, outcome, clusters of unequal sizes and positive weights."""
    rng = np.random.default_rng(seed)
    clusters = np.concatenate(
        [np.arange(groups), rng.integers(0, groups, n - groups) ** 2 % groups]
    )
    X = np.column_stack([np.ones(n), rng.random((n, p - 1)) < 0.4]).astype(float)
    shift = rng.normal(size=groups)[clusters]
    y = X @ rng.normal(size=p) + shift + rng.normal(size=n)
    return X, y, clusters, rng.uniform(0.2, 3.0, n)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("weighted", [False, True])
def test_cr1_agrees_with_statsmodels(seed: int, weighted: bool) -> None:
    """It is the cluster covariance of statsmodels without its corrections, times G / (G - 1)."""
    X, y, clusters, weights = data(seed)
    weights = weights if weighted else np.ones(len(y))
    model = WLS(y, X, weights=weights) if weighted else OLS(y, X)
    kwds = {"groups": clusters, "use_correction": False}
    fitted = model.fit(cov_type="cluster", cov_kwds=kwds, use_t=True)
    groups = len(set(clusters.tolist()))
    found, df = cr1(X, y - X @ fitted.params, clusters, weights)
    np.testing.assert_allclose(found, fitted.cov_params() * groups / (groups - 1), rtol=1e-9)
    assert df == groups - 1


@pytest.mark.parametrize("seed", range(3))
def test_cr1_is_the_sandwich_written_as_loops(seed: int) -> None:
    """Bread, meat and bread from explicit sums over clusters and rows."""
    X, y, clusters, weights = data(seed, n=40, p=3, groups=6)
    bread = np.linalg.inv(sum(w * np.outer(x, x) for x, w in zip(X, weights, strict=True)))
    residuals = y - X @ (bread @ sum(w * x * v for x, w, v in zip(X, weights, y, strict=True)))
    meat = np.zeros((3, 3))
    for g in range(6):
        score = np.zeros(3)
        for i in range(40):
            if clusters[i] == g:
                score += weights[i] * X[i] * residuals[i]
        meat += np.outer(score, score)
    found, _ = cr1(X, residuals, clusters, weights)
    np.testing.assert_allclose(found, 6 / 5 * bread @ meat @ bread, rtol=1e-9)


def test_with_a_cluster_a_row_it_is_hc0_times_n_over_n_minus_one() -> None:
    """Clusters of one row give White's heteroskedastic covariance."""
    X, y, _, _ = data(1)
    fitted = OLS(y, X).fit(cov_type="HC0")
    found, df = cr1(X, y - X @ fitted.params, np.arange(120), np.ones(120))
    np.testing.assert_allclose(found, fitted.cov_params() * 120 / 119, rtol=1e-9)
    assert df == 119


def test_the_mean_of_clusters_of_equal_size_has_the_error_of_their_means() -> None:
    """An intercept alone over balanced clusters is a one-sample t on the cluster means."""
    rng = np.random.default_rng(4)
    y = rng.normal(size=(8, 5)) + rng.normal(size=(8, 1))
    residuals = (y - y.mean()).ravel()
    found, df = cr1(np.ones((40, 1)), residuals, np.repeat(np.arange(8), 5), np.ones(40))
    assert found[0, 0] == pytest.approx(y.mean(axis=1).var(ddof=1) / 8)
    assert df == 7


def test_names_of_clusters_and_order_of_rows_do_not_matter() -> None:
    """A permutation of rows, of cluster numbers, and a scale on the weights change nothing."""
    X, y, clusters, weights = data(2)
    rng = np.random.default_rng(0)
    rows, names = rng.permutation(120), rng.permutation(11)
    straight, _ = cr1(X, y, clusters, weights)
    turned, _ = cr1(X[rows], y[rows], names[clusters][rows], 7 * weights[rows])
    np.testing.assert_allclose(turned, straight, rtol=1e-9)


@pytest.mark.parametrize("seed", range(30))
def test_terms_that_cannot_be_told_apart_leave_the_others_alone(seed: int) -> None:
    """With columns doubled, summed and all zero, the other terms keep their covariance."""
    X, y, clusters, weights = data(seed, n=400, p=int(3 + seed % 10))
    bread = np.linalg.inv((X * weights[:, None]).T @ X)
    residuals = y - X @ (bread @ (X.T @ (weights * y)))
    wide = np.column_stack([X, X[:, 1], X[:, 1] * 3, np.zeros(400)])
    full, _ = cr1(X, residuals, clusters, weights)
    found, _ = cr1(wide, residuals, clusters, weights)
    kept = [0, *range(2, X.shape[1])]
    np.testing.assert_allclose(
        found[np.ix_(kept, kept)], full[np.ix_(kept, kept)], rtol=1e-6, atol=1e-9
    )


def test_the_covariance_is_symmetric_and_positive_semidefinite() -> None:
    """Also with fewer clusters than columns."""
    X, y, clusters, weights = data(3, p=9, groups=4)
    found, _ = cr1(X, y, clusters, weights)
    np.testing.assert_allclose(found, found.T, rtol=1e-9, atol=1e-12)
    assert np.linalg.eigvalsh(found).min() > -1e-9 * np.abs(found).max()


def test_a_weight_of_two_is_a_row_written_twice() -> None:
    """Weights count as copies of a row within its cluster."""
    X, y, clusters, _ = data(5)
    twice = np.concatenate([np.arange(120), np.arange(0, 120, 3)])
    weights = np.bincount(twice).astype(float)
    weighted, _ = cr1(X, y, clusters, weights)
    copied, _ = cr1(X[twice], y[twice], clusters[twice], np.ones(len(twice)))
    np.testing.assert_allclose(weighted, copied, rtol=1e-9)


def trials(name: str, weighted: bool) -> tuple[Array, Array, Array, Array, Array]:
    """X of `y ~ arm * factors` in R's order, y, queries, wordings, and weights per trial."""
    frame = pl.read_csv(REFERENCE / "data" / f"{name}.csv").drop_nulls("y")
    train = (frame["arm"] == "train").to_numpy().astype(float)
    factors = [c for c in frame.columns if c not in ("query", "wording", "arm", "y")]
    terms = [
        (frame[factor] == level).to_numpy().astype(float)
        for factor in factors
        for level in sorted(set(frame[factor]) - {"original"})
    ]
    X = np.column_stack([np.ones(len(train)), train, *terms, *(train * term for term in terms)])
    query, wording = (frame[c].rank("dense").to_numpy().astype(int) for c in ("query", "wording"))
    equal = frame.select(1 / pl.col("y").len().over("arm", "query")).to_series().to_numpy()
    weights = equal if weighted else np.ones(len(train))
    return X, frame["y"].to_numpy().astype(float), query, wording, weights


def residuals_of(X: Array, y: Array, weights: Array) -> Array:
    """Of the weighted least-squares fit, through the root of the weights and lstsq."""
    root = np.sqrt(weights)
    return np.asarray(y - X @ np.linalg.lstsq(X * root[:, None], y * root, rcond=None)[0])


def after(name: str) -> Array:
    """The gap once the first factor is out, as in covariance.R: train plus its first change."""
    names = STORED[name]["plain"]["names"]
    first = next(i for i, term in enumerate(names) if term.startswith("train:"))
    return np.isin(np.arange(len(names)), [1, first]).astype(float)


def assert_same(found: Array, expected: Array, rtol: float) -> None:
    """Within `rtol` of the largest entry."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=rtol * np.abs(expected).max())


def assert_as_in_r(reference: dict[str, Any], name: str, weighted: bool) -> None:
    """All kinds, their degrees of freedom and two-way errors on one data set."""
    X, y, queries, wordings, weights = trials(name, weighted)
    stored = reference[name]["equal" if weighted else "plain"]
    residuals = residuals_of(X, y, weights)
    for kind in KINDS:
        found = clustered(X, residuals, queries, weights, kind)
        assert_same(found.matrix, np.array(stored["matrices"][kind]), 1e-9)
    cr1s = clustered(X, residuals, queries, weights, "CR1S").matrix
    assert_same(cr1s, np.array(stored["sandwich_CR1S"]), 1e-9)
    cr2 = clustered(X, residuals, queries, weights, "CR2")
    df = [cr2.df(unit) for unit in np.eye(X.shape[1])]
    np.testing.assert_allclose(df, stored["satterthwaite"], rtol=1e-8)
    assert cr2.df(after(name)) == pytest.approx(stored["df_gap_after"], rel=1e-8)
    both = two_way(X, residuals, queries, wordings, weights)
    assert_same(both.matrix, np.array(stored["two_way_clipped"]), 1e-9)
    raw = np.array(stored["two_way"])
    assert both.clipped == (np.linalg.eigvalsh(raw).min() < -1e-9 * np.abs(raw).max())


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", SETS)
def test_r_gives_the_same(name: str, weighted: bool) -> None:
    """ClubSandwich and sandwich, on studies of different shape, with and without weights."""
    assert_as_in_r(STORED, name, weighted)


def test_the_reference_holds_what_can_go_wrong() -> None:
    """Sums that are no covariance and sums that are, and df far from clusters - 1."""
    ragged = STORED["ragged"]["equal"]
    assert min(ragged["satterthwaite"]) < 2 < 6 == len(set(trials("ragged", True)[2])) - 1
    clipped = {
        np.allclose(s["plain"]["two_way"], s["plain"]["two_way_clipped"])
        for s in (STORED[name] for name in SETS)
    }
    assert clipped == {True, False}


@pytest.mark.slow
def test_r_run_now_gives_the_same() -> None:
    """The script that made the stored reference, where R is there."""
    if shutil.which("Rscript") is None:
        pytest.skip("Rscript is not installed")
    packages = "all(sapply(c('clubSandwich', 'sandwich', 'jsonlite'), requireNamespace))"
    asked = subprocess.run(["Rscript", "-e", f"cat({packages})"], capture_output=True, text=True)
    if not asked.stdout.endswith("TRUE"):
        pytest.skip("R lacks one of clubSandwich, sandwich, jsonlite")
    ran = subprocess.run(
        ["Rscript", "covariance.R"], cwd=REFERENCE, capture_output=True, text=True, check=True
    )
    live = json.loads(ran.stdout)
    for name in SETS:
        assert_as_in_r(live, name, False)
        assert_as_in_r(live, name, True)
        for kind in KINDS:
            matrices = (from_["equal"]["matrices"][kind] for from_ in (live[name], STORED[name]))
            assert_same(*map(np.array, matrices), 1e-9)


@pytest.mark.parametrize("weighted", [False, True])
def test_cr1s_is_the_default_of_statsmodels(weighted: bool) -> None:
    """With its small-sample correction, which is Stata's."""
    X, y, clusters, weights = data(7)
    weights = weights if weighted else np.ones(len(y))
    fitted = WLS(y, X, weights=weights).fit(cov_type="cluster", cov_kwds={"groups": clusters})
    found = clustered(X, y - X @ fitted.params, clusters, weights, "CR1S")
    np.testing.assert_allclose(found.matrix, fitted.cov_params(), rtol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_cr3_is_the_jackknife(seed: int) -> None:
    """The sum of outer products of how far the fit moves when each cluster is left out."""
    X, y, clusters, weights = data(seed, n=200, groups=7)
    whole = WLS(y, X, weights=weights).fit().params
    moves = np.zeros((4, 4))
    for g in range(7):
        rest = clusters != g
        moved = WLS(y[rest], X[rest], weights=weights[rest]).fit().params - whole
        moves += np.outer(moved, moved)
    found = clustered(X, residuals_of(X, y, weights), clusters, weights, "CR3")
    np.testing.assert_allclose(found.matrix, moves, rtol=1e-8)


def whole_matrices(
    X: Array, residuals: Array, clusters: Array, weights: Array, contrast: Array
) -> tuple[Array, float]:
    """CR2 and its df from n x n matrices: nothing is split, collapsed or whitened."""
    W = np.diag(weights)
    bread = np.linalg.inv(X.T @ W @ X)
    rest = np.eye(len(X)) - X @ bread @ X.T @ W
    spread = rest @ rest.T
    blocks = []
    for g in sorted(set(clusters.tolist())):
        values, vectors = np.linalg.eigh(spread[np.ix_(clusters == g, clusters == g)])
        inverse = np.where(values > 1e-9, np.abs(values) ** -0.5, 0.0)
        blocks.append(vectors @ np.diag(inverse) @ vectors.T)
    order = np.argsort(clusters, kind="stable")
    A = np.zeros_like(W)
    A[np.ix_(order, order)] = block_diag(*blocks)
    left = bread @ X.T @ W @ A
    rows = [left * (clusters == g) for g in sorted(set(clusters.tolist()))]
    covariance = sum(np.outer(row @ residuals, row @ residuals) for row in rows)
    form = rest.T @ sum(np.outer(contrast @ row, contrast @ row) for row in rows) @ rest
    return np.asarray(covariance), float(np.trace(form) ** 2 / np.sum(form * form.T))


@pytest.mark.parametrize("seed", range(4))
def test_cr2_and_its_df_from_whole_matrices(seed: int) -> None:
    """The mean and variance of a quadratic form in n normal errors, written out."""
    X, y, clusters, weights = data(seed, n=90, p=4, groups=8)
    contrast = np.random.default_rng(seed).normal(size=4)
    residuals = residuals_of(X, y, weights)
    matrix, df = whole_matrices(X, residuals, clusters, weights, contrast)
    found = clustered(X, residuals, clusters, weights, "CR2")
    np.testing.assert_allclose(found.matrix, matrix, rtol=1e-8, atol=1e-12)
    assert satterthwaite(found, contrast) == pytest.approx(df, rel=1e-8)


def test_cr2_with_a_term_of_one_cluster_alone() -> None:
    """Its root is a generalized inverse; the term has no df and the others keep theirs."""
    X, y, clusters, weights = data(4, n=90, p=3, groups=8)
    X = np.column_stack([X, clusters == 2])
    residuals = residuals_of(X, y, weights)
    matrix, df = whole_matrices(X, residuals, clusters, weights, np.eye(4)[1])
    found = clustered(X, residuals, clusters, weights, "CR2")
    assert_same(found.matrix, matrix, 1e-8)
    assert found.df(np.eye(4)[1]) == pytest.approx(df, rel=1e-8)
    with pytest.raises(CovarianceError, match="one cluster alone"):
        found.df(np.eye(4)[3])
    left_out = clustered(X, residuals, clusters, weights, "CR3").matrix
    assert np.isfinite(left_out).all()


@pytest.mark.parametrize("weighted", [False, True])
def test_cr2_is_unbiased_when_trials_are_independent_with_one_variance(weighted: bool) -> None:
    """Its mean over such errors, one unit error at a time, is the variance of the estimates."""
    X, _, clusters, weights = data(8, n=70, p=4, groups=9)
    weights = weights if weighted else np.ones(70)
    bread = np.linalg.inv((X * weights[:, None]).T @ X)
    true = bread @ (X * weights[:, None] ** 2).T @ X @ bread
    mean = sum(
        clustered(X, residuals_of(X, unit, weights), clusters, weights, "CR2").matrix
        for unit in np.eye(70)
    )
    np.testing.assert_allclose(mean, true, rtol=1e-8)


def test_with_balance_cr2_of_the_gap_is_the_paired_t() -> None:
    """The variance of the queries' own gaps over Q, and Q - 1 degrees of freedom."""
    rng = np.random.default_rng(0)
    y = rng.random((9, 2, 4)) + rng.normal(size=(9, 2, 1))
    train = np.tile(np.repeat([0.0, 1.0], 4), 9)
    X = np.column_stack([np.ones(72), train])
    ones, queries = np.ones(72), np.repeat(np.arange(9), 8)
    gaps = y.mean(axis=2)[:, 1] - y.mean(axis=2)[:, 0]
    found = clustered(X, residuals_of(X, y.ravel(), ones), queries, ones, "CR2")
    assert found.matrix[1, 1] == pytest.approx(gaps.var(ddof=1) / 9)
    assert found.df([0, 1]) == pytest.approx(8)


def collapsed(X: Array, keys: list[Array], y: Array, weights: Array) -> tuple[Array, ...]:
    """First rows of the cells, mean residual or outcome, total weight, count, and the keys."""
    table = np.column_stack([X, weights, *keys])
    _, first, cell = np.unique(table, axis=0, return_index=True, return_inverse=True)
    counts = np.bincount(cell).astype(float)
    means = np.bincount(cell, weights=y) / counts
    return X[first], means, weights[first] * counts, counts, *(key[first] for key in keys)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", SETS)
def test_cells_give_what_their_trials_give(name: str, weighted: bool) -> None:
    """All kinds, their degrees of freedom, and two-way errors."""
    X, y, queries, wordings, weights = trials(name, weighted)
    residuals = residuals_of(X, y, weights)
    cells, means, totals, counts, names = collapsed(X, [queries], residuals, weights)
    assert len(cells) < 0.9 * len(X)
    for kind in KINDS:
        full = clustered(X, residuals, queries, weights, kind)
        found = clustered(cells, means, names, totals, kind, counts)
        assert_same(found.matrix, full.matrix, 1e-10)
        assert found.df(after(name)) == pytest.approx(full.df(after(name)), rel=1e-10)
    full = two_way(X, residuals, queries, wordings, weights)
    cells, means, totals, _, *sides = collapsed(X, [queries, wordings], residuals, weights)
    assert_same(two_way(cells, means, *sides, totals).matrix, full.matrix, 1e-10)


def test_without_counts_a_cell_would_be_one_trial() -> None:
    """Counts matter to CR1S and CR2, so that the test above is one."""
    X, y, queries, _, weights = trials("ragged", True)
    cells, means, totals, counts, names = collapsed(
        X, [queries], residuals_of(X, y, weights), weights
    )
    for kind in ("CR1S", "CR2"):
        counted = clustered(cells, means, names, totals, kind, counts).matrix
        assert not np.allclose(clustered(cells, means, names, totals, kind).matrix, counted)


@pytest.mark.parametrize("kind", KINDS)
def test_aliased_terms_leave_other_contrasts_alone(kind: Kind) -> None:
    """With a column doubled, a sum and an empty one, the rest keep covariance and df."""
    X, y, clusters, weights = data(9, n=300, p=5)
    residuals = residuals_of(X, y, weights)
    wide = np.column_stack([X, X[:, 1], X[:, 1] + X[:, 2], np.zeros(300)])
    full = clustered(X, residuals, clusters, weights, kind)
    found = clustered(wide, residuals, clusters, weights, kind)
    contrast = np.array([1.0, 0, 0, 1, -2])
    padded = np.concatenate([contrast, np.zeros(3)])
    variance = contrast @ full.matrix @ contrast
    assert padded @ found.matrix @ padded == pytest.approx(variance, rel=1e-8)
    assert found.df(padded) == pytest.approx(full.df(contrast), rel=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_without_weight_are_not_there(kind: Kind) -> None:
    """Nor the clusters made of them, whatever their residuals; cluster numbers may have holes."""
    X, y, clusters, weights = data(10)
    residuals = residuals_of(X, y, weights)
    full = clustered(X, residuals, clusters, weights, kind)
    found = clustered(
        np.vstack([X, X[:5]]),
        np.concatenate([residuals, [np.nan, 9, 9, 9, 9]]),
        np.concatenate([3 * clusters, [0, 0, 1, 100, 100]]),
        np.concatenate([weights, np.zeros(5)]),
        kind,
        np.concatenate([np.ones(120), [0, 1, 0, 2, 0]]),
    )
    np.testing.assert_allclose(found.matrix, full.matrix, rtol=1e-10)
    assert found.clusters == full.clusters == 11
    assert found.df(np.eye(4)[1]) == pytest.approx(full.df(np.eye(4)[1]))


@pytest.mark.parametrize("kind", KINDS)
def test_clusters_of_one_row_are_heteroskedastic_errors(kind: Kind) -> None:
    """HC0, HC2 and HC3 of statsmodels, with the factors of n - 1 and n - p."""
    X, y, _, _ = data(11)
    fitted = OLS(y, X).fit()
    factors = {"CR1": 120 / 119, "CR1S": 120 / 119 * 119 / 116}
    white = {"CR2": fitted.cov_HC2, "CR3": fitted.cov_HC3}.get(kind, fitted.cov_HC0)
    found = clustered(X, fitted.resid, np.arange(120), np.ones(120), kind)
    np.testing.assert_allclose(found.matrix, white * factors.get(kind, 1.0), rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_order_names_and_scale_change_nothing(kind: Kind) -> None:
    """Rows in another order, clusters renamed, all weights times 1000."""
    X, y, clusters, weights = data(12)
    residuals = residuals_of(X, y, weights)
    rng = np.random.default_rng(1)
    rows, names = rng.permutation(120), rng.permutation(11)
    straight = clustered(X, residuals, clusters, weights, kind)
    turned = clustered(X[rows], residuals[rows], names[clusters][rows], 1000 * weights[rows], kind)
    np.testing.assert_allclose(turned.matrix, straight.matrix, rtol=1e-9)
    assert turned.df(np.eye(4)[2]) == pytest.approx(straight.df(np.eye(4)[2]))


def test_every_row_twice_changes_only_the_small_sample_factor() -> None:
    """CR0, CR1, CR3 not at all, CR1S by (2n - 1)/(2n - p) for (n - 1)/(n - p)."""
    X, y, clusters, weights = data(13)
    residuals = residuals_of(X, y, weights)
    factor = (239 / 236) / (119 / 116)
    for kind in ("CR0", "CR1", "CR1S", "CR3"):
        once = clustered(X, residuals, clusters, weights, kind).matrix
        twice = clustered(
            np.vstack([X, X]),
            np.tile(residuals, 2),
            np.tile(clusters, 2),
            np.tile(weights, 2),
            kind,
        ).matrix
        np.testing.assert_allclose(twice, once * (factor if kind == "CR1S" else 1), rtol=1e-9)


def test_two_way_is_inclusion_and_exclusion_in_loops() -> None:
    """Each pair of rows counts when they share a side, with three factors G / (G - 1)."""
    X, y, first, weights = data(14, n=80, p=3, groups=9)
    second = np.random.default_rng(2).integers(0, 5, 80)
    y = y + np.random.default_rng(3).normal(size=5)[second]
    residuals = residuals_of(X, y, weights)
    bread = np.linalg.inv((X * weights[:, None]).T @ X)
    pairs = len(set(zip(first.tolist(), second.tolist(), strict=True)))
    meat = np.zeros((3, 3))
    for i in range(80):
        for j in range(80):
            one, two = first[i] == first[j], second[i] == second[j]
            share = one * 9 / 8 + two * 5 / 4 - (one and two) * pairs / (pairs - 1)
            pull = weights[i] * residuals[i] * weights[j] * residuals[j]
            meat += share * pull * np.outer(X[i], X[j])
    expected = bread @ meat @ bread
    found = two_way(X, residuals, first, second, weights)
    assert np.linalg.eigvalsh(expected).min() > 0
    np.testing.assert_allclose(found.matrix, expected, rtol=1e-9)
    assert (found.clusters, found.df(np.eye(3)[0]), found.clipped) == (5, 4.0, False)
    swapped = two_way(X, residuals, second, first, weights)
    np.testing.assert_allclose(swapped.matrix, expected, rtol=1e-9)


def test_wordings_inside_queries_add_nothing() -> None:
    """When each wording has one query, the pairs are the wordings and clusters are the queries."""
    X, y, queries, weights = data(15)
    inner = queries * 2 + np.arange(120) % 2
    residuals = residuals_of(X, y, weights)
    found = two_way(X, residuals, queries, inner, weights)
    np.testing.assert_allclose(found.matrix, cr1(X, residuals, queries, weights)[0], rtol=1e-9)
    assert found.clusters == 11


def test_a_clipped_sum_is_a_covariance() -> None:
    """No negative eigenvalue is left, and no variance is below the one of the sum."""
    X, y, queries, wordings, weights = trials("six_clusters", False)
    found = two_way(X, residuals_of(X, y, weights), queries, wordings, weights)
    raw = np.array(STORED["six_clusters"]["plain"]["two_way"])
    assert found.clipped
    assert np.linalg.eigvalsh(raw).min() < -1e-6
    assert np.linalg.eigvalsh(found.matrix).min() > -1e-15
    assert (np.diag(found.matrix) >= np.diag(raw) - 1e-15).all()


def test_what_has_no_covariance_is_refused() -> None:
    """One cluster, one wording, bad weights or residuals, a saturated fit, no CR2."""
    X, y, clusters, weights = data(16)
    one = np.zeros(120, dtype=int)
    with pytest.raises(CovarianceError, match="needs at least 2"):
        clustered(X, y, one, weights, "CR1")
    with pytest.raises(CovarianceError, match="1 cluster on the second side"):
        two_way(X, y, clusters, one, weights)
    with pytest.raises(CovarianceError, match="negative"):
        clustered(X, y, clusters, weights - 1, "CR0")
    with pytest.raises(CovarianceError, match="negative or missing"):
        clustered(X, y, clusters, np.where(one == 0, np.nan, weights), "CR0")
    with pytest.raises(CovarianceError, match="not a number"):
        clustered(X, np.where(clusters == 3, np.nan, y), clusters, weights, "CR0")
    with pytest.raises(CovarianceError, match="no trials"):
        clustered(X, y, clusters, weights, "CR2", np.zeros(120))
    with pytest.raises(CovarianceError, match="no row"):
        clustered(X, y, clusters, np.zeros(120), "CR2")
    with pytest.raises(CovarianceError, match="take CR1"):
        clustered(np.eye(4), y[:4], np.arange(4), np.ones(4), "CR1S")
    with pytest.raises(CovarianceError, match="take CR2"):
        satterthwaite(clustered(X, y, clusters, weights, "CR1"), np.eye(4)[0])


@pytest.mark.parametrize(
    ("clusters", "kind", "said"),
    [
        (400, "CR1", "CR1 over 400 queries, t(399)"),
        (20, "CR1", "CR1 over 20 queries, t(19)"),
        (19, "CR2", "CR2 with Satterthwaite degrees of freedom: only 19 queries"),
        (11, "CR2", "only 11 queries"),
        (10, "CR2", "only 10 queries; wild bootstrap p-values over all 1024 sign changes"),
        (6, "CR2", "only 6 queries; wild bootstrap p-values over all 64 sign changes"),
        (5, "CR2", "only 5 queries; no wild bootstrap: with 5 its p-value cannot be below .0625"),
    ],
)
def test_the_choice_and_its_words(clusters: int, kind: Kind, said: str) -> None:
    """By the number of clusters alone."""
    assert choose(clusters) == kind
    assert choice(clusters, "queries").endswith(said)


def test_one_cluster_has_no_choice() -> None:
    """And says what is needed."""
    assert choice(1, "queries") == "no standard error: 1 queries; at least 2 are needed"


def rejections(seed: int, repeats: int, queries: int, samples: int, **shape: bool) -> float:
    """Share of null studies in which the default t test of the change of the gap is below .05."""
    rng = np.random.default_rng(seed)
    rejected = 0
    for _ in range(repeats):
        cells = null_study(rng, queries, samples, **shape)
        gram = (cells.X * cells.weights[:, None]).T @ cells.X
        found = generalized_inverse(gram) @ (cells.X.T @ (cells.weights * cells.y))
        default: Covariance = clustered(
            cells.X,
            cells.y - cells.X @ found,
            cells.clusters,
            cells.weights,
            choose(queries),
            cells.counts,
        )
        error = math.sqrt(CHANGE @ default.matrix @ CHANGE)
        test = t_interval(float(CHANGE @ found), error, default.df(CHANGE))
        rejected += test.p_value is not None and test.p_value < 0.05
    return rejected / repeats


@pytest.mark.parametrize(("queries", "samples"), [(6, 20), (40, 5)])
def test_size_of_the_default_test(queries: int, samples: int) -> None:
    """400 heterogeneous null studies: 5 % and two Monte-Carlo errors at most, and not none."""
    assert 0.015 <= rejections(1, 400, queries, samples, heterogeneous=True, ragged=True) <= 0.0718


@pytest.mark.slow
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("deploy_zero", [False, True])
@pytest.mark.parametrize("heterogeneous", [False, True])
@pytest.mark.parametrize(("queries", "samples"), [(6, 20), (10, 10), (20, 5), (40, 5)])
def test_size_of_the_default_test_in_full(
    queries: int, samples: int, heterogeneous: bool, deploy_zero: bool, ragged: bool
) -> None:
    """2000 null studies of each shape: within [.03, .065]."""
    shape = {"heterogeneous": heterogeneous, "deploy_zero": deploy_zero, "ragged": ragged}
    assert 0.03 <= rejections(2, 2000, queries, samples, **shape) <= 0.065
