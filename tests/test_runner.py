"""The runner: every paid answer reaches the disk, every limit holds, and no run hangs."""

import asyncio
import contextlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from wire_server import Reply, Script, Seen, Wire, echo, error, message
from wire_server import wire_server as serve

from ablate import runner
from ablate.models import ModelError, Parameters, open_model
from ablate.runner import Limits, Summary, Trial
from ablate.store import Ledger, LedgerError
from variants import Prompt, Turn

KEY = "sk-ant-api03-Zk0_nobody-has-this-key-7Q"
MODEL = "anthropic/some-model"
WITHIN_S = 30.0
MOST = 50


@pytest.fixture(autouse=True)
def _key(own_environment: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one key that the calls of this file have."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)


def trials(*numbers: int) -> Iterator[Trial]:
    """Trials whose prompt says which one it is."""
    for n in numbers:
        yield Trial(f"t{n}", MODEL, Prompt(None, (Turn("user", f"number {n}"),)))


def number(seen: Seen) -> int:
    """The trial that a request is for."""
    return int(json.loads(seen.body)["messages"][0]["content"].split()[1])


def answered(path: Path) -> dict[str, str]:
    """Trial and text of every answer on disk, by a connection of its own."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        return dict(db.execute("select trial_id, text from answers"))


def failed(path: Path) -> Counter[str]:
    with contextlib.closing(sqlite3.connect(path)) as db:
        return Counter(kind for (kind,) in db.execute("select kind from failures"))


def answer(seen: Seen, **options: Any) -> Reply:
    """An answer that says which trial it is for."""
    return message(f"answer {number(seen)}", **options)


def run(
    script: Script,
    wanted: Iterator[Trial],
    ledger_path: Path,
    *,
    progress: Callable[[Summary], None] = lambda summary: None,
    within: float = WITHIN_S,
    spoil: Callable[[Ledger], None] = lambda ledger: None,
    **limits: Any,
) -> tuple[Summary | Exception, Wire]:
    """One run against a server that follows the script: what it gives or raises."""

    async def go() -> tuple[Summary | Exception, Wire]:
        async with serve(script) as server:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("ANTHROPIC_BASE_URL", server.url)
                async with open_model(MODEL, Parameters(MOST, None, "none")) as model:
                    with Ledger(ledger_path) as ledger:
                        spoil(ledger)
                        try:
                            summary = await asyncio.wait_for(
                                runner.run(
                                    wanted,
                                    {MODEL: model},
                                    ledger,
                                    Limits(**({"concurrency": 20} | limits)),
                                    progress,
                                ),
                                within,
                            )
                        except Exception as fault:
                            return fault, server
                        return summary, server

    return asyncio.run(asyncio.wait_for(go(), WITHIN_S + 10))


def done(*arguments: Any, **options: Any) -> tuple[Summary, Wire]:
    """Like `run`, of a run that must end by itself."""
    summary, server = run(*arguments, **options)
    assert isinstance(summary, Summary), repr(summary)
    return summary, server


@pytest.mark.parametrize("concurrency", [1, 7, 64, 300])
def test_every_trial_is_called_once_and_keeps_its_own_answer(
    tmp_path: Path, concurrency: int
) -> None:
    """Whatever the order in which answers come; never more calls at once than allowed."""

    def script(seen: Seen, _: int) -> Reply:
        return answer(seen, delay=0.001 * (number(seen) % 7), tokens=(number(seen), 1))

    path = tmp_path / "ledger.sqlite"
    summary, server = done(script, trials(*range(200)), path, concurrency=concurrency)
    assert Counter(map(number, server.seen)) == Counter(range(200))
    assert answered(path) == {f"t{n}": f"answer {n}" for n in range(200)}
    assert min(concurrency, 5) <= server.most_at_once <= concurrency
    assert (summary.answered, summary.failed, summary.retries) == (200, 0, 0)
    assert summary.tokens == sum(range(200)) + 200
    assert summary.stopped is None


def test_failures_are_recorded_and_the_others_go_on(tmp_path: Path) -> None:
    """Each with its reason; a later run of what is missing gets the answers."""

    def script(seen: Seen, _: int) -> Reply:
        match number(seen) % 5:
            case 0:
                return error(400, "half a pair: \ud83d")
            case 1:
                return Reply(body=b"<html>", kind="text/html")
            case 2:
                return Reply(fault="drop")
        return answer(seen)

    path = tmp_path / "ledger.sqlite"
    heard: list[int] = []
    summary, _ = done(
        script, trials(*range(50)), path, progress=lambda s: heard.append(s.answered + s.failed)
    )
    kinds = {"http 400": 10, "invalid": 10, "connection": 10}
    assert (summary.answered, summary.failed, summary.failures) == (20, 30, kinds)
    assert failed(path) == kinds
    assert heard == list(range(1, 51))
    missing = [n for n in range(50) if f"t{n}" not in answered(path)]
    assert missing == [n for n in range(50) if n % 5 < 3]
    done(lambda seen, _: answer(seen), trials(*missing), path)
    assert answered(path) == {f"t{n}": f"answer {n}" for n in range(50)}


def test_odd_answers_do_not_stop_the_run(tmp_path: Path) -> None:
    """Half pairs, absurd counts and missing figures: what was paid for is written."""
    odd: list[dict[str, Any]] = [
        {"model": "\ud800"},
        {"stop_reason": "\udfff"},
        {"tokens": (10**40, 10**40)},
        {"tokens": ("many", None)},
        {"tokens": (-5, -5)},
        {"usage": None},
        {"model": {"name": "x"}},
        {"stop_reason": ["x"]},
    ]
    path = tmp_path / "ledger.sqlite"
    summary, _ = done(
        lambda seen, _: answer(seen, **odd[number(seen) % len(odd)]),
        trials(*range(4 * len(odd))),
        path,
        tokens=10**6,
        most_tokens=lambda trial: MOST,
    )
    assert summary.answered == 4 * len(odd) == len(answered(path))
    assert 0 < summary.tokens <= 4 * len(odd) * MOST


@pytest.mark.parametrize("calls", [1, 19, 20, 21, 37, 60])
def test_the_limit_of_calls_is_exact(tmp_path: Path, calls: int) -> None:
    """Failed calls count, repeated tries of one call do not."""
    tries: Counter[int] = Counter()

    def script(seen: Seen, _: int) -> Reply:
        n = number(seen)
        tries[n] += 1
        if n % 4 == 1:
            return error(400)
        return error(529) if n % 4 == 2 and tries[n] < 3 else answer(seen)

    summary, _ = done(script, trials(*range(60)), tmp_path / "l.sqlite", calls=calls)
    assert len(tries) == calls == summary.answered + summary.failed
    assert summary.retries == 2 * sum(n % 4 == 2 for n in tries)
    if calls < 60:
        assert summary.stopped == f"the limit of {calls} calls is reached"


@pytest.mark.parametrize("tokens", [MOST - 1, MOST, 333, 1000, 1001, 2750])
@pytest.mark.parametrize("fault", [False, True])
def test_the_limit_of_tokens_is_never_exceeded(tmp_path: Path, tokens: int, fault: bool) -> None:
    """By the server's own books, at 20 calls at once; and it is used as far as it safely goes."""
    books = 0

    def script(seen: Seen, _: int) -> Reply:
        nonlocal books
        n = number(seen)
        used = (n * 7919) % 23 + 1, (n * 104729) % 27 + 1
        delay = 0.001 * ((n * 31) % 11)
        if fault and n % 10 == 3:
            return error(400)
        books += sum(used)
        if fault and n % 10 == 6:
            return Reply(body=b"paid for, but no message", delay=delay)
        return answer(seen, tokens=used, delay=delay)

    summary, server = done(
        script,
        trials(*range(500)),
        tmp_path / "ledger.sqlite",
        tokens=tokens,
        most_tokens=lambda trial: MOST,
    )
    assert books <= summary.tokens <= tokens
    assert summary.tokens + MOST > tokens
    assert summary.stopped == f"another call could exceed the limit of {tokens} tokens"
    if tokens > 900:
        assert server.most_at_once > 10


def test_a_refused_key_stops_the_run_and_loses_no_answer(tmp_path: Path) -> None:
    """Every answer that the server gave is on disk; the error raised is the model's."""
    given: set[int] = set()

    def script(seen: Seen, _: int) -> Reply:
        n = number(seen)
        if n == 45:
            return error(401, "spent")
        given.add(n)
        return answer(seen, delay=0.03)

    path = tmp_path / "ledger.sqlite"
    fault, server = run(script, trials(*range(400)), path)
    assert isinstance(fault, ModelError)
    assert "spent" in str(fault)
    assert answered(path) == {f"t{n}": f"answer {n}" for n in given}
    assert 45 < len(server.seen) < 100
    assert failed(path) == {}


@pytest.mark.parametrize("where", ["trials", "progress", "most_tokens"])
def test_any_fault_lets_the_calls_in_flight_finish(tmp_path: Path, where: str) -> None:
    """A fault of the caller's stops the run, and the answers under way are still written."""
    given: set[int] = set()

    def script(seen: Seen, _: int) -> Reply:
        given.add(number(seen))
        return answer(seen, delay=0.001 if number(seen) < 30 else 0.2)

    def wanted() -> Iterator[Trial]:
        yield from trials(*range(50))
        if where == "trials":
            raise KeyError("planned")
        yield from trials(*range(50, 400))

    def progress(summary: Summary) -> None:
        if where == "progress" and summary.answered == 40:
            raise KeyError("planned")

    def most_tokens(trial: Trial) -> int:
        if where == "most_tokens" and trial.trial_id == "t45":
            raise KeyError("planned")
        return 0

    path = tmp_path / "ledger.sqlite"
    fault, _ = run(script, wanted(), path, progress=progress, most_tokens=most_tokens)
    assert isinstance(fault, KeyError)
    assert answered(path) == {f"t{n}": f"answer {n}" for n in given}
    assert len(given) < 100


def test_a_cancelled_run_keeps_what_it_has(tmp_path: Path) -> None:
    """A caller's time-out is a time-out, and the answers received by then are on disk."""
    path = tmp_path / "ledger.sqlite"

    def script(seen: Seen, _: int) -> Reply:
        return answer(seen, delay=0.0 if number(seen) < 60 else 20.0)

    started = time.monotonic()
    fault, _ = run(script, trials(*range(200)), path, within=3.0)
    assert isinstance(fault, TimeoutError)
    assert time.monotonic() - started < 10
    assert set(answered(path)) == {f"t{n}" for n in range(60)}


def execute(path: Path, statement: str) -> None:
    """One statement on the ledger by a connection of its own."""
    with contextlib.closing(sqlite3.connect(path, timeout=20)) as db:
        db.execute(statement)


SPOILERS: dict[str, Callable[[Ledger], object]] = {
    "closed": lambda ledger: ledger.__exit__(),
    "table gone": lambda ledger: execute(ledger.path, "drop table answers"),
    "refused": lambda ledger: execute(
        ledger.path,
        "create trigger refuse before insert on answers when new.trial_id = 't25' "
        "begin select raise(abort, 'no room'); end",
    ),
}


@pytest.mark.parametrize("name", SPOILERS)
@pytest.mark.parametrize("late", [False, True])
def test_a_ledger_that_cannot_be_written_ends_the_run(
    tmp_path: Path, name: str, late: bool
) -> None:
    """At once and with the ledger's error; what was written before stays."""
    path = tmp_path / "ledger.sqlite"
    before: dict[str, str] = {}
    opened: list[Ledger] = []

    def spoil(ledger: Ledger) -> None:
        opened.append(ledger)
        if not late:
            SPOILERS[name](ledger)

    def progress(summary: Summary) -> None:
        if late and opened and summary.answered >= 20:
            before.update(answered(path))
            SPOILERS[name](opened.pop())

    fault, server = run(
        lambda seen, _: answer(seen, delay=0.01),
        trials(*range(500)),
        path,
        spoil=spoil,
        progress=progress,
        concurrency=5,
    )
    assert isinstance(fault, LedgerError)
    assert str(path) in str(fault)
    assert len(server.seen) < 100
    assert len(before) >= (20 if late else 0)
    if name != "table gone":
        assert before.items() <= answered(path).items()


# Runs trials against a server, as the runner's caller does, until it ends or is interrupted.
LIMITED = """
import asyncio, sys
from pathlib import Path
from ablate import runner
from ablate.models import Parameters, open_model
from ablate.runner import Limits, Trial
from ablate.store import Ledger
from variants import Prompt, Turn

trials = (Trial(f"t{n}", "m", Prompt(None, (Turn("user", f"number {n}"),))) for n in range(100))
limits = Limits(concurrency=10, tokens=100, most_tokens=lambda trial: 10)

async def main():
    async with open_model("anthropic/some-model", Parameters(50, None, "none")) as model:
        with Ledger(Path(sys.argv[1])) as ledger:
            print((await runner.run(trials, {"m": model}, ledger, limits, print)).stopped)

asyncio.run(main())
"""


def test_one_interrupt_drops_nothing_even_when_a_limit_has_stopped_the_run(tmp_path: Path) -> None:
    """Only a second Ctrl-C does, whatever else has ended the taking of trials."""
    path = tmp_path / "ledger.sqlite"

    async def go() -> tuple[str, Wire]:
        def script(seen: Seen, _: int) -> Reply:
            # The first five end the budget while the others are still under way.
            return answer(seen, tokens=(9, 1), delay=0.05 if number(seen) < 5 else 2.0)

        async with serve(script) as server:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", LIMITED, str(path)),
                env=os.environ | {"ANTHROPIC_BASE_URL": server.url},
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            try:
                while len(answered(path) if path.exists() and len(server.seen) > 9 else []) < 5:
                    await asyncio.sleep(0.02)
                await asyncio.sleep(0.2)
                process.send_signal(signal.SIGINT)
                output, _ = await process.communicate()
            finally:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
            return output.decode(), server

    output, server = asyncio.run(asyncio.wait_for(go(), WITHIN_S))
    assert "interrupted: the calls in flight were finished" in output
    assert (
        set(answered(path))
        == {f"t{n}" for n in range(10)}
        == {f"t{number(seen)}" for seen in server.seen}
    )


@contextlib.contextmanager
def command(*words: object, **environment: str) -> Iterator["subprocess.Popen[str]"]:
    """`ablate` as a process of its own, ended at the latest here."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "ablate", *map(str, words)],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=10)


@contextlib.contextmanager
def subject(log: Path, delay: float) -> Iterator[str]:
    """`ablate serve` with a delay: gives its URL."""
    with command("serve", "--port", 0, "--log", log, "--delay", delay) as process:
        assert process.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
        assert found
        yield found[0]


def calls(log: Path) -> Counter[str]:
    """How often each trial was answered, by the server's own log."""
    lines = log.read_text("utf-8").splitlines() if log.is_file() else []
    return Counter(json.loads(line)["trial_id"] for line in lines)


@pytest.mark.parametrize("interrupts", [1, 2])
def test_an_interrupted_run_is_finished_by_the_next(
    tiny: Path, tmp_path: Path, interrupts: int
) -> None:
    """Ctrl-C once waits for the calls in flight, twice does not; both are resumed, exit code 1."""
    log, ledger = tmp_path / "log.jsonl", tiny / "ledger.sqlite"
    delay, at_once = 0.6 if interrupts == 1 else 2.5, 40
    with subject(log, delay) as slow, subject(log, 0) as fast:
        with command(
            *("run", tiny, "--concurrency", at_once), ABLATE_SIMULATED_BASE_URL=slow
        ) as process:
            deadline = time.monotonic() + WITHIN_S
            while len(calls(log)) < at_once and time.monotonic() < deadline:
                time.sleep(0.02)
            # By now the first answers are on disk and the next calls under way.
            time.sleep(delay / 2)
            for _ in range(interrupts):
                process.send_signal(signal.SIGINT)
                time.sleep(0.1)
            output, _ = process.communicate(timeout=WITHIN_S)
        assert process.returncode == 1
        assert "run the same command again to go on" in output
        assert "Traceback" not in output
        before = answered(ledger)
        if interrupts == 1:
            # Everything that the server has answered is on disk, and nothing was asked twice.
            assert "the calls in flight were finished" in output
            assert at_once < len(before) < 240
            assert calls(log) == Counter(dict.fromkeys(before, 1))
        else:
            # Had it waited for the second batch of calls, that would be there too.
            assert "the calls in flight were dropped" in output
            assert len(before) == at_once
        with command("run", tiny, ABLATE_SIMULATED_BASE_URL=fast) as process:
            output, _ = process.communicate(timeout=60)
            assert process.returncode == 0, output
    after = answered(ledger)
    assert len(after) == 240
    assert before.items() <= after.items()
    repeated = calls(log).total() - 240
    assert repeated == 0 if interrupts == 1 else 0 <= repeated <= at_once


@pytest.mark.parametrize("status", [400, 401])
def test_a_real_key_stays_out_of_everything_that_a_run_leaves(tiny: Path, status: int) -> None:
    """Neither the output of `ablate run` nor any file of the study holds it."""
    settings = tiny / "study.toml"
    text = settings.read_text("utf-8").replace("simulated/planted", MODEL)
    settings.write_text(text.replace("trials = 240", "trials = 24"), "utf-8")

    async def go() -> tuple[bytes, int | None, Wire]:
        async with serve(echo(status)) as server:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "ablate", "run", str(tiny), "--yes"),
                env=os.environ | {"ANTHROPIC_BASE_URL": server.url, "ANTHROPIC_LOG": "debug"},
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            try:
                output, _ = await process.communicate()
            finally:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
            return output, process.returncode, server

    output, code, server = asyncio.run(asyncio.wait_for(go(), 60))
    assert KEY in server.seen[0].everything()
    assert code == (2 if status == 401 else 1)
    assert b"Traceback" not in output
    assert f"{MODEL} at {server.url}".encode() in output
    left = [path.read_bytes() for path in tiny.rglob("*") if path.is_file()]
    assert len(left) >= 5
    assert KEY.encode() not in output + b"".join(left)
