"""The law: its probabilities, what is excluded, and samples that stand for it without bias."""

import itertools
import math
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import Draft, drafts

from variants import Scenario
from variants.designs import mixed
from variants.laws import (
    DesignError,
    Law,
    dependants,
    independent,
    slots,
    systematic,
    target_law,
)

Levels = tuple[tuple[str, str | None], ...]
Settle = Callable[[Mapping[str, str]], Levels]
Exclusions = Sequence[Mapping[str, str]]
SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


def twos(count: int) -> dict[str, list[str]]:
    """So many factors of two levels."""
    return {f"f{i}": ["original", "removed"] for i in range(count)}


NEEDY = Scenario.parse(
    """+++
[arms]
train = "free"
deploy = "paid"
[factors.a]
levels = ["original", "removed", "loud"]
[factors.b]
[factors.c]
levels = ["original", "removed", "loud", "soft"]
[factors.d]
needs = ["b"]
[factors.e]
needs = ["a=loud"]
+++
# user
{{#arm train}}F{{#arm deploy}}P{{/arm}}
{{#a original}}A{{#c original}}C{{#c loud}}!{{/c}}{{#a loud}}L{{/a}}
{{#b original}}B{{/b}}{{#d original}}D{{/d}}
{{query}}
"""
)


def settled_by_hand(levels: Mapping[str, str]) -> Levels:
    """The needs of NEEDY in plain words."""
    a, b, c, d, e = (levels.get(name, "original") for name in "abcde")
    return (
        ("a", a),
        ("b", b),
        ("c", c if a == "original" else None),
        ("d", d if b == "original" else None),
        ("e", e if a == "loud" else None),
    )


def forbidden(condition: Levels, exclusions: Exclusions) -> bool:
    """Whether a condition has all the levels of one of the exclusions."""
    levels = dict(condition)
    return any(all(levels[n] == at for n, at in said.items()) for said in exclusions)


def law_by_enumeration(
    levels: Mapping[str, Sequence[str]],
    rate: float,
    settle: Settle,
    exclusions: Exclusions = (),
) -> dict[Levels, float]:
    """Probability of every condition: all draws, one by one, added up where they settle alike.

    Levels that are excluded alone are never drawn; draws that hold an exclusion are made again.
    """
    gone = {next(iter(said.items())) for said in exclusions if len(said) == 1}
    left = {n: [at for at in known if (n, at) not in gone] for n, known in levels.items()}
    law: dict[Levels, float] = {}
    for choice in itertools.product(*left.values()):
        probability = 1.0
        for level, (reference, *others) in zip(choice, left.values(), strict=True):
            probability *= 1 - rate if level == reference else rate / len(others)
        condition = settle(dict(zip(left, choice, strict=True)))
        if not forbidden(condition, exclusions):
            law[condition] = law.get(condition, 0.0) + probability
    total = sum(law.values())
    return {condition: p / total for condition, p in law.items()}


def unsettled(levels: Mapping[str, Sequence[str]]) -> Settle:
    """Settling where nothing needs anything."""
    return lambda drawn: tuple((name, drawn.get(name, levels[name][0])) for name in levels)


def levels_of(scenario: Scenario) -> dict[str, tuple[str, ...]]:
    """The levels of each factor of a scenario."""
    return {name: factor.levels for name, factor in scenario.factors.items()}


def changed(condition: Levels) -> int:
    """How many factors are away from the original."""
    return sum(level not in ("original", None) for _, level in condition)


Case = tuple[Mapping[str, Sequence[str]], Settle, float | None, Exclusions]
MIXED_LEVELS = {
    "p": ["yes", "no"], "q": ["1", "2", "3", "4"], "r": ["x", "y", "z"], "s": ["on", "off"],
}  # fmt: skip
PAIRS = ({"f0": "removed", "f1": "removed"}, {"f2": "removed", "f3": "original"})
NEEDY_EXCLUDED = ({"c": "soft"}, {"a": "loud", "b": "removed"}, {"d": "removed", "c": "loud"})
CASES: dict[str, Case] = {
    "1 of two": (twos(1), unsettled(twos(1)), None, ()),
    "2 of two": (twos(2), unsettled(twos(2)), None, ()),
    "4 of two": (twos(4), unsettled(twos(4)), None, ()),
    "6 of two": (twos(6), unsettled(twos(6)), None, ()),
    "8 of two": (twos(8), unsettled(twos(8)), None, ()),
    "8 of two, rare": (twos(8), unsettled(twos(8)), 0.05, ()),
    "7 of two, often": (twos(7), unsettled(twos(7)), 0.8, ()),
    "6 of two, excluded": (twos(6), unsettled(twos(6)), None, PAIRS),
    "mixed levels": (MIXED_LEVELS, unsettled(MIXED_LEVELS), 0.3, ()),
    "needs": (levels_of(NEEDY), settled_by_hand, None, ()),
    "needs, often": (levels_of(NEEDY), settled_by_hand, 0.7, ()),
    "needs, excluded": (levels_of(NEEDY), settled_by_hand, 0.5, NEEDY_EXCLUDED),
}


