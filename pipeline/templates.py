"""Prompt and card templates: one Markdown file each, with front matter, found by id and known by hash.

An id is a name and never a path, and a template is rendered in Jinja's sandbox: whatever names one, in a recipe or in
a manifest from elsewhere, no file outside of the folder is read and nothing is run.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from jinja2.meta import find_undeclared_variables
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pipeline.documents import Unreadable, read_yaml
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


NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}$"
"""What a template's id looks like."""

MOST_TEXT = 10_000_000
"""Characters that a template may write."""


def load(template_id: str, kind: str = "prompts") -> Template:
    """Read ``<kind>/<template_id>.md``.

    Raises:
        InputError: there is no such template, it can't be read, or its front matter lacks ``id``, ``role`` or
            ``variables``.
    """
    if not re.fullmatch(NAME, template_id):
        raise InputError(
            f"{template_id[:96]!r} is no name of a template: letters, digits, '.', '_' and '-'. A template is a file "
            f"in {kind}/, named without its .md, and never a path."
        )
    path = folder(kind) / f"{template_id}.md"
    try:
        stat = path.stat()
    except OSError:
        known = ", ".join(sorted(p.stem for p in folder(kind).glob("*.md")))
        raise InputError(f"There is no template {template_id!r} in {kind}/. There are: {known}.") from None
    return _read(path, template_id, (stat.st_mtime_ns, stat.st_size, stat.st_ino))


@lru_cache(maxsize=256)
def _read(path: Path, template_id: str, state: tuple[int, int, int]) -> Template:
    """Read a file once for as long as its `state` is the same: a process may outlive a template's wording."""
    del state
    return read(path, template_id)


def read(path: Path, template_id: str) -> Template:
    """Read the template in a file. Raises InputError like `load`."""
    try:
        data = path.read_bytes()
        text = data.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} can't be read: {error}. A template is a UTF-8 file.") from None
    _, _, rest = text.partition("---\n")
    front, closed, body = rest.partition("\n---\n")
    try:
        meta = read_yaml(front).data if closed else None
    except Unreadable as error:
        raise InputError(f"{path}: the front matter is no valid YAML: {error.why}.") from None
    if not isinstance(meta, dict) or meta.get("id") != template_id or not {"role", "variables"} <= meta.keys():
        raise InputError(f"{path}: the front matter must give id: {template_id}, role and variables.")
    role, variables = meta["role"], meta["variables"]
    if not isinstance(role, str) or not isinstance(variables, list) or not all(isinstance(v, str) for v in variables):
        raise InputError(f"{path}: role must be a text, and variables a list of names, as in variables: [prompt].")
    return Template(template_id, role, tuple(variables), body, hashlib.sha256(data).hexdigest())


class Sandboxed:
    """A template, compiled in Jinja's sandbox: it sees its values and no part of Python.

    ``used`` are the variables that it uses.

    Args:
        template: the template; its body may come from anywhere.
        filters: further filters, by name.
        options: how Jinja treats white space.

    Raises:
        InputError: it is no Jinja template.
    """

    def __init__(self, template: Template, filters: Mapping[str, Callable[..., Any]] | None = None, **options: Any):
        self._name = f"The template {template.id!r}"
        environment = _Environment(undefined=jinja2.StrictUndefined, **options)
        environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False}
        environment.filters.update(filters or {})
        try:
            self.used = frozenset(find_undeclared_variables(environment.parse(template.body)))
            self._compiled = environment.from_string(template.body)
        except (*_MISTAKES, SyntaxError) as error:
            raise InputError(f"{self._name} is no Jinja template: {_first_line(error)}.") from None

    def render(self, values: Mapping[str, Any]) -> str:
        """Its text with such values. Raises InputError where it fails on them, or writes more than `MOST_TEXT`."""
        parts, size = [], 0
        try:
            for part in self._compiled.generate(values):
                parts.append(part)
                size += len(part)
                if size > MOST_TEXT:
                    raise InputError(f"{self._name} writes more than {MOST_TEXT:,} characters. Shorten it.")
        except _MISTAKES as error:
            raise InputError(f"{self._name} can't be rendered: {_first_line(error)}. Correct it.") from None
        return "".join(parts)


_MISTAKES = (
    *(jinja2.TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError),
    *(RecursionError, MemoryError),
)
"""What a template's own mistakes raise."""


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox without chance (a text is a function of its row), and without numbers that never end."""

    intercepted_binops = frozenset(("**", "*"))

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for left_out in ("random", "center"):
            del self.filters[left_out]
        del self.globals["lipsum"]

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        numbers = isinstance(left, int | float) and isinstance(right, int | float)
        if not numbers or operator == "**" or max(abs(left), abs(right)) > MOST_TEXT**2:
            raise jinja2.TemplateRuntimeError("* is for small numbers alone, and ** is not to be had")
        return super().call_binop(context, operator, left, right)


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0].rstrip(".")[:200] or type(error).__name__
