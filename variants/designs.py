"""Designs: which conditions an experiment tries, and what share of the trials each one gets.

Takes a scenario, or plain factor levels, and a generator; gives the conditions with the part of
the design they belong to, their share, and how much of the target law each stands for.
Does not know arms as text, queries, wordings, trials of a model, or prices.
"""

import contextlib
import itertools
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from variants.declarations import nearest
from variants.exchange import ExchangeError, d_optimal_runs, model_terms
from variants.fractions import FractionError, fraction, plackett_burman, plackett_burman_runs
from variants.laws import (
    DesignError,
    Exclusion,
    Law,
    dependants,
    proper,
    slots,
    systematic,
    target_law,
)
from variants.marks import REMOVED
from variants.scenario import Condition, Scenario

__all__ = ["DESIGNS", "Design", "DesignError", "Law", "Screened", "target_law"]

Factors = Mapping[str, Sequence[str]] | Scenario
Names = Sequence[str] | Mapping[str, Sequence[str]] | None


@dataclass(frozen=True, slots=True)
class Design:
    """A set of conditions and how it was chosen; all tuples have one entry per condition.

    `parts` says what a condition is there for: original, single, random, and what other kinds
    call their own. `weights` are shares of the trials and add up to 1. `probabilities` are those
    with which the random part draws a condition, None outside it. `masses` are the shares of the
    target law that the conditions stand for and add up to 1, 0 outside the law: `mass / weight`
    turns trials of the design into trials of the law (None: no law, and no averaged effects).
    `train_share` is the share of trials in the train arm; `law` says in words what averaged
    effects average over; `spent` is the share of all trials that these conditions take, below 1
    where the rest waits for results; `notes` say what was chosen, such as generators.
    """

    kind: str
    conditions: tuple[Condition, ...]
    parts: tuple[str, ...]
    weights: tuple[float, ...]
    probabilities: tuple[float | None, ...]
    masses: tuple[float, ...] | None
    train_share: float
    law: str = ""
    spent: float = 1.0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Screened:
    """What a first stage found of a single change: its gap effect and standard error."""

    estimate: float
    std_error: float


def mixed(
    factors: Factors,
    *,
    trials: int,
    rng: np.random.Generator,
    names: Names = None,
    exclude: Sequence[Exclusion] = (),
    rate: float | None = None,
    fixed_share: float = 0.37,
    random_conditions: int | Literal["fresh"] = "fresh",
    train_share: float = 0.68,
) -> Design:
    """The original and every single removal as a fixed stratum, the rest drawn from the law.

    The law takes each factor away from its original with probability `rate` (default 2/k). The
    fixed stratum gets `fixed_share` of the trials, the original sqrt(k) times a removal's; the
    random stratum is drawn from the law given two or more changes, and each of its conditions
    gets trials in proportion to the share of the law that it stands for. With `fresh` conditions
    there are as many slots as the stratum has trials in the smaller arm, so that hardly two
    queries meet the same one: nothing is then aliased for all of them. `names` picks factors
    of a scenario (default: all), or says which of their levels are tried. Raises DesignError.
    """
    law = target_law(factors, names, rate, exclude)
    proper("fixed_share", fixed_share)
    proper("train_share", train_share)
    original, singles = _fixed(law)
    fixed = [original, *singles]
    inside = sum(law.probability(c) for c in fixed)
    outside = 1 - inside
    stratum = trials * (1 - fixed_share)
    drawn = _random_part(law, set(fixed), random_conditions, stratum, train_share, rng, outside)
    if not drawn:
        # Two changes at once hardly ever happen: the fixed stratum stands for the whole law.
        fixed_share, outside = 1.0, 0.0
    removal = fixed_share / (len(singles) + math.sqrt(len(singles)))
    weights = [removal * math.sqrt(len(singles))] + [removal] * len(singles)
    weights += [(1 - fixed_share) * share for share in drawn.values()]
    masses = [(1 - outside) * law.probability(c) / inside for c in fixed]
    masses += [outside * share for share in drawn.values()]
    _enough(trials, len(fixed) + (len(drawn) if random_conditions != "fresh" else 0))
    return Design(
        kind="mixed",
        conditions=(*fixed, *drawn),
        parts=("original",) + ("single",) * len(singles) + ("random",) * len(drawn),
        weights=tuple(weights),
        probabilities=(None,) * len(fixed) + tuple(law.probability(c) / outside for c in drawn),
        masses=tuple(masses),
        train_share=train_share,
        law=_away(law),
    )


