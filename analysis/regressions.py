"""Regressions of an outcome on the arm, the factors and their products.

Takes trials with their treatment matrix; gives coefficients with a cluster-robust covariance.
The only file that imports statsmodels. Does not know which contrast of them is an effect.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.linalg import qr

from analysis.contrasts import many_wordings
from analysis.covariance import (
    NEGLIGIBLE,
    Covariance,
    CovarianceError,
    Kind,
    choose,
    clustered,
    generalized_inverse,
    two_way,
)
from analysis.logit import LogitFit, Separated, expit, logit
from analysis.observations import Term, treatment

__all__ = [
    "Coefficient",
    "LinearFit",
    "OddsFit",
    "coefficient_names",
    "design_matrix",
    "equal_query_weights",
    "error_kind",
    "estimable",
    "linear_probability",
    "log_odds",
    "queries_at",
]


@dataclass(frozen=True, slots=True)
class Coefficient:
    """What a coefficient compares: `arm` for the train terms, `term` for a factor's level.

    `other` is the second level of a product of two.
    """

    arm: bool
    term: Term | None
    other: Term | None = None

    @property
    def label(self) -> str:
        level = f"{self.term.factor}[{self.term.level}]" if self.term else ""
        if self.other:
            level += f":{self.other.factor}[{self.other.level}]"
        if self.arm:
            return f"arm[train]:{level}" if level else "arm[train]"
        return level or "intercept"


@dataclass(frozen=True, slots=True)
class LinearFit:
    """Coefficients in the order of `names` and their covariance.

    `X` holds the distinct rows of the design and `row_space` projects on them; `trials` and
    `clusters` count what was fitted.
    """

    names: tuple[Coefficient, ...]
    estimates: NDArray[np.float64]
    errors: Covariance
    trials: int
    clusters: int
    X: NDArray[np.float64]
    row_space: NDArray[np.float64]

    @property
    def covariance(self) -> NDArray[np.float64]:
        return self.errors.matrix

    @property
    def df(self) -> int:
        """Clusters - 1, on the side that has fewer; under CR2 see `df_of`."""
        return self.errors.clusters - 1

    def df_of(self, weights: NDArray[np.float64]) -> float | None:
        """Degrees of freedom for a contrast; None where one cluster alone decides on it."""
        try:
            return float(self.errors.df(weights))
        except CovarianceError:
            return None

    def contrast(self, weights: NDArray[np.float64]) -> tuple[float, float] | None:
        """Estimate and standard error of a sum of coefficients; None when not estimable."""
        if not _lies_in(self.row_space, weights):
            return None
        variance = float(weights @ self.covariance @ weights)
        return float(weights @ self.estimates), float(np.sqrt(max(variance, 0.0)))


def coefficient_names(
    terms: Sequence[Term], products: Sequence[tuple[Term, Term]] = ()
) -> tuple[Coefficient, ...]:
    """Intercept, each term and product; then train, and train times each of them."""
    choices = [(None, None), *((term, None) for term in terms), *products]
    return tuple(Coefficient(arm, *choice) for arm in (False, True) for choice in choices)


def design_matrix(
    frame: pl.DataFrame, terms: Sequence[Term], products: Sequence[tuple[Term, Term]] = ()
) -> NDArray[np.float64]:
    """Columns in the order of `coefficient_names`, one row per trial."""
    at = treatment(frame, terms)
    places = {term: i for i, term in enumerate(terms)}
    both = [at[:, places[a]] * at[:, places[b]] for a, b in products]
    levels = np.column_stack([np.ones(frame.height), at, *both])
    train = (frame["arm"] == "train").cast(pl.Float64).to_numpy()
    return np.hstack([levels, levels * train[:, None]])


def estimable(X: NDArray[np.float64], weights: NDArray[np.float64]) -> bool:
    """Whether a contrast lies in the row space of X, that is, whether the data speak of it."""
    return _lies_in(_row_space(X), weights)


def _row_space(X: NDArray[np.float64]) -> NDArray[np.float64]:
    """What brings a contrast (p,) to the nearest one of which the rows of X speak."""
    gram = X.T @ X
    return gram @ generalized_inverse(gram)


def _lies_in(row_space: NDArray[np.float64], weights: NDArray[np.float64]) -> bool:
    return bool(np.allclose(row_space @ weights, weights, atol=1e-6))


def equal_query_weights(frame: pl.DataFrame) -> NDArray[np.float64]:
    """The rows' weights scaled so that all queries count the same within each arm."""
    whole = pl.col("weight") * pl.col("n")
    share = whole / whole.sum().over("arm", "query")
    return frame.select(share.alias("w"))["w"].to_numpy()


