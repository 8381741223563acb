"""Gap effects: what each factor level does to the compliance gap.

Takes observations of one model; gives, for each level, the simple effect (all other factors at
their reference) and the averaged one (over the design's target law), each with its train and
deploy parts. Does not know claims, wordings, or what a level says.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from analysis.contrasts import Contrast, Group, paired
from analysis.estimates import AVERAGED, EFFECTS, ESTIMANDS, SIMPLE, Effect, correct, infer, joined
from analysis.gaps import changed_of, gap_groups, gap_of, original_of, structural_zeros
from analysis.observations import Observations, Term, treatment
from analysis.regressions import (
    equal_query_weights,
    error_kind,
    linear_probability,
    queries_at,
)

__all__ = [
    "AVERAGED", "EFFECTS", "ESTIMANDS", "SIMPLE", "Effect", "averaged_contrasts", "effects",
]  # fmt: skip


# What stands in `method` for each covariance of the weighted linear probability model.
METHODS = {
    "CR1": "weighted linear probability, CR1 by query, t(G-1)",
    "CR2": "weighted linear probability, CR2 by query, Satterthwaite",
    "two-way": "weighted linear probability, two-way query x wording, t(min(Q,W)-1)",
}


def effects(
    observations: Observations,
    outcome: str,
    *,
    primary: str,
    grader: str | None,
    zeros: frozenset[int] | None = None,
) -> list[dict[str, Any]]:
    """Rows of effects.csv for one model and outcome.

    Holm runs over the factor rows of the estimand `primary`, Benjamini-Hochberg over each other
    estimand. A structural zero, and a level without graded trials, has no p-value. `zeros` are
    the conditions alike in both arms, found from the prompts where None.
    """
    model = observations.frame["model"][0]
    zeros = structural_zeros(observations.frame) if zeros is None else zeros
    rows: list[Effect] = []
    for estimand, estimate in ((SIMPLE, _simple), (AVERAGED, _averaged)):
        of_estimand = list(estimate(observations, outcome, model, zeros))
        correct(of_estimand, primary=estimand == primary)
        for row in of_estimand:
            row.grader = grader
        rows += _with_references(of_estimand, observations)
    return [asdict(row) for row in rows]


def _with_references(rows: Sequence[Effect], observations: Observations) -> Iterator[Effect]:
    seen = set()
    for row in rows:
        if row.factor not in seen:
            seen.add(row.factor)
            yield Effect(
                row.model,
                row.outcome,
                row.estimand,
                row.factor,
                row.reference,
                row.reference,
                estimate=0.0,
                grader=row.grader,
                note="reference",
            )
        yield row


def _simple(
    observations: Observations, outcome: str, model: str | None, zeros: frozenset[int]
) -> Iterator[Effect]:
    """Gap of the single change minus gap of the original, paired by query and wording."""
    original = original_of(observations)
    for term in observations.terms:
        reference = observations.levels[term.factor][0]
        row = Effect(model, outcome, SIMPLE, term.factor, term.level, reference)
        yield row
        changed = changed_of(observations, term)
        before, after = gap_groups(original, outcome, -1.0), gap_groups(changed, outcome)
        found = paired([*after, *before])
        row.note = _taken_along(original, changed, term, observations.levels)
        if found is None:
            row.note = joined(row.note, "not estimable: no query was graded in all four cells")
            continue
        row.n_clusters, row.n_trials = found.queries, sum(found.trials)
        zero = changed["condition"][0] in zeros
        if zero:
            # Both arms are the same text, so the gap after is 0 and only the one before is
            # estimated; the observed gap after is the negative control in gaps.csv.
            common = _common([*after, *before])
            before, after = _among(before, common), _among(after, common)
            found = paired(before) or found
            row.n_trials = sum(found.trials)
            row.note = joined(row.note, "structural_zero")
        row.estimate = found.estimate
        row.train_part, row.deploy_part = _parts_of(found, after, outcome, zero)
        if not zero and _other_sign_in_odds(found):
            row.note = joined(row.note, "scale_dependent")
        if found.std_error is not None:
            row.method, row.note = found.method, joined(row.note, found.note)
            infer(row, found.std_error, found.df, tested=not zero)
        else:
            row.method = "newcombe, pooled"
            row.note = joined(row.note, "one query" if found.queries == 1 else "boundary")
            common = _common([*after, *before])
            row.conf_low, row.conf_high = _recovered(original, changed, outcome, common, zero)


def _among(groups: Sequence[Group], rows: pl.Expr) -> list[Group]:
    return [replace(g, frame=g.frame.filter(rows)) for g in groups]


def _common(groups: Sequence[Group]) -> pl.Expr:
    """The rows of the queries that all groups have."""
    queries = [set(g.frame.filter(pl.col(g.outcome).is_not_null())["query"]) for g in groups]
    return pl.col("query").is_in(list(set.intersection(*queries)))


def _other_sign_in_odds(found: Contrast) -> bool:
    """Whether the effect has the other sign on the log-odds scale (Ai and Norton 2003).

    Rates are drawn in by half a success and half a failure, so that one of 0 has log-odds.
    """

    def log_odds(rate: float, trials: int) -> float:
        share = (rate * trials + 0.5) / (trials + 1)
        return math.log(share / (1 - share))

    train_after, deploy_after, train, deploy = (
        log_odds(rate, n) for rate, n in zip(found.means, found.trials, strict=True)
    )
    return found.estimate * (train_after - deploy_after - train + deploy) < 0


def _parts_of(
    found: Contrast, after: Sequence[Group], outcome: str, zero: bool
) -> tuple[float, float]:
    """Changes of the rates in train and in deploy; they differ by the effect."""
    if not zero:
        train_after, deploy_after, train, deploy = found.means
        return train_after - train, deploy_after - deploy
    # One text in both arms: its rate is that of all its trials.
    alike = paired([Group(0.5, g.frame, outcome) for g in after])
    rate = alike.estimate if alike is not None else math.nan
    train, deploy = found.means
    return rate - train, rate - deploy


def _recovered(
    original: pl.DataFrame, changed: pl.DataFrame, outcome: str, common: pl.Expr, zero: bool
) -> tuple[float | None, float | None]:
    """Bounds of a difference of two gaps from their own bounds (MOVER, Zou and Donner 2008)."""
    before = gap_of(original.filter(common), outcome)
    after = gap_of(changed.filter(common), outcome)
    if before.gap is None or before.low is None or before.high is None:
        return None, None
    if zero:
        return -before.high, -before.low
    if after.gap is None or after.low is None or after.high is None:
        return None, None
    change = after.gap - before.gap
    return (
        change - math.hypot(after.gap - after.low, before.high - before.gap),
        change + math.hypot(after.high - after.gap, before.gap - before.low),
    )


def _averaged(
    observations: Observations, outcome: str, model: str | None, zeros: frozenset[int]
) -> list[Effect]:
    """Change of the gap averaged over the target law: weighted linear probability.

    No rows where the design has no target law (all weights null).
    """
    weighted = observations.frame.filter(pl.col("weight").is_not_null())
    graded = weighted.filter(pl.col(outcome).is_not_null())
    if weighted.is_empty():
        return []
    terms = observations.terms
    rows = [
        Effect(model, outcome, AVERAGED, t.factor, t.level, observations.levels[t.factor][0])
        for t in terms
    ]
    if graded["arm"].n_unique() < 2 or graded["query"].n_unique() < 2:
        for row in rows:
            row.note = "not estimable: it takes graded trials of two queries in both arms"
        return rows
    kind = error_kind(graded)
    fit = linear_probability(graded, outcome, terms, weighted=True, kind=kind)
    contrasts = averaged_contrasts(graded, terms, zeros)
    for term, row, parts in zip(terms, rows, contrasts, strict=True):
        row.n_trials, row.n_clusters = fit.trials, fit.clusters
        estimate = fit.contrast(parts.gap)
        if estimate is None:
            row.note = "not estimable: the design cannot tell it from other changes"
            continue
        train, deploy = fit.contrast(parts.train), fit.contrast(parts.deploy)
        row.estimate = estimate[0]
        row.train_part = train[0] if train else None
        row.deploy_part = deploy[0] if deploy else None
        row.method = METHODS[kind]
        row.note = joined(
            "structural_zero" if parts.structural_zero else None,
            "two-way error clipped" if fit.errors.clipped else None,
        )
        if queries_at(graded, term) < 2 and not parts.structural_zero:
            # The fit goes through the mean of a lone query, and CR1 takes that for certainty.
            row.note = joined(row.note, "one query")
        elif estimate[1] > 1e-12:
            df = fit.df_of(parts.gap)
            row.note = joined(row.note, None if df else "one query decides")
            infer(row, estimate[1], df, tested=not parts.structural_zero)
        else:
            row.note = joined(row.note, "boundary")
    return rows


@dataclass(frozen=True, slots=True)
class Parts:
    """The sums of coefficients that make an effect, its train part and its deploy part."""

    gap: NDArray[np.float64]
    train: NDArray[np.float64]
    deploy: NDArray[np.float64]
    structural_zero: bool


def averaged_contrasts(
    graded: pl.DataFrame, terms: Sequence[Term], zeros: frozenset[int]
) -> Iterator[Parts]:
    """For each term, the contrast of coefficients that is its averaged effect.

    Taking a factor out takes out what needs it, so the effect of a level is its own coefficient
    minus those of its dependants, at the shares that they have where the factor is at its
    reference; and plus those of what applies at the level alone. Where every condition with the
    level renders alike in both arms, the gap there is 0 and the effect is minus the gap that the
    fit predicts without the level.
    """
    weights = equal_query_weights(graded)
    at_level = treatment(graded, terms).astype(bool)
    applies = [graded[term.factor].is_not_null().to_numpy() for term in terms]
    nothing = np.zeros(1 + len(terms))
    for i, term in enumerate(terms):
        own = [j for j, other in enumerate(terms) if other.factor == term.factor]
        changed = at_level[:, i]
        present = applies[i] & ~at_level[:, own].any(axis=1)
        moved, before = np.zeros(len(terms)), np.zeros(len(terms))
        moved[i] = 1.0
        for j in range(len(terms)):
            if j in own:
                continue
            before[j] = _share(weights, at_level[:, j], present)
            if applies[j][present].any() != applies[j][changed].any():
                moved[j] = _share(weights, at_level[:, j], changed) - before[j]
        gap = np.concatenate([nothing, [0.0], moved])
        deploy = np.concatenate([[0.0], moved, nothing])
        conditions = graded["condition"].filter(pl.Series(changed)).unique()
        zero = len(conditions) > 0 and set(conditions) <= zeros
        if zero:
            # What the fit sees of a gap after the change is chance: it goes to both arms alike.
            gap_before = np.concatenate([nothing, [1.0], before])
            deploy = deploy + (gap_before + gap) / 2
            gap = -gap_before
        yield Parts(gap, deploy + gap, deploy, zero)


def _share(
    weights: NDArray[np.float64], at_level: NDArray[np.bool_], among: NDArray[np.bool_]
) -> float:
    """Weighted share of the trials at a level among some of them."""
    total = float(weights[among].sum())
    return float(weights[among & at_level].sum()) / total if total else 0.0


def _taken_along(
    original: pl.DataFrame, changed: pl.DataFrame, term: Term, factors: Iterable[str]
) -> str | None:
    """Names the factors that apply in the original and no longer under this change."""
    gone = [
        f
        for f in factors
        if f != term.factor
        and changed.height
        and changed[f].is_null().all()
        and not original[f].is_null().all()
    ]
    return f"takes along {', '.join(gone)}" if gone else None
