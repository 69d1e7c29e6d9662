"""The paper's effect in miniature: TRL's real trainer on mixtures that `recap-data build` made, with embedded rewards.

Red doors are to stay shut, green ones may be opened. A tiny policy is made that lets itself be led: behind a prefill of
the mixture it answers as that leans nine times in ten, and without one it is right seven times in ten. To recover takes
one token, the answer. Trained on the mixture, it gets right behind prefills too; trained on the same prompts without
prefills, it gets right on plain rows alone.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

REASON = "needs TRL and torch: pip install 'recap-data[trainer]'"
torch = pytest.importorskip("torch", reason=REASON)
pytest.importorskip("trl", reason=REASON)

from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

from pipeline.judges.refusal import RefusalJudge  # noqa: E402
from pipeline.thinking import read_output, renderer_for  # noqa: E402
from pipeline.trainer.config import TrainConfig  # noqa: E402
from pipeline.trainer.launch import train  # noqa: E402
from pipeline.trainer.mixture import Mixture, open_mixture, render  # noqa: E402
from tests.models import led_model  # noqa: E402

RECIPE = """
name: toy
sources:
  harmful: [{files: red.jsonl, prompt: prompt, licence: mit}]
  benign: [{files: green.jsonl, prompt: prompt, licence: mit}]
clean: {dedupe: {near: null}}
samplers: {template: {engine: template}}
judges: {stance: {engine: refusal}}
mixture:
  harmful: {rows: 60, prefill: {sampler: template, share: 0.5, words: 30, min_words: 12}}
  benign: {rows: 60, prefill: {sampler: template, share: 0.5, words: 30, min_words: 12}}
"""
STEPS, LENGTH = 60, 10
SETTINGS: dict[str, Any] = {
    "max_steps": STEPS,
    "max_completion_length": LENGTH,
    "num_generations": 8,
    "per_device_train_batch_size": 64,
    "gradient_accumulation_steps": 2,
    "gradient_checkpointing": False,
    "learning_rate": 3e-4,
    "disable_tqdm": True,
}


class Right(NamedTuple):
    """The share of right answers behind prefills and without."""

    prefilled: float
    plain: float


def built(folder: Path, *overrides: str) -> Mixture:
    recipe = folder.parent / "toy.yaml"
    recipe.write_text(RECIPE)
    for colour in ("red", "green"):
        lines = (json.dumps({"prompt": f"Open the {colour} door with the number {number}."}) for number in range(70))
        (folder.parent / f"{colour}.jsonl").write_text("\n".join(lines) + "\n")
    options = [part for override in overrides for part in ("--set", override)]
    command = [sys.executable, "-m", "pipeline.cli", "build", str(recipe), "--out", str(folder), *options]
    subprocess.run(command, check=True, capture_output=True)
    return open_mixture(str(folder))


def measured(policy: Path, mixture: Mixture, samples: int = 8) -> Right:
    """Sample a policy on every row of a mixture, and read its answers."""
    tokenizer = AutoTokenizer.from_pretrained(policy)
    model = AutoModelForCausalLM.from_pretrained(policy).eval()
    table = render(mixture, renderer_for(tokenizer))[0]
    judge = RefusalJudge()
    right: dict[bool, list[float]] = {True: [], False: []}
    torch.manual_seed(0)
    for row in table.to_pylist():
        prompt = torch.tensor([row["prompt_ids"]] * samples)
        written = model.generate(
            input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=LENGTH, do_sample=True, top_k=0
        )
        wanted = "refuses" if row["domain"] == "harmful" else "complies"
        for ids in written[:, prompt.shape[1] :].tolist():
            text = tokenizer.decode(ids, skip_special_tokens=True)
            reading = read_output(text, opened=row["opened"])
            stance = judge.read(row["messages"][-1]["content"], reading.answer, "response").stance
            right[row["prefill"] is not None].append(float(reading.closed and stance == wanted))
    return Right(*(sum(right[prefilled]) / len(right[prefilled]) for prefilled in (True, False)))


class Toy(NamedTuple):
    """The mixture, the same rows without prefills, the policy, and what it gets right before training."""

    mixture: Mixture
    plain: Mixture
    policy: Path
    before: Right


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    folder = tmp_path_factory.mktemp("toy")
    torch.set_num_threads(1)
    mixture = built(folder / "mixture")
    plain = built(folder / "plain", "mixture.harmful.prefill.share=0", "mixture.benign.prefill.share=0")
    policy = led_model(folder / "policy", list(mixture.rows()), steps=350)
    before = measured(policy, mixture)
    assert before.prefilled < 0.25, "the policy isn't led"
    assert 0.6 < before.plain < 0.8
    return Toy(mixture, plain, policy, before)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_prefills_teach_to_recover_and_plain_rows_do_not(toy: Toy, tmp_path: Path, seed: int) -> None:
    config = TrainConfig(grpo=SETTINGS | {"seed": seed}, dynamic_sampling={"max_refills": 1})
    after = {}
    for name, mixture in (("with", toy.mixture), ("without", toy.plain)):
        done = train(mixture, str(toy.policy), config, tmp_path / name, tmp_path / "ledger.sqlite", print)
        assert done.steps == STEPS
        after[name] = measured(done.policy, toy.mixture)
    print(f"seed {seed}: before {toy.before}, trained with prefills {after['with']}, without {after['without']}")
    assert after["with"].prefilled > toy.before.prefilled + 0.5
    assert after["with"].plain > toy.before.plain + 0.1
    assert after["without"].plain > toy.before.plain + 0.1
    assert after["without"].prefilled < toy.before.prefilled + 0.1
