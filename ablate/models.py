"""Models: how a prompt reaches one, and what comes back.

Takes a rendered prompt and request parameters; gives a completion, or says whether the trial
failed or the whole run must stop. The only file that imports anthropic.
Does not know plans, budgets or the ledger.
"""

import contextlib
import inspect
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from variants import Prompt

__all__ = [
    "PROVIDERS",
    "Completion",
    "Model",
    "ModelError",
    "Parameters",
    "TrialFailed",
    "open_model",
    "split_name",
    "wire",
]

SIMULATED_KEY = "simulated"
SIMULATED_URL = "ABLATE_SIMULATED_BASE_URL"
TRIAL_HEADER = "x-ablate-trial"
DEFAULT_BASE_URL = "https://api.anthropic.com"
TIMEOUT_S = 600.0
RETRIES = 6


class ModelError(RuntimeError):
    """A model cannot be used at all: the run stops, and the message says what to do."""


class TrialFailed(RuntimeError):
    """One call failed for its own reasons; `kind` is a short name of the reason."""

    def __init__(self, kind: str, message: str) -> None:
        self.kind = kind
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Parameters:
    """Request parameters that are part of a trial's identity; `temperature` None = not sent."""

    max_tokens: int
    temperature: float | None
    reasoning: str

    def identity(self) -> dict[str, object]:
        """The parameters as canonical data, for hashing."""
        return {
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "reasoning": self.reasoning,
        }


@dataclass(frozen=True, slots=True)
class Completion:
    """What came back: text, reasoning from a channel of its own, and the raw body.

    Token counts are the server's, None where it gave none; `retries` is how often the call was
    sent again.
    """

    text: str
    reasoning: str | None
    stop_reason: str | None
    input_tokens: int | None
    output_tokens: int | None
    request_id: str | None
    served_by: str | None
    body: bytes
    retries: int
    seconds: float


class Model(Protocol):
    """A model that answers one prompt at a time; `endpoint` is printed before the first call."""

    name: str
    endpoint: str

    async def complete(self, prompt: Prompt, trial_id: str) -> Completion: ...


def split_name(model: str) -> tuple[str, str]:
    """Provider and the provider's own name of a model."""
    provider, _, name = model.partition("/")
    return provider, name


def wire(model: str, prompt: Prompt, parameters: Parameters) -> dict[str, Any]:
    """The JSON body of a Messages API call."""
    body: dict[str, Any] = {
        "model": split_name(model)[1],
        "max_tokens": parameters.max_tokens,
        "messages": [{"role": turn.role, "content": turn.text} for turn in prompt.turns],
    }
    if prompt.system is not None:
        body["system"] = prompt.system
    if parameters.temperature is not None:
        body["temperature"] = parameters.temperature
    return body


def is_paid(model: str) -> bool:
    """Whether calls to a model may cost money: all but the embedded subject's."""
    return split_name(model)[0] != "simulated"


def open_model(model: str, parameters: Parameters) -> AbstractAsyncContextManager[Model]:
    """Open a model for calls. Raises ModelError when it cannot be used."""
    return PROVIDERS[split_name(model)[0]](model, parameters)


def check_ready(model: str) -> None:
    """Raise ModelError when a model lacks what only the environment can give, before any call."""
    if split_name(model)[0] == "anthropic" and not (
        os.environ.get("ANTHROPIC_API_KEY") or os.environ.get("ANTHROPIC_AUTH_TOKEN")
    ):
        raise ModelError(f"{model} needs a key: set ANTHROPIC_API_KEY in the environment")


@asynccontextmanager
async def _open_anthropic(model: str, parameters: Parameters) -> AsyncIterator[Model]:
    check_ready(model)
    import anthropic

    endpoint = os.environ.get("ANTHROPIC_BASE_URL") or DEFAULT_BASE_URL
    client = anthropic.AsyncAnthropic(
        max_retries=RETRIES, timeout=TIMEOUT_S, http_client=anthropic.DefaultAioHttpClient()
    )
    async with client:
        yield _MessagesModel(model, endpoint, parameters, client, send_trial=False)


