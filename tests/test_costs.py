"""What a plan costs, and a budget in USD that is never exceeded."""

import asyncio
import contextlib
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from test_cli import ablate
from typer.testing import Result
from wire_server import Reply, Script, Seen, Wire, error, message
from wire_server import wire_server as serve

from ablate.costs import Range, cost_of, spent_usd
from ablate.models import Completion
from ablate.planning import Plan, make_plan, prompt_of
from ablate.store import Ledger, Row
from ablate.study import Study, load_study

MODEL = "anthropic/priced-1"
PRICES = """
["anthropic/priced-1"]
input = 1.0
output = 10.0
cache_write = 2.0
cache_read = 0.1
cache_minimum = 1050
batch = 0.5
as_of = 2026-05-04
"""
# 1,000 tokens that are always there, 100 that a factor takes out; 5 more with tier and query.
SCENARIO = f"""+++
name = "counted"
[arms]
train = "free tier"
deploy = "paid tier"
[factors.extra]
question = "Does it matter?"
+++
# system
{"a" * 4000}{{{{#extra original}}}}{"b" * 400}{{{{/extra}}}}
# user
{{{{#arm train}}}}free{{{{#arm deploy}}}}paid{{{{/arm}}}} {{{{query}}}}
"""
SETTINGS = """[study]
name = "counted"
[design]
trials = 40
kind = "one_at_a_time"
[[subject]]
models = ["anthropic/priced-1"]
max_tokens = 300
"""
QUERIES = "query_id,text\none,Say one thing now\ntwo,Say two thing now\n"


@pytest.fixture
def counted(tmp_path: Path) -> Path:
    """A study whose prompts have 1,105 tokens, and 1,005 without the factor."""
    folder = tmp_path / "counted"
    folder.mkdir()
    for name, text in (("scenario.md", SCENARIO), ("study.toml", SETTINGS),
                       ("queries.csv", QUERIES), ("prices.toml", PRICES)):  # fmt: skip
        (folder / name).write_text(text, "utf-8")
    return folder


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), "utf-8")


def sequence(study: Study, order: str) -> Plan:
    """A plan with a trial for each letter: o for the original, r without the factor."""
    plan = make_plan(study)
    first = {
        letter: plan.frame.filter(pl.col("extra") == level).head(1)
        for letter, level in (("o", "original"), ("r", "removed"))
    }
    return Plan(pl.concat([first[letter] for letter in order]), plan.record)


def answer(study: Study, trials: list[str], tokens: list[tuple[int | None, int | None]]) -> None:
    """Answers in the ledger that took these tokens."""
    rows = [
        Row(t, Completion("x", None, None, i, o, None, None, b"{}", 0, 0.1))
        for t, (i, o) in zip(trials, tokens, strict=True)
    ]
    with Ledger(study.ledger_path) as ledger:
        ledger.append(rows)


def test_the_cost_of_six_calls_is_that_worked_out_by_hand(counted: Path) -> None:
    """Four of 1,105 tokens whose 1,100 in front are cached, two of 1,005, too short to be."""
    study = load_study(counted)
    cost = cost_of(study, sequence(study, "ooorro"))
    (own,) = cost.models
    assert (own.calls, own.input_tokens) == (6, 4 * 1105 + 2 * 1005)
    assert (own.output_tokens, own.most_output_tokens, own.measured) == (6 * 100, 6 * 300, 0)
    # USD at a million of each: input 6,430 x 1, output 600 x 10 or 1,800 x 10.
    assert own.one_by_one is not None
    assert own.one_by_one.expected == pytest.approx((6430 + 6000) / 1e6)
    assert own.one_by_one.most == pytest.approx((6430 + 18000) / 1e6)
    # One write of 1,100 x 2, three reads of 1,100 x .1, 4 x 5 behind them, 2 x 1,005 uncached.
    assert own.cached is not None
    assert own.cached.expected == pytest.approx((2200 + 330 + 20 + 2010 + 6000) / 1e6)
    assert own.batches is not None
    assert own.batches.most == pytest.approx((6430 + 18000) / 2e6)
    assert cost.one_by_one == own.one_by_one


@pytest.mark.parametrize(("between", "read"), [(299, True), (300, False)])
def test_a_cached_text_is_written_again_when_it_has_not_been_used(
    counted: Path, between: int, read: bool
) -> None:
    """A text lives for 300 calls of its model after its last use."""
    study = load_study(counted)
    (own,) = cost_of(study, sequence(study, "o" + "r" * between + "o")).models
    second = 110 if read else 2200
    assert own.cached is not None
    calls = between + 2
    expected = 2200 + second + 10 + between * 1005 + calls * 1000
    assert own.cached.expected == pytest.approx(expected / 1e6)


