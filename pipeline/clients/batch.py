"""The client `openai` with ``batch: true``: requests go out as batches of OpenAI's batch API, and answers come later.

A batch is an uploaded file of requests that the server answers within a day, for less (OpenAI's guide *Batch API* and
the API references *Batch* and *Files*; limits and states are from there). It is submitted, left, and come back to: the
ledger knows which requests are in which open batch, from before the server is told to begin. A run that is stopped or
killed at any point finds its batches again, by the name that it gave them in their metadata where need be.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple, TypeVar
from uuid import uuid4

from pipeline.clients import Answer, Doubt, most_tokens, read_entry
from pipeline.clients.openai import OpenAIClient
from pipeline.clients.outcomes import Names, message, read_error, read_reply, refused_key, retry_after
from pipeline.engine import Budget, BudgetSpent, Engine, EngineError, Limits, Refused, Reply, Retry, Tokens
from pipeline.ledger import FILTERED, REFUSED, Entry, Ledger, OpenBatch, request_key
from pipeline.recipe import ServedModel

T = TypeVar("T")

METADATA = "recap-data"
"""The key in a batch's metadata whose value is the name that the ledger has for it."""

_ENDED = ("completed", "failed", "expired", "cancelled")
_GO_ON = "Every answer so far is in the ledger: run the same command again to go on."


class BatchLimits(NamedTuple):
    """How batches are made and waited for. Times are in seconds.

    ``quiet`` is how long nothing more is asked before what was asked is sent, ``hurry`` the time after which it is sent
    even so; ``requests`` and ``size`` (bytes) are the most of one batch, where OpenAI takes 50,000 and 200 MB; ``poll``
    and ``longest_poll`` the pauses between two looks at a batch, at first and at most; ``tries`` in how many batches a
    request is sent; ``patience`` how long a server may answer nothing until it is given up; ``doubt`` how long after it
    was asked for a batch may turn up in the server's list; ``wait`` whether to wait for batches: without, they are
    submitted, those that have ended are collected, and the run ends with `BatchesOpen`.
    """

    quiet: float = 0.5
    hurry: float = 60.0
    requests: int = 50_000
    size: int = 190_000_000
    poll: float = 2.0
    longest_poll: float = 60.0
    tries: int = Limits().tries
    patience: float = 600.0
    doubt: float = 30.0
    wait: bool = True


class BatchesOpen(EngineError):
    """The run ends while requests are in batches. Nothing is lost: the next run collects them.

    ``batches`` are the open ones, by name.
    """

    def __init__(self, message: str, batches: Mapping[str, OpenBatch] | None = None) -> None:
        super().__init__(message)
        self.batches = dict(batches or {})


class _Missing(EngineError):
    """The server has no such batch or file, or no batch API at all."""


class _Queued(NamedTuple):
    key: bytes
    blank: Entry
    line: bytes


