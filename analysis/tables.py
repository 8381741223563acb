"""Tables for people: proportions become percentage points, nulls a dash.

Takes the frames of a fit; gives text, aligned or Markdown. Does not know how a number
was made: it computes nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from analysis.effects import AVERAGED, SIMPLE

__all__ = ["SensitivityRow", "markdown", "points", "sensitivity", "text"]

MISSING = "–"


@dataclass(frozen=True, slots=True)
class SensitivityRow:
    """One level in the sensitivity table: both effects as shown, and the level's question."""

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
        same, pl.col("outcome") == outcome, pl.col("note").ne_missing("reference")
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
    """An aligned table for a terminal."""
    lines = [list(header), *([r.factor, r.level, *r.cells] for r in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    shown = [
        "  ".join(
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    shown.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(shown)


def markdown(header: Sequence[str], rows: Sequence[SensitivityRow]) -> str:
    """The same table in Markdown."""
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * 2 + " ---: |" * (len(header) - 2)]
    lines += ["| " + " | ".join([_cell(r.factor), _cell(r.level), *r.cells]) + " |" for r in rows]
    return "\n".join(lines)


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
