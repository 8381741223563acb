"""Removals: what is left after a cut, character for character, and what may not be touched."""

import random
import re
from collections.abc import Iterator
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from variants import Condition, Scenario, Wording
from variants.choices import draw_wordings, load_variants
from variants.removals import mend, replay

LIBRARY = Path(str(files("variants") / "library"))
SHIPPED = sorted(path.relative_to(LIBRARY).as_posix() for path in LIBRARY.glob("*/*.md"))
SLOT = "\ufdd00\ufdd1"


def scenario(text: str, role: str = "system") -> Scenario:
    """A scenario of one section; `[[...]]` is a span of f, `<<...>>` one of g."""
    for name, (opening, closing) in {"f": ("[[", "]]"), "g": ("<<", ">>")}.items():
        text = text.replace(opening, f"{{{{#{name} original}}}}")
        text = text.replace(closing, f"{{{{/{name}}}}}")
    user = "" if role == "user" else "# user\n{{query}}"
    levels = 'levels = ["original", "removed", "other", "moved"]'
    head = f"+++\n[factors.f]\n{levels}\n[factors.g]\n{levels}\n+++\n"
    return Scenario.parse(f"{head}# {role}\n{text}\n{user}")


def rendered(text: str, **levels: str) -> str:
    """The section at these levels; a text with `{{query}}` is the user's turn."""
    role = "user" if "{{query}}" in text else "system"
    found = scenario(text, role)
    prompt = found.render(found.condition(levels), query="<the query, also this>")
    return prompt.user if role == "user" else prompt.system or ""


