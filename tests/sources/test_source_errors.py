"""Broken input: one clear error each, with the file, the place, and what to do; harmful text is never quoted."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import SourceError
from pipeline.recipe import Source
from pipeline.sources import Pulled, locate, texts
from pipeline.sources.fields import category_text

CANARY = "canary-text"
GOOD = json.dumps({"prompt": CANARY}) + "\n"


def parquet() -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table({"prompt": [CANARY] * 100, "n": list(range(100))}), out)
    return out.getvalue()


def damaged_parquet() -> bytes:
    data = bytearray(parquet())
    data[20:60] = bytes(40)
    return bytes(data)


BROKEN: dict[str, tuple[str | bytes, list[str]]] = {
    # name of the file: content, what the message says
    "empty.jsonl": (b"", ["empty.jsonl is empty"]),
    "empty.json": (b"", ["empty.json is empty"]),
    "empty.csv": (b"", ["empty.csv is empty"]),
    "empty.parquet": (b"", ["empty.parquet is empty"]),
    "empty.jsonl.gz": (gzip.compress(b""), ["empty.jsonl.gz is empty"]),
    "zero.jsonl.gz": (b"", ["zero.jsonl.gz is empty"]),
    "blank.jsonl": (b" \n\n \n", ["blank.jsonl is empty"]),
    "long-blank.jsonl": (b" \n" * 9000, ["long-blank.jsonl holds no rows"]),
    "long-blank.json": (b" \n" * 9000, ["long-blank.json holds no rows"]),
    "none.json": (b"[]", ["none.json holds no rows"]),
    "header.csv": (b"prompt,category\n", ["header.csv holds no rows"]),
    "line.jsonl": (f'{GOOD}{{"prompt": "{CANARY}", }}\n{GOOD}', ["line.jsonl:2:27 is broken JSON", "Correct"]),
    "quote.jsonl": (GOOD * 2 + f"{{\"prompt\": '{CANARY}'}}\n", ["quote.jsonl:3:12 is broken JSON", "expecting value"]),
    "two.jsonl": (GOOD.strip() * 2 + "\n", ["two.jsonl:1:26 is broken JSON", "extra data"]),
    "deep.jsonl": (b"{" + b'"a":{' * 5000 + b"\n" + GOOD.encode(), ["deep.jsonl:1"]),
    "digits.jsonl": (b'{"n": ' + b"9" * 5000 + b"}\n", ["digits.jsonl:1 is broken JSON", "too many digits"]),
    "text.jsonl": (GOOD + f'"{CANARY}"\n', ["text.jsonl:2 is no JSON object"]),
    "pretty.jsonl": (json.dumps({"prompt": CANARY}, indent=1), ["pretty.jsonl:1", "rename it to pretty.json"]),
    "cut.jsonl": (GOOD * 3 + f'{{"prompt": "{CANARY}', ["cut.jsonl:4 is cut off", "again"]),
    "cut2.jsonl": (GOOD + '{"prompt":', ["cut2.jsonl:2 is cut off"]),
    "cut.json": (f'[{GOOD},\n{{"prompt": "{CANARY}', ["cut.json is cut off", "line 3"]),
    "cut2.json": (f"[{GOOD},{GOOD}", ["cut2.json is cut off"]),
    "cut3.json": (b"[", ["cut3.json is cut off"]),
    "cut4.json": (f'{{"data": [{GOOD},', ["cut4.json is cut off"]),
    "comma.json": (f"[{GOOD} {GOOD}]", ["comma.json:2:2 is broken JSON", "expecting ',' delimiter"]),
    "trailing.json": (f"[{GOOD},\n]", ["trailing.json:3:1 is broken JSON"]),
    "tail.json": (f"[{GOOD}]\n{CANARY}", ["tail.json:3:1", "follows the array's end"]),
    "word.json": (CANARY, ["word.json:1:1 is no JSON"]),
    "number.json": (f"[{GOOD}, 3]", ["number.json:2:3: item 1 is no object"]),
    "strings.json": (f'["{CANARY}"]', ["strings.json:1:2: item 0 is no object"]),
    "object.json": (GOOD, ["object.json holds one object", "none (it has prompt)"]),
    "lists.json": (f'{{"a": [{GOOD}], "b": [{GOOD}]}}', ["lists.json", "several (a, b)"]),
    "lines.json": (GOOD * 2, ["lines.json is named .json but holds JSON Lines", "lines.jsonl"]),
    "array.jsonl": (f"[{GOOD}]", ["array.jsonl is named .jsonl but holds a JSON array", "array.json"]),
    "array.jsonl.gz": (gzip.compress(f"[{GOOD}]".encode()), ["holds a JSON array", "rename it to array.json.gz"]),
    "array.csv": (f"[\n {GOOD}]", ["array.csv is named .csv but holds a JSON array", "rename it to array.json."]),
    "lines.csv": (GOOD * 2, ["lines.csv is named .csv but holds JSON objects", "rename it to lines.jsonl"]),
    "parquet.jsonl": (parquet(), ["parquet.jsonl is named .jsonl but holds Parquet; rename it to parquet.parquet"]),
    "parquet.csv": (parquet(), ["holds Parquet; rename it to parquet.parquet"]),
    "parquet.jsonl.gz": (gzip.compress(parquet()), ["holds Parquet in gzip", "unpack"]),
    "zipped.jsonl": (gzip.compress(GOOD.encode()), ["zipped.jsonl is named .jsonl but holds gzip", "zipped.jsonl.gz"]),
    "plain.jsonl.gz": (GOOD.encode(), ["plain.jsonl.gz is named .gz but is not gzipped", "rename it to plain.jsonl"]),
    "lines.parquet": (GOOD.encode(), ["lines.parquet is named .parquet but holds no Parquet but JSON objects"]),
    "text.parquet": (CANARY, ["text.parquet is named .parquet but holds no Parquet"]),
    "archive.csv": (b"PK\x03\x04" + bytes(50), ["archive.csv is named .csv but holds a zip archive"]),
    "tabs.csv": (
        "prompt\tcategory\nx\ty\n",
        ["its cells are separated by tabs", "rename it to tabs.tsv"],
    ),
    "cut.parquet": (parquet()[:-50], ["cut.parquet is cut off"]),
    "damaged.parquet": (damaged_parquet(), ["damaged.parquet is damaged Parquet"]),
    "cut.jsonl.gz": (gzip.compress(os.urandom(5000).hex().encode())[:-900], ["cut.jsonl.gz is cut off"]),
    "bits.jsonl.gz": (gzip.compress(GOOD.encode() * 9)[:-8] + bytes(8), ["bits.jsonl.gz is damaged"]),
    "latin.jsonl": (GOOD.encode() + '{"prompt": "é"}\n'.encode("latin-1"), ["latin.jsonl:2 is not UTF-8 at byte 38"]),
    "latin.json": (f"[{GOOD}".encode() + '{"prompt": "é"}'.encode("latin-1"), ["latin.json:2 is not UTF-8 at byte 39"]),
    "latin.csv": (b"prompt\nfine\nn\xe9e\n", ["latin.csv:3 is not UTF-8 at byte 13"]),
    "bom.csv": (b"\xef\xbb\xbfprompt\nn\xe9e\n", ["bom.csv:2 is not UTF-8 at byte 11"]),
    "wide.jsonl": (GOOD.encode("utf-16"), ["wide.jsonl is UTF-16, not UTF-8"]),
    "many.csv": (f'a,prompt\n1,"{CANARY}\n"\n1,2,{CANARY}\n', ["many.csv:4 has 3 cells where the header has 2"]),
    "few.tsv": (f"a\tprompt\n{CANARY}\n", ["few.tsv:2 has 1 cells where the header has 2"]),
    "twice.csv": ("prompt,a,prompt\n1,2,3\n", ["twice.csv:1 names a column twice in its header: prompt"]),
    "open.csv": (f'a,prompt\n1,fine\n2,"{CANARY}\n3,x\n', ["open.csv:3 opens a quote that is never closed"]),
    "stray.csv": (f'prompt\nfine\n"{CANARY}" x\n', ["stray.csv:3 is broken CSV"]),
    "mac.csv": (b"prompt\rone\rtwo\r", ["mac.csv:1 has a lone carriage return"]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_file(name: str, tmp_path: Path, error: Callable[..., str]) -> None:
    content, parts = BROKEN[name]
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    message = error(name)
    assert [part for part in parts if part not in message] == [], message
    assert message.endswith(".")


def test_good_rows_before_a_broken_line_do_not_hide_it(write: Callable[..., Path], error: Callable[..., str]) -> None:
    write("a.jsonl", GOOD * 10_000 + "{\n")
    assert "a.jsonl:10001:2 is broken JSON" in error("a.jsonl")


def test_evaluation_sets_raise_alike(write: Callable[..., Path], tmp_path: Path) -> None:
    write("a.jsonl", GOOD + "{\n")
    source = Source(files=("a.jsonl",), prompt="prompt")
    with pytest.raises(SourceError, match=r"a\.jsonl:2"):
        list(texts(source, locate(source, tmp_path)[0]))


def test_missing_file_and_glob(write: Callable[..., Path], error: Callable[..., str], tmp_path: Path) -> None:
    write("data/prompts.jsonl", GOOD)
    assert "There is no file data/prompt.jsonl: did you mean prompts.jsonl?" in error("data/prompt.jsonl")
    assert str(tmp_path / "else" / "x.csv") in error("else/x.csv")
    assert "'data/*.csv' matches no file" in error("data/*.csv")
    assert "'*' matches only folders" in error("*")
    assert "data is a folder. Name its files, as in data/*.jsonl" in error("data")
    assert "There is no file data/prompts.jsonl/x.csv" in error("data/prompts.jsonl/x.csv")


def test_file_that_is_no_regular_file(tmp_path: Path, error: Callable[..., str]) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    assert "pipe.jsonl is no regular file" in error("pipe.jsonl")


def test_unknown_suffix(write: Callable[..., Path], error: Callable[..., str]) -> None:
    for name, says in [("a.xlsx", "unknown suffix '.xlsx'"), ("a", "no suffix"), ("a.gz", "no suffix")]:
        write(name, GOOD)
        assert says in error(name)
        assert ".json, .jsonl, .ndjson, .csv, .tsv, .parquet" in error(name)


def test_no_permission() -> None:
    """Run as another user where the tests run as root, whom nothing is forbidden."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    try:
        folder.chmod(0o755)
        (folder / "a.jsonl").write_text(GOOD)
        (folder / "a.jsonl").chmod(0)
        code = (
            "import sys; from pathlib import Path; from pipeline.recipe import Source; from pipeline.sources import *\n"
            "if sys.argv[2] == '0': import os; os.setgid(65534); os.setuid(65534)\n"
            "try: locate(Source(files=('a.jsonl',), prompt='prompt'), Path(sys.argv[1]))\n"
            "except Exception as error: print(type(error).__name__, error)"
        )
        arguments = [sys.executable, "-c", code, str(folder), str(os.geteuid())]
        done = subprocess.run(arguments, capture_output=True, text=True, check=True)
        assert done.stdout.startswith("SourceError a.jsonl can't be read: no permission")
    finally:
        shutil.rmtree(folder)


