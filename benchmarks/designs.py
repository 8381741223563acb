"""Designs: how many trials each one saves against equal one-at-a-time, where the truth is known.

Four patterns of response with k = 8, and random surfaces of 6 to 12 factors or those of a file.
A ratio of 4 means a quarter of the trials. Prints tables, then one line of JSON with the figures.
What is measured, and how, is said in `--help`.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from surfaces import (
    FORMAT,
    MeanRates,
    Surface,
    SurfaceError,
    conditions,
    law_probabilities,
    load_surfaces,
    patterns,
    random_surfaces,
)

from ablate.planning import allocate
from analysis.intervals import t_interval
from analysis.observations import observe
from analysis.regressions import linear_probability
from variants.designs import DESIGNS

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

ARMS = ("train", "deploy")
LEVELS = ("original", "removed")

METHOD = """\
How it is measured. Every study has the same number of trials (--trials) on 48 queries drawn anew
from the 1,500 of a surface. Conditions come from the project's designs, trials of queries from
its planner. The estimators are linear in the answers: averaged effects by the weighted linear
probability model with the trials' weights (share of the law / realised share within arm; queries
equal within arm), simple ones paired by query. So an estimate's expectation and variance are
exact for each drawn study, and only conditions, queries and their pairing are drawn, many times.
The mean squared error holds the Bernoulli variance, the drawn conditions, whole trials and which
query met which condition; how far 48 queries differ from 1,500 is the same for all designs and
is left out, but for the column that says so. The yardstick, equal one-at-a-time, is exact: nine
(k + 1) conditions with equal trials in both arms, every condition on every query.

  equal z     (effect / RMSE)^2 over the yardstick's, each on its own estimand: averaged effects
              for a design with a random part, simple ones for one-at-a-time. Of the factor that
              is strongest there. Infinite where its simple effect is 0.
  mean z^2    the same for the mean of z^2 over all factors.
  equal RMSE  trials for equal RMSE on the same estimand. One-at-a-time estimates an averaged
              effect with a bias that no number of trials removes, so that this ratio grows with
              the trials. `least` is the factor with the smallest.
  sampled q.  equal z when the 48 queries are a sample of all: what trials cannot buy is in both.
  false inert the largest expected averaged effect of a factor without any, given the conditions
              that a design drew: expected over answers and over which query meets which condition,
              the worst of all draws, factors and patterns. Printed beside it: its mean over the
              draws, and the worst one given which query met which condition as well.
  coverage    95 % intervals of averaged effects (linear_probability, CR1 by query, t(G - 1)) that
              hold the law's effect on the 1,500 queries, over studies of 48 of them.
"""

# Equal one-at-a-time = 1, as published for these patterns: (SE of the yardstick per 1,000 trials,
# mean over factors), then equal z of the strongest factor for three laws of conditions.
PUBLISHED = {
    "ADD": (0.0651, 1.33, 6.04, 4.28),
    "LOG": (0.0706, 1.48, 1.92, 2.84),
    "AND3": (0.0678, 1.80, 0.56, 2.05),
    "OR": (0.0720, 1.80, 3.04, 4.59),
}


@dataclass(frozen=True, slots=True)
class Drawn:
    """The trials of a study: `removed` conditions x k, `counts` of each arm conditions x queries.

    `masses` are the conditions' shares of the law, None where there is none.
    """

    removed: NDArray[np.bool_]
    masses: Floats | None
    counts: Mapping[str, Ints]

    @property
    def places(self) -> Ints:
        """The numbers of the conditions on a surface."""
        return np.asarray(self.removed @ (1 << np.arange(self.removed.shape[1])), dtype=np.int64)

    def toward_law(self, arm: str) -> Floats:
        """Share of the law over realised share within the arm, by condition."""
        assert self.masses is not None, "this design has no law"
        counts = self.counts[arm].sum(axis=1)
        return np.asarray(self.masses * counts.sum() / counts, dtype=np.float64)

    @property
    def trials(self) -> int:
        return int(sum(counts.sum() for counts in self.counts.values()))


@dataclass(frozen=True, slots=True)
class Linear:
    """Effects as linear estimators: of each arm, factors x conditions x queries, for one answer."""

    weights: Mapping[str, Floats]
    drawn: Drawn

    def moments(self, surface: Surface, queries: Ints) -> tuple[Floats, Floats]:
        """Expectation and variance of each factor's estimate, given the study's trials."""
        expected, variance = np.zeros((2, self.drawn.removed.shape[1]))
        for arm, sign in zip(ARMS, (1, -1), strict=True):
            rates = getattr(surface, arm)[np.ix_(queries, self.drawn.places)].T
            times, of_one = self.drawn.counts[arm], self.weights[arm]
            expected += sign * np.einsum("jcq,cq->j", of_one, times * rates)
            variance += np.einsum("jcq,cq->j", of_one**2, times * rates * (1 - rates))
        return expected, variance

    def homoscedastic(self) -> Floats:
        """Variance of each factor's estimate if every answer had variance 1."""
        return np.asarray(
            sum(np.einsum("jcq,cq->j", self.weights[a] ** 2, self.drawn.counts[a]) for a in ARMS)
        )


