"""Writing source files and reading them back."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import SourceError
from pipeline.recipe import Source
from pipeline.sources import Pulled, complete, locate, pull

CANARY = "canary-text"
"""Stands for harmful text in broken files: no error may quote it."""


def merged(source: Source, folder: Path, domain: str = "harmful", max_chars: int = 20_000, batch: int = 4096) -> Pulled:
    source = complete(source)
    batches = [p for place in locate(source, folder) for p in pull(source, place, domain, max_chars, batch=batch)]
    rows = [row for p in batches for row in p.rows]
    rejected = [row for p in batches for row in p.rejected]
    return Pulled(rows, rejected, sum(p.read for p in batches), sum(p.selected for p in batches))


@pytest.fixture
def merge() -> Callable[..., Pulled]:
    """Pull all rows of a source, as one batch."""
    return merged


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str | bytes], Path]:
    """Write a file into the test's folder; a name in .gz is gzipped."""

    def write(name: str, content: str | bytes) -> Path:
        data = content.encode() if isinstance(content, str) else content
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return path

    return write


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., Pulled]:
    """Pull the rows of files in the test's folder."""

    def read(files: str | list[str], domain: str = "harmful", max_chars: int = 20_000, **fields: Any) -> Pulled:
        source = Source.model_validate({"files": files, "prompt": "prompt", **fields})
        return merged(source, tmp_path, domain, max_chars)

    return read


@pytest.fixture
def error(read: Callable[..., Pulled]) -> Callable[..., str]:
    """The one-line message with which reading files ends."""

    def error(files: str | list[str], domain: str = "harmful", **fields: Any) -> str:
        with pytest.raises(SourceError) as caught:
            read(files, domain, **fields)
        message = str(caught.value)
        assert "\n" not in message
        assert CANARY not in message
        return message

    return error
