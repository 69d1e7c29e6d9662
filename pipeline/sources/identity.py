"""What makes two prompts the same, and the id that follows from it."""

from __future__ import annotations

import hashlib
import unicodedata


def normalise(text: str) -> str:
    """Return the form in which prompts are compared: NFKC, casefolded, every run of white space one space, stripped.

    Outside ASCII, folding can undo the normal form and the other way round, so both are done as Unicode's compatibility
    caseless matching (D146) has them.
    """
    if text.isascii():
        return " ".join(text.lower().split())
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFD", text).casefold())
    return " ".join(unicodedata.normalize("NFKC", text.casefold()).split())


def row_id(domain: str, prompt_turns: list[str]) -> str:
    """Return the row's id: 32 hex characters, a hash of the domain and the normalised turns.

    The same prompt keeps its id in every version of a mixture, whatever its source, case or white space.
    """
    return normal_id(domain, [normalise(turn) for turn in prompt_turns])


def normal_id(domain: str, normal_turns: list[str]) -> str:
    """`row_id` of turns that are normalised already."""
    parts = [part.encode("utf-8", "surrogatepass") for part in [domain, *normal_turns]]
    return hashlib.blake2b(b"".join(b"%d:%b" % (len(part), part) for part in parts), digest_size=16).hexdigest()
