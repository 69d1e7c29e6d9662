"""The over-cautious sampler: a model fine-tuned on the safety-only STAR-1 set, as the paper makes it (Sec. 4.1).

Trained on nothing but refusals and careful answers to harmful questions, it thinks its way to a refusal of almost
anything: its thinking about benign prompts is the counter-aligned prefill there. A row is a question and a response
with its thinking in ``<think>``; it is written as the model itself would write it, with its own marks, and the loss is
that of the response alone. The training is TRL's `SFTTrainer`.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from pipeline.clients.tokenizers import load as load_tokenizer
from pipeline.errors import InputError, is_hub_error
from pipeline.recipe import Source, TemplateVariables, ThinkingMarks
from pipeline.recipe.mistakes import Mistake
from pipeline.recipe.reading import Kind
from pipeline.sources import files, hub
from pipeline.sources.readers import columns, records
from pipeline.thinking import Renderer, RenderingError, Tags, Turn, marks_of, read_output, renderer_for, turn_of
from pipeline.trainer import runs
from pipeline.trainer.settings import load_settings

STAR_1 = "UCSC-VLAA/STAR-1"

PAPER: Mapping[str, Any] = {"num_train_epochs": 5, "learning_rate": 1e-5, "gradient_accumulation_steps": 128}
"""STAR-1's own settings, by TRL's names: five epochs in batches of 128. They are of a training of all weights."""

OURS: Mapping[str, Any] = {
    "per_device_train_batch_size": 1,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.05,
    "logging_steps": 1,
    "save_steps": 20,
    "save_total_limit": 2,
    "report_to": "none",
    "shuffle_dataset": False,
}
LORA: Mapping[str, Any] = {"learning_rate": 2e-4, "gradient_accumulation_steps": 16}
"""What is ours where LoRA is trained: it takes higher rates, and smaller batches for as many steps."""

_TAKEN = ("output_dir", "max_length", "packing", "padding_free", "completion_only_loss", "assistant_only_loss")
_FREE = ("logging_steps", "save_steps", "save_total_limit", "report_to", "run_name", "disable_tqdm")
"""Settings of TRL that change nothing of what is learned: an interrupted run may go on with others."""
_RUN = "sft.json"
_FILES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")


class SftConfig(BaseModel):
    """A fine-tuning, apart from the model and the data.

    Attributes:
        sft: settings of TRL's SFTConfig, over those of STAR-1.
        lora: settings of peft's LoraConfig, of all linear layers unless they say so; null trains all weights.
        prompt: the field of the question.
        response: the field of the response, thinking and answer.
        max_tokens: longer rows are left out, never cut.
        limit: the first so many rows are taken.
        thinking: the marks to think in, where the model's template has none.
        template: variables of the chat template.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    sft: dict[str, Any] = {}
    lora: dict[str, Any] | None = {"r": 16, "lora_alpha": 32}
    prompt: str = "question"
    response: str = "response"
    max_tokens: Annotated[int, Field(ge=1)] = 8192
    limit: Annotated[int | None, Field(ge=1)] = None
    thinking: ThinkingMarks = None
    template: TemplateVariables = {}


class Examples(NamedTuple):
    """Rows for TRL: token ids and labels, and how many rows were left out and why."""

    rows: list[dict[str, list[int]]]
    left_out: dict[str, int]


class Tuned(NamedTuple):
    """What a fine-tuning came to: the model's folder, rows, rows left out and why, steps; None where it was there
    ``already``.
    """

    model: Path
    rows: int
    left_out: dict[str, int]
    steps: int | None
    already: bool


_KIND = Kind("settings of a fine-tuning", "a mapping, as in sft: {learning_rate: 1e-5}", "sft.learning_rate=1e-5")


def load_sft(path: Path | None, overrides: Sequence[str] = ()) -> SftConfig:
    """Read a YAML file of settings, if there is one, and apply ``a.b.c=value`` overrides.

    Raises:
        InputError: the file can't be read, or holds mistakes, all of them in the message.
    """
    return load_settings(SftConfig, _KIND, path, overrides, _taken)


