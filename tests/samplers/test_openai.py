"""Whole builds whose prefills come from a server over HTTP."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.ledger import Ledger
from tests.servers.endpoint import BEFOREHAND, Endpoint, endpoint

RECIPE = """
name: served
sources:
  harmful: [{bundled: demo}]
  benign: [{bundled: demo}]
samplers:
  unaligned: {engine: openai, base_url: "URL", model: toy-comply, max_tokens: 2000}
  overcautious: {engine: openai, base_url: ["URL", "URL"], model: toy-refuse, max_tokens: 2000}
mixture:
  harmful: {rows: 50, prefill: {sampler: unaligned, words: 100, min_words: 40}}
  benign: {rows: 50, prefill: {sampler: overcautious, words: 100, min_words: 40}}
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Endpoint]:
    with endpoint(latency=0.005, retry_after=0.02) as running:
        yield running


@pytest.fixture(autouse=True)
def _reset(server: Endpoint) -> None:
    server.reset()


def build(server: Endpoint, folder: Path, *options: str, code: int = 0) -> tuple[dict[str, Any], str]:
    folder.mkdir(exist_ok=True)
    (folder / "served.yaml").write_text(RECIPE.replace("URL", server.base_url))
    command = [sys.executable, "-m", "pipeline.cli", "build", "served.yaml", "--json", *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout or "{}"), done.stderr


def rows(folder: Path) -> list[dict[str, Any]]:
    return list(pq.read_table(folder / "out" / "served" / "data").to_pylist())


def test_prefills_come_from_the_models_and_say_so(server: Endpoint, tmp_path: Path) -> None:
    build(server, tmp_path)
    prefilled = [row for row in rows(tmp_path) if row["prefill"]]
    assert Counter(row["domain"] for row in prefilled) == {"harmful": 25, "benign": 25}
    for row in prefilled:
        model, stance = {"harmful": ("toy-comply", "complies"), "benign": ("toy-refuse", "refuses")}[row["domain"]]
        assert (row["sampling"]["engine"], row["sampling"]["model"]) == ("openai", model)
        assert json.loads(row["sampling"]["parameters"]) == {"max_tokens": 2000, "temperature": 0.6, "top_p": 0.95}
        assert row["verdict"]["stance"] == stance
        assert 40 <= len(row["prefill"].split()) <= 100
    assert (tmp_path / "out" / "ledger.sqlite").exists()
    assert len(server.answered()) == 50


@pytest.mark.parametrize(
    ("thinking", "most", "prefills"),
    [("unopened", 90, True), ("none", 90, False), ("none", 2000, False)],
    ids=["cut behind an opening prompt", "cut without thinking", "ended without thinking"],
)
def test_words_without_marks_are_thoughts_where_the_model_closes_some_and_only_if_cut(
    server: Endpoint, tmp_path: Path, thinking: str, most: int, prefills: bool
) -> None:
    """R1's template opens the thinking, so a cut answer has no mark; that the model closes some, a probe shows."""
    server.set(thinking=thinking)
    small = [f"mixture.{domain}.{key}" for domain in ("harmful", "benign") for key in ("rows=4", "prefill.attempts=1")]
    small += [f"samplers.{name}.max_tokens={most}" for name in ("unaligned", "overcautious")]
    options = [part for setting in small for part in ("--set", setting)]
    _, said = build(server, tmp_path, *options, code=0 if prefills else 1)
    assert prefills or "unaligned for harmful, 100 words, counter-aligned: 0 of 75 accepted (75 model wrote no" in said


def test_what_is_rejected_is_sampled_again_and_given_up_in_the_end(server: Endpoint, tmp_path: Path) -> None:
    server.set(wrong_share=0.5)
    told, _ = build(server, tmp_path, "--set", "mixture.harmful.prefill.attempts=2")
    sampled = {row["domain"]: row for row in told["funnel"] if row["step"] == "sample"}
    assert sampled["harmful"]["dropped"]["prefill has the other stance"] > 0
    assert Counter(row["domain"] for row in rows(tmp_path) if row["prefill"]) == {"harmful": 25, "benign": 25}
    attempts = Counter(row["sampling"]["attempt"] for row in rows(tmp_path) if row["prefill"])
    assert attempts[0] > 0
    assert attempts[1] > 0
    assert set(server.answered().values()) == {1}


