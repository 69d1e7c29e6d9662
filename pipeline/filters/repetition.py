"""Loops: text that a model writes again and again instead of going on.

A text is read as *units*: words without case, in pieces of at most 16 letters; single characters in scripts that put no
spaces between words; runs of at most 8 punctuation marks. Counters ("3.", "Step 3:") are left out, as a loop often
counts. What follows is *repeated*:

- a period of any length three times or more in a row, of 9 units at least in all;
- a sentence or line of 4 units or more that stands in the text three times or more;
- a run of 12 units that stands there three times or more, or of 24 units that stands there twice.

Sentences of the prompt, and runs that share much with it, don't count: a thought may quote it. The rule rejects from
`MOST` of the characters repeated on; and a text that *ends* in a loop of 18 units or more, however short its share is.

The measure is the share of characters in duplicate lines and n-grams of Gopher's repetition filter (Rae et al. 2021,
arXiv 2112.11446, Table A1; also datatrove's `GopherRepetitionFilter`). Gopher counts second occurrences and allows 10 %
to 20 %, for web pages; a thought comes back to its phrases, so here it is the third, or a long passage.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from itertools import accumulate, pairwise
from operator import le

LOOPS = "prefill repeats itself"

MOST = 0.2
"""Share of a text's characters from which on repeats are a loop."""

_RUN, _LONG_RUN = 12, 24
"""Units of a run that is repeated where it stands in the text three times, and of one where it stands there twice."""
_QUOTED = 0.3
"""Share of a run's units from which on it quotes the prompt, as it is or with "I" turned into "they"."""
_SENTENCE, _TIMES = 4, 3
_PERIODIC = 9
_KEY = 4
"""Units by which a period is recognised; a run is a few of these in a row."""

_TAIL, _LONGEST_PERIOD = 18, 80

_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_UNIT = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]{{1,16}}|[^\w\s]{{1,8}}")
_COUNTER = re.compile(r"\d{1,4}[.):]+(?!\d)")
_SENTENCES = re.compile(r"[^.!?。！？\n]+")


def loops(text: str, prompt: str = "") -> str | None:
    """`LOOPS` where the text repeats itself, else None."""
    text = _plain(text)
    units = _UNIT.findall(text)
    return LOOPS if _ends_in_loop(units) or _share(text, units, prompt) >= MOST else None


def repeated_share(text: str, prompt: str = "") -> float:
    """The share of the characters of `text`, counters left out, that are repeated: 0 to 1."""
    text = _plain(text)
    return _share(text, _UNIT.findall(text), prompt)


def _plain(text: str) -> str:
    return _COUNTER.sub("", text.lower())


def _share(text: str, units: Sequence[str], prompt: str) -> float:
    keys = _numbered([*zip(*(units[shift:] for shift in range(_KEY)), strict=False)])
    in_units = [*_periods(keys), *_runs(units, keys, prompt)] if _comes_back(keys) else []
    in_characters = [*_sentences(text, prompt)]
    if in_units:
        starts = [*(match.start() for match in _UNIT.finditer(text)), len(text)]
        in_characters += [(starts[first], starts[stop]) for first, stop in in_units]
    repeated = bytearray(len(text))
    for first, stop in in_characters:
        repeated[first:stop] = b"\1" * (stop - first)
    return repeated.count(1) / max(1, len(repeated))


def _numbered(runs: Sequence[Hashable]) -> list[int]:
    """A number for each, the same for equal ones."""
    numbers: dict[Hashable, int] = {}
    return [numbers.setdefault(run, len(numbers)) for run in runs]


def _comes_back(keys: Sequence[int]) -> bool:
    """Whether so many keys in a row were met before as the shortest period has; most texts are done with this."""
    return b"\1" * (_PERIODIC - _KEY) in bytes(map(le, keys[1:], accumulate(keys, max)))


def _runs(units: Sequence[str], keys: Sequence[int], prompt: str) -> Iterator[tuple[int, int]]:
    """Bounds, in units, of the runs that stand in the text often enough and not in the prompt."""
    runs = [*zip(*(keys[shift:] for shift in range(0, _RUN, _KEY)), strict=False)]
    if len(set(runs)) == len(runs):
        return
    numbers = _numbered(runs)
    long_runs = [*zip(numbers, numbers[_RUN:], strict=False)]
    quoted = _quoted(units, prompt)
    for found, size, times in ((numbers, _RUN, _TIMES), (long_runs, _LONG_RUN, 2)):
        counts = Counter[Hashable](found)
        for start, run in enumerate(found):
            if counts[run] >= times and sum(quoted[start : start + size]) < _QUOTED * size:
                yield start, start + size


def _quoted(units: Sequence[str], prompt: str) -> list[bool]:
    """For each unit whether it and the next word follow one another in the prompt too, whatever signs are between."""
    asked = [unit for unit in _UNIT.findall(_plain(prompt)) if unit.isalnum()]
    known = {*pairwise(asked)}
    quoted = [False] * len(units)
    words = [(place, unit) for place, unit in enumerate(units) if unit.isalnum()]
    for (place, word), (_, following) in pairwise(words):
        quoted[place] = (word, following) in known
    return quoted


def _periods(keys: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Bounds, in units, of what is one period three times or more.

    In such a stretch every few units last stood one period before; so it shows as a distance that stays the same.
    """
    last: dict[int, int] = {}
    distance = begin = 0
    for place, key in enumerate((*keys, -1)):
        now = place - last.get(key, place)
        last[key] = place
        if now != distance:
            start, stop = begin - distance, place + _KEY - 1
            if distance and stop - start >= max(_PERIODIC, _TIMES * distance):
                yield start, stop
            distance, begin = now, place


def _sentences(text: str, prompt: str) -> Iterator[tuple[int, int]]:
    """Bounds, in characters, of the sentences and lines that stand in the text three times or more."""
    sentences = [sentence.strip() for sentence in _SENTENCES.findall(text)]
    if len(sentences) - len(set(sentences)) < _TIMES - 1:
        return
    quoted = prompt.lower()
    often = {
        sentence
        for sentence, count in Counter(sentences).items()
        if count >= _TIMES and sentence not in quoted and len(_UNIT.findall(sentence)) >= _SENTENCE
    }
    for match, sentence in zip(_SENTENCES.finditer(text), sentences, strict=True):
        if sentence in often:
            yield match.span()


def _ends_in_loop(units: Sequence[str]) -> bool:
    """Whether the last `_TAIL` units or more are one period, three times or more."""
    count = len(units)
    for period in range(1, min(_LONGEST_PERIOD, count // _TIMES) + 1):
        if units[-1 - period] == units[-1]:
            needed = max(_TAIL, period * _TIMES)
            if needed <= count and units[count - needed : count - period] == units[count - needed + period :]:
                return True
    return False
