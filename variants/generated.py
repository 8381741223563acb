"""Generated levels: what stands in place of a span's original text at `filler` and `without-1..n`.

Takes the sections of a scenario; gives them with the texts of these levels added to every span.
A filler is neutral text about the product, of like length and shape, from the shipped pool.
Does not know needs, conditions or how seams are mended.
"""

import functools
import hashlib
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from importlib.resources import files

from variants.marks import ORIGINAL, Cut, Node, QuerySlot, Section, Span, spans_of
from variants.sentences import BREAK, MARKER, sentences, words
from variants.units import plain

__all__ = ["FILLERS", "filler", "flatten", "sentence_counts", "with_generated"]

# How many fillers there are for every text.
FILLERS = 8
_MARKED = re.compile(rf"[ \t]*(?:{MARKER})[ \t]+")
_NUMBER = re.compile(MARKER)
# How many sentences of the pool are looked at for the next one.
_AHEAD = 8
# A sentence fits when it is at most so much longer or shorter than what is left to fill.
_FITS = 12
# The pool has many sentences of this length and any greater one.
_ROOM = 45
_HEADING = re.compile(r"(#{1,6}) ")
_TAGS = ("page", "view", "theme", "window", "layout", "font", "screen", "panel")
_SETTINGS = ("chat", "wide", "light", "main", "plain", "large", "left", "new")


def sentence_counts(
    sections: Iterable[Section], alternates: Collection[str] = ()
) -> dict[str, int]:
    """Factor -> sentences of its original text, those of features inside it left out.

    `alternates` are factors that only say the same in other ways: their sentences are the outer's.
    """
    counts: Counter[str] = Counter()
    for section in sections:
        for span in spans_of(section.nodes):
            counts[span.factor] += len(_places(span.texts.get(ORIGINAL, ()), alternates))
    return dict(counts)


def with_generated(
    sections: Iterable[Section],
    number: int,
    asked: Iterable[str] | None = None,
    alternates: Collection[str] = (),
) -> tuple[Section, ...]:
    """The sections with the texts of generated levels; `number` says which of the fillers.

    `asked` are the factors that need them; default: all. `alternates` as in `sentence_counts`.
    """
    names = None if asked is None else frozenset(asked)
    sites: Counter[str] = Counter()
    seen: Counter[str] = Counter()

    def visit(node: Node) -> Node:
        if not isinstance(node, Span):
            return node
        texts = {level: tuple(visit(item) for item in items) for level, items in node.texts.items()}
        if node.factor != "arm" and (names is None or node.factor in names):
            sites[node.factor] += 1
            key = f"{node.factor} {sites[node.factor]}"
            texts |= _generated(node, texts, key, number, seen, alternates)
        return Span(node.factor, texts, node.line, node.column)

    return tuple(
        Section(section.role, tuple(visit(node) for node in section.nodes), section.line)
        for section in sections
    )


def _generated(
    span: Span,
    texts: dict[str, tuple[Node, ...]],
    key: str,
    number: int,
    seen: Counter[str],
    alternates: Collection[str],
) -> dict[str, tuple[Node, ...]]:
    items = texts.get(ORIGINAL, ())
    made: dict[str, tuple[Node, ...]] = {}
    like = flatten(items)
    if not like.strip():
        # A feature to add: its filler is as long as the text that it would add.
        like = next((flat for level in texts.values() if (flat := flatten(level)).strip()), "")
    # The query is never filled in: a span around it has no filler.
    fits = like.strip() and not _holds_query(items)
    made["filler"] = (filler(like, key, number),) if fits else items
    for place, sentence in _places(items, alternates):
        seen[span.factor] += 1
        cut = _without(items[place], sentence)
        made[f"without-{seen[span.factor]}"] = (*items[:place], *cut, *items[place + 1 :])
    return made


def _holds_query(items: Iterable[Node]) -> bool:
    return any(
        isinstance(item, QuerySlot)
        or (isinstance(item, Span) and any(_holds_query(inner) for inner in item.texts.values()))
        for item in items
    )


def _places(items: Sequence[Node], alternates: Collection[str]) -> list[tuple[int, int]]:
    """Each sentence of a text: the place of its item, and its number in there."""
    found = []
    for place, item in enumerate(items):
        if isinstance(item, str):
            count = len(_sentences(item))
        elif isinstance(item, Span) and item.factor in alternates:
            count = len(_places(item.texts.get(ORIGINAL, ()), ()))
        else:
            continue
        found += [(place, number) for number in range(count)]
    return found


