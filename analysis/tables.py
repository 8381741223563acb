"""Tables for people: proportions become percentage points, nulls a dash.

Takes the frames of a fit; gives text, aligned or Markdown. Does not know how a number
was made: it computes nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from analysis.counts import Count, Difference
from analysis.effects import AVERAGED, SIMPLE

__all__ = [
    "SensitivityRow",
    "counts_text",
    "markdown",
    "markdown_table",
    "points",
    "sensitivity",
    "text",
    "text_table",
]

MISSING = "–"


@dataclass(frozen=True, slots=True)
class SensitivityRow:
    """One level in the sensitivity table, its effects as they are shown."""

    factor: str
    level: str
    cells: tuple[str, ...]


def points(value: float | None, *, sign: bool = True) -> str:
    """A proportion in percentage points with one decimal."""
    if value is None:
        return MISSING
    rounded = round(100 * value, 1) + 0.0  # no "-0.0"
    return f"{rounded:+.1f}" if sign else f"{rounded:.1f}"


def interval(low: float | None, high: float | None) -> str:
    return MISSING if low is None or high is None else f"[{points(low)}, {points(high)}]"


def p_value(value: float | None) -> str:
    if value is None:
        return MISSING
    if value < 0.001:
        return "<.001"
    return f"{value:.3f}"[1:] if value < 0.9995 else "1.00"


def sensitivity(
    effects: pl.DataFrame,
    *,
    model: str | None,
    outcome: str,
    primary: str,
    planted: Mapping[tuple[str, str, str], float] | None = None,
) -> tuple[tuple[str, ...], list[SensitivityRow]]:
    """Header and rows of the sensitivity table of one model and outcome, strongest first.

    `planted` maps (estimand, factor, level) to the truth of a simulated subject; then each
    estimate has it beside it. Structural zeros come last.
    """
    same = pl.col("model").is_null() if model is None else pl.col("model") == model
    rows = effects.filter(
        same,
        pl.col("outcome") == outcome,
        pl.col("estimand").is_in([SIMPLE, AVERAGED]),
        pl.col("role") == "primary",
        pl.col("note").ne_missing("reference"),
    )
    by_term: dict[tuple[str, str], dict[str, dict[str, object]]] = {}
    for row in rows.iter_rows(named=True):
        by_term.setdefault((row["factor"], row["level"]), {})[row["estimand"]] = row
    header = ["feature", "change"]
    shown = [e for e in (AVERAGED, SIMPLE) if any(e in found for found in by_term.values())]
    for estimand in shown:
        name = "averaged effect" if estimand == AVERAGED else "simple effect"
        header += [name, "95 % interval"]
        if estimand == primary:
            header += ["p (Holm)"]
        if planted:
            header += ["planted"]
    table = []
    for (factor, level), found in sorted(by_term.items(), key=lambda item: _rank(item[1], primary)):
        cells: list[str] = []
        for estimand in shown:
            row = found.get(estimand, {})
            cells += [points(_number(row, "estimate"))]
            cells += [interval(_number(row, "conf_low"), _number(row, "conf_high"))]
            if estimand == primary:
                zero = "structural_zero" in str(row.get("note") or "")
                cells += ["by constr." if zero else p_value(_number(row, "p_holm"))]
            if planted:
                cells += [points(planted.get((estimand, factor, level)))]
        table.append(SensitivityRow(factor, level, tuple(cells)))
    return tuple(header), table


def text(header: Sequence[str], rows: Sequence[SensitivityRow]) -> str:
    """The sensitivity table, aligned for a terminal."""
    return text_table(header, [[r.factor, r.level, *r.cells] for r in rows], left=2)


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: int) -> str:
    """An aligned table; the first `left` columns are names, the others numbers."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    shown = [
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    shown.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(shown)


def markdown(header: Sequence[str], rows: Sequence[SensitivityRow]) -> str:
    """The sensitivity table in Markdown."""
    return markdown_table(header, [[r.factor, r.level, *r.cells] for r in rows], left=2)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: int) -> str:
    """A Markdown table; the first `left` columns are names, the others numbers."""
    lines = [
        "| " + " | ".join(header) + " |",
        "|" + " --- |" * left + " ---: |" * (len(header) - left),
    ]
    lines += ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def counts_text(counts: Sequence[Count], found: Sequence[Difference]) -> str:
    """Gaps of a table of counts and their differences from the reference, for a terminal."""
    header = ["model", "condition", "train", "deploy", "gap", "95 % interval"]
    header += ["difference", "95 % interval", "p", "p (Holm)"]
    by_key = {(d.count.model, d.count.condition): d for d in found}
    rows = []
    for count in counts:
        train, deploy = count.rates
        row = [count.model or "", count.condition, points(train, sign=False)]
        row += [points(deploy, sign=False), points(count.gap), interval(*count.bounds)]
        if difference := by_key.get((count.model, count.condition)):
            row += [points(difference.estimate), interval(difference.low, difference.high)]
            row += [p_value(difference.p_value), p_value(difference.p_holm)]
        else:
            row += [MISSING] * 4
        rows.append(row)
    return text_table(header, rows, left=2)


def _cell(name: str) -> str:
    """A name that cannot end its cell or its row."""
    return " ".join(name.split()).replace("\\", "\\\\").replace("|", "\\|")


def _rank(found: Mapping[str, Mapping[str, object]], primary: str) -> tuple[bool, float]:
    row = found.get(primary, {})
    estimate = _number(row, "estimate")
    zero = "structural_zero" in str(row.get("note") or "")
    return zero, -abs(estimate) if estimate is not None else 1.0


def _number(row: Mapping[str, object], key: str) -> float | None:
    value = row.get(key)
    return float(value) if isinstance(value, int | float) else None
