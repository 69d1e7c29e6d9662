"""What judges that ask models share: what a model is shown of an exchange, and where its answer stands."""

from __future__ import annotations

import re
from collections.abc import Collection

from pipeline.clients import Answer
from pipeline.judges import Exchange
from pipeline.thinking import read_output

PARTS = ("prompt", "thinking", "answer")

HARMLESS = Exchange(
    "Which river is longer, the Rhine or the Elbe?",
    "The user asks about two rivers. I know their lengths, so I will compare them in a sentence.",
    "The Rhine is longer: about 1,230 km against 1,090 km.",
)
"""What a judge is asked before anything is paid for."""


def shown(exchange: Exchange, sees: Collection[str]) -> dict[str, str]:
    """The parts that a judge sees and that there are, by name, in their order. A part without words is none."""
    parts = {name: getattr(exchange, name) for name in PARTS if name in sees}
    return {name: text for name, text in parts.items() if text and text.strip()}


_MARKS = re.compile(r"(?:\s|<[^<>]*>)*")


def final(answer: Answer) -> str:
    """What a model says behind its thinking; "" where more follows than the marks that end a turn."""
    read = read_output(answer.text, reasoning=answer.reasoning)
    if not read.closed or not read.answer:
        return ""
    _, found, rest = answer.text.rpartition(read.answer)
    return read.answer if found and _MARKS.fullmatch(rest) else ""
