"""A source's files: globs expanded, names checked, bytes hashed."""

from __future__ import annotations

import difflib
import glob
import hashlib
import os
from pathlib import Path

from pipeline.errors import SourceError
from pipeline.sources.fields import storable
from pipeline.sources.readers import File, check_name, reading


def find(patterns: tuple[str, ...], folder: Path) -> list[File]:
    """Return the files that paths and globs name, relative to `folder`: sorted by name, each once.

    Raises:
        SourceError: a path that is no readable file, a glob that matches none, a name whose format is unknown.
    """
    found: dict[str, File] = {}
    for pattern in patterns:
        for file in _matches(pattern, folder):
            check_name(file)
            place = os.path.realpath(file.path)
            if place not in found or file.shown < found[place].shown:
                found[place] = file
    return sorted(found.values(), key=lambda file: file.shown)


def revision(file: File) -> str:
    """Return ``sha256:<hex>`` of the file's bytes. Raises SourceError where it is empty or can't be read."""
    with reading(file), open(file.path, "rb") as stream:
        if not stream.peek(1):
            raise SourceError(f"{file.shown} is empty. Fill it, or take it out of the recipe.")
        return "sha256:" + hashlib.file_digest(stream, "sha256").hexdigest()


def _matches(pattern: str, folder: Path) -> list[File]:
    file = _file(os.path.expanduser(pattern), folder)
    with reading(file):
        if file.path.is_file():
            return [file]
        if file.path.is_dir():
            raise SourceError(f"{file.shown} is a folder. Name its files, as in {file.shown}/*.jsonl.")
        if file.path.exists():
            raise SourceError(f"{file.shown} is no regular file. Copy its content to one.")
        if not glob.has_magic(pattern):
            raise SourceError(
                f"There is no file {file.shown}{_nearest(file.path)} (looked for {file.path.absolute()})."
            )
        names = glob.glob(os.path.expanduser(pattern), root_dir=folder, recursive=True)
        files = [_file(name, folder) for name in names if (folder / name).is_file()]
    if not files:
        why = "only folders" if names else "no file"
        raise SourceError(
            f"{pattern!r} matches {why} in {folder.absolute()}. Correct it; paths are relative to the recipe."
        )
    return files


def _file(name: str, folder: Path) -> File:
    return File(folder / name, storable(Path(os.path.normpath(name)).as_posix()))


def _nearest(path: Path) -> str:
    siblings = os.listdir(path.parent) if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, siblings, n=1)
    return f": did you mean {close[0]}?" if close else ""