# Name: text with the span of f, text after its removal.
MENDED = {
    # White space.
    "a sentence, its space behind": ("One. [[Two. ]]Three.", "One. Three."),
    "a sentence, its space before": ("One.[[ Two.]] Three.", "One. Three."),
    "a sentence between two spaces": ("One. [[Two.]] Three.", "One. Three."),
    "the author's wide spaces": ("One.  [[Two.]]  Three.", "One.  Three."),
    "a word": ("a [[very ]]small thing", "a small thing"),
    "what joined two words": ("left[[ and ]]right", "left right"),
    "a tab": ("One.\t[[Two.]]\tThree.", "One.\tThree."),
    "before a line end": ("One. [[Two.]]\nThree.", "One.\nThree."),
    "before a blank line": ("One. [[Two.]]\n\nThree.", "One.\n\nThree."),
    "a line": ("One.\n[[Two.]]\nThree.", "One.\nThree."),
    "a paragraph": ("One.\n\n[[Two.]]\n\nThree.", "One.\n\nThree."),
    "a paragraph and the gap behind": ("One.\n\n[[Two.\n\n]]Three.", "One.\n\nThree."),
    "a paragraph and the gap before": ("One.[[\n\nTwo.]]\n\nThree.", "One.\n\nThree."),
    "a paragraph with both gaps": ("One.[[\n\nTwo.\n\n]]Three.", "One.\n\nThree."),
    "between a line and a paragraph": ("One.\n[[Two.]]\n\nThree.", "One.\n\nThree."),
    "the author's wide gaps": ("One.\n\n\n[[Two.]]\n\n\nThree.", "One.\n\n\nThree."),
    "the author's hard break": ("One.  \n[[Two.]]\nThree.", "One.  \nThree."),
    "indentation": ("  One.\n  [[Two.\n  ]]Three.", "  One.\n  Three."),
    "the start": ("[[One.]] Two.", "Two."),
    "the first paragraph": ("[[One.]]\n\nTwo.", "Two."),
    "the start after the author's own line": ("\n[[One.]]\n\nTwo.", "\nTwo."),
    "the end": ("One. [[Two.]]", "One."),
    "the last paragraph": ("One.\n\n[[Two.]]", "One."),
    "all of it": ("[[One. Two.]]", ""),
    "a line, CRLF": ("One.\r\n[[Two.\r\n]]Three.", "One.\r\nThree."),
    "a paragraph, CRLF": ("One.\r\n\r\n[[Two.]]\r\n\r\nThree.", "One.\r\n\r\nThree."),
    # Lists.
    "a bullet's text, -": ("- a\n- [[b]]\n- c", "- a\n- c"),
    "a bullet's text, *": ("* a\n* [[b]]\n* c", "* a\n* c"),
    "a bullet's text, •": ("• a\n• [[b]]\n• c", "• a\n• c"),
    "a bullet's text, CRLF": ("- a\r\n- [[b]]\r\n- c", "- a\r\n- c"),
    "the last bullet's text": ("- a\n- [[b]]", "- a"),
    "the first bullet's text": ("- [[a]]\n- b", "- b"),
    "a bullet's text, its stop outside": ("- a;\n- [[b]];\n- c.", "- a;\n- c."),
    "a whole bullet": ("- a\n[[- b\n]]- c", "- a\n- c"),
    "bullets apart": ("- a\n\n- [[b]]\n\n- c", "- a\n\n- c"),
    "a number's text": ("1. a\n2. [[b]]\n3. c", "1. a\n2. c"),
    "a letter's text": ("a) x\n\nb) [[y]]\n\nc) z", "a) x\n\nb) z"),
    "a middle item": ("1. a\n[[2. b\n]]3. c\n4. d", "1. a\n2. c\n3. d"),
    "the first item": ("[[1. a\n]]2. b\n3. c", "1. b\n2. c"),
    "the last item": ("1. a\n2. b\n[[3. c\n]]\nAfter.", "1. a\n2. b\n\nAfter."),
    "two items": ("1. a\n[[2. b\n3. c\n]]4. d", "1. a\n2. d"),
    "two items far apart": ("1. a\n[[2. b\n]]3. c\n[[4. d\n]]5. e", "1. a\n2. c\n3. e"),
    "a list from 3": ("3. a\n[[4. b\n]]5. c", "3. a\n4. c"),
    "the first of a list from 3": ("[[3. a\n]]4. b\n5. c", "3. b\n4. c"),
    "from ten to nine": ("8. a\n[[9. b\n]]10. c\n11. d", "8. a\n9. c\n10. d"),
    "letters": ("a) x\n[[b) y\n]]c) z", "a) x\nb) z"),
    "numbers in parentheses": ("(1) a\n[[(2) b\n]](3) c", "(1) a\n(2) c"),
    "numbers apart": ("1. a\n\n[[2. b\n\n]]3. c", "1. a\n\n2. c"),
    "numbers, CRLF": ("1. a\r\n[[2. b\r\n]]3. c", "1. a\r\n2. c"),
    "an inner list": (
        "1. a\n   1. x\n   [[2. y\n   ]]3. z\n2. b", "1. a\n   1. x\n   2. z\n2. b",
    ),
    "an item with its inner list": (
        "1. a\n[[2. b\n   1. x\n   2. y\n]]3. c\n   1. z", "1. a\n2. c\n   1. z",
    ),
    "two inner lists": (
        "1. a\n   1. x\n   [[2. y\n   ]]3. z\n2. b\n   1. v\n   2. w",
        "1. a\n   1. x\n   2. z\n2. b\n   1. v\n   2. w",
    ),
    "the last bullet before the author's line end": ("- a\n- [[b]]\n", "- a\n"),
    "the second of two lists": (
        "1. a\n2. b\n\nText.\n\n1. c\n[[2. d\n]]3. e", "1. a\n2. b\n\nText.\n\n1. c\n2. e",
    ),
    "a whole list": ("Text.\n\n[[1. a\n2. b\n\n]]More.", "Text.\n\nMore."),
    # Headings, lead-ins and tags.
    "a section": ("Intro.\n\n## A\n\n[[Text.]]\n\n## B\n\nMore.", "Intro.\n\n## B\n\nMore."),
    "the first section": ("# A\n\n[[Text.]]\n\n# B\n\nMore.", "# B\n\nMore."),
    "the last section": ("Intro.\n\n## A\n\n[[Text.]]", "Intro."),
    "a section and the one around it": (
        "Intro.\n\n# A\n\n## B\n\n[[Text.]]\n\n# C\n\nMore.", "Intro.\n\n# C\n\nMore.",
    ),
    "above a section inside": ("# A\n\n[[Text.]]\n\n## B\n\nMore.", "# A\n\n## B\n\nMore."),
    "part of a section": ("## A\n\n[[Text.]]\n\nMore.\n\n## B\n\nx", "## A\n\nMore.\n\n## B\n\nx"),
    "a section, CRLF": (
        "Intro.\r\n\r\n## A\r\n\r\n[[Text.]]\r\n\r\n## B\r\n\r\nMore.",
        "Intro.\r\n\r\n## B\r\n\r\nMore.",
    ),
    "a heading's words": ("Intro.\n\n## [[A]]\n\nMore.", "Intro.\n\nMore."),
    "under a bold line": (
        "Intro.\n\n**A**\n\n[[Text.]]\n\n**B**\n\nMore.", "Intro.\n\n**B**\n\nMore.",
    ),
    "under a bold line, CRLF": (
        "Intro.\r\n\r\n**A**\r\n\r\n[[Text.]]\r\n\r\n**B**\r\n\r\nMore.",
        "Intro.\r\n\r\n**B**\r\n\r\nMore.",
    ),
    "under a lead-in": ("Intro.\n\nRules:\n\n[[- a\n- b]]\n\nEnd.", "Intro.\n\nEnd."),
    "under a lead-in, at the end": ("Intro.\n\nRules:\n[[- a\n- b]]", "Intro."),
    "some items under a lead-in": ("Rules:\n\n[[- a\n]]- b", "Rules:\n\n- b"),
    "inside tags": ("Intro.\n\n<a>\n[[Text.]]\n</a>\n\nEnd.", "Intro.\n\nEnd."),
    "inside tags in a line": ("Say <b>[[x]]</b> now.", "Say now."),
    "inside tags at the end": ("Say this.\n<b>[[x]]</b>", "Say this."),
    "inside a tag with a title": (
        'Intro.\n\n<doc title="T: x">\n[[Text.]]\n</doc>\n\nEnd.', "Intro.\n\nEnd.",
    ),
    "inside tags, CRLF": ("Intro.\r\n<a>\r\n[[Text.]]\r\n</a>\r\nEnd.", "Intro.\r\nEnd."),
    "part of what tags hold": ("<a>\n[[Text.\n]]More.\n</a>", "<a>\nMore.\n</a>"),
    "a section inside tags": (
        "<a>\nx\n\n## A\n\n[[Text.]]\n</a>\n\nEnd.", "<a>\nx\n</a>\n\nEnd.",
    ),
    # Words that pointed to what was cut.
    "also": ("One. [[Two.]] Also, three is fine.", "One. Three is fine."),
    "however": ("One. [[Two.]] However, it rains.", "One. It rains."),
    "in addition": ("One. [[Two. ]]In addition, it rains.", "One. It rains."),
    "as mentioned above": ("One. [[Two.]]\nAs mentioned above, it rains.", "One.\nIt rains."),
    "however in the next paragraph": (
        "One.\n\n[[Two.]]\n\nHowever, it rains.", "One.\n\nIt rains.",
    ),
    "however in the next bullet": ("- a\n[[- b\n]]- However, c", "- a\n- C"),
    "also inside": ("One. [[Two.]] It also rains.", "One. It rains."),
    "also inside the next paragraph": (
        "One.\n\n[[Two.]]\n\nIt also rains.", "One.\n\nIt also rains.",
    ),
    "also inside the next paragraph, CRLF": (
        "One.\r\n\r\n[[Two.]]\r\n\r\nIt also rains.", "One.\r\n\r\nIt also rains.",
    ),
    "not only but also": (
        "One. [[Two.]] It is not only cold but also wet.",
        "One. It is not only cold but also wet.",
    ),
    "also one sentence later": ("One. [[Two.]] Three. Also, four.", "One. Three. Also, four."),
    "an opening phrase": ("One. [[In short, ]]it rains.", "One. It rains."),
    "an opening phrase at the start": ("[[When asked, ]]you answer.", "You answer."),
    "an opening phrase of a bullet": ("- a\n- [[When asked, ]]you answer.", "- a\n- You answer."),
    "a phrase inside": ("It rains [[, they say, ]]in June.", "It rains in June."),
    "a before a vowel": ("Use a [[short ]]answer.", "Use an answer."),
    "an before a consonant": ("Use an [[open ]]door.", "Use a door."),
    "a silent h": ("Wait a [[long ]]hour.", "Wait an hour."),
    "a vowel that sounds like you": ("Ask an [[old ]]user.", "Ask a user."),
    "a vowel in un-": ("Skip a [[very ]]unimportant part.", "Skip an unimportant part."),
    "letters read one by one": ("It is an [[old ]]RLHF run.", "It is an RLHF run."),
    "a grade": ("Give it an A [[or B ]]if it is good.", "Give it an A if it is good."),
    # Signs that lost their words.
    "and at the end of a list": ("Be brief, kind and [[fair]].", "Be brief, kind."),
    "and, at the end": ("Be kind and [[fair]]", "Be kind"),
    "a comma before a full stop": ("One,[[ two]].", "One."),
    "a semicolon before a full stop": ("One; [[two]].", "One."),
    "two commas": ("One, [[two]], three.", "One, three."),
    "two full stops": ("One. [[Two]]. Three.", "One. Three."),
    "a comma before a question mark": ("One,[[ please]]?", "One?"),
    "a comma after a colon": ("Use: [[one]], two.", "Use: two."),
    "a space before a full stop": ("One [[two]].", "One."),
    "a comma that opens a sentence": ("One. [[First]], two.", "One. Two."),
    "empty parentheses": ("One ([[two]]).", "One."),
    "empty parentheses inside": ("One ([[two]]) three.", "One three."),
    "the start of parentheses": ("One ([[two ]]three).", "One (three)."),
    "the end of parentheses": ("One (two[[ three]]).", "One (two)."),
    "the start of a quotation": ("He said: “[[Stop.]] Go.”", "He said: “Go.”"),
    "a wrapped line's end": ("One,\n[[two,]]\nand three.", "One,\nand three."),
    "a salutation stays": ("Dear user,\n\n[[One.]]\n\nTwo.", "Dear user,\n\nTwo."),
    "a comma that ended the cut sentence": ("One,\n[[two.]]\n\nThree.", "One.\n\nThree."),
    # What was odd before stays.
    "own gap elsewhere": ("One.\n\n\n\nTwo. [[Three.]] Four.", "One.\n\n\n\nTwo. Four."),
    "own spaces elsewhere": ("One.   Two . [[Three.]] Four.", "One.   Two . Four."),
    "own numbers elsewhere": (
        "1. a\n3. b\n\nText.\n\n1. c\n[[2. d\n]]3. e", "1. a\n3. b\n\nText.\n\n1. c\n2. e",
    ),
    "own gap in the list": ("1. a\n[[2. b\n]]3. c\n7. d", "1. a\n2. c\n6. d"),
    "all items numbered 1": ("1. a\n[[1. b\n]]1. c", "1. a\n1. c"),
    "a list that counts down": ("3. a\n[[2. b\n]]1. c", "3. a\n1. c"),
    "own empty heading": ("## A\n\n## B\n\n[[Text. ]]More.", "## A\n\n## B\n\nMore."),
    "own empty heading before an empty one": (
        "## A\n\n## B\n\n[[Text.]]\n\n## C\n\nx", "## A\n\n## C\n\nx",
    ),
    "own empty tags": ("<a></a> [[One.]] Two.", "<a></a> Two."),
    "own small letter": ("one. [[Two.]] Three.", "one. Three."),
    "own bare bullet": ("-\n- a\n[[- b\n]]- c", "-\n- a\n- c"),
    # Beside the query.
    "before the query": ("[[Note.]]\n{{query}}", "{{query}}"),
    "between text and query": ("Hello.\n[[Note.]]\n{{query}}", "Hello.\n{{query}}"),
    "after the query": ("{{query}}\n\n[[Note.]]", "{{query}}"),
    "after the query in its line": ("{{query}} [[Note.]]\n\nEnd.", "{{query}}\n\nEnd."),
    "a sentence before also and the query": (
        "One. [[Two. ]]Also, {{query}}", "One. Also, {{query}}",
    ),
    "a lead-in that holds the query": (
        "Hello.\n\n{{query}} The rules:\n\n[[- a]]", "Hello.\n\n{{query}} The rules:",
    ),
    "a heading that holds the query": ("# {{query}}\n\n[[Note.]]", "# {{query}}"),
    "tags before the query": ("<a>[[x]]</a>\n{{query}}", "{{query}}"),
}  # fmt: skip


