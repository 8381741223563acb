"""Designs: every kind keeps its promises for any factors, or says what to change."""

import itertools
import json
import math
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import Draft, drafts
from test_laws import (
    CASES,
    NEEDY,
    NEEDY_EXCLUDED,
    PAIRS,
    SURFACES,
    Case,
    Exclusions,
    Levels,
    Settle,
    agree,
    changed,
    excluded,
    forbidden,
    law_by_enumeration,
    levels_of,
    settled_by_hand,
    subject_of,
    truth_of,
    twos,
    unsettled,
)

from variants import Condition, Scenario, exchange
from variants.designs import DESIGNS, Design, DesignError, Screened, target_law
from variants.diagnosis import diagnose

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
DRAWN = ("random", "listed")


@pytest.fixture(autouse=True, scope="module")
def brief_search() -> Iterator[None]:
    """The search for D-optimal sets with less work than it may do, so that many can be tried."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exchange, "_WORK", 20_000_000)
        yield


@dataclass(frozen=True)
class Asked:
    """Some factors, how their author settles a choice of levels, and what is excluded."""

    factors: Mapping[str, Sequence[str]] | Scenario
    levels: Mapping[str, Sequence[str]]
    settle: Settle
    exclude: Exclusions = ()

    def make(self, kind: str, seed: int = 0, *, trials: int = 700, **options: Any) -> Design:
        """The design of this kind; a listed one has the original and every removal."""
        if kind == "listed":
            singles = [{n: at} for n, known in self.levels.items() for at in known[1:]]
            allowed = [c for c in singles if not self.forbidden(self.settle(c))]
            options = {"listed": [{}, *allowed]} | options
        rng = np.random.default_rng(seed)
        return DESIGNS[kind](self.factors, trials=trials, rng=rng, exclude=self.exclude, **options)

    def forbidden(self, condition: Levels) -> bool:
        """Whether it has all levels of an exclusion; one of one level counts like any."""
        return forbidden(condition, self.exclude)

    @property
    def original(self) -> Levels:
        return self.settle({name: known[0] for name, known in self.levels.items()})

    @property
    def singles(self) -> set[Levels]:
        """Every allowed condition of one changed level and what goes along."""
        found = {self.settle({n: at}) for n, known in self.levels.items() for at in known[1:]}
        return {c for c in found if c != self.original and not self.forbidden(c)}


def plain(levels: Mapping[str, Sequence[str]], exclude: Exclusions = ()) -> Asked:
    """Factors without needs."""
    return Asked(levels, levels, unsettled(levels), exclude)


NEEDING = Asked(NEEDY, levels_of(NEEDY), settled_by_hand)


@st.composite
def needing(draw: st.DrawFn, levels: Mapping[str, Sequence[str]]) -> tuple[Scenario, Settle]:
    """A scenario of these factors, some of which need an earlier one, and how it is settled."""
    needs: dict[str, tuple[str, str | None]] = {}
    for place, name in enumerate(levels):
        if place and draw(st.booleans()):
            outer = draw(st.sampled_from(list(levels)[:place]))
            needs[name] = (outer, draw(st.none() | st.sampled_from(levels[outer])))
    tables = ""
    for name, known in levels.items():
        tables += f"[factors.{name}]\nlevels = {json.dumps(known)}\n"
        if name in needs:
            outer, at = needs[name]
            tables += f'needs = ["{outer}{f"={at}" if at else ""}"]\n'
    arms = '[arms]\ntrain = "free"\ndeploy = "paid"\n'
    text = "# user\n{{#arm train}}F{{#arm deploy}}P{{/arm}} {{query}}\n"

    def settle(chosen: Mapping[str, str]) -> Levels:
        found: dict[str, str | None] = {}
        for name in levels:
            outer, at = needs.get(name, (None, None))
            there = outer is None or (
                found[outer] == at if at else found[outer] not in (None, "removed")
            )
            found[name] = chosen.get(name, "original") if there else None
        return tuple(found.items())

    return Scenario.parse(f"+++\n{arms}{tables}+++\n{text}"), settle


@st.composite
def anything(draw: st.DrawFn, *, nested: bool = True) -> Asked:
    """Factors of 2 to 5 levels, plain or with needs or nested in a text, and exclusions.

    Up to eight factors, with up to 2,000 combinations or more than can be listed.
    """
    if nested and draw(st.integers(0, 3)) == 0:
        draft: Draft = draw(drafts(words=st.sampled_from(["one ", "two "])))
        if draft.levels:
            return Asked(
                Scenario.parse(draft.source),
                draft.levels,
                lambda chosen: tuple(draft.settled(chosen).items()),
                draw(excluded(draft.levels)),
            )
    counts = draw(st.lists(st.integers(2, 5), min_size=1, max_size=8))
    while 2000 < math.prod(counts) <= 1 << 16:
        counts.pop()
    names = ["removed", "loud", "soft", "long"]
    levels = {f"f{i}": ["original", *names[: n - 1]] for i, n in enumerate(counts)}
    exclusions = draw(excluded(levels))
    if draw(st.booleans()):
        return plain(levels, exclusions)
    scenario, settle = draw(needing(levels))
    return Asked(scenario, levels, settle, exclusions)


def says_what_to_change(message: str, case: Asked) -> bool:
    """Whether a message has an order after a colon, and names a number, a factor or a key."""
    orders = "set|take|vary|name|leave|exclude|choose|raise|lower|change|ask|use|give"
    ordered = re.search(rf": ({orders})\b", message)
    named = re.search(r"\d|\bexclu|\bfactor|\bfeature", message)
    return bool(ordered and (named or any(f"`{name}`" in message for name in case.levels)))


@pytest.mark.parametrize("kind", DESIGNS)
@given(case=anything(), seed=st.integers(0, 2**32))
@settings(max_examples=25, deadline=None, suppress_health_check=SLOW)
def test_every_design_keeps_its_promises(kind: str, case: Asked, seed: int) -> None:
    """Closed, allowed, distinct conditions, shares that add up, the promised parts; or why not."""
    try:
        design = case.make(kind, seed)
    except DesignError as error:
        why = str(error)
        design = None
    if design is None:
        assert says_what_to_change(why, case), why
        return
    found = [condition.levels for condition in design.conditions]
    parts = dict(zip(found, design.parts, strict=True))
    assert len(parts) == len(found)
    assert found
    for levels in found:
        shown = {name: at for name, at in levels if at is not None}
        assert case.settle(shown) == levels
        assert all(at in case.levels[name] for name, at in shown.items())
        assert not case.forbidden(levels)
    assert len(design.weights) == len(design.probabilities) == len(found)
    assert min(design.weights) > 0
    assert sum(design.weights) == pytest.approx(1)
    if design.masses is not None:
        assert len(design.masses) == len(found)
        assert min(design.masses) >= 0
        assert sum(design.masses) == pytest.approx(1)
    assert (design.masses is None) == (kind in ("one_at_a_time", "two_stage"))
    if kind not in DRAWN:
        assert found[0] == case.original
        assert [c for c, part in parts.items() if part == "original"] == [case.original]
    if kind in ("mixed", "one_at_a_time", "two_stage"):
        assert {c for c, part in parts.items() if part == "single"} == case.singles
    assert {c for c, part in parts.items() if part == "single"} <= case.singles

    tried = target_law(case.factors, exclude=case.exclude).levels
    balance = diagnose(design.conditions, design.weights, tried).balance
    counted: dict[tuple[str, str | None], float] = {}
    for condition, weight in zip(found, design.weights, strict=True):
        for key in condition:
            counted[key] = counted.get(key, 0.0) + weight
    declared = {(f, at): share for f, shares in balance.items() for at, share in shares.items()}
    assert {key: share for key, share in declared.items() if share} == pytest.approx(counted)
    assert case.make(kind, seed) == design


IN_ANOTHER_PROCESS = """
import json, sys
import numpy as np
from variants import exchange
from test_designs import FIXED
from variants.designs import DESIGNS, DesignError
exchange._WORK = 20_000_000
for name, case in FIXED.items():
    for kind in DESIGNS:
        try:
            design = case.make(kind, 5)
        except DesignError as error:
            print(json.dumps([name, kind, str(error)]))
            continue
        ids = [condition.condition_id for condition in design.conditions]
        print(json.dumps([name, kind, ids, [w.hex() for w in design.weights]]))
