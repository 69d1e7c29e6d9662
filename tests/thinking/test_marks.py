"""Answers read by the marks of the model's own template: every one that TRL ships, and some that it doesn't."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.thinking import Marks, Renderer, RenderingError, marks_of, read_output, renderer_for
from pipeline.thinking.parsing import BLOCKS
from tests.thinking.test_rendering import TEMPLATES, THINKING, Family, needs_trl, tokenizer

USER = [{"role": "user", "content": "Which river is longer?"}]
THOUGHT, ANSWER = "First I weigh the one.\n\nThen the other.", "The Rhine, by some 140 km."


def template(turn: str, asks: str) -> str:
    """A template whose assistant's turn is ``turn``, with {T} and {A} in the places of thinking and answer."""
    thinking, ending = turn.split("{A}")
    thinking = "{% if m.reasoning_content %}" + thinking.replace("{T}", "{{ m.reasoning_content }}") + "{% endif %}"
    return (
        f"{{% for m in messages %}}{{% if m.role == 'assistant' %}}{asks}{thinking}{{{{ m.content }}}}{ending}"
        "{% else %}<user>{{ m.content }}{% endif %}{% endfor %}"
        f"{{% if add_generation_prompt %}}{asks}{{% endif %}}"
    )


OWN = {
    "minimax-m3": ("<mm:think>{T}</mm:think>{A}[e~[", "]~b]ai\n"),
    "solar-open": ("<|think|>{T}<|end|><|begin|>assistant<|content|>{A}<|flush|>", "<|begin|>assistant"),
    "apriel": ("<thinking>\n{T}\n</thinking>\n[BEGIN FINAL RESPONSE]\n{A}\n<|end|>", "<|begin_assistant|>\n"),
    "apertus": ("<|inner_prefix|>{T}<|inner_suffix|>{A}<|assistant_end|>", "<|assistant_start|>"),
    "seed-oss": ("<seed:think>{T}</seed:think>{A}<seed:eos>", "<seed:bos>assistant\n"),
    "gpt-oss": (
        "<|channel|>analysis<|message|>{T}<|end|><|start|>assistant<|channel|>final<|message|>{A}<|return|>",
        "<|start|>assistant",
    ),
    "command-a": (
        "<|START_THINKING|>{T}<|END_THINKING|><|START_RESPONSE|>{A}<|END_RESPONSE|><|END_OF_TURN_TOKEN|>",
        "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
    ),
    "magistral": ("[THINK]{T}[/THINK]{A}</s>", "[/INST]"),
    "lantern": ("<lantern>{T}<dark>{A}<stop>", "<model>"),
}
"""Turns in the shape of each family's, and of one that nobody knows."""


@cache
def own(name: str) -> Renderer:
    turn, asks = OWN[name]
    tokens = re.findall(r"<[^<>]+>|\[[^\[\]]+[\[\]]|\]~b\]ai", turn + asks)
    return renderer_for(tokenizer(template(turn, asks), Family(tuple(dict.fromkeys(tokens)))))


def foreign(marks: Marks) -> list[str]:
    """The marks of all families that the one with ``marks`` doesn't write, and that aren't part of one it does."""
    known = [mark.strip() for block in BLOCKS for mark in block]
    known += [
        "<|channel|>final<|message|>",
        " to=user<|message|>",
        "assistantfinal",
        "<|content|>",
        "<|START_RESPONSE|>",
    ]
    written = "".join(marks)
    return [mark for mark in known if mark.strip() not in written]


@needs_trl
@pytest.mark.parametrize("path", THINKING, ids=lambda path: path.stem)
def test_every_template_of_trl_is_read_with_its_own_marks(path: Path) -> None:
    made = renderer_for(tokenizer(path.read_text(), TEMPLATES[path.stem.removesuffix("_training")].family))
    marks = marks_of(made)
    middle = f" {' '.join(foreign(marks))} and on."
    behind = f"{THOUGHT}{middle}\n{marks.closer}{marks.heading}{ANSWER}{middle}{marks.ending}"
    wanted = (THOUGHT + middle, ANSWER + middle, True)
    assert read_output(marks.opener + behind, marks=marks)[:3] == wanted
    assert read_output(behind, marks=marks, opened=True)[:3] == wanted


