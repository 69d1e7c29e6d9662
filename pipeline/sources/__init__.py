"""Where prompts come from: files, bundled sets, and datasets of the Hub.

A source of the recipe is completed (`complete`) with what is known of its dataset, located (`locate`), and then pulled
in batches (`pull`) or, where it is an evaluation set, read as texts (`texts`).
"""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import SourceError
from pipeline.recipe import Source
from pipeline.sources import demo, files, hub
from pipeline.sources.identity import normalise, row_id
from pipeline.sources.known import KNOWN, Known, known, named_like, nearest
from pipeline.sources.rows import Located, Pulled, evaluation_texts, pull, texts

__all__ = [
    "KNOWN",
    "Known",
    "Located",
    "Pulled",
    "complete",
    "evaluation_texts",
    "known",
    "locate",
    "named_like",
    "nearest",
    "normalise",
    "pull",
    "row_id",
    "texts",
]


def complete(source: Source) -> Source:
    """Fill what the recipe left out from the known datasets; what it says always wins.

    Files get the dataset's fields and licence, but neither config nor split, which only the user knows. Where the
    published files of a dataset name the prompt differently, it stays None and is found in each file.

    Raises:
        SourceError: the dataset is unknown and the prompt's field isn't named.
    """
    if source.bundled is not None:
        return demo.complete(source)
    entry = known(source.dataset)
    if entry is None:
        if source.prompt is None:
            raise SourceError(_unknown(source))
        default_split = {"split": "train"} if source.files is None and source.split is None else {}
        return source.model_copy(update=default_split)
    defaults = {
        "prompt": entry.prompt[0] if source.files is None or len(entry.prompt) == 1 else None,
        "category": next(iter(entry.category), None) if source.files is None or len(entry.category) == 1 else None,
        "ground_truth": entry.ground_truth,
        "licence": entry.licence,
    }
    if source.files is None:
        defaults["config"] = entry.config
        defaults["split"] = entry.split
    missing = {key: value for key, value in defaults.items() if getattr(source, key) is None}
    return source.model_copy(update={**missing, "dataset": entry.name})


def locate(source: Source, folder: Path) -> list[Located]:
    """Find the places of a completed source: the files that its paths and globs name in `folder`, sorted by name,
    whatever their order in the recipe; one place for a bundled set or a dataset of the Hub.

    Raises:
        SourceError: a path that is no readable file, a glob that matches none, a name whose format is unknown, an empty
            file; a dataset that the Hub doesn't have, doesn't give access to, or that can't be reached.
    """
    if source.bundled is not None:
        name = f"{demo.DATASET}/{source.bundled}"
        return [Located(name, source.config, source.split, demo.revision(source.bundled), source.licence, None)]
    if source.files is None:
        commit, licence = hub.resolve(source)
        return [Located(source.dataset or "", source.config, source.split, commit, source.licence or licence, None)]
    found = files.find(source.files, folder)
    return [
        Located(
            source.dataset or Path(file.shown).name,
            source.config,
            source.split,
            files.revision(file),
            source.licence,
            file.shown,
            file,
            earlier=() if source.limit is None else tuple(found[:number]),
        )
        for number, file in enumerate(found)
    ]


def _unknown(source: Source) -> str:
    if source.dataset is None:
        return f"{source.label}: name the field that holds the prompt, as in prompt: question."
    close = nearest(source.dataset)
    hint = f" (did you mean {close}?)" if close else ""
    return (
        f"{source.dataset} is no known dataset{hint}, so the recipe must name its fields. "
        "Any dataset works once prompt: names the field that holds the prompt."
    )
