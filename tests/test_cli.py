"""The command line as a user meets it: a real process, its two streams, its exit code, and what it leaves on the disk.

Exit codes: 0 done, 1 the job failed, 2 the user's input. An error is told on standard error, without a traceback, and
leaves standard output empty.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import pty
import random
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

Run = subprocess.CompletedProcess[str]

COMMAND = [sys.executable, "-m", "pipeline.cli"]
WORDS = [
    "mend plan draw build clean paint sort test pack tune wash bake count trace move lift fold print scan teach",
    "red old small wooden quiet broken heavy round cheap bright northern rusty plastic frozen striped hollow gentle",
    "lamp boat garden clock fence kettle violin bridge ladder basket tent camera carpet engine window pillow bottle",
    "school market winter tower canal museum island village kitchen railway forest harbour library orchard theatre",
]

RECIPE = """\
name: small
sources:
  harmful: [{files: [a.jsonl, b.jsonl, c.jsonl], prompt: prompt, licence: mit}]
  benign: [{files: benign.jsonl, prompt: prompt, licence: mit}]
  math: [{files: math.jsonl, prompt: prompt, ground_truth: answer, licence: mit}]
samplers:
  template: {engine: template}
mixture:
  harmful: {rows: 30, prefill: {sampler: template, share: 0.5, words: 120}}
  benign: {rows: 30, prefill: {sampler: template, share: 0.5, words: 120}}
  math: {rows: 30}
"""
"""On the files that `write_sources` writes."""

ONE_SOURCE = """\
name: one
sources:
  benign: [{files: FILE, prompt: prompt}]
mixture:
  benign: {rows: 5}
"""


def prompts(count: int, seed: int) -> list[str]:
    """Harmless questions of which no two are alike."""
    rng = random.Random(seed)
    pick = [words.split() for words in WORDS]
    texts = []
    for number in range(count):
        verb, first, thing, place = (rng.choice(words) for words in pick)
        texts.append(f"How do I {verb} {number} {first} {thing}s for the {place}, with {rng.choice(pick[2])} {seed}?")
    return texts


def lines(texts: list[str], **fields: str) -> str:
    return "".join(json.dumps({"prompt": text, **fields}) + "\n" for text in texts)


def write_sources(place: Path) -> None:
    for seed, name in enumerate(("a", "b", "c", "benign")):
        (place / f"{name}.jsonl").write_text(lines(prompts(20 if len(name) == 1 else 60, seed)))
    (place / "math.jsonl").write_text(lines(prompts(60, 9), answer="42"))


def run(*args: str | Path, cwd: Path, env: dict[str, str] | None = None) -> Run:
    return subprocess.run(
        [*COMMAND, *map(str, args)],
        cwd=cwd,
        env={**os.environ, "COLUMNS": "200", **(env or {})},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def done(*args: str | Path, cwd: Path, env: dict[str, str] | None = None) -> Run:
    ended = run(*args, cwd=cwd, env=env)
    assert ended.returncode == 0, ended.stderr
    return ended


def refused(*args: str | Path, cwd: Path, code: int = 2) -> str:
    """The error a command ends with, which leaves nothing new on the disk."""
    before = sorted(cwd.rglob("*"))
    ended = run(*args, cwd=cwd)
    assert ended.returncode == code, ended.stderr
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr
    assert sorted(cwd.rglob("*")) == before
    return ended.stderr


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def stamps(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in (folder, *folder.rglob("*"))}


def manifest_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "manifest.json").read_text()))


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return list(pq.read_table(folder).to_pylist())


def assert_nothing_is_lost(folder: Path) -> None:
    """Every row that was read is in the mixture or among the rejected, and every step's counts say so."""
    manifest = manifest_of(folder)
    for row in manifest["funnel"]:
        assert row["in"] == row["kept"] + sum(row["dropped"].values())
    pulled = sum(row["in"] for row in manifest["funnel"] if row["step"] == "pull")
    told = Counter(
        {(r["domain"], r["step"], why): n for r in manifest["funnel"] for why, n in r["dropped"].items()},
    )
    rejected = rows_of(folder / "rejected")
    assert Counter((row["domain"], row["stage"], row["reason"]) for row in rejected) == told
    assert len(rejected) + len(rows_of(folder / "data")) == pulled