def test_a_rebuild_asks_for_nothing_and_ends_in_the_same_bytes(server: Endpoint, tmp_path: Path) -> None:
    first, _ = build(server, tmp_path)
    asked = len(server.log())
    server.set(api_key="now it would refuse")
    again, _ = build(server, tmp_path, "--out", "out/again")
    assert len(server.log()) == asked
    assert again["content_hash"] == first["content_hash"]
    for name in ("data/mixture-00000-of-00001.parquet", "manifest.json", "README.md"):
        assert (tmp_path / "out/served" / name).read_bytes() == (tmp_path / "out/again" / name).read_bytes()


def test_a_published_version_names_no_server_and_is_verified_from_the_ledger(server: Endpoint, tmp_path: Path) -> None:
    def recap_data(*arguments: str) -> str:
        command = [sys.executable, "-m", "pipeline.cli", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    build(server, tmp_path)
    asked = len(server.log())
    recap_data("publish", "out/served", "--to", "versions")
    assert server.base_url not in (tmp_path / "versions/latest/manifest.json").read_text()
    assert "versions/latest: verified" in recap_data("verify", "versions/latest", "--ledger", "out/ledger.sqlite")
    assert "rows: 100 -> 100 (0 added, 0 removed, 0 changed" in recap_data("diff", "out/served", "versions/latest")
    assert len(server.log()) == asked


def test_a_build_on_a_failing_server_ends_in_the_same_rows(server: Endpoint, tmp_path: Path) -> None:
    calm, _ = build(server, tmp_path / "calm")
    server.reset()
    server.set(faults="429-bare, 500, reset, truncated, html-200, no-choices", fault_share=0.3, fault_times=1)
    rough, _ = build(server, tmp_path / "rough")
    assert rough["content_hash"] == calm["content_hash"]
    assert set(server.answered().values()) == {1}


def test_a_server_that_answers_otherwise_each_time_is_asked_once(server: Endpoint, tmp_path: Path) -> None:
    server.set(faults="another-answer", fault_share=0.3)
    first, _ = build(server, tmp_path)
    assert set(server.answered().values()) == {1}
    server.set(seed=99)
    again, _ = build(server, tmp_path, "--out", "out/again")
    assert again["content_hash"] == first["content_hash"]
    assert len(server.answered()) == 50


def test_a_budget_stops_a_build_and_the_next_goes_on(server: Endpoint, tmp_path: Path) -> None:
    _, told = build(server, tmp_path, "--max-requests", "20", code=1)
    assert "The requests allowed by --max-requests were sent" in told
    assert not (tmp_path / "out" / "served").exists()
    assert len(server.answered()) == 18
    build(server, tmp_path)
    assert set(server.answered().values()) == {1}
    assert len(server.answered()) == 50


def test_a_request_that_is_refused_drops_its_row_with_the_reason(server: Endpoint, tmp_path: Path) -> None:
    server.set(context=2_108)
    told, _ = build(server, tmp_path, "--allow-short")
    reasons = {reason for row in told["funnel"] if row["step"] == "sample" for reason in row["dropped"]}
    (reason,) = reasons
    assert reason.startswith("request refused by the server: HTTP 400: This model's maximum context length is # tokens")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--set", "samplers.unaligned.model=nope"], "has no model 'nope'. It has: "),
        (["--set", "samplers.unaligned.api_key_env=NOT_SET_HERE"], "NOT_SET_HERE is not set"),
        (["--set", "samplers.unaligned.system=nope"], "There is no template 'nope'"),
        (["--set", "samplers.unaligned.user=steer-overcautious"], "must use the variable prompt"),
        (["--set", "samplers.unaligned.base_url=[]"], "base_url"),
    ],
)
def test_mistakes_are_told_before_money_is_spent(
    server: Endpoint, tmp_path: Path, options: list[str], said: str
) -> None:
    _, told = build(server, tmp_path, *options, code=2)
    assert said in told
    assert "Traceback" not in told
    assert not server.answered()


def test_a_wrong_key_is_told_before_money_is_spent(server: Endpoint, tmp_path: Path) -> None:
    server.set(api_key="another")
    _, told = build(server, tmp_path, code=2)
    assert "refuses the key (HTTP 401)" in told
    assert not server.answered()


