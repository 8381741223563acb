"""Prospects: the predicted probability of a verdict is how often it comes, and blocks are cheap."""

import itertools
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy import stats
from scipy.special import expit

from analysis.claims import Claim
from analysis.gaps import changed_of, original_of, query_rates
from analysis.observations import Observations, Term, observe
from analysis.prospects import (
    TARGET,
    Averaged,
    Block,
    Simple,
    baseline_settled,
    claim_decided,
    draw,
    more_queries,
    more_trials,
    probability,
)
from analysis.regressions import linear_probability

MARGIN = 0.05
THRESHOLD = 0.01
Array = np.ndarray[Any, Any]


def claim(kind: str) -> Claim:
    return Claim("c", "It does.", kind, "f", "removed")


def truth(rng: np.random.Generator, queries: int) -> Array:
    """True rates, 4 x Q: queries that differ, and a change of any size that differs with them."""
    base = rng.uniform(-2.5, 0.5) + rng.standard_normal(queries)
    changed = base + rng.uniform(-3.5, 0.5) + 0.5 * rng.standard_normal(queries)
    deploy = np.full(queries, 0.01)
    return np.array([expit(base), deploy, expit(changed), deploy])


def decided(kind: str, trials: Array, complied: Array) -> bool:
    """The verdict by scipy's t distribution, from counts alone."""
    rates = complied / trials
    gaps = rates[0] - rates[1], rates[2] - rates[3], rates[2] - rates[3] - rates[0] + rates[1]
    queries = trials.shape[1]
    t = stats.t(queries - 1)
    means = [gap.mean() for gap in gaps]
    errors = [max(gap.std(ddof=1) / queries**0.5, 1e-9) for gap in gaps]
    (before, after, change), (before_error, after_error, change_error) = means, errors
    if before - t.ppf(0.975) * before_error <= 2 * MARGIN:
        return False

    def alike(value: float, error: float) -> float:
        return float(max(t.sf((value + MARGIN) / error), t.cdf((value - MARGIN) / error)))

    falls = t.cdf(change / change_error)
    support, refute = {
        "reduces": (falls, min(alike(change, change_error), 1 - falls)),
        "irrelevant": (
            alike(change, change_error),
            2
            * min(t.sf((change - MARGIN) / change_error), t.cdf((change + MARGIN) / change_error)),
        ),
        "eliminates": (
            max(falls, alike(after, after_error)),
            2 * min(t.sf((after - MARGIN) / after_error), alike(change, change_error)),
        ),
    }[kind]
    return bool(support < THRESHOLD or refute < THRESHOLD)


def within(trials: Array, complied: Array) -> float:
    """Pooled variance of single answers about their query's rate."""
    rates = complied / trials
    squares = float(np.sum(complied * (1 - rates)))
    rate = (complied.sum() + 0.5) / (trials.sum() + 1)
    return squares / float(np.sum(trials - 1)) if squares else float(rate * (1 - rate))


def known(trials: Array, complied: Array) -> Simple:
    rates = complied / trials
    return Simple(
        trials.astype(np.float64),
        np.array([within(trials[i], complied[i]) for i in range(4)]),
        np.array([rates[0] - rates[1], rates[2] - rates[3]]),
    )


@pytest.mark.parametrize("added", [(6, 4, 9, 5), (20, 10, 20, 10)])
@pytest.mark.parametrize("kind", ["reduces", "irrelevant", "eliminates"])
def test_verdicts_come_as_often_as_predicted(kind: str, added: tuple[int, ...]) -> None:
    """Open claims of any truth, continued with binary answers: within 5 points of the mean."""
    rng = np.random.default_rng(5)
    queries = 48
    now, more = (np.repeat(np.array(n)[:, None], queries, 1) for n in ((6, 3, 3, 2), added))
    predicted, seen = [], []
    while len(seen) < 800:
        rates = truth(rng, queries)
        complied = rng.binomial(now, rates)
        if decided(kind, now, complied):
            continue
        rule = claim_decided(claim(kind), MARGIN, THRESHOLD, THRESHOLD)
        block = Block(per_query=tuple(map(float, added)))
        predicted.append(
            probability(known(now, complied), block, rule, draw(rng, queries, size=200))
        )
        seen.append(decided(kind, now + more, complied + rng.binomial(more, rates)))
    assert np.mean(predicted) == pytest.approx(np.mean(seen), abs=0.05)
    likely = np.array(predicted) > 0.5
    assert likely.sum() > 40
    assert np.mean(np.array(seen)[likely]) == pytest.approx(
        np.mean(np.array(predicted)[likely]), abs=0.05 + 2 * (0.25 / likely.sum()) ** 0.5
    )


