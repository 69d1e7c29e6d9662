"""Sketches propose pairs, exact Jaccard similarity decides: both against plain set arithmetic."""

from __future__ import annotations

import csv
import json
import random
import tracemalloc
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.clean.dedupe import LISTED
from pipeline.clean.sketch import bands, batches, estimate, estimate_floor, jaccard, sketch, windows
from pipeline.sources import normalise

TEXT = st.text(max_size=40) | st.text("ab \N{SNOWMAN}\N{GRINNING FACE}\0", max_size=40)


def naive(one: str, other: str) -> float:
    sides = [{text[i : i + 5] for i in range(len(text) - 4)} or {text} for text in (one, other)]
    return len(sides[0] & sides[1]) / len(sides[0] | sides[1])


def both_ways(texts: Sequence[str]) -> tuple[list[float], list[float]]:
    pairs = [(i, j) for i in range(len(texts)) for j in range(len(texts))]
    measured = jaccard(np.array(pairs).reshape(-1, 2), texts.__getitem__)
    return measured.tolist(), [naive(texts[i], texts[j]) for i, j in pairs]


@settings(max_examples=200)
@given(st.lists(TEXT, min_size=1, max_size=6))
def test_jaccard_is_that_of_the_sets(texts: list[str]) -> None:
    measured, expected = both_ways(texts)
    assert measured == expected


@pytest.mark.parametrize(
    "texts",
    [
        ["abcde", "abcdf", "abcdef", "zbcde"],
        ["", "a", "a\0", "aaaa", "aaaaa", "aaaaaa", "\0" * 5],
        ["\U0010ffff" * 5, "\U0010fffe" * 5, "é" * 9, "e\u0301" * 9],
        [("a" * i + "b") * 300 for i in range(5)],
    ],
    ids=["one character", "short", "far ends of Unicode", "repetitions"],
)
def test_jaccard_at_the_edges(texts: list[str]) -> None:
    measured, expected = both_ways(texts)
    assert measured == expected


def test_jaccard_of_many_pairs_of_very_unlike_lengths() -> None:
    rng = random.Random(0)
    texts = ["".join(rng.choices("abc ", k=rng.choice([0, 3, 30, 300, 3000]))) for _ in range(200)]
    pairs = np.array([(rng.randrange(200), rng.randrange(200)) for _ in range(5000)])
    expected = [naive(texts[i], texts[j]) for i, j in pairs[:400].tolist()]
    measured = jaccard(pairs, texts.__getitem__).tolist()
    assert measured[:400] == expected
    assert measured[400:] == jaccard(pairs[400:], texts.__getitem__).tolist()


def test_jaccard_of_no_pairs() -> None:
    assert jaccard(np.empty((0, 2), dtype=np.int64), [].__getitem__).tolist() == []


@given(st.lists(st.lists(st.integers(0, 3), max_size=8), max_size=6), st.integers(1, 6))
def test_windows_stay_within_their_row_and_are_equal_for_equal_values(rows: list[list[int]], width: int) -> None:
    flat = np.array([value for row in rows for value in row], dtype=np.uint64)
    offsets = np.cumsum([0, *map(len, rows)])
    hashed, bounds = windows(flat, offsets, width)
    runs = [[tuple(row[i : i + width]) for i in range(len(row) - width + 1)] for row in rows]
    assert np.diff(bounds).tolist() == [len(row) for row in runs]
    meanings: dict[int, set[tuple[int, ...]]] = {}
    for value, run in zip(hashed.tolist(), (run for row in runs for run in row), strict=True):
        meanings.setdefault(value, set()).add(run)
    assert all(len(meaning) == 1 for meaning in meanings.values())
    assert len(meanings) == len({run for row in runs for run in row})


@given(st.lists(TEXT, min_size=1, max_size=5), st.integers(1, 600))
def test_a_sketch_depends_on_its_own_text_only(texts: list[str], others: int) -> None:
    alone = [sketch([text])[0].tolist() for text in texts]
    assert sketch(["filler " + str(i) for i in range(others)] + texts)[others:].tolist() == alone


def test_a_sketch_depends_on_the_set_of_shingles_only() -> None:
    one, other = sketch(["ab" * 10, "ab" * 50 + "a"])
    assert one.tolist() == other.tolist()
    assert sketch(["abcde"]).tolist() != sketch(["abcdf"]).tolist()


