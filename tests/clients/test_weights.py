"""A model's folder is known by what it holds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.clients.weights import content, hub_revision, pinned
from pipeline.errors import InputError
from pipeline.recipe import ModelConfig


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(bytes(1000))
    return folder


def config(model: Path, **given: object) -> ModelConfig:
    return ModelConfig.model_validate({"engine": "vllm", "model": str(model), **given})


def test_weights_that_were_trained_in_place_are_others_whatever_the_file_says_of_itself(model: Path) -> None:
    before, when = pinned(config(model)), (model / "model.safetensors").stat()
    assert hub_revision(before) is None
    (model / "model.safetensors").write_bytes(bytes(999) + b"\1")
    os.utime(model / "model.safetensors", ns=(when.st_atime_ns, when.st_mtime_ns))
    assert pinned(config(model)).revision != before.revision
    with pytest.raises(InputError, match="holds other weights than its revision says"):
        hub_revision(before)


def test_a_file_more_or_by_another_name_is_another_model_and_a_readme_is_none(model: Path) -> None:
    before = content(model)
    (model / "README.md").write_text("Notes.")
    (model / ".lock").write_text("")
    assert content(model) == before
    (model / "config.json").rename(model / "configs.json")
    assert content(model) != before


def test_what_is_served_or_on_the_hub_keeps_its_revision(model: Path, tmp_path: Path) -> None:
    named = config(tmp_path / "nowhere", revision="main")
    assert pinned(named) is named
    assert hub_revision(named) == "main"
    served = config(model, engine="openai", base_url="http://localhost:1/v1")
    assert pinned(served) is served


def test_an_empty_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="is empty"):
        pinned(config(tmp_path / "empty"))
