"""Which of the clean rows are in the mixture, shard by shard, as prefills succeed or fail."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline import steps
from pipeline.mixture import Selection
from pipeline.recipe import Recipe
from pipeline.schema import DOMAINS


class Choice:
    """The selections of all domains over the clean shards, by shard and row."""

    def __init__(self, work: Path, shards: int, recipe: Recipe) -> None:
        tables = [steps.read_table(work / f"clean/{shard}.arrow").select(["id", "domain"]) for shard in range(shards)]
        self.shards = shards
        self._sizes = [len(table) for table in tables]
        starts = np.cumsum([0, *self._sizes])
        self.domains: dict[str, Selection] = {}
        self._rows: dict[str, np.ndarray] = {}
        for domain, part in sorted(recipe.mixture.items(), key=lambda item: DOMAINS.index(item[0])):
            masks = [table["domain"].to_numpy(zero_copy_only=False) == domain for table in tables]
            ids = (i for table, mask in zip(tables, masks, strict=True) for i in table["id"].filter(mask).to_pylist())
            share = part.prefill.share if part.prefill else 0.0
            self.domains[domain] = Selection(ids, recipe.seed, part.rows, share)
            self._rows[domain] = np.flatnonzero(np.concatenate(masks))
        self._starts = starts

    def by_shard(self, domain: str, places: np.ndarray) -> list[list[int]]:
        """The rows of each shard, sorted, that stand at these places among the domain's candidates."""
        rows = np.sort(self._rows[domain][places])
        cuts = np.searchsorted(rows, self._starts)
        return [(rows[a:b] - start).tolist() for a, b, start in zip(cuts, cuts[1:], self._starts, strict=False)]

    def places(self, domain: str, shard: int, rows: Sequence[int]) -> list[int]:
        """The places among the domain's candidates of its rows in a shard."""
        found = np.searchsorted(self._rows[domain], np.array(rows, dtype=np.int64) + self._starts[shard])
        return [int(place) for place in found]

    def fates(self) -> list[np.ndarray]:
        """What became of each row of each shard (`pipeline.steps.SURPLUS` and the following)."""
        fate = np.zeros(self._starts[-1], dtype=np.uint8)
        for domain, selection in self.domains.items():
            for places, what in (
                (selection.chosen(), steps.PLAIN),
                (selection.prefilled(), steps.PREFILLED),
                (np.array(sorted(selection.failed), dtype=np.int64), steps.GIVEN_UP),
            ):
                fate[self._rows[domain][places]] = what
        return [fate[start : start + size] for start, size in zip(self._starts, self._sizes, strict=False)]
