"""Agreement and corrected estimates agree with R, textbooks, loops and known truths."""

import itertools
import json
import math
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.inter_rater import cohens_kappa as statsmodels_kappa
from statsmodels.stats.proportion import proportion_confint

from analysis.judges import (
    LabelsError,
    Validation,
    agreement,
    cohens_kappa,
    corrected_contrast,
    corrected_estimate,
    corrected_gap,
    corrected_gap_effect,
    correction,
    errors_between_arms,
    krippendorff_alpha,
    lang_reiczigel,
    rogan_gladen,
    rogan_gladen_gap,
    unvalidated,
    validation,
)

REFERENCE = Path(__file__).parent / "reference"
FROM_R: dict[str, Any] = json.loads((REFERENCE / "judges.json").read_text("utf-8"))
LABELLED = pl.read_csv(REFERENCE / "data" / "labelled.csv")
NONE = math.nan


def sampled(kind: str) -> Validation:
    """The stored trials with labels drawn within arm, or within arm x verdict."""
    if kind == "random":
        return validation(LABELLED, "y", "human_random")
    return validation(LABELLED, "y", "human", "probability")


def conditions() -> NDArray[np.int64]:
    """The condition of each trial that has a verdict."""
    return LABELLED.filter(pl.col("y").is_not_null())["condition"].to_numpy()


def singly(sample: Validation) -> Validation:
    """The same trials, each with a query of its own."""
    return replace(sample, query=np.arange(len(sample.judge)))


