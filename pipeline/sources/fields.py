"""Reading one record: field paths, and what their values mean as prompt, category, ground truth and filter."""

from __future__ import annotations

import ast
import difflib
import json
import math
import re
import warnings
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Final

from pipeline.recipe import GroundTruth

MISSING: Final = object()
"""What a field is that a record doesn't have; a field that is null is None."""

_KINDS: Final = (
    (type(None), "null"),
    (bool, "true or false"),
    ((int, float, Decimal), "a number"),
    (str, "text"),
    (list, "a list"),
    (dict, "an object"),
)
_NUMBER = re.compile(r"[-+]?(?:\d+|\d{1,3}(?:,\d{3})+)(?:\.\d+)?\.?")
_CHAT = re.compile(r"""\s*(?:array\()?\s*\[?\s*\{\s*["'](?P<key>\w{1,40})["']\s*:""")
"""How a list of messages begins that was written into a text: a dataframe's cell, a field of JSON within JSON."""
_ARRAY = re.compile(r"\s*array\((.*?)(?:,\s*dtype=object)?\)\s*", re.DOTALL)
_MESSAGE = [
    [re.compile(rf"""["']{key}["']\s*:""") for key in keys] for keys in (("role", "content"), ("from", "value"))
]
_CHAT_KEYS = ("role", "content", "from", "value", "messages", "conversations")
_LONGEST_LITERAL = 200_000
"""Characters of a literal of Python that is read: its parser takes a hundred times as much memory."""
_SURROGATE = re.compile("[\ud800-\udfff]")
_BOXED = re.compile(r"\\boxed\s*\{")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)


def get(record: Any, path: str) -> Any:
    """Return the value at `path` (``a.b``, ``a.0.b``), or `MISSING`. A key that itself holds the dots wins."""
    if isinstance(record, dict) and path in record:
        return record[path]
    return _walk(record, path.split(".")) if "." in path else MISSING


def _walk(value: Any, parts: Sequence[str]) -> Any:
    if not parts:
        return value
    if isinstance(value, dict):
        for end in range(len(parts), 0, -1):
            key = ".".join(parts[:end])
            if key in value and (found := _walk(value[key], parts[end:])) is not MISSING:
                return found
    elif isinstance(value, list) and parts[0].isdecimal() and int(parts[0]) < len(value):
        return _walk(value[int(parts[0])], parts[1:])
    return MISSING


def explain_missing(record: Any, path: str) -> str:
    """Say at which level of `record` the path ends, which names are there, and the nearest one."""
    parts = path.split(".")
    depth = next((n for n in range(len(parts) - 1, 0, -1) if _walk(record, parts[:n]) is not MISSING), 0)
    above, name = ".".join(parts[:depth]), ".".join(parts[depth:])
    level = _walk(record, parts[:depth])
    if isinstance(level, dict):
        return _there_is(above, name, list(level))
    if isinstance(level, list):
        return f"{above} is a list of {len(level)}"
    return f"{above} holds {kind(level)}, which has nothing below it"


def explain_column(columns: Sequence[str], path: str) -> str:
    """`explain_missing` for a table, whose columns are known before its rows."""
    return _there_is("", path, columns)


def _there_is(above: str, name: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, [n for n in names if _is_name(n)], n=1)
    hint = f" (did you mean {'.'.join(filter(None, [above, close[0]]))!r}?)" if close else ""
    return f"{above or 'there'} {'has' if above else 'is'} {listed(names)}{hint}"


def listed(names: Sequence[str]) -> str:
    """List field names for a message, 20 at most. What looks like a text is counted and not shown: a CSV file without a
    header has its first prompt there.
    """
    shown = [name for name in names if _is_name(name)][:20]
    rest = len(names) - len(shown)
    return " and ".join(filter(None, [", ".join(shown), f"{rest} more" * bool(rest)])) or "nothing"


def _is_name(name: str) -> bool:
    return 0 < len(name) <= 40 and name.isprintable()


def kind(value: Any) -> str:
    """Name a value's type as the file format would, without the value."""
    return next((name for types, name in _KINDS if isinstance(value, types)), f"a {type(value).__name__}")


def storable(text: str) -> str:
    """Replace what no UTF-8 column can hold (lone surrogates) by U+FFFD."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def prompt_turns(value: Any) -> list[str] | None:
    """Return the user turns that a prompt field's value holds, None where it is no text.

    A text is one turn, and so is a list of texts (joined by newlines). Of a list of messages (``role`` and ``content``,
    or ``from`` and ``value``), the user's up to the first answer are taken and the system's are dropped. A text that
    writes messages out, as JSON or as Python does, is read as messages, and is none where it can't be.
    """
    if isinstance(value, str):
        chat = _written_chat(value)
        if chat is MISSING:
            return [value]
        value = chat
    if not isinstance(value, list) or not value:
        return None
    if all(isinstance(item, str) for item in value):
        return ["\n".join(value)]
    turns = []
    for message in value:
        if not isinstance(message, dict):
            return None
        role = message.get("role", message.get("from"))
        if role in ("system", "developer"):
            continue
        if role not in ("user", "human"):
            break
        text = _content(message.get("content", message.get("value")))
        if text is None:
            return None
        turns.append(text)
    return turns or None


def _written_chat(text: str) -> Any:
    """The messages that a text writes out, None where they can't be read, `MISSING` where it is no chat."""
    begins = _CHAT.match(text)
    if not begins or not any(all(key.search(text) for key in keys) for keys in _MESSAGE):
        return MISSING
    try:
        chat = _written(_ARRAY.sub(r"\1", text))
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None if begins["key"] in _CHAT_KEYS else MISSING
    if isinstance(chat, dict):
        chat = next((chat[key] for key in ("messages", "conversations", "conversation") if key in chat), [chat])
    listed = isinstance(chat, list) and chat and all(isinstance(message, dict) for message in chat)
    return chat if listed and not {"role", "from"}.isdisjoint(chat[0]) else MISSING


