"""The prompts that come with recap-data, for the demo recipe: written for it, checked, free to use."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

from pipeline.errors import SourceError
from pipeline.recipe import GroundTruth, Source

DATASET = "recap-data"
LICENCE = "apache-2.0"

_SETS: dict[str, dict[str | None, str]] = {
    "demo": {"harmful": "demo-harmful.jsonl", "benign": "demo-benign.jsonl", "math": "demo-math.jsonl"},
    "demo-eval": {None: "demo-eval.jsonl"},
}
"""The files of each set, by domain; an evaluation set has none."""


def complete(source: Source) -> Source:
    """Fill the fields of a bundled source. Raises SourceError where there is no such set."""
    if source.bundled not in _SETS:
        raise SourceError(f"There is no bundled set {source.bundled!r}. There are {', '.join(_SETS)}.")
    rule = GroundTruth(field="answer") if source.bundled == "demo" else None
    defaults = {"prompt": "prompt", "category": "category", "ground_truth": rule, "licence": LICENCE}
    return source.model_copy(update={k: v for k, v in defaults.items() if getattr(source, k) is None})


def revision(name: str) -> str:
    """Return ``sha256:<hex>`` of the set's files, one after the other."""
    return "sha256:" + hashlib.sha256(b"".join(map(_read, _SETS[name].values()))).hexdigest()


def records(name: str, domain: str | None) -> Iterator[dict[str, Any]]:
    """Yield a set's rows of one domain, or all of them. Raises SourceError where it has none of the domain."""
    found = _SETS[name]
    if domain is not None and domain not in found:
        raise SourceError(f"The bundled set {name!r} has no {domain} prompts: it is for evaluation. Use bundled: demo.")
    for place, file in found.items():
        if domain in (None, place):
            for line in _read(file).splitlines():
                yield json.loads(line)


def _read(file: str) -> bytes:
    return (files("pipeline.sources") / "bundled" / file).read_bytes()
