"""Detectable sizes agree with simulated studies, with scipy's t and with formulas in loops."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from scipy import stats

from ablate.foresight import inclusion
from analysis import fit
from analysis.effects import AVERAGED, SIMPLE
from analysis.observations import Observations, Term, observe
from analysis.power import (
    Detectable,
    Prior,
    detectable,
    lack_of_fit,
    out_of_reach,
    power,
    queries_needed,
    trials_needed,
)
from variants.designs import mixed

Array = NDArray[np.float64]
ARMS = ("train", "deploy")
ORIGINAL = ("original", "original")


def plan(
    cells: Mapping[tuple[str | None, str | None], tuple[int, int]],
    *,
    queries: int = 20,
    law: Mapping[tuple[str | None, str | None], float] | None = None,
) -> pl.DataFrame:
    """Planned trials: for each condition of (f, g), the trials a query has in train and deploy."""
    rows = [
        (f"q{q:02}", arm, *levels, law[levels] if law else 1.0)
        for q in range(queries)
        for levels, sizes in cells.items()
        for arm, size in zip(ARMS, sizes, strict=True)
        for _ in range(size)
    ]
    names = ["query_id", "arm", "f", "g", "law"]
    return pl.DataFrame(rows, schema=names, orient="row")


def planned(frame: pl.DataFrame) -> Observations:
    """The plan as analysis sees it."""
    return observe(frame, factors=["f", "g"], outcomes=[], weight="law")


OFAT = {ORIGINAL: (6, 4), ("removed", "original"): (4, 3), ("original", "removed"): (4, 3)}
MIXED = OFAT | {("removed", "removed"): (2, 2)}
LAW = dict(zip(MIXED, (0.5, 0.9, 1.2, 2.0), strict=True))


def found(
    frame: pl.DataFrame, prior: Prior, estimand: str, factor: str | None = None
) -> Detectable:
    """The one detectable size of an estimand and a factor."""
    (size,) = (
        d
        for d in detectable(planned(frame), prior)
        if d.estimand == estimand and (d.term.factor if d.term else None) == factor
    )
    return size


def standard_error(size: Detectable, *, alike: bool = False) -> float:
    """The standard error that a size stands for, by scipy's quantiles."""
    value = size.alike if alike else size.size
    assert value is not None
    df = size.queries - 1
    return float(value / (stats.t.ppf(0.975, df) + stats.t.ppf(0.8, df)))


@pytest.mark.parametrize("tau", [0.0, 0.1, 0.3])
def test_the_baseline_gap_has_the_variance_of_the_planner_formula(tau: float) -> None:
    """`(tau^2 + v_train / m_train + v_deploy / m_deploy) / Q` and t with Q - 1."""
    prior = Prior(train=0.3, deploy=0.1, tau=tau)
    size = found(plan(OFAT), prior, "gap")
    variance = (tau**2 + 0.3 * 0.7 / 6 + 0.1 * 0.9 / 4) / 20
    reach = stats.t.ppf(0.975, 19) + stats.t.ppf(0.8, 19)
    assert size.size == pytest.approx(reach * variance**0.5)
    assert size.trials == 20 * 24
    assert size.queries == 20


def test_a_simple_effect_adds_the_variance_of_four_cells() -> None:
    """Both arms of the original and both of the change, over the queries that have all four."""
    prior = Prior(train=0.3, deploy=0.1, tau=0.2)
    frame = plan(OFAT).filter(
        ~((pl.col("query_id") < "q05") & (pl.col("f") == "removed") & (pl.col("arm") == "train"))
    )
    size = found(frame, prior, SIMPLE, "f")
    within = 0.21 / 6 + 0.09 / 4 + 0.21 / 4 + 0.09 / 3
    assert size.queries == 15
    assert standard_error(size) == pytest.approx(((0.04 + within) / 15) ** 0.5)
    assert standard_error(size, alike=True) == pytest.approx((within / 15) ** 0.5)


