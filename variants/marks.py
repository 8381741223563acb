"""The marks of a scenario file: where sections, spans and their texts begin and end.

Takes the text of a scenario body and gives a tree of plain text, spans and query slots, each with
the place it was opened. Everything between two marks is kept byte for byte.
Does not know which factors, levels or arms a scenario declares: `scenario` checks the names.
"""

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

__all__ = [
    "Cut",
    "Lines",
    "Node",
    "Problem",
    "QuerySlot",
    "ScenarioError",
    "Section",
    "Span",
    "spans_of",
]

ORIGINAL = "original"
REMOVED = "removed"
NAME = r"[a-z][a-z0-9_-]*"
# Spans inside one another; a tree is walked by recursion, so it may not be as deep as it likes.
_DEEPEST = 100
_HEADING = re.compile(r"^(\\*)# (system|user|assistant)(?=\r?\n|\Z)", re.MULTILINE)
_TOKEN = re.compile(
    r"(?P<slashes>\\*)(?P<mark>\{\{#|\{\{/|\{\{query\}\})"
    r"|^(?P<heading_slashes>\\+)(?P<heading># (?:system|user|assistant))(?=\r?\n|\Z)",
    re.MULTILINE,
)
_OPEN = re.compile(rf"\{{\{{#({NAME}) ({NAME})\}}\}}")
_CLOSE = re.compile(rf"\{{\{{/({NAME})\}}\}}")


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing that is wrong with a scenario file; `line` and `column` count from 1."""

    line: int
    column: int
    message: str


class ScenarioError(ValueError):
    """A scenario file that cannot be used; `problems` holds every fault found, in file order."""

    def __init__(self, problems: Iterable[Problem], path: str = "scenario") -> None:
        self.problems = tuple(sorted(problems))
        self.path = path
        self.line = self.problems[0].line
        self.column = self.problems[0].column
        super().__init__(
            "\n".join(f"{path}:{p.line}:{p.column}: {p.message}" for p in self.problems)
        )


@dataclass(frozen=True, slots=True)
class QuerySlot:
    """The place that the text of the query takes."""

    line: int = field(default=1, compare=False)
    column: int = field(default=1, compare=False)


@dataclass(frozen=True, slots=True)
class Cut:
    """A place where `text` has been taken out, so that its seam is mended."""

    text: str


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of marked text: for each level that has a text here, its items in order."""

    factor: str
    texts: dict[str, tuple["Node", ...]]
    line: int = field(default=1, compare=False)
    column: int = field(default=1, compare=False)

    def shown(self, level: str) -> tuple["Node", ...]:
        """The items at a level: its own text; a named level without one keeps the original's."""
        if level in self.texts or level == REMOVED or self.factor == "arm":
            return self.texts.get(level, ())
        return self.texts.get(ORIGINAL, ())


Node = str | QuerySlot | Span | Cut


@dataclass(frozen=True, slots=True)
class Section:
    """One turn of the prompt: `role` is system, user or assistant; `line` is its heading's."""

    role: str
    nodes: tuple[Node, ...]
    line: int = field(default=1, compare=False)


def spans_of(nodes: Iterable[Node]) -> Iterator[Span]:
    """Every span of a factor among these nodes and inside them, in the order of the text."""
    for node in nodes:
        if isinstance(node, Span):
            if node.factor != "arm":
                yield node
            for items in node.texts.values():
                yield from spans_of(items)


@dataclass(frozen=True, slots=True)
class Use:
    """A factor's level named by a mark, with the place of the mark."""

    factor: str
    level: str
    line: int
    column: int


class Lines:
    """Line and column, from 1, of an offset into a text."""

    def __init__(self, text: str) -> None:
        self._starts = [0, *(m.end() for m in re.finditer("\n", text))]

    def place(self, offset: int) -> tuple[int, int]:
        line = bisect_right(self._starts, offset)
        return line, offset - self._starts[line - 1] + 1

    def problem(self, offset: int, message: str) -> Problem:
        return Problem(*self.place(offset), message)


class _Fault(Exception):
    """Stops the reading of one section: its nesting is broken from here on."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem


@dataclass(slots=True)
class _Open:
    """A span that is being read: the level opened last takes what comes next."""

    factor: str
    texts: dict[str, list[Node]]
    line: int
    column: int
    items: list[Node]


def read_sections(
    text: str, start: int, lines: Lines
) -> tuple[tuple[Section, ...], tuple[Use, ...], list[Problem]]:
    """Read the body that begins at offset `start`; give its sections, named levels and faults.

    A fault in one section does not hide those of the next.
    """
    sections: list[Section] = []
    uses: list[Use] = []
    problems: list[Problem] = []
    headings = [m for m in _HEADING.finditer(text, start) if len(m[1]) % 2 == 0]
    # Literal backslashes before the first heading are text like any other.
    lead = text[start : headings[0].end(1) if headings else len(text)]
    if lead.strip():
        first = start + len(lead) - len(lead.lstrip())
        problems.append(
            lines.problem(
                first,
                "text before the first heading: put it under a line `# system` or `# user`",
            )
        )
    elif not headings:
        problems.append(
            lines.problem(len(text), "the scenario has no `# system` or `# user` heading")
        )
    for position, heading in enumerate(headings):
        role = heading[2]
        if role == "system" and position:
            message = "`# system` comes once, before every other heading"
            problems.append(lines.problem(heading.start(), message))
        begin, end = _extent(text, heading, headings[position + 1 : position + 2])
        try:
            nodes = _read_section(text, begin, end, lines, uses)
        except _Fault as fault:
            problems.append(fault.problem)
            continue
        sections.append(Section(role, nodes, lines.place(heading.start())[0]))
    return tuple(sections), tuple(uses), problems


def _extent(text: str, heading: re.Match[str], following: list[re.Match[str]]) -> tuple[int, int]:
    """From after the heading's line break to before the break that precedes what follows."""
    begin = heading.end()
    for newline in ("\r\n", "\n"):
        if text.startswith(newline, begin):
            begin += len(newline)
            break
    # Half of the backslashes before a heading are literal and end the section before it.
    end = following[0].start() + len(following[0][1]) // 2 if following else len(text)
    for newline in ("\r\n", "\n"):
        if text.endswith(newline, begin, end):
            return begin, end - len(newline)
    return begin, max(begin, end)