ROWS = [{"prompt": f"p{n}", "meta": {"kind": "a", "tags": ["x"]}, "answer": "none", "n": n} for n in range(3)]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.parquet"])
def test_missing_field_names_those_that_are(name: str, tmp_path: Path, error: Callable[..., str]) -> None:
    flat = [{"prompt": row["prompt"], "kind": "a"} for row in ROWS]
    if name == "a.parquet":
        pq.write_table(pa.Table.from_pylist(flat), tmp_path / name)
    elif name == "a.csv":
        (tmp_path / name).write_text("prompt,kind\np0,a\n")
    else:
        lines = [json.dumps(row) for row in flat]
        (tmp_path / name).write_text("\n".join(lines) if name == "a.jsonl" else f"[{','.join(lines)}]")
    assert "has no field 'promt' (the source's prompt): there is prompt, kind" in error(name, prompt="promt")
    assert "did you mean 'prompt'?" in error(name, prompt="promt")
    assert "no field 'kid' (the source's category)" in error(name, category="kid")
    assert "no field 'knd' (the source's where knd)" in error(name, where={"knd": "a"})
    assert "no field 'result' (the source's ground_truth)" in error(name, "math", ground_truth="result")


def test_missing_nested_field_names_the_level(write: Callable[..., Path], error: Callable[..., str]) -> None:
    write("a.jsonl", "".join(json.dumps(row) + "\n" for row in ROWS))
    assert "'meta.kynd' (the source's prompt): meta has kind, tags (did you mean 'meta.kind'?)" in error(
        "a.jsonl", prompt="meta.kynd"
    )
    assert "'prompt.text' (the source's prompt): prompt holds text, which has nothing below it" in error(
        "a.jsonl", prompt="prompt.text"
    )
    assert "'meta.tags.3' (the source's category): meta.tags is a list of 1" in error("a.jsonl", category="meta.tags.3")
    assert "'mta.kind' (the source's prompt): there is prompt, meta, answer, n" in error("a.jsonl", prompt="mta.kind")