def test_unequal_cells_are_summed_query_by_query() -> None:
    """A query with few trials adds its own variance, not that of the average query."""
    few = plan({ORIGINAL: (1, 1), ("removed", "original"): (1, 1)}, queries=1)
    many = plan(OFAT, queries=10).filter(pl.col("query_id") != "q00")
    size = found(pl.concat([few, many]), Prior(0.3, 0.1, 0.0), SIMPLE, "f")
    one = 2 * (0.21 + 0.09)
    nine = 9 * (0.21 / 6 + 0.09 / 4 + 0.21 / 4 + 0.09 / 3)
    assert standard_error(size) == pytest.approx((one + nine) ** 0.5 / 10)


@pytest.mark.parametrize("df", [5, 19, 99])
def test_a_size_is_found_in_eighty_percent_of_studies(df: int) -> None:
    """By scipy's noncentral t the power at the size is 80 %, at worst one point off."""
    size = Detectable("gap", None, 1000, df + 1, within=0.001, tau=0.05)
    assert size.size is not None
    shift = size.size / (0.001 + 0.05**2 / (df + 1)) ** 0.5
    critical = stats.t.ppf(0.975, df)
    power = stats.nct.sf(critical, df, shift) + stats.nct.cdf(-critical, df, shift)
    assert power == pytest.approx(0.8, abs=0.011 if df > 10 else 0.02)


def simulated(
    frame: pl.DataFrame, prior: Prior, studies: int, varied: str, seed: int
) -> list[Array]:
    """Outcomes of the plan's trials, one array a study, as if no change had an effect on average.

    Query by query, the change of the factor `varied` moves train by plus or minus tau; with
    `varied` "gap" tau is in the gap itself. The move is added to a draw at the prior's rate, which
    keeps that draw's variance; the sums need not lie in [0, 1].
    """
    rng = np.random.default_rng(seed)
    query = frame["query_id"].rank("dense").to_numpy().astype(int) - 1
    train = (frame["arm"] == "train").to_numpy()
    moved = train if varied == "gap" else train & (frame[varied] == "removed").to_numpy()
    rate = np.where(train, prior.train, prior.deploy)
    draws = []
    for _ in range(studies):
        sign = rng.choice([-1.0, 1.0], query.max() + 1)[query]
        draws.append((rng.random(len(query)) < rate) + prior.tau * sign * moved)
    return draws


def simple_estimates(frame: pl.DataFrame, draws: Sequence[Array], factor: str) -> Array:
    """Mean over queries of the difference of differences of cell means, in numpy."""
    other = "g" if factor == "f" else "f"
    cells: dict[tuple[str, str, str], list[int]] = {}
    for i, row in enumerate(frame.iter_rows(named=True)):
        if row[other] == "original":
            cells.setdefault((row["query_id"], row[factor], row["arm"]), []).append(i)
    sign = {("removed", "train"): 1, ("removed", "deploy"): -1,
            ("original", "train"): -1, ("original", "deploy"): 1}  # fmt: skip
    queries = frame["query_id"].n_unique()
    weights = np.zeros(frame.height)
    for (_, level, arm), members in cells.items():
        weights[members] = sign[level, arm] / len(members) / queries
    return np.array([weights @ y for y in draws])


def averaged_estimates(frame: pl.DataFrame, draws: Sequence[Array], factor: str) -> Array:
    """Weighted least squares of `y ~ arm * (f + g)` by numpy, the coefficient of arm and factor."""
    train = (frame["arm"] == "train").to_numpy().astype(float)
    f, g = ((frame[name] == "removed").to_numpy().astype(float) for name in ("f", "g"))
    X = np.column_stack([np.ones(len(f)), f, g, train, train * f, train * g])
    totals: dict[tuple[str, str], float] = {}
    for row in frame.iter_rows(named=True):
        key = row["query_id"], row["arm"]
        totals[key] = totals.get(key, 0.0) + row["law"]
    w = np.array([r["law"] / totals[r["query_id"], r["arm"]] for r in frame.iter_rows(named=True)])
    root = np.sqrt(w)[:, None]
    beta = np.linalg.lstsq(root * X, root * np.array(draws).T, rcond=None)[0]
    return np.asarray(beta[4 if factor == "f" else 5])


STUDIES = 1500


