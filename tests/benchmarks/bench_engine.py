"""Requests through engine and ledger: beside other clients, with a slow server, killed, repeated; a large ledger.

    python tests/benchmarks/bench_engine.py                             # all parts, without the peers
    python tests/benchmarks/bench_engine.py clients --curator curator-env/bin/python \\
        --distilabel distilabel-env/bin/python
    python tests/benchmarks/bench_engine.py clients --before ../earlier --rounds 9
    python tests/benchmarks/bench_engine.py kill --kills 100

*clients* send 2,000 chat requests (prompts of about 60 words, answers of about 120) to one local server that takes 50
ms for each, 256 in flight, in turns, three rounds; each is a process of its own and its imports are not timed. Seconds
are those of the whole call; "at the server" those from the first request's arrival to the last answer, without what a
client does before and after. The peers are drivers in `peers/` that say their settings; environments for them:

    python3 -m venv curator-env && curator-env/bin/pip install bespokelabs-curator==0.1.31
    python3 -m venv distilabel-env && distilabel-env/bin/pip install 'distilabel[openai]==1.5.3' requests

*slow* has one server of four take ten times as long, against the three others alone. *kill* ends builds with SIGKILL at
random moments and resumes them. *rebuild* repeats a build of 5,000 rows. *ledger* looks up random keys in a million.

The machine's own speed changes from minute to minute where others use it: judge by the ratios.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]
PEERS = Path(__file__).parent / "peers"
DATA = ROOT.parent / "shared" / "data" / "math" / "gsm8k_train.jsonl"
sys.path.insert(0, str(ROOT))

from pipeline.ledger import Entry, Ledger, request_key  # noqa: E402
from tests.servers.endpoint import Endpoint, Record, canonical, endpoint  # noqa: E402

LATENCY, IN_FLIGHT, REQUESTS = 0.05, 256, 2000

OURS, BARE, RAW, CURATOR, DISTILABEL = "engine and ledger", "bare openai", "bare aiohttp", "curator", "distilabel"
BEFORE = "engine before"
FLOORS = {CURATOR: 2.5, DISTILABEL: 4.0, BARE: 0.9, BEFORE: 1.0}
"""How many times as fast as these ours is to be."""

RECIPE = """
name: bench
sources:
  harmful: [{files: harmful.jsonl, prompt: q}]
  benign: [{files: benign.jsonl, prompt: q}]
samplers:
  unaligned: {engine: openai, base_url: "URL", model: toy-comply, max_tokens: 2000}
  overcautious: {engine: openai, base_url: "URL", model: toy-refuse, max_tokens: 2000}
mixture:
  harmful: {rows: ROWS, prefill: {sampler: unaligned, share: 1.0, words: 100, min_words: 40}}
  benign: {rows: ROWS, prefill: {sampler: overcautious, share: 1.0, words: 100, min_words: 40}}
"""


def prompts(count: int, seed: int = 0) -> list[str]:
    """Distinct prompts of about 60 words, from the sentences of GSM8K's training questions."""
    questions = [json.loads(line)["question"] for line in DATA.read_text().splitlines()]
    sentences = [sentence.strip(" .") for question in questions for sentence in question.split(". ")]
    rng = random.Random(seed)
    return [". ".join(rng.sample(sentences, 5)) + "." for _ in range(count)]


def verdict(good: bool) -> str:
    """How a floor's line ends."""
    return "reached" if good else "MISSED"


# Clients side by side


@contextmanager
def servers(*latencies: float) -> Iterator[list[str]]:
    """Lean servers in a process of their own; their base URLs."""
    command = [sys.executable, str(PEERS / "server.py"), *map(str, latencies)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())
        finally:
            process.kill()