def random_removals(
    factors: Factors,
    *,
    trials: int,
    rng: np.random.Generator,
    names: Names = None,
    exclude: Sequence[Exclusion] = (),
    rate: float | None = None,
    random_conditions: int | Literal["fresh"] = "fresh",
    train_share: float = 2 / 3,
) -> Design:
    """Conditions drawn from the law and nothing else: each factor away with probability `rate`.

    Trials go to a condition in proportion to the share of the law that it stands for. Raises
    DesignError.
    """
    law = target_law(factors, names, rate, exclude)
    proper("train_share", train_share)
    _fixed(law)
    drawn = _random_part(law, set(), random_conditions, trials, train_share, rng, 1.0)
    _enough(trials, len(drawn) if random_conditions != "fresh" else 1)
    shares = tuple(drawn.values())
    return Design(
        kind="random",
        conditions=tuple(drawn),
        parts=("random",) * len(drawn),
        weights=shares,
        probabilities=tuple(law.probability(c) for c in drawn),
        masses=shares,
        train_share=train_share,
        law=_away(law),
    )


def one_at_a_time(
    factors: Factors,
    *,
    trials: int,
    rng: np.random.Generator,
    names: Names = None,
    exclude: Sequence[Exclusion] = (),
    train_share: float = 0.7,
) -> Design:
    """The original and every single removal; the original gets sqrt(k) times a removal's trials.

    Nothing is drawn, so `rng` is not used. It cannot see a feature that matters only together
    with another: such a study has simple effects and no averaged ones. Raises DesignError.
    """
    law = target_law(factors, names, None, exclude)
    proper("train_share", train_share)
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


def two_stage(
    factors: Factors,
    *,
    trials: int,
    rng: np.random.Generator,
    names: Names = None,
    exclude: Sequence[Exclusion] = (),
    first_share: float = 0.4,
    screened: Mapping[Condition, Screened] | None = None,
    train_share: float = 0.7,
) -> Design:
    """One at a time with `first_share` of the trials; the rest where effects turned out large.

    Without `screened` this is the first stage. With it, what the first stage found of each single
    change, this is the second alone, to be pooled with the first: a change gets trials in
    proportion to its chance of having an effect at least half as large as the largest, and the
    original as much as fits them. Pooled means of trials whose number depends on earlier ones are
    biased by a share of their own error; a claim that depends on it needs fresh trials. Raises
    DesignError.
    """
    proper("first_share", first_share)
    # Whether the trials suffice is asked below, of the stage's own share.
    first = one_at_a_time(
        factors, trials=sys.maxsize, rng=rng, names=names, exclude=exclude, train_share=train_share
    )
    if screened is None:
        least = math.ceil(2 * len(first.conditions) / first_share)
        if trials < least:
            raise DesignError(
                f"{trials} trials, of which the first stage has {first_share:.0%}, for "
                f"{len(first.conditions)} conditions in two arms: set trials to at least {least}"
            )
        return _relabelled(first, "two_stage", first.weights, first_share)
    unknown = [str(c) for c in first.conditions[1:] if c not in screened]
    if unknown:
        raise DesignError(
            f"the first stage says nothing of {', '.join(unknown)}: run, grade and fit it first"
        )
    found = [screened[c] for c in first.conditions[1:]]
    bar = max(abs(f.estimate) for f in found) / 2
    chances = [_beyond(f, bar) for f in found]
    # An optimal contrast of one mean with many gives it the root of the sum of their squares.
    original = math.sqrt(sum(c * c for c in chances))
    total = original + sum(chances)
    weights = tuple(w / total for w in (original, *chances))
    return _relabelled(first, "two_stage", weights, 1 - first_share)


