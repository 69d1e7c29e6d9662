"""Leaks: a prefill that shows how it was asked for, or that gives the answer away.

A model that is steered, by a system prompt or a template around the prompt, may speak of it: a policy would then learn
to recover from words that no user wrote. And a prefill is the head of a thought: what belongs behind it, the answer,
must not stand in it.

Patterns stand behind words without which they can't be found: those are looked for first, which is what takes no time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

from pipeline.thinking import sentence_ends
from pipeline.words import UNSPACED

STEERING_WORDS = "prefill quotes its steering"
STEERING_TALK = "prefill speaks of its steering"
ANSWER_HEAD = "prefill holds the head of an answer"
ANSWER_WORDS = "prefill holds the words of the answer"

_STEERING_RUN, _ANSWER_RUN = 6, 8
"""Words in a row of the steering, and of the answer, that are no chance."""
_OPENING = 12
"""Words of an answer's opening at least; "I'm sorry, but I can't help with that." may be thought as well as said."""
_OPENING_CHARACTERS = 600
_MOST = 0.5
"""Share of the words of the answer's opening above which it stands in the prefill."""

_UNSPACED = re.compile(f"[{UNSPACED}]")
_NO_WORD = str.maketrans(
    {**dict.fromkeys('!"#$%&()*+,-./:;<=>?@[\\]^_`{|}~“”„«»—–…。，！？：；（）「」『』', " "), "'": None, "’": None}
)
_TEMPLATE_CODE = re.compile(r"\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}", re.DOTALL)

_ORDERS = r"(?:instruction|directive|order)s?"
_SAY = r"(?:\w+ly )?(?:says?|tells?|told|states?|requires?|asks?|asked|wants?|directs?)"
_TALK = tuple(
    (hints, re.compile("|".join(patterns)))
    for hints, *patterns in (
        (
            ("system", "developer"),
            r"\b(?:system|developer)(?:'s)? (?:prompt|message|instruction)s?\b",
        ),
        (
            ("my instruction", "my directive", "my order"),
            rf"\bmy {_ORDERS} (?:{_SAY}|(?:are|is|were|was) (?:not )?to)\b",
            rf"\b(?:as per|by|under|following|against|given|according to) my {_ORDERS}\b",
        ),
        (
            ("instruction", "directive", "order"),
            rf"\b(?:the|these|those|our) {_ORDERS} {_SAY} me\b",
        ),
        (
            ("instructed",),
            r"\bas (?:i (?:was|am|have been) |i've been )?instructed\b(?! by the user)",
        ),
        (
            tuple(f"{verb} {to}" for verb in ("told", "instructed", "directed", "ordered") for to in ("to", "not to")),
            r"\bi(?:'m| am| was|'ve been| have been| had been) (?:\w+ly )?"
            r"(?:told|instructed|directed|ordered) (?:not )?to\b",
        ),
        (
            ("given", "told", "received"),
            rf"\b(?:{_ORDERS}|guidance|guidelines?) (?:that )?i(?:'ve| have|'m| am| was)?"
            r" ?(?:been )?(?:given|told|received)\b",
        ),
    )
)
"""Talk about the steering. "The user instructs me" and "the instructions in the manual" are none."""

_ADDRESS = re.compile(r"\b(?:your|you|you're|you've|were|are)\b")
_TURNED = {"your": "my", "you": "i", "you're": "i'm", "you've": "i've", "were": "was", "are": "am"}
"""How a prompt's words about the model read in the model's thought."""

