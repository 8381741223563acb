"""Paid answers outside a plan: kept before they count, never bought twice, within the limits."""

import asyncio
import sqlite3
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest
from wire_server import Reply, Seen, error, message, one_after_another
from writer_judge import KEY, use

from ablate.calls import Caller, CallLimit, calling
from ablate.models import ModelError, TrialFailed
from ablate.store import Ledger, LedgerError
from variants import Prompt, Turn

pytestmark = pytest.mark.usefixtures("own_environment")


def prompt(text: object) -> Prompt:
    """A prompt of one turn."""
    return Prompt("Be brief.", (Turn("user", f"question {text}"),))


def numbered(seen: Seen, number: int) -> Reply:
    """Every answer is another one."""
    return message(f"answer {number}")


def together(*calls: Awaitable[str]) -> "asyncio.Future[list[Any]]":
    """All of them at once; a fault in the place of an answer."""
    return asyncio.gather(*calls, return_exceptions=True)


def rows(folder: Path, table: str = "answers") -> int:
    """How many rows a table of the ledger holds, read by another connection."""
    with sqlite3.connect(folder / "ledger.sqlite") as db:
        return int(db.execute(f"select count(*) from {table}").fetchone()[0])


def test_the_nth_question_gets_the_nth_answer_whoever_asks_again(tmp_path: Path) -> None:
    """A second process that asks the same things buys nothing, and then goes on."""

    async def thrice(one: Caller, _: Caller) -> list[str]:
        return [await one.ask(prompt(text)) for text in (1, 1, 2)]

    async def more(one: Caller, _: Caller) -> list[str]:
        return [await one.ask(prompt(text)) for text in (2, 1, 1, 1)]

    first, server = use(tmp_path, numbered, thrice)
    assert (first, len(server.seen)) == (["answer 0", "answer 1", "answer 2"], 3)
    second, server = use(tmp_path, message("new"), more)
    assert (second, len(server.seen)) == (["answer 2", "answer 0", "answer 1", "new"], 1)


def test_an_answer_belongs_to_its_occasion_and_model(tmp_path: Path) -> None:
    """The order in which others ask the same words changes nothing."""

    async def here(one: Caller, two: Caller) -> list[str]:
        return [
            await one.ask(prompt(1), "here"),
            await one.ask(prompt(1), "there"),
            await two.ask(prompt(1), "here"),
        ]

    async def there(one: Caller, two: Caller) -> list[str]:
        return [
            await two.ask(prompt(1), "here"),
            await one.ask(prompt(1), "there"),
            await one.ask(prompt(1), "here"),
        ]

    first, server = use(tmp_path, numbered, here)
    second, again = use(tmp_path, message("new"), there)
    assert (second, len(server.seen), len(again.seen)) == (first[::-1], 3, 0)


def test_an_answer_is_on_disk_before_it_counts(tmp_path: Path) -> None:
    """Another connection reads it as soon as the caller has it."""

    async def counted(one: Caller, _: Caller) -> list[int]:
        found = []
        for number in range(3):
            await one.ask(prompt(number))
            found.append(rows(tmp_path))
        return found

    assert use(tmp_path, message(), counted)[0] == [1, 2, 3]


def test_callers_side_by_side_share_the_places(tmp_path: Path) -> None:
    """No more calls at once than were asked for, and as many."""

    async def many(one: Caller, two: Caller) -> list[Any]:
        return await together(*(c.ask(prompt(n)) for n in range(10) for c in (one, two)))

    said, server = use(tmp_path, message(delay=0.05), many, concurrency=3)
    assert (said, server.most_at_once, rows(tmp_path)) == (["Fine."] * 20, 3, 20)


def test_answers_and_failures_that_come_together_are_all_kept(tmp_path: Path) -> None:
    """The ledger never sees two transactions at a time."""

    def half(seen: Seen, _: int) -> Reply:
        return error(400, "no") if b"question 1" in seen.body else message()

    async def many(one: Caller, two: Caller) -> list[Any]:
        return await together(*(c.ask(prompt(n)) for n in range(20) for c in (one, two)))

    said, _ = use(tmp_path, half, many, concurrency=40)
    failed = [s for s in said if isinstance(s, TrialFailed)]
    assert (len(failed), said.count("Fine.")) == (22, 18)
    assert (rows(tmp_path), rows(tmp_path, "failures")) == (18, 22)


@pytest.mark.parametrize("limit", [1, 5])
def test_the_limit_of_calls_holds_for_both_and_the_rest_comes_later(
    tmp_path: Path, limit: int
) -> None:
    """What was answered under a small limit is not asked again under a larger one."""

    async def many(one: Caller, two: Caller) -> list[Any]:
        return await together(*(c.ask(prompt(n)) for n in range(6) for c in (one, two)))

    said, server = use(tmp_path, message(), many, most_calls=limit)
    stopped = [s for s in said if isinstance(s, CallLimit)]
    assert (len(server.seen), rows(tmp_path), len(stopped)) == (limit, limit, 12 - limit)
    assert f"the limit of {limit} calls" in str(stopped[0])
    said, server = use(tmp_path, message(), many, most_calls=12)
    assert (said, len(server.seen)) == (["Fine."] * 12, 12 - limit)


