"""Confidence sets for ranks, against the studentized range, loops and simulated coverage."""

import itertools

import numpy as np
import pytest
from scipy import stats

from analysis.ranks import rank_sets


def true_ranks(values: np.ndarray) -> list[tuple[int, int]]:
    """Best and worst rank that a value may claim; ties share."""
    return [(1 + int((values > v).sum()), len(values) - int((values < v).sum())) for v in values]


def told_apart(gap: float, k: int, df: float | None) -> bool:
    """Whether two of k estimates, the others half way between, are told apart at this distance."""
    estimates = np.full(k, gap / 2)
    estimates[0], estimates[-1] = gap, 0.0
    found = rank_sets(estimates, np.ones(k), df=df, rng=np.random.default_rng(0), draws=60_000)
    assert (found[0].high < k) == (found[-1].low > 1)
    return found[0].high < k


@pytest.mark.parametrize("k", [2, 3, 5, 8])
def test_max_t_rejects_at_the_studentized_range(k: int) -> None:
    """For independent equal known errors the first critical value is Tukey's range."""
    quantile = stats.studentized_range.ppf(0.95, k, np.inf)
    assert told_apart(quantile * 1.03, k, None)
    assert not told_apart(quantile * 0.97, k, None)


@pytest.mark.parametrize(("k", "df"), [(2, 6), (2, 19), (4, 9), (6, 19)])
def test_max_t_with_an_estimated_covariance(k: int, df: int) -> None:
    """The critical value is that of studies made anew: samples of df + 1, their means and
    np.cov; for two estimates it is Student's."""
    rng = np.random.default_rng(1)
    largest = []
    for _ in range(8000):
        sample = rng.normal(size=(df + 1, k))
        means, covariance = sample.mean(axis=0), np.cov(sample, rowvar=False) / (df + 1)
        largest.append(
            max(
                abs(means[i] - means[j])
                / (covariance[i, i] + covariance[j, j] - 2 * covariance[i, j]) ** 0.5
                for i, j in itertools.combinations(range(k), 2)
            )
        )
    critical = np.quantile(largest, 0.95)
    if k == 2:
        critical = stats.t.ppf(0.975, df)
    assert told_apart(2**0.5 * critical * 1.05, k, df)
    assert not told_apart(2**0.5 * critical * 0.95, k, df)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("df", [None, 9.0])
def test_holm_is_that_of_a_loop_over_ordered_pairs(seed: int, df: float | None) -> None:
    """The sets are those that Holm's steps over k (k - 1) one-sided t-tests leave."""
    rng = np.random.default_rng(seed)
    k = 5
    root = rng.normal(0, 0.3, (k, k))
    covariance, estimates = root @ root.T + np.eye(k) * 0.1, rng.normal(0, 2, k)
    law = stats.norm if df is None else stats.t(df)
    tests = []
    for i, j in itertools.permutations(range(k), 2):
        error = (covariance[i, i] + covariance[j, j] - 2 * covariance[i, j]) ** 0.5
        tests.append((float(law.sf((estimates[i] - estimates[j]) / error)), i, j))
    shown = set()
    for step, (p, i, j) in enumerate(sorted(tests)):
        if p > 0.05 / (len(tests) - step):
            break
        shown.add((i, j))
    found = rank_sets(estimates, covariance, df=df)
    for i, one in enumerate(found):
        assert one.low == 1 + sum((j, i) in shown for j in range(k))
        assert one.high == k - sum((i, j) in shown for j in range(k))
        assert one.rank == 1 + sum(estimates > estimates[i])
        assert one.low <= one.rank <= one.high


def covered(
    true: np.ndarray, queries: int, reps: int, seed: int, *, max_t: bool
) -> tuple[float, float]:
    """How often all sets hold the true ranks, from means over queries with a common baseline; and
    the mean width."""
    rng = np.random.default_rng(seed)
    k, held, width = len(true), 0, 0
    for _ in range(reps):
        scale = np.linspace(0.2, 0.6, k)
        values = true + rng.normal(0, scale, (queries, k)) + rng.normal(0, 0.4, (queries, 1))
        covariance = np.cov(values, rowvar=False) / queries
        found = rank_sets(
            values.mean(axis=0),
            covariance,
            df=queries - 1,
            rng=rng if max_t else None,
            draws=2000,
        )
        held += all(
            one.low <= low and high <= one.high
            for one, (low, high) in zip(found, true_ranks(true), strict=True)
        )
        width += sum(one.high - one.low for one in found)
    return held / reps, width / reps


TRUTHS = {
    "all equal": np.zeros(6),
    "two groups": np.array([0.3, 0.3, 0.3, 0.0, 0.0, 0.0]),
    "a ladder": np.linspace(0, 0.5, 6),
    "one apart": np.array([0.6, 0.0, 0.0, 0.0, 0.0, 0.0]),
}


@pytest.mark.parametrize("name", TRUTHS)
@pytest.mark.parametrize("max_t", [True, False])
def test_all_true_ranks_are_held_together(name: str, max_t: bool) -> None:
    """In at least 179 of 200 studies of 20 queries every set has the true rank; where true effects
    tie, all ranks that they share."""
    assert covered(TRUTHS[name], 20, 200, 1, max_t=max_t)[0] >= 179 / 200


@pytest.mark.slow
@pytest.mark.parametrize("name", TRUTHS)
@pytest.mark.parametrize("queries", [10, 20, 40])
@pytest.mark.parametrize("max_t", [True, False])
def test_all_true_ranks_are_held_together_over_500(name: str, queries: int, max_t: bool) -> None:
    """At least 459 of 500 studies, with 10, 20 and 40 queries."""
    assert covered(TRUTHS[name], queries, 500, 2, max_t=max_t)[0] >= 459 / 500


def test_max_t_is_narrower_than_holm() -> None:
    """On the same studies its sets are no wider on average, and on a ladder narrower."""
    assert (
        covered(TRUTHS["a ladder"], 20, 100, 3, max_t=True)[1]
        < covered(TRUTHS["a ladder"], 20, 100, 3, max_t=False)[1]
    )


def test_order_and_direction() -> None:
    """Clear differences leave one rank each; ascending counts from the smallest."""
    estimates = np.array([0.1, -0.4, 0.3])
    for ascending, expected in ((False, (2, 3, 1)), (True, (2, 1, 3))):
        found = rank_sets(estimates, np.full(3, 1e-6), ascending=ascending)
        assert tuple(one.rank for one in found) == expected
        assert all(one.low == one.rank == one.high for one in found)


def test_what_cannot_be_told_apart_has_all_ranks() -> None:
    """Ties and large errors leave all ranks open; tied estimates share the better one."""
    found = rank_sets(np.array([0.2, 0.2, 0.1]), np.full(3, 1.0))
    assert [(one.rank, one.low, one.high) for one in found] == [(1, 1, 3), (1, 1, 3), (3, 1, 3)]
    assert rank_sets(np.array([0.2]), np.array([1.0]))[0].high == 1


@pytest.mark.parametrize("rng", [None, np.random.default_rng(0)])
def test_a_difference_without_error_is_not_a_finding(rng: np.random.Generator | None) -> None:
    """Perfectly correlated estimates that differ, or errors of 0, are left open."""
    for covariance in (np.ones((2, 2)), np.zeros((2, 2))):
        found = rank_sets(np.array([0.2, 0.1]), covariance, rng=rng)
        assert [(one.low, one.high) for one in found] == [(1, 2), (1, 2)]
