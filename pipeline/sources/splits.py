"""One split of a dataset, opened: its columns, and its rows as they come, from the Hub or from a folder of its files.

`datasets` finds the files of a config and a split, and streams every format but Parquet. Parquet is read here: its own
reader fetches five mebibytes around each column (all of a smaller file, whatever columns are asked for), and the
threads it leaves behind abort the process where reading stops early (datasets 5.2, pyarrow 26).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from pipeline.sources.fields import get

_AHEAD = 1 << 19
"""Bytes fetched beyond what a Parquet file is asked for: columns that are close by come with it."""
_BATCH = 1024

Reader = Callable[[Any], Any]


class Split(NamedTuple):
    """A split whose rows can be read.

    ``columns`` are the names that every row has, None where they aren't known before reading; ``features`` their types
    as `datasets` has them, as far as they are known.
    """

    columns: list[str] | None
    features: dict[str, Any]
    stream: Callable[[list[str] | None], Iterator[dict[str, Any]]]

    def rows(self, wanted: Collection[str]) -> Iterator[dict[str, Any]]:
        """Yield the rows in order, of their columns only the `wanted`; labels are names and not numbers."""
        columns = None if self.columns is None else [name for name in self.columns if name in wanted]
        readers = {name: reader for name in columns or () if (reader := _reader(self.features.get(name)))}
        if not readers:
            yield from self.stream(columns)
            return
        for row in self.stream(columns):
            yield row | {name: reader(row[name]) for name, reader in readers.items() if name in row}

    def named(self, path: str, wanted: Any) -> Any:
        """What `rows` calls the values wanted of a field: of a label's number its name."""
        names = _label_names(get(self.features, path))
        if isinstance(wanted, list):
            return [_name(names, value) for value in wanted]
        return _name(names, wanted)


def open_split(place: str, config: str | None, split: str, commit: str | None) -> Split:
    """Open a split. Only what names its files and columns is read.

    Args:
        place: A dataset's name on the Hub, or a folder.
        config: None for the only one, or the one that the dataset calls the default.
        split: One name, several with plus signs between them, or "all".
        commit: Which one, None for a folder.

    Raises:
        ValueError: there is no such config or split; `datasets` and `huggingface_hub` raise more.
    """
    from datasets import Features, load_dataset_builder
    from datasets import config as settings
    from datasets.packaged_modules.parquet.parquet import Parquet
    from datasets.utils import logging
    from huggingface_hub.constants import ENDPOINT

    logging.set_verbosity(logging.CRITICAL)  # its errors quote rows, and are told in the exception as well
    settings.HF_ENDPOINT = ENDPOINT  # without a slash at its end, which finds no dataset
    address = f"hf://datasets/{place}" if commit else place  # else a folder of this name would be read in its place
    with TemporaryDirectory(prefix="recap-no-cache-") as empty:  # with a cache it would fall back on any commit in it
        try:
            builder = load_dataset_builder(address, config, revision=commit, cache_dir=empty)
        except (TypeError, AttributeError, KeyError) as error:
            raise ValueError(f"its card is not what the library datasets takes ({error})") from error
    parts = _parts(split, list(builder.config.data_files or ()))
    if not isinstance(builder, Parquet):
        stream = builder.as_streaming_dataset(split="+".join(parts))
        return Split(stream.column_names, dict(stream.features or {}), lambda columns: _streamed(stream, columns))
    files = [str(file) for part in parts for file in builder.config.data_files[part]]
    schema = _schema(files[0])
    features = Features.from_arrow_schema(schema) | (builder.info.features or {})
    return Split(list(schema.names), dict(features), lambda columns: _parquet_rows(files, columns))


def _parts(split: str, there: list[str]) -> list[str]:
    parts = [split] if split in there else there if split == "all" else [part.strip() for part in split.split("+")]
    if missing := [part for part in parts if part not in there]:
        raise ValueError(f"there is no split {missing[0]!r}, there is {', '.join(there) or 'none'}")
    return parts


def _streamed(stream: Any, columns: list[str] | None) -> Iterator[dict[str, Any]]:
    if columns is not None:
        stream = stream.select_columns(columns).decode(False)
    yield from stream


def _opened(file: str) -> AbstractContextManager[Any]:
    if "://" not in file:
        return open(file, "rb")
    from huggingface_hub import HfFileSystem

    opened: AbstractContextManager[Any] = HfFileSystem().open(file, "rb", block_size=_AHEAD)
    return opened


def _schema(file: str) -> Any:
    import pyarrow.parquet as pq

    with _opened(file) as stream:
        return pq.read_schema(stream)


def _parquet_rows(files: Iterable[str], columns: list[str] | None) -> Iterator[dict[str, Any]]:
    """Read without threads, one row group after the other: where reading stops, nothing more is fetched."""
    import pyarrow.parquet as pq

    for file in files:
        with _opened(file) as stream, pq.ParquetFile(stream, pre_buffer=False) as parquet:
            names = [name for name in parquet.schema_arrow.names if columns is None or name in columns]
            for batch in parquet.iter_batches(batch_size=_BATCH, columns=names, use_threads=False):
                yield from batch.to_pylist()


def _reader(feature: Any) -> Reader | None:
    """What makes of a stored value what a user means by it, None where that is the value itself."""
    kind = type(feature).__name__  # datasets 4 hasn't all of them
    if kind == "ClassLabel":
        return lambda value: _name(feature.names, value)
    if kind == "Json":
        return lambda value: json.loads(value) if isinstance(value, str) else value
    if kind in ("List", "LargeList"):
        inner = _reader(feature.feature)
        return inner and (lambda value: value and [inner(item) for item in value])
    if isinstance(feature, dict):
        parts = {name: reader for name, part in feature.items() if (reader := _reader(part))}
        if parts:
            return lambda value: value and {n: parts[n](v) if n in parts else v for n, v in value.items()}
    return None


def _label_names(feature: Any) -> list[str] | None:
    """The names of the labels that a field holds, one or a list of them."""
    return getattr(getattr(feature, "feature", feature), "names", None)


def _name(names: list[str] | None, value: Any) -> Any:
    """The name of a label; -1 stands for none, and what no label has stays as it is."""
    if not names or type(value) is not int or not -1 <= value < len(names):
        return value
    return names[value] if value >= 0 else None
