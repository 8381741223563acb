"""Laws of the whole fit on generated tables: names, order, copies and cells change no number."""

import itertools
import random
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analysis import Results, fit
from analysis.attribution import attribution
from analysis.coefficients import coefficients
from analysis.effects import effects
from analysis.estimates import ATTRIBUTION, UNVERBALISED, VERBALISED
from analysis.gaps import gap_of, original_of
from analysis.marginals import interactions, marginal_gaps
from analysis.observations import collapse, observe
from analysis.sensitivity import sensitivity_rows

ARMS = ("train", "deploy")
TABLES = ("gaps", "effects", "coefficients", "spreads")
FEW = settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
)


@st.composite
def tables(draw: st.DrawFn) -> pl.DataFrame:
    """A few queries, wordings and conditions of two factors; holes in cells and in outcomes."""
    queries = draw(st.sampled_from([3, 4, 5, 6, 7, 21]))
    wordings = draw(st.sampled_from([1, 2, 5]))
    shares = draw(st.booleans())
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    levels = itertools.product(("original", "removed"), ("original", "removed", "softened"))
    present = [at for at in levels if at == ("original", "original") or rng.random() < 0.8]
    rows = []
    for q, (c, at), arm in itertools.product(range(queries), enumerate(present), ARMS):
        for i in range(int(rng.integers(0, 4)) + (c == 0)):
            rate = 0.2 + 0.4 * (arm == "train") - 0.1 * c * (arm == "train") + 0.03 * q
            y: float | None = float(rng.random() < rate)
            if shares:
                y = float(rng.choice([0.0, 0.2, 0.6, 1.0]))
            if rng.random() < 0.05:
                y = None
            said = None if y is None or rng.random() < 0.1 else float(rng.random() < 0.5)
            rows.append((f"q{q}", f"w{i % wordings}", arm, *at, [0.5, 2.0][c % 2], y, said))
    names = ["query_id", "wording_id", "arm", "tier", "rule", "law", "complied", "af_reasoning"]
    kinds = {n: pl.Float64 if n in names[-3:] else pl.String for n in names}
    frame = pl.DataFrame(rows, schema=kinds, orient="row")
    # A factor of one level is refused, and so is a table without grades.
    extra = [("q0", "w0", "train", "removed", "removed", 1.0, 1.0, 1.0)]
    return pl.concat([frame, pl.DataFrame(extra, schema=kinds, orient="row")])


def fitted(frame: pl.DataFrame, **options: Any) -> Results:
    given = {"factors": ["tier", "rule"], "outcomes": ["complied"], "weight": "law"} | options
    return fit(frame, wording="wording_id", **given)


def assert_close(one: pl.DataFrame, other: pl.DataFrame, tolerance: float = 1e-9) -> None:
    """The same rows: floats to a tolerance, the rest exactly."""
    assert one.columns == other.columns
    assert one.height == other.height
    for name in one.columns:
        left, right = one[name], other[name]
        assert left.is_null().equals(right.is_null()), name
        if left.dtype == pl.Float64:
            np.testing.assert_allclose(
                left.drop_nulls(), right.drop_nulls(), rtol=1e-6, atol=tolerance, err_msg=name
            )
        else:
            assert left.to_list() == right.to_list(), name


@FEW
@given(frame=tables(), seed=st.integers(0, 1000))
def test_the_order_of_rows_never_matters(frame: pl.DataFrame, seed: int) -> None:
    """Shuffled trials give the same tables, row by row."""
    places = list(range(frame.height))
    random.Random(seed).shuffle(places)
    one, other = fitted(frame), fitted(frame[places])
    for name in TABLES:
        assert_close(getattr(one, name), getattr(other, name))


@FEW
@given(frame=tables(), keep=st.booleans())
def test_relabelling_levels_permutes_rows_and_changes_no_number(
    frame: pl.DataFrame, keep: bool
) -> None:
    """Other names of levels, of queries and of wordings, in another order.

    `original` and `removed` have a meaning: the one is the reference, the other ends attribution.
    """
    new = {"softened": "a soft"} if keep else {"removed": "zz[gone]", "softened": "a soft"}
    renamed = frame.with_columns(
        pl.col("tier", "rule").replace(new),
        query_id=pl.col("query_id").str.reverse() + "x",
        wording_id="v" + pl.col("wording_id").str.slice(1).cast(pl.Int64).mul(-1).cast(pl.String),
    )
    back = {v: k for k, v in new.items()}
    one, other = fitted(frame).effects, fitted(renamed).effects
    keys = ["estimand", "role", "method", "factor", "level", "factor2", "level2"]
    other = other.with_columns(pl.col("level", "level2").replace(back))
    # A note lists what goes along or is aliased in the order of the table.
    if not keep:
        one, other = (t.filter(pl.col("estimand") != ATTRIBUTION) for t in (one, other))
    one, other = (t.drop("note").sort(keys, nulls_last=True) for t in (one, other))
    assert_close(one, other)


@FEW
@given(frame=tables())
def test_duplicating_every_row_changes_no_clustered_error(frame: pl.DataFrame) -> None:
    """Twice the trials of the same queries and wordings: no estimate is more certain for it.

    Newcombe's bounds, where no query differs, count trials; nothing else does.
    """
    once, twice = fitted(frame).effects, fitted(pl.concat([frame, frame])).effects
    clustered = ["estimate", "train_part", "deploy_part", "std_error", "df", "p_value"]
    # Firth's penalty weighs less the more trials there are.
    kept = pl.col("method").fill_null("").str.starts_with("Firth").not_()
    names = ["estimand", "role", "factor", "level", "method", *clustered]
    assert_close(once.filter(kept).select(names), twice.filter(kept).select(names))
    assert (twice["n_trials"].drop_nulls() == 2 * once["n_trials"].drop_nulls()).all()
    linear = pl.col("fit") == "lpm"
    one, two = (fitted(f).coefficients.filter(linear) for f in (frame, pl.concat([frame, frame])))
    assert_close(one.drop("note"), two.drop("note"))


