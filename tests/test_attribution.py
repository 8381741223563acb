"""Attribution: Shapley values by brute force, chains of a Latin square, needs, missing ends."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import polars as pl
import pytest

from analysis.attribution import attribution, contributions
from analysis.estimates import ATTRIBUTION, Effect
from analysis.observations import observe

Levels = tuple[str | None, ...]
ORIGINAL, REMOVED = "original", "removed"


def trials(
    conditions: Iterable[Levels], *, seed: int = 0, queries: int = 6, wordings: int = 1
) -> pl.DataFrame:
    """Trials of every condition in both arms of every query, two of each; rates at random."""
    rng = np.random.default_rng(seed)
    rows = []
    for at in conditions:
        rates = {"train": rng.uniform(0.3, 0.9), "deploy": rng.uniform(0, 0.3)}
        for q, w, arm in itertools.product(range(queries), range(wordings), rates):
            for y in rng.random(2) < rates[arm]:
                rows.append((f"q{q}", f"w{w}", arm, *at, float(y)))
    names = ["query_id", "wording", "arm", *"abcdef"[: len(rows[0]) - 4], "y"]
    kinds = {n: pl.Float64 if n == "y" else pl.String for n in names}
    return pl.DataFrame(rows, schema=kinds, orient="row")


def gap(frame: pl.DataFrame, at: Levels, factors: Sequence[str]) -> float:
    """Gap of a condition, in a loop over its trials."""
    means = []
    for arm in ("train", "deploy"):
        own = [
            row["y"]
            for row in frame.iter_rows(named=True)
            if row["arm"] == arm and tuple(row[f] for f in factors) == at
        ]
        means.append(sum(own) / len(own))
    return float(means[0] - means[1])


def attributed(frame: pl.DataFrame, factors: Sequence[str]) -> dict[str | None, Effect]:
    """The row of every factor."""
    checked = observe(frame, factors=factors, outcomes=["y"], wording="wording")
    return {row.factor: row for row in attribution(checked, "y")}


def along(
    frame: pl.DataFrame, factors: Sequence[str], orders: Iterable[Sequence[str]]
) -> dict[str, float]:
    """Mean change of the gap at each factor's removal, over orders, one after the other."""
    changes: dict[str, list[float]] = {f: [] for f in factors}
    for order in orders:
        at = dict.fromkeys(factors, ORIGINAL)
        for factor in order:
            before = gap(frame, tuple(at.values()), factors)
            at[factor] = REMOVED
            changes[factor].append(gap(frame, tuple(at.values()), factors) - before)
    return {f: sum(of) / len(of) for f, of in changes.items()}


@pytest.mark.parametrize(("k", "seed"), [(2, 0), (3, 1), (4, 2)])
def test_a_full_factorial_has_shapley_values(k: int, seed: int) -> None:
    """Mean contribution over all k! orders, by brute force; they add up to the end points."""
    factors = "abcd"[:k]
    frame = trials(itertools.product((ORIGINAL, REMOVED), repeat=k), seed=seed)
    expected = along(frame, factors, itertools.permutations(factors))
    found = attributed(frame, factors)
    assert list(found) == list(factors)
    for f, row in found.items():
        assert f is not None
        assert row.estimand == ATTRIBUTION
        assert row.estimate == pytest.approx(expected[f])
        assert row.train_part is not None
        assert row.deploy_part is not None
        assert row.train_part - row.deploy_part == pytest.approx(row.estimate)
        assert (row.df, row.n_clusters, row.n_trials) == (5, 6, 2**k * 6 * 2 * 2)
    ends = gap(frame, (REMOVED,) * k, factors) - gap(frame, (ORIGINAL,) * k, factors)
    assert sum(row.estimate or 0 for row in found.values()) == pytest.approx(ends)


def test_the_error_is_that_of_the_queries_own_contributions() -> None:
    """Shapley values of each query alone, their mean and their standard error."""
    factors = "abc"
    frame = trials(itertools.product((ORIGINAL, REMOVED), repeat=3), seed=4)
    orders = list(itertools.permutations(factors))
    own = [along(f, factors, orders) for _, f in frame.group_by("query_id")]
    for factor, row in attributed(frame, factors).items():
        values = [of[factor or ""] for of in own]
        assert row.estimate == pytest.approx(np.mean(values))
        assert row.std_error == pytest.approx(np.std(values, ddof=1) / math.sqrt(len(values)))


def test_the_chains_of_a_latin_square_count_the_same() -> None:
    """Four nested chains, each factor once at every place, and the orders that cross between them.

    From b the chain of a is joined at ab: sixteen orders go through conditions that were seen.
    """
    factors = "abcd"
    orders = [factors[i:] + factors[:i] for i in range(4)]
    conditions = {
        tuple(REMOVED if f in order[:n] else ORIGINAL for f in factors)
        for order in orders
        for n in range(5)
    }
    assert len(conditions) == 14
    frame = trials(sorted(conditions), seed=5)
    seen = [
        order
        for order in itertools.permutations(factors)
        if all(
            tuple(REMOVED if f in order[:n] else ORIGINAL for f in factors) in conditions
            for n in range(5)
        )
    ]
    assert len(seen) == 16
    expected = along(frame, factors, seen)
    for f, row in attributed(frame, factors).items():
        assert row.estimate == pytest.approx(expected[f or ""])


