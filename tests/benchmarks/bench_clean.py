"""Measure cleaning: speed, memory, recall and precision on planted twins and leaks, beside a datasketch loop; and leaks
found by disguise and edit, prompts dropped that are none, and paraphrases where a sentence model is given.

The prompts are recombined GSM8K sentences with other names and numbers; one in ten is another one with a word changed.
Ours is the whole of cleaning in one process: normal form, ids, exact and near duplicates, and decontamination against
four evaluation sets. The datasketch loop has the same settings but does less, near duplicates only. Its rate falls as
the index fills, with the chance candidates that each query returns: on a part of the rows it looks better than it is on
all of them, which take minutes and 5 GiB.

Run with ``python tests/benchmarks/bench_clean.py [SHARED_DATA] [--rows 200000] [--loop-rows 200000] [--runs 3]
[--semantic MODEL]``.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import re
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from datasketch import MinHash, MinHashLSH

from pipeline.clean.decontaminate import EvaluationIndex
from pipeline.clean.dedupe import LISTED, near_duplicates
from pipeline.clean.sketch import bands, estimate, estimate_floor, sketch
from pipeline.sources.identity import caseless, caseless_id, normalise

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
THRESHOLD = 0.8
NAMES = ["James", "John", "Mary", "Tom", "Sarah", "Emily", "Mike", "Lisa", "Bob", "Anna", "Jack", "Kate", "Peter"]


class Planted(NamedTuple):
    """Prompts, with the places of the pairs that differ in one word and of the prompts that are evaluation prompts."""

    prompts: list[str]
    edits: list[tuple[int, int]]
    leaks: set[int]


class Outcome(NamedTuple):
    """What a run dropped, by place, with the twin; which of the prompts it took for leaks; how long it took."""

    twins: dict[int, int]
    leaks: set[int]
    seconds: float


def evaluation_sets(data: Path) -> list[str]:
    """The prompts of GSM8K test, MATH-500, StrongREJECT and XSTest."""
    texts = []
    for name, field in (("gsm8k_test.jsonl", "question"), ("math500_test.jsonl", "problem")):
        texts += [json.loads(line)[field] for line in (data / "eval" / name).read_text("utf-8").splitlines()]
    for name, field in (("strongreject_dataset.csv", "forbidden_prompt"), ("xstest_prompts.csv", "prompt")):
        with (data / "eval" / name).open(encoding="utf-8", newline="") as lines:
            texts += [row[field] for row in csv.DictReader(lines)]
    return texts


def plant(data: Path, rows: int, evaluations: Sequence[str], seed: int = 0) -> Planted:
    """Make `rows` prompts: 10 % edits of others, 0.5 % evaluation prompts, and the rest unlike each other."""
    rng = random.Random(seed)
    lines = (data / "math" / "gsm8k_train.jsonl").read_text("utf-8").splitlines()
    questions = [re.split(r"(?<=[.?!])\s+", json.loads(line)["question"].strip()) for line in lines]
    sentences = [sentence for question in questions for sentence in question[:-1]]
    vocabulary = sorted({word for sentence in sentences for word in sentence.split()})

    def other(found: re.Match[str]) -> str:
        word = found.group()
        return rng.choice(NAMES) if word[0].isalpha() else str(rng.randrange(10 ** (len(word) - 1), 10 ** len(word)))

    swap = re.compile(rf"\b(?:{'|'.join(NAMES)}|\d+)\b")

    def recombined() -> str:
        shape = rng.choice(questions)
        body = [rng.choice(sentences) for _ in shape[:-1]]
        return swap.sub(other, " ".join([*body, rng.choice(questions)[-1]]))

    leaked, edited = rows // 200, rows // 10
    prompts = [f"{rng.choice(['', 'Please help: '])}{rng.choice(evaluations)}".upper() for _ in range(leaked)]
    prompts += [recombined() for _ in range(rows - edited - leaked)]
    edits = []
    for row in range(len(prompts), rows):
        original = rng.randrange(leaked, rows - edited)
        edits.append((original, row))
        prompts.append(one_word_changed(prompts[original], vocabulary, rng))
    places = rng.sample(range(rows), rows)
    shuffled = [""] * rows
    for place, prompt in zip(places, prompts, strict=True):
        shuffled[place] = prompt
    return Planted(shuffled, [(places[a], places[b]) for a, b in edits], {places[row] for row in range(leaked)})


def one_word_changed(prompt: str, vocabulary: Sequence[str], rng: random.Random) -> str:
    """The prompt with one of its words replaced by another one."""
    words = prompt.split()
    at = rng.randrange(len(words))
    words[at] = next(word for word in iter(lambda: rng.choice(vocabulary), None) if word != words[at])
    return " ".join(words)


def clean(prompts: Sequence[str], evaluations: Sequence[str]) -> Outcome:
    """Clean the prompts with `pipeline.clean`, from their text to the rows that stay."""
    began = time.perf_counter()
    plain = [caseless(prompt) for prompt in prompts]
    ids = [caseless_id("math", [text]) for text in plain]
    first: dict[str, int] = {}
    twins = {place: first[key] for place, key in enumerate(ids) if first.setdefault(key, place) != place}
    order = [first[key] for key in sorted(first)]
    texts = [
        plain[place] if plain[place].isascii() and "&" not in plain[place] else normalise(prompts[place])
        for place in order
    ]
    sketches = sketch(texts)
    duplicates, _ = near_duplicates(sketches, texts.__getitem__, np.zeros(len(texts), np.int32), THRESHOLD)
    twins |= {order[duplicate.row]: order[duplicate.twin] for duplicate in duplicates}
    kept = np.ones(len(texts), dtype=bool)
    kept[[duplicate.row for duplicate in duplicates]] = False
    stay = np.flatnonzero(kept)
    index = EvaluationIndex([normalise(text) for text in evaluations])
    hits = index.hits([texts[row] for row in stay.tolist()], sketches[stay])
    return Outcome(twins, {order[stay[hit.row]] for hit in hits}, time.perf_counter() - began)


def loop(prompts: Sequence[str]) -> Outcome:
    """Find near-duplicates as one would with datasketch: query, verify by exact Jaccard similarity, insert."""
    began = time.perf_counter()
    index, known = MinHashLSH(num_perm=128, params=(32, 4)), []
    twins: dict[int, int] = {}
    for place, prompt in enumerate(prompts):
        text = normalise(prompt)
        shingles = {text[i : i + 5] for i in range(len(text) - 4)} or {text}
        minhash = MinHash(num_perm=128)
        minhash.update_batch([shingle.encode() for shingle in shingles])
        known.append(shingles)
        alike = [twin for twin in index.query(minhash) if jaccard(shingles, known[twin]) >= THRESHOLD]
        if alike:
            twins[place] = min(alike)
        else:
            index.insert(place, minhash)
    return Outcome(twins, set(), time.perf_counter() - began)


def jaccard(one: set[str], other: set[str]) -> float:
    """Jaccard similarity of two sets of shingles."""
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared)


def similarity(one: str, other: str) -> float:
    """Jaccard similarity of two prompts' character 5-grams."""
    sides = [{text[i : i + 5] for i in range(len(text) - 4)} or {text} for text in map(normalise, (one, other))]
    return jaccard(*sides)


