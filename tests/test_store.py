"""The ledger: what is written is on disk, once, as it came; what cannot be written says so."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ablate.models import Completion
from ablate.store import Failure, Ledger, LedgerError, Row

TEXTS = st.lists(
    st.sampled_from(["a", "\0", "\r\n", "\ud800", "\udfff", "🙂"]) | st.text(max_size=5),
    max_size=20,
).map("".join)
ANSWER = Completion(
    text="Fine.",
    reasoning=None,
    stop_reason="end_turn",
    input_tokens=7,
    output_tokens=3,
    request_id="req_1",
    served_by="served-1",
    body=b'{"type": "message"}',
    retries=0,
    seconds=0.5,
)
# What a script needs to write rows of its own, and what it says when it has.
WRITER = """
import fcntl, os, resource, signal, sys, time
from pathlib import Path
from ablate.models import Completion
from ablate.store import Failure, Ledger, LedgerError, Row

def row(trial, text="Fine.", size=0):
    body = os.urandom(size)
    return Row(trial, Completion(text, None, "end_turn", 7, 3, "r", "m", body, 0, 0.5))

path = Path(sys.argv[1])
"""


def rows(*trials: str, text: str = "Fine.") -> list[Row]:
    return [Row(trial, replace(ANSWER, text=text)) for trial in trials]


def stored(path: Path, columns: str = "*", table: str = "answers") -> list[tuple[object, ...]]:
    """The rows of a table by a connection of its own."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        return db.execute(f"select {columns} from {table}").fetchall()


def without_surrogates(text: str) -> str:
    return "".join("\ufffd" if 0xD800 <= ord(c) <= 0xDFFF else c for c in text)


