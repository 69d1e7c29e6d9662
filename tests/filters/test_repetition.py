"""Loops of all kinds, and what only looks like one."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.filters.repetition import LOOPS, loops, repeated_share

SENTENCES = [
    "I should say that I can't help with this.",
    "The user wants a list.",
    "Wait, let me think about that once more before I go on and write anything down.",
    "No.",
    "Also das geht so nicht.",
    "我不能回答这个问题。",
]


WORDS = ["so", "the", "answer", "must", "be", "that", "one", "can", "say", "which", "of", "these", "it", "is", "after"]


def period_of(kind: str, rng: random.Random) -> str:
    """What such a loop says once, ``#`` for a number that counts."""
    match kind:
        case "token":
            return rng.choice(["the ", "no ", "refuse ", "I ", "wait, "])
        case "letters":
            return rng.choice(["ha", "a", "abc", "!", "?!", "—", "哈"])
        case "words":
            return " ".join(rng.sample(WORDS, rng.randint(2, 12))) + " "
        case "sentences":
            return " ".join(rng.sample(SENTENCES, 2)) + " "
    sentence = rng.choice(SENTENCES)
    return {"lines": f"{sentence}\n", "counted": f"#. {sentence}\n", "steps": f"Step #: {sentence} "}.get(
        kind, f"{sentence} "
    )


def loop_of(kind: str, characters: int, rng: random.Random) -> str:
    """A loop of about so many characters, or of three times its period, cut as a prefill is: between words."""
    period = period_of(kind, rng)
    times = max(3, characters // len(period) + 1)
    loop = "".join(period.replace("#", str(number)) for number in range(1, times + 1))
    head = loop[: max(characters, 3 * len(period))]
    return head.rpartition(" ")[0] if " " in head else head


KINDS = ["token", "letters", "words", "sentence", "sentences", "lines", "counted", "steps"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("at", ["start", "middle", "end"])
def test_a_loop_of_a_third_of_the_text_is_found(kind: str, at: str, thoughts: dict[str, str]) -> None:
    rng = random.Random(f"{kind} {at}")
    for language in ("en", "de", "fr", "ru", "tr"):
        sane = thoughts[language]
        loop = loop_of(kind, round(len(sane) * 0.3 / 0.7) + 10, rng)
        place = {"start": 0, "middle": sane.index(" ", len(sane) // 2), "end": len(sane)}[at]
        text = f"{sane[:place]} {loop} {sane[place:]}"
        assert loops(text) == LOOPS, (language, loop[:60], repeated_share(text))


@pytest.mark.parametrize("kind", ["token", "words", "sentence", "lines", "counted"])
def test_a_short_loop_at_the_end_is_found(kind: str, thoughts: dict[str, str]) -> None:
    sane = " ".join(thoughts[language] for language in ("en", "de", "fr"))
    assert loops(sane) is None
    assert loops(f"{sane} {loop_of(kind, 300, random.Random(kind))}") == LOOPS


def test_a_paragraph_written_twice_is_found(thoughts: dict[str, str]) -> None:
    assert loops(f"{thoughts['en']}\n\n{thoughts['en']}") == LOOPS


def test_sentences_that_come_again_between_others_are_found(thoughts: dict[str, str]) -> None:
    again = " ".join(f"{sentence}. I have to be careful with this one." for sentence in thoughts["en"].split(". "))
    assert loops(again) == LOOPS


@pytest.mark.parametrize(
    "text",
    [
        "Okay, so the user asks about knots. Okay, the user wants a list. Okay. Let me think. Okay, the user may be "
        "new to this, so the user needs pictures. Okay, the user will be fine with five of them, I guess. Okay.",
        "- The user wants the length of the rope.\n- The user wants the price of the rope.\n"
        "- The user wants a colour.\n- The user may want it soon.\n- The user may want it shipped.\n"
        "- The user has not said where they live.",
        "1. Soak the beans.\n2. Drain the beans.\n3. Rinse the beans.\n4. Boil the beans.\n5. Salt the beans.\n"
        "6. Serve the beans.\n7. Freeze the rest of the beans for another day, if there are any left.",
        "No, no, no, that can't be right. Very, very, very unlikely. Let me count once more: one, two, three, four.",
        "| a | b |\n|---|---|\n| 1 | 2 |\n| 3 | 4 |\nSo the table has two columns and two rows, which they want.",
        "2 + 2 = 4, 4 + 4 = 8, 8 + 8 = 16, 16 + 16 = 32, 32 + 32 = 64, and 64 + 64 = 128. That was the last one.",
        "",
        "Hm.",
    ],
)
def test_what_comes_back_without_a_loop_passes(text: str) -> None:
    assert loops(text) is None


def test_the_prompt_may_be_quoted(thoughts: dict[str, str]) -> None:
    prompt = " ".join(thoughts["de"].split()[:50])
    text = f"{thoughts['en']} They wrote: {prompt} Let me read it again: {prompt} What is meant?"
    assert loops(text) == LOOPS
    assert loops(text, prompt) is None


def test_template_prefills_pass(templated: list[tuple[str, str]]) -> None:
    assert not [prompt for prompt, text in templated if loops(text, prompt)]


def test_real_thoughts_pass(real: list[tuple[str, str]]) -> None:
    assert not [prompt for prompt, text in real if loops(text, prompt)]


@given(st.text(), st.text())
def test_the_share_is_one(text: str, prompt: str) -> None:
    assert 0 <= repeated_share(text, prompt) <= 1


@given(st.text(min_size=1, max_size=20).filter(lambda unit: any(map(str.isalpha, unit))), st.integers(40, 90))
def test_any_unit_over_and_over_is_a_loop(unit: str, times: int) -> None:
    assert loops(f"{unit} " * times) == LOOPS