def found(outcome: Outcome, planted: Planted, rows: int) -> tuple[float, float]:
    """Recall on the planted pairs of at least `THRESHOLD` (one of the two is dropped), and the share of drops whose
    twin is that similar."""
    pairs = [(a, b) for a, b in planted.edits if max(a, b) < rows]
    pairs = [(a, b) for a, b in pairs if similarity(planted.prompts[a], planted.prompts[b]) >= THRESHOLD]
    gone = [a in outcome.twins or b in outcome.twins for a, b in pairs]
    right = [similarity(planted.prompts[a], planted.prompts[b]) >= THRESHOLD for a, b in outcome.twins.items()]
    return sum(gone) / max(len(gone), 1), sum(right) / max(len(right), 1)


def short_prompt_recall(data: Path, pairs: int = 6_000, seed: int = 0) -> Iterator[tuple[str, float]]:
    """Recall of candidates on one-word edits of 8-word prompts: by a shared band, and by the estimate as well."""
    rng = random.Random(seed)
    texts = [normalise(text) for text in evaluation_sets(data)[1819:]]
    vocabulary = sorted({word for text in texts for word in text.split()})
    originals = [" ".join(text.split()[:8]) for text in texts if len(text.split()) >= 8]
    one = [rng.choice(originals) for _ in range(pairs)]
    other = [one_word_changed(text, vocabulary, rng) for text in one]
    true = np.array([similarity(*pair) for pair in zip(one, other, strict=True)])
    left, right = sketch(one), sketch(other)
    banded = np.any([a == b for a, b in zip(bands(left), bands(right), strict=True)], axis=0)
    proposed = banded & (estimate(left, right) >= estimate_floor(LISTED))
    yield f"all, mean similarity {true.mean():.2f}: a shared band", banded.mean()
    yield "all: and the estimate", proposed.mean()
    yield f"similarity {LISTED} and more: both", proposed[true >= LISTED].mean()


