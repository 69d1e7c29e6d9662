"""A dataset in the local cache of the Hub's client, as `hf download` leaves it there: its commit and its files."""

from __future__ import annotations

from pathlib import Path


def cached_commit(name: str, revision: str | None) -> str:
    """Return the commit that `revision` stood for when it was last downloaded.

    Raises:
        RevisionResolutionError: it never was.
    """
    import huggingface_hub

    return str(
        huggingface_hub.resolve_revision(name, repo_type="dataset", revision=revision, local_files_only=True).resolved
    )


def cached_folder(name: str, commit: str) -> Path:
    """Return the folder with all files of a commit.

    Of a part of them nothing is read: fewer files would be fewer rows, and only the listing that comes with a whole
    download tells. What `load_dataset` alone has put there is such a part.

    Raises:
        LocalEntryNotFoundError: nothing of it is there, or files are missing.
        CachedRepoTreeNotFoundError: nothing tells which files there should be.
    """
    import huggingface_hub

    folder = huggingface_hub.snapshot_download(name, repo_type="dataset", revision=commit, local_files_only=True)
    huggingface_hub.get_cached_repo_tree(name, repo_type="dataset", revision=commit)
    return Path(folder)


def complete_commit(name: str, revision: str | None) -> str | None:
    """The commit that could be read from the cache, None where that is none."""
    from huggingface_hub.errors import CachedRepoTreeNotFoundError, LocalEntryNotFoundError, RevisionResolutionError

    try:
        commit = cached_commit(name, revision)
        cached_folder(name, commit)
    except (LocalEntryNotFoundError, CachedRepoTreeNotFoundError, RevisionResolutionError):
        return None
    return commit