def add_one(
    factors: Factors,
    *,
    trials: int,
    rng: np.random.Generator,
    names: Names = None,
    exclude: Sequence[Exclusion] = (),
    train_share: float = 2 / 3,
) -> Design:
    """The stripped prompt, and each feature put back on its own; the original for comparison.

    What is put back comes with what it needs. A factor without which both arms would be the same
    text stays, or there would be no gap to add to. Nothing is drawn. Raises DesignError.
    """
    law = target_law(factors, names, None, exclude)
    proper("train_share", train_share)
    original, _ = _fixed(law)
    gone = _stripping(law, factors)
    stripped = law.close(gone)
    needs = _needs_of(factors, law)
    added = []
    for name in gone:
        for level in law.levels[name]:
            if level == gone[name]:
                continue
            condition = _put_back(law, gone, needs[name], name, level)
            if condition and condition not in (original, stripped) and law.allows(condition):
                added.append(condition)
    added = list(dict.fromkeys(added))
    _check_stripped(law, stripped)
    if not added:
        raise DesignError(
            f"nothing but the original comes from putting back {', '.join(gone)}: "
            "vary more factors, or exclude less"
        )
    _enough(trials, 2 + len(added))
    more = math.sqrt(len(added))
    total = 2 * more + len(added)
    shares = [more / total, more / total] + [1 / total] * len(added)
    mass = 1 - shares[0]
    return Design(
        kind="add_one",
        conditions=(original, stripped, *added),
        parts=("original", "stripped") + ("added",) * len(added),
        weights=tuple(shares),
        probabilities=(None,) * len(shares),
        masses=(0.0, *(share / mass for share in shares[1:])),
        train_share=train_share,
        law="all other features removed",
        notes=_kept_cue(law, gone),
    )


def full(
    factors: Factors,
    *,
    trials: int,
    rng: np.random.Generator,
    names: Names = None,
    exclude: Sequence[Exclusion] = (),
    train_share: float = 0.5,
) -> Design:
    """Every combination of levels, equally often. Nothing is drawn. Raises DesignError."""
    law = target_law(factors, names, None, exclude)
    proper("train_share", train_share)
    if law.size > max(trials, 1 << 12):
        raise DesignError(
            f"a full design of {len(law.levels)} factors has {law.size:,} conditions: vary fewer "
            "factors, or choose a fractional, d_optimal or mixed design"
        )
    choices = [
        dict(zip(law.levels, c, strict=True)) for c in itertools.product(*law.levels.values())
    ]
    return _balanced("full", law, choices, trials, train_share)


def fractional(
    factors: Factors,
    *,
    trials: int,
    rng: np.random.Generator,
    names: Names = None,
    exclude: Sequence[Exclusion] = (),
    resolution: int | None = None,
    conditions: int | None = None,
    train_share: float = 0.5,
) -> Design:
    """A regular fraction 2^(k-p) of minimum aberration, of factors with two levels each.

    `resolution` (default 4: no main effect is aliased with a two-factor interaction) or the
    number of `conditions` says how large. The generators are in `notes`. Raises DesignError.
    """
    law = target_law(factors, names, None, exclude)
    proper("train_share", train_share)
    _two_levels(law, "fractional")
    if resolution is None and conditions is None:
        resolution = min(4, len(law.levels))
    try:
        chosen = fraction(len(law.levels), resolution=resolution, runs=conditions)
    except FractionError as error:
        raise DesignError(_of_conditions(error)) from None
    order = list(law.levels)
    generators = [
        f"{order[chosen.basic + i]} = {' x '.join(order[j] for j in words)}"
        for i, words in enumerate(chosen.generators)
    ]
    return _balanced(
        "fractional",
        law,
        _choices(law, chosen.runs),
        trials,
        train_share,
        notes=(f"generators: {', '.join(generators)}",) if generators else (),
    )