@pytest.mark.parametrize("tau", [0.0, 0.2])
@pytest.mark.parametrize("estimand", [SIMPLE, AVERAGED])
@pytest.mark.parametrize("factor", ["f", "g"])
def test_the_error_is_that_of_simulated_studies(estimand: str, factor: str, tau: float) -> None:
    """The spread of estimates over 1,500 studies under the prior, within Monte-Carlo error."""
    prior = Prior(train=0.3, deploy=0.05, tau=tau)
    frame = plan(MIXED, law=LAW)
    draws = simulated(frame, prior, STUDIES, factor, seed=3)
    estimates = (simple_estimates if estimand == SIMPLE else averaged_estimates)(
        frame, draws, factor
    )
    spread = estimates.std(ddof=1)
    expected = standard_error(found(frame, prior, estimand, factor))
    assert spread == pytest.approx(expected, rel=3 / (2 * STUDIES) ** 0.5)
    assert abs(estimates.mean()) < 4 * spread / STUDIES**0.5
    if tau:
        alike = standard_error(found(frame, prior, estimand, factor), alike=True)
        assert spread > 1.1 * alike


@pytest.mark.parametrize("tau", [0.0, 0.1])
def test_the_error_of_the_gap_is_that_of_simulated_studies(tau: float) -> None:
    """The same for the baseline gap, estimated by `fit` itself."""
    prior = Prior(train=0.3, deploy=0.05, tau=tau)
    frame = plan(OFAT)
    draws = simulated(frame, prior, STUDIES, "gap", seed=4)
    here = (frame.select(pl.all_horizontal(pl.col("f", "g") == "original")).to_series()).to_numpy()
    train = (frame["arm"] == "train").to_numpy()
    estimates = np.array([y[here & train].mean() - y[here & ~train].mean() for y in draws])
    expected = standard_error(found(frame, prior, "gap"))
    assert estimates.std(ddof=1) == pytest.approx(expected, rel=3 / (2 * STUDIES) ** 0.5)


def test_the_simulated_estimates_are_those_of_fit() -> None:
    """The short estimators of these tests give what `fit` gives on the same trials."""
    frame = plan(MIXED, law=LAW)
    draws = simulated(frame, Prior(0.3, 0.05, 0.0), 2, "f", seed=5)
    for y in draws:
        table = fit(
            frame.with_columns(y=pl.Series(y)), factors=["f", "g"], outcomes=["y"], weight="law"
        ).effects.filter(pl.col("level") == "removed", pl.col("role") == "primary")
        for estimand, short in ((SIMPLE, simple_estimates), (AVERAGED, averaged_estimates)):
            for factor in ("f", "g"):
                row = table.filter(pl.col("estimand") == estimand, pl.col("factor") == factor)
                assert row["estimate"][0] == pytest.approx(short(frame, [y], factor)[0])


def test_the_planned_degrees_of_freedom_are_those_of_the_fit() -> None:
    """Power and test use the same t."""
    frame = plan(MIXED, law=LAW, queries=7)
    y = np.random.default_rng(0).random(frame.height)
    table = fit(
        frame.with_columns(y=pl.Series(y)), factors=["f", "g"], outcomes=["y"], weight="law"
    ).effects.filter(
        pl.col("level") == "removed",
        pl.col("estimand").is_in([SIMPLE, AVERAGED]),
        pl.col("role") == "primary",
    )
    assert table.height == 4
    for row in table.iter_rows(named=True):
        size = found(frame, Prior(), row["estimand"], row["factor"])
        # With balance Satterthwaite's are queries - 1 too.
        assert row["df"] == pytest.approx(size.queries - 1)
        assert size.queries == 7


@pytest.mark.parametrize("tau", [0.0, 0.05])
@pytest.mark.parametrize("factor", [None, "f"])
def test_trials_for_inverts_size(tau: float, factor: str | None) -> None:
    """A plan with every cell multiplied needs as many trials as were asked for."""
    prior = Prior(0.3, 0.1, tau)
    estimand = SIMPLE if factor else "gap"
    once = found(plan(OFAT), prior, estimand, factor)
    thrice = found(plan({c: (3 * a, 3 * b) for c, (a, b) in OFAT.items()}), prior, estimand, factor)
    assert once.size is not None
    assert thrice.size is not None
    assert once.trials_for(once.size) == pytest.approx(once.trials, abs=1)
    assert once.trials_for(thrice.size) == pytest.approx(thrice.trials, abs=1)
    assert thrice.trials_for(once.size) == pytest.approx(once.trials, abs=1)


