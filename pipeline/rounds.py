"""Rounds of sampling: until every row that carries a prefill has one, or there is nobody left to take its place.

A row whose every attempt was rejected leaves the mixture, and the next candidate is sampled in the next round. So is,
from its next attempt on, a row whose prefill turns out to be a near-duplicate of another's.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from pipeline import steps
from pipeline.budget import Run, Used
from pipeline.choice import Choice
from pipeline.filters import TWIN
from pipeline.recipe import Arm, ModelConfig, Recipe
from pipeline.runner import Runner


class Means(NamedTuple):
    """What sampling works with: the ledger, and the requests and the cost that it may not exceed (None: any).

    With ``wait`` False, it ends as soon as requests are in batches of a batch API. What the `run` has spent before is
    in the ledger.
    """

    ledger: Path
    max_requests: int | None = None
    max_cost: float | None = None
    wait: bool = True
    run: Run | None = None


class Rounds(NamedTuple):
    """What sampling came to.

    ``dropped`` counts the rows that left the mixture, by domain and reason; ``attempts`` has an entry for each arm
    and number of attempt: ``domain``, ``sampler``, ``words``, ``stance``, ``attempt``, ``tried``, ``accepted`` and
    ``rejected`` (by reason); ``probes`` says how each sampler's servers were seen to go on from a prefill;
    ``used`` are the answers that the rows were made with, by who asked, whenever they were paid; ``requests`` were sent
    in the run, and ``cost`` is what was asked for, by the recipe's prices.
    """

    dropped: dict[str, Counter[str]]
    attempts: list[dict[str, Any]]
    probes: dict[str, str]
    used: dict[str, Used]
    requests: int = 0
    cost: float = 0.0


def sample_rounds(recipe: Recipe, work: Path, choice: Choice, runner: Runner, means: Means) -> Rounds:
    """Sample, round after round, until `choice` wants no more. Raises like `pipeline.build.build`."""
    arms = dict(choice.arms)
    sampling = steps.Sampling(recipe.seed, arms, recipe.samplers, recipe.judges, *means)
    models = {n for n, arm in arms.items() if isinstance(recipe.samplers[arm.prefill.sampler], ModelConfig)}
    judged = any(by.config.engine != "refusal" for by in steps.judged(arms, recipe.judges).values())
    rounds = Rounds({arm.domain: Counter() for arm in arms.values()}, [], {}, {})
    tries: dict[str, steps.Tries] = {name: Counter() for name in arms}
    again: dict[tuple[str, int, int], int] = {}
    turn = 0
    while shards := _wanted(choice, again):
        together = bool(models) or judged
        groups = [shards] if together else [{shard: wanted} for shard, wanted in shards.items()]
        sizes = [sum(len(rows) for wanted in group.values() for rows in wanted.values()) for group in groups]
        sampling = sampling._replace(tries={name: Counter(counted) for name, counted in tries.items()})
        jobs = [(work, turn, group, sampling) for group in groups]
        outcomes: dict[int, steps.Sampled] = {}
        for sampled, spent in runner.map("sample", steps.sample, jobs, sizes, live=together):
            outcomes |= sampled
            sampling = sampling.after(spent)
            rounds.probes.update(spent.probes)
            for asker, used in spent.used.items():
                rounds.used[asker] = rounds.used.get(asker, Used()).plus(used)
            rounds = rounds._replace(requests=spent.requests, cost=spent.cost)
        twins = _twins(work, turn, sorted(models), list(shards), runner)
        for shard, outcome in outcomes.items():
            for arm, wanted in shards[shard].items():
                tries[arm].update(outcome.tries[arm])
                given_up, open_again = outcome.given_up[arm], set()
                for row, attempt in twins.get((shard, arm), {}).items():
                    tries[arm][attempt, steps.ACCEPTED] -= 1
                    tries[arm][attempt, TWIN] += 1
                    if attempt + 1 < arms[arm].prefill.attempts:
                        again[arm, shard, row] = attempt + 1
                        open_again.add(row)
                    else:
                        given_up[row] = TWIN
                done = [row for row in wanted if row not in open_again]
                rounds.dropped[arms[arm].domain].update(choice.sampled(arm, shard, done, given_up))
        turn += 1
    for name, counted in tries.items():
        rounds.attempts.extend(_by_attempt(arms[name], counted))
    return rounds


def _wanted(choice: Choice, again: dict[tuple[str, int, int], int]) -> dict[int, steps.Wanted]:
    """The rows that want a prefill, by shard and arm, with the first attempt at each."""
    shards: dict[int, steps.Wanted] = {}
    for arm in choice.arms:
        for shard, rows in enumerate(choice.to_sample(arm)):
            if rows:
                shards.setdefault(shard, {})[arm] = {row: again.get((arm, shard, row), 0) for row in rows}
    return dict(sorted(shards.items()))


def _twins(
    work: Path, turn: int, arms: list[str], shards: list[int], runner: Runner
) -> dict[tuple[int, str], dict[int, int]]:
    """Rows of a round whose prefill is a near-duplicate, by shard and arm, with the attempt that gave it."""
    if not arms:
        return {}
    (found,) = runner.map("twins", steps.drop_twins, [(work, turn, arms, shards)])
    return found


def _by_attempt(arm: Arm, counted: Counter[tuple[int, str]]) -> list[dict[str, Any]]:
    listed = []
    for attempt in sorted({attempt for attempt, _ in counted}):
        reasons = {why: n for (number, why), n in sorted(counted.items()) if number == attempt and n}
        listed.append(
            {
                "domain": arm.domain,
                "sampler": arm.prefill.sampler,
                "words": arm.prefill.words,
                "stance": arm.prefill.stance,
                "attempt": attempt,
                "tried": sum(reasons.values()),
                "accepted": reasons.pop(steps.ACCEPTED, 0),
                "rejected": reasons,
            }
        )
    return listed