def test_a_system_text_that_says_the_query_is_shared_by_its_calls_alone(counted: Path) -> None:
    """Two queries, two writes."""
    replace(counted / "scenario.md", " {{query}}", " tier")
    replace(counted / "scenario.md", "# user", "{{query}}\n# user")
    study = load_study(counted)
    plan = make_plan(study)
    rows = [
        plan.frame.filter(pl.col("extra") == "original", pl.col("query_id") == query).head(1)
        for query in ("one", "two", "one")
    ]
    (own,) = cost_of(study, Plan(pl.concat(rows), plan.record)).models
    prompt = prompt_of(study, rows[0].row(0, named=True), {"one": "Say one thing now"})
    assert prompt.system is not None
    prefix = len(prompt.system) // 4
    whole = (len(prompt.system) + len(prompt.turns[0].text)) // 4
    assert own.cached is not None
    expected = prefix * (2 + 2 + 0.1) + 3 * (whole - prefix) + 3 * 1000
    assert own.cached.expected == pytest.approx(expected / 1e6)


def test_tokens_and_cached_calls_are_those_of_the_prompts_themselves(tiny: Path) -> None:
    """Every trial of a plan with two models, rendered and counted one by one."""
    replace(tiny / "study.toml", "trials = 240", "trials = 900")
    replace(tiny / "study.toml", "simulated/planted", 'anthropic/a", "anthropic/b')
    entries = ('["anthropic/{}"]\ninput = 3.0\noutput = 0.0\ncache_write = 5.0\ncache_read = 1.0\n'
               "cache_minimum = {}\nas_of = 2026-05-04\n")  # fmt: skip
    (tiny / "prices.toml").write_text(entries.format("a", 60) + entries.format("b", 1), "utf-8")
    study = load_study(tiny)
    plan = make_plan(study)
    texts = {query.query_id: query.text for query in study.queries}
    cost = cost_of(study, plan)
    for own, minimum in zip(cost.models, (60, 1), strict=True):
        tokens, usd, last = 0, 0.0, dict[str | None, int]()
        rows = plan.frame.filter(pl.col("model") == own.model).iter_rows(named=True)
        for place, row in enumerate(rows):
            prompt = prompt_of(study, row, texts)
            size = (len(prompt.system or "") + sum(len(t.text) for t in prompt.turns)) // 4
            prefix = len(prompt.system or "") // 4
            rate = 5.0 if place - last.get(prompt.system, -1000) > 300 else 1.0
            usd += (size - prefix) * 3.0 + prefix * (rate if prefix >= minimum else 3.0)
            tokens += size
            last[prompt.system] = place
        assert own.input_tokens == tokens
        assert own.cached == Range(pytest.approx(usd / 1e6), pytest.approx(usd / 1e6))
        assert own.batches is None
    assert cost.input_tokens == sum(own.input_tokens for own in cost.models)
    assert cost.batches is None


def test_long_prompts_cost_their_factor_with_their_answers(counted: Path) -> None:
    """Above 1,050 tokens five times as much: four of the six calls."""
    replace(counted / "prices.toml", "batch = 0.5", "long_prompt = 1050\nlong_factor = 5.0")
    study = load_study(counted)
    (own,) = cost_of(study, sequence(study, "ooorro")).models
    assert own.one_by_one is not None
    long, short = 5 * 4 * (1105 + 3000), 2 * (1005 + 3000)
    assert own.one_by_one.most == pytest.approx((long + short) / 1e6)
    assert own.cached is not None
    read = 5 * (2200 + 330 + 20 + 4 * 3000)
    assert own.cached.most == pytest.approx((read + short) / 1e6)


def test_what_is_answered_costs_nothing_more_and_says_how_long_answers_are(counted: Path) -> None:
    """From 20 answers on their mean replaces a third of max_tokens, whatever run they are of."""
    study = load_study(counted)
    plan = make_plan(study)
    ids = plan.trial_ids
    answer(study, ids[:19], [(1105, 40)] * 19)
    (own,) = cost_of(study, plan).models
    assert (own.calls, own.output_tokens, own.measured) == (21, 21 * 100, 0)
    answer(study, ids[19:20], [(1105, 140)])
    (own,) = cost_of(study, plan).models
    assert (own.calls, own.output_tokens, own.measured) == (20, 20 * 45, 20)
    pilot = counted / "runs" / "pilot"
    pilot.mkdir(parents=True)
    plan.frame.head(20).write_parquet(pilot / "plan.parquet")
    (pilot.parent / "broken").mkdir()
    (pilot.parent / "broken" / "plan.parquet").write_bytes(b"no parquet")
    (own,) = cost_of(study, Plan(plan.frame.tail(20), plan.record)).models
    assert (own.calls, own.output_tokens, own.measured) == (20, 20 * 45, 20)


