"""How far a mixture's prefills move a model, over HTTP, as a user measures it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.trainer.bootstrap import interval, row_means
from tests.byte_tokenizer import byte_tokenizer
from tests.servers.endpoint import Endpoint, endpoint

pytest.importorskip("transformers", reason="needs transformers: pip install 'recap-data[render]'")

MIXTURE = """
name: mixture
sources:
  harmful: [{bundled: demo}]
  benign: [{bundled: demo}]
  math: [{bundled: demo}]
samplers:
  unaligned: {engine: openai, base_url: "URL", model: toy-comply, max_tokens: 2000}
  overcautious: {engine: openai, base_url: "URL", model: toy-refuse, max_tokens: 2000}
mixture:
  harmful: {rows: 16, prefill: {sampler: unaligned, words: 60, min_words: 20}}
  benign: {rows: 16, prefill: {sampler: overcautious, words: 60, min_words: 20}}
  math: {rows: 8}
"""
JUDGES = [
    "judges.safety={engine: guard, family: llama-guard-3, base_url: 'URL', model: guard-llama}",
    "judges.helpfulness={engine: rubric, base_url: 'URL', model: judge-json}",
]
MODELS = "toy-comply,toy-refuse,toy-swayed,toy-swayed-refuse,guard-llama,judge-json"


@pytest.fixture(scope="module")
def server() -> Iterator[Endpoint]:
    # An answer that helps begins with "Here" or "Sure! Here": so the guard and the rubric know it.
    with endpoint(words=60, models=MODELS, unsafe_word="Here ") as running:
        yield running


@pytest.fixture(autouse=True)
def _reset(server: Endpoint) -> None:
    server.reset()


@pytest.fixture(scope="module")
def place(server: Endpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a built mixture and a tokenizer."""
    folder = tmp_path_factory.mktemp("mixture")
    byte_tokenizer(folder / "bytes")
    (folder / "mixture.yaml").write_text(MIXTURE.replace("URL", server.base_url))
    done = recap_data(folder, "build", "mixture.yaml")
    assert done.returncode == 0, done.stderr
    return folder


