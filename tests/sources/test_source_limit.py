"""`limit`: the first rows that `where` selects, over all files of a source, and nothing read beyond them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.recipe import Source
from pipeline.sources import Pulled, complete, locate, pull, texts

Write = Callable[[str, str], Path]
Read = Callable[..., Pulled]


def jsonl(name: str, count: int) -> str:
    return "".join(json.dumps({"prompt": f"{name}{n}", "odd": n % 2 == 1}) + "\n" for n in range(count))


def found(pulled: Pulled) -> list[tuple[str, int]]:
    return [(row["prompt"][0]["content"], row["origin"]["row"]) for row in pulled.rows]


@pytest.fixture
def files(write: Write) -> None:
    write("a.jsonl", jsonl("a", 4))
    write("b.jsonl", jsonl("b", 6))
    write("c.jsonl", "this is broken\n")


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("limit", "rows", "read_rows"),
    [
        (1, [("a1", 1)], 2),
        (2, [("a1", 1), ("a3", 3)], 4),
        (4, [("a1", 1), ("a3", 3), ("b1", 1), ("b3", 3)], 8),
    ],
)
def test_it_counts_over_the_files_in_their_order(
    read: Read, limit: int, rows: list[tuple[str, int]], read_rows: int
) -> None:
    got = read(["b.jsonl", "a.jsonl", "c.jsonl"], where={"odd": True}, limit=limit)
    assert found(got) == rows
    assert (got.read, got.selected) == (read_rows, limit)


@pytest.mark.usefixtures("files")
def test_each_file_can_be_read_by_itself_and_in_any_order(tmp_path: Path) -> None:
    source = complete(Source(files=("a.jsonl", "b.jsonl"), prompt="prompt", where={"odd": True}, limit=3))
    places = locate(source, tmp_path)
    by_file = {place.path: [found(batch) for batch in pull(source, place, "benign", 99)] for place in reversed(places)}
    assert by_file == {"a.jsonl": [[("a1", 1), ("a3", 3)]], "b.jsonl": [[("b1", 1)]]}


@pytest.mark.usefixtures("files")
def test_rejected_rows_count_as_they_were_selected(read: Read, write: Write) -> None:
    write("d.jsonl", jsonl("d", 1) + '{"prompt": " "}\n' + jsonl("e", 9))
    got = read("d.jsonl", limit=3)
    assert found(got) == [("d0", 0), ("e0", 2)]
    assert [row["reason"] for row in got.rejected] == ["empty"]
    assert (got.read, got.selected) == (3, 3)


@pytest.mark.usefixtures("files")
def test_more_than_there_is_takes_what_there_is(read: Read) -> None:
    got = read(["a.jsonl", "b.jsonl"], limit=100)
    assert (got.read, got.selected, len(got.rows)) == (10, 10, 10)


def test_bundled_prompts_and_evaluation_sets(merge: Callable[..., Pulled]) -> None:
    whole, some = (merge(Source(bundled="demo", limit=limit), Path(), "benign") for limit in (None, 5))
    assert [row["id"] for row in some.rows] == [row["id"] for row in whole.rows[:5]]
    source = complete(Source(bundled="demo-eval", limit=2))
    (place,) = locate(source, Path())
    assert len(list(texts(source, place))) == 2


@pytest.mark.parametrize("limit", [0, -1, "10", 1.5])
def test_it_is_a_number_of_rows(limit: Any) -> None:
    with pytest.raises(ValidationError, match="limit"):
        Source.model_validate({"bundled": "demo", "limit": limit})
