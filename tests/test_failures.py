"""The failure table: where a common analysis gives a wrong answer, this one says what it knows."""

import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import polars as pl
import pytest
import statsmodels.api as sm
from scipy import stats

from analysis import Results, fit
from analysis.claims import NO_GAP, Claim, verdicts
from analysis.estimates import AVERAGED, INTERACTION, MARGINAL, SIMPLE
from analysis.judges import corrected_gap, correction, rogan_gladen, validation
from analysis.missing import effect_bounds, gap_bounds, missing_between_arms, missing_rates
from analysis.observations import observe

ARMS = ("train", "deploy")
LEVELS = ("original", "removed")
CROSSED = list(itertools.product(LEVELS, repeat=2))
Levels = tuple[str | None, ...]


def trials(
    conditions: Iterable[Levels] = CROSSED,
    *,
    seed: int = 0,
    queries: int = 20,
    times: int = 4,
    train: float = 0.5,
    deploy: float = 0.1,
    effect: float = 0.1,
    wordings: int = 0,
) -> pl.DataFrame:
    """Trials of every condition, arm and query; each change takes `effect` from the train rate."""
    rng = np.random.default_rng(seed)
    rows = []
    for q, at, arm, i in itertools.product(range(queries), conditions, ARMS, range(times)):
        changes = sum(level == "removed" for level in at)
        rate = deploy if arm == "deploy" else train - effect * changes + 0.01 * (q % 5)
        rows.append((f"q{q:02}", arm, *at, f"w{i % max(wordings, 1)}", float(rng.random() < rate)))
    names = ["query_id", "arm", *"abcdefgh"[: len(rows[0]) - 4], "wording_id", "complied"]
    kinds: dict[str, Any] = {n: pl.Float64 if n == "complied" else pl.String for n in names}
    return pl.DataFrame(rows, schema=kinds, orient="row")


def fitted(frame: pl.DataFrame, factors: str = "ab", **options: Any) -> Results:
    return fit(frame, factors=list(factors), outcomes=["complied"], **options)


def row(table: pl.DataFrame, **wanted: Any) -> dict[str, Any]:
    """The one row with these values, of the primary role where there is one."""
    if "role" in table.columns:
        wanted = {"role": "primary"} | wanted
    return table.row(
        by_predicate=pl.all_horizontal(pl.col(k) == v for k, v in wanted.items()), named=True
    )


# deploy all 0


def test_deploy_at_zero_has_a_test_of_the_rates_and_firths_profile() -> None:
    """Wald's test of the logit finds nothing there; neither of ours is blind."""
    frame = trials(deploy=0.0)
    at = frame.filter(pl.col("a") == "original", pl.col("b") == "original")
    X = sm.add_constant((at["arm"] == "train").cast(pl.Float64).to_numpy())
    with np.errstate(all="ignore"):
        wald = sm.GLM(at["complied"].to_numpy(), X, family=sm.families.Binomial()).fit()
    assert wald.pvalues[1] > 0.9
    results = fitted(frame)
    gap = row(results.gaps, condition="original")
    assert gap["rate_deploy"] == 0
    assert gap["conf_low"] > 0.3
    arm = results.coefficients.filter(pl.col("term") == "arm[train]")
    assert arm["fit"].to_list() == ["lpm", "firth"]
    assert all("separated" in note for note in arm["note"])
    assert (arm["p_value"] < 1e-6).all()
    assert arm["conf_low"][1] > 0
    assert math.isfinite(arm["estimate"][1])
    assert "logit" not in results.coefficients["fit"]
    effect = row(results.effects, estimand=AVERAGED, factor="a", level="removed")
    assert effect["p_value"] < 0.05
    assert effect["std_error"] > 0


def test_nobody_complies_anywhere_and_no_p_value_is_zero() -> None:
    """No variance at all: bounds from Newcombe, and no test."""
    results = fitted(trials(train=0.0, deploy=0.0, effect=0.0).with_columns(complied=0.0))
    gap = row(results.gaps, condition="original")
    assert (gap["gap"], gap["std_error"]) == (0, None)
    assert -0.1 < gap["conf_low"] < 0 < gap["conf_high"] < 0.1
    assert results.effects["p_value"].drop_nulls().is_empty()
    assert results.effects["std_error"].drop_nulls().is_empty()


# 6 queries