def draw(
    kind: str,
    k: int,
    trials: int,
    queries: int,
    rng: np.random.Generator,
    options: Mapping[str, Any] | None = None,
) -> Drawn:
    """A study by one of the project's designs, its trials spread as the planner spreads them."""
    factors = {f"f{j}": LEVELS for j in range(k)}
    design = DESIGNS[kind](factors, trials=trials, rng=rng, **(options or {}))
    arms = {"train": design.train_share, "deploy": 1 - design.train_share}
    shares = allocate(design.weights, queries, arms, trials, 1, rng)
    removed = np.array([[c[f] != LEVELS[0] for f in factors] for c in design.conditions])
    counts = {arm: np.array([shares[place, arm] for place in range(len(removed))]) for arm in ARMS}
    masses = np.array(design.masses) if design.masses is not None else None
    return Drawn(removed, masses, counts)


def trial_weights(drawn: Drawn, arm: str) -> Floats:
    """The weight of one trial, conditions x queries: to the law, and queries equal within arm."""
    counts, toward_law = drawn.counts[arm], drawn.toward_law(arm)
    of_query = toward_law @ counts
    weights = toward_law[:, None] / np.where(of_query > 0, of_query, 1.0)[None]
    return np.asarray(weights, dtype=np.float64)


def averaged(drawn: Drawn) -> Linear:
    """The weighted linear probability model; its two arms share no coefficient, so each alone."""
    X = np.column_stack([np.ones(len(drawn.removed)), drawn.removed])
    weights = {}
    for arm in ARMS:
        of_one = trial_weights(drawn, arm)
        gram = (X * (of_one * drawn.counts[arm]).sum(axis=1)[:, None]).T @ X
        weights[arm] = np.linalg.solve(gram, X.T)[1:, :, None] * of_one[None]
    return Linear(weights, drawn)


def simple(drawn: Drawn) -> Linear:
    """Gap of a single removal minus gap of the original, over queries that have all four cells."""
    k = drawn.removed.shape[1]
    places = drawn.places.tolist()
    original = places.index(0)
    singles = [places.index(1 << j) for j in range(k)]
    cells = [drawn.counts[arm][[original, *singles]] > 0 for arm in ARMS]
    both = cells[0] & cells[1]
    common = both[[0]] & both[1:]
    weights = {}
    for arm in ARMS:
        of_one = np.zeros((k, *drawn.counts[arm].shape))
        means = common / np.maximum(common.sum(axis=1), 1)[:, None]
        for j, single in enumerate(singles):
            for place, sign in ((single, 1.0), (original, -1.0)):
                counts = drawn.counts[arm][place]
                of_one[j, place] = sign * means[j] / np.where(counts > 0, counts, 1)
        weights[arm] = of_one
    return Linear(weights, drawn)


@dataclass(frozen=True, slots=True)
class Yardstick:
    """Equal one-at-a-time: the simple effects and their exact variance for one trial, by factor."""

    effects: Floats
    variance: Floats


def yardstick(surface: Surface, queries: Ints | None = None) -> Yardstick:
    """Every condition with the same share of the trials, half in each arm, on every query."""
    k = len(surface.factors)
    singles = 1 << np.arange(k)
    within = np.zeros(1 + k)
    for arm in ARMS:
        rates = getattr(surface, arm)[:, [0, *singles]]
        rates = rates if queries is None else rates[queries]
        within += (rates * (1 - rates)).mean(axis=0)
    return Yardstick(surface.simple().mean(axis=0), 2 * (k + 1) * (within[0] + within[1:]))


