"""Fractions: two-level orthogonal arrays, and which effects each of them cannot tell apart.

Takes numbers of factors and runs, or a resolution; gives arrays of 0 (the reference level) and 1
with one row per run and one column per factor, their words, resolution and aliases. The run with
every factor at its reference is always the first one.
Does not know what the factors are, conditions, shares or trials.
"""

import functools
import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Fraction",
    "FractionError",
    "fraction",
    "partial_aliases",
    "plackett_burman",
    "plackett_burman_runs",
]

_MOST_FACTORS = 32
_MOST_RUNS = 1 << 20
# Above this many runs only half fractions are made: the search grows with the square of the runs.
_MOST_SEARCHED = 2048
# 8 partial fractions already give every published pattern up to 128 runs; 512 runs need 32.
_WIDTH = 48
_MOST_LISTED = 16

_PAIR = np.array([[1, 1], [1, -1]])


class FractionError(ValueError):
    """An array that cannot be made; the message says which number to change to what."""


@dataclass(frozen=True, slots=True)
class Fraction:
    """A regular fraction 2^(k-p) of k factors in 2^(k-p) runs.

    The first `basic` (k-p) factors are a full factorial; added factor `basic + i` is the product
    of the basic factors in `generators[i]`: their sum modulo 2 when levels are 0 and 1, so that
    all of them at the reference give the reference. An effect is a set of factor indices: one for
    a main effect, two for a two-factor interaction. Raises FractionError.
    """

    factors: int
    basic: int
    generators: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        if self.basic < 1:
            raise FractionError(f"{self.basic} basic factors: raise basic to 1 or more")
        if len(self.generators) != self.factors - self.basic:
            raise FractionError(
                f"{self.factors} factors with {self.basic} basic ones need "
                f"{self.factors - self.basic} generators, not {len(self.generators)}"
            )
        for generator in self.generators:
            proper = len(generator) == len(set(generator)) >= 2
            if not proper or not all(0 <= factor < self.basic for factor in generator):
                raise FractionError(
                    f"generator {generator}: give two or more different factors "
                    f"from 0 to {self.basic - 1}"
                )
        if len(set(self._columns)) < self.factors:
            raise FractionError("two generators are the same: change one of them")

    @property
    def size(self) -> int:
        """Number of runs, 2^(k-p)."""
        return 1 << self.basic

    @property
    def runs(self) -> NDArray[np.int8]:
        """Levels, shape (size, factors), in standard order: the first factor changes fastest."""
        index = np.arange(self.size)
        levels = np.empty((self.size, self.factors), dtype=np.int8)
        for factor, column in enumerate(self._columns):
            levels[:, factor] = np.bitwise_count(index & column) & 1
        return levels

    @property
    def defining_words(self) -> tuple[frozenset[int], ...]:
        """The 2^p - 1 effects that are aliased with the mean, the shortest first.

        Raises FractionError above 65,535 words; `word_lengths` counts any number of them.
        """
        if len(self.generators) > _MOST_LISTED:
            raise FractionError(
                f"{len(self.generators)} generators have too many words to list: lower factors to "
                f"{self.basic + _MOST_LISTED}, or count the words by length"
            )
        words = [frozenset[int]()]
        for added, generator in enumerate(self.generators, start=self.basic):
            words += [word ^ {added, *generator} for word in words]
        return tuple(sorted(words[1:], key=_order))

    @property
    def word_lengths(self) -> dict[int, int]:
        """Word-length pattern: how many words have each length that occurs, ascending.

        Counted from the number of levels 1 in each run through the MacWilliams identity (Xu & Wu
        2001, Annals of Statistics 29), without making the words.
        """
        ones = np.bincount(self.runs.sum(axis=1, dtype=np.int64), minlength=self.factors + 1)
        pattern = {}
        for length in range(1, self.factors + 1):
            total = sum(
                int(count) * _krawtchouk(length, weight, self.factors)
                for weight, count in enumerate(ones)
                if count
            )
            if total:
                pattern[length] = total // self.size
        return pattern

    @property
    def resolution(self) -> int | None:
        """Length of the shortest word; None for a full factorial, which has none."""
        return min(self.word_lengths, default=None)

    def aliases(self, order: int = 2) -> tuple[tuple[frozenset[int], ...], ...]:
        """Groups of effects of 1 to `order` factors that the runs cannot tell apart.

        Groups have two or more members, the effects of fewest factors first. The empty effect is
        the mean: it is in a group when the fraction has a word of at most `order` factors.
        """
        groups: defaultdict[int, list[frozenset[int]]] = defaultdict(list)
        for size in range(min(order, self.factors) + 1):
            for effect in itertools.combinations(range(self.factors), size):
                groups[self._column(effect)].append(frozenset(effect))
        return tuple(sorted(map(tuple, (g for g in groups.values() if len(g) > 1)), key=_first))

    def correlation(self, one: Collection[int], other: Collection[int]) -> int:
        """Correlation of two effects over the runs: 1 or -1 if they are aliased, 0 if not.

        Effects are products of factors coded -1 (reference) and 1, so that a main effect is level
        minus reference. A set E has the product (-1)^|E| (-1)^(sum of its 0/1 levels); aliased
        sets have the same sum modulo 2, so the sign is (-1)^(|E| + |F|), which is (-1)^L for the
        word of L factors that joins them. With D = AB, D estimates D - AB.
        """
        if self._column(one) != self._column(other):
            return 0
        return -1 if (len(set(one)) + len(set(other))) % 2 else 1

    @property
    def _columns(self) -> list[int]:
        """Each factor as a number whose bits are the basic factors that it is the product of."""
        basic = [1 << factor for factor in range(self.basic)]
        return basic + [sum(basic[factor] for factor in set(g)) for g in self.generators]

    def _column(self, effect: Collection[int]) -> int:
        columns = self._columns
        return functools.reduce(lambda sum_, factor: sum_ ^ columns[factor], set(effect), 0)


