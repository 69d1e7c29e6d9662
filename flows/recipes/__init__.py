"""The named recipes: the YAML files of this folder, by name."""

from __future__ import annotations

import difflib
from pathlib import Path

from pipeline.errors import RecipeError

_FOLDER = Path(__file__).parent


def named() -> dict[str, Path]:
    """The named recipes and their files."""
    return {path.stem: path for path in sorted(_FOLDER.glob("*.yaml"))}


def summary(path: Path) -> str:
    """What a named recipe is: the first line of its file."""
    with path.open(encoding="utf-8") as file:
        return file.readline().removeprefix("#").strip()


def find(name: str) -> Path:
    """The file of a recipe, given its name or a path.

    Raises:
        RecipeError: it is neither.
    """
    known = named()
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or path.is_file() or len(path.parts) > 1:
        return path
    if name in known:
        return known[name]
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    raise RecipeError(
        f"There is no named recipe {name!r}{hint}. There are: {', '.join(known)}. A file needs its path: ./{name}.yaml."
    )
