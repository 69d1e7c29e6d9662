"""Launching TRL on a mixture: everything is checked before the first step, and the same command again goes on.

Beside the checkpoints lies ``run.json``: the mixture by its content hash, the policy and its chat template, the
rollouts of a step over all processes, and every setting that what is learned depends on: not where judges are, or how
long they are waited for. Checkpoints of another run are never gone on with.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

from pipeline import templates
from pipeline.clients.tokenizers import load as load_tokenizer
from pipeline.errors import InputError, RecapError, is_hub_error
from pipeline.recipe import ELSEWHERE
from pipeline.thinking import Marks, Renderer, Tags, marks_of, renderer_for
from pipeline.trainer import runs
from pipeline.trainer.config import TrainConfig, grpo_config, lora_config, require_trl
from pipeline.trainer.mixture import Mixture, render
from pipeline.trainer.rewards import reward_functions
from pipeline.trainer.scoring import Scorer
from pipeline.trainer.watch import Watch

RUN, POLICY = "run.json", "policy"
_FREE = frozenset(
    (
        *("logging_steps", "logging_first_step", "logging_strategy", "logging_nan_inf_filter", "log_level"),
        *("log_level_replica", "log_on_each_node", "report_to", "run_name", "project", "disable_tqdm"),
        *("log_completions", "num_completions_to_print", "log_unique_prompts", "include_num_input_tokens_seen"),
        *("save_steps", "save_strategy", "save_total_limit", "push_to_hub", "hub_model_id", "hub_strategy"),
        *("hub_token", "hub_private_repo", "hub_always_push", "hub_revision", "trackio_space_id"),
        *("dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers"),
        *("dataloader_prefetch_factor", "ddp_timeout", "torch_empty_cache_steps", "skip_memory_metrics"),
        *("vllm_server_base_url", "vllm_server_host", "vllm_server_port", "vllm_server_timeout", "vllm_group_port"),
        *("vllm_gpu_memory_utilization", "vllm_enable_sleep_mode", "ds3_gather_for_generation"),
        # What comes of these two and the number of processes is told as effective_batch.
        *("per_device_train_batch_size", "gradient_accumulation_steps"),
    )
)
"""Settings of TRL that may change between a run and its resumption: none of them changes what is learned."""

RewardFunction = Callable[..., Any]


class Trained(NamedTuple):
    """What a run came to: the trained policy's folder, steps done, rows trained on, and those left out."""

    policy: Path
    steps: int
    rows: int
    too_long: int
    unrendered: int
    already: bool


def train(
    mixture: Mixture,
    model: str,
    config: TrainConfig,
    out: Path,
    ledger: Path,
    tell: Callable[[str], None],
    rewards: Sequence[RewardFunction] | None = None,
) -> Trained:
    """Train a policy on a mixture with TRL's GRPO, or go on with a run that was interrupted.

    Args:
        mixture: what `pipeline.trainer.mixture.open_mixture` opened.
        model: the policy: a folder, or a name on the Hub.
        config: the settings.
        out: where checkpoints go, and in the end the trained policy.
        ledger: the file that keeps the judges' answers.
        tell: is given lines for the user.
        rewards: reward functions of one's own, in the place of `config.rewards`.

    Raises:
        InputError: TRL is missing; the policy can't be loaded, or its template not be continued; no row is left, or too
            few for a step; TRL refuses a setting; a judge can't be used; or `out` holds checkpoints of another run.
            Nothing was trained.
        EngineError: a judge doesn't answer, and was waited for in vain. Checkpoints and its answers so far are kept.
        RecapError: too much was unscored, or too little to be learned from, for too long (`TrainConfig.stop`).
            Checkpoints are kept.
    """
    require_trl()
    from trl import GRPOConfig

    tokenizer = load_tokenizer(model, (config.grpo.get("model_init_kwargs") or {}).get("revision"))
    renderer = renderer_for(
        tokenizer,
        tags=Tags(*config.thinking) if config.thinking else None,
        variables=config.template,
    )
    marks = marks_of(renderer) if renderer.form != "plain" else None
    table, dropped = render(mixture, renderer, config.prompt_limit)
    tell(
        f"{mixture.name}: {len(table):,} rows; left out: {dropped.too_long:,} with a prompt over "
        f"{config.prompt_limit:,} tokens, {dropped.unrendered:,} that the chat template can't write"
    )
    rows = dataset_of(table)
    arguments: GRPOConfig = grpo_config(config, out, max(map(len, rows["prompt_ids"])))
    run = _identity(mixture, model, renderer, config, arguments)
    checkpoint = _checkpoint(out, run)
    _check_size(len(rows), arguments)
    watch = Watch(config.stop, tell)
    if (out / POLICY).is_dir():
        state = json.loads((out / "trainer_state.json").read_text())
        return Trained(out / POLICY, state["global_step"], len(rows), *dropped, already=True)
    with ExitStack() as stack:
        stack.enter_context(redirect_stdout(sys.stderr))
        if rewards is None:
            scorer = stack.enter_context(Scorer(config.rewards, ledger))
            scorer.check()
            opened = renderer.form == "generation-prompt"
            rewards = reward_functions(scorer, opened=opened, hear=watch.hear, marks=marks)
            if config.rewards.stand_ins:
                tell(f"note: {' and '.join(config.rewards.stand_ins)} read from the answer's wording, by no model")
        trainer = _trainer(model, tokenizer, rows, arguments, config, rewards, watch, marks)
        runs.note(out, RUN, run)
        if checkpoint:
            tell(f"going on from {checkpoint}")
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        watch.end()
        if watch.verdict:
            raise RecapError(watch.verdict)
        trainer.save_state()
        trainer.save_model(str(out / f"{POLICY}.partial"))
    if trainer.accelerator.is_main_process:
        (out / f"{POLICY}.partial").rename(out / POLICY)
    return Trained(out / POLICY, trainer.state.global_step, len(rows), *dropped, already=False)


