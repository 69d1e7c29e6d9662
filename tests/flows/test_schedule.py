"""A build on a schedule: checked before Prefect is asked, right over a change of the clocks, and on a real server."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from flows.schedule import coming, parameters
from pipeline.errors import InputError
from tests.servers.endpoint import Endpoint, endpoint
from tests.servers.hub import Hub, hub
from tests.test_verify import SAMPLED

ROOT = Path(__file__).parents[2]
QUIET = {"DO_NOT_TRACK": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "PREFECT_LOGGING_LEVEL": "ERROR"}
COMMAND = [sys.executable, "-m", "pipeline.cli", "schedule"]

WEEKLY = ["demo", "--cron", "0 3 * * 1"]
PUBLISHED = [*WEEKLY, "--publish", "--set"]
SAFECHAIN = "sources.benign=[{dataset: UWNSL/SafeChain, split: train}]"

# --- what is checked first


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["demo", "--cron", "0 3 * *"], "--cron '0 3 * *' is no schedule"),
        (["demo", "--cron", "61 3 * * 1"], "is no schedule. Give minute, hour, day"),
        (["demo", "--cron", "%s 3 * * 1"], "--cron '%s 3 * * 1' is no schedule"),
        (["demo", "--cron", "0 0 30 2 *"], "names no day that there is"),
        (["demo", "--cron", "0 3 * * 1", "--timezone", "Mars/Base"], "There is no time zone 'Mars/Base'"),
        (["dmo", "--cron", "0 3 * * 1"], "did you mean demo?"),
        (["demo", "--cron", "0 3 * * 1", "--set", "mixture.harmful.row=1"], "unknown key"),
        (["demo", "--cron", "0 3 * * 1"], "A schedule needs a Prefect server"),
        ([*WEEKLY, "--allow-restricted"], "add --publish, or leave them out"),
        ([*WEEKLY, "--publish"], "does not say where to publish. Set publish.to"),
        ([*PUBLISHED, "publish.to=hub:a"], "hub:a names no repository"),
        ([*PUBLISHED, "publish.to=hub:a/b@v1"], "Set publish.to to hub:owner/name alone"),
        ([*PUBLISHED, "publish.to=hub:a/b"], "Publishing to hub:a/b needs a token that can write: set HF_TOKEN"),
        ([*PUBLISHED, "publish.to=there", "--public-harmful"], "are for the Hub, not for there"),
        ([*PUBLISHED, "publish.to=hub:a/b", "--set", "publish.private=false"], "say so with --public-harmful"),
        ([*PUBLISHED, "publish.to=hub:a/b", "--set", SAFECHAIN], "UWNSL/SafeChain: no redistribution is allowed"),
    ],
)
def test_a_mistake_is_told_and_nothing_is_started(tmp_path: Path, options: list[str], says: str) -> None:
    home = {"PREFECT_HOME": str(tmp_path / "home"), "PREFECT_API_URL": "", "HF_HOME": str(tmp_path), "HF_TOKEN": ""}
    done = subprocess.run(
        [*COMMAND, *options], env=os.environ | QUIET | home, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not list((tmp_path / "home").glob("*.db"))


def test_a_server_that_does_not_answer_is_told(tmp_path: Path) -> None:
    url = {"PREFECT_HOME": str(tmp_path), "PREFECT_API_URL": f"http://127.0.0.1:{free_port()}/api"}
    command = [*COMMAND, "demo", "--cron", "0 3 * * 1"]
    done = subprocess.run(command, env=os.environ | QUIET | url, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"No Prefect server answers at {url['PREFECT_API_URL']}" in done.stderr


def test_parameters_are_what_the_flow_takes_wherever_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = parameters("demo", ["seed=1"], None, ledger=Path("l.sqlite"), max_cost=None, allow_short=False)
    assert found == {
        "recipe": "demo",
        "overrides": ["seed=1"],
        "out": str(tmp_path / "out/demo"),
        "ledger": str(tmp_path / "l.sqlite"),
        "allow_short": False,
    }
    (tmp_path / "own.yaml").write_text((ROOT / "flows/recipes/demo.yaml").read_text())
    assert parameters("own.yaml", [], Path("x"))["recipe"] == str(tmp_path / "own.yaml")


# --- when


@pytest.mark.parametrize("change", [datetime(2027, 3, 28, tzinfo=UTC), datetime(2027, 10, 31, tzinfo=UTC)])
def test_the_hour_stays_the_same_when_the_clocks_change(change: datetime) -> None:
    times = coming("0 3 * * *", "Europe/Berlin", 6, change - timedelta(days=3))
    assert [(time.hour, time.minute) for time in times] == [(3, 0)] * 6
    assert len({time.date() for time in times}) == 6
    steps = {later - earlier for earlier, later in pairwise(as_utc(times))}
    hours = 23 if change.month == 3 else 25
    assert steps == {timedelta(hours=24), timedelta(hours=hours)}


@pytest.mark.parametrize("change", [datetime(2027, 3, 28, tzinfo=UTC), datetime(2027, 10, 31, tzinfo=UTC)])
def test_an_hour_that_is_skipped_or_comes_twice_is_one_run(change: datetime) -> None:
    times = coming("30 2 * * *", "Europe/Berlin", 6, change - timedelta(days=3))
    assert len({time.date() for time in times}) == 6
    usual = [time for time in times if time.date() != change.date()]
    assert {(time.hour, time.minute) for time in usual} == {(2, 30)}


def test_a_zone_without_such_a_change_has_none() -> None:
    times = as_utc(coming("0 3 * * 1", "UTC", 60, datetime(2027, 1, 1, tzinfo=UTC)))
    assert {later - earlier for earlier, later in pairwise(times)} == {timedelta(days=7)}
    with pytest.raises(InputError):
        coming("0 3 * * 1", "", 1)


def as_utc(times: list[datetime]) -> list[datetime]:
    return [datetime.fromtimestamp(time.timestamp(), UTC) for time in times]


# --- the file for work pools


def test_the_deployments_of_prefect_yaml_are_of_the_flow_that_there_is() -> None:
    from prefect.cli.deploy._config import _load_deploy_configs_and_actions
    from prefect.flows import load_flow_from_entrypoint
    from rich.console import Console

    listed, _ = _load_deploy_configs_and_actions(ROOT / "prefect.yaml", console=Console())
    (deployment,) = listed
    file, _, name = deployment["entrypoint"].partition(":")
    flow = load_flow_from_entrypoint(f"{ROOT / file}:{name}")
    assert flow.name == "recap-data build"
    flow.validate_parameters(deployment["parameters"])
    assert deployment["concurrency_limit"] == {"limit": 1, "collision_strategy": "CANCEL_NEW"}
    assert [schedule["active"] for schedule in deployment["schedules"]] == [False]
    assert coming(deployment["schedules"][0]["cron"], deployment["schedules"][0]["timezone"])


# --- a real server

SCRIPT = """
import asyncio, json, sys
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound

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
    with log.open("wb") as stream, subprocess.Popen(command, stdout=stream, stderr=stream, **options) as process:
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


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prefect]:
    home = tmp_path_factory.mktemp("prefect")
    found, log = Prefect(home), home / "server.log"
    command = ["server", "start", "--host", "127.0.0.1", "--port", str(found.port), "--no-ui"]
    with running([sys.executable, "-m", "prefect", *command], log, env=found.env):
        deadline = time.monotonic() + 120
        while not healthy(found.url):
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield found


