"""The random-intercept logit by adaptive quadrature."""

import numpy as np
import pytest
from binary_reference import OVERLAPPING, stored, trials

from analysis.logit import LogitError, LogitFit, Separated, logit
from analysis.mixed_logit import MixedFit, mixed_logit


@pytest.mark.parametrize("name", OVERLAPPING)
def test_estimates_and_errors_are_those_of_lme4(name: str) -> None:
    """`glmer(nAGQ = 15)`: estimates, errors and the standard deviation between queries."""
    X, k, n, query = trials(name).cells()
    found = mixed_logit(X, k, n, query)
    expected = stored("binary")[name]["mixed"]
    assert isinstance(found, MixedFit)
    assert found.converged
    np.testing.assert_allclose(found.estimates, expected["estimates"], atol=2e-5)
    np.testing.assert_allclose(np.sqrt(np.diag(found.covariance)), expected["errors"], rtol=2e-4)
    assert found.sd == pytest.approx(expected["sd"], abs=2e-5)


@pytest.mark.parametrize("name", ["balanced", "six_clusters", "heterogeneous"])
def test_the_maximum_is_that_of_the_integrals(name: str) -> None:
    """The likelihood by scipy's quad, and its second differences in sd, at the estimates."""
    from scipy.integrate import quad

    X, k, n, query = trials(name).cells()
    found = mixed_logit(X, k, n, query)
    assert isinstance(found, MixedFit)

    def value(b: np.ndarray, sd: float) -> float:
        total = 0.0
        for g in set(query):
            rows = query == g
            fixed, wins, trials_ = X[rows] @ b, k[rows], n[rows]

            def density(u: float, fixed=fixed, wins=wins, trials_=trials_) -> float:
                eta = fixed + sd * u
                inner = wins @ eta - trials_ @ np.logaddexp(0, eta)
                return float(np.exp(inner + 30 - 0.5 * u * u) / np.sqrt(2 * np.pi))

            grid = np.linspace(-8, 8, 801)
            peak = grid[np.argmax([density(u) for u in grid])]
            area = quad(density, peak - 6, peak + 6, points=[peak], epsabs=0, epsrel=1e-10)[0]
            total += np.log(area) - 30
        return total

    b, sd = found.estimates, found.sd
    here = value(b, sd)
    assert found.log_likelihood == pytest.approx(here, abs=1e-5)
    step = 1e-2
    slope = (value(b, sd + step) - value(b, sd - step)) / (2 * step)
    assert found.sd_error is not None
    assert abs(slope) * found.sd_error < 2e-3
    for j in range(2):
        there = np.eye(len(b))[j] * 0.1 * np.sqrt(found.covariance[j, j])
        assert value(b + there, sd) < here
        assert value(b - there, sd) < here


def test_collapsing_and_order_change_no_number() -> None:
    """Trials one by one, shuffled, give what cells give."""
    data = trials("heterogeneous")
    order = np.random.default_rng(6).permutation(len(data.y))
    one = mixed_logit(data.X[order], data.y[order], np.ones(len(order)), 99 - data.query[order])
    X, k, n, query = data.cells()
    cells = mixed_logit(X, k, n, query)
    assert isinstance(one, MixedFit)
    assert isinstance(cells, MixedFit)
    np.testing.assert_allclose(one.estimates, cells.estimates, atol=1e-7)
    assert one.sd == pytest.approx(cells.sd, abs=1e-7)


def test_clusters_that_differ_too_little_are_at_the_boundary() -> None:
    """Equal clusters: sd 0 without an error, and the estimates of the logit."""
    X = np.tile([[1.0, 0.0], [1.0, 1.0]], (8, 1))
    k, n = np.tile([3.0, 6.0], 8), np.full(16, 10.0)
    found = mixed_logit(X, k, n, np.repeat(np.arange(8), 2))
    plain = logit(X, k, n)
    assert isinstance(found, MixedFit)
    assert isinstance(plain, LogitFit)
    assert (found.sd, found.sd_error) == (0.0, None)
    assert found.note.startswith("boundary")
    np.testing.assert_array_equal(found.estimates, plain.estimates)


def test_separated_trials_and_a_single_cluster_are_refused() -> None:
    """Separation comes back as a record, a single cluster as an error."""
    X, k, n, query = trials("separated").cells()
    assert isinstance(mixed_logit(X, k, n, query), Separated)
    X, k, n, query = trials("balanced").cells()
    with pytest.raises(LogitError, match="1 cluster"):
        mixed_logit(X, k, n, 0 * query)
