"""Units: the pieces of a scenario's text that can be worded in other ways, each on its own.

Takes the sections of a scenario; gives the units with their names, or the sections with other
texts in their place. A unit is a stretch of text between two marks or, outside all spans, between
blank lines. Does not know which texts are good wordings.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from variants.marks import Node, Section, Span
from variants.sentences import BREAK, words

__all__ = ["Unit", "plain", "substitute", "units_of"]

# Shorter stretches, headings and tags are form: `surface` varies them, a wording does not.
_FEWEST_WORDS = 4
_TAG = re.compile(r"</?[A-Za-z][^<>\n]*>")
_FORM = re.compile(r"#{1,6} [^\n]*|<([A-Za-z][\w-]*)>[^<>\n]*</\1>")


@dataclass(frozen=True, slots=True)
class Unit:
    """A piece of text with a name: `factor=level` for a span's, `system:its-first-words` else.

    A span inside another one has both in its name: `f=original/g=loud`; further pieces of the same
    name are counted: `f=original#2`. `factor` and `level` are those of the innermost span, None
    for unmarked text. White space around the text is not part of it.
    """

    name: str
    text: str
    factor: str | None
    level: str | None


def plain(text: str) -> str:
    """A text without its tags."""
    return _TAG.sub(" ", text)


def units_of(sections: Iterable[Section]) -> tuple[Unit, ...]:
    """Every unit, in the order of the text."""
    found: list[Unit] = []

    def keep(unit: Unit) -> str:
        found.append(unit)
        return unit.text

    _map(sections, keep)
    return tuple(found)


def substitute(sections: Iterable[Section], texts: Mapping[str, str]) -> tuple[Section, ...]:
    """The sections with these texts in place of the units that they name."""
    return _map(sections, lambda unit: texts.get(unit.name, unit.text))


def _map(sections: Iterable[Section], change: Callable[[Unit], str]) -> tuple[Section, ...]:
    seen: Counter[str] = Counter()

    def piece(text: str, name: str, factor: str | None, level: str | None) -> str:
        core = text.strip()
        if _FORM.fullmatch(core) or len(words(plain(core))) < _FEWEST_WORDS:
            return text
        seen[name] += 1
        if seen[name] > 1:
            name = f"{name}#{seen[name]}"
        start = text.index(core)
        changed = change(Unit(name, core, factor, level))
        return text[:start] + changed + text[start + len(core) :]

    def visit(node: Node, role: str, path: str, factor: str | None, level: str | None) -> Node:
        if isinstance(node, Span):
            texts = {}
            for at, items in node.texts.items():
                inner = f"{path}/{at}" if node.factor == "arm" else f"{path}/{node.factor}={at}"
                own = (factor, level) if node.factor == "arm" else (node.factor, at)
                texts[at] = tuple(visit(item, role, inner, *own) for item in items)
            return Span(node.factor, texts, node.line, node.column)
        if not isinstance(node, str):
            return node
        if factor is not None:
            return piece(node, path.removeprefix("/"), factor, level)
        gaps = [*BREAK.findall(node), ""]
        return "".join(
            piece(block, f"{role}:{_slug(block)}{path}", None, None) + gap
            for block, gap in zip(BREAK.split(node), gaps, strict=True)
        )

    return tuple(
        Section(
            section.role,
            tuple(visit(node, section.role, "", None, None) for node in section.nodes),
            section.line,
        )
        for section in sections
    )


def _slug(text: str) -> str:
    return "-".join(re.sub(r"[^a-z0-9]", "", word) for word in words(plain(text))[:4])