# --- the bundled recipe


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run]:
    """The bundled recipe built in an empty folder: ``out/demo``, and what the process said. No test changes it."""
    place = tmp_path_factory.mktemp("demo")
    ended = done("build", "--json", cwd=place)
    assert [path.name for path in place.iterdir()] == ["out"]
    return place / "out" / "demo", ended


def test_build_writes_a_whole_folder_and_no_more(demo: tuple[Path, Run]) -> None:
    out, _ = demo
    assert [path.name for path in out.parent.iterdir()] == ["demo"]
    assert sorted(bytes_of(out)) == [
        "README.md",
        "data/mixture-00000-of-00001.parquet",
        "manifest.json",
        "rejected/rejected-00000-of-00001.parquet",
    ]
    assert_nothing_is_lost(out)


def test_json_is_one_object_on_standard_output_and_progress_goes_to_standard_error(demo: tuple[Path, Run]) -> None:
    out, ended = demo
    told, manifest = json.loads(ended.stdout), manifest_of(out)
    assert told["out"] == "out/demo"
    assert told["unchanged"] is False
    assert told["rows"] == manifest["rows"]
    assert told["content_hash"] == manifest["content_hash"]
    assert told["funnel"] == manifest["funnel"]
    assert re.match(r"pull: \d+\.\d s\n", ended.stderr)
    assert "\x1b" not in ended.stderr
    assert re.search(r"^sample: 60 rows, \d+\.\d s$", ended.stderr, re.MULTILINE)


def test_datasets_loads_both_configs_in_a_fresh_process_with_a_clean_cache(
    demo: tuple[Path, Run], tmp_path: Path
) -> None:
    out, _ = demo
    script = """
import json, sys
from datasets import load_dataset
plain, rejected = load_dataset(sys.argv[1]), load_dataset(sys.argv[1], "rejected")
print(json.dumps([{name: len(part) for name, part in loaded.items()} for loaded in (plain, rejected)]))
"""
    ended = subprocess.run(
        [sys.executable, "-c", script, str(out)],
        cwd=tmp_path,
        env={**os.environ, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    rows = manifest_of(out)["rows"]
    assert json.loads(ended.stdout) == [{"train": rows["mixture"]}, {"train": rows["rejected"]}]


def test_a_second_build_says_unchanged_and_touches_nothing(demo: tuple[Path, Run]) -> None:
    out, _ = demo
    before = stamps(out.parent)
    ended = done("build", cwd=out.parents[1])
    assert ended.stdout == "out/demo\n"
    assert re.search(r"^unchanged: 240 rows, 60 with a prefill", ended.stderr, re.MULTILINE)
    assert stamps(out.parent) == before


@pytest.mark.parametrize("harm", ["changed", "missing", "cut"])
def test_a_damaged_data_file_is_built_again_to_the_same_bytes(
    demo: tuple[Path, Run], tmp_path: Path, harm: str
) -> None:
    out = tmp_path / "mix"
    shutil.copytree(demo[0], out)
    data = out / "data" / "mixture-00000-of-00001.parquet"
    whole = data.read_bytes()
    if harm == "missing":
        data.unlink()
    else:
        data.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]) if harm == "changed" else whole[:1000])
    told = json.loads(done("build", "--out", out, "--json", cwd=tmp_path).stdout)
    assert told["unchanged"] is False
    assert bytes_of(out) == bytes_of(demo[0])


def test_a_terminal_gets_bars_and_a_table(tmp_path: Path) -> None:
    reader, writer = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, "build"],
        cwd=tmp_path,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "120"},
        stdout=subprocess.PIPE,
        stderr=writer,
    ) as process:
        os.close(writer)
        shown = b""
        while True:
            try:
                piece = os.read(reader, 65536)
            except OSError:  # Linux ends a pseudo-terminal so
                break
            if not piece:
                break
            shown += piece
        assert process.stdout is not None
        assert process.stdout.read() == b"out/demo\n"
    os.close(reader)
    assert process.returncode == 0
    text = shown.decode()
    assert "\x1b[" in text
    assert "━━━━" in text
    assert "60/60" in text
    assert "rows/s" in text
    assert "harmful" in text
    assert "built: 240 rows" in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


