"""Servers that share a load: how many requests each is given at a time, and which of them is asked next.

A server's limit starts small and grows while answers come back clean and soon; it shrinks when the server says that it
is too much, or answers so late that a request could be left to its deadline (AIMD, Chiu and Jain 1989). The limit is
the server's, whoever asks it: samplers and judges that share a server share its slots.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

_LOG = logging.getLogger(__name__)

_TOLD = 10.0
"""Seconds from which on it is told that a server wants to be left alone."""


class Limits(NamedTuple):
    """How a server is treated.

    ``start`` and ``most`` are requests in flight at first and at most; ``deadline`` the seconds that one request may
    take once it is sent, None for any time; ``tries`` how often it is sent; ``pause`` and ``longest_pause`` the seconds
    between two tries at first and at most; ``patience`` the seconds after which servers that answer nothing are given
    up, and beyond which none is left alone because it asks for that. Where it is less than twice the deadline, a
    request that was left to its deadline has that much.
    """

    start: int = 4
    most: int = 256
    deadline: float | None = 600.0
    tries: int = 8
    pause: float = 0.5
    longest_pause: float = 60.0
    patience: float = 300.0


class Fault(NamedTuple):
    """How a request failed, for its server.

    ``busy`` says that the server wants less; ``after`` are the seconds that it wants to be left alone for; ``late``
    says that there was no answer by the deadline, ``lost`` that no connection could be made: it may be starting again,
    and is waited for as long as the patience lasts.
    """

    why: str
    busy: bool = False
    late: bool = False
    lost: bool = False
    after: float | None = None


class Server:
    """One server's slots, and what is known of how it does."""

    GROWTH, CUT = 0.05, 0.8
    MUCH = 2.0
    """How many times as fast another server must be for a request to rather wait for it."""
    BREAKS = 8
    """Failures in a row after which a server is left alone: for a moment, then longer each time it fails on."""
    NEAR = 1.5
    """How much longer than the first an answer may take for a limit to grow, where it takes long."""

    def __init__(self, url: str, limits: Limits) -> None:
        self.url, self._limits, self._most = url, limits, limits.most
        self.limit, self.in_flight = float(min(limits.start, limits.most)), 0
        self.resting_until = self._cut_at = self._broke_at = 0.0
        self._failures = self._breaks = 0
        self._latency = self._first = self._heard_at = 0.0
        self.askers: list[Servers] = []

    def share(self, limits: Limits) -> None:
        """Have no more requests in flight than somebody else who asks this server wants."""
        self._most = min(self._most, limits.most)
        self.limit = min(self.limit, float(self._most))

    def take(self, now: float) -> None:
        """Fill a slot."""
        self._heard_at = self._heard_at if self.in_flight else now
        self.in_flight += 1

    def latency(self, now: float) -> float:
        """The seconds that an answer takes: what the last ones took, or what the server has been silent for."""
        return max(self._latency, now - self._heard_at if self.in_flight else 0.0, 1e-3)

    def free(self, now: float) -> bool:
        """Whether it takes one more request."""
        return self.in_flight < int(self.limit) and now >= self.resting_until

    def wait(self, now: float) -> float:
        """How long a request sent now would take, in relation to other servers."""
        return (self.in_flight + 1) / self.limit * self.latency(now)

    def succeeded(self, sent: float) -> None:
        """A request that was sent then was answered now."""
        now = self._heard_at = time.monotonic()
        latency = now - sent
        self._failures = self._breaks = 0
        self._first = self._first or latency
        self._latency = latency if not self._latency else 0.9 * self._latency + 0.1 * latency
        near = self.NEAR * self._first
        deadline = self._limits.deadline
        if deadline is not None and latency > max(deadline / 2, near):
            self._shrink(sent, now)
        elif self.in_flight >= int(self.limit) - 1 and (deadline is None or latency <= max(deadline / 4, near)):
            self.limit = min(self.limit + self._growth(latency), float(self._most))

    def failed(self, sent: float, fault: Fault) -> None:
        """A request that was sent then failed."""
        now = self._heard_at = time.monotonic()
        if fault.busy or fault.late:
            self._shrink(sent, now)
        if fault.busy:
            if fault.after is not None:
                self._rest(now, fault)
            return
        if sent < self._broke_at:
            return
        self._failures += 1
        if self._failures >= self.BREAKS:
            pause = min(self._limits.pause * 2**self._breaks, self._limits.longest_pause)
            self.resting_until, self._broke_at = max(self.resting_until, now + pause), now
            self._failures, self._breaks = 0, self._breaks + 1

    def _growth(self, latency: float) -> float:
        """How much an answer makes the limit grow: fast at first where answers come fast, slow once it was cut."""
        if self._cut_at:
            return self.GROWTH * max(1.0, 20 / self.limit)
        deadline = self._limits.deadline or Limits().deadline or 1.0
        return 7.0 if latency < deadline / 200 else 3.0 if latency < deadline / 20 else 1.0

    def _shrink(self, sent: float, now: float) -> None:
        if sent >= self._cut_at:
            self.limit, self._cut_at = max(self.limit * self.CUT, 1.0), now

    def _rest(self, now: float, fault: Fault) -> None:
        until = now + min(fault.after or 0.0, 1e9)
        if until - max(now, self.resting_until) > _TOLD:
            given_up = "which is longer than it's waited for" if until - now > self._limits.patience else "and is"
            _LOG.warning("%s wants to be left alone for %.0f s (%s), %s.", self.url, until - now, fault.why, given_up)
        self.resting_until = max(self.resting_until, until)


