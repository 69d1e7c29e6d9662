"""Math answers, verified by math-verify in processes of their own.

math-verify bounds its time by a signal, which only a process's main thread gets, and a trainer scores in other threads
and in ranks. So each verifier is a child that runs `_verifier.py`; what outlasts its own bounds is killed with it. An
answer that the library can't work out in time, or fails on, is `unverified`: nobody knows that it is wrong.
"""

from __future__ import annotations

import asyncio
import json
import os
import selectors
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import IO

from pipeline.errors import InputError
from pipeline.trainer.rollouts import Score

SECONDS = 5
"""That reading one text, and comparing two, may take each."""

_OVERTIME = 4.0 * SECONDS
_START = 120.0
_SCORES: dict[str, Score] = {
    "equal": Score(1.0, "scored"),
    "different": Score(0.0, "scored"),
    "no-truth": Score(None, "no-truth"),
}
_UNVERIFIED = Score(None, "unverified")


class _Verifier:
    """One child. Raises InputError where math-verify isn't installed."""

    def __init__(self) -> None:
        script = Path(__file__).with_name("_verifier.py")
        self._child = subprocess.Popen(
            [sys.executable, "-P", str(script), str(SECONDS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
        if self._line(_START) != "ready":
            self.end()
            raise InputError(
                "Math answers can't be verified: math-verify can't be imported. Install it: "
                "pip install 'recap-data[trainer]'."
            )

    def ask(self, answer: str, truth: str) -> str | None:
        """What is found, None where nothing is: the child is ended then."""
        stdin = self._child.stdin
        assert stdin is not None
        try:
            stdin.write(json.dumps([answer, truth]) + "\n")
            stdin.flush()
            return self._line(_OVERTIME)
        except OSError:
            return None

    def _line(self, seconds: float) -> str | None:
        stdout: IO[str] | None = self._child.stdout
        assert stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            return stdout.readline().strip() or None if selector.select(seconds) else None

    def end(self) -> None:
        """Kill the child."""
        self._child.kill()
        self._child.communicate()


class Verifiers:
    """Verifiers that share the answers; each is started when it is first needed.

    Args:
        most: how many there may be; as many as there are cores, and four at most, unless given.
    """

    def __init__(self, most: int | None = None) -> None:
        self._threads = ThreadPoolExecutor(most or min(4, os.cpu_count() or 1), "verifier")
        self._idle: SimpleQueue[_Verifier] = SimpleQueue()

    async def verify(self, answer: str, truth: str) -> Score:
        """1 where the answer is equal to the ground truth, 0 where it is another or none.

        Raises:
            InputError: math-verify isn't installed.
        """
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._verify, answer, truth)

    async def check(self) -> None:
        """Find out whether answers can be verified at all. Raises InputError where they can't."""
        await self.verify("1", "1")

    def close(self) -> None:
        """End them all."""
        self._threads.shutdown(cancel_futures=True)
        while (verifier := self._take()) is not None:
            verifier.end()

    def _verify(self, answer: str, truth: str) -> Score:
        verifier = self._take() or _Verifier()
        found = verifier.ask(answer, truth)
        if found is None:
            verifier.end()
            return _UNVERIFIED
        self._idle.put(verifier)
        return _SCORES.get(found, _UNVERIFIED)

    def _take(self) -> _Verifier | None:
        try:
            return self._idle.get_nowait()
        except Empty:
            return None
