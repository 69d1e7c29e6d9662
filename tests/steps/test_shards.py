"""Files between steps: nobody who reads one is harmed by who writes it anew, and none is known by where it lay."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.build import build
from pipeline.publish.parquet import ShardedWriter
from pipeline.recipe import LoadedRecipe, parse
from pipeline.runner import LocalRunner
from pipeline.steps import read_table, write_array
from pipeline.steps.shards import write_table
from pipeline.writing import replacing, write_text


def test_a_table_that_is_mapped_outlives_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / "0.arrow"
    write_table(path, pa.table({"x": range(500_000)}))
    mapped = read_table(path)
    write_table(path, pa.table({"x": [1]}))
    assert mapped["x"][499_999].as_py() == 499_999, "rewritten in place, this is the end of the process"
    assert len(read_table(path)) == 1


def test_an_array_that_is_mapped_outlives_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / "0.npy"
    write_array(path, np.arange(500_000))
    mapped = np.load(path, mmap_mode="r")
    write_array(path, np.arange(1))
    assert mapped[499_999] == 499_999


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "deep/file"
    write_text(path, "former")
    with pytest.raises(OSError, match="no space"), replacing(path) as new:
        raise OSError(new.write_text("half"), "no space")
    assert [file.read_text() for file in path.parent.iterdir()] == ["former"]
    schema = pa.schema([("id", pa.string())])
    with pytest.raises(ValueError, match="schema"), ShardedWriter(tmp_path / "data", "mixture", schema, 1) as writer:
        writer.write(pa.table({"other": [1]}))
    assert not list((tmp_path / "data").iterdir())


def test_a_link_is_replaced_and_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("mine")
    (tmp_path / "page.html").symlink_to(tmp_path / "outside")
    write_text(tmp_path / "page.html", "new")
    assert (tmp_path / "outside").read_text() == "mine"
    assert not (tmp_path / "page.html").is_symlink()


def test_builds_in_one_process_are_cleaned_by_their_own_evaluation_sets(tmp_path: Path) -> None:
    rows = [" ".join(sha256(f"{number}/{word}".encode()).hexdigest()[:6] for word in range(12)) for number in range(24)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"prompt": row}) + "\n" for row in rows))
    text = (
        "name: small\nsources: {benign: [{files: rows.jsonl, prompt: prompt}]}\nmixture: {benign: {rows: 20}}\n"
        "clean: {dedupe: {near: null}, decontaminate: {against: [{files: eval.jsonl, prompt: prompt}]}}\n"
    )
    loaded = LoadedRecipe(parse(text, "small.yaml"), tmp_path)
    for turn in range(12):
        known = rows[turn : turn + 3 + turn % 2]
        (tmp_path / "eval.jsonl").write_text("".join(json.dumps({"prompt": row}) + "\n" for row in known))
        manifest = build(loaded, tmp_path / "out", LocalRunner()).manifest
        (step,) = (step for step in manifest["funnel"] if step["step"] == "decontaminate")
        assert step["kept"] == len(rows) - len(known)
