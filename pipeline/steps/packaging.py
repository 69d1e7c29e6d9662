"""Packaging: the mixture and the rejected rows, shard after shard, as Parquet."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.publish.parquet import ContentHash, ShardedWriter
from pipeline.schema import MIXTURE, REJECTED, REWARDS, SAMPLES
from pipeline.steps.shards import in_order, read_table, rejected, rounds_of


class Mixed(NamedTuple):
    """What was written in the end."""

    content_hash: str
    rows: int
    rejected: int
    prefilled: dict[str, int]


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
            rest.write(in_order(pa.concat_tables(parts), ("id", "stage", "revision", "row")))
    return Mixed(hashed.hexdigest(), rows, dropped, dict(prefilled))


def _samples(work: Path, shard: int, rows: int) -> pa.Table:
    """The last samples of a shard by row: as many as it has rows, null where a row was not sampled."""
    parts = [table for _, table in rounds_of(work, shard)]
    samples = pa.concat_tables(parts) if parts else SAMPLES.empty_table()
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