def test_further_queries_bring_verdicts_as_often_as_predicted() -> None:
    """The same for queries that are new."""
    rng = np.random.default_rng(6)
    predicted, seen = [], []
    now = np.repeat(np.array((6, 3, 6, 3))[:, None], 100, 1)
    while len(seen) < 800:
        rates = truth(rng, 100)
        complied = rng.binomial(now, rates)
        first = slice(0, 40)
        if decided("reduces", now[:, first], complied[:, first]):
            continue
        rule = claim_decided(claim("reduces"), MARGIN, THRESHOLD, THRESHOLD)
        so_far = known(now[:, first], complied[:, first])
        predicted.append(probability(so_far, Block(queries=60), rule, draw(rng, 40, size=200)))
        seen.append(decided("reduces", now, complied))
    assert np.mean(predicted) == pytest.approx(np.mean(seen), abs=0.05)


def some_known(rng: np.random.Generator, change: float, spread: float = 0.02) -> Simple:
    """A baseline of 30 points, a change, and single answers of which queries add `spread`."""
    queries = 40
    trials = np.repeat(np.array([6.0, 3.0, 4.0, 2.0])[:, None], queries, 1)
    before = 0.3 + 0.19 * _centred(rng, queries)
    after = before + change + np.hypot(0.25, spread) * _centred(rng, queries)
    return Simple(trials, np.array([0.2, 0.01, 0.2, 0.01]), np.array([before, after]))


def _centred(rng: np.random.Generator, size: int) -> Array:
    """Numbers with mean 0 and standard deviation 1, exactly."""
    values = rng.standard_normal(size)
    return np.asarray((values - values.mean()) / values.std(ddof=1))


def test_the_block_reaches_its_probability_and_a_smaller_one_does_not() -> None:
    """No block with one trial less in a cell, or at half the cost, does as well by much."""
    rng = np.random.default_rng(7)
    data, draws = some_known(rng, -0.1), draw(rng, 40)
    rule = claim_decided(claim("reduces"), MARGIN, THRESHOLD, THRESHOLD)
    found = more_trials(data, rule, draws, prices=(1, 1, 1, 1))
    assert found is not None
    assert found.probability >= TARGET
    assert found.cost == sum(found.block.per_query)
    reached = [
        sum(cells)
        for cells in itertools.product(range(0, 14, 2), range(0, 8, 2), range(0, 14, 2), range(5))
        if sum(cells) < 0.8 * found.cost
        and probability(data, Block(per_query=tuple(map(float, cells))), rule, _thin(draws)) > 0.82
    ]
    assert not reached


def _thin(draws: Any) -> Any:
    return type(draws)(draws.moves[:, :300], draws.scales[:, :300])


def test_trials_that_cost_more_are_bought_less() -> None:
    """With the changed prompt ten times as dear, its share of the block falls."""
    rng = np.random.default_rng(8)
    data, draws = some_known(rng, -0.1), draw(rng, 40)
    rule = claim_decided(claim("reduces"), MARGIN, THRESHOLD, THRESHOLD)
    shares = []
    for price in (1.0, 10.0):
        found = more_trials(data, rule, draws, prices=(1.0, 1.0, price, price))
        assert found is not None
        shares.append(sum(found.block.per_query[2:]) / sum(found.block.per_query))
    assert shares[1] < shares[0] / 1.5


def test_where_queries_differ_no_number_of_trials_suffices_and_more_queries_do() -> None:
    """An effect that differs by 60 points between queries is not settled by 40 of them."""
    rng = np.random.default_rng(9)
    data, draws = some_known(rng, -0.12, spread=0.6), draw(rng, 40)
    rule = claim_decided(claim("reduces"), MARGIN, THRESHOLD, THRESHOLD)
    assert more_trials(data, rule, draws, prices=(1, 1, 1, 1)) is None
    found = more_queries(data, rule, draws, price=3.0)
    assert found is not None
    assert found.cost == 3.0 * found.block.queries
    assert found.probability >= TARGET
    fewer = Block(queries=round(0.8 * found.block.queries))
    assert probability(data, fewer, rule, draws) < found.probability


def test_no_baseline_no_verdict() -> None:
    """With a gap far below twice the margin, no block makes a claim one that is judged."""
    rng = np.random.default_rng(10)
    data = some_known(rng, 0.0)
    low = Simple(data.trials, data.within, data.gaps - 0.3)
    rule = claim_decided(claim("irrelevant"), MARGIN, 0.05, 0.05)
    for block in (Block(per_query=(500.0,) * 4), Block(queries=4000)):
        assert probability(low, block, rule, draw(rng, 40)) < 0.001


