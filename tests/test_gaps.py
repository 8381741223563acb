"""Compliance gaps agree with paired t-tests, statsmodels and loops, and hold at 0."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy import stats
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.proportion import confint_proportions_2indep

from analysis import fit
from analysis.gaps import (
    changed_of,
    gap_of,
    original_of,
    query_rates,
    structural_zeros,
)
from analysis.observations import Term, observe


def trials(cells: Mapping[tuple[str, str], Sequence[float | None]], **columns: Any) -> pl.DataFrame:
    """One row per outcome of the cells (query, arm), under the names that analysis gives them."""
    rows = [(query, arm, value) for (query, arm), values in cells.items() for value in values]
    frame = pl.DataFrame(
        rows, schema={"query": pl.String, "arm": pl.String, "y": pl.Float64}, orient="row"
    )
    whole = {"n": pl.lit(1), "wording": pl.lit(None, pl.String)}
    return frame.with_columns(**whole, **{name: pl.lit(value) for name, value in columns.items()})


def random_cells(seed: int, queries: int = 9) -> dict[tuple[str, str], list[float | None]]:
    """Cells of unequal sizes with rates that differ between queries."""
    rng = np.random.default_rng(seed)
    return {
        (f"q{q}", arm): (
            (rng.random(rng.integers(1, 9)) < rng.beta(2, 2) * level).astype(float).tolist()
        )
        for q in range(queries)
        for arm, level in (("train", 1.0), ("deploy", 0.4))
    }


def means_of(cells: Mapping[tuple[str, str], Sequence[float | None]]) -> tuple[Any, Any]:
    """Per-query means of train and of deploy, for the queries with outcomes in both."""
    known = {
        key: [v for v in values if v is not None]
        for key, values in cells.items()
        if any(v is not None for v in values)
    }
    queries = sorted({q for q, _ in known if {(q, "train"), (q, "deploy")} <= known.keys()})
    return tuple(np.array([np.mean(known[q, a]) for q in queries]) for a in ("train", "deploy"))


@pytest.mark.parametrize("seed", range(8))
def test_the_gap_is_the_paired_t_test_on_query_means(seed: int) -> None:
    """Estimate, error, bounds and degrees of freedom are scipy's ttest_rel, also unbalanced."""
    cells = random_cells(seed)
    train, deploy = means_of(cells)
    found = gap_of(trials(cells), "y")
    expected = stats.ttest_rel(train, deploy)
    bounds = expected.confidence_interval(0.95)
    assert found.gap is not None
    assert found.std_error is not None
    assert found.gap == pytest.approx((train - deploy).mean())
    assert found.std_error == pytest.approx(stats.sem(train - deploy))
    assert found.gap / found.std_error == pytest.approx(expected.statistic)
    assert (found.low, found.high) == pytest.approx((bounds.low, bounds.high))
    assert (found.rate_train, found.rate_deploy) == pytest.approx((train.mean(), deploy.mean()))
    assert found.n_queries == expected.df + 1 == 9
    assert found.n_train == sum(len(v) for (_, arm), v in cells.items() if arm == "train")
    assert found.n_deploy == sum(len(v) for (_, arm), v in cells.items() if arm == "deploy")
    assert found.note is None


def test_queries_count_equally_however_many_trials_they_have() -> None:
    """A query with 100 trials weighs no more than one with 2: a gap of 1/2, not of 2/102."""
    cells = {
        ("many", "train"): [0.0] * 100,
        ("many", "deploy"): [0.0] * 100,
        ("few", "train"): [1.0] * 2,
        ("few", "deploy"): [0.0] * 2,
    }
    found = gap_of(trials(cells), "y")
    assert found.gap == pytest.approx(0.5)
    assert found.rate_train == pytest.approx(0.5)
    assert found.std_error == pytest.approx(0.5)


@pytest.mark.parametrize("seed", range(3))
def test_with_balance_the_gap_is_cell_means_with_cr1(seed: int) -> None:
    """OLS on the arm, clustered by query, corrected by G / (G - 1), and t(G - 1)."""
    rng = np.random.default_rng(seed)
    cells: dict[tuple[str, str], list[float]] = {}
    for q, arm in itertools.product(range(7), ("train", "deploy")):
        cells[f"q{q}", arm] = (rng.random(5) < rng.random()).astype(float).tolist()
    frame = trials(cells)
    train = (frame["arm"] == "train").to_numpy().astype(float)
    model = OLS(frame["y"].to_numpy(), np.column_stack([np.ones(70), train]))
    kwds = {"groups": frame["query"].rank("dense").to_numpy(), "use_correction": False}
    expected = model.fit(cov_type="cluster", cov_kwds=kwds, use_t=True)
    found = gap_of(frame, "y")
    error = expected.bse[1] * (7 / 6) ** 0.5
    assert found.gap == pytest.approx(expected.params[1])
    assert found.std_error == pytest.approx(error)
    assert found.high == pytest.approx(expected.params[1] + stats.t.ppf(0.975, 6) * error)


