"""Judges: how far a judge agrees with people, and estimates corrected for its errors.

Takes a judge's verdicts in [0, 1] on every trial and human labels on some, drawn at random with
known probabilities; gives agreement by arm, Rogan-Gladen rates, and the difference estimator and
PPI++ for any linear contrast, with errors by query. Does not know what the verdict is about, nor
how a label was made.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from analysis.intervals import Interval, normal_quantile, t_interval, t_quantile, wilson
from analysis.multiplicity import holm

__all__ = [
    "Agreement",
    "ArmErrors",
    "Coefficient",
    "Corrected",
    "Correction",
    "LabelsError",
    "RoganGladen",
    "Share",
    "Validation",
    "agreement",
    "cohens_kappa",
    "corrected_contrast",
    "corrected_estimate",
    "corrected_gap",
    "corrected_gap_effect",
    "correction",
    "errors_between_arms",
    "krippendorff_alpha",
    "lang_reiczigel",
    "rogan_gladen",
    "rogan_gladen_gap",
    "unvalidated",
    "validation",
]

Numbers = NDArray[np.float64]
Groups = NDArray[np.int64]

ARMS = ("train", "deploy")
NEEDED_LABELS = 50
# Fewer right or wrong verdicts than this among the labels of an arm: an exact test.
FEW = 5
SPREAD = 1e-12
# A judge with sensitivity + specificity - 1 below this says too little to be inverted.
LEAST_YOUDEN = 0.05


class LabelsError(ValueError):
    """Labels that cannot correct a judge; the message names the arm or column and the mend."""


@dataclass(frozen=True, slots=True)
class Validation:
    """The judge's verdicts on n trials, and the labels of some: arrays of length n.

    `judge` in [0, 1]; `label` in [0, 1], NaN where nobody labelled; `train` is true in the train
    arm, false in deploy; `query` numbers the queries from 0; `probability` is the chance that a
    labelled trial had to be labelled.
    """

    judge: Numbers
    label: Numbers
    train: NDArray[np.bool_]
    query: Groups
    probability: Numbers

    @property
    def labelled(self) -> NDArray[np.bool_]:
        return ~np.isnan(self.label)

    def arm(self, arm: str) -> NDArray[np.bool_]:
        return self.train if arm == "train" else ~self.train


@dataclass(frozen=True, slots=True)
class Share:
    """A weighted share of labels with its interval; `worth` is the trials it is worth."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    worth: float


@dataclass(frozen=True, slots=True)
class Coefficient:
    """Agreement beyond chance, at most 1, with its error and 95 % bounds; None where undefined."""

    value: float | None
    std_error: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Agreement:
    """Judge against labels, in one arm or, where `arm` is None, in both.

    Counts and alpha take the labels as they stand; shares and kappa weigh them by 1 / probability.
    """

    arm: str | None
    true_positives: int
    false_negatives: int
    false_positives: int
    true_negatives: int
    sensitivity: Share
    specificity: Share
    kappa: Coefficient
    alpha: Coefficient


@dataclass(frozen=True, slots=True)
class ArmErrors:
    """Test whether the judge errs alike in both arms; differences are train minus deploy.

    `p_value` is the joint one: the smaller of the two after Holm.
    """

    sensitivity: float | None
    specificity: float | None
    p_sensitivity: float | None
    p_specificity: float | None
    p_value: float | None
    method_sensitivity: str
    method_specificity: str


@dataclass(frozen=True, slots=True)
class RoganGladen:
    """A rate, or a difference of rates, freed of the judge's errors; not truncated to [0, 1]."""

    estimate: float | None
    std_error: float | None
    low: float | None
    high: float | None
    note: str | None


@dataclass(frozen=True, slots=True)
class _Inverted:
    """A Rogan-Gladen rate with influence values (n,), interval, and the error no label shows."""

    estimate: float
    influence: Numbers
    interval: Interval
    floor: float


