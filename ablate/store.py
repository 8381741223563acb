"""The store: a study's ledger of paid answers and grades, and the tables joined from it.

Takes completions, failures and grades as they come; gives what is missing, and observations.
An answer counts only when it is on disk: SQLite in WAL mode with full synchronisation.
Does not know how a model is called or what a grade means.
"""

import contextlib
import re
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from ablate.models import Completion

__all__ = ["Failure", "Ledger", "LedgerError", "Row"]

_SCHEMA = """
create table if not exists answers (
    trial_id text primary key,
    text text not null,
    reasoning text,
    stop_reason text,
    input_tokens integer,
    output_tokens integer,
    request_id text,
    served_by text,
    body blob not null,
    retries integer not null,
    seconds real not null,
    answered_at text not null default (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
) without rowid;
create table if not exists failures (
    trial_id text not null,
    kind text not null,
    message text not null,
    failed_at text not null default (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
);
create table if not exists grades (
    trial_id text not null,
    grader text not null,
    instrument text not null,
    outcome text not null,
    value real,
    primary key (trial_id, grader, outcome)
) without rowid;
"""
# How many ids fit into one SQL statement's parameters with room to spare.
_CHUNK = 900
# Seconds that a write waits for another process: answers that it holds have been paid for.
_PATIENCE = 60.0
_SURROGATE = re.compile("[\ud800-\udfff]")


class LedgerError(RuntimeError):
    """A ledger that cannot be opened, written or shared; nothing in it is lost."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a call gave no answer; the trial stays missing and is tried again by the next run."""

    kind: str
    message: str


@dataclass(frozen=True, slots=True)
class Row:
    """What is to be written for one trial."""

    trial_id: str
    result: Completion | Failure


