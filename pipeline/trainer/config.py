"""How a policy is trained: the paper's settings, what a file or ``--set`` changes of them, and what TRL makes of it.

Settings of TRL and peft are passed on by their own names, under ``grpo`` and ``lora``, and checked against the fields
that the installed versions have, so that a misspelt one is told before anything is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from pipeline.errors import InputError, RecipeError
from pipeline.recipe import TemplateVariables, ThinkingMarks
from pipeline.recipe.mistakes import Mistake, nearest
from pipeline.recipe.reading import Kind
from pipeline.trainer.reward_config import RewardsConfig
from pipeline.trainer.settings import load_settings
from pipeline.trainer.watch import Stop

MISSING = "Training needs TRL, which is not installed: pip install 'recap-data[trainer]'."

PAPER: Mapping[str, Any] = {
    "loss_type": "dapo",
    "num_generations": 16,
    "epsilon": 0.2,
    "epsilon_high": 0.28,
    "beta": 0.0,
    "num_train_epochs": 1,
}
"""The paper's settings (RECAP, App. C), by TRL's names.

It says that it trains with DAPO, whose loss is the mean over all optimised tokens of a step: ``dapo``. The formula that
it prints (Sec. 3.1) divides each rollout's loss by its own optimised tokens and takes the mean over rollouts: that is
``grpo``. Whichever is chosen (``dr_grpo`` too), rollouts that are left out of the loss are left out of its divisor.
"""

OURS: Mapping[str, Any] = {
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 32,
    "logging_steps": 1,
    "save_steps": 25,
    "report_to": "none",
}
"""What the paper doesn't say and TRL's defaults don't fit: 8 prompts a step, each with its 16 rollouts."""

_TAKEN = {
    "output_dir": "is given with --out",
    "resume_from_checkpoint": "is not needed: the same command again goes on from the newest checkpoint",
    "chat_template_kwargs": "has no effect, prompts are rendered here: use template",
    "remove_unused_columns": "can't be changed: rewards read the other columns",
    "num_generations_eval": "is not used: nothing is evaluated while training",
    "data_seed": "is not used: seed decides the order",
}


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DynamicSampling(_Model):
    """Groups that teach nothing are dropped and others sampled in their place (DAPO; RECAP, Sec. 3.1).

    Attributes:
        tau: a group whose rewards are all above it is dropped, as is one whose rewards are all 0.
        max_refills: how often a step samples again at most; what is still missing then is left out of the loss.
    """

    tau: float = Field(default=0.95, ge=0)
    max_refills: int = Field(default=3, ge=0)


class TrainConfig(_Model):
    """A training run, apart from the mixture and the policy.

    Attributes:
        grpo: settings of TRL's GRPOConfig, over those of the paper.
        lora: settings of peft's LoraConfig; none trains all weights.
        rewards: the judges of final answers; by default stand-ins that need no model.
        dynamic_sampling: how groups that teach nothing are replaced; none keeps every group.
        stop: when too much is unscored, or too few groups teach, to go on; none only warns.
        max_tokens: prompt and completion together.
        max_prompt_tokens: rows with longer prompts, prefill included, are left out.
        thinking: the marks to think in, where the template has none.
        template: variables of the chat template.
        recovered_above: a prefilled rollout with a higher reward counts as recovered, in the logs.
    """

    grpo: dict[str, Any] = {}
    lora: dict[str, Any] | None = None
    rewards: RewardsConfig = RewardsConfig()
    dynamic_sampling: DynamicSampling | None = DynamicSampling()
    stop: Stop | None = Stop()
    max_tokens: int = Field(default=8000, ge=2)
    max_prompt_tokens: int = Field(default=2048, ge=1)
    thinking: ThinkingMarks = None
    template: TemplateVariables = {}
    recovered_above: float = 0.5

    @property
    def prompt_limit(self) -> int:
        """The most tokens a prompt may have: a completion must fit in behind it, as long as the user wants it."""
        completion: int = self.grpo.get("max_completion_length", 1)
        return min(self.max_prompt_tokens, self.max_tokens - completion)