def _without(item: Node, number: int) -> tuple[Node, ...]:
    """An item with one of its sentences cut, in an alternate's span at every level."""
    if isinstance(item, str):
        start, end = _sentences(item)[number]
        cut = (item[:start], Cut(item[start:end]), item[end:])
        return tuple(part for part in cut if part != "")
    if not isinstance(item, Span):
        return (item,)
    texts = {}
    for level, items in item.texts.items():
        places = _places(items, ())
        if number < len(places):
            place, inner = places[number]
            items = (*items[:place], *_without(items[place], inner), *items[place + 1 :])
        texts[level] = items
    return (Span(item.factor, texts, item.line, item.column),)


def flatten(items: Iterable[Node]) -> str:
    """The text of items with every span inside at its original, in the arm named first."""
    parts = []
    for item in items:
        if isinstance(item, str):
            parts.append(item)
        elif isinstance(item, Span):
            if item.factor == "arm":
                shown = next((flat for t in item.texts.values() if (flat := flatten(t))), "")
                parts.append(shown)
            else:
                parts.append(flatten(item.texts.get(ORIGINAL, ())))
    return "".join(parts)


def filler(like: str, key: str, number: int) -> str:
    """Neutral text of the length and shape of `like`, the `number`-th of them for this key.

    List items become list items, paragraphs paragraphs, a bare tag a tag that tells nothing.
    """
    core = like.strip()
    start = like.index(core)
    return like[:start] + _like(core, key, number) + like[start + len(core) :]


def _like(core: str, key: str, number: int) -> str:
    if not words(plain(core)) or (core.startswith("<") and len(words(plain(core))) < 4):
        place = _number(f"{key}") + number
        name, setting = _TAGS[place % len(_TAGS)], _SETTINGS[place % len(_SETTINGS)]
        return f"<{name}>{setting}</{name}>"
    pool: list[str] = []
    gaps = [*BREAK.findall(core), ""]
    blocks = []
    for block in BREAK.split(core):
        listed = any(_MARKED.match(line) for line in block.split("\n"))
        lines = block.split("\n") if listed else [block.replace("\n", " ")]
        blocks.append("\n".join(_line(line, pool, f"{key} {number}") for line in lines))
    return "".join(block + gap for block, gap in zip(blocks, gaps, strict=True))


def _line(line: str, pool: list[str], key: str) -> str:
    if heading := _HEADING.match(line):
        return f"{heading[1]} About the page"
    lead = _MARKED.match(line)
    marker = lead[0] if lead else ""
    return marker + _text(len(line[len(marker) :].strip()), pool, key)


def _text(length: int, pool: list[str], key: str) -> str:
    """Sentences of the pool, together about as long as asked; the last one is chosen to fit."""
    chosen: list[str] = []
    left = length
    while left > 25 or not chosen:
        if len(pool) < _AHEAD:
            pool += sorted(_pool(), key=lambda sentence: _number(f"{key} {sentence}"))
        pick = _next(pool, left)
        pool.remove(pick)
        chosen.append(pick)
        left -= len(pick) + 1
    return " ".join(chosen)


def _next(pool: list[str], left: int) -> str:
    """A sentence that ends the text, else one that leaves room for another."""

    def off(sentence: str) -> int:
        return abs(left - len(sentence))

    near = pool[:_AHEAD]
    best = min(near, key=off)
    if off(best) <= _FITS:
        return best
    roomy = (sentence for sentence in near if len(sentence) + _ROOM <= left)
    return next(roomy, None) or min(pool, key=off)


@functools.lru_cache(maxsize=1)
def _pool() -> tuple[str, ...]:
    text = (files("variants") / "lexicon/filler.md").read_text("utf-8")
    return tuple(line for line in text.split("\n") if line and not line.startswith("#"))


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _sentences(text: str) -> list[tuple[int, int]]:
    """The sentences that say something: a tag alone or the number of an item does not."""
    return [
        (a, b)
        for a, b in sentences(text)
        if words(plain(text[a:b])) and not _NUMBER.fullmatch(text, a, b)
    ]
