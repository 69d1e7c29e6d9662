"""Every table's columns and types.

Two tables are published: the *mixture* (``MIXTURE``; ``ATTACKS``, with one column more, where it is to attack models
with) and the *rejected* rows (``REJECTED``: the same columns and why the row was dropped). Internal are ``CANDIDATES``,
the prompts on their way from a source to the mixture, and ``SAMPLES``.
"""

from __future__ import annotations

from typing import Literal, get_args

import pyarrow as pa

VERSION = 2
"""Version of the published schema; a change of columns or meaning raises it."""

Domain = Literal["harmful", "benign", "math"]
DOMAINS: tuple[Domain, ...] = get_args(Domain)

REWARDS: dict[Domain, str] = {"harmful": "safety", "benign": "helpfulness", "math": "math"}
"""Which reward scores a row of the domain (RECAP, Sec. 3.1)."""

PROMPT = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))

ORIGIN = pa.struct(
    [
        ("dataset", pa.string()),
        ("config", pa.string()),
        ("split", pa.string()),
        ("revision", pa.string()),
        ("row", pa.int64()),
        ("category", pa.string()),
        ("licence", pa.string()),
    ]
)

SAMPLING = pa.struct(
    [
        ("sampler", pa.string()),
        ("engine", pa.string()),
        ("model", pa.string()),
        ("revision", pa.string()),
        ("template", pa.string()),
        ("parameters", pa.string()),
        ("seed", pa.int64()),
        ("attempt", pa.int32()),
        ("words", pa.int32()),
    ]
)

VERDICT = pa.struct(
    [("stance", pa.string()), ("judge", pa.string()), ("score", pa.float64()), ("sees", pa.list_(pa.string()))]
)

MATCH = pa.struct(
    [
        ("id", pa.string()),
        ("dataset", pa.string()),
        ("text", pa.string()),
        ("how", pa.string()),
        ("similarity", pa.float64()),
    ]
)

MIXTURE = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("domain", pa.string(), nullable=False),
        pa.field("prompt", PROMPT, nullable=False),
        ("prefill", pa.string()),
        pa.field("reward", pa.string(), nullable=False),
        ("ground_truth", pa.string()),
        ("origin", ORIGIN),
        ("sampling", SAMPLING),
        ("verdict", VERDICT),
    ]
)

ATTACK = pa.struct([("kind", pa.string()), ("rounds", pa.int32()), ("transition", pa.string())])

ATTACKS = pa.schema([*MIXTURE, ("attack", ATTACK)])
"""Of a mixture to attack models with: ``attack`` says what an evaluation does with the prefill (RECAP, Sec. 5.4)."""

REJECTED = pa.schema([*MIXTURE, ("stage", pa.string()), ("reason", pa.string()), ("match", MATCH)])

CANDIDATES = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("domain", pa.string(), nullable=False),
        pa.field("prompt", PROMPT, nullable=False),
        ("ground_truth", pa.string()),
        ("origin", ORIGIN),
        pa.field("source", pa.int32(), nullable=False),
    ]
)
"""``source`` is the place of the row's source in the recipe's list for its domain: the keeper of a set of duplicates
comes from the earliest one."""

SAMPLES = pa.schema(
    [
        ("row", pa.int64()),
        ("arm", pa.string()),
        ("prefill", pa.string()),
        ("sampling", SAMPLING),
        ("verdict", VERDICT),
        ("reason", pa.string()),
    ]
)
"""Internal: what sampling made of a row of a shard for an arm; ``reason`` where the row was given up."""
