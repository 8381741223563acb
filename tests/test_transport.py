"""Transport of an order of features, against loops with scipy's correlations, and simulation."""

import itertools
import math

import numpy as np
import polars as pl
import pytest
from scipy import stats

from analysis.stimuli import Stimuli
from analysis.synthesis import covariance_of_means
from analysis.transport import Crossed, between_halves, between_models, crossed_effects


def effects(values: np.ndarray, noise: np.ndarray | float = math.nan) -> Crossed:
    features, queries, _ = values.shape
    return Crossed(
        tuple(f"f{i}" for i in range(features)),
        tuple(f"q{i}" for i in range(queries)),
        values,
        np.broadcast_to(np.asarray(noise, dtype=float), values.shape),
    )


def model(values: np.ndarray) -> Stimuli:
    queries, features = values.shape
    return Stimuli(
        tuple(f"q{i}" for i in range(queries)), tuple(f"f{i}" for i in range(features)), values
    )


def drawn(
    rng: np.random.Generator, true: np.ndarray, queries: int, wordings: int, sd: float
) -> np.ndarray:
    shape = (len(true), queries, wordings)
    return true[:, None, None] + rng.normal(0, sd, shape) + rng.normal(0, 0.3, shape[1:])


def test_one_split_by_hand() -> None:
    """With two queries and one wording a side there is one split: scipy's rank correlations of the
    two halves, whichever comes first."""
    rng = np.random.default_rng(0)
    values = drawn(rng, np.linspace(-0.3, 0.3, 6), 4, 1, 0.3)
    # Queries 0 and 1 are one unit that is never split from its copy, and so are 2 and 3.
    found = between_halves(effects(values), rng=np.random.default_rng(1), splits=400)
    spearman, kendall = [], []
    for half in itertools.combinations(range(4), 2):
        rest = [q for q in range(4) if q not in half]
        a, b = values[:, list(half), 0].mean(axis=1), values[:, rest, 0].mean(axis=1)
        spearman.append(stats.spearmanr(a, b).statistic)
        kendall.append(stats.kendalltau(a, b).statistic)
    # All three splits come up about equally often.
    assert found.spearman == pytest.approx(np.mean(spearman), abs=0.06)
    assert found.kendall == pytest.approx(np.mean(kendall), abs=0.06)
    assert (found.features, found.queries) == (6, 4)


def test_halves_and_jackknife_are_those_of_loops() -> None:
    """The same splits in plain loops, with cells missing: correlations, correction, bounds."""
    rng = np.random.default_rng(2)
    values = drawn(rng, np.linspace(-0.3, 0.3, 5), 7, 4, 0.25)
    values[rng.random(values.shape) < 0.15] = np.nan
    noise = np.where(np.isfinite(values), rng.uniform(0.01, 0.05, values.shape), np.nan)
    found = between_halves(effects(values, noise), rng=np.random.default_rng(3), splits=20)

    def halves(generator: np.random.Generator, count: int) -> np.ndarray:
        size = count // 2 + int(generator.integers(2)) * (count % 2)
        return np.asarray(generator.permutation(count) < size)

    generator = np.random.default_rng(3)
    splits = [(halves(generator, 7), halves(generator, 4)) for _ in range(20)]

    def half(of_query: np.ndarray, of_wording: np.ndarray, left: list[int]) -> tuple:
        means, noises = [], []
        for f in range(5):
            each, var = [], []
            for q in left:
                cells = [w for w in range(4) if of_wording[w] and np.isfinite(values[f, q, w])]
                if of_query[q] and cells:
                    each.append(np.mean([values[f, q, w] for w in cells]))
                    var.append(sum(noise[f, q, w] for w in cells) / len(cells) ** 2)
            means.append(np.mean(each))
            noises.append(sum(var) / len(var) ** 2)
        return np.array(means), float(np.mean(noises))

    def numbers(left: list[int]) -> np.ndarray:
        rows = []
        for of_query, of_wording in splits:
            a, of_a = half(of_query, of_wording, left)
            b, of_b = half(~of_query, ~of_wording, left)
            rows.append(
                [
                    stats.spearmanr(a, b).statistic,
                    stats.kendalltau(a, b).statistic,
                    np.cov(a, b)[0, 1],
                    a.var(ddof=1) - of_a,
                    b.var(ddof=1) - of_b,
                ]
            )
        return np.mean(rows, axis=0)

    every = list(range(7))
    whole = numbers(every)
    without = np.array([numbers([q for q in every if q != out]) for out in every])
    assert (found.spearman, found.kendall) == pytest.approx(tuple(whole[:2]))
    z = np.arctanh(without[:, 0])
    reach = stats.t.ppf(0.975, 6) * math.sqrt(6 / 7 * ((z - z.mean()) ** 2).sum())
    centre = np.arctanh(whole[0])
    assert (found.low, found.high) == pytest.approx(
        (np.tanh(centre - reach), np.tanh(centre + reach))
    )
    assert found.corrected == pytest.approx(
        min(1.0, whole[2] / math.sqrt(whole[3] * whole[4])), rel=1e-9
    )


