"""The page of the published evidence, as Markdown, with its forest plot as SVG.

Takes reviews; gives text. Does not know how to compute anything: every number is in the review.
"""

import textwrap
from collections.abc import Iterator, Sequence
from importlib.resources import files

from ablate.published.review import CORRELATIONS, MARGIN, Link, Regression, Review
from analysis.counts import Difference, trials_needed
from analysis.multiplicity import holm
from analysis.plots import Mark, forest
from analysis.synthesis import Spread
from analysis.tables import interval, markdown_table, p_value, points

__all__ = ["FIGURE", "figure", "page"]

FIGURE = "published.svg"
ALPHA = 0.05


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
        for d in sorted(review.contrasts[0.0], key=lambda d: d.estimate)
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


def _significant(rows: Sequence[Difference]) -> tuple[int, int]:
    """How many differ at 5 %, and how many after Holm."""
    return (
        sum(d.p_value is not None and d.p_value < ALPHA for d in rows),
        sum(d.p_holm is not None and d.p_holm < ALPHA for d in rows),
    )


def _same(rows: Sequence[Difference], has_gap: bool) -> tuple[int, int]:
    """How many are shown to be the same within the margin, and how many after Holm."""
    if not has_gap:
        return 0, 0
    p_values = [d.p_equivalent(MARGIN) for d in rows]
    return (
        sum(p is not None and p < ALPHA for p in p_values),
        sum(p is not None and p < ALPHA for p in holm(p_values)),
    )


def summary(review: Review) -> list[str]:
    """The result in at most five lines."""
    rows = review.contrasts[0.0]
    base = review.reference
    raw, corrected = _significant(rows)
    same, _ = _same(rows, review.has_gap)
    strong = sorted(
        (d for d in rows if d.p_holm is not None and d.p_holm < ALPHA), key=lambda d: d.estimate
    )
    named = "; ".join(f"{d.count.condition} ({points(d.estimate)})" for d in strong)
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
    needed = [trials_needed(d, MARGIN) for d in _open(rows)]
    if needed:
        middle = sorted(needed)[len(needed) // 2]
        lines.append(
            f"To find a difference of {points(MARGIN, sign=False)} points, half of the open "
            f"contrasts need {middle:,} queries per arm and condition or more; they had "
            f"{min(d.count.n_train for d in _open(rows))} to "
            f"{max(d.count.n_train for d in _open(rows))}."
        )
    return lines


def _words(number: int) -> str:
    return "None" if number == 0 else str(number)


def _open(rows: Sequence[Difference]) -> list[Difference]:
    return [
        d
        for d in rows
        if not (d.p_holm is not None and d.p_holm < ALPHA)
        and not ((d.p_equivalent(MARGIN) or 1.0) < ALPHA)
    ]


def _contrast_table(review: Review) -> str:
    header = ["condition", "queries", "train", "deploy", "gap", "SE", "difference", "95 % interval"]
    header += ["p", "Holm", "same"]
    base = review.reference

    def cells(count: object, difference: Difference | None) -> list[str]:
        c = difference.count if difference else base
        train, deploy = c.rates
        shown = [
            c.condition + (" `b`" if c.boundary else ""),
            str(c.n_train),
            points(train, sign=False),
            points(deploy, sign=False),
            points(c.gap),
            points(c.std_error, sign=False),
        ]
        if difference is None:
            return [*shown, "0 (default)", "", "", "", ""]
        return [
            *shown,
            points(difference.estimate),
            interval(difference.low, difference.high),
            p_value(difference.p_value),
            p_value(difference.p_holm),
            p_value(difference.p_equivalent(MARGIN)) if review.has_gap else "no gap",
        ]

    rows = [cells(None, None)]
    rows += [cells(None, d) for d in sorted(review.contrasts[0.0], key=lambda d: d.estimate)]
    return markdown_table(header, rows, left=1)


def _correlation_table(review: Review) -> str:
    header = ["assumed correlation", "differ at p < .05", "after Holm", "same within the margin"]
    header += ["same, after Holm"]
    rows = []
    for rho in CORRELATIONS:
        differ, same = (
            _significant(review.contrasts[rho]),
            _same(review.contrasts[rho], review.has_gap),
        )
        rows.append([f"{rho:.1f}", *(str(n) for n in (*differ, *same))])
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
    for d in sorted(_open(review.contrasts[0.0]), key=lambda d: -abs(d.estimate)):
        numbers = [
            trials_needed(d, MARGIN, correlation=rho, equivalence=equivalence)
            for equivalence in (False, True)
            for rho in (0.0, 0.5)
        ]
        rows.append([d.count.condition, str(d.count.n_train), *(f"{n:,}" for n in numbers)])
    return markdown_table(header, rows, left=1)