@asynccontextmanager
async def _open_simulated(model: str, parameters: Parameters) -> AsyncIterator[Model]:
    """The embedded subject on a port of its own, or the one that `ablate serve` opened.

    Nothing from ANTHROPIC_* and no proxy takes part: a real key never reaches it.
    """
    from ablate.serving import check_loopback, serving

    async with contextlib.AsyncExitStack() as stack:
        endpoint = os.environ.get(SIMULATED_URL)
        if endpoint:
            check_loopback(endpoint)
        else:
            endpoint = await stack.enter_async_context(serving())
        import anthropic

        with _without_anthropic_environment():
            client = anthropic.AsyncAnthropic(
                api_key=SIMULATED_KEY,
                base_url=endpoint,
                max_retries=RETRIES,
                timeout=TIMEOUT_S,
                http_client=anthropic.DefaultAioHttpClient(trust_env=False),
            )
        await stack.enter_async_context(client)
        yield _MessagesModel(model, endpoint, parameters, client, send_trial=True)


PROVIDERS: dict[str, Callable[[str, Parameters], AbstractAsyncContextManager[Model]]] = {
    "anthropic": _open_anthropic,
    "simulated": _open_simulated,
}


@contextlib.contextmanager
def _without_anthropic_environment() -> Iterator[None]:
    """The SDK also takes headers, profiles and URLs from the environment when it is made."""
    taken = {
        name: os.environ.pop(name) for name in list(os.environ) if name.startswith("ANTHROPIC_")
    }
    try:
        yield
    finally:
        os.environ.update(taken)


@dataclass(slots=True)
class _MessagesModel:
    """A model behind the Messages API, through the anthropic SDK."""

    name: str
    endpoint: str
    parameters: Parameters
    client: Any
    send_trial: bool

    async def complete(self, prompt: Prompt, trial_id: str) -> Completion:
        import anthropic

        request = wire(self.name, prompt, self.parameters)
        headers = {TRIAL_HEADER: trial_id} if self.send_trial else {}
        if "temperature" in request:
            # The current API version refuses a temperature; the SDK takes it as extra body only.
            request["extra_body"] = {"temperature": request.pop("temperature")}
            headers["anthropic-version"] = "2023-06-01"
        started = time.monotonic()
        try:
            raw = await self.client.messages.with_raw_response.create(
                **request, extra_headers=headers
            )
            body = await _settled(raw.read())
            message = await _settled(raw.parse())
        except anthropic.APIStatusError as error:
            raise self._status_fault(error) from None
        except anthropic.APITimeoutError:
            raise TrialFailed("timeout", f"no answer within {TIMEOUT_S:.0f} s") from None
        except anthropic.APIConnectionError as error:
            cause = error.__cause__ or error
            raise TrialFailed("connection", self._redacted(f"{type(cause).__name__}")) from None
        except (anthropic.AnthropicError, ValueError) as error:
            raise TrialFailed("invalid", self._redacted(str(error))) from None
        return _completion(message, raw, body, time.monotonic() - started)

    def _status_fault(self, error: Any) -> ModelError | TrialFailed:
        status = int(error.status_code)
        text = self._redacted(str(error.message))
        if status in (401, 402, 403):
            return ModelError(
                f"{self.name}: {self.endpoint} refuses the calls ({status}): {text}; "
                "check the key and its limits, then run again"
            )
        if status == 404:
            return ModelError(f"{self.name}: {self.endpoint} does not know this model: {text}")
        return TrialFailed(f"http {status}", text)

    def _redacted(self, text: str) -> str:
        """An error text with every credential taken out: servers and proxies echo them."""
        for secret in (self.client.api_key, self.client.auth_token):
            if secret and secret != SIMULATED_KEY:
                text = text.replace(secret, "[key]")
        return text[:500]


async def _settled(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


def _completion(message: Any, raw: Any, body: bytes, seconds: float) -> Completion:
    if message.content is None or getattr(message, "type", None) != "message":
        raise TrialFailed("invalid", "the answer is not a message")
    texts = [block.text for block in message.content if block.type == "text"]
    thoughts = [block.thinking for block in message.content if block.type == "thinking"]
    headers: Mapping[str, str] = raw.headers
    return Completion(
        text="".join(texts),
        reasoning="".join(thoughts) or None,
        stop_reason=message.stop_reason,
        input_tokens=getattr(message.usage, "input_tokens", None),
        output_tokens=getattr(message.usage, "output_tokens", None),
        request_id=headers.get("request-id"),
        served_by=message.model,
        body=body,
        retries=int(getattr(raw, "retries_taken", 0) or 0),
        seconds=seconds,
    )
