"""The funnel: how many rows of each domain went into each step, stayed, and were dropped, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from pipeline.schema import DOMAINS


class Funnel:
    """Counts by step and domain, in the order of the steps; ``in = kept + sum(dropped)`` everywhere."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], int] = {}
        self._dropped: dict[tuple[str, str], Counter[str]] = {}

    def add(self, step: str, domain: str, kept: int, dropped: Mapping[str, int]) -> None:
        """Count rows that a step kept, and those it dropped by reason; called as often as there are shards."""
        key = (step, domain)
        self._kept[key] = self._kept.get(key, 0) + kept
        self._dropped.setdefault(key, Counter()).update(dropped)

    def kept(self, step: str, domain: str) -> int:
        """How many rows of the domain the step kept."""
        return self._kept.get((step, domain), 0)

    def rows(self) -> list[dict[str, Any]]:
        """The manifest's ``funnel``: ``{"step", "domain", "in", "kept", "dropped": {reason: count}}``."""
        steps = list(dict.fromkeys(step for step, _ in self._kept))
        keys = sorted(self._kept, key=lambda key: (steps.index(key[0]), DOMAINS.index(key[1])))
        return [
            {
                "step": step,
                "domain": domain,
                "in": self._kept[step, domain] + self._dropped[step, domain].total(),
                "kept": self._kept[step, domain],
                "dropped": {r: n for r, n in sorted(self._dropped[step, domain].items()) if n},
            }
            for step, domain in keys
        ]


def story(funnel: list[dict[str, Any]], domain: str) -> str:
    """One domain's way through the steps in a line: what came in, and what each step took."""
    rows = [row for row in funnel if row["domain"] == domain]
    parts = [f"{rows[0]['in']:,} pulled"] if rows else []
    for row in rows:
        parts += [f"{row['step']}: -{count:,} {reason}" for reason, count in row["dropped"].items()]
    return ", ".join(parts)


def yielded(accepted: int, rejected: Mapping[str, int]) -> str:
    """What became of tries, in words: the most frequent reason first."""
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in Counter(rejected).most_common())
    return f"{accepted:,} of {accepted + sum(rejected.values()):,} accepted" + (f" ({reasons})" if reasons else "")
