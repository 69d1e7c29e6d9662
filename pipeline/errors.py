"""The errors a user meets. Every one says what happened, with which value, and what to do next."""

from __future__ import annotations


class RecapError(Exception):
    """Root of every error raised on purpose.

    ``exit_code`` is what the command line ends with: 1 for a job that failed, 2 for the user's input.
    """

    exit_code = 1


class InputError(RecapError):
    """The recipe, an option or an input file is wrong; nothing was built."""

    exit_code = 2


class RecipeError(InputError):
    """One or more mistakes in a recipe, all listed in the message."""


class SourceError(InputError):
    """A source of prompts is missing, unreachable, broken or not what its name says."""


class ShortageError(RecapError):
    """Fewer rows came out of the steps than the mixture asks for."""


class OutputError(RecapError):
    """The output folder can't be written, is in use, or is not a build of ours."""


_HUB_LIBRARIES = {"huggingface_hub", "datasets", "fsspec", "httpx2", "httpx", "requests", "aiohttp"}


def is_hub_error(error: Exception) -> bool:
    """Whether the Hub's libraries raised it: the network, the Hub, or a name that they don't take.

    The transport under huggingface_hub changes between its versions and its errors share no base, so an error is theirs
    when its class comes from one of their modules.
    """
    modules = {base.__module__.partition(".")[0] for base in type(error).__mro__}
    return isinstance(error, OSError | ValueError) or bool(modules & _HUB_LIBRARIES)