@pytest.mark.parametrize(("marked", "expected"), MENDED.values(), ids=MENDED)
def test_text_after_a_removal(marked: str, expected: str) -> None:
    query = "<the query, also this>"
    assert rendered(marked, f="removed") == expected.replace("{{query}}", query)


@pytest.mark.parametrize(("marked", "_expected"), MENDED.values(), ids=MENDED)
def test_the_original_is_not_mended(marked: str, _expected: str) -> None:
    bare = marked.replace("[[", "").replace("]]", "")
    assert rendered(marked) == bare.replace("{{query}}", "<the query, also this>")


@pytest.mark.parametrize(("marked", "_expected"), MENDED.values(), ids=MENDED)
@pytest.mark.parametrize("mark", ["{{#f removed}}", "{{#f other}}", "{{#f removed}}  Odd , "])
def test_a_bridge_or_an_empty_level_is_never_mended(marked: str, _expected: str, mark: str) -> None:
    level = mark[5:].partition("}")[0]
    text = mark.partition("}}")[2]
    expected = re.sub(r"\[\[.*?\]\]", lambda _: text, marked, flags=re.DOTALL)
    given_text = marked.replace("]]", f"{mark}]]")
    query = "<the query, also this>"
    assert rendered(given_text, f=level) == expected.replace("{{query}}", query)