def test_beyond_the_floor_no_number_of_trials_is_enough() -> None:
    """With queries that differ, a target below reach times tau / sqrt(Q) takes more queries."""
    size = found(plan(OFAT), Prior(0.3, 0.1, 0.2), SIMPLE, "f")
    floor = (stats.t.ppf(0.975, 19) + stats.t.ppf(0.8, 19)) * 0.2 / 20**0.5
    assert size.trials_for(floor * 0.999) is None
    assert size.trials_for(floor * 1.001) is not None
    assert replace(size, tau=0.0).trials_for(floor * 0.5) is not None


def test_what_the_plan_cannot_estimate_has_no_size() -> None:
    """A missing cell and two factors that always change together give None, not 0 or an error."""
    twins = plan({ORIGINAL: (4, 4), ("removed", "removed"): (4, 4)})
    for estimand in (SIMPLE, AVERAGED):
        size = found(twins, Prior(), estimand, "f")
        assert (size.size, size.alike, size.trials_for(0.05)) == (None, None, None)
    lone = plan(MIXED).filter((pl.col("f") == "original") | (pl.col("query_id") == "q03"))
    for estimand in (SIMPLE, AVERAGED):
        assert found(lone, Prior(), estimand, "f").size is None
        assert found(lone, Prior(), estimand, "g").size is not None
    one_query = found(plan(OFAT, queries=1), Prior(), "gap")
    assert (one_query.size, one_query.trials_for(0.05)) == (None, None)


def test_a_plan_without_a_law_has_no_averaged_sizes() -> None:
    """All weights null: the gap and the simple effects alone."""
    frame = plan(OFAT).with_columns(law=pl.lit(None, pl.Float64))
    sizes = detectable(planned(frame), Prior())
    assert [d.estimand for d in sizes] == ["gap", SIMPLE, SIMPLE]


def test_structural_zeros_have_no_size() -> None:
    """What needs no test needs no power; the other factor keeps its size."""
    frame = plan(MIXED, law=LAW).with_columns(
        prompt=pl.concat_str(
            "query_id",
            "f",
            "g",
            pl.when(pl.col("f") == "removed").then(pl.lit("")).otherwise(pl.col("arm")),
        )
    )
    checked = observe(frame, factors=["f", "g"], outcomes=[], weight="law", prompt="prompt")
    found_with = detectable(checked, Prior())
    assert [(d.estimand, d.term) for d in found_with] == [
        ("gap", None),
        (SIMPLE, Term("g", "removed")),
        (AVERAGED, Term("g", "removed")),
    ]
    without = {(d.estimand, d.term): d.size for d in detectable(planned(frame), Prior())}
    for size in found_with:
        assert size.size == pytest.approx(without[size.estimand, size.term])


def test_the_error_of_a_removal_that_takes_another_along() -> None:
    """The size of an outer factor has the variance of the weighted means of its conditions."""
    law = {ORIGINAL: 0.6, ("original", "removed"): 0.15, ("removed", None): 0.25}
    frame = plan(dict.fromkeys(law, (4, 4)), law=law)
    prior = Prior(0.3, 0.1, 0.0)
    # The design is saturated, and every query has the same trials: group means of 80 trials.
    shares = {"kept": (0.6 / 0.75) ** 2 + (0.15 / 0.75) ** 2, "gone": 1.0}
    variance = sum((0.21 + 0.09) / 80 * s for s in shares.values())
    assert standard_error(found(frame, prior, AVERAGED, "f")) == pytest.approx(variance**0.5)


