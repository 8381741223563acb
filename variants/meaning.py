"""Meaning: what two texts have in common word by word, by shipped lists and no model.

Takes English texts; gives their clauses with content words, polarity, strength, numbers, names and
marks, and says which words of one stand in the other, as the same word, a synonym or an opposite.
Does not know which differences a paraphrase may have: `wordings` decides.
"""

import functools
import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

import snowballstemmer

__all__ = [
    "LOOSE_NUMBERS",
    "MARK",
    "RELATIONS",
    "Clause",
    "Match",
    "Reading",
    "match",
    "negating_roots",
    "opposites",
    "read",
    "stem",
]

# A tag, slot, code or address: another wording has it letter by letter.
MARK = re.compile(
    r"</?[A-Za-z][^<>\n]*>|\{\{[^{}\n]*\}\}|`[^`\n]+`|https?://\S+|[\w.+-]+@[\w.-]+\w"
)
_TOKEN = re.compile(r"[^\W\d_]+(?:[’'][^\W\d_]+)?|\d+(?:[.,]\d+)*|[;:!?.,()—–]|\n")
_SPLIT = frozenset(";:!?.\n—–()")
_BUT = frozenset("nothing nobody none one anything all".split())
_ENDS = frozenset("!?.\n")
# Words that open a clause of their own, with or without a comma.
_OPENERS = frozenset("but while whereas although though because unless".split())
# ... and those that do so only after a comma.
_AFTER_COMMA = frozenset("and or so yet nor which who whose where when if since until".split())
_STOP = frozenset(
    "a an the this that these those it its they them their he she his her him we us our you your i "
    "my me is are was were be been being am do does did done doing have has had having will would "
    "shall to of in on at by for from with as into onto upon about between among through during "
    "and or but so if then than when while where which who whom whose what how there here also "
    "too very just such same other another own s t re ve ll d m up out off over under again once "
    "because since although though whereas until whether both either each per via one ones "
    "whatever whoever whichever anything everything something someone anyone everyone anybody "
    "everybody somebody thing person people way kind sort case get go come make take give put let "
    "say tell mean want know allow permit serve place part side use bring set lie stand hold keep "
    "turn "
    "not no never nobody nothing none neither nor nowhere without cannot can may might must could "
    "matter matters content contents besides away straight right immediately immediate times "
    "whole itself yourself themselves himself herself together however ourselves instead spot less "
    "should ought need able like order well even still only any some all every most more".split()
)
_NEGATIONS = (
    "not", "no", "never", "nobody", "nothing", "none", "neither", "nor", "nowhere",
    "without",
    "cannot", "no one", "hardly", "exclude", "leave out", "keep out", "leave aside", "exempt",
    "off limits", "forbid", "prohibit", "ban", "rule out", "bar", "shut out", "stay out",
    "stay away", "keep away", "steer clear",
    "keep off", "turn away", "turn down", "out of order", "hide",
    "out of the question", "out of service", "out of bounds", "out of reach",
    "withhold", "barred", "refuse to", "fail to", "refrain from", "under no circumstances",
    "lack", "free of", "free from", "disregard", "ignore", "deny", "conceal", "less", "least",
    "avoid",
    "anonymous", "anonymously",
)  # fmt: skip
_EXCEPTING = (
    "until",
    "unless",
    "except",
    "other than",
    "apart from",
    "save for",
    "but",
    "without",
    "outside",
)
# What puts one thing before another, in time or in preference: (phrase, whether the first wins).
RELATIONS = (
    ("before", True), ("ahead of", True), ("prior to", True), ("earlier than", True),
    ("after", False), ("later than", False), ("following", False), ("once", False),
    ("over", True), ("above", True), ("rather than", True), ("instead of", True),
    ("in preference to", True), ("more than", True), ("higher than", True), ("below", False),
    ("less than", False), ("lower than", False), ("sooner than", True),
)  # fmt: skip
# Words that say what a negation says, together with an exception: "only A" is "nothing but A".
_ONLY = (
    "only",
    "alone",
    "sole",
    "solely",
    "exclusive",
    "exclusively",
    "unless",
    "except",
    "reserve",
)
# ... and those that can say it alone, and need not.
_SOFT = (
    "avoid", "refrain", "decline", "omit", "absent", "remove",
    "waive", "longest", "maximum", "no difference", "keep clear",
    "instead", "rather than", "apart from", "other than", "prevent", "unable",
    "far from", "anything but", "private", "secret", "yet to",
    "untouched", "hold back", "at most", "silent", "silence", "missing", "fail", "beyond",
    "discontinue", "object", "regardless", "indifferent",
    "irrespective", "alike", "reduce", "lower", "lose", "small",
)  # fmt: skip
# These look negative and are not: the longest phrase counts.
_NOT_NEGATIVE = (
    "nothing but", "no other", "no more than", "not only", "no less than", "no matter",
    "free of charge", "no cost", "no charge",
    "no fee", "without charge", "no sooner", "without fail", "no longer than", "not merely",
    "none but",
    "nothing except",
    "nothing other than", "nobody but", "no later than", "no earlier than", "cannot but",
    "no one but", "too", "no fewer than", "none other than", "no doubt", "without exception",
    "no one else", "nobody else", "nobody except", "no one except", "nothing else",
    "not exceed", "not be more than", "not more than", "not be longer than", "less than",
    "at least", "not less than", "no less than", "no difference", "without regard", "no limit",
    "nothing besides", "nothing more", "no more and no less", "no exception", "nothing beyond",
    "not until", "no haste", "no hurry", "no rush",
    "no different", "no differently", "more or less", "not just", "without delay", "in no time",
    "nothing before", "forget not",
)  # fmt: skip
_IRREGULAR = {
    "kept": "keep", "wrote": "write", "written": "write", "saw": "see", "seen": "see",
    "told": "tell", "said": "say", "sent": "send", "held": "hold", "thought": "think",
    "taught": "teach", "chose": "choose", "chosen": "choose", "made": "make", "took": "take",
    "taken": "take", "gave": "give", "given": "give", "got": "get", "went": "go", "gone": "go",
    "came": "come", "began": "begin", "begun": "begin", "left": "leave", "lost": "lose",
    "met": "meet", "paid": "paid", "put": "put", "ran": "run", "shown": "show", "spoke": "speak",
    "spoken": "speak", "stood": "stand", "understood": "understand", "withheld": "withhold",
    "drew": "draw", "drawn": "draw", "fed": "feed", "felt": "feel", "found": "find",
    "forbidden": "forbid", "forbade": "forbid", "forgot": "forget", "forgotten": "forget",
    "hid": "hide", "hidden": "hide", "knew": "know", "known": "know", "laid": "lay", "led": "lead",
    "learnt": "learn", "meant": "mean", "rose": "rise", "risen": "rise", "sold": "sell",
    "bought": "buy", "spent": "spend", "stuck": "stick", "threw": "throw", "thrown": "throw",
    "worn": "wear", "won": "win", "brought": "bring", "built": "build", "caught": "catch",
    "dealt": "deal", "did": "do", "done": "do", "fell": "fall", "fallen": "fall",
    "grew": "grow", "grown": "grow", "heard": "hear", "driven": "drive", "drove": "drive",
    "broke": "break", "broken": "break", "arose": "arise", "became": "become", "bent": "bend",
    "better": "good", "best": "good", "worse": "bad", "worst": "bad", "lower": "low",
    "lowest": "low", "higher": "high", "highest": "high", "fewer": "few", "further": "far",
    "children": "child", "people": "person", "men": "man", "women": "woman", "feet": "foot",
    "lies": "lie", "lying": "lie", "dying": "die", "criteria": "criterion", "does": "do",
    "has": "have", "had": "have", "is": "be", "are": "be", "was": "be", "were": "be", "been": "be",
    "being": "be", "am": "be", "stricter": "strict", "shorter": "short", "longer": "long",
    "later": "late", "earlier": "early", "read": "read", "underwent": "undergo",
    "undergone": "undergo", "sought": "seek", "slid": "slide", "slept": "sleep", "sat": "sit",
    "shut": "shut", "swept": "sweep", "split": "split", "spread": "spread", "beaten": "beat",
    "shook": "shake", "shaken": "shake", "bound": "bind", "hung": "hang", "lit": "light",
}  # fmt: skip
_NUMBERS = {
    word: str(n)
    for n, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
        "fifteen sixteen seventeen eighteen nineteen twenty".split()
    )
} | {
    "thirty": "30", "forty": "40", "fifty": "50", "sixty": "60", "seventy": "70", "eighty": "80",
    "ninety": "90", "hundred": "100", "thousand": "1000", "million": "1000000", "dozen": "12",
    "pair": "2", "couple": "2", "twice": "2", "double": "2", "triple": "3", "thrice": "3",
    "half": "1/2", "third": "3rd", "quarter": "1/4",
    "both": "2", "fortnight": "2",
}  # fmt: skip
# Numbers that are often only a turn of phrase: adding or leaving them out changes no number.
LOOSE_NUMBERS = frozenset({"1", "2", "3rd", "1/2", "1/4", "100"})