def draw(
    rng: np.random.Generator,
    *,
    queries: int,
    trials: int,
    rates: tuple[float, float],
    sensitivity: tuple[float, float],
    specificity: tuple[float, float],
    labels: int,
    by_verdict: bool,
) -> Validation:
    """Trials of a judge whose errors differ by arm; rates vary by query (Beta, sum 3)."""
    query = np.repeat(np.arange(queries), trials)
    truth, verdict = [], []
    for rate, se, sp in zip(rates, sensitivity, specificity, strict=True):
        own = rng.beta(3 * rate, 3 - 3 * rate, queries) if rate else np.zeros(queries)
        y = rng.random(len(query)) < own[query]
        right = rng.random(len(query)) < np.where(y, se, sp)
        truth.append(y)
        verdict.append(y == right)
    y, f = np.concatenate(truth).astype(float), np.concatenate(verdict).astype(float)
    train = np.repeat([True, False], len(query))
    label, chance = np.full(len(y), np.nan), np.ones(len(y))
    for arm in (train, ~train):
        strata = [arm & (f == v) for v in (0, 1)] if by_verdict else [arm]
        for stratum in strata:
            rows = np.flatnonzero(stratum)
            n = min(len(rows), labels // len(strata))
            chosen = rng.choice(rows, n, replace=False)
            label[chosen] = y[chosen]
            chance[rows] = n / len(rows) if n else 1.0
    return Validation(f, label, train, np.tile(query, 2), chance)


@pytest.mark.parametrize("kind", ["random", "stratified"])
@pytest.mark.parametrize("method", ["ppi", "difference"])
def test_corrected_gaps_agree_with_r(kind: str, method: Any) -> None:
    """Trial-weighted, query-weighted and a difference of gaps: estimate, lam and error of R."""
    sample = sampled(kind)
    expected = FROM_R[f"{kind}_{method}"]
    train = sample.train
    by_trial = corrected_contrast(
        sample,
        np.where(train, 1 / train.sum(), -1 / (~train).sum()),
        train.astype(np.int64),
        method,
    )
    assert by_trial.estimate == pytest.approx(expected["trial_gap"], rel=1e-9)
    assert by_trial.std_error == pytest.approx(expected["trial_se"], rel=1e-9)
    if method == "ppi":
        assert by_trial.lam == pytest.approx(expected["lam"], rel=1e-9)
    gap = corrected_gap(sample, method=method)
    assert (gap.estimate, gap.std_error) == pytest.approx(
        (expected["gap"], expected["gap_se"]), rel=1e-9
    )
    condition = conditions()
    effect = corrected_gap_effect(sample, condition == 2, condition == 1, method)
    assert (effect.estimate, effect.std_error) == pytest.approx(
        (expected["effect"], expected["effect_se"]), rel=1e-9
    )
    assert effect.df == expected["effect_queries"] - 1
    assert effect.low is not None
    assert gap.p_value is not None
    assert gap.std_error is not None
    t = gap.estimate / gap.std_error
    assert gap.p_value == pytest.approx(2 * stats.t.sf(abs(t), gap.df))


@pytest.mark.parametrize("kind", ["random", "stratified"])
def test_least_squares_on_pseudo_outcomes_agrees_with_r(kind: str) -> None:
    """A gap effect averaged over passes, from a model that is not saturated: lm and sandwich."""
    sample = sampled(kind)
    turn = LABELLED.filter(pl.col("y").is_not_null())["pass"].to_numpy()
    half = np.column_stack(
        [np.ones(len(turn)), conditions() == 2, turn == 2, turn == 3],
    ).astype(float)
    X = np.hstack([half, half * sample.train[:, None]])
    made = correction(sample)
    solver = np.linalg.pinv(X)
    found = corrected_estimate(sample, made, solver[5], made.values - X @ (solver @ made.values))
    expected = FROM_R[f"{kind}_ppi"]
    assert found.estimate == pytest.approx(expected["averaged"], rel=1e-9)
    assert found.std_error == pytest.approx(expected["averaged_se"], rel=1e-9)


def test_a_cell_with_one_label_has_no_error() -> None:
    """Its estimate stands, the note says what is wanting, and nothing is tested."""
    sample = sampled("random")
    first = np.flatnonzero(sample.labelled & sample.train)[0]
    rows = (sample.query == sample.query[first]) | (sample.query == sample.query[first] + 1)
    thin = sample.labelled & rows & sample.train
    thin[first] = False
    sample = replace(sample, label=np.where(thin, np.nan, sample.label))
    found = corrected_gap(sample, rows)
    assert math.isfinite(found.estimate)
    assert (found.std_error, found.p_value, found.low) == (None, None, None)
    assert found.note == "fewer than two labels in a cell of the contrast"


def test_the_mean_of_pseudo_outcomes_is_the_ppi_estimator() -> None:
    """The paper's own form, on trials without a label and labelled residuals, in each arm."""
    sample = sampled("random")
    values = correction(sample).values
    rates = [values[sample.arm(arm)].mean() for arm in ("train", "deploy")]
    assert rates == pytest.approx(FROM_R["ppi_rates"], rel=1e-12)


def test_the_error_is_the_sum_of_influence_values_by_query() -> None:
    """(f - fbar)/N + (e - ebar)/n on the labelled, over both arms, as a loop over rows."""
    sample = sampled("random")
    sums = dict.fromkeys(sample.query.tolist(), 0.0)
    for arm, sign in (("train", 1), ("deploy", -1)):
        rows = sample.arm(arm)
        known = rows & sample.labelled
        fbar = sample.judge[rows].mean()
        ebar = (sample.label[known] - sample.judge[known]).mean()
        for i in np.flatnonzero(rows):
            z = (sample.judge[i] - fbar) / rows.sum()
            if sample.labelled[i]:
                z += (sample.label[i] - sample.judge[i] - ebar) / known.sum()
            sums[sample.query[i]] += sign * z
    G = len(sums)
    expected = math.sqrt(G / (G - 1) * sum(z * z for z in sums.values()))
    train = sample.train
    found = corrected_contrast(
        sample,
        np.where(train, 1 / train.sum(), -1 / (~train).sum()),
        train.astype(np.int64),
        "difference",
    )
    assert found.std_error == pytest.approx(expected, rel=1e-12)


def test_with_every_trial_labelled_the_judge_does_not_matter() -> None:
    """The corrected gap is then the paired t-test on the labels."""
    rng = np.random.default_rng(3)
    query = np.tile(np.repeat(np.arange(9), 4), 2)
    train = np.repeat([True, False], 36)
    truth = (rng.random(72) < np.where(train, 0.5, 0.2)).astype(float)
    sample = Validation(rng.random(72).round(), truth, train, query, np.ones(72))
    means = [[truth[(query == q) & arm].mean() for q in range(9)] for arm in (train, ~train)]
    expected = stats.ttest_rel(*means)
    for method in ("ppi", "difference"):
        found = corrected_gap(sample, method=method)  # type: ignore[arg-type]
        assert found.statistic == pytest.approx(expected.statistic)
        assert found.p_value == pytest.approx(expected.pvalue)
        assert found.df == 8


def test_labels_that_show_no_error_do_not_make_the_judge_perfect() -> None:
    """The error holds what 0 errors in n labels leave open, by Wilson's limit, and says so."""
    rng = np.random.default_rng(5)
    frame = pl.DataFrame(
        {
            "query": [f"q{i // 2 % 20}" for i in range(400)],
            "arm": ["train", "deploy"] * 200,
            "y": (rng.random(400) < 0.3).astype(float),
        }
    ).with_columns(human=pl.when(pl.int_range(400) % 7 < 2).then("y"))
    sample = validation(frame, "y", "human")
    found = corrected_gap(sample, method="difference")
    plain = corrected_gap(
        replace(sample, label=sample.judge, probability=np.ones(400)), method="difference"
    )
    open_to = sum(
        (proportion_confint(0, n, method="wilson")[1] / stats.norm.ppf(0.975)) ** 2
        for n in found.labels
    )
    assert found.note == "no judge error among the labels of train and deploy"
    assert found.std_error is not None
    assert plain.std_error is not None
    assert found.std_error**2 == pytest.approx(plain.std_error**2 + open_to)
    assert plain.note is None


def test_nothing_that_varies_gives_no_p_value() -> None:
    """All verdicts and all labels 0, every trial labelled: no error, no test."""
    sample = Validation(
        np.zeros(40), np.zeros(40), np.arange(40) % 2 == 0, np.arange(40) // 4, np.ones(40)
    )
    found = corrected_gap(sample)
    assert (found.estimate, found.std_error, found.p_value) == (0.0, None, None)


@pytest.mark.parametrize("seed", range(4))
def test_kappa_agrees_with_statsmodels(seed: int) -> None:
    """Estimate and asymptotic error, three categories."""
    rng = np.random.default_rng(seed)
    one = rng.integers(0, 3, 80)
    two = np.where(rng.random(80) < 0.6, one, rng.integers(0, 3, 80))
    table = np.zeros((3, 3))
    np.add.at(table, (one, two), 1)
    expected = statsmodels_kappa(table)
    found = cohens_kappa(one, two)
    assert found.value == pytest.approx(expected.kappa, rel=1e-12)
    assert found.std_error == pytest.approx(expected.std_kappa, rel=1e-9)
    assert (found.low, found.high) == pytest.approx((expected.kappa_low, expected.kappa_upp))


def test_kappa_agrees_with_the_printed_formula_in_r() -> None:
    """Fleiss, Cohen and Everitt (1969) on the stored labels."""
    sample = sampled("random")
    known = sample.labelled
    found = cohens_kappa(sample.judge[known], sample.label[known])
    assert (found.value, found.std_error) == pytest.approx(FROM_R["kappa"], rel=1e-9)


def test_weights_of_kappa_are_repeated_units() -> None:
    """A unit of weight 3 counts as three; two units of a cluster are one when they are copies."""
    one, two = np.array([1, 1, 0, 0, 1, 0]), np.array([1, 0, 0, 0, 1, 1])
    copies = np.array([1, 3, 2, 4, 2, 1])
    repeated = cohens_kappa(np.repeat(one, copies), np.repeat(two, copies))
    weighted = cohens_kappa(one, two, copies.astype(float))
    assert weighted.value == pytest.approx(repeated.value)
    clusters = np.repeat(np.arange(6), 2)
    doubled = cohens_kappa(np.repeat(one, 2), np.repeat(two, 2), clusters=clusters)
    single = cohens_kappa(one, two, clusters=np.arange(6))
    assert doubled.std_error == pytest.approx(single.std_error)


def test_agreement_on_one_category_has_no_coefficient() -> None:
    """Where nobody says yes there is no chance agreement to beat."""
    same = np.zeros((30, 2))
    assert cohens_kappa(same[:, 0], same[:, 1]).value is None
    assert krippendorff_alpha(same).value is None


TWO_CODERS = [[0, 1], [1, 1], [0, 1], [0, 0], [0, 0], [0, 1], [0, 0], [0, 0], [1, 0], [0, 0]]
THREE_CODERS = np.array(
    [
        [NONE, NONE, NONE, NONE, NONE, 3, 4, 1, 2, 1, 1, 3, 3, NONE, 3],
        [1, NONE, 2, 1, 3, 3, 4, 3, *[NONE] * 7],
        [NONE, NONE, 2, 1, 3, 4, 4, NONE, 2, 1, 1, 3, 3, NONE, 4],
    ]
).T
FOUR_CODERS = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, NONE, NONE, NONE],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NONE, 3],
        [NONE, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NONE],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NONE],
    ]
).T


