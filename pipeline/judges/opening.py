"""From the recipe's judges to open ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from pipeline.clients.opening import Clients
from pipeline.errors import InputError
from pipeline.judges import Judge, Stance
from pipeline.judges.guard import GuardJudge
from pipeline.judges.refusal import RefusalJudge
from pipeline.judges.rubric import RubricJudge
from pipeline.recipe import GuardConfig, JudgeConfig, RubricConfig


class Judged(NamedTuple):
    """What reads the stance of a domain's prefills, and the stance that it has to find."""

    domain: str
    config: JudgeConfig
    stance: Stance


def open_judges(wanted: Mapping[str, Judged], clients: Clients) -> dict[str, Judge]:
    """The judges by what they are wanted for; those with equal entries share one.

    Raises:
        InputError: one can't be asked as the recipe says, or can't tell the stance that it has to find.
    """
    opened: list[tuple[JudgeConfig, Judge]] = []
    judges = {}
    for name, (domain, config, stance) in wanted.items():
        judge = next((judge for known, judge in opened if known == config), None) or _open(config, clients)
        if stance not in judge.reads:
            raise InputError(
                f"The judge {judge.name} can't tell whether a prefill {stance}, so every {domain} row "
                f"would be dropped: give judges.{domain} one that can (refusal, wildguard, qwen3guard, rubric)."
            )
        opened.append((config, judge))
        judges[name] = judge
    return judges


def _open(config: JudgeConfig, clients: Clients) -> Judge:
    match config:
        case GuardConfig():
            guard = GuardJudge(config, clients.open(config))
            clients.checks.append(guard.check)
            return guard
        case RubricConfig():
            rubric = RubricJudge(config, clients.open(config))
            clients.checks.append(rubric.check)
            return rubric
        case _:
            return RefusalJudge()