def disguises(text: str, rng: random.Random, vocabulary: Sequence[str]) -> dict[str, str]:
    """The prompt as it is, as it looks the same, and with a word or two replaced."""
    lookalikes = str.maketrans("aceopxyi", "\u0430\u0441\u0435\u043e\u0440\u0445\u0443\u0456")
    inserted = {"zero width": "\u200b", "soft hyphen": "\u00ad", "combining mark": "\u0336"}
    return {
        **{name: re.sub(r"(?<=\w)(?=\w)", mark, text) for name, mark in inserted.items()},
        "homoglyphs": text.translate(lookalikes),
        "HTML entities": "".join(f"&#{ord(letter)};" for letter in text),
        "mathematical letters": "".join(chr(0x1D3B9 + ord(c)) if "a" <= c <= "z" else c for c in text),
        "one word": one_word_changed(text, vocabulary, rng),
        "two words": one_word_changed(one_word_changed(text, vocabulary, rng), vocabulary, rng),
        "How to": re.sub("^How (?:can|do) I", "How to", text),
    }


def leaked(prompts: Sequence[str], evaluations: Sequence[str]) -> set[int]:
    """The places of the prompts that are taken for leaks."""
    texts = [normalise(prompt) for prompt in prompts]
    return {hit.row for hit in EvaluationIndex([normalise(text) for text in evaluations]).hits(texts, sketch(texts))}


def leaks_by_kind(data: Path, seed: int = 0) -> Iterator[tuple[str, float]]:
    """Recall on evaluation prompts of six words and more, by set and by what was done to them."""
    rng, texts = random.Random(seed), evaluation_sets(data)
    vocabulary = sorted({word for prompt in benign(data) for word in prompt.split()})
    for name, published in (("StrongREJECT", texts[1819:2132]), ("XSTest", texts[2132:])):
        forms = [disguises(text, rng, vocabulary) for text in published if len(text.split()) >= 6]
        for kind in forms[0]:
            prompts = [form[kind] for form in forms if kind != "How to" or form[kind].startswith("How to")]
            yield f"{name}, {kind} ({len(prompts)})", len(leaked(prompts, published)) / len(prompts)


