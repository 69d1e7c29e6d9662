"""From sources to clean shards: pull, sort by id, deduplicate, decontaminate."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.clean.decontaminate import EvaluationIndex, Hit
from pipeline.clean.dedupe import near_duplicates
from pipeline.clean.sketch import sketch
from pipeline.recipe import Clean, Semantic, Source
from pipeline.schema import CANDIDATES, DOMAINS, MATCH, REJECTED
from pipeline.sources import Located, evaluation_texts, pull
from pipeline.sources.identity import normalise
from pipeline.steps.shards import (
    Kept,
    in_order,
    match,
    prompt_text,
    read_table,
    rejected,
    tally,
    write_array,
    write_table,
    writing,
)


class SourceFile(NamedTuple):
    """One place that rows of a domain are read from; ``priority`` is its source's place in the recipe."""

    number: int
    domain: str
    priority: int
    source: Source
    located: Located


def pull_file(work: Path, file: SourceFile, max_chars: int) -> tuple[int, int, Kept]:
    """Read one source file. Returns the rows read, those selected by ``where``, and what was kept of them."""
    read = selected = kept = 0
    dropped: Counter[str] = Counter()
    folder = work / "pulled"
    with (
        writing(folder / f"{file.number}.arrow", CANDIDATES) as good,
        writing(folder / f"{file.number}.rejected.arrow", REJECTED) as bad,
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


def spread(work: Path, files: int, shards: int) -> list[int]:
    """Sort the pulled rows into shards by id. Returns the rows of each shard."""
    sizes = [0] * shards
    for folder, suffix, schema in (("spread", "", CANDIDATES), ("rejected", ".rejected", REJECTED)):
        tail = "" if folder == "spread" else "-0-pull"
        with ExitStack() as stack:
            places_of = [work / f"{folder}/{shard}{tail}.arrow" for shard in range(shards)]
            writers = [stack.enter_context(writing(path, schema)) for path in places_of]
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
    return sizes


def drop_exact(work: Path, shard: int) -> dict[str, Kept]:
    """Sort a shard by id and drop all but one of each: of those from the earliest source the first by its content."""
    rows = read_table(work / f"spread/{shard}.arrow").combine_chunks()
    rows = rows.append_column("content", pa.array(map(prompt_text, rows["prompt"].to_pylist()), pa.string()))
    rows = rows.append_column("rank", pa.array(map(_rank, rows["content"].to_pylist()), pa.string()))
    rows = in_order(rows, ("id", "source", "rank", "content", "ground_truth", "category", "revision", "row"))
    content, rows = rows["content"], rows.drop_columns(["content", "rank"])
    ids = rows["id"].to_numpy(zero_copy_only=False)
    first = np.ones(len(ids), dtype=bool)
    first[1:] = ids[1:] != ids[:-1]
    kept = rows.filter(pa.array(first))
    normal = [normalise(text) for text in content.filter(pa.array(first)).to_pylist()]
    write_table(work / f"exact/{shard}.arrow", kept.append_column("text", pa.array(normal, pa.string())))
    write_array(work / f"exact/{shard}.npy", sketch(normal))

    twins = rows.take(pa.array(np.maximum.accumulate(np.where(first, np.arange(len(ids)), 0))[~first]))
    dropped = rows.filter(pa.array(~first))
    matches = [match(twin, "exact", 1.0) for twin in twins.to_pylist()]
    write_table(work / f"rejected/{shard}-1-exact.arrow", rejected(dropped, "dedupe", "exact duplicate", matches))
    return tally(kept["domain"], dropped["domain"], "exact duplicate")


def _rank(text: str) -> str:
    """Sorts the spellings of one prompt: least white space, a capital at its head, then fewest others."""
    return f"{len(text):09d}{not text[:1].isupper():d}{sum(map(str.isupper, text)):09d}"


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
            found[shard].append((row, match(row_of(duplicate.twin), "near", duplicate.similarity)))
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
    found = [(located.dataset, list(evaluation_texts(source, located))) for source, located in places]
    table = {
        "dataset": [dataset for dataset, prompts in found for _ in prompts],
        "text": [text for _, prompts in found for text, _ in prompts],
        "normal": [normalise(text) for _, prompts in found for text, _ in prompts],
        "domain": [domain for _, prompts in found for _, domain in prompts],
    }
    write_table(work / "evaluation.arrow", pa.table({k: pa.array(v, pa.string()) for k, v in table.items()}))
    return [len(prompts) for _, prompts in found]


def clean_shard(
    work: Path, shard: int, clean: Clean, sentence_model: str | None = None
) -> tuple[dict[str, Kept], dict[str, Kept]]:
    """Drop a shard's near-duplicates, then what stands in an evaluation set: in the same words or, with a sentence
    model (where it is loaded from), in others. Returns the counts of both.
    """
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
    deduped = tally(rows["domain"], twins["domain"], "near duplicate")

    evaluation = work / "evaluation.arrow"
    known = read_table(evaluation)
    index = _evaluation_index(_Evaluation(evaluation, _digest(evaluation)), clean.decontaminate.coverage)
    hits = index.hits(rows["text"].to_pylist(), sketches)
    if sentence_model is not None and clean.decontaminate.semantic is not None:
        hits = sorted(hits + _paraphrases(rows, known, hits, sentence_model, clean.decontaminate.semantic))
    found = known.take(pa.array([hit.evaluation for hit in hits], pa.int64())).to_pylist()
    matches = [
        {"id": None, "dataset": e["dataset"], "text": e["text"], "how": hit.how, "similarity": hit.similarity}
        for hit, e in zip(hits, found, strict=True)
    ]
    keep = np.ones(len(rows), dtype=bool)
    keep[[hit.row for hit in hits]] = False
    told = {"paraphrase": "in other words in"}
    leaked, reasons = rows.filter(pa.array(~keep)), [f"{told.get(m['how'], 'in')} {m['dataset']}" for m in matches]
    write_table(work / f"rejected/{shard}-3-leaked.arrow", rejected(leaked, "decontaminate", reasons, matches))
    rows = rows.filter(pa.array(keep)).drop_columns(["text"])
    write_table(work / f"clean/{shard}.arrow", rows.combine_chunks())
    return deduped, tally(rows["domain"], leaked["domain"], reasons)


def _paraphrases(rows: pa.Table, known: pa.Table, hits: Sequence[Hit], model: str, semantic: Semantic) -> list[Hit]:
    """Of the rows without a hit those that say what an evaluation prompt of their domain says."""
    from pipeline.clean.semantic import COMPARED, ParaphraseIndex, sentences

    commit = None if Path(model).is_dir() else semantic.revision
    index = ParaphraseIndex(
        sentences(model, commit), known["normal"].to_pylist(), known["domain"].to_pylist(), semantic.above
    )
    open_rows = np.ones(len(rows), dtype=bool)
    open_rows[[hit.row for hit in hits]] = False
    domains, found = rows["domain"].to_numpy(zero_copy_only=False), []
    for domain in COMPARED:
        places = np.flatnonzero(open_rows & (domains == domain))
        texts = rows["text"].take(pa.array(places)).to_pylist()
        found += [hit._replace(row=int(places[hit.row])) for hit in index.hits(texts, domain)]
    return found


class _Evaluation(NamedTuple):
    """The evaluation texts of a build: where they lie, and the hash of that file."""

    path: Path
    digest: bytes


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


@lru_cache(maxsize=2)
def _evaluation_index(evaluation: _Evaluation, coverage: float) -> EvaluationIndex:
    """One index a process and set of texts: builds in one process may have other ones at the same place."""
    return EvaluationIndex(read_table(evaluation.path)["normal"].to_pylist(), coverage)
