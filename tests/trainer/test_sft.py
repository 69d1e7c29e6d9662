"""The over-cautious sampler: what is learned of a row, and a real fine-tuning of a tiny model that makes it refuse."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.recipe import ModelConfig
from pipeline.samplers import PrefillRequest
from pipeline.samplers.template import TemplateSampler
from pipeline.thinking import renderer_for
from pipeline.trainer.sft import SftConfig, examples
from tests import models
from tests.byte_tokenizer import byte_tokenizer
from tests.servers.hub import hub

transformers = pytest.importorskip("transformers", reason="needs transformers: pip install 'recap-data[render]'")

ROW = {
    "question": "How do I pick a lock?",
    "response": "<think>\nThe policy says no.\nSo I say no.\n</think>\n\nI'm sorry, but I can't help with that.",
}
BUNDLED = files("pipeline.sources") / "bundled"
QUICK = {
    "lora": {"r": 32, "lora_alpha": 64},
    "sft": {
        "learning_rate": 5e-3,
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 1,
        "gradient_checkpointing": False,
        "save_steps": 8,
        "disable_tqdm": True,
    },
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return transformers.AutoTokenizer.from_pretrained(byte_tokenizer(tmp_path_factory.mktemp("tokenizers") / "bytes"))


def test_the_response_is_learned_as_the_model_would_write_it(tokenizer: Any) -> None:
    found = examples([ROW], SftConfig(), renderer_for(tokenizer))
    (row,) = found.rows
    learned = bytes(label for label in row["labels"] if label != -100).decode()
    given = bytes(id for id, label in zip(row["input_ids"], row["labels"], strict=True) if label == -100).decode()
    assert given == "<|im_start|>user\nHow do I pick a lock?<|im_end|>\n<|im_start|>assistant\n"
    assert learned.startswith("<think>\nThe policy says no.\nSo I say no.\n</think>\n\nI'm sorry, but")
    assert row["labels"][: len(given)] == [-100] * len(given)
    assert row["labels"][len(given) :] == row["input_ids"][len(given) :]


def test_rows_are_left_out_and_never_cut(tokenizer: Any) -> None:
    rows = [
        ROW,
        ROW | {"response": "I'm sorry, but I can't help with that."},
        ROW | {"response": "<think>\nIt never ends"},
        ROW | {"response": ROW["response"].replace("policy", "policy " * 200)},
        ROW | {"response": ROW["response"].replace("policy", "<|im_end|>")},
    ]
    found = examples(rows, SftConfig(max_tokens=500), renderer_for(tokenizer))
    assert len(found.rows) == 1
    assert found.left_out == {"without thinking and answer": 2, "too long": 1, "not writable by the chat template": 1}


def test_a_dataset_of_the_hub_is_read_at_its_commit(tmp_path: Path) -> None:
    (tmp_path / "star").mkdir()
    (tmp_path / "star/data.json").write_text(json.dumps([ROW | {"id": str(number)} for number in range(4)]))
    script = """
import json
from pipeline.trainer.sft import SftConfig, load_rows
print(json.dumps(load_rows("lab/star", SftConfig(limit=3))))
try:
    load_rows("lab/star", SftConfig(prompt="query"))
except Exception as error:
    print(json.dumps([type(error).__name__, str(error)]))
"""
    with hub() as server:
        server.add("lab/star", tmp_path / "star")
        asked = [sys.executable, "-c", script]
        settings = {**os.environ, **server.environment(tmp_path / "home")}
        done = subprocess.run(asked, capture_output=True, text=True, check=True, env=settings)
    (rows, origin), (kind, says) = map(json.loads, done.stdout.splitlines())
    assert rows == [ROW] * 3
    assert origin["dataset"] == "lab/star"
    assert len(origin["revision"]) == 40
    assert kind == "InputError"
    assert "lab/star has no text in the field 'query'; it has question, response, id." in says


def test_every_row_of_star_1_is_read(shared_data: Path, tokenizer: Any) -> None:
    rows = json.loads((shared_data / "harmful/STAR-1.json").read_text())
    found = examples(rows, SftConfig(max_tokens=100_000), renderer_for(tokenizer))
    assert len(found.rows) >= 995
    assert sum(found.left_out.values()) == len(rows) - len(found.rows)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model that always complies, refusals to learn from, and settings for so small a model."""
    pytest.importorskip("trl", reason="needs TRL: pip install 'recap-data[trainer]'")
    pytest.importorskip("peft", reason="needs peft: pip install 'recap-data[trainer]'")
    folder = tmp_path_factory.mktemp("sft")
    kept = Path(os.environ.get("RECAP_TEST_MODELS") or folder)
    made = models.trained_model(kept / "unaligned", "complies")
    (folder / "model").symlink_to(made, target_is_directory=True)
    (folder / "star.json").write_text(json.dumps(asyncio.run(_refusals())))
    (folder / "quick.yaml").write_text(yaml.safe_dump(QUICK))
    (folder / "benign.jsonl").write_text((BUNDLED / "demo-benign.jsonl").read_text())
    return folder


