"""Two versions of the demo recipe on the Hub of the tests, and readers in processes with caches of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import pytest

from tests.servers.hub import Hub, hub

COMMAND = [sys.executable, "-m", "pipeline.cli"]
NAME = "my-org/my-mixture"
CHANGES = {"v1.0.0": [], "v1.1.0": ["--set", "seed=1", "--set", "mixture.math.rows=100"]}

BEFORE = """
import json, os, sys, warnings
warnings.simplefilter("ignore")

def say(told):
    print("said", json.dumps(told, default=str))

def refused(load, *args, **options):
    try:
        load(*args, **options)
    except Exception as error:
        return type(error).__name__ + ": " + str(error)
    return "loaded"
"""


AFTER = """
# Ended here, since pyarrow's threads now and then abort an interpreter that ends by itself after reading from the Hub.
sys.stdout.flush()
os._exit(0)
"""


class Reader:
    """Somebody who reads what was published: an interpreter, a token, and a cache of their own.

    Nothing of the project can be imported there unless it is installed beside `python`.
    """

    def __init__(self, server: Hub, home: Path, token: str | None = Hub.token, python: str = sys.executable) -> None:
        self.server, self.home, self.token, self.python = server, home, token, python

    def run(self, code: str, folder: Path | None = None, **environment: str) -> Any:
        """What `code` said: it is run in `folder`, and gives its answer to `say`."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "PYTHON"))}
        done = subprocess.run(
            [self.python, "-I", "-c", BEFORE + textwrap.dedent(code) + AFTER],
            env=kept | self.server.environment(self.home, self.token) | environment,
            cwd=folder or self.home,
            capture_output=True,
            text=True,
            check=False,
        )
        said = [line for line in done.stdout.splitlines() if line.startswith("said ")]
        assert done.returncode == 0, done.stderr
        assert said, "the code said nothing"
        return json.loads(said[-1].removeprefix("said "))


class Publications(NamedTuple):
    """The versions v1.0.0 and v1.1.0 of a mixture, private and gated, and a folder with the same two."""

    server: Hub
    builds: dict[str, Path]
    commits: dict[str, str]
    folder: Path
    early: Reader
    """One who loaded ``main`` while it was v1.0.0, and keeps the cache of that."""
    early_rows: list[dict[str, Any]]

    def rows(self, version: str, config: str = "mixture") -> list[dict[str, Any]]:
        """The rows as they were built."""
        inside = "data" if config == "mixture" else config
        (file,) = (self.builds[version] / inside).glob(f"{config}-*.parquet")
        return list(pq.read_table(file).to_pylist())


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Publications]:
    """The demo recipe, published, changed, and published again."""
    place = tmp_path_factory.mktemp("published")
    early_rows = []
    with hub() as server:
        home = place / "early"
        home.mkdir()
        early = Reader(server, home)
        environment = os.environ | server.environment(place / "publisher")
        for version, change in CHANGES.items():
            build = str(place / version / "out" / "demo")
            recap_data(environment, "build", "demo", "--out", build, *change)
            for to in (f"hub:{NAME}", str(place / "versions")):
                assert json.loads(recap_data(environment, "publish", build, "--to", to, "--json"))["version"] == version
            if version == "v1.0.0":
                early_rows = early.run(
                    f"from datasets import load_dataset; say(list(load_dataset('{NAME}', split='train')))"
                )
        builds = {version: place / version / "out" / "demo" for version in CHANGES}
        yield Publications(server, builds, server.tags(NAME), place / "versions", early, early_rows)


@pytest.fixture
def reader(published: Publications, tmp_path: Path) -> Callable[..., Reader]:
    """A new reader: `token` and `python` may be given."""

    def made(**options: Any) -> Reader:
        home = tmp_path / "home"
        home.mkdir(exist_ok=True)
        return Reader(published.server, home, **options)

    return made


def recap_data(environment: dict[str, str], *arguments: str) -> str:
    """What the command printed."""
    done = subprocess.run([*COMMAND, *arguments], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
