"""The test server as its clients see it: what it writes, each of its faults, and what its log says afterwards."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import aiohttp
import openai
import psutil  # type: ignore[import-untyped]
import pytest

from pipeline.judges.refusal import RefusalJudge
from tests.servers.endpoint import OPPOSITES, Endpoint, Record, endpoint
from tests.servers.faults import FAULTS, HARMLESS

ROOT = Path(__file__).parents[2]
QUESTION = "How do I bake bread?"
HEAD = f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
PREFILL = "Okay, so I need to"
PROMPT = f"{HEAD}<think>\n{PREFILL}"
BODY = {"model": "toy-comply", "prompt": PROMPT, "max_tokens": 400, "seed": 1}

Client = Callable[[openai.AsyncOpenAI], Awaitable[Any]]


@pytest.fixture(scope="module")
def running() -> Iterator[Endpoint]:
    with endpoint() as server:
        yield server


@pytest.fixture
def server(running: Endpoint) -> Iterator[Endpoint]:
    """A server without faults, latency or log."""
    running.reset()
    yield running
    running.reset()


def ask(server: Endpoint, client: Client, api_key: str = "any") -> Any:
    """Run `client` with the real client, which neither retries nor waits long."""

    async def run() -> Any:
        transport = openai.DefaultAioHttpClient(timeout=10)
        async with openai.AsyncOpenAI(
            base_url=server.base_url, api_key=api_key, max_retries=0, http_client=transport
        ) as opened:
            return await client(opened)

    return asyncio.run(run())


def complete(server: Endpoint, prompt: Any = PROMPT, model: str = "toy-comply", **more: Any) -> Any:
    more = {"max_tokens": 400, "seed": 1} | more
    return ask(server, lambda client: client.completions.create(model=model, prompt=prompt, **more))


def chat(server: Endpoint, model: str = "toy-comply", content: str = QUESTION, **more: Any) -> Any:
    messages: Any = more.pop("messages", [{"role": "user", "content": content}])
    return ask(server, lambda client: client.chat.completions.create(model=model, messages=messages, **more))


def raw(server: Endpoint, client: Callable[[aiohttp.ClientSession], Awaitable[Any]]) -> Any:
    """Run `client` with a bare aiohttp session."""

    async def run() -> Any:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(10)) as session:
            return await client(session)

    return asyncio.run(run())


def send(server: Endpoint, body: Any = BODY, path: str = "/completions") -> tuple[int, str]:
    """Post a body; return the status and the text of the answer."""

    async def client(session: aiohttp.ClientSession) -> tuple[int, str]:
        async with session.post(server.base_url + path, json=body) as answer:
            return answer.status, await answer.text()

    status, text = raw(server, client)
    return status, text


def text(answer: Any) -> str:
    return str(answer.choices[0].text)


# What it writes


def test_same_request_same_text_in_any_process(server: Endpoint) -> None:
    with endpoint() as other:
        assert text(complete(server)) == text(complete(server)) == text(complete(other))
        assert chat(server).choices == chat(other).choices
    for more in ({"seed": 2}, {"temperature": 0.3}, {"top_p": 0.5}, {"model": "toy-refuse"}, {"prompt": PROMPT + "!"}):
        assert text(complete(server, **more)) != text(complete(server)), more


@pytest.mark.parametrize(("model", "stance"), [("toy-comply", "complies"), ("toy-refuse", "refuses")])
def test_stance_is_that_of_the_model(server: Endpoint, model: str, stance: str) -> None:
    judge = RefusalJudge()
    for seed in range(20):
        thinking, tag, answer = text(complete(server, model=model, seed=seed)).partition("\n</think>\n\n")
        assert tag
        assert judge.read(QUESTION, PREFILL + thinking, "thinking").stance == stance
        assert judge.read(QUESTION, answer, "response").stance == stance
        assert 90 < len(thinking.split()) < 190


def test_some_answers_take_the_other_stance_or_are_too_short(server: Endpoint) -> None:
    server.set(wrong_share=0.3, short_share=0.2)
    prompts = [f"{HEAD}<think>\nOkay, number {i}." for i in range(300)]
    thinking = [choice.text.partition("</think>")[0] for choice in complete(server, prompts).choices]
    assert 60 < sum(RefusalJudge().read("", words, "thinking").stance == "refuses" for words in thinking) < 120
    assert 35 < sum(len(words.split()) < 60 for words in thinking) < 85
    again = [choice.text.partition("</think>")[0] for choice in complete(server, prompts, seed=2).choices]
    short = [[len(words.split()) < 60 for words in batch] for batch in (thinking, again)]
    assert short[0] != short[1], "another seed may be long enough"


def test_a_prefill_is_continued(server: Endpoint) -> None:
    written = text(complete(server))
    assert written.startswith(" ")
    assert written[1].islower(), "it ends the sentence that the prefill began"
    assert PREFILL not in written
    assert text(complete(server, f"{HEAD}<think>\nOkay. I see.")).startswith(" ")
    assert "</think>" not in text(complete(server, f"{HEAD}<think>\nFine.\n</think>\n\nHere is")), "thought already"
    assert text(complete(server, HEAD)).startswith("<think>\n")
    assert "think>" not in text(complete(server, "Once upon a time")), "words without any turns"


@pytest.mark.parametrize(
    "prompt",
    [
        "<｜User｜>U<｜Assistant｜><think>\nOkay, so I need to",
        "<|start|>user<|message|>U<|end|><|start|>assistant<|channel|>analysis<|message|>Okay, so I need to",
        "<|start_header_id|>assistant<|end_header_id|>\n\n<think>\nOkay, so I need to",
        "[gMASK]<sop><|user|>\nU<|assistant|>\n<think>Okay, so I need to",
    ],
)
def test_prefills_of_other_families_are_continued(server: Endpoint, prompt: str) -> None:
    written = text(complete(server, prompt))
    assert written[0] == " "
    assert written[1].islower()
    assert ("<|channel|>final<|message|>" if "channel" in prompt else "</think>") in written


def test_a_canary_in_the_prompt_is_found_again(server: Endpoint) -> None:
    asked = HEAD.replace(QUESTION, "The secret word is marigold. Say it.")
    assert text(complete(server, f"{asked}<think>\nWell, the secret word is")).startswith(" marigold. ")


def test_prompts_may_be_tokens_and_several(server: Endpoint) -> None:
    tokens = list(PROMPT.encode())
    one = text(complete(server))
    assert [choice.text for choice in complete(server, [tokens, tokens]).choices] == [one, one]
    assert [choice.index for choice in complete(server, [PROMPT, HEAD]).choices] == [0, 1]
    assert text(complete(server, tokens)) == one
    with pytest.raises(openai.BadRequestError, match="out of vocabulary"):
        complete(server, [5, 300])


def test_limits_stops_echo_and_usage(server: Endpoint) -> None:
    whole = text(complete(server))
    short = complete(server, max_tokens=7)
    assert whole.startswith(text(short))
    assert (short.choices[0].finish_reason, short.usage.completion_tokens) == ("length", 7)
    assert short.usage.prompt_tokens == len(PROMPT)
    assert short.usage.total_tokens == len(PROMPT) + 7
    stopped = complete(server, stop=["</think>", "!!!"])
    assert text(stopped) == whole.partition("</think>")[0]
    assert stopped.choices[0].finish_reason == "stop"
    assert text(complete(server, echo=True)) == PROMPT + whole
    assert complete(server, max_tokens=None).usage.completion_tokens == 16


def test_logprobs(server: Endpoint) -> None:
    answer = complete(server, echo=True, logprobs=3, max_tokens=5)
    logprobs = answer.choices[0].logprobs
    assert "".join(logprobs.tokens) == text(answer)
    assert [text(answer)[at:].startswith(t) for at, t in zip(logprobs.text_offset, logprobs.tokens, strict=True)]
    assert logprobs.token_logprobs[0] is None
    assert all(logprob <= 0 for logprob in logprobs.token_logprobs[-5:])
    assert [len(best) for best in logprobs.top_logprobs[-5:]] == [3] * 5
    chosen = chat(server, logprobs=True, top_logprobs=2, max_tokens=5).choices[0]
    assert "".join(item.token for item in chosen.logprobs.content) == chosen.message.content
    assert all(item.top_logprobs[0].token == item.token for item in chosen.logprobs.content)


def test_chat_says_where_its_thinking_is(server: Endpoint) -> None:
    whole = chat(server).choices[0].message.content
    thinking, _, answer = whole.removeprefix("<think>\n").partition("\n</think>\n\n")
    assert whole.startswith("<think>\n")
    assert answer
    for field in ("reasoning", "reasoning_content"):
        server.set(thinking=field)
        message = chat(server).choices[0].message
        assert (getattr(message, field), message.content) == (thinking, answer)
        unfinished = chat(server, max_tokens=20).choices[0].message
        assert thinking.startswith(getattr(unfinished, field))
        assert unfinished.content is None
    server.set(thinking="unopened")
    message = chat(server).choices[0].message.content
    assert "<think>" not in message
    assert "</think>" in message
    server.set(thinking="channel")
    assert chat(server).choices[0].message.content.startswith("<|channel|>analysis<|message|>")
    server.set(thinking="none")
    assert "<" not in chat(server).choices[0].message.content


def test_chat_continues_the_final_message_only_if_asked(server: Endpoint) -> None:
    messages = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": f"<think>\n{PREFILL}"}]
    flags = {"add_generation_prompt": False, "continue_final_message": True}
    continued = chat(server, messages=messages, extra_body=flags, seed=1, max_tokens=400).choices[0].message.content
    assert continued == text(complete(server)), "what the text continues, the chat does"
    assert chat(server, messages=messages).choices[0].message.content.startswith("<think>\n"), "a new turn"
    with pytest.raises(openai.BadRequestError, match="Cannot set both"):
        chat(server, messages=messages, extra_body={"continue_final_message": True})
    marked = [messages[0], messages[1] | {"prefix": True}]
    assert chat(server, messages=marked, seed=1, max_tokens=400).choices[0].message.content == continued


def test_tokens_there_and_back(server: Endpoint) -> None:
    def post(path: str, body: Any) -> Any:
        return json.loads(send(server, body, f"/../{path}")[1])

    found = post("tokenize", {"model": "toy", "prompt": "Brot für alle"})
    assert (found["count"], len(found["tokens"])) == (14, 14)
    assert post("detokenize", {"model": "toy", "tokens": found["tokens"]}) == {"prompt": "Brot für alle"}
    messages = [{"role": "user", "content": QUESTION}]
    assert bytes(post("tokenize", {"messages": messages})["tokens"]).decode() == HEAD


# Judges


@pytest.mark.parametrize(
    ("model", "unsafe", "safe"),
    [
        ("guard-llama", "unsafe\nS1", "safe"),
        ("guard-granite", "yes", "no"),
        ("guard-wildguard", "Harmful response: yes", "Harmful response: no"),
        ("guard-qwen3", "Safety: Unsafe", "Safety: Safe"),
        ("judge-json", '"complies"', '"refuses"'),
    ],
)
def test_judges_tell_the_voices_apart(server: Endpoint, model: str, unsafe: str, safe: str) -> None:
    for writer, label in (("toy-comply", unsafe), ("toy-refuse", safe)):
        judged = f"User: {QUESTION}\nAgent: {text(complete(server, model=writer))}"
        answer = chat(server, model, judged, logprobs=True, top_logprobs=4)
        assert label in answer.choices[0].message.content
        assert label in text(complete(server, judged, model))
        labels = [item for item in answer.choices[0].logprobs.content if item.token.strip() in OPPOSITES]
        assert bool(labels) == (model != "judge-json")
        for item in labels:
            best, second = item.top_logprobs[:2]
            assert best.token == item.token
            assert second.token.strip() == OPPOSITES[item.token.strip()]
            assert best.logprob > -0.23
            assert second.logprob < -1.6
    assert unsafe in chat(server, model, "Something with an unsafe-mark in it.").choices[0].message.content
    server.set(unreadable_share=1)
    assert chat(server, model).choices[0].message.content == "Hmm, that depends on what is meant."


def test_a_rubric_answers_what_is_set(server: Endpoint) -> None:
    server.set(rubric_refuses='{"grade": 2}')
    assert json.loads(chat(server, "judge-json").choices[0].message.content) == {"grade": 2}


# Requests that it refuses


def test_errors_have_openais_shape(server: Endpoint) -> None:
    with pytest.raises(openai.NotFoundError, match=r"`gpt` does not exist\. There are: toy, toy-comply") as unknown:
        complete(server, model="gpt")
    assert unknown.value.code == "model_not_found"
    assert "toy" in [model.id for model in ask(server, lambda client: client.models.list()).data]
    with pytest.raises(openai.NotFoundError):
        ask(server, lambda client: client.models.retrieve("gpt"))
    with pytest.raises(openai.BadRequestError, match="streams nothing"):
        chat(server, stream=True)
    with pytest.raises(openai.BadRequestError, match="prompt is needed"):
        complete(server, None)
    status, answer = send(server, ["not an object"])
    assert (status, json.loads(answer)["error"]["type"]) == (400, "invalid_request_error")
    server.set(context=len(PROMPT) + 10)
    assert complete(server, max_tokens=10)
    with pytest.raises(openai.BadRequestError, match="maximum context length") as long:
        complete(server, max_tokens=11)
    assert long.value.code == "context_length_exceeded"
    server.set(context=0, system_role=False)
    with pytest.raises(openai.BadRequestError, match="System role"):
        chat(server, messages=[{"role": "system", "content": "Hm."}, {"role": "user", "content": "Hm?"}])


def test_a_key_can_be_required() -> None:
    with endpoint(api_key="right") as server:
        for key in ("wrong", "right-not"):
            with pytest.raises(openai.AuthenticationError):
                ask(server, lambda client: client.models.list(), key)
        assert ask(server, lambda client: client.models.list(), "right").data
        assert "right" not in json.dumps([vars(record) for record in server.log()])


def test_mistakes_in_options_are_told() -> None:
    with pytest.raises(ValueError, match="no such fault: 501; there are: 429"), endpoint(faults="500,501"):
        pass
    with pytest.raises(TypeError, match="fault_shares"), endpoint(fault_shares=1):
        pass


# Faults: what a client sees of each, once; the same request is then answered well


def fails_once(server: Endpoint, fault: str, **options: Any) -> None:
    server.set(faults=fault, fault_share=1, fault_times=1, **options)


def last(server: Endpoint) -> Record:
    return server.log()[-1]


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("429", openai.RateLimitError),
        ("429-date", openai.RateLimitError),
        ("429-bare", openai.RateLimitError),
        ("500", openai.InternalServerError),
        ("502", openai.InternalServerError),
        ("503", openai.InternalServerError),
        ("html-502", openai.InternalServerError),
    ],
)
def test_errors_with_a_status(server: Endpoint, fault: str, error: type[openai.APIStatusError]) -> None:
    fails_once(server, fault, retry_after=1.5)
    with pytest.raises(error) as seen:
        complete(server)
    after = seen.value.response.headers.get("retry-after")
    if fault == "429":
        assert after == "1.5"
    elif fault == "429-date":
        assert after is not None
        assert abs(parsedate_to_datetime(after).timestamp() - time.time()) < 4
    else:
        assert after is None
    assert seen.value.status_code == int(fault.removeprefix("html-")[:3])
    assert ("<html>" in seen.value.response.text) == (fault == "html-502")
    assert text(complete(server))
    assert [(record.status, record.fault, record.sound) for record in server.log()] == [
        (seen.value.status_code, fault, False),
        (200, None, True),
    ]


def test_reset_in_the_body(server: Endpoint) -> None:
    fails_once(server, "reset")

    async def client(session: aiohttp.ClientSession) -> None:
        async with session.post(f"{server.base_url}/completions", json=BODY) as answer:
            assert answer.status == 200
            await answer.read()

    with pytest.raises((ConnectionResetError, aiohttp.ClientPayloadError)) as seen:
        raw(server, client)
    assert "reset" in repr([seen.value, seen.value.__cause__]).lower()
    with pytest.raises(openai.APIConnectionError):
        complete(server, seed=2)
    assert not last(server).sent
    assert text(complete(server, seed=2))


def test_refused_connections(server: Endpoint) -> None:
    fails_once(server, "refused", refuse_for=0.4)

    async def client(session: aiohttp.ClientSession) -> None:
        async with session.post(f"{server.base_url}/completions", json=BODY):
            pass

    with pytest.raises((aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)):
        raw(server, client)
    with pytest.raises(aiohttp.ClientConnectorError) as seen:
        raw(server, client)
    assert isinstance(seen.value.os_error, ConnectionRefusedError)
    with pytest.raises(openai.APIConnectionError):
        complete(server)
    assert not last(server).sent, "the log can be read while nobody else gets in"
    time.sleep(0.5)
    assert send(server)[0] == 200


def test_silence(server: Endpoint) -> None:
    fails_once(server, "silence")
    with pytest.raises(openai.APITimeoutError):
        complete(server, timeout=0.3)
    time.sleep(0.1)
    silent = last(server)
    assert (silent.status, silent.sent) == (None, False)
    assert silent.ended is not None, "a client that hangs up ends it"
    assert text(complete(server, timeout=5))


def test_one_slow_among_fast_ones(server: Endpoint) -> None:
    fails_once(server, "slow", slow=0.4)
    took = []
    for _ in range(2):
        began = time.monotonic()
        assert text(complete(server))
        took.append(time.monotonic() - began)
    assert took[0] > 0.4
    assert all(record.sound for record in server.log())


def test_slow_body(server: Endpoint) -> None:
    fails_once(server, "slow-body", slow=0.4)

    async def client(session: aiohttp.ClientSession) -> tuple[float, Any]:
        async with session.post(f"{server.base_url}/completions", json=BODY) as answer:
            began = time.monotonic()
            return await answer.json(), time.monotonic() - began

    answer, took = raw(server, client)
    assert answer["choices"][0]["text"] == text(complete(server))
    assert took > 0.25, "the headers come at once, the body doesn't"
    assert all(record.sound for record in server.log())


@pytest.mark.parametrize("fault", ["malformed", "truncated", "html-200"])
def test_bodies_that_cannot_be_read(server: Endpoint, fault: str) -> None:
    fails_once(server, fault)
    status, body = send(server)
    assert status == 200
    with pytest.raises(ValueError, match=r"Expecting|Unterminated"):
        json.loads(body)
    assert body.startswith("<!DOCTYPE html>" if fault == "html-200" else "{")
    assert last(server).sent
    assert not last(server).sound
    assert json.loads(send(server)[1])["choices"]


def test_answers_that_are_not_as_they_should_be(server: Endpoint) -> None:
    def seen(fault: str) -> Any:
        server.reset()
        fails_once(server, fault)
        pair = chat(server), complete(server)
        assert chat(server).choices
        return pair

    assert [answer.choices for answer in seen("no-choices")] == [[], []]
    talk, plain = seen("null-text")
    assert (talk.choices[0].message.content, plain.choices[0].text) == (None, None)
    assert [answer.usage for answer in seen("no-usage")] == [None, None]
    assert server.log()[0].sound, "it is an answer all the same"
    assert {answer.model for answer in seen("wrong-model")} == {"some-other-model"}
    assert {answer.choices[0].finish_reason for answer in seen("filtered")} == {"content_filter"}


def test_another_answer_to_what_was_answered_before(server: Endpoint) -> None:
    plain = text(complete(server))
    server.reset()
    server.set(faults="another-answer", fault_share=1, fault_times=9)
    texts = [text(complete(server)) for _ in range(3)]
    assert texts[0] == plain, "whoever asks once sees nothing of it"
    assert len(set(texts)) == 3
    assert list(server.answered().values()) == [3]


def test_a_prefill_ignored(server: Endpoint) -> None:
    fails_once(server, "prefill-ignored")
    anew = text(complete(server))
    assert anew.startswith("<think>\n")
    assert anew.removeprefix("<think>\n")[0].isupper()
    assert text(complete(server)).startswith(" ")


def test_a_prefill_returned(server: Endpoint) -> None:
    fails_once(server, "prefill-repeated")
    assert text(complete(server)) == PREFILL + text(complete(server))


@pytest.mark.parametrize("thinking", ["think", "reasoning"])
def test_thinking_closed_at_once(server: Endpoint, thinking: str) -> None:
    fails_once(server, "thinking-closed", thinking=thinking)
    assert text(complete(server)).startswith("</think>\n\n")
    message = chat(server).choices[0].message
    if thinking == "reasoning":
        assert message.reasoning == ""
        assert message.content
    else:
        assert message.content.startswith("</think>")
    assert not any(record.sound for record in server.log())


def test_every_fault_is_seen_above() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    assert [fault for fault in FAULTS if source.count(f'"{fault}"') == 0] == []


def test_too_many_at_once(server: Endpoint) -> None:
    server.set(max_in_flight=5, latency=0.2)

    async def client(session: aiohttp.ClientSession) -> list[int]:
        async def one(seed: int) -> int:
            async with session.post(f"{server.base_url}/completions", json=BODY | {"seed": seed}) as answer:
                return answer.status

        return await asyncio.gather(*[one(seed) for seed in range(12)])

    assert sorted(raw(server, client)) == [200] * 5 + [429] * 7
    assert server.most_in_flight() > 5


def test_faults_befall_the_paths_that_are_named(server: Endpoint) -> None:
    server.set(faults="html-200", fault_share=1, fault_times=99, fault_paths="/")

    async def client(session: aiohttp.ClientSession) -> str:
        async with session.get(f"{server.base_url}/models") as answer:
            return await answer.text()

    assert raw(server, client).startswith("<!DOCTYPE html>")
    assert send(server)[1].startswith("<!DOCTYPE html>")


# The log


def test_a_third_of_requests_fails_and_nothing_is_lost_or_answered_twice(server: Endpoint) -> None:
    """A client that asks until it has a usable answer gets the texts that it gets without faults, each once."""
    detectable = FAULTS.keys() - {"silence", "slow", "slow-body", "prefill-ignored", "prefill-repeated"}
    bodies = [BODY | {"prompt": f"{PROMPT} {number}"} for number in range(200)]

    async def until_answered(session: aiohttp.ClientSession, body: dict[str, Any]) -> str:
        while True:
            try:
                async with session.post(f"{server.base_url}/completions", json=body) as response:
                    answer = json.loads(await response.text())
                choice = answer["choices"][0]
                usable = choice["finish_reason"] != "content_filter" and answer["model"] == body["model"]
                if usable and not choice["text"].startswith("</think>"):
                    return str(choice["text"])
            except (aiohttp.ClientError, OSError, ValueError, LookupError, AttributeError):
                await asyncio.sleep(0.02)

    async def client(session: aiohttp.ClientSession) -> list[str]:
        return list(await asyncio.gather(*[until_answered(session, body) for body in bodies]))

    plain = raw(server, client)
    assert len({*plain}) == 200
    runs = []
    for _ in range(2):
        server.reset()
        server.set(faults=",".join(detectable), fault_share=0.3, refuse_for=0.05, seed=7)
        assert raw(server, client) == plain
        log = server.log()
        answered = [json.loads(record.body)["prompt"] for record in log if record.sound]
        assert sorted(answered) == sorted(str(body["prompt"]) for body in bodies)
        assert set(server.answered().values()) == {1}
        faulty = [record for record in log if record.fault not in HARMLESS]
        assert len(log) == 200 + len(faulty)
        assert 0.2 < len(faulty) / len(log) < 0.4
        assert {record.fault for record in faulty} == {*detectable} - HARMLESS
        runs.append(sorted((record.digest, str(record.fault)) for record in log))
    assert runs[0] == runs[1], "the same requests draw the same faults"
    server.set(seed=8, fault_times=0)


def test_log_has_requests_in_order_with_times(server: Endpoint) -> None:
    server.set(latency=0.1)
    began = time.time()
    for seed in (1, 2):
        complete(server, seed=seed)
    first, second = server.log()
    assert json.loads(first.body)["seed"] == 1
    assert (first.number, second.number, first.path, first.method) == (0, 1, "/v1/completions", "POST")
    assert first.ended is not None
    assert began <= first.arrived <= first.ended - 0.09
    assert first.ended <= second.arrived
    server.set(log_bodies=False)
    complete(server, seed=2)
    assert last(server).body == ""
    assert last(server).digest == second.digest != first.digest
    server.reset()
    assert server.log() == []


def test_a_client_that_left_was_not_answered(server: Endpoint) -> None:
    server.set(latency=0.4)
    with pytest.raises(openai.APITimeoutError):
        complete(server, timeout=0.1)
    time.sleep(0.5)
    assert [(record.status, record.sent) for record in server.log()] == [(None, False)]
    assert not server.answered()


# Batches


def batch_file(bodies: list[dict[str, Any]]) -> bytes:
    url = "/v1/completions"
    lines = [{"custom_id": f"row-{n}", "method": "POST", "url": url, "body": body} for n, body in enumerate(bodies)]
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


async def submit(client: openai.AsyncOpenAI, content: bytes) -> Any:
    file = await client.files.create(file=("in.jsonl", content), purpose="batch")
    assert await (await client.files.content(file.id)).aread() == content
    window: Any = {"endpoint": "/v1/completions", "completion_window": "24h"}
    return await client.batches.create(input_file_id=file.id, metadata={"for": "a test"}, **window)


async def entries(client: openai.AsyncOpenAI, file: str | None) -> dict[str, Any]:
    content = await (await client.files.content(file)).aread() if file else b""
    found = [json.loads(line) for line in content.splitlines()]
    return {entry["custom_id"]: entry["response"] for entry in found}


def test_a_batch_is_left_and_come_back_to(server: Endpoint) -> None:
    server.set(batch_delay=0.4)
    bodies = [BODY | {"seed": seed} for seed in range(20)] + [BODY | {"model": "gpt"}]

    async def leave(client: openai.AsyncOpenAI) -> Any:
        batch = await submit(client, batch_file(bodies))
        return await client.batches.retrieve(batch.id)

    async def come_back(client: openai.AsyncOpenAI) -> tuple[Any, Any, Any]:
        batch = (await client.batches.list()).data[0]
        good, bad = await entries(client, batch.output_file_id), await entries(client, batch.error_file_id)
        return batch, good, bad

    batch = ask(server, leave)
    assert (batch.status, batch.output_file_id, batch.metadata) == ("in_progress", None, {"for": "a test"})
    assert batch.request_counts.completed < 21
    time.sleep(0.5)
    batch, good, bad = ask(server, come_back)
    assert (batch.status, batch.request_counts.completed, batch.request_counts.failed) == ("completed", 20, 1)
    assert good.keys() == {f"row-{n}" for n in range(20)}
    assert list(good) != sorted(good, key=lambda name: int(name[4:])), "in no order"
    assert good["row-1"]["body"]["choices"][0]["text"] == text(complete(server))
    assert {name: response["status_code"] for name, response in bad.items()} == {"row-20": 404}
    assert sum(record.sound for record in server.log() if record.batch == batch.id) == 20


def test_a_batch_is_cancelled_with_what_it_has(server: Endpoint) -> None:
    server.set(batch_delay=1)

    async def client(opened: openai.AsyncOpenAI) -> Any:
        batch = await submit(opened, batch_file([BODY | {"seed": seed} for seed in range(40)]))
        await asyncio.sleep(0.3)
        batch = await opened.batches.cancel(batch.id)
        with pytest.raises(openai.ConflictError):
            await opened.batches.cancel(batch.id)
        return batch, await entries(opened, batch.output_file_id)

    batch, good = ask(server, client)
    assert batch.status == "cancelled"
    assert 5 < len(good) < 40


def test_batches_that_fail(server: Endpoint) -> None:
    twice = batch_file([BODY]) * 2
    batch = ask(server, lambda client: submit(client, twice))
    assert (batch.status, batch.errors.data[0].line) == ("failed", 2)
    server.set(batch_delay=0, faults="500", fault_share=0.5)

    async def client(opened: openai.AsyncOpenAI) -> Any:
        batch = await submit(opened, batch_file([BODY | {"seed": seed} for seed in range(40)]))
        batch = await opened.batches.retrieve(batch.id)
        return await entries(opened, batch.output_file_id), await entries(opened, batch.error_file_id)

    good, bad = ask(server, client)
    assert len(good) + len(bad) == 40
    assert 8 < len(bad) < 32
    assert {response["status_code"] for response in bad.values()} == {500}


# The process


def test_server_ends_with_the_process_that_started_it() -> None:
    script = """