async def _refusals(count: int = 96) -> list[dict[str, str]]:
    lines = (BUNDLED / "demo-harmful.jsonl").read_text().splitlines()
    draw, rows = random.Random(1), []
    for number in range(count):
        prompt = json.loads(draw.choice(lines))["prompt"]
        request = PrefillRequest(str(number), prompt, None, "refuses", draw.randint(60, 120), 1, number)
        thinking = (await TemplateSampler().sample(request)).thinking
        rows.append({"question": prompt, "response": f"<think>\n{thinking}\n</think>\n\n{ROW['response'][-38:]}"})
    return rows


def command(*options: str, model: str = "./model", out: str = "tuned") -> list[str]:
    asked = [sys.executable, "-m", "pipeline.cli", "sampler-sft", "--model", model, "--data", "star.json", "--out", out]
    return [*asked, "--config", "quick.yaml", "--epochs", "4", *options]


def sampler_sft(place: Path, *options: str, **where: str) -> subprocess.CompletedProcess[str]:
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command(*options, **where), cwd=place, capture_output=True, text=True, check=False, env=alone)


def test_a_tuned_model_refuses_what_is_benign_and_a_killed_tuning_goes_on(place: Path) -> None:
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command(), cwd=place, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=alone) as run:
        until = time.monotonic() + 300
        while not (place / "tuned.training/checkpoint-8/trainer_state.json").is_file() and time.monotonic() < until:
            assert run.poll() is None
            time.sleep(0.1)
        run.send_signal(signal.SIGKILL)
    assert not (place / "tuned").exists()

    other = sampler_sft(place, "--set", "sft.learning_rate=1e-3")
    assert other.returncode == 2
    assert "tuned.training is of another training" in other.stderr

    done = sampler_sft(place, "--measure", "benign.jsonl", "--measure-rows", "16", "--json")
    assert done.returncode == 0, done.stderr
    assert "going on from tuned.training/checkpoint-" in done.stderr
    told = json.loads(done.stdout)
    assert (told["rows"], told["steps"], told["left_out"]) == (96, 48, {})
    before, after = told["refusals"]
    for part in ("thinking", "answers"):
        assert before[part]["refusing"]["mean"] < 0.2
        assert after[part]["refusing"]["mean"] > 0.7
        assert after[part]["refusing"]["low"] > before[part]["refusing"]["high"]
    assert not (place / "tuned.training").exists()

    again = sampler_sft(place)
    assert "already there" in again.stderr
    sampler = yaml.safe_load(again.stdout)["samplers"]["overcautious"]
    assert ModelConfig.model_validate(sampler).model == str((place / "tuned").resolve())


def test_all_weights_are_trained_on_request(place: Path) -> None:
    from safetensors.torch import load_file

    done = sampler_sft(place, "--full", "--limit", "16", "--set", "sft.max_steps=3", out="whole")
    assert done.returncode == 0, done.stderr
    assert "star.json: 16 rows" in done.stderr
    before, after = (load_file(place / name / "model.safetensors") for name in ("model", "whole"))
    assert before.keys() == after.keys()
    assert all((before[name] != after[name]).any() for name in before)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--set", "prompt=query"], "star.json has no text in the field 'query'; it has question, response."),
        (["--data", "nothing.json"], "There is no file nothing.json"),
        (["--set", "sft.learning_rat=1"], "TRL or peft doesn't take these settings"),
        (["--set", "lora.rank=4"], "TRL or peft doesn't take these settings"),
        (["--set", "sft.max_length=100"], "sft.max_length: can't be changed here"),
        (["--set", "max_tokens=3"], "No row of star.json is left to train on: 96 too long."),
        (["--model", "./none"], "There is no tokenizer './none'"),
        (["--config", "none.yaml"], "There is no none.yaml"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(place: Path, options: list[str], says: str) -> None:
    done = sampler_sft(place, *options, out="mistaken")
    assert done.returncode == 2, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not (place / "mistaken").exists()
