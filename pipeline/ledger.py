"""The ledger: one SQLite file in which a request is a key and its answer is written once.

Resume, cache, audit trail and cost report are this one file. A key is a hash of everything that can change the answer
and of nothing that can't (`request_key`). The file is in WAL mode and written in the same turn of the event loop in
which an answer came, so a killed process loses the requests in flight and no answer it had. What can't be written (a
full disk) is kept in a file of its own and read in when the ledger is opened the next time.

Of two processes that ask the same, one is first: it has *claimed* the request, and the other one waits for its answer.
A claim is a lock on a byte of a file beside the ledger, which the system takes away from whoever dies.

Requests that were sent as a batch, and whose answers are not fetched yet, stand in two tables of their own. These are
made when the first batch is sent; to whoever doesn't know them, the file is a ledger like any other.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import sqlite3
import stat
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from pipeline.claims import Claims
from pipeline.errors import RecapError

SCHEME = 1
"""Version of the keys; it is part of every key."""

LAYOUT = 2
"""Version of the tables. A file of an older one is brought up to date, one of a newer one is refused."""

REFUSED = "refused"
"""The finish of an entry whose request the server wouldn't answer, or gave no answer to that can be used; the answer is
the server's reason. Such a fault may pass: a later run asks once more, and a good answer takes the entry's place."""

FILTERED = "filtered"
"""The finish of an entry that the server answered with nothing: a content filter, an empty text. It was paid and stays;
the answer is the reason."""

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
    attempt INTEGER NOT NULL,
    digest BLOB
)
"""
_RUNS = """
CREATE TABLE IF NOT EXISTS runs (
    run TEXT PRIMARY KEY,
    requests INTEGER NOT NULL,
    cost REAL NOT NULL,
    time REAL NOT NULL
)
"""
_COLUMNS = (
    *("key", "asker", "model", "request", "answer", "finish", "prompt_tokens", "completion_tokens"),
    *("latency", "time", "attempt", "digest"),
)
_SELECT = f"SELECT {', '.join(_COLUMNS)} FROM answers"
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
    """The ledger can't be used: it is newer, broken, not a ledger, or can't be written."""


