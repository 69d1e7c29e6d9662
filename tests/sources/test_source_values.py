"""What a record's values mean: field paths, prompts, categories, ground truth, filters, and rows that can't be used."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.recipe import Source
from pipeline.schema import ORIGIN, PROMPT
from pipeline.sources import Pulled, locate, texts

Read = Callable[..., Pulled]
Write = Callable[..., Path]


@pytest.fixture
def rows(write: Write, read: Read) -> Callable[..., Pulled]:
    """Read records through a JSON Lines file."""

    def rows(records: list[dict[str, Any]], domain: str = "harmful", **fields: Any) -> Pulled:
        write("a.jsonl", "".join(json.dumps(record) + "\n" for record in records))
        return read("a.jsonl", domain, **fields)

    return rows


def turns(pulled: Pulled) -> list[list[str]]:
    return [[message["content"] for message in row["prompt"]] for row in pulled.rows]


def test_field_paths(rows: Read) -> None:
    record = {"a": {"b": "nested", "list": [{"c": "zero"}, {"c": "one"}], "x.y": "dotted"}, "d.e": "literal"}
    for path, value in [
        ("a.b", "nested"),
        ("a.list.1.c", "one"),
        ("a.x.y", "dotted"),
        ("d.e", "literal"),
    ]:
        assert turns(rows([record], prompt=path)) == [[value]]
    both = {"a": {"b": "nested"}, "a.b": "literal"}
    assert turns(rows([both], prompt="a.b")) == [["literal"]]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("text", ["text"]),
        (["one", "two"], ["one\ntwo"]),
        ([{"role": "user", "content": "hi"}], ["hi"]),
        ([{"role": "system", "content": "s"}, {"role": "user", "content": "u"}], ["u"]),
        ([{"role": "user", "content": "u1"}, {"role": "user", "content": "u2"}], ["u1", "u2"]),
        (
            [
                {"role": "user", "content": "u1"},
                {"role": "assistant", "content": "a"},
                {"role": "user", "content": "u2"},
            ],
            ["u1"],
        ),
        ([{"from": "human", "value": "sharegpt"}, {"from": "gpt", "value": "a"}], ["sharegpt"]),
        ([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}], ["a\nb"]),
        ([{"role": "assistant", "content": "a"}], None),
        ([{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "b"}]}], None),
        ([{"role": "user", "content": None}], None),
        ([], None),
        (["one", 2], None),
        ({"text": "x"}, None),
        (None, None),
        (3, None),
    ],
)
def test_prompt_values(value: Any, expected: list[str] | None, rows: Read) -> None:
    got = rows([{"prompt": "fine"}, {"prompt": value}])
    if expected is None:
        assert turns(got) == [["fine"]]
        assert [(r["reason"], r["origin"]["row"], r["prompt"]) for r in got.rejected] == [
            ("no prompt", 1, [{"role": "user", "content": ""}])
        ]
    else:
        assert turns(got) == [["fine"], expected]
        assert {m["role"] for row in got.rows for m in row["prompt"]} == {"user"}


def test_field_absent_from_some_rows(rows: Read) -> None:
    got = rows([{"prompt": "a", "c": "x"}, {"other": "b"}, {"prompt": "c"}], category="c")
    assert turns(got) == [["a"], ["c"]]
    assert [row["origin"]["category"] for row in got.rows] == ["x", None]
    assert [(r["reason"], r["origin"]["row"]) for r in got.rejected] == [("no prompt", 1)]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("x", "x"),
        (" x ", "x"),
        ("", None),
        (["b", "a"], "b, a"),
        ([], None),
        ({"violence": True, "fraud": True, "other": False}, "fraud, violence"),
        ({"violence": False}, None),
        (None, None),
        (7, "7"),
        (2.5, "2.5"),
        (True, "true"),
        ("\ud800", "\ufffd"),
    ],
)
def test_category_values(value: Any, expected: str | None, rows: Read) -> None:
    assert rows([{"prompt": "p", "c": value}], category="c").rows[0]["origin"]["category"] == expected


@pytest.mark.parametrize(
    ("value", "rule", "expected"),
    [
        ("16 - 3 = 13\n#### 13", {"after": "####"}, "13"),
        ("#### 1\n#### 1,234,567.\nend", {"after": "####"}, "1234567"),
        ("#### -1,234.50", {"after": "####"}, "-1234.50"),
        ("#### 1,2", {"after": "####"}, "1,2"),
        ("#### (1, 234)", {"after": "####"}, "(1, 234)"),
        ("#### St. Ives.", {"after": "####"}, "St. Ives."),
        ("####  ", {"after": "####"}, None),
        ("13", {"after": "####"}, None),
        ("a=1 b=22", {"regex": r"[a-z]=(\d+)"}, "22"),
        ("a=1 b=22", {"regex": r"\d"}, "2"),
        ("x", {"regex": r"x(\d)?"}, None),
        (r"so \boxed{1} or \boxed{\frac{1}{2}} done", {"boxed": True}, r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", {"boxed": True}, r"\{1, 2\}"),
        (r"\boxed{\{1, 2\}", {"boxed": True}, None),
        (r"\boxed{1", {"boxed": True}, None),
        (r"\boxed{ }", {"boxed": True}, None),
        ("boxed{1}", {"boxed": True}, None),
        ("  1,234.  ", {}, "1,234."),
        (18, {}, "18"),
        (0.5, {}, "0.5"),
        (["1"], {}, None),
        (None, {}, None),
        ("", {}, None),
    ],
)
def test_ground_truth(value: Any, rule: dict[str, Any], expected: str | None, rows: Read) -> None:
    fine = {"prompt": "fine", "a": r"1 b=5 #### 5 \boxed{5} x5"}
    got = rows([fine, {"prompt": "p", "a": value}], "math", ground_truth={"field": "a", **rule})
    assert len(got.rows) + len(got.rejected) == 2
    if expected is None:
        assert [(r["reason"], r["ground_truth"], r["prompt"][0]["content"]) for r in got.rejected] == [
            ("no ground truth", None, "p")
        ]
    else:
        assert [row["ground_truth"] for row in got.rows][1:] == [expected]


def test_ground_truth_is_for_math_alone(rows: Read) -> None:
    got = rows([{"prompt": "p", "a": "7"}], "benign", ground_truth="a")
    assert got.rows[0]["ground_truth"] is None


def test_where_is_strict_about_types(rows: Read) -> None:
    records = [
        {"prompt": "0", "v": 3},
        {"prompt": "1", "v": 3.0},
        {"prompt": "2", "v": "3"},
        {"prompt": "3", "v": True},
        {"prompt": "4", "v": ["x", "3"]},
        {"prompt": "5", "v": None},
        {"prompt": "6"},
        {"prompt": "7", "v": 1},
        {"prompt": "8", "v": "true"},
    ]
    for wanted, taken in [
        (3, "01"),
        (3.0, "01"),
        ("3", "24"),
        (True, "3"),
        (1, "7"),
        (None, "56"),
        ([3, "x"], "014"),
        ("true", "8"),
        ([], ""),
    ]:
        got = rows(records, where={"v": wanted})
        assert "".join(t for (t,) in turns(got)) == taken, wanted
        assert (got.read, got.selected) == (9, len(taken))


def test_where_is_lenient_where_csv_lost_the_types(write: Write, read: Read) -> None:
    write("a.csv", "prompt,v\n0,False\n1,false\n2,3\n3,3.0\n4,\n5,x\n6,FALSE \n")
    for wanted, taken in [(False, "016"), ("False", "0"), (3, "23"), ("3", "2"), (None, "4"), (True, ""), (0, "")]:
        assert "".join(t for (t,) in turns(read("a.csv", where={"v": wanted}))) == taken, wanted


def test_all_conditions_must_hold(rows: Read) -> None:
    records = [{"prompt": str(n), "a": n % 2, "b": {"c": n % 3}} for n in range(6)]
    assert turns(rows(records, where={"a": 0, "b.c": 1})) == [["4"]]


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        ("", "empty"),
        (" \n\t\u00a0\u3000", "empty"),
        ("\u200b\ufeff\u2060\u00ad\u3164\u2800", "empty"),
        ("x" * 101, "too long"),
        ("a\x00b", "control characters"),
        ("\x00", "control characters"),
        ("a\x1bb", "control characters"),
        ("a\x7f", "control characters"),
        ("a\x9b", "control characters"),
        ("hi <|im_start|>", "control token"),
        ("hi </think>", "control token"),
        ("hi <\uff5cUser\uff5c>", "control token"),
        ("a\ud83d", "not valid Unicode"),
        ("x" * 100, None),
        ("tab\tnew\nline", None),
        ("replacement \ufffd\ufffd", None),
        ("emoji \U0001f600 zero\u200dwidth", None),
        ("a < b and [list] |x|", None),
    ],
)
def test_rejection(prompt: str, reason: str | None, rows: Read) -> None:
    got = rows([{"prompt": prompt}], max_chars=100)
    assert [r["reason"] for r in got.rejected] == ([reason] if reason else [])
    (row,) = [*got.rows, *got.rejected]
    assert row["prompt"][0]["content"] == prompt.replace("\ud83d", "\ufffd")
    assert len(row["id"]) == 32
    assert set(row) - {"reason"} == {"id", "domain", "prompt", "ground_truth", "origin"}


def test_length_counts_all_turns(rows: Read) -> None:
    prompt = [{"role": "user", "content": "x" * 60}] * 2
    assert rows([{"prompt": prompt}], max_chars=119).rejected[0]["reason"] == "too long"
    assert rows([{"prompt": prompt}], max_chars=120).rejected == []


def test_all_rows_fit_the_published_columns(rows: Read) -> None:
    got = rows([{"prompt": p, "c": p} for p in ("fine", "\ud800", "a\x00", "é", " ")], category="c")
    everything = [*got.rows, *got.rejected]
    pa.array([row["prompt"] for row in everything], PROMPT)
    assert pa.array([row["origin"] for row in everything], ORIGIN).to_pylist() == [r["origin"] for r in everything]
    assert len(everything) == 5


def test_windows_line_ends_become_newlines(rows: Read) -> None:
    assert turns(rows([{"prompt": "a\r\nb"}])) == [["a\nb"]]


def test_texts_are_not_cleaned(write: Write, tmp_path: Path) -> None:
    records = [
        {"prompt": "plain"},
        {"prompt": " "},
        {"prompt": "</think>"},
        {"prompt": "x" * 50_000},
        {"prompt": None},
        {"prompt": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]},
    ]
    write("a.jsonl", "".join(json.dumps(record) + "\n" for record in records))
    source = Source(files=("a.jsonl",), prompt="prompt")
    assert list(texts(source, locate(source, tmp_path)[0])) == ["plain", "</think>", "x" * 50_000, "a\nb"]


CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": 'Why\'s the "sky" blue?\nIn short.'},
    {"role": "assistant", "content": "Rayleigh {scattering}."},
]
SHARED = [{"from": "human", "value": "Why is the sky blue?"}, {"from": "gpt", "value": "Because."}]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (json.dumps(CHAT), CHAT[1]["content"]),
        (json.dumps(CHAT, indent=2), CHAT[1]["content"]),
        (repr(CHAT), CHAT[1]["content"]),
        (f"array({CHAT!r}, dtype=object)", CHAT[1]["content"]),
        (json.dumps({"messages": CHAT}), CHAT[1]["content"]),
        (json.dumps(SHARED), "Why is the sky blue?"),
        (repr(SHARED), "Why is the sky blue?"),
    ],
)
def test_a_chat_that_was_written_into_a_text_is_read_as_messages(rows: Read, written: str, expected: str) -> None:
    assert turns(rows([{"p": written}], prompt="p")) == [[expected]]


@pytest.mark.parametrize(
    "written", [json.dumps(CHAT)[:-9], repr(CHAT).replace("}, {", "}\n {"), "[{'role': 'user', 'content': [" * 9]
)
def test_a_written_chat_that_cant_be_read_is_no_prompt(rows: Read, written: str) -> None:
    pulled = rows([{"p": written}, {"p": "another"}], prompt="p")
    assert (turns(pulled), [row["reason"] for row in pulled.rejected]) == ([["another"]], ["no prompt"])


@pytest.mark.parametrize(
    "prompt",
    [
        f"What is wrong with {json.dumps(CHAT)}",
        '{"from": "2020-01-01", "to": "2021-01-01"}: how many days?',
        '[{"role": "user"}]',
        '{"name": "ann", "role": "admin", "content": 3} is no JSON, why?',
        "[1, 2]",
        "{'role': x}",
    ],
)
def test_a_prompt_with_json_in_it_stays_a_prompt(rows: Read, prompt: str) -> None:
    assert turns(rows([{"p": prompt}], prompt="p")) == [[prompt]]


def test_not_a_number_is_null(write: Write, read: Read) -> None:
    lines = '{"p": "one", "a": NaN, "c": NaN}\n{"p": "two", "a": 2.0, "c": 1.5}\n'
    write("nan.jsonl", lines)
    table = pa.table({"p": ["one", "two"], "a": [float("nan"), 2.0], "c": [float("nan"), 1.5]})
    pq.write_table(table, write("nan.parquet", ""))
    for name in ("nan.jsonl", "nan.parquet"):
        pulled = read(name, "math", prompt="p", category="c", ground_truth={"field": "a"})
        assert [(row["ground_truth"], row["origin"]["category"]) for row in pulled.rows] == [("2.0", "1.5")]
        assert len(pulled.rejected) == 1
        harmful = read(name, "harmful", prompt="p", category="c", where={"a": None})
        assert [row["origin"]["category"] for row in harmful.rows] == [None]
