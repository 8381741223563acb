"""The maximum likelihood logit, its clustered errors, and the check for separation."""

import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from binary_reference import NAMES, OVERLAPPING, REFERENCE, stored, trials
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.logit import LogitError, LogitFit, Separated, clustered_covariance, logit, separation


@pytest.mark.parametrize("name", OVERLAPPING)
def test_estimates_and_covariances_are_those_of_r(name: str) -> None:
    """Coefficients, model covariance and CR1 agree with glm and sandwich::vcovCL."""
    X, k, n, query = trials(name).cells()
    expected = stored("binary")[name]["logit"]
    found = logit(X, k, n)
    assert isinstance(found, LogitFit)
    assert found.converged
    assert found.note == ""
    np.testing.assert_allclose(found.estimates, expected["estimates"], atol=1e-9)
    np.testing.assert_allclose(found.covariance, expected["covariance"], rtol=1e-6)
    assert found.log_likelihood == pytest.approx(expected["log_likelihood"], rel=1e-10)
    covariance, df = clustered_covariance(X, k, n, found.estimates, query)
    np.testing.assert_allclose(covariance, expected["clustered"], rtol=1e-8)
    assert df == len(set(query)) - 1


@pytest.mark.parametrize("name", ["balanced", "unbalanced"])
def test_statsmodels_agrees(name: str) -> None:
    """A second library, fitted to single trials, gives the same numbers."""
    from statsmodels.discrete.discrete_model import Logit

    data = trials(name)
    theirs = Logit(data.y, data.X).fit(disp=0, tol=1e-12)
    X, k, n, _ = data.cells()
    found = logit(X, k, n)
    assert isinstance(found, LogitFit)
    np.testing.assert_allclose(found.estimates, theirs.params, atol=1e-8)
    np.testing.assert_allclose(found.covariance, theirs.cov_params(), rtol=1e-6)


@pytest.mark.parametrize("name", OVERLAPPING)
def test_collapsing_changes_no_number(name: str) -> None:
    """Trials one by one, in any order, give what their cells give."""
    data = trials(name)
    X, k, n, query = data.cells()
    order = np.random.default_rng(3).permutation(len(data.y))
    one = logit(data.X[order], data.y[order], np.ones(len(order)))
    cells = logit(X, k, n)
    assert isinstance(one, LogitFit)
    assert isinstance(cells, LogitFit)
    np.testing.assert_allclose(one.estimates, cells.estimates, atol=1e-11)
    of_trials, _ = clustered_covariance(
        data.X[order], data.y[order], np.ones(len(order)), one.estimates, data.query[order]
    )
    of_cells, _ = clustered_covariance(X, k, n, cells.estimates, query)
    np.testing.assert_allclose(of_trials, of_cells, rtol=1e-9)


def test_one_rate_has_the_log_odds_of_the_textbook() -> None:
    """With an intercept alone: log(k / (n - k)), variance 1 / (n p q)."""
    found = logit(np.ones((1, 1)), np.array([30.0]), np.array([120.0]))
    assert isinstance(found, LogitFit)
    assert found.estimates[0] == pytest.approx(np.log(30 / 90), abs=1e-12)
    assert found.covariance[0, 0] == pytest.approx(1 / 30 + 1 / 90, rel=1e-12)


def test_deploy_without_success_is_separated() -> None:
    """No deploy success: no estimate for any level, and exactly the deploy rows are marked."""
    data = trials("separated")
    X, k, n, _ = data.cells()
    labels = ["intercept", "a", "b", "c", "arm", "arm:a", "arm:b", "arm:c"]
    found = logit(X, k, n, labels)
    assert isinstance(found, Separated)
    assert found.columns == tuple(range(8))
    np.testing.assert_array_equal(found.rows, X[:, 4] == 0)
    assert np.all(X[found.rows] @ found.direction < 0)
    np.testing.assert_allclose(X[~found.rows] @ found.direction, 0, atol=1e-9)
    assert "288 of 576 trials" in found.note
    assert "arm:c" in found.note


def test_one_level_without_success_names_that_level_only() -> None:
    """In train no trial with `b` removed is a success: the rest keeps its estimates."""
    levels = np.array(list(itertools.product((0.0, 1.0), repeat=2)))
    X = np.column_stack([np.ones(4), levels])
    found = logit(X, np.array([3.0, 0.0, 5.0, 0.0]), np.full(4, 10.0), ["one", "a", "b"])
    assert isinstance(found, Separated)
    assert found.columns == (2,)
    assert found.direction[2] < 0
    assert found.note.endswith("no finite estimate for b")
    np.testing.assert_array_equal(found.rows, [False, True, False, True])


