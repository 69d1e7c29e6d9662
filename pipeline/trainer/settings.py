"""Reading a YAML file of settings: every mistake in it is told at once, as those in a recipe are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from pipeline.errors import InputError
from pipeline.recipe.mistakes import Mistake, code, invalid, secrets
from pipeline.recipe.reading import Kind, checked

Settings = TypeVar("Settings", bound=BaseModel)


def load_settings(
    model: type[Settings],
    kind: Kind,
    path: Path | None,
    overrides: Sequence[str] = (),
    further: Callable[[Mapping[str, Any]], Iterable[Mistake]] = lambda data: (),
) -> Settings:
    """Read a YAML file of settings, if there is one, and apply ``a.b.c=value`` overrides.

    Args:
        model: what the settings are.
        kind: how they are called in messages.
        path: the file.
        overrides: what counts more than the file.
        further: finds mistakes that the model alone doesn't show.

    Raises:
        InputError: the file can't be read, or holds mistakes, all of them in the message.
    """
    try:
        text = None if path is None else path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"There is no {path}. Give --config the path of a YAML file.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} can't be read: {error}. It must be a UTF-8 YAML file.") from None

    def find(data: Mapping[str, Any]) -> Iterator[Mistake]:
        told = set()
        for mistake in (*secrets(data), *code(data), *further(data), *invalid(data, model)):
            if mistake.path not in told:
                told.add(mistake.path)
                yield mistake

    return model.model_validate(checked(text, "the command line" if path is None else str(path), overrides, find, kind))