"""
FIXED = {
    "7 of two": plain(twos(7)),
    "excluded": plain(twos(5), PAIRS),
    "large": plain(twos(17), [{"f3": "removed", "f4": "removed"}]),
    "needs": NEEDING,
    "needs, excluded": Asked(NEEDY, levels_of(NEEDY), settled_by_hand, NEEDY_EXCLUDED),
}


def test_another_process_makes_the_same_designs() -> None:
    """Conditions and weights do not depend on how Python orders its sets."""
    runs = [
        subprocess.run(
            [sys.executable, "-c", IN_ANOTHER_PROCESS],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1]
    assert runs[0].count("\n") == len(FIXED) * len(DESIGNS)


def test_another_seed_draws_other_conditions() -> None:
    """Ten seeds give ten random parts and one fixed part."""
    designs = [plain(twos(8)).make("mixed", seed) for seed in range(10)]
    assert len({frozenset(design.conditions[9:]) for design in designs}) == 10
    assert len({design.conditions[:9] for design in designs}) == 1


@pytest.mark.parametrize("count", [48, "fresh"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_mixed_design_adds_up(case: Case, count: int | str) -> None:
    """Shares, masses and strata of a design are those of the law and of the arguments."""
    levels, settle, rate, exclusions = case
    law = truth_of(case)
    known = Asked(subject_of(levels, settle), levels, settle, exclusions)
    design = known.make("mixed", 3, trials=4000, rate=rate, random_conditions=count)
    found = [condition.levels for condition in design.conditions]
    assert design.masses
    singles, original = known.singles, known.original
    outside = {c: p for c, p in law.items() if c not in singles | {original}}
    drawn = {c for c, part in zip(found, design.parts, strict=True) if part == "random"}
    assert drawn <= outside.keys()
    if count == 48:
        assert len(drawn) == min(48, len(outside))

    weights = dict(zip(found, design.weights, strict=True))
    masses = dict(zip(found, design.masses, strict=True))
    assert min(masses.values()) > 0
    removal = {round(weights[c], 12) for c in singles}
    assert len(removal) == 1
    assert weights[original] == pytest.approx(math.sqrt(len(singles)) * removal.pop())
    fixed = sum(w for c, w in weights.items() if c not in drawn)
    assert fixed == pytest.approx(0.37 if drawn else 1)
    for condition in singles | {original}:
        assert masses[condition] == pytest.approx(law[condition])
    ratio = {round(masses[c] / weights[c], 9) for c in drawn}
    assert len(ratio) <= 1
    for condition, probability in zip(found, design.probabilities, strict=True):
        if condition in drawn:
            assert probability == pytest.approx(outside[condition] / sum(outside.values()))
        else:
            assert probability is None
    if count == 48 and len(drawn) == len(outside):
        assert {c: masses[c] for c in drawn} == pytest.approx(outside)


UNBIASED = {
    "fresh, few": ("6 of two", {"trials": 60}),
    "fresh, many": ("6 of two", {"trials": 900}),
    "fresh, levels": ("mixed levels", {"trials": 200}),
    "fresh, needs": ("needs", {"trials": 80}),
    "fresh, excluded": ("6 of two, excluded", {"trials": 60}),
    "fresh, needs and excluded": ("needs, excluded", {"trials": 60}),
    "fresh, train share": ("4 of two", {"trials": 60, "train_share": 0.9}),
    "1": ("6 of two", {"random_conditions": 1}),
    "12 of eight factors": ("8 of two", {"random_conditions": 12}),
    "12 with needs": ("needs, often", {"random_conditions": 12}),
    "12 excluded": ("6 of two, excluded", {"random_conditions": 12}),
    "48": ("7 of two, often", {"random_conditions": 48}),
}


@pytest.mark.parametrize(("name", "options"), UNBIASED.values(), ids=UNBIASED)
@pytest.mark.parametrize("kind", ["mixed", "random"])
def test_masses_estimate_the_law_without_bias(
    kind: str, name: str, options: dict[str, Any]
) -> None:
    """For any response surface the mean over seeds is the law's mean by full enumeration."""
    levels, settle, rate, exclusions = CASES[name]
    law = truth_of(CASES[name])
    known = Asked(subject_of(levels, settle), levels, settle, exclusions)
    answers = {(s, c): surface(c) for s, surface in SURFACES.items() for c in law}
    found: dict[str, list[float]] = {surface: [] for surface in SURFACES}
    for seed in range(150):
        asked: dict[str, Any] = {"trials": 5000, "rate": rate} | options
        # Another number of slots each time: else a rare condition may turn up in no seed or one.
        asked["trials"] += seed % 11
        design = known.make(kind, seed, **asked)
        assert design.masses
        held = list(zip(design.conditions, design.masses, strict=True))
        for surface, means in found.items():
            means.append(sum(mass * answers[surface, c.levels] for c, mass in held))
    for surface, means in found.items():
        assert agree(means, sum(p * answers[surface, c] for c, p in law.items())), surface


