"""Rewards for a trainer: what they are made from, and TRL's reward functions.

TRL asks every function about every rollout, and takes None as "not this one's": there is a function for each reward,
which answers for the rows that have it. A rollout that none of them scores is left out of its group's mean and standard
deviation, and has an advantage of 0 (TRL 1.16, `GRPOTrainer._generate_and_score_completions`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from pipeline.schema import REWARDS
from pipeline.steps.shards import prompt_text
from pipeline.thinking import Marks
from pipeline.trainer.reward_config import RewardsConfig
from pipeline.trainer.rollouts import Rollout, Score
from pipeline.trainer.scoring import Scorer

__all__ = ["RewardFunction", "RewardsConfig", "Rollout", "Score", "Scorer", "reward_functions"]

RewardFunction = Callable[..., Awaitable[list[float | None]]]
"""As TRL calls it: with ``prompts``, ``completions``, ``completion_ids``, each column of the dataset, and its hooks."""


Hear = Callable[[str, Iterable[str]], None]
"""Is told a reward, and what was said of each of its rollouts that wasn't scored (`pipeline.trainer.watch.Watch`)."""


def reward_functions(
    scorer: Scorer, *, opened: bool, hear: Hear | None = None, marks: Marks | None = None
) -> list[RewardFunction]:
    """TRL's reward functions, one for each reward, called by its name. They wait side by side.

    The dataset has the columns of `pipeline.trainer.mixture.RENDERED`, and completions have their special tokens, which
    marks of thinking may be: `pipeline.trainer.grpo.RecapTrainer` keeps them, TRL's own trainer drops them. For its own
    rows each logs the shares that were ``unscored``, ``unclosed`` and ``empty``, as ``safety/unscored`` and so on.

    Args:
        scorer: judges; it stays open.
        opened: whether a row without a prefill ends inside the thinking: where the generation prompt opens it.
        hear: is told what was said where a rollout wasn't scored.
        marks: those that the policy thinks in (`pipeline.thinking.marks_of`); of any known family unless given.
    """
    return [_function(kind, scorer, opened, hear, marks) for kind in REWARDS.values()]


def _function(kind: str, scorer: Scorer, opened: bool, hear: Hear | None, marks: Marks | None) -> RewardFunction:
    async def reward(
        *,
        completions: Sequence[str],
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        places = [place for place, wanted in enumerate(columns["reward"]) if wanted == kind]
        rollouts = [
            Rollout(
                id=columns["id"][place],
                domain=columns["domain"][place],
                reward=kind,
                prompt=prompt_text(columns["messages"][place]),
                completion=completions[place],
                ground_truth=columns["ground_truth"][place],
                opened=opened or columns["prefill"][place] is not None,
                marks=marks,
            )
            for place in places
        ]
        scores = await asyncio.wrap_future(scorer.submit(rollouts))
        if log_metric and scores:
            for name, share in _shares(scores).items():
                log_metric(f"{kind}/{name}", share)
        if hear:
            hear(kind, (score.said for score in scores if score.value is None))
        values: list[float | None] = [None] * len(completions)
        for place, score in zip(places, scores, strict=True):
            values[place] = score.value
        return values

    reward.__name__ = kind
    return reward


def _shares(scores: Sequence[Score]) -> dict[str, float]:
    counts = {
        "unscored": sum(score.value is None for score in scores),
        "unclosed": sum(score.why == "unclosed" for score in scores),
        "empty": sum(score.why == "empty" for score in scores),
    }
    return {name: count / len(scores) for name, count in counts.items()}
