"""What is published of a finished build, what is refused, and where it goes: the Hub, or a folder of versions."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from pipeline.errors import InputError, OutputError, RecapError
from pipeline.publish import card, folder, versions
from pipeline.publish import manifest as manifests
from pipeline.publish.places import home_paths, without_places
from pipeline.publish.references import check_place
from pipeline.publish.versions import Version
from pipeline.sources.known import known

CARD = card.CARD
LATEST = "latest"
"""The link to the newest version in a folder of versions."""

_ADDRESSES = ("base_url", "api_key_env")
"""Keys of a sampler or judge that say where it is asked: nothing of the rows depends on them."""


class PublishError(RecapError):
    """A version could not be published; the build is as it was."""


class Published(NamedTuple):
    """What became of a publication.

    ``version`` as ``v1.3.0``; ``commit`` is that of the version on the Hub, None in a folder; ``url`` is where to look;
    ``unchanged`` says that the version was there already; ``change`` is what it changes against the last one
    (``first``, ``major``, ``minor``, ``patch``), None where it was there; ``notes`` are for the user.
    """

    to: str
    version: str
    commit: str | None
    url: str
    unchanged: bool
    change: str | None
    notes: list[str]


class Permissions(NamedTuple):
    """What the user has said yes to."""

    public: bool = False
    allow_restricted: bool = False
    public_harmful: bool = False


class Release(NamedTuple):
    """A build, ready to be published.

    ``files`` are its data files by their name in the repository; ``hashes`` their sha256; ``manifest`` is what will be
    published of the manifest, but for its version; ``card`` is the build's card, where somebody wrote on it.
    """

    folder: Path
    to: str
    manifest: dict[str, Any]
    files: dict[str, Path]
    card: str | None = None

    @property
    def hashes(self) -> dict[str, str]:
        """sha256 of every data file."""
        hashes: dict[str, str] = self.manifest["files"]
        return hashes

    def texts(self, version: Version, existing: str | None) -> dict[str, bytes]:
        """Card and manifest of a version; `existing` is the published card. What was written on it, and on the card of
        the build, stays.

        Raises:
            InputError: one of the cards can't be merged with ours.
        """
        manifest = {"name": self.manifest["name"], "version": version.number, **self.manifest}
        text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
        ours = card.merge(self.card, card.render(manifest), f"The card in {self.folder}")
        return {CARD: card.merge(existing, ours).encode(), folder.MANIFEST: text.encode()}


def publish(
    build: Path,
    to: str | None = None,
    *,
    version: str | None = None,
    permissions: Permissions | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> Published:
    """Publish a finished build as a version that never changes, to ``hub:owner/name`` or to a folder.

    On the Hub it is one commit and a tag (`pipeline.publish.hub`). A folder gets one folder a version, ``v1.3.0``,
    which appears whole or not at all and is never written to again, and the link ``latest``; each is what
    ``load_dataset`` takes. What may be redistributed is checked for the Hub alone: a folder is the user's own.

    Args:
        build: the build's folder.
        to: the place; the recipe's ``publish.to`` unless given.
        version: ``1.3.0``, where the rule's version (`pipeline.publish.versions`) is too low.
        permissions: what the user has said yes to.
        tell: is given a line whenever the Hub makes it wait.

    Raises:
        InputError: no finished build, no such place, a version too low, or something that is refused: nothing was sent.
        PublishError: the Hub could not be made to take it, or somebody else published meanwhile.
        OutputError: the folder can't be written.
    """
    wish = versions.asked(version) if version is not None else None
    permissions = permissions or Permissions()
    release = prepare(build, to)
    if release.to.startswith("hub:"):
        check(release, permissions)
        from pipeline.publish import hub

        return hub.publish(release, wish, permissions, tell)
    if any(permissions):
        raise InputError("--public, --public-harmful and --allow-restricted are for the Hub: leave them out.")
    try:
        return _to_folder(release, Path(release.to), wish)
    except OSError as error:
        raise OutputError(
            f"{error.filename or release.to} can't be written: {error.strerror or error}. The versions in {release.to} "
            "are as they were. Make room, or give --to another folder, and run the same command again."
        ) from error


def prepare(build: Path, to: str | None) -> Release:
    """Read a finished build and say what will be published of it. Raises InputError like `publish`."""
    try:
        manifest, _ = manifests.read(folder.inside(build, folder.MANIFEST), manifests.Whole)
        recipe = manifests.published_recipe(manifest)
    except manifests.ManifestError as error:
        raise InputError(f"{build} is no finished build: {error}. Give the folder that build wrote.") from None
    to = _place(to or recipe.publish.to)
    _check_configs(build, manifest, recipe)
    hashes = {name: known for name, known in sorted(manifest["files"].items()) if name != CARD}
    if not folder.intact(build, {"files": hashes}):
        raise InputError(
            f"The files in {build} are not those that its {folder.MANIFEST} names: something changed them. "
            "Run build again, and publish that."
        )
    plain = _without_addresses(manifest["recipe"])
    plain["publish"] = plain["publish"] | {"to": to if to.startswith("hub:") else None}
    files = {name: build / name for name in hashes}
    published = manifest | {"recipe": plain, "columns": _columns(files), "files": hashes}
    return Release(build, to, without_places(published), files, card.written(build, manifest))


def _check_configs(build: Path, manifest: Mapping[str, Any], recipe: manifests.Published) -> None:
    """Raise InputError where the manifest doesn't state every config of its recipe."""
    stated = manifest.get("variants", {}).keys() & manifest["rows"].keys()
    if lacking := sorted(recipe.variants.keys() - stated):
        raise InputError(
            f"{build} is no finished build: {folder.MANIFEST} states no rows of {', '.join(lacking)}, a config of its "
            "recipe. Run build again, and publish that."
        )


