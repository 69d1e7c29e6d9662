"""A build that is killed, interrupted, crowded out, out of room or not allowed loses nothing.

Whatever happens to a build, the folder holds the former build to the byte, or the new one; and the next build ends in
the bytes of one that nothing happened to.
"""

from __future__ import annotations

import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

COMMAND = [sys.executable, "-m", "pipeline.cli"]

RECIPE = """\
name: crash
sources:
  harmful: [{files: [a.jsonl, b.jsonl], prompt: prompt, licence: mit}]
  math: [{files: math.jsonl, prompt: prompt, ground_truth: answer, licence: mit}]
samplers:
  template: {engine: template}
mixture:
  harmful: {rows: 600, prefill: {sampler: template, share: 0.75, words: 500}}
  math: {rows: 600}
"""
"""On 8,600 rows: enough for two shards, so that two workers share the steps."""

WORDS = [
    "mend plan draw build clean paint sort test pack tune wash bake count trace move lift fold print scan teach",
    "red old small wooden quiet broken heavy round cheap bright northern rusty plastic frozen striped hollow gentle",
    "lamp boat garden clock fence kettle violin bridge ladder basket tent camera carpet engine window pillow bottle",
    "school market winter tower canal museum island village kitchen railway forest harbour library orchard theatre",
]

STEPS = ("pull", "sort", "dedupe, exact", "dedupe, near", "decontaminate", "sample", "mix")
"""What a build names on standard error, each when it is done."""

STOPPED = "recap-data: stopped. The last finished output is as it was; run the same command again.\n"


class Place(NamedTuple):
    """A folder with a recipe; the bytes of its build (seed 0), the former one, and of that with seed 1, the new one."""

    folder: Path
    former: dict[str, bytes]
    new: dict[str, bytes]

    @property
    def out(self) -> Path:
        return self.folder / "out" / "mix"


NEW = ("build", "recipe.yaml", "--out", "out/mix", "--set", "seed=1")


def write_sources(folder: Path) -> None:
    rng = random.Random(5)
    pick = [words.split() for words in WORDS]
    for name, count in (("a", 2150), ("b", 2150), ("math", 4300)):
        with (folder / f"{name}.jsonl").open("w") as file:
            for number in range(count):
                verb, first, thing, place = (rng.choice(words) for words in pick)
                other, last = rng.choice(pick[2]), rng.choice(pick[0])
                text = f"How do I {verb} {number} {first} {thing}s for the {place} and {last} a {name} {other}?"
                file.write(json.dumps({"prompt": text, "answer": "7"}) + "\n")
    (folder / "recipe.yaml").write_text(RECIPE)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run(*args: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, args)], cwd=cwd, capture_output=True, text=True, timeout=120, check=False
    )


def done(*args: str | Path, cwd: Path) -> None:
    ended = run(*args, cwd=cwd)
    assert ended.returncode == 0, ended.stderr


