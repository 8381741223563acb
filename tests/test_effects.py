"""Simple and averaged gap effects agree with paired t-tests, group means and loops."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import confint_proportions_2indep

from analysis import fit
from analysis.effects import AVERAGED, SIMPLE

ARMS = ("train", "deploy")
NUMBERS = [
    "estimate",
    "train_part",
    "deploy_part",
    "std_error",
    "statistic",
    "df",
    "p_value",
    "p_holm",
    "q_bh",
    "conf_low",
    "conf_high",
]
Levels = tuple[str | None, ...]


def trials(
    names: Sequence[str],
    conditions: Sequence[Levels],
    *,
    seed: int = 0,
    queries: int = 10,
    times: Sequence[int] = (3, 2),
    unbalanced: bool = False,
    law: Mapping[Levels, float] | None = None,
) -> pl.DataFrame:
    """Every condition in both arms of every query, `times` trials in train and in deploy.

    Rates depend on the query, the arm and on how many levels are away from original; `law` is
    written to the column `law` as a design weight.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for q in range(queries):
        shift = rng.uniform(-0.15, 0.15)
        for levels in conditions:
            changes = sum(level not in ("original", None) for level in levels)
            missing = sum(level is None for level in levels)
            for arm, count in zip(ARMS, times, strict=True):
                rate = 0.2 + shift + (arm == "train") * (0.4 - 0.1 * changes - 0.15 * missing)
                size = int(rng.integers(1, 2 * count + 1)) if unbalanced else count
                for y in rng.random(size) < max(rate, 0):
                    weight = law[levels] if law else 1.0
                    rows.append((f"q{q:02}", arm, *levels, float(y), weight))
    schema = {"query_id": pl.String, "arm": pl.String} | dict.fromkeys(names, pl.String)
    return pl.DataFrame(
        rows, schema=schema | {"complied": pl.Float64, "law": pl.Float64}, orient="row"
    )


def effects_of(frame: pl.DataFrame, factors: Sequence[str], **options: Any) -> pl.DataFrame:
    """The simple and averaged effects of one outcome, with design weights."""
    options = {"weight": "law", "sensitivity": False} | options
    table = fit(frame, factors=factors, outcomes=["complied"], **options).effects
    return table.filter(pl.col("estimand").is_in([SIMPLE, AVERAGED]))


def effect(table: pl.DataFrame, estimand: str, factor: str, level: str) -> dict[str, Any]:
    """The one row of an estimand and a level."""
    return table.row(
        by_predicate=(pl.col("estimand") == estimand)
        & (pl.col("factor") == factor)
        & (pl.col("level") == level),
        named=True,
    )


def rates(
    frame: pl.DataFrame, names: Sequence[str], levels: Levels
) -> dict[tuple[str, str], float]:
    """Mean outcome of a condition in each query and arm, written as a loop."""
    cells: dict[tuple[str, str], list[float]] = {}
    for row in frame.iter_rows(named=True):
        if tuple(row[name] for name in names) == levels and row["complied"] is not None:
            cells.setdefault((row["query_id"], row["arm"]), []).append(row["complied"])
    return {key: sum(values) / len(values) for key, values in cells.items()}


