"""From a place's records to rows with an id and an origin, and to rows that can't be used, with the reason."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple

from pipeline.errors import SourceError
from pipeline.recipe import GroundTruth, Source
from pipeline.sources import demo, hub, readers
from pipeline.sources.fields import (
    MISSING,
    category_text,
    describe_rule,
    explain_column,
    explain_missing,
    get,
    ground_truth,
    kind,
    matches,
    prompt_turns,
    storable,
)
from pipeline.sources.identity import row_id
from pipeline.sources.known import evaluation_domain, known
from pipeline.sources.readers import File
from pipeline.thinking import control_token

_CONTROL_CHARACTER = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_BLANK_SYMBOLS = frozenset("\u115f\u1160\u3164\uffa0\u2800\u034f")


class Located(NamedTuple):
    """One place rows are read from, resolved before anything is read.

    `revision` is ``sha256:<hex>`` of a file's or a bundled set's bytes, or a commit of the Hub. `path` is the file as
    shown and stored: relative to the recipe as written, None elsewhere. `location` is what opening it takes; `earlier`
    are the files whose rows count first where the source has a limit.
    """

    dataset: str
    config: str | None
    split: str | None
    revision: str
    licence: str | None
    path: str | None
    location: File | None = None
    earlier: tuple[File, ...] = ()


class Pulled(NamedTuple):
    """One batch of rows.

    A row has the keys ``id``, ``domain``, ``prompt`` (messages), ``ground_truth`` and ``origin``; a rejected row has
    ``reason`` as well. `read` counts the records read, `selected` those that satisfied ``where``.
    """

    rows: list[dict[str, Any]]
    rejected: list[dict[str, Any]]
    read: int
    selected: int


class _Selected(NamedTuple):
    row: int
    turns: list[str] | None
    category: str | None
    ground_truth: str | None


def pull(source: Source, located: Located, domain: str, max_chars: int, *, batch: int = 4096) -> Iterator[Pulled]:
    """Read the rows of one place, in its order, `batch` records at a time.

    `source` is completed, `max_chars` the longest prompt in characters.

    Raises:
        SourceError: a math source without ground truth, and while iterating: the place can't be read, holds nothing, or
            a field of the source is in none of its rows.
    """
    if domain == "math" and source.ground_truth is None:
        raise SourceError(f"{located.path or located.dataset}: a math source needs ground_truth: name its field.")
    return _pull(source, located, domain, max_chars, batch)


def texts(source: Source, located: Located) -> Iterator[str]:
    """Yield the prompts of one place as texts (turns joined by a newline), empty ones skipped, no other left out.

    Raises like `pull`.
    """
    for text, _ in evaluation_texts(source, located):
        yield text


def evaluation_texts(source: Source, located: Located) -> Iterator[tuple[str, str | None]]:
    """`texts`, each with its domain where that is known."""
    for selected in _limited(source, located, None):
        if selected is not None and selected.turns is not None:
            text = "\n".join(selected.turns)
            if not _invisible(text):
                yield storable(text), evaluation_domain(source, selected.category)


def _pull(source: Source, located: Located, domain: str, max_chars: int, batch: int) -> Iterator[Pulled]:
    rows: list[dict[str, Any]] = []
    rejected: list[dict[str, Any]] = []
    read = 0
    constant = {key: getattr(located, key) for key in ("dataset", "config", "split", "revision", "licence")}
    for selected in _limited(source, located, domain):
        read += 1
        if selected is not None:
            reason = _reject(selected.turns, max_chars)
            if reason is None and domain == "math" and selected.ground_truth is None:
                reason = "no ground truth"
            turns = selected.turns or [""]
            if reason == "not valid Unicode":
                turns = [storable(turn) for turn in turns]
            row: dict[str, Any] = {
                "id": row_id(domain, turns),
                "domain": domain,
                "prompt": [{"role": "user", "content": turn} for turn in turns],
                "ground_truth": selected.ground_truth,
                "origin": {**constant, "row": selected.row, "category": selected.category},
            }
            if reason is None:
                rows.append(row)
            else:
                rejected.append({**row, "reason": reason})
        if read == batch:
            yield Pulled(rows, rejected, read, len(rows) + len(rejected))
            rows, rejected, read = [], [], 0
    if read:
        yield Pulled(rows, rejected, read, len(rows) + len(rejected))


def _reject(turns: list[str] | None, max_chars: int) -> str | None:
    """Say why a prompt can't be used, None where it can."""
    if turns is None:
        return "no prompt"
    text = "\n".join(turns)
    if not text.isascii() and storable(text) != text:
        return "not valid Unicode"
    if any(_invisible(turn) for turn in turns):
        return "empty"
    if sum(map(len, turns)) > max_chars:
        return "too long"
    if _CONTROL_CHARACTER.search(text):
        return "control characters"
    return "control token" if control_token(text) else None


def _invisible(text: str) -> bool:
    return all(
        character.isspace() or character in _BLANK_SYMBOLS or unicodedata.category(character) == "Cf"
        for character in text
    )


