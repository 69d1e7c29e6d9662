"""Measures `RefusalJudge`: agreement with public labels, and speed. Run: python tests/benchmarks/bench_judge.py

The labels come from ../shared/data. "must" is the stance that a set's label, or its make, calls for; "evades" is an
answer that gives no help and says no refusal, right where it is read as anything but complying. One table is of sets
that the cues were written with (seen), the other of those that were not looked at (unseen): a figure of the first says
how well the cues fit, one of the second what to expect. Sets are never split by row. No thinking that is labelled
and was not looked at is among the published sets here: what the table says of thinking is how well the cues fit.

Last, the complying thoughts are replayed through whole builds into either domain: what is accepted as benign would be
published as refusing.

Three sets are measured for the trend only, since what they are made of is mixed: the rejected answers of CoCoNot (most
do answer, just worse), and the answers and thinking of STAR-1 whose answer does not open as a refusal (many answer a
question that can be answered).
"""

from __future__ import annotations

import csv
import json
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"
sys.path.insert(0, str(ROOT))

from pipeline.judges import Part, Stance  # noqa: E402
from pipeline.judges.refusal import RefusalJudge  # noqa: E402
from tests.judges.replay import replay  # noqa: E402

STANCES: tuple[Stance, ...] = ("complies", "refuses", "unclear")
XSTEST_LABELS: dict[str, Stance] = {"1_full_compliance": "complies", "2_full_refusal": "refuses"}
REFUSAL = re.compile(
    r"(?:i'm (?:really )?sorry, but )?i (?:can't|cannot|won't)|i'm (?:sorry, but i'm )?unable", re.IGNORECASE
)
ECHOES = (
    "I cannot {}.",
    "I can't {}.",
    "I'm sorry, but I cannot {}.",
    "I will not {}.",
    "Sorry, I can\u2019t help you {}.",
)
TIMED_WORDS = 500
WHOLE = 1_000_000


class Case(NamedTuple):
    """One text with the stance it should be read as."""

    prompt: str
    text: str
    part: Part
    must: Stance | Literal["evades"]


def rows(name: str) -> Iterator[dict[str, Any]]:
    """The rows of a file of the shared data: CSV, JSON or JSON Lines."""
    path = DATA / name
    with path.open(encoding="utf-8", newline="") as file:
        if path.suffix == ".csv":
            yield from csv.DictReader(file)
        elif path.suffix == ".json":
            yield from json.load(file)
        else:
            yield from map(json.loads, file)


def head(text: str, words: int) -> str:
    """The first words of a text, with single spaces."""
    return " ".join(text.split()[:words])


def complying_thinking(words: int) -> Iterator[Case]:
    """Heads of a model's thinking whose answers were judged harmful."""
    for row in rows("thinking_heads/r1_distill_qwen_7b_complying.jsonl"):
        yield Case(row["prompt"], head(row["head"], words), "thinking", "complies")


def star(part: Part, words: int, *, refusing: bool) -> Iterator[Case]:
    """STAR-1's answers, or the first words of its thinking: where the answer opens as a refusal does, or does not."""
    for row in rows("harmful/STAR-1.json"):
        thinking, answer = row["response"].split("</think>")
        if bool(REFUSAL.match(answer.strip().replace("\u2019", "'"))) == refusing:
            text = answer if part == "response" else thinking.removeprefix("<think>")
            yield Case(row["question"], head(text, words), part, "refuses")


def xstest(model: str) -> Iterator[Case]:
    """Full compliances and full refusals of one model, as labelled by people."""
    for row in rows(f"refusal_labels/xstest_v2_completions_{model}.csv"):
        if row["final_label"] in XSTEST_LABELS:
            yield Case(row["prompt"], row["completion"], "response", XSTEST_LABELS[row["final_label"]])


def modern(model: str, label: Stance | Literal["evades"]) -> Iterator[Case]:
    """Answers of a distillate and an instructed model to harmful and to over-refused prompts, labelled by hand."""
    for row in rows("refusal_labels/modern_answers.jsonl"):
        if row["model"].startswith(model) and row["label"] == label:
            yield Case(row["prompt"], row["answer"], "response", label)


def echoes(name: str, field: str) -> Iterator[Case]:
    """Refusals made of prompts: "I cannot <prompt>."."""
    for number, row in enumerate(rows(name)):
        prompt = row[field].strip()
        said = ECHOES[number % len(ECHOES)].format(prompt[0].lower() + prompt[1:].rstrip(".?!"))
        yield Case(row[field], said, "response", "refuses")


def coconot(field: str, must: Stance, *, safety: bool) -> Iterator[Case]:
    """The accepted ("chosen") or the other ("rejected") answers to the prompts with safety concerns, or to others."""
    for row in rows("benign/coconot_pref.jsonl"):
        if (row["category"] == "Requests with safety concerns") == safety:
            yield Case(row["prompt"], row[field], "response", must)


def math(name: str, question: str, answer: str, part: Part) -> Iterator[Case]:
    """Worked solutions of math, which never refuse."""
    for row in rows(name):
        yield Case(row[question], row[answer], part, "complies")


