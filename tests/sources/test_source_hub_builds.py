"""Whole builds whose prompts, and whose evaluation sets, are datasets of the Hub, named and nothing more."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.servers.hub import Hub, hub

RECIPE = """
name: mix
sources:
  harmful: [{HARMFUL}]
  benign: [{BENIGN}]
  math: [{MATH, limit: 1500}]
clean:
  decontaminate:
    against: [{STRONG}, {LEVELS}, {XSTEST}]
samplers:
  template: {engine: template}
mixture:
  harmful: {rows: 200, prefill: {sampler: template}}
  benign: {rows: 200, prefill: {sampler: template}}
  math: {rows: 600}
"""
DATASETS = {
    "HARMFUL": ("UCSC-VLAA/STAR-1", "harmful/STAR-1.json"),
    "BENIGN": ("allenai/coconot", "benign/coconot_pref.jsonl"),
    "MATH": ("openai/gsm8k", "math/gsm8k_train.jsonl"),
    "STRONG": ("walledai/StrongREJECT", "eval/strongreject_dataset.csv"),
    "LEVELS": ("HuggingFaceH4/MATH-500", "eval/math500_test.jsonl"),
    "XSTEST": ("Paul/XSTest", "eval/xstest_prompts.csv"),
}
CARDS = {
    "allenai/coconot": """---
license: odc-by
configs:
- config_name: original
  data_files: [{split: train, path: original/train.jsonl}]
- config_name: pref
  data_files: [{split: train, path: pref/train.jsonl}]
---
""",
    "openai/gsm8k": """---
license: [mit]
configs:
- config_name: main
  data_files: [{split: train, path: main/train-*}, {split: test, path: main/test-*}]
- config_name: socratic
  data_files: [{split: train, path: socratic/train-*}]
---
""",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> Iterator[Hub]:
    """The published files in repositories as they are on the Hub."""
    folder = tmp_path_factory.mktemp("repositories")

    def put(repo: str, name: str, content: bytes | str | pa.Table) -> None:
        path = folder / repo / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, pa.Table):
            pq.write_table(content, path, row_group_size=1000)
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)

    for repo, file in DATASETS.values():
        data = (shared_data / file).read_bytes()
        match repo:
            case "allenai/coconot":
                put(repo, "pref/train.jsonl", data)
                put(repo, "original/train.jsonl", '{"prompt": "of another config"}\n')
            case "openai/gsm8k":
                for split in ("train", "test"):
                    lines = (shared_data / file.replace("math/gsm8k_train", "eval/gsm8k_test")).read_bytes()
                    rows = [json.loads(line) for line in (data if split == "train" else lines).splitlines()]
                    put(repo, f"main/{split}-00000-of-00001.parquet", pa.Table.from_pylist(rows))
                put(repo, "socratic/train-00000-of-00001.parquet", pa.table({"question": ["of another config"]}))
            case "walledai/StrongREJECT":
                rows = list(csv.DictReader(data.decode().splitlines(keepends=True)))
                table = {"prompt": [row["forbidden_prompt"] for row in rows], "category": [r["category"] for r in rows]}
                put(repo, "data/train-00000-of-00001.parquet", pa.table(table))
            case "HuggingFaceH4/MATH-500":
                put(repo, "test.jsonl", data)
            case _:
                put(repo, Path(file).name, data)
        if repo in CARDS:
            put(repo, "README.md", CARDS[repo])
    with hub() as server:
        for repo, _ in DATASETS.values():
            server.add(repo, folder / repo, gated="auto" if repo == "walledai/StrongREJECT" else False)
        server.grant("walledai/StrongREJECT")
        yield server


def recipe(place: Path, name: str, sources: dict[str, str]) -> Path:
    text = RECIPE
    for key, said in sources.items():
        text = text.replace(f"{{{key}", f"{{{said}")
    (place / name).write_text(text)
    return place / name


def run(server: Hub, place: Path, *args: str | Path, code: int = 0, **environment: str) -> Any:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    settings = server.environment(place / "home", environment.pop("token", Hub.token)) | environment
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", *map(str, args), "--json"],
        cwd=place,
        env=kept | settings | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return json.loads(done.stdout) if not code else done.stderr


@pytest.fixture(scope="module")
def place(server: Hub, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the build of the datasets' names in ``out/hub``."""
    place = tmp_path_factory.mktemp("place")
    named = recipe(place, "hub.yaml", {key: f"dataset: {repo}" for key, (repo, _) in DATASETS.items()})
    run(server, place, "build", named, "--out", "out/hub")
    return place


def rows(folder: Path) -> list[dict[str, Any]]:
    columns = ["id", "domain", "prompt", "prefill", "ground_truth"]
    return list(pq.read_table(folder / "data", columns=columns).to_pylist())


def test_names_alone_build_what_the_same_files_do(server: Hub, place: Path, shared_data: Path) -> None:
    local = {key: f"dataset: {repo}, files: {shared_data / file}" for key, (repo, file) in DATASETS.items()}
    run(server, place, "build", recipe(place, "files.yaml", local), "--out", "out/files")
    built = rows(place / "out/hub")
    assert len(built) == 1000
    assert built == rows(place / "out/files")
    manifests = [json.loads((place / f"out/{name}/manifest.json").read_text()) for name in ("hub", "files")]
    assert manifests[0]["funnel"] == manifests[1]["funnel"]
    stated = {source["dataset"]: source for source in manifests[0]["sources"] + manifests[0]["decontaminate"]}
    for repo, _ in DATASETS.values():
        assert stated[repo]["revision"] == server.commits(repo)[0].oid
    assert (stated["openai/gsm8k"]["licence"], stated["openai/gsm8k"]["config"]) == ("mit", "main")
    assert (stated["openai/gsm8k"]["read"], stated["openai/gsm8k"]["selected"]) == (1500, 1500)
    assert stated["Paul/XSTest"]["read"] == 450


def test_it_verifies_after_main_has_moved_and_without_a_network(server: Hub, place: Path) -> None:
    before = server.read("UCSC-VLAA/STAR-1", "STAR-1.json")
    for repo, _ in DATASETS.values():
        commit = server.commits(repo)[0].oid
        command = [
            str(Path(sys.executable).with_name("hf")),
            "download",
            repo,
            "--repo-type=dataset",
            "--revision",
            commit,
        ]
        subprocess.run(command, check=True, capture_output=True, env=os.environ | server.environment(place / "home"))
    try:
        server.commit("UCSC-VLAA/STAR-1", {"STAR-1.json": "[]"})
        assert run(server, place, "verify", "out/hub")["verified"] is True
        assert run(server, place, "verify", "out/hub", HF_HUB_OFFLINE="1")["verified"] is True
    finally:
        server.commit("UCSC-VLAA/STAR-1", {"STAR-1.json": before})


def test_missing_access_is_told_by_plan_and_before_a_build(server: Hub, place: Path) -> None:
    shutil.copytree(place / "out", place / "before")
    for command in (["plan", "hub.yaml"], ["build", "hub.yaml", "--out", "out/hub"]):
        said = run(server, place, *command, code=2, token=Hub.other_token)
        assert "walledai/StrongREJECT is gated: accept its terms at" in said
    assert rows(place / "out/hub") == rows(place / "before/hub")
