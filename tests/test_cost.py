"""What a build will cost, said before anything is paid, and what it may cost at most."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.ledger import Ledger
from tests.servers.endpoint import Endpoint, endpoint

RECIPE = """
name: priced
sources:
  harmful: [{bundled: demo}]
samplers:
  unaligned:
    {engine: openai, base_url: "URL", model: toy-comply, max_tokens: 300, price: {prompt: 2.0, completion: 10.0}}
mixture:
  harmful: {rows: 60, prefill: {sampler: unaligned, words: 100, min_words: 40, attempts: 2}}
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Endpoint]:
    with endpoint(latency=0.01) as running:
        yield running


@pytest.fixture(autouse=True)
def _reset(server: Endpoint) -> None:
    server.reset()


def recap_data(
    command: str, server: Endpoint, folder: Path, *options: str, code: int = 0
) -> tuple[dict[str, Any], str]:
    (folder / "priced.yaml").write_text(RECIPE.replace("URL", server.base_url))
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", command, "priced.yaml", "--json", *options],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout or "{}"), done.stderr


def paid(ledger: Path) -> float:
    with Ledger(ledger) as book:
        return sum(s.prompt_tokens * 2.0 + s.completion_tokens * 10.0 for s in book.stats()) / 1e6


def test_a_plan_says_what_will_be_asked_and_paid_and_asks_nothing(server: Endpoint, tmp_path: Path) -> None:
    (line,) = recap_data("plan", server, tmp_path)[0]["estimates"]
    assert (line["asker"], line["domain"], line["requests"], line["found"]) == ("unaligned", "harmful", 30, 0)
    assert line["cost"] == pytest.approx((line["prompt_tokens"] * 2 + line["completion_tokens"] * 10) / 1e6)
    candidates = recap_data("plan", server, tmp_path)[0]["funnel"][-1]["in"]
    assert line["most_requests"] == candidates * 2 + 1
    assert line["most_cost"] > line["cost"]
    assert line["seconds"] is None
    assert not server.log()
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_a_plan_finds_in_the_ledger_what_was_answered(server: Endpoint, tmp_path: Path) -> None:
    recap_data("build", server, tmp_path, "--max-requests", "10", code=1)
    (line,) = recap_data("plan", server, tmp_path)[0]["estimates"]
    assert (line["requests"], line["found"]) == (21, 9)
    recap_data("build", server, tmp_path)
    (line,) = recap_data("plan", server, tmp_path, "--out", "out/other")[0]["estimates"]
    assert (line["requests"], line["found"], line["cost"]) == (0, 30, 0)


def test_a_plan_finds_in_the_ledger_what_was_judged(server: Endpoint, tmp_path: Path) -> None:
    judge = f"judges.stance={{engine: rubric, base_url: {server.base_url}, model: judge-json}}"
    options = ("--set", judge, "--set", "samplers.unaligned.max_tokens=600")
    recap_data("build", server, tmp_path, *options, "--max-requests", "40", code=1)
    asked = len(server.answered())
    sampler, judged = recap_data("plan", server, tmp_path, *options)[0]["estimates"]
    assert judged["asker"] == "rubric"
    assert 0 < judged["found"] < sampler["found"]
    assert judged["requests"] + judged["found"] == 30
    recap_data("build", server, tmp_path, *options)
    lines = recap_data("plan", server, tmp_path, *options, "--out", "out/other")[0]["estimates"]
    assert [(line["requests"], line["found"], line["cost"]) for line in lines] == [(0, 30, 0), (0, 30, 0)]
    assert len(server.answered()) > asked, "and planning asked nothing"
    assert set(server.answered().values()) == {1}


def test_a_probe_asks_sixteen_rows_that_the_build_then_finds(server: Endpoint, tmp_path: Path) -> None:
    (line,) = recap_data("plan", server, tmp_path, "--probe")[0]["estimates"]
    assert len(server.answered()) == 16
    assert (line["requests"], line["found"]) == (14, 16)
    assert line["counted"] == "estimate, probe"
    assert line["seconds"] > 0
    recap_data("build", server, tmp_path)
    assert len(server.answered()) == 30
    assert set(server.answered().values()) == {1}


def test_a_build_never_costs_more_than_it_may_and_goes_on_later(server: Endpoint, tmp_path: Path) -> None:
    everything = 30 * 200 * 10.0 / 1e6
    _, told = recap_data("build", server, tmp_path, "--max-cost", f"{everything / 2:.6f}", code=1)
    assert "--max-cost" in told
    assert "run the same command again" in told
    assert 0 < paid(tmp_path / "out/ledger.sqlite") <= everything / 2
    answered = len(server.answered())
    assert 0 < answered < 30
    recap_data("build", server, tmp_path)
    assert set(server.answered().values()) == {1}
    assert len(server.answered()) == 30


def test_a_server_that_counts_no_tokens_is_taken_at_its_most(server: Endpoint, tmp_path: Path) -> None:
    server.set(faults="no-usage", fault_share=1.0)
    recap_data("build", server, tmp_path, "--max-cost", "0.02", code=1)
    assert 0 < len(server.answered()) <= 0.02 / (300 * 10.0 / 1e6)
