"""Decontamination: planted leaks of each kind are found, what only shares common phrases is not."""

from __future__ import annotations

import csv
import json
import random
import time
import tracemalloc
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.clean.decontaminate import SIMILAR, EvaluationIndex, Hit
from pipeline.clean.sketch import sketch
from pipeline.sources import normalise

LONG = (
    "The treasurer of a chess club orders nine wooden boards and fourteen clocks for the spring tournament. "
    "Each board costs twenty euros and each clock costs thirty. How much does the club have to pay in total?"
)
TWELVE = "Why does the moon look larger near the horizon than high above?"
SEVEN = "Which metals melt below two hundred degrees?"
FOUR = "Explain photosynthesis to children."
THREE = "Define entropy briefly."
EVALUATIONS = [LONG, TWELVE, SEVEN, FOUR, THREE, "", "?!"]


def hits(prompts: Sequence[str], evaluations: Sequence[str] = EVALUATIONS, coverage: float = 0.5) -> list[Hit]:
    texts = [normalise(prompt) for prompt in prompts]
    index = EvaluationIndex([normalise(text) for text in evaluations], coverage)
    return index.hits(texts, sketch(texts))


def naive(one: str, other: str) -> float:
    sides = [{text[i : i + 5] for i in range(len(text) - 4)} or {text} for text in map(normalise, (one, other))]
    return len(sides[0] & sides[1]) / len(sides[0] | sides[1])


@pytest.mark.parametrize("evaluation", range(5))
@pytest.mark.parametrize(
    "variant",
    [
        lambda text: text,
        str.upper,
        lambda text: "\n\t" + text.replace(" ", " \u00a0 \n") + "  ",
        lambda text: text.replace("?", "").replace(".", "!!") + "\u2026",
        lambda text: text.replace(" ", ", ").replace("e", "\uff45"),
    ],
    ids=["as is", "case", "white space", "punctuation", "commas and wide letters"],
)
def test_the_same_words_are_found(evaluation: int, variant: type[str]) -> None:
    assert hits([variant(EVALUATIONS[evaluation])]) == [Hit(0, evaluation, "exact", 1.0)]


@pytest.mark.parametrize(
    ("prompt", "evaluation", "how"),
    [
        (f"Answer as a pirate would, at length and with jokes: {LONG} Thanks a lot!", 0, "n-grams"),
        (f"Take a deep breath. {TWELVE} Give three reasons, and cite a source for each of them.", 1, "n-grams"),
        (f"I was asked this at school today and had no idea: {SEVEN.lower()} Please help me out.", 2, "contained"),
        (f"{FOUR} Then draw a picture of it and tell a long story about the forest it is in.", 3, "contained"),
        ("Each board costs twenty euros and each clock costs thirty.", 0, "n-grams"),
        ("fourteen clocks for the spring tournament", 0, "contained"),
        ("How much does the club", 0, "contained"),
    ],
)
def test_parts_are_found_both_ways(prompt: str, evaluation: int, how: str) -> None:
    assert hits([prompt]) == [Hit(0, evaluation, how, 1.0)]


