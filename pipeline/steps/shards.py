"""The files that steps hand to each other: shards of rows as Arrow IPC, and what every step does with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.schema import DOMAINS, MATCH, MIXTURE, REJECTED, REWARDS
from pipeline.writing import replacing

ROWS_PER_SHARD = 8_192
MOST_SHARDS = 512

_SEPARATOR = "\n\n"
Kept = tuple[int, Counter[str]]
"""How many rows of a domain were kept, and how many dropped by reason."""


def prompt_text(prompt: Sequence[dict[str, str]]) -> str:
    """A prompt's turns as one text."""
    return _SEPARATOR.join(turn["content"] for turn in prompt)


def write_table(path: Path, table: pa.Table) -> None:
    """Write an Arrow IPC file as a whole: another process may have the former one mapped."""
    with writing(path, table.schema) as writer:
        writer.write_table(table)


@contextmanager
def writing(path: Path, schema: pa.Schema) -> Iterator[pa.ipc.RecordBatchFileWriter]:
    """Write an Arrow IPC file in parts; it is in its place when the block is done."""
    with replacing(path) as new, pa.ipc.new_file(str(new), schema) as writer:
        yield writer


def write_array(path: Path, array: np.ndarray) -> None:
    """Write a NumPy array as a whole."""
    with replacing(path) as new, new.open("wb") as file:
        np.save(file, array)


def read_table(path: Path) -> pa.Table:
    """Read an Arrow IPC file; its columns stay on the disk until they are touched."""
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def rounds_of(work: Path, shard: int) -> list[tuple[int, pa.Table]]:
    """The samples of a shard, by the round that they were written in."""
    paths = {int(path.stem.partition("-")[2]): path for path in (work / "samples").glob(f"{shard}-*.arrow")}
    return [(turn, read_table(path)) for turn, path in sorted(paths.items())]


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


def shard_count(rows: int) -> int:
    """Into how many shards so many rows are spread: a power of two."""
    return min(1 << max(-(-rows // ROWS_PER_SHARD) - 1, 0).bit_length(), MOST_SHARDS)


def in_order(rows: pa.Table, keys: Sequence[str]) -> pa.Table:
    """Sort by columns, those of ``origin`` among them; rows are then in one order whatever order they came in."""
    inner = ("category", "revision", "row")
    values = {name: pc.struct_field(rows["origin"], name) if name in inner else rows[name] for name in keys}
    return rows.take(pc.sort_indices(pa.table(values), sort_keys=[(name, "ascending") for name in keys]))


def match(row: dict[str, Any], how: str, similarity: float) -> dict[str, Any]:
    """What a dropped row matched, as the column ``match`` states it."""
    dataset, text = row["origin"]["dataset"], prompt_text(row["prompt"])
    return {"id": row["id"], "dataset": dataset, "text": text, "how": how, "similarity": similarity}


def tally(kept: pa.ChunkedArray, dropped: pa.ChunkedArray, reasons: Sequence[str] | str) -> dict[str, Kept]:
    """Counts by domain, for each domain that has rows."""
    stayed, gone = Counter(kept.to_pylist()), dropped.to_pylist()
    told = [reasons] * len(gone) if isinstance(reasons, str) else reasons
    return {
        domain: (stayed[domain], Counter(r for d, r in zip(gone, told, strict=True) if d == domain))
        for domain in DOMAINS
        if stayed[domain] or domain in gone
    }