class _Field:
    """A field of a source in one place: its value in a record, and an account of the records that lack it.

    `paths` are tried in turn; an `optional` field may be missing from every record.
    """

    def __init__(self, key: str, paths: Sequence[str], place: str, *, optional: bool = False) -> None:
        self.key, self.paths, self.place, self.optional = key, paths, place, optional
        self.found = self.missing = 0
        self.why = ""

    def __call__(self, record: dict[str, Any]) -> Any:
        for path in self.paths:
            value = get(record, path)
            if value is not MISSING:
                self.found += 1
                return value
        if not self.missing and self.paths:
            self.why = explain_missing(record, self.paths[0])
        self.missing += 1
        return None

    def check_columns(self, columns: list[str]) -> None:
        """Raise SourceError where a table has no column for the field."""
        if not self.optional and not any(part in columns for path in self.paths for part in heads(path)):
            self.missing, self.why = 1, explain_column(columns, self.paths[0])
            self.check()

    def check(self) -> None:
        """Raise SourceError where every record asked lacked the field."""
        if self.missing and not self.found and not self.optional:
            names = " or ".join(map(repr, self.paths))
            raise SourceError(f"{self.place} has no field {names} (the source's {self.key}): {self.why}.")


def heads(path: str) -> list[str]:
    """The columns under which a field path may start: ``a.b`` is in ``a.b`` or in ``a``."""
    return list(accumulate(path.split("."), "{}.{}".format))


def _limited(source: Source, located: Located, domain: str | None) -> Iterator[_Selected | None]:
    """`_scan` up to the source's limit, of which its earlier files take their part first."""
    left = source.limit
    for file in located.earlier:
        if left:
            place = located._replace(path=file.shown, location=file)
            left -= sum(selected is not None for selected in _scan(source, place, domain, left))
    if left != 0:
        yield from _scan(source, located, domain, left)


def _scan(source: Source, located: Located, domain: str | None, limit: int | None) -> Iterator[_Selected | None]:
    """Yield, for each record, what the source takes of it, or None where ``where`` leaves it out; end once `limit` are
    taken.
    """
    place = located.path or located.dataset
    entry = known(source.dataset)
    rule = source.ground_truth if domain == "math" else None
    where = {name: _Field(f"where {name}", [name], place) for name in source.where}
    prompt = _Field("prompt", (source.prompt,) if source.prompt else entry.prompt if entry else (), place)
    category = _Field(
        "category",
        (source.category,) if source.category else entry.category if entry else (),
        place,
        optional=source.category is None or (entry is not None and source.category in entry.category),
    )
    truth = _Field("ground_truth", (rule.field,) if rule else (), place, optional=rule is None)
    fields = [*where.values(), prompt, category, truth]
    if not prompt.paths:
        raise SourceError(f"{place}: name the field that holds the prompt, as in prompt: question.")

    table = _table(source, located, domain)
    if table.columns is not None:
        for field in fields:
            field.check_columns(table.columns)
    prompts = _Usable(prompt, lambda kinds: f"holds {kinds} and never text. A prompt must be a text or messages")
    truths = _Usable(truth, lambda kinds: _no_truth(rule, kinds))
    wanted = {name: table.named(name, value) for name, value in source.where.items()}

    row, taken = -1, 0
    records = table.rows({head for field in fields for path in field.paths for head in heads(path)})
    for row, record in enumerate(records):
        found = {name: field(record) for name, field in where.items()}
        if not all(matches(value, wanted[name], table.untyped) for name, value in found.items()):
            yield None
            continue
        value = prompt(record)
        turns = prompts(value, prompt_turns(value))
        if turns is not None:
            turns = [turn.replace("\r\n", "\n") if "\r" in turn else turn for turn in turns]
        answer = None
        if rule is not None:
            value = truth(record)
            answer = truths(value, ground_truth(value, rule))
        yield _Selected(row, turns, category_text(category(record)), answer)
        taken += 1
        if taken == limit:
            break
    if row < 0:
        raise SourceError(f"{place} holds no rows. Fill it, or take it out of the recipe.")
    for field in fields:
        field.check()
    prompts.check()
    truths.check()


class _Usable:
    """An account of a field's values that are of no use, for an error where all are."""

    def __init__(self, field: _Field, explain: Callable[[str], str]) -> None:
        self.field, self.explain = field, explain
        self.useful = self.useless = 0
        self.kinds: set[str] = set()

    def __call__(self, value: Any, use: Any) -> Any:
        if use is None:
            self.useless += 1
            self.kinds.add(kind(value))
        else:
            self.useful += 1
        return use

    def check(self) -> None:
        """Raise SourceError where no value was of use."""
        if self.useless and not self.useful:
            rows = f"{self.useless:,} rows" if self.useless > 1 else "the one row"
            why = self.explain(" or ".join(sorted(self.kinds)))
            raise SourceError(f"{self.field.place}: in {rows} read, field {self.field.paths[0]!r} {why}.")


def _no_truth(rule: GroundTruth | None, kinds: str) -> str:
    named = describe_rule(rule) if rule else ""
    return f"(holding {kinds}) gave no ground truth by {named}. Correct the rule or name another field"


class _Table(NamedTuple):
    """What a place holds: the columns, where all rows have the same; the rows with some columns; how a field's values
    are called; whether all are text.
    """

    columns: list[str] | None
    rows: Callable[[Collection[str]], Iterator[dict[str, Any]]]
    named: Callable[[str, Any], Any] = lambda path, wanted: wanted
    untyped: bool = False


def _table(source: Source, located: Located, domain: str | None) -> _Table:
    file = located.location
    if file is not None:
        return _Table(readers.columns(file), partial(readers.records, file), untyped=file.untyped)
    if source.bundled is not None:
        name = source.bundled
        return _Table(None, lambda wanted: demo.records(name, domain))
    split = hub.opened(source, located.revision)
    return _Table(split.columns, split.rows, split.named)
