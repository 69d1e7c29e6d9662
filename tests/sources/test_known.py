"""The known datasets, as `recap-data sources` lists them."""

from __future__ import annotations

import json
import subprocess
import sys

from pipeline.sources import KNOWN, known

WANTED = (
    "PKU-Alignment/BeaverTails",
    "PKU-Alignment/PKU-SafeRLHF",
    "UCSC-VLAA/STAR-1",
    "UCSC-VLAA/STAR-benign-915",
    "UCSC-VLAA/STAR-41K",
    "UWNSL/SafeChain",
    "allenai/wildjailbreak",
    "AmazonScience/FalseReject",
    "bench-llm/or-bench",
    "Paul/XSTest",
    "allenai/coconot",
    "walledai/StrongREJECT",
    "walledai/HarmBench",
    "JailbreakBench/JBB-Behaviors",
    "ScaleAI/fortress_public",
    "openai/gsm8k",
    "EleutherAI/hendrycks_math",
    "HuggingFaceH4/MATH-500",
    "HuggingFaceH4/aime_2024",
    "BytedTsinghua-SIA/DAPO-Math-17k",
)


def listed(*options: str) -> str:
    command = [sys.executable, "-m", "pipeline.cli", "sources", *options]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_the_datasets_of_the_field_are_known() -> None:
    assert all(known(name) for name in WANTED)


def test_a_dataset_without_a_licence_may_not_be_published_again() -> None:
    assert all(entry.licence or not entry.redistribute for entry in KNOWN)
    assert all(entry.terms for entry in KNOWN)


def test_the_list_says_fields_licence_terms_and_what_was_not_confirmed() -> None:
    entries = {entry["name"]: entry for entry in json.loads(listed("--json"))}
    assert entries.keys() == {entry.name for entry in KNOWN}
    gsm8k, fortress = entries["openai/gsm8k"], entries["ScaleAI/fortress_public"]
    assert (gsm8k["prompt"], gsm8k["ground_truth"]) == (["question"], {"field": "answer", "after": "####"})
    assert (gsm8k["licence"], gsm8k["redistribute"], gsm8k["confirmed"]) == ("mit", True, True)
    assert (fortress["licence"], fortress["redistribute"], fortress["confirmed"]) == ("cc-by-4.0", False, True)
    assert "prohibits use for adversarial training" in fortress["terms"]
    text = listed()
    for entry in KNOWN:
        assert f"{entry.name}: {entry.domain}, " in text
        assert entry.terms in text
    line = next(line for line in text.split(fortress["name"], 1)[1].splitlines() if "licence:" in line)
    assert "may NOT be published again" in line
    assert all(entry.confirmed or "(not confirmed)" in text.split(entry.name, 1)[1] for entry in KNOWN)


def test_math_is_treated_as_aime_is() -> None:
    names = ("EleutherAI/hendrycks_math", "DigitalLearningGmbH/MATH-lighteval", "HuggingFaceH4/MATH-500")
    assert not any(known(name).redistribute for name in (*names, "HuggingFaceH4/aime_2024"))  # type: ignore[union-attr]
    assert "DMCA" in listed()