def test_a_served_build_runs_and_leaves_what_changed(prefect: Prefect, tmp_path: Path) -> None:
    for arguments in (
        ["work-pool", "create", "recap-data", "--type", "process"],
        ["--no-prompt", "deploy", "--name", "demo-weekly"],
    ):
        command = [sys.executable, "-m", "prefect", *arguments]
        subprocess.run(command, env=prefect.env, cwd=ROOT, check=True, capture_output=True, timeout=120)
    served = [*COMMAND, "demo", "--cron", "0 3 * * 1", "--timezone", "Europe/Berlin", "--out", "out"]
    with running(served, tmp_path / "served.log", env=prefect.env, cwd=tmp_path) as process:
        told = prefect.asked("main")
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0, (tmp_path / "served.log").read_text()
    assert prefect.asked("paused")

    together, changed, unchanged, failed = told["runs"]
    out = tmp_path / "out"
    assert together == [
        ["CANCELLED", "Deployment concurrency limit reached."],
        ["COMPLETED", f"built 240 rows into {out}"],
    ]
    assert changed == [["COMPLETED", f"built 230 rows into {out}"]]
    assert unchanged == [["COMPLETED", "unchanged"]]
    assert failed[0][0] == "FAILED"
    assert failed[0][1].startswith("The quotas can't be met:\n  mixture.harmful.rows asks for 5,000")
    assert "rows: 240 -> 230 (0 added, 10 removed" in told["artifacts"]["demo-diff"].lower()
    assert {"demo-funnel", "demo-card", "demo-report"} <= told["artifacts"].keys()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "served.log"]

    (here,), (pooled,) = told["schedules"]["demo"], told["schedules"]["demo-weekly"]
    assert (here["active"], here["schedule"]["cron"], here["schedule"]["timezone"]) == (
        True,
        "0 3 * * 1",
        "Europe/Berlin",
    )
    assert not pooled["active"]
    assert told["limits"] == [[1, "CANCEL_NEW"]] * 2


