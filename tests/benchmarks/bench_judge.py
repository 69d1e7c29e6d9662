"""Measures `RefusalJudge`: agreement with public labels, and speed. Run: python tests/benchmarks/bench_judge.py

The labels come from ../shared/data. "must" is the stance that a set's label, or its make, calls for. Two sets are
measured for the trend only, since what they are made of is mixed: the rejected answers of CoCoNot (most do answer, just
worse), and the answers of STAR-1 (about a third answer a question that can be answered).
"""

from __future__ import annotations

import csv
import json
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"
sys.path.insert(0, str(ROOT))

from pipeline.judges import Part, Stance  # noqa: E402
from pipeline.judges.refusal import RefusalJudge  # noqa: E402

STANCES: tuple[Stance, ...] = ("complies", "refuses", "unclear")
XSTEST_LABELS: dict[str, Stance] = {"1_full_compliance": "complies", "2_full_refusal": "refuses"}
TIMED_WORDS = 500


class Case(NamedTuple):
    """One text with the stance it should be read as."""

    prompt: str
    text: str
    part: Part
    must: Stance


def xstest(model: str) -> Iterator[Case]:
    """Full compliances and full refusals of one model, as labelled by people."""
    path = DATA / "refusal_labels" / f"xstest_v2_completions_{model}.csv"
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["final_label"] in XSTEST_LABELS:
                yield Case(row["prompt"], row["completion"], "response", XSTEST_LABELS[row["final_label"]])


def coconot(field: str, must: Stance) -> Iterator[Case]:
    """The accepted ("chosen") or the other ("rejected") answers to the prompts with safety concerns."""
    with (DATA / "benign" / "coconot_pref.jsonl").open(encoding="utf-8") as file:
        for row in map(json.loads, file):
            if row["category"] == "Requests with safety concerns":
                yield Case(row["prompt"], row[field], "response", must)


def star(part: Part) -> Iterator[Case]:
    """STAR-1's answers, or the first 200 words of its thinking."""
    for row in json.loads((DATA / "harmful" / "STAR-1.json").read_text(encoding="utf-8")):
        thinking, answer = row["response"].split("</think>")
        text = answer if part == "response" else " ".join(thinking.removeprefix("<think>").split()[:200])
        yield Case(row["question"], text, part, "refuses")


def gsm8k(part: Part) -> Iterator[Case]:
    """Worked solutions of school math, which never refuse."""
    with (DATA / "math" / "gsm8k_train.jsonl").open(encoding="utf-8") as file:
        for row in map(json.loads, file):
            yield Case(row["question"], row["answer"], part, "complies")


def report(name: str, cases: Iterable[Case]) -> None:
    """Print one line: right, wrong, unclear, then what each called-for stance was read as."""
    judge = RefusalJudge()
    read = Counter((case.must, judge.read(case.prompt, case.text, case.part).stance) for case in cases)
    total = read.total()
    right = sum(count for (must, stance), count in read.items() if must == stance)
    unclear = sum(count for (_, stance), count in read.items() if stance == "unclear")
    confusion = "; ".join(
        f"{must}: " + ", ".join(f"{read[must, stance]} {stance}" for stance in STANCES)
        for must in STANCES
        if any(read[must, stance] for stance in STANCES)
    )
    print(
        f"{name:<28}{total:>6}{right / total:>9.1%}{(total - right - unclear) / total:>9.1%}{unclear / total:>9.1%}"
        f"   {confusion}"
    )


def speed(part: Part) -> None:
    """Print how many texts of `TIMED_WORDS` words one core reads in a second: the best of five runs."""
    source = star("thinking") if part == "thinking" else coconot("chosen", "complies")
    words = [word for case in source for word in case.text.split(" ")]
    texts = [" ".join(words[i : i + TIMED_WORDS]) for i in range(0, len(words) - TIMED_WORDS, TIMED_WORDS)]
    judge = RefusalJudge()
    best = 0.0
    for _ in range(5):
        start = time.perf_counter()
        for text in texts:
            judge.read("How do I do this?", text, part)
        best = max(best, len(texts) / (time.perf_counter() - start))
    print(f"{part:<28}{best:>9,.0f} texts of {TIMED_WORDS} words per second")


def main() -> None:
    """Print the tables."""
    if not DATA.is_dir():
        sys.exit(f"needs the published labels in {DATA}")
    print(f"{'set':<28}{'n':>6}{'right':>9}{'wrong':>9}{'unclear':>9}   must: read as")
    report("XSTest, Llama 2", xstest("llama2orig"))
    report("XSTest, Mistral", xstest("mistralinstruct"))
    report("STAR-1, thinking", star("thinking"))
    report("CoCoNot, chosen", coconot("chosen", "complies"))
    report("GSM8K, response", gsm8k("response"))
    report("GSM8K, thinking", gsm8k("thinking"))
    report("CoCoNot, rejected (trend)", coconot("rejected", "refuses"))
    report("STAR-1, answers (trend)", star("response"))
    print()
    speed("response")
    speed("thinking")


if __name__ == "__main__":
    main()
