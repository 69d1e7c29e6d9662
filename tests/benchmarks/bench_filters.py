"""Measure the filters on prefills: what they reject that is good, what they find that is bad, and their speed.

Run with ``python tests/benchmarks/bench_filters.py [SHARED_DATA]``. Good prefills are those of the template sampler for
the published prompts, and the thoughts of STAR-1; the answers of models in ``refusal_labels`` and CoCoNot are listed
for the trend only: some do repeat themselves.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import random
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"
sys.path.insert(0, str(ROOT))

from pipeline import templates  # noqa: E402
from pipeline.filters import find_twins, reject_text  # noqa: E402
from pipeline.filters.language import foreign  # noqa: E402
from pipeline.filters.leak import answer_words  # noqa: E402
from pipeline.filters.repetition import loops, repeated_share  # noqa: E402
from pipeline.judges import Stance  # noqa: E402
from pipeline.samplers import PrefillRequest  # noqa: E402
from pipeline.samplers.template import TemplateSampler  # noqa: E402
from pipeline.thinking import Prefix, cut_prefix  # noqa: E402

Pairs = list[tuple[str, str]]
THOUGHTS = json.loads((ROOT / "tests/filters/thoughts.json").read_text(encoding="utf-8"))


def lines(path: Path) -> Iterator[dict[str, str]]:
    """The records of a JSON-lines or CSV file."""
    with path.open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file) if path.suffix == ".csv" else map(json.loads, file)


def published(data: Path) -> list[str]:
    """All published prompts."""
    prompts = [row["question"] for row in json.loads((data / "harmful/STAR-1.json").read_text(encoding="utf-8"))]
    for name, field in (
        ("benign/coconot_pref.jsonl", "prompt"),
        ("math/gsm8k_train.jsonl", "question"),
        ("eval/math500_test.jsonl", "problem"),
        ("eval/strongreject_dataset.csv", "forbidden_prompt"),
        ("eval/xstest_prompts.csv", "prompt"),
    ):
        prompts += [row[field] for row in lines(data / name)]
    return prompts


def templated(prompts: list[str]) -> Pairs:
    """Each prompt with a template prefill, by turns of either stance."""
    stances: tuple[Stance, ...] = ("complies", "refuses")
    sampler = TemplateSampler()

    async def write() -> Pairs:
        asked = [PrefillRequest(str(at), text, None, stances[at % 2], 480, 0, 0) for at, text in enumerate(prompts)]
        return [(request.prompt, (await sampler.sample(request)).thinking) for request in asked]

    return asyncio.run(write())


def sets(data: Path) -> Iterator[tuple[str, Pairs]]:
    """The prompts and texts of each set, up to 500 words."""
    yield "templates", templated(published(data))
    star = json.loads((data / "harmful/STAR-1.json").read_text(encoding="utf-8"))
    yield "STAR-1, thinking", [(row["question"], head(row["response"].split("</think>")[0][7:])) for row in star]
    for path in sorted((data / "refusal_labels").glob("*.csv")):
        model = path.stem.removeprefix("xstest_v2_completions_")
        yield f"{model} (trend)", [(row["prompt"], head(row["completion"])) for row in lines(path)]
    for field in ("chosen", "rejected"):
        rows = lines(data / "benign/coconot_pref.jsonl")
        yield f"CoCoNot, {field} (trend)", [(row["prompt"], head(row[field])) for row in rows]


def head(text: str, words: int = 500) -> str:
    """The first words of a text, with its line breaks."""
    return cut_prefix(text, words).text


def per_second(count: int, run: Callable[[], object]) -> float:
    """How many a second of processor time: the best of three runs."""
    best = float("inf")
    for _ in range(3):
        began = time.process_time()
        run()
        best = min(best, time.process_time() - began)
    return count / best


def languages() -> None:
    """Print how many mismatches of language are found, and how many changes within a thought."""
    mismatched = [
        (prompt, THOUGHTS[other]["thought"])
        for language, other in product(THOUGHTS, repeat=2)
        if language != other
        for prompt in THOUGHTS[language]["prompts"]
    ]
    changing = [
        (
            THOUGHTS[a]["prompts"][0],
            THOUGHTS[a]["thought"] + " " + THOUGHTS[b]["thought"][: len(THOUGHTS[b]["thought"]) // 2],
        )
        for a, b in product(THOUGHTS, repeat=2)
        if a != b
    ]
    for name, pairs in (("another language", mismatched), ("a change of it", changing)):
        found = sum(foreign(text, prompt) is not None for prompt, text in pairs)
        print(f"{name:<28}{found / len(pairs):>9.2%} of {len(pairs)} made cases found")


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="?", type=Path, default=SHARED)
    data = parser.parse_args().data
    steering = [templates.load("steer-overcautious").body]

    began = time.perf_counter()
    foreign(THOUGHTS["en"]["thought"], THOUGHTS["en"]["prompts"][0])
    print(f"{'the language library loads':<28}{time.perf_counter() - began:>9.2f} s")
    languages()

    print(f"\n{'set':<28}{'n':>6}{'rejected':>10}   most repeated; by reason")
    for name, pairs in sets(data):
        reasons = Counter(
            reject_text(Prefix(text, 500, True), 0, prompt=asked, steering=steering) for asked, text in pairs
        )
        passed = reasons.pop(None, 0)
        most = max(repeated_share(text, asked) for asked, text in pairs)
        print(f"{name:<28}{len(pairs):>6}{1 - passed / len(pairs):>10.2%}   {most:.2f}; {dict(reasons)}")
    star = json.loads((data / "harmful/STAR-1.json").read_text(encoding="utf-8"))
    split = [row["response"].removeprefix("<think>").split("</think>") for row in star]
    drafted = sum(answer_words(head(thought), answer) is not None for thought, answer in split)
    print(f"{'STAR-1, drafts its answer':<28}{len(split):>6}{drafted / len(split):>10.2%}")

    words = [word for thought, _ in split for word in thought.split(" ")]
    texts = [" ".join(words[at : at + 480]) for at in range(0, len(words) - 480, 480)]
    asked, answer = star[0]["question"], star[0]["response"].split("</think>")[1]
    print(f"\n{len(texts)} prefills of 480 words, a second and core:")
    for name, rule in (
        ("language", lambda text: foreign(text, asked)),
        ("repetition", lambda text: loops(text, asked)),
        (
            "all",
            lambda text: reject_text(Prefix(text, 480, True), 50, prompt=asked, steering=steering, answer=answer),
        ),
    ):
        rate = per_second(len(texts), lambda rule=rule: [rule(text) for text in texts])  # type: ignore[misc]
        print(f"  {name:<26}{rate:>9,.0f}")

    rng = random.Random(0)
    many = [" ".join(rng.choices(words, k=400)) for _ in range(5000)]
    many += [text.replace(" the ", " a ", 3) for text in many[:500]]
    ids = [str(row) for row in range(len(many))]
    rate = per_second(len(many), lambda: find_twins(many, ids))
    tracemalloc.start()
    found = find_twins(many, ids)
    peak = tracemalloc.get_traced_memory()[1] / len(many)
    print(f"  {'twins, of 400 words':<26}{rate:>9,.0f}, at most {peak:,.0f} bytes each; {len(found)} of 500 found")


if __name__ == "__main__":
    main()