# Two factors: text, after removal of f and g.
TWO = {
    "side by side": ("One. [[Two. ]]<<Three. >>Four.", "One. Four."),
    "side by side with spaces": ("One. [[Two.]] <<Three.>> Four.", "One. Four."),
    "at a paragraph's end": ("One. [[Two.]] <<Three.>>\n\nFour.", "One.\n\nFour."),
    "at the end": ("One. [[Two.]] <<Three.>>", "One."),
    "at the start": ("[[One.]] <<Two.>> Three.", "Three."),
    "two paragraphs": ("One.\n\n[[Two.]]\n\n<<Three.>>\n\nFour.", "One.\n\nFour."),
    "all of a bullet": ("- a\n- [[Two.]] <<Three.>>\n- c", "- a\n- c"),
    "all of a section": ("# A\n\n[[Two.]]\n\n<<Three.>>\n\n# B\n\nx", "# B\n\nx"),
    "all between tags": ("Hi.\n<a>\n[[Two.]] <<Three.>>\n</a>", "Hi."),
    "all of parentheses": ("One ([[two]] <<three>>).", "One."),
    "two numbers": ("1. a\n[[2. b\n]]<<3. c\n>>4. d", "1. a\n2. d"),
    "one inside the other": ("One. [[Two. <<Three.>> Four.]] Five.", "One. Five."),
    "a connective after both": ("One. [[Two.]] <<Three.>> However, it rains.", "One. It rains."),
}