class Ledger:
    """A study's ledger. One process writes at a time: take `locked` around a run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            # A writer thread commits while the loop goes on; only one thread writes at a time.
            self._db = sqlite3.connect(
                path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False
            )
            for pragma in ("page_size=16384", "journal_mode=wal", "synchronous=full"):
                self._db.execute(f"pragma {pragma}")
            self._db.executescript(_SCHEMA)
        except sqlite3.Error as error:
            raise LedgerError(f"{path}: the ledger cannot be opened: {error}") from None

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the ledger for one run; another run of the same study is told who holds it."""
        import fcntl
        import os

        path = self.path.with_suffix(".lock")
        try:
            lock = path.open("a+", encoding="utf-8")
        except OSError as error:
            raise LedgerError(f"{path}: the lock cannot be taken: {error.strerror}") from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                lock.seek(0)
                holder = lock.read().strip() or "unknown"
                raise LedgerError(
                    f"{self.path}: process {holder} is running this study: wait for it or end it"
                ) from None
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            yield

    def append(self, rows: Sequence[Row]) -> None:
        """Write rows in one transaction and return when they are on disk. Raises LedgerError."""
        answers, failures = [], []
        for row in rows:
            if isinstance(row.result, Failure):
                failures.append((row.trial_id, row.result.kind, _storable(row.result.message)))
            else:
                answers.append(_answer_values(row.trial_id, row.result))
        with self._transaction():
            # Only a second answer is ignored: `or ignore` would drop an incomplete one as well.
            self._db.executemany(
                "insert into answers (trial_id, text, reasoning, stop_reason, "
                "input_tokens, output_tokens, request_id, served_by, body, retries, seconds) "
                "values (?,?,?,?,?,?,?,?,?,?,?) on conflict (trial_id) do nothing",
                answers,
            )
            self._db.executemany(
                "insert into failures (trial_id, kind, message) values (?,?,?)", failures
            )

    def answered(self) -> set[str]:
        """The trials with an answer."""
        return {row[0] for row in self._read("select trial_id from answers")}

    def answer_times(self, trial_ids: Iterable[str]) -> dict[str, str]:
        """When each answered trial among these was answered: UTC, ISO 8601 with milliseconds."""
        return dict(self._select("trial_id, answered_at", "answers", trial_ids))

    def answers(self, trial_ids: Iterable[str]) -> Iterator[tuple[str, str, str | None]]:
        """Trial, text and separate reasoning of the answered ones among `trial_ids`."""
        yield from self._select("trial_id, text, reasoning", "answers", trial_ids)

    def usage(self) -> pl.DataFrame:
        """Per answered trial: stop_reason, tokens, retries, seconds."""
        columns = ("trial_id", "stop_reason", "input_tokens", "output_tokens", "retries", "seconds")
        rows = list(self._read(f"select {', '.join(columns)} from answers"))
        return pl.DataFrame(rows, schema=list(columns), orient="row", infer_schema_length=None)

    def failure_counts(self, trial_ids: Iterable[str]) -> dict[str, int]:
        """Unanswered trials among these by the kind of their last failure."""
        answered = self.answered()
        last: dict[str, str] = {}
        for trial_id, kind in self._select("trial_id, kind", "failures", trial_ids):
            last[trial_id] = kind
        counts: dict[str, int] = {}
        for trial_id, kind in last.items():
            if trial_id not in answered:
                counts[kind] = counts.get(kind, 0) + 1
        return counts

    def graded(self, grader: str, instrument: str) -> set[str]:
        """The trials that this very instrument has graded."""
        query = "select distinct trial_id from grades where grader = ? and instrument = ?"
        return {row[0] for row in self._read(query, (grader, instrument))}

    def instruments(self, grader: str, trial_ids: Iterable[str]) -> dict[str, str]:
        """The instrument that each trial among these is graded with, under a grader's name."""
        rows = self._select("trial_id, grader, instrument", "grades", trial_ids)
        return {trial_id: instrument for trial_id, name, instrument in rows if name == grader}

    def add_grades(
        self, grader: str, instrument: str, grades: Iterable[tuple[str, Mapping[str, float | None]]]
    ) -> None:
        """Write one row per trial and outcome; what the grader gave these trials before goes."""
        grades = list(grades)
        rows = [
            (trial_id, grader, instrument, outcome, value)
            for trial_id, values in grades
            for outcome, value in values.items()
        ]
        with self._transaction():
            self._db.executemany(
                "delete from grades where grader = ? and trial_id = ?",
                [(grader, trial_id) for trial_id, _ in grades],
            )
            self._db.executemany("insert or replace into grades values (?,?,?,?,?)", rows)

    def grades(self, grader: str) -> pl.DataFrame:
        """One row per trial, one column per outcome of a grader; null where it could not tell."""
        rows = list(
            self._read("select trial_id, outcome, value from grades where grader = ?", (grader,))
        )
        schema = {"trial_id": pl.String, "outcome": pl.String, "value": pl.Float64}
        long = pl.DataFrame(rows, schema=schema, orient="row")
        return long.pivot("outcome", index="trial_id", values="value")

    def _select(self, columns: str, table: str, trial_ids: Iterable[str]) -> Iterator[Any]:
        ids = list(trial_ids)
        for start in range(0, len(ids), _CHUNK):
            chunk = ids[start : start + _CHUNK]
            marks = ",".join("?" * len(chunk))
            yield from self._read(
                f"select {columns} from {table} where trial_id in ({marks})", chunk
            )

    def _read(self, query: str, values: Sequence[str] = ()) -> Iterator[Any]:
        try:
            yield from self._db.execute(query, values)
        except sqlite3.Error as error:
            raise LedgerError(f"{self.path}: cannot be read: {error}") from None

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """Commit all or nothing. Raises LedgerError, whatever it is that SQLite cannot take."""
        try:
            self._db.execute("begin immediate")
            try:
                yield
                self._db.execute("commit")
            except BaseException:
                # A full disk ends the transaction by itself.
                if self._db.in_transaction:
                    self._db.execute("rollback")
                raise
        except (sqlite3.Error, ValueError, OverflowError) as error:
            raise LedgerError(
                f"{self.path}: cannot be written: {error}; what was written before is safe"
            ) from None


def _answer_values(trial_id: str, completion: Completion) -> tuple[Any, ...]:
    return (
        trial_id,
        _storable(completion.text),
        _storable(completion.reasoning),
        _storable(completion.stop_reason),
        completion.input_tokens,
        completion.output_tokens,
        _storable(completion.request_id),
        _storable(completion.served_by),
        zlib.compress(completion.body, 1),
        completion.retries,
        completion.seconds,
    )


def _storable(text: str | None) -> str | None:
    """The text with U+FFFD for lone surrogates, which UTF-8 cannot hold; the body keeps them."""
    return None if text is None else _SURROGATE.sub("\ufffd", text)
