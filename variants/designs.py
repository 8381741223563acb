"""Designs: which conditions an experiment tries, and what share of the trials each one gets.

Takes a scenario, or plain factor levels, and a generator; gives the conditions with the part of
the design they belong to, their share, and how much of the target law each stands for.
Does not know arms as text, queries, wordings, trials of a model, or prices.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from variants.declarations import nearest
from variants.scenario import Condition, Scenario

__all__ = ["DESIGNS", "Design", "DesignError", "Law", "mixed", "one_at_a_time"]

# Above this many conditions the law is sampled, not enumerated.
_ENUMERATED = 1 << 16


class DesignError(ValueError):
    """A design that cannot be made; the message says which number to change to what."""


@dataclass(frozen=True, slots=True)
class Design:
    """A set of conditions and how it was chosen; all tuples have one entry per condition.

    `parts` is original, single or random. `weights` are shares of the trials and add up to 1.
    `probabilities` are those with which the random part draws a condition, None outside it.
    `masses` are the shares of the target law that the conditions stand for and add up to 1:
    `mass / weight` turns trials of the design into trials of the law (None: no target law).
    `train_share` is the share of trials in the train arm.
    """

    kind: str
    conditions: tuple[Condition, ...]
    parts: tuple[str, ...]
    weights: tuple[float, ...]
    probabilities: tuple[float | None, ...]
    masses: tuple[float, ...] | None
    train_share: float


@dataclass(frozen=True, slots=True)
class Law:
    """The target law: each factor away from its reference on its own, with probability `rate`.

    A factor away from its reference is at each of its other levels equally often; `close` settles
    which factors are not applicable.
    """

    levels: Mapping[str, tuple[str, ...]]
    close: Callable[[Mapping[str, str]], Condition]
    rate: float

    def probability(self, condition: Condition) -> float:
        """Probability of a closed condition; not applicable factors may have been at any level."""
        product = 1.0
        for name, level in condition.levels:
            if level is None or name not in self.levels:
                continue
            reference, *others = self.levels[name]
            product *= 1 - self.rate if level == reference else self.rate / len(others)
        return product

    def conditions(self) -> Iterator[Condition]:
        """Every distinct condition, in the order of the levels."""
        seen = set()
        for choice in itertools.product(*self.levels.values()):
            condition = self.close(dict(zip(self.levels, choice, strict=True)))
            if condition not in seen:
                seen.add(condition)
                yield condition

    def draw(self, rng: np.random.Generator) -> Condition:
        """One condition drawn from the law."""
        drawn = {}
        for name, (reference, *others) in self.levels.items():
            away = rng.random() < self.rate
            drawn[name] = others[int(rng.integers(len(others)))] if away else reference
        return self.close(drawn)


def mixed(
    factors: Mapping[str, Sequence[str]] | Scenario,
    *,
    trials: int,
    rng: np.random.Generator,
    names: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    rate: float | None = None,
    fixed_share: float = 0.35,
    random_conditions: int = 48,
    train_share: float = 2 / 3,
) -> Design:
    """The original and every single removal as a fixed stratum, the rest drawn from the law.

    The law takes each factor away from its original with probability `rate` (default 2/k). The
    fixed stratum gets `fixed_share` of the trials, the original sqrt(k) times a removal's; the
    random stratum is drawn from the law given two or more changes, and each of its conditions
    gets trials in proportion to the share of the law that it stands for. `names` picks factors
    of a scenario (default: all), or says which of their levels are tried. Raises DesignError.
    """
    law = target_law(factors, names, rate)
    _proper("fixed_share", fixed_share)
    _proper("train_share", train_share)
    if random_conditions < 1:
        raise DesignError(f"random_conditions is {random_conditions}: set it to at least 1")
    original, singles = _fixed(law)
    fixed = [original, *singles]
    inside = sum(law.probability(c) for c in fixed)
    outside = 1 - inside
    drawn = _drawn(law, set(fixed), random_conditions, rng) if outside > 1e-9 else {}
    if not drawn:
        # Two changes at once hardly ever happen: the fixed stratum stands for the whole law.
        fixed_share, outside = 1.0, 0.0
    removal = fixed_share / (len(singles) + math.sqrt(len(singles)))
    weights = [removal * math.sqrt(len(singles))] + [removal] * len(singles)
    weights += [(1 - fixed_share) * share for share in drawn.values()]
    masses = [(1 - outside) * law.probability(c) / inside for c in fixed]
    masses += [outside * share for share in drawn.values()]
    conditions = (*fixed, *drawn)
    _enough(trials, len(conditions))
    return Design(
        kind="mixed",
        conditions=conditions,
        parts=("original",) + ("single",) * len(singles) + ("random",) * len(drawn),
        weights=tuple(weights),
        probabilities=(None,) * len(fixed) + tuple(law.probability(c) / outside for c in drawn),
        masses=tuple(masses),
        train_share=train_share,
    )


def one_at_a_time(
    factors: Mapping[str, Sequence[str]] | Scenario,
    *,
    trials: int,
    rng: np.random.Generator,
    names: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    train_share: float = 0.7,
) -> Design:
    """The original and every single removal; the original gets sqrt(k) times a removal's trials.

    Nothing is drawn, so `rng` is not used. It cannot see a feature that matters only together
    with another: such a study has simple effects and no averaged ones. Raises DesignError.
    """
    law = target_law(factors, names, None)
    _proper("train_share", train_share)
    original, singles = _fixed(law)
    removal = 1 / (len(singles) + math.sqrt(len(singles)))
    _enough(trials, 1 + len(singles))
    return Design(
        kind="one_at_a_time",
        conditions=(original, *singles),
        parts=("original",) + ("single",) * len(singles),
        weights=(removal * math.sqrt(len(singles)),) + (removal,) * len(singles),
        probabilities=(None,) * (1 + len(singles)),
        masses=None,
        train_share=train_share,
    )


DESIGNS: dict[str, Callable[..., Design]] = {"mixed": mixed, "one_at_a_time": one_at_a_time}


def target_law(
    factors: Mapping[str, Sequence[str]] | Scenario,
    names: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    rate: float | None = None,
) -> Law:
    """The law that averaged effects refer to; `rate` defaults to 2/k, at most 1/2.

    `names` are the factors that it varies, with all their levels or with those given. Raises
    DesignError for an unknown name, a factor without a second level, or no factors.
    """
    if isinstance(factors, Scenario):
        known = {name: factor.levels for name, factor in factors.factors.items()}
        close: Callable[[Mapping[str, str]], Condition] = factors.close
    else:
        known = {name: tuple(levels) for name, levels in factors.items()}
        close = _free(known)
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
    rate = min(0.5, 2 / len(chosen)) if rate is None else rate
    _proper("rate", rate)
    return Law(chosen, close, rate)


def _free(known: Mapping[str, tuple[str, ...]]) -> Callable[[Mapping[str, str]], Condition]:
    """Closing without needs: factors not named are at their first level."""

    def close(levels: Mapping[str, str]) -> Condition:
        return Condition(tuple((name, levels.get(name, known[name][0])) for name in known))

    return close


def _fixed(law: Law) -> tuple[Condition, tuple[Condition, ...]]:
    original = law.close({name: levels[0] for name, levels in law.levels.items()})
    singles = [
        law.close({name: level}) for name, levels in law.levels.items() for level in levels[1:]
    ]
    distinct = tuple(c for c in dict.fromkeys(singles) if c != original)
    if not distinct:
        raise DesignError("no factor can be changed on its own: what they need is at `removed`")
    return original, distinct


def _drawn(
    law: Law, settled: set[Condition], count: int, rng: np.random.Generator
) -> dict[Condition, float]:
    """Up to `count` distinct conditions outside `settled` -> the share of the law there, adding up
    to 1, that each stands for: on average over draws, a condition's share is its own.
    """
    if math.prod(len(levels) for levels in law.levels.values()) > _ENUMERATED:
        return _sampled(law, settled, count, rng)
    population = [c for c in law.conditions() if c not in settled]
    order = rng.permutation(len(population))
    population = sorted((population[i] for i in order), key=lambda c: _changes(c, law))
    return _systematic(population, np.array([law.probability(c) for c in population]), count, rng)


def _systematic(
    population: Sequence[Condition],
    probability: NDArray[np.float64],
    count: int,
    rng: np.random.Generator,
) -> dict[Condition, float]:
    """`count` of the population without repeats, with chances proportional to `probability`.

    What alone would fill a draw is in for sure and stands for itself; the others are drawn at
    equal steps along their summed probability (Madow 1949) and share theirs equally. In a
    population ordered by the number of changes, a sample has the law's share of lightly and
    heavily changed prompts.
    """
    sure = np.full(len(population), count >= len(population))
    while sure.sum() < min(count, len(population)):
        step = probability[~sure].sum() / (count - sure.sum())
        more = ~sure & (probability > step * (1 - 1e-9))
        if not more.any():
            break
        sure |= more
    shares = np.where(sure, probability, 0.0)
    others = np.flatnonzero(~sure)
    if others.size:
        points = (np.arange(count - sure.sum()) + rng.random()) * step
        places = np.searchsorted(np.cumsum(probability[others]), points, side="right")
        shares[others[np.minimum(places, others.size - 1)]] = step
    shares /= shares.sum()
    return {population[i]: float(shares[i]) for i in np.flatnonzero(shares).tolist()}


def _sampled(
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


def _changes(condition: Condition, law: Law) -> int:
    return sum(
        level is not None and level != law.levels[name][0]
        for name, level in condition.levels
        if name in law.levels
    )


def _enough(trials: int, conditions: int) -> None:
    if trials < 2 * conditions:
        raise DesignError(
            f"{trials} trials for {conditions} conditions in two arms: "
            f"set trials to at least {2 * conditions}"
        )


def _proper(name: str, share: float) -> None:
    if not 0 < share < 1:
        raise DesignError(f"{name} is {share}: it must lie between 0 and 1")
