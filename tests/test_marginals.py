"""Marginal gaps against weighted means in loops, interactions against differences of gaps."""

import itertools
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import statsmodels.api as sm
from scipy import stats

from analysis import fit
from analysis.estimates import INTERACTION, MARGINAL

ARMS = ("train", "deploy")
LEVELS = ("original", "removed")
DATA = Path(__file__).parent / "reference" / "data"
Levels = tuple[str | None, ...]


def trials(
    conditions: Iterable[Levels],
    *,
    seed: int = 0,
    queries: int = 8,
    unbalanced: bool = False,
    wordings: int = 1,
) -> pl.DataFrame:
    """Trials of every condition in both arms of every query, with design weights and holes."""
    rng = np.random.default_rng(seed)
    rows = []
    for q, (c, at), arm in itertools.product(range(queries), enumerate(conditions), ARMS):
        for i in range(int(rng.integers(1, 7)) if unbalanced else 3):
            rate = 0.2 + (arm == "train") * (0.5 - 0.07 * c) + 0.02 * q
            y = None if unbalanced and rng.random() < 0.05 else float(rng.random() < rate)
            law = [0.5, 1.0, 2.0][c % 3] if unbalanced else 1.0
            rows.append((f"q{q:02}", arm, *at, f"w{i % wordings}", law, y))
    names = ["query_id", "arm", *"abcdefgh"[: len(rows[0]) - 5], "wording", "law", "y"]
    kinds = {n: pl.Float64 if n in ("law", "y") else pl.String for n in names}
    return pl.DataFrame(rows, schema=kinds, orient="row")


def rows_of(frame: pl.DataFrame, estimand: str, factors: Sequence[str], **options: Any) -> Any:
    """The rows of an estimand by factor and level, of an interaction by both."""
    table = fit(
        frame, factors=factors, outcomes=["y"], weight="law", sensitivity=False, **options
    ).effects.filter(pl.col("estimand") == estimand)
    keys = ["factor", "level"] + ["factor2", "level2"] * (estimand == INTERACTION)
    return {tuple(row[k] for k in keys): row for row in table.iter_rows(named=True)}


def rate(frame: pl.DataFrame, factor: str, level: str, arm: str) -> float:
    """Mean at a level with queries of the same weight within the arm, written as loops."""
    mine = [
        r for r in frame.iter_rows(named=True)
        if r["arm"] == arm and r["y"] is not None and r[factor] is not None
    ]  # fmt: skip
    top = bottom = 0.0
    for query in {r["query_id"] for r in mine}:
        own = [r for r in mine if r["query_id"] == query]
        total = sum(r["law"] for r in own)
        for r in own:
            if r[factor] == level:
                top += r["law"] / total * r["y"]
                bottom += r["law"] / total
    return top / bottom


THREE = list(itertools.product(LEVELS, ("original", "removed", "softened")))


@pytest.mark.parametrize("seed", range(3))
def test_a_marginal_gap_is_a_difference_of_weighted_means(seed: int) -> None:
    """Both rates and the gap at every level, the reference too, of unbalanced weighted trials."""
    frame = trials(THREE, seed=seed, unbalanced=True)
    found = rows_of(frame, MARGINAL, "ab")
    assert list(found) == [
        ("a", "original"), ("a", "removed"),
        ("b", "original"), ("b", "removed"), ("b", "softened"),
    ]  # fmt: skip
    for (factor, level), row in found.items():
        train, deploy = (rate(frame, factor, level, arm) for arm in ARMS)
        assert row["train_part"] == pytest.approx(train)
        assert row["deploy_part"] == pytest.approx(deploy)
        assert row["estimate"] == pytest.approx(train - deploy)
        assert row["reference"] is None
        assert row["n_clusters"] == 8


