"""The one async loop that every request to a model goes through.

A request is looked up in the ledger; if it has no answer it waits for a slot of a server, is sent, retried where that
can help, and its answer is written. Slots are refilled one by one, so a slow answer holds up nothing but itself. How
many there are is found out: a server's limit grows while answers come back clean and shrinks when it says that it is
too much, or leaves a request to its deadline (AIMD, Chiu and Jain 1989). Waiting, for a slot or for another try,
happens outside the slots and counts against no deadline.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, Protocol

from pipeline.errors import RecapError
from pipeline.ledger import Entry, Ledger, request_key

REFUSED = "refused"
"""The finish of an entry whose request the server won't answer; its answer is the server's reason."""


class EngineError(RecapError):
    """No server could be made to answer."""


class Refused(RecapError):
    """The server will not answer this request, now or later; others may still be answered."""


class Reply(NamedTuple):
    """What a server answered: the raw text, why it ended, and the tokens that it counted."""

    answer: str
    finish: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class Retry(Exception):
    """An answer that may be better the next time.

    ``busy`` says that the server wants less; ``after`` are the seconds that it wants to be left alone for; ``late``
    says that there was no answer by the deadline. ``reply`` is an answer that is whole but in doubt: it is taken where
    the next try gives no better one.
    """

    def __init__(
        self,
        why: str,
        *,
        busy: bool = False,
        late: bool = False,
        after: float | None = None,
        reply: Reply | None = None,
    ) -> None:
        super().__init__(why)
        self.busy, self.late, self.after, self.reply = busy, late, after, reply


class Limits(NamedTuple):
    """How a server is treated.

    ``start`` and ``most`` are requests in flight at first and at most; ``deadline`` the seconds that one request may
    take once it is sent, None for any time; ``tries`` how often it is sent; ``pause`` and ``longest_pause`` the seconds
    between two tries at first and at most; ``patience`` the seconds after which servers that answer nothing are given
    up.
    """

    start: int = 32
    most: int = 256
    deadline: float | None = 600.0
    tries: int = 8
    pause: float = 0.5
    longest_pause: float = 60.0
    patience: float = 300.0


class _Server:
    """One server's slots, and what is known of how it does."""

    GROWTH, CUT = 0.05, 0.8
    MUCH = 2.0
    """How many times as fast another server must be for a request to rather wait for it."""
    BREAKS = 8
    """Failures in a row after which a server is left alone: for a moment, then longer each time it fails on."""

    def __init__(self, url: str, limits: Limits) -> None:
        self.url, self._limits = url, limits
        self.limit, self.in_flight = float(min(limits.start, limits.most)), 0
        self.resting_until = self._cut_at = self._broke_at = 0.0
        self._failures = self._breaks = 0
        self._latency = self._heard_at = 0.0

    def take(self, now: float) -> None:
        """Fill a slot."""
        self._heard_at = self._heard_at if self.in_flight else now
        self.in_flight += 1

    def latency(self, now: float) -> float:
        """The seconds that an answer takes: what the last ones took, or what the server has been silent for."""
        return max(self._latency, now - self._heard_at if self.in_flight else 0.0, 1e-3)

    def free(self, now: float) -> bool:
        return self.in_flight < int(self.limit) and now >= self.resting_until

    def wait(self, now: float) -> float:
        """How long a request sent now would take, in relation to other servers."""
        return (self.in_flight + 1) / self.limit * self.latency(now)

    def succeeded(self, latency: float) -> None:
        self._failures = self._breaks = 0
        self._heard_at = time.monotonic()
        self._latency = latency if not self._latency else 0.9 * self._latency + 0.1 * latency
        if self.in_flight >= int(self.limit) - 1:
            growth = self.GROWTH * max(1.0, 20 / self.limit) if self._cut_at else 1.0
            self.limit = min(self.limit + growth, float(self._limits.most))

    def failed(self, sent: float, retry: Retry) -> None:
        now = self._heard_at = time.monotonic()
        if (retry.busy or retry.late) and sent >= self._cut_at:
            self.limit, self._cut_at = max(self.limit * self.CUT, 1.0), now
        if retry.busy:
            if retry.after is not None:
                self.resting_until = max(self.resting_until, now + retry.after)
            return
        if sent < self._broke_at:
            return
        self._failures += 1
        if self._failures >= self.BREAKS:
            pause = min(self._limits.pause * 2**self._breaks, self._limits.longest_pause)
            self.resting_until, self._broke_at = now + pause, now
            self._failures, self._breaks = 0, self._breaks + 1


