"""Read what a model wrote: its thinking, its answer, and whether it came to an end of the first.

A model writes its thinking between two marks of its own: `<think>` and `</think>`, a channel, a recipient. Where its
template is known, its marks are (`Marks`), and no others are read. Elsewhere those of the known families are looked for
(`BLOCKS`): an opening mark begins thinking, and the closing mark of the same family ends it, or a mark that heads an
answer (`<|channel|>final<|message|>`); every other family's mark in between is part of the thoughts.

Thinking ends once. Everything behind the first closing mark is the answer, whole: a later closing mark, or a block that
is opened again, stands in it as it was written. Two things that are normal here are no errors:

- *No opening mark.* It stood in the prompt (R1 and its distills, or our own prefill), so the output holds the closing
  one only: what stands in front of it is thinking.
- *No closing mark.* The output was cut at its length, or the model never came to an answer.

White space around thoughts and answers belongs to the templates and is stripped, and so are the marks that head an
answer or end a turn.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Literal, NamedTuple

How = Literal["field", "block", "closer", "opened", "none"]


class Tags(NamedTuple):
    """The marks around a thinking block, as the model writes them."""

    opener: str
    closer: str


class Marks(NamedTuple):
    """The marks of one model's turn, as its template writes them (`pipeline.thinking.turns.marks_of`).

    ``heading`` stands between the closing mark and the answer, ``ending`` behind the answer.
    """

    opener: str
    closer: str
    heading: str = ""
    ending: str = ""


BLOCKS: tuple[Tags, ...] = (
    *(
        Tags(f"<{name}>", f"</{name}>")
        for name in (
            *("think", "thinking", "thought", "reasoning"),
            *("analysis", "reflection", "scratchpad", "seed:think", "mm:think"),
        )
    ),
    Tags("[THINK]", "[/THINK]"),
    Tags("◁think▷", "◁/think▷"),
    Tags("<|begin_of_thought|>", "<|end_of_thought|>"),
    Tags("<|START_THINKING|>", "<|END_THINKING|>"),
    Tags("<|channel>thought", "<channel|>"),
    Tags("<|channel|>analysis<|message|>", "<|end|>"),
    Tags("<|think|>", "<|end|>"),
    Tags("<|inner_prefix|>", "<|inner_suffix|>"),
    Tags(" to=self<|message|>", "<|eom|>"),
)
"""The blocks of Qwen, DeepSeek, GLM, Nemotron and LFM (`<think>`), Seed, MiniMax-M3, Magistral, Kimi, Sky-T1,
Command A, Gemma 4, gpt-oss, Solar Open, Apertus and Muse Glimmer, and the tags that prompts ask other models for."""

LONE = frozenset(
    (
        *("</think>", "</thinking>", "</thought>", "</seed:think>", "</mm:think>"),
        *("[/think]", "◁/think▷", "<|end_of_thought|>", "<|end_thinking|>", "<channel|>", "<|inner_suffix|>"),
    )
)
"""Closing marks that mean the end of thinking even where nothing opened it, in lower case. `<|end|>` also ends Phi's
turns, and `</analysis>` may be part of an answer."""

_ANSWERS = (
    r"<\|channel\|>(?:final|commentary)[^<\n]{0,40}<\|message\|>",
    r"\ to=user<\|message\|>",
    r"<\|begin_of_solution\|>",
    "assistantfinal",
)
_ANSWER = "|".join(_ANSWERS)
"""What heads an answer. `assistantfinal` is what is left of gpt-oss's marks where a server drops special tokens."""

