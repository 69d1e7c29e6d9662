"""The output folder: one build at a time, and it appears whole or not at all.

A build works in ``.<name>.work`` beside its output, so on the same file system, and holds a lock on it. The finished
folder takes the place of the last one in a single rename. A build that was killed leaves the last output as it was, and
a work folder that the next build clears.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pipeline.errors import InputError, OutputError
from pipeline.publish import manifest as manifests
from pipeline.writing import write_text

MANIFEST = manifests.MANIFEST
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a build, or None where `folder` holds none that can be read."""
    try:
        return manifests.read(inside(folder, MANIFEST), manifests.Manifest)[0]
    except InputError:
        return None


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write the manifest of a build."""
    write_text(folder / MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")


def inside(folder: Path, name: str) -> Path:
    """The file `name` in `folder`, there or not, which no link leads out of it.

    In the cache of the Hub's client the files of a commit are links to the ``blobs`` of the same repository.

    Raises:
        InputError: a link leads elsewhere, or it is no regular file.
    """
    path, home = folder / name, Path(os.path.realpath(folder))
    place, blobs = Path(os.path.realpath(path)), home.parent.parent / "blobs"
    cached = home.parent.name == "snapshots" and not blobs.is_symlink() and place.parent == blobs
    if not (place.is_relative_to(home) or cached):
        raise InputError(
            f"{path} is a link that leads out of {folder}: it was not followed. Put the file itself there."
        )
    if place.exists() and not place.is_file():
        raise InputError(f"{path} is no regular file. Take it away, or build again into a new folder.")
    return path


def check_output(out: Path) -> None:
    """Raise OutputError unless `out` may become a build: it is not there, empty, or a build of ours."""
    try:
        str(out.absolute()).encode()
    except UnicodeEncodeError:
        raise OutputError(f"{str(out.absolute())!r} is no UTF-8 name. Give --out a folder that has one.") from None
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise OutputError(f"{out} is not a folder. Give --out a folder, or remove it.")
    if out.is_dir() and (os.path.ismount(out) or Path.cwd().is_relative_to(out.resolve())):
        raise OutputError(
            f"{out} can't be replaced as a whole: it is a mount point, the current folder, or above that. "
            f"Give --out a folder of its own, as in --out {out / 'mixture'}."
        )
    if out.is_dir() and any(out.iterdir()) and read_manifest(out) is None:
        raise OutputError(
            f"{out} holds files but no build of recap-data (no {MANIFEST}); it was left as it is. "
            "Give --out another folder, or empty this one."
        )


def intact(folder: Path, manifest: dict[str, Any]) -> bool:
    """Whether every file that the manifest names is there, with the bytes it names."""
    try:
        return all(file_hash(inside(folder, name)) == known for name, known in manifest["files"].items())
    except (OSError, InputError):
        return False


def file_hash(path: Path) -> str:
    """sha256 of a file's bytes, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def work_folder(out: Path) -> Iterator[Path]:
    """An empty folder to build `out` in, locked against other builds and removed afterwards.

    Raises:
        OutputError: another build holds it, or it can't be made; or what stands in its place is no folder, but a link.
    """
    work = _work(out)
    for place in (work, _last(out)):
        _check_own(place)
    missing = [parent for parent in out.parents if not parent.exists()]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        lock = _locked(work)
    except BlockingIOError:
        raise OutputError(
            f"Another build is writing {out}. Wait until it is done, or give --out another folder."
        ) from None
    except OSError as error:
        raise OutputError(
            f"{error.filename or work} can't be made: {error.strerror}. Give --out a folder you may write to."
        ) from None
    try:
        _restore(out)
        _clear(work)
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
        os.close(lock)
        with suppress(OSError):
            for parent in missing:
                parent.rmdir()


def recover(out: Path) -> None:
    """Clear away what a build that was killed left beside `out`. Raises like `work_folder`."""
    if os.path.lexists(_work(out)) or os.path.lexists(_last(out)):
        with work_folder(out):
            pass


def replace(out: Path, finished: Path) -> None:
    """Put `finished` in the place of `out`. What is in `out` and its manifest doesn't name goes along."""
    if out.is_dir():
        _carry_over(out, finished)
    _sync(finished)
    if not out.exists():
        finished.rename(out)
    elif not _exchange(out, finished):
        last = _last(out)
        out.rename(last)
        try:
            finished.rename(out)
        except BaseException:
            last.rename(out)
            raise
        shutil.rmtree(last)
    _sync_folder(out.parent)


def _work(out: Path) -> Path:
    return out.parent / f".{out.name}.work"


def _last(out: Path) -> Path:
    return out.parent / f".{out.name}.last"


def _check_own(place: Path) -> None:
    """Raise OutputError unless a folder that is ours to empty is one, or isn't there: behind a link is not ours."""
    if place.is_symlink() or (place.exists() and not place.is_dir()):
        raise OutputError(f"{place} is in the way: it is no folder, and was left as it is. Remove or rename it.")


def _carry_over(out: Path, finished: Path) -> None:
    known = (read_manifest(out) or {"files": {}})["files"].keys() | {MANIFEST, "report.html"}
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out)
        if name.as_posix() in known or os.path.lexists(finished / name):
            continue
        if path.is_dir() and not path.is_symlink():
            (finished / name).mkdir()
        else:
            shutil.copy2(path, finished / name, follow_symlinks=False)


def _locked(work: Path) -> int:
    while True:
        work.mkdir(exist_ok=True)
        lock = os.open(work, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(lock), work.lstat()):
                return lock
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)


def _clear(work: Path) -> None:
    for path in work.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _restore(out: Path) -> None:
    """Where the exchange is not to be had, a kill between two renames leaves the last output beside its place."""
    last = _last(out)
    if last.exists():
        if out.exists():
            shutil.rmtree(last)
        else:
            last.rename(out)


def _exchange(left: Path, right: Path) -> bool:
    """Swap two folders in one step (Linux ``renameat2``); False where the system has no such call."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    if renameat2(_AT_FDCWD, os.fsencode(left), _AT_FDCWD, os.fsencode(right), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(left))


def _sync(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_symlink():
            continue
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        else:
            _sync_folder(path)
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
