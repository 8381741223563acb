"""The wild bootstrap agrees with R, with refits under every sign change, and with sign flips."""

import json
import math
from itertools import product
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from null_studies import CHANGE, null_study
from numpy.typing import NDArray
from scipy.linalg import null_space
from statsmodels.regression.linear_model import WLS

from analysis.bootstrap import BootstrapError, refusal, wild_bootstrap

Array = NDArray[np.float64]
REFERENCE = Path(__file__).parent / "reference"
STORED = json.loads((REFERENCE / "covariance.json").read_text())


def study(seed: int, groups: int, n: int = 60) -> tuple[Array, Array, Array, Array]:
    """Three columns, clusters of unequal sizes and effects, and weights."""
    rng = np.random.default_rng(seed)
    clusters = np.concatenate([np.arange(groups), rng.integers(0, groups, n - groups)])
    X = np.column_stack([np.ones(n), rng.random((n, 2)) < 0.5]).astype(float)
    own = rng.normal(size=(groups, 3))[clusters]
    y = (X * (own + np.array([0, 0.6, 0]))).sum(axis=1) + rng.normal(size=n)
    return X, y, clusters, rng.uniform(0.3, 2.0, n)


def refitted(
    X: Array, y: Array, clusters: Array, weights: Array, contrast: Array, null: float
) -> float:
    """The p-value from one statsmodels fit, with its CR1S, for each of 2^G sign changes."""

    def t_value(outcome: Array) -> float:
        fitted = WLS(outcome, X, weights=weights).fit(
            cov_type="cluster", cov_kwds={"groups": clusters}
        )
        error = math.sqrt(contrast @ fitted.cov_params() @ contrast)
        return abs((contrast @ fitted.params - null) / error)

    start = contrast * null / (contrast @ contrast)
    free = null_space(contrast[None, :])
    bound = X @ start + X @ free @ WLS(y - X @ start, X @ free, weights=weights).fit().params
    seen = t_value(y)
    drawn = [
        t_value(bound + np.array(signs)[clusters] * (y - bound))
        for signs in product((1, -1), repeat=int(clusters.max()) + 1)
    ]
    return float(np.mean(np.array(drawn) >= seen - 1e-9))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", ["six_clusters", "ragged", "fraction", "crossed"])
def test_r_gives_the_same(name: str, weighted: bool) -> None:
    """A loop of `lm` and `vcovCL` over all sign changes, for the first change of the gap."""
    stored = STORED[name]["equal" if weighted else "plain"]
    frame = pl.read_csv(REFERENCE / "data" / f"{name}.csv").drop_nulls("y")
    factors = [c for c in frame.columns if c not in ("query", "wording", "arm", "y")]
    train = (frame["arm"] == "train").to_numpy().astype(float)
    out = [(frame[factor] == "removed").to_numpy().astype(float) for factor in factors]
    X = np.column_stack([np.ones(len(train)), train, *out, *(train * one for one in out)])
    first = next(i for i, term in enumerate(stored["names"]) if term.startswith("train:"))
    equal = frame.select(1 / pl.col("y").len().over("arm", "query")).to_series().to_numpy()
    found = wild_bootstrap(
        X,
        frame["y"].to_numpy().astype(float),
        frame["query"].rank("dense").to_numpy().astype(int),
        equal if weighted else np.ones(len(train)),
        np.eye(X.shape[1])[first],
    )
    assert found.p_value == pytest.approx(stored["wild"]["p_value"], abs=1e-12)
    assert found.draws == stored["wild"]["draws"] == 2**found.clusters
    assert found.statistic == pytest.approx(stored["wild"]["statistic"], rel=1e-9)
    assert found.listed


@pytest.mark.parametrize("null", [0.0, 0.4])
@pytest.mark.parametrize("seed", range(3))
def test_a_refit_for_every_sign_change_gives_the_same(seed: int, null: float) -> None:
    """For a contrast of several coefficients, with weights."""
    X, y, clusters, weights = study(seed, 6 + seed % 2)
    contrast = np.array([0.3, 1.0, -0.5])
    found = wild_bootstrap(X, y, clusters, weights, contrast, null=null)
    assert found.p_value == refitted(X, y, clusters, weights, contrast, null)


