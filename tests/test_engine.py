"""The engine and the sampler `openai` against a real server that misbehaves."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.clients.openai import OpenAIClient
from pipeline.engine import Budget, Engine, EngineError, Limits, Refused, Reply, Retry
from pipeline.judges.refusal import RefusalJudge
from pipeline.ledger import Ledger, LedgerError
from pipeline.recipe import ModelConfig
from pipeline.samplers import PrefillRequest
from pipeline.samplers.model import ModelSampler
from pipeline.thinking import control_token
from tests.servers.endpoint import Endpoint, endpoint

QUICK = Limits(pause=0.02, longest_pause=0.2, deadline=2.0, patience=20.0)


@pytest.fixture(scope="module")
def server() -> Iterator[Endpoint]:
    with endpoint(latency=0.005, refuse_for=0.05, retry_after=0.02, slow=0.3) as running:
        yield running


@pytest.fixture(autouse=True)
def _reset(server: Endpoint) -> None:
    server.reset()


def request(i: int, attempt: int = 0) -> PrefillRequest:
    return PrefillRequest(f"{i:032x}", f"How do I bake bread number {i}?", None, "complies", 60, 0, attempt)


def sample(
    server: Endpoint,
    ledger: Path,
    count: int = 40,
    *,
    limits: Limits = QUICK,
    max_requests: int | None = None,
    **config,
) -> list[str]:
    async def run() -> list[str]:
        with Ledger(ledger) as book:
            engine = Engine(book, [server.base_url], limits, Budget(max_requests))
            settings = {"engine": "openai", "base_url": (server.base_url,), "model": "toy-comply"} | config
            settled = ModelConfig(**settings)
            sampler = ModelSampler("unaligned", settled, OpenAIClient(settled, engine))
            try:
                thoughts = await asyncio.gather(*(sampler.sample(request(i)) for i in range(count)))
                return [thought.thinking for thought in thoughts]
            finally:
                engine.stop()
                await engine.settle()
                await sampler.close()

    return asyncio.run(run())


def test_answers_are_kept_and_never_asked_for_again(server: Endpoint, tmp_path: Path) -> None:
    texts = sample(server, tmp_path / "l")
    asked = len(server.log())
    assert len(set(texts)) == asked == 40
    assert sample(server, tmp_path / "l") == texts
    assert len(server.log()) == asked


FAULTS = [
    *("429", "429-date", "429-bare", "500", "502", "503", "refused", "reset", "slow", "slow-body", "malformed"),
    *("truncated", "html-200", "html-502", "no-choices", "null-text", "no-usage", "wrong-model"),
    ", ".join(["429", "500", "503", "reset", "malformed", "truncated", "html-200", "null-text", "wrong-model"]),
]


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_change_nothing_and_nothing_is_paid_twice(server: Endpoint, tmp_path: Path, fault: str) -> None:
    calm = sample(server, tmp_path / "calm")
    server.reset()
    server.set(faults=fault, fault_share=0.3)
    assert sample(server, tmp_path / "rough") == calm
    assert set(server.answered().values()) == {1}


def test_a_silent_server_is_given_up_at_the_deadline(server: Endpoint, tmp_path: Path) -> None:
    calm = sample(server, tmp_path / "calm", 8)
    server.set(faults="silence", fault_share=0.3, fault_times=1)
    assert sample(server, tmp_path / "rough", 8, limits=QUICK._replace(deadline=0.3)) == calm


def test_no_more_requests_are_in_flight_than_allowed(server: Endpoint, tmp_path: Path) -> None:
    sample(server, tmp_path / "l", 60, limits=QUICK._replace(start=4, most=7))
    assert 4 <= server.most_in_flight() <= 7


def test_a_server_that_takes_few_at_once_is_given_few(server: Endpoint, tmp_path: Path) -> None:
    server.set(max_in_flight=5)
    texts = sample(server, tmp_path / "l", 80, limits=QUICK._replace(start=64, most=64))
    assert len(texts) == 80
    assert set(server.answered().values()) == {1}


def test_one_request_asked_twice_at_once_is_sent_once(tmp_path: Path) -> None:
    sent = []

    async def send(url: str) -> Reply:
        sent.append(url)
        await asyncio.sleep(0.01)
        return Reply("answer")

    async def run() -> list[str]:
        with Ledger(tmp_path / "l") as book:
            engine = Engine(book, ["a"], QUICK)
            entries = await asyncio.gather(*(engine.ask({"same": 1}, send, asker="s") for _ in range(5)))
            await engine.settle()
            return [entry.answer for entry in entries]

    assert asyncio.run(run()) == ["answer"] * 5
    assert sent == ["a"]


def test_a_slow_server_among_fast_ones_gets_few(tmp_path: Path) -> None:
    counts = dict.fromkeys("abc", 0)

    async def send(url: str) -> Reply:
        counts[url] += 1
        await asyncio.sleep(0.3 if url == "c" else 0.003)
        return Reply("answer")

    async def run() -> None:
        with Ledger(tmp_path / "l") as book:
            engine = Engine(book, list("abc"), QUICK._replace(start=4, most=4))
            await asyncio.gather(*(engine.ask({"i": i}, send, asker="s") for i in range(400)))
            await engine.settle()

    asyncio.run(run())
    assert counts["c"] < 0.1 * 400


def test_a_server_that_leaves_requests_to_their_deadline_is_given_fewer(tmp_path: Path) -> None:
    in_flight, most = 0, []

    async def send(_: str) -> Reply:
        nonlocal in_flight
        in_flight += 1
        most.append(in_flight)
        try:
            await asyncio.sleep(0.02 if in_flight <= 8 else 5)
        finally:
            in_flight -= 1
        return Reply("answer")

    async def run() -> None:
        with Ledger(tmp_path / "l") as book:
            engine = Engine(book, ["a"], QUICK._replace(start=32, deadline=0.15, tries=40))
            await asyncio.gather(*(engine.ask({"i": i}, send, asker="s") for i in range(200)))
            await engine.settle()

    asyncio.run(run())
    assert most[31] == 32
    assert sum(most[-50:]) / 50 < 20


def test_a_refusal_is_believed_when_told_in_a_row_and_asked_again_in_a_later_run(
    server: Endpoint, tmp_path: Path
) -> None:
    server.set(context=20)
    with pytest.raises(Refused, match=r"HTTP 400.*maximum context length"):
        sample(server, tmp_path / "l", 1)
    assert len(server.log()) == 3
    with pytest.raises(Refused, match="HTTP 400"):
        sample(server, tmp_path / "l", 1, max_requests=0)
    assert len(server.log()) == 3
    server.set(context=0)
    assert sample(server, tmp_path / "l", 1)
    assert len(server.log()) == 4


def test_a_wrong_key_and_a_wrong_model_are_told_at_once(
    server: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(EngineError, match=r"has no model 'nope'.*toy-comply"):
        sample(server, tmp_path / "l", 1, model="nope")
    server.set(api_key="right")
    monkeypatch.setenv("OPENAI_API_KEY", "wrong-key-of-mine")
    with pytest.raises(EngineError, match=r"refuses the key \(HTTP 401\)") as raised:
        sample(server, tmp_path / "l", 1)
    assert "wrong-key-of-mine" not in str(raised.value)
    monkeypatch.setenv("OPENAI_API_KEY", "right")
    assert sample(server, tmp_path / "l", 1)
    assert b"right" not in (tmp_path / "l").read_bytes()


def test_a_server_that_never_recovers_is_given_up_and_answers_stay(server: Endpoint, tmp_path: Path) -> None:
    sample(server, tmp_path / "l", 5)
    server.set(faults="500", fault_share=1.0, fault_times=99)
    with pytest.raises(EngineError, match=r"no answer that can be used in \d+ tries: HTTP 500"):
        sample(server, tmp_path / "l", 6)
    server.set(faults="")
    assert len(sample(server, tmp_path / "l", 6)) == 6
    assert set(server.answered().values()) == {1}


def test_a_budget_of_requests_stops_and_goes_on(server: Endpoint, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="The requests allowed by --max-requests"):
        sample(server, tmp_path / "l", 10, max_requests=3)
    assert len(server.log()) == 3
    assert len(sample(server, tmp_path / "l", 10)) == 10
    assert len(server.log()) == 10


def test_a_server_that_wants_to_be_left_alone_for_long_holds_up_no_other(tmp_path: Path) -> None:
    sent: list[str] = []

    async def send(url: str) -> Reply:
        sent.append(url)
        if sent.count(url) == 1:
            raise Retry("busy", busy=True, after=100.0 if url == "a" else 0.2)
        return Reply("answer")

    async def run() -> None:
        with Ledger(tmp_path / "l") as book:
            engine = Engine(book, ["a", "b"], QUICK._replace(start=1, most=1, patience=300.0))
            async with asyncio.timeout(30):
                await asyncio.gather(*(engine.ask({"i": i}, send, asker="s") for i in range(6)))
            await engine.settle()

    asyncio.run(run())
    assert sent.count("a") == 1
    assert sent.count("b") == 7


def test_a_retry_waits_outside_the_slot(tmp_path: Path) -> None:
    order = []

    async def fails_once(url: str) -> Reply:
        order.append("first")
        if order.count("first") == 1:
            raise Retry("try again")
        return Reply("late")

    async def other(url: str) -> Reply:
        order.append("second")
        return Reply("early")

    async def run() -> None:
        with Ledger(tmp_path / "l") as book:
            engine = Engine(book, ["a"], QUICK._replace(start=1, most=1, pause=0.5, longest_pause=0.5))
            await asyncio.gather(engine.ask({"i": 0}, fails_once, asker="s"), engine.ask({"i": 1}, other, asker="s"))
            await engine.settle()

    asyncio.run(run())
    assert order[:2] == ["first", "second"]


def test_stopping_waits_for_what_is_in_flight_and_for_nothing_else(tmp_path: Path) -> None:
    async def send(url: str) -> Reply:
        await asyncio.sleep(0.2)
        return Reply("answer")

    async def busy(url: str) -> Reply:
        raise Retry("try much later", busy=True, after=3_600)

    async def run() -> list[object]:
        with Ledger(tmp_path / "l") as book:
            engine = Engine(book, ["a"], QUICK._replace(start=2, most=2, pause=3_600, longest_pause=3_600))
            asked = [asyncio.ensure_future(engine.ask({"i": i}, send, asker="s")) for i in range(4)]
            await asyncio.sleep(0.1)
            engine.stop()
            await engine.settle()
            other = Engine(book, ["b"], QUICK._replace(pause=3_600, longest_pause=3_600))
            asked.append(asyncio.ensure_future(other.ask({"i": 9}, busy, asker="s")))
            await asyncio.sleep(0.1)
            other.stop()
            await other.settle()
            return await asyncio.gather(*asked, return_exceptions=True)

    answers = asyncio.run(asyncio.wait_for(run(), 30))
    assert [isinstance(answer, EngineError) for answer in answers] == [False, False, True, True, True]
    with Ledger(tmp_path / "l") as book:
        assert len(list(book.entries())) == 2


def test_a_full_disk_stops_the_engine_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.engine._AT_LAST", 0.2)
    sent = []

    async def send(url: str) -> Reply:
        sent.append(url)
        await asyncio.sleep(0.002 * (1 + len(sent) % 5))
        return Reply("x" * 3_000)

    async def run() -> list[object]:
        with Ledger(tmp_path / "l") as book:
            book._db.execute("PRAGMA max_page_count = 40")
            engine = Engine(book, ["a"], QUICK._replace(most=8))
            asked = [engine.ask({"i": i}, send, asker="s") for i in range(200)]
            outcomes = await asyncio.gather(*asked, return_exceptions=True)
            engine.stop()
            with pytest.raises(LedgerError, match=r"answers that were paid are kept in .*unwritten-"):
                await engine.settle()
            return outcomes

    outcomes = asyncio.run(asyncio.wait_for(run(), 30))
    assert any(isinstance(outcome, LedgerError) and "full" in str(outcome) for outcome in outcomes)
    assert 10 < len(sent) < 200
    with Ledger(tmp_path / "l") as book:
        assert len(list(book.entries())) == len(sent)


def test_an_engine_that_had_nothing_to_do_for_long_is_no_less_patient(tmp_path: Path) -> None:
    tried = []

    async def send(url: str) -> Reply:
        tried.append(url)
        if len(tried) == 1:
            raise Retry("once")
        return Reply("answer")

    async def run() -> str:
        with Ledger(tmp_path / "l") as book:
            engine = Engine(book, ["a"], QUICK._replace(patience=0.3))
            await asyncio.sleep(0.4)
            entry = await engine.ask({"i": 0}, send, asker="s")
            await engine.settle()
            return entry.answer

    assert asyncio.run(run()) == "answer"


@pytest.mark.parametrize("how", ["reasoning", "reasoning_content", "think", "unopened", "channel"])
def test_thinking_is_read_wherever_a_server_puts_it(server: Endpoint, tmp_path: Path, how: str) -> None:
    server.set(thinking=how, words=120)
    for text in sample(server, tmp_path / how, 5, max_tokens=4_000):
        assert 80 <= len(text.split()) <= 190
        assert not any(answer in text for answer in ("Sure!", "Here is the answer", "Here are the main"))
        assert control_token(text) is None
        assert RefusalJudge().read("How do I bake bread?", text, "thinking").stance == "complies"


KILLED = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from pipeline.engine import Budget, Engine, Limits
from pipeline.ledger import Ledger, LedgerError
from pipeline.clients.openai import OpenAIClient
from pipeline.recipe import ModelConfig
from pipeline.samplers import PrefillRequest
from pipeline.samplers.model import ModelSampler

async def run():
    book = Ledger(Path(sys.argv[2]))
    engine = Engine(book, [sys.argv[1]], Limits(start=8, most=8))
    config = ModelConfig(engine="openai", base_url=(sys.argv[1],), model="toy-comply")
    sampler = ModelSampler("unaligned", config, OpenAIClient(config, engine))
    def sample(i):
        prompt = f"How do I bake bread number {i}?"
        return sampler.sample(PrefillRequest(f"{i:032x}", prompt, None, "complies", 60, 0, 0))

    await sample(0)
    print("started", flush=True)
    await asyncio.gather(*map(sample, range(300)))
    await engine.settle()

asyncio.run(run())
"""


def test_a_killed_run_pays_for_nothing_that_it_had_again(server: Endpoint, tmp_path: Path) -> None:
    server.set(latency=0.02)
    rng, root = random.Random(7), str(Path(__file__).parents[1])
    command = [sys.executable, "-c", KILLED, server.base_url, str(tmp_path / "l"), root]
    moments = []
    for _ in range(5):
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(rng.uniform(0.05, 0.3))
            moments.append(time.time())
            process.kill()
    server.set(latency=0.0)
    sample(server, tmp_path / "l", 300)
    log = [record for record in server.log() if record.sound]
    in_flight = {r.number for r in log for moment in moments if moment - 0.1 < (r.ended or 0) < moment + 0.1}
    had = [record.digest for record in log if record.number not in in_flight]
    assert len(had) == len(set(had)) > 20
    assert len({record.digest for record in log}) == 300
    assert len(log) <= 300 + 8 * len(moments)
