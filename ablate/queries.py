"""Query sets: the user messages of a study, read from csv, jsonl or parquet.

Takes a file with the columns `query_id, text` and, optionally, `category, role`; gives queries.
Does not know scenarios or plans.
"""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import polars as pl

__all__ = ["Query", "QueryError", "load_queries"]

ROLES = ("target", "control")


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
    try:
        frame = _read(path)
    except FileNotFoundError:
        raise QueryError([f"{path}: there is no such file"]) from None
    except (pl.exceptions.PolarsError, json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise QueryError([f"{path}: cannot be read: {first}"]) from None
    missing = [column for column in ("query_id", "text") if column not in frame.columns]
    if missing:
        names = " and ".join(f"`{column}`" for column in missing)
        raise QueryError([f"{path}: no column {names}; it has {', '.join(frame.columns)}"])
    for column, default in (("category", ""), ("role", "target")):
        if column not in frame.columns:
            frame = frame.with_columns(pl.lit(default).alias(column))
    frame = frame.select(pl.col("query_id", "text", "category", "role").cast(pl.String))
    queries = tuple(
        Query(row["query_id"] or "", row["text"] or "", row["category"] or "", row["role"] or "")
        for row in frame.iter_rows(named=True)
    )
    problems = _problems(queries, path)
    if problems:
        raise QueryError(problems)
    return queries


def _read(path: Path) -> pl.DataFrame:
    match path.suffix:
        case ".csv":
            return pl.read_csv(path, infer_schema=False)
        case ".jsonl":
            lines = path.read_text("utf-8").splitlines()
            return pl.DataFrame([json.loads(line) for line in lines if line.strip()])
        case ".parquet":
            return pl.read_parquet(path)
    raise QueryError([f"{path}: a query set ends in .csv, .jsonl or .parquet"])


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
        counts = Counter(getattr(query, column) for query in queries)
        problems += [
            f"{path}: {column} {value[:60]!r} stands {count} times: each must be its own"
            for value, count in counts.items()
            if count > 1 and value.strip()
        ]
    if not any(query.role == "target" for query in queries):
        problems.append(f"{path}: no query has role target: a gap needs at least two")
    return problems
