"""Whole builds by hosts that answer in their own ways: what may pass decides nothing, and nothing paid is lost."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.ledger import Ledger
from tests.servers.endpoint import Endpoint, endpoint

RECIPE = """
name: hosted
sources:
  harmful: [{bundled: demo}]
samplers:
  unaligned:
    {engine: openai, base_url: "URL", model: toy-comply, max_tokens: 2000, price: {prompt: 1.0, completion: 10.0}}
mixture:
  harmful: {rows: 24, prefill: {sampler: unaligned, share: 1.0, words: 60, min_words: 20, attempts: 2}}
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Endpoint]:
    with endpoint(latency=0.002, retry_after=0.02, slow=0.05, refuse_for=0.05) as running:
        yield running


@pytest.fixture(autouse=True)
def _reset(server: Endpoint) -> None:
    server.reset()


def run(server: Endpoint, folder: Path, *options: str, env: dict[str, str] | None = None) -> tuple[int, Any, str]:
    folder.mkdir(exist_ok=True)
    (folder / "hosted.yaml").write_text(RECIPE.replace("URL", server.base_url))
    command = [sys.executable, "-m", "pipeline.cli", *options, "--json"]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, env={**os.environ, **(env or {})}
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, json.loads(done.stdout or "{}"), done.stderr


def build(server: Endpoint, folder: Path, *options: str, code: int = 0) -> tuple[Any, str]:
    returned, found, told = run(server, folder, "build", "hosted.yaml", *options)
    assert returned == code, told
    return found, told


def prefills(folder: Path) -> dict[str, str]:
    table = pq.read_table(folder / "out/hosted/data").to_pylist()
    return {row["id"]: row["prefill"] for row in table}


def reasons(built: Any) -> dict[str, int]:
    return next(row for row in built["funnel"] if row["step"] == "sample")["dropped"]


def is_verified(folder: Path) -> bool:
    command = [sys.executable, "-m", "pipeline.cli", "verify", "out/hosted"]
    return subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("sound")
    with endpoint(latency=0.002) as server:
        build(server, folder)
    return prefills(folder)


WAYS = {
    "half answers and broken ones": "finish-abort, finish-error, truncated, 200-empty, 200-null, deep, choice-error",
    "errors inside a 200": "200-error-429, 200-error-503, 200-error-text, 200-error-beside",
    "answers with nothing": "content-filter, refusal, empty-text, null-text, no-choices, tool-call",
    "names and ends": "wrong-model, model-changing, model-upper, finish-number, half-emoji-finish",
    "half emojis and counts": "half-emoji-model, usage-text, usage-negative, usage-huge, usage-list, no-usage",
    "errors with a status": "400-context, 400-text, 413, 422-seed, 429, 429-ms, 500-validation, 500-detail, 503, 529",
    "all at once": (
        "finish-abort, content-filter, empty-text, 200-error-503, wrong-model, usage-huge, 400-context, 422-seed, "
        "429, 500-validation, reset, malformed, deep, null-message"
    ),
}


@pytest.mark.parametrize("faults", WAYS.values(), ids=WAYS.keys())
def test_what_may_pass_decides_nothing(server: Endpoint, tmp_path: Path, sound: dict[str, str], faults: str) -> None:
    server.set(faults=faults, fault_share=0.5)
    build(server, tmp_path)
    assert prefills(tmp_path) == sound
    assert is_verified(tmp_path)
    with Ledger(tmp_path / "out/ledger.sqlite", read_only=True) as ledger:
        assert ledger.verify() == []


@pytest.mark.parametrize(
    "way", ["parts-thinking", "parts-reasoning", "field-thinking", "details-text", "half-emoji-end"]
)
def test_thinking_is_read_in_every_form_of_hosts(
    server: Endpoint, tmp_path: Path, sound: dict[str, str], way: str
) -> None:
    server.set(faults=way, fault_share=1.0, fault_times=10**9)
    build(server, tmp_path)
    assert prefills(tmp_path) == sound


