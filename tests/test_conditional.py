"""The conditional logit, stratified by query."""

import itertools
import math

import numpy as np
import pytest
from binary_reference import OVERLAPPING, stored, trials
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.conditional import ConditionalFit, conditional_logit
from analysis.logit import LogitError, Separated


@pytest.mark.parametrize("name", OVERLAPPING)
def test_estimates_and_errors_are_those_of_survival(name: str) -> None:
    """`clogit(method = "exact")`: estimates, covariance, likelihood and the strata dropped."""
    X, k, n, query = trials(name).cells()
    found = conditional_logit(X[:, 1:], k, n, query)
    expected = stored("binary")[name]["conditional"]
    assert isinstance(found, ConditionalFit)
    assert found.converged
    np.testing.assert_allclose(found.estimates, expected["estimates"], atol=1e-7)
    np.testing.assert_allclose(found.covariance, expected["covariance"], rtol=1e-6, atol=1e-12)
    assert found.log_likelihood == pytest.approx(expected["log_likelihood"], abs=1e-8)
    assert found.dropped == expected["dropped"]
    assert found.strata + found.dropped == len(set(query))


@pytest.mark.filterwarnings("ignore:Dropped 1 groups")
def test_statsmodels_agrees() -> None:
    """A third implementation, on single trials: the likelihood, flat and as curved as we say.

    Its own search stops at the third digit.
    """
    from statsmodels.discrete.conditional_models import ConditionalLogit

    data = trials("heterogeneous")
    theirs = ConditionalLogit(data.y, data.X[:, 1:], groups=data.query)
    found = conditional_logit(data.X[:, 1:], data.y, np.ones(len(data.y)), data.query)
    assert isinstance(found, ConditionalFit)
    assert theirs.loglike(found.estimates) == pytest.approx(found.log_likelihood, abs=1e-8)
    np.testing.assert_allclose(theirs.score(found.estimates), 0, atol=1e-6)
    information = -theirs.hessian(found.estimates)
    np.testing.assert_allclose(found.covariance @ information, np.eye(5), atol=1e-4)


def recursion(weights: np.ndarray, total: int) -> float:
    """Gail, Lubin and Rubinstein: sum over sets of `total` trials of the product of weights."""
    sums = np.zeros(total + 1)
    sums[0] = 1.0
    for weight in weights:
        sums[1:] += weight * sums[:-1]
    return float(sums[total])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_likelihood_is_that_of_the_recursion_and_of_all_sets(seed: int) -> None:
    """At the estimates: the recursion over trials, and for small strata every set by name."""
    rng = np.random.default_rng(seed)
    strata = np.repeat(np.arange(5), 4)
    X = rng.normal(size=(20, 2))
    n = rng.integers(1, 4, 20).astype(float)
    k = rng.binomial(n.astype(int), 0.4).astype(float)
    if np.unique(k / n).size == 1:
        return
    try:
        found = conditional_logit(X, k, n, strata)
    except LogitError:
        return
    if isinstance(found, Separated):
        return

    def value(b: np.ndarray, sets: bool) -> float:
        total = 0.0
        for g in range(5):
            rows = strata == g
            repeated = np.repeat(np.exp(X[rows] @ b), n[rows].astype(int))
            wins = int(k[rows].sum())
            if sets:
                every = itertools.combinations(repeated, wins)
                weight = math.fsum(math.prod(one) for one in every)
            else:
                weight = recursion(repeated, wins)
            total += float(k[rows] @ X[rows] @ b) - math.log(weight)
        return total

    b = found.estimates
    assert found.log_likelihood == pytest.approx(value(b, False), abs=1e-8)
    assert found.log_likelihood == pytest.approx(value(b, True), abs=1e-8)
    step = 1e-4 * np.sqrt(np.diag(found.covariance))
    for j in range(2):
        there = np.eye(2)[j] * step[j]
        slope = (value(b + there, False) - value(b - there, False)) / (2 * step[j])
        assert abs(slope) * np.sqrt(found.covariance[j, j]) < 1e-5