def subject_of(
    levels: Mapping[str, Sequence[str]], settle: Settle
) -> Mapping[str, Sequence[str]] | Scenario:
    """What the law is made of: the scenario where there are needs."""
    return NEEDY if settle is settled_by_hand else levels


def law_of(case: Case) -> Law:
    """The law of a case."""
    levels, settle, rate, exclusions = case
    return target_law(subject_of(levels, settle), rate=rate, exclude=exclusions)


def truth_of(case: Case) -> dict[Levels, float]:
    """The probabilities of a case, by enumeration."""
    levels, settle, rate, exclusions = case
    return law_by_enumeration(levels, rate or min(0.5, 2 / len(levels)), settle, exclusions)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_law_is_that_of_independent_draws(case: Case) -> None:
    """Probabilities agree with adding up all draws, one by one, and sum to 1."""
    law, expected = law_of(case), truth_of(case)
    assert law.rate == (case[2] or min(0.5, 2 / len(case[0])))
    found = {condition.levels: law.probability(condition) for condition in law.conditions()}
    assert found == pytest.approx(expected, abs=1e-12)
    assert sum(found.values()) == pytest.approx(1, abs=1e-12)
    assert len(list(law.conditions())) == len(expected)


@st.composite
def excluded(draw: st.DrawFn, levels: Mapping[str, Sequence[str]]) -> list[dict[str, str]]:
    """Up to three combinations of levels, each with a changed level, that leave two levels."""
    found: list[dict[str, str]] = []
    for _ in range(draw(st.integers(0, 3))):
        names = draw(st.lists(st.sampled_from(sorted(levels)), min_size=1, max_size=3, unique=True))
        said = {name: draw(st.sampled_from(list(levels[name]))) for name in names}
        if len(said) == 1:
            [(name, at)] = said.items()
            gone = {e[name] for e in found if list(e) == [name]} | {at}
            if at == levels[name][0] or len(set(levels[name]) - gone) < 2:
                continue
        if any(at != levels[name][0] for name, at in said.items()):
            found.append(said)
    return found


@given(st.data(), drafts(), st.floats(0.01, 0.99))
@settings(max_examples=60, deadline=None, suppress_health_check=SLOW)
def test_the_law_of_any_scenario_adds_up(data: st.DataObject, draft: Draft, rate: float) -> None:
    """With needs, nesting, levels and exclusions it is that of draws settled by the author."""
    if not draft.levels:
        return
    exclusions = data.draw(excluded(draft.levels))
    law = target_law(Scenario.parse(draft.source), rate=rate, exclude=exclusions)
    expected = law_by_enumeration(
        draft.levels, rate, lambda d: tuple(draft.settled(d).items()), exclusions
    )
    found = {condition.levels: law.probability(condition) for condition in law.conditions()}
    assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_draws_have_the_law_s_frequencies(case: Case) -> None:
    """Every condition comes as often in 4,000 draws as enumeration says, within 5 errors."""
    law, expected = law_of(case), truth_of(case)
    rng = np.random.default_rng(11)
    draws = 4000
    counts = Counter(law.draw(rng).levels for _ in range(draws))
    assert counts.keys() <= expected.keys()
    for condition, p in expected.items():
        assert abs(counts[condition] - draws * p) <= 5 * math.sqrt(draws * p * (1 - p)) + 1


def test_the_law_of_some_names_ignores_the_others() -> None:
    """The rate counts the named factors, and the law of three equals that of three alone."""
    some = target_law(twos(6), ["f0", "f1", "f2"])
    alone = target_law(twos(3))
    assert some.rate == alone.rate == 0.5
    few = target_law(NEEDY, ["b", "d"], 0.3)
    expected = law_by_enumeration(
        {name: known for name, known in levels_of(NEEDY).items() if name in "bd"},
        0.3,
        settled_by_hand,
    )
    found = {condition.levels: few.probability(condition) for condition in few.conditions()}
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_singles_are_all_single_changes(case: Case) -> None:
    """Each level alone with what goes along, but the original and what is excluded."""
    levels, settle, _, exclusions = case
    law = law_of(case)
    original = settle({name: known[0] for name, known in levels.items()})
    expected = {settle({name: at}) for name, known in levels.items() for at in known[1:]}
    expected = {c for c in expected if c != original and not forbidden(c, exclusions)}
    assert law.original.levels == original
    assert {condition.levels for condition in law.singles} == expected
    assert len(law.singles) == len(expected)


