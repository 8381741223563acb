"""A scenario: the marked prompt text, its factors and arms, and the exact prompt of a condition.

Takes a scenario file (TOML between two lines `+++`, then marked sections) or a plain text;
gives conditions (one level per factor, what is not shown set to None) and rendered prompts.
Does not know queries as data, designs, models or studies.
"""

import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from variants.declarations import Declarations, Factor, nearest, split_head, undeclared
from variants.marks import (
    ORIGINAL,
    REMOVED,
    Lines,
    Node,
    Problem,
    QuerySlot,
    ScenarioError,
    Section,
    Span,
    read_sections,
)

__all__ = ["Condition", "Prompt", "Scenario", "Turn", "content_hash"]

_QUERY_PATHS = 20_000
# A query that no scenario contains.
_PROBE = "\0query\0"
_NONE: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Condition:
    """One level per factor, in the scenario's order; None where the factor is not applicable."""

    levels: tuple[tuple[str, str | None], ...]

    def __getitem__(self, factor: str) -> str | None:
        return dict(self.levels)[factor]

    @property
    def changes(self) -> dict[str, str]:
        """The factors at another level than `original`, without the not applicable ones."""
        return {f: level for f, level in self.levels if level not in (ORIGINAL, None)}

    @property
    def hidden(self) -> tuple[str, ...]:
        """The factors that are not applicable because what they need is not there."""
        return tuple(f for f, level in self.levels if level is None)

    @property
    def condition_id(self) -> str:
        """Content hash of every level that is not `original`: 64 hex digits."""
        return content_hash([[f, level] for f, level in sorted(self.levels) if level != ORIGINAL])

    def __str__(self) -> str:
        return ",".join(f"{f}={level}" for f, level in self.changes.items()) or ORIGINAL


