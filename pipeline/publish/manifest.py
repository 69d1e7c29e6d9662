"""``manifest.json`` of a build or a published version: read by one model, wherever it comes from.

A manifest may be anybody's. What it says is checked before anything of it is used: its size and depth, the type of each
value, that its files are names inside of its folder, and its recipe, which is data of `pipeline.recipe` and nothing
else.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from pipeline.documents import KeyPath, Unreadable, read_json
from pipeline.errors import InputError
from pipeline.recipe import Recipe
from pipeline.recipe.mistakes import find, redacted, shown

MANIFEST = "manifest.json"

_NOWHERE = "http://not-asked.invalid/v1"

Count = Annotated[int, Field(ge=0, lt=2**63)]


def _file_name(name: str) -> str:
    if not _FILE.fullmatch(name) or name == MANIFEST:
        raise ValueError("is no name of a file inside of its folder")
    return name


_FILE = re.compile(r"[A-Za-z0-9_][\w.-]{0,127}(?:/[A-Za-z0-9_][\w.-]{0,127}){0,7}", re.ASCII)
FileName = Annotated[str, AfterValidator(_file_name)]
"""A file of a version, seen from its folder: never an absolute name, a hidden one, or one that leads out."""


class ManifestError(InputError):
    """A manifest is missing, can't be read, or says something that none of ours says."""


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class Rows(_Part):
    """How many rows the mixture and the table of rejected rows hold, and each further config."""

    model_config = ConfigDict(strict=True, extra="allow")
    __pydantic_extra__: dict[str, Count]

    mixture: Count
    rejected: Count


class Source(_Part):
    """One pinned place that prompts were read from, or that evaluation sets were (then without a domain)."""

    domain: str | None = None
    dataset: str
    config: str | None = None
    split: str | None = None
    revision: str
    path: str | None = None
    licence: str | None = None
    read: Count | None = None
    selected: Count | None = None


class Step(_Part):
    """What one step did to one domain, in rows."""

    step: str
    domain: str
    entered: Count = Field(alias="in")
    kept: Count
    dropped: dict[str, Count] = {}


class Attempt(_Part):
    """What became of one attempt at the prefills of an arm; ``attempt`` counts from 0."""

    domain: str
    sampler: str | None = None
    words: Count | None = None
    stance: str = "counter-aligned"
    attempt: Count
    tried: Count
    accepted: Count
    rejected: dict[str, Count] = {}


class Variant(_Part):
    """A further config on the same rows: its content, and how many of them carry a prefill, by domain."""

    content_hash: str
    prefilled: dict[str, Count] = {}


class Answers(_Part):
    """What the rows were made with, by sampler and judge: answers, their tokens as servers counted them, their cost."""

    answers: Count
    prompt_tokens: Count
    completion_tokens: Count
    cost: Annotated[float, Field(ge=0)]


class Potency(_Part):
    """In which config the potency of prefills was measured, and with which model."""

    config: str
    model: str


class _Decontaminate(_Part):
    against: list[dict[str, Any]]


class _Clean(_Part):
    decontaminate: _Decontaminate


class _Engine(_Part):
    engine: str


class _Share(_Part):
    prefill: dict[str, Any] | None


class _Place(_Part):
    to: str | None
    private: bool
    gated: str | bool


class Published(_Part):
    """What publishing reads of a recipe, which may be of another version of recap-data."""

    sources: dict[str, list[dict[str, Any]]]
    clean: _Clean
    samplers: dict[str, _Engine]
    judges: dict[str, _Engine | None]
    mixture: dict[str, _Share]
    variants: dict[str, dict[str, Any]] = {}
    publish: _Place


class _Carrier(_Part):
    recipe: Published


def published_recipe(manifest: Mapping[str, Any]) -> Published:
    """The recipe in a manifest as publishing reads it. Raises ManifestError, which names the first wrong value."""
    try:
        return _Carrier.model_validate({"recipe": manifest["recipe"]}).recipe
    except ValidationError as error:
        raise ManifestError(redacted(f"{MANIFEST}: {_told(error.errors(include_url=False)[0])}")) from None


class Manifest(_Part):
    """What every manifest has, and the types of all that one may have."""

    fingerprint: str
    files: dict[FileName, str]
    funnel: list[Step]
    name: str | None = None
    version: str | None = None
    schema_version: Count | None = None
    recipe: dict[str, Any] = {}
    content_hash: str | None = None
    rows: Rows | None = None
    prefilled: dict[str, Count] = {}
    variants: dict[str, Variant] = {}
    sources: list[Source] = []
    decontaminate: list[Source] = []
    revisions: list[str] = []
    templates: dict[str, str] = {}
    packages: dict[str, str] = {}
    shortages: list[str] = []
    attempts: list[Attempt] = []
    probes: dict[str, str] = {}
    stand_ins: list[str] = []
    answers: dict[str, Answers] = {}
    columns: dict[str, dict[str, str]] = {}
    potency: Potency | None = None


