"""Removals: how a text is cut without a scar.

Takes a text from which stretches have been cut, with the place and content of each cut; gives the
mended text and the record of every mend. A mend repairs only what a cut has made: what was odd
before stays. Does not know factors, conditions, or what the text is about.
"""

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from variants.sentences import MARKER

__all__ = ["Mend", "mend", "replay"]

_SPACE = " \t\r\n"
_OPENS = ("(", "[", "“", "‘")
_ITEM = re.compile(rf"[ \t]*(?:{MARKER})(?=[ \t])")
_ORPHAN = re.compile(rf"[ \t]*(?:{MARKER}|#{{1,6}})[ \t]*[.,;:]?")
_BLANK = re.compile(r"\n[ \t\r]*\n")
_NUMBERED = re.compile(r"^([ \t]*\(?)([0-9]{1,3}|[a-z])([.)])(?=[ \t]|$)", re.MULTILINE)
_HEADING = re.compile(r"(#{1,6})[ \t]+\S|\*\*[^*\n]+\*\*:?[ \t]*$")
_OPENING = re.compile(r"<([A-Za-z][\w-]*)(?:[ \t][^<>\n]*)?>[ \t]*\Z")
_SIGN = re.compile(r"[.,;:!?)](?=\s|\Z)")
_ENDED = re.compile(r"[.!?:…][\"'”’)\]]*\Z")
_AND = re.compile(r",?[ \t]+(?:and|or|but|nor|because|while|with|that|which|so|as well as)\Z")
_ARTICLE = re.compile(r"(?<!\w)([Aa])(n?)\Z")
# Words that begin with a vowel's letter and not its sound, and the other way round.
_NOT_A_VOWEL = re.compile(r"(?:uni(?![dmn])|us[aeu]|util|one\b|once|eu)", re.IGNORECASE)
_SILENT = re.compile(r"(?:hour|honest|honou?r|heir)", re.IGNORECASE)
# Letters that are read one by one, the first of them with a vowel before it.
_SPELLED = re.compile(r"[AEFHILMNORSX][A-Z]+\b")
_POINTING = r"as (?:mentioned|noted|said|described|stated|explained)(?: above| before| earlier)?"
_CONNECTIVE = re.compile(
    r"(?:also\b,?|(?:however|moreover|furthermore|besides|therefore|thus|hence|consequently|"
    r"nevertheless|nonetheless|instead|likewise|similarly|in addition|additionally|as a result|"
    r"for (?:this|that|these|those) reasons?|on the other hand|that said|even so|in that case|"
    rf"in turn|then|accordingly|finally|{_POINTING}),)[ \t]+(?=\w)",
    re.IGNORECASE,
)
_ALSO = re.compile(r"[^.!?\n]{0,80}?(?P<word>(?<!but)[ \t]also\b)(?=[ \t])")
_AS_SAID = re.compile(rf"[^.!?\n]{{0,200}}?(?P<word>,?[ \t]{_POINTING}\b(?:,(?=[ \t]))?)", re.I)


@dataclass(frozen=True, slots=True)
class Mend:
    """One repair: at `offset` of the text as it then stood, `before` became `after`."""

    kind: str
    offset: int
    before: str
    after: str


def mend(
    text: str, cuts: Iterable[tuple[int, str]], slot: str = "\0"
) -> tuple[str, tuple[Mend, ...]]:
    """Mend the seams of a text: `cuts` holds offset and cut text of each, in order.

    `slot` stands in the text for what is inserted last; nothing in it is touched. Mends are in
    the order in which they were made: `replay` makes them again.
    """
    work = _Work(text, cuts, slot)
    for seam in range(len(work.offsets)):
        work.close(seam)
    for seam in reversed(range(len(work.offsets))):
        work.renumber(seam)
    for seam in reversed(range(len(work.offsets))):
        work.drop_empty(seam)
    return work.text, tuple(work.mends)