@pytest.mark.parametrize(
    ("ratings", "published"),
    [(np.array(TWO_CODERS, float), 0.095), (THREE_CODERS, 0.691), (FOUR_CODERS, 0.743)],
    ids=["two coders", "three coders", "four coders"],
)
def test_alpha_has_the_published_values(ratings: NDArray[np.float64], published: float) -> None:
    """Worked examples of Krippendorff (2011), with missing ratings; the jackknife as a loop."""
    found = krippendorff_alpha(ratings)
    assert found.value == pytest.approx(published, abs=5e-4)
    paired = ratings[(~np.isnan(ratings)).sum(axis=1) > 1]
    n = len(paired)
    left = [pair_alpha(np.delete(paired, i, axis=0)) for i in range(n)]
    expected = math.sqrt((n - 1) / n * sum((a - np.mean(left)) ** 2 for a in left))
    assert found.std_error == pytest.approx(expected)


def pair_alpha(ratings: NDArray[np.float64]) -> float:
    """Alpha by listing every ordered pair of ratings."""
    within, values = 0.0, []
    for unit in ratings:
        known = unit[~np.isnan(unit)].tolist()
        values += known
        unlike = sum(a != b for a, b in itertools.permutations(known, 2))
        within += unlike / (len(known) - 1)
    between = sum(a != b for a, b in itertools.permutations(values, 2)) / (len(values) - 1)
    return 1 - within / between


