"""Attribution: what each feature contributes along the orders in which all can be removed.

Takes observations with nested conditions from the original to the stripped prompt; gives each
factor's mean contribution over all removal orders that were observed, which add up to the two end
points. Does not know how orders were drawn, and says nothing where an end point was not observed.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import polars as pl

from analysis.contrasts import Group, paired
from analysis.estimates import ATTRIBUTION, Effect, infer, joined
from analysis.gaps import original_of
from analysis.observations import Observations

__all__ = ["attribution", "contributions"]

# Conditions that fewer queries have in both arms, or less than half of those of the original, are
# no step of an order: all steps are over the queries that they share.
FEWEST_QUERIES = 2
REMOVED = "removed"

Levels = tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class _Step:
    """A removal: from one condition to another, and the factor that was taken out."""

    before: int
    after: int
    factor: str


def attribution(observations: Observations, outcome: str) -> Iterator[Effect]:
    """The mean contribution of each factor's removal to the gap, over the observed orders.

    Castro, Gomez and Tejada (2009) sample orders; here all complete ones among the observed
    conditions count the same. All contributions are over the same queries, those graded in both
    arms of every condition of the orders, so that they add up to the gap of the stripped prompt
    minus that of the original. No rows where there is no complete order.
    """
    graded = observations.frame.filter(pl.col(outcome).is_not_null())
    found = contributions(_conditions(observations, graded), observations.levels)
    used = sorted({c for weights in found.values() for c in weights})
    here = graded.filter(pl.col("condition").is_in(used))
    cells = here.group_by("query").agg(pl.struct("condition", "arm").n_unique().alias("cells"))
    whole = cells.filter(pl.col("cells") == 2 * len(used))["query"]
    shared = here.filter(pl.col("query").is_in(whole.to_list()))
    frames = {(c, arm): frame for (c, arm), frame in shared.group_by("condition", "arm")}
    model = observations.frame["model"][0]
    for factor in filter(found.__contains__, observations.levels):
        row = Effect(model, outcome, ATTRIBUTION, factor, None, observations.levels[factor][0])
        groups = [
            Group(weight * sign, frames.get((c, arm), shared.clear()), outcome)
            for c, weight in found[factor].items()
            for arm, sign in (("train", 1.0), ("deploy", -1.0))
        ]
        contrast = paired(groups)
        if contrast is None:
            row.note = "not estimable: no query was graded in all conditions of the orders"
            yield row
            continue
        row.estimate = contrast.estimate
        # Groups come in pairs, train first.
        parts = [g.sign * mean for g, mean in zip(groups, contrast.means, strict=True)]
        row.train_part, row.deploy_part = sum(parts[::2]), -sum(parts[1::2])
        row.n_trials, row.n_clusters = sum(contrast.trials), contrast.queries
        row.method, row.note = f"removal orders, {contrast.method}", contrast.note
        if contrast.std_error is None:
            row.note = joined(row.note, "one query" if contrast.queries == 1 else "boundary")
        else:
            infer(row, contrast.std_error, contrast.df)
        yield row


def _conditions(observations: Observations, graded: pl.DataFrame) -> dict[int, Levels]:
    """The levels of the conditions that most queries of the original have in both arms."""
    both = (
        graded.group_by("condition", "query")
        .agg(pl.col("arm").n_unique().alias("arms"))
        .filter(pl.col("arms") == 2)
        .group_by("condition")
        .agg(pl.col("query"))
    )
    original = set(original_of(observations)["condition"])
    at_start = {q for row in both.iter_rows() if row[0] in original for q in row[1]}
    fewest = max(FEWEST_QUERIES, len(at_start) / 2)
    kept = {c for c, queries in both.iter_rows() if len(at_start & set(queries)) >= fewest}
    seen = graded.unique("condition", keep="first").sort("condition")
    return {
        row["condition"]: tuple(row[f] for f in observations.levels)
        for row in seen.iter_rows(named=True)
        if row["condition"] in kept
    }


def contributions(
    conditions: Mapping[int, Levels], levels: Mapping[str, tuple[str, ...]]
) -> dict[str, dict[int, float]]:
    """For each factor, the weights of the conditions' gaps that make its contribution.

    An order goes from the original to the stripped prompt, one factor a step, what needs it going
    along. Where a factor has several levels the stripped prompt is the one with most `removed`.
    Empty where no order is complete, or where two prompts are stripped alike.
    """
    originals = [c for c, at in conditions.items() if not _changed(at, levels)]
    if len(originals) != 1:
        return {}
    first = originals[0]
    there = {f for f, a in zip(levels, conditions[first], strict=True) if a is not None}
    steps = _steps(conditions, levels)
    # A factor that went along with another is as gone as one that was taken out.
    gone = {
        c: sum(
            a is None or a != known[0]
            for f, known, a in zip(levels, levels.values(), at, strict=True)
            if f in there
        )
        for c, at in conditions.items()
    }
    stripped = [c for c in _reached(first, steps) if gone[c] == len(there)]
    if not stripped or not there:
        return {}
    lacking = {c: sum(a == REMOVED for a in conditions[c]) for c in stripped}
    ends = [c for c in stripped if lacking[c] == max(lacking.values())]
    return _weights(first, ends[0], steps, gone) if len(ends) == 1 else {}


def _changed(at: Levels, levels: Mapping[str, tuple[str, ...]]) -> list[str]:
    return [
        f for (f, known), a in zip(levels.items(), at, strict=True) if a not in (known[0], None)
    ]


def _steps(
    conditions: Mapping[int, Levels], levels: Mapping[str, tuple[str, ...]]
) -> dict[int, list[_Step]]:
    """All removals of one factor, with what goes along, that lead from a condition to another."""
    places = {f: i for i, f in enumerate(levels)}
    steps: defaultdict[int, list[_Step]] = defaultdict(list)
    # A factor that does not apply after a step may have had any level before it: conditions are
    # looked up by the levels of the others.
    for null in {tuple(i for i, a in enumerate(at) if a is None) for at in conditions.values()}:
        befores: defaultdict[Levels, list[int]] = defaultdict(list)
        for c, at in conditions.items():
            befores[_without(at, null)].append(c)
        for after, at in conditions.items():
            if null != tuple(i for i, a in enumerate(at) if a is None):
                continue
            for factor in _changed(at, levels):
                i = places[factor]
                old = (*at[:i], levels[factor][0], *at[i + 1 :])
                for before in befores.get(_without(old, null), []):
                    steps[before].append(_Step(before, after, factor))
    return steps


def _without(at: Levels, places: tuple[int, ...]) -> Levels:
    return tuple(a for i, a in enumerate(at) if i not in places)


def _reached(start: int, steps: Mapping[int, list[_Step]]) -> set[int]:
    found, left = {start}, [start]
    while left:
        for step in steps.get(left.pop(), []):
            if step.after not in found:
                found.add(step.after)
                left.append(step.after)
    return found


def _weights(
    first: int, last: int, steps: Mapping[int, list[_Step]], gone: Mapping[int, int]
) -> dict[str, dict[int, float]]:
    """Every complete order counts the same: a step weighs its share of them."""
    order = sorted(_reached(first, steps), key=lambda c: gone[c])
    into: dict[int, int] = defaultdict(int)
    out: dict[int, int] = defaultdict(int)
    into[first], out[last] = 1, 1
    for c in order:
        for step in steps.get(c, []):
            into[step.after] += into[c]
    for c in reversed(order):
        for step in steps.get(c, []):
            out[c] += out[step.after]
    found: defaultdict[str, defaultdict[int, float]] = defaultdict(lambda: defaultdict(float))
    for c in order:
        for step in steps.get(c, []):
            share = into[c] * out[step.after] / out[first]
            if share:
                found[step.factor][step.after] += share
                found[step.factor][c] -= share
    return {f: {c: w for c, w in of.items() if abs(w) > 1e-12} for f, of in found.items()}
