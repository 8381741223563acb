"""Power: how small a gap effect a plan can detect, before anything is paid.

Takes the planned trials, without outcomes, and a prior; gives the detectable size of every
effect under the estimator that will be used, the power for stated effects, and what is out of
reach. Does not know prices.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from analysis.cells import Cells, Rates, drawn_power, formula_power, solve, thinnest
from analysis.covariance import generalized_inverse
from analysis.effects import AVERAGED, SIMPLE, averaged_contrasts
from analysis.gaps import changed_of, original_of, structural_zeros
from analysis.intervals import t_quantile
from analysis.observations import Observations, Term, treatment
from analysis.regressions import design_matrix, equal_query_weights, queries_at

__all__ = [
    "Detectable",
    "OutOfReach",
    "Prior",
    "detectable",
    "lack_of_fit",
    "out_of_reach",
    "power",
    "queries_needed",
    "trials_needed",
]

POWER = 0.8
NEGLIGIBLE = 1e-12
# With fewer wordings than this nothing is said about others.
FEWEST_WORDINGS = 5
# Below so many expected successes (or failures) in an arm before or after a change, studies are
# drawn instead of using the formula.
FEW = 20
STUDIES = 4000
# A level seen in a smaller share of the trials is not studied.
RARE = 0.015
# How many features are taken to be needed jointly where nothing is known of the lack of fit.
NEEDED = 3
# How far the gaps under several changes may be off the product of what each change keeps.
MOST_JOINT = 4 / 3
# How far the searches for queries and trials go.
MOST_QUERIES = 1000
MOST_TIMES = 1024.0

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Prior:
    """What is expected before the first call: rates, and standard deviations, as proportions.

    `train` and `deploy` are the rates in the original; `after` has those after a change alone,
    where one is expected (changes combine by the shares of the gap and of deploy that each
    keeps). `tau` is the SD of a contrast between queries, `tau_gap` that of the original's gap
    (None: `tau`), `tau_wording` that of a contrast between wordings: half of `tau`, because a
    rewording keeps what a query does not. `deploy_cv` is the SD of the deploy rate between
    queries, over its mean. `lack` is the SD of the gap over conditions about its additive fit,
    as a share of the original's gap (None: `lack_of_fit` at the design's rate).
    """

    train: float = 0.13
    deploy: float = 0.01
    tau: float = 0.1
    tau_gap: float | None = None
    tau_wording: float = 0.05
    deploy_cv: float = 0.5
    lack: float | None = None
    after: Mapping[Term, tuple[float, float]] = field(default_factory=dict)

    @property
    def gap(self) -> float:
        return self.train - self.deploy

    @property
    def differences(self) -> float:
        """SD of the original's gap between queries."""
        return self.tau if self.tau_gap is None else self.tau_gap

    def kept(self, term: Term) -> tuple[float, float]:
        """Shares of the deploy rate and of the gap that a change keeps."""
        if term not in self.after:
            return 1.0, 1.0
        train, deploy = self.after[term]
        gap = (train - deploy) / self.gap if self.gap else 1.0
        return deploy / self.deploy if self.deploy else 1.0, gap