@pytest.mark.parametrize("groups", [6, 9, 12])
def test_of_a_mean_it_is_the_sign_flip_test(groups: int) -> None:
    """The share of sign flips of the clusters' values whose sum is as far from 0."""
    values = np.random.default_rng(groups).normal(0.5, 1, groups)
    flips = np.array(list(product((1, -1), repeat=groups)))
    expected = np.mean(np.abs(flips @ values) >= abs(values.sum()) - 1e-12)
    ones = np.ones(groups)
    found = wild_bootstrap(ones[:, None], values, np.arange(groups), ones, [1.0])
    assert found.p_value == expected
    t = values.mean() / (values.std(ddof=1) / math.sqrt(groups))
    assert found.statistic == pytest.approx(t)


def test_above_twelve_clusters_signs_are_drawn() -> None:
    """The p-value is that of all 2^14 within four Monte-Carlo errors, and a generator is needed."""
    values = np.random.default_rng(3).normal(0.4, 1, 14)
    flips = np.array(list(product((1, -1), repeat=14)))
    expected = np.mean(np.abs(flips @ values) >= abs(values.sum()) - 1e-12)
    X, ones = np.ones((14, 1)), np.ones(14)
    found = wild_bootstrap(X, values, np.arange(14), ones, [1.0], rng=np.random.default_rng(0))
    assert abs(found.p_value - expected) < 4 * math.sqrt(expected * (1 - expected) / 9999)
    assert (found.draws, found.listed) == (9999, False)
    with pytest.raises(BootstrapError, match="pass a random generator"):
        wild_bootstrap(X, values, np.arange(14), ones, [1.0])


def test_a_drawn_p_value_is_never_zero() -> None:
    """The data count as one more draw."""
    X, ones = np.ones((40, 1)), np.ones(40)
    values = 5 + np.random.default_rng(0).normal(size=40)
    found = wild_bootstrap(X, values, np.arange(40), ones, [1.0], rng=np.random.default_rng(0))
    assert found.p_value == 1 / 10000


@pytest.mark.parametrize("name", ["six_clusters", "ragged"])
def test_cells_give_what_their_trials_give(name: str) -> None:
    """Means, total weights and counts of like trials: the same p-value and statistic."""
    frame = pl.read_csv(REFERENCE / "data" / f"{name}.csv").with_columns(
        train=(pl.col("arm") == "train").cast(pl.Float64),
        a=(pl.col("a") == "removed").cast(pl.Float64),
        w=1 / pl.len().over("arm", "query"),
        q=pl.col("query").rank("dense").cast(pl.Int64),
    )
    cells = frame.group_by("q", "train", "a").agg(
        pl.col("y").mean(), pl.col("w").sum(), n=pl.len().cast(pl.Float64)
    )

    def run(table: pl.DataFrame, counts: Array | None) -> tuple[float, float | None]:
        train, a = table["train"].to_numpy(), table["a"].to_numpy()
        X = np.column_stack([np.ones(len(a)), train, a, train * a])
        y, q, w = (table[c].to_numpy() for c in ("y", "q", "w"))
        found = wild_bootstrap(X, y.astype(float), q, w, CHANGE, counts=counts)
        return found.p_value, found.statistic

    p_value, statistic = run(frame, None)
    assert run(cells, cells["n"].to_numpy()) == (p_value, pytest.approx(statistic, rel=1e-10))
    assert 0.03 < p_value < 1


def test_the_smallest_p_value_of_six_clusters_is_two_in_64() -> None:
    """However large the effect, with and without noise."""
    X = np.tile([[1.0, 0.0], [1.0, 1.0]], (6, 1))
    clusters, ones = np.repeat(np.arange(6), 2), np.ones(12)
    noise = np.random.default_rng(0).normal(0, 0.01, 12)
    found = wild_bootstrap(X, X[:, 1] + noise, clusters, ones, [0, 1])
    assert (found.p_value, found.draws) == (2 / 64, 64)
    still = wild_bootstrap(X, 0.3 * X[:, 1], clusters, ones, [0, 1])
    assert (still.p_value, still.statistic) == (2 / 64, None)


