"""The rest of a turn, on every chat template that TRL ships and that has a thinking block."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.thinking import Renderer, RenderingError, read_output, renderer_for, turn_of
from tests.thinking.test_rendering import TEMPLATES, THINKING, needs_trl, tokenizer

USER = [{"role": "user", "content": "Which river is longer?"}]
THOUGHT, ANSWER = "First I weigh the one.\n\nThen the other.", "The Rhine, by some 140 km."

CLOSINGS = {
    "deepseek_r1_distill": ("\n</think>\n\n", "<｜end▁of▁sentence｜>"),
    "gemma4": ("\n<channel|>", "<turn|>"),
    "gemma4_v5": ("\n<channel|>", "<turn|>"),
    "gptoss": ("<|end|><|start|>assistant<|channel|>final<|message|>", "<|return|>"),
    "lfm2_2_5": ("</think>", "<|im_end|>"),
    "muse_glimmer": ("<|eom|><|start|>assistant to=user<|message|>", "<|eot|>"),
    "nemotron_3_nano": ("\n</think>\n", "<|im_end|>"),
    "qwen3": ("\n</think>\n\n", "<|im_end|>"),
}
"""Written down from the templates' sources; one of each way."""


def renderer(path: Path) -> Renderer:
    return renderer_for(tokenizer(path.read_text(), TEMPLATES[path.stem.removesuffix("_training")].family))


@needs_trl
@pytest.mark.parametrize("path", THINKING, ids=lambda path: path.stem)
def test_a_whole_turn_is_one_that_is_read_as_it_was_written(path: Path) -> None:
    made = renderer(path)
    turn = turn_of(made)
    thinking = made.render(USER, THOUGHT)
    text = made.tokenizer.decode([*thinking.ids, *turn.ids(made, ANSWER)])
    written = text[len(made.tokenizer.decode(made.render(USER, "").ids)) :]
    reading = read_output(written, opened=True)
    assert (reading.thinking, reading.answer, reading.closed) == (THOUGHT, ANSWER, True)
    assert written.endswith(ANSWER + turn.ending)
    with pytest.raises(RenderingError, match="would end the turn or open another"):
        turn.ids(made, f"No. {made.control_tokens.search(text).group()}")  # type: ignore[union-attr]


@needs_trl
@pytest.mark.parametrize("name", CLOSINGS)
def test_the_marks_are_those_of_the_template(name: str) -> None:
    (path,) = [path for path in THINKING if path.stem == name]
    assert turn_of(renderer(path)) == CLOSINGS[name]
