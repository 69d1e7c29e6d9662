"""The mistakes in a recipe that is not valid yet: those its models find, and those that no single value shows."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from types import UnionType
from typing import Any, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from pipeline.documents import KeyPath
from pipeline.recipe.models import Recipe
from pipeline.schema import DOMAINS

_SECRET_KEY = re.compile(
    r"(?:^|_)(?:api_?key|access_?key(?:_id)?|(?:secret|private|subscription|auth|account|shared|signing|session)_?key"
    r"|password|passwd|passphrase|passcode|pwd|secret|client_secret|authorization|auth|bearer|cookie|jwt|credentials?)$"
    r"|^x_\w*(?:key|token|secret)$"
)
"""A key in small letters, its words joined by underscores, whose value is a secret."""

_TOKEN_KEY = re.compile(r"^(?:(?P<kind>\w+)_)?token$")
_TOKENS_OF_TEXT = frozenset(
    (
        *("pad", "padding", "eos", "bos", "unk", "sep", "cls", "mask", "stop", "start", "end", "special", "image"),
        *("audio", "video", "think", "reasoning", "prefix", "suffix", "first", "last", "next", "new", "line", "turn"),
        *("decoder_start", "forced_bos", "forced_eos", "begin", "separator", "control", "per", "draft", "placeholder"),
    )
)
"""What a token is called that is a piece of text."""

_SECRET_VALUE = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"hf_[A-Za-z0-9]{16,}|api_org_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|[sr]k_(?:live|test)_[A-Za-z0-9]{12,}"
    r"|gsk_[A-Za-z0-9]{12,}|AIza[\w-]{16,}|ya29\.[\w-]{12,}|gh[pousr]_[A-Za-z0-9]{12,}|github_pat_\w{12,}"
    r"|gl(?:pat|ptt|dt|rt|cbt|agent)-[\w-]{12,}|nvapi-[\w-]{12,}|xai-[A-Za-z0-9]{16,}|pplx-[A-Za-z0-9]{16,}"
    r"|r8_[A-Za-z0-9]{16,}|csk-[A-Za-z0-9]{16,}|fw_[A-Za-z0-9]{16,}|tgp_v1_[\w-]{12,}|esecret_[A-Za-z0-9]{12,}"
    r"|dapi[0-9a-f]{32}|lsv2_[a-z]{2}_\w{12,}|(?:AKIA|ASIA)[0-9A-Z]{12,}|xox[a-z]-[\w-]{10,}|npm_[A-Za-z0-9]{16,}"
    r"|eyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?)"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY"
    r"|(?i:\b(?:bearer|basic)\s+(?=\S*\d)[\w.~+/=-]{12,})"
    r"|(?i:\b(?:authorization|x-api-key|api[-_]key)[\"']?\s*[:=]\s*(?:(?:bearer|basic|token)\s+)?\S{6,})"
    r"|://[^/\s@?#]+@"
    r"|(?i:[?&#;](?:[\w.-]*[-_.])?(?:api-?key|key|token|auth|authorization|sig|signature|secret|password|passwd|pwd"
    r"|credentials?)=[^&\s]+)"
)
"""What a key to a service looks like, by how such keys begin; and what stands in an address to log in."""

_RUNS_CODE = re.compile(
    r"^(?:trust_remote_code|logits_processors|auto_map|inductor_passes|middleware|\w+_(?:cls|plugins?|module_path))$"
)
"""Arguments of engines and trainers that have them import code, of a repository or of a path."""

_SECRET_HINT = (
    "a secret has no place in a recipe, which is published with the data. "
    "Remove it and set it in the environment (HF_TOKEN for the Hub)"
)


class Mistake(NamedTuple):
    """What is wrong, at which keys from the recipe's root."""

    path: KeyPath
    message: str


def find(data: Mapping[str, Any]) -> Iterator[Mistake]:
    """Every mistake in the recipe `data` as YAML gave it, except keys given twice."""
    found = [*secrets(data), *code(data), *_cross_checks(data)]
    yield from found
    told = {mistake.path for mistake in found}
    yield from (mistake for mistake in invalid(data, Recipe) if mistake.path not in told)


def invalid(data: Mapping[str, Any], root: type[BaseModel]) -> Iterator[Mistake]:
    """What the model `root` finds wrong in `data`, told as mistakes."""
    try:
        root.model_validate(data)
    except ValidationError as error:
        yield from (_mistake(found, root) for found in error.errors())


def secrets(value: Any, path: KeyPath = ()) -> list[Mistake]:
    """Keys and values that look like a secret."""
    if isinstance(value, dict):
        found = []
        for key, inner in value.items():
            here = (*path, key)
            if path[-1:] != ("where",) and is_secret(key, inner):
                found.append(Mistake(here, _SECRET_HINT))
            elif isinstance(key, str) and _SECRET_VALUE.search(key):
                found.append(Mistake(here, f"looks like a secret; {_SECRET_HINT}"))
            else:
                found += secrets(inner, here)
        return found
    if isinstance(value, list):
        return [m for index, inner in enumerate(value) for m in secrets(inner, (*path, index))]
    if isinstance(value, str) and _SECRET_VALUE.search(value):
        return [Mistake(path, f"looks like a secret; {_SECRET_HINT}")]
    return []


