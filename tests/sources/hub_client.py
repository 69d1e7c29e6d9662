"""A process that reads sources from the Hub of the tests: the client's settings are read when it's imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.servers.hub import Hub

ROOT = Path(__file__).parents[2]
READ = """
import json, sys
from pathlib import Path
from pipeline.errors import SourceError
from pipeline.recipe import Source
from pipeline.sources import complete, locate, pull, texts

located = []
for line in sys.stdin:
    asked = json.loads(line)
    domain, then = asked.pop("domain", "harmful"), asked.pop("then", "pull")
    source = complete(Source.model_validate(asked))
    told = {"rows": [], "rejected": [], "read": 0, "selected": 0}
    try:
        if then != "pull again":
            located = locate(source, Path())
        told |= {"revision": located[0].revision, "licence": located[0].licence}
        if then == "texts":
            told["texts"] = list(texts(source, located[0]))
        for place in located if then.startswith("pull") else ():
            for batch in pull(source, place, domain, 20000):
                for key, more in batch._asdict().items():
                    told[key] += more
    except SourceError as error:
        told = {"error": str(error)}
    print(json.dumps(told), flush=True)
"""


class Client:
    """A reader: a process that reads one source after another, as it is asked to."""

    def __init__(self, environment: dict[str, str], cwd: Path = ROOT) -> None:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        self.process = subprocess.Popen(
            [sys.executable, "-c", READ],
            env=kept | environment | {"PYTHONPATH": str(ROOT)},
            cwd=cwd,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ask(self, dataset: str, **asked: Any) -> None:
        """Ask what a source gives; ``then`` is "pull", "pull again" (what was located last), "locate" or "texts"."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"dataset": dataset, **asked}) + "\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """What came of it: rows, rejected, read, selected, revision and licence, or an error."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.end()
        told = json.loads(line)
        assert isinstance(told, dict)
        assert Hub.token not in line
        return told

    def read(self, dataset: str, **asked: Any) -> dict[str, Any]:
        """Ask and wait for the answer, which must be no error."""
        self.ask(dataset, **asked)
        told = self.answer()
        assert "error" not in told, told
        return told

    def error(self, dataset: str, **asked: Any) -> str:
        """Ask and wait for the error, which must be one line."""
        self.ask(dataset, **asked)
        message = str(self.answer()["error"])
        assert "\n" not in message
        return message

    def end(self) -> tuple[int, str]:
        """Let the process end; return its status and what it wrote to standard error."""
        _, errors = self.process.communicate(timeout=60)
        return self.process.returncode, errors


@contextmanager
def client(
    server: Hub, home: Path, token: str | None = Hub.token, cwd: Path = ROOT, **environment: str
) -> Iterator[Client]:
    """Run a reader, which must end well."""
    reader = Client(server.environment(home, token) | environment, cwd)
    try:
        yield reader
        ended, errors = reader.end()
        assert ended == 0, errors
        assert "Traceback" not in errors, errors
    finally:
        reader.process.kill()


def prompts(told: dict[str, Any]) -> list[str]:
    """The first turns of the rows."""
    return [row["prompt"][0]["content"] for row in told["rows"]]


def places(told: dict[str, Any]) -> list[int]:
    """The rows' positions in their split."""
    return [row["origin"]["row"] for row in told["rows"]]
