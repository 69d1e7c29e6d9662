"""The build as a Prefect flow: the same steps, each shard of each a task.

Tasks are given paths and counts, never rows, and are not cached by Prefect. A step that fails on the machine's account
is tried again; one that fails on the user's account (a `RecapError`) is not, since it would fail the same way.
"""

from __future__ import annotations

import logging
import re
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar, cast

from httpx import HTTPError
from prefect import State, Task, flow, get_run_logger, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import TaskRun
from prefect.context import FlowRunContext
from prefect.exceptions import PrefectException
from prefect.futures import PrefectFuture
from prefect.states import Cancelled, Completed, Failed
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from flows.former import former_build
from flows.publishing import check_asked, publish_build, since_last
from flows.recipes import find
from flows.server import check_answers
from pipeline.build import Built, build
from pipeline.console import Lines
from pipeline.errors import RecapError
from pipeline.publish.diff import compare, to_markdown
from pipeline.publish.folder import read_manifest
from pipeline.publish.opening import CARD, Snapshot, open_version
from pipeline.publish.release import Permissions, Published
from pipeline.recipe import load
from pipeline.report import write_report
from pipeline.stopping import Stop, Stopped, by_signals

T = TypeVar("T")

_THREADS: TaskRunner[Any] = cast("TaskRunner[Any]", ThreadPoolTaskRunner(max_workers=4))

RETRIES = 2
RETRY_DELAY_SECONDS = 5


_LOOK = 2.0
"""Seconds between two looks at whether somebody cancelled the run."""


class PrefectRunner:
    """A `pipeline.runner.Runner` that makes each job a task run.

    ``stop`` ends it: jobs that run are waited for, the live one settles what is in flight, and no other one begins.
    """

    def __init__(self) -> None:
        self.stop = Stop()

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
        if self.stop.asked:
            raise Stopped
        futures = []
        size = sum(rows) if live and rows is not None else None
        for number, job in enumerate(jobs, start=1):
            name = step if len(jobs) == 1 else f"{step} {number}/{len(jobs)}"
            watched = partial(_live, step, size, function, job, self.stop) if live else partial(function, *job)
            futures.append(_step(step, name, watched, self.stop).submit())
        self._wait(step, futures)
        return [future.result() for future in futures]

    def _wait(self, step: str, futures: list[PrefectFuture[Any]]) -> None:
        ended, told = SimpleQueue[PrefectFuture[Any]](), False
        for future in futures:
            future.add_done_callback(ended.put)
        left = len(futures)
        while left:
            try:
                ended.get(timeout=_LOOK)
                left -= 1
            except Empty:
                if not self.stop.asked and _cancelled():
                    self.stop.ask()
                if self.stop.asked and not self.stop.heard and not told:
                    told = True
                    _tell(get_run_logger())(f"Stopping: waiting for {step!r} to end")


def _live(step: str, rows: int | None, function: Callable[..., T], job: tuple[Any, ...], stop: Stop) -> T:
    """Run a live job; what it tells goes to the log of the run."""
    log = get_run_logger()
    progress = Lines(log.info, _tell(log))
    progress.start(step, rows)
    result = function(*job, progress, stop)
    progress.finish()
    return result


def _tell(log: Any) -> Callable[[str], None]:
    """What tells whoever watches, on standard error, where the log goes too unless it is a quiet one."""
    if log.isEnabledFor(logging.WARNING):
        return cast("Callable[[str], None]", log.warning)
    return lambda line: print(line, file=sys.stderr, flush=True)


