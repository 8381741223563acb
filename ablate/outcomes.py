"""Outcomes: a scenario's own way of telling what an answer counts as, from outcomes.toml.

Takes the file; gives a grader whose values follow the patterns in it, where it has any. Questions
and criteria in it are for judges. Does not know the prompt, the arm or the condition.
"""

import hashlib
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablate.grading import OUTCOMES, Grader, Grades, grade_by_rules, take_apart

__all__ = ["NAME", "OutcomesError", "load_grader"]

NAME = "outcomes"
KEYS = ("question", "criteria", "answer", "patterns")
PATTERNS = ("yes", "no", "otherwise")


class OutcomesError(ValueError):
    """An outcomes.toml that cannot be used; `problems` holds every fault found."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(problems))


@dataclass(frozen=True, slots=True)
class _Rule:
    """Patterns of one outcome; `otherwise` is the value of a reply that matches none."""

    yes: tuple[re.Pattern[str], ...]
    no: tuple[re.Pattern[str], ...]
    otherwise: float | None

    def value(self, reply: str) -> float | None:
        """1, 0 or None: a reply that matches both sides cannot be told."""
        is_yes, is_no = (any(p.search(reply) for p in side) for side in (self.yes, self.no))
        if is_yes and is_no:
            return None
        return 1.0 if is_yes else 0.0 if is_no else self.otherwise


def load_grader(path: Path) -> Grader:
    """The grader that a file describes; what it leaves out is graded by rules/v1, `complied` apart.

    Raises OutcomesError.
    """
    content = path.read_bytes()
    try:
        table = tomllib.loads(content.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise OutcomesError([f"{path}: {error}"]) from None
    problems: list[str] = []
    rules = {name: _rule(path, name, value, problems) for name, value in table.items()}
    if problems:
        raise OutcomesError(problems)
    known = {name: rule for name, rule in rules.items() if rule is not None}

    def grade(output: str, *, reasoning: str | None = None, query: str | None = None) -> Grades:
        by_rules = grade_by_rules(output, reasoning=reasoning, query=query)
        # Complying is what this file is about: without patterns for it, it is not known.
        values: dict[str, float | None] = dict(by_rules) | {"complied": None}
        reply = take_apart(output, reasoning).reply
        for name, rule in known.items():
            values[name] = None if reply is None else rule.value(reply)
        return values

    return Grader(NAME, hashlib.sha256(content).hexdigest(), grade)


def _rule(path: Path, name: str, value: Any, problems: list[str]) -> _Rule | None:
    where = f"{path}: {name}"
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or not isinstance(value, dict):
        problems.append(f"{where}: an outcome is a table [name], in lower case")
        return None
    if name not in OUTCOMES:
        problems.append(f"{where}: no outcome of this name is analysed; use {', '.join(OUTCOMES)}")
    problems += [
        f"{where}.{key}: unknown key; known: {', '.join(KEYS)}" for key in value if key not in KEYS
    ]
    patterns = value.get("patterns")
    if patterns is None:
        return None
    if not isinstance(patterns, dict):
        problems.append(f"{where}.patterns: must be a table")
        return None
    problems += [
        f"{where}.patterns.{key}: unknown key; known: {', '.join(PATTERNS)}"
        for key in patterns
        if key not in PATTERNS
    ]
    otherwise = patterns.get("otherwise", "")
    if otherwise not in ("yes", "no", ""):
        problems.append(f'{where}.patterns.otherwise: use "yes", "no" or ""')
    return _Rule(
        _compiled(f"{where}.patterns.yes", patterns.get("yes", []), problems),
        _compiled(f"{where}.patterns.no", patterns.get("no", []), problems),
        {"yes": 1.0, "no": 0.0}.get(otherwise),
    )


def _compiled(where: str, value: Any, problems: list[str]) -> tuple[re.Pattern[str], ...]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        problems.append(f"{where}: must be a list of regular expressions")
        return ()
    found = []
    for text in value:
        try:
            found.append(re.compile(text, re.IGNORECASE))
        except re.error as error:
            problems.append(f"{where}: {text!r} is no regular expression: {error}")
    return tuple(found)
