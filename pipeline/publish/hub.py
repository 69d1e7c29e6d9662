"""Publishing to the Hub: a private repository, one commit, read back, then one tag.

A publication is one loop: look at what is there, do the next thing that is missing, and after anything that went wrong
look again. So whatever is interrupted is taken up by the next round or by the next run: a commit whose answer was lost
is found by its content, a version without a tag is read back and tagged, and two publishers can't both have made it,
since a commit names the one that it was computed from.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from pipeline.errors import InputError, RecapError, is_hub_error
from pipeline.publish import versions
from pipeline.publish.folder import MANIFEST
from pipeline.publish.manifest import ManifestError, Whole, parse
from pipeline.publish.release import CARD, Permissions, Published, PublishError, Release, is_public
from pipeline.publish.versions import Version

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.hf_api import DatasetInfo, RepoFile

_KIND = "dataset"
_BRANCH = "main"

PATIENCE = 300.0
"""Seconds that a publication waits in all for a Hub that is busy or out of order."""

FIRST_WAIT = 1.0
"""Seconds before the second try; doubled with every further one, up to a minute, unless the Hub says how long."""

TIMEOUT = 300.0
"""Seconds without a byte of an answer after which a call counts as lost."""

TRIES = 12
"""How often at most a publication looks again."""

_LATER = (408, 409, 412, 425, 429)
"""Statuses below 500 after which it is worth looking again: time out, busy, overtaken, too early, too many."""


class _Look(NamedTuple):
    """The repository at one commit: its files, tags, manifest and card."""

    head: str | None
    files: dict[str, RepoFile]
    tags: dict[str, str]
    manifest: dict[str, Any] | None
    card: str | None

    @property
    def versions(self) -> list[Version]:
        """The versions that have a tag."""
        return [version for name in self.tags if (version := versions.parse(name))]


class _Sent(NamedTuple):
    """A commit that was sent: whether it was made is known once ``commit`` is."""

    version: Version
    change: str
    texts: dict[str, bytes]
    commit: str | None = None


def publish(release: Release, wish: Version | None, permissions: Permissions, tell: Callable[[str], None]) -> Published:
    """Publish to the Hub; see `pipeline.publish.release.publish`, which has checked what may be published.

    `tell` is given a line whenever it has to wait.

    Raises:
        InputError: no token, one that can't write, a repository of another visibility, a version too low.
        PublishError: the Hub could not be made to take it, somebody else published meanwhile, or a tag is taken.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.utils import logging

    logging.set_verbosity(40)  # its warnings quote signed addresses
    name = release.to.removeprefix("hub:")
    token = get_token()
    if not token:
        raise InputError(
            f"Publishing to {release.to} needs a token that can write: set HF_TOKEN, or log in with hf auth login."
        )
    publication = _Publication(HfApi(token=token, library_name="recap-data"), name, token, release, wish, permissions)
    waited, wait, status = 0.0, FIRST_WAIT, None
    for left in reversed(range(TRIES)):
        try:
            return publication.round()
        except RecapError:
            raise
        except Exception as error:
            failure = _failure(error)
            if failure is None:
                raise
            status = _status(failure)
            after = _retry_after(failure)
            delay = after if after is not None else wait * random.uniform(0.5, 1)
            if not left or not passing(failure) or waited + delay > PATIENCE:
                raise PublishError(_message(publication, failure, after)) from None
        waited, wait = waited + delay, min(2 * wait, 60)
        if status != 412:
            tell(f"{name}: {_cause(failure)}; looking again in {delay:,.0f} s")
            time.sleep(delay)
    raise AssertionError("the last try returns or raises")