def drive(command: Sequence[str], url: str, asked: list[str], in_flight: int) -> dict[str, float]:
    """What a driver prints, when it has sent the prompts."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "prompts.json"
        path.write_text(json.dumps(asked))
        done = subprocess.run(
            [*command, url, str(path), str(in_flight)], cwd=folder, capture_output=True, text=True, check=False
        )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    printed: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return printed


def arrivals(url: str) -> list[float]:
    """When a server's chat requests came since it was last asked."""
    with urllib.request.urlopen(url.removesuffix("/v1") + "/arrivals") as answer:
        times: list[float] = json.load(answer)
        return times


def clients(peers: dict[str, str | None], rounds: int, before: Path | None) -> None:
    """All clients in turns."""
    loops = str(PEERS / "loops.py")
    drivers: dict[str, list[str]] = {
        OURS: [sys.executable, loops, "engine"],
        BARE: [sys.executable, loops, "openai"],
        RAW: [sys.executable, loops, "aiohttp"],
    }
    if before is not None:
        drivers[BEFORE] = [sys.executable, str(before / "tests/benchmarks/peers/loops.py"), "engine"]
    for name, python in peers.items():
        if python is None:
            print(f"{name} is left out: give its environment's Python with --{name}")
        else:
            drivers[name] = [python, str(PEERS / f"{name}_driver.py")]
    figures: dict[str, list[tuple[float, float, float]]] = {name: [] for name in drivers}
    asked = prompts(REQUESTS)
    with servers(LATENCY) as (url,):
        for _ in range(rounds):
            for name, command in drivers.items():
                printed = drive(command, url, asked, IN_FLIGHT)
                came = arrivals(url)
                extra = len(came) - REQUESTS  # what is asked beforehand: curator's limits, our harmless request
                if extra not in (0, 1):
                    raise SystemExit(f"{name} sent {len(came)} requests")
                at_server = came[-1] - came[extra] + LATENCY
                figures[name].append((printed["seconds"], at_server, printed["cpu"]))
    print(f"{REQUESTS:,} requests, {IN_FLIGHT} in flight, {LATENCY * 1000:.0f} ms each; medians of {rounds} rounds")
    print(f"{'':20}{'seconds':>9}{'req/s':>8}{'at the server':>15}{'CPU s / 1,000':>15}")
    medians = {
        name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in figures.items()
    }
    for name, (seconds, at_server, cpu) in medians.items():
        cells = f"{seconds:9.2f}{REQUESTS / seconds:8,.0f}{REQUESTS / at_server:15,.0f}{cpu / REQUESTS * 1000:15.2f}"
        print(f"{name:20}{cells}")
    for name, floor in FLOORS.items():
        if name in medians:
            ratios = [row[0] / ours[0] for row, ours in zip(figures[name], figures[OURS], strict=True)]
            at_server = [row[1] / ours[1] for row, ours in zip(figures[name], figures[OURS], strict=True)]
            ratio = statistics.median(ratios)
            print(
                f"ours is {ratio:.2f} x {name} (rounds {min(ratios):.2f} to {max(ratios):.2f}; at the server "
                f"{statistics.median(at_server):.2f}), floor {floor}: {verdict(ratio >= floor)}"
            )


# One slow server among four


def slow() -> None:
    """Three servers, and three with a fourth that takes ten times as long."""
    loop = [sys.executable, str(PEERS / "loops.py"), "engine"]
    with servers(*[LATENCY] * 3, 10 * LATENCY) as urls:
        for in_flight, count in ((8, 500), (8, 4000), (IN_FLIGHT, 1000), (IN_FLIGHT, 4000)):
            asked, ratios, shares = prompts(count), [], []
            for _ in range(3):
                alone = drive(loop, ",".join(urls[:3]), asked, in_flight)["seconds"]
                with_slow = drive(loop, ",".join(urls), asked, in_flight)["seconds"]
                ratios.append(with_slow / alone)
                shares.append(len(arrivals(urls[3])))
            ratio = statistics.median(ratios)
            print(
                f"{count:,} requests, {in_flight} in flight a server: with a slow fourth server {ratio:.2f} times the "
                f"seconds of the three ({alone:.2f} s), it got {statistics.median(shares):.0f}; "
                f"at most 1.15: {verdict(ratio <= 1.15)}"
            )


