"""Packaging: every config and the rejected rows, shard after shard, as Parquet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.publish.parquet import ContentHash, ShardedWriter
from pipeline.schema import ATTACK, ATTACKS, MIXTURE, REJECTED, REWARDS, SAMPLES, Domain
from pipeline.steps.shards import in_order, read_table, rejected, rounds_of

SURPLUS, GIVEN_UP = -1, -2
"""What stands in ``chosen/S.npy`` for a row that is not chosen; else its rank among its domain's chosen rows."""


class Show(NamedTuple):
    """What a config shows: of each domain the prefills of an arm, of so many rows, the first in rank order.

    ``attack`` is the column of that name of rows that carry a prefill, where the mixture is to attack models with.
    """

    config: str
    folder: str
    prefills: Mapping[Domain, tuple[str, int]]
    attack: dict[str, Any] | None


class Mixed(NamedTuple):
    """What was written in the end: by config, the hash of its rows and how many carry a prefill, by domain."""

    content_hash: dict[str, str]
    prefilled: dict[str, dict[str, int]]


def mix(work: Path, shards: int, rows: int, dropped: int, shows: Sequence[Show]) -> Mixed:
    """Write every config and the rejected rows, shard after shard, to ``out/``."""
    out = work / "out"
    schema = ATTACKS if any(show.attack for show in shows) else MIXTURE
    with ExitStack() as stack:
        writers = [stack.enter_context(ShardedWriter(out / show.folder, show.config, schema, rows)) for show in shows]
        rest = stack.enter_context(ShardedWriter(out / "rejected", "rejected", REJECTED, dropped))
        hashes, counts = [ContentHash() for _ in shows], [Counter[str]() for _ in shows]
        for shard in range(shards):
            candidates, ranks = read_table(work / f"clean/{shard}.arrow"), np.load(work / f"chosen/{shard}.npy")
            samples = _samples(work, shard)
            for show, writer, hashed, count in zip(shows, writers, hashes, counts, strict=True):
                table = _table(candidates, ranks, samples, show, schema)
                writer.write(table)
                hashed.update(table.to_pylist())
                count.update(table["domain"].filter(table["prefill"].is_valid()).to_pylist())
            given_up = np.flatnonzero(ranks == GIVEN_UP)
            reasons = samples.filter(samples["reason"].is_valid())
            failed = _take(reasons, _places(reasons["row"].to_numpy(), len(candidates))[given_up])
            parts = [
                rejected(candidates.filter(pa.array(ranks == SURPLUS)), "choose", "over the quota"),
                rejected(candidates.take(pa.array(given_up)), "sample", failed["reason"].to_pylist(), samples=failed),
                *map(read_table, sorted((work / "rejected").glob(f"{shard}-*.arrow"))),
            ]
            rest.write(in_order(pa.concat_tables(parts), ("id", "stage", "revision", "row")))
    names = [show.config for show in shows]
    hexes = [hashed.hexdigest() for hashed in hashes]
    return Mixed(dict(zip(names, hexes, strict=True)), dict(zip(names, map(dict, counts), strict=True)))


def _samples(work: Path, shard: int) -> pa.Table:
    """The last sample of each row and arm of a shard, first arm first."""
    parts = [table for _, table in rounds_of(work, shard)]
    samples = pa.concat_tables(parts) if parts else SAMPLES.empty_table()
    keys = zip(samples["arm"].to_pylist(), samples["row"].to_pylist(), strict=True)
    last = {key: place for place, key in enumerate(keys)}
    return samples.take(pa.array([last[key] for key in sorted(last)], pa.int64()))


def _places(rows: np.ndarray, count: int) -> np.ndarray:
    """Where each row out of `count` stands first in `rows`; -1 where it doesn't."""
    places = np.full(count, -1)
    places[rows[::-1]] = np.arange(len(rows))[::-1]
    return places


def _take(samples: pa.Table, places: np.ndarray) -> pa.Table:
    return samples.take(pa.array(places, mask=places < 0))


def _table(candidates: pa.Table, ranks: np.ndarray, samples: pa.Table, show: Show, schema: pa.Schema) -> pa.Table:
    """The chosen rows of a shard as a config shows them."""
    chosen = np.flatnonzero(ranks >= 0)
    rows = candidates.take(pa.array(chosen))
    domains = np.array(rows["domain"].to_pylist(), dtype=object)
    arms, sampled = samples["arm"].to_numpy(zero_copy_only=False), samples["row"].to_numpy()
    taken = np.full(len(rows), -1)
    for domain, (arm, count) in show.prefills.items():
        of_arm = np.flatnonzero(arms == arm)
        shown = (domains == domain) & (ranks[chosen] < count)
        taken[shown] = np.append(of_arm, -1)[_places(sampled[of_arm], len(candidates))[chosen[shown]]]
    found = _take(samples, taken)
    columns = {name: rows[name] for name in ("id", "domain", "prompt", "ground_truth", "origin")}
    columns["reward"] = pa.array([REWARDS[domain] for domain in domains], pa.string())
    for name in ("prefill", "sampling", "verdict"):
        columns[name] = found[name]
    columns["attack"] = pa.array([show.attack if place >= 0 else None for place in taken], ATTACK)
    return pa.table([columns[name] for name in schema.names], schema=schema)
