"""Seconds that three loops take for a list of prompts: `python loops.py WHICH URL PROMPTS.json IN_FLIGHT`.

- ``engine``: the sampler as a build opens it: engine, ledger in a file, check of the server, reading of the thinking.
  Several servers, separated by commas, share the load.
- ``openai``: a bare loop over the `openai` client, with the transport that the project gives it; nothing is kept.
- ``aiohttp``: a bare loop over aiohttp, which is what Python can send at all.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[3]))

WORDS = 468
"""Of a prefill: with these the sampler asks for 1,000 tokens."""

Timed = tuple[list[str], float, float]
"""Answers, seconds, and seconds of CPU time."""


def body(place: int, prompt: str) -> dict[str, Any]:
    """What the sampler sends too."""
    parameters = {"temperature": 0.6, "top_p": 0.95, "max_tokens": 1000, "seed": place}
    return {"model": "toy", "messages": [{"role": "user", "content": prompt}], **parameters}


async def timed(ask: Callable[[int, str], Awaitable[str]], prompts: list[str]) -> Timed:
    """All prompts at once."""
    began, worked = time.perf_counter(), time.process_time()
    answers = await asyncio.gather(*(ask(place, prompt) for place, prompt in enumerate(prompts)))
    return answers, time.perf_counter() - began, time.process_time() - worked


async def engine(url: str, prompts: list[str], in_flight: int) -> Timed:
    """The project's own path."""
    import openai.resources.chat.completions  # noqa: F401

    from pipeline.clients.opening import opened
    from pipeline.engine import Budget
    from pipeline.recipe import ModelConfig
    from pipeline.samplers import PrefillRequest
    from pipeline.samplers.opening import open_samplers

    config = ModelConfig(engine="openai", base_url=tuple(url.split(",")), model="toy", in_flight=in_flight)
    with tempfile.TemporaryDirectory() as folder:
        async with opened(Path(folder) / "ledger.sqlite", Budget()) as clients:
            sampler = open_samplers({"sampler": config}, clients)["sampler"]

            async def ask(place: int, prompt: str) -> str:
                request = PrefillRequest(f"{place:032x}", prompt, None, "complies", WORDS, 0, 0)
                return (await sampler.sample(request)).thinking

            return await timed(ask, prompts)


async def bare_openai(url: str, prompts: list[str], in_flight: int) -> Timed:
    """The client alone."""
    import openai.resources.chat.completions

    slots, transport = asyncio.Semaphore(in_flight), openai.DefaultAioHttpClient()
    async with openai.AsyncOpenAI(
        base_url=url, api_key="none", max_retries=0, timeout=None, http_client=transport
    ) as client:

        async def ask(place: int, prompt: str) -> str:
            asked = body(place, prompt)
            async with slots:
                answer = await client.chat.completions.create(**asked)
            return answer.choices[0].message.content or ""

        return await timed(ask, prompts)


async def bare_aiohttp(url: str, prompts: list[str], in_flight: int) -> Timed:
    """HTTP alone."""
    import aiohttp

    slots = asyncio.Semaphore(in_flight)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def ask(place: int, prompt: str) -> str:
            async with slots, session.post(f"{url}/chat/completions", json=body(place, prompt)) as response:
                answer = json.loads(await response.read())
            return str(answer["choices"][0]["message"]["content"])

        return await timed(ask, prompts)


LOOPS: dict[str, Callable[[str, list[str], int], Awaitable[Timed]]] = {
    "engine": engine,
    "openai": bare_openai,
    "aiohttp": bare_aiohttp,
}


async def main() -> None:
    """Print the seconds."""
    which, url, prompts, in_flight = sys.argv[1], sys.argv[2], json.loads(Path(sys.argv[3]).read_text()), sys.argv[4]
    answers, seconds, worked = await LOOPS[which](url, prompts, int(in_flight))
    assert len(answers) == len(prompts)
    assert all(len(answer.split()) > 90 for answer in answers)
    print(json.dumps({"seconds": seconds, "cpu": worked}))


if __name__ == "__main__":
    asyncio.run(main())
