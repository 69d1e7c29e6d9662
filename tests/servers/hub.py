"""A Hugging Face Hub that keeps git-like history in memory, and fails on demand before or after a call took effect.

It runs in a process of its own and speaks, for dataset repositories (and as much for models), what `huggingface_hub`
and `datasets` say where HF_HUB_DISABLE_XET=1. In a test:

    from tests.servers.hub import hub

    with hub() as server:
        api = HfApi(endpoint=server.endpoint, token=server.token)
        server.fail("commit", 500, when="after")       # the next commit is made, and answered with 500
        ...
        assert server.commits("my-org/mixture")[0].title == "v1.0.0"

    environment = {**os.environ, **server.environment(home=tmp_path)}      # for a client in a process of its own

By hand, `python -m tests.servers.hub --port 8000` prints its addresses and tokens as one line of JSON.

Users: `token` is that of "tester", who may write in the namespaces "tester" and "my-org"; `read_token` is of the same
user and may only read; `other_token` is that of "stranger", who may write in "stranger" and sees no private repository
of anybody else. Whoever is a member of a repository's namespace, or was granted access, reads it where it's gated.

Large files lie behind a second address, as on the Hub: what is downloaded from there is reached by a redirect and a
signed URL, without the token. Not spoken: Xet, pull requests, spaces, moving and squashing, the dataset viewer.

Sources of the protocol: `huggingface_hub` 2.4 (`hf_api.py`, `_commit_api.py`, `lfs.py`, `utils/_http.py`), git's and
git-lfs's own formats. The texts of 409 and 429 are those that users quote (every_eval_ever #263, datasets #6257).
"""

from __future__ import annotations

import asyncio
import base64
import fnmatch
import json
import math
import re
import socket
import struct
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from hashlib import sha1, sha256
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import parse_qs, quote, unquote, urlencode

import yaml
from aiohttp import web

from tests.servers.process import serve, started


@dataclass(frozen=True)
class Options:
    """What can be set: `--latency 0.1` by hand, `latency=0.1` in Python."""

    port: int = 0
    latency: float = 0.0
    """Seconds from a call's arrival to its taking effect."""
    page: int = 1000
    """Entries on one page of a tree or of a list of commits."""
    multipart_above: int = 0
    """Bytes from which a file is uploaded in parts; 0: never."""
    part_size: int = 1 << 20
    """Bytes of one part."""
    commits_per_hour: int = 128
    """Of one repository, 429 beyond; 0: any number."""


class User(NamedTuple):
    """Who a token stands for."""

    name: str
    namespaces: tuple[str, ...]
    role: Literal["read", "write"]


USERS = {
    "hf_tester_write": User("tester", ("tester", "my-org"), "write"),
    "hf_tester_read": User("tester", ("tester", "my-org"), "read"),
    "hf_stranger_write": User("stranger", ("stranger",), "write"),
}


class Problem(Exception):
    """A call that is refused; `code` is what the client makes its exception of."""

    def __init__(self, status: int, message: str, code: str = "", **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {}) | headers

    def answer(self) -> web.Response:
        """What the client gets."""
        return web.json_response({"error": self.message}, status=self.status, headers=self.headers)


# Git


class Blob(NamedTuple):
    """A file as a commit holds it: its git id, its size, and what tells its content: the SHA-256 of it."""

    oid: str
    size: int
    sha256: str
    lfs: bool

    @property
    def etag(self) -> str:
        """SHA-256 for LFS, else git's id."""
        return self.sha256 if self.lfs else self.oid


class Commit(NamedTuple):
    """A commit and its whole tree."""

    oid: str
    parent: str | None
    tree: dict[str, Blob]
    title: str
    message: str
    user: str
    time: float

    @property
    def date(self) -> str:
        """When, as the Hub writes it."""
        return stamp(self.time)


LFS_PATTERNS = (
    "*.7z *.arrow *.bin *.bz2 *.gz *.npy *.npz *.parquet *.pkl *.tar *.zip *.zst "
    "*.mp3 *.wav *.jpg *.jpeg *.png *.webp *.mp4 saved_model/**/*"
)
GITATTRIBUTES = "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in LFS_PATTERNS.split()).encode()
"""What a new repository holds (an excerpt of the Hub's own)."""

REGULAR_LIMIT = 10_000_000
"""Bytes from which every file is stored with LFS."""

COMMIT_LIMIT_TEXT = (
    "You have exceeded the rate limit for repository commits ({limit} per hour). "
    "You can retry this action in about 1 hour."
)


def git_oid(kind: str, content: bytes) -> str:
    """The id that git gives to an object."""
    return sha1(f"{kind} {len(content)}\0".encode() + content, usedforsecurity=False).hexdigest()


def pointer(oid: str, size: int) -> bytes:
    """What git-lfs puts into git in place of a file."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {size}\n".encode()


def trees(files: dict[str, Blob]) -> dict[str, str]:
    """The ids of all folders; that of the root is under the empty name."""
    below: dict[str, dict[str, Blob]] = {}
    entries: list[tuple[bytes, str, bytes]] = []
    found: dict[str, str] = {}
    for path, blob in files.items():
        first, _, rest = path.partition("/")
        if rest:
            below.setdefault(first, {})[rest] = blob
        else:
            entries.append((first.encode(), "100644", bytes.fromhex(blob.oid)))
    for name, inner in below.items():
        ids = trees(inner)
        found |= {f"{name}/{path}".rstrip("/"): oid for path, oid in ids.items()}
        entries.append((name.encode() + b"/", "40000", bytes.fromhex(ids[""])))
    lines = (mode.encode() + b" " + name.rstrip(b"/") + b"\0" + oid for name, mode, oid in sorted(entries))
    return found | {"": git_oid("tree", b"".join(lines))}


def stamp(seconds: float) -> str:
    """A time as the Hub writes it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass
class Repo:
    """A repository: commits by id, and the branches and tags that point at them. A tag never moves by itself."""

    kind: str
    name: str
    private: bool
    gated: str | bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    granted: set[str] = field(default_factory=set)
    uploaded: set[str] = field(default_factory=set)
    created: float = field(default_factory=time.time)

    @property
    def namespace(self) -> str:
        """The user or the organisation that it belongs to."""
        return self.name.partition("/")[0]

    def find(self, revision: str) -> Commit:
        """The commit that a branch, a tag, a full reference or an id (of 7 characters or more) means."""
        short = re.sub(r"^refs/(heads|tags)/", "", revision)
        oid = self.branches.get(short) or self.tags.get(short) or revision
        if oid in self.commits:
            return self.commits[oid]
        if re.fullmatch(r"[0-9a-f]{7,39}", oid):
            matching = [commit for known, commit in self.commits.items() if known.startswith(oid)]
            if len(matching) == 1:
                return matching[0]
        raise Problem(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def history(self, commit: Commit) -> Iterator[Commit]:
        """A commit and those before it, the newest first."""
        yield commit
        while commit.parent is not None:
            commit = self.commits[commit.parent]
            yield commit

    def put(self, branch: str, tree: dict[str, Blob], title: str, message: str, user: str) -> Commit:
        """Make a commit on a branch."""
        parent, now = self.branches.get(branch), time.time()
        head = f"tree {trees(tree)['']}\n" + (f"parent {parent}\n" if parent else "")
        text = f"{head}author {user} {now:.6f}\n\n{title}\n\n{message}"
        commit = Commit(git_oid("commit", text.encode()), parent, dict(sorted(tree.items())), title, message, user, now)
        self.commits[commit.oid] = commit
        self.branches[branch] = commit.oid
        return commit


# The log, and the faults


@dataclass
class Record:
    """One call in the log, and how it was answered. Times are seconds since the epoch.

    ``route`` is the name that a fault matches; ``status`` is None while there is no answer, and where the connection
    was dropped; ``effect`` says what the call changed: it stands there before the answer is sent; ``sent`` counts the
    bytes of the answer's body.
    """

    number: int
    method: str
    path: str
    route: str
    user: str | None
    arrived: float
    status: int | None = None
    ended: float | None = None
    fault: str | None = None
    when: str | None = None
    effect: str | None = None
    sent: int = 0


How = int | Literal["reset", "hang", "cut", "overtaken"]


@dataclass
class Fault:
    """What is to happen to some of the next calls.

    ``match`` is a number of a call (0 is the next one from now) or a pattern of route names or of "METHOD /path".
    ``skip`` of those that match are spared first, then ``times`` are struck; those of the user ``spare`` don't count.
    ``how`` is a status, or a name: reset (the
    connection), hang (no answer until the client gives up), cut (half of the answer, then the connection closes),
    overtaken (the call goes its way, but somebody else commits just before).
    """

    match: int | str
    how: How
    when: Literal["before", "after"] = "before"
    times: int = 1
    skip: int = 0
    retry_after: float = 1.0
    spare: str | None = None
    seen: int = 0

    def __post_init__(self) -> None:
        named = self.how in ("reset", "hang", "cut", "overtaken")
        if not named and not (isinstance(self.how, int) and 400 <= self.how < 600):
            raise ValueError(f"how is a status from 400, reset, hang, cut or overtaken, not {self.how!r}")
        if self.when not in ("before", "after"):
            raise ValueError(f"when is before or after, not {self.when!r}")
        known = {route.name for route in ROUTES}
        if isinstance(self.match, str) and not any(mark in self.match for mark in "/*") and self.match not in known:
            raise ValueError(f"match is a number, a route ({', '.join(sorted(known))}) or a pattern of 'METHOD /path'")

    def strikes(self, record: Record) -> bool:
        """Whether this call is struck. Every call must be shown to it, once."""
        if isinstance(self.match, int):
            hit, first = True, self.match + self.skip
        else:
            names = (record.route, f"{record.method} {record.path}")
            hit, first = any(fnmatch.fnmatch(name, self.match) for name in names), self.skip
        hit = hit and (self.spare is None or record.user != self.spare)
        self.seen += hit
        return hit and first < self.seen <= first + self.times

    def answer(self) -> web.Response:
        """The Hub's answer of this status."""
        match self.how:
            case 409:
                text = "Another commit operation is in progress for this repository. Please try again later."
            case 412:
                text = "A commit has happened since. Please refresh and try again."
            case 429:
                headers = {"Retry-After": f"{math.ceil(self.retry_after)}"}
                return Problem(429, COMMIT_LIMIT_TEXT.format(limit=128), **headers).answer()
            case 502 | 503 | 504:
                page = f"<html><title>{self.how}</title><body>The request could not be satisfied</body></html>"
                return web.Response(text=page, status=int(self.how), content_type="text/html")
            case _:
                text = "Internal Error - We're working hard to fix this as soon as possible!"
        return Problem(int(self.how), text).answer()


def body_length(request: web.BaseRequest, response: web.StreamResponse) -> int:
    """The bytes of an answer's body: none of one to HEAD."""
    body = response.body if isinstance(response, web.Response) and request.method != "HEAD" else None
    return len(body) if isinstance(body, bytes) else 0


def drop(request: web.BaseRequest) -> web.Response:
    """Reset the connection. What is returned can't be sent any more."""
    transport = request.transport
    if transport is not None:
        linger = struct.pack("ii", 1, 0)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        transport.abort()
    return web.Response()


# Routes


@dataclass
class Call:
    """One call as its route sees it. `repo` is set where its path names one that the user may see."""

    method: str
    parts: dict[str, str]
    queries: dict[str, list[str]]
    headers: Any
    body: bytes
    user: User | None
    record: Record
    base: str
    raw_path: str
    repo: Repo = None  # type: ignore[assignment]

    @property
    def query(self) -> dict[str, str]:
        """The first value of each query parameter."""
        return {name: values[0] for name, values in self.queries.items()}

    @property
    def json(self) -> Any:
        """The body. Raises `Problem`."""
        try:
            return json.loads(self.body or b"{}")
        except ValueError as error:
            raise Problem(400, "Invalid JSON") from error

    @property
    def revision(self) -> str:
        """The revision in the path."""
        return self.parts["revision"]


Handler = Callable[["Server", Call], web.Response]
Needs = Literal["nothing", "user", "read", "content", "write"]


class Route(NamedTuple):
    """A kind of call: its name in the log, and which right it needs: "content" is reading where it may be gated."""

    name: str
    method: str
    pattern: re.Pattern[str]
    needs: Needs
    handler: Handler


ROUTES: list[Route] = []

API = r"/api/(?P<kind>datasets|models)/(?P<repo>[^/]+/[^/]+)"
WEB = r"(?:/(?P<kind>datasets))?/(?P<repo>[^/]+/[^/]+)"


def route(name: str, method: str, pattern: str, needs: Needs) -> Callable[[Handler], Handler]:
    """Make a function answer the calls to a path; `{revision}` in it is one part, as the client quotes it."""
    expression = pattern.replace("{api}", API).replace("{web}", WEB).replace("{repository}", WEB[:-1] + r"?)\.git")
    expression = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", expression.replace("{path}", "(?P<path>.+)"))

    def add(handler: Handler) -> Handler:
        ROUTES.append(Route(name, method, re.compile(expression), needs, handler))
        return handler

    return add


def reply(data: Any, **headers: str) -> web.Response:
    """A JSON answer."""
    return web.json_response(data, headers=headers)


@route("whoami", "GET", "/api/whoami-v2", "user")
def whoami(server: Server, call: Call) -> web.Response:
    assert call.user is not None
    orgs = [{"type": "org", "name": name} for name in call.user.namespaces if name != call.user.name]
    token = {"displayName": "tests", "role": call.user.role}
    told = {"type": "user", "id": call.user.name, "name": call.user.name, "fullname": call.user.name, "orgs": orgs}
    return reply(told | {"auth": {"type": "access_token", "accessToken": token}})


@route("validate-yaml", "POST", "/api/validate-yaml", "nothing")
def validate_yaml(server: Server, call: Call) -> web.Response:
    try:
        card(call.json["content"].encode())
    except yaml.YAMLError as error:
        told = {"errors": [{"message": f"Invalid YAML: {error}"}], "warnings": []}
        return web.json_response(told, status=400)
    return reply({"errors": [], "warnings": []})


@route("create-repo", "POST", "/api/repos/create", "user")
def create_repo(server: Server, call: Call) -> web.Response:
    assert call.user is not None
    wanted = call.json
    namespace = wanted.get("organization") or call.user.name
    kind, name = wanted.get("type") or "model", f"{namespace}/{wanted['name']}"
    url = f"{call.base}/{'datasets/' if kind == 'dataset' else ''}{name}"
    if namespace not in call.user.namespaces or call.user.role != "write":
        raise Problem(403, f'You don\'t have the rights to create a {kind} under the namespace "{namespace}"')
    if (kind, name) in server.repos:
        message = f"You already created this {kind} repo: {name}"
        return web.json_response({"error": message, "url": url}, status=409, headers={"X-Error-Message": message})
    private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
    server.create(kind, name, private, call.user.name)
    call.record.effect = f"created {'private ' if private else ''}{name}"
    return reply({"url": url, "name": name, "id": name})


@route("delete-repo", "DELETE", "/api/repos/delete", "user")
def delete_repo(server: Server, call: Call) -> web.Response:
    assert call.user is not None
    wanted = call.json
    name = f"{wanted.get('organization') or call.user.name}/{wanted['name']}"
    repo = server.find(wanted.get("type") or "model", name, call.user, "write")
    del server.repos[repo.kind, name]
    call.record.effect = f"deleted {name}"
    return reply({})


@route("info", "GET", "{api}", "read")
@route("info", "GET", "{api}/revision/{revision}", "read")
def info(server: Server, call: Call) -> web.Response:
    repo, commit = call.repo, call.repo.find(call.parts.get("revision", "main"))
    blobs = call.query.get("blobs", "").lower() in ("true", "1")
    head = repo.commits[repo.branches["main"]]
    readme = commit.tree.get("README.md")
    told: dict[str, Any] = {
        "_id": git_oid("blob", repo.name.encode())[:24],
        "id": repo.name,
        "author": repo.namespace,
        "sha": commit.oid,
        "lastModified": head.date,
        "createdAt": stamp(repo.created),
        "private": repo.private,
        "gated": repo.gated,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [],
        "cardData": card(server.content(readme)) if readme else {},
        "siblings": [sibling(path, blob, blobs) for path, blob in commit.tree.items()],
        "usedStorage": sum(blob.size for blob in commit.tree.values()),
    }
    if repo.kind == "model":
        told["modelId"] = repo.name
    expand = call.queries.get("expand", []) + call.queries.get("expand[]", [])
    return reply({key: told[key] for key in ("_id", "id", *expand) if key in told} if expand else told)


def card(content: bytes) -> dict[str, Any]:
    """The YAML at the head of a README."""
    found = re.match(r"---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(\r?\n|$)", content.decode("utf-8", "replace"), re.DOTALL)
    data = yaml.safe_load(found[1]) if found else None
    # Dates and the like go as text, as in the Hub's JSON.
    return json.loads(json.dumps(data, default=str)) if isinstance(data, dict) else {}


def sibling(path: str, blob: Blob, blobs: bool) -> dict[str, Any]:
    """A file in a repository's info."""
    if not blobs:
        return {"rfilename": path}
    told: dict[str, Any] = {"rfilename": path, "size": blob.size, "blobId": blob.oid}
    if blob.lfs:
        size = len(pointer(blob.sha256, blob.size))
        told["lfs"] = {"sha256": blob.sha256, "size": blob.size, "pointerSize": size}
    return told


@route("settings", "PUT", "{api}/settings", "write")
def settings(server: Server, call: Call) -> web.Response:
    wanted, repo = call.json, call.repo
    if "gated" in wanted:
        if wanted["gated"] not in ("auto", "manual", False):
            raise Problem(400, "gated is auto, manual or false")
        repo.gated = wanted["gated"]
    if "visibility" in wanted or "private" in wanted:
        repo.private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
    call.record.effect = f"{repo.name}: private={repo.private}, gated={repo.gated}"
    return reply({"private": repo.private, "gated": repo.gated})


@route("auth-check", "GET", "{api}/auth-check", "content")
@route("auth-check", "GET", "{api}/auth-check/write", "write")
def auth_check(server: Server, call: Call) -> web.Response:
    return reply({})


@route("tree", "GET", "{api}/tree/{revision}", "read")
@route("tree", "GET", "{api}/tree/{revision}/{path}", "read")
def tree(server: Server, call: Call) -> web.Response:
    commit, folder = call.repo.find(call.revision), call.parts.get("path", "").strip("/")
    entries = everything(call.repo, commit, call.query.get("expand", "").lower() == "true")
    if folder and folder not in entries:
        raise Problem(404, f"{folder} does not exist on {call.revision!r}", "EntryNotFound")
    prefix, deep = f"{folder}/" if folder else "", call.query.get("recursive", "").lower() in ("true", "1")
    below = [
        entry
        for path, entry in entries.items()
        if path.startswith(prefix) and (deep or "/" not in path.removeprefix(prefix))
    ]
    return server.paged(call, below)


@route("paths-info", "POST", "{api}/paths-info/{revision}", "read")
def paths_info(server: Server, call: Call) -> web.Response:
    if "json" in call.headers.get("Content-Type", ""):
        wanted = call.json
    else:
        form = parse_qs(call.body.decode())
        wanted = {"paths": form.get("paths", []), "expand": form.get("expand", ["false"])[0].lower() == "true"}
    entries = everything(call.repo, call.repo.find(call.revision), bool(wanted.get("expand")))
    return reply([entries[path.strip("/")] for path in wanted["paths"] if path.strip("/") in entries])


def everything(repo: Repo, commit: Commit, expand: bool) -> dict[str, dict[str, Any]]:
    """The files and folders of a commit by path, as a tree lists them."""
    found: dict[str, dict[str, Any]] = {}
    for path, oid in trees(commit.tree).items():
        if path:
            found[path] = {"type": "directory", "oid": oid, "size": 0, "path": path}
    for path, blob in commit.tree.items():
        found[path] = {"type": "file", "oid": blob.oid, "size": blob.size, "path": path}
        if blob.lfs:
            size = len(pointer(blob.sha256, blob.size))
            found[path]["lfs"] = {"oid": blob.sha256, "size": blob.size, "pointerSize": size}
        if expand:
            last = last_change(repo, commit, path)
            found[path]["lastCommit"] = {"id": last.oid, "title": last.title, "date": last.date}
    return dict(sorted(found.items()))


def last_change(repo: Repo, commit: Commit, path: str) -> Commit:
    """The commit that gave a file what it holds."""
    last = commit
    for before in repo.history(commit):
        if before.tree.get(path) != commit.tree[path]:
            break
        last = before
    return last


@route("refs", "GET", "{api}/refs", "read")
def refs(server: Server, call: Call) -> web.Response:
    def listed(kind: str, found: dict[str, str]) -> list[dict[str, str]]:
        return [{"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": oid} for name, oid in found.items()]

    told = {"branches": listed("heads", call.repo.branches), "tags": listed("tags", call.repo.tags)}
    return reply(told | {"converts": [], "pullRequests": []})


@route("commits", "GET", "{api}/commits/{revision}", "read")
def commits(server: Server, call: Call) -> web.Response:
    found = [
        {"id": commit.oid, "title": commit.title, "message": commit.message, "date": commit.date}
        | {"authors": [{"user": commit.user}]}
        for commit in call.repo.history(call.repo.find(call.revision))
    ]
    return server.paged(call, found)


@route("tag", "POST", "{api}/tag/{revision}", "write")
def tag(server: Server, call: Call) -> web.Response:
    name, commit = call.json.get("tag"), call.repo.find(call.revision)
    if not isinstance(name, str) or not re.fullmatch(r"[^\s~^:?*\[\\]+", name):
        raise Problem(400, f"Invalid tag name: {name}")
    if name in call.repo.tags:
        raise Problem(409, f"Tag reference exists already: refs/tags/{name}")
    call.repo.tags[name] = commit.oid
    call.record.effect = f"tag {name} {commit.oid}"
    return reply({})


@route("untag", "DELETE", "{api}/tag/{revision}", "write")
def untag(server: Server, call: Call) -> web.Response:
    if call.repo.tags.pop(call.revision, None) is None:
        raise Problem(404, f"Tag not found: {call.revision}", "RevisionNotFound")
    call.record.effect = f"untag {call.revision}"
    return reply({})


@route("branch", "POST", "{api}/branch/{revision}", "write")
def branch(server: Server, call: Call) -> web.Response:
    start = call.repo.find(call.json.get("startingPoint") or "main")
    if call.revision in call.repo.branches:
        raise Problem(409, f"Reference already exists: refs/heads/{call.revision}")
    call.repo.branches[call.revision] = start.oid
    call.record.effect = f"branch {call.revision} {start.oid}"
    return reply({})


@route("unbranch", "DELETE", "{api}/branch/{revision}", "write")
def unbranch(server: Server, call: Call) -> web.Response:
    if call.revision == "main":
        raise Problem(403, "The main branch can't be deleted.")
    if call.repo.branches.pop(call.revision, None) is None:
        raise Problem(404, f"Branch not found: {call.revision}", "RevisionNotFound")
    call.record.effect = f"unbranch {call.revision}"
    return reply({})


# Uploading, and committing


@route("preupload", "POST", "{api}/preupload/{revision}", "write")
def preupload(server: Server, call: Call) -> web.Response:
    head, wanted = call.repo.find(call.revision), call.json
    ignored = [line.strip() for line in wanted.get("gitIgnore", "").splitlines() if line.strip()[:1] not in ("", "#")]
    found = []
    for file in wanted["files"]:
        path, before = file["path"], head.tree.get(file["path"])
        lfs = server.with_lfs(head.tree, path, file["size"])
        skip = any(fnmatch.fnmatch(name, rule) for rule in ignored for name in (path, path.rpartition("/")[2]))
        told = {"path": path, "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": skip}
        found.append(told | ({"oid": before.etag} if before else {}))
    return reply({"files": found, "commitOid": head.oid})


@route("lfs-batch", "POST", "{repository}/info/lfs/objects/batch", "write")
def lfs_batch(server: Server, call: Call) -> web.Response:
    wanted, repo = call.json, call.repo
    if wanted.get("operation") != "upload":
        raise Problem(501, "This Hub gives out large files by resolve alone.")
    limit, found = server.options.multipart_above, []
    parted = limit and "multipart" in wanted.get("transfers", [])
    for item in wanted["objects"]:
        oid, size = item["oid"], item["size"]
        told: dict[str, Any] = {"oid": oid, "size": size}
        if oid not in repo.uploaded:
            place = quote(repo.name, safe="")
            verify = {"href": f"{call.base}/{web_path(repo)}.git/info/lfs/objects/verify", "header": {}}
            if parted and size > limit:
                step, count = server.options.part_size, math.ceil(size / server.options.part_size)
                header = {"chunk_size": str(step)} | {
                    f"{number:05d}": server.signed(f"/-/storage/{repo.kind}/{place}/{oid}", "PUT", part=str(number))
                    for number in range(1, count + 1)
                }
                upload = {
                    "href": server.signed(f"/-/storage/{repo.kind}/{place}/{oid}/complete", "POST"),
                    "header": header,
                }
            else:
                upload = {"href": server.signed(f"/-/storage/{repo.kind}/{place}/{oid}", "PUT"), "header": {}}
            told["actions"] = {"upload": upload, "verify": verify}
        found.append(told)
    return reply({"transfer": "multipart" if parted else "basic", "objects": found})


def web_path(repo: Repo) -> str:
    """A repository's path on the web."""
    return f"datasets/{repo.name}" if repo.kind == "dataset" else repo.name


@route("lfs-upload", "PUT", "/-/storage/{kind}/{repo}/{oid}", "nothing")
def lfs_upload(server: Server, call: Call) -> web.Response:
    server.check_signature(call)
    repo = server.stored(call)
    oid, part = call.parts["oid"], call.query.get("part")
    server.bytes_in += len(call.body)
    if part:
        server.parts.setdefault(oid, {})[int(part)] = call.body
    else:
        server.keep_object(repo, oid, call.body)
    call.record.effect = f"uploaded {len(call.body)} bytes"
    return web.Response(headers={"ETag": f'"{sha256(call.body).hexdigest()[:32]}"'})


@route("lfs-complete", "POST", "/-/storage/{kind}/{repo}/{oid}/complete", "nothing")
def lfs_complete(server: Server, call: Call) -> web.Response:
    server.check_signature(call)
    repo, oid = server.stored(call), call.parts["oid"]
    parts = server.parts.get(oid, {})
    missing = [part["partNumber"] for part in call.json["parts"] if part["partNumber"] not in parts]
    if missing:
        raise Problem(400, f"Parts were not uploaded: {missing}")
    server.keep_object(repo, oid, b"".join(parts[number] for number in sorted(parts)))
    call.record.effect = f"completed {len(parts)} parts"
    return reply({"success": True})


@route("lfs-verify", "POST", "{repository}/info/lfs/objects/verify", "write")
def lfs_verify(server: Server, call: Call) -> web.Response:
    oid, size = call.json["oid"], call.json["size"]
    if oid not in call.repo.uploaded or len(server.objects[oid]) != size:
        raise Problem(404, f"Object {oid} of {size} bytes was not uploaded")
    return reply({})


@route("commit", "POST", "{api}/commit/{revision}", "write")
def commit(server: Server, call: Call) -> web.Response:
    repo, name = call.repo, re.sub("^refs/heads/", "", call.revision)
    if call.query.get("create_pr"):
        raise Problem(501, "This Hub takes no pull requests.")
    if name not in repo.branches:
        raise Problem(404, f"Invalid rev id: {call.revision}", "RevisionNotFound")
    try:
        lines = [json.loads(line) for line in call.body.splitlines() if line.strip()]
    except ValueError as error:
        raise Problem(400, "Invalid ndjson") from error
    if not lines or lines[0].get("key") != "header":
        raise Problem(400, "The first line of a commit is its header.")
    header, head = lines[0]["value"], repo.commits[repo.branches[name]]
    parent = header.get("parentCommit")
    if parent is not None and (len(parent) < 7 or not head.oid.startswith(parent)):
        raise Problem(412, "A commit has happened since. Please refresh and try again.")
    since = time.time() - 3600
    limit = server.options.commits_per_hour
    if limit and sum(known.time > since for known in repo.history(head)) >= limit:
        raise Problem(429, COMMIT_LIMIT_TEXT.format(limit=limit), **{"Retry-After": "3600"})
    files = dict(head.tree)
    for line in lines[1:]:
        server.change(repo, files, line["key"], line["value"])
    assert call.user is not None
    made = repo.put(name, files, header.get("summary", ""), header.get("description", ""), call.user.name)
    call.record.effect = f"commit {made.oid}"
    url = f"{call.base}/{web_path(repo)}/commit/{made.oid}"
    return reply({"success": True, "commitOid": made.oid, "commitUrl": url, "hookOutput": ""})


# Downloading


@route("resolve", "GET", "{web}/resolve/{revision}/{path}", "content")
def resolve(server: Server, call: Call) -> web.Response:
    found = call.repo.find(call.revision)
    blob = found.tree.get(call.parts["path"])
    headers = {"X-Repo-Commit": found.oid}
    if blob is None:
        raise Problem(404, "Entry not found", "EntryNotFound", **headers)
    headers |= {"ETag": f'"{blob.etag}"', "Accept-Ranges": "bytes"}
    if not blob.lfs:
        return ranged(call, server.content(blob), headers)
    place = f"/-/storage/{call.repo.kind}/{quote(call.repo.name, safe='')}/{blob.sha256}"
    headers |= {"X-Linked-Size": str(blob.size), "X-Linked-Etag": f'"{blob.sha256}"'}
    headers["Location"] = server.signed(place, "GET")
    return web.Response(status=302, text=f"Found. Redirecting to {headers['Location']}", headers=headers)


@route("download", "GET", "/-/storage/{kind}/{repo}/{oid}", "nothing")
def download(server: Server, call: Call) -> web.Response:
    server.check_signature(call)
    oid = call.parts["oid"]
    if oid not in server.objects:
        raise Problem(404, "NoSuchKey")
    return ranged(call, server.objects[oid], {"ETag": f'"{oid}"', "Accept-Ranges": "bytes"})


def ranged(call: Call, content: bytes, headers: dict[str, str]) -> web.Response:
    """A file, or the part of it that is asked for."""
    size, wanted = len(content), re.fullmatch(r"bytes=(\d*)-(\d*)", call.headers.get("Range", ""))
    status = 200
    if wanted and (wanted[1] or wanted[2]):
        start = int(wanted[1]) if wanted[1] else max(0, size - int(wanted[2]))
        end = min(int(wanted[2]), size - 1) if wanted[1] and wanted[2] else size - 1
        if start > end:
            raise Problem(416, "Requested range not satisfiable", **{"Content-Range": f"bytes */{size}"})
        headers["Content-Range"] = f"bytes {start}-{end}/{size}"
        content, status = content[start : end + 1], 206
    return web.Response(body=content, status=status, headers=headers, content_type="application/octet-stream")


# The server


class Server:
    """The repositories, the large files, the faults and the log of one Hub."""

    def __init__(self, options: Options) -> None:
        self.started_with = options
        self.options = options
        self.forget()

    def forget(self) -> None:
        """Return to a Hub without repositories, as it was started."""
        self.options = self.started_with
        self.repos: dict[tuple[str, str], Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.parts: dict[str, dict[int, bytes]] = {}
        self.clear()

    def clear(self) -> None:
        """Forget log, faults and the count of uploaded bytes."""
        self.records: list[Record] = []
        self.faults: list[Fault] = []
        self.bytes_in = 0

    async def listen(self) -> tuple[str, str]:
        """Take calls; return the addresses of the Hub and of its storage."""
        loop = asyncio.get_running_loop()
        protocol = web.Server(self.serve, request_factory=_request, handler_cancellation=True, access_log=None)
        listeners = [
            await loop.create_server(protocol, "127.0.0.1", port, backlog=512) for port in (self.options.port, 0)
        ]
        self.listeners = listeners
        self.base, self.storage = (f"http://127.0.0.1:{one.sockets[0].getsockname()[1]}" for one in listeners)
        return self.base, self.storage

    async def serve(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one call, log it, and do with it what the faults say."""
        body = await request.read()
        if request.path.startswith("/-/admin/"):
            return self.admin(request.path.rpartition("/")[2], json.loads(body))
        if request.path == "/api/agent-harnesses":  # a new process of the client's may ask; it's no part of any task
            return reply({"standardEnvVars": [], "harnesses": {}})
        route, parts = self.route(request)
        user = self.user(request)
        name = user.name if isinstance(user, User) else None
        record = Record(len(self.records), request.method, request.path, route.name if route else "", name, time.time())
        self.records.append(record)
        struck = [fault for fault in self.faults if fault.strikes(record)]
        fault = struck[0] if struck else None
        if fault:
            record.fault, record.when = str(fault.how), fault.when
        try:
            await asyncio.sleep(self.options.latency)
            if fault and fault.how == "overtaken":
                self.overtake(parts)
            if fault and fault.when == "before" and fault.how not in ("overtaken", "cut"):
                response = await self.strike(fault, request)
            else:
                response = self.answer(request, route, parts, user, body, record)
                if fault and fault.how == "cut":
                    return await self.cut(request, response)
                if fault and fault.when == "after" and fault.how != "overtaken":
                    response = await self.strike(fault, request)
            if request.transport is not None and not request.transport.is_closing():
                record.status, record.sent = response.status, body_length(request, response)
        except ConnectionError:
            return web.Response()
        finally:
            record.ended = time.time()
        return response

    def route(self, request: web.BaseRequest) -> tuple[Route | None, dict[str, str]]:
        """The kind of a call, and the parts of its path."""
        path = request.rel_url.raw_path
        method = "GET" if request.method == "HEAD" else request.method
        for known in ROUTES:
            found = known.pattern.fullmatch(path) if known.method == method else None
            if found:
                return known, {name: unquote(value or "") for name, value in found.groupdict().items()}
        return None, {}

    def user(self, request: web.BaseRequest) -> User | Problem | None:
        """Who calls; a `Problem` if the token is of nobody."""
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if not token:
            return None
        return USERS.get(token) or Problem(401, "Invalid credentials in Authorization header")

    def answer(
        self,
        request: web.BaseRequest,
        route: Route | None,
        parts: dict[str, str],
        user: User | Problem | None,
        body: bytes,
        record: Record,
    ) -> web.Response:
        """The answer as it should be."""
        try:
            if isinstance(user, Problem):
                raise user
            if route is None:
                raise Problem(404, f"Sorry, we can't find the page you are looking for: {request.path}")
            queries = parse_qs(request.rel_url.raw_query_string, keep_blank_values=True)
            call = Call(
                request.method, parts, queries, request.headers, body, user, record, self.base, request.rel_url.raw_path
            )
            if route.needs == "user" and user is None:
                raise Problem(401, "Invalid username or password.")
            if route.needs in ("read", "content", "write"):
                kind = "dataset" if parts.get("kind") == "datasets" else "model"
                call.repo = self.find(kind, parts["repo"], user, route.needs)
            return route.handler(self, call)
        except Problem as error:
            return error.answer()
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            return Problem(400, f"This is not what {request.method} {request.path} takes: {error!r}").answer()

    def find(self, kind: str, name: str, user: User | None, needs: str) -> Repo:
        """A repository, if there is one and this user has the right that is needed. Raises `Problem`."""
        repo = self.repos.get((kind, name))
        member = repo is not None and user is not None and repo.namespace in user.namespaces
        granted = repo is not None and user is not None and user.name in repo.granted
        if repo is None or (repo.private and not member and not granted):
            if user is None:
                raise Problem(401, "Invalid username or password.", "RepoNotFound")
            raise Problem(404, "Repository not found", "RepoNotFound")
        if needs == "write":
            if user is None:
                raise Problem(401, "Invalid username or password.", "RepoNotFound")
            if not member or user.role != "write":
                raise Problem(403, f"Your token doesn't have the rights to write to {name}: a write token is needed")
        if needs == "content" and repo.gated and not member and not granted:
            if user is None:
                text = f"Access to {kind} {name} is restricted. You must have access to it and be authenticated to "
                raise Problem(401, text + "access it. Please log in.", "GatedRepo")
            text = f"Access to {kind} {name} is restricted and you are not in the authorized list. "
            raise Problem(403, text + f"Visit {self.base}/{web_path(repo)} to ask for access.", "GatedRepo")
        return repo

    async def strike(self, fault: Fault, request: web.BaseRequest) -> web.Response:
        """What a call gets instead of its answer."""
        if fault.how == "hang":
            await asyncio.Event().wait()
        return drop(request) if fault.how == "reset" else fault.answer()

    async def cut(self, request: web.BaseRequest, answer: web.Response) -> web.StreamResponse:
        """Send half of an answer, and close the connection."""
        body = answer.body if isinstance(answer.body, bytes) else b""
        begun = web.StreamResponse(status=answer.status, headers=answer.headers)
        begun.headers["Content-Length"] = str(len(body))
        await begun.prepare(request)
        await begun.write(body[: len(body) // 2])
        if request.transport is not None:
            request.transport.close()
        return begun

    def overtake(self, parts: dict[str, str]) -> None:
        """Somebody else commits."""
        repo = self.repos.get(("dataset" if parts.get("kind") == "datasets" else "model", parts.get("repo", "")))
        if repo is not None:
            text = f"{len(repo.commits)}\n".encode()
            self.commit(repo, {"overtaken.txt": text}, "Somebody else was here", "stranger")

    # Repositories and what they hold

    def create(self, kind: str, name: str, private: bool, user: str) -> Repo:
        """A new repository, with its first commit."""
        repo = self.repos[kind, name] = Repo(kind, name, private)
        repo.put("main", {".gitattributes": self.blob(repo, GITATTRIBUTES, False)}, "initial commit", "", user)
        return repo

    def blob(self, repo: Repo, content: bytes, lfs: bool) -> Blob:
        """Keep a file's content."""
        digest = sha256(content).hexdigest()
        self.objects[digest] = content
        if lfs:
            repo.uploaded.add(digest)
        in_git = pointer(digest, len(content)) if lfs else content
        return Blob(git_oid("blob", in_git), len(content), digest, lfs)

    def content(self, blob: Blob) -> bytes:
        """What a file holds."""
        return self.objects[blob.sha256]

    def keep_object(self, repo: Repo, oid: str, content: bytes) -> None:
        """Keep a large file under its SHA-256. Raises `Problem` if that's another."""
        if sha256(content).hexdigest() != oid:
            raise Problem(400, "The provided x-amz-content-sha256 header does not match what was computed.")
        self.objects[oid] = content
        repo.uploaded.add(oid)

    def stored(self, call: Call) -> Repo:
        """The repository that a storage path belongs to."""
        repo = self.repos.get((call.parts["kind"], call.parts["repo"]))
        if repo is None:
            raise Problem(404, "NoSuchBucket")
        return repo

    def with_lfs(self, files: dict[str, Blob], path: str, size: int) -> bool:
        """Whether a file is stored with LFS: by the .gitattributes of the repository, or since it's large."""
        attributes = files.get(".gitattributes")
        lines = self.content(attributes).decode().splitlines() if attributes else []
        rules = [line.split()[0] for line in lines if "filter=lfs" in line]
        return size > REGULAR_LIMIT or any(
            fnmatch.fnmatch(name, rule) for rule in rules for name in (path, path.rpartition("/")[2])
        )

    def change(self, repo: Repo, files: dict[str, Blob], key: str, value: dict[str, Any]) -> None:
        """Carry out one line of a commit on `files`. Raises `Problem`."""
        path = value["path"]
        match key:
            case "file":
                encoded = value.get("encoding") == "base64"
                content = base64.b64decode(value["content"]) if encoded else value["content"].encode()
                if self.with_lfs(files, path, len(content)) and content:
                    raise Problem(400, f"Your push was rejected because it contains a file that must be in LFS: {path}")
                self.bytes_in += len(content)
                files[path] = self.blob(repo, content, False)
            case "lfsFile":
                oid = value["oid"]
                if oid not in repo.uploaded:
                    raise Problem(400, f"LFS pointer pointed to a file that does not exist: {path} ({oid})")
                files[path] = self.blob(repo, self.objects[oid], True)
            case "deletedFile":
                if path not in files:
                    raise Problem(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
                del files[path]
            case "deletedFolder":
                inside = [known for known in files if known.startswith(path.rstrip("/") + "/")]
                if not inside:
                    raise Problem(404, f"A folder with this name doesn't exist: {path}", "EntryNotFound")
                for known in inside:
                    del files[known]
            case _:
                raise Problem(400, f"Unknown operation: {key}")

    def commit(
        self, repo: Repo, files: dict[str, bytes | None], title: str, user: str, replace: bool = False
    ) -> Commit:
        """A commit without HTTP: `files` by path, None to delete one; `replace` all others too."""
        tree = dict(repo.commits[repo.branches["main"]].tree)
        if replace:
            tree = {path: blob for path, blob in tree.items() if path == ".gitattributes"}
        for path, content in files.items():
            if content is None:
                del tree[path]
            else:
                tree[path] = self.blob(repo, content, self.with_lfs(tree, path, len(content)))
        return repo.put("main", tree, title, "", user)

    def paged(self, call: Call, entries: list[Any]) -> web.Response:
        """One page of a list, with a link to the next one."""
        start = int(call.query.get("cursor", 0))
        end = start + self.options.page
        if end >= len(entries):
            return reply(entries[start:])
        queries = {name: value for name, value in call.query.items() if name != "cursor"} | {"cursor": str(end)}
        url = f"{self.base}{call.raw_path}?{urlencode(queries)}"
        return reply(entries[start:end], Link=f'<{url}>; rel="next"')

    def signed(self, path: str, method: str, **query: str) -> str:
        """A URL of the storage that needs no token."""
        return f"{self.storage}{path}?{urlencode(query | {'signature': self.signature(unquote(path), method)})}"

    def signature(self, path: str, method: str) -> str:
        """What proves that a storage URL is this Hub's."""
        return sha256(f"{self.storage} {method} {path}".encode()).hexdigest()[:32]

    def check_signature(self, call: Call) -> None:
        """Refuse a storage URL that this Hub has not signed. Raises `Problem`."""
        method = "GET" if call.method == "HEAD" else call.method
        if call.query.get("signature") != self.signature(call.record.path, method):
            raise Problem(403, "SignatureDoesNotMatch")

    # What a test asks for

    def admin(self, name: str, told: dict[str, Any]) -> web.Response:
        """Answer the test itself, outside the log."""
        try:
            return web.json_response(getattr(self, f"admin_{name}")(**told))
        except Problem as error:
            return web.json_response({"error": error.message}, status=400)
        except (KeyError, ValueError, TypeError, OSError) as error:
            return web.json_response({"error": f"{type(error).__name__}: {error}"}, status=400)

    def admin_log(self) -> Any:
        return [asdict(record) for record in self.records]

    def admin_reset(self) -> None:
        self.forget()

    def admin_clear(self) -> None:
        self.clear()

    def admin_set(self, **options: Any) -> None:
        self.options = Options(**(asdict(self.options) | options))

    def admin_fail(self, **fault: Any) -> None:
        self.faults.append(Fault(**fault))

    def admin_heal(self) -> None:
        self.faults.clear()

    def admin_uploaded(self) -> int:
        return self.bytes_in

    def admin_repo(self, repo: str, kind: str) -> Any:
        if (kind, repo) not in self.repos:
            return None
        found = self.repos[kind, repo]
        told = {"private": found.private, "gated": found.gated, "branches": found.branches, "tags": found.tags}
        return told | {"commits": [entry._asdict() for entry in found.history(found.find("main"))]}

    def admin_names(self) -> Any:
        return [name for _, name in self.repos]

    def admin_read(self, repo: str, path: str, revision: str, kind: str) -> str:
        blob = self.repos[kind, repo].find(revision).tree[path]
        return base64.b64encode(self.content(blob)).decode()

    def admin_tree(self, repo: str, revision: str, kind: str) -> Any:
        return {path: blob.sha256 for path, blob in self.repos[kind, repo].find(revision).tree.items()}

    def admin_commit(self, repo: str, files: dict[str, str | None], title: str, user: str, kind: str) -> str:
        contents = {path: None if text is None else base64.b64decode(text) for path, text in files.items()}
        return self.commit(self.repos[kind, repo], contents, title, user).oid

    def admin_tag(self, repo: str, tag: str, revision: str, kind: str) -> None:
        self.repos[kind, repo].tags[tag] = self.repos[kind, repo].find(revision).oid

    def admin_grant(self, repo: str, user: str, kind: str) -> None:
        self.repos[kind, repo].granted.add(user)

    def admin_add(self, repo: str, folder: str, private: bool, gated: str | bool, kind: str) -> str:
        if not Path(folder).is_dir():
            raise ValueError(f"{folder} is no folder")
        found = self.repos.get((kind, repo)) or self.create(kind, repo, private, repo.partition("/")[0])
        found.private, found.gated = private, "manual" if gated is True else gated
        inside = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        files: dict[str, bytes | None] = {path.relative_to(folder).as_posix(): path.read_bytes() for path in inside}
        return self.commit(found, files, "Add files", found.namespace, replace=True).oid


def _request(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
    """A request of any size (aiohttp's own bound is a mebibyte)."""
    return web.BaseRequest(
        message, payload, protocol, writer, task, asyncio.get_running_loop(), client_max_size=1 << 32
    )


# From a test


class Hub:
    """A Hub that runs. Repositories are datasets unless `kind="model"` is given."""

    token = "hf_tester_write"
    read_token = "hf_tester_read"
    other_token = "hf_stranger_write"

    def __init__(self, endpoint: str, storage: str, process: subprocess.Popen[str]) -> None:
        self.endpoint = endpoint
        self.storage = storage
        self.process = process

    def environment(self, home: Path, token: str | None = token) -> dict[str, str]:
        """What a client in a process of its own needs: this endpoint, an empty home, no Xet, no telemetry."""
        told = {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
        told |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_OFFLINE": "0"}
        return told | {"HF_TOKEN": token or "", "HF_TOKEN_PATH": str(home / "token")}

    def fail(
        self,
        match: int | str,
        how: How = 503,
        when: Literal["before", "after"] = "before",
        times: int = 1,
        skip: int = 0,
        retry_after: float = 1.0,
        spare: str | None = None,
    ) -> None:
        """Let calls fail, before they take effect or after they took it.

        Args:
            match: The number of a call, counted from now on (0 is the next one); or a route's name, as in the log; or
                a pattern of "METHOD /path". Uploads go side by side: which of them has a number is chance.
            how: A status from 400; "reset" the connection; "hang" without an answer until the client hangs up; "cut"
                the answer in half, and close the connection; "overtaken": the call goes its way, but somebody else
                commits just before.
            when: For a status, a reset and hanging.
            times: How many of the calls that match.
            skip: How many of them are spared first.
            retry_after: Seconds, for 429.
            spare: A user whose calls are neither struck nor counted; those to the storage are nobody's.
        """
        told = {"match": match, "how": how, "when": when, "times": times, "skip": skip, "retry_after": retry_after}
        self._admin("fail", spare=spare, **told)

    def heal(self) -> None:
        """Forget the faults that are still to come."""
        self._admin("heal")

    def set(self, **options: Any) -> None:
        """Change `Options` while the server runs; `port` excepted."""
        self._admin("set", **options)

    def reset(self) -> None:
        """Forget repositories, log and faults, and return to the options it was started with."""
        self._admin("reset")

    def clear(self) -> None:
        """Forget log, faults and `uploaded_bytes`; the repositories stay."""
        self._admin("clear")

    def log(self) -> list[Record]:
        """Every call until now, in the order in which they came."""
        return [Record(**told) for told in self._admin("log")]

    def uploaded_bytes(self) -> int:
        """Content that was sent here: large files, and the regular ones within commits, each as often as it was."""
        return int(self._admin("uploaded"))

    def add(
        self,
        repo: str,
        folder: Path | str,
        private: bool = False,
        gated: str | bool = False,
        tag: str | None = None,
        kind: str = "dataset",
    ) -> str:
        """Make a repository of a folder's files, or a commit that replaces what it held. Returns the commit's id."""
        oid = self._admin("add", repo=repo, folder=str(folder), private=private, gated=gated, kind=kind)
        if tag:
            self._admin("tag", repo=repo, tag=tag, revision=oid, kind=kind)
        return str(oid)

    def commit(
        self,
        repo: str,
        files: dict[str, bytes | str | None],
        title: str = "Edit",
        user: str = "stranger",
        kind: str = "dataset",
    ) -> str:
        """Commit to main as somebody else, outside the log. None deletes a file. Returns the commit's id."""
        contents = {path: text.encode() if isinstance(text, str) else text for path, text in files.items()}
        sent = {path: None if text is None else base64.b64encode(text).decode() for path, text in contents.items()}
        return str(self._admin("commit", repo=repo, files=sent, title=title, user=user, kind=kind))

    def grant(self, repo: str, user: str = "tester", kind: str = "dataset") -> None:
        """Give a user access to a gated repository, or a private one."""
        self._admin("grant", repo=repo, user=user, kind=kind)

    def repos(self) -> list[str]:
        """The names of all repositories."""
        return list(self._admin("names"))

    def repo(self, repo: str, kind: str = "dataset") -> dict[str, Any] | None:
        """Its settings, branches, tags and commits; None if there is no such repository."""
        found = self._admin("repo", repo=repo, kind=kind)
        return None if found is None else dict(found)

    def commits(self, repo: str, kind: str = "dataset") -> list[Commit]:
        """The commits of main, the newest first."""
        found = self._admin("repo", repo=repo, kind=kind)
        if found is None:
            raise KeyError(repo)
        return [
            Commit(**told | {"tree": {path: Blob(*blob) for path, blob in told["tree"].items()}})
            for told in found["commits"]
        ]

    def tags(self, repo: str, kind: str = "dataset") -> dict[str, str]:
        """Tags, and the commits that they point at."""
        found = self._admin("repo", repo=repo, kind=kind)
        if found is None:
            raise KeyError(repo)
        return dict(found["tags"])

    def tree(self, repo: str, revision: str = "main", kind: str = "dataset") -> dict[str, str]:
        """The files of a revision, by path, with the SHA-256 of each."""
        return dict(self._admin("tree", repo=repo, revision=revision, kind=kind))

    def read(self, repo: str, path: str, revision: str = "main", kind: str = "dataset") -> bytes:
        """What a file holds."""
        return base64.b64decode(self._admin("read", repo=repo, path=path, revision=revision, kind=kind))

    def _admin(self, name: str, **told: Any) -> Any:
        request = urllib.request.Request(f"{self.storage}/-/admin/{name}", json.dumps(told).encode())
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise ValueError(json.load(error)["error"]) from None


@contextmanager
def hub(**options: Any) -> Iterator[Hub]:
    """Run a Hub with these `Options` in a process of its own, which ends with the block, or with this process.

    A Ctrl-C in the terminal doesn't reach it.
    """
    with started("tests.servers.hub", Options(**options)) as (told, process):
        yield Hub(told["endpoint"], told["storage"], process)


async def _begin(options: Options) -> dict[str, Any]:
    endpoint, storage = await Server(options).listen()
    tokens = {"token": Hub.token, "read_token": Hub.read_token, "other_token": Hub.other_token}
    return {"endpoint": endpoint, "storage": storage} | tokens


if __name__ == "__main__":
    serve(Options, _begin, __doc__ or "")