class Servers:
    """Servers that share a load, each with slots of its own.

    A slot is given in the order of asking, on the server that is likely to answer soonest: a slow one among fast ones
    gets few requests, one that asked to be left alone none for that time.
    """

    def __init__(self, urls: Sequence[str], limits: Limits) -> None:
        self._servers = [_Server(url, limits) for url in urls]
        self._queue: deque[asyncio.Future[_Server]] = deque()
        self._alarm: asyncio.TimerHandle | None = None

    async def acquire(self) -> _Server:
        """Wait for a slot. Raises EngineError where the servers are stopped meanwhile."""
        turn: asyncio.Future[_Server] = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        self._hand_out()
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release(turn.result())
            raise

    @property
    def in_flight(self) -> int:
        """How many slots are taken."""
        return sum(server.in_flight for server in self._servers)

    def release(self, server: _Server) -> None:
        """Give a slot back."""
        server.in_flight -= 1
        self._hand_out()

    def stop(self) -> None:
        """Send everybody who waits for a slot away with an EngineError."""
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_exception(_stopped())

    def _hand_out(self) -> None:
        now = time.monotonic()
        while self._queue:
            free = [server for server in self._servers if server.free(now) and self._worth(server, now)]
            if not free:
                break
            turn = self._queue.popleft()
            if not turn.done():
                server = min(free, key=lambda server: server.wait(now))
                server.take(now)
                turn.set_result(server)
        if self._queue and self._alarm is None:
            again = [server.resting_until - now for server in self._servers if server.resting_until > now]
            again += [server.latency(now) for server in self._servers if server.free(now)]
            if again:
                self._alarm = asyncio.get_running_loop().call_later(min(again) + 1e-3, self._wake)

    def _worth(self, server: _Server, now: float) -> bool:
        """Whether it would answer before much faster servers were through with all that waits."""
        latency = server.latency(now)
        others = [(other.limit, other.latency(now)) for other in self._servers if now >= other.resting_until]
        faster = [(limit, one) for limit, one in others if one * _Server.MUCH < latency]
        rate = sum(limit / one for limit, one in faster)
        return not faster or latency <= len(self._queue) / rate + min(one for _, one in faster)

    def _wake(self) -> None:
        self._alarm = None
        self._hand_out()


_LATE = "no answer in {:g} s"
_ALL_KEPT = "Every answer so far is in the ledger: run the same command again to go on."


def _seen(task: asyncio.Task[Entry]) -> None:
    """Look at how a task ended: whoever asked may have been cancelled, and then nobody else does."""
    if not task.cancelled():
        task.exception()


def _stopped() -> EngineError:
    return EngineError(f"Stopped. {_ALL_KEPT}")


class Prices(Protocol):
    """What a million tokens of a prompt and of an answer cost."""

    @property
    def prompt(self) -> float:
        """Of a prompt."""

    @property
    def completion(self) -> float:
        """Of an answer."""


class Tokens(NamedTuple):
    """Tokens of a prompt, and of an answer."""

    prompt: int = 0
    completion: int = 0

    def cost(self, prices: Prices | None) -> float:
        """What they cost; 0 where no prices are known."""
        return (self.prompt * prices.prompt + self.completion * prices.completion) / 1e6 if prices else 0.0


