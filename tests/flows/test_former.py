"""The build that is about to be replaced is kept while a flow runs, and not for longer, however the flow ends."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flows.former import former_build
from pipeline.publish.folder import read_manifest
from tests.publish.test_diff import row, write

KEEPS = """
import sys
from pathlib import Path
from flows.former import former_build
with former_build(Path(sys.argv[1])):
    print("kept", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return write(tmp_path / "out" / "demo", [row("a"), row("b")])


def beside(out: Path) -> list[str]:
    return sorted(path.name for path in out.parent.iterdir() if path != out)


def keeping(out: Path) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", KEEPS, str(out)], stdin=pipe, stdout=pipe, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "kept\n"
    return process


def test_the_former_build_outlives_its_replacement(out: Path) -> None:
    manifest = read_manifest(out)
    with former_build(out) as former:
        shutil.rmtree(out)
        assert former is not None
        assert former.manifest == manifest
        assert not former.missing
    assert beside(out) == []
    with former_build(out) as former:
        assert former is None


def test_what_a_killed_run_left_is_cleared_and_a_living_one_keeps_its_own(out: Path) -> None:
    living, killed = keeping(out), keeping(out)
    try:
        assert len(beside(out)) == 2
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert len(beside(out)) == 2
        with former_build(out):
            assert len(beside(out)) == 2
        (kept,) = beside(out)
        shutil.rmtree(out)
        with former_build(out) as former:
            assert former is None
            assert beside(out) == [kept]
        living.communicate("")
        assert beside(out) == []
    finally:
        for process in (living, killed):
            process.kill()
            process.communicate()


def test_only_such_folders_are_cleared(out: Path) -> None:
    for name in (".demo.last", ".demo.former-abcd_123", ".demo.former-abcd_123.last", ".other.former-abcd_123"):
        (out.parent / name).mkdir()
    with former_build(out):
        pass
    assert beside(out) == [".demo.former-abcd_123.last", ".demo.last", ".other.former-abcd_123"]