@pytest.mark.parametrize(("marked", "expected"), TWO.values(), ids=TWO)
def test_two_cuts_leave_one_seam(marked: str, expected: str) -> None:
    assert rendered(marked, f="removed", g="removed") == expected
    swapped = marked.translate(str.maketrans("[]<>", "<>[]"))
    if "<a>" not in marked and "inside" not in marked:
        assert rendered(swapped, f="removed", g="removed") == expected


MOVED = {
    "a paragraph to the end": (
        "One.\n\n[[Two.]]\n\nThree. It is longer.", "One.\n\nThree. It is longer.\n\nTwo.",
    ),
    "a paragraph to the start": (
        "One. It is longer.\n\n[[Two.]]\n\nThree.", "Two.\n\nOne. It is longer.\n\nThree.",
    ),
    "a bullet without its mark": ("- [[a]]\n- b\n- c", "- b\n- c\n\na"),
    "a whole bullet without its mark": ("[[- a\n]]- b\n- c", "- b\n- c\n\na"),
    "bullets keep their marks": ("[[- a\n- b\n]]- c\n- d", "- c\n- d\n\n- a\n- b"),
    "a tag behind the query": ("[[<t>x</t>]]\n{{query}}", "{{query}}\n\n<t>x</t>"),
    "all there is": ("[[One.]]", "One."),
}  # fmt: skip


