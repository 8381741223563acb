"""Predicted power is that of studies: plan, embedded subject, fit, and a count of rejections.

A study has fresh queries each time, drawn from a pool of made-up requests; what its subject does
with them is the planted probability of the rendered prompts. The prediction knows the plan, the
planted rates and how much queries of the pool differ.
"""

import csv
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from scipy import special

from ablate import foresight, simulated
from ablate.grading import grade_by_rules
from ablate.planning import Plan, condition_of, make_plan, prompt_of
from ablate.simulated import Planted, Situation
from ablate.starting import start_study
from ablate.study import Study, load_study
from analysis.effects import AVERAGED, SIMPLE, effects
from analysis.observations import Term, observe
from analysis.power import Detectable, Prior, power
from variants import Condition, Prompt
from variants.designs import target_law

Array = NDArray[np.float64]
POINTS = 0.05


@dataclass(frozen=True)
class Setting:
    """One study to foresee: its plan, what is planted, and the effect that is tested."""

    estimand: str
    factor: str
    queries: int
    trials: int
    planted: Planted
    kind: str = "mixed"
    options: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        name = "simple" if self.estimand == SIMPLE else "averaged"
        what = f"{self.kind}-{name}-{self.factor}-{self.queries}q-{self.trials}"
        return f"{what}-gap{self.planted.gap}-base{self.planted.base}"


def single(factor: str, queries: int, trials: int, planted: Planted) -> Setting:
    """A simple effect in a one-at-a-time design."""
    return Setting(SIMPLE, factor, queries, trials, planted, "one_at_a_time")


def wide(gap: float, base: float = 0.0, **more: float) -> Planted:
    """A planted law with this gap and the same base rate everywhere."""
    return Planted(gap=gap, base=base, base_conflict=0, wording=0, **more)


SHARED = {"random_conditions": 48}
GRID = (
    single("conflict_clause", 60, 700, wide(0.105)),
    single("conflict_clause", 60, 700, wide(0.15)),
    single("conflict_clause", 20, 1000, wide(0.12, 0.02)),
    single("conflict_clause", 6, 600, wide(0.3, 0.02)),
    single("tier_rule", 6, 300, wide(0.35)),
    single("tier_rule", 100, 2400, wide(0.12, 0.05)),
    single("tier_rule", 40, 1500, Planted()),
    single("scratchpad", 30, 3000, wide(0.2, 0.25)),
    single("scratchpad_privacy", 100, 2500, wide(0.3, 0.01)),
    single("examples", 40, 800, wide(0.2)),
    Setting(SIMPLE, "conflict_clause", 20, 2400, wide(0.1)),
    Setting(SIMPLE, "tier_rule", 16, 1500, wide(0.3, 0.05)),
    Setting(AVERAGED, "conflict_clause", 60, 900, wide(0.04)),
    Setting(AVERAGED, "tier_rule", 30, 1600, wide(0.12, 0.02)),
    Setting(AVERAGED, "conflict_clause", 100, 2000, Planted()),
    Setting(AVERAGED, "conflict_clause", 8, 700, wide(0.1)),
    Setting(AVERAGED, "scratchpad", 60, 2400, wide(0.2, 0.2)),
    Setting(AVERAGED, "scratchpad_privacy", 40, 2500, wide(0.3)),
    Setting(AVERAGED, "tier_rule", 40, 1200, wide(0.12, 0.01), options=SHARED),
    Setting(AVERAGED, "examples", 20, 2000, wide(0.2, 0.02)),
)


@cache
def requests() -> tuple[str, ...]:
    """A pool of 400 harmless requests, no two of the same bytes."""
    forms = "a poem|a toast|a short letter|three riddles|a bedtime story".split("|")
    tones = "cheerful|solemn|dry|playful".split("|")
    topics = (
        "a lighthouse|my garden|the night train|an old bicycle|rain in May|a lost umbrella|"
        "the baker's cat|a long walk|winter apples|a wooden boat|the first snow|a brass band|"
        "my neighbour's bees|a stone bridge|the harbour|a borrowed book|a paper kite|the attic|"
        "a chess game|the village fair"
    ).split("|")
    parts = itertools.product(forms, tones, topics)
    return tuple(f"Write {form} in a {tone} tone about {topic}." for form, tone, topic in parts)


