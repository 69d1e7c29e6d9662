"""A sampler of which next to nothing is accepted is given up, and what it wrote is left to be read."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.servers.endpoint import Endpoint, endpoint

RECIPE = """
name: fruitless
sources:
  harmful: [{files: many.jsonl, prompt: p, licence: mit}]
samplers:
  unaligned: {engine: openai, base_url: "URL", model: toy-comply, max_tokens: 600}
clean: {dedupe: {near: null}}
mixture:
  harmful: {rows: 60, prefill: {sampler: unaligned, share: 1.0, words: 60, min_words: 20, attempts: 3}}
"""


@pytest.fixture(scope="module")
def running() -> Iterator[Endpoint]:
    with endpoint(latency=0.002) as found:
        yield found


@pytest.fixture
def server(running: Endpoint, tmp_path: Path) -> Endpoint:
    running.reset()
    lines = (f'{{"p": "How do I mend lamp number {n} of house {n * 7919 % 10007}?"}}\n' for n in range(2000))
    (tmp_path / "many.jsonl").write_text("".join(lines))
    (tmp_path / "fruitless.yaml").write_text(RECIPE.replace("URL", running.base_url))
    return running


def build(folder: Path, *options: str, code: int = 0) -> tuple[dict[str, Any], str]:
    command = [sys.executable, "-m", "pipeline.cli", "build", "fruitless.yaml", "--json", *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return json.loads(done.stdout or "{}"), done.stderr


def sent(server: Endpoint) -> int:
    return len([record for record in server.log() if record.path.endswith("completions")])


def test_a_sampler_that_yields_nothing_is_given_up_with_the_reason_and_its_texts(
    server: Endpoint, tmp_path: Path
) -> None:
    server.set(wrong_share=1.0)
    _, told = build(tmp_path, code=1)
    assert "Next to nothing that unaligned writes for harmful is accepted" in told
    assert "0 of " in told
    assert "stance" in told
    assert "below min_yield (0.01)" in told
    assert sent(server) < 500, "of 6,000 that three tries at every candidate are"
    assert not (tmp_path / "out/fruitless").exists()
    lines = [json.loads(line) for line in (tmp_path / "out/fruitless.rejected.jsonl").read_text().splitlines()]
    assert f"{len(lines):,} rejected prefills" in told
    assert len(lines) >= 100
    for line in lines:
        assert line["prefill"]
        assert line["reason"] in told
        assert line["verdict"]["stance"] == "refuses"

    before = sent(server)
    _, again = build(tmp_path, code=1)
    assert "Next to nothing" in again or "quotas can't be met" in again
    assert sent(server) < before + 500, "what was answered is not paid again"

    server.set(wrong_share=0.0)
    build(tmp_path, "--set", "seed=2")
    assert len(pq.read_table(tmp_path / "out/fruitless/data")) == 60
    assert not (tmp_path / "out/fruitless.rejected.jsonl").exists()


def test_a_sampler_that_yields_little_is_asked_on(server: Endpoint, tmp_path: Path) -> None:
    server.set(wrong_share=0.9)
    built, _ = build(tmp_path)
    assert built["rows"]["mixture"] == 60
    _, told = build(tmp_path, "--set", "mixture.harmful.prefill.min_yield=0.5", "--set", "seed=5", code=1)
    assert "below min_yield (0.5)" in told


def test_the_rule_can_be_switched_off_and_changes_no_row(server: Endpoint, tmp_path: Path) -> None:
    server.set(wrong_share=0.5)
    first, _ = build(tmp_path)
    off, _ = build(tmp_path, "--set", "mixture.harmful.prefill.min_yield=null", "--out", "out/off")
    assert off["content_hash"] == first["content_hash"]
    assert off["requests"] == 0
    server.set(wrong_share=1.0)
    options = ["--set", "mixture.harmful.prefill.min_yield=null", "--set", "seed=3"]
    _, told = build(tmp_path, *options, "--max-requests", "900", code=1)
    assert "--max-requests" in told


def test_what_is_accepted_and_rejected_is_told_while_it_goes_on(server: Endpoint, tmp_path: Path) -> None:
    server.set(wrong_share=0.5, latency=0.05)
    command = [sys.executable, "-m", "pipeline.cli", "build", "fruitless.yaml"]
    script = f"stty cols 160; {' '.join(command)}"
    done = subprocess.run(
        ["script", "-qec", script, "/dev/null"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    told = re.findall(r"(\d+) of (\d+) accepted \(\d+ prefill has the other stance", done.stdout)
    assert len({tried for _, tried in told}) > 2, "it counts on"


def test_a_cap_without_prices_is_refused_and_names_every_model(server: Endpoint, tmp_path: Path) -> None:
    judge = f"{{engine: rubric, base_url: {server.base_url}, model: judge-json, price: {{prompt: 1, completion: 1}}}}"
    _, told = build(tmp_path, "--max-cost", "1", "--set", f"judges.stance={judge}", code=2)
    assert "samplers.unaligned: toy-comply" in told
    assert "judge" not in told.partition("no price:")[2].partition("Give")[0]
    _, told = build(tmp_path, "--max-cost", "1", "--set", "samplers.unaligned.price={completion: 1}", "--set",
                    f"judges.stance={judge.replace(', price: {prompt: 1, completion: 1}', '')}", code=2)  # fmt: skip
    assert "judge-json" in told
    assert "toy-comply" not in told
    assert not sent(server)
    built, _ = build(tmp_path, "--max-cost", "1", "--set", "samplers.unaligned.price={prompt: 0, completion: 1}")
    assert built["rows"]["mixture"] == 60
    assert 0 < built["cost"] < 1
