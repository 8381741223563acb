"""The benchmark of designs: its truth by brute force, its estimators by simulation, its files."""

import importlib
import itertools
import json
import math
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import polars as pl
import pytest

import analysis

KEYS = {
    "add", "log", "and3", "or", "random_median", "random_p10", "worst_false_inert",
    "simple_one_at_a_time_min", "simple_default_min", "fractional_homoscedastic", "coverage",
}  # fmt: skip


def _module(name: str) -> ModuleType:
    folder = str(Path(__file__).parents[1] / "benchmarks")
    sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(folder)


surfaces = _module("surfaces")
designs = _module("designs")


def _written(tmp_path: Path, entries: object) -> Path:
    path = tmp_path / "surfaces.json"
    path.write_text(json.dumps(entries), "utf-8")
    return path


def test_the_truth_is_that_of_a_loop_over_all_prompts() -> None:
    """Simple and averaged effects of a random surface equal sums written out condition by one."""
    rng = np.random.default_rng(4)
    train, deploy = rng.uniform(size=(2, 5, 8))
    surface = surfaces.Surface("loop", ("a", "b", "c"), train, deploy)
    rate = 0.3
    for query, factor in itertools.product(range(5), range(3)):

        def gap(removed: tuple[int, ...], query: int = query) -> float:
            place = sum(2**j for j in range(3) if removed[j])
            return float(train[query, place] - deploy[query, place])

        total = 0.0
        for others in itertools.product((0, 1), repeat=2):
            chance = math.prod(rate if other else 1 - rate for other in others)
            there, away = list(others), list(others)
            there.insert(factor, 0)
            away.insert(factor, 1)
            total += chance * (gap(tuple(away)) - gap(tuple(there)))
        alone = tuple(int(j == factor) for j in range(3))
        assert surface.averaged(rate)[query, factor] == pytest.approx(total, abs=1e-12)
        assert surface.simple()[query, factor] == pytest.approx(gap(alone) - gap((0, 0, 0)))


def test_the_patterns_are_the_published_ones() -> None:
    """Equal z of three designs and the yardstick's error come within 3 % of what is published."""
    for surface in surfaces.patterns():
        here = designs.calibration(surface)
        assert here == pytest.approx(designs.PUBLISHED[surface.name], rel=0.03)


def test_three_needed_and_either_are_what_they_say() -> None:
    """AND3 has a gap only with f0, f1 and f2 there; OR with f0 and one of f1 and f2."""
    _, _, and3, either = surfaces.patterns()
    for place in range(256):
        f0, f1, f2 = (not place >> j & 1 for j in range(3))
        assert (and3.gap[:, place].mean() > 0.1) == (f0 and f1 and f2)
        assert (either.gap[:, place].mean() > 0.1) == (f0 and (f1 or f2))
    assert not and3.averaged(0.25)[:, 3:].any()


def test_random_surfaces_have_rates_of_every_kind() -> None:
    """All four kinds come, every rate is one, and the last kind never fakes in deploy."""
    drawn = list(surfaces.random_surfaces(8, np.random.default_rng(1)))
    assert [len(rates.factors) for rates in drawn] == [6] * 4 + [7] * 4
    for rates in drawn:
        assert rates.deploy.min() >= 0
        assert rates.train.max() <= 1
        assert ("log-odds" in rates.name) == (rates.deploy.max() == 0)


def test_a_file_of_surfaces_says_the_same_in_each_form(tmp_path: Path) -> None:
    """A list by place, an object by names, and names with a rest give the same mean rates."""
    forms = (
        {"factors": 2, "train": [0.3, 0.2, 0.1, 0.05]},
        {"factors": ["f0", "f1"], "train": {"": 0.3, "f0": 0.2, "f1": 0.1, "f1+f0": 0.05}},
        {"factors": 2, "train": {"": 0.3, "f0": 0.2, "f1": 0.1, "else": 0.05}},
    )
    path = _written(tmp_path, [{"name": "x", "deploy": 0, "query_sd": 1.5, **f} for f in forms])
    for rates in surfaces.load_surfaces(path):
        surface = rates.surface()
        assert surface.factors == ("f0", "f1")
        assert surface.train.mean(axis=0) == pytest.approx([0.3, 0.2, 0.1, 0.05], abs=1e-9)
        assert surface.train.std(axis=0).min() > 0.03
        assert not surface.deploy.any()


GOOD = {"name": "x", "factors": 2, "train": [0.3, 0.2, 0.1, 0.05], "deploy": 0.0}


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([], "at least one surface"),
        ([7], "must be an object"),
        ([{"name": "x"}], "no `factors`"),
        ([{**GOOD, "tarin": 1}], "unknown key `tarin`"),
        ([{**GOOD, "factors": 30}], "30 factors: give 2 to"),
        ([{**GOOD, "factors": ["a", "a"]}], "must differ"),
        ([{**GOOD, "train": [0.3, 0.2]}], "2 rates for 4 conditions"),
        ([{**GOOD, "train": [0.3, 0.2, 1.1, 0.0]}], "f1: 1.1 is no rate"),
        ([{**GOOD, "train": {"": 0.3}}], "1 of 4 conditions have a rate"),
        ([{**GOOD, "train": {"f9": 0.3, "else": 0}}], "no factor `f9`"),
        ([{**GOOD, "train": {"f0+f1": 0.3, "f1+f0": 0.3, "else": 0}}], "named twice"),
        ([{**GOOD, "deploy": "none"}], "write a number"),
        ([{**GOOD, "query_sd": -1}], "query_sd is -1"),
    ],
)
def test_a_wrong_file_is_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], entries: object, said: str
) -> None:
    """What is wrong with a file of surfaces is said in one line, and the exit code is 2."""
    path = _written(tmp_path, entries)
    with pytest.raises(SystemExit) as left:
        designs.main(["--surfaces", str(path)])
    message = capsys.readouterr().err
    assert left.value.code == 2
    assert said in message
    assert message.startswith(str(path))
    assert message.count("\n") == 1


