"""Designs: shares that add up, draws that follow the law, and estimates of it without bias."""

import itertools
import math
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import Draft, drafts, factor_levels

from variants import Condition, Scenario
from variants.designs import DESIGNS, Design, DesignError, mixed, one_at_a_time, target_law

Levels = tuple[tuple[str, str | None], ...]
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


def law_by_enumeration(
    levels: Mapping[str, Sequence[str]],
    rate: float,
    settle: Callable[[Mapping[str, str]], Levels],
) -> dict[Levels, float]:
    """Probability of every condition: all draws, one by one, added up where they settle alike."""
    law: dict[Levels, float] = {}
    for choice in itertools.product(*levels.values()):
        probability = 1.0
        for level, (reference, *others) in zip(choice, levels.values(), strict=True):
            probability *= 1 - rate if level == reference else rate / len(others)
        condition = settle(dict(zip(levels, choice, strict=True)))
        law[condition] = law.get(condition, 0.0) + probability
    return law


def unsettled(levels: Mapping[str, Sequence[str]]) -> Callable[[Mapping[str, str]], Levels]:
    """Settling where nothing needs anything."""
    return lambda drawn: tuple((name, drawn.get(name, levels[name][0])) for name in levels)


def levels_of(scenario: Scenario) -> dict[str, tuple[str, ...]]:
    """The levels of each factor of a scenario."""
    return {name: factor.levels for name, factor in scenario.factors.items()}


def changed(condition: Levels) -> int:
    """How many factors are away from the original."""
    return sum(level not in ("original", None) for _, level in condition)


CASES = {
    "1 of two": (twos(1), unsettled(twos(1)), None),
    "2 of two": (twos(2), unsettled(twos(2)), None),
    "4 of two": (twos(4), unsettled(twos(4)), None),
    "5 of two": (twos(5), unsettled(twos(5)), None),
    "6 of two": (twos(6), unsettled(twos(6)), None),
    "8 of two": (twos(8), unsettled(twos(8)), None),
    "8 of two, rare": (twos(8), unsettled(twos(8)), 0.05),
    "7 of two, often": (twos(7), unsettled(twos(7)), 0.8),
    "mixed levels": (
        {"p": ["yes", "no"], "q": ["1", "2", "3", "4"], "r": ["x", "y", "z"], "s": ["on", "off"]},
        unsettled({"p": ["yes"], "q": ["1"], "r": ["x"], "s": ["on"]}),
        0.3,
    ),
    "needs": (levels_of(NEEDY), settled_by_hand, None),
    "needs, often": (levels_of(NEEDY), settled_by_hand, 0.7),
}


def subject_of(
    levels: Mapping[str, Sequence[str]], settle: Callable[[Mapping[str, str]], Levels]
) -> Mapping[str, Sequence[str]] | Scenario:
    """What the design is made of: the scenario where there are needs."""
    return NEEDY if settle is settled_by_hand else levels


@pytest.mark.parametrize(("levels", "settle", "rate"), CASES.values(), ids=CASES)
def test_the_law_is_that_of_independent_draws(
    levels: Mapping[str, Sequence[str]],
    settle: Callable[[Mapping[str, str]], Levels],
    rate: float | None,
) -> None:
    """Probabilities agree with adding up all draws, one by one, and sum to 1."""
    law = target_law(subject_of(levels, settle), rate=rate)
    assert law.rate == (min(0.5, 2 / len(levels)) if rate is None else rate)
    expected = law_by_enumeration(levels, law.rate, settle)
    found = {condition.levels: law.probability(condition) for condition in law.conditions()}
    assert found == pytest.approx(expected, abs=1e-12)
    assert sum(found.values()) == pytest.approx(1, abs=1e-12)
    assert len(list(law.conditions())) == len(expected)