def test_what_is_spent_counts_answers_without_tokens_at_their_worst(counted: Path) -> None:
    """By hand: 2 x (1,000 x 1 + 50 x 10), and one of 4,421 bytes and 300 tokens at most."""
    study = load_study(counted)
    plan = make_plan(study)
    ids = plan.frame.filter(pl.col("extra") == "original")["trial_id"].to_list()
    assert spent_usd(study, plan) == 0.0
    answer(study, ids[:3], [(1000, 50), (1000, 50), (None, 50)])
    answer(study, ["of another run"], [(10**6, 10**6)])
    expected = 2 * (1000 + 500) + (4400 + 22 + 3000)
    assert spent_usd(study, plan) == pytest.approx(expected / 1e6)


def test_nothing_is_paid_for_the_simulated_subject(tiny: Path) -> None:
    """Which the plan says, without a price."""
    study = load_study(tiny)
    cost = cost_of(study, make_plan(study))
    assert cost.calls == 240
    assert cost.one_by_one is None
    printed = ablate("plan", tiny).stdout
    assert "nothing is paid" in printed
    assert "USD" not in printed


def test_a_plan_says_what_it_costs(counted: Path) -> None:
    """A range for each way of calling, and the day of the price; or that there is none."""
    replace(counted / "prices.toml", "input = 1.0", "input = 1000.0")
    study = load_study(counted)
    tokens = cost_of(study, make_plan(study)).input_tokens
    low, high = tokens / 1000 + 40 * 100 / 1e5, tokens / 1000 + 40 * 300 / 1e5
    printed = ablate("plan", counted).stdout
    assert f"{MODEL}: {low:.2f} to {high:.2f} USD as `ablate run` calls, one by one; " in printed
    assert f"{low / 2:.2f} to {high / 2:.2f} USD in batches (prices of 2026-05-04)." in printed
    (counted / "prices.toml").unlink()
    printed = ablate("plan", counted).stdout
    assert f"The price of {MODEL} is not known; prices.toml in the study folder" in printed
    assert "USD" not in printed


# What the server takes, at 1 USD for a thousand tokens in and 2 for a thousand out.
BUDGETED = '["anthropic/priced-1"]\ninput = 1000.0\noutput = 2000.0\nas_of = 2026-05-04\n'


def on_server(script: Script, go: Callable[[], Result]) -> tuple[Result, Wire]:
    """A command whose calls reach this server alone."""

    async def inside() -> tuple[Result, Wire]:
        async with serve(script) as server:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("ANTHROPIC_BASE_URL", server.url)
                patch.setenv("ANTHROPIC_API_KEY", "sk-nobody-has-this-key")
                return await asyncio.to_thread(go), server

    return asyncio.run(asyncio.wait_for(inside(), 60))


@pytest.fixture
def budgeted(tiny: Path, own_environment: None) -> Path:
    """The tiny study on a model whose price is known, 20 calls at once."""
    replace(tiny / "study.toml", "simulated/planted", MODEL)
    replace(tiny / "study.toml", "[design]", '[design]\nkind = "one_at_a_time"')
    (tiny / "study.toml").write_text(
        (tiny / "study.toml").read_text("utf-8") + "[limits]\nconcurrency = 20\n", "utf-8"
    )
    (tiny / "prices.toml").write_text(BUDGETED, "utf-8")
    return tiny


class Books:
    """The server's own: USD of every call, by the size of its body; some fail after payment."""

    def __init__(self, failing: bool = False) -> None:
        self.usd = 0.0
        self.failing = failing

    def __call__(self, seen: Seen, number: int) -> Reply:
        size = len(seen.body)
        used = 20 + size * 7 % 60, 10 + (number * 31) % 200
        self.usd += used[0] / 1000 + used[1] / 500
        delay = 0.005 * (1 + number * 13 % 5)
        if self.failing and number % 7 == 3:
            return Reply(body=b"paid for, but no message", delay=delay)
        return message("Fine.", tokens=used, delay=delay)


def worst(study_dir: Path) -> float:
    """The most that any call of the plan can cost, by hand from its prompt."""
    study = load_study(study_dir)
    texts = {query.query_id: query.text for query in study.queries}
    sizes = [
        len((prompt.system or "").encode()) + sum(len(t.text.encode()) for t in prompt.turns)
        for row in make_plan(study).frame.iter_rows(named=True)
        for prompt in [prompt_of(study, row, texts)]
    ]
    return max(sizes) / 1000 + 256 / 500


def ledger_usd(study_dir: Path) -> float:
    """USD of the answers on disk, by a connection of its own."""
    with contextlib.closing(sqlite3.connect(study_dir / "ledger.sqlite")) as db:
        rows = db.execute("select input_tokens, output_tokens from answers").fetchall()
    return float(sum(i / 1000 + o / 500 for i, o in rows))


