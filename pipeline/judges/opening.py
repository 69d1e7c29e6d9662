"""From the recipe's judges to open ones."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.clients.opening import Clients
from pipeline.judges import Judge
from pipeline.judges.refusal import RefusalJudge
from pipeline.recipe import GuardConfig, JudgeConfig, RubricConfig


def open_judges(configs: Mapping[str, JudgeConfig], clients: Clients) -> dict[str, Judge]:
    """The judge of each domain; those with equal entries share one.

    Raises:
        InputError: one can't be asked as the recipe says.
    """
    opened: list[tuple[JudgeConfig, Judge]] = []
    judges = {}
    for domain, config in configs.items():
        judge = next((judge for known, judge in opened if known == config), None) or _open(config, clients)
        opened.append((config, judge))
        judges[domain] = judge
    return judges


def _open(config: JudgeConfig, clients: Clients) -> Judge:
    match config:
        case GuardConfig():
            from pipeline.judges.guard import GuardJudge

            guard = GuardJudge(config, clients.open(config))
            clients.checks.append(guard.check)
            return guard
        case RubricConfig():
            from pipeline.judges.rubric import RubricJudge

            rubric = RubricJudge(config, clients.open(config))
            clients.checks.append(rubric.check)
            return rubric
        case _:
            return RefusalJudge()
