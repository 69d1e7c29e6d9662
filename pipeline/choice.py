"""Which of the clean rows are in the mixture, shard by shard, as prefills succeed or fail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pipeline import steps
from pipeline.mixture import Selection
from pipeline.recipe import Arm, Recipe
from pipeline.schema import DOMAINS


class Choice:
    """The selections of all domains over the clean shards, by shard and row."""

    def __init__(self, work: Path, shards: int, recipe: Recipe, arms: Mapping[str, Arm]) -> None:
        tables = [steps.read_table(work / f"clean/{shard}.arrow").select(["id", "domain"]) for shard in range(shards)]
        self.shards = shards
        self.arms = arms
        self._sizes = [len(table) for table in tables]
        starts = np.cumsum([0, *self._sizes])
        self.domains: dict[str, Selection] = {}
        self._rows: dict[str, np.ndarray] = {}
        for domain, part in sorted(recipe.mixture.items(), key=lambda item: DOMAINS.index(item[0])):
            masks = [table["domain"].to_numpy(zero_copy_only=False) == domain for table in tables]
            ids = (i for table, mask in zip(tables, masks, strict=True) for i in table["id"].filter(mask).to_pylist())
            shares = {arm.name: arm.prefill.share for arm in arms.values() if arm.domain == domain}
            self.domains[domain] = Selection(ids, recipe.seed, part.rows, shares)
            self._rows[domain] = np.flatnonzero(np.concatenate(masks))
        self._starts = starts

    def to_sample(self, arm: str) -> list[list[int]]:
        """The rows of each shard, sorted, that want a prefill of the arm and were not sampled yet."""
        domain = self.arms[arm].domain
        rows = np.sort(self._rows[domain][self.domains[domain].to_sample(arm)])
        cuts = np.searchsorted(rows, self._starts)
        return [(rows[a:b] - start).tolist() for a, b, start in zip(cuts, cuts[1:], self._starts, strict=False)]

    def sampled(self, arm: str, shard: int, rows: Sequence[int], failed: Mapping[int, str]) -> list[str]:
        """Take note of rows of a shard that were sampled, and of those whose every attempt was rejected, and why.

        Returns the reasons of the rows that leave the mixture because of it.
        """
        domain = self.arms[arm].domain
        done, lost = self._places(domain, shard, rows), self._places(domain, shard, list(failed))
        leaving = self.domains[domain].sampled(arm, done, lost)
        return [why for place, why in zip(lost, failed.values(), strict=True) if place in leaving]

    def ranks(self) -> list[np.ndarray]:
        """What became of each row of each shard: its place among its domain's chosen rows in rank order, from 0;
        `pipeline.steps.SURPLUS` or `pipeline.steps.GIVEN_UP` where it is not chosen.
        """
        ranks = np.full(self._starts[-1], steps.SURPLUS, dtype=np.int64)
        for domain, selection in self.domains.items():
            chosen = selection.chosen()
            ranks[self._rows[domain][chosen]] = np.arange(len(chosen))
            ranks[self._rows[domain][np.array(sorted(selection.failed), dtype=np.int64)]] = steps.GIVEN_UP
        return [ranks[start : start + size] for start, size in zip(self._starts, self._sizes, strict=False)]

    def _places(self, domain: str, shard: int, rows: Sequence[int]) -> list[int]:
        """The places among the domain's candidates of its rows in a shard."""
        found = np.searchsorted(self._rows[domain], np.array(rows, dtype=np.int64) + self._starts[shard])
        return [int(place) for place in found]
