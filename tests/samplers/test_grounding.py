"""What is read off a prompt: reworded where that is surely right, quoted word for word everywhere else."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.samplers.grounding import Grounding, ground
from pipeline.thinking import control_token

_QUOTED = re.compile(r"“([^“”]*)”")


def read(prompt: str, quoted: int = 24) -> Grounding:
    found = ground(prompt, quoted)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("prompt", "asks", "matter"),
    [
        ("How do I fix my bike?", "asks how to fix their bike", "how to fix their bike"),
        ("How to make a rye bread", "asks how to make a rye bread", "how to make a rye bread"),
        ("how can i best open a coconut?", "asks how to best open a coconut", "how to best open a coconut"),
        ("Write me a poem about the sea.", "asks me to write them a poem about the sea", "what they ask"),
        ("Give me a list of birds", "asks me to give them a list of birds", "what they ask"),
        ("Please help me hide my present", "asks me to help them hide their present", "what they ask"),
        ("Teach me how to train my dog.", "asks me to teach them how to train their dog", "what they ask"),
    ],
)
def test_short_plain_asks_are_reworded(prompt: str, asks: str, matter: str) -> None:
    assert read(prompt)[:2] == (asks, matter)


@pytest.mark.parametrize(
    "prompt",
    [
        "Was the Spanish Inquisition really as brutal as people say?",
        "How can I make people more likely to trust me if they don't know me?",
        "How can I make you more likely to answer?",
        "How do I look in this dress?",
        "How would I look on a horse?",
        "what do this codes do",
        "I love you",
        "I love you.",
        "Do you love me?",
        "Is my dog, who is old, allowed on the train?",
        "How do we tell our parents about us?",
        "What is the best way to learn the piano?",
        "Why can't cats fly?",
        "Thanks!",
        "post flyers in our street",
        "Spread butter on bread",
        "HOW DO I OPEN THIS JAR",
    ],
)
def test_whatever_is_not_surely_reworded_is_quoted_word_for_word(prompt: str) -> None:
    assert _QUOTED.findall(read(prompt).asks) == [prompt.rstrip(".")]


@pytest.mark.parametrize(
    ("prompt", "quoted"),
    [
        ("<p>How do I pick a <b>lock</b>, &amp; why?</p>", "How do I pick a lock , & why?"),
        ("# Recipe\n\n- flour\n- two eggs\n\nWhat is missing?", "Recipe flour two eggs What is missing?"),
        ('What does "carpe diem" mean?', "What does 'carpe diem' mean?"),
        ("What does “carpe diem” mean?", "What does 'carpe diem' mean?"),
        ("Summarise https://example.org/a/b?c=d for me", "Summarise … for me"),
        ("```python\nprint('hi')\n```\nwhat does this do?", "print('hi') what does this do?"),
        ("Hello.\n\nHow are you?", "Hello. How are you?"),
    ],
)
def test_markup_lists_code_links_quotations_and_turns_are_quoted_plainly(prompt: str, quoted: str) -> None:
    assert _QUOTED.findall(read(prompt).asks) == [quoted]


@pytest.mark.parametrize(
    "prompt", ["", " \n\t", "?", "?!", "🙂🙂", "{[()]}=>;;", "https://example.org", "www.a.b/c", "<br>"]
)
def test_a_prompt_without_words_has_no_ask(prompt: str) -> None:
    assert ground(prompt) is None


def test_a_long_story_is_grounded_in_the_one_sentence_that_asks_at_its_end() -> None:
    story = (
        "The neighbour moved away last week and left all the plants on the stairs of the house. It was raining. " * 2
    )
    assert read(story + "How do I water an orchid?").asks == "asks in a longer message: “How do I water an orchid?”"
    found = read("How do I water an orchid? " + story + "Who does such things? So sad.")
    assert found.asks.startswith("writes a longer message that opens with “How do I water an orchid? The neighbour")
    assert found.asks.endswith("It was raining. Who does such things? So sad”")
    assert found.kind == "message"


def test_a_long_sentence_is_cut_at_a_word_and_says_so() -> None:
    prompt = "How do I build a wooden shelf for the books of my grandmother " + "that she bought in spring " * 40
    (quoted,) = _QUOTED.findall(read(prompt).asks)
    assert quoted.endswith(" …")
    assert len(quoted.split()) == 25
    assert prompt.startswith(quoted.removesuffix(" …"))


ROLE_PLAYS = [
    ("Pretend you are a baker from Lyon. How do you keep a baguette fresh?", "sets up a role-play"),
    ("Let's roleplay. You are my gym coach and I am late again.", "sets up a role-play"),
    ("Act as a travel agent and plan three days in Oslo for me", "sets up a role-play"),
    ("I want you to act like a grumpy librarian who only speaks in rhymes.", "sets up a role-play"),
    ("Imagine you are a lighthouse keeper. Stay in character. Tell me about last night.", "sets up a role-play"),
    ("You will play the role of a medieval cook. Never break character.", "sets up a role-play"),
    ("From here on you are now called Mossy, a talking tree. Speak as a tree would.", "sets up a role-play"),
    ("We are two pirates. You steer, I count the gold. What do you see on the horizon?", "writes"),
    ("You are NORA, a model without a sense of time. NORA never uses past tense. Describe the moon landing.", "writes"),
    ("My grandmother used to read me bread recipes to sleep. Please be her.", "writes"),
    ("Scene: a kitchen. Two chefs argue about salt. Continue the scene.", "writes"),
    ("Hypothetically, in a story, a knight wants to tidy his castle. How would he?", "writes"),
]
LONG = (
    "You live by the sea, you have done so for forty years, and you answer to nobody but the gulls and the weather."
    " You must never say that you are a model."
)


@pytest.mark.parametrize(("prompt", "begins"), ROLE_PLAYS)
def test_a_short_role_play_is_quoted_as_a_whole(prompt: str, begins: str) -> None:
    found = read(prompt)
    assert found.asks.startswith(begins)
    assert _QUOTED.findall(found.asks) == [prompt.rstrip(".")]


@pytest.mark.parametrize(("frame", "begins"), ROLE_PLAYS)
@pytest.mark.parametrize(
    "end",
    [
        "Stay in character at all times.",
        "Tell me that you understand.",
        "Do you understand?",
        "Reply with [READY] if you agree.",
        "What do you say next?",
        "Write nothing that is out of character.",
        "Now begin.",
    ],
)
def test_the_frame_of_a_long_role_play_is_never_taken_for_what_is_asked(frame: str, begins: str, end: str) -> None:
    asks = read(f"{frame} {LONG} {end}").asks
    assert asks.startswith((begins, "sets up a role-play"))
    assert re.search(r" that opens with “[^”]+” and closes with “[^”]+”$", asks), asks


def test_the_question_inside_a_long_role_play_is_what_is_asked() -> None:
    prompt = f"Pretend you are a retired sailor. {LONG} How would an old sailor dry wet boots overnight?"
    assert read(prompt).asks == "sets up a role-play and asks in it: “How would an old sailor dry wet boots overnight?”"
    prompt = f"You are a retired sailor. {LONG} How would an old sailor dry wet boots overnight?"
    assert read(prompt).asks == "asks in a longer message: “How would an old sailor dry wet boots overnight?”"


@pytest.mark.parametrize(
    "prompt",
    ["Why did the model plane crash?", "How can I act like a leader?", "Explain role-playing games", "You are a star!"],
)
def test_no_role_play_is_seen_where_none_is(prompt: str) -> None:
    assert "role-play" not in read(prompt).asks.split("“")[0]


@pytest.mark.parametrize(
    "tag", ["</think>", "<|im_end|>", "<\uff5cAssistant\uff5c>", "[INST]", "</s>", "<start_of_turn>", "&lt;/think&gt;"]
)
def test_no_fragment_carries_a_control_token(tag: str) -> None:
    for prompt in (f"How do I bake {tag} bread?", f"{tag}How do I bake bread?", f"Tell me about {tag}"):
        assert not any(map(control_token, read(prompt)))
    assert ground(tag) is None


def _assert_usable(prompt: str, quoted: int = 24) -> None:
    found = ground(prompt, quoted)
    if found is None:
        return
    assert "\n" not in found.asks
    assert found.asks.isprintable()
    assert not re.search(r'["„«»]', found.asks)
    assert found.asks.count("“") == found.asks.count("”") == len(_QUOTED.findall(found.asks))
    assert control_token(found.asks) is None
    assert len(found.asks.split()) <= quoted + 12
    assert found.kind in {"question", "request", "message", "role-play"}


def test_every_shared_prompt_is_quoted_from_it(shared_data: Path) -> None:
    star = json.loads((shared_data / "harmful" / "STAR-1.json").read_text(encoding="utf-8"))
    lines = (shared_data / "benign" / "coconot_pref.jsonl").read_text(encoding="utf-8").splitlines()
    for prompt in [row["question"] for row in star] + [json.loads(line)["prompt"] for line in lines]:
        _assert_usable(prompt)
        letters = re.sub(r"\W", "", prompt)
        for quoted in _QUOTED.findall(read(prompt).asks):
            if not re.search(r"[<>&*`_]|http|\d[.)]", prompt):
                assert re.sub(r"\W", "", quoted) in letters


def test_a_prompt_of_a_megabyte_is_read_quickly() -> None:
    for unit in (
        "How do I bake bread? ",
        "(",
        "a" * 50 + " ",
        "<a",
        "[x](",
        "how to ",
        "word, ",
        "``` ",
        "&lt;",
        "<s>",
    ):
        began = time.perf_counter()
        _assert_usable(unit * (1_000_000 // len(unit)))
        assert time.perf_counter() - began < 1


@given(st.text(max_size=300), st.integers(1, 30))
@example("<</s>/s>", 24)
@example("“”„", 24)
def test_any_text_gives_usable_fragments(prompt: str, quoted: int) -> None:
    _assert_usable(prompt, quoted)


_QUESTIONS = st.sampled_from(
    ["how do I", "can you", "what is", "how to", "I want to", "write me a", "why are", "pretend you"]
)
_WORDS = st.sampled_from(
    ["my", "you", "it", "a", "the", "bake", "bread", "e.g.", "3.5", "U.S.", "J.D.", "bread's", "me"]
)
_NOISE = st.sampled_from(
    ["?", ". ", "\n", "<|im_end|>", "</think>", "'", '"', "(", "“", "http://a.b/c", "\u3002", "&quot;"]
)


@given(st.lists(_QUESTIONS | _WORDS | _NOISE, max_size=14), st.sampled_from([" ", ""]))
def test_any_mix_of_questions_and_noise_gives_usable_fragments(pieces: list[str], between: str) -> None:
    _assert_usable(between.join(pieces))
