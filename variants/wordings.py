"""Wordings: the rules that another wording of a text must pass, without a model.

Takes an original and a candidate; says whether the candidate may stand in its place, with every
reason against it. The rules keep names, numbers, tags, negations and strength, refuse claims that
were dropped, added or taken from another feature, and ask for a real change of words.
Does not know where candidates come from or where they are kept.
"""

import difflib
import functools
import itertools
import operator
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from variants.meaning import (
    LOOSE_NUMBERS,
    Clause,
    Reading,
    match,
    negating_roots,
    opposites,
    read,
    stem,
)
from variants.sentences import MARKER

__all__ = ["WordingCheck", "check_wording"]

# Length of the candidate over that of the original, in characters; short texts vary more.
_SHORTEST, _LONGEST = 0.55, 1.7
_SHORT_TEXT = 60
# Longer texts are not compared: every clause is held against all those of the other text.
_MOST_CHARACTERS, _MOST_CLAUSES = 5_000, 120
# Two texts this alike in their sequence of words, or in their set of words, are copies.
_ALIKE_IN_ORDER, _ALIKE_IN_WORDS = 0.9, 0.92
# A clause is said if this share of its content words stands in the other text.
_SAID = 0.15
_FEWEST = 3
_UNEVEN, _MORE_UNEVEN, _IN_A_ROW = 4, 5, 3


@dataclass(frozen=True, slots=True)
class WordingCheck:
    """What the rules say of a candidate: no reason against it, or all of them."""

    reasons: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.reasons


def check_wording(
    original: str,
    candidate: str,
    *,
    propositions: Sequence[str] = (),
    accepted: Sequence[str] = (),
) -> WordingCheck:
    """Check another wording of a text by rules alone.

    `propositions` are texts of other features, which the candidate may not state; `accepted` are
    wordings that stand already, from which it must differ as from the original.
    """
    if not candidate.strip():
        return WordingCheck(("empty: it has no text",))
    if (most := max(len(original), len(candidate))) > _MOST_CHARACTERS:
        long = f"length: {most} characters are too many to check, {_MOST_CHARACTERS} are the most"
        return WordingCheck((long,))
    before, after = read(original), read(candidate)
    if (clauses := max(len(before.clauses), len(after.clauses))) > _MOST_CLAUSES:
        long = f"length: {clauses} clauses are too many to check, {_MOST_CLAUSES} are the most"
        return WordingCheck((long,))
    reasons = [
        *_form(before, after),
        *_length(original, candidate),
        *_distance(before, after, accepted),
        *_names(before, after),
        *_numbers(before, after),
        *_strength(before, after),
        *_polarity(before, after),
        *_roles(before, after),
        *_sides(before, after),
        *_order(before, after),
        *_exceptions(before, after),
        *_claims(before, after, propositions),
    ]
    return WordingCheck(tuple(dict.fromkeys(reasons)))


def _form(before: Reading, after: Reading) -> Iterator[str]:
    for mark in sorted(before.marks - after.marks):
        yield f"mark: {mark} is gone"
    for mark in sorted(after.marks - before.marks):
        yield f"mark: {mark} is new"
    markers = [re.match(rf"\s*({MARKER})[ \t]", r.text) for r in (before, after)]
    if bool(markers[0]) != bool(markers[1]):
        yield "form: only one of the two is a list item"


def _length(original: str, candidate: str) -> Iterator[str]:
    ratio = len(candidate.strip()) / max(1, len(original.strip()))
    spare = 1.35 if len(original) < _SHORT_TEXT else 1.0
    if not _SHORTEST / spare <= ratio <= _LONGEST * spare:
        yield f"length: {ratio:.2f} of the original's"


def _distance(before: Reading, after: Reading, accepted: Sequence[str]) -> Iterator[str]:
    if _alike(before, after):
        yield "copy: too near the original"
    if any(_alike(read(text), after) for text in accepted):
        yield "copy: too near another accepted wording"


def _alike(one: Reading, other: Reading) -> bool:
    if one.tokens == other.tokens:
        return True
    in_order = difflib.SequenceMatcher(None, one.tokens, other.tokens, autojunk=False).ratio()
    words = set(one.tokens), set(other.tokens)
    shared = len(words[0] & words[1]) / max(1, len(words[0] | words[1]))
    return in_order > _ALIKE_IN_ORDER or (shared > _ALIKE_IN_WORDS and in_order > 0.7)


