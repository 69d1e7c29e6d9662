"""Near-duplicates within a domain: candidates from sketches, decisions by exact Jaccard, clusters by union-find.

Rows are given in their canonical order (sorted by id), so the result depends on what the rows are and never on the
order in which they were read. The keeper of a cluster is its row from the earliest source, then with the smallest id.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.clean.sketch import bands, estimate, estimate_floor, jaccard

LISTED = 0.6
"""Pairs at least this similar are found and reported, dropped or not."""

_CROWD = 32
"""In a band shared by more rows than this, as texts from one template share many, a row is compared only with this many
rows next to it, and measured only where the estimate is near `threshold`. Twins share rarer bands as well."""
_CROWD_DEVIATIONS = 1.5

_CHUNK = 4096
_WAITING = 8192
_LOW = np.uint64(0xFFFFFFFF)

Indices = npt.NDArray[np.int64]


class Duplicate(NamedTuple):
    """A row to drop: its place, the place of its twin, and their exact Jaccard similarity.

    The twin is the cluster's keeper where the two are similar enough themselves, else the most similar row that it was
    compared with, through which the two are joined.
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
        The rows to drop, by place; and the pairs between `LISTED` and `threshold` that are in no common cluster (of
        many texts from one template only the closest).
    """
    pairs = sorted(similar_pairs(sketches, text, min(LISTED, threshold), threshold))
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
    similarities = jaccard(np.array(twins, dtype=np.int64).reshape(-1, 2), text).tolist()
    for (row, keeper), similarity in zip(twins, similarities, strict=True):
        if similarity >= threshold:
            dropped.append(Duplicate(row, keeper, similarity))
        else:
            pair = best[row]
            dropped.append(Duplicate(row, pair.left + pair.right - row, pair.similarity))
    return sorted(dropped), close


def similar_pairs(
    sketches: npt.NDArray[np.uint8], text: Callable[[int], str], floor: float, threshold: float
) -> Iterator[Pair]:
    """The pairs of rows whose exact Jaccard similarity is at least `floor`, each once, as far as the bands show them.

    Rows already joined through pairs of at least `threshold` are not compared again.
    """
    parent = np.arange(len(sketches), dtype=np.int64)
    least = np.array([estimate_floor(floor), estimate_floor(threshold, _CROWD_DEVIATIONS)])
    seen = np.empty(0, dtype=np.int64)
    for keys in bands(sketches):
        for pairs in _gathered(_likely(_sharing(keys), sketches, least, parent)):
            known = pairs[:, 0] << 32 | pairs[:, 1]
            new = np.searchsorted(seen, known, "left") == np.searchsorted(seen, known, "right")
            seen = np.sort(np.concatenate((seen, known[new])))
            similarity = jaccard(pairs[new], text)
            enough = similarity >= floor
            for pair in map(Pair, *pairs[new][enough].T.tolist(), similarity[enough].tolist()):
                yield pair
                if pair.similarity >= threshold:
                    _join(parent, pair.left, pair.right)
            _flatten(parent)


def _gathered(chunks: Iterator[Indices]) -> Iterator[Indices]:
    """The same pairs in fewer chunks."""
    waiting: list[Indices] = []
    for pairs in chunks:
        waiting.append(pairs)
        if sum(map(len, waiting)) >= _WAITING:
            yield np.concatenate(waiting)
            waiting = []
    if waiting:
        yield np.concatenate(waiting)


def _likely(
    sharing: Iterator[tuple[Indices, Indices, npt.NDArray[np.int8]]],
    sketches: npt.NDArray[np.uint8],
    least: npt.NDArray[np.float64],
    parent: Indices,
) -> Iterator[Indices]:
    """Of the pairs that share a band those that are not joined yet, with an estimate of at least ``least[crowded]``."""
    for left, right, crowded in sharing:
        apart = np.flatnonzero(parent[left] != parent[right])
        alike = estimate(*(np.take(sketches, rows[apart], axis=0) for rows in (left, right)))
        some = apart[alike >= least[crowded[apart]]]
        yield np.column_stack((left[some], right[some]))


def _sharing(keys: npt.NDArray[np.uint32]) -> Iterator[tuple[Indices, Indices, npt.NDArray[np.int8]]]:
    """Pairs of rows with equal keys, smaller row first, in chunks, and whether each is of a crowd (1) or not (0)."""
    ordered = np.sort(keys.astype(np.uint64) << np.uint64(32) | np.arange(len(keys), dtype=np.uint64))
    order = (ordered & _LOW).astype(np.int64)
    ordered >>= np.uint64(32)
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    sizes = np.diff(np.concatenate((starts, [len(keys)])))
    starts, sizes = starts[sizes > 1], sizes[sizes > 1]
    crowded = sizes > _CROWD
    for shift in range(1, min(_CROWD, sizes.max(initial=0) - 1) + 1):
        more = sizes > shift
        reach = sizes[more] - shift
        left = np.repeat(starts[more] - np.cumsum(reach) + reach, reach) + np.arange(reach.sum())
        of_crowd = np.repeat(crowded[more].astype(np.int8), reach)
        for chunk in range(0, len(left), _CHUNK):
            at = left[chunk : chunk + _CHUNK]
            yield order[at], order[at + shift], of_crowd[chunk : chunk + _CHUNK]


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
