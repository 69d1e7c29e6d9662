"""The steps of a build, each a function from files in the work folder to files in it.

Rows lie in *shards*: after they are pulled, a row's id says which shard it belongs to, so that shard after shard is
sorted by id as a whole, an exact duplicate is always in its twin's shard, and no step holds more than a shard of rows
in memory. Every function is given a small tuple of arguments and returns counts, so that any runner can call it
anywhere the work folder is.

Files of the work folder (Arrow IPC), with ``S`` for the shard's number:

=================================  ==================================================================================
``pulled/J.arrow``                 what source file ``J`` gave (`CANDIDATES`); ``pulled/J.rejected.arrow``
``spread/S.arrow``                 the same rows by shard
``exact/S.arrow``                  without exact duplicates, sorted, with ``text``, the normalised prompt
``exact/S.npy``                    their sketches
``near/S.arrow``                   rows of ``exact/S`` to drop as near-duplicates: ``row`` and ``match``
``evaluation.arrow``               the evaluation texts: ``dataset``, ``text``, ``normal``
``clean/S.arrow``                  what may be chosen (`CANDIDATES`), sorted by id
``samples/S-R.arrow``              what round ``R`` of sampling gave: ``row``, ``prefill``, ``sampling``, ``verdict``,
                                   ``reason`` where the row was given up
``rejected/S-*.arrow``             rows dropped on the way (`REJECTED`)
=================================  ==================================================================================
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.clean.decontaminate import EvaluationIndex
from pipeline.clean.dedupe import near_duplicates
from pipeline.clean.sketch import sketch
from pipeline.engine import Budget, Refused
from pipeline.filters import REFUSED, reject_stance, reject_text
from pipeline.judges import COUNTER_ALIGNED, Judge, Verdict
from pipeline.judges.refusal import RefusalJudge
from pipeline.publish.parquet import ContentHash, ShardedWriter
from pipeline.recipe import Clean, JudgeConfig, Prefill, SamplerConfig, Source
from pipeline.samplers import PrefillRequest, Sampler
from pipeline.samplers.opening import opened
from pipeline.schema import CANDIDATES, DOMAINS, MATCH, MIXTURE, REJECTED, REWARDS, SAMPLING, VERDICT
from pipeline.sources import Located, pull, texts
from pipeline.sources.identity import normalise
from pipeline.thinking import cut_prefix

ROWS_PER_SHARD = 8_192
MOST_SHARDS = 512
_SHARDS_AT_ONCE = 2

_SEPARATOR = "\n\n"
_SAMPLE = pa.schema(
    [
        ("row", pa.int64()),
        ("prefill", pa.string()),
        ("sampling", SAMPLING),
        ("verdict", VERDICT),
        ("reason", pa.string()),
    ]
)

Kept = tuple[int, Counter[str]]
"""How many rows of a domain were kept, and how many dropped by reason."""


class SourceFile(NamedTuple):
    """One place that rows of a domain are read from; ``priority`` is its source's place in the recipe."""

    number: int
    domain: str
    priority: int
    source: Source
    located: Located


class Sampled(NamedTuple):
    """The rows that a round of sampling gave up in one shard, and why, by domain."""

    given_up: dict[str, list[int]]
    dropped: dict[str, Counter[str]]


class Mixed(NamedTuple):
    """What was written in the end."""

    content_hash: str
    rows: int
    rejected: int
    prefilled: dict[str, int]


def prompt_text(prompt: Sequence[dict[str, str]]) -> str:
    """A prompt's turns as one text."""
    return _SEPARATOR.join(turn["content"] for turn in prompt)


