"""What goes over the wire to a model, what comes back, and what never leaves: a key."""

import asyncio
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from wire_server import HOST, Reply, Script, Wire, echo, error, message, one_after_another
from wire_server import wire_server as serve

from ablate import models
from ablate.models import Completion, ModelError, Parameters, TrialFailed, open_model, wire
from variants import Prompt, Turn

PROMPT = Prompt("Be brief.", (Turn("user", "What is the time?"),))
PLAIN = Parameters(max_tokens=100, temperature=None, reasoning="scratchpad")
KEY = "sk-ant-api03-Zk0_nobody-has-this-key-7Q"
OTHER = "sk-ant-oat01-Wp9_nor-this-token-4J"
SECRETS = {
    "ANTHROPIC_API_KEY": KEY,
    "ANTHROPIC_AUTH_TOKEN": OTHER,
    "ANTHROPIC_CUSTOM_HEADERS": "X-Gateway: gateway-secret-1\nAuthorization: Bearer other-secret-2",
}
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
WITHIN_S = 20.0
pytestmark = pytest.mark.usefixtures("own_environment")


def ask(
    script: Script | Reply,
    *,
    model: str = "anthropic/some-model",
    prompt: Prompt = PROMPT,
    parameters: Parameters = PLAIN,
    environment: dict[str, str] | None = None,
) -> tuple[Completion | Exception, Wire]:
    """One call to a server that follows the script: what came of it, and what the server saw."""

    async def call() -> tuple[Completion | Exception, Wire]:
        async with serve(script) as server:
            place = {"ANTHROPIC_BASE_URL": server.url, "ABLATE_SIMULATED_BASE_URL": server.url}
            with pytest.MonkeyPatch.context() as patch:
                for name, value in (place | (environment or {"ANTHROPIC_API_KEY": KEY})).items():
                    patch.setenv(name, value)
                try:
                    async with open_model(model, parameters) as opened:
                        return await opened.complete(prompt, "trial-1"), server
                except (ModelError, TrialFailed) as fault:
                    return fault, server

    return asyncio.run(asyncio.wait_for(call(), WITHIN_S))


def completion(*arguments: object, **options: object) -> tuple[Completion, Wire]:
    """Like `ask`, of a call that must succeed."""
    result, server = ask(*arguments, **options)  # type: ignore[arg-type]
    assert isinstance(result, Completion), repr(result)
    return result, server


@pytest.mark.parametrize("model", ["anthropic/some-model", "simulated/planted"])
@pytest.mark.parametrize(
    "prompt",
    [
        PROMPT,
        Prompt(None, (Turn("user", "x"),)),
        Prompt("", (Turn("user", " leading and trailing \n"),)),
        Prompt("{{x}} {% y %} $ \\ \" '", (Turn("user", "<tier>free</tier>\r\n\tgrüße 🙂 \0"),)),
        Prompt("s", (Turn("user", "a"), Turn("assistant", "b"), Turn("user", "c" * 100_000))),
    ],
    ids=["plain", "no system", "white space", "special", "turns"],
)
@pytest.mark.parametrize("temperature", [None, 0.0, 0.7])
def test_the_server_receives_what_wire_gives(
    model: str, prompt: Prompt, temperature: float | None
) -> None:
    """The body that is printed for a dry run is the body that is sent."""
    parameters = Parameters(321, temperature, "scratchpad")
    _, server = completion(message(), model=model, prompt=prompt, parameters=parameters)
    (seen,) = server.seen
    expected = {
        "model": model.split("/")[1],
        "max_tokens": 321,
        "messages": [{"role": turn.role, "content": turn.text} for turn in prompt.turns],
    }
    expected |= {} if prompt.system is None else {"system": prompt.system}
    expected |= {} if temperature is None else {"temperature": temperature}
    assert json.loads(seen.body) == expected == wire(model, prompt, parameters)
    assert seen.path == "/v1/messages"


def test_a_temperature_goes_with_the_version_that_takes_it() -> None:
    """Without one neither the field nor the old version is sent."""
    _, plain = completion(message())
    _, warm = completion(message(), parameters=Parameters(100, 0.5, "none"))
    assert "temperature" not in json.loads(plain.seen[0].body)
    assert plain.seen[0].header("anthropic-version") not in (None, "2023-06-01")
    assert json.loads(warm.seen[0].body)["temperature"] == 0.5
    assert warm.seen[0].header("anthropic-version") == "2023-06-01"


