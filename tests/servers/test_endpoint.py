"""The test server as its clients see it: what it writes, each of its faults, and what its log says afterwards."""

from __future__ import annotations

import asyncio
import json
import math
import subprocess
import sys
import time
from collections import Counter
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
from tests.servers.oddities import BODIES, EDITS, ERRORS, LISTINGS, WORDINGS

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


# Answers of hosts and gateways: what each edit, body and error is


def first(server: Endpoint, fault: str, path: str = "/chat/completions", **more: Any) -> Any:
    """The JSON of the first answer to a request, with a fault."""
    server.reset()
    fails_once(server, fault)
    asked = {"messages": [{"role": "user", "content": QUESTION}]} if path.startswith("/chat") else {"prompt": PROMPT}
    status, body = send(server, {"model": "toy-comply", "max_tokens": 400, "seed": 1} | asked | more, path)
    assert (status, last(server).fault) == (200, fault)
    assert last(server).sound == (fault in HARMLESS)
    return json.loads(body)


def message(server: Endpoint, fault: str, **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = first(server, fault, **more)["choices"][0]["message"]
    return found


def of(answer: Any) -> tuple[Any, Any]:
    """What a completion wrote, and why it ended."""
    return answer["choices"][0]["text"], answer["choices"][0]["finish_reason"]


def plain_halves(server: Endpoint) -> tuple[str, str]:
    """The thinking and the answer of the chat that `first` asks for, without a fault."""
    server.reset()
    whole = chat(server, max_tokens=400, seed=1).choices[0].message.content
    thinking, _, said = whole.removeprefix("<think>\n").partition("\n</think>\n\n")
    return thinking, said


def test_no_choice_and_no_text(server: Endpoint) -> None:
    completion = "/completions"
    assert first(server, "null-choices")["choices"] is None
    assert "choices" not in first(server, "choices-missing")
    assert first(server, "null-message")["choices"][0]["message"] is None
    assert of(first(server, "empty-text", completion)) == ("", "stop")
    assert of(first(server, "blank-text", completion)) == (" \n\n ", "stop")
    assert of(first(server, "content-filter", completion)) == (None, "content_filter")
    assert message(server, "empty-text")["content"] == ""
    assert message(server, "content-filter") == {"role": "assistant", "content": None}
    refused = message(server, "refusal")
    assert (refused["content"], refused["refusal"][:9]) == (None, "I'm sorry")
    called = first(server, "tool-call")["choices"][0]
    assert (called["finish_reason"], called["message"]["content"]) == ("tool_calls", None)
    assert called["message"]["tool_calls"][0]["function"]["name"] == "search"


@pytest.mark.parametrize("thinking", ["think", "reasoning", "reasoning_content", "unopened", "channel"])
def test_no_thinking(server: Endpoint, thinking: str) -> None:
    texts = {}
    for fault in ("no-thinking", "null-reasoning", "answer-as-reasoning"):
        server.reset()
        fails_once(server, fault, thinking=thinking)
        choice = json.loads(send(server, chat_body(), "/chat/completions")[1])["choices"][0]
        assert choice["finish_reason"] == "stop"
        texts[fault] = choice["message"]
    said = texts["no-thinking"]["content"]
    assert "<" not in said
    assert RefusalJudge().read(QUESTION, said, "response").stance == "complies"
    assert texts["no-thinking"] == {"role": "assistant", "content": said}
    assert texts["null-reasoning"] == texts["no-thinking"] | {"reasoning": None, "reasoning_content": None}
    assert texts["answer-as-reasoning"] == {"role": "assistant", "content": None, "reasoning_content": said}
    assert "</think>" not in of(first(server, "no-thinking", "/completions"))[0]


def test_thinking_that_never_closes(server: Endpoint) -> None:
    thinking, _ = plain_halves(server)
    assert message(server, "never-closed")["content"] == f"<think>\n{thinking}\n"
    whole, _ = of(first(server, "no-usage", "/completions"))
    assert of(first(server, "never-closed", "/completions"))[0] == whole.partition("</think>")[0]


def chat_body() -> dict[str, Any]:
    return {"model": "toy-comply", "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 400, "seed": 1}


def test_content_in_parts_and_thinking_in_other_fields(server: Endpoint) -> None:
    thinking, said = plain_halves(server)
    whole = f"<think>\n{thinking}\n</think>\n\n{said}"

    def content(fault: str) -> Any:
        return message(server, fault)["content"]

    end = {"type": "text", "text": said}
    assert content("parts-text") == [{"type": "text", "text": whole}]
    assert content("parts-output") == [{"type": "output_text", "text": whole}]
    nested = {"type": "thinking", "thinking": [{"type": "text", "text": thinking}], "closed": True}
    assert content("parts-thinking") == [nested, end]
    assert content("parts-thinking-flat") == [{"type": "thinking", "thinking": thinking}, end]
    assert content("parts-reasoning") == [{"type": "reasoning", "text": thinking}, end]
    assert content("parts-strings") == [whole]
    assert [part["type"] for part in content("parts-mixed")] == ["image_url", "text"]
    assert [part["type"] for part in content("parts-unknown")] == ["hologram"]
    assert content("parts-empty") == []
    assert content("content-object") == {"type": "text", "text": whole}
    assert content("content-number") == 7
    assert message(server, "field-thinking") == {"role": "assistant", "content": said, "thinking": thinking}
    for fault, field, value in (
        ("details-text", "text", thinking),
        ("details-summary", "summary", thinking),
        ("details-encrypted", "data", "AAAA"),
    ):
        found = message(server, fault)
        assert (found["content"], found["reasoning_details"][0][field]) == (said, value)
        assert not {"reasoning", "reasoning_content"} & found.keys()


def test_other_names_in_answers(server: Endpoint) -> None:
    named = {
        "model-base": "gpt-4o-2024-08-06",
        "model-dated": "toy-comply-2024-08-06",
        "model-mini": "toy-comply-mini",
        "model-Base": "toy-comply-Base",
        "model-shorter": "toy-comp",
        "model-nitro": "toy-comply:nitro",
        "model-owner": "owner/toy-comply",
        "model-path": "/models/toy-comply.gguf",
        "model-upper": "TOY-COMPLY",
        "model-null": None,
        "model-number": 7,
    }
    for fault, name in named.items():
        assert first(server, fault)["model"] == name
        assert first(server, fault, "/completions")["model"] == name
    assert "model" not in first(server, "model-missing")
    server.set(faults="model-changing", fault_share=1, fault_times=99)
    names = [json.loads(send(server, BODY | {"seed": seed})[1])["model"] for seed in range(20)]
    assert {*names} == {"base-a", "base-b"}
    assert json.loads(send(server, BODY | {"seed": 0})[1])["model"] == names[0]


def test_ends_that_are_none(server: Endpoint) -> None:
    whole, _ = of(first(server, "no-usage", "/completions"))
    for fault, finish in (("finish-abort", "abort"), ("finish-error", "error"), ("choice-error", "error")):
        assert of(first(server, fault, "/completions")) == (whole[: len(whole) // 2], finish)
    assert of(json.loads(send(server)[1])) == (whole, "stop"), "whole when it is asked again"
    for fault, end in (
        ("finish-null", None),
        ("finish-number", 2),
        ("finish-list", ["stop"]),
        ("finish-unknown", "eos_token"),
    ):
        assert of(first(server, fault, "/completions")) == (whole, end)
    assert "finish_reason" not in first(server, "finish-missing")["choices"][0]
    assert first(server, "choice-error")["choices"][0]["error"]["message"] == "Upstream idle timeout"


def test_errors_with_status_200(server: Endpoint) -> None:
    codes: dict[str, Any] = {"200-error-402": 402, "200-error-403": 403, "200-error-429": 429, "200-error-503": "503"}
    for fault, code in codes.items():
        answer = first(server, fault)
        assert answer.keys() == {"error"}
        assert answer["error"]["code"] == code
    assert first(server, "200-error-402")["error"]["message"] == "Insufficient credits"
    assert isinstance(first(server, "200-error-text")["error"], str)
    beside = first(server, "200-error-beside")
    assert (beside["choices"], beside["error"]["code"]) == ([], 502)


def test_characters_that_are_none(server: Endpoint) -> None:
    whole, _ = of(first(server, "no-usage", "/completions"))
    for fault, piece in (("half-emoji", "\ud83d"), ("half-emoji-low", "\ude00"), ("nul", "\0")):
        written, _ = of(first(server, fault, "/completions"))
        assert piece in written[:60]
        assert written.replace(piece, "") == whole
        assert piece in message(server, fault)["content"]
    assert of(first(server, "half-emoji-end", "/completions"))[0] == whole + "\ud83d"
    assert "\ud83d" in message(server, "half-emoji-reasoning")["reasoning"]
    assert first(server, "half-emoji-finish")["choices"][0]["finish_reason"] == "\ud83d"
    assert first(server, "half-emoji-model")["model"] == "toy-comply\ud83d"
    fails_once(server, "half-emoji")
    assert "\\ud83d" in send(server, BODY | {"seed": 3})[1], "escaped, so that the body is UTF-8"


def test_usage_that_is_none(server: Endpoint) -> None:
    def read(fault: str) -> Any:
        return first(server, fault, "/completions")["usage"]

    count = len(PROMPT)
    for fault, value in (
        ("usage-null", None),
        ("usage-text", "ten"),
        ("usage-digits", str(count)),
        ("usage-negative", -count),
        ("usage-float", count + 0.5),
        ("usage-huge", 2**70),
        ("usage-more", count + 1000),
    ):
        assert read(fault)["prompt_tokens"] == value
    assert math.isnan(read("usage-nan")["prompt_tokens"])
    assert (read("usage-list"), read("usage-word")) == ([], "none")


def labels(server: Endpoint, fault: str) -> tuple[list[Any], list[Any]]:
    """The tokens of a guard's answer "unsafe" to a chat, with their log-probabilities, and the likeliest at each."""
    asked = {"messages": [{"role": "user", "content": "unsafe-mark"}], "logprobs": True, "top_logprobs": 4}
    places = first(server, fault, model="guard-llama", **asked)["choices"][0]["logprobs"]["content"]
    written = [(place["token"], place["logprob"]) for place in places]
    return written, [[(top["token"], top["logprob"]) for top in place["top_logprobs"]] for place in places]


def test_log_probabilities_that_are_none_or_others(server: Endpoint) -> None:
    plain, best = labels(server, "no-usage")
    assert [token for token, _ in plain] == ["\n\nunsafe", "\nS1"]
    written, found = labels(server, "logprobs-written-second")
    assert written[0] == ("\n\nunsafe", -0.6932)
    assert found[0][:2] == [("\n\nsafe", -0.6931), ("\n\nunsafe", -0.6932)]
    written, found = labels(server, "logprobs-written-missing")
    assert written[0] == ("\n\nunsafe", -9.0)
    assert [token for token, _ in found[0]] == [token for token, _ in best[0][1:]]
    assert math.isnan(labels(server, "logprobs-nan")[1][0][0][1])
    for fault, value in (
        ("logprobs-infinite", -math.inf),
        ("logprobs-positive", 0.5),
        ("logprobs-null", None),
        ("logprobs-text", "-0.1"),
    ):
        assert {logprob for _, logprob in labels(server, fault)[1][0]} == {value}
    assert labels(server, "logprobs-bytes")[0][1][0] == r"bytes:\x0a\x53\x31"
    assert labels(server, "logprobs-ids")[0][0][0].startswith("token_id:")
    doubled = [token for token, _ in labels(server, "logprobs-twice")[1][0]]
    assert doubled.count("\n\nunsafe") == 2
    written, found = labels(server, "logprobs-split")
    assert [token for token, _ in written] == ["\n\nun", "safe", "\nS1"]
    assert [top[0][0] for top in found] == ["\n\nun", "safe", "\nS1"]
    assert len(labels(server, "logprobs-shorter")[0]) == 1
    assert labels(server, "logprobs-no-top") == (plain, [[], []])
    assert "\ud83d" in [token for token, _ in labels(server, "half-emoji-token")[1][0]]


@pytest.mark.parametrize("fault", [name for name in EDITS if name.startswith("logprobs") or name == "half-emoji-token"])
def test_log_probabilities_of_completions_are_edited_too(server: Endpoint, fault: str) -> None:
    plain = first(server, "no-usage", "/completions", logprobs=3, max_tokens=5)["choices"][0]
    edited = first(server, fault, "/completions", logprobs=3, max_tokens=5)["choices"][0]
    assert edited["text"] == plain["text"]
    same = repr(edited["logprobs"]) == repr(plain["logprobs"])
    assert same == (fault == "logprobs-twice"), "a completion's likeliest are an object, whose keys are there once"


def test_bodies_that_are_no_answer(server: Endpoint) -> None:
    def body(fault: str) -> str:
        server.reset()
        fails_once(server, fault)
        status, found = send(server)
        assert (status, last(server).sound) == (200, False)
        return found

    assert body("200-empty") == ""
    assert body("200-text").startswith("upstream")
    assert json.loads(body("200-null")) is None
    assert json.loads(body("200-number")) == 7
    assert json.loads(body("200-list"))[0]["choices"]
    assert body("200-stream").startswith("data: {")
    for fault in ("deep", "deep-beside"):
        assert body(fault).count("[") >= 200_000
        with pytest.raises(RecursionError):
            json.loads(body(fault))
    assert len(json.loads(body("huge"))["choices"][0]["text"]) > 20_000_000
    padded = json.loads(body("huge-beside"))
    assert (len(padded["padding"]), padded["choices"][0]["finish_reason"]) == (20_000_000, "stop")

    async def client(session: aiohttp.ClientSession) -> bytes:
        async with session.post(f"{server.base_url}/completions", json=BODY) as answer:
            return await answer.read()

    server.reset()
    fails_once(server, "200-latin-1")
    with pytest.raises(UnicodeDecodeError):
        raw(server, client).decode()


def test_errors_in_the_words_of_their_hosts(server: Endpoint) -> None:
    said = {
        "400-context": "maximum context length is 2048 tokens",
        "400-seed": "Unrecognized request argument supplied: seed",
        "400-max-tokens": "Use 'max_completion_tokens' instead",
        "422-seed": '"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"]',
        "422-text": '{"detail": "Input should be a valid list"}',
        "400-error-text": '{"error": "model requires more',
        "400-text": "Bad Request: the prompt",
        "400-empty": "",
        "400-list": '["the prompt is too long"]',
        "402": "Insufficient credits",
        "404-deployment": "DeploymentNotFound",
        "413": "<html>",
        "500-validation": "[{'type': 'extra_forbidden', 'loc': ('body', 'response_format')",
        "500-detail": '{"detail": "CUDA out of memory"}',
        "500-text": "Internal Server Error",
        "500-empty": "",
        "500-long": "frame frame frame",
        "500-half-emoji": "\\ud83d",
        "529": "Overloaded",
    }
    for fault, words in said.items():
        server.reset()
        fails_once(server, fault)
        status, body = send(server)
        assert (status, words in body) == (int(fault[:3]), True), fault
        assert (body == "") == (words == ""), fault
        assert send(server)[0] == 200


@pytest.mark.parametrize(
    ("fault", "header", "value"),
    [
        ("429-ms", "retry-after-ms", "1500"),
        ("429-resets", "x-ratelimit-reset-tokens", "6m0s"),
        ("429-reset-at", "x-ratelimit-reset", "1767225600000"),
        ("429-far", "retry-after", "1000000000"),
        ("429-negative", "retry-after", "-5"),
        ("429-nonsense", "retry-after", "soon"),
        ("429-infinite", "retry-after", "inf"),
        ("429-nan", "retry-after", "nan"),
    ],
)
def test_when_to_come_again(server: Endpoint, fault: str, header: str, value: str) -> None:
    fails_once(server, fault)
    with pytest.raises(openai.RateLimitError) as seen:
        complete(server)
    assert seen.value.response.headers[header] == value


def test_fields_that_are_not_taken(server: Endpoint) -> None:
    statuses = {"openai": 400, "azure": 400, "mistral": 422, "llama-cpp-python": 500}
    assert statuses.keys() == {*WORDINGS}
    for wording, status in statuses.items():
        server.set(rejects="seed, max_tokens", rejects_as=wording)
        for field in ("seed", "max_tokens"):
            told = send(server, {"model": "toy", "prompt": PROMPT, field: 5})
            assert told[0] == status
            assert field in told[1]
        assert send(server, {"model": "toy", "prompt": PROMPT})[0] == 200


def test_names_that_stand_for_models(server: Endpoint) -> None:
    server.set(aliases="deployment=toy-comply, toy-comply:nitro=toy-comply")
    for name in ("deployment", "toy-comply:nitro"):
        answer = complete(server, model=name)
        assert (answer.model, text(answer)) == ("toy-comply", text(complete(server)))
        assert name not in [model.id for model in ask(server, lambda client: client.models.list()).data]


def test_what_models_says(server: Endpoint) -> None:
    async def client(session: aiohttp.ClientSession) -> tuple[int, str]:
        async with session.get(f"{server.base_url}/models") as answer:
            return answer.status, await answer.text()

    found = {}
    for listing in LISTINGS:
        server.set(listing=listing)
        status, body = raw(server, client)
        assert status == (int(listing) if listing.isdigit() else 200)
        found[listing] = json.loads(body) if body[:1] in "[{7" else body
        assert send(server)[0] == 200, "it answers all the same"
    assert [model["id"] for model in found["others"]["data"]] == ["some-model", "another-model"]
    assert [model["id"] for model in found["wildcard"]["data"]] == ["*"]
    assert [model["id"] for model in found["prefix"]["data"]] == ["some-model", "toy-*", "toy/*"]
    assert [model["id"] for model in found["bare"]] == ["toy", "toy-comply"]
    assert [model["id"] for model in found["null-ids"]["data"]] == [None, 7]
    values = [found[name]["data"] for name in ("empty", "names", "wrong-type", "null-data")]
    assert values == [[], ["toy", "toy-comply"], "toy-comply", None]
    assert found["number"] == 7
    assert found["html"].startswith("<!DOCTYPE")


def test_a_prefill_is_forgotten_though_its_ids_were_read(server: Endpoint) -> None:
    server.set(echo_ids=True)
    ids = list(PROMPT.encode())
    plain = json.loads(send(server, BODY | {"prompt": ids, "return_token_ids": True})[1])["choices"][0]
    assert (plain["prompt_token_ids"], bytes(plain["token_ids"]).decode()) == (ids, plain["text"])
    assert "prompt_token_ids" not in json.loads(send(server)[1])["choices"][0]
    fails_once(server, "prefill-anew")
    anew = json.loads(send(server, BODY | {"prompt": ids, "return_token_ids": True, "seed": 9})[1])["choices"][0]
    assert anew["text"].startswith("Okay, the user has a question. ")
    assert anew["prompt_token_ids"] == ids


def test_everything_is_refused_until_it_is_mended(server: Endpoint) -> None:
    server.set(refuses=400, refuses_with='{"error": {"message": "context too short"}}')
    for seed in range(3):
        assert send(server, BODY | {"seed": seed}) == (400, '{"error": {"message": "context too short"}}')
    assert {record.fault for record in server.log()} == {"refuses"}
    assert ask(server, lambda client: client.models.list()).data
    server.set(refuses=0)
    assert send(server)[0] == 200


def test_faults_befall_the_bodies_that_are_named(server: Endpoint) -> None:
    server.set(faults="content-filter", fault_share=1, fault_times=99, fault_bodies="bread")
    for _ in range(3):
        assert of(json.loads(send(server)[1])) == (None, "content_filter")
        assert text(complete(server, HEAD.replace("bread", "cake")))


def test_requests_wait_for_a_slot(server: Endpoint) -> None:
    server.set(slots=1, service=0.1)

    async def client(session: aiohttp.ClientSession) -> list[float]:
        async def one(seed: int) -> float:
            began = time.monotonic()
            async with session.post(f"{server.base_url}/completions", json=BODY | {"seed": seed}) as answer:
                await answer.read()
            return time.monotonic() - began

        return sorted(await asyncio.gather(*[one(seed) for seed in range(6)]))

    took = raw(server, client)
    assert all(seconds > 0.09 * place for place, seconds in enumerate(took, 1)), "the queue counts"
    assert all(record.worked > 0.09 for record in server.log())
    server.set(service=0.3)
    with pytest.raises(openai.APITimeoutError):
        complete(server, seed=7, timeout=0.1)
    time.sleep(0.1)
    assert 0 < last(server).worked < 0.3, "who leaves frees the slot"
    server.set(service=0)
    assert text(complete(server, timeout=1))


def test_edits_and_errors_befall_lines_of_batches(server: Endpoint) -> None:
    server.set(batch_delay=0, faults="content-filter, 400-context", fault_share=0.5)

    async def client(opened: openai.AsyncOpenAI) -> Any:
        batch = await submit(opened, batch_file([BODY | {"seed": seed} for seed in range(40)]))
        batch = await opened.batches.retrieve(batch.id)
        return await entries(opened, batch.output_file_id), await entries(opened, batch.error_file_id)

    good, bad = ask(server, client)
    ends = Counter(response["body"]["choices"][0]["finish_reason"] for response in good.values())
    assert 0 < ends["content_filter"] < 20 <= ends["stop"] + len(bad)
    assert {response["status_code"] for response in bad.values()} == {400}


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
    undetectable = {
        "silence",
        "flood",
        "bomb",
        "slow",
        "slow-body",
        "prefill-ignored",
        "prefill-anew",
        "prefill-repeated",
    }
    shapes = {"malformed", "truncated", "no-choices", "null-text", "no-usage", "wrong-model", "filtered"}
    detectable = (FAULTS.keys() - EDITS.keys() - BODIES.keys() - ERRORS.keys() - undetectable) | shapes
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
