"""Models: how a prompt reaches one, and what comes back.

Takes a rendered prompt and request parameters; gives a completion, or says whether the trial
failed or the whole run must stop. The only file that imports anthropic.
Does not know plans, budgets or the ledger.
"""

import contextlib
import inspect
import json
import logging
import os
import re
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import SplitResult, urlsplit

from ablate import simulated
from variants import Prompt
from variants.declarations import nearest

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

SIMULATED_URL = "ABLATE_SIMULATED_BASE_URL"
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
DEFAULT_BASE_URL = "https://api.anthropic.com"
TIMEOUT_S = 600.0
RETRIES = 6
# Where the SDK's log lines come from.
LOGGERS = ("anthropic._base_client", "anthropic._response", "httpx2")
# Answers with another status than 401, 402 or 403 that no later call can do better than.
STOPPING_CODES = frozenset(
    {
        "contract_spend_limit_reached",
        "enforced_spend_limit_reached",
        "linked_organization_spend_limit_reached",
        "organization_on_hold",
    }
)


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


def check_name(model: str) -> None:
    """Raise ModelError for a name that is not provider/name, of a provider that there is."""
    provider, name = split_name(model)
    if not name or provider not in PROVIDERS:
        raise ModelError(
            f"no model `{model}`{nearest(provider, PROVIDERS)}: give provider/name; "
            f"the providers are {', '.join(PROVIDERS)}"
        )


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
    check_name(model)
    return PROVIDERS[split_name(model)[0]](model, parameters)


def check_ready(model: str) -> None:
    """Raise ModelError when a model lacks what only the environment can give, before any call."""
    if split_name(model)[0] == "anthropic":
        _credentials(model)
        _base_url()