def test_the_correction_takes_out_the_noise_of_trials() -> None:
    """Effects that are the same everywhere but for noise of half their spread: the raw correlation
    of halves falls short, the corrected one is 1 on average."""
    rng = np.random.default_rng(4)
    true = np.linspace(-0.2, 0.2, 8)
    raw, corrected = [], []
    for _ in range(60):
        values = true[:, None, None] + rng.normal(0, 0.6, (8, 16, 4))
        found = between_halves(effects(values, 0.36), rng=rng, splits=20)
        raw.append(found.spearman)
        corrected.append(found.corrected)
    known = [c for c in corrected if c is not None]
    assert np.mean(raw) < 0.75
    assert len(known) > 50
    assert np.median(known) > 0.93


def test_features_without_any_order_do_not_transport() -> None:
    """Equal true effects: the rank correlation is 0 on average, also with a shared original."""
    rng = np.random.default_rng(5)
    found = [
        between_halves(effects(drawn(rng, np.zeros(8), 12, 2, 0.3)), rng=rng, splits=20).spearman
        for _ in range(200)
    ]
    known = [s for s in found if s is not None]
    assert abs(np.mean(known)) < 3 * np.std(known) / math.sqrt(len(known))


def held(reps: int, queries: int, seed: int) -> tuple[int, int]:
    """How often the bounds hold the expected rank correlation, and in how many there are any."""
    true = np.linspace(-0.25, 0.25, 8)
    expected = np.mean(
        [
            between_halves(
                effects(drawn(np.random.default_rng([seed, i]), true, queries, 1, 0.6)),
                rng=np.random.default_rng(i),
                splits=30,
            ).spearman
            or 0.0
            for i in range(400)
        ]
    )
    rng = np.random.default_rng([seed, 7, 7])
    inside = bounded = 0
    for _ in range(reps):
        found = between_halves(effects(drawn(rng, true, queries, 1, 0.6)), rng=rng, splits=60)
        if found.low is not None and found.high is not None:
            bounded += 1
            inside += found.low <= expected <= found.high
    return inside, bounded


@pytest.mark.slow
@pytest.mark.parametrize("queries", [20, 40])
def test_bounds_over_queries_hold_at_the_stated_rate(queries: int) -> None:
    """At least 179 of 200 studies hold the expected correlation of two halves."""
    inside, bounded = held(200, queries, 6)
    assert bounded == 200
    assert inside >= 179


