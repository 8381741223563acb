"""Intervals agree with scipy, statsmodels and the tables of the papers."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

from analysis.intervals import newcombe, t_interval, t_quantile, wilson


@pytest.mark.parametrize("df", [1, 2, 5, 19, 99, 10_000])
@pytest.mark.parametrize("probability", [0.025, 0.5, 0.8, 0.95, 0.975])
def test_quantiles_are_students(probability: float, df: int) -> None:
    """The quantile is scipy's."""
    assert t_quantile(probability, df) == pytest.approx(stats.t.ppf(probability, df), abs=1e-10)


@settings(deadline=None)
@given(
    estimate=st.floats(-1, 1),
    std_error=st.floats(1e-6, 1),
    df=st.integers(1, 500),
)
def test_t_intervals_are_students(estimate: float, std_error: float, df: int) -> None:
    """Bounds, statistic and two-sided p-value are those of scipy.stats.t."""
    found = t_interval(estimate, std_error, df)
    low, high = stats.t.interval(0.95, df, loc=estimate, scale=std_error)
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-9, abs=1e-12)
    assert found.statistic == pytest.approx(estimate / std_error)
    assert found.p_value == pytest.approx(2 * stats.t.sf(abs(estimate / std_error), df), rel=1e-9)


@pytest.mark.parametrize("df", [1, 5, 60])
def test_the_interval_excludes_zero_exactly_when_p_is_below_five_percent(df: int) -> None:
    """Test and interval never contradict each other, on both sides of the critical value."""
    critical = stats.t.ppf(0.975, df)
    inside, outside = t_interval(critical - 1e-6, 1.0, df), t_interval(critical + 1e-6, 1.0, df)
    assert inside.low < 0 < inside.high
    assert inside.p_value is not None
    assert inside.p_value > 0.05
    assert outside.low > 0
    assert outside.p_value is not None
    assert outside.p_value < 0.05


def test_a_tail_far_out_keeps_its_digits() -> None:
    """A p-value far below machine epsilon is not rounded to 0."""
    assert t_interval(40.0, 1.0, 30).p_value == pytest.approx(2 * stats.t.sf(40, 30), rel=1e-8)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_the_published_bounds(
    successes: int, trials: int, low: float, high: float
) -> None:
    """The score intervals of Newcombe 1998 (Two-sided confidence intervals), table I."""
    found = wilson(successes, trials)
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)


@settings(deadline=None)
@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_agrees_with_statsmodels(counts: tuple[int, int]) -> None:
    """The bounds are statsmodels', within [0, 1] and around the share."""
    successes, trials = counts
    found = wilson(successes, trials)
    low, high = proportion_confint(successes, trials, method="wilson")
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-10)
    assert 0 <= found.low <= successes / trials + 1e-12
    assert successes / trials - 1e-12 <= found.high <= 1
    assert found.p_value is None


NEWCOMBE_1998 = [
    (56, 70, 48, 80, 0.0524, 0.3339),
    (9, 10, 3, 10, 0.1705, 0.8090),
    (6, 7, 2, 7, 0.0582, 0.8062),
    (5, 56, 0, 29, -0.0381, 0.1926),
    (0, 10, 0, 20, -0.1611, 0.2775),
    (0, 10, 0, 10, -0.2775, 0.2775),
    (10, 10, 0, 20, 0.6791, 1.0000),
    (10, 10, 0, 10, 0.6075, 1.0000),
]


@pytest.mark.parametrize(("k1", "n1", "k0", "n0", "low", "high"), NEWCOMBE_1998)
def test_newcombe_gives_the_published_bounds(
    k1: int, n1: int, k0: int, n0: int, low: float, high: float
) -> None:
    """Method 10 of Newcombe 1998 (Interval estimation for the difference), table II."""
    found = newcombe(k1, n1, k0, n0)
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)


COUNTS = st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@settings(deadline=None)
@given(COUNTS, COUNTS)
def test_newcombe_agrees_with_statsmodels(one: tuple[int, int], zero: tuple[int, int]) -> None:
    """The bounds are statsmodels', and stay within [-1, 1]."""
    found = newcombe(*one, *zero)
    expected = confint_proportions_2indep(*one, *zero, method="newcomb", compare="diff")
    assert (found.low, found.high) == pytest.approx(expected, abs=1e-10)
    assert -1 - 1e-12 <= found.low <= found.high <= 1 + 1e-12


@settings(deadline=None)
@given(COUNTS, COUNTS)
def test_newcombe_turns_round_with_the_arms(one: tuple[int, int], zero: tuple[int, int]) -> None:
    """Swapping the arms changes the signs of the bounds and nothing else."""
    there, back = newcombe(*one, *zero), newcombe(*zero, *one)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low), abs=1e-12)


@pytest.mark.parametrize(("p1", "p0", "n"), [(0.13, 0.01, 100), (0.02, 0.0, 60), (0.0, 0.0, 40)])
def test_newcombe_covers_the_truth(p1: float, p0: float, n: int) -> None:
    """Exact coverage, by summing over every outcome of two binomials, is near 95 % or above."""
    k = np.arange(n + 1)
    one, zero = stats.binom.pmf(k, n, p1), stats.binom.pmf(k, n, p0)
    coverage = 0.0
    for k1 in np.flatnonzero(one > 1e-9):
        for k0 in np.flatnonzero(zero > 1e-9):
            found = newcombe(int(k1), n, int(k0), n)
            coverage += one[k1] * zero[k0] * (found.low <= p1 - p0 <= found.high)
    assert coverage > 0.93
    assert math.isfinite(coverage)