def test_six_queries_have_t_with_five_degrees_and_listed_sign_changes() -> None:
    """A z test of independent trials says p of order 1e-5; no sign change can say below 2/64."""
    frame = trials(queries=6, times=30, effect=0.4)
    # The effect is of one sign in every query.
    results = fitted(frame)
    effect = row(results.effects, estimand=SIMPLE, factor="a", level="removed")
    assert effect["df"] == 5
    reach = (effect["conf_high"] - effect["estimate"]) / effect["std_error"]
    assert reach == pytest.approx(stats.t.ppf(0.975, 5))
    boots = results.effects.filter(
        pl.col("method") == "wild cluster bootstrap, all 64 sign changes"
    )
    assert boots.height == 4
    assert boots["p_value"].min() == 2 / 64
    assert (boots["p_value"] * 64 % 2 == 0).all()
    naive = sm.stats.proportions_ztest(
        *zip(*(
            (cell.sum(), len(cell))
            for cell in (
                frame.filter(a=level, b="original", arm="train")["complied"] for level in LEVELS
            )
        ), strict=True)
    )  # fmt: skip
    assert naive[1] < 1e-5


def test_five_queries_have_no_bootstrap() -> None:
    """Its p-value could not be below 1/16."""
    methods = fitted(trials(queries=5)).effects["method"].drop_nulls()
    assert not methods.str.contains("bootstrap").any()


# 1 wording


def test_one_wording_is_said_to_be_confounded_with_the_feature() -> None:
    """In the table of spreads; the error is by queries alone."""
    results = fitted(trials(wordings=1), wording="wording_id")
    (said,) = results.spreads.rows(named=True)
    assert said["n_wordings"] == 1
    assert "confounded" in said["note"]
    assert said["sd"] is said["next_low"] is None
    assert "two-way" not in "".join(results.effects["method"].drop_nulls())


def test_few_wordings_speak_of_themselves_alone() -> None:
    """Two to four: no error for other wordings, and a note with the number there is."""
    results = fitted(trials(wordings=3, times=6), wording="wording_id")
    assert results.spreads.height == 3
    assert all("these wordings only" in note for note in results.spreads["note"])
    assert "two-way" not in "".join(results.effects["method"].drop_nulls())


def test_a_wording_of_its_own_in_each_arm_has_no_gap_of_a_wording() -> None:
    """Arm and wording cannot be told apart: no wording has a gap, and the row says so."""
    frame = trials().with_columns(wording_id=pl.col("arm"))
    said = fitted(frame, wording="wording_id").spreads
    assert said["n_wordings"].to_list() == [0] * 3
    assert said["note"].unique().to_list() == ["no query in all cells of a wording"]


def test_five_wordings_enter_the_error() -> None:
    """From five on the error is two-way and its t that of the smaller number."""
    results = fitted(trials(wordings=5, times=10), wording="wording_id")
    tested = results.effects.filter(pl.col("estimand").is_in([SIMPLE, AVERAGED]), pl.col("df") == 4)
    assert tested.filter(pl.col("role") == "primary").height == 4


# cell n = 0 or all missing


@pytest.mark.parametrize("kept", [False, True])
def test_a_cell_without_outcomes_is_listed_and_not_estimable(kept: bool) -> None:
    """No trials, or none graded: its rows are there with a note and without a number."""
    frame = trials()
    cell = (pl.col("a") == "removed") & (pl.col("b") == "original") & (pl.col("arm") == "deploy")
    lost = frame.filter(~cell)
    if kept:
        lost = frame.with_columns(complied=pl.when(cell).then(None).otherwise(pl.col("complied")))
    results = fitted(lost)
    listed = row(results.gaps, condition="a=removed")
    assert (listed["gap"], listed["note"]) == (None, "no query in both arms")
    effect = row(results.effects, estimand=SIMPLE, factor="a", level="removed")
    assert effect["estimate"] is effect["p_value"] is None
    assert effect["note"].startswith("not estimable")
    if kept:
        checked = observe(lost, factors=["a", "b"], outcomes=["complied"])
        rates = missing_rates(checked.frame, "complied").filter(pl.col("note").is_not_null())
        assert rates.select("arm", "rate", "note").rows() == [("deploy", 1.0, "all missing")]


# missing outcomes