def test_the_trial_id_goes_to_the_subject_alone() -> None:
    """No real server can tell trials apart."""
    _, real = completion(message())
    _, simulated = completion(message(), model="simulated/planted")
    assert "trial-1" not in real.seen[0].everything()
    assert simulated.seen[0].header("x-ablate-trial") == "trial-1"


@pytest.mark.parametrize(
    ("variable", "secret"), [("ANTHROPIC_API_KEY", KEY), ("ANTHROPIC_AUTH_TOKEN", OTHER)]
)
@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 422, 307])
def test_a_secret_is_in_no_error(status: int, variable: str, secret: str) -> None:
    """Not even when the server repeats the whole request."""
    fault, server = ask(echo(status), environment={variable: secret})
    assert server.seen[0].header("authorization") == f"Bearer {secret}"
    assert isinstance(fault, TrialFailed if status in (400, 422) else ModelError)
    assert secret not in "".join(traceback.format_exception(fault))
    assert secret[:12] not in str(fault)


def test_secrets_in_custom_headers_are_in_no_error() -> None:
    """A gateway's token is one as well, with or without its scheme."""
    for status in (400, 401):
        fault, server = ask(echo(status), environment=SECRETS)
        assert "gateway-secret-1" in server.seen[0].everything()
        assert isinstance(fault, Exception)
        for secret in (KEY, OTHER, "gateway-secret-1", "other-secret-2"):
            assert secret not in "".join(traceback.format_exception(fault))


@pytest.mark.parametrize("kind", ["application/json", "text/html"])
def test_a_secret_is_in_no_reason_of_an_answer_that_is_no_message(kind: str) -> None:
    """What a failed trial says is stored; a cut through the key leaves no half of it."""
    for offset in range(440, 500, 7):
        body = b"x" * offset + KEY.encode() + b"y" * 100
        fault, _ = ask(Reply(body=body, kind=kind))
        assert isinstance(fault, TrialFailed)
        assert "sk-" not in str(fault)
        assert len(str(fault)) <= 500


@pytest.mark.parametrize("status", [401, 402, 403, 404])
def test_what_no_later_call_can_mend_stops_the_run(status: int) -> None:
    """The message names the model, the server's own words and the place."""
    fault, server = ask(error(status, "the plain reason"))
    assert isinstance(fault, ModelError)
    assert len(server.seen) == 1
    for part in ("anthropic/some-model", "the plain reason", server.url):
        assert part in str(fault)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (429, "enforced_spend_limit_reached"),
        (429, "contract_spend_limit_reached"),
        (400, "organization_on_hold"),
    ],
)
def test_a_spend_limit_stops_the_run(status: int, code: str) -> None:
    """They come as 429 or 400, but no later call can do better."""
    fault, _ = ask(error(status, "spent", details={"error_code": code}))
    assert isinstance(fault, ModelError)
    plain, _ = ask(error(status, "slow down"))
    assert isinstance(plain, TrialFailed)


@pytest.mark.parametrize("model", ["anthropic/some-model", "simulated/planted"])
def test_no_prompt_follows_a_redirect(model: str) -> None:
    """Another host gets nothing, and the run stops rather than fail call by call."""

    async def call() -> tuple[Exception, int]:
        async with serve(message()) as elsewhere:
            place = elsewhere.url.replace(HOST, "localhost")
            moved = Reply(307, headers=(("location", f"{place}/v1/messages"),))
            fault, _ = await asyncio.to_thread(ask, moved, model=model)
            assert isinstance(fault, Exception)
            return fault, len(elsewhere.seen)

    fault, elsewhere = asyncio.run(asyncio.wait_for(call(), WITHIN_S))
    assert isinstance(fault, ModelError)
    assert elsewhere == 0