@dataclass(frozen=True, slots=True)
class Clause:
    """A stretch between signs or conjunctions: its content words, and how it negates.

    `negations` counts what negates in it; `soft` has words that can stand for one;
    `excepting`: it names an exception, so that its negation says "only". `sentence` counts from 0.
    `only`: it says that there is no other.
    `prefixed` has the roots that a prefix negates, if nothing else does: `seen` of `unseen`.
    """

    words: tuple[str, ...]
    negations: int
    soft: tuple[str, ...]
    excepting: bool
    sentence: int
    prefixed: tuple[str, ...] = ()
    only: bool = False

    @property
    def negative(self) -> bool:
        return self.negations > 0


@dataclass(frozen=True, slots=True)
class Reading:
    """What a text holds; `tokens` are all its words in order, `marks` its tags and addresses."""

    tokens: tuple[str, ...]
    clauses: tuple[Clause, ...]
    numbers: frozenset[str]
    names: frozenset[str]
    marks: frozenset[str]
    bounds: frozenset[tuple[str, bool]]
    text: str

    def sentence(self, clause: Clause) -> tuple[str, ...]:
        """All content words of a clause's sentence."""
        return tuple(w for c in self.clauses if c.sentence == clause.sentence for w in c.words)

    def relations(self) -> Iterator[tuple[tuple[str, ...], tuple[str, ...], bool]]:
        """What stands on either side of a relation in a sentence, and whether the first wins."""
        for sentence in _SENTENCE.split(self.text):
            text = " " + " ".join(_TOKEN.findall(MARK.sub(" ", sentence.lower()))) + " "
            for phrase, wins in RELATIONS:
                before, found, after = text.partition(f" {phrase} ")
                if not found:
                    continue
                first, second = _parts(before)[-1:], _parts(after)
                if not first:
                    # "Before X, Y" says the same as "Y before X".
                    first, second = second[1:2], second[:1]
                left, right = ([w for part in side[:1] for w in part] for side in (first, second))
                if negations(left) % 2:
                    wins = not wins
                yield tuple(_content(left)), tuple(_content(right)), wins


