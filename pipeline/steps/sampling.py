"""Sampling: a prefill for each row that needs one, tried and judged until one is accepted."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.budget import Run, Used
from pipeline.clients.batch import BatchLimits
from pipeline.clients.opening import opened
from pipeline.engine import Budget, Refused
from pipeline.filters import NO_THINKING, TWIN, find_twins, refused, reject_stance, reject_text
from pipeline.judges import Exchange, Judge, wanted_stance
from pipeline.judges.opening import Judged, open_judges
from pipeline.ledger import REFUSED as LEDGER_REFUSED
from pipeline.recipe import Arm, Judges, Prefill, SamplerConfig, ServedModel
from pipeline.runner import Progress, Silent
from pipeline.samplers import PrefillRequest, Sampler, Thought, Unwritable
from pipeline.samplers.model import ModelSampler
from pipeline.samplers.opening import open_samplers
from pipeline.schema import SAMPLES
from pipeline.steps.giving_up import ACCEPTED, Tries, Watched, gave_up, hopeless
from pipeline.steps.shards import prompt_text, read_table, rounds_of, write_table
from pipeline.stopping import Stop, run
from pipeline.thinking import cut_prefix

_SHARDS_AT_ONCE = 2

Wanted = dict[str, dict[int, int]]
"""The rows of a shard that want a prefill, by arm: the row, and the first attempt at it."""


class Sampled(NamedTuple):
    """What a round of sampling did in one shard, by arm.

    ``given_up`` are the rows whose every attempt was rejected, and why the last one was; ``tries`` counts all attempts
    by their number and by why they were rejected (`ACCEPTED` where they were not).
    """

    given_up: dict[str, dict[int, str]]
    tries: dict[str, Tries]


class Sampling(NamedTuple):
    """What is sampled and how: the recipe's part of it, the ledger that answers are kept in, and what may be spent.

    With ``wait`` False, requests in batches of a batch API are left there as soon as they are submitted. What the `run`
    has spent before is in the ledger. ``checked`` says that all models were asked a harmless request in this run;
    ``unproven`` are the servers that gave no answer to it. ``tries`` are those of the build so far, by arm.
    """

    seed: int
    arms: dict[str, Arm]
    samplers: dict[str, SamplerConfig]
    judges: Judges
    ledger: Path
    max_requests: int | None = None
    max_cost: float | None = None
    wait: bool = True
    run: Run | None = None
    checked: bool = False
    unproven: frozenset[str] = frozenset()
    tries: Mapping[str, Tries] | None = None

    def batched(self) -> bool:
        """Whether a sampler or judge is asked in batches: then all rows are asked at once."""
        used = [self.samplers[arm.prefill.sampler] for arm in self.arms.values()]
        judges = [self.judges.of(arm.domain) for arm in self.arms.values()]
        return any(isinstance(config, ServedModel) and config.batch for config in (*used, *judges))

    def paid(self, arm: Arm) -> bool:
        """Whether a model is asked for an arm's prefills, to write or to judge them."""
        by = judged({arm.name: arm}, self.judges)
        asked = [self.samplers[arm.prefill.sampler], *(judge.config for judge in by.values())]
        return any(isinstance(config, ServedModel) for config in asked)

    def after(self, spent: Spent) -> Sampling:
        """The same, for the next round."""
        return self._replace(checked=self.checked or spent.checked, unproven=self.unproven | spent.unproven)


class Spent(NamedTuple):
    """What a run has sent and paid by the end of a round, and what its harmless requests showed of each sampler.

    ``used`` are the answers of this round alone, by who asked: those that were in the ledger as well. ``checked`` and
    ``unproven`` are as in `Sampling`.
    """

    requests: int
    cost: float
    probes: dict[str, str]
    used: dict[str, Used]
    checked: bool = False
    unproven: frozenset[str] = frozenset()


def judged(arms: Mapping[str, Arm], judges: Judges) -> dict[str, Judged]:
    """What reads the stance of each arm's prefills; none where no stance is read."""
    wanted = {name: wanted_stance(arm.domain, arm.prefill.stance) for name, arm in arms.items()}
    return {
        name: Judged(arm.domain, judges.of(arm.domain), stance)
        for name, arm in arms.items()
        if (stance := wanted[name]) is not None
    }


def sample(
    work: Path,
    turn: int,
    shards: dict[int, Wanted],
    sampling: Sampling,
    progress: Progress | None = None,
    stop: Stop | None = None,
) -> tuple[dict[int, Sampled], Spent]:
    """Sample a prefill for rows of several shards, as often as the recipe allows until one is accepted.

    A row's next attempt begins as soon as the last one is rejected, and the next shard's rows as soon as there is room:
    nothing waits for the slowest. `stop` ends it as `pipeline.stopping.run` says.

    Raises:
        GaveUp: next to nothing of what a sampler writes is accepted.
    """
    progress = progress or Silent()
    with Watched(work, f"{turn}-{min(shards)}", sampling.tries or {}, progress) as watched:
        return run(_sample(work, turn, shards, sampling, watched, progress), stop)


