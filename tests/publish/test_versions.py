from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.publish.versions import FIRST, Version, asked, change, next_version, of, parse

VERSIONS = st.builds(Version, *[st.integers(0, 10**6)] * 3)


def manifest(**changes: Any) -> dict[str, Any]:
    columns = {"mixture": {"id": "string"}}
    return {"version": "1.3.2", "schema_version": 2, "columns": columns, "content_hash": "a", "probes": {}, **changes}


@pytest.mark.parametrize(
    ("changes", "kind", "version"),
    [
        ({"schema_version": 3}, "major", "v2.0.0"),
        ({"schema_version": 3, "content_hash": "b"}, "major", "v2.0.0"),
        ({"columns": {"mixture": {"id": "string", "new": "int64"}}}, "major", "v2.0.0"),
        ({"content_hash": "b"}, "minor", "v1.4.0"),
        ({"probes": {"far": "x"}}, "patch", "v1.3.3"),
    ],
)
def test_the_rule(changes: dict[str, Any], kind: str, version: str) -> None:
    assert change(manifest(), manifest(**changes)) == kind
    assert str(next_version(manifest(), manifest(**changes))) == version


def test_the_first_version() -> None:
    assert change(None, manifest()) == "first"
    assert next_version(None, manifest()) == FIRST == Version(1, 0, 0)


def test_a_manifest_of_before_columns_were_told_is_no_major_change() -> None:
    before = manifest()
    del before["columns"]
    assert change(before, manifest(content_hash="b")) == "minor"


@given(VERSIONS)
def test_what_is_written_is_read(version: Version) -> None:
    assert parse(str(version)) == parse(version.number) == version
    assert of({"version": version.number}) == version


@pytest.mark.parametrize(
    "text", ["", "v1", "1.2", "1.2.3.4", "v01.2.3", "1.2.x", "1.2.3-rc1", " 1.2.3", "1.2.3\n", "١.٢.٣"]
)
def test_what_is_no_version(text: str) -> None:
    assert parse(text) is None
    with pytest.raises(InputError, match=r"is no version\. Give --version three numbers"):
        asked(text)


@pytest.mark.parametrize("published", [None, {}, {"version": 3}, {"version": "new"}])
def test_a_manifest_without_a_version(published: dict[str, Any] | None) -> None:
    assert of(published) is None


@given(VERSIONS, st.lists(VERSIONS), st.sampled_from([{"schema_version": 3}, {"content_hash": "b"}, {"name": "x"}]))
def test_the_next_version_is_above_all_there_are(last: Version, taken: list[Version], changes: dict[str, Any]) -> None:
    found = next_version(manifest(version=last.number), manifest(**changes), taken)
    assert found > max([last, *taken])


@given(VERSIONS, VERSIONS)
def test_a_wish_is_granted_upward_only(last: Version, wish: Version) -> None:
    before, after = manifest(version=last.number), manifest(content_hash="b")
    ruled = next_version(before, after)
    if wish >= ruled:
        assert next_version(before, after, asked=wish) == wish
    else:
        with pytest.raises(InputError, match=f"Give {ruled.number} or more"):
            next_version(before, after, asked=wish)


def test_a_wish_below_the_first_version() -> None:
    with pytest.raises(InputError, match=r"--version 0\.9\.0 is too low: it is the first version\. Give 1\.0\.0"):
        next_version(None, manifest(), asked=Version(0, 9, 0))
