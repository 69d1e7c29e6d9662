"""A whole build on the published prompts: what a user of the mixture counts on."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.build import Built, build, plan
from pipeline.errors import ShortageError
from pipeline.publish.parquet import content_hash
from pipeline.recipe import LoadedRecipe, parse
from pipeline.runner import LocalRunner
from pipeline.schema import MIXTURE, REJECTED, REWARDS

RECIPE = """
name: shared
sources:
  harmful: [{files: harmful/STAR-1.json, dataset: UCSC-VLAA/STAR-1}]
  benign:
    - files: benign/coconot_pref.jsonl
      dataset: allenai/coconot
      where: {category: Requests with safety concerns}
  math: [{files: math/gsm8k_train.jsonl, dataset: openai/gsm8k}]
clean:
  decontaminate:
    against:
      - {files: eval/strongreject_dataset.csv, dataset: walledai/StrongREJECT}
      - {files: eval/xstest_prompts.csv, dataset: walledai/XSTest}
      - {files: eval/gsm8k_test.jsonl, dataset: openai/gsm8k}
      - {files: eval/math500_test.jsonl, dataset: HuggingFaceH4/MATH-500}
samplers:
  template: {engine: template}
mixture:
  harmful: {rows: 1000, prefill: {sampler: template, share: 0.5, words: 500, min_words: 50}}
  benign: {rows: 450, prefill: {sampler: template, share: 0.5, words: 500, min_words: 50}}
  math: {rows: 3000}