_SENTENCE = re.compile(r"(?<=[.!?;])\s+|\n+")


def _parts(text: str) -> list[list[str]]:
    """The words of each part of half a sentence."""
    parts = re.split(r" [,:()—–] | and | but | while | whereas ", f" {text} ")
    return [words for p in parts if (words := [w for w in p.split() if w[0].isalnum()])]


@dataclass(frozen=True, slots=True)
class Match:
    """How a word of one text stands in another: the word there, and whether as an opposite."""

    word: str
    opposite: bool


_STEMMER = snowballstemmer.stemmer("english")
# A stemmer keeps the word that it works on.
_ONE_AT_A_TIME = threading.Lock()


@functools.lru_cache(maxsize=65536)
def stem(word: str) -> str:
    """The root of an English word (Porter 2), irregular forms by their base."""
    word = word.lower().replace("’", "'").removesuffix("'s").removesuffix("'")
    with _ONE_AT_A_TIME:
        return str(_STEMMER.stemWord(_IRREGULAR.get(word, word)))


def read(text: str) -> Reading:
    """Take a text apart."""
    marks = frozenset(MARK.findall(text))
    # A tag is a word of its own: what is said of one is not said of another.
    bare = MARK.sub(lambda m: " " if m[0][:2] == "</" else f" {_as_word(m[0])} ", text)
    raw = _TOKEN.findall(bare)
    tokens = tuple(t.lower().replace("’", "'") for t in raw if t[0].isalnum())
    return Reading(
        tokens,
        tuple(_clauses(raw)),
        frozenset(_numbers(raw)),
        frozenset(_names(raw)),
        marks,
        frozenset(_bounds(bare)),
        text,
    )


