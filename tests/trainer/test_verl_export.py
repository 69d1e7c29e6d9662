"""The folder that ``recap-data export --format verl`` writes, and what it refuses; verl itself is not needed."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from pipeline.build import build
from pipeline.recipe import LoadedRecipe, parse
from pipeline.runner import LocalRunner
from pipeline.thinking import Marks, renderer_for
from pipeline.trainer.mixture import open_mixture
from pipeline.trainer.verl import check, read_marks
from pipeline.trainer.verl_files.recap_reward import compute_score
from tests.byte_tokenizer import byte_tokenizer

RECIPE = """
name: small
sources:
  harmful: [{bundled: demo}]
  benign: [{bundled: demo}]
  math: [{bundled: demo}]
samplers:
  template: {engine: template}
mixture:
  harmful: {rows: 20, prefill: {sampler: template, share: 0.5, words: 60, min_words: 20}}
  benign: {rows: 20, prefill: {sampler: template, share: 0.5, words: 60, min_words: 20}}
  math: {rows: 10}
"""
NO_THINKING = """\
{%- for m in messages -%}<|{{ m.role }}|>{{ m.content }}<|end|>{%- endfor -%}
{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}
"""


def small_mixture(out: Path) -> Path:
    runner = LocalRunner(1)
    try:
        build(LoadedRecipe(parse(RECIPE, "small.yaml"), out.parent), out, runner)
    finally:
        runner.close()
    return out


def run(*arguments: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", "export", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_mixture(tmp_path_factory.mktemp("mixture") / "small")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return byte_tokenizer(tmp_path_factory.mktemp("model") / "bytes")


@pytest.fixture(scope="module")
def exported(mixture: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export") / "verl"
    run(mixture, "--format", "verl", "--model", model, "--out", out)
    return out


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return list(pq.read_table(folder / "train.parquet").to_pylist())


def source_of(mixture: Path) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in open_mixture(str(mixture)).rows()}


def test_every_row_of_the_mixture_is_there_as_verl_reads_it(exported: Path, mixture: Path, model: Path) -> None:
    from transformers import AutoTokenizer

    rows, source = rows_of(exported), source_of(mixture)
    renderer = renderer_for(AutoTokenizer.from_pretrained(model))
    assert len(rows) == 50 == len(source)
    assert [row["extra_info"]["index"] for row in rows] == list(range(50))
    for row in rows:
        made_from, info = source[row["extra_info"]["id"]], row["extra_info"]
        assert row["prompt"] == made_from["prompt"]
        assert {turn["role"] for turn in row["prompt"]} == {"user"}
        assert row["data_source"] == made_from["domain"]
        assert info["prefill"] == made_from["prefill"]
        assert info["reward"] == made_from["reward"]
        assert row["reward_model"]["ground_truth"] == made_from["ground_truth"]
        assert row["agent_name"] == "recap"
        plain = renderer.render(row["prompt"], None).ids
        full = renderer.render(row["prompt"], info["prefill"]).ids
        assert info["prefill_tokens"] == len(full) - len(plain)
    assert sum(row["extra_info"]["prefill"] is not None for row in rows) == 20


def test_the_export_says_what_it_was_made_from(exported: Path, mixture: Path) -> None:
    known = json.loads((exported / "export.json").read_text())
    assert known["content_hash"] == json.loads((mixture / "manifest.json").read_text())["content_hash"]
    assert (known["rows"], known["prefilled"]) == (50, 20)
    for file in exported.iterdir():
        if file.suffix in (".sh", ".md", ".yaml", ".py"):
            assert not re.search("@[A-Z_]+@", file.read_text()), file


def test_rows_over_the_limit_are_dropped_whole_and_counted(mixture: Path, model: Path, tmp_path: Path) -> None:
    done = run(mixture, "--model", model, "--out", tmp_path / "out", "--max-prompt-tokens", 300, "--json")
    counted = json.loads(done.stdout)
    rows, source = rows_of(tmp_path / "out"), source_of(mixture)
    assert counted["rows"] == len(rows)
    assert counted["too_long"] == 50 - len(rows) > 0
    for row in rows:
        made_from = source[row["extra_info"]["id"]]
        assert (row["prompt"], row["extra_info"]["prefill"]) == (made_from["prompt"], made_from["prefill"])
    assert "data.max_prompt_length=300\n" in (tmp_path / "out" / "launch.sh").read_text()


def test_a_name_that_the_shell_would_read_stays_a_name(mixture: Path, model: Path, tmp_path: Path) -> None:
    odd = shutil.copytree(model, tmp_path / "a model; $(touch oops)")
    run(mixture, "--model", odd, "--out", tmp_path / "out")
    recorder = tmp_path / "python"
    recorder.write_text(f'#!/usr/bin/env bash\nprintf "%s\\n" "$@" >> "{tmp_path}/arguments"\n')
    recorder.chmod(0o755)
    subprocess.run(
        [tmp_path / "out" / "launch.sh"], cwd=tmp_path, check=True, env={**os.environ, "PYTHON": str(recorder)}
    )
    assert f"actor_rollout_ref.model.path='{odd}'" in (tmp_path / "arguments").read_text().splitlines()
    assert not (tmp_path / "oops").exists()


def test_judges_are_checked_and_go_along(mixture: Path, model: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("safety: {engine: guard, famly: granite-guardian}\nnonsense: 1\n")
    done = run(mixture, "--model", model, "--out", tmp_path / "out", "--rewards", wrong, code=2)
    assert "famly" in done.stderr
    assert "nonsense" in done.stderr
    assert not (tmp_path / "out").exists()
    right = tmp_path / "right.yaml"
    right.write_text(
        "safety: {engine: guard, family: granite-guardian, base_url: 'http://localhost:1/v1', model: guard}\n"
    )
    run(mixture, "--model", model, "--out", tmp_path / "out", "--rewards", right)
    assert (tmp_path / "out" / "rewards.yaml").read_text() == right.read_text()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--format", "trainer-of-mine"], ["trainer-of-mine", "--format verl"]),
        (["--mixture-config", "nonsense"], ["'nonsense'", "mixture"]),
        (["--model", "no-such/model"], ["no-such/model"]),
        (["--max-prompt-tokens", "8000"], ["8000", "no room"]),
        (["--max-prompt-tokens", "10"], ["50 are longer than 10 tokens"]),
        (["--rewards", "/no/such/file.yaml"], ["/no/such/file.yaml"]),
    ],
)
def test_what_is_wrong_is_told_in_a_line(
    mixture: Path, model: Path, tmp_path: Path, arguments: list[str], told: list[str]
) -> None:
    done = run(mixture, "--model", model, "--out", tmp_path / "out", *arguments, code=2)
    assert all(part in done.stderr for part in told), done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_template_that_cant_be_continued_is_shown_with_its_tail(mixture: Path, tmp_path: Path) -> None:
    model = byte_tokenizer(tmp_path / "model", NO_THINKING)
    done = run(mixture, "--model", model, "--out", tmp_path / "out", code=2)
    assert "<|end|><|assistant|>" in done.stderr


def test_thinking_and_template_go_to_the_agent_loop_and_its_marks_to_the_rewards(mixture: Path, tmp_path: Path) -> None:
    """As SmolLM3's template, this one has a variable, and no mark of its own that could follow its prompt."""
    model = byte_tokenizer(tmp_path / "model", NO_THINKING.replace("-%}<|assistant|>", "-%}<|assistant|>{{ style }}"))
    settings, out = tmp_path / "policy.yaml", tmp_path / "out"
    settings.write_text('thinking: ["<mm:think>", "</mm:think>"]\n')
    run(mixture, "--model", model, "--out", out, "--config", settings, "--set", "template.style=calm")
    [loop] = yaml.safe_load((out / "agent_loop.yaml").read_text())
    known = json.loads((out / "export.json").read_text())
    for made in (loop, known):
        assert (made["thinking"], made["template"]) == (["<mm:think>", "</mm:think>"], {"style": "calm"})
    assert read_marks(out) == Marks("<mm:think>", "</mm:think>", "\n\n", "")
    pytest.importorskip("math_verify", reason="needs math-verify: pip install 'recap-data[trainer]'")
    (out / "rewards.yaml").write_text("safety: {engine: refusal}\nhelpfulness: {engine: refusal}\n")
    row = rows_of(out)[0]["extra_info"] | {"reward": "safety", "opened": True}
    where = {"rewards": str(out / "rewards.yaml"), "ledger": str(tmp_path / "ledger.sqlite")}
    for completion, unclosed in (("On</think> so.</mm:think>I can't help with that.", 0.0), ("On.</think>No.", 1.0)):
        found = asyncio.run(compute_score("harmful", "", None, row | {"completion": completion}, **where))
        assert (found["unclosed"], found["lost"]) == (unclosed, ""), found
    check(out, str(model))


def test_a_mixture_of_another_schema_version_is_refused(mixture: Path, model: Path, tmp_path: Path) -> None:
    other = shutil.copytree(mixture, tmp_path / "other")
    manifest = json.loads((other / "manifest.json").read_text())
    (other / "manifest.json").write_text(json.dumps(manifest | {"schema_version": 99}))
    done = run(other, "--model", model, "--out", tmp_path / "out", code=2)
    assert "schema version 99" in done.stderr


def test_files_in_the_way_are_left_as_they_are(mixture: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    done = run(mixture, "--model", model, "--out", out, code=2)
    assert "holds files" in done.stderr
    assert [file.name for file in out.iterdir()] == ["mine.txt"]
    (out / "mine.txt").unlink()
    run(mixture, "--model", model, "--out", out)
    assert (out / "launch.sh").stat().st_mode & 0o111