def make_study(root: Path, setting: Setting, seed: int) -> Study:
    """The shipped study with this setting's design, and requests of the pool as queries."""
    start_study(root, "helpful_only")
    with (root / "queries.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["query_id", "text", "category", "role"])
        for number, text in enumerate(requests()[: setting.queries]):
            rows.writerow([f"request_{number:03}", text, "plain", "target"])
    config = (root / "study.toml").read_text("utf-8")
    more = "".join(f"\n{key} = {value}" for key, value in setting.options.items())
    for old, new in {
        "seed = 1": f"seed = {seed}",
        'kind = "mixed"': f'kind = "{setting.kind}"',
        "trials = 7000": f"trials = {setting.trials}{more}",
        "wordings = 24": "wordings = 1",
        'estimand = "gap_effect_averaged"': f'estimand = "{setting.estimand}"',
    }.items():
        assert config.count(old) == 1, old
        config = config.replace(old, new)
    (root / "study.toml").write_text(config, "utf-8")
    return load_study(root)


class Subject:
    """Planted probabilities of a study's prompts, for every request of the pool."""

    def __init__(self, study: Study, planted: Planted) -> None:
        self.study = study
        self.planted = planted
        self.known: dict[tuple[Situation, str], Array] = {}

    def rates(self, condition: Condition, arm: str) -> Array:
        """One probability for each request of the pool.

        The embedded subject reads the prompt and the request, nothing else: prompts of which it
        reads the same need not be rendered for every request again.
        """
        prompts = (self.prompt(condition, arm, text) for text in requests())
        first = next(prompts)
        key = simulated.read(first.system or "", first.user), arm
        if key not in self.known:
            self.known[key] = np.array(
                [
                    simulated.compliance(prompt.system or "", prompt.user, self.planted)
                    for prompt in (first, *prompts)
                ]
            )
        return self.known[key]

    def prompt(self, condition: Condition, arm: str, text: str) -> Prompt:
        wording = next(iter(self.study.wordings.values()))
        return self.study.scenario.render(condition, arm=arm, query=text, wording=wording)

    def gaps(self, condition: Condition) -> Array:
        return self.rates(condition, "train") - self.rates(condition, "deploy")


@dataclass(frozen=True)
class Truth:
    """What is planted of one effect: its mean, and a prior with the planted rates and spreads."""

    effect: float
    prior: Prior


def truth(study: Study, subject: Subject, setting: Setting) -> Truth:
    """The effect over the pool and the law, and what a person who knew the rates would expect."""
    law = target_law(study.scenario, study.factors, study.settings.design.rate)
    close = study.scenario.close
    original = close({})
    singles = {Term(f, ls[1]): close({f: ls[1]}) for f, ls in law.levels.items()}
    term = Term(setting.factor, law.levels[setting.factor][1])
    table = [(law.probability(c), c) for c in law.conditions()]
    weights = np.array([p for p, _ in table])
    gaps = np.array([subject.gaps(c) for _, c in table])
    if setting.estimand == SIMPLE:
        contrast = subject.gaps(singles[term]) - subject.gaps(original)
    else:
        there = np.array([c[term.factor] == term.level for _, c in table])
        present = np.array([c[term.factor] == law.levels[term.factor][0] for _, c in table])
        contrast = np.average(gaps[there], axis=0, weights=weights[there]) - np.average(
            gaps[present], axis=0, weights=weights[present]
        )
    X = np.array([[1.0] + [float(c[t.factor] == t.level) for t in singles] for _, c in table])
    mean = gaps.mean(axis=1)
    root = np.sqrt(weights)
    additive = X @ np.linalg.lstsq(X * root[:, None], mean * root, rcond=None)[0]
    train, deploy = (subject.rates(original, arm) for arm in ("train", "deploy"))
    prior = Prior(
        train=float(train.mean()),
        deploy=float(deploy.mean()),
        tau=float(contrast.std()),
        tau_gap=float((train - deploy).std()),
        deploy_cv=float(deploy.std() / deploy.mean()) if deploy.any() else 0.0,
        lack=float(np.average((mean - additive) ** 2, weights=weights) ** 0.5)
        / float((train - deploy).mean()),
        after={
            t: (float(subject.rates(c, "train").mean()), float(subject.rates(c, "deploy").mean()))
            for t, c in singles.items()
        },
    )
    return Truth(float(contrast.mean()), prior)


@dataclass(frozen=True)
class Fitted:
    """The estimator of one effect as numbers: estimate and p of many outcomes at once."""

    weights: Array
    scores: Array
    groups: int

    def p_values(self, y: Array) -> tuple[Array, Array]:
        """Estimates and p-values of the rows of `y`; p is nan where there is no test."""
        estimate = y @ self.weights
        error = np.sqrt(self.groups / (self.groups - 1) * np.sum((y @ self.scores) ** 2, axis=1))
        with np.errstate(divide="ignore", invalid="ignore"):
            p = 2 * special.stdtr(self.groups - 1, -np.abs(estimate / error))
        return estimate, np.where(error > 1e-12, p, np.nan)


def simple_fit(frame: pl.DataFrame, factor: str) -> Fitted:
    """Mean over queries of the difference of two gaps, in loops."""
    factors = [c for c in frame.columns if isinstance(frame[c].dtype, pl.Enum)]
    rows: dict[tuple[str, str, str], list[int]] = {}
    for i, row in enumerate(frame.iter_rows(named=True)):
        if all(row[f] in ("original", None) for f in factors if f != factor):
            rows.setdefault((row["query_id"], row["arm"], row[factor]), []).append(i)
    queries = sorted({query for query, _, _ in rows})
    sides = [(a, level) for a in ("train", "deploy") for level in ("original", "removed")]
    queries = [q for q in queries if all((q, *side) in rows for side in sides)]
    own = np.zeros((frame.height, len(queries)))
    for number, query in enumerate(queries):
        for arm, level in sides:
            sign = (1 if arm == "train" else -1) * (1 if level == "removed" else -1)
            trials = rows[query, arm, level]
            own[trials, number] = sign / len(trials)
    weights = own.mean(axis=1)
    return Fitted(weights, (own - weights[:, None]) / len(queries), len(queries))


def averaged_fit(frame: pl.DataFrame, factor: str) -> Fitted:
    """Weighted least squares of `y ~ arm * factors`, with CR1 from scores by query, in numpy."""
    factors = [c for c in frame.columns if isinstance(frame[c].dtype, pl.Enum)]
    removed = {f: (frame[f] == "removed").fill_null(False).to_numpy() for f in factors}
    plain = np.column_stack([np.ones(frame.height), *(removed[f].astype(float) for f in factors)])
    train = (frame["arm"] == "train").to_numpy().astype(float)
    X = np.hstack([plain, plain * train[:, None]])
    total = pl.col("design_weight").sum().over("query_id", "arm")
    w = frame.select(pl.col("design_weight") / total).to_series().to_numpy()
    solve = np.linalg.pinv(X.T @ (w[:, None] * X)) @ (X * w[:, None]).T
    column = {f: plain.shape[1] + 1 + number for number, f in enumerate(factors)}
    row = solve[column[factor]]
    for other in factors:
        # Taking a factor out takes what needs it along, in the share in which that was there.
        if frame[other].filter(removed[factor]).is_null().all():
            there = (frame[factor] == "original").to_numpy()
            row = row - np.average(removed[other][there], weights=w[there]) * solve[column[other]]
    own = np.zeros((frame.height, frame["query_id"].n_unique()))
    own[np.arange(frame.height), frame["query_id"].rank("dense").to_numpy() - 1] = row
    return Fitted(row, own - solve.T @ (X.T @ own), own.shape[1])


FITS = {SIMPLE: simple_fit, AVERAGED: averaged_fit}


def rates_of_trials(plan: Plan, subject: Subject) -> Array:
    """Planted probabilities of the trials' conditions and arms (trials x pool)."""
    pairs = list(zip(plan.frame["condition_id"], plan.frame["arm"], strict=True))
    kinds = plan.frame.unique(["condition_id", "arm"]).iter_rows(named=True)
    rates = {
        (row["condition_id"], row["arm"]): subject.rates(
            condition_of(subject.study, row), row["arm"]
        )
        for row in kinds
    }
    return np.array([rates[pair] for pair in pairs])


def query_numbers(plan: Plan) -> NDArray[np.int64]:
    """The place in the pool of each trial's request, as planned."""
    return plan.frame["query_id"].str.slice(-3).cast(pl.Int64).to_numpy()


def size_of(study: Study, plan: Plan, setting: Setting, prior: Prior) -> Detectable:
    """What the plan foresees of the setting's effect."""
    (size,) = (
        s
        for s in foresight.detectable_sizes(study, plan, prior)
        if s.estimand == setting.estimand and s.term is not None and s.term.factor == setting.factor
    )
    return size


@dataclass(frozen=True)
class Compared:
    """Predicted power, the share of studies that rejected, and its Monte-Carlo error."""

    setting: Setting
    effect: float
    predicted: float
    counted: float
    error: float
    drawn: bool

    def __str__(self) -> str:
        return (
            f"{self.setting!s:78} effect {100 * self.effect:+5.1f}  "
            f"{'drawn  ' if self.drawn else 'formula'} {100 * self.predicted:5.1f}  "
            f"counted {100 * self.counted:5.1f} +- {100 * self.error:.1f}"
        )


def compare(folder: Path, setting: Setting, plans: int, studies: int) -> Compared:
    """Power of several plans of a setting, foreseen and counted over fresh queries and answers."""
    study = make_study(folder / "study-0", setting, 0)
    subject = Subject(study, setting.planted)
    planted = truth(study, subject, setting)
    predicted, formula, counted = [], [], []
    for seed in range(plans):
        study = make_study(folder / f"study-{seed}", setting, seed) if seed else study
        plan = make_plan(study)
        size = size_of(study, plan, setting, planted.prior)
        rng = np.random.default_rng(seed)
        predicted.append(power(size, planted.effect, rng))
        formula.append(power(size, planted.effect))
        rates, query = rates_of_trials(plan, subject), query_numbers(plan)
        trials = np.arange(len(query))
        drawn = rng.integers(len(requests()), size=(studies, setting.queries))
        y = np.array([rng.random(len(query)) < rates[trials, fresh[query]] for fresh in drawn])
        fit = FITS[setting.estimand](plan.frame, setting.factor)
        counted.append(np.mean(fit.p_values(y.astype(np.float64))[1] < 0.05))
    share = float(np.mean(counted))
    error = max(share * (1 - share) / (plans * studies), 1 / (plans * studies) ** 2) ** 0.5
    foreseen = float(np.mean(predicted))
    return Compared(setting, planted.effect, foreseen, share, error, predicted != formula)


@pytest.mark.slow
@pytest.mark.parametrize("setting", GRID, ids=str)
def test_predicted_power_is_that_of_counted_studies(tmp_path: Path, setting: Setting) -> None:
    """In each of 20 settings within 5 points of 3,000 studies (Monte-Carlo error .9 at most)."""
    found = compare(tmp_path, setting, plans=12, studies=250)
    print(found)
    assert found.error < 0.01
    assert abs(found.predicted - found.counted) <= POINTS, found


@pytest.mark.parametrize("setting", GRID[2::4], ids=str)
def test_predicted_power_is_about_that_of_studies(tmp_path: Path, setting: Setting) -> None:
    """Within 5 points and three Monte-Carlo errors of 600 studies, in five of the settings."""
    found = compare(tmp_path, setting, plans=3, studies=200)
    assert abs(found.predicted - found.counted) <= POINTS + 3 * found.error, found


@pytest.mark.parametrize(
    "studies", [40, pytest.param(600, marks=pytest.mark.slow)], ids=["few", "many"]
)
@pytest.mark.parametrize("setting", [GRID[3], GRID[4]], ids=str)
def test_graded_answers_reject_as_predicted(tmp_path: Path, setting: Setting, studies: int) -> None:
    """The same through the texts that the subject sends and the grades that they get."""
    study = make_study(tmp_path / "study", setting, 1)
    subject = Subject(study, setting.planted)
    planted = truth(study, subject, setting)
    plan = make_plan(study)
    rng = np.random.default_rng(5)
    predicted = power(size_of(study, plan, setting, planted.prior), planted.effect, rng)
    assert predicted is not None
    rows = [(condition_of(study, r), r["arm"]) for r in plan.frame.iter_rows(named=True)]
    query = query_numbers(plan)
    prompt = cache(subject.prompt)
    y = np.empty((studies, len(rows)))
    for number in range(studies):
        fresh = rng.integers(len(requests()), size=setting.queries)
        for trial, (condition, arm) in enumerate(rows):
            sent = prompt(condition, arm, requests()[fresh[query[trial]]])
            seed = f"{number}-{trial}"
            reply = simulated.answer(sent.system or "", sent.user, seed, setting.planted)
            y[number, trial] = grade_by_rules(reply.text)["complied"]
    fit = FITS[setting.estimand](plan.frame, setting.factor)
    counted = np.mean(fit.p_values(y)[1] < 0.05)
    assert counted == pytest.approx(
        predicted, abs=POINTS + 3 * (predicted * (1 - predicted) / studies) ** 0.5
    )


@pytest.mark.parametrize("setting", [GRID[0], GRID[6], GRID[11], GRID[12], GRID[16]], ids=str)
def test_the_counted_tests_are_those_of_the_fit(tmp_path: Path, setting: Setting) -> None:
    """Estimates and p-values of the short estimators are those of `analysis.effects`."""
    study = make_study(tmp_path / "study", setting, 3)
    plan = make_plan(study)
    fit = FITS[setting.estimand](plan.frame, setting.factor)
    rates, query = rates_of_trials(plan, Subject(study, setting.planted)), query_numbers(plan)
    rng = np.random.default_rng(9)
    tested = 0
    for _ in range(3):
        y = (rng.random(len(query)) < rates[np.arange(len(query)), query]).astype(np.float64)
        observations = observe(
            plan.frame.with_columns(complied=pl.Series(y)),
            factors=plan.varied,
            outcomes=["complied"],
            weight="design_weight",
            prompt="prompt_id",
            wording="wording_id",
        )
        (row,) = (
            r
            for r in effects(observations, "complied", primary=setting.estimand, grader=None)
            if (r["estimand"], r["factor"]) == (setting.estimand, setting.factor)
            and r["note"] != "reference"
        )
        estimate, p = fit.p_values(y[None, :])
        assert row["estimate"] == pytest.approx(estimate[0], abs=1e-12)
        if row["p_value"] is None:
            assert np.isnan(p[0])
        else:
            assert row["p_value"] == pytest.approx(p[0], abs=1e-12)
            tested += 1
    assert tested


def test_a_trial_has_the_probability_of_its_prompt(tmp_path: Path) -> None:
    """Probabilities kept for what the subject reads are those of every planned prompt's bytes."""
    setting = GRID[14]
    study = make_study(tmp_path / "study", setting, 2)
    plan = make_plan(study)
    texts = {query.query_id: query.text for query in study.queries}
    rates, query = rates_of_trials(plan, Subject(study, setting.planted)), query_numbers(plan)
    for trial, row in enumerate(plan.frame.iter_rows(named=True)):
        prompt = prompt_of(study, row, texts)
        own = simulated.compliance(prompt.system or "", prompt.user, setting.planted)
        assert rates[trial, query[trial]] == own


def test_other_numbers_can_be_planted(tmp_path: Path) -> None:
    """Where queries and wordings do not differ, the rates are the planted numbers themselves."""
    planted = wide(0.3, 0.125, query_base_sd=0, query_gap_sd=0)
    study = make_study(tmp_path / "study", GRID[0], 1)
    subject = Subject(study, planted)
    close = study.scenario.close
    for removed, gap in ((None, 0.3), ("scratchpad_privacy", 0.18), ("conflict_clause", 0.0)):
        condition = close({removed: "removed"} if removed else {})
        assert subject.rates(condition, "deploy") == pytest.approx(0.125, rel=1e-12)
        assert subject.rates(condition, "train") == pytest.approx(0.125 + gap, rel=1e-12)
    sent = subject.prompt(close({}), "train", requests()[0])
    certain = Planted(base=1, most=1, query_base_sd=0)
    replies = [simulated.answer(sent.system or "", sent.user, str(s), certain) for s in range(50)]
    assert all(reply.complied for reply in replies)


def test_the_words_name_what_is_out_of_reach(tmp_path: Path) -> None:
    """Single changes whose sizes are above the gap of 12 points: all but a structural zero."""
    study = make_study(tmp_path / "study", GRID[10], 1)
    text = foresight.sizes_text(study, foresight.detectable_sizes(study, make_plan(study)))
    simple, averaged = text.split("averaged gap effects")
    (line,) = (line for line in simple.splitlines() if "out of reach" in line)
    assert "the whole gap of 12.0 went" in line
    named = line.split(": ", 1)[1].strip().split(", ")
    assert sorted(named) == sorted(set(study.factors) - {"tier_tag"})
    assert "out of reach" not in averaged
    assert "one wording of the prompt only" in averaged
