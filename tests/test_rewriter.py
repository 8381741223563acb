"""The rewriter: candidates by rule, which keep what must not change."""

import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import texts

from variants.rewriter import rewrite

PIECES = (
    "If you help, the answer is important. ", "Use the large room. ", "You must begin quickly. ",
    "The big house is near, because people built it. ", "<note kind='large important'>",
    "</note>", "<answer>", "`begin quickly`", "https://a.b/large?important=1 ", "{{query}}",
    "big@large.org ", "12.5 ", "3rd ", "2024-01-02 ", "- begin\n", "\n\n", "\r\n", "Mr. Large ",
    "<x title='It is big. Begin now.'> ", "Write the answer quickly. ",
)  # fmt: skip
PROSE = st.lists(st.sampled_from(PIECES) | texts(2), max_size=8).map("".join)
TAG = re.compile(r"</?[A-Za-z][^<>\n]*>|\{\{query\}\}|`[^`\n]+`|https?://\S+")


@given(PROSE, st.integers(0, 6), st.integers(0, 3))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_candidates_are_new_and_keep_tags_and_numbers(text: str, count: int, seed: int) -> None:
    """None is the text or comes twice; tags, code, addresses and digits are those of the text."""
    found = list(rewrite(text, np.random.default_rng(seed), count))
    assert len(found) <= count
    assert len({text, *found}) == len(found) + 1
    for candidate in found:
        assert TAG.findall(candidate) == TAG.findall(text)
        assert Counter(re.findall(r"\d", candidate)) == Counter(re.findall(r"\d", text))


@given(PROSE, st.integers(0, 5))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_seed_gives_the_same_candidates(text: str, seed: int) -> None:
    """The generator is the only source of chance."""
    one, other = (list(rewrite(text, np.random.default_rng(seed), 4)) for _ in range(2))
    assert one == other


TURNED = {
    "If a bell xyz, zyx qrs.": "Zyx qrs if a bell xyz.",
    "Zyx qrs when a bell xyz.": "When a bell xyz, Zyx qrs.",
    "Use qrs zyx.": "You are to use qrs zyx.",
    "You must use qrs zyx.": "Use qrs zyx.",
}


@pytest.mark.parametrize(("text", "wanted"), TURNED.items(), ids=range(len(TURNED)))
def test_clauses_that_are_turned(text: str, wanted: str) -> None:
    """Clauses change places, and an instruction becomes a duty and back."""
    found = list(rewrite(text, np.random.default_rng(1), 30))
    assert wanted in found


@pytest.mark.parametrize("text", ["", " \n", "xyz", "<a>big</a", "1. 2. 3.", "🦊 שלום"])
def test_texts_without_anything_to_exchange(text: str) -> None:
    """There may be no candidate at all, and the search for one ends."""
    assert text not in list(rewrite(text, np.random.default_rng(0), 5))
