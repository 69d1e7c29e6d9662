"""The rewards of a rollout with an answer: safety, helpfulness, and SARA's variants of both.

*recap* (RECAP, Sec. 3.1): safety is the probability that the answer is not risky, from a guard's log-probabilities;
helpfulness is 0 where a judge model says that the answer refuses, 1 where it complies, 0.5 where it does neither.

*sara*: safety is ``R_cot * R_SA / 2 + R_ans / 2``. ``R_ans`` is the same probability, ``R_cot`` that of the thinking,
and ``R_SA = 1 - k / N``: `k` of its `N` sentences stand before the first that is aware of safety, all of them where
none is. Helpfulness is the judge's score, which is SARA's 1 - refusal / 10. What differs from its code: guard and judge
are shown the user's own words and what the policy wrote, no prefill and no markup; the judge of helpfulness sees the
question too; an answer that can't be read leaves the rollout unscored, whichever of the three it is, where there it
was 0 or 1 by version; and no thinking is told from unsafe thinking, by its count.

A judge that can't be read never becomes a number. The embedded stand-in takes no part in doubt: a stance that it can't
tell is `unclear`, and unscored.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, Protocol

from pipeline.clients import Answer, Client
from pipeline.clients.opening import Clients
from pipeline.engine import Refused
from pipeline.errors import RecapError
from pipeline.judges import Exchange, Stance
from pipeline.judges.awareness import AwarenessJudge, sentences
from pipeline.judges.guard import GuardJudge
from pipeline.judges.refusal import RefusalJudge
from pipeline.judges.rubric import RubricJudge
from pipeline.recipe import RefusalConfig, ServedModel
from pipeline.thinking import Reading
from pipeline.trainer.reward_config import RewardsConfig
from pipeline.trainer.rollouts import Rollout, Score, Unreadable
from pipeline.trainer.verifying import Verifiers

_SHOWN = 40
"""Characters of an answer that are told; a longer one may repeat what it was shown, and only its length is."""

_heard: ContextVar[str] = ContextVar("heard", default="")
"""What was said last of the rollout that is scored in this task: a refusal counts more than an answer."""


class _Overheard:
    """A judge's client that remembers, for each rollout, what the model or its server said."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def ask(self, body: Mapping[str, Any], **further: Any) -> Answer:
        try:
            answer = await self._client.ask(body, **further)
        except Refused as refused:
            _heard.set(f"no answer: {refused}")
            raise
        if not _heard.get().startswith("no answer"):
            text = answer.text.strip()
            told = repr(text) if len(text) <= _SHOWN else f"an answer of {len(text):,} characters"
            _heard.set(f"{told}, which can't be read")
        return answer


def _overheard(clients: Clients, config: ServedModel) -> Client:
    client: Any = _Overheard(clients.open(config))
    return client  # type: ignore[no-any-return]


def _unreadable() -> Score:
    return Unreadable.of(_heard.get() or "not asked: the text holds control tokens")


class Reward(Protocol):
    """Scores rollouts that have an answer."""

    async def score(self, rollout: Rollout, reading: Reading) -> Score:
        """The score of a rollout, read as `reading`.

        Raises:
            EngineError: a judge's model could not be made to answer.
        """
        ...


class StandIn:
    """A reward from the embedded judge of refusals: 1 where the answer has the wanted stance, 0 where the other."""

    def __init__(self, wanted: Stance) -> None:
        self._wanted, self._judge = wanted, RefusalJudge()

    async def score(self, rollout: Rollout, reading: Reading) -> Score:
        """See `Reward.score`."""
        verdict = self._judge.read(rollout.prompt, reading.answer, "response")
        if verdict.stance not in ("complies", "refuses"):
            return Score(None, "unclear")
        return Score(float(verdict.stance == self._wanted), "scored")


class Safety:
    """The probability that the final answer is not risky."""

    def __init__(self, guard: GuardJudge) -> None:
        self._guard = guard

    async def score(self, rollout: Rollout, reading: Reading) -> Score:
        """See `Reward.score`."""
        risk = await self._guard.risk(Exchange(rollout.prompt, answer=reading.answer))
        return _unreadable() if risk is None else Score(1 - risk, "scored")


