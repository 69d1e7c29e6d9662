"""From the recipe's models to open clients, for one run: one ledger, one budget, one look before anything is paid."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from pipeline.clients import Client
from pipeline.clients.batch import BatchClient, BatchLimits
from pipeline.clients.openai import OpenAIClient
from pipeline.clients.vllm import HERE, VLLMClient, local_model
from pipeline.engine import Budget, Engine, Limits
from pipeline.ledger import Ledger
from pipeline.recipe import ModelConfig, ServedModel

_GARBAGE = 50_000
"""Objects made between two searches for cycles: thousands of waiting requests are not looked through all the time."""


class Clients:
    """The clients of a run; made by `opened`.

    ``checks`` are run once, all of them, before the first request is sent: whoever opens a client may add one.
    """

    def __init__(self, stack: AsyncExitStack, ledger: Path, budget: Budget, batches: BatchLimits) -> None:
        self._stack, self._path, self._budget, self._batches = stack, ledger, budget, batches
        self._ledger: Ledger | None = None
        self._checked: asyncio.Future[None] | None = None
        self._engines: list[Engine | BatchClient] = []
        self.checks: list[Callable[[], Awaitable[None]]] = []

    @property
    def ledger(self) -> Ledger:
        """The ledger, opened when it is first needed."""
        if self._ledger is None:
            self._ledger = self._stack.enter_context(Ledger(self._path))
        return self._ledger

    def open(self, config: ServedModel) -> Client:
        """A client for a model. It is closed with the run, after what is in flight was answered and written."""
        client: Client
        if isinstance(config, ModelConfig) and config.engine == "vllm":
            limits = Limits(start=config.in_flight, most=config.in_flight, deadline=None)
            engine = Engine(self.ledger, HERE, limits, self._budget, config.price)
            client = VLLMClient(config, engine, local_model(config), self.check)
        else:
            limits = Limits(start=min(Limits().start, config.in_flight), most=config.in_flight)
            engine = Engine(self.ledger, config.base_url, limits, self._budget, config.price)
            if config.batch:
                client = BatchClient(config, engine, self.ledger, self._budget, self.check, self._batches)
            else:
                client = OpenAIClient(config, engine, self.check)
        self._stack.push_async_callback(client.close)
        self._stack.push_async_callback(engine.settle)
        self._engines.append(engine)
        if isinstance(client, BatchClient):
            self._stack.push_async_exit(client.leave)
            self._engines.append(client)
        return client

    def stop(self) -> None:
        """Have no client send anything more, before the first of them waits for what is in flight."""
        for engine in self._engines:
            engine.stop()

    @property
    def in_flight(self) -> int:
        """Requests that servers have now and didn't answer yet; those in batches are none."""
        return sum(engine.in_flight for engine in self._engines if isinstance(engine, Engine))

    async def check(self) -> None:
        """Run the checks, or wait for them; they are run once. Raises what the first of them that fails does."""
        if self._checked is None:
            self._checked = asyncio.ensure_future(self._run_checks())
        await asyncio.shield(self._checked)

    async def _run_checks(self) -> None:
        await asyncio.gather(*(check() for check in self.checks))


@asynccontextmanager
async def opened(
    ledger: Path,
    budget: Budget,
    batches: BatchLimits | None = None,
    tell: Callable[[str], None] | None = None,
) -> AsyncIterator[Clients]:
    """The clients of a run, for as long as the block lasts.

    Where it ends early, requests in flight are still answered and written, and `tell` is told so. Those in batches are
    left to the next run; `batches` says how batches are made, and whether they are waited for.

    Raises:
        BatchesOpen: the block was interrupted, or does not wait, and requests are in batches.
    """
    async with AsyncExitStack() as stack:
        stack.callback(gc.set_threshold, *gc.get_threshold())
        gc.set_threshold(_GARBAGE, 20, 20)
        clients = Clients(stack, ledger, budget, batches or BatchLimits())
        try:
            yield clients
        finally:
            clients.stop()
            if tell is not None and (waiting := clients.in_flight):
                requests = f"{waiting:,} request{'s' if waiting > 1 else ''} in flight"
                again = " again" if isinstance(sys.exception(), asyncio.CancelledError) else ""
                tell(f"Stopping: waiting for {requests}; Ctrl-C{again} to leave {'them' if waiting > 1 else 'it'}")
