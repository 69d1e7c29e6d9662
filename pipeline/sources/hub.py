"""Datasets of the Hugging Face Hub: resolved once to a commit, then streamed from it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from pipeline.errors import SourceError, is_hub_error
from pipeline.recipe import Source

_TIMEOUT = 10
"""Seconds that the Hub has to answer; its client adds a few."""


def resolve(source: Source) -> tuple[str, str | None]:
    """Return the commit that the source's revision stands for, and the licence that the dataset's card names.

    Access is checked as well, so that a gated dataset is told of before anything is read.

    Raises:
        SourceError: no such dataset or revision, no access, no answer.
    """
    from huggingface_hub import HfApi

    with _explained(source):
        api = HfApi()
        info = api.dataset_info(source.dataset or "", revision=source.revision, timeout=_TIMEOUT)
        if info.gated or info.private:
            api.auth_check(info.id, repo_type="dataset")
    licence = getattr(info.card_data, "license", None)
    return str(info.sha), ", ".join(licence) if isinstance(licence, list) else licence


def records(source: Source, commit: str) -> Iterator[dict[str, Any]]:
    """Stream the rows of one split at `commit`, in the dataset's order. Raises like `resolve`."""
    from datasets import load_dataset

    with _explained(source):
        yield from load_dataset(
            source.dataset or "", source.config, split=source.split, revision=commit, streaming=True
        )


@contextmanager
def _explained(source: Source) -> Iterator[None]:
    """Turn what the Hub's libraries raise into a SourceError."""
    try:
        yield
    except Exception as error:
        if not is_hub_error(error):
            raise
        raise SourceError(_message(source, error)) from error


def _message(source: Source, error: Exception) -> str:
    from huggingface_hub import errors

    name, endpoint = source.dataset, _endpoint()
    page = f"{endpoint}/datasets/{name}"
    local = "or give a local copy with files:"
    token = "check what HF_TOKEN gives access to" if os.environ.get("HF_TOKEN") else "set HF_TOKEN"
    status = getattr(getattr(error, "response", None), "status_code", None)
    missing = isinstance(error, errors.RepositoryNotFoundError) or type(error).__name__ == "DatasetNotFoundError"
    match error:
        case errors.GatedRepoError():
            message = f"{name} is gated: accept its terms at {page}, {token}, {local}"
        case errors.RevisionNotFoundError():
            message = f"{name} has no revision {source.revision!r}: {page}/commits/main lists what there is"
        case errors.HFValidationError():
            message = f"{name!r} is no dataset name: it must be owner/name"
        case errors.OfflineModeIsEnabled():
            message = f"{name} needs the Hub, but HF_HUB_OFFLINE is set: unset it, {local}"
        case _ if missing or status == 404:
            message = f"There is no dataset {name} at {endpoint}, or it is private: check its name, {token}, {local}"
        case _ if status in (401, 403):
            message = f"{endpoint} refuses access to {name} (HTTP {status}): {token}, {local}"
        case _ if status is not None:
            message = f"{endpoint} answered HTTP {status} for {name}: try again later, {local}"
        case ValueError():
            why = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
            message = f"{name} can't be read as config {source.config!r}, split {source.split!r}: {why}"
        case _:
            why = f"can't be reached at {endpoint} ({type(error).__name__})"
            message = f"{name} {why}: check the network and HF_ENDPOINT, {local}"
    return message + "."


def _endpoint() -> str:
    from huggingface_hub.constants import ENDPOINT

    parts = urlsplit(ENDPOINT)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/")
