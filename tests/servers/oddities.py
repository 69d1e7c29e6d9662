"""Answers as hosts, gateways and small servers give them: edits of a good answer, bodies that are none, and errors.

Each is what somebody reported of a real server, or a neighbour of that. `EDITS` change an answer's JSON, `BODIES` make
other bytes of it, both with status 200; `ERRORS` are a status and a body. `faults.FAULTS` has them all by these names.
An edit that finds nothing to change (log-probabilities where none were asked for) leaves the answer as it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Literal, NamedTuple

Twist = Literal[
    "plain", "another", "prefill-ignored", "prefill-anew", "prefill-repeated", "thinking-closed", "unthought"
]
"""How a model writes: as it should, or in a way that only its text shows."""


class Edit(NamedTuple):
    """A change of an answer, in place. ``usable`` says that a client has no cause to ask again."""

    change: Callable[[dict[str, Any]], None]
    twist: Twist = "plain"
    usable: bool = False


HALF_EMOJI = "\ud83d"
OTHER_HALF = "\ude00"
MANY_BYTES = 20_000_000
DEEP = 200_000


# What is edited


def _choices(answer: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from answer.get("choices") or []


def _messages(answer: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from (choice["message"] for choice in _choices(answer) if "message" in choice)


def _halves(message: dict[str, Any]) -> tuple[str, str]:
    """Thinking and answer, wherever the message has them. A thinking that isn't closed is all of it."""
    field = next((name for name in ("reasoning", "reasoning_content") if message.get(name)), None)
    text = message.get("content") or ""
    if field:
        return message[field], text
    if "<think>" not in text and "</think>" not in text:
        return "", text
    thinking, _, said = text.removeprefix("<think>\n").partition("</think>")
    return thinking.strip(), said.strip()


def _retell(answer: dict[str, Any], told: Callable[[str, str], dict[str, Any]]) -> None:
    """Make each message anew of its thinking and its answer."""
    for choice in _choices(answer):
        if "message" in choice:
            choice["message"] = {"role": "assistant"} | told(*_halves(choice["message"]))


def _write(answer: dict[str, Any], change: Callable[[str], Any]) -> None:
    """Change what is written: a completion's text, a chat's content, or the thinking where there is no content yet."""
    for choice in _choices(answer):
        place = choice.get("message", choice)
        field = next((name for name in ("text", "content", "reasoning", "reasoning_content") if place.get(name)), None)
        if field:
            place[field] = change(place[field])


def _replace(answer: dict[str, Any], text: Any, **more: Any) -> None:
    """Put something else in the place of each text, and more beside it into the message or the choice."""
    finish = {"finish_reason": more.pop("finish")} if "finish" in more else {}
    for choice in _choices(answer):
        if "message" in choice:
            choice["message"] = {"role": "assistant", "content": text, **more}
        else:
            choice |= {"text": text, **more}
        choice |= {"logprobs": None, **finish}


def _choice(answer: dict[str, Any], **fields: Any) -> None:
    for choice in _choices(answer):
        choice.update(fields)


def _top(answer: dict[str, Any], **fields: Any) -> None:
    answer |= fields


def _drop(answer: dict[str, Any], key: str) -> None:
    answer.pop(key, None)


# Empty, filtered, refused


def no_choices(answer: dict[str, Any]) -> None:
    answer["choices"] = []


def null_text(answer: dict[str, Any]) -> None:
    _replace(answer, None)


def filtered(answer: dict[str, Any]) -> None:
    _choice(answer, finish_reason="content_filter")


_CALL = {"id": "call_0", "type": "function", "function": {"name": "search", "arguments": "{}"}}

# Where an answer and its thinking are


def _as_it_is(answer: dict[str, Any]) -> None:
    pass


def _answer_as_reasoning(answer: dict[str, Any]) -> None:
    _retell(answer, lambda thinking, said: {"content": None, "reasoning_content": said})