def plackett_burman_design(
    factors: Factors,
    *,
    trials: int,
    rng: np.random.Generator,
    names: Names = None,
    exclude: Sequence[Exclusion] = (),
    conditions: int | None = None,
    train_share: float = 0.5,
) -> Design:
    """Plackett and Burman's (1946) smallest orthogonal design; a screen, never a confirmation.

    Every main effect is partly aliased with nearly all two-factor interactions. Raises DesignError.
    """
    law = target_law(factors, names, None, exclude)
    proper("train_share", train_share)
    _two_levels(law, "plackett_burman")
    try:
        runs = plackett_burman_runs(len(law.levels)) if conditions is None else conditions
        array = plackett_burman(runs)
    except FractionError as error:
        raise DesignError(_of_conditions(error)) from None
    if array.shape[1] < len(law.levels):
        raise DesignError(
            f"{runs} conditions take {array.shape[1]} factors, not {len(law.levels)}: set "
            f"conditions to {plackett_burman_runs(len(law.levels))}"
        )
    choices = _choices(law, array[:, : len(law.levels)])
    return _balanced("plackett_burman", law, choices, trials, train_share)


def d_optimal(
    factors: Factors,
    *,
    trials: int,
    rng: np.random.Generator,
    names: Names = None,
    exclude: Sequence[Exclusion] = (),
    conditions: int | None = None,
    interactions: Sequence[tuple[str, str]] = (),
    train_share: float = 0.5,
) -> Design:
    """The conditions that estimate main effects, and chosen interactions, most precisely.

    Coordinate exchange (Meyer and Nachtsheim 1995) over what needs and exclusions leave; the
    original is one of them. `conditions` defaults to twice the number of parameters. Raises
    DesignError.
    """
    law = target_law(factors, names, None, exclude)
    proper("train_share", train_share)
    order = list(law.levels)
    counts = [len(law.levels[name]) for name in order]
    for pair in interactions:
        for name in pair:
            if name not in order:
                raise DesignError(
                    f"interactions: `{name}` is not varied{nearest(name, order)}: "
                    f"name two of {', '.join(order)}"
                )
        if pair[0] == pair[1]:
            raise DesignError(f"interactions: `{pair[0]}` with itself: name two factors")
    pairs = [(order.index(a), order.index(b)) for a, b in interactions]
    parameters = 1 + sum(c - 1 for c in counts)
    parameters += sum((counts[a] - 1) * (counts[b] - 1) for a, b in pairs)
    runs = 4 * math.ceil(parameters / 2) if conditions is None else conditions
    if runs < parameters:
        raise DesignError(
            f"{runs} conditions for {parameters} parameters: "
            f"set conditions to at least {parameters}"
        )
    _enough(trials, runs)

    def settle(choice: tuple[int, ...]) -> tuple[int, ...] | None:
        condition = law.close({n: law.levels[n][i] for n, i in zip(order, choice, strict=True)})
        if not law.allows(condition):
            return None
        levels = dict(condition.levels)
        return tuple(-1 if (at := levels[n]) is None else law.levels[n].index(at) for n in order)

    start = settle((0,) * len(order))
    assert start is not None, "the original is never excluded"
    try:
        rows = d_optimal_runs(
            counts,
            runs,
            rng=rng,
            settle=settle,
            interactions=pairs,
            keep=[start],
            seeds=_seeds(counts, runs),
        )
    except ExchangeError as error:
        lost = [_effect(order, law, term) for term in model_terms(counts, pairs)]
        if error.columns:
            raise DesignError(
                "no allowed condition tells these apart from the rest: "
                f"{', '.join(lost[column] for column in error.columns)}: "
                "leave one of them out, or exclude less"
            ) from None
        raise DesignError(_of_conditions(error)) from None
    return _balanced("d_optimal", law, _choices(law, rows), trials, train_share)