# --- plan, report, recipes


def test_plan_counts_what_build_does_and_writes_nothing(demo: tuple[Path, Run], tmp_path: Path) -> None:
    told = json.loads(done("plan", "--json", cwd=tmp_path).stdout)
    assert list(tmp_path.iterdir()) == []
    funnel = manifest_of(demo[0])["funnel"]
    assert told["funnel"] == [row for row in funnel if row["step"] not in ("sample", "mix")]
    assert told["rows"] == {"harmful": 60, "benign": 60, "math": 120}
    assert told["prefills"]["harmful"]["rows"] == 30
    assert told["unchanged"] is False


def test_plan_leaves_a_former_build_as_it_is_and_knows_it(demo: tuple[Path, Run]) -> None:
    out, _ = demo
    before = {path: stamp for path, stamp in stamps(out.parent).items() if path != out.parent}
    ended = done("plan", cwd=out.parents[1])
    assert "package: out/demo is this build already, nothing to do" in ended.stderr
    assert {path: stamp for path, stamp in stamps(out.parent).items() if path != out.parent} == before
    assert [path.name for path in out.parent.iterdir()] == ["demo"]


def test_report_writes_a_page_that_a_later_build_does_not_mind(demo: tuple[Path, Run], tmp_path: Path) -> None:
    out = tmp_path / "mix"
    shutil.copytree(demo[0], out)
    assert done("report", out, cwd=tmp_path).stdout == f"{out / 'report.html'}\n"
    assert (out / "report.html").read_text().lower().startswith("<!doctype html>")
    assert json.loads(done("build", "--out", out, "--json", cwd=tmp_path).stdout)["unchanged"] is True
    assert (out / "report.html").exists()


def test_report_of_what_is_no_build(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "nowhere is not a folder" in refused("report", "nowhere", cwd=tmp_path)
    assert "empty is not a finished build" in refused("report", "empty", cwd=tmp_path)


def test_recipes_lists_the_named_ones(tmp_path: Path) -> None:
    assert done("recipes", cwd=tmp_path).stdout.startswith("demo ")
    assert "demo" in json.loads(done("recipes", "--json", cwd=tmp_path).stdout)


# --- help and wrong calls


def test_help_names_the_commands_and_each_has_its_own(tmp_path: Path) -> None:
    text = done("--help", cwd=tmp_path).stdout
    for command, option in {"build": "--allow-short", "plan": "--set", "report": "--rows", "recipes": "--json"}.items():
        assert command in text
        assert option in done(command, "--help", cwd=tmp_path).stdout


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["bild"], "No such command 'bild'"),
        (["build", "--ot", "x"], "No such option"),
        (["build", "demo", "more"], "unexpected extra argument"),
        (["build", "--workers", "0"], "Invalid value for '--workers'"),
        (["build", "--workers", "two"], "Invalid value for '--workers'"),
        (["report"], "Missing argument 'DIR'"),
    ],
)
def test_a_wrong_call_is_the_users_input(tmp_path: Path, args: list[str], said: str) -> None:
    assert said in refused(*args, cwd=tmp_path)