def _names(before: Reading, after: Reading) -> Iterator[str]:
    known = [{token.removesuffix("'s") for token in r.tokens} for r in (before, after)]
    for name in sorted(before.names - after.names):
        if name not in known[1] and f"{name}s" not in known[1]:
            yield f"name: {name} is gone"
    for name in sorted(after.names - before.names):
        if name not in known[0]:
            yield f"name: {name} is new"


def _numbers(before: Reading, after: Reading) -> Iterator[str]:
    for number in sorted(before.numbers - after.numbers - LOOSE_NUMBERS):
        yield f"number: {number} is gone"
    for number in sorted(after.numbers - before.numbers - LOOSE_NUMBERS):
        yield f"number: {number} is new"
    digits = [{t.replace(",", "") for t in r.tokens if t[0].isdigit()} for r in (before, after)]
    for number in sorted((digits[0] - after.numbers) | (digits[1] - before.numbers)):
        yield f"number: {number} changed"
    for number, low in sorted(before.bounds):
        if (number, not low) in after.bounds and (number, low) not in after.bounds:
            yield f"number: {number} bounds from the other side"


_PARTIAL = frozenset(
    "some sometimes often usually mostly occasionally rarely seldom generally typically "
    "sometime partly partially frequently mainly largely several few chiefly almost nearly".split()
)
_UNIVERSAL = frozenset(
    "all every each any always never no nobody none only whenever whatever entirely invariably "
    "exclusively without wherever whoever everything anything nothing solely alone".split()
)
_PERMITTED = (
    "may", "might", "could", "optional", "optionally", "if you like", "if you wish", "if you want",
    "feel free", "free to", "allowed to", "permitted to", "welcome to", "are entitled to",
    "you like", "you please", "if they like", "if they wish", "at will",
    "may or may not", "have the option",
)  # fmt: skip
_OBLIGED = (
    "must", "have to", "has to", "need to", "needs to", "required", "obliged", "mandatory",
    "compulsory", "shall", "obligatory", "duty", "obligation", "forbidden",
    "prohibited", "banned", "off limits",
)  # fmt: skip
_ADVISED = (
    "should", "ought", "preferable", "preferably", "advisable", "better to", "recommended",
    "had better", "worth", "ideally",
)  # fmt: skip
_POSSIBLE = ("might", "could", "perhaps", "possibly", "maybe", "probably", "it is possible")
_ABLE = ("welcome", "can", "able", "may", "lets", "let", "allows", "allowed", "free to", "possible")
# "Less often" and "though they may be" weaken nothing; "some help" is an amount.
_NOT_PARTIAL = re.compile(
    r" (?:less|more) (?:often|frequently)(?= )"
    r"|(?<= )(?:though|however|whatever|whoever|wherever)(?: \w+){0,3} may(?= )"
    r"| some (?!of )(?=\w*[^s ] )"
)


def _strength(before: Reading, after: Reading) -> Iterator[str]:
    texts = [" " + " ".join(r.tokens) + " " for r in (before, after)]
    texts = [_NOT_PARTIAL.sub("", text) for text in texts]

    def has(side: int, phrases: Sequence[str]) -> bool:
        return any(f" {phrase} " in texts[side] for phrase in phrases)

    partial = [_PARTIAL & set(text.split()) for text in texts]
    if partial[1] and not partial[0]:
        yield f"strength: {', '.join(sorted(partial[1]))} weakens it"
    weaker = partial[1] or has(1, ("normally", "ordinarily", "as a rule", "in general"))
    if partial[0] and not weaker and _UNIVERSAL & (set(after.tokens) - set(before.tokens)):
        yield f"strength: it was only {', '.join(sorted(partial[0]))}"
    if has(1, _PERMITTED) and not has(0, _PERMITTED + _ABLE):
        strict = _forbids(texts[1]) or " only " in texts[1]
        closed = _forbids(texts[0]) or has(0, (*_OBLIGED, "only", "reserved"))
        if not strict or not closed:
            yield "strength: it permits what was not left open"
    if has(1, _POSSIBLE) and not has(0, (*_POSSIBLE, "may", "can", "likely")):
        yield "strength: it makes a fact a possibility"
    if has(0, _OBLIGED) and not has(1, _OBLIGED) and has(1, _ADVISED) and not has(0, _ADVISED):
        yield "strength: an obligation became advice"
    if has(0, _ADVISED) and not has(1, _ADVISED) and has(1, _OBLIGED) and not has(0, _OBLIGED):
        yield "strength: advice became an obligation"
    open_before = has(0, ("may", "optional")) and " only " not in texts[0]
    if open_before and not has(1, _PERMITTED + _ABLE) and has(1, _OBLIGED):
        yield "strength: a permission became an obligation"


