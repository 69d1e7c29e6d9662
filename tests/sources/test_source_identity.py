"""Ids: the same for what users call the same prompt, different for all else."""

from __future__ import annotations

import re
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from pipeline.sources import normalise, row_id

TURNS = st.lists(st.text(), min_size=1, max_size=3)


@given(st.text())
def test_normalise_is_idempotent(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


@given(st.sampled_from(["harmful", "benign", "math"]), TURNS)
def test_id_ignores_case_white_space_and_compatible_forms(domain: str, turns: list[str]) -> None:
    expected = row_id(domain, turns)
    assert re.fullmatch("[0-9a-f]{32}", expected)
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        assert row_id(domain, [unicodedata.normalize(form, turn) for turn in turns]) == expected
    assert row_id(domain, [turn.casefold() for turn in turns]) == expected
    assert row_id(domain, ["\n\t " + "  ".join(re.split("( )", turn)) + " \r\n" for turn in turns]) == expected


def test_id_ignores_what_users_take_for_the_same() -> None:
    wide = "\uff28\uff4f\uff57 do I kill a process?"
    same = ["How do I kill a process?", "  how DO i\tkill\na process? ", wide]
    assert len({row_id("benign", [text]) for text in same}) == 1
    assert row_id("benign", ["STRASSE"]) == row_id("benign", ["straße"])
    assert row_id("benign", ["caf\u00e9"]) == row_id("benign", ["cafe\u0301"])


@given(TURNS)
def test_id_differs_by_domain(turns: list[str]) -> None:
    assert len({row_id(domain, turns) for domain in ("harmful", "benign", "math")}) == 3


@given(TURNS, TURNS)
def test_id_differs_by_text_and_by_the_cut_into_turns(one: list[str], other: list[str]) -> None:
    same = [normalise(t) for t in one] == [normalise(t) for t in other]
    assert (row_id("math", one) == row_id("math", other)) == same


def test_separators_are_unambiguous() -> None:
    cuts = [["ab"], ["a", "b"], ["a\x00b"], ["a1:b"], ["a", "1:b"], ["", "ab"], ["ab", ""]]
    assert len({row_id("math", turns) for turns in cuts}) == len(cuts)
    assert row_id("ma", ["thx"]) != row_id("math", ["x"])


def test_ids_never_change() -> None:
    assert row_id("harmful", ["Where is the key?"]) == "14eb2844163c277400b1fe3f9fbbf804"


def test_lone_surrogates_have_an_id() -> None:
    assert row_id("harmful", ["\ud800"]) != row_id("harmful", ["\ud801"])
