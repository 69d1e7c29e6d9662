"""Decontamination: which prompts stand in an evaluation set, word for word, in part, or with a word changed.

Texts are compared as sequences of words (runs of letters and digits of the normalised text; single characters of a
script without spaces, of which three count as two words), by four rules:

* ``exact``: the same words;
* ``contained``: one text of 4 to 7 words stands whole in the other;
* ``n-grams``: the texts share at least `coverage` of the shorter one's distinct word 8-grams. Those that are made of
  words in which any prompt is put ("Write a step-by-step guide on how to") count for nothing;
* ``near``: the Jaccard similarity of their character 5-grams is at least `SIMILAR`, or one is the other with a word
  replaced, added or left out, or two (`pipeline.clean.edits`). A text of under 8 words has no 8-gram, and one changed
  word in the middle of 15 breaks all of them: such leaks are found by this rule only.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from itertools import chain, islice
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.clean.edits import LEAST, MOST, content, edited, neighbourhoods, tokens
from pipeline.clean.sketch import bands, batches, code_points, estimate, estimate_floor, jaccard, sketch, windows
from pipeline.words import UNSPACED

GRAM = 8
SHORTEST_CONTAINED = 4
_SHORTEST_UNSPACED = 6
"""Characters of a script without spaces that are as much as four words."""
SIMILAR = 0.7

_ODD = 0xD1342543DE82EF95
_LAST_LETTER = 0x3FFFF
"""Above it no code point is a letter or a digit, and it is none itself."""
_BANDS = 32
"""These find all but one in 6,000 of the pairs that are as close as `SIMILAR`."""
_BAND_SHIFT = np.uint32(16)
_UNSPACED_WORD = np.uint64(1)
_ALONE = 2
Hashes = npt.NDArray[np.uint64]
Indices = npt.NDArray[np.int64]


class Hit(NamedTuple):
    """A leaked prompt: its place, the place of the evaluation text, the rule that found it, and how similar they are.

    ``similarity`` is 1 for ``exact`` and ``contained``, the coverage for ``n-grams``, and for ``near`` the Jaccard
    similarity, or the share of the longer text's words that both have where that is what tells.
    """

    row: int
    evaluation: int
    how: str
    similarity: float


class _Table:
    """Which texts hold a hash: a bitmap that says no quickly, then sorted hashes and the texts of each."""

    def __init__(self, hashes: Hashes, owners: Indices) -> None:
        order = np.lexsort((owners, hashes))
        hashes, owners = hashes[order], owners[order]
        new = np.ones(len(hashes), dtype=bool)
        new[1:] = (hashes[1:] != hashes[:-1]) | (owners[1:] != owners[:-1])
        self._owners = owners[new]
        self._hashes, starts = np.unique(hashes[new], return_index=True)
        self._bounds = np.append(starts, len(self._owners))
        bits = min(len(self._hashes).bit_length() + 5, 22)
        self._shift = np.uint64(64 - bits)
        self._bitmap = np.zeros(1 << bits, dtype=bool)
        self._bitmap[self._hashes >> self._shift] = True

    def distinct(self, texts: int) -> Indices:
        """How many distinct hashes each of the `texts` has."""
        return np.bincount(self._owners, minlength=texts)

    def find(self, hashes: Hashes, owner: Callable[[Indices], Indices]) -> Iterator[tuple[int, int]]:
        """For each of an owner's distinct hashes: the owner, with each text here that holds it.

        `owner` gives the owners of hashes by their places.
        """
        likely = np.flatnonzero(self._bitmap[hashes >> self._shift])
        places = np.searchsorted(self._hashes, hashes[likely])
        places[places == len(self._hashes)] = 0
        found = self._hashes[places] == hashes[likely]
        owners = owner(likely[found]).tolist()
        for holder, place in dict.fromkeys(zip(owners, places[found].tolist(), strict=True)):
            for text in self._owners[self._bounds[place] : self._bounds[place + 1]].tolist():
                yield holder, text


class EvaluationIndex:
    """The evaluation texts, ready to be compared with any number of prompts.

    Args:
        texts: the normalised texts of all evaluation sets.
        coverage: share of the shorter text's distinct word 8-grams from which ``n-grams`` is a hit, in (0, 1].
    """

    def __init__(self, texts: Sequence[str], coverage: float = 0.5) -> None:
        self._texts, self._coverage = texts, coverage
        parts = [_words(texts[start:stop]) for start, stop in batches([len(t) for t in texts], most=1024)]
        words = np.concatenate([np.empty(0, np.uint64), *(words for words, _ in parts)])
        lengths = np.concatenate([np.empty(0, np.int64), *(np.diff(bounds) for _, bounds in parts)])
        bounds = np.concatenate(([0], np.cumsum(lengths)))
        self._whole = _Table(*_whole(words, bounds))
        self._runs: dict[int, _Table] = {}
        self._short: dict[int, _Table] = {}
        for width in range(SHORTEST_CONTAINED, GRAM + 1):
            runs, owners = _runs(words, bounds, width)
            self._runs[width] = _Table(runs, owners)
            single = (lengths[owners] == width) & _tells(words, bounds, width)[owners]
            self._short[width] = _Table(runs[single], owners[single])
        self._grams = self._runs[GRAM].distinct(len(texts))
        gaps = [(words[:0], bounds[:0]), *neighbourhoods(words, bounds)]
        self._edits = _Table(*map(np.concatenate, zip(*gaps, strict=True)))
        self._sketches = sketch(texts)
        self._bands = [_sorted_band(keys) for keys in islice(bands(self._sketches), _BANDS)]

    def hits(self, texts: Sequence[str], sketches: npt.NDArray[np.uint8]) -> list[Hit]:
        """The leaked prompts among normalised `texts`, by place; of several hits the most similar, then the first."""
        if not len(self._texts):
            return []
        found: list[Hit] = []
        short: list[tuple[Hashes, Indices, Indices]] = []
        for start, stop in batches([len(t) for t in texts], most=1024):
            words, bounds = _words(texts[start:stop])
            hits = list(self._by_words(texts[start:stop], words, bounds))
            found += [hit._replace(row=hit.row + start) for hit in hits]
            lengths = np.diff(bounds)
            few = (lengths >= LEAST) & (lengths <= MOST)
            few[[hit.row for hit in hits]] = False
            short.append((words[np.repeat(few, lengths)], lengths[few], np.flatnonzero(few) + start))
        best: dict[int, Hit] = {}
        for hit in chain(found, self._near(texts, sketches)):
            if hit.row not in best or hit.similarity > best[hit.row].similarity:
                best[hit.row] = hit
        for hit in self._edited(texts, *map(np.concatenate, zip(*short, strict=True))) if short else ():
            best.setdefault(hit.row, hit)
        return [best[row] for row in sorted(best)]

    def _by_words(self, texts: Sequence[str], words: Hashes, bounds: Indices) -> Iterator[Hit]:
        hashes, rows = _whole(words, bounds)
        for row, evaluation in self._whole.find(hashes, rows.__getitem__):
            yield Hit(row, evaluation, "exact", 1.0)
        for width in range(SHORTEST_CONTAINED, GRAM):
            runs, starts = windows(words, bounds, width)
            for row, evaluation in self._short[width].find(runs, partial(_owner, starts)):
                if content(self._tokens(evaluation)):
                    yield Hit(row, evaluation, "contained", 1.0)
            single = np.flatnonzero((np.diff(bounds) == width) & _tells(words, bounds, width))
            for row, evaluation in self._runs[width].find(runs[starts[single]], single.__getitem__):
                if content(tokens(texts[row])):
                    yield Hit(row, evaluation, "contained", 1.0)
        grams, starts = windows(words, bounds, GRAM)
        shared = Counter(self._runs[GRAM].find(grams, partial(_owner, starts)))
        for (row, evaluation), count in shared.items():
            distinct = len(set(grams[starts[row] : starts[row + 1]].tolist()))
            covered = count / min(distinct, int(self._grams[evaluation]))
            if covered >= self._coverage:
                covered = _covered(tokens(texts[row]), self._tokens(evaluation))
            if covered >= self._coverage:
                yield Hit(row, evaluation, "n-grams", covered)

    def _edited(self, texts: Sequence[str], words: Hashes, lengths: Indices, rows: Indices) -> Iterator[Hit]:
        """Texts that differ in a word or two from an evaluation text, the most alike of each first.

        `words` are those of the texts at the places `rows`, each of which has so many of them.
        """
        for hashes, owners in neighbourhoods(words, np.concatenate(([0], np.cumsum(lengths)))):
            found = dict.fromkeys(self._edits.find(hashes, rows[owners].__getitem__))
            alike = [(edited(tokens(texts[row]), self._tokens(text)), row, text) for row, text in found]
            for share, row, text in sorted(alike, key=lambda hit: (-hit[0], hit[1:])):
                if share:
                    yield Hit(row, text, "near", share)

    def _tokens(self, evaluation: int) -> list[str]:
        return tokens(self._texts[evaluation])

    def _near(self, texts: Sequence[str], sketches: npt.NDArray[np.uint8]) -> Iterator[Hit]:
        pairs = np.unique(np.concatenate(list(self._likely(sketches))), axis=0)

        def text(place: int) -> str:
            return texts[place] if place < len(texts) else self._texts[place - len(texts)]

        similarity = jaccard(np.add(pairs, (0, len(texts))), text)
        for (row, evaluation), alike in zip(pairs.tolist(), similarity.tolist(), strict=True):
            if alike >= SIMILAR:
                yield Hit(row, evaluation, "near", alike)

    def _likely(self, sketches: npt.NDArray[np.uint8]) -> Iterator[Indices]:
        """Pairs (row, evaluation) that share a band, with an estimate that admits `SIMILAR`."""
        for (keys, owners, held), column in zip(self._bands, bands(sketches), strict=False):
            rows = np.flatnonzero(held[column >> _BAND_SHIFT])
            first = np.searchsorted(keys, column[rows], side="left")
            counts = np.searchsorted(keys, column[rows], side="right") - first
            inner = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
            pairs = np.column_stack((np.repeat(rows, counts), owners[np.repeat(first, counts) + inner]))
            alike = estimate(np.take(sketches, pairs[:, 0], axis=0), np.take(self._sketches, pairs[:, 1], axis=0))
            yield pairs[alike >= estimate_floor(SIMILAR)]


def _covered(text: Sequence[str], evaluation: Sequence[str]) -> float:
    """The share of the shorter text's distinct n-grams that both have, of those that tell what a text is about."""
    one, other = (
        {gram for gram in zip(*(words[shift:] for shift in range(GRAM)), strict=False) if content(gram)}
        for words in (text, evaluation)
    )
    return len(one & other) / max(min(len(one), len(other)), 1)