def test_what_needs_a_factor_goes_along_with_it() -> None:
    """b needs a: out of a with b it takes b along, and its contribution is that of both."""
    conditions: list[Levels] = [
        (ORIGINAL, ORIGINAL, ORIGINAL),
        (ORIGINAL, REMOVED, ORIGINAL),
        (REMOVED, None, ORIGINAL),
        (ORIGINAL, ORIGINAL, REMOVED),
        (ORIGINAL, REMOVED, REMOVED),
        (REMOVED, None, REMOVED),
    ]
    frame = trials(conditions, seed=6)
    g = {at: gap(frame, at, "abc") for at in conditions}
    # Orders that respect the need: b before a, or a alone with b going along; c anywhere.
    orders: list[list[tuple[str, Levels]]] = [
        [
            ("b", (ORIGINAL, REMOVED, ORIGINAL)),
            ("a", (REMOVED, None, ORIGINAL)),
            ("c", (REMOVED, None, REMOVED)),
        ],
        [
            ("b", (ORIGINAL, REMOVED, ORIGINAL)),
            ("c", (ORIGINAL, REMOVED, REMOVED)),
            ("a", (REMOVED, None, REMOVED)),
        ],
        [
            ("c", (ORIGINAL, ORIGINAL, REMOVED)),
            ("b", (ORIGINAL, REMOVED, REMOVED)),
            ("a", (REMOVED, None, REMOVED)),
        ],
        [("a", (REMOVED, None, ORIGINAL)), ("c", (REMOVED, None, REMOVED))],
        [("c", (ORIGINAL, ORIGINAL, REMOVED)), ("a", (REMOVED, None, REMOVED))],
    ]
    expected = dict.fromkeys("abc", 0.0)
    for order in orders:
        at: Levels = (ORIGINAL, ORIGINAL, ORIGINAL)
        for factor, after in order:
            expected[factor] += (g[after] - g[at]) / len(orders)
            at = after
    found = attributed(frame, "abc")
    assert {f: row.estimate for f, row in found.items()} == pytest.approx(expected)
    total = sum(row.estimate or 0 for row in found.values())
    assert total == pytest.approx(g[REMOVED, None, REMOVED] - g[ORIGINAL, ORIGINAL, ORIGINAL])


@pytest.mark.parametrize(
    "lost",
    [
        {(REMOVED, REMOVED, REMOVED)},
        {(ORIGINAL, ORIGINAL, ORIGINAL)},
        {
            (REMOVED, ORIGINAL, ORIGINAL),
            (ORIGINAL, REMOVED, ORIGINAL),
            (ORIGINAL, ORIGINAL, REMOVED),
        },
        {(REMOVED, REMOVED, ORIGINAL), (ORIGINAL, REMOVED, REMOVED), (REMOVED, ORIGINAL, REMOVED)},
    ],
)
def test_without_a_complete_order_there_is_nothing(lost: set[Levels]) -> None:
    """The stripped prompt, the original, or every step between was not observed."""
    frame = trials(set(itertools.product((ORIGINAL, REMOVED), repeat=3)) - lost)
    assert attributed(frame, "abc") == {}


def test_a_stripped_prompt_seen_in_one_arm_is_not_observed() -> None:
    """Its gap is not known."""
    frame = trials(itertools.product((ORIGINAL, REMOVED), repeat=2))
    stripped = (pl.col("a") == REMOVED) & (pl.col("b") == REMOVED) & (pl.col("arm") == "deploy")
    assert attributed(frame.filter(~stripped), "ab") == {}
    nothing = frame.with_columns(y=pl.when(stripped).then(None).otherwise(pl.col("y")))
    assert attributed(nothing, "ab") == {}


def test_a_query_without_a_step_leaves_all_contributions() -> None:
    """They are over the same queries, so that they still add up."""
    conditions = list(itertools.product((ORIGINAL, REMOVED), repeat=2))
    frame = trials(conditions, seed=8)
    hole = (pl.col("query_id") == "q2") & (pl.col("a") == REMOVED) & (pl.col("b") == ORIGINAL)
    hole |= (pl.col("query_id") == "q4") & (pl.col("b") == REMOVED) & (pl.col("arm") == "train")
    found = attributed(frame.filter(~hole), "ab")
    rest = frame.filter(~pl.col("query_id").is_in(["q2", "q4"]))
    expected = along(rest, "ab", ["ab", "ba"])
    assert {f: row.estimate for f, row in found.items()} == pytest.approx(expected)
    assert {row.n_clusters for row in found.values()} == {4}