def test_shares_of_right_verdicts_are_wilsons_when_nothing_is_clustered_or_weighted() -> None:
    """Sensitivity and specificity by arm, with statsmodels' Wilson interval."""
    sample = singly(sampled("random"))
    both, *arms = agreement(sample)
    assert both.arm is None
    for found, name in zip(arms, ("train", "deploy"), strict=True):
        rows = sample.labelled & sample.arm(name)
        f, h = sample.judge[rows], sample.label[rows]
        table = [[int(((f == a) & (h == b)).sum()) for a in (1, 0)] for b in (1, 0)]
        (tp, fn), (fp, tn) = table
        assert found.arm == name
        assert (found.true_positives, found.false_negatives) == (tp, fn)
        assert (found.false_positives, found.true_negatives) == (fp, tn)
        for share, hits, n in (
            (found.sensitivity, tp, tp + fn),
            (found.specificity, tn, fp + tn),
        ):
            assert share.value == pytest.approx(hits / n)
            expected = proportion_confint(hits, n, method="wilson")
            assert (share.low, share.high) == pytest.approx(expected)


def test_shares_of_a_sample_by_verdict_are_weighted() -> None:
    """Weighted shares of R's deploy arm; Wilson's interval at the trials their error is worth."""
    sample = sampled("stratified")
    *_, deploy = agreement(sample)
    known = sample.labelled & ~sample.train
    for share, name in ((deploy.sensitivity, "sensitivity"), (deploy.specificity, "specificity")):
        value = FROM_R[name][2]
        assert share.value == pytest.approx(value, rel=1e-9)
        rows = np.flatnonzero(known & (sample.label == (name == "sensitivity")))
        weights = 1 / sample.probability[rows]
        sums = dict.fromkeys(sample.query[rows].tolist(), 0.0)
        for i, w in zip(rows, weights, strict=True):
            sums[sample.query[i]] += w * (float(sample.judge[i] == sample.label[i]) - value)
        error = len(sums) / (len(sums) - 1) * sum(v * v for v in sums.values()) / weights.sum() ** 2
        worth = min(len(rows), value * (1 - value) / error)
        expected = proportion_confint(value * worth, worth, method="wilson")
        assert (share.low, share.high) == pytest.approx(expected)


def test_sampling_by_verdict_does_not_bias_sensitivity() -> None:
    """Over many draws the weighted share is right; the raw one is far too high."""
    rng = np.random.default_rng(8)
    raw, weighted = [], []
    for _ in range(200):
        sample = draw(
            rng,
            queries=20,
            trials=20,
            rates=(0.3, 0.2),
            sensitivity=(0.7, 0.7),
            specificity=(0.95, 0.95),
            labels=120,
            by_verdict=True,
        )
        found = agreement(sample)[1]
        raw.append(found.true_positives / (found.true_positives + found.false_negatives))
        weighted.append(found.sensitivity.value)
    assert np.mean(weighted) == pytest.approx(0.7, abs=4 * np.std(weighted) / math.sqrt(200) + 0.01)
    assert np.mean(raw) > 0.8


