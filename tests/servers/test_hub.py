"""The Hub of the tests as its clients see it: `huggingface_hub` and `datasets` themselves, never a mock of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
    HfApi,
    HfFileSystem,
    constants,
    get_session,
)
from huggingface_hub.errors import (
    BadRequestError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile

from tests.servers.hub import Hub, hub

ROOT = Path(__file__).parents[2]
REPO = "my-org/mixture"
CARD = """---
license: mit
configs:
- config_name: mixture
  default: true
  data_files:
  - {split: train, path: mixture/train-*}
- config_name: small
  data_files:
  - {split: train, path: small/train-*}
---
# Words
"""


@pytest.fixture(scope="module")
def running() -> Iterator[Hub]:
    with hub() as server:
        yield server


@pytest.fixture
def server(running: Hub, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub without repositories, faults or log."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    running.reset()
    yield running
    running.reset()


@pytest.fixture
def api(server: Hub) -> HfApi:
    return HfApi(endpoint=server.endpoint, token=server.token)


def parquet(words: list[str]) -> bytes:
    file = BytesIO()
    pq.write_table(pa.table({"id": list(range(len(words))), "word": words}), file)
    return file.getvalue()


def fill(api: HfApi, words: int = 100, repo: str = REPO, **more: Any) -> str:
    """Make the repository if there is none, and commit to it; returns the commit's id."""
    api.create_repo(repo, repo_type="dataset", private=True, exist_ok=True)
    operations = [
        CommitOperationAdd("README.md", CARD.encode()),
        CommitOperationAdd("mixture/train-0.parquet", parquet([f"bread {number}" for number in range(words)])),
        CommitOperationAdd("small/train-0.parquet", parquet(["salt", "yeast"])),
    ]
    return str(api.create_commit(repo, operations, commit_message="Fill", repo_type="dataset", **more).oid)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data set as it lies on a disk."""
    for path, content in {
        "README.md": CARD.encode(),
        "mixture/train-0.parquet": parquet([f"bread {number}" for number in range(100)]),
        "small/train-0.parquet": parquet(["salt", "yeast"]),
    }.items():
        (tmp_path / "data" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / path).write_bytes(content)
    return tmp_path / "data"


# Repositories, commits and tags


def test_a_repository_is_made_private_and_gated(server: Hub, api: HfApi) -> None:
    url = api.create_repo(REPO, repo_type="dataset", private=True)
    api.update_repo_settings(REPO, repo_type="dataset", gated="manual")
    info = api.dataset_info(REPO)
    assert (url.repo_id, url.repo_type) == (REPO, "dataset")
    assert (info.private, info.gated, [file.rfilename for file in info.siblings or []]) == (
        True,
        "manual",
        [".gitattributes"],
    )
    assert api.whoami()["name"] == "tester"
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo(REPO, repo_type="dataset")
    api.create_repo(REPO, repo_type="dataset", exist_ok=True)
    assert api.dataset_info(REPO).private
    api.auth_check(REPO, repo_type="dataset", write=True)
    api.delete_repo(REPO, repo_type="dataset")
    assert not api.repo_exists(REPO, repo_type="dataset")


def test_a_commit_holds_what_was_added_and_not_what_was_deleted(server: Hub, api: HfApi) -> None:
    first = fill(api)
    info = api.dataset_info(REPO, files_metadata=True)
    stored = {file.rfilename: bool(file.lfs) for file in info.siblings or []}
    assert stored == {
        ".gitattributes": False,
        "README.md": False,
        "mixture/train-0.parquet": True,
        "small/train-0.parquet": True,
    }
    assert info.sha == first
    assert info.card_data is not None
    assert info.card_data["configs"][0]["config_name"] == "mixture"

    second = api.create_commit(
        REPO,
        [
            CommitOperationAdd("notes/new.txt", b"flour"),
            CommitOperationDelete("README.md"),
            CommitOperationDelete("small/"),
            CommitOperationCopy("mixture/train-0.parquet", "copied/train-0.parquet"),
        ],
        commit_message="Change",
        commit_description="at length",
        parent_commit=first,
        repo_type="dataset",
    )
    files = {".gitattributes", "notes/new.txt", "mixture/train-0.parquet", "copied/train-0.parquet"}
    assert set(api.list_repo_files(REPO, repo_type="dataset")) == files
    assert set(api.list_repo_files(REPO, repo_type="dataset", revision=first)) == set(stored)
    assert server.read(REPO, "notes/new.txt") == b"flour"
    commits = server.commits(REPO)
    assert [commit.title for commit in commits] == ["Change", "Fill", "initial commit"]
    assert (commits[0].oid, commits[0].parent, commits[0].message) == (second.oid, first, "at length")
    listed = api.list_repo_commits(REPO, repo_type="dataset")
    assert [commit.commit_id for commit in listed] == [commit.oid for commit in commits]
    assert listed[0].authors == ["tester"]


def test_what_is_there_is_not_uploaded_again(server: Hub, api: HfApi) -> None:
    first = fill(api)
    server.clear()
    assert fill(api) == first
    assert server.uploaded_bytes() == 0
    assert not [record for record in server.log() if record.effect]
    fill(api, words=101)
    assert 0 < server.uploaded_bytes() < 10_000


def test_a_commit_on_another_parent_is_refused(server: Hub, api: HfApi) -> None:
    first = fill(api)
    server.commit(REPO, {"README.md": CARD + "By hand.\n"}, user="stranger")
    with pytest.raises(HfHubHTTPError, match="A commit has happened since") as caught:
        fill(api, words=101, parent_commit=first)
    assert caught.value.response.status_code == 412
    assert [commit.user for commit in server.commits(REPO)] == ["stranger", "tester", "tester"]


def test_of_several_at_once_one_wins(server: Hub, api: HfApi) -> None:
    first = fill(api)

    def publish(number: int) -> int:
        add = CommitOperationAdd("a.txt", f"{number}".encode())
        try:
            api.create_commit(REPO, [add], commit_message=f"{number}", parent_commit=first, repo_type="dataset")
        except HfHubHTTPError as error:
            return error.response.status_code
        return 200

    with ThreadPoolExecutor(6) as pool:
        assert sorted(pool.map(publish, range(6))) == [200, 412, 412, 412, 412, 412]
    assert server.commits(REPO)[0].parent == first


def test_somebody_else_may_commit_just_before(server: Hub, api: HfApi) -> None:
    first = fill(api)
    server.fail("commit", "overtaken")
    with pytest.raises(HfHubHTTPError, match="412"):
        fill(api, words=101, parent_commit=first)
    assert "overtaken.txt" in server.tree(REPO)
    assert fill(api, words=101, parent_commit=server.commits(REPO)[0].oid)


def test_deleting_what_is_not_there_is_refused_as_a_whole(server: Hub, api: HfApi) -> None:
    first = fill(api)
    operations: list[Any] = [CommitOperationAdd("a.txt", b"a"), CommitOperationDelete("none.txt")]
    with pytest.raises(EntryNotFoundError, match="doesn't exist"):
        api.create_commit(REPO, operations, commit_message="Delete", repo_type="dataset")
    assert server.commits(REPO)[0].oid == first


def test_the_client_checks_a_card_before_it_commits(server: Hub, api: HfApi) -> None:
    first = fill(api)
    operations = [CommitOperationAdd("README.md", b"---\nlicense: [mit\n---\n")]
    with pytest.raises(ValueError, match="Invalid"):
        api.create_commit(REPO, operations, commit_message="Card", repo_type="dataset")
    assert server.commits(REPO)[0].oid == first


def test_tags_stay_where_they_are(server: Hub, api: HfApi) -> None:
    first = fill(api)
    api.create_tag(REPO, tag="v1.0.0", tag_message="first", revision=first, repo_type="dataset")
    second = fill(api, words=200)
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_tag(REPO, tag="v1.0.0", revision=second, repo_type="dataset")
    api.create_tag(REPO, tag="v1.0.0", revision=second, exist_ok=True, repo_type="dataset")
    refs = api.list_repo_refs(REPO, repo_type="dataset")
    assert {ref.name: ref.target_commit for ref in refs.tags} == {"v1.0.0": first} == server.tags(REPO)
    assert {ref.name: ref.target_commit for ref in refs.branches} == {"main": second}
    assert api.dataset_info(REPO, revision="v1.0.0").sha == first
    assert api.dataset_info(REPO, revision="refs/tags/v1.0.0").sha == first
    assert api.dataset_info(REPO, revision=first[:10]).sha == first
    api.delete_tag(REPO, tag="v1.0.0", repo_type="dataset")
    for missing in (
        lambda: api.delete_tag(REPO, tag="v1.0.0", repo_type="dataset"),
        lambda: api.dataset_info(REPO, revision="v1.0.0"),
        lambda: api.create_tag(REPO, tag="v2.0.0", revision="none", repo_type="dataset"),
    ):
        with pytest.raises(RevisionNotFoundError):
            missing()


def test_a_branch_goes_its_own_way(server: Hub, api: HfApi) -> None:
    first = fill(api)
    api.create_branch(REPO, branch="try/out", repo_type="dataset")
    second = fill(api, words=200, revision="try/out")
    assert api.dataset_info(REPO).sha == first
    assert api.dataset_info(REPO, revision="try/out").sha == second
    server.set(page=2)
    assert len(list(api.list_repo_tree(REPO, revision="try/out", recursive=True, repo_type="dataset"))) == 6
    api.delete_branch(REPO, branch="try/out", repo_type="dataset")
    assert [ref.name for ref in api.list_repo_refs(REPO, repo_type="dataset").branches] == ["main"]


def test_the_ids_are_those_of_git(server: Hub, api: HfApi, tmp_path: Path) -> None:
    files = {"README.md": b"# Words\n", "a.txt": b"a", "a/b/c.txt": b"c", "a-b/d.txt": b"d", "\u00e9.txt": b"e"}
    api.create_repo(REPO, repo_type="dataset")
    operations = [CommitOperationAdd(path, content) for path, content in files.items()]
    api.create_commit(REPO, operations, commit_message="Fill", repo_type="dataset")
    for path, content in {**files, ".gitattributes": server.read(REPO, ".gitattributes")}.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    git("init", "-q")
    git("add", ".")
    git("write-tree")
    shown = git("ls-tree", "-r", "-t", "-z", git("write-tree").strip()).strip("\0").split("\0")
    wanted = {line.partition("\t")[2]: line.split()[2] for line in shown}
    tree = api.list_repo_tree(REPO, recursive=True, repo_type="dataset")
    ids = {entry.path: entry.blob_id if isinstance(entry, RepoFile) else entry.tree_id for entry in tree}
    assert ids == wanted


def test_a_tree_comes_in_pages_and_folders(server: Hub, api: HfApi) -> None:
    server.set(page=2)
    first = fill(api)
    second = fill(api, words=200)
    paths = [entry.path for entry in api.list_repo_tree(REPO, recursive=True, repo_type="dataset")]
    assert paths == sorted(paths)
    assert len(paths) == 6
    inside = api.list_repo_tree(REPO, "mixture", revision=first, expand=True, repo_type="dataset")
    assert [(entry.path, entry.last_commit.oid) for entry in inside if entry.last_commit] == [
        ("mixture/train-0.parquet", first)
    ]
    known = api.get_paths_info(REPO, ["README.md", "mixture", "none"], repo_type="dataset", expand=True)
    assert [entry.path for entry in known] == ["README.md", "mixture"]
    assert known[0].last_commit is not None
    assert known[0].last_commit.oid == first
    assert [commit.commit_id for commit in api.list_repo_commits(REPO, repo_type="dataset")][:2] == [second, first]
    with pytest.raises(EntryNotFoundError):
        list(api.list_repo_tree(REPO, "none", repo_type="dataset"))


def test_large_files_may_go_in_parts(server: Hub, api: HfApi) -> None:
    server.set(multipart_above=1000, part_size=700)
    content = bytes(range(256)) * 20
    api.create_repo(REPO, repo_type="dataset", private=True)
    api.upload_file(path_or_fileobj=content, path_in_repo="a.bin", repo_id=REPO, repo_type="dataset")
    assert server.read(REPO, "a.bin") == content
    assert [record.route for record in server.log()].count("lfs-upload") == 8
    assert server.uploaded_bytes() == len(content)


# Downloads


def test_files_are_downloaded_by_revision(server: Hub, api: HfApi, tmp_path: Path) -> None:
    first = fill(api)
    api.create_tag(REPO, tag="v1.0.0", revision=first, repo_type="dataset")
    fill(api, words=200)
    for path in ("README.md", "mixture/train-0.parquet"):
        found = api.hf_hub_download(REPO, path, revision="v1.0.0", cache_dir=tmp_path, repo_type="dataset")
        assert Path(found).read_bytes() == server.read(REPO, path, revision=first)
        assert f"/snapshots/{first}/" in found
    whole = Path(api.snapshot_download(REPO, cache_dir=tmp_path, repo_type="dataset"))
    assert pq.read_table(whole / "mixture/train-0.parquet").num_rows == 200
    assert {path.relative_to(whole).as_posix() for path in whole.rglob("*") if path.is_file()} == set(server.tree(REPO))
    storage = [record for record in server.log() if record.route == "download"]
    assert storage
    assert {record.user for record in storage} == {None}  # the token stays with the Hub
    with pytest.raises(EntryNotFoundError):
        api.hf_hub_download(REPO, "none.txt", cache_dir=tmp_path, repo_type="dataset")


def test_a_download_that_breaks_is_taken_up_where_it_broke(server: Hub, api: HfApi, folder: Path) -> None:
    content = os.urandom(24_000_000)  # the client keeps what it got by tens of megabytes
    (folder / "a.bin").write_bytes(content)
    server.add(REPO, folder)
    server.fail("download", "cut")
    path = api.hf_hub_download(REPO, "a.bin", cache_dir=folder.parent, repo_type="dataset")
    assert Path(path).read_bytes() == content
    found = [(record.fault, record.status) for record in server.log() if record.route == "download"]
    assert found == [("cut", None), (None, 206)]


def test_parts_of_a_file_are_read(server: Hub, api: HfApi) -> None:
    fill(api)
    files = HfFileSystem(endpoint=server.endpoint, token=server.token, skip_instance_cache=True)
    path = f"datasets/{REPO}/mixture/train-0.parquet"
    assert files.cat_file(path, start=0, end=4) == b"PAR1"
    with files.open(path, "rb", block_size=64) as file:
        file.seek(-4, 2)
        assert file.read() == b"PAR1"
    assert {record.status for record in server.log() if record.route == "download"} == {206}
    url = f"{server.endpoint}/datasets/{REPO}/resolve/main/README.md"
    asked = {"Authorization": f"Bearer {server.token}", "Range": "bytes=999999-"}
    assert httpx.get(url, headers=asked).status_code == 416
    assert httpx.get(url, headers=asked | {"Range": "bytes=0-3"}).status_code == 206
    assert server.log()[-1].sent == 4
    asked["Range"] = "bytes=-8"
    assert httpx.get(url, headers=asked).content == CARD.encode()[-8:]


def test_the_storage_gives_nothing_without_a_signature(server: Hub, api: HfApi) -> None:
    fill(api)
    url = f"{server.endpoint}/datasets/{REPO}/resolve/main/small/train-0.parquet"
    answer = httpx.get(url, headers={"Authorization": f"Bearer {server.token}"})
    assert answer.status_code == 302
    assert answer.headers["X-Linked-Size"] == str(len(parquet(["salt", "yeast"])))
    place = answer.headers["Location"]
    assert httpx.get(place).content == parquet(["salt", "yeast"])
    assert httpx.get(place.partition("?")[0]).status_code == 403
    assert httpx.put(place, content=b"no").status_code == 403


LOAD = """
import json, sys
from datasets import load_dataset
found = load_dataset(*json.loads(sys.argv[1]), **json.loads(sys.argv[2]))
rows = list(found)
print(json.dumps([len(rows), rows[-1]]))
"""


def load(server: Hub, home: Path, *arguments: Any, token: str | None = Hub.token, **more: Any) -> Any:
    """What `load_dataset` gives in a process of its own, with an empty home: how many rows, and the last one."""
    command = [sys.executable, "-c", LOAD, json.dumps(arguments), json.dumps(more)]
    environment = {**os.environ, **server.environment(home, token)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
def test_datasets_loads_it(server: Hub, api: HfApi, tmp_path: Path, streaming: bool) -> None:
    first = fill(api)
    api.create_tag(REPO, tag="v1.0.0", revision=first, repo_type="dataset")
    fill(api, words=200)
    more: dict[str, Any] = {"split": "train", "streaming": streaming}
    assert load(server, tmp_path / "a", REPO, **more) == [200, {"id": 199, "word": "bread 199"}]
    tagged = load(server, tmp_path / "b", REPO, "mixture", revision="v1.0.0", **more)
    assert tagged == [100, {"id": 99, "word": "bread 99"}]
    assert load(server, tmp_path / "c", REPO, "small", revision=first, **more) == [2, {"id": 1, "word": "yeast"}]
    assert not [record for record in server.log() if (record.status or 0) >= 500 or not record.route]


def test_datasets_loads_a_folder_that_was_put_there(server: Hub, folder: Path, tmp_path: Path) -> None:
    oid = server.add("somebody/words", folder, gated="manual", tag="v1")
    assert server.tags("somebody/words") == {"v1": oid}
    with pytest.raises(RuntimeError, match="gated dataset on the Hub"):
        load(server, tmp_path / "a", "somebody/words", split="train")
    server.grant("somebody/words")
    assert load(server, tmp_path / "a", "somebody/words", "small", split="train")[0] == 2


def test_models_are_spoken_of_too(server: Hub, api: HfApi, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    oid = server.add("somebody/toy", tmp_path, kind="model")
    assert api.model_info("somebody/toy").sha == oid
    assert Path(api.hf_hub_download("somebody/toy", "config.json", cache_dir=tmp_path)).read_text() == "{}"
    assert not api.repo_exists("somebody/toy", repo_type="dataset")


def test_datasets_pushes_to_it(server: Hub, tmp_path: Path) -> None:
    push = (
        "from datasets import Dataset; Dataset.from_dict({'a': [1, 2, 3]}).push_to_hub('my-org/pushed', private=True)"
    )
    environment = {**os.environ, **server.environment(tmp_path)}
    subprocess.run([sys.executable, "-c", push], env=environment, check=True, timeout=120)
    assert load(server, tmp_path, "my-org/pushed", split="train") == [3, {"a": 3}]


# Who may do what


def test_private_repositories_are_for_their_members(server: Hub, api: HfApi, tmp_path: Path) -> None:
    fill(api)
    fill(api, words=200)
    calls: list[Callable[[HfApi], Any]] = [
        lambda api: api.dataset_info(REPO),
        lambda api: list(api.list_repo_tree(REPO, repo_type="dataset")),
        lambda api: api.hf_hub_download(REPO, "README.md", cache_dir=tmp_path, repo_type="dataset"),
        lambda api: api.auth_check(REPO, repo_type="dataset"),
        lambda api: api.create_tag(REPO, tag="v9", repo_type="dataset"),
        lambda api: api.dataset_info("my-org/none"),
    ]
    for call in calls:
        for token in (server.other_token, False):
            with pytest.raises(RepositoryNotFoundError) as caught:
                call(HfApi(endpoint=server.endpoint, token=token))
            assert caught.value.response.status_code == (404 if token else 401)
    assert server.tags(REPO) == {}


def test_gated_repositories_ask_for_access(server: Hub, folder: Path, tmp_path: Path) -> None:
    server.add("somebody/words", folder, gated="manual")
    for token, status in ((server.token, 403), (False, 401)):
        api = HfApi(endpoint=server.endpoint, token=token)
        assert api.dataset_info("somebody/words").gated == "manual"  # what it is, everybody may know
        with pytest.raises(GatedRepoError) as caught:
            api.hf_hub_download("somebody/words", "README.md", cache_dir=tmp_path, repo_type="dataset")
        assert caught.value.response.status_code == status
        with pytest.raises(GatedRepoError):
            api.auth_check("somebody/words", repo_type="dataset")
    server.grant("somebody/words")
    HfApi(endpoint=server.endpoint, token=server.token).auth_check("somebody/words", repo_type="dataset")


def test_a_token_that_reads_does_not_write(server: Hub, api: HfApi) -> None:
    first = fill(api)
    reader = HfApi(endpoint=server.endpoint, token=server.read_token)
    assert reader.dataset_info(REPO).sha == first
    add = CommitOperationAdd("a.txt", b"a")
    for call in (
        lambda: reader.create_tag(REPO, tag="v1", repo_type="dataset"),
        lambda: reader.create_repo("my-org/new", repo_type="dataset"),
        lambda: api.create_repo("somebody/new", repo_type="dataset"),
        lambda: reader.create_commit(REPO, [add], commit_message="Add", repo_type="dataset"),
        lambda: reader.update_repo_settings(REPO, private=False, repo_type="dataset"),
        lambda: reader.auth_check(REPO, repo_type="dataset", write=True),
    ):
        with pytest.raises(HfHubHTTPError) as caught:
            call()
        assert caught.value.response.status_code == 403
    with pytest.raises(HfHubHTTPError, match="Invalid credentials"):
        HfApi(endpoint=server.endpoint, token="hf_nobody").dataset_info(REPO)
    assert server.repos() == [REPO]
    assert server.commits(REPO)[0].oid == first


# Faults


@pytest.mark.parametrize("how", [500, 503, 409, 429, "reset"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_commit_fails_before_or_after_it_took_effect(server: Hub, api: HfApi, how: Any, when: Any) -> None:
    first = fill(api)
    server.clear()
    server.fail("commit", how, when)
    with pytest.raises(httpx_errors() if how == "reset" else HfHubHTTPError) as caught:
        fill(api, words=200, parent_commit=first)
    if how == 429:
        assert "rate limit for repository commits" in str(caught.value)
        assert caught.value.response.headers["Retry-After"] == "1"  # type: ignore[attr-defined]
    (record,) = [record for record in server.log() if record.route == "commit"]
    assert (record.fault, record.when, record.status) == (str(how), when, None if how == "reset" else how)
    head = server.commits(REPO)[0].oid
    assert (head != first, record.effect) == ((True, f"commit {head}") if when == "after" else (False, None))
    server.clear()
    assert fill(api, words=200, parent_commit=head) == server.commits(REPO)[0].oid
    assert len(server.commits(REPO)) == 3


def httpx_errors() -> tuple[type[Exception], ...]:
    """What a connection that's dropped ends in, whichever of its names the client's HTTP library has."""
    module = sys.modules[type(get_session()).__module__.partition(".")[0]]
    return (module.TransportError,)


def test_every_call_can_fail_by_its_number(server: Hub, api: HfApi) -> None:
    fill(api)
    calls = [record.route for record in server.log()]
    assert calls[:4] == ["create-repo", "validate-yaml", "preupload", "lfs-batch"]
    assert sorted(calls[4:8]) == ["lfs-upload", "lfs-upload", "lfs-verify", "lfs-verify"]
    assert calls[8:] == ["commit"]
    for number, name in enumerate(calls):
        server.reset()
        server.fail(number, 403)
        with pytest.raises((HfHubHTTPError, RuntimeError)):
            fill(api)
        struck = [record for record in server.log() if record.fault]
        assert [record.number for record in struck] == [number]
        assert struck[0].route == name or number in range(4, 8)  # uploads go side by side


def test_the_client_asks_again_where_it_may(server: Hub, api: HfApi) -> None:
    server.fail("preupload", 503)
    server.fail("lfs-upload", 500, when="after")
    fill(api)
    calls = [record.route for record in server.log()]
    assert (calls.count("preupload"), calls.count("lfs-upload")) == (2, 3)
    assert set(server.tree(REPO)) >= {"README.md", "small/train-0.parquet"}


def test_some_may_be_spared_and_more_than_one_struck(server: Hub, api: HfApi) -> None:
    fill(api)
    server.fail("GET /api/datasets/*", 500, skip=1, times=2)
    outcomes = []
    for _ in range(4):
        try:
            api.dataset_info(REPO)
            outcomes.append(200)
        except HfHubHTTPError as error:
            outcomes.append(error.response.status_code)
    assert outcomes == [200, 500, 500, 200]
    server.fail(1, 500)
    server.heal()
    api.dataset_info(REPO)
    api.dataset_info(REPO)


def test_a_call_that_hangs_can_be_waited_for(server: Hub, tmp_path: Path) -> None:
    """So is a client killed between a commit and its tag."""
    server.fail("tag", "hang")
    script = (
        "from huggingface_hub import HfApi\n"
        "api = HfApi()\n"
        f"api.create_repo('{REPO}', repo_type='dataset')\n"
        f"api.upload_file(path_or_fileobj=b'a', path_in_repo='a.txt', repo_id='{REPO}', repo_type='dataset')\n"
        f"api.create_tag('{REPO}', tag='v1', repo_type='dataset')\n"
    )
    environment = {**os.environ, **server.environment(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", script], env=environment) as client:
        due = time.monotonic() + 60
        while not any(record.route == "tag" for record in server.log()):
            assert time.monotonic() < due
            assert client.poll() is None
            time.sleep(0.05)
        client.kill()
    assert server.commits(REPO)[0].tree.keys() == {".gitattributes", "a.txt"}
    assert server.tags(REPO) == {}


def test_commits_have_a_quota(server: Hub, api: HfApi) -> None:
    server.set(commits_per_hour=2)
    fill(api)
    with pytest.raises(HfHubHTTPError, match="2 per hour") as caught:
        fill(api, words=200)
    assert caught.value.response.status_code == 429


def test_answers_may_take_their_time(server: Hub, api: HfApi) -> None:
    fill(api)
    server.set(latency=0.3)
    began = time.monotonic()
    api.dataset_info(REPO)
    assert time.monotonic() - began >= 0.3


def test_nonsense_is_told(server: Hub, tmp_path: Path) -> None:
    mixed_up = httpx.post(
        f"{server.endpoint}/api/repos/create", json=[], headers={"Authorization": "Bearer hf_tester_write"}
    )
    assert mixed_up.status_code == 400
    for call in (
        lambda: server.fail("comit"),
        lambda: server.fail("commit", "explode"),  # type: ignore[arg-type]
        lambda: server.fail("commit", 200),
        lambda: server.fail("commit", 500, when="during"),  # type: ignore[arg-type]
        lambda: server.set(latencies=1),
        lambda: server.add("a/b", tmp_path / "none"),
        lambda: server.read("a/b", "c"),
    ):
        with pytest.raises(ValueError, match=r"\w+"):
            call()


def test_it_ends_with_the_test() -> None:
    with hub() as server:
        assert server.process.poll() is None
        assert httpx.get(f"{server.endpoint}/api/datasets/a/b").status_code == 401
    assert server.process.poll() is not None


def test_an_object_that_was_never_uploaded_cannot_be_committed(server: Hub, api: HfApi) -> None:
    api.create_repo(REPO, repo_type="dataset")
    add = CommitOperationAdd("a.parquet", parquet(["salt"]))
    add._upload_mode, add._is_uploaded, add._should_ignore = "lfs", True, False
    with pytest.raises(BadRequestError, match="does not exist"):
        api.create_commit(REPO, [add], commit_message="Fill", repo_type="dataset")
