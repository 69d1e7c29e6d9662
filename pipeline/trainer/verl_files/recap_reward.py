"""The rewards of the mixture, as verl asks for them: one rollout at a time, all of a step side by side."""

from __future__ import annotations

import asyncio
import math
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
    **_arguments: Any,
) -> dict[str, Any]:
    """Score a rollout: ``score`` is its reward, and NaN where there is none.

    ``recap_sampler.py`` leaves such a rollout out of its group, whereas any number that stood for it would be learned
    from. ``unclosed`` is 1 where its thinking never ended, ``why`` and ``said`` are those of
    `pipeline.trainer.rollouts.Score`. ``lost`` says that a judge can't be asked at all, which is the end of the
    training: an exception would be an end of this rollout only.

    Args:
        data_source: the row's domain.
        solution_str: verl's text of the response, which lacks special tokens; the agent loop's is read instead.
        ground_truth: the row's.
        extra_info: the row's, and what the agent loop found.
        rewards: the path of rewards.yaml; export.json beside it says which marks the policy thinks in.
        ledger: the file that judges' answers go to, on a local disk.
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
    try:
        [score] = await asyncio.wrap_future(_scorer(rewards, ledger).submit([rollout]))
    except RecapError as error:
        return _found(math.nan, "lost", lost=str(error))
    if score.value is None:
        return _found(math.nan, score.why, said=score.said)
    return _found(score.value, score.why)


def _found(score: float, why: str, *, said: str = "", lost: str = "") -> dict[str, Any]:
    return {"score": score, "unclosed": float(why == "unclosed"), "why": why, "said": said, "lost": lost}


_marks = cache(lambda folder: read_marks(Path(folder)))


@cache
def _scorer(rewards: str, ledger: str) -> Scorer:
    Path(ledger).parent.mkdir(parents=True, exist_ok=True)
    return Scorer(read_rewards(Path(rewards)), Path(ledger))
