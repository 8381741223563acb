"""The page of the published evidence, as Markdown, with its forest plot as SVG.

Takes reviews; gives text. Does not know how to judge a contrast: the review does.
"""

import textwrap
from collections.abc import Iterator, Sequence
from importlib.resources import files

from ablate.published.review import CORRELATIONS, MARGIN, Link, Regression, Review
from analysis.counts import Count, trials_needed
from analysis.plots import Mark, forest
from analysis.synthesis import Spread
from analysis.tables import interval, markdown_table, p_value, points

__all__ = ["FIGURE", "figure", "page"]

FIGURE = "published.svg"


def page(reviews: Sequence[Review], *, shipped: bool) -> str:
    """The whole page; `shipped` adds where the shipped counts come from and how they are coded."""
    first, *rest = reviews
    sections = [
        "# What the published ablations establish" if shipped else "# What these counts say"
    ]
    if shipped:
        sections.append((files("ablate") / "published" / "source.md").read_text("utf-8").strip())
    sections += _main(first)
    for review in rest:
        sections += _short(review)
    if first.alone:
        sections += _alone(first)
    return "\n\n".join(sections) + "\n"


def figure(review: Review) -> str:
    """The forest plot: each condition's gap minus the reference's."""
    marks = [
        Mark(textwrap.shorten(d.count.condition, 56, placeholder=" …"), d.estimate, d.low, d.high)
        for d in review.unpaired
    ]
    return forest(
        marks,
        title=f"Difference of each condition's gap from the default's, {review.model or 'counts'}",
        axis="difference of the gap from the default's, points (95 % interval, unpaired)",
        label_width=400,
        standalone=True,
    )


def _main(review: Review) -> Iterator[str]:
    yield "## In short"
    yield "\n".join(f"- {line}" for line in summary(review))
    if not review.has_gap:
        yield _no_gap(review)
    yield f"![Forest plot of the differences]({FIGURE})"
    yield f"## Each condition{_of(review)}"
    yield (
        "Gap: complies in train minus complies in deploy, in points, with one standard error "
        "(unpaired). Difference: from the default's gap, with its 95 % interval. p: two-sided z; "
        "Holm: corrected for the number of conditions; same: TOST p-value that the difference lies "
        f"within {points(MARGIN, sign=False)} points. All at correlation 0. Deploy or train at 0 "
        "or 100 % is marked `b`: its error is too small."
    )
    if review.has_gap and review.reference.bounds[0] < 2 * MARGIN:
        yield (
            f"A claim that a change leaves the gap the same needs a gap that is surely above twice "
            f"the margin. The default's lower bound is {points(review.reference.bounds[0])}: these "
            "data could not have borne such a claim, whatever the conditions had shown."
        )
    yield _contrast_table(review)
    yield "## What the unknown pairing would change"
    yield (
        "Conditions may share their queries, of which a table of counts says nothing. If the "
        "outcomes of one query correlate between two conditions, differences are known better:"
    )
    yield _correlation_table(review)
    if review.wordings:
        yield "## Wording alone"
        yield _wordings(review.wordings, "gap")
        if review.wordings_reasoning:
            yield _wordings(review.wordings_reasoning, "rate of alignment-faking reasoning")
    if review.link:
        yield "## Reasoning and gap"
        yield _link(review.link)
    if review.without_odd or review.with_odd:
        yield "## Components"
        yield from _components(review)
    yield "## What would have settled it"
    yield (
        "Queries per arm that each of two conditions needs, one answer a query, rates as observed, "
        f"80 % power: to find a true difference of {points(MARGIN, sign=False)} points, and to "
        f"show that two equal gaps are within {points(MARGIN, sign=False)} points of each other. "
        "Open contrasts only: neither different after Holm nor shown the same, at correlation 0. "
        "No variance between wordings is in these figures: with one wording a condition, no number "
        "of queries says what another wording would do."
    )
    yield _needed(review)


def _short(review: Review) -> Iterator[str]:
    yield f"## {review.model}"
    if not review.has_gap:
        yield _no_gap(review)
    yield _contrast_table(review)


