"""Requests in batches: what is sent, left, lost, killed and come back to, against a real server and the real client."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from pipeline.clients import Doubtful
from pipeline.clients.batch import BatchesOpen, BatchLimits
from pipeline.clients.opening import opened
from pipeline.engine import Budget, BudgetSpent, EngineError, Refused
from pipeline.ledger import Entry, Ledger, request_key
from pipeline.recipe import ModelConfig
from tests.servers.endpoint import Endpoint, endpoint

ROOT = Path(__file__).parents[2]
QUICK = BatchLimits(quiet=0.05, poll=0.02, longest_poll=0.1, patience=3.0, doubt=0.4)
LEAVING = QUICK._replace(wait=False)


@pytest.fixture(scope="module")
def server() -> Iterator[Endpoint]:
    with endpoint(batch_delay=0.1, retry_after=0.02) as running:
        yield running


@pytest.fixture(autouse=True)
def _reset(server: Endpoint) -> None:
    server.reset()


def body(i: int, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": f"How do I bake bread number {i}?"}], "seed": i, **more}


def run(
    server: Endpoint,
    ledger: Path,
    bodies: list[dict[str, Any]] | None = None,
    *,
    batch: bool = True,
    limits: BatchLimits = QUICK,
    budget: Budget | None = None,
    return_exceptions: bool = False,
    before: Callable[[], Any] | None = None,
    **config: Any,
) -> list[Any]:
    """The texts of the answers to requests that are asked all at once."""
    settings = {"engine": "openai", "base_url": (server.base_url,), "model": "toy-comply", "batch": batch} | config

    async def ask() -> list[Any]:
        async with opened(ledger, budget or Budget(), limits) as clients:
            if before is not None:
                clients.checks.append(before)
            client = clients.open(ModelConfig(**settings))
            asked = (client.ask(one, asker="unaligned") for one in bodies or [body(i) for i in range(60)])
            answers = await asyncio.gather(*asked, return_exceptions=return_exceptions)
            return [answer if isinstance(answer, BaseException) else answer.text for answer in answers]

    return asyncio.run(ask())


def created(server: Endpoint) -> int:
    """How often the server was asked to begin a batch."""
    return sum(record.method == "POST" and record.path == "/v1/batches" for record in server.log())


def looked_at(server: Endpoint) -> bool:
    return any(record.path == "/v1/batches/batch_0" for record in server.log())


def sizes(server: Endpoint) -> list[int]:
    """How many lines of each batch were answered."""
    names = [record.batch for record in server.log() if record.batch]
    return [names.count(name) for name in dict.fromkeys(names)]


def paid_once(server: Endpoint, count: int = 60) -> bool:
    answered = server.answered()
    return len(answered) == count and set(answered.values()) == {1}


def nothing_open(ledger: Path) -> bool:
    with sqlite3.connect(ledger) as db:
        counts = [db.execute(f"SELECT COUNT(*) FROM {name}").fetchone()[0] for name in ("batches", "batched")]
    return counts == [0, 0]


def test_a_batch_ends_in_the_answers_of_direct_requests(server: Endpoint, tmp_path: Path) -> None:
    direct = run(server, tmp_path / "direct", batch=False)
    server.reset()
    batched = run(server, tmp_path / "batched")
    assert batched == direct
    assert (created(server), sizes(server)) == (1, [60])
    assert paid_once(server)
    assert nothing_open(tmp_path / "batched")
    with Ledger(tmp_path / "direct") as one, Ledger(tmp_path / "batched") as other:
        assert not other.verify()
        kept = [[(key, e._replace(latency=None, time=0)) for key, e in ledger.entries()] for ledger in (one, other)]
        assert kept[0] == kept[1]
    asked = len(server.log())
    assert run(server, tmp_path / "batched", batch=False) == direct
    assert run(server, tmp_path / "direct") == direct
    assert len(server.log()) == asked, "either has what the other asked"


def test_completions_and_chats_go_in_batches_of_their_own(server: Endpoint, tmp_path: Path) -> None:
    prompts: list[dict[str, Any]] = [{"prompt": f"Bread \u2028 number {i} is", "max_tokens": 20} for i in range(3)]
    both = [*prompts, *(body(i) for i in range(3))]
    assert run(server, tmp_path / "l", both) == run(server, tmp_path / "direct", both, batch=False)
    assert created(server) == 2


def test_a_batch_is_no_larger_than_it_may_be(server: Endpoint, tmp_path: Path) -> None:
    run(server, tmp_path / "l", limits=QUICK._replace(requests=25))
    assert sorted(sizes(server)) == [10, 25, 25]
    server.reset()
    run(server, tmp_path / "m", limits=QUICK._replace(size=5_000))
    line = json.dumps({"custom_id": "0" * 64, "method": "POST", "url": "/v1/chat/completions", "body": body(10)})
    assert sum(sizes(server)) == 60
    assert 2 < max(sizes(server)) * len(line) < 5_500


def test_what_comes_late_goes_in_the_next_batch(server: Endpoint, tmp_path: Path) -> None:
    async def ask() -> None:
        config = ModelConfig(engine="openai", base_url=(server.base_url,), model="toy-comply", batch=True)
        async with opened(tmp_path / "l", Budget(), QUICK) as clients:
            client = clients.open(config)
            first = asyncio.ensure_future(client.ask(body(0), asker="a"))
            same = asyncio.ensure_future(client.ask(body(0), asker="a"))
            await asyncio.sleep(0.1)
            await client.ask(body(1), asker="a")
            assert await first == await same

    asyncio.run(ask())
    assert created(server) == 2
    assert paid_once(server, 2)


# What goes wrong


@pytest.mark.parametrize("fault", ["expired", "gaps", "empty"])
def test_what_a_batch_left_unanswered_goes_in_the_next(server: Endpoint, tmp_path: Path, fault: str) -> None:
    server.set(batch_fault=fault)
    answers = run(server, tmp_path / "l")
    assert sizes(server) == ([60, 30] if fault == "empty" else [30, 30])
    server.reset()
    assert answers == run(server, tmp_path / "direct", batch=False)
    assert nothing_open(tmp_path / "l")


def test_an_answer_in_doubt_is_asked_for_once_more(server: Endpoint, tmp_path: Path) -> None:
    doubts = []

    async def ask() -> None:
        config = ModelConfig(engine="openai", base_url=(server.base_url,), model="toy-comply", batch=True)
        async with opened(tmp_path / "l", Budget(), QUICK) as clients:
            client = clients.open(config)
            calm = client.ask(body(0), asker="a", doubt=lambda answer: None)
            odd = client.ask(body(1), asker="a", doubt=lambda answer: doubts.append(answer) or Doubtful("it is odd"))  # type: ignore[func-returns-value]
            assert (await asyncio.gather(calm, odd))[1] == doubts[0]

    asyncio.run(ask())
    assert len(doubts) == 1
    assert sizes(server) == [2, 1]


def test_errors_of_lines_are_tried_again(server: Endpoint, tmp_path: Path) -> None:
    server.set(faults="500", fault_share=0.4, fault_times=3)
    answers = run(server, tmp_path / "l")
    assert 2 <= created(server) <= 4
    assert paid_once(server)
    server.reset()
    assert answers == run(server, tmp_path / "direct", batch=False)


def test_errors_that_never_end_end_the_run(server: Endpoint, tmp_path: Path) -> None:
    server.set(faults="500", fault_share=1, fault_times=1000)
    with pytest.raises(EngineError, match=r"gave no answer that can be used in 3 batches; the last time: HTTP 500: "):
        run(server, tmp_path / "l", limits=QUICK._replace(tries=3))
    assert created(server) == 3


def test_a_server_that_stumbles_over_files_and_batches_is_paid_nothing_twice(server: Endpoint, tmp_path: Path) -> None:
    broken = "500, 429, reset, truncated, html-200, refused"
    server.set(faults=broken, fault_share=0.6, fault_times=4, fault_paths="/v1/(files|batches)")
    run(server, tmp_path / "l", limits=QUICK._replace(requests=10, patience=20.0))
    assert {record.fault for record in server.log()} - {None}
    assert paid_once(server)


def test_refused_rows_are_told_and_asked_again_in_a_later_run(server: Endpoint, tmp_path: Path) -> None:
    for number in range(2):
        answers = run(server, tmp_path / "l", [body(0), body(1, n=2), body(2)], return_exceptions=True)
        assert isinstance(answers[1], Refused)
        assert str(answers[1]).startswith("HTTP 400: This server streams nothing")
        assert [isinstance(answer, str) for answer in answers] == [True, False, True]
        assert created(server) == 1 + number


def test_a_model_that_may_not_be_asked_in_batches_ends_the_run(server: Endpoint, tmp_path: Path) -> None:
    with pytest.raises(
        EngineError,
        match=r"'nope' be asked in a batch\. .* has no model 'nope'.*HTTP 404: The model",
    ):
        run(server, tmp_path / "l", model="nope")
    assert created(server) == 1


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("invalid", r"did not begin the batch batch_0: Enqueued token limit reached .*\. Nothing of it was answered"),
        ("refused", r"takes no batch \(HTTP 400\): Billing hard limit has been reached\. Every answer"),
    ],
)
def test_a_batch_that_is_not_begun_says_why(server: Endpoint, tmp_path: Path, fault: str, said: str) -> None:
    server.set(batch_fault=fault)
    with pytest.raises(EngineError, match=said):
        run(server, tmp_path / "l")
    assert created(server) == 1
    assert nothing_open(tmp_path / "l")
    run(server, tmp_path / "l")
    assert paid_once(server)


def test_half_a_file_is_not_taken_for_the_whole(server: Endpoint, tmp_path: Path) -> None:
    server.set(faults="truncated", fault_share=1, fault_times=2, fault_paths="/v1/files/.*/content", batch_delay=0)
    run(server, tmp_path / "l", [body(0), body(1)], model="judge-json")
    cut = [record for record in server.log() if record.fault == "truncated"]
    assert len(cut) == 2
    with client_of(server) as client:
        content = client.files.content(cut[0].path.split("/")[3]).content
    assert content[: len(content) // 2].endswith(b"\n"), "only their number shows that lines are missing"
    assert paid_once(server, 2)


def test_a_server_without_a_batch_api_says_so(server: Endpoint, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"has no batch API.*Say batch: false"):
        run(server, tmp_path / "l", base_url=(f"{server.base_url}/elsewhere",))


def test_a_key_that_is_refused_says_so(server: Endpoint, tmp_path: Path) -> None:
    server.set(api_key="another")
    with pytest.raises(EngineError, match=r"refuses the key \(HTTP 401\)"):
        run(server, tmp_path / "l")


def test_a_server_that_never_answers_is_given_up(server: Endpoint, tmp_path: Path) -> None:
    server.set(faults="500", fault_share=1, fault_times=1000, fault_paths="/v1/files")
    with pytest.raises(EngineError, match=r"gave no answer about a batch for 0\.5 s; the last time: HTTP 500"):
        run(server, tmp_path / "l", limits=QUICK._replace(patience=0.5))
    assert not created(server)


def test_a_batch_that_somebody_cancelled_is_not_submitted_again_by_itself(server: Endpoint, tmp_path: Path) -> None:
    server.set(batch_delay=1.0)
    with pytest.raises(BatchesOpen):
        run(server, tmp_path / "l", limits=LEAVING)
    time.sleep(0.5)
    with client_of(server) as client:
        client.batches.cancel("batch_0")
    with pytest.raises(EngineError, match=r"The batch batch_0 at .* was cancelled; what it had answered"):
        run(server, tmp_path / "l")
    assert created(server) == 1
    assert 0 < sum(sizes(server)) < 60
    run(server, tmp_path / "l")
    assert paid_once(server)


def client_of(server: Endpoint) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.base_url, api_key="any", max_retries=0)


# Leaving, and coming back


def test_leaving_at_once_and_coming_back(server: Endpoint, tmp_path: Path) -> None:
    server.set(batch_delay=1.5)
    began = time.monotonic()
    for _ in range(2):
        with pytest.raises(BatchesOpen) as left:
            run(server, tmp_path / "l", limits=LEAVING)
        assert str(left.value) == (
            f"60 requests are in 1 batch at {server.base_url}; run the same command again to collect them."
        )
    assert time.monotonic() - began < 1.4, "it waited"
    time.sleep(1.5)
    assert len(set(run(server, tmp_path / "l", limits=LEAVING))) == 60
    assert not [record for record in server.log() if (record.method, record.path) == ("GET", "/v1/batches")]
    assert created(server) == 1
    assert paid_once(server)
    assert nothing_open(tmp_path / "l")


def test_leaving_sends_what_is_new_and_nothing_else(server: Endpoint, tmp_path: Path) -> None:
    server.set(batch_delay=1.0)
    with pytest.raises(BatchesOpen):
        run(server, tmp_path / "l", [body(i) for i in range(40)], limits=LEAVING)
    with pytest.raises(BatchesOpen, match="60 requests are in 2 batches at"):
        run(server, tmp_path / "l", limits=LEAVING)
    run(server, tmp_path / "l")
    assert sizes(server) == [40, 20]
    assert paid_once(server)


def test_two_clients_leave_with_one_message(server: Endpoint, tmp_path: Path) -> None:
    server.set(batch_delay=0.5)

    async def ask(limits: BatchLimits) -> None:
        async with opened(tmp_path / "l", Budget(), limits) as clients:
            askers = []
            for model in ("toy-comply", "toy-refuse"):
                config = ModelConfig(engine="openai", base_url=(server.base_url,), model=model, batch=True)
                client = clients.open(config)
                askers += [client.ask(body(i), asker=model) for i in range(20)]
            await asyncio.gather(*askers)

    with pytest.raises(BatchesOpen, match="40 requests are in 2 batches at"):
        asyncio.run(ask(LEAVING))
    asyncio.run(ask(QUICK))
    assert created(server) == 2
    assert paid_once(server, 40)


def test_answers_that_nobody_asks_for_any_more_are_kept(server: Endpoint, tmp_path: Path) -> None:
    with pytest.raises(BatchesOpen):
        run(server, tmp_path / "l", limits=LEAVING)
    run(server, tmp_path / "l", [body(7)])
    with Ledger(tmp_path / "l") as ledger:
        assert len(list(ledger.entries())) == 60
        assert not ledger.verify()


def test_a_batch_that_the_server_does_not_know_yet_is_waited_for(server: Endpoint, tmp_path: Path) -> None:
    server.set(batch_fault="late")
    run(server, tmp_path / "l")
    assert 404 in {record.status for record in server.log()}
    assert created(server) == 1
    assert paid_once(server)


def test_a_batch_that_the_server_lost_is_sent_again(server: Endpoint, tmp_path: Path) -> None:
    server.set(batch_fault="lost")
    run(server, tmp_path / "l")
    assert created(server) == 2
    assert paid_once(server)
    assert nothing_open(tmp_path / "l")


def test_a_batch_is_waited_for_where_it_is_while_the_recipe_names_that_server(server: Endpoint, tmp_path: Path) -> None:
    server.set(batch_delay=0.5)
    for ledger in ("moved", "gone"):
        with pytest.raises(BatchesOpen):
            run(server, tmp_path / ledger, limits=LEAVING)
    with endpoint(batch_delay=0.05) as other:
        run(server, tmp_path / "moved", base_url=(other.base_url, server.base_url))
        assert created(other) == 0
        run(server, tmp_path / "gone", base_url=(other.base_url,))
        assert paid_once(other)
    assert created(server) == 2


SCRIPT = """
import asyncio, sys
from pathlib import Path
from pipeline.clients.batch import BatchesOpen
from pipeline.clients.opening import opened
from pipeline.engine import Budget
from pipeline.recipe import ModelConfig
from tests.clients.test_batch import QUICK, body