@pytest.mark.parametrize("way", ["no-thinking", "null-reasoning", "answer-as-reasoning"])
def test_an_answer_is_never_published_as_thinking(server: Endpoint, tmp_path: Path, way: str) -> None:
    server.set(faults=way, fault_share=1.0, fault_times=10**9)
    _, told = build(server, tmp_path, code=1)
    assert "model wrote no thinking" in told
    assert not (tmp_path / "out/hosted").exists()


@pytest.mark.parametrize("way", ["content-filter", "refusal", "empty-text"])
def test_a_prompt_that_is_always_answered_with_nothing_costs_its_row_alone(
    server: Endpoint, tmp_path: Path, way: str
) -> None:
    server.set(faults=way, fault_share=1.0, fault_times=10**9, fault_bodies="locks|lock |phone calls in secret|gun")
    built, _ = build(server, tmp_path)
    assert len(prefills(tmp_path)) == 24
    for reason in reasons(built):
        assert reason.startswith("request refused by the server: ")
    assert is_verified(tmp_path)


def test_a_server_that_refused_all_and_was_mended_is_asked_again(
    server: Endpoint, tmp_path: Path, sound: dict[str, str]
) -> None:
    server.set(refuses=400, refuses_with='{"error": {"message": "context of 512 tokens is too short"}}')
    _, told = build(server, tmp_path, code=2)
    assert "context of 512 tokens is too short" in told
    server.set(refuses=0, faults="400-context", fault_share=1.0, fault_times=10**9, fault_bodies="secret|steal|fake")
    built, _ = build(server, tmp_path)
    assert any("maximum context length" in reason for reason in reasons(built))
    assert "maximum context length" in (tmp_path / "out/hosted/README.md").read_text()
    assert is_verified(tmp_path)
    server.set(faults="")
    build(server, tmp_path)
    assert prefills(tmp_path) == sound


@pytest.mark.parametrize(
    ("faults", "said"),
    [
        ("402", "Insufficient credits"),
        ("200-error-402", "Insufficient credits"),
        ("404-deployment", "HTTP 404"),
        ("500-detail", "CUDA out of memory"),
        ("422-text", "Input should be a valid list"),
    ],
)
def test_a_server_that_answers_nothing_is_told_in_its_own_words_before_anything_is_paid(
    server: Endpoint, tmp_path: Path, faults: str, said: str
) -> None:
    server.set(faults=faults, fault_share=1.0, fault_times=10**9)
    returned, _, told = run(server, tmp_path, "build", "hosted.yaml")
    assert returned in (1, 2)
    assert said in told
    assert len([record for record in server.log() if record.path.endswith("/completions")]) <= 8


def test_fields_that_a_host_does_not_take_are_left_out_by_null(server: Endpoint, tmp_path: Path) -> None:
    server.set(rejects="seed", rejects_as="azure")
    _, told = build(server, tmp_path, code=2)
    assert "seed" in told
    assert "left out where extra says null" in told
    build(server, tmp_path, "--set", "samplers.unaligned.extra={seed: null}")
    assert len(prefills(tmp_path)) == 24
    assert all('"seed"' not in record.body for record in server.log()[-20:])


@pytest.mark.parametrize("listing", ["404", "others", "wildcard", "bare", "names", "null-ids", "wrong-type", "number"])
def test_a_server_that_lists_its_models_otherwise_is_used_if_it_answers(
    server: Endpoint, tmp_path: Path, sound: dict[str, str], listing: str
) -> None:
    server.set(listing=listing)
    build(server, tmp_path)
    assert prefills(tmp_path) == sound


def test_the_name_behind_an_alias_is_in_the_row(server: Endpoint, tmp_path: Path) -> None:
    server.set(faults="model-dated", fault_share=1.0, fault_times=10**9, listing="others")
    build(server, tmp_path)
    for row in pq.read_table(tmp_path / "out/hosted/data").to_pylist():
        assert json.loads(row["sampling"]["parameters"])["answered_by"] == "toy-comply-2024-08-06"