def _tells(words: Hashes, bounds: Indices, width: int) -> npt.NDArray[np.bool_]:
    """For each text whether `width` words of it are enough to be looked for in others."""
    alone = words & _UNSPACED_WORD
    if width >= _SHORTEST_UNSPACED or not alone.any():
        return np.ones(len(bounds) - 1, dtype=bool)
    unspaced = np.concatenate(([0], np.cumsum(alone, dtype=np.int64)))
    told: npt.NDArray[np.bool_] = unspaced[bounds[1:]] == unspaced[bounds[:-1]]
    return told


def _sorted_band(keys: npt.NDArray[np.uint32]) -> tuple[npt.NDArray[np.uint32], Indices, npt.NDArray[np.bool_]]:
    """A band's keys in order, their owners, and a bitmap of the keys' upper halves."""
    order = np.argsort(keys, kind="stable")
    held = np.zeros(1 << 16, dtype=bool)
    held[keys >> _BAND_SHIFT] = True
    return keys[order], order, held


def _runs(words: Hashes, bounds: Indices, width: int) -> tuple[Hashes, Indices]:
    """The runs of `width` words of each text, and the text each belongs to."""
    runs, starts = windows(words, bounds, width)
    return runs, _owner(starts, np.arange(len(runs)))


def _owner(starts: Indices, places: Indices) -> Indices:
    """The texts that the runs at these places belong to."""
    return np.searchsorted(starts, places, side="right") - 1


