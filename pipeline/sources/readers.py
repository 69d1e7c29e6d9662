"""Records of a file, streamed: JSON, JSON Lines, CSV, TSV and Parquet, plain or gzipped.

The file's name says the format. Content of another format is an error that says what it is; nothing is guessed. No
error quotes the file's content, which may be harmful text.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import shutil
import sys
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, NamedTuple

from pipeline.errors import SourceError
from pipeline.sources.fields import listed

_FORMATS = {
    ".json": "JSON",
    ".jsonl": "JSON Lines",
    ".ndjson": "JSON Lines",
    ".csv": "CSV",
    ".tsv": "TSV",
    ".parquet": "Parquet",
}
_MAGIC = (
    (b"PAR1", "Parquet", ".parquet"),
    (b"PK\x03\x04", "a zip archive", None),
    (b"\x28\xb5\x2f\xfd", "zstd", None),
    (b"ARROW1", "Arrow", None),
)
_GZIP = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_JSON_ARRAY = re.compile(rb"\s*\[\s*(?:[\[{\]\"]|$)")
_JSON_OBJECT = re.compile(rb"\s*\{\s*(?:[\"}]|$)")
_SPACE = re.compile(r"[ \t\r\n]*")
_HEAD = 4096
_BATCH = 1024


class File(NamedTuple):
    """A file to read, and its name in messages."""

    path: Path
    shown: str

    @property
    def gzipped(self) -> bool:
        """Whether the name ends in .gz."""
        return self.path.suffix.lower() == ".gz"

    @property
    def suffix(self) -> str:
        """The suffix that names the format, in lower case, without .gz."""
        return (Path(self.path.stem) if self.gzipped else self.path).suffix.lower()

    @property
    def untyped(self) -> bool:
        """Whether the format holds nothing but text."""
        return self.suffix in (".csv", ".tsv")

    def renamed(self, suffix: str) -> str:
        """The file's name with another format's suffix."""
        name = self.path.name
        name = name[: -len(".gz")] if self.gzipped else name
        stem = name[: -len(self.suffix)] if self.suffix else name
        return stem + suffix


def check_name(file: File) -> None:
    """Raise SourceError where the file's name names no format that is read."""
    known = ", ".join(_FORMATS)
    if file.suffix not in _FORMATS:
        what = f"has the unknown suffix {file.suffix!r}" if file.suffix else "has no suffix to tell its format"
        raise SourceError(f"{file.shown} {what}. Known are {known}, each also with .gz: rename the file.")


def columns(file: File) -> list[str] | None:
    """Return the names that every record has, None where records may differ (JSON). Raises like `records`."""
    match _FORMATS[file.suffix]:
        case "CSV" | "TSV":
            with _opened(file) as stream:
                return _header(file, _Table(file, stream))
        case "Parquet":
            with _parquet(file) as parquet:
                return list(parquet.schema_arrow.names)
        case _:
            return None


def records(file: File, wanted: Collection[str]) -> Iterator[dict[str, Any]]:
    """Yield the file's records in order; of a Parquet file only the `wanted` columns are read.

    Raises:
        SourceError: the file can't be read, is empty, cut off, damaged, not UTF-8, or of another format than its name
            says; a record is broken.
    """
    match _FORMATS[file.suffix]:
        case "JSON":
            return _json(file)
        case "JSON Lines":
            return _json_lines(file)
        case "Parquet":
            return _parquet_rows(file, wanted)
        case _:
            return _csv(file)


@contextmanager
def _opened(file: File) -> Iterator[BufferedReader[Any]]:
    """Open the file, unzipped, its first bytes checked."""
    with reading(file), open(file.path, "rb") as raw:
        head = raw.peek(_HEAD)[:_HEAD]
        if file.gzipped and head and not head.startswith(_GZIP):
            raise SourceError(
                f"{file.shown} is named .gz but is not gzipped; rename it to {file.path.name[: -len('.gz')]}."
            )
        stream: BufferedReader[Any] = BufferedReader(gzip.GzipFile(fileobj=raw)) if file.gzipped and head else raw
        _check_head(file, stream.peek(_HEAD)[:_HEAD])
        yield stream


