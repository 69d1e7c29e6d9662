"""What a prefill must be. One function a rule; the first that fails names the reason.

`repetition`, `leak` and `language` judge one text at a time; `twins` compares those of a domain with one another.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pipeline.filters.language import FOREIGN_LANGUAGE, FOREIGN_SCRIPT, foreign
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
from pipeline.filters.repetition import LOOPS, loops
from pipeline.filters.twins import TWIN, Twin, find_twins
from pipeline.judges import Stance, Verdict
from pipeline.thinking import Prefix, control_token

__all__ = [
    "ANSWER_HEAD",
    "ANSWER_WORDS",
    "CONTROL_TOKEN",
    "FOREIGN_LANGUAGE",
    "FOREIGN_SCRIPT",
    "LOOPS",
    "NO_THINKING",
    "OTHER_STANCE",
    "REFUSED",
    "STEERING_TALK",
    "STEERING_WORDS",
    "TOO_SHORT",
    "TWIN",
    "UNCLEAR",
    "UNREADABLE",
    "Twin",
    "find_twins",
    "refused",
    "reject_stance",
    "reject_text",
]

TOO_SHORT = "prefill too short"
CONTROL_TOKEN = "prefill holds a control token"
UNCLEAR = "prefill's stance is unclear"
UNREADABLE = "judge's verdict can't be read"
OTHER_STANCE = "prefill has the other stance"
REFUSED = "request refused by the server"
NO_THINKING = "model wrote no thinking"

_NUMBERS = re.compile(r"(?<=\D)(?<!HTTP )\d+")


def refused(why: str) -> str:
    """The reason of a row whose request a server refused, with the server's words, so that equal causes are counted as
    one: a number in them, such as that of tokens, is written as #.
    """
    words = _NUMBERS.sub("#", " ".join(why.split()))
    return f"{REFUSED}: {words}" if words else REFUSED


def reject_text(
    prefix: Prefix,
    min_words: int,
    *,
    prompt: str | None = None,
    steering: Sequence[str] = (),
    answer: str | None = None,
    language: bool = True,
) -> str | None:
    """Why the text can't be a prefill, whatever its stance; None where it can.

    Args:
        prefix: the prefill, cut to length.
        min_words: the fewest words it may have.
        prompt: the prompt that it thinks about; without it, neither repetition nor language is judged,
            since a thought may quote its prompt again and again.
        steering: the bodies of the templates that steered the model, none where it was sampled plainly.
        answer: what the model answered behind its thinking, where it did.
        language: whether to judge the language; a sampler that has one language only needn't.
    """
    text, asked = prefix.text, prompt or ""
    if prefix.words < min_words:
        return TOO_SHORT
    if control_token(text):
        return CONTROL_TOKEN
    return (
        answer_head(text)
        or answer_words(text, answer)
        or steering_words(text, steering, asked)
        or steering_talk(text, steering, asked)
        or (loops(text, asked) if prompt is not None else None)
        or (foreign(text, asked) if language and asked else None)
    )


def reject_stance(wanted: Stance, verdict: Verdict) -> str | None:
    """Why the stance is not the one that is wanted; None where it is.

    A verdict that is unclear, or could not be read, is never a pass.
    """
    if verdict.stance == wanted:
        return None
    return {"unclear": UNCLEAR, "unreadable": UNREADABLE}.get(verdict.stance, OTHER_STANCE)