def _null_reasoning(answer: dict[str, Any]) -> None:
    _retell(answer, lambda thinking, said: {"content": said, "reasoning": None, "reasoning_content": None})


def _parts(answer: dict[str, Any], parts: Callable[[str, str], list[Any]]) -> None:
    _retell(answer, lambda thinking, said: {"content": parts(thinking, said)})


def _part(kind: str, text: str) -> dict[str, Any]:
    return {"type": kind, "text": text}


def _thinking_part(thinking: str) -> dict[str, Any]:
    """As Mistral's servers have it: a list of parts within the part."""
    return {"type": "thinking", "thinking": [_part("text", thinking)], "closed": True}


def _marked(thinking: str, said: str) -> str:
    return f"<think>\n{thinking}\n</think>\n\n{said}" if thinking else said


def _details(answer: dict[str, Any], detail: Callable[[str], dict[str, Any]]) -> None:
    """As OpenRouter's servers have it, and only so."""
    _retell(
        answer,
        lambda thinking, said: {
            "content": said,
            "reasoning_details": [{"index": 0, "format": None} | detail(thinking)],
        },
    )


# Names


def _name(answer: dict[str, Any], named: Callable[[str], Any]) -> None:
    answer["model"] = named(str(answer.get("model")))


def _changing_name(answer: dict[str, Any]) -> None:
    """One of two, by what was written."""
    answer["model"] = f"base-{'ab'[len(json.dumps(answer.get('choices'))) % 2]}"


# The end


def _half(text: str) -> str:
    return text[: len(text) // 2]


def _ended_early(answer: dict[str, Any], finish: str) -> None:
    _write(answer, _half)
    _choice(answer, finish_reason=finish)


def _endless(answer: dict[str, Any]) -> None:
    for choice in _choices(answer):
        choice.pop("finish_reason", None)


def _broken_off(answer: dict[str, Any]) -> None:
    _ended_early(answer, "error")
    _choice(answer, error={"code": 502, "message": "Upstream idle timeout"})


def _only(answer: dict[str, Any], **fields: Any) -> None:
    answer.clear()
    answer |= fields


# Characters


def _inside(text: str, piece: str) -> str:
    """The text with a piece behind its fifth word."""
    words = text.split(" ")
    return " ".join(words[:5]) + piece + " ".join(["", *words[5:]])


def _put(answer: dict[str, Any], piece: str) -> None:
    _write(answer, lambda text: _inside(text, piece))


def _put_in_reasoning(answer: dict[str, Any]) -> None:
    _retell(answer, lambda thinking, said: {"content": said, "reasoning": _inside(thinking or said, HALF_EMOJI)})


# Usage


def _usage(answer: dict[str, Any], change: Callable[[int], Any]) -> None:
    answer["usage"] = {name: change(count) for name, count in (answer.get("usage") or {}).items()}


def _more_read(answer: dict[str, Any]) -> None:
    """The template's own tokens are counted too."""
    if answer.get("usage"):
        answer["usage"]["prompt_tokens"] += 1_000
        answer["usage"]["total_tokens"] += 1_000


# Log-probabilities


class _Place:
    """One place of a choice's log-probabilities, in a chat's form or in a completion's."""

    def __init__(self, found: dict[str, Any], at: int) -> None:
        self._found, self._at, self._chat = found, at, "content" in found

    @property
    def token(self) -> str:
        found = self._found["content"][self._at] if self._chat else self._found
        return str(found["token"] if self._chat else found["tokens"][self._at])

    def best(self) -> list[tuple[str, Any]]:
        if self._chat:
            return [(top["token"], top["logprob"]) for top in self._found["content"][self._at]["top_logprobs"]]
        return list((self._found["top_logprobs"][self._at] or {}).items())

    def set(self, best: list[tuple[str, Any]] | None = None, token: str | None = None, logprob: Any = ...) -> None:
        if self._chat:
            place = self._found["content"][self._at]
            if best is not None:
                place["top_logprobs"] = [{"token": name, "logprob": value, "bytes": None} for name, value in best]
            place |= {} if token is None else {"token": token}
            place |= {} if logprob is ... else {"logprob": logprob}
            return
        if best is not None:
            self._found["top_logprobs"][self._at] = {name: next(v for n, v in best if n == name) for name, _ in best}
        if token is not None:
            self._found["tokens"][self._at] = token
        if logprob is not ...:
            self._found["token_logprobs"][self._at] = logprob


def _places(answer: dict[str, Any]) -> Iterator[_Place]:
    for choice in _choices(answer):
        found = choice.get("logprobs") or {}
        for at in range(len(found.get("content") or found.get("tokens") or ())):
            place = _Place(found, at)
            if place.best():
                yield place


def _each_place(answer: dict[str, Any], change: Callable[[_Place], None]) -> None:
    for place in _places(answer):
        change(place)


def _written_second(place: _Place) -> None:
    """Another token was likelier by a hair; the server wrote the second."""
    written, (other, _), *rest = (
        place.token,
        next(pair for pair in place.best() if pair[0] != place.token),
        *place.best(),
    )
    place.set([(other, -0.6931), (written, -0.6932), *[pair for pair in rest if pair[0] not in (other, written)]])
    place.set(logprob=-0.6932)


def _written_missing(place: _Place) -> None:
    """The written token is none of the likeliest."""
    place.set([pair for pair in place.best() if pair[0] != place.token] or [(" the", -0.1)], logprob=-9.0)


def _all_are(value: Any, place: _Place) -> None:
    place.set([(token, value) for token, _ in place.best()], logprob=value)


def _as_bytes(place: _Place) -> None:
    def spelt(token: str) -> str:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token.encode("utf-8", "replace"))

    place.set([(spelt(token), value) for token, value in place.best()], token=spelt(place.token))


