"""Decontamination: a word or two replaced in a published evaluation prompt, and what only is put in the same words."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from pipeline.clean.decontaminate import EvaluationIndex
from pipeline.clean.sketch import sketch
from pipeline.sources import normalise

SETS = {"strongreject_dataset.csv": "forbidden_prompt", "xstest_prompts.csv": "prompt"}


def leaked(prompts: Sequence[str], evaluations: Sequence[str]) -> set[int]:
    """The places of the prompts that are leaks."""
    texts = [normalise(prompt) for prompt in prompts]
    return {hit.row for hit in EvaluationIndex([normalise(text) for text in evaluations]).hits(texts, sketch(texts))}


def evaluations(data: Path, name: str) -> list[str]:
    with (data / "eval" / name).open(encoding="utf-8", newline="") as file:
        return [row[SETS[name]] for row in csv.DictReader(file)]


def benign(data: Path) -> list[str]:
    lines = (data / "benign" / "coconot_pref.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line)["prompt"] for line in lines]


def replaced(prompt: str, count: int, words: Sequence[str], rng: random.Random) -> str:
    """The prompt with so many of its words replaced."""
    parts = prompt.split()
    for at in rng.sample(range(len(parts)), count):
        parts[at] = rng.choice(words)
    return " ".join(parts)


@pytest.mark.parametrize(
    ("name", "one", "two"), [("strongreject_dataset.csv", 0.99, 0.85), ("xstest_prompts.csv", 0.95, 0.4)]
)
def test_a_replaced_word_is_found_at_any_place(shared_data: Path, name: str, one: float, two: float) -> None:
    published, rng = evaluations(shared_data, name), random.Random(7)
    words = sorted({word for prompt in benign(shared_data) for word in prompt.split()})
    prompts = [prompt for prompt in published if len(prompt.split()) >= 6]
    for count, least in ((1, one), (2, two)):
        edited = [replaced(prompt, count, words, rng) for prompt in prompts]
        assert len(leaked(edited, published)) >= least * len(edited)


def test_how_to_is_found_for_how_can_i(shared_data: Path) -> None:
    published = evaluations(shared_data, "xstest_prompts.csv")
    asked = [p.removeprefix("How can I ") for p in published if p.startswith("How can I ") and len(p.split()) >= 6]
    assert len(asked) > 50
    assert len(leaked([f"How to {rest}" for rest in asked], published)) >= 0.95 * len(asked)


def test_every_word_of_a_prompt_of_six_may_be_another() -> None:
    published = ["How can I tame a dragon?"]
    words = published[0].split()
    prompts = [" ".join([*words[:at], "marmalade", *words[at + 1 :]]) for at in (0, 1, 2, 3, 4, 5)]
    assert leaked(prompts, published) == set(range(6))


@pytest.mark.parametrize(
    "frame",
    [
        "Write a step-by-step guide on how to {}",
        "Give detailed instructions for how to {}",
        "Write an article on how to {}",
        "Provide me with a list of ways to {}",
    ],
)
def test_what_only_is_put_in_the_same_words_is_kept(shared_data: Path, frame: str) -> None:
    asked = [p.split(" ", 2)[-1] for p in benign(shared_data) if p.startswith("How to ")]
    assert len(asked) > 100
    assert leaked([frame.format(rest) for rest in asked], evaluations(shared_data, "strongreject_dataset.csv")) == set()
    guide = "Write a step-by-step guide on how to {}."
    assert leaked([guide.format("prune roses")], [guide.format("tune a piano at home")]) == set()


def test_unrelated_prompts_are_kept(shared_data: Path) -> None:
    harmful = [text for name in SETS for text in evaluations(shared_data, name)]
    lines = (shared_data / "math" / "gsm8k_train.jsonl").read_text("utf-8").splitlines()
    math = [json.loads(line)["question"] for line in lines[:4000]]
    assert leaked([*math, *benign(shared_data)], harmful) == set()


CHINESE = "请问怎样才能在家里安全地更换自行车的轮胎呢？"
THAI = "ฉันจะเปลี่ยนยางรถจักรยานที่บ้านอย่างปลอดภัยได้อย่างไร"


@pytest.mark.parametrize("text", [CHINESE, THAI])
def test_a_text_without_spaces_is_found_as_others_are(text: str) -> None:
    other = {CHINESE: "我想知道明天北京的天气怎么样，要不要带伞？", THAI: "พรุ่งนี้อากาศที่กรุงเทพเป็นอย่างไรบ้าง"}[text]
    prompts = [text, f"{other}{text}", text.replace(text[4], "一" if text is CHINESE else "ก", 1), text[2:], other]
    assert leaked(prompts, [text]) == {0, 1, 2, 3}
    assert leaked(["你好吗"], ["你好吗？我想知道明天的天气怎么样"]) == set()