@pytest.mark.parametrize(
    "before",
    [
        [error(429)],
        [error(429, headers=(("retry-after", "0.01"),))],
        [error(529, "overloaded")],
        [error(500), error(502), error(503)],
        [error(408), error(409)],
        [Reply(fault="drop")],
        [message("lost", fault="cut"), Reply(fault="drop"), error(429)],
        [error(500)] * models.RETRIES,
    ],
    ids=["429", "429 after", "529", "5xx", "408 409", "drop", "mixed", "all"],
)
def test_a_passing_fault_is_tried_again(before: list[Reply]) -> None:
    """One completion, the tries counted, and the very same body each time."""
    result, server = completion(one_after_another(*before, message("at last")))
    assert result.text == "at last"
    assert result.retries == len(before)
    assert len(server.seen) == len(before) + 1
    assert len({seen.body for seen in server.seen}) == 1
    assert len({seen.header("authorization") for seen in server.seen}) == 1


def test_retry_after_is_waited_for() -> None:
    """The server's word on when to come back counts."""
    started = time.monotonic()
    completion(one_after_another(error(429, headers=(("retry-after", "0.4"),)), message()))
    assert time.monotonic() - started >= 0.4


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (error(429), "http 429"),
        (error(529), "http 529"),
        (error(500), "http 500"),
        (Reply(fault="drop"), "connection"),
        (message(fault="cut"), "connection"),
    ],
)
def test_a_lasting_fault_fails_the_trial(reply: Reply, kind: str) -> None:
    """After the retries the trial has a reason, and the run may go on."""
    fault, server = ask(reply)
    assert isinstance(fault, TrialFailed)
    assert fault.kind == kind
    assert str(fault)
    assert len(server.seen) == models.RETRIES + 1


def test_no_answer_in_time_fails_the_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that keeps silent does not keep the run."""
    monkeypatch.setattr(models, "TIMEOUT_S", 0.1)
    monkeypatch.setattr(models, "RETRIES", 1)
    fault, server = ask(message(delay=1.0))
    assert isinstance(fault, TrialFailed)
    assert fault.kind == "timeout"
    assert len(server.seen) == 2


def test_nobody_listening_fails_the_trial() -> None:
    """A closed port is a fault of the connection."""
    fault, _ = ask(
        message(), environment={"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_BASE_URL": f"http://{HOST}:1"}
    )
    assert isinstance(fault, TrialFailed)
    assert fault.kind == "connection"


NO_MESSAGES: dict[str, Reply] = {
    "empty": Reply(),
    "no content": Reply(204),
    "not json": Reply(body=b'{"content": ['),
    "html": Reply(body=b"<html>please log in</html>", kind="text/html"),
    "html called json": Reply(body=b"<html>please log in</html>"),
    "null": Reply(body=b"null"),
    "number": Reply(body=b"12"),
    "text": Reply(body=b'"hello"'),
    "list": Reply(body=b'[{"type": "message"}]'),
    "bad utf-8": Reply(body=b'{"a": "\xff"}'),
    "deep": Reply(body=b"[" * 100_000),
    "error": Reply(body=error(200, "overloaded after all").body),
    "content null": message(None),  # not a text of no characters: nothing came
    "content number": message(5),
    "content of numbers": message([1, 2]),
    "content of nulls": message([None]),
    "content of texts": message(["a"]),
    "content object": message({"type": "text", "text": "a"}),
    "block without type": message([{"text": "a"}]),
    "text null": message([{"type": "text", "text": None}]),
    "text number": message([{"type": "text", "text": 5}]),
    "text missing": message([{"type": "text"}]),
    "thinking null": message([{"type": "thinking", "thinking": None}]),
    "other type": message(type="completion"),
}


@pytest.mark.parametrize("reply", NO_MESSAGES.values(), ids=NO_MESSAGES)
def test_what_is_no_message_fails_the_trial(reply: Reply) -> None:
    """Anything may come with status 200: it is a failure with a reason, and nothing else."""
    fault, server = ask(reply)
    assert isinstance(fault, TrialFailed)
    assert fault.kind == "invalid"
    assert len(server.seen) == 1
    shown = reply.body[:30].decode("utf-8", "replace")
    assert str(fault).startswith(f"the answer is not a message: {shown}")


@pytest.mark.parametrize(
    ("reply", "text", "reasoning", "stop_reason"),
    [
        (message("Hello."), "Hello.", None, "end_turn"),
        (message("cut o", stop_reason="max_tokens"), "cut o", None, "max_tokens"),
        (message([], stop_reason="refusal"), "", None, "refusal"),
        (message("No.", stop_reason="refusal"), "No.", None, "refusal"),
        (message([]), "", None, "end_turn"),
        (message("x", stop_reason=None), "x", None, None),
        (message("x", stop_reason="something new"), "x", None, "something new"),
        (
            message([{"type": "text", "text": "a\n"}, {"type": "text", "text": "b"}]),
            "a\nb",
            None,
            "end_turn",
        ),
        (
            message(
                [
                    {"type": "thinking", "thinking": "first, ", "signature": "s"},
                    {"type": "redacted_thinking", "data": "d"},
                    {"type": "text", "text": "a"},
                    {"type": "thinking", "thinking": "second", "signature": "s"},
                    {"type": "a block of next year", "text": "z"},
                ]
            ),
            "a",
            "first, second",
            "end_turn",
        ),
        (message([{"type": "thinking", "thinking": ""}, {"type": "text", "text": "a"}]),
         "a", None, "end_turn"),
        (message("half \ud83d of a pair, \0 and 🙂"), "half \ud83d of a pair, \0 and 🙂", None,
         "end_turn"),
    ],
)  # fmt: skip
def test_text_and_reasoning_are_read_apart(
    reply: Reply, text: str, reasoning: str | None, stop_reason: str | None
) -> None:
    """Every text block makes the text, every thinking block the reasoning, in order."""
    result, _ = completion(reply)
    found = result.text, result.reasoning, result.stop_reason
    # xdist cannot carry half a pair in the report of a failure.
    assert ascii(found) == ascii((text, reasoning, stop_reason))
    assert result.body == reply.body


def test_the_servers_figures_are_kept() -> None:
    """Tokens, the model that served, the request's id; and how long it took."""
    result, _ = completion(
        message(tokens=(1234, 56), headers=(("request-id", "req_9"),), delay=0.05)
    )
    assert (result.input_tokens, result.output_tokens) == (1234, 56)
    assert (result.request_id, result.served_by, result.retries) == ("req_9", "served-1", 0)
    assert 0.05 <= result.seconds < WITHIN_S


