"""Mixtures of a few rows, written as a build writes them, for tests that need rows of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import schema
from pipeline.trainer.mixture import COLUMNS, Mixture

_SCHEMA = pa.schema(
    [(name, schema.PROMPT if name == "prompt" else pa.string()) for name in COLUMNS],
)


def row(id: str, prompt: str, prefill: str | None = None, domain: str = "harmful") -> dict[str, Any]:
    """A row with one user turn."""
    return {
        "id": id,
        "domain": domain,
        "prompt": [{"role": "user", "content": prompt}],
        "prefill": prefill,
        "reward": {"harmful": "safety", "benign": "helpfulness", "math": "math"}[domain],
        "ground_truth": "4" if domain == "math" else None,
    }


def mixture_of(folder: Path, *rows: dict[str, Any], content_hash: str = "c" * 64) -> Mixture:
    """Write rows to a Parquet file, as an opened mixture."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "mixture.parquet"
    pq.write_table(pa.Table.from_pylist(list(rows), schema=_SCHEMA), file)
    return Mixture("few", "mixture", folder, {"content_hash": content_hash}, [file])
