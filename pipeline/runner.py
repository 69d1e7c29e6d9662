"""Who walks the steps: the protocol of a runner, and the one that needs nothing but processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import Connection
from types import FrameType
from typing import Any, Protocol, TypeVar

from pipeline.errors import RecapError

T = TypeVar("T")


class Progress(Protocol):
    """Is told how a build gets on."""

    def start(self, step: str, rows: int | None) -> None:
        """A step begins, over so many rows where that is known."""
        ...

    def advance(self, rows: int) -> None:
        """So many more rows of the step are done."""
        ...

    def finish(self) -> None:
        """The step is done."""
        ...

    def tried(self, accepted: int, rejected: Mapping[str, int]) -> None:
        """So many tries at prefills were accepted in the step so far, and rejected for these reasons."""
        ...

    def tell(self, line: str) -> None:
        """Something that whoever watches should know at once."""
        ...


class Silent:
    """A `Progress` that shows nothing."""

    def start(self, step: str, rows: int | None) -> None:
        """Show nothing."""

    def advance(self, rows: int) -> None:
        """Show nothing."""

    def finish(self) -> None:
        """Show nothing."""

    def tried(self, accepted: int, rejected: Mapping[str, int]) -> None:
        """Show nothing."""

    def tell(self, line: str) -> None:
        """Show nothing."""


class Runner(Protocol):
    """Runs one function of a step over its shards.

    With `live`, there is one job, and the function takes two arguments more: the `Progress` to tell, and the
    `pipeline.stopping.Stop` that ends it (None where signals do).
    """

    def map(
        self,
        step: str,
        function: Callable[..., T],
        jobs: Sequence[tuple[Any, ...]],
        rows: Sequence[int] | None = None,
        *,
        live: bool = False,
    ) -> list[T]:
        """Call `function` with each job's arguments; the results in the jobs' order. `rows` says how large each is."""
        ...


class LocalRunner:
    """Calls the functions here, or in `workers` processes where a step has several shards.

    The result is the same whatever the number of workers: a job reads and writes files of its own.
    """

    def __init__(self, workers: int = 1, progress: Progress | None = None) -> None:
        self._workers = workers
        self._progress = progress or Silent()
        self._pool: ProcessPoolExecutor | None = None
        self._alive: Connection | None = None

    def map(
        self,
        step: str,
        function: Callable[..., T],
        jobs: Sequence[tuple[Any, ...]],
        rows: Sequence[int] | None = None,
        *,
        live: bool = False,
    ) -> list[T]:
        """See `Runner.map`. Where it raises, no worker runs on."""
        self._progress.start(step, sum(rows) if rows is not None else None)
        results = []
        try:
            if live:
                results = [function(*job, self._progress, None) for job in jobs]
            for place, result in enumerate(self._results(function, jobs) if not live else ()):
                results.append(result)
                self._progress.advance(rows[place] if rows is not None else 0)
        except BrokenProcessPool:
            self._kill()
            raise RecapError(
                f"A worker process was killed during {step!r}, most likely because memory ran out. "
                "The last finished output is as it was. Run the same command again with fewer --workers."
            ) from None
        except BaseException:
            self._kill()
            raise
        self._progress.finish()
        return results

    def _results(self, function: Callable[..., T], jobs: Sequence[tuple[Any, ...]]) -> Iterator[T]:
        if self._workers == 1 or len(jobs) == 1:
            return (function(*job) for job in jobs)
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            ended, self._alive = context.Pipe(duplex=False)
            self._pool = ProcessPoolExecutor(
                self._workers, mp_context=context, initializer=_end_with_parent, initargs=(ended,)
            )
        with _starting_workers():
            return self._pool.map(function, *zip(*jobs, strict=True))

    def _kill(self) -> None:
        if self._alive is not None:
            self._alive.close()
        self.close()

    def close(self) -> None:
        """End the worker processes."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        if self._alive is not None:
            self._alive.close()
        self._pool = self._alive = None


@contextmanager
def local_runner(workers: int, progress: Progress) -> Iterator[LocalRunner]:
    """A `LocalRunner` whose processes end with the block."""
    runner = LocalRunner(workers, progress)
    try:
        yield runner
    finally:
        runner.close()


@contextmanager
def _starting_workers() -> Iterator[None]:
    """Hold a stop back while worker processes start: one that the pool does not know of yet could not be ended.

    Ctrl-C goes to every process of a terminal. Only this one is to answer: the workers inherit the mask. In this
    process the mask alone won't do, since a thread without it may take the signal and have it raised here.
    """
    held: list[tuple[int, FrameType | None]] = []
    handlers = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if callable(handler := signal.getsignal(number)):
                handlers[number] = handler
                signal.signal(number, lambda *caught: held.append(caught))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if held:
        handlers[signal.Signals(held[0][0])](*held[0])


def _end_with_parent(alive: Connection) -> None:
    """End this worker, in the middle of its work if need be, as soon as the other end of `alive` is closed.

    The parent closes it to stop, and the system does where the parent was killed.
    """

    def watch() -> None:
        alive.poll(None)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
