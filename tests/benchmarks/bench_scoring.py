"""Scoring rollouts for a trainer, beside the engine alone: python tests/benchmarks/bench_scoring.py [ROUNDS]

2,000 rollouts of about 300 words, with prefill, thinking and answer, are scored for safety against one local guard that
takes 50 ms for each, in one call. The engine's own rate is that of the same requests, made beforehand, put to the
client of one judge: ledger, slots and retries, and nothing read. Both in turns in one process, each with a new ledger,
after a first request. 512 rollouts a call, as a trainer's step may have, are measured as well: between two calls the
slots run dry.

The machine's own speed changes from minute to minute where others use it: judge by the ratios.
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
PEERS = Path(__file__).parent / "peers"
DATA = ROOT.parent / "shared" / "data" / "math" / "gsm8k_train.jsonl"
sys.path.insert(0, str(ROOT))

from pipeline.clients.opening import opened  # noqa: E402
from pipeline.engine import Budget  # noqa: E402
from pipeline.ledger import Ledger  # noqa: E402
from pipeline.trainer.reward_config import SafetyGuard  # noqa: E402
from pipeline.trainer.rewards import RewardsConfig, Rollout, Scorer  # noqa: E402

LATENCY, ROLLOUTS, STEP, FLOOR = 0.05, 2000, 512, 0.9


class Spent(NamedTuple):
    """Seconds on the clock, and of this process's CPU time."""

    seconds: float
    cpu: float


@contextmanager
def guard() -> Iterator[str]:
    """A lean server in a process of its own; its base URL."""
    command = [sys.executable, str(PEERS / "server.py"), "--guard", str(LATENCY)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())[0]
        finally:
            process.kill()


def rollouts(count: int, rng: random.Random) -> list[Rollout]:
    """Distinct ones, from the sentences of GSM8K's training questions."""
    questions = [json.loads(line)["question"] for line in DATA.read_text().splitlines()[:2000]]
    sentences = [sentence.strip(" .") for question in questions for sentence in question.split(". ")]

    def text(length: int) -> str:
        return ". ".join(rng.choices(sentences, k=length)) + "."

    return [
        Rollout(str(n), "harmful", "safety", text(3), f"{text(15)}\n</think>\n\n{text(8)}<|im_end|>", opened=True)
        for n in range(count)
    ]


def scored(config: RewardsConfig, ledger: Path, asked: list[Rollout], size: int) -> Spent:
    """What a scorer takes, `size` rollouts a call, after a first one."""
    with Scorer(config, ledger) as scorer:
        scorer.score(asked[:1])
        began, worked = time.perf_counter(), time.process_time()
        found = [score for start in range(1, len(asked), size) for score in scorer.score(asked[start : start + size])]
        spent = Spent(time.perf_counter() - began, time.process_time() - worked)
    assert len(found) == len(asked) - 1
    assert all(score.value is not None for score in found)
    return spent


def requests(ledger: Path, count: int) -> list[dict[str, Any]]:
    """The bodies of what a scorer asked, as they stand in its ledger."""
    with Ledger(ledger) as kept:
        bodies = [dict(entry.request["body"]) for _, entry in kept.entries()]
    for body in bodies:
        del body["model"]
    return bodies[:count]


def asked_alone(config: SafetyGuard, ledger: Path, bodies: list[dict[str, Any]]) -> Spent:
    """What the engine takes for the same requests, after a first one."""

    async def run() -> Spent:
        async with opened(ledger, Budget()) as clients:
            client = clients.open(config)
            await client.ask(bodies[0], asker="bench")
            began, worked = time.perf_counter(), time.process_time()
            await asyncio.gather(*(client.ask(body, asker="bench") for body in bodies[1:]))
            return Spent(time.perf_counter() - began, time.process_time() - worked)

    return asyncio.run(run())


ALONE, WHOLE, STEPS = "engine alone", "scorer, one call", f"scorer, {STEP} a call"


def main() -> None:
    """Print the rates."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    rng, count = random.Random(0), ROLLOUTS + 1
    spent: dict[str, list[Spent]] = {ALONE: [], WHOLE: [], STEPS: []}
    with guard() as url, tempfile.TemporaryDirectory() as name:
        served = {"engine": "guard", "family": "granite-guardian", "model": "toy", "base_url": url}
        config, alone = RewardsConfig.model_validate({"safety": served}), SafetyGuard.model_validate(served)
        scored(config, Path(name) / "first", rollouts(count, rng), count)
        bodies = requests(Path(name) / "first", count)
        for number in range(rounds):
            for which in (ALONE, WHOLE, STEPS) if number % 2 else (STEPS, WHOLE, ALONE):
                ledger = Path(name) / f"{which} {number}"
                if which == ALONE:
                    spent[which].append(asked_alone(alone, ledger, bodies))
                else:
                    size = count if which == WHOLE else STEP
                    spent[which].append(scored(config, ledger, rollouts(count, rng), size))
    print(f"{ROLLOUTS:,} rollouts, {LATENCY * 1000:.0f} ms each; medians of {rounds} rounds")
    print(f"{'':24}{'a second':>9}{'CPU s / 1,000':>15}")
    for which, each in spent.items():
        seconds, cpu = (statistics.median(column) for column in zip(*each, strict=True))
        print(f"{which:24}{ROLLOUTS / seconds:>9,.0f}{cpu / ROLLOUTS * 1000:>15.2f}")
    share = statistics.median(own.seconds / ours.seconds for own, ours in zip(spent[ALONE], spent[WHOLE], strict=True))
    print(f"scorer / engine, round by round: {share:.2f}; floor {FLOOR}: {'reached' if share >= FLOOR else 'MISSED'}")


if __name__ == "__main__":
    main()