def test_who_needs_whom() -> None:
    """Dependants of NEEDY: c stands in a, e needs a at loud, d needs b; plain factors have none."""
    assert dependants(NEEDY, "abcde") == {
        "a": {"c", "e"}, "b": {"d"}, "c": set(), "d": set(), "e": set(),
    }  # fmt: skip
    assert dependants(NEEDY, "ad") == {"a": set(), "d": set()}
    assert dependants(twos(2), ["f0", "f1"]) == {"f0": set(), "f1": set()}


SURFACES: dict[str, Callable[[Levels], float]] = {
    "one factor": lambda c: float(c[0][1] != "original"),
    "two changes": lambda c: float(changed(c) == 2),
    "many changes": lambda c: float(changed(c) > 3),
    "pair": lambda c: float(c[0][1] == c[-1][1] == "original"),
    "product": lambda c: math.prod(0.4 if level != "original" else 1.0 for _, level in c),
    "ragged": lambda c: random.Random(repr(c)).random(),
    "spiky": lambda c: random.Random(repr(c)).random() ** 20,
}


def agree(found: Sequence[float], truth: float) -> bool:
    """Whether the mean lies within 4.5 of its standard errors from the truth."""
    error = np.std(found, ddof=1) / math.sqrt(len(found))
    return bool(abs(np.mean(found) - truth) <= 4.5 * error + 1e-9)


SAMPLERS = {"systematic": systematic, "slots": slots, "independent": independent}
FEW = ("2 of two", "6 of two", "mixed levels", "6 of two, excluded", "needs, excluded")


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
@pytest.mark.parametrize("count", [1, 2, 3, 20])
@pytest.mark.parametrize("name", FEW)
def test_samples_stand_for_the_law(
    name: str,
    count: int,
    sampler: Callable[..., dict[object, float]],
) -> None:
    """Over 200 draws the shares of every surface average to the law outside what is settled."""
    case = CASES[name]
    law, truth = law_of(case), truth_of(case)
    settled = {law.original}
    outside = {c: p for c, p in truth.items() if c != law.original.levels}
    total = sum(outside.values())
    known = {(s, c): surface(c) for s, surface in SURFACES.items() for c in outside}
    means: dict[str, list[float]] = {surface: [] for surface in SURFACES}
    for seed in range(200):
        drawn = sampler(law, settled, count, np.random.default_rng([count, seed]))
        shares = {condition.levels: share for condition, share in drawn.items()}  # type: ignore[attr-defined]
        assert sum(shares.values()) == pytest.approx(1, abs=1e-9)
        assert min(shares.values()) > 0
        assert len(shares) <= count + (sampler is slots)
        for surface, found in means.items():
            found.append(sum(share * known[surface, c] for c, share in shares.items()))
    for surface, found in means.items():
        assert agree(found, sum(p / total * known[surface, c] for c, p in outside.items())), surface


def test_a_likely_condition_does_not_push_out_the_others() -> None:
    """With one condition at nine tenths, three slots still meet the ten rare ones in their share.

    f alone is .1 x .9 of the law and f with any level of g .1 x .1, when nothing else is left.
    """
    law = Law(
        {"f": ("original", "removed"), "g": ("original", *"abcdefghij")},
        target_law({"f": ["original", "removed"], "g": ["original", *"abcdefghij"]}).close,
        0.1,
    )
    settled = {law.single("g", at) for at in "abcdefghij"} | {law.original}
    rare = {law.close({"f": "removed", "g": at}) for at in "abcdefghij"}
    shares = []
    for seed in range(400):
        drawn = slots(law, settled, 3, np.random.default_rng(seed))
        shares.append(sum(share for condition, share in drawn.items() if condition in rare))
    assert agree(shares, 0.1)
    assert np.mean(shares) > 0.05


