"""A scenario: the marked prompt text, its factors and arms, and the exact prompt of a condition.

Takes a scenario file (TOML between two lines `+++`, then marked sections) or a plain text;
gives conditions (one level per factor, what is not shown set to None) and rendered prompts, in
the text's own wording or another one. Does not know queries as data, designs, models or studies.
"""

import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from variants.declarations import (
    GENERATED_LEVELS,
    Declarations,
    Factor,
    nearest,
    split_head,
    undeclared,
)
from variants.generated import sentence_counts
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
from variants.removals import Mend
from variants.rendering import Rendering, Text, assemble, pieces
from variants.surface import restyle
from variants.units import substitute

__all__ = ["Condition", "Prompt", "Scenario", "Turn", "Wording", "content_hash"]

_QUERY_PATHS = 20_000
# A query that no scenario contains.
_PROBE = "\0query\0"
_NONE: Mapping[str, Any] = MappingProxyType({})
# Rendered conditions that a scenario keeps, without their queries.
_KEPT = 4096


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
class Wording:
    """One choice of variant for every unit; what is not named is worded as in the source.

    `filler` says which of the fillers stands wherever a factor is at `filler`.
    """

    choices: tuple[tuple[str, str], ...] = ()
    filler: int = 0

    @classmethod
    def of(cls, texts: Mapping[str, str], filler: int = 0) -> Self:
        """The wording with these texts in place of the units that they name."""
        return cls(tuple(sorted(texts.items())), filler)

    @property
    def wording_id(self) -> str:
        """Content hash of the choice: 64 hex digits."""
        content: list[object] = [list(choice) for choice in self.choices]
        return content_hash([*content, self.filler] if self.filler else content)


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

    `arms` maps each arm to what the text calls it; `first_study` holds the factors, and their
    levels, that are recommended for a first study; a plain text has neither arms nor factors.
    `conflict` is the change that takes the reason for a gap away, such as the removal of the clause
    that makes training reward what a model would refuse; None where it is not declared.
    """

    name: str
    arms: Mapping[str, str]
    factors: Mapping[str, Factor]
    first_study: Mapping[str, tuple[str, ...]]
    sections: tuple[Section, ...]
    order: tuple[str, ...] = field(repr=False, compare=False)
    _rendering: Rendering = field(repr=False, compare=False)
    conflict: Mapping[str, str] | None = None

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
            return cls(Path(path).stem, _NONE, _NONE, _NONE, plain, (), Rendering(plain, 0))
        lines = Lines(text)
        head, body = split_head(text, lines, path)
        declared = Declarations(head, text, lines)
        sections, uses, problems = read_sections(text, body, lines)
        problems += declared.problems
        problems += undeclared(uses, declared)
        if problems:
            raise ScenarioError(problems, path)
        alternates = frozenset(n for n, at in declared.levels.items() if REMOVED not in at)
        counts = sentence_counts(sections, alternates)
        factors, order = declared.resolve(sections, path, counts)
        scenario = cls(
            declared.name or Path(path).stem,
            MappingProxyType(declared.arms),
            MappingProxyType(factors),
            MappingProxyType(declared.first_study),
            sections,
            order,
            Rendering(sections, 0, alternates),
            None if declared.conflict is None else MappingProxyType(declared.conflict),
        )
        if declared.conflict and scenario.close(declared.conflict) == scenario.original:
            raise ScenarioError([declared.hidden_conflict()], path)
        scenario._check_query(path)
        return scenario

    @property
    def recommended(self) -> tuple[str, ...]:
        """The factors for a first study."""
        return tuple(self.first_study)

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
            known = (*self.factors[name].levels, *self.factors[name].generated)
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

    def render(
        self,
        condition: Condition,
        *,
        arm: str | None = None,
        query: str,
        wording: Wording | None = None,
    ) -> Prompt:
        """The exact prompt of a condition in an arm with the query's text inserted last.

        Raises ScenarioError when the arm is missing or not declared.
        """
        slot, sections = self._rendered(condition, arm, wording)
        system: str | None = None
        turns = []
        for role, text, _ in sections:
            text = query.join(text.split(slot))
            if role == "system":
                system = text
            else:
                turns.append(Turn(role, text))
        return Prompt(system, tuple(turns))

    def mends(
        self, condition: Condition, *, arm: str | None = None, wording: Wording | None = None
    ) -> tuple[tuple[Mend, ...], ...]:
        """What was mended where text was cut, for each section in order."""
        return tuple(mends for _, _, mends in self._rendered(condition, arm, wording)[1])

    def reworded(self, wording: Wording) -> Self:
        """The scenario in another wording."""
        sections = substitute(self.sections, dict(wording.choices))
        return replace(
            self,
            sections=sections,
            _rendering=Rendering(sections, wording.filler, self._rendering.alternates),
        )

    def _rendered(
        self, condition: Condition, arm: str | None, wording: Wording | None
    ) -> tuple[str, tuple[Text, ...]]:
        if self.arms and arm not in self.arms:
            raise _misuse(f"arm {arm!r} is not declared; the arms are {', '.join(self.arms)}")
        scenario = self
        if wording is not None and wording != Wording():
            worded = self._rendering.worded
            if wording not in worded:
                worded[wording] = self.reworded(wording)
            scenario = worded[wording]
        rendering = scenario._rendering
        key = (condition, arm)
        if key not in rendering.kept:
            if len(rendering.kept) >= _KEPT:
                rendering.kept.clear()
            rendering.kept[key] = tuple(scenario._texts(condition, arm))
        return rendering.slot, rendering.kept[key]

    def _texts(self, condition: Condition, arm: str | None) -> Iterator[Text]:
        """Role, text with a slot for the query, and mends of each section."""
        levels = dict(condition.levels)
        generated = {
            name for name, at in levels.items() if at is not None and GENERATED_LEVELS.fullmatch(at)
        }
        surface = {
            factor.surface: at
            for name, factor in self.factors.items()
            if factor.surface and (at := levels[name]) is not None
        }
        for section in self._rendering.sections_with(generated):
            text, mends = assemble(
                pieces(section.nodes, levels, arm, self._hidden), self._rendering.slot
            )
            if surface:
                text = restyle(text, surface, slot=self._rendering.slot, role=section.role)
            yield section.role, text, mends

    @property
    def _hidden(self) -> frozenset[str]:
        """The factors that the original does not show: their absence is no cut."""
        rendering = self._rendering
        if rendering.hidden is None:
            rendering.hidden = frozenset(self.close({}).hidden)
        return rendering.hidden

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
                    for piece in pieces(section.nodes, dict(condition.levels), arm)
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
