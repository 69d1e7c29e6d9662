"""Published versions, read with the oldest `datasets` that we promise: `.ci/oldest.sh DIR` makes its environment.

``RECAP_OLDEST_DATASETS=DIR/bin/python`` names its interpreter. Nothing of the project is installed there.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from tests.conftest import ROOT
from tests.loading.conftest import NAME, Publications, Reader

PYTHON = os.environ.get("RECAP_OLDEST_DATASETS")

pytestmark = pytest.mark.skipif(
    not PYTHON, reason="needs the oldest datasets: .ci/oldest.sh DIR, and RECAP_OLDEST_DATASETS=DIR/bin/python"
)


@pytest.fixture
def oldest(reader: Callable[..., Reader]) -> Reader:
    return reader(python=PYTHON)


def test_it_is_the_version_that_we_promise(oldest: Reader) -> None:
    requirements = (ROOT / ".ci/oldest-requirements.txt").read_text()
    assert f"datasets=={oldest.run('import datasets; say(datasets.__version__)')}\n" in requirements


@pytest.mark.parametrize("options", ["revision='v1.0.0'", "revision='{commit}'", "revision='v1.0.0', streaming=True"])
def test_a_version(published: Publications, oldest: Reader, options: str) -> None:
    arguments = options.format(commit=published.commits["v1.0.0"])
    code = f"from datasets import load_dataset; say(list(load_dataset('{NAME}', split='train', {arguments})))"
    assert oldest.run(code) == published.rows("v1.0.0")


def test_the_configs(published: Publications, oldest: Reader) -> None:
    code = f"""
        from datasets import load_dataset
        say([list(load_dataset("{NAME}", *name, split="train")) for name in ([], ["mixture"], ["rejected"])])
    """
    mixture, rejected = published.rows("v1.1.0"), published.rows("v1.1.0", "rejected")
    assert oldest.run(code) == [mixture, mixture, rejected]


def test_folders(published: Publications, oldest: Reader) -> None:
    code = """
        from datasets import load_dataset
        say([list(load_dataset(f"versions/{name}", split="train")) for name in ("v1.0.0", "latest")])
    """
    assert oldest.run(code, published.folder.parent) == [published.rows("v1.0.0"), published.rows("v1.1.0")]
    code = "from datasets import load_dataset; say(list(load_dataset('out/demo', split='train')))"
    assert oldest.run(code, published.builds["v1.0.0"].parents[1]) == published.rows("v1.0.0")


def test_pandas(published: Publications, oldest: Reader) -> None:
    code = f"""
        import pandas as pd
        frame = pd.read_parquet("hf://datasets/{NAME}@v1.0.0/data/mixture-00000-of-00001.parquet")
        say([list(frame["id"]), list(frame["prefill"])])
    """
    expected = published.rows("v1.0.0")
    assert oldest.run(code) == [[row["id"] for row in expected], [row["prefill"] for row in expected]]