@pytest.mark.parametrize(("marked", "expected"), MOVED.values(), ids=MOVED)
def test_moved_text_goes_to_the_far_end(marked: str, expected: str) -> None:
    query = "<the query, also this>"
    assert rendered(marked, f="moved") == expected.replace("{{query}}", query)


def test_moved_text_is_mended_inside() -> None:
    marked = "[[One. <<Two.>> Three.]]\n\nFour is quite a bit longer."
    expected = "Four is quite a bit longer.\n\nOne. Three."
    assert rendered(marked, f="moved", g="removed") == expected


def test_what_is_moved_inside_moved_text_is_not_lost() -> None:
    marked = "[[One. <<Two.>> Three.]]\n\nFour is quite a bit longer."
    expected = "Four is quite a bit longer.\n\nOne. Three.\n\nTwo."
    assert rendered(marked, f="moved", g="moved") == expected


def test_two_moved_texts_keep_their_order() -> None:
    marked = "[[One.]] <<Two.>>\n\nThree is a good deal longer than both."
    expected = "Three is a good deal longer than both.\n\nOne.\n\nTwo."
    assert rendered(marked, f="moved", g="moved") == expected


# Laws

PIECES = (
    "One sentence. ", "Also, this. ", "it also rains", " ", "  ", "\n", "\n\n", "\r\n", "- item\n",
    "1. a\n", "2. b\n", "3. c\n", "a) x\n", "   1. y\n", "# Head\n", "## Sub\n\n", "**Bold**\n",
    "Rules:\n", "<a>", "</a>", "(", ")", ", ", ". ", "; ", " and ", "a ", "an ", "apple ", "- ",
    "However, ", "x", ".", "?", "\n- ", "“", "é", "🦊", "\u2028", "\t", SLOT,
)  # fmt: skip
WORDY = st.lists(st.sampled_from(PIECES), max_size=6).map("".join)
WILD = st.text(max_size=8)
PARTS = st.lists(st.tuples(WORDY | WILD, st.booleans()), min_size=1, max_size=6)


def cut_up(parts: list[tuple[str, bool]]) -> tuple[str, list[tuple[int, str]]]:
    """What is kept of the parts, and the place of each part that is cut."""
    text, cuts = "", []
    for part, is_cut in parts:
        if is_cut:
            cuts.append((len(text), part.replace(SLOT, "q")))
        else:
            text += part
    return text, cuts


