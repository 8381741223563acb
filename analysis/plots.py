"""Figures as SVG text: no drawing library, no script, legible in light and dark.

Takes named estimates with intervals; gives one self-contained `<svg>`.
Computes nothing but positions. Does not know files or pages.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from analysis.tables import points

__all__ = ["STYLE", "Curve", "Mark", "curves", "forest"]

ROW = 26
LABEL = 230
PLOT = 420
NUMBERS = 170
TOP = 34


@dataclass(frozen=True, slots=True)
class Mark:
    """One row of a forest plot; proportions, None where unknown.

    `truth` is a planted value drawn as a diamond; a `hollow` mark is one that was not tested.
    """

    label: str
    estimate: float | None
    low: float | None
    high: float | None
    truth: float | None = None
    hollow: bool = False


@dataclass(frozen=True, slots=True)
class Curve:
    """A line in a plot: (x, proportion) pairs in ascending x; `at` is the pair marked by a dot."""

    label: str
    places: tuple[tuple[float, float], ...]
    at: tuple[float, float]


# The look of the figures; a page that shows them brings it once, a file of its own has it inside.
STYLE = """
svg.forest { --ink: #1b1d22; --soft: #5c6370; --line: #d9dce3; --paper: #fff; --mark: #1f5fbf;
  --truth: #c2571a; font-family: system-ui, sans-serif; font-size: 13px; }
@media (prefers-color-scheme: dark) { svg.forest { --ink: #e7e9ee; --soft: #a0a7b4; --line: #383d48;
  --paper: #16181d; --mark: #7fb2ff; --truth: #ff9d5c; } }
svg.forest .page { fill: var(--paper); }
svg.forest text { fill: var(--ink); } svg.forest .name { text-anchor: end; }
svg.forest .tick, svg.forest .axis { text-anchor: middle; fill: var(--soft); font-size: 12px; }
svg.forest .number { font-variant-numeric: tabular-nums; font-size: 12px; }
svg.forest .grid { stroke: var(--line); }
svg.forest .zero { stroke: var(--soft); stroke-width: 1.5; }
svg.forest .whisker { stroke: var(--mark); stroke-width: 2; } svg.forest .dot { fill: var(--mark); }
svg.forest .hollow { fill: var(--paper); stroke: var(--mark); stroke-width: 2; }
svg.forest .truth { fill: none; stroke: var(--truth); stroke-width: 1.8; }
"""
_CURVES = """
svg.forest .curve { fill: none; stroke-width: 2; } svg.forest .margin { stroke: var(--truth); }
"""
# Told apart by colour and by dashes.
_LINES = (
    ("#1f77b4", ""), ("#c2571a", "7 3"), ("#2a8f4b", "2 3"), ("#8a56c2", "9 3 2 3"),
    ("#b0395b", "5 2"), ("#7a7f22", "1 3"), ("#5c6370", "12 4"), ("#0f8f8f", "3 6"),
)  # fmt: skip


def forest(
    marks: Sequence[Mark],
    *,
    title: str,
    axis: str,
    label_width: int = LABEL,
    standalone: bool = False,
) -> str:
    """A forest plot in percentage points: a dot and a whisker a row, a line at 0.

    A `standalone` figure brings its own style and background; else the page has STYLE.
    """
    values = [v for m in marks for v in (m.estimate, m.low, m.high, m.truth) if v is not None]
    low, high = _limits(values)
    height = TOP + ROW * len(marks) + 46
    width = label_width + PLOT + NUMBERS

    def x(value: float) -> float:
        return label_width + PLOT * (value - low) / (high - low)

    bottom = TOP + ROW * len(marks)
    parts = [
        f'<svg class="forest" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'role="img" aria-label="{_safe(title)}">',
        f"<title>{_safe(title)}</title>",
    ]
    if standalone:
        parts.append(f"<style>{STYLE}</style>")
        parts.append(f'<rect class="page" width="{width}" height="{height}"/>')
    for tick in _ticks(low, high):
        zero = abs(tick) < 1e-9
        at, shown = f"{x(tick):.1f}", "0" if zero else points(tick)
        kind = "zero" if zero else "grid"
        parts += [
            f'<line class="{kind}" x1="{at}" x2="{at}" y1="{TOP - 8}" y2="{bottom}"/>',
            f'<text class="tick" x="{at}" y="{bottom + 18}">{shown}</text>',
        ]
    middle = label_width + PLOT / 2
    parts.append(f'<text class="axis" x="{middle}" y="{bottom + 38}">{_safe(axis)}</text>')
    for i, mark in enumerate(marks):
        parts += _row(mark, TOP + ROW * i + ROW / 2, label_width, x)
    parts.append("</svg>")
    return "".join(parts)


def curves(lines: Sequence[Curve], *, title: str, x_axis: str, y_axis: str, margin: float) -> str:
    """Curves in percentage points over a logarithmic x, a standalone figure; `margin` is a line."""
    left, width, height = 60, PLOT + 60, 320
    xs = [x for line in lines for x, _ in line.places]
    low, high = math.log(min(xs)), math.log(max(xs))
    top = 1.05 * max([margin, *(y for line in lines for _, y in line.places)])

    def x(value: float) -> float:
        return left + width * (math.log(value) - low) / ((high - low) or 1.0)

    def y(value: float) -> float:
        return TOP + height * (1 - value / top)

    total = left + width + 250
    bottom = TOP + height
    parts = [
        f'<svg class="forest" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total} '
        f'{bottom + 50}" role="img" aria-label="{_safe(title)}"><title>{_safe(title)}</title>'
        f"<style>{STYLE}{_CURVES}</style>"
        f'<rect class="page" width="{total}" height="{bottom + 50}"/>'
        f'<text x="{left}" y="{TOP - 14}">{_safe(y_axis)}</text>'
        f'<text class="axis" x="{left + width / 2}" y="{bottom + 40}">{_safe(x_axis)}</text>'
    ]
    for tick in _ticks(0.0, top):
        at = f"{y(tick):.1f}"
        parts.append(
            f'<line class="grid" x1="{left}" x2="{left + width}" y1="{at}" y2="{at}"/>'
            f'<text class="tick" x="{left - 18}" y="{y(tick) + 4:.1f}">'
            f"{points(tick, sign=False)}</text>"
        )
    for tick in _log_ticks(min(xs), max(xs)):
        parts.append(
            f'<line class="grid" y1="{TOP}" y2="{bottom}" x1="{x(tick):.1f}" x2="{x(tick):.1f}"/>'
            f'<text class="tick" x="{x(tick):.1f}" y="{bottom + 18}">{tick:,.6g}</text>'
        )
    parts.append(
        f'<line class="margin" x1="{left}" x2="{left + width}" y1="{y(margin):.1f}" '
        f'y2="{y(margin):.1f}"/>'
    )
    for i, line in enumerate(lines):
        colour, dashes = _LINES[i % len(_LINES)]
        path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in line.places)
        row = TOP + 14 + 22 * i
        parts.append(
            f'<polyline class="curve" stroke="{colour}" stroke-dasharray="{dashes}" '
            f'points="{path}"/>'
            f'<circle cx="{x(line.at[0]):.1f}" cy="{y(line.at[1]):.1f}" r="4.5" fill="{colour}"/>'
            f'<line class="curve" stroke="{colour}" stroke-dasharray="{dashes}" '
            f'x1="{left + width + 16}" x2="{left + width + 48}" y1="{row}" y2="{row}"/>'
            f'<text x="{left + width + 56}" y="{row + 4}">{_safe(line.label)}</text>'
        )
    return "".join([*parts, "</svg>"])


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten within the range."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [m * 10.0**e for e in exponents for m in (1, 2, 5)]
    return [tick for tick in found if low <= tick <= high]


def _row(mark: Mark, y: float, left: int, x: Callable[[float], float]) -> list[str]:
    parts = [f'<text class="name" x="{left - 14}" y="{y + 4}">{_safe(mark.label)}</text>']
    if mark.low is not None and mark.high is not None:
        parts.append(
            f'<line class="whisker" x1="{x(mark.low):.1f}" x2="{x(mark.high):.1f}" '
            f'y1="{y}" y2="{y}"/>'
        )
    if mark.truth is not None:
        at = x(mark.truth)
        parts.append(
            f'<path class="truth" d="M{at - 6:.1f} {y} L{at:.1f} {y - 6} L{at + 6:.1f} {y} '
            f'L{at:.1f} {y + 6} Z"/>'
        )
    shown = points(mark.estimate)
    if mark.estimate is not None:
        kind = "dot hollow" if mark.hollow else "dot"
        parts.append(f'<circle class="{kind}" cx="{x(mark.estimate):.1f}" cy="{y}" r="4.5"/>')
        if mark.low is not None:
            shown += f" [{points(mark.low)}, {points(mark.high)}]"
    parts.append(f'<text class="number" x="{left + PLOT + 14}" y="{y + 4}">{shown}</text>')
    return parts


def _limits(values: Sequence[float]) -> tuple[float, float]:
    low, high = min([0.0, *values]), max([0.0, *values])
    # Never narrower than a point, or ticks of one decimal would all be called 0.0.
    room = max(0.06 * (high - low), 0.005)
    return low - room, high + room


def _ticks(low: float, high: float) -> list[float]:
    """Round positions, at most about eight."""
    rough = (high - low) / 7
    scale = 10 ** math.floor(math.log10(rough))
    step = next(s * scale for s in (1, 2, 5, 10) if s * scale >= rough)
    first = math.ceil(low / step)
    return [i * step for i in range(first, math.floor(high / step) + 1)]


def _safe(text: str) -> str:
    """Text as XML may hold it: marks escaped, control characters shown as a replacement."""
    return escape(re.sub(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]", "\ufffd", text))
