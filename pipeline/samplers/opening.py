"""From the recipe's samplers to open ones: the engines they need, and their end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from pipeline.engine import Budget, Engine, Limits
from pipeline.recipe import OpenAIConfig, Prefill, SamplerConfig
from pipeline.samplers import Sampler
from pipeline.samplers.template import TemplateSampler


def is_remote(config: SamplerConfig) -> bool:
    """Whether the sampler asks servers: then one process asks for all shards, through one ledger."""
    return isinstance(config, OpenAIConfig)


@asynccontextmanager
async def opened(
    samplers: Mapping[str, SamplerConfig], prefills: Mapping[str, Prefill], ledger: Path, budget: Budget
) -> AsyncIterator[dict[str, Sampler]]:
    """The sampler of each domain that has prefills, for as long as the block lasts.

    The ledger is opened only where a sampler needs it; requests are taken from `budget`. When the block ends early,
    requests in flight are still answered and written.
    """
    configs = {name: samplers[name] for name in {prefill.sampler for prefill in prefills.values()}}
    async with AsyncExitStack() as stack:
        open_samplers: dict[str, Sampler] = {}
        remote = {name: config for name, config in configs.items() if isinstance(config, OpenAIConfig)}
        if remote:
            from pipeline.ledger import Ledger
            from pipeline.samplers.openai import OpenAISampler

            book = stack.enter_context(Ledger(ledger))
            asked: list[OpenAISampler] = []
            check = _once(lambda: asyncio.gather(*(sampler.check() for sampler in asked)))
            for name, config in sorted(remote.items()):
                limits = Limits(start=min(Limits().start, config.in_flight), most=config.in_flight)
                engine = Engine(book, config.base_url, limits, budget)
                sampler = OpenAISampler(name, config, engine, check)
                asked.append(sampler)
                stack.push_async_callback(sampler.close)
                stack.push_async_callback(engine.settle)
                stack.callback(engine.stop)
                open_samplers[name] = sampler
        for name in configs.keys() - remote.keys():
            open_samplers[name] = TemplateSampler(name)
        yield {domain: open_samplers[prefill.sampler] for domain, prefill in prefills.items()}


def _once(run: Callable[[], Awaitable[object]]) -> Callable[[], Awaitable[None]]:
    """A function that runs `run` when it is first called; every call waits for that, and raises what it raised."""
    task: asyncio.Future[object] | None = None

    async def wait() -> None:
        nonlocal task
        if task is None:
            task = asyncio.ensure_future(run())
        await asyncio.shield(task)

    return wait