class Pool:
    """The servers of a run by address: everybody who asks one of them fills the same slots."""

    def __init__(self) -> None:
        self._servers: dict[str, Server] = {}

    def server(self, url: str, limits: Limits) -> Server:
        """The server at an address; its limits are those that it was first asked with, ``most`` the least of all."""
        if url not in self._servers:
            self._servers[url] = Server(url, limits)
        self._servers[url].share(limits)
        return self._servers[url]


class Servers:
    """Servers that share a load, for one who asks them.

    A slot is given in the order of asking, on the server that is likely to answer soonest: a slow one among fast ones
    gets few requests, one that asked to be left alone none for that time.
    """

    def __init__(self, urls: Sequence[str], limits: Limits, pool: Pool | None = None) -> None:
        pool = pool or Pool()
        self._patience = limits.patience
        self._servers = [pool.server(url, limits) for url in urls]
        for server in self._servers:
            server.askers.append(self)
        self._queue: deque[asyncio.Future[Server]] = deque()
        self._alarm: asyncio.TimerHandle | None = None
        self._stopped: Exception | None = None

    async def acquire(self) -> Server:
        """Wait for a slot. Raises what `stop` was told, where the servers are stopped meanwhile, and TimeoutError where
        all of them want to be left alone for longer than the patience.
        """
        if self._stopped is not None:
            raise self._stopped
        turn: asyncio.Future[Server] = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        self.hand_out()
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.release(turn.result())
            raise

    @property
    def all(self) -> frozenset[Server]:
        """Each of them once."""
        return frozenset(self._servers)

    def release(self, server: Server) -> None:
        """Give a slot back; whoever waits for this server longest is next."""
        server.in_flight -= 1
        server.askers.append(server.askers.pop(0))
        for asker in list(server.askers):
            asker.hand_out()

    def leave_out(self, url: str) -> None:
        """Ask a server nothing more."""
        self._servers = [server for server in self._servers if server.url != url]

    def stop(self, why: Exception) -> None:
        """Send everybody who waits for a slot, or will, away with this."""
        self._stopped = why
        self._send_away(why)

    def _send_away(self, why: Exception) -> None:
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_exception(why)

    def hand_out(self) -> None:
        """Give the slots that are free to those who wait."""
        if not self._queue:
            return
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
        if not self._queue:
            return
        soonest = min((server.resting_until for server in self._servers), default=now) - now
        if soonest > self._patience:
            names = ", ".join(server.url for server in self._servers)
            self._send_away(TimeoutError(f"{names} want to be left alone for {soonest:.0f} s"))
            return
        again = [server.resting_until - now for server in self._servers if server.resting_until > now]
        again += [server.latency(now) for server in self._servers if server.free(now)]
        if again:
            self._ring(min(again) + 1e-3)

    def _ring(self, after: float) -> None:
        """Hand out again after so many seconds, or before."""
        loop = asyncio.get_running_loop()
        if self._alarm is not None:
            if self._alarm.when() <= loop.time() + after:
                return
            self._alarm.cancel()
        self._alarm = loop.call_later(after, self._wake)

    def _wake(self) -> None:
        self._alarm = None
        self.hand_out()

    def _worth(self, server: Server, now: float) -> bool:
        """Whether it would answer before much faster servers were through with all that waits."""
        latency = server.latency(now)
        others = [(other.limit, other.latency(now)) for other in self._servers if now >= other.resting_until]
        faster = [(limit, one) for limit, one in others if one * Server.MUCH < latency]
        rate = sum(limit / one for limit, one in faster)
        return not faster or latency <= len(self._queue) / rate + min(one for _, one in faster)
