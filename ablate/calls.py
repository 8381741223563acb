"""Calls: single paid answers outside a plan, through the same doors as trials.

Takes prompts for one model; gives its answers, each on disk before it counts and never bought
twice: the n-th time that the same prompt is asked on the same occasion, the n-th answer of the
ledger is given. Does not know what is asked, nor any programme that asks it.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from ablate.models import (
    Completion,
    Model,
    Parameters,
    TrialFailed,
    open_model,
)
from ablate.store import Failure, Ledger, Row
from variants import Prompt
from variants.scenario import content_hash

__all__ = ["CallLimit", "Caller", "calling"]


class CallLimit(RuntimeError):
    """A limit of the study is reached; what was answered is kept."""


@dataclass(slots=True)
class _Shared:
    """What the callers of one piece of work have together.

    `calls` and `tokens` are what was paid for now, `reserved` the worst case of what is in flight.
    """

    places: asyncio.Semaphore
    most_calls: int | None
    most_tokens: int | None
    calls: int = 0
    tokens: int = 0
    reserved: int = 0
    fault: Exception | None = None
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def reserve(self, most: int) -> None:
        """Count a call that is about to be made. Raises the fault when none may be."""
        async with self.changed:
            while self.fault is None:
                if self.most_calls is not None and self.calls >= self.most_calls:
                    self.fault = CallLimit(
                        f"the limit of {self.most_calls} calls is reached; what was answered is "
                        "kept: run the same command again to go on"
                    )
                elif (
                    self.most_tokens is None
                    or self.tokens + self.reserved + most <= self.most_tokens
                ):
                    self.calls += 1
                    self.reserved += most
                    return
                elif self.reserved:
                    # Those in flight may need less than their worst case.
                    await self.changed.wait()
                else:
                    self.fault = CallLimit(
                        f"another call could exceed the limit of {self.most_tokens} tokens; what "
                        "was answered is kept: run the same command again to go on"
                    )
            raise self.fault

    async def settle(self, most: int, used: int) -> None:
        async with self.changed:
            self.reserved -= most
            self.tokens += used
            self.changed.notify_all()


@dataclass(slots=True)
class Caller:
    """One model's answers; `fault` is why nothing further can be asked."""

    name: str
    model: Model
    parameters: Parameters
    ledger: Ledger
    purpose: str
    _shared: _Shared
    _asked: Counter[str] = field(default_factory=Counter)

    @property
    def calls(self) -> int:
        """What was paid for now by this caller and those beside it, not what was kept."""
        return self._shared.calls

    @property
    def tokens(self) -> int:
        return self._shared.tokens

    @property
    def fault(self) -> Exception | None:
        return self._shared.fault

    def stop(self, reason: Exception) -> None:
        """Ask nothing further; what is in flight still reaches the ledger."""
        self._shared.fault = self._shared.fault or reason

    async def ask(self, prompt: Prompt, occasion: str = "") -> str:
        """The answer's text. Raises TrialFailed when this call fails, ModelError, CallLimit or
        LedgerError when no further call makes sense.
        """
        key = content_hash(
            [self.name, self.parameters.identity(), prompt.prompt_id, self.purpose, occasion]
        )
        number = self._asked[key]
        self._asked[key] += 1
        call_id = content_hash([key, number])
        try:
            for _, text, _ in self.ledger.answers([call_id]):
                return str(text)
            async with self._shared.places:
                return (await self._call(prompt, call_id)).text
        except TrialFailed:
            raise
        except Exception as error:
            self.stop(error)
            raise

    async def _call(self, prompt: Prompt, call_id: str) -> Completion:
        size = sum(
            len(text.encode()) for text in (prompt.system or "", *(t.text for t in prompt.turns))
        )
        most = used = size + self.parameters.max_tokens
        await self._shared.reserve(most)
        try:
            completion = await self.model.complete(prompt, call_id)
            if completion.output_tokens is not None:
                used = (completion.input_tokens or 0) + completion.output_tokens
            await self._keep(Row(call_id, completion))
        except TrialFailed as error:
            await self._keep(Row(call_id, Failure(error.kind, str(error))))
            raise
        finally:
            # A failed call may have been paid for: it counts at its worst case.
            await self._shared.settle(most, used)
        return completion

    async def _keep(self, row: Row) -> None:
        """One row at a time: the ledger takes no second transaction beside the first."""
        async with self._shared.writing:
            await asyncio.to_thread(self.ledger.append, [row])


@contextlib.asynccontextmanager
async def calling(
    model: str,
    ledger: Ledger,
    *,
    purpose: str,
    max_tokens: int,
    concurrency: int = 1,
    most_calls: int | None = None,
    most_tokens: int | None = None,
    beside: Caller | None = None,
) -> AsyncIterator[Caller]:
    """Open a model for calls. Raises ModelError when it cannot be used.

    A caller `beside` another one shares its limits and its fault, in place of its own.
    """
    parameters = Parameters(max_tokens, None, "none")
    async with open_model(model, parameters) as opened:
        yield Caller(
            name=model,
            model=opened,
            parameters=parameters,
            ledger=ledger,
            purpose=purpose,
            _shared=beside._shared
            if beside
            else _Shared(asyncio.Semaphore(concurrency), most_calls, most_tokens),
        )