@dataclass(frozen=True, slots=True)
class Ratios:
    """One design on one surface against the yardstick; by factor where not said otherwise.

    `z` and `error` are ratios of trials for equal z and equal RMSE on the same estimand,
    `sampled` those for equal z when the queries are a sample; `mean` is for the mean z^2 (a
    number). `strongest` is the factor with the largest effect.
    """

    z: Floats
    error: Floats
    sampled: Floats
    mean: float
    strongest: int
    bias: Floats

    @property
    def best(self) -> float:
        """Equal z of the strongest factor."""
        return float(self.z[self.strongest])


def compare(
    surface: Surface,
    studies: Sequence[tuple[Drawn, Linear, Ints]],
    truth: Floats,
) -> Ratios:
    """A design's drawn studies against the yardstick with as many trials on the same queries.

    `truth` is what the estimators aim at, queries of the surface x k.
    """
    errors, variances, yard, trials = [], [], [], []
    for drawn, estimator, queries in studies:
        expected, variance = estimator.moments(surface, queries)
        errors.append(expected - truth[queries].mean(axis=0))
        variances.append(variance)
        yard.append(yardstick(surface, queries).variance / drawn.trials)
        trials.append(drawn.trials)
    bias = np.mean(errors, axis=0)
    squared = np.mean(variances, axis=0) + np.mean(np.square(errors), axis=0)
    of_yard = np.mean(yard, axis=0)
    aim, seen = _cleared(truth.mean(axis=0)), _cleared(surface.simple().mean(axis=0))
    own, theirs = aim**2 / squared, seen**2 / of_yard
    between = truth.var(axis=0) / len(studies[0][2])
    theirs_between = surface.simple().var(axis=0) / len(studies[0][2])
    with np.errstate(divide="ignore", invalid="ignore"):
        sampled = aim**2 / (squared + between) / (seen**2 / (of_yard + theirs_between))
        return Ratios(
            z=own / theirs,
            # On this estimand the yardstick's error is its variance and what it is off by.
            error=(of_yard + (seen - aim) ** 2) / squared,
            sampled=sampled,
            mean=float(np.divide(own.sum(), theirs.sum())),
            strongest=int(np.argmax(np.abs(aim))),
            bias=bias,
        )


def _cleared(effects: Floats) -> Floats:
    """Effects whose rounding errors are made zeros."""
    return np.where(np.abs(effects) < 1e-9, 0.0, effects)


def studies_of(
    kind: str,
    k: int,
    estimator: str,
    settings: "Settings",
    rng: np.random.Generator,
    number: int,
    population: int,
) -> list[tuple[Drawn, Linear, Ints]]:
    """Drawn studies of a design with their estimators and queries."""
    found = []
    for _ in range(number):
        drawn = draw(kind, k, settings.trials, settings.queries, rng, settings.options(kind))
        queries = rng.choice(population, settings.queries, replace=False)
        linear = {"averaged": averaged, "simple": simple}[estimator](drawn)
        found.append((drawn, linear, queries))
    return found


@dataclass(frozen=True, slots=True)
class Settings:
    """How much is simulated, and options of the default design that are tried out."""

    trials: int
    queries: int
    draws: int
    draws_random: int
    surfaces: int
    coverage: int
    seed: int
    tried: Mapping[str, Any]

    def options(self, kind: str) -> Mapping[str, Any]:
        return self.tried if kind == "mixed" else {}

    def rate(self, k: int) -> float:
        """The default design's probability of a factor away from its original."""
        return float(self.tried.get("rate", min(0.5, 2 / k)))


def calibration(surface: Surface) -> tuple[float, float, float, float]:
    """The figures of PUBLISHED for a surface, by enumeration, within queries, arms half and half.

    SE of the yardstick per 1,000 trials, then equal z of the first factor: one-at-a-time with
    sqrt(k) times a removal's trials on the original, all conditions equally often (the same as
    2^(8-4)), and each factor removed with probability 1/4.
    """
    k = len(surface.factors)
    removed = conditions(k).sum(axis=1)
    laws = [
        np.where(removed == 0, 1.0, np.where(removed == 1, 1.0, 0.0)),
        np.where(removed == 0, math.sqrt(k), np.where(removed == 1, 1.0, 0.0)),
        law_probabilities(k, 0.5),
        law_probabilities(k, 0.25),
    ]
    X = np.column_stack([np.ones(1 << k), conditions(k)])
    squares, errors = [], []
    for law in laws:
        weights = law / law.sum()
        estimator = np.linalg.solve((X * weights[:, None]).T @ X, (X * weights[:, None]).T)
        effects = estimator @ surface.gap.mean(axis=0)
        within = sum(
            (getattr(surface, arm) * (1 - getattr(surface, arm))).mean(axis=0) for arm in ARMS
        )
        per_trial = np.divide(estimator**2, weights, where=weights > 0, out=0 * estimator)
        variance = 2 * per_trial @ within
        squares.append(effects[1] ** 2 / variance[1])
        errors.append(float(np.sqrt(variance[1:] / 1000).mean()))
    root, balanced, light = (float(square / squares[0]) for square in squares[1:])
    return errors[0], root, balanced, light


