"""A mixture as verl trains on it: a folder with the rows, an agent loop, the rewards and a launch script.

verl 0.9.1 reads rows from a Parquet file, and imports the rest from files that its settings name. Nothing of verl is
needed to write them.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from pydantic import BaseModel, ConfigDict

from pipeline import __version__, schema
from pipeline.clients.tokenizers import load as load_tokenizer
from pipeline.errors import InputError, RecapError
from pipeline.publish.folder import replace, work_folder
from pipeline.recipe import MIXTURE, TemplateVariables, ThinkingMarks
from pipeline.recipe.mistakes import Mistake, code, invalid, secrets
from pipeline.recipe.reading import Kind, checked
from pipeline.steps.shards import prompt_text
from pipeline.thinking import Marks, Renderer, Tags, marks_of, renderer_for
from pipeline.trainer.mixture import Mixture, render
from pipeline.trainer.reward_config import RewardsConfig
from pipeline.trainer.settings import load_settings

VERSION = "0.9.1"
"""The version of verl that this is written for."""

MAX_TOKENS = 8000
"""Prompt, thinking and answer together (RECAP, App. C), as ``launch.sh`` has it."""

AGENT = "recap"
ROWS = pa.schema(
    [
        ("data_source", pa.string()),
        ("prompt", schema.PROMPT),
        ("ability", pa.string()),
        ("reward_model", pa.struct([("style", pa.string()), ("ground_truth", pa.string())])),
        (
            "extra_info",
            pa.struct(
                [
                    ("index", pa.int64()),
                    ("split", pa.string()),
                    ("id", pa.string()),
                    ("domain", pa.string()),
                    ("reward", pa.string()),
                    ("prompt", pa.string()),
                    ("prefill", pa.string()),
                    ("prefill_tokens", pa.int32()),
                ]
            ),
        ),
        ("agent_name", pa.string()),
    ]
)
"""The columns that verl reads. ``extra_info`` goes to the agent loop and to the rewards: ``prompt`` in it is the user's
text, ``prefill_tokens`` is t0 - 1 in the paper, the opening mark included."""

_FILES = ("recap_agent_loop.py", "recap_reward.py", "recap_sampler.py", "rewards.yaml", "launch.sh", "README.md")


class ExportConfig(BaseModel):
    """How a policy is rendered and read; the keys are those of a training's settings.

    Attributes:
        thinking: the marks to think in, where the template has none.
        template: variables of the chat template.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    thinking: ThinkingMarks = None
    template: TemplateVariables = {}


_EXPORT = Kind("settings of an export", "a mapping, as in template: {enable_thinking: true}", "template.key=value")


def load_export(path: Path | None, overrides: Sequence[str] = ()) -> ExportConfig:
    """Read a YAML file of settings, if there is one, and apply ``a.b.c=value`` overrides.

    Raises:
        InputError: the file can't be read, or holds mistakes, all of them in the message.
    """
    return load_settings(ExportConfig, _EXPORT, path, overrides)


class Exported(NamedTuple):
    """What was written, and how many rows were not: too long, or not to be written by the chat template."""

    out: Path
    rows: int
    prefilled: int
    too_long: int
    unrendered: int


def export(
    mixture: Mixture,
    model: str,
    out: Path,
    config: ExportConfig | None = None,
    *,
    max_prompt_tokens: int = 2048,
    rewards: Path | None = None,
) -> Exported:
    """Write all that verl needs to train a policy on a mixture into a new folder.

    Args:
        mixture: what `pipeline.trainer.mixture.open_mixture` opened.
        model: the policy, whose tokenizer measures the prompts: a folder, or a name on the Hub.
        out: the folder; it is not there yet, or empty.
        config: how the policy is rendered, where its own template isn't enough.
        max_prompt_tokens: rows with longer prompts, prefill included, are left out. verl would cut off their heads.
        rewards: a YAML file that names the judges; embedded stand-ins unless given.

    Raises:
        InputError: the tokenizer can't be had, its template can't be continued or its answers not be read, no row is
            left, the rewards hold mistakes, or `out` holds files. Nothing was written.
        OutputError: `out` can't be written.
    """
    _check_free(out)
    if not 0 < max_prompt_tokens < MAX_TOKENS:
        raise InputError(
            f"--max-prompt-tokens {max_prompt_tokens} leaves no room for an answer: prompt and answer share "
            f"{MAX_TOKENS:,} tokens. Give a number below."
        )
    if rewards is not None:
        read_rewards(rewards)
    config = config or ExportConfig()
    renderer = renderer_of(load_tokenizer(model), config.thinking, config.template)
    marks = marks_of(renderer) if renderer.form != "plain" else None
    table, dropped = render(mixture, renderer, max_prompt_tokens)
    rows = pa.Table.from_pylist(list(_rows(table)), schema=ROWS)
    name = str(mixture.manifest["name"])
    policy = str(Path(model).resolve()) if Path(model).is_dir() else model
    values = {
        "MODEL": policy,
        "PROMPT_TOKENS": str(max_prompt_tokens),
        "NAME": name,
        "MIXTURE": name if mixture.config == MIXTURE else f"{name} ({mixture.config})",
        "ROWS": f"{len(rows):,}",
        "DROPPED": f"{dropped.too_long:,} too long and {dropped.unrendered:,} that its template can't write were",
        "VERSION": __version__,
    }
    prefilled = sum(row is not None for row in table["prefill"].to_pylist())
    with work_folder(out) as work:
        folder = work / "export"
        folder.mkdir()
        pq.write_table(rows, folder / "train.parquet")
        for file in _FILES:
            _write(folder / file, values)
        if rewards is not None:
            (folder / "rewards.yaml").write_bytes(rewards.read_bytes())
        loop = {"name": AGENT, "_target_": "recap_agent_loop.RecapAgentLoop"}
        speech = config.model_dump(mode="json")
        loop |= {"template_sha256": renderer.template_sha256, **speech}
        (folder / "agent_loop.yaml").write_text(yaml.safe_dump([loop], sort_keys=False), encoding="utf-8")
        made_from = {
            "mixture": mixture.name,
            "config": mixture.config,
            "content_hash": mixture.content_hash,
            "model": policy,
            "template_sha256": renderer.template_sha256,
            **speech,
            "marks": marks._asdict() if marks else None,
            "max_prompt_tokens": max_prompt_tokens,
            "rows": len(rows),
            "prefilled": prefilled,
            "dropped": dropped._asdict(),
            "verl": VERSION,
            "recap-data": __version__,
        }
        (folder / "export.json").write_text(json.dumps(made_from, indent=2) + "\n", encoding="utf-8")
        replace(out, folder)
    return Exported(out, len(rows), prefilled, *dropped)