def orders(
    factors: Factors,
    *,
    trials: int,
    rng: np.random.Generator,
    names: Names = None,
    exclude: Sequence[Exclusion] = (),
    orders: int | None = None,
    train_share: float = 2 / 3,
) -> Design:
    """Nested conditions along random removal orders, from the original to the stripped prompt.

    For attribution: along an order every removal has a contribution, and these add up to the two
    end points. Orders come k at a time as a random cyclic Latin square, so that each factor is
    taken out at each place equally often; what needs a factor goes before it. A factor without
    which both arms would be the same text stays. `orders` defaults to k. Raises DesignError.
    """
    law = target_law(factors, names, None, exclude)
    proper("train_share", train_share)
    gone = _stripping(law, factors)
    if orders is not None and orders < 1:
        raise DesignError(f"orders is {orders}: set it to at least 1")
    _check_stripped(law, law.close(gone))
    wanted = len(gone) if orders is None else orders
    after = dependants(factors, gone)
    times: dict[Condition, int] = {}
    found, tries = 0, 0
    while found < wanted:
        tries += 1
        if tries > 200 * math.ceil(wanted / len(gone)):
            raise DesignError(
                f"only {found} of {wanted} removal orders avoid what is excluded: exclude less"
                f"{f', or set orders to {found}' if found else ''}"
            )
        square = [list(gone)[i] for i in rng.permutation(len(gone))]
        for shift in range(len(gone)):
            chain = _chain(law, gone, square[shift:] + square[:shift], after)
            if found < wanted and all(law.allows(c) for c in chain):
                found += 1
                for condition in chain:
                    times[condition] = times.get(condition, 0) + 1
    _enough(trials, len(times))
    original, stripped = law.original, law.close(gone)
    raw = [math.sqrt(n) for n in times.values()]
    weights = tuple(r / sum(raw) for r in raw)
    parts = {original: "original", stripped: "stripped"}
    return Design(
        kind="orders",
        conditions=tuple(times),
        parts=tuple(parts.get(c, "order") for c in times),
        weights=weights,
        probabilities=(None,) * len(times),
        masses=weights,
        train_share=train_share,
        law="the conditions along the removal orders",
        notes=(f"{wanted} removal orders", *_kept_cue(law, gone)),
    )


def listed(
    factors: Factors,
    *,
    trials: int,
    rng: np.random.Generator,
    listed: Sequence[Mapping[str, str]],
    names: Names = None,
    exclude: Sequence[Exclusion] = (),
    train_share: float = 2 / 3,
) -> Design:
    """The conditions that somebody chose, equally often, closed like any. Raises DesignError."""
    law = target_law(factors, names, None, exclude)
    proper("train_share", train_share)
    if not listed:
        raise DesignError("the list of conditions is empty: give at least the original and another")
    for number, chosen in enumerate(listed, 1):
        for name, level in chosen.items():
            if name not in law.levels or level not in law.levels[name]:
                raise DesignError(
                    f"listed condition {number}: `{name}={level}` is not tried: "
                    "use factors and levels of the design"
                )
        if not law.allows(law.close(chosen)):
            raise DesignError(f"listed condition {number} is excluded: take it out of the list")
    return _balanced("listed", law, listed, trials, train_share, needed=False)


DESIGNS: dict[str, Callable[..., Design]] = {
    "mixed": mixed,
    "one_at_a_time": one_at_a_time,
    "two_stage": two_stage,
    "add_one": add_one,
    "random": random_removals,
    "orders": orders,
    "full": full,
    "fractional": fractional,
    "plackett_burman": plackett_burman_design,
    "d_optimal": d_optimal,
    "listed": listed,
}


def _fixed(law: Law) -> tuple[Condition, tuple[Condition, ...]]:
    singles = law.singles
    if not singles:
        raise DesignError(
            f"no factor can be changed on its own: what {', '.join(law.levels)} need is not there, "
            "or excluded: vary what they need too, or exclude less"
        )
    return law.original, singles