class BatchClient(OpenAIClient):
    """Asks a server in batches; implements `pipeline.clients.Client`.

    Requests have the keys of `OpenAIClient`, so answers of batches and direct ones stand for each other in the ledger.
    Batches go to the first base URL, since a server knows only the files that it has itself; open batches are waited
    for at every base URL that the recipe names. The questions beforehand (`check`, `probe`) are asked directly.

    Args:
        config: the model, its servers and its key.
        engine: keeps the answers of probes.
        ledger: keeps all others, and knows the open batches.
        budget: what each request that is submitted is taken from, at the most that it may cost until it is answered.
            One that an earlier run submitted was taken from that run's.
        limits: how batches are made and waited for.

    Raises:
        InputError: the key's environment variable is not set.
    """

    def __init__(
        self,
        config: ServedModel,
        engine: Engine,
        ledger: Ledger,
        budget: Budget,
        limits: BatchLimits | None = None,
    ) -> None:
        super().__init__(config, engine)
        self._ledger, self._budget, self._limits = ledger, budget, limits or BatchLimits()
        self._urls = tuple(dict.fromkeys(config.base_url))
        self._asked: dict[bytes, asyncio.Task[Entry]] = {}
        self._doubts: dict[bytes, Doubt] = {}
        self._waiting: dict[bytes, asyncio.Future[Entry]] = {}
        self._reserved: dict[bytes, float] = {}
        self._reserving: set[asyncio.Task[Any]] = set()
        self._queues: dict[str, list[_Queued]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._queued_since: float | None = None
        self._queued_size = 0
        self._submitting: set[asyncio.Task[None]] = set()
        self._uploading: set[asyncio.Task[Any]] = set()
        self._open: dict[str, OpenBatch] = {}
        self._following: dict[str, asyncio.Task[None]] = {}
        self._departure: asyncio.TimerHandle | None = None
        self._stopped = False
        self.sent = 0

    async def ask(
        self,
        body: Mapping[str, Any],
        *,
        asker: str,
        template: str | None = None,
        attempt: int = 0,
        doubt: Doubt | None = None,
    ) -> Answer:
        """See `Client.ask`. The answer may take a day.

        Raises:
            Refused: the server won't answer this request; that is in the ledger as well.
            BatchesOpen: with ``wait=False``, the request is in a batch that has not ended.
            EngineError: the server took no batch, answered a request in none of several, or could not be reached; a
                batch was cancelled; the budget is used up; the client was left.
        """
        request = self._request(body, template, attempt)
        key = request_key(request)
        entry = self._engine.known(key)
        if entry is None:
            if key not in self._asked:
                blank = Entry(asker, self._config.model, request, "", attempt=attempt)
                if doubt is not None:
                    self._doubts[key] = doubt
                self._asked[key] = asyncio.ensure_future(self._answer(key, blank))
                self._asked[key].add_done_callback(partial(self._asked_no_more, key))
            entry = await asyncio.shield(self._asked[key])
        if entry.finish in (REFUSED, FILTERED):
            raise Refused(entry.answer, finish=entry.finish)
        self._engine.note(entry, asker)
        return read_entry(entry)

    def stop(self) -> None:
        """Begin nothing new: requests that wait for the budget, or for another try, are given up."""
        self._stopped = True
        if self._departure is not None:
            self._departure.cancel()
        for task in self._reserving:
            task.cancel()

    async def leave(self, error: BaseException | None) -> None:
        """Leave what is in batches to the next run; to be called with what the run ended with, before `close`.

        Where the budget is used up, what was within it is still submitted and, unless told not to, waited for, as
        requests in flight are elsewhere. A batch that is just being created is created and noted; an upload is broken
        off.

        Raises:
            BatchesOpen: the run was interrupted, or does not wait, and requests are in batches.
        """
        self.stop()
        submits = isinstance(error, BudgetSpent | BatchesOpen)
        if submits:
            self._flush()
        else:
            self._drop()
            for task in self._uploading:
                task.cancel()
        try:
            await asyncio.gather(*self._submitting, return_exceptions=True)
            if isinstance(error, BudgetSpent) and self._limits.wait:
                await asyncio.gather(*self._asked.values(), return_exceptions=True)
        except asyncio.CancelledError as cancelled:
            error = cancelled
        following = list(self._following.values())
        for task in following:
            task.cancel()
        left = _left([*_batches(error), *self._open.values()], str(error) if isinstance(error, BudgetSpent) else "")
        for key in list(self._waiting):
            self._resolve(key, left or _stop(), self._reserved.get(key, 0.0))
        await asyncio.gather(*following, return_exceptions=True)
        if left and (submits or isinstance(error, asyncio.CancelledError)):
            raise left

    # One request

    async def _answer(self, key: bytes, blank: Entry) -> Entry:
        most = most_tokens(blank.request["body"]).cost(self._config.price)
        tries = 0
        while True:
            if self._stopped:
                raise _stop()
            kept = self._engine.known(key) if tries else None
            if kept is not None:
                return kept
            batch = self._batch_of(key)
            if batch is None:
                await self._engine.checked()
                await self._reserve(key, most)
            waiting: asyncio.Future[Entry] = asyncio.get_running_loop().create_future()
            self._waiting[key] = waiting
            if batch is None:
                self._enqueue(key, blank)
            else:
                self._follow(batch, 0.0)
            try:
                return await waiting
            except Retry as retry:
                tries += 1
                if tries >= self._limits.tries:
                    raise EngineError(
                        f"{self._urls[0]} gave no answer that can be used in {tries} batches; the last time: {retry}. "
                        f"{_GO_ON}"
                    ) from None

    def _batch_of(self, key: bytes) -> OpenBatch | None:
        name = self._ledger.batch_of(key, self._urls)
        if name is None:
            return None
        batch = self._open.get(name) or self._ledger.batch(name)
        if batch is not None:
            self._open[name] = batch
        return batch

    def _asked_no_more(self, key: bytes, task: asyncio.Task[Entry]) -> None:
        del self._asked[key]
        self._doubts.pop(key, None)
        if not task.cancelled():
            task.exception()  # which nobody may wait for any more

    async def _reserve(self, key: bytes, most: float) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._reserving.add(task)
        try:
            await self._budget.reserve(most)
        except asyncio.CancelledError:
            raise _stop() from None
        finally:
            self._reserving.discard(task)
        self._reserved[key] = most
        self.sent += 1

    def _resolve(self, key: bytes, outcome: Entry | BaseException, cost: float) -> None:
        """Tell whoever waits for a request what came of it, and what it cost."""
        most = self._reserved.pop(key, None)
        if most is not None:
            self._budget.settle(most, cost)
        waiting = self._waiting.pop(key, None)
        if waiting is None or waiting.done():
            return
        if isinstance(outcome, BaseException):
            waiting.set_exception(outcome)
        else:
            waiting.set_result(outcome)

    # From requests to a batch

    def _enqueue(self, key: bytes, blank: Entry) -> None:
        body = blank.request["body"]
        endpoint = "/v1/chat/completions" if "messages" in body else "/v1/completions"
        line = json.dumps({"custom_id": key.hex(), "method": "POST", "url": endpoint, "body": body}).encode() + b"\n"
        queue = self._queues.setdefault(endpoint, [])
        queue.append(_Queued(key, blank, line))
        self._queued_size += len(line)
        if len(queue) >= self._limits.requests or self._queued_size >= self._limits.size:
            self._flush()
            return
        now = asyncio.get_running_loop().time()
        self._queued_since = self._queued_since or now
        if self._timer is not None:
            self._timer.cancel()
        at = min(now + self._limits.quiet, self._queued_since + self._limits.hurry)
        self._timer = asyncio.get_running_loop().call_at(at, self._flush)

    def _flush(self) -> None:
        """Submit what was asked so far."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._queued_since, self._queued_size = None, None, 0
        queues, self._queues = self._queues, {}
        for endpoint, queue in queues.items():
            for part in _parts(queue, self._limits):
                task = asyncio.ensure_future(self._submit(endpoint, part))
                self._submitting.add(task)
                task.add_done_callback(partial(self._submitted, [queued.key for queued in part]))

    def _drop(self) -> None:
        """Send away whoever waits for a request that was not submitted yet."""
        if self._timer is not None:
            self._timer.cancel()
        queues, self._queues = self._queues, {}
        for queue in queues.values():
            for queued in queue:
                self._resolve(queued.key, _stop(), 0.0)

    async def _submit(self, endpoint: str, queue: list[_Queued]) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._uploading.add(task)
        name, url = uuid4().hex, self._urls[0]
        try:
            content = b"".join([queued.line for queued in queue])
            file = await self._patiently(url, lambda: self._upload(url, f"recap-data-{name}.jsonl", content))
        finally:
            self._uploading.discard(task)
        batch = self._ledger.plan_batch(name, url, file, [(queued.key, queued.blank) for queued in queue])
        self._open[name] = batch
        batch = await self._create(batch, endpoint)
        if self._limits.wait:
            self._follow(batch, self._limits.poll)

    def _submitted(self, keys: list[bytes], task: asyncio.Task[None]) -> None:
        self._submitting.discard(task)
        self._failed(keys, task)
        self._depart_soon()

    def _failed(self, keys: Iterable[bytes], task: asyncio.Task[None]) -> None:
        """Hand the error of a task to those who wait for it."""
        error = _stop() if task.cancelled() else task.exception()
        if error is not None:
            for key in keys:
                self._resolve(key, error, 0.0)

    async def _upload(self, url: str, name: str, content: bytes) -> str:
        files = self._client(url).files.with_raw_response
        made = await self._json(url, files.create(file=(name, content), purpose="batch", timeout=self._limits.patience))
        return str(made["id"])

    async def _create(self, batch: OpenBatch, endpoint: str) -> OpenBatch:
        """Have the server begin a batch that the ledger knows of.

        An answer that says nothing may come from a server that has begun: its list is looked at before it is asked
        again, so that nothing is paid twice.
        """
        for number in range(self._limits.tries):
            try:
                found: str | None = await self._begin(batch, endpoint)
            except Retry as retry:
                last = retry
                await asyncio.sleep(max(self._pause(number), retry.fault.after or 0.0))
                found = await self._patiently(batch.url, lambda: self._listed(batch))
            except EngineError:
                self._forget(batch)
                raise
            if found is not None:
                return self._note(batch, found)
        raise EngineError(f"{batch.url} began no batch in {self._limits.tries} tries; the last time: {last}. {_GO_ON}")

    async def _begin(self, batch: OpenBatch, endpoint: str) -> str:
        kind: Any = endpoint
        batches = self._client(batch.url).batches.with_raw_response
        made = await self._json(
            batch.url,
            batches.create(
                input_file_id=batch.file,
                endpoint=kind,
                completion_window="24h",
                metadata={METADATA: batch.name},
                timeout=self._limits.doubt,
            ),
        )
        return str(made["id"])

    async def _listed(self, batch: OpenBatch) -> str | None:
        """What the server calls a batch of ours, found in its list by the metadata or the file; None if it isn't."""
        batches = self._client(batch.url).batches.with_raw_response
        more: dict[str, Any] = {}
        while True:
            page = await self._json(batch.url, batches.list(limit=100, timeout=self._limits.doubt, **more))
            for item in page["data"]:
                if (item.get("metadata") or {}).get(METADATA) == batch.name or item.get("input_file_id") == batch.file:
                    return str(item["id"])
            if not page.get("has_more") or not page["data"]:
                return None
            more = {"after": page["data"][-1]["id"]}

    def _note(self, batch: OpenBatch, found: str) -> OpenBatch:
        self._ledger.note_batch(batch.name, found)
        noted = self._open[batch.name] = batch._replace(id=found)
        return noted

    def _forget(self, batch: OpenBatch, entries: Iterable[tuple[bytes, Entry]] = ()) -> None:
        self._ledger.end_batch(batch.name, entries)
        self._open.pop(batch.name, None)

    # From a batch to answers

    def _follow(self, batch: OpenBatch, pause: float) -> None:
        if batch.name not in self._following:
            task = self._following[batch.name] = asyncio.ensure_future(self._collect(batch, pause))
            task.add_done_callback(partial(self._followed, batch))

    def _followed(self, batch: OpenBatch, task: asyncio.Task[None]) -> None:
        del self._following[batch.name]
        self._failed(batch.keys, task)
        self._depart_soon()

    async def _collect(self, batch: OpenBatch, pause: float) -> None:
        """Wait until a batch has ended, and write its answers."""
        known = batch if batch.id is not None else await self._found(batch)
        number = 0
        while known is not None:
            await asyncio.sleep(pause)
            state = await self._patiently(known.url, partial(self._state, known))
            if state is None and time.time() - known.time > self._limits.doubt:
                break
            if state is not None and state.get("status") in _ENDED:
                return await self._read(known, state)
            if not self._limits.wait:
                return None
            pause, number = self._pause(number), number + 1
        self._forget(batch)
        for key in batch.keys:
            self._resolve(key, Retry("the server does not know the batch any more"), 0.0)
        return None

    async def _found(self, batch: OpenBatch) -> OpenBatch | None:
        """A batch that was about to be created when its run ended; None where the server never got to it.

        Another process may be creating it now, so it is given time to turn up.
        """
        while True:
            now = self._ledger.batch(batch.name)
            if now is None or now.id is not None:
                return now
            found = await self._patiently(batch.url, lambda: self._listed(batch))
            if found is not None:
                return self._note(batch, found)
            if time.time() - batch.time > self._limits.doubt:
                return None
            await asyncio.sleep(self._limits.poll)

    async def _state(self, batch: OpenBatch) -> dict[str, Any] | None:
        batches = self._client(batch.url).batches.with_raw_response
        with suppress(_Missing):
            return await self._json(batch.url, batches.retrieve(str(batch.id), timeout=self._limits.doubt))
        return None

    async def _read(self, batch: OpenBatch, state: dict[str, Any]) -> None:
        status = state["status"]
        if status == "failed":
            self._forget(batch)
            raise EngineError(
                f"{batch.url} did not begin the batch {batch.id}: {_reasons(state)}. Nothing of it was answered or "
                f"paid. When the cause is gone, run the same command again. {len(batch.keys):,} requests were in it."
            )
        outcomes = await self._outcomes(batch.url, state)
        missing: Exception = Retry("the batch ended without an answer to the request")
        if status == "expired":
            missing = Retry("the batch expired before the request was answered")
        elif status == "cancelled":
            missing = EngineError(
                f"The batch {batch.id} at {batch.url} was cancelled; what it had answered by then is in the ledger. "
                "Run the same command again to submit the rest anew."
            )
        answered: dict[bytes, Entry] = {}
        failed: dict[bytes, Exception] = {}
        for key, blank in self._ledger.batched(batch.name).items():
            outcome = outcomes.get(key, missing)
            if isinstance(outcome, Refused):
                paid = outcome.paid
                counts = (int(paid.prompt), int(paid.completion)) if paid else (None, None)
                outcome = Reply(str(outcome), outcome.finish, *counts)
            elif isinstance(outcome, Exception) and status == "cancelled":
                outcome = missing
            elif isinstance(outcome, Reply):
                outcome = self._doubted(key, outcome)
            if isinstance(outcome, Reply):
                answered[key] = blank._replace(**outcome._asdict(), time=time.time())
            else:
                failed[key] = outcome
        self._forget(batch, answered.items())
        for key, entry in answered.items():
            self._resolve(key, self._ledger.get(key) or entry, self._cost(key, entry))
        for key in batch.keys:
            if key not in answered:
                error = failed.get(key, missing)
                doubted = error.reply if isinstance(error, Retry) else None
                self._resolve(key, error, self._cost(key, doubted) if doubted else 0.0)

    def _doubted(self, key: bytes, reply: Reply) -> Reply | Retry:
        """An answer, or the doubt in it, if it is the first to its request."""
        doubt = self._doubts.pop(key, None)
        found = doubt(read_entry(reply)) if doubt else None
        return reply if found is None else Retry(found.why, reply=reply)

    async def _outcomes(self, url: str, state: dict[str, Any]) -> dict[bytes, Reply | Exception]:
        """What became of the requests of a batch that has ended, as far as its files say.

        Files that can't be read whole, or hold less than the server counts, are fetched again and again: what is
        missing would be paid a second time.
        """
        began, number = time.monotonic(), 0
        while True:
            good, whole = await self._lines(url, state.get("output_file_id"))
            bad, too = await self._lines(url, state.get("error_file_id"))
            short = len(good) < _count(state, "completed") and len(good) + len(bad) < _count(state, "total")
            if (whole and too and not short) or time.monotonic() - began > self._limits.patience:
                break
            await asyncio.sleep(self._pause(number))
            number += 1
        outcomes: dict[bytes, Reply | Exception] = {}
        for line in [*good, *bad]:
            key = _key(line)
            if key is not None and not isinstance(outcomes.get(key), Reply):
                outcomes[key] = _outcome(line, url, self._config.model, self._names)
        return outcomes

    async def _lines(self, url: str, file: str | None) -> tuple[list[dict[str, Any]], bool]:
        """The lines of a file as far as they can be read, and whether that is all; none where it is gone."""
        if not file:
            return [], True
        with suppress(_Missing):
            return _read_lines(await self._patiently(url, lambda: self._content(url, file)))
        return [], True

    async def _content(self, url: str, file: str) -> bytes:
        return (await self._called(url, self._client(url).files.content(file, timeout=self._limits.patience))).content

    def _cost(self, key: bytes, entry: Entry | Reply) -> float:
        if entry.finish == REFUSED:
            return 0.0
        if entry.prompt_tokens is None or entry.completion_tokens is None:
            return self._reserved.get(key, 0.0)
        return Tokens(entry.prompt_tokens, entry.completion_tokens).cost(self._config.price)

    # Leaving at once

    def _depart_soon(self) -> None:
        if not self._limits.wait and not self._stopped:
            if self._departure is not None:
                self._departure.cancel()
            self._departure = asyncio.get_running_loop().call_later(self._limits.quiet, self._depart)

    def _depart(self) -> None:
        """Send away all who wait for batches, once there is nothing left to submit or to collect."""
        if self._queues or self._submitting or self._following:
            return
        left = _left(self._open.values())
        for key in list(self._waiting) if left else ():
            self._resolve(key, left or _stop(), self._reserved.get(key, 0.0))

    # Asking the server

    def _pause(self, number: int) -> float:
        """Seconds before the next look, after so many."""
        return min(self._limits.poll * 1.5 ** min(number + 1, 50), self._limits.longest_poll)

    async def _patiently(self, url: str, call: Callable[[], Awaitable[T]]) -> T:
        """Call until there is an answer. Raises EngineError where there is none for too long."""
        began, number = time.monotonic(), 0
        while True:
            try:
                return await call()
            except Retry as retry:
                if time.monotonic() - began > self._limits.patience:
                    raise EngineError(
                        f"{url} gave no answer about a batch for {self._limits.patience:g} s; the last time: {retry}. "
                        f"{_GO_ON}"
                    ) from retry
                pause = max(self._pause(number), retry.fault.after or 0.0)
            number += 1
            await asyncio.sleep(pause)

    async def _json(self, url: str, call: Awaitable[Any]) -> dict[str, Any]:
        text = (await self._called(url, call)).text
        try:
            answer = json.loads(text)
        except ValueError:
            answer = None
        if not isinstance(answer, dict) or not ("id" in answer or isinstance(answer.get("data"), list)):
            raise Retry("an answer that is none of a batch API")
        return answer

    async def _called(self, url: str, call: Awaitable[T]) -> T:
        import openai

        try:
            return await call
        except openai.APIStatusError as error:
            status, said = error.status_code, _message({"error": error.body})
            if status in (401, 403):
                raise EngineError(f"{url} {refused_key(status)}") from error
            if status in (404, 405):
                raise _Missing(
                    f"{url} has no batch API, or lost a file of it (HTTP {status}: {said}). Say batch: false in the "
                    "recipe to ask it directly."
                ) from error
            if status in (408, 409, 429) or status >= 500:
                after = retry_after(error.response.headers)
                raise Retry(f"HTTP {status}: {said}", busy=status == 429, after=after) from error
            raise EngineError(f"{url} takes no batch (HTTP {status}): {said}. {_GO_ON}") from error
        except openai.APIConnectionError as error:
            raise Retry(f"{type(error).__name__}: {error}") from error


def _stop() -> EngineError:
    return EngineError(f"Stopped. {_GO_ON}")


def _batches(error: BaseException | None) -> Iterable[OpenBatch]:
    return error.batches.values() if isinstance(error, BatchesOpen) else ()


def _left(batches: Iterable[OpenBatch], why: str = "") -> BatchesOpen | None:
    """What to say of batches that are left; None where there are none."""
    named = {batch.name: batch for batch in batches}
    if not named:
        return None
    places = []
    for url in dict.fromkeys(batch.url for batch in named.values()):
        sizes = [len(batch.keys) for batch in named.values() if batch.url == url]
        requests = f"{sum(sizes):,} requests are" if sum(sizes) != 1 else "1 request is"
        places.append(f"{requests} in {len(sizes)} batch{'es' if len(sizes) != 1 else ''} at {url}")
    message = f"{why} {', '.join(places)}; run the same command again to collect them.".lstrip()
    return BatchesOpen(message, named)


def _parts(queue: list[_Queued], limits: BatchLimits) -> Iterator[list[_Queued]]:
    """A queue in parts that fit into a batch each."""
    part: list[_Queued] = []
    size = 0
    for queued in queue:
        if part and (len(part) >= limits.requests or size + len(queued.line) > limits.size):
            yield part
            part, size = [], 0
        part.append(queued)
        size += len(queued.line)
    if part:
        yield part


def _read_lines(content: bytes) -> tuple[list[dict[str, Any]], bool]:
    """The JSON objects in a file's lines, and whether that is all of it."""
    lines, whole = [], True
    for text in content.split(b"\n"):
        if text.strip():
            try:
                line = json.loads(text)
            except ValueError:
                line = None
            if isinstance(line, dict):
                lines.append(line)
            else:
                whole = False
    return lines, whole


def _count(state: dict[str, Any], name: str) -> int:
    count = (state.get("request_counts") or {}).get(name)
    return count if isinstance(count, int) else 0


def _key(line: dict[str, Any]) -> bytes | None:
    try:
        return bytes.fromhex(line["custom_id"])
    except (LookupError, ValueError, TypeError):
        return None


def _outcome(line: dict[str, Any], url: str, model: str, names: Names) -> Reply | Exception:
    """What a line of an output or error file says of its request."""
    response = line.get("response")
    response = response if isinstance(response, dict) else {}
    status, body = response.get("status_code"), response.get("body")
    if status == 200:
        try:
            return read_reply(json.dumps(body), model, names)
        except (Retry, Refused, EngineError) as outcome:
            return outcome
    if not isinstance(status, int):
        return Retry(_message(line))
    error = read_error(status, {}, json.dumps(body), url, model)
    if isinstance(error, EngineError):
        return EngineError(f"{url} won't let the model {model!r} be asked in a batch. {error} {_GO_ON}")
    return error


def _message(body: Any) -> str:
    """The server's own words for what went wrong."""
    return message(body) or "no reason given"


def _reasons(state: dict[str, Any]) -> str:
    """Why a batch failed, in the server's own words."""
    errors = (state.get("errors") or {}).get("data") or []
    told = dict.fromkeys(str(error.get("message") or error.get("code")).rstrip(".") for error in errors)
    return "; ".join(list(told)[:3]) or "it gave no reason"