# --- equal inputs, equal bytes


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the small recipe, its files, and its build ``mix``. No test changes these."""
    place = tmp_path_factory.mktemp("small")
    write_sources(place)
    (place / "recipe.yaml").write_text(RECIPE)
    (place / "turned.yaml").write_text(RECIPE.replace("[a.jsonl, b.jsonl, c.jsonl]", "[c.jsonl, a.jsonl, b.jsonl]"))
    done("build", "recipe.yaml", "--out", "mix", cwd=place)
    return place


@pytest.mark.parametrize(
    ("recipe", "options", "env"),
    [
        ("recipe.yaml", [], {"PYTHONHASHSEED": "1"}),
        ("turned.yaml", [], {}),
        ("recipe.yaml", ["--workers", "2"], {"PYTHONHASHSEED": "2"}),
        ("recipe.yaml", [], {"TZ": "Asia/Kathmandu", "LANG": "tr_TR.UTF-8", "LC_ALL": "C", "PYTHONUTF8": "0"}),
        ("recipe.yaml", ["--json"], {"OMP_NUM_THREADS": "1", "ARROW_DEFAULT_MEMORY_POOL": "system"}),
    ],
    ids=["hash seed", "order of files", "workers", "zone and language", "threads and memory"],
)
def test_a_build_is_the_same_to_the_byte(
    small: Path, tmp_path: Path, recipe: str, options: list[str], env: dict[str, str]
) -> None:
    """Each also in another output folder, from another current folder."""
    done("build", small / recipe, "--out", "other-name", *options, cwd=tmp_path, env=env)
    assert bytes_of(tmp_path / "other-name") == bytes_of(small / "mix")


# --- recipes that are none


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("gone.yaml", None, ["There is no recipe gone.yaml", "Give a path"]),
        ("empty.yaml", b"", ["empty.yaml holds no recipe", "name, sources and mixture"]),
        ("list.yaml", b"- name: x\n", ["list.yaml holds no recipe"]),
        ("broken.yaml", b"name: [x\nseed: }\n", ["broken.yaml:2:5", "no valid YAML"]),
        ("latin.yaml", "name: caf\u00e9\n".encode("latin-1"), ["latin.yaml can't be read", "UTF-8 YAML file"]),
    ],
)
def test_a_recipe_that_is_none(tmp_path: Path, name: str, content: bytes | None, said: list[str]) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    error = refused("build", name, cwd=tmp_path)
    assert all(part in error for part in said), error


def test_a_folder_is_no_recipe(tmp_path: Path) -> None:
    (tmp_path / "recipes.yaml").mkdir()
    assert "recipes.yaml can't be read" in refused("build", "recipes.yaml", cwd=tmp_path)


def test_a_recipe_with_a_control_character(tmp_path: Path) -> None:
    (tmp_path / "nul.yaml").write_bytes(b"name: x\0\n")
    assert "no valid YAML" in refused("build", "nul.yaml", cwd=tmp_path)


def test_workers_are_not_for_the_flow(tmp_path: Path) -> None:
    assert "--workers is not for --prefect" in refused("build", "--prefect", "--workers", "2", cwd=tmp_path)


def test_a_folder_called_demo_does_not_hide_the_demo(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    done("plan", "demo", cwd=tmp_path)


def test_an_unknown_named_recipe_names_the_nearest(tmp_path: Path) -> None:
    error = refused("build", "dmeo", cwd=tmp_path)
    assert "no named recipe 'dmeo'" in error
    assert "did you mean demo?" in error
    assert "./dmeo.yaml" in error


def test_all_mistakes_are_told_at_once_with_their_places(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(
        """\
name: "a b"
sources:
  harmful: [{bundled: demo}]
  math: [{bundled: demo}]
sampler: {}
samplers: {template: {engine: templat}}
mixture:
  harmful: {rows: 10, prefill: {sampler: tempalte, share: 1.2, words: 20}}
  math: {rows: 0, prefill: {sampler: template}}
