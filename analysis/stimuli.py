"""Stimuli: wordings as a random sample, and what hangs on a single query or wording.

Takes trials, or a table of queries x wordings of what was estimated in each; gives the spread
between wordings with bounds, a prediction for a new one, the share above a threshold, and what an
estimate would be without any one query or wording.
Does not know what a wording says, nor which verdict follows.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from analysis.covariance import generalized_inverse
from analysis.intervals import Interval, t_interval
from analysis.synthesis import (
    Heterogeneity,
    Spread,
    correlated_effects,
    covariance_of_means,
    heterogeneity,
)

__all__ = [
    "Estimate",
    "Influence",
    "Means",
    "Sampled",
    "Share",
    "Stimuli",
    "Stimulus",
    "averages_by",
    "cell_gaps",
    "effects_by",
    "gaps_by",
    "leave_one_out",
    "next_stimulus",
    "paired_mean",
    "sampled",
    "share_above",
]

Array = NDArray[np.float64]

# Below this many wordings nothing is said about wordings in general.
LEAST_STIMULI = 5
# A standard error below this is rounding.
NO_ERROR = 1e-12
# Points at which the distribution of tau is taken for the interval of a share.
POINTS = 500


@dataclass(frozen=True, slots=True, eq=False)
class Stimuli:
    """What each query (row) says under each stimulus (column), as proportions; NaN: not observed.

    The estimate of a stimulus is the mean of its column, so queries count equally.
    """

    queries: tuple[str, ...]
    names: tuple[str, ...]
    values: Array


@dataclass(frozen=True, slots=True)
class Stimulus:
    """The estimate under one stimulus with Student's t over its queries; None where unknown."""

    name: str
    estimate: float
    std_error: float | None
    low: float | None
    high: float | None
    n_queries: int


@dataclass(frozen=True, slots=True)
class Means:
    """Student's t on the estimates of the stimuli: `se = sd / sqrt(W)`, df = W - 1.

    It lets the stimuli be others, not the queries: what all stimuli have in common because they
    were tried on the same queries is not in this error.
    """

    estimate: float
    std_error: float
    df: int
    interval: Interval


@dataclass(frozen=True, slots=True)
class Sampled:
    """Stimuli as a random sample; `spread` is None where there is nothing to estimate it from.

    `spread.tau` is the SD between the true values of stimuli with its 95 % bounds, `spread.low`
    and `spread.high` predict a new stimulus; `between` tests values of tau. `note` says why
    something is missing, or that there are too few stimuli to speak of others.
    """

    stimuli: tuple[Stimulus, ...]
    spread: Spread | None
    between: Heterogeneity | None
    by_means: Means | None
    note: str | None
    covariance: Array | None


@dataclass(frozen=True, slots=True)
class Share:
    """Share of the population of stimuli above a threshold, with 95 % bounds; in [0, 1]."""

    share: float
    low: float
    high: float
    method: str


def cell_gaps(frame: pl.DataFrame, outcome: str, keys: Sequence[str]) -> pl.DataFrame:
    """The keys and `gap`, mean in train minus mean in deploy, where both arms were graded.

    A row stands for one trial, or for `n` of them if there is a column `n`. Rows without an
    outcome or without a key are left out.
    """
    graded = frame.filter(pl.all_horizontal(pl.col(outcome, *keys).is_not_null()))
    mean = pl.col(outcome).mean()
    if "n" in frame.columns:
        mean = (pl.col(outcome) * pl.col("n")).sum() / pl.col("n").sum()
    means = graded.group_by(*keys, "arm").agg(mean.alias("mean"))
    train, deploy = (means.filter(pl.col("arm") == arm) for arm in ("train", "deploy"))
    both = train.join(deploy, on=list(keys), suffix="_deploy")
    return both.select(*keys, (pl.col("mean") - pl.col("mean_deploy")).alias("gap"))


def gaps_by(frame: pl.DataFrame, outcome: str, *, stimulus: str = "wording") -> Stimuli:
    """Gaps of one condition per query and stimulus, where both arms were graded.

    `frame` has `query`, `arm`, the column of stimuli and the outcome (see `cell_gaps`).
    """
    cells = cell_gaps(frame, outcome, ["query", stimulus])
    return _table(cells.rename({"gap": "value"}), stimulus)


