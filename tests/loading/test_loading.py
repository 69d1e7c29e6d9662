"""What people do with a published version, with the real clients in processes of their own."""

from __future__ import annotations

import base64
import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.schema import MIXTURE, REJECTED
from tests.conftest import ROOT
from tests.loading.conftest import NAME, Publications, Reader
from tests.servers.hub import Hub

ROWS = "from datasets import load_dataset; say(list(load_dataset({}, split='train')))"

Make = Callable[..., Reader]


def load(reader: Reader, arguments: str, folder: Path | None = None, **environment: str) -> Any:
    """The rows that ``load_dataset`` gives for these arguments."""
    return reader.run(ROWS.format(arguments), folder, **environment)


def by_id(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: str(row["id"]))


def blocks(text: str) -> list[str]:
    """The Python examples of a Markdown text."""
    return re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


# --- versions


@pytest.mark.parametrize("version", ["v1.0.0", "v1.1.0"])
def test_a_version_by_its_tag_and_by_its_commit(published: Publications, reader: Make, version: str) -> None:
    expected = published.rows(version)
    assert load(reader(), f"'{NAME}', revision='{version}'") == expected
    assert load(reader(), f"'{NAME}', revision='{published.commits[version]}'") == expected


def test_without_a_revision_it_is_the_newest(published: Publications, reader: Make) -> None:
    assert load(reader(), f"'{NAME}'") == published.rows("v1.1.0")
    assert published.rows("v1.1.0") != published.rows("v1.0.0")


def test_a_new_version_changes_nothing_of_the_last_one(published: Publications) -> None:
    early = published.early
    assert published.early_rows == published.rows("v1.0.0")
    assert load(early, f"'{NAME}', revision='v1.0.0'") == published.early_rows
    assert load(early, f"'{NAME}', revision='{published.commits['v1.0.0']}'") == published.early_rows
    assert load(early, f"'{NAME}'") == published.rows("v1.1.0")


def test_what_was_loaded_once_loads_without_a_network(published: Publications, reader: Make) -> None:
    arguments = f"'{NAME}', revision='{published.commits['v1.0.0']}'"
    rows = load(reader(), arguments)
    assert load(reader(), arguments, HF_HUB_OFFLINE="1") == rows == published.rows("v1.0.0")


def test_a_version_that_is_not_there_is_an_error(reader: Make) -> None:
    code = f"from datasets import load_dataset; say(refused(load_dataset, '{NAME}', revision='v9.0.0'))"
    assert "v9.0.0" in reader().run(code)


# --- configs


def test_the_rejected_rows_by_name(published: Publications, reader: Make) -> None:
    rows = load(reader(), f"'{NAME}', 'rejected', revision='v1.0.0'")
    assert rows == published.rows("v1.0.0", "rejected")
    assert all(row["stage"] and row["reason"] for row in rows)


def test_the_default_config_needs_no_name(published: Publications, reader: Make) -> None:
    code = f"""
        from datasets import get_dataset_config_names, get_dataset_default_config_name, get_dataset_split_names
        name = "{NAME}"
        say([get_dataset_config_names(name), get_dataset_default_config_name(name), get_dataset_split_names(name)])
    """
    assert reader().run(code) == [["mixture", "rejected"], "mixture", ["train"]]
    assert load(reader(), f"'{NAME}', 'mixture', revision='v1.0.0'") == published.rows("v1.0.0")


@pytest.mark.parametrize(("config", "schema"), [("mixture", MIXTURE), ("rejected", REJECTED)])
def test_columns_and_types_are_those_of_the_schema(reader: Make, config: str, schema: pa.Schema) -> None:
    code = f"""
        import base64
        from datasets import load_dataset
        kinds = [load_dataset("{NAME}", "{config}", split="train", streaming=streaming) for streaming in (False, True)]
        say([base64.b64encode(kind.features.arrow_schema.serialize()).decode() for kind in kinds])
    """
    for told in reader().run(code):
        loaded = pa.ipc.read_schema(pa.BufferReader(base64.b64decode(told)))
        assert [(field.name, field.type) for field in loaded] == [(field.name, field.type) for field in schema]


# --- ways of reading


def test_streaming_gives_the_same_rows(published: Publications, reader: Make) -> None:
    rows = load(reader(), f"'{NAME}', revision='v1.0.0', streaming=True")
    assert rows == published.rows("v1.0.0")
    code = f"""
        from datasets import load_dataset
        streamed = load_dataset("{NAME}", "rejected", revision="v1.1.0", split="train", streaming=True)
        say(list(streamed.skip(3).take(2)))
    """
    assert reader().run(code) == published.rows("v1.1.0", "rejected")[3:5]


@pytest.mark.parametrize("place", ["v1.0.0", "commit", "main"])
def test_pandas_reads_a_version_by_its_address(published: Publications, reader: Make, place: str) -> None:
    version = "v1.1.0" if place == "main" else "v1.0.0"
    revision = published.commits[version] if place == "commit" else place
    code = f"""
        import pandas as pd
        frame = pd.read_parquet("hf://datasets/{NAME}@{revision}/data/mixture-00000-of-00001.parquet")
        ids, prefills = list(frame["id"]), [text if isinstance(text, str) else None for text in frame["prefill"]]
        say([list(frame.columns), ids, prefills])
    """
    columns, ids, prefills = reader().run(code)
    expected = published.rows(version)
    assert columns == MIXTURE.names
    assert ids == [row["id"] for row in expected]
    assert prefills == [row["prefill"] for row in expected]


