"""From the recipe's words to places: known datasets, paths and globs, and the real files."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import SourceError
from pipeline.recipe import GroundTruth, Source
from pipeline.schema import Domain
from pipeline.sources import KNOWN, Pulled, complete, known, locate, texts

GOOD = '{"prompt": "a prompt"}\n'


def paths(files: tuple[str, ...], folder: Path) -> list[str | None]:
    return [place.path for place in locate(Source(files=files, prompt="prompt"), folder)]


def test_files_are_sorted_and_unique_whatever_the_recipe_lists(write: Callable[..., Path], tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl", "deep/er/c.jsonl", "deep/er/d.csv"):
        write(name, GOOD)
    expected = ["a.jsonl", "b.jsonl", "deep/er/c.jsonl"]
    assert paths(("**/*.jsonl",), tmp_path) == expected
    assert paths(("b.jsonl", "deep/*/*.jsonl", "./a.jsonl", "[ab].jsonl", "deep/../b.jsonl"), tmp_path) == expected
    assert paths(("deep/er/c.jsonl", "a.jsonl", "b.jsonl"), tmp_path) == expected


def test_relative_to_the_recipe_absolute_and_above(write: Callable[..., Path], tmp_path: Path) -> None:
    path = write("data/a.jsonl", GOOD)
    folder = tmp_path / "recipes"
    folder.mkdir()
    assert paths(("../data/*.jsonl",), folder) == ["../data/a.jsonl"]
    assert paths((str(path),), folder) == [path.as_posix()]


def test_a_name_with_glob_characters_is_taken_literally_first(write: Callable[..., Path], tmp_path: Path) -> None:
    write("set[1].jsonl", GOOD)
    write("set1.jsonl", GOOD)
    assert paths(("set[1].jsonl",), tmp_path) == ["set[1].jsonl"]


def test_upper_case_suffix(write: Callable[..., Path], tmp_path: Path) -> None:
    write("A.JSONL", GOOD)
    assert paths(("*.JSONL",), tmp_path) == ["A.JSONL"]


def test_revision_is_the_hash_of_the_bytes(write: Callable[..., Path], tmp_path: Path) -> None:
    path = write("a.jsonl.gz", GOOD)
    (place,) = locate(Source(files=("a.jsonl.gz",), prompt="prompt", licence="mit", split="train"), tmp_path)
    assert place.revision == "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
    assert (place.dataset, place.config, place.split, place.licence) == ("a.jsonl.gz", None, "train", "mit")


def test_origin_of_a_file(write: Callable[..., Path], read: Callable[..., Pulled]) -> None:
    path = write("data/a.jsonl", GOOD)
    (row,) = read("data/*.jsonl", "benign", licence="odc-by").rows
    assert row["domain"] == "benign"
    assert row["origin"] == {
        "dataset": "a.jsonl",
        "config": None,
        "split": None,
        "revision": "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest(),
        "licence": "odc-by",
        "row": 0,
        "category": None,
    }
    assert read("data/*.jsonl", dataset="my/own").rows[0]["origin"]["dataset"] == "my/own"


def test_complete_fills_what_the_recipe_left_out() -> None:
    assert complete(Source(dataset="openai/gsm8k")) == Source(
        dataset="openai/gsm8k",
        config="main",
        split="train",
        prompt="question",
        ground_truth=GroundTruth(field="answer", after="####"),
        licence="mit",
    )
    assert complete(Source(dataset="OpenAI/GSM8K")).dataset == "openai/gsm8k"


def test_complete_never_overrides() -> None:
    said = Source(
        dataset="openai/gsm8k",
        config="socratic",
        split="test",
        prompt="answer",
        category="c",
        licence="other",
        ground_truth=GroundTruth(field="question"),
    )
    assert complete(said) == said


def test_complete_leaves_config_and_split_of_files_alone() -> None:
    source = complete(Source(dataset="openai/gsm8k", files=("test.jsonl",)))
    assert (source.config, source.split, source.prompt, source.licence) == (None, None, "question", "mit")


def test_complete_is_idempotent() -> None:
    for entry in KNOWN:
        for files in (None, ("a.jsonl",)):
            once = complete(Source(dataset=entry.name, files=files))
            assert complete(once) == once


def test_unknown_dataset_needs_a_prompt() -> None:
    with pytest.raises(SourceError, match=r"did you mean openai/gsm8k\?.*Any dataset works once prompt:"):
        complete(Source(dataset="openai/gsm8"))
    with pytest.raises(SourceError, match=r"did you mean UCSC-VLAA/STAR-1\?"):
        complete(Source(dataset="star-1"))
    with pytest.raises(SourceError, match="no known dataset, so"):
        complete(Source(dataset="somebody/entirely-else"))
    with pytest.raises(SourceError, match="name the field that holds the prompt"):
        complete(Source(files=("a.jsonl",)))
    own = complete(Source(dataset="somebody/entirely-else", prompt="text"))
    assert (own.prompt, own.split, own.licence) == ("text", "train", None)


def test_a_known_dataset_file_with_none_of_its_prompt_fields(
    write: Callable[..., Path], tmp_path: Path, merge: Callable[..., Pulled]
) -> None:
    write("a.csv", "text,category\nx,y\n")
    with pytest.raises(SourceError, match=r"no field 'prompt' or 'forbidden_prompt' .*: there is text, category"):
        merge(Source(dataset="walledai/StrongREJECT", files=("a.csv",)), tmp_path)


def test_a_known_dataset_file_may_lack_the_category(
    write: Callable[..., Path], tmp_path: Path, merge: Callable[..., Pulled]
) -> None:
    write("a.jsonl", '{"question": "q"}\n')
    got = merge(Source(dataset="UCSC-VLAA/STAR-1", files=("a.jsonl",)), tmp_path)
    assert [row["origin"]["category"] for row in got.rows] == [None]


def test_known_datasets_are_whole() -> None:
    names = [entry.name for entry in KNOWN]
    assert len({name.casefold() for name in names}) == len(names) >= 20
    for entry in KNOWN:
        assert known(entry.name.upper()) is entry
        assert entry.prompt
        assert entry.terms.endswith(".")
        assert (entry.domain == "math") == (entry.ground_truth is not None)
        assert entry.licence is not None or not entry.redistribute


REAL: list[tuple[str, str, Domain, int, dict[str, Any]]] = [
    ("openai/gsm8k", "math/gsm8k_train.jsonl", "math", 7473, {"ground_truth": "72", "licence": "mit"}),
    ("openai/gsm8k", "eval/gsm8k_test.jsonl", "math", 1319, {"ground_truth": "18", "category": None}),
    ("UCSC-VLAA/STAR-1", "harmful/STAR-1.json", "harmful", 1000, {"licence": "apache-2.0"}),
    ("allenai/coconot", "benign/coconot_pref.jsonl", "benign", 927, {"licence": "odc-by"}),
    ("HuggingFaceH4/MATH-500", "eval/math500_test.jsonl", "math", 500, {"category": "Precalculus", "licence": "mit"}),
    ("walledai/StrongREJECT", "eval/strongreject_dataset.csv", "harmful", 313, {"licence": "mit"}),
    ("Paul/XSTest", "eval/xstest_prompts.csv", "benign", 450, {"category": "homonyms", "licence": "cc-by-4.0"}),
]


@pytest.mark.parametrize("real", REAL, ids=[entry[1] for entry in REAL])
def test_published_files_need_no_fields(
    real: tuple[str, str, Domain, int, dict[str, Any]], shared_data: Path, merge: Callable[..., Pulled]
) -> None:
    dataset, file, domain, count, first = real
    source = Source(dataset=dataset, files=(file,))
    got = merge(source, shared_data, domain)
    assert (len(got.rows), got.rejected, got.read) == (count, [], count)
    row = got.rows[0]
    assert {key: row.get(key, row["origin"].get(key)) for key in first} == first
    assert row["origin"]["dataset"] == dataset
    assert all((row["ground_truth"] is not None) == (domain == "math") for row in got.rows)
    assert [row["origin"]["row"] for row in got.rows] == list(range(count))
    source = complete(source)
    assert sum(1 for place in locate(source, shared_data) for _ in texts(source, place)) == count


def test_gsm8k_ground_truth_is_a_plain_number(shared_data: Path, merge: Callable[..., Pulled]) -> None:
    got = merge(Source(dataset="openai/gsm8k", files=("math/gsm8k_train.jsonl",)), shared_data, "math")
    assert [row["ground_truth"] for row in got.rows if not row["ground_truth"].lstrip("-").isdecimal()] == []


def test_math_solutions_give_the_published_answers(shared_data: Path, merge: Callable[..., Pulled]) -> None:
    files = ("eval/math500_test.jsonl",)
    boxed = GroundTruth(field="solution", boxed=True)
    published = merge(Source(dataset="HuggingFaceH4/MATH-500", files=files), shared_data, "math")
    found = merge(Source(dataset="HuggingFaceH4/MATH-500", files=files, ground_truth=boxed), shared_data, "math")
    pairs = [(a["ground_truth"], b["ground_truth"]) for a, b in zip(published.rows, found.rows, strict=True)]
    assert sum(a == b for a, b in pairs) >= 495


def test_where_on_a_real_file(shared_data: Path, merge: Callable[..., Pulled]) -> None:
    where = {"category": "Requests with safety concerns"}
    got = merge(Source(dataset="allenai/coconot", files=("benign/*.jsonl",), where=where), shared_data, "benign")
    assert (got.read, got.selected, len({row["id"] for row in got.rows})) == (927, 479, 471)
    star = merge(Source(dataset="UCSC-VLAA/STAR-1", files=("harmful/*",), where={"category": "Self-Harm"}), shared_data)
    assert all("Self-Harm" in row["origin"]["category"].split(", ") for row in star.rows)
    assert 0 < star.selected < star.read == 1000


def test_importing_sources_is_light() -> None:
    code = "import sys, pipeline.sources; print({'datasets', 'huggingface_hub', 'pandas'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