def print_calibration(surfaces: Iterable[Surface]) -> None:
    print("Patterns: by enumeration, as published -> here (equal z against equal one-at-a-time)")
    names = ("SE of 1,000", "sqrt(k)", "2^(8-4)", "random .25")
    print(f"{'':<6}" + "".join(f"{name:>18}" for name in names))
    for surface in surfaces:
        here = calibration(surface)
        digits = (4, 2, 2, 2)
        cells = (
            f"{a:.{d}f} -> {b:.{d}f}"
            for a, b, d in zip(PUBLISHED[surface.name], here, digits, strict=True)
        )
        print(f"{surface.name:<6}" + "".join(f"{cell:>18}" for cell in cells))
    print()


def false_inert(
    surfaces: Sequence[Surface], studies: Sequence[tuple[Drawn, Linear, Ints]], rate: float
) -> tuple[float, float, float]:
    """Largest false effect: given the conditions, its mean over the draws, and with the queries."""
    worst, mean, realised = 0.0, 0.0, 0.0
    for surface in surfaces:
        truth = surface.averaged(rate)
        inert = np.flatnonzero(np.abs(truth).max(axis=0) < 1e-12)
        if not inert.size:
            continue
        found = []
        for drawn, linear, queries in studies:
            X = np.column_stack([np.ones(len(drawn.removed)), drawn.removed])
            assert drawn.masses is not None, "this design has no law"
            weighted = (X * drawn.masses[:, None]).T
            gaps = surface.gap.mean(axis=0)[drawn.places]
            found.append(np.linalg.solve(weighted @ X, weighted @ gaps)[1:][inert])
            expected = linear.moments(surface, queries)[0][inert]
            realised = max(realised, float(np.abs(expected).max()))
        worst = max(worst, float(np.abs(found).max()))
        mean = max(mean, float(np.abs(np.mean(found, axis=0)).max()))
    return worst, mean, realised


def trial_frame(
    surface: Surface, drawn: Drawn, queries: Ints, rng: np.random.Generator
) -> pl.DataFrame:
    """One study as a table of trials, with an answer `y` drawn for each."""
    columns: dict[str, list[Any]] = {name: [] for name in ("arm", "query_id", "place", "y", "w")}
    for arm in ARMS:
        counts = drawn.counts[arm]
        place, query = np.nonzero(counts)
        times = counts[place, query]
        place, query = np.repeat(place, times), np.repeat(query, times)
        rates = getattr(surface, arm)[queries[query], drawn.places[place]]
        columns["arm"] += [arm] * len(place)
        columns["query_id"].append(query)
        columns["place"].append(place)
        columns["y"].append(rng.random(len(place)) < rates)
        columns["w"].append(drawn.toward_law(arm)[place])
    joined: dict[str, Any] = {
        name: found if name == "arm" else np.concatenate(found) for name, found in columns.items()
    }
    place = joined["place"]
    levels = pl.Enum(LEVELS)
    for j, factor in enumerate(surface.factors):
        values = np.array(LEVELS)[drawn.removed[place, j].astype(int)]
        joined[factor] = pl.Series(values.tolist(), dtype=levels)
    return pl.DataFrame(joined)


def fitted(surface: Surface, frame: pl.DataFrame) -> list[tuple[float, float, float]]:
    """Estimate and bounds of every averaged effect, by the project's own estimator."""
    checked = observe(frame, factors=surface.factors, outcomes=["y"], weight="w")
    fit = linear_probability(checked.frame, "y", checked.terms, weighted=True)
    found = []
    for coefficient in range(len(surface.factors) + 2, len(fit.names)):
        contrast = np.zeros(len(fit.names))
        contrast[coefficient] = 1.0
        estimate, error = fit.contrast(contrast) or (math.nan, math.nan)
        bounds = t_interval(estimate, error, fit.df)
        found.append((estimate, bounds.low, bounds.high))
    return found


