"""Hypothesis strategies that several test files share.

A `Draft` is a scenario as its author means it: a tree that writes itself as a file and says,
without parsing anything, which factors apply and what each condition renders.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest

from hypothesis import strategies as st

ARMS = ("train", "deploy", "pilot")
FACTORS = ("memo", "rule", "tier-cue", "x_1", "z9")
NAMED = ("removed", "loud", "soft")
FRAGMENTS = (
    "word", " ", "\n", "\r\n", "\r", "\t", "\\", "\\\\", "{", "}", "{{", "}}", "#", "/", "+++\n",
    "{{#memo original}}", "{{/memo}}", "{{query}}", "{{x}}", "{{ query }}", "{{#", "{{/", "é",
    "\n# user\n", "# system\n", "\\# assistant\n", "# user", "{{#a b}}", "{% if x %}", "%s", "${y}",
    "<SCRATCHPAD_REASONING>", "</tier>", "🦊", "שלום עולם", "\u202e", "\0", "\ufeff", "\u2028",
)  # fmt: skip

_MARK = re.compile(r"(\\*)(\{\{#|\{\{/|\{\{query\}\})")
_HEADING = re.compile(r"^(\\*)(# (?:system|user|assistant))(?=\r?\n|\Z)", re.MULTILINE)


@dataclass(frozen=True)
class Slot:
    """Where the query goes."""


@dataclass(frozen=True)
class Marked:
    """A span: its texts by level in file order; `factor` may be arm."""

    factor: str
    texts: tuple[tuple[str, tuple["Item", ...]], ...]

    def at(self, level: str | None) -> tuple["Item", ...]:
        """What stands there at a level; None is not applicable."""
        texts = dict(self.texts)
        if level is None:
            return ()
        if level in texts:
            return texts[level]
        keeps_original = self.factor != "arm" and level != "removed"
        return texts.get("original", ()) if keeps_original else ()


Item = str | Slot | Marked
Rendered = tuple[str | None, list[tuple[str, str]]]


@dataclass(frozen=True)
class Draft:
    """A scenario as its author means it; factors come after all that they need or stand in."""

    levels: dict[str, tuple[str, ...]]
    needs: dict[str, tuple[tuple[str, str | None], ...]]
    sections: tuple[tuple[str, tuple[Item, ...]], ...]
    newline: str
    open_end: bool

    @classmethod
    def of_parts(cls, parts: Iterable[tuple[str | None, str]]) -> "Draft":
        """A user turn of spans side by side; a part without a factor is plain text."""
        items = [Marked(f, (("original", (text,)),)) if f else text for f, text in parts]
        levels = dict.fromkeys(FACTORS, ("original", "removed"))
        needs = dict.fromkeys(FACTORS, ())
        return cls(levels, needs, (("user", (*items, Slot())),), "\n", False)

    @property
    def source(self) -> str:
        """The scenario file."""
        lines = ["+++", "[arms]", *(f'{arm} = "the {arm} arm"' for arm in ARMS)]
        for name, levels in self.levels.items():
            needs = [outer + (f"={level}" if level else "") for outer, level in self.needs[name]]
            lines += [f"[factors.{name}]", f"levels = {json.dumps(levels)}"]
            lines += [f"needs = {json.dumps(needs)}"] if needs else []
        text = self.newline.join([*lines, "+++", ""])
        for number, (role, items) in enumerate(self.sections, 1):
            last = number == len(self.sections)
            text += f"# {role}{self.newline}" + self._written(items, last)
        return text

    def _written(self, items: tuple[Item, ...], last: bool) -> str:
        text = "".join(_escaped(items))
        ending = "\r\n" if text.endswith("\r") else self.newline
        if last and self.open_end and not text.endswith("\n"):
            ending = ""
        return _HEADING.sub(lambda m: m[1] * 2 + "\\" + m[2], text + ending)

    def settled(self, levels: Mapping[str, str]) -> dict[str, str | None]:
        """The level of every factor, None where it does not apply."""
        found: dict[str, str | None] = {}
        for name in self.levels:
            met = all(
                found[outer] == level if level else found[outer] not in ("removed", None)
                for outer, level in self.needs[name]
            )
            trees = [items for _, items in self.sections]
            placed = any(name in _factors(items) for items in trees)
            reached = any(_reaches(items, name, found) for items in trees)
            found[name] = levels.get(name, "original") if met and (reached or not placed) else None
        return found

    def rendered(self, levels: Mapping[str, str], arm: str, query: str) -> Rendered:
        """System text and turns of a condition."""
        settled = self.settled(levels) | {"arm": arm}
        turns = [(role, _flat(items, settled, query)) for role, items in self.sections]
        if turns[0][0] == "system":
            return turns[0][1], turns[1:]
        return None, turns

    def source_text(self, arm: str, query: str) -> Rendered:
        """System text and turns without marks and without the text of other levels and arms."""
        always = dict.fromkeys(self.levels, "original") | {"arm": arm}
        turns = [(role, _flat(items, always, query)) for role, items in self.sections]
        return (turns[0][1], turns[1:]) if turns[0][0] == "system" else (None, turns)


def _flat(items: Iterable[Item], levels: Mapping[str, str | None], query: str) -> str:
    text = ""
    for item in items:
        if isinstance(item, Marked):
            text += _flat(item.at(levels[item.factor]), levels, query)
        else:
            text += query if isinstance(item, Slot) else item
    return text


def _factors(items: Iterable[Item]) -> set[str]:
    found = set()
    for item in items:
        if isinstance(item, Marked):
            found |= {item.factor}.union(*(_factors(inner) for _, inner in item.texts))
    return found


def _reaches(items: Iterable[Item], name: str, levels: Mapping[str, str | None]) -> bool:
    for item in items:
        if not isinstance(item, Marked):
            continue
        if item.factor == "arm":
            inside = [inner for _, inner in item.texts]
        else:
            inside = [item.at(levels.get(item.factor))]
        if item.factor == name or any(_reaches(inner, name, levels) for inner in inside):
            return True
    return False


def _escaped(items: Iterable[Item]) -> Iterator[str]:
    """The source of some items: marks as they are, text with the backslashes that it needs."""
    atoms: list[tuple[bool, str]] = []
    for is_mark, text in _atoms(items):
        if atoms and not is_mark and not atoms[-1][0]:
            atoms[-1] = (False, atoms[-1][1] + text)
        else:
            atoms.append((is_mark, text))
    for (is_mark, text), following in zip_longest(atoms, atoms[1:]) if atoms else ():
        if is_mark:
            yield text
            continue
        yield _MARK.sub(lambda m: m[1] * 2 + "\\" + m[2], text)
        if following:
            yield "\\" * (len(text) - len(text.rstrip("\\")))


def _atoms(items: Iterable[Item]) -> Iterator[tuple[bool, str]]:
    for item in items:
        if isinstance(item, Slot):
            yield True, "{{query}}"
        elif isinstance(item, Marked):
            for level, inner in item.texts:
                yield True, f"{{{{#{item.factor} {level}}}}}"
                yield from _atoms(inner)
            yield True, f"{{{{/{item.factor}}}}}"
        elif item:
            yield False, item


def texts(most: int = 5) -> st.SearchStrategy[str]:
    """Text that a careless parser would trip over."""
    wild = st.text(st.characters(exclude_categories=["Cs"]), max_size=3)
    return st.lists(st.sampled_from(FRAGMENTS) | wild, max_size=most).map("".join)


@st.composite
def drafts(
    draw: st.DrawFn,
    *,
    needs: bool = True,
    factors: int = 4,
    words: st.SearchStrategy[str] | None = None,
) -> Draft:
    """Scenarios with nested spans, several levels, arms, needs and texts full of traps."""
    words = texts() if words is None else words
    names = FACTORS[: draw(st.integers(0, factors))]
    levels = {
        name: ("original", *draw(st.lists(st.sampled_from(NAMED), min_size=1, unique=True)))
        for name in names
    }
    needed: dict[str, tuple[tuple[str, str | None], ...]] = dict.fromkeys(names, ())
    for place, name in enumerate(names):
        if needs and place and draw(st.integers(0, 2)) == 0:
            outer = draw(st.sampled_from(names[:place]))
            needed[name] = ((outer, draw(st.none() | st.sampled_from(levels[outer]))),)

    def items(first: int, arm: bool, depth: int) -> tuple[Item, ...]:
        kinds = ["text"] + ["span"] * (2 if depth < 3 and first < len(names) else 0)
        kinds += ["arm"] * (depth < 3 and not arm)
        return tuple(item(draw(st.sampled_from(kinds)), first, arm, depth)
                     for _ in range(draw(st.integers(0, 3 - depth // 2))))  # fmt: skip

    def item(kind: str, first: int, arm: bool, depth: int) -> Item:
        if kind == "text":
            return draw(words)
        if kind == "arm":
            return marked("arm", ARMS, first, True, depth)
        number = draw(st.integers(first, len(names) - 1))
        return marked(names[number], levels[names[number]], number + 1, arm, depth)

    def marked(factor: str, known: tuple[str, ...], first: int, arm: bool, depth: int) -> Marked:
        chosen = draw(st.lists(st.sampled_from(known), min_size=1, max_size=3, unique=True))
        return Marked(factor, tuple((level, items(first, arm, depth + 1)) for level in chosen))

    roles = ["system"] * draw(st.booleans())
    roles += draw(st.lists(st.sampled_from(["user", "assistant"]), max_size=2))
    before, after = items(0, False, 0), items(0, False, 0)
    slot: Item = Slot()
    if draw(st.booleans()):
        slot = Marked("arm", tuple((arm, (draw(words), Slot(), draw(words))) for arm in ARMS))
    sections = [(role, items(0, False, 0)) for role in roles] + [("user", (*before, slot, *after))]
    newline = draw(st.sampled_from(["\n", "\r\n"]))
    return Draft(levels, needed, tuple(sections), newline, draw(st.booleans()))


@st.composite
def chosen_levels(draw: st.DrawFn, levels: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    """A level for some of the factors."""
    return {name: draw(st.sampled_from(known)) for name, known in levels.items()
            if draw(st.booleans())}  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn, sources: st.SearchStrategy[bytes], scraps: tuple[bytes, ...]) -> bytes:
    """A file with pieces cut out, doubled, swapped, or with noise and scraps put in."""
    data = draw(sources)
    for _ in range(draw(st.integers(1, 4))):
        ends = draw(st.lists(st.integers(0, len(data)), min_size=4, max_size=4))
        a, b, c, d = sorted(ends)
        noise = draw(st.binary(max_size=6) | st.sampled_from(scraps))
        data = draw(
            st.sampled_from(
                [
                    data[:a] + data[b:],
                    data[:a],
                    data[:b] + data[a:],
                    data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:],
                    data[:a] + noise + data[a:],
                    data[:a] + noise + data[b:],
                ]
            )
        )
    return data


@st.composite
def factor_levels(draw: st.DrawFn, most: int = 5) -> dict[str, list[str]]:
    """Plain factors with two to four levels each."""
    names = FACTORS[: draw(st.integers(1, most))]
    return {name: ["original", *("abc"[: draw(st.integers(1, 3))])] for name in names}