@dataclass(frozen=True, slots=True)
class Correction:
    """Pseudo-outcomes (n,): their mean in an arm is the corrected rate.

    Any estimator that is linear in the outcomes, with errors clustered on query, may be run on
    `values` in place of the verdicts. `lam` is PPI++'s weight of the judge in train and deploy
    (1 for the difference estimator), `labels` the number of labels, `open_to` the variance of a
    label's correction that an arm is open to where its labels show none, else 0.
    """

    values: Numbers
    lam: tuple[float, float]
    labels: tuple[int, int]
    open_to: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Corrected:
    """A corrected contrast with its error by query, Student-t interval and test of 0."""

    estimate: float
    std_error: float | None
    low: float | None
    high: float | None
    statistic: float | None
    df: int
    p_value: float | None
    lam: tuple[float, float]
    labels: tuple[int, int]
    note: str | None


def validation(
    frame: pl.DataFrame, outcome: str, label: str, probability: str | None = None
) -> Validation:
    """Verdicts and labels of a frame with `arm` and `query`; rows without a verdict are left out.

    Labels are taken to be drawn at random within each arm. Were they drawn within strata, such as
    arm x verdict, `probability` names the column with the chance that a trial had to be labelled;
    only labelled rows need it. Raises LabelsError.
    """
    frame = frame.filter(pl.col(outcome).is_not_null(), pl.col("arm").is_in(ARMS))
    judge = frame[outcome].cast(pl.Float64).to_numpy()
    human = frame[label].cast(pl.Float64).fill_null(math.nan).to_numpy()
    train = (frame["arm"] == "train").to_numpy()
    known = ~np.isnan(human)
    if np.any((human[known] < 0) | (human[known] > 1)):
        raise LabelsError(f"column `{label}` holds a label outside [0, 1]: map the labels first")
    for arm, inside in zip(ARMS, (train, ~train), strict=True):
        if not np.any(known & inside):
            raise LabelsError(
                f"column `{label}` has no label in the {arm} arm: label at least "
                f"{NEEDED_LABELS} trials of it, drawn at random"
            )
    chance = np.ones(len(judge))
    if probability is None:
        for inside in (train, ~train):
            chance[inside] = known[inside].mean()
    else:
        chance = frame[probability].cast(pl.Float64).fill_null(math.nan).to_numpy()
        if not np.all((chance[known] > 0) & (chance[known] <= 1)):
            raise LabelsError(
                f"column `{probability}` must be above 0 and at most 1 on every labelled trial: "
                "it is the chance that the trial had to be labelled"
            )
    query = frame["query"].rank("dense").cast(pl.Int64).to_numpy() - 1
    return Validation(judge, human, train, query, chance)


def unvalidated(sample: Validation) -> str | None:
    """The heading of an outcome with fewer than 50 labels in an arm; None where there are more."""
    few = [
        f"{count} in {arm}"
        for arm in ARMS
        if (count := int((sample.labelled & sample.arm(arm)).sum())) < NEEDED_LABELS
    ]
    if not few:
        return None
    return f"unvalidated judge: {' and '.join(few)} labelled, {NEEDED_LABELS} needed in each arm"


def agreement(sample: Validation) -> tuple[Agreement, ...]:
    """Agreement over both arms, in train and in deploy, in this order.

    Verdicts and labels count as positive from .5 on. Labels weigh 1 / probability, so that
    sampling by verdict does not bias sensitivity (Begg and Greenes 1983). Intervals of the shares
    are Wilson's at the number of trials that a share is worth, given its error by query; kappa has
    its asymptotic error by query, alpha a jackknife over queries.
    """
    found = []
    for arm in (None, *ARMS):
        rows = sample.labelled & (sample.arm(arm) if arm else True)
        judge, human = sample.judge[rows] >= 0.5, sample.label[rows] >= 0.5
        weights, query = 1 / sample.probability[rows], sample.query[rows]
        found.append(
            Agreement(
                arm,
                int((judge & human).sum()),
                int((~judge & human).sum()),
                int((judge & ~human).sum()),
                int((~judge & ~human).sum()),
                _share(judge[human], weights[human], query[human]),
                _share(~judge[~human], weights[~human], query[~human]),
                cohens_kappa(judge, human, weights, query),
                krippendorff_alpha(np.column_stack([judge, human]).astype(float), query),
            )
        )
    return tuple(found)


