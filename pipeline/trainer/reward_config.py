"""Which rewards a training has, as pydantic models: the judges are those of a recipe, shown the answer.

safety: {engine: guard, family: granite-guardian, base_url: "http://localhost:8001/v1",
         model: ibm-granite/granite-guardian-3.1-8b}
helpfulness: {engine: rubric, base_url: "http://localhost:8002/v1", model: meta-llama/Llama-3.1-8B-Instruct}

A judge that restarts is waited for as long as its ``patience`` says, in seconds; ``tries`` is how often a request is
sent that gets no answer which can be used, ``deadline`` the seconds that it has. They may change between a run and its
resumption, as ``base_url`` may.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from pipeline.recipe import GuardConfig, RefusalConfig, RubricConfig, Sees


class SafetyGuard(GuardConfig):
    """A guard model that is shown the prompt and the final answer."""

    sees: Annotated[tuple[Sees, ...], Field(strict=False)] = ("prompt", "answer")

    @model_validator(mode="after")
    def _place(self) -> SafetyGuard:
        if self.threshold != GuardConfig.model_fields["threshold"].default:
            raise PydanticCustomError("place", "threshold is for verdicts: a reward is the probability itself")
        if not self.extra.get("logprobs", True):
            raise PydanticCustomError(
                "place", "extra leaves out the log-probabilities, which the reward is: remove logprobs from it"
            )
        return _answered(self, ("prompt", "answer"))


class HelpfulnessRubric(RubricConfig):
    """A judge model that is shown the prompt and the final answer."""

    template: str = "judge-compliance"
    sees: Annotated[tuple[Sees, ...], Field(strict=False)] = ("prompt", "answer")

    @model_validator(mode="after")
    def _place(self) -> HelpfulnessRubric:
        return _answered(self, ("prompt", "answer"))


class AwarenessRubric(RubricConfig):
    """A judge model that is shown the prompt and the sentences of the thinking, for the variant ``sara``."""

    template: str = "judge-awareness"

    @model_validator(mode="after")
    def _place(self) -> AwarenessRubric:
        return _answered(self, ("prompt", "thinking"))


_Judge = TypeVar("_Judge", SafetyGuard, HelpfulnessRubric, AwarenessRubric)


def _answered(config: _Judge, sees: tuple[Sees, ...]) -> _Judge:
    if not config.base_url:
        raise PydanticCustomError("place", "base_url is missing: the server's address, as http://localhost:8000/v1")
    if set(config.sees) != set(sees):
        raise PydanticCustomError("place", "sees can't be changed here: it is {sees}", {"sees": " and ".join(sees)})
    if config.batch:
        raise PydanticCustomError("place", "batch is answered within a day, and a trainer waits: set batch to false")
    return config


class MathVerify(BaseModel):
    """math-verify, in processes of its own."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    engine: Literal["math-verify"]


SafetyConfig = Annotated[RefusalConfig | SafetyGuard, Field(discriminator="engine")]
HelpfulnessConfig = Annotated[RefusalConfig | HelpfulnessRubric, Field(discriminator="engine")]


class RewardsConfig(BaseModel):
    """The rewards of a training (RECAP, Sec. 3.1), by the name that a row's ``reward`` has.

    ``engine: refusal``, the default, is a stand-in that needs no model: it reads from its wording whether the answer
    refuses (safety 1, helpfulness 0) or complies (safety 0, helpfulness 1). It reads English only, and knows nothing of
    whether what was asked for is harmful.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    safety: SafetyConfig = RefusalConfig(engine="refusal")
    helpfulness: HelpfulnessConfig = RefusalConfig(engine="refusal")
    math: MathVerify = MathVerify(engine="math-verify")
    awareness: AwarenessRubric | None = None
    """Finds the first sentence of the thinking that is aware of safety; for ``sara``."""
    variant: Literal["recap", "sara"] = "recap"

    @model_validator(mode="after")
    def _variant(self) -> RewardsConfig:
        if self.variant == "recap" and self.awareness:
            raise PydanticCustomError("place", "awareness is for variant: sara")
        if self.variant == "sara" and (self.stand_ins or self.awareness is None):
            raise PydanticCustomError(
                "place", "variant: sara takes a guard for safety, a rubric for helpfulness, and awareness"
            )
        return self

    @property
    def stand_ins(self) -> tuple[str, ...]:
        """The rewards that are the embedded stand-in's: whoever starts a training should be told."""
        judged = {"safety": self.safety, "helpfulness": self.helpfulness}
        return tuple(name for name, config in judged.items() if isinstance(config, RefusalConfig))