def _no_gap(review: Review) -> str:
    return (
        f"No gap to explain: the default's is {points(review.reference.gap)}, 95 % interval "
        f"{interval(*review.reference.bounds)}. Conditions that are alike here show nothing about "
        "what drives a gap."
    )


def _alone(review: Review) -> Iterator[str]:
    yield "## Models with one condition"
    header = ["model", "gap", "95 % interval", "queries"]
    rows = [
        [str(c.model), points(c.gap), interval(*c.bounds), str(c.n_train)] for c in review.alone
    ]
    yield markdown_table(header, rows, left=1)


def _of(review: Review) -> str:
    return f", {review.model}" if review.model else ""


def summary(review: Review) -> list[str]:
    """The result in at most five lines."""
    base, rows, undecided = review.reference, review.unpaired, review.undecided
    raw, corrected = review.different(0.0)
    same, _ = review.same(0.0)
    named = "; ".join(f"{d.count.condition} ({points(d.estimate)})" for d in review.strong)
    lines = [
        f"The default's gap is {points(base.gap)} points, standard error "
        f"{points(base.std_error, sign=False)}. Of {len(rows)} other conditions {raw} differ from "
        f"it at p < .05, and {corrected} after correction for how many were tried"
        + (f": {named}." if named else "."),
        f"{_words(same)} can be shown to be the same within {points(MARGIN, sign=False)} points. "
        f"The remaining {len(rows) - corrected - same} are open: neither different nor the same.",
    ]
    if review.wordings:
        spread = review.wordings
        lines.append(
            f"Wording alone moves the gap by {points(spread.tau, sign=False)} points (SD between "
            f"{spread.estimates} paraphrases); a further paraphrase is predicted to have a gap "
            f"between {points(spread.low)} and {points(spread.high)}."
        )
    if review.link:
        furthest, away = review.link.furthest[0]
        lines.append(
            f"Reasoning and gap go together: r = {review.link.correlation:.2f} over "
            f"{review.link.rows} conditions; they part most in `{furthest.condition}` "
            f"({points(away)} off the line)."
        )
    if undecided:
        needed = sorted(trials_needed(d, MARGIN) for d in undecided)
        had = [d.count.n_train for d in undecided]
        lines.append(
            f"To find a difference of {points(MARGIN, sign=False)} points, half of the open "
            f"contrasts need {needed[len(needed) // 2]:,} queries per arm and condition or more; "
            f"they had {min(had)} to {max(had)}."
        )
    return lines


def _words(number: int) -> str:
    return "None" if number == 0 else str(number)


def _contrast_table(review: Review) -> str:
    header = ["condition", "queries", "train", "deploy", "gap", "SE", "difference", "95 % interval"]
    header += ["p", "Holm", "same"]
    rows = [[*_gap_cells(review.reference), "0 (default)", "", "", "", ""]]
    for d in review.unpaired:
        same = p_value(review.p_same(d)) if review.has_gap else "no gap"
        row = [*_gap_cells(d.count), points(d.estimate), interval(d.low, d.high)]
        rows.append([*row, p_value(d.p_value), p_value(d.p_holm), same])
    return markdown_table(header, rows, left=1)


def _gap_cells(count: Count) -> list[str]:
    train, deploy = count.rates
    return [
        count.condition + (" `b`" if count.boundary else ""),
        str(count.n_train),
        points(train, sign=False),
        points(deploy, sign=False),
        points(count.gap),
        points(count.std_error, sign=False),
    ]


def _correlation_table(review: Review) -> str:
    header = ["assumed correlation", "differ at p < .05", "after Holm", "same within the margin"]
    header += ["same, after Holm"]
    rows = [
        [f"{rho:.1f}", *(str(n) for n in (*review.different(rho), *review.same(rho)))]
        for rho in CORRELATIONS
    ]
    return markdown_table(header, rows, left=0)


