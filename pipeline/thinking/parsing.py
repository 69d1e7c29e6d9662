"""Read what a model wrote: its thinking, its answer, and whether it came to an end of the first.

A model family writes its thinking between two marks of its own: `<think>` and `</think>`, a channel, a recipient. A
text is read from left to right. An opening mark begins thinking; the closing mark of the same family ends it, and
every other family's mark in between is part of the thoughts. The marks that head an answer
(`<|channel|>final<|message|>`) end thinking too. Three things that are normal here are no errors:

- *No opening mark.* It stood in the prompt (R1 and its distills, or our own prefill), so the output holds the closing
  one only: what stands in front of it is thinking.
- *No closing mark.* The output was cut at its length, or the model never came to an answer.
- *Several blocks.* Their thoughts are joined by an empty line, and so are the pieces of the answer.

White space around thoughts and answers belongs to the templates and is stripped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

How = Literal["field", "block", "closer", "opened", "none"]


class Tags(NamedTuple):
    """The marks around a thinking block, as the model writes them."""

    opener: str
    closer: str


BLOCKS: tuple[Tags, ...] = (
    *(
        Tags(f"<{name}>", f"</{name}>")
        for name in (
            *("think", "thinking", "thought", "reasoning"),
            *("analysis", "reflection", "scratchpad", "seed:think"),
        )
    ),
    Tags("[THINK]", "[/THINK]"),
    Tags("◁think▷", "◁/think▷"),
    Tags("<|begin_of_thought|>", "<|end_of_thought|>"),
    Tags("<|START_THINKING|>", "<|END_THINKING|>"),
    Tags("<|channel>thought", "<channel|>"),
    Tags("<|channel|>analysis<|message|>", "<|end|>"),
    Tags(" to=self<|message|>", "<|eom|>"),
)
"""The blocks of Qwen, DeepSeek, GLM, Nemotron and LFM (`<think>`), Seed, Magistral, Kimi, Sky-T1, Command A, Gemma 4,
gpt-oss and Muse Glimmer, and the tags that prompts ask other models for."""

LONE = frozenset(
    (
        *("</think>", "</thinking>", "</thought>", "</seed:think>"),
        *("[/think]", "◁/think▷", "<|end_of_thought|>", "<|end_thinking|>", "<channel|>"),
    )
)
"""Closing marks that mean the end of thinking even where nothing opened it, in lower case. `<|end|>` also ends Phi's
turns, and `</analysis>` may be part of an answer."""

_ANSWER = (
    r"<\|channel\|>(?:final|commentary)[^<\n]{0,40}<\|message\|>|\ to=user<\|message\|>"
    r"|<\|begin_of_solution\|>|assistantfinal"
)
"""What heads an answer. `assistantfinal` is what is left of gpt-oss's marks where a server drops special tokens."""

_BETWEEN = r"<\|start\|>assistant|<\|(?:START|END)_(?:RESPONSE|TEXT)\|>|<\|end_of_solution\|>"
_BEGINS = r"(?=[<\[◁]|\ to=|assistantfinal)"
"""How any mark begins: looked for first, it finds the marks of a text 20 times as fast."""

_MARK = re.compile(
    _BEGINS
    + "(?:"
    + "|".join(
        (
            *(f"(?P<open{number}>{re.escape(block.opener)})" for number, block in enumerate(BLOCKS)),
            *(f"(?P<close{number}>{re.escape(block.closer)})" for number, block in enumerate(BLOCKS)),
            f"(?P<answer>{_ANSWER})",
            f"(?P<between>{_BETWEEN})",
        )
    )
    + ")",
    re.IGNORECASE,
)
_BRACKET = re.compile(r"[<\[◁]")
_OPENER = re.compile(r"\s*(?:" + "|".join(re.escape(block.opener) for block in BLOCKS) + r")\s*", re.IGNORECASE)
_TURN_ENDS = (
    *("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|eot|>", "<|eom|>", "<|end|>", "<|return|>"),
    *("<|call|>", "<|user|>", "<|observation|>", "<|END_OF_TURN_TOKEN|>", "<｜end▁of▁sentence｜>"),
    *("<turn|>", "<end_of_turn>", "</s>", "<eos>"),
)