@dataclass(frozen=True, slots=True)
class Detectable:
    """The smallest true effect found with 80 % power in a two-sided test at 5 %; proportions.

    `alike` holds when queries respond alike, `size` when they differ as the prior says (both for
    these wordings), `any_wording` for other wordings as well: t(min(queries, wordings) - 1), and
    None with fewer than five. All are None when the plan cannot estimate the effect. `term` is
    None for the baseline gap. Variances: `within` of the trials; `sampled`, that the draw of
    conditions adds, and `aliased`, the part of it that no error shows, because all queries share
    the conditions. `seen` is the share of the trials that have the level.
    """

    estimand: str
    term: Term | None
    trials: int
    queries: int
    within: float | None
    tau: float
    wordings: int = 1
    tau_wording: float = 0.0
    sampled: float = 0.0
    aliased: float = 0.0
    seen: float = 1.0
    prior: Prior = field(default_factory=Prior, repr=False, compare=False)
    cells: Cells | None = field(default=None, repr=False, compare=False)

    @property
    def alike(self) -> float | None:
        return None if self.within is None else _reach(self.queries - 1) * self.within**0.5

    @property
    def size(self) -> float | None:
        variance = self._variance
        return None if variance is None else _reach(self.queries - 1) * variance**0.5

    @property
    def any_wording(self) -> float | None:
        variance = self._variance
        if variance is None or self.wordings < FEWEST_WORDINGS:
            return None
        variance += self.tau_wording**2 / self.wordings
        return float(_reach(min(self.queries, self.wordings) - 1) * variance**0.5)

    @property
    def any_condition(self) -> float | None:
        """As `size`, with the variance from the draw of conditions in it."""
        variance = self._variance
        if variance is None:
            return None
        return float(_reach(self.queries - 1) * (variance + self.sampled) ** 0.5)

    def trials_for(self, target: float) -> int | None:
        """Trials of this design that make `size` the target; None when more queries are needed."""
        if self.within is None:
            return None
        room = (target / _reach(self.queries - 1)) ** 2 - self.tau**2 / self.queries
        if room <= 0:
            return None
        return int(np.ceil(self.trials * self.within / room))

    def queries_for(self, target: float) -> int | None:
        """Queries, each with as many trials as planned, that make `size` the target."""
        variance = self._variance
        if variance is None or target <= 0:
            return None
        needed = variance * self.queries / target**2

        def enough(queries: int) -> bool:
            return _reach(queries - 1) ** 2 * needed <= queries

        most = 2
        while not enough(most):
            most *= 2
        return _least(enough, 2, most)

    @property
    def _variance(self) -> float | None:
        return None if self.within is None else self.within + self.tau**2 / self.queries


@dataclass(frozen=True, slots=True)
class OutOfReach:
    """An effect that the plan does not study: `rare`, or not detectable even at its largest."""

    effect: Detectable
    rare: bool


def detectable(
    observations: Observations, prior: Prior, inclusion: Mapping[str, float] | None = None
) -> tuple[Detectable, ...]:
    """Detectable size of the baseline gap and of every simple and averaged effect.

    `Var = sum a_i^2 v_i + tau^2 / Q` with the weights a_i that the estimator gives to the trials
    and v_i = p(1-p) of their arm, as if no change had an effect but those that the prior states:
    a cautious value, because changes that lower the gap lower the variance too. Structural zeros
    are left out. `inclusion` has the chance with which a condition_id came into the design;
    others were chosen. Without it, conditions with two or more changes count as drawn at random.
    """
    return (
        _baseline(observations, prior),
        *_simple(observations, prior),
        *_averaged(observations, prior, inclusion),
    )


def power(
    effect_of: Detectable,
    effect: float,
    rng: np.random.Generator | None = None,
    studies: int = STUDIES,
) -> float | None:
    """Chance that a two-sided test at 5 % rejects when the true effect is `effect`.

    The rates after the change are those that the prior states for it, else those that make the
    effect, so a change that takes the gap away takes its variance away too. By the noncentral t;
    near zero rates by `studies` drawn with `rng` (without one always by the formula, which may
    then be ten points off). None when the plan cannot estimate the effect. An effect larger than
    the gap is taken as if rates went that far.
    """
    if effect_of.within is None or effect_of.cells is None:
        return None
    return _power(effect_of, effect_of.cells, effect, rng, studies)


def queries_needed(
    effect_of: Detectable,
    effect: float,
    goal: float = POWER,
    rng: np.random.Generator | None = None,
) -> int | None:
    """Fewest queries with the planned trials each that give the power; None above MOST_QUERIES."""
    cells = effect_of.cells
    if effect_of.within is None or cells is None:
        return None
    seed = None if rng is None else int(rng.integers(2**63))

    def enough(queries: int) -> bool:
        more = cells.of_queries(queries)
        return _power(effect_of, more, effect, _again(seed), STUDIES) >= goal

    return _least(enough, 2, MOST_QUERIES) if enough(MOST_QUERIES) else None