def _as_word(mark: str) -> str:
    return "mark" + re.sub(r"[^a-z0-9]", "", mark.lower())


def _clauses(raw: Sequence[str]) -> Iterator[Clause]:
    sentence = 0
    for words, ends in _stretches(raw):
        for part in _coordinated(words):
            yield _clause(part, sentence)
        sentence += ends


def _coordinated(words: list[str]) -> Iterator[list[str]]:
    """Two halves of a clause of which one or both are negated are two clauses."""
    place = 0
    while (place := place + 1) < len(words):
        word, halves = words[place], (words[:place], words[place:])
        if word not in ("and", "or") or not any(map(negations, halves)):
            continue
        if word == "or" and negations(halves[0]):
            # "Not A or B" denies both.
            continue
        opens = len(halves[1]) > 1 and halves[1][1] in _NEGATIONS
        if (
            opens
            or all(map(negations, halves))
            or all(len(tuple(_content(h))) >= 2 for h in halves)
        ):
            yield halves[0]
            words, place = halves[1], 0
    yield words


def _stretches(raw: Sequence[str]) -> Iterator[tuple[list[str], bool]]:
    """The words of each clause, and whether a sentence ends with it."""
    words: list[str] = []
    for i, token in enumerate(raw):
        low = token.lower().replace("’", "'")
        comma = token == ","
        exception = low == "but" and i > 0 and raw[i - 1].lower() in _BUT
        opens = (low in _OPENERS and not exception) or (
            low in _AFTER_COMMA and i > 0 and raw[i - 1] == ","
        )
        if token in _SPLIT or opens:
            if words:
                yield words, token in _ENDS
            words = [low] if opens else []
        elif not comma:
            words.append(low)
    if words:
        yield words, True


def _clause(words: Sequence[str], sentence: int) -> Clause:
    text = " " + " ".join(_lemma(word) for word in words) + " "
    soft = tuple(phrase for phrase in _SOFT if f" {phrase} " in text)
    excepting = any(f" {word} " in text for word in _EXCEPTING)
    roots = [_unprefixed(word) for word in words]
    # "Dislike" says more than "not like": it is never idle.
    prefixed = tuple(
        root
        for word, (root, negated) in zip(words, roots, strict=True)
        if negated and not word.startswith("dis")
    )
    count = negations(words)
    return Clause(
        words=tuple(_content(words)),
        negations=count,
        soft=soft,
        excepting=excepting,
        sentence=sentence,
        prefixed=prefixed if len(prefixed) == count else (),
        only=any(f" {word} " in text for word in _ONLY),
    )


def _content(words: Sequence[str]) -> Iterator[str]:
    for word in words:
        root, negated = _unprefixed(word)
        if word in _STOP and not negated:
            continue
        if (number := _NUMBERS.get(word)) or word[0].isdigit():
            if (number or word) not in LOOSE_NUMBERS:
                yield number or word
            continue
        yield root


@functools.lru_cache(maxsize=65536)
def _unprefixed(word: str) -> tuple[str, bool]:
    """The root of a word without a negating prefix, and whether there was one."""
    for prefix in ("un", "non", "dis", "in", "im", "ir"):
        rest = word.removeprefix(prefix)
        if rest != word and len(rest) >= 4 and stem(rest) in _vocabulary() and _negating(word):
            return stem(rest), True
    if word.endswith("less") and len(word) > 7 and word not in _NOT_LESS:
        return stem(word.removesuffix("less")), True
    return stem(word), False


_NOT_LESS = frozenset("regardless nevertheless nonetheless doubtless".split())


def _negating(word: str) -> bool:
    """Whether the prefix negates: in `include`, `under` and `discuss` it does not."""
    if word.startswith(("dis", "in", "im", "ir")):
        return word.startswith(_REVERSED)
    return not word.startswith(("under", "uni", "until", "unless", "uncle"))


