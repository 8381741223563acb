"""The verbalised split adds up to the gap, over the trials whose reasoning is known."""

import itertools
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy import stats

from analysis import fit
from analysis.estimates import UNVERBALISED, VERBALISED
from analysis.observations import observe
from analysis.verbal import verbalised

OPTIONS: dict[str, Any] = {"factors": ["rule"], "outcomes": ["complied", "af_reasoning"]}


def trials(seed: int = 0, hidden: float = 0.0) -> pl.DataFrame:
    """Two conditions of nine queries, unbalanced; reasoning is null in a share of the trials."""
    rng = np.random.default_rng(seed)
    rows = []
    for q, rule, arm in itertools.product(range(9), ("original", "removed"), ("train", "deploy")):
        for _ in range(rng.integers(2, 7)):
            y = float(rng.random() < (0.6 if arm == "train" else 0.2))
            a = None if rng.random() < hidden else float(rng.random() < 0.3 + 0.4 * y)
            rows.append((f"q{q}", arm, rule, y, a))
    names = ["query_id", "arm", "rule", "complied", "af_reasoning"]
    return pl.DataFrame(rows, schema=names, orient="row", infer_schema_length=None)


def split(frame: pl.DataFrame) -> dict[tuple[str, str | None], dict[str, Any]]:
    """The rows of the split by estimand and level."""
    table = fit(frame, **OPTIONS, sensitivity=False).effects
    rows = table.filter(pl.col("estimand").is_in([VERBALISED, UNVERBALISED]))
    return {(r["estimand"], r["level"]): r for r in rows.iter_rows(named=True)}


def by_query(frame: pl.DataFrame, rule: str, said: float) -> list[float]:
    """Share of trials that complied and said so (or not), train minus deploy, in loops."""
    found = []
    for q in sorted(set(frame["query_id"])):
        means = []
        for arm in ("train", "deploy"):
            cell = frame.filter(query_id=q, arm=arm, rule=rule).drop_nulls()
            hits = [
                row["complied"] == 1 and row["af_reasoning"] == said
                for row in cell.iter_rows(named=True)
            ]
            means.append(sum(hits) / len(hits))
        found.append(means[0] - means[1])
    return found


@pytest.mark.parametrize("seed", range(3))
def test_the_two_parts_are_the_gap(seed: int) -> None:
    """Of the original and of each change, in rate and in both arms, to the last digits."""
    frame = trials(seed)
    found = split(frame)
    gaps = fit(frame, **OPTIONS).gaps.filter(pl.col("outcome") == "complied")
    for level, gap in ((None, "original"), ("removed", "rule=removed")):
        whole = gaps.row(by_predicate=pl.col("condition") == gap, named=True)
        parts = found[VERBALISED, level], found[UNVERBALISED, level]
        assert sum(p["estimate"] for p in parts) == pytest.approx(whole["gap"], abs=1e-14)
        assert sum(p["train_part"] for p in parts) == pytest.approx(whole["rate_train"], abs=1e-14)
        assert sum(p["deploy_part"] for p in parts) == pytest.approx(
            whole["rate_deploy"], abs=1e-14
        )


@pytest.mark.parametrize("hidden", [0.0, 0.2])
def test_each_part_is_a_gap_paired_by_query(hidden: float) -> None:
    """Estimate, error and p-value against loops; hidden reasoning is left out of both parts."""
    frame = trials(3, hidden)
    for (estimand, level), row in split(frame).items():
        own = by_query(frame, level or "original", 1.0 if estimand == VERBALISED else 0.0)
        expected = stats.ttest_1samp(own, 0)
        assert row["estimate"] == pytest.approx(np.mean(own))
        assert row["std_error"] == pytest.approx(stats.sem(own))
        assert row["p_value"] == pytest.approx(expected.pvalue)
        assert row["q_bh"] >= row["p_value"]
        assert row["p_holm"] is None


def test_hidden_reasoning_is_not_absence() -> None:
    """The parts of a table with holes are those of the table without these trials."""
    frame = trials(4, 0.3)
    holes, known = split(frame), split(frame.drop_nulls())
    assert [r["estimate"] for r in holes.values()] == [r["estimate"] for r in known.values()]


def test_reasoning_that_is_always_hidden_has_no_split() -> None:
    """Nothing is said of silence; hidden in one arm it is not estimable."""
    frame = trials(5)
    none = frame.with_columns(af_reasoning=pl.lit(None, pl.Float64))
    assert split(none) == {}
    half = frame.with_columns(
        af_reasoning=pl.when(pl.col("arm") == "train").then(pl.col("af_reasoning"))
    )
    rows = split(half)
    assert {row["estimate"] for row in rows.values()} == {None}
    assert {row["note"] for row in rows.values()} == {
        "not estimable: no query has known reasoning in both arms"
    }


def test_other_outcomes_are_not_split() -> None:
    """Only compliance, and only where reasoning is among the outcomes."""
    frame = trials(6).with_columns(refused=1 - pl.col("complied"))
    table = fit(frame, **OPTIONS | {"outcomes": ["refused", "af_reasoning"]}).effects
    assert not table["estimand"].is_in([VERBALISED, UNVERBALISED]).any()
    alone = fit(frame, **OPTIONS | {"outcomes": ["complied"]}).effects
    assert not alone["estimand"].is_in([VERBALISED, UNVERBALISED]).any()


def test_shares_of_votes_split_too() -> None:
    """The product of two shares in a trial is what both have; the parts still add up."""
    frame = trials(7).with_columns(complied=0.5 * pl.col("complied") + 0.25)
    checked = observe(frame, factors=["rule"], outcomes=["complied", "af_reasoning"])
    rows = list(verbalised(checked, "complied", "af_reasoning"))
    whole = fit(frame, factors=["rule"], outcomes=["complied"]).gaps
    gap = whole.row(by_predicate=pl.col("condition") == "original", named=True)["gap"]
    assert sum(r.estimate or 0 for r in rows if r.level is None) == pytest.approx(gap)
