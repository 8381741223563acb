"""Verdicts: the table of kinds, its p-values, what is not tested, and how often it is wrong."""

from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy import optimize, stats
from statsmodels.stats.multitest import multipletests

from analysis.claims import (
    KINDS,
    NO_GAP,
    VERDICTS,
    BoundedReading,
    Claim,
    ClaimError,
    Readings,
    TReading,
    p_values,
    verdicts,
)
from analysis.effects import AVERAGED, EFFECTS
from analysis.gaps import GAPS

MARGIN = 0.05
DF = 47.0


def effect(estimate: float | None, std_error: float | None, **changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(EFFECTS)
    row |= {"model": "m", "outcome": "complied", "contrast": "train-deploy", "role": "primary"}
    row |= {"estimand": "gap_effect_simple", "factor": "f", "level": "removed", "df": DF}
    return row | {"estimate": estimate, "std_error": std_error} | changes


def gap(value: float | None, std_error: float | None, **changes: Any) -> dict[str, Any]:
    """A row of gaps.csv; the bounds are those of Student's t where there is an error."""
    row: dict[str, Any] = dict.fromkeys(GAPS)
    row |= {"model": "m", "outcome": "complied", "contrast": "train-deploy", "n_queries": 48}
    row |= {"condition": "original", "n_train": 480, "n_deploy": 240, "rate_deploy": 0.01}
    row |= {"gap": value, "std_error": std_error, "rate_train": None}
    if value is not None:
        row["rate_train"] = value + 0.01
    if value is not None and std_error:
        reach = stats.t.ppf(0.975, DF) * std_error
        row |= {"conf_low": value - reach, "conf_high": value + reach}
    return row | changes


def after(value: float | None, std_error: float | None, **changes: Any) -> dict[str, Any]:
    return gap(value, std_error, **({"condition": "f=removed"} | changes))


def claim(kind: str, **changes: Any) -> Claim:
    fields: dict[str, Any] = {"claim_id": kind, "sentence": "It does.", "kind": kind}
    return Claim(**(fields | {"factor": "f", "level": "removed"} | changes))


def judged(
    effects: list[dict[str, Any]], gaps: list[dict[str, Any]], *claims: Claim
) -> list[dict[str, Any]]:
    table = verdicts(
        pl.DataFrame(effects, schema=EFFECTS), pl.DataFrame(gaps, schema=GAPS), claims, MARGIN
    )
    assert table.schema == pl.Schema(VERDICTS)
    return table.to_dicts()


BASELINE = gap(0.2, 0.02)

TABLE = {
    # kind, effect and its error, gap left and its error, verdict
    "eliminated": ("eliminates", -0.2, 0.02, 0.0, 0.01, "supported"),
    "a gap is left": ("eliminates", -0.05, 0.02, 0.15, 0.02, "refuted"),
    "nothing has moved": ("eliminates", 0.0, 0.01, 0.06, 0.03, "refuted"),
    "most is gone, the rest is vague": ("eliminates", -0.2, 0.02, 0.0, 0.04, "inconclusive"),
    "little is left, the fall is vague": ("eliminates", -0.1, 0.09, 0.0, 0.01, "inconclusive"),
    "falls": ("reduces", -0.1, 0.02, 0.1, 0.02, "supported"),
    "falls by little": ("reduces", -0.02, 0.005, 0.18, 0.02, "supported"),
    "does not fall": ("reduces", 0.0, 0.01, 0.2, 0.02, "refuted"),
    "grows instead": ("reduces", 0.1, 0.03, 0.3, 0.03, "refuted"),
    "may fall": ("reduces", -0.03, 0.03, 0.17, 0.03, "inconclusive"),
    "grows": ("increases", 0.1, 0.03, 0.3, 0.03, "supported"),
    "does not grow": ("increases", 0.0, 0.01, 0.2, 0.02, "refuted"),
    "falls instead": ("increases", -0.1, 0.02, 0.1, 0.02, "refuted"),
    "may grow": ("increases", 0.03, 0.03, 0.23, 0.03, "inconclusive"),
    "no matter": ("irrelevant", 0.01, 0.01, 0.2, 0.02, "supported"),
    "falls far": ("irrelevant", -0.15, 0.02, 0.05, 0.02, "refuted"),
    "grows far": ("irrelevant", 0.15, 0.02, 0.35, 0.02, "refuted"),
    "may matter": ("irrelevant", 0.0, 0.04, 0.2, 0.04, "inconclusive"),
    "matters, by how much is open": ("irrelevant", -0.07, 0.02, 0.13, 0.02, "inconclusive"),
}


@pytest.mark.parametrize("case", TABLE.values(), ids=TABLE)
def test_each_cell_of_the_table_is_reached(
    case: tuple[str, float, float, float, float, str],
) -> None:
    """Numbers made for a verdict get it, with a reason in words."""
    kind, change, error, left, left_error, wanted = case
    (row,) = judged([effect(change, error)], [BASELINE, after(left, left_error)], claim(kind))
    assert row["verdict"] == wanted
    assert row["reason"]
    assert (row["p_holm"] < 0.05) == (wanted != "inconclusive")
    assert (row["estimate"], row["margin"], row["family"]) == (change, MARGIN, "claims")


def test_the_gap_left_is_judged_with_the_degrees_of_freedom_of_its_bounds() -> None:
    """Five wordings leave four, however many queries there are."""
    error, df = 0.02, 4
    reach = stats.t.ppf(0.975, df) * error
    left = after(0.01, error, conf_low=0.01 - reach, conf_high=0.01 + reach)
    (row,) = judged([effect(-0.19, 0.01)], [BASELINE, left], claim("eliminates"))
    parts = [
        stats.t.sf(0.19 / 0.01, DF),
        stats.t.sf((MARGIN - 0.01) / error, df),
        stats.t.sf((MARGIN + 0.01) / error, df),
    ]
    assert row["p_value"] == pytest.approx(max(parts))
    assert max(parts) > 0.05 > stats.t.sf((MARGIN - 0.01) / error, 47)
    assert row["verdict"] == "inconclusive"


def test_a_fall_that_is_certain_and_small_is_said_to_be_small() -> None:
    """Both findings hold, and the reader is told."""
    rows = [BASELINE, after(0.18, 0.02)]
    (row,) = judged([effect(-0.02, 0.005)], rows, claim("reduces"))
    assert row["reason"] == "the gap falls, by less than the margin"


def test_a_stated_size_must_be_exceeded() -> None:
    """A fall of 10 points supports `by more than 3`, and leaves `by more than 9` open."""
    rows = [BASELINE, after(0.1, 0.02)]
    claims = [claim("reduces", claim_id=str(size), size=size) for size in (0.03, 0.09)]
    found = judged([effect(-0.1, 0.02)], rows, *claims)
    assert [row["verdict"] for row in found] == ["supported", "inconclusive"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("change", "error"), [(-0.2, 0.03), (-0.04, 0.02), (0.0, 0.02), (0.09, 0.03)]
)
@pytest.mark.parametrize(("left", "left_error"), [(0.01, 0.02), (0.09, 0.03)])
@pytest.mark.parametrize("df", [5.0, 47.0])
def test_p_values_are_those_of_the_tests_they_combine(
    kind: str, change: float, error: float, left: float, left_error: float, df: float
) -> None:
    """Against scipy's t distribution, test by test."""
    t = stats.t(df)
    falls, grows = t.cdf(change / error), t.sf(change / error)

    def alike(value: float, spread: float) -> float:
        return max(t.sf((value + MARGIN) / spread), t.cdf((value - MARGIN) / spread))

    above, below = t.sf((change - MARGIN) / error), t.cdf((change + MARGIN) / error)
    remains = t.sf((left - MARGIN) / left_error)
    wanted = {
        "eliminates": (
            max(falls, alike(left, left_error)),
            min(1, 2 * min(remains, alike(change, error))),
        ),
        "reduces": (falls, min(alike(change, error), grows)),
        "increases": (grows, min(alike(change, error), falls)),
        "irrelevant": (alike(change, error), min(1, 2 * min(above, below))),
    }[kind]
    readings = Readings(TReading(change, error, df), TReading(left, left_error, df))
    found = p_values(claim(kind), readings, MARGIN)
    assert [float(p) for p in found] == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("estimate", np.linspace(-0.06, 0.06, 9).tolist())
def test_equivalence_is_the_90_per_cent_interval_within_the_margin(estimate: float) -> None:
    """Two one-sided tests at 5 % and the interval say the same."""
    error = 0.012
    low, high = stats.t.interval(0.9, DF, estimate, error)
    support, _ = p_values(claim("irrelevant"), Readings(TReading(estimate, error, DF)), MARGIN)
    assert (float(support) < 0.05) == (low > -MARGIN and high < MARGIN)


UNTESTED = {
    "lower bound at twice the margin": (
        [effect(0.0, 0.01)], [gap(0.2, 0.02, conf_low=0.1), after(0.2, 0.02)], NO_GAP),
    "no gap": ([effect(0.0, 0.01)], [gap(0.01, 0.01), after(0.01, 0.01)], NO_GAP),
    "no gap, by counts": (
        [effect(0.0, None)], [gap(0.0, None, conf_low=-0.01, conf_high=0.02)], NO_GAP),
    "no original": ([effect(0.0, 0.01)], [after(0.2, 0.02)], "the original prompt was not seen"),
    "level not there": ([effect(0.0, 0.01, level="filler")], [BASELINE], "was not studied"),
    "structural zero": (
        [effect(-0.2, 0.02, note="structural_zero")], [BASELINE, after(0.0, 0.01)],
        "0 by construction"),
    "not estimable": (
        [effect(None, None, note="not estimable: no query was graded in all four cells")],
        [BASELINE, after(0.2, 0.02)], "not estimable: no query"),
    "one query": (
        [effect(-0.2, None, note="one query")], [BASELINE, after(0.0, None)], "one query"),
    "no error and no bounds": (
        [effect(-0.2, None, note="boundary")], [BASELINE, after(0.0, 0.01)],
        "no query differs from another"),
    "an error of 0": (
        [effect(-0.2, 0.0)], [BASELINE, after(0.0, 0.01)], "no query differs from another"),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", UNTESTED.values(), ids=UNTESTED)
def test_what_cannot_be_judged_is_not_tested(kind: str, case: tuple[Any, Any, str]) -> None:
    """The reason is given, and there is no p-value."""
    effects, gaps, reason = case
    (row,) = judged(effects, gaps, claim(kind))
    assert row["verdict"] == "not tested"
    assert reason in row["reason"]
    assert row["p_value"] is None
    assert row["p_holm"] is None


def test_an_averaged_effect_that_is_not_there_is_named() -> None:
    """A design without a law has no averaged rows."""
    (row,) = judged([effect(0.0, 0.01)], [BASELINE], claim("irrelevant", estimand=AVERAGED))
    assert row["verdict"] == "not tested"
    assert "no averaged effect" in row["reason"]


def test_without_the_gap_that_is_left_nothing_is_eliminated() -> None:
    """The reduction alone does not do."""
    (row,) = judged([effect(-0.2, 0.01)], [BASELINE], claim("eliminates"))
    assert row["verdict"] == "not tested"
    assert "was not seen in both arms" in row["reason"]


def wilson_upper(trials: float, z: float) -> float:
    """Upper score bound of a rate of 0: the root of (p - 0)^2 = z^2 p (1 - p) / n."""
    return z * z / (trials + z * z)


@pytest.mark.parametrize("trials", [60, 100, 200, 400])
def test_all_zeros_after_a_change_are_tested_by_their_bounds(trials: int) -> None:
    """The p-value is never below those of the score and the exact test, nor twice the former."""
    reading = BoundedReading(0.0, -wilson_upper(trials, 1.96), wilson_upper(trials, 1.96))
    found = float(reading.below(MARGIN))
    z = optimize.brentq(lambda z: wilson_upper(trials, z) - MARGIN, 0.01, 50)
    assert stats.norm.sf(z) <= found <= 2 * stats.norm.sf(z)
    assert found >= (1 - MARGIN) ** trials
    assert 0 < found < 0.1


def test_trials_of_one_query_are_worth_less_in_bounds_as_in_the_original() -> None:
    """With a design effect of 2 in the original, 200 zeros are about as good as 100 alone."""
    independent = (0.21 * 0.79 / 480 + 0.01 * 0.99 / 240) ** 0.5
    supported = []
    for design_effect, trials in ((1.0, 100), (2.0, 200)):
        high = wilson_upper(trials, 1.96)
        rows = [
            gap(0.2, independent * design_effect**0.5),
            after(0.0, None, conf_low=-high, conf_high=high, note="boundary"),
        ]
        (row,) = judged([effect(-0.2, 0.02)], rows, claim("eliminates"))
        supported.append(row["p_value"])
        assert row["verdict"] == "supported"
    assert supported[0] == pytest.approx(supported[1], rel=0.2)


def test_holm_runs_over_the_family_with_those_that_are_not_tested() -> None:
    """Against statsmodels, the untested claim counted with p = 1."""
    names = ["a", "b", "c", "d"]
    effects = [effect(-0.05, e, factor=n) for n, e in zip(names, (0.02, 0.022, 0.03), strict=False)]
    found = judged(effects, [BASELINE], *(claim("reduces", claim_id=n, factor=n) for n in names))
    alone = [stats.t.cdf(-0.05 / e, DF) for e in (0.02, 0.022, 0.03)]
    assert [row["p_value"] for row in found] == pytest.approx([*alone, None])
    corrected = multipletests([*alone, 1.0], method="holm")[1]
    assert [row["p_holm"] for row in found[:3]] == pytest.approx(corrected[:3])
    assert found[3]["p_holm"] is None


def test_families_and_models_are_corrected_apart() -> None:
    """A claim that came later does not weaken those that were declared, nor does another model."""
    effects = [effect(-0.05, 0.02, model=model) for model in ("m", "n")]
    gaps = [BASELINE, BASELINE | {"model": "n"}]
    claims = [claim("reduces"), claim("increases", exploratory=True)]
    found = judged(effects, gaps, *claims)
    assert [(row["model"], row["family"]) for row in found] == [
        ("m", "claims"), ("m", "exploratory"), ("n", "claims"), ("n", "exploratory")
    ]  # fmt: skip
    assert found[0]["p_holm"] == found[0]["p_value"] == pytest.approx(stats.t.cdf(-2.5, DF))
    assert found[1]["exploratory"] is True


def test_a_claim_has_its_own_margin_and_outcome() -> None:
    """Rows of another outcome, contrast, estimand or role decide nothing."""
    effects = [
        effect(-0.2, 0.01, outcome="af_reasoning"),
        effect(-0.2, 0.01, contrast="deploy-other"),
        effect(-0.2, 0.01, estimand=AVERAGED),
        effect(-0.2, 0.01, role="sensitivity"),
        effect(0.0, 0.025),
    ]
    found = judged(effects, [BASELINE], claim("irrelevant"), claim("irrelevant", margin=0.07))
    assert [(r["estimate"], r["margin"]) for r in found] == [(0.0, 0.05), (0.0, 0.07)]
    assert found[0]["p_value"] > found[1]["p_value"]


WRONG = {
    "kind": ({"kind": "irelevant"}, "there is eliminates, reduces"),
    "later": ({"kind": "fragile"}, "not judged yet"),
    "estimand": ({"kind": "reduces", "estimand": "simple"}, "no estimand"),
    "averaged": ({"kind": "eliminates", "estimand": AVERAGED}, "set the estimand to"),
    "margin": ({"kind": "reduces", "margin": 0.5}, "below 0.5"),
    "negative margin": ({"kind": "reduces", "margin": -0.1}, "above 0"),
    "size": ({"kind": "irrelevant", "size": 0.1}, "only `reduces` and `increases`"),
}


@pytest.mark.parametrize(("fields", "message"), WRONG.values(), ids=WRONG)
def test_a_claim_that_cannot_be_judged_is_refused(fields: dict[str, Any], message: str) -> None:
    """The message names the claim and the mend."""
    with pytest.raises(ClaimError, match="claim `x`") as caught:
        claim(**({"claim_id": "x"} | fields))
    assert message in str(caught.value)


def simulated(
    rng: np.random.Generator, changes: np.ndarray[Any, Any], baseline: float
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows from normal gaps of 40 queries, the original and each change, paired by query."""
    queries = 40
    original = baseline + 0.15 * rng.standard_normal(queries)

    def rows(values: np.ndarray[Any, Any]) -> tuple[float, float]:
        return float(values.mean()), float(values.std(ddof=1) / queries**0.5)

    value, error = rows(original)
    reach = stats.t.ppf(0.975, queries - 1) * error
    bounds = {"n_queries": queries, "conf_low": value - reach, "conf_high": value + reach}
    gaps, effects = [gap(value, error, **bounds)], []
    for i, change in enumerate(changes):
        changed = original + change + 0.1 * rng.standard_normal(queries)
        name = f"f{i}"
        gaps.append(after(*rows(changed), condition=f"{name}=removed", n_queries=queries))
        effects.append(effect(*rows(changed - original), factor=name, df=queries - 1.0))
    return effects, gaps


# The kind, the true change at the border of its null, and the verdict that would be false there.
NULLS = [
    ("reduces", 0.0, "supported"),
    ("increases", 0.0, "supported"),
    ("irrelevant", 0.05, "supported"),
    ("eliminates", -0.25, "supported"),
    ("reduces", -0.05, "refuted"),
    ("increases", 0.05, "refuted"),
    ("irrelevant", -0.05, "refuted"),
    ("eliminates", -0.25, "refuted"),
]


@pytest.mark.parametrize(("kind", "change", "false"), NULLS)
def test_false_verdicts_are_no_more_frequent_than_said(
    kind: str, change: float, false: str
) -> None:
    """At the border of the null, a family of six has a false verdict in at most 5 % of studies."""
    rng, studies, wrong = np.random.default_rng(11), 400, 0
    claims = [claim(kind, claim_id=str(i), factor=f"f{i}") for i in range(6)]
    for _ in range(studies):
        found = judged(*simulated(rng, np.full(6, change), baseline=0.3), *claims)
        wrong += any(row["verdict"] == false for row in found)
    assert wrong / studies <= 0.05 + 2 * (0.05 * 0.95 / studies) ** 0.5


def test_a_model_without_a_gap_has_nothing_tested() -> None:
    """Whatever the kind, no verdict comes out of 100 studies without a gap."""
    rng = np.random.default_rng(12)
    claims = [claim(kind, factor=f"f{i}") for i, kind in enumerate(KINDS)]
    for _ in range(100):
        found = judged(*simulated(rng, np.zeros(4), baseline=0.0), *claims)
        assert {(row["verdict"], row["reason"]) for row in found} == {("not tested", NO_GAP)}
