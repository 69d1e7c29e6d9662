"""What publishing costs: new chunks of a grown mixture, loading it, publishing nothing new, and reading meanwhile.

    python tests/benchmarks/bench_publish.py                          # all, 100,000 rows: some minutes
    python tests/benchmarks/bench_publish.py chunks --rows 10000      # some of: chunks load unchanged reader

``chunks`` is Xet's own client (hf_xet: GearHash, chunks of 64 KiB) uploading to a store on this disk: both versions of
the Parquet files, and what it had not seen before of the second one. Prompts are recombined sentences of STAR-1,
CoCoNot and GSM8K, prefills recombined sentences of STAR-1's thinking (../shared/data). Floor: 15 % for 5 % more rows.
Rows sorted by id miss it, whatever the writer does: an id is a hash, so one row in twenty is new wherever one looks,
and a page holds hundreds. The other orders show what the same rows cost where new ones stand together.

``load`` compares a published mixture of 5,000 rows with the same rows from `Dataset.push_to_hub`, each read by a new
process with an empty cache from the Hub of the tests. Floor: 5 s. ``unchanged`` publishes it again: no commit, no byte.
``reader`` loads ``main`` and the newest tag over and over while versions are published and one call after the other
fails, before and after it took effect. Floor: no state but whole versions.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.publish.parquet import CHUNKING, ROWS_PER_GROUP, ShardedWriter
from pipeline.schema import DOMAINS, MIXTURE, REWARDS

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.servers.hub import Hub, hub  # noqa: E402

SHARED = ROOT.parent / "shared" / "data"
REPO = "my-org/bench"
COMMAND = [sys.executable, "-m", "pipeline.cli"]
SHARES = {"harmful": 0.2, "benign": 0.2, "math": 0.6}
SOURCES = {"harmful": "UCSC-VLAA/STAR-1", "benign": "allenai/coconot", "math": "openai/gsm8k"}

Row = dict[str, Any]


# Rows


def sentences(texts: Iterator[str]) -> list[str]:
    """The sentences of 3 to 60 words, each once."""
    found = {part.strip() for text in texts for part in re.split(r"(?<=[.?!])\s+", text)}
    return sorted(part for part in found if 3 <= len(part.split()) <= 60)


class Texts:
    """Prompts of each domain, and prefills of 480 words and a bit."""

    def __init__(self, data: Path, seed: int = 0) -> None:
        star = json.loads((data / "harmful/STAR-1.json").read_text("utf-8"))
        benign = (data / "benign/coconot_pref.jsonl").read_text("utf-8").splitlines()
        math = (data / "math/gsm8k_train.jsonl").read_text("utf-8").splitlines()
        self.thinking = sentences(row["response"].partition("</think>")[0].removeprefix("<think>") for row in star)
        self.prompts = {
            "harmful": sentences(row["question"] for row in star),
            "benign": sentences(json.loads(line)["prompt"] for line in benign),
            "math": sentences(json.loads(line)["question"] for line in math),
        }
        self.draw = random.Random(seed)

    def prompt(self, domain: str) -> str:
        return " ".join(self.draw.sample(self.prompts[domain], 4 if domain == "math" else 2))

    def prefill(self) -> str:
        parts: list[str] = []
        while sum(len(part.split()) for part in parts) < 480:
            parts.append(self.draw.choice(self.thinking))
        return " ".join(parts)


def candidates(texts: Texts, count: int) -> list[Row]:
    """Rows in the order of their sources, each with the prefill that it would carry."""
    rows: dict[str, Row] = {}
    domains = ["harmful", "benign", "math", "math", "math"]
    while len(rows) < count:
        domain = domains[len(rows) % len(domains)]
        prompt, prefill, draw = texts.prompt(domain), texts.prefill() if domain != "math" else None, texts.draw
        name = hashlib.blake2b(f"{domain} {prompt}".encode(), digest_size=16).hexdigest()
        origin = {"dataset": SOURCES[domain], "split": "train", "revision": "0" * 40, "row": len(rows)}
        sampling = {"sampler": "unaligned", "engine": "openai", "model": "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B"}
        sampling |= {"template": "0" * 64, "parameters": '{"temperature":0.6,"top_p":0.95}', "attempt": 0}
        rows[name] = {
            "id": name,
            "domain": domain,
            "prompt": [{"role": "user", "content": prompt}],
            "prefill": prefill,
            "reward": REWARDS[domain],
            "ground_truth": str(draw.randrange(1000)) if domain == "math" else None,
            "origin": origin | {"category": draw.choice(["violence", "privacy", "fraud"]), "licence": "apache-2.0"},
            "sampling": sampling | {"seed": draw.randrange(1 << 62), "words": len((prefill or "").split())},
            "verdict": {"stance": "complies", "judge": "refusal", "score": draw.random(), "sees": ["thinking"]},
        }
    return list(rows.values())


def rank(row: Row) -> bytes:
    """By which rows enter a mixture, as `pipeline.mixture` has it."""
    return hashlib.blake2b(row["id"].encode(), digest_size=8, key=bytes(8)).digest()


def plain(row: Row) -> Row:
    return row | {"prefill": None, "sampling": None, "verdict": None}


def chosen(rows: list[Row], quota: int) -> list[Row]:
    """The mixture of so many rows: by rank, half of those of a safety domain with their prefill."""
    found = []
    for domain, share in SHARES.items():
        ranked = sorted((row for row in rows if row["domain"] == domain), key=rank)[: round(share * quota)]
        prefilled = 0 if domain == "math" else len(ranked) // 2
        found += [row if place < prefilled else plain(row) for place, row in enumerate(ranked)]
    return found


# Chunks


class Order(NamedTuple):
    """A name, the order of rows, and what starts a new row group when it changes."""

    name: str
    key: Callable[[Row], Any]
    block: Callable[[Row], Any] | None = None


def by_id(row: Row) -> Any:
    return row["id"]


def block(row: Row) -> Any:
    return DOMAINS.index(row["domain"]), row["origin"]["dataset"]


BY_ID = Order("by id", by_id)
BY_RANK = Order("by domain, source, rank", lambda row: (block(row), rank(row)), block)


def write(folder: Path, rows: list[Row], order: Order, group: int | None, **options: Any) -> None:
    """One version: as `pipeline.publish.parquet` writes it, unless something else is asked for."""
    rows = sorted(rows, key=order.key)
    if group is None and order.block is None and not options:
        with ShardedWriter(folder, "mixture", MIXTURE, len(rows)) as sharded:
            for start in range(0, len(rows), ROWS_PER_GROUP):
                sharded.write(pa.Table.from_pylist(rows[start : start + ROWS_PER_GROUP], schema=MIXTURE))
        return
    folder.mkdir()
    settings: dict[str, Any] = {"compression": "zstd", "write_page_index": True}
    settings |= {"use_content_defined_chunking": CHUNKING} | options
    with pq.ParquetWriter(folder / "mixture.parquet", MIXTURE, **settings) as writer:
        for _, part in groupby(rows, order.block or (lambda row: None)):
            writer.write_table(pa.Table.from_pylist(list(part), schema=MIXTURE), group or ROWS_PER_GROUP)


class Cost(NamedTuple):
    """What Xet had not seen of the second version, of how many bytes; how long reading it takes."""

    new: int
    total: int
    seconds: float


def cost(versions: list[list[Row]], order: Order, group: int | None, **options: Any) -> Cost:
    import hf_xet

    with tempfile.TemporaryDirectory() as scratch:
        place, session = Path(scratch), hf_xet.XetSession()
        for number, rows in enumerate(versions):
            write(place / str(number), rows, order, group, **options)
            commit = session.new_upload_commit(endpoint=f"local://{place / 'store'}")
            for path in sorted((place / str(number)).iterdir()):
                commit.start_upload_file(str(path))
            metrics = commit.wait_to_finish().dedup_metrics
        began = time.perf_counter()
        pq.read_table(place / str(len(versions) - 1))
        return Cost(metrics.new_bytes, metrics.total_bytes, time.perf_counter() - began)


def chunks(data: Path, count: int) -> None:
    """Compare orders and settings of the writer."""
    print(f"chunks: what is new of {count:,} rows that become 5 % more")
    all_rows = candidates(Texts(data), count * 21 // 20)
    few = count // 2000
    smaller = dict(zip(("min_chunk_size", "max_chunk_size", "norm_level"), (64 << 10, 256 << 10, 0), strict=True))
    settings: list[tuple[str, Order, int | None, dict[str, Any]]] = [
        ("as written", BY_ID, None, {}),
        ("row groups of 1,024", BY_ID, 1024, {}),
        ("row groups of 65,536", BY_ID, 1 << 16, {}),
        ("one row group", BY_ID, 1 << 30, {}),
        ("pages of 64 to 256 KiB", BY_ID, None, {"use_content_defined_chunking": smaller}),
        ("no content-defined pages", BY_ID, None, {"use_content_defined_chunking": False}),
        (
            "pages of 8 KiB, not by content",
            BY_ID,
            None,
            {"use_content_defined_chunking": False, "data_page_size": 8192},
        ),
        ("no dictionaries", BY_ID, None, {"use_dictionary": False}),
        ("not compressed", BY_ID, None, {"compression": "none"}),
        (
            "not compressed, small pages",
            BY_ID,
            1 << 30,
            {"compression": "none", "use_content_defined_chunking": smaller},
        ),
        ("a group per id range", by_range(count), 1 << 30, {}),
        ("groups start with each block", BY_RANK, None, {}),
        ("one group for each block", BY_RANK, 1 << 30, {}),
    ]
    known = {row["id"] for row in all_rows[:count]}
    last = chosen(all_rows, len(all_rows))
    old_rows = [row for row in last if row["id"] in known]
    behind = Order("by id, new rows last", lambda row: (row["id"] not in known, row["id"]))
    report("rows anywhere, none else changes", [old_rows, last], [*settings[:-2], ("as written", behind, None, {})])
    raised = [chosen(all_rows, count), last]
    report("the quota is raised by 5 %: with new rows, old ones get prefills", raised, [settings[0], *settings[-3:]])
    added = [row | {"origin": row["origin"] | {"dataset": f"{row['origin']['dataset']}-2"}} for row in all_rows[count:]]
    grown = [chosen(all_rows[:count], count), chosen(all_rows[:count] + added, len(all_rows))]
    report("a source of 5 % is added to each domain", grown, [settings[0], *settings[-3:]])
    gone = random.Random(0).sample(range(len(last)), few)
    report(
        f"{few} rows go",
        [last, [row for i, row in enumerate(last) if i not in set(gone)]],
        settings[:4] + settings[-3:],
    )


def by_range(count: int) -> Order:
    """By id; a row group is a range of ids, so that it begins with the same rows in every version."""
    ranges = max(count // ROWS_PER_GROUP, 1).bit_length()
    return Order("by id", by_id, lambda row: int(row["id"][:8], 16) >> (32 - ranges))


def report(what: str, versions: list[list[Row]], settings: list[tuple[str, Order, int | None, dict[str, Any]]]) -> None:
    ids = [{row["id"] for row in rows} for rows in versions]
    before = {row["id"]: row for row in versions[0]}
    changed = sum(row["id"] in before and before[row["id"]] != row for row in versions[1])
    print(f"  {what}: {len(ids[1] - ids[0]):,} rows came, {len(ids[0] - ids[1]):,} went, {changed:,} changed")
    for name, order, group, options in settings:
        found = cost(versions, order, group, **options)
        print(
            f"    {found.new / found.total:6.1%} new of {found.total / 1e6:6.1f} MB, read in {found.seconds:.2f} s   "
            f"{order.name}; {name}",
            flush=True,
        )


# Loading, and publishing again


LOAD = """
import sys, time
began = time.perf_counter()
from datasets import load_dataset
imported = time.perf_counter()
rows = len(load_dataset(sys.argv[1], split="train", **({"revision": sys.argv[2]} if sys.argv[2:] else {})))
print(rows, time.perf_counter() - imported, time.perf_counter() - began)
"""
PUSH = """
import sys
from datasets import load_dataset
load_dataset(sys.argv[1], split="train").push_to_hub(sys.argv[2], private=True)
"""


def made(data: Path, place: Path, count: int, seed: int = 0) -> Path:
    """A build of `count` rows, half of those of the safety domains with a prefill of the template sampler."""
    texts, folder = Texts(data, seed), place / f"recipe-{seed}"
    folder.mkdir(parents=True)
    for domain, share in SHARES.items():
        prompts = {texts.prompt(domain) for _ in range(round(share * count * 1.5) + 10)}
        lines = (json.dumps({"q": prompt, "a": "7"}) + "\n" for prompt in sorted(prompts))
        (folder / f"{domain}.jsonl").write_text("".join(lines))
    source = {d: [{"files": f"{d}.jsonl", "prompt": "q", "licence": "apache-2.0"}] for d in SHARES}
    source["math"][0]["ground_truth"] = {"field": "a"}  # type: ignore[assignment]
    parts: Row = {domain: {"rows": round(share * count)} for domain, share in SHARES.items()}
    for domain in ("harmful", "benign"):
        parts[domain]["prefill"] = {"sampler": "template", "share": 0.5}
    recipe = {"name": "bench", "seed": seed, "sources": source, "samplers": {"template": {"engine": "template"}}}
    recipe |= {"clean": {"dedupe": {"near": None}}, "mixture": parts}
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    out = place / f"build-{seed}"
    run(os.environ, *COMMAND, "build", str(folder / "recipe.yaml"), "--out", str(out), "--allow-short")
    return out


def run(environment: Any, *command: str) -> str:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout


def clean_environment(server: Hub, home: Path, token: str | None = Hub.token) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    return kept | server.environment(home, token)


def load(data: Path, place: Path, count: int, runs: int) -> None:
    """Time `load_dataset` with an empty cache, and publish the same again."""
    build = made(data, place, count)
    with hub() as server:
        environment = clean_environment(server, place / "publisher")
        run(environment, *COMMAND, "publish", str(build), "--to", f"hub:{REPO}")
        run(environment, sys.executable, "-c", PUSH, str(build), f"{REPO}-pushed")
        print(f"load: {count:,} rows, {runs} times each with an empty cache; the second figure has the import in it")
        seconds: dict[str, list[tuple[float, float]]] = {"recap-data publish": [], "Dataset.push_to_hub": []}
        for number in range(runs):
            arguments = {"recap-data publish": [REPO, "v1.0.0"], "Dataset.push_to_hub": [f"{REPO}-pushed"]}
            for name, where in arguments.items():
                home = place / f"reader-{name.split()[0]}-{number}"
                told = run(clean_environment(server, home), sys.executable, "-c", LOAD, *where).split()
                seconds[name].append((float(told[1]), float(told[2])))
                shutil.rmtree(home)
        for name, found in seconds.items():
            middle = [statistics.median(values) for values in zip(*found, strict=True)]
            print(f"  {middle[0]:5.2f} s, {middle[1]:5.2f} s   {name}")


def unchanged(data: Path, place: Path, count: int) -> None:
    """Count what publishing the same again does."""
    build = made(data, place, count)
    with hub() as server:
        environment = clean_environment(server, place / "publisher")
        publish = [*COMMAND, "publish", str(build), "--to", f"hub:{REPO}"]
        run(environment, *publish)
        commits = len(server.commits(REPO))
        server.clear()
        began = time.perf_counter()
        run(environment, *publish)
        seconds = time.perf_counter() - began
        made_commits = len(server.commits(REPO)) - commits
        effects = sum(record.effect is not None for record in server.log())
        print(f"unchanged: {count:,} rows published again in {seconds:.1f} s by {len(server.log())} calls:")
        print(
            f"  {made_commits} commits, {server.uploaded_bytes()} bytes uploaded, {effects} calls that changed anything"
        )


# A reader, while versions are published and calls fail


READER = """
import json, os, shutil, sys, tempfile
from datasets import load_dataset
from huggingface_hub import HfApi, hf_hub_download
from pipeline.publish import versions
from pipeline.publish.parquet import ContentHash

