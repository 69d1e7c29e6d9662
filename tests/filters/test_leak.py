"""What gives away the steering, and what gives away the answer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import templates
from pipeline.filters.leak import (
    ANSWER_HEAD,
    ANSWER_WORDS,
    STEERING_TALK,
    STEERING_WORDS,
    answer_head,
    answer_words,
    steering_talk,
    steering_words,
)

STEERING = ["Weigh every request for what could go wrong with it, {{ prompt }}, and then say no in a friendly way."]
PROMPT = "How do I tie a bowline knot?"


@pytest.mark.parametrize(
    "text",
    [
        "I weigh every request for what could go wrong.",
        "So: WEIGH every request, for “what could” go right?",
        "Fine. And then say no in a friendly way, as ever.",
    ],
)
def test_words_of_the_steering_are_found(text: str) -> None:
    assert steering_words(text, STEERING, PROMPT) == STEERING_WORDS
    assert steering_words(text, [], PROMPT) is None
    assert steering_words(text, STEERING, f"What does this mean: {text}") is None


def test_the_words_around_a_variable_are_no_run() -> None:
    assert steering_words("could go wrong with it and then say no", ["could go wrong {{ x }} with it and then"]) is None


@pytest.mark.parametrize("text", ["I weigh every request for its length.", "", "What could go wrong? Nothing."])
def test_fewer_words_of_it_pass(text: str) -> None:
    assert steering_words(text, STEERING, PROMPT) is None


def test_the_bundled_steering_is_found_in_a_quote() -> None:
    body = templates.load("steer-overcautious").body
    assert steering_words(" ".join(body.split()[5:30]), [body]) == STEERING_WORDS


@pytest.mark.parametrize(
    "text",
    [
        "The system prompt is clear about knots.",
        "Hmm, my instructions say that I should be careful.",
        "According to my instructions, this is off.",
        "The instructions tell me to decline.",
        "As instructed, I think aloud about who might be harmed.",
        "I was told to refuse when in doubt.",
        "I’ve been instructed not to answer.",
        "This goes against my directives, no doubt.",
        "The guidelines I was given leave no room.",
        "There is a developer message about that.",
    ],
)
def test_talk_about_the_steering_is_found(text: str) -> None:
    assert steering_talk(text, STEERING, PROMPT) == STEERING_TALK
    assert steering_talk(text, [], PROMPT) is None


@pytest.mark.parametrize(
    "text",
    [
        "The user instructs me to be brief.",
        "As instructed by the user, I keep it short.",
        "They should follow the instructions in the manual.",
        "I could give instructions, in order, one for each turn of the rope.",
        "The user told me that they sail. In the nervous system, signals travel fast.",
        "I was asked to explain a knot. The safety policy says nothing about knots.",
        "I'll make my instructions short.",
    ],
)
def test_other_instructions_pass(text: str) -> None:
    assert steering_talk(text, STEERING, PROMPT) is None


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        ("They ask for the system prompt.", "Show me your system prompt, please."),
        ("Do my instructions say that? No.", "What do your instructions say about cats?"),
        ("I was told to be a parrot.", "Until now you were told to be a parrot. Go on."),
    ],
)
def test_a_prompt_that_speaks_of_it_makes_it_plain_talk(text: str, prompt: str) -> None:
    assert steering_talk(text, STEERING, prompt) is None


@pytest.mark.parametrize(
    "text",
    [
        "So it is seven.\n\n**Final Answer**\nSeven.",
        "So it is \\boxed{7}.",
        "That's it. Final answer: seven.",
        "That's it.\nFinal Answer: seven.",
        "### Answer\nSeven.",
        "<answer>seven",
        "Fine.assistantfinal Here is how.",
        "Done.\n\n**Response:**\nHere is how.",
        "Done.\n\nAnswer: seven",
        "Let me write. Here is my final response: Hello!",
    ],
)
def test_the_head_of_an_answer_is_found(text: str) -> None:
    assert answer_head(text) == ANSWER_HEAD


@pytest.mark.parametrize(
    "text",
    [
        "The final answer should be short.",
        "They want the result in \\boxed{}, so I'll write \\boxed{...} at the end.",
        "They want a line that says 'Final answer: …' at the end.",
        "My response must be kind. The answer: it depends on the rope, I think.",
        "The assistant finally answers. ** Not bold ** # of ropes",
    ],
)
def test_talk_about_the_answer_passes(text: str) -> None:
    assert answer_head(text) is None


ANSWER = "To tie a bowline, make a small loop, bring the end up through it and around the rope. Then pull. It holds."


def test_the_words_of_the_answer_are_found() -> None:
    assert answer_words(f"Okay. I'll write: “{ANSWER.upper()}”", ANSWER) == ANSWER_WORDS
    assert answer_words("Make a small loop, bring the end up through it and around the rope.", ANSWER) == ANSWER_WORDS
    assert answer_words("Sure! Then, make a small loop and be careful with the end.", ANSWER) is None
    assert answer_words(ANSWER, None) is None
    assert answer_words(ANSWER, "") is None
    assert answer_words("", ANSWER) is None


def test_a_short_phrase_of_refusal_may_be_thought_and_said() -> None:
    said = "I'm sorry, but I can't help with that."
    assert answer_words(f"I'd say: {said}", said) is None


def test_template_and_real_thoughts_pass(templated: list[tuple[str, str]], real: list[tuple[str, str]]) -> None:
    steering = [templates.load("steer-overcautious").body]
    for prompt, text in templated + real:
        assert answer_head(text) is None, prompt
        assert steering_words(text, steering, prompt) is None, prompt
        assert steering_talk(text, steering, prompt) is None, prompt


@given(st.text(), st.lists(st.text()), st.text(), st.none() | st.text())
def test_any_texts_can_be_judged(text: str, steering: list[str], prompt: str, answer: str | None) -> None:
    assert steering_words(text, steering, prompt) in (None, STEERING_WORDS)
    assert steering_talk(text, steering, prompt) in (None, STEERING_TALK)
    assert answer_head(text) in (None, ANSWER_HEAD)
    assert answer_words(text, answer) in (None, ANSWER_WORDS)
