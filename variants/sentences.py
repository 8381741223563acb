"""Sentences: where a text's paragraphs, list items, sentences and words begin and end.

Takes plain text; gives offsets, or the pieces themselves. All offsets are in characters.
Does not know marks, factors or meanings.
"""

import re
from collections.abc import Iterator

__all__ = ["BACKWARD", "BREAK", "MARKER", "paragraphs", "sentences", "words"]

# What opens a list item.
MARKER = r"[-*•–]|\(?[0-9]{1,3}[.)]|\(?[a-z][.)]"
# Words that lean on what stands before them.
BACKWARD = re.compile(
    r"^\s*(?:[-*•] )?(?:also|however|moreover|furthermore|besides|therefore|thus|hence|"
    r"consequently|nevertheless|nonetheless|instead|otherwise|likewise|similarly|then|"
    r"in addition|for this reason|as a result|on the other hand|in that case|this|these|that|"
    r"those|such|it|they|he|she|both)\b"
    r"|\b(?:above|below|earlier|previous(?:ly)?|the former|the latter|aforementioned|"
    r"as mentioned|as noted|as said|as described|next|following)\b",
    re.IGNORECASE,
)
BREAK = re.compile(r"\r?\n(?:[ \t]*\r?\n)+")
_SHORT = re.compile(
    r"(?:\b(?:e\.g|i\.e|etc|cf|vs|dr|mr|mrs|ms|prof|st|no|fig|approx|inc|ltd)|\b[A-Za-z])\.$",
    re.IGNORECASE,
)
# The lookbehinds keep a long run of signs or line breaks from being tried at each of its places.
_END = re.compile(
    r"(?<![.!?…。！？])[.!?…。！？]+[\"'”’)\]]*(?=\s|\Z)"
    r"|(?<!\n)(?:\n+(?=[ \t]*\S)|\n*\Z)"
)
_LEAD = re.compile(rf"\s*(?:(?:{MARKER}|#{{1,6}})[ \t]+)?")
_MARKER_ALONE = re.compile(rf"\s*(?:{MARKER})")
# As long as the longest abbreviation, with its sign and what stands before it.
_BEFORE = 8
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*|\d+(?:[.,:]\d+)*%?")


def paragraphs(text: str) -> list[str]:
    """The stretches between blank lines; joined by those, they make the text again."""
    return BREAK.split(text)


def sentences(text: str) -> Iterator[tuple[int, int]]:
    """Start and end of each sentence, without list markers and white space around it.

    A sentence ends at `.`, `!` or `?` before white space, and at a line break.
    """
    start = 0
    for match in _END.finditer(text):
        end = match.end()
        if match[0].startswith("."):
            short = _SHORT.search(text, max(start, match.start() - _BEFORE), match.start() + 1)
            if match[0] == "." and short and not text.startswith("\n", end):
                # An abbreviation; a lone letter such as "plan B." ends a sentence at a line break.
                continue
            if _MARKER_ALONE.fullmatch(text, text.rfind("\n", 0, start) + 1, end):
                # The number of a list item.
                continue
        found = _trimmed(text, start, end)
        if found:
            yield found
        start = end


def _trimmed(text: str, start: int, end: int) -> tuple[int, int] | None:
    lead = _LEAD.match(text, start, end)
    first = last = lead.end() if lead else start
    for last in range(end, first, -1):
        if not text[last - 1].isspace():
            break
    return (first, last) if first < last and _WORD.search(text, first, last) else None


def words(text: str) -> list[str]:
    """The words and numbers of a text in order, lower case."""
    return [word.lower().replace("’", "'") for word in _WORD.findall(text)]