@contextlib.contextmanager
def script(code: str, *arguments: object) -> Iterator["subprocess.Popen[str]"]:
    """A process of its own that runs WRITER and this code; ended at the latest here."""
    command = [sys.executable, "-u", "-c", WRITER + code, *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    guard = threading.Timer(60, process.kill)
    guard.start()
    try:
        yield process
    finally:
        guard.cancel()
        process.kill()
        process.wait(timeout=10)
        assert process.stdout is not None
        process.stdout.close()


def said(code: str, *arguments: object) -> str:
    """Everything that such a process prints until it ends."""
    with script(code, *arguments) as process:
        return process.communicate(timeout=60)[0]


def test_a_row_is_on_disk_when_append_returns(tmp_path: Path) -> None:
    """A process killed with SIGKILL in the very next line leaves all of its rows."""
    path = tmp_path / "ledger.sqlite"
    code = (
        "ledger = Ledger(path)\n"
        "ledger.append([row(str(i)) for i in range(100)] + [Row('f', Failure('http 400', 'no'))])\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    with script(code, path) as process:
        assert process.wait(timeout=60) == -signal.SIGKILL
    with Ledger(path) as ledger:
        assert ledger.answered() == {str(i) for i in range(100)}
        assert ledger.failure_counts(["f"]) == {"http 400": 1}


def test_killed_at_any_moment_it_keeps_what_it_acknowledged(tmp_path: Path) -> None:
    """Every row whose append returned is there, and the file is sound."""
    for number, wait in enumerate((0.02, 0.05, 0.11)):
        path = tmp_path / f"ledger{number}.sqlite"
        code = (
            "ledger = Ledger(path)\n"
            "for i in range(10**9):\n"
            "    ledger.append([row(f'{i}-{k}', size=20_000) for k in range(3)])\n"
            "    os.write(1, b'%d\\n' % i)\n"
        )
        with script(code, path) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(wait)
            process.kill()
            lines = process.stdout.read().split("\n")[:-1]
        with Ledger(path) as ledger:
            answered = ledger.answered()
        for i in range(int(lines[-1]) + 1 if lines else 1):
            assert {f"{i}-{k}" for k in range(3)} <= answered
        assert stored(path, "*", "pragma_integrity_check") == [("ok",)]


def test_the_settings_that_make_it_durable_are_in_force(tmp_path: Path) -> None:
    """Pages of 16 KiB, write-ahead log, full synchronisation, and patience with others."""
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        found = {
            name: ledger._db.execute(f"pragma {name}").fetchone()[0]
            for name in ("page_size", "journal_mode", "synchronous", "busy_timeout")
        }
    assert (found["page_size"], found["journal_mode"], found["synchronous"]) == (16384, "wal", 2)
    assert found["busy_timeout"] >= 30_000


def test_an_answer_is_written_once(tmp_path: Path) -> None:
    """The first answer wins, in one call, in a later one, and in another process."""
    path = tmp_path / "ledger.sqlite"
    with Ledger(path) as ledger:
        ledger.append([*rows("a", text="first"), *rows("a", text="second"), *rows("b")])
        ledger.append(rows("a", "b", text="third"))
    with Ledger(path) as ledger:
        ledger.append(rows("a", text="fourth"))
        assert sorted(ledger.answers(["a", "b", "c"])) == [
            ("a", "first", None),
            ("b", "Fine.", None),
        ]
    assert len(stored(path)) == 2


def test_a_failure_does_not_stand_in_the_way(tmp_path: Path) -> None:
    """A trial that failed any number of times takes its answer; then it is not missing any more."""
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        for kind in ("connection", "http 500", "timeout"):
            ledger.append([Row("a", Failure(kind, "why"))])
        ledger.append([Row("b", Failure("http 500", "why"))])
        assert ledger.answered() == set()
        assert ledger.failure_counts(["a", "b", "c"]) == {"timeout": 1, "http 500": 1}
        ledger.append(rows("a"))
        assert ledger.answered() == {"a"}
        assert ledger.failure_counts(["a", "b"]) == {"http 500": 1}
        ledger.append([Row("a", Failure("late", "why"))])
        assert ledger.answered() == {"a"}
        assert ledger.failure_counts(["a"]) == {}


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(TEXTS, st.none() | TEXTS, st.none() | TEXTS, TEXTS, TEXTS, st.binary(max_size=300))
def test_any_text_is_kept(
    tmp_path: Path, text: str, reasoning: str | None, stop: str | None, request: str, model: str,
    body: bytes,
) -> None:  # fmt: skip
    """As it came, but for lone surrogates, which become U+FFFD; the body keeps every byte."""
    path = tmp_path / f"{time.monotonic_ns()}.sqlite"
    answer = replace(
        ANSWER, text=text, reasoning=reasoning, stop_reason=stop, request_id=request,
        served_by=model, body=body,
    )  # fmt: skip
    with Ledger(path) as ledger:
        ledger.append([Row("a", answer), Row("f", Failure("invalid", text))])
    columns = "text, reasoning, stop_reason, request_id, served_by"
    ((*found, raw),) = stored(path, f"{columns}, body")
    expected = [
        None if value is None else without_surrogates(value)
        for value in (text, reasoning, stop, request, model)
    ]
    assert ascii(found) == ascii(expected)
    assert isinstance(raw, bytes)
    assert zlib.decompress(raw) == body
    ((message,),) = stored(path, "message", "failures")
    assert ascii(message) == ascii(expected[0])


@pytest.mark.parametrize("text", ["x" * 1_000_000, "\0" * 1000, "a\0b", "🙂" * 250_000, "", "\r\n"])
def test_long_and_odd_texts_come_back(tmp_path: Path, text: str) -> None:
    """A megabyte, NUL characters, nothing at all."""
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.append([Row("a", replace(ANSWER, text=text, reasoning=text, body=text.encode()))])
        assert list(ledger.answers(["a"])) == [("a", text, text)]


def test_a_thousand_trials_are_looked_up(tmp_path: Path) -> None:
    """More ids than one SQL statement takes; unknown ones give nothing."""
    known = [f"t{i}" for i in range(0, 4000, 2)]
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.append(rows(*known))
        found = [trial for trial, _, _ in ledger.answers(f"t{i}" for i in range(4000))]
        assert sorted(found) == sorted(known)


def test_usage_has_the_servers_figures(tmp_path: Path) -> None:
    """One row per answer; None where the server gave no figure."""
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert ledger.usage().height == 0
        bare = replace(ANSWER, input_tokens=None, output_tokens=None, stop_reason=None, retries=2)
        ledger.append([*rows("a"), Row("b", bare), Row("c", Failure("timeout", "late"))])
        assert ledger.usage().sort("trial_id").rows() == [
            ("a", "end_turn", 7, 3, 0, 0.5),
            ("b", None, None, None, 2, 0.5),
        ]


def test_an_incomplete_answer_is_not_dropped_in_silence(tmp_path: Path) -> None:
    """What the table cannot hold is an error, for it has been paid for."""
    broken = replace(ANSWER, text=None)  # type: ignore[arg-type]
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        with pytest.raises(LedgerError, match=r"ledger\.sqlite"):
            ledger.append([Row("a", broken)])
        with pytest.raises(LedgerError, match=r"ledger\.sqlite"):
            ledger.append([Row("a", replace(ANSWER, output_tokens=10**30))])
        ledger.append(rows("b"))
        assert ledger.answered() == {"b"}


HOLD = """
with Ledger(path) as ledger, ledger.locked():
    print(os.getpid())
    time.sleep(60)
"""


def test_a_second_process_is_told_who_holds_the_lock(tmp_path: Path) -> None:
    """The message names the process; after SIGKILL of that process the lock is free."""
    path = tmp_path / "ledger.sqlite"
    with script(HOLD, path) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        with Ledger(path) as ledger:
            with (
                pytest.raises(LedgerError, match=rf"ledger\.sqlite: process {pid} "),
                ledger.locked(),
            ):
                pass
            # Reading and grading need no lock.
            assert ledger.answered() == set()
            process.kill()
            process.wait(timeout=10)
            with ledger.locked():
                other = said("with Ledger(path) as l, l.locked(): pass", path)
                assert f"process {os.getpid()} is running this study" in other
            with ledger.locked():
                pass


def test_one_process_does_not_run_a_study_twice(tmp_path: Path) -> None:
    """The lock holds within a process too, and is given back after a fault."""
    with Ledger(tmp_path / "l.sqlite") as first, Ledger(tmp_path / "l.sqlite") as second:
        with contextlib.suppress(KeyError), first.locked():
            with pytest.raises(LedgerError, match=str(os.getpid())), second.locked():
                pass
            raise KeyError
        with second.locked():
            pass


def test_what_is_no_ledger_is_named(tmp_path: Path) -> None:
    """A folder, another file, no folder, a lock that is a folder: each message has the path."""
    (tmp_path / "folder.sqlite").mkdir()
    (tmp_path / "text.sqlite").write_text("not a database at all, but long enough\n" * 100)
    for path in ("folder.sqlite", "text.sqlite", "nowhere/ledger.sqlite"):
        with pytest.raises(LedgerError, match=path):
            Ledger(tmp_path / path)
    (tmp_path / "a.lock").mkdir()
    no_lock = pytest.raises(LedgerError, match=r"a\.lock")
    with Ledger(tmp_path / "a.sqlite") as ledger, no_lock, ledger.locked():
        pass


def test_another_programs_database_is_named(tmp_path: Path) -> None:
    """Tables of the same names with other columns are neither read nor written."""
    path = tmp_path / "ledger.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("create table answers (question text)")
        db.execute("create table grades (mark text)")
    with Ledger(path) as ledger:
        for use in (
            lambda: ledger.answered(),
            lambda: list(ledger.answers(["a"])),
            lambda: ledger.usage(),
            lambda: ledger.append(rows("a")),
            lambda: ledger.grades("rules/v1"),
            lambda: ledger.graded("rules/v1", "hash"),
            lambda: ledger.add_grades("rules/v1", "hash", [("a", {"complied": 1.0})]),
        ):
            with pytest.raises(LedgerError, match=r"ledger\.sqlite"):
                use()


def test_a_damaged_ledger_is_named(tmp_path: Path) -> None:
    """Pages overwritten by something else end in a message, not in a traceback."""
    path = tmp_path / "ledger.sqlite"
    with Ledger(path) as ledger:
        ledger.append([Row(str(i), replace(ANSWER, text="x" * 4000)) for i in range(300)])
    size = path.stat().st_size
    assert size > 20 * 16384
    with path.open("r+b") as file:
        file.seek(16384)
        file.write(b"\xa5" * (size - 16384))
    with Ledger(path) as ledger, pytest.raises(LedgerError, match=r"ledger\.sqlite"):
        ledger.answered()


READ_ONLY = """
if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
try:
    Ledger(path)
except LedgerError as error:
    print("LedgerError", error)
"""


def test_a_read_only_folder_is_named() -> None:
    """Neither a new ledger nor an old one is opened where nothing can be written."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "ledger.sqlite")
        Path(folder).chmod(0o555)
        try:
            assert f"LedgerError {path}: the ledger cannot be opened" in said(READ_ONLY, path)
            Path(folder).chmod(0o755)
            with Ledger(path) as ledger:
                ledger.append(rows("a"))
            path.chmod(0o444)
            Path(folder).chmod(0o555)
            assert f"LedgerError {path}" in said(READ_ONLY, path)
        finally:
            Path(folder).chmod(0o755)


FULL = """
with Ledger(path) as ledger:
    ledger.append([row("before")])
    resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, resource.RLIM_INFINITY))
    written = 0
    try:
        for written in range(1000):
            ledger.append([row(str(written), size=100_000)])
    except LedgerError as error:
        print("LedgerError", error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    ledger.append([row("after")])
    print("WRITTEN", written)
"""


def test_a_full_disk_loses_only_what_it_refused(tmp_path: Path) -> None:
    """The refused append says so, the earlier ones stay, and later ones work again."""
    path = tmp_path / "ledger.sqlite"
    output = said(FULL, path)
    assert f"LedgerError {path}: cannot be written" in output
    written = int(output.split("WRITTEN ")[1])
    assert 5 < written < 100
    with Ledger(path) as ledger:
        answered = ledger.answered()
    assert answered == {"before", "after", *map(str, range(written))}
    assert stored(path, "*", "pragma_integrity_check") == [("ok",)]


def test_a_writer_waits_for_another(tmp_path: Path) -> None:
    """A second process that writes grades for a while costs no answer."""
    path = tmp_path / "ledger.sqlite"
    with Ledger(path) as ledger:
        with contextlib.closing(
            sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        ) as other:
            other.execute("begin immediate")
            timer = threading.Timer(0.5, lambda: other.execute("rollback"))
            timer.start()
            ledger.append(rows("a"))
            timer.join(10)
        assert ledger.answered() == {"a"}


def test_a_closed_ledger_says_so(tmp_path: Path) -> None:
    """Reading and writing after the end are errors with the path."""
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.append(rows("a"))
    with pytest.raises(LedgerError, match=r"ledger\.sqlite"):
        ledger.append(rows("b"))
    with pytest.raises(LedgerError, match=r"ledger\.sqlite"):
        ledger.answered()


def test_grades_replace_those_of_the_same_grader_alone(tmp_path: Path) -> None:
    """Another grader's stay, other trials' stay, and nothing old is left beside the new."""
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        first = {"complied": 1.0, "refused": 0.0, "dropped later": 0.5}
        ledger.add_grades("rules/v1", "one", [("a", first), ("b", {"complied": None})])
        ledger.add_grades("judge", "x", [("a", {"complied": 0.25})])
        ledger.add_grades("rules/v1", "two", [("a", {"complied": 0.0, "refused": None})])
        assert ledger.graded("rules/v1", "one") == {"b"}
        assert ledger.graded("rules/v1", "two") == {"a"}
        assert ledger.graded("judge", "x") == {"a"}
        assert ledger.graded("judge", "one") == set()
        rules = ledger.grades("rules/v1").sort("trial_id")
        assert set(rules.columns) == {"trial_id", "complied", "refused"}
        assert rules.select("trial_id", "complied", "refused").rows() == [
            ("a", 0.0, None),
            ("b", None, None),
        ]
        assert ledger.grades("judge").rows() == [("a", 0.25)]
        assert ledger.grades("nobody").height == 0


def test_grades_of_a_batch_are_written_all_or_none(tmp_path: Path) -> None:
    """A fault in the middle leaves the old grades as they were."""
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.add_grades("rules/v1", "one", [("a", {"complied": 1.0})])
        broken = [("a", {"complied": 0.0}), ("b", {None: 1.0})]
        with pytest.raises(LedgerError):
            ledger.add_grades("rules/v1", "two", broken)  # type: ignore[arg-type]
        assert ledger.graded("rules/v1", "one") == {"a"}
        assert ledger.grades("rules/v1").rows() == [("a", 1.0)]
