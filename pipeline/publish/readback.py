"""Loads a published commit as a user does, in a process of its own, whose HF_HOME is its cache.

``python -m pipeline.publish.readback owner/name COMMIT mixture [rejected …]`` prints, as one JSON object, the rows of
each config and, but for the rejected ones, their content hash. A config without rows is one that `datasets` can't load:
then leave it out.
"""

from __future__ import annotations

import json
import sys

from pipeline.publish.parquet import ContentHash

_ROWS = 1000


def main(name: str, commit: str, *configs: str) -> None:
    """Load and print; what the libraries raise ends the process with its last line."""
    from datasets import load_dataset

    read: dict[str, tuple[int, str | None]] = {}
    for config in configs:
        loaded, hashed = load_dataset(name, config, split="train", revision=commit), ContentHash()
        if config != "rejected":
            for table in loaded.with_format("arrow").iter(_ROWS):
                hashed.update(table.to_pylist())
        read[config] = len(loaded), hashed.hexdigest() if config != "rejected" else None
    print(json.dumps(read))


if __name__ == "__main__":
    main(*sys.argv[1:])
