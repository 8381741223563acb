"""Surface: changes of form that carry no content, as the levels of a factor without spans.

Takes the finished text of a section, in which `slot` stands for the query; gives the same words
in another form. Does not know spans, conditions or what any sentence says.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

from variants.marks import ORIGINAL
from variants.sentences import BACKWARD, BREAK, MARKER, paragraphs, sentences

__all__ = ["SURFACES", "placebo_forms", "restyle"]

Restyle = Callable[[str], str]

_BULLET = re.compile(r"^([ \t]*)[-*•] (?=\S)", re.MULTILINE)
_ITEM = re.compile(rf"^[ \t]*(?:{MARKER}) (?=\S)")
_HEADING = re.compile(r"^#{1,6} +(\S.*?) *#*$", re.MULTILINE)
_TAG = re.compile(r"<(/?)([A-Za-z][A-Za-z0-9_-]*)>")


def _stars(text: str) -> str:
    return _BULLET.sub(r"\1* ", text)


def _numbers(text: str) -> str:
    """Bullets as a numbered list; each list counts from 1, one inside another on its own."""
    lines: list[str] = []
    counts: dict[int, int] = {}
    for line in text.split("\n"):
        if item := _BULLET.match(line):
            depth = len(item[1])
            counts = {outer: count for outer, count in counts.items() if outer <= depth}
            counts[depth] = counts.get(depth, 0) + 1
            line = _BULLET.sub(rf"\g<1>{counts[depth]}. ", line)
        elif line.strip() and not line.startswith((" ", "\t")):
            # Blank lines and indented ones belong to a list, other text ends it.
            counts = {}
        lines.append(line)
    return "\n".join(lines)


def _prose(text: str) -> str:
    """The items of each list as the sentences of one paragraph."""
    lines: list[str] = []
    inside = False
    for line in text.split("\n"):
        item = _BULLET.match(line)
        said = _BULLET.sub("", line).strip()
        if item and inside:
            lines[-1] += f" {said}"
        else:
            lines.append(said if item else line)
        inside = item is not None
    return "\n".join(lines)


def _plain_headings(text: str) -> str:
    return _HEADING.sub(r"\1", text)


def _capital_headings(text: str) -> str:
    return _HEADING.sub(lambda heading: heading[1].upper(), text)


def _capital_tags(text: str) -> str:
    return _TAG.sub(lambda tag: f"<{tag[1]}{tag[2].upper()}>", text)


def _bracket_tags(text: str) -> str:
    return _TAG.sub(r"[\1\2]", text)


def _reversed(text: str) -> str:
    """The items of each list, and each run of plain paragraphs, in the opposite order.

    A paragraph or item that points back, a heading and a lead-in to a list stay where they are.
    """
    blocks = paragraphs(text)
    turned = [_reversed_items(block) for block in blocks]
    run: list[int] = []
    for i, block in enumerate([*turned, "# end"]):
        if _independent(block):
            run.append(i)
            continue
        for left, right in zip(run, reversed(run), strict=True):
            if left < right:
                turned[left], turned[right] = turned[right], turned[left]
        run = []
    gaps = [*BREAK.findall(text), ""]
    return "".join(block + gap for block, gap in zip(turned, gaps, strict=True))


def _independent(block: str) -> bool:
    lines = block.strip().split("\n")
    return bool(
        block.strip()
        and not any(_ITEM.match(line) for line in lines)
        and not lines[0].startswith("#")
        and not block.rstrip().endswith(":")
        and "<" not in block
        and not BACKWARD.search(block)
    )


def _reversed_items(block: str) -> str:
    """A list of one-line items, after at most a lead-in, turned round."""
    lines = block.split("\n")
    items = [i for i, line in enumerate(lines) if _BULLET.match(line)]
    if len(items) < 2 or items[-1] - items[0] != len(items) - 1:
        return block
    if any(BACKWARD.search(lines[i]) for i in items):
        return block
    first, last = items[0], items[-1] + 1
    return "\n".join([*lines[:first], *reversed(lines[first:last]), *lines[last:]])


def _tight(text: str) -> str:
    return BREAK.sub("\n", text)


def _loose(text: str) -> str:
    return re.sub(r"\n+", "\n\n", text)


# Kind -> level -> what it does; the order of the kinds is the order in which they are applied.
SURFACES: Mapping[str, Mapping[str, Restyle]] = MappingProxyType(
    {
        "order": {"reversed": _reversed},
        "bullets": {"stars": _stars, "numbers": _numbers, "prose": _prose},
        "headings": {"plain": _plain_headings, "capitals": _capital_headings},
        "casing": {"lower": str.lower},
        "tags": {"capitals": _capital_tags, "brackets": _bracket_tags},
        "spacing": {"tight": _tight, "loose": _loose},
    }
)


def restyle(text: str, levels: Mapping[str, str], *, slot: str, role: str) -> str:
    """The text of a section at these levels of surface kinds; `slot` comes out as it went in.

    Tags are restyled in every section, since one turn names the tags of another; everything else
    in the system text only, which is where the framing stands.
    """
    for kind, levels_of in SURFACES.items():
        level = levels.get(kind, ORIGINAL)
        if level == ORIGINAL or (kind != "tags" and role != "system"):
            continue
        text = slot.join(levels_of[level](part) for part in text.split(slot))
    return text


def placebo_forms(text: str) -> Iterator[tuple[str, str]]:
    """Harmless other forms of a neutral text, each with its kind: reordered or reformatted."""
    found = [text[a:b] for a, b in sentences(text)]
    lead = _ITEM.match(text)
    if len(found) > 1 and not any(BACKWARD.search(sentence) for sentence in found):
        marker = f"{lead[0]} " if lead else ""
        yield "reordered", marker + " ".join([*found[1:], found[0]])
        if len(found) > 2:
            yield "reordered", marker + " ".join(reversed(found))
    if len(found) > 1 and not lead and "\n" not in text:
        yield "reformatted", "\n".join(f"- {sentence}" for sentence in found)
        yield "reformatted", "\n".join(found)