async def run():
    config = ModelConfig(engine="openai", base_url=(sys.argv[1],), model="toy-comply", batch=True)
    doubt, requests = float(sys.argv[3]), int(sys.argv[4])
    limits = QUICK._replace(doubt=doubt, requests=requests, tries=50, patience=30.0)
    async with opened(Path(sys.argv[2]), Budget(), limits) as clients:
        client = clients.open(config)
        await asyncio.gather(*(client.ask(body(i), asker="a") for i in range(60)))

try:
    asyncio.run(run())
except BatchesOpen as left:
    print(left)
"""


def start(server: Endpoint, ledger: Path, *, doubt: float = 30.0, requests: int = 60) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SCRIPT, server.base_url, str(ledger), str(doubt), str(requests)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def until(holds: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.01)


def keys() -> list[bytes]:
    fields = {"engine": "openai", "server": None, "revision": None, "template": None, "attempt": 0}
    return [request_key({**fields, "body": {"model": "toy-comply", **body(i)}}) for i in range(60)]


def test_a_killed_run_collects_its_batch_and_submits_nothing_again(server: Endpoint, tmp_path: Path) -> None:
    server.set(batch_delay=1.5)
    with start(server, tmp_path / "l") as process:
        until(lambda: looked_at(server))
        process.kill()
    assert len(set(run(server, tmp_path / "l"))) == 60
    assert created(server) == 1
    assert paid_once(server)


def test_a_run_that_is_killed_before_it_was_told_of_its_batch_finds_it(server: Endpoint, tmp_path: Path) -> None:
    server.set(batch_fault="stuck", batch_delay=0.3)
    with start(server, tmp_path / "l") as process:
        until(lambda: created(server) == 1)
        process.kill()
    with Ledger(tmp_path / "l") as ledger:
        (name,) = {ledger.batch_of(key, [server.base_url]) for key in keys()}
        assert name
        batch = ledger.batch(name)
        assert batch
        assert (batch.id, batch.keys) == (None, tuple(sorted(keys())))
    of_others(server, 150)
    run(server, tmp_path / "l")
    assert created(server) == 151
    assert paid_once(server)


def of_others(server: Endpoint, count: int) -> None:
    """Fill the server's list of batches, so that what is looked for stands on its second page."""
    with client_of(server) as client:
        file = client.files.create(file=("in.jsonl", b"not for us\n"), purpose="batch")
        for _ in range(count):
            client.batches.create(input_file_id=file.id, endpoint="/v1/completions", completion_window="24h")


