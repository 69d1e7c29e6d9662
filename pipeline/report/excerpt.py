"""The rows that travel inside the page: an even pick, packed so that no text of theirs stands in the HTML."""

from __future__ import annotations

import base64
import gzip
import json
import math
from typing import Any

import pyarrow as pa


class Excerpt:
    """Takes `cap` of `total` rows at even distances from batches that come one after the other."""

    def __init__(self, total: int, limit: int) -> None:
        """Plan to take at most `limit` of `total` rows."""
        self.total = total
        self.cap = min(total, limit)
        self.rows: list[dict[str, Any]] = []
        self._seen = 0

    def add(self, batch: pa.RecordBatch) -> None:
        """Take the rows of `batch` whose turn it is."""
        end = self._seen + len(batch)
        places = []
        for index in range(len(self.rows), self.cap):
            place = index * self.total // self.cap
            if place >= end:
                break
            places.append(place - self._seen)
        if places:
            self.rows += batch.take(pa.array(places)).to_pylist()
        self._seen = end


def pack(value: Any) -> str:
    """`value` as JSON, gzipped (without a time, so the same value gives the same bytes), in base64."""
    text = json.dumps(_finite(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def _finite(value: Any) -> Any:
    """`value` with null for every number JSON has no spelling for."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
