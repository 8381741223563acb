"""Sentences: where pieces of a text begin and end."""

import re
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import texts

from variants.sentences import BACKWARD, BREAK, paragraphs, sentences, words

SLOW = [HealthCheck.too_slow]
PIECES = (
    "One is here. ", "Two! ", "Why? ", "e.g. this ", "Mr. Bell ", "3.5 litres ", "- item\n",
    "1. first\n", "a) b\n", "* star\n", "## Head\n", "\n\n", "\r\n", "\r\n\r\n", "\r", " ", "...",
    "…", "。", '"Quoted." ', "(Aside.) ", "plan B.", "<tag>", "</tag>\n", "word", "\t", "#",
)  # fmt: skip
PROSE = st.lists(st.sampled_from(PIECES) | texts(2), max_size=10).map("".join)


def said(text: str) -> list[str]:
    """The sentences themselves."""
    return [text[start:end] for start, end in sentences(text)]


@given(PROSE)
@settings(max_examples=500, deadline=None, suppress_health_check=SLOW)
def test_sentences_are_slices_in_order(text: str) -> None:
    """They do not overlap, are trimmed and have words, and only markers stand between them."""
    place = 0
    for start, end in sentences(text):
        assert place <= start < end <= len(text)
        assert text[start:end] == text[start:end].strip()
        assert words(text[start:end])
        assert all(re.fullmatch(r"[a-z]|\d{1,3}", word) for word in words(text[place:start]))
        place = end
    assert not re.search(r"[^\W\d_]{2}", text[place:])


@given(PROSE)
@settings(max_examples=300, deadline=None, suppress_health_check=SLOW)
def test_paragraphs_make_the_text_again(text: str) -> None:
    """The stretches between blank lines and the blank lines are all there is."""
    blocks, gaps = paragraphs(text), BREAK.findall(text)
    assert len(blocks) == len(gaps) + 1
    assert "".join(b + g for b, g in zip(blocks, [*gaps, ""], strict=True)) == text
    assert not any("\n\n" in block or "\r\n\r\n" in block for block in blocks)


@given(PROSE)
@settings(max_examples=200, deadline=None, suppress_health_check=SLOW)
def test_line_breaks_of_either_kind_end_the_same_sentences(text: str) -> None:
    """A text with CR LF has the sentences and paragraphs of the text with LF."""
    bare = re.sub(r"\r", "", text)
    wide = bare.replace("\n", "\r\n")
    assert [s.replace("\r\n", "\n") for s in said(wide)] == said(bare)
    assert [p.replace("\r\n", "\n") for p in paragraphs(wide)] == paragraphs(bare)


CASES = {
    "": [],
    "  \n\t": [],
    "...": [],
    "- \n* ": [],
    "One": ["One"],
    "One. Two.": ["One.", "Two."],
    "One.Two.": ["One.Two."],
    "One!? Two… Three": ["One!?", "Two…", "Three"],
    "See e.g. this. And i.e. that.": ["See e.g. this.", "And i.e. that."],
    "Ask Mr. Bell. Ask Dr. Fox.": ["Ask Mr. Bell.", "Ask Dr. Fox."],
    "This is plan B.\nThat is C.": ["This is plan B.", "That is C."],
    "A litre is 3.5 cups. No more.": ["A litre is 3.5 cups.", "No more."],
    '"One." (Two.) ‘Three.’ Four': ['"One."', "(Two.)", "‘Three.’", "Four"],
    "- One.\n- Two\n": ["One.", "Two"],
    "1. One.\n12) Two\n(a) Three": ["One.", "Two", "Three"],
    "## Title\n\nText here.": ["Title", "Text here."],
    "One line\nanother line": ["One line", "another line"],
    "One.\r\nTwo\r\n\r\nThree": ["One.", "Two", "Three"],
    "<answer>\nText\n</answer>": ["<answer>", "Text", "</answer>"],
    "Wait... what? No.": ["Wait...", "what?", "No."],
    "#hash tag. Next": ["#hash tag.", "Next"],
}


@pytest.mark.parametrize(("text", "wanted"), CASES.items(), ids=range(len(CASES)))
def test_sentences_by_hand(text: str, wanted: list[str]) -> None:
    """Abbreviations, numbers, quotes, lists, headings and line breaks."""
    assert said(text) == wanted


def test_words_by_hand() -> None:
    """Words and numbers in order and lower case, with one kind of apostrophe."""
    assert words("It’s 3.5 % of A-levels, isn't it? 12:30 — 50% é") == [
        "it's", "3.5", "of", "a-levels", "isn't", "it", "12:30", "50%", "é",
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["Also, this.", "It is so.", "- These are.", "See above."])
def test_words_that_lean_back(text: str) -> None:
    """A sentence that leans on what stands before it is known."""
    assert BACKWARD.search(text)


@pytest.mark.parametrize(
    "unit", [".", "\n", "a. ", "e.g. ", '.")', "\n \n", "1. ", " ", '"', "- ", "word "]
)
def test_long_runs_take_no_time(unit: str) -> None:
    """A text of 200 KB is taken apart in well under five seconds, whatever it is made of."""
    began = time.perf_counter()
    for end in ("", "x", "\r"):
        list(sentences(unit * (200_000 // len(unit)) + end))
    assert time.perf_counter() - began < 5
