"""Surfaces: subjects whose rate in every condition, arm and query is known, so that truth is exact.

Gives the four patterns of response with k = 8, random surfaces of 6 to 12 factors, and those of a
JSON file; with each its simple and averaged gap effects by enumeration of all 2^k conditions.
Does not know designs, trials or estimators.
"""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, ndtri

__all__ = [
    "FORMAT",
    "MeanRates",
    "Surface",
    "SurfaceError",
    "conditions",
    "law_probabilities",
    "load_surfaces",
    "patterns",
    "random_surfaces",
]

Floats = NDArray[np.float64]

QUERIES = 1500
QUERY_SD = 1.0
ARM_SD = 0.6
MOST_FACTORS = 14

FORMAT = """\
A file of surfaces is a JSON list of objects:
  name        any text
  factors     a number k, or the list of their names (at most 14)
  train       the rates of the train arm in all 2^k conditions, averaged over queries
  deploy      the same for the deploy arm
  query_sd    optional, default 0: SD over queries of the log-odds in both arms
  arm_sd      optional, default 0: SD over queries of a further shift of the train arm's log-odds
Rates are numbers from 0 to 1, written as one of
  a number    the same rate in every condition
  a list      2^k rates; place i is the condition that has factor j removed where bit j of i is
              set (the first factor is bit 0): original, 1st, 2nd, 1st+2nd, 3rd, ...
  an object   the names of the removed factors joined by +, in any order ("" is the original)
              -> rate; all 2^k of them, unless "else" gives the rate of those not named
              (factors given as a number are named f0, f1, ...)
Example: [{"name": "two needed", "factors": ["a", "b"], "deploy": 0.01,
           "train": {"": 0.2, "else": 0.01}, "query_sd": 1.0, "arm_sd": 0.6}]
"""


class SurfaceError(ValueError):
    """A file of surfaces that cannot be read; the message says what, where, and what to write."""


@dataclass(frozen=True, slots=True)
class Surface:
    """Rates of a subject: `train` and `deploy` are queries x 2^k; condition i has bit j removed."""

    name: str
    factors: tuple[str, ...]
    train: Floats
    deploy: Floats

    @property
    def gap(self) -> Floats:
        """The gap of each query in each condition, queries x 2^k."""
        return self.train - self.deploy

    def simple(self) -> Floats:
        """Gap effect of each single removal, queries x k."""
        singles = 1 << np.arange(len(self.factors))
        return self.gap[:, singles] - self.gap[:, [0]]

    def averaged(self, rate: float) -> Floats:
        """Gap effect of each factor with all others away with probability `rate`, queries x k."""
        k = len(self.factors)
        gap, law = self.gap, law_probabilities(k, rate)
        found = []
        for j in range(k):
            there = np.flatnonzero(~conditions(k)[:, j])
            away = there | 1 << j
            # Summed over both levels of the factor, the law of the others is left.
            found.append((gap[:, away] - gap[:, there]) @ (law[there] + law[away]))
        return np.column_stack(found)


@dataclass(frozen=True, slots=True)
class MeanRates:
    """Rates averaged over queries, 2^k of each arm, and how far the queries' log-odds spread.

    `query_sd` is the SD of a shift in both arms, `arm_sd` that of a further one in train.
    """

    name: str
    factors: tuple[str, ...]
    train: Floats
    deploy: Floats
    query_sd: float = 0.0
    arm_sd: float = 0.0

    def surface(self) -> Surface:
        """The surface of 1,500 queries that has these means."""
        u, z = deviations()
        both = self.query_sd * u
        train = _shifted(self.train, both + self.arm_sd * z)
        return Surface(self.name, self.factors, train, _shifted(self.deploy, both))


def conditions(k: int) -> NDArray[np.bool_]:
    """Which factors are removed in each condition, 2^k x k; condition i has bit j removed."""
    return (np.arange(1 << k)[:, None] >> np.arange(k) & 1).astype(bool)