def test_a_run_that_is_killed_again_and_again_pays_for_nothing_twice(server: Endpoint, tmp_path: Path) -> None:
    paths = "/v1/(files|batches|chat/completions)"
    faults = {"faults": "500, reset, truncated, 429-bare", "fault_share": 0.6, "fault_times": 4, "fault_paths": paths}
    server.set(batch_delay=0.8, **faults)
    rng = random.Random(1)
    for _ in range(6):
        before = len(server.log())
        with start(server, tmp_path / "l", doubt=1.0, requests=8) as process:
            until(lambda: len(server.log()) > before or process.poll() is not None)  # noqa: B023
            time.sleep(rng.uniform(0.0, 0.6))
            process.kill()
    assert len(set(run(server, tmp_path / "l", limits=QUICK._replace(doubt=1.0, tries=50, patience=30.0)))) == 60
    assert paid_once(server)
    assert nothing_open(tmp_path / "l")


def test_an_answer_that_does_not_say_whether_a_batch_was_begun_is_looked_into(server: Endpoint, tmp_path: Path) -> None:
    server.set(batch_fault="unanswered")
    run(server, tmp_path / "l")
    assert created(server) == 1
    assert paid_once(server)


def test_a_batch_that_was_planned_and_never_begun_is_given_time_and_then_submitted(
    server: Endpoint, tmp_path: Path
) -> None:
    with Ledger(tmp_path / "l") as ledger:
        blank = Entry("a", "toy-comply", {}, "")
        ledger.plan_batch("planned", server.base_url, "file-99", [(key, blank) for key in keys()])
    began = time.monotonic()
    run(server, tmp_path / "l")
    assert time.monotonic() - began > 0.3
    assert created(server) == 1
    assert paid_once(server)
    assert nothing_open(tmp_path / "l")