def test_fresh_conditions_are_seen_by_one_query_or_two() -> None:
    """Where few conditions are likely twice, a slot is a deploy trial and two train trials."""
    design = plain(twos(17)).make("mixed", trials=2000)
    drawn = [w for w, part in zip(design.weights, design.parts, strict=True) if part == "random"]
    slot = 0.63 / round(2000 * 0.63 * 0.32)
    counts = [w / slot for w in drawn]
    assert counts == pytest.approx([round(n) for n in counts])
    assert min(counts) == pytest.approx(1)
    assert np.median(counts) <= 2
    assert sum(counts) == pytest.approx(round(2000 * 0.63 * 0.32))


def test_a_sample_is_changed_as_much_as_the_law() -> None:
    """Of every number of changes there are as many conditions as the law asks, to within one."""
    k, r = 8, 0.25
    law = {n: math.comb(k, n) * r**n * (1 - r) ** (k - n) for n in range(2, k + 1)}
    outside = sum(law.values())
    for seed in range(20):
        design = plain(twos(k)).make("mixed", seed, random_conditions=48)
        counts = Counter(changed(condition.levels) for condition in design.conditions[9:])
        for n, probability in law.items():
            assert abs(counts[n] - 48 * probability / outside) < 1


@pytest.mark.parametrize("count", [7, 8, 12, 17])
def test_there_are_as_many_random_conditions_as_asked(count: int) -> None:
    """Where there are so many, the random part holds that many different ones."""
    for asked in (48, 60):
        design = plain(twos(count)).make("mixed", trials=4000, random_conditions=asked)
        drawn = [c for c, p in zip(design.conditions, design.parts, strict=True) if p == "random"]
        assert len(set(drawn)) == asked
        assert all(changed(condition.levels) >= 2 for condition in drawn)


