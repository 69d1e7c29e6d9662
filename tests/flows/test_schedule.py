"""A build on a schedule: checked before Prefect is asked, right over a change of the clocks, and on a real server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from flows.schedule import coming, parameters
from pipeline.errors import InputError
from tests.servers.endpoint import Endpoint, endpoint
from tests.servers.hub import Hub, hub
from tests.servers.prefect import QUIET, Prefect, free_port, prefect_server, running
from tests.test_verify import SAMPLED

ROOT = Path(__file__).parents[2]
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


@pytest.mark.parametrize("asked", [[*COMMAND, "demo", "--cron", "0 3 * * 1"], [*COMMAND[:-1], "build", "--prefect"]])
def test_a_server_that_does_not_answer_is_told(tmp_path: Path, asked: list[str]) -> None:
    url = {"PREFECT_HOME": str(tmp_path), "PREFECT_API_URL": f"http://127.0.0.1:{free_port()}/api"}
    environment = os.environ | QUIET | url | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(asked, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"No Prefect server answers at {url['PREFECT_API_URL']}" in done.stderr
    assert "Traceback" not in done.stderr


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


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prefect]:
    with prefect_server(tmp_path_factory.mktemp("prefect")) as found:
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
