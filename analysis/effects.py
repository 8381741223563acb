"""Gap effects: what each factor level does to the compliance gap.

Takes observations of one model; gives, for each level, the simple effect (all other factors at
their reference) and the averaged one (over the design's target law), each with its train and
deploy parts. Does not know claims, wordings, or what a level says.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from analysis.gaps import (
    CONTRAST,
    changed_of,
    gap_of,
    original_of,
    query_rates,
    structural_zeros,
)
from analysis.intervals import t_interval
from analysis.multiplicity import benjamini_hochberg, holm
from analysis.observations import Observations, Term, treatment
from analysis.regressions import equal_query_weights, linear_probability, queries_at

__all__ = ["EFFECTS", "ESTIMANDS", "Effect", "averaged_contrasts", "effects"]

SIMPLE = "gap_effect_simple"
AVERAGED = "gap_effect_averaged"
ESTIMANDS = (SIMPLE, AVERAGED)

# The columns of effects.csv.
EFFECTS: dict[str, Any] = {
    "model": pl.String,
    "outcome": pl.String,
    "contrast": pl.String,
    "estimand": pl.String,
    "factor": pl.String,
    "level": pl.String,
    "factor2": pl.String,
    "level2": pl.String,
    "reference": pl.String,
    "estimate": pl.Float64,
    "train_part": pl.Float64,
    "deploy_part": pl.Float64,
    "std_error": pl.Float64,
    "statistic": pl.Float64,
    "df": pl.Float64,
    "p_value": pl.Float64,
    "p_holm": pl.Float64,
    "q_bh": pl.Float64,
    "p_placebo": pl.Float64,
    "conf_low": pl.Float64,
    "conf_high": pl.Float64,
    "n_trials": pl.Int64,
    "n_clusters": pl.Int64,
    "family": pl.String,
    "grader": pl.String,
    "correction": pl.String,
    "role": pl.String,
    "method": pl.String,
    "note": pl.String,
}


@dataclass(slots=True)
class Effect:
    """One row of effects.csv as it is built; proportions, None where unknown."""

    model: str | None
    outcome: str
    estimand: str
    factor: str
    level: str
    reference: str
    estimate: float | None = None
    train_part: float | None = None
    deploy_part: float | None = None
    std_error: float | None = None
    statistic: float | None = None
    df: float | None = None
    p_value: float | None = None
    p_holm: float | None = None
    q_bh: float | None = None
    conf_low: float | None = None
    conf_high: float | None = None
    n_trials: int | None = None
    n_clusters: int | None = None
    family: str | None = None
    grader: str | None = None
    method: str | None = None
    note: str | None = None
    contrast: str = CONTRAST
    factor2: str | None = None
    level2: str | None = None
    p_placebo: float | None = None
    correction: str = "raw"
    role: str = "primary"


def effects(
    observations: Observations, outcome: str, *, primary: str, grader: str | None
) -> list[dict[str, Any]]:
    """Rows of effects.csv for one model and outcome.

    Holm runs over the factor rows of the estimand `primary`, Benjamini-Hochberg over each other
    estimand. A structural zero, and a level without graded trials, has no p-value.
    """
    model = observations.frame["model"][0]
    zeros = structural_zeros(observations.frame)
    rows: list[Effect] = []
    for estimand, estimate in ((SIMPLE, _simple), (AVERAGED, _averaged)):
        of_estimand = list(estimate(observations, outcome, model, zeros))
        p_values = [row.p_value for row in of_estimand]
        corrected = holm(p_values) if estimand == primary else benjamini_hochberg(p_values)
        for row, p_value in zip(of_estimand, corrected, strict=True):
            if estimand == primary:
                row.p_holm, row.family = p_value, "factors"
            else:
                row.q_bh, row.family = p_value, "screen"
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
    """Gap of the single change minus gap of the original, paired by query, t(Q - 1)."""
    original = original_of(observations)
    before = query_rates(original, outcome)
    for term in observations.terms:
        reference = observations.levels[term.factor][0]
        row = Effect(model, outcome, SIMPLE, term.factor, term.level, reference)
        yield row
        changed = changed_of(observations, term)
        after = query_rates(changed, outcome)
        both = before.join(after, on="query", suffix="_after")
        row.note = _taken_along(original, changed, term, observations.levels)
        if not both.height:
            row.note = _join(row.note, "not estimable: no query was graded in all four cells")
            continue
        row.n_clusters = both.height
        row.n_trials = int(
            sum(both[f"n_{a}{s}"].sum() for a in ("train", "deploy") for s in ("", "_after"))
        )
        train = (both["train_after"] - both["train"]).to_numpy()
        deploy = (both["deploy_after"] - both["deploy"]).to_numpy()
        change = train - deploy
        zero = changed["condition"][0] in zeros
        if zero:
            # Both arms are the same text, so the gap after is 0 and only the one before is
            # estimated; the observed gap after is the negative control in gaps.csv.
            change = (both["deploy"] - both["train"]).to_numpy()
            pooled = (both["train_after"] + both["deploy_after"]).to_numpy() / 2
            train = pooled - both["train"].to_numpy()
            deploy = pooled - both["deploy"].to_numpy()
            row.note = _join(row.note, "structural_zero")
        row.estimate, row.train_part = float(change.mean()), float(train.mean())
        row.deploy_part = float(deploy.mean())
        spread = float(change.std(ddof=1)) if both.height > 1 else 0.0
        if spread > 1e-12:
            row.method, row.df = "paired by query, t(Q-1)", float(both.height - 1)
            _infer(row, spread / both.height**0.5, tested=not zero)
        else:
            row.method = "newcombe, pooled"
            row.note = _join(row.note, "one query" if both.height == 1 else "boundary")
            row.conf_low, row.conf_high = _recovered(original, changed, outcome, both, zero)


def _recovered(
    original: pl.DataFrame, changed: pl.DataFrame, outcome: str, both: pl.DataFrame, zero: bool
) -> tuple[float | None, float | None]:
    """Bounds of a difference of two gaps from their own bounds (MOVER, Zou and Donner 2008)."""
    common = pl.col("query").is_in(both["query"].to_list())
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
    """Change of the gap averaged over the target law: weighted linear probability, CR1, t(G - 1).

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
    fit = linear_probability(graded, outcome, terms, weighted=True)
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
        row.method = "weighted linear probability, CR1 by query, t(G-1)"
        row.note = "structural_zero" if parts.structural_zero else None
        if queries_at(graded, term) < 2 and not parts.structural_zero:
            # The fit goes through the mean of a lone query, and CR1 takes that for certainty.
            row.note = "one query"
        elif estimate[1] > 1e-12:
            row.df = float(fit.df)
            _infer(row, estimate[1], tested=not parts.structural_zero)
        else:
            row.note = _join(row.note, "boundary")
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


def _infer(row: Effect, std_error: float, *, tested: bool) -> None:
    if row.estimate is None or row.df is None:
        return
    bounds = t_interval(row.estimate, std_error, row.df)
    row.std_error, row.conf_low, row.conf_high = std_error, bounds.low, bounds.high
    if tested:
        row.statistic, row.p_value = bounds.statistic, bounds.p_value


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


def _join(*notes: str | None) -> str | None:
    return "; ".join(note for note in notes if note) or None