def effects_by(
    before: pl.DataFrame, after: pl.DataFrame, outcome: str, *, stimulus: str = "wording"
) -> Stimuli:
    """Gap of the condition `after` minus gap of `before` per query and stimulus.

    Only where both conditions were graded in both arms.
    """
    keys = ["query", stimulus]
    first, second = (cell_gaps(frame, outcome, keys) for frame in (before, after))
    both = first.join(second, on=keys, suffix="_after")
    changes = both.select("query", stimulus, (pl.col("gap_after") - pl.col("gap")).alias("value"))
    return _table(changes, stimulus)


def averages_by(
    X: Array,
    y: Array,
    weights: Array,
    queries: Sequence[str],
    stimuli: Sequence[str],
    contrast: Array,
) -> Stimuli:
    """A contrast of coefficients of the weighted linear fit `y ~ X`, one fit per stimulus.

    `X` is n x p, `contrast` has length p, the others length n. A query's value is the estimate
    plus n_queries times its influence on it (bread times score), so that the mean of a column is
    the estimate and the spread of the column its error clustered by query (CR0). A stimulus in
    which the contrast is not estimable, or that has one query, is left out.
    """
    of_query, of_stimulus = np.asarray(queries), np.asarray(stimuli)
    names, places = np.unique(of_query, return_inverse=True)
    kept, columns = [], []
    for stimulus in sorted(set(stimuli)):
        rows = of_stimulus == stimulus
        column = _influences(X[rows], y[rows], weights[rows], places[rows], contrast, len(names))
        if column is not None:
            kept.append(stimulus)
            columns.append(column)
    values = np.column_stack(columns) if columns else np.empty((len(names), 0))
    return Stimuli(tuple(names.tolist()), tuple(kept), values)


def sampled(table: Stimuli) -> Sampled:
    """Stimuli as a random factor (Clark 1973; Judd, Westfall and Kenny 2012).

    `value(q, w) = mean + stimulus(w) + query(q) + rest(q, w)`; the spread of the stimuli is by
    Paule and Mandel with Q-profile bounds (Viechtbauer 2007), given the errors of the estimates
    that queries and rest make (moment estimators, alike in all stimuli; that they are estimated
    from so many cells is allowed for). In a balanced crossed
    table it is the classical variance component. The mean counts stimuli equally, and its error in
    `spread` has stimuli, queries and rest in it.
    """
    table = _observed(table)
    stimuli = tuple(_stimulus(name, table.values[:, w]) for w, name in enumerate(table.names))
    count = len(stimuli)
    if count < 2:
        return Sampled(stimuli, None, None, None, f"no spread: {_counted(count)}", None)
    estimates = np.array([s.estimate for s in stimuli])
    by_means = _means(estimates)
    note = None
    if count < LEAST_STIMULI:
        note = f"these wordings only: {_counted(count)}, {LEAST_STIMULI} say something of others"
    covariance = covariance_of_means(table.values, alike=True)
    if covariance is None:
        return Sampled(stimuli, None, None, by_means, "no spread: no wording has two queries", None)
    df = _df_of_errors(table.values)
    return Sampled(
        stimuli,
        correlated_effects(estimates, covariance, df),
        heterogeneity(estimates, covariance, df),
        by_means,
        note,
        covariance,
    )


def next_stimulus(found: Sampled) -> Interval | None:
    """Bounds at 95 % for the true value under one more stimulus, tau's uncertainty included.

    The predictive law that goes with the generalised pivotal quantity: normal around the mean with
    variance `tau^2 + se(tau)^2`, over tau from Q's chi-squared law. Without sampling error it is
    `mean +- t(W - 1) sqrt(tau^2 + se^2)`, as in `spread`; with it that one, which takes tau for
    known, is too narrow (.86 to .93 in place of .95 when tau is as large as the errors are).
    """
    spread, between, covariance = found.spread, found.between, found.covariance
    if spread is None or between is None or covariance is None:
        return None
    from scipy import optimize, special

    taus = between.taus(POINTS)
    sd = np.sqrt(taus**2 + _error_given(taus, covariance) ** 2)
    if not (sd > NO_ERROR).all():
        return Interval(spread.mean, spread.mean)

    def beyond(reach: float) -> float:
        return float(special.ndtr(reach / sd).mean()) - 0.975

    # Beyond seven of the largest SD there is next to nothing.
    reach = float(optimize.brentq(beyond, 0.0, 7 * float(sd.max()), xtol=1e-12))
    return Interval(spread.mean - reach, spread.mean + reach)


