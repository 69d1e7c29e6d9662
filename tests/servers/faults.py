"""Every way in which the test server's answers go wrong, and when.

A fault is a small function that is given a `Call` and sends something else than the plain answer, or the plain answer
in a bad way. `FAULTS` names them all. Whether a request draws one, and which, is a function of the request, of how
often this very request came before, and of a seed: so a run can be repeated, and a request sent again may succeed.
Those that the connection has no part in are in `oddities.py`.
"""

from __future__ import annotations

import asyncio
import json
import math
import socket
import struct
import zlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from hashlib import blake2b
from typing import Any, Literal

from aiohttp import web

from tests.servers.oddities import BODIES, EDITS, ERRORS, Edit, Error, Twist, problem


@dataclass(frozen=True)
class Call:
    """One request that is to go wrong: the plain answer to it, and what the faults need to know beside it.

    ``answer`` waits for the server's latency and returns the answer's JSON, written with a `Twist`; ``stop_listening``
    closes the listening socket for some seconds. ``slow``, ``retry_after`` and ``refuse_for`` are seconds.
    """

    request: web.BaseRequest
    answer: Callable[[Twist], Awaitable[Any]]
    stop_listening: Callable[[float], None]
    slow: float
    retry_after: float
    refuse_for: float


Fault = Callable[[Call], Awaitable[web.StreamResponse]]


def reply(data: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """A JSON answer, or a file's bytes."""
    if isinstance(data, bytes):
        return web.Response(body=data, status=status, headers=headers, content_type="application/octet-stream")
    return web.Response(body=json.dumps(data).encode(), status=status, headers=headers, content_type="application/json")


def chance(*parts: object) -> float:
    """A number from 0 up to 1, ever the same for the same parts."""
    text = "\0".join(map(str, parts)).encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(text, digest_size=7).digest()) / 256**7


# Errors with a status


async def status(call: Call, code: int) -> web.StreamResponse:
    return reply(problem("The server had an error while processing your request.", "server_error"), code)


async def rate_limit(call: Call, after: Literal["seconds", "date", "unsaid"]) -> web.StreamResponse:
    when = datetime.now(UTC) + timedelta(seconds=math.ceil(call.retry_after))
    values = {"seconds": f"{call.retry_after:g}", "date": format_datetime(when, usegmt=True)}
    headers = {"Retry-After": values[after]} if after in values else None
    return reply(problem("Rate limit reached.", "rate_limit_error", "rate_limit_exceeded"), 429, headers)


async def html(call: Call, code: int) -> web.StreamResponse:
    page = "<!DOCTYPE html>\n<html><head><title>Gateway</title></head><body><h1>Please sign in</h1></body></html>\n"
    return web.Response(text=page, status=code, content_type="text/html")


# Connections that break


def _abort(call: Call) -> web.StreamResponse:
    """Drop the connection with a TCP reset. What is returned can't be sent any more."""
    transport = call.request.transport
    if transport is not None:
        linger = struct.pack("ii", 1, 0)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        transport.abort()
    return web.Response()


async def refused(call: Call) -> web.StreamResponse:
    """Drop this connection, and take no new one for a while. Those that stand keep working."""
    call.stop_listening(call.refuse_for)
    return _abort(call)


async def _send_head(call: Call) -> tuple[web.StreamResponse, bytes]:
    """Send the answer's headers; return what sends its body, and the body."""
    body = _bytes(await call.answer("plain"))
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body))}
    response = web.StreamResponse(headers=headers)
    await response.prepare(call.request)
    return response, body


