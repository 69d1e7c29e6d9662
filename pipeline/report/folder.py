"""Reads a finished build's folder: the manifest whole, the Parquet files in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import schema
from pipeline.errors import InputError
from pipeline.publish.folder import inside
from pipeline.publish.manifest import MANIFEST, ManifestError, Step, Whole, read
from pipeline.publish.references import HUB, repository

__all__ = ["Build", "Step", "open_build"]

BATCH = 4096
"""Rows read at a time."""


class Build(NamedTuple):
    """A finished build, opened."""

    path: Path
    manifest: Whole
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
    build = Build(path, manifest, _files(path, "data/mixture-*.parquet"), _files(path, "rejected/rejected-*.parquet"))
    _check_rows(path / "data", build.mixture, manifest.rows.mixture)
    _check_rows(path / "rejected", build.rejected, manifest.rows.rejected)
    return build


def _files(path: Path, pattern: str) -> list[Path]:
    return [inside(path, file.relative_to(path).as_posix()) for file in sorted(path.glob(pattern))]


def _read_manifest(path: Path) -> Whole:
    if not path.is_dir():
        hub = str(path).startswith(HUB) or (repository(str(path)) and not path.exists())
        hint = ". A report is of a folder, and not of a repository of the Hub" if hub else ""
        raise InputError(f"{path} is not a folder{hint}. Give the folder that recap-data build wrote")
    file = path / MANIFEST
    try:
        _, manifest = read(inside(path, MANIFEST), Whole)
    except ManifestError as error:
        if not file.exists():
            raise InputError(f"{path} is not a finished build: {error}. Run recap-data build first") from None
        raise InputError(
            f"{path} holds not the manifest of a build: {error}. Run recap-data build into a new folder"
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
