from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.thinking import control_token, cut_prefix, sentence_ends
from pipeline.words import count_words

TOKENS = [
    *("<think>", "</think>", "<Think>", "</thinking>"),
    *("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|fim_prefix|>"),
    *("<|begin_of_text|>", "<|start_header_id|>", "<|eot_id|>", "<|reserved_special_token_0|>"),
    *("<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>"),
    *("<|channel|>", "<|turn>", "<turn|>", "<start_of_turn>", "<end_of_turn>"),
    *("<bos>", "<s>", "</s>", "[INST]", "[/INST]", "<<SYS>>", "[gMASK]", "<sop>", "<|user|>"),
]


@pytest.mark.parametrize("token", TOKENS)
def test_control_tokens_of_the_families_are_found(token: str) -> None:
    assert control_token(f"so I say {token} and go on") == token


@pytest.mark.parametrize(
    "text", ["a < b and c > d", "if x <y> z", "x | y", "[1] and [i]", "3 <|> 4", "List<String>", "<b>bold</b>", "s > 1"]
)
def test_ordinary_text_holds_none(text: str) -> None:
    assert control_token(text) is None


def test_a_cut_ends_at_a_sentence_where_that_costs_little() -> None:
    text = "One two three four. Five six seven eight. Nine ten eleven."
    assert cut_prefix(text, 9) == ("One two three four. Five six seven eight.", 8, True)


def test_a_cut_stays_at_the_word_where_a_sentence_would_cost_much() -> None:
    text = "One two. Three four five six seven eight nine ten eleven."
    assert cut_prefix(text, 9) == ("One two. Three four five six seven eight nine", 9, False)


def test_a_short_text_is_kept_and_never_padded() -> None:
    assert cut_prefix("  Just this.  ", 500) == ("Just this.", 2, True)
    assert cut_prefix(" \n ", 500) == ("", 0, False)


def test_abbreviations_and_decimals_end_no_sentence() -> None:
    text = "Use e.g. 3.5 cups, says Dr. Who. Then stop!"
    assert [text[:end] for end in sentence_ends(text)] == ["Use e.g. 3.5 cups, says Dr. Who.", text]


@given(st.text(), st.integers(1, 40))
def test_a_cut_is_a_prefix_within_its_words(text: str, words: int) -> None:
    cut = cut_prefix(text, words)
    assert text.lstrip().startswith(cut.text)
    assert cut.words == count_words(cut.text) <= words
    assert cut.text == cut.text.strip()


@given(st.lists(st.sampled_from(["one", "two.", "three?", "e.g.", "3.5", "four!\n"]), max_size=60), st.integers(1, 40))
def test_cutting_again_changes_nothing(parts: list[str], words: int) -> None:
    cut = cut_prefix(" ".join(parts), words)
    assert cut_prefix(cut.text, words) == cut
    assert cut.words >= min(words, len(parts)) * 0.8


CHINESE = "嗯，用户在问如何更换自行车的轮胎。首先，我需要准备好工具，例如扳手。然后把车翻过来。"
JAPANESE = "自転車のタイヤを交換する方法ですね。まず、工具を用意します。それから、車輪を外します。"
THAI = "ผู้ใช้ถามเกี่ยวกับวิธีเปลี่ยนยางจักรยานดังนั้นฉันต้องเตรียมเครื่องมือให้พร้อมก่อน"


@pytest.mark.parametrize("text", [CHINESE, JAPANESE])
def test_a_text_without_spaces_is_cut_at_its_characters(text: str) -> None:
    cut = cut_prefix(text * 20, 10)
    assert (cut.words, cut.at_sentence) == (10, False)
    assert 10 <= len(cut.text) <= 12
    assert 480 <= cut_prefix(text * 60, 500).words <= 500
    assert cut_prefix(text * 60, 500).at_sentence


def test_a_thai_word_is_four_letters_with_their_marks() -> None:
    cut = cut_prefix(THAI, 10)
    assert cut.words == 10
    assert 40 <= len(cut.text) <= 60


def test_words_with_spaces_count_as_before_among_characters() -> None:
    assert cut_prefix("用 Python 3.12 写，then run it", 5) == ("用 Python 3.12 写，then", 5, False)