@given(drafts(), st.floats(0.01, 0.99))
@settings(max_examples=60, deadline=None, suppress_health_check=SLOW)
def test_the_law_of_any_scenario_adds_up(draft: Draft, rate: float) -> None:
    """With needs, nesting and several levels the law is that of all draws settled by the author."""
    if not draft.levels:
        return
    law = target_law(Scenario.parse(draft.source), rate=rate)
    expected = law_by_enumeration(draft.levels, rate, lambda d: tuple(draft.settled(d).items()))
    found = {condition.levels: law.probability(condition) for condition in law.conditions()}
    assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("levels", "settle", "rate"), CASES.values(), ids=CASES)
def test_draws_have_the_law_s_frequencies(
    levels: Mapping[str, Sequence[str]],
    settle: Callable[[Mapping[str, str]], Levels],
    rate: float | None,
) -> None:
    """Every condition comes as often in 6,000 draws as enumeration says, within 5 errors."""
    law = target_law(subject_of(levels, settle), rate=rate)
    rng = np.random.default_rng(11)
    draws = 6000
    counts = Counter(law.draw(rng).levels for _ in range(draws))
    expected = law_by_enumeration(levels, law.rate, settle)
    assert counts.keys() <= expected.keys()
    for condition, p in expected.items():
        assert abs(counts[condition] - draws * p) <= 5 * math.sqrt(draws * p * (1 - p)) + 1


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("levels", "settle", "rate"), CASES.values(), ids=CASES)
def test_a_mixed_design_adds_up(
    levels: Mapping[str, Sequence[str]],
    settle: Callable[[Mapping[str, str]], Levels],
    rate: float | None,
    seed: int,
) -> None:
    """Shares, masses and strata of a design are those of the law and of the arguments."""
    rng = np.random.default_rng(seed)
    design = mixed(subject_of(levels, settle), trials=4000, rng=rng, rate=rate)
    law = law_by_enumeration(levels, rate or min(0.5, 2 / len(levels)), settle)
    found = [condition.levels for condition in design.conditions]
    assert len(set(found)) == len(found)
    assert set(found) <= law.keys()
    for entries in (design.parts, design.weights, design.probabilities, design.masses or ()):
        assert len(entries) == len(found)
    assert design.masses
    assert sum(design.weights) == pytest.approx(1)
    assert sum(design.masses) == pytest.approx(1)
    assert min(design.weights) > 0
    assert min(design.masses) > 0

    reference = {name: known[0] for name, known in levels.items()}
    single = {settle(reference | {n: v}) for n, known in levels.items() for v in known[1:]}
    single -= {settle(reference)}
    outside = {c: p for c, p in law.items() if c not in single | {settle(reference)}}
    parts = dict(zip(found, design.parts, strict=True))
    assert found[0] == settle(reference)
    assert {c for c, part in parts.items() if part == "original"} == {settle(reference)}
    assert {c for c, part in parts.items() if part == "single"} == single
    drawn = {c for c, part in parts.items() if part == "random"}
    assert drawn <= outside.keys()
    assert len(drawn) == min(48, len(outside))

    weights = dict(zip(found, design.weights, strict=True))
    masses = dict(zip(found, design.masses, strict=True))
    removal = {round(weights[c], 12) for c in single}
    assert len(removal) == 1
    assert weights[found[0]] == pytest.approx(math.sqrt(len(single)) * removal.pop())
    fixed = sum(w for c, w in weights.items() if c not in drawn)
    assert fixed == pytest.approx(0.35 if drawn else 1)
    for condition in single | {found[0]}:
        assert masses[condition] == pytest.approx(law[condition])
    for condition, probability in zip(found, design.probabilities, strict=True):
        if condition in drawn:
            assert probability == pytest.approx(outside[condition] / sum(outside.values()))
        else:
            assert probability is None
    if len(drawn) == len(outside):
        assert {c: masses[c] for c in drawn} == pytest.approx(outside)


