"""The Hub: real clients against an address where nothing is, and a server that answers as a closed Hub does."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ASK = """
import os
import sys
from pathlib import Path
from pipeline.errors import SourceError
from pipeline.recipe import Source
from pipeline.sources import complete, hub, locate
hub._TIMEOUT = float(os.environ.get("TIMEOUT", hub._TIMEOUT))
for dataset in sys.argv[1:]:
    try:
        print(locate(complete(Source(dataset=dataset, prompt="prompt", revision="v9")), Path()))
    except SourceError as error:
        print("SourceError:", error)
"""
TOKEN = "hf_" + "x" * 30
COMMIT = "0123456789abcdef0123456789abcdef01234567"
ANSWERS: dict[str, tuple[int, str, object]] = {
    # dataset: status, error code, gated
    "o/unauthorized": (401, "", None),
    "o/forbidden": (403, "", None),
    "o/gated": (403, "GatedRepo", None),
    "o/missing": (404, "RepoNotFound", None),
    "o/old": (404, "RevisionNotFound", None),
    "o/nowhere": (404, "", None),
    "o/broken": (500, "", None),
    "o/open": (200, "", False),
    "o/asks": (200, "", "manual"),
}


def ask(endpoint: str, home: Path, *datasets: str, **environment: str) -> list[str]:
    """Locate datasets in a fresh process, as huggingface_hub reads its settings at import."""
    kept = {key: text for key, text in os.environ.items() if not key.startswith("HF_")}
    settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), **environment}
    arguments = [sys.executable, "-c", ASK, *(datasets or ["openai/gsm8k"])]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, env={**kept, **settings})
    assert TOKEN not in done.stdout + done.stderr
    return done.stdout.splitlines()


class Closed(BaseHTTPRequestHandler):
    """Answers for a dataset as `ANSWERS` says; nobody has access to what is gated."""

    def do_GET(self) -> None:
        owner, name = self.path.split("/")[3:5]
        status, code, gated = ANSWERS[f"{owner}/{name}"]
        if self.path.endswith("/auth-check"):
            status, code = 403, "GatedRepo"
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.end_headers()
        info = {"id": f"{owner}/{name}", "sha": COMMIT, "private": False, "gated": gated, "tags": [], "siblings": []}
        self.wfile.write(json.dumps({**info, "downloads": 0, "likes": 0, "cardData": {"license": "mit"}}).encode())

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def closed_hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Closed)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def answers(closed_hub: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What is said of each dataset, without a token."""
    lines = ask(closed_hub, tmp_path_factory.mktemp("home"), *ANSWERS)
    return dict(zip(ANSWERS, lines, strict=True))


def test_unreachable(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
        started = time.monotonic()
        (message,) = ask(endpoint, tmp_path)
    assert time.monotonic() - started < 10
    assert message.startswith(f"SourceError: openai/gsm8k can't be reached at {endpoint} (ConnectError)")
    assert "check the network and HF_ENDPOINT, or give a local copy with files:" in message


def test_no_answer(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        (message,) = ask(f"http://127.0.0.1:{silent.getsockname()[1]}", tmp_path, TIMEOUT="0.3")
    assert time.monotonic() - started < 15
    assert "can't be reached" in message
    assert "Timeout" in message


def test_offline(tmp_path: Path) -> None:
    (message,) = ask("http://127.0.0.1:9", tmp_path, HF_HUB_OFFLINE="1")
    assert message == (
        "SourceError: HF_HUB_OFFLINE is set, and the local cache has no commit of openai/gsm8k at revision v9: run "
        "'hf download openai/gsm8k --repo-type dataset --revision v9' where the Hub is in reach, "
        "or give a local copy with files:."
    )


@pytest.mark.parametrize(
    ("dataset", "says"),
    [
        (
            "o/unauthorized",
            "refuses access to o/unauthorized (HTTP 401): set HF_TOKEN, or give a local copy with files:",
        ),
        ("o/forbidden", "refuses access to o/forbidden (HTTP 403): set HF_TOKEN"),
        ("o/gated", "o/gated is gated: accept its terms at http://127.0.0.1"),
        ("o/gated", "/datasets/o/gated, set HF_TOKEN, or give a local copy with files:"),
        ("o/missing", "There is no dataset o/missing at http://127.0.0.1"),
        ("o/missing", "or it is private: check its name, set HF_TOKEN"),
        ("o/old", "o/old has no revision 'v9'"),
        ("o/nowhere", "There is no dataset o/nowhere at http://127.0.0.1"),
        ("o/broken", "answered HTTP 500 for o/broken: try again later"),
        ("o/asks", "o/asks is gated: accept its terms at http://127.0.0.1"),
    ],
)
def test_refusals(dataset: str, says: str, answers: dict[str, str]) -> None:
    assert answers[dataset].startswith("SourceError: ")
    assert answers[dataset].endswith(".")
    assert says in answers[dataset]


def test_resolved_to_a_commit(answers: dict[str, str]) -> None:
    assert "dataset='o/open', config=None, split='train'" in answers["o/open"]
    assert f"revision='{COMMIT}', licence='mit', path=None" in answers["o/open"]


def test_token_without_access(closed_hub: str, tmp_path: Path) -> None:
    (message,) = ask(closed_hub.replace("//", "//user:secret@"), tmp_path, "o/forbidden", HF_TOKEN=TOKEN)
    assert "check what HF_TOKEN gives access to" in message
    assert "secret" not in message