_FORBIDDING = ("not", "never", "no", "cannot", "nobody", "none", "nothing", "neither")


def _forbids(text: str) -> bool:
    return any(f" {w} " in text for w in _FORBIDDING)


def _polarity(before: Reading, after: Reading) -> Iterator[str]:
    """Negations of one text that the other does not have, and opposites in place of a word."""
    events = [[c for c in r.clauses for _ in range(c.negations)] for r in (before, after)]
    pairs = _paired(before, after, events[0], events[1])
    turned, agreed = _opposites(before, after)
    said = [[w for c in r.clauses for w in c.words] for r in (before, after)]
    open_before, open_after = (
        [
            clause
            for i, clause in enumerate(events[side])
            if i not in {pair[side] for pair in pairs}
            and clause not in agreed
            and not _idle(clause, said[1 - side])
            # A second negation of one clause undoes the first: no other clause answers for it.
            and (clause.negations > 1 or not _covered(clause, events[1 - side]))
        ]
        for side in (0, 1)
    )
    for clause in open_before:
        near = _nearest(clause, before, after)
        answers = [t for t in turned if t[0] in clause.words and not _fixed(t)]
        if answers:
            turned.remove(answers[0])
        elif not _answered(clause, before, near):
            yield f"negation: {' '.join(clause.words)} turned round"
    for clause in open_after:
        near = _nearest(clause, after, before)
        around = {w for c in near for w in c.words}
        answers = [t for t in turned if (t[1] in clause.words or t[0] in around) and not _fixed(t)]
        if answers:
            turned.remove(answers[0])
        elif not _answered(clause, after, near):
            yield f"negation: {' '.join(clause.words)} turned round"
    for word, _ in turned:
        yield f"negation: {word} replaced by an opposite"


def _fixed(pair: tuple[str, str]) -> bool:
    """Whether a word and its opposite cannot make up for a negation.

    They say whom it is about, or one of them is the negation itself: "seen" is not "hidden".
    """
    return pair[0] in _KINDS or bool({*pair} & negating_roots())


def _answered(clause: Clause, side: Reading, near: Sequence[Clause]) -> bool:
    """Whether what lies nearest can say without a negation what this clause says with one."""
    excepting = any(c.excepting for c in side.clauses if c.sentence == clause.sentence)
    return bool(near) and all(
        any(word not in clause.soft for word in c.soft) or (c.only and excepting) for c in near
    )


def _idle(clause: Clause, others: Sequence[str]) -> bool:
    """Whether only prefixes negate, of words that the other text does not have."""
    return bool(clause.prefixed) and not any(root in others for root in clause.prefixed)


def _covered(clause: Clause, others: Sequence[Clause]) -> bool:
    """Whether a negation of the other text takes in what this one denies, as `neither` does."""
    return any(
        _count(clause.words, other.words) >= max(1.0, 0.6 * len(clause.words)) for other in others
    )


def _paired(
    before: Reading, after: Reading, one: Sequence[Clause], other: Sequence[Clause]
) -> list[tuple[int, int]]:
    """Places of negations of both texts that say the same thing, the most alike first."""
    scores = []
    known: dict[tuple[int, int], int] = {}
    for i, a in enumerate(one):
        for j, b in enumerate(other):
            shared = _count(a.words, b.words) + _count(b.words, a.words)
            key = (a.sentence, b.sentence)
            if key not in known:
                known[key] = _count(before.sentence(a), after.sentence(b))
            around = known[key]
            if shared or around:
                scores.append((3 * shared + around, i, j))
    pairs: list[tuple[int, int]] = []
    for _, i, j in sorted(scores, key=lambda s: -s[0]):
        if all(i != x and j != y for x, y in pairs):
            pairs.append((i, j))
    return pairs


def _count(words: Sequence[str], others: Sequence[str]) -> int:
    return sum((m := match(w, others)) is not None and not m.opposite for w in words)


