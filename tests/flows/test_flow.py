"""The real flow on a real server that Prefect starts for the test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import asyncio, json, sys
from prefect.client.orchestration import get_client
from prefect.testing.utilities import prefect_test_harness

async def look():
    async with get_client() as client:
        runs = await client.read_task_runs()
        flows = await client.read_flow_runs()
        artifacts = await client.read_artifacts()
    print(json.dumps({
        "tasks": sorted({run.name for run in runs}),
        "states": sorted([flow.state.type.value, flow.state.message] for flow in flows),
        "artifacts": {artifact.key: artifact.data for artifact in artifacts},
        "retries": max(run.run_count for run in runs),
    }))

with prefect_test_harness(server_startup_timeout=120):
    from flows.build import build_flow
    for overrides in ([], [], ["mixture.harmful.rows=5000"]):
        build_flow("demo", overrides=overrides, out=sys.argv[1], return_state=True)
    asyncio.run(look())
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    folder = tmp_path_factory.mktemp("flow")
    settings = {
        "PREFECT_HOME": str(folder / "prefect"),
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_LEVEL": "ERROR",
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder / "out")],
        env=os.environ | settings,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout.splitlines()[-1])


def test_each_step_is_a_task_and_none_is_repeated_in_vain(seen: tuple[Path, dict[str, object]]) -> None:
    _, told = seen
    steps = {"pull 1/3", "pull evaluation sets", "dedupe, near", "decontaminate", "sample", "mix"}
    assert steps <= set(told["tasks"])
    assert told["retries"] == 1


def test_the_runs_end_as_built_unchanged_and_failed(seen: tuple[Path, dict[str, object]]) -> None:
    folder, told = seen
    (built, unchanged, failed) = told["states"]
    assert built == ["COMPLETED", f"built 240 rows into {folder / 'out'}"]
    assert unchanged == ["COMPLETED", "unchanged"]
    assert failed[0] == "FAILED"
    assert failed[1].startswith("The quotas can't be met:\n  mixture.harmful.rows asks for 5,000")


def test_the_artifacts_are_the_funnel_the_card_and_the_report(seen: tuple[Path, dict[str, object]]) -> None:
    folder, told = seen
    funnel = json.loads(told["artifacts"]["demo-funnel"])
    assert next(row["step"] for row in funnel if row["domain"] == "math") == "pull"
    assert told["artifacts"]["demo-card"] == (folder / "out" / "README.md").read_text()
    assert (folder / "out" / "report.html").as_uri() in told["artifacts"]["demo-report"]


def test_the_flow_builds_what_the_command_line_builds(seen: tuple[Path, dict[str, object]], tmp_path: Path) -> None:
    folder, _ = seen
    command = [sys.executable, "-m", "pipeline.cli", "build", "--out", str(tmp_path / "out")]
    subprocess.run(command, check=True, capture_output=True)
    ours = {path.name: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    theirs = {path.name: path.read_bytes() for path in (folder / "out").rglob("*") if path.is_file()}
    assert ours.items() <= theirs.items()
    assert theirs.keys() - ours.keys() == {"report.html"}
