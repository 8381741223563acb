"""Fractions and Plackett-Burman designs against textbook tables and brute force."""

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from variants.fractions import (
    Fraction,
    FractionError,
    fraction,
    partial_aliases,
    plackett_burman,
    plackett_burman_runs,
)

LETTERS = "ABCDEFGHJKLMNOP"

# Generators of Montgomery, Design and Analysis of Experiments, table 8.14 (after Box, Hunter &
# Hunter): (factors, basic) -> what the added factors are equal to, in the order of the letters.
MONTGOMERY = {
    (3, 2): "AB",
    (4, 3): "ABC",
    (5, 4): "ABCD",
    (5, 3): "AB AC",
    (6, 5): "ABCDE",
    (6, 4): "ABC BCD",
    (6, 3): "AB AC BC",
    (7, 6): "ABCDEF",
    (7, 5): "ABCD ABDE",
    (7, 4): "ABC BCD ACD",
    (7, 3): "AB AC BC ABC",
    (8, 6): "ABCD ABEF",
    (8, 5): "ABC ABD BCDE",
    (8, 4): "BCD ACD ABC ABD",
    (9, 7): "ACDFG BCEFG",
    (9, 6): "ABCD ACEF CDEF",
    (9, 5): "BCDE ACDE ABDE ABCE",
    (9, 4): "ABC BCD ACD ABD ABCD",
    (10, 7): "ABCG BCDE ACDF",
    (10, 6): "BCDF ACDF ABDE ABCE",
    (10, 5): "ABCD ABCE ABDE ACDE BCDE",
    (10, 4): "ABC BCD ACD ABD ABCD AB",
    (11, 7): "ABCG BCDE ACDF ABCDEFG",
    (11, 6): "CDE ABCD ABF BDEF ADEF",
    (11, 5): "ABC BCD CDE ACD ADE BDE",
    (11, 4): "ABC BCD ACD ABD ABCD AB AC",
    (12, 4): "ABC ABD ACD BCD ABCD AB AC AD",
    (13, 4): "ABC ABD ACD BCD ABCD AB AC AD BC",
    (14, 4): "ABC ABD ACD BCD ABCD AB AC AD BC BD",
    (15, 4): "ABC ABD ACD BCD ABCD AB AC AD BC BD CD",
}

# Words and alias groups of the textbooks for those generators, signs left out.
TEXTBOOK = {
    (4, 3): ("ABCD", "AB=CD AC=BD AD=BC"),
    (5, 3): ("ABD ACE BCDE", "A=BD=CE B=AD C=AE D=AB E=AC BC=DE BE=CD"),
    (6, 4): (
        "ABCE BCDF ADEF",
        "AB=CE AC=BE AD=EF AE=BC=DF AF=DE BD=CF BF=CD",
    ),
    (7, 3): (
        "ABD ACE BCF DEF AFG BEG CDG BCDE ACDF ABEF ABCG BDFG CEFG ADEG ABCDEFG",
        "A=BD=CE=FG B=AD=CF=EG C=AE=BF=DG D=AB=CG=EF E=AC=BG=DF F=BC=AG=DE G=CD=BE=AF",
    ),
    (8, 4): (
        "BCDE ACDF ABCG ABDH ABEF ADEG ACEH BDFG BCFH CDGH CEFG DEFH BEGH AFGH ABCDEFGH",
        "AB=CG=DH=EF AC=BG=DF=EH AD=BH=CF=EG AE=BF=CH=DG AF=CD=BE=GH AG=BC=DE=FH AH=BD=CE=FG",
    ),
}

# A4 of the minimum aberration designs: Chen, Sun & Wu (1993), International Statistical Review 61;
# in 64 runs Block & Mee (2005) as well. Fewer factors: see Montgomery's.
CHEN_SUN_WU_A4 = {
    32: {6: 0, 7: 1, 8: 3, 9: 6, 10: 10, 11: 25, 12: 38, 13: 55, 14: 77, 15: 105, 16: 140},
    64: {9: 1, 10: 2, 11: 4, 12: 6, 13: 14, 14: 22, 15: 30, 16: 43, 17: 59, 18: 78, 19: 100},
}

