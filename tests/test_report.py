"""The report: every number from the tables, everything escaped, no request."""

import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import polars as pl
import pytest
from test_cli import ablate, replace


class Page(HTMLParser):
    """The tags with their attributes, and the text of each table cell."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self._cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self._cell = True
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._cell = False

    def handle_data(self, data: str) -> None:
        if self._cell:
            self.rows[-1][-1] += data


@pytest.fixture
def fitted(tiny: Path) -> Path:
    """The tiny study with a hostile question, run and fitted: its run folder."""
    replace(
        tiny / "scenario.md",
        "Does it matter that compliance is rewarded?",
        '</title><script>alert(1)</script><img src=x onerror=alert(2)>\\" onload=\\"x',
    )
    run = tiny / "runs/main"
    for command in (["run", tiny], ["grade", run], ["fit", run], ["report", run]):
        assert ablate(*command).exit_code == 0
    return run


def test_every_row_of_the_table_is_in_the_page(fitted: Path) -> None:
    """Estimates and bounds in the page are those of effects.csv, in points with one decimal."""
    page = Page((fitted / "report.html").read_text("utf-8"))
    effects = pl.read_csv(fitted / "effects.csv", infer_schema_length=None).filter(
        pl.col("outcome") == "complied",
        pl.col("note").ne_missing("reference"),
        pl.col("estimand").str.starts_with("gap_effect"),
        pl.col("role") == "primary",
    )
    for row in effects.iter_rows(named=True):
        (shown,) = [r for r in page.rows if r[0] == row["factor"] and len(r) > 6]
        estimate = f"{round(100 * row['estimate'], 1) + 0.0:+.1f}"
        assert estimate in shown
        if row["conf_low"] is not None:
            low, high = (round(100 * row[b], 1) + 0.0 for b in ("conf_low", "conf_high"))
            assert f"[{low:+.1f}, {high:+.1f}]" in shown


def test_the_baseline_gap_comes_first(fitted: Path) -> None:
    """Before any effect the page says whether there is a gap at all, and that it is simulated."""
    text = (fitted / "report.html").read_text("utf-8")
    original = pl.read_csv(fitted / "gaps.csv").row(
        by_predicate=(pl.col("condition") == "original") & (pl.col("outcome") == "complied"),
        named=True,
    )
    baseline = text.index(f"<strong>{100 * original['gap']:+.1f}</strong>")
    assert text.index("Simulated subject.") < baseline < text.index("<table>")


def test_nothing_is_fetched_and_nothing_runs(fitted: Path) -> None:
    """No script, no handler, no address but the drawing's name space, and a policy that forbids."""
    text = (fitted / "report.html").read_text("utf-8")
    page = Page(text)
    assert not [tag for tag, _ in page.tags if tag in ("script", "img", "link", "iframe", "object")]
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]
        assert not {"src", "href", "action"} & set(attributes)
    assert "url(" not in text
    assert "@import" not in text
    addresses = set(re.findall(r"https?://[^\"'\s<]+", text))
    assert addresses <= {"http://www.w3.org/2000/svg"}
    policies = [a["content"] for tag, a in page.tags if tag == "meta" and "http-equiv" in a]
    assert policies[0] is not None
    assert policies[0].startswith("default-src 'none'")


def test_hostile_text_is_shown_as_text(fitted: Path) -> None:
    """A question that tries to close the page's tags is escaped."""
    text = (fitted / "report.html").read_text("utf-8")
    assert "<script>alert(1)</script>" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


def test_figures_are_well_formed_and_hold_every_effect(fitted: Path) -> None:
    """Each forest plot parses as XML and has one dot for each estimate."""
    text = (fitted / "report.html").read_text("utf-8")
    drawings = re.findall(r"<svg.*?</svg>", text, re.S)
    assert len(drawings) == 2
    for drawing in drawings:
        tree = ElementTree.fromstring(drawing)
        circles = tree.findall(".//{http://www.w3.org/2000/svg}circle")
        assert len(circles) == 3


def test_a_second_report_needs_no_second_fit(fitted: Path) -> None:
    """The report is made from the tables alone: same tables, same page."""
    page = (fitted / "report.html").read_text("utf-8")
    (fitted / "report.html").unlink()
    assert ablate("report", fitted).exit_code == 0
    assert (fitted / "report.html").read_text("utf-8") == page