class NoLedgerError(LedgerError):
    """The file that is to be a ledger is none."""

    exit_code = 2


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
    """Sums over one asker and model; ``refused`` are requests that it refused, or answered with nothing."""

    asker: str
    model: str | None
    answers: int
    refused: int
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

    One that can't be written is opened for reading. Answers that an earlier run could not write are read in.

    Args:
        path: the file; it is made where there is none.
        read_only: change nothing, and make nothing: the file must be there.

    Raises:
        LedgerError: the file is no ledger, of a newer layout, broken, or not there. It is left as it is.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path, self.read_only = path, read_only
        self._claims: Claims | None = None
        try:
            self._db = _open_to_read(path) if read_only else _open(path)
        except sqlite3.DatabaseError as error:
            if read_only or not _read_only(error):
                raise _unusable(path, error) from None
            self.read_only = True
            with _told(path):
                self._db = _open_to_read(path)
        except UnicodeDecodeError:
            raise _broken(path, _NO_TEXT) from None
        except OSError as error:
            raise LedgerError(
                f"{path} can't be made: {error.strerror}. Give --ledger a path you may write to."
            ) from None
        if not self.read_only:
            self._read_unwritten()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; what was claimed is free again."""
        if self._claims is not None:
            self._claims.leave()
            self._claims = None
        self._db.close()

    def get(self, key: bytes) -> Entry | None:
        """The answer under a key, None where there is none."""
        with _told(self.path):
            row = self._db.execute(f"{_SELECT} WHERE key = ?", (key,)).fetchone()
        return _entry(row) if row else None

    def has(self, keys: Iterable[bytes]) -> int:
        """How many of the keys have an answer."""
        query = "SELECT 1 FROM answers WHERE key = ?"
        with _told(self.path):
            return sum(self._db.execute(query, (key,)).fetchone() is not None for key in keys)

    def put(
        self, entries: Iterable[tuple[bytes, Entry]], spent: tuple[str, int, float] | None = None
    ) -> dict[bytes, Entry]:
        """Write answers in one transaction. A key that has an answer keeps it: an answer is written once.

        Only a refusal makes way for what came of asking again. `spent` is what a run has sent and paid by now
        (`spent_by`), written with them.

        Returns the answers that the ledger had already, which are those that count.

        Raises:
            LedgerError: they can't be written, and nothing was.
        """
        rows = _rows(entries)
        kept: dict[bytes, Entry] = {}
        with _told(self.path), self._db:
            for row in rows:
                if not self._db.execute(_INSERT, row).rowcount:
                    kept[row[0]] = _entry(self._db.execute(f"{_SELECT} WHERE key = ?", (row[0],)).fetchone())
            if spent is not None:
                self._db.execute("INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?)", (*spent, time.time()))
        return kept

    def spent_by(self, run: str) -> tuple[int, float]:
        """The requests that a run has sent, and what they cost, as far as it was written down."""
        with _told(self.path):
            row = self._db.execute("SELECT requests, cost FROM runs WHERE run = ?", (run,)).fetchone()
        return (int(row[0]), float(row[1])) if row else (0, 0.0)

    def claim(self, key: bytes) -> bool:
        """Whether a request is this ledger's to send: False while another process, or another part of this one, has it
        in flight. It is its own until `release`, or until it dies.
        """
        if self._claims is None:
            with _told(self.path):
                self._claims = Claims.of(self.path)
        return self._claims.take(key)

    def release(self, key: bytes) -> None:
        """Give a claimed request back."""
        if self._claims is not None:
            self._claims.give(key)

    def set_aside(self, entries: Iterable[tuple[bytes, Entry]]) -> Path:
        """Keep answers that can't be written in a file beside the ledger, or where that can't be written either, in
        the system's folder for temporary files. The next `Ledger` of this path reads them in.
        """
        lines = "".join(
            json.dumps([key.hex(), *entry], ensure_ascii=True, allow_nan=False) + "\n" for key, entry in entries
        )
        name = f"{time.time_ns():x}-{os.getpid()}.jsonl"
        failure: OSError | None = None
        for folder, prefix in _aside(self.path):
            file = folder / f"{prefix}{name}"
            try:
                with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as out:
                    out.write(lines)
                    out.flush()
                    os.fsync(out.fileno())
            except OSError as error:
                failure = error
                file.unlink(missing_ok=True)
            else:
                return file
        raise LedgerError(f"Answers can't be kept anywhere: {failure}. Make room for the files of {self.path.parent}.")

    def _read_unwritten(self) -> None:
        for folder, prefix in _aside(self.path):
            for file in sorted(folder.glob(f"{glob.escape(prefix)}*.jsonl")):
                about = file.lstat()
                if not stat.S_ISREG(about.st_mode) or about.st_uid != os.getuid():
                    continue
                try:
                    listed = [json.loads(line) for line in file.read_text(encoding="ascii").splitlines()]
                    self.put((bytes.fromhex(key), Entry(*entry)) for key, *entry in listed)
                except (ValueError, TypeError) as error:
                    raise LedgerError(
                        f"{file} should hold answers that a run could not write, and can't be read: {error}. Mend it, "
                        "or move it away."
                    ) from None
                file.unlink()

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
        with _told(self.path), self._on_disk(), self._db:
            for statement in _BATCHES:
                self._db.execute(statement)
            self._db.execute("INSERT INTO batches VALUES (?, ?, ?, NULL, ?)", (name, url, file, batch.time))
            self._db.executemany("INSERT INTO batched VALUES (?, ?, ?, ?, ?, ?)", rows)
        return batch

    def note_batch(self, name: str, server_id: str) -> None:
        """Note what the server calls a batch: it is sent for sure."""
        with _told(self.path), self._on_disk(), self._db:
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
        with _told(self.path), self._db:
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
        query = (
            "SELECT asker, model, COUNT(*), SUM(finish IN (?, ?)), SUM(COALESCE(prompt_tokens, 0)),"
            " SUM(COALESCE(completion_tokens, 0)), SUM(COALESCE(latency, 0))"
            " FROM answers GROUP BY asker, model ORDER BY asker, model"
        )
        with _told(self.path):
            rows = self._db.execute(query, (REFUSED, FILTERED)).fetchall()
        return [Stats(asker, model, count, refused or 0, *sums) for asker, model, count, refused, *sums in rows]

    def entries(self) -> Iterator[tuple[bytes, Entry]]:
        """Every key and answer, by key."""
        for row, _ in self._listed():
            yield row[0], _entry(row)

    def _listed(self) -> Iterator[tuple[tuple[Any, ...], bytes | None]]:
        with _told(self.path):
            for *row, digest in self._db.execute(f"{_SELECT} ORDER BY key"):
                yield (*row, digest), digest

    def verify(self) -> list[str]:
        """What is wrong with the file: damage that SQLite finds, entries whose key is not that of their request, and
        answers that are not those that were written. Entries of layout 1 have no digest, so theirs aren't looked at.
        """
        with _told(self.path):
            found = [line for (line,) in self._db.execute("PRAGMA integrity_check") if line != "ok"]
        for row, digest in self._listed():
            name = row[0].hex()[:16] if isinstance(row[0], bytes) else repr(row[0])[:40]
            try:
                entry = _entry(row)
                if request_key(entry.request) != row[0]:
                    found.append(f"{name} is not the key of its request")
            except LedgerError:
                found.append(f"{name} can't be read")
                continue
            if digest is not None and _digest(row) != digest:
                found.append(f"{name} has another answer than was written: it was changed or swapped")
        return found

    def forget_refusals(self) -> int:
        """Remove what servers refused or answered with nothing, so that it is asked again. Returns how many."""
        with _told(self.path), self._db:
            return self._db.execute("DELETE FROM answers WHERE finish IN (?, ?)", (REFUSED, FILTERED)).rowcount

    def remove_before(self, moment: float) -> int:
        """Remove answers older than `moment` (seconds since 1970) and shrink the file. Returns how many.

        Batches that were sent before it are forgotten with them.
        """
        with _told(self.path), self._db:
            count = self._db.execute("DELETE FROM answers WHERE time < ?", (moment,)).rowcount
            self._db.execute("DELETE FROM runs WHERE time < ?", (moment,))
            if self._has_batches():
                self._db.execute(
                    "DELETE FROM batched WHERE batch IN (SELECT name FROM batches WHERE time < ?)", (moment,)
                )
                self._db.execute("DELETE FROM batches WHERE time < ?", (moment,))
        self._db.execute("VACUUM")
        return count


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Say what SQLite can't do in a `LedgerError`."""
    try:
        yield
    except sqlite3.Error as error:
        raise _unusable(path, error) from error
    except UnicodeDecodeError:
        raise _broken(path, _NO_TEXT) from None
    except OSError as error:
        raise LedgerError(
            f"{error.filename or path} can't be used: {error.strerror}. Give --ledger another path."
        ) from error


