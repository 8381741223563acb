"""Transport: whether an order of features found on some stimuli, or some model, holds on others.

Takes the effects of features per query and wording, or per query for each of two models; gives the
rank correlation of the two halves or models, with bounds over queries, and the correlation that
would be there without noise.
Does not know what a feature is.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from analysis.intervals import t_quantile
from analysis.stimuli import Stimuli, effects_by

__all__ = ["Crossed", "Transport", "between_halves", "between_models", "crossed_effects"]

Array = NDArray[np.float64]

LEAST_FEATURES = 3
LEAST_QUERIES = 4


@dataclass(frozen=True, slots=True, eq=False)
class Crossed:
    """Effects of k features in Q queries and W wordings (k x Q x W), NaN where not observed.

    `noise` has the sampling variance of each that comes from the trials with the feature changed;
    NaN where no prompt was tried twice. What comes from the original's trials is the same for all
    features and moves no order.
    """

    features: tuple[str, ...]
    queries: tuple[str, ...]
    values: Array
    noise: Array


@dataclass(frozen=True, slots=True)
class Transport:
    """How well one order of features predicts the other; correlations in [-1, 1].

    `spearman` with its 95 % bounds, `kendall` (tau-b), and `corrected`: the product-moment
    correlation of the effects freed of sampling noise (Spearman 1904), which may leave [-1, 1] and
    is cut there, with bounds of its own. None where unknown; `note` says why.
    """

    features: int
    queries: int
    note: str | None
    spearman: float | None = None
    low: float | None = None
    high: float | None = None
    kendall: float | None = None
    corrected: float | None = None
    corrected_low: float | None = None
    corrected_high: float | None = None


def crossed_effects(
    before: pl.DataFrame,
    afters: Mapping[str, pl.DataFrame],
    outcome: str,
    *,
    wording: str | None = "wording",
) -> Crossed:
    """Gap of each changed condition minus gap of the original, per query and wording.

    Frames have `query`, `arm`, the outcome and the column `wording` (None: one wording), one row a
    trial or, with a column `n`, a row for n trials with 0 or 1. Noise is the variance within a
    prompt's repeats, pooled within a feature and arm, over their number.
    """
    name = wording or "one wording"
    if wording is None:
        before = before.with_columns(pl.lit("").alias(name))
        afters = {f: frame.with_columns(pl.lit("").alias(name)) for f, frame in afters.items()}
    effects = {f: effects_by(before, frame, outcome, stimulus=name) for f, frame in afters.items()}
    queries = tuple(sorted({q for table in effects.values() for q in table.queries}))
    wordings = tuple(sorted({w for table in effects.values() for w in table.names}))
    row, column = ({label: i for i, label in enumerate(labels)} for labels in (queries, wordings))
    values = np.full((len(effects), len(queries), len(wordings)), np.nan)
    noise = values.copy()
    for i, (feature, table) in enumerate(effects.items()):
        rows, columns = [row[q] for q in table.queries], [column[w] for w in table.names]
        values[i][np.ix_(rows, columns)] = table.values
        for query, of_wording, variance in _noise(afters[feature], outcome, name):
            if query in row and of_wording in column:
                noise[i, row[query], column[of_wording]] = variance
    return Crossed(tuple(effects), queries, values, np.where(np.isfinite(values), noise, np.nan))


def between_halves(effects: Crossed, *, rng: np.random.Generator, splits: int = 200) -> Transport:
    """Order of features on half of the queries and wordings against the order on the other half.

    Averages over random splits; in a half every query counts equally, and within it its wordings.
    Queries and wordings are both halved, so that the halves share no trial. Bounds by the
    delete-one-query jackknife on Fisher's scale with t(Q - 1): a bootstrap would put copies of a
    query into both halves. The correction takes out the noise of the trials alone: how much
    queries and wordings differ is what transport is about.
    """
    few = _too_few(len(effects.features), len(effects.queries))
    if few:
        return few
    rows = [_split(effects, rng) for _ in range(splits)]
    # Where cells are missing, a half may lack a feature, with all queries or without one.
    usable = [row for row in rows if np.isfinite(row[:, :2]).all()]
    if len(usable) <= splits / 2:
        note = "no order: in half of the splits a half lacks a feature, or its effects are equal"
        return Transport(len(effects.features), len(effects.queries), note)
    found = np.mean(usable, axis=0)
    known = np.isfinite(found[0, 2:]).all()
    return _transport(
        len(effects.features),
        found,
        None if known else "no correction: some prompts have no repeats, so noise is not known",
    )


def between_models(first: Stimuli, second: Stimuli) -> Transport:
    """Order of features in one model against their order in another.

    Columns are features, matched by name, rows queries; queries that both models have for every
    feature are used. Bounds by the delete-one-query jackknife on Fisher's scale. The correction
    takes out the sampling of queries and trials, also what both models have in common because they
    were asked the same queries.
    """
    features = [name for name in first.names if name in second.names]
    queries = [name for name in first.queries if name in second.queries]
    one, two = (
        table.values[np.ix_(_places(table.queries, queries), _places(table.names, features))]
        for table in (first, second)
    )
    complete = np.isfinite(one).all(axis=1) & np.isfinite(two).all(axis=1)
    one, two = one[complete], two[complete]
    few = _too_few(len(features), len(one))
    if few:
        return few
    rows = [_moments(one, two)]
    rows += [_moments(np.delete(one, q, 0), np.delete(two, q, 0)) for q in range(len(one))]
    return _transport(len(features), np.array(rows), None)


def _too_few(features: int, queries: int) -> Transport | None:
    note = None
    if features < LEAST_FEATURES:
        note = f"{features} features: an order to compare takes {LEAST_FEATURES}"
    elif queries < LEAST_QUERIES:
        note = f"{queries} queries with every effect: bounds take {LEAST_QUERIES}"
    if note is None:
        return None
    return Transport(features, queries, note)


def _split(effects: Crossed, rng: np.random.Generator) -> Array:
    """Spearman, Kendall, covariance and both true variances for one split.

    One row with all queries, then one without each of them.
    """
    _, queries, wordings = effects.values.shape
    of_query = _half(queries, rng)
    of_wording = _half(wordings, rng) if wordings > 1 else None
    means, noises = [], []
    for half in (True, False):
        columns = slice(None) if of_wording is None else of_wording == half
        cells, variances = effects.values[:, :, columns], effects.noise[:, :, columns]
        seen = np.isfinite(cells)
        n = seen.sum(axis=2)
        here = (n > 0) & (of_query == half)
        each = np.where(here, np.where(seen, cells, 0.0).sum(axis=2) / np.maximum(n, 1), 0.0)
        of_each = np.where(seen, variances, 0.0).sum(axis=2) / np.maximum(n, 1) ** 2
        of_each = np.where(here, of_each, 0.0)
        left = _without_each(here.astype(float))
        with np.errstate(invalid="ignore", divide="ignore"):
            means.append(_without_each(each) / left)
            noises.append((_without_each(of_each) / left**2).mean(axis=1))
    one, two = means
    return np.column_stack(
        [
            _correlation(_ranked(one), _ranked(two)),
            _kendall(one, two),
            _covariance(one, two),
            _covariance(one, one) - noises[0],
            _covariance(two, two) - noises[1],
        ]
    )


def _moments(one: Array, two: Array) -> Array:
    """The same five numbers for the features' means in two models (Q x k each)."""
    k, q = one.shape[1], len(one)
    a, b = one.mean(axis=0)[None], two.mean(axis=0)[None]
    joint = np.cov(np.hstack([one, two]), rowvar=False) / q
    noise = [joint[:k, k:], joint[:k, :k], joint[k:, k:]]
    # The expected (co)variance between features that sampling alone makes.
    chance = [(np.trace(v) - v.sum() / k) / (k - 1) for v in noise]
    return np.array(
        [
            _correlation(_ranked(a), _ranked(b))[0],
            _kendall(a, b)[0],
            _covariance(a, b)[0] - chance[0],
            _covariance(a, a)[0] - chance[1],
            _covariance(b, b)[0] - chance[2],
        ]
    )


