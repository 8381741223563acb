"""Differences between models, paired by query, against scipy's paired t."""

import itertools

import numpy as np
import polars as pl
import pytest
from scipy import stats

from analysis import fit
from analysis.estimates import DIFFERENCE


def trials(models: str = "xy", seed: int = 0, queries: int = 9, wordings: int = 1) -> pl.DataFrame:
    """Two factors one at a time, asked of several models; queries do alike to all of them."""
    rng = np.random.default_rng(seed)
    shift = rng.normal(0, 0.15, queries)
    conditions = [("original", "original"), ("removed", "original"), ("original", "removed")]
    rows = []
    for m, q, (tier, rule), arm in itertools.product(
        range(len(models)), range(queries), conditions, ("train", "deploy")
    ):
        rate = 0.2 + 0.1 * m + shift[q] + 0.3 * (arm == "train") * (tier == "original")
        for i in range(int(rng.integers(1, 6))):
            y = float(rng.random() < rate)
            rows.append((models[m], f"q{q}", f"w{i % wordings}", arm, tier, rule, y))
    names = ["model", "query_id", "wording", "arm", "tier", "rule", "y"]
    return pl.DataFrame(rows, schema=names, orient="row")


def differences(frame: pl.DataFrame, **options: str) -> pl.DataFrame:
    """The rows of the table that compare models."""
    table = fit(frame, factors=["tier", "rule"], outcomes=["y"], sensitivity=False, **options)
    return table.effects.filter(pl.col("estimand") == DIFFERENCE)


def own(frame: pl.DataFrame, model: str, tier: str, rule: str) -> dict[str, float]:
    """Gap of each query in a condition, in a loop; only queries seen in both arms."""
    found = {}
    for query in sorted(set(frame["query_id"])):
        means = []
        for arm in ("train", "deploy"):
            cell = frame.filter(model=model, query_id=query, tier=tier, rule=rule, arm=arm)["y"]
            means.append(sum(cell) / len(cell) if len(cell) else None)
        if None not in means:
            found[query] = means[0] - means[1]
    return found


PLACES = {(None, None): None, ("tier", "removed"): ("removed", "original"),
          ("rule", "removed"): ("original", "removed")}  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
def test_a_difference_is_a_paired_t_test(seed: int) -> None:
    """Of the gaps in the original, and of every simple effect, over the queries of both models."""
    frame = trials(seed=seed)
    lost = (pl.col("model") == "y") & (pl.col("query_id") == "q4") & (pl.col("tier") == "removed")
    frame = frame.filter(~lost)
    table = differences(frame)
    assert table.select("model", "reference").unique().rows() == [("x", "y")]
    assert table.height == 3
    for row in table.iter_rows(named=True):
        sides = []
        for model in "xy":
            gap = own(frame, model, "original", "original")
            place = PLACES[row["factor"], row["level"]]
            if place is not None:
                after = own(frame, model, *place)
                gap = {q: after[q] - gap[q] for q in gap.keys() & after.keys()}
            sides.append(gap)
        common = sorted(sides[0].keys() & sides[1].keys())
        one, other = ([side[q] for q in common] for side in sides)
        expected = stats.ttest_rel(one, other)
        assert row["n_clusters"] == len(common) == (8 if row["factor"] == "tier" else 9)
        assert row["estimate"] == pytest.approx(np.mean(one) - np.mean(other))
        assert row["train_part"] - row["deploy_part"] == pytest.approx(row["estimate"])
        assert row["df"] == expected.df
        assert row["p_value"] == pytest.approx(expected.pvalue)


def test_what_queries_do_to_both_models_goes_out() -> None:
    """Asked with the same answers, two models differ by nothing, however the queries differ."""
    frame = trials("x", seed=3)
    twin = frame.with_columns(model=pl.lit("twin"))
    table = differences(pl.concat([frame, twin]))
    np.testing.assert_allclose(table["estimate"], 0, atol=1e-12)
    assert table["note"].unique().to_list() == ["boundary"]
    assert table["p_value"].null_count() == 3


def test_every_pair_of_models_is_compared() -> None:
    """Three models: three pairs, whose differences add up where all have all queries."""
    table = differences(trials("xyz", seed=4))
    assert table.select("model", "reference").unique(maintain_order=True).rows() == [
        ("x", "y"), ("x", "z"), ("y", "z"),
    ]  # fmt: skip
    xy, xz, yz = table.filter(pl.col("factor").is_null())["estimate"]
    assert xz == pytest.approx(xy + yz)
    for (_, _), pair in table.group_by("model", "reference"):
        assert pair.height == 3
    assert table["p_holm"].null_count() == table.height
    assert table["q_bh"].null_count() == 0


def test_models_asked_different_queries_are_not_compared() -> None:
    """Each row is there and says why it has no number."""
    one, two = trials("x"), trials("y").with_columns(pl.col("query_id") + "!")
    table = differences(pl.concat([one, two]))
    assert table["estimate"].null_count() == table.height == 3
    assert table["note"].unique().to_list() == [
        "not estimable: no query was graded in all cells of both models"
    ]


def test_five_wordings_enter_the_error() -> None:
    """Two-way where both models saw them."""
    table = differences(trials(seed=5, wordings=5), wording="wording")
    assert table["df"].to_list() == [4.0] * 3
    assert all("two-way" in method for method in table["method"])


def test_one_model_has_no_differences_and_neither_have_very_many() -> None:
    """Pairs of more than a dozen models would outgrow the table."""
    assert differences(trials("x")).is_empty()
    few = [trials("x", queries=2).with_columns(model=pl.lit(f"m{i:02}")) for i in range(13)]
    assert differences(pl.concat(few)).is_empty()
    assert differences(pl.concat(few[:4])).height == 6 * 3