def test_an_interrupted_run_says_what_it_leaves(server: Endpoint, tmp_path: Path) -> None:
    server.set(batch_delay=2.0)
    with start(server, tmp_path / "l") as process:
        until(lambda: looked_at(server))
        process.send_signal(signal.SIGINT)
        said, errors = process.communicate(timeout=20)
    assert said == f"60 requests are in 1 batch at {server.base_url}; run the same command again to collect them.\n"
    assert not errors
    run(server, tmp_path / "l")
    assert created(server) == 1
    assert paid_once(server)


def test_two_runs_at_once_pay_for_a_batch_once(server: Endpoint, tmp_path: Path) -> None:
    server.set(batch_delay=1.5)
    with start(server, tmp_path / "l") as process:
        until(lambda: looked_at(server))
        assert len(set(run(server, tmp_path / "l"))) == 60
        assert process.wait(timeout=20) == 0
    assert created(server) == 1
    assert paid_once(server)


# Budgets, and what comes before


def test_the_requests_that_are_allowed_are_submitted_and_collected(server: Endpoint, tmp_path: Path) -> None:
    for done in ([20], [20, 20]):
        budget = Budget(20)
        with pytest.raises(BudgetSpent, match="allowed by --max-requests were sent"):
            run(server, tmp_path / "l", budget=budget)
        assert budget.spent == 20
        assert sizes(server) == done
    run(server, tmp_path / "l")
    assert paid_once(server)


