"""TRL's GRPO trainer with the little that RECAP needs of it and TRL lacks.

- A prompt is given as token ids, those of the renderer: TRL would tokenise text again, and read a control token that
  stands in a user's text. Every engine of TRL's (transformers, vLLM in process or served) takes these same ids.
- Reward functions are given completions with their special tokens, since some models write them around their thinking.
- Dynamic sampling: groups that are all bad or all good are replaced by groups of other prompts before TRL computes
  advantages, so that the loss is TRL's own, of the final groups.
- What is left out of the loss is left out of its divisor, whether that counts tokens (``dapo``), as TRL has it, or
  rollouts (``grpo``, ``dr_grpo``, ``luspo``, ``sapo``), where TRL would divide by all of them.
- A training that learns too little for too long is stopped (`pipeline.trainer.watch`), with a checkpoint.
- Rollouts are counted: rewards by domain, prefilled and plain apart; refusals, recoveries, unclosed and unscored ones.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from accelerate.utils import gather_object
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState
from trl import GRPOTrainer

from pipeline.judges.refusal import RefusalJudge
from pipeline.schema import REWARDS
from pipeline.thinking import Marks, read_output
from pipeline.trainer.config import DynamicSampling
from pipeline.trainer.watch import POOR, Lesson, Seen, Watch, lesson

_BY_ROLLOUT = ("grpo", "dr_grpo", "luspo", "sapo")
"""Losses of TRL's whose divisor counts rollouts."""


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
        watch: is told what each step came to; where it finds an end to the training, there is one, and `train` returns.
        marks: those that the policy thinks in; of any known family unless given.
        options: those of GRPOTrainer.
    """

    def __init__(
        self,
        *,
        dynamic_sampling: DynamicSampling | None,
        recovered_above: float,
        watch: Watch,
        marks: Marks | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options, callbacks=[Watching(watch, self)])
        self._dynamic = dynamic_sampling
        self._recovered_above = recovered_above
        self._marks = marks
        self._refusals = RefusalJudge()
        self._rows: Sequence[dict[str, Any]] = ()
        self._decided: torch.Tensor | None = None
        self._ids = list(self.train_dataset["id"])
        self._drawn_in, self._drawn_ids = -1, set[str]()
        self._share = torch.ones(())
        self._seen: Counter[str] = Counter()
        self._watch = watch
        logging.getLogger(GRPOTrainer.__module__).addFilter(_no_texts)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self._rows, self._decided = inputs, None
        batch: dict[str, Any] = super()._generate_and_score_completions(inputs)
        if self.model.training:
            batch["trained_share"] = self._share
        return batch

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """TRL's loss; where it is a mean over rollouts, over those that are trained on.

        What TRL divides by all rollouts is linear in the advantages and in beta, so that these are what is divided by
        the share: TRL adds a bonus for entropy to it, which has a divisor of its own.
        """
        share = inputs.get("trained_share")
        if share is None or self.loss_type not in _BY_ROLLOUT:
            return super()._compute_loss(model, inputs)
        beta: float = self.args.beta
        try:
            self.beta = beta / share.item()
            return super()._compute_loss(model, inputs | {"advantages": inputs["advantages"] / share})
        finally:
            self.beta = beta

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
        wanted = len(prompts) // self.num_generations
        if self._dynamic is None:
            groups = self._sample()
            taught = sum(self._lesson(group) == "teaches" for group in groups)
            self._seen.update(wanted=len(groups), short=len(groups) - taught)
            return self._chosen(groups, [], prompts)
        teaching, others, poor = list[list[_Rollout]](), list[list[_Rollout]](), 0
        for refill in range(self._dynamic.max_refills + 1):
            for group in self._sample():
                found = self._lesson(group)
                poor += found in POOR
                (teaching if found == "teaches" else others).append(group)
            missing = self._most(wanted - len(teaching))
            if refill == 0:
                self._log_metric("dynamic/replaced", 1 - min(len(teaching), wanted) / wanted)
            if missing <= 0 or refill == self._dynamic.max_refills:
                break
            drawn = self._drawn(missing, refill)
            if not drawn:
                break
            self._rows = drawn
        self._log_metric("dynamic/refills", refill)
        short = max(wanted - len(teaching), 0)
        self._log_metric("dynamic/short", short / wanted)
        self._seen.update(wanted=wanted, short=min(short, poor))
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

    def _lesson(self, group: Sequence[_Rollout]) -> Lesson:
        """What a group is worth; one that teaches is trained on."""
        totals = self._totals(torch.stack([rollout.rewards for rollout in group]))
        found = lesson(totals.tolist(), self._dynamic.tau if self._dynamic else None)
        self._watch.hear_groups([found])
        for name in ("unscored", "all_bad", "all_good") if self._dynamic else ():
            self._log_metric(f"dynamic/{name}", float(found == name))
        return found

    def _drawn(self, groups: int, refill: int) -> list[dict[str, Any]]:
        """Rows for `groups` more groups, of prompts that this step hasn't sampled; fewer where no more are left.

        Which ones is a function of seed and step, so that a resumed run draws the same ones.
        """
        seed, sampled = self.args.seed, set(gather_object([row["id"] for row in self._rows]))
        if self._drawn_in != self.state.global_step:
            self._drawn_in, self._drawn_ids = self.state.global_step, set()
        self._drawn_ids |= sampled
        within = self._step % self.args.gradient_accumulation_steps
        digest = hashlib.sha256(f"{seed}/{self.state.global_step}/{within}/{refill}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7]))
        order = torch.randperm(len(self._ids), generator=generator).tolist()
        others = [place for place in order if self._ids[place] not in self._drawn_ids]
        groups = min(groups, len(others) // self.accelerator.num_processes)
        first = self.accelerator.process_index * groups
        places = others[first : first + groups]
        return [self.train_dataset[place] for place in places for _ in range(self.num_generations)]

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
        self._share = self.accelerator.gather(trained.float()).mean().clamp(min=1 / len(trained))
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
            if reading.closed and reading.answer:
                self._seen.update({f"asked/{row['reward']}": 1, f"unscored/{row['reward']}": int(not scored)})
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

    def seen(self) -> Seen:
        """What all processes have seen since this was last asked."""
        kinds = list(REWARDS.values())
        names = [*(f"{what}/{kind}" for what in ("asked", "unscored") for kind in kinds), "wanted", "short"]
        counts = torch.tensor([self._seen[name] for name in names], device=self.accelerator.device)
        self._seen.clear()
        *by_kind, wanted, short = self.accelerator.reduce(counts, reduction="sum").tolist()
        asked, unscored = by_kind[: len(kinds)], by_kind[len(kinds) :]
        return Seen(dict(zip(kinds, asked, strict=True)), dict(zip(kinds, unscored, strict=True)), wanted, short)


class Watching(TrainerCallback, ExportableState):
    """Has a watch judge each step, keeps in a checkpoint what it has seen, and ends the training where it says so."""

    def __init__(self, watch: Watch, trainer: RecapTrainer) -> None:
        self._watch, self._trainer = watch, trainer

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"args": {}, "attributes": self._watch.state()}

    def on_train_begin(self, args: Any, state: Any, control: Any, **further: Any) -> None:
        """Go on from what the checkpoint kept."""
        kept = state.stateful_callbacks.get(type(self).__name__, {}).get("attributes")
        if kept:
            self._watch.resume(kept)

    def on_step_end(self, args: Any, state: Any, control: Any, **further: Any) -> None:
        """Judge the step. The last one has no checkpoint where it is no end: what came before it is gone on from."""
        self._watch.step(state.global_step, self._trainer.seen())
        if self._watch.verdict:
            control.should_training_stop = True
            control.should_save = state.global_step < state.max_steps


def _no_texts(record: logging.LogRecord) -> bool:
    """Keep out TRL's warning about a rollout that no function scored: it shows prompt and completion."""
    return "All reward functions returned None" not in record.getMessage()
