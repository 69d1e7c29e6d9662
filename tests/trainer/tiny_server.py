"""A tiny model, or a script, where verl has its inference servers: asked as an agent loop asks verl's own client."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from verl.workers.rollout.replica import TokenOutput


@cache
def _model(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    return AutoModelForCausalLM.from_pretrained(folder).eval()


class TinyServer:
    """Generates at most `most` tokens a request, on the CPU, one request at a time; ``asked`` is what it was sent."""

    def __init__(self, folder: Path, most: int = 24) -> None:
        self.folder, self.most = folder, most
        self.asked: list[tuple[list[int], dict[str, Any]]] = []

    async def generate(
        self, request_id: str, *, prompt_ids: list[int], sampling_params: dict[str, Any], **_: Any
    ) -> TokenOutput:
        self.asked.append((list(prompt_ids), dict(sampling_params)))
        done = _model(self.folder).generate(
            torch.tensor([prompt_ids]),
            max_new_tokens=min(self.most, sampling_params["max_tokens"]),
            do_sample=True,
            temperature=sampling_params["temperature"],
            top_k=0,
            return_dict_in_generate=True,
            output_logits=True,
        )
        ids = done.sequences[0, len(prompt_ids) :]
        logits = torch.stack(done.logits)[:, 0].float()
        found = logits.log_softmax(-1).gather(-1, ids[:, None])[:, 0]
        steps = {"min_global_steps": 0, "max_global_steps": 0}
        return TokenOutput(
            token_ids=ids.tolist(), log_probs=found.tolist(), stop_reason="completed", extra_fields=steps
        )


class ScriptedServer:
    """Answers each prompt with its own texts in turn, and any other prompt with those of `others`; all as token ids."""

    def __init__(self, texts: dict[tuple[int, ...], list[list[int]]], others: Sequence[list[int]]) -> None:
        self._texts = {prompt: cycle(answers) for prompt, answers in texts.items()}
        self._others = list(others)

    async def generate(self, request_id: str, *, prompt_ids: list[int], **_: Any) -> TokenOutput:
        ids = next(self._texts.setdefault(tuple(prompt_ids), cycle(self._others)))
        steps = {"min_global_steps": 0, "max_global_steps": 0}
        return TokenOutput(token_ids=ids, log_probs=[0.0] * len(ids), extra_fields=steps)