SURFACES: dict[str, Callable[[Levels], float]] = {
    "one factor": lambda c: float(c[0][1] != "original"),
    "two changes": lambda c: float(changed(c) == 2),
    "many changes": lambda c: float(changed(c) > 3),
    "pair": lambda c: float(c[0][1] == c[-1][1] == "original"),
    "product": lambda c: math.prod(0.4 if level != "original" else 1.0 for _, level in c),
    "ragged": lambda c: random.Random(repr(c)).random(),
    "spiky": lambda c: random.Random(repr(c)).random() ** 20,
}


def estimates(
    factors: Mapping[str, Sequence[str]] | Scenario, seeds: int, **options: float
) -> dict[str, list[float]]:
    """For each surface, the mass-weighted mean of one design per seed."""
    found: dict[str, list[float]] = {name: [] for name in SURFACES}
    answers: dict[tuple[str, Levels], float] = {}
    for seed in range(seeds):
        rng = np.random.default_rng([7, seed])
        design = DESIGNS["mixed"](factors, trials=5000, rng=rng, **options)
        assert design.masses
        for name, surface in SURFACES.items():
            total = 0.0
            for condition, mass in zip(design.conditions, design.masses, strict=True):
                key = (name, condition.levels)
                if key not in answers:
                    answers[key] = surface(condition.levels)
                total += mass * answers[key]
            found[name].append(total)
    return found


def agree(found: Sequence[float], truth: float) -> bool:
    """Whether the mean lies within 4.5 of its standard errors from the truth."""
    error = np.std(found, ddof=1) / math.sqrt(len(found))
    return bool(abs(np.mean(found) - truth) <= 4.5 * error + 1e-9)


UNBIASED = {
    **{name: (case, 12) for name, case in CASES.items()},
    "needs, few": ((levels_of(NEEDY), settled_by_hand, None), 5),
    "6 of two, few": ((twos(6), unsettled(twos(6)), 0.2), 20),
    "6 of two, one": ((twos(6), unsettled(twos(6)), None), 1),
    "8 of two, 48": ((twos(8), unsettled(twos(8)), 0.15), 48),
}


@pytest.mark.parametrize(("case", "count"), UNBIASED.values(), ids=UNBIASED)
def test_masses_estimate_the_law_without_bias(
    case: tuple[dict[str, list[str]], Callable[[Mapping[str, str]], Levels], float | None],
    count: int,
) -> None:
    """For any response surface the mean over seeds is the law's mean by full enumeration."""
    levels, settle, rate = case
    law = law_by_enumeration(levels, rate or min(0.5, 2 / len(levels)), settle)
    options = {"random_conditions": count} | ({"rate": rate} if rate else {})
    for name, found in estimates(subject_of(levels, settle), 400, **options).items():
        truth = sum(p * SURFACES[name](condition) for condition, p in law.items())
        assert agree(found, truth), name


@pytest.mark.parametrize("count", [17, 18])
def test_a_law_too_large_to_list_is_met_without_bias(count: int) -> None:
    """Above 65,536 conditions the truth comes from the binomial law."""
    found = estimates(twos(count), 400)
    r = 2 / count

    def exactly(n: int) -> float:
        return math.comb(count, n) * r**n * (1 - r) ** (count - n)

    assert agree(found["one factor"], r)
    assert agree(found["two changes"], exactly(2))
    assert agree(found["many changes"], 1 - sum(exactly(n) for n in range(4)))
    assert agree(found["pair"], (1 - r) ** 2)
    assert agree(found["product"], (1 - 0.6 * r) ** count)


def test_repeated_draws_of_a_large_law_count() -> None:
    """Where needs put most of a law too large to list on three pairs, these keep their share."""
    tables = "".join(f"[factors.{name}]\n" for name in "abc")
    for i in range(15):
        tables += f"[factors.x{i}]\nneeds = ['a=removed', 'b=removed', 'c=removed']\n"
    scenario = Scenario.parse(f"+++\n{tables}+++\n# user\n{{{{query}}}}")
    r = 0.3
    for count in (1, 4, 6):
        pairs = []
        for seed in range(200):
            rng = np.random.default_rng([count, seed])
            design = mixed(scenario, trials=99, rng=rng, rate=r, random_conditions=count)
            assert len(design.conditions) == 4 + count
            assert design.masses
            drawn = zip(design.conditions[4:], design.masses[4:], strict=True)
            pairs.append(sum(mass for c, mass in drawn if changed(c.levels) == 2))
        assert agree(pairs, 3 * r**2 * (1 - r))