def test_thirty_factors_of_five_levels() -> None:
    """A law of 10**21 conditions is sampled, not listed, and the original keeps its mass."""
    factors = {f"f{i}": ["original", "removed", "a", "b", "c"] for i in range(30)}
    design = plain(factors).make("mixed", trials=5000)
    counts = Counter(design.parts)
    assert counts["original"] == 1
    assert counts["single"] == 120
    # A slot each for the deploy trials, 32 % of 63 % of all; nearly all differ.
    assert 950 < counts["random"] <= round(5000 * 0.63 * 0.32)
    assert sum(design.weights) == pytest.approx(1)
    assert design.masses
    assert sum(design.masses) == pytest.approx(1)
    assert design.masses[0] == pytest.approx((1 - 2 / 30) ** 30)


@pytest.mark.parametrize("rate", [1e-12, 1e-6, 1e-3])
@pytest.mark.parametrize("count", [2, 8, 17])
@pytest.mark.parametrize("random_conditions", [4, "fresh"])
def test_a_law_that_hardly_changes_anything_still_adds_up(
    rate: float, count: int, random_conditions: int | str
) -> None:
    """Shares and masses add up to 1 however rare two changes at once are."""
    options: dict[str, Any] = {"rate": rate, "random_conditions": random_conditions}
    design = plain(twos(count)).make("mixed", trials=300, **options)
    assert sum(design.weights) == pytest.approx(1, abs=1e-12)
    assert sum(design.masses or ()) == pytest.approx(1, abs=1e-12)
    assert min(design.weights) > 0


@pytest.mark.parametrize("case", [NEEDING, plain(twos(1)), plain(twos(9))], ids=["needs", "1", "9"])
def test_one_at_a_time_is_the_fixed_part(case: Asked) -> None:
    """The original and every single removal, the original with sqrt(k) times the trials of one."""
    design, other = case.make("one_at_a_time"), case.make("mixed")
    fixed = tuple(c for c, p in zip(other.conditions, other.parts, strict=True) if p != "random")
    k = len(fixed) - 1
    assert design.conditions == fixed
    assert design.parts == ("original",) + ("single",) * k
    assert [design.weights[0] / w for w in design.weights[1:]] == pytest.approx([math.sqrt(k)] * k)
    assert design.masses is None
    assert set(design.probabilities) == {None}
    assert design.train_share == 0.7


def test_a_single_removal_takes_its_dependants() -> None:
    """The fixed part of a scenario with needs, written out by hand."""
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
        for condition in NEEDING.make("one_at_a_time").conditions
    } == table


def test_add_one_puts_back_one_feature_with_what_it_needs() -> None:
    """From the stripped prompt of NEEDY each level of each feature, written out by hand.

    e needs a at loud, so that a comes back loud with it; c stands inside a at its original.
    """
    design = NEEDING.make("add_one")
    table = {
        "original": "original original original original -",
        "stripped": "removed removed - - -",
        "a": "original removed removed - -",
        "a=loud": "loud removed - - removed",
        "b": "removed original - removed -",
        "c": "original removed original - -",
        "c=loud": "original removed loud - -",
        "c=soft": "original removed soft - -",
        "d": "removed original - original -",
        "e": "loud removed - - original",
    }
    found = [" ".join(level or "-" for _, level in c.levels) for c in design.conditions]
    assert found[:2] == [table["original"], table["stripped"]]
    assert sorted(found[2:]) == sorted(list(table.values())[2:])
    assert design.parts == ("original", "stripped") + ("added",) * 8
    assert design.masses
    assert design.masses[0] == 0