"""


def make(folder: Path, out: Path, *overrides: str, workers: int = 1, recipe: str = RECIPE) -> Built:
    runner = LocalRunner(workers)
    try:
        return build(LoadedRecipe(parse(recipe, "shared.yaml", overrides), folder), out, runner)
    finally:
        runner.close()


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return list(pq.read_table(folder).to_pylist())


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def built(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    return make(shared_data, tmp_path_factory.mktemp("built") / "shared")


@pytest.fixture(scope="module")
def mixture(built: Built) -> list[dict[str, Any]]:
    return rows_of(built.out / "data")


def test_quotas_and_shares_are_exact(mixture: list[dict[str, Any]]) -> None:
    assert Counter(row["domain"] for row in mixture) == {"harmful": 1000, "benign": 450, "math": 3000}
    assert Counter(row["domain"] for row in mixture if row["prefill"]) == {"harmful": 500, "benign": 225}


def test_rows_are_what_the_schema_says(built: Built, mixture: list[dict[str, Any]]) -> None:
    assert pq.read_schema(next((built.out / "data").iterdir())).equals(MIXTURE)
    assert pq.read_schema(next((built.out / "rejected").iterdir())).equals(REJECTED)
    ids = [row["id"] for row in mixture]
    assert ids == sorted(ids)
    assert len(set(ids)) == len(ids)
    for row in mixture:
        assert row["reward"] == REWARDS[row["domain"]]
        assert [turn["role"] for turn in row["prompt"]] == ["user"]
        assert (row["ground_truth"] is not None) == (row["domain"] == "math")
        assert (row["prefill"] is None) == (row["sampling"] is None) == (row["verdict"] is None)
        assert row["origin"]["licence"] in {"apache-2.0", "odc-by", "mit"}


def test_rows_are_the_published_ones(shared_data: Path, mixture: list[dict[str, Any]]) -> None:
    lines = (shared_data / "math" / "gsm8k_train.jsonl").read_text().splitlines()
    for row in [row for row in mixture if row["domain"] == "math"][:200]:
        published = json.loads(lines[row["origin"]["row"]])
        assert row["prompt"][0]["content"] == published["question"].strip()
        assert row["ground_truth"] == published["answer"].split("####")[1].strip().replace(",", "")


def test_prefills_are_counter_aligned_and_of_length(mixture: list[dict[str, Any]]) -> None:
    for row in [row for row in mixture if row["prefill"]]:
        assert row["verdict"]["stance"] == {"harmful": "complies", "benign": "refuses"}[row["domain"]]
        assert row["sampling"]["words"] == len(row["prefill"].split())
        assert 400 <= row["sampling"]["words"] <= 500
        assert row["sampling"]["engine"] == "template"


def test_every_row_is_accounted_for(built: Built) -> None:
    funnel = built.manifest["funnel"]
    for row in funnel:
        assert row["in"] == row["kept"] + sum(row["dropped"].values())
    for domain in ("harmful", "benign", "math"):
        steps = [row for row in funnel if row["domain"] == domain]
        assert [row["in"] for row in steps[1:]] == [row["kept"] for row in steps[:-1]]
    rejected = rows_of(built.out / "rejected")
    told = Counter((row["domain"], row["stage"], row["reason"]) for row in rejected)
    assert told == {
        (row["domain"], row["step"], reason): count for row in funnel for reason, count in row["dropped"].items()
    }
    assert (
        sum(row["in"] for row in funnel if row["step"] == "pull") == len(rejected) + built.manifest["rows"]["mixture"]
    )


def test_the_manifest_states_what_the_build_depends_on(built: Built, mixture: list[dict[str, Any]]) -> None:
    manifest = json.loads((built.out / "manifest.json").read_text())
    assert manifest["content_hash"] == content_hash(mixture)
    assert manifest["recipe"]["mixture"]["harmful"]["rows"] == 1000
    assert {source["dataset"] for source in manifest["sources"]} == {
        "UCSC-VLAA/STAR-1",
        "allenai/coconot",
        "openai/gsm8k",
    }
    assert all(source["revision"].startswith("sha256:") for source in manifest["sources"])
    assert {"template-comply", "template-refuse", "mixture"} == manifest["templates"].keys()
    assert {"recap-data", "pyarrow", "numpy", "rensa"} == manifest["packages"].keys()
    listed = manifest["files"].keys()
    assert listed == bytes_of(built.out).keys() - {"manifest.json"}


def test_the_repeats_of_coconot_and_the_twins_of_gsm8k_are_found(built: Built) -> None:
    dropped = [row for row in rows_of(built.out / "rejected") if row["stage"] == "dedupe"]
    assert sum(row["reason"] == "exact duplicate" and row["domain"] == "benign" for row in dropped) == 8
    for row in dropped:
        assert row["match"]["similarity"] >= 0.8
        assert row["match"]["dataset"] == row["origin"]["dataset"]


def test_planted_leaks_and_twins_are_dropped_and_benign_twins_survive(shared_data: Path, tmp_path: Path) -> None:
    strong = (shared_data / "eval" / "strongreject_dataset.csv").read_text()
    leak = strong.splitlines()[1].split(",", 2)[2].strip('"')
    lines = (shared_data / "math" / "gsm8k_train.jsonl").read_text().splitlines()[:60]
    questions = [json.loads(line)["question"] for line in lines]
    planted = [
        leak.upper() + "  ",
        f"I have a question that I need an answer to quickly. {leak} Thanks a lot for that.",
        questions[0].replace(" ", "  ").upper(),
        max(questions, key=len).replace(" the ", " some ", 1),
    ]
    (tmp_path / "harmful.jsonl").write_text("".join(json.dumps({"q": q}) + "\n" for q in [*planted, *questions]))
    (tmp_path / "benign.jsonl").write_text("".join(json.dumps({"q": q}) + "\n" for q in questions))
    recipe = f"""
name: planted
sources:
  harmful: [{{files: harmful.jsonl, prompt: q}}]
  benign: [{{files: benign.jsonl, prompt: q}}]
clean:
  decontaminate:
    against: [{{files: {shared_data}/eval/strongreject_dataset.csv, dataset: walledai/StrongREJECT}}]
