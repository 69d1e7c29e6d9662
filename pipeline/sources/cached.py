"""A dataset in the local cache of the Hub's client, as `hf download` leaves it there: its commit and its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.errors import SourceError


def cached_commit(name: str, revision: str | None) -> str:
    """Return the commit that `revision` stood for when it was last downloaded.

    Raises:
        RevisionResolutionError: it never was.
        SourceError: the installed huggingface_hub is too old.
    """
    found = _client().resolve_revision(name, repo_type="dataset", revision=revision, local_files_only=True)
    return str(found.resolved)


def cached_folder(name: str, commit: str) -> Path:
    """Return the folder with all files of a commit.

    Of a part of them nothing is read: fewer files would be fewer rows, and only the listing that comes with a whole
    download tells. What `load_dataset` alone has put there is such a part.

    Raises:
        LocalEntryNotFoundError: nothing of it is there, or files are missing.
        CachedRepoTreeNotFoundError: nothing tells which files there should be.
    """
    client = _client()
    folder = client.snapshot_download(name, repo_type="dataset", revision=commit, local_files_only=True)
    client.get_cached_repo_tree(name, repo_type="dataset", revision=commit)
    return Path(folder)


def complete_commit(name: str, revision: str | None) -> str | None:
    """The commit that could be read from the cache, None where that is none."""
    try:
        from huggingface_hub.errors import CachedRepoTreeNotFoundError, LocalEntryNotFoundError, RevisionResolutionError
    except ImportError:
        return None
    try:
        commit = cached_commit(name, revision)
        cached_folder(name, commit)
    except (LocalEntryNotFoundError, CachedRepoTreeNotFoundError, RevisionResolutionError):
        return None
    return commit


def _client() -> Any:
    import huggingface_hub

    if not hasattr(huggingface_hub, "get_cached_repo_tree"):
        raise SourceError(
            f"huggingface_hub {huggingface_hub.__version__} can't tell whether a dataset in the local cache is whole. "
            "Update it, or give a local copy with files:."
        )
    return huggingface_hub
