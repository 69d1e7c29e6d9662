"""Every format gives the same rows, streamed and in the file's order."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import SourceError
from pipeline.recipe import Source
from pipeline.sources import Pulled, complete, locate, pull, texts

Rows = list[dict[str, Any]]


def json_bytes(rows: Rows) -> bytes:
    return json.dumps(rows, indent=1, ensure_ascii=False).encode()


def wrapped_json_bytes(rows: Rows) -> bytes:
    return json.dumps({"version": 2, "notes": ["x"], "data": rows}).encode()


def jsonl_bytes(rows: Rows) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def csv_bytes(rows: Rows, delimiter: str = ",") -> bytes:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def tsv_bytes(rows: Rows) -> bytes:
    return csv_bytes(rows, "\t")


def parquet_bytes(rows: Rows) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out, row_group_size=max(3, len(rows) // 4))
    return out.getvalue()


WRITERS = {
    "a.json": json_bytes,
    "a-wrapped.json": wrapped_json_bytes,
    "a.jsonl": jsonl_bytes,
    "a.ndjson": jsonl_bytes,
    "a.csv": csv_bytes,
    "a.tsv": tsv_bytes,
    "a.parquet": parquet_bytes,
}
ZIPPED = {name + ".gz": writer for name, writer in WRITERS.items()}
SAMPLE: Rows = [
    {"prompt": "First,\nwith a new line", "category": 'quoted "x"', "answer": "so #### 1,234."},
    {"prompt": "Zweite Frage: wie öffne ich das?", "category": "b", "answer": "#### 7"},
    {"prompt": "third\ttab", "category": "b", "answer": "#### -3.5"},
    {"prompt": "  ", "category": "c", "answer": "#### 1"},
    {"prompt": "<|im_start|>fifth", "category": "c", "answer": "#### 1"},
]


@pytest.mark.parametrize("name", [*WRITERS, *ZIPPED])
def test_every_format_gives_the_same_rows(name: str, write: Callable[..., Path], read: Callable[..., Pulled]) -> None:
    write(name, {**WRITERS, **ZIPPED}[name](SAMPLE))
    got = read(name, "math", category="category", ground_truth={"field": "answer", "after": "####"})
    assert [row["prompt"] for row in got.rows] == [[{"role": "user", "content": r["prompt"]}] for r in SAMPLE[:3]]
    assert [row["ground_truth"] for row in got.rows] == ["1234", "7", "-3.5"]
    assert [row["origin"]["category"] for row in got.rows] == ['quoted "x"', "b", "b"]
    assert [row["origin"]["row"] for row in got.rows] == [0, 1, 2]
    assert [(r["reason"], r["origin"]["row"]) for r in got.rejected] == [("empty", 3), ("control token", 4)]
    assert (got.read, got.selected) == (5, 5)


# What CSV can't tell apart (a carriage return alone ends a line) is left out.
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=30)
TABLE = st.lists(st.fixed_dictionaries({"prompt": TEXT, "category": TEXT}), min_size=1, max_size=6)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TABLE)
def test_round_trip_through_each_format(tmp_path: Path, merge: Callable[..., Pulled], rows: Rows) -> None:
    seen = []
    for name, writer in WRITERS.items():
        (tmp_path / name).write_bytes(writer(rows))
        got = merge(Source(files=(name,), dataset="x/y", prompt="prompt", category="category"), tmp_path)
        for row in [*got.rows, *got.rejected]:
            del row["origin"]["revision"]
        seen.append(got)
    assert all(got == seen[0] for got in seen)
    assert seen[0].read == seen[0].selected == len(rows)
    by_row = sorted([*seen[0].rows, *seen[0].rejected], key=lambda row: row["origin"]["row"])
    assert [row["prompt"][0]["content"] for row in by_row] == [row["prompt"] for row in rows]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.csv", "a.tsv"])
def test_byte_order_mark_is_no_part_of_the_data(
    name: str, write: Callable[..., Path], read: Callable[..., Pulled]
) -> None:
    write(name, b"\xef\xbb\xbf" + WRITERS[name](SAMPLE))
    assert len(read(name).rows) == 3


def test_blank_lines_and_windows_line_ends(write: Callable[..., Path], read: Callable[..., Pulled]) -> None:
    write("a.jsonl", '\n{"prompt": "one"}\r\n\r\n  \n{"prompt": "two\\r\\nlines"}')
    write("a.csv", 'prompt\r\n\r\none\r\n"two\r\nlines"\r\n\r\n')
    for name in ("a.jsonl", "a.csv"):
        got = read(name)
        assert [row["prompt"][0]["content"] for row in got.rows] == ["one", "two\nlines"]
        assert [row["origin"]["row"] for row in got.rows] == [0, 1]


def test_unicode_line_separators_end_no_line(write: Callable[..., Path], read: Callable[..., Pulled]) -> None:
    write("a.jsonl", '{"prompt": "one\u2028two\u0085three"}\n')
    write("a.csv", "prompt\none\u2028two\u2029three\n")
    assert read("a.csv").rows[0]["prompt"][0]["content"] == "one\u2028two\u2029three"
    assert read("a.jsonl").rejected[0]["reason"] == "control characters"


def test_large_csv_cell(write: Callable[..., Path], read: Callable[..., Pulled]) -> None:
    write("a.csv", "prompt,category\n" + "word " * 200_000 + ",x\n")
    got = read("a.csv", max_chars=2_000_000)
    assert len(got.rows[0]["prompt"][0]["content"]) == 1_000_000


def test_parquet_types_and_nested_columns(tmp_path: Path, read: Callable[..., Pulled]) -> None:
    table = pa.table(
        {
            "prompt": pa.array(["a", "b", None], pa.large_string()),
            "kind": pa.array(["x", "y", "x"]).dictionary_encode(),
            "labels": [["p", "q"], [], None],
            "meta": [{"level": 3, "answer": "7"}, {"level": 3, "answer": "8"}, {"level": 4, "answer": "9"}],
            "unused": [1, 2, 3],
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    got = read("a.parquet", "math", category="labels", ground_truth="meta.answer", where={"meta.level": 3})
    assert [(r["ground_truth"], r["origin"]["category"]) for r in got.rows] == [("7", "p, q"), ("8", None)]
    assert [r["reason"] for r in read("a.parquet").rejected] == ["no prompt"]
    assert read("a.parquet", where={"kind": "x"}).selected == 2


def test_batches_add_up(write: Callable[..., Path], tmp_path: Path) -> None:
    write("a.jsonl", jsonl_bytes([{"prompt": f"prompt {n}", "even": n % 2 == 0} for n in range(10)]))
    source = Source(files=("a.jsonl",), prompt="prompt", where={"even": True})
    (place,) = locate(complete(source), tmp_path)
    batches = list(pull(source, place, "harmful", 100, batch=4))
    assert [b.read for b in batches] == [4, 4, 2]
    assert [b.selected for b in batches] == [2, 2, 1]
    assert [row["origin"]["row"] for b in batches for row in b.rows] == [0, 2, 4, 6, 8]
    assert list(texts(source, place)) == [f"prompt {n}" for n in range(0, 10, 2)]


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet"])
def test_memory_does_not_grow_with_the_file(name: str, write: Callable[..., Path], tmp_path: Path) -> None:
    def peak(count: int) -> int:
        rows = [{"prompt": f"prompt {n} " + "word " * 50, "category": "x"} for n in range(count)]
        write(name, {**WRITERS, **ZIPPED}[name](rows))
        del rows
        source = Source(files=(name,), prompt="prompt")
        (place,) = locate(source, tmp_path)
        tracemalloc.start()
        read = sum(p.read for p in pull(source, place, "harmful", 1000, batch=500))
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert read == count
        return top

    peak(100)
    assert peak(6_000) < 1.5 * peak(2_000)


def test_nothing_depends_on_the_hash_seed(write: Callable[..., Path], tmp_path: Path) -> None:
    rows = [{"prompt": f"p{n}", "c": {name: n % k == 0 for k, name in enumerate("abcd", 1)}} for n in range(20)]
    write("a.jsonl", jsonl_bytes(rows))
    write("b.json", json_bytes(rows))
    code = (
        "import sys; from pathlib import Path; from pipeline.recipe import Source; from pipeline.sources import *\n"
        "s = complete(Source(files=('*.json*',), prompt='prompt', category='c'))\n"
        "for place in locate(s, Path(sys.argv[1])): print(list(pull(s, place, 'harmful', 100)))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "2")
    }
    assert len(outputs) == 1
    assert "'a, b, c, d'" in outputs.pop()


def test_gzip_of_several_members(tmp_path: Path, read: Callable[..., Pulled]) -> None:
    parts = [gzip.compress(jsonl_bytes(SAMPLE[:1])), gzip.compress(jsonl_bytes(SAMPLE[1:3]))]
    (tmp_path / "a.jsonl.gz").write_bytes(b"".join(parts))
    assert len(read("a.jsonl.gz").rows) == 3


@pytest.mark.parametrize("name", ["a.json", "a-wrapped.json", "a.jsonl", "a.parquet", "a.jsonl.gz"])
def test_every_truncation_is_told(name: str, tmp_path: Path, read: Callable[..., Pulled]) -> None:
    whole = {**WRITERS, **ZIPPED}[name](SAMPLE[:2])
    data = gzip.compress(whole) if name.endswith(".gz") else whole
    complete_lines = {end for end in range(1, len(whole)) if name == "a.jsonl" and whole[:end].rstrip().endswith(b"}")}
    for end in range(0, len(data), 5 if name == "a.parquet" else 1):
        (tmp_path / name).write_bytes(data[:end])
        if end in complete_lines:
            assert read(name).read == len(whole[:end].splitlines())
        else:
            with pytest.raises(
                SourceError, match=rf"^{name}.* (is cut off|is empty|holds no Parquet|not gzipped|not U)"
            ):
                read(name)