# First rows of Plackett & Burman (1946), table of designs.
PLACKETT_BURMAN_ROWS = {
    8: "+++-+--",
    12: "++-+++---+-",
    20: "++--++++-+-+----++-",
    24: "+++++-+-++--++--+-+----",
}


def factors_of(word: str) -> frozenset[int]:
    """Factor indices of an effect in letters."""
    return frozenset(LETTERS.index(letter) for letter in word)


def textbook(factors: int, basic: int) -> Fraction:
    """Montgomery's fraction with his letters."""
    generators = MONTGOMERY[factors, basic].split()
    return Fraction(factors, basic, tuple(tuple(sorted(factors_of(g))) for g in generators))


def words_of(factors: int, basic: int) -> Iterable[frozenset[int]]:
    """Words of Montgomery's fraction: products of every choice of generators, by hand."""
    generators = MONTGOMERY[factors, basic].split()
    single = [factors_of(g + LETTERS[basic + i]) for i, g in enumerate(generators)]
    for size in range(1, len(single) + 1):
        for chosen in itertools.combinations(single, size):
            odd = Counter(factor for word in chosen for factor in word)
            yield frozenset(factor for factor, times in odd.items() if times % 2)


def product(runs: NDArray[np.signedinteger], effect: Iterable[int]) -> NDArray[np.float64]:
    """Column of an effect: the product of its factors, -1 at the reference and 1 otherwise."""
    column = np.ones(len(runs))
    for factor in effect:
        column *= np.where(runs[:, factor] == 0, -1, 1)
    return column


def counted_aliases(runs: NDArray[np.int8], order: int) -> set[frozenset[frozenset[int]]]:
    """Effects whose columns are equal up to sign, in groups of two or more."""
    groups = defaultdict(set)
    for size in range(order + 1):
        for effect in itertools.combinations(range(runs.shape[1]), size):
            column = product(runs, effect)
            groups[tuple(column * column[0])].add(frozenset(effect))
    return {frozenset(group) for group in groups.values() if len(group) > 1}


def better_exists(factors: int, basic: int, lengths: dict[int, int]) -> bool:
    """Whether some fraction has less aberration: every set of generators, as words in bits.

    Sets are left where their words so far are no fewer. One generator is the heaviest and, by the
    order of the basic factors, the product of the first ones.
    """
    target = [lengths.get(length, 0) for length in range(factors + 1)]
    added = factors - basic

    def left(words: NDArray[np.int64], candidates: list[int], done: int) -> bool:
        for at, candidate in enumerate(candidates):
            if len(candidates) - at < added - done:
                return False
            new = np.concatenate([words, words ^ (candidate | 1 << (basic + done))])
            pattern = np.bincount(np.bitwise_count(new), minlength=factors + 1).tolist()
            if pattern[1:] < target[1:] and (
                done + 1 == added or left(new, candidates[at + 1 :], done + 1)
            ):
                return True
        return False

    for weight in range(2, basic + 1):
        first = (1 << weight) - 1
        start = np.array([0, first | 1 << basic])
        pattern = np.bincount(np.bitwise_count(start), minlength=factors + 1).tolist()
        others = [c for c in range(3, 1 << basic) if 2 <= c.bit_count() <= weight and c != first]
        if pattern[1:] < target[1:] and (added == 1 or left(start, others, 1)):
            return True
    return False


def test_montgomerys_fractions_are_as_printed() -> None:
    """The words of the textbook's generators, multiplied out by hand, are the declared ones."""
    for factors, basic in MONTGOMERY:
        found = textbook(factors, basic)
        words = list(words_of(factors, basic))
        assert Counter(found.defining_words) == Counter(words)
        assert found.word_lengths == Counter(map(len, words))
        assert found.resolution == min(map(len, words))


@pytest.mark.parametrize(("factors", "basic"), MONTGOMERY)
def test_chosen_fractions_are_as_good_as_montgomerys(factors: int, basic: int) -> None:
    """The chosen generators have the word-length pattern of the textbook's."""
    expected = Counter(len(word) for word in words_of(factors, basic))
    assert fraction(factors, runs=2**basic).word_lengths == expected


