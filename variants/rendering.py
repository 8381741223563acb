"""Rendering: the text that a condition shows, put together with its seams mended.

Takes sections and the level of every factor; gives one text for each section, in which a slot
stands for the query, and the mends. Does not know needs, surfaces, or what a condition may be.
"""

import itertools
import re
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from variants.declarations import MOVED
from variants.generated import flatten, with_generated
from variants.marks import ORIGINAL, REMOVED, Cut, Node, QuerySlot, Section, Span
from variants.removals import Mend, mend
from variants.sentences import MARKER

__all__ = ["Moved", "Rendering", "Text", "assemble", "pieces"]

_ITEM = re.compile(rf"\A(?:{MARKER})[ \t]+")
_ITEM_LINE = re.compile(rf"^[ \t]*(?:{MARKER})[ \t]+", re.MULTILINE)

# Role, text with a slot for the query, and mends of a section.
Text = tuple[str, str, tuple[Mend, ...]]


class Rendering:
    """What a scenario remembers of its rendering: nothing of it is part of its value."""

    def __init__(
        self, sections: tuple[Section, ...], filler: int, alternates: frozenset[str] = frozenset()
    ) -> None:
        self.sections = sections
        self.filler = filler
        self.alternates = alternates
        self.kept: dict[Hashable, tuple[Text, ...]] = {}
        self.worded: dict[Hashable, Any] = {}
        self.hidden: frozenset[str] | None = None
        self.slot = _absent_from(sections)
        self._generated: dict[frozenset[str], tuple[Section, ...]] = {}

    def sections_with(self, names: Iterable[str]) -> tuple[Section, ...]:
        """The sections with the texts of these factors' generated levels."""
        asked = frozenset(names)
        if not asked:
            return self.sections
        have = next((key for key in self._generated if asked <= key), None)
        if have is None:
            have = asked.union(*self._generated)
            made = with_generated(self.sections, self.filler, have, self.alternates)
            self._generated = {have: made}
        return self._generated[have]


def _absent_from(sections: Iterable[Section]) -> str:
    """A short text that stands nowhere in the scenario, to hold the place of the query."""
    leaves = [_leaves(section.nodes) for section in sections]
    for number in itertools.count():
        slot = f"\ufdd0{number}\ufdd1"
        if not any(slot in text for texts in leaves for text in texts):
            return slot
    raise AssertionError


def _leaves(nodes: Iterable[Node]) -> tuple[str, ...]:
    found: list[str] = []
    for node in nodes:
        if isinstance(node, str):
            found.append(node)
        elif isinstance(node, Span):
            for items in node.texts.values():
                found += _leaves(items)
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Moved:
    """What goes to the far end of its section."""

    pieces: tuple["str | Cut | Moved", ...]


def pieces(
    nodes: Iterable[Node],
    levels: Mapping[str, str | None],
    arm: str | None,
    hidden: frozenset[str] = frozenset(),
) -> Iterator[str | QuerySlot | Cut | Moved]:
    """The pieces that a condition shows, with a Cut for each text that it takes out."""
    for node in nodes:
        if not isinstance(node, Span):
            yield node
            continue
        if node.factor == "arm":
            yield from pieces(node.texts.get(arm or "", ()), levels, arm, hidden)
            continue
        level = levels[node.factor]
        if level == MOVED:
            inside = list(pieces(node.shown(ORIGINAL), levels, arm, hidden))
            yield Cut(flatten(node.texts.get(ORIGINAL, ())))
            yield Moved(tuple(piece for piece in inside if not isinstance(piece, QuerySlot)))
            yield from (piece for piece in inside if isinstance(piece, QuerySlot))
        elif level is None or (level == REMOVED and REMOVED not in node.texts):
            if level is not None or node.factor not in hidden:
                yield Cut(flatten(node.texts.get(ORIGINAL, ())))
        else:
            yield from pieces(node.shown(level), levels, arm, hidden)


def assemble(
    shown: Iterable[str | QuerySlot | Cut | Moved], slot: str
) -> tuple[str, tuple[Mend, ...]]:
    """One text of the pieces, its seams mended and what was moved put at the far end."""
    parts: list[str] = []
    cuts: list[tuple[int, str]] = []
    moved: list[tuple[int, str]] = []
    size = 0
    for piece in shown:
        if isinstance(piece, Cut):
            cuts.append((size, piece.text))
            continue
        if isinstance(piece, Moved):
            moved.append((size, assemble(piece.pieces, slot)[0]))
            continue
        part = slot if isinstance(piece, QuerySlot) else piece
        parts.append(part)
        size += len(part)
    text, mends = mend("".join(parts), cuts, slot) if cuts else ("".join(parts), ())
    heads = [_unlisted(block) for offset, block in moved if 2 * offset > size]
    tails = [_unlisted(block) for offset, block in moved if 2 * offset <= size]
    text = text.lstrip() if any(heads) else text
    text = text.rstrip() if any(tails) else text
    return "\n\n".join(filter(None, [*heads, text, *tails])), mends


def _unlisted(block: str) -> str:
    """A block of its own: one list item loses its mark, a list keeps all of them."""
    block = block.strip()
    rest = _ITEM.sub("", block)
    return block if _ITEM_LINE.search(rest) else rest