def test_a_gap_near_what_is_needed_takes_more_trials_to_settle() -> None:
    """Only the original is tried further, and the more the nearer its gap is to 10 points."""
    rng = np.random.default_rng(11)
    costs = []
    for gap in (0.2, 0.16):
        data = some_known(rng, 0.0, spread=0.0)
        noise = (0.2 / 6 + 0.01 / 3) ** 0.5
        original = gap + noise * _centred(rng, 40)
        data = Simple(data.trials / 3, data.within, np.array([original, original]))
        found = more_trials(
            data, baseline_settled(MARGIN), draw(rng, 40), prices=(1, 1, 1, 1), cells=(0, 1)
        )
        assert found is not None
        assert found.block.per_query[2:] == (0, 0)
        costs.append(found.cost)
    assert costs[1] > costs[0]


def trials_of(rng: np.random.Generator, falls: Array) -> pl.DataFrame:
    """Two factors and a query for each of `falls`: by how much removing f lowers its rate."""
    rows = []
    for query, fall in enumerate(falls):
        for f, g in itertools.product(("original", "removed"), repeat=2):
            for arm, count in (("train", int(rng.integers(3, 6))), ("deploy", 2)):
                rate = 0.02 if arm == "deploy" else 0.6 - fall * (f != "original")
                rows += [(f"q{query}", f, g, arm, float(rng.random() < rate)) for _ in range(count)]
    return pl.DataFrame(rows, schema=["query_id", "f", "g", "arm", "complied"], orient="row")


def observed(frame: pl.DataFrame) -> Observations:
    return observe(frame, factors=["f", "g"], outcomes=["complied"])


def test_the_cells_of_a_change_are_read_from_the_trials() -> None:
    """Counts, gaps and variances as loops over the rows give them."""
    observations = observed(trials_of(np.random.default_rng(12), np.full(30, 0.2)))
    term = Term("f", "removed")
    found = Simple.of(observations, term, "complied")
    assert found is not None
    for i, frame in enumerate((original_of(observations), changed_of(observations, term))):
        rates = query_rates(frame, "complied")
        assert found.gaps[i] == pytest.approx((rates["train"] - rates["deploy"]).to_numpy())
        for j, arm in enumerate(("train", "deploy")):
            cell = frame.filter(pl.col("arm") == arm)
            groups = [rows["complied"].to_numpy() for _, rows in sorted(cell.group_by("query"))]
            assert found.trials[2 * i + j].tolist() == [len(group) for group in groups]
            squares = sum(float(((group - group.mean()) ** 2).sum()) for group in groups)
            free = sum(len(group) - 1 for group in groups)
            if squares:
                assert found.within[2 * i + j] == pytest.approx(squares / free)


def test_more_of_a_design_narrows_its_averaged_effects_as_more_trials_do() -> None:
    """The foretold error is that of a fit to three times the trials, and so are the moves."""
    rng = np.random.default_rng(13)
    frames = []
    for _ in range(8):
        falls = np.clip(0.25 + 0.2 * rng.standard_normal(30), -0.4, 0.6)
        frames += [trials_of(rng, falls) for _ in range(3)]
    term = Term("f", "removed")

    def fitted(frame: pl.DataFrame) -> tuple[float, float]:
        observations = observed(frame)
        fit = linear_probability(observations.frame, "complied", observations.terms, weighted=True)
        place = [name.label for name in fit.names].index("arm[train]:f[removed]")
        found = fit.contrast(np.eye(len(fit.names))[place])
        assert found is not None
        return found

    draws = draw(rng, 30)
    foretold, moves, seen, moved = [], [], [], []
    for frame in frames:
        once = fitted(frame)
        data = Averaged.of(observed(frame), term, "complied", before=(0.5, 0.03), effect=once)
        future = data.future(Block(times=2.0), draws)
        foretold.append(float(np.mean(future.effect.std_error)))
        moves.append(float(np.std(future.effect.estimate)))
    for i in range(0, len(frames), 3):
        thrice = fitted(pl.concat(frames[i : i + 3]))
        seen.append(thrice[1])
        moved += [fitted(frame)[0] - thrice[0] for frame in frames[i : i + 3]]
    assert np.mean(foretold) == pytest.approx(np.mean(seen), rel=0.15)
    assert np.mean(moves) == pytest.approx(np.sqrt(np.mean(np.square(moved))), rel=0.3)
    rule = claim_decided(
        Claim("c", "s", "reduces", "f", "removed", estimand="gap_effect_averaged"), 0.05, 0.05, 0.05
    )
    found = more_trials(data, rule, draws, prices=[100.0])
    assert found is not None
    assert found.cost == pytest.approx(100 * found.block.times)