def _aside(path: Path) -> list[tuple[Path, str]]:
    """Where answers are kept that can't be written into the ledger: folders, and how the files' names begin."""
    name = hashlib.sha256(os.path.realpath(path).encode()).hexdigest()[:16]
    return [
        (path.parent, f"{path.name}.unwritten-"),
        (Path(tempfile.gettempdir()), f"recap-data-unwritten-{name}-"),
    ]


def _open(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    db = sqlite3.connect(path, timeout=LOCK_SECONDS)
    try:
        layout = _layout(db, path)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        if layout < LAYOUT:
            with db:
                db.execute("BEGIN IMMEDIATE")
                db.execute(_TABLE)
                db.execute(_RUNS)
                if "digest" not in {row[1] for row in db.execute("PRAGMA table_info(answers)")}:
                    db.execute("ALTER TABLE answers ADD COLUMN digest BLOB")
                db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                db.execute(f"PRAGMA user_version = {LAYOUT}")
        db.execute("SELECT key FROM answers LIMIT 1").fetchone()
    except BaseException:
        db.close()
        raise
    return db


def _open_to_read(path: Path) -> sqlite3.Connection:
    """Open a file that is to stay as it is, and make none beside it.

    Where no write-ahead log lies beside it, nobody has it open, and it is read as it lies there.
    """
    if not path.is_file():
        raise LedgerError(f"There is no ledger {path}. A build keeps it beside its output, as in out/ledger.sqlite.")
    uri = path.absolute().as_uri()
    used = path.with_name(f"{path.name}-wal").exists()
    db = sqlite3.connect(f"{uri}?mode=ro{'' if used else '&immutable=1'}", timeout=LOCK_SECONDS, uri=True)
    try:
        if not _layout(db, path):
            raise NoLedgerError(_no_ledger(path))
        if "digest" not in {row[1] for row in db.execute("PRAGMA table_info(answers)")}:
            db.execute("CREATE TEMP VIEW answers AS SELECT *, NULL AS digest FROM main.answers")
        db.execute("SELECT key FROM answers LIMIT 1").fetchone()
    except BaseException:
        db.close()
        raise
    return db


def _layout(db: sqlite3.Connection, path: Path) -> int:
    """The version of the tables of a file, 0 for a new one. Raises LedgerError where it is none of ours."""
    owner, layout = (db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version"))
    if not db.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]:
        return 0
    if owner != _APPLICATION_ID:
        raise NoLedgerError(f"{path} is an SQLite file but no ledger of recap-data. Give --ledger another path.")
    if layout > LAYOUT:
        raise LedgerError(
            f"{path} was written by a newer recap-data (layout {layout}, this one knows {LAYOUT}). "
            "Upgrade recap-data, or give --ledger another path."
        )
    return int(layout)


def _read_only(error: sqlite3.DatabaseError) -> bool:
    return error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM)