def test_a_query_without_the_last_step_leaves_the_first_too() -> None:
    """A single order: contributions are over the same queries, or they would not add up."""
    chain = [(ORIGINAL, ORIGINAL), (REMOVED, ORIGINAL), (REMOVED, REMOVED)]
    frame = trials(chain, seed=11)
    frame = frame.filter((pl.col("b") == ORIGINAL) | (pl.col("query_id") != "q2"))
    found = attributed(frame, "ab")
    expected = along(frame.filter(pl.col("query_id") != "q2"), "ab", ["ab"])
    assert {f: row.estimate for f, row in found.items()} == pytest.approx(expected)
    assert {row.n_clusters for row in found.values()} == {5}


def test_a_condition_few_queries_have_is_no_step() -> None:
    """It would leave too few queries for all others."""
    frame = trials(itertools.product((ORIGINAL, REMOVED), repeat=3), seed=9)
    rare = (pl.col("a") == REMOVED) & (pl.col("b") == REMOVED) & (pl.col("c") == ORIGINAL)
    frame = frame.filter(~rare | pl.col("query_id").is_in(["q0", "q1"]))
    orders = [o for o in itertools.permutations("abc") if set(o[:2]) != {"a", "b"}]
    expected = along(frame, "abc", orders)
    found = attributed(frame, "abc")
    assert {f: row.estimate for f, row in found.items()} == pytest.approx(expected)
    assert {row.n_clusters for row in found.values()} == {6}


def test_five_wordings_enter_the_error() -> None:
    """As in every contrast."""
    found = attributed(trials(itertools.product((ORIGINAL, REMOVED), repeat=2), wordings=5), "ab")
    assert {row.df for row in found.values()} == {4}
    assert {row.method for row in found.values()} == {
        "removal orders, paired by query, two-way query x wording, t(min(Q,W)-1)"
    }


def brute(
    conditions: Mapping[int, Levels], levels: Mapping[str, tuple[str, ...]]
) -> list[list[tuple[int, str]]]:
    """All orders to the condition with every factor removed, by trying every step."""
    numbers = {at: c for c, at in conditions.items()}

    def onward(at: tuple[str, ...]) -> list[list[tuple[int, str]]]:
        if all(a == REMOVED for a in at):
            return [[]]
        found = []
        for i, factor in enumerate(levels):
            after = (*at[:i], REMOVED, *at[i + 1 :])
            if at[i] == ORIGINAL and after in numbers:
                found += [[(numbers[after], factor), *rest] for rest in onward(after)]
        return found

    return onward((ORIGINAL,) * len(levels))


@pytest.mark.parametrize("seed", range(8))
def test_weights_are_those_of_all_orders_among_some_conditions(seed: int) -> None:
    """Random subsets of a factorial of five factors, each order followed step by step."""
    rng = np.random.default_rng(seed)
    levels = dict.fromkeys("abcde", (ORIGINAL, REMOVED))
    ends = {(ORIGINAL,) * 5, (REMOVED,) * 5}
    conditions = {
        i: at
        for i, at in enumerate(itertools.product((ORIGINAL, REMOVED), repeat=5), 1)
        if at in ends or rng.random() < 0.6
    }
    orders = brute(conditions, levels)
    expected: dict[str, dict[int, float]] = {}
    for order in orders:
        at = min(conditions)
        for after, factor in order:
            of = expected.setdefault(factor, {})
            of[after] = of.get(after, 0.0) + 1 / len(orders)
            of[at] = of.get(at, 0.0) - 1 / len(orders)
            at = after
    found = contributions(conditions, levels)
    assert found.keys() == expected.keys()
    for factor, weights in expected.items():
        kept = {c: w for c, w in weights.items() if abs(w) > 1e-9}
        assert found[factor] == pytest.approx(kept)


def test_the_stripped_prompt_has_most_removed() -> None:
    """Of two prompts with nothing at its original the one that lacks more is the end."""
    levels = {"a": (ORIGINAL, "loud", REMOVED), "b": (ORIGINAL, "loud", REMOVED)}
    conditions: dict[int, Levels] = dict(
        enumerate(
            [
                (ORIGINAL, ORIGINAL),
                (ORIGINAL, "loud"),
                (ORIGINAL, REMOVED),
                ("loud", REMOVED),
                (REMOVED, ORIGINAL),
                (REMOVED, "loud"),
                (REMOVED, REMOVED),
            ]
        )
    )
    found = contributions(conditions, levels)
    unclear = {0: (ORIGINAL,), 1: ("loud",), 2: ("soft",)}
    assert contributions(unclear, {"a": (ORIGINAL, "loud", "soft")}) == {}
    assert found == {
        "a": {6: 0.5, 2: -0.5, 4: 0.5, 0: -0.5},
        "b": {2: 0.5, 0: -0.5, 6: 0.5, 4: -0.5},
    }
