"""Datasets of the Hugging Face Hub: resolved once to a commit, then read at it, from the Hub or the local cache."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from pipeline.errors import SourceError, is_hub_error
from pipeline.recipe import Source
from pipeline.sources.cached import cached_commit, cached_folder, complete_commit
from pipeline.sources.splits import Split, open_split

_TIMEOUT = 10
"""Seconds that the Hub has to answer; its client adds a few."""
_LOCAL = "or give a local copy with files:"
_BROKEN = (RuntimeError, ImportError, EOFError, zlib.error)
"""What is raised, besides the libraries' own errors, over a file that isn't what it should be or can't be unpacked."""
_NOT_CACHED = ("RevisionResolutionError", "CachedRepoTreeNotFoundError", "LocalEntryNotFoundError")
_QUOTE = re.compile(r"\s['\"]")

Stream = Callable[[list[str] | None], Iterator[dict[str, Any]]]


def resolve(source: Source) -> tuple[str, str | None]:
    """Return the commit that the source's revision stands for, and the licence that the dataset's card names.

    Access is checked as well, so that a gated dataset is told of before anything is read. With HF_HUB_OFFLINE or
    HF_DATASETS_OFFLINE set, the local cache is asked instead of the Hub, and must have every file of the commit.

    Raises:
        SourceError: no such dataset or revision, no access, no answer; a dataset that is a script; a slice of a split;
            a config in the card whose name is no text.
    """
    from huggingface_hub import DatasetCard, HfApi

    name = source.dataset or ""
    if "[" in (source.split or ""):
        raise SourceError(
            f"{name}: split {source.split!r} is a slice, and what is read as it comes can't be sliced. "
            "Name the whole split, and say with limit: how many rows to take."
        )
    with _explained(source):
        if offline():
            commit = cached_commit(name, source.revision)
            card = cached_folder(name, commit) / "README.md"
            return commit, _licence(name, DatasetCard.load(card).data if card.is_file() else None)
        api = HfApi()
        info = api.dataset_info(name, revision=source.revision, timeout=_TIMEOUT)
        if info.gated or info.private:
            api.auth_check(info.id, repo_type="dataset")
    script = f"{info.id.rpartition('/')[2]}.py"
    if any(file.rfilename == script for file in info.siblings or ()):
        raise SourceError(
            f"{name} is a script ({script}), which the library datasets runs no more. Give revision: "
            f"refs/convert/parquet, where the Hub may keep its rows as Parquet, {_LOCAL}."
        )
    return str(info.sha), _licence(name, info.card_data)


def offline() -> str | None:
    """The variable of the environment that tells the Hub's libraries to ask nothing of it; None where none is set."""
    from huggingface_hub.constants import HF_HUB_OFFLINE

    if os.environ.get("HF_DATASETS_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE") and not HF_HUB_OFFLINE:
        return "HF_DATASETS_OFFLINE"
    return "HF_HUB_OFFLINE" if HF_HUB_OFFLINE else None


def opened(source: Source, commit: str) -> Split:
    """Open the source's split at `commit`. Raises SourceError like `resolve`, and for a config or split it hasn't."""
    name, split = source.dataset or "", source.split or "train"
    with _explained(source):
        if offline():
            found = open_split(str(cached_folder(name, commit)), source.config, split, None)
        else:
            found = open_split(name, source.config, split, commit)
    return found._replace(stream=_explaining(source, found.stream))


def _explaining(source: Source, stream: Stream) -> Stream:
    def explained(columns: list[str] | None) -> Iterator[dict[str, Any]]:
        with _explained(source, of_rows=True):
            yield from stream(columns)

    return explained


def _licence(name: str, card: Any) -> str | None:
    listed = getattr(card, "configs", None)
    for config in listed if isinstance(listed, list) else ():
        named = config.get("config_name", "") if isinstance(config, dict) else ""
        if not isinstance(named, str):
            raise SourceError(
                f"{name}: its card says config_name: {named}, which is no text, and the library datasets reads no "
                f'dataset with such a card. Have its owner write config_name: "{named}", {_LOCAL}.'
            )
    licence = getattr(card, "license", None)
    return ", ".join(licence) if isinstance(licence, list) else licence