def queries_at(graded: pl.DataFrame, term: Term) -> int:
    """Queries that have the term's level, in the arm that has fewer of them."""
    here = graded.filter(_at(graded, term))
    arms = (here.filter(pl.col("arm") == arm) for arm in ("train", "deploy"))
    return min(rows["query"].n_unique() for rows in arms)


def linear_probability(
    frame: pl.DataFrame,
    outcome: str,
    terms: Sequence[Term],
    *,
    weighted: bool,
    kind: Kind | Literal["two-way"] = "CR1",
    products: Sequence[tuple[Term, Term]] = (),
) -> LinearFit:
    """Linear probability model `y ~ arm * (terms + products)`, errors clustered by query.

    Rows are trials or cells; those with a null outcome are left out. `weighted` counts queries
    equally within arm and brings the rows to the design's target law; else every trial counts the
    same. `kind` is a clustered covariance, or two-way by query and wording.
    """
    # Half a second of import that `plan` and `--help` do not need.
    from statsmodels.regression.linear_model import OLS

    frame = frame.filter(pl.col(outcome).is_not_null())
    counts = frame["n"].cast(pl.Float64).to_numpy()
    weights = equal_query_weights(frame) if weighted else counts
    y = frame[outcome].to_numpy()
    # Trials of an arm and a condition share their row of X: the fit is that of their means.
    rows, places = _distinct(frame, terms)
    U = design_matrix(rows, terms, products)
    whole = np.bincount(places, weights, len(U))
    means = np.bincount(places, weights * y, len(U)) / whole
    # With a singular X statsmodels takes rounding for information, and then every coefficient is
    # wrong in its second digit. Terms that cannot be told apart are found by `estimable`.
    kept = _independent(U)
    estimates = np.zeros(U.shape[1])
    # As many rows as columns, with the same estimates: a design may have 10^5 conditions.
    both = np.column_stack([U, means]) * np.sqrt(whole)[:, None]
    few = np.asarray(np.linalg.qr(both, mode="r"))
    estimates[kept] = OLS(few[:, -1], few[:, kept]).fit().params
    residuals = y - (U @ estimates)[places]
    queries = _codes(frame["query"])
    clusters = int(queries.max()) + 1
    if kind == "two-way":
        errors = two_way(U[places], residuals, queries, _codes(frame["wording"]), weights)
    elif kind == "CR1" and clusters > 1 and np.all(weights > 0):
        scores = _score_sums(U, places, weights * residuals, queries)
        errors = _cr1(generalized_inverse((U * whole[:, None]).T @ U), scores)
    else:
        errors = clustered(U[places], residuals, queries, weights, kind, counts)
    trials = int(counts.sum())
    names = coefficient_names(terms, products)
    return LinearFit(names, estimates, errors, trials, clusters, U, _row_space(U))


@dataclass(frozen=True, slots=True)
class OddsFit:
    """A logit of `successes` among `counts` trials in the rows of `X`, one per arm and condition.

    `covariance` is CR1 by query with `df` degrees of freedom, None where `fitted` is Separated.
    """

    names: tuple[Coefficient, ...]
    X: NDArray[np.float64]
    successes: NDArray[np.float64]
    counts: NDArray[np.float64]
    fitted: LogitFit | Separated
    covariance: NDArray[np.float64] | None
    clusters: int

    @property
    def df(self) -> int:
        return self.clusters - 1