def test_rows_without_trials_are_not_marked() -> None:
    """A row of which nothing was run is neither separated nor an error."""
    X = np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 1.0]])
    found = separation(X, np.array([2.0, 0.0, 0.0]), np.array([5.0, 5.0, 0.0]))
    assert found is not None
    np.testing.assert_array_equal(found.rows, [False, True, False])


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(3, 9), st.integers(1, 3))
def test_separation_is_what_a_search_of_all_directions_finds(
    seed: int, rows: int, columns: int
) -> None:
    """Against a search over all directions that p - 1 rows of a small X hold at 0.

    A cone of separating directions that holds no line has its edges among them.
    """
    rng = np.random.default_rng(seed)
    X = np.column_stack([np.ones(rows), rng.integers(-1, 2, (rows, columns)).astype(float)])
    if np.linalg.matrix_rank(X) < X.shape[1]:
        return
    counts = rng.integers(1, 3, rows).astype(float)
    successes = rng.binomial(counts.astype(int), rng.choice([0.1, 0.5, 0.9])).astype(float)
    signs = np.where(successes == counts, 1.0, -1.0)
    mixed = (successes > 0) & (successes < counts)
    bound = np.vstack([X * signs[:, None], -X[mixed] * signs[mixed, None]])
    parted = np.zeros(rows, dtype=bool)
    for held in itertools.combinations(range(rows), columns):
        _, sizes, directions = np.linalg.svd(X[list(held)])
        if sizes.min() < 1e-9:
            continue
        for direction in (directions[-1], -directions[-1]):
            if np.all(bound @ direction > -1e-9):
                parted |= np.abs(X @ direction) > 1e-9
    found = separation(X, successes, counts)
    if found is None:
        assert not parted.any()
    else:
        np.testing.assert_array_equal(found.rows, parted)
        assert np.all(bound @ found.direction > -1e-6)
    fitted = logit(X, successes, counts)
    assert isinstance(fitted, Separated) == parted.any()
    if isinstance(fitted, LogitFit):
        p = 1 / (1 + np.exp(-X @ fitted.estimates))
        np.testing.assert_allclose(X.T @ (successes - counts * p), 0, atol=1e-6)


def test_a_rare_level_is_not_separated() -> None:
    """One success in 100,000 trials of a level is an estimate like any other: log-odds exact."""
    X = np.array([[1.0, 0.0], [1.0, 1.0]])
    found = logit(X, np.array([50_000.0, 1.0]), np.array([100_000.0, 100_000.0]))
    assert isinstance(found, LogitFit)
    assert found.estimates[1] == pytest.approx(-np.log(99_999), rel=1e-10)


@pytest.mark.parametrize(
    ("X", "successes", "counts", "message"),
    [
        ([[1, 0, 1], [1, 1, 0], [1, 1, 0]], [1, 1, 0], [2, 2, 2], "sums of the others"),
        ([[1, 0], [1, 0]], [1, 1], [2, 2], "columns 1 of X"),
        ([[1], [1]], [3, 1], [2, 2], "row 0: 3 successes of 2"),
        ([[1], [1]], [1, np.nan], [2, 2], "row 1: nan successes"),
        ([[1], [np.inf]], [1, 1], [2, 2], "row 1"),
        ([[1], [1]], [0, 0], [0, 0], "no row has a trial"),
        ([[1], [1]], [0, 0, 1], [1, 1, 1], "give one of each per row"),
    ],
)
def test_bad_rows_are_named(X: list, successes: list, counts: list, message: str) -> None:
    """What no logit can be fitted to says which row or column it is."""
    with pytest.raises(LogitError, match=message):
        logit(np.array(X, float), np.array(successes, float), np.array(counts, float))


def test_errors_by_cluster_need_two_clusters() -> None:
    """A single cluster has no error between clusters."""
    ones = np.ones((2, 1))
    with pytest.raises(LogitError, match="1 cluster"):
        clustered_covariance(ones, np.ones(2), 2 * np.ones(2), np.zeros(1), np.zeros(2, int))


def test_doubling_every_trial_changes_no_clustered_error() -> None:
    """Clusters are what is counted, not trials."""
    X, k, n, query = trials("balanced").cells()
    found = logit(X, k, n)
    assert isinstance(found, LogitFit)
    once, _ = clustered_covariance(X, k, n, found.estimates, query)
    twice, _ = clustered_covariance(X, 2 * k, 2 * n, found.estimates, query)
    np.testing.assert_allclose(once, twice, rtol=1e-12)


@pytest.mark.slow
def test_r_still_gives_the_stored_references(tmp_path: Path) -> None:
    """The R script runs, and its output is the stored one."""
    if shutil.which("Rscript") is None:
        pytest.skip("no Rscript")
    needed = "sandwich lme4 geepack survival brglm2 numDeriv jsonlite".split()
    for package in needed:
        if subprocess.run(["Rscript", "-e", f"library({package})"], capture_output=True).returncode:
            pytest.skip(f"no R package {package}")
    out = tmp_path / "binary.json"
    subprocess.run(["Rscript", str(REFERENCE / "binary.R"), str(out)], check=True)
    fresh, kept = json.loads(out.read_text()), stored("binary")
    for name in [*NAMES, "endometrial"]:
        _same(fresh[name], kept[name], name)


@pytest.mark.slow
def test_firthmodels_still_gives_the_stored_profiles(tmp_path: Path) -> None:
    """The package firthmodels, where it is installed, gives the stored output."""
    pytest.importorskip("firthmodels", reason="no package firthmodels")
    out = tmp_path / "profiles.json"
    script = REFERENCE / "firthmodels_profiles.py"
    subprocess.run([sys.executable, str(script), str(out)], check=True)
    fresh, kept = json.loads(out.read_text()), stored("firthmodels_profiles")
    for name in NAMES:
        _same(fresh[name], kept[name], name)


def _same(fresh: object, kept: object, where: str) -> None:
    if isinstance(kept, dict):
        assert isinstance(fresh, dict)
        for key in kept:
            _same(fresh[key], kept[key], f"{where}.{key}")
    elif isinstance(kept, list):
        assert isinstance(fresh, list)
        for i, (one, other) in enumerate(zip(fresh, kept, strict=True)):
            _same(one, other, f"{where}[{i}]")
    else:
        assert fresh == pytest.approx(kept, rel=1e-4, abs=1e-6), where