def test_a_sample_is_changed_as_much_as_the_law() -> None:
    """Of every number of changes there are as many conditions as the law asks, to within one."""
    k, r = 8, 0.25
    law = {n: math.comb(k, n) * r**n * (1 - r) ** (k - n) for n in range(2, k + 1)}
    outside = sum(law.values())
    for seed in range(20):
        design = mixed(twos(k), trials=4000, rng=np.random.default_rng(seed))
        counts = Counter(changed(condition.levels) for condition in design.conditions[9:])
        for n, probability in law.items():
            assert abs(counts[n] - 48 * probability / outside) < 1


@pytest.mark.parametrize("count", [7, 8, 12, 17])
@pytest.mark.parametrize("seed", range(3))
def test_there_are_48_distinct_random_conditions(count: int, seed: int) -> None:
    """Where there are so many, the random part holds 48 different conditions or what is asked."""
    for asked in (48, 60):
        rng = np.random.default_rng(seed)
        design = mixed(twos(count), trials=4000, rng=rng, random_conditions=asked)
        drawn = [c for c, p in zip(design.conditions, design.parts, strict=True) if p == "random"]
        assert len(set(drawn)) == asked
        assert all(changed(condition.levels) >= 2 for condition in drawn)


def test_thirty_factors_of_five_levels() -> None:
    """A law of 10**21 conditions is sampled, not listed."""
    factors = {f"f{i}": ["original", "removed", "a", "b", "c"] for i in range(30)}
    design = mixed(factors, trials=5000, rng=np.random.default_rng(0))
    assert Counter(design.parts) == {"original": 1, "single": 120, "random": 48}
    assert sum(design.weights) == pytest.approx(1)
    assert sum(design.masses or ()) == pytest.approx(1)
    original = next(zip(design.conditions, design.masses or (), strict=False))
    assert original[1] == pytest.approx((1 - 2 / 30) ** 30)
    assert one_at_a_time(factors, trials=5000, rng=np.random.default_rng(0)).parts[1:] == (
        ("single",) * 120
    )


@pytest.mark.parametrize("rate", [1e-12, 1e-6, 1e-3])
@pytest.mark.parametrize("count", [2, 8, 17])
def test_a_law_that_hardly_changes_anything_still_adds_up(rate: float, count: int) -> None:
    """Shares and masses add up to 1 however rare two changes at once are."""
    options = {"rate": rate, "random_conditions": 4}
    design = mixed(twos(count), trials=4000, rng=np.random.default_rng(0), **options)
    assert sum(design.weights) == pytest.approx(1, abs=1e-12)
    assert sum(design.masses or ()) == pytest.approx(1, abs=1e-12)
    assert math.isfinite(sum(design.weights))


@given(factor_levels(), st.integers(0, 2**32), st.floats(0.02, 0.98))
@settings(max_examples=60, deadline=None)
def test_designs_of_plain_factors(levels: dict[str, list[str]], seed: int, rate: float) -> None:
    """Any factors at any rate give distinct conditions of the law with shares that add up."""
    design = mixed(levels, trials=3000, rng=np.random.default_rng(seed), rate=rate)
    law = law_by_enumeration(levels, rate, unsettled(levels))
    found = [condition.levels for condition in design.conditions]
    assert len(set(found)) == len(found)
    assert set(found) <= law.keys()
    assert sum(design.weights) == pytest.approx(1)
    assert sum(design.masses or ()) == pytest.approx(1)
    fixed = 1 + sum(len(known) - 1 for known in levels.values())
    assert len(found) == fixed + min(48, len(law) - fixed)