@pytest.mark.parametrize(("factors", "basic"), TEXTBOOK)
def test_alias_tables_are_the_textbooks(factors: int, basic: int) -> None:
    """With the textbook's generators and letters, words and alias groups are those it prints."""
    words, groups = TEXTBOOK[factors, basic]
    found = textbook(factors, basic)
    assert set(found.defining_words) == set(map(factors_of, words.split()))
    printed = {frozenset(map(factors_of, group.split("="))) for group in groups.split()}
    assert set(map(frozenset, found.aliases())) == printed


@pytest.mark.parametrize(("factors", "basic"), TEXTBOOK)
def test_chosen_fractions_are_the_textbooks_relabelled(factors: int, basic: int) -> None:
    """Some order of the letters turns the words of the chosen fraction into the textbook's."""
    printed = set(map(factors_of, TEXTBOOK[factors, basic][0].split()))
    words = fraction(factors, runs=2**basic).defining_words
    assert any(
        {frozenset(order[factor] for factor in word) for word in words} == printed
        for order in itertools.permutations(range(factors))
    )


def test_patterns_are_the_textbooks() -> None:
    """Word-length patterns of the five reference fractions are those that books print."""
    assert fraction(4, resolution=4).word_lengths == {4: 1}
    assert fraction(5, runs=8).word_lengths == {3: 2, 4: 1}
    assert fraction(6, runs=16).word_lengths == {4: 3}
    assert fraction(7, runs=8).word_lengths == {3: 7, 4: 7, 7: 1}
    eight = fraction(8, runs=16)
    assert eight.word_lengths == {4: 14, 8: 1}
    assert [len(group) for group in eight.aliases()] == [4] * 7
    assert all(len(effect) == 2 for group in eight.aliases() for effect in group)


@pytest.mark.parametrize("runs", CHEN_SUN_WU_A4)
def test_words_of_four_are_chen_sun_and_wus(runs: int) -> None:
    """Resolution is IV or more and there are as many words of length 4 as the catalogue has."""
    for factors, words in CHEN_SUN_WU_A4[runs].items():
        lengths = fraction(factors, runs=runs).word_lengths
        assert (lengths.get(3, 0), lengths.get(4, 0)) == (0, words)


def test_no_fraction_has_less_aberration() -> None:
    """An exhaustive search up to 11 factors in 128 runs finds none that is better."""
    for basic in range(2, 8):
        for factors in range(basic + 1, min(12, 1 << basic)):
            found = fraction(factors, runs=1 << basic)
            assert not better_exists(factors, basic, found.word_lengths), (factors, basic)
    assert better_exists(8, 4, Fraction(8, 4, ((0, 1), (0, 2), (0, 3), (1, 2))).word_lengths)


@pytest.mark.parametrize(
    ("resolution", "most"),
    [
        (3, {4: 3, 8: 7, 16: 15, 32: 31}),
        (4, {8: 4, 16: 8, 32: 16}),
        (5, {16: 5, 32: 6, 64: 8, 128: 11, 256: 17}),
        (6, {32: 6, 64: 7, 128: 9, 256: 12, 512: 18}),
    ],
)
def test_resolutions_go_as_far_as_codes_allow(resolution: int, most: dict[int, int]) -> None:
    """The most factors of each resolution are the lengths of the best linear codes (Brouwer)."""
    for runs, factors in most.items():
        found = fraction(factors, resolution=resolution)
        assert found.size == runs
        with pytest.raises(FractionError, match="raise runs to"):
            fraction(factors + 1, resolution=resolution, runs=runs)


def test_standard_order() -> None:
    """Runs are in Yates's order, and added factors are sums modulo 2."""
    expected = ["0000", "1001", "0101", "1100", "0011", "1010", "0110", "1111"]
    runs = Fraction(4, 3, ((0, 1, 2),)).runs
    assert ["".join(map(str, row)) for row in runs] == expected
    assert runs.dtype == np.int8


