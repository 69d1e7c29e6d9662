"""Guard judges on a real vLLM server. The model is random: what is proven is how its log-probabilities are read."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from pathlib import Path

from pipeline.clients import Answer
from pipeline.clients.opening import opened
from pipeline.engine import Budget
from pipeline.judges import Exchange, Verdict
from pipeline.judges.guard import GuardJudge
from pipeline.recipe import GuardConfig
from tests.vllm.server import Server

ASKED = {"messages": [{"role": "user", "content": "Name a bread."}], "temperature": 0.0, "max_tokens": 8, "seed": 1}


def test_log_probabilities_of_a_real_server_are_read(
    vllm_server: Callable[[Path], Server], guard: Path, tmp_path: Path
) -> None:
    server = vllm_server(guard)
    config = GuardConfig(engine="guard", family="llama-guard-3", base_url=(server.base_url,), model=server.model)

    async def ask() -> tuple[Answer, Answer, Verdict]:
        async with opened(tmp_path / "ledger.sqlite", Budget()) as clients:
            client = clients.open(config)
            chat = await client.ask(ASKED | {"logprobs": True, "top_logprobs": 5}, asker="test")
            words = {"prompt": "Is it safe?", "temperature": 0.0, "max_tokens": 8, "seed": 1, "logprobs": 5}
            completion = await client.ask(words, asker="test")
            verdict = await GuardJudge(config, client).judge(Exchange("Name a bread.", "I will name rye."))
            return chat, completion, verdict

    chat, completion, verdict = asyncio.run(ask())
    for answer in (chat, completion):
        assert answer.logprobs is not None
        assert len(answer.logprobs) == 8
        for place in answer.logprobs:
            assert place
            assert all(logprob <= 0 for logprob in place.values())
            assert sum(map(math.exp, place.values())) <= 1 + 1e-6
    assert verdict.stance in ("complies", "unclear", "unreadable")
    assert verdict.sees == ("prompt", "thinking")
