"""Sampling: a prefill for each row that needs one, tried and judged until one is accepted."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from pipeline.engine import Budget, Refused
from pipeline.filters import REFUSED, reject_stance, reject_text
from pipeline.judges import COUNTER_ALIGNED, Judge, Verdict
from pipeline.judges.refusal import RefusalJudge
from pipeline.recipe import JudgeConfig, Prefill, SamplerConfig
from pipeline.samplers import PrefillRequest, Sampler
from pipeline.samplers.opening import opened
from pipeline.schema import SAMPLES
from pipeline.steps.shards import prompt_text, read_table, write_table
from pipeline.thinking import cut_prefix

_SHARDS_AT_ONCE = 2


class Sampled(NamedTuple):
    """The rows that a round of sampling gave up in one shard, and why, by domain."""

    given_up: dict[str, list[int]]
    dropped: dict[str, Counter[str]]


class Sampling(NamedTuple):
    """What is sampled and how: the recipe's part of it, and the ledger that answers are kept in."""

    seed: int
    prefills: dict[str, Prefill]
    samplers: dict[str, SamplerConfig]
    judge: JudgeConfig
    ledger: Path
    max_requests: int | None = None


def sample(
    work: Path,
    turn: int,
    shards: dict[int, dict[str, list[int]]],
    sampling: Sampling,
    advance: Callable[[int], None] | None = None,
) -> tuple[dict[int, Sampled], int]:
    """Sample a prefill for rows of several shards, as often as the recipe allows until one is accepted.

    `shards` gives the rows of each shard by domain. A row's next attempt begins as soon as the last one is rejected,
    and the next shard's rows as soon as servers have room: nothing waits for the slowest. Returns what was given up in
    each shard, and how many requests were sent.
    """
    return asyncio.run(_sample(work, turn, shards, sampling, advance or (lambda rows: None)))


async def _sample(
    work: Path,
    turn: int,
    shards: dict[int, dict[str, list[int]]],
    sampling: Sampling,
    advance: Callable[[int], None],
) -> tuple[dict[int, Sampled], int]:
    judge, budget = _judge(sampling.judge), Budget(sampling.max_requests)
    async with opened(sampling.samplers, sampling.prefills, sampling.ledger, budget) as samplers:
        at_once = asyncio.Semaphore(_SHARDS_AT_ONCE)

        async def shard(number: int) -> Sampled:
            async with at_once:
                table = read_table(work / f"clean/{number}.arrow")
                outcome = Sampled({}, {})
                tries = []
                for domain, places in shards[number].items():
                    rows = table.take(pa.array(places, pa.int64())).to_pylist()
                    prefill = sampling.prefills[domain]
                    for place, row in zip(places, rows, strict=True):
                        tries.append(_try(place, row, prefill, sampling.seed, samplers[domain], judge))
                tasks = [asyncio.ensure_future(one) for one in tries]
                for task in tasks:
                    task.add_done_callback(lambda _: advance(1))
                results = await asyncio.gather(*tasks)
                _note(outcome, results, shards[number])
                rows = [{key: result[key] for key in SAMPLES.names} for result in results]
                write_table(work / f"samples/{number}-{turn}.arrow", pa.Table.from_pylist(rows, schema=SAMPLES))
                return outcome

        done = await asyncio.gather(*(asyncio.ensure_future(shard(number)) for number in shards))
    return dict(zip(shards, done, strict=True)), budget.spent


def _note(outcome: Sampled, results: Sequence[dict[str, Any]], rows: dict[str, list[int]]) -> None:
    """Enter into `outcome` the rows of each domain that were given up."""
    reasons = {result["row"]: result["reason"] for result in results}
    for domain, places in rows.items():
        outcome.given_up[domain] = [place for place in places if reasons[place] is not None]
        outcome.dropped[domain] = Counter(reasons[place] for place in outcome.given_up[domain])


async def _try(
    place: int, row: dict[str, Any], prefill: Prefill, seed: int, sampler: Sampler, judge: Judge
) -> dict[str, Any]:
    """Sample one row until a prefill is accepted or the attempts are used up; the last try."""
    result: dict[str, Any] = {}
    for attempt in range(prefill.attempts):
        request = _request(row, prefill, seed, attempt)
        try:
            text = await sampler.sample(request)
        except Refused:
            return {"row": place} | dict.fromkeys(("prefill", "sampling", "verdict")) | {"reason": REFUSED}
        result = {"row": place} | _accepted(text, request, row["domain"], prefill, sampler, judge)
        if result["reason"] is None:
            break
    return result


def _request(row: dict[str, Any], prefill: Prefill, seed: int, attempt: int) -> PrefillRequest:
    stance = COUNTER_ALIGNED[row["domain"]]
    text, category = prompt_text(row["prompt"]), row["origin"]["category"]
    return PrefillRequest(row["id"], text, category, stance, prefill.words, seed, attempt)


def _accepted(
    text: str, request: PrefillRequest, domain: str, prefill: Prefill, sampler: Sampler, judge: Judge
) -> dict[str, Any]:
    prefix = cut_prefix(text, prefill.words)
    reason, verdict = reject_text(prefix, prefill.min_words), None
    if reason is None:
        verdict = judge.judge(request.prompt, prefix.text, "thinking")
        reason = reject_stance(domain, verdict)
    return {
        "prefill": prefix.text,
        "sampling": {
            "sampler": sampler.name,
            "engine": sampler.engine,
            "model": sampler.model,
            "revision": sampler.revision,
            "template": sampler.template(request.stance),
            "parameters": json.dumps(sampler.parameters, sort_keys=True),
            "seed": request.seed,
            "attempt": request.attempt,
            "words": prefix.words,
        },
        "verdict": verdict and Verdict(*verdict)._asdict(),
        "reason": reason,
    }


@cache
def _judge(config: JudgeConfig) -> Judge:
    match config.engine:
        case "refusal":
            return RefusalJudge()
