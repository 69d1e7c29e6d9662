"""The data card: ``README.md`` of a build, as the Hub and `datasets.load_dataset` read it.

Its YAML names the configs and their files, the licence and ``not-for-all-audiences``; its text says how the data was
made, from the manifest alone, so that equal builds have equal cards.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jinja2
import yaml

from pipeline import templates

_STRICTNESS = (
    "cc0-1.0",
    "unlicense",
    "mit",
    "apache-2.0",
    "odc-by",
    "cc-by-4.0",
    "cc-by-sa-3.0",
    "cc-by-sa-4.0",
    "odbl",
    "gpl-3.0",
    "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0",
    "cc-by-nc-nd-4.0",
)
"""Licences by what they ask of a user, least first."""

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def strictest_licence(licences: Iterable[str | None]) -> str:
    """The licence that a work made of parts under `licences` carries here: the one that asks most of a user.

    ``other`` where one is unknown or not stated: then the parts' own terms decide, and the card lists them.
    """
    known = set(licences)
    if not known or not known <= set(_STRICTNESS):
        return "other"
    return max((name for name in known if name), key=_STRICTNESS.index)


def render(manifest: dict[str, Any]) -> str:
    """The card of a build, from its manifest (without ``files``)."""
    template = templates.load("mixture", "data_cards")
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters["cell"] = _cell
    environment.filters["comma"] = lambda number: f"{number:,}"
    body = environment.from_string(template.body).render(manifest=manifest, recipe=manifest["recipe"])
    return f"---\n{yaml.safe_dump(_metadata(manifest), sort_keys=False, allow_unicode=True)}---\n{body}"


def _metadata(manifest: dict[str, Any]) -> dict[str, Any]:
    rows = manifest["rows"]["mixture"]
    licence = strictest_licence(source["licence"] for source in manifest["sources"])
    named = {"license_name": "as-the-sources", "license_link": "#sources"} if licence == "other" else {}
    return {
        "pretty_name": manifest["name"],
        "license": licence,
        **named,
        "language": ["en"],
        "task_categories": ["text-generation"],
        "tags": ["not-for-all-audiences", "safety", "alignment", "reasoning", "recap", "synthetic"],
        "size_categories": [next((size for most, size in _SIZES if rows < most), "1M<n<10M")],
        "configs": [
            {
                "config_name": "mixture",
                "default": True,
                "data_files": [{"split": "train", "path": "data/mixture-*.parquet"}],
            },
            {"config_name": "rejected", "data_files": [{"split": "train", "path": "rejected/rejected-*.parquet"}]},
        ],
    }


def _cell(value: Any) -> str:
    """Text that can stand in a cell of a Markdown table."""
    return "–" if value is None else str(value).replace("|", "\\|").replace("\n", " ")
