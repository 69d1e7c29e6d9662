"""The data card: ``README.md`` of a build, as the Hub and `datasets.load_dataset` read it.

Its YAML names the configs and their files, the licence and ``not-for-all-audiences``; its text says how the data was
made, from the manifest alone, so that equal builds have equal cards. That text stands between two marks, and what
people write around them stays (`merge`): in a build's folder, in a folder of versions, and on the Hub.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from pipeline import templates
from pipeline.documents import Unreadable, read_yaml
from pipeline.errors import InputError
from pipeline.publish.folder import file_hash, inside
from pipeline.recipe import Prefill

CARD = "README.md"

BEGIN, END = "<!-- recap-data:begin", "<!-- recap-data:end -->"
"""The marks around our part of a card's text. The first goes on to the end of its line."""

_OURS = (
    *("pretty_name", "license", "license_name", "license_link", "language", "task_categories", "tags"),
    *("size_categories", "configs", "dataset_info"),
)
"""The keys of a card's YAML that are ours. ``dataset_info`` is removed: one that is out of date breaks the loading."""

_STRICTNESS = (
    "cc0-1.0",
    "unlicense",
    "mit",
    "apache-2.0",
    "odc-by",
    "cc-by-4.0",
    "cc-by-sa-3.0",
    "cc-by-sa-4.0",
    "odbl",
    "gpl-3.0",
    "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0",
    "cc-by-nc-nd-4.0",
)
"""Licences by what they ask of a user, least first."""

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def strictest_licence(licences: Iterable[str | None]) -> str:
    """The licence that a work made of parts under `licences` carries here: the one that asks most of a user.

    ``other`` where one is unknown or not stated: then the parts' own terms decide, and the card lists them.
    """
    known = set(licences)
    if not known or not known <= set(_STRICTNESS):
        return "other"
    return max((name for name in known if name), key=_STRICTNESS.index)


def render(manifest: dict[str, Any]) -> str:
    """The card of a build, from its manifest (without ``files``); with its ``version`` where it is published."""
    template = templates.load("mixture", "data_cards")
    filters = {"cell": _cell, "comma": lambda number: f"{number:,}"}
    text = templates.Sandboxed(template, filters, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    try:
        configs = _configs(manifest)
        arms = _arms(configs, manifest["recipe"])
    except (LookupError, TypeError, AttributeError, ValidationError) as error:
        why = str(error).partition("\n")[0][:120]
        raise InputError(f"No card can be written of the recipe in the manifest ({why}). Build it again.") from error
    values = {"manifest": manifest, "recipe": manifest["recipe"], "configs": configs, "arms": arms}
    body = text.render(values | {"several": len(arms) > len({arm["domain"] for arm in arms})})
    return f"---\n{_dumped(_metadata(manifest))}---\n{body}"


def merge(existing: str | None, ours: str, place: str = "The published card") -> str:
    """A card with our part of it replaced by that of `ours`; the rest is kept.

    Ours are the text between the marks and the keys of `_OURS` in the YAML; tags that others added stay as well. What
    was written around the marks of `ours` is put around those of the card, where it isn't there already. A card without
    marks gets our text in front of its own. Where nothing of ours changes the card stays the same to the byte.

    Args:
        existing: the card that people may have written on, None where there is none.
        ours: a card of `render`, or one that was merged with what people wrote elsewhere.
        place: what the card is called in a message.

    Raises:
        InputError: the card's YAML can't be read, or one of its two marks is missing.
    """
    if existing is None or not existing.strip():
        return ours
    existing = existing.replace("\r\n", "\n")
    front, body = _split(existing)
    our_front, our_body = _split(ours)
    theirs, new = _mapping(front, place), _mapping(our_front, place)
    tags = theirs.get("tags")
    if isinstance(tags, list):
        new["tags"] = [*tags, *(tag for tag in new["tags"] if tag not in tags)]
    kept = {key: value for key, value in theirs.items() if key not in _OURS}
    if theirs != {**new, **kept}:
        front = _dumped({**new, **kept})
    if BEGIN not in body and END not in body:
        body = f"{our_body}{body if body.startswith(chr(10)) else chr(10) + body}" if body.strip() else our_body
    else:
        above, _, below = _around(body, place)
        our_above, block, our_below = _around(our_body, place)
        body = _both(above, our_above) + block + _both(below, our_below)
    return f"---\n{front}---\n{body}"


def written(folder: Path, manifest: Mapping[str, Any]) -> str | None:
    """The card in a folder that somebody wrote on, None where there is none, or the one that the manifest names.

    Raises:
        InputError: it can't be read, its marks are damaged, or a link leads out of the folder.
    """
    path = inside(folder, CARD)
    if not path.is_file() or manifest.get("files", {}).get(CARD) == file_hash(path):
        return None
    try:
        text = path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 at byte {error.start}. Save it as UTF-8.") from None
    front, body = _split(text.replace("\r\n", "\n"))
    _mapping(front, str(path))
    if BEGIN in body or END in body:
        _around(body, str(path))
    return text


def _around(body: str, place: str) -> tuple[str, str, str]:
    """A card's text above the marks, with and between them, and below them."""
    start, stop = body.find(BEGIN), body.find(END)
    if not (0 <= start < stop and body.count(BEGIN) == body.count(END) == 1):
        raise InputError(
            f"{place}'s marks are damaged: it must hold one line {BEGIN} … --> and, after it, one {END}. "
            "Mend its README.md, or remove both marks and the text between them."
        )
    stop += len(END)
    return body[:start], body[start:stop], body[stop:]


def _both(theirs: str, ours: str) -> str:
    """What stands on one side of the marks, from two cards: each text once."""
    if ours.strip() in theirs:
        return theirs
    return ours if theirs.strip() in ours else f"{theirs.rstrip()}\n\n{ours.lstrip()}"


def _split(card: str) -> tuple[str, str]:
    """The YAML of a card and its text."""
    if not card.startswith("---\n"):
        return "", card
    front, closed, body = card[4:].partition("\n---\n")
    return (front + "\n", body) if closed else ("", card)


def _mapping(front: str, place: str) -> dict[str, Any]:
    try:
        data = read_yaml(front).data or {}
    except Unreadable:
        data = None
    if not isinstance(data, dict):
        raise InputError(f"{place}'s YAML, at its top, can't be read. Mend its README.md.")
    return data


def _dumped(data: dict[str, Any]) -> str:
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)