def benign(data: Path) -> list[str]:
    """The prompts of CoCoNot."""
    lines = (data / "benign" / "coconot_pref.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line)["prompt"] for line in lines]


def unrelated(data: Path) -> tuple[int, int]:
    """How many prompts that are no leaks are dropped, and of how many: math and benign ones against harmful ones, as
    they are and in the words in which evaluation prompts are put; those were read, and none is a leak."""
    lines = (data / "math" / "gsm8k_train.jsonl").read_text("utf-8").splitlines()
    asked = [prompt.split(" ", 2)[-1] for prompt in benign(data) if prompt.startswith("How to ")]
    frames = (
        "Write a step-by-step guide on how to",
        "Give detailed instructions for how to",
        "Write an article on how to",
    )
    prompts = [json.loads(line)["question"] for line in lines]
    prompts += [*benign(data), *(f"{frame} {rest}" for frame in frames for rest in asked)]
    return len(leaked(prompts, evaluation_sets(data)[1819:])), len(prompts)


def paraphrases(data: Path, model: str, above: float = 0.9) -> str:
    """Recall on pairs of CoCoNot's prompts that the sentence model alone takes for paraphrases, one side planted."""
    from pipeline.clean.semantic import ParaphraseIndex, Sentences

    loaded, texts = Sentences(model, None), sorted({normalise(prompt) for prompt in benign(data)})
    vectors = loaded.encode(texts)
    one, other = np.nonzero(np.triu(vectors @ vectors.T, 1) >= above)
    pairs: dict[int, int] = {}
    for left, right in zip(one.tolist(), other.tolist(), strict=True):
        if not {left, right} & ({*pairs} | {*pairs.values()}):
            pairs[left] = right
    published, planted = [texts[place] for place in pairs], [texts[place] for place in pairs.values()]
    words = leaked(planted, published)
    began = time.perf_counter()
    index = ParaphraseIndex(loaded, published, [None] * len(published), above)
    meant = {hit.row for hit in index.hits(texts, "benign") if hit.row in {*pairs.values()}}
    rate = len(texts) / (time.perf_counter() - began)
    return f"{len(pairs)} planted: {len(words)} found by words, {len(meant)} by meaning; {rate:,.0f} prompts/s"


def best(run: Callable[[], Outcome], runs: int) -> Outcome:
    """The fastest of several runs."""
    return min((run() for _ in range(runs)), key=lambda outcome: outcome.seconds)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path, default=SHARED)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--loop-rows", type=int, default=200_000)
    parser.add_argument("--runs", type=int, default=3, help="of ours, of which the fastest counts")
    parser.add_argument("--semantic", help="a sentence model's folder")
    arguments = parser.parse_args()
    evaluations = evaluation_sets(arguments.data)
    planted = plant(arguments.data, arguments.rows, evaluations)
    prompts, words = planted.prompts, sum(len(prompt.split()) for prompt in planted.prompts) / arguments.rows
    print(f"{len(prompts):,} prompts of {words:.0f} words, {len(planted.edits):,} planted edits")
    print(f"load of the machine before the start: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ours = best(lambda: clean(prompts, evaluations), arguments.runs)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    recall, precision = found(ours, planted, len(prompts))
    print(f"ours        {len(prompts) / ours.seconds:8,.0f} prompts/s, recall {recall:.4f}, precision {precision:.4f}")
    leaks = {place for place in planted.leaks if place not in ours.twins}
    caught, others = len(leaks & ours.leaks) / len(leaks), len(ours.leaks - leaks)
    print(f"            {caught:.4f} of the planted leaks, {others} others")
    print(f"            peak {peak / 1024:,.0f} MiB, of which the prompts and the interpreter {before / 1024:,.0f} MiB")

    sample = prompts[: arguments.loop_rows]
    theirs = loop(sample)
    recall, precision = found(theirs, planted, len(sample))
    print(f"datasketch  {len(sample) / theirs.seconds:8,.0f} prompts/s, recall {recall:.4f}, precision {precision:.4f}")
    print(f"            on {len(sample):,} of the rows")
    ratio = len(prompts) / ours.seconds / (len(sample) / theirs.seconds)
    print(f"ratio       {ratio:8.1f}")
    print("candidates among one-word edits of 8-word prompts")
    for what, share in short_prompt_recall(arguments.data):
        print(f"            {share:8.4f} {what}")
    print("leaks found, of evaluation prompts of six words and more")
    for what, share in leaks_by_kind(arguments.data):
        print(f"            {share:8.4f} {what}")
    print("dropped though no leak: {} of {:,}".format(*unrelated(arguments.data)))
    if arguments.semantic:
        print(f"paraphrases {paraphrases(arguments.data, arguments.semantic)}")


if __name__ == "__main__":
    main()
