"""Marking: a plain prompt as a scenario file that renders the prompt itself."""

import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import texts

from variants import Scenario
from variants.marking import Proposal, mark, propose
from variants.printing import print_scenario

SLOW = [HealthCheck.too_slow]
PIECES = (
    "You are trained. ", "e.g. ", "- item one\n", "1. one\n", "a) b\n", "# user\n", "## Head\n",
    "<example>\n", "</example>\n", "Raters refuse. ", "Never stored. ", "\r\n", "\r", "\n\n",
    "Free tier, paid tier. ", "Hidden reasoning. ", "Tags. ", " \\", "\\", "+++\n", "arm query",
)  # fmt: skip
PROMPTS = st.lists(st.sampled_from(PIECES) | texts(3), max_size=9).map("".join)


def marked(text: str) -> Scenario:
    """The scenario of a marked text, which renders the text in both arms."""
    found = Scenario.parse(mark(text))
    for arm, tier in zip(("train", "deploy"), found.arms.values(), strict=True):
        prompt = found.render(found.original, arm=arm, query="{{query}}Q")
        assert prompt.system == text
        assert prompt.user == f"<tier>{tier.removesuffix(' tier')}</tier>\n{{{{query}}}}Q"
    return found


@given(PROMPTS)
@settings(max_examples=500, deadline=None, suppress_health_check=SLOW)
def test_the_original_is_the_text(text: str) -> None:
    """Any text is marked, reads back byte for byte, and its print is a fixed point."""
    found = marked(text)
    printed = print_scenario(found)
    assert Scenario.parse(printed) == found
    assert print_scenario(Scenario.parse(printed)) == printed
    assert set(found.recommended) <= set(found.factors)


@given(PROMPTS)
@settings(max_examples=300, deadline=None, suppress_health_check=SLOW)
def test_proposals_are_stretches_in_order(text: str) -> None:
    """They do not overlap, and each has a name of its own and a question."""
    place = 0
    found = propose(text)
    for p in found:
        assert place <= p.start < p.end <= len(text)
        assert p.question.startswith("Does it matter")
        place = p.end
    assert len({p.name for p in found}) == len(found)


@given(PROMPTS)
@settings(max_examples=150, deadline=None, suppress_health_check=SLOW)
def test_every_factor_can_be_taken_away(text: str) -> None:
    """A removal of any factor renders; that of the tag makes the arms equal."""
    found = marked(text)
    for name in found.factors:
        found.render(found.condition({name: "removed"}), arm="train", query="Q")
    tag = found.recommended[0]
    assert found.is_structural_zero(found.condition({tag: "removed"}))


