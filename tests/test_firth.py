"""Firth's penalised logit, its profile intervals and tests."""

import math

import numpy as np
import polars as pl
import pytest
from binary_reference import NAMES, REFERENCE, stored, trials

from analysis.firth import firth, flic, profiles
from analysis.logit import expit


@pytest.mark.parametrize("name", NAMES)
def test_estimates_are_those_of_two_packages(name: str) -> None:
    """brglm2 in R (mean bias reduction) and firthmodels in Python, on every data set."""
    X, k, n, _ = trials(name).cells()
    found = firth(X, k, n)
    assert found.converged
    np.testing.assert_allclose(found.estimates, stored("binary")[name]["brglm2"], atol=1e-7)
    theirs = stored("firthmodels_profiles")[name]["estimates"]
    np.testing.assert_allclose(found.estimates, theirs, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_profiles_are_those_of_firthmodels(name: str) -> None:
    """Bounds and likelihood ratio tests of every coefficient, separated or not."""
    X, k, n, _ = trials(name).cells()
    found = profiles(X, k, n, firth(X, k, n), range(X.shape[1]))
    expected = stored("firthmodels_profiles")[name]
    assert all(one.converged for one in found)
    np.testing.assert_allclose([one.low for one in found], expected["low"], atol=1e-5)
    np.testing.assert_allclose([one.high for one in found], expected["high"], atol=1e-5)
    np.testing.assert_allclose([one.p_value for one in found], expected["p"], atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_profiles_are_those_of_the_definition(name: str) -> None:
    """The penalised likelihood written down in R and maximised by optim, with uniroot."""
    X, k, n, _ = trials(name).cells()
    fitted = firth(X, k, n)
    for row in stored("binary")[name]["firth"]["profiles"]:
        (found,) = profiles(X, k, n, fitted, [row["column"]])
        assert found.low == pytest.approx(row["low"], abs=1e-4)
        assert found.high == pytest.approx(row["high"], abs=1e-4)
        assert found.statistic == pytest.approx(row["chi2"], rel=1e-5, abs=1e-6)
        assert found.p_value == pytest.approx(row["p"], abs=1e-6)


def test_published_endometrial_cancer() -> None:
    """Heinze and Schemper (2002): 79 patients, neovasculation is separated.

    The numbers are those printed by logistf for these data.
    """
    frame = pl.read_csv(REFERENCE / "data" / "endometrial.csv")
    X = np.column_stack([np.ones(frame.height), frame.select("NV", "PI", "EH").to_numpy()])
    y, ones = frame["HG"].to_numpy().astype(float), np.ones(frame.height)
    fitted = firth(X, y, ones)
    expected = [3.77455951, 2.92927330, -0.03475175, -2.60416387]
    np.testing.assert_allclose(fitted.estimates, expected, atol=5e-7)
    found = profiles(X, y, ones, fitted, [1, 2, 3])
    assert [one.low for one in found] == pytest.approx(
        [0.6097244, -0.1244587, -4.3651832], abs=1e-6
    )
    assert [one.high for one in found] == pytest.approx(
        [7.8546317, 0.0404554, -1.2327210], abs=1e-6
    )
    assert found[0].p_value == pytest.approx(0.009123668, abs=1e-8)
    assert found[2].p_value == pytest.approx(2.506867e-05, rel=1e-5)


@pytest.mark.parametrize(("k", "n"), [(0, 40), (1, 7), (40, 40)])
def test_one_rate_is_jeffreys(k: int, n: int) -> None:
    """With an intercept alone half a success and half a failure are added."""
    found = firth(np.ones((1, 1)), np.array([float(k)]), np.array([float(n)]))
    assert found.estimates[0] == pytest.approx(math.log((k + 0.5) / (n - k + 0.5)), abs=1e-8)


def test_collapsing_and_order_change_no_number() -> None:
    """Trials one by one, reversed, give what their cells give."""
    data = trials("separated")
    X, k, n, _ = data.cells()
    one = firth(data.X[::-1], data.y[::-1], np.ones(len(data.y)))
    np.testing.assert_allclose(one.estimates, firth(X, k, n).estimates, atol=1e-9)


def test_recoding_an_arm_turns_the_intervals_round() -> None:
    """Successes called failures give the mirror image."""
    X, k, n, _ = trials("separated").cells()
    one = profiles(X, k, n, firth(X, k, n), range(X.shape[1]))
    other = profiles(X, n - k, n, firth(X, n - k, n), range(X.shape[1]))
    np.testing.assert_allclose([p.low for p in one], [-p.high for p in other], atol=1e-5)


def test_flic_gives_the_observed_successes() -> None:
    """The refitted intercept makes fitted successes those observed, and moves nothing else."""
    X, k, n, _ = trials("separated").cells()
    fitted = firth(X, k, n)
    refitted = flic(X, k, n, fitted.estimates, 0)
    assert refitted is not None
    assert n @ expit(X @ refitted) == pytest.approx(k.sum(), abs=1e-8)
    assert n @ expit(X @ fitted.estimates) > k.sum() + 1
    np.testing.assert_array_equal(refitted[1:], fitted.estimates[1:])


def test_flic_is_none_where_all_outcomes_are_alike() -> None:
    """No finite intercept fits 0 of 10."""
    ones, n = np.ones((1, 1)), np.array([10.0])
    assert flic(ones, 0 * n, n, np.zeros(1), 0) is None
    assert flic(ones, n, n, np.zeros(1), 0) is None


def test_a_wide_separated_study_is_soon_done() -> None:
    """Sixteen factors and a deploy arm at 0, where plain steps take hundreds: bounds hold exactly.

    At each bound the profile, climbed by another optimiser, is 1.92 below the top.
    """
    from scipy.optimize import minimize

    rng = np.random.default_rng(5)
    levels = np.column_stack([np.ones(64), rng.random((64, 16)) < 0.25]).astype(float)
    X = np.vstack([np.hstack([levels, levels]), np.hstack([levels, 0 * levels])])
    k = np.concatenate([rng.binomial(40, 0.2, 64), np.zeros(64)]).astype(float)
    n = np.full(128, 40.0)
    fitted = firth(X, k, n)
    assert fitted.converged
    assert fitted.iterations < 30

    def value(b: np.ndarray) -> float:
        eta = X @ b
        p = expit(eta)
        size = np.linalg.slogdet((X * (n * p * (1 - p))[:, None]).T @ X)[1]
        return float(-(k @ eta - n @ np.logaddexp(0, eta) + 0.5 * size))

    def slope(b: np.ndarray) -> np.ndarray:
        p = expit(X @ b)
        w = n * p * (1 - p)
        leverage = w * np.einsum("ij,jk,ik->i", X, np.linalg.inv((X * w[:, None]).T @ X), X)
        return -X.T @ (k - n * p + leverage * (0.5 - p))

    # Others of these profiles have two peaks, of which BFGS may take the lower.
    for column in (0, 17):
        (found,) = profiles(X, k, n, fitted, [column])
        assert found.low is not None
        assert found.high is not None
        for bound in (found.low, found.high):
            others = np.delete(np.arange(34), column)

            def put(free: np.ndarray, bound: float = bound, j: int = column) -> np.ndarray:
                return np.insert(free, j, bound)

            ridge = fitted.covariance[:, column] / fitted.covariance[column, column]
            start = (fitted.estimates + (bound - fitted.estimates[column]) * ridge)[others]
            best = minimize(
                lambda free, put=put: value(put(free)),
                start,
                jac=lambda free, put=put, others=others: slope(put(free))[others],
                options={"gtol": 1e-6, "maxiter": 2000},
            )
            assert 2 * (best.fun + fitted.log_likelihood) == pytest.approx(3.841459, abs=1e-4)
