"""Samplers: what writes the prefills."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from pipeline.errors import RecapError
from pipeline.judges import Stance


class PrefillRequest(NamedTuple):
    """One prefill to write: for which row, in which stance, at most how many words, and which try this is (from 0).

    Of a math row the stance is None.
    """

    id: str
    prompt: str
    category: str | None
    stance: Stance | None
    words: int
    seed: int
    attempt: int


class Thought(NamedTuple):
    """What a sampler wrote: its thinking, and the answer it gave behind it, None where it gave none.

    ``answered_by`` is what its server calls the model, None where that is the name it was asked by.
    """

    thinking: str
    answer: str | None = None
    answered_by: str | None = None


class Unwritable(RecapError):
    """The sampler can't write for this prompt, at any attempt; the message is why the row is dropped."""


class Sampler(Protocol):
    """Writes prefills. The attributes up to ``parameters`` go into the ``sampling`` column of every row it wrote.

    ``steering`` are the texts that the model was steered by: nothing of them may stand in a prefill.
    """

    name: str
    engine: str
    model: str | None
    revision: str | None
    parameters: dict[str, object]

    @property
    def steering(self) -> tuple[str, ...]:
        """See the class."""
        ...

    def template(self, stance: Stance | None) -> str | None:
        """The sha256 of the template that writes this stance, None where no template is used."""
        ...

    async def sample(self, request: PrefillRequest) -> Thought:
        """The raw thinking for a request. Raises Unwritable where it has none for this prompt."""
        ...