@pytest.mark.parametrize("count", [30, "fresh"])
def test_a_law_too_large_to_list_is_met_without_bias(count: int | str) -> None:
    """Above 65,536 conditions the truth comes from the binomial law, pair by pair excluded.

    One pair of removals is forbidden: given that, its two factors are (0, 0), (1, 0), (0, 1)
    with probabilities in their old proportion, and the fifteen others are as they were.
    """
    k, r = 17, 2 / 17
    pair = {"f0": "removed", "f1": "removed"}
    found: dict[str, list[float]] = {name: [] for name in SURFACES}
    for seed in range(100):
        rng = np.random.default_rng([3, seed])
        design = mixed(twos(k), trials=300, rng=rng, random_conditions=count, exclude=[pair])  # type: ignore[arg-type]
        assert design.masses
        assert not any(forbidden(c.levels, [pair]) for c in design.conditions)
        for name in ("one factor", "two changes", "many changes", "pair", "product"):
            answers = (SURFACES[name](c.levels) for c in design.conditions)
            found[name].append(sum(m * y for m, y in zip(design.masses, answers, strict=True)))
    neither, either = (1 - r) ** 2 / (1 - r**2), 2 * r * (1 - r) / (1 - r**2)

    def others(n: int) -> float:
        return math.comb(k - 2, n) * r**n * (1 - r) ** (k - 2 - n) if n >= 0 else 0.0

    def exactly(n: int) -> float:
        return neither * others(n) + either * others(n - 1)

    assert agree(found["one factor"], either / 2)
    assert agree(found["two changes"], exactly(2))
    assert agree(found["many changes"], 1 - sum(exactly(n) for n in range(4)))
    assert agree(found["pair"], (neither + either / 2) * (1 - r))
    assert agree(found["product"], (neither + 0.4 * either) * (1 - 0.6 * r) ** (k - 2))


def test_repeated_draws_of_a_large_law_count() -> None:
    """Where needs put most of a law too large to list on three pairs, these keep their share."""
    tables = "".join(f"[factors.{name}]\n" for name in "abc")
    for i in range(15):
        tables += f"[factors.x{i}]\nneeds = ['a=removed', 'b=removed', 'c=removed']\n"
    scenario = Scenario.parse(f"+++\n{tables}+++\n# user\n{{{{query}}}}")
    r = 0.3
    for count in (1, 4, 6):
        pairs = []
        for seed in range(60):
            rng = np.random.default_rng([count, seed])
            design = mixed(scenario, trials=99, rng=rng, rate=r, random_conditions=count)
            assert len(design.conditions) == 4 + count
            assert design.masses
            drawn = zip(design.conditions[4:], design.masses[4:], strict=True)
            pairs.append(sum(mass for c, mass in drawn if changed(c.levels) == 2))
        assert agree(pairs, 3 * r**2 * (1 - r))


def test_a_large_law_of_which_hardly_anything_is_allowed_is_refused() -> None:
    """Rather than draw for ever: the message has the share, the rate and what to change."""
    names = [f"f{i}" for i in range(15)]
    exclusions = [{a: "removed", b: "removed"} for a, b in itertools.combinations(names, 2)]
    law = target_law(twos(17), rate=0.9, exclude=exclusions)
    assert law.allowed == pytest.approx(0.1**15 + 15 * 0.9 * 0.1**14)
    with pytest.raises(DesignError, match=r"exclude less, or lower rate below 0\.9"):
        law.draw(np.random.default_rng(0))


EXCLUSION_FAULTS = {
    "unknown factor": ([{"g0": "removed"}], "`g0` is not varied.*; name a factor of the design"),
    "unknown level": ([{"f0": "remove"}], r"`f0` is never at `remove` \(did you mean `removed`"),
    "original alone": ([{"f0": "original"}], "would exclude the original: name at least one"),
    "originals": ([{"f0": "original", "f1": "original"}], "would exclude the original"),
    "nothing": ([{}], "`nothing` would exclude the original"),
    "every level": ([{"f0": "removed"}], "`f0` has every level excluded: take it out"),
    "every level of three": (
        [{"g": "removed"}, {"g": "loud"}],
        "`g` has every level excluded: take it out of the design's factors, "
        "or exclude fewer than 2 of its levels",
    ),
}


@pytest.mark.parametrize(("exclude", "message"), EXCLUSION_FAULTS.values(), ids=EXCLUSION_FAULTS)
def test_exclusions_that_cannot_be(exclude: Exclusions, message: str) -> None:
    """The message names the factor or level and what to do instead."""
    factors = {**twos(3), "g": ["original", "removed", "loud"]}
    with pytest.raises(DesignError, match=message):
        target_law(factors, exclude=exclude)


def test_a_level_excluded_alone_is_no_level() -> None:
    """The law of three levels without one is the law of two, and needs no renormalising."""
    with_three = target_law(
        {"g": ["original", "removed", "loud"], **twos(2)}, exclude=[{"g": "loud"}]
    )
    assert with_three.levels["g"] == ("original", "removed")
    assert with_three.allowed == 1
    assert with_three.exclusions == ()