def _nearest(clause: Clause, side: Reading, other: Reading) -> list[Clause]:
    """The clauses of the other text that share most with a clause."""
    scores = [(_count(clause.words, c.words), c) for c in other.clauses]
    most = max((score for score, _ in scores), default=0)
    if not most:
        return []
    return [c for score, c in scores if score == most]


def _opposites(before: Reading, after: Reading) -> tuple[list[tuple[str, str]], list[Clause]]:
    """Words that have an opposite where the other text says the same thing, and no equal.

    Where one of the two is negated, they agree: those negated clauses come second.
    """
    old = sorted({w for c in before.clauses for w in c.words})
    turned: list[tuple[str, str]] = []
    agreed: list[Clause] = []
    seen = set()
    for clause in before.clauses:
        near = _nearest(clause, before, after)
        here = [w for c in near for w in c.words]
        around = [c for c in after.clauses if any(c.sentence == n.sentence for n in near)]
        for word in clause.words:
            if word in seen or ((found := match(word, here)) and not found.opposite):
                continue
            for other in around:
                rest = [w for w in clause.words if w != word]
                beside = _count(rest, after.sentence(other))
                far = next(
                    (
                        w
                        for w in opposites(word, other.words)
                        if not (_APART | negating_roots()) & {word, w} and not _count([w], old)
                    ),
                    None,
                )
                # With too little else in common one does not stand for the other.
                if far is None or beside < min(2, len(clause.words) - 1):
                    continue
                seen.add(word)
                if clause.negative == other.negative or word in _KINDS:
                    turned.append((word, far))
                else:
                    agreed += [c for c in (clause, other) if c.negative]
                break
    return turned, agreed


# Whom or what it is about: "not the paid tier" is not "the free tier".
_KINDS = frozenset(
    map(stem, "free paid premium basic trial user developer train deploy customer human".split())
)
# Negations, and words of order, are looked at elsewhere.
_APART = frozenset(
    map(
        stem,
        "exclude forbid prohibit ban bar withhold disregard before after ahead later earlier prior "
        "first last above below over under give receive borrow lend loan buy sell send teach learn "
        "follow lead leave have charge come go ask answer question reply mark score point "
        "use morning afternoon evening night noon yesterday today tomorrow day up down".split(),
    )
)


def _roles(before: Reading, after: Reading) -> Iterator[str]:
    """Two clauses or sentences that exchanged words: what was said of one is said of the other."""
    for ours, theirs in (
        ([c.words for c in before.clauses], [c.words for c in after.clauses]),
        (_by_sentence(before), _by_sentence(after)),
    ):
        if swapped := _swapped(ours, list(dict.fromkeys(theirs))):
            yield f"roles: {swapped[0]} and {swapped[1]} changed places"
            return


def _swapped(
    ours: Sequence[tuple[str, ...]], theirs: Sequence[tuple[str, ...]]
) -> tuple[str, str] | None:
    """A word that went from one stretch to another, and one that went the other way."""
    # Word -> a bit for each stretch that says it.
    at = {
        w: sum(1 << i for i, stretch in enumerate(theirs) if _count([w], stretch))
        for w in {word for one in ours for word in one}
    }
    for one, other in dict.fromkeys(itertools.combinations(ours, 2)):
        mine = [w for w in one if not _count([w], other)]
        yours = [w for w in other if not _count([w], one)]
        for left in range(len(theirs) if mine and yours else 0):
            came = [w for w in yours if at[w] >> left & 1]
            if not came:
                continue
            stayed = _union(~at[w] for w in mine if at[w] >> left & 1)
            stayed &= _union(at[w] for w in yours if not at[w] >> left & 1)
            went = _union(at[w] for w in mine if not at[w] >> left & 1)
            # What came to the one stretch is not in the other any more.
            rights = stayed & went & _union(~at[w] for w in came)
            if rights:
                first = rights & -rights
                gone = next(w for w in mine if at[w] & first and not at[w] >> left & 1)
                return gone, came[0]
    return None


def _union(bits: Iterable[int]) -> int:
    return functools.reduce(operator.or_, bits, 0)


def _by_sentence(reading: Reading) -> list[tuple[str, ...]]:
    first = {c.sentence: c for c in reading.clauses}
    return [reading.sentence(clause) for clause in first.values()]


