"""Cells: the test of one effect, as it will be made on trials that nobody has paid for yet.

Takes the trials of a plan grouped into cells (query, condition, arm), the contrast that the fit
will report, and expected rates; gives the chance that the test rejects, by formula or by drawing
studies. Does not know factors, priors or what a rate was expected from.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.covariance import generalized_inverse
from analysis.intervals import t_quantile

__all__ = ["Cells", "Rates", "drawn_power", "formula_power", "solve", "thinnest"]

Array = NDArray[np.float64]

# Cells times studies that are drawn at once: 32 MB a table.
CHUNK = 1 << 22
# The largest standard deviation of a rate between queries, as a share of that of a coin per query.
MOST_SPREAD = 0.95
# Queries that differ less than this are taken to be alike.
LEAST_SPREAD = 1e-4
# Below this an error is rounding, and the fit makes no test; the same as in analysis/effects.
NO_ERROR = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """A weighted fit to cell means, and the sum of its coefficients that is the effect.

    One entry per cell, sorted by query: `X` (C x p) its row of the design matrix, `share` its
    weight in the fit, `trials`, `query` (numbers from 0), `train`, `changed` where the level in
    question is there, `joint` where two or more changes are, and the rates to expect if the level
    does nothing: `base` in deploy, base + `gap` in train. `contrast` has length p; `solution`
    (p x C) is what each cell mean adds to each coefficient, made once by `solve`.
    """

    X: Array
    share: Array
    trials: Array
    query: NDArray[np.int64]
    train: NDArray[np.bool_]
    changed: NDArray[np.bool_]
    joint: NDArray[np.bool_]
    base: Array
    gap: Array
    contrast: Array
    solution: Array

    @property
    def queries(self) -> int:
        return int(self.query[-1]) + 1

    def weights(self) -> Array:
        """What each cell mean adds to the effect (C)."""
        found: Array = self.contrast @ self.solution
        return found

    def of_queries(self, queries: int) -> "Cells":
        """The same plan with another number of queries, taken round and round from these."""
        starts = np.append(_starts(self), len(self.query))
        sources = np.arange(queries) % self.queries
        rows = np.concatenate([np.arange(starts[s], starts[s + 1]) for s in sources])
        X, share = self.X[rows], self.share[rows]
        return Cells(
            X=X,
            share=share,
            trials=self.trials[rows],
            query=np.repeat(np.arange(queries), starts[sources + 1] - starts[sources]),
            train=self.train[rows],
            changed=self.changed[rows],
            joint=self.joint[rows],
            base=self.base[rows],
            gap=self.gap[rows],
            contrast=self.contrast,
            solution=solve(X, share),
        )


def solve(X: Array, share: Array) -> Array:
    """The coefficients of a weighted fit, as weights of the cell means (p x C)."""
    weighted = X * share[:, None]
    found: Array = generalized_inverse(weighted.T @ X) @ weighted.T
    return found


@dataclass(frozen=True, slots=True)
class Rates:
    """What a change does to the expected rates, and how queries differ about them.

    Changed cells keep `base_kept` of their base and `gap_kept` of their gap, and `gap_added` comes
    to it; cells with several changes have `joint_kept` of that. A query's rate is `base * b` in
    deploy and `base * b + gap * g` in train, where b and g have mean 1 over queries and standard
    deviations `base_spread` and `gap_spread`; g is drawn once for unchanged and once for changed
    cells, with correlation `alike`. `reference` has the base and the gap of the original, whose
    beta laws b and g follow. `sampled` is the variance that the draw of conditions adds to the
    estimate, and `shown` how much of it the errors by query hold.
    """

    base_kept: float
    gap_kept: float
    gap_added: float
    joint_kept: float
    base_spread: float
    gap_spread: float
    alike: float
    reference: tuple[float, float]
    sampled: float = 0.0
    shown: float = 0.0

    def base(self, cells: Cells) -> Array:
        return cells.base * np.where(cells.changed, self.base_kept, 1.0)

    def gap(self, cells: Cells) -> Array:
        """The gap in cells of the train arm, 0 in those of deploy."""
        changed = cells.gap * self.gap_kept + self.gap_added
        gap = np.where(cells.changed, changed, cells.gap) * cells.train
        found: Array = gap * np.where(cells.joint, self.joint_kept, 1.0)
        return found

    def means(self, cells: Cells) -> Array:
        found: Array = np.clip(self.base(cells) + self.gap(cells), 0.0, 1.0)
        return found


def thinnest(cells: Cells, rates: Rates) -> float:
    """Expected successes, or failures, in the arm and side of the change that has fewest."""
    means = rates.means(cells)
    side = cells.train * 2 + cells.changed
    found = [np.bincount(side, cells.trials * m, minlength=4) for m in (means, 1 - means)]
    there = np.bincount(side, minlength=4) > 0
    return float(np.min(np.array(found)[:, there]))


def formula_power(cells: Cells, rates: Rates, effect: float) -> float:
    """Chance that the test rejects, from the noncentral t; the truth is `effect`.

    The estimate is taken as normal. The squared error that the fit will compute is taken as a
    multiple of chi-squared: its mean, which may be off the true variance, and its degrees of
    freedom (Satterthwaite; as in Bell and McCaffrey 2002) come from the covariance of the
    queries' scores. With equal cells and queries this is the textbook's noncentral t(Q - 1).
    """
    groups = cells.queries
    coefficients, a = cells.solution, cells.weights()
    means = rates.means(cells)
    spreads = _spreads(cells, rates)
    between = sum(s * s for s in spreads)
    noise = np.maximum(means * (1 - means) - between, 0.0) / cells.trials
    levels = _by_query(a[:, None] * cells.X, cells)

    # Scores of the queries are T y for cell means y, with T = (own part) - levels @ coefficients.
    own = _by_query((a * noise)[:, None] * coefficients.T, cells) @ levels.T
    middle = levels @ ((coefficients * noise) @ coefficients.T) @ levels.T
    scores = np.diag(_by_query(a * a * noise, cells)) - own - own.T + middle
    variance = float(np.sum(a * a * noise))
    correlation = np.eye(3)
    correlation[1, 2] = correlation[2, 1] = rates.alike
    loads = [_by_query(a * s, cells) for s in spreads]
    moves = [
        np.diag(load) - levels @ _by_query(s[:, None] * coefficients.T, cells).T
        for s, load in zip(spreads, loads, strict=True)
    ]
    for i, j in ((i, j) for i in range(3) for j in range(3) if correlation[i, j]):
        variance += float(correlation[i, j] * loads[i] @ loads[j])
        scores = scores + correlation[i, j] * moves[i] @ moves[j].T
    # What the fit leaves of the means themselves, such as an interaction, looks like error too.
    left = _by_query(a * means, cells) - levels @ (coefficients @ means)
    trace = float(np.trace(scores))
    if variance <= NO_ERROR**2 or trace <= NO_ERROR**2:
        return 0.0
    df = trace**2 / float(np.sum(scores * scores))
    seen = groups / (groups - 1) * (trace + float(left @ left)) + rates.shown
    variance += rates.sampled
    critical = t_quantile(0.975, groups - 1) * (seen / variance) ** 0.5
    shift = abs(effect) / variance**0.5
    return 1 - _noncentral_t(critical, df, shift) + _noncentral_t(-critical, df, shift)


def drawn_power(
    cells: Cells, rates: Rates, effect: float, rng: np.random.Generator, studies: int
) -> float:
    """Share of drawn studies whose test rejects: beta-binomial trials, the test of the fit.

    What the rates themselves lead to is moved to the true `effect`. Where no query differs from
    another there is no error, hence no test and no rejection.
    """
    groups = cells.queries
    coefficients, a = cells.solution, cells.weights()
    levels = _by_query(a[:, None] * cells.X, cells)
    critical = t_quantile(0.975, groups - 1)
    trials = np.maximum(1, np.rint(cells.trials)).astype(np.int64)
    moved = effect - float(a @ rates.means(cells))
    rejected, done = 0, 0
    while done < studies:
        count = min(studies - done, max(1, CHUNK // len(a)))
        y = rng.binomial(trials, _drawn_rates(cells, rates, rng, count)) / trials
        fitted = y @ coefficients.T
        scores = _by_query((y * a).T, cells).T - fitted @ levels.T
        error = np.sqrt(groups / (groups - 1) * np.sum(scores * scores, axis=1) + rates.shown)
        estimate = fitted @ cells.contrast + rng.normal(moved, rates.sampled**0.5, count)
        rejected += int(np.sum((np.abs(estimate) > critical * error) & (error > NO_ERROR)))
        done += count
    return rejected / studies


def _noncentral_t(t: float, df: float, shift: float) -> float:
    """Chance that noncentral t is below `t`."""
    from scipy.special import nctdtr, ndtr

    found = float(nctdtr(df, shift, t))
    if math.isnan(found):
        # Far in a tail scipy gives up; the normal approximation 26.7.10 of Abramowitz and Stegun.
        found = float(ndtr((t * (1 - 1 / (4 * df)) - shift) / (1 + t * t / (2 * df)) ** 0.5))
    return found


def _spreads(cells: Cells, rates: Rates) -> tuple[Array, Array, Array]:
    """SD between queries of each cell's rate: from its base, its gap unchanged, and changed."""
    gap = rates.gap_spread * np.abs(rates.gap(cells))
    return rates.base_spread * rates.base(cells), gap * ~cells.changed, gap * cells.changed