async def reset(call: Call) -> web.StreamResponse:
    response, body = await _send_head(call)
    await response.write(body[: len(body) // 2])
    await asyncio.sleep(0.02)  # a reset discards what the client has not read yet, the headers too
    return _abort(call)


async def silence(call: Call) -> web.StreamResponse:
    """Never answer; a client that hangs up ends it."""
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


async def slow(call: Call) -> web.StreamResponse:
    await asyncio.sleep(call.slow)
    return reply(await call.answer("plain"))


async def slow_body(call: Call) -> web.StreamResponse:
    response, body = await _send_head(call)
    size = math.ceil(len(body) / 8)
    for start in range(0, len(body), size):
        await asyncio.sleep(call.slow / 8)
        await response.write(body[start : start + size])
    return response


async def flood(call: Call) -> web.StreamResponse:
    """Go on for ever, or until a GiB is read."""
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(call.request)
    for _ in range(1024):
        await response.write(b" " * (1 << 20))
    return response


async def bomb(call: Call) -> web.StreamResponse:
    """A few hundred kilobytes that are 256 MiB once they are unpacked."""
    packed = zlib.compress(b" " * (256 << 20), 1, wbits=31)
    return web.Response(body=packed, headers={"Content-Encoding": "gzip"}, content_type="application/json")


# Answers that are not as they should be


def _bytes(answer: Any) -> bytes:
    return answer if isinstance(answer, bytes) else json.dumps(answer).encode()


async def edited(call: Call, edit: Edit) -> web.StreamResponse:
    answer = await call.answer(edit.twist)
    if isinstance(answer, dict):
        edit.change(answer)
    return reply(answer)


async def other_body(call: Call, body: Callable[[Any], bytes]) -> web.StreamResponse:
    return web.Response(body=body(await call.answer("plain")), content_type="application/json")


async def error(call: Call, error: Error) -> web.StreamResponse:
    return reply(error.body, error.status, error.headers)


# Answers that only their text shows to be wrong


async def twisted(call: Call, twist: Twist) -> web.StreamResponse:
    return reply(await call.answer(twist))


FAULTS: dict[str, Fault] = {
    "429": partial(rate_limit, after="seconds"),
    "429-date": partial(rate_limit, after="date"),
    "429-bare": partial(rate_limit, after="unsaid"),
    "500": partial(status, code=500),
    "502": partial(status, code=502),
    "503": partial(status, code=503),
    "refused": refused,
    "reset": reset,
    "silence": silence,
    "slow": slow,
    "slow-body": slow_body,
    "flood": flood,
    "bomb": bomb,
    "html-200": partial(html, code=200),
    "html-502": partial(html, code=502),
    "another-answer": partial(twisted, twist="another"),
    "prefill-ignored": partial(twisted, twist="prefill-ignored"),
    "prefill-anew": partial(twisted, twist="prefill-anew"),
    "prefill-repeated": partial(twisted, twist="prefill-repeated"),
    "thinking-closed": partial(twisted, twist="thinking-closed"),
    **{name: partial(edited, edit=edit) for name, edit in EDITS.items()},
    **{name: partial(other_body, body=body) for name, body in BODIES.items()},
    **{name: partial(error, error=found) for name, found in ERRORS.items()},
}

HARMLESS = {None, "slow", "slow-body", "another-answer", *(name for name, edit in EDITS.items() if edit.usable)}
"""Faults (None: no fault) that leave an answer which a client can use; who got it has no cause to ask again."""


@dataclass(frozen=True)
class Plan:
    """Which requests go wrong: a ``share`` of them, but none more than ``times`` times running from its first on.

    ``weights`` are the faults to choose from; see `parse`.
    """

    weights: dict[str, float]
    share: float
    times: int
    seed: int

    @staticmethod
    def parse(faults: str) -> dict[str, float]:
        """Read "500, reset=2": names with weights, of 1 where none is given. "all" are all but "silence" and
        those that are large.

        Raises ValueError for an unknown name.
        """
        if faults == "all":
            return dict.fromkeys(FAULTS.keys() - {"silence", "flood", "bomb"}, 1.0)
        pairs = [part.strip().partition("=") for part in faults.split(",") if part.strip()]
        unknown = sorted({name for name, _, _ in pairs} - FAULTS.keys())
        if unknown:
            raise ValueError(f"no such fault: {', '.join(unknown)}; there are: {', '.join(FAULTS)}")
        return {name: float(weight or 1) for name, _, weight in pairs}

    def draw(self, digest: str, before: int) -> str | None:
        """The fault of a request, named by its `digest`, that came `before` times already."""
        if not self.weights or before >= self.times or chance(self.seed, "whether", digest, before) >= self.share:
            return None
        left = chance(self.seed, "which", digest, before) * sum(self.weights.values())
        for name, weight in sorted(self.weights.items()):
            left -= weight
            if left < 0:
                return name
        return max(self.weights)