NO_TOKENS = Tokens()


class BudgetSpent(EngineError):
    """What a run may send, or cost, is used up."""


class Budget:
    """What a run may still send and cost, by all its engines together; None for any number.

    The cost of a request in flight is reserved at its most, so that ``cost`` is never more than allowed by what the
    prices say. ``spent`` counts requests sent, ``cost`` is that of their answers.
    """

    def __init__(self, requests: int | None = None, cost: float | None = None) -> None:
        self._requests, self._cost = requests, cost
        self._reserved, self._in_flight = 0.0, 0
        self._settled = asyncio.Event()
        self.spent, self.cost = 0, 0.0

    async def reserve(self, most: float = 0.0) -> None:
        """Take a request that costs at most `most` from it, once those in flight leave enough.

        Raises:
            BudgetSpent: there is too little left.
        """
        while True:
            if self._requests is not None and self.spent >= self._requests:
                raise BudgetSpent(f"The requests allowed by --max-requests were sent. {_ALL_KEPT}")
            if self._cost is None or self.cost + self._reserved + most <= self._cost:
                break
            if not self._in_flight:
                raise BudgetSpent(
                    f"The next request may cost {most:.6g}, and {self.cost:.6g} of the {self._cost:.6g} that may be "
                    f"spent is spent (--max-cost). {_ALL_KEPT}"
                )
            self._settled.clear()
            await self._settled.wait()
        self.spent += 1
        self._reserved += most
        self._in_flight += 1

    def settle(self, most: float, cost: float) -> None:
        """Put what a request really cost in the place of what was reserved for it."""
        self._in_flight -= 1
        self._reserved = self._reserved - most if self._in_flight else 0.0
        self.cost += cost
        self._settled.set()


