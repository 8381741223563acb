"""A Messages API server on loopback that records what it is sent and misbehaves as it is told.

Takes a script of replies; gives its URL and every request's headers and body, in order.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Seen:
    """One request as it arrived; header names are in lower case."""

    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str | None:
        """The value of a header, None when it was not sent."""
        return dict(self.headers).get(name)

    def everything(self) -> str:
        """Path, headers and body in one text, to look for what must not be there."""
        lines = [self.path, *(f"{name}: {value}" for name, value in self.headers)]
        return "\n".join([*lines, self.body.decode("utf-8", "replace")])


@dataclass(frozen=True, slots=True)
class Reply:
    """What the server does with a call.

    `fault` is "" to answer, "drop" to close the connection without an answer, "cut" to close it
    in the middle of the body; `delay` is in seconds.
    """

    status: int = 200
    body: bytes = b""
    kind: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    fault: str = ""
    delay: float = 0.0


Script = Callable[[Seen, int], Reply]


@dataclass(slots=True)
class Wire:
    """A running server: `seen` grows with each request, `most_at_once` with their overlap."""

    script: Script
    url: str = ""
    seen: list[Seen] = field(default_factory=list)
    now: int = 0
    most_at_once: int = 0


def message(
    content: Any = "Fine.",
    *,
    stop_reason: str | None = "end_turn",
    tokens: tuple[Any, Any] = (7, 3),
    headers: tuple[tuple[str, str], ...] = (),
    delay: float = 0.0,
    fault: str = "",
    **fields: Any,
) -> Reply:
    """A well-formed answer; `content` as text or as the blocks themselves, tokens in and out."""
    body = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "served-1",
        "content": [{"type": "text", "text": content}] if isinstance(content, str) else content,
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": {"input_tokens": tokens[0], "output_tokens": tokens[1]},
    }
    return Reply(body=json.dumps(body | fields).encode(), headers=headers, delay=delay, fault=fault)


def error(
    status: int,
    text: str = "no",
    *,
    headers: tuple[tuple[str, str], ...] = (),
    **details: Any,
) -> Reply:
    """An answer that says what went wrong, in the shape that the API gives it."""
    content = {"type": "error", "error": {"type": "api_error", "message": text} | details}
    return Reply(status, json.dumps(content).encode(), headers=headers)


def echo(status: int) -> Script:
    """A server that repeats all it was sent in its error, as a careless proxy does."""
    return lambda seen, _: error(status, "\n".join(reversed(seen.everything().split("\n"))))


def one_after_another(*replies: Reply) -> Script:
    """The replies in order; the last one for every further call."""
    return lambda _, number: replies[min(number, len(replies) - 1)]


@asynccontextmanager
async def wire_server(script: Script | Reply) -> AsyncIterator[Wire]:
    """Serve while inside, on a free port."""
    wire = Wire((lambda _, number: script) if isinstance(script, Reply) else script)

    async def answer(request: web.Request) -> web.StreamResponse:
        headers = tuple((name.lower(), value) for name, value in request.headers.items())
        seen = Seen(request.path_qs, headers, await request.read())
        wire.seen.append(seen)
        wire.now += 1
        wire.most_at_once = max(wire.most_at_once, wire.now)
        try:
            return await _carry_out(wire.script(seen, len(wire.seen) - 1), request)
        finally:
            wire.now -= 1

    app = web.Application(client_max_size=1 << 28)
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
    await runner.setup()
    try:
        await web.TCPSite(runner, HOST, 0, backlog=1024).start()
        wire.url = f"http://{HOST}:{runner.addresses[0][1]}"
        yield wire
    finally:
        await runner.cleanup()


async def _carry_out(reply: Reply, request: web.Request) -> web.StreamResponse:
    if reply.delay:
        await asyncio.sleep(reply.delay)
    headers = dict(reply.headers) | {"content-type": reply.kind}
    if reply.fault != "cut":
        if reply.fault == "drop" and request.transport is not None:
            request.transport.abort()
        return web.Response(status=reply.status, body=reply.body, headers=headers)
    response = web.StreamResponse(status=reply.status, headers=headers)
    response.content_length = len(reply.body)
    await response.prepare(request)
    await response.write(reply.body[: len(reply.body) // 2])
    if request.transport is not None:
        request.transport.close()
    return response