def test_a_path_on_the_host_does_not_leave_it(server: Endpoint, tmp_path: Path) -> None:
    server.set(faults="model-path", fault_share=1.0, fault_times=10**9, listing="others")
    build(server, tmp_path)
    assert b"/models/" not in (tmp_path / "out/ledger.sqlite").read_bytes()


@pytest.mark.parametrize("key", ["secret-key\n", " secret-key ", "\ufeffsecret", "one two", "sécret"])
def test_a_key_is_stripped_or_told_to_be_none(server: Endpoint, tmp_path: Path, key: str) -> None:
    server.set(api_key="secret-key")
    returned, _, told = run(server, tmp_path, "build", "hosted.yaml", env={"OPENAI_API_KEY": key})
    assert returned == (0 if key.strip() == "secret-key" else 2), told
    assert "secret" not in told


def test_a_cap_holds_for_what_was_asked_for(server: Endpoint, tmp_path: Path) -> None:
    server.set(faults="truncated, usage-text, model-changing", fault_share=0.9, fault_times=10**9, listing="others")
    most = (2_000 * 10.0 + 700) / 1e6
    run(server, tmp_path, "build", "hosted.yaml", "--max-cost", f"{5 * most:.6f}")
    asked = [record for record in server.log() if record.path.endswith("/completions")]
    assert 1 <= len(asked) <= 5


@pytest.mark.parametrize("extra", ["{n: 4}", "{max_completion_tokens: 8000}"])
def test_a_cap_knows_what_extra_asks_for(server: Endpoint, tmp_path: Path, extra: str) -> None:
    options = ("--set", f"samplers.unaligned.extra={extra}", "--max-cost", "0.04")
    returned, _, told = run(server, tmp_path, "build", "hosted.yaml", *options)
    assert returned == 1
    assert "--max-cost" in told
    assert not [record for record in server.log() if record.path.endswith("/completions")]


def test_a_cap_on_answers_of_any_length_is_refused(server: Endpoint, tmp_path: Path) -> None:
    options = ("--set", "samplers.unaligned.extra={max_tokens: null}", "--max-cost", "5")
    returned, _, told = run(server, tmp_path, "build", "hosted.yaml", *options)
    assert returned == 1
    assert "max_tokens" in told


def test_what_was_spent_is_told(server: Endpoint, tmp_path: Path) -> None:
    built, _ = build(server, tmp_path)
    assert built["requests"] == 24 + 1
    with Ledger(tmp_path / "out/ledger.sqlite", read_only=True) as ledger:
        sums = [(s.prompt_tokens, s.completion_tokens) for s in ledger.stats()]
    assert built["cost"] == pytest.approx(sum(prompt + 10 * completion for prompt, completion in sums) / 1e6)
    again, _ = build(server, tmp_path, "--out", "out/again")
    assert (again["requests"], again["cost"]) == (0, 0)


def test_two_builds_at_once_pay_once_and_both_verify(server: Endpoint, tmp_path: Path) -> None:
    server.set(latency=0.05, faults="another-answer", fault_share=1.0, fault_times=10**9)
    failures: list[AssertionError] = []

    def one(name: str) -> None:
        try:
            build(server, tmp_path, "--out", f"out/{name}")
        except AssertionError as failure:
            failures.append(failure)

    threads = [threading.Thread(target=one, args=(name,)) for name in ("hosted", "twin")]
    (tmp_path / "hosted.yaml").write_text(RECIPE.replace("URL", server.base_url))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert set(server.answered().values()) == {1}
    manifests = [json.loads((tmp_path / f"out/{name}/manifest.json").read_text()) for name in ("hosted", "twin")]
    assert manifests[0]["content_hash"] == manifests[1]["content_hash"]
    assert is_verified(tmp_path)