@contextmanager
def started(*args: str, cwd: Path) -> Iterator[subprocess.Popen[str]]:
    """A command in a session of its own, as if typed in a terminal; none of its processes outlives the block."""
    process = subprocess.Popen(
        [*COMMAND, *args],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        for member in session(process):
            member.kill()
        process.communicate()


def session(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes of its session that are alive."""
    found = []
    for other in psutil.process_iter():
        try:
            if os.getsid(other.pid) == process.pid and other.status() != psutil.STATUS_ZOMBIE:
                found.append(other)
        except (ProcessLookupError, PermissionError, psutil.NoSuchProcess):
            continue
    return found


def wait_for(process: subprocess.Popen[str], step: str) -> None:
    """Return when the process says that a step is done, or has ended."""
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(f"{step}: "):
            return


def ends_within(seconds: float, process: subprocess.Popen[str]) -> bool:
    """Whether all processes of its session end in time."""
    end = time.monotonic() + seconds
    while session(process):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("crash")
    write_sources(folder)
    done("build", "recipe.yaml", "--out", "former", cwd=folder)
    done("build", "recipe.yaml", "--out", "new", "--set", "seed=1", cwd=folder)
    return Place(folder, bytes_of(folder / "former"), bytes_of(folder / "new"))


@pytest.fixture
def place(built: Place) -> Place:
    """The former build in ``out/mix``, and nothing beside it."""
    shutil.rmtree(built.folder / "out", ignore_errors=True)
    shutil.copytree(built.folder / "former", built.out)
    return built


def assert_former_is_whole(place: Place) -> None:
    assert bytes_of(place.out) == place.former


def assert_nothing_beside(out: Path) -> None:
    assert [path.name for path in out.parent.iterdir()] == [out.name]


# --- kill -9


@pytest.mark.parametrize(
    ("workers", "steps"),
    [("1", STEPS), ("2", ("pull", "dedupe, exact", "dedupe, near", "decontaminate", "sample", "mix"))],
)
def test_a_build_killed_at_any_moment_loses_nothing(place: Place, workers: str, steps: tuple[str, ...]) -> None:
    """After each step and a random moment more; every build but the first starts on what a kill left."""
    rng = random.Random(int(workers))
    while_building = 0
    for step in steps:
        with started(*NEW, "--workers", workers, cwd=place.folder) as process:
            wait_for(process, step)
            time.sleep(rng.uniform(0, 0.3 if step == "decontaminate" else 0.03))
            process.kill()
            process.wait()
            while_building += process.returncode == -signal.SIGKILL
            left = bytes_of(place.out)
            assert left in (place.former, place.new)
            assert ends_within(3, process), "a worker outlived the build"
        if step in ("dedupe, near", "mix"):
            done(*NEW, "--workers", workers, cwd=place.folder)
            assert bytes_of(place.out) == place.new
            assert_nothing_beside(place.out)
            shutil.rmtree(place.out)
            shutil.copytree(place.folder / "former", place.out)
    assert while_building > len(steps) / 2


def test_a_build_killed_around_the_last_rename_leaves_one_of_the_two(tmp_path: Path) -> None:
    """Seeds take turns: what is the new build of one kill is the former one of the next."""
    whole = []
    for seed in ("0", "1"):
        done("build", "--out", "first", "--set", f"seed={seed}", cwd=tmp_path)
        whole.append(bytes_of(tmp_path / "first"))
    (tmp_path / "place").mkdir()
    out = (tmp_path / "first").rename(tmp_path / "place" / "mix")
    for number, moment in enumerate((0, 0.005, 0.01, 0.015, 0.02, 0.03)):
        seed = number % 2
        with started("build", "--out", str(out), "--set", f"seed={seed}", cwd=tmp_path) as process:
            wait_for(process, "mix")
            time.sleep(moment)
            process.kill()
        assert bytes_of(out) in whole
        done("build", "--out", out, "--set", f"seed={seed}", cwd=tmp_path)
        assert bytes_of(out) == whole[seed]
        assert_nothing_beside(out)


def test_a_build_killed_after_the_last_rename_is_unchanged_and_its_rest_is_cleared(place: Place) -> None:
    """The state between the exchange of the two folders and the end, which is too short to hit."""
    work = place.out.parent / ".mix.work"
    work.mkdir()
    place.out.rename(work / "out")
    shutil.copytree(place.folder / "new", place.out)
    ended = run(*NEW, "--json", cwd=place.folder)
    assert json.loads(ended.stdout)["unchanged"] is True
    assert bytes_of(place.out) == place.new
    assert_nothing_beside(place.out)


def test_a_build_killed_between_two_renames_is_put_back_first(place: Place) -> None:
    """The state where the system can't exchange two folders; the recipe then fails, and the former build is back."""
    place.out.rename(place.out.parent / ".mix.last")
    ended = run(*NEW, "--set", "mixture.math.rows=9999", cwd=place.folder)
    assert ended.returncode == 1
    assert "mixture.math.rows asks for 9,999" in ended.stderr
    assert_former_is_whole(place)
    assert_nothing_beside(place.out)


def test_a_killed_plan_leaves_the_former_build(place: Place) -> None:
    with started("plan", *NEW[1:], cwd=place.folder) as process:
        wait_for(process, "pull")
        process.kill()
    assert_former_is_whole(place)
    done("plan", *NEW[1:], cwd=place.folder)
    assert_former_is_whole(place)
    assert_nothing_beside(place.out)


def test_a_worker_that_is_killed_is_a_clear_error(place: Place) -> None:
    """As the system does when memory runs out."""
    with started(*NEW, "--workers", "2", cwd=place.folder) as process:
        wait_for(process, "pull")
        workers = [p for p in psutil.Process(process.pid).children() if "spawn_main" in " ".join(p.cmdline())]
        assert len(workers) == 2
        workers[0].kill()
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert stdout == ""
    last = stderr.splitlines()[-1]
    assert last.startswith("recap-data: A worker process was killed")
    assert "fewer --workers" in last
    assert "Traceback" not in stderr
    assert_former_is_whole(place)
    assert_nothing_beside(place.out)


# --- Ctrl-C and SIGTERM


@pytest.mark.parametrize(
    ("args", "step"),
    [
        (NEW, "decontaminate"),
        ((*NEW, "--workers", "2"), "decontaminate"),
        ((*NEW, "--workers", "2"), "pull"),
        (("plan", *NEW[1:]), "pull"),
    ],
    ids=["sampling", "workers sampling", "workers starting", "plan"],
)
def test_ctrl_c_ends_with_one_line(place: Place, args: tuple[str, ...], step: str) -> None:
    """A terminal sends the signal to every process of the session's group."""
    with started(*args, cwd=place.folder) as process:
        wait_for(process, step)
        time.sleep(0.1 if step == "decontaminate" else 0)
        os.killpg(process.pid, signal.SIGINT)
        stdout, stderr = process.communicate(timeout=30)
        assert ends_within(3, process)
    assert process.returncode == 1, stderr
    assert stdout == ""
    told = [line for line in stderr.splitlines(keepends=True) if not line.startswith(STEPS)]
    assert told == [STOPPED]
    assert_former_is_whole(place)
    assert_nothing_beside(place.out)


def test_ctrl_c_while_workers_start_ends_with_one_line(place: Place) -> None:
    with started(*NEW, "--workers", "2", cwd=place.folder) as process:
        parent = psutil.Process(process.pid)
        while process.poll() is None and not any("spawn_main" in " ".join(p.cmdline()) for p in parent.children()):
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGINT)
        stdout, stderr = process.communicate(timeout=30)
    assert (process.returncode, stdout, stderr) == (1, "", STOPPED)
    assert_former_is_whole(place)
    assert_nothing_beside(place.out)


def test_sigterm_loses_nothing(place: Place) -> None:
    with started(*NEW, "--workers", "2", cwd=place.folder) as process:
        wait_for(process, "decontaminate")
        process.terminate()
        process.wait(timeout=30)
        assert ends_within(3, process)
    assert process.returncode != 0
    assert_former_is_whole(place)
    done(*NEW, cwd=place.folder)
    assert bytes_of(place.out) == place.new
    assert_nothing_beside(place.out)


# --- two at once


def test_a_second_build_into_the_folder_is_told_and_the_first_ends_well(place: Place) -> None:
    with started(*NEW, cwd=place.folder) as first:
        wait_for(first, "pull")
        first.send_signal(signal.SIGSTOP)
        for command in ("build", "plan"):
            second = run(command, *NEW[1:], cwd=place.folder)
            assert second.returncode == 1
            assert second.stdout == ""
            told = r"recap-data: Another build is writing \S*out/mix\. Wait until it is done, or give --out .*\.\n"
            assert re.fullmatch(told, second.stderr), second.stderr
        first.send_signal(signal.SIGCONT)
        _, stderr = first.communicate(timeout=60)
    assert first.returncode == 0, stderr
    assert bytes_of(place.out) == place.new
    assert_nothing_beside(place.out)


# --- no room, no permission


@pytest.mark.parametrize(("workers", "kilobytes"), [("1", 0), ("2", 100), ("1", 150), ("1", 500)])
def test_a_full_disk_is_a_clear_error(place: Place, workers: str, kilobytes: int) -> None:
    """A limit on the size of files stands for the disk: the system refuses writes beyond it, at different steps."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes * 1024, kilobytes * 1024))

    ended = subprocess.run(
        [*COMMAND, *NEW, "--workers", workers],
        cwd=place.folder,
        preexec_fn=limit,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1, ended.stderr
    assert ended.stdout == ""
    last = ended.stderr.splitlines()[-1]
    assert last.startswith(
        "recap-data: out/mix can't be written: File too large. Whatever was in out/mix is as it was."
    )
    assert "Make room" in last
    assert "Traceback" not in ended.stderr
    assert_former_is_whole(place)
    assert_nothing_beside(place.out)


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 2 MB. Only root may mount one, and not in every container."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs root and the right to mount")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_fills_up_is_a_clear_error(built: Place, mounted: Path) -> None:
    shutil.copytree(built.folder / "former", mounted / "mix")
    ended = run(*NEW[:3], mounted / "mix", *NEW[4:], cwd=built.folder)
    assert ended.returncode == 1
    assert f"{mounted / 'mix'} can't be written: No space left on device" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert bytes_of(mounted / "mix") == built.former
    assert_nothing_beside(mounted / "mix")


def test_a_disk_that_can_only_be_read_is_a_clear_error(built: Place, mounted: Path) -> None:
    """Root may write whatever the modes say, so that a disk mounted read-only stands for a missing permission."""
    shutil.copytree(built.folder / "former", mounted / "mix")
    subprocess.run(["mount", "-o", "remount,ro", str(mounted)], check=True)
    ended = run(*NEW[:3], mounted / "mix", *NEW[4:], cwd=built.folder)
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert f"{mounted / '.mix.work'} can't be made: Read-only file system" in ended.stderr
    assert "Give --out a folder you may write to" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert bytes_of(mounted / "mix") == built.former
    unchanged = run("build", "recipe.yaml", "--out", mounted / "mix", "--json", cwd=built.folder)
    assert json.loads(unchanged.stdout)["unchanged"] is True


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write whatever the modes say; see the read-only disk")
def test_no_write_permission_is_a_clear_error(place: Place) -> None:
    place.out.parent.chmod(0o555)
    try:
        ended = run(*NEW, cwd=place.folder)
    finally:
        place.out.parent.chmod(0o755)
    assert ended.returncode == 1
    assert "out/.mix.work can't be made: Permission denied" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert_former_is_whole(place)
    assert_nothing_beside(place.out)
