"""The recipe: what to build, as pydantic models, read from YAML with every mistake told at once.

A mistake is told with its place (file, line and column, or the ``--set`` it came from), its path, its value, what is
allowed, and the nearest known name. YAML is read as its 1.2 core schema has it: ``no`` is a string, ``1e-3`` a number,
and a key given twice is a mistake.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from pipeline.errors import RecipeError
from pipeline.schema import DOMAINS, Domain

_SECRET_KEY = re.compile(r"(?i)(?:^|_)(?:api_?key|token|password|passwd|secret|authorization|credentials?)$")
_SECRET_VALUE = re.compile(r"\b(?:hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,})|://[^/\s:@]+:[^/\s@]+@")
_SECRET_HINT = (
    "a secret has no place in a recipe, which is published with the data. "
    "Remove it and set it in the environment (HF_TOKEN for the Hub)"
)


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def _scalars(value: Any) -> Any:
    for item in value if isinstance(value, list) else [value]:
        if item is not None and not isinstance(item, str | int | float | bool):
            raise PydanticCustomError("where", "must be a text, number, true, false, null, or a list of these")
    return value


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _some(value: Any) -> Any:
    if isinstance(value, list | dict) and not value:
        raise PydanticCustomError("empty", "is empty: give at least one")
    return value


def _in_order(value: tuple[str, ...] | None) -> tuple[str, ...] | None:
    return tuple(sorted(set(value))) if value else value


def _field(value: Any) -> Any:
    return {"field": value} if isinstance(value, str) else value


def _pattern(value: str | None) -> str | None:
    if value is None:
        return None
    try:
        groups = re.compile(value).groups
    except re.error as error:
        raise PydanticCustomError("regex", "is no regular expression: {why}", {"why": str(error)}) from None
    if groups > 1:
        raise PydanticCustomError("regex", "must have one group at most: the ground truth")
    return value


class GroundTruth(_Model):
    """How a math row's ground truth is read: a field, and which part of its text."""

    field: str
    """Field name; ``a.b`` goes into a nested one."""
    after: str | None = None
    """Take what follows the last occurrence of this text, to the end of its line (``####`` in GSM8K)."""
    regex: Annotated[str | None, AfterValidator(_pattern)] = None
    """Take the last match of this pattern, or its one group."""
    boxed: bool = False
    r"""Take the content of the last ``\boxed{…}``."""

    @model_validator(mode="after")
    def _one_way(self) -> GroundTruth:
        if sum([self.after is not None, self.regex is not None, self.boxed]) > 1:
            raise PydanticCustomError("ground_truth", "takes one of after, regex and boxed, not several")
        return self


class Source(_Model):
    """Where prompts come from: a Hub dataset, files, or a bundled set.

    With ``files``, ``dataset`` may name a known dataset to get its field names and licence.
    """

    dataset: str | None = None
    files: Annotated[
        tuple[str, ...] | None, BeforeValidator(_some), BeforeValidator(_listed), AfterValidator(_in_order)
    ] = Field(default=None, strict=False)
    """Paths and globs, relative to the recipe, in any order: JSON, JSONL, CSV, Parquet, plain or gzipped."""
    bundled: str | None = None
    config: str | None = None
    split: str | None = None
    revision: str | None = None
    where: dict[str, Annotated[Any, AfterValidator(_scalars)]] = Field(default_factory=dict)
    """Rows to take: each field must equal the value, or one of a list of values."""
    prompt: str | None = None
    category: str | None = None
    ground_truth: Annotated[GroundTruth | None, BeforeValidator(_field)] = None
    licence: str | None = None
    """SPDX-like identifier as the Hub writes it (``apache-2.0``)."""

    @model_validator(mode="after")
    def _one_place(self) -> Source:
        if self.bundled is not None:
            if self.dataset is not None or self.files is not None:
                raise PydanticCustomError("source", "bundled stands alone: remove dataset and files")
        elif self.dataset is None and self.files is None:
            raise PydanticCustomError("source", "names no place: give dataset, files or bundled")
        return self

    @property
    def label(self) -> str:
        """A short name for messages and the ``origin`` column."""
        return self.dataset or self.bundled or ", ".join(self.files or ())


class Dedupe(_Model):
    """Deduplication within a domain. Exact always; near by exact Jaccard of character 5-grams."""

    near: Annotated[float, Field(ge=0.5, le=1)] | None = 0.8
    """Drop a row at least this similar to a kept one; null keeps near-duplicates."""