def trials_needed(
    effect_of: Detectable,
    effect: float,
    goal: float = POWER,
    rng: np.random.Generator | None = None,
) -> int | None:
    """Trials of this design on these queries that give the power, to 2 %; None if none suffice.

    None says that it takes more queries: `queries_needed` says how many.
    """
    cells = effect_of.cells
    if effect_of.within is None or cells is None:
        return None
    seed = None if rng is None else int(rng.integers(2**63))

    def enough(step: int) -> bool:
        more = replace(cells, trials=cells.trials * 1.02**step)
        return _power(effect_of, more, effect, _again(seed), STUDIES) >= goal

    most = math.ceil(math.log(MOST_TIMES, 1.02))
    if not enough(most):
        return None
    return math.ceil(effect_of.trials * 1.02 ** _least(enough, -most, most))


def out_of_reach(sizes: Sequence[Detectable], prior: Prior) -> tuple[OutOfReach, ...]:
    """Effects that could not be seen even if the change took the whole gap, and rare levels.

    A level is rare in less than 1.5 % of the trials. Effects that the plan cannot estimate at all
    are not among them.
    """
    found = []
    for effect in sizes:
        if effect.term is None or effect.size is None:
            continue
        if effect.seen < RARE or effect.size > abs(prior.gap):
            found.append(OutOfReach(effect, effect.seen < RARE))
    return tuple(found)


def lack_of_fit(rate: float, needed: int = 3) -> float:
    """SD of a gap about its additive fit, as a share of the gap, when features are needed jointly.

    The gap is 1 with all `needed` features at their reference, else 0, and each is away from it
    with probability `rate`. With q = 1 - rate and s features its variance over the law is
    q^s (1 - q^s); the s slopes, -q^(s-1) each, explain s rate q q^(2s-2) of it. Three features at
    a rate of 1/4 (eight factors) leave .257.
    """
    q = 1 - rate
    left = q**needed * (1 - q**needed) - needed * rate * q ** (2 * needed - 1)
    return float(max(left, 0.0) ** 0.5)


def _lacks(changes: NDArray[np.int64], factors: int, rate: float, needed: int) -> Array:
    """Mean squared lack of fit at so many changes of `factors`, over which of them are needed.

    At n needed ones away the fit is q^s + s rate q^(s-1) - n q^(s-1), and the gap 1 or 0: what
    lies far from the original is fitted worst.
    """
    q, n = 1 - rate, np.arange(needed + 1)
    fitted = q**needed + (needed * rate - n) * q ** (needed - 1)
    squared = ((n == 0) - fitted) ** 2
    # Hypergeometric: the chance that n of the changed features are among the needed ones.
    ways = np.array(
        [
            [math.comb(needed, i) * math.comb(factors - needed, m - i) if m >= i else 0 for i in n]
            for m in range(factors + 1)
        ]
    )
    chances = ways / ways.sum(axis=1, keepdims=True)
    found: Array = (chances @ squared)[changes]
    return found


def _reach(df: int) -> float:
    return t_quantile(0.975, df) + t_quantile(POWER, df)


def _again(seed: int | None) -> np.random.Generator | None:
    """The same draws for every step of a search, so that it meets no step back by chance."""
    return None if seed is None else np.random.default_rng(seed)


def _least(enough: Callable[[int], bool], low: int, high: int) -> int:
    """The smallest number that is enough, when `high` is and all above one that is are."""
    while low < high:
        middle = (low + high) // 2
        if enough(middle):
            high = middle
        else:
            low = middle + 1
    return high


def _power(
    effect_of: Detectable,
    cells: Cells,
    effect: float,
    rng: np.random.Generator | None,
    studies: int,
) -> float:
    rates = _rates(effect_of, cells, effect)
    if rng is None or thinnest(cells, rates) >= FEW:
        return formula_power(cells, rates, effect)
    return drawn_power(cells, rates, effect, rng, studies)


