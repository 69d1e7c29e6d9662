"""Loads a published commit as a user does, in a process of its own, whose HF_HOME is its cache.

``python -m pipeline.publish.readback owner/name COMMIT mixture [rejected]`` prints the content hash of the mixture and
the rows of both tables as one JSON list. A table without rows is one that `datasets` can't load: then leave it out.
"""

from __future__ import annotations

import json
import sys

from pipeline.publish.parquet import ContentHash

_ROWS = 1000


def main(name: str, commit: str, *configs: str) -> None:
    """Load and print; what the libraries raise ends the process with its last line."""
    from datasets import load_dataset

    rows, hashed = {"mixture": 0, "rejected": 0}, ContentHash()
    for config in configs:
        loaded = load_dataset(name, config, split="train", revision=commit)
        rows[config] = len(loaded)
        if config == "mixture":
            for table in loaded.with_format("arrow").iter(_ROWS):
                hashed.update(table.to_pylist())
    print(json.dumps([hashed.hexdigest(), *rows.values()]))


if __name__ == "__main__":
    main(*sys.argv[1:])