def test_one_to_one_pairs_have_mcnemars_odds() -> None:
    """Pairs with one trial a side: log(b / c) with variance 1/b + 1/c, concordant pairs dropped."""
    pairs = [(1, 0)] * 12 + [(0, 1)] * 5 + [(1, 1)] * 9 + [(0, 0)] * 20
    y = np.array(pairs, dtype=float).ravel()
    X = np.tile([[1.0], [0.0]], (len(pairs), 1))
    found = conditional_logit(X, y, np.ones(len(y)), np.repeat(np.arange(len(pairs)), 2))
    assert isinstance(found, ConditionalFit)
    assert found.estimates[0] == pytest.approx(math.log(12 / 5), abs=1e-10)
    assert found.covariance[0, 0] == pytest.approx(1 / 12 + 1 / 5, rel=1e-9)
    assert (found.strata, found.dropped) == (17, 29)


def test_large_strata_are_the_recursions_too() -> None:
    """Two thousand trials a stratum, with odds that differ by e^8."""
    rng = np.random.default_rng(4)
    X = rng.normal(size=(120, 1)) * 1.2
    strata = np.repeat(np.arange(3), 40)
    n = np.full(120, 50.0)
    k = rng.binomial(50, 1 / (1 + np.exp(-X[:, 0] + 1))).astype(float)
    found = conditional_logit(X, k, n, strata)
    assert isinstance(found, ConditionalFit)

    def value(b: float) -> float:
        total = 0.0
        for g in range(3):
            rows = strata == g
            weights = np.repeat(np.exp(X[rows, 0] * b), 50)
            wins = int(k[rows].sum())
            # Weights near the odds of the share keep the sums within floating point.
            shift = wins / (weights.size - wins)
            log = math.log(recursion(weights * shift / weights.mean() / 1.5, wins))
            log -= wins * math.log(shift / weights.mean() / 1.5)
            total += float(k[rows] @ X[rows, 0]) * b - log
        return total

    b, step = float(found.estimates[0]), 1e-3
    assert found.log_likelihood == pytest.approx(value(b), rel=1e-10)
    bend = (value(b + step) - 2 * value(b) + value(b - step)) / step**2
    assert found.covariance[0, 0] == pytest.approx(-1 / bend, rel=1e-4)


def test_collapsing_and_order_change_no_number() -> None:
    """Trials one by one, shuffled, give what cells give."""
    data = trials("unbalanced")
    order = np.random.default_rng(2).permutation(len(data.y))
    ones = np.ones(len(order))
    one = conditional_logit(data.X[order, 1:], data.y[order], ones, 50 - data.query[order])
    X, k, n, query = data.cells()
    cells = conditional_logit(X[:, 1:], k, n, query)
    assert isinstance(one, ConditionalFit)
    assert isinstance(cells, ConditionalFit)
    np.testing.assert_allclose(one.estimates, cells.estimates, atol=1e-10)
    np.testing.assert_allclose(one.covariance, cells.covariance, rtol=1e-8)


def test_separation_within_strata_is_told() -> None:
    """No success in deploy: the arm and its products have no finite estimate."""
    X, k, n, query = trials("separated").cells()
    labels = ["a", "b", "c", "arm", "arm:a", "arm:b", "arm:c"]
    found = conditional_logit(X[:, 1:], k, n, query, labels)
    assert isinstance(found, Separated)
    assert 3 in found.columns
    assert "arm" in found.note


def test_separated_within_but_not_between_strata() -> None:
    """Each stratum is separated along x, although all together overlap."""
    X = np.array([[0.0], [1.0], [2.0], [3.0]])
    k, n = np.array([0.0, 1.0, 0.0, 1.0]), np.ones(4)
    found = conditional_logit(X, k, n, np.array([0, 0, 1, 1]))
    assert isinstance(found, Separated)
    assert found.columns == (0,)
    assert found.direction[0] > 0
    assert found.rows.all()


def test_columns_that_do_not_vary_and_shares_are_refused() -> None:
    """An intercept, shares of trials, and strata that all drop out are errors that say so."""
    X, k, n, query = trials("balanced").cells()
    with pytest.raises(LogitError, match="columns 0 of X do not vary within a stratum"):
        conditional_logit(X, k, n, query)
    with pytest.raises(LogitError, match="whole successes"):
        conditional_logit(X[:, 1:], k / 3, n, query)
    with pytest.raises(LogitError, match="no stratum has both"):
        conditional_logit(X[:, 1:], 0 * k, n, query)