@contextmanager
def _seekable(file: File, stream: BufferedReader[Any]) -> Iterator[IO[bytes]]:
    """The stream itself, or what it holds unpacked in a temporary file."""
    if not file.gzipped:
        yield stream
        return
    with TemporaryFile() as plain:
        shutil.copyfileobj(stream, plain)
        plain.seek(0)
        yield plain


@contextmanager
def reading(file: File) -> Iterator[None]:
    """Turn what the operating system or gzip raise into a SourceError that names the file."""
    try:
        yield
    except EOFError:
        raise SourceError(f"{file.shown} is cut off: its gzip stream ends early. Copy or download it again.") from None
    except (gzip.BadGzipFile, zlib.error):
        raise SourceError(f"{file.shown} is damaged: its gzip stream is broken. Copy or download it again.") from None
    except PermissionError:
        raise SourceError(f"{file.shown} can't be read: no permission. Make it readable for this user.") from None
    except OSError as error:
        raise SourceError(f"{file.shown} can't be read: {error.strerror or error}.") from None


def _check_head(file: File, head: bytes) -> None:
    if not head.removeprefix(_BOM).strip():
        if len(head) < _HEAD:
            raise SourceError(f"{file.shown} is empty. Fill it, or take it out of the recipe.")
        return
    if file.suffix == ".parquet" and head.startswith(b"PAR1"):
        return
    says = f"{file.shown} is named {file.suffix} but holds"
    if head.startswith(_GZIP):
        todo = f"rename it to {file.path.name}.gz" if file.suffix != ".parquet" and not file.gzipped else "unpack it"
        raise SourceError(f"{says} gzip; {todo}.")
    for magic, name, suffix in _MAGIC:
        if head.startswith(magic):
            if suffix is None or file.gzipped:
                raise SourceError(f"{says} {name}{' in gzip' * file.gzipped}; unpack or convert it.")
            raise SourceError(f"{says} {name}; rename it to {file.renamed(suffix)}.")
    if head.startswith(_UTF16):
        raise SourceError(f"{file.shown} is UTF-16, not UTF-8 (byte 0, line 1). Save it as UTF-8.")
    holds = _json_kind(head.removeprefix(_BOM))
    if file.suffix == ".parquet":
        raise SourceError(f"{says} no Parquet{f' but {holds}' if holds else ''}; give it the suffix of its format.")
    if holds and (file.untyped or (holds == "a JSON array" and _FORMATS[file.suffix] == "JSON Lines")):
        gz = ".gz" * file.gzipped
        right = ".json" if holds == "a JSON array" or not _is_json(head.split(b"\n")[0]) else ".jsonl"
        raise SourceError(f"{says} {holds}; rename it to {file.renamed(right + gz)}.")


def _json_kind(head: bytes) -> str | None:
    if _JSON_ARRAY.match(head):
        return "a JSON array"
    return "JSON objects" if _JSON_OBJECT.match(head) else None


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _lines(file: File, stream: BufferedReader[Any]) -> Iterator[str]:
    """Decode line by line, so that what is no UTF-8 has a line and a byte."""
    offset = 0
    for number, line in enumerate(stream, 1):
        text = line[len(_BOM) :] if number == 1 and line.startswith(_BOM) else line
        try:
            yield text.decode()
        except UnicodeDecodeError as error:
            raise _not_utf8(file, offset + len(line) - len(text) + error.start, number) from None
        offset += len(line)


def _not_utf8(file: File, offset: int, line: int) -> SourceError:
    return SourceError(f"{file.shown}:{line} is not UTF-8 at byte {offset}. Save the file as UTF-8.")


def _json_lines(file: File) -> Iterator[dict[str, Any]]:
    decode = json.JSONDecoder().decode
    with _opened(file) as stream:
        for number, line in enumerate(_lines(file, stream), 1):
            if line.isspace():
                continue
            try:
                record = decode(line)
            except (ValueError, RecursionError) as error:
                raise _broken_line(file, number, line, error) from None
            if type(record) is not dict:
                raise SourceError(f"{file.shown}:{number} is no JSON object. Each line must be one: {{...}}.")
            yield record


