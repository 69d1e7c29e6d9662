"""Whole builds judged by models over HTTP: real rejection, real resampling, and judges that can't be used."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.report import write_report
from tests.servers.endpoint import BEFOREHAND, Endpoint, endpoint

RECIPE = """
name: judged
sources:
  harmful: [{bundled: demo}]
  benign: [{bundled: demo}]
samplers:
  unaligned: {engine: openai, base_url: "URL", model: toy-comply, max_tokens: 400}
  overcautious: {engine: openai, base_url: "URL", model: toy-refuse, max_tokens: 400}
judges:
  harmful: {engine: guard, family: llama-guard-3, base_url: "URL", model: guard-llama}
  benign: {engine: rubric, base_url: "URL", model: judge-json}
mixture:
  harmful: {rows: 20, prefill: {sampler: unaligned, words: 100, min_words: 40}}
  benign: {rows: 20, prefill: {sampler: overcautious, words: 100, min_words: 40}}
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Endpoint]:
    with endpoint(latency=0.002) as running:
        yield running


@pytest.fixture(autouse=True)
def _reset(server: Endpoint) -> None:
    server.reset()


def build(server: Endpoint, folder: Path, *options: str, code: int = 0) -> tuple[dict[str, Any], str]:
    (folder / "judged.yaml").write_text(RECIPE.replace("URL", server.base_url))
    command = [sys.executable, "-m", "pipeline.cli", "build", "judged.yaml", "--json", *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout or "{}"), done.stderr


def test_what_models_judge_is_kept_with_what_they_saw(server: Endpoint, tmp_path: Path) -> None:
    server.set(wrong_share=0.3)
    build(server, tmp_path)
    rows = [row for row in pq.read_table(tmp_path / "out/judged/data").to_pylist() if row["prefill"]]
    assert Counter(row["domain"] for row in rows) == {"harmful": 10, "benign": 10}
    judges = {"harmful": ("complies", "guard:guard-llama"), "benign": ("refuses", "rubric:judge-json")}
    for row in rows:
        assert (row["verdict"]["stance"], row["verdict"]["judge"]) == judges[row["domain"]]
        assert row["verdict"]["sees"] == ["prompt", "thinking"]
        assert row["verdict"]["score"] > 0.5 if row["domain"] == "harmful" else row["verdict"]["score"] < 0.5
    attempts = json.loads((tmp_path / "out/judged/manifest.json").read_text())["attempts"]
    first = {entry["domain"]: entry for entry in attempts if entry["attempt"] == 0}
    assert all(entry["rejected"] for entry in first.values())
    assert all(e["tried"] == e["accepted"] + sum(e["rejected"].values()) for e in attempts)
    assert max(row["sampling"]["attempt"] for row in rows) > 0


@pytest.mark.parametrize(
    ("embedded", "domains"), [(("stance",), ["harmful", "benign"]), (("benign",), ["benign"]), ((), [])]
)
def test_an_embedded_judge_of_what_models_wrote_is_told_as_a_stand_in(
    embedded: tuple[str, ...], domains: list[str], server: Endpoint, tmp_path: Path
) -> None:
    judges = {"stance": "judges={stance: {engine: refusal}}", "benign": "judges.benign={engine: refusal}"}
    options = [part for name in embedded for part in ("--set", judges[name])]
    build(server, tmp_path, *options)
    out = tmp_path / "out/judged"
    assert json.loads((out / "manifest.json").read_text())["stand_ins"] == domains
    told = " and ".join(domains)
    assert (f"models wrote the prefills of {told}, and the judge `refusal`" in (out / "README.md").read_text()) == bool(
        told
    )
    page = write_report(out, tmp_path / "report.html", 0).read_text()
    assert (f"models wrote the prefills of {told}, and the embedded judge" in page) == bool(told)
    command = [sys.executable, "-m", "pipeline.cli", "plan", "judged.yaml", *options]
    planned = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    said = " ".join(planned.stderr.split())
    assert (f"note: models write the prefills of {told}, and the embedded judge stands in" in said) == bool(told)


def test_a_rebuild_asks_neither_samplers_nor_judges(server: Endpoint, tmp_path: Path) -> None:
    first, _ = build(server, tmp_path)
    asked = len(server.log())
    again, _ = build(server, tmp_path, "--out", "out/again")
    assert len(server.log()) == asked
    assert again["content_hash"] == first["content_hash"]


def test_a_judge_that_can_not_be_read_is_counted_and_never_passes(server: Endpoint, tmp_path: Path) -> None:
    server.set(unreadable_share=0.4)
    told, _ = build(server, tmp_path, "--allow-short", "--set", "mixture.harmful.prefill.attempts=1")
    dropped = {row["domain"]: row["dropped"] for row in told["funnel"] if row["step"] == "sample"}
    assert dropped["harmful"]["judge's verdict can't be read"] > 0
    rejected = pq.read_table(tmp_path / "out/judged/rejected").to_pylist()
    unread = [row for row in rejected if row["reason"] == "judge's verdict can't be read"]
    assert {row["verdict"]["stance"] for row in unread} == {"unreadable"}
    kept = pq.read_table(tmp_path / "out/judged/data").to_pylist()
    assert {row["verdict"]["stance"] for row in kept if row["prefill"]} == {"complies", "refuses"}


@pytest.mark.parametrize("way", ["content-filter", "empty-text", "half-emoji-token"])
def test_an_answer_of_a_judge_that_is_nothing_costs_its_verdict_alone(
    server: Endpoint, tmp_path: Path, way: str
) -> None:
    judges = (
        r'^(?!.*Rhine)(?=.*"(?:guard-llama|judge-json)").*(?:lighthouse|insults about|queen and a rook|bank password)'
    )
    server.set(faults=way, fault_share=1.0, fault_times=10**9, fault_bodies=judges)
    told, _ = build(server, tmp_path)
    assert told["rows"]["mixture"] == 40
    rejected = pq.read_table(tmp_path / "out/judged/rejected").to_pylist()
    for row in rejected:
        assert row["verdict"] is None or row["verdict"]["stance"] != "unreadable" or "read" in row["reason"]
    assert any(record.fault == way for record in server.log()), "it befell somebody"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["judges.benign={engine: guard, family: llama-guard-3, base_url: URL, model: guard-llama}"], "can't tell"),
        (["judges.harmful.model=nope"], "has no model 'nope'"),
        (["judges.harmful.api_key_env=NOT_SET_HERE"], "NOT_SET_HERE is not set"),
        (["judges.benign.template=nope"], "There is no template 'nope'"),
        (["judges.benign.sees=[prompt]"], "sees must hold thinking"),
        (["judges.harmful.family=llama"], "'llama' is not allowed"),
    ],
)
def test_a_judge_that_can_not_be_used_is_told_before_anything_is_paid(
    server: Endpoint, tmp_path: Path, options: list[str], said: str
) -> None:
    set_them = [part for option in options for part in ("--set", option.replace("URL", server.base_url))]
    _, told = build(server, tmp_path, *set_them, code=2)
    assert said in told
    assert "Traceback" not in told
    paid = [record.body for record in server.log() if record.body and BEFOREHAND not in record.body]
    assert not any("toy" in json.loads(body).get("model", "") for body in paid)
