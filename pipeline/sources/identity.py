"""What makes two prompts the same, the id that follows from it, and the form in which prompts are compared."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from functools import cache
from html import unescape
from typing import Final

_MARKS: Final = re.compile(
    "[\u0300-\u036f\u0483-\u0489\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06ed"
    "\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe00-\ufe0f\ufe20-\ufe2f\U000e0100-\U000e01ef]"
)
"""Marks that any letter may carry, and the vowels that Arabic and Hebrew mostly leave out. Those of Thai, of the Indic
scripts and of kana are letters to their readers, and stay but on a Latin one."""
_FILLERS: Final = "\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"
_PUNCTUATION: Final = {"'": "‘’‚‛ʼʹ′´", '"': "“”„‟″", "-": "‐‑‒–—―−"}
_LOOKALIKES: Final = {
    **{"a": "аɑαΑАᎪᴀ", "b": "вВЬΒᏴʙ", "c": "сСϲϹᏟᴄ", "d": "ԁԀᎠđᴅ", "e": "еЕεΕᎬєᴇ", "f": "ƒꜰϝ", "g": "ɡցᏀɢԍ"},
    **{"h": "һҺΗНᎻħհʜ", "i": "іІιΙıӏӀɩɪ", "j": "јЈϳᎫᴊ", "k": "κΚкКᏦᴋ", "l": "łᏞʟǀ", "m": "ΜМᎷᴍм", "n": "Νոռɴη"},
    **{"o": "оОοΟօøσᴏ", "p": "рРρΡᏢᴘ", "q": "ԛԚզ", "r": "гᏒʀ", "s": "ѕЅᏚꜱ", "t": "ΤТᎢŧᴛтτ", "u": "սυᴜμ"},
    **{"v": "νѵѴᏙᴠ", "w": "ԝԜѡωᎳᴡ", "x": "хХχΧ", "y": "уУүҮΥᎩγʏ", "z": "ΖᏃᴢ"},
}
"""Letters of other scripts by the Latin one that they look like, after the confusables of Unicode's TS 39."""
_LATIN: Final = re.compile("[A-Za-z]")
_WORD: Final = re.compile(r"\w+")


def caseless(text: str) -> str:
    """Return the form that makes an id: NFKC, casefolded, every run of white space one space, stripped.

    Outside ASCII, folding can undo the normal form and the other way round, so both are done as Unicode's compatibility
    caseless matching (D146) has them.
    """
    if text.isascii():
        return " ".join(text.lower().split())
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFD", text).casefold())
    return " ".join(unicodedata.normalize("NFKC", text.casefold()).split())


def normalise(text: str) -> str:
    """Return the form in which prompts are compared: `caseless`, without what would hide a text from a comparison.

    HTML entities are read, format characters and marks left out, typographic quotes and dashes are plain ones, and a
    letter of another script is the Latin one that it looks like, in a word that then is all Latin, of a text that holds
    some. No id is made of this form, and it is never published.
    """
    before = None
    while text != before and not (text.isascii() and "&" not in text):
        before, text = text, _unmasked(unescape(text))
    return " ".join(text.lower().split()) if text.isascii() else text


def _unmasked(text: str) -> str:
    unseen, looks, mark = _tables()
    if not text.isascii():
        text = unicodedata.normalize("NFKD", text)
        for letter in sorted(set(text)):
            if (plain := unseen.get(ord(letter))) is not None:
                text = text.replace(letter, plain)
    if not text.isascii():
        text = unicodedata.normalize("NFC", mark.sub("", text))
        if _LATIN.search(text):
            text = _WORD.sub(lambda word: _latin(word.group(), looks), text)
    return caseless(text)


def _latin(word: str, looks: dict[int, str]) -> str:
    read = word if word.isascii() else word.translate(looks)
    return read if read.isascii() else word


@cache
def _tables() -> tuple[dict[int, str], dict[int, str], re.Pattern[str]]:
    """What is left out or made plain, the lookalikes, and the marks that may stand on a Latin letter."""
    points = [*range(0x80, 0x20000), *range(0xE0000, 0xE0200)]
    kinds = {point: unicodedata.category(chr(point)) for point in points}
    unseen = {point: "" for point in points if kinds[point] == "Cf" or _MARKS.match(chr(point))}
    unseen |= dict.fromkeys(map(ord, _FILLERS), "")
    unseen |= {ord(char): plain for plain, chars in _PUNCTUATION.items() for char in chars}
    looks = {ord(char): plain for plain, chars in _LOOKALIKES.items() for char in chars}
    for first in (0x1F150, 0x1F170, 0x1F1E6):  # letters in black circles and squares, and those that make flags
        unseen |= {first + place: chr(ord("a") + place) for place in range(26)}
    marks = "".join(re.escape(chr(point)) for point in points if kinds[point] in ("Mn", "Me") and point not in unseen)
    return unseen, looks, re.compile(f"(?<=[A-Za-z0-9])[{marks}]+")


def row_id(domain: str, prompt_turns: list[str]) -> str:
    """Return the row's id: 32 hex characters, a hash of the domain and the caseless turns.

    The same prompt keeps its id in every version of a mixture, whatever its source, case or white space.
    """
    return caseless_id(domain, [caseless(turn) for turn in prompt_turns])


def caseless_id(domain: str, caseless_turns: list[str]) -> str:
    """`row_id` of turns that are caseless already."""
    parts = [part.encode("utf-8", "surrogatepass") for part in [domain, *caseless_turns]]
    return hashlib.blake2b(b"".join(b"%d:%b" % (len(part), part) for part in parts), digest_size=16).hexdigest()
