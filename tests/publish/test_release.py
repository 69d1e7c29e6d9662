"""Versions in a folder, and the card that others write on as well."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import load_dataset

from pipeline.errors import InputError, OutputError
from pipeline.publish import card, release
from pipeline.publish.folder import MANIFEST, file_hash
from pipeline.publish.release import Permissions, publish


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("build") / "demo"
    subprocess.run([sys.executable, "-m", "pipeline.cli", "build", "--out", str(out)], check=True, capture_output=True)
    return out


def probed(demo: Path, place: Path) -> Path:
    """The same rows with another manifest."""
    shutil.copytree(demo, place)
    manifest = json.loads((place / MANIFEST).read_text())
    manifest["probes"] = {"far": "read the token ids"}
    (place / MANIFEST).write_text(json.dumps(manifest))
    return place


def texts(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): file_hash(path) for path in folder.rglob("*") if path.is_file()}


# --- a folder of versions


def test_a_folder_gets_a_folder_a_version_and_a_link_to_the_newest(demo: Path, tmp_path: Path) -> None:
    place = tmp_path / "deep" / "versions"
    told = publish(demo, str(place))
    assert (told.version, told.commit, told.url, told.change) == ("v1.0.0", None, str(place / "v1.0.0"), "first")
    first = texts(place / "v1.0.0")
    told = publish(probed(demo, tmp_path / "probed"), str(place))
    assert (told.version, told.change) == ("v1.0.1", "patch")
    assert texts(place / "v1.0.0") == first
    assert os.readlink(place / "latest") == "v1.0.1"
    assert sorted(path.name for path in place.iterdir()) == ["latest", "v1.0.0", "v1.0.1"]
    assert json.loads((place / "latest" / MANIFEST).read_text())["version"] == "1.0.1"


def test_the_same_content_is_no_version(demo: Path, tmp_path: Path) -> None:
    publish(demo, str(tmp_path / "versions"))
    before = texts(tmp_path / "versions")
    (tmp_path / "versions" / "latest").unlink()
    told = publish(demo, str(tmp_path / "versions"))
    assert (told.version, told.unchanged) == ("v1.0.0", True)
    assert texts(tmp_path / "versions") == before
    assert (tmp_path / "versions" / "latest" / MANIFEST).is_file()


def test_a_version_loads_from_its_folder(demo: Path, tmp_path: Path) -> None:
    publish(demo, str(tmp_path / "versions"))
    loaded = load_dataset(str(tmp_path / "versions" / "latest"), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(loaded) == 240


def test_what_a_killed_run_left_is_cleared_away(demo: Path, tmp_path: Path) -> None:
    left = tmp_path / "versions" / ".v1.0.0.work"
    left.mkdir(parents=True)
    (left / "half").write_text("half")
    assert publish(demo, str(tmp_path / "versions")).version == "v1.0.0"
    assert sorted(path.name for path in (tmp_path / "versions").iterdir()) == ["latest", "v1.0.0"]
    assert not (tmp_path / "versions" / "v1.0.0" / "half").exists()


def test_a_copy_that_fails_leaves_no_version(demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device", str(tmp_path))

    with monkeypatch.context() as patched:
        patched.setattr(release.shutil, "copyfile", full)
        with pytest.raises(OutputError, match="No space left on device"):
            publish(demo, str(tmp_path / "versions"))
    assert list((tmp_path / "versions").iterdir()) == []


@pytest.mark.parametrize(
    ("to", "says"),
    [
        (None, "Say where to publish: --to hub:owner/name"),
        ("hub:", "names no repository"),
        ("hub:a/b/c", "names no repository"),
        ("https://huggingface.co/a/b", "is no place to publish to"),
    ],
)
def test_no_place(demo: Path, to: str | None, says: str) -> None:
    with pytest.raises(InputError, match=says):
        publish(demo, to)


def test_no_build(demo: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no finished build"):
        publish(tmp_path, str(tmp_path / "versions"))
    shutil.copytree(demo, tmp_path / "damaged")
    (next((tmp_path / "damaged" / "data").iterdir())).write_bytes(b"PAR1")
    with pytest.raises(InputError, match="something changed them"):
        publish(tmp_path / "damaged", str(tmp_path / "versions"))
    assert not (tmp_path / "versions").exists()


def test_a_permission_for_the_hub_is_none_for_a_folder(demo: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="are for the Hub"):
        publish(demo, str(tmp_path / "versions"), permissions=Permissions(public=True))


def test_a_source_without_a_licence_is_never_made_public(demo: Path, tmp_path: Path) -> None:
    shutil.copytree(demo, tmp_path / "unlicensed")
    manifest = json.loads((demo / MANIFEST).read_text())
    manifest["sources"][0] |= {"licence": None, "path": "data/mine.jsonl"}
    (tmp_path / "unlicensed" / MANIFEST).write_text(json.dumps(manifest))
    public = Permissions(public=True, public_harmful=True)
    with pytest.raises(InputError, match=r"data/mine.jsonl: no licence is known, so this build can't be in a public"):
        publish(tmp_path / "unlicensed", "hub:a/b", permissions=public)


# --- the card


def rendered(demo: Path, **changes: Any) -> str:
    return card.render(json.loads((demo / MANIFEST).read_text()) | changes)


def test_a_card_that_nobody_edited_is_replaced_whole(demo: Path) -> None:
    ours = rendered(demo, version="1.0.0")
    assert card.merge(None, ours) == card.merge("", ours) == card.merge(ours, ours) == ours
    assert card.merge(ours, rendered(demo, name="other")) == rendered(demo, name="other")


def test_hand_edits_stay_to_the_byte_where_nothing_of_ours_changes(demo: Path) -> None:
    ours = rendered(demo)
    edited = ours.replace("---\n", "---\n# a comment\nextra:   {a: 1}\n", 1).replace(
        "\n\n<!--", "\n\nAbove.\n\n<!--", 1
    )
    edited = edited.replace("- recap\n", "- recap\n- mine\n") + "\nBelow.\n"
    assert card.merge(edited, ours) == edited
    merged = card.merge(edited, rendered(demo, name="other"))
    assert "\n# other\n" in merged
    assert "\n# demo\n" not in merged
    assert "\nAbove.\n" in merged
    assert merged.endswith("<!-- recap-data:end -->\n\nBelow.\n")
    front = yaml.safe_load(merged.split("---\n")[1])
    assert front["extra"] == {"a": 1}
    assert front["pretty_name"] == "other"
    assert {"mine", "not-for-all-audiences"} <= set(front["tags"])
    assert card.merge(merged, rendered(demo, name="other")) == merged


def test_a_card_of_somebody_elses_comes_after_ours(demo: Path) -> None:
    ours = rendered(demo)
    merged = card.merge("---\nlicense: mit\ndataset_info: {features: []}\nmine: 1\n---\n# Theirs\n", ours)
    assert merged.index("recap-data:end") < merged.index("# Theirs")
    front = yaml.safe_load(merged.split("---\n")[1])
    assert (front["license"], front["mine"], "dataset_info" in front) == ("apache-2.0", 1, False)
    assert card.merge(merged, ours) == merged
    assert card.merge("Only text.", ours).endswith("recap-data:end -->\n\nOnly text.")


@pytest.mark.parametrize(
    ("existing", "says"),
    [
        ("---\n: {\n---\n", "can't be read"),
        ("---\n- a\n---\n", "can't be read"),
        ("<!-- recap-data:begin -->\ntext", "marks are damaged"),
        ("<!-- recap-data:end -->\n<!-- recap-data:begin -->", "marks are damaged"),
    ],
)
def test_a_card_that_cant_be_merged_is_left_alone(demo: Path, existing: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        card.merge(existing, rendered(demo))


# --- what people write on a card


def write_on(folder: Path, above: str, below: str, **keys: str) -> str:
    """Write by hand above and below our part of a card, and keys into its YAML."""
    text = (folder / "README.md").read_text()
    front, body = text[4:].split("\n---\n", 1)
    more = "".join(f"{key}: {value}\n" for key, value in keys.items())
    start, stop = body.index(card.BEGIN), body.index(card.END) + len(card.END)
    edited = f"---\n{front}\n{more}---\n{body[:start]}{above}\n\n{body[start:stop]}\n\n{below}\n{body[stop:]}"
    (folder / "README.md").write_text(edited)
    return edited


def built(place: Path, *overrides: str) -> str:
    options = [part for override in overrides for part in ("--set", override)]
    command = [sys.executable, "-m", "pipeline.cli", "build", "--out", str(place), *options]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stderr


def test_text_on_the_card_of_a_build_outlives_the_next_builds(demo: Path, tmp_path: Path) -> None:
    place = tmp_path / "demo"
    shutil.copytree(demo, place)
    edited = write_on(place, "Above.", "Below.", mine="yes")
    assert "unchanged" in built(place)
    assert (place / "README.md").read_text() == edited
    assert "built" in built(place, "seed=7")
    text = (place / "README.md").read_text()
    assert text != edited
    for part in ("mine: ", "Above.\n", "\nBelow."):
        assert text.count(part) == 1
    assert "unchanged" in built(place, "seed=7")
    fresh = tmp_path / "fresh"
    built(fresh, "seed=7")
    assert (place / MANIFEST).read_bytes() == (fresh / MANIFEST).read_bytes(), "what is written on a card is no input"
    done = subprocess.run([sys.executable, "-m", "pipeline.cli", "verify", str(place)], check=True, capture_output=True)
    assert b"verified" in done.stdout


def test_a_card_with_damaged_marks_stops_a_build_before_anything_is_done(demo: Path, tmp_path: Path) -> None:
    place = tmp_path / "demo"
    shutil.copytree(demo, place)
    text = (place / "README.md").read_text().replace(card.END, "")
    (place / "README.md").write_text(text)
    command = [sys.executable, "-m", "pipeline.cli", "build", "--out", str(place), "--set", "seed=7"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.returncode, "marks are damaged" in done.stderr, "pull" in done.stderr) == (2, True, False)
    assert (place / "README.md").read_text() == text


def test_text_on_the_cards_of_a_build_and_of_versions_is_published(demo: Path, tmp_path: Path) -> None:
    build, place = tmp_path / "demo", tmp_path / "versions"
    shutil.copytree(demo, build)
    write_on(build, "From the build.", "Below.", mine="yes")
    publish(build, str(place))
    first = (place / "v1.0.0/README.md").read_text()
    assert first.count("From the build.") == first.count("Below.") == first.count("mine: ") == 1
    write_on(place / "v1.0.0", "From the version.", "At its end.")
    assert publish(build, str(place)).unchanged
    manifest = json.loads((build / MANIFEST).read_text())
    (build / MANIFEST).write_text(json.dumps(manifest | {"probes": {"far": "read the token ids"}}))
    assert publish(build, str(place)).version == "v1.0.1"
    second = (place / "v1.0.1/README.md").read_text()
    for part in ("From the build.", "From the version.", "Below.", "At its end."):
        assert second.count(part) == 1
    for folder in ("v1.0.0", "latest"):
        assert len(load_dataset(str(place / folder), split="train")) == 240