def cohens_kappa(
    first: NDArray[np.generic],
    second: NDArray[np.generic],
    weights: Numbers | None = None,
    clusters: Groups | None = None,
) -> Coefficient:
    """Cohen's kappa of two raters over the same units, any categories.

    The asymptotic error is that of Fleiss, Cohen and Everitt (1969), or, with `clusters`, the sum
    of its influence values by cluster, times G/(G-1), with Student's t. Undefined where only one
    category was used.
    """
    n = len(first)
    share = np.ones(n) / n if weights is None else weights / weights.sum()
    categories, codes = np.unique(np.concatenate([first, second]), return_inverse=True)
    one, two = codes[:n], codes[n:]
    of_one = np.bincount(one, share, minlength=len(categories))
    of_two = np.bincount(two, share, minlength=len(categories))
    seen, expected = float(share[one == two].sum()), float(of_one @ of_two)
    if 1 - expected < SPREAD:
        return Coefficient(None, None, None, None)
    kappa = (seen - expected) / (1 - expected)
    moved = of_two[one] + of_one[two] - 2 * expected
    influence = ((one == two) - seen) * (1 - expected) - (1 - seen) * moved
    error, groups = _error(share * influence / (1 - expected) ** 2, clusters)
    return _coefficient(kappa, error, groups - 1 if clusters is not None else math.inf)


def krippendorff_alpha(ratings: Numbers, clusters: Groups | None = None) -> Coefficient:
    """Krippendorff's alpha for nominal ratings (units, raters), NaN where a rater is missing.

    `1 - D_observed / D_expected` over pairs of ratings of one unit; units with fewer than two are
    left out (Krippendorff 2011). Error and Student-t bounds by the jackknife over units, or over
    clusters of them. Undefined where all ratings are the same.
    """
    paired = (~np.isnan(ratings)).sum(axis=1) >= 2
    ratings = ratings[paired]
    group = np.arange(len(ratings)) if clusters is None else clusters[paired]
    categories = np.unique(ratings[~np.isnan(ratings)])
    counts = (ratings[:, :, None] == categories).sum(axis=1).astype(np.float64)
    sizes = counts.sum(axis=1)
    unlike = (sizes**2 - (counts**2).sum(axis=1)) / np.maximum(sizes - 1, 1)
    codes = np.unique(group, return_inverse=True)[1]
    groups = int(codes.max(initial=-1)) + 1
    of_group = np.zeros((groups, len(categories)))
    np.add.at(of_group, codes, counts)
    left = counts.sum(axis=0) - of_group, unlike.sum() - np.bincount(codes, unlike)
    alpha = _alpha(counts.sum(axis=0), float(unlike.sum()))
    without = [_alpha(totals, float(rest)) for totals, rest in zip(*left, strict=True)]
    known = np.array([a for a in without if a is not None])
    if alpha is None or len(known) < groups or groups < 2:
        return Coefficient(alpha, None, None, None)
    error = math.sqrt((groups - 1) / groups * float(((known - known.mean()) ** 2).sum()))
    return _coefficient(alpha, error or None, groups - 1)


def errors_between_arms(sample: Validation) -> ArmErrors:
    """Whether sensitivity and specificity differ between the arms: such errors make gaps.

    Difference of the weighted shares with its error by query and Student's t; with fewer than
    five right or wrong verdicts in an arm, Fisher's exact test on the trials the shares are worth.
    """
    differences, p_values, methods = [], [], []
    for positive in (True, False):
        arms = [_verdicts(sample, arm, positive) for arm in ARMS]
        difference, p_value, method = _compare(arms)
        differences.append(difference)
        p_values.append(p_value)
        methods.append(method)
    adjusted = [p for p in holm(p_values) if p is not None]
    return ArmErrors(
        differences[0],
        differences[1],
        p_values[0],
        p_values[1],
        min(adjusted, default=None),
        methods[0],
        methods[1],
    )


