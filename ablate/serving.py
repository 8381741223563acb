"""The embedded subject over HTTP: the Messages API's wire format on loopback.

Takes requests on 127.0.0.1; gives the simulated subject's answers, seeded by the trial header.
Does not know plans: all it sees is the request, as a model's server would.
"""

import asyncio
import contextlib
import hashlib
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Any

from aiohttp import web

from ablate import simulated

__all__ = ["serve", "serving"]

HOST = "127.0.0.1"
_OWN_HOST = re.compile(r"(?:127\.0\.0\.1|localhost|\[::1\])(?::\d{1,5})?", re.I)
LARGEST_BODY = 32 * 1024 * 1024


@asynccontextmanager
async def serving(
    port: int = 0, *, log: Path | None = None, delay: float = 0.0
) -> AsyncIterator[str]:
    """Serve the subject while inside; gives its base URL. Port 0 takes a free one.

    `log` gets one JSON line per answered call; `delay` is in seconds per call.
    """
    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(log.open("a", encoding="utf-8")) if log else None
        runner = web.AppRunner(_app(stream, delay), access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        try:
            site = web.TCPSite(runner, HOST, port, backlog=1024)
            await site.start()
            bound = runner.addresses[0][1]
            yield f"http://{HOST}:{bound}"
        finally:
            await runner.cleanup()


async def serve(port: int, *, log: Path | None, delay: float, ready: Any) -> None:
    """Serve until cancelled; calls `ready(url)` once the port is open."""
    async with serving(port, log=log, delay=delay) as url:
        ready(url)
        await asyncio.Event().wait()


def _app(log: IO[str] | None, delay: float) -> web.Application:
    async def messages(request: web.Request) -> web.Response:
        fault = _fault_of(request)
        if fault is not None:
            return fault
        body = await request.read()
        try:
            call = json.loads(body)
            system, user = _texts(call)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return _error(400, "invalid_request_error", "the body is not a Messages API call")
        if call.get("model") != simulated.NAME:
            return _error(404, "not_found_error", f"model: {call.get('model')}")
        trial = request.headers.get(simulated.TRIAL_HEADER, "")
        # aiohttp gives header bytes that are not UTF-8 as surrogates.
        seed = hashlib.sha256(trial.encode("utf-8", "surrogateescape") + b"\0" + body).hexdigest()
        if delay:
            await asyncio.sleep(delay)
        reply = simulated.answer(system, user, seed)
        if log is not None:
            log.write(json.dumps({"trial_id": trial, "body": hashlib.sha256(body).hexdigest()}))
            log.write("\n")
            log.flush()
        return web.json_response(
            {
                "id": f"msg_{seed[:24]}",
                "type": "message",
                "role": "assistant",
                "model": simulated.NAME,
                "content": [{"type": "text", "text": reply.text}],
                "stop_reason": "end_turn",
                "stop_sequence": None,
                "usage": {
                    "input_tokens": (len(system) + len(user)) // 4,
                    "output_tokens": len(reply.text) // 4,
                },
            },
            headers={"request-id": f"req_{seed[24:48]}"},
        )

    app = web.Application(client_max_size=LARGEST_BODY)
    app.router.add_post("/v1/messages", messages)
    return app


def _fault_of(request: web.Request) -> web.Response | None:
    if not _OWN_HOST.fullmatch(request.headers.get("host", "")):
        return _error(403, "permission_error", "this server answers to 127.0.0.1 only")
    sent = request.headers.get("authorization", "").removeprefix("Bearer ")
    if simulated.KEY not in (sent, request.headers.get("x-api-key")):
        return _error(401, "authentication_error", "the key of the embedded subject is `simulated`")
    return None


def _texts(call: dict[str, Any]) -> tuple[str, str]:
    """System text and last user message of a call, whose content may come in blocks."""

    def text(content: Any) -> str:
        if isinstance(content, str):
            return content
        return "".join(block["text"] for block in content if block["type"] == "text")

    users = [turn for turn in call["messages"] if turn["role"] == "user"]
    return text(call.get("system") or ""), text(users[-1]["content"]) if users else ""


def _error(status: int, kind: str, message: str) -> web.Response:
    return web.json_response(
        {"type": "error", "error": {"type": kind, "message": message}}, status=status
    )
