"""Versions on the Hub: found by tag, branch or commit, and downloaded into the client's own cache, a file at a time.

Nothing of a repository is ever run. What a commit holds never changes, so what is in the cache is not asked for again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pipeline.errors import InputError, RecapError, is_hub_error
from pipeline.publish import versions
from pipeline.publish.hub import passing
from pipeline.publish.versions import Version
from pipeline.sources.hub import explain

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_KIND = "dataset"


class Commit(NamedTuple):
    """A commit of a repository, and the tag, branch or commit by which it was asked for."""

    repository: str
    revision: str
    oid: str

    @property
    def name(self) -> str:
        """What it is called in a message: with its id, unless a version's tag says it."""
        if versions.parse(self.revision):
            return f"hub:{self.repository}@{self.revision}"
        return f"hub:{self.repository}@{self.revision[:12]}" + (
            f" ({self.oid[:12]})" if self.revision != self.oid else ""
        )

    def download(self, names: Iterable[str]) -> Path:
        """Have those of the files that the commit holds in the cache; returns the folder in which they lie.

        Raises:
            InputError: there is no access.
            RecapError: the Hub can't be reached, or doesn't answer. What was downloaded is kept.
        """
        from huggingface_hub import constants
        from huggingface_hub.errors import RemoteEntryNotFoundError
        from huggingface_hub.file_download import repo_folder_name

        with _explained(self.repository, self.revision):
            for name in names:
                try:
                    _api().hf_hub_download(self.repository, name, repo_type=_KIND, revision=self.oid)
                except RemoteEntryNotFoundError:
                    continue
        cache = Path(constants.HF_HUB_CACHE).expanduser()
        return cache / repo_folder_name(repo_id=self.repository, repo_type=_KIND) / "snapshots" / self.oid


def find(repository: str, revision: str | None) -> Commit:
    """Resolve a tag, a branch or a commit of ``owner/name``, once; the newest version's tag where none is given.

    Raises:
        InputError: no such repository or revision, no version, no access.
        RecapError: the Hub can't be reached, or doesn't answer.
    """
    if revision is None:
        tagged = published(repository)
        if not tagged:
            raise InputError(
                f"{repository} has no version yet: no tag like v1.0.0. Name a branch or a commit, "
                f"as in hub:{repository}@main."
            )
        revision = str(tagged[-1])
    version = versions.parse(revision)
    revision = str(version) if version else revision
    with _explained(repository, revision):
        oid = _api().resolve_revision(repository, repo_type=_KIND, revision=revision).resolved
    return Commit(repository, revision, oid)


def published(repository: str) -> list[Version]:
    """The versions that have a tag, the oldest first. Raises like `find`."""
    with _explained(repository, None):
        tags = _api().list_repo_refs(repository, repo_type=_KIND).tags
    found = {tag.name: versions.parse(tag.name) for tag in tags}
    return sorted(version for name, version in found.items() if version and name == str(version))


def _api() -> HfApi:
    from huggingface_hub import HfApi
    from huggingface_hub.utils import logging

    logging.set_verbosity(40)  # its warnings quote signed addresses
    return HfApi(library_name="recap-data")


@contextmanager
def _explained(repository: str, revision: str | None) -> Iterator[None]:
    """Turn what the Hub's client raises into one line: InputError where asking again won't help."""
    from huggingface_hub.errors import RevisionNotFoundError

    try:
        yield
    except RecapError:
        raise
    except Exception as error:
        failure = _cause(error)
        if not is_hub_error(failure) or _of_this_machine(failure):
            raise
        if revision is not None and isinstance(failure, RevisionNotFoundError):
            there = ", ".join(map(str, published(repository))) or "none yet"
            raise InputError(
                f"{repository} has no version, branch or commit {revision!r}. Its versions: {there}."
            ) from None
        message = explain(failure, repository, revision, "or give the folder of a build")
        if passing(failure):
            raise RecapError(f"{message} What was downloaded is kept: run the same command again.") from None
        raise InputError(message) from None


def _cause(error: Exception) -> Exception:
    """What went wrong, where the client says only that it has no copy in its cache either."""
    from huggingface_hub.errors import LocalEntryNotFoundError, RevisionResolutionError

    while isinstance(error, LocalEntryNotFoundError | RevisionResolutionError) and isinstance(
        error.__cause__, Exception
    ):
        error = error.__cause__
    return error


def _of_this_machine(error: Exception) -> bool:
    """Whether the system raised it on account of a file or the disk."""
    network = isinstance(error, ConnectionError | TimeoutError)
    return isinstance(error, OSError) and error.errno is not None and not network