def log_odds(frame: pl.DataFrame, outcome: str, terms: Sequence[Term]) -> OddsFit:
    """Logit `y ~ arm * terms` of graded trials or cells, unweighted, errors clustered by query.

    CR1 by sums of scores (Liang and Zeger 1986, times G/(G-1)). Raises LogitError where terms
    cannot be told apart.
    """
    frame = frame.filter(pl.col(outcome).is_not_null())
    trials = frame["n"].cast(pl.Float64).to_numpy()
    of_cell = np.round((frame[outcome] * frame["n"]).to_numpy())
    rows, places = _distinct(frame, terms)
    U = design_matrix(rows, terms)
    successes, counts = (
        np.bincount(places, sums, len(U)).astype(np.float64) for sums in (of_cell, trials)
    )
    names = coefficient_names(terms)
    queries = _codes(frame["query"])
    clusters = int(queries.max()) + 1
    fitted = logit(U, successes, counts, [name.label for name in names])
    covariance = None
    if not isinstance(fitted, Separated):
        rates = expit(U @ fitted.estimates)
        information = (U * (counts * rates * (1 - rates))[:, None]).T @ U
        bread = np.asarray(np.linalg.inv(information), dtype=np.float64)
        scores = _score_sums(U, places, of_cell - trials * rates[places], queries)
        covariance = _cr1(bread, scores).matrix
    return OddsFit(names, U, successes, counts, fitted, covariance, clusters)


def _score_sums(
    U: NDArray[np.float64],
    places: NDArray[np.int64],
    pull: NDArray[np.float64],
    clusters: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Sums (G, p) by cluster of `pull` (n,) times the row `places` (n,) of U (m, p).

    Of U by its distinct rows: one row per cell would take more memory than all the rest.
    """
    from scipy import sparse

    shape = (int(clusters.max()) + 1, len(U))
    return np.asarray(sparse.csr_matrix((pull, (clusters, places)), shape=shape) @ U)


def _cr1(bread: NDArray[np.float64], scores: NDArray[np.float64]) -> Covariance:
    half = scores @ bread
    groups = len(scores)
    return Covariance(groups / (groups - 1) * (half.T @ half), "CR1", groups)


def error_kind(frame: pl.DataFrame) -> Kind | Literal["two-way"]:
    """The covariance that a table calls for: two-way with five wordings or more, else by queries.

    By queries it is CR1 from 20 on, and CR2 below.
    """
    return "two-way" if many_wordings(frame) else choose(frame["query"].n_unique())


def _distinct(frame: pl.DataFrame, terms: Sequence[Term]) -> tuple[pl.DataFrame, NDArray[np.int64]]:
    """One row for each arm and condition, or each of a lone factor's levels; every row's place."""
    factors = {term.factor for term in terms}
    keys = ["arm", *(factors if len(factors) == 1 else ["condition"])]
    rows = frame.unique(keys, keep="first", maintain_order=True)
    numbered = rows.select(*keys, pl.int_range(pl.len()).alias("place"))
    places = frame.select(keys).join(
        numbered, on=keys, how="left", nulls_equal=True, maintain_order="left"
    )["place"]
    return rows, places.to_numpy()


def _at(frame: pl.DataFrame, term: Term) -> pl.Expr:
    """The rows at a level; comparing text would take ten times as long as an Enum's numbers."""
    kind = frame.schema[term.factor]
    if isinstance(kind, pl.Enum):
        return pl.col(term.factor) == term.level if term.level in kind.categories else pl.lit(False)
    return pl.col(term.factor).cast(pl.String) == term.level


def _codes(column: pl.Series) -> NDArray[np.int64]:
    return (column.rank("dense").fill_null(0) - 1).cast(pl.Int64).to_numpy()


def _independent(X: NDArray[np.float64]) -> NDArray[np.intp]:
    """Numbers of columns that span X and of which none is a sum of others."""
    lengths = np.linalg.norm(X, axis=0)
    lengths[lengths == 0] = 1.0
    # Pivoting alone takes ten times as long where there are many rows.
    triangle = np.linalg.qr(X / lengths, mode="r")
    triangle, order = qr(triangle, mode="r", pivoting=True)
    diagonal = np.abs(np.diag(triangle))
    return np.sort(order[: int(np.sum(diagonal > NEGLIGIBLE**0.5))])
