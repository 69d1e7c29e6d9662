"""Thoughts that a model wrote elsewhere, given to a whole build: a server repeats them, the build reads them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

ROOT = Path(__file__).parents[2]

_RECIPE = """
name: replayed
sources: {{{domain}: [{{files: prompts.jsonl, prompt: prompt, licence: other}}]}}
clean: {{dedupe: {{near: null}}}}
samplers: {{replay: {{engine: openai, base_url: "{url}", model: replay}}}}
mixture:
  {domain}:
    rows: {rows}
    prefill: {{sampler: replay, share: 1, words: {words}, min_words: 30, attempts: 1, min_yield: 0}}
"""


def replay(thoughts: Mapping[str, str], domain: str, words: int, folder: Path) -> Counter[str]:
    """What becomes of each prompt's thought, cut to `words`, in a domain: reasons of rejection, or "accepted"."""
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in thoughts))
    with _serving(thoughts) as url:
        text = _RECIPE.format(domain=domain, url=url, rows=len(thoughts), words=words)
        (folder / "replayed.yaml").write_text(text)
        command = [sys.executable, "-m", "pipeline.cli", "build", "replayed.yaml", "--allow-short", "--json"]
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": str(ROOT)}
        )
    counts: Counter[str] = Counter()
    if done.returncode == 0:
        for tried in json.loads((folder / "out/replayed/manifest.json").read_text())["attempts"]:
            counts.update(tried["rejected"])
            counts["accepted"] += tried["accepted"]
    elif (kept := folder / "out/replayed.rejected.jsonl").is_file():
        counts.update(json.loads(line)["reason"] for line in kept.open())
    else:
        raise RuntimeError(done.stderr)
    return counts


@contextmanager
def _serving(thoughts: Mapping[str, str]) -> Iterator[str]:
    class Replay(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send({"data": [{"id": "replay"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            thought = thoughts.get(
                body["messages"][-1]["content"], "A river is asked for. The Rhine is the longer one."
            )
            message = {"role": "assistant", "content": f"<think>\n{thought}"}
            usage = {"prompt_tokens": 1, "completion_tokens": 1}
            self._send(
                {"model": "replay", "choices": [{"message": message, "finish_reason": "length"}], "usage": usage}
            )

        def _send(self, body: object) -> None:
            said = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Replay)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
