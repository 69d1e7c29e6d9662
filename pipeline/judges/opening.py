"""From the recipe's judges to open ones."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.clients.opening import Clients
from pipeline.errors import InputError
from pipeline.judges import COUNTER_ALIGNED, Judge
from pipeline.judges.guard import GuardJudge
from pipeline.judges.refusal import RefusalJudge
from pipeline.judges.rubric import RubricJudge
from pipeline.recipe import GuardConfig, JudgeConfig, RubricConfig


def open_judges(configs: Mapping[str, JudgeConfig], clients: Clients) -> dict[str, Judge]:
    """The judge of each domain; those with equal entries share one.

    Raises:
        InputError: one can't be asked as the recipe says, or can't tell the stance that its domain wants.
    """
    opened: list[tuple[JudgeConfig, Judge]] = []
    judges = {}
    for domain, config in configs.items():
        judge = next((judge for known, judge in opened if known == config), None) or _open(config, clients)
        if COUNTER_ALIGNED[domain] not in judge.reads:
            raise InputError(
                f"The judge {judge.name} can't tell whether a prefill {COUNTER_ALIGNED[domain]}, so every {domain} row "
                f"would be dropped: give judges.{domain} one that can (refusal, wildguard, qwen3guard, rubric)."
            )
        opened.append((config, judge))
        judges[domain] = judge
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