def _read_section(
    text: str, begin: int, end: int, lines: Lines, uses: list[Use]
) -> tuple[Node, ...]:
    root: list[Node] = []
    stack: list[_Open] = []
    items = root
    position = begin
    while match := _TOKEN.search(text, position, end):
        slashes = match["slashes"] if match["mark"] else match["heading_slashes"]
        at = match.start() + len(slashes)
        literal = text[position : match.start()] + "\\" * (len(slashes) // 2)
        position = match.end()
        if match["heading"] or len(slashes) % 2:
            # A heading here has an odd number of backslashes: even ones split the sections.
            _add(items, literal + text[at:position])
            continue
        _add(items, literal)
        if match["mark"] == "{{query}}":
            items.append(QuerySlot(*lines.place(at)))
        elif match["mark"] == "{{#":
            mark = _OPEN.match(text, at, end)
            if not mark:
                raise _Fault(lines.problem(at, _malformed(text, at, end, "{{#factor level}}")))
            line, column = lines.place(at)
            uses.append(Use(mark[1], mark[2], line, column))
            items = _open(stack, items, mark[1], mark[2], lines, at)
            position = mark.end()
        else:
            mark = _CLOSE.match(text, at, end)
            if not mark:
                raise _Fault(lines.problem(at, _malformed(text, at, end, "{{/factor}}")))
            closed = _close(stack, mark[1], lines, at)
            items = stack[-1].items if stack else root
            items.append(closed)
            position = mark.end()
    if stack:
        unclosed = stack[-1]
        raise _Fault(
            Problem(
                unclosed.line,
                unclosed.column,
                f"`{unclosed.factor}` is opened here and not closed before line "
                f"{lines.place(end)[0] + 1}: add {{{{/{unclosed.factor}}}}} in the same section",
            )
        )
    _add(items, text[position:end])
    return tuple(root)


def _add(items: list[Node], text: str) -> None:
    if not text:
        return
    if items and isinstance(items[-1], str):
        items[-1] += text
    else:
        items.append(text)


def _malformed(text: str, at: int, end: int, form: str) -> str:
    shown = text[at : min(end, at + 40)].splitlines()[0]
    return (
        f"{shown!r} is not a mark: a mark is {form}, in lower case and with one space; "
        "for literal braces put a backslash before them"
    )


def _open(
    stack: list[_Open], items: list[Node], factor: str, level: str, lines: Lines, at: int
) -> list[Node]:
    if stack and stack[-1].factor == factor:
        span = stack[-1]
        if level in span.texts:
            message = (
                f"`{factor}` has `{level}` twice in the span opened {span.line}:{span.column}: "
                "close the span or use another level"
            )
            raise _Fault(lines.problem(at, message))
        span.items = span.texts[level] = []
        return span.items
    if any(span.factor == factor for span in stack):
        inner = stack[-1]
        message = (
            f"close `{inner.factor}`, opened {inner.line}:{inner.column}, "
            f"before switching `{factor}`"
        )
        raise _Fault(lines.problem(at, message))
    if len(stack) == _DEEPEST:
        message = f"more than {_DEEPEST} spans inside one another is too deep: close some first"
        raise _Fault(lines.problem(at, message))
    line, column = lines.place(at)
    opened: list[Node] = []
    stack.append(_Open(factor, {level: opened}, line, column, opened))
    return opened


def _close(stack: list[_Open], factor: str, lines: Lines, at: int) -> Span:
    if not stack:
        raise _Fault(lines.problem(at, f"`{factor}` is closed here but is not open"))
    span = stack[-1]
    if span.factor != factor:
        known = any(other.factor == factor for other in stack)
        message = (
            f"close `{span.factor}`, opened {span.line}:{span.column}, before closing `{factor}`"
            if known
            else f"`{factor}` is closed here but the open span is `{span.factor}`, "
            f"opened {span.line}:{span.column}"
        )
        raise _Fault(lines.problem(at, message))
    stack.pop()
    texts = {level: tuple(nodes) for level, nodes in span.texts.items()}
    return Span(span.factor, texts, span.line, span.column)