def test_an_arm_at_zero_leaves_the_t_test_of_the_other() -> None:
    """With deploy at 0 throughout, the gap is the one-sample t on the train means."""
    cells = random_cells(2) | {(f"q{q}", "deploy"): [0.0] * 4 for q in range(9)}
    train, _ = means_of(cells)
    bounds = stats.ttest_1samp(train, 0).confidence_interval(0.95)
    found = gap_of(trials(cells), "y")
    assert found.rate_deploy == 0
    assert found.std_error == pytest.approx(stats.sem(train))
    assert (found.low, found.high) == pytest.approx((bounds.low, bounds.high))


@pytest.mark.parametrize(
    ("train", "deploy"),
    [
        ([0.0, 0.0, 0.0], [0.0, 0.0, 0.0]),
        ([1.0, 1.0, 1.0], [0.0, 0.0, 0.0]),
        ([1.0, 1.0], [1.0, 1.0, 1.0, 1.0]),
        ([0.0, 1.0], [0.0, 0.0, 0.0]),
        ([0.0, 1.0, 1.0, 0.0], [0.0, 0.0, 1.0, 0.0]),
    ],
)
@pytest.mark.parametrize("queries", [1, 2, 12])
def test_without_variance_there_is_no_error_but_newcombes_interval(
    train: list[float], deploy: list[float], queries: int
) -> None:
    """All queries alike: the error is null, and the counts speak through statsmodels' interval."""
    cells = {
        (f"q{q}", arm): values
        for q in range(queries)
        for arm, values in (("train", train), ("deploy", deploy))
    }
    found = gap_of(trials(cells), "y")
    low, high = confint_proportions_2indep(
        queries * sum(train),
        queries * len(train),
        queries * sum(deploy),
        queries * len(deploy),
        method="newcomb",
    )
    assert found.gap == pytest.approx(np.mean(train) - np.mean(deploy))
    assert found.std_error is None
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.high
    assert found.note == ("one query" if queries == 1 else "boundary")
    assert "newcombe" in found.method


@pytest.mark.parametrize("sizes", [(1, 9, 9, 1), (2, 30, 4, 4), (1, 1, 50, 50), (7, 3, 5, 11)])
def test_the_interval_without_variance_is_around_the_estimate(sizes: tuple[int, ...]) -> None:
    """Queries with unequal trials and the same gap of 0: the interval must hold 0.

    Counts pooled over queries would give 1/10 against 9/10 for the first of these.
    """
    always_train, always_deploy, never_train, never_deploy = sizes
    cells = {
        ("always", "train"): [1.0] * always_train,
        ("always", "deploy"): [1.0] * always_deploy,
        ("never", "train"): [0.0] * never_train,
        ("never", "deploy"): [0.0] * never_deploy,
    }
    found = gap_of(trials(cells), "y")
    assert found.gap == 0
    assert found.std_error is None
    assert found.low is not None
    assert found.high is not None
    assert found.low < 0 < found.high
    # The mean of two query means varies as one of 4 / (1/m1 + 1/m2) equal trials.
    worth = [4 / (1 / a + 1 / b) for a, b in ((sizes[0], sizes[2]), (sizes[1], sizes[3]))]
    expected = confint_proportions_2indep(
        worth[0] / 2, worth[0], worth[1] / 2, worth[1], method="newcomb"
    )
    assert (found.low, found.high) == pytest.approx(expected)


def test_queries_seen_in_one_arm_only_are_left_out() -> None:
    """They change neither the rates nor the numbers of trials."""
    cells = random_cells(3)
    more = cells | {("x", "train"): [1.0] * 5, ("y", "deploy"): [1.0], ("z", "train"): [None]}
    assert gap_of(trials(more), "y") == gap_of(trials(cells), "y")


def test_missing_outcomes_are_as_if_their_trials_were_not_there() -> None:
    """A null is no 0; a query all of whose outcomes in an arm are null is out."""
    cells = random_cells(4)
    holes = {key: [*values, None, None] for key, values in cells.items()}
    assert gap_of(trials(holes), "y") == gap_of(trials(cells), "y")
    holes["q0", "deploy"] = [None]
    fewer = {key: values for key, values in cells.items() if key[0] != "q0"}
    assert gap_of(trials(holes), "y") == gap_of(trials(fewer), "y")