def test_more_queries_and_more_trials_never_hurt() -> None:
    """Sizes shrink with trials, and with queries even where queries differ."""
    sizes = [
        [
            found(plan({c: (k * a, k * b) for c, (a, b) in MIXED.items()}, queries=q),
                  Prior(), estimand, "f").size
            for k, q in ((1, 10), (2, 10), (2, 20))
        ]
        for estimand in (SIMPLE, AVERAGED)
    ]  # fmt: skip
    for small, more, most in sizes:
        assert small is not None
        assert more is not None
        assert most is not None
        assert small > more > most


def test_the_order_of_a_plan_does_not_matter() -> None:
    """Shuffled trials have the same sizes."""
    frame = plan(MIXED, law=LAW)
    shuffled = frame.sample(fraction=1, shuffle=True, seed=2)
    for one, two in itertools.zip_longest(
        detectable(planned(frame), Prior()), detectable(planned(shuffled), Prior())
    ):
        assert two.term == one.term
        assert two.size == pytest.approx(one.size)


def test_the_size_for_any_wording_counts_wordings() -> None:
    """`tau_wording^2 / W` comes to it, and df is the smaller of queries and wordings, minus 1."""
    prior = Prior(0.3, 0.1, 0.2, tau_wording=0.06)
    rng = np.random.default_rng(0)
    for wordings in (4, 5, 8, 12):
        frame = plan(OFAT, queries=9)
        drawn = rng.integers(wordings, size=frame.height)
        frame = frame.with_columns(wording=pl.Series(drawn).cast(pl.String))
        checked = observe(frame, factors=["f", "g"], outcomes=[], weight="law", wording="wording")
        size = next(d for d in detectable(checked, prior) if d.estimand == "gap")
        assert size.within is not None
        if wordings < 5:
            assert size.any_wording is None
            continue
        df = min(9, wordings) - 1
        reach = stats.t.ppf(0.975, df) + stats.t.ppf(0.8, df)
        variance = size.within + 0.2**2 / 9 + 0.06**2 / wordings
        assert size.any_wording == pytest.approx(reach * variance**0.5)


def test_a_level_in_few_wordings_says_little_of_others() -> None:
    """It is the side of the change with fewest wordings that counts."""
    frame = plan(OFAT).with_columns(
        wording=pl.when(pl.col("f") == "removed")
        .then(pl.lit("w0"))
        .otherwise(pl.concat_str(pl.lit("w"), pl.int_range(pl.len()) % 7))
    )
    checked = observe(frame, factors=["f", "g"], outcomes=[], weight="law", wording="wording")
    wordings = {d.term.factor: d.wordings for d in detectable(checked, Prior()) if d.term}
    assert (wordings["f"], wordings["g"]) == (1, 7)


def textbook(effect: float, variance: float, df: int) -> float:
    """Power of a two-sided t test at 5 %, by scipy's noncentral t."""
    critical, shift = stats.t.ppf(0.975, df), effect / variance**0.5
    return float(stats.nct.sf(critical, df, shift) + stats.nct.cdf(-critical, df, shift))


@pytest.mark.parametrize("tau", [0.0, 0.15])
@pytest.mark.parametrize("effect", [-0.2, -0.1, 0.05])
def test_power_is_that_of_the_noncentral_t_with_the_variance_after_the_change(
    effect: float, tau: float
) -> None:
    """Train falls from .3 by the effect, and what differs between queries is no coin tossing."""
    size = found(plan(OFAT), Prior(0.3, 0.1, tau, deploy_cv=0.0), SIMPLE, "f")
    after = 0.3 + effect
    # The gap of queries has the SD tau where it is .2, and in proportion elsewhere.
    before_spread, after_spread = tau, tau * (0.2 + effect) / 0.2
    cells = (0.21 - before_spread**2) / 6 + 0.09 / 4
    cells += (after * (1 - after) - after_spread**2) / 4 + 0.09 / 3
    variance = (tau**2 + cells) / 20
    # With t(19) whatever the cells: every query has the same.
    assert power(size, effect) == pytest.approx(textbook(effect, variance, 19), abs=1e-6)


