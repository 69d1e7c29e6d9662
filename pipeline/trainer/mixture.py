"""A mixture as a trainer takes it: opened by version, each row rendered for a policy's tokenizer.

What the policy is given ends in the prefill where the row has one, and in the generation prompt where it has none, so
that a prefill is context: no loss is computed on it (RECAP, Sec. 3.1).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import schema
from pipeline.errors import InputError
from pipeline.publish.opening import open_version
from pipeline.recipe import MIXTURE
from pipeline.thinking import Renderer, RenderingError

COLUMNS = ("id", "domain", "prompt", "prefill", "reward", "ground_truth")
"""What training needs of a row."""

_BATCH = 1024


class Mixture(NamedTuple):
    """One config of a version, opened: what it is called, where it lies, its manifest, and its Parquet files."""

    name: str
    config: str
    folder: Path
    manifest: dict[str, Any]
    files: list[Path]

    @property
    def content_hash(self) -> str:
        """The hash of the config's rows, by which a checkpoint knows what it was trained on."""
        if self.config == MIXTURE:
            return str(self.manifest["content_hash"])
        return str(self.manifest["variants"][self.config]["content_hash"])

    def rows(self, columns: Sequence[str] = COLUMNS) -> Iterator[dict[str, Any]]:
        """The rows as plain dicts, in order of id."""
        for file in self.files:
            with pq.ParquetFile(file) as parquet:
                for batch in parquet.iter_batches(_BATCH, columns=list(columns)):
                    yield from batch.to_pylist()


class Dropped(NamedTuple):
    """Rows that are not trained on: those with a prompt over the limit, and those that the template can't write."""

    too_long: int
    unrendered: int


def open_mixture(reference: str, config: str = MIXTURE) -> Mixture:
    """Open one config of a mixture: the folder of a build, a version in a folder, or ``hub:owner/name@v1.3.0``.

    Raises:
        InputError: there is no such version or config, or its schema is not the one that this recap-data reads.
        RecapError: the Hub can't be reached.
    """
    found = open_version(reference, configs=(config,))
    version = found.manifest.get("schema_version")
    if version != schema.VERSION:
        raise InputError(
            f"{reference} has schema version {version}, and this recap-data trains on version {schema.VERSION}. "
            "Install the recap-data that built it (its manifest.json names it under packages), or build it again."
        )
    name = found.manifest.get("name", "")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}", name):
        raise InputError(f"The manifest of {reference} calls it {name[:96]!r}, which is no name. It is of no build.")
    if config not in found.configs:
        raise InputError(f"{reference} has no config {config!r}. It has: {', '.join(found.configs)}.")
    return Mixture(found.name, config, found.folder, found.manifest, found.configs[config])


RENDERED = pa.schema(
    [
        ("id", pa.string()),
        ("domain", pa.string()),
        ("messages", schema.PROMPT),
        ("prefill", pa.string()),
        ("reward", pa.string()),
        ("ground_truth", pa.string()),
        ("text", pa.string()),
        ("prompt_ids", pa.list_(pa.int32())),
        ("prefill_tokens", pa.int32()),
        ("opened", pa.bool_()),
    ]
)
"""Rows for a policy: ``prompt_ids`` is all that it is given, of which the last ``prefill_tokens`` are the prefill with
the opening mark before it (t0 - 1 in the paper); ``text`` is the same as text, and ``opened`` says whether it ends
inside the thinking."""


def render(mixture: Mixture, renderer: Renderer, max_prompt_tokens: int | None = None) -> tuple[pa.Table, Dropped]:
    """Render every row for a tokenizer (`pipeline.thinking.renderer_for`); columns are `RENDERED`.

    Rows over `max_prompt_tokens` are dropped and counted: no trainer may cut a prompt, and some cut it silently.

    Raises:
        InputError: a column is missing, or no row is left.
    """
    batches, batch = [], list[dict[str, Any]]()
    too_long = unrendered = 0
    for row in mixture.rows():
        try:
            plain = renderer.render(row["prompt"], None)
            full = renderer.render(row["prompt"], row["prefill"]) if row["prefill"] is not None else plain
        except RenderingError:
            unrendered += 1
            continue
        if max_prompt_tokens is not None and len(full.ids) > max_prompt_tokens:
            too_long += 1
            continue
        batch.append(
            {
                **{key: value for key, value in row.items() if key != "prompt"},
                "messages": row["prompt"],
                "text": full.text,
                "prompt_ids": full.ids,
                "prefill_tokens": len(full.ids) - len(plain.ids),
                "opened": row["prefill"] is not None or renderer.form == "generation-prompt",
            }
        )
        if len(batch) == _BATCH:
            batches.append(pa.RecordBatch.from_pylist(batch, schema=RENDERED))
            batch = []
    batches.append(pa.RecordBatch.from_pylist(batch, schema=RENDERED))
    table = pa.Table.from_batches(batches, schema=RENDERED)
    if not len(table):
        raise InputError(
            f"No row of {mixture.name} is left to train on: {too_long:,} are longer than {max_prompt_tokens} tokens, "
            f"{unrendered:,} can't be written by the chat template. Raise the limit, or take another model."
        )
    return table, Dropped(too_long, unrendered)
