"""What attacks a model was not trained on: neither by the sampler of its prefills, nor in its prompts.

A model that has seen a sampler's prefills in training recovers from them by habit (RECAP, Sec. 2.2, takes the attacks
from another source); one reproduction shows how easily that is got wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import steps
from pipeline.errors import InputError
from pipeline.publish.manifest import recipe_of
from pipeline.publish.opening import Snapshot, open_version
from pipeline.publish.references import HUB, not_there, repository
from pipeline.recipe import MIXTURE, Recipe, load


def check_samplers(recipe: Recipe, folder: Path) -> None:
    """Compare the samplers that write prefills of `recipe` with those of what was ``trained_on``.

    A sampler is its model: the last part of its name, whatever server or folder it is in; or the embedded grammar.
    Paths are relative to `folder`.

    Raises:
        InputError: one is the same, or what was trained on can't be read.
        RecapError: the Hub can't be reached.
    """
    ours = _writers(recipe.dump())
    for reference in recipe.trained_on:
        theirs = _writers(_recipe(reference, folder))
        for who in sorted(ours.keys() & theirs.keys()):
            raise InputError(
                f"The sampler {ours[who]!r} ({who}) writes the attacks here, and wrote the prefills that {reference} "
                f"trains on (as {theirs[who]!r}). Attacks from the same source don't show robustness: give "
                f"samplers.{ours[who]} another model, or correct trained_on."
            )


def check_prompts(recipe: Recipe, folder: Path, work: Path, shards: int) -> None:
    """Compare the prompts in the clean shards with those of what was ``trained_on``, where it is built. Raises
    InputError where one is in both.
    """
    for reference in recipe.trained_on:
        if _is_recipe(reference):
            continue
        known = [pq.read_table(path, columns=["id"])["id"] for path in _opened(reference, folder).configs[MIXTURE]]
        found = 0
        for shard in range(shards):
            ids = steps.read_table(work / f"clean/{shard}.arrow")["id"]
            found += sum(pc.sum(pc.is_in(ids, value_set=part.combine_chunks())).as_py() or 0 for part in known)
        if found:
            raise InputError(
                f"{found:,} of the prompts here are in {reference}, which the model was trained on. Build that again "
                "with clean.decontaminate.against naming these sources, or take them out here."
            )


def _is_recipe(reference: str) -> bool:
    return reference.endswith((".yaml", ".yml"))


def _recipe(reference: str, folder: Path) -> dict[str, Any]:
    if _is_recipe(reference):
        return load(folder / reference).recipe.dump()
    return recipe_of(_opened(reference, folder).manifest, reference).dump()


def _opened(reference: str, folder: Path) -> Snapshot:
    if not reference.startswith(HUB) and not (folder / reference).exists() and repository(reference):
        raise InputError(f"trained_on: {not_there(reference)}")
    return open_version(reference if reference.startswith(HUB) else str(folder / reference), configs=(MIXTURE,))


def _writers(recipe: Mapping[str, Any]) -> dict[str, str]:
    """The samplers that a recipe takes prefills from: the model of each, and its name in the recipe."""
    return {_model(recipe["samplers"][name]): name for name in _used(recipe)}


def _used(recipe: Mapping[str, Any]) -> list[str]:
    """The samplers of all prefills that a config shows."""
    used = set()
    for variant in ({}, *(recipe.get("variants") or {}).values()):
        for domain, part in recipe["mixture"].items():
            change = {key: value for key, value in (variant.get(domain) or {}).items() if value is not None}
            prefill = {**(part["prefill"] or {}), **change}
            if prefill and prefill.get("share", 1):
                used.add(str(prefill["sampler"]))
    return sorted(used)


def _model(sampler: Mapping[str, Any]) -> str:
    return str(sampler.get("model") or sampler["engine"]).rstrip("/").rpartition("/")[2].casefold()
