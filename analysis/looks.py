"""Looks at a study before its end: how far an estimate must stand out to count already.

Takes estimates made after so many complete query blocks, with their errors; gives boundaries,
whether a look's test crosses, and intervals that hold at every look. The unit of looking is a
complete query block: all conditions and arms of its queries. Does not know what is estimated, nor
who decides to stop.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from analysis.intervals import Interval, normal_quantile, t_interval, t_quantile

__all__ = [
    "Boundary",
    "Interim",
    "Look",
    "LooksError",
    "anytime_interval",
    "boundaries",
    "confidence_sequence",
    "look",
    "mixture_rho",
    "spent",
]

MOST_LOOKS = 5
NODES = 400
# Before this many blocks an asymptotic sequence covers less than it says: of normal differences
# 5 to 6 % are missed from block 10 on, of gaps near 0 over 7 %.
FIRST_BLOCKS = 20
# Beyond this many standard deviations a normal density adds nothing to a boundary.
FAR = 12.0


class LooksError(ValueError):
    """Looks that cannot be tested; the message says which one and what to change."""


@dataclass(frozen=True, slots=True)
class Boundary:
    """Where a look stands: share of the information, error spent until then, |z| to pass.

    `nominal_p` is the two-sided p-value of `z`: a test of any reference distribution crosses when
    its p-value is at most this.
    """

    fraction: float
    spent: float
    z: float
    nominal_p: float


@dataclass(frozen=True, slots=True)
class Interim:
    """An estimate over all complete blocks so far, with its error and their number of queries."""

    estimate: float
    std_error: float | None
    queries: int


@dataclass(frozen=True, slots=True)
class Look:
    """One look's test: its boundary, Student's t, and whether it crosses.

    `low` and `high` are the repeated interval of Jennison and Turnbull (1989): it holds for all
    looks together. `crosses` is None where there is no standard error.
    """

    boundary: Boundary
    statistic: float | None
    df: int
    p_value: float | None
    low: float | None
    high: float | None
    crosses: bool | None


def spent(fraction: float, alpha: float = 0.05) -> float:
    """Two-sided error spent by an information fraction in (0, 1], O'Brien-Fleming type.

    `2 x (2 - 2 Phi(z_{1 - alpha/4} / sqrt(t)))`: each side spends alpha / 2 (Lan and DeMets 1983).
    """
    return 4 * float(special.ndtr(-normal_quantile(1 - alpha / 4) / math.sqrt(fraction)))


def boundaries(fractions: Sequence[float], alpha: float = 0.05) -> tuple[Boundary, ...]:
    """Symmetric boundaries of the looks at these information fractions.

    At most five, rising, in (0, 1]; looks that are still to come may be left out, for a boundary
    depends on earlier looks only. The score is a Brownian motion; the probability of passing a
    look first is integrated by the recursion of Armitage, McPherson and Rowe (1969). Raises
    LooksError.
    """
    _check_fractions(fractions)
    found: list[Boundary] = []
    nodes, weights = _quadrature()
    points, mass = np.zeros(1), np.ones(1)
    for t in fractions:
        before = found[-1] if found else Boundary(0.0, 0.0, 0.0, 1.0)
        total = spent(t, alpha)
        step = math.sqrt(t - before.fraction)
        z = _crossing(points, mass, step, math.sqrt(t), total - before.spent)
        found.append(Boundary(t, total, z, 2 * float(special.ndtr(-z))))
        edge = min(z, FAR) * math.sqrt(t)
        reached = nodes * edge
        kernel = np.exp(-(((reached[:, None] - points) / step) ** 2) / 2)
        density = kernel @ mass / (step * math.sqrt(2 * math.pi))
        points, mass = reached, density * weights * edge
    return tuple(found)


def look(
    interims: Sequence[Interim], planned_queries: int, alpha: float = 0.05
) -> tuple[Look, ...]:
    """Test of 0 at each look, two-sided, with error `alpha` over all of them together.

    `interims` in order, each over all complete blocks so far; `planned_queries` is the number at
    the planned end, and the information of a look is its share of them. With few queries the
    boundary is taken over as a nominal p-value to Student's t with queries - 1 degrees of
    freedom. Raises LooksError.
    """
    for number, interim in enumerate(interims, 1):
        if interim.queries < 2:
            raise LooksError(f"look {number} has {interim.queries} queries: wait for at least 2")
    fractions = [min(1.0, interim.queries / planned_queries) for interim in interims]
    return tuple(
        _look(interim, boundary)
        for interim, boundary in zip(interims, boundaries(fractions, alpha), strict=True)
    )


def mixture_rho(target_queries: int, alpha: float = 0.05) -> float:
    """The mixture parameter that makes the confidence sequence tightest at `target_queries`.

    `n rho^2 = -W_{-1}(-alpha^2 / e) - 1`, W the lower Lambert branch (Waudby-Smith, Arbour, Sinha,
    Kennedy and Ramdas 2021, arXiv 2103.06476).
    """
    if target_queries < 2:
        raise LooksError(f"the target is {target_queries} queries: it must be at least 2")
    best = -float(special.lambertw(-(alpha**2) / math.e, -1).real) - 1
    return math.sqrt(best / target_queries)


def anytime_interval(
    estimate: float, std_error: float, queries: int, rho: float, alpha: float = 0.05
) -> Interval:
    """Bounds that hold at every number of query blocks together, however the stop is chosen.

    `estimate +- s sqrt(2 (n r^2 + 1) / (n^2 r^2) log(sqrt(n r^2 + 1) / alpha))` with
    `s = std_error sqrt(n)` and n queries: Robbins' normal mixture in the asymptotic form of
    Waudby-Smith et al. 2021. Coverage is asymptotic: do not read it before 20 blocks, and with
    one trial a cell and rare outcomes not before some hundred.
    """
    known = queries * rho**2
    reach = std_error * math.sqrt(2 * (known + 1) / known * math.log(math.sqrt(known + 1) / alpha))
    return Interval(estimate - reach, estimate + reach)


def confidence_sequence(
    differences: NDArray[np.float64], target_queries: int, alpha: float = 0.05
) -> NDArray[np.float64]:
    """Running bounds (n, 2) of the mean of one difference per query block, in order of arrival.

    NaN before 20 blocks, and as long as no block differs from another.
    """
    rho = mixture_rho(target_queries, alpha)
    bounds = np.full((len(differences), 2), np.nan)
    for n in range(FIRST_BLOCKS, len(differences) + 1):
        seen = differences[:n]
        error = float(seen.std(ddof=1)) / math.sqrt(n)
        if error > 0:
            interval = anytime_interval(float(seen.mean()), error, n, rho, alpha)
            bounds[n - 1] = interval.low, interval.high
    return bounds


@functools.cache
def _quadrature() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    return np.asarray(nodes), np.asarray(weights)


def _crossing(
    points: NDArray[np.float64],
    mass: NDArray[np.float64],
    step: float,
    scale: float,
    error: float,
) -> float:
    """The |z| that paths, now at `points` with `mass`, pass with probability `error`."""
    from scipy import optimize

    def excess(z: float) -> float:
        edge = z * scale
        tails = special.ndtr((points - edge) / step) + special.ndtr((-edge - points) / step)
        return float(mass @ tails) - error

    return float(optimize.brentq(excess, 0.0, 37.0, xtol=1e-12))


def _look(interim: Interim, boundary: Boundary) -> Look:
    df = interim.queries - 1
    if not interim.std_error:
        return Look(boundary, None, df, None, None, None, None)
    test = t_interval(interim.estimate, interim.std_error, df)
    reach = -t_quantile(boundary.nominal_p / 2, df) * interim.std_error
    return Look(
        boundary,
        test.statistic,
        df,
        test.p_value,
        interim.estimate - reach,
        interim.estimate + reach,
        test.p_value is not None and test.p_value <= boundary.nominal_p,
    )


def _check_fractions(fractions: Sequence[float]) -> None:
    if not 1 <= len(fractions) <= MOST_LOOKS:
        raise LooksError(f"{len(fractions)} looks: plan 2 to {MOST_LOOKS} looks, the last at 1")
    for before, after in zip((0.0, *fractions), fractions, strict=False):
        if not before < after <= 1:
            raise LooksError(
                f"a look at {after:g} of the planned queries after one at {before:g}: looks must "
                "rise and end at 1; leave out a look that adds no block, or one past the end"
            )