@FEW
@given(frame=tables())
def test_collapsing_never_changes_a_number(frame: pl.DataFrame) -> None:
    """Every estimator on trials and on cells, with wordings kept where they enter the error."""
    checked = observe(
        frame,
        factors=["tier", "rule"],
        outcomes=["complied"],
        weight="law",
        wording="wording_id",
    )
    worded = checked.frame["wording"].n_unique() >= 5
    binary = bool(checked.frame["complied"].drop_nulls().is_in([0.0, 1.0]).all())
    cells = collapse(checked, "complied", wordings=worded)
    assert cells.frame["n"].sum() == checked.frame["complied"].count()
    kwds: dict[str, Any] = {"primary": "gap_effect_simple", "grader": None}
    for one, other in (
        (effects(checked, "complied", **kwds), effects(cells, "complied", **kwds)),
        *(
            ([*rows(checked, "complied")], [*rows(cells, "complied")])
            for rows in (marginal_gaps, interactions, attribution)
        ),
        tuple(
            [*sensitivity_rows(o, "complied", frozenset(), binary=binary)] for o in (checked, cells)
        ),
        tuple([*coefficients(o, "complied", binary=binary)] for o in (checked, cells)),
        ([gap_of(original_of(checked), "complied")], [gap_of(original_of(cells), "complied")]),
    ):
        left, right = (pl.DataFrame(rows, infer_schema_length=None) for rows in (one, other))
        assert_close(left, right, tolerance=1e-6)


@FEW
@given(frame=tables())
def test_attribution_adds_up_to_the_two_end_points(frame: pl.DataFrame) -> None:
    """Where it speaks of all factors, its sum is stripped minus original on its own queries."""
    table = fitted(frame).effects.filter(pl.col("estimand") == ATTRIBUTION)
    rows = table.filter(pl.col("estimate").is_not_null())
    if rows.is_empty():
        return
    assert sorted(rows["factor"]) == ["rule", "tier"]
    assert rows["n_clusters"].n_unique() == 1
    parts = rows["train_part"] - rows["deploy_part"] - rows["estimate"]
    assert parts.abs().max() < 1e-12


@pytest.mark.parametrize("seed", range(3))
def test_attribution_adds_up_with_holes(seed: int) -> None:
    """All conditions, queries missing here and there: over those that are left in every step."""
    rng = np.random.default_rng(seed)
    levels = ("original", "removed")
    rows = [
        (f"q{q}", arm, a, b, c, float(rng.random() < 0.5))
        for q, arm, a, b, c in itertools.product(range(12), ARMS, levels, levels, levels)
        for _ in range(2)
    ]
    frame = pl.DataFrame(rows, schema=["query_id", "arm", "a", "b", "c", "complied"], orient="row")
    lost = [("q1", "removed", "original", "train"), ("q7", "removed", "removed", "deploy")]
    for query, a, b, arm in lost:
        frame = frame.filter(
            ~((pl.col("query_id") == query) & (pl.col("a") == a) & (pl.col("b") == b)
              & (pl.col("arm") == arm) & (pl.col("c") == "original"))
        )  # fmt: skip
    table = fit(frame, factors=["a", "b", "c"], outcomes=["complied"], sensitivity=False)
    rows_of = table.effects.filter(pl.col("estimand") == ATTRIBUTION)
    kept = frame.filter(~pl.col("query_id").is_in(["q1", "q7"]))
    gaps = fit(kept, factors=["a", "b", "c"], outcomes=["complied"], sensitivity=False).gaps
    by_name = dict(gaps.select("condition", "gap").rows())
    ends = by_name["a=removed,b=removed,c=removed"] - by_name["original"]
    assert rows_of["n_clusters"].to_list() == [10] * 3
    assert rows_of["estimate"].sum() == pytest.approx(ends, abs=1e-12)


@FEW
@given(frame=tables())
def test_verbalised_and_unverbalised_are_the_gap(frame: pl.DataFrame) -> None:
    """Exactly, over the trials whose reasoning is known: in both arms, for every condition."""
    known = frame.filter(pl.col("af_reasoning").is_not_null())
    results = fitted(frame, outcomes=["complied", "af_reasoning"])
    parts = results.effects.filter(
        pl.col("estimand").is_in([VERBALISED, UNVERBALISED]), pl.col("estimate").is_not_null()
    )
    levels = observe(frame, factors=["tier", "rule"], outcomes=["complied"]).levels
    for (factor, level), pair in parts.group_by("factor", "level"):
        at = {"tier": "original", "rule": "original"} | ({factor: level} if factor else {})
        assert at.keys() == levels.keys()
        own = known.filter(**at)
        gaps = []
        for query in own["query_id"].unique():
            arms = [own.filter(query_id=query, arm=arm)["complied"] for arm in ARMS]
            if all(len(values) for values in arms):
                gaps.append(sum(arms[0]) / len(arms[0]) - sum(arms[1]) / len(arms[1]))
        assert pair.height == 2
        assert pair["estimate"].sum() == pytest.approx(np.mean(gaps), abs=1e-12)
        split = pair["train_part"].sum() - pair["deploy_part"].sum()
        assert split == pytest.approx(pair["estimate"].sum(), abs=1e-12)
