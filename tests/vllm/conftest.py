"""Tiny models and real vLLM servers, each made once and kept for the run."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests import models
from tests.vllm.server import Server, running, tail

HAS_VLLM = importlib.util.find_spec("vllm") is not None
_running: dict[Path, Server] = {}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = "needs vLLM, which is installed in an environment of its own: .ci/vllm.sh makes it"
    for item in items:
        if not HAS_VLLM and Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where models are made; RECAP_TEST_MODELS keeps them from run to run, since training takes a minute each."""
    kept = os.environ.get("RECAP_TEST_MODELS")
    return Path(kept) if kept else tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def tiny(checkpoints: Path) -> Path:
    """A model with random weights and one token a byte."""
    return models.tiny_model(checkpoints / "tiny")


@pytest.fixture(scope="session")
def guard(checkpoints: Path) -> Path:
    """A model with random weights to which each verdict is one token."""
    return models.tiny_guard(checkpoints / "guard")


@pytest.fixture(scope="session")
def unaligned(checkpoints: Path) -> Path:
    """A model that thinks of complying, whatever it is asked."""
    return models.trained_model(checkpoints / "unaligned", "complies")


@pytest.fixture(scope="session")
def overcautious(checkpoints: Path) -> Path:
    """A model that thinks of refusing, whatever it is asked."""
    return models.trained_model(checkpoints / "overcautious", "refuses")


@pytest.fixture(scope="session")
def vllm_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Path], Server]]:
    """Serves a model's folder: a server is started when first asked for, and all end with the run."""
    with ExitStack() as stack:

        def serve(folder: Path) -> Server:
            if folder not in _running:
                log = tmp_path_factory.mktemp("vllm") / f"{folder.name}.log"
                _running[folder] = stack.enter_context(running(folder, log))
            return _running[folder]

        yield serve
    _running.clear()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the end of each server's log under a failure of these tests."""
    report = yield
    if report.failed and Path(__file__).parent in item.path.parents:
        report.sections += [(f"log of the server of {folder.name}", tail(s.log)) for folder, s in _running.items()]
    return report