def _random_part(
    law: Law,
    settled: set[Condition],
    count: int | Literal["fresh"],
    stratum: float,
    train_share: float,
    rng: np.random.Generator,
    outside: float,
) -> dict[Condition, float]:
    """The drawn conditions with their shares; none when there is hardly anything to draw."""
    if count != "fresh" and count < 1:
        raise DesignError(f"random_conditions is {count}: set it to at least 1, or to `fresh`")
    if outside <= 1e-9:
        return {}
    if count != "fresh":
        return systematic(law, settled, count, rng)
    return slots(law, settled, max(1, round(stratum * min(train_share, 1 - train_share))), rng)


def _balanced(
    kind: str,
    law: Law,
    choices: Iterable[Mapping[str, str]],
    trials: int,
    train_share: float,
    *,
    needed: bool = True,
    notes: tuple[str, ...] = (),
) -> Design:
    """A design whose rows count the same; rows that settle alike are one condition.

    Averaged effects average over the rows themselves. Where exclusions leave rows out and `needed`
    says that the main effects must be estimable, they are checked.
    """
    times: dict[Condition, int] = {}
    left_out = 0
    for choice in choices:
        condition = law.close(choice)
        if law.allows(condition):
            times[condition] = times.get(condition, 0) + 1
        else:
            left_out += 1
    _enough(trials, len(times))
    if needed and left_out:
        _estimable(law, times, kind)
    total = sum(times.values())
    weights = tuple(n / total for n in times.values())
    parts = {law.original: "original"} | dict.fromkeys(law.singles, "single")
    if left_out:
        notes = (*notes, f"{left_out} excluded combinations left out: no longer orthogonal")
    return Design(
        kind=kind,
        conditions=tuple(times),
        parts=tuple(parts.get(c, kind) for c in times),
        weights=weights,
        probabilities=(None,) * len(times),
        masses=weights,
        train_share=train_share,
        law="the design's own conditions, equally often",
        notes=notes,
    )


def _estimable(law: Law, conditions: Iterable[Condition], kind: str) -> None:
    rows = [dict(c.levels) for c in conditions]
    columns = [
        [1.0 if row[name] == at else 0.0 for row in rows]
        for name, levels in law.levels.items()
        for at in levels[1:]
    ]
    matrix = np.array([[1.0] * len(rows), *columns])
    if np.linalg.matrix_rank(matrix) < len(matrix):
        raise DesignError(
            f"the exclusions leave {len(rows)} conditions of the {kind} design, which cannot tell "
            "all factors apart: exclude less, or choose d_optimal"
        )


def _choices(law: Law, rows: Iterable[Iterable[int]]) -> list[dict[str, str]]:
    """Rows of level numbers as levels; a factor that is not applicable is at its reference."""
    return [
        {name: law.levels[name][max(int(i), 0)] for name, i in zip(law.levels, row, strict=True)}
        for row in rows
    ]


def _two_levels(law: Law, kind: str) -> None:
    for name, levels in law.levels.items():
        if len(levels) != 2:
            raise DesignError(
                f"factor `{name}` has {len(levels)} levels and a {kind} design takes 2: "
                "name one beside the original in design.levels, or choose d_optimal"
            )


def _seeds(counts: Sequence[int], runs: int) -> list[NDArray[np.int64]]:
    """Orthogonal arrays of this size, where there are some: the search need not find them."""
    if any(c != 2 for c in counts):
        return []
    found = []
    with contextlib.suppress(FractionError):
        found.append(fraction(len(counts), runs=runs).runs)
    with contextlib.suppress(FractionError):
        found.append(plackett_burman(runs))
    fit = [array for array in found if array.shape[1] >= len(counts)]
    return [array[:, : len(counts)].astype(np.int64) for array in fit]


def _of_conditions(error: Exception) -> str:
    """What a builder of runs says, in the words of a design: its runs are our conditions."""
    return str(error).replace("runs", "conditions")


def _effect(order: Sequence[str], law: Law, term: Iterable[tuple[int, int]]) -> str:
    levels = [f"`{order[i]}={law.levels[order[i]][at]}`" for i, at in term]
    return " x ".join(levels) or "the original"


