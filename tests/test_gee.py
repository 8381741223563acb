"""Estimating equations with exchangeable trials within clusters."""

import numpy as np
import pytest
from binary_reference import OVERLAPPING, stored, trials

from analysis.gee import GeeFit, gee
from analysis.logit import LogitError, Separated


@pytest.mark.parametrize("name", OVERLAPPING)
def test_estimates_and_errors_are_those_of_r(name: str) -> None:
    """geepack's estimates, robust errors, correlation and scale; Mancl and DeRouen by matrices."""
    X, k, n, query = trials(name).cells()
    found = gee(X, k, n, query)
    expected = stored("binary")[name]["gee"]
    assert isinstance(found, GeeFit)
    assert found.converged
    np.testing.assert_allclose(found.estimates, expected["estimates"], atol=1e-8)
    np.testing.assert_allclose(found.robust, expected["robust"], rtol=1e-6, atol=1e-12)
    assert found.bias_reduced is not None
    np.testing.assert_allclose(found.bias_reduced, expected["bias_reduced"], rtol=1e-6, atol=1e-12)
    assert found.correlation == pytest.approx(expected["correlation"], abs=1e-8)
    assert found.scale == pytest.approx(expected["scale"], abs=1e-8)


@pytest.mark.parametrize("name", ["balanced", "unbalanced"])
def test_statsmodels_is_near(name: str) -> None:
    """Another library, whose moments divide by n - p, on single trials."""
    import statsmodels.api as sm

    data = trials(name)
    model = sm.GEE(
        data.y,
        data.X,
        groups=data.query,
        family=sm.families.Binomial(),
        cov_struct=sm.cov_struct.Exchangeable(),
    )
    theirs = model.fit(maxiter=200, ctol=1e-12)
    reduced = model.fit(maxiter=200, ctol=1e-12, cov_type="bias_reduced")
    X, k, n, query = data.cells()
    found = gee(X, k, n, query)
    assert isinstance(found, GeeFit)
    assert found.bias_reduced is not None
    np.testing.assert_allclose(found.estimates, theirs.params, atol=2e-3)
    np.testing.assert_allclose(np.sqrt(np.diag(found.robust)), theirs.bse, rtol=5e-3)
    ours = np.sqrt(np.diag(found.bias_reduced))
    np.testing.assert_allclose(ours, reduced.bse, rtol=5e-3)


@pytest.mark.parametrize("name", ["heterogeneous", "unbalanced"])
def test_collapsing_and_order_change_no_number(name: str) -> None:
    """Trials one by one, shuffled, with clusters numbered otherwise, give what cells give."""
    data = trials(name)
    order = np.random.default_rng(1).permutation(len(data.y))
    one = gee(data.X[order], data.y[order], np.ones(len(order)), 1000 - 7 * data.query[order])
    X, k, n, query = data.cells()
    cells = gee(X, k, n, query)
    assert isinstance(one, GeeFit)
    assert isinstance(cells, GeeFit)
    assert one.bias_reduced is not None
    assert cells.bias_reduced is not None
    np.testing.assert_allclose(one.estimates, cells.estimates, atol=1e-10)
    np.testing.assert_allclose(one.robust, cells.robust, rtol=1e-8, atol=1e-14)
    np.testing.assert_allclose(one.bias_reduced, cells.bias_reduced, rtol=1e-8, atol=1e-14)


def test_single_trials_are_a_logit_with_robust_errors() -> None:
    """Clusters of one trial have no correlation: the errors are White's, as from statsmodels."""
    from statsmodels.discrete.discrete_model import Logit

    data = trials("six_clusters")
    found = gee(data.X, data.y, np.ones(len(data.y)), np.arange(len(data.y)))
    theirs = Logit(data.y, data.X).fit(disp=0, tol=1e-12, cov_type="HC0")
    assert isinstance(found, GeeFit)
    assert found.correlation == 0.0
    np.testing.assert_allclose(found.robust, theirs.cov_params(), rtol=1e-6, atol=1e-12)


def test_a_column_of_one_cluster_has_no_bias_reduced_error() -> None:
    """Without that cluster nothing is known of the column, and the note says so."""
    data = trials("balanced")
    X = np.column_stack([data.X, data.query == 3])
    found = gee(X, data.y, np.ones(len(data.y)), data.query)
    assert isinstance(found, GeeFit)
    assert found.bias_reduced is None
    assert "without one of the clusters" in found.note


def test_separated_trials_and_a_single_cluster_are_refused() -> None:
    """Separation comes back as a record, a single cluster as an error."""
    X, k, n, query = trials("separated").cells()
    assert isinstance(gee(X, k, n, query), Separated)
    X, k, n, query = trials("balanced").cells()
    with pytest.raises(LogitError, match="1 cluster"):
        gee(X, k, n, 0 * query)
