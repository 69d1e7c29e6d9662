"""What a user calls a version, or a place to publish to: a folder, or a repository of the Hub. It is never guessed."""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.errors import InputError

HUB = "hub:"


def repository(reference: str) -> str | None:
    """The ``hub:owner/name`` that was meant by what looks like a repository's name, or its address; None else."""
    address = re.sub(r"^(?:https?://)?(?:huggingface\.co|hf\.co)/(?:datasets/)?", "", reference)
    name = r"[A-Za-z0-9][\w-]*(?:\.[\w-]+)*"
    found = re.fullmatch(rf"({name}/{name})(?:@([\w./-]+))?/?", address, re.ASCII)
    return f"{HUB}{found[1]}{'@' + found[2] if found[2] else ''}" if found else None


def check_place(to: str | None) -> None:
    """Ask which is meant, where a place to publish to may be a repository and may be a folder that isn't there yet.

    Raises:
        InputError: it looks like a repository's name, has no ``hub:``, and is no folder.
    """
    meant = repository(to) if to and not to.startswith(HUB) else None
    if to and meant and not Path(to).is_dir():
        raise InputError(
            f"{to} may be a repository or a folder. Write {meant} for the Hub's repository, or ./{to} for a new folder."
        )


def not_there(reference: str) -> str:
    """Words for a reference that is no folder: what to write where the Hub's repository was meant."""
    meant = repository(reference)
    if meant is None:
        return f"There is no folder {reference}. Give the folder of a finished build, or hub:owner/name."
    return f"There is no folder {reference}. If you mean the Hub's repository, write {meant}."
