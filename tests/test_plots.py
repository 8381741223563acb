"""Forest plots are well-formed, escape what they are given, and put values where they belong."""

import itertools
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.plots import Mark, forest

SVG = "{http://www.w3.org/2000/svg}"
SHARE = st.floats(-1, 1, allow_subnormal=False)


def drawn(marks: Sequence[Mark], title: str = "Effects", axis: str = "points") -> ET.Element:
    """The parsed figure."""
    return ET.fromstring(forest(marks, title=title, axis=axis))


def named(root: ET.Element, kind: str) -> list[ET.Element]:
    """The elements of a class, in order."""
    return [e for e in root.iter() if e.get("class", "").split(" ")[0] == kind]


@settings(deadline=None)
@given(
    st.lists(
        st.builds(
            Mark,
            label=st.text(max_size=20),
            estimate=SHARE | st.none(),
            low=SHARE | st.none(),
            high=SHARE | st.none(),
            truth=SHARE | st.none(),
            hollow=st.booleans(),
        ),
        max_size=8,
    ),
    st.text(max_size=30),
)
def test_any_marks_make_a_well_formed_figure(marks: list[Mark], title: str) -> None:
    """Whatever the labels hold and whatever is unknown, an XML parser reads the figure."""
    root = drawn(marks, title=title, axis=title)
    assert root.tag == SVG + "svg"
    assert len(named(root, "name")) == len(named(root, "number")) == len(marks)
    assert len(named(root, "dot")) == sum(m.estimate is not None for m in marks)
    assert len(named(root, "truth")) == sum(m.truth is not None for m in marks)
    assert len(named(root, "whisker")) == sum(None not in (m.low, m.high) for m in marks)
    assert "script" not in {e.tag.removeprefix(SVG) for e in root.iter()}


@pytest.mark.parametrize(
    "label", ["<script>alert(1)</script>", "a & b \"c\" 'd'", "]]>", "größer ≥ 1", "&amp;"]
)
def test_labels_come_out_as_they_went_in(label: str) -> None:
    """Marks of XML are text in label, title, axis and attribute."""
    root = drawn([Mark(label, 0.1, 0.0, 0.2)], title=label, axis=label)
    assert named(root, "name")[0].text == label
    assert named(root, "axis")[0].text == label
    assert root.get("aria-label") == label
    title = root.find(SVG + "title")
    assert title is not None
    assert title.text == label


@pytest.mark.parametrize("control", ["\x00", "\x1b[31m", "\x07", "\n", "\ufffe", "\ud800"])
def test_control_characters_are_shown(control: str) -> None:
    """A character that XML or a terminal cannot take is replaced where one can see it."""
    shown = named(drawn([Mark(f"a{control}b", 0.1, None, None)]), "name")[0].text
    assert shown is not None
    assert shown.startswith("a\ufffd")
    assert shown.endswith("b")


@settings(deadline=None)
@given(st.lists(st.integers(-1000, 1000), min_size=2, max_size=12))
def test_positions_grow_with_the_estimate(values: list[int]) -> None:
    """A larger estimate stands further to the right; equal ones stand together."""
    root = drawn([Mark("x", v / 1000, None, None) for v in values])
    at = [float(dot.get("cx", "nan")) for dot in named(root, "dot")]
    for (v1, x1), (v2, x2) in itertools.pairwise(zip(values, at, strict=True)):
        assert (x1 <= x2) if v1 <= v2 else (x1 >= x2)
        if abs(v1 - v2) > 20:
            assert x1 != x2


@settings(deadline=None)
@given(st.lists(st.tuples(SHARE, SHARE, SHARE, SHARE), min_size=1, max_size=6))
def test_values_stand_on_one_scale_within_the_plot(rows: list[tuple[float, ...]]) -> None:
    """Dots, whiskers, diamonds and ticks use the same map from value to position."""
    marks = [Mark("x", b, min(a, c), max(a, c), truth=d) for a, b, c, d in rows]
    root = drawn(marks)
    points: list[tuple[float, float]] = []
    for mark, dot, whisker, truth in zip(
        marks, named(root, "dot"), named(root, "whisker"), named(root, "truth"), strict=True
    ):
        assert mark.estimate is not None
        assert mark.low is not None
        assert mark.high is not None
        assert mark.truth is not None
        points.append((mark.estimate, float(dot.get("cx", "nan"))))
        points.append((mark.low, float(whisker.get("x1", "nan"))))
        points.append((mark.high, float(whisker.get("x2", "nan"))))
        corners = [float(n) for n in re.findall(r"[ML](-?[\d.]+)", truth.get("d", ""))]
        points.append((mark.truth, sum(corners) / len(corners)))
    (zero,) = named(root, "zero")
    points.append((0.0, float(zero.get("x1", "nan"))))
    low, high = min(points), max(points)
    _, _, width, _ = (float(n) for n in root.get("viewBox", "").split())
    for value, at in points:
        assert 0 < at < width
        if high[0] - low[0] > 0.01:
            share = (value - low[0]) / (high[0] - low[0])
            assert at == pytest.approx(low[1] + share * (high[1] - low[1]), abs=0.25)


def test_rows_stand_below_each_other_in_their_order() -> None:
    """The label, dot, whisker and number of a mark share their height."""
    root = drawn([Mark(str(i), 0.1 * i, 0.05 * i, 0.2 * i) for i in range(5)])
    heights = [float(dot.get("cy", "nan")) for dot in named(root, "dot")]
    assert heights == sorted(set(heights))
    assert [e.text for e in named(root, "name")] == ["0", "1", "2", "3", "4"]
    for kind in ("name", "number"):
        texts = [float(e.get("y", "nan")) for e in named(root, kind)]
        assert texts == [h + 4 for h in heights]
    assert [float(e.get("y1", "nan")) for e in named(root, "whisker")] == heights


@pytest.mark.parametrize(
    ("mark", "number"),
    [
        (Mark("a", 0.1234, -0.02, 0.3), "+12.3 [-2.0, +30.0]"),
        (Mark("a", -0.00001, None, None), "+0.0"),
        (Mark("a", None, None, None), "–"),
        (Mark("a", None, -0.1, 0.1), "–"),
    ],
)
def test_the_number_beside_a_mark_is_in_points(mark: Mark, number: str) -> None:
    """Estimate and interval, or a dash."""
    assert named(drawn([mark]), "number")[0].text == number


def test_a_mark_that_was_not_tested_is_hollow() -> None:
    """Only the hollow mark has the class."""
    root = drawn([Mark("a", 0.1, None, None), Mark("b", 0.1, None, None, hollow=True)])
    assert [e.get("class") for e in named(root, "dot")] == ["dot", "dot hollow"]


@pytest.mark.parametrize("scale", [1.0, 0.3, 0.05, 0.011, 0.001, 1e-10, 0.0])
def test_ticks_are_few_round_and_in_order(scale: float) -> None:
    """At most nine, evenly spaced, with different labels, zero among them."""
    root = drawn([Mark("a", scale, -scale / 3, scale)])
    ticks = [e.text or "" for e in named(root, "tick")]
    values = [float(t) for t in ticks]
    assert 3 <= len(values) <= 9
    assert len(set(ticks)) == len(ticks)
    assert "0" in ticks
    steps = {round(b - a, 6) for a, b in itertools.pairwise(values)}
    assert len(steps) == 1
    assert f"{steps.pop():e}"[0] in "125"