def test_a_difference_of_errors_between_arms_agrees_with_r() -> None:
    """Weighted shares by query as in R's weighted lm; few labels as R's Fisher test; Holm."""
    plain = errors_between_arms(singly(sampled("random")))
    assert (plain.p_sensitivity, plain.p_specificity) == pytest.approx(FROM_R["fisher"], rel=1e-6)
    assert plain.p_value == pytest.approx(min(1.0, 2 * min(FROM_R["fisher"])))
    assert plain.method_sensitivity == "Fisher exact"
    difference, error, _, queries = FROM_R["specificity"]
    found = errors_between_arms(sampled("stratified"))
    assert found.method_specificity == "by query, t(Q-1)"
    assert found.specificity == pytest.approx(difference, rel=1e-9)
    p_value = 2 * stats.t.sf(abs(difference / error), queries - 1)
    assert found.p_specificity == pytest.approx(p_value, rel=1e-9)
    assert found.sensitivity == pytest.approx(FROM_R["sensitivity"][0], rel=1e-9)


def test_the_test_of_errors_finds_a_judge_that_sees_the_arm() -> None:
    """Small where specificity differs by .15; under no difference it rejects at most 5 %."""
    rng = np.random.default_rng(2)
    p_values: dict[float, list[float]] = {0.95: [], 0.8: []}
    for other in p_values:
        for _ in range(150):
            found = errors_between_arms(
                draw(
                    rng,
                    queries=20,
                    trials=20,
                    rates=(0.3, 0.2),
                    sensitivity=(0.85, 0.85),
                    specificity=(0.95, other),
                    labels=120,
                    by_verdict=False,
                )
            )
            assert found.p_value is not None
            p_values[other].append(found.p_value)
    assert np.mean(np.array(p_values[0.95]) < 0.05) <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 150)
    assert np.mean(np.array(p_values[0.8]) < 0.05) > 0.6


def test_with_a_perfect_judge_known_to_be_so_the_limits_are_agresti_coull() -> None:
    """Lang-Reiczigel with endless right labels is statsmodels' Agresti-Coull interval."""
    for k, n in ((3, 40), (20, 61), (0, 100)):
        found = lang_reiczigel(k, n, 1e13, 1e13, 1e13, 1e13)
        centre = (k + 1.9207294) / (n + 3.8414588)
        spread = stats.norm.ppf(0.975) * math.sqrt(centre * (1 - centre) / (n + 3.8414588))
        assert found is not None
        assert (found.low, found.high) == pytest.approx((centre - spread, centre + spread))
        if k:
            expected = proportion_confint(k, n, method="agresti_coull")
            assert (found.low, found.high) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("theta", "se", "sp"), [(0.02, 0.9, 0.96), (0.3, 0.85, 0.8)])
def test_lang_reiczigel_covers(theta: float, se: float, sp: float) -> None:
    """Exact coverage over all three binomials is 94 % or more, where a Wald interval fails."""
    n, n1, n0 = 120, 40, 60
    p = theta * se + (1 - theta) * (1 - sp)
    counts = [range(n + 1), range(n1 + 1), range(n0 + 1)]
    masses = [
        stats.binom.pmf(np.array(list(c)), len(c) - 1, q)
        for c, q in zip(counts, (p, se, sp), strict=True)
    ]
    inside = 0.0
    for a, b, c in itertools.product(*counts):
        mass = masses[0][a] * masses[1][b] * masses[2][c]
        if mass > 1e-8:
            found = lang_reiczigel(a, n, b, n1, c, n0)
            inside += mass * (found is not None and found.low <= theta <= found.high)
    assert inside >= 0.94


