"""What an evaluation and a probe are given: the model under test, the judges of its answers, and how much is asked.

model: {model: my-org/policy-8b, base_url: "http://localhost:8000/v1"}
judges:
  safety: {engine: guard, family: granite-guardian, base_url: "http://localhost:8001/v1", model: granite-guardian-8b}
  helpfulness: {engine: rubric, base_url: "http://localhost:8002/v1", model: llama-3.1-8b-instruct}
rows: 100
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from pipeline.recipe.reading import Kind
from pipeline.trainer.policy import PolicyConfig
from pipeline.trainer.reward_config import RewardsConfig
from pipeline.trainer.settings import load_settings

_KIND = Kind("settings", "a mapping, as in model: {model: my-org/policy, base_url: …}", "model.temperature=0.6")


class TrialConfig(BaseModel):
    """What an evaluation and a probe have in common.

    Attributes:
        model: the model under test.
        judges: judge its final answers, by what a row is scored for.
        rows: of each domain so many, the same whatever the config: those of the least hash. All unless given.
        samples: how often each row is drawn.
        seed: of the draws, the choice of rows and the intervals.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    model: PolicyConfig
    judges: RewardsConfig = RewardsConfig()
    rows: Annotated[int | None, Field(ge=1)] = None
    samples: Annotated[int, Field(ge=1, le=1000)] = 1
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0

    def chosen(self, rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """The rows that are asked, in their order."""
        if self.rows is None:
            return list(rows)
        ids: dict[str, list[str]] = {}
        for row in rows:
            ids.setdefault(row["domain"], []).append(row["id"])
        kept = {id for listed in ids.values() for id in sorted(listed, key=self._place)[: self.rows]}
        return [row for row in rows if row["id"] in kept]

    def _place(self, id: str) -> bytes:
        return hashlib.blake2b(f"{self.seed}\x1f{id}".encode()).digest()


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class EvalConfig(TrialConfig):
    """The settings of an evaluation; ``configs`` are those of the attack set that are asked, all unless given."""

    configs: Annotated[tuple[str, ...], BeforeValidator(_listed), Field(strict=False)] = ()


_Config = TypeVar("_Config", bound=TrialConfig)


class Flags(NamedTuple):
    """What the command line says of the usual settings; each counts more than the file."""

    model: str | None = None
    base_url: Sequence[str] = ()
    engine: str | None = None
    tokenizer: str | None = None
    rows: int | None = None
    samples: int | None = None

    def overrides(self) -> Iterator[str]:
        """The same as ``a.b=value``."""
        places = {name: f"model.{name}" for name in ("model", "base_url", "engine", "tokenizer")}
        for name, value in self._asdict().items():
            if value not in (None, (), []):
                yield f"{places.get(name, name)}={json.dumps(value)}"


def load_trial(kind: type[_Config], path: Path | None, flags: Flags, overrides: Sequence[str] = ()) -> _Config:
    """Read a YAML file of settings, if there is one; flags and ``a.b.c=value`` overrides count more.

    Raises:
        InputError: the file can't be read, or there are mistakes, all of them in the message.
    """
    return load_settings(kind, _KIND, path, [*flags.overrides(), *overrides])