class Whole(Manifest):
    """The manifest of a build that can be shown, published and made again."""

    name: str
    schema_version: Count
    recipe: dict[str, Any]
    content_hash: str
    rows: Rows
    sources: list[Source]
    decontaminate: list[Source]
    templates: dict[str, str]
    packages: dict[str, str]
    shortages: list[str]


_Model = TypeVar("_Model", bound=Manifest)


def read(path: Path, model: type[_Model]) -> tuple[dict[str, Any], _Model]:
    """Read the file of a manifest, as it stands there and as `model`.

    Raises:
        ManifestError: there is none, or it is none; its message is one line, without the folder.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ManifestError(f"it has no {MANIFEST}") from None
    except OSError as error:
        raise ManifestError(f"{MANIFEST} can't be read: {error.strerror}") from None
    return parse(data, model)


def parse(data: bytes, model: type[_Model]) -> tuple[dict[str, Any], _Model]:
    """Read the text of a manifest. Raises ManifestError like `read`."""
    try:
        plain = read_json(data)
    except Unreadable as error:
        raise ManifestError(f"{MANIFEST} is no valid JSON: {redacted(error.why)}") from None
    if not isinstance(plain, dict):
        raise ManifestError(f"{MANIFEST} is {_kind(plain)}, must be a mapping")
    return plain, check(plain, model)


def check(manifest: Mapping[str, Any], model: type[_Model]) -> _Model:
    """A manifest's values as `model`. Raises ManifestError, which names the first that is wrong by its path."""
    try:
        return model.model_validate(manifest)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        missing = sorted(str(e["loc"][0]) for e in errors if e["type"] == "missing" and len(e["loc"]) == 1)
        if missing:
            raise ManifestError(f"{MANIFEST} lacks {', '.join(missing)}") from None
        raise ManifestError(redacted(f"{MANIFEST}: {_told(errors[0])}")) from None


_FORMER = {"tags": "thinking", "chat_template": "template"}
"""How keys of a model were called in earlier manifests, and what they are called now."""


def recipe_of(manifest: Mapping[str, Any], name: str) -> Recipe:
    """The recipe in a manifest. A published one names no servers: it gets an address that nobody answers at.

    Raises:
        ManifestError: it is no recipe that this version reads.
    """
    data = copy.deepcopy(dict(manifest.get("recipe") or {}))
    for kind in ("samplers", "judges"):
        configs = data.get(kind)
        for config in configs.values() if isinstance(configs, dict) else ():
            asked = isinstance(config, dict) and config.get("engine") in ("openai", "guard", "rubric")
            for former, key in _FORMER.items():
                if isinstance(config, dict) and former in config:
                    config[key] = config.pop(former)
            if asked and not config.get("base_url"):
                config["base_url"] = [_NOWHERE]
    if mistakes := list(find(data)):
        path, message = mistakes[0]
        more = f" ({len(mistakes) - 1} more)" if len(mistakes) > 1 else ""
        raise ManifestError(
            redacted(f"The recipe in the manifest of {name} has a mistake: {placed(path)}: {message}{more}.")
        )
    return Recipe.model_validate(data)


def placed(path: KeyPath) -> str:
    """A path as ``funnel[3].kept``, each part cut short."""
    parts = [f"[{step}]" if isinstance(step, int) else f".{_short(step)}" for step in path]
    return "".join(parts).removeprefix(".")


def _short(step: str) -> str:
    return step if len(step) <= 60 and step.isprintable() else f"{step[:57]!r}..."


_MUST = {
    "int": "a whole number",
    "string": "a text",
    "dict": "a mapping",
    "model": "a mapping",
    "list": "a list",
    "float": "a number",
    "bool": "true or false",
}


def _told(error: ErrorDetails) -> str:
    """What is wrong with a value, with its path."""
    place, kind = placed(tuple(step for step in error["loc"] if step != "[key]")), error["type"]
    what = _MUST.get(kind.removesuffix("_type"))
    if error["loc"][-1:] == ("[key]",):
        return (
            f"{placed(error['loc'][:1])} names {shown(error['input'])}, which is no name of a file inside of its folder"
        )
    if kind == "missing":
        return f"{place} is missing"
    if what is not None:
        return f"{place} is {_kind(error['input'])}, must be {what}"
    return f"{place} is {shown(error['input'])}: {error['msg'][:1].lower()}{error['msg'][1:]}"


def _kind(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else shown(value)