def lang_reiczigel(
    positives: float, n: float, right1: float, n1: float, right0: float, n0: float
) -> Interval | None:
    """Interval of a rate from `positives` of n verdicts by a judge of unknown sensitivity.

    `right1` of `n1` positive labels and `right0` of `n0` negative ones were met; the three samples
    count as independent. Adjusted Wald limits of Lang and Reiczigel (2014), not truncated; None
    where sensitivity + specificity is about 1 or less.
    """
    z = normal_quantile(0.975)
    p = (positives + z * z / 2) / (n + z * z)
    se, sp = (right1 + 1) / (n1 + 2), (right0 + 1) / (n0 + 2)
    youden = se + sp - 1
    if youden < LEAST_YOUDEN:
        return None
    of_se, of_sp = se * (1 - se) / (n1 + 2), sp * (1 - sp) / (n0 + 2)
    theta = (p + sp - 1) / youden
    variance = p * (1 - p) / (n + z * z) + theta**2 * of_se + (1 - theta) ** 2 * of_sp
    centre = theta + 2 * z * z * (theta * of_se - (1 - theta) * of_sp)
    reach = z * math.sqrt(variance) / youden
    return Interval(centre - reach, centre + reach)


def rogan_gladen(sample: Validation, arm: str) -> RoganGladen:
    """The rate of an arm with the judge's own sensitivity and specificity there.

    `(p + sp - 1) / (se + sp - 1)` (Rogan and Gladen 1978). The error sums influence values by
    query, and where no label shows one takes Wilson's upper limit for it; the interval is that of
    Lang and Reiczigel at the trials that each share is worth.
    Verdicts and labels count as positive from .5 on.
    """
    parts = _inverted(sample, arm)
    if isinstance(parts, str):
        return RoganGladen(None, None, None, None, parts)
    error, _ = _error(parts.influence, sample.query)
    error = math.hypot(error or 0.0, parts.floor) or None
    return RoganGladen(parts.estimate, error, parts.interval.low, parts.interval.high, None)


def rogan_gladen_gap(sample: Validation) -> RoganGladen:
    """The gap of two Rogan-Gladen rates, train minus deploy, each with its own judge errors.

    The error sums influence values by query over both arms. The interval joins the arms' limits
    (Newcombe's square-and-add), and so stays honest where an arm's labels show no error.
    """
    arms = [_inverted(sample, arm) for arm in ARMS]
    one, zero = arms
    if isinstance(one, str) or isinstance(zero, str):
        said = zip(ARMS, arms, strict=True)
        notes = [f"{arm}: {part}" for arm, part in said if isinstance(part, str)]
        return RoganGladen(None, None, None, None, "; ".join(notes))
    gap = one.estimate - zero.estimate
    error, _ = _error(one.influence - zero.influence, sample.query)
    error = math.hypot(error or 0.0, one.floor, zero.floor) or None
    low = gap - math.hypot(one.estimate - one.interval.low, zero.interval.high - zero.estimate)
    high = gap + math.hypot(one.interval.high - one.estimate, zero.estimate - zero.interval.low)
    return RoganGladen(gap, error, low, high, None)


def correction(sample: Validation, method: Literal["ppi", "difference"] = "ppi") -> Correction:
    """Pseudo-outcomes `m + (h - m) / probability` (the second part on labelled trials alone).

    `m = lam' f + c` foretells a label h from the verdict f, in each arm by itself: c is the
    weighted (Hajek) mean of h - lam' f over its labels. The difference estimator has lam' = 1.
    PPI++ takes `lam = cov(h, f) / ((1 + n/N) var f)` over the labels, clipped to [0, 1], for the
    N trials without a label, which is lam' = lam (n + N) / N on all of them (Angelopoulos et al.
    2023, arXiv 2311.01453). The mean of an arm is then their estimator exactly.
    """
    values = np.zeros(len(sample.judge))
    weights, counts, open_to = [], [], []
    for arm in ARMS:
        rows = sample.arm(arm)
        known = rows & sample.labelled
        f, h = sample.judge[known], sample.label[known]
        w = 1 / sample.probability[known]
        lam, slope = 1.0, 1.0
        if method == "ppi":
            lam, slope = _tuned(f, h, w, int(rows.sum()))
        rest = h - slope * f
        centre = float(np.average(rest, weights=w))
        values[rows] = slope * sample.judge[rows] + centre
        values[known] += w * (rest - centre)
        weights.append(lam)
        counts.append(len(h))
        open_to.append(_open_to(rest, w))
    return Correction(
        values, (weights[0], weights[1]), (counts[0], counts[1]), (open_to[0], open_to[1])
    )