def _drawn_rates(cells: Cells, rates: Rates, rng: np.random.Generator, studies: int) -> Array:
    z = rng.standard_normal((3, studies, cells.queries))
    z[2] = rates.alike * z[1] + (1 - rates.alike**2) ** 0.5 * z[2]
    base, gap = rates.reference
    deploy = _relative(z[0], base, rates.base_spread)[:, cells.query] * rates.base(cells)
    sides = [_relative(row, abs(gap), rates.gap_spread)[:, cells.query] for row in z[1:]]
    added = np.where(cells.changed, sides[1], sides[0]) * rates.gap(cells)
    return np.clip(deploy + added, 0.0, 1.0)


def _relative(z: Array, mean: float, spread: float) -> Array:
    """Beta draws of this mean, divided by it, at normal scores z; `spread` is their SD."""
    if not 0 < mean < 1 or spread < LEAST_SPREAD:
        return np.ones_like(z)
    from scipy.special import betaincinv, ndtr

    most = MOST_SPREAD * ((1 - mean) / mean) ** 0.5
    size = (1 - mean) / mean / min(spread, most) ** 2 - 1
    grid = np.linspace(-5, 5, 1001)
    quantiles = betaincinv(mean * size, (1 - mean) * size, ndtr(grid))
    return np.asarray(np.interp(z, grid, quantiles) / mean)


def _by_query(values: NDArray[Any], cells: Cells) -> Array:
    """Sums of rows over the cells of each query."""
    return np.asarray(np.add.reduceat(values, _starts(cells), axis=0))


def _starts(cells: Cells) -> NDArray[np.intp]:
    """Number of the first cell of each query."""
    return np.flatnonzero(np.diff(cells.query, prepend=-1))