def read_rewards(path: Path) -> RewardsConfig:
    """Read the YAML file that names the judges of the rewards.

    Raises:
        InputError: the file can't be read, or holds mistakes, all of them in the message.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} can't be read: {error}. Give a UTF-8 YAML file that names the judges.") from None
    kind = Kind("rewards", "a mapping, as in safety: {engine: refusal}", "safety.model=name")
    return RewardsConfig.model_validate(checked(text, str(path), (), _mistakes, kind))


def check(folder: Path, model: str) -> None:
    """Find out, before a cluster is busy, whether a policy is the one of an export and its judges answer.

    Raises:
        InputError: the policy has another chat template, or a judge doesn't answer as it should.
        EngineError: no server of a judge can be reached.
    """
    from pipeline.trainer.rewards import Scorer

    config = read_rewards(folder / "rewards.yaml")
    made = json.loads((folder / "export.json").read_text(encoding="utf-8"))
    renderer = renderer_of(load_tokenizer(model), made["thinking"], made["template"])
    check_template(renderer, made["template_sha256"])
    if renderer.form != "plain" and marks_of(renderer) != read_marks(folder):
        raise InputError(
            f"The policy's turns have other marks than {folder / 'export.json'} says. Export the mixture again with "
            "--model set to this policy."
        )
    with TemporaryDirectory() as scratch, Scorer(config, Path(scratch) / "ledger.sqlite") as scorer:
        scorer.check()
    if config.stand_ins:
        print(f"note: {' and '.join(config.stand_ins)} come from embedded stand-ins, no judges", file=sys.stderr)


def renderer_of(tokenizer: Any, thinking: Sequence[str] | None, template: Mapping[str, Any]) -> Renderer:
    """The renderer of a policy by an export's settings. Raises RenderingError as `renderer_for` does."""
    return renderer_for(tokenizer, tags=Tags(*thinking) if thinking else None, variables=template)


def read_marks(folder: Path) -> Marks | None:
    """The marks that an export's policy is read by; None where it was exported without thinking."""
    marks = json.loads((folder / "export.json").read_text(encoding="utf-8"))["marks"]
    return Marks(**marks) if marks else None


def check_template(renderer: Renderer, sha256: str) -> None:
    """Raise InputError unless a policy has the chat template that an export was made for."""
    if renderer.template_sha256 != sha256:
        raise InputError(
            f"The policy's chat template has the hash {renderer.template_sha256[:12]}, and this export was made for "
            f"{sha256[:12]}. Export the mixture again with --model set to this policy."
        )


def _mistakes(data: Mapping[str, Any]) -> Iterator[Mistake]:
    yield from (*secrets(data), *code(data))
    yield from invalid(data, RewardsConfig)


def _check_free(out: Path) -> None:
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise InputError(f"{out} is not a folder. Give --out another, or remove it.")
    if out.is_dir() and any(out.iterdir()):
        raise InputError(f"{out} holds files already, and was left as it is. Give --out another folder, or remove it.")


def _rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    for index, row in enumerate(table.to_pylist()):
        yield {
            "data_source": row["domain"],
            "prompt": row["messages"],
            "ability": row["reward"],
            "reward_model": {
                "style": "rule" if row["ground_truth"] is not None else "model",
                "ground_truth": row["ground_truth"],
            },
            "extra_info": {
                "index": index,
                "split": "train",
                "id": row["id"],
                "domain": row["domain"],
                "reward": row["reward"],
                "prompt": prompt_text(row["messages"]),
                "prefill": row["prefill"],
                "prefill_tokens": row["prefill_tokens"],
            },
            "agent_name": AGENT,
        }


def _write(path: Path, values: Mapping[str, str]) -> None:
    """Write one of the files, with ``@NAME@`` replaced by the value; in a script it is quoted for the shell."""
    text = (files("pipeline.trainer") / "verl_files" / path.name).read_text(encoding="utf-8")
    script = path.suffix == ".sh"
    for name, value in values.items():
        text = text.replace(f"@{name}@", shlex.quote(value) if script else value)
    path.write_text(text, encoding="utf-8")
    if script:
        path.chmod(0o755)


if __name__ == "__main__":
    try:
        check(Path(sys.argv[1]), sys.argv[2])
    except RecapError as error:
        print(f"recap-data: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
