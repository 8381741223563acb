"""The settings of a scenario file: its name, arms, factors with their levels and needs.

Takes the TOML head of a scenario file and the sections of its body; gives the declared factors,
with the places that show them, or every fault with its line.
Does not know how a condition is settled or rendered.
"""

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from types import MappingProxyType
from typing import Any

from variants.marks import (
    NAME,
    ORIGINAL,
    REMOVED,
    Lines,
    Node,
    Problem,
    ScenarioError,
    Section,
    Span,
    Use,
)
from variants.surface import SURFACES

__all__ = ["Declarations", "Factor", "Need", "nearest", "split_head", "undeclared"]

# Levels that are made, not written: a factor may list the first three to have them varied.
FILLER = "filler"
MOVED = "moved"
EACH_SENTENCE = "each-sentence"
WITHOUT = re.compile(r"without-([1-9][0-9]*)")
GENERATED_LEVELS = re.compile(rf"{FILLER}|{MOVED}|{EACH_SENTENCE}|without-[0-9]+|present")
# The columns of the project's tables: a factor of the same name would overwrite one of them. A
# text may mark a `note`; a study that varies it is told that a table has that column.
COLUMNS = frozenset(
    "trial_id model scenario condition_id wording_id query_id arm replicate prompt_id purpose "
    "block assignment_probability design_weight complied af_reasoning refused alignment_faking "
    "reasoning_source condition n_train k_train n_deploy k_deploy outcome contrast rate_train "
    "rate_deploy gap std_error conf_low conf_high n_queries method estimand factor level "
    "factor2 level2 reference estimate train_part deploy_part statistic df p_value p_holm q_bh "
    "p_placebo n_trials n_clusters family grader correction role fit term covariance claim_id "
    "sentence kind verdict reason margin exploratory query text category span status scores "
    "program_hash".split()
)


@dataclass(frozen=True, slots=True)
class Need:
    """A factor that another one needs, and the levels of it that will do."""

    factor: str
    levels: frozenset[str]


@dataclass(frozen=True, slots=True)
class Factor:
    """A framing feature: its question, its levels (`original` first) and what it needs.

    `sites` has an entry for each of its spans: the outer factors, with the levels of them that
    show the span. A factor is shown when every need is met and at least one site is open.
    `source` says where its levels come from; `sources` says it level by level, where the file does.
    `surface` is the kind of form that a factor without spans changes; `sentences` counts those of
    the original text, which `without-1` and so on leave out one by one.
    """

    name: str
    question: str
    levels: tuple[str, ...]
    needs: tuple[Need, ...] = ()
    sites: tuple[tuple[Need, ...], ...] = ()
    source: str = ""
    sources: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    surface: str = ""
    sentences: int = 0

    @property
    def outer(self) -> tuple[str, ...]:
        """The factors that decide whether this one is shown, each once."""
        needs = [*self.needs, *(need for site in self.sites for need in site)]
        return tuple(dict.fromkeys(need.factor for need in needs))

    @property
    def generated(self) -> tuple[str, ...]:
        """The levels that can be made of this factor without being listed."""
        if self.surface or not self.sites:
            return ()
        return (FILLER, MOVED, *(f"without-{k}" for k in range(1, self.sentences + 1)))


