"""Between models: how their gaps and gap effects differ, on the same queries and wordings.

Takes the observations of several models; gives the differences of each pair, paired by query.
Does not know how a model's own effects are estimated.
"""

import itertools
from collections.abc import Iterator

import polars as pl

from analysis.contrasts import Group, paired
from analysis.estimates import DIFFERENCE, Effect, infer, joined
from analysis.gaps import changed_of, gap_groups, original_of
from analysis.observations import Observations, Term

__all__ = ["differences"]

# With more models the pairs outgrow all other rows together: compare a selection of them.
MOST_MODELS = 12


def differences(observations: Observations, outcome: str) -> Iterator[Effect]:
    """Gap of one model minus that of another in the original, and of every simple gap effect.

    `model` is the first, `reference` the second. Over the queries that both were asked, so that
    what a query does to both goes out of the difference. No rows for more than 12 models.
    """
    if len(observations.models) > MOST_MODELS:
        return
    for one, other in itertools.combinations(observations.models, 2):
        mine, theirs = observations.of_model(one), observations.of_model(other)
        for term in (None, *observations.terms):
            groups = [*_groups(mine, term, outcome, 1.0), *_groups(theirs, term, outcome, -1.0)]
            found = paired(groups)
            factor, level = (term.factor, term.level) if term else (None, None)
            row = Effect(one, outcome, DIFFERENCE, factor, level, other)
            if found is None:
                row.note = "not estimable: no query was graded in all cells of both models"
                yield row
                continue
            row.estimate = found.estimate
            row.train_part = sum(
                g.sign * mean
                for g, mean in zip(groups, found.means, strict=True)
                if (g.frame["arm"] == "train").all()
            )
            row.deploy_part = row.train_part - row.estimate
            row.n_trials, row.n_clusters = sum(found.trials), found.queries
            row.method, row.note = found.method, found.note
            if found.std_error is None:
                row.note = joined(row.note, "one query" if found.queries == 1 else "boundary")
            else:
                infer(row, found.std_error, found.df)
            yield row


def _groups(of: Observations, term: Term | None, outcome: str, sign: float) -> list[Group]:
    original = original_of(of)
    if term is None:
        return gap_groups(original, outcome, sign)
    changed: pl.DataFrame = changed_of(of, term)
    return [*gap_groups(changed, outcome, sign), *gap_groups(original, outcome, -sign)]