@pytest.mark.parametrize("odd", [None, -1, 2.5, "7", True, [], 10**30])
def test_odd_counts_are_no_counts(odd: object) -> None:
    """Token counts enter budgets and the ledger: what is not one is None."""
    result, _ = completion(message(tokens=(odd, odd)))
    assert (result.input_tokens, result.output_tokens) == (None, None)
    assert result.text == "Fine."


@pytest.mark.parametrize("fields", [{"usage": None}, {"usage": []}, {"model": 5}, {"id": None}])
def test_an_answer_without_the_minor_fields_counts(fields: dict[str, object]) -> None:
    """A paid text is not lost for want of figures beside it."""
    result, _ = completion(message(**fields))  # type: ignore[arg-type]
    assert result.text == "Fine."


def test_long_answers_may_be_asked_for() -> None:
    """The SDK's guard against long calls without a stream does not fail every trial."""
    completion(message(), parameters=Parameters(64_000, None, "scratchpad"))


@pytest.mark.parametrize(
    ("environment", "part"),
    [
        ({"ANTHROPIC_API_KEY": ""}, "ANTHROPIC_API_KEY"),
        ({"ANTHROPIC_API_KEY": " ", "ANTHROPIC_AUTH_TOKEN": ""}, "ANTHROPIC_API_KEY"),
        ({"ANTHROPIC_API_KEY": f"{KEY} {OTHER}"}, "ANTHROPIC_API_KEY"),
        ({"ANTHROPIC_API_KEY": f"{KEY}\nX: y"}, "ANTHROPIC_API_KEY"),
        ({"ANTHROPIC_AUTH_TOKEN": f"{OTHER}ü"}, "ANTHROPIC_AUTH_TOKEN"),
        ({"ANTHROPIC_BASE_URL": "not a url"}, "ANTHROPIC_BASE_URL"),
        ({"ANTHROPIC_BASE_URL": "ftp://127.0.0.1/"}, "ANTHROPIC_BASE_URL"),
        ({"ANTHROPIC_BASE_URL": "http://127.0.0.1:port"}, "ANTHROPIC_BASE_URL"),
        ({"ANTHROPIC_BASE_URL": "http://[::1"}, "ANTHROPIC_BASE_URL"),
        ({"ANTHROPIC_BASE_URL": f"http://me:{KEY}@127.0.0.1:1"}, "ANTHROPIC_BASE_URL"),
        ({"ANTHROPIC_BASE_URL": f"http://127.0.0.1:1/?key={KEY}"}, "ANTHROPIC_BASE_URL"),
    ],
)
def test_what_the_environment_lacks_is_said_before_any_call(
    environment: dict[str, str], part: str
) -> None:
    """A message names the variable and shows no secret; no server hears of it."""
    given = {"ANTHROPIC_API_KEY": KEY} if "ANTHROPIC_BASE_URL" in environment else {}
    fault, server = ask(message(), environment=given | environment)
    assert isinstance(fault, ModelError)
    assert part in str(fault)
    assert KEY not in str(fault)
    assert OTHER[:8] not in str(fault)
    assert server.seen == []
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (given | environment).items():
            patch.setenv(name, value)
        with pytest.raises(ModelError, match=part):
            models.check_ready("anthropic/some-model")
        models.check_ready("simulated/planted")