def test_sketches_at_the_edges() -> None:
    assert sketch([]).shape == (0, 128)
    assert len(np.unique(sketch(["", "a", "aa", "\0", "aaaaa", "\ud83d"]), axis=0)) == 6


def test_estimates_scatter_as_the_floor_supposes() -> None:
    rng = random.Random(0)
    texts, edited = [], []
    for _ in range(4000):
        letters = rng.choices("abcdefghijklmnopqrstuvwxyz ", k=120)
        texts.append("".join(letters))
        for _ in range(rng.randrange(8)):
            letters[rng.randrange(120)] = "."
        edited.append("".join(letters))
    true = np.array([naive(*pair) for pair in zip(texts, edited, strict=True)])
    estimated = estimate(sketch(texts), sketch(edited))
    deviations = (estimated - true) / np.sqrt(np.maximum(true * (1 - true), 1e-9) / 128)
    inner = true < 1
    assert abs(deviations[inner].mean()) < 0.1
    assert 0.5 < deviations[inner].std() < 1.1
    assert (estimated >= [estimate_floor(value) for value in true]).all()


@given(st.lists(st.integers(0, 50), max_size=60), st.integers(1, 10), st.integers(1, 200))
def test_batches_cover_everything_once_within_their_limits(lengths: list[int], most: int, characters: int) -> None:
    bounds = list(batches(lengths, most, characters))
    assert [place for start, stop in bounds for place in range(start, stop)] == list(range(len(lengths)))
    for start, stop in bounds:
        assert 0 < stop - start <= most
        assert stop - start == 1 or (stop - start) * max(lengths[start:stop]) <= characters
    for (start, _), (_, stop) in pairwise(bounds):
        assert stop - start > most or (stop - start) * max(lengths[start:stop]) > characters


def test_a_few_long_texts_among_short_ones_do_not_fill_the_memory() -> None:
    rng = random.Random(0)
    texts = ["".join(rng.choices("abcdefgh ", k=20_000 if i % 100 == 0 else 60)) for i in range(1000)]
    pairs = np.array([(i, j) for i in range(0, 1000, 100) for j in range(0, 1000, 7)])
    tracemalloc.start()
    sketch(texts)
    jaccard(pairs, texts.__getitem__)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 << 20


def prompts_of(shared_data: Path, which: str) -> list[str]:
    if which == "STAR-1":
        return [row["question"] for row in json.loads((shared_data / "harmful" / "STAR-1.json").read_text("utf-8"))]
    if which == "CoCoNot":
        lines = (shared_data / "benign" / "coconot_pref.jsonl").read_text("utf-8").splitlines()
        return [json.loads(line)["prompt"] for line in lines]
    found = []
    for name, field in (("xstest_prompts.csv", "prompt"), ("strongreject_dataset.csv", "forbidden_prompt")):
        with (shared_data / "eval" / name).open(encoding="utf-8", newline="") as rows:
            found += [row[field] for row in csv.DictReader(rows)]
    return found


@pytest.mark.parametrize("whole", [True, False], ids=["8 words running", "8 words at random"])
@pytest.mark.parametrize("which", ["STAR-1", "CoCoNot", "XSTest and StrongREJECT"])
def test_one_word_edits_of_8_word_prompts_are_candidates(shared_data: Path, which: str, whole: bool) -> None:
    """At least 99 % of all such edits, however unlike they have become, and practically all of those to be listed."""
    rng = random.Random(0)
    split = [normalise(text).split() for text in prompts_of(shared_data, which)]
    vocabulary = sorted({word for words in split for word in words})
    running = [words[:8] for words in split if len(words) >= 8]
    originals, edits = [], []
    for _ in range(5000):
        words = list(rng.choice(running)) if whole else rng.sample(vocabulary, 8)
        originals.append(" ".join(words))
        at = rng.randrange(8)
        words[at] = rng.choice([word for word in rng.sample(vocabulary, 2) if word != words[at]])
        edits.append(" ".join(words))
    true = np.array([naive(*pair) for pair in zip(originals, edits, strict=True)])
    left, right = sketch(originals), sketch(edits)
    banded = np.any([one == other for one, other in zip(bands(left), bands(right), strict=True)], axis=0)
    proposed = banded & (estimate(left, right) >= estimate_floor(LISTED))
    assert banded.mean() >= 0.99
    assert proposed.mean() >= 0.99
    assert proposed[true >= LISTED].mean() >= 0.998
