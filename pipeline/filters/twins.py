"""Near-duplicates among the prefills of a domain: texts that differ in little more than the prompt they speak of.

Two texts are compared by their word 5-grams, without case and without punctuation at the words' ends. Candidates are
rows whose MinHash sketches (`pipeline.clean.sketch`, here of words) share one of 32 bands of 4 rows, which two texts of
Jaccard similarity 0.8 fail to do in one case of 10^7, of 0.6 in one of 85; the exact similarity decides.

Rows are gone through in the order of a hash of their ids, and a row is dropped where one kept before it is similar
enough. So the outcome depends on the texts and their ids alone, not on the order in which they are given; no two kept
rows are twins; and each dropped row is a twin of its keeper itself, not through others.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from rensa import RMinHash

from pipeline.clean.sketch import BANDS, PERMUTATIONS, bands, batches, estimate, estimate_floor, windows

TWIN = "prefill is a near-duplicate of another row's"

SHINGLE = 5
"""Words of a shingle. A shorter text is filled up, and is its own only shingle."""

_SEED = 1
_SPREAD = np.uint32(0x85EBCA6B)
_ENDS = ".,;:!?\"'()[]{}*_`“”‘’…—。，！？"


class Twin(NamedTuple):
    """The kept row that a dropped one is a twin of, and their exact Jaccard similarity."""

    keeper: int
    similarity: float


class _Words(dict[str, int]):
    """The 64-bit hash of each word met so far."""

    def __missing__(self, word: str) -> int:
        bare = word.lower().strip(_ENDS)
        digest = hashlib.blake2b(bare.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        self[word] = value = int.from_bytes(digest, "little")
        return value


def find_twins(
    texts: Sequence[str], ids: Sequence[str], near: float = 0.8, keep: Sequence[bool] | None = None
) -> dict[int, Twin]:
    """The rows to drop, by place, each with the most similar of the rows kept before it.

    Args:
        texts: the prefills of one domain.
        ids: the id of each row, no two alike; its hash says which row comes first.
        near: exact Jaccard similarity of word 5-grams from which two texts are twins, 0.5 to 1.
        keep: the rows that come first in any case and are never dropped, not even as twins of each other.
    """
    stay = keep or [False] * len(texts)
    order = sorted(range(len(texts)), key=lambda row: (not stay[row], _rank(ids[row])))
    sketches, words = _sketches(texts, order), _Words()
    sharing, groups = _sharing(sketches)
    least = estimate_floor(near)
    kept: list[list[int]] = [[] for _ in range(groups)]
    twins: dict[int, Twin] = {}
    for place, mine in sorted(sharing.items()):
        row = order[place]
        before = [] if stay[row] else sorted(set(chain.from_iterable(kept[group] for group in mine)))
        likely = [
            other
            for other, alike in zip(before, estimate(sketches[before], sketches[place]).tolist(), strict=True)
            if alike >= least
        ]
        found = [(_jaccard(texts[order[other]], texts[row], words), -other) for other in likely]
        similarity, keeper = max(found, default=(0.0, 0))
        if similarity >= near:
            twins[row] = Twin(order[-keeper], similarity)
        else:
            for group in mine:
                kept[group].append(place)
    return twins


def _rank(row: str) -> bytes:
    return hashlib.blake2b(row.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _sketches(texts: Sequence[str], order: Sequence[int]) -> npt.NDArray[np.uint8]:
    """MinHash sketches of the texts in this order, a byte of each minimum, like those of `pipeline.clean.sketch`."""
    sketches = np.empty((len(order), PERMUTATIONS), dtype=np.uint8)
    words = _Words()
    for start, stop in batches([len(texts[row]) for row in order], most=512):
        hashed, bounds = _shingles([texts[row] for row in order[start:stop]], words)
        matrix = RMinHash.digest_matrix_from_flat_token_hashes(hashed, bounds.astype(np.uint64), PERMUTATIONS, _SEED)
        minima = array("I")
        for minimum in matrix.to_rows():
            minima.fromlist(minimum)
        spread = np.frombuffer(minima, np.uint32) * _SPREAD >> np.uint32(24)
        sketches[start:stop] = spread.reshape(-1, PERMUTATIONS)
    return sketches


def _shingles(texts: Sequence[str], words: _Words) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    read = [text.split() for text in texts]
    filled = [found if len(found) >= SHINGLE else found + [""] * (SHINGLE - len(found)) for found in read]
    offsets = np.zeros(len(texts) + 1, dtype=np.int64)
    np.cumsum([len(found) for found in filled], out=offsets[1:])
    every = chain.from_iterable(filled)
    return windows(np.fromiter(map(words.__getitem__, every), np.uint64, int(offsets[-1])), offsets, SHINGLE)


def _jaccard(left: str, right: str, words: _Words) -> float:
    """Exact Jaccard similarity of the word 5-gram sets, compared as 64-bit hashes."""
    mine, theirs = (np.unique(_shingles([text], words)[0]) for text in (left, right))
    shared = len(np.intersect1d(mine, theirs, assume_unique=True))
    return shared / (len(mine) + len(theirs) - shared)


def _sharing(sketches: npt.NDArray[np.uint8]) -> tuple[dict[int, list[int]], int]:
    """The groups of rows that are equal in a band, by row and only for rows that are in one; and how many there are."""
    groups: dict[int, list[int]] = {}
    count = 0
    for members in chain.from_iterable(map(_equal, islice(bands(sketches), BANDS // 2))):
        for row in members:
            groups.setdefault(row, []).append(count)
        count += 1
    return groups, count


def _equal(keys: npt.NDArray[np.uint32]) -> Iterator[list[int]]:
    """The rows with each key that several have."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1]))) if len(keys) else order
    ends = np.append(starts[1:], len(keys))
    for at in np.flatnonzero(ends - starts > 1).tolist():
        yield order[starts[at] : ends[at]].tolist()