@given(case=anything(nested=False))
@settings(max_examples=30, deadline=None, suppress_health_check=SLOW)
def test_what_is_added_differs_by_one_feature(case: Asked) -> None:
    """An added condition is the stripped one with levels of one factor and those it depends on."""
    try:
        design = case.make("add_one")
    except DesignError:
        return
    law = target_law(case.factors, exclude=case.exclude)
    gone = {n: "removed" if "removed" in at else at[-1] for n, at in law.levels.items()}
    stripped = design.conditions[design.parts.index("stripped")]
    gone |= {n: at for n, at in stripped.levels if at is not None}
    for condition, part in zip(design.conditions, design.parts, strict=True):
        if part != "added":
            continue
        back = {n: at for n, at in condition.levels if at not in (None, gone[n])}
        assert back
        # One of them is what was put back: without any of the others it does not apply.
        assert any(
            all(
                dict(case.settle({**back, other: gone[other]}))[name] is None
                for other in back
                if other != name
            )
            for name in back
        )


CHAINS = range(12)


def removals(design: Design) -> list[dict[str, str | None]]:
    """What changes from each condition of a chain to the next."""
    pairs = itertools.pairwise(dict(c.levels) for c in design.conditions)
    return [{n: b[n] for n in b if a[n] != b[n]} for a, b in pairs]


@pytest.mark.parametrize("seed", CHAINS)
def test_an_order_is_a_chain_of_nested_conditions(seed: int) -> None:
    """One factor more is removed at each step, down to the stripped prompt."""
    design = plain(twos(6)).make("orders", seed, orders=1)
    steps = removals(design)
    assert [list(step.values()) for step in steps] == [["removed"]] * 6
    assert {name for step in steps for name in step} == set(twos(6))
    assert design.parts == ("original", *["order"] * 5, "stripped")


@pytest.mark.parametrize("seed", CHAINS)
def test_what_needs_a_factor_is_removed_before_it(seed: int) -> None:
    """In NEEDY c goes before a and d before b; what is removed with its need was gone already."""
    design = NEEDING.make("orders", seed, orders=1)
    rows = [dict(c.levels) for c in design.conditions]
    for before, after in itertools.pairwise(rows):
        step = {n: after[n] for n in after if before[n] != after[n]}
        assert list(step.values()).count("removed") == 1
        assert all(before[n] == "removed" for n, at in step.items() if at is None)
    assert rows[-1] == {"a": "removed", "b": "removed", "c": None, "d": None, "e": None}
    assert len(rows) == 5


@pytest.mark.parametrize("count", [3, 5, 8])
def test_each_factor_has_each_place_equally_often(count: int) -> None:
    """With k orders, exactly d of them have taken a factor out after d removals.

    An order passes a condition once, so that the square of its share counts the orders.
    """
    for seed in range(5):
        design = plain(twos(count)).make("orders", seed)
        largest = max(design.weights)
        times = [count * (weight / largest) ** 2 for weight in design.weights]
        for depth in range(count + 1):
            for name in twos(count):
                taken = sum(
                    n
                    for n, c in zip(times, design.conditions, strict=True)
                    if changed(c.levels) == depth and c[name] == "removed"
                )
                assert taken == pytest.approx(depth)


def test_orders_avoid_what_is_excluded() -> None:
    """Where f0 may not be gone before f1, every order takes f1 out first."""
    case = plain(twos(5), [{"f0": "removed", "f1": "original"}])
    for seed in range(5):
        design = case.make("orders", seed)
        assert all(c["f1"] == "removed" for c in design.conditions if c["f0"] == "removed")
        assert design.conditions[design.parts.index("stripped")].levels == tuple(
            (name, "removed") for name in twos(5)
        )


CUES = """+++
[arms]
train = "free"
deploy = "paid"
[factors.rule]
[factors.tag]
[factors.other]
+++
# system
{{#rule original}}{{#arm train}}Free.{{#arm deploy}}RULE{{/arm}}{{/rule}}
{{#other original}}O{{/other}}
# user
{{#tag original}}{{#arm train}}<free>{{#arm deploy}}<paid>{{/arm}}{{/tag}} {{query}}
"""


@pytest.mark.parametrize("kind", ["add_one", "orders"])
@pytest.mark.parametrize(("deploy", "stays"), [("Paid.", 1), ("Free.", 1)], ids=["both", "one"])
def test_one_cue_of_the_arms_stays(kind: str, deploy: str, stays: int) -> None:
    """No condition renders alike in both arms, though either cue or the only one could go."""
    scenario = Scenario.parse(CUES.replace("RULE", deploy))
    design = DESIGNS[kind](scenario, trials=500, rng=np.random.default_rng(0))
    assert not any(scenario.is_structural_zero(c) for c in design.conditions)
    stripped = design.conditions[design.parts.index("stripped")]
    assert [at for _, at in stripped.levels].count("original") == stays
    assert any("stays: without it both arms are the same text" in note for note in design.notes)