def _written(text: str) -> Any:
    """What a text says as JSON, or else as a literal of Python."""
    try:
        return json.loads(text, strict=False)
    except json.JSONDecodeError:
        if len(text) > _LONGEST_LITERAL:
            raise
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they would quote the text
        return ast.literal_eval(text.strip())


def _content(value: Any) -> str | None:
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not value:
        return None
    texts = []
    for part in value:
        text = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
        if not isinstance(text, str):
            return None
        texts.append(text)
    return "\n".join(texts)


def category_text(value: Any, depth: int = 8) -> str | None:
    """Return a category as one text: lists joined by ", ", of an object of booleans the sorted names that are true.

    What is nested more than `depth` lists deep is no category.
    """
    if not depth:
        return None
    if isinstance(value, dict):
        value = sorted(str(name) for name, flag in value.items() if flag is True)
    if isinstance(value, list):
        return ", ".join(filter(None, [category_text(item, depth - 1) for item in value])) or None
    return storable((scalar_text(value) or "").strip()) or None


def scalar_text(value: Any) -> str | None:
    """Return a text, number or truth value as text; None for null, not-a-number, lists and objects."""
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case None | list() | dict():
            return None
        case _ if _is_nan(value):
            return None
        case _:
            return str(value)


def _is_nan(value: Any) -> bool:
    """Whether a value is how a column of numbers says that one is missing."""
    return isinstance(value, float | Decimal) and math.isnan(value)


def ground_truth(value: Any, rule: GroundTruth) -> str | None:
    """Return the ground truth in a field's value by the recipe's rule, None where it isn't there.

    What follows ``after`` loses its thousands separators and full stop where it is a number: "1,234." is "1234".
    """
    text = scalar_text(value)
    if text is None:
        return None
    found: str | None = text
    if rule.after:
        _, mark, rest = text.rpartition(rule.after)
        found = _plain_number(rest.partition("\n")[0].strip()) if mark else None
    elif rule.regex:
        hits = list(re.finditer(rule.regex, text))
        found = hits[-1].group(hits[-1].re.groups) if hits else None
    elif rule.boxed:
        found = _last_boxed(text)
    return storable(found.strip()) or None if found is not None else None


def describe_rule(rule: GroundTruth) -> str:
    """Name a ground truth rule as the recipe writes it."""
    if rule.after:
        return f"after: {rule.after!r}"
    if rule.regex:
        return f"regex: {rule.regex!r}"
    return "boxed: true" if rule.boxed else "the whole value"


def _plain_number(text: str) -> str:
    return text.replace(",", "").removesuffix(".") if _NUMBER.fullmatch(text) else text


def _last_boxed(text: str) -> str | None:
    starts = [match.end() for match in _BOXED.finditer(text)]
    if not starts:
        return None
    depth = 1
    for brace in _BRACE.finditer(text, starts[-1]):
        depth += {"{": 1, "}": -1}.get(brace.group(), 0)
        if depth == 0:
            return text[starts[-1] : brace.start()]
    return None


def matches(found: Any, wanted: Any, untyped: bool) -> bool:
    """Say whether a field's value satisfies a ``where``: equals the wanted value, or one of a list of them.

    Of a list-valued field one item must. Types count, but 3 is 3.0, not-a-number is null, and where the file's format
    holds nothing but text (`untyped`: CSV) "False" is false and "3" is 3.
    """
    equal = _equal_text if untyped else _equal
    items = found if isinstance(found, list) else [found]
    values = wanted if isinstance(wanted, list) else [wanted]
    return any(equal(item, value) for item in items for value in values)


def _equal(found: Any, wanted: Any) -> bool:
    if wanted is None:
        return found is None or _is_nan(found)
    numbers = (int, float, Decimal)
    if isinstance(found, numbers) and isinstance(wanted, numbers):
        return isinstance(found, bool) == isinstance(wanted, bool) and found == wanted
    return type(found) is type(wanted) and bool(found == wanted)


def _equal_text(found: Any, wanted: Any) -> bool:
    match wanted:
        case None:
            return found in (None, "")
        case str():
            return bool(found == wanted)
        case bool():
            return str(found).strip().casefold() == str(wanted).casefold()
        case _:
            try:
                return found is not None and float(found) == wanted
            except ValueError:
                return False
