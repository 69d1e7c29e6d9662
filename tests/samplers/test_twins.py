"""Prefills that a model writes again and again for other rows: one stays, the others are sampled again."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.filters import TWIN
from pipeline.schema import SAMPLES
from pipeline.steps import drop_twins
from pipeline.steps.shards import read_table, write_table
from tests.servers.endpoint import VOICES

RECIPE = """
name: twins
sources: {harmful: [{bundled: demo}]}
samplers: {unaligned: {engine: openai, base_url: "URL", model: parrot, max_tokens: 400}}
mixture: {harmful: {rows: 10, prefill: {sampler: unaligned, share: 1.0, words: 100, min_words: 30}}}
"""


class Parrot(BaseHTTPRequestHandler):
    """Thinks the same the first time it is asked about any prompt, and something of its own after that."""

    asked: ClassVar[Counter[str]] = Counter()

    def do_GET(self) -> None:
        self.answer({"data": [{"id": "parrot"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["messages"][-1]["content"]
        self.asked[prompt] += 1
        seed = "the same" if self.asked[prompt] == 1 else f"{prompt} {body['seed']}"
        thinking = VOICES["comply"].think(random.Random(seed), 80)
        message = {"content": f"<think>\n{thinking}\n</think>\n\nDone."}
        self.answer({"model": "parrot", "choices": [{"message": message, "finish_reason": "stop"}]})

    def answer(self, data: dict[str, Any]) -> None:
        text = json.dumps(data).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    Parrot.asked.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Parrot) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()


def build(url: str, folder: Path, *options: str) -> dict[str, Any]:
    (folder / "twins.yaml").write_text(RECIPE.replace("URL", url))
    command = [sys.executable, "-m", "pipeline.cli", "build", "twins.yaml", "--json", *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_one_of_many_twins_stays_and_the_others_are_sampled_again(url: str, tmp_path: Path) -> None:
    first = build(url, tmp_path)
    rows = pq.read_table(tmp_path / "out/twins/data").to_pylist()
    assert len({row["prefill"] for row in rows}) == 10
    assert Counter(row["sampling"]["attempt"] for row in rows) == {0: 1, 1: 9}
    attempts = json.loads((tmp_path / "out/twins/manifest.json").read_text())["attempts"]
    assert [(e["tried"], e["accepted"], e["rejected"]) for e in attempts] == [(10, 1, {TWIN: 9}), (9, 9, {})]
    asked = sum(Parrot.asked.values())
    assert build(url, tmp_path, "--out", "out/again")["content_hash"] == first["content_hash"]
    assert sum(Parrot.asked.values()) == asked == 19 + 1  # and the harmless request


def test_twins_without_an_attempt_left_leave_the_mixture(url: str, tmp_path: Path) -> None:
    told = build(url, tmp_path, "--allow-short", "--set", "mixture.harmful.prefill.attempts=1")
    (sampled,) = [row for row in told["funnel"] if row["step"] == "sample"]
    assert sampled["kept"] == 1
    assert sampled["dropped"] == {TWIN: sampled["in"] - 1}


def test_a_repeated_look_for_twins_finds_the_same(tmp_path: Path) -> None:
    ids = [f"{place:032x}" for place in range(4)]
    write_table(tmp_path / "clean/0.arrow", pa.table({"id": ids, "domain": ["harmful"] * 4}))
    text = VOICES["comply"].think(random.Random(0), 80)
    rows = [{"row": row, "arm": "harmful", "prefill": text, "sampling": {"attempt": 2}} for row in range(4)]
    write_table(tmp_path / "samples/0-0.arrow", pa.Table.from_pylist(rows, schema=SAMPLES))
    found = drop_twins(tmp_path, 0, ["harmful"], [0])
    assert [len(rows) for rows in found.values()] == [3]
    assert read_table(tmp_path / "samples/0-0.arrow")["reason"].null_count == 1
    assert drop_twins(tmp_path, 0, ["harmful"], [0]) == found
