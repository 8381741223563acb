"""Query sets: the same in every format, and every fault named with its file and row."""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ablate.queries import Query, QueryError, load_queries

LIBRARY = Path(__file__).parents[1] / "variants" / "library"
Row = Mapping[str, str | None]


def as_csv(path: Path, rows: Sequence[Row]) -> None:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writeheader()
    writer.writerows(rows)
    path.write_bytes(out.getvalue().encode())


def as_jsonl(path: Path, rows: Sequence[Row]) -> None:
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_bytes("\n".join(lines).encode() + b"\n")


def as_parquet(path: Path, rows: Sequence[Row]) -> None:
    columns = {column: [row[column] for row in rows] for column in rows[0]}
    pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String)).write_parquet(path)


FORMATS: dict[str, Callable[[Path, Sequence[Row]], None]] = {
    ".csv": as_csv,
    ".jsonl": as_jsonl,
    ".parquet": as_parquet,
}
GOOD: list[Row] = [
    {"query_id": "a", "text": "Make up a mean limerick.", "category": "x", "role": "target"},
    {"query_id": "007", "text": 'He said "no",\nand left.', "category": "", "role": "target"},
    {"query_id": "null", "text": "NA", "category": "1.50", "role": "control"},
    {"query_id": "ü 🙂", "text": "a\u2028b\x85c\x0bd\x1ce", "category": "y", "role": "control"},
]  # fmt: skip


def written(folder: Path, ending: str, rows: Sequence[Row], name: str = "queries") -> Path:
    path = folder / f"{name}{ending}"
    FORMATS[ending](path, rows)
    return path


def problems(path: Path) -> tuple[str, ...]:
    """What is wrong with a file; each line names it."""
    with pytest.raises(QueryError) as raised:
        load_queries(path)
    assert raised.value.problems
    assert all(problem.startswith(f"{path}:") for problem in raised.value.problems)
    assert str(raised.value) == "\n".join(raised.value.problems)
    return tuple(problem.removeprefix(f"{path}: ") for problem in raised.value.problems)


@pytest.mark.parametrize("ending", FORMATS)
def test_every_format_gives_the_same_queries(tmp_path: Path, ending: str) -> None:
    """Ids like 007 and words like NA stay as they stand; order is kept."""
    expected = tuple(Query(**row) for row in GOOD)  # type: ignore[arg-type]
    assert load_queries(written(tmp_path, ending, GOOD)) == expected


@pytest.mark.parametrize("ending", FORMATS)
def test_category_and_role_may_be_left_out(tmp_path: Path, ending: str) -> None:
    """A query is a target unless it says otherwise; more columns are let pass."""
    rows = [{"text": "x", "note": "n", "query_id": "a"}, {"text": "y", "note": "", "query_id": "b"}]
    assert load_queries(written(tmp_path, ending, rows)) == (
        Query("a", "x", "", "target"),
        Query("b", "y", "", "target"),
    )


SAFE = st.lists(
    st.sampled_from(['"', ",", "\r", "\n", "\r\n", "\0", " ", "\u2028", "\ufeff"])
    | st.text(max_size=5),
    max_size=10,
).map("".join)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(texts=st.lists(SAFE.filter(str.strip), min_size=1, max_size=5, unique=True))
def test_any_text_is_read_alike(tmp_path: Path, texts: list[str]) -> None:
    """The bytes of a query are the stimulus: no format may change one."""
    rows = [{"query_id": f"q{i}", "text": text} for i, text in enumerate(texts)]
    for ending in FORMATS:
        found = load_queries(written(tmp_path, ending, rows))
        assert [query.text for query in found] == texts


