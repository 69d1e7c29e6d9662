"""A stop that stops: how work that is under way hears that it should end, whoever says so and in whatever thread.

Asked once, it sends nothing more and waits for what is in flight; asked again, it doesn't wait.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, TypeVar

from pipeline.errors import RecapError

T = TypeVar("T")

SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""What asks a command to stop: Ctrl-C, and the system or whoever runs it."""


class Stopped(RecapError):
    """Somebody stopped the work before it was done."""

    def __init__(self) -> None:
        super().__init__("stopped. The last finished output is as it was; run the same command again.")


class Stop:
    """Whether, and how often, a stop was asked for; safe to ask from any thread and from a signal's handler."""

    def __init__(self) -> None:
        self._asked = 0
        self._listeners: list[Callable[[], None]] = []

    @property
    def asked(self) -> int:
        """How often it was asked for."""
        return self._asked

    @property
    def heard(self) -> bool:
        """Whether something listens that ends when it hears of it."""
        return bool(self._listeners)

    def ask(self) -> None:
        """Ask for it, once more."""
        self._asked += 1
        for listener in list(self._listeners):
            listener()

    @contextmanager
    def heard_by(self, listener: Callable[[], None]) -> Iterator[None]:
        """Have `listener` called whenever it is asked for, and now where it was already."""
        self._listeners.append(listener)
        try:
            if self._asked:
                listener()
            yield
        finally:
            self._listeners.remove(listener)


def run(work: Coroutine[Any, Any, T], stop: Stop | None = None) -> T:
    """`asyncio.run` for work that `stop` ends: by cancelling it, and all that it waits for the second time.

    Without a `stop`, in a process's main thread, Ctrl-C and SIGTERM are what ends it.

    Raises:
        Stopped: `stop` was asked for.
        KeyboardInterrupt: a signal was caught.
    """
    if stop is not None:
        return _run(work, stop)
    with by_signals(Stop()) as own:
        try:
            return _run(work, own)
        except Stopped:
            raise KeyboardInterrupt from None


@contextmanager
def by_signals(stop: Stop) -> Iterator[Stop]:
    """Let the signals ask for `stop` as long as the block lasts; outside of the main thread this does nothing.

    From the third one on, or from the second where nothing hears it, KeyboardInterrupt is raised. A signal that the
    process was started to ignore (``nohup``, a shell's background job) stays ignored.
    """

    def caught(number: int, frame: FrameType | None) -> None:
        heard = stop.heard
        stop.ask()
        if stop.asked > (2 if heard else 1):
            raise KeyboardInterrupt

    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, caught)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(work: Coroutine[Any, Any, T], stop: Stop) -> T:
    async def watched() -> T:
        loop, main, followed = asyncio.get_running_loop(), asyncio.ensure_future(work), 0

        def follow() -> None:
            nonlocal followed
            while followed < stop.asked:
                followed += 1
                for task in [main] if followed == 1 else asyncio.all_tasks(loop):
                    task.cancel()

        def heard() -> None:
            with suppress(RuntimeError):  # the loop was closed since
                loop.call_soon_threadsafe(follow)

        with stop.heard_by(heard):
            return await main

    try:
        return asyncio.run(watched())
    except asyncio.CancelledError:
        raise Stopped from None
