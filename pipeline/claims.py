"""Claims: which requests are in flight for a ledger, told among all processes that use it.

A claim is a POSIX lock on one byte of a file beside the ledger, at a place that the request's key decides. The system
takes it away from a process that dies, so no claim is ever stale.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import ClassVar


class Claims:
    """The requests that this process has in flight for one ledger, and a lock on a byte for each of them.

    Such locks belong to a process as a whole and are gone when it closes any descriptor of the file. So there is one of
    each file in a process, and the requests of its own parts are told apart here.
    """

    _open: ClassVar[dict[str, Claims]] = {}
    _guard = threading.Lock()

    def __init__(self, name: str) -> None:
        self._name, self._users, self._taken = name, 0, set[int]()
        self._file = self._opened()

    @classmethod
    def of(cls, path: Path) -> Claims:
        """The claims of a ledger's file, until `leave`. Raises OSError where the locks' file can't be made."""
        name = os.path.realpath(path) + "-inflight"
        with cls._guard:
            claims = cls._open.get(name) or cls._open.setdefault(name, cls(name))
            claims._users += 1
            return claims

    def take(self, key: bytes) -> bool:
        """Whether the request is the caller's now; False while it is somebody else's."""
        place = self._place(key)
        with self._guard:
            if place in self._taken:
                return False
            try:
                self._follow()
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
            except (BlockingIOError, PermissionError):
                return False
            except OSError:
                pass  # a file system without locks: what the ledger kept first still counts
            self._taken.add(place)
            return True

    def give(self, key: bytes) -> None:
        """Give a request back."""
        place = self._place(key)
        with self._guard:
            if place in self._taken:
                self._taken.remove(place)
                with suppress(OSError):
                    fcntl.lockf(self._file, fcntl.LOCK_UN, 1, place)

    def leave(self) -> None:
        """Give back whatever is left, with the last who uses them here. Nobody's file is removed."""
        with self._guard:
            self._users -= 1
            if not self._users:
                del self._open[self._name]
                with suppress(OSError):
                    fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if self._is_there():
                        os.unlink(self._name)
                os.close(self._file)

    def _opened(self) -> int:
        return os.open(self._name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)

    def _is_there(self) -> bool:
        """Whether the file that is open is the one of that name: another process may have removed it."""
        try:
            return os.path.samestat(os.stat(self._name), os.fstat(self._file))
        except FileNotFoundError:
            return False

    def _follow(self) -> None:
        """Go over to the file of that name, with all that is taken, where another one is open."""
        if self._is_there():
            return
        before, self._file = self._file, self._opened()
        os.close(before)
        for place in self._taken:
            with suppress(BlockingIOError, PermissionError):
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)

    def _place(self, key: bytes) -> int:
        return int.from_bytes(hashlib.sha256(key).digest()[:7])
