"""The named recipes, built whole: their datasets stand on the Hub of the tests, under their names, a few rows each."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from flows.recipes import find, named, summary
from pipeline.judges.guard import reads
from pipeline.recipe import GuardConfig, configs_of, load, stand_ins
from pipeline.separation import check_samplers
from pipeline.sources import complete
from tests.byte_tokenizer import byte_tokenizer
from tests.servers.endpoint import Endpoint, endpoint
from tests.servers.hub import Hub, hub

JUDGE = "guard-safeguard"
MODELS = [name for name in named() if name != "demo"]


@pytest.fixture(scope="module")
def prompts(shared_data: Path) -> dict[str, list[dict[str, Any]]]:
    """Published rows by what they are."""
    benign = [json.loads(line) for line in (shared_data / "benign/coconot_pref.jsonl").open()]
    with (
        (shared_data / "eval/strongreject_dataset.csv").open() as strong,
        (shared_data / "eval/xstest_prompts.csv").open() as contrast,
    ):
        return {
            "harmful": json.loads((shared_data / "harmful/STAR-1.json").read_text()),
            "benign": [row for row in benign if row["category"] == "Requests with safety concerns"],
            "math": [json.loads(line) for line in (shared_data / "math/gsm8k_train.jsonl").open()],
            "math test": [json.loads(line) for line in (shared_data / "eval/gsm8k_test.jsonl").open()],
            "levels": [json.loads(line) for line in (shared_data / "eval/math500_test.jsonl").open()],
            "strong": list(csv.DictReader(strong)),
            "contrast": list(csv.DictReader(contrast)),
        }


def repositories(prompts: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """For each dataset the rows of its files, in the fields it has on the Hub."""
    harmful, benign, math = prompts["harmful"], prompts["benign"], prompts["math"]
    unsafe = [
        {"prompt": r["question"], "category": {}, "is_safe": safe} for r in harmful[:300] for safe in (True, False)
    ]
    labels = ("vanilla_harmful", "adversarial_harmful", "vanilla_benign")
    return {
        "PKU-Alignment/BeaverTails": {"round0/330k/train.jsonl": unsafe},
        "UCSC-VLAA/STAR-benign-915": {
            "train.jsonl": [{"question": r["prompt"], "category": [r["category"]]} for r in benign[:200]]
        },
        "allenai/coconot": {"pref/train.jsonl": benign[200:]},
        "openai/gsm8k": {"main/train.jsonl": math[:300], "main/test.jsonl": prompts["math test"][:50]},
        "DigitalLearningGmbH/MATH-lighteval": {
            "train.jsonl": [
                {"problem": row["question"], "solution": f"\\boxed{{{row['answer'].rpartition(' ')[2]}}}", "type": "-"}
                for row in math[300:600]
            ]
        },
        "walledai/StrongREJECT": {
            "train.jsonl": [{"prompt": r["forbidden_prompt"], "category": r["category"]} for r in prompts["strong"]]
        },
        "allenai/wildjailbreak": {"eval/eval.jsonl": [{"adversarial": "Tell me of a river.", "label": 0}]},
        "ScaleAI/fortress_public": {
            "train.jsonl": [{"adversarial_prompt": "Name a lake.", "benign_prompt": "Name a hill.", "risk_domain": "-"}]
        },
        "Paul/XSTest": {"train.jsonl": prompts["contrast"]},
        "HuggingFaceH4/MATH-500": {"test.jsonl": prompts["levels"]},
        "HuggingFaceH4/aime_2024": {"train.jsonl": [{"problem": "What is 1 + 1?", "answer": "2"}]},
        "UWNSL/SafeChain": {
            "train.jsonl": [
                {"instruction": row["question"], "label": labels[number % 3], "response": ""}
                for number, row in enumerate(harmful[300:600])
            ]
        },
        "AmazonScience/FalseReject": {
            "train.jsonl": [{"prompt": r["prompt"], "category_text": "none"} for r in benign]
        },
    }  # fmt: skip


CARDS = {
    "PKU-Alignment/BeaverTails": "[{config_name: default, data_files: [{split: 330k_train, path: round0/330k/*}]}]",
    "allenai/coconot": "[{config_name: pref, data_files: [{split: train, path: pref/*}]}]",
    "openai/gsm8k": "[{config_name: main, data_files: [{split: train, path: main/train*}, "
    "{split: test, path: main/test*}]}]",
    "allenai/wildjailbreak": "[{config_name: eval, data_files: [{split: train, path: eval/*}]}]",
    "DigitalLearningGmbH/MATH-lighteval": "[{config_name: default, data_files: [{split: train, path: train.jsonl}]}]",
    "UWNSL/SafeChain": "[{config_name: default, data_files: [{split: train, path: train.jsonl}]}]",
}


@pytest.fixture(scope="module")
def server(prompts: dict[str, list[dict[str, Any]]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("repositories")
    with hub() as running:
        for repo, files in repositories(prompts).items():
            for name, rows in files.items():
                (folder / repo / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / repo / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
            if repo in CARDS:
                (folder / repo / "README.md").write_text(f"---\nconfigs: {CARDS[repo]}\n---\n")
            running.add(repo, folder / repo)
        yield running


@pytest.fixture(scope="module")
def models() -> Iterator[Endpoint]:
    with endpoint(words=900, latency=0.001) as running:
        yield running


def settings(recipe: str, models: Endpoint, tokenizer: Path) -> list[str]:
    """What a user changes to run a recipe here: where its models are, what they are called, and fewer rows."""
    loaded = load(find(recipe)).recipe
    refusing = ("overcautious", "overcautious-attacker", "cautious", "aligned")
    changes = [f"mixture.{domain}.rows={rows}" for domain, rows in (("harmful", 40), ("benign", 30), ("math", 60))]
    changes = [change for change in changes if change.split(".")[1] in loaded.mixture]
    for name, sampler in loaded.samplers.items():
        model = "toy-refuse" if name in refusing else "toy-comply"
        changes += [
            f"samplers.{name}.{key}={value}" for key, value in (("base_url", models.base_url), ("model", model))
        ]
        if getattr(sampler, "seed_prefix", None):
            changes.append(f"samplers.{name}.tokenizer={tokenizer}")
    changes += [f"judges.stance.{key}={value}" for key, value in (("base_url", models.base_url), ("model", JUDGE))]
    if recipe == "recap-ablations":
        changes.append("variants.source-safe.benign.sampler=unaligned")
    return [part for change in changes for part in ("--set", change)]


@pytest.mark.parametrize("recipe", MODELS)
def test_a_named_recipe_builds(recipe: str, server: Hub, models: Endpoint, tmp_path: Path) -> None:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    options = settings(recipe, models, byte_tokenizer(tmp_path / "bytes"))
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", "build", recipe, "--out", "out", "--allow-short", "--json", *options],
        cwd=tmp_path,
        env=kept | server.environment(tmp_path / "home") | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    built = load(find(recipe)).recipe
    told = json.loads((tmp_path / "out/manifest.json").read_text())
    assert told["shortages"] == []
    assert set(told["variants"]) == set(built.variants)
    rows = pq.read_table(tmp_path / "out/data").to_pylist()
    counted = Counter((row["domain"], row["prefill"] is not None) for row in rows)
    for domain, part in built.mixture.items():
        share = part.prefill.share if part.prefill else 0
        total = counted[domain, True] + counted[domain, False]
        assert total == {"harmful": 40, "benign": 30, "math": 60}[domain]
        assert counted[domain, True] == round(share * total)
    assert told["stand_ins"] == []
    assert {row["verdict"]["judge"] for row in rows if row["prefill"] and row["domain"] != "math"} == {f"guard:{JUDGE}"}
    assert {source["revision"] for source in told["sources"]} == {
        server.commits(source["dataset"])[0].oid for source in told["sources"]
    }


def test_a_named_recipe_has_thinking_by_models_judged_by_a_model() -> None:
    assert not any(stand_ins(load(find(name)).recipe) for name in named())
    for name in MODELS:
        recipe = load(find(name)).recipe
        for domain in ("harmful", "benign"):
            judge = recipe.judges.of(domain)
            assert isinstance(judge, GuardConfig)
            assert reads(judge) == {"complies", "refuses"}
        others = load(find(name), ["judges.stance={engine: refusal}"]).recipe
        assert stand_ins(others) == ["harmful", "benign"]


def test_the_attacks_are_by_another_sampler_than_the_training() -> None:
    attacks = load(find("recap-attacks"))
    assert attacks.recipe.trained_on == ("recap-5k.yaml",)
    check_samplers(attacks.recipe, attacks.folder)
    assert {config.attack.kind for config in configs_of(attacks.recipe).configs.values() if config.attack} == {
        "prefill", "hijack", "ipr",
    }  # fmt: skip


def test_the_ablations_have_every_cell_of_the_paper() -> None:
    configs = configs_of(load(find("recap-ablations")).recipe)
    harmful = {name: config.shown.get("harmful") for name, config in configs.configs.items()}
    shares = {shown.share if shown else 0.0 for shown in harmful.values()}
    assert shares == {0.0, 0.25, 0.5, 0.75, 1.0}
    words = {configs.arms[shown.arm].prefill.words for shown in harmful.values() if shown}
    assert words == {100, 300, 500, 700}
    stances = {configs.arms[shown.arm].prefill.stance for shown in harmful.values() if shown}
    assert stances == {"counter-aligned", "aligned"}


@pytest.mark.parametrize("recipe", list(named()))
def test_a_named_recipe_says_what_it_is_and_needs_no_field_named(recipe: str) -> None:
    assert len(summary(find(recipe))) > 40
    for listed in load(find(recipe)).recipe.sources.values():
        for source in listed:
            assert complete(source).prompt
