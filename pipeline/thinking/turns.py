"""The rest of a model's turn: what its template writes between the thinking and the answer, and behind the answer.

Learned as the opening mark is: the template renders a whole turn, with reasoning and an answer, and what stands around
them is read. Some templates drop the reasoning of such a turn. DeepSeek's models then write their closing mark alone on
its line, with an empty one behind it; Gemma's write the answer right behind theirs.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from pipeline.thinking.parsing import Marks, read_output
from pipeline.thinking.rendering import Renderer, RenderingError

_USER = {"role": "user", "content": "Which river is longer?"}
_THOUGHT, _ANSWER = "Sentinel of copper, then a lantern", "Answer of tin, then a bell"


class Turn(NamedTuple):
    """``closing`` ends the thinking and begins the answer, white space included; ``ending`` ends the turn."""

    closing: str
    ending: str

    def ids(self, renderer: Renderer, answer: str) -> list[int]:
        """The token ids of all that follows the thinking, up to the end of the turn.

        Raises:
            RenderingError: the answer holds a control token.
        """
        found = renderer.control_tokens.search(answer)
        if found:
            raise RenderingError(f"The answer holds {found.group()!r}, which would end the turn or open another.")
        return [*renderer.behind(self.closing), *renderer.behind(answer), *renderer.behind(self.ending)]


def turn_of(renderer: Renderer) -> Turn:
    """The marks of a whole turn, as the renderer's template writes them.

    Raises:
        RenderingError: the model doesn't think, or the template writes no turn of an assistant.
    """
    if renderer.form == "plain":
        raise RenderingError("Thinking was switched off for this model, so there is none to close.")
    turn = {"role": "assistant", "content": _ANSWER}
    text = _written(renderer, turn | dict.fromkeys(("reasoning_content", "reasoning", "thinking"), _THOUGHT))
    _, thought, rest = text.rpartition(_THOUGHT)
    closing, answer, ending = rest.partition(_ANSWER)
    if not (thought and answer and renderer.closer in closing):
        closing = f"\n{renderer.closer}" + ("\n\n" if renderer.closer.startswith("</") else "")
        _, answer, ending = text.rpartition(_ANSWER)
    if not answer:
        raise RenderingError("The chat template writes no answer of an assistant, so no turn of it can be learned.")
    end = renderer.control_tokens.match(ending.lstrip())
    return Turn(closing, end.group() if end else getattr(renderer.tokenizer, "eos_token", None) or "")


def marks_of(renderer: Renderer) -> Marks:
    """The marks that a model's output is read by, proven: a turn written with them is read back as it was.

    Raises:
        RenderingError: the model doesn't think, its template writes no turn of an assistant, or what was written came
            back otherwise; the message says how.
    """
    turn = turn_of(renderer)
    marks = Marks(renderer.opener, renderer.closer, turn.closing.partition(renderer.closer)[2], turn.ending)
    behind = f"{_THOUGHT}{turn.closing}{_ANSWER}{turn.ending}"
    wanted = (_THOUGHT, _ANSWER, True)
    for given, opened, expected in (
        (renderer.opener + behind, False, wanted),
        (behind, True, wanted),
        (renderer.opener + _THOUGHT, False, (_THOUGHT, "", False)),
        (f"{_ANSWER}{turn.ending}", False, ("", _ANSWER, True)),
    ):
        written = renderer.tokenizer.decode(renderer.behind(given))
        reading = read_output(written, opened=opened, marks=marks)
        if (reading.thinking, reading.answer, reading.closed) != expected:
            raise RenderingError(
                f"Answers of this model can't be read: its chat template writes {written!r}, and of it came back the "
                f"thinking {reading.thinking!r}, {'closed' if reading.closed else 'never closed'}, and the answer "
                f"{reading.answer!r}. Where the model thinks in other marks, name them under thinking, as in "
                'thinking: ["<think>\\n", "</think>"].'
            )
    return marks


def _written(renderer: Renderer, turn: dict[str, Any]) -> str:
    from jinja2 import TemplateError

    try:
        return str(renderer.tokenizer.apply_chat_template([_USER, turn], tokenize=False, **renderer.variables))
    except (TemplateError, TypeError, ValueError) as error:
        raise RenderingError(f"The chat template can't render an assistant's turn: {error}") from error
