"""A real server of Prefect for the tests, and how it is asked what became of runs."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

QUIET = {"DO_NOT_TRACK": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "PREFECT_LOGGING_LEVEL": "ERROR"}

SCRIPT = """
import asyncio, json, sys
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelling

async def deployment(client, name):
    for _ in range(300):
        try:
            return await client.read_deployment_by_name(f"recap-data build/{name}")
        except ObjectNotFound:
            await asyncio.sleep(0.2)

async def ended(client, *runs):
    for _ in range(600):
        found = [await client.read_flow_run(run.id) for run in runs]
        if all(run.state.is_final() for run in found):
            return sorted([run.state.type.value, run.state.message] for run in found)
        await asyncio.sleep(0.2)
    raise SystemExit([run.state for run in found])

async def main():
    async with get_client() as client:
        served = await deployment(client, "demo")
        async def trigger(*overrides):
            return await client.create_flow_run_from_deployment(served.id, parameters={"overrides": overrides})
        runs = [await ended(client, await trigger(), await trigger())]
        for overrides in (["mixture.harmful.rows=50"], ["mixture.harmful.rows=50"], ["mixture.harmful.rows=5000"]):
            runs.append(await ended(client, await trigger(*overrides)))
        artifacts = {artifact.key: artifact.data for artifact in await client.read_artifacts()}
        pooled = await deployment(client, "demo-weekly")
        both = (served, pooled)
        schedules = {d.name: [s.model_dump(mode="json") for s in d.schedules] for d in both}
        limits = [[d.global_concurrency_limit.limit, d.concurrency_options.collision_strategy] for d in both]
    print(json.dumps({"runs": runs, "artifacts": artifacts, "schedules": schedules, "limits": limits}))

async def once(name, *overrides):
    async with get_client() as client:
        served = await deployment(client, name)
        given = {"parameters": {"overrides": list(overrides)}} if overrides else {}
        run = await client.create_flow_run_from_deployment(served.id, **given)
        (state,) = await ended(client, run)
        tasks = [task for task in await client.read_task_runs() if task.flow_run_id == run.id]
        artifacts = [found for found in await client.read_artifacts() if found.flow_run_id == run.id]
    print(json.dumps({
        "state": state,
        "tasks": {task.name: [task.state.type.value, task.state.message, task.run_count]
                  for task in tasks},
        "artifacts": {artifact.key: artifact.data for artifact in artifacts},
    }))

async def logs(*wanted):
    async with get_client() as client:
        for _ in range(100):
            told = [log.message for log in await client.read_logs(limit=200)]
            if all(any(part in message for message in told) for part in wanted):
                break
            await asyncio.sleep(0.2)
    print(json.dumps(told))

async def trigger(name):
    async with get_client() as client:
        await client.create_flow_run_from_deployment((await deployment(client, name)).id)
    print("null")

async def newest(client):
    return max(await client.read_flow_runs(), key=lambda run: run.created)

async def cancel():
    async with get_client() as client:
        await client.set_flow_run_state((await newest(client)).id, Cancelling())
    print("null")

async def states():
    async with get_client() as client:
        (found,) = await ended(client, await newest(client))
    print(json.dumps(found))

async def paused():
    async with get_client() as client:
        print(json.dumps((await deployment(client, "demo")).paused))

asyncio.run(globals()[sys.argv[1]](*sys.argv[2:]))
"""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def running(command: list[str], log: Path, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    with (
        log.open("wb") as stream,
        subprocess.Popen(command, stdout=stream, stderr=stream, **options) as process,
    ):
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()


def healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


class Prefect:
    """A server of Prefect, what a client of it needs, and a way to ask it."""

    def __init__(self, home: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/api"
        own = {"PREFECT_HOME": str(home), "PREFECT_API_URL": self.url, "PREFECT_RUNNER_POLL_FREQUENCY": "1"}
        self.env = os.environ | QUIET | own

    def asked(self, *what: str) -> Any:
        command = [sys.executable, "-c", SCRIPT, *what]
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])


@contextmanager
def prefect_server(home: Path) -> Iterator[Prefect]:
    """A server that keeps what it has in `home`, and ends with the block."""
    found, log = Prefect(home), home / "server.log"
    command = ["server", "start", "--host", "127.0.0.1", "--port", str(found.port), "--no-ui"]
    with running([sys.executable, "-m", "prefect", *command], log, env=found.env):
        deadline = time.monotonic() + 120
        while not healthy(found.url):
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield found
