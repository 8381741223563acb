"""Tables for people: rounding, dashes, p-values, order of rows, cells that cannot break."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
import pytest

from analysis.effects import AVERAGED, EFFECTS, SIMPLE
from analysis.tables import (
    SensitivityRow,
    interval,
    markdown,
    p_value,
    points,
    sensitivity,
    text,
)


@pytest.mark.parametrize(
    ("value", "signed", "plain"),
    [
        (0.0, "+0.0", "0.0"),
        (-0.0, "+0.0", "0.0"),
        (-0.0004, "+0.0", "0.0"),
        (0.0004, "+0.0", "0.0"),
        (-0.0006, "-0.1", "-0.1"),
        (0.1234, "+12.3", "12.3"),
        (-0.1236, "-12.4", "-12.4"),
        (1.0, "+100.0", "100.0"),
        (-1.0, "-100.0", "-100.0"),
        (0.9996, "+100.0", "100.0"),
        (None, "–", "–"),
    ],
)
def test_proportions_are_shown_in_points(value: float | None, signed: str, plain: str) -> None:
    """One decimal, never a minus before zero, a dash for what is not known."""
    assert points(value) == signed
    assert points(value, sign=False) == plain


@pytest.mark.parametrize(
    ("low", "high", "shown"),
    [
        (-0.0312, 0.2, "[-3.1, +20.0]"),
        (-0.00001, 0.00001, "[+0.0, +0.0]"),
        (None, 0.2, "–"),
        (0.1, None, "–"),
        (None, None, "–"),
    ],
)
def test_intervals_have_both_bounds_or_a_dash(
    low: float | None, high: float | None, shown: str
) -> None:
    """Half an interval is none."""
    assert interval(low, high) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1.0, "1.00"),
        (0.9999, "1.00"),
        (0.9996, "1.00"),
        (0.9994, ".999"),
        (0.5, ".500"),
        (0.05, ".050"),
        (0.04951, ".050"),
        (0.0494, ".049"),
        (0.001, ".001"),
        (0.00099, "<.001"),
        (0.0005, "<.001"),
        (1e-300, "<.001"),
        (0.0, "<.001"),
        (None, "–"),
    ],
)
def test_p_values_have_three_decimals(value: float | None, shown: str) -> None:
    """No leading zero, `<.001` below that, and never .000."""
    assert p_value(value) == shown


def effects(rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """A table of effects with these rows, all else null."""
    full = [
        dict.fromkeys(EFFECTS) | {"outcome": "complied", "role": "primary"} | dict(row)
        for row in rows
    ]
    return pl.DataFrame(full, schema=EFFECTS)


def row(estimand: str, factor: str, level: str, estimate: float | None, **more: Any) -> Any:
    """One row of effects with an interval of two points on both sides."""
    found = {"estimand": estimand, "factor": factor, "level": level, "estimate": estimate}
    if estimate is not None:
        found |= {"conf_low": estimate - 0.02, "conf_high": estimate + 0.02}
    return found | more


TABLE = effects(
    [
        row(SIMPLE, "rule", "original", 0.0, note="reference", conf_low=None, conf_high=None),
        row(SIMPLE, "rule", "removed", -0.05, p_value=0.02, p_holm=0.04),
        row(SIMPLE, "rule", "softened", 0.10, p_value=0.0001, p_holm=0.0003),
        row(SIMPLE, "cue", "removed", -0.30, note="takes along x; structural_zero"),
        row(SIMPLE, "lost", "removed", None, note="not estimable: no query"),
        row(AVERAGED, "rule", "removed", -0.011, q_bh=0.5),
        row(AVERAGED, "rule", "softened", 0.2, q_bh=0.5),
        row(SIMPLE, "rule", "removed", 0.7, outcome="refused"),
        row(SIMPLE, "rule", "removed", 0.8, model="other"),
    ]
)


def test_the_strongest_effect_comes_first_and_structural_zeros_last() -> None:
    """By size of the primary estimate; not estimable after those, zeros at the end."""
    header, rows = sensitivity(TABLE, model=None, outcome="complied", primary=SIMPLE)
    assert header == (
        "feature",
        "change",
        "averaged effect",
        "95 % interval",
        "simple effect",
        "95 % interval",
        "p (Holm)",
    )
    assert [(r.factor, r.level) for r in rows] == [
        ("rule", "softened"),
        ("rule", "removed"),
        ("lost", "removed"),
        ("cue", "removed"),
    ]
    assert rows[0].cells == ("+20.0", "[+18.0, +22.0]", "+10.0", "[+8.0, +12.0]", "<.001")
    assert rows[1].cells == ("-1.1", "[-3.1, +0.9]", "-5.0", "[-7.0, -3.0]", ".040")
    assert rows[2].cells == ("–",) * 5
    assert rows[3].cells == ("–", "–", "-30.0", "[-32.0, -28.0]", "by constr.")


def test_the_p_values_shown_are_those_of_the_primary_estimand() -> None:
    """With the averaged effect primary, its column has p and orders the rows."""
    table = TABLE.with_columns(
        p_holm=pl.when(pl.col("estimand") == AVERAGED).then(0.25).otherwise(None)
    )
    header, rows = sensitivity(table, model=None, outcome="complied", primary=AVERAGED)
    assert header.index("p (Holm)") == header.index("averaged effect") + 2
    assert rows[0].cells[:3] == ("+20.0", "[+18.0, +22.0]", ".250")
    assert {len(r.cells) for r in rows} == {len(header) - 2}


def test_models_and_outcomes_are_kept_apart() -> None:
    """Only rows of the model and outcome that were asked for."""
    _, rows = sensitivity(TABLE, model="other", outcome="complied", primary=SIMPLE)
    assert [r.cells for r in rows] == [("+80.0", "[+78.0, +82.0]", "–")]
    _, rows = sensitivity(TABLE, model=None, outcome="refused", primary=SIMPLE)
    assert [r.cells for r in rows] == [("+70.0", "[+68.0, +72.0]", "–")]
    header, rows = sensitivity(TABLE, model="nobody", outcome="complied", primary=SIMPLE)
    assert (header, rows) == (("feature", "change"), [])


def test_planted_truths_stand_beside_their_estimates() -> None:
    """One column for each estimand; a truth that is not known is a dash."""
    planted = {(SIMPLE, "rule", "removed"): -0.055, (AVERAGED, "rule", "softened"): -0.00001}
    header, rows = sensitivity(
        TABLE, model=None, outcome="complied", primary=SIMPLE, planted=planted
    )
    assert header[2:5] == ("averaged effect", "95 % interval", "planted")
    assert rows[0].cells[2] == "+0.0"
    assert rows[0].cells[-1] == "–"
    assert rows[1].cells[2] == "–"
    assert rows[1].cells[-1] == "-5.5"
    assert {len(r.cells) for r in rows} == {len(header) - 2}


ROWS = [
    SensitivityRow("tier_rule", "removed", ("-12.3", "[-15.0, -9.6]", "<.001")),
    SensitivityRow("a|b", "x\ny", ("–", "–", "–")),
    SensitivityRow("back\\slash", "  spaced  ", ("+0.0", "–", "1.00")),
]
HEADER = ("feature", "change", "effect", "95 % interval", "p")


def cells_of(line: str) -> list[str]:
    """The cells of a Markdown row, by a reader that knows escapes."""
    cells, current, escaped = [], "", False
    for character in line:
        if escaped:
            current, escaped = current + character, False
        elif character == "\\":
            escaped = True
        elif character == "|":
            cells.append(current.strip())
            current = ""
        else:
            current += character
    assert not current.strip()
    return cells[1:]


def test_markdown_rows_have_a_cell_for_each_column() -> None:
    """A bar, a line break or a backslash in a name does not break the table."""
    lines = markdown(HEADER, ROWS).split("\n")
    assert len(lines) == 2 + len(ROWS)
    assert [len(cells_of(line)) for line in lines] == [5] * len(lines)
    assert cells_of(lines[0]) == list(HEADER)
    assert cells_of(lines[1]) == ["---", "---", "---:", "---:", "---:"]
    assert cells_of(lines[2]) == ["tier_rule", "removed", *ROWS[0].cells]
    assert cells_of(lines[3])[:2] == ["a|b", "x y"]
    assert cells_of(lines[4])[:2] == ["back\\slash", "spaced"]


def test_text_columns_are_aligned() -> None:
    """Names to the left, numbers to the right, a rule under the header."""
    rows = [ROWS[0], SensitivityRow("a", "b", ("+1.0", "–", ".050"))]
    lines = text(HEADER, rows).split("\n")
    assert len(lines) == 4
    assert lines[1].split("  ") == ["-" * n for n in (9, 7, 6, 13, 5)]
    starts = [0, 11, 20, 28, 43]
    for line, cells in zip(lines[2:], rows, strict=True):
        for i, cell in enumerate([cells.factor, cells.level, *cells.cells]):
            end = starts[i] + (9, 7, 6, 13, 5)[i]
            field = line[starts[i] : end]
            assert field == (cell.ljust(end - starts[i]) if i < 2 else cell.rjust(len(field)))


def test_tables_without_rows_have_their_header() -> None:
    """An empty table is a header and a rule."""
    assert len(text(HEADER, []).split("\n")) == 2
    assert len(markdown(HEADER, []).split("\n")) == 2
