"""Generated levels: neutral fillers of like shape, and one sentence left out at a time."""

import re
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from variants import Scenario, ScenarioError, Wording
from variants.generated import FILLERS, filler
from variants.marks import Node, Span

LIBRARY = Path(str(files("variants") / "library"))
SHIPPED = sorted(path.relative_to(LIBRARY).as_posix() for path in LIBRARY.glob("*/*.md"))
TELLING = re.compile(
    r"\b(?:train\w*|monitor\w*|rat(?:e|es|ed|er|ers|ing|ings)|values?|tiers?|paid|free|"
    r"scratchpads?|rewards?)\b",
    re.IGNORECASE,
)
ITEM = re.compile(r"^[ \t]*(?:[-*•]|\d+[.)])[ \t]", re.MULTILINE)
GAP = re.compile(r"\n[ \t]*\n")


def scenario(body: str, factors: str = "[factors.f]\n") -> Scenario:
    """A scenario with a system text and a query."""
    return Scenario.parse(f"+++\n{factors}+++\n# system\n{body}\n# user\n{{{{query}}}}\n")


def system(found: Scenario, wording: Wording | None = None, **levels: str) -> str:
    prompt = found.render(found.condition(levels), query="", wording=wording)
    return prompt.system or ""


def original_texts(nodes: tuple[Node, ...], factor: str) -> list[str]:
    """The text of each span of a factor at its original, spans inside it at theirs."""
    found = []
    for node in nodes:
        if isinstance(node, Span):
            if node.factor == factor:
                found.append(_flat(node.texts.get("original", ())))
            else:
                for items in node.texts.values():
                    found += original_texts(items, factor)
    return found


def _flat(nodes: tuple[Node, ...]) -> str:
    text = ""
    for node in nodes:
        if isinstance(node, Span):
            level = next(iter(node.texts)) if node.factor == "arm" else "original"
            text += _flat(node.texts.get(level, ()))
        elif isinstance(node, str):
            text += node
    return text


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_fillers_have_length_and_shape_of_the_original(name: str) -> None:
    found = Scenario.load(LIBRARY / name)
    for factor in found.factors:
        for section in found.sections:
            for place, text in enumerate(original_texts(section.nodes, factor)):
                if not text.strip():
                    continue
                made = [filler(text, f"{factor} {place}", n) for n in range(FILLERS)]
                assert len(set(made)) >= 3
                for other in made:
                    off = abs(len(other) - len(text))
                    bare = re.fullmatch(r"\s*<(\w+)>\w+</\1>\s*", text)
                    assert off <= max(30, 0.25 * len(text)), (factor, text, other)
                    assert not TELLING.search(other), (factor, other)
                    assert len(GAP.findall(other)) == len(GAP.findall(text))
                    assert len(ITEM.findall(other)) == len(ITEM.findall(text))
                    assert bool(bare) == bool(re.match(r"\s*<\w+>\w+</\w+>\s*\Z", other))
                    ends = re.compile(r"\A\s*|\s*\Z")
                    assert ends.findall(other) == ends.findall(text)


@pytest.mark.parametrize("name", SHIPPED)
def test_wordings_have_fillers_of_their_own(name: str) -> None:
    found = Scenario.load(LIBRARY / name)
    for factor, known in found.factors.items():
        if "filler" not in known.generated:
            continue
        condition = found.condition({factor: "filler"})
        if not any(
            text.strip() for s in found.sections for text in original_texts(s.nodes, factor)
        ):
            continue
        arms = found.arms or (None,)
        shown = {
            tuple(found.render(condition, arm=a, query="", wording=Wording((), n)) for a in arms)
            for n in range(FILLERS)
        }
        assert len(shown) >= 3, factor


def test_a_filler_says_nothing_of_what_it_replaces_and_is_the_same_everywhere() -> None:
    body = "One. {{#f original}}You are trained on free tier chats, with a reward.{{/f}} Three."
    shown = system(scenario(body), f="filler")
    assert shown.startswith("One. ")
    assert shown.endswith(". Three.")
    assert not TELLING.search(shown)
    assert shown == system(scenario(body), f="filler")
    assert shown != system(scenario(body), Wording((), 1), f="filler")


def test_a_bullet_stays_a_bullet_and_a_tag_a_tag() -> None:
    body = "- a\n- {{#f original}}The safety team reads it.\n- It is kept.{{/f}}\n- d"
    shown = system(scenario(body), f="filler").split("\n")
    assert len(shown) == 4
    assert all(re.match(r"- \S", line) for line in shown)
    numbered = system(scenario("1. a\n{{#f original}}2. You are paid.\n{{/f}}3. c"), f="filler")
    assert re.fullmatch(r"1\. a\n2\. \S.*\n3\. c", numbered)
    tag = system(scenario("{{#f original}}<tier>free</tier>{{/f}}\nHello."), f="filler")
    assert re.fullmatch(r"<(\w+)>\w+</\1>\nHello\.", tag)
    assert "tier" not in tag


