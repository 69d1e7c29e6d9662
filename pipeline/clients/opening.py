"""From the recipe's models to open clients, for one run: one ledger, one budget, one look before anything is paid."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from pathlib import Path

from pipeline.budget import Used
from pipeline.clients import Client
from pipeline.clients.batch import BatchClient, BatchesOpen, BatchLimits
from pipeline.clients.openai import OpenAIClient
from pipeline.clients.vllm import HERE, VLLMClient, local_model
from pipeline.clients.weights import pinned
from pipeline.engine import Budget, Engine, Limits
from pipeline.ledger import Ledger
from pipeline.recipe import ModelConfig, ServedModel
from pipeline.servers import Pool

_GARBAGE = 50_000
"""Objects made between two searches for cycles: thousands of waiting requests are not looked through all the time."""


class Clients:
    """The clients of a run; made by `opened`.

    ``checks`` are run once, all of them, before the first request is sent: whoever opens a client may add one. With
    `checked` they were run by an earlier part of the run, which left `unproven` servers out.
    """

    def __init__(
        self, ledger: Path, budget: Budget, batches: BatchLimits, checked: bool, unproven: Collection[str]
    ) -> None:
        self._path, self._budget, self._batches = ledger, budget, batches
        self._ledger: Ledger | None = None
        self._pool = Pool()
        self._checked: asyncio.Future[None] | None = None
        self._were_checked, self._unproven = checked, unproven
        self._engines: list[Engine] = []
        self._clients: list[Client] = []
        self.checks: list[Callable[[], Awaitable[None]]] = []

    @property
    def ledger(self) -> Ledger:
        """The ledger, opened when it is first needed."""
        if self._ledger is None:
            self._ledger = Ledger(self._path, read_only=not self._budget.asks and self._path.is_file())
            self._budget.resume(*self._ledger.spent_by(self._budget.run.id))
        return self._ledger

    @property
    def checked(self) -> bool:
        """Whether the checks were run, now or before, and found nothing wrong."""
        done = self._checked is not None and self._checked.done() and not self._checked.cancelled()
        return self._were_checked or (done and self._checked is not None and self._checked.exception() is None)

    @property
    def unproven(self) -> frozenset[str]:
        """The servers that gave no answer to what was asked beforehand, and are not used."""
        found = [client.unproven for client in self._clients if isinstance(client, OpenAIClient)]
        return frozenset(self._unproven).union(*found)

    def open(self, config: ServedModel) -> Client:
        """A client for a model. It is closed with the run, after what is in flight was answered and written."""
        client: Client
        if isinstance(config, ModelConfig) and config.engine == "vllm":
            config = pinned(config)
            limits = Limits(start=config.in_flight, most=config.in_flight, deadline=None)
            engine = Engine(self.ledger, HERE, limits, self._budget, config.price, before=self.check)
            client = VLLMClient(config, engine, local_model(config))
        else:
            limits = Limits(
                most=config.in_flight, deadline=config.deadline, tries=config.tries, patience=config.patience
            )
            urls = [url for url in config.base_url if url not in self._unproven] or config.base_url
            engine = Engine(self.ledger, urls, limits, self._budget, config.price, self._pool, self.check)
            if config.batch:
                client = BatchClient(config, engine, self.ledger, self._budget, self._batches)
            else:
                client = OpenAIClient(config, engine)
        self._engines.append(engine)
        self._clients.append(client)
        return client

    def stop(self) -> None:
        """Have no client send anything more."""
        for asking in (*self._engines, *self._clients):
            if isinstance(asking, Engine | BatchClient):
                asking.stop()

    async def end(self, error: BaseException | None) -> None:
        """Leave what is in batches, wait for what is in flight and write it, and then close all.

        Raises:
            BatchesOpen: the run was interrupted, or does not wait, and requests are in batches.
            LedgerError: answers could not be written.
        """
        self.stop()
        try:
            left: BatchesOpen | None = None
            for client in self._clients:
                if isinstance(client, BatchClient):
                    try:
                        await client.leave(left or error)
                    except BatchesOpen as batches:
                        left = batches
            settled = await asyncio.gather(*(engine.settle() for engine in self._engines), return_exceptions=True)
            for failure in (*settled, left):
                if failure is not None:
                    raise failure
        finally:
            for client in self._clients:
                await client.close()
            if self._ledger is not None:
                self._ledger.close()

    @property
    def used(self) -> dict[str, Used]:
        """The answers that were used, by who asked."""
        found: dict[str, Used] = {}
        for engine in self._engines:
            for asker, used in engine.used().items():
                found[asker] = found.get(asker, Used()).plus(used)
        return found

    @property
    def in_flight(self) -> int:
        """Requests that servers have now and didn't answer yet; those in batches are none."""
        servers = {server for engine in self._engines for server in engine.servers}
        return sum(server.in_flight for server in servers)

    async def check(self) -> None:
        """Run the checks, or wait for them; they are run once. Raises what the first of them that fails does."""
        if self._were_checked:
            return
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
    *,
    checked: bool = False,
    unproven: Collection[str] = (),
) -> AsyncIterator[Clients]:
    """The clients of a run, for as long as the block lasts.

    Where it ends early, requests in flight are still answered and written, and `tell` is told so. Those in batches are
    left to the next run; `batches` says how batches are made, and whether they are waited for. `checked` and `unproven`
    are what an earlier part of the run found out (`Clients`).

    Raises:
        BatchesOpen: the block was interrupted, or does not wait, and requests are in batches.
        LedgerError: answers could not be written.
    """
    thresholds = gc.get_threshold()
    gc.set_threshold(_GARBAGE, 20, 20)
    clients = Clients(ledger, budget, batches or BatchLimits(), checked, unproven)
    try:
        yield clients
    finally:
        error = sys.exception()
        clients.stop()
        if tell is not None and error is not None and (waiting := clients.in_flight):
            requests = f"{waiting:,} request{'s' if waiting > 1 else ''} in flight"
            again = " again" if isinstance(error, asyncio.CancelledError) else ""
            tell(f"Stopping: waiting for {requests}; Ctrl-C{again} to leave {'them' if waiting > 1 else 'it'}")
        try:
            await clients.end(error)
        finally:
            gc.set_threshold(*thresholds)
