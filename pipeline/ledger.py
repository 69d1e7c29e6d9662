"""The ledger: one SQLite file in which a request is a key and its answer is written once.

Resume, cache, audit trail and cost report are this one file. A key is a hash of everything that can change the answer
and of nothing that can't (`request_key`). The file is in WAL mode and written in the same turn of the event loop in
which an answer came, so a killed process loses the requests in flight and no answer it had.

Requests that were sent as a batch, and whose answers are not fetched yet, stand in two tables of their own. These are
made when the first batch is sent; to whoever doesn't know them, the file is a ledger like any other.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from pipeline.errors import RecapError

SCHEME = 1
"""Version of the keys and of the table; it is part of every key, and a file of a newer one is refused."""

LOCK_SECONDS = 30.0
"""How long another process may hold the file."""

_APPLICATION_ID = 0x5245434C
_TABLE = """
CREATE TABLE IF NOT EXISTS answers (
    key BLOB PRIMARY KEY,
    asker TEXT NOT NULL,
    model TEXT,
    request TEXT NOT NULL,
    answer TEXT NOT NULL,
    finish TEXT,
    prompt_tokens INTEGER,
    completion_tokens INTEGER,
    latency REAL,
    time REAL NOT NULL,
    attempt INTEGER NOT NULL
)
"""
_BATCHES = (
    """
CREATE TABLE IF NOT EXISTS batches (
    name TEXT PRIMARY KEY,
    url TEXT NOT NULL,
    file TEXT NOT NULL,
    id TEXT,
    time REAL NOT NULL
)
""",
    """
CREATE TABLE IF NOT EXISTS batched (
    key BLOB NOT NULL,
    batch TEXT NOT NULL,
    asker TEXT NOT NULL,
    model TEXT,
    request TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    PRIMARY KEY (key, batch)
)
""",
    "CREATE INDEX IF NOT EXISTS batched_batch ON batched (batch)",
)


class LedgerError(RecapError):
    """The ledger can't be used: it is newer, broken, or not a ledger."""


class Entry(NamedTuple):
    """One answered request.

    ``asker`` is the sampler or judge, ``request`` what was asked (what the key was made of), ``answer`` the raw answer,
    ``finish`` the reason it ended; tokens are as the server counted them, None where it didn't; ``latency`` is in
    seconds, ``time`` seconds since 1970; ``attempt`` counts the tries at a prefill, from 0.
    """

    asker: str
    model: str | None
    request: Mapping[str, Any]
    answer: str
    finish: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    latency: float | None = None
    time: float = 0.0
    attempt: int = 0


class OpenBatch(NamedTuple):
    """Requests that were, or may have been, sent as one batch, and whose answers are not in the ledger yet.

    ``name`` is ours and stands in the batch's metadata; ``url`` is the server's base URL, ``file`` what it calls the
    uploaded requests, ``id`` what it calls the batch: None until its answer to the creation was noted. ``time`` is in
    seconds since 1970, ``keys`` are those of the requests.
    """

    name: str
    url: str
    file: str
    id: str | None
    time: float
    keys: tuple[bytes, ...]


class Stats(NamedTuple):
    """Sums over one asker and model."""

    asker: str
    model: str | None
    answers: int
    prompt_tokens: int
    completion_tokens: int
    seconds: float


