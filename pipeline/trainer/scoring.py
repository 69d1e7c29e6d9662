"""`Scorer`: rewards for rollouts, from any thread, as often as a trainer asks.

All its requests go through the engine and one ledger: bounded, retried, and asked once, since equal rollouts make equal
requests. It has an event loop in a thread of its own, open from the first call to the last: connections and what the
engine has found out about a server stay.
"""

from __future__ import annotations

import asyncio
import atexit
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from pipeline.clients.opening import Clients, opened
from pipeline.engine import Budget
from pipeline.errors import InputError, RecapError
from pipeline.trainer.judging import Reward, open_rewards
from pipeline.trainer.reward_config import RewardsConfig
from pipeline.trainer.rollouts import Rollout, Score, Why, read_rollout
from pipeline.trainer.verifying import Verifiers

_TURN = 32
"""Rollouts read in one turn of the loop: the first are on their way while the last are read."""

_Result = TypeVar("_Result")


def _waited(future: Future[_Result]) -> _Result:
    try:
        return future.result()
    finally:
        future.cancel()


class Scorer:
    """Scores rollouts; open until it is closed, and at the latest until the program ends.

    ``counts`` says how many rollouts were scored by now, by reward and why (`Score`). Several processes may each have
    one on the same ledger.

    Args:
        config: which judges there are.
        ledger: the ledger's file; it is made if need be.
        budget: what may be sent and cost.

    Raises:
        InputError: a judge can't be asked as the config says.
        LedgerError: the ledger can't be used.
    """

    def __init__(self, config: RewardsConfig, ledger: Path, budget: Budget | None = None) -> None:
        self.counts: Counter[tuple[str, Why]] = Counter()
        self._config, self._ledger, self._budget = config, ledger, budget or Budget()
        self._rewards: dict[str, Reward] = {}
        self._clients: Clients
        self._verifiers: Verifiers
        self._loop: asyncio.AbstractEventLoop
        self._closing: asyncio.Event
        self._ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="scorer", daemon=True)
        self._thread.start()
        self._ready.result()
        atexit.register(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def check(self) -> None:
        """Find out, before the first step, whether every judge is there and answers a harmless question as it should.

        Raises:
            InputError: one doesn't, or math-verify isn't installed.
            EngineError: no server of a judge can be reached.
        """
        loop = self._open_loop()
        _waited(asyncio.run_coroutine_threadsafe(self._check(), loop))

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """The scores of rollouts, in their order.

        Raises:
            InputError: a rollout's reward is none that there is, or a judge can't be asked as the config says.
            EngineError: a judge's model could not be made to answer, or the budget is used up. Every answer so far is
                in the ledger.
        """
        return _waited(self.submit(rollouts))

    def submit(self, rollouts: Sequence[Rollout]) -> Future[list[Score]]:
        """The same, as a future: for who has something else to do, or an event loop (`asyncio.wrap_future`)."""
        loop = self._open_loop()
        return asyncio.run_coroutine_threadsafe(self._score(list(rollouts)), loop)

    def close(self) -> None:
        """Send nothing more, wait for what is in flight, and close the ledger. Whoever still waits gets an EngineError.

        Closing it again does nothing.
        """
        atexit.unregister(self.close)
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._closing.set)
            self._thread.join()

    def _open_loop(self) -> asyncio.AbstractEventLoop:
        if not self._thread.is_alive():
            raise RecapError("The scorer is closed, or this process was forked from the one that opened it.")
        return self._loop

    def _run(self) -> None:
        try:
            asyncio.run(self._stay_open())
        except BaseException as error:
            if self._ready.done():
                raise
            self._ready.set_exception(error)

    async def _stay_open(self) -> None:
        with closing(Verifiers()) as self._verifiers:
            async with opened(self._ledger, self._budget) as self._clients:
                self._rewards = open_rewards(self._config, self._clients, self._verifiers)
                self._loop, self._closing = asyncio.get_running_loop(), asyncio.Event()
                self._ready.set_result(None)
                await self._closing.wait()

    async def _check(self) -> None:
        await self._clients.check()
        await self._verifiers.check()

    async def _score(self, rollouts: list[Rollout]) -> list[Score]:
        unknown = sorted({rollout.reward for rollout in rollouts} - self._rewards.keys())
        if unknown:
            raise InputError(
                f"There is no reward {unknown[0]!r}. The rewards are {', '.join(self._rewards)}: is the mixture of "
                "this version of recap-data?"
            )
        tasks: list[asyncio.Task[Score]] = []
        try:
            for rollout in rollouts:
                tasks.append(asyncio.ensure_future(self._one(rollout)))
                if len(tasks) % _TURN == 0:
                    await asyncio.sleep(0)
            scores = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        self.counts.update((rollout.reward, score.why) for rollout, score in zip(rollouts, scores, strict=True))
        return scores

    async def _one(self, rollout: Rollout) -> Score:
        read = read_rollout(rollout)
        return read if isinstance(read, Score) else await self._rewards[rollout.reward].score(rollout, read)