_ANSWER_HEADS = tuple(
    (hints, re.compile(pattern, re.MULTILINE))
    for hints, pattern in (
        (("\\boxed",), r"\\boxed\s*\{\s*[^}\s.…]"),
        (("answer>", "response>"), r"</?(?:final_?)?(?:answer|response)>"),
        (("assistantfinal", "assistant final", "assistant\nfinal"), r"\bassistant\s?final\b"),
        (
            ("final ", "complete "),
            r"(?:^|(?<=[.!?]\s))[\s>#*_-]*(?:my |the |here is (?:my|the) )?"
            r"(?:final|complete) (?:answer|response|reply)[*_]*\s*:",
        ),
        (("**",), r"\*\*\s*(?:final )?(?:answer|response|reply)\s*:?\s*\*\*"),
        (("#",), r"^[\s>]*#+\s*(?:final )?(?:answer|response|reply)\b"),
        (("answer:", "response:", "reply:"), r"^[\s>]*(?:answer|response|reply):\s"),
    )
)
"""What an answer begins with, in lower case."""


def steering_words(text: str, steering: Sequence[str], prompt: str = "") -> str | None:
    """`STEERING_WORDS` where six words in a row are those of a steering template and not of the prompt, else None.

    `steering` holds the bodies of the templates; what stands in their braces is not theirs.
    """
    if not steering:
        return None
    shared = _steering_runs(tuple(steering)).intersection(_runs(_words(text), _STEERING_RUN))
    return STEERING_WORDS if shared and not shared.issubset(_runs(_words(prompt), _STEERING_RUN)) else None


def steering_talk(text: str, steering: Sequence[str], prompt: str = "") -> str | None:
    """`STEERING_TALK` where a steered text speaks of instructions or of a system prompt and the prompt doesn't."""
    if not steering:
        return None
    said = text.lower().replace("’", "'")
    found = [talk for hints, talk in _TALK if any(hint in said for hint in hints) and talk.search(said)]
    if not found:
        return None
    asked = prompt.lower().replace("’", "'")
    asked = f"{asked}\n{_ADDRESS.sub(lambda match: _TURNED[match.group()], asked)}"
    return None if all(talk.search(asked) for talk in found) else STEERING_TALK


def answer_head(text: str) -> str | None:
    r"""`ANSWER_HEAD` where the text holds what an answer begins with ("**Final Answer**", "\boxed{7}"), else None.

    An empty ``\boxed{}`` and a head within a sentence are talk about the form of an answer.
    """
    said = text.lower()
    found = (any(hint in said for hint in hints) and head.search(said) for hints, head in _ANSWER_HEADS)
    return ANSWER_HEAD if any(found) else None


def answer_words(text: str, answer: str | None) -> str | None:
    """`ANSWER_WORDS` where most of the answer's opening stands in the text, eight words in a row or more, else None.

    The opening is the answer's first sentence, or as many as make twelve words; a shorter answer is not looked for.
    """
    opening = _opening(answer) if answer else []
    known = set(_runs(opening, _ANSWER_RUN))
    if not known:
        return None
    known.intersection_update(_runs(_words(text), _ANSWER_RUN))
    covered = {
        place + shift
        for place, run in enumerate(_runs(opening, _ANSWER_RUN))
        if run in known
        for shift in range(_ANSWER_RUN)
    }
    return ANSWER_WORDS if len(covered) > _MOST * len(opening) else None


def _opening(answer: str) -> list[str]:
    answer = answer.lstrip()[:_OPENING_CHARACTERS]
    for end in (*sentence_ends(answer), len(answer)):
        words = _words(answer[:end])
        if len(words) >= _OPENING:
            return words
    return []


def _words(text: str) -> list[str]:
    """Words without case, apostrophes and punctuation; characters, where a script puts no spaces between words."""
    text = text.lower().translate(_NO_WORD)
    if not text.isascii():
        text = _UNSPACED.sub(r" \g<0> ", text)
    return text.split()


def _runs(words: Sequence[str], size: int) -> Iterator[tuple[str, ...]]:
    return zip(*(words[shift:] for shift in range(size)), strict=False)


@lru_cache(maxsize=64)
def _steering_runs(steering: tuple[str, ...]) -> frozenset[tuple[str, ...]]:
    pieces = (piece for text in steering for piece in _TEMPLATE_CODE.split(text))
    return frozenset(run for piece in pieces for run in _runs(_words(piece), _STEERING_RUN))
