"""Writing a file that others may be reading: under a name of its own, then in one move to its place."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to; with the block it takes the place of `path`, or is gone if the block fails.

    Who has the former file open, or mapped, goes on reading that. A link at `path` is replaced, and never written
    through.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        yield new
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file as a whole."""
    with replacing(path) as new:
        new.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write a file of UTF-8 as a whole, newlines as they are."""
    write_bytes(path, text.encode())