def test_signs_of_aliases() -> None:
    """A main effect estimates itself less the interaction on a word of odd length, plus on even."""
    odd, even = Fraction(3, 2, ((0, 1),)), Fraction(4, 3, ((0, 1, 2),))
    assert odd.correlation({2}, {0, 1}) == -1
    assert odd.correlation({0, 1, 2}, ()) == -1
    assert even.correlation({0, 1}, {2, 3}) == even.correlation({3}, {0, 1, 2}) == 1
    assert even.correlation({0}, {1, 2}) == 0
    # A response of an interaction alone: the contrast of D, level minus reference, is minus it.
    response = product(odd.runs, (0, 1))
    level = odd.runs[:, 2] == 1
    assert response[level].mean() - response[~level].mean() == -2


@st.composite
def sizes(draw: st.DrawFn) -> tuple[int, int]:
    """Factors and runs of a fraction or a full factorial."""
    factors = draw(st.integers(1, 14))
    return factors, 1 << draw(st.integers(factors.bit_length(), min(factors, 7)))


@settings(deadline=None, max_examples=60)
@given(sizes())
def test_fractions_are_what_they_declare(size: tuple[int, int]) -> None:
    """Orthogonal, with the reference first; counted aliases, signs and words are the declared."""
    factors, count = size
    found = fraction(factors, runs=count)
    runs = found.runs
    assert runs.shape == (count, factors)
    assert found.size == count
    assert set(np.unique(runs)) == {0, 1}
    assert not runs[0].any()
    X = 2 * runs.astype(int) - 1
    assert np.array_equal(X.T @ X, count * np.eye(factors))
    assert not X.sum(axis=0).any()
    declared = found.aliases(3 if factors <= 8 else 2)
    assert set(map(frozenset, declared)) == counted_aliases(runs, 3 if factors <= 8 else 2)
    for first, *others in declared:
        for other in others:
            both = product(runs, first) * product(runs, other)
            assert set(both) == {found.correlation(first, other)}
    if not found.generators:
        assert (found.resolution, found.defining_words) == (None, ())
        return
    words = found.defining_words
    assert len(set(words)) == 2 ** len(found.generators) - 1
    assert all(len(set(product(runs, word))) == 1 for word in words)
    assert Counter(map(len, words)) == found.word_lengths
    assert found.resolution == len(words[0]) == min(map(len, words))
    assert found == fraction(factors, resolution=found.resolution, runs=count)


