"""The whole way of the data: demo, kills, the same table at the end."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from test_cli import ablate

from ablate.study import load_study

ROOT = Path(__file__).resolve().parents[1]
DELAY = 0.03
AT_ONCE = 20


@contextmanager
def subject(log: Path) -> Iterator[dict[str, str]]:
    """`ablate serve` as a process of its own; gives the environment that leads to it."""
    command = [sys.executable, "-m", "ablate", "serve", "--port", "0", "--log", str(log)]
    process = subprocess.Popen([*command, "--delay", str(DELAY)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
        assert found
        yield os.environ | {"ABLATE_SIMULATED_BASE_URL": found[0]}
    finally:
        process.terminate()
        process.wait(timeout=10)


def calls(log: Path) -> list[dict[str, str]]:
    """What the server itself says that it answered."""
    lines = log.read_text("utf-8").splitlines() if log.is_file() else []
    return [json.loads(line) for line in lines]


def start_run(study: Path, environment: dict[str, str]) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "ablate", "run", str(study), "--concurrency", str(AT_ONCE)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def observations(study: Path) -> pl.DataFrame:
    for stage in ("grade", "fit"):
        assert ablate(stage, study / "runs/main").exit_code == 0
    return pl.read_parquet(study / "runs/main/observations.parquet")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    """The observations of the tiny study, run without a break."""
    import shutil

    from conftest import DATA

    study = Path(shutil.copytree(DATA / "tiny", tmp_path_factory.mktemp("undisturbed") / "tiny"))
    assert ablate("run", study).exit_code == 0
    return observations(study)


def test_killed_five_times_the_run_ends_with_the_same_table(
    tiny: Path, tmp_path: Path, undisturbed: pl.DataFrame
) -> None:
    """kill -9 at five moments: nothing lost, and at most the calls in flight are made again."""
    log = tmp_path / "calls.jsonl"
    trials = undisturbed.height
    with subject(log) as environment:
        for kill in range(5):
            process = start_run(tiny, environment)
            enough = (kill + 1) * trials // 7
            deadline = time.monotonic() + 60
            while len(calls(log)) < enough and time.monotonic() < deadline:
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
            process.wait(timeout=10)
        before = len(calls(log))
        assert start_run(tiny, environment).wait(timeout=60) == 0
        assert len(calls(log)) > before, "the last run had nothing left to do"
    made = Counter(call["trial_id"] for call in calls(log))
    assert set(made) == set(undisturbed["trial_id"])
    assert sum(made.values()) - trials <= 5 * AT_ONCE
    assert_frame_equal(observations(tiny), undisturbed)


def test_arms_that_render_alike_get_two_calls(
    tiny: Path, tmp_path: Path, undisturbed: pl.DataFrame
) -> None:
    """With the tag removed, train and deploy are one text and still two trials with two answers."""
    log = tmp_path / "calls.jsonl"
    with subject(log) as environment:
        assert start_run(tiny, environment).wait(timeout=60) == 0
    body_of = {call["trial_id"]: call["body"] for call in calls(log)}
    assert Counter(call["trial_id"] for call in calls(log)).most_common(1)[0][1] == 1
    zeros = undisturbed.filter(pl.col("tag") == "removed")
    for _, rows in zeros.group_by("condition_id", "query_id"):
        assert rows["arm"].n_unique() == 2
        assert rows["prompt_id"].n_unique() == 1
        assert rows["trial_id"].n_unique() == rows.height
        assert len({body_of[trial] for trial in rows["trial_id"]}) == 1


def test_the_demo_shows_the_planted_truth_and_goes_on_where_it_was(tmp_path: Path) -> None:
    """The demo ends with the sensitivity table and the report's path; again, it calls nothing."""
    folder = tmp_path / "demo"
    first = ablate("demo", "--out", folder)
    assert first.exit_code == 0, first.output
    lines = first.stdout.splitlines()
    assert lines[-1] == f"Report: {folder / 'runs/main/report.html'}"
    assert "simulated" in first.stdout
    table = [line.split() for line in lines if re.match(r"\w+ +removed ", line)]
    assert {row[0] for row in table} == set(load_study(folder).factors)
    assert "planted" in first.stdout
    readme = (ROOT / "README.md").read_text("utf-8")
    shown = readme.partition("<!-- demo -->\n```\n")[2].partition("```\n<!-- /demo -->")[0]
    assert shown.strip() in first.stdout, "README.md shows another table: copy the demo's"
    again = ablate("demo", "--out", folder)
    assert again.stdout.splitlines()[-12:] == lines[-12:]
    assert "0 calls to make" in again.stdout


def test_trials_are_shared_by_the_runs_of_a_study(tiny: Path) -> None:
    """A second run whose plan is the same has nothing to pay for."""
    assert ablate("run", tiny).exit_code == 0
    second = ablate("run", tiny, "--run", "again")
    assert "0 calls to make" in second.stdout


def test_nothing_private_is_readable_by_others(tiny: Path) -> None:
    """The ledger and its companions are the owner's alone."""
    command = [sys.executable, "-m", "ablate", "run", str(tiny)]
    subprocess.run(command, check=True, capture_output=True)
    for path in (tiny / "ledger.sqlite", tiny / "runs/main/plan.parquet"):
        assert path.stat().st_mode & 0o077 == 0