def test_missing_outcomes_are_reported_and_bounded() -> None:
    """More in one arm: rate per cell, a test between arms, and bounds that hold the truth."""
    frame = trials(times=10, seed=4)
    # What is missing is compliance in deploy: the complete cases flatter the gap.
    rng = np.random.default_rng(0)
    lost = (
        (pl.col("arm") == "deploy")
        & (pl.col("complied") == 1)
        & (pl.Series(rng.random(frame.height)) < 0.8)
    )
    seen = frame.with_columns(complied=pl.when(lost).then(None).otherwise(pl.col("complied")))
    checked = observe(seen, factors=["a", "b"], outcomes=["complied"])
    truth = row(fitted(frame).gaps, condition="original")["gap"]
    complete = row(fitted(seen).gaps, condition="original")["gap"]
    here = checked.frame.filter(pl.col("a") == "original", pl.col("b") == "original")
    after = checked.frame.filter(pl.col("a") == "removed", pl.col("b") == "original")
    bounds = gap_bounds(here, "complied")
    assert bounds is not None
    assert bounds.needed
    assert bounds.low - 1e-9 < truth < complete < bounds.high
    differ = missing_between_arms(checked.frame, "complied")
    assert differ is not None
    assert differ.p_value is not None
    assert differ.p_value < 0.001
    rates = missing_rates(checked.frame, "complied")
    assert rates.height == 8
    assert rates.filter(pl.col("arm") == "train")["rate"].to_list() == [0.0] * 4
    assert (rates.filter(pl.col("arm") == "deploy")["rate"] > 0).all()
    change = effect_bounds(after, here, "complied")
    whole = row(fitted(frame).effects, estimand=SIMPLE, factor="a", level="removed")["estimate"]
    assert change is not None
    assert change.low <= whole <= change.high


# one-at-a-time data, interaction asked; 2^(8-4) interactions


def test_one_at_a_time_data_have_no_interaction() -> None:
    """Two changes were never seen together: there is nothing to extrapolate from."""
    results = fitted(
        trials([("original", "original"), ("removed", "original"), ("original", "removed")])
    )
    assert results.effects.filter(pl.col("estimand") == INTERACTION).is_empty()
    simple = results.effects.filter(pl.col("estimand") == SIMPLE, pl.col("role") == "primary")
    assert simple["p_value"].drop_nulls().len() == 2


def test_a_fraction_reports_alias_groups_and_no_single_interaction() -> None:
    """2^(8-4): every one of 28 stands for four, and names the three others."""
    runs = [
        (*x, x[1] ^ x[2] ^ x[3], x[0] ^ x[2] ^ x[3], x[0] ^ x[1] ^ x[2], x[0] ^ x[1] ^ x[3])
        for x in itertools.product((0, 1), repeat=4)
    ]
    frame = trials([tuple(LEVELS[i] for i in run) for run in runs], queries=4, times=1)
    table = fitted(frame, "abcdefgh").effects.filter(pl.col("estimand") == INTERACTION)
    assert table.height == 28
    assert table["estimate"].null_count() == table["p_value"].null_count() == 28
    groups: set[frozenset[str]] = set()
    for each in table.iter_rows(named=True):
        others = each["note"].removeprefix("not estimable: aliased with ").split(", ")
        own = f"{each['factor']}=removed x {each['factor2']}=removed"
        groups.add(frozenset([own, *others]))
    assert sorted(map(len, groups)) == [4] * 7
    assert len(set.union(*map(set, groups))) == 28


# judge with specificity .96, deploy truly 0


def test_a_judge_of_specificity_96_has_its_deploy_rate_corrected() -> None:
    """Nobody complied in deploy; the judge says 4 %, and its labels say why."""
    rows = []
    for q, i in itertools.product(range(20), range(20)):
        # One in 25 of what was no compliance is called so; every fifth trial was labelled.
        wrong = (q * 20 + i) % 25 == 0
        rows.append((f"q{q}", "deploy", float(wrong), 0.0 if i % 5 == q % 5 else None))
        true = (3 * q + i) % 10 < 4
        said = 1.0 if true else float((7 * q + i) % 25 == 0)
        rows.append((f"q{q}", "train", said, float(true) if i % 5 == q % 5 else None))
    frame = pl.DataFrame(rows, schema=["query", "arm", "complied", "human"], orient="row")
    raw = frame.filter(pl.col("arm") == "deploy")["complied"].mean()
    assert raw == pytest.approx(0.04)
    sample = validation(frame, "complied", "human")
    found = rogan_gladen(sample, "deploy")
    assert found.estimate is None  # no label of deploy is positive: its sensitivity is not known
    values = correction(sample, "difference").values
    assert values[~sample.train].mean() == pytest.approx(0, abs=0.01)
    gap = corrected_gap(sample)
    true_train = float(np.mean([(3 * q + i) % 10 < 4 for q in range(20) for i in range(20)]))
    assert gap.low is not None
    assert gap.high is not None
    assert gap.low < true_train < gap.high
    assert gap.estimate == pytest.approx(true_train, abs=0.02)


# a model with no gap


