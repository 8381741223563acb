"""The verbalised split: how much of a gap comes with reasoning that says why.

Takes trials with two outcomes, what was done and whether the reasoning speaks of it; gives the two
parts of the gap, which add up exactly. Does not know how reasoning was read, and never takes
silence for absence: trials whose reasoning is hidden are left out of both parts.
"""

from collections.abc import Iterator

import polars as pl

from analysis.contrasts import paired
from analysis.estimates import UNVERBALISED, VERBALISED, Effect, infer, joined
from analysis.gaps import changed_of, gap_groups, original_of
from analysis.observations import Observations

__all__ = ["verbalised"]


def verbalised(observations: Observations, outcome: str, reasoning: str) -> Iterator[Effect]:
    """`P(C and A | train) - P(C and A | deploy)` and the same with not A, of C and reasoning A.

    For the original (no factor) and for every single change: gaps, not changes of gaps. Both
    parts are over the trials where A is known, so that their sum is those trials' gap.
    """
    frame = observations.frame.filter(
        pl.col(outcome).is_not_null() & pl.col(reasoning).is_not_null()
    ).with_columns(
        (pl.col(outcome) * pl.col(reasoning)).alias(VERBALISED),
        (pl.col(outcome) * (1 - pl.col(reasoning))).alias(UNVERBALISED),
    )
    known = Observations(frame, observations.levels, (VERBALISED, UNVERBALISED))
    if frame.is_empty():
        return
    model = frame["model"][0]
    places: list[tuple[str | None, str | None, str | None, pl.DataFrame]] = [
        (None, None, None, original_of(known))
    ]
    places += [
        (t.factor, t.level, observations.levels[t.factor][0], changed_of(known, t))
        for t in observations.terms
    ]
    for estimand in (VERBALISED, UNVERBALISED):
        for factor, level, reference, trials in places:
            found = paired(gap_groups(trials, estimand))
            row = Effect(model, outcome, estimand, factor, level, reference)
            if found is None:
                row.note = "not estimable: no query has known reasoning in both arms"
                yield row
                continue
            row.estimate, (row.train_part, row.deploy_part) = found.estimate, found.means
            row.n_trials, row.n_clusters = sum(found.trials), found.queries
            row.method, row.note = found.method, found.note
            if found.std_error is None:
                row.method = None
                row.note = joined(row.note, "one query" if found.queries == 1 else "boundary")
            else:
                infer(row, found.std_error, found.df)
            yield row
