"""Rows of the Hub's datasets, with the real clients against the Hub of the tests: the commit, the cost, the cache."""

from __future__ import annotations

import gzip
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, Image, Json, List, Value

from tests.servers.hub import Hub, hub
from tests.sources.conftest import CANARY
from tests.sources.hub_client import Client, client, places, prompts

ROWS = 12_000
GROUP = 3_000
CARD = """---
license: {licence}
configs:
- config_name: main
  data_files:
  - {{split: train, path: main/train-*}}
  - {{split: test, path: main/test-*}}
- config_name: other
  data_files:
  - {{split: train, path: other/*.jsonl}}
---
"""


def jsonl(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def numbered(name: str, count: int) -> list[dict[str, Any]]:
    return [{"prompt": f"{name} {number}", "unsafe": number % 3 == 0} for number in range(count)]


def fill(folder: Path, files: dict[str, bytes | str]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def wide(folder: Path) -> Path:
    """Two Parquet files, most of whose bytes are of a column that no source needs."""
    noise = random.Random(0)
    (folder / "data").mkdir(parents=True)
    for shard in range(2):
        first, count = shard * ROWS // 2, ROWS // 2
        table = {
            "prompt": [f"prompt {first + number}" for number in range(count)],
            "answer": [noise.randbytes(512) for _ in range(count)],
            "meta": [
                {"kind": "odd" if number % 2 else "even", "long": noise.randbytes(512)} for number in range(count)
            ],
        }
        path = folder / f"data/train-0000{shard}-of-00002.parquet"
        pq.write_table(pa.table(table), path, row_group_size=GROUP)
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with hub() as server:
        folder = tmp_path_factory.mktemp("repositories")
        server.add("o/wide", wide(folder / "wide"))
        main = numbered("train", 30)
        files: dict[str, bytes | str] = {
            "README.md": CARD.format(licence="mit"),
            "main/train-0.jsonl": jsonl(main[:20]),
            "main/train-1.jsonl.gz": gzip.compress(jsonl(main[20:]).encode()),
            "main/test-0.jsonl": jsonl(numbered("test", 5)),
            "other/rows.jsonl": jsonl(numbered("other", 4)),
        }
        server.add("o/many", fill(folder / "many", files), tag="v1")
        yield server


@pytest.fixture(scope="module")
def reader(server: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with client(server, tmp_path_factory.mktemp("home")) as reader:
        yield reader


@pytest.fixture(scope="module", autouse=True)
def given_up(server: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A reader whose dataset can't be downloaded from any more, begun before all tests."""
    with hub() as broken:
        broken.add("o/down", wide(tmp_path_factory.mktemp("down")))
        broken.fail("download", 503, times=1000, skip=4)
        reader = Client(broken.environment(tmp_path_factory.mktemp("home")))
        reader.ask("o/down", prompt="prompt")
        yield reader
        reader.process.kill()
        reader.process.communicate()


def sent(server: Hub) -> int:
    """Bytes of files that the server has sent since it was cleared."""
    return sum(record.sent for record in server.log() if record.route in ("download", "resolve"))


def test_every_config_split_and_shard(reader: Client) -> None:
    train = [f"train {number}" for number in range(30)]
    told = reader.read("o/many", config="main", prompt="prompt")
    assert prompts(told) == train
    assert places(told) == list(range(30))
    assert (told["read"], told["selected"], told["licence"]) == (30, 30, "mit")
    assert prompts(reader.read("o/many", config="other", prompt="prompt")) == [f"other {n}" for n in range(4)]
    assert len(prompts(reader.read("o/many", config="main", split="test", prompt="prompt"))) == 5
    both = reader.read("o/many", config="main", split="test+train", prompt="prompt")
    assert prompts(both) == [f"test {n}" for n in range(5)] + train
    assert places(both) == list(range(35))


def test_what_is_not_there_is_told_with_what_is(reader: Client) -> None:
    assert "Available: ['main', 'other']" in reader.error("o/many", config="mian", prompt="prompt")
    assert "available configs: ['main', 'other']" in reader.error("o/many", prompt="prompt")
    told = reader.error("o/many", config="main", split="validation", prompt="prompt")
    assert told.endswith("there is no split 'validation', there is train, test.")
    told = reader.error("o/many", config="main", split="train[:10%]", prompt="prompt", then="locate")
    assert "say with limit: how many rows to take" in told
    told = reader.error("o/many", config="main", prompt="promt")
    assert "o/many has no field 'promt' (the source's prompt): there is prompt, unsafe (did you mean 'prompt'?)" in told


def test_main_moves_and_the_commit_stays(server: Hub, reader: Client, tmp_path: Path) -> None:
    files: dict[str, bytes | str] = {"train.jsonl": jsonl(numbered("old", 4))}
    before = server.add("o/moves", fill(tmp_path, files), tag="v1")
    assert reader.read("o/moves", prompt="prompt", then="locate")["revision"] == before
    after = server.commit("o/moves", {"train.jsonl": jsonl(numbered("new", 2))})
    told = reader.read("o/moves", prompt="prompt", then="pull again")
    assert prompts(told) == [f"old {number}" for number in range(4)]
    assert {row["origin"]["revision"] for row in told["rows"]} == {before}
    for revision in ("v1", before, before[:8]):
        told = reader.read("o/moves", prompt="prompt", revision=revision)
        assert (told["revision"], len(told["rows"])) == (before, 4)
    told = reader.read("o/moves", prompt="prompt", revision="main")
    assert (told["revision"], prompts(told)) == (after, ["new 0", "new 1"])


def test_neither_a_folder_of_its_name_nor_another_commit_in_the_cache_is_read(server: Hub, tmp_path: Path) -> None:
    """What `load_dataset` does by itself, the latter whenever anything fails."""
    folder = fill(tmp_path / "repository", {"train.jsonl": jsonl(numbered("old", 4))})
    server.add("o/cached", folder)
    home, work = tmp_path / "home", fill(tmp_path / "work", {"o/cached/train.jsonl": jsonl(numbered("local", 4))})
    load = "from datasets import load_dataset; load_dataset('hf://datasets/o/cached')"
    environment = plain() | server.environment(home)
    subprocess.run([sys.executable, "-c", load], check=True, capture_output=True, env=environment, cwd=tmp_path)
    server.commit("o/cached", {"train.jsonl": jsonl(numbered("new", 2))})
    with client(server, home, cwd=work) as reader:
        assert prompts(reader.read("o/cached", prompt="prompt")) == ["new 0", "new 1"]
        broken = server.commit("o/cached", {"train.jsonl": None, "notes.xyz": "of another kind"})
        told = reader.error("o/cached", prompt="prompt", revision=broken)
        assert told.endswith("split 'train': No (supported) data files found in o/cached.")


def plain() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith("HF_")}


# What it costs


def test_of_parquet_only_the_columns_that_are_needed_are_fetched(server: Hub, reader: Client) -> None:
    size = sum(len(server.read("o/wide", f"data/train-0000{shard}-of-00002.parquet")) for shard in range(2))
    server.clear()
    told = reader.read("o/wide", prompt="prompt")
    assert prompts(told) == [f"prompt {number}" for number in range(ROWS)]
    assert sent(server) < size / 4
    server.clear()
    told = reader.read("o/wide", prompt="prompt", where={"meta.kind": "odd"}, category="meta.kind")
    assert places(told) == list(range(1, ROWS, 2))
    assert {row["origin"]["category"] for row in told["rows"]} == {"odd"}
    assert size / 4 < sent(server) < 3 * size / 4


def test_a_limit_reads_no_further(server: Hub, reader: Client) -> None:
    size = len(server.read("o/wide", "data/train-00000-of-00002.parquet"))
    server.clear()
    told = reader.read("o/wide", prompt="prompt", limit=10, where={"meta.kind": "odd"})
    assert places(told) == list(range(1, 20, 2))
    assert (told["read"], told["selected"]) == (20, 10)
    assert sent(server) < size / 2
    assert {record.path.partition("/data/")[2] for record in server.log()} == {"", "train-00000-of-00002.parquet"}
    beyond = reader.read("o/wide", prompt="prompt", limit=ROWS + 1)
    assert (beyond["read"], beyond["selected"], len(beyond["rows"])) == (ROWS, ROWS, ROWS)


@pytest.mark.parametrize("name", ["train.jsonl", "train.jsonl.gz", "train.csv"])
def test_a_limit_reads_a_part_of_other_formats(server: Hub, reader: Client, tmp_path: Path, name: str) -> None:
    noise = random.Random(1)
    rows = [{"prompt": f"prompt {number}", "answer": noise.randbytes(2048).hex()} for number in range(14_000)]
    if name.endswith(".csv"):
        text = "prompt,answer\n" + "".join(f"{row['prompt']},{row['answer']}\n" for row in rows)
    else:
        text = jsonl(rows)
    content = gzip.compress(text.encode(), 1) if name.endswith(".gz") else text.encode()
    server.add("o/long", fill(tmp_path, {name: content}))
    server.clear()
    told = reader.read("o/long", prompt="prompt", limit=5)
    assert prompts(told) == [f"prompt {number}" for number in range(5)]
    assert sent(server) < 0.8 * len(content)


# What goes wrong on the way


def test_an_interrupted_stream_is_gone_on_with(server: Hub, reader: Client) -> None:
    for how in ("cut", "reset", 429, 503):
        server.clear()
        server.fail("download", how, skip=3, retry_after=0)
        told = reader.read("o/wide", prompt="prompt")
        assert (told["read"], len(told["rows"])) == (ROWS, ROWS)
        assert [record.fault for record in server.log() if record.fault] == [str(how)]
    server.clear()
    server.fail("GET /datasets/o/many/resolve/*/main/train-0.jsonl", "cut")
    assert places(reader.read("o/many", config="main", prompt="prompt")) == list(range(30))
    assert [record.fault for record in server.log() if record.fault] == ["cut"]


def test_what_a_file_holds_is_in_no_error(server: Hub, reader: Client, tmp_path: Path) -> None:
    card = "---\ndataset_info:\n  features:\n  - {name: prompt, dtype: int64}\n---\n"
    files: dict[str, bytes | str] = {"README.md": card, "train.csv": f"prompt\n{CANARY}\n"}
    server.add("o/wrong", fill(tmp_path / "wrong", files))
    server.add(
        "o/cut", fill(tmp_path / "cut", {"train.jsonl.gz": gzip.compress(jsonl(numbered("x", 99)).encode())[:-40]})
    )
    server.add("o/damaged", fill(tmp_path / "damaged", {"train.parquet": b"PAR1" + CANARY.encode()}))
    for name in ("wrong", "cut", "damaged"):
        said = reader.error(f"o/{name}", prompt="prompt")
        assert said.startswith(f"o/{name} can't be read as config None, split 'train': "), said
        assert CANARY not in said


# Who may read


def test_access_is_told_before_anything_is_read(server: Hub, tmp_path: Path) -> None:
    folder = fill(tmp_path / "folder", {"train.jsonl": jsonl(numbered("p", 3))})
    server.add("my-org/closed", folder, private=True)
    server.add("my-org/asks", folder, gated="manual")
    with client(server, tmp_path / "member", Hub.read_token) as reader:
        assert len(reader.read("my-org/closed", prompt="prompt")["rows"]) == 3
        assert len(reader.read("my-org/asks", prompt="prompt")["rows"]) == 3
    with client(server, tmp_path / "stranger", Hub.other_token) as reader:
        said = reader.error("my-org/asks", prompt="prompt", then="locate")
        assert f"my-org/asks is gated: accept its terms at {server.endpoint}/datasets/my-org/asks, check what" in said
        said = reader.error("my-org/closed", prompt="prompt", then="locate")
        assert "There is no dataset my-org/closed" in said
        server.grant("my-org/asks", "stranger")
        assert len(reader.read("my-org/asks", prompt="prompt")["rows"]) == 3
    with client(server, tmp_path / "nobody", None) as reader:
        for name in ("my-org/asks", "my-org/closed"):
            assert "set HF_TOKEN, or give a local copy" in reader.error(name, prompt="prompt", then="locate")


def test_a_dataset_that_is_a_script(server: Hub, reader: Client, tmp_path: Path) -> None:
    server.add("o/script", fill(tmp_path, {"script.py": "import datasets", "rows.jsonl": jsonl(numbered("p", 3))}))
    said = reader.error("o/script", prompt="prompt", then="locate")
    assert said.startswith("o/script is a script (script.py), which the library datasets runs no more. Give revision:")


# Without a network


def test_the_cache_is_read_at_its_commit(server: Hub, tmp_path: Path) -> None:
    home = tmp_path / ".cache/huggingface"
    files: dict[str, bytes | str] = {
        "README.md": CARD.format(licence="cc-by-4.0"),
        "main/train-0.jsonl": jsonl(numbered("train", 9)),
        "main/test-0.jsonl": jsonl(numbered("test", 2)),
        "other/rows.jsonl": jsonl(numbered("other", 4)),
    }
    commit = server.add("o/held", fill(tmp_path / "held", files), tag="v1")
    server.add("o/table", wide(tmp_path / "table"))
    download(server, home, "o/held")
    download(server, home, "o/held", "--revision", "v1")
    download(server, home, "o/table")
    server.commit("o/held", {"other/rows.jsonl": jsonl(numbered("new", 2))})
    asked: dict[str, Any] = {"config": "main", "prompt": "prompt"}
    with client(server, home) as reader:
        online = reader.read("o/held", revision="v1", **asked), reader.read("o/table", prompt="prompt", limit=5000)
    server.clear()
    with client(server, home, HF_HUB_OFFLINE="1") as reader:
        held = reader.read("o/held", **asked)
        assert (held["revision"], held["licence"]) == (commit, "cc-by-4.0")
        assert [held, reader.read("o/table", prompt="prompt", limit=5000)] == list(online)
        assert reader.read("o/held", revision="v1", **asked) == held
        assert reader.read("o/held", revision=commit, **asked) == held
        assert "Available: ['main', 'other']" in reader.error("o/held", config="mian", prompt="prompt")
        said = reader.error("o/held", revision="v2", **asked)
        assert "has no commit of o/held at revision v2: run 'hf download o/held --repo-type dataset --revision" in said
        assert "the local cache has no commit of o/many" in reader.error("o/many", **asked)
    assert server.log() == []
    with client(server, home, HF_ENDPOINT="http://127.0.0.1:9") as reader:
        said = reader.error("o/held", **asked)
        assert "o/held can't be reached at http://127.0.0.1:9" in said
        assert said.endswith(f"The local cache has it at commit {commit}: with HF_HUB_OFFLINE=1 that is read.")
        assert "local cache" not in reader.error("o/many", **asked)


def test_what_the_environment_and_a_card_say_is_told_as_it_is(server: Hub, tmp_path: Path) -> None:
    rows = jsonl(numbered("p", 3))
    named = "---\nlicense: mit\nconfigs:\n- config_name: 2.0\n  data_files: rows.jsonl\n---\n"
    server.add("o/numbered", fill(tmp_path / "numbered", {"README.md": named, "rows.jsonl": rows}))
    commit = server.add(
        "o/plain", fill(tmp_path / "plain", {"README.md": "---\nlicense: mit\n---\n", "rows.jsonl": rows})
    )
    home = tmp_path / "home"
    with client(server, home) as reader:
        assert 'Have its owner write config_name: "2.0", or give a local copy' in reader.error(
            "o/numbered", prompt="prompt"
        )
    with client(server, home, HF_ENDPOINT=server.endpoint + "/") as reader:
        assert len(reader.read("o/plain", prompt="prompt")["rows"]) == 3
    with client(server, home, HF_DATASETS_OFFLINE="1") as reader:
        assert reader.error("o/plain", prompt="prompt").startswith(
            "HF_DATASETS_OFFLINE is set, and the local cache has no "
        )
    download(server, home, "o/plain")
    server.clear()
    with client(server, home, HF_DATASETS_OFFLINE="1") as reader:
        assert reader.read("o/plain", prompt="prompt")["revision"] == commit
    assert server.log() == []


def test_a_part_of_a_dataset_in_the_cache_is_not_read(server: Hub, tmp_path: Path) -> None:
    home = tmp_path / "home"
    download(server, home, "o/many", "--include", "main/train-0*", "--include", "README.md")
    load = "from datasets import load_dataset; load_dataset('o/wide')"
    subprocess.run(
        [sys.executable, "-c", load], check=True, capture_output=True, env=plain() | server.environment(home)
    )
    with client(server, home, HF_HUB_OFFLINE="1") as reader:
        for name in ("o/many", "o/wide"):
            said = reader.error(name, prompt="prompt", then="locate")
            assert f"the local cache hasn't every file of {name}: run 'hf download {name} --repo-type dataset'" in said


def download(server: Hub, home: Path, repo: str, *more: str) -> None:
    """Fill the cache as a user does."""
    command = [str(Path(sys.executable).with_name("hf")), "download", repo, "--repo-type", "dataset", *more]
    subprocess.run(command, check=True, capture_output=True, env=plain() | server.environment(home))


# What columns hold


def test_labels_are_their_names(server: Hub, reader: Client, tmp_path: Path) -> None:
    names = ["harmless", "harmful"]
    features = Features(
        {"prompt": Value("string"), "label": ClassLabel(names=names), "tags": List(ClassLabel(names=["a", "b"]))}
    )
    columns = {
        "prompt": [f"p{n}" for n in range(5)],
        "label": [0, 1, None, 1, -1],
        "tags": [[0], [0, 1], [], None, [1]],
    }
    (tmp_path / "data").mkdir()
    Dataset.from_dict(columns, features=features).to_parquet(tmp_path / "data/train.parquet")
    server.add("o/labels", tmp_path)
    for where in ({"label": "harmful"}, {"label": 1}, {"label": [1, "nonesuch"]}):
        told = reader.read("o/labels", prompt="prompt", where=where, category="label")
        assert prompts(told) == ["p1", "p3"]
        assert {row["origin"]["category"] for row in told["rows"]} == {"harmful"}
    assert prompts(reader.read("o/labels", prompt="prompt", where={"label": None})) == ["p2", "p4"]
    assert prompts(reader.read("o/labels", prompt="prompt", where={"label": [7, "no label"]})) == []
    assert prompts(reader.read("o/labels", prompt="prompt", where={"tags": "b"})) == ["p1", "p4"]
    assert prompts(reader.read("o/labels", prompt="prompt", where={"tags": 1}, category="tags")) == ["p1", "p4"]


def test_a_card_names_the_labels_of_jsonl(server: Hub, reader: Client, tmp_path: Path) -> None:
    card = """---
dataset_info:
  features:
  - {name: prompt, dtype: string}
  - name: label
    dtype: {class_label: {names: {'0': harmless, '1': harmful}}}
---
"""
    rows = [{"prompt": f"p{number}", "label": number % 2} for number in range(4)]
    server.add("o/carded", fill(tmp_path, {"README.md": card, "train.jsonl": jsonl(rows)}))
    assert prompts(reader.read("o/carded", prompt="prompt", where={"label": "harmful"})) == ["p1", "p3"]
    assert prompts(reader.read("o/carded", prompt="prompt", where={"label": 0})) == ["p0", "p2"]


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_a_field_of_several_types(server: Hub, reader: Client, tmp_path: Path, kind: str) -> None:
    values: list[Any] = ["text", 3, "a 3", {"a": 1}, None, [3, "x"]]
    rows = [{"prompt": f"p{number}", "kind": value} for number, value in enumerate(values)]
    if kind == "jsonl":
        fill(tmp_path, {"train.jsonl": jsonl(rows)})
    else:
        features = Features({"prompt": Value("string"), "kind": Json()})
        Dataset.from_list(rows, features=features).to_parquet(tmp_path / "train.parquet")
    server.add(f"o/mixed-{kind}", tmp_path)
    asked = {"prompt": "prompt", "category": "kind"}
    told = reader.read(f"o/mixed-{kind}", **asked)
    assert [row["origin"]["category"] for row in told["rows"]] == ["text", "3", "a 3", None, None, "3, x"]
    assert prompts(reader.read(f"o/mixed-{kind}", where={"kind": 3}, **asked)) == ["p1", "p5"]
    assert prompts(reader.read(f"o/mixed-{kind}", where={"kind": "text"}, **asked)) == ["p0"]


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_turns_nested_fields_nulls_and_what_cannot_be_decoded(
    server: Hub, reader: Client, tmp_path: Path, kind: str
) -> None:
    def turn(role: str, content: str) -> dict[str, str]:
        return {"role": role, "content": content}

    rows: list[dict[str, Any]] = [
        {"talk": [turn("user", "one"), turn("assistant", "no"), turn("user", "two")], "meta": {"kind": {"name": "x"}}},
        {"talk": [turn("user", "three"), turn("user", "four")], "meta": {"kind": {"name": None}}},
        {"talk": None, "meta": None},
        {"talk": [turn("system", "be good"), turn("user", "five")], "meta": {"kind": {"name": "x"}}},
    ]
    if kind == "parquet":
        dialogue = List({"role": Value("string"), "content": Value("string")})
        features = Features({"talk": dialogue, "meta": {"kind": {"name": Value("string")}}, "picture": Image()})
        broken = {"bytes": b"no image", "path": None}
        table = pa.Table.from_pylist([{**row, "picture": broken} for row in rows], schema=features.arrow_schema)
        pq.write_table(table, tmp_path / "train.parquet")
    else:
        fill(tmp_path, {"train.jsonl": jsonl(rows)})
    server.add(f"o/talks-{kind}", tmp_path)
    told = reader.read(f"o/talks-{kind}", prompt="talk", category="meta.kind.name")
    turns = [[message["content"] for message in row["prompt"]] for row in told["rows"]]
    assert turns == [["one"], ["three", "four"], ["five"]]
    assert [(row["reason"], row["origin"]["row"]) for row in told["rejected"]] == [("no prompt", 2)]
    assert [row["origin"]["category"] for row in told["rows"]] == ["x", None, "x"]
    told = reader.read(f"o/talks-{kind}", prompt="talk.0.content", where={"meta.kind.name": "x"})
    assert prompts(told) == ["one", "be good"]


# At last


def test_a_stream_that_stays_broken_is_one_error(server: Hub, given_up: Client) -> None:
    """And never fewer rows. The library tries six times, for half a minute, meanwhile the other tests run."""
    said = given_up.answer()["error"]
    assert "answered HTTP 503 for o/down: try again later" in said
