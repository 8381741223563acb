"""Sensitivity rows: the same effects by other estimators, beside the primary ones and untested.

Takes observations of one model; gives the simple effects with trials counted equally and from a
logit model, the averaged ones without weights and as average marginal effects, and bootstrap
p-values where there are few queries. Does not know which estimator is primary.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from analysis.bootstrap import refusal, wild_bootstrap
from analysis.effects import averaged_contrasts
from analysis.estimates import AVERAGED, SIMPLE, Effect, infer, joined
from analysis.firth import firth
from analysis.gaps import changed_of, original_of
from analysis.logit import LogitError, Separated
from analysis.margins import Counterfactual, gap_effect
from analysis.observations import Observations, Term, treatment
from analysis.placebo import changes
from analysis.regressions import (
    design_matrix,
    equal_query_weights,
    error_kind,
    estimable,
    linear_probability,
    log_odds,
    queries_at,
)

__all__ = ["sensitivity_rows"]

FEW_QUERIES = 10
ROLE = "sensitivity"

Floats = NDArray[np.float64]


def sensitivity_rows(
    observations: Observations, outcome: str, zeros: frozenset[int], *, binary: bool
) -> Iterator[Effect]:
    """Rows of role `sensitivity`: estimates and intervals, p-values without correction.

    Structural zeros have none: their gap is 0 by construction under every estimator. `binary`
    says that every trial was a success or not: a share of votes has no likelihood.
    """
    graded = observations.frame.filter(pl.col(outcome).is_not_null())
    if not _fits(graded):
        return
    yield from _trial_weighted(observations, outcome, zeros)
    yield from _signs_changed(observations, outcome, zeros)
    yield from _unweighted(observations, graded, outcome, zeros)
    if binary:
        yield from _model_based(observations, graded, outcome, zeros)


def _fits(graded: pl.DataFrame) -> bool:
    return graded["arm"].n_unique() == 2 and graded["query"].n_unique() > 1


def _row(observations: Observations, outcome: str, estimand: str, term: Term) -> Effect:
    reference = observations.levels[term.factor][0]
    model = observations.frame["model"][0]
    row = Effect(model, outcome, estimand, term.factor, term.level, reference)
    row.role = ROLE
    return row


def _zero(observations: Observations, term: Term, zeros: frozenset[int]) -> bool:
    return bool(zeros) and bool(set(changed_of(observations, term)["condition"].unique()) & zeros)


def _trial_weighted(
    observations: Observations, outcome: str, zeros: frozenset[int]
) -> Iterator[Effect]:
    """The simple effect with every trial counted once: a difference of four pooled rates."""
    original = original_of(observations)
    for term in observations.terms:
        here = pl.concat([original, changed_of(observations, term)])
        graded = here.filter(pl.col(outcome).is_not_null())
        if _zero(observations, term, zeros) or not _fits(graded):
            continue
        fit = linear_probability(graded, outcome, [term], weighted=False, kind=error_kind(graded))
        found = fit.contrast(np.array([0.0, 0, 0, 1]))
        if found is None:
            continue
        row = _row(observations, outcome, SIMPLE, term)
        row.estimate, row.n_trials, row.n_clusters = found[0], fit.trials, fit.clusters
        row.method = f"trials counted equally, {fit.errors.kind}"
        if queries_at(graded, term) < 2:
            row.note = "one query"
        elif found[1] > 1e-12:
            infer(row, found[1], fit.df_of(np.array([0.0, 0, 0, 1])))
        yield row


def _signs_changed(
    observations: Observations, outcome: str, zeros: frozenset[int]
) -> Iterator[Effect]:
    """Bootstrap p-values of the simple effects: all sign changes of the queries' own effects."""
    original = original_of(observations)
    for term in observations.terms:
        if _zero(observations, term, zeros):
            continue
        changed = changed_of(observations, term)
        change = changes(original, {term.level: changed}, outcome).values[:, 0]
        own = change[np.isfinite(change)]
        ones = np.ones(len(own))
        if len(own) > FEW_QUERIES or refusal(len(own)) is not None or own.std() <= 1e-12:
            continue
        found = wild_bootstrap(ones[:, None], own, np.arange(len(own)), ones, [1.0])
        row = _row(observations, outcome, SIMPLE, term)
        row.p_value, row.statistic = found.p_value, found.statistic
        row.n_clusters = found.clusters
        row.method = f"wild cluster bootstrap, all {found.draws} sign changes"
        yield row