def tune(model: str, data: str, config: SftConfig, out: Path, tell: Callable[[str], None]) -> Tuned:
    """Fine-tune a model, or go on with a fine-tuning that was interrupted; `out` appears whole or not at all.

    Args:
        model: a folder, or a name on the Hub.
        data: a dataset of the Hub, or a file (JSON, JSON Lines, CSV, Parquet).
        config: the settings.
        out: where the model goes, LoRA merged into it. Checkpoints lie in ``<out>.training`` until then.
        tell: is given lines for the user.

    Raises:
        InputError: TRL or peft is missing or refuses a setting; the model or the data can't be had; no row is left;
            `out`, or its checkpoints, is of another fine-tuning. Nothing was trained.
    """
    _require()
    rows, origin = load_rows(data, config)
    tokenizer: Any = load_tokenizer(model, (config.sft.get("model_init_kwargs") or {}).get("revision"))
    tags = Tags(*config.thinking) if config.thinking else None
    renderer = renderer_for(tokenizer, tags=tags, variables=config.template)
    run = {
        "model": model,
        "template_sha256": renderer.template_sha256,
        "data": origin,
        "settings": _settings(config),
    }
    marks_of(renderer)
    found = examples(rows, config, renderer)
    if not found.rows:
        raise InputError(f"No row of {data} is left to train on: {_counted(found.left_out)}.")
    tell(f"{data}: {len(found.rows):,} rows" + (f"; left out: {_counted(found.left_out)}" if found.left_out else ""))
    if out.exists():
        runs.check_same(out, _RUN, run)
        return Tuned(out, len(found.rows), found.left_out, None, already=True)
    training = out.with_name(f"{out.name}.training")
    if training.exists():
        runs.check_same(training, _RUN, run)
    with redirect_stdout(sys.stderr):
        trainer = _trainer(model, tokenizer, found.rows, config, training)
        runs.note(training, _RUN, run)
        checkpoint = runs.newest(training)
        if checkpoint:
            tell(f"going on from {checkpoint}")
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        _save(trainer, tokenizer, training / "model", training / _RUN)
    (training / "model").rename(out)
    shutil.rmtree(training)
    return Tuned(out, len(found.rows), found.left_out, trainer.state.global_step, already=False)


def load_rows(data: str, config: SftConfig) -> tuple[list[dict[str, str]], dict[str, str]]:
    """The questions and responses of a dataset of the Hub or a file, and what they are known by: its revision.

    Raises:
        InputError: it can't be had or read, or has no such fields.
    """
    wanted = (config.prompt, config.response)
    if Path(data).exists() or data.lower().removesuffix(".gz").endswith(_FILES):
        (file,) = files.find((data,), Path())
        names, stream = columns(file), records(file, wanted)
        origin = {"files": file.shown, "revision": files.revision(file)}
    else:
        source = Source(dataset=data)
        commit, _ = hub.resolve(source)
        split = hub.opened(source, commit)
        names, stream = split.columns, split.rows(wanted)
        origin = {"dataset": data, "revision": commit}
    rows: list[dict[str, str]] = []
    if names is not None:
        _check_fields(dict.fromkeys(names, ""), wanted, data)
    for row in stream:
        if config.limit is not None and len(rows) == config.limit:
            break
        _check_fields(row, wanted, data)
        rows.append({name: row[name] for name in wanted})
    return rows, origin


def examples(rows: Sequence[Mapping[str, str]], config: SftConfig, renderer: Renderer) -> Examples:
    """Rows as token ids, whole turns as the model would write them, with labels of the response alone.

    Raises:
        InputError: the template writes no turn of an assistant.
    """
    turn, kept, left_out = turn_of(renderer), list[dict[str, list[int]]](), dict[str, int]()
    for row in rows:
        example = _example(row[config.prompt], row[config.response], renderer, turn)
        why = example if isinstance(example, str) else ""
        if not isinstance(example, str):
            why = "too long" if len(example["input_ids"]) > config.max_tokens else ""
            if not why:
                kept.append(example)
        if why:
            left_out[why] = left_out.get(why, 0) + 1
    return Examples(kept, left_out)


