"""Short texts that differ in one or two words, at any place: found by hashes of what is left of them without those.

A word that is replaced breaks every run across it, and of a short prompt too little is left to share n-grams or
character 5-grams. So each text is hashed whole, without each of its words and without each two of them (deletion
neighbourhoods, as Mor and Fraenkel 1982 have them for letters): two texts that share a hash differ in two words each at
most. What such a pair is, the words themselves decide.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt

from pipeline.words import UNSPACED

LEAST, MOST = 5, 24
"""Words of the texts compared: a longer one with a word replaced is found by what it shares otherwise."""
SHORTEST_EDITED = 6
"""Words of an evaluation text of which one may be any other."""

_TOKEN: Final = re.compile(rf"(?=[{UNSPACED}])[^\W_]|[^\W_{UNSPACED}]+")
_FRAME_WORDS: Final = """
a about above after again all also am an and any are as at away be because been before being best better between
both but by can could d did different do does doing done down during each effective every few for from further get
give go good had has have having he her here hers him his how i if in into is it its just know let like ll m made
make making many may me might more most much must my need no nor not now of off on once one only or other our out
over own please possible re s same shall she should show so some someone such t take tell than that the their them
then there these they thing things this those through to too try two under until up us use used using ve very want
was way ways we well were what when where which while who whom why will with without work would yes yet you your
article blog brief briefly code create describe detail detailed develop discuss email essay example examples explain
explanation fictional following give generate guide help idea ideas instruction instructions letter list long manual
message method methods outline paragraph piece plan poem post prepare program provide response script sentence short
simple speech step steps story strategies strategy suggest summary technique techniques tip tips tutorial word write
writing wrote
"""
_FRAME: Final = frozenset(_FRAME_WORDS.split())
"""Words in which a prompt is put, and not what it is about."""

_ENDINGS: Final = frozenset(("d", "ll", "m", "re", "s", "t", "ve"))
"""What stands behind an apostrophe is a part of the word before it."""

Hashes = npt.NDArray[np.uint64]
Indices = npt.NDArray[np.int64]


def tokens(text: str) -> list[str]:
    """The words of a normalised text, runs of letters and digits; characters, where a script has no spaces."""
    return _TOKEN.findall(text)


def content(words: Sequence[str]) -> int:
    """How many of the words say what a prompt is about."""
    return sum(word not in _FRAME for word in words)


def neighbourhoods(words: Hashes, bounds: Indices) -> Iterator[tuple[Hashes, Indices]]:
    """Hashes of each text whole and without one and two of its words, and the text of each, by their length.

    `words` are hashes of the words, `bounds` the texts' in them.
    """
    lengths = np.diff(bounds)
    for length in range(LEAST, MOST + 1):
        rows = np.flatnonzero(lengths == length)
        if len(rows):
            table = words[bounds[rows][:, np.newaxis] + np.arange(length)]
            hashes = np.concatenate(list(_without(table)), axis=1)
            yield hashes.ravel(), np.repeat(rows, hashes.shape[1])


_BASE: Final = 0x9E3779B97F4A7C15


def _without(table: Hashes) -> Iterator[Hashes]:
    """Polynomial hashes of each row: whole, without one word, without two. What follows a gap moves up by division."""
    count, length = table.shape
    powers, back = _powers(length)
    head = np.zeros((count, length + 1), dtype=np.uint64)
    np.cumsum(table * powers, axis=1, out=head[:, 1:])
    yield head[:, -1:]
    once = np.arange(length)
    yield head[:, once] + (head[:, -1:] - head[:, once + 1]) * back[0]
    first, second = np.triu_indices(length, 1)
    between = head[:, second] - head[:, first + 1]
    yield head[:, first] + between * back[0] + (head[:, -1:] - head[:, second + 1]) * back[1]


@cache
def _powers(length: int) -> tuple[Hashes, Hashes]:
    """Powers of an odd number modulo 2^64, and the first two of its inverse."""
    size, inverse = 1 << 64, pow(_BASE, -1, 1 << 64)
    powers = np.array([pow(_BASE, place, size) for place in range(length)], dtype=np.uint64)
    return powers, np.array([inverse, inverse * inverse % size], dtype=np.uint64)


def edited(text: Sequence[str], evaluation: Sequence[str]) -> float:
    """The share of the longer text's words that both have, in order, where only a word or two differ; otherwise 0.

    One word may be replaced, added or left out, or two where enough stays that says what the prompt is about; and any
    two of those in which it is put ("How can I" for "How to").
    """
    lost, missing, shared = _apart(text, evaluation)
    lost, missing = ([word for word in words if word not in _ENDINGS] for words in (lost, missing))
    stays, gone = content(shared), max(content(lost), content(missing))
    if max(len(lost), len(missing)) <= 1:
        found = min(_size(evaluation), _size(text) + 1) >= SHORTEST_EDITED and stays >= 1
    else:
        found = _size(shared) >= 4 and stays >= (3 if gone else 1)
    return len(shared) / max(len(text), len(evaluation)) if found else 0.0


def _size(words: Sequence[str]) -> float:
    """How many words these are to a reader: of a script without spaces, three characters make two."""
    return sum(2 / 3 if re.match(f"[{UNSPACED}]", word) else 1 for word in words)


def _apart(one: Sequence[str], other: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """What only one of two texts has, what only the other, and their longest common subsequence."""
    longest = [[0] * (len(other) + 1) for _ in range(len(one) + 1)]
    for left in range(len(one) - 1, -1, -1):
        for right in range(len(other) - 1, -1, -1):
            same = one[left] == other[right]
            below, beside = longest[left + 1][right], longest[left][right + 1]
            longest[left][right] = longest[left + 1][right + 1] + 1 if same else max(below, beside)
    lost, missing, shared, left, right = [], [], [], 0, 0
    while left < len(one) and right < len(other):
        if one[left] == other[right]:
            shared.append(one[left])
            left, right = left + 1, right + 1
        elif longest[left + 1][right] >= longest[left][right + 1]:
            lost.append(one[left])
            left += 1
        else:
            missing.append(other[right])
            right += 1
    return [*lost, *one[left:]], [*missing, *other[right:]], shared
