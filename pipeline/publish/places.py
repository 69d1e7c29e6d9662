"""Where things lay on the machine that built: cut from what is published, or found where it can't be cut."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.recipe import answering

_ABSOLUTE = re.compile(r"^(?:~[\w.-]*(?:/|$)|/|[A-Za-z]:[\\/]|\\\\|file:)")
_HOME = re.compile(r"^(?:~|(?:file:/*)?/?(?:var/)?(?:home|Users)/|(?:file:/*)?/root(?:/|$)|[A-Za-z]:[\\/]Users[\\/])")


def without_places(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The same, absolute paths cut to the file's name: those of sources, tokenizers, the sentence model, and folders
    that engines use.

    The models of samplers and judges keep theirs: they stand in every row, and in the keys under which the ledger has
    their answers.
    """
    recipe = manifest["recipe"]
    cleaned, decontaminate = recipe["clean"], recipe["clean"]["decontaminate"]
    against = [_named(source, "files") for source in decontaminate["against"]]
    semantic = {"semantic": _named(found, "model")} if (found := decontaminate.get("semantic")) else {}
    sources = {domain: [_named(source, "files") for source in listed] for domain, listed in recipe["sources"].items()}
    recipe = {
        **_named(recipe, "trained_on"),
        "sources": sources,
        "clean": {**cleaned, "decontaminate": {**decontaminate, "against": against, **semantic}},
    }
    for kind in ("samplers", "judges"):
        recipe[kind] = {name: config and _model(config) for name, config in recipe[kind].items()}
    stated = {key: [_named(source, "path") for source in manifest[key]] for key in ("sources", "decontaminate")}
    return {**manifest, "recipe": recipe, **stated}


def home_paths(recipe: Mapping[str, Any]) -> list[str]:
    """The values of samplers and judges that name a home folder and keep it, as ``samplers.x.model``."""
    kept = {
        kind: {name: config and _model(config) for name, config in recipe[kind].items()}
        for kind in ("samplers", "judges")
    }
    return list(_homes(kept, ""))


def _homes(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key not in ("seed_prefix", "base_url"):
                yield from _homes(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _homes(inner, f"{path}.{index}")
    elif isinstance(value, str) and (_HOME.match(value) or value.startswith(f"{Path.home()}/")):
        yield path


def _model(config: Mapping[str, Any]) -> dict[str, Any]:
    """A sampler or judge without the paths on which no answer depends."""
    config = _named(config, "tokenizer")
    if arguments := config.get("vllm"):
        kept = answering(arguments)
        config["vllm"] = {key: value if key in kept else _bare(value) for key, value in arguments.items()}
    return config


def _named(entry: Mapping[str, Any], key: str) -> dict[str, Any]:
    """An entry whose value at `key`, a path or several, has no folders where it was absolute."""
    value = entry.get(key)
    if value is None:
        return dict(entry)
    return {**entry, key: [_bare(path) for path in value] if isinstance(value, list) else _bare(value)}


def _bare(path: Any) -> Any:
    """The last part of an absolute path; anything else as it is."""
    if not isinstance(path, str) or not _ABSOLUTE.match(path):
        return path
    return PurePosixPath(path.replace("\\", "/")).name
