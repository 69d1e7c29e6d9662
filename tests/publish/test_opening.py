"""What looks like a repository of the Hub and isn't named as one is asked about, not guessed."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.build import plan
from pipeline.errors import InputError
from pipeline.publish.opening import open_version
from pipeline.publish.references import check_place, repository
from pipeline.publish.release import publish
from pipeline.recipe import LoadedRecipe, parse
from pipeline.report import write_report
from pipeline.runner import LocalRunner
from pipeline.separation import check_samplers

RECIPE = """
name: small
sources: {harmful: [{bundled: demo}]}
samplers: {t: {engine: template}}
mixture: {harmful: {rows: 5, prefill: {sampler: t}}}
"""


@pytest.mark.parametrize("reference", ["me/name", "me/name@v1.0.0", "huggingface.co/datasets/me/name", "a.b/c_d"])
def test_a_reference_that_looks_like_a_repository_says_so(
    reference: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    meant = "hub:" + reference.removeprefix("huggingface.co/datasets/")
    with pytest.raises(InputError, match=rf"no folder {reference}. If you mean the Hub's repository, write {meant}\."):
        open_version(reference)
    loaded = parse(RECIPE, "small.yaml", ["attack={kind: prefill}", f"trained_on='{reference}'"])
    with pytest.raises(InputError, match=rf"trained_on: There is no folder .*write {meant}\."):
        check_samplers(loaded, tmp_path)
    with pytest.raises(InputError, match=r"A report is of a folder"):
        write_report(Path(reference))


def test_a_place_to_publish_to_is_not_guessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    says = r"me/name may be a repository or a folder. Write hub:me/name .* or \./me/name for a new folder"
    with pytest.raises(InputError, match=says):
        check_place("me/name")
    loaded = LoadedRecipe(parse(RECIPE, "small.yaml", ["publish.to=me/name"]), tmp_path)
    with pytest.raises(InputError, match=says):
        plan(loaded, tmp_path / "out", LocalRunner())
    for place in ("./me/name", "hub:me/name", "/me/name", "../me", "versions", "a/b/c", "~/me", None):
        check_place(place)
    (tmp_path / "me/name").mkdir(parents=True)
    check_place("me/name")
    with pytest.raises(InputError, match="is no finished build"):
        publish(tmp_path, "me/other")


@pytest.mark.parametrize("path", ["", "/a/b", "./a/b", "../a/b", "a", "a/b/c", "~/a", "a/../b", "a b/c", "a//b"])
def test_a_path_is_no_repository(path: str) -> None:
    assert repository(path) is None