def content(name, revision, place):
    hashed, loaded = ContentHash(), load_dataset(name, split="train", revision=revision, cache_dir=place)
    for table in loaded.with_format("arrow").iter(1000):
        hashed.update(table.to_pylist())
    return hashed.hexdigest()

name, stop = sys.argv[1:]
while not os.path.exists(stop):
    for kind in ("main", "tag"):
        place = tempfile.mkdtemp()
        try:
            revision, manifest = "main", None
            if kind == "tag":
                tags = [tag.name for tag in HfApi().list_repo_refs(name, repo_type="dataset").tags]
                revision = str(max(map(versions.parse, tags)))
                path = hf_hub_download(name, "manifest.json", repo_type="dataset", revision=revision)
                manifest = json.load(open(path))
            found = content(name, revision, place)
            rejected = load_dataset(name, "rejected", split="train", revision=revision, cache_dir=place)
            told = manifest and (manifest["content_hash"], manifest["rows"]["rejected"])
            fits = told is None or told == (found, len(rejected))
            print(json.dumps([kind, revision, found, len(rejected), fits]), flush=True)
        except Exception as error:
            print(json.dumps([kind, "error", f"{type(error).__name__}: {error}"[:200], 0, False]), flush=True)
        finally:
            shutil.rmtree(place, ignore_errors=True)
