"""Laws: how often an experiment would meet each condition, and draws from that.

Takes a scenario, or plain factor levels, with the combinations that are forbidden; gives the
probability of a condition, all conditions, or a sample with the share each drawn one stands for.
Does not know trials, arms or which design asks.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from variants.declarations import nearest
from variants.scenario import Condition, Scenario

__all__ = [
    "DesignError",
    "Law",
    "dependants",
    "independent",
    "proper",
    "slots",
    "systematic",
    "target_law",
]

# Above this many conditions a law is sampled, not enumerated.
ENUMERATED = 1 << 16
# A law that is sampled needs so much of it to be allowed, or draws would take for ever.
RAREST = 1e-3

Exclusion = Mapping[str, str]


class DesignError(ValueError):
    """A design that cannot be made; the message says which number to change to what."""


@dataclass(frozen=True, slots=True)
class Law:
    """Each factor away from its reference on its own, with probability `rate`.

    A factor away from its reference is at each of its other levels equally often; `close` settles
    which factors are not applicable. Conditions that hold an exclusion never come, and the others
    keep their proportions: `allowed` is the probability of drawing one of those.
    """

    levels: Mapping[str, tuple[str, ...]]
    close: Callable[[Mapping[str, str]], Condition]
    rate: float
    exclusions: tuple[Exclusion, ...] = ()
    allowed: float = field(default=1.0, compare=False)

    @property
    def size(self) -> int:
        """How many choices of levels there are, before they are settled."""
        return math.prod(len(levels) for levels in self.levels.values())

    @property
    def original(self) -> Condition:
        return self.close({name: levels[0] for name, levels in self.levels.items()})

    @property
    def singles(self) -> tuple[Condition, ...]:
        """The conditions with one level changed and what goes along, none of them twice."""
        found = [self.single(name, at) for name, known in self.levels.items() for at in known[1:]]
        return tuple(c for c in dict.fromkeys(found) if c != self.original and self.allows(c))

    def single(self, factor: str, level: str) -> Condition:
        """The condition with this level and all other factors at their references."""
        return self.close(
            {name: levels[0] for name, levels in self.levels.items()} | {factor: level}
        )

    def allows(self, condition: Condition) -> bool:
        """Whether a condition holds none of the exclusions."""
        if not self.exclusions:
            return True
        levels = dict(condition.levels)
        return not any(
            all(levels[name] == at for name, at in exclusion.items())
            for exclusion in self.exclusions
        )

    def probability(self, condition: Condition) -> float:
        """Probability of a closed condition; not applicable factors may have been at any level."""
        if not self.allows(condition):
            return 0.0
        product = 1.0
        for name, level in condition.levels:
            if level is None or name not in self.levels:
                continue
            reference, *others = self.levels[name]
            product *= 1 - self.rate if level == reference else self.rate / len(others)
        return product / self.allowed

    def conditions(self) -> Iterator[Condition]:
        """Every distinct condition that is allowed, in the order of the levels."""
        seen = set()
        for choice in itertools.product(*self.levels.values()):
            condition = self.close(dict(zip(self.levels, choice, strict=True)))
            if condition not in seen and self.allows(condition):
                seen.add(condition)
                yield condition

    def draw(self, rng: np.random.Generator) -> Condition:
        """One condition drawn from the law. Raises DesignError where hardly any is allowed."""
        if self.allowed < RAREST:
            raise DesignError(
                f"exclude: only {self.allowed:.2g} of the law is allowed: exclude less, "
                f"or lower rate below {self.rate:.3g}"
            )
        while True:
            drawn = {}
            for name, (reference, *others) in self.levels.items():
                away = rng.random() < self.rate
                drawn[name] = others[int(rng.integers(len(others)))] if away else reference
            condition = self.close(drawn)
            if self.allows(condition):
                return condition


def target_law(
    factors: Mapping[str, Sequence[str]] | Scenario,
    names: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    rate: float | None = None,
    exclude: Sequence[Exclusion] = (),
) -> Law:
    """The law that averaged effects refer to; `rate` defaults to 2/k, at most 1/2.

    `names` are the factors that it varies, with all their levels or with those given. `exclude`
    holds combinations of levels that no condition may have; one level alone is not tried at all.
    Raises DesignError for an unknown name or level, a factor without a second level, an
    exclusion of the original, or no factors.
    """
    if isinstance(factors, Scenario):
        known = {name: factor.levels for name, factor in factors.factors.items()}
        close: Callable[[Mapping[str, str]], Condition] = factors.close
        related = _needed(factors)
    else:
        known = {name: tuple(levels) for name, levels in factors.items()}
        close = _free(known)
        related = {name: frozenset({name}) for name in known}
    for name in names or ():
        if name not in known:
            raise DesignError(f"unknown factor `{name}`{nearest(name, known)}")
    if isinstance(names, Mapping):
        chosen = {name: tuple(levels) for name, levels in names.items()}
    else:
        chosen = {name: known[name] for name in (names or known)}
    if not chosen:
        raise DesignError("there is no factor to vary: name at least one")
    for name, levels in chosen.items():
        if len(levels) < 2:
            raise DesignError(
                f"factor `{name}` has one level: give it a second one or leave it out"
            )
        if len(set(levels)) < len(levels):
            raise DesignError(f"factor `{name}` has a level twice: name each one once")
    chosen, exclusions = _excluded(chosen, exclude)
    rate = min(0.5, 2 / len(chosen)) if rate is None else rate
    proper("rate", rate)
    free = Law(chosen, close, rate, exclusions)
    return Law(chosen, close, rate, exclusions, _allowed(free, related))


def proper(name: str, share: float) -> None:
    """Raise DesignError unless a share lies strictly between 0 and 1."""
    if not 0 < share < 1:
        raise DesignError(f"{name} is {share}: it must lie between 0 and 1")


def changes(condition: Condition, law: Law) -> int:
    """How many factors of the law are away from their reference."""
    return sum(
        level is not None and level != law.levels[name][0]
        for name, level in condition.levels
        if name in law.levels
    )


def systematic(
    law: Law, settled: set[Condition], count: int, rng: np.random.Generator
) -> dict[Condition, float]:
    """Up to `count` distinct conditions outside `settled` -> the share of the law there, adding up
    to 1, that each stands for: on average over draws, a condition's share is its own.

    What alone would fill a draw is in for sure and stands for itself; the others are drawn at
    equal steps along their summed probability (Madow 1949) and share theirs equally. In a
    population ordered by the number of changes, a sample has the law's share of lightly and
    heavily changed prompts. A law too large to list is drawn from independently.
    """
    if law.size > ENUMERATED:
        return _distinct(law, settled, count, rng)
    population, probability = _population(law, settled, rng)
    sure = np.full(len(population), count >= len(population))
    step = 0.0
    while sure.sum() < min(count, len(population)):
        step = probability[~sure].sum() / (count - sure.sum())
        more = ~sure & (probability > step * (1 - 1e-9))
        if not more.any():
            break
        sure |= more
    return _steps(population, probability, sure, step, count - int(sure.sum()), rng)


def slots(
    law: Law, settled: set[Condition], count: int, rng: np.random.Generator
) -> dict[Condition, float]:
    """As `systematic`, for `count` slots that conditions fill in proportion to their probability.

    A likely condition fills several, so that no slot is spent on one that hardly ever comes.
    """
    if law.size > ENUMERATED:
        return independent(law, settled, count, rng)
    population, probability = _population(law, settled, rng)
    if not population:
        return {}
    probability = probability / probability.sum()
    sure = probability > (1 - 1e-9) / count
    # Whatever is left has a slot, however little it is: else it would never be drawn.
    left = max(1, count - round(float(probability[sure].sum()) * count))
    step = float(probability[~sure].sum()) / left
    return _steps(population, probability, sure, step, left if step else 0, rng)


def independent(
    law: Law, settled: set[Condition], count: int, rng: np.random.Generator
) -> dict[Condition, float]:
    """`count` draws from the law outside `settled` -> each condition's share of the draws."""
    drawn: dict[Condition, int] = {}
    for _ in range(1000 * count):
        condition = law.draw(rng)
        if condition in settled:
            continue
        drawn[condition] = drawn.get(condition, 0) + 1
        if sum(drawn.values()) == count:
            break
    times = sum(drawn.values())
    return {condition: n / times for condition, n in drawn.items()}


