"""Contrasts: paired by query against scipy's t, two-way against loops and a saturated fit."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import polars as pl
import pytest
from scipy import stats

from analysis.contrasts import Contrast, Group, many_wordings, paired
from analysis.covariance import clustered, two_way

ARMS = ("train", "deploy")


def cells(
    seed: int = 0,
    *,
    queries: int = 8,
    wordings: int = 1,
    groups: Sequence[str] = ("train", "deploy"),
    unbalanced: bool = True,
    alike: float = 0.0,
) -> pl.DataFrame:
    """Cells with a group, query, wording, mean `y` and number of trials.

    Rates differ between queries and wordings; `alike` is the share of cells that are not there.
    """
    rng = np.random.default_rng(seed)
    of_query, of_wording = rng.normal(0, 0.15, queries), rng.normal(0, 0.1, wordings)
    rows = []
    for g, q, w in itertools.product(range(len(groups)), range(queries), range(wordings)):
        n = int(rng.integers(1, 9)) if unbalanced else 4
        rate = np.clip(0.4 + 0.1 * g + of_query[q] * (1 + g) + of_wording[w], 0, 1)
        if rng.random() >= alike:
            rows.append((groups[g], f"q{q}", f"w{w}", rng.binomial(n, rate) / n, n))
    names = {"group": pl.String, "query": pl.String, "wording": pl.String}
    return pl.DataFrame(rows, schema=names | {"y": pl.Float64, "n": pl.Int64}, orient="row")


def contrast(frame: pl.DataFrame, signs: dict[str, float], **options: bool) -> Contrast:
    """The signed sum of the frame's groups."""
    found = paired(
        [Group(sign, frame.filter(pl.col("group") == g), "y") for g, sign in signs.items()],
        **options,
    )
    assert found is not None
    return found


def query_means(frame: pl.DataFrame, group: str) -> dict[str, float]:
    """Mean over the trials of each query, in a loop."""
    sums: dict[str, list[float]] = {}
    for row in frame.filter(pl.col("group") == group, pl.col("y").is_not_null()).iter_rows(
        named=True
    ):
        total = sums.setdefault(row["query"], [0.0, 0.0])
        total[0] += row["y"] * row["n"]
        total[1] += row["n"]
    return {q: a / b for q, (a, b) in sums.items()}


def influences(frame: pl.DataFrame, signs: dict[str, float]) -> dict[tuple[str, str], float]:
    """What each query and wording adds to the estimate beyond its mean, in loops."""
    means = {g: query_means(frame, g) for g in signs}
    common = set.intersection(*(set(m) for m in means.values()))
    found: dict[tuple[str, str], float] = {}
    for group, sign in signs.items():
        of_group = frame.filter(pl.col("group") == group, pl.col("query").is_in(list(common)))
        mean = sum(means[group][q] for q in common) / len(common)
        for row in of_group.iter_rows(named=True):
            trials = of_group.filter(pl.col("query") == row["query"])["n"].to_list()
            part = sign * row["n"] / sum(trials) * (row["y"] - mean) / len(common)
            key = row["query"], row["wording"]
            found[key] = found.get(key, 0.0) + part
    return found


def spread(influence: dict[tuple[str, str], float], by: Sequence[int]) -> float:
    """Sum of squares of the sums of clusters, times G / (G - 1)."""
    sums: dict[tuple[str, ...], float] = {}
    for key, part in influence.items():
        cluster = tuple(key[i] for i in by)
        sums[cluster] = sums.get(cluster, 0.0) + part
    return sum(s * s for s in sums.values()) * len(sums) / (len(sums) - 1)


@pytest.mark.parametrize("seed", range(5))
def test_with_one_wording_it_is_the_paired_t_test(seed: int) -> None:
    """Estimate, error, df, bounds and p-value of unbalanced cells are those of query means."""
    frame = cells(seed)
    train, deploy = (query_means(frame, g) for g in ARMS)
    expected = stats.ttest_rel(*([m[q] for q in sorted(train)] for m in (train, deploy)))
    bounds = expected.confidence_interval(0.95)
    found = contrast(frame, {"train": 1.0, "deploy": -1.0})
    assert found.estimate == pytest.approx(np.mean([train[q] - deploy[q] for q in train]))
    assert found.df == expected.df == 7
    assert found.wordings is None
    assert found.method == "paired by query, t(Q-1)"
    assert found.bounds is not None
    assert found.bounds.p_value == pytest.approx(expected.pvalue)
    assert found.bounds.low == pytest.approx(bounds.low)
    assert found.bounds.high == pytest.approx(bounds.high)
    assert found.trials == tuple(frame.filter(pl.col("group") == g)["n"].sum() for g in ARMS)


