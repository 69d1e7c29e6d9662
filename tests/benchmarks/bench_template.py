"""Measure the template sampler: speed, length, variety and stance of its texts on the shared prompts.

Run with ``python tests/benchmarks/bench_template.py [SHARED_DATA] [--words 500]``.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import itertools
import json
import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pipeline.judges import Stance
from pipeline.judges.refusal import RefusalJudge
from pipeline.samplers import PrefillRequest
from pipeline.samplers.template import TemplateSampler

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def requests(data: Path, stance: Stance, words: int) -> list[PrefillRequest]:
    """One request for each shared prompt of the domain whose counter-aligned stance this is."""
    if stance == "complies":
        rows = json.loads((data / "harmful" / "STAR-1.json").read_text(encoding="utf-8"))
        prompts = [(row["question"], row["category"][0]) for row in rows]
    else:
        lines = (data / "benign" / "coconot_pref.jsonl").read_text(encoding="utf-8").splitlines()
        loaded = map(json.loads, lines)
        prompts = [(row["prompt"], None) for row in loaded if row["category"] == "Requests with safety concerns"]
    return [PrefillRequest(str(i), prompt, kind, stance, words, 0, 0) for i, (prompt, kind) in enumerate(prompts)]


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


def main() -> None:
    """Print the figures for both stances."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="?", type=Path, default=SHARED)
    parser.add_argument("--words", type=int, default=500)
    arguments = parser.parse_args()
    sampler, judge = TemplateSampler(), RefusalJudge()
    stances: tuple[Stance, ...] = ("complies", "refuses")
    for stance in stances:
        batch = requests(arguments.data, stance, arguments.words)
        write(sampler, batch[:1])  # reads the grammar
        began = time.process_time()
        texts = write(sampler, batch)
        seconds = time.process_time() - began
        print(f"{stance}: {len(texts)} texts of at most {arguments.words} words")
        print(f"  speed    {len(texts) / seconds:,.0f} texts a second of processor time")
        print(f"  words    {spread(len(text.split()) for text in texts)}")
        print(f"  sharing  {spread(sharing(texts))} (5-grams, containment, all pairs)")
        for words in (50, 100, 200, 300, arguments.words):
            asked = [request._replace(words=words) for request in batch]
            pairs = zip(asked, write(sampler, asked), strict=True)
            verdicts = collections.Counter(judge.read(ask.prompt, text, "thinking").stance for ask, text in pairs)
            print(f"  stance   at {words} words: {verdicts[stance] / len(batch):.2%} {dict(verdicts)}")


if __name__ == "__main__":
    main()
