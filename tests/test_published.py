"""The published evidence: its headline figures computed a second time, and the page kept true."""

import csv
import math
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from scipy.stats import norm
from statsmodels.stats.multitest import multipletests
from test_cli import ablate, refused

from ablate.published.review import Review, load_tables, review

ROOT = Path(__file__).resolve().parents[1]
FACTS = ROOT / "ablate" / "published"


@pytest.fixture(scope="module")
def published() -> tuple[Review, ...]:
    return review(*load_tables(None, None), "default")


def rows_of(model: str) -> list[dict[str, str]]:
    with (FACTS / "counts.csv").open(encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row["model"] == model]


def gap_and_error(row: dict[str, str]) -> tuple[float, float, int]:
    n = int(row["n_train"])
    p1, p0 = int(row["k_train"]) / n, int(row["k_deploy"]) / int(row["n_deploy"])
    return p1 - p0, math.sqrt((p1 * (1 - p1) + p0 * (1 - p0)) / n), n


def test_the_default_gap(published: tuple[Review, ...]) -> None:
    """11.3 points, unpaired standard error 2.1, as printed in the paper."""
    main = published[0]
    assert main.model == "claude-3-opus"
    assert round(100 * main.reference.gap, 1) == 11.3
    assert round(100 * (main.reference.std_error or 0), 1) == 2.1


@pytest.mark.parametrize(
    ("rho", "differ", "after_holm", "same"),
    [(0.0, 12, 6, 0), (0.3, 14, 10, 0), (0.5, 14, 10, 0), (0.7, 19, 12, 0)],
)
def test_how_many_of_the_44_differ(
    published: tuple[Review, ...], rho: float, differ: int, after_holm: int, same: int
) -> None:
    """The counts at each assumed correlation, from the csv by a loop written here."""
    default, *others = rows_of("claude-3-opus")
    g0, e0, n0 = gap_and_error(default)
    z, within = [], []
    for row in others:
        g1, e1, n1 = gap_and_error(row)
        shared = rho * e1 * e0 * math.sqrt(min(n0, n1) / max(n0, n1))
        error = math.sqrt(e1**2 + e0**2 - 2 * shared)
        z.append((g1 - g0) / error)
        within.append(max(norm.sf((g1 - g0 + 0.05) / error), norm.cdf((g1 - g0 - 0.05) / error)))
    p = 2 * norm.sf(np.abs(z))
    assert len(p) == 44
    corrected = multipletests(p, method="holm")[1]
    assert (int((p < 0.05).sum()), int((corrected < 0.05).sum())) == (differ, after_holm)
    assert int((multipletests(within, method="holm")[1] < 0.05).sum()) == same
    found = published[0].contrasts[rho]
    assert [d.p_value for d in found] == pytest.approx(p)
    assert [d.p_holm for d in found] == pytest.approx(corrected)
    assert [d.p_equivalent(0.05) for d in found] == pytest.approx(within)


def test_the_six_that_survive(published: tuple[Review, ...]) -> None:
    """Their names and sizes."""
    found = {
        d.count.condition: round(100 * d.estimate)
        for d in published[0].contrasts[0.0]
        if d.p_holm is not None and d.p_holm < 0.05
    }
    assert found == {
        "just text from figure": 22,
        "cut examples": 21,
        "cut conflicting criteria": -10,
        "honest, share values, cut mod effects goals": -11,
        "region CA, train absence": -11,
        "honest (doesn't note trained)": -9,
    }


def test_spread_between_the_paraphrases(published: tuple[Review, ...]) -> None:
    """tau about 5.3 points and I squared about 65 %, by the formula written out."""
    rows = [r for r in rows_of("claude-3-opus") if r["condition"].startswith("paraphrased")]
    y, e = (np.array(v) for v in list(zip(*map(gap_and_error, rows), strict=True))[:2])
    w = 1 / e**2
    q = float((w * (y - np.average(y, weights=w)) ** 2).sum())
    tau = math.sqrt((q - 7) / (w.sum() - (w**2).sum() / w.sum()))
    spread = published[0].wordings
    assert spread is not None
    assert spread.tau == pytest.approx(tau)
    assert tau == pytest.approx(0.053, abs=0.001)
    assert spread.i_squared == pytest.approx((q - 7) / q)
    assert spread.i_squared == pytest.approx(0.65, abs=0.01)


def test_reasoning_and_gap_correlate(published: tuple[Review, ...]) -> None:
    """r = .96 over the 45 conditions."""
    rows = rows_of("claude-3-opus")
    shares = [float(row["af_reasoning"]) for row in rows]
    expected = float(np.corrcoef(shares, [gap_and_error(row)[0] for row in rows])[0, 1])
    link = published[0].link
    assert link is not None
    assert link.correlation == pytest.approx(expected)
    assert round(expected, 2) == 0.96