def test_four_groups_are_a_t_test_of_differences_of_differences() -> None:
    """A gap effect: signs 1, -1, -1, 1, over the queries that have all four."""
    signs = {"a1": 1.0, "a0": -1.0, "b1": -1.0, "b0": 1.0}
    frame = cells(3, groups=list(signs), alike=0.1)
    means = {g: query_means(frame, g) for g in signs}
    common = sorted(set.intersection(*(set(m) for m in means.values())))
    assert 2 < len(common) < 8
    own = [sum(sign * means[g][q] for g, sign in signs.items()) for q in common]
    found, expected = contrast(frame, signs), stats.ttest_1samp(own, 0)
    assert found.queries == len(common)
    assert found.estimate == pytest.approx(np.mean(own))
    assert found.std_error == pytest.approx(stats.sem(own))
    assert found.bounds is not None
    assert found.bounds.p_value == pytest.approx(expected.pvalue)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_the_two_way_error_is_the_sum_of_three_in_loops(seed: int, missing: float) -> None:
    """V_q + V_w - V_qw of unbalanced cells with holes, with t of the smaller number of clusters."""
    frame = cells(seed, queries=9, wordings=6, alike=missing)
    signs = {"train": 1.0, "deploy": -1.0}
    parts = influences(frame, signs)
    assert sum(parts.values()) == pytest.approx(0, abs=1e-12)
    expected = spread(parts, [0]) + spread(parts, [1]) - spread(parts, [0, 1])
    found = contrast(frame, signs)
    assert found.wordings == 6
    assert found.df == 5
    assert found.method == "paired by query, two-way query x wording, t(min(Q,W)-1)"
    if expected > 0:
        assert not found.clipped
        assert found.std_error == pytest.approx(math.sqrt(expected))
    by_query = contrast(frame, signs, wordings=False)
    assert by_query.estimate == found.estimate
    assert by_query.std_error == pytest.approx(math.sqrt(spread(parts, [0])))


@pytest.mark.parametrize(
    "signs", [{"b": 1.0, "a": -1.0}, {"a": 1.0, "b": -1.0, "c": 0.5, "d": 1.0}]
)
def test_the_two_way_error_is_that_of_the_saturated_regression(signs: dict[str, float]) -> None:
    """With balance a contrast of means is one of cell means, by `covariance.two_way`."""
    frame = cells(4, queries=7, wordings=9, groups=list(signs), unbalanced=False)
    X = np.array([[float(g == other) for other in signs] for g in frame["group"]])
    y, weights = frame["y"].to_numpy(), frame["n"].cast(pl.Float64).to_numpy()
    means = np.array([y[X[:, i] == 1].mean() for i in range(len(signs))])
    query, wording = (
        np.unique(frame[name].to_numpy(), return_inverse=True)[1] for name in ("query", "wording")
    )
    direction = np.array(list(signs.values()))
    # With the contrast as the first coefficient.
    turned = np.linalg.inv(np.vstack([direction, np.eye(len(signs))[1:]]))
    sides = (query, wording, query * 9 + wording)
    V1, V2, V12 = (clustered(X, y - X @ means, side, weights, "CR1").matrix for side in sides)
    found = contrast(frame, signs)
    assert found.estimate == pytest.approx(direction @ means)
    assert found.std_error == pytest.approx(math.sqrt(direction @ (V1 + V2 - V12) @ direction))
    whole = two_way(X @ turned, y - X @ means, query, wording, weights)
    assert not whole.clipped
    assert found.std_error == pytest.approx(math.sqrt(whole.matrix[0, 0]))
    assert found.df == whole.clusters - 1 == 6


