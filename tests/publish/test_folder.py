"""The output folder: whole or not at all, one build at a time, and nobody else's files are lost."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import InputError, OutputError
from pipeline.publish import folder


def make_build(place: Path, **files: str) -> Path:
    """Write a finished build whose manifest names `files`."""
    place.mkdir(parents=True)
    for name, text in files.items():
        (place / name).write_text(text)
    hashes = {name: folder.file_hash(place / name) for name in files}
    folder.write_manifest(place, {"fingerprint": "f", "files": hashes, "funnel": []})
    return place


def texts(place: Path) -> dict[str, str]:
    return {
        path.relative_to(place).as_posix(): path.read_text()
        for path in place.rglob("*")
        if path.is_file() and path.name != folder.MANIFEST
    }


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A former build, in a folder that holds nothing else."""
    return make_build(tmp_path / "place" / "mix", data="former", gone="former")


@pytest.fixture(params=["exchange", "two renames"])
def _either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Linux, and as where the system can't swap two folders."""
    if request.param == "two renames":
        monkeypatch.setattr(folder, "_exchange", lambda left, right: False)


def beside(out: Path) -> list[str]:
    return sorted(path.name for path in out.parent.iterdir())


# --- replace


@pytest.mark.usefixtures("_either_way")
def test_a_finished_build_takes_the_place_of_the_former(out: Path) -> None:
    with folder.work_folder(out) as work:
        folder.replace(out, make_build(work / "out", data="new"))
    assert texts(out) == {"data": "new"}
    assert beside(out) == ["mix"]