"""
    )
    error = refused("build", "r.yaml", cwd=tmp_path)
    told = re.findall(r"^  r\.yaml:(\d+):\d+  ([\w.]+): (.*)$", error, re.MULTILINE)
    places = {(int(line), path): message for line, path, message in told}
    assert "not allowed" in places[8, "mixture.harmful.prefill.share"]
    assert "1.2" in places[8, "mixture.harmful.prefill.share"]
    assert "did you mean 'template'?" in places[8, "mixture.harmful.prefill.sampler"]
    assert "did you mean 'samplers'?" in places[5, "sampler"]
    assert "'templat' is not allowed (did you mean 'template'?)" in places[6, "samplers.template.engine"]
    assert "never carry a prefill" in places[9, "mixture.math.prefill"]
    assert (1, "name") in places
    assert (9, "mixture.math.rows") in places
    assert error.startswith(f"recap-data: r.yaml has {len(places)} mistakes:\n")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("mixture", "not of the form a.b.c=value"),
        ("seed=[", "no valid YAML value"),
        ("mixture.harmfull.rows=5", "unknown key (did you mean 'harmful'?)"),
        ("seed.x=5", "has nothing below it"),
        ("sources.harmful.7.bundled=demo", "no place in a list of 1"),
        ("mixture.harmful.rows=many", "'many' is not allowed"),
        ("mixture.harmful.prefill.share=1.01", "1.01 is not allowed"),
        ("mixture.benign.prefill.sampler=vllm", "'vllm' is no sampler; samplers has template"),
        ("mixture.math.prefill={sampler: template}", "math rows never carry a prefill"),
    ],
)
def test_a_wrong_override(tmp_path: Path, override: str, said: str) -> None:
    error = refused("plan", "--set", override, cwd=tmp_path)
    assert said in error
    assert "--set" in error or "harmfull" in error


TOKEN = "hf_" + "Zq7" * 8


@pytest.mark.parametrize(
    "line",
    [
        f"token: {TOKEN}",
        f"publish: {{to: 'hub:x/y', token: {TOKEN}}}",
        f"samplers: {{template: {{engine: template, api_key: {TOKEN}}}}}",
        f"judges: {{stance: {{engine: refusal, headers: {{note: {TOKEN}}}}}}}",
        f"clean: {{decontaminate: {{against: [{{files: 'https://me:{TOKEN}@host/x.csv', prompt: p}}]}}}}",
        f"publish: {{to: {TOKEN}}}",
    ],
)
def test_a_secret_is_refused_and_never_repeated(tmp_path: Path, line: str) -> None:
    text = f"name: x\nsources: {{math: [{{bundled: demo}}]}}\nmixture: {{math: {{rows: 5}}}}\n{line}\n"
    (tmp_path / "r.yaml").write_text(text)
    error = refused("build", "r.yaml", cwd=tmp_path)
    assert "a secret has no place in a recipe" in error
    assert "r.yaml:4:" in error
    assert TOKEN not in error


@pytest.mark.parametrize(
    "override",
    [
        f"samplers=[{TOKEN}]",
        f"sources.math={{bundled: demo, note: {TOKEN}}}",
        f"mixture.harmful.prefill.sampler={TOKEN}",
    ],
)
def test_a_secret_in_a_wrong_place_is_never_repeated(tmp_path: Path, override: str) -> None:
    error = refused("build", "--set", override, cwd=tmp_path)
    assert "a secret has no place in a recipe" in error
    assert TOKEN not in error


# --- source files that are broken


def parquet() -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table({"prompt": prompts(50, 1)}), out)
    return out.getvalue()


GOOD = lines(prompts(50, 1)).encode()

BROKEN: dict[str, tuple[bytes | None, list[str]]] = {
    "gone.jsonl": (None, ["no file gone.jsonl", "looked for"]),
    "empty.jsonl": (b"", ["empty.jsonl is empty", "Fill it"]),
    "cut.jsonl": (GOOD[:-20], ["cut.jsonl:50 is cut off", "again"]),
    "cut.jsonl.gz": (gzip.compress(GOOD)[:-30], ["cut.jsonl.gz is cut off", "again"]),
    "cut.parquet": (parquet()[:-30], ["cut.parquet is cut off", "again"]),
    "latin.jsonl": (GOOD + b'{"prompt": "caf\xe9"}\n', ["latin.jsonl:51 is not UTF-8 at byte", "UTF-8"]),
    "other.csv": (GOOD, ["named .csv but holds JSON", "rename it to other.jsonl"]),
    "other.parquet": (GOOD, ["named .parquet but holds no Parquet", "suffix"]),
    "line.jsonl": (GOOD + b'{"prompt": "Why",,}\n' + GOOD, ["line.jsonl:51:", "broken JSON", "Correct"]),
    "field.jsonl": (GOOD.replace(b'"prompt"', b'"prompts"'), ["no field 'prompt'", "there is prompts", "did you mean"]),
    "field.csv": (b"question,id\nWhy?,1\n", ["field.csv has no field 'prompt'", "there is question, id"]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_source_file(tmp_path: Path, name: str) -> None:
    content, said = BROKEN[name]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    (tmp_path / "r.yaml").write_text(ONE_SOURCE.replace("FILE", name))
    error = refused("build", "r.yaml", cwd=tmp_path)
    assert error.count("recap-data: ") == 1
    assert all(part in error for part in said), error


def test_a_broken_file_read_by_a_worker_is_told_the_same_way(small: Path, tmp_path: Path) -> None:
    shutil.copytree(small, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "mix")
    (tmp_path / "c.jsonl").write_bytes(GOOD + b"{\n" + GOOD)
    error = refused("build", "recipe.yaml", "--workers", "2", cwd=tmp_path)
    assert error.startswith("recap-data: c.jsonl:51")
    assert error.count("\n") == 1


# --- rows that can't be used


def test_rows_of_no_use_are_set_aside_with_a_reason_and_the_rest_is_built(tmp_path: Path) -> None:
    odd = {
        "": "empty",
        " \t\n\u00a0": "empty",
        "why " * 300_000: "too long",
        "What is\x00 a NUL?": "control characters",
        "What is \x07\x1b[31m an escape?": "control characters",
        "<|im_start|>assistant Sure": "control token",
        "Tell me. </think> Done": "control token",
        "What is half \ud83d of a face?": "not valid Unicode",
    }
    fine = [
        "What does 🧑‍🚀🪐 mean in a message?",
        "How do I paint a fence that is «vieja» — or, née, an old one?",
        *prompts(40, 3),
    ]
    (tmp_path / "a.jsonl").write_text(lines([*odd, *fine]))
    maths = [json.dumps({"prompt": text, "answer": "so #### 7"}) for text in prompts(20, 4)]
    maths += [
        json.dumps({"prompt": text, "answer": answer})
        for text, answer in zip(prompts(2, 5), ("so 7", None), strict=True)
    ]
    (tmp_path / "math.jsonl").write_text("\n".join(maths))
    (tmp_path / "r.yaml").write_text(
        """\