def law_probabilities(k: int, rate: float) -> Floats:
    """Probability of each condition when every factor is removed independently with `rate`."""
    removed = conditions(k).sum(axis=1)
    return np.asarray(rate**removed * (1 - rate) ** (k - removed), dtype=np.float64)


def deviations() -> tuple[Floats, Floats]:
    """Standard normal deviations of the 1,500 queries, in both arms and in the train arm alone.

    They are the normal's quantiles in a fixed random order: the spread is exact.
    """
    rng = np.random.default_rng(1)
    grid = ndtri((np.arange(QUERIES) + 0.5) / QUERIES)
    return rng.permutation(grid), rng.permutation(grid)


# The logit of a rate near .01 where nothing is faked, and of one near .21 where it is.
FLOOR = -4.6
TOP = -1.65
LOG_EFFECTS = (1.5, 0.8, 0.7, 0.5, 0.3, 0.0, 0.0, 0.0)
ADD_GAP = 0.12
ADD_EFFECTS = (0.046, 0.02, 0.015, 0.01, 0.01, 0.01, 0.0, 0.0)


def patterns() -> tuple[Surface, ...]:
    """ADD, LOG, AND3 and OR of 8 factors, of which the first is the strongest.

    Query q has deviations u_q of SD 1 and s_q of SD .6. Deploy rate expit(-4.6 + u), on average
    .016, in LOG, AND3 and OR. LOG: train expit(-1.65 + u + s - sum of the removed effects).
    AND3: train expit(-1.65 + u + s) with the first three factors there, else the deploy rate.
    OR: likewise with the first and one of the next two there. The gap is .196. ADD: deploy .01,
    train .01 + (.12 - sum of the removed effects) exp(.6 z - .18), z standard normal over
    queries: additive in every query, gap .12.
    """
    removed = conditions(8)
    there = ~removed
    u, z = deviations()
    s = ARM_SD * z
    floor = expit(FLOOR + QUERY_SD * u)[:, None]
    top = expit(TOP + QUERY_SD * u + s)[:, None]
    scale = np.exp(s - ARM_SD**2 / 2)[:, None]
    log = expit(TOP + (u + s)[:, None] - (removed @ np.array(LOG_EFFECTS))[None])
    add = 0.01 + (ADD_GAP - removed @ np.array(ADD_EFFECTS))[None] * scale / scale.mean()
    and3 = np.where(there[:, 0] & there[:, 1] & there[:, 2], top, floor)
    either = np.where(there[:, 0] & (there[:, 1] | there[:, 2]), top, floor)
    deploy = np.repeat(floor, 256, axis=1)
    names = tuple(f"f{j}" for j in range(8))
    return (
        Surface("ADD", names, add, np.full_like(add, 0.01)),
        Surface("LOG", names, log, deploy),
        Surface("AND3", names, and3, deploy),
        Surface("OR", names, either, deploy),
    )


def random_surfaces(count: int, rng: np.random.Generator) -> Iterator[MeanRates]:
    """Random surfaces of 6 to 12 factors, the kinds in turn; at least two factors are inert.

    `train = deploy + (top - deploy) * a(condition)` on average over queries, `top - deploy`
    uniform on .1 to .35, `a` within 0 to 1. Three-way: a random sum of main effects, two-way and
    three-way products of what is there. Or-of-ands: 1 while any of two or three sets of one to
    three factors is complete, else a rest of up to .15. Sign-reversing: as three-way, with a
    factor that raises or lowers the gap depending on another one. Deploy at 0: additive on
    log-odds, and the deploy rate is 0. Else the deploy rate is .005 to .03 and the removal of one
    factor may double or halve it. Queries spread by 1.0 and .6 on the log-odds scale.
    """
    kinds = (_three_way, _or_of_ands, _sign_reversing, _on_log_odds)
    # Every kind meets every k before a pair comes again.
    pairs = itertools.cycle(itertools.product(range(6, 13), kinds))
    for number, (k, kind) in zip(range(count), pairs, strict=False):
        there = ~conditions(k)
        active = rng.permutation(k)[: rng.integers(4, k - 1)]
        gap = rng.uniform(0.1, 0.35)
        deploy = np.full(1 << k, rng.uniform(0.005, 0.03))
        if kind is _on_log_odds:
            deploy[:] = 0.0
        elif rng.random() < 0.5:
            deploy[~there[:, rng.integers(k)]] *= rng.choice([0.5, 2.0])
        train = deploy + gap * kind(there, active, rng)
        name = f"{number + 1:>2} {kind.__name__.strip('_').replace('_', '-')} k={k}"
        names = tuple(f"f{j}" for j in range(k))
        yield MeanRates(name, names, train, deploy, QUERY_SD, ARM_SD)