def fraction(factors: int, *, resolution: int | None = None, runs: int | None = None) -> Fraction:
    """The minimum-aberration fraction in so many runs, or of least size with that resolution.

    Minimum aberration (Fries & Hunter 1980): fewest words of length 3, then of length 4, and so
    on; it has the highest resolution as well. `runs` is a power of two and may be the full
    factorial; with both, `resolution` is demanded of that many runs. Generators come from a
    deterministic search that agrees with an exhaustive one up to 11 factors in 128 runs and with
    published resolutions up to 20 factors; beyond that they are the best ones found. At most 32
    factors; at most 2048 runs unless it is a half fraction or full. Raises FractionError.
    """
    _check_factors(factors)
    if runs is not None:
        _check_runs(factors, runs)
        found = _minimum_aberration(factors, runs.bit_length() - 1)
        if resolution is not None and found.generators and _resolution(found) < resolution:
            _check_resolution(factors, resolution)
            raise FractionError(
                f"{factors} factors in {runs} runs have resolution {_resolution(found)} at most: "
                f"lower resolution to {_resolution(found)} or raise runs to "
                f"{_smallest(factors, resolution).size}"
            )
        return found
    if resolution is None:
        raise FractionError("give resolution or runs, for example resolution=4")
    _check_resolution(factors, resolution)
    return _smallest(factors, resolution)


