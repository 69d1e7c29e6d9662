"""What is read off a prompt: natural fragments on ordinary prompts, harmless ones on any text at all."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.samplers.grounding import Grounding, ground
from pipeline.thinking import control_token, sentence_ends

_MARKUP = re.compile(r"[\"“”«»<>\[\]{}()`*#|\\\n\r\t]|https?:|\s\s")


def _assert_fragments_are_usable(grounding: Grounding) -> None:
    for name, fragment in grounding._asdict().items():
        assert fragment or name == "category"
        assert fragment == fragment.strip()
        assert len(fragment.split()) <= 24
        assert not _MARKUP.search(fragment), fragment
        assert not sentence_ends(fragment), fragment
        assert control_token(fragment) is None
        assert fragment.isprintable()


@pytest.mark.parametrize(
    ("prompt", "asks", "topic"),
    [
        ("How do I fix my bike?", "how to fix their bike", "fixing their bike"),
        ("Can you please tell me how to wake my cat?", "how to wake their cat", "waking their cat"),
        ("What are some ways to cook rice?", "about some ways to cook rice", "some ways to cook rice"),
        ("Write me a poem about the sea.", "me to write a poem about the sea", "writing a poem about the sea"),
        ("Give me a list of birds.", "for a list of birds", "a list of birds"),
        ("Can I fish in this lake?", "whether they can fish in this lake", "whether they can fish in this lake"),
        ("Where can I buy yeast?", "where they can buy yeast", "where they can buy yeast"),
        ("How does a clock work?", "how a clock works", "how a clock works"),
        ("I need help with painting my wall", "for help with painting their wall", "painting their wall"),
        ("TEA BEATS COFFEE, IT IS BETTER!", "about the idea that tea beats coffee, it is better", None),
        ("Oven's broken, how can we bake bread?", "how to bake bread", "baking bread"),
    ],
)
def test_ordinary_prompts_give_grammatical_fragments(prompt: str, asks: str, topic: str | None) -> None:
    found = ground(prompt, None)
    assert found.asks == asks
    assert topic in {found.topic, None}


def test_the_sentence_that_asks_is_found_in_a_story() -> None:
    prompt = "My neighbour moved away last week. She left her plants here. How do I water an orchid? Thanks a lot!"
    assert ground(prompt, None).action == "water an orchid"


def test_long_requests_are_cut_at_whole_words() -> None:
    prompt = "How do I build a wooden shelf for the books of my grandmother " + "that she bought in spring " * 40
    found = ground(prompt, None)
    assert len(found.topic.split()) <= 10
    assert set(found.action.split()) <= set(prompt.replace("my", "their").split())


@pytest.mark.parametrize(
    "prompt", ["", " \n\t", "?!", "🙂🙂🙂", "如何烤面包", "Как испечь хлеб дома без печи?", "{[()]}=>;;"]
)
def test_a_prompt_that_gives_nothing_is_called_this_request(prompt: str) -> None:
    assert ground(prompt, None).topic == "this request"


def test_the_category_becomes_a_phrase() -> None:
    assert ground("x", "Illicit / Criminal Behavior").category == "illicit or criminal behavior"
    assert ground("x", "child_safety & health").category == "child safety and health"
    assert ground("x", None).category == ""
    assert ground("x", "<|im_start|>").category == ""


@pytest.mark.parametrize(
    "tag", ["</think>", "<|im_end|>", "<\uff5cAssistant\uff5c>", "[INST]", "</s>", "<start_of_turn>"]
)
def test_no_fragment_carries_a_control_token(tag: str) -> None:
    for prompt in (f"How do I bake {tag} bread?", f"{tag}How do I bake bread?", f"Tell me about {tag}", tag):
        _assert_fragments_are_usable(ground(prompt, tag))


def test_every_shared_prompt_is_usable_and_few_fall_back(shared_data: Path) -> None:
    harmful = json.loads((shared_data / "harmful" / "STAR-1.json").read_text(encoding="utf-8"))
    benign = (shared_data / "benign" / "coconot_pref.jsonl").read_text(encoding="utf-8").splitlines()
    found = [ground(row["question"], None) for row in harmful] + [
        ground(json.loads(row)["prompt"], None) for row in benign
    ]
    for grounding in found:
        _assert_fragments_are_usable(grounding)
    assert sum(grounding.topic == "this request" for grounding in found) < 0.02 * len(found)


def test_a_prompt_of_a_megabyte_is_read_quickly() -> None:
    for unit in ("How do I bake bread? ", "(", "a" * 50 + " ", "<a", "[x](", "how to ", "word, ", "``` "):
        began = time.perf_counter()
        _assert_fragments_are_usable(ground(unit * (1_000_000 // len(unit)), None))
        assert time.perf_counter() - began < 1


@given(st.text(max_size=300), st.none() | st.text(max_size=60))
def test_any_text_gives_usable_fragments(prompt: str, category: str | None) -> None:
    _assert_fragments_are_usable(ground(prompt, category))


_QUESTIONS = st.sampled_from(["how do I", "can you", "what is", "how can", "I want to", "write me", "why are", "does"])
_WORDS = st.sampled_from(["my", "you", "it", "a", "the", "bake", "bread", "e.g.", "3.5", "U.S.", "J.D.", "bread's"])
_NOISE = st.sampled_from(["?", ". ", "\n", "<|im_end|>", "</think>", "'", '"', "(", "]", "http://a.b/c", "\u3002", "-"])


@given(st.lists(_QUESTIONS | _WORDS | _NOISE, max_size=14), st.sampled_from([" ", ""]))
def test_any_mix_of_questions_and_noise_gives_usable_fragments(pieces: list[str], between: str) -> None:
    _assert_fragments_are_usable(ground(between.join(pieces), None))
