"""Decontamination: which prompts stand in an evaluation set, word for word, in part, or with a word changed.

Texts are compared as sequences of words (runs of letters and digits of the normalised text), by four rules:

* ``exact``: the same words;
* ``contained``: one text of 4 to 7 words stands whole in the other;
* ``n-grams``: the texts share at least `coverage` of the shorter one's distinct word 8-grams;
* ``near``: the Jaccard similarity of their character 5-grams is at least `SIMILAR`. A text of under 8 words has no
  8-gram, and one changed word in the middle of 15 breaks all of them: such leaks are found by this rule only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.clean.sketch import bands, batches, code_points, estimate, estimate_floor, jaccard, sketch, windows

GRAM = 8
SHORTEST_CONTAINED = 4
SIMILAR = 0.7

_LONGEST_WORD = 64
_BITMAP_BITS = 22
_BAND_SHIFT = np.uint32(16)
Hashes = npt.NDArray[np.uint64]
Indices = npt.NDArray[np.int64]


class Hit(NamedTuple):
    """A leaked prompt: its place, the place of the evaluation text, the rule that found it, and how similar they are.

    ``similarity`` is 1 for ``exact`` and ``contained``, the coverage for ``n-grams``, the Jaccard similarity for ``near``.
    """

    row: int
    evaluation: int
    how: str
    similarity: float


class _Table:
    """Which texts hold a hash: a bitmap that says no quickly, then sorted hashes and their owners."""

    def __init__(self, hashes: Hashes, owners: Indices) -> None:
        order = np.lexsort((owners, hashes))
        hashes, owners = hashes[order], owners[order]
        new = np.ones(len(hashes), dtype=bool)
        new[1:] = (hashes[1:] != hashes[:-1]) | (owners[1:] != owners[:-1])
        self._hashes, self._owners = hashes[new], owners[new]
        self._bitmap = np.zeros(1 << _BITMAP_BITS, dtype=bool)
        self._bitmap[self._slots(hashes)] = True

    @staticmethod
    def _slots(hashes: Hashes) -> Hashes:
        return hashes >> np.uint64(64 - _BITMAP_BITS)

    def distinct(self, texts: int) -> Indices:
        """How many distinct hashes each of the `texts` has."""
        return np.bincount(self._owners, minlength=texts)

    def find(self, hashes: Hashes, owners: Indices) -> Iterator[tuple[int, int]]:
        """For each (hash, owner) whose hash is in the table, once: the owner, with each text here that holds it."""
        places = np.flatnonzero(self._bitmap[self._slots(hashes)])
        first = np.searchsorted(self._hashes, hashes[places], side="left")
        last = np.searchsorted(self._hashes, hashes[places], side="right")
        held = {
            (owner, start): stop
            for owner, start, stop in zip(owners[places].tolist(), first.tolist(), last.tolist(), strict=True)
        }
        for (owner, start), stop in held.items():
            for text in self._owners[start:stop].tolist():
                yield owner, text


class EvaluationIndex:
    """The evaluation texts, ready to be compared with any number of prompts.

    Args:
        texts: the normalised texts of all evaluation sets.
        coverage: share of the shorter text's distinct word 8-grams from which ``n-grams`` is a hit, in (0, 1].
    """

    def __init__(self, texts: Sequence[str], coverage: float = 0.5) -> None:
        self._texts, self._coverage = texts, coverage
        words, bounds = _words(texts)
        lengths = np.diff(bounds)
        self._whole = _Table(*_whole(words, bounds))
        self._runs = {width: _Table(*_runs(words, bounds, width)) for width in range(SHORTEST_CONTAINED, GRAM + 1)}
        self._short = {
            width: _Table(*_of(_runs(words, bounds, width), lengths == width))
            for width in range(SHORTEST_CONTAINED, GRAM)
        }
        self._grams = self._runs[GRAM].distinct(len(texts))
        self._sketches = sketch(texts)
        self._bands = [_sorted_band(keys) for keys in bands(self._sketches).T]

    def hits(self, texts: Sequence[str], sketches: npt.NDArray[np.uint8]) -> list[Hit]:
        """The leaked prompts among normalised `texts`, by place; of several hits the most similar, then the first."""
        if not len(self._texts):
            return []
        best: dict[int, Hit] = {}
        for start, stop in batches([len(t) for t in texts], most=1024):
            for hit in self._hits(texts[start:stop], sketches[start:stop]):
                moved = hit._replace(row=hit.row + start)
                if moved.row not in best or moved.similarity > best[moved.row].similarity:
                    best[moved.row] = moved
        return [best[row] for row in sorted(best)]

    def _hits(self, texts: Sequence[str], sketches: npt.NDArray[np.uint8]) -> Iterator[Hit]:
        words, bounds = _words(texts)
        lengths = np.diff(bounds)
        for row, evaluation in self._whole.find(*_whole(words, bounds)):
            yield Hit(row, evaluation, "exact", 1.0)
        for width in range(SHORTEST_CONTAINED, GRAM):
            runs = _runs(words, bounds, width)
            for row, evaluation in self._short[width].find(*runs):
                yield Hit(row, evaluation, "contained", 1.0)
            for row, evaluation in self._runs[width].find(*_of(runs, lengths == width)):
                yield Hit(row, evaluation, "contained", 1.0)
        grams, owners = _runs(words, bounds, GRAM)
        shared = Counter(self._runs[GRAM].find(grams, owners))
        first = np.searchsorted(owners, np.arange(len(texts) + 1))
        for (row, evaluation), count in shared.items():
            distinct = len(set(grams[first[row] : first[row + 1]].tolist()))
            covered = count / min(distinct, int(self._grams[evaluation]))
            if covered >= self._coverage:
                yield Hit(row, evaluation, "n-grams", covered)
        yield from self._near(texts, sketches)

    def _near(self, texts: Sequence[str], sketches: npt.NDArray[np.uint8]) -> Iterator[Hit]:
        pairs = np.unique(np.concatenate(list(self._sharing(sketches))), axis=0)
        likely = estimate(sketches[pairs[:, 0]], self._sketches[pairs[:, 1]]) >= estimate_floor(SIMILAR)
        for row, evaluation in pairs[likely].tolist():
            both = [texts[row], self._texts[evaluation]]
            similarity = float(jaccard(both, np.array([0]), np.array([1]))[0])
            if similarity >= SIMILAR:
                yield Hit(row, evaluation, "near", similarity)

    def _sharing(self, sketches: npt.NDArray[np.uint8]) -> Iterator[Indices]:
        """Pairs (row, evaluation) that share a band."""
        for (keys, owners, held), column in zip(self._bands, bands(sketches).T, strict=True):
            rows = np.flatnonzero(held[column >> _BAND_SHIFT])
            first = np.searchsorted(keys, column[rows], side="left")
            counts = np.searchsorted(keys, column[rows], side="right") - first
            inner = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
            yield np.column_stack((np.repeat(rows, counts), owners[np.repeat(first, counts) + inner]))


def _sorted_band(keys: npt.NDArray[np.uint32]) -> tuple[npt.NDArray[np.uint32], Indices, npt.NDArray[np.bool_]]:
    """A band's keys in order, their owners, and a bitmap of the keys' upper halves."""
    order = np.argsort(keys, kind="stable")
    held = np.zeros(1 << 16, dtype=bool)
    held[keys >> _BAND_SHIFT] = True
    return keys[order], order, held


def _runs(words: Hashes, bounds: Indices, width: int) -> tuple[Hashes, Indices]:
    """The runs of `width` words of each text, and the text each belongs to."""
    hashed, offsets = windows(words, bounds, width)
    return hashed, np.repeat(np.arange(len(bounds) - 1), np.diff(offsets))


def _of(runs: tuple[Hashes, Indices], wanted: npt.NDArray[np.bool_]) -> tuple[Hashes, Indices]:
    """Only the runs whose text is wanted."""
    hashed, owners = runs
    kept = wanted[owners]
    return hashed[kept], owners[kept]


def _whole(words: Hashes, bounds: Indices) -> tuple[Hashes, Indices]:
    """One hash for all the words of each text that has any, and the text."""
    rows = np.flatnonzero(np.diff(bounds))
    place = np.arange(len(words)) - np.repeat(bounds[:-1], np.diff(bounds))
    weighted = words * (_mix(place.astype(np.uint64)) | np.uint64(1))
    return _mix(np.add.reduceat(weighted, bounds[rows])) if len(rows) else words[:0], rows


def _words(texts: Sequence[str]) -> tuple[Hashes, Indices]:
    """A 64-bit hash of each word of each text, and the texts' bounds in it."""
    flat, offsets = code_points([f"{t} " for t in texts])
    inside = _alphanumeric()[np.minimum(flat, np.uint64(0xFFFF)).astype(np.int64)]
    starts = np.flatnonzero(inside & ~np.concatenate(([False], inside[:-1])))
    bounds = np.searchsorted(starts, offsets)
    if not len(starts):
        return flat[:0], bounds
    spans = np.diff(np.concatenate((starts, [len(flat)])))
    place = np.arange(starts[0], len(flat)) - np.repeat(starts, spans)
    weights = (_mix(np.arange(1, _LONGEST_WORD + 1, dtype=np.uint64)) | np.uint64(1))[np.minimum(place, _LONGEST_WORD - 1)]
    return _mix(np.add.reduceat(flat[starts[0] :] * weights * inside[starts[0] :], starts - starts[0])), bounds


def _mix(values: Hashes) -> Hashes:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014)."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


@cache
def _alphanumeric() -> npt.NDArray[np.bool_]:
    """For each code point up to U+FFFF whether it belongs to a word; what lies above counts as U+FFFF, as none."""
    return np.array([chr(point).isalnum() for point in range(0x10000)])