# --- publishing


@pytest.fixture
def model() -> Iterator[Endpoint]:
    with endpoint(latency=0.002) as server:
        yield server


@pytest.fixture
def server() -> Iterator[Hub]:
    with hub() as server:
        yield server


def test_a_served_build_is_published_once(prefect: Prefect, model: Endpoint, server: Hub, tmp_path: Path) -> None:
    repo, place = "my-org/sampled", "hub:my-org/sampled"
    recipe = SAMPLED.replace("URL", model.base_url) + f"publish: {{to: '{place}'}}\n"
    (tmp_path / "sampled.yaml").write_text(recipe)
    served = [*COMMAND, "sampled.yaml", "--cron", "0 3 * * 1", "--publish"]
    log, env = tmp_path / "served.log", prefect.env | server.environment(tmp_path / "hf")
    env["PREFECT_LOGGING_LEVEL"] = "INFO"

    with running(served, log, env=env, cwd=tmp_path):
        first = prefect.asked("once", "sampled")
        assert first["state"] == [
            "COMPLETED",
            f"built 12 rows into {tmp_path / 'out/sampled'}, published v1.0.0 at {place}",
        ]
        assert list(server.tags(repo)) == ["v1.0.0"]
        link = f"[v1.0.0]({server.endpoint}/datasets/{repo}/tree/v1.0.0)"
        assert first["artifacts"]["sampled-version"] == link
        assert "sampled-diff" not in first["artifacts"]

        asked, commits = len(model.log()), server.commits(repo)
        assert asked
        server.clear()
        again = prefect.asked("once", "sampled")
        assert again["state"] == ["COMPLETED", "unchanged"]
        assert len(model.log()) == asked
        assert server.commits(repo) == commits
        assert [record for record in server.log() if record.effect] == []
        assert server.uploaded_bytes() == 0
        assert again["artifacts"]["sampled-version"] == link

        changed = prefect.asked("once", "sampled", "mixture.harmful.rows=10")
        assert changed["state"][1].endswith(f"published v1.1.0 at {place}")
        assert changed["artifacts"]["sampled-diff"].startswith(f"# {place}@v1.0.0 → {place}@v1.1.0")
        assert "Rows: 12 -> 10 (0 added, 2 removed" in changed["artifacts"]["sampled-diff"]

        refused = prefect.asked("once", "sampled", "publish.to=hub:stranger/sampled")
        assert refused["state"][0] == "FAILED"
        assert refused["state"][1].startswith("The Hub refuses stranger/sampled to this token (HTTP 403)")
        assert refused["tasks"]["publish"] == [*refused["state"], 1]

        nowhere = prefect.asked("once", "sampled", "publish.to=null")
        assert nowhere["state"][1].startswith("The recipe does not say where to publish.")
        assert nowhere["tasks"] == {}
        messages = [message[:40] for _, message in (refused["state"], nowhere["state"])]
        told = prefect.asked("logs", *messages)
    assert all(any(message in line for line in told) for message in messages)
    assert not any("Traceback" in line for line in told)
    assert Hub.token not in log.read_text() + "".join(told)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["ledger.sqlite", "sampled"]