def _rates(effect_of: Detectable, cells: Cells, effect: float) -> Rates:
    """Rates after the change, and queries whose contrasts differ by `tau`.

    The rates are those that the prior states for this change, else those that make the effect.
    The gap of a query's changed cells differs from the mean by the same share as that of its
    unchanged ones; how much the two go together is what makes their contrast differ by `tau`.
    """
    prior, term = effect_of.prior, effect_of.term
    a = cells.weights()
    in_gap = a * cells.gap * cells.train
    before, after = float(in_gap[~cells.changed].sum()), float(in_gap[cells.changed].sum())
    base_kept, gap_kept, gap_added, joint_kept = 1.0, 1.0, 0.0, 1.0
    if term is not None and term in prior.after:
        base_kept, gap_kept = prior.kept(term)
        base = float(np.sum(a * cells.base * np.where(cells.changed, base_kept, 1.0)))
        kept = in_gap * np.where(cells.changed, gap_kept, 1.0)
        joint = float(kept[cells.joint].sum())
        # What several changes do together is a guess: it gives way to the effect that is stated.
        if abs(joint) > NEGLIGIBLE:
            joint_kept = (effect - base - float(kept[~cells.joint].sum())) / joint
            joint_kept = min(MOST_JOINT, max(1 / MOST_JOINT, joint_kept))
    elif abs(after) > NEGLIGIBLE:
        gap_kept = (effect - before) / after
    else:
        changed = float(np.sum((a * cells.train)[cells.changed]))
        gap_added = (effect - before) / max(changed, NEGLIGIBLE)
    shown = effect_of.sampled - effect_of.aliased
    share = prior.differences / abs(prior.gap) if prior.gap else 0.0
    share, alike = _heterogeneity(
        effect_of.tau, share * before, share * abs(gap_kept) * after, share
    )
    return Rates(
        base_kept=base_kept,
        gap_kept=gap_kept,
        gap_added=gap_added,
        joint_kept=joint_kept,
        base_spread=prior.deploy_cv if effect_of.tau else 0.0,
        gap_spread=share,
        alike=alike,
        reference=(prior.deploy, prior.gap),
        sampled=effect_of.sampled,
        # Stated changes make a surface of their own, whose lack of fit is in the scores already.
        shown=0.0 if prior.after else shown * effect_of.queries / cells.queries,
    )


def _heterogeneity(tau: float, before: float, after: float, share: float) -> tuple[float, float]:
    """Spread and correlation at which a contrast of SDs `before` and `after` has SD `tau`."""
    product = 2 * before * after
    alike = (tau**2 - before**2 - after**2) / product if product else 0.0
    alike = min(1.0, max(-1.0, alike))
    reached = max(0.0, before**2 + after**2 + alike * product) ** 0.5
    if abs(reached - tau) <= 0.1 * max(abs(before), abs(after)):
        return share, alike
    # No going together makes it: the spreads themselves must be larger, or smaller.
    return share * tau / reached if reached else 0.0, alike


def _baseline(observations: Observations, prior: Prior) -> Detectable:
    here = original_of(observations).with_columns(changed=pl.col("arm") == "train")
    cells = _of_means(_in_both(here, ["arm"]), observations.terms, None, prior)
    wordings = _wordings(here, here["changed"].to_numpy())
    return _detectable("gap", None, observations, here, cells, prior, wordings)


def _simple(observations: Observations, prior: Prior) -> Iterator[Detectable]:
    zeros = structural_zeros(observations.frame)
    before = original_of(observations).with_columns(changed=False)
    away = pl.sum_horizontal(
        (pl.col(f).cast(pl.String) != levels[0]).fill_null(False)
        for f, levels in observations.levels.items()
    )
    singles = replace(observations, frame=observations.frame.filter(away == 1))
    for term in observations.terms:
        after = changed_of(singles, term).with_columns(changed=True)
        if set(after["condition"].unique()) & zeros:
            continue
        here = pl.concat([before, after])
        cells = _of_means(_in_both(here, ["arm", "changed"]), observations.terms, term, prior)
        wordings = _wordings(here, here["changed"].to_numpy())
        yield _detectable(SIMPLE, term, observations, here, cells, prior, wordings)


def _in_both(frame: pl.DataFrame, sides: Sequence[str]) -> pl.DataFrame:
    """The trials of the queries that have some on every side."""
    count = 2 ** len(sides)
    queries = frame.group_by("query").agg(pl.struct(sides).n_unique().alias("n"))
    return frame.join(queries.filter(pl.col("n") == count), on="query", how="semi")


