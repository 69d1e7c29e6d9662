"""Which version a publication is: a rule on two manifests, pure.

Major when the schema or the columns change or a config is gone, minor when rows do (``content_hash``) or a config is
new, patch when only the card or the manifest does. What changes nothing is no new version.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

from pipeline.errors import InputError

Change = Literal["first", "major", "minor", "patch"]
"""What a version changes against the last one."""


class Version(NamedTuple):
    """A version ``vX.Y.Z``; later ones are greater."""

    major: int
    minor: int
    patch: int

    def __str__(self) -> str:
        return f"v{self.major}.{self.minor}.{self.patch}"

    @property
    def number(self) -> str:
        """Without the v, as the manifest has it."""
        return str(self)[1:]

    def after(self, change: Change) -> Version:
        """The next version for a change."""
        match change:
            case "patch":
                return Version(self.major, self.minor, self.patch + 1)
            case "minor":
                return Version(self.major, self.minor + 1, 0)
            case _:
                return Version(self.major + 1, 0, 0)


FIRST = Version(1, 0, 0)


def parse(text: str) -> Version | None:
    """Read ``v1.3.0`` or ``1.3.0``; None where the text is no version."""
    found = re.fullmatch(r"v?(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})", text, re.ASCII)
    return Version(*map(int, found.groups())) if found else None


def asked(text: str) -> Version:
    """Read what ``--version`` gives.

    Raises:
        InputError: it is no version.
    """
    version = parse(text)
    if version is None:
        raise InputError(f"{text!r} is no version. Give --version three numbers, as in 1.3.0.")
    return version


def of(manifest: Mapping[str, Any] | None) -> Version | None:
    """The version that a published manifest names; None where it names none."""
    version = manifest.get("version") if manifest else None
    return parse(version) if isinstance(version, str) else None


def change(last: Mapping[str, Any] | None, new: Mapping[str, Any]) -> Change:
    """What `new` changes against `last`, the manifest of the last version, where something is known to change."""
    if last is None:
        return "first"
    former, now = last.get("columns") or {}, new.get("columns") or {}
    if last.get("schema_version") != new.get("schema_version") or any(
        columns != now.get(config) for config, columns in former.items()
    ):
        return "major"
    return "minor" if contents(last) != contents(new) else "patch"


def contents(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The hash of the rows of each config, but for the rejected ones."""
    variants = manifest.get("variants") or {}
    return {"mixture": manifest.get("content_hash")} | {n: entry["content_hash"] for n, entry in variants.items()}


def next_version(
    last: Mapping[str, Any] | None,
    new: Mapping[str, Any],
    taken: Iterable[Version] = (),
    asked: Version | None = None,
) -> Version:
    """The version of `new`, which differs from `last` at least in its card or manifest.

    Args:
        last: the manifest of the last version, None where there is none.
        new: the manifest to publish.
        taken: versions that exist, whether or not `last` is one of them; the next one is above them all.
        asked: the user's wish.

    Raises:
        InputError: `asked` is lower than the rule's version.
    """
    versions = [*taken, *filter(None, [of(last)])]
    ruled = max(versions).after(change(last, new)) if versions else FIRST
    if asked is None:
        return ruled
    if asked < ruled:
        reason = f"the last version is {max(versions)}, and this changes" if versions else "it is the first version"
        what = {"first": " everything", "major": " the columns", "minor": " rows", "patch": " the card or the manifest"}
        reason += what[change(last, new)] if versions else ""
        raise InputError(
            f"--version {asked.number} is too low: {reason}. Give {ruled.number} or more, or leave --version out."
        )
    return asked
