"""Versions on the Hub, read with the real client: compared, verified, or it is said why not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.publish.folder import file_hash, read_manifest, write_manifest
from pipeline.publish.parquet import ContentHash
from tests.publish.test_diff import row, write
from tests.servers.endpoint import endpoint
from tests.servers.hub import Hub, hub
from tests.test_verify import SAMPLED

REPO = "my-org/mix"
PLACE = f"hub:{REPO}"


class User:
    """Somebody with a cache and a token, who calls the command."""

    def __init__(self, server: Hub, home: Path, token: str | None = Hub.token) -> None:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        self.env, self.home = kept | server.environment(home / "hf", token), home

    def says(self, *args: str | Path, code: int = 0, **env: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "pipeline.cli", *map(str, args)],
            env=self.env | env,
            cwd=self.home,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        assert not any(token in done.stdout + done.stderr for token in (Hub.token, Hub.read_token, Hub.other_token))
        return done.stdout if code == 0 or done.stdout else done.stderr

    def diff(self, *args: str | Path) -> dict[str, Any]:
        return dict(json.loads(self.says("diff", *args, "--json")))

    def one_line(self, *args: str | Path, code: int, **env: str) -> str:
        """What is said last, behind the progress of a rebuild: the error, on one line."""
        *_, told = self.says(*args, code=code, **env).splitlines()
        assert told.startswith("recap-data: ")
        return told


@pytest.fixture(scope="module")
def server() -> Iterator[Hub]:
    with hub(commits_per_hour=0) as running:
        yield running


@pytest.fixture(scope="module")
def place(server: Hub, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two builds ``v1`` and ``v2``, published to the Hub and to the folder ``published``."""
    home = tmp_path_factory.mktemp("place")
    user = User(server, home)
    for name, changes in (("v1", []), ("v2", ["--set", "seed=1", "--set", "mixture.math.rows=100"])):
        user.says("build", "demo", "--out", name, *changes)
        user.says("publish", name, "--to", PLACE)
        user.says("publish", name, "--to", "published")
    assert sorted(server.tags(REPO)) == ["v1.0.0", "v1.1.0"]
    return home


@pytest.fixture
def user(server: Hub, place: Path, tmp_path: Path) -> User:
    """Somebody else, with an empty cache."""
    server.clear()
    return User(server, tmp_path)


def asked_for(server: Hub) -> set[str]:
    """The files that somebody asked the Hub for."""
    return {record.path.rpartition("/")[2] for record in server.log() if record.route == "resolve"}


def without_names(told: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in told.items() if key not in ("old", "new")}


# --- what is compared


def test_versions_on_the_hub_differ_as_their_folders_do(user: User, place: Path) -> None:
    found = user.diff(f"{PLACE}@v1.0.0", f"{PLACE}@v1.1.0")
    assert (found["old"], found["new"]) == (f"{PLACE}@v1.0.0", f"{PLACE}@v1.1.0")
    before, after = ({row["id"] for row in pq.read_table(place / v / "data").to_pylist()} for v in ("v1", "v2"))
    assert found["rows"]["removed"] == len(before - after) > 0
    assert found["rows"]["added"] == len(after - before)
    assert found["rows"]["same"] > 0
    assert {"path": "mixture.math.rows", "old": 120, "new": 100} in found["recipe"]
    assert without_names(user.diff(PLACE, "v1.0.0", "v1.1.0")) == without_names(found)
    local = user.diff(place / "published", "v1.0.0", "latest")
    assert local["rows"] == found["rows"]
    assert local["groups"] == found["groups"]