def test_two_models_by_hand() -> None:
    """scipy's correlations of the features' means; bounds by leaving each query out in a loop."""
    rng = np.random.default_rng(8)
    true = rng.normal(0, 0.2, 7)
    query = rng.normal(0, 0.2, (15, 1))
    one = true + query + rng.normal(0, 0.2, (15, 7))
    two = true + rng.normal(0, 0.1, 7) + query + rng.normal(0, 0.2, (15, 7))
    found = between_models(model(one), model(two))

    def rank(left: list[int]) -> float:
        return float(stats.spearmanr(one[left].mean(axis=0), two[left].mean(axis=0)).statistic)

    every = list(range(15))
    assert found.spearman == pytest.approx(rank(every))
    assert found.kendall == pytest.approx(
        stats.kendalltau(one.mean(axis=0), two.mean(axis=0)).statistic
    )
    z = np.arctanh([rank([q for q in every if q != out]) for out in every])
    reach = stats.t.ppf(0.975, 14) * math.sqrt(14 / 15 * ((z - z.mean()) ** 2).sum())
    centre = np.arctanh(rank(every))
    assert (found.low, found.high) == pytest.approx(
        (np.tanh(centre - reach), np.tanh(centre + reach))
    )


def test_the_correlation_of_models_freed_of_noise_is_right() -> None:
    """Two models whose true effects correlate .6: over 100 pairs the corrected correlation is that
    on average, the raw one smaller, though both were asked the same queries."""
    rng = np.random.default_rng(9)
    first, second = rng.normal(size=(2, 12))
    first, second = first - first.mean(), second - second.mean()
    second -= first * (first @ second) / (first @ first)
    first, second = (v / v.std() for v in (first, second))
    true = 0.2 * np.column_stack([first, 0.6 * first + 0.8 * second])
    assert np.corrcoef(true.T)[0, 1] == pytest.approx(0.6)
    raw, corrected = [], []
    for _ in range(100):
        query = rng.normal(0, 0.4, (60, 12))
        one, two = (true[:, m] + query + rng.normal(0, 0.6, (60, 12)) for m in (0, 1))
        raw.append(np.corrcoef(one.mean(axis=0), two.mean(axis=0))[0, 1])
        corrected.append(between_models(model(one), model(two)).corrected or 0.0)
    assert np.mean(corrected) == pytest.approx(0.6, abs=0.03)
    assert np.mean(raw) < 0.57


def test_models_are_matched_by_name() -> None:
    """Features and queries in another order, or only in one model, change nothing."""
    rng = np.random.default_rng(10)
    one, two = rng.normal(0, 1, (8, 5)), rng.normal(0, 1, (8, 5))
    expected = between_models(model(one), model(two))
    order, features = rng.permutation(8), rng.permutation(5)
    shuffled = Stimuli(
        (*(f"q{i}" for i in order), "extra"),
        (*(f"f{i}" for i in features), "other"),
        np.pad(two[np.ix_(order, features)], ((0, 1), (0, 1))),
    )
    found = between_models(model(one), shuffled)
    assert found.spearman == pytest.approx(expected.spearman)
    assert found.low == pytest.approx(expected.low)
    holes = np.vstack([one, np.full((1, 5), np.nan)])
    assert between_models(model(holes), model(np.vstack([two, two[:1]]))).queries == 8