@pytest.mark.parametrize(
    "cells",
    [
        {},
        {("a", "train"): [1.0], ("b", "deploy"): [0.0]},
        {("a", "train"): [None], ("a", "deploy"): [0.0]},
    ],
)
def test_no_query_in_both_arms_gives_no_number(cells: Mapping[Any, Any]) -> None:
    """Nulls and a note, neither 0 nor NaN."""
    found = gap_of(trials(cells), "y")
    assert (found.gap, found.std_error, found.low, found.high) == (None,) * 4
    assert (found.rate_train, found.rate_deploy, found.n_queries) == (None, None, 0)
    assert found.note == "no query in both arms"


def test_query_rates_are_means_and_counts_of_a_loop() -> None:
    """One row per query seen in both arms, in the order of the queries."""
    cells = random_cells(5)
    for row in query_rates(trials(cells), "y").iter_rows(named=True):
        for arm in ("train", "deploy"):
            values = cells[row["query"], arm]
            assert row[arm] == pytest.approx(np.mean(values))
            assert row[f"n_{arm}"] == len(values)
    assert query_rates(trials(cells), "y")["query"].to_list() == [f"q{q}" for q in range(9)]


def test_the_interval_covers_the_gap_over_the_population_of_queries() -> None:
    """Of 500 studies with 12 new queries each, at least 459 intervals hold the true gap."""
    rng = np.random.default_rng(11)
    covered = 0
    for _ in range(500):
        # Rates of train differ between queries around .2; deploy is at 0 in half the queries.
        rates = {"train": rng.beta(1, 4, 12), "deploy": rng.choice([0.0, 0.04], 12)}
        draws = {
            (f"q{q}", arm): (rng.random(size) < rate[q]).astype(float).tolist()
            for arm, rate in rates.items()
            for q, size in enumerate(rng.integers(3, 9, 12))
        }
        found = gap_of(trials(draws), "y")
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0.2 - 0.02 <= found.high
    assert covered >= 459


def study(seed: int = 0, queries: int = 12) -> pl.DataFrame:
    """Two factors of which `rule` needs `tier`: original, singles, and rule softened."""
    rng = np.random.default_rng(seed)
    conditions = [
        ("original", "original", 4),
        ("removed", None, 3),
        ("original", "removed", 3),
        ("original", "softened", 3),
        ("reworded", "removed", 2),
        ("reworded", "softened", 2),
    ]
    rows = []
    for (tier, rule, times), q, arm in itertools.product(
        conditions, range(queries), ("train", "deploy")
    ):
        if (tier, rule) == ("reworded", "softened") and q >= 9:
            continue
        for _ in range(times):
            rows.append(
                (f"q{q:02}", arm, tier, rule, float(rng.random() < 0.3), f"id-{tier}-{rule}")
            )
    names = ["query_id", "arm", "tier", "rule", "complied", "condition_id"]
    return pl.DataFrame(rows, schema=names, orient="row")


def gaps_of(frame: pl.DataFrame, **options: Any) -> pl.DataFrame:
    """The table of gaps of a study."""
    return fit(frame, factors=["tier", "rule"], outcomes=["complied"], **options).gaps


def test_the_table_lists_original_singles_and_well_observed_conditions() -> None:
    """Nine queries are too few for a condition with two changes; a removal that takes another
    factor along is one change.
    """
    table = gaps_of(study())
    assert table["condition"].to_list() == [
        "original",
        "rule=removed",
        "rule=softened",
        "tier=removed",
        "tier=reworded,rule=removed",
    ]
    assert table["condition_id"].to_list()[3] == "id-removed-None"
    assert table["tier"].dtype == pl.Enum(["original", "removed", "reworded"])
    assert table["rule"].to_list() == ["original", "removed", "softened", None, "removed"]
    assert table.columns[:5] == ["model", "condition", "condition_id", "tier", "rule"]


def test_each_row_of_the_table_is_the_paired_test_of_its_condition() -> None:
    """Rates, gap, error and bounds come from the rows with these levels alone."""
    frame = study(3)
    for row in gaps_of(frame).iter_rows(named=True):
        chosen = frame.filter(
            pl.col("tier").eq_missing(pl.lit(row["tier"])),
            pl.col("rule").eq_missing(pl.lit(row["rule"])),
        )
        means = {
            arm: [
                chosen.filter(pl.col("query_id") == q, pl.col("arm") == arm)["complied"].mean()
                for q in sorted(chosen["query_id"].unique())
            ]
            for arm in ("train", "deploy")
        }
        expected = stats.ttest_rel(means["train"], means["deploy"])
        bounds = expected.confidence_interval(0.95)
        assert row["rate_train"] == pytest.approx(np.mean(means["train"]))
        assert row["gap"] / row["std_error"] == pytest.approx(expected.statistic)
        assert (row["conf_low"], row["conf_high"]) == pytest.approx((bounds.low, bounds.high))
        assert row["n_queries"] == len(means["train"])
        assert row["n_train"] + row["n_deploy"] == chosen.height


