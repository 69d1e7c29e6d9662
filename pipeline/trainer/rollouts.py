"""What a trainer's rewards are given, and what they give: rollouts and scores.

A rollout is read once (`pipeline.thinking.read_output`), and every reward sees of it the user's prompt and the final
answer: never the prefill, the thinking, or the marks around them. Thinking that never closes has no answer behind it,
and a rollout without an answer earns 0: what a user would get of it is nothing.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from pipeline.thinking import Marks, Reading, read_output

Why = Literal["scored", "unclosed", "empty", "unreadable", "unclear", "unverified", "no-truth"]


class Rollout(NamedTuple):
    """One completion of a row.

    ``id``, ``domain``, ``reward`` and ``ground_truth`` are the row's; ``prompt`` is the user's text without any markup,
    ``completion`` what the policy wrote behind all that it was given, with its marks; ``opened`` says that what it was
    given ended inside the thinking: with a prefill, or with the opening mark of its template; ``closed`` that it had
    closed the thinking, so that all of the completion is answer. ``marks`` are the policy's own.
    """

    id: str
    domain: str
    reward: str
    prompt: str
    completion: str
    ground_truth: str | None = None
    opened: bool = False
    closed: bool = False
    marks: Marks | None = None


class Score(NamedTuple):
    """A reward from 0 to 1, None where there is none, and why.

    ``scored``: judged. ``unclosed``, ``empty``: 0, since the thinking never closed, or nothing follows it. All others
    are None: ``unreadable``, a judge's answer that can't be read, or a request that it refuses; ``unclear``, a text of
    which the embedded judge can't tell the stance; ``unverified``, an answer that math-verify can't work out;
    ``no-truth``, a ground truth that is missing or that it can't read.
    """

    value: float | None
    why: Why

    @property
    def said(self) -> str:
        """Why, in the judge's own words where it has any."""
        return self.why


class Unreadable(Score):
    """The score of a rollout whose judge, or its server, said something else than an answer that can be read."""

    _said: str

    @classmethod
    def of(cls, said: str) -> Unreadable:
        """The score, with what was said."""
        score = cls(None, "unreadable")
        score._said = said
        return score

    @property
    def said(self) -> str:
        """What was said."""
        return self._said


def read_rollout(rollout: Rollout) -> Reading | Score:
    """The thinking and the answer of a rollout; the score of one that has no answer."""
    reading = read_output(rollout.completion, opened=rollout.opened, closed=rollout.closed, marks=rollout.marks)
    if not reading.closed:
        return Score(0.0, "unclosed")
    return reading if reading.answer else Score(0.0, "empty")