def request_of(row: Mapping[str, Any], prefill: Prefill, seed: int, attempt: int) -> PrefillRequest:
    """What is asked of a sampler for a row."""
    stance = wanted_stance(row["domain"], prefill.stance)
    text, category = prompt_text(row["prompt"]), row["origin"]["category"]
    return PrefillRequest(row["id"], text, category, stance, prefill.words, seed, attempt)


class _Station(NamedTuple):
    """What the rows of an arm go through; without a judge, no stance is read."""

    arm: str
    prefill: Prefill
    seed: int
    sampler: Sampler
    judge: Judge | None
    ended: Callable[[Mapping[str, Any], int, Mapping[str, Any]], None]
    """Is told of a row and of the outcome of a try at it."""


async def _sample(
    work: Path,
    turn: int,
    shards: dict[int, Wanted],
    sampling: Sampling,
    watched: Watched,
    progress: Progress,
) -> tuple[dict[int, Sampled], Spent]:
    budget = Budget(sampling.max_requests, sampling.max_cost, sampling.run)
    batches = BatchLimits(wait=sampling.wait)
    async with opened(
        sampling.ledger, budget, batches, progress.tell, checked=sampling.checked, unproven=sampling.unproven
    ) as clients:

        def ended(row: Mapping[str, Any], attempt: int, result: Mapping[str, Any]) -> None:
            arm = sampling.arms[result["arm"]]
            tries = watched.tried(row, attempt, result)
            if budget.spent and sampling.paid(arm) and hopeless(arm.prefill, tries):
                raise gave_up(arm, tries)

        prefills = {name: arm.prefill for name, arm in sampling.arms.items()}
        used = {prefill.sampler: sampling.samplers[prefill.sampler] for prefill in prefills.values()}
        samplers = open_samplers(used, clients)
        judges = open_judges(judged(sampling.arms, sampling.judges), clients)
        stations = {
            arm: _Station(arm, prefill, sampling.seed, samplers[prefill.sampler], judges.get(arm), ended)
            for arm, prefill in prefills.items()
        }

        async def finished(row: Awaitable[dict[str, Any]]) -> dict[str, Any]:
            result = await row
            progress.advance(1)
            return result

        at_once = asyncio.Semaphore(len(shards) if sampling.batched() else _SHARDS_AT_ONCE)

        async def shard(number: int) -> Sampled:
            async with at_once:
                table = read_table(work / f"clean/{number}.arrow")
                outcome = Sampled({}, {})
                tasks: dict[str, list[asyncio.Task[dict[str, Any]]]] = {}
                for arm, wanted in shards[number].items():
                    rows = table.take(pa.array(list(wanted), pa.int64())).to_pylist()
                    outcome.tries[arm] = Counter()
                    tasks[arm] = [
                        asyncio.ensure_future(finished(_try(place, first, row, stations[arm], outcome.tries[arm])))
                        for (place, first), row in zip(wanted.items(), rows, strict=True)
                    ]
                every = [task for listed in tasks.values() for task in listed]
                write_samples(work, number, turn, await asyncio.gather(*every))
                for arm, listed in tasks.items():
                    results = [task.result() for task in listed]
                    outcome.given_up[arm] = {
                        result["row"]: result["reason"] for result in results if result["reason"] is not None
                    }
                return outcome

        done = await asyncio.gather(*(asyncio.ensure_future(shard(number)) for number in shards))
        probed = {name: sampler.probed() for name, sampler in samplers.items() if isinstance(sampler, ModelSampler)}
        probes = {name: how for name, how in probed.items() if how is not None}
        spent = Spent(budget.spent, budget.cost, probes, clients.used, clients.checked, clients.unproven)
    return dict(zip(shards, done, strict=True)), spent


def write_samples(work: Path, shard: int, turn: int, results: Sequence[Mapping[str, Any]]) -> None:
    """Write what a round made of the rows of a shard."""
    rows = [{key: result[key] for key in SAMPLES.names} for result in results]
    write_table(work / f"samples/{shard}-{turn}.arrow", pa.Table.from_pylist(rows, schema=SAMPLES))