def test_every_way_to_name_a_version(user: User, server: Hub, place: Path) -> None:
    main, first = server.commits(REPO)[0].oid, server.tags(REPO)["v1.0.0"]
    for reference, name in (
        (PLACE, f"{PLACE}@v1.1.0"),
        (f"{PLACE}@1.1.0", f"{PLACE}@v1.1.0"),
        (f"{PLACE}@main", f"{PLACE}@main ({main[:12]})"),
        (f"{PLACE}@{main}", f"{PLACE}@{main[:12]}"),
    ):
        found = user.diff(reference, place / "published")
        assert (found["old"], found["new"]) == (name, str(place / "published/v1.1.0"))
        assert found["rows"]["same"] == found["rows"]["old"] == found["rows"]["new"] == 220
    assert user.diff(PLACE, "1.0.0", "main")["old"] == f"{PLACE}@v1.0.0"
    assert user.diff(f"{PLACE}@{first}", place / "v1")["rows"]["same"] == 240


def test_what_was_downloaded_is_not_downloaded_again(user: User, server: Hub) -> None:
    user.diff(PLACE, "v1.0.0", "v1.1.0")
    assert asked_for(server)
    server.clear()
    user.diff(PLACE, "v1.0.0", "v1.1.0")
    assert asked_for(server) == set()
    server.clear()
    told = user.says("diff", PLACE, "v1.0.0", "v1.1.0", HF_HUB_OFFLINE="1")
    assert "rows: 240 -> " in told
    assert server.log() == []


def with_variants(place: Path, server: Hub, name: str) -> None:
    """Two versions of a repository whose manifests name variants: ``half``, and ``long`` in the second one alone."""
    rows = [row(letter) for letter in "abcdef"]
    for version, hashes in (("v1.0.0", {"half": "h1"}), ("v1.1.0", {"half": "h2", "long": "l"})):
        folder = write(place / version, rows, content_hash="c", funnel=[], variants={
            variant: {"content_hash": content, "prefilled": {"harmful": 3}} for variant, content in hashes.items()
        })  # fmt: skip
        manifest = read_manifest(folder)
        assert manifest is not None
        (source,) = (folder / "data").iterdir()
        for variant in hashes:
            (folder / variant).mkdir()
            file = folder / variant / f"{variant}-00000-of-00001.parquet"
            prefilled = [row(letter, prefill="x" if version == "v1.0.0" else "y") for letter in "abcdef"]
            table = pa.Table.from_pylist(sorted(prefilled, key=lambda row: row["id"]), pq.read_schema(source))
            pq.write_table(table, file)
            manifest["files"][f"{variant}/{file.name}"] = file_hash(file)
        write_manifest(folder, manifest)
        (folder / "LICENSE").write_text("not asked for")
        server.add(name, folder, tag=version)


def test_other_configs_are_told_and_downloaded_when_asked_for(user: User, server: Hub, tmp_path: Path) -> None:
    with_variants(tmp_path, server, "my-org/variants")
    place = "hub:my-org/variants"
    found = user.diff(place, "v1.0.0", "v1.1.0")
    assert found["rows"]["same"] == 6
    assert found["configs"] == [
        {"path": "half", "old": "h1", "new": "h2"},
        {"path": "long", "old": None, "new": "l"},
    ]
    assert not found["empty"]
    assert asked_for(server) == {
        "README.md",
        "manifest.json",
        "mixture-00000-of-00001.parquet",
        "rejected-00000-of-00001.parquet",
    }
    half = user.diff(place, "v1.0.0", "v1.1.0", "--config", "half")
    assert (half["config"], half["content_hash"]) == ("half", ["h1", "h2"])
    assert half["rows"]["changed"] == 6
    assert [change["path"] for change in half["configs"]] == ["long"]
    assert "half-00000-of-00001.parquet" in asked_for(server)
    text, markdown = (user.says("diff", place, "v1.0.0", "v1.1.0", *more) for more in ([], ["--markdown"]))
    assert "other configs: 2 changed\n  half: h1 -> h2\n  long: not there -> l" in text
    assert "| `half` | h1 | h2 |" in markdown
    told = user.one_line("diff", place, "v1.0.0", "v1.1.0", "--config", "long", code=2)
    assert f"{place}@v1.0.0 has no config 'long' that can be compared. Those there are: mixture, half." in told