def test_its_error_is_the_clustered_one_of_cell_means() -> None:
    """CR1 of statsmodels on indicators of arm and level, from 20 queries on."""
    frame = trials(THREE, seed=4, queries=21, unbalanced=True)
    found = rows_of(frame, MARGINAL, "ab")
    graded = frame.filter(pl.col("y").is_not_null()).with_columns(
        share=pl.col("law") / pl.col("law").sum().over("arm", "query_id")
    )
    cells = [(arm, level) for arm in ARMS for level in ("original", "removed", "softened")]
    X = np.column_stack(
        [((graded["arm"] == arm) & (graded["b"] == level)).to_numpy() for arm, level in cells]
    ).astype(float)
    groups = graded["query_id"].rank("dense").to_numpy()
    fitted = sm.WLS(graded["y"].to_numpy(), X, weights=graded["share"].to_numpy()).fit(
        cov_type="cluster", cov_kwds={"groups": groups, "use_correction": False}
    )
    for i, level in enumerate(("original", "removed", "softened")):
        direction = np.zeros(6)
        direction[[i, 3 + i]] = 1.0, -1.0
        row = found["b", level]
        error = math.sqrt(direction @ fitted.cov_params() @ direction * 21 / 20)
        assert row["estimate"] == pytest.approx(direction @ fitted.params)
        assert row["std_error"] == pytest.approx(error)
        assert row["df"] == 20
        assert row["method"] == "weighted linear probability, CR1"


def gap_by_query(frame: pl.DataFrame, at: dict[str, str]) -> np.ndarray:
    """Each query's gap at some levels, averaged over the others."""
    here = frame.filter(**at)
    means = here.group_by("query_id", "arm").agg(pl.col("y").mean())
    wide = means.pivot(on="arm", index="query_id", values="y").sort("query_id")
    return np.asarray((wide["train"] - wide["deploy"]).to_numpy())


def test_with_balance_it_is_the_t_test_of_the_queries_gaps() -> None:
    """Six queries: CR2 and its degrees of freedom are those of the mean over queries."""
    frame = trials(itertools.product(LEVELS, repeat=2), queries=6)
    for (factor, level), row in rows_of(frame, MARGINAL, "ab").items():
        own = gap_by_query(frame, {factor: level})
        assert row["estimate"] == pytest.approx(own.mean())
        assert row["std_error"] == pytest.approx(stats.sem(own))
        assert row["df"] == pytest.approx(5)
        assert row["p_value"] == pytest.approx(stats.ttest_1samp(own, 0).pvalue)


def test_trials_to_which_a_factor_does_not_apply_are_left_out() -> None:
    """b needs a: its rows are those of the trials that have a."""
    frame = trials([("original", "original"), ("original", "removed"), ("removed", None)])
    found = rows_of(frame, MARGINAL, "ab")
    applies = frame.filter(pl.col("b").is_not_null())
    for level in LEVELS:
        own = gap_by_query(applies, {"b": level})
        assert found["b", level]["estimate"] == pytest.approx(own.mean())
        assert found["b", level]["n_trials"] == applies.height


def test_a_level_in_one_query_has_no_error() -> None:
    """In either arm: the fit goes through a lone query."""
    frame = trials(itertools.product(LEVELS, repeat=2))
    for arms in (["train"], ["deploy"], list(ARMS)):
        lone = (
            (pl.col("b") == "removed") & pl.col("arm").is_in(arms) & (pl.col("query_id") != "q03")
        )
        row = rows_of(frame.filter(~lone), MARGINAL, "ab")["b", "removed"]
        assert row["estimate"] is not None
        assert (row["std_error"], row["p_value"], row["note"]) == (None, None, "one query")


def test_a_level_without_trials_in_an_arm_is_listed() -> None:
    """It is not estimable, and the other levels are as they were."""
    frame = trials(THREE)
    lost = frame.filter((pl.col("b") != "softened") | (pl.col("arm") == "train"))
    row = rows_of(lost, MARGINAL, "ab")["b", "softened"]
    assert row["estimate"] is None
    assert row["note"] == "not estimable: no graded trials in one arm"
    kept = rows_of(lost, MARGINAL, "ab")["b", "removed"]
    assert kept["estimate"] == pytest.approx(gap_by_query(frame, {"b": "removed"}).mean())


