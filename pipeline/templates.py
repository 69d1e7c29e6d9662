"""Prompt and card templates: one Markdown file each, with front matter, found by id and known by hash."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import NamedTuple

import yaml

from pipeline.errors import InputError

_PACKAGE = Path(__file__).parent


def folder(name: str) -> Path:
    """The folder `name` (``prompts``, ``data_cards``): inside the package when installed, beside it in a checkout."""
    inside = _PACKAGE / name
    return inside if inside.is_dir() else _PACKAGE.parent / name


class Template(NamedTuple):
    """One template file. ``sha256`` is of the whole file and goes into every row the template made."""

    id: str
    role: str
    variables: tuple[str, ...]
    body: str
    sha256: str


@cache
def load(template_id: str, kind: str = "prompts") -> Template:
    """Read ``<kind>/<template_id>.md``.

    Raises:
        InputError: there is no such template, or its front matter lacks ``id``, ``role`` or ``variables``.
    """
    path = folder(kind) / f"{template_id}.md"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in folder(kind).glob("*.md")))
        raise InputError(f"There is no template {template_id!r} in {kind}/. There are: {known}.")
    data = path.read_bytes()
    _, _, rest = data.decode("utf-8").partition("---\n")
    front, closed, body = rest.partition("\n---\n")
    meta = yaml.safe_load(front) if closed else None
    if not isinstance(meta, dict) or meta.get("id") != template_id or not {"role", "variables"} <= meta.keys():
        raise InputError(f"{path}: the front matter must give id: {template_id}, role and variables.")
    return Template(template_id, meta["role"], tuple(meta["variables"]), body, hashlib.sha256(data).hexdigest())