def share_above(found: Sampled, threshold: float) -> Share | None:
    """Share of the stimuli that could have been drawn whose true value is above a threshold.

    They are taken to be normal: `Phi((mean - threshold) / tau)`. The bounds are those of the
    generalised pivotal quantity (Weerahandi 1993; Iyer, Wang and Mathew 2004): tau from Q's
    chi-squared law, the mean given tau from the normal; without sampling error they are the exact
    ones from the noncentral t. The share below is 1 minus this one. None without a spread.
    """
    spread, between, covariance = found.spread, found.between, found.covariance
    if spread is None or between is None or covariance is None:
        return None
    from scipy import special

    taus = between.taus(POINTS)
    errors = _error_given(taus, covariance)
    above = spread.mean - threshold

    def probability(score: float) -> float:
        """How sure it is that the share lies below Phi(score)."""
        reach = score * taus - above
        sure = np.where(errors > 0, errors, 1.0)
        below = np.where(errors > 0, special.ndtr(reach / sure), reach > 0)
        return float(below.mean())

    share = float(special.ndtr(above / spread.tau)) if spread.tau > 0 else float(above > 0)
    low, high = (_score(probability, p) for p in (0.025, 0.975))
    return Share(share, min(low, share), max(high, share), "normal mixture, pivotal bounds")


Estimate = tuple[float, float, float]
"""An estimate, its standard error, and degrees of freedom."""


@dataclass(frozen=True, slots=True)
class Influence:
    """What an estimate is without each unit in turn; `estimates` has None where it is lost.

    `change` is the largest change that leaving out a unit makes (without minus with), `by` the
    unit. `std_error` is the jackknife's, `sqrt((n - 1) / n sum (e_i - mean)^2)`, None if an
    estimate is lost. `turns_sign` and `turns_significance` name the units without which the sign,
    or whether 0 is outside the 95 % interval, is another.
    """

    units: tuple[str, ...]
    estimates: tuple[float | None, ...]
    change: float | None
    by: str | None
    std_error: float | None
    turns_sign: tuple[str, ...]
    turns_significance: tuple[str, ...]
    lost: tuple[str, ...]


def leave_one_out(
    units: Sequence[str], estimate: Callable[[NDArray[np.bool_]], Estimate | None]
) -> Influence | None:
    """Influence of single units (queries or wordings) on an estimate (Miller 1974; Cook 1977).

    `units` names the unit of each row, `estimate` takes the mask of the rows that are kept. None
    where there is no estimate of the whole, or one unit only.
    """
    of_row = np.asarray(units)
    names = tuple(np.unique(of_row).tolist())
    whole = estimate(np.ones(len(of_row), dtype=bool))
    if whole is None or len(names) < 2:
        return None
    without = {name: estimate(of_row != name) for name in names}
    found = {name: e for name, e in without.items() if e is not None}
    changes = {name: e[0] - whole[0] for name, e in found.items()}
    by = max(changes, key=lambda name: abs(changes[name]), default=None)
    error = None
    if len(found) == len(names):
        values = np.array([e[0] for e in found.values()])
        error = math.sqrt(float((len(names) - 1) * values.var()))
    return Influence(
        units=names,
        estimates=tuple(e[0] if e else None for e in without.values()),
        change=changes[by] if by else None,
        by=by,
        std_error=error,
        turns_sign=tuple(n for n, e in found.items() if np.sign(e[0]) != np.sign(whole[0])),
        turns_significance=tuple(
            n for n, e in found.items() if _significant(e) != _significant(whole)
        ),
        lost=tuple(n for n in names if n not in found),
    )