@pytest.mark.parametrize("kind", DESIGNS)
@pytest.mark.parametrize("factors", [NEEDY, twos(8), twos(17)], ids=["needs", "8", "17"])
def test_the_same_seed_makes_the_same_design(
    kind: str, factors: Mapping[str, Sequence[str]] | Scenario
) -> None:
    """A design is a function of its factors, its arguments and the seed."""
    first, second = (
        DESIGNS[kind](factors, trials=4000, rng=np.random.default_rng(5)) for _ in range(2)
    )
    assert first == second


def test_another_seed_draws_other_conditions() -> None:
    """Ten seeds give ten random parts and one fixed part."""
    designs = [mixed(twos(8), trials=4000, rng=np.random.default_rng(seed)) for seed in range(10)]
    assert len({frozenset(design.conditions[9:]) for design in designs}) == 10
    assert len({design.conditions[:9] for design in designs}) == 1


@pytest.mark.parametrize("factors", [NEEDY, twos(1), twos(9)], ids=["needs", "1", "9"])
def test_one_at_a_time_is_the_fixed_part(
    factors: Mapping[str, Sequence[str]] | Scenario,
) -> None:
    """The original and every single removal, the original with sqrt(k) times the trials of one."""
    design = one_at_a_time(factors, trials=400, rng=np.random.default_rng(0))
    other = mixed(factors, trials=400, rng=np.random.default_rng(0))
    fixed = tuple(c for c, p in zip(other.conditions, other.parts, strict=True) if p != "random")
    k = len(fixed) - 1
    assert design.conditions == fixed
    assert design.parts == ("original",) + ("single",) * k
    assert sum(design.weights) == pytest.approx(1)
    assert [design.weights[0] / w for w in design.weights[1:]] == pytest.approx([math.sqrt(k)] * k)
    assert design.masses is None
    assert set(design.probabilities) == {None}
    assert design.train_share == 0.7


def test_a_single_removal_takes_its_dependants() -> None:
    """The fixed part of a scenario with needs, written out by hand."""
    design = one_at_a_time(NEEDY, trials=100, rng=np.random.default_rng(0))
    table = {
        "original": "original original original original -",
        "a=removed": "removed original - original -",
        "a=loud": "loud original - original original",
        "b=removed": "original removed original - -",
        "c=removed": "original original removed original -",
        "c=loud": "original original loud original -",
        "c=soft": "original original soft original -",
        "d=removed": "original original original removed -",
    }
    assert {
        str(condition): " ".join(level or "-" for _, level in condition.levels)
        for condition in design.conditions
    } == table


def names_away(design: Design) -> set[str]:
    """The factors that are away from their first level somewhere in a design."""
    return {name for condition in design.conditions for name in condition.changes}


@pytest.mark.parametrize("kind", DESIGNS)
def test_names_choose_among_the_factors(kind: str) -> None:
    """Factors not named stay at their original, yet belong to every condition."""
    rng = np.random.default_rng(0)
    design = DESIGNS[kind](twos(6), trials=400, rng=rng, names=("f4", "f1", "f2"))
    assert names_away(design) == {"f1", "f2", "f4"}
    assert all(len(condition.levels) == 6 for condition in design.conditions)
    needy = DESIGNS[kind](NEEDY, trials=400, rng=rng, names=["b", "c"])
    assert names_away(needy) == {"b", "c"}
    assert {condition["d"] for condition in needy.conditions} == {"original", None}
    assert {condition["e"] for condition in needy.conditions} == {None}


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


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_shares_are_those_asked_for(share: float) -> None:
    """The fixed part and the train arm get what the arguments say."""
    rng = np.random.default_rng(0)
    design = mixed(twos(8), trials=4000, rng=rng, fixed_share=share, train_share=share)
    fixed = [w for w, part in zip(design.weights, design.parts, strict=True) if part != "random"]
    assert sum(fixed) == pytest.approx(share)
    assert design.train_share == share
    assert one_at_a_time(twos(8), trials=40, rng=rng, train_share=share).train_share == share


