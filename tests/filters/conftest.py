"""The same harmless thought in fourteen languages, and prompts in each; published prompts with template prefills."""

from __future__ import annotations

import asyncio
import csv
import json
from pathlib import Path
from typing import NamedTuple

import pytest

from pipeline.judges import COUNTER_ALIGNED, Stance
from pipeline.samplers import PrefillRequest
from pipeline.samplers.template import TemplateSampler

THOUGHTS = json.loads((Path(__file__).parent / "thoughts.json").read_text(encoding="utf-8"))


class Pair(NamedTuple):
    prompt: str
    text: str


@pytest.fixture(scope="session")
def thoughts() -> dict[str, str]:
    return {language: told["thought"] for language, told in THOUGHTS.items()}


@pytest.fixture(scope="session")
def asked() -> dict[str, list[str]]:
    return {language: told["prompts"] for language, told in THOUGHTS.items()}


@pytest.fixture(scope="session")
def templated(shared_data: Path) -> list[Pair]:
    """A template prefill for each published prompt that is in English, and for each stance."""
    prompts = [row["question"] for row in json.loads((shared_data / "harmful/STAR-1.json").read_text("utf-8"))]
    for name, field in (("benign/coconot_pref", "prompt"), ("eval/math500_test", "problem")):
        lines = (shared_data / f"{name}.jsonl").read_text("utf-8").splitlines()
        prompts += [json.loads(line)[field] for line in lines]
    for name, field in (("strongreject_dataset", "forbidden_prompt"), ("xstest_prompts", "prompt")):
        with (shared_data / f"eval/{name}.csv").open(encoding="utf-8", newline="") as file:
            prompts += [row[field] for row in csv.DictReader(file)]
    sampler = TemplateSampler()

    async def write(stance: Stance) -> list[Pair]:
        requests = [PrefillRequest(str(at), prompt, None, stance, 480, 0, 0) for at, prompt in enumerate(prompts)]
        return [Pair(request.prompt, (await sampler.sample(request)).thinking) for request in requests]

    return [pair for stance in COUNTER_ALIGNED.values() for pair in asyncio.run(write(stance))]


@pytest.fixture(scope="session")
def real(shared_data: Path) -> list[Pair]:
    """Real thoughts of a model, up to 500 words."""
    rows = json.loads((shared_data / "harmful/STAR-1.json").read_text("utf-8"))
    texts = (row["response"].split("</think>")[0].removeprefix("<think>") for row in rows)
    return [Pair(row["question"], " ".join(text.split(" ")[:500])) for row, text in zip(rows, texts, strict=True)]
