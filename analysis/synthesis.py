"""Synthesis: many estimates of one kind, with their errors, taken together.

Takes estimates and their standard errors or covariance; gives their mean, the spread between them
beyond chance, a prediction for one more, and a regression on what they have in common.
Does not know what the estimates are of.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from analysis.intervals import Interval, t_quantile, z_interval

__all__ = [
    "Heterogeneity",
    "Line",
    "Slope",
    "Spread",
    "correlated_effects",
    "covariance_of_means",
    "heterogeneity",
    "line",
    "meta_regression",
    "random_effects",
]

# A variance this much smaller than the largest one is rounding.
ROUNDING = 1e-13
# Halvings of a bracket for tau, to the last digits of a double for all but the smallest roots.
HALVINGS = 64


@dataclass(frozen=True, slots=True)
class Spread:
    """Random-effects summary; on the scale of the estimates.

    `tau` is the SD between true values, `tau_low` and `tau_high` its 95 % bounds; `i_squared` the
    share of the variance between estimates that is not chance; `low` and `high` predict one more
    true value, None where there are too few estimates for that.
    """

    estimates: int
    mean: float
    std_error: float
    tau: float
    tau_low: float
    tau_high: float
    i_squared: float
    q: float
    p_value: float
    low: float | None
    high: float | None


def random_effects(estimates: Sequence[float], errors: Sequence[float]) -> Spread:
    """DerSimonian and Laird 1986, with Q-profile bounds of tau and Higgins' prediction interval.

    `tau^2 = max(0, (Q - (k - 1)) / (sum w - sum w^2 / sum w))`, `I^2 = max(0, (Q - (k - 1)) / Q)`;
    prediction `mean +- t(k - 2) sqrt(tau^2 + se^2)` (Higgins et al. 2009); bounds of tau by
    inverting Q's chi-squared law (Viechtbauer 2007). Needs two estimates with errors above 0.
    """
    y, v = np.asarray(estimates, dtype=float), np.asarray(errors, dtype=float) ** 2
    k = len(y)
    if k < 2 or not (v > 0).all():
        raise ValueError("a spread needs two estimates or more, each with an error above 0")
    w = 1 / v
    between = heterogeneity(y, np.diag(v))
    q = between.q(0.0)
    excess = q - (k - 1)
    tau2 = max(0.0, excess / float(w.sum() - (w**2).sum() / w.sum()))
    weights = 1 / (v + tau2)
    mean = float((weights * y).sum() / weights.sum())
    error = math.sqrt(1 / float(weights.sum()))
    low = high = None
    if k > 2:
        reach = t_quantile(0.975, k - 2) * math.sqrt(tau2 + error**2)
        low, high = mean - reach, mean + reach
    return Spread(
        estimates=k,
        mean=mean,
        std_error=error,
        tau=math.sqrt(tau2),
        tau_low=between.tau_at(0.975),
        tau_high=between.tau_at(0.025),
        i_squared=max(0.0, excess / q) if q > 0 else 0.0,
        q=q,
        p_value=float(special.chdtrc(k - 1, q)),
        low=low,
        high=high,
    )


def correlated_effects(
    estimates: NDArray[np.float64], covariance: NDArray[np.float64], df: float | None = None
) -> Spread | None:
    """Random effects when the errors of the k estimates have this covariance (k x k).

    `df` are the degrees of freedom that the covariance was estimated with, None if it is known.
    The mean counts every estimate equally, its error is `sqrt(1'(tau^2 I + V)1) / k`; tau by Paule
    and Mandel 1982 with Q-profile bounds (Viechtbauer 2007), both from the generalised Q of all
    contrasts; one more true value is predicted by `mean +- t(k - 1) sqrt(tau^2 + se^2)`. None for
    fewer than two estimates.
    """
    k = len(estimates)
    if k < 2:
        return None
    between = heterogeneity(estimates, covariance, df)
    tau, q = between.tau(), between.q(0.0)
    mean = float(estimates.mean())
    error = math.sqrt(tau**2 / k + float(covariance.sum()) / k**2)
    reach = t_quantile(0.975, k - 1) * math.hypot(tau, error)
    return Spread(
        estimates=k,
        mean=mean,
        std_error=error,
        tau=tau,
        tau_low=between.tau_at(0.975),
        tau_high=between.tau_at(0.025),
        i_squared=max(0.0, 1 - (k - 1) / q) if q > 0 else 0.0,
        q=q,
        p_value=between.p_above(0.0),
        low=mean - reach,
        high=mean + reach,
    )


@dataclass(frozen=True, slots=True, eq=False)
class Heterogeneity:
    """What k estimates say of the SD tau between their true values, whatever their mean.

    The k - 1 contrasts between them, turned so that they are independent with variances
    `tau^2 + variances`; `squares` are their squares. Under normal errors the generalised Q,
    `sum(squares / (tau^2 + variances))`, is chi-squared with k - 1 df at the true tau. Where the
    variances are themselves estimated, `df_errors` are their degrees of freedom: Q / (k - 1) is
    then taken for F, with `df_errors (1 + tau^2 / variance)^2` below (Satterthwaite 1946).
    """

    squares: NDArray[np.float64]
    variances: NDArray[np.float64]
    df_errors: float | None = None

    @property
    def df(self) -> int:
        return len(self.squares)

    def q(self, tau: float) -> float:
        """The generalised Q; infinite where estimates without error differ and tau is 0."""
        return float(self._q(np.array([tau]))[0])

    def tau(self) -> float:
        """Paule and Mandel 1982: the tau at which Q is its expectation; 0 if Q is below it."""
        return self._root(lambda tau: self.q(tau) - self.df)

    def tau_at(self, probability: float) -> float:
        """The tau at which Q has this cumulative probability; 0 if Q at 0 is below that."""
        return self._root(lambda tau: self.p_below(tau) - probability)

    def taus(self, points: int) -> NDArray[np.float64]:
        """`tau_at` for the middles of `points` equal slices of probability, largest tau first.

        What the data say of tau as a sample: the generalised pivotal quantity of tau.
        """
        middles = (np.arange(points) + 0.5) / points
        return self._falling(lambda taus: self._below(taus) - middles, points)

    def p_above(self, tau: float) -> float:
        """One-sided p-value against "the true tau is this or smaller"."""
        q, df_errors = self.q(tau), self._df_errors(np.array([tau]))
        if df_errors is None or not math.isfinite(q):
            return float(special.chdtrc(self.df, q))
        return float(special.fdtrc(self.df, df_errors[0], q / self.df))

    def p_below(self, tau: float) -> float:
        """One-sided p-value against "the true tau is this or larger"."""
        return float(self._below(np.array([tau]))[0])

    def _q(self, taus: NDArray[np.float64]) -> NDArray[np.float64]:
        here = self.squares > 0
        with np.errstate(divide="ignore"):
            ratios = self.squares[here] / (taus[:, None] ** 2 + self.variances[here])
        return np.asarray(ratios.sum(axis=1), dtype=np.float64)

    def _df_errors(self, taus: NDArray[np.float64]) -> NDArray[np.float64] | None:
        typical = float(self.variances.mean())
        if self.df_errors is None or typical == 0:
            return None
        # Beyond this many F is chi-squared.
        found = np.minimum(self.df_errors * (1 + taus**2 / typical) ** 2, 1e9)
        return np.asarray(found, dtype=np.float64)

    def _below(self, taus: NDArray[np.float64]) -> NDArray[np.float64]:
        q, df_errors = self._q(taus), self._df_errors(taus)
        if df_errors is None:
            found = special.chdtr(self.df, q)
        else:
            found = special.fdtr(self.df, df_errors, q / self.df)
        return np.where(np.isfinite(q), found, 1.0)

    def _root(self, excess: Callable[[float], float]) -> float:
        """Where a function of tau that falls reaches 0; 0 where it never is above."""
        if excess(0.0) <= 0:
            return 0.0
        top = math.sqrt(float(self.squares.sum()))
        while excess(top) > 0:
            top *= 2
        # At 0 it may be infinite.
        bottom = top / 2
        while excess(bottom) <= 0:
            bottom /= 2
        return float(optimize.brentq(excess, bottom, top, xtol=1e-15))

    def _falling(
        self, excess: Callable[[NDArray[np.float64]], NDArray[np.float64]], points: int
    ) -> NDArray[np.float64]:
        """The same for many functions at once."""
        top = np.full(points, math.sqrt(float(self.squares.sum())))
        never = excess(np.zeros(points)) <= 0
        while (high := (excess(top) > 0) & ~never).any():
            top = np.where(high, 2 * top, top)
        bottom = np.zeros(points)
        for _ in range(HALVINGS):
            middle = (bottom + top) / 2
            above = excess(middle) > 0
            bottom, top = np.where(above, middle, bottom), np.where(above, top, middle)
        return np.where(never, 0.0, top)


def heterogeneity(
    estimates: NDArray[np.float64], covariance: NDArray[np.float64], df: float | None = None
) -> Heterogeneity:
    """The independent contrasts between k >= 2 estimates with this covariance (k x k).

    `df` are the degrees of freedom that the covariance was estimated with, None if it is known.
    """
    k = len(estimates)
    contrasts = np.linalg.qr(np.column_stack([np.ones(k), np.eye(k)[:, 1:]]))[0][:, 1:]
    variances, turn = np.linalg.eigh(contrasts.T @ covariance @ contrasts)
    squares = (turn.T @ contrasts.T @ (estimates - estimates.mean())) ** 2
    variances[variances < ROUNDING * float(np.trace(covariance))] = 0.0
    squares[squares < ROUNDING**2 * float(estimates @ estimates)] = 0.0
    return Heterogeneity(squares, variances, df)


def covariance_of_means(values: NDArray[np.float64], *, alike: bool) -> NDArray[np.float64] | None:
    """Covariance of the column means of a table units x k whose units are a random sample.

    NaN is not observed. Columns that share units are correlated: a unit has a part common to all
    columns and a part of its own in each, `Var = shared |ij| / (n_i n_j) + [i = j] own_i / n_i`.
    Moment estimators: `shared` from the products of different columns; `own` with `alike` from the
    pooled variance within columns, else for each column from its deviations from the mean of the
    others (Grubbs 1948), which takes three columns. None where a column has no variance to go by.
    """
    seen = np.isfinite(values)
    n = seen.sum(axis=0).astype(float)
    k = len(n)
    if (n < (1 if alike else 2)).any() or (n - 1).sum() < 1:
        return None
    columns = np.where(seen, values, 0.0)
    centred = np.where(seen, columns - columns.sum(axis=0) / n, 0.0)
    both = seen.T.astype(float) @ seen
    overlap = both / np.outer(n, n)
    # What the products would be if the common part had variance 1, its column means taken off.
    room = both * (1 - 1 / n[:, None] - 1 / n[None, :] + overlap)
    products = centred.T @ centred
    different = ~np.eye(k, dtype=bool)
    total = float(np.trace(products) / (n - 1).sum())
    space = float(room[different].sum())
    shared = min(max(float(products[different].sum()) / space, 0.0), total) if space > 1e-9 else 0.0
    own = np.full(k, total - shared)
    if not alike and k > 2:
        own = _own_variances(columns, seen, own)
    return np.asarray(shared * overlap + np.diag(own / n), dtype=np.float64)


def _own_variances(
    columns: NDArray[np.float64], seen: NDArray[np.bool_], otherwise: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Variance of what units do in one column alone; `otherwise` where two units do not say."""
    k = seen.shape[1]
    others = seen.sum(axis=1, keepdims=True) - seen
    usable = seen & (others > 0)
    rest = (columns.sum(axis=1, keepdims=True) - columns) / np.maximum(others, 1)
    raw, load = np.full(k, np.nan), np.full(k, np.nan)
    for i in range(k):
        rows = usable[:, i]
        if rows.sum() > 1:
            raw[i] = (columns[rows, i] - rest[rows, i]).var(ddof=1)
            load[i] = (1 / others[rows, i]).mean()
    if np.isnan(raw).all():
        return otherwise
    # The mean of the others has variance too: load times theirs.
    typical = np.nanmean(raw) / (1 + np.nanmean(load))
    own = (raw - load * typical * k / (k - 1)) / (1 - load / (k - 1))
    return np.where(np.isnan(own), otherwise, np.maximum(own, 0.0))