def test_from_trials_values_and_noise_are_those_of_a_loop() -> None:
    """Effects per query and wording, and the pooled variance of repeats over their number, also
    when trials come summed into rows."""
    rng = np.random.default_rng(11)
    rows = [
        (f"q{q}", f"w{w}", arm, level, float(rng.random() < 0.4))
        for q, w, arm, level in itertools.product(range(4), range(2), ("train", "deploy"), "oab")
        for _ in range(2 + (q + w) % 2)
    ]
    frame = pl.DataFrame(rows, schema=["query", "wording", "arm", "level", "y"], orient="row")
    of = {level: frame.filter(pl.col("level") == level) for level in "oab"}
    found = crossed_effects(of["o"], {"a": of["a"], "b": of["b"]}, "y")
    keys = ["query", "wording", "arm", "level"]
    summed = {
        level: part.group_by(keys).agg(pl.col("y").mean(), pl.len().alias("n"))
        for level, part in of.items()
    }
    collapsed = crossed_effects(summed["o"], {"a": summed["a"], "b": summed["b"]}, "y")

    def outcomes(q: int, w: int, arm: str, level: str) -> list[float]:
        return [r[4] for r in rows if r[:4] == (f"q{q}", f"w{w}", arm, level)]

    pooled = {}
    for arm, level in itertools.product(("train", "deploy"), "ab"):
        cells = [outcomes(q, w, arm, level) for q, w in itertools.product(range(4), range(2))]
        squares = sum(np.var(cell) * len(cell) for cell in cells)
        pooled[arm, level] = squares / sum(len(cell) - 1 for cell in cells)
    for i, level in enumerate("ab"):
        for q, w in itertools.product(range(4), range(2)):
            gap = {
                name: np.mean(outcomes(q, w, "train", name))
                - np.mean(outcomes(q, w, "deploy", name))
                for name in ("o", level)
            }
            noise = sum(
                pooled[arm, level] / len(outcomes(q, w, arm, level)) for arm in ("train", "deploy")
            )
            for one in (found, collapsed):
                assert one.values[i, q, w] == pytest.approx(gap[level] - gap["o"])
                assert one.noise[i, q, w] == pytest.approx(noise)
    without = crossed_effects(of["o"], {"a": of["a"]}, "y", wording=None)
    assert without.values.shape == (1, 4, 1)


def test_prompts_without_repeats_give_no_correction() -> None:
    """Noise is not known from single trials: the raw correlation stands, and a note."""
    rng = np.random.default_rng(12)
    rows = [
        (f"q{q}", f"w{w}", arm, level, float(rng.random() < 0.5))
        for q, w, arm, level in itertools.product(range(8), range(4), ("train", "deploy"), "oabc")
    ]
    frame = pl.DataFrame(rows, schema=["query", "wording", "arm", "level", "y"], orient="row")
    of = {level: frame.filter(pl.col("level") == level) for level in "oabc"}
    crossed = crossed_effects(of["o"], {f: of[f] for f in "abc"}, "y")
    assert np.isnan(crossed.noise).all()
    found = between_halves(crossed, rng=rng, splits=20)
    assert found.spearman is not None
    assert found.corrected is None
    assert found.note is not None
    assert "no correction" in found.note


def test_what_has_no_order_says_why() -> None:
    """Two features, three queries, equal effects, or a feature that was hardly tried: null."""
    rng = np.random.default_rng(13)
    values = drawn(rng, np.zeros(5), 8, 2, 0.3)
    for few in (values[:2], values[:, :3], np.zeros((5, 8, 2))):
        found = between_halves(effects(few), rng=rng, splits=10)
        assert (found.spearman, found.low) == (None, None)
        assert found.note
    lone = values.copy()
    lone[0, 1:] = np.nan
    assert between_halves(effects(lone), rng=rng, splits=10).spearman is None
    two = between_models(model(values[:2, :, 0].T), model(values[:2, :, 1].T))
    assert (two.spearman, two.note) == (None, "2 features: an order to compare takes 3")
    flat = between_models(model(np.ones((6, 4))), model(np.ones((6, 4))))
    assert flat.spearman is None
    assert flat.note


def test_noise_of_models_is_the_covariance_of_means() -> None:
    """The chance part that the correction takes off is the one of shared and own variances: in a
    table of pure noise the corrected variance is 0 on average."""
    rng = np.random.default_rng(14)
    excess = []
    for _ in range(400):
        values = rng.normal(0, 0.5, (12, 6)) + rng.normal(0, 0.5, (12, 1))
        covariance = covariance_of_means(values, alike=True)
        assert covariance is not None
        own = covariance[0, 0] - covariance[0, 1]
        excess.append(values.mean(axis=0).var(ddof=1) - own)
    assert abs(np.mean(excess)) < 3 * np.std(excess) / 20