_INSERT = (
    f"INSERT INTO answers ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))}) "
    f"ON CONFLICT (key) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in _COLUMNS[1:])} "
    f"WHERE answers.finish = '{REFUSED}'"
)


def _rows(entries: Iterable[tuple[bytes, Entry]]) -> list[tuple[Any, ...]]:
    rows = []
    for key, entry in entries:
        request = json.dumps(entry.request, sort_keys=True, ensure_ascii=False)
        row = (
            *(key, entry.asker, entry.model, request, entry.answer, entry.finish),
            *(entry.prompt_tokens, entry.completion_tokens, entry.latency, entry.time or time.time(), entry.attempt),
        )
        rows.append((*row, _digest(row)))
    return rows


def _digest(row: tuple[Any, ...]) -> bytes:
    """16 bytes of all that a row says of its request and answer, times aside."""
    key, asker, model, request, answer, finish, prompt, completion, _, _, attempt, *_ = row
    said = json.dumps([key.hex(), asker, model, request, answer, finish, prompt, completion, attempt])
    return hashlib.blake2b(said.encode(), digest_size=16).digest()


def _no_ledger(path: Path) -> str:
    return f"{path} is no ledger of recap-data; it was left as it is. Give --ledger another path."


_NO_TEXT = "what should be text is none"


def _broken(path: Path, why: str) -> LedgerError:
    return LedgerError(
        f"{path} is broken ({why}); it was left as it is. `sqlite3 {path.name} .recover` may save its answers. "
        "Move it away to start a new one, or give --ledger another path."
    )


def _unusable(path: Path, error: sqlite3.Error) -> LedgerError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_NOTADB:
        return NoLedgerError(_no_ledger(path))
    if code == sqlite3.SQLITE_CORRUPT:
        return _broken(path, str(error))
    ways = {
        sqlite3.SQLITE_FULL: "Make room",
        sqlite3.SQLITE_BUSY: "Another program holds it: end that",
        sqlite3.SQLITE_LOCKED: "Another program holds it: end that",
    }
    way = ways.get(code, "Give --ledger a path you may write to")
    return LedgerError(f"{path} can't be used: {error}. {way}, and run the same command again.")


_TYPES = (bytes, str, str | None, str, str | None, *(int | None,) * 2, *(int | float | None,) * 2, int)
"""Of an entry's columns, its request aside."""


def _entry(row: tuple[Any, ...]) -> Entry:
    key, asker, model, request, answer, finish, *rest, _ = row
    try:
        asked = json.loads(request)
        if not isinstance(asked, dict) or not all(map(isinstance, (key, asker, model, answer, finish, *rest), _TYPES)):
            raise TypeError
    except (ValueError, TypeError, RecursionError):
        raise LedgerError(
            f"The entry {key.hex()[:16] if isinstance(key, bytes) else key!r} of the ledger can't be read: it was "
            "changed. `recap-data ledger verify` lists all such entries."
        ) from None
    return Entry(asker, model, asked, answer, finish, *rest)