def test_polars_reads_a_build(published: Publications, reader: Make) -> None:
    if importlib.util.find_spec("polars") is None:
        pytest.skip("needs polars, which is not part of the project: pip install polars")
    code = """
        import polars as pl
        say(pl.read_parquet("data/mixture-*.parquet").to_dicts())
    """
    assert reader().run(code, published.builds["v1.0.0"]) == published.rows("v1.0.0")


def test_a_snapshot_is_a_dataset(published: Publications, reader: Make, tmp_path: Path) -> None:
    code = f"""
        from datasets import load_dataset
        from huggingface_hub import snapshot_download
        cached = snapshot_download("{NAME}", repo_type="dataset", revision="v1.0.0")
        copied = snapshot_download("{NAME}", repo_type="dataset", revision="v1.0.0", local_dir="copy")
        say([list(load_dataset(folder, split="train")) for folder in (cached, copied)])
    """
    assert reader().run(code, tmp_path) == [published.rows("v1.0.0")] * 2
    # The manifest of a copy names what lies beside it.
    command = [sys.executable, "-m", "pipeline.cli", "diff", str(tmp_path / "copy"), str(published.builds["v1.0.0"])]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_a_folder_of_versions(published: Publications, reader: Make) -> None:
    versions = published.folder
    for version, name in (("v1.0.0", "v1.0.0"), ("v1.1.0", "v1.1.0"), ("v1.1.0", "latest")):
        assert load(reader(), repr(str(versions / name))) == published.rows(version)
    assert load(reader(), f"{str(versions / 'latest')!r}, 'rejected'") == published.rows("v1.1.0", "rejected")


def test_a_mixture_goes_to_a_trainer(published: Publications, reader: Make) -> None:
    """What a trainer does first: keep the rows of a reward, shuffle, add a column, and feed batches to workers."""
    code = f"""
        from datasets import load_dataset
        mixture = load_dataset("{NAME}", split="train", revision="v1.0.0")
        safety = mixture.filter(lambda row: row["reward"] == "safety").shuffle(seed=0)
        ready = safety.map(lambda row: {{"text": row["prompt"][-1]["content"], "prefilled": bool(row["prefill"])}})
        batches = list(ready.iter(16))
        say([sum(len(batch["text"]) for batch in batches), sorted(ready["text"]), sum(ready["prefilled"])])
    """
    count, texts, prefilled = reader().run(code)
    expected = [row for row in published.rows("v1.0.0") if row["reward"] == "safety"]
    assert count == len(expected)
    assert texts == sorted(row["prompt"][-1]["content"] for row in expected)
    assert prefilled == sum(row["prefill"] is not None for row in expected)


# --- who may


def test_a_private_version_needs_a_token_of_somebody_who_may(published: Publications, reader: Make) -> None:
    ask = f"from datasets import load_dataset; say(refused(load_dataset, '{NAME}', revision='v1.0.0'))"
    assert reader(token=Hub.read_token).run(ask) == "loaded"


@pytest.mark.parametrize("token", [None, Hub.other_token])
def test_a_private_version_is_not_there_for_others(reader: Make, token: str | None) -> None:
    ask = f"from datasets import load_dataset; say(refused(load_dataset, '{NAME}', revision='v1.0.0'))"
    told = reader(token=token).run(ask)
    assert told.startswith("DatasetNotFoundError: ")
    assert f"Dataset '{NAME}' doesn't exist on the Hub or cannot be accessed" in told


def test_a_gated_one_says_so_until_access_is_given(published: Publications, reader: Make) -> None:
    server, name = published.server, "my-org/gated"
    server.add(name, published.folder / "v1.0.0", gated="manual", tag="v1.0.0")
    ask = f"from datasets import load_dataset; say(refused(load_dataset, '{name}', revision='v1.0.0'))"
    stranger = reader(token=Hub.other_token)
    for told in (reader(token=None).run(ask), stranger.run(ask)):
        assert told.startswith("DatasetNotFoundError: ")
        assert f"Dataset '{name}' is a gated dataset on the Hub" in told
    server.grant(name, "stranger")
    assert load(stranger, f"'{name}', revision='v1.0.0'") == published.rows("v1.0.0")


# --- what we promise


def test_the_examples_of_the_readme(published: Publications, reader: Make) -> None:
    """They run as they stand, on a published mixture of that name and a build where the first command leaves it."""
    examples = "\n".join(blocks((ROOT / "README.md").read_text()))
    assert "revision=" in examples
    examples = re.sub(r"v\d+\.\d+\.\d+", "v1.0.0", examples)
    found = reader().run(
        f"{examples}\nfirst = load_dataset('out/demo', split='train')\n"
        "say([list(mixture), len(first), sum(text is not None for text in first['prefill']), list(dropped)])",
        published.builds["v1.0.0"].parents[1],
    )
    assert found == [published.rows("v1.0.0"), 240, 60, published.rows("v1.0.0", "rejected")]


@pytest.mark.parametrize("version", ["v1.0.0", "v1.1.0"])
def test_the_example_of_the_card(published: Publications, reader: Make, version: str) -> None:
    card = published.server.read(NAME, "README.md", version).decode()
    (example,) = blocks(card)
    assert f'revision="{version}"' in example
    assert reader().run(f"{example}\nsay(list(mixture))") == published.rows(version)
