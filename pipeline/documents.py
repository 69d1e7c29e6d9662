"""YAML and JSON that may come from anywhere, read within limits: one error for whatever is wrong, no hang, no code.

YAML is read as its 1.2 core schema has it: ``no`` is a string, ``1e-3`` a number; no other type can be made by a tag.
An alias counts as often as it is used, so that a few lines can't stand for millions of values.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, NoReturn

import yaml

MOST_YAML = 1 << 20
"""Characters of a YAML text at most."""
MOST_VALUES = 100_000
"""Values of a YAML text at most, those of an alias counted wherever it is used."""
MOST_JSON = 64 << 20
"""Bytes of a JSON document at most."""
MOST_DEPTH = 64
"""Levels of lists and mappings in each other at most."""

_CORE = ("null", "bool", "int", "float", "str", "seq", "map")
_NO_TEXT = re.compile("[\x00\ud800-\udfff]")


KeyPath = tuple[str | int, ...]


class Unreadable(Exception):
    """A text that can't be read: why, and at which line and column (from 1) where that is known."""

    def __init__(self, why: str, mark: yaml.Mark | None = None) -> None:
        super().__init__(why)
        self.why = why
        self.place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""


class Document(NamedTuple):
    """A YAML text: its values, and its nodes, which know where they stand; both None where it is empty.

    ``repeated`` are the keys that are given twice: their paths, and the line of the second time.
    """

    data: Any
    root: yaml.Node | None
    repeated: list[tuple[KeyPath, int]]


def read_yaml(text: str) -> Document:
    """Read a YAML text. Raises Unreadable."""
    if len(text) > MOST_YAML:
        raise Unreadable(f"it has {len(text):,} characters, and may have {MOST_YAML:,}")
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        repeated = list(_repeated(root)) if root else []  # before merges are done, which repeat keys
        return Document(loader.construct_document(root) if root else None, root, repeated)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        why = getattr(error, "problem", None) or getattr(error, "reason", None) or type(error).__name__
        raise Unreadable(str(why), mark) from None


def read_json(data: bytes) -> Any:
    """Read a JSON document in UTF-8: no NaN, no key twice, no text that UTF-8 can't write. Raises Unreadable."""
    if len(data) > MOST_JSON:
        raise Unreadable(f"it has {len(data):,} bytes, and may have {MOST_JSON:,}")
    try:
        value = json.loads(data.decode(), object_pairs_hook=_once, parse_constant=_no_number, parse_float=_float)
    except UnicodeDecodeError as error:
        raise Unreadable(f"it is not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise Unreadable(
            f"{error.msg[:1].lower()}{error.msg[1:]} at line {error.lineno}, column {error.colno}"
        ) from None
    except RecursionError:
        raise Unreadable(_TOO_DEEP) from None
    except ValueError:
        raise Unreadable("a number has too many digits") from None
    _check(value)
    return value


def _repeated(node: yaml.Node, path: KeyPath = ()) -> Iterator[tuple[KeyPath, int]]:
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            here = (*path, key.value)
            if key.value in seen:
                yield here, key.start_mark.line + 1
            seen.add(key.value)
            yield from _repeated(value, here)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _repeated(value, (*path, index))


_TOO_DEEP = f"its lists and mappings are nested too deeply (more than {MOST_DEPTH})"
_NO_CHARACTER = "a text holds what is no character: a null byte, or half a surrogate pair"


def _check(value: Any) -> None:
    level, depth = [value], 0
    while level:
        if depth > MOST_DEPTH:
            raise Unreadable(_TOO_DEEP)
        texts = (text for item in level for text in _texts(item))
        if any(_NO_TEXT.search(text) for text in texts):
            raise Unreadable(_NO_CHARACTER)
        level = [inner for item in level for inner in _below(item)]
        depth += 1


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, dict):
        return value
    return (value,) if isinstance(value, str) else ()


def _below(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise Unreadable(f"the key {twice[:60]!r} is given twice")
    return found


def _no_number(text: str) -> NoReturn:
    raise Unreadable(f"{text} is no number of JSON")


def _float(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _no_number(text[:60])


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the core schema, which counts what it composes."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._values = 0
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event, before = self.peek_event(), self._values  # type: ignore[no-untyped-call]
        if self._depth > MOST_DEPTH:
            raise Unreadable(_TOO_DEEP, event.start_mark)
        alias = isinstance(event, yaml.AliasEvent)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        if alias and id(node) not in self._sizes:
            raise Unreadable(f"the alias *{event.anchor} stands inside of what it names", event.start_mark)
        self._values += self._sizes[id(node)] if alias else 1
        if self._values > MOST_VALUES:
            raise Unreadable(f"it has more than {MOST_VALUES:,} values, aliases counted", event.start_mark)
        self._sizes.setdefault(id(node), self._values - before)
        return node

    def compose_scalar_node(self, anchor: Any) -> yaml.ScalarNode:
        node = super().compose_scalar_node(anchor)
        if _NO_TEXT.search(node.value):
            raise Unreadable(_NO_CHARACTER, node.start_mark)
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise Unreadable("a list or a mapping can't be a key", key.start_mark)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, TypeError, OverflowError):
            kind = node.tag.rpartition(":")[2]
            raise Unreadable(f"a value can't be read as {kind}", node.start_mark) from None


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag.rpartition(":")[2] in {"null", "merge", "int"}]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|false|False)$"), list("tTfF"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d[\d_]*\.\d*|\.\d+|\d+(?=[eE]))(?:[eE][-+]?\d+)?$|^[-+]?\.inf$|^\.nan$"),
    list("-+.0123456789"),
)
_Loader.yaml_constructors = {
    tag: made
    for tag, made in yaml.SafeLoader.yaml_constructors.items()
    if tag is None or tag.rpartition(":")[2] in _CORE
}