Truth = NDArray[np.bool_]


def _three_way(there: Truth, active: NDArray[np.int64], rng: np.random.Generator) -> Floats:
    sets = [rng.permutation(active)[:size] for size in (1, 1, 1, 2, 2, 3, 3)]
    weights = rng.dirichlet(np.ones(len(sets) + 1))
    products = [there[:, chosen].all(axis=1) for chosen in sets]
    return np.asarray(weights[0] + np.column_stack(products) @ weights[1:], dtype=np.float64)


def _or_of_ands(there: Truth, active: NDArray[np.int64], rng: np.random.Generator) -> Floats:
    sets = [rng.permutation(active)[: rng.integers(1, 4)] for _ in range(rng.integers(2, 4))]
    complete = np.column_stack([there[:, chosen].all(axis=1) for chosen in sets]).any(axis=1)
    return np.where(complete, 1.0, rng.uniform(0, 0.15))


def _sign_reversing(there: Truth, active: NDArray[np.int64], rng: np.random.Generator) -> Floats:
    first, second, *_ = rng.permutation(active)
    turn = np.where(there[:, second], 1.0, -1.0) * there[:, first]
    a = _three_way(there, active, rng) + rng.uniform(0.2, 0.6) * rng.choice([-1, 1]) * turn
    a = a - min(0.0, float(a.min()))
    return np.asarray(a / a.max(), dtype=np.float64)


def _on_log_odds(there: Truth, active: NDArray[np.int64], rng: np.random.Generator) -> Floats:
    effects = rng.exponential(0.8, len(active))
    lost = (~there[:, active]) @ effects
    return np.asarray(expit(-1.5 - lost) / expit(-1.5), dtype=np.float64)


def _shifted(rates: Floats, shifts: Floats) -> Floats:
    """Rates per query, queries x conditions, whose mean over queries is `rates`.

    The common log-odds are looked up and then improved by Newton's method, because their mean has
    no closed form.
    """
    distinct, places = np.unique(rates, return_inverse=True)
    inside = np.clip(distinct, 1e-9, 1 - 1e-9)
    grid = np.linspace(-40.0, 40.0, 801)
    centre = np.interp(inside, expit(grid[None] + shifts[:, None]).mean(axis=0), grid)
    for _ in range(3):
        found = expit(centre[None] + shifts[:, None])
        slope = np.maximum((found * (1 - found)).mean(axis=0), 1e-12)
        centre -= np.clip((found.mean(axis=0) - inside) / slope, -0.1, 0.1)
    found = expit(centre[None] + shifts[:, None])
    found[:, distinct == 0], found[:, distinct == 1] = 0.0, 1.0
    return np.asarray(found[:, places.reshape(-1)], dtype=np.float64)


def load_surfaces(path: Path) -> list[MeanRates]:
    """The surfaces of a JSON file in the format of `FORMAT`. Raises SurfaceError."""
    try:
        entries = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise SurfaceError(f"{path}: {error.strerror}: name a file that can be read") from None
    except ValueError as error:
        raise SurfaceError(f"{path}: no JSON: {error}") from None
    if not isinstance(entries, list) or not entries:
        raise SurfaceError(f"{path}: it must hold a list of at least one surface")
    found = []
    for number, entry in enumerate(entries, 1):
        where = f"{path}: surface {number}"
        if not isinstance(entry, dict):
            raise SurfaceError(f"{where}: it must be an object with name, factors, train, deploy")
        found.append(_surface(entry, where))
    return found