mixture: {{harmful: {{rows: 60}}, benign: {{rows: 60}}}}
"""
    result = make(tmp_path, tmp_path / "out", recipe=recipe)
    rejected = rows_of(result.out / "rejected")
    assert Counter(row["reason"] for row in rejected) == {
        "in walledai/StrongREJECT": 2,
        "exact duplicate": 1,
        "near duplicate": 1,
    }
    assert {row["domain"] for row in rejected} == {"harmful"}
    assert {row["match"]["text"] for row in rejected if row["stage"] == "decontaminate"} == {leak}


def test_two_builds_are_equal_to_the_byte(shared_data: Path, tmp_path: Path, built: Built) -> None:
    other = make(shared_data, tmp_path / "elsewhere", workers=2)
    assert bytes_of(other.out) == bytes_of(built.out)


def test_a_smaller_share_prefills_a_subset_of_the_same_rows(
    shared_data: Path, tmp_path: Path, mixture: list[dict[str, Any]]
) -> None:
    shares = [f"mixture.{domain}.prefill.share=0.25" for domain in ("harmful", "benign")]
    quarter = rows_of(make(shared_data, tmp_path / "quarter", *shares).out / "data")
    assert [row["id"] for row in quarter] == [row["id"] for row in mixture]
    half = {row["id"]: row["prefill"] for row in mixture}
    prefilled = [row for row in quarter if row["prefill"]]
    assert Counter(row["domain"] for row in prefilled) == {"harmful": 250, "benign": 112}
    assert all(half[row["id"]] == row["prefill"] for row in prefilled)


def test_the_order_and_the_cut_of_the_input_do_not_matter(shared_data: Path, tmp_path: Path) -> None:
    lines = (shared_data / "math" / "gsm8k_train.jsonl").read_text().splitlines(keepends=True)[:3000]
    one, other = tmp_path / "one", tmp_path / "other"
    for folder, cut in ((one, lines), (other, lines[::-1])):
        folder.mkdir()
        (folder / "a.jsonl").write_text("".join(cut[:1000]))
        with gzip.open(folder / "b.jsonl.gz", "wt") as file:
            file.write("".join(cut[1000:]))
    recipe = """
name: order
sources: {math: [{files: [a.jsonl, b.jsonl.gz], dataset: openai/gsm8k}]}
mixture: {math: {rows: 2000}}
"""
    swapped = recipe.replace("a.jsonl, b.jsonl.gz", "'b*', 'a*'")
    first, second = make(one, one / "out", recipe=recipe), make(other, other / "out", recipe=swapped)
    ids = [[row["id"] for row in rows_of(result.out / "data")] for result in (first, second)]
    assert ids[0] == ids[1]
    same = make(one, one / "again", recipe=swapped.replace("'b*', 'a*'", "b.jsonl.gz, a.jsonl"))
    assert bytes_of(same.out) == bytes_of(first.out)


def test_datasets_loads_it_in_a_fresh_process(built: Built, tmp_path: Path) -> None:
    script = """
import json, sys
from datasets import get_dataset_config_names, load_dataset
out = sys.argv[1]
mixture, rejected = load_dataset(out, split="train"), load_dataset(out, "rejected", split="train")
streamed = next(iter(load_dataset(out, split="train", streaming=True)))
from pipeline.publish.parquet import content_hash
print(json.dumps([get_dataset_config_names(out), len(mixture), len(rejected), content_hash(mixture), streamed["id"]]))
"""
    env = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script, str(built.out)], env=env, capture_output=True, text=True, check=True
    )
    configs, rows, rejected, hashed, first = json.loads(done.stdout.splitlines()[-1])
    assert configs == ["mixture", "rejected"]
    assert rows == 4450
    assert rejected == built.manifest["rows"]["rejected"]
    assert hashed == built.manifest["content_hash"]
    assert first == rows_of(built.out / "data")[0]["id"]


def test_a_plan_counts_what_the_build_then_does(shared_data: Path, tmp_path: Path, built: Built) -> None:
    planned = plan(LoadedRecipe(parse(RECIPE, "x"), shared_data), tmp_path / "out", LocalRunner())
    assert not list(tmp_path.iterdir())
    assert planned.rows == {"harmful": 1000, "benign": 450, "math": 3000}
    assert planned.prefills["harmful"]["rows"] == 500
    assert planned.funnel == [row for row in built.manifest["funnel"] if row["step"] not in ("sample", "mix")]
    assert plan(LoadedRecipe(parse(RECIPE, "x"), shared_data), built.out, LocalRunner()).unchanged


def test_a_shortage_names_the_steps_that_took_the_rows(shared_data: Path, tmp_path: Path) -> None:
    with pytest.raises(ShortageError) as raised:
        make(shared_data, tmp_path / "out", "mixture.benign.rows=600")
    told = str(raised.value)
    assert "mixture.benign.rows asks for 600, 470 are left, 130 too few" in told
    assert "479 pulled, dedupe: -8 exact duplicate, dedupe: -1 near duplicate" in told
    assert "--allow-short" in told
    assert not (tmp_path / "out").exists()
