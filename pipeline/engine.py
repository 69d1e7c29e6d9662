"""The one async loop that every request to a model goes through.

A request is looked up in the ledger; if it has no answer it waits for a slot of a server (`pipeline.servers`), is sent,
retried where that can help, and its answer is written. Slots are refilled one by one, so a slow answer holds up nothing
but itself. Waiting, for a slot or for another try, happens outside the slots and counts against no deadline.

What a request comes to is one of four: an answer; a fault that may pass, after which it is sent again (`Retry`); an
outcome of this request, believed when it is told several times in a row (`Refused`); or the end of the run
(`EngineError`). Which answer of a host is which is said in `pipeline.clients.outcomes`.

What the ledger kept is what counts: where another process was faster, its answer is taken.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from pipeline.budget import ALL_KEPT, NO_TOKENS, Budget, BudgetSpent, EngineError, Prices, Tokens, Used
from pipeline.errors import RecapError
from pipeline.ledger import FILTERED, REFUSED, Entry, Ledger, LedgerError, request_key
from pipeline.servers import Fault, Limits, Pool, Server, Servers

__all__ = ["Budget", "BudgetSpent", "Engine", "EngineError", "Limits", "Refused", "Reply", "Retry", "Tokens"]

BELIEVED = 3
"""How often in a row a server must say the same of a request for it to be the request's outcome, unless the outcome
says otherwise."""

_ELSEWHERE = 0.2
"""Seconds between two looks for an answer that another process has in flight."""

_AT_LAST = 60.0
"""How long it is tried to write answers that could not be written, before they are kept in a file of their own."""

_NUMBERS = re.compile(r"\d+")


class Reply(NamedTuple):
    """What a server answered: the raw text, why it ended, and the tokens that it counted."""

    answer: str
    finish: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class Refused(RecapError):
    """The server will not answer this request; others may still be answered.

    ``finish`` is what the ledger calls it: `pipeline.ledger.REFUSED` where the cause may be mended (it is asked again
    in a later run), `pipeline.ledger.FILTERED` where the server answered with nothing and was paid for it. ``believed``
    is how often in a row the server must say it; ``paid`` are the tokens that the server counted, None where it was
    asked and doesn't say.
    """

    def __init__(
        self, why: str, *, finish: str = REFUSED, believed: int = BELIEVED, paid: Tokens | None = NO_TOKENS
    ) -> None:
        super().__init__(why)
        self.finish, self.believed, self.paid = finish, believed, paid


class Retry(Exception):
    """An answer that may be better the next time; see `pipeline.servers.Fault`.

    ``paid`` are the tokens that the server counted, `NO_TOKENS` where it did nothing, None where it was asked and
    doesn't say: then the request is taken to have cost its most. ``reply`` is an answer that is whole but in doubt: it
    is taken where the next try gives no better one, unless ``doubtful`` says what the request's outcome is then.
    """

    def __init__(
        self,
        why: str,
        *,
        busy: bool = False,
        late: bool = False,
        lost: bool = False,
        after: float | None = None,
        paid: Tokens | None = None,
        reply: Reply | None = None,
        doubtful: str | None = None,
    ) -> None:
        super().__init__(why)
        self.fault = Fault(why, busy, late, lost, after)
        self.paid, self.reply, self.doubtful = paid, reply, doubtful


def _seen(task: asyncio.Task[Entry]) -> None:
    """Look at how a task ended: whoever asked may have been cancelled, and then nobody else does."""
    if not task.cancelled():
        task.exception()


def _stopped() -> EngineError:
    return EngineError(f"Stopped. {ALL_KEPT}")


class _Sent(NamedTuple):
    reply: Reply
    latency: float | None


class _Tries:
    """What became of the tries at one request."""

    def __init__(self) -> None:
        self.failures = self.busy = self.doubts = self.told = 0
        self.words: Counter[str] = Counter()
        self._last = ""

    @property
    def number(self) -> int:
        return self.failures + self.busy

    def note(self, why: str, *, busy: bool = False) -> None:
        same = _NUMBERS.sub("#", why)
        self.told = self.told + 1 if same == self._last else 1
        self._last = same
        self.words[why] += 1
        if busy:
            self.busy += 1
        else:
            self.failures += 1

    def story(self) -> str:
        """What was said, the most frequent first."""
        return "; ".join(f"{why} ({count} times)" if count > 1 else why for why, count in self.words.most_common(3))


class Engine:
    """Asks servers, through the ledger, as many at a time as they take.

    Args:
        ledger: where answers are looked up and written.
        urls: the base URLs that share the load.
        limits: how servers are treated.
        budget: what each request that is sent is taken from.
        prices: what the model's tokens cost.
        pool: the servers of the run; who shares it shares their slots.
        before: awaited before each request that is to be sent, while nothing is reserved for it: it has everything
            checked once, before the first answer is paid for.

    ``sent`` and ``found`` count the requests sent and those whose answer was in the ledger.
    """

    def __init__(
        self,
        ledger: Ledger,
        urls: Sequence[str],
        limits: Limits | None = None,
        budget: Budget | None = None,
        prices: Prices | None = None,
        pool: Pool | None = None,
        before: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._ledger = ledger
        self._limits = limits or Limits()
        self._servers = Servers(urls, self._limits, pool)
        self._budget, self._prices, self._before = budget or Budget(), prices, before
        self._asked: dict[bytes, asyncio.Task[Entry]] = {}
        self._answered: dict[bytes, tuple[Entry, asyncio.Future[Entry]]] = {}
        self._last_success = time.monotonic()
        self._stopped = asyncio.Event()
        self._more = NO_TOKENS
        self._unwritable: LedgerError | None = None
        self.sent = self.found = 0
        self._used: Counter[tuple[str, str]] = Counter()

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
            LedgerError: the answer can't be written. It is kept until it can, and nothing more is sent.
        """
        key = request_key(request)
        entry = self.known(key)
        if entry is not None:
            self.found += 1
        else:
            if key not in self._asked:
                blank = Entry(asker, model, request, "", attempt=attempt)
                task = asyncio.ensure_future(self._answer(key, blank, send, most))
                task.add_done_callback(_seen)
                self._asked[key] = task
            entry = await asyncio.shield(self._asked[key])
        if entry.finish in (REFUSED, FILTERED):
            raise Refused(entry.answer, finish=entry.finish)
        self.note(entry, asker)
        return entry

    def note(self, entry: Entry, asker: str) -> None:
        """Count an answer among those that are used, by whoever asks for it now."""
        self._used[asker, "answers"] += 1
        self._used[asker, "prompt_tokens"] += entry.prompt_tokens or 0
        self._used[asker, "completion_tokens"] += entry.completion_tokens or 0

    def used(self) -> dict[str, Used]:
        """The answers that were used, by who asked."""
        found = {}
        for asker in sorted({asker for asker, _ in self._used}):
            answers, read, wrote = (self._used[asker, field] for field in Used._fields[:3])
            found[asker] = Used(answers, read, wrote, Tokens(read, wrote).cost(self._prices))
        return found

    def kept(self, request: Mapping[str, Any]) -> Entry | None:
        """The answer that the ledger has to a request, None where it has none."""
        return self._ledger.get(request_key(request))

    def known(self, key: bytes) -> Entry | None:
        """The ledger's answer; a refusal of an earlier run is none, as long as anything may be asked."""
        entry = self._ledger.get(key)
        old = entry is not None and entry.finish == REFUSED and entry.time < self._budget.run.began
        return None if old and self._budget.asks else entry

    async def checked(self) -> None:
        """Have everything checked that is to be checked before a request is sent, if any may be sent at all."""
        if self._before is not None and self._budget.asks:
            await self._before()

    async def probe(
        self,
        url: str,
        request: Mapping[str, Any],
        send: Callable[[str], Awaitable[Reply]],
        *,
        asker: str,
        model: str | None = None,
        most: Tokens = NO_TOKENS,
    ) -> Reply:
        """What one server answers now, whatever the ledger has. The first answer to a request is written.

        Raises:
            Refused: it won't answer.
            EngineError: it gave no answer in a few tries, or the budget is used up.
        """
        tries = _Tries()
        while True:
            await self._budget.reserve(reserved := self._most(most))
            try:
                sent = await self._sent(url, send, most, reserved)
            except Refused as refused:
                tries.note(str(refused))
                if tries.told >= refused.believed:
                    raise
            except Retry as retry:
                tries.note(str(retry))
                if retry.reply is not None and tries.number >= BELIEVED:
                    sent = _Sent(retry.reply, None)
                    break
            else:
                break
            if tries.number >= 2 * BELIEVED or self._stopped.is_set():
                raise EngineError(f"{url} gave no answer that can be used in {tries.number} tries: {tries.story()}.")
            await self._pause(tries.number, 2.0)
        entry = Entry(asker, model, request, **sent.reply._asdict(), latency=sent.latency, time=time.time())
        self._ledger.put([(request_key(request), entry)], self._spending())
        return sent.reply

    def leave_out(self, url: str) -> None:
        """Ask a server nothing more."""
        self._servers.leave_out(url)

    @property
    def servers(self) -> frozenset[Server]:
        """The servers that are asked, which others may ask too."""
        return self._servers.all

    def stop(self) -> None:
        """Send nothing more. Requests in flight are still answered and written; those that wait are given up."""
        self._stop(_stopped())

    async def settle(self) -> None:
        """Wait for the requests in flight, and write what they brought.

        Raises:
            LedgerError: it can't be written into the ledger; the message says where it was put.
        """
        try:
            await asyncio.gather(*self._asked.values(), return_exceptions=True)
            self._write()
            began = time.monotonic()
            while self._answered and time.monotonic() - began < _AT_LAST:
                await asyncio.sleep(0.5)
                self._write()
        finally:
            if not self._answered and self._budget.spent and not self._ledger.read_only:
                self._ledger.put([], self._spending())
            if self._answered:
                aside = self._ledger.set_aside((key, entry) for key, (entry, _) in self._answered.items())
                count, self._answered = len(self._answered), {}
                raise LedgerError(
                    f"{self._ledger.path} could not be written. {count:,} answers that were paid are kept in {aside}; "
                    "the next run reads them in, as soon as the ledger can be written."
                )

    async def _answer(self, key: bytes, blank: Entry, send: Callable[[str], Awaitable[Reply]], most: Tokens) -> Entry:
        claimed = False
        try:
            await self.checked()
            while not claimed:
                server = await self._slot()
                claimed = self._ledger.claim(key)
                if claimed:
                    break
                self._servers.release(server)
                await asyncio.sleep(_ELSEWHERE)
                entry = self.known(key)
                if entry is not None:
                    return entry
            entry = self.known(key)
            if entry is not None:
                self._servers.release(server)
                return entry
            try:
                sent = await self._send(server, send, most)
            except Refused as refused:
                sent = _Sent(Reply(str(refused), refused.finish), None)
            written: asyncio.Future[Entry] = asyncio.get_running_loop().create_future()
            entry = blank._replace(**sent.reply._asdict(), latency=sent.latency, time=time.time())
            self._answered[key] = (entry, written)
            if self._unwritable is not None:
                written.cancel()
                raise self._unwritable
            if len(self._answered) == 1:
                asyncio.get_running_loop().call_soon(self._write)
            return await written
        finally:
            del self._asked[key]
            if claimed:
                self._ledger.release(key)

    async def _slot(self) -> Server:
        try:
            return await self._servers.acquire()
        except TimeoutError as error:
            raise EngineError(f"{error}, which is longer than it's waited for (patience). {ALL_KEPT}") from None

    async def _send(self, server: Server, send: Callable[[str], Awaitable[Reply]], most: Tokens) -> _Sent:
        """Send a request until it has an outcome, to the server whose slot is taken at first."""
        tries, began, before = _Tries(), time.monotonic(), 0.0
        while True:
            sent = time.monotonic()
            try:
                await self._budget.reserve(reserved := self._most(most))
            except BaseException:
                self._servers.release(server)
                raise
            try:
                answered = await self._sent(server.url, send, most, reserved)
            except Refused as refused:
                server.succeeded(sent)
                tries.note(str(refused))
                if tries.told >= refused.believed:
                    raise
            except Retry as retry:
                server.failed(sent, retry.fault)
                tries.note(str(retry), busy=retry.fault.busy or retry.fault.lost)
                if retry.reply is not None:
                    tries.doubts += 1
                    if tries.doubts > 1:
                        if retry.doubtful is not None:
                            raise Refused(retry.doubtful, finish=FILTERED) from None
                        return _Sent(retry.reply, time.monotonic() - sent)
                self._check_patience(server, tries, began, before, retry.fault)
            else:
                self._last_success = time.monotonic()
                server.succeeded(sent)
                return answered
            finally:
                self._servers.release(server)
            before = sent
            await self._pause(tries.number, self._limits.longest_pause)
            server = await self._slot()

    async def _sent(self, url: str, send: Callable[[str], Awaitable[Reply]], most: Tokens, reserved: float) -> _Sent:
        """Send a request once, and book what it cost."""
        began, cost = time.monotonic(), reserved
        self.sent += 1
        try:
            async with asyncio.timeout(self._limits.deadline):
                reply = await send(url)
            cost = self._counted(reply.prompt_tokens, reply.completion_tokens, most, cost)
            return _Sent(reply, time.monotonic() - began)
        except TimeoutError:
            raise Retry(f"no answer within the deadline of {self._limits.deadline:g} s", late=True) from None
        except (Retry, Refused) as outcome:
            if outcome.paid is not None:
                cost = self._counted(*outcome.paid, most, cost) if outcome.paid != NO_TOKENS else 0.0
            raise
        except EngineError:
            cost = 0.0
            raise
        finally:
            self._budget.settle(reserved, cost)

    def _check_patience(self, server: Server, tries: _Tries, began: float, before: float, fault: Fault) -> None:
        """End the tries at a request where there were enough.

        While others are answered the fault is this request's, and nobody else's.
        """
        patience = self._limits.patience
        if fault.late and self._limits.deadline is not None:
            patience = max(patience, 2 * self._limits.deadline)
        silent = time.monotonic() - max(self._last_success, began) > patience
        if tries.failures < self._limits.tries and not silent:
            return
        said = f"{server.url} gave no answer that can be used in {tries.number} tries: {tries.story()}"
        if before and self._last_success > before:
            raise Refused(said)
        raise EngineError(f"{said}. {ALL_KEPT}")

    def _most(self, most: Tokens) -> float:
        """What a request may cost at most, by what servers counted so far beyond what was expected."""
        return Tokens(most.prompt + self._more.prompt, most.completion + self._more.completion).cost(self._prices)

    def _counted(self, prompt: float | None, completion: float | None, most: Tokens, cost: float) -> float:
        """What an answer cost; the most that it may have where the server counted no tokens."""
        if prompt is None or completion is None:
            return cost
        beyond = Tokens(prompt - most.prompt, completion - most.completion)
        self._more = Tokens(max(self._more.prompt, beyond.prompt), max(self._more.completion, beyond.completion))
        return Tokens(prompt, completion).cost(self._prices)

    async def _pause(self, number: int, longest: float) -> None:
        if self._stopped.is_set():
            raise _stopped()
        with suppress(TimeoutError):
            upto = min(self._limits.pause * 2**number, longest)
            await asyncio.wait_for(self._stopped.wait(), random.uniform(0, upto))
        if self._stopped.is_set():
            raise _stopped()

    def _spending(self) -> tuple[str, int, float]:
        return (self._budget.run.id, self._budget.spent, self._budget.cost)

    def _write(self) -> None:
        """Write what was answered. Where that fails nothing more is sent, and it is kept until it can be written."""
        if not self._answered:
            return
        try:
            kept = self._ledger.put(((key, entry) for key, (entry, _) in self._answered.items()), self._spending())
        except LedgerError as error:
            self._unwritable = error
            self._stop(error)
            for _, written in self._answered.values():
                if not written.done():
                    written.set_exception(error)
            return
        answered, self._answered = self._answered, {}
        for key, (entry, written) in answered.items():
            if not written.done():
                written.set_result(kept.get(key, entry))

    def _stop(self, why: Exception) -> None:
        self._stopped.set()
        self._servers.stop(why)
