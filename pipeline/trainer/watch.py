"""Whether a training still learns from its judges: what a group is worth, and when too many steps in a row were worth
too little.

A judge that can't be read leaves rollouts unscored, and groups that can't be filled are left out of the loss. Either is
right once and wrong for long: a run whose guard refuses what is harmful goes on with the rest, and drifts. So a reward
whose unscored share, or a run whose share of missing groups, stays over a bound for some steps stops it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

Lesson = Literal["teaches", "unscored", "all_bad", "all_good"]

POOR: tuple[Lesson, ...] = ("unscored", "all_bad")
"""What a group is worth that is missing for want of rewards. One that is all good is missing since it was learned."""

_GROUPS = "groups"
_NUMBERS = re.compile(r"\d+")


class Stop(BaseModel):
    """When a training stops, rather than go on without its judges.

    Attributes:
        unscored: the most of a reward's rollouts with an answer that may be unscored.
        short: the most of a step's groups that may be missing for want of rewards: nobody could score them, or all that
            they earned was 0. Groups that are all good are no fault.
        steps: how many steps in a row one of them must be over its bound.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    unscored: float = Field(default=0.25, ge=0, le=1)
    short: float = Field(default=0.9, ge=0, le=1)
    steps: int = Field(default=5, ge=1)


class Seen(NamedTuple):
    """What a step came to, over all processes: by reward the rollouts with an answer and those of them that nobody
    could score; the groups that were wanted, and those that were missing for want of rewards.
    """

    asked: Mapping[str, int]
    unscored: Mapping[str, int]
    wanted: int
    short: int


def lesson(rewards: Sequence[float], tau: float | None) -> Lesson:
    """What a group of rollouts is worth. It teaches unless it is all bad (0), or all good (over `tau`, if there is
    one), or fewer than two of it are scored. NaN is the reward of a rollout that nobody could score: it counts for
    nothing.
    """
    scored = [reward for reward in rewards if reward == reward]  # noqa: PLR0124
    if len(scored) < 2:
        return "unscored"
    if max(scored) <= 0:
        return "all_bad"
    return "all_good" if tau is not None and min(scored) > tau else "teaches"


class Watch:
    """Follows a training step by step. ``verdict`` says why it is to stop, and is empty as long as it is not.

    Args:
        stop: the bounds; None warns at those that are the default, and never stops.
        tell: is given the warnings.
    """

    def __init__(self, stop: Stop | None, tell: Callable[[str], None]) -> None:
        self.verdict = ""
        self._stops, self._bounds, self._tell = stop is not None, stop or Stop(), tell
        self._words: dict[str, Counter[str]] = {}
        self._first: dict[str, str] = {}
        self._over: dict[str, list[tuple[int, int]]] = {}
        self._taught = self._steps = 0

    def hear(self, about: str, said: Iterable[str]) -> None:
        """Note what was said where a rollout of a reward wasn't scored, or a group (of all rewards) doesn't teach.

        What differs in numbers alone is the same, and told as it was said first.
        """
        words = [(_NUMBERS.sub("#", text), text) for text in said]
        self._words.setdefault(about, Counter()).update(same for same, _ in words)
        self._first = dict(words[::-1]) | self._first

    def hear_groups(self, lessons: Iterable[Lesson]) -> None:
        """Note why groups didn't teach."""
        self.hear(_GROUPS, (kind.replace("_", " ") for kind in lessons if kind in POOR))

    def step(self, number: int, seen: Seen) -> None:
        """Judge a step that was made."""
        self._steps += 1
        self._taught += seen.wanted - seen.short
        for reward, asked in seen.asked.items():
            self._judge(number, reward, seen.unscored.get(reward, 0), asked, self._bounds.unscored)
        self._judge(number, _GROUPS, seen.short, seen.wanted, self._bounds.short)

    def end(self) -> None:
        """Judge a training that is through: one in which no group ever taught anything has trained nothing."""
        if self._steps and not self._taught and not self.verdict:
            self._conclude(
                f"no group of {self._steps:,} steps taught anything{self._said(_GROUPS)}", "give another --out"
            )

    def state(self) -> dict[str, Any]:
        """What to go on from after an interruption, as plain JSON."""
        return {"over": self._over, "taught": self._taught, "steps": self._steps}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self._over = {about: [(part, whole) for part, whole in over] for about, over in state["over"].items()}
        self._taught, self._steps = state["taught"], state["steps"]

    def _judge(self, number: int, about: str, part: int, whole: int, bound: float) -> None:
        if not whole:
            return
        if part <= bound * whole:
            self._over.pop(about, None)
            self._words.pop(about, None)
            return
        over = self._over.setdefault(about, [])
        over.append((part, whole))
        if len(over) < self._bounds.steps or (not self._stops and len(over) % self._bounds.steps):
            return
        parts, wholes = (sum(column) for column in zip(*over, strict=True))
        which = (
            "of the groups that a step is to learn from"
            if about == _GROUPS
            else f"of the answers that {about} is the reward of"
        )
        what = "were missing" if about == _GROUPS else "were unscored"
        self._conclude(
            f"{which}, {parts / wholes:.0%} {what} in {len(over)} steps in a row up to step {number} (bound: "
            f"{bound:.0%} in {self._bounds.steps} steps){self._said(about)}"
        )

    def _said(self, about: str) -> str:
        told = self._words.get(about, Counter()).most_common(3)
        words = "; ".join(f"{self._first[same]} ({count:,} times)" for same, count in told)
        return f". What was said of them, the most frequent first: {words}" if words else ""

    def _conclude(self, found: str, again: str = "run the same command again: it goes on from the newest one") -> None:
        if not self._stops:
            self._tell(f"WARNING: {found}. The training goes on without them (stop: null).")
        elif not self.verdict:
            self.verdict = (
                f"The training was stopped: {found}. Its checkpoints are kept. Mend the judge, or what the policy is "
                f"asked, and {again}. The bounds are settings: stop.unscored, stop.short, stop.steps; stop: null only "
                "warns."
            )