def check(release: Release, permissions: Permissions) -> None:
    """Refuse what must not be on the Hub as it is asked for.

    Raises:
        InputError: a source forbids redistribution, a path tells of a home folder; harmful prefills, or rows of a
            source without a licence, would be public.
    """
    manifest = release.manifest
    public = is_public(release, permissions)
    if restricted := _restricted(release):
        names = ", ".join(restricted)
        if public:
            raise InputError(
                f"{names}: no redistribution is allowed, so this build can't be in a public repository. "
                "Take the source out of the recipe, or publish to a private repository with --allow-restricted."
            )
        if not permissions.allow_restricted:
            raise InputError(
                f"{names}: no redistribution is allowed ({known_terms(restricted[0])}) "
                "Take the source out of the recipe; or, if nobody but you will see the private repository, "
                "add --allow-restricted."
            )
    if public and (unlicensed := _unlicensed(manifest)):
        raise InputError(
            f"{', '.join(unlicensed)}: no licence is known, so this build can't be in a public repository. Name it in "
            "the recipe, as licence:, and build again, take the source out, or publish to a private repository."
        )
    if homes := home_paths(manifest["recipe"]):
        raise InputError(
            f"{homes[0]} is a path in somebody's home folder, and stands in the rows or in the keys under which the "
            "ledger has their answers, so that it can't be cut here. Build with another name of the model: a path "
            "relative to the folder you build in, or of a server the name it serves the model under. Or publish to a "
            "folder."
        )
    shown = [manifest["prefilled"], *(entry["prefilled"] for entry in (manifest.get("variants") or {}).values())]
    harmful = max(prefilled.get("harmful", 0) for prefilled in shown)
    if public and harmful and not permissions.public_harmful:
        raise InputError(
            f"This would make {harmful:,} prefills that lean toward answering harmful prompts public. "
            "Publish to a private repository (publish.private: true, without --public), or, if that is what you want, "
            "say so with --public-harmful."
        )


def is_public(release: Release, permissions: Permissions) -> bool:
    """Whether a public repository is asked for, on the command line or in the recipe."""
    return permissions.public or not release.manifest["recipe"]["publish"]["private"]


def known_terms(dataset: str) -> str:
    """The terms of a known dataset."""
    entry = known(dataset)
    return entry.terms if entry else ""


def _place(to: str | None) -> str:
    if not to:
        raise InputError("Say where to publish: --to hub:owner/name, or --to FOLDER.")
    if to.startswith("hub:"):
        if not re.fullmatch(r"hub:[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", to, re.ASCII):
            raise InputError(f"{to} names no repository. Give --to hub:owner/name.")
    elif "://" in to:
        raise InputError(f"{to} is no place to publish to. Give --to hub:owner/name, or --to FOLDER.")
    else:
        check_place(to)
    return to


