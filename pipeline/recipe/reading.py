"""Reading a recipe: YAML and overrides in, a valid recipe out, or every mistake with its place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from pipeline.documents import KeyPath, Unreadable, read_yaml
from pipeline.errors import RecipeError
from pipeline.recipe.mistakes import Mistake, dotted, find, is_secret, redacted, shown
from pipeline.recipe.models import Recipe


class LoadedRecipe(NamedTuple):
    """A valid recipe, and the folder its file paths are relative to."""

    recipe: Recipe
    folder: Path


def load(path: Path, overrides: Sequence[str] = ()) -> LoadedRecipe:
    """Read a recipe file, apply ``a.b.c=value`` overrides, validate.

    Raises:
        RecipeError: the file can't be read, or holds mistakes; all of them are in the message.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise RecipeError(f"There is no recipe {path}. Give a path to a YAML file, or a named recipe.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"The recipe {path} can't be read: {error}. It must be a UTF-8 YAML file.") from None
    return LoadedRecipe(parse(text, str(path), overrides), path.parent)


def parse(text: str, name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Validate a recipe's YAML `text`; `name` stands for the file in messages. Raises like `load`."""
    return Recipe.model_validate(checked(text, name, overrides, find, _RECIPE))


class Kind(NamedTuple):
    """What a YAML file holds, how it must look, and an override of it, for messages."""

    name: str
    shape: str
    override: str


_RECIPE = Kind("recipe", "a mapping that starts with name, sources and mixture", "mixture.harmful.rows=200")


def checked(
    text: str | None,
    name: str,
    overrides: Sequence[str],
    find: Callable[[Mapping[str, Any]], Iterable[Mistake]],
    kind: Kind,
) -> dict[str, Any]:
    """The mapping in YAML `text`, or an empty one, with overrides applied, in which `find` found no mistake.

    Raises:
        RecipeError: it is no YAML, or holds mistakes; all of them are in the message, each with its place.
    """
    try:
        data, root, repeated = read_yaml(text or "")
    except Unreadable as error:
        raise RecipeError(f"{name}{error.place}  is no valid YAML: {redacted(error.why)}.") from None
    data = {} if text is None else data
    mistakes = [Mistake(p, f"is given twice, the second time in line {line}; keep one") for p, line in repeated]
    if not isinstance(data, dict):
        raise RecipeError(f"{name} holds no {kind.name}: it must be {kind.shape}.")

    places = dict(_places(root, name)) if root else {}
    for override in overrides:
        _override(data, override, places, mistakes, kind.override)
    mistakes += find(data)
    if mistakes:
        told_at = sorted(((_place(m.path, places, name), m) for m in mistakes), key=lambda told: told[0])
        lines = [f"  {place}  {dotted(m.path)}: {m.message}." for place, m in told_at]
        count = "a mistake" if len(lines) == 1 else f"{len(lines)} mistakes"
        raise RecipeError(redacted(f"{name} has {count}:\n" + "\n".join(lines)))
    return data


class _Place(NamedTuple):
    """Where a value was given; sorts by line. An override stands on line 0."""

    line: int
    column: int
    text: str

    def __str__(self) -> str:
        return f"{self.text}:{self.line}:{self.column}" if self.line else self.text


def _places(node: yaml.Node, name: str, path: KeyPath = ()) -> Iterator[tuple[KeyPath, _Place]]:
    yield path, _Place(node.start_mark.line + 1, node.start_mark.column + 1, name)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _places(value, name, (*path, key.value))
            yield (*path, key.value), _Place(key.start_mark.line + 1, key.start_mark.column + 1, name)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _places(value, name, (*path, index))


def _place(path: KeyPath, places: Mapping[KeyPath, _Place], name: str) -> _Place:
    while path and path not in places:
        path = path[:-1]
    return places.get(path, _Place(0, 0, name))


def _override(
    data: dict[str, Any], override: str, places: dict[KeyPath, _Place], mistakes: list[Mistake], example: str
) -> None:
    dotted, equals, text = override.partition("=")
    keys = dotted.split(".")
    if not equals or not all(keys):
        raise RecipeError(f"--set {shown(override)} is not of the form a.b.c=value (as in {example}).")
    try:
        value = read_yaml(text).data
    except Unreadable as error:
        given = "its value" if is_secret(keys[-1], text) else shown(text)
        raise RecipeError(
            f"--set {dotted}: {given} is no valid YAML value ({redacted(error.why)}); quote it."
        ) from None
    here: Any = data
    path: KeyPath = ()
    for depth, key in enumerate(keys):
        last = depth == len(keys) - 1
        step: str | int = key
        if isinstance(here, list):
            if not key.isdecimal() or int(key) >= len(here):
                mistakes.append(Mistake(path, f"--set {dotted}: {key!r} is no place in a list of {len(here)}"))
                return
            step = int(key)
        elif not isinstance(here, dict):
            mistakes.append(Mistake(path, f"--set {dotted}: {shown(here)} has nothing below it to set"))
            return
        path = (*path, step)
        if last:
            here[step] = value
        else:
            if isinstance(here, dict) and here.get(key) is None:
                here[key] = {}
            here = here[step]
    for known in [p for p in places if p[: len(path)] == path]:
        del places[known]
    places[path] = _Place(0, 0, f"--set {dotted}")