def test_rogan_gladen_frees_a_rate_of_false_positives() -> None:
    """Specificity .96 turns a deploy rate of 0 into 4 %; corrected it is about 0, and not tested.

    Every share is met exactly, so the corrected rates are the true ones to the digit.
    """
    cells = [
        # arm, label, verdict, labelled trials, all trials
        *[("train", 1, 1, 45, 90), ("train", 1, 0, 5, 10)],
        *[("train", 0, 1, 6, 36), ("train", 0, 0, 144, 864)],
        *[("deploy", 1, 1, 9, 0), ("deploy", 1, 0, 1, 0)],
        *[("deploy", 0, 1, 6, 40), ("deploy", 0, 0, 144, 960)],
    ]
    rows = [
        (arm, verdict, label if i < known else None)
        for arm, label, verdict, known, n in cells
        for i in range(max(n, known))
    ]
    frame = pl.DataFrame(rows, schema=["arm", "y", "human"], orient="row").with_columns(
        query=pl.int_range(pl.len()) % 25
    )
    sample = validation(frame, "y", "human")
    train, deploy = rogan_gladen(sample, "train"), rogan_gladen(sample, "deploy")
    assert train.estimate == pytest.approx(0.1)
    p = 49 / 1010
    assert deploy.estimate == pytest.approx((p + 0.96 - 1) / (0.9 + 0.96 - 1))
    assert deploy.low is not None
    assert deploy.high is not None
    assert deploy.low < 0.0 < deploy.high < 0.06
    gap = rogan_gladen_gap(sample)
    assert train.estimate is not None
    assert deploy.estimate is not None
    assert gap.estimate == pytest.approx(train.estimate - deploy.estimate)
    assert gap.low is not None
    assert gap.low < 0.1


def test_the_rogan_gladen_error_is_the_printed_variance() -> None:
    """With a query a trial and few labels it is the delta-method error of the three shares."""
    rng = np.random.default_rng(11)
    sample = singly(
        draw(
            rng,
            queries=2000,
            trials=10,
            rates=(0.3, 0.2),
            sensitivity=(0.8, 0.8),
            specificity=(0.9, 0.9),
            labels=150,
            by_verdict=False,
        )
    )
    rows, known = sample.arm("train"), sample.arm("train") & sample.labelled
    p = sample.judge[rows].mean()
    yes, no = known & (sample.label == 1), known & (sample.label == 0)
    se, sp = sample.judge[yes].mean(), 1 - sample.judge[no].mean()
    theta = (p + sp - 1) / (se + sp - 1)
    variance = (
        p * (1 - p) / rows.sum()
        + (1 - theta) ** 2 * sp * (1 - sp) / no.sum()
        + theta**2 * se * (1 - se) / yes.sum()
    ) / (se + sp - 1) ** 2
    found = rogan_gladen(sample, "train")
    assert found.estimate == pytest.approx(theta)
    # The printed variance takes the labels for a separate sample; here they are 1 in 130 trials.
    assert found.std_error == pytest.approx(math.sqrt(variance), rel=0.02)


def test_a_judge_that_tells_nothing_is_not_inverted() -> None:
    """Verdicts by coin, and an arm without positive labels, give no rate but a reason."""
    rng = np.random.default_rng(0)
    frame = pl.DataFrame(
        {
            "query": np.arange(400) % 20,
            "arm": ["train", "deploy"] * 200,
            "y": rng.integers(0, 2, 400),
            "human": [0 if i % 4 == 1 else int(i % 8 == 0) for i in range(400)],
        }
    ).with_columns(human=pl.when(pl.int_range(400) % 4 < 2).then("human"))
    sample = validation(frame.with_columns(y=pl.lit(1)), "y", "human")
    assert rogan_gladen(sample, "train").estimate is None
    assert "tells too little" in str(rogan_gladen(sample, "train").note)
    gap = rogan_gladen_gap(validation(frame, "y", "human"))
    assert gap.estimate is None
    assert "deploy: no label of one kind" in str(gap.note)


def test_fewer_than_fifty_labels_in_an_arm_are_no_validation() -> None:
    """49 are too few, 50 are enough, and the heading names the arm."""
    frame = pl.DataFrame(
        {"query": np.arange(400) % 20, "arm": ["train", "deploy"] * 200, "y": [0.0] * 400}
    )
    index = pl.int_range(400)
    enough = frame.with_columns(human=pl.when(index < 100).then(0.0))
    assert unvalidated(validation(enough, "y", "human")) is None
    short = frame.with_columns(human=pl.when(index < 99).then(0.0))
    message = unvalidated(validation(short, "y", "human"))
    assert message == "unvalidated judge: 49 in deploy labelled, 50 needed in each arm"