def test_an_interaction_is_a_difference_of_differences_of_gaps() -> None:
    """Two factors, seven queries: per query, its mean and its t test."""
    frame = trials(itertools.product(LEVELS, repeat=2), queries=7, seed=3)
    ((key, row),) = rows_of(frame, INTERACTION, "ab").items()
    assert key == ("a", "removed", "b", "removed")
    g = {at: gap_by_query(frame, dict(zip("ab", at, strict=True)))
         for at in itertools.product(LEVELS, repeat=2)}  # fmt: skip
    own = g["removed", "removed"] - g["removed", "original"]
    own = own - g["original", "removed"] + g["original", "original"]
    assert row["estimate"] == pytest.approx(own.mean())
    assert row["std_error"] == pytest.approx(stats.sem(own))
    assert row["df"] == pytest.approx(6)
    assert row["train_part"] - row["deploy_part"] == pytest.approx(row["estimate"])
    assert row["p_value"] == pytest.approx(stats.ttest_1samp(own, 0).pvalue)


def test_interactions_of_three_factors_average_over_the_third() -> None:
    """A full factorial with levels: the mean over c of what a and b do together."""
    conditions = list(itertools.product(LEVELS, ("original", "removed", "softened"), LEVELS))
    frame = trials(conditions, queries=6, seed=5)
    found = rows_of(frame, INTERACTION, "abc")
    assert len(found) == 2 + 1 + 2
    for level in ("removed", "softened"):
        g = {(a, b): gap_by_query(frame, {"a": a, "b": b}).mean()
             for a in LEVELS for b in ("original", level)}  # fmt: skip
        expected = g["removed", level] - g["removed", "original"]
        expected += g["original", "original"] - g["original", level]
        assert found["a", "removed", "b", level]["estimate"] == pytest.approx(expected)


def test_one_at_a_time_has_no_interaction() -> None:
    """No pair was ever seen together: nothing is extrapolated."""
    singles = [tuple(LEVELS[i == j] for i in range(3)) for j in range(3)]
    frame = trials([("original",) * 3, *singles])
    assert rows_of(frame, INTERACTION, "abc") == {}


def test_a_fraction_names_the_alias_group_of_each_interaction() -> None:
    """2^(8-4) of resolution IV: seven groups of four, as the products of signs say."""
    frame = pl.read_csv(DATA / "fraction.csv").with_columns(law=1.0)
    factors = "abcdefgh"
    found = rows_of(frame, INTERACTION, factors, query="query")
    assert len(found) == 28
    runs = frame.select(*factors).unique().select(pl.all() == "removed").to_numpy() * 2 - 1
    signs = {pair: np.prod([runs[:, factors.index(f)] for f in pair], axis=0)
             for pair in itertools.combinations(factors, 2)}  # fmt: skip
    for (one, _, two, _), row in found.items():
        assert row["estimate"] is row["std_error"] is row["p_value"] is None
        group = [
            f"{a}=removed x {b}=removed"
            for (a, b), sign in signs.items()
            if (a, b) != (one, two) and abs(sign @ signs[one, two]) == len(runs)
        ]
        assert len(group) == 3
        assert row["note"] == "not estimable: aliased with " + ", ".join(group)


def test_a_product_that_is_a_third_factor_says_so() -> None:
    """c is a times b: what a and b do together is what c does alone."""
    conditions = [(LEVELS[a], LEVELS[b], LEVELS[a == b]) for a in (0, 1) for b in (0, 1)]
    for row in rows_of(trials(conditions), INTERACTION, "abc").values():
        assert row["estimate"] is None
        assert row["note"] == "not estimable: aliased with single changes"


def test_five_wordings_enter_both_errors() -> None:
    """Two-way, with the degrees of freedom of the smaller side."""
    frame = trials(itertools.product(LEVELS, repeat=2), wordings=5, unbalanced=True)
    for estimand in (MARGINAL, INTERACTION):
        for row in rows_of(frame, estimand, "ab", wording="wording").values():
            assert row["method"] == "weighted linear probability, two-way CR1"
            assert row["df"] == 4


def test_trials_outside_the_law_are_not_in_the_average() -> None:
    """A null weight, as of the fixed part of a design: in no marginal gap, in no interaction."""
    frame = trials(itertools.product(LEVELS, repeat=2), unbalanced=True)
    noise = frame.with_columns(law=pl.lit(None, pl.Float64), y=pl.lit(1.0))
    for estimand in (MARGINAL, INTERACTION):
        both = rows_of(pl.concat([frame, noise]), estimand, "ab")
        for key, row in rows_of(frame, estimand, "ab").items():
            assert both[key]["estimate"] == pytest.approx(row["estimate"])
            assert both[key]["std_error"] == pytest.approx(row["std_error"])