class Decontaminate(_Model):
    """Evaluation sets that must not enter training."""

    against: tuple[Source, ...] = Field(default=(), strict=False)
    coverage: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of the shorter text's word 8-grams that may not be found in the other."""


class Clean(_Model):
    """What happens to prompts before one is chosen."""

    max_chars: Annotated[int, Field(ge=1)] = 20_000
    """A longer prompt is dropped, in characters."""
    dedupe: Dedupe = Dedupe()
    decontaminate: Decontaminate = Decontaminate()


class SamplerConfig(_Model):
    """What writes prefills."""

    engine: Literal["template"]


class JudgeConfig(_Model):
    """What reads a prefill's stance."""

    engine: Literal["refusal"]


class Judges(_Model):
    """The judges of a build."""

    stance: JudgeConfig = JudgeConfig(engine="refusal")


class Prefill(_Model):
    """The counter-aligned prefills of a domain (RECAP, Sec. 3.1)."""

    sampler: str
    share: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share alpha of the domain's rows that carry one: exactly ``round(share * rows)``."""
    words: Annotated[int, Field(ge=1)] = 500
    """Longest prefill, in words."""
    min_words: Annotated[int, Field(ge=1)] = 50
    """A shorter one is rejected."""
    attempts: Annotated[int, Field(ge=1, le=100)] = 3
    """How often a rejected prefill is sampled before the row is dropped."""

    @model_validator(mode="after")
    def _lengths(self) -> Prefill:
        if self.min_words > self.words:
            raise PydanticCustomError(
                "lengths",
                "min_words ({min_words}) is more than words ({words})",
                {"min_words": self.min_words, "words": self.words},
            )
        return self


class Part(_Model):
    """One domain's part of the mixture."""

    rows: Annotated[int, Field(ge=1)]
    prefill: Prefill | None = None


class Publish(_Model):
    """Where the mixture goes, and who may see it there."""

    to: str | None = None
    private: bool = True
    gated: Literal["manual", "auto", False] = "manual"


class Recipe(_Model):
    """A whole build."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}$")]
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    sources: dict[Domain, Annotated[tuple[Source, ...], BeforeValidator(_some), Field(strict=False)]]
    clean: Clean = Clean()
    samplers: dict[str, SamplerConfig] = Field(default_factory=dict)
    judges: Judges = Judges()
    mixture: Annotated[dict[Domain, Part], BeforeValidator(_some)]
    publish: Publish = Publish()

    def dump(self) -> dict[str, Any]:
        """The resolved recipe as plain JSON values, defaults included, domains in their fixed order."""
        data = self.model_dump(mode="json")
        for key in ("sources", "mixture"):
            data[key] = {domain: data[key][domain] for domain in DOMAINS if domain in data[key]}
        return data

    def to_yaml(self) -> str:
        """The resolved recipe as YAML that `load` reads back to an equal recipe."""
        return yaml.safe_dump(self.dump(), sort_keys=False, allow_unicode=True, width=120)

    @property
    def fingerprint(self) -> str:
        """sha256 of all that can change the rows: the resolved recipe without ``publish``."""
        data = self.dump()
        del data["publish"]
        return hashlib.sha256(json.dumps(data, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


class LoadedRecipe(NamedTuple):
    """A valid recipe, and the folder its file paths are relative to."""

    recipe: Recipe
    folder: Path


_Path = tuple[str | int, ...]


class _Mistake(NamedTuple):
    path: _Path
    message: str


class _Loader(yaml.SafeLoader):
    pass


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag.rpartition(":")[2] in {"null", "merge", "int"}]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|false|False)$"), list("tTfF"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d[\d_]*\.\d*|\.\d+|\d+(?=[eE]))(?:[eE][-+]?\d+)?$|^[-+]?\.inf$|^\.nan$"),
    list("-+.0123456789"),
)


def load(path: Path, overrides: Sequence[str] = ()) -> LoadedRecipe:
    """Read a recipe file, apply ``a.b.c=value`` overrides, validate.

    Raises:
        RecipeError: the file can't be read, or holds mistakes; all of them are in the message.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise RecipeError(f"There is no recipe {path}. Give a path to a YAML file, or a named recipe.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"The recipe {path} can't be read: {error}. It must be a UTF-8 YAML file.") from None
    return LoadedRecipe(parse(text, str(path), overrides), path.parent)


