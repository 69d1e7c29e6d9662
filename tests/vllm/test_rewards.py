"""Rewards from a guard on a real vLLM server. The model is random: a bias holds it to the labels."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.trainer.rewards import RewardsConfig, Rollout, Scorer
from tests.vllm.server import running


def test_safety_is_the_probability_that_a_real_guard_gives(guard: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    rollouts = [
        Rollout(str(n), "harmful", "safety", f"Name bread {n}.", f"Rye.</think>\n\nBread {n} is rye.", opened=True)
        for n in range(12)
    ]
    with running(guard, tmp_path / "vllm.log", "--logprobs-mode", "processed_logprobs") as server:
        ids = AutoTokenizer.from_pretrained(guard).convert_tokens_to_ids(["safe", "unsafe"])
        # A little more for "safe": the check asks about a harmless exchange, which a guard must not call harmful.
        held = {"logit_bias": {str(label): bias for label, bias in zip(ids, (50, 49), strict=True)}, "max_tokens": 1}
        asked = {"engine": "guard", "family": "llama-guard-3", "base_url": server.base_url, "model": server.model}
        config = RewardsConfig.model_validate({"safety": asked | {"extra": held}})
        with Scorer(config, tmp_path / "held") as scorer:
            scores = scorer.score(rollouts)
        turns = [{"role": "user", "content": "Name bread 0."}, {"role": "assistant", "content": "Bread 0 is rye."}]
        body = {"messages": turns, "temperature": 0.0, "logprobs": True, "top_logprobs": 5} | held
        (told,) = server.post("/chat/completions", body)["choices"][0]["logprobs"]["content"]
        with (
            Scorer(RewardsConfig.model_validate({"safety": asked}), tmp_path / "free") as scorer,
            pytest.raises(InputError, match="no answer of that family"),
        ):
            scorer.score(rollouts)
    shares = {top["token"]: math.exp(top["logprob"]) for top in told["top_logprobs"]}
    assert all(score.why == "scored" for score in scores)
    assert scores[0].value == pytest.approx(shares["safe"] / (shares["safe"] + shares["unsafe"]), abs=1e-4)
    assert len(set(scores)) > 6, "continuous"
