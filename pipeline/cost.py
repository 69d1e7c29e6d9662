"""What a build's models will be asked and paid, counted before anything is: requests, tokens, money, time.

Counted is what is sure: the rows that want a prefill in the first round, and which of their answers the ledger has.
How many attempts a row takes, and how many rows are rejected for others to take their places, is not known before; so
every figure has a least (one attempt each) and a most (every attempt at every candidate, each answer at its longest).
Faults of a server, after which a request is sent again, are in neither.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import steps, stopping
from pipeline.choice import Choice
from pipeline.clients import TEMPLATE_TOKENS
from pipeline.clients.opening import Clients, opened
from pipeline.clients.tokenizers import NoTokenizer, load
from pipeline.engine import Budget, EngineError, Refused, Tokens
from pipeline.judges import Judge
from pipeline.judges.opening import open_judges
from pipeline.recipe import JudgeConfig, ModelConfig, Prefill, Recipe, RefusalConfig, ServedModel
from pipeline.samplers import PrefillRequest, Sampler
from pipeline.samplers.model import ROOM, ModelSampler
from pipeline.samplers.opening import open_samplers
from pipeline.thinking import RenderingError
from pipeline.words import count_words

C = TypeVar("C")

PROBED = 16
"""Rows that a probe asks."""

TOKENS_PER_WORD = 1.5
"""What a word of English counts where there is no tokenizer: 1.3 with common vocabularies, more with small ones."""

_JUDGE_TOKENS = 400
"""What a judge's template adds to what it judges."""

_JUDGE_BYTES = 6_000
"""The most that a judge's template has, in bytes."""

_BYTES_PER_WORD = 16
"""The most that a word of a prefill has, in bytes, over many words."""

_GUARD_TOKENS = 4_096
"""The most tokens that a guard's answer may have."""

_CHECKS = 2
"""Harmless exchanges that a judge is asked first."""


class Estimate(NamedTuple):
    """What one sampler or judge will be asked for one domain.

    ``requests`` are those of one attempt each that the ledger has no answer to, ``found`` those it has or will have
    from prefills of another length;
    ``prompt_tokens`` and ``completion_tokens`` are of these requests, ``most_requests`` and ``most_cost`` with every
    attempt at every candidate used up, every answer at its longest, and the harmless request that each server is asked
    first; costs are in the currency of the recipe's prices. ``counted`` says
    how tokens were counted: ``tokenizer``, ``estimate``, and ``probe`` where the length of answers was measured.
    ``seconds`` is how long the requests take if the servers are as quick with all that may be in flight as they were
    with the probe; None without one.
    """

    domain: str
    asker: str
    model: str
    requests: int
    found: int
    prompt_tokens: int
    completion_tokens: int
    cost: float
    most_requests: int
    most_cost: float
    counted: str
    seconds: float | None = None


def estimate(recipe: Recipe, work: Path, choice: Choice, ledger: Path, *, probe: bool = False) -> list[Estimate]:
    """Estimate what sampling will take; empty where no model is asked.

    With `probe`, the first rows of each domain are really asked, which is paid; their answers are in the ledger and the
    build will find them there.

    Raises:
        InputError: a sampler or judge can't be asked as the recipe says.
        EngineError: a probe was not answered.
    """
    return stopping.run(_estimate(recipe, work, choice, ledger, probe))