def _transport(features: int, found: Array, note: str | None) -> Transport:
    """Correlations with jackknife bounds; `found` has all queries first, then each left out."""
    queries = len(found) - 1
    spearman, kendall = (None if math.isnan(x) else float(x) for x in found[0, :2])
    if spearman is None:
        note = "no order: the effects of a half are equal, or not all observed"
        return Transport(features, queries, note)
    low, high = _bounds(found[:, 0])
    corrected = corrected_low = corrected_high = None
    if np.isfinite(found[0, 2:]).all():
        if found[0, 3] > 0 and found[0, 4] > 0:
            corrected = _freed(found[0])
            corrected_low, corrected_high = _bounds(np.array([_freed(row) for row in found]))
        else:
            note = "no correction: the features differ by no more than noise"
    if low is None:
        note = note or "no bounds: leaving a query out leaves no order, or the order is perfect"
    return Transport(
        features,
        queries,
        note,
        spearman,
        low,
        high,
        kendall,
        corrected,
        corrected_low,
        corrected_high,
    )


def _freed(row: Array) -> float:
    """Covariance over the root of the true variances, cut at -1 and 1; NaN where these are not."""
    if not (row[3] > 0 and row[4] > 0):
        return math.nan
    return min(1.0, max(-1.0, float(row[2] / math.sqrt(row[3] * row[4]))))