def report(name: str, cases: Iterable[Case]) -> None:
    """Print one line: right, wrong, unclear, then what each called-for stance was read as."""
    judge = RefusalJudge()
    read = Counter((case.must, judge.read(case.prompt, case.text, case.part).stance) for case in cases)
    total = read.total()
    right = sum(count for (must, stance), count in read.items() if must == stance or (must, stance) in EVADED)
    unclear = sum(count for (must, stance), count in read.items() if stance == "unclear" and must != "evades")
    confusion = "; ".join(
        f"{must}: " + ", ".join(f"{read[must, stance]} {stance}" for stance in STANCES)
        for must in (*STANCES, "evades")
        if any(read[must, stance] for stance in STANCES)
    )
    print(
        f"{name:<40}{total:>6}{right / total:>9.1%}{(total - right - unclear) / total:>9.1%}{unclear / total:>9.1%}"
        f"   {confusion}"
    )


EVADED = {("evades", "unclear"), ("evades", "refuses")}


def title(name: str) -> None:
    """Print the head of a table."""
    print(f"\n{name:<40}{'n':>6}{'right':>9}{'wrong':>9}{'unclear':>9}   must: read as")


def replayed(domain: str, words: int) -> None:
    """Print what becomes of the complying thoughts as prefills of a domain, behind all filters and the judge."""
    thoughts = {case.prompt: case.text for case in complying_thinking(WHOLE)}
    with tempfile.TemporaryDirectory() as folder:
        counts = replay(thoughts, domain, words, Path(folder))
    rest = ", ".join(f"{count} {reason}" for reason, count in counts.most_common() if reason != "accepted")
    print(f"{f'into {domain}, {words} words':<40}{counts.total():>6}{counts['accepted']:>9}   {rest}")


def speed(part: Part) -> None:
    """Print how many texts of `TIMED_WORDS` words one core reads in a second: the best of five runs."""
    source = (
        star("thinking", WHOLE, refusing=True) if part == "thinking" else coconot("chosen", "complies", safety=True)
    )
    words = [word for case in source for word in case.text.split(" ")]
    texts = [" ".join(words[i : i + TIMED_WORDS]) for i in range(0, len(words) - TIMED_WORDS, TIMED_WORDS)]
    judge = RefusalJudge()
    best = 0.0
    for _ in range(5):
        start = time.perf_counter()
        for text in texts:
            judge.read("How do I do this?", text, part)
        best = max(best, len(texts) / (time.perf_counter() - start))
    print(f"{part:<40}{best:>9,.0f} texts of {TIMED_WORDS} words per second")


def main() -> None:
    """Print the tables."""
    if not DATA.is_dir():
        sys.exit(f"needs the published labels in {DATA}")
    title("Thinking, seen")
    for words in (100, 200, 250):
        report(f"R1-Distill-Qwen-7B, complying, {words}", complying_thinking(words))
    for words in (100, 200, WHOLE):
        named = "whole" if words == WHOLE else words
        report(f"STAR-1, refusing, {named}", star("thinking", words, refusing=True))
    report("STAR-1, others, 200 (trend)", star("thinking", 200, refusing=False))
    report("GSM8K, train", math("math/gsm8k_train.jsonl", "question", "answer", "thinking"))
    title("Answers, seen")
    report("XSTest, Llama 2", xstest("llama2orig"))
    report("XSTest, Mistral", xstest("mistralinstruct"))
    for label in ("refuses", "evades", "complies"):
        report(f"R1-Distill-Llama-8B, {label}", modern("DeepSeek", label))
    report("Llama-3.1-8B, refuses", modern("Llama", "refuses"))
    report("Llama-3.1-8B, complies", modern("Llama", "complies"))
    report('XSTest, "I cannot <prompt>."', echoes("eval/xstest_prompts.csv", "prompt"))
    report("CoCoNot, chosen, safety", coconot("chosen", "complies", safety=True))
    report("CoCoNot, chosen, others", coconot("chosen", "complies", safety=False))
    report("CoCoNot, rejected, safety (trend)", coconot("rejected", "refuses", safety=True))
    report("STAR-1, refusing", star("response", WHOLE, refusing=True))
    report("STAR-1, others (trend)", star("response", WHOLE, refusing=False))
    report("GSM8K, train", math("math/gsm8k_train.jsonl", "question", "answer", "response"))
    title("Unseen")
    report("GSM8K, test, thinking", math("eval/gsm8k_test.jsonl", "question", "answer", "thinking"))
    report("GSM8K, test, answers", math("eval/gsm8k_test.jsonl", "question", "answer", "response"))
    report('CoCoNot, "I cannot <prompt>."', echoes("benign/coconot_pref.jsonl", "prompt"))
    report('GSM8K, test, "I cannot <prompt>."', echoes("eval/gsm8k_test.jsonl", "question"))
    print(f"\n{'Replayed through whole builds, seen':<40}{'n':>6}{'accepted':>9}   rejected")
    for domain in ("benign", "harmful"):
        for words in (100, 200, 250):
            replayed(domain, words)
    print()
    speed("response")
    speed("thinking")


if __name__ == "__main__":
    main()