def _surface(entry: Mapping[str, Any], where: str) -> MeanRates:
    known = ("name", "factors", "train", "deploy", "query_sd", "arm_sd")
    if missing := [key for key in known[:4] if key not in entry]:
        raise SurfaceError(f"{where}: no `{missing[0]}` in it: add it")
    if unknown := [key for key in entry if key not in known]:
        raise SurfaceError(f"{where}: unknown key `{unknown[0]}`: it takes {', '.join(known)}")
    where += f" (`{entry['name']}`)"
    factors = _names(entry["factors"], where)
    sds = []
    for key in known[4:]:
        sd = entry.get(key, 0.0)
        if not _number(sd) or not 0 <= sd <= 5:
            raise SurfaceError(f"{where}: {key} is {sd!r}: write a number from 0 to 5")
        sds.append(float(sd))
    rates = [_rates(entry[arm], factors, f"{where}: {arm}") for arm in ("train", "deploy")]
    return MeanRates(str(entry["name"]), factors, rates[0], rates[1], sds[0], sds[1])


def _names(factors: object, where: str) -> tuple[str, ...]:
    if isinstance(factors, int) and not isinstance(factors, bool):
        factors = [f"f{j}" for j in range(factors)]
    if not isinstance(factors, list) or not all(isinstance(f, str) and f for f in factors):
        raise SurfaceError(f"{where}: factors must be a number or a list of names")
    if not 2 <= len(factors) <= MOST_FACTORS:
        raise SurfaceError(f"{where}: {len(factors)} factors: give 2 to {MOST_FACTORS}")
    if len(set(factors)) < len(factors) or any("+" in f or f == "else" for f in factors):
        raise SurfaceError(f"{where}: factor names must differ, hold no + and not be `else`")
    return tuple(factors)


def _rates(given: object, factors: Sequence[str], where: str) -> Floats:
    size = 1 << len(factors)
    values: list[Any]
    if _number(given):
        values = [given] * size
    elif isinstance(given, list):
        if len(given) != size:
            raise SurfaceError(f"{where}: {len(given)} rates for {size} conditions: give {size}")
        values = given
    elif isinstance(given, dict):
        values = _named(given, factors, where)
    else:
        raise SurfaceError(f"{where}: write a number, a list of {size} rates, or an object")
    for place, value in enumerate(values):
        if not _number(value) or not 0 <= value <= 1:
            condition = "+".join(f for j, f in enumerate(factors) if place >> j & 1) or "original"
            raise SurfaceError(f"{where}: {condition}: {value!r} is no rate from 0 to 1")
    return np.array(values, dtype=np.float64)


def _named(given: Mapping[str, Any], factors: Sequence[str], where: str) -> list[Any]:
    bits = {name: 1 << j for j, name in enumerate(factors)}
    values: list[Any] = [given.get("else")] * (1 << len(factors))
    seen = set()
    for key, value in given.items():
        if key == "else":
            continue
        names = [name.strip() for name in key.split("+")] if key.strip() else []
        if wrong := [name for name in names if name not in bits]:
            raise SurfaceError(
                f"{where}: `{key}`: no factor `{wrong[0]}`; there are {', '.join(factors)}"
            )
        place = sum(bits[name] for name in set(names))
        if place in seen or len(set(names)) < len(names):
            raise SurfaceError(f"{where}: `{key}`: named twice: name each condition once")
        seen.add(place)
        values[place] = value
    if "else" not in given and len(seen) < len(values):
        raise SurfaceError(
            f"{where}: {len(seen)} of {len(values)} conditions have a rate: "
            'give the others, or "else"'
        )
    return values


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
