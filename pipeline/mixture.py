"""Which rows enter the mixture, and which of them carry a prefill: quotas and exact nested shares. Pure.

Every candidate has a rank, a hash of the seed and its id. A domain's rows are the first of its candidates in rank
order, and the prefilled ones are the first of those. So the rows prefilled at share .25 are a subset of those at .5,
the rows of a smaller quota a subset of those of a larger one, and neither depends on the order of the input.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

Places = npt.NDArray[np.int64]


def rank_order(ids: Iterable[str], seed: int) -> Places:
    """The places of `ids` in rank order."""
    key = seed.to_bytes(8, "big")
    digests = b"".join(hashlib.blake2b(i.encode(), digest_size=8, key=key).digest() for i in ids)
    return np.argsort(np.frombuffer(digests, dtype=">u8"), kind="stable").astype(np.int64)


def prefilled_count(share: float, rows: int) -> int:
    """How many of `rows` rows carry a prefill: exactly ``round(share * rows)``."""
    return round(share * rows)


class Selection:
    """One domain's choice, as prefills succeed or fail.

    Prefills come from one or more arms, each for the first of the rows in rank order. A row for which an arm's prefill
    failed for good leaves every config; the next candidate in rank order takes its place. Since that depends on the row
    alone, shares stay nested, and all configs have the same rows.

    Args:
        ids: the candidates' ids.
        seed: the recipe's seed.
        rows: the quota.
        shares: share alpha of the rows that each arm writes a prefill for.
    """

    def __init__(self, ids: Iterable[str], seed: int, rows: int, shares: Mapping[str, float]) -> None:
        self._order = rank_order(ids, seed)
        self._rows, self._shares = rows, shares
        self._failed: set[int] = set()
        self._sampled: dict[str, set[int]] = {arm: set() for arm in shares}

    @property
    def candidates(self) -> int:
        """How many rows there are to choose from."""
        return len(self._order)

    @property
    def missing(self) -> int:
        """By how many rows the quota can't be met."""
        return max(self._rows - (len(self._order) - len(self._failed)), 0)

    def chosen(self) -> Places:
        """The places of the rows in the mixture, in rank order."""
        alive = self._order[~np.isin(self._order, list(self._failed))] if self._failed else self._order
        return alive[: self._rows]

    def prefilled(self, arm: str) -> Places:
        """The places of the rows that the arm writes a prefill for."""
        chosen = self.chosen()
        return chosen[: prefilled_count(self._shares[arm], len(chosen))]

    def to_sample(self, arm: str) -> Places:
        """The rows that need a prefill of the arm and were not sampled yet."""
        wanted, sampled = self.prefilled(arm), self._sampled[arm]
        return wanted[~np.isin(wanted, list(sampled))] if sampled else wanted

    def sampled(self, arm: str, places: Iterable[int], failed: Iterable[int]) -> set[int]:
        """Take note of rows that were sampled, and of those among them whose every attempt was rejected.

        Returns the rows that leave because of it: not those that had left already.
        """
        self._sampled[arm].update(places)
        leaving = set(failed) - self._failed
        self._failed |= leaving
        return leaving

    @property
    def failed(self) -> frozenset[int]:
        """The places of rows that left the mixture because every attempt at a prefill was rejected."""
        return frozenset(self._failed)