def _population(
    law: Law, settled: set[Condition], rng: np.random.Generator
) -> tuple[list[Condition], NDArray[np.float64]]:
    found = [c for c in law.conditions() if c not in settled]
    order = rng.permutation(len(found))
    population = sorted((found[i] for i in order), key=lambda c: changes(c, law))
    return population, np.array([law.probability(c) for c in population])


def _steps(
    population: Sequence[Condition],
    probability: NDArray[np.float64],
    sure: NDArray[np.bool_],
    step: float,
    count: int,
    rng: np.random.Generator,
) -> dict[Condition, float]:
    """The sure ones at their own share, and `count` of the others at equal steps."""
    shares = np.where(sure, probability, 0.0)
    others = np.flatnonzero(~sure)
    if others.size and count > 0:
        points = (np.arange(count) + rng.random()) * step
        places = np.searchsorted(np.cumsum(probability[others]), points, side="right")
        np.add.at(shares, others[np.minimum(places, others.size - 1)], step)
    shares /= shares.sum()
    return {population[i]: float(shares[i]) for i in np.flatnonzero(shares).tolist()}


def _distinct(
    law: Law, settled: set[Condition], count: int, rng: np.random.Generator
) -> dict[Condition, float]:
    """Independent draws until one condition more than `count` turns up, which is left out.

    To stop there and to leave it out keeps the shares of the others unbiased: the draws before
    it could have come in any order.
    """
    drawn: dict[Condition, int] = {}
    for _ in range(1000 * count):
        condition = law.draw(rng)
        if condition in settled:
            continue
        if condition not in drawn and len(drawn) == count:
            break
        drawn[condition] = drawn.get(condition, 0) + 1
    times = sum(drawn.values())
    return {condition: n / times for condition, n in drawn.items()}


