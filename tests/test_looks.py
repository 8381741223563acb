"""Boundaries have their published values, and looks keep their error over a whole study."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import optimize, special, stats

from analysis.looks import (
    Interim,
    LooksError,
    anytime_interval,
    boundaries,
    confidence_sequence,
    look,
    mixture_rho,
    spent,
)


@pytest.mark.parametrize(
    ("fractions", "alpha", "published"),
    [
        ([0.5, 1], 0.05, [2.963, 1.969]),
        ([1 / 3, 2 / 3, 1], 0.05, [3.710, 2.511, 1.993]),
        ([0.25, 0.5, 0.75, 1], 0.05, [4.333, 2.963, 2.359, 2.014]),
        ([0.2, 0.4, 0.6, 0.8, 1], 0.05, [4.877, 3.357, 2.680, 2.290, 2.031]),
        ([0.25, 0.5, 0.75, 1], 0.10, [3.750, 2.540, 2.016, 1.720]),
        ([1], 0.05, [1.960]),
    ],
    ids=["two", "three", "four", "five", "alpha .10", "one"],
)
def test_boundaries_have_the_published_values(
    fractions: list[float], alpha: float, published: list[float]
) -> None:
    """Lan-DeMets O'Brien-Fleming bounds as tabulated for equal steps, two-sided."""
    found = boundaries(fractions, alpha)
    assert [b.z for b in found] == pytest.approx(published, abs=6e-4)
    assert [b.nominal_p for b in found] == pytest.approx([2 * stats.norm.sf(b.z) for b in found])
    assert found[-1].spent == pytest.approx(alpha)
    assert [b.fraction for b in found] == fractions


@pytest.mark.parametrize("fractions", [[0.3, 0.55, 1.0], [0.1, 0.9, 0.95], [0.5, 0.6, 0.8]])
def test_uneven_boundaries_agree_with_the_multivariate_normal(fractions: list[float]) -> None:
    """The probability to stay inside until each look, by scipy's integral of the joint normal."""
    found = boundaries(fractions)
    correlation = np.sqrt(np.minimum.outer(fractions, fractions))
    correlation /= np.sqrt(np.maximum.outer(fractions, fractions))
    for k in range(1, len(fractions) + 1):
        edge = np.array([b.z for b in found[:k]])
        inside = stats.multivariate_normal(cov=correlation[:k, :k]).cdf(edge, lower_limit=-edge)
        assert 1 - inside == pytest.approx(spent(fractions[k - 1]), abs=2e-5)


def test_spending_is_that_of_lan_and_demets() -> None:
    """Each side spends its own half; half way that is .00153 (twice is .0031), at the end .05."""
    assert spent(1.0) == pytest.approx(0.05)
    side = 2 - 2 * stats.norm.cdf(stats.norm.ppf(1 - 0.025 / 2) / math.sqrt(0.5))
    assert side == pytest.approx(0.00153, abs=5e-6)
    assert spent(0.5) == pytest.approx(2 * side)


def test_a_boundary_depends_on_earlier_looks_alone() -> None:
    """Looks to come may be left out or moved."""
    early = boundaries([0.3, 0.6])
    assert boundaries([0.3, 0.6, 0.7, 1.0])[:2] == early
    assert boundaries([0.3, 0.6, 1.0])[:2] == early


def test_a_look_crosses_when_its_t_test_is_below_the_nominal_p() -> None:
    """Student's t with queries - 1; the repeated interval leaves 0 out exactly when it crosses."""
    interims = [Interim(0.12, 0.04, 10), Interim(0.11, 0.035, 20), Interim(0.1, 0.02, 40)]
    found = look(interims, 40)
    bounds = boundaries([0.25, 0.5, 1.0])
    assert [one.boundary for one in found] == list(bounds)
    for one, interim, bound in zip(found, interims, bounds, strict=True):
        assert interim.std_error is not None
        t = interim.estimate / interim.std_error
        p_value = 2 * stats.t.sf(t, interim.queries - 1)
        assert one.df == interim.queries - 1
        assert one.p_value == pytest.approx(p_value)
        assert one.crosses == (p_value <= bound.nominal_p)
        reach = stats.t.isf(bound.nominal_p / 2, one.df) * interim.std_error
        assert (one.low, one.high) == pytest.approx(
            (interim.estimate - reach, interim.estimate + reach)
        )
        assert one.low is not None
        assert one.crosses == (one.low > 0)
    assert [one.crosses for one in found] == [False, False, True]


def test_a_look_without_an_error_does_not_cross() -> None:
    """No spread yet is no evidence; more queries than planned count as the end."""
    first, last = look([Interim(0.0, None, 5), Interim(0.2, 0.05, 44)], 40)
    assert (first.crosses, first.p_value, first.low) == (None, None, None)
    assert last.boundary.fraction == 1.0
    assert last.crosses is True


@pytest.mark.parametrize(
    ("queries", "message"),
    [
        ([5, 10, 15, 20, 25, 30], "6 looks"),
        ([10, 10], "looks must rise"),
        ([20, 10], "looks must rise"),
        ([40, 44], "one past the end"),
        ([1, 10], "look 1 has 1 queries"),
        ([], "0 looks"),
    ],
)
def test_bad_looks_are_refused(queries: list[int], message: str) -> None:
    """Too many, out of order, after the end, or before two queries: the message says which."""
    with pytest.raises(LooksError, match=message):
        look([Interim(0.1, 0.05, n) for n in queries], 40)


