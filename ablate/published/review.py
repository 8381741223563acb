"""The review of a table of counts: every analysis that the page shows, in one record.

Takes checked counts and their components; gives contrasts, spread between wordings, the link of
reasoning to the gap, and a regression on the components. Does not know how a page looks.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
import polars as pl

from analysis.counts import (
    Count,
    CountsError,
    Difference,
    differences,
    load_counts,
    read_counts,
    read_text_csv,
)
from analysis.multiplicity import holm
from analysis.synthesis import Line, Slope, Spread, line, meta_regression, random_effects

__all__ = ["CORRELATIONS", "MARGIN", "Link", "Regression", "Review", "load_tables", "review"]

CORRELATIONS = (0.0, 0.3, 0.5, 0.7)
MARGIN = 0.05
ALPHA = 0.05
MOST_FACTORS = 8
PARAPHRASE = "paraphrase"
FURTHEST = 5
KEYS = ("row", "model", "condition", "wording")


@dataclass(frozen=True, slots=True)
class Link:
    """Reasoning against gap: their correlation, and the line with the rows furthest from it."""

    rows: int
    correlation: float
    fitted: Line
    furthest: tuple[tuple[Count, float], ...]


@dataclass(frozen=True, slots=True)
class Regression:
    """A meta-regression: slopes by (factor, level), intercept first as (None, None)."""

    rows: int
    slopes: tuple[tuple[str | None, str | None, int, Slope], ...]


@dataclass(frozen=True, slots=True)
class Review:
    """What a table of counts does and does not establish about one model.

    `contrasts` are by assumed correlation; `alone` the models with the reference only. `once`
    names the levels of one row; `odd` the rows whose whole wording is another one.
    """

    model: str | None
    reference: Count
    contrasts: dict[float, tuple[Difference, ...]]
    alone: tuple[Count, ...]
    wordings: Spread | None
    wordings_reasoning: Spread | None
    link: Link | None
    factors: tuple[str, ...]
    once: tuple[tuple[str, str, str], ...]
    odd: tuple[str, ...]
    with_odd: Regression | None
    without_odd: Regression | None

    @property
    def has_gap(self) -> bool:
        """Whether there is a gap to explain: the reference's lower 95 % bound is above 0.

        Without one, conditions are alike because nothing happens in any of them.
        """
        return self.reference.bounds[0] > 0

    @property
    def unpaired(self) -> tuple[Difference, ...]:
        """The contrasts at correlation 0, from the lowest to the highest."""
        return tuple(sorted(self.contrasts[0.0], key=lambda d: d.estimate))

    def different(self, correlation: float) -> tuple[int, int]:
        """How many conditions differ at 5 %, and how many after Holm."""
        rows = self.contrasts[correlation]
        return _below_alpha([d.p_value for d in rows]), _below_alpha([d.p_holm for d in rows])

    def same(self, correlation: float) -> tuple[int, int]:
        """How many are shown to be the same within the margin, and how many after Holm."""
        p_values = [self.p_same(d) for d in self.contrasts[correlation]]
        return _below_alpha(p_values), _below_alpha(holm(p_values))

    def p_same(self, difference: Difference) -> float | None:
        """TOST p-value at the margin; None where there is no gap to be the same as."""
        return difference.p_equivalent(MARGIN) if self.has_gap else None

    @property
    def strong(self) -> tuple[Difference, ...]:
        """The contrasts that differ after Holm, at correlation 0."""
        return tuple(d for d in self.unpaired if _below_alpha([d.p_holm]))

    @property
    def undecided(self) -> tuple[Difference, ...]:
        """Those neither different after Holm nor shown to be the same, at correlation 0."""
        return tuple(
            d
            for d in self.contrasts[0.0]
            if not _below_alpha([d.p_holm]) and not _below_alpha([self.p_same(d)])
        )


def _below_alpha(p_values: Sequence[float | None]) -> int:
    return sum(p is not None and p < ALPHA for p in p_values)


def load_tables(
    counts: Path | None, components: Path | None
) -> tuple[tuple[Count, ...], pl.DataFrame | None]:
    """The counts and components of these files; without any, the shipped published ones.

    Raises CountsError.
    """
    folder = files("ablate") / "published"
    if counts is None:
        text = (folder / "counts.csv").read_bytes()
        coded = (folder / "components.csv").read_bytes()
        frame = pl.read_csv(text, infer_schema=False)
        return read_counts(frame), pl.read_csv(coded, infer_schema=False)
    table = load_counts(counts)
    return table, read_text_csv(components) if components else None


def review(
    counts: Sequence[Count], components: pl.DataFrame | None, reference: str
) -> tuple[Review, ...]:
    """One review for each model that has the reference and at least one more row, largest first.

    Raises CountsError when no model has the reference, or the components do not fit the counts.
    """
    contrasts = {rho: differences(counts, reference, correlation=rho) for rho in CORRELATIONS}
    coding = _coding(counts, components)
    sizes = Counter(d.count.model for d in contrasts[0.0])
    alone = tuple(c for c in counts if c.condition == reference and c.model not in sizes)
    found = []
    for model, _ in sizes.most_common():
        own = {rho: tuple(d for d in all_ if d.count.model == model)
               for rho, all_ in contrasts.items()}  # fmt: skip
        rows = [c for c in counts if c.model == model]
        base = next(c for c in rows if c.condition == reference)
        found.append(_of_model(model, base, rows, own, alone, coding))
    return tuple(found)


def _of_model(
    model: str | None,
    base: Count,
    rows: Sequence[Count],
    contrasts: dict[float, tuple[Difference, ...]],
    alone: tuple[Count, ...],
    coding: dict[tuple[str | None, str], dict[str, str]],
) -> Review:
    coded = [c for c in rows if (c.model, c.condition) in coding and c.std_error is not None]
    levels = {c.condition: coding[c.model, c.condition] for c in coded}
    factors = tuple(k for k in next(iter(levels.values()), {}) if k not in KEYS)
    wordings = [c for c in coded if levels[c.condition].get("wording", "").startswith(PARAPHRASE)]
    spread = _spread([(c.gap, c.std_error) for c in wordings])
    reasoning = [(c, _proportion(c)) for c in rows]
    known = [(c, af) for c, af in reasoning if af is not None]
    regression = _regressions(base, coded, levels, factors, spread)
    return Review(
        model=model,
        reference=base,
        contrasts=contrasts,
        alone=alone,
        wordings=spread,
        wordings_reasoning=_spread(
            [(af, _share_error(af, c.n_train)) for c, af in known if c in wordings]
        ),
        link=_link(known),
        factors=factors,
        once=regression[0],
        odd=regression[1],
        with_odd=regression[2],
        without_odd=regression[3],
    )


def _spread(pairs: Sequence[tuple[float, float | None]]) -> Spread | None:
    usable = [(value, error) for value, error in pairs if error]
    if len(usable) < 2:
        return None
    return random_effects([value for value, _ in usable], [error for _, error in usable])


def _proportion(count: Count) -> float | None:
    """The share of train trials with alignment-faking reasoning, where the table has it."""
    text = count.others.get("af_reasoning")
    if text is None or not text.strip():
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise CountsError(
            [f"condition `{count.condition}`, column af_reasoning: {text} is no share in [0, 1]"]
        )
    return value


def _share_error(share: float, trials: int) -> float:
    """Standard error of a share with half a success and half a failure added: above 0 at 0."""
    near = (share * trials + 0.5) / (trials + 1)
    return float((near * (1 - near) / trials) ** 0.5)


def _link(known: Sequence[tuple[Count, float]]) -> Link | None:
    if len(known) < 4:
        return None
    shares, gaps = [af for _, af in known], [c.gap for c, _ in known]
    if np.std(shares) == 0 or np.std(gaps) == 0:
        return None
    fitted = line(shares, gaps)
    away = [(c, c.gap - fitted.at(af)) for c, af in known]
    furthest = sorted(away, key=lambda entry: -abs(entry[1]))[:FURTHEST]
    correlation = float(np.corrcoef(shares, gaps)[0, 1])
    return Link(len(known), correlation, fitted, tuple(furthest))


def _coding(
    counts: Sequence[Count], components: pl.DataFrame | None
) -> dict[tuple[str | None, str], dict[str, str]]:
    """Components by (model, condition). Raises CountsError with every fault."""
    if components is None:
        return {}
    if "condition" not in components.columns:
        raise CountsError([f"components: no column condition; it has {components.columns}"])
    factors = [c for c in components.columns if c not in KEYS]
    problems = []
    if len(factors) > MOST_FACTORS:
        problems.append(
            f"components: {len(factors)} factors: collapse them to at most {MOST_FACTORS}, "
            "or the regression has nearly one column a row"
        )
    known = {(c.model, c.condition) for c in counts}
    coding: dict[tuple[str | None, str], dict[str, str]] = {}
    for number, row in enumerate(components.iter_rows(named=True), start=1):
        key = (row.get("model") or None, str(row["condition"] or "").strip())
        if key not in known:
            problems.append(
                f"components: row {number}, column condition: `{key[1]}` is not in the counts"
            )
        if key in coding:
            problems.append(f"components: row {number}: `{key[1]}` stands twice")
        problems += [
            f"components: row {number}, column {c}: missing: say which level it is at"
            for c in factors
            if row[c] is None or not str(row[c]).strip()
        ]
        coding[key] = {c: str(row[c]) for c in components.columns if row[c] is not None}
    if problems:
        raise CountsError(problems)
    return coding


def _regressions(
    base: Count,
    coded: Sequence[Count],
    levels: dict[str, dict[str, str]],
    factors: tuple[str, ...],
    spread: Spread | None,
) -> tuple[tuple[tuple[str, str, str], ...], tuple[str, ...], Regression | None, Regression | None]:
    """Levels of one row, rows of another wording, and the fits with and without the latter."""
    if base.condition not in levels or not factors:
        return (), (), None, None
    reference = levels[base.condition]
    seen = Counter((f, levels[c.condition][f]) for c in coded for f in factors)
    once = tuple(
        (f, levels[c.condition][f], c.condition)
        for c in coded
        for f in factors
        if seen[f, levels[c.condition][f]] == 1 and levels[c.condition][f] != reference[f]
    )
    dropped = {condition for _, _, condition in once}
    own = reference.get("wording", "")
    odd = tuple(
        c.condition
        for c in coded
        if levels[c.condition].get("wording", "") != own
        and not levels[c.condition].get("wording", "").startswith(PARAPHRASE)
    )
    usable = [c for c in coded if c.condition not in dropped]
    tau = spread.tau if spread else 0.0
    fit_all = _regression(usable, levels, factors, reference, tau)
    rest = [c for c in usable if c.condition not in odd]
    return once, odd, fit_all, _regression(rest, levels, factors, reference, tau)


def _regression(
    rows: Sequence[Count],
    levels: dict[str, dict[str, str]],
    factors: tuple[str, ...],
    reference: dict[str, str],
    tau: float,
) -> Regression | None:
    terms = sorted(
        {
            (f, levels[c.condition][f])
            for c in rows
            for f in factors
            if levels[c.condition][f] != reference[f]
        },
        key=lambda term: (factors.index(term[0]), term[1]),
    )
    if not terms or len(rows) <= len(terms) + 1:
        return None
    X = np.array(
        [[1.0, *(float(levels[c.condition][f] == level) for f, level in terms)] for c in rows]
    )
    slopes = meta_regression([c.gap for c in rows], [c.std_error or 0.0 for c in rows], X, tau)
    named: list[tuple[str | None, str | None]] = [(None, None), *terms]
    return Regression(
        len(rows),
        tuple(
            (factor, level, int(X[:, i].sum()), slope)
            for i, ((factor, level), slope) in enumerate(zip(named, slopes, strict=True))
        ),
    )