def is_secret(key: Any, value: Any) -> bool:
    """Whether a key says that its value is a secret, as a header or an option does, however it is written."""
    if not isinstance(key, str) or value is None or isinstance(value, bool) or value in ("", [], {}):
        return False
    words = re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", key.strip()).lower()).strip("_")
    if _SECRET_KEY.search(words):
        return True
    token = _TOKEN_KEY.match(words)
    return token is not None and token["kind"] not in _TOKENS_OF_TEXT and isinstance(value, str | list | dict)


def code(value: Any, path: KeyPath = ()) -> list[Mistake]:
    """Arguments that would have code run that comes from elsewhere."""
    if isinstance(value, list):
        return [m for index, inner in enumerate(value) for m in code(inner, (*path, index))]
    if not isinstance(value, dict) or path[-1:] == ("where",):
        return []
    found = []
    for key, inner in value.items():
        named = str(key).replace("-", "_").lower()
        if _RUNS_CODE.match(named) and inner not in (None, False, "", [], {}):
            found.append(Mistake((*path, key), "would have code run that comes from elsewhere: remove it"))
        else:
            found += code(inner, (*path, key))
    return found


def _cross_checks(data: Mapping[str, Any]) -> Iterator[Mistake]:
    """What no single field shows. Reads the unvalidated recipe, so that these mistakes are told with all the others."""
    sources, mixture = _mapping(data.get("sources")), _mapping(data.get("mixture"))
    for domain in [d for d in mixture if d in DOMAINS]:
        here = ("mixture", domain, "prefill")
        if domain not in sources:
            yield Mistake(here[:2], f"has no prompts: add sources.{domain}")
        prefill = _mapping(mixture[domain]).get("prefill")
        yield from _prefill(here, domain, prefill, data)
    for name, variant in _mapping(data.get("variants")).items():
        yield from _variant(("variants", name), _mapping(variant), mixture, data)
    for domain in [d for d in sources if d in DOMAINS and d not in mixture]:
        yield Mistake(("sources", domain), f"is not used: add mixture.{domain} or remove it")
    decontaminate = _mapping(_mapping(data.get("clean")).get("decontaminate"))
    lists: dict[KeyPath, Any] = {("sources", d): value for d, value in sources.items()}
    lists["clean", "decontaminate", "against"] = decontaminate.get("against")
    for place, listed in lists.items():
        for index, entry in enumerate(listed if isinstance(listed, list) else []):
            source = _mapping(entry)
            if "files" not in source or "dataset" in source:
                continue
            if "prompt" not in source:
                yield Mistake((*place, index, "prompt"), "is missing: name the field that holds the prompt")
            if place[-1] == "math" and "ground_truth" not in source:
                yield Mistake((*place, index, "ground_truth"), "is missing: a math row needs one")


def _prefill(here: KeyPath, domain: str, prefill: Any, data: Mapping[str, Any]) -> Iterator[Mistake]:
    """What is wrong with a domain's prefills, in the mixture or in a variant."""
    samplers = _mapping(data.get("samplers"))
    name = _mapping(prefill).get("sampler")
    if prefill is not None and domain == "math":
        if data.get("attack") is None:
            yield Mistake(here, "math rows never carry a prefill (RECAP, Sec. 3.1); remove it")
        elif _mapping(samplers.get(name)).get("engine") == "template":
            yield Mistake((*here, "sampler"), "the engine template writes no mathematics: name a model's sampler")
    if isinstance(name, str) and name not in samplers:
        listed = f"samplers has {', '.join(sorted(map(str, samplers)))}" if samplers else "samplers is empty"
        yield Mistake((*here, "sampler"), f"{name!r} is no sampler{nearest(name, list(samplers))}; {listed}")


def _variant(
    here: KeyPath, variant: Mapping[str, Any], mixture: Mapping[str, Any], data: Mapping[str, Any]
) -> Iterator[Mistake]:
    """What is wrong with a variant, seen against the mixture that it changes."""
    if variant.get("attack") is not None and data.get("attack") is None:
        yield Mistake((*here, "attack"), "needs an attack of the whole recipe: add attack: {kind: prefill}")
    for domain in [d for d in variant if d in DOMAINS and variant[d] is not None]:
        change, there = {k: v for k, v in _mapping(variant[domain]).items() if v is not None}, (*here, domain)
        if domain not in mixture:
            yield Mistake(there, f"changes what is not there: add mixture.{domain} or remove it")
            continue
        yield from _prefill(there, domain, change, data)
        merged = {**_mapping(_mapping(mixture[domain]).get("prefill")), **change}
        if "sampler" not in merged:
            yield Mistake((*there, "sampler"), f"is missing: mixture.{domain} has no prefills to change")
        least, most = merged.get("min_words", 50), merged.get("words", 500)
        if isinstance(least, int) and isinstance(most, int) and least > most:
            yield Mistake((*there, "words"), f"min_words ({least}) is more than words ({most})")