def crossing_share(studies: NDArray[np.float64], counts: list[int], planned: int) -> float:
    """Share of studies (rows) with a look that crosses."""
    crossed = 0
    for study in studies:
        errors = [float(study[:n].std(ddof=1)) / math.sqrt(n) for n in counts]
        interims = [
            Interim(float(study[:n].mean()), error, n)
            for n, error in zip(counts, errors, strict=True)
        ]
        crossed += any(one.crosses for one in look(interims, planned))
    return crossed / len(studies)


def differences(
    rng: np.random.Generator, kind: str, studies: int, blocks: int
) -> NDArray[np.float64]:
    """Block differences of mean 0: normal, or of rates .13 and .01 over five trials an arm."""
    if kind == "normal":
        return rng.standard_normal((studies, blocks))
    shape = (studies, blocks, 5)
    train, deploy = (rng.random(shape) < 0.13, rng.random(shape) < 0.01)
    return np.asarray(train.mean(axis=2) - deploy.mean(axis=2) - 0.12)


def cross_fast(studies: NDArray[np.float64], counts: list[int], planned: int) -> float:
    """The same decision as `look`, over all studies at once."""
    crossed = np.zeros(len(studies), dtype=bool)
    for n, bound in zip(counts, boundaries([n / planned for n in counts]), strict=True):
        t = studies[:, :n].mean(axis=1) / (studies[:, :n].std(axis=1, ddof=1) / math.sqrt(n))
        crossed |= 2 * special.stdtr(n - 1, -np.abs(t)) <= bound.nominal_p
    return float(crossed.mean())


@pytest.mark.parametrize("looks", [2, 5])
@pytest.mark.parametrize("queries", [20, 40])
def test_looks_keep_their_error_over_the_study(looks: int, queries: int) -> None:
    """Peeking at every look with no effect: 5 % of 4,000 studies; plain tests reject far more."""
    rng = np.random.default_rng(looks * queries)
    studies = rng.standard_normal((4000, queries))
    counts = [queries * k // looks for k in range(1, looks + 1)]
    size = cross_fast(studies, counts, queries)
    assert size <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 4000)
    assert size >= 0.03
    naive = np.zeros(4000, dtype=bool)
    for n in counts:
        naive |= stats.ttest_1samp(studies[:, :n], 0, axis=1).pvalue <= 0.05
    assert naive.mean() > size + 0.02
    few = studies[:40]
    assert crossing_share(few, counts, queries) == cross_fast(few, counts, queries)


def test_rho_makes_the_sequence_tightest_at_its_target() -> None:
    """No other rho gives narrower bounds there, by scipy's minimiser over the plain formula."""
    for target, alpha in ((40, 0.05), (100, 0.05), (60, 0.1)):

        def width(r: float, n: int = target, a: float = alpha) -> float:
            k = n * r * r
            return math.sqrt(2 * (k + 1) / (n * k) * math.log(math.sqrt(k + 1) / a))

        best = optimize.minimize_scalar(width, bounds=(1e-3, 5), method="bounded")
        rho = mixture_rho(target, alpha)
        assert rho == pytest.approx(best.x, rel=1e-3)
        found = anytime_interval(0.2, 0.3 / math.sqrt(target), target, rho, alpha)
        assert found.high - 0.2 == pytest.approx(0.3 * best.fun)
        assert 0.2 - found.low == pytest.approx(0.3 * best.fun)


def test_the_price_of_looking_whenever_one_likes() -> None:
    """At its target the sequence is half as wide again as a fixed interval."""
    found = anytime_interval(0.0, 1.0, 40, mixture_rho(40))
    assert found.high / stats.norm.ppf(0.975) == pytest.approx(1.55, abs=0.01)


def test_the_running_bounds_are_the_interval_at_each_block() -> None:
    """The formula over the first n blocks; nothing before the 20th or without spread."""
    rng = np.random.default_rng(1)
    values = rng.normal(0.1, 0.2, 30)
    bounds = confidence_sequence(values, 40)
    assert np.isnan(bounds[:19]).all()
    for n in range(20, 31):
        k = n * mixture_rho(40) ** 2
        s = values[:n].std(ddof=1)
        reach = s * math.sqrt(2 * (k + 1) / (n * k) * math.log(math.sqrt(k + 1) / 0.05))
        centre = values[:n].mean()
        assert bounds[n - 1] == pytest.approx([centre - reach, centre + reach])
    assert np.isnan(confidence_sequence(np.zeros(25), 40)).all()
    with pytest.raises(LooksError, match="at least 2"):
        mixture_rho(1)


def share_ever_missed(studies: NDArray[np.float64], target: int) -> float:
    """Share of studies whose running bounds leave out 0 at any block."""
    missed = 0
    for study in studies:
        bounds = confidence_sequence(study, target)[19:]
        missed += bool(np.any((bounds[:, 0] > 0) | (bounds[:, 1] < 0)))
    return missed / len(studies)


@pytest.mark.parametrize("kind", ["normal", "rates"])
def test_the_sequence_covers_at_all_blocks_together(kind: str) -> None:
    """From block 20 to 120 at most 5 % of studies ever miss the truth."""
    rng = np.random.default_rng(9)
    found = share_ever_missed(differences(rng, kind, 250, 120), 60)
    assert found <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 250)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["normal", "rates"])
@pytest.mark.parametrize("target", [40, 100])
def test_the_sequence_covers_over_long_studies(kind: str, target: int) -> None:
    """The same to block 600 in 1,500 studies."""
    rng = np.random.default_rng(target)
    found = share_ever_missed(differences(rng, kind, 1500, 600), target)
    assert found <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 1500)
