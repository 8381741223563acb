"""The diagnosis of designs: aliases, resolution and efficiency of the textbooks."""

import itertools
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pytest
from test_laws import NEEDY, twos

from variants.designs import DESIGNS, Design, target_law
from variants.diagnosis import Diagnosis, diagnose, diagnosis_text


def made(
    kind: str, factors: dict[str, list[str]], *, trials: int = 2000, **options: object
) -> tuple[Design, Diagnosis]:
    """A design of plain factors and its diagnosis."""
    design = DESIGNS[kind](factors, trials=trials, rng=np.random.default_rng(0), **options)
    return design, diagnose(design.conditions, design.weights, factors)


def signs(design: Design, names: Sequence[str]) -> np.ndarray:
    """The design as -1 (reference) and 1, one row per condition."""
    return np.array(
        [[1 if c[name] == "removed" else -1 for name in names] for c in design.conditions]
    )


def effects_of(X: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Main effects, and two-factor interactions as products, in -1 and 1."""
    found = {name: X[:, i] for i, name in enumerate(names)}
    for i, j in itertools.combinations(range(len(names)), 2):
        found[f"{names[i]} x {names[j]}"] = X[:, i] * X[:, j]
    return found


def groups_by_hand(X: np.ndarray, names: Sequence[str]) -> set[frozenset[str]]:
    """Effects of one or two factors with the same product in every run, up to its sign."""
    groups: defaultdict[bytes, set[str]] = defaultdict(set)
    for name, column in effects_of(X, names).items():
        groups[(column * column[0]).tobytes()].add(name)
    return {frozenset(group) for group in groups.values() if len(group) > 1}


# Factors, runs, resolution, and how many groups of how many effects the textbook's table has
# (Box, Hunter & Hunter 2005, table 6.22 and its alias structures).
TEXTBOOK = {
    "2^(4-1)": (4, 8, 4, {2: 3}),
    "2^(5-2)": (5, 8, 3, {2: 6, 3: 1}),
    "2^(6-2)": (6, 16, 4, {2: 6, 3: 1}),
    "2^(7-4)": (7, 8, 3, {4: 7}),
    "2^(8-4)": (8, 16, 4, {4: 7}),
}


@pytest.mark.parametrize(("count", "runs", "resolution", "sizes"), TEXTBOOK.values(), ids=TEXTBOOK)
def test_aliases_of_fractions_are_the_textbook_s(
    count: int, runs: int, resolution: int, sizes: dict[int, int]
) -> None:
    """Groups equal the products multiplied out, and are as many and as large as in print."""
    factors = twos(count)
    design, found = made("fractional", factors, conditions=runs)
    assert len(design.conditions) == runs
    expected = groups_by_hand(signs(design, list(factors)), list(factors))
    assert {frozenset(group) for group in found.aliases} == expected
    counted: defaultdict[int, int] = defaultdict(int)
    for group in found.aliases:
        counted[len(group)] += 1
    assert dict(counted) == sizes
    assert found.resolution == resolution
    assert found.d_efficiency == pytest.approx(1)
    assert found.inseparable == ()
    assert found.partial == ()


@pytest.mark.parametrize(("count", "asked"), [(5, 5), (6, 6), (4, None), (1, None)])
def test_five_or_more_and_full_are_clear(count: int, asked: int | None) -> None:
    """At resolution V and in a full factorial no effect of up to two factors stands for another."""
    options = {"resolution": asked} if asked else {}
    _, found = made("fractional" if asked else "full", twos(count), **options)
    assert found.aliases == ()
    assert found.resolution == 5
    assert not found.absorbed


def test_plackett_burman_shares_thirds() -> None:
    """In twelve runs each main effect has |1/3| of every interaction of two others."""
    factors = twos(11)
    design, found = made("plackett_burman", factors)
    columns = effects_of(signs(design, list(factors)), list(factors))
    assert found.resolution == 3
    assert found.aliases == ()
    assert found.d_efficiency == pytest.approx(1)
    assert [alias.effect for alias in found.partial] == list(factors)
    for alias in found.partial:
        assert abs(alias.correlation) == pytest.approx(1 / 3)
        by_hand = np.corrcoef(columns[alias.effect], columns[alias.interaction])[0, 1]
        assert alias.correlation == pytest.approx(by_hand)


@pytest.mark.parametrize("kind", ["one_at_a_time", "two_stage"])
def test_one_at_a_time_tells_no_interaction(kind: str) -> None:
    """No two changes ever come together, and the text says what that means."""
    _, found = made(kind, twos(6))
    assert found.interactions == 15
    assert len(set(found.absorbed)) == 15
    assert found.inseparable == ()
    assert "no interaction can be told from the main effects" in "\n".join(diagnosis_text(found))


def test_absorbed_interactions_are_in_the_span_of_the_main_effects() -> None:
    """By rank: an interaction is absorbed if it adds nothing to intercept and main effects."""
    factors = twos(5)
    listed = [{}, *({name: "removed"} for name in factors)]
    listed += [{"f0": "removed", "f1": "removed"}, {"f2": "removed", "f3": "removed"}]
    design, found = made("listed", factors, listed=listed)
    X = (signs(design, list(factors)) + 1) // 2
    base = np.column_stack([np.ones(len(X)), X])
    expected = {
        f"f{i} x f{j}"
        for i, j in itertools.combinations(range(5), 2)
        if np.linalg.matrix_rank(np.column_stack([base, X[:, i] * X[:, j]])) == 6
    }
    assert found.interactions == 10
    assert set(found.absorbed) == expected
    assert expected == {
        f"f{i} x f{j}" for i, j in itertools.combinations(range(5), 2)
    } - {"f0 x f1", "f2 x f3"}  # fmt: skip


@pytest.mark.parametrize("runs", [12, 16, 20, 24, 32])
def test_d_optimal_sets_of_eight_factors_are_as_good_as_known(runs: int) -> None:
    """Orthogonal arrays exist in these sizes, so that the best D-efficiency is 1."""
    factors = twos(8)
    design, found = made("d_optimal", factors, conditions=runs)
    assert found.d_efficiency is not None
    assert found.d_efficiency >= 0.98
    X = np.column_stack([np.ones(len(design.conditions)), signs(design, list(factors))])
    weights = np.array(design.weights)
    assert weights * runs == pytest.approx(np.round(weights * runs))
    by_hand = np.linalg.det(X.T @ (X * weights[:, None])) ** (1 / 9)
    assert found.d_efficiency == pytest.approx(by_hand)


def test_nothing_is_absorbed_by_effects_that_are_not_there() -> None:
    """A factor that never changes explains nothing: by rank, the interaction of others stays."""
    factors = twos(3)
    listed = [{"f0": a, "f1": b} for a in factors["f0"] for b in factors["f1"]]
    _, found = made("listed", factors, listed=listed)
    assert found.inseparable == ("f2",)
    assert set(found.absorbed) == {"f0 x f2", "f1 x f2"}


def test_effects_that_cannot_be_estimated_are_named() -> None:
    """Two factors that only change together, and one that never changes, are not told apart."""
    factors = twos(4)
    listed = [{}, {"f0": "removed", "f1": "removed"}, {"f2": "removed"}]
    _, found = made("listed", factors, listed=listed)
    assert set(found.inseparable) == {"f0", "f1", "f3"}
    assert found.d_efficiency is None
    assert found.resolution is None
    assert any({"f0", "f1"} <= set(group) for group in found.aliases)
    assert "cannot be told from other changes: f0, f1, f3" in "\n".join(diagnosis_text(found))


def test_levels_are_named_where_there_are_several() -> None:
    """A three-level factor has two main effects, with the level in brackets."""
    factors = {"a": ["original", "removed", "loud"], "b": ["original", "removed"]}
    design = DESIGNS["listed"](
        factors,
        trials=100,
        rng=np.random.default_rng(0),
        listed=[{}, {"a": "removed"}, {"a": "loud", "b": "removed"}],
    )
    found = diagnose(design.conditions, design.weights, factors)
    assert set(found.inseparable) == {"a[loud]", "b"}
    assert any({"a[loud]", "b"} <= set(group) for group in found.aliases)


def test_balance_counts_what_is_not_applicable() -> None:
    """Shares of NEEDY one at a time: of 1 + 7 conditions, the original with sqrt(7) shares."""
    design = DESIGNS["one_at_a_time"](NEEDY, trials=100, rng=np.random.default_rng(0))
    law = target_law(NEEDY)
    balance = diagnose(design.conditions, design.weights, law.levels).balance
    single = 1 / (7 + 7**0.5)
    assert balance["a"] == pytest.approx(
        {"original": 1 - 2 * single, "removed": single, "loud": single}
    )
    assert balance["d"] == pytest.approx(
        {"original": 1 - 2 * single, "removed": single, None: single}
    )
    assert balance["e"] == pytest.approx({"original": single, "removed": 0, None: 1 - single})


def test_correlated_main_effects_have_no_resolution() -> None:
    """Half of each factor's removals come with the other's: the correlation is by hand."""
    factors = twos(2)
    listed = [{}, {}, {"f0": "removed"}, {"f1": "removed"}, {"f0": "removed", "f1": "removed"}]
    _, found = made("listed", factors, listed=listed)
    assert found.resolution is None
    X = np.array([[1, -1, -1], [1, -1, -1], [1, 1, -1], [1, -1, 1], [1, 1, 1]])
    assert found.d_efficiency == pytest.approx(np.linalg.det(X.T @ X / 5) ** (1 / 3))


def test_too_many_interactions_are_not_looked_at() -> None:
    """Thirty factors of five levels have 6,960 pairs of levels; the text says so."""
    factors = {f"f{i}": ["original", "removed", "a", "b", "c"] for i in range(30)}
    _, found = made("one_at_a_time", factors)
    assert found.interactions is None
    assert found.aliases == ()
    assert "too many interactions" in "\n".join(diagnosis_text(found))


def test_the_text_names_aliases_in_the_field_s_words() -> None:
    """A fraction of resolution III: a main effect with the interactions that it stands for."""
    names = ["rule", "tag", "reward"]
    factors = {name: ["original", "removed"] for name in names}
    _, found = made("fractional", factors)
    text = "\n".join(diagnosis_text(found))
    assert "rule is aliased with tag x reward" in text
    assert "resolution III" in text
    assert "D-efficiency 1.00" in text
    assert "each feature changed in 50 % of the trials" in text
