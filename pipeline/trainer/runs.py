"""What a training was made with, noted beside its checkpoints, so that none goes on with those of another."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import InputError, OutputError
from pipeline.writing import write_text


def note(folder: Path, name: str, run: Mapping[str, Any]) -> None:
    """Write what a training is made with. Raises OutputError where the folder can't be written."""
    try:
        write_text(folder / name, json.dumps(run, indent=2) + "\n")
    except OSError as error:
        raise OutputError(f"{folder} can't be written: {error}. Give another --out.") from None


def newest(folder: Path) -> Path | None:
    """The newest whole checkpoint in a folder, if any; one that was cut off while it was written is none."""
    found = {
        int(match[1]): path
        for path in (folder.iterdir() if folder.is_dir() else ())
        if (match := re.fullmatch(r"checkpoint-(\d+)", path.name)) and (path / "trainer_state.json").is_file()
    }
    return found[max(found)] if found else None


def check_same(folder: Path, name: str, run: Mapping[str, Any], free: tuple[str, ...] = ()) -> None:
    """Make sure that what is noted in a folder is this training; keys that are `free` may differ.

    Raises:
        InputError: it is another one, and in what; or nothing says what it is.
    """
    try:
        former = json.loads((folder / name).read_text())
    except (OSError, ValueError, RecursionError):
        raise InputError(f"{folder} holds a training, and no {name} that says of what. Give another --out.") from None
    others = [line for key, line in _differences(former, json.loads(json.dumps(run))) if key not in free]
    if others:
        raise InputError(f"{folder} is of another training. Give another --out, or remove it. {'; '.join(others)}.")


def _differences(former: Any, run: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """What differs, by its first key, and as a line that says what it was and would be now."""
    former = former if isinstance(former, dict) else {}
    for key in dict.fromkeys((*former, *run)):
        was, now, name = former.get(key), run.get(key), f"{path}{key}"
        if isinstance(was, dict) and isinstance(now, dict):
            yield from _differences(was, now, f"{name}.")
        elif was != now:
            yield name.partition(".")[0], f"{name} was {_short(was)} and is {_short(now)}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