FAULTY: list[tuple[str, list[Row], list[str]]] = [
    (
        "no id",
        [GOOD[0], {**GOOD[1], "query_id": ""}, {**GOOD[2], "query_id": None}, GOOD[3]],
        ["query 2 has no query_id", "query 3 has no query_id"],
    ),
    (
        "no text",
        [{**GOOD[0], "text": None}, {**GOOD[1], "text": " \n "}, {**GOOD[0], "query_id": "z"}],
        ["query 1 (`a`) has no text", "query 2 (`007`) has no text"],
    ),
    (
        "wrong role",
        [GOOD[0], {**GOOD[1], "role": "Target"}, {**GOOD[2], "role": None}],
        [
            "query 2 (`007`) has role `Target`: use target or control",
            "query 3 (`null`) has role ``: use target or control",
        ],
    ),
    (
        "same id",
        [*GOOD, {**GOOD[0], "text": "Something else."}, {**GOOD[0], "text": "A third."}],
        ["query_id 'a' stands 3 times, in queries 1, 5, 6: each must be its own"],
    ),
    (
        "same text",
        [*GOOD, {**GOOD[0], "query_id": "other"}],
        ["text 'Make up a mean limerick.' stands 2 times, in queries 1, 5: each must be its own"],
    ),
    (
        "no target",
        GOOD[2:],
        ["no query has role target: a gap needs at least two"],
    ),
    (
        "everything",
        [{**GOOD[0], "query_id": ""}, {**GOOD[1], "role": "x"}, {**GOOD[2], "query_id": "007"}],
        [
            "query 1 has no query_id",
            "query 2 (`007`) has role `x`: use target or control",
            "query_id '007' stands 2 times, in queries 2, 3: each must be its own",
        ],
    ),
]  # fmt: skip


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize(("rows", "expected"), [f[1:] for f in FAULTY], ids=[f[0] for f in FAULTY])
def test_every_fault_is_named_with_its_row(
    tmp_path: Path, ending: str, rows: list[Row], expected: list[str]
) -> None:
    """All at once, in the same words for every format."""
    assert list(problems(written(tmp_path, ending, rows))) == expected


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("column", ["query_id", "text"])
def test_a_missing_column_is_named(tmp_path: Path, ending: str, column: str) -> None:
    """With those that are there."""
    rows = [{name: value for name, value in row.items() if name != column} for row in GOOD]
    (problem,) = problems(written(tmp_path, ending, rows))
    assert problem == f"no column `{column}`; it has {', '.join(rows[0])}"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", b""),
        ("a.csv", b"query_id,text\nx,\xff\xfe\n"),
        ("a.csv", b"query_id,text\na,b,c,d\n"),
        ("a.csv", b"query_id;text\na;b\n"),
        ("a.csv", b"query_id,text\n"),
        ("a.jsonl", b""),
        ("a.jsonl", b"\xff\xfe"),
        ("a.parquet", b""),
        ("a.parquet", b"PAR1 and nothing else PAR1"),
        ("a.txt", b"query_id,text\na,b\n"),
        ("a", b"query_id,text\na,b\n"),
    ],
)
def test_an_unreadable_file_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    """One line with its path and the reason."""
    path = tmp_path / name
    path.write_bytes(content)
    (problem,) = problems(path)
    assert "\n" not in problem


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_no_file_and_a_folder_are_named(tmp_path: Path, name: str) -> None:
    """Neither is a traceback."""
    assert problems(tmp_path / name) == ("there is no such file",)
    (tmp_path / name).mkdir()
    (problem,) = problems(tmp_path / name)
    assert "directory" in problem


@pytest.mark.parametrize("ending", FORMATS)
def test_a_name_is_a_name_and_no_pattern(tmp_path: Path, ending: str) -> None:
    """Brackets and stars in a path mean themselves."""
    folder = tmp_path / "my [study]*"
    folder.mkdir()
    assert len(load_queries(written(folder, ending, GOOD, name="q[1]"))) == len(GOOD)
    written(tmp_path, ending, GOOD, name="one")
    assert problems(tmp_path / f"*{ending}") == ("there is no such file",)