def test_a_ledger_that_is_locked_stops_the_build_and_loses_nothing(
    server: Endpoint, tmp_path: Path, sound: dict[str, str]
) -> None:
    import sqlite3

    server.set(latency=0.1)
    book = tmp_path / "out/ledger.sqlite"
    Ledger(book).close()

    def lock() -> None:
        while not server.answered():
            time.sleep(0.02)
        holder = sqlite3.connect(book, isolation_level=None, timeout=5)
        holder.execute("BEGIN IMMEDIATE")
        time.sleep(36)
        holder.execute("COMMIT")
        holder.close()

    thread = threading.Thread(target=lock)
    thread.start()
    _, told = build(server, tmp_path, code=1)
    thread.join()
    assert "database is locked" in told
    build(server, tmp_path)
    assert prefills(tmp_path) == sound
    assert set(server.answered().values()) == {1}


def test_an_answer_without_end_is_not_read(server: Endpoint, tmp_path: Path, sound: dict[str, str]) -> None:
    server.set(faults="flood, bomb", fault_share=0.1, fault_times=1)
    build(server, tmp_path)
    assert prefills(tmp_path) == sound
    endless = [record for record in server.log() if record.fault in ("flood", "bomb")]
    assert endless
    assert not any(record.sent for record in endless if record.fault == "flood")


def test_a_server_with_one_slot_wastes_nothing(server: Endpoint, tmp_path: Path, sound: dict[str, str]) -> None:
    """All at once would wait three deadlines for their turn."""
    server.set(slots=1, service=0.25)
    build(server, tmp_path, "--set", "samplers.unaligned.deadline=2")
    assert prefills(tmp_path) == sound
    asked = [record for record in server.log() if record.path.endswith("/completions")]
    assert sum(record.worked for record in asked if not record.sent) < 0.1 * sum(record.worked for record in asked)


def test_a_server_slower_than_its_deadline_is_told(server: Endpoint, tmp_path: Path) -> None:
    server.set(slots=1, service=3.0)
    options = ("--set", "samplers.unaligned.deadline=0.5", "--set", "samplers.unaligned.patience=3")
    _, told = build(server, tmp_path, *options, code=1)
    assert "deadline" in told


def test_what_the_rows_were_made_with_is_in_the_manifest_and_told_by_verify(server: Endpoint, tmp_path: Path) -> None:
    built, _ = build(server, tmp_path)
    manifest = json.loads((tmp_path / "out/hosted/manifest.json").read_text())
    used = manifest["answers"]["unaligned"]
    assert used["answers"] == 24
    assert used["cost"] == pytest.approx((used["prompt_tokens"] + 10 * used["completion_tokens"]) / 1e6)
    assert used["cost"] < built["cost"], "the harmless request makes no row"
    assert "24 answers of `unaligned` were used" in (tmp_path / "out/hosted/README.md").read_text()
    command = [sys.executable, "-m", "pipeline.cli", "verify", "out/hosted"]
    told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert "with 24 answers as the ledger kept them" in told


@pytest.mark.parametrize("kilobytes", [24, 96])
def test_a_disk_that_is_full_at_any_moment_loses_nothing_that_was_paid(
    server: Endpoint, tmp_path: Path, sound: dict[str, str], kilobytes: int
) -> None:
    """No file may grow beyond a size, which the ledger reaches earlier or later, and whatever else is written too."""
    server.set(latency=0.05)
    (tmp_path / "hosted.yaml").write_text(RECIPE.replace("URL", server.base_url))
    command = [sys.executable, "-m", "pipeline.cli", "build", "hosted.yaml"]
    limits = (kilobytes << 10, resource.RLIM_INFINITY)
    done = subprocess.run(
        command,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits),
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode in (0, 1), done.stderr
    build(server, tmp_path)
    assert prefills(tmp_path) == sound
    assert set(server.answered().values()) == {1}
    assert is_verified(tmp_path)
