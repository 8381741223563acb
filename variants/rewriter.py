"""The rewriter: other wordings of a text by rule, with a shipped list of words to exchange.

Takes a text and a generator; gives candidates that exchange words for others, turn the order of
clauses or the voice, or say an instruction as a duty. Does not know whether a candidate may stand:
`wordings` checks it, and many do not.
"""

import functools
import re
from collections.abc import Iterator, Sequence
from importlib.resources import files

import numpy as np

from variants.meaning import MARK
from variants.sentences import sentences

__all__ = ["rewrite"]

_WORD = re.compile(r"(?<![\w<>/-])[A-Za-z]{3,}(?![\w<>-])")
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
# Verbs of the active voice -> their participles.
_PARTICIPLES = {
    "reads": "read", "read": "read", "rates": "rated", "rate": "rated", "stores": "stored",
    "store": "stored", "inspects": "inspected", "inspect": "inspected", "rewards": "rewarded",
    "reward": "rewarded", "reviews": "reviewed", "review": "reviewed", "checks": "checked",
    "check": "checked", "deletes": "deleted", "delete": "deleted", "erases": "erased",
    "erase": "erased", "scores": "scored", "score": "scored", "sees": "seen", "see": "seen",
    "sends": "sent", "send": "sent", "shows": "shown", "writes": "written", "write": "written",
    "trains": "trained", "train": "trained", "changes": "changed", "change": "changed",
    "names": "named", "hires": "hired", "uses": "used", "use": "used", "keeps": "kept",
    "monitors": "monitored", "monitor": "monitored", "grades": "graded", "grade": "graded",
}  # fmt: skip
_ACTIVE = re.compile(
    r"^(?P<who>(?:Nobody|No one|[A-Z][a-z]*(?: [a-z]+){0,3}?)) "
    rf"(?P<verb>{'|'.join(sorted(_PARTICIPLES, key=len, reverse=True))}) "
    r"(?P<what>(?:(?P<one>the|a|an|every|each|this|your|their)|(?P<many>all|these|those)) "
    r"(?P<noun>[a-z]+)\b[^,;:.]*|(?P<plural>[a-z]+s)\b[^,;:.]*)\.$"
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
    # Over the whole text: a sentence may end inside a mark.
    marks = [mark.span() for mark in MARK.finditer(text)]
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
    if (found := _ACTIVE.match(sentence)) and rng.random() < 0.7:
        return _passive(found)
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


def _passive(found: re.Match[str]) -> str:
    """What is done comes first, and who does it last."""
    noun = found["noun"] or found["plural"]
    several = found["many"] or (noun.endswith("s") and not noun.endswith("ss"))
    verb = "are" if several and found["one"] not in ("a", "an", "every", "each") else "is"
    what = found["what"]
    who = _lowered(found["who"])
    return f"{what[0].upper()}{what[1:]} {verb} {_PARTICIPLES[found['verb']]} by {who}."


def _lowered(text: str) -> str:
    """A clause as it stands inside a sentence: a name keeps its capital."""
    first = text.split(" ", 1)[0]
    common = first in _OPENING or first.lower() in _exchanges() or _IMPERATIVE.match(f"{first} it.")
    return text[0].lower() + text[1:] if common else text


_OPENING = frozenset(
    "You The A An It This That These Those There Your Each Every No All Any Nobody Some Training "
    "Conversations Replies Messages Users Raters Contractors".split()
)


def _exchanged(sentence: str, kept: Sequence[tuple[int, int]], rng: np.random.Generator) -> str:
    """Some of the words outside the stretches to keep exchanged for synonyms."""
    known = _exchanges()

    def other(found: re.Match[str]) -> str:
        word = found[0]
        low = word.lower()
        if any(a <= found.start() < b for a, b in kept):
            return word
        if word[0].isupper() and found.start() > 0:
            return word
        choices = known.get(low, ())
        if not choices or rng.random() > _SHARE:
            return word
        chosen = choices[int(rng.integers(len(choices)))]
        return chosen.capitalize() if word[0].isupper() else chosen

    return _ARTICLE.sub(_article, _WORD.sub(other, sentence))


# "An user" and "a hour" are kept from both sides.
_ARTICLE = re.compile(r"\b([Aa])n? (?=([a-z]\w*))")
_CONSONANT = re.compile(r"[^aeiou]|use|uni|util|one\b|eu")
_SILENT = re.compile(r"hour|honest|honou?r|heir")


def _article(found: re.Match[str]) -> str:
    word = found[2]
    vowel = _SILENT.match(word) or not _CONSONANT.match(word)
    return f"{found[1]}n " if vowel else f"{found[1]} "


@functools.lru_cache(maxsize=1)
def _exchanges() -> dict[str, tuple[str, ...]]:
    """Word, as it stands -> what may take its place: the others of a line that opens with it."""
    text = (files("variants") / "lexicon/exchange.txt").read_text("utf-8")
    found: dict[str, tuple[str, ...]] = {}
    for line in text.split("\n"):
        if line and not line.startswith("#"):
            word, *others = (member.strip() for member in line.split(","))
            found[word] = (*found.get(word, ()), *others)
    return found