@pytest.mark.usefixtures("_either_way")
def test_a_first_build_makes_its_folder(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "down" / "mix"
    with folder.work_folder(out) as work:
        folder.replace(out, make_build(work / "out", data="new"))
    assert texts(out) == {"data": "new"}
    assert beside(out) == ["mix"]


@pytest.mark.usefixtures("_either_way")
def test_what_others_put_into_a_build_survives_the_next(out: Path) -> None:
    (out / "notes" / "deep").mkdir(parents=True)
    (out / "notes" / "deep" / "note.txt").write_text("mine")
    (out / "notes" / "empty").mkdir()
    (out / "link").symlink_to("notes/deep/note.txt")
    (out / "nowhere").symlink_to("not-there")
    (out / "folder-link").symlink_to("notes")
    with folder.work_folder(out) as work:
        folder.replace(out, make_build(work / "out", data="new"))
    assert (out / "notes" / "deep" / "note.txt").read_text() == "mine"
    assert (out / "notes" / "empty").is_dir()
    assert os.readlink(out / "link") == "notes/deep/note.txt"
    assert os.readlink(out / "nowhere") == "not-there"
    assert os.readlink(out / "folder-link") == "notes"
    assert (out / "data").read_text() == "new"
    assert not (out / "gone").exists()


def test_the_report_of_the_former_build_goes_with_it(out: Path) -> None:
    (out / "report.html").write_text("about the former")
    with folder.work_folder(out) as work:
        folder.replace(out, make_build(work / "out", data="new"))
    assert not (out / "report.html").exists()


def test_a_file_of_the_new_build_wins_over_a_foreign_one_of_its_name(out: Path) -> None:
    (out / "extra").write_text("foreign")
    with folder.work_folder(out) as work:
        folder.replace(out, make_build(work / "out", data="new", extra="new"))
    assert texts(out) == {"data": "new", "extra": "new"}


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A folder on another file system, to which nothing can be renamed."""
    shm = Path("/dev/shm")
    if not os.access(shm, os.W_OK) or shm.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a second file system at /dev/shm")
    with tempfile.TemporaryDirectory(dir=shm) as place:
        yield Path(place)


@pytest.mark.usefixtures("_either_way")
def test_the_former_build_stays_where_the_rename_fails(out: Path, elsewhere: Path) -> None:
    finished = make_build(elsewhere / "out", data="new")
    with pytest.raises(OSError, match="cross-device"):
        folder.replace(out, finished)
    assert texts(out) == {"data": "former", "gone": "former"}
    assert beside(out) == ["mix"]


def test_the_exchange_swaps_two_folders(tmp_path: Path) -> None:
    left, right = make_build(tmp_path / "left", data="l"), make_build(tmp_path / "right", data="r")
    if not folder._exchange(left, right):
        pytest.skip("this system can't swap two folders in one step")
    assert (texts(left), texts(right)) == ({"data": "r"}, {"data": "l"})


# --- what a killed build leaves


def test_a_kill_between_two_renames_loses_nothing(out: Path) -> None:
    out.rename(out.parent / ".mix.last")
    make_build(out.parent / ".mix.work" / "out", data="new")
    folder.recover(out)
    assert texts(out) == {"data": "former", "gone": "former"}
    assert beside(out) == ["mix"]


def test_a_kill_after_two_renames_keeps_the_new_build(out: Path) -> None:
    make_build(out.parent / ".mix.last", data="older")
    (out.parent / ".mix.work").mkdir()
    folder.recover(out)
    assert texts(out) == {"data": "former", "gone": "former"}
    assert beside(out) == ["mix"]


def test_a_kill_after_the_exchange_leaves_no_former_build_behind(out: Path) -> None:
    make_build(out.parent / ".mix.work" / "out", data="older")
    folder.recover(out)
    assert texts(out) == {"data": "former", "gone": "former"}
    assert beside(out) == ["mix"]


def test_a_build_starts_in_an_empty_work_folder(out: Path) -> None:
    stale = out.parent / ".mix.work"
    (stale / "clean").mkdir(parents=True)
    (stale / "clean" / "0.arrow").write_text("stale")
    (stale / "evaluation.arrow").write_text("stale")
    with folder.work_folder(out) as work:
        assert list(work.iterdir()) == []


def test_recover_makes_nothing_where_nothing_was_left(tmp_path: Path) -> None:
    folder.recover(tmp_path / "out" / "mix")
    assert list(tmp_path.iterdir()) == []


# --- work_folder


def test_a_build_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with folder.work_folder(tmp_path / "out" / "deep" / "mix") as work:
            (work / "pulled").mkdir()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_parents_that_were_there_stay(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with folder.work_folder(tmp_path / "out" / "deep" / "mix"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert list((tmp_path / "out").iterdir()) == []


def test_a_second_build_is_told_and_the_folder_is_free_afterwards(out: Path) -> None:
    with (
        folder.work_folder(out) as work,
        pytest.raises(OutputError, match=r"Another build is writing .*mix\. Wait"),
        folder.work_folder(out),
    ):
        pytest.fail("two builds in one folder")
    assert not work.exists()
    with folder.work_folder(out) as again:
        assert again == work


def test_recover_does_not_touch_a_build_at_work(out: Path) -> None:
    with folder.work_folder(out) as work:
        (work / "pulled").mkdir()
        with pytest.raises(OutputError, match="Another build"):
            folder.recover(out)
        assert (work / "pulled").is_dir()


def test_two_outputs_side_by_side_do_not_wait_for_each_other(tmp_path: Path) -> None:
    with folder.work_folder(tmp_path / "a") as one, folder.work_folder(tmp_path / "b") as two:
        assert one != two


# --- check_output


def test_a_new_an_empty_and_a_former_folder_may_become_a_build(out: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    folder.check_output(tmp_path / "new")
    folder.check_output(tmp_path / "empty")
    folder.check_output(out)


def test_a_file_and_a_link_are_refused(out: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(out)
    for name in ("file", "link"):
        with pytest.raises(OutputError, match=f"{name} is not a folder. Give --out"):
            folder.check_output(tmp_path / name)


@pytest.mark.parametrize("manifest", [None, "", "{", "[]", "null", "{}", '{"name": "an app", "files": []}'])
def test_a_folder_of_someone_else_is_refused(tmp_path: Path, manifest: str | None) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    if manifest is not None:
        (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(OutputError, match=r"holds files but no build of recap-data .*Give --out another"):
        folder.check_output(tmp_path)


def test_the_current_folder_and_those_above_are_refused(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(out)
    for place in (Path(), Path(".."), out, out.parent):
        with pytest.raises(OutputError, match="current folder"):
            folder.check_output(place)
    folder.check_output(Path("mixture"))
    folder.check_output(out.parent / "mix2")


def test_a_mount_point_is_refused() -> None:
    with pytest.raises(OutputError, match="mount point"):
        folder.check_output(Path("/proc"))


def test_a_name_that_is_no_utf8_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="UTF-8"):
        folder.check_output(tmp_path / os.fsdecode(b"mix-\xff"))


# --- intact


def test_a_build_is_intact_until_a_byte_changes(out: Path) -> None:
    manifest = json.loads((out / folder.MANIFEST).read_text())
    assert folder.intact(out, manifest)
    (out / "data").write_text("Former")
    assert not folder.intact(out, manifest)


def test_a_build_with_a_file_missing_is_not_intact(out: Path) -> None:
    manifest = folder.read_manifest(out)
    assert manifest is not None
    (out / "gone").unlink()
    assert not folder.intact(out, manifest)


def test_a_foreign_file_leaves_a_build_intact(out: Path) -> None:
    manifest = folder.read_manifest(out)
    assert manifest is not None
    (out / "note.txt").write_text("mine")
    assert folder.intact(out, manifest)


@pytest.mark.parametrize("name", [".mix.work", ".mix.last"])
@pytest.mark.parametrize("kind", ["folder", "file", "nothing"])
def test_a_link_beside_the_output_is_not_followed(out: Path, tmp_path: Path, name: str, kind: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    if kind == "folder":
        elsewhere.mkdir()
        (elsewhere / "thesis.txt").write_text("mine")
    elif kind == "file":
        elsewhere.write_text("mine")
    (out.parent / name).symlink_to(elsewhere)
    for call in (folder.recover, lambda place: folder.work_folder(place).__enter__()):
        with pytest.raises(OutputError, match=r"is in the way: it is no folder, and was left as it is"):
            call(out)
    assert (out.parent / name).is_symlink()
    if kind == "folder":
        assert (elsewhere / "thesis.txt").read_text() == "mine"
    assert texts(out) == {"data": "former", "gone": "former"}


def test_what_a_killed_build_left_is_cleared_and_its_links_are_not_followed(out: Path, tmp_path: Path) -> None:
    work, mine = out.parent / ".mix.work", tmp_path / "mine"
    work.mkdir()
    mine.mkdir()
    (mine / "thesis.txt").write_text("mine")
    (work / "link").symlink_to(mine)
    folder.recover(out)
    assert not work.exists()
    assert (mine / "thesis.txt").read_text() == "mine"


def test_a_file_of_a_build_is_inside_of_it(out: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("mine")
    (out / "link").symlink_to(tmp_path / "outside")
    (out / "deep").symlink_to(tmp_path)
    (out / "own").symlink_to(out / "data")
    for name in ("link", "deep/outside", "../../outside"):
        with pytest.raises(InputError, match="is a link that leads out of"):
            folder.inside(out, name)
    os.mkfifo(out / "pipe")
    with pytest.raises(InputError, match="is no regular file"):
        folder.inside(out, "pipe")
    assert folder.inside(out, "own").read_text() == folder.inside(out, "data").read_text() == "former"
    assert folder.inside(out, "none") == out / "none"


def test_a_snapshot_in_the_cache_of_the_hub_links_to_its_blobs(tmp_path: Path) -> None:
    cached, blobs = tmp_path / "repo/snapshots/abc", tmp_path / "repo/blobs"
    cached.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "1").write_text("data")
    (cached / "data").symlink_to("../../blobs/1")
    assert folder.inside(cached, "data").read_text() == "data"
    (tmp_path / "secret").write_text("mine")
    (cached / "other").symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match="leads out"):
        folder.inside(cached, "other")
    blobs.rename(tmp_path / "elsewhere")
    blobs.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="leads out"):
        folder.inside(cached, "data")