def test_half_of_the_8_grams_is_enough() -> None:
    words = normalise(LONG).split()
    grams = len(words) - 7
    half, less = -(-grams // 2), -(-grams // 2) - 1
    filler = "but nobody in this quiet little town has ever written down what became of them all since then " * 4
    for shared, found in ((half, True), (less, False)):
        prompt = f"{' '.join(words[: shared + 7])} {filler}"
        expected = [Hit(0, 0, "n-grams", shared / grams)] if found else []
        assert hits([prompt]) == expected
        assert bool(hits([prompt], coverage=shared / grams)) is True
        assert hits([prompt], coverage=1.0) == []


@pytest.mark.parametrize("at", range(12))
def test_one_changed_word_of_twelve_is_found(at: int) -> None:
    words = TWELVE.split()
    words[at] = "cat"
    (hit,) = hits([" ".join(words)])
    assert (hit.evaluation, hit.how) in {(1, "near"), (1, "n-grams")}
    if hit.how == "near":
        assert hit.similarity == naive(TWELVE, " ".join(words)) >= SIMILAR


@pytest.mark.parametrize("prompt", [SEVEN.replace("two", "six"), FOUR.replace("Explain", "Explains")])
def test_one_changed_word_of_few_is_found(prompt: str) -> None:
    (hit,) = hits([prompt])
    assert hit.how == "near"
    assert hit.similarity == naive(prompt, EVALUATIONS[hit.evaluation]) >= SIMILAR


@pytest.mark.parametrize(
    "prompt",
    [
        "Tom has nine marbles and loses four of them. How many marbles does he have now?",
        "A baker sells thirty rolls. How much does the baker have in the till after that?",
        "Why does the moon have phases, and why do we always see the same side of it?",
        "Please define entropy briefly. Then explain at length what it has to do with the arrow of time.",
        "Define the word serendipity.",
        "Explain photosynthesis.",
        "",
        "?!",
        "...",
        "\U0001f600\U0001f600\U0001f600\U0001f600",
    ],
)
def test_what_only_shares_phrases_is_not_found(prompt: str) -> None:
    common = ["Ann has six pens. How many pens does he have?", "How much does she have in total after that?"]
    assert hits([prompt], [*EVALUATIONS[:5], *common]) == []


def test_short_evaluation_texts_count_as_a_whole_only() -> None:
    assert hits(["entropy define briefly", "define entropy", "Define entropy: briefly"]) == [Hit(2, 4, "exact", 1.0)]


@pytest.mark.parametrize(
    "text",
    [
        "Wie heißt die größte Stadt Österreichs, und weshalb wächst sie so schnell?",
        "\u043a\u0430\u043a \u0440\u0430\u0431\u043e\u0442\u0430\u0435\u0442 \u0441\u0432\u0435\u0442?",
        "\u5149\u5408\u4f5c\u7528\u662f\u5982\u4f55\u5de5\u4f5c\u7684\uff1f",
        "\U00020000\U00020001 \U00020002\U00020003 \U00010330\U00010331 \U00010332",
    ],
    ids=["German", "Russian", "Chinese", "beyond the basic plane"],
)
def test_any_script(text: str) -> None:
    assert hits([text.upper() + " !"], ["", "something else entirely", text]) == [Hit(0, 2, "exact", 1.0)]


@given(st.lists(st.text(max_size=30), max_size=5), st.lists(st.text(max_size=30), max_size=5))
@settings(deadline=None)
def test_any_text_leaks_from_a_set_that_holds_it(prompts: list[str], evaluations: list[str]) -> None:
    found = {hit.row: hit for hit in hits(prompts, evaluations + prompts)}
    for row, prompt in enumerate(prompts):
        words = "".join(c if c.isalnum() else " " for c in normalise(prompt)).split()
        assert row in found
        assert found[row].similarity == 1
        assert not words or found[row].how == "exact"


def test_nothing_to_compare_with() -> None:
    assert hits([LONG, ""], []) == []
    assert hits([], EVALUATIONS) == []
    assert hits([LONG, "cats"], ["", "?"]) == []


def test_the_most_similar_text_is_named() -> None:
    changed = LONG.replace("nine", "ten").replace("thirty", "forty")
    assert hits([LONG], [changed, FOUR, LONG, LONG]) == [Hit(0, 2, "exact", 1.0)]
    (hit,) = hits([LONG.replace("nine", "ten")], [LONG, changed, f"Solve: {LONG.replace('nine', 'ten')}"])
    assert (hit.evaluation, hit.how, hit.similarity) == (2, "n-grams", 1.0)


def mixed(count: int) -> list[str]:
    rng = random.Random(0)
    kinds = [
        LONG,
        TWELVE,
        SEVEN,
        FOUR,
        f"Well now. {TWELVE} And why?",
        f"I wonder: {SEVEN} Tell me now, and do not be shy.",
        LONG[:120],
        TWELVE.replace("moon", "sun"),
    ]
    colours = ["red", "blue", "green", "black", "white", "pink"]
    fillers = [" ".join(rng.choices(colours, k=9)) for _ in range(count)]
    return [rng.choice(kinds) if rng.random() < 0.3 else filler for filler in fillers]


def test_any_split_into_batches_gives_the_same() -> None:
    texts = [normalise(text) for text in mixed(2500)]
    index, sketches = EvaluationIndex([normalise(text) for text in EVALUATIONS]), sketch(texts)
    whole = index.hits(texts, sketches)
    assert {hit.how for hit in whole} == {"exact", "contained", "n-grams", "near"}
    cuts = [0, 1, 2, 700, 1025, 1026, 2500]
    parts = [
        hit._replace(row=hit.row + start)
        for start, stop in pairwise(cuts)
        for hit in index.hits(texts[start:stop], sketches[start:stop])
    ]
    assert parts == whole


def test_long_texts_do_not_fill_the_memory() -> None:
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=6)) for _ in range(3000)]
    long = [" ".join(rng.choices(words, k=2900)) for _ in range(12)]
    prompts = [" ".join(rng.choices(words, k=10)) for _ in range(2000)]
    prompts[100:100] = [f"{long[0]} {LONG}", *long[:8]]
    index = EvaluationIndex([*map(normalise, EVALUATIONS), *long[4:]])
    sketches = sketch(prompts)
    tracemalloc.start()
    began = time.perf_counter()
    found = index.hits([normalise(text) for text in prompts], sketches)
    assert time.perf_counter() - began < 5
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [(hit.row, hit.how) for hit in found] == [(100, "n-grams"), *((row, "exact") for row in range(105, 109))]
    assert peak < 128 << 20


def lines(path: Path, field: str) -> list[str]:
    return [json.loads(line)[field] for line in path.read_text("utf-8").splitlines()]


def column(path: Path, field: str) -> list[str]:
    with path.open(encoding="utf-8", newline="") as rows:
        return [row[field] for row in csv.DictReader(rows)]


def test_gsm8k_train_against_test_gives_the_few_real_twins(shared_data: Path) -> None:
    train = lines(shared_data / "math" / "gsm8k_train.jsonl", "question")
    test = lines(shared_data / "eval" / "gsm8k_test.jsonl", "question")
    found = hits(train, test)
    assert [hit.how for hit in found] == ["near"] * 3
    assert all(hit.similarity == naive(train[hit.row], test[hit.evaluation]) for hit in found if hit.how == "near")
    again = hits([*train[:500], *(f"Hello. {text}" for text in test)], test)
    assert {hit.row for hit in again} >= set(range(500, 500 + len(test)))


def test_harmful_training_prompts_against_harmful_evaluations(shared_data: Path) -> None:
    rows = json.loads((shared_data / "harmful" / "STAR-1.json").read_text("utf-8"))
    prompts = [row["question"] for row in rows]
    evaluations = column(shared_data / "eval" / "strongreject_dataset.csv", "forbidden_prompt")
    evaluations += column(shared_data / "eval" / "xstest_prompts.csv", "prompt")
    found = hits(prompts, evaluations)
    assert found == []
    assert [(h.how, h.similarity) for h in hits(evaluations, evaluations)] == [("exact", 1.0)] * len(evaluations)