@dataclass(frozen=True, slots=True)
class Slope:
    """One column's coefficient; `estimate` and the rest are None when it is not estimable."""

    estimate: float | None
    std_error: float | None
    interval: Interval | None


def meta_regression(
    estimates: Sequence[float], errors: Sequence[float], X: NDArray[np.float64], tau: float
) -> tuple[Slope, ...]:
    """Weighted least squares with weights `1 / (se^2 + tau^2)` and tau given; z intervals.

    `X` is k x p and has its intercept. A column that the others determine is not estimable, and
    neither is what it is mixed up with.
    """
    y, v = np.asarray(estimates, dtype=float), np.asarray(errors, dtype=float) ** 2 + tau**2
    gram = (X / v[:, None]).T @ X
    inverse = np.linalg.pinv(gram, hermitian=True)
    coefficients = inverse @ ((X / v[:, None]).T @ y)
    resolution = gram @ inverse
    slopes = []
    for i in range(X.shape[1]):
        unit = np.eye(X.shape[1])[i]
        if not np.allclose(resolution @ unit, unit, atol=1e-6):
            slopes.append(Slope(None, None, None))
            continue
        error = math.sqrt(float(inverse[i, i]))
        value = float(coefficients[i])
        slopes.append(Slope(value, error, z_interval(value, error)))
    return tuple(slopes)


@dataclass(frozen=True, slots=True)
class Line:
    """A straight line through points, by least squares."""

    intercept: float
    slope: float

    def at(self, x: float) -> float:
        return self.intercept + self.slope * x


def line(x: Sequence[float], y: Sequence[float]) -> Line:
    """The least-squares line of y on x; needs two different x."""
    slope, intercept = np.polyfit(np.asarray(x, dtype=float), np.asarray(y, dtype=float), 1)
    return Line(float(intercept), float(slope))
