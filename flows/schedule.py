"""The flow on a schedule: a recipe is served as a Prefect deployment, to be built again and again on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

from flows.publishing import check_asked
from flows.recipes import find
from pipeline.build import check_cost
from pipeline.errors import InputError
from pipeline.publish.release import Permissions
from pipeline.recipe import load


def parameters(recipe: str, overrides: Sequence[str], out: Path | None, **further: Any) -> dict[str, Any]:
    """What the flow is called with, checked before anything is scheduled; paths are made absolute.

    Raises:
        RecipeError: there is no such recipe, or it holds mistakes.
        InputError: it is to be published, and that would be refused; or its models lack prices to keep a cost to.
    """
    path = find(recipe)
    loaded = load(path, overrides)
    permissions = Permissions(
        allow_restricted=bool(further.get("allow_restricted")), public_harmful=bool(further.get("public_harmful"))
    )
    check_asked(loaded.recipe, bool(further.get("publish")), permissions)
    check_cost(loaded.recipe, further.get("max_cost"))
    named = {} if out is None else {"out": str(out.absolute())}
    given = {key: str(value.absolute()) if isinstance(value, Path) else value for key, value in further.items()}
    return {
        "recipe": recipe if path.stem == recipe else str(path.absolute()),
        "overrides": list(overrides),
        "out": str((Path("out") / loaded.recipe.name).absolute()),
        **named,
        **{key: value for key, value in given.items() if value is not None},
    }


def coming(cron: str, timezone: str, count: int = 3, start: datetime | None = None) -> list[datetime]:
    """The next times of a schedule from `start` (now unless given), as Prefect's server computes them.

    Raises:
        InputError: `cron` is no cron line or names no day there is, or there is no such time zone.
    """
    if timezone not in available_timezones():
        raise InputError(f"There is no time zone {timezone!r}. Name one as in Europe/Berlin, or UTC.")
    advice = "Give minute, hour, day, month and weekday, as in '0 3 * * 1' (Mondays at 3)."
    if len(cron.split()) != 5:
        raise InputError(f"--cron {cron!r} is no schedule. {advice}")
    import asyncio

    from prefect.server.schemas.schedules import CronSchedule
    from pydantic import ValidationError

    try:
        schedule = CronSchedule(cron=cron, timezone=timezone)
    except ValidationError:
        raise InputError(f"--cron {cron!r} is no schedule. {advice}") from None
    try:
        times = asyncio.run(schedule.get_dates(count, start))
    except ValueError:
        raise InputError(f"--cron {cron!r} names no day that there is. {advice}") from None
    return [time.astimezone(ZoneInfo(timezone)) for time in times]


def check_server() -> None:
    """Ask Prefect's server whether it is there.

    Raises:
        InputError: no server is set (``PREFECT_API_URL`` or a profile): the one that Prefect starts by itself for a
            flow ends with it, and runs no schedules.
        RecapError: the server doesn't answer.
    """
    from flows.server import check_answers

    if not check_answers():
        raise InputError(
            "A schedule needs a Prefect server. Start one with prefect server start and set "
            "PREFECT_API_URL=http://127.0.0.1:4200/api, or log in to Prefect Cloud with prefect cloud login."
        )


def serve(name: str, cron: str, timezone: str, called_with: dict[str, Any], *, paused: bool = False) -> None:
    """Create the deployment ``recap-data build/<name>`` and run what falls due, until interrupted.

    One run at a time: one that falls due while another runs is cancelled. When this ends, the schedule is paused.
    """
    from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
    from prefect.schedules import Cron
    from prefect.types.entrypoint import EntrypointType

    from flows.build import build_flow

    build_flow.serve(
        name=name,
        schedule=Cron(cron, timezone=timezone),
        parameters=called_with,
        paused=paused,
        global_limit=ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW),
        entrypoint_type=EntrypointType.MODULE_PATH,
        print_starting_message=False,
    )
