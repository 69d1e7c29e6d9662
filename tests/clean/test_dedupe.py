"""Near-duplicates: what is dropped, for which twin, and that neither order nor hash seed has a say in it."""

from __future__ import annotations

import csv
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.clean.dedupe import LISTED, Duplicate, Pair, _roots, near_duplicates
from pipeline.clean.sketch import sketch
from pipeline.sources import normalise, row_id
from pipeline.steps import find_near
from pipeline.steps.shards import read_table, write_table

THRESHOLD = 0.8
BASE = "how many apples does the old farmer have left after he sold half of them at the market on a rainy monday"


def shingles(text: str) -> set[str]:
    return {text[i : i + 5] for i in range(len(text) - 4)} or {text}


def naive(one: str, other: str) -> float:
    return len(shingles(one) & shingles(other)) / len(shingles(one) | shingles(other))


def dedupe(
    texts: Sequence[str], sources: Sequence[int] | None = None, threshold: float = THRESHOLD
) -> tuple[list[Duplicate], list[Pair]]:
    return near_duplicates(sketch(texts), texts.__getitem__, sources or [0] * len(texts), threshold)


def clean(rows: Iterable[tuple[str, int, str]], threshold: float = THRESHOLD) -> dict[str, tuple[str, float]]:
    """For each dropped id its twin's id and their similarity; rows are (id, source, text) in any order."""
    ids, sources, texts = zip(*sorted(rows), strict=True)
    return {ids[d.row]: (ids[d.twin], d.similarity) for d in dedupe(texts, sources, threshold)[0]}


def clusters(count: int, edges: Iterable[tuple[int, int]]) -> list[int]:
    """The smallest member of each one's connected component, by relabelling until nothing changes."""
    labels, edges = list(range(count)), list(edges)
    while changed := [(a, b) for a, b in edges if labels[a] != labels[b]]:
        for a, b in changed:
            old, new = max(labels[a], labels[b]), min(labels[a], labels[b])
            labels = [new if label == old else label for label in labels]
    return labels


def varied(seed: int, count: int) -> list[tuple[str, int, str]]:
    """Rows (id, source, text) of which many are edits, and edits of edits, of others."""
    rng = random.Random(seed)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(400)]
    texts = [" ".join(rng.choices(words, k=rng.randint(3, 30))) for _ in range(count // 2)]
    while len(texts) < count:
        edited = rng.choice(texts).split()
        edited[rng.randrange(len(edited))] = rng.choice(words)
        texts.append(" ".join(edited))
    return [(row_id("math", [text]), rng.randrange(3), text) for text in sorted(set(texts))]


def check(texts: Sequence[str], sources: Sequence[int], threshold: float = THRESHOLD) -> None:
    """Compare with all pairs, measured one by one."""
    similar = {(i, j): naive(texts[i], texts[j]) for j in range(len(texts)) for i in range(j)}
    label = clusters(len(texts), [pair for pair, value in similar.items() if value >= threshold])
    keepers = {root: min((sources[i], i) for i in range(len(texts)) if label[i] == root)[1] for root in set(label)}
    dropped, close = dedupe(texts, sources, threshold)
    assert [d.row for d in dropped] == [i for i in range(len(texts)) if keepers[label[i]] != i]
    for row, twin, similarity in dropped:
        assert similarity == similar[min(row, twin), max(row, twin)] >= threshold
        keeper = keepers[label[row]]
        assert twin == keeper or similar[min(row, keeper), max(row, keeper)] < threshold
    for left, right, similarity in close:
        assert LISTED <= similarity == similar[left, right] < threshold
        assert label[left] != label[right]
    assert len(set(close)) == len(close)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from(BASE.split()), min_size=1, max_size=9).map(" ".join), max_size=25, unique=True),
    st.data(),
)
def test_agrees_with_all_pairs_measured_one_by_one(texts: list[str], data: st.DataObject) -> None:
    sources = data.draw(st.lists(st.integers(0, 2), min_size=len(texts), max_size=len(texts)))
    check(sorted(texts), sources, data.draw(st.sampled_from([0.6, 0.7, 0.8, 0.9, 1.0])))