class Helpfulness:
    """How far the final answer complies: in three steps, or as the judge's own score."""

    STEPS: Mapping[Stance, float] = {"refuses": 0.0, "unclear": 0.5, "complies": 1.0}

    def __init__(self, judge: RubricJudge, *, stepped: bool) -> None:
        self._judge, self._stepped = judge, stepped

    async def score(self, rollout: Rollout, reading: Reading) -> Score:
        """See `Reward.score`."""
        verdict = await self._judge.judge(Exchange(rollout.prompt, answer=reading.answer))
        value = self.STEPS.get(verdict.stance) if self._stepped else verdict.score
        return _unreadable() if value is None else Score(value, "scored")


class EarlyAwareness:
    """SARA's safety: the answer's, and that of the thinking, the more the earlier it is aware."""

    def __init__(self, answers: GuardJudge, thinking: GuardJudge, awareness: AwarenessJudge) -> None:
        self._answers, self._thinking, self._awareness = answers, thinking, awareness

    async def score(self, rollout: Rollout, reading: Reading) -> Score:
        """See `Reward.score`."""
        risk = await self._answers.risk(Exchange(rollout.prompt, answer=reading.answer))
        thought = await self._thought(rollout.prompt, reading.thinking)
        if risk is None or thought is None:
            return _unreadable()
        return Score(thought / 2 + (1 - risk) / 2, "scored")

    async def _thought(self, prompt: str, thinking: str) -> float | None:
        """``R_cot * R_SA``; 0 where nothing was thought, None where one of them can't be read."""
        written = sentences(thinking)
        if not written:
            return 0.0
        risk = await self._thinking.risk(Exchange(prompt, thinking))
        found = await self._awareness.find(prompt, written)
        if risk is None or found is None:
            return None
        before = len(written) if found.first is None else found.first - 1
        return (1 - risk) * (1 - before / len(written))


class Verified:
    """1 where math-verify finds the final answer equal to the ground truth, 0 where not."""

    def __init__(self, verifiers: Verifiers) -> None:
        self._verifiers = verifiers

    async def score(self, rollout: Rollout, reading: Reading) -> Score:
        """See `Reward.score`."""
        if not rollout.ground_truth:
            return Score(None, "no-truth")
        return await self._verifiers.verify(reading.answer, rollout.ground_truth)


def open_rewards(config: RewardsConfig, clients: Clients, verifiers: Verifiers) -> dict[str, Reward]:
    """The rewards by the name that a row has for its own; their judges are checked with the `clients`.

    Raises:
        InputError: a judge can't be asked as the config says.
    """
    return {
        "safety": _safety(config, clients),
        "helpfulness": _helpfulness(config, clients),
        "math": Verified(verifiers),
    }


def _safety(config: RewardsConfig, clients: Clients) -> Reward:
    if isinstance(config.safety, RefusalConfig):
        return StandIn("refuses")
    client = _overheard(clients, config.safety)
    guard = GuardJudge(config.safety, client)
    clients.checks.append(guard.check)
    if config.variant == "recap":
        return Safety(guard)
    if config.awareness is None:
        raise RecapError("variant: sara takes awareness, and there is none.")
    thinking = GuardJudge(config.safety.model_copy(update={"sees": ("prompt", "thinking")}), client)
    awareness = AwarenessJudge(config.awareness, _overheard(clients, config.awareness))
    clients.checks.append(awareness.check)
    return EarlyAwareness(guard, thinking, awareness)


def _helpfulness(config: RewardsConfig, clients: Clients) -> Reward:
    if isinstance(config.helpfulness, RefusalConfig):
        return StandIn("complies")
    judge = RubricJudge(config.helpfulness, _overheard(clients, config.helpfulness))
    clients.checks.append(judge.check)
    return Helpfulness(judge, stepped=config.variant == "recap")