_KIND = Kind("settings for training", "a mapping, as in grpo: {learning_rate: 1e-6}", "grpo.learning_rate=1e-6")


def load_config(path: Path | None, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a YAML file of settings, if there is one, and apply ``a.b.c=value`` overrides.

    Raises:
        InputError: TRL is not installed; or the file can't be read, or holds mistakes, all of them in the message.
    """
    require_trl()
    return load_settings(TrainConfig, _KIND, path, overrides, _unknown_settings)


def require_trl() -> None:
    """Refuse, with what to install, where TRL is missing.

    Raises:
        InputError: TRL is not installed.
    """
    try:
        import trl  # noqa: F401
    except ImportError as error:
        raise InputError(MISSING) from error


def grpo_config(config: TrainConfig, out: Path, longest_prompt: int) -> Any:
    """TRL's GRPOConfig: the paper's settings, ours, and over them the user's.

    Completions may be as long as `max_tokens` leaves room for behind the longest prompt, unless the user said how long.

    Raises:
        InputError: TRL takes a setting otherwise, or settings exclude each other.
    """
    import torch
    from trl import GRPOConfig

    gpu = torch.cuda.is_available()
    hardware = {} if gpu else {"use_cpu": True, "bf16": False}
    lengths = {"max_completion_length": config.max_tokens - longest_prompt}
    if config.grpo.get("use_vllm"):
        lengths["vllm_max_model_length"] = config.max_tokens
    settings = {**PAPER, **OURS, **hardware, **lengths, **config.grpo}
    try:
        arguments = GRPOConfig(output_dir=str(out), **settings)
    except (TypeError, ValueError, ImportError) as error:
        raise InputError(f"TRL doesn't take these settings under grpo: {error}") from error
    _check_groups(config, arguments)
    return arguments


def lora_config(config: TrainConfig) -> Any:
    """peft's LoraConfig, of all linear layers unless the user said which; None where all weights are trained.

    Raises:
        InputError: peft takes a setting otherwise.
    """
    if config.lora is None:
        return None
    from peft import LoraConfig

    try:
        return LoraConfig(**{"task_type": "CAUSAL_LM", "target_modules": "all-linear", **config.lora})
    except (TypeError, ValueError) as error:
        raise InputError(f"peft doesn't take these settings under lora: {error}") from error


def _check_groups(config: TrainConfig, arguments: Any) -> None:
    if config.dynamic_sampling is None:
        return
    rollouts = arguments.per_device_train_batch_size * arguments.steps_per_generation
    if rollouts % arguments.num_generations:
        raise InputError(
            f"With dynamic_sampling, each process must hold whole groups: per_device_train_batch_size times "
            f"steps_per_generation is {rollouts}, no multiple of num_generations ({arguments.num_generations}). "
            "Change one of them, or set dynamic_sampling: null."
        )


def _unknown_settings(data: Mapping[str, Any]) -> Iterator[Mistake]:
    """Settings that the installed TRL or peft doesn't have, and those that are ours to make."""
    for section in ("grpo", "lora"):
        given = data.get(section)
        known = _fields(section) if isinstance(given, dict) else []
        for key in given if isinstance(given, dict) else ():
            if section == "grpo" and key in _TAKEN:
                yield Mistake((section, key), _TAKEN[key])
            elif key not in known:
                kind = "GRPOConfig" if section == "grpo" else "LoraConfig"
                yield Mistake((section, key), f"the installed {kind} has no such setting{nearest(str(key), known)}")


def _fields(section: str) -> list[str]:
    if section == "grpo":
        from trl import GRPOConfig as Config
    else:
        try:
            from peft import LoraConfig as Config
        except ImportError as error:
            raise RecipeError("lora needs peft, which is not installed: pip install 'recap-data[trainer]'.") from error
    return [field.name for field in fields(Config) if field.init]