def _whole(words: Hashes, bounds: Indices) -> tuple[Hashes, Indices]:
    """One hash for all the words of each text that has any, and the text."""
    rows = np.flatnonzero(np.diff(bounds))
    place = np.arange(len(words)) - np.repeat(bounds[:-1], np.diff(bounds))
    weighted = words * (_mix(place.astype(np.uint64)) | np.uint64(1))
    return _mix(np.add.reduceat(weighted, bounds[rows])) if len(rows) else words[:0], rows


def _words(texts: Sequence[str]) -> tuple[Hashes, Indices]:
    """A 64-bit hash of each word of each text, and the texts' bounds in it. Its lowest bit tells a character of a
    script without spaces."""
    flat, offsets = code_points([f"{t} " for t in texts])
    kinds = np.take(_kinds(), flat.astype(np.int64), mode="clip")
    inside = kinds.astype(bool)
    new = inside & ~np.concatenate(([False], inside[:-1]))
    alone = kinds == _ALONE
    if alone.any():
        new |= alone | (inside & np.concatenate(([False], alone[:-1])))
    starts = np.flatnonzero(new)
    bounds = np.searchsorted(starts, offsets)
    if not len(starts):
        return flat[:0], bounds
    powers, inverses = _powers(len(flat).bit_length())
    sums = np.add.reduceat(flat * powers[: len(flat)] * inside, starts)
    return _mix(sums * inverses[starts]) & ~_UNSPACED_WORD | alone[starts], bounds


@cache
def _powers(bits: int) -> tuple[Hashes, Hashes]:
    """The first ``2**bits`` powers of an odd number and of its inverse modulo 2^64."""
    inverse = pow(_ODD, -1, 1 << 64)
    first, second = (np.full(1 << bits, factor, dtype=np.uint64) for factor in (_ODD, inverse))
    return np.cumprod(first, dtype=np.uint64), np.cumprod(second, dtype=np.uint64)


def _mix(values: Hashes) -> Hashes:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014)."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


@cache
def _kinds() -> npt.NDArray[np.uint8]:
    """For each code point up to `_LAST_LETTER` 1 where it belongs to a word, `_ALONE` where it is one, else 0."""
    points = "".join(map(chr, range(_LAST_LETTER + 1)))
    kinds = np.fromiter(map(str.isalnum, points), dtype=np.uint8, count=len(points))
    for unspaced in re.finditer(f"[{UNSPACED}]+", points):
        kinds[slice(*unspaced.span())] *= _ALONE
    return kinds