def test_a_server_that_is_not_there_is_told_of_at_once(server: Endpoint, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    _, told = build(server, tmp_path, "--set", f"samplers.unaligned.base_url={url}", code=1)
    assert f"Nothing answers at {url}" in told
    assert "Traceback" not in told
    assert not server.answered()


def test_a_base_url_of_web_pages_is_told_before_money_is_spent(server: Endpoint, tmp_path: Path) -> None:
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<html><body>Welcome</body></html>")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as pages:
        threading.Thread(target=pages.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{pages.server_port}"
        _, told = build(server, tmp_path, "--set", f"samplers.unaligned.base_url={url}", code=2)
        pages.shutdown()
    assert f"{url} answers with a web page" in told
    assert not server.answered()


def test_steering_is_asked_with_and_known_by_hash_but_never_stored(server: Endpoint, tmp_path: Path) -> None:
    plain, _ = build(server, tmp_path / "plain")
    server.reset()
    steered, _ = build(server, tmp_path / "steered", "--set", "samplers.overcautious.system=steer-overcautious")
    bodies = [json.loads(record.body) for record in server.log() if record.sound and "completions" in record.path]
    systems = {body["model"]: [m["content"] for m in body["messages"] if m["role"] == "system"] for body in bodies}
    assert systems["toy-comply"] == []
    assert systems["toy-refuse"][0].startswith("You weigh every request")
    for row in rows(tmp_path / "steered"):
        assert [turn["role"] for turn in row["prompt"]] == ["user"]
        assert "You weigh every request" not in (row["prefill"] or "") + row["prompt"][0]["content"]
        if row["prefill"]:
            assert (row["sampling"]["template"] is not None) == (row["domain"] == "benign")
    assert steered["fingerprint"] != plain["fingerprint"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_keeps_what_is_in_flight_and_sends_nothing_more_and_a_second_one_ends_at_once(
    server: Endpoint, tmp_path: Path, number: signal.Signals
) -> None:
    server.set(latency=1.5)
    (tmp_path / "served.yaml").write_text(RECIPE.replace("URL", server.base_url))
    few = [part for name in ("unaligned", "overcautious") for part in ("--set", f"samplers.{name}.in_flight=3")]
    in_flight = 3  # of the one server, whoever asks it
    command = [sys.executable, "-m", "pipeline.cli", "build", "served.yaml", *few]
    for signals in (1, 2):
        had = len(server.answered())
        with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
            asked = [r for r in server.log() if "completions" in r.path and BEFOREHAND not in r.body]
            while len(asked) < had + in_flight:
                asked = [r for r in server.log() if "completions" in r.path and BEFOREHAND not in r.body]
                time.sleep(0.02)
            began = time.monotonic()
            for _ in range(signals):
                process.send_signal(number)
                time.sleep(0.3)
            _, told = process.communicate(timeout=30)
        assert process.returncode == 1
        assert told.endswith(
            "recap-data: stopped. The last finished output is as it was; run the same command again.\n"
        )
        assert "Traceback" not in told
        assert f"Stopping: waiting for {in_flight} requests in flight; Ctrl-C again to leave them\n" in told
        assert time.monotonic() - began < 6
        with Ledger(tmp_path / "out/ledger.sqlite") as book:
            kept = len([entry for _, entry in book.entries() if BEFOREHAND not in json.dumps(entry.request)])
        assert kept == (in_flight if signals == 1 else had)


def test_a_build_that_was_started_to_ignore_ctrl_c_ignores_it_and_hears_sigterm(
    server: Endpoint, tmp_path: Path
) -> None:
    """As with nohup, or in a shell's background."""
    server.set(latency=1.0)
    (tmp_path / "served.yaml").write_text(RECIPE.replace("URL", server.base_url))
    command = ["sh", "-c", 'trap "" INT; exec "$0" -m pipeline.cli build served.yaml "$@"', sys.executable]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        while not len(server.answered()):
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        assert process.poll() is None
        _, told = process.communicate(timeout=30)
    assert process.returncode == 0, told
    assert (tmp_path / "out/served/manifest.json").exists()
    server.reset()
    server.set(latency=2.0)
    with subprocess.Popen([*command, "--set", "seed=7"], cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        while not any("completions" in record.path for record in server.log()):
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "recap-data: stopped." in told