class Reading(NamedTuple):
    """A model's output, taken apart.

    ``closed`` says that the thinking was seen to end (or that there was none); ``how`` says where the thinking was
    found: in a ``field`` of its own, in a ``block`` with both marks, in front of a ``closer`` alone, in a block
    ``opened`` (in the text or in the prompt) and never closed, or nowhere (``none``: all of the text is the answer).
    """

    thinking: str
    answer: str
    closed: bool
    how: How


def read_output(text: str | None, *, reasoning: str | None = None, opened: bool = False) -> Reading:
    """Split what a model wrote into thinking and answer; never fails, whatever the text.

    Args:
        text: The generated text, or the content of the answer's message. None is read as empty.
        reasoning: The field a server puts the thinking into (`reasoning`, `reasoning_content`, `thinking`), if it has
            one. Marks left in it are taken out, and thinking that stands in `text` as well is joined to it. It counts
            as closed once there is an answer: a field doesn't tell whether its thinking came to an end.
        opened: Whether the prompt ended inside the thinking block, so that a text without any mark is all thinking.
    """
    if reasoning and reasoning.strip():
        field, rest = _read(reasoning, opened=True), _read(text or "", opened=False)
        answer = _join([field.answer, rest.answer])
        closed = bool(answer) and rest.closed
        return Reading(_join([field.thinking, rest.thinking]), answer, closed, "field")
    return _read(text or "", opened=opened)


def head(text: str, *, closer: str | None = None) -> str:
    """The thinking in a continuation: raw text that a model wrote behind our own opening mark and prefill.

    White space in front is kept, since the text goes on from a prefill; an opening mark that the model repeated there
    is dropped. The text is cut at the closing mark if there is one; marks that end a turn and white space are cut
    off at its end.

    Args:
        text: The raw text, with special tokens left in: the closing mark is one in some families.
        closer: The closing mark of the model, such as `Renderer.closer`; without it that of any family is looked for.
    """
    again = _OPENER.match(text)
    text = text[again.end() :] if again else text
    closers = [closer] if closer else [block.closer for block in BLOCKS]
    end = re.search("|".join(map(re.escape, closers)) + f"|{_ANSWER}", text, re.IGNORECASE)
    return _without_turn_end(text[: end.start()] if end else text)


def _read(text: str, *, opened: bool) -> Reading:
    if text.startswith("analysis") and "assistantfinal" in text:
        text, opened = text.removeprefix("analysis"), True
    thoughts: list[str] = []
    answers: list[str] = []
    how: How = "none"
    inside = "any" if opened else ""
    start = 0
    for mark in _marks(text):
        kind = mark.lastgroup or ""
        piece = text[start : mark.start()]
        family = kind.removeprefix("open").removeprefix("close")
        opens, closes = kind.startswith("open"), kind.startswith("close")
        lone = closes and mark.group().lower() in LONE
        if inside and (kind == "answer" or (closes and inside in ("any", family))):
            thoughts.append(piece)
            how = how if how != "none" else "closer" if inside == "any" else "block"
            inside = ""
        elif opens and (not inside or (inside == "any" and not piece.strip())):
            answers.append(piece)
            inside = family
        elif lone and not inside:
            thoughts.append(piece)
            how = how if how != "none" else "closer"
        elif not inside and (kind in ("answer", "between") or mark.group() in ("<|end|>", "<|eom|>")):
            answers.append(piece)
        else:
            continue
        start = mark.end()
    (thoughts if inside else answers).append(_without_turn_end(text[start:]))
    return Reading(_join(thoughts), _join(answers), not inside, "opened" if inside else how)


def _marks(text: str) -> Iterator[re.Match[str]]:
    """The marks of a text. Nearly all begin with a bracket, and a bracket is found ten times as fast as a mark."""
    lower = text.lower()
    if " to=" in lower or "assistantfinal" in lower:
        yield from _MARK.finditer(text)
        return
    end = 0
    for bracket in _BRACKET.finditer(text):
        mark = _MARK.match(text, bracket.start()) if bracket.start() >= end else None
        if mark:
            end = mark.end()
            yield mark


def _join(pieces: list[str]) -> str:
    return "\n\n".join(piece.strip() for piece in pieces if piece.strip())


def _without_turn_end(text: str) -> str:
    end = len(text)
    mark: str | None = ""
    while mark is not None:
        end -= len(mark)
        while end and text[end - 1].isspace():
            end -= 1
        mark = next((mark for mark in _TURN_ENDS if text.endswith(mark, 0, end)), None)
    return text[:end]