def test_a_change_that_takes_the_gap_away_is_seen_more_easily_than_its_size_says() -> None:
    """At the detectable size of a cautious plan the power is above 80 %, and 5 % at no effect."""
    size = found(plan(OFAT), Prior(0.3, 0.0, 0.0), SIMPLE, "f")
    assert size.size is not None
    assert power(size, -size.size) > 0.85  # type: ignore[operator]
    assert power(size, size.size) < 0.8  # type: ignore[operator]
    assert power(size, 0.0) == pytest.approx(0.05, abs=1e-6)


def test_stated_rates_after_a_change_enter_the_size() -> None:
    """Both arms after the change have the variance of the rates that the prior says."""
    prior = Prior(0.3, 0.1, 0.0, after={Term("f", "removed"): (0.2, 0.05)})
    size = found(plan(OFAT), prior, SIMPLE, "f")
    cells = 0.21 / 6 + 0.09 / 4 + 0.16 / 4 + 0.0475 / 3
    assert standard_error(size) == pytest.approx((cells / 20) ** 0.5)
    assert power(size, -0.05) == pytest.approx(textbook(0.05, cells / 20, 19), abs=1e-6)
    # The other change keeps the rates of the original.
    other = found(plan(OFAT), prior, SIMPLE, "g")
    assert other.size == found(plan(OFAT), Prior(0.3, 0.1, 0.0), SIMPLE, "g").size


@pytest.mark.parametrize("train", [0.1, 0.4])
def test_power_near_zero_is_that_of_every_outcome_counted(train: float) -> None:
    """Four queries, one trial a cell, deploy at 0: all 4^4 outcomes, each with scipy's t test."""
    after = 0.02
    cells = dict.fromkeys(OFAT, (1, 1))
    size = found(plan(cells, queries=4), Prior(train, 0.0, 0.0), SIMPLE, "f")
    chances = {after_ - before_: 0.0 for before_, after_ in itertools.product((0, 1), (0, 1))}
    for before_, after_ in itertools.product((0, 1), (0, 1)):
        p = (train if before_ else 1 - train) * (after if after_ else 1 - after)
        chances[after_ - before_] += p
    exact = 0.0
    for outcome in itertools.product(chances, repeat=4):
        # Where all differences are equal there is no test, even if all are -1.
        if len(set(outcome)) > 1 and stats.ttest_1samp(outcome, 0.0).pvalue < 0.05:
            exact += float(np.prod([chances[d] for d in outcome]))
    rng = np.random.default_rng(1)
    drawn = power(size, after - train, rng, studies=200_000)
    assert drawn == pytest.approx(exact, abs=4 * (exact / 200_000) ** 0.5 + 1e-9)


def test_what_never_happens_is_never_found() -> None:
    """With both arms at 0 every query is alike: no test, no rejection."""
    size = found(plan(OFAT), Prior(0.0, 0.0, 0.0), SIMPLE, "f")
    assert power(size, 0.0, np.random.default_rng(0)) == 0.0
    assert power(size, 0.0) == 0.0


def test_power_is_none_where_the_plan_cannot_estimate() -> None:
    """No chance is stated for an effect that the design cannot tell from another."""
    twins = plan({ORIGINAL: (4, 4), ("removed", "removed"): (4, 4)})
    size = found(twins, Prior(), AVERAGED, "f")
    assert power(size, -0.1) is None
    assert queries_needed(size, -0.1) is None
    assert trials_needed(size, -0.1) is None
    assert size.queries_for(0.1) is None


@pytest.mark.parametrize("estimand", [SIMPLE, AVERAGED])
def test_power_grows_with_effect_trials_and_queries(estimand: str) -> None:
    """More of any of the three never hurts."""
    sizes = [
        found(plan({c: (k * a, k * b) for c, (a, b) in MIXED.items()}, queries=q, law=LAW),
              Prior(0.3, 0.1, 0.1), estimand, "f")
        for k, q in ((1, 10), (2, 10), (2, 20))
    ]  # fmt: skip
    table = np.array([[power(size, effect) for effect in (0, -0.05, -0.1)] for size in sizes])
    assert np.all(np.diff(table, axis=1) > 0)
    assert np.all(np.diff(table[:, 1:], axis=0) > 0)