_BETWEEN = r"<\|(?:start|begin)\|>assistant|<\|START_(?:RESPONSE|TEXT)\|>|<\|content\|>"
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
        )
    )
    + ")",
    re.IGNORECASE,
)
_HEADS = re.compile(rf"\s*(?:{_ANSWER}|{_BETWEEN}|to=user<\|message\|>)", re.IGNORECASE)
_BRACKET = re.compile(r"[<\[◁]")
_OPENER = re.compile(r"\s*(?:" + "|".join(re.escape(block.opener) for block in BLOCKS) + r")\s*", re.IGNORECASE)
_TURN_ENDS = (
    *("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|eot|>", "<|eom|>", "<|end|>", "<|return|>"),
    *("<|call|>", "<|user|>", "<|observation|>", "<|END_OF_TURN_TOKEN|>", "<｜end▁of▁sentence｜>"),
    *("<turn|>", "<end_of_turn>", "</s>", "<eos>", "<|flush|>"),
    *("<|assistant_end|>", "<|END_RESPONSE|>", "<|END_TEXT|>", "<|end_of_solution|>", "[|endofturn|]"),
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


def read_output(
    text: str | None,
    *,
    reasoning: str | None = None,
    opened: bool = False,
    closed: bool = False,
    marks: Marks | None = None,
) -> Reading:
    """Split what a model wrote into thinking and answer; never fails, whatever the text.

    Args:
        text: The generated text, or the content of the answer's message. None is read as empty.
        reasoning: The field a server puts the thinking into (`reasoning`, `reasoning_content`, `thinking`), if it has
            one. Marks left in it are taken out, and thinking that stands in `text` as well is joined to it. It counts
            as closed once there is an answer: a field doesn't tell whether its thinking came to an end.
        opened: Whether the prompt ended inside the thinking block, so that a text without any mark is all thinking.
        closed: Whether the prompt had closed the thinking, so that all of the text is the answer.
        marks: The model's own marks; unless given, those of all known families are looked for.
    """
    text = text or ""
    if closed:
        return Reading("", _answer(text, marks), True, "none")
    if reasoning and reasoning.strip():
        field, rest = _read(reasoning, True, marks), _read(text, False, marks)
        answer = _join([field.answer, rest.answer])
        return Reading(_join([field.thinking, rest.thinking]), answer, bool(answer) and rest.closed, "field")
    return _read(text, opened, marks)


def head(text: str, *, closer: str | None = None, opener: str | None = None) -> str:
    """The thinking in a continuation: raw text that a model wrote behind our own opening mark and prefill.

    White space in front is kept, since the text goes on from a prefill; an opening mark that the model repeated there
    is dropped. The text is cut at the closing mark if there is one; marks that end a turn and white space are cut
    off at its end.

    Args:
        text: The raw text, with special tokens left in: the closing mark is one in some families.
        closer: The closing mark of the model, such as `Renderer.closer`; without it that of any family is looked for.
        opener: The opening mark of the model, likewise.
    """
    again = _OPENER.match(text) or (re.match(rf"\s*{re.escape(opener.strip())}\s*", text) if opener else None)
    text = text[again.end() :] if again else text
    closers = [closer] if closer else [block.closer for block in BLOCKS]
    end = re.search("|".join(map(re.escape, closers)) + f"|{_ANSWER}", text, re.IGNORECASE)
    return _without_turn_end(text[: end.start()] if end else text)


def _read(text: str, opened: bool, marks: Marks | None) -> Reading:
    thought, before, answer, how = _own(text, opened, marks) if marks else _any(text, opened)
    if answer is None:
        return Reading(_without_turn_end(thought, marks).strip(), before, False, "opened")
    return Reading(thought.strip(), _join([before, _answer(answer, marks)]), True, how)


_Parts = tuple[str, str, str | None, How]
"""The thoughts, the answer in front of them, and that behind them: None where they never end."""


def _own(text: str, opened: bool, marks: Marks) -> _Parts:
    """Read by the marks of the model's own template."""
    opener, closer = re.escape(marks.opener.strip()), re.escape(marks.closer)
    begins = re.match(rf"\s*{opener}", text) if opened else re.search(opener, text)
    if not opened and marks.closer not in _TURN_ENDS:
        lone = re.search(closer, text[: begins.start()] if begins else text)
        if lone:
            return text[: lone.start()], "", text[lone.end() :], "closer"
    if not opened and not begins:
        return "", "", text, "none"
    start = begins.end() if begins else 0
    again = re.match(r"<[^<>]*>\w*", marks.heading.strip())
    said = text[: begins.start()].rstrip().removesuffix(again.group() if again else "") if begins else ""
    before = _answer(said, marks)
    end = re.compile("|".join([closer, *_own_answer(marks)])).search(text, start)
    if end is None:
        return text[start:], before, None, "opened"
    return text[start : end.start()], before, text[end.end() :], "block" if begins else "closer"


def _own_answer(marks: Marks) -> list[str]:
    """The pattern, if any, of the marks that head an answer in this template even where no closing mark was written."""
    return [pattern for pattern in _ANSWERS if re.search(pattern, marks.heading)]


def _any(text: str, opened: bool) -> _Parts:
    """Read by the marks of every family that is known."""
    if text.startswith("analysis") and "assistantfinal" in text:
        text, opened = text.removeprefix("analysis"), True
    before, start, inside = "", 0, "any" if opened else ""
    for mark in _marks(text):
        kind, piece, lower = mark.lastgroup or "", text[start : mark.start()], mark.group().lower()
        opens, closes = kind.startswith("open"), kind.startswith("close")
        if inside and (kind == "answer" or (closes and inside in ("any", lower))):
            return piece, before, text[mark.end() :], "closer" if inside == "any" else "block"
        if not inside and closes and lower in LONE:
            return piece, "", text[mark.end() :], "closer"
        if opens and (not inside or (inside == "any" and not piece.strip())):
            inside = BLOCKS[int(kind.removeprefix("open"))].closer.lower()
            before, start = _answer(piece, None), mark.end()
    return (text[start:], before, None, "opened") if inside else ("", "", text, "none")


def _answer(text: str, marks: Marks | None) -> str:
    """An answer without the marks that head it or end its turn."""
    heads = _own_heads(marks) if marks else _HEADS
    text = text.strip()
    while head := heads.match(text):
        text = text[head.end() :].lstrip()
    return _without_turn_end(text, marks)


@cache
def _own_heads(marks: Marks) -> re.Pattern[str]:
    """What heads an answer in the model's own template: all of it, or its last mark alone."""
    heading = marks.heading.strip()
    begins = re.match(r"<[^<>]*>\w*", heading)
    last = re.search(r"<[^<>]*>$", heading)
    own = [rf"(?:{re.escape(begins.group())})?\s*(?:{pattern})" for pattern in _own_answer(marks) if begins]
    heads = [re.escape(heading), *own, *([re.escape(last.group())] if last else [])]
    return re.compile("|".join(heads) if heading else "(?!)")


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


def _without_turn_end(text: str, marks: Marks | None = None) -> str:
    ends = (*_TURN_ENDS, marks.ending) if marks and marks.ending else _TURN_ENDS
    end = len(text)
    mark: str | None = ""
    while mark is not None:
        end -= len(mark)
        while end and text[end - 1].isspace():
            end -= 1
        mark = next((mark for mark in ends if text.endswith(mark, 0, end)), None)
    return text[:end]
