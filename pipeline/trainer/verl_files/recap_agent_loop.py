"""The agent loop of every row: the policy goes on from the prefill, or from the generation prompt where there is none.

verl renders prompts with a generation prompt, and a prefill in a message would be closed in front of it. So the ids are
put together here as for any other trainer: template, the model's own opening mark, prefill. They are all prompt to
verl, and only what is generated is trained on.

Plain rows take the same way and not verl's ``single_turn_agent``, so that a plain and a prefilled row of one prompt
differ in nothing but the prefill. verl's loop would read control tokens in a user's text as such, and cut a prompt
that is too long at its head without failing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any
from uuid import uuid4

from verl.experimental.agent_loop.agent_loop import AgentLoopBase, AgentLoopOutput
from verl.utils.profiler import simple_timer

from pipeline.errors import InputError
from pipeline.thinking import Renderer
from pipeline.trainer.verl import check_template, renderer_of


@cache
def _renderer(tokenizer: Any, thinking: tuple[str, str] | None, template: str) -> Renderer:
    return renderer_of(tokenizer, thinking, json.loads(template))


class RecapAgentLoop(AgentLoopBase):  # type: ignore[misc]
    """One rollout of a row. verl finds it by ``agent_loop.yaml``, which also says what it is made with.

    It is not registered with a decorator: that would take the place of the entry in the file, and of its values.

    Args:
        template_sha256: the hash of the chat template that prompts were measured with.
        thinking: the marks to think in, where the template has none.
        template: variables of the chat template.
        arguments: as verl gives them to every agent loop.

    Raises:
        InputError: the policy has another chat template, or one that can't be continued.
    """

    def __init__(
        self,
        *,
        template_sha256: str,
        thinking: Sequence[str] | None = None,
        template: Mapping[str, Any] | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__(**arguments)
        variables = json.dumps({**self.apply_chat_template_kwargs, **(template or {})}, sort_keys=True)
        marks = (thinking[0], thinking[1]) if thinking else None
        self.renderer = _renderer(self.tokenizer, marks, variables)
        check_template(self.renderer, template_sha256)

    async def run(
        self,
        sampling_params: dict[str, Any],
        *,
        raw_prompt: list[dict[str, str]],
        extra_info: Mapping[str, Any],
        priority: int = 0,
        **_columns: Any,
    ) -> Any:
        """Let the policy go on behind a row's prompt and prefill; verl's ``AgentLoopOutput``.

        Raises:
            InputError: the prompt is longer than the settings allow.
            RenderingError: the chat template can't write the prompt.
        """
        prompt_ids = self.renderer.render(list(raw_prompt), extra_info["prefill"]).ids
        room = self._room(extra_info["id"], len(prompt_ids))
        metrics: dict[str, Any] = {}
        with simple_timer("generate_sequences", metrics):
            output = await self.server_manager.generate(
                request_id=uuid4().hex,
                prompt_ids=prompt_ids,
                sampling_params={**sampling_params, "max_tokens": room},
                priority=int(priority),
            )
        metrics["num_preempted"] = -1 if output.num_preempted is None else output.num_preempted
        response_ids = output.token_ids[:room]
        return AgentLoopOutput(
            prompt_ids=prompt_ids,
            response_ids=response_ids,
            response_mask=[1] * len(response_ids),
            response_logprobs=output.log_probs[:room] if output.log_probs else None,
            routed_experts=None if output.routed_experts is None else output.routed_experts[: len(prompt_ids) + room],
            num_turns=2,
            metrics=metrics,
            extra_fields={
                **output.extra_fields,
                "turn_scores": [],
                "tool_rewards": [],
                # verl decodes a response without special tokens, which the marks of thinking may be.
                "completion": self.tokenizer.decode(response_ids, skip_special_tokens=False),
                "opened": extra_info["prefill"] is not None or self.renderer.form == "generation-prompt",
            },
        )

    def _room(self, row: str, prompt: int) -> int:
        """How many tokens may follow a prompt of so many."""
        rollout = self.rollout_config
        total = rollout.max_model_len or rollout.prompt_length + rollout.response_length
        limit = min(rollout.prompt_length, total - 1)
        if prompt > limit:
            raise InputError(
                f"The prompt of row {row} has {prompt:,} tokens, over the {limit:,} that data.max_prompt_length and "
                "rollout.max_model_len leave. Prompts are never cut: raise them, or export the mixture again with a "
                "lower --max-prompt-tokens."
            )
        return int(min(rollout.response_length, total - prompt))