@pytest.mark.parametrize("level", [0.0, 0.13, 1.0])
def test_outcomes_that_never_vary_have_a_p_value_of_one(level: float) -> None:
    """All refusals, all compliance: no effect, no variance, no test."""
    X, _, clusters, weights = study(0, 6)
    found = wild_bootstrap(X, np.full(60, level), clusters, weights, [0, 1, 0])
    assert (found.p_value, found.statistic) == (1.0, None)


@pytest.mark.parametrize(("clusters", "smallest"), [(5, ".0625"), (4, ".125"), (2, ".5")])
def test_fewer_than_six_clusters_are_refused_with_the_reason(clusters: int, smallest: str) -> None:
    """The smallest p-value they could give; clusters without weight do not count."""
    X, y, groups, weights = study(1, 6)
    weights = np.where(groups < clusters, weights, 0.0)
    with pytest.raises(BootstrapError, match=f"{clusters} clusters .* p-value is \\{smallest}:"):
        wild_bootstrap(X, y, groups, weights, [0, 1, 0])
    assert smallest in (refusal(clusters) or "")
    assert refusal(6) is None


def test_a_contrast_the_data_do_not_speak_of_is_refused() -> None:
    """Two equal columns cannot be told apart; their sum can."""
    X, y, clusters, weights = study(2, 7)
    wide = np.column_stack([X, X[:, 1]])
    for contrast in ([0, 1, 0, 0], [0, 0, 0, 0]):
        with pytest.raises(BootstrapError, match="not estimable"):
            wild_bootstrap(wide, y, clusters, weights, contrast)
    found = wild_bootstrap(wide, y, clusters, weights, [0, 1, 0, 1])
    narrow = wild_bootstrap(X, y, clusters, weights, [0, 1, 0])
    assert (found.p_value, found.clusters) == (narrow.p_value, 7)


def test_order_names_scale_and_empty_rows_change_nothing() -> None:
    """Also a row without weight and without outcome, in a cluster of its own."""
    X, y, clusters, weights = study(3, 7)
    rows = np.random.default_rng(0).permutation(60)
    turned = wild_bootstrap(
        np.vstack([X[rows], np.ones(3)]),
        np.append(y[rows], np.nan),
        np.append(40 - 5 * clusters[rows], 1),
        np.append(50 * weights[rows], 0.0),
        [0, 2, 0],
    )
    straight = wild_bootstrap(X, y, clusters, weights, [0, 1, 0])
    assert turned.p_value == straight.p_value
    assert turned.statistic == pytest.approx(straight.statistic)


def rejections(seed: int, repeats: int, queries: int, samples: int, **shape: bool) -> float:
    """Share of null studies whose p-value is .05 at most."""
    rng = np.random.default_rng(seed)
    rejected = 0
    for _ in range(repeats):
        s = null_study(rng, queries, samples, **shape)
        found = wild_bootstrap(s.X, s.y, s.clusters, s.weights, CHANGE, counts=s.counts)
        rejected += found.p_value <= 0.05
    return rejected / repeats


def test_size_with_six_queries() -> None:
    """400 null studies: 5 % and two Monte-Carlo errors at most, and not none."""
    assert 0.005 <= rejections(1, 400, 6, 20, heterogeneous=True, ragged=True) <= 0.0718


@pytest.mark.slow
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("deploy_zero", [False, True])
@pytest.mark.parametrize("heterogeneous", [False, True])
@pytest.mark.parametrize(("queries", "samples"), [(6, 20), (10, 10)])
def test_size_in_full(
    queries: int, samples: int, heterogeneous: bool, deploy_zero: bool, ragged: bool
) -> None:
    """2000 null studies of each shape: at most .065.

    The bootstrap is not exact: 12,000 ragged studies of each shape gave .049 to .054 with ten
    queries and .035 to .038 with six. With equal counts sign changes tie, and it is well below.
    """
    shape = {"heterogeneous": heterogeneous, "deploy_zero": deploy_zero, "ragged": ragged}
    assert rejections(2, 2000, queries, samples, **shape) <= 0.065
