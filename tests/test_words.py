"""Words as readers count them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.words import count_words, word_ends


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("How do I kill a Python process?", 7),
        ("如何更换自行车的轮胎？", 10),
        ("自転車のタイヤを、交換する。", 12),
        ("用 Python 3.12 写", 4),
        ("สวัสดีครับ", 2),
        ("", 0),
        (" \n", 0),
    ],
)
def test_words_are_counted_as_readers_do(text: str, words: int) -> None:
    assert count_words(text) == words


@given(st.text(alphabet=st.characters(max_codepoint=0x7FF)))
def test_where_words_have_spaces_they_are_runs_of_other_characters(text: str) -> None:
    assert count_words(text) == len(text.split())


@given(st.text() | st.text(alphabet="轮胎。，ab กิ่「」"), st.integers(0, 5))
def test_ends_are_in_order_and_leave_nothing_but_space_and_marks(text: str, most: int) -> None:
    ends = word_ends(text)
    assert ends == sorted(set(ends))
    assert word_ends(text, most) == ends[:most]
    assert len(ends) == count_words(text)
    assert not text or not text[-1:].isalnum() or ends[-1] == len(text)
