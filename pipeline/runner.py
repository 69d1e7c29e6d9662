"""Who walks the steps: the protocol of a runner, and the one that needs nothing but processes."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

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


class Silent:
    """A `Progress` that shows nothing."""

    def start(self, step: str, rows: int | None) -> None:
        """Show nothing."""

    def advance(self, rows: int) -> None:
        """Show nothing."""

    def finish(self) -> None:
        """Show nothing."""


class Runner(Protocol):
    """Runs one function of a step over its shards."""

    def map(
        self, step: str, function: Callable[..., T], jobs: Sequence[tuple[Any, ...]], rows: Sequence[int] | None = None
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

    def map(
        self, step: str, function: Callable[..., T], jobs: Sequence[tuple[Any, ...]], rows: Sequence[int] | None = None
    ) -> list[T]:
        """See `Runner.map`."""
        self._progress.start(step, sum(rows) if rows is not None else None)
        results = []
        for place, result in enumerate(self._results(function, jobs)):
            results.append(result)
            self._progress.advance(rows[place] if rows is not None else 0)
        self._progress.finish()
        return results

    def _results(self, function: Callable[..., T], jobs: Sequence[tuple[Any, ...]]) -> Iterator[T]:
        if self._workers == 1 or len(jobs) == 1:
            return (function(*job) for job in jobs)
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self._workers,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_end_with_parent,
                initargs=(os.getpid(),),
            )
        return self._pool.map(function, *zip(*jobs, strict=True))

    def close(self) -> None:
        """End the worker processes."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None


@contextmanager
def local_runner(workers: int, progress: Progress) -> Iterator[LocalRunner]:
    """A `LocalRunner` whose processes end with the block."""
    runner = LocalRunner(workers, progress)
    try:
        yield runner
    finally:
        runner.close()


def _end_with_parent(parent: int) -> None:
    """A worker whose parent was killed would wait for work for ever: it watches for that."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