def write_table(path: Path, table: pa.Table) -> None:
    """Write an Arrow IPC file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table)


def read_table(path: Path) -> pa.Table:
    """Read an Arrow IPC file; its columns stay on the disk until they are touched."""
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def rejected(
    rows: pa.Table,
    stage: str,
    reasons: Sequence[str] | str,
    matches: Sequence[dict[str, Any] | None] | None = None,
    samples: pa.Table | None = None,
) -> pa.Table:
    """Dropped candidates as `REJECTED` rows, with the last prefill that was tried where there was one."""
    count = len(rows)
    columns = {name: rows[name] for name in ("id", "domain", "prompt", "ground_truth", "origin")}
    columns["reward"] = pa.array([REWARDS[domain] for domain in rows["domain"].to_pylist()], pa.string())
    for name in ("prefill", "sampling", "verdict"):
        columns[name] = samples[name] if samples is not None else pa.nulls(count, MIXTURE.field(name).type)
    columns["stage"] = pa.array([stage] * count, pa.string())
    columns["reason"] = pa.array([reasons] * count if isinstance(reasons, str) else reasons, pa.string())
    columns["match"] = pa.array(matches or [None] * count, MATCH)
    return pa.table([columns[name] for name in REJECTED.names], schema=REJECTED)


def pull_file(work: Path, file: SourceFile, max_chars: int) -> tuple[int, int, Kept]:
    """Read one source file. Returns the rows read, those selected by ``where``, and what was kept of them."""
    read = selected = kept = 0
    dropped: Counter[str] = Counter()
    folder = work / "pulled"
    folder.mkdir(exist_ok=True)
    with (
        pa.ipc.new_file(str(folder / f"{file.number}.arrow"), CANDIDATES) as good,
        pa.ipc.new_file(str(folder / f"{file.number}.rejected.arrow"), REJECTED) as bad,
    ):
        for batch in pull(file.source, file.located, file.domain, max_chars):
            read, selected, kept = read + batch.read, selected + batch.selected, kept + len(batch.rows)
            good.write_table(_candidates(batch.rows, file.priority))
            if batch.rejected:
                reasons = [row.pop("reason") for row in batch.rejected]
                bad.write_table(rejected(_candidates(batch.rejected, file.priority), "pull", reasons))
                dropped.update(reasons)
    return read, selected, (kept, dropped)


def _candidates(rows: list[dict[str, Any]], priority: int) -> pa.Table:
    return pa.Table.from_pylist([{**row, "source": priority} for row in rows], schema=CANDIDATES)


def shard_count(rows: int) -> int:
    """Into how many shards so many rows are spread: a power of two."""
    return min(1 << max(-(-rows // ROWS_PER_SHARD) - 1, 0).bit_length(), MOST_SHARDS)


def spread(work: Path, files: int, shards: int) -> list[int]:
    """Sort the pulled rows into shards by id. Returns the rows of each shard."""
    sizes = [0] * shards
    for folder, suffix, schema in (("spread", "", CANDIDATES), ("rejected", ".rejected", REJECTED)):
        (work / folder).mkdir(exist_ok=True)
        tail = "" if folder == "spread" else "-0-pull"
        writers = [pa.ipc.new_file(str(work / f"{folder}/{shard}{tail}.arrow"), schema) for shard in range(shards)]
        for number in range(files):
            reader = pa.ipc.open_file(pa.memory_map(str(work / f"pulled/{number}{suffix}.arrow")))
            for index in range(reader.num_record_batches):
                batch = reader.get_batch(index)
                heads = np.array([int(i[:8], 16) for i in batch["id"].to_pylist()], dtype=np.int64)
                places = heads * shards >> 32
                for shard in np.unique(places).tolist():
                    rows = np.flatnonzero(places == shard)
                    writers[shard].write_batch(batch.take(pa.array(rows)))
                    sizes[shard] += len(rows) if folder == "spread" else 0
        for writer in writers:
            writer.close()
    return sizes


def drop_exact(work: Path, shard: int) -> dict[str, Kept]:
    """Sort a shard by id and drop all but the first of each: the one from the earliest source."""
    rows = read_table(work / f"spread/{shard}.arrow").combine_chunks()
    rows = _sorted(rows, ("id", "source", "revision", "row"))
    ids = rows["id"].to_numpy(zero_copy_only=False)
    first = np.ones(len(ids), dtype=bool)
    first[1:] = ids[1:] != ids[:-1]
    kept = rows.filter(pa.array(first))
    normal = [normalise(prompt_text(prompt)) for prompt in kept["prompt"].to_pylist()]
    write_table(work / f"exact/{shard}.arrow", kept.append_column("text", pa.array(normal, pa.string())))
    np.save(work / f"exact/{shard}.npy", sketch(normal))

    twins = rows.take(pa.array(np.maximum.accumulate(np.where(first, np.arange(len(ids)), 0))[~first]))
    dropped = rows.filter(pa.array(~first))
    matches = [_match(twin, "exact", 1.0) for twin in twins.to_pylist()]
    write_table(work / f"rejected/{shard}-1-exact.arrow", rejected(dropped, "dedupe", "exact duplicate", matches))
    return _tally(kept["domain"], dropped["domain"], "exact duplicate")


def find_near(work: Path, shards: int, threshold: float | None) -> dict[str, dict[str, Any]]:
    """Find the near-duplicates of each domain, over all shards.

    Returns for each domain the pairs that are close but stay: ``count``, and the most similar as ``pairs``.
    """
    tables = [read_table(work / f"exact/{shard}.arrow") for shard in range(shards)]
    starts = np.cumsum([0, *map(len, tables)])
    domains = np.concatenate([t["domain"].to_numpy(zero_copy_only=False) for t in tables])
    found: list[list[tuple[int, dict[str, Any]]]] = [[] for _ in tables]
    close: dict[str, dict[str, Any]] = {}

    def at(row: int) -> tuple[int, int]:
        shard = int(np.searchsorted(starts, row, side="right")) - 1
        return shard, row - int(starts[shard])

    for domain in [d for d in DOMAINS if threshold is not None and d in domains]:
        rows = np.flatnonzero(domains == domain)
        cuts = np.searchsorted(rows, starts)
        local = [rows[cuts[s] : cuts[s + 1]] - starts[s] for s in range(shards)]
        sketches = np.concatenate([np.load(work / f"exact/{s}.npy", mmap_mode="r")[local[s]] for s in range(shards)])
        sources = np.concatenate([t["source"].to_numpy()[local[s]] for s, t in enumerate(tables)])

        def row_of(place: int, rows: np.ndarray = rows) -> dict[str, Any]:
            shard, row = at(int(rows[place]))
            return dict(tables[shard].slice(row, 1).to_pylist()[0])

        def text(place: int, rows: np.ndarray = rows) -> str:
            shard, row = at(int(rows[place]))
            return str(tables[shard]["text"][row].as_py())

        assert threshold is not None
        duplicates, pairs = near_duplicates(sketches, text, sources, threshold)
        for duplicate in duplicates:
            shard, row = at(int(rows[duplicate.row]))
            found[shard].append((row, _match(row_of(duplicate.twin), "near", duplicate.similarity)))
        shown = sorted(pairs, key=lambda pair: (-pair.similarity, pair))[:20]
        close[domain] = {
            "count": len(pairs),
            "pairs": [
                {"ids": [row_of(p.left)["id"], row_of(p.right)["id"]], "similarity": p.similarity} for p in shown
            ],
        }
    for shard, drops in enumerate(found):
        columns = [pa.array([row for row, _ in drops], pa.int64()), pa.array([match for _, match in drops], MATCH)]
        write_table(work / f"near/{shard}.arrow", pa.table(columns, names=["row", "match"]))
    return close


def pull_evaluations(work: Path, sets: Sequence[tuple[Source, Sequence[Located]]]) -> list[int]:
    """Read the evaluation sets' prompts. Returns how many each place gave."""
    places = [(source, located) for source, listed in sets for located in listed]
    found = [(located.dataset, list(texts(source, located))) for source, located in places]
    table = {
        "dataset": [dataset for dataset, prompts in found for _ in prompts],
        "text": [text for _, prompts in found for text in prompts],
        "normal": [normalise(text) for _, prompts in found for text in prompts],
    }
    write_table(work / "evaluation.arrow", pa.table({k: pa.array(v, pa.string()) for k, v in table.items()}))
    return [len(prompts) for _, prompts in found]