class _Publication:
    """One release on its way into one repository. `sent` is the last commit that was tried."""

    def __init__(
        self, api: HfApi, name: str, token: str, release: Release, wish: Version | None, permissions: Permissions
    ) -> None:
        self.api, self.name, self.token, self.release, self.wish = api, name, token, release, wish
        self.public = is_public(release, permissions)
        self.gated = release.manifest["recipe"]["publish"]["gated"]
        self.notes: dict[str, None] = {}
        self.sent: _Sent | None = None
        self._allowed = self._ready = False
        self._base: list[dict[str, Any] | None] = []
        self._others = 2

    @property
    def place(self) -> str:
        """The repository's page."""
        return f"{endpoint(self.api)}/datasets/{self.name}"

    def round(self) -> Published:
        """Look, and do what is missing. May be called again after any error of the Hub."""
        from huggingface_hub import get_session

        get_session().timeout = TIMEOUT
        self._check_token()
        self._prepare()
        if self.sent and self.sent.commit:
            return self._finish(self.sent.version, self.sent.commit, self.sent.change)
        look = self._look()
        if (found := self._found(look)) is not None:
            return found
        self._base = self._base or [look.manifest]
        if look.manifest != self._base[0]:
            raise self._overtaken(look)
        self._finish_other(look)
        version = versions.next_version(look.manifest, self.release.manifest, look.versions, self.wish)
        change = versions.change(look.manifest, self.release.manifest)
        self.sent = _Sent(version, change, self._texts(version, look.card))
        commit = self._commit(look, self.sent)
        self.sent = self.sent._replace(commit=commit)
        return self._finish(version, commit, change)

    def _check_token(self) -> None:
        if self._allowed:
            return
        who = self.api.whoami()
        role = ((who.get("auth") or {}).get("accessToken") or {}).get("role")
        if role == "read":
            raise InputError(
                f"The token in use can only read. Publishing to {self.release.to} needs one that can write: "
                "make one in the settings of your account, and set HF_TOKEN."
            )
        self._allowed = True

    def _prepare(self) -> None:
        """Have the repository there, as private and as gated as it is to be, before anything is sent to it."""
        if self._ready:
            return
        info = self._info() or self._created()
        if bool(info.private) == self.public:
            there, given = ("private", "--public") if self.public else ("public", "publish.private or no --public")
            advice = "leave --public out" if self.public else "add --public"
            raise InputError(
                f"{self.name} is there and {there}, but {given} asks for the opposite. The visibility of a repository "
                f"is never changed from here: change it at {self.place}/settings, or {advice}."
            )
        if self.gated and not info.gated:
            self._gate()
        self._ready = True

    def _info(self) -> DatasetInfo | None:
        """What the Hub tells of the repository, None where there is none."""
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

        try:
            return self.api.dataset_info(self.name)
        except GatedRepoError:
            raise
        except RepositoryNotFoundError:
            return None

    def _created(self) -> DatasetInfo:
        from huggingface_hub.errors import HfHubHTTPError

        try:
            self.api.create_repo(self.name, repo_type=_KIND, private=not self.public)
        except HfHubHTTPError as error:
            # It exists: made by another publisher, or by a call whose answer was lost.
            if _status(error) != 409 or (info := self._info()) is None:
                raise
            return info
        return self.api.dataset_info(self.name)

    def _gate(self) -> None:
        try:
            self.api.update_repo_settings(self.name, repo_type=_KIND, gated=self.gated)
        except Exception as error:
            failure = _failure(error)
            if failure is None or self.public or passing(failure):
                raise
            self.notes[
                f"{self.name} could not be gated (HTTP {_status(failure)}); it is private. "
                f"Gate it at {self.place}/settings before anybody makes it public."
            ] = None

    def _look(self) -> _Look:
        from huggingface_hub.hf_api import RepoFile

        refs = self.api.list_repo_refs(self.name, repo_type=_KIND)
        head = next((branch.target_commit for branch in refs.branches if branch.name == _BRANCH), None)
        tags = {tag.name: tag.target_commit for tag in refs.tags}
        if head is None:
            return _Look(None, {}, tags, None, None)
        listed = self.api.list_repo_tree(self.name, repo_type=_KIND, revision=head, recursive=True)
        files = {entry.path: entry for entry in listed if isinstance(entry, RepoFile)}
        text = self._read(CARD, head) if CARD in files else None
        return _Look(head, files, tags, self._manifest(head) if MANIFEST in files else None, text)

    def _read(self, name: str, commit: str) -> str:
        with tempfile.TemporaryDirectory(prefix="recap-data-") as cache:
            path = self.api.hf_hub_download(self.name, name, repo_type=_KIND, revision=commit, cache_dir=cache)
            return Path(path).read_bytes().decode("utf-8", "replace")

    def _manifest(self, commit: str) -> dict[str, Any] | None:
        """The manifest of a commit, None where it is none of a version."""
        try:
            manifest, _ = parse(self._read(MANIFEST, commit).encode(), Whole)
        except ManifestError:
            return None
        return manifest if versions.of(manifest) else None

    def _texts(self, version: Version, existing: str | None) -> dict[str, bytes]:
        return self.release.texts(version, existing)

    def _found(self, look: _Look) -> Published | None:
        """Finish the version where the repository holds this very release; None where it doesn't."""
        version = versions.of(look.manifest)
        if version is not None and look.head and not self._operations(look, self._texts(version, look.card)):
            tagged = look.tags.get(str(version))
            change = self.sent.change if self.sent and self.sent.version == version else None
            if tagged in (None, look.head):
                return self._finish(version, look.head, change, tagged=tagged is not None)
            if self._manifest(tagged) == look.manifest:
                return self._done(version, tagged, change)
            if self.wish is None or self.wish <= version:
                raise self._taken(version, tagged)
        # A commit whose answer was lost may have been tagged, and built on, by somebody else.
        if self.sent and (tagged := look.tags.get(str(self.sent.version))):
            manifest = self._manifest(tagged)
            if manifest == json.loads(self.sent.texts[MANIFEST]):
                return self._done(self.sent.version, tagged, self.sent.change)
        return None

    def _finish_other(self, look: _Look) -> None:
        """Tag the version on the branch where its publisher was stopped before that."""
        version = versions.of(look.manifest)
        if version is None or look.manifest is None or look.head is None or str(version) in look.tags:
            return
        self._others -= 1
        try:
            expected = _expected(look.manifest)
            whole = read_back(self.name, look.head, self.token, expected) == expected
        except ConnectionError:
            if self._others > 0:
                raise
            whole = False
        if whole:
            self._tag(version, look.head)
            self.notes[f"{version} had no tag: its publication was stopped. It was read back and has one now."] = None
        else:
            self.notes[f"{version} has no tag, and can't be read back as its {MANIFEST} says: it was left so."] = None

    def _operations(self, look: _Look, texts: Mapping[str, bytes]) -> list[CommitOperationAdd | CommitOperationDelete]:
        """What makes the commit looked at into the release; made anew for every try, since the client marks them."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        operations: list[CommitOperationAdd | CommitOperationDelete] = []
        for name, path in self.release.files.items():
            if not _same_file(look.files.get(name), path, self.release.hashes[name]):
                operations.append(CommitOperationAdd(name, str(path)))
        for name, text in texts.items():
            if not _same_text(look.files.get(name), text):
                operations.append(CommitOperationAdd(name, text))
        former = (look.manifest or {}).get("files") or {}
        folders = {name.partition("/")[0] + "/" for name in self.release.files if "/" in name}
        stale = [
            name
            for name in sorted(look.files.keys() - self.release.files.keys() - texts.keys())
            if name in former or (name.endswith(".parquet") and name.startswith(tuple(folders)))
        ]
        return [*operations, *(CommitOperationDelete(name, is_folder=False) for name in stale)]

    def _commit(self, look: _Look, sent: _Sent) -> str:
        operations = self._operations(look, sent.texts)
        rows = self.release.manifest["rows"]["mixture"]
        try:
            made = self.api.create_commit(
                self.name,
                operations,
                commit_message=f"{sent.version}: {rows:,} rows",
                commit_description=f"content {self.release.manifest['content_hash']}",
                repo_type=_KIND,
                revision=_BRANCH,
                parent_commit=look.head,
            )
        except RuntimeError as error:  # as the client wraps a failed upload
            raise ConnectionError("an upload failed") from error
        except ValueError as error:
            if _status(error) is not None:
                raise
            if "Invalid metadata in README.md" in str(error):
                raise PublishError(f"The Hub does not take the card's YAML. Mend README.md at {self.place}.") from None
            raise ConnectionError("the Hub's answer to an upload can't be read") from error
        return str(made.oid)

    def _finish(self, version: Version, commit: str, change: str | None, *, tagged: bool = False) -> Published:
        """Read a commit back and tag it."""
        if not tagged:
            expected = _expected(self.release.manifest)
            found = read_back(self.name, commit, self.token, expected)
            for config in [config for config in expected if found[config] != expected[config]]:
                (rows, content), (wanted, known) = found[config], expected[config]
                raise PublishError(
                    f"{self.place} holds {version} as commit {commit}, but loading {config} back gave {rows:,} rows "
                    f"with content {(content or '')[:12]}, not {wanted:,} with {(known or '')[:12]}. "
                    "It was not tagged. Run the same command again; if that says the same, report it."
                )
            self._tag(version, commit)
        return self._done(version, commit, change, new=not tagged)

    def _tag(self, version: Version, commit: str) -> None:
        """Have the tag at the commit, however often that was tried."""
        from huggingface_hub.errors import HfHubHTTPError

        try:
            self.api.create_tag(self.name, tag=str(version), revision=commit, repo_type=_KIND)
        except HfHubHTTPError as error:
            if _status(error) != 409:
                raise
            refs = self.api.list_repo_refs(self.name, repo_type=_KIND)
            there = next((tag.target_commit for tag in refs.tags if tag.name == str(version)), None)
            if there is None:
                raise
            if there != commit and self._manifest(there) != self._manifest(commit):
                raise self._taken(version, there) from None

    def _done(self, version: Version, commit: str, change: str | None, *, new: bool = False) -> Published:
        url = f"{self.place}/tree/{version}"
        unchanged = change is None and not new
        return Published(self.release.to, str(version), commit, url, unchanged, change, list(self.notes))

    def _taken(self, version: Version, commit: str) -> PublishError:
        return PublishError(
            f"The tag {version} of {self.name} is at commit {commit[:12]}, which does not hold this version. Tags "
            f"never move: publish it under a later one, as in --version {version.after('patch').number}."
        )

    def _overtaken(self, look: _Look) -> PublishError:
        version = versions.of(look.manifest)
        what = f"published {version} to" if version else "changed the manifest of"
        return PublishError(
            f"Somebody else {what} {self.name} while this ran (commit {(look.head or '')[:12]}). Nothing is lost: "
            f"{self.release.folder} is as it was, and nothing of it was published. Look at {self.place}/commits/main, "
            "and run the same command again to publish this as the next version."
        )


class Loaded(NamedTuple):
    """What `datasets.load_dataset` read of one config: its rows, and their content hash but for the rejected ones."""

    rows: int
    content_hash: str | None


def read_back(name: str, commit: str, token: str, configs: Iterable[str]) -> dict[str, Loaded]:
    """Load configs of a commit as a user does, in a process with empty caches.

    Raises:
        ConnectionError: it could not be loaded; the message is the loader's own.
    """
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("HF_", "HUGGINGFACE_"))
        or key in ("HF_ENDPOINT", "HF_HUB_DISABLE_XET", "HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT")
    }
    with tempfile.TemporaryDirectory(prefix="recap-data-") as home:
        done = subprocess.run(
            [sys.executable, "-m", "pipeline.publish.readback", name, commit, *configs],
            env=kept
            | {
                "HF_HOME": home,
                "HF_TOKEN": token,
                "HF_HUB_DISABLE_TELEMETRY": "1",
                "HF_HUB_DISABLE_PROGRESS_BARS": "1",
                "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path)),
            },
            cwd=home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        why = _bare(lines[-1] if lines else f"the process ended with {done.returncode}", token)
        raise ConnectionError(f"the commit {commit[:12]} can't be loaded back: {why}")
    return {config: Loaded(*read) for config, read in json.loads(done.stdout.splitlines()[-1]).items()}


def endpoint(api: HfApi) -> str:
    """The Hub's address, without what a user may have put in front of it to log in."""
    parts = urlsplit(api.endpoint)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/")