def _credentials(model: str) -> tuple[str | None, str | None]:
    """The key, else the token, which the SDK sends in its place."""
    key, token = (_secret(name) for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"))
    if key or token:
        return key, None if key else token
    raise ModelError(f"{model} needs a key: set ANTHROPIC_API_KEY in the environment")


def _secret(variable: str) -> str | None:
    secret = os.environ.get(variable, "").strip()
    if not re.fullmatch(r"[!-~]*", secret):
        raise ModelError(f"{variable} holds a character that no key has: set it anew")
    return secret or None


def _base_url() -> str:
    """Where the calls go. It is printed, so it may not hold a password."""
    url = os.environ.get("ANTHROPIC_BASE_URL", "").strip() or DEFAULT_BASE_URL
    parts = _address(url)
    if parts is None or parts.query:
        raise ModelError(
            "ANTHROPIC_BASE_URL is not of the form https://HOST:PORT/PATH, without user, password "
            "and query: put what authenticates you into ANTHROPIC_API_KEY"
        )
    return url


def _address(url: str) -> SplitResult | None:
    """The parts of an HTTP address with a host; None for any other, and for one with a user."""
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return None
    return parts if sound and "@" not in parts.netloc else None


@asynccontextmanager
async def _open_anthropic(model: str, parameters: Parameters) -> AsyncIterator[Model]:
    key, token = _credentials(model)
    endpoint = _base_url()
    import anthropic

    client = anthropic.AsyncAnthropic(
        api_key=key,
        auth_token=token,
        base_url=endpoint,
        max_retries=RETRIES,
        timeout=TIMEOUT_S,
        # A redirect would take the prompts, and custom headers with them, to another host.
        http_client=anthropic.DefaultAioHttpClient(follow_redirects=False),
    )
    secrets = (key or token or "", *_custom_header_values())
    async with client:
        with _secrets_kept_from_logs(secrets):
            yield _MessagesModel(model, endpoint, parameters, client, secrets, False)


@asynccontextmanager
async def _open_simulated(model: str, parameters: Parameters) -> AsyncIterator[Model]:
    """The embedded subject on a port of its own, or the one that `ablate serve` opened.

    Nothing from ANTHROPIC_* and no proxy takes part: a real key never reaches it.
    """
    from ablate.serving import serving

    async with contextlib.AsyncExitStack() as stack:
        endpoint = os.environ.get(SIMULATED_URL)
        if endpoint:
            check_loopback(endpoint)
        else:
            endpoint = await stack.enter_async_context(serving())
        import anthropic

        with _without_anthropic_environment():
            client = anthropic.AsyncAnthropic(
                api_key=simulated.KEY,
                base_url=endpoint,
                max_retries=RETRIES,
                timeout=TIMEOUT_S,
                http_client=anthropic.DefaultAioHttpClient(trust_env=False, follow_redirects=False),
            )
        await stack.enter_async_context(client)
        yield _MessagesModel(model, endpoint, parameters, client, (), True)


PROVIDERS: dict[str, Callable[[str, Parameters], AbstractAsyncContextManager[Model]]] = {
    "anthropic": _open_anthropic,
    "simulated": _open_simulated,
}


def check_loopback(url: str) -> None:
    """Raise ModelError unless a URL names this machine."""
    parts = _address(url)
    if parts is None or parts.scheme != "http" or parts.hostname not in LOOPBACK:
        raise ModelError(
            f"{url} is not on this machine: the embedded subject listens on http://127.0.0.1:PORT"
        )


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


def _custom_header_values() -> list[str]:
    """What ANTHROPIC_CUSTOM_HEADERS sends along, whole and without a scheme such as Bearer."""
    lines = os.environ.get("ANTHROPIC_CUSTOM_HEADERS", "").split("\n")
    values = [line.partition(":")[2].strip() for line in lines]
    return [v for value in values for v in (value, value.rpartition(" ")[2]) if len(v) >= 8]


def _redacted(text: str, secrets: Iterable[str]) -> str:
    """A text with every secret taken out: servers and proxies echo what they are sent."""
    for secret in secrets:
        for form in (secret, repr(secret)[1:-1]):
            text = text.replace(form, "[key]")
    return text


@contextlib.contextmanager
def _secrets_kept_from_logs(secrets: Sequence[str]) -> Iterator[None]:
    """ANTHROPIC_LOG=debug makes the SDK print all headers of an answer."""

    def redact(record: logging.LogRecord) -> bool:
        record.msg, record.args = _redacted(record.getMessage(), secrets), ()
        return True

    for name in LOGGERS:
        logging.getLogger(name).addFilter(redact)
    try:
        yield
    finally:
        for name in LOGGERS:
            logging.getLogger(name).removeFilter(redact)


@dataclass(slots=True)
class _MessagesModel:
    """A model behind the Messages API, through the anthropic SDK."""

    name: str
    endpoint: str
    parameters: Parameters
    client: Any
    secrets: tuple[str, ...]
    send_trial: bool

    async def complete(self, prompt: Prompt, trial_id: str) -> Completion:
        import anthropic

        request = wire(self.name, prompt, self.parameters)
        headers = {simulated.TRIAL_HEADER: trial_id} if self.send_trial else {}
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
            return _completion(body, raw, time.monotonic() - started)
        except anthropic.APIStatusError as error:
            raise self._status_fault(error) from None
        except anthropic.APITimeoutError:
            raise TrialFailed("timeout", f"no answer within {TIMEOUT_S:.0f} s") from None
        except anthropic.APIConnectionError as error:
            raise TrialFailed("connection", type(error.__cause__ or error).__name__) from None
        except (anthropic.AnthropicError, ValueError) as error:
            raise TrialFailed("invalid", self._shown(str(error))) from None

    def _status_fault(self, error: Any) -> ModelError | TrialFailed:
        status, text = int(error.status_code), self._shown(str(error.message))
        if status in (401, 402, 403) or error.error_code in STOPPING_CODES:
            return ModelError(
                f"{self.name}: {self.endpoint} refuses the calls ({status}): {text}; "
                "check the key and its limits, then run again"
            )
        if status == 404:
            return ModelError(f"{self.name}: {self.endpoint} does not know this model: {text}")
        if 300 <= status < 400:
            return ModelError(
                f"{self.name}: {self.endpoint} sends the calls elsewhere ({status}), where no "
                "prompt follows: set the base URL to the right place"
            )
        return TrialFailed(f"http {status}", text)

    def _shown(self, text: str) -> str:
        return _redacted(text, self.secrets)[:500]


async def _settled(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


def _completion(body: bytes, raw: Any, seconds: float) -> Completion:
    """The completion that a body holds. Raises ValueError: anything may come with status 200."""
    try:
        message = json.loads(body)
        blocks = message["content"]
        texts = [block["text"] for block in blocks if block["type"] == "text"]
        thoughts = [block["thinking"] for block in blocks if block["type"] == "thinking"]
        text, reasoning = "".join(texts), "".join(thoughts)
        sound = message["type"] == "message"
    except (ValueError, TypeError, KeyError, RecursionError):
        sound = False
    if not sound:
        raise ValueError(f"the answer is not a message: {body.decode('utf-8', 'replace')}")
    usage = message.get("usage")
    counts = usage if isinstance(usage, dict) else {}
    return Completion(
        text=text,
        reasoning=reasoning or None,
        stop_reason=_text(message.get("stop_reason")),
        input_tokens=_count(counts.get("input_tokens")),
        output_tokens=_count(counts.get("output_tokens")),
        request_id=raw.headers.get("request-id"),
        served_by=_text(message.get("model")),
        body=body,
        retries=int(getattr(raw, "retries_taken", 0) or 0),
        seconds=seconds,
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _count(value: object) -> int | None:
    """A token count, None where the server's is none: it enters budgets and the ledger."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 48:
        return value
    return None
