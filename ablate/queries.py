"""Query sets: the user messages of a study, read from csv, jsonl or parquet.

Takes a file with the columns `query_id, text` and, optionally, `category, role`, or somebody
else's with columns of other names; gives queries. Does not know scenarios or plans.
"""

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

__all__ = ["Query", "QueryError", "adopt_queries", "load_queries", "save_queries"]

COLUMNS = ("query_id", "text", "category", "role")
ROLES = ("target", "control")
# What published query sets call these columns, in lower case, the most telling first.
OTHER_NAMES = {
    "text": (
        "text", "query", "prompt", "question", "behavior", "behaviour", "goal", "request",
        "instruction", "forbidden_prompt", "user_input", "input", "content", "message", "user",
    ),
    "query_id": ("query_id", "id", "behaviorid", "behavior_id", "question_id", "index", "key"),
    "category": (
        "category", "semanticcategory", "functionalcategory", "topic", "type", "label", "subject",
    ),
    "role": ("role",),
}  # fmt: skip


class QueryError(ValueError):
    """A query set that cannot be used; `problems` holds every fault found."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(problems))


@dataclass(frozen=True, slots=True)
class Query:
    """A user message; `role` is target (enters gaps) or control (harmless, never does)."""

    query_id: str
    text: str
    category: str
    role: str


def load_queries(path: Path) -> tuple[Query, ...]:
    """Read a query set; the format is that of the file's ending. Raises QueryError."""
    return _queries(_rows(path), path)


def adopt_queries(path: Path) -> tuple[Query, ...]:
    """Read a query set whose columns may have other names, such as those of published sets.

    Queries without an id are numbered `q0001` and so on. Raises QueryError, and names the columns
    when none of them holds the texts.
    """
    rows = _rows(path)
    columns = list(dict.fromkeys(column for row in rows for column in row))
    named = {column.strip().lower(): column for column in reversed(columns)}
    found = {
        ours: next((named[other] for other in others if other in named), None)
        for ours, others in OTHER_NAMES.items()
    }
    if rows and found["text"] is None:
        raise QueryError(
            [
                f"{path}: no column of texts: it has {', '.join(columns) or 'none'}; "
                "call the one with the queries `text`"
            ]
        )
    adopted = [
        {ours: row.get(theirs) for ours, theirs in found.items() if theirs is not None}
        for row in rows
    ]
    if found["query_id"] is None:
        adopted = [{"query_id": f"q{n:04d}"} | row for n, row in enumerate(adopted, start=1)]
    return _queries(adopted, path)


def save_queries(queries: Iterable[Query], path: Path) -> None:
    """Write a query set as csv."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows((q.query_id, q.text, q.category, q.role) for q in queries)


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        return _read(path)
    except FileNotFoundError:
        raise QueryError([f"{path}: there is no such file"]) from None
    except (pl.exceptions.PolarsError, UnicodeError, OSError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise QueryError([f"{path}: cannot be read: {first}"]) from None


def _queries(rows: list[dict[str, Any]], path: Path) -> tuple[Query, ...]:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    missing = [column for column in ("query_id", "text") if column not in columns]
    if rows and missing:
        names = " and ".join(f"`{column}`" for column in missing)
        raise QueryError([f"{path}: no column {names}; it has {', '.join(columns)}"])
    unfit = [
        f"{path}: query {number}: its {column} is not a text: {value!r:.60}"
        for number, row in enumerate(rows, start=1)
        for column in COLUMNS
        if not _is_text(value := row.get(column, ""))
    ]
    if unfit:
        raise QueryError(unfit)
    if "role" not in columns:
        rows = [row | {"role": "target"} for row in rows]
    queries = tuple(Query(*(_text(row.get(column)) for column in COLUMNS)) for row in rows)
    problems = _problems(queries, path)
    if problems:
        raise QueryError(problems)
    return queries


def _read(path: Path) -> list[dict[str, Any]]:
    """The rows of a file; a cell that is not there is None or has no key."""
    match path.suffix:
        case ".csv":
            # Given a path, polars would take its brackets and stars for a pattern.
            rows = pl.read_csv(path.read_bytes(), infer_schema=False).to_dicts()
            return [row for row in rows if any(cell is not None for cell in row.values())]
        case ".jsonl":
            return list(_json_rows(path))
        case ".parquet":
            return pl.read_parquet(path.read_bytes()).to_dicts()
    raise QueryError([f"{path}: a query set ends in .csv, .jsonl or .parquet"])


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    # Not splitlines: a JSON string may hold U+2028 and other characters that end a line there.
    lines = path.read_text("utf-8-sig").split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise QueryError([f"{path}:{number}: not a JSON object"])
        yield row


def _is_text(value: object) -> bool:
    """Whether a cell can be a text of ours: ids are often numbers; what is missing is empty."""
    if isinstance(value, str):
        return not any("\ud800" <= character <= "\udfff" for character in value)
    number = isinstance(value, int | float) and not isinstance(value, bool) and value == value
    return value is None or number


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _problems(queries: tuple[Query, ...], path: Path) -> list[str]:
    problems = []
    for row, query in enumerate(queries, start=1):
        where = f"{path}: query {row} (`{query.query_id}`)"
        if not query.query_id.strip():
            problems.append(f"{path}: query {row} has no query_id")
        if not query.text.strip():
            problems.append(f"{where} has no text")
        if query.role not in ROLES:
            problems.append(f"{where} has role `{query.role}`: use target or control")
    for column in ("query_id", "text"):
        places: dict[str, list[int]] = {}
        for row, query in enumerate(queries, start=1):
            places.setdefault(getattr(query, column), []).append(row)
        problems += [
            f"{path}: {column} {value[:60]!r} stands {len(rows)} times, in queries "
            f"{', '.join(map(str, rows))}: each must be its own"
            for value, rows in places.items()
            if len(rows) > 1 and value.strip()
        ]
    if not any(query.role == "target" for query in queries):
        problems.append(f"{path}: no query has role target: a gap needs at least two")
    return problems