def _unweighted(
    observations: Observations, graded: pl.DataFrame, outcome: str, zeros: frozenset[int]
) -> Iterator[Effect]:
    """The averaged effect over the table as it is, and bootstrap p-values of the weighted one."""
    weighted = graded.filter(pl.col("weight").is_not_null())
    if not _fits(weighted):
        return
    terms = observations.terms
    fit = linear_probability(weighted, outcome, terms, weighted=False, kind=error_kind(weighted))
    contrasts = list(averaged_contrasts(weighted, terms, zeros))
    queries = weighted["query"].n_unique()
    few = queries <= FEW_QUERIES and refusal(queries) is None
    for term, parts in zip(terms, contrasts, strict=True):
        found = fit.contrast(parts.gap)
        if parts.structural_zero or found is None:
            continue
        row = _row(observations, outcome, AVERAGED, term)
        row.estimate, row.n_trials, row.n_clusters = found[0], fit.trials, fit.clusters
        row.method = f"linear probability without weights, {fit.errors.kind}"
        if queries_at(weighted, term) < 2:
            row.note = "one query"
        elif found[1] > 1e-12:
            infer(row, found[1], fit.df_of(parts.gap))
        yield row
        if few and row.note is None:
            yield from _bootstrapped(observations, weighted, outcome, term, parts.gap)


def _bootstrapped(
    observations: Observations, frame: pl.DataFrame, outcome: str, term: Term, contrast: Floats
) -> Iterator[Effect]:
    X = design_matrix(frame, observations.terms)
    if not estimable(X, contrast):
        return
    weights = equal_query_weights(frame)
    clusters = (frame["query"].rank("dense") - 1).cast(pl.Int64).to_numpy()
    counts = frame["n"].cast(pl.Float64).to_numpy()
    found = wild_bootstrap(X, frame[outcome].to_numpy(), clusters, weights, contrast, counts=counts)
    row = _row(observations, outcome, AVERAGED, term)
    row.p_value, row.statistic = found.p_value, found.statistic
    row.n_trials, row.n_clusters = int(counts.sum()), found.clusters
    row.method = f"wild cluster bootstrap, all {found.draws} sign changes"
    yield row


def _model_based(
    observations: Observations, graded: pl.DataFrame, outcome: str, zeros: frozenset[int]
) -> Iterator[Effect]:
    """Effects on the rates from a logit of all trials: g-computation, errors by the delta method.

    Simple: at the original with one change. Averaged: over the conditions of the law to which the
    factor applies, with the factor set; if a level takes others along, over those that have the
    factor at its reference. Firth's estimates where trials are separated, and then no error.
    """
    terms = observations.terms
    try:
        odds = log_odds(graded, outcome, terms)
    except LogitError:
        return
    note = None
    if isinstance(odds.fitted, Separated):
        estimates = firth(odds.X, odds.successes, odds.counts).estimates
        method, note = "Firth's logit, g-computation", "separated: no interval"
    else:
        estimates, method = odds.fitted.estimates, "logit, g-computation, CR1 by query"
    covariance = odds.covariance
    law = graded.filter(pl.col("weight").is_not_null())
    rows = law.group_by("condition", maintain_order=True).agg(
        *(pl.col(f).first() for f in observations.levels),
        (pl.col("weight") * pl.col("n")).sum().alias("share"),
    )
    at, shares = treatment(rows, terms), rows["share"].to_numpy()
    nothing = covariance if covariance is not None else np.zeros((len(odds.names),) * 2)
    for i, term in enumerate(terms):
        if _zero(observations, term, zeros):
            continue
        own = [j for j, other in enumerate(terms) if other.factor == term.factor]
        gone = _gone(rows, terms, term)
        applies = rows[term.factor].is_not_null().to_numpy()
        if gone:
            applies &= ~at[:, own].any(axis=1)
        places = [(SIMPLE, np.zeros((1, len(terms))), np.ones(1))]
        if applies.any():
            places.append((AVERAGED, at[applies], shares[applies]))
        for estimand, before, weights in places:
            found = gap_effect(
                estimates,
                nothing,
                _arms(_set(before, [*own, *gone], i)),
                _arms(_set(before, own)),
                weights,
            )
            row = _row(observations, outcome, estimand, term)
            row.estimate, row.method, row.note = found.effect.estimate, method, note
            row.train_part, row.deploy_part = found.train.estimate, found.deploy.estimate
            row.n_trials, row.n_clusters = int(odds.counts.sum()), odds.clusters
            if queries_at(graded, term) < 2:
                row.note = joined(note, "one query")
            elif covariance is not None and found.effect.std_error:
                infer(row, found.effect.std_error, odds.df)
            yield row


def _gone(rows: pl.DataFrame, terms: Sequence[Term], term: Term) -> list[int]:
    """The terms that no longer apply where a level is: they go along with it."""
    there = rows.filter(pl.col(term.factor).cast(pl.String) == term.level)
    if not there.height:
        return []
    return [j for j, t in enumerate(terms) if there[t.factor].is_null().all()]


def _set(at: Floats, cleared: Sequence[int], one: int | None = None) -> Floats:
    """The rows with some terms away, and one there."""
    found = at.copy()
    found[:, cleared] = 0.0
    if one is not None:
        found[:, one] = 1.0
    return found


def _arms(at: Floats) -> Counterfactual:
    levels = np.column_stack([np.ones(len(at)), at])
    return Counterfactual(np.hstack([levels, levels]), np.hstack([levels, 0 * levels]))