def clean_shard(work: Path, shard: int, clean: Clean) -> tuple[dict[str, Kept], dict[str, Kept]]:
    """Drop a shard's near-duplicates, then what stands in an evaluation set. Returns the counts of both."""
    rows = read_table(work / f"exact/{shard}.arrow")
    near = read_table(work / f"near/{shard}.arrow")
    keep = np.ones(len(rows), dtype=bool)
    keep[near["row"].to_numpy()] = False
    twins = rows.take(near["row"])
    write_table(
        work / f"rejected/{shard}-2-near.arrow",
        rejected(twins, "dedupe", "near duplicate", near["match"].to_pylist()),
    )
    rows, sketches = rows.filter(pa.array(keep)), np.load(work / f"exact/{shard}.npy")[keep]
    deduped = _tally(rows["domain"], twins["domain"], "near duplicate")

    evaluation = work / "evaluation.arrow"
    known = read_table(evaluation)
    index = _evaluation_index(evaluation, evaluation.stat().st_ino, clean.decontaminate.coverage)
    hits = index.hits(rows["text"].to_pylist(), sketches)
    found = known.take(pa.array([hit.evaluation for hit in hits], pa.int64())).to_pylist()
    matches = [
        {"id": None, "dataset": e["dataset"], "text": e["text"], "how": hit.how, "similarity": hit.similarity}
        for hit, e in zip(hits, found, strict=True)
    ]
    keep = np.ones(len(rows), dtype=bool)
    keep[[hit.row for hit in hits]] = False
    leaked, reasons = rows.filter(pa.array(~keep)), [f"in {match['dataset']}" for match in matches]
    write_table(work / f"rejected/{shard}-3-leaked.arrow", rejected(leaked, "decontaminate", reasons, matches))
    rows = rows.filter(pa.array(keep)).drop_columns(["text"])
    write_table(work / f"clean/{shard}.arrow", rows.combine_chunks())
    return deduped, _tally(rows["domain"], leaked["domain"], reasons)