# --- what can't be read


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("hub:my-org/none@v1.0.0", "There is no dataset my-org/none"),
        ("hub:my-org/none", "There is no dataset my-org/none"),
        (f"{PLACE}@v9.0.0", f"{REPO} has no version, branch or commit 'v9.0.0'. Its versions: v1.0.0, v1.1.0."),
        (f"{PLACE}@{'0' * 40}", "Its versions: v1.0.0, v1.1.0."),
        ("hub:mix", "names no repository. Give hub:owner/name"),
        (f"{PLACE}@", "names no repository"),
        ("hub:a--b/c", "is no dataset name"),
        ("hub:my-org/plain", "has no version yet"),
        ("hub:my-org/plain@main", "is no version of a mixture: it has no manifest.json"),
        ("hub:my-org/bad@main", "is no version of a mixture"),
        ("hub:my-org/part@main", "lacks data/mixture-00000-of-00001.parquet"),
    ],
)
def test_what_is_no_version_is_told_with_what_there_is(
    user: User, server: Hub, tmp_path: Path, reference: str, says: str
) -> None:
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain/data.csv").write_text("prompt\nHello\n")
    server.add("my-org/plain", tmp_path / "plain")
    outside = {"fingerprint": "f", "funnel": [], "content_hash": "c", "files": {"../../outside.parquet": "0"}}
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/manifest.json").write_text(json.dumps(outside))
    server.add("my-org/bad", tmp_path / "bad")
    part = write(tmp_path / "part", [row("a")])
    shutil.rmtree(part / "data")
    server.add("my-org/part", part)
    assert says in user.one_line("diff", PLACE, reference, code=2)


def test_versions_of_a_folder_are_told(user: User, place: Path) -> None:
    told = user.one_line("diff", place / "published", "v1.0.0", "v7", code=2)
    assert "has no version v7. Its versions: v1.0.0, v1.1.0." in told
    assert "has no version v1. Its versions: none." in user.one_line("diff", place / "v1", "v1", "v2", code=2)
    assert "names a version, and v1.0.0 another" in user.one_line("diff", f"{PLACE}@main", "v1.0.0", "v1.1.0", code=2)
    assert "Give two versions" in user.one_line("diff", PLACE, code=2)


def test_no_access_is_told(server: Hub, place: Path, tmp_path: Path) -> None:
    server.add("my-org/gated", place / "published/v1.0.0", gated="manual", tag="v1.0.0")
    for token, says in ((Hub.other_token, "check what HF_TOKEN gives access to"), (None, "set HF_TOKEN")):
        stranger = User(server, tmp_path / str(token), token)
        stranger.home.mkdir()
        told = stranger.one_line("diff", PLACE, "v1.0.0", "v1.1.0", code=2)
        assert f"There is no dataset {REPO}" in told
        assert says in told
        told = stranger.one_line("diff", "hub:my-org/gated", place / "v1", code=2)
        assert "my-org/gated is gated: accept its terms at " in told
        assert says in told
    server.grant("my-org/gated", "stranger")
    stranger = User(server, tmp_path / Hub.other_token, Hub.other_token)
    assert stranger.diff("hub:my-org/gated", place / "v1")["rows"]["same"] == 240


def test_a_hub_that_fails_is_told_and_the_next_try_goes_on(user: User, server: Hub, place: Path) -> None:
    reference = f"{PLACE}@v1.0.0"
    server.fail("info", 503, times=99)
    told = user.one_line("diff", reference, place / "v1", code=1)
    assert "answered HTTP 503" in told
    assert "run the same command again" in told
    server.heal()
    server.fail("info", "reset", times=99)
    assert "can't be reached" in user.one_line("diff", reference, place / "v1", code=1)
    server.heal()
    server.fail("download", "cut", times=99)
    told = user.one_line("diff", reference, place / "v1", code=1)
    assert f"{REPO} can't be reached" in told
    assert "What was downloaded is kept" in told
    server.clear()
    assert user.diff(reference, place / "v1")["rows"]["same"] == 240
    assert "manifest.json" not in asked_for(server)


