"""Review: what is odd about a scenario that can be read.

Takes a scenario; gives levels that change nothing, and phrases that point at text which a removal
takes away. Does not know studies, queries or wordings.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from variants.declarations import FILLER, GENERATED_LEVELS, Factor, Need
from variants.marks import ORIGINAL, REMOVED, Node, Span, spans_of
from variants.meaning import stem
from variants.scenario import Scenario
from variants.sentences import words

__all__ = ["Dangling", "dangling", "pointers", "unreachable"]

_POINTED = r"(?:above|below|earlier|mentioned|described|listed|named|stated|explained)"
_POINTER = re.compile(
    r"\b(?:the|these|those|this|that|such|each|all|any)\s+(?:\w+\s+){0,2}?(?P<before>\w+)\s+"
    rf"(?:(?:mentioned|described|listed|named|stated|explained|given)\s+)?(?P<way>{_POINTED})\b"
    r"|\b(?:the\s+)?(?P<order>previous|preceding|former|latter|next)\s+"
    r"(?!(?:second|minute|hour|day|night|morning|evening|week|month|year|time)s?\b)(?P<after>[a-z]+)\b"
    r"|\b(?P<item>point|step|rule|item|section|paragraph|bullet|criterion)\s+(?P<number>\d+)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Dangling:
    """A phrase that points at text of `factors` only; without any of them it points at nothing.

    No factors: it points at nothing even in the original. `line` is where the span around the
    phrase opens, else its section's heading.
    """

    phrase: str
    factors: tuple[str, ...]
    line: int


@dataclass(frozen=True, slots=True)
class _Leaf:
    """A stretch of text with the spans around it, outermost first.

    `around` has for each its factor with the levels that show the text, and `levels` the level that
    it is written under.
    """

    text: str
    around: tuple[Need, ...]
    levels: tuple[str, ...]
    line: int


def pointers(text: str) -> Iterator[tuple[str, str, bool, int]]:
    """Phrases that point elsewhere: phrase, the root of the noun, whether backwards, and offset."""
    for found in _POINTER.finditer(text):
        noun = found["before"] or found["after"] or found["item"]
        way = (found["way"] or found["order"] or "above").lower()
        yield found[0], stem(noun), way not in ("below", "next"), found.start()


def dangling(scenario: Scenario) -> tuple[Dangling, ...]:
    """The phrases whose target is in text that a condition can take away."""
    leaves = list(_leaves(scenario))
    found = []
    for place, leaf in enumerate(leaves):
        for phrase, noun, back, offset in pointers(leaf.text):
            own = leaf.text[:offset] if back else leaf.text[offset + len(phrase) :]
            if _names(own, noun):
                continue
            others = leaves[:place] if back else leaves[place + 1 :]
            targets = [other for other in others if _names(other.text, noun)]
            given = _given(scenario, leaf)
            if not any(_always(target, given) for target in targets):
                factors = dict.fromkeys(
                    target.around[-1].factor for target in targets if target.levels[-1] == ORIGINAL
                )
                found.append(Dangling(phrase, tuple(factors), leaf.line))
    return tuple(found)


def _names(text: str, noun: str) -> bool:
    return any(stem(word) == noun for word in words(text))


def _given(scenario: Scenario, leaf: _Leaf) -> dict[str, frozenset[str]]:
    """The levels at which each factor must be for a text to be seen; others may be at any."""
    given: dict[str, frozenset[str]] = {}
    pending = list(leaf.around)
    while pending:
        need = pending.pop()
        if need.factor not in given:
            factor = scenario.factors[need.factor]
            # Of several sites any one may be open.
            pending += [*factor.needs, *(factor.sites[0] if len(factor.sites) == 1 else ())]
        given[need.factor] = given.get(need.factor, need.levels) & need.levels
    return given


def _always(target: _Leaf, given: Mapping[str, frozenset[str]]) -> bool:
    """Whether a text is there whenever its factors are at some of these levels."""
    return all(need.factor in given and given[need.factor] <= need.levels for need in target.around)


def _leaves(scenario: Scenario) -> Iterator[_Leaf]:
    def visit(
        nodes: Iterable[Node], around: tuple[Need, ...], levels: tuple[str, ...], line: int
    ) -> Iterator[_Leaf]:
        for node in nodes:
            if isinstance(node, str):
                yield _Leaf(node, around, levels, line)
            elif isinstance(node, Span):
                for level, items in node.texts.items():
                    if node.factor == "arm":
                        yield from visit(items, around, levels, node.line)
                        continue
                    factor = scenario.factors[node.factor]
                    known = (*factor.levels, *factor.generated)
                    shown = frozenset(at for at in known if node.shown(at) is items) - {FILLER}
                    need = Need(node.factor, shown | {level})
                    yield from visit(items, (*around, need), (*levels, level), node.line)

    for section in scenario.sections:
        yield from visit(section.nodes, (), (), section.line)


def unreachable(scenario: Scenario) -> Iterator[tuple[str, str]]:
    """Factors and levels that nothing can show, with the reason in words.

    The level is empty where the whole factor is meant.
    """
    spans: dict[str, list[Span]] = {name: [] for name in scenario.factors}
    for section in scenario.sections:
        for span in spans_of(section.nodes):
            spans[span.factor].append(span)
    for name, factor in scenario.factors.items():
        if factor.surface:
            continue
        if not spans[name]:
            yield name, "no span of the text is marked with it"
            continue
        if not _can_show(scenario, factor):
            yield name, "what it needs can never be shown together"
            continue
        for level in factor.levels:
            written = any(level in span.texts for span in spans[name])
            # A level that others need shows or hides them, without a text of its own.
            needed = any(
                need.factor == name and (level in need.levels) != (ORIGINAL in need.levels)
                for other in scenario.factors.values()
                for need in other.needs
            )
            if (
                level not in (ORIGINAL, REMOVED)
                and not GENERATED_LEVELS.fullmatch(level)
                and not written
                and not needed
            ):
                yield f"{name}={level}", "no span has a text for it: it renders like the original"


def _can_show(scenario: Scenario, factor: Factor) -> bool:
    """Whether some levels of the factors around it show one of its spans."""
    # What is still needed, and the levels that will do for the factors looked at so far.
    open_ways = _ways(factor, [], {})
    while open_ways:
        needs, wanted = open_ways.pop()
        if not needs:
            return True
        need, *rest = needs
        outer = scenario.factors[need.factor]
        levels = wanted.get(need.factor, frozenset(outer.levels)) & need.levels
        if levels:
            now = {**wanted, need.factor: levels}
            open_ways += [(rest, now)] if need.factor in wanted else _ways(outer, rest, now)
    return False


_Way = tuple[list[Need], dict[str, frozenset[str]]]


def _ways(factor: Factor, rest: list[Need], wanted: dict[str, frozenset[str]]) -> list[_Way]:
    """What a factor needs, once for each place that it stands in."""
    return [([*factor.needs, *site, *rest], wanted) for site in factor.sites or ((),)]
