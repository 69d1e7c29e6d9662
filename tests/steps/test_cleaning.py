"""Cleaning as a build does it: the order of a file's lines decides nothing, and what the sources lack is told."""

from __future__ import annotations

import json
import random
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.build import build, plan
from pipeline.recipe import LoadedRecipe, parse
from pipeline.runner import LocalRunner

RECIPE = """
name: lines
sources:
  benign: [{files: coconot.jsonl, prompt: prompt, category: kind}]
samplers: {}
mixture:
  benign: {rows: 5}
"""
PROMPTS = [
    "Why is the sky blue?",
    "why is the SKY blue?",
    "  Why  is the sky blue?",
    "Why is the sky\nblue?",
    "How long do tortoises live in the wild?",
    "How long do tortoises  live in the wild?",
    "Name three rivers that cross Vienna or its suburbs.",
]


def built(place: Path, records: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """The rows of a build of these records, but for where they stood."""
    (place / "coconot.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    runner = LocalRunner(1)
    try:
        loaded = LoadedRecipe(parse(RECIPE, "lines.yaml", ()), place)
        made = build(loaded, place / "out", runner, allow_short=True)
    finally:
        runner.close()
    rows = pq.read_table(made.out / "data").to_pylist()
    return [(row["id"], row["prompt"][0]["content"], row["origin"]["category"]) for row in rows]


@settings(max_examples=8, deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_order_of_lines_decides_nothing(rng: random.Random) -> None:
    records = [{"prompt": prompt, "kind": kind} for prompt in PROMPTS for kind in ("b", "a", None)]
    shuffled = rng.sample(records, len(records))
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        assert built(Path(one), records) == built(Path(other), shuffled)


def test_what_a_source_lacks_is_told_at_plan(tmp_path: Path) -> None:
    (tmp_path / "coconot.jsonl").write_text(json.dumps({"prompt": PROMPTS[0], "kind": "a"}) + "\n")
    (tmp_path / "evals.jsonl").write_text(json.dumps({"prompt": PROMPTS[4]}) + "\n")
    against = (
        "clean: {decontaminate: {against: [{files: evals.jsonl, dataset: ScaleAI/fortress_public, prompt: prompt}]}}"
    )
    runner = LocalRunner(1)
    try:
        loaded = LoadedRecipe(parse(RECIPE + against, "lines.yaml", ()), tmp_path)
        notes = "\n".join(plan(loaded, tmp_path / "out", runner).notes)
    finally:
        runner.close()
    assert "coconot.jsonl names no dataset. If it is allenai/coconot's, say dataset: allenai/coconot" in notes
    assert "coconot.jsonl has no licence that is known: publish --public is refused" in notes
    assert "prohibits use for adversarial training" in notes