def _of_means(
    frame: pl.DataFrame, terms: Sequence[Term], term: Term | None, prior: Prior
) -> Cells | None:
    """The cells of a contrast of means over queries, each query counted once."""
    if frame["query"].n_unique() < 2:
        return None
    grouped = _grouped(frame, ["arm", "changed"])
    train, changed = (grouped["arm"] == "train").to_numpy(), grouped["changed"].to_numpy()
    sides = [~train & ~changed, train & ~changed, ~train & changed, train & changed]
    there = [k for k, side in enumerate(sides) if side.any()]
    base, gap = _expected(treatment(grouped, terms), terms, term, prior)
    sign = np.array([1.0, -1.0, -1.0, 1.0]) if term is not None else np.array([-1.0, 1, -1, 1])
    X, share = np.column_stack([sides[k] for k in there]).astype(float), np.ones(grouped.height)
    return Cells(
        X=X,
        share=share,
        trials=grouped["n"].cast(pl.Float64).to_numpy(),
        query=_numbers(grouped),
        train=train,
        changed=changed,
        joint=np.zeros(len(changed), dtype=bool),
        base=base,
        gap=gap,
        contrast=sign[there],
        solution=solve(X, share),
    )


def _averaged(
    observations: Observations, prior: Prior, inclusion: Mapping[str, float] | None
) -> Iterator[Detectable]:
    frame = observations.frame.filter(pl.col("weight").is_not_null())
    if frame.is_empty():
        return
    terms = observations.terms
    grouped = _grouped(frame, ["condition", "arm"])
    X, at_level = design_matrix(grouped, terms), treatment(grouped, terms)
    trials_at = treatment(frame, terms) == 1
    share = equal_query_weights(grouped)
    told, solution = _told_apart(X), solve(X, share)
    query, train = _numbers(grouped), (grouped["arm"] == "train").to_numpy()
    sampling = _Sampling.of(grouped, at_level, len(observations.levels), inclusion, prior)
    contrasts = averaged_contrasts(grouped, terms, structural_zeros(frame))
    for i, (term, parts) in enumerate(zip(terms, contrasts, strict=True)):
        if parts.structural_zero:
            continue
        cells = None
        if query[-1] and queries_at(frame, term) > 1 and told(parts.gap):
            base, gap = _expected(at_level, terms, term, prior)
            cells = Cells(
                X=X,
                share=share,
                trials=grouped["n"].cast(pl.Float64).to_numpy(),
                query=query,
                train=train,
                changed=at_level[:, i] == 1,
                joint=at_level.sum(axis=1) > 1,
                base=base,
                gap=gap,
                contrast=parts.gap,
                solution=solution,
            )
        wordings = _wordings(frame, trials_at[:, i])
        yield _detectable(AVERAGED, term, observations, frame, cells, prior, wordings, sampling)