def _mapping(value: Any) -> Mapping[Any, Any]:
    return value if isinstance(value, dict) else {}


def _mistake(error: ErrorDetails, root: type[BaseModel]) -> Mistake:
    place = tuple(part for part in error["loc"] if part != "[key]")
    path = tuple(part for depth, part in enumerate(place) if not _is_tag(place[:depth], part, root))
    kind, value = error["type"], error["input"]
    match kind:
        case "extra_forbidden":
            names = _names_at(place[:-1], root)
            message = f"unknown key{nearest(str(path[-1]), names)}; allowed: {', '.join(names)}"
        case "literal_error" if error["loc"][-1:] == ("[key]",):
            message = f"unknown key{nearest(str(value), DOMAINS)}; allowed: {', '.join(DOMAINS)}"
        case "literal_error":
            names = [str(v) for v in _literals_at(place, root)]
            message = f"{shown(value)} is not allowed{nearest(str(value), names)}; {_or(names)}"
        case "union_tag_invalid":
            path, names = (*path, "engine"), list(_tagged(_models_at(place, root)))
            message = f"{shown(error['ctx']['tag'])} is not allowed{nearest(error['ctx']['tag'], names)}; {_or(names)}"
        case "union_tag_not_found":
            path, message = (*path, "engine"), f"is missing; {_or(list(_tagged(_models_at(place, root))))}"
        case "missing":
            message = "is missing"
        case "where" | "ground_truth" | "source" | "lengths" | "regex" | "empty" | "url" | "place" | "config" | "env":
            message = error["msg"]
        case "string_pattern_mismatch":
            message = f"{shown(value)} is no name: letters, digits, '.', '_' and '-', at most 96"
        case _:
            why = error["msg"][:1].lower() + error["msg"][1:]
            message = f"{shown(value)} is not allowed: {why.replace('input ', '')}"
    return Mistake(path, message)


def _models_at(path: Sequence[str | int], root: type[BaseModel]) -> Any:
    """The type that `root` and the models in it put at `path`, which may hold the tags of unions."""
    kind: Any = root
    for step in path:
        inner = _inner_types(kind)
        model = next((t for t in inner if isinstance(t, type) and issubclass(t, BaseModel)), None)
        tagged = _tagged(kind)
        if step in tagged:
            kind = tagged[str(step)]
        elif model is not None and isinstance(step, str) and step in model.model_fields:
            kind = model.model_fields[step].annotation
        else:
            kind = next((get_args(t)[-1 if _is_mapping(t) else 0] for t in inner if get_args(t)), None)
    return kind


def _is_tag(path: Sequence[str | int], step: str | int, root: type[BaseModel]) -> bool:
    return step in _tagged(_models_at(path, root))


def _tagged(kind: Any) -> dict[str, Any]:
    """The models of a union by the engine that tells them apart; empty where `kind` is no such union."""
    models = [t for t in _inner_types(kind) if isinstance(t, type) and issubclass(t, BaseModel)]
    if len(models) < 2:
        return {}
    return {str(tag): model for model in models for tag in get_args(model.model_fields["engine"].annotation)}


def _is_mapping(kind: Any) -> bool:
    return getattr(kind, "__origin__", None) is dict


def _inner_types(kind: Any) -> list[Any]:
    """The types that a value may be of: of a union its members, however they are wrapped."""
    if getattr(kind, "__metadata__", None) is not None:
        return _inner_types(kind.__origin__)
    if get_origin(kind) in (Union, UnionType):
        return [t for inner in get_args(kind) for t in _inner_types(inner)]
    return [kind]


def _names_at(path: Sequence[str | int], root: type[BaseModel]) -> list[str]:
    for kind in _inner_types(_models_at(path, root)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return list(kind.model_fields)
    return []


def _literals_at(path: Sequence[str | int], root: type[BaseModel]) -> list[Any]:
    return [v for kind in _inner_types(_models_at(path, root)) for v in get_args(kind)]


def nearest(name: str, known: Sequence[str]) -> str:
    """Words that name the nearest of `known`; empty where none is near."""
    close = difflib.get_close_matches(name, [text for text in known if isinstance(text, str)], n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _or(names: Sequence[str]) -> str:
    return "allowed: " + ", ".join(names)


def shown(value: Any) -> str:
    """A value as a message shows it: cut short, no secret in it, of a list or mapping only its kind."""
    if isinstance(value, dict | list | tuple):
        return "a mapping" if isinstance(value, dict) else "a list"
    text = redacted(repr(value))
    return text if len(text) <= 60 else text[:57] + "..."


def redacted(text: str) -> str:
    """The text without what looks like a secret in it."""
    return _SECRET_VALUE.sub("[secret]", text)


def dotted(path: Sequence[str | int]) -> str:
    """A path as a message shows it: on one line, each part cut short."""
    return ".".join(map(_part, path)) or "the recipe"


def _part(step: str | int) -> str:
    text = str(step)
    return text if len(text) <= 60 and text.isprintable() else f"{text[:57]!r}..."