def differences(
    before: Mapping[tuple[str, str], float], after: Mapping[tuple[str, str], float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Per-query changes of train and of deploy, over the queries with all four cells."""
    queries = sorted(
        {q for q, _ in before}
        & {q for q, _ in after}
        & {q for q, arm in before if (q, "train") in after and (q, "deploy") in after}
    )
    queries = [q for q in queries if {(q, "train"), (q, "deploy")} <= before.keys()]
    train, deploy = (np.array([after[q, a] - before[q, a] for q in queries]) for a in ARMS)
    return train, deploy


OFAT = [("original", "original"), ("removed", "original"), ("original", "removed"),
        ("original", "softened")]  # fmt: skip


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    ("factor", "level", "changed"),
    [
        ("tier", "removed", OFAT[1]),
        ("rule", "removed", OFAT[2]),
        ("rule", "softened", OFAT[3]),
    ],
)
def test_a_simple_effect_is_the_t_test_on_differences_of_differences(
    factor: str, level: str, changed: Levels, seed: int
) -> None:
    """Estimate, parts, error, test and bounds over the queries with all four cells."""
    names = ("tier", "rule")
    frame = trials(names, [*OFAT, ("removed", "removed")], seed=seed, unbalanced=True)
    # Holes: one query without the change, another with it in one arm only.
    gone = (pl.col("query_id") == "q03") | (
        (pl.col("query_id") == "q05") & (pl.col("arm") == "deploy")
    )
    is_changed = pl.all_horizontal(
        pl.col(name) == value for name, value in zip(names, changed, strict=True)
    )
    frame = frame.filter(~(gone & is_changed))
    before, after = (rates(frame, names, levels) for levels in (OFAT[0], changed))
    train, deploy = differences(before, after)
    expected = stats.ttest_1samp(train - deploy, 0)
    bounds = expected.confidence_interval(0.95)
    row = effect(effects_of(frame, names), SIMPLE, factor, level)
    assert len(train) == 8 == row["n_clusters"]
    assert row["estimate"] == pytest.approx((train - deploy).mean())
    assert row["train_part"] == pytest.approx(train.mean())
    assert row["deploy_part"] == pytest.approx(deploy.mean())
    assert row["std_error"] == pytest.approx(stats.sem(train - deploy))
    assert row["statistic"] == pytest.approx(expected.statistic)
    assert row["p_value"] == pytest.approx(expected.pvalue)
    assert row["df"] == 7
    assert (row["conf_low"], row["conf_high"]) == pytest.approx((bounds.low, bounds.high))
    assert row["reference"] == "original"
    assert row["contrast"] == "train-deploy"
    used = frame.filter(
        ~pl.col("query_id").is_in(["q03", "q05"]),
        is_changed | ((pl.col("tier") == "original") & (pl.col("rule") == "original")),
    )
    assert row["n_trials"] == used.height


def test_other_conditions_never_touch_a_simple_effect() -> None:
    """Random conditions with two changes, and other levels of the factor, change nothing."""
    names = ("tier", "rule")
    frame = trials(names, OFAT, seed=3)
    more = trials(names, [("removed", "removed"), ("removed", "softened")], seed=4)
    alone = effect(effects_of(frame, names), SIMPLE, "rule", "removed")
    together = effect(effects_of(pl.concat([frame, more]), names), SIMPLE, "rule", "removed")
    assert [together[n] for n in NUMBERS[:7]] == [alone[n] for n in NUMBERS[:7]]


@pytest.mark.parametrize(
    "outcomes",
    [
        {"before": (0.0, 0.0), "after": (0.0, 0.0)},
        {"before": (1.0, 0.0), "after": (0.0, 0.0)},
        {"before": (1.0, 0.0), "after": (1.0, 0.0)},
        {"before": (1.0, 1.0), "after": (0.0, 1.0)},
    ],
)
def test_without_variance_a_simple_effect_has_an_interval_and_no_test(
    outcomes: Mapping[str, tuple[float, float]],
) -> None:
    """Never p = 0: bounds are recovered from Newcombe's of both gaps (Zou and Donner 2008)."""
    names = ("f",)
    frame = trials(names, [("original",), ("removed",)], queries=6, times=(4, 3))
    values = pl.lit(0.0)
    for level, key in (("original", "before"), ("removed", "after")):
        for arm, value in zip(ARMS, outcomes[key], strict=True):
            here = (pl.col("f") == level) & (pl.col("arm") == arm)
            values = pl.when(here).then(value).otherwise(values)
    row = effect(effects_of(frame.with_columns(complied=values), names), SIMPLE, "f", "removed")
    gap, low, high = {}, {}, {}
    for key, (one, zero) in outcomes.items():
        gap[key] = one - zero
        low[key], high[key] = confint_proportions_2indep(
            24 * one, 24, 18 * zero, 18, method="newcomb"
        )
    change = gap["after"] - gap["before"]
    down = np.hypot(gap["after"] - low["after"], high["before"] - gap["before"])
    up = np.hypot(high["after"] - gap["after"], gap["before"] - low["before"])
    assert row["estimate"] == pytest.approx(change)
    assert (row["conf_low"], row["conf_high"]) == pytest.approx((change - down, change + up))
    assert [row[n] for n in ("std_error", "statistic", "df", "p_value", "p_holm")] == [None] * 5
    assert row["note"] == "boundary"


def test_bounds_without_variance_come_from_the_common_queries_alone() -> None:
    """Queries that never saw the change, with another gap, do not enter the interval."""
    frame = trials(("f",), [("original",), ("removed",)], queries=6, times=(4, 3))
    known = pl.col("query_id") < "q04"
    train = (pl.col("arm") == "train") & (pl.col("f") == "original") & known
    frame = frame.with_columns(complied=train.cast(pl.Float64))
    few = frame.filter(known)
    more = frame.filter(known | (pl.col("f") == "original"))
    one, two = (effect(effects_of(f, ["f"]), SIMPLE, "f", "removed") for f in (few, more))
    assert one["n_clusters"] == two["n_clusters"] == 4
    assert [two[n] for n in NUMBERS] == [one[n] for n in NUMBERS]
    assert one["conf_low"] is not None


def test_one_query_gives_a_simple_effect_without_a_test() -> None:
    """With one query there is an estimate and an interval; averaged effects are not estimable."""
    names = ("f",)
    frame = trials(names, [("original",), ("removed",)], queries=1, times=(9, 9), seed=5)
    table = effects_of(frame, names)
    row = effect(table, SIMPLE, "f", "removed")
    before, after = (rates(frame, names, (level,)) for level in ("original", "removed"))
    train, deploy = differences(before, after)
    assert row["estimate"] == pytest.approx(train[0] - deploy[0])
    assert row["conf_low"] < row["estimate"] < row["conf_high"]
    assert (row["std_error"], row["p_value"]) == (None, None)
    assert row["note"] == "one query"
    averaged = effect(table, AVERAGED, "f", "removed")
    assert averaged["estimate"] is None
    assert "two queries" in averaged["note"]


@pytest.mark.parametrize("lost", [("removed", "train"), ("removed", "deploy"), (None, "deploy")])
def test_a_cell_without_grades_is_listed_and_not_estimable(lost: tuple[str | None, str]) -> None:
    """An all-missing cell leaves a row with a note and no number."""
    level, arm = lost
    here = pl.col("arm") == arm
    if level:
        here &= pl.col("f") == level
    frame = trials(("f",), [("original",), ("removed",)]).with_columns(
        complied=pl.when(here).then(None).otherwise(pl.col("complied"))
    )
    table = effects_of(frame, ["f"])
    for estimand in (SIMPLE, AVERAGED):
        row = effect(table, estimand, "f", "removed")
        assert [row[n] for n in NUMBERS] == [None] * len(NUMBERS)
        assert row["note"].startswith("not estimable")


@pytest.mark.parametrize("estimand", [SIMPLE, AVERAGED])
def test_missing_outcomes_are_as_if_their_trials_were_not_there(estimand: str) -> None:
    """Nulls at random change the table exactly as taking their rows out does."""
    names = ("tier", "rule")
    frame = trials(names, [*OFAT, ("removed", "removed")], times=(5, 5), seed=8)
    hole = pl.int_range(pl.len()) % 6 == 1
    nulled = frame.with_columns(complied=pl.when(hole).then(None).otherwise(pl.col("complied")))
    one, other = (effects_of(f, names) for f in (nulled, frame.filter(~hole)))
    here = pl.col("estimand") == estimand
    assert_same(one.filter(here), other.filter(here))


def assert_same(one: pl.DataFrame, other: pl.DataFrame) -> None:
    """Tables agree, numbers to 1e-9 and everything else exactly."""
    assert one.drop(NUMBERS).equals(other.drop(NUMBERS))
    for name in NUMBERS:
        assert one[name].is_null().equals(other[name].is_null())
    left, right = (t.select(NUMBERS).fill_null(0).to_numpy() for t in (one, other))
    np.testing.assert_allclose(left, right, rtol=1e-7, atol=1e-9)


CROSSED = list(itertools.product(("original", "removed"), repeat=3))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("factor", [0, 1, 2])
def test_an_averaged_effect_of_a_crossed_design_is_a_difference_of_group_means(
    seed: int, factor: int
) -> None:
    """Every condition equally often: the gap with the level minus the gap without, per query.

    Its error is that of the mean over queries, its test the one-sample t on them: with balance
    CR2 and its degrees of freedom are the same.
    """
    names = ("a", "b", "c")
    frame = trials(names, CROSSED, seed=seed, queries=8, times=(4, 2))
    changes = {arm: np.zeros(8) for arm in ARMS}
    for levels in CROSSED:
        sign = 1 if levels[factor] == "removed" else -1
        for (query, arm), rate in rates(frame, names, levels).items():
            changes[arm][int(query[1:])] += sign * rate / 4
    per_query = changes["train"] - changes["deploy"]
    expected = stats.ttest_1samp(per_query, 0)
    row = effect(effects_of(frame, names), AVERAGED, names[factor], "removed")
    assert row["estimate"] == pytest.approx(per_query.mean())
    assert row["train_part"] == pytest.approx(changes["train"].mean())
    assert row["deploy_part"] == pytest.approx(changes["deploy"].mean())
    assert row["std_error"] == pytest.approx(stats.sem(per_query))
    assert row["p_value"] == pytest.approx(expected.pvalue)
    assert row["df"] == pytest.approx(expected.df)
    assert row["n_trials"] == frame.height
    assert row["n_clusters"] == 8


def by_least_squares(
    frame: pl.DataFrame, names: Sequence[str], contrast: Mapping[str, float]
) -> tuple[float, float]:
    """Estimate and CR1 error of a sum of coefficients of `y ~ arm * factors`, all in loops.

    `contrast` maps "train:f=removed", "f=removed", "train" or "" to the weight of that column.
    """
    rows = [r for r in frame.iter_rows(named=True) if r["complied"] is not None]
    terms = sorted({f"{n}={r[n]}" for r in rows for n in names if r[n] not in ("original", None)})
    columns = [*["", *terms], *["train", *(f"train:{t}" for t in terms)]]
    totals: dict[tuple[str, str], float] = {}
    for r in rows:
        key = r["query_id"], r["arm"]
        totals[key] = totals.get(key, 0.0) + r["law"]
    bread = np.zeros((len(columns), len(columns)))
    right = np.zeros(len(columns))
    vectors = []
    for r in rows:
        here = [1.0, *(float(t in [f"{n}={r[n]}" for n in names]) for t in terms)]
        x = np.array(here + [v * (r["arm"] == "train") for v in here])
        w = r["law"] / totals[r["query_id"], r["arm"]]
        vectors.append((x, w, r["query_id"], r["complied"]))
        bread += w * np.outer(x, x)
        right += w * x * r["complied"]
    beta = np.linalg.solve(bread, right)
    scores: dict[str, NDArray[np.float64]] = {}
    for x, w, query, y in vectors:
        scores[query] = scores.get(query, np.zeros(len(columns))) + w * x * (y - x @ beta)
    groups = len(scores)
    meat = sum(np.outer(s, s) for s in scores.values())
    inverse = np.linalg.inv(bread)
    covariance = inverse @ meat @ inverse * groups / (groups - 1)
    c = np.array([contrast.get(name, 0.0) for name in columns])
    return float(c @ beta), float((c @ covariance @ c) ** 0.5)


@pytest.mark.parametrize("seed", range(4))
def test_an_averaged_effect_with_unequal_weights_is_weighted_least_squares(seed: int) -> None:
    """Unbalanced trials with design weights, against normal equations and a sandwich in loops."""
    names = ("a", "b", "c")
    law = {levels: 0.3 + 0.7 * i for i, levels in enumerate(CROSSED)}
    frame = trials(names, CROSSED, seed=seed, queries=21, unbalanced=True, law=law)
    frame = frame.sample(fraction=0.7, seed=seed)
    table = effects_of(frame, names)
    for name in names:
        row = effect(table, AVERAGED, name, "removed")
        term = f"{name}=removed"
        estimate, error = by_least_squares(frame, names, {f"train:{term}": 1})
        deploy, _ = by_least_squares(frame, names, {term: 1})
        assert row["estimate"] == pytest.approx(estimate)
        assert row["std_error"] == pytest.approx(error)
        assert row["deploy_part"] == pytest.approx(deploy)
        assert row["train_part"] == pytest.approx(estimate + deploy)
        groups = frame["query_id"].n_unique()
        assert row["df"] == groups - 1
        assert row["p_value"] == pytest.approx(2 * stats.t.sf(abs(estimate / error), groups - 1))
        reach = stats.t.ppf(0.975, groups - 1) * error
        assert (row["conf_low"], row["conf_high"]) == pytest.approx(
            (estimate - reach, estimate + reach)
        )


def test_multi_level_factors_have_an_averaged_effect_for_each_level() -> None:
    """Three levels crossed with two: each level against the reference, as group means."""
    names = ("a", "b")
    levels = list(itertools.product(("original", "removed", "softened"), ("original", "removed")))
    frame = trials(names, levels, times=(4, 4), seed=6)
    table = effects_of(frame, names)

    def gap(level: str) -> float:
        cells = [rates(frame, names, (level, b)) for b in ("original", "removed")]
        return float(np.mean([c[k] * (1 if k[1] == "train" else -1) for c in cells for k in c]))

    for level in ("removed", "softened"):
        row = effect(table, AVERAGED, "a", level)
        assert row["estimate"] == pytest.approx(2 * (gap(level) - gap("original")))


def test_trials_outside_the_law_enter_no_averaged_effect() -> None:
    """Rows with a null or zero weight count for simple effects alone."""
    names = ("a", "b")
    levels = list(itertools.product(("original", "removed"), repeat=2))
    frame = trials(names, levels, seed=1)
    extra = trials(names, levels, seed=2)
    plain = effects_of(frame, names)
    for outside in (None, 0.0):
        more = extra.with_columns(law=pl.lit(outside, pl.Float64))
        both = effects_of(pl.concat([frame, more]), names)
        averaged = pl.col("estimand") == AVERAGED
        assert_same(both.filter(averaged), plain.filter(averaged))
        simple = effect(both, SIMPLE, "a", "removed")
        assert simple["n_trials"] == 2 * effect(plain, SIMPLE, "a", "removed")["n_trials"]


def test_a_design_without_a_law_has_simple_effects_alone() -> None:
    """All weights null: no averaged row, not even a reference."""
    frame = trials(("f",), [("original",), ("removed",)]).with_columns(law=pl.lit(None, pl.Float64))
    assert effects_of(frame, ["f"])["estimand"].unique().to_list() == [SIMPLE]


def weighted_gap(frame: pl.DataFrame, chosen: pl.Expr) -> float:
    """Gap of the weighted means of the arms over some conditions."""
    means = []
    for arm in ARMS:
        rows = frame.filter(chosen, pl.col("arm") == arm)
        weights = rows["law"].to_numpy()
        means.append(float((weights * rows["complied"].to_numpy()).sum() / weights.sum()))
    return means[0] - means[1]


CHAIN = {
    ("original", "original", "original"): 0.45,
    ("original", "original", "removed"): 0.2,
    ("original", "removed", None): 0.1,
    ("removed", None, None): 0.25,
}


@pytest.mark.parametrize("seed", range(3))
def test_taking_out_a_factor_takes_out_what_needs_it(seed: int) -> None:
    """c needs b, b needs a: each averaged effect is the weighted difference of group means.

    The design is saturated and balanced within queries, so that no model stands between.
    """
    names = ("a", "b", "c")
    frame = trials(names, list(CHAIN), seed=seed, times=(4, 4), law=CHAIN)
    table = effects_of(frame, names)
    for name in names:
        gone = weighted_gap(frame, pl.col(name) == "removed")
        there = weighted_gap(frame, pl.col(name) == "original")
        row = effect(table, AVERAGED, name, "removed")
        assert row["estimate"] == pytest.approx(gone - there)
        assert row["train_part"] - row["deploy_part"] == pytest.approx(row["estimate"])
    assert effect(table, SIMPLE, "a", "removed")["note"] == "takes along b, c"
    assert effect(table, SIMPLE, "b", "removed")["note"] == "takes along c"
    assert effect(table, SIMPLE, "c", "removed")["note"] is None


def test_the_error_of_an_outer_factor_is_that_of_its_sum_of_coefficients() -> None:
    """The shares of the dependant's levels are weights of the contrast."""
    names = ("a", "b")
    law = {("original", "original"): 0.6, ("original", "removed"): 0.15, ("removed", None): 0.25}
    frame = trials(names, list(law), seed=4, times=(4, 3), law=law)
    estimate, error = by_least_squares(
        frame, names, {"train:a=removed": 1, "train:b=removed": -0.15 / 0.75}
    )
    row = effect(effects_of(frame, names), AVERAGED, "a", "removed")
    assert row["estimate"] == pytest.approx(estimate)
    assert row["std_error"] == pytest.approx(error)


def test_a_change_that_brings_a_factor_with_it_brings_its_share() -> None:
    """d applies only where a is monitored: the averaged effect of that level has d in it."""
    names = ("a", "d")
    law = {
        ("original", None): 0.5,
        ("removed", None): 0.1,
        ("monitored", "original"): 0.25,
        ("monitored", "removed"): 0.15,
    }
    frame = trials(names, list(law), seed=2, times=(5, 4), law=law)
    table = effects_of(frame, names)
    there = weighted_gap(frame, pl.col("a") == "original")
    for level in ("removed", "monitored"):
        row = effect(table, AVERAGED, "a", level)
        assert row["estimate"] == pytest.approx(weighted_gap(frame, pl.col("a") == level) - there)
    own = weighted_gap(frame, pl.col("d") == "removed")
    own -= weighted_gap(frame, pl.col("d") == "original")
    assert effect(table, AVERAGED, "d", "removed")["estimate"] == pytest.approx(own)
    before, after = (rates(frame, names, c) for c in (("original", None), ("removed", None)))
    train, deploy = differences(before, after)
    simple = effect(table, SIMPLE, "a", "removed")
    assert simple["estimate"] == pytest.approx((train - deploy).mean())
    assert simple["note"] is None
    assert effect(table, SIMPLE, "d", "removed")["note"].startswith("not estimable")


def with_prompts(frame: pl.DataFrame, names: Sequence[str], alike: pl.Expr) -> pl.DataFrame:
    """A column of prompt ids, the same in both arms where `alike` holds."""
    text = pl.concat_str("query_id", *names, separator="/", ignore_nulls=True)
    arm = pl.when(alike).then(pl.lit("any")).otherwise(pl.col("arm"))
    return frame.with_columns(prompt=pl.concat_str(text, arm, separator="/"))


def test_the_simple_effect_of_a_structural_zero_is_minus_the_baseline_gap() -> None:
    """The arms read the same text, so only the gap before is estimated, and nothing is tested."""
    names = ("cue", "rule")
    frame = trials(names, OFAT, seed=7, unbalanced=True)
    frame = with_prompts(frame, names, pl.col("cue") == "removed")
    table = effects_of(frame, names, prompt="prompt")
    before, after = (rates(frame, names, levels) for levels in (OFAT[0], OFAT[1]))
    gap = np.array([before[f"q{q:02}", "train"] - before[f"q{q:02}", "deploy"] for q in range(10)])
    bounds = stats.ttest_1samp(-gap, 0).confidence_interval(0.95)
    row = effect(table, SIMPLE, "cue", "removed")
    assert row["estimate"] == pytest.approx(-gap.mean())
    assert row["std_error"] == pytest.approx(stats.sem(gap))
    assert (row["conf_low"], row["conf_high"]) == pytest.approx((bounds.low, bounds.high))
    assert (row["p_value"], row["statistic"], row["p_holm"]) == (None, None, None)
    assert "structural_zero" in row["note"]
    # After the change both arms have one rate: the mean of what was seen in either.
    common = np.array([(after[f"q{q:02}", a]) for q in range(10) for a in ARMS]).mean()
    for arm in ARMS:
        rate = np.mean([before[f"q{q:02}", arm] for q in range(10)])
        assert row[f"{arm}_part"] == pytest.approx(common - rate)
    assert row["train_part"] - row["deploy_part"] == pytest.approx(row["estimate"])


def test_the_averaged_effect_of_a_structural_zero_is_minus_the_gap_without_it() -> None:
    """Minus the weighted gap of the conditions that keep the cue, in a saturated design."""
    names = ("cue", "rule")
    conditions = list(itertools.product(("original", "removed"), repeat=2))
    law = dict(zip(conditions, (0.4, 0.3, 0.2, 0.1), strict=True))
    frame = trials(names, conditions[:3], seed=9, times=(6, 4), law=law)
    frame = with_prompts(frame, names, pl.col("cue") == "removed")
    row = effect(effects_of(frame, names, prompt="prompt"), AVERAGED, "cue", "removed")
    assert row["estimate"] == pytest.approx(-weighted_gap(frame, pl.col("cue") == "original"))
    share = 0.3 / 0.7
    estimate, error = by_least_squares(frame, names, {"train": -1, "train:rule=removed": -share})
    assert row["estimate"] == pytest.approx(estimate)
    assert row["std_error"] == pytest.approx(error)
    assert (row["p_value"], row["statistic"], row["p_holm"], row["q_bh"]) == (None,) * 4
    assert row["conf_low"] < row["estimate"] < row["conf_high"]
    assert "structural_zero" in row["note"]
    assert row["train_part"] - row["deploy_part"] == pytest.approx(row["estimate"])
    rate = {
        (cue, arm): (r["law"] * r["complied"]).sum() / r["law"].sum()
        for cue in ("original", "removed")
        for arm in ARMS
        for r in [frame.filter(pl.col("cue") == cue, pl.col("arm") == arm)]
    }
    # The level alone, with rule at its original, and the rule averaged away.
    rule, _ = by_least_squares(frame, names, {"rule=removed": share, "train:rule=removed": share})
    rule_deploy, _ = by_least_squares(frame, names, {"rule=removed": share})
    after = (rate["removed", "train"] + rule + rate["removed", "deploy"] + rule_deploy) / 2
    assert row["deploy_part"] == pytest.approx(after - rate["original", "deploy"])
    assert row["train_part"] == pytest.approx(after - rate["original", "train"])


def test_a_structural_zero_without_variance_has_newcombes_bounds_turned_round() -> None:
    """A baseline gap of 3/4 in every query: the effect is -3/4 within minus the gap's bounds."""
    names = ("cue",)
    frame = trials(names, [("original",), ("removed",)], queries=5, times=(4, 4))
    nth = pl.int_range(pl.len()).over("query_id", "arm", "cue")
    frame = with_prompts(frame, names, pl.col("cue") == "removed").with_columns(
        complied=((pl.col("arm") == "train") & (nth > 0)).cast(pl.Float64)
    )
    low, high = confint_proportions_2indep(15, 20, 0, 20, method="newcomb")
    row = effect(effects_of(frame, names, prompt="prompt"), SIMPLE, "cue", "removed")
    assert row["estimate"] == pytest.approx(-0.75)
    assert (row["conf_low"], row["conf_high"]) == pytest.approx((-high, -low))
    assert (row["std_error"], row["p_value"]) == (None, None)
    assert row["note"] == "structural_zero; boundary"


@pytest.mark.parametrize("arms", [ARMS, ("train",), ("deploy",)])
def test_a_level_seen_in_one_query_is_estimated_and_not_tested(arms: Sequence[str]) -> None:
    """The fit goes through a lone query, so that its sandwich is blind to it: no error, no p."""
    names = ("a", "b")
    conditions = list(itertools.product(("original", "removed"), repeat=2))
    frame = trials(names, conditions, seed=1, unbalanced=True).filter(
        (pl.col("b") == "original") | (pl.col("query_id") == "q02") | ~pl.col("arm").is_in(arms)
    )
    table = effects_of(frame, names)
    estimate, _ = by_least_squares(frame, names, {"train:b=removed": 1})
    row = effect(table, AVERAGED, "b", "removed")
    assert row["estimate"] == pytest.approx(estimate)
    assert [row[n] for n in NUMBERS[3:]] == [None] * 8
    assert row["note"] == "one query"
    assert effect(table, SIMPLE, "b", "removed")["note"] == "one query"
    assert effect(table, AVERAGED, "a", "removed")["p_value"] is not None
    coefficients = fit(frame, factors=names, outcomes=["complied"]).coefficients
    lone = coefficients.filter(
        pl.col("term").str.contains("b[removed]", literal=True) & (pl.col("fit") == "lpm")
    )
    assert [note.split("; ")[0] for note in lone["note"]] == ["one query"] * 2
    assert lone["p_value"].null_count() == 2
    assert lone["estimate"].null_count() == 0


def test_without_prompt_ids_nothing_is_a_structural_zero() -> None:
    """The same table without its prompts tests every level."""
    names = ("cue", "rule")
    table = effects_of(trials(names, OFAT, seed=7), names)
    tested = table.filter(pl.col("note").ne_missing("reference"), pl.col("estimand") == SIMPLE)
    assert tested["p_value"].null_count() == 0


@given(seed=st.integers(0, 10_000), unbalanced=st.booleans())
@settings(max_examples=15, deadline=None)
def test_the_parts_of_every_effect_add_up(seed: int, unbalanced: bool) -> None:
    """train_part - deploy_part is the estimate, structural zeros included."""
    names = ("cue", "rule")
    conditions = [*OFAT, ("removed", "removed"), ("removed", "softened")]
    frame = trials(names, conditions, seed=seed, unbalanced=unbalanced, queries=5)
    frame = with_prompts(frame, names, pl.col("cue") == "removed")
    table = effects_of(frame, names, prompt="prompt").filter(pl.col("train_part").is_not_null())
    assert table.height == 6
    difference = (table["train_part"] - table["deploy_part"] - table["estimate"]).abs()
    assert difference.max() < 1e-9


@pytest.mark.parametrize("primary", [SIMPLE, AVERAGED])
def test_holm_runs_over_the_primary_rows_and_bh_over_the_others(primary: str) -> None:
    """Families are what statsmodels makes of the tested rows of one estimand."""
    names = ("a", "b", "c")
    frame = with_prompts(trials(names, CROSSED, seed=5), names, pl.col("c") == "removed")
    table = effects_of(frame, names, primary=primary, prompt="prompt")
    other = AVERAGED if primary == SIMPLE else SIMPLE
    for estimand, column, absent, method in (
        (primary, "p_holm", "q_bh", "holm"),
        (other, "q_bh", "p_holm", "fdr_bh"),
    ):
        rows = table.filter(pl.col("estimand") == estimand)
        tested = rows.filter(pl.col("p_value").is_not_null())
        assert tested.select("factor", "level").rows() == [("a", "removed"), ("b", "removed")]
        expected = multipletests(tested["p_value"].to_numpy(), method=method)[1]
        np.testing.assert_allclose(tested[column].to_numpy(), expected)
        assert rows[absent].null_count() == rows.height
        untested = rows.filter(pl.col("p_value").is_null())
        assert untested[column].null_count() == untested.height == 4


def test_families_do_not_reach_over_models_or_outcomes() -> None:
    """Each model and outcome has a Holm family of its own."""
    names = ("tier", "rule")
    frame = pl.concat(
        trials(names, OFAT, seed=s).with_columns(model=pl.lit(m)) for s, m in ((1, "x"), (2, "y"))
    ).with_columns(refused=1 - pl.col("complied"))
    table = fit(frame, factors=names, outcomes=["complied", "refused"]).effects
    families = table.filter(
        pl.col("estimand") == SIMPLE,
        pl.col("role") == "primary",
        pl.col("p_value").is_not_null(),
    )
    assert families.height == 2 * 2 * 3
    for _, family in families.group_by("model", "outcome"):
        expected = multipletests(family["p_value"].to_numpy(), method="holm")[1]
        np.testing.assert_allclose(family["p_holm"].to_numpy(), expected)


def test_the_reference_row_stands_first_and_has_no_other_number() -> None:
    """Estimate 0, other numbers null, note `reference`, for every factor and estimand."""
    names = ("tier", "rule")
    table = effects_of(trials(names, OFAT, seed=1), names, grader="rules/v1")
    for (_, factor), rows in table.group_by("estimand", "factor", maintain_order=True):
        first = rows.row(0, named=True)
        assert first["level"] == first["reference"] == "original"
        assert first["estimate"] == 0
        assert first["note"] == "reference"
        assert [first[n] for n in [*NUMBERS[1:], "n_trials", "n_clusters"]] == [None] * 12
        assert rows["reference"].unique().to_list() == ["original"]
        levels = (
            ["original", "removed"] if factor == "tier" else ["original", "removed", "softened"]
        )
        assert rows["level"].to_list() == levels
    assert table["grader"].unique().to_list() == ["rules/v1"]
    assert table["correction"].unique().to_list() == ["raw"]
    assert table["role"].unique().to_list() == ["primary"]


def test_no_number_is_nan() -> None:
    """Missing is null in a table with boundaries, holes and untested rows."""
    names = ("cue", "rule")
    frame = with_prompts(trials(names, OFAT, seed=7), names, pl.col("cue") == "removed")
    frame = frame.with_columns(
        complied=pl.when(pl.col("rule") == "removed").then(0.0)
        .when(pl.col("rule") == "softened").then(None)
        .otherwise(pl.col("complied"))
    )  # fmt: skip
    table = effects_of(frame, names, prompt="prompt")
    for name in NUMBERS:
        assert table[name].drop_nulls().is_finite().all()


@pytest.mark.parametrize("estimand", [SIMPLE, AVERAGED])
def test_levels_may_be_called_anything(estimand: str) -> None:
    """Other names for the levels, the reference aside, permute rows and change no number."""
    names = ("tier", "rule")
    frame = trials(names, [*OFAT, ("removed", "removed")], seed=3, unbalanced=True)
    new = {"removed": "zz gone", "softened": "aa[soft]"}
    other = frame.with_columns(pl.col("rule").replace(new), pl.col("tier").replace(new))
    one, two = (effects_of(f, names).filter(pl.col("estimand") == estimand) for f in (frame, other))
    back = two.with_columns(pl.col("level").replace({v: k for k, v in new.items()}))
    assert back["level"].to_list() != one["level"].to_list()
    assert_same(back.sort("factor", "level"), one.sort("factor", "level"))


def test_factors_in_another_order_give_the_same_rows_in_that_order() -> None:
    """The list of factors orders rows and nothing else."""
    names = ("tier", "rule")
    frame = trials(names, [*OFAT, ("removed", "removed")], seed=3, unbalanced=True)
    one, two = (effects_of(frame, order) for order in (names, names[::-1]))
    keys = ["estimand", "factor", "level"]
    assert_same(one.sort(keys), two.sort(keys))
    assert two["factor"].to_list()[0] == "rule"


def test_a_factor_whose_name_begins_another_is_kept_apart() -> None:
    """`tier`, `tier_rule` and `tier_rule[removed]` are three factors with their own effects."""
    names = ("a", "b", "c")
    frame = trials(names, CROSSED, seed=2, unbalanced=True)
    new = dict(zip(names, ("tier", "tier_rule", "tier_rule[removed]"), strict=True))
    one = effects_of(frame, names).with_columns(pl.col("factor").replace(new))
    assert_same(effects_of(frame.rename(new), list(new.values())), one)


def test_duplicated_trials_do_not_sharpen_anything() -> None:
    """Every trial written twice: twice the trials, the same estimates, errors and p-values."""
    names = ("a", "b", "c")
    frame = trials(names, CROSSED, seed=4, unbalanced=True)
    once, twice = (effects_of(f, names) for f in (frame, pl.concat([frame, frame])))
    assert_same(twice.drop("n_trials"), once.drop("n_trials"))
    assert twice["n_trials"].drop_nulls().to_list() == [
        2 * n for n in once["n_trials"].drop_nulls()
    ]


@pytest.mark.parametrize(("queries", "sizes"), [(6, (20, 20)), (20, (3, 3))])
def test_tests_of_no_effect_reject_at_their_nominal_rate(
    queries: int, sizes: tuple[int, int]
) -> None:
    """With gaps that differ between queries and no effect, 5 % tests stay at 5 %."""
    rng = np.random.default_rng(queries)
    frames = []
    for study in range(250):
        rate = {"train": rng.beta(2, 3, queries), "deploy": rng.beta(1, 9, queries)}
        shift = rng.normal(0, 0.08, queries)
        for (level, arm), size in zip(
            itertools.product(("original", "removed"), ARMS), sizes * 2, strict=True
        ):
            p = rate[arm] + (shift if (level, arm) == ("removed", "train") else 0)
            count = rng.binomial(size, np.clip(p, 0, 1))
            # One row holds the share of its cell: the tests see query means only.
            frames.append(
                pl.DataFrame({"complied": count / size}).with_columns(
                    model=pl.lit(f"{study}"),
                    query_id=pl.int_range(queries).cast(pl.String),
                    arm=pl.lit(arm),
                    f=pl.lit(level),
                )
            )
    table = fit(pl.concat(frames), factors=["f"], outcomes=["complied"], sensitivity=False).effects
    for estimand in (SIMPLE, AVERAGED):
        p = table.filter(pl.col("estimand") == estimand)["p_value"].drop_nulls()
        assert len(p) == 250
        assert (p < 0.05).mean() <= 0.05 + 2 * (0.05 * 0.95 / 250) ** 0.5
        assert (p < 0.5).mean() == pytest.approx(0.5, abs=3 * 0.5 / 250**0.5)