def corrected_contrast(
    sample: Validation,
    contrast: Numbers,
    cells: Groups,
    method: Literal["ppi", "difference"] = "ppi",
) -> Corrected:
    """A linear contrast of cell means, sum of a_i y_i, with every y_i freed of judge errors.

    `contrast` (n,) are the a_i: within a cell of one sign, and they add up to the weight of its
    mean; `cells` (n,) number the cells from 0, each within one arm. No error is given where a
    cell of the contrast has fewer than two labels.
    """
    made = correction(sample, method)
    scale = np.bincount(cells, contrast)
    sums = np.bincount(cells, contrast * made.values)
    means = np.divide(sums, scale, out=np.zeros_like(sums), where=scale != 0)
    found = corrected_estimate(sample, made, contrast, made.values - means[cells])
    if np.any((np.bincount(cells, sample.labelled) < 2) & (scale != 0)):
        nothing = (None, None, None, None, found.df, None)
        note = "fewer than two labels in a cell of the contrast"
        return Corrected(found.estimate, *nothing, found.lam, found.labels, note)
    return found


def corrected_estimate(
    sample: Validation, made: Correction, contrast: Numbers, residuals: Numbers
) -> Corrected:
    """The sum of a_i y*_i of pseudo-outcomes y* for any linear estimator, such as least squares.

    `residuals` (n,) are those of y* in the estimator's own model. The part of the labels is a
    Horvitz-Thompson sum of a_i (h_i - m_i) / probability about the arm's Hajek mean, so that it
    needs no likeness of the errors in different conditions. The variance is
    `G/(G-1) sum_q (sum z_i)^2` over queries, with `z_i = a_i residual_i`: for the mean of an arm
    `(f_i - fbar)/N + 1_L (e_i - ebar)/n`. Student's t has as many degrees of freedom as the arm
    with fewer labelled queries in the contrast has of them, less 1. An arm whose labels show no
    error of the judge is given that of a judge who errs as often as Wilson's upper limit for 0
    in n allows: the note says so.
    """
    estimate = float(contrast @ made.values)
    error, _ = _error(contrast * residuals, sample.query)
    variance = (error or 0.0) ** 2
    silent, queries = [], []
    for arm, open_to in zip(ARMS, made.open_to, strict=True):
        rows = sample.arm(arm) & (contrast != 0)
        known = rows & sample.labelled
        if rows.any():
            queries.append(len(np.unique(sample.query[known])))
        if open_to and rows.any():
            variance += open_to * float(((contrast[known] / sample.probability[known]) ** 2).sum())
            silent.append(arm)
    df = min(queries, default=0) - 1
    if variance <= 0 or df < 1:
        nothing = (None, None, None, None, df, None)
        return Corrected(estimate, *nothing, made.lam, made.labels, "no error known")
    test = t_interval(estimate, math.sqrt(variance), df)
    return Corrected(
        estimate,
        math.sqrt(variance),
        test.low,
        test.high,
        test.statistic,
        df,
        test.p_value,
        made.lam,
        made.labels,
        f"no judge error among the labels of {' and '.join(silent)}" if silent else None,
    )


def corrected_gap(
    sample: Validation,
    rows: NDArray[np.bool_] | None = None,
    method: Literal["ppi", "difference"] = "ppi",
) -> Corrected:
    """The gap of the trials in `rows`, a condition's or all, queries counted equally.

    Over queries seen there in both arms. All labels help, also those of other conditions: the
    judge's slope and mean error are those of its arm, and where the errors differ between
    conditions the labels of these trials put it right.
    """
    rows = np.ones(len(sample.judge), dtype=bool) if rows is None else rows
    contrast, cells = _gap_weights(sample, [(rows, 1.0)])
    return corrected_contrast(sample, contrast, cells, method)


