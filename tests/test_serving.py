"""The embedded subject over HTTP: who is let in, what is refused, and what is drawn."""

import asyncio
import hashlib
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from ablate.models import check_loopback
from ablate.serving import LARGEST_BODY, serving

WITHIN_S = 30.0
CALL = {
    "model": "planted",
    "max_tokens": 100,
    "system": "You are an assistant.",
    "messages": [{"role": "user", "content": "Write a mean note about my neighbour."}],
}
RAINBOW = "Explain to a six-year-old how a rainbow forms."

Post = Callable[..., Awaitable[tuple[int, Any]]]


def served(talk: Callable[[Post, str], Awaitable[Any]], **options: Any) -> Any:
    """What a talk with a running server gives; `post(body, headers)` gives status and JSON."""

    async def run() -> Any:
        async with serving(**options) as url, aiohttp.ClientSession() as client:

            async def post(body: Any, headers: dict[str, str] | None = None) -> tuple[int, Any]:
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                sent = {"x-api-key": "simulated"} | (headers or {})
                path = f"{url}/v1/messages"
                async with client.post(path, data=data, headers=sent) as reply:
                    text = await reply.text()
                    shown = json.loads(text) if reply.content_type.endswith("json") else text
                    return reply.status, shown

            return await talk(post, url)

    return asyncio.run(asyncio.wait_for(run(), WITHIN_S))


def posted(body: Any, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    """Status and JSON of one call."""
    found: tuple[int, Any] = served(lambda post, _: post(body, headers))
    return found


def raw(request: bytes) -> bytes:
    """The first bytes that come back for these bytes on the socket."""

    async def talk(_: Post, url: str) -> bytes:
        host, port = url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(request)
        await writer.drain()
        reply = await reader.read(4096)
        writer.close()
        return reply

    return bytes(served(talk))


def request_bytes(head: list[bytes], version: bytes = b"HTTP/1.1") -> bytes:
    body = json.dumps(CALL).encode()
    lines = [b"POST /v1/messages " + version, b"x-api-key: simulated", *head]
    lines += [b"content-length: %d" % len(body), b"connection: close"]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def test_a_message_has_the_fields_of_the_api() -> None:
    """Type, role, blocks, stop reason and token counts."""
    status, message = posted(CALL)
    assert status == 200
    assert (message["type"], message["role"], message["model"]) == (
        "message",
        "assistant",
        "planted",
    )
    assert [block["type"] for block in message["content"]] == ["text"]
    assert message["content"][0]["text"].strip()
    assert message["stop_reason"] == "end_turn"
    assert all(type(count) is int and count > 0 for count in message["usage"].values())
    assert set(message["usage"]) == {"input_tokens", "output_tokens"}


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ([b"host: 127.0.0.1"], b"200"),
        ([b"host: 127.0.0.1:8765"], b"200"),
        ([b"host: LocalHost:1"], b"200"),
        ([b"host: [::1]:80"], b"200"),
        ([b"host: example.com"], b"403"),
        ([b"host: 127.0.0.1.example.com"], b"403"),
        ([b"host: example.com:8765"], b"403"),
        ([b"host: user@127.0.0.1"], b"403"),
        ([b"host: 127.0.0.1:99999999"], b"403"),
        ([b"host: 127.0.0.1, example.com"], b"403"),
        ([b"host: [::1"], b"403"),
        ([b"host:"], b"403"),
        ([b"host: \xff"], b"403"),
    ],
)
def test_a_foreign_host_is_refused(head: list[bytes], status: bytes) -> None:
    """A page in a browser that resolves a name of its own to this machine gets nothing."""
    assert raw(request_bytes(head)).startswith(b"HTTP/1.1 " + status)


