"""What a run may send and spend, by all that it asks together, and however often a part of it is begun anew."""

from __future__ import annotations

import asyncio
import math
import time
from typing import NamedTuple, Protocol
from uuid import uuid4

from pipeline.errors import RecapError

ALL_KEPT = "Every answer so far is in the ledger: run the same command again to go on."


class EngineError(RecapError):
    """No server could be made to answer."""


class NoModelError(EngineError):
    """A server has no model of the name that is asked for."""


class BudgetSpent(EngineError):
    """What a run may send, or cost, is used up."""


class Prices(Protocol):
    """What a million tokens of a prompt and of an answer cost."""

    @property
    def prompt(self) -> float:
        """Of a prompt."""

    @property
    def completion(self) -> float:
        """Of an answer."""


class Tokens(NamedTuple):
    """Tokens of a prompt, and of an answer; of one that nothing bounds, infinitely many."""

    prompt: float = 0
    completion: float = 0

    def cost(self, prices: Prices | None) -> float:
        """What they cost; 0 where no prices are known."""
        if prices is None:
            return 0.0
        parts = ((self.prompt, prices.prompt), (self.completion, prices.completion))
        return sum(tokens * price for tokens, price in parts if price) / 1e6


NO_TOKENS = Tokens()


class Used(NamedTuple):
    """Answers that rows were made with, whenever they were paid: how many, their tokens as servers counted them, and
    what these cost by the recipe's prices.
    """

    answers: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0

    def plus(self, other: Used) -> Used:
        """Both together."""
        return Used(
            self.answers + other.answers,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cost + other.cost,
        )


class Run(NamedTuple):
    """One command of a user, however often a part of it is begun anew: its id, and when it began (since 1970)."""

    id: str
    began: float

    @classmethod
    def begin(cls) -> Run:
        """A new one, beginning now."""
        return cls(uuid4().hex, time.time())


class Budget:
    """What a run may still send and cost, by all its engines together; None for any number.

    The cost of a request in flight is reserved at its most, so that ``cost`` is never more than allowed by what the
    prices say. ``spent`` counts requests sent, ``cost`` is that of what was asked for: of an answer that can't be used
    too, and the most that a request may cost where a server doesn't say what it counted. What of both is known to the
    ledger under the run's id was spent before, by a part of the run that was begun anew.
    """

    def __init__(self, requests: int | None = None, cost: float | None = None, run: Run | None = None) -> None:
        self._requests, self._cost = requests, cost
        self.run = run or Run.begin()
        self._reserved, self._in_flight = 0.0, 0
        self._settled = asyncio.Event()
        self.spent, self.cost = 0, 0.0

    @property
    def asks(self) -> bool:
        """Whether anything may be sent at all."""
        return self._requests is None or self._requests > 0

    def resume(self, requests: int, cost: float) -> None:
        """Take what the run has spent before from what it may."""
        self.spent, self.cost = self.spent + requests, self.cost + cost

    async def reserve(self, most: float = 0.0) -> None:
        """Take a request that costs at most `most` from it, once those in flight leave enough.

        Raises:
            BudgetSpent: there is too little left, or nothing says what the request may cost.
        """
        while True:
            if self._requests is not None and self.spent >= self._requests:
                sent = "The requests allowed by --max-requests were sent."
                raise BudgetSpent(f"{sent if self.spent else 'No request may be sent (--max-requests 0).'} {ALL_KEPT}")
            if self._cost is None or self.cost + self._reserved + most <= self._cost:
                break
            if math.isinf(most):
                raise BudgetSpent(
                    "Nothing says how long an answer may be (max_tokens), so --max-cost can't hold. Give max_tokens in "
                    "the recipe, or leave --max-cost out."
                )
            if not self._in_flight:
                raise BudgetSpent(
                    f"The next request may cost {most:.6g}, and {self.cost:.6g} of the {self._cost:.6g} that may be "
                    f"spent is spent (--max-cost). {ALL_KEPT}"
                )
            self._settled.clear()
            await self._settled.wait()
        self.spent += 1
        self._reserved += most if math.isfinite(most) else 0.0
        self._in_flight += 1

    def settle(self, most: float, cost: float) -> None:
        """Put what a request really cost in the place of what was reserved for it."""
        self._in_flight -= 1
        self._reserved -= most if math.isfinite(most) else 0.0
        if not self._in_flight:
            self._reserved = 0.0
        self.cost += cost if math.isfinite(cost) else 0.0
        self._settled.set()
