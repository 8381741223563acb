"""The settings of a scenario file: its name, arms, factors with their levels and needs.

Takes the TOML head of a scenario file and the sections of its body; gives the declared factors,
with the places that show them, or every fault with its line.
Does not know how a condition is settled or rendered.
"""

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
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

__all__ = ["Declarations", "Factor", "Need", "nearest", "split_head", "undeclared"]

GENERATED_LEVELS = re.compile(r"filler|moved|each-sentence|without-[0-9]+|present")
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
    """

    name: str
    question: str
    levels: tuple[str, ...]
    needs: tuple[Need, ...] = ()
    sites: tuple[tuple[Need, ...], ...] = ()
    source: str = ""

    @property
    def outer(self) -> tuple[str, ...]:
        """The factors that decide whether this one is shown, each once."""
        needs = [*self.needs, *(need for site in self.sites for need in site)]
        return tuple(dict.fromkeys(need.factor for need in needs))


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
        self._known(head, ("name", "arms", "factors", "recommended"), "")
        self.name = self._string(head, "name", "")
        self.arms = self._arms(head.get("arms", {}))
        factors = self._table(head.get("factors", {}), "factors")
        tables = {n: self._table(table, n, "factors.") for n, table in factors.items()}
        self.levels: dict[str, tuple[str, ...]] = {}
        self._tables = {n: table for n, table in tables.items() if self._factor_fits(n, table)}
        self.needs = {name: self._needs(name) for name in self.levels}
        self.recommended = self._recommended(head.get("recommended", []))

    def resolve(
        self, sections: Iterable[Section], path: str
    ) -> tuple[dict[str, Factor], tuple[str, ...]]:
        """The factors with their sites, and an order in which needs come before the needy."""
        sites: dict[str, list[tuple[Need, ...]]] = {name: [] for name in self.levels}
        for section in sections:
            self._collect_sites(section.nodes, (), sites)
        factors = {
            name: Factor(
                name,
                str(self._tables[name].get("question", "")),
                levels,
                self.needs[name],
                tuple(dict.fromkeys(sites[name])),
                str(self._tables[name].get("source", "")),
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
                need = Need(node.factor, frozenset(showing))
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
        self._known(table, ("question", "levels", "needs", "source"), f"factors.{name}.")
        self._string(table, "question", f"factors.{name}.")
        self._string(table, "source", f"factors.{name}.")
        levels = table.get("levels", [ORIGINAL, REMOVED])
        if not (isinstance(levels, list) and all(isinstance(level, str) for level in levels)):
            self._complain(name, f"`factors.{name}.levels` must be a list of names")
            levels = [ORIGINAL]
        faults = [level for level in levels if not re.fullmatch(NAME, level)]
        for level in faults:
            self._complain(name, f"level `{level}` of `{name}` must match {NAME}")
        for level in filter(GENERATED_LEVELS.fullmatch, levels):
            self._complain(name, f"level `{level}` of `{name}` is reserved: choose another name")
        if len(set(levels)) < len(levels):
            self._complain(name, f"`{name}` declares a level twice")
        if ORIGINAL not in levels or len(levels) < 2:
            self._complain(name, f"`{name}` needs the level `original` and at least one other")
        others = [level for level in dict.fromkeys(levels) if level != ORIGINAL]
        self.levels[name] = (ORIGINAL, *others)
        return True

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
            else:
                enough = {level} if level else set(self.levels[outer]) - {REMOVED}
                needs.append(Need(outer, frozenset(enough)))
        return tuple(needs)

    def _recommended(self, value: object) -> tuple[str, ...]:
        if not (isinstance(value, list) and all(isinstance(name, str) for name in value)):
            self._complain("recommended", "`recommended` must be a list of factor names")
            return ()
        for name in value:
            if name not in self.levels:
                self._complain(
                    "recommended",
                    f"recommended factor `{name}` is not declared{nearest(name, self.levels)}",
                )
        return tuple(value)


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
        elif use.level not in declared.levels[use.factor]:
            known = declared.levels[use.factor]
            message = (
                f"undeclared level `{use.level}` of `{use.factor}`{nearest(use.level, known)}: "
                f"its levels are {', '.join(known)}"
            )
            problems.append(Problem(use.line, use.column, message))
    return problems
