"""A flow that is stopped ends as a build is: Ctrl-C, SIGTERM and cancelling it, from the command and served."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from pipeline.ledger import Ledger
from tests.servers.endpoint import BEFOREHAND, Endpoint, endpoint
from tests.servers.prefect import Prefect, prefect_server, running

RECIPE = """
name: served
sources:
  harmful: [{bundled: demo}]
samplers:
  unaligned: {engine: openai, base_url: "URL", model: toy-comply, max_tokens: 2000, in_flight: 4}
mixture:
  harmful: {rows: 70, prefill: {sampler: unaligned, words: 100, min_words: 40}}
"""
BUILD = [sys.executable, "-m", "pipeline.cli", "build", "served.yaml", "--prefect"]
STOPPED = "recap-data: stopped. The last finished output is as it was; run the same command again."
WAITING = "Stopping: waiting for 4 requests in flight; Ctrl-C again to leave them"


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prefect]:
    with prefect_server(tmp_path_factory.mktemp("prefect")) as found:
        yield found


@pytest.fixture(scope="module")
def running_server() -> Iterator[Endpoint]:
    with endpoint() as running:
        yield running


@pytest.fixture
def server(running_server: Endpoint, tmp_path: Path) -> Endpoint:
    running_server.reset()
    running_server.set(latency=3.0)
    (tmp_path / "served.yaml").write_text(RECIPE.replace("URL", running_server.base_url))
    return running_server


def sent(server: Endpoint) -> int:
    asked = [record.body for record in server.log() if "completions" in record.path]
    return len([body for body in asked if BEFOREHAND not in body])


def until(holds: Callable[[], bool], seconds: float = 120.0, log: Path | None = None) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, log.read_text() if log else "it never came to that"
        time.sleep(0.05)


@contextmanager
def serving(prefect: Prefect, folder: Path, name: str) -> Iterator[subprocess.Popen[bytes]]:
    """A deployment of its own name, so that no run is of the one that another test served before."""
    recipe, log = folder / "served.yaml", folder / "served.log"
    recipe.write_text(recipe.read_text().replace("name: served", f"name: {name}"))
    command = [sys.executable, "-m", "pipeline.cli", "schedule", "served.yaml", "--cron", "0 3 * * 1"]
    with running(command, log, env=prefect.env, cwd=folder, start_new_session=True) as process:
        prefect.asked("trigger", name)
        yield process


def kept(folder: Path) -> int:
    with Ledger(folder / "out/ledger.sqlite") as book:
        return len([entry for _, entry in book.entries() if BEFOREHAND not in json.dumps(entry.request)])


@pytest.mark.parametrize(("number", "count"), [(signal.SIGINT, 1), (signal.SIGTERM, 1), (signal.SIGINT, 2)])
def test_a_signal_ends_a_flow_as_it_ends_a_build(
    prefect: Prefect, server: Endpoint, tmp_path: Path, number: signal.Signals, count: int
) -> None:
    with subprocess.Popen(BUILD, cwd=tmp_path, env=prefect.env, stderr=subprocess.PIPE, text=True) as process:
        until(lambda: sent(server) == 4)
        for _ in range(count):
            process.send_signal(number)
            time.sleep(0.5)
        _, told = process.communicate(timeout=40)
    assert process.returncode == 1
    assert WAITING in told
    assert told.rstrip().endswith(STOPPED)
    assert "Traceback" not in told
    assert sent(server) == 4
    assert kept(tmp_path) == (4 if count == 1 else 0)
    assert [path.name for path in (tmp_path / "out").iterdir() if path.is_dir()] == []


def test_ctrl_c_in_a_terminal_ends_a_flow_whose_server_prefect_started(server: Endpoint, tmp_path: Path) -> None:
    """The signal goes to all processes of the terminal, that server among them."""
    env = os.environ | {"PREFECT_HOME": str(tmp_path / "home"), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    env.pop("PREFECT_API_URL", None)
    with subprocess.Popen(
        BUILD, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        until(lambda: sent(server) == 4)
        os.killpg(process.pid, signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 1
    assert WAITING in told
    assert STOPPED in told
    assert "Finished in state Cancelled" in told
    assert kept(tmp_path) == sent(server) == 4


def test_a_run_of_the_command_that_is_cancelled_ends(prefect: Prefect, server: Endpoint, tmp_path: Path) -> None:
    with subprocess.Popen(BUILD, cwd=tmp_path, env=prefect.env, stderr=subprocess.PIPE, text=True) as process:
        until(lambda: sent(server) == 4)
        prefect.asked("cancel")
        _, told = process.communicate(timeout=40)
    assert process.returncode == 1
    assert told.rstrip().endswith(STOPPED)
    assert kept(tmp_path) == sent(server) < 20


def test_a_served_run_that_is_cancelled_settles_what_is_in_flight(
    prefect: Prefect, server: Endpoint, tmp_path: Path
) -> None:
    with serving(prefect, tmp_path, "cancelled"):
        until(lambda: sent(server) >= 4, log=tmp_path / "served.log")
        prefect.asked("cancel")
        assert prefect.asked("states")[0] == "CANCELLED", (tmp_path / "served.log").read_text()
        until(lambda: kept(tmp_path) == sent(server))
    assert kept(tmp_path) == sent(server) < 60, "of 70"


def test_ctrl_c_at_a_served_deployment_settles_what_is_in_flight(
    prefect: Prefect, server: Endpoint, tmp_path: Path
) -> None:
    with serving(prefect, tmp_path, "interrupted") as process:
        until(lambda: sent(server) >= 4, log=tmp_path / "served.log")
        os.killpg(process.pid, signal.SIGINT)
        process.wait(40)
        until(lambda: kept(tmp_path) == sent(server), 20)
    assert kept(tmp_path) == sent(server) < 60, "of 70"


def test_a_task_that_is_tried_again_has_no_new_budget(prefect: Prefect, server: Endpoint, tmp_path: Path) -> None:
    """A folder stands where the first shard's file is to be written, and is gone when the task is tried again."""
    server.set(latency=0.2)
    words = [f"number{n} {'abcdefghij'[n % 10]}{n * 7919 % 10007}" for n in range(9000)]
    lines = (f'{{"p": "How do I mend the lamp {a} of the house {b} in spring?"}}\n' for a, b in pairwise(words))
    (tmp_path / "many.jsonl").write_text("".join(lines))
    recipe = RECIPE.replace("URL", server.base_url).replace(
        "{bundled: demo}", "{files: many.jsonl, prompt: p, licence: mit}"
    )
    (tmp_path / "served.yaml").write_text(recipe.replace("rows: 70", "rows: 100") + "clean: {dedupe: {near: null}}\n")
    place, over = tmp_path / "out/.served.work/samples/0-0.arrow", threading.Event()

    def stand_in_the_way() -> None:
        until((place.parents[1] / "clean").exists)
        place.mkdir(parents=True)
        before = -1
        while before != (before := sent(server)) or not before:
            time.sleep(1.5)
        place.rmdir()
        over.set()

    thread = threading.Thread(target=stand_in_the_way)
    thread.start()
    done = subprocess.run(
        [*BUILD, "--max-requests", "45"], cwd=tmp_path, env=prefect.env, capture_output=True, text=True, check=False
    )
    thread.join()
    assert over.is_set()
    assert done.returncode == 1, done.stderr
    assert "--max-requests" in done.stderr
    assert sent(server) <= 45
