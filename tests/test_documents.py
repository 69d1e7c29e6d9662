"""YAML and JSON from anywhere: one error with a place, in no time, whatever is in them."""

from __future__ import annotations

import pytest

from pipeline.documents import Unreadable, read_json, read_yaml
from pipeline.errors import RecipeError
from pipeline.recipe import parse

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, 12)
)
HOSTILE = {
    "bomb": BOMB,
    "recursive list": "a: &a [*a]",
    "recursive mapping": "a: &a {b: *a}",
    "list as a key": "[a, b]: 1",
    "mapping as a key": "? {a: 1}\n: 2",
    "python": "a: !!python/object/apply:os.system ['true']",
    "bytes": "a: !!binary abc",
    "day": "a: !!timestamp 2020-13-99",
    "no number": "a: !!int x",
    "no digits": "a: 0x_",
    "too many digits": "a: " + "9" * 5000,
    "deep, never closed": "[" * 200_000,
    "deep list": "[" * 200_000 + "]" * 200_000,
    "deep mapping": "{a: " * 200_000,
    "deep block": "- " * 200_000,
    "long": "a: " + "x" * 2_000_000,
    "many values": "a: [" + "b," * 200_000 + "]",
    "null byte": r'a: "\0"',
    "half a character": r'a: "\ud800"',
    "no character": "a: \x00",
    "unknown alias": "a: *b",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_yaml_is_one_error(name: str) -> None:
    with pytest.raises(Unreadable) as caught:
        read_yaml(HOSTILE[name])
    assert len(caught.value.why) < 200
    with pytest.raises(RecipeError, match=r"^hostile.yaml[:\d]*  is no valid YAML: [^\n]{1,200}$"):
        parse(HOSTILE[name], "hostile.yaml")
    with pytest.raises(RecipeError, match=r"^--set name: [^\n]{1,300} is no valid YAML value [^\n]{1,200}$"):
        parse("name: x", "small.yaml", [f"name={HOSTILE[name]}"])


def test_an_alias_and_a_merge_are_read_as_ever() -> None:
    assert read_yaml("a: &a {x: 1}\nb: *a\nc: {<<: *a, x: 2}").data == {"a": {"x": 1}, "b": {"x": 1}, "c": {"x": 2}}


@pytest.mark.parametrize(
    "text",
    [
        *(
            b"[" * 200_000,
            b"[" * 70 + b"]" * 70,
            b'{"a": 1, "a": 2}',
            b"[NaN]",
            b"[1e999]",
            b'["\\ud800"]',
            b'{"\\u0000": 1}',
        ),
        *(b"\xff", b"9" * 5000, b"{", b""),
    ],
)
def test_hostile_json_is_one_error(text: bytes) -> None:
    with pytest.raises(Unreadable) as caught:
        read_json(text)
    assert 0 < len(caught.value.why) < 200