def _metadata(manifest: dict[str, Any]) -> dict[str, Any]:
    rows = manifest["rows"]["mixture"]
    licence = strictest_licence(source["licence"] for source in manifest["sources"])
    named = {"license_name": "as-the-sources"} if licence == "other" else {}
    return {
        "pretty_name": manifest["name"],
        "license": licence,
        **named,
        "language": ["en"],
        "task_categories": ["text-generation"],
        "tags": ["not-for-all-audiences", "safety", "alignment", "reasoning", "recap", "synthetic"],
        "size_categories": [next((size for most, size in _SIZES if rows < most), "1M<n<10M")],
        "configs": [_config(name) for name, count in manifest["rows"].items() if count],
    }


def _config(name: str) -> dict[str, Any]:
    """A config as the Hub wants it, and where its files are. One without rows can't be loaded, and has no entry."""
    place = "data" if name == "mixture" else name
    default = {"default": True} if name == "mixture" else {}
    return {"config_name": name, **default, "data_files": [{"split": "train", "path": f"{place}/{name}-*.parquet"}]}


def _configs(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """The configs with what they show: ``name``, ``shown`` (the prefills of each domain that has any), ``attack``."""
    recipe, listed = manifest["recipe"], []
    for name, variant in {"mixture": {}, **(recipe.get("variants") or {})}.items():
        counts = (manifest["variants"][name] if variant else manifest)["prefilled"]
        shown = []
        for domain, part in recipe["mixture"].items():
            change = {key: value for key, value in (variant.get(domain) or {}).items() if value is not None}
            if part["prefill"] or change:
                prefill = Prefill.model_validate((part["prefill"] or {}) | change)
                if prefill.share:
                    shown.append({"domain": domain, "count": counts.get(domain, 0), **prefill.model_dump()})
        attack = variant.get("attack") or recipe.get("attack")
        rounds = f", {attack['rounds'] or 1} rounds" if attack and attack["kind"] == "ipr" else ""
        listed.append({"name": name, "shown": shown, "attack": attack and attack["kind"] + rounds})
    return listed


def _arms(configs: list[dict[str, Any]], recipe: dict[str, Any]) -> list[dict[str, Any]]:
    """The prefills that were sampled alike, each once: as in ``shown``, with ``shares``, ``engine`` and ``judge``."""
    arms: dict[tuple[Any, ...], dict[str, Any]] = {}
    for shown in (shown for config in configs for shown in config["shown"]):
        key = tuple(shown[name] for name in ("domain", "sampler", "words", "min_words", "attempts", "stance"))
        arm = arms.setdefault(key, {**shown, "shares": set()})
        arm["shares"].add(shown["share"])
    judges = recipe["judges"]
    for arm in arms.values():
        arm["shares"] = sorted(arm["shares"])
        arm["engine"] = recipe["samplers"][arm["sampler"]]["engine"]
        arm["judge"] = (judges.get(arm["domain"]) or judges["stance"]) if arm["domain"] != "math" else None
    return list(arms.values())


def _cell(value: Any) -> str:
    """Text that can stand in a cell of a Markdown table."""
    return "–" if value is None else str(value).replace("|", "\\|").replace("\n", " ")