def _free(known: Mapping[str, tuple[str, ...]]) -> Callable[[Mapping[str, str]], Condition]:
    """Closing without needs: factors not named are at their first level."""

    def close(levels: Mapping[str, str]) -> Condition:
        return Condition(tuple((name, levels.get(name, known[name][0])) for name in known))

    return close


def dependants(
    factors: Mapping[str, Sequence[str]] | Scenario, names: Iterable[str]
) -> dict[str, frozenset[str]]:
    """For each named factor, the others among them that need it."""
    names = list(names)
    if not isinstance(factors, Scenario):
        return {name: frozenset() for name in names}
    needed = _needed(factors)
    return {n: frozenset(m for m in names if m != n and n in needed[m]) for n in names}


def _needed(scenario: Scenario) -> dict[str, frozenset[str]]:
    """Each factor with all those that decide whether it applies."""
    found: dict[str, frozenset[str]] = {}
    for name in scenario.order:
        factor = scenario.factors[name]
        needs = [need.factor for site in (factor.needs, *factor.sites) for need in site]
        found[name] = frozenset({name}).union(*(found[need] for need in needs))
    return found


def _excluded(
    chosen: dict[str, tuple[str, ...]], exclude: Sequence[Exclusion]
) -> tuple[dict[str, tuple[str, ...]], tuple[Exclusion, ...]]:
    """The levels that are left, and the combinations that are still to be watched."""
    combinations = []
    for exclusion in exclude:
        said = ",".join(f"{name}={at}" for name, at in exclusion.items())
        for name, at in exclusion.items():
            if name not in chosen:
                raise DesignError(
                    f"exclude: `{said}`: `{name}` is not varied{nearest(name, chosen)}; "
                    "name a factor of the design"
                )
            if at not in chosen[name]:
                raise DesignError(
                    f"exclude: `{said}`: `{name}` is never at `{at}`{nearest(at, chosen[name])}; "
                    f"it is tried at {', '.join(chosen[name])}"
                )
        if all(at == chosen[name][0] for name, at in exclusion.items()):
            raise DesignError(
                f"exclude: `{said or 'nothing'}` would exclude the original: "
                "name at least one changed level"
            )
        combinations.append(dict(exclusion))
    left = dict(chosen)
    for name, levels in chosen.items():
        gone = {e[name] for e in combinations if list(e) == [name]}
        left[name] = tuple(at for at in levels if at not in gone)
        if len(left[name]) < 2:
            raise DesignError(
                f"factor `{name}` has every level excluded: take it out of the design's factors, "
                f"or exclude fewer than {len(levels) - 1} of its levels"
            )
    watched = [e for e in combinations if all(at in left[name] for name, at in e.items())]
    return left, tuple(e for e in watched if len(e) > 1)


def _allowed(law: Law, related: Mapping[str, frozenset[str]]) -> float:
    """Probability that a draw holds no exclusion: over the factors that decide it, exactly."""
    if not law.exclusions:
        return 1.0
    named = frozenset().union(*(related[name] for e in law.exclusions for name in e))
    deciding = {name: levels for name, levels in law.levels.items() if name in named}
    if math.prod(map(len, deciding.values())) > ENUMERATED:
        raise DesignError(
            f"exclude: the exclusions and what they need name {len(deciding)} factors: "
            "exclude combinations of fewer factors, or take levels out of the design"
        )
    total = 0.0
    for choice in itertools.product(*deciding.values()):
        if law.allows(law.close(dict(zip(deciding, choice, strict=True)))):
            total += math.prod(
                1 - law.rate if at == known[0] else law.rate / (len(known) - 1)
                for at, known in zip(choice, deciding.values(), strict=True)
            )
    return total
