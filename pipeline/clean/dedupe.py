"""Near-duplicates within a domain: candidates from sketches, decisions by exact Jaccard, clusters by union-find.

Rows are given in their canonical order (sorted by id), so the result depends on what the rows are and never on the
order in which they were read. The keeper of a cluster is its row from the earliest source, then with the smallest id.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.clean.sketch import bands, batches, estimate, estimate_floor, jaccard

LISTED = 0.6
"""Pairs at least this similar are found and reported, dropped or not."""

_CHUNK = 1 << 16
_MEASURED = 1024
_CROWD = 512
"""In a band shared by more rows than this, a row is compared with this many neighbours in sketch order only."""

Indices = npt.NDArray[np.int64]


class Duplicate(NamedTuple):
    """A row to drop: its place, the place of its twin, and their exact Jaccard similarity.

    The twin is the cluster's keeper where the two are similar enough themselves, else the most similar row of the
    cluster, which led to the keeper.
    """

    row: int
    twin: int
    similarity: float


class Pair(NamedTuple):
    """Two rows (``left < right``) and their exact Jaccard similarity."""

    left: int
    right: int
    similarity: float


def near_duplicates(
    sketches: npt.NDArray[np.uint8],
    text: Callable[[int], str],
    sources: Sequence[int] | npt.NDArray[np.int32],
    threshold: float,
) -> tuple[list[Duplicate], list[Pair]]:
    """Find the rows to drop, and the pairs that are close but stay.

    Args:
        sketches: one row a text, in canonical order (`pipeline.clean.sketch.sketch`).
        text: the normalised text of a row, by its place.
        sources: the priority of each row's source, smallest first.
        threshold: exact Jaccard similarity from which two rows are duplicates, 0.5 to 1.

    Returns:
        The rows to drop, by place; and the pairs between `LISTED` and `threshold` that are in no common cluster.
    """
    pairs = sorted(similar_pairs(sketches, text, min(LISTED, threshold), merge_at=threshold))
    merged = [p for p in pairs if p.similarity >= threshold]
    root = _roots(len(sketches), merged)
    close = [p for p in pairs if p.similarity < threshold and root[p.left] != root[p.right]]

    clusters: dict[int, list[int]] = {}
    best: dict[int, Pair] = {}
    for pair in merged:
        for row in (pair.left, pair.right):
            clusters.setdefault(root[row], [])
            if row not in best or pair.similarity > best[row].similarity:
                best[row] = pair
    for row in sorted(best):
        clusters[root[row]].append(row)

    twins = []
    for rows in clusters.values():
        keeper = min(rows, key=lambda row: (sources[row], row))
        twins += [(row, keeper) for row in rows if row != keeper]
    dropped = []
    for row, keeper, similarity in _measure(np.array(twins, dtype=np.int64).reshape(-1, 2), text):
        if similarity >= threshold:
            dropped.append(Duplicate(row, keeper, similarity))
        else:
            pair = best[row]
            dropped.append(Duplicate(row, pair.left + pair.right - row, pair.similarity))
    return sorted(dropped), close


def similar_pairs(
    sketches: npt.NDArray[np.uint8], text: Callable[[int], str], floor: float, *, merge_at: float = 2.0
) -> Iterator[Pair]:
    """Every pair of rows whose exact Jaccard similarity is at least `floor`, each once, as far as the bands show it.

    Rows already joined through pairs of at least `merge_at` are not compared again.
    """
    parent = np.arange(len(sketches), dtype=np.int64)
    least = estimate_floor(floor)
    seen = np.empty((0, 2), dtype=np.int64)
    for keys in bands(sketches).T:
        found = [seen[:0]]
        for left, right in _sharing(keys, sketches):
            apart = parent[left] != parent[right]
            pairs = np.column_stack((left[apart], right[apart]))
            found.append(pairs[estimate(sketches[pairs[:, 0]], sketches[pairs[:, 1]]) >= least])
        new = _unseen(np.concatenate(found), seen)
        seen = np.concatenate((seen, new))
        for pair in _measure(new, text):
            if pair.similarity >= floor:
                yield pair
            if pair.similarity >= merge_at:
                _join(parent, pair.left, pair.right)
        _flatten(parent)


def _unseen(pairs: Indices, seen: Indices) -> Indices:
    keys, known = (p[:, 0] << 32 | p[:, 1] for p in (pairs, seen))
    new = np.setdiff1d(keys, known)
    return np.column_stack((new >> 32, new & 0xFFFFFFFF))


def _measure(pairs: Indices, text: Callable[[int], str]) -> Iterator[Pair]:
    for start in range(0, len(pairs), _MEASURED):
        rows = pairs[start : start + _MEASURED]
        known = {row: text(row) for row in np.unique(rows).tolist()}
        lengths = [len(known[left]) + len(known[right]) for left, right in rows.tolist()]
        for first, stop in batches(lengths, most=_MEASURED):
            chunk = rows[first:stop]
            distinct, places = np.unique(chunk, return_inverse=True)
            left, right = places.reshape(chunk.shape).T
            similarity = jaccard([known[row] for row in distinct.tolist()], left, right)
            yield from map(Pair, *chunk.T.tolist(), similarity.tolist())


def _sharing(keys: npt.NDArray[np.uint32], sketches: npt.NDArray[np.uint8]) -> Iterator[tuple[Indices, Indices]]:
    """Pairs of rows with equal keys, in chunks, smaller row first."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    sizes = np.diff(np.concatenate((starts, [len(keys)])))
    crowded = sizes > _CROWD
    for start, size in zip(starts[crowded].tolist(), sizes[crowded].tolist(), strict=True):
        rows = order[start : start + size]
        rows = rows[np.lexsort(sketches[rows].T[::-1])]
        for shift in range(1, _CROWD + 1):
            yield np.minimum(rows[:-shift], rows[shift:]), np.maximum(rows[:-shift], rows[shift:])
    plain = (sizes > 1) & ~crowded
    starts, sizes = starts[plain], sizes[plain]
    shift = 1
    while len(starts):
        for first in range(0, len(starts), 2048):
            firsts, reach = starts[first : first + 2048], sizes[first : first + 2048] - shift
            total = int(reach.sum())
            inner = np.arange(total) - np.repeat(np.cumsum(reach) - reach, reach)
            at = np.repeat(firsts, reach) + inner
            left, right = order[at], order[at + shift]
            for chunk in range(0, total, _CHUNK):
                yield left[chunk : chunk + _CHUNK], right[chunk : chunk + _CHUNK]
        shift += 1
        more = sizes > shift
        starts, sizes = starts[more], sizes[more]


def _find(parent: Indices, row: int) -> int:
    while parent[row] != row:
        parent[row] = parent[parent[row]]
        row = int(parent[row])
    return row


def _join(parent: Indices, left: int, right: int) -> None:
    a, b = _find(parent, left), _find(parent, right)
    parent[max(a, b)] = min(a, b)


def _flatten(parent: Indices) -> None:
    while not np.array_equal(parent[parent], parent):
        parent[:] = parent[parent]


def _roots(count: int, pairs: Sequence[Pair]) -> Indices:
    parent = np.arange(count, dtype=np.int64)
    for pair in pairs:
        _join(parent, pair.left, pair.right)
    _flatten(parent)
    return parent