def _bounds(values: Array) -> tuple[float | None, float | None]:
    """Jackknife bounds of a correlation; the first value has all queries."""
    if not np.isfinite(values).all() or (np.abs(values) >= 1).any():
        return None, None
    scores = np.arctanh(values)
    n = len(values) - 1
    error = math.sqrt(float((n - 1) * scores[1:].var()))
    reach = t_quantile(0.975, n - 1) * error
    return float(np.tanh(scores[0] - reach)), float(np.tanh(scores[0] + reach))


def _noise(frame: pl.DataFrame, outcome: str, wording: str) -> list[tuple[str, str, float]]:
    """Sampling variance of the gap in each query and wording, from repeats of the same prompt."""
    n = pl.col("n") if "n" in frame.columns else pl.lit(1, pl.Int64).alias("n")
    trials = frame.filter(pl.col(outcome).is_not_null(), pl.col(wording).is_not_null())
    trials = trials.select("query", pl.col(wording).alias("wording"), "arm", outcome, n)
    y, count = pl.col(outcome), pl.col("n")
    cells = trials.group_by("query", "wording", "arm").agg(
        count.sum().alias("n"),
        # A row of several trials has the mean of outcomes that are 0 or 1.
        (count * (y - (y * count).sum() / count.sum()) ** 2).sum().alias("between_rows"),
        pl.when(count > 1).then(count * y * (1 - y)).otherwise(0.0).sum().alias("within_rows"),
    )
    squares = (pl.col("between_rows") + pl.col("within_rows")).sum().over("arm")
    df = (pl.col("n").cast(pl.Int64) - 1).sum().over("arm")
    pooled = cells.with_columns(pl.when(df > 0).then(squares / df).alias("pooled"))
    both = (
        pooled.group_by("query", "wording")
        .agg(
            (pl.col("pooled") / pl.col("n")).sum().alias("variance"),
            (pl.col("pooled").is_not_null().sum() == 2).alias("known"),
        )
        .filter(pl.col("known"))
    )
    rows = both.select(
        pl.col("query").cast(pl.String), pl.col("wording").cast(pl.String), "variance"
    )
    return list(rows.iter_rows())


def _half(count: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """A random half; of an odd number either the smaller or the larger."""
    size = count // 2 + int(rng.integers(2)) * (count % 2)
    return np.asarray(rng.permutation(count) < size)


def _without_each(values: Array) -> Array:
    """Row sums of a table k x Q: with all columns, then without each ((Q + 1) x k)."""
    total = values.sum(axis=1)
    return np.vstack([total[None], total[None] - values.T])


def _ranked(values: Array) -> Array:
    from scipy.stats import rankdata

    found: Array = rankdata(np.round(values, 12), axis=1, nan_policy="propagate")
    return found


def _covariance(one: Array, two: Array) -> Array:
    """Covariance between features, row by row."""
    k = one.shape[1]
    centred = (one - one.mean(axis=1, keepdims=True)) * (two - two.mean(axis=1, keepdims=True))
    found: Array = centred.sum(axis=1) / (k - 1)
    return found


def _correlation(one: Array, two: Array) -> Array:
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = np.sqrt(_covariance(one, one) * _covariance(two, two))
        return np.clip(_covariance(one, two) / scale, -1.0, 1.0)


def _kendall(one: Array, two: Array) -> Array:
    """Kendall's tau-b, row by row."""
    a, b = (np.sign(np.round(v[:, :, None] - v[:, None, :], 12)) for v in (one, two))
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = np.sqrt((a**2).sum(axis=(1, 2)) * (b**2).sum(axis=(1, 2)))
        found: Array = (a * b).sum(axis=(1, 2)) / scale
    return found


def _places(names: tuple[str, ...], wanted: list[str]) -> list[int]:
    place = {name: i for i, name in enumerate(names)}
    return [place[name] for name in wanted]
