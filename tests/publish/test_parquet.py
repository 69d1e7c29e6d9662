from __future__ import annotations

import random
import zlib
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.publish import parquet
from pipeline.publish.parquet import ROWS_PER_GROUP, ShardedWriter, content_hash

SCHEMA = pa.schema([("id", pa.string()), ("text", pa.string())])


def table(start: int, stop: int) -> pa.Table:
    columns = [[f"{i:08}" for i in range(start, stop)], [f"text {i}" * 9 for i in range(start, stop)]]
    return pa.table([pa.array(column, pa.string()) for column in columns], schema=SCHEMA)


def write(folder: Path, cuts: list[int]) -> list[Path]:
    with ShardedWriter(folder, "mixture", SCHEMA, cuts[-1]) as writer:
        for start, stop in pairwise([0, *cuts]):
            writer.write(table(start, stop))
    return sorted(folder.iterdir())


def test_the_bytes_do_not_depend_on_how_rows_arrive(tmp_path: Path) -> None:
    (one,) = write(tmp_path / "one", [20_000])
    (other,) = write(tmp_path / "other", [3, 3, 8_192, 9_000, 20_000])
    assert one.read_bytes() == other.read_bytes()
    assert pq.read_table(one).equals(table(0, 20_000))


def test_the_format_is_what_the_hub_wants(tmp_path: Path) -> None:
    (path,) = write(tmp_path, [20_000])
    assert path.name == "mixture-00000-of-00001.parquet"
    metadata = pq.ParquetFile(path).metadata
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [ROWS_PER_GROUP] * 2 + [3_616]
    column = metadata.row_group(0).column(1)
    assert column.compression == "ZSTD"
    assert column.has_offset_index
    assert column.has_column_index


def test_many_rows_make_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "ROWS_PER_FILE", 10_000)
    paths = write(tmp_path, [25_000])
    assert [path.name for path in paths] == [f"mixture-0000{i}-of-00003.parquet" for i in range(3)]
    assert [pq.ParquetFile(path).metadata.num_rows for path in paths] == [10_000, 10_000, 5_000]
    assert pa.concat_tables([pq.read_table(path) for path in paths]).equals(table(0, 25_000))


def test_exactly_full_files_leave_no_empty_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "ROWS_PER_FILE", 10_000)
    assert [pq.ParquetFile(path).metadata.num_rows for path in write(tmp_path, [20_000])] == [10_000, 10_000]


def test_no_rows_make_one_file_with_the_schema(tmp_path: Path) -> None:
    (path,) = write(tmp_path, [0])
    assert pq.read_schema(path).equals(SCHEMA)


def test_a_small_change_keeps_most_of_the_bytes(tmp_path: Path) -> None:
    words = [f"w{zlib.crc32(bytes([i % 251, i // 251]))}" for i in range(4_000)]
    texts = [" ".join(random.Random(i).choices(words, k=200)) for i in range(9_000)]
    ids = [f"{i:08}" for i in range(len(texts))]
    pieces = []
    for name, left_out in (("all", -1), ("less", 5)):
        rows = [i for i in range(len(texts)) if i != left_out]
        with ShardedWriter(tmp_path / name, "m", SCHEMA, len(rows)) as writer:
            writer.write(pa.table([[ids[i] for i in rows], [texts[i] for i in rows]], schema=SCHEMA))
        pieces.append(chunks((tmp_path / name / "m-00000-of-00001.parquet").read_bytes()))
    kept = sum(map(len, pieces[0] & pieces[1]))
    assert kept > 0.6 * sum(map(len, pieces[1]))


def chunks(data: bytes) -> set[bytes]:
    """Cut where the bytes themselves say so, as the Hub's storage does."""
    cuts = [0, *(i for i in range(16, len(data)) if not zlib.crc32(data[i - 16 : i]) & 0xFFF), len(data)]
    return {data[a:b] for a, b in pairwise(cuts)}


rows = st.fixed_dictionaries({"id": st.text(max_size=4), "n": st.none() | st.integers() | st.text(max_size=3)})


@given(st.lists(rows, max_size=5))
def test_the_content_hash_knows_rows_and_their_order_but_not_the_order_of_keys(listed: list[dict[str, object]]) -> None:
    assert content_hash(listed) == content_hash([dict(reversed(row.items())) for row in listed])
    changed = [*listed, {"id": "x", "n": 0}]
    assert content_hash(listed) != content_hash(changed)
    if listed and listed != listed[::-1]:
        assert content_hash(listed) != content_hash(listed[::-1])
