"""The bundled prompts: whole, right, and with something for every step of the demo to find."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest

from pipeline.errors import SourceError
from pipeline.recipe import Source
from pipeline.sources import Pulled, complete, demo, locate, normalise, texts

OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.truediv,
    ast.Pow: operator.pow,
}


def value(node: ast.expr) -> Fraction:
    """Compute a problem's ``work`` in fractions, so that a division that leaves a rest shows."""
    if isinstance(node, ast.BinOp):
        return Fraction(OPERATORS[type(node.op)](value(node.left), value(node.right)))
    assert isinstance(node, ast.Constant)
    assert isinstance(node.value, int)
    return Fraction(node.value)


def evaluation_prompts() -> list[str]:
    source = complete(Source(bundled="demo-eval"))
    (place,) = locate(source, Path())
    return list(texts(source, place))


@pytest.mark.parametrize(
    ("domain", "read", "reason"),
    [("harmful", 80, "control token"), ("benign", 80, "empty"), ("math", 160, "no ground truth")],
)
def test_demo_has_work_for_every_step(domain: str, read: int, reason: str, merge: Callable[..., Pulled]) -> None:
    got = merge(Source(bundled="demo"), Path(), domain)
    assert got.read == got.selected == read
    assert [row["reason"] for row in got.rejected] == [reason]
    ids = [row["id"] for row in got.rows]
    assert len(ids) - len(set(ids)) == 2
    leaks = {normalise(text).strip("?.") for text in evaluation_prompts()}
    found = sum(normalise(row["prompt"][0]["content"]).strip("?.").replace(",", "") in leaks for row in got.rows)
    assert found >= 2
    assert {row["origin"]["dataset"] for row in got.rows} == {"recap-data/demo"}
    assert {row["origin"]["licence"] for row in got.rows} == {"apache-2.0"}
    assert len({row["origin"]["category"] for row in got.rows}) >= 10


def test_math_answers_are_right() -> None:
    records = list(demo.records("demo", "math"))
    worked = [record for record in records if record["work"]]
    assert len(worked) == 159
    for record in worked:
        assert value(ast.parse(record["work"], mode="eval").body) == int(record["answer"]) > 0, record["prompt"]
        used = {str(node.value) for node in ast.walk(ast.parse(record["work"])) if isinstance(node, ast.Constant)}
        if record["category"] != "average":
            assert all(number in ("1", "2", "100") or number in record["prompt"] for number in used), record["prompt"]


def test_evaluation_set() -> None:
    assert len(set(evaluation_prompts())) == 20
    source = complete(Source(bundled="demo"))
    assert len(list(texts(source, locate(source, Path())[0]))) == 319


def test_evaluation_set_is_no_source_of_rows(merge: Callable[..., Pulled]) -> None:
    with pytest.raises(SourceError, match="has no harmful prompts: it is for evaluation"):
        merge(Source(bundled="demo-eval"), Path())


def test_unknown_set() -> None:
    with pytest.raises(SourceError, match=r"no bundled set 'dmeo'\. There are demo, demo-eval"):
        complete(Source(bundled="dmeo"))
