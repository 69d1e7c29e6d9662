"""The Parquet files of a build: sorted rows in, files of equal bytes for equal rows out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.writing import replacing

ROWS_PER_FILE = 250_000
ROWS_PER_GROUP = 8_192

CHUNKING = {"min_chunk_size": 256 * 1024, "max_chunk_size": 1024 * 1024, "norm_level": 0}
"""Content-defined chunking as `datasets` writes it, so that two versions share most of their bytes on the Hub."""


class ShardedWriter:
    """Writes tables to ``<folder>/<stem>-00000-of-0000N.parquet``, at most `ROWS_PER_FILE` rows a file.

    Each is in its place when it is whole. Zstandard, content-defined chunking, page index. A row group starts every
    `ROWS_PER_GROUP` rows wherever the tables begin and end. ``rows`` of no tables is one file without rows.

    Args:
        folder: created if it isn't there.
        stem: what the files are called.
        schema: every table's schema.
        rows: how many rows will come in all; it settles how many files there are.
    """

    def __init__(self, folder: Path, stem: str, schema: pa.Schema, rows: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._stem, self._schema = folder, stem, schema
        self._files = max(-(-rows // ROWS_PER_FILE), 1)
        self._held: list[pa.Table] = []
        self._waiting = self._file = self._written = 0
        self._open()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._flush(self._waiting)
        except BaseException as failure:
            self._opened.__exit__(type(failure), failure, failure.__traceback__)
            raise
        self._opened.__exit__(kind, error, traceback)

    def write(self, table: pa.Table) -> None:
        """Add rows; they reach the disk a row group at a time."""
        self._held.append(table)
        self._waiting += len(table)
        while self._waiting >= ROWS_PER_GROUP:
            self._flush(ROWS_PER_GROUP)

    def _open(self) -> None:
        name = f"{self._stem}-{self._file:05}-of-{self._files:05}.parquet"
        self._opened = ExitStack()
        self._writer = self._opened.enter_context(
            pq.ParquetWriter(
                self._opened.enter_context(replacing(self._folder / name)),
                self._schema,
                compression="zstd",
                write_page_index=True,
                use_content_defined_chunking=CHUNKING,
            )
        )

    def _flush(self, count: int) -> None:
        while count:
            taken = min(count, ROWS_PER_FILE - self._written)
            table = pa.concat_tables(self._held)
            self._writer.write_table(table.slice(0, taken).combine_chunks(), row_group_size=taken)
            self._held, self._waiting, self._written = (
                [table.slice(taken)],
                self._waiting - taken,
                self._written + taken,
            )
            count -= taken
            if self._written == ROWS_PER_FILE and self._file + 1 < self._files:
                self._opened.close()
                self._file, self._written = self._file + 1, 0
                self._open()


class ContentHash:
    """sha256 of rows as canonical JSON lines: the same for the same rows, whatever wrote or read the file."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def update(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add rows, in order of id."""
        for row in rows:
            line = json.dumps(row, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
            self._hash.update(line.encode() + b"\n")

    def hexdigest(self) -> str:
        """The hash of the rows so far, 64 hexadecimal digits."""
        return self._hash.hexdigest()


def content_hash(rows: Iterable[Mapping[str, Any]]) -> str:
    """The ``content_hash`` of a mixture whose rows (as plain dicts, sorted by id) are `rows`."""
    hashed = ContentHash()
    hashed.update(rows)
    return hashed.hexdigest()
