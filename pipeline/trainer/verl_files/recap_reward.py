"""The rewards of the mixture, as verl asks for them: one rollout at a time, all of a step side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.errors import RecapError
from pipeline.trainer.rewards import Rollout, Scorer
from pipeline.trainer.verl import read_marks, read_rewards


async def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str | None,
    extra_info: Mapping[str, Any],
    *,
    rewards: str,
    ledger: str,
    tau: float,
    **_arguments: Any,
) -> dict[str, float]:
    """Score a rollout: ``score`` is its reward, ``unclosed`` is 1 where its thinking never ended.

    ``group`` is what ``algorithm.filter_groups`` looks at. It is equal for all rollouts of a prompt where all are bad
    (reward 0) or all are good (reward over `tau`), and verl then drops the prompt and draws another.

    Args:
        data_source: the row's domain.
        solution_str: verl's text of the response, which lacks special tokens; the agent loop's is read instead.
        ground_truth: the row's.
        extra_info: the row's, and what the agent loop found.
        rewards: the path of rewards.yaml; export.json beside it says which marks the policy thinks in.
        ledger: the file that judges' answers go to, on a local disk.
        tau: a reward over it is good.

    Raises:
        RecapError: the rollout can't be scored. verl then leaves it out of its group, whereas any number that stood
            for it would be learned from.
    """
    rollout = Rollout(
        id=extra_info["id"],
        domain=data_source,
        reward=extra_info["reward"],
        prompt=extra_info["prompt"],
        completion=extra_info["completion"],
        ground_truth=ground_truth,
        opened=extra_info["opened"],
        marks=_marks(str(Path(rewards).parent)),
    )
    [(value, why)] = await asyncio.wrap_future(_scorer(rewards, ledger).submit([rollout]))
    if value is None:
        raise RecapError(f"A rollout of row {rollout.id} has no reward ({why}): it is left out of its group.")
    return {"score": value, "group": 1.0 if value > tau else value, "unclosed": float(why == "unclosed")}


_marks = cache(lambda folder: read_marks(Path(folder)))


@cache
def _scorer(rewards: str, ledger: str) -> Scorer:
    Path(ledger).parent.mkdir(parents=True, exist_ok=True)
    return Scorer(read_rewards(Path(rewards)), Path(ledger))
