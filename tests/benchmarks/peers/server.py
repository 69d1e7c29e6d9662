"""A lean chat server for benchmarks: fixed answers after a fixed latency, and nothing checked.

    python tests/benchmarks/peers/server.py 0.05 0.05 0.5     # a server for each latency, in one process
    python tests/benchmarks/peers/server.py --guard 0.05      # it answers as a guard, with log-probabilities

It prints its base URLs as one line of JSON and ends with its standard input. It reads just enough HTTP to serve the
clients measured here, so that what is measured is the client: `tests.servers.endpoint`, which checks and logs, answers
fewer requests a second than the fastest of them sends. `GET /arrivals` tells when chat requests came since it was last
asked, in seconds.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import sys

WORDS = [
    "okay",
    "the",
    "user",
    "wants",
    "a",
    "clear",
    "plan",
    "so",
    "I",
    "should",
    "go",
    "through",
    "the",
    "main",
    "points",
    "in",
    "order",
    "and",
    "keep",
    "it",
    "short",
    "since",
    "that",
    "is",
    "what",
    "was",
    "asked",
    "then",
    "check",
    "it",
    "once",
    "more",
    "add",
    "an",
    "example",
    "where",
    "it",
    "fits",
    "and",
    "leave",
    "out",
    "what",
    "is",
    "not",
    "needed",
]


class Chat(asyncio.Protocol):
    """One connection."""

    def __init__(self, latency: float, answers: list[bytes], came: list[float]) -> None:
        self.latency, self.answers, self.came = latency, answers, came
        self.held = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport, self.loop = transport, asyncio.get_running_loop()

    def data_received(self, data: bytes) -> None:
        self.held += data
        while (head := self.held.find(b"\r\n\r\n")) >= 0:
            headers = self.held[:head].lower()
            at = headers.find(b"content-length:")
            length = int(headers[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self.held) < head + 4 + length:
                return
            self.held = self.held[head + 4 + length :]
            if headers.startswith(b"post"):
                self.came.append(self.loop.time())
                self.loop.call_later(self.latency, self.answer, self.answers[len(self.came) % len(self.answers)])
            elif headers.startswith(b"get /arrivals"):
                self.answer(response(self.came))
                self.came.clear()
            else:
                self.answer(response({"object": "list", "data": [{"id": "toy", "object": "model"}]}))

    def answer(self, answer: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(answer)


def response(body: object) -> bytes:
    text = json.dumps(body).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(text), text)


def completion(rng: random.Random) -> bytes:
    """A chat completion with thinking of about 120 words."""
    text = f"<think>\n{' '.join(rng.choices(WORDS, k=rng.randint(100, 140)))}.\n</think>\n\nHere is a short answer."
    return response(
        {
            "id": f"chatcmpl-{rng.getrandbits(64):016x}",
            "object": "chat.completion",
            "created": 1_700_000_000,
            "model": "toy",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": text},
                    "logprobs": None,
                    "finish_reason": "stop",
                }
            ],
            "usage": {"prompt_tokens": 80, "completion_tokens": 150, "total_tokens": 230},
        }
    )


def judgement(rng: random.Random) -> bytes:
    """A guard's "no", with the five most likely tokens in its place."""
    likely = rng.uniform(0.5, 0.99)
    shares = {"no": likely, "yes": 0.99 - likely, "No": 0.004, "Yes": 0.003, " no": 0.002}
    top = [{"token": token, "logprob": math.log(share + 1e-9), "bytes": None} for token, share in shares.items()]
    choice = {"index": 0, "message": {"role": "assistant", "content": "no"}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 300, "completion_tokens": 1, "total_tokens": 301}
    answer = {"id": f"chatcmpl-{rng.getrandbits(64):016x}", "object": "chat.completion", "created": 1_700_000_000}
    return response(
        answer
        | {"model": "toy", "usage": usage}
        | {"choices": [choice | {"logprobs": {"content": [top[0] | {"top_logprobs": top}]}}]}
    )


async def main() -> None:
    """Serve until standard input ends."""
    loop, rng, servers = asyncio.get_running_loop(), random.Random(0), []
    guard = sys.argv[1] == "--guard"
    answers = [judgement(rng) if guard else completion(rng) for _ in range(64)]
    for latency in map(float, sys.argv[1 + guard :]):
        came: list[float] = []

        def connected(latency: float = latency, came: list[float] = came) -> Chat:
            return Chat(latency, answers, came)

        servers.append(await loop.create_server(connected, "127.0.0.1", 0, backlog=2048))
    urls = [f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1" for server in servers]
    print(json.dumps(urls), flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