async def _estimate(recipe: Recipe, work: Path, choice: Choice, ledger: Path, probe: bool) -> list[Estimate]:
    arms, listed = dict(choice.arms), list[Estimate]()
    models = {
        arm.prefill.sampler: config
        for arm in arms.values()
        if isinstance(config := recipe.samplers[arm.prefill.sampler], ModelConfig)
    }
    judges = steps.judged(arms, recipe.judges)
    asked: set[bytes] = set()
    used = {prefill.sampler: _direct(recipe.samplers[prefill.sampler]) for _, _, prefill in arms.values()}
    async with opened(ledger, Budget()) as clients:
        samplers = open_samplers(used, clients)
        open_judges(judges, clients)
        for name, (_, domain, prefill) in arms.items():
            sampler = samplers[prefill.sampler]
            if isinstance(sampler, ModelSampler):
                rows = list(_rows(recipe, work, choice, name, prefill))
                every = list(_candidates(recipe, work, choice, domain, prefill))
                model = models[prefill.sampler]
                listed.append(await _of_sampler(domain, prefill, model, sampler, rows, every, clients, asked, probe))
    by_models = {
        name: judged._replace(config=_direct(judged.config))
        for name, judged in judges.items()
        if not isinstance(judged.config, RefusalConfig)
    }
    async with opened(ledger, Budget(requests=0)) as clients:
        samplers = open_samplers(used, clients)
        for name, judge in open_judges(by_models, clients).items():
            _, domain, prefill = arms[name]
            rows = list(_rows(recipe, work, choice, name, prefill))
            every = list(_candidates(recipe, work, choice, domain, prefill))
            found = await _judged(rows, prefill, samplers[prefill.sampler], judge)
            listed.append(_of_judge(domain, prefill, by_models[name].config, rows, every, found))
    order: dict[str, int] = {
        domain: place for place, domain in enumerate(dict.fromkeys(domain for _, domain, _ in arms.values()))
    }
    return sorted(listed, key=lambda line: order[line.domain])


def _direct(config: C) -> C:
    """The same model, asked at once and not in batches."""
    return config.model_copy(update={"batch": False}) if isinstance(config, ServedModel) else config


async def _judged(rows: list[PrefillRequest], prefill: Prefill, sampler: Sampler, judge: Judge) -> int:
    """How many first tries the judge needn't be asked about: nothing is sent, so what is answered is in the ledger."""

    async def needless(row: PrefillRequest) -> bool:
        try:
            await steps.judge_thought(await sampler.sample(row), row, prefill, sampler, judge)
        except Refused:
            return True
        except EngineError:
            return False
        return True

    return sum(await asyncio.gather(*map(needless, rows)))


def _rows(recipe: Recipe, work: Path, choice: Choice, arm: str, prefill: Prefill) -> Iterator[PrefillRequest]:
    for shard, places in enumerate(choice.to_sample(arm)):
        if places:
            table = steps.read_table(work / f"clean/{shard}.arrow").take(pa.array(places, pa.int64()))
            for row in table.to_pylist():
                yield steps.request_of(row, prefill, recipe.seed, 0)


def _candidates(recipe: Recipe, work: Path, choice: Choice, domain: str, prefill: Prefill) -> Iterator[PrefillRequest]:
    """All clean rows of a domain: each may have to take the place of one that is rejected."""
    for shard in range(choice.shards):
        table = steps.read_table(work / f"clean/{shard}.arrow")
        for row in table.filter(pc.equal(table["domain"], domain)).to_pylist():
            yield steps.request_of(row, prefill, recipe.seed, 0)


async def _of_sampler(
    domain: str,
    prefill: Prefill,
    config: ModelConfig,
    sampler: ModelSampler,
    rows: list[PrefillRequest],
    every: list[PrefillRequest],
    clients: Clients,
    asked: set[bytes],
    probe: bool,
) -> Estimate:
    per_word, counted = _tokens_per_word(config, [sampler.prompt_text(row) for row in rows[:PROBED]])
    missing = [row for row in rows if not _has(clients, sampler, row, asked)]
    seconds_each = written = None
    if probe and missing:
        seconds_each, written = await _probe(sampler, missing[:PROBED], per_word)
        missing, counted = missing[PROBED:], f"{counted}, probe"
    each = written or prefill.words * per_word

    prompt = sum(round(count_words(sampler.prompt_text(row)) * per_word) for row in missing)
    completion = round(sum(min(each, sampler.most_tokens(row)) for row in missing))
    tokens, found = Tokens(prompt, completion), len(rows) - len(missing)
    longest = [(_most(sampler.prompt_text(row)), sampler.most_tokens(row)) for row in every]
    most = sum(Tokens(asked, written).cost(config.price) for asked, written in longest)
    first = max((Tokens(asked, max(written, ROOM)).cost(config.price) for asked, written in longest), default=0.0)
    at_once = min(config.in_flight * max(len(config.base_url), 1), max(len(missing), 1))
    seconds = seconds_each * len(missing) / at_once if seconds_each is not None else None
    return Estimate(
        domain=domain,
        asker=sampler.name,
        model=config.model,
        requests=len(missing),
        found=found,
        prompt_tokens=prompt,
        completion_tokens=completion,
        cost=tokens.cost(config.price),
        most_requests=len(every) * prefill.attempts - found + len(set(config.base_url)),
        most_cost=most * prefill.attempts + first * len(set(config.base_url)),
        counted=counted,
        seconds=seconds,
    )


