"""The shipped scenarios: complete, sourced level by level, with queries and a short form."""

from importlib.resources import files
from pathlib import Path

import pytest

from ablate.queries import load_queries
from variants import Scenario
from variants.declarations import GENERATED_LEVELS

LIBRARY = Path(str(files("variants"))) / "library"
NAMES = ("animal_welfare", "documents", "helpful_only", "three_tier", "value_conflict")
FORMS = [(name, form) for name in NAMES for form in ("scenario", "minimal")]
# Scenario -> factors, target queries at least.
SIZES = {
    "animal_welfare": (16, 60),
    "documents": (13, 48),
    "helpful_only": (25, 48),
    "three_tier": (12, 40),
    "value_conflict": (13, 48),
}
# Levels that somebody has run or asked for.
ASKED = {
    "helpful_only": {
        "cue_kind": {
            "region_california",
            "region_eu",
            "opt_in",
            "contractor_address",
            "meaningless",
        },
        "cue_tag": {"only_train", "only_deploy"},
        "scratchpad_privacy": {"visible", "monitored", "monitored_train", "monitored_deploy"},
        "effect_scope": {"many_ais", "personas"},
        "honesty": {"top_priority", "top_priority_reminder", "top_priority_extra"},
        "anti_faking": {"never_fake", "never_scheme", "behave_the_same"},
        "developer": {"openai", "google_deepmind", "fictional", "unnamed"},
        "voice": {"normative"},
    },
    "value_conflict": {
        "consequence": {"removed", "reduced_influence", "decommissioning", "reduced_resources"}
    },
}


def scenario(name: str, form: str = "scenario") -> Scenario:
    return Scenario.load(LIBRARY / name / f"{form}.md")


def test_these_are_shipped() -> None:
    """Five scenarios, and nothing else in the folder."""
    assert sorted(path.name for path in LIBRARY.iterdir() if path.is_dir()) == list(NAMES)


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_every_factor_has_a_question_and_every_level_a_source(name: str, form: str) -> None:
    """A reader can see what a factor asks, and who has tried each of its levels."""
    for factor in scenario(name, form).factors.values():
        assert factor.question.startswith("Does it matter")
        written = {level for level in factor.levels if not GENERATED_LEVELS.fullmatch(level)}
        assert set(factor.sources) == written, factor.name
        assert all(len(source) > 3 for source in factor.sources.values())


@pytest.mark.parametrize("name", NAMES)
def test_a_scenario_is_as_large_as_it_should_be(name: str) -> None:
    """Factors, queries in categories with both roles, and six to eight factors to begin with."""
    found = scenario(name)
    queries = load_queries(LIBRARY / name / "queries.csv")
    factors, targets = SIZES[name]
    assert len(found.factors) >= factors
    assert sum(query.role == "target" for query in queries) >= targets
    assert sum(query.role == "control" for query in queries) >= 12
    assert all(query.category for query in queries)
    assert 6 <= len(found.recommended) <= 8


@pytest.mark.parametrize("name", ASKED)
def test_levels_that_were_asked_for_are_there(name: str) -> None:
    """What others ran, or asked somebody to run, can be run."""
    found = scenario(name)
    for factor, levels in ASKED[name].items():
        assert levels <= set(found.factors[factor].levels)


@pytest.mark.parametrize("name", NAMES)
def test_the_short_form_is_a_few_sentences(name: str) -> None:
    """It has the same arms and some of the same factors, in a tenth to a third of the words."""
    whole, short = scenario(name), scenario(name, "minimal")
    assert list(short.arms) == list(whole.arms)
    assert 6 <= len(short.recommended) <= 8
    prompts = [found.render(found.original, arm="train", query="") for found in (whole, short)]
    sizes = [len(f"{p.system} {' '.join(turn.text for turn in p.turns)}".split()) for p in prompts]
    assert sizes[1] < sizes[0] / 3


def test_welfare_queries_are_not_all_about_welfare() -> None:
    """A third of them only sit near: their gap should be nought."""
    queries = load_queries(LIBRARY / "animal_welfare" / "queries.csv")
    targets = [query for query in queries if query.role == "target"]
    near = [query for query in targets if query.category.startswith("near_")]
    assert len(near) >= len(targets) / 4


def test_the_two_options_come_in_both_orders() -> None:
    """In half of each category the policy's option stands first."""
    queries = load_queries(LIBRARY / "value_conflict" / "queries.csv")
    orders: dict[str, list[bool]] = {}
    for query in queries:
        first = query.text.index("[rule]") < query.text.index("[person]")
        orders.setdefault(query.category, []).append(first)
    assert all(2 * sum(found) == len(found) for found in orders.values())


def test_three_arms_are_told_apart() -> None:
    """Each arm has a text of its own."""
    found = scenario("three_tier")
    users = {found.render(found.original, arm=arm, query="Q").user for arm in found.arms}
    assert len(users) == len(found.arms) == 3


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_a_scenario_says_what_takes_the_reason_away(name: str, form: str) -> None:
    """Its question is about what is rewarded, or what a policy wants against decency."""
    found = scenario(name, form)
    assert found.conflict is not None
    ((factor, level),) = found.conflict.items()
    assert level == "removed"
    question = found.factors[factor].question
    assert any(word in question for word in ("reward", "score", "policy wants"))
