"""The whole build with the template sampler: rows a second, peak memory, and how long the bundled recipe takes.

    python tests/benchmarks/bench_build.py                    # 100,000 prompts
    python tests/benchmarks/bench_build.py --rows 1000000     # the memory of ten times as many

Prompts are made from the sentences of GSM8K's training questions (../shared/data); half of the rows carry a prefill of
500 words. Each build is a process of its own, timed from start to end; memory is the peak resident set of that process
(pages of mapped files among it). Floors: 1,000 rows/s; at 1,000,000 prompts at most 3 times the memory of 100,000 and
under 4 GiB; bundled recipe under 6 s, its repeat under 2.5 s, --help under 0.4 s.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

DATA = Path(__file__).parents[3] / "shared" / "data" / "math" / "gsm8k_train.jsonl"

RECIPE = """
name: bench
sources: {harmful: [{files: prompts.jsonl, prompt: q}]}
samplers: {template: {engine: template}}
mixture: {harmful: {rows: %d, prefill: {sampler: template, share: 0.5, words: 500}}}
"""


def make_prompts(path: Path, rows: int) -> None:
    """Write `rows` distinct prompts of four sentences each."""
    questions = [json.loads(line)["question"] for line in DATA.read_text().splitlines()]
    sentences = [sentence.strip(" .") for question in questions for sentence in question.split(". ")]
    rng = random.Random(0)
    with path.open("w") as file:
        for _ in range(rows):
            file.write(json.dumps({"q": ". ".join(rng.sample(sentences, 4)) + "."}) + "\n")


def run(*command: str, folder: Path) -> tuple[float, float, str]:
    """Seconds, peak resident set in MiB, and what was printed."""
    began = time.perf_counter()
    with tempfile.TemporaryFile("w+") as printed:
        process = subprocess.Popen(command, cwd=folder, stdout=printed, stderr=printed)
        _, status, usage = os.wait4(process.pid, 0)
        printed.seek(0)
        text = printed.read()
    if status:
        raise SystemExit(text)
    return time.perf_counter() - began, usage.ru_maxrss / 1024, text


def build(rows: int, folder: Path, workers: int) -> float:
    """Build `rows` prompts and print the figures. Returns the peak memory in MiB."""
    folder.mkdir()
    make_prompts(folder / "prompts.jsonl", rows)
    (folder / "bench.yaml").write_text(RECIPE % rows)
    command = [sys.executable, "-m", "pipeline.cli", "build", "bench.yaml", "--allow-short", "--workers", str(workers)]
    seconds, peak, text = run(*command, folder=folder)
    print(f"{rows:>9,} prompts: {seconds:7.1f} s, {rows / seconds:7,.0f} rows/s, peak {peak:6,.0f} MiB")
    print("".join(f"            {line}\n" for line in text.splitlines() if line.endswith(" s")), end="")
    again, _, _ = run(*command, folder=folder)
    print(f"            unchanged: {again:.1f} s")
    return peak


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, command = Path(name), (sys.executable, "-m", "pipeline.cli")
        helps = [run(*command, "--help", folder=folder)[0] for _ in range(9)]
        print(f"--help: {statistics.median(helps):.2f} s (worst {max(helps):.2f} s of {len(helps)})")
        demo = [run(*command, "build", "--out", f"demo{i}", folder=folder)[0] for i in range(3)]
        repeat = [run(*command, "build", "--out", "demo0", folder=folder)[0] for _ in range(3)]
        print(f"bundled recipe: {statistics.median(demo):.2f} s, repeated: {statistics.median(repeat):.2f} s")
        base = build(100_000, folder / "base", options.workers)
        if options.rows != 100_000:
            peak = build(options.rows, folder / "more", options.workers)
            print(f"memory: {peak / base:.2f} times that of 100,000 prompts")


if __name__ == "__main__":
    main()