def _cancelled() -> bool:
    """Whether somebody cancelled this run, as the server has it. A run of a deployment is told by a signal instead."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None or context.flow_run.deployment_id is not None:
        return False
    try:
        with get_client(sync_client=True) as client:
            state = client.read_flow_run(context.flow_run.id).state
    except (OSError, HTTPError, PrefectException) as error:
        get_run_logger().debug("The server can't be asked whether the run was cancelled: %s", error)
        return False
    return state is not None and (state.is_cancelling() or state.is_cancelled())


def _step(step: str, name: str, job: Callable[[], T], stop: Stop) -> Task[[], Any]:
    @task(
        name=step,
        task_run_name=name,
        retries=RETRIES,
        retry_delay_seconds=RETRY_DELAY_SECONDS,
        retry_condition_fn=_worth_repeating,
        cache_policy=NO_CACHE,
        persist_result=False,
    )
    def run() -> T | State[Any]:
        try:
            if stop.asked:
                raise Stopped
            return job()
        except Stopped as stopped:
            return _stopped(stopped)
        except RecapError as error:
            return _failed(error)

    return run


def _worth_repeating(_: Task[..., Any], __: TaskRun, state: State[Any]) -> bool:
    return not isinstance(state.result(raise_on_failure=False), State)


@flow(name="recap-data build", task_runner=_THREADS, persist_result=False)
def build_flow(
    recipe: str = "demo",
    overrides: list[str] | None = None,
    out: str | None = None,
    allow_short: bool = False,
    ledger: str | None = None,
    max_requests: int | None = None,
    max_cost: float | None = None,
    publish: bool = False,
    allow_restricted: bool = False,
    public_harmful: bool = False,
) -> State[Any]:
    """Build a mixture, publish it where that is asked for, and leave artifacts of it.

    They are its funnel, card and report, a link to the published version, and what changed: since the last version
    that was published, else since the last build.

    Args:
        recipe: a named recipe, or the path of a YAML file.
        overrides: values to set, as ``a.b.c=value``.
        out: the output folder; ``out/<name>`` unless given.
        allow_short: build what there is where a quota can't be met.
        ledger: where answers of models are kept; ``ledger.sqlite`` beside the output unless given.
        max_requests: how many requests may be sent.
        max_cost: what may be spent, by the recipe's prices.
        publish: publish the build to the recipe's ``publish.to``.
        allow_restricted: publish to a private repository though a source forbids redistribution.
        public_harmful: publish harmful prefills though the recipe's repository is public.

    Returns:
        A completed state whose message is "unchanged" where nothing had to be done; a failed one with the message that
        the command line has where it failed on the user's account; a cancelled one where it was stopped, by Ctrl-C,
        SIGTERM or who cancelled it.
    """
    permissions = Permissions(allow_restricted=allow_restricted, public_harmful=public_harmful)
    runner = PrefectRunner()
    try:
        loaded = load(find(recipe), overrides or ())
        check_asked(loaded.recipe, publish, permissions)
        folder = Path(out) if out is not None else Path("out") / loaded.recipe.name
        with by_signals(runner.stop), former_build(folder) as former:
            built = build(
                loaded,
                folder,
                runner,
                allow_short=allow_short,
                ledger=Path(ledger) if ledger is not None else None,
                max_requests=max_requests,
                max_cost=max_cost,
            )
            published = None
            if publish:
                job = (folder, loaded.recipe.publish.to, permissions)
                (published,) = runner.map("publish", publish_build, [job])
            _leave_artifacts(built, published)
            _leave_diff(runner, built, former, published)
    except Stopped as stopped:
        return _stopped(stopped)
    except RecapError as error:
        return _failed(error)
    return Completed(message=_done(built, published))


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
    """Run the flow in this process and wait for it; errors are those of `pipeline.build.build`.

    Raises:
        Stopped: it was stopped, or cancelled.
    """
    _start_server()
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


def _start_server() -> None:
    """Start the server that a flow without one gets, deaf to the Ctrl-C that a terminal sends to every process.

    It would be gone before the run's end is told to it. It inherits the mask.

    Raises:
        RecapError: the one that is set doesn't answer.
    """
    if check_answers():
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with get_client(sync_client=True):
            pass
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _failed(error: RecapError) -> State[Any]:
    """The state of a run that failed on the user's account: its message is what the command line says."""
    return Failed(message=str(error), data=error)


def _stopped(stopped: Stopped) -> State[Any]:
    """The state of a run that somebody stopped."""
    return Cancelled(message=str(stopped), data=stopped)


def _done(built: Built, published: Published | None) -> str:
    """What became of it: "unchanged" where the build and the version were there already."""
    if built.unchanged and (published is None or published.unchanged):
        return "unchanged"
    rows = built.manifest["rows"]["mixture"]
    said = [] if built.unchanged else [f"built {rows:,} rows into {built.out}"]
    if published is not None:
        said.append(f"{'already' if published.unchanged else 'published'} {published.version} at {published.to}")
    return ", ".join(said)


def _leave_artifacts(built: Built, published: Published | None) -> None:
    manifest, key = built.manifest, _key(built)
    table = [
        {**row, "dropped": ", ".join(f"{count} {reason}" for reason, count in row["dropped"].items())}
        for row in manifest["funnel"]
    ]
    create_table_artifact(table=table, key=f"{key}-funnel", description=f"Funnel of {manifest['name']}")
    create_markdown_artifact(markdown=(built.out / CARD).read_text(encoding="utf-8"), key=f"{key}-card")
    page = write_report(built.out)
    create_link_artifact(link=page.resolve().as_uri(), link_text="report.html", key=f"{key}-report")
    if published is not None:
        link = published.url if published.commit else Path(published.url).resolve().as_uri()
        create_link_artifact(link=link, link_text=published.version, key=f"{key}-version")


def _leave_diff(runner: PrefectRunner, built: Built, former: Snapshot | None, published: Published | None) -> None:
    """Tell what changed: against the last published version, or where there is none, against the former build."""
    found = None
    if published is not None and not published.unchanged:
        (found,) = runner.map("compare", since_last, [(published,)])
    if found is None and former is not None and not built.unchanged:
        latest = open_version(str(built.out))._replace(name=f"content {built.manifest['content_hash'][:12]}")
        found = compare(former, latest)
    if found is not None:
        create_markdown_artifact(markdown=to_markdown(found), key=f"{_key(built)}-diff")


def _key(built: Built) -> str:
    return re.sub(r"[^a-z0-9]+", "-", built.manifest["name"].lower()).strip("-")