# --- what is verified


def test_a_published_version_is_verified_from_an_empty_cache(user: User) -> None:
    found = json.loads(user.says("verify", f"{PLACE}@v1.0.0", "--json"))
    assert found["verified"]
    assert found["name"] == f"{PLACE}@v1.0.0"
    assert found["damaged"] == found["different"] == found["causes"] == found["variants"] == []
    assert f"{PLACE}@v1.1.0: verified, content" in user.says("verify", PLACE)


def tampered(build: Path, place: Path) -> Path:
    """A build with another row whose manifest has the hashes of that."""
    shutil.copytree(build, place)
    (file,) = (place / "data").iterdir()
    table = pq.read_table(file)
    rows = table.to_pylist()
    rows[0]["prompt"][0]["content"] += " (changed)"
    pq.write_table(pa.Table.from_pylist(rows, table.schema), file)
    hashed = ContentHash()
    hashed.update(rows)
    manifest = read_manifest(place)
    assert manifest is not None
    files = manifest["files"] | {f"data/{file.name}": file_hash(file)}
    write_manifest(place, manifest | {"files": files, "content_hash": hashed.hexdigest()})
    return place


def test_a_version_that_does_not_follow_from_its_recipe_is_not_verified(
    user: User, server: Hub, place: Path, tmp_path: Path
) -> None:
    User(server, place).says("publish", tampered(place / "v1", tmp_path / "bad"), "--to", "hub:my-org/tampered")
    told = user.says("verify", "hub:my-org/tampered", code=1)
    assert "hub:my-org/tampered@v1.0.0: NOT verified" in told
    assert "the rows made anew are others" in told
    server.commit(REPO, {"data/mixture-00000-of-00001.parquet": None})
    told = user.says("verify", f"{PLACE}@main", code=1)
    assert "data/mixture-00000-of-00001.parquet is not what the manifest says" in told


def test_a_variant_that_is_not_made_again_is_not_verified(user: User, server: Hub, place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "published/v1.0.0", tmp_path / "more")
    manifest = read_manifest(tmp_path / "more")
    assert manifest is not None
    variants = {"half": {"content_hash": "0" * 64, "prefilled": {}}}
    write_manifest(tmp_path / "more", manifest | {"variants": variants})
    server.add("my-org/more", tmp_path / "more", tag="v1.0.0")
    found = json.loads(user.says("verify", "hub:my-org/more", "--json", code=1))
    assert found["content_hash"] == found["rebuilt_hash"]
    assert found["variants"] == [{"path": "half", "old": "0" * 64, "new": None}]
    assert "the rows of half made anew are others" in user.says("verify", "hub:my-org/more", code=1)


def test_answers_come_from_the_ledger_that_is_named(server: Hub, tmp_path: Path) -> None:
    user = User(server, tmp_path)
    with endpoint(latency=0.002) as model:
        (tmp_path / "sampled.yaml").write_text(SAMPLED.replace("URL", model.base_url))
        user.says("build", "sampled.yaml")
        user.says("publish", "out/sampled", "--to", "hub:my-org/sampled")
        asked = len(model.log())
        user.says("verify", "hub:my-org/sampled", "--ledger", "out/ledger.sqlite")
        told = user.one_line("verify", "hub:my-org/sampled", code=1)
        assert "an answer of a model is needed, and no ledger was given" in told
        assert "--ledger" in told
        assert "There is no ledger gone" in user.one_line("verify", "hub:my-org/sampled", "--ledger", "gone", code=2)
        assert len(model.log()) == asked > 0