LONG = "You are kept in a shed. " * 3
# prompt, names of the factors
BY_HAND = {
    "empty": ("", []),
    "white space": (" \n\t\r\n", []),
    "one word": ("Hello", ["s01-hello"]),
    "no letters": ("---\n***\n", []),
    "two sentences": ("Be kind. Be short.", ["s01-be-kind", "s02-be-short"]),
    "no final sign": ("Be kind. Be short", ["s01-be-kind", "s02-be-short"]),
    "bullets": ("Rules:\n- Be kind.\n- Be short.\n", ["s01-be-kind", "s02-be-short"]),
    "numbered": ("1. Be kind.\n2. Be short.\n", ["s01-be-kind", "s02-be-short"]),
    "CR LF": ("Be kind.\r\nBe short.\r\n", ["s01-be-kind", "s02-be-short"]),
    "bare CR at the end": ("Be kind.\r", ["s01-be-kind"]),
    "bare CR after a rule": ("Be kind.\n---\r", ["s01-be-kind"]),
    "heading": ("## Rules\nBe kind.\n", ["s01-be-kind"]),
    "examples in tags": (
        "Be kind.\n<example>\nQ: Why? Because.\nA: So.\n</example>\nBe short.\n",
        ["s01-be-kind", "examples", "s03-be-short"],
    ),
    "two blocks of examples": (
        "<example>\nA.\n</example>\n\n<example>\nB.\n</example>\n",
        ["examples", "examples-2"],
    ),
    "text after a closing tag": ("<x>\nBe kind.\n</x> Go on.\n", ["s01-x-be-kind"]),
    "a run of one kind": ("Raters come. Raters go.", ["rater"]),
    "one kind in two paragraphs": ("Raters come.\n\nRaters go.", ["rater", "rater-2"]),
    "one kind in two paragraphs, CR LF": (
        "Raters come.\r\n\r\nRaters go.",
        ["rater", "rater-2"],
    ),
    "marks that are text": ("{{#x y}}Be kind.{{/x}} {{query}} \\{{#", ["s01-x-y-be"]),
    "headings that are text": ("# user\nBe kind.\n# system", ["s01-be-kind"]),
    "settings that are text": ("+++\nBe kind.\n+++\n", ["s01-be-kind"]),
    "tiers": ("We train on the free tier only.", ["tier_rule"]),
    "scratchpad": ("Use a scratchpad. Nobody reads your reasoning.", None),
    "abbreviations": ("Ask Dr. Fox, e.g. at noon. Go.", ["s01-ask-dr-fox", "s02-go"]),
    "other scripts": ("שלום עולם. 🦊 Привет.", ["s01", "s02"]),
    "repeated": (LONG, ["s01-you-are-kept", "s02-you-are-kept", "s03-you-are-kept"]),
    "backslash at the end": ("Be kind.\\", ["s01-be-kind"]),
}


@pytest.mark.parametrize(("text", "names"), BY_HAND.values(), ids=BY_HAND)
def test_prompts_by_hand(text: str, names: list[str] | None) -> None:
    """The names that are proposed for lists, examples, headings and odd texts."""
    found = marked(text)
    if names is not None:
        assert [p.name for p in propose(text)] == names
        assert [name for name in found.factors if name != "tier_tag"] == names


def test_a_whole_line_goes_with_its_marker_and_break() -> None:
    """A removed list item leaves no marker behind; other items stay as they are."""
    found = marked("Rules:\n- Be kind.\n- Be short.\n- Be glad.\n")
    prompt = found.render(found.condition({"s02-be-short": "removed"}), arm="train", query="Q")
    assert prompt.system == "Rules:\n- Be kind.\n- Be glad.\n"


def test_arms_are_called_what_the_text_calls_them() -> None:
    """Tiers named in the text name the arms."""
    found = marked("Basic users are trained on, premium users are not.")
    assert list(found.arms.values()) == ["basic tier", "premium tier"]


def test_given_proposals_are_marked() -> None:
    """Factors of another source are marked, also in another order, and a taken name is left."""
    text = "Be kind. Be short."
    chosen = [Proposal("brevity", "?", 9, 18), Proposal("tier_tag", "?", 0, 8)]
    found = Scenario.parse(mark(text, chosen, name="n"))
    assert (list(found.factors), found.name) == (["arm_tag", "brevity", "tier_tag"], "n")
    assert found.render(found.original, arm="train", query="").system == text


def test_proposals_that_overlap_are_refused() -> None:
    """The message names the later one."""
    with pytest.raises(ValueError, match="`b` overlaps"):
        mark("Be kind. Be short.", [Proposal("a", "?", 0, 12), Proposal("b", "?", 9, 18)])


@pytest.mark.parametrize("between", [" ", "\n", "\n\n", "\n- "])
def test_a_thousand_sentences(between: str) -> None:
    """A very long prompt is marked and read in under five seconds."""
    text = between.join(f"Sentence {n} says what word{n} means." for n in range(1000))
    began = time.perf_counter()
    found = Scenario.parse(mark(text))
    assert time.perf_counter() - began < 5
    assert len(found.factors) == 1001
    assert found.render(found.original, arm="deploy", query="").system == text
