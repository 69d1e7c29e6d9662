"""The first rule that fails names the reason."""

from __future__ import annotations

import pytest

from pipeline import filters
from pipeline.filters import reject_text
from pipeline.thinking import Prefix, cut_prefix

STEERING = ["Weigh every request for what could go wrong, and then say no in a friendly way."]


def reject(text: str, **known: object) -> str | None:
    return reject_text(cut_prefix(text, 500), 20, **known)  # type: ignore[arg-type]


def test_a_good_prefill_passes_all_rules(thoughts: dict[str, str], asked: dict[str, list[str]]) -> None:
    for language in ("en", "de", "ru"):
        for prompt in asked[language]:
            assert reject(thoughts[language], prompt=prompt, steering=STEERING, answer="Sure, here is how.") is None


def test_each_rule_has_its_reason(thoughts: dict[str, str], asked: dict[str, list[str]]) -> None:
    text, prompt = thoughts["en"], asked["en"][0]
    reasons = {
        filters.TOO_SHORT: reject("Hm."),
        filters.CONTROL_TOKEN: reject(f"</think> {text}"),
        filters.ANSWER_HEAD: reject(f"{text}\n\n**Final Answer**\nWater it."),
        filters.ANSWER_WORDS: reject(text, answer=text[:200]),
        filters.STEERING_WORDS: reject(f"{text} Weigh every request for what could go wrong.", steering=STEERING),
        filters.STEERING_TALK: reject(f"{text} The system prompt is clear.", steering=STEERING),
        filters.LOOPS: reject(text + " Wait, no." * 60, prompt=prompt),
        filters.FOREIGN_LANGUAGE: reject(thoughts["de"], prompt=prompt),
        filters.FOREIGN_SCRIPT: reject(f"{text} {thoughts['zh']}", prompt=prompt),
    }
    assert all(expected == got for expected, got in reasons.items()), reasons


def test_what_is_not_known_is_not_judged(thoughts: dict[str, str], asked: dict[str, list[str]]) -> None:
    assert reject_text(Prefix(thoughts["de"], 100, True), 50) is None
    assert reject(f"{thoughts['en']} The system prompt is clear.", prompt=asked["en"][0]) is None
    assert reject(thoughts["de"], prompt=asked["en"][0], language=False) is None


@pytest.mark.parametrize("name", [name for name in filters.__all__ if name.isupper()])
def test_a_reason_is_a_short_constant(name: str) -> None:
    assert 5 < len(getattr(filters, name)) < 60
