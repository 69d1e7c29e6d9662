"""Judges: three-valued verdicts on a response or on the head of a chain of thought."""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

Stance = Literal["complies", "refuses", "unclear"]
Part = Literal["response", "thinking"]

COUNTER_ALIGNED: dict[str, Stance] = {"harmful": "complies", "benign": "refuses"}
"""The stance a counter-aligned prefill has in each domain that carries one (RECAP, Sec. 3.1)."""


class Verdict(NamedTuple):
    """A judge's reading of one text.

    ``score`` runs from 0 (refuses) to 1 (complies), 0.5 is undecided; None where the judge could not be read, and then
    the stance is ``unclear``. An unclear verdict never counts as a pass.
    """

    stance: Stance
    judge: str
    score: float | None


class Judge(Protocol):
    """Reads stances. ``name`` is the recipe's name for it and goes into each verdict."""

    name: str

    def judge(self, prompt: str, text: str, part: Part) -> Verdict:
        """Read the stance of `text`, which answers or thinks about `prompt`."""
        ...
