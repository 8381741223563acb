"""Specification curves, against counts by hand and scipy."""

import polars as pl
import pytest
from scipy import stats

from analysis.specifications import SpecificationsError, agreement, curve, curve_by

ROWS = [
    ("rules", "lpm", -0.20, 0.05, 19.0),
    ("rules", "firth", -0.10, 0.08, None),
    ("judge", "lpm", 0.15, 0.05, 19.0),
    ("judge", "firth", -0.12, None, None),
    ("human", "lpm", None, None, None),
    ("human", "firth", -0.15, 0.05, 4.0),
]
FRAME = pl.DataFrame(
    ROWS, schema=["grader", "estimator", "estimate", "std_error", "df"], orient="row"
)
DIMENSIONS = ["grader", "estimator"]


def test_the_curve_is_in_order_with_t_or_normal_intervals() -> None:
    """Smallest first, the missing one last; bounds and p-values are scipy's."""
    found = curve(FRAME, DIMENSIONS)
    assert found["estimate"].to_list() == [-0.20, -0.15, -0.12, -0.10, 0.15, None]
    assert found["position"].to_list() == [1, 2, 3, 4, 5, None]
    for row in found.iter_rows(named=True):
        if row["std_error"] is None:
            assert (row["conf_low"], row["p_value"], row["significant"]) == (None, None, None)
            continue
        law = stats.norm if row["df"] is None else stats.t(row["df"])
        reach = law.ppf(0.975) * row["std_error"]
        assert row["conf_low"] == pytest.approx(row["estimate"] - reach)
        assert row["conf_high"] == pytest.approx(row["estimate"] + reach)
        p = 2 * law.sf(abs(row["estimate"]) / row["std_error"])
        assert row["p_value"] == pytest.approx(p)
        assert row["significant"] == (p < 0.05)


def test_agreement_counted_by_hand() -> None:
    """Of five estimates four are negative; of four with errors two are so beyond 0, one against."""
    found = agreement(curve(FRAME, DIMENSIONS))
    assert (found.specifications, found.estimated, found.tested) == (6, 5, 4)
    assert (found.median, found.low, found.high) == (-0.12, -0.20, 0.15)
    assert found.agree == pytest.approx(4 / 5)
    assert found.significant_agree == pytest.approx(2 / 4)
    assert found.significant_against == pytest.approx(1 / 4)


def test_the_headline_says_which_sign_counts() -> None:
    """With a positive headline the one positive estimate agrees."""
    found = curve(FRAME, DIMENSIONS, headline={"grader": "judge", "estimator": "lpm"})
    assert found.filter(pl.col("headline"))["estimate"].to_list() == [0.15]
    assert agreement(found).agree == pytest.approx(1 / 5)
    assert agreement(found).significant_against == pytest.approx(2 / 4)


def test_each_choice_alone() -> None:
    """Median, range and shares per level, by hand."""
    found = curve_by(curve(FRAME, DIMENSIONS), DIMENSIONS)
    rows = {(row["dimension"], row["level"]): row for row in found.iter_rows(named=True)}
    assert len(rows) == 5
    lpm = rows["estimator", "lpm"]
    assert (lpm["estimated"], lpm["low"], lpm["high"]) == (2, -0.20, 0.15)
    assert (lpm["agree"], lpm["significant"]) == (0.5, 1.0)
    judge = rows["grader", "judge"]
    assert judge["median"] == pytest.approx(0.015)
    assert judge["significant"] == 1.0


def test_the_order_of_the_rows_does_not_matter() -> None:
    """Shuffled specifications give the same curve."""
    shuffled = FRAME.sample(fraction=1, shuffle=True, seed=1)
    assert curve(shuffled, DIMENSIONS).equals(curve(FRAME, DIMENSIONS))


def test_no_estimate_gives_no_shares() -> None:
    """All missing, or an effect of exactly 0 to agree with: null, not 0."""
    none = FRAME.with_columns(pl.lit(None, pl.Float64).alias("estimate"))
    found = agreement(curve(none, DIMENSIONS))
    assert (found.estimated, found.agree, found.median, found.low) == (0, None, None, None)
    zero = FRAME.with_columns(pl.lit(0.0).alias("estimate"))
    assert agreement(curve(zero, DIMENSIONS)).agree is None


@pytest.mark.parametrize(
    ("frame", "dimensions", "headline", "message"),
    [
        (FRAME.drop("std_error"), DIMENSIONS, None, "no column `std_error`"),
        (FRAME, ["grader"], None, "grader=rules stands there more than once"),
        (FRAME, DIMENSIONS, {"grader": "rules"}, "headline grader=rules fits 2"),
        (FRAME, [], None, "no dimension"),
        (
            FRAME.rename({"grader": "agrees"}),
            ["agrees", "estimator"],
            None,
            "`agrees` is a column of the curve",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused(frame, dimensions, headline, message: str) -> None:
    """The message names the column and what to do."""
    with pytest.raises(SpecificationsError, match=message):
        curve(frame, dimensions, headline=headline)
