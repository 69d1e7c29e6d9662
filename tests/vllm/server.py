"""A real vLLM server, on the CPU, in processes of its own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil

_START_SECONDS = 240
_STOP_SECONDS = 20
QUIET = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    # Log-probabilities are counted by a compiled function, which takes 9 s to compile and needs a C++ compiler.
    "TORCHDYNAMO_DISABLE": "1",
}


class Server(NamedTuple):
    """A running server: the address that a recipe names, the model's name and folder, and the log."""

    base_url: str
    model: str
    folder: Path
    log: Path

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Send a request to this model; fails with the server's own words where it refuses."""
        data = json.dumps({"model": self.model, **body}).encode()
        request = urllib.request.Request(self.base_url + path, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{error.code}: {error.read().decode()}") from error


@contextmanager
def running(folder: Path, log: Path, *options: str, python: str = sys.executable) -> Iterator[Server]:
    """Serve the model in `folder` on a free port until the block is left; then none of its processes is left.

    `python` is the interpreter of an environment that holds vLLM.

    Chunked prefill is off: on the CPU, a request with a seed whose prompt is cut into two chunks ends the engine.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder.resolve()), *options]
    command += ["--served-model-name", folder.name, "--host", "127.0.0.1", "--port", str(port)]
    command += ["--enforce-eager", "--no-enable-chunked-prefill", "--max-model-len", "2048"]
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, cwd=log.parent, env=os.environ | QUIET
        )
        try:
            _wait(process, port, log)
            yield Server(f"http://127.0.0.1:{port}/v1", folder.name, folder, log)
        finally:
            _stop(process)


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    until = time.monotonic() + _START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return
        except OSError:
            ended = process.poll()
        if ended is not None or time.monotonic() > until:
            said = "was not up in time" if ended is None else f"ended with {ended}"
            raise RuntimeError(f"The vLLM server {said}. The end of its log:\n{tail(log)}")
        time.sleep(0.25)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the server and what it started: first kindly, then what is left of it."""
    try:
        family = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        family = []
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    _, left = psutil.wait_procs(family, timeout=5)
    for child in left:
        child.kill()
    psutil.wait_procs(left, timeout=5)


def tail(log: Path, lines: int = 60) -> str:
    """The end of a server's log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