def _as_ids(place: _Place) -> None:
    def numbered(token: str) -> str:
        return f"token_id:{sum(token.encode('utf-8', 'replace'))}"

    place.set([(numbered(token), value) for token, value in place.best()], token=numbered(place.token))


def _twice(place: _Place) -> None:
    """Two ids that read alike: a chat's list can say so."""
    best = place.best()
    place.set([*best, (best[0][0], best[0][1] - 3.0)])


def _half_token(place: _Place) -> None:
    best = place.best()
    place.set([*best[:-1], (HALF_EMOJI, best[-1][1])])


def _split(answer: dict[str, Any]) -> None:
    """Each written word of more than three letters is two tokens."""
    for choice in _choices(answer):
        found = choice.get("logprobs") or {}
        if found.get("content"):
            found["content"] = [half for place in found["content"] for half in _split_place(place)]
        elif found.get("tokens"):
            cut = [_cut(token) for token in found["tokens"]]
            for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
                found[name] = [
                    each for halves, value in zip(cut, found[name], strict=True) for each in [value] * len(halves)
                ]
            found["tokens"] = [half for halves in cut for half in halves]
            found["top_logprobs"] = [
                best and {half: logprob, " the": -12.0}
                for half, logprob, best in zip(
                    found["tokens"], found["token_logprobs"], found["top_logprobs"], strict=True
                )
            ]


def _split_place(place: dict[str, Any]) -> list[dict[str, Any]]:
    others = [{"token": " the", "logprob": -12.0, "bytes": None}]
    halves = _cut(place["token"])
    if len(halves) == 1:
        return [place]
    return [
        {"token": half, "logprob": place["logprob"], "bytes": None}
        | {"top_logprobs": [{"token": half, "logprob": place["logprob"], "bytes": None}, *others]}
        for half in halves
    ]


def _cut(token: str) -> list[str]:
    word = token.lstrip()
    at = len(token) - len(word) + 2
    return [token[:at], token[at:]] if len(word) > 3 and word.isalpha() else [token]


def _shorter(answer: dict[str, Any]) -> None:
    """The first place is missing."""
    for choice in _choices(answer):
        found = choice.get("logprobs") or {}
        for name in found:
            found[name] = found[name][1:]