def _expected(manifest: Mapping[str, Any]) -> dict[str, Loaded]:
    """What loading back must give: of every config with rows, since `datasets` can't load one without."""
    hashes = versions.contents(manifest)
    return {config: Loaded(rows, hashes.get(config)) for config, rows in manifest["rows"].items() if rows}


def _same_file(there: RepoFile | None, path: Path, sha256: str) -> bool:
    if there is None:
        return False
    if there.lfs is not None:
        return bool(there.lfs.sha256 == sha256)
    return there.size == path.stat().st_size and _same_text(there, path.read_bytes())


def _same_text(there: RepoFile | None, text: bytes) -> bool:
    if there is None:
        return False
    if there.lfs is not None:
        return bool(there.lfs.sha256 == hashlib.sha256(text).hexdigest())
    blob = hashlib.sha1(b"blob %d\0" % len(text) + text, usedforsecurity=False)
    return bool(there.blob_id == blob.hexdigest())


def _failure(error: BaseException) -> Exception | None:
    """What the Hub, its client or the network raised, at the bottom of `error`; None where it is something else."""
    found: Exception | None = None
    at: BaseException | None = error
    seen = 0
    while at is not None and seen < 10:
        if isinstance(at, Exception) and is_hub_error(at) and not _local(at):
            found = at if found is None or _status(at) is not None else found
            if _status(found) is not None:
                return found
        at, seen = at.__cause__ or at.__context__, seen + 1
    return found


