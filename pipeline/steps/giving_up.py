"""When to give up on a sampler: what became of every try at a prefill, and the rule that ends a build early.

The rule only ever ends a build with an error: it drops no row, so it can't change what a recipe makes. It looks at
builds that are paying; one whose answers are all in the ledger is walked to its end.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import RecapError
from pipeline.filters import TWIN
from pipeline.funnel import yielded
from pipeline.recipe import Arm, Prefill
from pipeline.runner import Progress
from pipeline.steps.shards import read_table, rounds_of
from pipeline.writing import write_text

LOOKED_AT = 100
"""So many tries at an arm's prefills are waited for before its yield is judged."""

ACCEPTED = ""
"""Stands for no reason where attempts are counted by why they were rejected."""

Tries = Counter[tuple[int, str]]
"""Tries at the prefills of an arm, by the number of the attempt and by why it was rejected, or `ACCEPTED`."""


class GaveUp(RecapError):
    """Next to nothing of what a sampler writes is accepted."""


def summed(tries: Tries) -> tuple[int, Counter[str]]:
    """How many tries were accepted, and how many rejected by reason."""
    reasons = Counter[str]()
    for (_, reason), count in tries.items():
        reasons[reason] += count
    return reasons.pop(ACCEPTED, 0), +reasons


def hopeless(prefill: Prefill, tries: Tries) -> bool:
    """Whether too few of an arm's tries were accepted for more of them to be paid for."""
    accepted, rejected = summed(tries)
    tried = accepted + rejected.total()
    return prefill.min_yield is not None and tried >= LOOKED_AT and accepted < prefill.min_yield * tried


class Watched:
    """Looks at the tries of a round of sampling as they end.

    Args:
        work: the work folder; rejected tries are written to ``tries/`` in it.
        name: of this round's file there.
        so_far: the tries of the rounds before, by arm.
        progress: is told how many were accepted and rejected.
    """

    def __init__(self, work: Path, name: str, so_far: Mapping[str, Tries], progress: Progress) -> None:
        self._tries = {arm: Counter(tries) for arm, tries in so_far.items()}
        self._all = sum(self._tries.values(), Counter[tuple[int, str]]())
        self._progress = progress
        (work / "tries").mkdir(exist_ok=True)
        self._file = (work / f"tries/{name}.jsonl").open("w", encoding="utf-8")

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def tried(self, row: Mapping[str, Any], attempt: int, result: Mapping[str, Any]) -> Tries:
        """Take note of what became of a try at a row. Returns all tries of its arm in the build."""
        arm, reason = result["arm"], result["reason"]
        tries = self._tries.setdefault(arm, Counter())
        for counted in (tries, self._all):
            counted[attempt, reason or ACCEPTED] += 1
        if reason is not None:
            kept = _line(row["id"], row["domain"], attempt, result)
            self._file.write(json.dumps(kept, ensure_ascii=False) + "\n")
        self._progress.tried(*summed(self._all))
        return tries


def gave_up(arm: Arm, tries: Tries) -> GaveUp:
    """The error that says so; where the texts are is for the caller to add."""
    accepted, rejected = summed(tries)
    return GaveUp(
        f"Next to nothing that {arm.prefill.sampler} writes for {arm.domain} is accepted, so nothing more was sent: "
        f"{yielded(accepted, rejected)}, below min_yield ({arm.prefill.min_yield:g})."
    )


def leave_rejected(work: Path, path: Path) -> int:
    """Write the rejected tries of all rounds so far to `path`, in one step. Returns how many; where none, no file.

    A line of JSON each, sorted: ``id``, ``domain``, ``arm``, ``attempt`` (from 0), ``reason``, ``prefill`` (null where
    the server refused the request), ``verdict`` (as the column has it; null where none was asked for).
    """
    kept = [*_rejected(work), *_twins(work)]
    if kept:
        kept.sort(key=lambda line: (line["domain"], line["arm"], line["id"], line["attempt"]))
        write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept))
    return len(kept)


def _rejected(work: Path) -> Iterator[dict[str, Any]]:
    for file in sorted((work / "tries").glob("*.jsonl")):
        with file.open(encoding="utf-8") as lines:
            yield from map(json.loads, lines)


def _twins(work: Path) -> Iterator[dict[str, Any]]:
    """Tries that were accepted first, and then found to be near-duplicates of others."""
    for shard in sorted({int(path.stem.partition("-")[0]) for path in (work / "samples").glob("*.arrow")}):
        clean = read_table(work / f"clean/{shard}.arrow")
        for _, table in rounds_of(work, shard):
            for sample in table.to_pylist():
                if sample["reason"] == TWIN:
                    row, attempt = sample["row"], sample["sampling"]["attempt"]
                    yield _line(clean["id"][row].as_py(), clean["domain"][row].as_py(), attempt, sample)


def _line(row: str, domain: str, attempt: int, result: Mapping[str, Any]) -> dict[str, Any]:
    told = {key: result[key] for key in ("reason", "prefill", "verdict")}
    return {"id": row, "domain": domain, "arm": result["arm"], "attempt": attempt, **told}