def _detectable(
    estimand: str,
    term: Term | None,
    observations: Observations,
    here: pl.DataFrame,
    cells: Cells | None,
    prior: Prior,
    wordings: int,
    sampling: "_Sampling | None" = None,
) -> Detectable:
    within, sampled, aliased = None, 0.0, 0.0
    if cells is not None:
        a = cells.weights()
        kept = (1.0, 1.0) if term is None else prior.kept(term)
        base = cells.base * np.where(cells.changed, kept[0], 1.0)
        rate = np.clip(base + cells.gap * cells.train * np.where(cells.changed, kept[1], 1.0), 0, 1)
        within = float(np.sum(a * a * rate * (1 - rate) / cells.trials))
        if sampling is not None:
            sampled, aliased = sampling.variances(a * cells.train)
    overall = observations.frame
    seen = 1.0
    if term is not None:
        seen = int((overall[term.factor].cast(pl.String) == term.level).sum()) / overall.height
    queries = cells.queries if cells is not None else here["query"].n_unique()
    return Detectable(
        estimand=estimand,
        term=term,
        trials=(here if estimand == AVERAGED else overall).height,
        queries=queries,
        within=within,
        tau=prior.differences if term is None else prior.tau,
        wordings=wordings,
        tau_wording=prior.tau_wording,
        sampled=sampled,
        aliased=aliased,
        seen=seen,
        prior=prior,
        cells=cells,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Sampling:
    """Which cells are of the same condition, and how uncertain the draw makes each one.

    A condition that was drawn adds its lack of fit times its weight in the estimate, for all
    queries that have it alike. `variance` is the mean square of that lack, times the chance that
    the condition was left out: what is there for sure stands for itself.
    """

    condition: NDArray[np.int64]
    shared: NDArray[np.int64]
    variance: Array

    @classmethod
    def of(
        cls,
        grouped: pl.DataFrame,
        at_level: Array,
        factors: int,
        inclusion: Mapping[str, float] | None,
        prior: Prior,
    ) -> "_Sampling":
        changes = at_level.sum(axis=1).astype(np.int64)
        if inclusion is None:
            left_out = (changes > 1).astype(np.float64)
        else:
            left_out = np.array([1 - inclusion.get(c, 1.0) for c in grouped["condition_id"]])
        # How often a factor is away from its reference in the law that the weights lead to.
        share = equal_query_weights(grouped)
        rate = float(share @ changes) / float(share.sum()) / factors
        needed = min(NEEDED, factors)
        usual = lack_of_fit(rate, needed)
        scale = 1.0 if prior.lack is None or not usual else prior.lack / usual
        lacks = _lacks(changes, factors, rate, needed) * (scale * prior.gap) ** 2
        pairs = pl.struct("condition", "query").rank("dense").alias("pair")
        numbers = grouped.select(pl.col("condition").rank("dense"), pairs).cast(pl.Int64) - 1
        return cls(numbers["condition"].to_numpy(), numbers["pair"].to_numpy(), lacks * left_out)

    def variances(self, a: Array) -> tuple[float, float]:
        """All the variance that sampling adds, and the part that the errors by query miss."""
        a = a * self.variance**0.5
        whole = float(np.sum(np.bincount(self.condition, a) ** 2))
        held = float(np.sum(np.bincount(self.shared, a) ** 2))
        return whole, max(0.0, whole - held)


def _grouped(frame: pl.DataFrame, keys: Sequence[str]) -> pl.DataFrame:
    """One row per query and `keys`, sorted by query, with its trials and their mean weight."""
    weight = (pl.col("weight") * pl.col("n")).sum() / pl.col("n").sum()
    return (
        frame.group_by("query", *keys, maintain_order=True)
        .agg(pl.exclude("weight", "n").first(), weight.alias("weight"), pl.col("n").sum())
        .sort("query", maintain_order=True)
    )


def _numbers(grouped: pl.DataFrame) -> NDArray[np.int64]:
    return (grouped["query"].rank("dense") - 1).cast(pl.Int64).to_numpy()


def _expected(
    at_level: Array, terms: Sequence[Term], but: Term | None, prior: Prior
) -> tuple[Array, Array]:
    """Base and gap of cells at these levels, as if the change `but` did nothing."""
    base, gap = np.full(len(at_level), prior.deploy), np.full(len(at_level), prior.gap)
    for i, term in enumerate(terms):
        if term != but and term in prior.after:
            base_kept, gap_kept = prior.kept(term)
            base = base * np.where(at_level[:, i] == 1, base_kept, 1.0)
            gap = gap * np.where(at_level[:, i] == 1, gap_kept, 1.0)
    return base, gap


def _told_apart(X: Array) -> Callable[[Array], bool]:
    """Whether a contrast lies in the row space of X, for many contrasts at the cost of one."""
    gram = X.T @ X
    projection = gram @ generalized_inverse(gram)
    return lambda contrast: bool(np.allclose(projection @ contrast, contrast, atol=1e-6))


def _wordings(here: pl.DataFrame, changed: NDArray[np.bool_]) -> int:
    """Wordings in the arm and side of the change that has fewest of them."""
    train = (here["arm"] == "train").to_numpy()
    number = (here["wording"].rank("dense").fill_null(1) - 1).cast(pl.Int64).to_numpy()
    side = 2 * train + changed
    found = [len(np.unique(number[side == k])) for k in range(4)]
    return min((count for count in found if count), default=0)