def dataset_of(table: Any) -> Any:
    """Rendered rows as the dataset that the trainer takes: TRL's column ``prompt`` is the text, for its logs."""
    from datasets import Dataset

    return Dataset(table.rename_columns({"text": "prompt"}))


def _trainer(
    model: str,
    tokenizer: Any,
    rows: Any,
    arguments: Any,
    config: TrainConfig,
    rewards: Sequence[RewardFunction],
    watch: Watch,
    marks: Marks | None,
) -> Any:
    from pipeline.trainer.grpo import RecapTrainer

    peft = lora_config(config)
    try:
        return RecapTrainer(
            model=model,
            reward_funcs=list(rewards),
            args=arguments,
            train_dataset=rows,
            processing_class=tokenizer,
            peft_config=peft,
            dynamic_sampling=config.dynamic_sampling,
            recovered_above=config.recovered_above,
            watch=watch,
            marks=marks,
        )
    except ImportError as error:
        raise InputError(f"A setting needs a package that is not installed: {error}") from error
    except Exception as error:
        if not is_hub_error(error):
            raise
        first = str(error).strip().partition("\n")[0]
        raise InputError(f"TRL can't start on the policy {model!r} with these settings: {first}") from error


def _identity(mixture: Mixture, model: str, renderer: Renderer, config: TrainConfig, arguments: Any) -> dict[str, Any]:
    settings = config.model_dump(mode="json", exclude={"stop"})
    settings["rewards"] = {name: _judge(judge) for name, judge in settings["rewards"].items()}
    settings["grpo"] = {key: value for key, value in settings["grpo"].items() if key not in _FREE}
    return {
        "mixture": mixture.name,
        "config": mixture.config,
        "content_hash": mixture.content_hash,
        "model": str(Path(model).resolve()) if Path(model).is_dir() else model,
        "template_sha256": renderer.template_sha256,
        "effective_batch": arguments.train_batch_size * arguments.world_size * arguments.gradient_accumulation_steps,
        "settings": settings,
    }


def _judge(settings: Any) -> Any:
    """What a reward depends on of its judge's settings: its template by what it says."""
    if not isinstance(settings, dict):
        return settings
    kept = {key: value for key, value in settings.items() if key not in ELSEWHERE}
    if "template" in kept:
        kept["template"] = templates.load(kept["template"]).sha256
    return kept


def _checkpoint(out: Path, run: dict[str, Any]) -> Path | None:
    """The newest checkpoint of this run in `out`, if any. Raises InputError where there are those of another run."""
    found = runs.newest(out)
    if found or (out / POLICY).is_dir():
        runs.check_same(out, RUN, run, free=("mixture", "config"))
    return found


def _check_size(rows: int, arguments: Any) -> None:
    prompts = arguments.generation_batch_size // arguments.num_generations
    if rows < prompts:
        raise InputError(
            f"{rows:,} rows are too few: a step takes {prompts:,} prompts. Lower grpo.gradient_accumulation_steps or "
            "grpo.per_device_train_batch_size."
        )
