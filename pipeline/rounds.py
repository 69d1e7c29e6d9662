"""Rounds of sampling: until every row that carries a prefill has one, or there is nobody left to take its place.

A row whose every attempt was rejected leaves the mixture, and the next candidate is sampled in the next round. So is,
from its next attempt on, a row whose prefill turns out to be a near-duplicate of another's.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from pipeline import steps
from pipeline.choice import Choice
from pipeline.filters import TWIN
from pipeline.recipe import ModelConfig, Prefill, Recipe
from pipeline.runner import Runner


class Means(NamedTuple):
    """What sampling works with: the ledger, and the requests and the cost that it may not exceed (None: any).

    With ``wait`` False, it ends as soon as requests are in batches of a batch API.
    """

    ledger: Path
    max_requests: int | None = None
    max_cost: float | None = None
    wait: bool = True


class Rounds(NamedTuple):
    """What sampling came to.

    ``dropped`` counts the rows that left the mixture, by domain and reason; ``attempts`` has an entry for each domain
    and number of attempt: ``domain``, ``attempt``, ``tried``, ``accepted`` and ``rejected`` (by reason); ``probes``
    says how each sampler's servers were seen to go on from a prefill.
    """

    dropped: dict[str, Counter[str]]
    attempts: list[dict[str, Any]]
    probes: dict[str, str]


def prefills_of(recipe: Recipe) -> dict[str, Prefill]:
    """The prefills of the domains that have any."""
    return {domain: part.prefill for domain, part in recipe.mixture.items() if part.prefill is not None}


def sample_rounds(recipe: Recipe, work: Path, choice: Choice, runner: Runner, means: Means) -> Rounds:
    """Sample, round after round, until `choice` wants no more. Raises like `pipeline.build.build`."""
    prefills = prefills_of(recipe)
    sampling = steps.Sampling(recipe.seed, prefills, recipe.samplers, recipe.judges, *means)
    models = {d for d, prefill in prefills.items() if isinstance(recipe.samplers[prefill.sampler], ModelConfig)}
    judged = any(recipe.judges.of(domain).engine != "refusal" for domain in prefills)
    rounds = Rounds({domain: Counter() for domain in prefills}, [], {})
    tries: dict[str, Counter[tuple[int, str]]] = {domain: Counter() for domain in prefills}
    again: dict[tuple[str, int, int], int] = {}
    turn = 0
    while shards := _wanted(choice, again):
        together = bool(models) or judged
        groups = [shards] if together else [{shard: wanted} for shard, wanted in shards.items()]
        sizes = [sum(len(rows) for wanted in group.values() for rows in wanted.values()) for group in groups]
        jobs = [(work, turn, group, sampling) for group in groups]
        outcomes: dict[int, steps.Sampled] = {}
        for sampled, spent in runner.map("sample", steps.sample, jobs, sizes, live=together):
            outcomes |= sampled
            sampling = sampling.less(spent)
            rounds.probes.update(spent.probes)
        twins = _twins(work, turn, sorted(models), list(shards), runner)
        for shard, outcome in outcomes.items():
            for domain, wanted in shards[shard].items():
                tries[domain].update(outcome.tries[domain])
                given_up, open_again = outcome.given_up[domain], set()
                for row, attempt in twins.get((shard, domain), {}).items():
                    tries[domain][attempt, steps.ACCEPTED] -= 1
                    tries[domain][attempt, TWIN] += 1
                    if attempt + 1 < prefills[domain].attempts:
                        again[domain, shard, row] = attempt + 1
                        open_again.add(row)
                    else:
                        given_up[row] = TWIN
                done = [row for row in wanted if row not in open_again]
                choice.domains[domain].sampled(
                    choice.places(domain, shard, done), choice.places(domain, shard, list(given_up))
                )
                rounds.dropped[domain].update(given_up.values())
        turn += 1
    for domain, counted in tries.items():
        rounds.attempts.extend(_by_attempt(domain, counted))
    return rounds


def _wanted(choice: Choice, again: dict[tuple[str, int, int], int]) -> dict[int, steps.Wanted]:
    """The rows that want a prefill, by shard and domain, with the first attempt at each."""
    shards: dict[int, steps.Wanted] = {}
    for domain, selection in choice.domains.items():
        for shard, rows in enumerate(choice.by_shard(domain, selection.to_sample())):
            if rows:
                shards.setdefault(shard, {})[domain] = {row: again.get((domain, shard, row), 0) for row in rows}
    return dict(sorted(shards.items()))


def _twins(
    work: Path, turn: int, domains: list[str], shards: list[int], runner: Runner
) -> dict[tuple[int, str], dict[int, int]]:
    """Rows of a round whose prefill is a near-duplicate, by shard and domain, with the attempt that gave it."""
    if not domains:
        return {}
    (found,) = runner.map("twins", steps.drop_twins, [(work, turn, domains, shards)])
    return found


def _by_attempt(domain: str, counted: Counter[tuple[int, str]]) -> list[dict[str, Any]]:
    listed = []
    for attempt in sorted({attempt for attempt, _ in counted}):
        reasons = {why: n for (number, why), n in sorted(counted.items()) if number == attempt and n}
        listed.append(
            {
                "domain": domain,
                "attempt": attempt,
                "tried": sum(reasons.values()),
                "accepted": reasons.pop(steps.ACCEPTED, 0),
                "rejected": reasons,
            }
        )
    return listed
