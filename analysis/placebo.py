"""Placebo: where the effect of taking a feature out falls among those of edits that mean nothing.

Takes, per query, what each placebo edit of the original and each feature does to the gap; gives
the spread of true placebo effects with bounds, and for a feature the share of placebos that do at
least as much, once sampling error is made equal. The same spread serves fillers.
Does not know how an edit was made or what a feature says.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from analysis.stimuli import Stimuli, cell_gaps
from analysis.synthesis import Spread, correlated_effects, covariance_of_means, heterogeneity

__all__ = ["Calibrated", "Edits", "changes", "filler_spread", "p_placebo", "placebo_spread"]

Array = NDArray[np.float64]

# What a null distribution, and a statement on fillers in general, need at least.
LEAST_PLACEBOS = 10
LEAST_FILLERS = 3
# With 19 placebos the smallest p-value is .05.
ENOUGH_PLACEBOS = 19
# Values of tau over which a count is averaged.
POINTS = 25


@dataclass(frozen=True, slots=True)
class Edits:
    """The spread of true effects of edits; None where there are too few, and `note` says so.

    `spread.low` and `spread.high` are where one more edit's true effect falls (95 %).
    """

    spread: Spread | None
    note: str | None


@dataclass(frozen=True, slots=True)
class Calibrated:
    """A feature among placebos: `p_value = (1 + as_large) / (1 + placebos)`.

    `as_large` need not be whole: it is averaged over what the placebos' spread may be. None, with
    the reason in `note`, where it cannot be said.
    """

    p_value: float | None
    as_large: float | None
    placebos: int
    note: str | None


def changes(before: pl.DataFrame, afters: Mapping[str, pl.DataFrame], outcome: str) -> Stimuli:
    """Gap of each edited condition minus gap of the original, paired by query.

    `before` has the trials of the original without placebo edits, `afters` those of each placebo,
    feature or filler by its name (columns `query`, `arm` and the outcome). Rows are the queries of
    `before`, so that tables made from the same `before` fit together.
    """
    original = cell_gaps(before, outcome, ["query"]).sort("query")
    queries = original["query"].to_list()
    columns = []
    for frame in afters.values():
        after = cell_gaps(frame, outcome, ["query"])
        both = original.join(after, on="query", how="left", suffix="_after").sort("query")
        change = both.select(pl.col("gap_after") - pl.col("gap")).to_series()
        columns.append(change.fill_null(float("nan")).to_numpy())
    values = np.column_stack(columns) if columns else np.empty((len(queries), 0))
    return Stimuli(tuple(map(str, queries)), tuple(afters), values)


def p_placebo(placebos: Stimuli, feature: Array) -> Calibrated:
    """Where a feature's gap effect falls among placebo edits, as an absolute effect.

    `feature` has its effect per query of `placebos`, NaN where not observed. With equal errors
    this is the plain count of placebos whose absolute effect is at least as large. Otherwise each
    placebo effect is first brought to the feature's error: its distance from the mean of the other
    placebos is multiplied by `sqrt((tau^2 + s_feature^2) / (tau^2 + s_placebo^2))`, with s the
    sampling error given the original's trials. Those trials move all effects alike; the shift is
    in the placebos' mean and so in both sides of the comparison. s^2 is by Grubbs 1948 from the
    queries; the count is averaged over the values of tau that Q's chi-squared law allows (with the
    best single tau, the test of a feature that is more precise than the placebos is too large).
    """
    table, note = _usable(placebos, 2, LEAST_PLACEBOS, "placebo edits")
    count = len(table.names)
    seen = np.isfinite(feature)
    if note is None and seen.sum() < 2:
        note = "no p_placebo: the feature has fewer than two queries"
    covariance = None
    if note is None:
        together = np.column_stack([table.values, feature])
        covariance = covariance_of_means(together, alike=False)
    if covariance is None:
        return Calibrated(None, None, count, note)
    effects = np.nanmean(table.values, axis=0)
    effect = float(feature[seen].mean())
    errors = _given_the_original(covariance)
    between = heterogeneity(effects, covariance[:count, :count])
    others = (effects.sum() - effects) / (count - 1)
    counts = []
    for tau in between.taus(POINTS).tolist():
        own, theirs = tau**2 + errors[count], tau**2 + errors[:count]
        ratio = np.sqrt(own / np.where(theirs > 0, theirs, 1.0))
        # A placebo without any spread or error stays where it is.
        moved = others + (effects - others) * np.where(theirs > 0, ratio, 1.0)
        counts.append(int((np.abs(moved) >= abs(effect) - 1e-12).sum()))
    as_large = float(np.mean(counts))
    if count < ENOUGH_PLACEBOS:
        note = f"{count} placebo edits: p_placebo cannot be below {1 / (1 + count):.3f}"
    return Calibrated((1 + as_large) / (1 + count), as_large, count, note)


def placebo_spread(placebos: Stimuli) -> Edits:
    """Spread of the true effects of placebo edits: the band within which any edit moves the gap.

    Paule and Mandel with Q-profile bounds, given the errors that the queries and the shared trials
    of the original make (Viechtbauer 2007).
    """
    return _spread(placebos, LEAST_PLACEBOS, "placebo edits")


def filler_spread(fillers: Stimuli) -> Edits:
    """Spread of a feature's effect over the fillers that took its place; filler is random."""
    return _spread(fillers, LEAST_FILLERS, "fillers")


def _spread(edits: Stimuli, least: int, what: str) -> Edits:
    table, note = _usable(edits, 2, least, what)
    if note is not None:
        return Edits(None, note)
    covariance = covariance_of_means(table.values, alike=False)
    if covariance is None:
        return Edits(None, f"no spread: too few queries for {what}")
    return Edits(correlated_effects(np.nanmean(table.values, axis=0), covariance), None)


def _usable(edits: Stimuli, queries: int, least: int, what: str) -> tuple[Stimuli, str | None]:
    """The edits with enough queries, and the reason if these are too few."""
    kept = np.isfinite(edits.values).sum(axis=0) >= queries
    names = tuple(name for name, there in zip(edits.names, kept, strict=True) if there)
    note = None
    if len(names) < least:
        note = f"{len(names)} {what} with {queries} queries or more: plan at least {least}"
    return Stimuli(edits.queries, names, edits.values[:, kept]), note


def _given_the_original(covariance: Array) -> Array:
    """Variance of each effect around the shift that the effects have in common."""
    k = len(covariance)
    pairs = covariance.copy()
    np.fill_diagonal(pairs, 0.0)
    common = pairs.sum() / (k * (k - 1))
    found = np.diag(covariance) - 2 * pairs.sum(axis=1) / (k - 1) + common
    return np.asarray(np.maximum(found, 0.0), dtype=np.float64)
