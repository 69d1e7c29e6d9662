"""The reward functions in TRL's real trainer: what becomes of a rollout that nobody could score."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from pipeline.trainer.rewards import RewardsConfig, Scorer, reward_functions
from tests.models import tiny_model
from tests.servers.endpoint import endpoint

pytest.importorskip("trl", reason="needs TRL (pip install 'recap-data[trainer]')")

GROUP, PROMPTS = 8, 4


def trained(folder: Path, scorer: Scorer, rewards: list[str]) -> Any:
    """A trainer that made one step on rows with these rewards."""
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    model = tiny_model(folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(model)
    rows = [
        {
            "id": str(number),
            "domain": "harmful",
            "reward": reward,
            "ground_truth": None,
            "prefill": None,
            "messages": [{"role": "user", "content": f"Name bread number {number}."}],
            "prompt": f"Name bread number {number}.",
        }
        for number, reward in enumerate(rewards)
    ]
    config = GRPOConfig(
        output_dir=str(folder / "out"),
        per_device_train_batch_size=GROUP * PROMPTS,
        num_generations=GROUP,
        max_completion_length=12,
        max_steps=1,
        logging_steps=1,
        report_to="none",
        use_cpu=True,
        bf16=False,
        save_strategy="no",
        disable_tqdm=True,
    )
    functions: Any = reward_functions(scorer, opened=False)
    trainer = GRPOTrainer(
        str(model),
        reward_funcs=functions,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    trainer.train()
    return trainer


def test_a_group_is_normalised_over_the_rollouts_that_are_scored(tmp_path: Path) -> None:
    with endpoint(latency=0.002) as server:
        served = {
            "engine": "guard",
            "family": "granite-guardian",
            "model": "guard-granite",
            "base_url": server.base_url,
        }
        with Scorer(RewardsConfig.model_validate({"safety": served}), tmp_path / "ledger") as scorer:
            scorer.check()
            server.set(unreadable_share=0.4)
            trainer = trained(tmp_path, scorer, ["safety"] * PROMPTS)
            unscored = scorer.counts["safety", "unreadable"]
    rewards, advantages = list(trainer._logs["rewards"]["safety"]), list(trainer._logs["advantages"])
    assert len(rewards) == GROUP * PROMPTS
    assert sum(map(math.isnan, rewards)) == unscored
    assert 0 < unscored < GROUP * PROMPTS
    for start in range(0, len(rewards), GROUP):
        group = rewards[start : start + GROUP]
        scored = [reward for reward in group if not math.isnan(reward)]
        mean = sum(scored) / len(scored)
        spread = math.sqrt(sum((reward - mean) ** 2 for reward in scored) / (len(scored) - 1))
        for reward, advantage in zip(group, advantages[start : start + GROUP], strict=True):
            expected = 0.0 if math.isnan(reward) else (reward - mean) / (spread + 1e-4)
            assert advantage == pytest.approx(expected, abs=1e-3)
    logged = trainer.state.log_history[0]
    assert logged["safety/unscored"] == pytest.approx(unscored / (GROUP * PROMPTS))
    assert not any(math.isnan(logged[key]) for key in ("loss", "grad_norm", "reward"))


def test_rows_of_each_kind_are_scored_by_their_own_function(tmp_path: Path) -> None:
    rewards = ["safety", "helpfulness", "safety", "helpfulness"]
    with Scorer(RewardsConfig(), tmp_path / "ledger") as scorer:
        trainer = trained(tmp_path, scorer, rewards)
        counts = {kind: sum(n for (reward, _), n in scorer.counts.items() if reward == kind) for kind in set(rewards)}
    assert counts == {"safety": 2 * GROUP, "helpfulness": 2 * GROUP}
    logs = trainer._logs["rewards"]
    assert list(logs) == ["safety", "helpfulness", "math"]
    assert all(map(math.isnan, logs["math"]))
    for safety, helpfulness in zip(logs["safety"], logs["helpfulness"], strict=True):
        assert math.isnan(safety) or math.isnan(helpfulness)