from tests.servers.endpoint import endpoint
with endpoint() as server:
    print(server.admin_url, flush=True)
    input()
"""
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, **pipes) as parent:
        assert parent.stdout is not None
        server = Endpoint("", parent.stdout.readline().strip(), parent)
        assert server.log() == []
        server.kill()
    time.sleep(0.5)
    with pytest.raises(OSError, match="refused"):
        server.log()


def test_run_by_hand() -> None:
    command = [
        sys.executable,
        "-m",
        "tests.servers.endpoint",
        "--latency",
        "0.01",
        "--models",
        "mine",
        "--thinking=none",
    ]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        addresses = json.loads(process.stdout.readline())
        server = Endpoint(addresses["base_url"], addresses["admin_url"], process)
        assert [model.id for model in ask(server, lambda client: client.models.list()).data] == ["mine"]
        server.kill()


async def load(server: Endpoint, count: int) -> float:
    """Seconds for `count` requests, 256 in flight, by one bare client."""
    numbers = iter(range(count))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def worker() -> None:
            for number in numbers:
                async with session.post(f"{server.base_url}/completions", json=BODY | {"seed": number}) as answer:
                    await answer.read()

        began = time.monotonic()
        await asyncio.gather(*[worker() for _ in range(256)])
        return time.monotonic() - began


def test_throughput_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """At 50 ms latency, with the client on the same machine. Nothing is asserted of it."""
    count = 3_000
    with endpoint(latency=0.05) as server:
        process = psutil.Process(server.process.pid)
        before = sum(process.cpu_times()[:2])
        took = asyncio.run(load(server, count))
        busy = sum(process.cpu_times()[:2]) - before
        assert sum(server.answered().values()) == count
    with capsys.disabled():
        print(f"\ntest server: {count / took:,.0f} requests/s; {count / busy:,.0f}/s if it had a core for itself")