def _no_top(answer: dict[str, Any]) -> None:
    for choice in _choices(answer):
        found = choice.get("logprobs") or {}
        for place in found.get("content") or ():
            place["top_logprobs"] = []
        if "top_logprobs" in found:
            found["top_logprobs"] = None


_OTHER_PARTS = {
    "hologram": {"type": "hologram", "data": "AAAA"},
    "image": {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
}

EDITS: dict[str, Edit] = {
    # Empty, filtered, refused
    "no-choices": Edit(no_choices),
    "null-choices": Edit(partial(_top, choices=None)),
    "choices-missing": Edit(partial(_drop, key="choices")),
    "null-message": Edit(partial(_choice, message=None, text=None)),
    "null-text": Edit(null_text),
    "empty-text": Edit(partial(_replace, text="", finish="stop")),
    "blank-text": Edit(partial(_replace, text=" \n\n ", finish="stop")),
    "filtered": Edit(filtered),
    "content-filter": Edit(partial(_replace, text=None, finish="content_filter")),
    "refusal": Edit(partial(_replace, text=None, finish="stop", refusal="I'm sorry, I can't assist with that.")),
    "tool-call": Edit(partial(_replace, text=None, finish="tool_calls", tool_calls=[_CALL])),
    # No thinking
    "no-thinking": Edit(_as_it_is, "unthought"),
    "null-reasoning": Edit(_null_reasoning, "unthought"),
    "answer-as-reasoning": Edit(_answer_as_reasoning, "unthought"),
    "never-closed": Edit(lambda a: _write(a, lambda text: text.partition("</think>")[0]), usable=True),
    # Content and thinking in other places and shapes
    "parts-text": Edit(lambda a: _parts(a, lambda t, s: [_part("text", _marked(t, s))]), usable=True),
    "parts-output": Edit(lambda a: _parts(a, lambda t, s: [_part("output_text", _marked(t, s))]), usable=True),
    "parts-thinking": Edit(lambda a: _parts(a, lambda t, s: [_thinking_part(t), _part("text", s)]), usable=True),
    "parts-thinking-flat": Edit(
        lambda a: _parts(a, lambda t, s: [{"type": "thinking", "thinking": t}, _part("text", s)]), usable=True
    ),
    "parts-reasoning": Edit(lambda a: _parts(a, lambda t, s: [_part("reasoning", t), _part("text", s)]), usable=True),
    "parts-strings": Edit(lambda a: _parts(a, lambda t, s: [_marked(t, s)])),
    "parts-mixed": Edit(lambda a: _parts(a, lambda t, s: [_OTHER_PARTS["image"], _part("text", _marked(t, s))])),
    "parts-unknown": Edit(lambda a: _parts(a, lambda t, s: [_OTHER_PARTS["hologram"]])),
    "parts-empty": Edit(lambda a: _parts(a, lambda t, s: [])),
    "content-object": Edit(lambda a: _retell(a, lambda t, s: {"content": _part("text", _marked(t, s))})),
    "content-number": Edit(partial(_replace, text=7)),
    "field-thinking": Edit(lambda a: _retell(a, lambda t, s: {"content": s, "thinking": t}), usable=True),
    "details-text": Edit(lambda a: _details(a, lambda t: _part("reasoning.text", t)), usable=True),
    "details-summary": Edit(lambda a: _details(a, lambda t: {"type": "reasoning.summary", "summary": t})),
    "details-encrypted": Edit(lambda a: _details(a, lambda t: {"type": "reasoning.encrypted", "data": "AAAA"})),
    # Names
    "wrong-model": Edit(partial(_top, model="some-other-model")),
    "model-base": Edit(partial(_top, model="gpt-4o-2024-08-06"), usable=True),
    "model-dated": Edit(lambda a: _name(a, lambda name: f"{name}-2024-08-06"), usable=True),
    "model-mini": Edit(lambda a: _name(a, lambda name: f"{name}-mini")),
    "model-Base": Edit(lambda a: _name(a, lambda name: f"{name}-Base")),
    "model-shorter": Edit(lambda a: _name(a, lambda name: name[:-2])),
    "model-nitro": Edit(lambda a: _name(a, lambda name: f"{name}:nitro"), usable=True),
    "model-owner": Edit(lambda a: _name(a, lambda name: f"owner/{name}"), usable=True),
    "model-path": Edit(lambda a: _name(a, lambda name: f"/models/{name}.gguf"), usable=True),
    "model-upper": Edit(lambda a: _name(a, str.upper), usable=True),
    "model-changing": Edit(_changing_name),
    "model-null": Edit(partial(_top, model=None), usable=True),
    "model-missing": Edit(partial(_drop, key="model"), usable=True),
    "model-number": Edit(partial(_top, model=7)),
    # The end
    "finish-abort": Edit(partial(_ended_early, finish="abort")),
    "finish-error": Edit(partial(_ended_early, finish="error")),
    "finish-null": Edit(partial(_choice, finish_reason=None)),
    "finish-number": Edit(partial(_choice, finish_reason=2)),
    "finish-list": Edit(partial(_choice, finish_reason=["stop"])),
    "finish-unknown": Edit(partial(_choice, finish_reason="eos_token")),
    "finish-missing": Edit(_endless),
    # Errors with status 200
    "200-error-402": Edit(partial(_only, error={"code": 402, "message": "Insufficient credits"})),
    "200-error-403": Edit(partial(_only, error={"code": 403, "message": "Your input was flagged"})),
    "200-error-429": Edit(partial(_only, error={"code": 429, "message": "Rate limit exceeded: free-models"})),
    "200-error-503": Edit(partial(_only, error={"code": "503", "message": "No instances available"})),
    "200-error-text": Edit(partial(_only, error="model runner has unexpectedly stopped")),
    "200-error-beside": Edit(partial(_top, error={"code": 502, "message": "Provider returned error"}, choices=[])),
    "choice-error": Edit(_broken_off),
    # Characters
    "half-emoji": Edit(partial(_put, piece=HALF_EMOJI), usable=True),
    "half-emoji-low": Edit(partial(_put, piece=OTHER_HALF), usable=True),
    "half-emoji-end": Edit(lambda a: _write(a, lambda text: text + HALF_EMOJI), usable=True),
    "half-emoji-reasoning": Edit(_put_in_reasoning, usable=True),
    "half-emoji-token": Edit(partial(_each_place, change=_half_token), usable=True),
    "half-emoji-finish": Edit(partial(_choice, finish_reason=HALF_EMOJI)),
    "half-emoji-model": Edit(lambda a: _name(a, lambda name: name + HALF_EMOJI)),
    "nul": Edit(partial(_put, piece="\0"), usable=True),
    # Usage
    "no-usage": Edit(partial(_drop, key="usage"), usable=True),
    "usage-null": Edit(partial(_usage, change=lambda count: None), usable=True),
    "usage-text": Edit(partial(_usage, change=lambda count: "ten"), usable=True),
    "usage-digits": Edit(partial(_usage, change=str), usable=True),
    "usage-negative": Edit(partial(_usage, change=lambda count: -count), usable=True),
    "usage-float": Edit(partial(_usage, change=lambda count: count + 0.5), usable=True),
    "usage-nan": Edit(partial(_usage, change=lambda count: float("nan")), usable=True),
    "usage-huge": Edit(partial(_usage, change=lambda count: 2**70), usable=True),
    "usage-list": Edit(partial(_top, usage=[]), usable=True),
    "usage-word": Edit(partial(_top, usage="none"), usable=True),
    "usage-more": Edit(_more_read, usable=True),
    # Log-probabilities
    "logprobs-written-second": Edit(partial(_each_place, change=_written_second), usable=True),
    "logprobs-written-missing": Edit(partial(_each_place, change=_written_missing), usable=True),
    "logprobs-nan": Edit(partial(_each_place, change=partial(_all_are, float("nan"))), usable=True),
    "logprobs-infinite": Edit(partial(_each_place, change=partial(_all_are, float("-inf"))), usable=True),
    "logprobs-positive": Edit(partial(_each_place, change=partial(_all_are, 0.5)), usable=True),
    "logprobs-null": Edit(partial(_each_place, change=partial(_all_are, None)), usable=True),
    "logprobs-text": Edit(partial(_each_place, change=partial(_all_are, "-0.1")), usable=True),
    "logprobs-bytes": Edit(partial(_each_place, change=_as_bytes), usable=True),
    "logprobs-ids": Edit(partial(_each_place, change=_as_ids), usable=True),
    "logprobs-twice": Edit(partial(_each_place, change=_twice), usable=True),
    "logprobs-split": Edit(_split, usable=True),
    "logprobs-shorter": Edit(_shorter, usable=True),
    "logprobs-no-top": Edit(_no_top, usable=True),
}


# Bodies that are no such answer, with status 200


def _bytes(answer: Any) -> bytes:
    return answer if isinstance(answer, bytes) else json.dumps(answer).encode()


def _filled(answer: Any) -> bytes:
    return _bytes(answer | {"padding": "x" * MANY_BYTES} if isinstance(answer, dict) else answer)


def _long(answer: Any) -> bytes:
    """Each text over and over."""
    if isinstance(answer, dict):
        _write(answer, lambda text: text * (MANY_BYTES // len(text) + 1))
    return _bytes(answer)


def _streamed(answer: Any) -> bytes:
    return b"data: " + _bytes(answer) + b"\n\ndata: [DONE]\n\n"


BODIES: dict[str, Callable[[Any], bytes]] = {
    "malformed": lambda answer: _bytes(answer).replace(b'"', b"'"),
    "truncated": lambda answer: _bytes(answer)[: len(_bytes(answer)) // 2],
    "200-empty": lambda answer: b"",
    "200-text": lambda answer: b"upstream connect error or disconnect/reset before headers",
    "200-null": lambda answer: b"null",
    "200-number": lambda answer: b"7",
    "200-list": lambda answer: b"[" + _bytes(answer) + b"]",
    "200-stream": _streamed,
    "200-latin-1": lambda answer: b'{"choices": [{"text": "caf\xe9"}]}',
    "deep": lambda answer: b'{"choices": ' + b"[" * DEEP + b"]" * DEEP + b"}",
    "deep-beside": lambda answer: _bytes(answer)[:-1] + b', "more": ' + b"[" * DEEP + b"]" * DEEP + b"}",
    "huge": _long,
    "huge-beside": _filled,
}


# Errors


class Error(NamedTuple):
    """What a request is refused with: a status, a body as JSON or as bytes, and headers."""

    status: int
    body: Any
    headers: Mapping[str, str] = {}


def problem(message: str, kind: str, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    """The JSON of an error as OpenAI's servers and vLLM word it."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def unsupported(field: str, wording: str) -> Error:
    """How a host words it that it doesn't take a field of the request: openai, azure, mistral or llama-cpp-python."""
    instead = " Use 'max_completion_tokens' instead." if field == "max_tokens" else ""
    extra = {"type": "extra_forbidden", "loc": ["body", field], "msg": "Extra inputs are not permitted", "input": 1}
    match wording:
        case "mistral":
            return Error(422, {"detail": [extra]})
        case "azure":
            message = f"Unrecognized request argument supplied: {field}"
            return Error(
                400, {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}}
            )
        case "llama-cpp-python":
            return Error(500, problem(f"[{extra | {'loc': ('body', field)}}]", "internal_server_error"))
    message = f"Unsupported parameter: '{field}' is not supported with this model.{instead}"
    return Error(400, problem(message, "invalid_request_error", "unsupported_parameter", field))


WORDINGS = ("openai", "azure", "mistral", "llama-cpp-python")

_TOO_LONG = (
    "This model's maximum context length is 2048 tokens. However, you requested 2311 tokens (1287 in the messages, "
    "1024 in the completion). Please reduce the length of the messages or completion."
)
_LIMIT = problem("Rate limit reached.", "rate_limit_error", "rate_limit_exceeded")

ERRORS: dict[str, Error] = {
    "400-context": Error(
        400, {"object": "error", "message": _TOO_LONG, "type": "BadRequestError", "param": None, "code": 400}
    ),
    "400-seed": unsupported("seed", "azure"),
    "400-max-tokens": unsupported("max_tokens", "openai"),
    "422-seed": unsupported("seed", "mistral"),
    "422-text": Error(422, {"detail": "Input should be a valid list"}),
    "400-error-text": Error(400, {"error": "model requires more system memory than is available"}),
    "400-text": Error(400, b"Bad Request: the prompt is too long"),
    "400-empty": Error(400, b""),
    "400-list": Error(400, ["the prompt is too long"]),
    "402": Error(402, {"error": {"code": 402, "message": "Insufficient credits"}}),
    "404-deployment": Error(
        404,
        {"error": {"code": "DeploymentNotFound", "message": "The API deployment for this resource does not exist."}},
    ),
    "413": Error(413, b"<html><head><title>413 Request Entity Too Large</title></head></html>"),
    "500-validation": unsupported("response_format", "llama-cpp-python"),
    "500-detail": Error(500, {"detail": "CUDA out of memory"}),
    "500-text": Error(500, b"Internal Server Error"),
    "500-empty": Error(500, b""),
    "500-long": Error(500, problem("Traceback: " + "frame " * 2_000, "server_error")),
    "500-half-emoji": Error(500, problem(f"can't encode {HALF_EMOJI}", "server_error")),
    "529": Error(529, problem("Overloaded", "overloaded_error")),
    "429-ms": Error(429, _LIMIT, {"retry-after-ms": "1500"}),
    "429-resets": Error(429, _LIMIT, {"x-ratelimit-reset-requests": "1.5s", "x-ratelimit-reset-tokens": "6m0s"}),
    "429-reset-at": Error(429, _LIMIT, {"x-ratelimit-reset": "1767225600000"}),
    "429-far": Error(429, _LIMIT, {"Retry-After": "1000000000"}),
    "429-negative": Error(429, _LIMIT, {"Retry-After": "-5"}),
    "429-nonsense": Error(429, _LIMIT, {"Retry-After": "soon"}),
    "429-infinite": Error(429, _LIMIT, {"Retry-After": "inf"}),
    "429-nan": Error(429, _LIMIT, {"Retry-After": "nan"}),
}


# What /models says


def _entry(name: Any) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "tests"}


def _listed(*names: Any) -> dict[str, Any]:
    return {"object": "list", "data": [_entry(name) for name in names]}


LISTINGS: dict[str, Error] = {
    "404": Error(404, {"error": {"code": "404", "message": "Resource not found"}}),
    "401": Error(401, problem("Listing models needs a key of another kind.", "invalid_request_error")),
    "500": Error(500, b"Internal Server Error"),
    "html": Error(200, b"<!DOCTYPE html><html><body>Please sign in</body></html>"),
    "empty": Error(200, _listed()),
    "others": Error(200, _listed("some-model", "another-model")),
    "wildcard": Error(200, _listed("*")),
    "prefix": Error(200, _listed("some-model", "toy-*", "toy/*")),
    "bare": Error(200, [_entry("toy"), _entry("toy-comply")]),
    "names": Error(200, {"data": ["toy", "toy-comply"]}),
    "null-ids": Error(200, _listed(None, 7)),
    "wrong-type": Error(200, {"object": "list", "data": "toy-comply"}),
    "null-data": Error(200, {"object": "list", "data": None}),
    "number": Error(200, 7),
}
"""Instead of the models that there are, by the option `listing`."""
