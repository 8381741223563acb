"""Marginal gaps and interactions, averaged over the design's target law.

Takes observations of one model; gives the gap at every level, and how two changes together differ
from the sum of each, both averaged over the law. An interaction that the design cannot tell from
others is refused. Does not know simple effects.
"""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from analysis.estimates import INTERACTION, MARGINAL, Effect, infer, joined
from analysis.observations import Observations, Term, listed
from analysis.regressions import LinearFit, error_kind, linear_probability, queries_at

__all__ = ["interactions", "marginal_gaps"]

# Above so many products the table would say nothing: only a design made for them holds more.
MOST_PRODUCTS = 300


def marginal_gaps(observations: Observations, outcome: str) -> Iterator[Effect]:
    """Rates and gap at each level of each factor, over the law's share of everything else.

    Marginal means (Leeper, Hobolt and Tilley 2020): no level is a reference. Queries count the
    same within arm; trials to which a factor does not apply are left out of its rows.
    """
    graded = _graded(observations, outcome)
    for factor, levels in observations.levels.items():
        own = graded.filter(pl.col(factor).is_not_null())
        terms = [Term(factor, level) for level in levels[1:]]
        if not _fits(own):
            continue
        fit = linear_probability(own, outcome, terms, weighted=True, kind=error_kind(own))
        k = 1 + len(terms)
        for i, level in enumerate(levels):
            row = Effect(own["model"][0], outcome, MARGINAL, factor, level, None)
            at = np.zeros(k)
            at[0] = 1.0
            if i:
                at[i] = 1.0
            nothing = np.zeros(k)
            gap, deploy = np.concatenate([nothing, at]), np.concatenate([at, nothing])
            _fill(row, fit, gap, deploy, seen=queries_at(own, Term(factor, level)))
            yield row


def interactions(observations: Observations, outcome: str) -> Iterator[Effect]:
    """How much two changes together move the gap beyond the sum of each, on the rates.

    The products of all pairs of levels are in one weighted linear probability model: one that is
    a sum of others, as in a fraction, is not estimable, and names them. No rows for pairs that
    were not seen together by two queries in both arms, or with more than 300 products.
    """
    graded = _graded(observations, outcome)
    if not _fits(graded):
        return
    terms = observations.terms
    products = [(a, b) for a, b in itertools.combinations(terms, 2) if a.factor != b.factor]
    met = [(a, b) for a, b in products if _together(graded, a, b)]
    if not met or len(products) > MOST_PRODUCTS:
        return
    fit = linear_probability(
        graded, outcome, terms, weighted=True, kind=error_kind(graded), products=met
    )
    half = len(fit.names) // 2
    aliases = _aliases(fit.X[:, : 1 + len(terms)], fit.X[:, 1 + len(terms) : half])
    for i, (a, b) in enumerate(met):
        reference = observations.levels[a.factor][0]
        row = Effect(graded["model"][0], outcome, INTERACTION, a.factor, a.level, reference)
        row.factor2, row.level2 = b.factor, b.level
        deploy = np.zeros(2 * half)
        deploy[1 + len(terms) + i] = 1.0
        gap = np.roll(deploy, half)
        _fill(row, fit, gap, deploy)
        if row.estimate is None:
            row.note = _aliased([met[j] for j in aliases[i]])
        yield row


def _graded(observations: Observations, outcome: str) -> pl.DataFrame:
    return observations.frame.filter(pl.col("weight").is_not_null() & pl.col(outcome).is_not_null())


def _fits(graded: pl.DataFrame) -> bool:
    return graded["arm"].n_unique() == 2 and graded["query"].n_unique() > 1


def _together(graded: pl.DataFrame, a: Term, b: Term) -> bool:
    """Whether both changes are seen together by two queries in each arm."""
    here = graded.filter(
        (pl.col(a.factor).cast(pl.String) == a.level)
        & (pl.col(b.factor).cast(pl.String) == b.level)
    )
    seen = here.group_by("arm").agg(pl.col("query").n_unique())
    return seen.height == 2 and int(seen["query"].to_numpy().min()) > 1


def _aliases(base: NDArray[np.float64], products: NDArray[np.float64]) -> list[list[int]]:
    """For each product the other products that the conditions cannot tell it from.

    They share a direction of the null space of the products, apart from intercept and terms.
    """
    own = products - base @ (np.linalg.pinv(base) @ products)
    own[:, np.linalg.norm(own, axis=0) < 1e-9 * np.linalg.norm(products, axis=0)] = 0.0
    null = np.eye(own.shape[1]) - np.linalg.pinv(own, rcond=1e-9) @ own
    joint = np.abs(null) > 1e-6
    return [[int(j) for j in np.flatnonzero(row) if j != i] for i, row in enumerate(joint)]


def _aliased(others: Sequence[tuple[Term, Term]]) -> str:
    if not others:
        return "not estimable: aliased with single changes"
    names = [" x ".join(f"{term.factor}={term.level}" for term in product) for product in others]
    return f"not estimable: aliased with {listed(names)}"


def _fill(
    row: Effect,
    fit: LinearFit,
    gap: NDArray[np.float64],
    deploy: NDArray[np.float64],
    seen: int | None = None,
) -> None:
    """The row's estimate, parts and error; why there are none where the design has none.

    `seen` is how many queries the row's level has, where the fit is not refused without two.
    """
    row.n_trials, row.n_clusters = fit.trials, fit.clusters
    found = fit.contrast(gap)
    if found is None:
        row.note = "not estimable: no graded trials in one arm"
        return
    train, rest = fit.contrast(gap + deploy), fit.contrast(deploy)
    row.estimate, error = found
    row.train_part = train[0] if train else None
    row.deploy_part = rest[0] if rest else None
    row.method = f"weighted linear probability, {fit.errors.kind}"
    row.note = "two-way error clipped" if fit.errors.clipped else None
    df = fit.df_of(gap)
    if seen is not None and seen < 2:
        # The fit goes through the mean of a lone query, and would take that for certainty.
        row.note = "one query"
    elif error <= 1e-12:
        row.note = joined(row.note, "boundary")
    elif df is None:
        row.note = joined(row.note, "one query decides")
    else:
        infer(row, error, df)