def check_estimator(surface: Surface, settings: Settings, rng: np.random.Generator) -> None:
    """Assert that `averaged` gives what analysis.regressions.linear_probability gives."""
    drawn = draw("mixed", 8, settings.trials, settings.queries, rng, settings.options("mixed"))
    queries = rng.choice(len(surface.train), settings.queries, replace=False)
    frame = trial_frame(surface, drawn, queries, rng)
    linear = averaged(drawn)
    own = np.zeros(len(surface.factors))
    for arm, sign in zip(ARMS, (1, -1), strict=True):
        there = frame.filter(pl.col("arm") == arm)
        answers = np.zeros(drawn.counts[arm].shape)
        cells = (there["place"].to_numpy(), there["query_id"].to_numpy())
        np.add.at(answers, cells, there["y"].to_numpy())
        own += sign * np.einsum("jcq,cq->j", linear.weights[arm], answers)
    theirs = [estimate for estimate, *_ in fitted(surface, frame)]
    if not np.allclose(own, theirs, atol=1e-9):
        raise AssertionError(f"the benchmark's estimator gives {own}, the project's {theirs}")


def coverage(
    surfaces: Sequence[Surface], settings: Settings, rng: np.random.Generator
) -> dict[str, float]:
    """Share of 95 % intervals of averaged effects that hold the truth, by pattern."""
    found = {}
    for surface in surfaces:
        k = len(surface.factors)
        truth = surface.averaged(settings.rate(k)).mean(axis=0)
        held = []
        for _ in range(settings.coverage):
            drawn = draw("mixed", k, settings.trials, settings.queries, rng, settings.tried)
            queries = rng.choice(len(surface.train), settings.queries)
            bounds = fitted(surface, trial_frame(surface, drawn, queries, rng))
            held += [low <= t <= high for (_, low, high), t in zip(bounds, truth, strict=True)]
        found[surface.name] = float(np.mean(held))
    return found


HEAD = f"{'':<34}" + "".join(
    f"{name:>12}" for name in ("equal z", "mean z^2", "equal RMSE", "sampled q.", "least RMSE")
)


def print_row(name: str, ratios: Ratios) -> None:
    """One line under HEAD: the strongest factor's ratios, the mean's, and the least factor's."""
    best = ratios.strongest
    figures = (
        ratios.best,
        ratios.mean,
        ratios.error[best],
        ratios.sampled[best],
        ratios.error.min(),
    )
    print(f"{name:<34}" + "".join(f"{figure:>12.2f}" for figure in figures))


def measure_patterns(settings: Settings, rng: np.random.Generator) -> dict[str, float]:
    """Tables of the four patterns; the figures of the last line that they give."""
    four = patterns()
    print_calibration(four)
    check_estimator(four[1], settings, rng)
    k, population = 8, len(four[0].train)
    found: dict[str, float] = {}
    default = studies_of("mixed", k, "averaged", settings, rng, settings.draws, population)
    print(f"Default design, averaged effects ({settings.trials:,} trials)\n{HEAD}")
    for surface in four:
        ratios = compare(surface, default, surface.averaged(settings.rate(k)))
        found[surface.name.lower()] = ratios.best
        print_row(surface.name, ratios)
    of_singles = [(drawn, simple(drawn), queries) for drawn, _, queries in default]
    least = {}
    for kind, title, studies in (
        ("mixed", "Default design", of_singles),
        (
            "one_at_a_time",
            "one_at_a_time (sqrt(k))",
            studies_of("one_at_a_time", k, "simple", settings, rng, settings.draws, population),
        ),
    ):
        print(f"\n{title}, simple effects\n{HEAD}")
        all_ratios = [compare(surface, studies, surface.simple()) for surface in four]
        for surface, ratios in zip(four, all_ratios, strict=True):
            print_row(surface.name, ratios)
        least[kind] = min(ratios.error[ratios.strongest] for ratios in all_ratios)
    worst, mean, realised = false_inert(four, default, settings.rate(k))
    print(
        f"\nInert features, largest false averaged effect over {settings.draws} draws: "
        f"{worst:.4f} given the conditions,\n  {mean:.4f} on average over the draws, "
        f"{realised:.4f} given which query met which condition as well"
    )
    found["worst_false_inert"] = worst
    found["simple_one_at_a_time_min"] = float(least["one_at_a_time"])
    found["simple_default_min"] = float(least["mixed"])
    found["fractional_homoscedastic"] = measure_fractional(four, settings, rng)
    return found