@dataclass(frozen=True, slots=True)
class Turn:
    """One message: `role` is user or assistant."""

    role: str
    text: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a model is sent: the system text, if any, and the turns, byte for byte."""

    system: str | None
    turns: tuple[Turn, ...]

    @property
    def user(self) -> str:
        """The last user turn; empty when there is none."""
        return next((turn.text for turn in reversed(self.turns) if turn.role == "user"), "")

    @property
    def prompt_id(self) -> str:
        """Content hash of the system text and all turns: 64 hex digits."""
        return content_hash([self.system, [[turn.role, turn.text] for turn in self.turns]])


def content_hash(content: object) -> str:
    """SHA-256 of the canonical JSON of `content`: 64 hex digits, the same on any machine."""
    canonical = json.dumps(content, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Scenario:
    """A scenario text taken apart. Make one with `Scenario.load` or `Scenario.parse`.

    `arms` maps each arm to what the text calls it; `recommended` names the factors for a first
    study; a plain text has neither arms nor factors.
    """

    name: str
    arms: Mapping[str, str]
    factors: Mapping[str, Factor]
    recommended: tuple[str, ...]
    sections: tuple[Section, ...]
    order: tuple[str, ...] = field(repr=False)

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read a scenario file. Raises OSError, or ScenarioError with every fault found."""
        path = Path(path)
        data = path.read_bytes()
        if data.startswith(b"\xef\xbb\xbf"):
            message = "the file starts with a byte order mark: save it as UTF-8 without BOM"
            raise ScenarioError([Problem(1, 1, message)], str(path))
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            before = data[: error.start].decode("utf-8")
            message = f"byte {data[error.start]:#04x} is not UTF-8: save the file as UTF-8"
            problem = Lines(before).problem(len(before), message)
            raise ScenarioError([problem], str(path)) from None
        return cls.parse(text, path=str(path))

    @classmethod
    def parse(cls, text: str, *, path: str = "scenario") -> Self:
        """Read a scenario from its text; `path` is only named in messages.

        A text that does not open with a line `+++` is plain: all of it is system text, nothing in
        it is scanned, and the user turn is the query.
        """
        if not re.match(r"\+\+\+(\r?\n|\Z)", text):
            plain = (Section("system", (text,), 1), Section("user", (QuerySlot(1, 1),), 1))
            return cls(Path(path).stem, _NONE, _NONE, (), plain, ())
        lines = Lines(text)
        head, body = split_head(text, lines, path)
        declared = Declarations(head, text, lines)
        sections, uses, problems = read_sections(text, body, lines)
        problems += declared.problems
        problems += undeclared(uses, declared)
        if problems:
            raise ScenarioError(problems, path)
        factors, order = declared.resolve(sections, path)
        scenario = cls(
            declared.name or Path(path).stem,
            MappingProxyType(declared.arms),
            MappingProxyType(factors),
            declared.recommended,
            sections,
            order,
        )
        scenario._check_query(path)
        return scenario

    @property
    def original(self) -> Condition:
        """The condition of the source text: every factor at `original`."""
        return self.condition({})

    def condition(self, levels: Mapping[str, str]) -> Condition:
        """The condition with these levels and all other factors at `original`.

        A factor whose needs are not met becomes None. Raises ScenarioError for an
        unknown factor or level, and for a named level (neither `original` nor `removed`) given to
        a factor that is not applicable.
        """
        for name, level in levels.items():
            if name not in self.factors:
                raise _misuse(f"unknown factor `{name}`{nearest(name, self.factors)}")
            known = self.factors[name].levels
            if level not in known:
                raise _misuse(
                    f"factor `{name}` has no level `{level}`{nearest(level, known)}; "
                    f"it has {', '.join(known)}"
                )
        condition = self.close(levels)
        for name in condition.hidden:
            if levels.get(name, ORIGINAL) not in (ORIGINAL, REMOVED):
                raise _misuse(
                    f"factor `{name}` cannot be at `{levels[name]}`: what it needs is not shown"
                )
        return condition

    def close(self, levels: Mapping[str, str]) -> Condition:
        """Like `condition` without its checks: any level of a factor that is not shown is None."""
        settled: dict[str, str | None] = {}
        for name in self.order:
            factor = self.factors[name]
            shown = all(settled[n.factor] in n.levels for n in factor.needs) and (
                not factor.sites
                or any(all(settled[n.factor] in n.levels for n in site) for site in factor.sites)
            )
            settled[name] = levels.get(name, ORIGINAL) if shown else None
        return Condition(tuple((name, settled[name]) for name in self.factors))

    def render(self, condition: Condition, *, arm: str | None = None, query: str) -> Prompt:
        """The exact prompt of a condition in an arm with the query's text inserted last.

        Raises ScenarioError when the arm is missing or not declared.
        """
        if self.arms and arm not in self.arms:
            raise _misuse(f"arm {arm!r} is not declared; the arms are {', '.join(self.arms)}")
        levels = dict(condition.levels)
        system: str | None = None
        turns = []
        for section in self.sections:
            pieces = _pieces(section.nodes, levels, arm)
            text = "".join(query if isinstance(p, QuerySlot) else p for p in pieces)
            if section.role == "system":
                system = text
            else:
                turns.append(Turn(section.role, text))
        return Prompt(system, tuple(turns))

    def is_structural_zero(self, condition: Condition) -> bool:
        """Whether train and deploy render alike, so that the gap is 0 by construction."""
        return self.render(condition, arm="train", query=_PROBE) == self.render(
            condition, arm="deploy", query=_PROBE
        )

    def alike(self, conditions: Iterable[Condition]) -> tuple[tuple[Condition, ...], ...]:
        """The groups of conditions that render alike in every arm: each group is one condition."""
        groups: dict[tuple[Prompt, ...], list[Condition]] = {}
        for condition in conditions:
            arms = [self.render(condition, arm=arm, query=_PROBE) for arm in self.arms or (None,)]
            groups.setdefault(tuple(arms), []).append(condition)
        return tuple(tuple(group) for group in groups.values() if len(group) > 1)

    def _check_query(self, path: str) -> None:
        """Each path through the text must insert the query exactly once."""
        spots = list(_query_spots(self.sections))
        if not spots:
            users = [section for section in self.sections if section.role == "user"]
            line = (users or self.sections)[-1].line
            message = "no {{query}}: say where the query goes, normally in `# user`"
            raise ScenarioError([Problem(line, 1, message)], path)
        first = spots[0][0]
        inside = frozenset[str]().union(*(factors for _, factors in spots))
        arms: Sequence[str | None] = list(self.arms) if "arm" in inside else [None]
        deciding = set(inside - {"arm"})
        for name in reversed(self.order):
            if name in deciding:
                deciding.update(self.factors[name].outer)
        choices = {name: f.levels for name, f in self.factors.items() if name in deciding}
        if len(arms) * math.prod(map(len, choices.values())) > _QUERY_PATHS:
            message = f"{{{{query}}}} depends on {len(choices)} factors: move it out of their spans"
            raise ScenarioError([Problem(first.line, first.column, message)], path)
        for levels in itertools.product(*choices.values()):
            condition = self.close(dict(zip(choices, levels, strict=True)))
            for arm in arms:
                slots = [
                    piece
                    for section in self.sections
                    for piece in _pieces(section.nodes, dict(condition.levels), arm)
                    if isinstance(piece, QuerySlot)
                ]
                if len(slots) != 1:
                    where = f"condition `{condition}`" + (f", arm `{arm}`" if arm else "")
                    times = f"{len(slots)} times" if slots else "never"
                    message = f"{{{{query}}}} is inserted {times} in {where}: once is needed"
                    wrong = slots[1] if slots else first
                    raise ScenarioError([Problem(wrong.line, wrong.column, message)], path)


def _misuse(message: str) -> ScenarioError:
    return ScenarioError([Problem(1, 1, message)])


def _pieces(
    nodes: Iterable[Node], levels: Mapping[str, str | None], arm: str | None
) -> Iterator[str | QuerySlot]:
    for node in nodes:
        if not isinstance(node, Span):
            yield node
            continue
        level = arm if node.factor == "arm" else levels[node.factor]
        if level is not None:
            yield from _pieces(node.shown(level), levels, arm)


def _query_spots(sections: Iterable[Section]) -> Iterator[tuple[QuerySlot, frozenset[str]]]:
    """Each query slot, in file order, with the factors whose spans it stands in."""

    def visit(
        nodes: Iterable[Node], inside: frozenset[str]
    ) -> Iterator[tuple[QuerySlot, frozenset[str]]]:
        for node in nodes:
            if isinstance(node, QuerySlot):
                yield node, inside
            elif isinstance(node, Span):
                for items in node.texts.values():
                    yield from visit(items, inside | {node.factor})

    for section in sections:
        yield from visit(section.nodes, frozenset())