@contextmanager
def _explained(source: Source, *, of_rows: bool = False) -> Iterator[None]:
    """Turn what the Hub's libraries raise into a SourceError; what it quotes `of_rows` is left out."""
    try:
        yield
    except SourceError:
        raise
    except Exception as error:
        if not is_hub_error(error) and not isinstance(error, _BROKEN) and "pyarrow" not in _modules(error):
            raise
        raise SourceError(_message(source, error, of_rows)) from error


def explain(error: BaseException, name: str | None, revision: str | None, instead: str) -> str:
    """Say in a sentence or two why a dataset's repository could not be read, and what to do.

    Args:
        error: what the Hub's libraries raised.
        name: the repository, ``owner/name``.
        revision: what was asked for of it.
        instead: the way around it, as in "or give a local copy with files:".
    """
    from huggingface_hub import errors

    endpoint = _endpoint()
    page = f"{endpoint}/datasets/{name}"
    token = "check what HF_TOKEN gives access to" if os.environ.get("HF_TOKEN") else "set HF_TOKEN"
    status = getattr(getattr(error, "response", None), "status_code", None)
    missing = isinstance(error, errors.RepositoryNotFoundError) or type(error).__name__ == "DatasetNotFoundError"
    match error:
        case errors.GatedRepoError():
            message = f"{name} is gated: accept its terms at {page}, {token}, {instead}"
        case errors.RevisionNotFoundError():
            message = f"{name} has no revision {revision!r}: {page}/commits/main lists what there is"
        case errors.HFValidationError():
            message = f"{name!r} is no dataset name: it must be owner/name"
        case errors.OfflineModeIsEnabled():
            message = f"{name} needs the Hub, but {offline()} is set: unset it, {instead}"
        case _ if missing or status == 404:
            message = f"There is no dataset {name} at {endpoint}, or it is private: check its name, {token}, {instead}"
        case _ if status in (401, 403):
            message = f"{endpoint} refuses access to {name} (HTTP {status}): {token}, {instead}"
        case _ if status is not None:
            message = f"{endpoint} answered HTTP {status} for {name}: try again later, {instead}"
        case _:
            why = f"can't be reached at {endpoint} ({type(error).__name__})"
            message = f"{name} {why}: check the network and HF_ENDPOINT, {instead}"
    return message + "."


def _message(source: Source, error: BaseException, of_rows: bool) -> str:
    name = source.dataset or ""
    if _named(error, *_NOT_CACHED):
        if offline():
            return _not_cached(name, source.revision, error)
        error = error.__cause__ or error
    if not _of_the_hub(error):
        why = " ".join(str(error).splitlines()[:2])
        why = (_QUOTE.split(why)[0] if of_rows else why).rstrip(".: ") or type(error).__name__
        return f"{name} can't be read as config {source.config!r}, split {source.split!r}: {why}."
    message = explain(error, name, source.revision, _LOCAL)
    if _unreachable(error) and (commit := complete_commit(name, source.revision)):
        message += f" The local cache has it at commit {commit}: with HF_HUB_OFFLINE=1 that is read."
    return message


def _not_cached(name: str, revision: str | None, error: BaseException) -> str:
    what = f"{name} at revision {revision}" if revision else name
    has = "has no commit of" if _named(error, "RevisionResolutionError") else "hasn't every file of"
    fill = f"hf download {name} --repo-type dataset" + (f" --revision {revision}" if revision else "")
    return f"{offline()} is set, and the local cache {has} {what}: run {fill!r} where the Hub is in reach, {_LOCAL}."


def _of_the_hub(error: BaseException) -> bool:
    """Whether it is of the Hub or of the way there, and not of what the dataset holds."""
    return _named(error, "HfHubHTTPError", "HFValidationError", "DatasetNotFoundError") or _unreachable(error)


def _unreachable(error: BaseException) -> bool:
    """Whether nothing answered, or the Hub that it is out of order."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return bool(status >= 500)
    return isinstance(error, ConnectionError) or bool(_modules(error) & {"httpx", "httpx2"})


def _named(error: BaseException, *names: str) -> bool:
    """Whether the error's class, or one that it is made of, has one of these names: not every version has them all."""
    return any(base.__name__ in names for base in type(error).__mro__)


def _modules(error: BaseException) -> set[str]:
    return {base.__module__.partition(".")[0] for base in type(error).__mro__}


def _endpoint() -> str:
    from huggingface_hub.constants import ENDPOINT

    parts = urlsplit(ENDPOINT)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/")