# Builds


def recipe(folder: Path, url: str, rows: int) -> None:
    """Write a recipe with two samplers and `rows` rows, every one of them with a prefill."""
    folder.mkdir(parents=True)
    texts = prompts(rows, seed=1)
    for name, part in (("harmful", texts[::2]), ("benign", texts[1::2])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"q": text}) + "\n" for text in part))
    (folder / "bench.yaml").write_text(RECIPE.replace("URL", url).replace("ROWS", str(rows // 2)))


def build(folder: Path) -> subprocess.Popen[str]:
    """Start a build in a process of its own."""
    command = [sys.executable, "-m", "pipeline.cli", "build", "bench.yaml", "--allow-short"]
    pipes: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, **pipes)


def finish(process: subprocess.Popen[str]) -> None:
    """Wait for a build that must succeed."""
    _, told = process.communicate()
    if process.returncode:
        raise SystemExit(told)


def seconds_of(folder: Path) -> float:
    """How long a build takes."""
    began = time.perf_counter()
    finish(build(folder))
    return time.perf_counter() - began


def content(folder: Path) -> dict[str, str]:
    """The hash of each file that a build made."""
    made = folder / "out" / "bench"
    files = sorted(path for path in made.rglob("*") if path.is_file())
    return {str(path.relative_to(made)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def digest(body: Any) -> str:
    """The endpoint's digest of a chat request."""
    asked = canonical(json.dumps(body).encode())
    return hashlib.blake2b(b"/v1/chat/completions\0" + asked, digest_size=16).hexdigest()


def kept(folder: Path) -> set[str]:
    """The digests of all requests whose answer is in the ledger."""
    path = folder / "out" / "ledger.sqlite"
    if not path.exists():
        return set()
    with Ledger(path) as ledger:
        return {digest(entry.request["body"]) for _, entry in ledger.entries()}


def chats(server: Endpoint) -> list[Record]:
    """The chat requests that a server got."""
    return [record for record in server.log() if record.path.endswith("/completions")]


def kill(folder: Path, kills: int, seed: int) -> None:
    """Kill a build at a random moment, resume it, and compare; as many times as asked."""
    rng = random.Random(seed)
    repeated = in_flight = answered = different = number = 0
    oldest = 0.0
    with endpoint(latency=LATENCY, log_bodies=False) as server:
        recipe(folder / "calm", server.base_url, 600)
        whole = seconds_of(folder / "calm")
        calm = content(folder / "calm")
        requests = len(chats(server))
        while number < kills:
            server.reset()
            here = folder / "killed"
            shutil.rmtree(here, ignore_errors=True)
            recipe(here, server.base_url, 600)
            process = build(here)
            time.sleep(rng.uniform(0, whole))
            moment = time.time()
            process.kill()
            process.communicate()
            if process.returncode == 0:
                continue
            number += 1
            time.sleep(4 * LATENCY)  # the server notices
            had, before = kept(here), len(chats(server))
            finish(build(here))
            log = chats(server)
            answered += len(had)
            repeated += sum(record.digest in had for record in log[before:])
            twice = {name for name, count in server.answered().items() if count > 1}
            in_flight += len(twice)
            ended = [record.ended or moment for record in log[:before] if record.digest in twice]
            oldest = max([oldest, *(moment - one for one in ended)])
            different += content(here) != calm
    print(
        f"{kills} builds of {requests} requests killed at a random moment of {whole:.1f} s, {answered:,} answers in "
        f"their ledgers at that moment: {repeated} of them asked for again, floor 0: {verdict(not repeated)}"
    )
    print(
        f"    {in_flight} requests were answered twice that were in flight: sent by the server, at most "
        f"{oldest * 1000:.0f} ms before the kill, and not yet read"
    )
    print(f"    {different} of the resumed builds differ from the undisturbed one, floor 0: {verdict(not different)}")


def rebuild(folder: Path, rows: int) -> None:
    """Build again with nothing changed, and again without the output."""
    with endpoint(latency=LATENCY, log_bodies=False) as server:
        recipe(folder, server.base_url, rows)
        first = seconds_of(folder)
        calm, requests = content(folder), len(server.log())
        print(f"build of {rows:,} rows with {len(chats(server)):,} requests: {first:.1f} s")
        for name in ("nothing changed", "output removed"):
            if name == "output removed":
                shutil.rmtree(folder / "out" / "bench")
            seconds = seconds_of(folder)
            sent = len(server.log()) - requests
            same = content(folder) == calm
            print(
                f"rebuild, {name}: {seconds:.2f} s, {sent} requests, {'the same' if same else 'OTHER'} bytes; "
                f"floor 3 s and none: {verdict(seconds < 3 and not sent and same)}"
            )


# A large ledger


def large_ledger(path: Path, rows: int) -> None:
    """Fill a ledger, then look up random keys."""
    memory, rng = psutil.Process().memory_info, random.Random(0)
    texts = prompts(500)

    def request(place: int) -> dict[str, Any]:
        messages = [{"role": "user", "content": f"{place} {texts[place % 500]}"}]
        return {"engine": "openai", "body": {"model": "toy", "messages": messages, "seed": place}, "attempt": 0}

    with Ledger(path) as ledger:
        empty, began = memory().rss, time.perf_counter()
        for start in range(0, rows, 200):
            asked = [request(place) for place in range(start, min(start + 200, rows))]
            ledger.put(
                (request_key(one), Entry("s", "toy", one, texts[place % 500] * 2, "stop", 80, 150, 1.0))
                for place, one in enumerate(asked)
            )
        filled = time.perf_counter() - began
        keys = [request_key(request(rng.randrange(rows))) for _ in range(100_000)]
        missing = [request_key(request(rows + place)) for place in range(100_000)]
        full = memory().rss
        began = time.perf_counter()
        found = sum(ledger.get(key) is not None for key in keys)
        seconds = time.perf_counter() - began
        began = time.perf_counter()
        lost = sum(ledger.get(key) is not None for key in missing)
        without = time.perf_counter() - began
        after = memory().rss
    assert (found, lost) == (len(keys), 0)
    mib = 1 << 20
    print(
        f"ledger of {rows:,} rows ({path.stat().st_size / mib:,.0f} MiB), written at {rows / filled:,.0f} rows/s in "
        f"batches of 200: {len(keys) / seconds:,.0f} look-ups/s of keys that are there, {len(keys) / without:,.0f} of "
        f"others; floor 20,000: {verdict(min(len(keys) / seconds, len(keys) / without) >= 20_000)}"
    )
    print(f"    resident: {empty / mib:.0f} MiB empty, {full / mib:.0f} filled, {after / mib:.0f} after the look-ups")


def main() -> None:
    """Print the figures."""
    parts = ("clients", "slow", "kill", "rebuild", "ledger")
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", default=parts, help=", ".join(parts))
    parser.add_argument("--curator", help="the Python of an environment with bespokelabs-curator")
    parser.add_argument("--distilabel", help="the Python of an environment with distilabel")
    parser.add_argument("--before", type=Path, help="a checkout of an earlier commit, whose engine is one more client")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--ledger-rows", type=int, default=1_000_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "clients" in options.parts:
            clients({CURATOR: options.curator, DISTILABEL: options.distilabel}, options.rounds, options.before)
        if "slow" in options.parts:
            slow()
        if "kill" in options.parts:
            kill(folder / "kill", options.kills, options.seed)
        if "rebuild" in options.parts:
            rebuild(folder / "rebuild", 5000)
        if "ledger" in options.parts:
            large_ledger(folder / "ledger.sqlite", options.ledger_rows)


if __name__ == "__main__":
    main()
