"""The runner: calls what the ledger does not hold, within the limits, and writes every answer.

Takes pending trials with their prompts, and open models; gives a summary of what happened.
An answer counts when it is on disk. Does not know designs, grades or what a prompt says.
"""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field

from ablate.models import Completion, Model, TrialFailed
from ablate.store import Failure, Ledger, Row
from variants import Prompt

__all__ = ["Limits", "Summary", "Trial", "run"]

GROUP_ROWS = 64


@dataclass(frozen=True, slots=True)
class Trial:
    """A call that is to be made."""

    trial_id: str
    model: str
    prompt: Prompt


@dataclass(frozen=True, slots=True)
class Limits:
    """Where the run stops by itself; None = no limit.

    `most_tokens` and `most_usd` are a call's worst case, `usd_of` is what an answer cost; money is
    not counted without them. `usd_before` of the limit was spent before the run.
    """

    concurrency: int
    calls: int | None = None
    tokens: int | None = None
    most_tokens: Callable[[Trial], int] = lambda trial: 0
    usd: float | None = None
    usd_before: float = 0.0
    most_usd: Callable[[Trial], float] = lambda trial: 0.0
    usd_of: Callable[[Trial, Completion], float] | None = None


@dataclass(slots=True)
class Summary:
    """What a run did; `stopped` says why it ended early, `resume` how to go on.

    Failed calls count at their worst case in `tokens` and `usd`, which is None where the prices are
    not known or nothing is paid.
    """

    answered: int = 0
    failed: int = 0
    retries: int = 0
    tokens: int = 0
    usd: float | None = None
    failures: dict[str, int] = field(default_factory=dict)
    stopped: str | None = None
    resume: str = "run the same command again"


@dataclass(slots=True)
class Allowance:
    """How much of one thing may be used; calls in flight are `reserved` at their worst case."""

    limit: float | None
    used: float = 0
    reserved: float = 0

    def allows(self, most: float) -> bool:
        return self.limit is None or self.used + self.reserved + most <= self.limit

    def settle(self, most: float, used: float) -> None:
        self.reserved -= most
        self.used += used


async def run(
    trials: Iterator[Trial],
    models: Mapping[str, Model],
    ledger: Ledger,
    limits: Limits,
    progress: Callable[[Summary], None],
) -> Summary:
    """Make the calls, at most `limits.concurrency` at a time; `progress` hears of each result.

    A failed trial is recorded and does not stop the others; a model that cannot be used, a
    ledger that cannot be written, a limit, or Ctrl-C stops the run after the calls in flight. A
    second Ctrl-C drops those too. Raises ModelError, LedgerError or whatever else was the reason.
    """
    tokens, usd = Allowance(limits.tokens), Allowance(limits.usd, limits.usd_before)
    state = _State(trials, models, limits, Summary(), progress, tokens, usd)
    async with _interruptible(state), _writer(ledger) as write:
        state.workers = [asyncio.create_task(state.work(write)) for _ in range(limits.concurrency)]
        try:
            await asyncio.gather(*state.workers)
        except asyncio.CancelledError:
            # Cancelled by a second Ctrl-C, the workers may still hand over an answer.
            await asyncio.gather(*state.workers, return_exceptions=True)
            if state.interrupts < 2:
                raise
            state.summary.stopped = "interrupted twice: the calls in flight were dropped"
    if state.fault is not None:
        raise state.fault
    return state.summary


Write = Callable[[Row], "asyncio.Future[None]"]