class Engine:
    """Asks servers, through the ledger, as many at a time as they take.

    Args:
        ledger: where answers are looked up and written.
        urls: the base URLs that share the load.
        limits: how servers are treated.
        budget: what each request that is sent is taken from.
        prices: what the model's tokens cost.

    ``sent`` and ``found`` count the requests sent and those whose answer was in the ledger.
    """

    def __init__(
        self,
        ledger: Ledger,
        urls: Sequence[str],
        limits: Limits | None = None,
        budget: Budget | None = None,
        prices: Prices | None = None,
    ) -> None:
        self._ledger = ledger
        self._limits = limits or Limits()
        self._servers = Servers(urls, self._limits)
        self._budget, self._prices = budget or Budget(), prices
        self._asked: dict[bytes, asyncio.Task[Entry]] = {}
        self._answered: list[tuple[bytes, Entry]] = []
        self._last_success = time.monotonic()
        self._stopped = asyncio.Event()
        self.sent = self.found = 0

    async def ask(
        self,
        request: Mapping[str, Any],
        send: Callable[[str], Awaitable[Reply]],
        *,
        asker: str,
        model: str | None = None,
        attempt: int = 0,
        most: Tokens = NO_TOKENS,
    ) -> Entry:
        """The answer to a request: from the ledger, or from a server.

        Args:
            request: all that can change the answer (`pipeline.ledger.request_key`).
            send: sends it to the server at a base URL; raises `Retry` where another try may help, `Refused` where not.
            asker: the sampler or judge that asks, for the ledger's accounts.
            model: the model asked, for the same.
            attempt: which try at a prefill this is.
            most: the most tokens that it may have, for the budget.

        Raises:
            Refused: the server won't answer this request; that is in the ledger as well.
            EngineError: no server could be made to answer, the budget is used up, or the engine was stopped.
        """
        key = request_key(request)
        entry = self._ledger.get(key)
        if entry is not None:
            self.found += 1
        else:
            if key not in self._asked:
                blank = Entry(asker, model, request, "", attempt=attempt)
                task = asyncio.ensure_future(self._answer(key, blank, send, most.cost(self._prices)))
                task.add_done_callback(_seen)
                self._asked[key] = task
            entry = await asyncio.shield(self._asked[key])
        if entry.finish == REFUSED:
            raise Refused(entry.answer)
        return entry

    def kept(self, request: Mapping[str, Any]) -> Entry | None:
        """The answer that the ledger has to a request, None where it has none."""
        return self._ledger.get(request_key(request))

    def keep(self, request: Mapping[str, Any], reply: Reply, *, asker: str, model: str | None = None) -> None:
        """Write an answer that was got past the engine. One that the ledger has already stays."""
        self._ledger.put([(request_key(request), Entry(asker, model, request, **reply._asdict()))])

    @property
    def in_flight(self) -> int:
        """Requests that servers have now."""
        return self._servers.in_flight

    def stop(self) -> None:
        """Send nothing more. Requests in flight are still answered and written; those that wait are given up."""
        self._stopped.set()
        self._servers.stop()

    async def settle(self) -> None:
        """Wait for the requests in flight, and write what they brought."""
        await asyncio.gather(*self._asked.values(), return_exceptions=True)
        self._write()

    async def _answer(self, key: bytes, blank: Entry, send: Callable[[str], Awaitable[Reply]], most: float) -> Entry:
        latency = None
        try:
            reply, latency = await self._send(send, most)
        except Refused as refused:
            reply = Reply(str(refused), REFUSED)
        except BaseException:
            del self._asked[key]
            raise
        entry = blank._replace(**reply._asdict(), latency=latency, time=time.time())
        self._answered.append((key, entry))
        if len(self._answered) == 1:
            asyncio.get_running_loop().call_soon(self._write)
        return entry

    async def _send(self, send: Callable[[str], Awaitable[Reply]], most: float) -> tuple[Reply, float]:
        failures = busy = doubts = 0
        began: float | None = None
        while True:
            if self._stopped.is_set():
                raise _stopped()
            server = await self._servers.acquire()
            sent = time.monotonic()
            began = began or sent
            cost = 0.0
            try:
                await self._budget.reserve(most)
            except BaseException:
                self._servers.release(server)
                raise
            self.sent += 1
            try:
                async with asyncio.timeout(self._limits.deadline):
                    reply = await send(server.url)
                cost = self._cost(reply, most)
            except (Retry, TimeoutError) as error:
                retry = error if isinstance(error, Retry) else Retry(_LATE.format(self._limits.deadline), late=True)
                if retry.reply is not None:
                    doubts, cost = doubts + 1, self._cost(retry.reply, most)
                    if doubts > 1:
                        return retry.reply, time.monotonic() - sent
                server.failed(sent, retry)
            else:
                self._last_success = time.monotonic()
                server.succeeded(self._last_success - sent)
                return reply, self._last_success - sent
            finally:
                self._budget.settle(most, cost)
                self._servers.release(server)
            failures, busy = failures + (not retry.busy), busy + retry.busy
            out_of_patience = time.monotonic() - max(self._last_success, began) > self._limits.patience
            if failures >= self._limits.tries or out_of_patience:
                raise EngineError(
                    f"{server.url} gave no answer that can be used in {failures + busy} tries; the last time: {retry}. "
                    f"{_ALL_KEPT}"
                )
            longest = min(self._limits.pause * 2 ** (failures + busy), self._limits.longest_pause)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopped.wait(), random.uniform(0, longest))

    def _cost(self, reply: Reply, most: float) -> float:
        """What an answer cost; the most that it may have where the server counted no tokens."""
        if reply.prompt_tokens is None or reply.completion_tokens is None:
            return most
        return Tokens(reply.prompt_tokens, reply.completion_tokens).cost(self._prices)

    def _write(self) -> None:
        answered, self._answered = self._answered, []
        if answered:
            self._ledger.put(answered)
        for key, _ in answered:
            del self._asked[key]
