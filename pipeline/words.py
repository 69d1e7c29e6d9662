"""Words, as readers of a text's script count them: some scripts put no space between them."""

from __future__ import annotations

import re
from typing import Final

UNSPACED: Final = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\uff66-\uff9f\U00020000-\U0003ffff"
)
"""Thai, Lao, Burmese, Khmer, kana and Han, as a class of a regular expression."""
_LETTERS: Final = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
_MARKS: Final = (
    "\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ece\u102b-\u103e\u1056-\u1060\u17b4-\u17d3\u17dd"
)
_ANY: Final = re.compile(f"[{UNSPACED}]")
_SPACED_WORD: Final = re.compile(r"\S+")
_WORD: Final = re.compile(
    rf"[^\w\s]*(?:(?:[{_LETTERS}][{_MARKS}]*){{1,4}}|[{UNSPACED}])[{_MARKS}]*(?:[^\w\s{UNSPACED}])*|[^\s{UNSPACED}]+"
)


def word_ends(text: str, most: int | None = None) -> list[int]:
    """The offsets behind the first `most` words of a text, behind all of them unless given.

    A word is a run of non-space characters; of Han and kana it is one character, as Chinese and Japanese readers count
    them, and of Thai, Lao, Khmer and Burmese four letters with their marks, their mean. Punctuation belongs to the word
    beside it.
    """
    pattern = _WORD if not text.isascii() and _ANY.search(text) else _SPACED_WORD
    ends: list[int] = []
    for found in pattern.finditer(text):
        if len(ends) == most:
            break
        ends.append(found.end())
    return ends


def count_words(text: str) -> int:
    """How many words a text has, by `word_ends`."""
    return len(text.split()) if text.isascii() or not _ANY.search(text) else len(word_ends(text))