def recipe_lines(out: Path) -> str:
    """The lines of a recipe that sample from the model."""
    return (
        "samplers:\n"
        f"  overcautious: {{engine: vllm, model: {out.resolve()}}}\n"
        f"  # or, served by `vllm serve {out.resolve()}`:\n"
        f'  # overcautious: {{engine: openai, base_url: "http://localhost:8000/v1", model: {out.resolve()}}}'
    )


def _check_fields(row: Mapping[str, Any], wanted: Sequence[str], data: str) -> None:
    for field in wanted:
        if not isinstance(row.get(field), str):
            raise InputError(
                f"{data} has no text in the field {field!r}; it has {', '.join(row)}. Set prompt and response to the "
                "fields that hold them (--set prompt=…)."
            )


def _settings(config: SftConfig) -> dict[str, Any]:
    settings = config.model_dump(mode="json")
    return settings | {"sft": {key: value for key, value in config.sft.items() if key not in _FREE}}


def _taken(data: Mapping[str, Any]) -> Iterator[Mistake]:
    given = data.get("sft")
    for key in _TAKEN:
        if isinstance(given, dict) and key in given:
            yield Mistake(("sft", key), "can't be changed here")


def _example(prompt: str, response: str, renderer: Renderer, turn: Turn) -> dict[str, list[int]] | str:
    """The ids and labels of a row, or why there are none."""
    reading = read_output(response)
    if not reading.closed or not reading.thinking or not reading.answer:
        return "without thinking and answer"
    messages = [{"role": "user", "content": prompt}]
    try:
        given = len(renderer.render(messages, None).ids)
        ids = [*renderer.render(messages, reading.thinking).ids, *turn.ids(renderer, reading.answer)]
    except RenderingError:
        return "not writable by the chat template"
    return {"input_ids": ids, "labels": [-100] * given + ids[given:]}


def _require() -> None:
    for package in ("trl", "peft"):
        if importlib.util.find_spec(package) is None:
            raise InputError(
                f"A fine-tuning needs {package}, which is not installed: pip install 'recap-data[trainer]'."
            )


def _trainer(model: str, tokenizer: Any, rows: list[dict[str, list[int]]], config: SftConfig, training: Path) -> Any:
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    gpu = torch.cuda.is_available()
    hardware: dict[str, Any] = {} if gpu else {"use_cpu": True, "bf16": False}
    weights = {"dtype": "bfloat16" if gpu and config.lora is not None else "float32"}
    settings = {**PAPER, **OURS, **(LORA if config.lora is not None else {}), **hardware, **config.sft}
    settings["model_init_kwargs"] = weights | (config.sft.get("model_init_kwargs") or {})
    try:
        arguments = SFTConfig(output_dir=str(training), max_length=None, packing=False, **settings)
        lora = None
        if config.lora is not None:
            lora = LoraConfig(**{"task_type": "CAUSAL_LM", "target_modules": "all-linear", **config.lora})
    except (TypeError, ValueError, ImportError) as error:
        raise InputError(f"TRL or peft doesn't take these settings: {error}") from error
    try:
        return SFTTrainer(
            model=model,
            args=arguments,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            peft_config=lora,
        )
    except Exception as error:
        if not is_hub_error(error):
            raise
        first = str(error).strip().partition("\n")[0]
        raise InputError(f"TRL can't start on the model {model!r} with these settings: {first}") from error


def _save(trainer: Any, tokenizer: Any, folder: Path, run: Path) -> None:
    """Save the model so that transformers and vLLM load it: LoRA merged into the weights."""
    if folder.exists():
        shutil.rmtree(folder)
    tuned = trainer.accelerator.unwrap_model(trainer.model)
    if hasattr(tuned, "merge_and_unload"):
        tuned = tuned.merge_and_unload()
    tuned.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    shutil.copy(run, folder / _RUN)


def _counted(left_out: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {why}" for why, count in sorted(left_out.items())) or "there is none"
