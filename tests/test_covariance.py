"""CR1 agrees with statsmodels, with loops, and with itself when the design is rank deficient."""

import numpy as np
import pytest
from numpy.typing import NDArray
from statsmodels.regression.linear_model import OLS, WLS

from analysis.covariance import cr1

Array = NDArray[np.float64]


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