def _has(clients: Clients, sampler: ModelSampler, row: PrefillRequest, asked: set[bytes]) -> bool:
    """Whether nothing has to be sent for a row: the ledger has its answer, or will; or it can't be asked for at all."""
    try:
        key = sampler.key(row)
    except RenderingError:
        return True
    if key in asked or clients.ledger.get(key) is not None:
        return True
    asked.add(key)
    return False


def _most(text: str) -> int:
    """The most tokens that a prompt of this text may have, by a template of usual length."""
    return len(text.encode("utf-8", "surrogatepass")) + TEMPLATE_TOKENS


def _of_judge(
    domain: str,
    prefill: Prefill,
    config: JudgeConfig,
    rows: list[PrefillRequest],
    every: list[PrefillRequest],
    found: int,
) -> Estimate:
    """What a judge will be asked about first tries, but for `found` of them, and at most."""
    assert isinstance(config, ServedModel)
    missing = len(rows) - found
    words = sum(count_words(row.prompt) for row in rows) + prefill.words * len(rows)
    share = missing / len(rows) if rows else 0.0
    answer = int(getattr(config, "max_tokens", _GUARD_TOKENS))
    prompt, completion = round(words * TOKENS_PER_WORD * share) + _JUDGE_TOKENS * missing, answer * missing
    longest = prefill.words * _BYTES_PER_WORD + _JUDGE_BYTES
    most = [Tokens(_most(row.prompt) + longest, answer).cost(config.price) for row in every]
    return Estimate(
        domain=domain,
        asker=config.engine,
        model=config.model,
        requests=missing,
        found=found,
        prompt_tokens=prompt,
        completion_tokens=completion,
        cost=Tokens(prompt, completion).cost(config.price),
        most_requests=len(every) * prefill.attempts - found + _CHECKS * len(set(config.base_url)),
        most_cost=sum(most) * prefill.attempts + max(most, default=0.0) * _CHECKS * len(set(config.base_url)),
        counted="estimate",
    )


def _tokens_per_word(config: ModelConfig, texts: list[str]) -> tuple[float, str]:
    """How many tokens a word of these texts has, and how that is known."""
    words = sum(count_words(text) for text in texts)
    try:
        tokenizer = load(config.tokenizer or config.model, None if config.tokenizer else config.revision)
    except NoTokenizer:
        return TOKENS_PER_WORD, "estimate"
    counted = sum(len(tokenizer.encode(text, add_special_tokens=False)) for text in texts)
    return (counted / words if words else TOKENS_PER_WORD), "tokenizer"


async def _probe(sampler: ModelSampler, rows: list[PrefillRequest], per_word: float) -> tuple[float, float]:
    """Ask for a few rows at once: the seconds until all were answered, and the tokens that an answer has."""
    words: list[int] = []

    async def ask(row: PrefillRequest) -> None:
        try:
            thought = await sampler.sample(row)
        except Refused:
            return
        words.append(count_words(f"{thought.thinking} {thought.answer or ''}"))

    began = time.monotonic()
    await asyncio.gather(*map(ask, rows))
    return time.monotonic() - began, per_word * sum(words) / max(len(words), 1)