@cache
def _evaluation_index(path: Path, inode: int, coverage: float) -> EvaluationIndex:
    """One index a process and build: the inode tells two builds in one folder apart."""
    return EvaluationIndex(read_table(path)["normal"].to_pylist(), coverage)


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
                results = await asyncio.gather(*map(asyncio.ensure_future, tries))
                _note(outcome, results, shards[number])
                rows = [{key: result[key] for key in _SAMPLE.names} for result in results]
                write_table(work / f"samples/{number}-{turn}.arrow", pa.Table.from_pylist(rows, schema=_SAMPLE))
                advance(len(results))
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


SURPLUS, PLAIN, PREFILLED, GIVEN_UP = range(4)
"""What became of a clean row: in ``chosen/S.npy``, one byte a row."""


def mix(work: Path, shards: int, rows: int, dropped: int) -> Mixed:
    """Write the mixture and the rejected rows, shard after shard, to ``out/``."""
    hashed, prefilled = ContentHash(), Counter[str]()
    out = work / "out"
    with (
        ShardedWriter(out / "data", "mixture", MIXTURE, rows) as mixture,
        ShardedWriter(out / "rejected", "rejected", REJECTED, dropped) as rest,
    ):
        for shard in range(shards):
            candidates = read_table(work / f"clean/{shard}.arrow")
            fate = np.load(work / f"chosen/{shard}.npy")
            samples = _samples(work, shard, len(candidates))
            chosen = np.flatnonzero((fate == PLAIN) | (fate == PREFILLED))
            table = _mixture(candidates.take(pa.array(chosen)), samples, fate[chosen] == PREFILLED, chosen)
            mixture.write(table)
            hashed.update(table.to_pylist())
            prefilled.update(candidates["domain"].filter(pa.array(fate == PREFILLED)).to_pylist())
            given_up = np.flatnonzero(fate == GIVEN_UP)
            failed = samples.take(pa.array(given_up))
            parts = [
                rejected(candidates.filter(pa.array(fate == SURPLUS)), "choose", "over the quota"),
                rejected(candidates.take(pa.array(given_up)), "sample", failed["reason"].to_pylist(), samples=failed),
                *map(read_table, sorted((work / "rejected").glob(f"{shard}-*.arrow"))),
            ]
            rest.write(_sorted(pa.concat_tables(parts), ("id", "stage", "revision", "row")))
    return Mixed(hashed.hexdigest(), rows, dropped, dict(prefilled))


def _samples(work: Path, shard: int, rows: int) -> pa.Table:
    """The samples of a shard by row: as many as it has rows, null where a row was not sampled."""
    parts = [read_table(path) for path in sorted((work / "samples").glob(f"{shard}-*.arrow"))]
    samples = pa.concat_tables(parts) if parts else _SAMPLE.empty_table()
    places = np.full(rows, -1)
    places[samples["row"].to_numpy()] = np.arange(len(samples))
    return samples.take(pa.array(places, mask=places < 0))


def _mixture(rows: pa.Table, samples: pa.Table, prefilled: np.ndarray, places: np.ndarray) -> pa.Table:
    taken = samples.take(pa.array(places, mask=~prefilled))
    columns = {name: rows[name] for name in ("id", "domain", "prompt", "ground_truth", "origin")}
    columns["reward"] = pa.array([REWARDS[domain] for domain in rows["domain"].to_pylist()], pa.string())
    for name in ("prefill", "sampling", "verdict"):
        columns[name] = taken[name]
    return pa.table([columns[name] for name in MIXTURE.names], schema=MIXTURE)


def _sorted(rows: pa.Table, keys: Sequence[str]) -> pa.Table:
    """Sort by columns, those of ``origin`` among them; rows are then in one order whatever order they came in."""
    values = {
        name: pc.struct_field(rows["origin"], name) if name in ("revision", "row") else rows[name] for name in keys
    }
    return rows.take(pc.sort_indices(pa.table(values), sort_keys=[(name, "ascending") for name in keys]))


def _match(row: dict[str, Any], how: str, similarity: float) -> dict[str, Any]:
    dataset, text = row["origin"]["dataset"], prompt_text(row["prompt"])
    return {"id": row["id"], "dataset": dataset, "text": text, "how": how, "similarity": similarity}


def _tally(kept: pa.ChunkedArray, dropped: pa.ChunkedArray, reasons: Sequence[str] | str) -> dict[str, Kept]:
    """Counts by domain, for each domain that has rows."""
    stayed, gone = Counter(kept.to_pylist()), dropped.to_pylist()
    told = [reasons] * len(gone) if isinstance(reasons, str) else reasons
    return {
        domain: (stayed[domain], Counter(r for d, r in zip(gone, told, strict=True) if d == domain))
        for domain in DOMAINS
        if stayed[domain] or domain in gone
    }