def measure_fractional(
    four: Sequence[Surface], settings: Settings, rng: np.random.Generator
) -> float:
    """The balanced fraction by equal variances, and what that hides."""
    k = len(four[0].factors)
    studies = studies_of(
        "fractional", k, "averaged", settings, rng, settings.draws, len(four[0].train)
    )
    ratio = float(
        np.mean([72 / drawn.trials / linear.homoscedastic() for drawn, linear, _ in studies])
    )
    print(f"\nfractional 2^(8-4), averaged over its own conditions, if all variances were equal: "
          f"{ratio:.2f}\n{HEAD}")  # fmt: skip
    for surface in four:
        print_row(surface.name, compare(surface, studies, surface.averaged(0.5)))
    return ratio


def measure_surfaces(
    surfaces: Iterable[MeanRates], settings: Settings, rng: np.random.Generator
) -> dict[str, float]:
    """Table of the surfaces: the default design's averaged effects and simple ones."""
    print(f"\nSurfaces: the default design, averaged effects; `simple`: its simple effects\n"
          f"{HEAD}{'simple':>12}")  # fmt: skip
    best, means = [], []
    for rates in surfaces:
        surface = rates.surface()
        k, population = len(surface.factors), len(surface.train)
        number = settings.draws_random
        studies = studies_of("mixed", k, "averaged", settings, rng, number, population)
        ratios = compare(surface, studies, surface.averaged(settings.rate(k)))
        of_singles = [(drawn, simple(drawn), queries) for drawn, _, queries in studies]
        own = compare(surface, of_singles, surface.simple())
        figures = (
            ratios.best,
            ratios.mean,
            ratios.error[ratios.strongest],
            ratios.sampled[ratios.strongest],
            ratios.error.min(),
            own.error[own.strongest],
        )
        print(f"{surface.name[:34]:<34}" + "".join(f"{figure:>12.2f}" for figure in figures))
        best.append(ratios.best)
        means.append(ratios.mean)
    print("(inf: its simple effect is 0, so one-at-a-time sees nothing of it)")
    return {
        "random_median": _quantile(best, 0.5),
        "random_p10": _quantile(means, 0.1),
    }


def _quantile(values: Sequence[float], share: float) -> float:
    """The quantile, without interpolation as some are infinite; nan is a surface without effects.

    nan when there are only those.
    """
    order = sorted(value for value in values if not math.isnan(value))
    return order[min(len(order) - 1, int(share * len(order)))] if order else math.nan


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=f"{METHOD}\n{FORMAT}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--surfaces", type=Path, metavar="FILE",
                        help="surfaces to measure instead of the random ones")  # fmt: skip
    parser.add_argument("--trials", type=int, default=6000, help="trials of a study")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="few draws: to see that it runs")
    parser.add_argument("--try", dest="tried", action="append", default=[], metavar="NAME=VALUE",
                        help="an option of the default design: fixed_share=0.4")  # fmt: skip
    return parser.parse_args(given)


def settings_of(given: argparse.Namespace) -> Settings:
    tried = dict(option.partition("=")[::2] for option in given.tried)
    return Settings(
        trials=given.trials,
        queries=48,
        draws=4 if given.quick else 100,
        draws_random=2 if given.quick else 6,
        surfaces=4 if given.quick else 84,
        coverage=2 if given.quick else 150,
        seed=given.seed,
        tried={name: json.loads(value) for name, value in tried.items()},
    )


def main(given: Sequence[str] | None = None) -> None:
    asked = arguments(given)
    settings = settings_of(asked)
    random = random_surfaces(settings.surfaces, np.random.default_rng(settings.seed))
    try:
        others = load_surfaces(asked.surfaces) if asked.surfaces else random
    except SurfaceError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
    rng = np.random.default_rng(settings.seed)
    found = measure_patterns(settings, rng)
    found |= measure_surfaces(others, settings, rng)
    held = coverage(patterns(), settings, rng)
    print("\nCoverage of 95 % intervals of averaged effects, by pattern: "
          + ", ".join(f"{name} {share:.3f}" for name, share in held.items()))  # fmt: skip
    found["coverage"] = float(np.mean(list(held.values())))
    order = (
        "add", "log", "and3", "or", "random_median", "random_p10", "worst_false_inert",
        "simple_one_at_a_time_min", "simple_default_min", "fractional_homoscedastic", "coverage",
    )  # fmt: skip
    print(json.dumps({key: _rounded(found[key]) for key in order}))


def _rounded(value: float) -> float | None:
    """Four digits; None for infinity and nan, which JSON has no number for."""
    return round(value, 4) if math.isfinite(value) else None


if __name__ == "__main__":
    main()