@dataclass(slots=True)
class _State:
    """What the workers of one run share."""

    trials: Iterator[Trial]
    models: Mapping[str, Model]
    limits: Limits
    summary: Summary
    progress: Callable[[Summary], None]
    tokens: Allowance
    usd: Allowance
    workers: list["asyncio.Task[None]"] = field(default_factory=list)
    held: Trial | None = None
    started: int = 0
    in_flight: int = 0
    interrupts: int = 0
    stop: bool = False
    fault: Exception | None = None

    async def work(self, write: Write) -> None:
        """Take trials until there are none or the run is to stop.

        No fault may leave here: it would end the run before the others have written their answers.
        """
        try:
            while (trial := self._next()) is not None:
                result = await self._call(trial)
                await write(Row(trial.trial_id, result))
                self._count(trial, result)
        except Exception as error:
            self.stop = True
            self.fault = self.fault or error

    async def _call(self, trial: Trial) -> Completion | Failure:
        try:
            return await self.models[trial.model].complete(trial.prompt, trial.trial_id)
        except TrialFailed as error:
            return Failure(error.kind, str(error))

    def _next(self) -> Trial | None:
        if self.stop:
            return None
        limits, summary = self.limits, self.summary
        if limits.calls is not None and self.started >= limits.calls:
            summary.stopped = summary.stopped or f"the limit of {limits.calls} calls is reached"
            return None
        trial = self.held or next(self.trials, None)
        self.held = None
        if trial is None:
            return None
        tokens, usd = limits.most_tokens(trial), limits.most_usd(trial)
        if not (self.tokens.allows(tokens) and self.usd.allows(usd)):
            if self.in_flight:
                # Those in flight may need less than their worst case: one of them takes it then.
                self.held = trial
                return None
            self.stop = True
            if not self.tokens.allows(tokens):
                summary.stopped = f"another call could exceed the limit of {limits.tokens} tokens"
            else:
                summary.stopped = (
                    f"another call could exceed the budget of {limits.usd:g} USD, "
                    f"of which {self.usd.used:.2f} is spent"
                )
                summary.resume = "run again with a larger --budget"
            return None
        self.started += 1
        self.in_flight += 1
        self.tokens.reserved += tokens
        self.usd.reserved += usd
        return trial

    def _count(self, trial: Trial, result: Completion | Failure) -> None:
        summary, limits = self.summary, self.limits
        tokens, usd = most = limits.most_tokens(trial), limits.most_usd(trial)
        if isinstance(result, Failure):
            # A failed call may have been paid for: it counts at its worst case.
            summary.failed += 1
            summary.failures[result.kind] = summary.failures.get(result.kind, 0) + 1
        else:
            summary.answered += 1
            summary.retries += result.retries
            if result.input_tokens is not None and result.output_tokens is not None:
                tokens = result.input_tokens + result.output_tokens
            usd = limits.usd_of(trial, result) if limits.usd_of else usd
        self.in_flight -= 1
        self.tokens.settle(most[0], tokens)
        self.usd.settle(most[1], usd)
        summary.tokens += tokens
        if limits.usd_of is not None:
            summary.usd = (summary.usd or 0.0) + usd
        self.progress(summary)


@contextlib.asynccontextmanager
async def _writer(ledger: Ledger) -> AsyncIterator[Write]:
    """One writer with group commit: rows that arrive together share a transaction.

    The future that it gives for a row is done when the row is on disk.
    """
    queue: asyncio.Queue[tuple[Row, asyncio.Future[None]] | None] = asyncio.Queue()

    def write(row: Row) -> "asyncio.Future[None]":
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.put_nowait((row, done))
        return done

    task = asyncio.create_task(_write_groups(ledger, queue))
    try:
        yield write
    finally:
        queue.put_nowait(None)
        await task


async def _write_groups(
    ledger: Ledger, queue: "asyncio.Queue[tuple[Row, asyncio.Future[None]] | None]"
) -> None:
    entry = await queue.get()
    while entry is not None:
        # Rows that came while the last group was being written make the next one.
        group = [entry]
        while len(group) < GROUP_ROWS and not queue.empty():
            entry = queue.get_nowait()
            if entry is None:
                break
            group.append(entry)
        error: Exception | None = None
        try:
            await asyncio.to_thread(ledger.append, [row for row, _ in group])
        except Exception as fault:
            # Handed to those who wait for it: if it ended this task, they would wait for ever.
            error = fault
        for _, done in group:
            if done.cancelled():
                continue
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)
        if entry is not None:
            entry = await queue.get()


@contextlib.asynccontextmanager
async def _interruptible(state: _State) -> AsyncIterator[None]:
    """Ctrl-C lets the calls in flight finish; a second one cancels them."""
    loop = asyncio.get_running_loop()

    def interrupt() -> None:
        state.interrupts += 1
        state.stop = True
        state.summary.stopped = "interrupted: the calls in flight were finished"
        if state.interrupts > 1:
            for worker in state.workers:
                worker.cancel()

    try:
        loop.add_signal_handler(signal.SIGINT, interrupt)
    except (NotImplementedError, RuntimeError, ValueError):
        # Not the main thread, or a platform without signal handlers: Ctrl-C then ends the process.
        yield
        return
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)
