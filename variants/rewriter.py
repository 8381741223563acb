"""The rewriter: other wordings of a text by rule, from the shipped list of synonyms.

Takes a text and a generator; gives candidates that exchange words for synonyms in the same form,
turn the order of clauses, or say an instruction as a duty. Does not know whether a candidate may
stand: `wordings` checks it, and many do not.
"""

import functools
import re
from collections.abc import Iterator, Sequence

import numpy as np

from variants.meaning import synonym_groups
from variants.sentences import sentences

__all__ = ["rewrite"]

_WORD = re.compile(r"(?<![\w<>/-])[A-Za-z]{3,}(?![\w<>-])")
# What the rules keep as it is; a sentence may end inside one.
_MARK = re.compile(r"</?[A-Za-z][^<>\n]*>|\{\{[^{}\n]*\}\}|`[^`\n]+`|https?://\S+|\S+@\S+")
_FRONTED = re.compile(
    r"^(If|When|Whenever|Because|Since|Before|After|While|Where|Unless|Once|Although) "
    r"([^,.;:]+), ([^.;:]+)([.!])$"
)
_TRAILING = re.compile(
    r"^([^,.;:]+?),? (if|when|whenever|because|before|after|while|unless|once|although) "
    r"([^,.;:]+)([.!])$"
)
_IMPERATIVE = re.compile(
    r"^(Use|Write|Put|Keep|Give|Answer|Reply|Think|Take|Say|Explain|Offer|Leave|Work|Read|"
    r"Follow|Treat|Remember|Behave|Begin|End|Place|Choose|State|Tell) (.+)([.!])$"
)
_SHOULD = re.compile(r"^You (?:should|must|are to) ([a-z]+) (.+)([.!])$")
# Of the words that have a synonym, the share that is exchanged in one candidate.
_SHARE = 0.6
# Too general, or a part of too many phrases, to be exchanged safely.
_KEPT = frozenset(
    "the and but for not with that this from you your are was were has have had can may must will "
    "who whom whose what when where which while one two all any each every some none than then "
    "them they their its his her our out off about into over under such same other another being "
    "been does did done how why here there very also only just even still yet too never always "
    "nobody nothing anybody anything somebody something user users tier training train trained "
    "model free paid tag tags scratchpad answer developer contractor contractors like well good "
    "time times way ways make makes made take takes taken put get gets got set sets let".split()
)


def rewrite(text: str, rng: np.random.Generator, count: int) -> Iterator[str]:
    """Up to `count` candidates, no two alike and none like the text."""
    seen = {text}
    for _ in range(8 * count):
        if len(seen) > count:
            return
        candidate = _candidate(text, rng)
        if candidate not in seen:
            seen.add(candidate)
            yield candidate


def _candidate(text: str, rng: np.random.Generator) -> str:
    """Each sentence on its own, so that what stands between them stays."""
    parts, place = [], 0
    marks = [mark.span() for mark in _MARK.finditer(text)]
    for start, end in sentences(text):
        parts.append(text[place:start])
        sentence = text[start:end]
        kept = [(a - start, b - start) for a, b in marks if a < end and b > start]
        if "<" not in sentence and not kept:
            sentence = _turned(sentence, rng)
        parts.append(_exchanged(sentence, kept, rng))
        place = end
    return "".join([*parts, text[place:]])


def _turned(sentence: str, rng: np.random.Generator) -> str:
    """The clauses in the other order, or an instruction as a duty, where the form is plain."""
    if rng.random() < 0.25:
        return sentence
    if found := _FRONTED.match(sentence):
        word, first, second, end = found.groups()
        return f"{second[0].upper()}{second[1:]} {word.lower()} {_lowered(first)}{end}"
    if found := _TRAILING.match(sentence):
        first, word, second, end = found.groups()
        return f"{word.capitalize()} {second}, {_lowered(first)}{end}"
    if found := _IMPERATIVE.match(sentence):
        return f"You are to {found[1].lower()} {found[2]}{found[3]}"
    if found := _SHOULD.match(sentence):
        return f"{found[1].capitalize()} {found[2]}{found[3]}"
    return sentence


def _lowered(text: str) -> str:
    """A clause as it stands inside a sentence: a name keeps its capital."""
    first = text.split(" ", 1)[0]
    common = first.lower() in _KEPT or first.lower() in _synonyms() or first in _PRONOUNS
    return text[0].lower() + text[1:] if common else text


_PRONOUNS = frozenset("You The A An It This That These Those There Your Each Every No".split())


def _exchanged(sentence: str, kept: Sequence[tuple[int, int]], rng: np.random.Generator) -> str:
    """Some of the words outside the stretches to keep exchanged for synonyms."""
    known = _synonyms()

    def other(found: re.Match[str]) -> str:
        word = found[0]
        low = word.lower()
        if any(a <= found.start() < b for a, b in kept):
            return word
        if low in _KEPT or (word[0].isupper() and found.start() > 0):
            return word
        choices = known.get(low, ())
        if not choices or rng.random() > _SHARE:
            return word
        chosen = choices[int(rng.integers(len(choices)))]
        return chosen.capitalize() if word[0].isupper() else chosen

    return _WORD.sub(other, sentence)


@functools.lru_cache(maxsize=1)
def _synonyms() -> dict[str, tuple[str, ...]]:
    """Surface form -> forms of its synonyms, for words that have one sense in the list."""
    groups: dict[str, list[tuple[str, tuple[str, ...]]]] = {}
    for kind, members in synonym_groups():
        single = tuple(m for m in members if re.fullmatch(r"[a-z]+", m))
        for member in single:
            groups.setdefault(member, []).append((kind, single))
    found: dict[str, set[str]] = {}
    for word, mine in groups.items():
        # A word of several senses would often be exchanged for a synonym of the wrong one.
        if len(mine) > 1 or len(word) < 4:
            continue
        kind, members = mine[0]
        for form, same in _forms(word, kind):
            others = {inflected for m in members if m != word for f, inflected in _forms(m, kind)
                      if f == form}  # fmt: skip
            found.setdefault(same, set()).update(others)
    return {form: tuple(sorted(others)) for form, others in found.items() if others}


def _forms(word: str, kind: str) -> list[tuple[str, str]]:
    """The regular forms of a word by their grammatical names; irregular verbs keep their base."""
    plural = word[:-1] + "ies" if re.search(r"[^aeiou]y$", word) else word + (
        "es" if re.search(r"(?:s|x|z|ch|sh)$", word) else "s"
    )  # fmt: skip
    if kind == "n":
        return [("base", word), ("plural", plural)]
    if kind == "v":
        return [("base", word), ("third", plural)]
    return [("base", word)]