def drop_twins(
    work: Path, turn: int, arms: Sequence[str], shards: Sequence[int]
) -> dict[tuple[int, str], dict[int, int]]:
    """Find the prefills of a round that are near-duplicates of another row's of their arm, and give them that reason.

    A prefill of an earlier round stays. Returns, by shard and arm, the rows and the attempts that gave them; called
    again, whatever became of the first call, the same.
    """
    found: dict[tuple[int, str], dict[int, int]] = {}
    for arm in arms:
        texts, ids, places = [], [], []
        for shard in _shards(work):
            names = read_table(work / f"clean/{shard}.arrow")["id"]
            accepted: dict[int, tuple[int, str, int]] = {}
            for number, table in rounds_of(work, shard):
                of_arm = table.filter(pc.equal(table["arm"], arm)).select(["row", "prefill", "sampling", "reason"])
                for row in of_arm.to_pylist():
                    accepted.pop(row["row"], None)
                    if row["reason"] is None:
                        accepted[row["row"]] = number, row["prefill"], row["sampling"]["attempt"]
                    elif row["reason"] == TWIN and number == turn:
                        found.setdefault((shard, arm), {})[row["row"]] = row["sampling"]["attempt"]
            for row, (number, text, attempt) in accepted.items():
                texts.append(text)
                ids.append(names[row].as_py())
                places.append((number, shard, row, attempt))
        earlier = [number < turn for number, *_ in places]
        for place in find_twins(texts, ids, keep=earlier):
            _, shard, row, attempt = places[place]
            found.setdefault((shard, arm), {})[row] = attempt
    for shard in shards:
        gone = {(arm, row) for (of, arm), rows in found.items() if of == shard for row in rows}
        if gone:
            path = work / f"samples/{shard}-{turn}.arrow"
            rows = [
                row | {"reason": TWIN} if (row["arm"], row["row"]) in gone else row
                for row in read_table(path).to_pylist()
            ]
            write_table(path.with_suffix(".new"), pa.Table.from_pylist(rows, schema=SAMPLES))
            path.with_suffix(".new").replace(path)
    return found


def _shards(work: Path) -> list[int]:
    return sorted({int(path.stem.partition("-")[0]) for path in (work / "samples").glob("*.arrow")})


async def _try(place: int, first: int, row: dict[str, Any], station: _Station, tries: Tries) -> dict[str, Any]:
    """Sample one row until a prefill is accepted or the attempts are used up; the last try."""
    result: dict[str, Any] = {}
    final = False
    for attempt in range(first, station.prefill.attempts):
        request = request_of(row, station.prefill, station.seed, attempt)
        try:
            thought = await station.sampler.sample(request)
        except Refused as outcome:
            result = _nothing(refused(str(outcome)))
            final = outcome.finish == LEDGER_REFUSED
        except Unwritable as why:
            result, final = _nothing(str(why)), True
        else:
            result = await judge_thought(thought, request, station.prefill, station.sampler, station.judge)
        result |= {"row": place, "arm": station.arm}
        tries[attempt, result["reason"] or ACCEPTED] += 1
        station.ended(row, attempt, result)
        if final or result["reason"] is None:
            break
    return result


def _nothing(reason: str) -> dict[str, Any]:
    return dict.fromkeys(("prefill", "sampling", "verdict")) | {"reason": reason}


async def judge_thought(
    thought: Thought, request: PrefillRequest, prefill: Prefill, sampler: Sampler, judge: Judge | None
) -> dict[str, Any]:
    """What becomes of what a sampler wrote: the columns of `schema.SAMPLES` but for the row and its arm.

    Raises:
        EngineError: the judge could not be made to answer.
    """
    prefix = cut_prefix(thought.thinking, prefill.words)
    wrote_none = not thought.thinking and thought.answer is not None
    reason = (
        NO_THINKING
        if wrote_none
        else reject_text(
            prefix,
            prefill.min_words,
            prompt=request.prompt,
            steering=sampler.steering,
            answer=thought.answer,
            language=sampler.engine != "template",
        )
    )
    verdict = None
    if reason is None and judge is not None and request.stance is not None:
        verdict = await judge.judge(Exchange(request.prompt, prefix.text))
        reason = reject_stance(request.stance, verdict)
    return {
        "prefill": prefix.text,
        "sampling": {
            "sampler": sampler.name,
            "engine": sampler.engine,
            "model": sampler.model,
            "revision": sampler.revision,
            "template": sampler.template(request.stance),
            "parameters": json.dumps(sampler.parameters | _named(thought), sort_keys=True),
            "seed": request.seed,
            "attempt": request.attempt,
            "words": prefix.words,
        },
        "verdict": verdict and verdict._asdict(),
        "reason": reason,
    }


def _named(thought: Thought) -> dict[str, object]:
    """What the server calls the model, where that is another name than it was asked by."""
    return {"answered_by": thought.answered_by} if thought.answered_by is not None else {}