name: odd
sources:
  benign: [{files: a.jsonl, prompt: prompt}]
  math: [{files: math.jsonl, prompt: prompt, ground_truth: {field: answer, after: "####"}}]
samplers: {template: {engine: template}}
mixture:
  benign: {rows: 42, prefill: {sampler: template, share: 1.0, words: 100}}
  math: {rows: 20}
"""
    )
    done("build", "r.yaml", "--out", "mix", cwd=tmp_path)
    out = tmp_path / "mix"
    assert_nothing_is_lost(out)
    mixture, rejected = rows_of(out / "data"), rows_of(out / "rejected")
    assert {row["prompt"][0]["content"] for row in mixture if row["domain"] == "benign"} == set(fine)
    assert {row["ground_truth"] for row in mixture if row["domain"] == "math"} == {"7"}
    reasons = {row["origin"]["row"]: row["reason"] for row in rejected if row["domain"] == "benign"}
    assert reasons == dict(enumerate(odd.values()))
    assert [row["reason"] for row in rejected if row["domain"] == "math"] == ["no ground truth"] * 2
    assert all(row["stage"] == "pull" for row in rejected)
    done("report", out, cwd=tmp_path)


# --- quotas that can't be met


def test_a_quota_that_cannot_be_met_names_the_steps_that_took_the_rows(tmp_path: Path) -> None:
    texts = prompts(30, 6)
    (tmp_path / "a.jsonl").write_text(lines([*texts, *texts[:4], "", " ", texts[0].replace("?", "!")]))
    (tmp_path / "eval.jsonl").write_text(lines(texts[-3:]))
    (tmp_path / "r.yaml").write_text(
        """\
