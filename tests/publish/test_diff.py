"""What is said of two versions: every row accounted for, whatever the batches, and nothing of a row quoted."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import InputError
from pipeline.publish import diff, folder
from pipeline.publish.diff import NOT_PULLED, Change, compare, to_markdown, to_text
from pipeline.publish.opening import open_version
from pipeline.publish.parquet import ShardedWriter
from pipeline.schema import MIXTURE, REJECTED

Row = dict[str, Any]

RECIPE = """\
name: small
sources:
  harmful: [{files: [a.jsonl, b.jsonl], prompt: prompt, licence: mit}]
  math: [{files: math.jsonl, prompt: prompt, ground_truth: answer, licence: mit}]
samplers:
  template: {engine: template}
mixture:
  harmful: {rows: 6, prefill: {sampler: template, share: 0.5, words: 120}}
  math: {rows: 4}
"""
THINGS = (
    "kettle",
    "lamp",
    "boat",
    "garden",
    "clock",
    "fence",
    "violin",
    "bridge",
    "ladder",
    "basket",
    "tent",
    "camera",
)


def row(name: str, **changed: Any) -> Row:
    domain = "math" if name.startswith("m") else "harmful"
    plain: Row = {
        "id": hashlib.sha256(name.encode()).hexdigest()[:32],
        "domain": domain,
        "prompt": [{"role": "user", "content": f"SECRET {name}"}],
        "prefill": None,
        "reward": "math" if domain == "math" else "safety",
        "ground_truth": None,
        "origin": {"dataset": f"set-{len(name) % 2}", "revision": "1", "row": 1},
        "sampling": None,
        "verdict": None,
    }
    return plain | changed


def dropped(name: str, stage: str, reason: str) -> Row:
    return row(name) | {"stage": stage, "reason": reason, "match": None}


def write(place: Path, rows: list[Row], rejected: list[Row] | None = None, **manifest: Any) -> Path:
    for kind, stem, schema, listed in (
        ("data", "mixture", MIXTURE, rows),
        ("rejected", "rejected", REJECTED, rejected or []),
    ):
        with ShardedWriter(place / kind, stem, schema, len(listed)) as writer:
            in_order = sorted(listed, key=lambda row: (row["id"], row.get("stage", "")))
            writer.write(pa.Table.from_pylist(in_order, schema=schema))
    (place / "README.md").write_text(f"# Card\n\n{len(rows)} rows\n")
    files = {path.relative_to(place).as_posix(): folder.file_hash(path) for path in place.rglob("*") if path.is_file()}
    stated = {"fingerprint": "f", "funnel": [], "recipe": {}, "content_hash": "c", **manifest}
    folder.write_manifest(place, stated | {"files": files})
    return place


def compared(tmp_path: Path, old: list[Row], new: list[Row], **more: Any) -> diff.Diff:
    left = write(tmp_path / "old", old, more.pop("old_rejected", None))
    right = write(tmp_path / "new", new, more.pop("new_rejected", None))
    return compare(open_version(str(left)), open_version(str(right)), **more)


def test_rows_are_told_by_domain_and_source(tmp_path: Path) -> None:
    old = [row("a"), row("bb"), row("m"), row("gone")]
    new = [row("a"), row("bb", prefill="x"), row("m", origin={"dataset": "set-1", "revision": "2"}), row("come")]
    found = compared(tmp_path, old, new)
    assert found.rows == {"old": 4, "new": 4, "same": 1, "added": 1, "removed": 1, "changed": 2}
    groups = {(group.domain, group.dataset): group for group in found.groups}
    assert groups["harmful", "set-0"][2:5] == (1, 1, 1)
    assert groups["harmful", "set-0"].columns == {"prefill": 1}
    assert groups["math", "set-1"].columns == {"origin.revision": 1, "origin.row": 1}
    assert found.examples == {kind: [row(name)["id"]] for kind, name in (("added", "come"), ("removed", "gone"))} | {
        "changed": sorted([row("bb")["id"], row("m")["id"]])
    }


def test_a_struct_that_comes_or_goes_is_one_change_and_a_field_is_its_own(tmp_path: Path) -> None:
    old = [row("a"), row("b", sampling={"seed": 1, "words": 9}), row("c", verdict={"sees": ["prompt"]})]
    new = [
        row("a", sampling={"seed": 1}),
        row("b", sampling={"seed": 2, "words": 9}),
        row("c", verdict={"sees": ["prompt", "thinking"]}),
    ]
    (group,) = compared(tmp_path, old, new).groups
    assert group.columns == {"sampling": 1, "sampling.seed": 1, "verdict.sees": 1}
    assert group.changed == 3


def test_reasons_are_those_of_the_last_step_and_of_the_other_version(tmp_path: Path) -> None:
    found = compared(
        tmp_path,
        [row("a"), row("b"), row("c")],
        [row("d"), row("e")],
        new_rejected=[
            dropped("a", "choose", "over the quota"),
            dropped("a", "dedupe", "exact duplicate"),
            dropped("b", "decontaminate", "in evaluation"),
        ],
        old_rejected=[dropped("d", "sample", "too short")],
    )
    (group,) = found.groups
    assert group.reasons == {"choose: over the quota": 1, "decontaminate: in evaluation": 1, NOT_PULLED: 1}
    assert group.before == {"sample: too short": 1, NOT_PULLED: 1}


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_it_says_what_a_comparison_in_memory_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    monkeypatch.setattr(diff, "BATCH", batch)
    rng = random.Random(batch)
    names = [f"{'m' * (number % 3 == 0)}{number}" for number in range(300)]
    texts = [None, "one", "two"]
    old = {name: row(name, prefill=rng.choice(texts)) for name in names if rng.random() < 0.7}
    new = {name: row(name, prefill=rng.choice(texts)) for name in names if rng.random() < 0.7}
    stages = {name: rng.choice(diff.STAGES) for name in names}
    rejected = [dropped(name, stages[name], "why") for name in names if name not in new and rng.random() < 0.6]
    found = compared(tmp_path, list(old.values()), list(new.values()), new_rejected=rejected, examples=1000)

    both = old.keys() & new.keys()
    changed = {name for name in both if old[name] != new[name]}
    assert found.rows == {
        "old": len(old),
        "new": len(new),
        "same": len(both - changed),
        "added": len(new.keys() - old.keys()),
        "removed": len(old.keys() - new.keys()),
        "changed": len(changed),
    }
    assert found.examples["removed"] == sorted(old[name]["id"] for name in old.keys() - new.keys())
    assert found.examples["changed"] == sorted(old[name]["id"] for name in changed)
    said = Counter[str]()
    for group in found.groups:
        said.update(group.reasons)
    told = {entry["id"] for entry in rejected}
    gone = old.keys() - new.keys()
    expected = Counter(f"{stages[name]}: why" if old[name]["id"] in told else NOT_PULLED for name in gone)
    assert said == expected


def test_versions_without_rows_and_equal_ones(tmp_path: Path) -> None:
    assert compared(tmp_path / "1", [], [row("a")]).rows["added"] == 1
    assert compared(tmp_path / "2", [row("a")], []).rows["removed"] == 1
    assert compared(tmp_path / "3", [], []).empty
    same = compared(tmp_path / "4", [row("a")], [row("a")])
    assert same.empty
    assert "nothing differs: 1 rows" in to_text(same)
    assert "Nothing differs." in to_markdown(same)


def test_recipe_inputs_and_schema_by_dotted_path(tmp_path: Path) -> None:
    sources = [{"domain": "math", "dataset": "d", "config": None, "split": "train", "revision": "1", "path": None}]
    old = write(
        tmp_path / "old",
        [row("a")],
        recipe={"mixture": {"math": {"rows": 5}}, "sources": {"math": [{"where": {"x": [1, 2]}}]}},
        packages={"numpy": "1"},
        sources=sources,
    )
    new = write(
        tmp_path / "new",
        [row("a")],
        recipe={"mixture": {"math": {"rows": 6}}, "sources": {"math": [{"where": {"x": [1]}}, {"files": ["a"]}]}},
        packages={"numpy": "2"},
        sources=[sources[0] | {"revision": "2"}],
    )
    path = new / "data/mixture-00000-of-00001.parquet"
    pq.write_table(pq.read_table(path).drop_columns("ground_truth"), path)
    found = compare(open_version(str(old)), open_version(str(new)))
    assert found.recipe == [
        Change("mixture.math.rows", 5, 6),
        Change("sources.math.0.where.x", [1, 2], [1]),
        Change("sources.math.1", None, {"files": ["a"]}),
    ]
    assert found.inputs == [Change("packages.numpy", "1", "2"), Change("sources.math/d/train", "1", "2")]
    assert found.schema == [Change("ground_truth", "string", None)]
    assert found.rows["same"] == 1
    assert "mixture.math.rows: 5 -> 6" in to_text(found)
    assert '| `packages.numpy` | "1" | "2" |' in to_markdown(found)


def test_what_is_no_version_is_refused(tmp_path: Path) -> None:
    for reference, says in (
        (str(tmp_path / "none"), "There is no folder"),
        (str(tmp_path), "no finished build"),
        ("hub:a@v1", "names no repository"),
    ):
        with pytest.raises(InputError, match=says):
            open_version(reference)
    place = write(tmp_path / "build", [row("a")])
    (place / "data/mixture-00000-of-00001.parquet").unlink()
    with pytest.raises(InputError, match="lacks data/mixture"):
        open_version(str(place))


def test_a_file_that_is_not_sorted_or_not_parquet_is_told(tmp_path: Path) -> None:
    place = write(tmp_path / "build", [row("a"), row("b")])
    version = open_version(str(place))
    (file,) = version.configs["mixture"]
    table = pq.read_table(file)
    pq.write_table(table.take(pa.array([1, 0])), file)
    with pytest.raises(InputError, match="not sorted by id"):
        compare(version, version)
    file.write_bytes(b"PAR1 nothing")
    with pytest.raises(InputError, match="can't be read"):
        compare(version, version)


def test_the_command_on_real_builds(tmp_path: Path) -> None:
    def command(*args: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "pipeline.cli", *args], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout or done.stderr

    rng = random.Random(1)
    for name in ("a", "b", "math"):
        texts = [f"How do I mend {rng.choice(THINGS)} {n} with {rng.choice(THINGS)} and {name}?" for n in range(8)]
        (tmp_path / f"{name}.jsonl").write_text(
            "".join(json.dumps({"prompt": text, "answer": "7"}) + "\n" for text in texts)
        )
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    command("build", "recipe.yaml", "--out", "v1", "--set", "clean.dedupe.near=null")
    lines = (tmp_path / "a.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "a.jsonl").write_text("".join(lines[:-3]))
    changes = ["--set", "mixture.harmful.rows=5", "--set", "clean.dedupe.near=null"]
    command("build", "recipe.yaml", "--out", "v2", *changes)

    found = json.loads(command("diff", "v1", "v2", "--json"))
    before, after = ({row["id"]: row for row in pq.read_table(tmp_path / v / "data").to_pylist()} for v in ("v1", "v2"))
    assert found["rows"]["removed"] == len(before.keys() - after.keys()) > 0
    assert found["rows"]["added"] == len(after.keys() - before.keys())
    assert found["rows"]["changed"] == sum(before[row] != after[row] for row in before.keys() & after.keys()) > 0
    assert {"path": "mixture.harmful.rows", "old": 6, "new": 5} in found["recipe"]
    assert [change["path"] for change in found["inputs"]] == ["sources.harmful/a.jsonl/a.jsonl"]
    text, markdown = command("diff", "v1", "v2"), command("diff", "v1", "v2", "--markdown")
    for told in (json.dumps(found), text, markdown):
        assert "rows" in told
        assert "How do I" not in told
        assert not any(row["prefill"] and row["prefill"][:20] in told for row in (before | after).values())
    assert "nothing differs" in command("diff", "v2", "v2")
    assert "There is no folder v3" in command("diff", "v1", "v3", code=2)
    assert "can't both be printed" in command("diff", "v1", "v2", "--json", "--markdown", code=2)
