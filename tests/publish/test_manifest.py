"""A manifest from anywhere: one line that names the value, never a traceback, and no file outside of its folder."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline import cli
from pipeline.publish.folder import MANIFEST
from pipeline.publish.manifest import recipe_of

COMMANDS = ("publish", "diff", "verify", "report")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("build")
    recipe = (
        "name: small\nsources: {harmful: [{bundled: demo}], math: [{bundled: demo}]}\n"
        "samplers: {t: {engine: template}}\n"
        "clean: {decontaminate: {against: [{bundled: demo-eval}]}}\n"
        "mixture: {harmful: {rows: 5, prefill: {sampler: t, words: 60}}, math: {rows: 3}}\n"
        "variants: {none: {harmful: {share: 0.0}}}\n"
    )
    (place / "small.yaml").write_text(recipe)
    command = [sys.executable, "-m", "pipeline.cli", "build", "small.yaml", "--out", "demo"]
    subprocess.run(command, cwd=place, check=True, capture_output=True)
    return place / "demo"


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str]:
    """Run the command in this process: its exit code and what it said on standard error."""
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["recap-data", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    return int(ended.value.code or 0), capsys.readouterr().err


def arguments(command: str, folder: Path, demo: Path, place: Path) -> list[str | Path]:
    more: dict[str, list[str | Path]] = {
        "publish": ["--to", place / "versions"],
        "diff": [demo],
        "verify": ["--base", place],
        "report": ["--out", place / "page.html"],
    }
    return [command, folder, *more[command]]


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from paths(inner, (*path, key))


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(
        ["../x", "/etc/hosts", "C:\\x", "~/x", "{{ 7 * 7 }}", "x" * 10_000, [], {}, [[]], [None], {"a": 1}]
    ),
)


@pytest.mark.parametrize("command", COMMANDS)
def test_one_changed_value_is_never_a_traceback(
    command: str, demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = json.loads((demo / MANIFEST).read_text())
    folder = tmp_path / "copy"
    shutil.copytree(demo, folder)

    @settings(
        max_examples=25 if command == "verify" else 60,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def change(data: st.DataObject) -> None:
        manifest = copy.deepcopy(known)
        *above, last = data.draw(st.sampled_from(list(paths(known))))
        here = manifest
        for step in above:
            here = here[step]
        if data.draw(st.integers(0, 3)) == 0:
            del here[last]
        elif isinstance(here, dict) and data.draw(st.integers(0, 4)) == 0:
            here[data.draw(st.text(max_size=10))] = here.pop(last)
        else:
            here[last] = data.draw(VALUES)
        try:
            text = json.dumps(manifest, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            text = json.dumps(manifest).encode()
        (folder / MANIFEST).write_bytes(text)
        code, told = run(capsys, *arguments(command, folder, demo, tmp_path))
        assert code in (0, 1, 2)
        errors = [line for line in told.splitlines() if line.startswith("recap-data: ")]
        assert len(errors) == (code == 2) or code == 1
        assert "Traceback" not in told

    change()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"funnel": [{"step": "pull", "domain": "math", "in": 1, "kept": "ten"}]},
            "funnel[0].kept is 'ten', must be a",
        ),
        ({"funnel": [{"step": "pull", "domain": "math", "in": 1}]}, "funnel[0].kept is missing"),
        ({"files": {"../x.parquet": "0"}}, "files names '../x.parquet', which is no name of a file inside"),
        ({"files": {"/etc/hosts": "0"}}, "files names '/etc/hosts'"),
        ({"files": {"C:x.parquet": "0"}}, "files names 'C:x.parquet'"),
        ({"files": {"data\\x.parquet": "0"}}, "files names"),
        ({"files": {".git/config": "0"}}, "files names '.git/config'"),
        ({"rows": {"mixture": -1, "rejected": 0}}, "rows.mixture is -1"),
        ({"rows": {"mixture": 1, "rejected": 0, "x": "y"}}, "rows.x is 'y', must be a whole number"),
        ({"sources": [{"dataset": "d"}]}, "sources[0].revision is missing"),
        ({"packages": {"numpy": 2}}, "packages.numpy is 2, must be a text"),
    ],
)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_wrong_value_is_named_by_its_path(
    command: str, change: dict[str, Any], says: str, demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(demo, folder)
    (folder / MANIFEST).write_text(json.dumps(json.loads((folder / MANIFEST).read_text()) | change))
    code, told = run(capsys, *arguments(command, folder, demo, tmp_path))
    assert (code, len(told.splitlines())) == (2, 1)
    assert f"{MANIFEST}: {says}" in told


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"\xff", b"[" * 200_000, b'{"files": NaN}', b'{"name": "a", "name": "b"}', b"9" * 5000]
)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_manifest_that_is_none_is_one_line(
    command: str, text: bytes, demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(demo, folder)
    (folder / MANIFEST).write_bytes(text)
    code, told = run(capsys, *arguments(command, folder, demo, tmp_path))
    assert (code, len(told.splitlines())) == (2, 1)
    assert MANIFEST in told


@pytest.mark.parametrize("name", [MANIFEST, "README.md", "data/mixture-00000-of-00001.parquet"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_link_out_of_a_build_is_not_followed(
    command: str, name: str, demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(demo, folder)
    (tmp_path / "outside").write_bytes((folder / name).read_bytes())
    (folder / name).unlink()
    (folder / name).symlink_to(tmp_path / "outside")
    code, told = run(capsys, *arguments(command, folder, demo, tmp_path))
    if (command, name) == ("report", "README.md"):
        assert code == 0, "the report reads no card"
        return
    assert code == 2
    assert "is a link that leads out of" in told or "changed them" in told


@pytest.mark.parametrize("template", ["../../../proc/self/cwd/evil", "/tmp/evil", "evil"])
def test_verifying_a_build_runs_nothing_of_its_recipe(
    template: str, demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(demo, folder)
    monkeypatch.chdir(tmp_path)
    body = "{{ cycler.__init__.__globals__.os.system('touch ran') }} {{ prompt }}"
    (tmp_path / "evil.md").write_text(f"---\nid: {template}\nrole: system\nvariables: [prompt]\n---\n{body}\n")
    manifest = json.loads((folder / MANIFEST).read_text())
    model = {"engine": "openai", "base_url": ["http://localhost:1/v1"], "model": "m", "system": template}
    manifest["recipe"]["samplers"]["t"] = model
    (folder / MANIFEST).write_text(json.dumps(manifest))
    code, told = run(capsys, "verify", folder)
    assert (code, "no name" in told or "no template" in told) == (2, True)
    assert not (tmp_path / "ran").exists()


def test_a_name_that_leads_out_is_no_folder_to_write_to(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "inner/copy"
    shutil.copytree(demo, folder)
    monkeypatch.chdir(tmp_path / "inner")
    manifest = json.loads((folder / MANIFEST).read_text()) | {"name": "../../escaped"}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    code, told = run(capsys, "export", folder, "--model", "none")
    assert (code, "'../../escaped', which is no name" in told) == (2, True)
    run(capsys, "verify", folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["inner"]


def test_marks_and_variables_by_their_former_names_are_read(demo: Path) -> None:
    found = json.loads((demo / MANIFEST).read_text())
    asked = {"engine": "openai", "model": "m", "tags": ["<r>", "</r>"], "chat_template": {"enable_thinking": True}}
    found["recipe"]["samplers"]["t"] = asked
    sampler = recipe_of(found, "demo").samplers["t"]
    assert tuple(sampler.thinking) == ("<r>", "</r>")
    assert sampler.template == {"enable_thinking": True}
