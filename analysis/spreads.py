"""Spreads: how much wording alone moves a gap and each gap effect, one row each.

Takes observations of one model with their wordings; gives the table wordings.csv: the spread
between wordings with its bounds, what to expect of a new one, and which wording moves most.
Does not know how a spread is estimated: stimuli does.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl

from analysis.estimates import SIMPLE
from analysis.gaps import changed_of, original_of
from analysis.observations import Observations, Term
from analysis.stimuli import Stimuli, effects_by, gaps_by, next_stimulus, sampled, share_above

__all__ = ["SPREADS", "spreads"]

# The columns of spreads.csv.
SPREADS: dict[str, Any] = {
    "model": pl.String,
    "outcome": pl.String,
    "contrast": pl.String,
    "estimand": pl.String,
    "factor": pl.String,
    "level": pl.String,
    "n_wordings": pl.Int64,
    "mean": pl.Float64,
    "std_error": pl.Float64,
    "sd": pl.Float64,
    "sd_low": pl.Float64,
    "sd_high": pl.Float64,
    "next_low": pl.Float64,
    "next_high": pl.Float64,
    "share_above": pl.Float64,
    "share_low": pl.Float64,
    "share_high": pl.Float64,
    "note": pl.String,
}
GAP = "gap"
ONE = "one wording, confounded with every feature: the numbers are of these words only"


def spreads(
    observations: Observations, outcome: str, margin: float | None
) -> Iterator[dict[str, Any]]:
    """Rows for the baseline gap and every simple effect; none where wordings are not known.

    A single wording has one row, which says that nothing tells it from what it words.
    `share_above` is the share of wordings whose true gap exceeds the `margin`, for the gap alone.
    """
    frame = observations.frame.filter(pl.col("wording").is_not_null())
    if frame.is_empty():
        return
    if frame["wording"].n_unique() == 1:
        row: dict[str, Any] = dict.fromkeys(SPREADS)
        row |= {"model": frame["model"][0], "outcome": outcome, "estimand": GAP}
        yield row | {"n_wordings": 1, "note": ONE}
        return
    known = Observations(frame, observations.levels, observations.outcomes)
    original = original_of(known)
    yield _row(known, outcome, None, gaps_by(original, outcome), margin)
    for term in observations.terms:
        table = effects_by(original, changed_of(known, term), outcome)
        yield _row(known, outcome, term, table, None)


def _row(
    observations: Observations,
    outcome: str,
    term: Term | None,
    table: Stimuli,
    margin: float | None,
) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(SPREADS)
    row |= {
        "model": observations.frame["model"][0],
        "outcome": outcome,
        "estimand": SIMPLE if term else GAP,
        "factor": term.factor if term else None,
        "level": term.level if term else None,
    }
    if not table.names or not np.isfinite(table.values).any():
        return row | {"n_wordings": 0, "note": "no query in all cells of a wording"}
    found = sampled(table)
    row |= {"n_wordings": len(found.stimuli), "note": found.note}
    if found.spread is not None:
        spread = found.spread
        row |= {"mean": spread.mean, "std_error": spread.std_error, "sd": spread.tau}
        row |= {"sd_low": spread.tau_low, "sd_high": spread.tau_high}
        if (following := next_stimulus(found)) is not None:
            row |= {"next_low": following.low, "next_high": following.high}
        if margin is not None and (share := share_above(found, margin)) is not None:
            row |= {"share_above": share.share, "share_low": share.low, "share_high": share.high}
    return row
