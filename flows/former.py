"""The build that a flow is about to replace, kept beside the output until what changed has been told."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp

from pipeline.publish.folder import MANIFEST, intact, read_manifest
from pipeline.publish.opening import CARD, Snapshot, open_version


@contextmanager
def former_build(out: Path) -> Iterator[Snapshot | None]:
    """The build that is in `out` now, kept for as long as the block lasts; None where there is none.

    Its card may have been edited, its rows not. What a run that was killed left of this is cleared away.
    """
    manifest = read_manifest(out)
    rows = {name: known for name, known in (manifest or {"files": {}})["files"].items() if name != CARD}
    try:
        with _locked(out.parent):
            _clear(out)
            kept, lock = _made(out) if manifest is not None and intact(out, {"files": rows}) else (None, -1)
    except OSError:  # which the build, that can't write there either, explains
        yield None
        return
    if manifest is None or kept is None:
        yield None
        return
    try:
        for name in (*manifest["files"], MANIFEST):
            place = kept / name
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(out / name, place)
            except OSError:
                shutil.copy2(out / name, place)
        yield open_version(str(kept))._replace(name=f"content {manifest['content_hash'][:12]}")
    finally:
        shutil.rmtree(kept, ignore_errors=True)
        os.close(lock)


def _made(out: Path) -> tuple[Path, int]:
    """A folder to keep a build in, and the lock on it that says that a run lives: the system lets go of it."""
    kept = Path(mkdtemp(prefix=f".{out.name}.former-", dir=out.parent))
    lock = os.open(kept, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return kept, lock


def _clear(out: Path) -> None:
    """Remove the folders that nobody holds. To be called with the lock on the folder that they are in."""
    pattern = re.compile(rf"\.{re.escape(out.name)}\.former-[a-z0-9_]{{8}}")
    for path in out.parent.iterdir():
        if pattern.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            with suppress(BlockingIOError), _locked(path, fcntl.LOCK_NB):
                shutil.rmtree(path)


@contextmanager
def _locked(folder: Path, how: int = 0) -> Iterator[None]:
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | how)
        yield
    finally:
        os.close(lock)
