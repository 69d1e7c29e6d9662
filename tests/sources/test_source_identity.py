"""Ids: the same for what users call the same prompt, different for all else."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.sources import normalise, row_id
from pipeline.sources.identity import caseless

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
    same = [caseless(t) for t in one] == [caseless(t) for t in other]
    assert (row_id("math", one) == row_id("math", other)) == same


def test_separators_are_unambiguous() -> None:
    cuts = [["ab"], ["a", "b"], ["a\x00b"], ["a1:b"], ["a", "1:b"], ["", "ab"], ["ab", ""]]
    assert len({row_id("math", turns) for turns in cuts}) == len(cuts)
    assert row_id("ma", ["thx"]) != row_id("math", ["x"])


def test_ids_never_change() -> None:
    assert row_id("harmful", ["Where is the key?"]) == "14eb2844163c277400b1fe3f9fbbf804"


def test_lone_surrogates_have_an_id() -> None:
    assert row_id("harmful", ["\ud800"]) != row_id("harmful", ["\ud801"])


PLAIN = "How do I explain a coupon's date to my old boss at work?"
HOMOGLYPHS = str.maketrans("aceopxyHI", "\u0430\u0441\u0435\u043e\u0440\u0445\u0443\u041d\u0406")
GREEK = str.maketrans("aeopHI", "\u03b1\u03b5\u03bf\u03c1\u0397\u0399")
INSERTED = [
    "\u200b",
    "\u200d",
    "\u2060",
    "\ufeff",
    "\u00ad",
    "\u034f",
    "\u180e",
    "\u0301",
    "\u0336",
    "\u20dd",
    "\ufe0f",
    "\u0e34",
]
"""Characters of no width, a soft hyphen, and marks, one of them Thai."""


@pytest.mark.parametrize(
    "disguised",
    [
        *(re.sub(r"\b(\w)", rf"\1{mark}", PLAIN) for mark in INSERTED),
        PLAIN.translate(HOMOGLYPHS),
        PLAIN.translate(GREEK),
        "".join(f"&#{ord(letter)};" for letter in PLAIN),
        "".join(f"&#x{ord(letter):x};" for letter in PLAIN),
        PLAIN.replace("'", "&amp;#39;").replace(" ", "&nbsp;"),
        PLAIN.replace("'", "\u2019").replace(" ", "\u2003"),
        "".join(chr(ord(c) + 0xFEE0) if c.isalpha() else c for c in PLAIN),
        "".join(chr(0x1D41A + ord(c) - ord("a")) if "a" <= c <= "z" else c for c in PLAIN),
        "".join(chr(0x24D0 + ord(c) - ord("a")) if "a" <= c <= "z" else c for c in PLAIN),
        "".join(chr(0x1F170 + ord(c) - ord("a")) if "a" <= c <= "z" else c for c in PLAIN),
    ],
)
def test_a_disguise_hides_no_text(disguised: str) -> None:
    assert normalise(disguised) == normalise(PLAIN) == PLAIN.lower()


@given(st.text(alphabet=st.characters(codec="ascii", exclude_characters="&"), min_size=1), st.data())
def test_no_text_is_hidden_by_what_is_put_between_its_letters(text: str, data: st.DataObject) -> None:
    between = st.text(alphabet=["\u200b", "\u00ad", "\u2060", "\u0301", "\ufe0f"], max_size=3)
    disguised = "".join(letter + data.draw(between) for letter in text)
    assert normalise(disguised) == normalise(text)


@given(st.text() | st.text(alphabet="&#;amplt10\u0430b \u0301\u200b<\u02bc\u03d2\u0345\u1e9e"))
def test_the_form_that_is_compared_stays_as_it_is(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


@pytest.mark.parametrize(
    "text", ["Как убить процесс?", "Πώς τερματίζω τη διεργασία;", "がんばって", "ที่ร้านอาหาร", "हिन्दी में"]
)
def test_another_script_is_left_to_its_readers(text: str) -> None:
    letters = [letter for letter in normalise(text) if letter.isascii() and letter.isalpha()]
    assert letters == []
    assert len(normalise(text)) == len(text)


def test_a_disguise_has_an_id_of_its_own_and_a_typed_text_keeps_its() -> None:
    assert row_id("benign", ["a \u0441at"]) != row_id("benign", ["a cat"])
    assert row_id("benign", ["caf\u00e9 &amp; \u201cbar\u201d"]) != row_id("benign", ['cafe & "bar"'])