def test_bad_labels_are_refused() -> None:
    """Labels outside [0, 1], an arm without any, chances of 0: each names the column."""
    frame = pl.DataFrame(
        {
            "query": [1, 1, 2, 2],
            "arm": ["train", "deploy"] * 2,
            "y": [1, 0, 1, 1],
            "wild": [1, 5, 0, 0],
            "half": [1, None, 0, None],
            "human": [1, 0, 1, 0],
            "chance": [0.5, 0.0, 0.5, 0.5],
        }
    )
    for arguments, message in (
        (("wild",), r"`wild` holds a label outside \[0, 1\]"),
        (("half",), "`half` has no label in the deploy arm"),
        (("human", "chance"), "`chance` must be above 0"),
    ):
        with pytest.raises(LabelsError, match=message):
            validation(frame, "y", *arguments)
    apart = frame.with_columns(query=pl.Series([1, 2, 3, 4]))
    with pytest.raises(LabelsError, match="no query has verdicts in every cell"):
        corrected_gap(validation(apart, "y", "human"))


SETTINGS: dict[str, dict[str, Any]] = {
    "differing errors": {
        "queries": 40,
        "trials": 12,
        "rates": (0.3, 0.1),
        "sensitivity": (0.9, 0.7),
        "specificity": (0.85, 0.96),
        "labels": 100,
        "by_verdict": False,
    },
    "labels by verdict": {
        "queries": 40,
        "trials": 12,
        "rates": (0.3, 0.1),
        "sensitivity": (0.9, 0.7),
        "specificity": (0.85, 0.96),
        "labels": 100,
        "by_verdict": True,
    },
    "deploy at 0": {
        "queries": 40,
        "trials": 12,
        "rates": (0.13, 0.0),
        "sensitivity": (0.9, 0.9),
        "specificity": (0.97, 0.94),
        "labels": 100,
        "by_verdict": False,
    },
    "twenty queries": {
        "queries": 20,
        "trials": 20,
        "rates": (0.4, 0.2),
        "sensitivity": (0.8, 0.9),
        "specificity": (0.8, 0.97),
        "labels": 80,
        "by_verdict": False,
    },
}


def check_unbiased_and_covering(setting: dict[str, Any], repetitions: int, seed: int) -> None:
    """Bias below 3 Monte-Carlo errors, coverage no more than 3 below 95 %; raw verdicts fail."""
    rng = np.random.default_rng(seed)
    truth = setting["rates"][0] - setting["rates"][1]
    found: dict[str, list[tuple[float, bool]]] = {"ppi": [], "difference": []}
    raw = []
    for _ in range(repetitions):
        sample = draw(rng, **setting)
        raw.append(sample.judge[sample.train].mean() - sample.judge[~sample.train].mean())
        for method, results in found.items():
            gap = corrected_gap(sample, method=method)  # type: ignore[arg-type]
            assert gap.low is not None
            assert gap.high is not None
            results.append((gap.estimate - truth, gap.low <= truth <= gap.high))
    for results in found.values():
        errors, covered = (np.array(x, dtype=float) for x in zip(*results, strict=True))
        assert abs(errors.mean()) < 3 * errors.std() / math.sqrt(repetitions)
        assert covered.mean() >= 0.95 - 3 * math.sqrt(0.05 * 0.95 / repetitions)
        assert covered.mean() <= 0.99
    assert abs(np.mean(raw) - truth) > 3 * np.std(raw) / math.sqrt(repetitions)


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_corrected_gaps_are_unbiased_and_cover(setting: dict[str, Any]) -> None:
    """Where the judge errs differently in the arms, and labels are by arm or by verdict."""
    check_unbiased_and_covering(setting, 300, 4)


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_corrected_gaps_are_unbiased_and_cover_over_many_draws(setting: dict[str, Any]) -> None:
    """The same with 4,000 draws."""
    check_unbiased_and_covering(setting, 4000, 5)


@pytest.mark.slow
def test_the_stored_reference_is_what_r_says_now() -> None:
    """The script, run again, gives the stored numbers."""
    if not shutil.which("Rscript"):
        pytest.skip("Rscript is not installed")
    done = subprocess.run(
        ["Rscript", "judges.R"], cwd=REFERENCE, capture_output=True, text=True, check=False
    )
    if "there is no package called" in done.stderr:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stderr
    fresh = json.loads(done.stdout)
    for name, stored in FROM_R.items():
        if name != "versions":
            stored = stored if isinstance(stored, dict) else {"": stored}
            again = fresh[name] if isinstance(fresh[name], dict) else {"": fresh[name]}
            for key, value in stored.items():
                np.testing.assert_allclose(again[key], value, rtol=1e-9)