def request_key(request: Mapping[str, Any]) -> bytes:
    """The key of a request: 32 bytes, sha256 of its canonical JSON and of `SCHEME`.

    `request` holds what can change the answer: engine, model and revision, the server's identity, system prompt,
    template hash, rendered prompt or token ids, parameters, seed and attempt.
    """
    text = json.dumps(request, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(f"{SCHEME}\n{text}".encode("utf-8", "surrogatepass")).digest()


class Ledger:
    """An open ledger. Not for use from several threads; several processes may have one file open.

    Raises:
        LedgerError: the file is no ledger, of a newer scheme, or broken. A broken one is moved aside first, so that the
            next try starts a new one and nothing is lost.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        try:
            self._db = _open(path)
        except sqlite3.DatabaseError as error:
            raise LedgerError(_put_aside(path, error)) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Write what is left and close the file."""
        self._db.close()

    def get(self, key: bytes) -> Entry | None:
        """The answer under a key, None where there is none."""
        row = self._db.execute("SELECT * FROM answers WHERE key = ?", (key,)).fetchone()
        return _entry(row) if row else None

    def has(self, keys: Iterable[bytes]) -> int:
        """How many of the keys have an answer."""
        query = "SELECT 1 FROM answers WHERE key = ?"
        return sum(self._db.execute(query, (key,)).fetchone() is not None for key in keys)

    def put(self, entries: Iterable[tuple[bytes, Entry]]) -> None:
        """Write answers in one transaction. A key that has an answer keeps it: an answer is written once."""
        rows = _rows(entries)
        with self._db:
            self._db.executemany(_INSERT, rows)

    def plan_batch(self, name: str, url: str, file: str, requests: Iterable[tuple[bytes, Entry]]) -> OpenBatch:
        """Note that requests are about to be sent as a batch; their entries have no answers.

        It is on the disk when this returns: what is paid next is known even after a power failure.
        """
        listed = list(requests)
        batch = OpenBatch(name, url, file, None, time.time(), tuple(key for key, _ in listed))
        rows = [
            (key, name, e.asker, e.model, json.dumps(e.request, sort_keys=True, ensure_ascii=False), e.attempt)
            for key, e in listed
        ]
        with self._on_disk(), self._db:
            for statement in _BATCHES:
                self._db.execute(statement)
            self._db.execute("INSERT INTO batches VALUES (?, ?, ?, NULL, ?)", (name, url, file, batch.time))
            self._db.executemany("INSERT INTO batched VALUES (?, ?, ?, ?, ?, ?)", rows)
        return batch

    def note_batch(self, name: str, server_id: str) -> None:
        """Note what the server calls a batch: it is sent for sure."""
        with self._on_disk(), self._db:
            self._db.execute("UPDATE batches SET id = ? WHERE name = ?", (server_id, name))

    def batch_of(self, key: bytes, urls: Collection[str]) -> str | None:
        """The name of the open batch at one of these servers that a request is in, None where it is in none."""
        if not self._has_batches():
            return None
        query = "SELECT name, url FROM batches JOIN batched ON batch = name WHERE key = ? ORDER BY time, name"
        return next((name for name, url in self._db.execute(query, (key,)) if url in urls), None)

    def batch(self, name: str) -> OpenBatch | None:
        """An open batch, None where it is not open any more."""
        row = self._db.execute("SELECT * FROM batches WHERE name = ?", (name,)).fetchone()
        if row is None:
            return None
        keys = self._db.execute("SELECT key FROM batched WHERE batch = ? ORDER BY key", (name,))
        _, url, file, server_id, moment = row
        return OpenBatch(name, url, file, server_id, moment, tuple(key for (key,) in keys))

    def batched(self, name: str) -> dict[bytes, Entry]:
        """The requests of an open batch by their keys, as entries without answers."""
        query = "SELECT key, asker, model, request, attempt FROM batched WHERE batch = ? ORDER BY key"
        return {
            key: Entry(asker, model, json.loads(request), "", attempt=attempt)
            for key, asker, model, request, attempt in self._db.execute(query, (name,))
        }

    def end_batch(self, name: str, entries: Iterable[tuple[bytes, Entry]] = ()) -> None:
        """Write the answers of a batch and forget it, in one transaction."""
        rows = _rows(entries)
        with self._db:
            self._db.executemany(_INSERT, rows)
            self._db.execute("DELETE FROM batched WHERE batch = ?", (name,))
            self._db.execute("DELETE FROM batches WHERE name = ?", (name,))

    def _has_batches(self) -> bool:
        query = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'batched'"
        return self._db.execute(query).fetchone() is not None

    @contextmanager
    def _on_disk(self) -> Iterator[None]:
        """Have what is written in the block survive the machine's death, and not this process's alone."""
        self._db.execute("PRAGMA synchronous = FULL")
        try:
            yield
        finally:
            self._db.execute("PRAGMA synchronous = NORMAL")

    def stats(self) -> list[Stats]:
        """Answers, tokens and seconds spent waiting, by asker and model."""
        rows = self._db.execute(
            "SELECT asker, model, COUNT(*), SUM(COALESCE(prompt_tokens, 0)), SUM(COALESCE(completion_tokens, 0)),"
            " SUM(COALESCE(latency, 0)) FROM answers GROUP BY asker, model ORDER BY asker, model"
        )
        return [Stats(*row) for row in rows]

    def entries(self) -> Iterator[tuple[bytes, Entry]]:
        """Every key and answer, by key."""
        for row in self._db.execute("SELECT * FROM answers ORDER BY key"):
            yield row[0], _entry(row)

    def verify(self) -> list[str]:
        """What is wrong with the file: damage that SQLite finds, and entries whose key is not that of their request."""
        found = [line for (line,) in self._db.execute("PRAGMA integrity_check") if line != "ok"]
        return found + [
            f"{key.hex()[:16]} is not the key of its request"
            for key, entry in self.entries()
            if request_key(entry.request) != key
        ]

    def remove_before(self, moment: float) -> int:
        """Remove answers older than `moment` (seconds since 1970) and shrink the file. Returns how many.

        Batches that were sent before it are forgotten with them.
        """
        with self._db:
            count = self._db.execute("DELETE FROM answers WHERE time < ?", (moment,)).rowcount
            if self._has_batches():
                self._db.execute(
                    "DELETE FROM batched WHERE batch IN (SELECT name FROM batches WHERE time < ?)", (moment,)
                )
                self._db.execute("DELETE FROM batches WHERE time < ?", (moment,))
        self._db.execute("VACUUM")
        return count


def _open(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=LOCK_SECONDS)
    try:
        owner, scheme = (db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version"))
        used = db.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]
        if used and owner != _APPLICATION_ID:
            raise LedgerError(f"{path} is an SQLite file but no ledger of recap-data. Give --ledger another path.")
        if scheme > SCHEME:
            raise LedgerError(
                f"{path} was written by a newer recap-data (scheme {scheme}, this one knows {SCHEME}). "
                "Upgrade recap-data, or give --ledger another path."
            )
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {SCHEME}")
        db.execute(_TABLE)
        db.execute("SELECT key FROM answers LIMIT 1").fetchone()
    except BaseException:
        db.close()
        raise
    return db


_INSERT = f"INSERT OR IGNORE INTO answers VALUES ({', '.join('?' * 11)})"


def _rows(entries: Iterable[tuple[bytes, Entry]]) -> list[tuple[Any, ...]]:
    return [
        (
            key,
            entry.asker,
            entry.model,
            json.dumps(entry.request, sort_keys=True, ensure_ascii=False),
            entry.answer,
            entry.finish,
            entry.prompt_tokens,
            entry.completion_tokens,
            entry.latency,
            entry.time or time.time(),
            entry.attempt,
        )
        for key, entry in entries
    ]


def _put_aside(path: Path, error: sqlite3.DatabaseError) -> str:
    if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return f"{path} can't be opened: {error}. Give --ledger a path you may write to."
    aside = path.with_name(f"{path.name}.broken-{int(time.time())}")
    for suffix in ("", "-wal", "-shm"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(aside.with_name(aside.name + suffix))
    return (
        f"{path} is broken ({error}) and was kept aside as {aside.name}. Run the same command again to start a new "
        f"ledger; sqlite3 {aside.name} .recover may save the old one's answers."
    )


def _entry(row: tuple[Any, ...]) -> Entry:
    _, asker, model, request, *rest = row
    return Entry(asker, model, json.loads(request), *rest)