_REVERSED = (
    "dislik", "displeas", "disapprov", "disagree", "disallow", "disobe", "dissatisf", "dishonest",
    "inaccurate", "incomplete", "incorrect", "invisible", "impossible",
    "impatient", "impolite", "irregular", "irrelevant", "inactive", "indirect", "informal",
    "insecure", "invalid", "inaccessible", "independent", "imperfect", "irrespective",
)  # fmt: skip


@functools.lru_cache(maxsize=1)
def negating_roots() -> frozenset[str]:
    """The roots of words that negate by what they mean: hide, ignore, exclude."""
    return frozenset(stem(word) for word in _NEGATIONS if " " not in word and word not in _STOP)


def negations(words: Sequence[str]) -> int:
    """How many negating words a clause holds."""
    text = " " + " ".join(_lemma(word) for word in words) + " "
    count = sum(_unprefixed(word)[1] for word in words)
    count += sum(word.endswith("n't") for word in words)
    for phrase in _NOT_NEGATIVE:
        text = text.replace(f" {phrase} ", " ")
    text, apart = _APART.subn(" ", text)
    count += apart + len(_STOPPING.findall(" ".join(words)))
    if count or len(_NOTED.findall(text)) > 1:
        text = text.replace(" nor ", " ")
    for phrase in _BY_LENGTH:
        while f" {phrase} " in text:
            text = text.replace(f" {phrase} ", "  ", 1)
            count += 1
    return count


# "Neither A nor B" and "not A nor B" negate once.
_NOTED = re.compile(r" (?:neither|nor|not|no|never|nobody|nothing|cannot)(?= )")
_STOPPING = re.compile(r"\b(?:stop|cease|quit)s? \w+ing\b")
_APART = re.compile(
    r" (?:keep|leave|stay|rule|shut)(?: \w+){1,5} out(?: of)?(?= )"
    r"| (?:keep|leave|stay|remain)(?: [\w']+){0,6} as (?:it|they) be(?= )"
    r"| (?:keep|stay)(?: \w+){0,4} away(?: from)?(?= )"
)
_BY_LENGTH = sorted(_NEGATIONS, key=len, reverse=True)


@functools.lru_cache(maxsize=65536)
def _lemma(word: str) -> str:
    """A word's base form where a list of phrases needs it."""
    base_form = _IRREGULAR.get(word, word)
    if base_form in _NEGATION_WORDS or base_form == "be":
        return base_form
    for suffix in ("es", "s", "ed", "d", "ing"):
        for base in (word[: -len(suffix)], word[: -len(suffix)] + "e"):
            if word.endswith(suffix) and len(base) > 3 and base in _NEGATION_WORDS:
                return base
    return word


_NEGATION_WORDS = frozenset(word for p in (*_NEGATIONS, *_SOFT, *_ONLY) for word in p.split())


def _numbers(raw: Sequence[str]) -> Iterator[str]:
    for token in raw:
        low = token.lower()
        if token[0].isdigit():
            yield token.replace(",", "") if re.fullmatch(r"\d{1,3}(,\d{3})+", token) else token
        elif low in _NUMBERS:
            yield _NUMBERS[low]


def _names(raw: Sequence[str]) -> Iterator[str]:
    """Capitalised words that do not merely open a sentence, and acronyms, in lower case."""
    opens = True
    for token in raw:
        if not token[0].isalpha():
            opens = token in ".!?:\n" or (opens and token not in ",;")
            continue
        word = token.removesuffix("'s").removesuffix("’s")
        acronym = sum(c.isupper() for c in word) >= 2
        if word != "I" and word[0].isupper() and (acronym or not opens):
            yield word.lower()
        opens = False


# A number with what bounds it from above or below.
_BOUND = re.compile(
    r"(?:\b(?P<no>not?|never|nor)\b[^.;,]{0,25}?)?\b(?:(?P<up>more than|above|over|at least|"
    r"greater than|higher than|longer than|exceed\w*|minimum of|from|or more|larger than|"
    r"upwards of|"
    r"later than|older than)|(?P<down>less than|below|under|fewer than|lower than|shorter than|"
    r"at most|up to|as many as|as much as|maximum of|within|limited to|smaller than|held to|"
    r"earlier than|younger than))"
    rf"[ \t]+(?:(?!\d)\w+[ \t]+)?(?P<number>\d[\d.,]*|{'|'.join(_NUMBERS)})\b",
    re.IGNORECASE,
)