@pytest.mark.parametrize("estimand", [SIMPLE, AVERAGED])
def test_the_queries_needed_are_the_fewest(estimand: str) -> None:
    """A plan with so many queries has the power, one with one fewer has not."""
    prior = Prior(0.3, 0.1, 0.1)
    needed = queries_needed(found(plan(MIXED, law=LAW), prior, estimand, "f"), -0.1)
    assert needed is not None
    powers = [
        power(found(plan(MIXED, queries=q, law=LAW), prior, estimand, "f"), -0.1)
        for q in (needed - 1, needed)
    ]
    assert powers[0] < 0.8 <= powers[1]  # type: ignore[operator]


def test_the_trials_needed_have_the_power() -> None:
    """Twelve queries with so many times the trials: about 80 %; beyond tau, more queries."""
    prior = Prior(0.3, 0.1, 0.05)
    once = found(plan(OFAT, queries=12), prior, SIMPLE, "f")
    needed = trials_needed(once, -0.15)
    assert needed is not None
    times = needed / once.trials
    more = plan({c: (round(6 * a * times), round(6 * b * times)) for c, (a, b) in OFAT.items()},
                queries=12)  # fmt: skip
    six = found(plan({c: (6 * a, 6 * b) for c, (a, b) in OFAT.items()}, queries=12), prior,
                SIMPLE, "f")  # fmt: skip
    # Six times the trials need the same number in all, as a share of the plan a sixth.
    assert trials_needed(six, -0.15) == pytest.approx(needed, rel=0.04)
    reached = power(found(more, prior, SIMPLE, "f"), -0.15)
    assert reached is not None
    assert reached > 0.8
    wide = replace(once, tau=0.2)
    assert trials_needed(wide, -0.15) is None
    assert (queries_needed(wide, -0.15) or 0) > 12


def test_searches_near_zero_are_by_drawn_studies() -> None:
    """With a deploy rate of 0 and few trials the queries needed have the drawn power."""
    cells = OFAT | {ORIGINAL: (3, 3), ("removed", "original"): (2, 2)}
    prior = Prior(0.2, 0.0, 0.02)
    size = found(plan(cells, queries=20), prior, SIMPLE, "f")
    needed = queries_needed(size, -0.2, rng=np.random.default_rng(3))
    assert needed is not None
    there = found(plan(cells, queries=needed), prior, SIMPLE, "f")
    reached = power(there, -0.2, np.random.default_rng(4), studies=20_000)
    assert reached == pytest.approx(0.8, abs=0.04)


@pytest.mark.parametrize("tau", [0.0, 0.1])
def test_queries_for_inverts_size(tau: float) -> None:
    """So many queries bring the size to the target, and one fewer do not."""
    prior = Prior(0.3, 0.1, tau)
    target = 0.12
    needed = found(plan(OFAT), prior, SIMPLE, "f").queries_for(target)
    assert needed is not None
    sizes = [found(plan(OFAT, queries=q), prior, SIMPLE, "f").size for q in (needed - 1, needed)]
    assert sizes[0] > target >= sizes[1]  # type: ignore[operator]


def test_effects_out_of_reach_are_named() -> None:
    """More than the whole gap, or a level in less than 1.5 % of the trials; the rest is not."""
    sizes = detectable(planned(plan(OFAT)), Prior(0.3, 0.1, 0.0))
    beyond = out_of_reach(sizes, Prior(0.3, 0.1, 0.0))
    assert [(b.effect.estimand, b.rare) for b in beyond if b.effect.estimand == SIMPLE] == [
        (SIMPLE, False)
    ] * 2
    assert out_of_reach(sizes, Prior(0.5, 0.1)) == ()
    rare = plan(OFAT | {ORIGINAL: (600, 400)})
    few = out_of_reach(detectable(planned(rare), Prior(0.9, 0.0, 0.0)), Prior(0.9, 0.0))
    assert {(b.effect.term, b.rare) for b in few} >= {(Term("f", "removed"), True)}