def nearest(name: str, known: Iterable[str]) -> str:
    """A did-you-mean for messages, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean `{close[0]}`?)" if close else ""


def split_head(text: str, lines: Lines, path: str) -> tuple[dict[str, Any], int]:
    opening = re.match(r"\+\+\+\r?\n", text)
    closing = re.compile(r"^\+\+\+(\r?\n|\Z)", re.MULTILINE).search(
        text, opening.end() if opening else len(text)
    )
    if not opening or not closing:
        message = "the settings opened by `+++` are not closed: add a second line `+++`"
        raise ScenarioError([Problem(1, 1, message)], path)
    try:
        return tomllib.loads(text[opening.end() : closing.start()]), closing.end()
    except (ValueError, RecursionError) as error:
        # A TOMLDecodeError as a rule; numbers and nesting without end raise the other two.
        found = re.search(r"\(at line (\d+), column (\d+)\)", str(error))
        line, column = (
            (int(found[1]) + 1, int(found[2])) if found else (lines.place(closing.start())[0], 1)
        )
        message = re.sub(r" \(at .*\)$", "", str(error))
        raise ScenarioError([Problem(line, column, f"TOML: {message}")], path) from None


class Declarations:
    """What the settings of a scenario file declare, with everything that is wrong with them."""

    def __init__(self, head: dict[str, Any], text: str, lines: Lines) -> None:
        self._text, self._lines = text, lines
        self.problems: list[Problem] = []
        self._counts: Mapping[str, int] = {}
        self._known(head, ("name", "arms", "factors", "recommended", "conflict"), "")
        self.name = self._string(head, "name", "")
        self.arms = self._arms(head.get("arms", {}))
        factors = self._table(head.get("factors", {}), "factors")
        tables = {n: self._table(table, n, "factors.") for n, table in factors.items()}
        self.levels: dict[str, tuple[str, ...]] = {}
        self.sources: dict[str, dict[str, str]] = {}
        self._surfaces: dict[str, str] = {}
        self._tables = {n: table for n, table in tables.items() if self._factor_fits(n, table)}
        self.needs = {name: self._needs(name) for name in self.levels}
        self.first_study = self._first_study(head.get("recommended", []))
        self.conflict = self._conflict(head)

    def resolve(
        self, sections: Iterable[Section], path: str, sentences: Mapping[str, int]
    ) -> tuple[dict[str, Factor], tuple[str, ...]]:
        """The factors with their sites, and an order in which needs come before the needy.

        `sentences` counts the sentences of each factor's original text.
        """
        self._counts = sentences
        empty = [
            self._at(name, f"`{name}` lists `{EACH_SENTENCE}`, but has no sentence to leave out")
            for name, levels in self.levels.items()
            if EACH_SENTENCE in levels and not sentences.get(name)
        ]
        if empty:
            raise ScenarioError(empty, path)
        self.first_study = {
            name: self._expanded(levels, sentences.get(name, 0))
            for name, levels in self.first_study.items()
        }
        needs = {
            name: tuple(Need(n.factor, self._with_generated(n.factor, n.levels)) for n in listed)
            for name, listed in self.needs.items()
        }
        sites: dict[str, list[tuple[Need, ...]]] = {name: [] for name in self.levels}
        for section in sections:
            self._collect_sites(section.nodes, (), sites)
        factors = {
            name: Factor(
                name,
                str(self._tables[name].get("question", "")),
                self._expanded(levels, sentences.get(name, 0)),
                needs[name],
                tuple(dict.fromkeys(sites[name])),
                "; ".join(dict.fromkeys(self.sources[name].values())),
                MappingProxyType({k: v for k, v in self.sources[name].items() if k}),
                str(self._tables[name].get("surface", "")),
                sentences.get(name, 0),
            )
            for name, levels in self.levels.items()
        }
        try:
            order = TopologicalSorter({name: f.outer for name, f in factors.items()}).static_order()
            return factors, tuple(order)
        except CycleError as error:
            needy = error.args[1][::-1]
            circle = " -> ".join(f"`{name}`" for name in needy)
            problem = self._at(needy[0], f"needs go in a circle: {circle}")
            raise ScenarioError([problem], path) from None

    def _with_generated(self, name: str, levels: Iterable[str]) -> frozenset[str]:
        """These levels, and those made of the original text if that is among them.

        A text that is moved, or lacks one sentence, keeps what stands inside it; a filler does not.
        """
        kept = set(levels) - {FILLER, EACH_SENTENCE}
        if ORIGINAL in kept:
            kept |= {MOVED, *(f"without-{k}" for k in range(1, self._counts.get(name, 0) + 1))}
        return frozenset(kept)

    @staticmethod
    def _expanded(levels: tuple[str, ...], sentences: int) -> tuple[str, ...]:
        """The levels with `each-sentence` spelled out."""
        each = tuple(f"without-{k}" for k in range(1, sentences + 1))
        return tuple(
            level for named in levels for level in (each if named == EACH_SENTENCE else (named,))
        )

    def _collect_sites(
        self,
        nodes: Iterable[Node],
        inside: tuple[Need, ...],
        sites: dict[str, list[tuple[Need, ...]]],
    ) -> None:
        for node in nodes:
            if not isinstance(node, Span):
                continue
            if node.factor != "arm":
                sites[node.factor].append(inside)
            for level, items in node.texts.items():
                if node.factor == "arm":
                    self._collect_sites(items, inside, sites)
                    continue
                showing = {
                    other
                    for other in self.levels[node.factor]
                    if node.shown(other) is items or other == level
                }
                need = Need(node.factor, self._with_generated(node.factor, showing))
                self._collect_sites(items, (*inside, need), sites)

    def _at(self, name: str, message: str) -> Problem:
        """A problem placed at the first mention of `name` in the settings."""
        found = re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", self._text) if name else None
        return self._lines.problem(found.start() if found else 0, message)

    def _complain(self, name: str, message: str) -> None:
        self.problems.append(self._at(name, message))

    def _known(self, table: Mapping[str, Any], keys: Sequence[str], where: str) -> None:
        for key in table:
            if key not in keys:
                self._complain(
                    key, f"unknown key `{where}{key}`{nearest(key, keys)}; known: {', '.join(keys)}"
                )

    def _table(self, value: object, name: str, where: str = "") -> dict[str, Any]:
        if isinstance(value, dict):
            return value
        self._complain(name, f"`{where}{name}` must be a table")
        return {}

    def _string(self, table: Mapping[str, Any], key: str, where: str) -> str:
        value = table.get(key, "")
        if not isinstance(value, str):
            self._complain(key, f"`{where}{key}` must be text")
            return ""
        return value

    def _arms(self, value: object) -> dict[str, str]:
        arms = self._table(value, "arms")
        for arm, called in arms.items():
            if not re.fullmatch(NAME, arm):
                self._complain(arm, f"arm `{arm}` must match {NAME}")
            if not isinstance(called, str):
                self._complain(arm, f"`arms.{arm}` must be text: what the prompt calls this arm")
        missing = [arm for arm in ("train", "deploy") if arm not in arms]
        if arms and missing:
            self._complain("arms", f"arms must include {' and '.join(missing)}: they make the gap")
        return {arm: str(called) for arm, called in arms.items()}

    def _factor_fits(self, name: str, table: Mapping[str, Any]) -> bool:
        if not re.fullmatch(NAME, name):
            self._complain(name, f"factor `{name}` must match {NAME}")
            return False
        if name in COLUMNS:
            self._complain(name, f"factor `{name}` has the name of a table column: rename it")
            return False
        known = ("question", "levels", "needs", "source", "surface")
        self._known(table, known, f"factors.{name}.")
        self._string(table, "question", f"factors.{name}.")
        surface = self._string(table, "surface", f"factors.{name}.")
        levels = table.get("levels", [ORIGINAL, REMOVED])
        if not (isinstance(levels, list) and all(isinstance(level, str) for level in levels)):
            self._complain(name, f"`factors.{name}.levels` must be a list of names")
            levels = [ORIGINAL]
        faults = [level for level in levels if not re.fullmatch(NAME, level)]
        for level in faults:
            self._complain(name, f"level `{level}` of `{name}` must match {NAME}")
        for level in filter(GENERATED_LEVELS.fullmatch, levels):
            if surface or level not in (FILLER, MOVED, EACH_SENTENCE):
                self._complain(
                    name, f"level `{level}` of `{name}` is reserved: choose another name"
                )
        self._surface_fits(name, surface, levels)
        if len(set(levels)) < len(levels):
            self._complain(name, f"`{name}` declares a level twice")
        if ORIGINAL not in levels or len(levels) < 2:
            self._complain(name, f"`{name}` needs the level `original` and at least one other")
        others = [level for level in dict.fromkeys(levels) if level != ORIGINAL]
        self.levels[name] = (ORIGINAL, *others)
        self.sources[name] = self._sources(name, table.get("source", ""))
        return True

    def _surface_fits(self, name: str, surface: str, levels: Sequence[str]) -> None:
        if surface and self._surfaces.setdefault(surface, name) != name:
            self._complain(
                name, f"`factors.{name}.surface`: `{self._surfaces[surface]}` has {surface} already"
            )
        elif surface and surface not in SURFACES:
            self._complain(
                name,
                f"`factors.{name}.surface`: no form `{surface}`{nearest(surface, SURFACES)}; "
                f"there is {', '.join(SURFACES)}",
            )
        elif surface:
            for level in levels:
                if level not in (ORIGINAL, *SURFACES[surface]):
                    self._complain(
                        name,
                        f"level `{level}` of `{name}`: {surface} can be "
                        f"{', '.join(SURFACES[surface])}",
                    )

    def _sources(self, name: str, value: object) -> dict[str, str]:
        """Level -> where it comes from; a single text stands for all, under the empty name."""
        if isinstance(value, str):
            return {"": value} if value else {}
        where = f"`factors.{name}.source`"
        if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
            self._complain(name, f"{where} must be text, or a table with a text for each level")
            return {}
        for level in value:
            if level not in self.levels[name]:
                self._complain(
                    name, f"{where}: `{name}` has no level `{level}`"
                    f"{nearest(level, self.levels[name])}"
                )  # fmt: skip
        return dict(value)

    def has_surface(self, name: str) -> bool:
        """Whether a factor changes form, so that no text is marked with it."""
        return bool(self._tables[name].get("surface"))

    def _needs(self, name: str) -> tuple[Need, ...]:
        value = self._tables[name].get("needs", [])
        if not (isinstance(value, list) and all(isinstance(need, str) for need in value)):
            self._complain(name, f'`factors.{name}.needs` must be a list like ["f", "g=level"]')
            return ()
        needs = []
        for text in value:
            outer, _, level = text.partition("=")
            if outer not in self.levels:
                self._complain(
                    name, f"`{name}` needs unknown factor `{outer}`{nearest(outer, self.levels)}"
                )
            elif level and level not in self.levels[outer]:
                self._complain(name, f"`{name}` needs `{text}`, but `{outer}` has no such level")
            elif GENERATED_LEVELS.fullmatch(level):
                self._complain(
                    name, f"`{name}` needs `{text}`: name a level that the file writes itself"
                )
            else:
                enough = {level} if level else set(self.levels[outer]) - {REMOVED}
                needs.append(Need(outer, frozenset(enough)))
        return tuple(needs)

    def _conflict(self, head: Mapping[str, Any]) -> dict[str, str] | None:
        """The one change that takes the reason for a gap away, where it is declared."""
        value = self._string(head, "conflict", "")
        if not value:
            return None
        name, _, level = value.partition("=")
        if name not in self.levels:
            self._complain(
                "conflict", f"conflict: `{name}` is not declared{nearest(name, self.levels)}"
            )
        elif level not in self.levels[name] or level in (ORIGINAL, EACH_SENTENCE):
            known = [at for at in self.levels[name][1:] if at != EACH_SENTENCE]
            self._complain(
                "conflict",
                f'conflict `{value}`: name a change, such as "{name}={REMOVED}"; `{name}` has '
                f"{', '.join(known)}{nearest(level, known)}",
            )
        return {name: level}

    def hidden_conflict(self) -> Problem:
        """The problem of a conflict that is declared and not shown in the original."""
        return self._at("conflict", "conflict: this change leaves the original as it is")

    def _first_study(self, value: object) -> dict[str, tuple[str, ...]]:
        """The recommended factors with the levels for a first study, the original first."""
        if not (isinstance(value, list) and all(isinstance(name, str) for name in value)):
            self._complain("recommended", "`recommended` must be a list of factor names")
            return {}
        chosen: dict[str, tuple[str, ...]] = {}
        for entry in value:
            name, _, level = entry.partition("=")
            if name not in self.levels:
                self._complain(
                    "recommended",
                    f"recommended factor `{name}` is not declared{nearest(name, self.levels)}",
                )
            elif level and (level not in self.levels[name] or level == ORIGINAL):
                self._complain(
                    "recommended",
                    f"recommended `{entry}`: `{name}` has "
                    f"{', '.join(self.levels[name][1:])}{nearest(level, self.levels[name])}",
                )
            else:
                named = (level,) if level else self.levels[name]
                chosen[name] = tuple(dict.fromkeys((*chosen.get(name, (ORIGINAL,)), *named)))
        return chosen


def undeclared(uses: Iterable[Use], declared: Declarations) -> list[Problem]:
    """The marks that name a factor, level or arm which the settings do not declare."""
    problems = []
    for use in uses:
        if use.factor == "arm":
            if use.level not in declared.arms:
                message = f"undeclared arm `{use.level}`{nearest(use.level, declared.arms)}"
                problems.append(Problem(use.line, use.column, message))
        elif use.factor not in declared.levels:
            message = (
                f"undeclared factor `{use.factor}`{nearest(use.factor, declared.levels)}: "
                f"declare [factors.{use.factor}] in the settings"
            )
            problems.append(Problem(use.line, use.column, message))
        elif declared.has_surface(use.factor):
            message = (
                f"`{use.factor}` has a `surface`: it changes form, and no text is marked with it"
            )
            problems.append(Problem(use.line, use.column, message))
        elif use.level not in declared.levels[use.factor] or GENERATED_LEVELS.fullmatch(use.level):
            known = declared.levels[use.factor]
            if GENERATED_LEVELS.fullmatch(use.level):
                message = f"level `{use.level}` is made by the program: give it no text"
                problems.append(Problem(use.line, use.column, message))
                continue
            message = (
                f"undeclared level `{use.level}` of `{use.factor}`{nearest(use.level, known)}: "
                f"its levels are {', '.join(known)}"
            )
            problems.append(Problem(use.line, use.column, message))
    return problems