def parse(text: str, name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Validate a recipe's YAML `text`; `name` stands for the file in messages. Raises like `load`."""
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
        mistakes = list(_repeated(root)) if root else []
        data = loader.construct_document(root) if root else None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        why = getattr(error, "problem", None) or str(error)
        raise RecipeError(f"{place}  is no valid YAML: {why}.") from None
    finally:
        loader.dispose()
    if not isinstance(data, dict):
        raise RecipeError(f"{name} holds no recipe: it must be a mapping that starts with name, sources and mixture.")

    places = dict(_places(root, name)) if root else {}
    for override in overrides:
        _override(data, override, places, mistakes)
    mistakes += _secrets(data)
    recipe = None
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as error:
        told = {m.path for m in mistakes}
        mistakes += [m for m in map(_mistake, error.errors()) if m.path not in told]
    mistakes += _cross_checks(data)
    if recipe is None or mistakes:
        told_at = sorted(((_place(m.path, places, name), m) for m in mistakes), key=lambda told: told[0])
        lines = [f"  {place}  {_dotted(m.path)}: {m.message}." for place, m in told_at]
        count = "a mistake" if len(lines) == 1 else f"{len(lines)} mistakes"
        raise RecipeError(f"{name} has {count}:\n" + "\n".join(lines))
    return recipe


class _Place(NamedTuple):
    """Where a value was given; sorts by line. An override stands on line 0."""

    line: int
    column: int
    text: str

    def __str__(self) -> str:
        return f"{self.text}:{self.line}:{self.column}" if self.line else self.text


def _places(node: yaml.Node, name: str, path: _Path = ()) -> Iterator[tuple[_Path, _Place]]:
    yield path, _Place(node.start_mark.line + 1, node.start_mark.column + 1, name)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _places(value, name, (*path, key.value))
            yield (*path, key.value), _Place(key.start_mark.line + 1, key.start_mark.column + 1, name)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _places(value, name, (*path, index))


def _place(path: _Path, places: Mapping[_Path, _Place], name: str) -> _Place:
    while path and path not in places:
        path = path[:-1]
    return places.get(path, _Place(0, 0, name))


def _repeated(node: yaml.Node, path: _Path = ()) -> Iterator[_Mistake]:
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            here = (*path, key.value)
            if key.value in seen:
                yield _Mistake(here, f"is given twice, the second time in line {key.start_mark.line + 1}; keep one")
            seen.add(key.value)
            yield from _repeated(value, here)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _repeated(value, (*path, index))


def _override(
    data: dict[str, Any], override: str, places: dict[_Path, _Place], mistakes: list[_Mistake]
) -> None:
    dotted, equals, text = override.partition("=")
    keys = dotted.split(".")
    if not equals or not all(keys):
        raise RecipeError(f"--set {override!r} is not of the form a.b.c=value (as in mixture.harmful.rows=200).")
    try:
        value = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError:
        raise RecipeError(f"--set {dotted}: {text!r} is no valid YAML value; quote it.") from None
    here: Any = data
    path: _Path = ()
    for depth, key in enumerate(keys):
        last = depth == len(keys) - 1
        step: str | int = key
        if isinstance(here, list):
            if not key.isdecimal() or int(key) >= len(here):
                mistakes.append(_Mistake(path, f"--set {dotted}: {key!r} is no place in a list of {len(here)}"))
                return
            step = int(key)
        elif not isinstance(here, dict):
            mistakes.append(_Mistake(path, f"--set {dotted}: {_shown(here)} has nothing below it to set"))
            return
        path = (*path, step)
        if last:
            here[step] = value
        else:
            if isinstance(here, dict) and here.get(key) is None:
                here[key] = {}
            here = here[step]
    for known in [p for p in places if p[: len(path)] == path]:
        del places[known]
    places[path] = _Place(0, 0, f"--set {dotted}")


def _secrets(value: Any, path: _Path = ()) -> list[_Mistake]:
    if isinstance(value, dict):
        found = []
        for key, inner in value.items():
            here = (*path, key)
            if isinstance(key, str) and _SECRET_KEY.search(key) and path[-1:] != ("where",):
                found.append(_Mistake(here, _SECRET_HINT))
            else:
                found += _secrets(inner, here)
        return found
    if isinstance(value, list):
        return [m for index, inner in enumerate(value) for m in _secrets(inner, (*path, index))]
    if isinstance(value, str) and _SECRET_VALUE.search(value):
        return [_Mistake(path, f"looks like a secret; {_SECRET_HINT}")]
    return []


def _cross_checks(data: Mapping[str, Any]) -> Iterator[_Mistake]:
    """What no single field shows. Reads the unvalidated recipe, so that these mistakes are told with all the others."""
    sources, samplers, mixture = (_mapping(data.get(key)) for key in ("sources", "samplers", "mixture"))
    for domain in [d for d in mixture if d in DOMAINS]:
        here = ("mixture", domain, "prefill")
        if domain not in sources:
            yield _Mistake(here[:2], f"has no prompts: add sources.{domain}")
        prefill = _mapping(mixture[domain]).get("prefill")
        if prefill is not None and domain == "math":
            yield _Mistake(here, "math rows never carry a prefill (RECAP, Sec. 3.1); remove it")
        name = _mapping(prefill).get("sampler")
        if isinstance(name, str) and name not in samplers:
            listed = f"samplers has {', '.join(sorted(map(str, samplers)))}" if samplers else "samplers is empty"
            yield _Mistake((*here, "sampler"), f"{name!r} is no sampler{_nearest(name, list(samplers))}; {listed}")
    for domain in [d for d in sources if d in DOMAINS and d not in mixture]:
        yield _Mistake(("sources", domain), f"is not used: add mixture.{domain} or remove it")
    decontaminate = _mapping(_mapping(data.get("clean")).get("decontaminate"))
    lists: dict[_Path, Any] = {("sources", d): value for d, value in sources.items()}
    lists["clean", "decontaminate", "against"] = decontaminate.get("against")
    for place, listed in lists.items():
        for index, entry in enumerate(listed if isinstance(listed, list) else []):
            source = _mapping(entry)
            if "files" not in source or "dataset" in source:
                continue
            if "prompt" not in source:
                yield _Mistake((*place, index, "prompt"), "is missing: name the field that holds the prompt")
            if place[-1] == "math" and "ground_truth" not in source:
                yield _Mistake((*place, index, "ground_truth"), "is missing: a math row needs one")


def _mapping(value: Any) -> Mapping[Any, Any]:
    return value if isinstance(value, dict) else {}


def _mistake(error: ErrorDetails) -> _Mistake:
    path = tuple(part for part in error["loc"] if part != "[key]")
    kind, value = error["type"], error["input"]
    match kind:
        case "extra_forbidden":
            names = _names_at(path[:-1])
            return _Mistake(path, f"unknown key{_nearest(str(path[-1]), names)}; allowed: {', '.join(names)}")
        case "literal_error" if error["loc"][-1:] == ("[key]",):
            return _Mistake(path, f"unknown key{_nearest(str(value), DOMAINS)}; allowed: {', '.join(DOMAINS)}")
        case "literal_error":
            names = [str(v) for v in _literals_at(path)]
            return _Mistake(path, f"{_shown(value)} is not allowed{_nearest(str(value), names)}; {_or(names)}")
        case "missing":
            return _Mistake(path, "is missing")
        case "where" | "ground_truth" | "source" | "lengths" | "regex" | "empty":
            return _Mistake(path, error["msg"])
        case "string_pattern_mismatch":
            return _Mistake(path, f"{_shown(value)} is no name: letters, digits, '.', '_' and '-', at most 96")
        case _:
            why = error["msg"][:1].lower() + error["msg"][1:]
            return _Mistake(path, f"{_shown(value)} is not allowed: {why.replace('input ', '')}")


def _models_at(path: Sequence[str | int]) -> Any:
    """The type that the recipe's models put at `path`."""
    kind: Any = Recipe
    for step in path:
        inner = _inner_types(kind)
        model = next((t for t in inner if isinstance(t, type) and issubclass(t, BaseModel)), None)
        if model is not None and isinstance(step, str) and step in model.model_fields:
            kind = model.model_fields[step].annotation
        else:
            kind = next((get_args(t)[-1 if _is_mapping(t) else 0] for t in inner if get_args(t)), None)
    return kind


def _is_mapping(kind: Any) -> bool:
    return getattr(kind, "__origin__", None) is dict


def _inner_types(kind: Any) -> list[Any]:
    origin = getattr(kind, "__origin__", None)
    if getattr(kind, "__metadata__", None) is not None:
        return _inner_types(origin)
    if origin is None and get_args(kind):
        return [t for inner in get_args(kind) for t in _inner_types(inner)]
    return [kind]


def _names_at(path: Sequence[str | int]) -> list[str]:
    for kind in _inner_types(_models_at(path)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return list(kind.model_fields)
    return []


def _literals_at(path: Sequence[str | int]) -> list[Any]:
    return [v for kind in _inner_types(_models_at(path)) for v in get_args(kind)]


def _nearest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _or(names: Sequence[str]) -> str:
    return "allowed: " + ", ".join(names)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _dotted(path: Sequence[str | int]) -> str:
    return ".".join(map(str, path)) or "the recipe"
