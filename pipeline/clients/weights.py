"""Which weights a model's folder holds: one that is trained again in its place is another model."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TypeVar

from pipeline.errors import InputError
from pipeline.recipe import ServedModel

_CONTENT = "sha256:"

M = TypeVar("M", bound=ServedModel)


def pinned(config: M) -> M:
    """The model with the content of its folder as its revision, where this process would load it from a folder.

    A model that is served, has a revision or is on the Hub is returned as it is.

    Raises:
        InputError: the folder holds nothing, or can't be read.
    """
    folder = Path(config.model)
    if getattr(config, "engine", None) != "vllm" or config.revision is not None or not folder.is_dir():
        return config
    return config.model_copy(update={"revision": content(folder)})


def hub_revision(config: ServedModel) -> str | None:
    """The revision to load a model at: None for a folder, whose weights must then be those that were pinned.

    Raises:
        InputError: they are others.
    """
    if config.revision is None or not config.revision.startswith(_CONTENT):
        return config.revision
    if content(Path(config.model)) != config.revision:
        raise InputError(
            f"{config.model} holds other weights than its revision says ({config.revision[:19]}…). Put those back, or "
            "remove revision: then the folder is taken as it is."
        )
    return None


def content(folder: Path) -> str:
    """``sha256:<hex>`` of what stands in a model's folder, by name; hidden files and what only tells of it left out.

    Raises:
        InputError: it holds nothing, or can't be read.
    """
    whole = hashlib.sha256()
    try:
        files = sorted(path for path in folder.iterdir() if path.is_file() and _decides(path))
        for path in files:
            with path.open("rb") as file:
                whole.update(path.name.encode("utf-8", "surrogateescape") + b"\0")
                whole.update(hashlib.file_digest(file, "sha256").digest())
    except OSError as error:
        raise InputError(f"The model's folder {folder} can't be read: {error.strerror or error}.") from error
    if not files:
        raise InputError(f"The model's folder {folder} is empty. Give the folder that its weights are in.")
    return _CONTENT + whole.hexdigest()


def _decides(path: Path) -> bool:
    return not path.name.startswith(".") and path.suffix.lower() != ".md" and path.stem.upper() != "LICENSE"
