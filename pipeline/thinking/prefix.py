"""The head of a chain of thought, as text: what may not stand in a prefill, and how one is cut to length."""

from __future__ import annotations

import re
from bisect import bisect_left
from typing import NamedTuple

from pipeline.words import word_ends

_TAG = r"</?\s*(?:\w{1,20}:)?(?:think|thinking|thought|reasoning|analysis|reflection|scratchpad)\s*>"
_CONTROL = re.compile(
    rf"""
    {_TAG}
    | <\|[^|<>\s]{{1,40}}\|>            # <|im_start|>, <|eot_id|>, <|channel|>
    | <[|｜][^<>\n]{{1,40}}[|｜]>        # DeepSeek's full-width bars
    | <\|(?:turn|tool|channel)>|<(?:turn|tool|channel)\|>
    | </?s>|<(?:bos|eos|pad|unk)>
    | </?(?:start|end)_of_(?:turn|image|utterance)>
    | \[/?INST\]|<</?SYS>>|\[(?:gMASK|sMASK)\]|<sop>|<eop>
    """,
    re.VERBOSE | re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"""[.!?…]["'”’)\]]*(?=\s|$)|[。！？]["'”’」』）]*""")
_ABBREVIATION = re.compile(r"(?:^|[\s(])(?:e\.g|i\.e|etc|vs|Mr|Mrs|Ms|Dr|Prof|St|No|Fig|cf|approx|[A-Z])\.$")


def control_token(text: str) -> str | None:
    """Return the first thinking tag or chat-template control token in `text`, or None.

    The families covered are those of Qwen, DeepSeek, Llama, Gemma, GLM, gpt-oss, Mistral and Phi: a text that holds one
    could close the thinking, or open a turn, once it is rendered with that family's template.
    """
    found = _CONTROL.search(text)
    return found.group() if found else None


def without_tags(text: str) -> str:
    """A text with an empty line where it has a thinking tag: nothing of it is left out, and no tag acts on a model."""
    return re.sub(_TAG, "\n\n", text, flags=re.IGNORECASE)


class Prefix(NamedTuple):
    """The head of a chain of thought: its text, its number of words, whether it ends where a sentence does."""

    text: str
    words: int
    at_sentence: bool


def cut_prefix(text: str, words: int, *, slack: float = 0.2) -> Prefix:
    """Cut `text` to at most `words` words (RECAP Sec. 5.2), as readers of its script count them (`pipeline.words`).

    The cut is moved back to the last sentence end when that costs at most `slack` of the kept words; otherwise it
    stays at the word. Nothing is ever padded. The result is a prefix of `text.lstrip()` without trailing space.
    """
    text = text.lstrip()
    ends = word_ends(text, words)
    if not ends:
        return Prefix("", 0, False)
    head = text[: ends[-1]]
    floor = len(ends) * (1 - slack)
    for end in reversed(sentence_ends(head)):
        kept = bisect_left(ends, end) + 1
        if kept < floor:
            break
        return Prefix(head[:end], kept, True)
    return Prefix(head, len(ends), False)


def sentence_ends(text: str) -> list[int]:
    """Character offsets just behind each sentence of `text`; abbreviations and decimal points end none."""
    return [
        m.end() for m in _SENTENCE_END.finditer(text) if not _ABBREVIATION.search(text, max(0, m.end() - 12), m.end())
    ]