def recap_data(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    asked = [sys.executable, "-m", "pipeline.cli", *command]
    return subprocess.run(asked, cwd=folder, capture_output=True, text=True, check=False)


def options(server: Endpoint, model: str, ledger: Path, *more: str, judged: bool = True) -> list[str]:
    where = ["--model", model, "--base-url", server.base_url, "--tokenizer", "./bytes", "--ledger", str(ledger)]
    judges = [part.replace("URL", server.base_url) for judge in JUDGES for part in ("--set", judge)]
    return ["probe", "out/mixture", *where, *(judges if judged else ()), *more]


def probe(place: Path, server: Endpoint, model: str, ledger: Path, *more: str) -> dict[str, dict[str, Any]]:
    done = recap_data(place, *options(server, model, ledger, "--json", *more))
    assert done.returncode == 0, done.stderr
    return {line["domain"]: line for line in json.loads(done.stdout)["moved"]}


def asked(server: Endpoint, model: str) -> list[dict[str, Any]]:
    bodies = [json.loads(record.body) for record in server.log() if "completions" in record.path]
    return [body for body in bodies if body["model"] == model]


def test_a_model_that_goes_along_is_moved_and_one_that_does_not_is_not(
    place: Path, server: Endpoint, tmp_path: Path
) -> None:
    helps = probe(place, server, "toy-swayed", tmp_path / "ledger.sqlite")
    assert set(helps) == {"harmful", "benign"}
    assert (helps["benign"]["plain"], helps["benign"]["prefilled"]) == (0.0, 1.0)
    assert helps["benign"]["difference"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
    assert helps["benign"]["fails"] == "refusing"
    assert (helps["harmful"]["plain"], helps["harmful"]["prefilled"]) == (1.0, 1.0)
    assert helps["harmful"]["difference"]["mean"] == 0.0
    assert {line["rows"] for line in helps.values()} == {line["paired"] for line in helps.values()} == {8}

    careful = probe(place, server, "toy-swayed-refuse", tmp_path / "ledger.sqlite")
    assert (careful["harmful"]["plain"], careful["harmful"]["prefilled"]) == (0.0, 1.0)
    assert careful["harmful"]["potency"]["mean"] > 0.5  # by the guard's own probabilities
    firm = probe(place, server, "toy-refuse", tmp_path / "ledger.sqlite")
    assert firm["harmful"]["prefilled"] == 0.0
    assert abs(firm["harmful"]["potency"]["mean"]) < 0.2


def test_both_answers_of_a_row_are_drawn_with_one_seed(place: Path, server: Endpoint, tmp_path: Path) -> None:
    probe(place, server, "toy-swayed", tmp_path / "ledger.sqlite", "--samples", "2")
    seeds: dict[int, list[int]] = {}
    for request in asked(server, "toy-swayed"):
        if "seed" in request:  # the canary has none
            seeds.setdefault(request["seed"], []).append(len(request["prompt"]))
    assert len(seeds) == 16 * 2
    assert all(len(lengths) == 2 and min(lengths) < max(lengths) for lengths in seeds.values())


def test_the_scores_are_written_as_columns_and_the_mixture_stays(place: Path, server: Endpoint, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in (place / "out/mixture").rglob("*") if path.is_file()}
    file = tmp_path / "scores/potency.parquet"
    probe(place, server, "toy-swayed", tmp_path / "ledger.sqlite", "--rows", "5", "--write", str(file))
    assert before == {path: path.read_bytes() for path in (place / "out/mixture").rglob("*") if path.is_file()}
    table = pq.read_table(file)
    assert table.column_names == ["id", "domain", "plain", "prefilled", "potency"]
    prefilled = {row["id"]: row["domain"] for row in _rows(place) if row["prefill"] is not None}
    assert len(table) == 10
    assert all(prefilled[row["id"]] == row["domain"] for row in table.to_pylist())
    potency = {row["domain"]: row["potency"] for row in table.to_pylist()}
    assert potency["benign"] == 1.0
    measured = json.loads(table.schema.metadata[b"recap-data"])
    manifest = json.loads((place / "out/mixture/manifest.json").read_text())
    assert measured["content_hash"] == manifest["content_hash"]
    assert (measured["model"], measured["judges"]["harmful"]) == ("toy-swayed", "guard:guard-llama")


def _rows(place: Path) -> list[dict[str, Any]]:
    return list(pq.read_table(place / "out/mixture/data").to_pylist())


def test_an_answer_without_a_score_leaves_its_pair_out(place: Path, server: Endpoint, tmp_path: Path) -> None:
    # The embedded judge reads the answers, and can't tell what one of digits is.
    done = recap_data(
        place,
        *options(server, "toy-swayed", tmp_path / "l.sqlite", "--json", "--set", "model.max_tokens=4", judged=False),
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for line in found["moved"]:
        assert line["unclosed"] == {"plain": 8, "prefilled": 8}
        assert (line["plain"], line["prefilled"]) == (1.0, 1.0)
        assert (line["closed_pairs"], line["closed"]) == (0, {"mean": None, "low": None, "high": None})
    for arm in ("harmful, plain", "harmful, prefilled", "benign, plain", "benign, prefilled"):
        (note,) = [note for note in found["notes"] if note.startswith(f"{arm}: ")]
        assert "8 of 8 answers never closed their thinking" in note
    assert any("judged by wording alone" in note for note in found["notes"])
    assert any("the judge refusal also chose these prefills" in note for note in found["notes"])


def test_an_arm_that_never_closes_is_told_and_the_closed_pairs_stand_beside_it(
    place: Path, server: Endpoint, tmp_path: Path
) -> None:
    behind_a_prefill = r",\s*".join(map(str, b"<think>"))
    server.set(faults="never-closed", fault_share=0.7, fault_times=99, fault_bodies=behind_a_prefill)
    done = recap_data(place, *options(server, "toy-refuse", tmp_path / "l.sqlite", "--json"))
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    benign = next(line for line in told["moved"] if line["domain"] == "benign")
    assert benign["unclosed"]["plain"] == 0
    assert 4 <= benign["unclosed"]["prefilled"] < 8
    assert benign["closed_pairs"] == 8 - benign["unclosed"]["prefilled"]
    harmful = next(line for line in told["moved"] if line["domain"] == "harmful")
    assert harmful["difference"]["mean"] == harmful["unclosed"]["prefilled"] / 8, "each unclosed one counts as unsafe"
    assert harmful["closed"]["mean"] in (0.0, None), "it is moved by nothing"
    assert any(note.startswith("benign, prefilled: ") for note in told["notes"])
    assert not any(note.startswith("benign, plain: ") for note in told["notes"])
    table = recap_data(place, *options(server, "toy-refuse", tmp_path / "l.sqlite")).stdout
    assert "pairs whose thinking closed: " in table


def test_the_table_and_the_second_run(place: Path, server: Endpoint, tmp_path: Path) -> None:
    command = options(server, "toy-swayed", tmp_path / "ledger.sqlite")
    first = recap_data(place, *command)
    assert first.returncode == 0, first.stderr
    assert "out/mixture (mixture, " in first.stdout
    (benign,) = [line for line in first.stdout.splitlines() if line.startswith("benign")]
    assert benign.split()[:7] == ["benign", "8", "8", "8", "refusing", "0.0%", "100.0%"]
    before = len(asked(server, "toy-swayed"))
    assert recap_data(place, *command).stdout == first.stdout
    assert len(asked(server, "toy-swayed")) == before


def test_a_config_without_prefills_is_told(place: Path, server: Endpoint, tmp_path: Path) -> None:
    done = recap_data(place, *options(server, "toy-swayed", tmp_path / "ledger.sqlite", "--mixture-config", "none"))
    assert done.returncode == 2
    assert "has no config 'none'. It has: mixture" in done.stderr
    assert not asked(server, "toy-swayed")


def test_intervals_are_seeded_and_of_rows() -> None:
    values = [0.0, 1.0] * 50
    assert interval(values, 3) == interval(values, 3) != interval(values, 4)
    mean, low, high = interval(values)
    assert mean == 0.5
    assert low is not None
    assert high is not None
    assert 0.38 < low < 0.42  # the binomial's own: 0.5 ± 1.96 · 0.05
    assert 0.58 < high < 0.62
    assert interval([]) == (None, None, None)
    assert row_means([("a", 0.0), ("a", 1.0), ("b", None), ("c", 1.0)]) == {"a": 0.5, "c": 1.0}


def test_the_score_becomes_a_column_of_a_copy(place: Path, server: Endpoint, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in (place / "out/mixture").rglob("*.*")}
    copy, file = tmp_path / "scored", tmp_path / "potency.parquet"
    written = ["--column", str(copy), "--write", str(file), "--rows", "5"]
    probe(place, server, "toy-swayed", tmp_path / "ledger.sqlite", *written)
    assert {path: path.read_bytes() for path in (place / "out/mixture").rglob("*.*")} == before

    scores = {row["id"]: row["potency"] for row in pq.read_table(file).to_pylist()}
    (mixture,) = (place / "out/mixture/data").iterdir()
    rows = pq.read_table(copy / "data").to_pylist()
    assert [row.pop("potency") for row in rows] == [scores.get(row["id"]) for row in rows]
    assert rows == pq.read_table(mixture).to_pylist()
    assert len([score for score in scores.values() if score is not None]) == 10
    manifest = json.loads((copy / "manifest.json").read_text())
    assert manifest["potency"]["model"] == "toy-swayed"
    assert "| `potency` | in `mixture`: how far the prefill moved toy-swayed" in (copy / "README.md").read_text()

    for build, version in ((place / "out/mixture", "v1.0.0"), (copy, "v2.0.0")):
        done = recap_data(place, "publish", str(build), "--to", str(tmp_path / "versions"))
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip().endswith(version)
    asked = "from datasets import load_dataset; print(load_dataset({!r}, split='train').column_names[-1])"
    command = [sys.executable, "-c", asked.format(str(tmp_path / "versions/v2.0.0"))]
    settings = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    loaded = subprocess.run(command, capture_output=True, text=True, check=True, env=settings)
    assert loaded.stdout.strip() == "potency"

    refused = recap_data(place, *options(server, "toy-swayed", tmp_path / "ledger.sqlite", "--column", str(tmp_path)))
    assert refused.returncode == 1
    assert "holds files but no build of recap-data" in refused.stderr