def plackett_burman(runs: int) -> NDArray[np.int8]:
    """Levels of `runs - 1` factors in `runs` runs, shape (runs, runs - 1), 0 the reference.

    Columns are balanced and orthogonal (Plackett & Burman 1946, Biometrika 33). Built from a
    Hadamard matrix: Sylvester's for powers of two (4, 8, 16, 32: a regular fraction of resolution
    III), else Paley's for primes, which is the cyclic design in 12, 20 and 24 runs, else doubled.
    Every multiple of 4 up to 48, and most above. Raises FractionError for other numbers.
    """
    if runs < 4 or runs % 4:
        raise FractionError(
            f"runs={runs}: Plackett-Burman designs have a multiple of 4, change runs to "
            f"{plackett_burman_runs(max(runs - 1, 1))}"
        )
    hadamard = _construction(runs)
    if hadamard is None:
        raise FractionError(
            f"runs={runs}: no construction is known here, change runs to "
            f"{plackett_burman_runs(runs - 1)}"
        )
    signs = hadamard()
    signs = signs * signs[:, :1]
    signs = signs * signs[:1]
    return ((1 - signs[:, 1:]) // 2).astype(np.int8)


def plackett_burman_runs(factors: int) -> int:
    """The least number of runs in which `plackett_burman` holds that many factors."""
    if factors < 1:
        raise FractionError(f"factors={factors}: raise factors to 1 or more")
    sizes = itertools.count(4 * (factors // 4 + 1), 4)
    return next(runs for runs in sizes if _construction(runs) is not None)


def partial_aliases(runs: ArrayLike) -> list[tuple[int, tuple[int, int], float]]:
    """Non-zero correlations of main effects with two-factor interactions in any 0/1 array.

    `runs` has one row per run and one column per factor. Gives (factor, (i, j), correlation) with
    i < j and effects as products of factors coded -1 (reference) and 1; the interactions of a
    factor itself are among them when the array is not orthogonal. A product that is the same in
    every run is aliased with the mean and has no correlation. Raises FractionError for a factor
    that is at one level only.
    """
    X = 2 * np.asarray(runs, dtype=np.int64) - 1
    n, factors = X.shape
    pairs = list(itertools.combinations(range(factors), 2))
    Z = np.stack([X[:, i] * X[:, j] for i, j in pairs], axis=1) if pairs else X[:, :0]
    # Sums of whole numbers, so that zero is exactly zero.
    products = n * (X.T @ Z) - np.outer(X.sum(axis=0), Z.sum(axis=0))
    spread_main, spread_pair = n * n - X.sum(axis=0) ** 2, n * n - Z.sum(axis=0) ** 2
    for factor in np.flatnonzero(spread_main == 0):
        raise FractionError(f"factor {factor} is at one level in all {n} runs: leave it out")
    return [
        (int(main), pairs[pair], float(products[main, pair] / scale))
        for main, pair in np.argwhere(products)
        if (scale := math.sqrt(int(spread_main[main]) * int(spread_pair[pair])))
    ]


def _check_factors(factors: int) -> None:
    if factors < 1:
        raise FractionError(f"factors={factors}: raise factors to 1 or more")
    if factors > _MOST_FACTORS:
        raise FractionError(f"factors={factors}: lower factors to {_MOST_FACTORS}")


def _check_runs(factors: int, runs: int) -> None:
    least, full = 1 << factors.bit_length(), 1 << factors
    if runs < least:
        holds = f" or lower factors to {runs - 1}" if runs >= 2 and not runs & (runs - 1) else ""
        raise FractionError(
            f"runs={runs} cannot hold {factors} factors: raise runs to {least}{holds}"
        )
    if runs > full:
        raise FractionError(
            f"runs={runs} is more than the full factorial of {factors} factors: "
            f"lower runs to {full}"
        )
    if runs & (runs - 1):
        below = 1 << (runs.bit_length() - 1)
        raise FractionError(
            f"runs={runs} is not a power of two: change runs to {below} or {2 * below}"
        )
    if not _searched(factors, runs.bit_length() - 1):
        raise FractionError(f"runs={runs} is too many: lower runs to {_MOST_SEARCHED}")


def _check_resolution(factors: int, resolution: int) -> None:
    full = f"runs={1 << factors} for the full factorial"
    if factors < 3:
        raise FractionError(f"{factors} factors have no fraction: ask for {full}")
    if resolution < 3:
        raise FractionError(
            f"resolution={resolution} would alias factors with each other: "
            "raise resolution to 3 or more"
        )
    if resolution > factors:
        raise FractionError(
            f"resolution={resolution} does not exist for {factors} factors: "
            f"lower resolution to {factors} or ask for {full}"
        )


def _smallest(factors: int, resolution: int) -> Fraction:
    for basic in range(factors.bit_length(), factors):
        if not _possible(factors, basic, resolution):
            continue
        if not _searched(factors, basic):
            break
        found = _minimum_aberration(factors, basic)
        if _resolution(found) >= resolution:
            return found
    largest = _minimum_aberration(factors, _MOST_SEARCHED.bit_length() - 1)
    raise FractionError(
        f"resolution={resolution} for {factors} factors needs more than {_MOST_SEARCHED} runs: "
        f"lower resolution to {_resolution(largest)}"
    )


def _searched(factors: int, basic: int) -> bool:
    runs = 1 << basic
    return runs <= _MOST_SEARCHED or (basic >= factors - 1 and runs <= _MOST_RUNS)


def _possible(factors: int, basic: int, resolution: int) -> bool:
    """False where the Plotkin or the Hamming bound of codes rules a resolution out."""
    words = 1 << (factors - basic)
    told_apart = sum(math.comb(factors, size) for size in range((resolution - 1) // 2 + 1))
    return 2 * resolution * (words - 1) <= factors * words and told_apart <= 1 << basic


def _resolution(found: Fraction) -> int:
    return found.resolution or found.factors


def _minimum_aberration(factors: int, basic: int) -> Fraction:
    columns = _added(factors, basic)
    bits = ((bit for bit in range(basic) if column >> bit & 1) for column in columns)
    return Fraction(factors, basic, tuple(map(tuple, bits)))


@functools.lru_cache(maxsize=256)
def _added(factors: int, basic: int) -> tuple[int, ...]:
    """Columns of the added factors: a search that adds one at a time and keeps the best few.

    Words of a partial fraction are words of the whole, so few words now are few words later. Kept
    ones differ in their coset weights, which no relabelling changes (Xu 2009, Technometrics 51).
    """
    if factors - basic <= 1:
        return ((1 << basic) - 1,) * (factors - basic)
    kept: list[_Partial] = [((), _sums_of_basic(factors, basic))]
    for left in range(factors - basic, 0, -1):
        kept = list(itertools.islice(_extensions(kept), _WIDTH if left > 1 else 1))
    return tuple(sorted(kept[0][0]))


# Columns added so far, and how many sets of j factors have a product equal to each column.
_Partial: TypeAlias = tuple[tuple[int, ...], NDArray[np.int32]]


def _sums_of_basic(factors: int, basic: int) -> NDArray[np.int32]:
    columns = np.arange(1 << basic)
    sums = np.zeros((factors + 1, 1 << basic), dtype=np.int32)
    sums[np.bitwise_count(columns), columns] = 1
    return sums


def _extensions(kept: list[_Partial]) -> Iterator[_Partial]:
    """Partial fractions with one more factor, by aberration, and no two that look alike."""
    free = np.array([sums[1] == 0 for _, sums in kept])
    free[:, 0] = False
    parents, columns = np.nonzero(free)
    # A set of j factors with product c becomes a word of j + 1 when c is added.
    patterns = np.concatenate(
        [sums[3:, :1] + sums[2:-1, mask] for (_, sums), mask in zip(kept, free, strict=True)],
        axis=1,
    )
    seen = set()
    for at in np.lexsort(patterns[::-1])[: 8 * _WIDTH]:
        added, sums = kept[parents[at]]
        larger = sums.copy()
        larger[1:] += sums[:-1, np.arange(sums.shape[1]) ^ columns[at]]
        weights = _coset_weights(larger)
        if weights not in seen:
            seen.add(weights)
            yield (*added, int(columns[at])), larger


def _coset_weights(sums: NDArray[np.int32]) -> bytes:
    """A digest of the columns of `sums` in any order."""
    odd = np.arange(1, 2 * len(sums), 2, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed = odd ^ (odd >> np.uint64(29))
    return np.sort(mixed @ sums.astype(np.uint64)).tobytes()


def _krawtchouk(length: int, weight: int, factors: int) -> int:
    return sum(
        (-1) ** i * math.comb(weight, i) * math.comb(factors - weight, length - i)
        for i in range(length + 1)
    )


def _order(effect: frozenset[int]) -> tuple[int, list[int]]:
    return len(effect), sorted(effect)


def _first(group: tuple[frozenset[int], ...]) -> tuple[int, list[int]]:
    return _order(group[0])


def _construction(order: int) -> Callable[[], NDArray[np.int64]] | None:
    """What makes a Hadamard matrix of that order; None when no construction here does."""
    if order <= 2:
        return lambda: _PAIR[:order, :order]
    if order % 4:
        return None
    if order & (order - 1):
        if _prime(order - 1):
            return functools.partial(_paley_first, order - 1)
        if order % 8 == 4 and _prime(order // 2 - 1):
            return functools.partial(_paley_second, order // 2 - 1)
    half = _construction(order // 2)
    return half and (lambda: np.kron(_PAIR, half()))


def _paley_first(prime: int) -> NDArray[np.int64]:
    matrix = np.ones((prime + 1, prime + 1), dtype=np.int64)
    matrix[1:, 1:] = -_characters(prime) - np.eye(prime, dtype=np.int64)
    return matrix


def _paley_second(prime: int) -> NDArray[np.int64]:
    conference = np.ones((prime + 1, prime + 1), dtype=np.int64)
    conference[0, 0] = 0
    conference[1:, 1:] = _characters(prime)
    identity = np.eye(prime + 1, dtype=np.int64)
    return np.kron(conference, _PAIR) + np.kron(identity, np.array([[1, -1], [-1, -1]]))


def _characters(prime: int) -> NDArray[np.int64]:
    """1 where column minus row is a square modulo the prime, 0 where they are equal, else -1."""
    character = np.full(prime, -1, dtype=np.int64)
    character[np.arange(prime) ** 2 % prime] = 1
    character[0] = 0
    index = np.arange(prime)
    matrix: NDArray[np.int64] = character[(index - index[:, None]) % prime]
    return matrix


def _prime(number: int) -> bool:
    return number > 1 and all(number % d for d in range(2, math.isqrt(number) + 1))