@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_all_pairs_on_edits_of_edits(seed: int) -> None:
    _, sources, texts = zip(*sorted(varied(seed, 160)), strict=True)
    check(texts, sources, 0.7)


@given(st.integers(1, 40), st.data())
def test_clusters_are_the_connected_components_of_any_graph(count: int, data: st.DataObject) -> None:
    ends = st.integers(0, count - 1)
    edges = data.draw(st.lists(st.tuples(ends, ends), max_size=60))
    assert _roots(count, [Pair(*edge, 1.0) for edge in edges]).tolist() == clusters(count, edges)


def test_order_of_the_rows_has_no_say() -> None:
    rows = varied(0, 600)
    expected = clean(rows)
    assert len(expected) > 50
    for seed in range(5):
        random.Random(seed).shuffle(rows)
        assert clean(rows) == expected


def test_hash_seed_has_no_say() -> None:
    script = (
        "import importlib.util, json, sys\n"
        f"spec = importlib.util.spec_from_file_location('module', {__file__!r})\n"
        "module = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        "print(json.dumps(list(module.clean(module.varied(1, 400)).items())))\n"
    )
    answers = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("0", "12345")
    }
    assert len(answers) == 1
    assert len(json.loads(answers.pop())) > 30


def test_keeper_is_of_the_earliest_source_then_the_smallest() -> None:
    texts = [f"{BASE} {i}" for i in range(4)]
    assert [(d.row, d.twin) for d in dedupe(texts, [2, 1, 2, 1])[0]] == [(0, 1), (2, 1), (3, 1)]
    assert [(d.row, d.twin) for d in dedupe(texts, [1, 1, 1, 0])[0]] == [(0, 3), (1, 3), (2, 3)]
    assert [(d.row, d.twin) for d in dedupe(texts)[0]] == [(1, 0), (2, 0), (3, 0)]


def test_a_chain_ends_with_one_keeper() -> None:
    words = BASE.split()
    texts = [" ".join(["zebra"] * i + words[i:]) for i in range(0, 12)]
    assert naive(texts[0], texts[-1]) < LISTED
    dropped, close = dedupe(texts, threshold=0.75)
    assert [d.row for d in dropped] == list(range(1, 12))
    assert close == []
    by_row = {d.row: d for d in dropped}
    assert by_row[1].twin == 0
    assert by_row[11].twin == 10
    assert all(naive(texts[d.row], texts[d.twin]) == d.similarity >= 0.75 for d in dropped)


def test_pairs_below_the_threshold_are_listed_and_stay() -> None:
    texts = [BASE, BASE.replace("farmer", "teacher").replace("rainy", "sunny"), "what is the capital of france"]
    assert dedupe(texts) == ([], [Pair(0, 1, naive(*texts[:2]))])


@pytest.mark.parametrize("texts", [[], [""], ["", "a"], ["a", "b"], ["yes", "yes!"]])
def test_hardly_any_text(texts: list[str]) -> None:
    assert dedupe(texts) == ([], [])


def test_deduping_again_drops_nothing() -> None:
    rows = varied(2, 800)
    gone = clean(rows)
    kept = [row for row in rows if row[0] not in gone]
    assert gone
    assert clean(kept) == {}


def words_of(rng: random.Random, count: int) -> list[str]:
    return ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(3, 8))) for _ in range(count)]


@pytest.mark.parametrize(
    ("rows", "words", "inserted"), [(3000, 40, 1), (5000, 120, 3)], ids=["one text", "one long template"]
)
def test_a_big_group_collapses_quickly_to_its_keeper(rows: int, words: int, inserted: int) -> None:
    rng = random.Random(0)
    template = " ".join(words_of(rng, words))
    texts = sorted({f"{template} {' '.join(words_of(rng, inserted))}" for _ in range(rows)})
    others = [" ".join(words_of(rng, 12)) for _ in range(500)]
    sources = [1] * len(texts) + [0] * len(others)
    sources[1234] = 0
    began = time.perf_counter()
    dropped, _ = dedupe(texts + others, sources)
    assert time.perf_counter() - began < 10
    assert [d.row for d in dropped] == [row for row in range(len(texts)) if row != 1234]
    assert {d.twin for d in dropped if d.similarity >= 0.9} == {1234}


