"""Thirty steps of TRL's real trainer on a mixture of published prompts: by the command, rewards from what is embedded,
and from a guard on a real vLLM server.

The server is in an environment of its own (`.ci/vllm.sh` makes it): RECAP_VLLM_PYTHON names its interpreter.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

REASON = "needs TRL and torch: pip install 'recap-data[trainer]'"
pytest.importorskip("torch", reason=REASON)
pytest.importorskip("trl", reason=REASON)

from transformers import AutoTokenizer  # noqa: E402

from pipeline.ledger import Ledger  # noqa: E402
from pipeline.trainer.mixture import open_mixture  # noqa: E402
from tests.models import led_model, tiny_guard  # noqa: E402
from tests.vllm.server import running  # noqa: E402

VLLM = os.environ.get("RECAP_VLLM_PYTHON")
STEPS = 30
RECIPE = """
name: published
sources:
  harmful: [{files: DATA/harmful/STAR-1.json, dataset: UCSC-VLAA/STAR-1, limit: 60}]
  benign:
    - {files: DATA/benign/coconot_pref.jsonl, dataset: allenai/coconot, limit: 60, where: {category: Requests with safety concerns}}
clean: {decontaminate: {against: [{files: DATA/eval/strongreject_dataset.csv, dataset: walledai/StrongREJECT}]}}
samplers: {template: {engine: template}}
mixture:
  harmful: {rows: 40, prefill: {sampler: template, words: 30, min_words: 12}}
  benign: {rows: 40, prefill: {sampler: template, words: 30, min_words: 12}}
"""  # noqa: E501
SETTINGS: dict[str, Any] = {
    "max_steps": STEPS,
    "max_completion_length": 10,
    "num_generations": 4,
    "per_device_train_batch_size": 16,
    "gradient_accumulation_steps": 1,
    "gradient_checkpointing": False,
    "learning_rate": 1e-4,
    "save_steps": 10,
    "disable_tqdm": True,
}


@pytest.fixture(scope="module")
def place(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the mixture in ``out/published`` and the policy in ``policy``."""
    place = tmp_path_factory.mktemp("published")
    (place / "published.yaml").write_text(RECIPE.replace("DATA", str(shared_data)))
    done = run(place, "build", "published.yaml")
    assert done.returncode == 0, done.stderr
    led_model(place / "policy", list(open_mixture(str(place / "out/published")).rows()), steps=80)
    return place


def run(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline.cli", *arguments]
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, cwd=place, capture_output=True, text=True, check=False, env=settings)


def train(place: Path, out: str, rewards: dict[str, Any]) -> list[dict[str, Any]]:
    """Train by the command; the metrics of each step."""
    (place / "train.yaml").write_text(json.dumps({"grpo": SETTINGS, "rewards": rewards}))
    done = run(
        place,
        "train",
        "out/published",
        "--model",
        "policy",
        "--config",
        "train.yaml",
        "--out",
        out,
        "--ledger",
        f"{out}.sqlite",
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert (place / out / "policy/config.json").is_file()
    state = json.loads((place / out / "trainer_state.json").read_text())
    assert state["global_step"] == STEPS
    return [entry for entry in state["log_history"] if "loss" in entry]


def test_with_embedded_rewards(place: Path) -> None:
    steps = train(place, "trained", {})
    assert len(steps) == STEPS
    seen = {key for step in steps for key in step}
    for domain in ("harmful", "benign"):
        assert {f"reward/{domain}/{kind}" for kind in ("prefilled", "plain")} | {f"recovered/{domain}"} <= seen
    assert all(math.isfinite(step["loss"]) for step in steps)
    assert any(step["grad_norm"] > 0 for step in steps)


@pytest.fixture
def guard(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """A random guard on a real server, held to its labels by a bias, and to "safe" rather than "unsafe", as what it is
    asked beforehand is: the entry of a config."""
    if not VLLM:
        pytest.skip("needs vLLM in an environment of its own: RECAP_VLLM_PYTHON names its interpreter")
    folder = tiny_guard(tmp_path / "guard")
    safe, unsafe = AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids(["safe", "unsafe"])
    with ExitStack() as stack:
        server = stack.enter_context(
            running(folder, tmp_path / "vllm.log", "--logprobs-mode", "processed_logprobs", python=VLLM)
        )
        held = {"logit_bias": {str(safe): 52, str(unsafe): 50}, "max_tokens": 1}
        asked = {"engine": "guard", "family": "llama-guard-3", "base_url": server.base_url, "model": server.model}
        yield asked | {"extra": held}


def test_with_rewards_from_a_real_vllm_server(place: Path, guard: dict[str, Any]) -> None:
    steps = train(place, "guarded", {"safety": guard})
    rewards = [step[key] for step in steps for key in step if key.startswith("reward/harmful/")]
    assert any(0 < reward < 1 and reward not in (0.25, 0.5, 0.75) for reward in rewards), "a guard's are continuous"
    with Ledger(place / "guarded.sqlite") as ledger:
        answers = {stats.asker: stats.answers for stats in ledger.stats()}
    assert sum(answers.values()) > 5
