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