def _stripping(law: Law, factors: Factors) -> dict[str, str]:
    """The level at which each factor is gone; without those that keep the arms apart."""
    gone = {name: REMOVED if REMOVED in at else at[-1] for name, at in law.levels.items()}
    if isinstance(factors, Scenario) and {"train", "deploy"} <= factors.arms.keys():
        for name, level in tuple(gone.items()):
            if factors.is_structural_zero(law.single(name, level)):
                del gone[name]
        # Where several tell the arms apart, one of them is enough to stay.
        for name in tuple(gone):
            rest = {n: at for n, at in gone.items() if n != name}
            if factors.is_structural_zero(law.close(gone)) and not factors.is_structural_zero(
                law.close(rest)
            ):
                gone = rest
    if not gone:
        raise DesignError("without any of the factors both arms are the same text: vary another")
    return gone


def _put_back(
    law: Law, gone: Mapping[str, str], needs: Iterable[str], name: str, level: str
) -> Condition | None:
    """The stripped prompt with a feature and as few others as it needs, references first."""
    needed = [need for need in law.levels if need in needs and need in gone]
    choices = itertools.product(*(law.levels[need] for need in needed))

    def put_back(levels: tuple[str, ...]) -> int:
        return sum(at != gone[need] for need, at in zip(needed, levels, strict=True))

    for levels in sorted(choices, key=put_back):
        condition = law.close({**gone, **dict(zip(needed, levels, strict=True)), name: level})
        if condition[name] == level:
            return condition
    return None


def _check_stripped(law: Law, stripped: Condition) -> None:
    if stripped == law.original:
        raise DesignError(
            f"nothing of {', '.join(law.levels)} can be removed with both arms kept apart: "
            "vary another factor"
        )
    for exclusion in law.exclusions:
        levels = dict(stripped.levels)
        if all(levels[name] == at for name, at in exclusion.items()):
            said = ",".join(f"{name}={at}" for name, at in exclusion.items())
            raise DesignError(f"exclude: `{said}` excludes the stripped prompt: take it back")


def _kept_cue(law: Law, gone: Mapping[str, str]) -> tuple[str, ...]:
    kept = [name for name in law.levels if name not in gone]
    return (f"{', '.join(kept)} stays: without it both arms are the same text",) if kept else ()


def _needs_of(factors: Factors, law: Law) -> dict[str, frozenset[str]]:
    after = dependants(factors, law.levels)
    return {
        name: frozenset(n for n, later in after.items() if name in later) for name in law.levels
    }


def _chain(
    law: Law, gone: Mapping[str, str], order: Sequence[str], after: Mapping[str, frozenset[str]]
) -> list[Condition]:
    """The nested conditions of a removal order, mended so that what needs a factor goes first."""
    left, levels = list(order), {}
    found = [law.original]
    while left:
        name = next(n for n in left if not after[n] & set(left))
        left.remove(name)
        levels[name] = gone[name]
        found.append(law.close(levels))
    return list(dict.fromkeys(found))


def _beyond(found: Screened, bar: float) -> float:
    """Chance that an effect is at least as large as `bar`, either way."""
    error = max(found.std_error, 1e-9)
    normal = NormalDist(found.estimate, error)
    return max(1e-3, 1 - normal.cdf(bar) + normal.cdf(-bar))


def _relabelled(design: Design, kind: str, weights: tuple[float, ...], spent: float) -> Design:
    return Design(
        kind=kind,
        conditions=design.conditions,
        parts=design.parts,
        weights=weights,
        probabilities=design.probabilities,
        masses=None,
        train_share=design.train_share,
        spent=spent,
    )


def _away(law: Law) -> str:
    return f"each feature away from its original with probability {law.rate:.3g}"


def _enough(trials: int, conditions: int) -> None:
    if trials < 2 * conditions:
        raise DesignError(
            f"{trials} trials for {conditions} conditions in two arms: "
            f"set trials to at least {2 * conditions}"
        )
