"""How long `recap-data diff` takes and what it holds: versions of which 2 % of rows came, 2 % went and 1 % changed.

python tests/benchmarks/bench_diff.py [ROWS ...]
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.publish import folder
from pipeline.publish.parquet import ShardedWriter
from pipeline.schema import MIXTURE, REJECTED

MEASURED = """
import resource, sys, time
from pipeline.publish.diff import compare
from pipeline.publish.opening import open_version
began = time.perf_counter()
rows = compare(open_version(sys.argv[1]), open_version(sys.argv[2])).rows
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(f"{rows}: {time.perf_counter() - began:.1f} s, {peak:.0f} MiB")
"""


def row(name: str, version: int) -> dict[str, Any]:
    number = int(name[:4], 16)
    own = version if number % 100 == 3 else 0
    prefilled = number % 2 == 1
    return {
        "id": name,
        "domain": "harmful",
        "prompt": [{"role": "user", "content": f"How do I mend a kettle? {name}"}],
        "prefill": f"{'some words and more of them ' * 83}{name} {own}" if prefilled else None,
        "reward": "safety",
        "origin": {"dataset": f"set-{number % 3}", "revision": "1", "row": number},
        "sampling": {"seed": 1, "words": 500} if prefilled else None,
        "verdict": {"stance": "complies", "sees": ["prompt", "thinking"]} if prefilled else None,
    }


def write(place: Path, names: list[str], version: int) -> None:
    kept = [name for name in names if int(name[:4], 16) % 50 != version]
    gone = [name for name in names if int(name[:4], 16) % 50 == version]
    for kind, stem, schema, listed in (("data", "mixture", MIXTURE, kept), ("rejected", "rejected", REJECTED, gone)):
        more = {"stage": "choose", "reason": "over the quota"} if kind == "rejected" else {}
        with ShardedWriter(place / kind, stem, schema, len(listed)) as writer:
            for start in range(0, len(listed), 8192):
                rows = [row(name, version) | more for name in listed[start : start + 8192]]
                writer.write(pa.Table.from_pylist(rows, schema=schema))
    files = {path.relative_to(place).as_posix(): folder.file_hash(path) for path in place.rglob("*.parquet")}
    folder.write_manifest(place, {"fingerprint": "", "funnel": [], "files": files})


def main() -> None:
    for count in map(int, sys.argv[1:] or ("100000", "1000000")):
        names = sorted(hashlib.blake2b(str(i).encode(), digest_size=16).hexdigest() for i in range(count))
        with tempfile.TemporaryDirectory() as scratch:
            for version in (1, 2):
                write(Path(scratch) / str(version), names, version)
            print(f"{count:,} rows", flush=True)
            subprocess.run([sys.executable, "-c", MEASURED, f"{scratch}/1", f"{scratch}/2"], check=True)


if __name__ == "__main__":
    main()
