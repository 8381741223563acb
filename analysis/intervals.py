"""Intervals: the one place where an estimate and its error become bounds and a p-value.

Takes estimates with standard errors and degrees of freedom, or counts; gives 95 % bounds.
Does not know what is estimated.
"""

import math
from dataclasses import dataclass

from scipy import special

__all__ = [
    "Interval",
    "newcombe",
    "normal_quantile",
    "t_interval",
    "t_quantile",
    "wilson",
    "z_interval",
]

LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """Bounds at 95 %, with the statistic and two-sided p-value where there is a test."""

    low: float
    high: float
    statistic: float | None = None
    p_value: float | None = None


def t_quantile(probability: float, df: float) -> float:
    """Quantile of Student's t with `df` degrees of freedom."""
    return float(special.stdtrit(df, probability))


def t_interval(estimate: float, std_error: float, df: float) -> Interval:
    """Student-t interval and two-sided test of 0; `std_error` and `df` must be above 0."""
    reach = t_quantile(0.5 + LEVEL / 2, df) * std_error
    statistic = estimate / std_error
    p_value = 2 * float(special.stdtr(df, -abs(statistic)))
    return Interval(estimate - reach, estimate + reach, statistic, p_value)


def normal_quantile(probability: float) -> float:
    """Quantile of the standard normal."""
    return float(special.ndtri(probability))


def z_interval(estimate: float, std_error: float) -> Interval:
    """Normal interval and two-sided test of 0; `std_error` must be above 0."""
    reach = normal_quantile(0.5 + LEVEL / 2) * std_error
    statistic = estimate / std_error
    p_value = 2 * float(special.ndtr(-abs(statistic)))
    return Interval(estimate - reach, estimate + reach, statistic, p_value)


def wilson(successes: float, trials: float) -> Interval:
    """Wilson score interval of a proportion (Wilson 1927); honest at 0 and at 1."""
    z = normal_quantile(0.5 + LEVEL / 2)
    share = successes / trials
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    reach = z / (1 + z * z / trials)
    reach *= math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return Interval(max(0.0, centre - reach), min(1.0, centre + reach))


def newcombe(k1: float, n1: float, k0: float, n0: float) -> Interval:
    """Hybrid score interval of p1 - p0 for independent samples (Newcombe 1998, method 10)."""
    p1, p0 = k1 / n1, k0 / n0
    one, zero = wilson(k1, n1), wilson(k0, n0)
    low = p1 - p0 - math.hypot(p1 - one.low, zero.high - p0)
    high = p1 - p0 + math.hypot(one.high - p1, p0 - zero.low)
    return Interval(low, high)