def test_a_model_without_a_gap_has_claims_that_are_not_tested() -> None:
    """Every removal would be "irrelevant" there, because nothing is left to move."""
    frame = trials(train=0.1, deploy=0.1, effect=0.0, times=20, queries=40, seed=3)
    results = fitted(frame)
    effect = row(results.effects, estimand=SIMPLE, factor="a", level="removed")
    # An equivalence test alone would be content.
    assert -0.1 < effect["conf_low"] < effect["conf_high"] < 0.1
    claims = [
        Claim(kind, f"a is {kind}", kind, "a", "removed")
        for kind in ("irrelevant", "eliminates", "reduces", "increases")
    ]
    found = verdicts(results.effects, results.gaps, claims, 0.05)
    assert found["verdict"].to_list() == ["not tested"] * 4
    assert found["reason"].unique().to_list() == [NO_GAP]


# a factor whose removal takes a dependant along


def test_a_removal_that_takes_another_factor_along_is_the_effect_of_both() -> None:
    """b needs a: the row says so, and the averaged effect is that of the closure."""
    conditions: list[Levels] = [
        ("original", "original"),
        ("original", "removed"),
        ("removed", None),
    ]
    rates = {"train": [0.6, 0.4, 0.1], "deploy": [0.1, 0.1, 0.1]}
    rows = [
        (f"q{q}", arm, *at, rates[arm][c] + 0.02 * (-1) ** q * (c + 1) * (arm == "train"))
        for q, (c, at), arm in itertools.product(range(6), enumerate(conditions), ARMS)
    ]
    frame = pl.DataFrame(rows, schema=["query_id", "arm", "a", "b", "complied"], orient="row")
    table = fitted(frame).effects
    simple = row(table, estimand=SIMPLE, factor="a", level="removed")
    assert simple["note"] == "takes along b"
    assert simple["estimate"] == pytest.approx((0.1 - 0.1) - (0.6 - 0.1))
    averaged = row(table, estimand=AVERAGED, factor="a", level="removed")
    # With a there, b is at its original half of the time.
    assert averaged["estimate"] == pytest.approx(0 - (0.5 + 0.3) / 2)
    inner = row(table, estimand=AVERAGED, factor="b", level="removed")
    assert inner["estimate"] == pytest.approx(0.3 - 0.5)
    assert row(table, estimand=MARGINAL, factor="b", level="removed")["estimate"] == pytest.approx(
        0.3
    )


# an inert feature under `mixed`


def enumerated(k: int, rate: float, gap: Mapping[bool, float]) -> pl.DataFrame:
    """All conditions with their exact rates: singles and the original more often than the law says.

    The gap is there while the first three are at their original; the others are inert. `law` is
    the probability of the condition over how often it is in the table.
    """
    rows = []
    for at in itertools.product((0, 1), repeat=k):
        probability = math.prod(rate if x else 1 - rate for x in at)
        times = 12 if sum(at) <= 1 else 1
        there = gap[not any(at[:3])]
        for arm, q in itertools.product(ARMS, range(2)):
            y = 0.1 + there * (arm == "train") + 0.01 * q
            row = (f"q{q}", arm, *(LEVELS[x] for x in at), probability / times, y)
            rows += [row] * times
    names = ["query_id", "arm", *"abcdefgh"[:k], "law", "complied"]
    return pl.DataFrame(rows, schema=names, orient="row")


def test_an_inert_feature_has_no_averaged_effect_under_a_mixed_design() -> None:
    """Three jointly needed of eight: weights give exactly 0, the pooled table does not."""
    frame = enumerated(8, 0.25, {True: 0.4, False: 0.0})
    table = fitted(frame, "abcdefgh", weight="law").effects
    for factor in "defgh":
        averaged = row(table, estimand=AVERAGED, factor=factor, level="removed")
        assert averaged["estimate"] == pytest.approx(0, abs=1e-12)
    # Each of the three needed: the gap is there while the two others are.
    for factor in "abc":
        averaged = row(table, estimand=AVERAGED, factor=factor, level="removed")
        assert averaged["estimate"] == pytest.approx(-0.4 * 0.75**2)
        assert row(table, estimand=SIMPLE, factor=factor, level="removed")[
            "estimate"
        ] == pytest.approx(-0.4)
    pooled = table.filter(
        pl.col("role") == "sensitivity",
        pl.col("method").str.starts_with("linear probability without weights"),
        pl.col("factor").is_in(list("defgh")),
    )
    assert pooled.height == 5
    assert (pooled["estimate"].abs() > 0.001).all()