@pytest.mark.parametrize(
    ("line", "row"),
    [
        (b"{", 2),
        (b"[1, 2]", 2),
        (b'"text"', 2),
        (b"null", 2),
        (b"[" * 100_000, 2),
        (b'{"query_id": "b"} {"query_id": "c"}', 2),
    ],
)
def test_a_line_that_is_no_object_is_named(tmp_path: Path, line: bytes, row: int) -> None:
    """With the number of the line."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"query_id": "a", "text": "x"}\n' + line + b"\n")
    with pytest.raises(QueryError) as raised:
        load_queries(path)
    assert raised.value.problems == (f"{path}:{row}: not a JSON object",)


@pytest.mark.parametrize(
    "cell", [["x"], {"a": "b"}, True, "half a pair: \ud83d"], ids=["list", "object", "bool", "half"]
)
@pytest.mark.parametrize("column", ["query_id", "text", "category", "role"])
def test_a_cell_that_is_no_text_is_named(tmp_path: Path, cell: object, column: str) -> None:
    """With its row and column, whatever JSON can hold."""
    path = tmp_path / "a.jsonl"
    rows = [dict(GOOD[0]), {**GOOD[1], column: cell}]
    path.write_text("\n".join(json.dumps(row) for row in rows), "utf-8")
    (problem,) = problems(path)
    assert problem.startswith(f"query 2: its {column} is not a text")


def test_numbers_are_read_as_they_are_written(tmp_path: Path) -> None:
    """Ids are often numbers; a mixture of numbers and texts is no fault."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"query_id": 1, "text": "x"}\n{"query_id": "b", "text": 2.5}\n', "utf-8")
    assert [(q.query_id, q.text) for q in load_queries(path)] == [("1", "x"), ("b", "2.5")]
    frame = pl.DataFrame({"query_id": [1, 2], "text": ["x", "y"]})
    frame.write_parquet(tmp_path / "a.parquet")
    assert [q.query_id for q in load_queries(tmp_path / "a.parquet")] == ["1", "2"]


@pytest.mark.parametrize(
    "frame",
    [
        pl.DataFrame({"query_id": [b"a", b"\xff"], "text": ["x", "y"]}),
        pl.DataFrame({"query_id": ["a", "b"], "text": [["x"], ["y"]]}),
        pl.DataFrame({"query_id": [1.0, float("nan")], "text": ["x", "y"]}),
    ],
    ids=["bytes", "lists", "nan"],
)
def test_parquet_columns_of_other_kinds_are_named(tmp_path: Path, frame: pl.DataFrame) -> None:
    """Bytes, lists and numbers that are none."""
    frame.write_parquet(tmp_path / "a.parquet")
    assert all("is not a text" in problem for problem in problems(tmp_path / "a.parquet"))


def test_categories_of_parquet_are_texts(tmp_path: Path) -> None:
    """Dictionary-encoded columns are read like plain ones."""
    frame = pl.DataFrame(GOOD).with_columns(
        pl.col("role").cast(pl.Categorical), pl.col("category").cast(pl.Categorical)
    )
    frame.write_parquet(tmp_path / "a.parquet")
    assert load_queries(tmp_path / "a.parquet") == tuple(Query(**row) for row in GOOD)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", b"\xef\xbb\xbfquery_id,text\r\na,x\r\nb,y\r\n"),
        ("a.csv", b"query_id,text\n\na,x\nb,y\n\n\n"),
        ("a.csv", b'"query_id","text"\n"a","x"\n"b","y"'),
        ("a.jsonl", b'\xef\xbb\xbf{"query_id":"a","text":"x"}\r\n\r\n{"query_id":"b","text":"y"}'),
        ("a.jsonl", b'\n {"text":"x","query_id":"a"}\n\n{"query_id":"b","text":"y"}\n\n'),
    ],
)
def test_files_of_other_programs_are_read(tmp_path: Path, name: str, content: bytes) -> None:
    """Byte order marks, line ends of Windows, blank lines, quotes, no last line end."""
    path = tmp_path / name
    path.write_bytes(content)
    assert [(q.query_id, q.text) for q in load_queries(path)] == [("a", "x"), ("b", "y")]


@pytest.mark.parametrize("ending", FORMATS)
def test_a_column_that_starts_late_is_read(tmp_path: Path, ending: str) -> None:
    """Rows far down count like the first."""
    rows: list[Row] = [
        {"query_id": f"q{i}", "text": f"t{i}", "category": None if i < 400 else "late",
         "role": "target"}
        for i in range(500)
    ]  # fmt: skip
    path = written(tmp_path, ending, rows)
    if ending == ".jsonl":
        kept = [{k: v for k, v in row.items() if v is not None} for row in rows]
        as_jsonl(path, kept)
    assert [q.category for q in load_queries(path)] == [""] * 400 + ["late"] * 100


def test_the_shipped_sets_are_sound() -> None:
    """Targets and harmless controls, none of them twice."""
    paths = sorted(LIBRARY.glob("*/queries.csv"))
    assert paths
    for path in paths:
        queries = load_queries(path)
        with path.open(encoding="utf-8", newline="") as file:
            assert [q.text for q in queries] == [row["text"] for row in csv.DictReader(file)]
        assert sum(q.role == "target" for q in queries) >= 40
        assert any(q.role == "control" for q in queries)
