from __future__ import annotations

from typing import Any

import pytest
from huggingface_hub import DatasetCard

from flows.recipes import find
from pipeline.publish.card import render, strictest_licence
from pipeline.recipe import load


def manifest(**changes: Any) -> dict[str, Any]:
    source = {"dataset": "a/b", "config": None, "split": "train", "revision": "sha256:" + "0" * 64, "path": None}
    recipe = load(find("demo")).recipe
    return {
        "name": "demo",
        "recipe": recipe.dump(),
        "fingerprint": recipe.fingerprint,
        "content_hash": "f" * 64,
        "packages": {"recap-data": "0.1.0"},
        "rows": {"mixture": 12, "rejected": 3},
        "prefilled": {"harmful": 6},
        "shortages": [],
        "sources": [{"domain": "harmful", "licence": "mit", **source}],
        "decontaminate": [],
        "attempts": [
            {"domain": "harmful", "attempt": 0, "tried": 12, "accepted": 9, "rejected": {"prefill too short": 3}},
            {"domain": "harmful", "attempt": 1, "tried": 3, "accepted": 3, "rejected": {}},
        ],
        "probes": {"unaligned": "read the token ids that were sent"},
        "funnel": [{"step": "mix", "domain": "harmful", "in": 12, "kept": 12, "dropped": {"a | b": 3}}],
        **changes,
    }


def test_the_hubs_own_reader_takes_the_card() -> None:
    card = DatasetCard(render(manifest()))
    assert card.data.license == "mit"
    assert "not-for-all-audiences" in card.data.tags
    assert card.data.size_categories == ["n<1K"]
    configs = {config["config_name"]: config for config in card.data["configs"]}
    assert configs["mixture"]["default"] is True
    assert configs["rejected"]["data_files"] == [{"split": "train", "path": "rejected/rejected-*.parquet"}]


def test_the_card_says_what_is_short_and_what_was_not_done() -> None:
    text = render(manifest(shortages=["mixture.harmful.rows asks for 20, 12 are left, 8 too few"]))
    assert "> mixture.harmful.rows asks for 20, 12 are left, 8 too few" in text
    assert "**this mixture was not decontaminated**" in text


def test_cells_of_tables_are_escaped() -> None:
    assert r"3 a \| b" in render(manifest())


def test_the_name_of_the_repository_is_in_the_example() -> None:
    recipe = load(find("demo"), ["publish.to=hub:my-org/mix"]).recipe
    assert 'load_dataset("my-org/mix", split="train")' in render(manifest(recipe=recipe.dump()))


@pytest.mark.parametrize(
    ("licences", "strictest"),
    [
        (["mit", "apache-2.0"], "apache-2.0"),
        (["cc-by-nc-4.0", "mit", "cc-by-4.0"], "cc-by-nc-4.0"),
        (["mit", None], "other"),
        (["mit", "llama3"], "other"),
        ([], "other"),
    ],
)
def test_the_strictest_licence_wins_and_an_unknown_one_is_never_hidden(
    licences: list[str | None], strictest: str
) -> None:
    assert strictest_licence(licences) == strictest


def test_a_card_of_unknown_terms_has_no_link_that_the_hub_refuses() -> None:
    unknown = {"domain": "harmful", "dataset": "a/b", "licence": None, "revision": "sha256:" + "0" * 64}
    data = DatasetCard(render(manifest(sources=[{"config": None, "split": None, "path": None, **unknown}]))).data
    assert (data.license, data.license_name) == ("other", "as-the-sources")
    link = data.to_dict().get("license_link")
    assert link is None or link in ("LICENSE", "LICENSE.md") or link.startswith("https://")