def _broken_line(file: File, number: int, line: str, error: ValueError | RecursionError) -> SourceError:
    if isinstance(error, json.JSONDecodeError) and _at_end(error, line):
        if not line.endswith("\n"):
            return SourceError(
                f"{file.shown}:{number} is cut off: the file ends in the middle of a record. Copy or download it again."
            )
        if number == 1:
            return SourceError(
                f"{file.shown}:1 is no whole JSON object. If the file is one JSON document over several lines, "
                f"rename it to {file.renamed('.json' + '.gz' * file.gzipped)}; else correct the line."
            )
    column = f":{min(error.pos, len(line.rstrip())) + 1}" if isinstance(error, json.JSONDecodeError) else ""
    return SourceError(f"{file.shown}:{number}{column} is broken JSON: {_why(error)}. Correct or remove the line.")


def _why(error: ValueError | RecursionError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return error.msg[:1].lower() + error.msg[1:]
    return "nested too deeply" if isinstance(error, RecursionError) else "a number with too many digits"


def _at_end(error: json.JSONDecodeError, text: str) -> bool:
    unfinished = len("\\u0000") if "escape" in error.msg else 0
    return error.msg.startswith("Unterminated string") or error.pos + unfinished >= len(text.rstrip())


def _json(file: File) -> Iterator[dict[str, Any]]:
    with _opened(file) as stream:
        data = stream.read()
    bom = len(_BOM) if data.startswith(_BOM) else 0
    try:
        text = data[bom:].decode()
    except UnicodeDecodeError as error:
        raise _not_utf8(file, bom + error.start, data.count(b"\n", 0, bom + error.start) + 1) from None
    del data
    start = _skip(text, 0)
    match text[start : start + 1]:
        case "":
            items: Iterator[tuple[int, Any]] = iter(())
        case "[":
            items = _items(file, text, start)
        case "{":
            items = _only_list(file, text, start)
        case _:
            raise SourceError(f"{_place(file, text, start)} is no JSON: it must be an array of objects.")
    for number, (position, item) in enumerate(items):
        if type(item) is not dict:
            raise SourceError(f"{_place(file, text, position)}: item {number} is no object. Each must be one: {{...}}.")
        yield item


def _items(file: File, text: str, start: int) -> Iterator[tuple[int, Any]]:
    decoder = json.JSONDecoder()
    position = _skip(text, start + 1)
    closed = text.startswith("]", position)
    while not closed:
        item, end = _decode(file, decoder, text, position)
        yield position, item
        position = _skip(text, end)
        mark = text[position : position + 1]
        if mark not in (",", "]"):
            raise _broken(file, text, json.JSONDecodeError("Expecting ',' delimiter", text, position))
        closed = mark == "]"
        if not closed:
            position = _skip(text, position + 1)
    rest = _skip(text, position + 1)
    if rest < len(text):
        raise SourceError(f"{_place(file, text, rest)} is broken JSON: something follows the array's end. Remove it.")


def _only_list(file: File, text: str, start: int) -> Iterator[tuple[int, Any]]:
    whole, end = _decode(file, json.JSONDecoder(), text, start)
    rest = _skip(text, end)
    if text.startswith("{", rest):
        right = file.renamed(".jsonl" + ".gz" * file.gzipped)
        raise SourceError(f"{file.shown} is named .json but holds JSON Lines; rename it to {right}.")
    if rest < len(text):
        raise SourceError(f"{_place(file, text, rest)} is broken JSON: something follows the object's end. Remove it.")
    lists = [name for name, value in whole.items() if isinstance(value, list) and value and isinstance(value[0], dict)]
    if len(lists) != 1:
        found = f"several ({listed(lists)})" if lists else f"none (it has {listed(list(whole))})"
        raise SourceError(
            f"{file.shown} holds one object, in which exactly one list of objects was looked for and {found} found. "
            "Make it an array of objects."
        )
    return ((start, item) for item in whole[lists[0]])


def _decode(file: File, decoder: json.JSONDecoder, text: str, position: int) -> tuple[Any, int]:
    try:
        return decoder.raw_decode(text, position)
    except (ValueError, RecursionError) as error:
        raise _broken(file, text, error, position) from None


def _broken(file: File, text: str, error: ValueError | RecursionError, start: int = 0) -> SourceError:
    if isinstance(error, json.JSONDecodeError):
        if _at_end(error, text):
            where = f"line {text.count(chr(10)) + 1}"
            return SourceError(
                f"{file.shown} is cut off: it ends ({where}) in the middle of the data. Copy or download it again."
            )
        start = error.pos
    return SourceError(f"{_place(file, text, start)} is broken JSON: {_why(error)}. Correct it.")


def _place(file: File, text: str, position: int) -> str:
    return f"{file.shown}:{text.count(chr(10), 0, position) + 1}:{position - text.rfind(chr(10), 0, position)}"


def _skip(text: str, position: int) -> int:
    found = _SPACE.match(text, position)
    return found.end() if found else position


class _Table:
    """A CSV reader that knows the line its next row starts at, and tells what is broken."""

    def __init__(self, file: File, stream: BufferedReader[Any]) -> None:
        csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
        delimiter = "\t" if file.suffix == ".tsv" else ","
        self.file = file
        self.line = 1
        self._reader = csv.reader(_lines(file, stream), delimiter=delimiter, strict=True)

    def __iter__(self) -> Iterator[list[str]]:
        while True:
            self.line = self._reader.line_num + 1
            try:
                row = next(self._reader, None)
            except csv.Error as error:
                raise self._broken(error) from None
            if row is None:
                return
            if row:
                yield row

    def _broken(self, error: csv.Error) -> SourceError:
        place, why = f"{self.file.shown}:{self.line}", str(error)
        if "unexpected end" in why:
            return SourceError(
                f"{place} opens a quote that is never closed: the file is cut off or the quote is not doubled. "
                "Close it, or copy the file again."
            )
        if "new-line" in why:
            return SourceError(f"{place} has a lone carriage return outside quotes. Save it with Unix line ends.")
        return SourceError(f"{place} is broken {_FORMATS[self.file.suffix]}: {why}. Correct the row.")


def _header(file: File, table: _Table) -> list[str]:
    header = next(iter(table), [])
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise SourceError(f"{file.shown}:1 names a column twice in its header: {listed(twice)}. Rename one of each.")
    if file.suffix == ".csv" and len(header) == 1 and "\t" in header[0]:
        right = file.renamed(".tsv" + ".gz" * file.gzipped)
        raise SourceError(f"{file.shown} is named .csv but its cells are separated by tabs; rename it to {right}.")
    return header


def _csv(file: File) -> Iterator[dict[str, Any]]:
    with _opened(file) as stream:
        table = _Table(file, stream)
        header = _header(file, table)
        for row in table:
            if len(row) != len(header):
                raise SourceError(
                    f"{file.shown}:{table.line} has {len(row)} cells where the header has {len(header)}. "
                    "Correct the row; a cell with a separator, quote or newline must stand in quotes."
                )
            yield dict(zip(header, row, strict=True))


@contextmanager
def _parquet(file: File) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _opened(file) as opened, _seekable(file, opened) as stream:
        stream.seek(-min(4, stream.seek(0, 2)), 2)
        if stream.read() not in (b"PAR1", b"PARE"):
            raise SourceError(f"{file.shown} is cut off: Parquet's last bytes are missing. Copy or download it again.")
        try:
            with pq.ParquetFile(stream) as parquet:
                yield parquet
        except (pa.ArrowException, OSError) as error:
            why = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
            raise SourceError(f"{file.shown} is damaged Parquet: {why}. Copy or download it again.") from None
        except UnicodeDecodeError:
            raise SourceError(f"{file.shown} holds text that is not UTF-8. Write it again as UTF-8.") from None


def _parquet_rows(file: File, wanted: Collection[str]) -> Iterator[dict[str, Any]]:
    with _parquet(file) as parquet:
        names = [name for name in parquet.schema_arrow.names if name in wanted]
        for batch in parquet.iter_batches(batch_size=_BATCH, columns=names):
            yield from batch.to_pylist()