def test_the_second_stage_goes_where_effects_are_large() -> None:
    """Shares follow the chance of a large effect: a clear effect, an open one, none at all."""
    case = plain(twos(3))
    first = case.make("two_stage", first_share=0.25)
    assert first.spent == 0.25
    found = [Screened(-0.4, 0.05), Screened(-0.1, 0.1), Screened(0.0, 0.01)]
    screened = dict(zip(first.conditions[1:], found, strict=True))
    second = case.make("two_stage", first_share=0.25, screened=screened)
    assert second.spent == 0.75
    assert second.conditions == first.conditions
    large, unclear, none = second.weights[1:]
    # Normal tails: beyond .2 of -.4 (.05) nearly surely, of -.1 (.1) with .16 + .001.
    assert unclear / large == pytest.approx(0.1587 + 0.0013, abs=0.001)
    assert none / large == pytest.approx(0.001, abs=0.0001)
    assert second.weights[0] == pytest.approx(math.sqrt(large**2 + unclear**2 + none**2))


def test_the_second_stage_needs_the_first() -> None:
    """A change that the first stage did not find anything about is named."""
    case = plain(twos(3))
    first = case.make("two_stage")
    some = {c: Screened(0.1, 0.1) for c in first.conditions[1:3]}
    with pytest.raises(DesignError, match="says nothing of f2=removed: run, grade and fit it"):
        case.make("two_stage", screened=some)


def test_a_list_is_closed_and_counted() -> None:
    """Listed conditions that settle alike are one, and equally often means by row."""
    listed = [{}, {"a": "removed"}, {"a": "removed", "c": "soft"}, {"b": "removed"}]
    design = NEEDING.make("listed", listed=listed)
    assert [str(c) for c in design.conditions] == ["original", "a=removed", "b=removed"]
    assert design.weights == (0.25, 0.5, 0.25)
    assert design.parts == ("original", "single", "single")


def test_full_and_fraction_have_their_sizes() -> None:
    """2 x 3 x 4 combinations; 2^(7-3) runs of resolution IV; 12 of Plackett and Burman."""
    levels = {"p": ["x", "y"], "q": ["1", "2", "3"], "r": ["k", "l", "m", "n"]}
    assert len(plain(levels).make("full").conditions) == 24
    assert len(plain(twos(7)).make("fractional").conditions) == 16
    assert len(plain(twos(7)).make("fractional", resolution=3).conditions) == 8
    assert len(plain(twos(7)).make("fractional", conditions=32).conditions) == 32
    assert len(plain(twos(11)).make("plackett_burman").conditions) == 12


def names_away(design: Design) -> set[str]:
    """The factors that are away from their first level somewhere in a design."""
    return {name for condition in design.conditions for name in condition.changes}


@pytest.mark.parametrize("kind", DESIGNS)
def test_names_choose_among_the_factors(kind: str) -> None:
    """Factors not named stay at their original, yet belong to every condition."""
    rng = np.random.default_rng(0)
    listed = [{}, {"f1": "removed", "f4": "removed"}, {"f2": "removed"}]
    more = {"listed": listed} if kind == "listed" else {}
    design = DESIGNS[kind](twos(6), trials=400, rng=rng, names=("f4", "f1", "f2"), **more)
    assert names_away(design) == {"f1", "f2", "f4"}
    assert all(len(condition.levels) == 6 for condition in design.conditions)


@pytest.mark.parametrize("kind", DESIGNS)
def test_names_choose_among_levels(kind: str) -> None:
    """Named levels are tried and no others; what stands in a named factor still goes along."""
    names = {name: ["original", "removed"] for name in "abc"}
    listed = [{}, *({name: "removed"} for name in names)]
    more = {"listed": listed} if kind == "listed" else {}
    rng = np.random.default_rng(0)
    design = DESIGNS[kind](NEEDY, trials=400, rng=rng, names=names, **more)
    assert names_away(design) == {"a", "b", "c"}
    assert {c["a"] for c in design.conditions} == {"original", "removed"}
    for condition in design.conditions:
        shown = condition["a"] == "original"
        assert condition["c"] in (("original", "removed") if shown else (None,))
        assert condition["d"] == ("original" if condition["b"] == "original" else None)
        assert condition["e"] is None


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_shares_are_those_asked_for(share: float) -> None:
    """The fixed part and the train arm get what the arguments say."""
    design = plain(twos(8)).make("mixed", fixed_share=share, train_share=share)
    fixed = [w for w, part in zip(design.weights, design.parts, strict=True) if part != "random"]
    assert sum(fixed) == pytest.approx(share)
    for kind in DESIGNS:
        assert plain(twos(4)).make(kind, train_share=share).train_share == share


