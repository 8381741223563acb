"""Printing: a scenario as the text of a scenario file.

Takes a scenario; gives a text that reads back as the same scenario, and renders the same bytes.
Does not know where the file goes.
"""

import json
import re
from collections.abc import Iterable, Iterator

from variants.declarations import EACH_SENTENCE, GENERATED_LEVELS, WITHOUT, Factor, Need
from variants.marks import REMOVED, Node, QuerySlot, Section, Span
from variants.scenario import Scenario

__all__ = ["print_scenario", "print_sections", "toml"]

_MARK = re.compile(r"(\\*)(\{\{#|\{\{/|\{\{query\}\})")
_HEADING = re.compile(r"^(\\*)(# (?:system|user|assistant))(?=\r?\n|\Z)", re.MULTILINE)
_TRAILING = re.compile(r"\\+\Z")


def print_scenario(scenario: Scenario) -> str:
    """The scenario as a file's text, settings and all; its own comments are not kept."""
    lines = ["+++", f"name = {toml(scenario.name)}"]
    if scenario.first_study:
        entries = ", ".join(toml(entry) for entry in _recommended(scenario))
        lines.append(f"recommended = [{entries}]")
    if scenario.conflict:
        change = "=".join(next(iter(scenario.conflict.items())))
        lines.append(f"conflict = {toml(change)}")
    if scenario.arms:
        lines += ["", "[arms]"]
        lines += [f"{arm} = {toml(called)}" for arm, called in scenario.arms.items()]
    for factor in scenario.factors.values():
        lines += ["", f"[factors.{factor.name}]", *_settings(factor, scenario)]
    head = "\n".join([*lines, "+++", ""])
    return head + print_sections(scenario.sections)


def print_sections(sections: Iterable[Section]) -> str:
    """The body of a scenario file; a text that ends in a bare CR keeps it."""
    body = ""
    for section in sections:
        text = _section(section)
        body += text + ("\r\n" if text.endswith("\r") else "\n")
    return body


def _recommended(scenario: Scenario) -> Iterator[str]:
    for name, levels in scenario.first_study.items():
        if levels == scenario.factors[name].levels:
            yield name
        else:
            yield from (f"{name}={level}" for level in _listed(levels)[1:])


def _listed(levels: Iterable[str]) -> list[str]:
    """The levels as the file lists them: those without one sentence under their common name."""
    return list(
        dict.fromkeys(EACH_SENTENCE if WITHOUT.fullmatch(level) else level for level in levels)
    )


def _settings(factor: Factor, scenario: Scenario) -> Iterator[str]:
    if factor.question:
        yield f"question = {toml(factor.question)}"
    yield f"levels = [{', '.join(map(toml, _listed(factor.levels)))}]"
    if factor.surface:
        yield f"surface = {toml(factor.surface)}"
    if factor.needs:
        needs = ", ".join(toml(_need(need, scenario)) for need in factor.needs)
        yield f"needs = [{needs}]"
    if factor.sources:
        table = ", ".join(f"{level} = {toml(text)}" for level, text in factor.sources.items())
        yield f"source = {{ {table} }}"
    elif factor.source:
        yield f"source = {toml(factor.source)}"


def _need(need: Need, scenario: Scenario) -> str:
    written = {level for level in need.levels if not GENERATED_LEVELS.fullmatch(level)}
    enough = {
        level
        for level in scenario.factors[need.factor].levels
        if level != REMOVED and not GENERATED_LEVELS.fullmatch(level)
    }
    return need.factor if written == enough else f"{need.factor}={written.pop()}"


def _section(section: Section) -> str:
    """A section with its heading and marks, without the line break after it."""
    last = len(section.nodes) - 1
    body = "".join(
        _node(node, opens=place == 0, ends=place == last)
        for place, node in enumerate(section.nodes)
    )
    return f"# {section.role}\n{body}"


def _node(node: Node, *, opens: bool = False, ends: bool = False) -> str:
    if isinstance(node, QuerySlot):
        return "{{query}}"
    if isinstance(node, Span):
        texts = "".join(
            f"{{{{#{node.factor} {level}}}}}{_items(items)}" for level, items in node.texts.items()
        )
        return f"{texts}{{{{/{node.factor}}}}}"
    return _escaped(node, opens=opens, ends=ends) if isinstance(node, str) else ""


def _items(items: Iterable[Node]) -> str:
    return "".join(_node(item) for item in items)


def _escaped(text: str, *, opens: bool, ends: bool) -> str:
    """Text that reads back as it is: backslashes count only before what they would hide."""
    text = _MARK.sub(lambda m: m[1] * 2 + "\\" + m[2], text)

    def hidden(m: re.Match[str]) -> str:
        inside = (m.start() > 0 or opens) and (m.end() < len(text) or ends)
        return m[1] * 2 + "\\" + m[2] if inside else m[0]

    text = _HEADING.sub(hidden, text)
    if not ends:
        # A mark follows.
        text = _TRAILING.sub(lambda m: m[0] * 2, text)
    return text


def toml(text: str) -> str:
    """A TOML string; JSON's escapes are TOML's, but for DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007F")