def test_a_budget_and_no_time_to_wait(server: Endpoint, tmp_path: Path) -> None:
    server.set(batch_delay=0.5)
    said = r"allowed by --max-requests were sent\..* 20 requests are in 1 batch at"
    with pytest.raises(BatchesOpen, match=said):
        run(server, tmp_path / "l", budget=Budget(20), limits=LEAVING)
    run(server, tmp_path / "l", budget=Budget(40))
    assert sizes(server) == [20, 40]
    assert paid_once(server)


def test_the_cost_of_what_is_submitted_is_reserved(server: Endpoint, tmp_path: Path) -> None:
    server.set(words=30)
    price = {"prompt": 0.0, "completion": 1_000_000.0}
    bodies = [body(i, max_tokens=100) for i in range(60)]
    budget = Budget(cost=2_500.0)
    with pytest.raises(BudgetSpent, match=r"that may be spent is spent \(--max-cost\)"):
        run(server, tmp_path / "l", bodies, budget=budget, price=price)
    assert sizes(server)[0] == 25
    with Ledger(tmp_path / "l") as ledger:
        spent = sum(entry.completion_tokens or 0 for _, entry in ledger.entries())
    assert 2_400 < spent <= 2_500
    assert budget.cost == spent
    run(server, tmp_path / "l", bodies)
    assert paid_once(server)