name: short
sources: {benign: [{files: a.jsonl, prompt: prompt}]}
clean: {decontaminate: {against: [{files: eval.jsonl, prompt: prompt}]}}
mixture: {benign: {rows: 50}}
"""
    )
    error = refused("build", "r.yaml", "--out", "mix", cwd=tmp_path, code=1)
    assert "mixture.benign.rows asks for 50, 27 are left, 23 too few" in error
    assert "37 pulled, pull: -2 empty, dedupe: -4 exact duplicate, dedupe: -1 near duplicate" in error
    assert "decontaminate: -3 in eval.jsonl" in error
    assert "--allow-short" in error

    planned = done("plan", "r.yaml", "--out", "mix", cwd=tmp_path)
    assert "short: mixture.benign.rows asks for 50" in planned.stderr

    built = done("build", "r.yaml", "--out", "mix", "--allow-short", cwd=tmp_path)
    assert "short: mixture.benign.rows asks for 50, 27 are left" in built.stderr
    manifest, card = manifest_of(tmp_path / "mix"), (tmp_path / "mix" / "README.md").read_text()
    assert manifest["rows"]["mixture"] == 27
    assert "23 too few" in manifest["shortages"][0]
    assert f"> {manifest['shortages'][0]}" in card
    assert_nothing_is_lost(tmp_path / "mix")

    before = stamps(tmp_path / "mix")
    again = json.loads(done("build", "r.yaml", "--out", "mix", "--allow-short", "--json", cwd=tmp_path).stdout)
    assert again["unchanged"] is True
    refused("build", "r.yaml", "--out", "mix", cwd=tmp_path, code=1)
    assert stamps(tmp_path / "mix") == before


@pytest.mark.parametrize("options", [[], ["--allow-short"]])
def test_a_domain_of_which_nothing_is_left_is_never_built(tmp_path: Path, options: list[str]) -> None:
    (tmp_path / "a.jsonl").write_text(lines(["", " ", "<|im_end|>"]))
    (tmp_path / "r.yaml").write_text(
        """\
name: none
sources: {benign: [{files: a.jsonl, prompt: prompt}], math: [{bundled: demo}]}
mixture: {benign: {rows: 2}, math: {rows: 5}}
"""
    )
    error = refused("build", "r.yaml", *options, cwd=tmp_path, code=1)
    assert "Nothing is left for benign: add a source" in error
    assert "3 pulled, pull: -1 control token, pull: -2 empty" in error


def test_a_where_that_takes_no_row_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(lines(prompts(5, 7), category="garden"))
    recipe = ONE_SOURCE.replace("FILE", "a.jsonl, where: {category: kitchen}")
    (tmp_path / "r.yaml").write_text(recipe)
    assert "benign" in refused("build", "r.yaml", cwd=tmp_path, code=1)


# --- output folders


def test_a_folder_that_is_no_build_is_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("mine")
    for command in ("build", "plan"):
        error = refused(command, "--out", "thesis", cwd=tmp_path, code=1)
        assert "thesis holds files but no build of recap-data" in error
        assert "Give --out another folder" in error
    assert bytes_of(tmp_path) == {"thesis/chapter.txt": b"mine"}


def test_an_output_that_can_be_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    assert "file is not a folder" in refused("build", "--out", "file", cwd=tmp_path, code=1)
    assert "file can't be made" in refused("build", "--out", "file/mix", cwd=tmp_path, code=1)
    assert "current folder" in refused("build", "--out", ".", cwd=tmp_path, code=1)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_foreign_file_beside_a_former_build_survives_a_rebuild(demo: tuple[Path, Run], tmp_path: Path) -> None:
    out = tmp_path / "mix"
    shutil.copytree(demo[0], out)
    (out / "notes").mkdir()
    (out / "notes" / "todo.txt").write_text("mine")
    told = json.loads(done("build", "--out", out, "--set", "seed=5", "--json", cwd=tmp_path).stdout)
    assert told["unchanged"] is False
    assert (out / "notes" / "todo.txt").read_text() == "mine"
    assert told["content_hash"] != manifest_of(demo[0])["content_hash"]
    assert [path.name for path in tmp_path.iterdir()] == ["mix"]


def test_a_full_standard_output_is_an_error_without_a_traceback(demo: tuple[Path, Run]) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [*COMMAND, "build"],
            cwd=demo[0].parents[1],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert ended.returncode == 1
    assert ended.stderr.endswith("recap-data: [Errno 28] No space left on device\n")