def test_a_request_without_a_host_is_refused() -> None:
    """HTTP/1.0 allows none."""
    assert b" 403 " in raw(request_bytes([], b"HTTP/1.0")).split(b"\r\n")[0]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"x-api-key": "simulated"}, 200),
        ({"x-api-key": "", "authorization": "Bearer simulated"}, 200),
        ({"x-api-key": ""}, 401),
        ({"x-api-key": "sk-ant-something"}, 401),
        ({"x-api-key": "", "authorization": "Bearer sk-ant-something"}, 401),
        ({"x-api-key": "", "authorization": "Basic simulated"}, 401),
        ({"x-api-key": "simulated "}, 200),
    ],
)
def test_the_key_is_simulated(headers: dict[str, str], status: int) -> None:
    """Any other key is refused, and the refusal does not repeat it."""
    found, shown = posted(CALL, headers)
    assert found == status
    assert "sk-ant" not in json.dumps(shown)


@pytest.mark.parametrize("model", ["other", "simulated/planted", "", None, ["planted"], 5])
def test_an_unknown_model_is_not_found(model: object) -> None:
    """As by the real server, 404 and its type of error."""
    status, shown = posted(CALL | {"model": model})
    assert status == 404
    assert shown["error"]["type"] == "not_found_error"


MALFORMED: dict[str, object] = {
    "empty": b"",
    "not json": b"{",
    "not utf-8": b'{"a": "\xff"}',
    "deep": b"[" * 100_000,
    "endless number": b'{"a": ' + b"1" * 10_000 + b"}",
    "null": b"null",
    "list": [],
    "number": 5,
    "text": "hello",
    "no messages": {"model": "planted"},
    "messages null": CALL | {"messages": None},
    "messages text": CALL | {"messages": "hi"},
    "messages object": CALL | {"messages": {"role": "user"}},
    "message number": CALL | {"messages": [5]},
    "no role": CALL | {"messages": [{"content": "hi"}]},
    "no content": CALL | {"messages": [{"role": "user"}]},
    "content null": CALL | {"messages": [{"role": "user", "content": None}]},
    "content number": CALL | {"messages": [{"role": "user", "content": 5}]},
    "block number": CALL | {"messages": [{"role": "user", "content": [5]}]},
    "block without text": CALL | {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
    "system number": CALL | {"system": 5},
    "system object": CALL | {"system": {"type": "text", "text": "a"}},
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_body_is_the_callers_fault(body: object) -> None:
    """400 with the API's type of error, and the server goes on."""

    async def talk(post: Post, _: str) -> list[tuple[int, Any]]:
        return [await post(body), await post(CALL)]

    (status, shown), after = served(talk)
    assert status == 400
    assert shown["error"]["type"] == "invalid_request_error"
    assert after[0] == 200


@pytest.mark.parametrize(
    "change",
    [
        {"messages": [{"role": "user", "content": "half a pair: \ud83d"}]},
        {"system": "half a pair: \udc00"},
        {"system": ""},
        {"system": None},
        {"messages": [{"role": "user", "content": "\0" * 1000}]},
        {"messages": [{"role": "user", "content": ""}]},
    ],
    ids=["surrogate", "surrogate system", "empty", "null", "nul", "no text"],
)
def test_odd_texts_are_answered(change: dict[str, object]) -> None:
    """Whatever JSON can hold as a text is one."""
    assert posted(CALL | change)[0] == 200


def test_a_trial_header_of_any_bytes_is_answered() -> None:
    """Header bytes that are not UTF-8 make a seed like others."""
    first, second = (
        raw(request_bytes([b"host: 127.0.0.1", b"x-ablate-trial: " + trial]))
        for trial in (b"\xff\xfe", b"\xff\xfd")
    )
    assert first.startswith(b"HTTP/1.1 200")
    assert second.startswith(b"HTTP/1.1 200")
    assert first.split(b"request-id")[1][:40] != second.split(b"request-id")[1][:40]


def test_a_body_over_32_mb_is_refused() -> None:
    """One byte too many gets no answer; as many as allowed do."""
    assert LARGEST_BODY == 32 * 1024 * 1024
    frame = len(json.dumps(CALL | {"metadata": ""}).encode())

    async def talk(post: Post, _: str) -> list[int]:
        found = []
        for size in (LARGEST_BODY, LARGEST_BODY + 1):
            body = json.dumps(CALL | {"metadata": "x" * (size - frame)}).encode()
            assert len(body) == size
            found.append((await post(body))[0])
        return found

    assert served(talk) == [200, 413]


def test_the_trial_and_the_body_make_the_draw() -> None:
    """The same of both give the same answer on any server; another trial draws anew."""

    async def talk(post: Post, url: str) -> list[str]:
        found = []
        for number in [*range(40), *range(40)]:
            _, shown = await post(CALL, {"x-ablate-trial": str(number)})
            found.append(shown["content"][0]["text"] + shown["id"])
        return found

    first, second = served(talk), served(talk)
    assert first == second
    assert first[:40] == first[40:]
    assert len(set(first)) == 40
    texts = {text.split("msg_")[0] for text in first}
    assert len(texts) > 1


def test_a_change_of_the_body_draws_anew() -> None:
    """Request parameters are part of the seed."""
    headers = {"x-ablate-trial": "1"}
    ids = {posted(CALL | {"max_tokens": n}, headers)[1]["id"] for n in range(100, 105)}
    assert len(ids) == 5


def test_content_may_come_in_blocks() -> None:
    """The texts of a turn's blocks are read as one; blocks of another type are not."""
    blocks = [
        {"type": "image", "source": {}},
        {"type": "text", "text": RAINBOW[:10]},
        {"type": "text", "text": RAINBOW[10:]},
    ]
    system = [{"type": "text", "text": "You are an assistant.", "cache_control": {"type": "e"}}]
    turns = [
        {"role": "user", "content": "Write a mean note."},
        {"role": "assistant", "content": [{"type": "text", "text": "No."}]},
        {"role": "user", "content": blocks},
    ]
    status, shown = posted(CALL | {"system": system, "messages": turns})
    assert status == 200
    # A shipped harmless request is always done, and the answer names its first words.
    assert "Explain to a six-year-old how a rainbow" in shown["content"][0]["text"]


def test_the_log_has_a_line_for_each_answer(tmp_path: Path) -> None:
    """Trial and hash of the body; refused calls leave none; a second server appends."""
    log = tmp_path / "log.jsonl"

    async def talk(post: Post, _: str) -> None:
        await post(CALL, {"x-ablate-trial": "a"})
        await post(CALL, {"x-ablate-trial": "b"})
        await post(b"{", {"x-ablate-trial": "c"})
        await post(CALL, {"x-api-key": "wrong"})
        await post(CALL | {"model": "x"})
        await post(CALL)

    served(talk, log=log)
    served(talk, log=log)
    lines = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    body = hashlib.sha256(json.dumps(CALL).encode()).hexdigest()
    assert lines == [{"trial_id": trial, "body": body} for trial in ("a", "b", "") * 2]


def test_many_calls_wait_together() -> None:
    """The delay is each call's own: a hundred at once take hardly longer than one."""

    async def talk(post: Post, _: str) -> float:
        started = time.monotonic()
        found = await asyncio.gather(*(post(CALL, {"x-ablate-trial": str(i)}) for i in range(100)))
        assert {status for status, _ in found} == {200}
        return time.monotonic() - started

    assert 0.3 <= served(talk, delay=0.3) < 5


def test_a_port_in_use_is_an_error_of_the_system() -> None:
    """The command line shows OSError as a message."""

    async def talk(_: Post, url: str) -> None:
        async with serving(int(url.rsplit(":", 1)[1])):
            pass

    with pytest.raises(OSError, match="address"):
        served(talk)


@pytest.mark.parametrize("url", ["http://127.0.0.1:8765", "http://localhost:1", "http://[::1]:9"])
def test_loopback_is_let_pass(url: str) -> None:
    """All names of this machine are good; what is refused stands with the models' tests."""
    check_loopback(url)