def test_checks_come_before_what_is_submitted_and_only_there(server: Endpoint, tmp_path: Path) -> None:
    checked: list[int] = []

    async def check() -> None:
        checked.append(created(server))

    run(server, tmp_path / "l", limits=QUICK._replace(requests=20), before=check)
    assert checked == [0]
    run(server, tmp_path / "l", before=check)
    assert checked == [0]


# Whole builds

RECIPE = """
name: served
sources:
  harmful: [{bundled: demo}]
  benign: [{bundled: demo}]
samplers:
  unaligned: {engine: openai, base_url: "URL", model: toy-comply, max_tokens: 2000, batch: true}
  overcautious: {engine: openai, base_url: "URL", model: toy-refuse, max_tokens: 2000, batch: true}
mixture:
  harmful: {rows: 50, prefill: {sampler: unaligned, words: 100, min_words: 40}}
  benign: {rows: 50, prefill: {sampler: overcautious, words: 100, min_words: 40}}
"""


def command(server: Endpoint, folder: Path, *options: str) -> list[str]:
    folder.mkdir(exist_ok=True)
    (folder / "served.yaml").write_text(RECIPE.replace("URL", server.base_url))
    return [sys.executable, "-m", "pipeline.cli", "build", "served.yaml", "--json", *options]


def build(server: Endpoint, folder: Path, *options: str) -> Any:
    done = subprocess.run(command(server, folder, *options), cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_build_in_batches_is_the_build_without(server: Endpoint, tmp_path: Path) -> None:
    batched = build(server, tmp_path / "batched")
    assert created(server) == 2
    assert paid_once(server, 50)
    server.reset()
    off = [option for name in ("unaligned", "overcautious") for option in ("--set", f"samplers.{name}.batch=false")]
    direct = build(server, tmp_path / "direct", *off)
    assert not created(server)
    assert direct["fingerprint"] == batched["fingerprint"]


def test_an_interrupted_build_comes_back_to_its_batches(server: Endpoint, tmp_path: Path) -> None:
    server.set(batch_delay=6.0)
    folder = tmp_path / "build"
    with subprocess.Popen(
        command(server, folder), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        until(lambda: created(server) == 2)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 1, errors
    assert f"recap-data: 50 requests are in 2 batches at {server.base_url}; run the same command again" in errors
    assert "Traceback" not in errors
    build(server, folder)
    assert created(server) == 2
    assert paid_once(server, 50)
