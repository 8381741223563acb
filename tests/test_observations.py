"""The table that analysis accepts: refusals and their words, levels, references, terms."""

import itertools
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import ObservationsError, fit
from analysis.observations import (
    Observations,
    Term,
    at_reference,
    check_graded,
    observe,
    treatment,
)


def good(**columns: Any) -> pl.DataFrame:
    """Eight trials: two queries, two arms, one factor of two levels; `columns` replace its own."""
    cells = list(itertools.product(("a", "b"), ("train", "deploy"), ("original", "removed")))
    frame = pl.DataFrame(cells, schema=["query_id", "arm", "f"], orient="row")
    frame = frame.with_columns(y=pl.Series([1.0, 0.0, 0.5, 0.0, 1.0, 1.0, 0.0, None]))
    return frame.with_columns(
        value.alias(name) if isinstance(value, pl.Expr) else pl.Series(name, value, strict=False)
        for name, value in columns.items()
    )


def check(frame: pl.DataFrame, **options: Any) -> Observations:
    """The checked frame, by default with factor f and outcome y."""
    return observe(frame, **{"factors": ["f"], "outcomes": ["y"]} | options)


REFUSED: dict[str, tuple[pl.DataFrame, dict[str, Any], list[str]]] = {
    "no arm column": (good().drop("arm"), {}, ["`arm`", "query_id"]),
    "no query column": (good(), {"query": "item"}, ["`item`", "query_id"]),
    "no factor column": (good(), {"factors": ["f", "g"]}, ["`g`", "query_id, arm, f, y"]),
    "no outcome column": (good(), {"outcomes": ["refused"]}, ["`refused`", "f, y"]),
    "no weight column": (good(), {"weight": "w"}, ["`w`"]),
    "no prompt column": (good(), {"prompt": "p"}, ["`p`"]),
    "two columns missing": (good(), {"weight": "w", "query": "item"}, ["`item`, `w`"]),
    "a frame without columns": (pl.DataFrame(), {}, ["`arm`", "`y`"]),
    "no train": (
        good(arm=pl.lit("deploy")),
        {},
        ["`arm`", "`train`", "needs both train and deploy"],
    ),
    "no deploy": (
        good(tier=pl.lit("train")),
        {"arm": "tier"},
        ["`tier`", "`deploy`", "only train", "needs both train and deploy"],
    ),
    "an arm of nulls": (good(arm=[None] * 8), {}, ["`arm`", "`train`", "only null"]),
    "the arm as a factor": (good(), {"factors": ["arm"]}, ["`arm`", "meaning of its own"]),
    "an arm of another name as a factor": (
        good(tier=["train", "deploy"] * 4),
        {"arm": "tier", "factors": ["tier"]},
        ["`tier`", "named twice", "one of"],
    ),
    "the query as a factor": (good(), {"factors": ["query_id"]}, ["`query_id`", "named twice"]),
    "outcome above 1": (good(y=[0, 1, 2.0, 0, 0, 0, 0, 0]), {}, ["`y`", "2.0", "[0, 1]", "null"]),
    "outcome below 0": (good(y=[0, 1, -0.1, 0, 0, 0, 0, 0]), {}, ["`y`", "-0.1", "[0, 1]"]),
    "outcome in percent": (good(y=[0, 100, 0, 0, 0, 0, 0, 0]), {}, ["`y`", "100", "[0, 1]"]),
    "outcome not a number": (
        good(y=[0, float("nan"), 0.1, 0, 0, 0, 0, 0]),
        {},
        ["`y`", "NaN", "be null"],
    ),
    "outcome infinite": (good(y=[0, float("inf"), 0.1, 0, 0, 0, 0, 0]), {}, ["`y`", "inf"]),
    "outcome of text": (good(y=["yes"] * 8), {}, ["`y`", "String", "number in [0, 1]"]),
    "a factor with one level": (
        good(f=pl.lit("original")),
        {},
        ["`f`", "only `original`", "two levels", "leave it out"],
    ),
    "a factor with one level and nulls": (good(f=["removed", None] * 4), {}, ["`f`", "`removed`"]),
    "a factor without a level": (good(f=[None] * 8), {}, ["`f`", "nothing", "leave it out"]),
    "a factor of too many levels": (
        pl.concat([good()] * 30).with_columns(f=pl.int_range(240)),
        {},
        ["`f`", "240 levels", "200", "leave it out"],
    ),
    "a factor of a million texts": (
        pl.concat([good()] * 125_000).with_columns(f=pl.int_range(1_000_000).cast(pl.String)),
        {},
        ["`f`", "1000000 levels", "200", "leave it out"],
    ),
    "a factor that is NaN": (
        good(f=[1.0, 0.0, float("nan"), 1.0] * 2),
        {},
        ["`f`", "NaN", "null"],
    ),
    "a factor of lists": (good(f=[["original"]] * 8), {}, ["`f`", "List", "one value a row"]),
    "an arm of bytes": (good(arm=[b"train", b"deploy"] * 4), {}, ["`arm`", "Binary", "text"]),
    "a model of records": (good(model=[{"name": "m"}] * 8), {}, ["`model`", "Struct", "text"]),
    "no reference": (
        good(f=["long", "short"] * 4),
        {},
        ["`f`", "long, short", "reference", "f=long"],
    ),
    "a reference that is no level": (
        good(),
        {"reference": {"f": "present"}},
        ["`f`", "original, removed", "`present`", "reference"],
    ),
    "a reference for no factor": (good(), {"reference": {"tier": "free"}}, ["`tier`", "f"]),
    "an empty table": (good().clear(), {}, ["no rows"]),
    "control queries alone": (good(role=["control"] * 8), {}, ["no rows", "`role`", "`control`"]),
    "a trial without query": (
        good(query_id=["a", None, None] + ["b"] * 5),
        {},
        ["`query_id`", "2 rows", "name the query"],
    ),
    "a negative weight": (good(w=[1, -1.0] * 4), {"weight": "w"}, ["`w`", "-1.0", "0 or more"]),
    "a weight that is no number": (
        good(w=[1, float("nan")] * 4),
        {"weight": "w"},
        ["`w`", "NaN", "null"],
    ),
    "a weight of text": (good(w=["1"] * 8), {"weight": "w"}, ["`w`", "String", "number"]),
    "a factor named twice": (good(), {"factors": ["f", "f"]}, ["`f`", "named twice"]),
    "a factor that is an outcome": (good(), {"outcomes": ["y", "f"]}, ["`f`", "named twice"]),
    "a factor called query": (
        good(query=["original", "removed"] * 4),
        {"factors": ["query"]},
        ["`query`", "rename"],
    ),
    "a factor called model": (
        good(model=["original", "removed"] * 4),
        {"factors": ["model"]},
        ["`model`", "rename"],
    ),
    "a factor called role": (
        good(role=["original", "removed"] * 4),
        {"factors": ["role"]},
        ["`role`", "rename"],
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_table_that_cannot_be_analysed_is_refused_in_words(name: str) -> None:
    """The message names the column, what it holds, and what would mend it."""
    frame, options, words = REFUSED[name]
    with pytest.raises(ObservationsError) as caught:
        check(frame, **options)
    with pytest.raises(ObservationsError) as fitted:
        fit(frame, **{"factors": ["f"], "outcomes": ["y"]} | options)
    for word in words:
        assert word.lower() in str(caught.value).lower()
        assert word.lower() in str(fitted.value).lower()


def test_outcomes_without_a_value_are_refused() -> None:
    """One value of one outcome is enough to go on; a table without rows is another fault."""
    frame = good(y=[None] * 8, z=[None] * 7 + [1.0])
    with pytest.raises(ObservationsError, match=r"`y` is null in every row: .*; grade"):
        check_graded(frame, ["y"])
    check_graded(frame, ["y", "z"])
    check_graded(frame, [])
    check_graded(frame.clear(), ["y"])


def test_a_message_lists_the_first_of_many_names() -> None:
    """Two thousand columns do not fill a screen."""
    frame = good().with_columns(pl.lit(0).alias(f"c{i}") for i in range(2000))
    with pytest.raises(ObservationsError) as caught:
        check(frame, factors=["g"])
    assert "query_id, arm, f, y, c0" in str(caught.value)
    assert "and 1974 more" in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_role_of_numbers_is_not_control() -> None:
    """A column that happens to be called role may hold anything."""
    assert check(good(role=[1, 2] * 4)).frame.height == 8


@pytest.mark.parametrize("factor", ["gap", "note", "rate_train", "outcome"])
def test_a_factor_with_the_name_of_a_gap_column_is_refused(factor: str) -> None:
    """The table of gaps has a column for each factor, which must not replace its own."""
    frame = good().rename({"f": factor})
    with pytest.raises(ObservationsError, match=f"`{factor}` .* rename"):
        fit(frame, factors=[factor], outcomes=["y"])


@pytest.mark.parametrize("factor", ["share", "changes", "train", "sum_train", "w", "len"])
def test_a_factor_may_have_any_other_name(factor: str) -> None:
    """No name that the estimators use inside gets in the way of a factor or an outcome."""
    frame = good(law=[1.0, 2.0] * 4)
    names = {"f": factor, "y": factor + "2"}
    plain = fit(frame, factors=["f"], outcomes=["y"], weight="law")
    renamed = fit(frame.rename(names), factors=[factor], outcomes=[factor + "2"], weight="law")
    swapped = fit(
        frame.rename({"f": "g", "y": factor}), factors=["g"], outcomes=[factor], weight="law"
    )
    numbers = ["estimate", "train_part", "deploy_part", "std_error", "p_value", "conf_low"]
    for other in (renamed, swapped):
        assert other.effects.select(numbers).equals(plain.effects.select(numbers))
        assert other.gaps["gap"].equals(plain.gaps["gap"])


ODD_NAMES = ["arm[train]", "f[removed]", "arm[train]:f", "f:g", "f_rule", "ff"]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_factor_may_have_the_name_of_a_term(name: str) -> None:
    """Names are never parsed: brackets, colons and a name's beginning change no number."""
    rng = np.random.default_rng(7)
    cells = itertools.product(range(6), ("train", "deploy"), ("original", "removed"), (1, 0))
    frame = pl.DataFrame(list(cells), schema=["query_id", "arm", "f", "g"], orient="row")
    frame = frame.with_columns(y=pl.Series(rng.random(frame.height)))
    plain = fit(frame, factors=["f", "g"], outcomes=["y"])
    odd = fit(frame.rename({"g": name}), factors=["f", name], outcomes=["y"])
    numbers = ["level", "estimate", "train_part", "deploy_part", "std_error", "p_value", "p_holm"]
    assert odd.effects.select(numbers).equals(plain.effects.select(numbers))
    factors = [name if factor == "g" else factor for factor in plain.effects["factor"]]
    assert odd.effects["factor"].to_list() == factors
    assert odd.gaps["gap"].equals(plain.gaps["gap"])
    assert odd.gaps.columns == [name if column == "g" else column for column in plain.gaps.columns]
    estimates = ["fit", "estimate", "std_error", "p_value"]
    assert odd.coefficients.select(estimates).equals(plain.coefficients.select(estimates))


LEVELS: dict[str, tuple[pl.Series, str | None, tuple[str, ...]]] = {
    "original first": (pl.Series(["removed", "original"]), None, ("original", "removed")),
    "present where there is no original": (
        pl.Series(["absent", "present"]),
        None,
        ("present", "absent"),
    ),
    "original before present": (
        pl.Series(["present", "original"]),
        None,
        ("original", "present"),
    ),
    "as told, against original": (
        pl.Series(["original", "removed"]),
        "removed",
        ("removed", "original"),
    ),
    "as told": (pl.Series(["long", "short", "none"]), "short", ("short", "long", "none")),
    "text in alphabetical order": (
        pl.Series(["zeta", "original", "alpha"]),
        None,
        ("original", "alpha", "zeta"),
    ),
    "an Enum in its own order": (
        pl.Series(["b", "original", "z"], dtype=pl.Enum(["z", "unused", "original", "b"])),
        None,
        ("original", "z", "b"),
    ),
    "a Categorical": (
        pl.Series(["removed", "original"], dtype=pl.Categorical),
        None,
        ("original", "removed"),
    ),
    "true of a Boolean": (pl.Series([False, True]), None, ("true", "false")),
    "a Boolean as told": (pl.Series([True, False]), "false", ("false", "true")),
    "1 of 0 and 1": (pl.Series([0, 1]), None, ("1", "0")),
    "1 of 0 and 1 in text": (pl.Series(["0", "1"]), None, ("1", "0")),
    "1 of 0 and 1 as floats": (pl.Series([1.0, 0.0]), None, ("1.0", "0.0")),
    "TRUE of R's": (pl.Series(["FALSE", "TRUE"]), None, ("TRUE", "FALSE")),
    "True of pandas'": (pl.Series(["True", "False"]), None, ("True", "False")),
    "0 as told": (pl.Series([0, 1], dtype=pl.Int8), "0", ("0", "1")),
    "integers by size": (pl.Series([10, 2, 1]), "1", ("1", "2", "10")),
}


@pytest.mark.parametrize("name", LEVELS)
def test_levels_have_the_reference_first(name: str) -> None:
    """Text, Enum, Categorical, Boolean and integer columns become an Enum, reference first."""
    values, reference, expected = LEVELS[name]
    size = 4 * len(values)
    frame = pl.DataFrame(
        {
            "query_id": ["a", "b"] * (size // 2),
            "arm": ["train"] * (size // 2) + ["deploy"] * (size // 2),
            "f": pl.concat([values] * 4),
        }
    )
    checked = observe(
        frame, factors=["f"], outcomes=[], reference={"f": reference} if reference else None
    )
    assert checked.levels == {"f": expected}
    assert checked.frame["f"].dtype == pl.Enum(expected)
    assert checked.terms == tuple(Term("f", level) for level in expected[1:])
    texts = [str(v).lower() if isinstance(v, bool) else str(v) for v in frame["f"]]
    assert checked.frame["f"].cast(pl.String).to_list() == texts


@pytest.mark.parametrize("level", [2, "yes"])
def test_a_number_column_with_more_than_yes_and_no_needs_a_reference(level: Any) -> None:
    """The rule for 0 and 1 does not stretch to other pairs."""
    with pytest.raises(ObservationsError, match="reference"):
        check(good(f=[level, 1 if level == 2 else "no"] * 4))


TYPES = {
    "Enum": pl.Enum(["removed", "original", "unused"]),
    "Categorical": pl.Categorical,
    "String": pl.String,
}


@pytest.mark.parametrize("dtype", TYPES.values(), ids=TYPES)
def test_the_type_of_the_columns_changes_no_number(dtype: Any) -> None:
    """Enum and Categorical columns of factors, arms, queries and models give the same tables."""
    frame = good(model=["m"] * 8, role=["target"] * 8)
    arm = pl.Enum(["deploy", "train"]) if dtype != pl.String else pl.String
    typed = frame.with_columns(
        pl.col("f").cast(dtype),
        pl.col("arm").cast(arm),
        pl.col("query_id").cast(pl.Categorical),
        pl.col("model").cast(pl.Categorical),
        pl.col("role").cast(pl.Enum(["target"])),
    )
    straight, other = (fit(t, factors=["f"], outcomes=["y"]) for t in (frame, typed))
    assert other.effects.equals(straight.effects)
    assert other.gaps.equals(straight.gaps)
    assert other.coefficients.equals(straight.coefficients)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([True, False] * 4, [1.0, 0.0] * 4),
        ([1, 0] * 4, [1.0, 0.0] * 4),
        (pl.Series([1, None] * 4, dtype=pl.UInt8), [1.0, None] * 4),
        (pl.Series([0.25] * 8, dtype=pl.Float32), [0.25] * 8),
        (pl.Series([None] * 8), [None] * 8),
    ],
)
def test_outcomes_of_any_number_type_become_floats(values: Any, expected: list[Any]) -> None:
    """Boolean, integer, float and all-null columns are outcomes; null stays null."""
    assert check(good(y=values)).frame["y"].to_list() == expected


def test_control_queries_and_further_arms_are_left_out() -> None:
    """Their rows are gone, and what they hold is not looked at."""
    extra = good().with_columns(arm=pl.lit("audit"), y=pl.lit(7.0), f=pl.lit("unseen"))
    control = good().with_columns(role=pl.lit("control"), y=pl.lit(9.0), f=pl.lit("other"))
    roles = good().with_columns(role=pl.Series(["target", None] * 4))
    frame = pl.concat([extra, roles, control], how="diagonal")
    checked = check(frame)
    assert checked.frame.equals(check(good()).frame)
    assert checked.levels == {"f": ("original", "removed")}


def test_the_frame_that_was_given_is_not_changed() -> None:
    """Checking leaves the caller's table as it was."""
    frame = good(w=[1.0, 0.0] * 4)
    copy = frame.clone()
    check(frame, weight="w")
    assert frame.equals(copy)


def test_a_weight_of_zero_is_outside_the_law() -> None:
    """A trial with no share in the target law is treated like one without a weight."""
    checked = check(good(w=[2.0, 0.0, None, 1.0] * 2), weight="w")
    assert checked.frame["weight"].to_list() == [2.0, None, None, 1.0] * 2
    integers = check(good(w=[2, 0] * 4), weight="w")
    assert integers.frame["weight"].to_list() == [2.0, None] * 4


def test_without_a_weight_every_trial_counts_one() -> None:
    """The law of a table without weights is the table."""
    assert check(good()).frame["weight"].to_list() == [1.0] * 8


def test_models_stand_apart() -> None:
    """Each model has its own rows; a table without a model column has one model, null."""
    checked = check(good(model=["b", "b", "a", "b", "a", None, "b", "b"]))
    assert checked.models == ("a", "b", None)
    assert [checked.of_model(m).frame.height for m in checked.models] == [2, 5, 1]
    assert check(good()).models == (None,)


A_LEVEL = st.sampled_from(["original", "removed", "softened", None])


@settings(deadline=None)
@given(st.lists(st.tuples(A_LEVEL, A_LEVEL, A_LEVEL), min_size=1, max_size=30))
def test_conditions_number_the_combinations_of_levels(rows: list[tuple[Any, ...]]) -> None:
    """Two trials have the same number exactly when they have the same levels, nulls included."""
    padded = [*rows, *[("original",) * 3, ("removed",) * 3]]
    frame = pl.DataFrame(padded, schema=["tier", "tier_rule", "rule"], orient="row")
    frame = frame.with_columns(
        query_id=pl.lit("q"), arm=pl.Series((["train", "deploy"] * len(padded))[: len(padded)])
    )
    checked = observe(frame, factors=["tier", "tier_rule", "rule"], outcomes=[])
    numbers = checked.frame["condition"].to_list()
    assert None not in numbers
    assert len(set(zip(numbers, padded, strict=True))) == len(set(numbers)) == len(set(padded))


@settings(deadline=None)
@given(st.lists(st.tuples(A_LEVEL, A_LEVEL), min_size=1, max_size=30))
def test_the_treatment_matrix_is_an_indicator_of_each_term(rows: list[tuple[Any, Any]]) -> None:
    """Terms are data: a factor whose name begins like another is its own; null counts 0."""
    padded = [*rows, ("original",) * 2, ("removed",) * 2, ("softened",) * 2]
    frame = pl.DataFrame(padded, schema=["tier", "tier_rule"], orient="row")
    frame = frame.with_columns(
        query_id=pl.lit("q"), arm=pl.Series((["train", "deploy"] * len(padded))[: len(padded)])
    )
    checked = observe(frame, factors=["tier", "tier_rule"], outcomes=[])
    matrix = treatment(checked.frame, checked.terms)
    expected = [
        [float(dict(zip(["tier", "tier_rule"], row, strict=True))[t.factor] == t.level)
         for t in checked.terms]
        for row in padded
    ]  # fmt: skip
    np.testing.assert_array_equal(matrix, expected)
    assert not np.isnan(matrix).any()


def test_without_terms_the_treatment_matrix_has_no_columns() -> None:
    """A table without factors is a table of one condition."""
    checked = check(good(), factors=[])
    assert treatment(checked.frame, checked.terms).shape == (8, 0)
    assert checked.frame["condition"].n_unique() == 1


@pytest.mark.parametrize("but", [None, "f", "g"])
@pytest.mark.parametrize("or_null", [False, True])
def test_rows_at_the_reference_are_those_of_a_loop(but: str | None, or_null: bool) -> None:
    """Every factor but one at its reference, or not applicable where that is allowed."""
    rows = list(itertools.product(["original", "removed", None], repeat=3))
    frame = pl.DataFrame(rows, schema=["f", "g", "h"], orient="row")
    levels = dict.fromkeys("fgh", ("original", "removed"))
    found = frame.select(at_reference(levels, but=but, or_null=or_null).alias("x"))["x"].to_list()
    allowed = ("original", None) if or_null else ("original",)
    expected = [
        all(v in allowed for name, v in zip("fgh", row, strict=True) if name != but) for row in rows
    ]
    assert found == expected
