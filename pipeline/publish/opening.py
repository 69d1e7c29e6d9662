"""Opening a version of a mixture by what a user calls it: a folder, one of a folder of versions, or one on the Hub.

``out/demo``, ``published`` (its newest version), ``published/v1.2.0``; ``hub:owner/name`` (its newest version) and
``hub:owner/name@v1.2.0``, where a tag, a branch or a commit may stand behind the @.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from pipeline.errors import InputError
from pipeline.publish import card as cards
from pipeline.publish import fetching, references, versions
from pipeline.publish.folder import inside
from pipeline.publish.manifest import MANIFEST, Manifest, ManifestError, read
from pipeline.publish.versions import Version

CARD = cards.CARD
REJECTED = "rejected"
HUB = references.HUB


class Snapshot(NamedTuple):
    """One version of a mixture, to be read: what it is called, where it lies, its manifest and its card.

    ``configs`` has the Parquet files of every config by its name, ``mixture`` and ``rejected`` among them.
    """

    name: str
    folder: Path
    manifest: dict[str, Any]
    card: str
    configs: dict[str, list[Path]]

    @property
    def missing(self) -> list[str]:
        """The files that the manifest names and that are not there."""
        return [name for name in self.manifest["files"] if not (self.folder / name).is_file()]


def open_version(reference: str, version: str | None = None, configs: Collection[str] | None = None) -> Snapshot:
    """Find a version by what a user calls it, and have its files here: of the Hub's, only those of `configs`.

    Args:
        reference: a folder, or ``hub:owner/name``; with a version behind @, or without.
        version: one of the versions at `reference`, where it names none.
        configs: those that are going to be read; all unless given.

    Raises:
        InputError: it is no such version, there is no access, or files of it are missing.
        RecapError: the Hub can't be reached, or doesn't answer.
    """
    found = find(reference, version, configs)
    missing = [name for name in found.missing if configs is None or _config(name) in configs]
    if missing:
        raise InputError(
            f"{found.name} lacks {', '.join(missing[:3])}: it is unfinished or was changed. Build it again."
        )
    return found


def find(
    reference: str,
    version: str | None = None,
    configs: Collection[str] | None = None,
    model: type[Manifest] = Manifest,
) -> Snapshot:
    """Like `open_version`, but files may be missing, and the manifest has what `model` asks for."""
    if reference.startswith(HUB):
        commit = fetching.find(*at_hub(reference, version))
        name, folder = commit.name, commit.download([MANIFEST])
    else:
        commit, folder = None, _folder(Path(reference), version)
        name = str(folder)
    try:
        manifest, _ = read(inside(folder, MANIFEST), model)
    except ManifestError as error:
        place = "no version of a mixture" if commit else "no finished build"
        raise InputError(f"{name} is {place}: {error}.") from None
    named = sorted(manifest["files"])
    if commit is not None:
        wanted = [file for file in named if configs is None or _config(file) in configs]
        commit.download(dict.fromkeys([CARD, *wanted]))
    files: dict[str, list[Path]] = {}
    for file in named:
        if file.endswith(".parquet"):
            files.setdefault(_config(file), []).append(inside(folder, file))
    card = inside(folder, CARD)
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    return Snapshot(name, folder, manifest, text, files)


def versions_at(place: str) -> list[Version]:
    """The versions that were published to ``hub:owner/name`` or to a folder, the oldest first.

    Raises:
        InputError: no such repository, or no access to it.
        RecapError: the Hub can't be reached, or doesn't answer.
    """
    if place.startswith(HUB):
        return fetching.published(at_hub(place, None)[0])
    return _versions_in(Path(place))


def at_hub(reference: str, version: str | None) -> tuple[str, str | None]:
    """The repository and the revision, if any, that ``hub:owner/name`` or ``hub:owner/name@REVISION`` names.

    Raises:
        InputError: it names no repository, or `version` is given as well as a revision.
    """
    repository, at, revision = reference.removeprefix(HUB).partition("@")
    if at and version is not None:
        raise InputError(f"{reference} names a version, and {version} another. Give hub:owner/name and two versions.")
    if not re.fullmatch(r"[^/\s]+/[^/\s]+", repository) or (at and not revision) or version == "":
        raise InputError(f"{reference} names no repository. Give hub:owner/name, or hub:owner/name@v1.2.0.")
    return repository, revision if at else version


def _folder(path: Path, version: str | None) -> Path:
    """The folder of a version: of a folder of versions the newest one, unless `version` names one."""
    if not path.is_dir():
        raise InputError(references.not_there(str(path)))
    there = _versions_in(path)
    if version is None:
        return path if not there or (path / MANIFEST).is_file() else path / str(there[-1])
    number = versions.parse(version)
    named = path / (str(number) if number else version)
    if not version or named.parent != path or not named.is_dir():
        raise InputError(f"{path} has no version {version}. Its versions: {', '.join(map(str, there)) or 'none'}.")
    return named


def _versions_in(path: Path) -> list[Version]:
    if not path.is_dir():
        return []
    found = {entry.name: versions.parse(entry.name) for entry in path.iterdir() if entry.is_dir()}
    return sorted(version for name, version in found.items() if version and name == str(version))


def _config(name: str) -> str:
    """The config that a data file belongs to."""
    return re.sub(r"-\d+-of-\d+$", "", PurePosixPath(name).stem)