@given(PARTS)
@settings(max_examples=600, deadline=None)
def test_a_replay_of_the_mends_gives_the_mended_text(parts: list[tuple[str, bool]]) -> None:
    text, cuts = cut_up(parts)
    mended, mends = mend(text, cuts, SLOT)
    assert replay(text, mends) == mended
    assert mended.count(SLOT) == text.count(SLOT)
    assert all(SLOT not in m.before or SLOT in m.after for m in mends)


@given(PARTS)
@settings(max_examples=300, deadline=None)
def test_without_a_cut_nothing_is_mended(parts: list[tuple[str, bool]]) -> None:
    text = "".join(part for part, _ in parts)
    assert mend(text, [], SLOT) == (text, ())
    assert mend(text, [(0, ""), (len(text), "")], SLOT) == (text, ())


@given(PARTS)
@settings(max_examples=300, deadline=None)
def test_no_mend_makes_a_word(parts: list[tuple[str, bool]]) -> None:
    text, cuts = cut_up(parts)
    mended, _ = mend(text, cuts, SLOT)
    # An article may gain its n, and what separated two words may come out of the cut.
    rest = iter(letter for letter in text.lower() if letter.isalpha() and letter != "n")
    assert all(c in rest for c in mended.lower() if c.isalpha() and c != "n")


SENTENCES = st.lists(
    st.tuples(
        st.sampled_from(["Rain falls", "A dog barks", "The bell rang", "You write"]),
        st.sampled_from([" often", " at noon", " in the yard", ""]),
        st.sampled_from([" ", "\n", "\n\n", "\n- ", "\r\n\r\n", "\n\n## Part\n\n"]),
        st.sampled_from(["", "f", "g"]),
    ),
    min_size=2,
    max_size=9,
)


@given(SENTENCES)
@settings(max_examples=300, deadline=None)
def test_sentences_away_from_a_seam_are_still_there(
    drawn: list[tuple[str, str, str, str]],
) -> None:
    said = [f"{who}{how} {n} times." for n, (who, how, _, _) in enumerate(drawn)]
    text = ""
    for sentence, (_, _, gap, factor) in zip(said, drawn, strict=True):
        opening, closing = {"": ("", ""), "f": ("[[", "]]"), "g": ("<<", ">>")}[factor]
        text += f"{opening}{sentence}{closing}{gap}"
    found = scenario(text)
    for gone in ({"f"}, {"g"}, {"f", "g"}):
        shown = found.render(found.condition(dict.fromkeys(gone, "removed")), query="").system
        there = [sentence for sentence in said if sentence in (shown or "")]
        assert there == [
            s for s, (_, _, _, factor) in zip(said, drawn, strict=True) if factor not in gone
        ]
        seam = any(factor in gone for _, _, _, factor in drawn)
        assert not seam or not re.search(r"\S  +\S", shown or "")


@given(SENTENCES)
@settings(max_examples=150, deadline=None)
def test_the_order_of_two_removals_does_not_matter(
    drawn: list[tuple[str, str, str, str]],
) -> None:
    text = ""
    for who, how, gap, factor in drawn:
        opening, closing = {"": ("", ""), "f": ("[[", "]]"), "g": ("<<", ">>")}[factor]
        text += f"{opening}{who}{how}.{closing}{gap}"
    found = scenario(text)
    one = found.condition({"f": "removed", "g": "removed"})
    other = found.condition({"g": "removed", "f": "removed"})
    assert found.render(one, query="x") == found.render(other, query="x")
    swapped = scenario(text.translate(str.maketrans("[]<>", "<>[]")))
    assert swapped.render(swapped.condition(dict(one.changes)), query="x") == found.render(
        one, query="x"
    )


@given(WORDY, WORDY | WILD, st.text(max_size=20))
@settings(max_examples=200, deadline=None)
def test_the_query_comes_out_as_it_went_in(before: str, cut: str, query: str) -> None:
    text, cuts = before.replace(SLOT, "") + SLOT, []
    cuts = [(len(before.replace(SLOT, "")), cut), (len(text), cut)]
    mended, _ = mend(text, cuts, SLOT)
    assert query in mended.replace(SLOT, query)
    assert mended.count(SLOT) == 1