def _without_addresses(recipe: Mapping[str, Any]) -> dict[str, Any]:
    def bare(configs: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: config and {key: value for key, value in config.items() if key not in _ADDRESSES}
            for name, config in configs.items()
        }

    return {**recipe, "samplers": bare(recipe["samplers"]), "judges": bare(recipe["judges"])}


def _columns(files: Mapping[str, Path]) -> dict[str, dict[str, str]]:
    """Names and types of the columns by config, from the first file of each."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, dict[str, str]] = {}
    for name, path in files.items():
        config = re.sub(r"-\d+-of-\d+$", "", PurePosixPath(name).stem)
        if path.suffix == ".parquet" and config not in columns:
            try:
                columns[config] = {field.name: str(field.type) for field in pq.read_schema(path)}
            except pa.ArrowException as error:
                raise InputError(f"{path} is no Parquet file that can be read. Run build again.") from error
    return columns


def _restricted(release: Release) -> list[str]:
    """Datasets of which a text is in the release, and whose terms don't allow that."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = {source["dataset"] for source in release.manifest["sources"]}
    for name, path in release.files.items():
        # A rejected row quotes the text that it is too much like: that of an evaluation set, where it leaked.
        if path.suffix == ".parquet" and "match" in release.manifest["columns"].get("rejected", ()):
            if not name.startswith("rejected/"):
                continue
            matches = pq.read_table(path, columns=["match"])["match"].combine_chunks()
            names |= set(pa.compute.struct_field(matches, "dataset").unique().to_pylist())
    return sorted(name for name in names if (entry := known(name)) and not entry.redistribute)


def _unlicensed(manifest: Mapping[str, Any]) -> list[str]:
    """The sources of the rows that have no licence, by path or name."""
    return sorted({str(s.get("path") or s["dataset"]) for s in manifest["sources"] if not s.get("licence")})


def _to_folder(release: Release, place: Path, wish: Version | None) -> Published:
    if place.exists() and not place.is_dir():
        raise InputError(f"{place} is not a folder. Give --to a folder, or hub:owner/name.")
    place.mkdir(parents=True, exist_ok=True)
    with _locked(place):
        for left in place.glob(".v*.work"):
            if left.is_symlink() or not left.is_dir():
                raise InputError(f"{left} is in the way: it is no folder, and was left as it is. Remove or rename it.")
            shutil.rmtree(left)
        taken = sorted(v for path in place.iterdir() if (v := versions.parse(path.name)))
        last = folder.read_manifest(place / str(taken[-1])) if taken else None
        former = card.written(place / str(taken[-1]), last or {}) if taken else None
        if taken and last is not None and _holds(place / str(taken[-1]), release.texts(taken[-1], former)):
            _link(place, taken[-1])
            return _in_folder(release, place, taken[-1], None)
        version = versions.next_version(last, release.manifest, taken, wish)
        work, out = place / f".{version}.work", place / str(version)
        work.mkdir()
        try:
            for name, path in release.files.items():
                (work / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, work / name)
            for name, text in release.texts(version, former).items():
                (work / name).write_bytes(text)
            if not folder.intact(work, release.manifest):
                raise PublishError(f"The copy in {place} is not what was written. {out} was not made; try again.")
            folder.replace(out, work)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        _link(place, version)
        return _in_folder(release, place, version, versions.change(last, release.manifest))


def _holds(version: Path, texts: Mapping[str, bytes]) -> bool:
    """Whether a version's card and manifest are `texts`; its manifest names the data by hash."""
    with suppress(OSError, InputError):
        return all(folder.inside(version, name).read_bytes() == text for name, text in texts.items())
    return False


def _in_folder(release: Release, place: Path, version: Version, change: str | None) -> Published:
    url = str(place / str(version))
    return Published(release.to, str(version), None, url, change is None, change, [])


def _link(place: Path, version: Version) -> None:
    link, new = place / LATEST, place / f".{LATEST}.work"
    if link.is_symlink() and os.readlink(link) == str(version):
        return
    if link.exists() and not link.is_symlink():
        raise InputError(f"{link} is in the way: it is the link to the newest version. Rename it, and run again.")
    new.unlink(missing_ok=True)
    new.symlink_to(str(version))
    new.replace(link)


@contextmanager
def _locked(place: Path) -> Iterator[None]:
    lock = os.open(place, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