def replay(text: str, mends: Iterable[Mend]) -> str:
    """Make recorded mends again on the text with its bare cuts."""
    for m in mends:
        text = text[: m.offset] + m.after + text[m.offset + len(m.before) :]
    return text


class _Work:
    """A text under repair; `offsets` are the places of its seams, whatever was mended before."""

    def __init__(self, text: str, cuts: Iterable[tuple[int, str]], slot: str) -> None:
        self.text, self.slot = text, slot
        self.mends: list[Mend] = []
        self.offsets: list[int] = []
        self.cuts: list[str] = []
        for offset, cut in cuts:
            if not cut.strip():
                continue
            if self.offsets and self.offsets[-1] == offset:
                self.cuts[-1] += cut
            else:
                self.offsets.append(offset)
                self.cuts.append(cut)

    def close(self, seam: int) -> None:
        """Everything that can be seen at the seam itself."""
        if self._joins_next(seam):
            return
        cut, offset = self.cuts[seam], self.offsets[seam]
        before = self.text[self._spaces(offset)[0] : offset]
        start = self.text.rfind("\n", 0, offset) + 1
        glued = self.text[offset : offset + 1].strip() != ""
        left, right = self._join_space(seam)
        if not self.text[start:offset].strip():
            # The indentation of what was cut.
            self.cuts[seam] = before[before.rfind("\n") + 1 :] + cut
        if self._orphan(seam, left):
            return
        if not self.text.startswith(self.slot, right):
            if not _BLANK.search(before):
                left, right = self._punctuation(cut, left, right, glued)
            self._opening_words(cut, left, right)

    def _joins_next(self, seam: int) -> bool:
        """Whether only white space lies before the next seam: they are closed as one cut."""
        if seam + 1 == len(self.offsets):
            return False
        start, end = self.offsets[seam : seam + 2]
        between = self.text[start:end]
        if between.strip(_SPACE):
            return False
        self.cuts[seam + 1] = self.cuts[seam] + between + self.cuts[seam + 1]
        self.cuts[seam] = ""
        self._edit("white space", start, end, "")
        return True

    def _edit(self, kind: str, start: int, end: int, after: str) -> None:
        before = self.text[start:end]
        if before == after:
            return
        self.text = self.text[:start] + after + self.text[end:]
        self.mends.append(Mend(kind, start, before, after))
        first = bisect_left(self.offsets, start + 1)
        for i in range(first, len(self.offsets)):
            offset = self.offsets[i]
            self.offsets[i] = offset + len(after) - len(before) if offset >= end else start

    def _spaces(self, offset: int) -> tuple[int, int]:
        """The run of white space around an offset."""
        left = right = offset
        while left > 0 and self.text[left - 1] in _SPACE:
            left -= 1
        while right < len(self.text) and self.text[right] in _SPACE:
            right += 1
        return left, right

    def _join_space(self, seam: int) -> tuple[int, int]:
        """One run of white space where the cut left two, or none between two words."""
        offset, cut = self.offsets[seam], self.cuts[seam]
        left, right = self._spaces(offset)
        before, after = self.text[left:offset], self.text[offset:right]
        if not before and not after and left > 0 and right < len(self.text):
            joined = self._separator(cut, left)
        elif not before and self.text[left - 1 : left] in _OPENS and "\n" not in after:
            joined = ""
        else:
            # What the cut held at its ends kept its neighbours apart too.
            head = cut[: len(cut) - len(cut.lstrip(_SPACE))]
            tail = cut[len(cut.rstrip(_SPACE)) :]
            outer = left == 0 or right == len(self.text)
            joined = self._gap(left, right, before + head * (not outer), tail * (not outer) + after)
        self._edit("white space", left, right, joined)
        self.offsets[seam] = left + len(joined)
        return left, left + len(joined)

    def _gap(self, left: int, right: int, before: str, after: str) -> str:
        """One run of white space for two that stood before and after what is gone."""
        if left == 0:
            return before
        if right == len(self.text):
            return after
        if self.text.startswith("</", right) and "\n" in after:
            return after
        start = self.text.rfind("\n", 0, left) + 1
        if "\n" in before and _OPENING.match(self.text, start, left):
            return before[: before.rfind("\n") + 1] + after[after.rfind("\n") + 1 :]
        if after.count("\n") > before.count("\n"):
            return after
        if "\n" in after:
            return before[: before.rfind("\n") + 1] + after[after.rfind("\n") + 1 :]
        return before or after

    def _separator(self, cut: str, offset: int) -> str:
        """What the cut held at its ends to keep its neighbours apart."""
        head = cut[: len(cut) - len(cut.lstrip(_SPACE))]
        tail = cut[len(cut.rstrip(_SPACE)) :]
        kept = max(head, tail, key=lambda run: (run.count("\n"), len(run)))
        if "\n" not in kept and (
            self.text[offset] in ".,;:!?)]”" or self.text[offset - 1] in _OPENS
        ):
            return ""
        return kept

    def _orphan(self, seam: int, left: int) -> bool:
        """Take away a list marker or heading mark with nothing behind it."""
        start = self.text.rfind("\n", 0, left) + 1
        end = self.text.find("\n", start)
        end = len(self.text) if end < 0 else end
        end -= self.text.endswith("\r", start, end)
        if not start <= left <= end or not _ORPHAN.fullmatch(self.text, start, end):
            return False
        self.cuts[seam] = self.text[start:end] + " " + self.cuts[seam]
        self._drop_lines("bullet", start, end)
        return True

    def _drop_lines(self, kind: str, start: int, end: int) -> None:
        """Take whole lines away, with the blank lines that they had around them but for one gap."""
        left, right = self._spaces(start)[0], self._spaces(end)[1]
        joined = self._gap(left, right, self.text[left:start], self.text[end:right])
        self._edit(kind, left, right, joined)

    def _punctuation(self, cut: str, left: int, right: int, glued: bool) -> tuple[int, int]:
        """Signs that lost the words between them; gives the borders of the white space left."""
        text = self.text
        if glued and "\n" in text[left:right] and _SIGN.match(text, right):
            self._edit("punctuation", left, right, "")
            text, right = self.text, left
        last = text[left - 1 : left]
        broken = "\n" in text[left:right] or right == len(text)
        following = "" if broken else text[right]
        if last == "(" and following == ")":
            left = self._without_spaces(left - 1)
            self._edit("punctuation", left, right + 1, "")
            return left, left
        if broken and not self._ended(cut, left, right):
            # The sentence goes on in the next line.
            return left, right
        if following in ".;:!?)" and (words := _AND.search(text, max(0, left - 20), left)):
            self._edit("punctuation", words.start(), left if broken else right, "")
            right = words.start() + (right - left if broken else 0)
            left = words.start()
            last = self.text[left - 1 : left]
        if broken:
            if last == ",":
                self._edit("punctuation", left - 1, left, ".")
            return left, right
        if following in ",;:" and last == ":":
            self._edit("punctuation", left, right + 1, "")
            return left, self._spaces(left)[1]
        if (following in ",;:" and last in ",;:") or (following in ".!?" and last in ",;:"):
            self._edit("punctuation", left - 1, right, "")
            return left - 1, left - 1
        if following in ".,;:" and (not last or last in ".!?("):
            end = self._spaces(right + 1)[1]
            end = right + 1 if "\n" in self.text[right + 1 : end] else end
            self._edit("punctuation", right, end, "")
        elif following in ".,;:!?)" and right > left:
            self._edit("punctuation", left, right, "")
            right = left
        return left, right

    def _ended(self, cut: str, left: int, right: int) -> bool:
        """Whether a sentence that began before the cut ended in it."""
        gap = self.text[left:right]
        return (
            right == len(self.text)
            or _BLANK.search(gap) is not None
            or _ENDED.search(cut.rstrip()) is not None
        )

    def _without_spaces(self, offset: int) -> int:
        """The end of what stands before an offset in its line."""
        start = offset
        while start > 0 and self.text[start - 1] in " \t":
            start -= 1
        return start if self.text[start - 1 : start] not in ("", "\n") else offset

    def _opening_words(self, cut: str, left: int, right: int) -> None:
        """Connectives, capitals and articles of what now follows."""
        marker = _ITEM.match(self.text, right)
        first = marker.end() + 1 if marker else right
        opens = marker is not None or self._opens_sentence(left, right)
        whole = cut.rstrip()[-1:] in ".!?:>…)" or "\n" in cut
        if opens and whole:
            if found := _CONNECTIVE.match(self.text, first):
                self._edit("connective", first, found.end(), "")
                self._capital(first)
            else:
                tail = cut[len(cut.rstrip()) :]
                together = not _BLANK.search(self.text[left:right]) and not _BLANK.search(tail)
                for pattern in (_ALSO, _AS_SAID) if together else ():
                    if found := pattern.match(self.text, first):
                        self._edit("connective", found.start("word"), found.end("word"), "")
        letters = cut.lstrip(_SPACE + "-*•\"'(“‘")
        if opens and letters[:1].isupper() and not _NUMBERED.match(cut.lstrip()):
            self._capital(first)
        if "\n" not in self.text[left:right]:
            self._article(left, right)

    def _opens_sentence(self, left: int, right: int) -> bool:
        if left == 0 or "\n" in self.text[left:right]:
            return True
        start = self.text.rfind("\n", 0, left) + 1
        return bool(_ENDED.search(self.text, max(start, left - 4), left)) or bool(
            _ORPHAN.fullmatch(self.text, start, left)
        )

    def _capital(self, offset: int) -> None:
        letter = self.text[offset : offset + 1]
        capital = letter.upper()
        # Of a few signs the capital is that of another letter, or two letters.
        if letter.islower() and capital.lower() == letter:
            self._edit("capital", offset, offset + 1, capital)

    def _article(self, left: int, right: int) -> None:
        found = _ARTICLE.search(self.text, max(0, left - 3), left)
        if not found or right == left or not self.text[right : right + 1].isalpha():
            return
        if found[1] == "A" and not self._opens_sentence(
            self._spaces(found.start())[0], found.start()
        ):
            # A name or a grade, not an article.
            return
        vowel = self.text[right].lower() in "aeiou"
        if _NOT_A_VOWEL.match(self.text, right):
            vowel = False
        if _SILENT.match(self.text, right) or _SPELLED.match(self.text, right):
            vowel = True
        self._edit("article", found.start(2), left, "n" if vowel else "")

    def renumber(self, seam: int) -> None:
        """Count the items after a cut on from those before it, where they did so with the cut."""
        gone: dict[tuple[int, str, bool], list[int]] = {}
        for m in _NUMBERED.finditer(self.cuts[seam]):
            gone.setdefault(_kind(m), []).append(_ordinal(m[2]))
        for kind, numbers in gone.items():
            after = list(self._items(self.offsets[seam], kind, up=False))
            if not after or _ordinal(after[0][2]) != numbers[-1] + 1:
                continue
            first = len(numbers) - 1
            while first > 0 and numbers[first - 1] == numbers[first] - 1:
                first -= 1
            before = next(self._items(self.offsets[seam], kind, up=True), None)
            if before and _ordinal(before[2]) != numbers[first] - 1:
                continue
            for m in reversed(after):
                wanted = _numeral(_ordinal(m[2]) - len(numbers) + first, m[2])
                self._edit("numbering", m.start(2), m.end(2), wanted)

    def _items(
        self, offset: int, kind: tuple[int, str, bool], *, up: bool
    ) -> Iterator[re.Match[str]]:
        """The items of one list, from a seam on to its border, which is a line of less depth."""
        text = self.text
        place = text.rfind("\n", 0, offset) + 1
        shared = text[place:offset].strip() != ""
        if shared != up:
            place = self._next_line(place, up=up)
        while 0 <= place < len(text):
            found = _NUMBERED.match(text, place)
            if found and _kind(found) == kind:
                yield found
            else:
                end = text.find("\n", place)
                line = text[place : len(text) if end < 0 else end].rstrip()
                if line and len(line) - len(line.lstrip(" \t")) <= kind[0]:
                    return
            place = self._next_line(place, up=up)

    def _next_line(self, start: int, *, up: bool) -> int:
        """Where the next line begins, or the one before; outside the text where there is none."""
        if up:
            return self.text.rfind("\n", 0, start - 1) + 1 if start > 0 else -1
        end = self.text.find("\n", start)
        return len(self.text) if end < 0 else end + 1

    def drop_empty(self, seam: int) -> None:
        """Take away headings, lead-ins and pairs of tags that the cut left without content."""
        # A heading held only deeper ones: the next above it must be of less depth.
        deepest: int | None = 8
        while deepest is not None:
            deepest = self._drop_one(seam, deepest)

    def _drop_one(self, seam: int, deepest: int) -> int | None:
        """Take one away; gives its depth, None where there is none."""
        offset = min(self.offsets[seam], len(self.text))
        if not self.cuts[seam]:
            return None
        left, right = self._spaces(offset)
        if left == 0:
            return None
        start = self.text.rfind("\n", 0, left) + 1
        line = self.text[start:left]
        end = self.text.find("\n", right)
        following = self.text[right : len(self.text) if end < 0 else end].rstrip("\r")
        if opening := _OPENING.search(line):
            return deepest if self._drop_tags(start, opening, right, following) else None
        if self.slot in line or ("\n" not in self.text[left:right] and following):
            return None
        depth = _depth(line)
        if depth >= deepest or not self._is_empty(
            line, following, self.text[left:right], self.cuts[seam]
        ):
            return None
        self._drop_lines("heading", start, left)
        return depth

    def _drop_tags(self, start: int, opening: re.Match[str], right: int, following: str) -> bool:
        """Take away an opening tag in the line at `start` with the closing one right behind it."""
        closing = f"</{opening[1]}>"
        if not following.startswith(closing):
            return False
        first, last = start + opening.start(), right + len(closing)
        if opening.start() == 0 and following.strip() == closing:
            self._drop_lines("tags", first, last)
        else:
            if self.text[last : last + 1] in " \t.,;:!?)\r\n":
                first = self._without_spaces(first)
            self._edit("tags", first, last, "")
        return True

    @staticmethod
    def _is_empty(line: str, following: str, gap: str, cut: str) -> bool:
        """Whether a line announces something that is not there any more."""
        after = _HEADING.match(following)
        if _HEADING.match(line):
            beside = after is not None and _depth(following) <= _depth(line)
            return not following or following.startswith("</") or beside
        if not line.rstrip().endswith(":") or _ITEM.match(following):
            return False
        listed = any(_ITEM.match(part) for part in cut.split("\n"))
        return not following or after is not None or "\n\n" in gap.replace("\r", "") or listed


def _depth(line: str) -> int:
    """How deep a heading stands; a bold line and a lead-in stand below all others."""
    heading = _HEADING.match(line)
    return len(heading[1]) if heading and heading[1] else 7


def _kind(item: re.Match[str]) -> tuple[int, str, bool]:
    """What the numbers of one list have in common: indentation, sign, digits or letters."""
    return len(item[1]), item[3], item[2].isdigit()


def _ordinal(number: str) -> int:
    return int(number) if number.isdigit() else ord(number) - ord("a") + 1


def _numeral(value: int, like: str) -> str:
    return str(value) if like.isdigit() or value > 26 else chr(ord("a") + value - 1)