def test_the_limit_of_tokens_is_not_exceeded_nor_feared_too_early(tmp_path: Path) -> None:
    """Calls wait for those in flight, whose worst case is far from what they need."""

    async def many(one: Caller, two: Caller) -> tuple[list[Any], int]:
        said = await together(*(c.ask(prompt(n)) for n in range(6) for c in (one, two)))
        return said, one.tokens

    (said, tokens), server = use(tmp_path, message(tokens=(30, 20)), many, most_tokens=500)
    # A call's worst case is 100 tokens and the 19 bytes of its prompt: 8 calls leave 100.
    assert (len(server.seen), tokens) == (8, 400)
    assert sum(isinstance(s, CallLimit) for s in said) == 4
    assert "500 tokens" in str(next(s for s in said if isinstance(s, CallLimit)))


def test_a_call_of_unknown_size_counts_at_its_worst_case(tmp_path: Path) -> None:
    """So does one that failed: it may have been paid for."""

    async def two_calls(one: Caller, _: Caller) -> int:
        await one.ask(prompt(1))
        with pytest.raises(TrialFailed):
            await one.ask(prompt(2))
        return one.tokens

    replies = one_after_another(message(tokens=(None, None)), error(400))
    assert use(tmp_path, replies, two_calls)[0] == 2 * 119


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_stops_both_and_loses_nothing_in_flight(tmp_path: Path, status: int) -> None:
    """The calls that were under way are answered and kept; nothing else is sent."""

    def reply(seen: Seen, _: int) -> Reply:
        return error(status, "the reason") if b"question 0" in seen.body else message(delay=0.3)

    async def many(one: Caller, two: Caller) -> list[Any]:
        return await together(*(c.ask(prompt(n)) for n in range(6) for c in (two, one)))

    said, server = use(tmp_path, reply, many)
    faults = [s for s in said if isinstance(s, ModelError)]
    # Both callers' first questions are refused; beside them two more had been sent.
    assert (len(server.seen), said.count("Fine."), rows(tmp_path)) == (4, 2, 2)
    assert len(faults) == 10
    assert len({str(fault) for fault in faults[1:]}) <= 2


def test_a_slow_server_is_waited_for_and_asked_once(tmp_path: Path) -> None:
    """A 429 with its own waiting time is one call, however often it is sent."""

    async def once(one: Caller, _: Caller) -> tuple[str, int]:
        return await one.ask(prompt(1)), one.calls

    busy = error(429, headers=(("retry-after", "0.05"),))
    (text, calls), server = use(tmp_path, one_after_another(busy, busy, message()), once)
    assert (text, calls, len(server.seen)) == ("Fine.", 1, 3)


def test_an_overloaded_server_fails_one_call_and_not_the_next(tmp_path: Path) -> None:
    """The failure is on record, and the same question may be asked again."""

    async def twice(one: Caller, _: Caller) -> str:
        with pytest.raises(TrialFailed, match="overloaded"):
            await one.ask(prompt(1))
        assert one.fault is None
        return await one.ask(prompt(1))

    replies = [error(529, "overloaded")] * 7
    said, server = use(tmp_path, one_after_another(*replies, message()), twice)
    assert (said, len(server.seen), rows(tmp_path, "failures")) == ("Fine.", 8, 1)


def test_a_ledger_that_takes_nothing_stops_the_work(tmp_path: Path) -> None:
    """No answer is bought that cannot be kept."""

    async def broken(one: Caller, two: Caller) -> list[Any]:
        await one.ask(prompt(0))
        with sqlite3.connect(tmp_path / "ledger.sqlite") as db:
            db.execute("drop table answers")
        return [await together(caller.ask(prompt(n))) for n in (1, 2) for caller in (one, two)]

    said, server = use(tmp_path, message(), broken)
    assert all(isinstance(s, LedgerError) for (s,) in said)
    assert len(server.seen) == 1


@pytest.mark.parametrize("model", ["claude", "nobody/claude", "anthropic/", "/claude"])
def test_a_model_without_a_provider_is_refused(tmp_path: Path, model: str) -> None:
    """The message says which providers there are."""

    async def opened() -> None:
        with Ledger(tmp_path / "ledger.sqlite") as ledger:
            async with calling(model, ledger, purpose="test", max_tokens=1):
                pass

    with pytest.raises(ModelError, match="anthropic"):
        asyncio.run(opened())


def test_the_key_is_not_in_the_ledger(tmp_path: Path) -> None:
    """Not even when a server repeats it in its refusals."""

    def careless(seen: Seen, number: int) -> Reply:
        return error(400 if number else 422, seen.everything())

    async def several(one: Caller, two: Caller) -> list[Any]:
        return await together(one.ask(prompt(1)), two.ask(prompt(2)))

    said, server = use(tmp_path, careless, several)
    assert all(isinstance(s, TrialFailed) for s in said)
    assert KEY in server.seen[0].everything()
    for path in tmp_path.iterdir():
        assert KEY[:14].encode() not in path.read_bytes()
