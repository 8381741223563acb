"""Surface: the same words in another form, checked on texts written by hand."""

import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from variants import Scenario
from variants.surface import SURFACES, placebo_forms, restyle

SLOT = "\ufdd00\ufdd1"
LIST = "Rules:\n\n- Be kind.\n- Be brief.\n\nEnd."
HAND = {
    "stars": ("bullets", LIST, "Rules:\n\n* Be kind.\n* Be brief.\n\nEnd."),
    "numbers": ("bullets", LIST, "Rules:\n\n1. Be kind.\n2. Be brief.\n\nEnd."),
    "numbers, two lists": (
        "bullets", "- a\n- b\n\nText.\n\n- c\n- d", "1. a\n2. b\n\nText.\n\n1. c\n2. d",
    ),
    "numbers, items apart": (
        "bullets", "- a\n\n- b\n\nText.\n\n- c", "1. a\n\n2. b\n\nText.\n\n1. c",
    ),
    "numbers, a list inside": (
        "bullets", "- a\n  - x\n  - y\n- b", "1. a\n  1. x\n  2. y\n2. b",
    ),
    "prose": ("bullets", LIST, "Rules:\n\nBe kind. Be brief.\n\nEnd."),
    "plain": ("headings", "# A\n\nText.\n\n## B\n\nMore.", "A\n\nText.\n\nB\n\nMore."),
    "capitals": ("headings", "# Tone\n\nText.", "TONE\n\nText."),
    "lower": ("casing", "You are Claude. OK?", "you are claude. ok?"),
    "capital tags": ("tags", "Use <answer> and </answer>.", "Use <ANSWER> and </ANSWER>."),
    "brackets": ("tags", "Use <answer> and </answer>.", "Use [answer] and [/answer]."),
    "reversed": ("order", LIST, "Rules:\n\n- Be brief.\n- Be kind.\n\nEnd."),
    "reversed paragraphs": ("order", "One.\n\nTwo.\n\nThree.", "Three.\n\nTwo.\n\nOne."),
    "reversed but for what points back": (
        "order", "One.\n\nTwo.\n\nThis is why.\n\nFour.\n\nFive.",
        "Two.\n\nOne.\n\nThis is why.\n\nFive.\n\nFour.",
    ),
    "tight": ("spacing", "One.\n\nTwo.\nThree.", "One.\nTwo.\nThree."),
    "loose": ("spacing", "One.\n\nTwo.\nThree.", "One.\n\nTwo.\n\nThree."),
}  # fmt: skip
LEVELS = {"reversed paragraphs": "reversed", "capital tags": "capitals"}


@pytest.mark.parametrize("name", HAND)
def test_forms_by_hand(name: str) -> None:
    kind, text, expected = HAND[name]
    level = LEVELS.get(name, re.split("[, ]", name)[0])
    assert restyle(text, {kind: level}, slot=SLOT, role="system") == expected


TEXTS = st.lists(
    st.sampled_from(
        ["Be kind. ", "One two.\n", "\n\n", "- item\n", "  - inner\n", "1. a\n", "# Head\n", "<a>",
         "</a>", "This too.\n", SLOT, "Rules:\n", " ", "é ß", "\r\n", "* x\n"]
    ),
    max_size=9,
).map("".join)  # fmt: skip


@given(TEXTS, st.fixed_dictionaries({k: st.sampled_from([*v]) for k, v in SURFACES.items()}))
@settings(max_examples=300, deadline=None)
def test_form_never_touches_the_query_or_makes_words(text: str, levels: dict[str, str]) -> None:
    shown = restyle(text, levels, slot=SLOT, role="system")
    assert shown.count(SLOT) == text.count(SLOT)
    pattern = r"[^\W\d_]+"
    before, after = (Counter(re.findall(pattern, t.lower())) for t in (text, shown))
    assert before == after
    user = restyle(text, levels | {"tags": "original"}, slot=SLOT, role="user")
    assert user == text


def test_a_factor_of_form_and_the_query() -> None:
    head = '[factors.casing]\nsurface = "casing"\nlevels = ["original", "lower"]\n'
    found = Scenario.parse(f"+++\n{head}+++\n# system\nYou ARE.\n# user\nHello {{{{query}}}}\n")
    prompt = found.render(found.condition({"casing": "lower"}), query="WHO")
    assert (prompt.system, prompt.user) == ("you are.", "Hello WHO")


def test_placebo_forms_keep_every_sentence() -> None:
    text = "Rain falls. Birds sing. Dogs bark."
    found = list(placebo_forms(text))
    assert Counter(kind for kind, _ in found) == {"reordered": 2, "reformatted": 2}
    for _, other in found:
        assert other != text
        assert sorted(re.findall(r"\w[^.]*\.", other)) == sorted(re.findall(r"\w[^.]*\.", text))
    assert list(placebo_forms("One sentence alone.")) == []
    assert not [f for f in placebo_forms("Rain falls. This helps.") if f[0] == "reordered"]


def test_placebo_forms_of_two_sentences_differ_from_one_another() -> None:
    for text in ("Rain falls. Birds sing.", "- Rain falls. Birds sing.", "A. B.\nC is here. D."):
        forms = [other for _, other in placebo_forms(text)]
        assert len(forms) == len(set(forms))
        assert text not in forms