def test_a_missing_file_is_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that is not there, and one that is no JSON, exit with 2 as well."""
    (tmp_path / "text.json").write_text("{", "utf-8")
    for name, said in (("none.json", "name a file"), ("text.json", "no JSON")):
        with pytest.raises(SystemExit) as left:
            designs.main(["--surfaces", str(tmp_path / name)])
        assert left.value.code == 2
        assert said in capsys.readouterr().err


def test_exact_moments_are_those_of_simulated_answers() -> None:
    """Means and variances of 2,000 simulated studies agree with the exact ones, both estimands."""
    rng = np.random.default_rng(2)
    surface = surfaces.patterns()[1]
    drawn = designs.draw("mixed", 8, 1200, 12, rng)
    queries = rng.choice(1500, 12, replace=False)
    for linear in (designs.averaged(drawn), designs.simple(drawn)):
        expected, variance = linear.moments(surface, queries)
        estimates = np.zeros((2000, 8))
        for arm, sign in (("train", 1), ("deploy", -1)):
            rates = getattr(surface, arm)[np.ix_(queries, drawn.places)].T
            answers = rng.binomial(drawn.counts[arm], rates, size=(2000, *rates.shape))
            estimates += sign * np.einsum("jcq,scq->sj", linear.weights[arm], answers)
        error = np.sqrt(variance / 2000)
        assert np.all(np.abs(estimates.mean(axis=0) - expected) < 4.5 * error)
        assert estimates.var(axis=0, ddof=1) == pytest.approx(variance, rel=0.15)


def test_estimators_are_the_projects_own() -> None:
    """On one table, averaged and simple effects are those that `analysis.fit` gives."""
    rng = np.random.default_rng(3)
    surface = surfaces.patterns()[1]
    drawn = designs.draw("mixed", 8, 2400, 16, rng)
    frame = designs.trial_frame(surface, drawn, np.arange(16), rng)
    effects = analysis.fit(
        frame, factors=list(surface.factors), outcomes=["y"], weight="w"
    ).effects.filter(pl.col("level") == "removed", pl.col("role") == "primary")
    for estimand, linear in (
        ("gap_effect_averaged", designs.averaged(drawn)),
        ("gap_effect_simple", designs.simple(drawn)),
    ):
        own = np.zeros(8)
        for arm, sign in (("train", 1), ("deploy", -1)):
            for place, query, y in (
                frame.filter(arm=arm).select("place", "query_id", "y").iter_rows()
            ):
                own += sign * y * linear.weights[arm][:, place, query]
        theirs = effects.filter(estimand=estimand)["estimate"].to_list()
        assert own == pytest.approx(theirs, abs=1e-9)


def test_the_yardstick_is_equal_one_at_a_time_trial_by_trial() -> None:
    """With two factors and no spread its variance is 3 x 2 cells' p(1 - p) over their trials."""
    rates = surfaces.MeanRates(
        "x", ("a", "b"), np.array([0.3, 0.2, 0.1, 0.05]), np.array([0.02, 0.04, 0.0, 0.5])
    )
    yard = designs.yardstick(rates.surface())
    assert yard.effects == pytest.approx([0.16 - 0.28, 0.10 - 0.28])
    # 600 trials: 100 in each of the six cells.
    first = (0.3 * 0.7 + 0.02 * 0.98 + 0.2 * 0.8 + 0.04 * 0.96) / 100
    second = (0.3 * 0.7 + 0.02 * 0.98 + 0.1 * 0.9) / 100
    assert yard.variance / 600 == pytest.approx([first, second])


def test_the_last_line_holds_every_figure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A quick run on a surface from outside prints the eleven figures as its last line of JSON."""
    path = _written(
        tmp_path,
        [
            {
                "name": "two needed",
                "factors": ["a", "b", "c", "d", "e", "f"],
                "train": {"": 0.25, "c": 0.25, "d": 0.25, "c+d": 0.25, "else": 0.02},
                "deploy": 0.01,
                "query_sd": 1.0,
                "arm_sd": 0.6,
            }
        ],
    )
    designs.main(["--quick", "--trials", "3000", "--surfaces", str(path)])
    printed = capsys.readouterr().out
    figures = json.loads(printed.splitlines()[-1])
    assert set(figures) == KEYS
    assert "two needed" in printed
    # Four draws: wide bounds, that a wrong estimand or a doubled variance would still leave.
    assert 3.5 < figures["add"] < 6.5
    assert 1.5 < figures["and3"] < 2.7
    assert figures["fractional_homoscedastic"] == pytest.approx(4.5, abs=0.05)
    assert figures["simple_one_at_a_time_min"] > 1.4