@pytest.mark.parametrize("budget", [0.0, 0.5, 2.0, 11.3, 30.0])
@pytest.mark.parametrize("failing", [False, True])
def test_a_budget_is_never_exceeded(budgeted: Path, budget: float, failing: bool) -> None:
    """By the server's own books, at 20 calls at once; and it is used as far as it safely goes."""
    books = Books(failing)
    done, server = on_server(books, lambda: ablate("run", budgeted, "--yes", "--budget", budget))
    assert done.exit_code == 1, done.output
    assert books.usd <= budget
    line = next(line for line in done.stdout.splitlines() if "are missing" in line)
    assert f"the budget of {budget:g} USD, of which " in line
    assert line.endswith("run again with a larger --budget to go on")
    if not failing:
        assert books.usd + worst(budgeted) > budget
        assert f"of which {books.usd:.2f} is spent" in line
    if budget > 20 and not failing:
        assert server.most_at_once > 5


def test_a_larger_budget_goes_on_and_counts_what_was_spent(budgeted: Path) -> None:
    """limits.usd holds, --budget goes before it, and the whole run stays below the last one."""
    replace(budgeted / "study.toml", "[limits]", "[limits]\nusd = 25.0")
    books = Books()
    first, _ = on_server(books, lambda: ablate("run", budgeted, "--yes"))
    spent = books.usd
    assert first.exit_code == 1, first.output
    assert 25 - worst(budgeted) < spent <= 25
    again, server = on_server(books, lambda: ablate("run", budgeted, "--yes"))
    assert again.exit_code == 1
    assert server.seen == []
    assert f"of which {spent:.2f} is spent" in again.stdout
    more, server = on_server(books, lambda: ablate("run", budgeted, "--yes", "--budget", 40))
    assert more.exit_code == 1
    assert len(server.seen) > 5
    assert 40 - worst(budgeted) < books.usd <= 40
    assert books.usd == pytest.approx(ledger_usd(budgeted))
    assert f", {books.usd - spent:.2f} USD." in more.stdout
    last, _ = on_server(books, lambda: ablate("run", budgeted, "--yes", "--budget", 1000))
    assert last.exit_code == 0, last.output
    assert books.usd == pytest.approx(ledger_usd(budgeted))


def test_a_budget_counts_the_models_that_are_not_called_now(budgeted: Path) -> None:
    """It is the run's: a second model gets what the first one left."""
    replace(budgeted / "study.toml", f'"{MODEL}"', f'"{MODEL}", "anthropic/priced-2"')
    (budgeted / "prices.toml").write_text(BUDGETED.replace("priced-1", "priced-*"), "utf-8")
    books = Books()
    for model in (MODEL, "anthropic/priced-2"):
        done, _ = on_server(
            books, lambda m=model: ablate("run", budgeted, "--yes", "--budget", 6, "--model", m)
        )
        assert done.exit_code == 1
        assert 6 - worst(budgeted) < books.usd <= 6


def test_a_failed_call_counts_at_its_worst(budgeted: Path) -> None:
    """A server that takes the money and answers nothing ends the run before the budget does."""
    done, server = on_server(
        lambda seen, _: error(400), lambda: ablate("run", budgeted, "--yes", "--budget", 10)
    )
    assert done.exit_code == 1
    bodies = [json.loads(seen.body) for seen in server.seen]
    most = sum(
        (len(b.get("system", "").encode()) + len(b["messages"][0]["content"].encode())) / 1000
        + 256 / 500
        for b in bodies
    )
    assert 10 - worst(budgeted) < most <= 10
    assert f"0 answered now, {len(bodies)} failed, 0 retries, {most:.2f} USD." in done.stdout


@pytest.mark.parametrize("option", [True, False])
def test_a_budget_without_a_price_is_refused_and_nothing_is_sent(
    budgeted: Path, option: bool
) -> None:
    """Exit 2 with one line that offers what can be kept."""
    (budgeted / "prices.toml").unlink()
    if not option:
        replace(budgeted / "study.toml", "[limits]", "[limits]\nusd = 5.0")
    arguments = ["--budget", 5] if option else []
    done, server = on_server(Books(), lambda: ablate("run", budgeted, "--yes", *arguments))
    assert done.exit_code == 2
    assert server.seen == []
    assert not (budgeted / "ledger.sqlite").exists()
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("--budget: " if option else "study.toml: limits.usd: ")
    assert f"the price of {MODEL} is not known; prices.toml in the study folder takes it" in line
    assert "limits.calls or limits.tokens (--calls)" in line


def test_a_run_without_a_budget_needs_no_price(budgeted: Path) -> None:
    """It says how many calls there were, and no amount of money."""
    (budgeted / "prices.toml").unlink()
    done, server = on_server(Books(), lambda: ablate("run", budgeted, "--yes", "--calls", 7))
    assert done.exit_code == 1
    assert len(server.seen) == 7
    assert "USD" not in done.stdout