def test_a_csv_file_without_header_shows_no_prompt(write: Callable[..., Path], error: Callable[..., str]) -> None:
    write("a.csv", f'"{CANARY}, {"long " * 10}",fraud\n"two\nlines",fraud\n')
    assert "has no field 'prompt' (the source's prompt): there is fraud and 1 more" in error("a.csv")
    write("b.csv", f'"{CANARY}\nsecond line"\nx\n')
    assert "there is 1 more" in error("b.csv")


def test_prompt_that_is_never_text(write: Callable[..., Path], error: Callable[..., str]) -> None:
    write("a.jsonl", "".join(json.dumps(row) + "\n" for row in ROWS))
    assert "in 3 rows read, field 'n' holds a number and never text" in error("a.jsonl", prompt="n")
    assert "field 'meta' holds an object and never text" in error("a.jsonl", prompt="meta")
    write("b.jsonl", '{"prompt": null}\n')
    assert "in the one row read, field 'prompt' holds null and never text" in error("b.jsonl")


def test_ground_truth_that_is_never_found(write: Callable[..., Path], error: Callable[..., str]) -> None:
    write("a.jsonl", "".join(json.dumps(row) + "\n" for row in ROWS))
    rules: list[tuple[dict[str, object], str]] = [
        ({"after": "####"}, "after: '####'"),
        ({"regex": "[0-9]+"}, "regex: '[0-9]+'"),
        ({"boxed": True}, "boxed: true"),
    ]
    for rule, says in rules:
        message = error("a.jsonl", "math", ground_truth={"field": "answer", **rule})
        assert "in 3 rows read, field 'answer'" in message
        assert f"gave no ground truth by {says}" in message
    assert "by the whole value" in error("a.jsonl", "math", ground_truth="meta")
    assert "a math source needs ground_truth" in error("a.jsonl", "math")


def test_each_file_of_a_source_is_checked(write: Callable[..., Path], error: Callable[..., str]) -> None:
    write("a.jsonl", GOOD)
    write("b.jsonl", '{"text": "x"}\n')
    assert "b.jsonl has no field 'prompt'" in error("*.jsonl")


def test_where_that_selects_nothing_is_no_error(write: Callable[..., Path], read: Callable[..., Pulled]) -> None:
    write("a.jsonl", "".join(json.dumps(row) + "\n" for row in ROWS))
    assert read("a.jsonl", where={"answer": "else"}) == Pulled([], [], 3, 0)


def test_a_category_nested_without_end_is_none() -> None:
    deep: object = "x"
    for _ in range(100_000):
        deep = [deep]
    assert category_text(deep) is None
    assert category_text(["a", ["b", {"c": True}]]) == "a, b, c"
