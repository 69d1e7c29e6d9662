"""A model's tokenizer, where one is needed: to render a chat template here, and to count tokens."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pipeline.errors import InputError, is_hub_error

if TYPE_CHECKING:
    from pipeline.thinking import Tokenizer


_TIMEOUT = 10
"""Seconds that the Hub has to answer."""


class NoTokenizer(InputError):
    """A tokenizer can't be had."""


@cache
def load(name: str, revision: str | None = None) -> Tokenizer:
    """The tokenizer of a folder, or of a model on the Hub.

    Raises:
        NoTokenizer: `transformers` is not installed, or there is no such tokenizer, here or on the Hub.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise NoTokenizer(
            f"The tokenizer of {name!r} needs transformers: pip install 'recap-data[render]', or transformers itself."
        ) from error
    if name.startswith(("/", "./", "../", "~")) and not Path(name).is_dir():
        raise NoTokenizer(
            f"There is no tokenizer {name!r}: no such folder. Give tokenizer: a path, or a name on the Hub."
        )
    asked: dict[str, Any] = {"revision": revision, "trust_remote_code": False}  # unsaid, a terminal is asked about it
    try:
        try:
            found = AutoTokenizer.from_pretrained(name, local_files_only=True, **asked)
        except OSError:
            if not Path(name).exists():
                _ask_for(name, revision)
            found = AutoTokenizer.from_pretrained(name, **asked)
    except Exception as error:
        if not is_hub_error(error):
            raise
        first = str(error).strip().partition("\n")[0]
        raise NoTokenizer(
            f"There is no tokenizer {name!r}: {first} Give tokenizer: the path of its folder, or its name on the Hub."
        ) from error
    return cast("Tokenizer", found)


def _ask_for(name: str, revision: str | None) -> None:
    """Find out whether the Hub has the model. `transformers` would try again for a minute where it can't be reached."""
    from huggingface_hub import HfApi

    HfApi().model_info(name, revision=revision, timeout=_TIMEOUT)
