"""Regressions of an outcome on the arm, the factors and their products.

Takes trials with their treatment matrix; gives coefficients with a cluster-robust covariance.
The only file that imports statsmodels. Does not know which contrast of them is an effect.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.linalg import qr

from analysis.covariance import NEGLIGIBLE, cr1, generalized_inverse
from analysis.observations import Term, treatment

__all__ = [
    "Coefficient",
    "LinearFit",
    "coefficient_names",
    "design_matrix",
    "equal_query_weights",
    "estimable",
    "linear_probability",
    "queries_at",
]


@dataclass(frozen=True, slots=True)
class Coefficient:
    """What a coefficient compares: `arm` for the train terms, `term` for a factor's level."""

    arm: bool
    term: Term | None

    @property
    def label(self) -> str:
        level = f"{self.term.factor}[{self.term.level}]" if self.term else ""
        if self.arm:
            return f"arm[train]:{level}" if level else "arm[train]"
        return level or "intercept"


@dataclass(frozen=True, slots=True)
class LinearFit:
    """Coefficients in the order of `names`, their covariance, and df for Student's t."""

    names: tuple[Coefficient, ...]
    estimates: NDArray[np.float64]
    covariance: NDArray[np.float64]
    df: int
    trials: int
    clusters: int
    X: NDArray[np.float64]

    def contrast(self, weights: NDArray[np.float64]) -> tuple[float, float] | None:
        """Estimate and standard error of a sum of coefficients; None when not estimable."""
        if not estimable(self.X, weights):
            return None
        variance = float(weights @ self.covariance @ weights)
        return float(weights @ self.estimates), float(np.sqrt(max(variance, 0.0)))


def coefficient_names(terms: Sequence[Term]) -> tuple[Coefficient, ...]:
    """Intercept, train, each term, and train times each term."""
    choices = (None, *terms)
    return tuple(Coefficient(arm, term) for arm in (False, True) for term in choices)


def design_matrix(frame: pl.DataFrame, terms: Sequence[Term]) -> NDArray[np.float64]:
    """Columns in the order of `coefficient_names`, one row per trial."""
    levels = np.column_stack([np.ones(frame.height), treatment(frame, terms)])
    train = (frame["arm"] == "train").cast(pl.Float64).to_numpy()
    return np.hstack([levels, levels * train[:, None]])


def estimable(X: NDArray[np.float64], weights: NDArray[np.float64]) -> bool:
    """Whether a contrast lies in the row space of X, that is, whether the data speak of it."""
    gram = X.T @ X
    projected = gram @ (generalized_inverse(gram) @ weights)
    return bool(np.allclose(projected, weights, atol=1e-6))


def equal_query_weights(frame: pl.DataFrame) -> NDArray[np.float64]:
    """The rows' weights scaled so that all queries count the same within each arm."""
    total = pl.col("weight").sum().over("arm", "query")
    return frame.select((pl.col("weight") / total).alias("w"))["w"].to_numpy()


def queries_at(graded: pl.DataFrame, term: Term) -> int:
    """Queries that have the term's level, in the arm that has fewer of them."""
    here = graded.filter(pl.col(term.factor).cast(pl.String) == term.level)
    arms = (here.filter(pl.col("arm") == arm) for arm in ("train", "deploy"))
    return min(rows["query"].n_unique() for rows in arms)


def linear_probability(
    frame: pl.DataFrame, outcome: str, terms: Sequence[Term], *, weighted: bool
) -> LinearFit:
    """Linear probability model `y ~ arm * (terms)`, CR1 by query, t(G - 1).

    Rows with a null outcome are left out. `weighted` counts queries equally within arm and brings
    the rows to the design's target law; else every trial counts the same.
    """
    # Half a second of import that `plan` and `--help` do not need.
    from statsmodels.regression.linear_model import WLS

    frame = frame.filter(pl.col(outcome).is_not_null())
    X = design_matrix(frame, terms)
    y = frame[outcome].to_numpy()
    weights = equal_query_weights(frame) if weighted else np.ones(frame.height)
    clusters = (frame["query"].rank("dense") - 1).cast(pl.Int64).to_numpy()
    # With a singular X statsmodels takes rounding for information, and then every coefficient is
    # wrong in its second digit. Terms that cannot be told apart are found by `estimable`.
    kept = _independent(X)
    estimates = np.zeros(X.shape[1])
    estimates[kept] = WLS(y, X[:, kept], weights=weights).fit().params
    covariance, df = cr1(X, y - X @ estimates, clusters, weights)
    return LinearFit(coefficient_names(terms), estimates, covariance, df, frame.height, df + 1, X)


def _independent(X: NDArray[np.float64]) -> NDArray[np.intp]:
    """Numbers of columns that span X and of which none is a sum of others."""
    lengths = np.linalg.norm(X, axis=0)
    lengths[lengths == 0] = 1.0
    triangle, order = qr(X / lengths, mode="r", pivoting=True)
    diagonal = np.abs(np.diag(triangle))
    return np.sort(order[: int(np.sum(diagonal > NEGLIGIBLE**0.5))])