"""


def reader(data: Path, place: Path, count: int, faults: int) -> None:
    """Publish two builds in turn, a failure at one call after the other, while somebody reads on."""
    from tests.publish.test_hub import Client

    builds = [made(data, place, count, seed) for seed in (0, 1)]
    manifests = [json.loads((build / "manifest.json").read_text()) for build in builds]
    whole = {(manifest["content_hash"], manifest["rows"]["rejected"]) for manifest in manifests}
    with hub(commits_per_hour=0) as server, contextlib.ExitStack() as stack:
        client = Client(server, place / "publisher")
        stack.callback(client.close)
        to = f"hub:{REPO}"
        client.publish(builds[0], to=to)
        server.clear()
        client.publish(builds[1], to=to)
        routes = Counter(record.route for record in server.log())
        calls = [(route, skip) for route, times in sorted(routes.items()) for skip in range(times)]
        planned = [(route, skip, how, when) for route, skip in calls for how, when in ((500, "before"), (500, "after"))]
        planned += [(route, skip, "reset", "after") for route, skip in calls]
        planned = planned[:: max(len(planned) // faults, 1)] if faults else planned
        server.grant(REPO, "stranger")
        stop, seen = place / "stop", place / "seen.jsonl"
        with seen.open("w") as output:
            watching = subprocess.Popen(
                [sys.executable, "-c", READER, REPO, str(stop)],
                env=clean_environment(server, place / "reader", Hub.other_token),
                stdout=output,
                stderr=subprocess.DEVNULL,
                cwd=ROOT,
            )
            stack.callback(watching.kill)
            struck, failed = 0, []
            for number, (route, skip, how, when) in enumerate(planned):
                server.clear()
                server.fail(route, how, when, skip=skip, spare="stranger")  # type: ignore[arg-type]
                told = client.publish(builds[number % 2], to=to)
                if "error" in told:
                    failed.append(told["error"])
                struck += any(record.fault and record.user != "stranger" for record in server.log())
            server.heal()
            stop.touch()
            watching.wait(120)
        told = [json.loads(line) for line in seen.read_text().splitlines()]
        errors = Counter(found for _, revision, found, _, _ in told if revision == "error")
        read = [entry for entry in told if entry[1] != "error"]
        contents, sizes = ({part[side] for part in whole} for side in (0, 1))
        half = [entry for entry in read if not entry[4] or entry[2] not in contents or entry[3] not in sizes]
        tags: dict[str, set[str]] = {}
        for kind, revision, found, _, _ in read:
            if kind == "tag":
                tags.setdefault(revision, set()).add(found)
        commits = server.commits(REPO)
        print(f"reader: {len(planned)} publications with a failure each ({len(calls)} calls in an undisturbed one),")
        print(f"  of which {struck} met the publisher; {len(failed)} gave up; {len(server.tags(REPO))} versions")
        print(f"  {len(read)} readings of {len(commits) - 1} commits, {len(tags)} tags: {len(half)} half states,")
        print(f"  {sum(len(found) > 1 for found in tags.values())} tags that changed, {sum(errors.values())} errors")
        for error, times in errors.most_common(3):
            print(f"    {times}: {error}")
        for error in failed[:3]:
            print(f"    gave up: {error}")


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help="chunks, load, unchanged, reader; all where none is named")
    parser.add_argument("--data", type=Path, default=SHARED)
    parser.add_argument("--rows", type=int, default=100_000, help="of chunks")
    parser.add_argument("--loaded", type=int, default=5_000, help="rows of load and unchanged")
    parser.add_argument("--runs", type=int, default=3, help="of load")
    parser.add_argument("--read", type=int, default=300, help="rows of reader")
    parser.add_argument("--faults", type=int, default=0, help="of reader, about so many; 0: one at every call and way")
    arguments = parser.parse_args()
    parts = arguments.parts or ["chunks", "load", "unchanged", "reader"]
    os.environ.setdefault("HF_XET_CACHE", tempfile.gettempdir())
    for part in parts:
        with tempfile.TemporaryDirectory() as scratch:
            place = Path(scratch)
            print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", flush=True)
            match part:
                case "chunks":
                    chunks(arguments.data, arguments.rows)
                case "load":
                    load(arguments.data, place, arguments.loaded, arguments.runs)
                case "unchanged":
                    unchanged(arguments.data, place, arguments.loaded)
                case "reader":
                    reader(arguments.data, place, arguments.read, arguments.faults)
                case _:
                    parser.error(f"{part} is none of chunks, load, unchanged, reader")


if __name__ == "__main__":
    main()
