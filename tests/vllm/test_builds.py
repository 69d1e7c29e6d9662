"""Whole builds on real models: behind real vLLM servers, and in a real engine in the build's own process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.thinking import control_token
from tests.vllm.server import QUIET, Server

SEED = "Okay, so I need to work out what the user wants here."
SEEDED = ["--set", f"samplers.unaligned.seed_prefix={json.dumps(SEED)}"]
LOCAL = "{enforce_eager: true, enable_chunked_prefill: false, max_model_len: 2048}"

RECIPE = """
name: real
sources:
  harmful: [{bundled: demo}]
  benign: [{bundled: demo}]
samplers:
  unaligned: {engine: openai, base_url: "UNALIGNED_URL", model: UNALIGNED, tokenizer: TOKENIZER, max_tokens: 300}
  overcautious: {engine: openai, base_url: "OVERCAUTIOUS_URL", model: overcautious, max_tokens: 300}
mixture:
  harmful: {rows: 20, prefill: {sampler: unaligned, words: 120, min_words: 90, attempts: 8}}
  benign: {rows: 20, prefill: {sampler: overcautious, words: 120, min_words: 90, attempts: 8}}
"""


@pytest.fixture(scope="module")
def recipe(vllm_server: Callable[[Path], Server], unaligned: Path, overcautious: Path) -> Callable[[Path], None]:
    first, second = vllm_server(unaligned), vllm_server(overcautious)
    text = RECIPE.replace("OVERCAUTIOUS_URL", second.base_url).replace("UNALIGNED_URL", first.base_url)
    text = text.replace("UNALIGNED", first.model).replace("TOKENIZER", str(unaligned))

    def write(folder: Path) -> None:
        (folder / "real.yaml").write_text(text)

    return write


def recap_data(folder: Path, *options: str, code: int = 0) -> tuple[dict[str, Any], str]:
    command = [sys.executable, "-m", "pipeline.cli", *options, "--json"]
    environment = os.environ | QUIET
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout or "{}"), done.stderr


def prefilled(folder: Path, name: str = "real") -> list[dict[str, Any]]:
    return [row for row in pq.read_table(folder / "out" / name / "data").to_pylist() if row["prefill"]]


def assert_sound(rows: list[dict[str, Any]], engines: dict[str, str]) -> None:
    stances = {"harmful": "complies", "benign": "refuses"}
    for row in rows:
        assert row["sampling"]["engine"] == engines[row["domain"]]
        assert row["verdict"]["stance"] == stances[row["domain"]]
        assert 90 <= len(row["prefill"].split()) <= 120
        assert control_token(row["prefill"]) is None
    assert len({row["prefill"] for row in rows}) == len(rows)


def test_two_models_are_sampled_judged_rejected_and_sampled_again(
    recipe: Callable[[Path], None], tmp_path: Path
) -> None:
    recipe(tmp_path)
    first, _ = recap_data(tmp_path, "build", "real.yaml")
    rows = prefilled(tmp_path)
    assert Counter(row["domain"] for row in rows) == {"harmful": 10, "benign": 10}
    assert_sound(rows, {"harmful": "openai", "benign": "openai"})
    attempts = json.loads((tmp_path / "out/real/manifest.json").read_text())["attempts"]
    assert sum(sum(entry["rejected"].values()) for entry in attempts) > 0
    assert max(row["sampling"]["attempt"] for row in rows) > 0

    again, _ = recap_data(tmp_path, "build", "real.yaml", "--out", "out/again")
    assert again["content_hash"] == first["content_hash"]


def test_a_seed_prefix_is_gone_on_from_by_the_very_token_ids(recipe: Callable[[Path], None], tmp_path: Path) -> None:
    recipe(tmp_path)
    recap_data(tmp_path, "build", "real.yaml", *SEEDED)
    harmful = [row for row in prefilled(tmp_path) if row["domain"] == "harmful"]
    assert len(harmful) == 10
    assert all(row["prefill"].startswith(SEED) for row in harmful)
    manifest = json.loads((tmp_path / "out/real/manifest.json").read_text())
    assert manifest["probes"]["unaligned"] in (
        "read the token ids that were sent",
        "went on with the canary's sentence",
    )


def test_the_engine_in_process_is_one_word_away_and_started_once(
    recipe: Callable[[Path], None], unaligned: Path, tmp_path: Path
) -> None:
    recipe(tmp_path)
    switched = ["--set", "samplers.unaligned.engine=vllm", "--set", f"samplers.unaligned.model={unaligned}"]
    switched += ["--set", f"samplers.unaligned.vllm={LOCAL}", *SEEDED]
    first, told = recap_data(tmp_path, "build", "real.yaml", *switched)
    assert_sound(prefilled(tmp_path), {"harmful": "vllm", "benign": "openai"})
    assert "Traceback" not in told
    assert "leaked" not in told

    began = time.monotonic()
    again, _ = recap_data(tmp_path, "build", "real.yaml", *switched, "--out", "out/again")
    assert again["content_hash"] == first["content_hash"]
    assert time.monotonic() - began < 60


def test_a_model_that_was_trained_again_in_its_folder_is_another_model(
    recipe: Callable[[Path], None], unaligned: Path, overcautious: Path, tmp_path: Path
) -> None:
    recipe(tmp_path)
    shutil.copytree(unaligned, tmp_path / "model")
    switched = ["--set", "samplers.unaligned.engine=vllm", "--set", "samplers.unaligned.model=model"]
    switched += ["--set", f"samplers.unaligned.vllm={LOCAL}", *SEEDED]
    first, _ = recap_data(tmp_path, "build", "real.yaml", *switched)
    (row, *_) = [row for row in prefilled(tmp_path) if row["domain"] == "harmful"]
    assert row["sampling"]["revision"].startswith("sha256:")
    assert recap_data(tmp_path, "build", "real.yaml", *switched)[0]["unchanged"]

    for file in overcautious.glob("*.safetensors"):
        shutil.copy(file, tmp_path / "model" / file.name)
    again, _ = recap_data(tmp_path, "build", "real.yaml", *switched, "--out", "out/again", "--allow-short")
    assert again["requests"] > 0
    assert again["content_hash"] != first["content_hash"]
    shutil.rmtree(tmp_path / "model")
    assert recap_data(tmp_path, "verify", "out/real")[0]["verified"], "the ledger has what the first weights wrote"


def test_a_model_that_can_not_be_loaded_is_one_clear_error(recipe: Callable[[Path], None], tmp_path: Path) -> None:
    recipe(tmp_path)
    nowhere = ["--set", "samplers.unaligned.engine=vllm", "--set", "samplers.unaligned.model=./nowhere"]
    _, told = recap_data(tmp_path, "build", "real.yaml", *nowhere, code=2)
    assert "vLLM can't load './nowhere'" in told.splitlines()[-1]