def _wordings(spread: Spread, what: str) -> str:
    return (
        f"{spread.estimates} paraphrases of the whole prompt, {what}: mean "
        f"{points(spread.mean, sign=False)} points (standard error "
        f"{points(spread.std_error, sign=False)}), SD between wordings tau = "
        f"{points(spread.tau, sign=False)} (95 % interval {points(spread.tau_low, sign=False)} to "
        f"{points(spread.tau_high, sign=False)}), I² = {100 * spread.i_squared:.0f} % "
        f"(Q = {spread.q:.1f}, p {_p(spread.p_value)}). Prediction interval for one more "
        f"paraphrase: {interval(spread.low, spread.high)}."
    )


def _p(value: float) -> str:
    shown = p_value(value)
    return shown if shown.startswith("<") else f"= {shown}"


def _link(link: Link) -> str:
    text = (
        f"Over {link.rows} conditions the rate of alignment-faking reasoning and the gap correlate "
        f"with r = {link.correlation:.2f}; the line is gap = "
        f"{points(link.fitted.intercept)} + {link.fitted.slope:.2f} x reasoning. Where they part "
        "most, beside the standard error of the gap:"
    )
    rows = []
    for c, away in link.furthest:
        share = points(float(c.others["af_reasoning"] or 0), sign=False)
        error = points(c.std_error, sign=False)
        rows.append([c.condition, share, points(c.gap), points(away), error])
    header = ["condition", "reasoning", "gap", "off the line", "SE of the gap"]
    return f"{text}\n\n{markdown_table(header, rows, left=1)}"


def _components(review: Review) -> Iterator[str]:
    tau = points(review.wordings.tau, sign=False) if review.wordings else None
    spread = (
        f"The variance between wordings is that of the paraphrases (tau = {tau})."
        if tau
        else "No row is a paraphrase: nothing is known of the variance between wordings, and the "
        "intervals leave it out."
    )
    yield (
        f"Regression of the gap on {len(review.factors)} factors ({', '.join(review.factors)}), "
        f"weights 1 / (se² + tau²), z intervals. {spread} Effects are differences of the gap from "
        "the default level, in points."
    )
    fits = [("all rows", review.with_odd), ("without other wordings", review.without_odd)]
    if not review.odd:
        fits = fits[1:]
    yield _slopes([(name, fit) for name, fit in fits if fit])
    if review.odd:
        yield "Other wordings, recoded and left out in turn: " + "; ".join(review.odd) + "."
    if review.once:
        yield "Levels seen in one condition: not separable from that condition's wording, left out."
        rows = [list(entry) for entry in review.once]
        yield markdown_table(["factor", "level", "condition"], rows, left=3)


def _slopes(fits: Sequence[tuple[str, Regression]]) -> str:
    header = ["factor", "level", "conditions"]
    for name, fit in fits:
        header += [f"effect ({name}, {fit.rows})", "95 % interval", "p"]
    keys = [(factor, level) for factor, level, _, _ in fits[0][1].slopes]
    rows = []
    for key in keys:
        number = next(n for f, level, n, _ in fits[0][1].slopes if (f, level) == key)
        row = [key[0] or "(default)", key[1] or "", str(number)]
        for _, fit in fits:
            slope = next((s for f, level, _, s in fit.slopes if (f, level) == key), None)
            if slope is None or slope.interval is None:
                row += ["not estimable", "", ""]
            else:
                bounds = slope.interval
                row += [points(slope.estimate), interval(bounds.low, bounds.high)]
                row += [p_value(bounds.p_value)]
        rows.append(row)
    return markdown_table(header, rows, left=2)


def _needed(review: Review) -> str:
    header = ["condition", "had", "to find it", "to find it, r = .5", "to show it is the same"]
    header += ["the same, r = .5"]
    rows = []
    for d in sorted(review.undecided, key=lambda d: -abs(d.estimate)):
        numbers = [
            trials_needed(d, MARGIN, correlation=rho, equivalence=equivalence)
            for equivalence in (False, True)
            for rho in (0.0, 0.5)
        ]
        rows.append([d.count.condition, str(d.count.n_train), *(f"{n:,}" for n in numbers)])
    return markdown_table(header, rows, left=1)