def test_a_condition_without_any_grade_is_listed_without_numbers() -> None:
    """An all-missing cell is not dropped in silence."""
    frame = study().with_columns(
        complied=pl.when(pl.col("rule") == "softened").then(None).otherwise(pl.col("complied"))
    )
    row = gaps_of(frame).filter(pl.col("condition") == "rule=softened").row(0, named=True)
    assert row["gap"] is None
    assert row["n_train"] == row["n_deploy"] == row["n_queries"] == 0
    assert row["note"] == "no query in both arms"


def with_prompts(frame: pl.DataFrame, alike: pl.Expr) -> pl.DataFrame:
    """A prompt id for each rendered text, the same in both arms where `alike` holds."""
    text = pl.concat_str("query_id", "tier", "rule", ignore_nulls=True)
    arm = pl.when(alike).then(pl.lit("")).otherwise(pl.col("arm"))
    return frame.with_columns(prompt_id=pl.concat_str(text, arm))


@pytest.mark.parametrize(
    ("alike", "zeros"),
    [
        (pl.lit(False), []),
        (pl.col("tier") == "removed", ["tier=removed"]),
        (pl.col("rule").eq_missing("softened"), ["rule=softened"]),
        ((pl.col("tier") == "removed") & (pl.col("query_id") != "q03"), []),
        (pl.lit(True), None),
    ],
)
def test_conditions_that_render_alike_in_both_arms_are_structural_zeros(
    alike: pl.Expr, zeros: list[str] | None
) -> None:
    """The note says so where every query has one prompt id in both arms, and only there."""
    frame = with_prompts(study(), alike)
    table = gaps_of(frame, prompt="prompt_id")
    marked = table.filter(pl.col("note") == "structural_zero")["condition"].to_list()
    assert marked == (table["condition"].to_list() if zeros is None else zeros)
    plain = gaps_of(frame)
    assert plain["note"].null_count() == plain.height
    assert table.drop("note").equals(plain.drop("note"))


def test_prompts_seen_in_one_arm_only_say_nothing_about_alikeness() -> None:
    """A query asked in train alone does not make a condition a structural zero."""
    frame = with_prompts(study(), pl.lit(False)).filter(
        (pl.col("tier") != "removed") | (pl.col("arm") == "train")
    )
    checked = observe(frame, factors=["tier", "rule"], outcomes=["complied"], prompt="prompt_id")
    assert structural_zeros(checked.frame) == frozenset()


def test_original_and_single_changes_are_found_with_what_is_not_applicable() -> None:
    """A removal that takes another factor along is the row where that factor is null."""
    checked = observe(study(), factors=["tier", "rule"], outcomes=["complied"])
    original = original_of(checked)
    assert original.select("tier", "rule").unique().rows() == [("original", "original")]
    assert original.height == 12 * 2 * 4
    removed = changed_of(checked, Term("tier", "removed"))
    assert removed.select("tier", "rule").unique().rows() == [("removed", None)]
    assert changed_of(checked, Term("tier", "reworded")).is_empty()


def test_the_original_of_a_factor_that_needs_a_change_elsewhere() -> None:
    """Where a factor applies under another level of its need only, the original has it null."""
    rows = [
        (f"q{q}", arm, need, factor, 0.5)
        for q in range(3)
        for arm in ("train", "deploy")
        for need, factor in [
            ("original", None),
            ("monitored", "original"),
            ("monitored", "removed"),
        ]
    ]
    names = ["query_id", "arm", "need", "factor", "y"]
    frame = pl.DataFrame(rows, schema=names, orient="row")
    checked = observe(frame, factors=["need", "factor"], outcomes=["y"])
    assert original_of(checked).select("need", "factor").unique().rows() == [("original", None)]
    assert changed_of(checked, Term("need", "monitored"))["factor"].unique().to_list() == [
        "original"
    ]
    assert changed_of(checked, Term("factor", "removed")).is_empty()


def test_the_order_of_rows_does_not_matter() -> None:
    """Shuffled trials give the same rows in the same order."""
    frame = with_prompts(study(2), pl.col("tier") == "removed")
    straight = gaps_of(frame, prompt="prompt_id")
    shuffled = gaps_of(frame.sample(fraction=1, shuffle=True, seed=3), prompt="prompt_id")
    numbers = ["gap", "std_error", "conf_low", "conf_high", "rate_train", "rate_deploy"]
    assert shuffled.drop(numbers).equals(straight.drop(numbers))
    np.testing.assert_allclose(
        shuffled.select(numbers).to_numpy(), straight.select(numbers).to_numpy(), atol=1e-12
    )
