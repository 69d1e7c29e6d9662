"""TRL's GRPO trainer with the little that RECAP needs of it and TRL lacks.

- A prompt is given as token ids, those of the renderer: TRL would tokenise text again, and read a control token that
  stands in a user's text. Every engine of TRL's (transformers, vLLM in process or served) takes these same ids.
- Reward functions are given completions with their special tokens, since some models write them around their thinking.
- Dynamic sampling: groups that are all bad or all good are replaced by groups of other prompts before TRL computes
  advantages, so that loss and divisor are TRL's own, of the final groups.
- Rollouts are counted: rewards by domain, prefilled and plain apart; refusals, recoveries, unclosed and unscored ones.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from trl import GRPOTrainer

from pipeline.judges.refusal import RefusalJudge
from pipeline.thinking import Marks, read_output
from pipeline.trainer.config import DynamicSampling


class _Rollout(NamedTuple):
    row: dict[str, Any]
    prompt: str
    prompt_ids: list[int]
    completion_ids: list[int]
    completion: str
    logprobs: list[float] | None
    rewards: torch.Tensor
    extra: dict[str, Any]


class RecapTrainer(GRPOTrainer):  # type: ignore[misc]
    """A GRPOTrainer for rows as `pipeline.trainer.launch.dataset_of` makes them.

    Args:
        dynamic_sampling: which groups are replaced, and how often at most; none keeps every group.
        recovered_above: a prefilled rollout with a higher reward counts as recovered, in the logs.
        marks: those that the policy thinks in; of any known family unless given.
        options: those of GRPOTrainer.
    """

    def __init__(
        self,
        *,
        dynamic_sampling: DynamicSampling | None,
        recovered_above: float,
        marks: Marks | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._dynamic = dynamic_sampling
        self._recovered_above = recovered_above
        self._marks = marks
        self._refusals = RefusalJudge()
        self._rows: Sequence[dict[str, Any]] = ()
        self._decided: torch.Tensor | None = None
        logging.getLogger(GRPOTrainer.__module__).addFilter(_no_texts)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self._rows, self._decided = inputs, None
        return super()._generate_and_score_completions(inputs)  # type: ignore[no-any-return]

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return [row["prompt_ids"] for row in self._rows], None, {}

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> torch.Tensor:
        if self._decided is not None:
            return self.accelerator.gather(self._decided)
        texts = [self._text(ids) for ids in completion_ids_list]
        rewards: torch.Tensor = super()._calculate_rewards(inputs, prompts, texts, completion_ids_list)
        self._count(inputs, texts, self._totals(self._local(rewards, len(inputs))))
        return rewards

    def _generate(self, prompts: list[str]) -> tuple[Any, ...]:
        if not self.model.training:
            return super()._generate(prompts)  # type: ignore[no-any-return]
        if self._dynamic is None:
            return self._chosen(self._sample(), [], prompts)
        wanted = len(prompts) // self.num_generations
        teaching, others = list[list[_Rollout]](), list[list[_Rollout]]()
        for refill in range(self._dynamic.max_refills + 1):
            for group in self._sample():
                (teaching if self._teaches(group) else others).append(group)
            missing = self._most(wanted - len(teaching))
            if refill == 0:
                self._log_metric("dynamic/replaced", 1 - min(len(teaching), wanted) / wanted)
            if missing <= 0 or refill == self._dynamic.max_refills:
                break
            self._rows = self._drawn(missing, refill)
        self._log_metric("dynamic/refills", refill)
        short = max(wanted - len(teaching), 0)
        self._log_metric("dynamic/short", short / wanted)
        return self._chosen(teaching[:wanted], others[:short], prompts)

    def _sample(self) -> list[list[_Rollout]]:
        """Generate and score a completion for each of the rows at hand; the groups of them."""
        rows, size = self._rows, self.num_generations
        texts = [row["prompt"] for row in rows]
        prompt_ids, completion_ids, _, completions, logprobs, *_ = super()._generate(texts)
        rewards = self._local(self._calculate_rewards(rows, texts, completions, completion_ids), len(rows))
        extra = {name: list(values) for name, values in self._pending_extra_logs.items()}
        self._pending_extra_logs.clear()
        rollouts = [
            _Rollout(
                rows[at],
                texts[at],
                prompt_ids[at],
                completion_ids[at],
                completions[at],
                None if logprobs is None else logprobs[at],
                rewards[at],
                {name: values[at] for name, values in extra.items()},
            )
            for at in range(len(rows))
        ]
        return [rollouts[at : at + size] for at in range(0, len(rollouts), size)]

    def _teaches(self, group: Sequence[_Rollout]) -> bool:
        """Whether a group is to be trained on: not all bad, not all good, and two of it scored at least."""
        totals = self._totals(torch.stack([rollout.rewards for rollout in group]))
        scored = totals[~totals.isnan()]
        if len(scored) < 2:
            kind = "unscored"
        elif scored.max() <= 0:
            kind = "all_bad"
        elif self._dynamic is not None and scored.min() > self._dynamic.tau:
            kind = "all_good"
        else:
            kind = ""
        for name in ("unscored", "all_bad", "all_good"):
            self._log_metric(f"dynamic/{name}", float(kind == name))
        return not kind

    def _drawn(self, groups: int, refill: int) -> list[dict[str, Any]]:
        """Rows for `groups` more groups: a function of seed and step, so that a resumed run draws the same ones."""
        rows, seed = self.train_dataset, self.args.seed
        within = self._step % self.args.gradient_accumulation_steps
        digest = hashlib.sha256(f"{seed}/{self.state.global_step}/{within}/{refill}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7]))
        order = torch.randperm(len(rows), generator=generator).tolist()
        first = self.accelerator.process_index * groups
        places = [order[(first + at) % len(order)] for at in range(groups)]
        return [rows[place] for place in places for _ in range(self.num_generations)]

    def _chosen(
        self, teaching: list[list[_Rollout]], fillers: list[list[_Rollout]], prompts: list[str]
    ) -> tuple[Any, ...]:
        """What TRL's `_generate` returns, for the final groups.

        Fillers keep the batch's shape. They and unscored rollouts are masked out of the loss and of its divisor.
        """
        rollouts = [rollout for group in (*teaching, *fillers) for rollout in group]
        self._decided = torch.stack([rollout.rewards for rollout in rollouts])
        self._decided[sum(map(len, teaching)) :] = torch.nan
        trained = ~self._decided.isnan().all(dim=1)
        self._rows = [rollout.row for rollout in rollouts]
        prompts[:] = [rollout.prompt for rollout in rollouts]
        for name in sorted({name for rollout in rollouts for name in rollout.extra}):
            self._log_completion_extra(name, [rollout.extra.get(name) for rollout in rollouts])
        masks = [[int(on)] * len(rollout.completion_ids) for on, rollout in zip(trained, rollouts, strict=True)]
        return (
            [rollout.prompt_ids for rollout in rollouts],
            [rollout.completion_ids for rollout in rollouts],
            None if trained.all() else masks,
            [rollout.completion for rollout in rollouts],
            None if rollouts[0].logprobs is None else [rollout.logprobs for rollout in rollouts],
            {},
            None,
            [],
        )

    def _count(self, rows: Sequence[dict[str, Any]], texts: Sequence[str], totals: torch.Tensor) -> None:
        for row, text, reward in zip(rows, texts, totals.tolist(), strict=True):
            domain, prefilled = row["domain"], row["prefill"] is not None
            kind = "prefilled" if prefilled else "plain"
            reading = read_output(text, opened=row["opened"], marks=self._marks)
            scored = reward == reward  # noqa: PLR0124
            self._log_metric(f"unclosed/{kind}", float(not reading.closed))
            self._log_metric(f"unscored/{kind}", float(not scored))
            if scored:
                self._log_metric(f"reward/{domain}/{kind}", reward)
            if scored and prefilled:
                self._log_metric(f"recovered/{domain}", float(reward > self._recovered_above))
            if domain != "math":
                stance = self._refusals.read(row["messages"][-1]["content"], reading.answer, "response").stance
                self._log_metric(f"refused/{domain}/{kind}", float(stance == "refuses"))

    def _text(self, ids: list[int]) -> str:
        end = len(ids)
        while end and ids[end - 1] in self.eos_token_ids:
            end -= 1
        return str(self.processing_class.decode(ids[:end], skip_special_tokens=False))

    def _totals(self, rewards: torch.Tensor) -> torch.Tensor:
        """The rewards as TRL adds them up; NaN where no function scored the rollout."""
        totals = (rewards * self.reward_weights.to(rewards.device)).nansum(dim=1)
        return totals.masked_fill(rewards.isnan().all(dim=1), torch.nan)

    def _local(self, rewards: torch.Tensor, count: int) -> torch.Tensor:
        """This process's part of what was gathered from all."""
        first = self.accelerator.process_index * count
        return rewards[first : first + count]

    def _most(self, count: int) -> int:
        """The largest of the processes' counts: all must sample equally often."""
        return int(self.accelerator.gather(torch.tensor([count], device=self.accelerator.device)).max())


def _no_texts(record: logging.LogRecord) -> bool:
    """Keep out TRL's warning about a rollout that no function scored: it shows prompt and completion."""
    return "All reward functions returned None" not in record.getMessage()