@pytest.mark.parametrize("rate", [0.1, 0.25, 0.5])
@pytest.mark.parametrize("needed", [2, 3])
def test_the_lack_of_fit_is_that_of_a_regression(rate: float, needed: int) -> None:
    """Weighted least squares on all conditions of features that are needed together."""
    X = np.array(list(itertools.product((0.0, 1.0), repeat=needed)))
    mass = np.prod(np.where(X == 1, rate, 1 - rate), axis=1)
    gap = (X.sum(axis=1) == 0).astype(float)
    full = np.column_stack([np.ones(len(X)), X]) * mass[:, None] ** 0.5
    left = gap * mass**0.5 - full @ np.linalg.lstsq(full, gap * mass**0.5, rcond=None)[0]
    assert lack_of_fit(rate, needed) == pytest.approx(np.sum(left**2) ** 0.5, abs=1e-12)


def drawn_conditions(seed: int, factors: int = 8) -> tuple[pl.DataFrame, dict[str, float]]:
    """48 conditions of a mixed design, each met once by both queries; their inclusion chances."""
    names = [f"f{i}" for i in range(factors)]
    design = mixed(dict.fromkeys(names, ("original", "removed")), trials=100_000,
                   rng=np.random.default_rng(seed), random_conditions=48)  # fmt: skip
    assert design.masses is not None
    rows = [
        (query, arm, *(condition[name] for name in names), mass, condition.condition_id)
        for query, arm in itertools.product("ab", ARMS)
        for condition, mass in zip(design.conditions, design.masses, strict=True)
    ]
    schema = ["query_id", "arm", *names, "law", "condition_id"]
    return pl.DataFrame(rows, schema=schema, orient="row"), inclusion(design) or {}


def test_the_draw_of_conditions_moves_effects_as_foreseen() -> None:
    """An inert factor's effect over 40 designs, where three others are needed jointly."""
    effects, variances = [], []
    for seed in range(40):
        frame, chances = drawn_conditions(seed)
        names = [f"f{i}" for i in range(8)]
        checked = observe(frame, factors=names, outcomes=[], weight="law")
        sizes = detectable(checked, Prior(1.0, 0.0), chances)
        variances += [s.sampled for s in sizes if s.term == Term("f7", "removed") and s.sampled]
        needed = pl.all_horizontal(pl.col("f0", "f1", "f2") == "original")
        gap = frame.select(needed & (pl.col("arm") == "train")).to_series().cast(pl.Float64)
        full = np.column_stack(
            [np.ones(frame.height), *((frame[n] == "removed").to_numpy() for n in names)]
        )
        train = (frame["arm"] == "train").to_numpy()
        root = frame["law"].to_numpy() ** 0.5
        fitted = np.linalg.lstsq((full * root[:, None])[train], (gap.to_numpy() * root)[train],
                                 rcond=None)[0]  # fmt: skip
        effects.append(fitted[8])
    assert np.std(effects, ddof=1) == pytest.approx(np.mean(variances) ** 0.5, rel=0.3)


def test_what_all_queries_share_is_aliased() -> None:
    """Conditions of one query each are in the errors by query; those of all queries are not."""
    frame, chances = drawn_conditions(1)
    names = [f"f{i}" for i in range(8)]

    def parts(trials: pl.DataFrame, chances: dict[str, float] | None) -> tuple[float, float]:
        checked = observe(trials, factors=names, outcomes=[], weight="law")
        size = next(
            s
            for s in detectable(checked, Prior(), chances)
            if s.estimand == AVERAGED and s.term == Term("f3", "removed")
        )
        return size.sampled, size.aliased

    # Two queries hold half of each condition's part, twenty a twentieth.
    sampled, aliased = parts(frame, chances)
    assert aliased == pytest.approx(sampled / 2)
    twenty = pl.concat(
        frame.filter(pl.col("query_id") == "a").with_columns(query_id=pl.lit(f"q{i}"))
        for i in range(20)
    )
    assert parts(twenty, chances) == pytest.approx((sampled, sampled * 19 / 20))
    apart = frame.filter(
        (pl.col("condition_id").rank("dense") % 2 == 0) == (pl.col("query_id") == "a")
    )
    assert parts(apart, chances)[1] == pytest.approx(0.0, abs=1e-12)
    assert parts(frame, {}) == (0.0, 0.0)
    assert parts(frame, None)[0] > sampled