@settings(deadline=None, max_examples=40)
@given(st.integers(3, 11), st.data())
def test_the_smallest_fraction_of_a_resolution(factors: int, data: st.DataObject) -> None:
    """It has at least the resolution, and the fraction in half as many runs has not."""
    resolution = data.draw(st.integers(3, factors))
    found = fraction(factors, resolution=resolution)
    assert found.resolution is not None
    assert found.resolution >= resolution
    if found.size // 2 > factors:
        half = fraction(factors, runs=found.size // 2).resolution
        assert half is not None
        assert half < resolution


@pytest.mark.parametrize(
    ("factors", "options", "message"),
    [
        (0, {"runs": 4}, "raise factors to 1"),
        (33, {"resolution": 4}, "lower factors to 32"),
        (5, {}, "give resolution or runs"),
        (5, {"resolution": 2}, "raise resolution to 3"),
        (5, {"resolution": 6}, "lower resolution to 5 or ask for runs=32"),
        (2, {"resolution": 3}, "ask for runs=4"),
        (20, {"resolution": 8}, "lower resolution to 7"),
        (5, {"runs": 12}, "change runs to 8 or 16"),
        (5, {"runs": 0}, "raise runs to 8$"),
        (8, {"runs": 8}, "raise runs to 16 or lower factors to 7"),
        (5, {"runs": 64}, "lower runs to 32"),
        (16, {"runs": 8192}, "lower runs to 2048"),
        (8, {"runs": 16, "resolution": 5}, "lower resolution to 4 or raise runs to 64"),
    ],
)
def test_refusals_say_what_to_change(factors: int, options: dict[str, int], message: str) -> None:
    """What does not exist is refused with the number to change and what to change it to."""
    with pytest.raises(FractionError, match=message):
        fraction(factors, **options)


@pytest.mark.parametrize(
    ("generators", "message"),
    [
        (((0, 1),), "need 2 generators, not 1"),
        (((0, 1), (1, 0)), "change one of them"),
        (((0, 1), (0, 3)), "from 0 to 2"),
        (((0, 1), (2,)), "two or more"),
        (((0, 1), (2, 2)), "different"),
    ],
)
def test_impossible_generators(generators: tuple[tuple[int, ...], ...], message: str) -> None:
    """Generators that do not make five factors out of three are refused."""
    with pytest.raises(FractionError, match=message):
        Fraction(5, 3, generators)


@pytest.mark.parametrize("runs", [*range(4, 52, 4), 60, 64, 76])
def test_plackett_burman_is_orthogonal(runs: int) -> None:
    """X'X = N I, columns are balanced, and the first run has every factor at its reference."""
    levels = plackett_burman(runs)
    assert levels.shape == (runs, runs - 1)
    assert set(np.unique(levels)) == {0, 1}
    X = np.where(levels == 1, 1, -1)
    assert np.array_equal(X.T @ X, runs * np.eye(runs - 1))
    assert not X.sum(axis=0).any()
    assert not levels[0].any()


@pytest.mark.parametrize("runs", [12, 20, 24])
def test_plackett_burman_is_the_printed_one(runs: int) -> None:
    """Runs are the printed row, moved round, and the run of all minus signs."""
    row = [int(sign == "+") for sign in PLACKETT_BURMAN_ROWS[runs]]
    printed = {tuple(row[at:] + row[:at]) for at in range(runs - 1)} | {(0,) * (runs - 1)}
    assert set(map(tuple, plackett_burman(runs).tolist())) == printed


def test_plackett_burman_in_8_runs_is_the_saturated_fraction() -> None:
    """The printed 8-run design and ours have the aliases of 2^(7-4): all of them complete."""
    row = [int(sign == "+") for sign in PLACKETT_BURMAN_ROWS[8]]
    printed = np.array([row[at:] + row[:at] for at in range(7)] + [[0] * 7])
    for runs in (printed, plackett_burman(8)):
        found = partial_aliases(runs)
        assert len(found) == 21
        assert {correlation for *_, correlation in found} == {-1.0}


def test_plackett_burman_in_12_runs_has_aliases_of_a_third() -> None:
    """Each main effect correlates by 1/3 with every interaction that it is not in, and no other."""
    found = partial_aliases(plackett_burman(12))
    expected = {
        (main, pair)
        for main in range(11)
        for pair in itertools.combinations(range(11), 2)
        if main not in pair
    }
    assert {(main, pair) for main, pair, _ in found} == expected
    assert len(found) == len(expected)
    assert {abs(correlation) for *_, correlation in found} == {4 / 12}


@settings(deadline=None, max_examples=60)
@given(st.integers(3, 12), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_partial_aliases_are_correlations(rows: int, factors: int, seed: int) -> None:
    """In any array they are the correlation coefficients that numpy finds."""
    runs = np.random.default_rng(seed).integers(0, 2, (rows, factors))
    if np.ptp(runs, axis=0).min() == 0:
        with pytest.raises(FractionError, match="leave it out"):
            partial_aliases(runs)
        return
    found = {(main, pair): correlation for main, pair, correlation in partial_aliases(runs)}
    for main in range(factors):
        for pair in itertools.combinations(range(factors), 2):
            column = product(runs, pair)
            expected = np.corrcoef(product(runs, (main,)), column)[0, 1] if np.ptp(column) else 0
            assert found.get((main, pair), 0.0) == pytest.approx(expected, abs=1e-12)


def test_plackett_burman_sizes() -> None:
    """The least size is the next multiple of 4 above the factors; 52 has no matrix here."""
    for factors in range(1, 48):
        assert plackett_burman_runs(factors) == 4 * (factors // 4 + 1)
    assert plackett_burman_runs(48) == 56
    assert plackett_burman_runs(56) == 60


@pytest.mark.parametrize(
    ("runs", "message"),
    [(0, "to 4"), (2, "to 4"), (10, "to 12"), (13, "to 16"), (52, "to 56")],
)
def test_plackett_burman_refusals(runs: int, message: str) -> None:
    """Sizes without a design are refused with the next one that has it."""
    with pytest.raises(FractionError, match=f"change runs {message}$"):
        plackett_burman(runs)
    with pytest.raises(FractionError, match="raise factors to 1"):
        plackett_burman_runs(0)