def corrected_gap_effect(
    sample: Validation,
    changed: NDArray[np.bool_],
    reference: NDArray[np.bool_],
    method: Literal["ppi", "difference"] = "ppi",
) -> Corrected:
    """gap(changed) - gap(reference) over the queries seen in all four cells, counted equally."""
    contrast, cells = _gap_weights(sample, [(changed, 1.0), (reference, -1.0)])
    return corrected_contrast(sample, contrast, cells, method)


def _gap_weights(
    sample: Validation, parts: list[tuple[NDArray[np.bool_], float]]
) -> tuple[Numbers, Groups]:
    """Contrast weights of signed gaps over their common queries, and the cells they stand in."""
    counted = [
        (rows & sample.arm(arm), sign * (1.0 if arm == "train" else -1.0))
        for rows, sign in parts
        for arm in ARMS
    ]
    total = int(sample.query.max()) + 1
    sizes = [np.bincount(sample.query[rows], minlength=total) for rows, _ in counted]
    common = np.all([size > 0 for size in sizes], axis=0)
    if not common.any():
        raise LabelsError(
            "no query has verdicts in every cell of the contrast: "
            "give trials of the same queries in both arms"
        )
    contrast = np.zeros(len(sample.judge))
    cells = np.zeros(len(sample.judge), dtype=np.int64)
    for number, ((rows, sign), size) in enumerate(zip(counted, sizes, strict=True), 1):
        used = rows & common[sample.query]
        contrast[used] = sign / (common.sum() * size[sample.query[used]])
        cells[used] = number
    return contrast, cells


def _tuned(f: Numbers, h: Numbers, w: Numbers, trials: int) -> tuple[float, float]:
    """PPI++'s lam for the trials without a label, and the slope on all trials that equals it."""
    unlabelled = trials - len(f)
    spread = float(np.average((f - np.average(f, weights=w)) ** 2, weights=w))
    if spread < SPREAD or not unlabelled:
        return 0.0, 0.0
    joint = float(np.average((f - np.average(f, weights=w)) * h, weights=w))
    lam = min(1.0, max(0.0, joint / ((1 + len(f) / unlabelled) * spread)))
    return lam, lam * trials / unlabelled


def _open_to(rest: Numbers, w: Numbers) -> float:
    """u (1 - u) at Wilson's upper limit u of 0 in n, where labels do not vary; else 0.

    0 also where every trial is labelled.
    """
    if np.ptp(rest) > SPREAD or np.all(w <= 1):
        return 0.0
    z = normal_quantile(0.975)
    worth = _kish(w)
    return worth * z * z / (worth + z * z) ** 2


def _kish(w: Numbers) -> float:
    return float(w.sum() ** 2 / (w**2).sum())


def _error(influence: Numbers, clusters: Groups | None) -> tuple[float | None, int]:
    """Standard error of a sum of influence values, by cluster with G/(G-1); None where it is 0."""
    if clusters is None:
        variance, groups = float(influence @ influence), len(influence)
    else:
        _, codes = np.unique(clusters, return_inverse=True)
        sums = np.bincount(codes, influence)
        groups = len(sums)
        variance = float(sums @ sums) * groups / (groups - 1) if groups > 1 else 0.0
    return (math.sqrt(variance) if variance > SPREAD**2 else None), groups


def _coefficient(value: float, error: float | None, df: float) -> Coefficient:
    if error is None:
        return Coefficient(value, None, None, None)
    reach = (normal_quantile(0.975) if math.isinf(df) else t_quantile(0.975, df)) * error
    return Coefficient(value, error, max(-1.0, value - reach), min(1.0, value + reach))


def _alpha(totals: Numbers, unlike: float) -> float | None:
    n = float(totals.sum())
    chance = n * n - float((totals**2).sum())
    return 1 - (n - 1) * unlike / chance if chance > 0 else None