@pytest.mark.parametrize(
    ("environment", "sent"),
    [
        ({"ANTHROPIC_API_KEY": KEY}, KEY),
        ({"ANTHROPIC_API_KEY": f"{KEY}\r\n"}, KEY),
        ({"ANTHROPIC_AUTH_TOKEN": OTHER}, OTHER),
        ({"ANTHROPIC_API_KEY": "", "ANTHROPIC_AUTH_TOKEN": OTHER}, OTHER),
        ({"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_AUTH_TOKEN": OTHER}, KEY),
    ],
)
def test_one_credential_is_sent_as_bearer(environment: dict[str, str], sent: str) -> None:
    """The key if there is one, else the token; never both."""
    _, server = completion(message(), environment=environment)
    assert server.seen[0].header("authorization") == f"Bearer {sent}"
    (other,) = {KEY, OTHER} - {sent}
    assert other not in server.seen[0].everything()


@pytest.mark.parametrize("url", ["", "  "])
def test_an_empty_base_url_is_none(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is printed as the endpoint is where the SDK sends to."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    monkeypatch.setenv("ANTHROPIC_BASE_URL", url)

    async def opened() -> tuple[str, str]:
        async with open_model("anthropic/some-model", PLAIN) as model:
            return model.endpoint, str(model.client.base_url)  # type: ignore[attr-defined]

    endpoint, sdk = asyncio.run(asyncio.wait_for(opened(), WITHIN_S))
    assert endpoint == "https://api.anthropic.com" == sdk.rstrip("/")


def test_nothing_of_the_environment_reaches_the_subject() -> None:
    """Keys, tokens, custom headers, base URL and proxies: the server sees the key `simulated`."""

    async def call() -> tuple[Wire, Wire]:
        async with serve(message()) as trap, serve(message()) as subject:
            with pytest.MonkeyPatch.context() as patch:
                for name, value in SECRETS.items():
                    patch.setenv(name, value)
                patch.setenv("ANTHROPIC_BASE_URL", trap.url)
                patch.setenv("ANTHROPIC_PROFILE", "somebody")
                for name in PROXIES:
                    patch.setenv(name, trap.url)
                patch.setenv("ABLATE_SIMULATED_BASE_URL", subject.url)
                before = dict(os.environ)
                async with open_model("simulated/planted", PLAIN) as model:
                    assert model.endpoint == subject.url
                    assert dict(os.environ) == before
                    await model.complete(PROMPT, "trial-1")
                patch.delenv("ABLATE_SIMULATED_BASE_URL")
                async with open_model("simulated/planted", PLAIN) as model:
                    assert model.endpoint not in (subject.url, trap.url)
                    await model.complete(PROMPT, "trial-1")
        return trap, subject

    trap, subject = asyncio.run(asyncio.wait_for(call(), WITHIN_S))
    assert trap.seen == []
    (seen,) = subject.seen
    assert seen.header("authorization") == "Bearer simulated"
    assert seen.header("x-api-key") in (None, "simulated")
    for secret in (KEY, OTHER, "gateway-secret-1", "other-secret-2", "somebody"):
        assert secret not in seen.everything()


@pytest.mark.parametrize(
    "url",
    [
        "http://192.0.2.7:80",
        "http://example.com",
        "http://127.0.0.1.example.com",
        "http://127.0.0.1@example.com",
        "http://example.com@127.0.0.1",
        "http://example.com#@127.0.0.1",
        "http://127.0.0.1:port",
        "http://[::1",
        "https://127.0.0.1",
        "ftp://127.0.0.1",
        "127.0.0.1:8765",
        "http://0.0.0.0:8765",
    ],
)
def test_the_subject_is_on_this_machine_only(url: str) -> None:
    """A base URL that is not plain loopback is refused before any call."""
    fault, _ = ask(
        message(), model="simulated/planted", environment={"ABLATE_SIMULATED_BASE_URL": url}
    )
    assert isinstance(fault, ModelError)
    assert "not on this machine" in str(fault)


DEBUG = """
import asyncio, os, sys
from wire_server import error, message, one_after_another, wire_server
from ablate.models import Parameters, TrialFailed, open_model
from variants import Prompt, Turn

def script(seen, number):
    shown = (("x-echo", seen.header("authorization")), ("x-other", seen.header("x-gateway") or "-"),
             ("retry-after-ms", "1"), ("request-id", seen.header("authorization")))
    return error(529, seen.everything(), headers=shown) if number % 3 else message(headers=shown)

async def main():
    async with wire_server(script) as server:
        os.environ["ANTHROPIC_BASE_URL"] = os.environ["ABLATE_SIMULATED_BASE_URL"] = server.url
        for name in ("anthropic/some-model", "simulated/planted"):
            async with open_model(name, Parameters(100, 0.5, "none")) as model:
                for _ in range(2):
                    done = await model.complete(Prompt("s", (Turn("user", "u"),)), "trial-1")
                    print(done.text, model.endpoint)

asyncio.run(asyncio.wait_for(main(), 30))
"""


def test_no_secret_is_in_the_sdks_own_log() -> None:
    """ANTHROPIC_LOG=debug prints all headers of an answer, which may repeat the key."""
    kept = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    done = subprocess.run(
        [sys.executable, "-c", DEBUG],
        env=kept | SECRETS | {"ANTHROPIC_LOG": "debug", "PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stderr.count("HTTP Response") >= 4
    assert "x-echo" in done.stderr
    for secret in (KEY, OTHER, "gateway-secret-1", "other-secret-2"):
        assert secret not in done.stdout + done.stderr


def test_open_models_close_what_they_opened(recwarn: pytest.WarningsRecorder) -> None:
    """No client or server is left behind when the caller fails."""

    async def fail() -> None:
        async with open_model("simulated/planted", PLAIN) as model:
            await model.complete(PROMPT, "trial-1")
            raise KeyError

    with pytest.raises(KeyError):
        asyncio.run(asyncio.wait_for(fail(), WITHIN_S))
    assert [w for w in recwarn if issubclass(w.category, ResourceWarning)] == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("anthropic/a", ("anthropic", "a")),
        ("openai/a/b", ("openai", "a/b")),
        ("alone", ("alone", "")),
    ],
)
def test_a_name_splits_at_its_first_slash(name: str, expected: tuple[str, str]) -> None:
    """A provider's own names may hold slashes."""
    assert models.split_name(name) == expected


def test_parameters_are_identified_by_all_that_is_sent() -> None:
    """Any change of a parameter changes a trial's identity."""
    variants: list[Callable[[], Parameters]] = [
        lambda: Parameters(1, None, "none"),
        lambda: Parameters(2, None, "none"),
        lambda: Parameters(1, 0.0, "none"),
        lambda: Parameters(1, 1.0, "none"),
        lambda: Parameters(1, None, "scratchpad"),
    ]
    identities = {json.dumps(make().identity(), sort_keys=True) for make in variants}
    assert len(identities) == len(variants)