@pytest.mark.parametrize("larger", [0, 1])
def test_an_error_below_zero_is_that_of_the_larger_side_and_says_so(larger: int) -> None:
    """Where queries and wordings cancel, the two-way sum is negative: one side alone is taken."""
    # Each deviation of a query and wording is undone by its row and by its column.
    signs = {"train": 1.0, "deploy": -1.0}
    rows = []
    for q, w in itertools.product(range(6), range(6)):
        y = 0.5 + 0.4 * (-1) ** (q + w) + larger * (0.001 * q) + (1 - larger) * 0.001 * w
        y += 0.0001 * (q + w)
        rows += [("train", f"q{q}", f"w{w}", y, 1), ("deploy", f"q{q}", f"w{w}", 0.1, 1)]
    frame = pl.DataFrame(rows, schema=cells().schema, orient="row")
    parts = influences(frame, signs)
    sides = spread(parts, [0]), spread(parts, [1])
    assert sum(sides) - spread(parts, [0, 1]) < 0
    found = contrast(frame, signs)
    assert found.clipped
    assert found.note == "two-way error clipped"
    assert found.std_error == pytest.approx(math.sqrt(max(sides)))
    assert found.df == 5


def test_a_wording_of_its_own_for_every_query_changes_no_error() -> None:
    """Queries and wordings are then the same clusters."""
    frame = cells(2).with_columns(pl.col("query").alias("wording"))
    signs = {"train": 1.0, "deploy": -1.0}
    two, one = contrast(frame, signs), contrast(frame, signs, wordings=False)
    assert two.wordings == 8
    assert two.std_error == pytest.approx(one.std_error)
    assert two.df == one.df


@pytest.mark.parametrize(("wordings", "allowed"), [(4, None), (5, 5)])
def test_wordings_enter_the_error_from_five_on(wordings: int, allowed: int | None) -> None:
    """Fewer say nothing of others."""
    frame = cells(1, wordings=wordings)
    assert many_wordings(frame) == (allowed is not None)
    assert contrast(frame, {"train": 1.0, "deploy": -1.0}).wordings == allowed


def test_a_trial_without_a_wording_leaves_wordings_out() -> None:
    """An error by wordings would count the unnamed as one."""
    frame = cells(1, wordings=6).with_columns(
        wording=pl.when(pl.int_range(pl.len()) == 3).then(None).otherwise(pl.col("wording"))
    )
    assert not many_wordings(frame)
    assert contrast(frame, {"train": 1.0, "deploy": -1.0}).wordings is None


def test_gaps_add_up_to_the_contrast_of_their_groups() -> None:
    """Balanced: gap(b) - gap(a) is the contrast of the four groups, means and parts too."""
    groups = ["a1", "a0", "b1", "b0"]
    frame = cells(7, groups=groups, unbalanced=True)
    one = contrast(frame, {"a1": 1.0, "a0": -1.0})
    other = contrast(frame, {"b1": 1.0, "b0": -1.0})
    both = contrast(frame, {"b1": 1.0, "b0": -1.0, "a1": -1.0, "a0": 1.0})
    assert both.estimate == pytest.approx(other.estimate - one.estimate)
    assert both.means == pytest.approx((*other.means, *one.means))


def test_queries_without_a_group_and_without_grades_are_left_out() -> None:
    """A query that lacks a group counts in none of the means; ungraded cells are not there."""
    frame = cells(4, queries=6)
    holes = (pl.col("query") == "q1") & (pl.col("group") == "deploy")
    lost = frame.with_columns(y=pl.when(holes).then(None).otherwise(pl.col("y")))
    signs = {"train": 1.0, "deploy": -1.0}
    expected = contrast(frame.filter(pl.col("query") != "q1"), signs)
    assert contrast(lost, signs) == contrast(frame.filter(~holes), signs) == expected
    assert expected.queries == 5


@pytest.mark.parametrize("queries", [1, 4])
def test_without_variance_between_queries_there_is_no_error(queries: int) -> None:
    """One query, or queries that agree: an estimate, and nothing of its error."""
    frame = cells(0, queries=queries).with_columns(
        y=pl.when(pl.col("group") == "train").then(0.5).otherwise(0.0)
    )
    found = contrast(frame, {"train": 1.0, "deploy": -1.0})
    assert found.estimate == pytest.approx(0.5)
    assert (found.std_error, found.df, found.bounds) == (None, None, None)


def test_without_common_queries_there_is_no_contrast() -> None:
    """Every query in one arm alone, and no groups at all."""
    frame = cells(0, queries=4)
    odd = pl.col("query").is_in(["q1", "q3"])
    train = Group(1.0, frame.filter(odd, pl.col("group") == "train"), "y")
    deploy = Group(-1.0, frame.filter(~odd, pl.col("group") == "deploy"), "y")
    assert paired([train, deploy]) is None
    assert paired([]) is None
