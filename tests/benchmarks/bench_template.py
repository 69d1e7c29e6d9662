"""Measure the template sampler: speed, length, variety and stance of its texts on the shared prompts.

Run with ``python tests/benchmarks/bench_template.py [SHARED_DATA] [--words 500]``. With ``--read`` it prints 30 texts
of each source instead, drawn by a fixed seed, for reading by hand; those on harmful prompts only with ``--harmful``.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import csv
import itertools
import json
import random
import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pipeline.judges import Stance
from pipeline.judges.refusal import RefusalJudge
from pipeline.samplers import PrefillRequest, Unwritable
from pipeline.samplers.template import TemplateSampler
from pipeline.thinking import cut_prefix

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


SEED = 7
LENGTHS = (40, 60, 100, 200)


def prompts_of(data: Path) -> dict[str, list[str]]:
    """The shared prompts by source; STAR-1 is the harmful one."""
    star = [row["question"] for row in json.loads((data / "harmful" / "STAR-1.json").read_text(encoding="utf-8"))]
    lines = (data / "benign" / "coconot_pref.jsonl").read_text(encoding="utf-8").splitlines()
    with (data / "eval" / "xstest_prompts.csv").open(encoding="utf-8", newline="") as file:
        xstest = [row["prompt"] for row in csv.DictReader(file)]
    return {"STAR-1": star, "CoCoNot": [json.loads(line)["prompt"] for line in lines], "XSTest": xstest}


def requests(prompts: Sequence[str], stance: Stance, words: int) -> list[PrefillRequest]:
    """One request for each prompt."""
    return [PrefillRequest(str(i), prompt, None, stance, words, 0, 0) for i, prompt in enumerate(prompts)]


def sharing(texts: Sequence[str]) -> Iterator[float]:
    """For each pair of texts the share of the smaller one's word 5-grams that the other has too."""
    grams = [{*zip(*(text.split()[i:] for i in range(5)), strict=False)} for text in texts]
    seen: dict[tuple[str, ...], list[int]] = collections.defaultdict(list)
    for i, mine in enumerate(grams):
        common = collections.Counter(itertools.chain.from_iterable(seen[gram] for gram in mine))
        yield from (common[j] / max(1, min(len(mine), len(grams[j]))) for j in range(i))
        for gram in mine:
            seen[gram].append(i)


def spread(values: Iterable[float]) -> str:
    """Minimum, median and maximum in a line."""
    ordered = sorted(values)
    return f"min {ordered[0]:.4g}, median {statistics.median(ordered):.4g}, max {ordered[-1]:.4g}"


def write(sampler: TemplateSampler, asked: Sequence[PrefillRequest]) -> list[str]:
    """The text of each request, in order."""

    async def texts() -> list[str]:
        return [(await sampler.sample(request)).thinking for request in asked]

    return asyncio.run(texts())


def writable(sampler: TemplateSampler, prompts: Sequence[str]) -> list[str]:
    """The prompts that the sampler doesn't refuse."""

    async def kept() -> list[str]:
        found = []
        for request in requests(prompts, "complies", 30):
            try:
                await sampler.sample(request)
            except Unwritable as why:
                print(f"  refused  {why}")
            else:
                found.append(request.prompt)
        return found

    return asyncio.run(kept())


def read(sources: dict[str, list[str]], words: int, *, harmful: bool) -> None:
    """Print 30 prompts of each source with the text on each, stances in turn."""
    sampler = TemplateSampler()
    for source, prompts in sources.items():
        if source == "STAR-1" and not harmful:
            print("STAR-1: harmful prompts are printed with --harmful only")
            continue
        for number, prompt in enumerate(random.Random(SEED).sample(prompts, 30), 1):
            stance: Stance = "complies" if number % 2 else "refuses"
            (text,) = write(sampler, requests([prompt], stance, words))
            print(f"--- {source} {number}, {stance}: {prompt}\n\n{text}\n")


def measure(sources: dict[str, list[str]], words: int) -> None:
    """Print the figures of both stances for each source."""
    sampler, judge = TemplateSampler(), RefusalJudge()
    stances: tuple[Stance, ...] = ("complies", "refuses")
    for (source, prompts), stance in itertools.product(sources.items(), stances):
        print(f"{source}, {stance}: {len(prompts)} prompts, texts of at most {words} words")
        batch = requests(writable(sampler, prompts), stance, words)
        began = time.process_time()
        texts = write(sampler, batch)
        seconds = time.process_time() - began
        print(f"  speed    {len(texts) / seconds:,.0f} texts a second of processor time")
        print(f"  words    {spread(len(text.split()) for text in texts)}")
        print(f"  sharing  {spread(sharing(texts))} (5-grams, containment, all pairs)")
        for length in (*LENGTHS, words):
            asked = [request._replace(words=length) for request in batch]
            shares = []
            for heads in (write(sampler, asked), [cut_prefix(text, length).text for text in texts]):
                pairs = zip(asked, heads, strict=True)
                verdicts = [judge.read(ask.prompt, text, "thinking").stance for ask, text in pairs]
                shares.append(verdicts.count(stance) / len(batch))
            print(f"  stance   at {length} words: {shares[0]:.2%} written at that length, {shares[1]:.2%} cut to it")


def main() -> None:
    """Print figures, or texts to read."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="?", type=Path, default=SHARED)
    parser.add_argument("--words", type=int, default=500)
    parser.add_argument("--read", action="store_true", help="print 30 texts of each source")
    parser.add_argument("--harmful", action="store_true", help="with --read: those on harmful prompts too")
    arguments = parser.parse_args()
    sources = prompts_of(arguments.data)
    if arguments.read:
        read(sources, arguments.words, harmful=arguments.harmful)
    else:
        measure(sources, arguments.words)


if __name__ == "__main__":
    main()