def _sides(before: Reading, after: Reading) -> Iterator[str]:
    """What was negated is not, and what was not is."""
    ours = _said(before)
    theirs = _said(after)
    crossed: dict[bool, list[str]] = {True: [], False: []}
    for negative in (True, False):
        for word in sorted(ours[negative] - ours[not negative]):
            also = match(word, ours[not negative])
            if also and not also.opposite:
                continue
            here, there = match(word, theirs[negative]), match(word, theirs[not negative])
            if (here is None or here.opposite) and there is not None and not there.opposite:
                crossed[negative].append(word)
    if crossed[True] and crossed[False]:
        yield f"roles: {crossed[True][0]} and {crossed[False][0]} changed places"


def _said(reading: Reading) -> dict[bool, set[str]]:
    """The words of all negated clauses, and those of all others."""
    return {
        negative: {w for c in reading.clauses if c.negative is negative for w in c.words}
        for negative in (True, False)
    }


def _order(before: Reading, after: Reading) -> Iterator[str]:
    """Two things that changed sides of a relation such as before, after, over."""
    for left, right, wins in before.relations():
        if right[:1] and right[0][0].isdigit():
            continue
        for here, there, first in after.relations():
            kept = _count(left, here) and _count(right, there)
            turned = _count(left, there) and _count(right, here)
            kept = kept and not turned
            if (kept and wins != first) or (turned and not kept and wins == first):
                yield f"roles: {' '.join(left[-1:])} and {' '.join(right[:1])} changed places"
                return


_EXCEPT = (
    "except",
    "apart from",
    "other than",
    "excluding",
    "save for",
    "exception of",
    "aside from",
)
_ONLY = (
    "only",
    "no other",
    "just",
    "exclusively",
    "solely",
    "alone",
    "exclude",
    "excluded",
    "unless",
)
_WAIVING = ("even if", "even when", "even before", "even without", "even though", "even after")


def _exceptions(before: Reading, after: Reading) -> Iterator[str]:
    texts = [" " + " ".join(r.tokens) + " " for r in (before, after)]
    has = [any(f" {p} " in text for p in _EXCEPT) for text in texts]
    if any(f" {p} " in texts[1] for p in _WAIVING) and not any(
        f" {p} " in texts[0] for p in (*_WAIVING, "even", "although", "though")
    ):
        yield "negation: a condition is waived"
    for side, what in ((1, "new"), (0, "gone")):
        only = any(f" {p} " in texts[1 - side] for p in _ONLY)
        if has[side] and not has[1 - side] and not only:
            yield f"negation: an exception is {what}"


def _claims(before: Reading, after: Reading, propositions: Sequence[str]) -> Iterator[str]:
    old = [w for clause in before.clauses for w in clause.words]
    new = [w for clause in after.clauses for w in clause.words]
    for clause in before.clauses:
        share = _share(clause.words, new)
        if len(clause.words) >= _FEWEST and share < _SAID:
            yield f"dropped: {' '.join(clause.words)}"
    for clause in after.clauses:
        share = _share(clause.words, old)
        if len(clause.words) >= _FEWEST and share < _SAID:
            yield f"added: {' '.join(clause.words)}"
    lost, gained = [not match(w, new) for w in old], [not match(w, old) for w in new]
    run, other_run = _longest(lost), _longest(gained)
    # Words without a counterpart come in both texts where one is reworded; where only one has
    # them, or has many in a row, something was left out or put in.
    if sum(lost) - sum(gained) >= _UNEVEN or (run >= _IN_A_ROW and run >= other_run + 2):
        yield f"dropped: {' '.join(w for w, gone in zip(old, lost, strict=True) if gone)}"
    if sum(gained) - sum(lost) >= _MORE_UNEVEN or (other_run > _IN_A_ROW and other_run >= run + 2):
        yield f"added: {' '.join(w for w, more in zip(new, gained, strict=True) if more)}"
    for text in propositions:
        foreign = {w for clause in read(text[:_MOST_CHARACTERS]).clauses
                   for w in clause.words if not match(w, old)}  # fmt: skip
        leaked = [w for w in foreign if match(w, new)]
        if len(leaked) >= 2 and len(leaked) >= 0.34 * len(foreign):
            yield f"leak: {', '.join(sorted(leaked))} from another feature"


def _longest(flags: Sequence[bool]) -> int:
    """The longest run of True."""
    best = run = 0
    for flag in flags:
        run = run + 1 if flag else 0
        best = max(best, run)
    return best


def _share(words: Sequence[str], others: Sequence[str]) -> float:
    return sum(match(w, others) is not None for w in words) / max(1, len(words))