def test_twins_are_found_among_many_texts_from_one_template() -> None:
    """2,500 texts about 0.7 similar to each other; a true twin must not drown, and no other must be dropped."""
    rng = random.Random(0)
    template, words = " ".join(words_of(rng, 25)), words_of(rng, 4000)
    texts = [f"{template} {' '.join(rng.sample(words, 5))}" for _ in range(2500)]
    twins = [f"{text[:30]}qqqq{text[34:70]}xxxx{text[74:]}" for text in texts[:200]]
    assert all(THRESHOLD < naive(*pair) < 0.9 for pair in zip(texts, twins, strict=False))
    began = time.perf_counter()
    dropped, _ = dedupe(texts + twins)
    assert time.perf_counter() - began < 10
    assert sum(d.row >= 2500 and d.twin == d.row - 2500 for d in dropped) >= 190
    assert all(naive((texts + twins)[d.row], (texts + twins)[d.twin]) == d.similarity >= THRESHOLD for d in dropped)


def real_prompts(shared_data: Path) -> list[str]:
    found = [row["question"] for row in json.loads((shared_data / "harmful" / "STAR-1.json").read_text("utf-8"))]
    lines = (shared_data / "benign" / "coconot_pref.jsonl").read_text("utf-8").splitlines()
    found += [json.loads(line)["prompt"] for line in lines]
    for name, field in (("xstest_prompts.csv", "prompt"), ("strongreject_dataset.csv", "forbidden_prompt")):
        with (shared_data / "eval" / name).open(encoding="utf-8", newline="") as rows:
            found += [row[field] for row in csv.DictReader(rows)]
    return sorted({normalise(text) for text in found})


def test_no_unrelated_short_prompt_is_dropped(shared_data: Path) -> None:
    """Four published sets in one domain: whatever is dropped differs from its twin in hardly more than a word."""
    texts = real_prompts(shared_data)
    check_sample = sorted(random.Random(0).sample(texts, 250))
    check(check_sample, [0] * len(check_sample))
    dropped, close = dedupe(texts)
    for row, twin, similarity in dropped:
        assert similarity == naive(texts[row], texts[twin]) >= THRESHOLD
        different = set(texts[row].split()) ^ set(texts[twin].split())
        assert len(different) <= max(4, len(texts[row].split()) // 4)
    assert len(dropped) < 30
    assert all(LISTED <= pair.similarity < THRESHOLD for pair in close)


def test_a_benign_twin_survives_in_its_own_domain(tmp_path: Path) -> None:
    """The same step, the same prompts: dropped within a domain, kept across two."""
    texts = [f"{BASE} today", f"{BASE} tomorrow", f"{BASE} at night"]
    for name, domains, expected in (
        ("one", ["harmful"] * 3, [1, 2]),
        ("two", ["harmful", "benign", "harmful"], [2]),
        ("three", ["harmful", "benign", "math"], []),
    ):
        assert dropped_by_step(tmp_path / name, texts, domains) == expected


def dropped_by_step(work: Path, texts: list[str], domains: list[str]) -> list[int]:
    origin = [{"dataset": "d"}] * len(texts)
    table = {
        "id": [f"{i:032x}" for i in range(len(texts))],
        "domain": domains,
        "prompt": [[{"role": "user", "content": text}] for text in texts],
        "origin": origin,
        "source": pa.array([0] * len(texts), pa.int32()),
        "text": texts,
    }
    write_table(work / "exact/0.arrow", pa.table(table))
    np.save(work / "exact/0.npy", sketch(texts))
    find_near(work, 1, THRESHOLD)
    near = read_table(work / "near/0.arrow")
    assert all(match["similarity"] >= THRESHOLD for match in near["match"].to_pylist())
    return near["row"].to_pylist()