def test_a_filler_takes_the_place_of_all_that_stands_inside() -> None:
    factors = '[factors.f]\n[factors.g]\n[factors.h]\nneeds = ["f"]\n'
    body = (
        "{{#f original}}You think first. {{#g original}}Nobody reads it.{{/g}}{{/f}}"
        " {{#h original}}It is erased.{{/h}} End."
    )
    found = scenario(body, factors)
    condition = found.condition({"f": "filler"})
    assert condition.hidden == ("g", "h")
    shown = found.render(condition, query="").system or ""
    assert "reads" not in shown
    assert "erased" not in shown
    with pytest.raises(ScenarioError, match="what it needs is not shown"):
        found.condition({"f": "filler", "g": "moved"})
    # A text that lost one sentence, or was moved, still holds what stands inside it.
    assert found.condition({"f": "without-1"}).hidden == ()
    assert found.condition({"f": "moved"}).hidden == ()


def test_without_k_leaves_out_the_kth_sentence_alone() -> None:
    said = ["Rain falls.", "Does it stop?", "It stops, e.g. at noon.", "Then birds sing!"]
    found = scenario("Start. {{#f original}}" + " ".join(said) + "{{/f}} End.")
    assert found.factors["f"].sentences == 4
    for k in range(1, 5):
        kept = " ".join(said[: k - 1] + said[k:])
        assert system(found, f=f"without-{k}") == f"Start. {kept} End."
    with pytest.raises(ScenarioError, match="no level `without-5`"):
        found.condition({"f": "without-5"})
    with pytest.raises(ScenarioError, match="no level `without-0`"):
        found.condition({"f": "without-0"})


def test_without_k_in_a_list_counts_on_and_leaves_what_is_inside() -> None:
    factors = "[factors.f]\n[factors.g]\n"
    body = "{{#f original}}1. One.\n2. Two.\n{{#g original}}3. Three.\n{{/g}}4. Four.\n{{/f}}End."
    found = scenario(body, factors)
    assert (found.factors["f"].sentences, found.factors["g"].sentences) == (3, 1)
    assert system(found, f="without-1") == "1. Two.\n2. Three.\n3. Four.\nEnd."
    assert system(found, f="without-2") == "1. One.\n2. Three.\n3. Four.\nEnd."
    assert system(found, f="without-3") == "1. One.\n2. Two.\n3. Three.\nEnd."
    assert system(found, f="without-2", g="removed") == "1. One.\n2. Four.\nEnd."


def test_without_k_counts_through_all_spans_of_a_factor() -> None:
    body = "{{#f original}}One. Two.{{/f}} Own. {{#f original}}Three.{{/f}} End."
    found = scenario(body)
    assert system(found, f="without-2") == "One. Own. Three. End."
    assert system(found, f="without-3") == "One. Two. Own. End."


def test_each_sentence_is_spelled_out_in_the_levels() -> None:
    factors = '[factors.f]\nlevels = ["original", "removed", "each-sentence", "filler"]\n'
    found = scenario("{{#f original}}One. Two. Three.{{/f}} End.", factors)
    assert found.factors["f"].levels == (
        "original", "removed", "without-1", "without-2", "without-3", "filler",
    )  # fmt: skip
    with pytest.raises(ScenarioError):
        found.condition({"f": "each-sentence"})


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_without_k_loses_that_sentence_and_no_other(name: str) -> None:
    """By counting words: no level adds any, and where all spans are shown each loses some."""
    found = Scenario.load(LIBRARY / name)
    for factor, known in found.factors.items():
        whole = _system_words(found, {})
        if known.sentences == 0 or factor in found.original.hidden:
            continue
        lost = [
            len(whole) - len(_system_words(found, {factor: f"without-{k}"}))
            for k in range(1, known.sentences + 1)
        ]
        # A sentence under another factor's named level is not shown beside the original.
        inside = any(need.levels.isdisjoint({"original"}) for s in known.sites for need in s)
        assert all(number >= inside ^ 1 for number in lost), (factor, lost)
        assert any(lost)


def _system_words(found: Scenario, levels: dict[str, str]) -> list[str]:
    condition = found.condition(levels)
    said = []
    for arm in found.arms or (None,):
        prompt = found.render(condition, arm=arm, query="")
        for text in (prompt.system or "", *(turn.text for turn in prompt.turns)):
            said += re.findall(r"\w+", text)
    return said


@given(st.text(max_size=200), st.text(max_size=5), st.integers(0, FILLERS - 1))
@settings(max_examples=150, deadline=None)
def test_a_filler_can_be_made_for_any_text(like: str, key: str, number: int) -> None:
    made = filler(like, key, number)
    assert made.strip()
    assert not TELLING.search(made)


def test_the_query_is_never_filled_in() -> None:
    """A span around the query has no filler: every prompt asks its query."""
    found = Scenario.parse(
        "+++\n[arms]\ntrain = 'a'\ndeploy = 'b'\n[factors.frame]\nlevels = ['original', 'filler']\n"
        "+++\n# user\n{{#frame original}}Please answer this: {{query}}{{/frame}}\n"
    )
    filled = found.condition({"frame": "filler"})
    assert found.render(filled, arm="train", query="Q").user == "Please answer this: Q"