@pytest.mark.parametrize("name", OWN)
def test_turns_of_other_models_are_read_as_their_templates_write_them(name: str) -> None:
    made = own(name)
    marks = marks_of(made)
    message = {"role": "assistant", "content": ANSWER, "reasoning_content": THOUGHT}
    text = made.tokenizer.apply_chat_template([*USER, message], tokenize=False)
    output = text.removeprefix(made.render(USER, None).text)
    assert read_output(output, marks=marks) == (THOUGHT, ANSWER, True, "block")
    plain = made.tokenizer.apply_chat_template([*USER, {"role": "assistant", "content": ANSWER}], tokenize=False)
    assert read_output(plain.removeprefix(made.render(USER, None).text), marks=marks) == ("", ANSWER, True, "none")


@given(st.sampled_from(sorted(OWN)), st.data())
def test_whatever_was_thought_and_answered_comes_back(name: str, data: st.DataObject) -> None:
    """Whatever marks of other families are in it; and of the model's own, all behind the first closing one."""
    marks = marks_of(own(name))
    words = st.lists(st.sampled_from([*foreign(marks), "so", "I", "add.\n\n", "a < b", "é"])).map(" ".join)
    thinking, answer = f"{data.draw(words)} Right?".strip(), f"{data.draw(words)} So it is.".strip()
    behind = f"{thinking}\n{marks.closer}{marks.heading}{answer}"
    wanted = (thinking, answer, True)
    assert read_output(f"{marks.opener}{behind}{marks.ending}", marks=marks)[:3] == wanted
    assert read_output(f"{behind}{marks.ending}", marks=marks, opened=True)[:3] == wanted
    again = f"{marks.closer}No.{marks.opener}{thinking}{marks.closer}{answer}"
    assert read_output(f"{behind}{again}{marks.ending}", marks=marks, opened=True)[:3] == (
        thinking,
        answer + again,
        True,
    )
    assert read_output(f"{marks.opener}{thinking}", marks=marks) == (thinking, "", False, "opened")
    assert read_output(f"{answer}{marks.ending}", marks=marks) == ("", answer, True, "none")


def test_what_is_said_in_front_of_the_thinking_is_answer() -> None:
    said = (
        "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant<|channel|>analysis<|message|>I add.<|end|>"
        "<|start|>assistant<|channel|>final<|message|>Four.<|return|>"
    )
    assert read_output(said, marks=marks_of(own("gpt-oss"))) == ("I add.", "I look.\n\nFour.", True, "block")


def test_a_template_that_its_reader_can_not_read_is_refused_with_what_came_back() -> None:
    """The tokenizer has no letter of the closing mark's brackets, so no answer of this model would ever be found."""
    turn = template("<think>{T}◁/think▷{A}<|im_end|>", "<|im_start|>assistant\n")
    made = renderer_for(tokenizer(turn, metaspace=True))
    with pytest.raises(RenderingError, match=r"can't be read: .* writes '<think>.*came back .*never closed.*answer ''"):
        marks_of(made)


def test_an_answer_in_front_of_the_thinking_is_no_part_of_the_opening_mark() -> None:
    turn = template("{T}{A}", "<|im_start|>assistant\n").replace("{{ m.content }}{% else", "{% else")
    turn = turn.replace("{% if m.r", "{{ m.content }}<think>{% if m.r").replace("{% endif %}", "</think>{% endif %}", 1)
    with pytest.raises(RenderingError, match="no thinking block of its own"):
        renderer_for(tokenizer(turn))