def _bounds(text: str) -> Iterator[tuple[str, bool]]:
    """Numbers that a text bounds, and whether from below."""
    for found in _BOUND.finditer(text):
        number = _NUMBERS.get(found["number"].lower(), found["number"])
        if number[0].isdigit() and found["up"] != "from":
            yield number, bool(found["up"]) != bool(found["no"])


def match(word: str, others: Iterable[str]) -> Match | None:
    """The word among `others` that is this one, a synonym, or else an opposite of it."""
    far = None
    for other in others:
        relation = _relation(word, other)
        if relation > 0:
            return Match(other, False)
        if relation < 0 and far is None:
            far = Match(other, True)
    return far


@functools.lru_cache(maxsize=1 << 18)
def _relation(word: str, other: str) -> int:
    """1 for the same word or a synonym, -1 for an opposite, else 0."""
    lexicon = _lexicon()
    if word == other or other in lexicon.synonyms.get(word, ()) or _related(word, other):
        return 1
    if other in lexicon.antonyms.get(word, ()):
        return -1
    return -1 if _prefixed(word, other) or _prefixed(other, word) else 0


def _prefixed(one: str, other: str) -> bool:
    """Whether a root is another one with a prefix that reverses it: distrust, mislead."""
    return len(one) >= 4 and any(
        other == prefix + one for prefix in ("un", "dis", "mis", "de", "non")
    )


def opposites(word: str, others: Iterable[str]) -> list[str]:
    """The words among `others` that reverse this one."""
    return [other for other in others if _relation(word, other) < 0]


def _related(one: str, other: str) -> bool:
    """Whether two roots are forms of one word: a long common beginning."""
    shared = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        shared += 1
    return shared >= 5 and shared >= 0.6 * max(len(one), len(other))


@dataclass(frozen=True, slots=True)
class _Lexicon:
    """Root -> roots that may stand for it, and roots that reverse it."""

    synonyms: Mapping[str, frozenset[str]]
    antonyms: Mapping[str, frozenset[str]]


@functools.lru_cache(maxsize=1)
def _lexicon() -> _Lexicon:
    synonyms: dict[str, set[str]] = {}
    antonyms: dict[str, set[str]] = {}
    for line in _lines("synonyms.txt"):
        # What stands before the colon is the part of speech.
        phrases = line.partition(":")[2].split(",")
        roots = {root for phrase in phrases for root in _roots(phrase)}
        for root in roots:
            synonyms.setdefault(root, set()).update(roots - {root})
    for line in _lines("antonyms.txt"):
        left, _, right = line.partition(" | ")
        sides = [[root for p in side.split(",") for root in _roots(p)] for side in (left, right)]
        for one, other in (sides, reversed(sides)):
            for root in one:
                antonyms.setdefault(root, set()).update(r for r in other if r != root)
    return _Lexicon(
        {root: frozenset(near) for root, near in synonyms.items()},
        {
            # What stands for an opposite is one too: of "lower", "rise" as well as "raise".
            root: frozenset(far.union(*(synonyms.get(f, ()) for f in far)))
            - synonyms.get(root, set())
            - {root}
            for root, far in antonyms.items()
        },
    )


def _roots(phrase: str) -> list[str]:
    """The roots of a phrase's content words: a phrase of one such word stands for it."""
    roots = list(_content(phrase.lower().split()))
    return roots if len(roots) == 1 else []


@functools.lru_cache(maxsize=1)
def _vocabulary() -> frozenset[str]:
    words = set()
    for name in ("synonyms.txt", "antonyms.txt"):
        for line in _lines(name):
            words |= {stem(word) for word in re.findall(r"[a-z]+", line.partition(":")[2] or line)}
    for line in _lines("filler.md"):
        words |= {stem(word) for word in re.findall(r"[a-z]+", line)}
    return frozenset(words)


def _lines(name: str) -> list[str]:
    text = (files("variants") / "lexicon" / name).read_text("utf-8")
    return [line for line in text.split("\n") if line and not line.startswith("#")]
