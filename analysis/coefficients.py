"""Coefficients: the fitted models themselves, a row each, for who wants to look behind effects.

Takes observations of one model; gives the rows of coefficients.csv: the linear probability model,
and on the log-odds scale logit or Firth's, estimating equations, conditional and random-intercept
logits. Does not know effects.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from analysis.conditional import conditional_logit
from analysis.covariance import Kind, choose
from analysis.firth import firth, profiles
from analysis.gee import gee
from analysis.intervals import t_interval, z_interval
from analysis.logit import LogitError, Separated
from analysis.mixed_logit import mixed_logit
from analysis.observations import Observations, Term
from analysis.regressions import (
    Coefficient,
    coefficient_names,
    design_matrix,
    linear_probability,
    log_odds,
    queries_at,
)

__all__ = ["COEFFICIENTS", "coefficients"]

# The columns of coefficients.csv.
COEFFICIENTS: dict[str, Any] = {
    "model": pl.String,
    "outcome": pl.String,
    "fit": pl.String,
    "term": pl.String,
    "estimate": pl.Float64,
    "std_error": pl.Float64,
    "statistic": pl.Float64,
    "df": pl.Float64,
    "p_value": pl.Float64,
    "conf_low": pl.Float64,
    "conf_high": pl.Float64,
    "covariance": pl.String,
    "note": pl.String,
}
# Cells above which the three descriptive logits take longer than they are worth.
MOST_CELLS = 20_000

Floats = NDArray[np.float64]


def coefficients(
    observations: Observations, outcome: str, kinds: Sequence[Kind] = (), *, binary: bool
) -> Iterator[dict[str, Any]]:
    """The unweighted fits of `y ~ arm * (factors)`, one row per coefficient.

    `lpm` has the covariance by the number of queries, and rows for the further `kinds`. `logit`
    has CR1 by query; where trials are separated there is `firth` in its place, with profile
    bounds that take trials for independent. `gee` is exchangeable within queries with
    bias-reduced errors, `clogit` is within queries, `glmm` has a random intercept of the query.
    Without `binary` trials are shares of votes, and `logit` rows say so.
    """
    graded = observations.frame.filter(pl.col(outcome).is_not_null())
    if graded["arm"].n_unique() < 2 or graded["query"].n_unique() < 2:
        return
    start = {"model": observations.frame["model"][0], "outcome": outcome}
    separated = None
    odds: list[dict[str, Any]] = []
    if binary:
        odds, separated = _log_odds(observations, graded, outcome)
    else:
        odds = [
            {"fit": "logit", "term": name.label, "note": "not estimable: outcomes between 0 and 1"}
            for name in coefficient_names(observations.terms)
        ]
    for kind in dict.fromkeys([choose(graded["query"].n_unique()), *kinds]):
        for row in _linear(observations, graded, outcome, kind):
            if separated:
                row["note"] = "; ".join(filter(None, (row.get("note"), "separated")))
            yield dict.fromkeys(COEFFICIENTS) | start | row
    for row in odds:
        yield dict.fromkeys(COEFFICIENTS) | start | row


def _linear(
    observations: Observations, graded: pl.DataFrame, outcome: str, kind: Kind
) -> Iterator[dict[str, Any]]:
    fitted = linear_probability(graded, outcome, observations.terms, weighted=False, kind=kind)
    for i, name in enumerate(fitted.names):
        unit = np.eye(len(fitted.names))[i]
        row: dict[str, Any] = {"fit": "lpm", "term": name.label, "covariance": kind}
        found = fitted.contrast(unit)
        if found is None:
            row["note"] = "not estimable"
        else:
            row["estimate"] = found[0]
            df = fitted.df_of(unit)
            if name.term and queries_at(graded, name.term) < 2:
                row["note"] = "one query"
            elif found[1] <= 1e-12:
                row["note"] = "boundary"
            elif df is None:
                row["note"] = "one query decides"
            else:
                row |= {"std_error": found[1], "df": df} | _bounds(t_interval(*found, df))
        yield row


def _log_odds(
    observations: Observations, graded: pl.DataFrame, outcome: str
) -> tuple[list[dict[str, Any]], str | None]:
    """Rows on the log-odds scale, and what is separated."""
    try:
        odds = log_odds(graded, outcome, observations.terms)
    except LogitError:
        return [], None
    names, fitted, X = odds.names, odds.fitted, odds.X
    if isinstance(fitted, Separated):
        found = firth(X, odds.successes, odds.counts)
        rows = []
        for profile in profiles(X, odds.successes, odds.counts, found, range(X.shape[1])):
            rows.append(
                {
                    "fit": "firth",
                    "term": names[profile.column].label,
                    "estimate": float(found.estimates[profile.column]),
                    "statistic": profile.statistic,
                    "p_value": profile.p_value,
                    "conf_low": profile.low,
                    "conf_high": profile.high,
                    "covariance": "profile",
                    "note": "; ".join(filter(None, (fitted.note, "independence", profile.note))),
                }
            )
        return rows, fitted.note
    assert odds.covariance is not None
    estimates, df = fitted.estimates, float(odds.df)
    rows = list(_wald("logit", names, estimates, odds.covariance, "CR1", df, fitted.note))
    if graded.height <= MOST_CELLS:
        rows += _descriptive(graded, outcome, observations.terms)
    return rows, None


def _descriptive(
    graded: pl.DataFrame, outcome: str, terms: Sequence[Term]
) -> Iterator[dict[str, Any]]:
    """Three further readings of the queries; one that cannot be fitted has no rows."""
    names = coefficient_names(terms)
    X = design_matrix(graded, terms)
    counts = graded["n"].cast(pl.Float64).to_numpy()
    successes = np.round((graded[outcome] * graded["n"]).to_numpy())
    clusters = (graded["query"].rank("dense") - 1).cast(pl.Int64).to_numpy()
    marginal = gee(X, successes, counts, clusters)
    if not isinstance(marginal, Separated):
        reduced = marginal.bias_reduced
        kind = "bias-reduced" if reduced is not None else "CR0"
        matrix = reduced if reduced is not None else marginal.robust
        df = float(marginal.clusters - 1)
        yield from _wald("gee", names, marginal.estimates, matrix, kind, df, marginal.note)
    try:
        within = conditional_logit(X[:, 1:], successes, counts, clusters)
    except LogitError:
        within = None
    if within is not None and not isinstance(within, Separated):
        note = f"{within.dropped} queries without variation left out" if within.dropped else ""
        note = "; ".join(filter(None, (within.note, note)))
        yield from _wald(
            "clogit", names[1:], within.estimates, within.covariance, "model", None, note
        )
    mixed = mixed_logit(X, successes, counts, clusters)
    if not isinstance(mixed, Separated):
        note = "; ".join(filter(None, (f"SD between queries {mixed.sd:.3g}", mixed.note)))
        yield from _wald("glmm", names, mixed.estimates, mixed.covariance, "model", None, note)


def _wald(
    fit: str,
    names: Sequence[Coefficient],
    estimates: Floats,
    covariance: Floats,
    kind: str,
    df: float | None,
    note: str,
) -> Iterator[dict[str, Any]]:
    for name, estimate, variance in zip(names, estimates, np.diag(covariance), strict=True):
        row: dict[str, Any] = {
            "fit": fit, "term": name.label, "estimate": float(estimate), "covariance": kind,
            "note": note or None,
        }  # fmt: skip
        error = float(np.sqrt(max(variance, 0.0)))
        if error > 1e-12 and np.isfinite(error):
            both = float(estimate), error
            bounds = t_interval(*both, df) if df is not None else z_interval(*both)
            row |= {"std_error": error, "df": df} | _bounds(bounds)
        yield row


def _bounds(found: Any) -> dict[str, Any]:
    return {
        "statistic": found.statistic,
        "p_value": found.p_value,
        "conf_low": found.low,
        "conf_high": found.high,
    }