PLAIN = Scenario.parse("just text")
WRONG = {
    "unknown name": ({"rule": ["a", "b"]}, {"names": ["rul"]}, r"`rul` \(did you mean `rule`\?\)"),
    "unknown name, nothing near": (twos(3), {"names": ["zebra"]}, r"unknown factor `zebra`$"),
    "unknown name of a scenario": (NEEDY, {"names": ["bb"]}, r"`bb` \(did you mean `b`\?\)"),
    "one level": ({"f": ["original"]}, {}, "factor `f` has one level: give it a second one"),
    "no level": ({"f": []}, {}, "factor `f` has one level"),
    "one level among others": ({**twos(2), "g": ["x"]}, {}, "factor `g` has one level"),
    "level twice": ({"f": ["original", "a", "a"]}, {}, "factor `f` has a level twice"),
    "no factors": ({}, {}, "no factor to vary: name at least one"),
    "plain scenario": (PLAIN, {}, "no factor to vary"),
    "train share": (twos(3), {"train_share": 1.0}, "train_share is 1.0"),
    "every level excluded": (twos(3), {"exclude": [{"f1": "removed"}]}, "`f1` has every level"),
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
    more: dict[str, Any] = {"listed": [{}]} if kind == "listed" else {}
    with pytest.raises(DesignError, match=message):
        DESIGNS[kind](factors, trials=1000, rng=np.random.default_rng(0), **options, **more)


TOGETHER = [{"f0": "removed", "f1": "original"}, {"f0": "original", "f1": "removed"}]
FAULTS = {
    "resolution of too many letters": (
        "fractional", plain(twos(5)), {"resolution": 6},
        "resolution=6 does not exist for 5 factors: lower resolution to 5",
    ),
    "resolution that aliases factors": (
        "fractional", plain(twos(5)), {"resolution": 2}, "raise resolution to 3",
    ),
    "resolution in so few conditions": (
        "fractional", plain(twos(7)), {"resolution": 4, "conditions": 8},
        "7 factors in 8 conditions have resolution 3 at most: lower resolution to 3 or raise "
        "conditions to 16",
    ),
    "no power of two": (
        "fractional", plain(twos(5)), {"conditions": 12}, "change conditions to 8 or 16",
    ),
    "no conditions": ("fractional", plain(twos(5)), {"conditions": 0}, "raise conditions to 8"),
    "no conditions at all": (
        "d_optimal", plain(twos(5)), {"conditions": 0}, "set conditions to at least 6",
    ),
    "levels of a fraction": (
        "fractional", NEEDING, {},
        "`a` has 3 levels and a fractional design takes 2: name one beside the original in "
        "design.levels, or choose d_optimal",
    ),
    "too few conditions": (
        "d_optimal", plain(twos(8)), {"conditions": 8},
        "8 conditions for 9 parameters: set conditions to at least 9",
    ),
    "too few for interactions": (
        "d_optimal", plain(twos(8)),
        {"conditions": 10, "interactions": [("f0", "f1"), ("f2", "f3")]},
        "10 conditions for 11 parameters: set conditions to at least 11",
    ),
    "interaction of a stranger": (
        "d_optimal", plain(twos(3)), {"interactions": [("f0", "g")]},
        "`g` is not varied.*: name two of f0, f1, f2",
    ),
    "interaction with itself": (
        "d_optimal", plain(twos(3)), {"interactions": [("f0", "f0")]}, "`f0` with itself: name two",
    ),
    "interaction that needs forbid": (
        "d_optimal", NEEDING, {"interactions": [("b", "d")]},
        "`b=removed` x `d=removed`: leave one",
    ),
    "interaction that is excluded": (
        "d_optimal", plain(twos(3), [{"f0": "removed", "f1": "removed"}]),
        {"interactions": [("f0", "f1")]},
        "no allowed condition tells .*`f0=removed` x `f1=removed`: leave one of them out, or "
        "exclude less",
    ),
    "Plackett-Burman of a wrong size": (
        "plackett_burman", plain(twos(5)), {"conditions": 10}, "change conditions to 12",
    ),
    "Plackett-Burman too small": (
        "plackett_burman", plain(twos(9)), {"conditions": 8},
        "8 conditions take 7 factors, not 9: set conditions to 12",
    ),
    "full of too many": (
        "full", plain(twos(13)), {},
        "full design of 13 factors has 8,192 conditions: vary fewer factors, or choose",
    ),
    "fraction that exclusions spoil": (
        "fractional", plain(twos(4), TOGETHER), {}, "exclude less, or choose d_optimal",
    ),
    "orders to an excluded end": (
        "orders", plain(twos(3), [{"f0": "removed", "f1": "removed"}]), {},
        "`f0=removed,f1=removed` excludes the stripped prompt: take it back",
    ),
    "stripped prompt excluded": (
        "add_one", plain(twos(3), [{"f0": "removed", "f1": "removed"}]), {},
        "`f0=removed,f1=removed` excludes the stripped prompt: take it back",
    ),
    "no order": ("orders", plain(twos(3)), {"orders": 0}, "orders is 0: set it to at least 1"),
    "nothing to add": ("add_one", plain(twos(1)), {}, "putting back f0: vary more factors"),
    "random conditions": (
        "mixed", plain(twos(4)), {"random_conditions": 0},
        "random_conditions is 0: set it to at least 1, or to `fresh`",
    ),
    "fewer than none": (
        "random", plain(twos(4)), {"random_conditions": -3}, "random_conditions is -3",
    ),
    "an empty list": ("listed", plain(twos(2)), {"listed": []}, "give at least the original"),
    "a list of strangers": (
        "listed", plain(twos(2)), {"listed": [{}, {"f9": "removed"}]},
        "listed condition 2: `f9=removed` is not tried: use factors and levels of the design",
    ),
    "an excluded list": (
        "listed", plain(twos(2), [{"f0": "removed", "f1": "removed"}]),
        {"listed": [{}, {"f0": "removed", "f1": "removed"}]},
        "listed condition 2 is excluded: take it out of the list",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "case", "options", "message"), FAULTS.values(), ids=FAULTS)
def test_requests_that_conflict_say_what_to_change(
    kind: str, case: Asked, options: dict[str, Any], message: str
) -> None:
    """The message names the number or the name, and what to put there instead."""
    with pytest.raises(DesignError, match=message):
        case.make(kind, **options)


@pytest.mark.parametrize("name", ["rate", "fixed_share", "train_share"])
@pytest.mark.parametrize("value", [0, 1, -0.1, 1.5, math.nan, math.inf])
def test_shares_out_of_range_are_refused(name: str, value: float) -> None:
    """A share must lie between 0 and 1, and the message says which one does not."""
    with pytest.raises(DesignError, match=f"{name} is .*between 0 and 1"):
        plain(twos(4)).make("mixed", **dict[str, Any]({name: value}))


NEEDED: dict[str, tuple[int, dict[str, Any]]] = {
    "mixed": (2 * 57, {"random_conditions": 48}),
    "one_at_a_time": (2 * 9, {}),
    "two_stage": (45, {}),
    "add_one": (2 * 10, {}),
    "random": (2 * 30, {"random_conditions": 30}),
    "full": (2 * 256, {}),
    "fractional": (2 * 16, {}),
    "plackett_burman": (2 * 12, {}),
    "d_optimal": (2 * 20, {}),
    "listed": (2 * 9, {}),
}


@pytest.mark.parametrize("kind", NEEDED)
def test_too_few_trials_say_how_many_are_needed(kind: str) -> None:
    """The number in the message is two for each condition; it is enough, and one less is not."""
    needed, options = NEEDED[kind]
    case = plain(twos(8))
    for trials in (0, 1, needed // 2, needed - 1):
        with pytest.raises(DesignError, match=f"set trials to at least {needed}$"):
            case.make(kind, trials=trials, **options)
    design = case.make(kind, trials=needed, **options)
    assert len(design.conditions) == int(needed * design.spent) // 2


def test_conditions_of_plain_factors_are_conditions() -> None:
    """Factors given by their levels alone make conditions in their own order."""
    design = plain({"z": ["yes", "no"], "a": ["1", "2"]}).make("one_at_a_time", trials=6)
    assert design.conditions == (
        Condition((("z", "yes"), ("a", "1"))),
        Condition((("z", "no"), ("a", "1"))),
        Condition((("z", "yes"), ("a", "2"))),
    )


def test_the_random_design_has_no_fixed_part() -> None:
    """All its conditions are drawn, the original as often as the law has it."""
    law = law_by_enumeration(twos(4), 0.5, unsettled(twos(4)))
    design = plain(twos(4)).make("random", random_conditions=16)
    assert set(design.parts) == {"random"}
    found = {c.levels: mass for c, mass in zip(design.conditions, design.masses or (), strict=True)}
    assert found == pytest.approx(law)
    assert design.weights == design.masses