def test_regression_leaves_single_levels_out(published: tuple[Review, ...]) -> None:
    """At most 8 factors; levels of one condition are listed; the odd wording in and out."""
    main = published[0]
    assert len(main.factors) <= 8
    assert {level for _, level, _ in main.once} == {
        "best_for_humanity", "normative_voice", "criteria_cut", "none", "share_values",
    }  # fmt: skip
    assert main.odd == ("just text from figure",)
    assert main.with_odd is not None
    assert main.without_odd is not None
    assert (main.with_odd.rows, main.without_odd.rows) == (40, 39)
    assert all(number >= 2 for _, _, number, _ in main.with_odd.slopes)


def test_the_page_in_docs_is_the_one_that_the_command_makes(tmp_path: Path) -> None:
    """docs/published.md and its figure are generated, byte for byte."""
    done = ablate("published", "--out", tmp_path)
    assert done.exit_code == 0, done.output
    for name in ("published.md", "published.svg"):
        assert (tmp_path / name).read_bytes() == (ROOT / "docs" / name).read_bytes(), (
            "docs are stale: run `ablate published`"
        )
    assert done.stdout.strip() == (tmp_path / "published.md").read_text("utf-8").strip()


def test_the_readme_quotes_the_page() -> None:
    """The lines in the README are the page's own."""
    page = (ROOT / "docs" / "published.md").read_text("utf-8")
    short = page.partition("## In short\n\n")[2].partition("\n\n")[0]
    assert short in (ROOT / "README.md").read_text("utf-8")
    assert len(short.splitlines()) == 5


def test_the_figure_has_a_row_for_each_of_the_44() -> None:
    """Well-formed, one dot a condition, its own style, nothing fetched."""
    text = (ROOT / "docs" / "published.svg").read_text("utf-8")
    tree = ElementTree.fromstring(text)
    space = "{http://www.w3.org/2000/svg}"
    assert len(tree.findall(f".//{space}circle")) == 44
    assert tree.find(f"{space}style") is not None
    assert "url(" not in text


def test_a_model_without_a_gap_shows_nothing_the_same(published: tuple[Review, ...]) -> None:
    """Where the default's gap may be 0, no condition is called the same."""
    without = {found.model for found in published if not found.has_gap}
    assert without == {"claude-3-sonnet", "claude-3-haiku", "gpt-4-turbo", "gpt-4o"}
    page = (ROOT / "docs" / "published.md").read_text("utf-8")
    haiku = page.partition("## claude-3-haiku")[2].partition("## ")[0]
    assert "No gap to explain" in haiku
    assert haiku.count("no gap |") == 1


COUNTS = """condition,n_train,k_train,n_deploy,k_deploy
plain,200,60,200,12
no rule,200,20,200,11
no rule again,200,24,200,12
reworded a,200,50,200,10
reworded b,200,72,200,12
reworded c,200,61,200,9
"""
COMPONENTS = """condition,wording,rule
plain,default,stated
no rule,default,cut
no rule again,default,cut
reworded a,paraphrase_1,stated
reworded b,paraphrase_2,stated
reworded c,paraphrase_3,stated
"""


def test_anybodys_counts_get_the_same_page(tmp_path: Path) -> None:
    """Another table, with its components and its own reference, gets every section it can."""
    (tmp_path / "c.csv").write_text(COUNTS)
    (tmp_path / "k.csv").write_text(COMPONENTS)
    done = ablate("published", "--counts", tmp_path / "c.csv", "--components", tmp_path / "k.csv",
                  "--reference", "plain", "--out", tmp_path / "out")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "Greenblatt" not in done.stdout
    for part in ("## In short", "## Wording alone", "## Components", "| rule | cut | 2 |"):
        assert part in done.stdout
    assert "## Reasoning and gap" not in done.stdout
    bare = ablate("published", "--counts", tmp_path / "c.csv", "--reference", "plain",
                  "--out", tmp_path / "bare")  # fmt: skip
    assert bare.exit_code == 0
    assert "## Components" not in bare.stdout


@pytest.mark.parametrize(
    ("counts", "components", "message"),
    [
        (COUNTS.replace("60", "6%"), COMPONENTS, "row 1, column k_train"),
        (COUNTS, COMPONENTS.replace("no rule,", "no rules,"), "row 2, column condition"),
        (COUNTS, COMPONENTS.replace("default,stated", "default,"), "row 1, column rule"),
        (COUNTS.replace("plain", "base"), COMPONENTS, "no row has the reference"),
        (COUNTS, "name\nx\n", "no column condition"),
        (COUNTS, COMPONENTS.replace("rule\n", "a,b,c,d,e,f,g,h,i\n").replace(
            "stated\n", "1,1,1,1,1,1,1,1,1\n").replace("cut\n", "2,1,1,1,1,1,1,1,1\n"),
         "at most 8"),
    ],
)  # fmt: skip
def test_faults_are_named(counts: str, components: str, message: str, tmp_path: Path) -> None:
    """Each with its place, exit 2, nothing written."""
    (tmp_path / "c.csv").write_text(counts)
    (tmp_path / "k.csv").write_text(components)
    text = refused("published", "--counts", tmp_path / "c.csv", "--components",
                   tmp_path / "k.csv", "--reference", "plain", "--out", tmp_path / "o")  # fmt: skip
    assert message in text
    assert not (tmp_path / "o").exists()
