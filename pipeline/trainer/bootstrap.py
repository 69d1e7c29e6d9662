"""Intervals of a mean, by resampling rows: seeded, so the same values always give the same interval."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

RESAMPLES = 2_000
LEVEL = 0.95


class Interval(NamedTuple):
    """A mean, and where it lies with `LEVEL` confidence; of no values, all are None."""

    mean: float | None
    low: float | None
    high: float | None


def interval(values: Sequence[float], seed: int = 0) -> Interval:
    """The mean of `values` with its percentile bootstrap interval.

    Each value stands for a row: where a row was drawn several times, its mean. For a paired difference, give the
    differences.
    """
    import numpy as np

    if not values:
        return Interval(None, None, None)
    drawn, sample = np.random.default_rng(seed), np.asarray(values, dtype=float)
    means = [sample[drawn.integers(0, len(sample), len(sample))].mean() for _ in range(RESAMPLES)]
    low, high = np.quantile(means, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return Interval(*(round(float(figure), 4) for figure in (sample.mean(), low, high)))


def row_means(values: Iterable[tuple[str, float | None]]) -> dict[str, float]:
    """The mean of each row's values, by id, over those of its draws that have one."""
    drawn: dict[str, list[float]] = {}
    for id, value in values:
        if value is not None:
            drawn.setdefault(id, []).append(value)
    return {id: sum(listed) / len(listed) for id, listed in drawn.items()}