def paired_mean(values: Array) -> Estimate | None:
    """Mean of differences per unit with `sd / sqrt(n)` and df = n - 1; None below two."""
    if len(values) < 2:
        return None
    error = float(values.std(ddof=1)) / math.sqrt(len(values))
    return float(values.mean()), error, float(len(values) - 1)


def _table(cells: pl.DataFrame, stimulus: str) -> Stimuli:
    queries = cells["query"].cast(pl.String).unique().sort().to_list()
    names = cells[stimulus].cast(pl.String).unique().sort().to_list()
    rows = {query: i for i, query in enumerate(queries)}
    columns = {name: i for i, name in enumerate(names)}
    values = np.full((len(queries), len(names)), np.nan)
    for query, name, value in cells.select("query", stimulus, "value").iter_rows():
        values[rows[str(query)], columns[str(name)]] = value
    return Stimuli(tuple(queries), tuple(names), values)


def _observed(table: Stimuli) -> Stimuli:
    seen: NDArray[np.bool_] = np.isfinite(table.values).sum(axis=0) > 0
    names = tuple(name for name, there in zip(table.names, seen, strict=True) if there)
    return Stimuli(table.queries, names, table.values[:, seen])


def _stimulus(name: str, column: Array) -> Stimulus:
    values = column[np.isfinite(column)]
    mean = float(values.mean())
    found = paired_mean(values)
    if found is None or found[1] < NO_ERROR:
        return Stimulus(name, mean, None, None, None, len(values))
    bounds = t_interval(*found)
    return Stimulus(name, mean, found[1], bounds.low, bounds.high, len(values))


def _means(estimates: Array) -> Means | None:
    found = paired_mean(estimates)
    if found is None or found[1] < NO_ERROR:
        return None
    return Means(found[0], found[1], int(found[2]), t_interval(*found))


def _counted(count: int) -> str:
    return "one wording" if count == 1 else f"{count or 'no'} wordings"


def _df_of_errors(values: Array) -> float:
    """Cells less stimuli, less the queries that are compared with themselves between stimuli.

    (Q - 1)(W - 1) in a crossed table, Q - W in a nested one.
    """
    seen = np.isfinite(values)
    repeated = int((seen.sum(axis=1) > 1).sum())
    cells = int(seen.sum()) - seen.shape[1]
    return float(max(cells - max(repeated - 1, 0), 1))


def _influences(
    X: Array, y: Array, weights: Array, query: NDArray[np.intp], contrast: Array, queries: int
) -> Array | None:
    """Estimate plus influence of each query, NaN where it has no rows; None if not estimable."""
    seen = np.bincount(query, minlength=queries) > 0
    gram = (X * weights[:, None]).T @ X
    inverse = generalized_inverse(gram)
    if seen.sum() < 2 or not np.allclose(gram @ (inverse @ contrast), contrast, atol=1e-6):
        return None
    coefficients = inverse @ (X.T @ (weights * y))
    pull = (X @ (inverse @ contrast)) * weights * (y - X @ coefficients)
    influence = np.bincount(query, weights=pull, minlength=queries)
    column = float(contrast @ coefficients) + seen.sum() * influence
    return np.where(seen, column, np.nan)


def _error_given(taus: Array, covariance: Array) -> Array:
    """Standard error of the mean of the stimuli at each tau."""
    k = len(covariance)
    found: Array = np.sqrt(taus**2 / k + float(covariance.sum()) / k**2)
    return found


def _score(probability: Callable[[float], float], target: float) -> float:
    """The share at which a rising function of its normal score reaches the target."""
    from scipy import optimize, special

    far = 9.0
    if probability(-far) >= target:
        return 0.0
    if probability(far) < target:
        return 1.0
    root = optimize.brentq(lambda score: probability(score) - target, -far, far, xtol=1e-10)
    return float(special.ndtr(root))


def _significant(estimate: Estimate) -> bool:
    value, error, df = estimate
    return error > NO_ERROR and bool((t_interval(value, error, df).p_value or 0.0) < 0.05)
