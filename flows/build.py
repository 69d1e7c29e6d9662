"""The build as a Prefect flow: the same steps, each shard of each a task.

Tasks are given paths and counts, never rows, and are not cached by Prefect. A step that fails on the machine's account
is tried again; one that fails on the user's account (a `RecapError`) is not, since it would fail the same way.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar, cast

from prefect import State, Task, flow, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import TaskRun
from prefect.futures import wait
from prefect.states import Completed
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from flows.recipes import find
from pipeline.build import Built, build
from pipeline.errors import RecapError
from pipeline.publish.diff import Snapshot, compare, open_version, to_markdown
from pipeline.publish.folder import MANIFEST, intact, read_manifest
from pipeline.recipe import load
from pipeline.report import write_report

T = TypeVar("T")

_THREADS: TaskRunner[Any] = cast("TaskRunner[Any]", ThreadPoolTaskRunner(max_workers=4))

RETRIES = 2
RETRY_DELAY_SECONDS = 5


class PrefectRunner:
    """A `pipeline.runner.Runner` that makes each job a task run."""

    def map(
        self,
        step: str,
        function: Callable[..., T],
        jobs: Sequence[tuple[Any, ...]],
        rows: Sequence[int] | None = None,
        *,
        live: bool = False,
    ) -> list[T]:
        """See `pipeline.runner.Runner.map`."""
        futures = []
        for number, job in enumerate(jobs, start=1):
            name = step if len(jobs) == 1 else f"{step} {number}/{len(jobs)}"
            futures.append(_step(step, name, function, job).submit())
        wait(futures)
        return [future.result() for future in futures]


def _step(step: str, name: str, function: Callable[..., T], job: tuple[Any, ...]) -> Task[[], T]:
    @task(
        name=step,
        task_run_name=name,
        retries=RETRIES,
        retry_delay_seconds=RETRY_DELAY_SECONDS,
        retry_condition_fn=_worth_repeating,
        cache_policy=NO_CACHE,
        persist_result=False,
    )
    def run() -> T:
        return function(*job)

    return run


def _worth_repeating(_: Task[..., Any], __: TaskRun, state: State[Any]) -> bool:
    return not isinstance(state.result(raise_on_failure=False), RecapError)


@flow(name="recap-data build", task_runner=_THREADS, persist_result=False)
def build_flow(
    recipe: str = "demo",
    overrides: list[str] | None = None,
    out: str | None = None,
    allow_short: bool = False,
    ledger: str | None = None,
    max_requests: int | None = None,
    max_cost: float | None = None,
) -> State[Any]:
    """Build a mixture and leave its funnel, card and report as artifacts, and what changed since the last build.

    Args:
        recipe: a named recipe, or the path of a YAML file.
        overrides: values to set, as ``a.b.c=value``.
        out: the output folder; ``out/<name>`` unless given.
        allow_short: build what there is where a quota can't be met.
        ledger: where answers of models are kept; ``ledger.sqlite`` beside the output unless given.
        max_requests: how many requests may be sent.
        max_cost: what may be spent, by the recipe's prices.

    Returns:
        A completed state whose message is "unchanged" where nothing had to be done.
    """
    loaded = load(find(recipe), overrides or ())
    folder = Path(out) if out is not None else Path("out") / loaded.recipe.name
    book = Path(ledger) if ledger is not None else None
    with _former(folder) as former:
        built = build(
            loaded,
            folder,
            PrefectRunner(),
            allow_short=allow_short,
            ledger=book,
            max_requests=max_requests,
            max_cost=max_cost,
        )
        _leave_artifacts(built, former)
    rows = built.manifest["rows"]["mixture"]
    return Completed(message="unchanged" if built.unchanged else f"built {rows:,} rows into {built.out}")


def run(
    recipe: str,
    overrides: Sequence[str],
    out: Path,
    *,
    allow_short: bool = False,
    ledger: Path | None = None,
    max_requests: int | None = None,
    max_cost: float | None = None,
) -> Built:
    """Run the flow in this process and wait for it; errors are those of `pipeline.build.build`."""
    state = build_flow(
        recipe,
        overrides=list(overrides),
        out=str(out),
        allow_short=allow_short,
        ledger=str(ledger) if ledger is not None else None,
        max_requests=max_requests,
        max_cost=max_cost,
        return_state=True,
    )
    state.result(raise_on_failure=True)
    return Built(out, read_manifest(out) or {}, unchanged=state.message == "unchanged")


@contextmanager
def _former(out: Path) -> Iterator[Snapshot | None]:
    """The build that is in `out` now, kept for as long as the block lasts; None where there is none.

    Its card may have been edited, its rows not.
    """
    manifest = read_manifest(out)
    rows = {name: known for name, known in (manifest or {"files": {}})["files"].items() if name != "README.md"}
    if manifest is None or not intact(out, {"files": rows}):
        yield None
        return
    try:
        folder = TemporaryDirectory(prefix=f".{out.name}.former-", dir=out.parent)
    except OSError:  # which the build, that can't write there either, explains
        yield None
        return
    with folder as kept:
        for name in (*manifest["files"], MANIFEST):
            place = Path(kept) / name
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(out / name, place)
            except OSError:
                shutil.copy2(out / name, place)
        yield open_version(kept)._replace(name=f"content {manifest['content_hash'][:12]}")


def _leave_artifacts(built: Built, former: Snapshot | None) -> None:
    manifest = built.manifest
    key = re.sub(r"[^a-z0-9]+", "-", manifest["name"].lower()).strip("-")
    table = [
        {**row, "dropped": ", ".join(f"{count} {reason}" for reason, count in row["dropped"].items())}
        for row in manifest["funnel"]
    ]
    create_table_artifact(table=table, key=f"{key}-funnel", description=f"Funnel of {manifest['name']}")
    create_markdown_artifact(markdown=(built.out / "README.md").read_text(encoding="utf-8"), key=f"{key}-card")
    if former is not None and not built.unchanged:
        latest = open_version(str(built.out))._replace(name=f"content {manifest['content_hash'][:12]}")
        create_markdown_artifact(markdown=to_markdown(compare(former, latest)), key=f"{key}-diff")
    page = write_report(built.out)
    create_link_artifact(link=page.resolve().as_uri(), link_text="report.html", key=f"{key}-report")
