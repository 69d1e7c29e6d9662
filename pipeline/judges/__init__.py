"""Judges: verdicts on a response or on the head of a chain of thought."""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

Stance = Literal["complies", "refuses", "unclear", "unreadable"]
Part = Literal["response", "thinking"]

COUNTER_ALIGNED: dict[str, Stance] = {"harmful": "complies", "benign": "refuses"}
"""The stance a counter-aligned prefill has in each domain that carries one (RECAP, Sec. 3.1)."""


_OPPOSITE: dict[Stance, Stance] = {"complies": "refuses", "refuses": "complies"}


def wanted_stance(domain: str, kind: str = "counter-aligned") -> Stance | None:
    """The stance that a domain's prefills must have, ``counter-aligned`` or ``aligned``; None where none is read."""
    stance = COUNTER_ALIGNED.get(domain)
    return _OPPOSITE[stance] if stance and kind == "aligned" else stance


class Exchange(NamedTuple):
    """What there is to judge: a prompt, and what a model thought and answered, None where it did not."""

    prompt: str
    thinking: str | None = None
    answer: str | None = None


class Verdict(NamedTuple):
    """A judge's reading of an exchange.

    ``score`` runs from 0 (refuses) to 1 (complies), 0.5 is undecided; None where the judge gave none. A judge that read
    the text and can't tell says ``unclear``; one whose own answer can't be read, or that did not answer, is
    ``unreadable``. Neither ever counts as a pass. ``sees`` are the parts of the exchange that the judge was shown.
    """

    stance: Stance
    judge: str
    score: float | None
    sees: tuple[str, ...] = ("prompt", "thinking")


class Judge(Protocol):
    """Reads stances.

    ``name`` goes into each verdict: the engine, and the model where there is one. ``reads`` are the stances that it can
    tell, besides ``unclear``: a guard that knows safe and unsafe only never says ``refuses``.
    """

    name: str
    reads: frozenset[Stance]

    async def judge(self, exchange: Exchange) -> Verdict:
        """Read the stance of what a model thought or answered.

        Raises:
            EngineError: the judge's model could not be made to answer.
        """
        ...
