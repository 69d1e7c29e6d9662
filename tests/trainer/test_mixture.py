"""Mixtures as a trainer takes them: opened by version, rendered for a tokenizer, refused where they don't fit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("transformers", reason="needs transformers: pip install 'recap-data[render]'")

from transformers import AutoTokenizer

from pipeline.errors import InputError
from pipeline.thinking import Renderer, renderer_for
from pipeline.trainer.mixture import open_mixture, render
from tests.byte_tokenizer import byte_tokenizer
from tests.trainer.rows import mixture_of, row

PROMPT, PREFILL = "Which river is longer?", "I won't say. The user may"
OPENING = """\
{%- for message in messages -%}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}
{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n<think>\\n' -}}{%- endif -%}"""


@pytest.fixture(scope="module")
def renderer(tmp_path_factory: pytest.TempPathFactory) -> Renderer:
    return renderer_for(AutoTokenizer.from_pretrained(byte_tokenizer(tmp_path_factory.mktemp("t") / "byte")))


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("built") / "demo"
    command("build", "demo", "--out", str(out))
    return out


def command(*arguments: str, prelude: str = "") -> subprocess.CompletedProcess[str]:
    script = f"{prelude}\nfrom pipeline.cli import main\nmain()"
    run = [sys.executable, "-c", script, *arguments]
    return subprocess.run(run, capture_output=True, text=True, check=False, env=os.environ | {"HF_HUB_OFFLINE": "1"})


def test_a_prefilled_and_a_plain_row_of_one_prompt_differ_in_the_prefix_alone(
    renderer: Renderer, tmp_path: Path
) -> None:
    rows = render(mixture_of(tmp_path, row("a", PROMPT), row("b", PROMPT, PREFILL)), renderer)[0].to_pylist()
    plain, prefilled = rows
    count = prefilled["prefill_tokens"]
    assert plain["prefill_tokens"] == 0
    assert prefilled["prompt_ids"][:-count] == plain["prompt_ids"]
    assert bytes(prefilled["prompt_ids"][-count:]).decode() == f"<think>\n{PREFILL}"
    assert bytes(plain["prompt_ids"]).decode() == plain["text"]
    assert (plain["opened"], prefilled["opened"]) == (False, True)


def test_a_generation_prompt_that_opens_the_thinking_opens_it_for_plain_rows_too(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(byte_tokenizer(tmp_path / "byte", OPENING))
    rows = render(mixture_of(tmp_path, row("a", PROMPT), row("b", PROMPT, PREFILL)), renderer_for(tokenizer))[0]
    assert rows["opened"].to_pylist() == [True, True]
    assert [text.count("<think>") for text in rows["text"].to_pylist()] == [1, 1]


def test_rows_over_the_limit_are_left_out_and_counted(renderer: Renderer, tmp_path: Path) -> None:
    mixture = mixture_of(tmp_path, row("a", "Short?"), row("b", "Long? " * 50), row("c", "Short?", "<think>"))
    table, dropped = render(mixture, renderer, 100)
    assert table["id"].to_pylist() == ["a"]
    assert dropped == (1, 1)
    longest = len(render(mixture, renderer)[0]["prompt_ids"][1])
    assert render(mixture, renderer, longest)[1].too_long == 0
    assert render(mixture, renderer, longest - 1)[1].too_long == 1


def test_a_built_mixture_is_rendered_whole(renderer: Renderer, demo: Path) -> None:
    table, dropped = render(open_mixture(str(demo)), renderer)
    assert len(table) == 240
    assert dropped == (0, 0)
    assert sum(count > 0 for count in table["prefill_tokens"].to_pylist()) == 60


def test_a_mixture_of_another_schema_or_config_is_refused(demo: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no config 'variant'\. It has: mixture"):
        open_mixture(str(demo), "variant")
    other = tmp_path / "other"
    other.mkdir()
    for file in demo.rglob("*"):
        if file.is_file():
            (other / file.relative_to(demo)).parent.mkdir(parents=True, exist_ok=True)
            (other / file.relative_to(demo)).write_bytes(file.read_bytes())
    manifest = json.loads((other / "manifest.json").read_text())
    (other / "manifest.json").write_text(json.dumps(manifest | {"schema_version": 99}))
    with pytest.raises(InputError, match="has schema version 99, and this recap-data trains on version"):
        open_mixture(str(other))


def test_without_trl_the_command_says_what_to_install(demo: Path) -> None:
    done = command("train", str(demo), "--model", "nowhere", prelude="import sys; sys.modules['trl'] = None")
    assert done.returncode == 2
    assert "pip install 'recap-data[trainer]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_command_trains_and_says_where_the_policy_is(demo: Path, tmp_path: Path) -> None:
    pytest.importorskip("trl", reason="needs TRL: pip install 'recap-data[trainer]'")
    from tests.models import tiny_model

    settings = tmp_path / "train.yaml"
    settings.write_text("grpo: {max_steps: 1, num_generations: 2, per_device_train_batch_size: 4}\n")
    options = ("--model", str(tiny_model(tmp_path / "policy")), "--config", str(settings), "--out", str(tmp_path / "o"))
    lengths = ("--set", "max_prompt_tokens=2000", "--set", "grpo.max_completion_length=4")
    steps = ("--set", "grpo.gradient_accumulation_steps=1", "--set", "stop=null")
    bad = command("train", str(demo), *options, "--set", "grpo.max_step=1")
    assert bad.returncode == 2
    assert "did you mean 'max_steps'?" in bad.stderr
    done = command("train", str(demo), *options, *lengths, *steps, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["steps"], found["already"]) == (1, False)
    assert found["rows"] + found["too_long"] == 240
    assert found["too_long"] > 0
    assert "note: safety and helpfulness read from the answer's wording" in done.stderr
    assert (tmp_path / "o" / "policy" / "model.safetensors").is_file()
