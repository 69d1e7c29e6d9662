"""Reads a finished build's folder: the manifest whole, the Parquet files in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, Field, ValidationError

from pipeline import schema
from pipeline.errors import InputError

BATCH = 4096
"""Rows read at a time."""


class Rows(BaseModel):
    """How many rows the build's two tables hold."""

    mixture: int = Field(ge=0)
    rejected: int = Field(ge=0)


class File(BaseModel):
    """One file a source was read from."""

    path: str
    sha256: str | None = None
    rows: int | None = None


class Source(BaseModel):
    """One pinned source of prompts, or one evaluation set (then without a domain)."""

    domain: str | None = None
    dataset: str
    config: str | None = None
    split: str | None = None
    revision: str | None = None
    files: list[File] = []
    licence: str | None = None
    read: int | None = None
    selected: int | None = None


class Step(BaseModel):
    """What one step did to one domain, in rows."""

    step: str
    domain: str
    entered: int = Field(alias="in", ge=0)
    kept: int = Field(ge=0)
    dropped: dict[str, int] = {}


class Attempt(BaseModel):
    """What became of one attempt at the prefills of an arm; ``attempt`` counts from 0."""

    domain: str
    sampler: str | None = None
    words: int | None = None
    stance: str = "counter-aligned"
    attempt: int = Field(ge=0)
    tried: int = Field(ge=0)
    accepted: int = Field(ge=0)
    rejected: dict[str, int] = {}


class Variant(BaseModel):
    """A further config on the same rows: how many of them carry a prefill, by domain."""

    content_hash: str
    prefilled: dict[str, int]


class Manifest(BaseModel):
    """The part of ``manifest.json`` the report shows."""

    name: str
    schema_version: int
    recipe: dict[str, Any]
    fingerprint: str
    content_hash: str
    rows: Rows
    sources: list[Source]
    decontaminate: list[Source]
    templates: dict[str, str]
    packages: dict[str, str]
    funnel: list[Step]
    attempts: list[Attempt] = []
    prefilled: dict[str, int] = {}
    variants: dict[str, Variant] = {}
    shortages: list[str]


class Build(NamedTuple):
    """A finished build, opened."""

    path: Path
    manifest: Manifest
    mixture: list[Path]
    rejected: list[Path]

    def batches(self, files: Sequence[Path], columns: pa.Schema, names: list[str]) -> Iterator[pa.RecordBatch]:
        """The named columns of `files` in order, a few thousand rows at a time.

        Raises:
            InputError: a file can't be read or lacks a column of the schema `columns`.
        """
        for path in files:
            try:
                with _open(path) as file:
                    _check_columns(path, file.schema_arrow, columns)
                    yield from file.iter_batches(BATCH, columns=names)
            except (pa.ArrowException, OSError) as error:
                raise InputError(f"{path} can't be read as Parquet: {error}. Build again into a new folder") from error


def open_build(path: Path) -> Build:
    """Open the folder of a finished build.

    Raises:
        InputError: it is no such folder, its manifest is broken or of another schema version, or files are missing.
    """
    manifest = _read_manifest(path)
    build = Build(
        path, manifest, sorted(path.glob("data/mixture-*.parquet")), sorted(path.glob("rejected/rejected-*.parquet"))
    )
    _check_rows(path / "data", build.mixture, manifest.rows.mixture)
    _check_rows(path / "rejected", build.rejected, manifest.rows.rejected)
    return build


def _read_manifest(path: Path) -> Manifest:
    if not path.is_dir():
        raise InputError(f"{path} is not a folder. Give the folder that recap-data build wrote")
    file = path / "manifest.json"
    try:
        manifest = Manifest.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        raise InputError(
            f"{path} is not a finished build: it has no manifest.json. Run recap-data build first"
        ) from None
    except OSError as error:
        raise InputError(f"{file} can't be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise InputError(
            f"{file} is not the manifest of a build: {place}: {first['msg']}. Run recap-data build into a new folder"
        ) from None
    if manifest.schema_version != schema.VERSION:
        raise InputError(
            f"{file} has schema version {manifest.schema_version}, this recap-data reads version {schema.VERSION}. "
            "Use the version that built it, or build again"
        )
    return manifest


def _check_rows(place: Path, files: Sequence[Path], expected: int) -> None:
    try:
        found = sum(pq.read_metadata(file).num_rows for file in files)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{place} holds a broken Parquet file: {error}. Build again into a new folder") from error
    if found != expected:
        raise InputError(
            f"{place} holds {found:,} rows in {len(files)} files, but manifest.json counts {expected:,}: "
            "the build is unfinished or was changed. Run recap-data build again"
        )


def _open(path: Path) -> pq.ParquetFile:
    """The file, without pyarrow's read-ahead, which would keep all it has read until the file is closed."""
    return pq.ParquetFile(path, pre_buffer=False)


def _check_columns(path: Path, found: pa.Schema, expected: pa.Schema) -> None:
    wrong = [
        field.name
        for field in expected
        if field.name not in found.names or not found.field(field.name).type.equals(field.type)
    ]
    if wrong:
        raise InputError(
            f"{path} is not of the published schema: columns missing or of another type: {', '.join(wrong)}. "
            "Run recap-data build again"
        )