PLAIN = Scenario.parse("just text")
WRONG = {
    "unknown name": ({"rule": ["a", "b"]}, {"names": ["rul"]}, r"`rul` \(did you mean `rule`\?\)"),
    "unknown name, nothing near": (twos(3), {"names": ["zebra"]}, r"unknown factor `zebra`$"),
    "unknown name of a scenario": (NEEDY, {"names": ["bb"]}, r"`bb` \(did you mean `b`\?\)"),
    "one level": ({"f": ["original"]}, {}, "factor `f` has one level"),
    "no level": ({"f": []}, {}, "factor `f` has one level"),
    "one level among others": ({**twos(2), "g": ["x"]}, {}, "factor `g` has one level"),
    "level twice": ({"f": ["original", "a", "a"]}, {}, "factor `f` has a level twice"),
    "reference twice": ({"f": ["original", "original"]}, {}, "factor `f` has a level twice"),
    "no factors": ({}, {}, "no factor to vary"),
    "plain scenario": (PLAIN, {}, "no factor to vary"),
    "only a hidden factor": (NEEDY, {"names": ["e"]}, "no factor can be changed"),
    "train share": (twos(3), {"train_share": 1.0}, "train_share is 1.0"),
}  # fmt: skip


@pytest.mark.parametrize("kind", DESIGNS)
@pytest.mark.parametrize(("factors", "options", "message"), WRONG.values(), ids=WRONG)
def test_designs_that_cannot_be_made(
    kind: str,
    factors: Mapping[str, Sequence[str]] | Scenario,
    options: dict[str, list[str]],
    message: str,
) -> None:
    """The message names what is wrong."""
    with pytest.raises(DesignError, match=message):
        DESIGNS[kind](factors, trials=1000, rng=np.random.default_rng(0), **options)


@pytest.mark.parametrize("name", ["rate", "fixed_share", "train_share"])
@pytest.mark.parametrize("value", [0, 1, -0.1, 1.5, math.nan, math.inf])
def test_shares_out_of_range_are_refused(name: str, value: float) -> None:
    """A share must lie between 0 and 1, and the message says which one does not."""
    with pytest.raises(DesignError, match=f"{name} is .*between 0 and 1"):
        mixed(twos(4), trials=1000, rng=np.random.default_rng(0), **{name: value})


@pytest.mark.parametrize("value", [0, -3])
def test_no_random_conditions_are_refused(value: int) -> None:
    """The random part needs at least one condition."""
    with pytest.raises(DesignError, match="random_conditions is"):
        mixed(twos(4), trials=1000, rng=np.random.default_rng(0), random_conditions=value)


@pytest.mark.parametrize("trials", [0, 1, 20, 50, 100, 113])
@pytest.mark.parametrize("kind", DESIGNS)
def test_too_few_trials_say_how_many_are_needed(kind: str, trials: int) -> None:
    """The number in the message is enough, and one less is not."""
    needed = {"mixed": 2 * (1 + 8 + 48), "one_at_a_time": 2 * (1 + 8)}[kind]
    rng = np.random.default_rng(0)
    if trials < needed:
        with pytest.raises(DesignError, match=f"set trials to at least {needed}$"):
            DESIGNS[kind](twos(8), trials=trials, rng=rng)
    with pytest.raises(DesignError, match=f"set trials to at least {needed}$"):
        DESIGNS[kind](twos(8), trials=needed - 1, rng=rng)
    assert len(DESIGNS[kind](twos(8), trials=needed, rng=rng).conditions) == needed // 2


def test_conditions_of_plain_factors_are_conditions() -> None:
    """Factors given by their levels alone make conditions in their own order."""
    factors = {"z": ["yes", "no"], "a": ["1", "2"]}
    design = one_at_a_time(factors, trials=6, rng=np.random.default_rng(0))
    assert design.conditions == (
        Condition((("z", "yes"), ("a", "1"))),
        Condition((("z", "no"), ("a", "1"))),
        Condition((("z", "yes"), ("a", "2"))),
    )