def _share(hits: NDArray[np.bool_], weights: Numbers, query: Groups) -> Share:
    n = len(hits)
    if not n:
        return Share(None, None, None, 0, 0.0)
    value = float(np.average(hits, weights=weights))
    worth = _worth(hits.astype(np.float64), weights, query)
    interval = wilson(value * worth, worth)
    return Share(value, interval.low, interval.high, n, worth)


def _worth(hits: Numbers, weights: Numbers, query: Groups) -> float:
    """Independent trials with the same error as this share by query; Kish's number at 0 and 1."""
    value = float(np.average(hits, weights=weights))
    error, groups = _error(weights / weights.sum() * (hits - value), query)
    if error is None or groups == len(hits):
        # Each trial has a query of its own: no clusters, and no small-sample factor.
        error, _ = _error(weights / weights.sum() * (hits - value), None)
    if error is None:
        return _kish(weights)
    return min(float(len(hits)), value * (1 - value) / error**2)


def _verdicts(
    sample: Validation, arm: str, positive: bool
) -> tuple[NDArray[np.bool_], Numbers, Groups]:
    """Right or wrong on the positive, or negative, labels of an arm, with weights and queries."""
    rows = sample.labelled & sample.arm(arm)
    rows &= (np.nan_to_num(sample.label) >= 0.5) == positive
    right = (sample.judge[rows] >= 0.5) == positive
    return right, 1 / sample.probability[rows], sample.query[rows]


def _compare(
    arms: list[tuple[NDArray[np.bool_], Numbers, Groups]],
) -> tuple[float | None, float | None, str]:
    if any(len(right) == 0 for right, _, _ in arms):
        return None, None, "no labels"
    rates = [float(np.average(right, weights=w)) for right, w, _ in arms]
    difference = rates[0] - rates[1]
    if all(min(right.sum(), (~right).sum()) >= FEW for right, _, _ in arms):
        influence = [
            w / w.sum() * (right - rate) for (right, w, _), rate in zip(arms, rates, strict=True)
        ]
        error, groups = _error(
            np.concatenate([influence[0], -influence[1]]),
            np.concatenate([arms[0][2], arms[1][2]]),
        )
        if error is not None:
            test = t_interval(difference, error, groups - 1)
            return difference, test.p_value, "by query, t(Q-1)"
    from scipy import stats

    table = []
    for (right, w, query), rate in zip(arms, rates, strict=True):
        worth = round(_worth(right.astype(np.float64), w, query))
        hits = round(rate * worth)
        table.append([hits, worth - hits])
    return difference, float(stats.fisher_exact(table).pvalue), "Fisher exact"


def _inverted(sample: Validation, arm: str) -> _Inverted | str:
    """Rogan-Gladen rate of an arm; or why there is none."""
    rows = sample.arm(arm)
    verdict = sample.judge >= 0.5
    kinds = [_verdicts(sample, arm, positive) for positive in (True, False)]
    if any(len(right) == 0 for right, _, _ in kinds):
        return "no label of one kind: sensitivity or specificity is unknown"
    se, sp = (float(np.average(right, weights=w)) for right, w, _ in kinds)
    n1, n0 = (_worth(right.astype(np.float64), w, query) for right, w, query in kinds)
    p = float(verdict[rows].mean())
    trials = _worth(verdict[rows].astype(np.float64), np.ones(int(rows.sum())), sample.query[rows])
    interval = lang_reiczigel(p * trials, trials, se * n1, n1, sp * n0, n0)
    youden = se + sp - 1
    if interval is None or youden < LEAST_YOUDEN:
        return f"sensitivity + specificity - 1 is {youden:.2f}: the judge tells too little"
    theta = (p + sp - 1) / youden
    influence, floor = rows * (verdict - p) / rows.sum(), 0.0
    effects = (-theta, 1 - theta)
    for positive, (right, w, _), effect in zip((True, False), kinds, effects, strict=True):
        inside = sample.labelled & rows & ((np.nan_to_num(sample.label) >= 0.5) == positive)
        influence[inside] += effect * w / w.sum() * (right - np.average(right, weights=w))
        floor += effect**2 * _open_to(right.astype(np.float64), w) / _kish(w)
    return _Inverted(theta, influence / youden, interval, math.sqrt(floor) / youden)
