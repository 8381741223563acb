"""docs/method.md against the code: names, papers, constants, notes and links that it speaks of."""

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import polars as pl
import pytest

from analysis import estimates, fit
from analysis.covariance import Covariance, Kind

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
DATA = ROOT / "tests" / "reference" / "data"
MODULES = {path.stem: path for path in (ROOT / "analysis").glob("*.py")}
METHOD = (DOCS / "method.md").read_text("utf-8")
# Rooms that estimate nothing: the table that comes in, and what is printed and drawn.
NO_ESTIMATES = {"__init__", "observations", "plots", "tables"}
ONLY = "**Function only.**"

NAME = r"(?:[A-Z][\w-]*[a-z]\w*)"
CITATION = re.compile(
    rf"({NAME}(?:(?:, and|,| and) {NAME})*(?: et al\.)?),? \(?((?:18|19|20)\d\d)\b"
)


def sections() -> dict[str, str]:
    """Text of every section of second rank by its heading."""
    parts = re.split(r"^## (.+)$", METHOD, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def cited(text: str) -> set[str]:
    """Papers as `Name, Name 2000`, whatever stands between the names and around the year."""
    found = set()
    for names, year in CITATION.findall(" ".join(text.split())):
        people = re.split(r", and |, | and ", names)
        # An acronym before the first name is not an author.
        people = [person for person in people if re.search("[a-z]", person[1:])]
        found.add(f"{', '.join(people)} {year}")
    return found


def docstrings(path: Path) -> Iterator[str]:
    """Docstrings of a module, its classes and its functions."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, kinds) and (text := ast.get_docstring(node)):
            yield text


def imported(path: Path) -> set[str]:
    """Modules of analysis that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("analysis."):
            found.add((node.module or "").split(".")[1])
        elif isinstance(node, ast.ImportFrom) and node.module == "analysis":
            found |= {alias.name for alias in node.names} & set(MODULES)
    return found


def used() -> set[str]:
    """Modules of analysis that a command reaches: from ablate, or through the fit."""
    left = {"fitting"}.union(*map(imported, (ROOT / "ablate").rglob("*.py")))
    found: set[str] = set()
    while left:
        name = left.pop()
        found.add(name)
        left |= imported(MODULES[name]) - found
    return found


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def rows(section: str) -> list[list[str]]:
    """Cells of the table of a section, without its header."""
    lines = [line for line in sections()[section].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def fitted(name: str) -> list[dict[str, object]]:
    """Rows of coefficients.csv of a stored table."""
    frame = pl.read_csv(DATA / f"{name}.csv")
    factors = [c for c in frame.columns if c not in ("query", "wording", "arm", "y")]
    found = fit(
        frame,
        factors=factors,
        outcomes=["y"],
        query="query",
        covariance=get_args(Kind),
        sensitivity=False,
    )
    return list(found.coefficients.iter_rows(named=True))


@pytest.mark.parametrize("name", [n for n in estimates.__all__ if n.isupper()])
def test_every_estimand_is_there(name: str) -> None:
    """Each name that may stand in the column `estimand` is in the text."""
    value = getattr(estimates, name)
    if isinstance(value, str):
        assert f"`{value}`" in METHOD


def test_every_fit_and_its_covariance_is_there() -> None:
    """What coefficients.csv holds for overlapping and for separated trials is in its section."""
    found = [row for name in ("balanced", "separated") for row in fitted(name)]
    section = sections()["Coefficients"]
    # An independent count of the fits: a table that lost one would otherwise pass.
    fits = {str(row["fit"]) for row in found}
    assert fits == {"lpm", "logit", "firth", "gee", "clogit", "glmm"}
    for heading in fits:
        assert f"### {heading}\n" in section
    for kind in {str(row["covariance"]) for row in found}:
        assert re.search(rf"(?<!\w){kind}(?!\w)", section), kind


def test_every_covariance_is_there() -> None:
    """All kinds of clustered errors have a row in the table of errors."""
    kinds = {row.split("|")[1].strip() for row in METHOD.splitlines() if row.startswith("| CR")}
    assert kinds == set(get_args(Kind))
    every = {
        name for kind in get_args(Covariance.__annotations__["kind"]) for name in get_args(kind)
    }
    assert every - kinds == {"two-way CR1"}
    assert re.search(r"^\| two-way \| CR1 ", METHOD, re.MULTILINE)


@pytest.mark.parametrize("module", sorted(set(MODULES) - NO_ESTIMATES))
def test_every_estimator_has_a_section(module: str) -> None:
    """Each module that estimates something is named where its number is explained."""
    assert any(f"`analysis/{module}.py`" in text for text in sections().values())


def test_modules_without_a_section_estimate_nothing() -> None:
    """The exceptions are files that exist, and none of them cites a paper."""
    for module in NO_ESTIMATES:
        assert not cited("\n".join(docstrings(MODULES[module])))


def test_named_files_and_functions_exist() -> None:
    """`analysis/x.py` is a file, and the names in brackets after it are its own."""
    found = re.findall(r"`analysis/(\w+)\.py`(?: \(((?:`\w+`(?:, )?)+)\))?", METHOD)
    assert len(found) > len(MODULES) - len(NO_ESTIMATES) - 1
    for module, names in found:
        room = importlib.import_module(f"analysis.{module}")
        for name in re.findall(r"\w+", names):
            assert hasattr(room, name), f"analysis/{module}.py has no {name}"


def test_function_only_is_true() -> None:
    """Sections so marked are those of modules that no command reaches, and of no others."""
    reached = used()
    for heading, text in sections().items():
        named = set(re.findall(r"`analysis/(\w+)\.py`", text))
        if ONLY in text:
            assert not named & reached, f"`{heading}` is used by a command: leave {ONLY} out"
        else:
            assert named <= reached, f"`{heading}`: no command uses {named - reached}: say {ONLY}"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_every_cited_paper_is_there(module: str) -> None:
    """What a docstring cites stands in the list of papers."""
    listed = cited(sections()["Papers"])
    assert cited("\n".join(docstrings(MODULES[module]))) <= listed


def test_papers_are_found_in_all_their_spellings() -> None:
    """The search for citations itself, on lines as docstrings write them."""
    text = """Of Cameron, Gelbach and Miller\n (2011); MOVER, Zou and Donner 2008; Gail, Lubin,
    Rubinstein 1981; DerSimonian and Laird 1986, with; Higgins et al. 2009. Not in May, 400 of
    2000, nor Paule and Mandel (Viechtbauer 2007) or (Newcombe 1998, method 10)."""
    assert cited(text) == {
        "Cameron, Gelbach, Miller 2011",
        "Zou, Donner 2008",
        "Gail, Lubin, Rubinstein 1981",
        "DerSimonian, Laird 1986",
        "Higgins et al. 2009",
        "Viechtbauer 2007",
        "Newcombe 1998",
    }


def test_papers_of_the_text_and_of_the_list_are_the_same() -> None:
    """Each paper of a section is listed, each listed one is named in a section, in order."""
    named = {
        paper
        for heading, text in sections().items()
        if heading != "Papers"
        for paper in cited(text)
    }
    lines = [line for line in sections()["Papers"].splitlines() if line.startswith("- ")]
    first = [next(iter(cited(line.split(". ")[0] + "."))) for line in lines if "et al." not in line]
    assert first == sorted(first)
    assert named <= cited(sections()["Papers"])
    assert set(first) <= named


def test_chosen_numbers_are_those_of_the_code() -> None:
    """Every row of the table has the value that the constant has."""
    table = rows("Numbers that were chosen")
    assert len(table) > 25
    for constant, value, _ in table:
        module, name = constant.strip("`").split(".")
        room = importlib.import_module(f"analysis.{module}")
        assert getattr(room, name) == pytest.approx(float(value)), constant


def test_notes_are_those_of_the_code() -> None:
    """Every note that is explained is written by some module."""
    source = "\n".join(path.read_text("utf-8") for path in MODULES.values())
    for note, _ in rows("What notes say"):
        text = note.strip("`")
        assert f'"{text}' in source, text


def test_links_resolve() -> None:
    """Links lead to files of the project and to headings that are there; data.md leads here."""
    links = re.findall(r"\]\(([^)]+)\)", METHOD)
    assert links
    for link in links:
        name, _, anchor = link.partition("#")
        target = DOCS / name if name else DOCS / "method.md"
        assert target.is_file(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text("utf-8"), flags=re.MULTILINE)
            assert anchor in map(slug, headings), link
    assert "](method.md)" in (DOCS / "data.md").read_text("utf-8")