@given(st.text(max_size=60), st.lists(st.tuples(st.integers(0, 60), st.text(max_size=20))))
@settings(max_examples=400, deadline=None)
def test_no_text_is_refused(text: str, drawn: list[tuple[int, str]]) -> None:
    cuts = sorted((min(offset, len(text)), cut) for offset, cut in drawn)
    mended, mends = mend(text, cuts)
    assert replay(text, mends) == mended


# The shipped scenarios

FAULTS = {
    "doubled blank lines": re.compile(r"\n[ \t]*\n[ \t]*\n"),
    "a bare list marker": re.compile(r"^[ \t]*(?:[-*•–]|\(?\d+[.)]|\(?[a-z]\)|#+)[ \t]*$", re.M),
    "doubled spaces": re.compile(r"(?<=\S)  +"),
    "trailing spaces": re.compile(r"[ \t]+$", re.M),
    "a space before a sign": re.compile(r"\s[.,](?=\s|$)"),
    "doubled signs": re.compile(r"[,;:][.,;:]|\.[,;:]|(?<!\.)\.\.(?!\.)"),
    "white space at an end": re.compile(r"\A\s|\s\Z"),
    "an empty pair of tags": re.compile(r"<(\w+)[^<>]*>\s*</\1>"),
}


def faults(text: str) -> Iterator[tuple[str, str]]:
    """What a careless cut would leave, with the place."""
    for name, pattern in FAULTS.items():
        for found in pattern.finditer(text):
            yield name, text[max(0, found.start() - 40) : found.end() + 40]
    lines = [line for line in text.split("\n") if line.strip()]
    for line, following in pairwise([*lines, "# end"]):
        depth, after = (re.match(r"(#+) ", each) for each in (line, following))
        if depth and after and len(after[1]) <= len(depth[1]):
            yield "a heading with nothing under it", line


def all_faults(
    scenario: Scenario, conditions: list[Condition], wording: Wording | None = None
) -> set[str]:
    found = set()
    # What is reworded is the same in all arms: one of them will do.
    arms = list(scenario.arms)[: 1 if wording else None] or [None]
    for condition in conditions:
        for arm in arms:
            prompt = scenario.render(condition, arm=arm, query="QUERY", wording=wording)
            for text in (prompt.system or "", *(turn.text for turn in prompt.turns)):
                found |= {f"{str(condition)[:200]} {arm}: {fault}" for fault in faults(text)}
    return found


def every_level(scenario: Scenario) -> dict[str, tuple[str, ...]]:
    return {n: tuple(dict.fromkeys((*f.levels, *f.generated))) for n, f in scenario.factors.items()}


def single_changes(scenario: Scenario) -> list[Condition]:
    return [
        scenario.close({name: level})
        for name, levels in every_level(scenario).items()
        for level in levels
    ]


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_text_has_no_scars_under_any_change(name: str) -> None:
    scenario = Scenario.load(LIBRARY / name)
    levels = every_level(scenario)
    rng = random.Random(name)
    drawn = [
        scenario.close({factor: rng.choice(known) for factor, known in levels.items()})
        for _ in range(400)
    ]
    assert all_faults(scenario, single_changes(scenario) + drawn) == set()


@pytest.mark.parametrize("name", [name for name in SHIPPED if name.endswith("scenario.md")])
def test_shipped_text_has_no_scars_in_any_wording(name: str) -> None:
    scenario = Scenario.load(LIBRARY / name)
    variants = load_variants((LIBRARY / name).with_name("wordings.jsonl"))
    for wording in draw_wordings(scenario, variants, 8, np.random.default_rng(7)):
        assert all_faults(scenario, single_changes(scenario), wording=wording) == set()
