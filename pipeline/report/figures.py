"""Counts over the rows of a build, taken batch by batch."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

SCORE_BINS = 20
"""Bins of equal width that scores from 0 to 1 are counted in; the last one includes 1."""


class Mixture:
    """What the mixture holds.

    Attributes:
        kinds: rows by (domain, prefilled or not).
        datasets: rows by (source dataset, domain).
        categories: rows by (category, domain).
        words: prefilled rows by (domain, words of the prefill).
        attempts: prefilled rows by (attempt that was accepted, from 0).
        scores: judged rows by (domain, stance, bin of the score).
    """

    def __init__(self) -> None:
        """Start with no rows."""
        self.kinds: Counter[tuple[str, bool]] = Counter()
        self.datasets: Counter[tuple[str | None, str]] = Counter()
        self.categories: Counter[tuple[str | None, str]] = Counter()
        self.words: Counter[tuple[str, int]] = Counter()
        self.attempts: Counter[tuple[int]] = Counter()
        self.scores: Counter[tuple[str, str, int]] = Counter()

    @property
    def prefilled(self) -> int:
        """How many rows carry a prefill."""
        return sum(count for (_, prefilled), count in self.kinds.items() if prefilled)

    def add(self, batch: pa.RecordBatch) -> None:
        """Count the rows of `batch` (of the schema ``MIXTURE``)."""
        domain = batch["domain"]
        prefilled = pc.is_valid(batch["prefill"])
        self.kinds += _count(domain, prefilled)
        self.datasets += _count(pc.struct_field(batch["origin"], "dataset"), domain)
        self.categories += _count(pc.struct_field(batch["origin"], "category"), domain)

        words = pc.struct_field(batch["sampling"], "words")
        self.words += _count(domain, words, where=pc.and_(prefilled, pc.is_valid(words)))
        attempt = pc.struct_field(batch["sampling"], "attempt")
        self.attempts += _count(attempt, where=pc.and_(prefilled, pc.is_valid(attempt)))

        stance = pc.struct_field(batch["verdict"], "stance")
        score = pc.struct_field(batch["verdict"], "score")
        finite = pc.fill_null(pc.and_(pc.is_finite(score), pc.is_valid(stance)), False)
        bins = pc.floor(pc.multiply(pc.if_else(finite, score, 0.0), SCORE_BINS)).cast(pa.int64())
        bins = pc.min_element_wise(pc.max_element_wise(bins, 0), SCORE_BINS - 1)
        self.scores += _count(domain, stance, bins, where=finite)


class Rejected:
    """What was dropped, as far as the build keeps it.

    Attributes:
        reasons: rows by (stage, reason, domain).
        stages: rows by stage.
    """

    def __init__(self) -> None:
        """Start with no rows."""
        self.reasons: Counter[tuple[str, str, str]] = Counter()
        self.stages: Counter[str] = Counter()

    def add(self, batch: pa.RecordBatch) -> None:
        """Count the rows of `batch` (of the schema ``REJECTED``)."""
        counts: Counter[tuple[str, str, str]] = _count(
            pc.fill_null(batch["stage"], "unknown"), pc.fill_null(batch["reason"], "no reason given"), batch["domain"]
        )
        self.reasons += counts
        for (stage, _, _), count in counts.items():
            self.stages[stage] += count


def of_stage(batch: pa.RecordBatch, stage: str) -> pa.RecordBatch:
    """The rows of `batch` that were dropped at `stage`."""
    return batch.filter(pc.fill_null(pc.equal(batch["stage"], stage), False))


def _count(*columns: pa.Array, where: pa.Array | None = None) -> Counter[Any]:
    """How often each combination of values occurs in the rows where `where` is true."""
    names = [str(place) for place in range(len(columns))]
    table = pa.table(list(columns), names)
    if where is not None:
        table = table.filter(where)
    grouped = table.group_by(names).aggregate([([], "count_all")])
    keys = zip(*(grouped[name].to_pylist() for name in names), strict=True)
    return Counter(dict(zip(keys, grouped["count_all"].to_pylist(), strict=True)))