def _local(error: Exception) -> bool:
    """Whether this machine's disk or our own code raised it."""
    if type(error).__module__ != "builtins":
        return False
    network = isinstance(error, ConnectionError | TimeoutError)
    return (isinstance(error, OSError) and not network) or (isinstance(error, ValueError) and not network)


def _status(error: BaseException) -> int | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def passing(error: Exception) -> bool:
    """Whether it is worth trying again."""
    from huggingface_hub import errors

    if isinstance(error, errors.OfflineModeIsEnabled | errors.HFValidationError):
        return False
    status = _status(error)
    return status is None or status >= 500 or status in _LATER


def _retry_after(error: Exception) -> float | None:
    """Seconds that the Hub says to wait; None where it doesn't."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    try:
        return max(float(headers.get("Retry-After", "")), 0.0)
    except ValueError:
        return None


def _message(publication: _Publication, error: Exception, after: float | None) -> str:
    from huggingface_hub import errors

    name, where = publication.name, publication.place
    status, said = _status(error), _said(error, publication.token)
    state = f"{publication.release.folder} is as it was"
    if publication.sent:
        state += f", and {name} holds the last version or {publication.sent.version}, whole"
    again = f"{state}. Run the same command again: it goes on where this stopped"
    match error:
        case errors.OfflineModeIsEnabled():
            message = f"Publishing to {name} needs the Hub, but HF_HUB_OFFLINE is set: unset it"
        case _ if status in (401, 403) or isinstance(error, errors.RepositoryNotFoundError):
            message = (
                f"The Hub refuses {name} to this token (HTTP {status}){said}. Check the name, that the token in "
                f"HF_TOKEN or of hf auth login can write there, and {where}"
            )
        case _ if status == 429:
            wait = f" It asks to wait {after:,.0f} seconds." if after else ""
            message = f"The Hub takes no more for now (HTTP 429){said}.{wait} {again}"
        case _ if status in (409, 412):
            message = f"{name} is busy (HTTP {status}){said}. {again}"
        case _ if status is not None and status >= 500:
            message = f"{where} answers HTTP {status}{said}. {again}"
        case _ if status is not None:
            message = f"{where} refuses this (HTTP {status}){said}. {state}"
        case ConnectionError() if type(error).__module__ == "builtins":
            message = f"{where}: {error}. {again}"
        case _:
            message = f"{where} can't be reached ({type(error).__name__}): check the network and HF_ENDPOINT. {again}"
    return message + "."


def _said(error: Exception, token: str) -> str:
    """The Hub's own words, on one line."""
    words = _bare(str(getattr(error, "server_message", None) or ""), token)
    return f": {words}" if words else ""


def _cause(error: Exception) -> str:
    status = _status(error)
    return f"HTTP {status}" if status is not None else type(error).__name__


def _bare(words: str, token: str) -> str:
    """A message on one line, without anything that gives access: token, signed addresses, passwords."""
    words = re.sub(r"(https?://)[^/\s@]*@", r"\1", " ".join(words.replace(token, "…").split()))
    return re.sub(r"(https?://[^\s?]*)\?\S*", r"\1?…", words)[:300].rstrip(".")
