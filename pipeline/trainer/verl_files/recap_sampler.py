"""verl's choice of the groups that a step trains on, by the rule of `recap-data train`.

A group teaches unless it is all bad, or all good, or fewer than two of its rollouts are scored; one that doesn't is
dropped, and another prompt drawn. A rollout that nobody could score counts for nothing: it is taken out of its group
before advantages are computed. verl's own buffer drops only groups whose rollouts are all there and equal; a group with
a failed rollout it keeps whatever the others are worth, and one without any makes the batch smaller.

Where too much is unscored, or too few groups teach, for too long, the training is stopped (`pipeline.trainer.watch`).
verl draws on as long as prompts are missing, so that as many groups as `recap-data train` would draw for a step count
as one.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

import transfer_queue as tq
from verl.trainer.ppo.v1.replay_buffer import FILTER_GROUPS_REWARD_METRIC, ReplayBuffer

from pipeline.errors import InputError, RecapError
from pipeline.trainer.watch import POOR, Lesson, Seen, Stop, Watch, lesson


class RecapReplayBuffer(ReplayBuffer):  # type: ignore[misc]
    """verl makes it, for its synchronous trainer, with the settings under ``trainer.v1.sampler``.

    Args:
        sampler_kwargs: ``train_batch_size``; ``dynamic``, whether groups that are all bad or all good are dropped;
            ``tau`` and ``max_refills``, as in `pipeline.trainer.config.DynamicSampling`; ``stop``, the bounds, null to
            warn only.
        given: what verl gives every sampler.

    Raises:
        InputError: the trainer is another one.
    """

    def __init__(self, *, trainer_mode: str, sampler_kwargs: Mapping[str, Any], **given: Any) -> None:
        if trainer_mode != "sync":
            raise InputError(f"recap_sampler.py is for trainer.v1.trainer_mode=sync, not for {trainer_mode}.")
        self._dynamic, self._tau = sampler_kwargs["dynamic"], sampler_kwargs["tau"]
        size = sampler_kwargs["train_batch_size"]
        super().__init__(
            trainer_mode=trainer_mode,
            sampler_kwargs=sampler_kwargs,
            filter_groups_metric=FILTER_GROUPS_REWARD_METRIC if self._dynamic else None,
            train_batch_size=size,
            gen_batch_size=1,
            sync_refill_failed_groups=True,
            **given,
        )
        stop = sampler_kwargs["stop"]
        self._watch = Watch(None if stop is None else Stop(**stop), lambda line: print(line, file=sys.stderr))
        self._size, self._most = size, size * (1 + sampler_kwargs["max_refills"])
        self._lessons: dict[str, Lesson] = {}
        self._counts: Counter[str] = Counter()
        self._asked: Counter[str] = Counter()
        self._unscored: Counter[str] = Counter()

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[Any, dict[str, Any]]:
        """See verl's.

        Raises:
            RecapError: a judge is lost, or its answers are, for longer than the bounds allow.
        """
        batch, metrics = super().sample(global_steps, partition_id, batch_size)
        if partition_id != "val":
            for reward, asked in self._asked.items():
                metrics[f"training/unscored/{reward}"] = self._unscored[reward] / asked
            self._step(global_steps, short=0)
        return batch, metrics

    def _terminal_eviction_reasons(
        self, global_steps: int, partition_id: str
    ) -> tuple[set[str], set[str], set[str], Counter[float]]:
        if partition_id == "val":
            return set(), set(), set(), Counter()
        ended = self.finished_keys[partition_id] | self.failure_keys[partition_id]
        self._lessons = {uid: found for uid, found in self._lessons.items() if uid in ended}
        new = ended - self._lessons.keys()
        for uid, rewards in self._rewards(partition_id, new).items():
            self._lessons[uid] = lesson(rewards, self._tau if self._dynamic else None)
        found = [self._lessons[uid] for uid in new]
        self._watch.hear_groups(found)
        poor = sum(map(found.count, POOR))
        self._counts.update(groups=len(found), taught=found.count("teaches"), poor=poor)
        if self._counts["groups"] >= self._most:
            missing = max(self._size - self._counts["taught"], 0)
            self._step(global_steps, short=min(missing, self._counts["poor"]))
        unscored, bad, good = (
            {uid for uid in ended if self._lessons[uid] == kind} for kind in ("unscored", "all_bad", "all_good")
        )
        dull = bad | good if self._dynamic else set[str]()
        return set(), dull, unscored, Counter({0.0: len(bad), 1.0: len(good)})

    def _rewards(self, partition_id: str, groups: set[str]) -> dict[str, list[float]]:
        """The rewards of the rollouts of groups, after those that nobody could score were taken out.

        Raises:
            RecapError: a judge is lost, and was waited for in vain.
        """
        rewards: dict[str, list[float]] = {uid: [] for uid in groups}
        keys = [key for key in self.partitions[partition_id] if key.split("_")[0] in groups]
        if not keys:
            return rewards
        fields = ["rm_scores", "extra_fields", "extra_info"]
        data = tq.kv_batch_get(keys=keys, partition_id=partition_id, select_fields=fields)
        left_out, said = [], defaultdict[str, list[str]](list)
        for key, scores, further, row in zip(keys, *(list(data[field]) for field in fields), strict=True):
            about, reward = _plain(further)["reward_extra_info"], _plain(row)["reward"]
            if about["lost"]:
                raise RecapError(about["lost"])
            value = float(scores.sum())
            self._asked[reward] += about["why"] not in ("unclosed", "empty")
            if value == value:  # noqa: PLR0124
                rewards[key.split("_")[0]].append(value)
            else:
                self._unscored[reward] += 1
                said[reward].append(about["said"])
                left_out.append(key)
        for reward, words in said.items():
            self._watch.hear(reward, words)
        if left_out:
            tq.kv_clear(partition_id=partition_id, keys=left_out)
            for key in left_out:
                del self.partitions[partition_id][key]
        return rewards

    def _step(self, number: int, short: int) -> None:
        self._watch.step(number, Seen(dict(self._asked), dict(self._unscored), self._size, short))
        for counter in (self._counts, self._asked, self._unscored):
            counter.clear()
        if self._watch.verdict:
            raise RecapError(self._watch.verdict)


def _plain(value: Any) -> Any:
    return getattr(value, "data", value)
