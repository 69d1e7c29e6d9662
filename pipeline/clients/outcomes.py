"""What a host's answer means: the one table of outcomes, and the one reader of what hosts do differently.

An outcome is one of four. *Good*: an answer. *Again* (`Retry`): a fault that may pass; the request is sent once more.
*This request's* (`Refused`): others may still be answered; it is believed when the host says the same several times in
a row. *The run's* (`EngineError`): nothing will be answered until somebody mends it. The host's own words are kept in
each, cut at 200 characters and without anything that looks like a secret.

Hosts differ in how they say the same: the thinking is in `reasoning`, `reasoning_content`, `thinking`,
`reasoning_details` or in parts of the content, an error comes with a status or inside a 200, the model's name is that
of a deployment, an alias, or a dated version. All of that is read here and nowhere else.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from email.utils import parsedate_to_datetime
from enum import Enum
from time import time
from typing import Any

from pipeline.budget import NO_TOKENS, EngineError, NoModelError, Tokens
from pipeline.engine import Refused, Reply, Retry
from pipeline.ledger import FILTERED
from pipeline.recipe.mistakes import redacted

_WORDS = 200
"""Characters of a host's own words that are kept."""

_LONGEST = 4_000_000
"""Characters of an answer that are kept: more than a million tokens have."""

_MOST_COUNTED = 2**53

_EMPTY = 6
"""How often in a row an answer must be empty, without a word of why, to be believed."""


class Outcome(Enum):
    """What an answer means for the request and for all others."""

    AGAIN = "asked again"
    BUSY = "asked again, and less at a time"
    ROW = "this request's"
    RUN = "the run's"


STATUSES: dict[int, Outcome] = {
    400: Outcome.ROW,
    401: Outcome.RUN,
    402: Outcome.RUN,
    403: Outcome.RUN,
    404: Outcome.RUN,
    405: Outcome.RUN,
    408: Outcome.AGAIN,
    409: Outcome.AGAIN,
    413: Outcome.ROW,
    415: Outcome.RUN,
    422: Outcome.ROW,
    425: Outcome.AGAIN,
    429: Outcome.BUSY,
    451: Outcome.ROW,
    498: Outcome.BUSY,
    501: Outcome.RUN,
    503: Outcome.BUSY,
    529: Outcome.BUSY,
}
"""By HTTP status, also of an error inside a 200. Any other from 400 on is the request's, from 500 on asked again."""

CODES: dict[str, Outcome] = {
    "content_filter": Outcome.ROW,
    "content_policy_violation": Outcome.ROW,
    "responsibleaipolicyviolation": Outcome.ROW,
    "moderation": Outcome.ROW,
    "insufficient_quota": Outcome.RUN,
    "billing_hard_limit_reached": Outcome.RUN,
    "account_deactivated": Outcome.RUN,
    "invalid_api_key": Outcome.RUN,
    "model_not_found": Outcome.RUN,
    "context_length_exceeded": Outcome.ROW,
    "string_above_max_length": Outcome.ROW,
    "rate_limit_exceeded": Outcome.BUSY,
    "overloaded_error": Outcome.BUSY,
    "server_error": Outcome.AGAIN,
}
"""By the code or type of an error's body, which says more than its status."""

FINISHES: dict[str, str] = {
    "max_tokens": "length",
    "max_output_tokens": "length",
    "model_length": "length",
    "end_turn": "stop",
    "eos": "stop",
    "eos_token": "stop",
    "stop_sequence": "stop",
}
"""What hosts call the two normal ends of an answer, by the OpenAI API's words for them."""

_HALF = frozenset(("abort", "aborted", "error", "cancelled", "canceled", "failed", "timeout", "interrupted"))
"""How an answer ends that was broken off: it is asked for again."""

_FILTERS = frozenset(("content_filter", "safety", "recitation", "prohibited_content", "blocklist", "refusal"))
"""How an answer ends that the host keeps to itself."""

_SURROGATES = re.compile("[\ud800-\udfff]")


def read_reply(text: str, model: str, names: Names | None = None) -> Reply:
    """The answer in the text of a completion or chat completion.

    Args:
        text: the body of a response with status 200.
        model: the model that was asked for.
        names: what the host calls the model; None takes any name.

    Raises:
        Retry: it is no answer, broken off, or another model's.
        Refused: the host answered this request with nothing.
        EngineError: an error inside it ends the run.
    """
    answer, choice = _choice(text, model)
    paid = _counted(answer)
    finish = _finish(choice, paid)
    message = choice["message"] if isinstance(choice.get("message"), dict) else choice
    kept: dict[str, Any] = dict(_texts(message))
    refusal = message.get("refusal")
    if finish in _FILTERS or (refusal and not kept):
        why = f": {_short(refusal)}" if isinstance(refusal, str) and refusal else ""
        raise Refused(f"answered with nothing ({finish or 'refusal'}{why})", finish=FILTERED, paid=paid)
    if not kept:
        raise Refused(f"an answer without text (finish_reason {finish})", finish=FILTERED, believed=_EMPTY, paid=paid)
    tokens, likely = _logprobs(choice.get("logprobs"))
    ids = choice.get("prompt_token_ids") or answer.get("prompt_token_ids")
    read = isinstance(ids, list) and all(type(one) is int for one in ids)
    named = answer.get("model")
    name = _name(named) if isinstance(named, str) and named else model
    further = {"logprobs": likely, "tokens": tokens, "prompt_token_ids": ids if read else None}
    kept |= {key: value for key, value in (further | {"model": name if name != model else None}).items() if value}
    said = _SURROGATES.sub("\ufffd", json.dumps(kept, ensure_ascii=False, sort_keys=True))
    if len(said) > _LONGEST:
        raise Retry(f"an answer of {len(said):,} characters", paid=paid)
    if names is not None and not names.takes(name):
        raise Retry(f"an answer by the model {_short(name)!r}, not by {names.said!r}", paid=paid)
    counts = (int(paid.prompt), int(paid.completion)) if paid else (None, None)
    return Reply(said, FINISHES.get(finish or "", finish), *counts)


def _choice(text: str, model: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The JSON of an answer, and the one choice in it."""
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise Retry(f"an answer that is no completion: {_short(text)!r}")
    if answer.get("error"):
        raise _told(200, answer, model)
    choices = answer.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict):
        raise Retry("an answer that is no completion: it has no choices", paid=_counted(answer))
    if choice.get("error"):
        raise _told(200, choice, model)
    return answer, choice


def _finish(choice: Mapping[str, Any], paid: Tokens | None) -> str | None:
    """Why an answer ended, in small letters. Raises Retry where it was broken off, or that can't be read."""
    finish = choice.get("finish_reason")
    if finish is None:
        return None
    if not isinstance(finish, str):
        raise Retry(f"an answer whose finish_reason is {_short(repr(finish))}", paid=paid)
    if finish.lower() in _HALF:
        raise Retry(f"half an answer (finish_reason {_short(finish)})", paid=paid)
    return _short(finish).lower() or None


def read_error(status: int, headers: Mapping[str, str], text: str, url: str, model: str) -> Exception:
    """What a response with an error's status means: a `Retry`, a `Refused` or an `EngineError`."""
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        body = None
    error = _told(status, body if isinstance(body, dict) else {"error": text}, model, url)
    if isinstance(error, Retry):
        error.fault = error.fault._replace(after=retry_after(headers))
    return error


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds that a host wants to be left alone for, None where it doesn't say, or says nothing sensible."""
    millis, value = headers.get("retry-after-ms"), headers.get("retry-after")
    for number, unit in ((millis, 1e-3), (value, 1.0)):
        try:
            seconds = float(number or "") * unit
        except ValueError:
            continue
        if math.isfinite(seconds) and seconds >= 0:
            return seconds
    try:
        return max(parsedate_to_datetime(value or "").timestamp() - time(), 0.0)
    except (ValueError, OverflowError, TypeError):
        return None


class Names:
    """What a host calls a model that is asked for under one name.

    The name that was asked for is always right. Another one stands behind it (a deployment, an alias, a dated version)
    if all answers carry it: so it is doubted until it was given twice in a row, and refused once any other was taken.
    """

    def __init__(self, model: str) -> None:
        self.said = model
        self._asked, self._sure, self._last = model, False, ""

    def sure(self, name: str | None = None) -> None:
        """Take it as known what the host calls the model: `name`, or else the name that is asked for."""
        self.said, self._sure = name or self._asked, True

    def takes(self, name: str) -> bool:
        """Whether an answer by this name is the model's."""
        if name.casefold() == self._asked.casefold():
            self.said, self._sure = self._asked, True
            return True
        if self._sure:
            return name == self.said
        if name == self._last:
            self.said, self._sure = name, True
            return True
        self._last = name
        return False


def _told(status: int, body: Mapping[str, Any], model: str, url: str | None = None) -> Exception:
    """What an error's status and body mean."""
    error = body.get("error")
    code = error.get("code") if isinstance(error, dict) else body.get("code")
    number = code if type(code) is int else int(code) if isinstance(code, str) and code.isdecimal() else None
    if status == 200:
        status = number if number is not None and 400 <= number < 600 else 500
    words = message(body)
    kinds = [code, *([error.get("type"), _inner(error)] if isinstance(error, dict) else [])]
    named = [str(kind).lower() for kind in kinds if kind]
    outcome = next((CODES[kind] for kind in named if kind in CODES), None)
    if outcome is None:
        outcome = STATUSES.get(status, Outcome.AGAIN if status >= 500 else Outcome.ROW)
        if status == 403 and re.search(r"(?i)moderat|flagged|content polic", words):
            outcome = Outcome.ROW
    said = f"HTTP {status}: {words}" if words else f"HTTP {status}"
    match outcome:
        case Outcome.ROW:
            return Refused(said)
        case Outcome.RUN:
            return _ends(status, said, model, url)
        case _:
            return Retry(said, busy=outcome is Outcome.BUSY, paid=NO_TOKENS)


def _ends(status: int, said: str, model: str, url: str | None) -> EngineError:
    place = url or "The server"
    if status in (401, 403):
        return EngineError(f"{place} {refused_key(status)} It says: {said}.")
    if status in (404, 405, 501):
        return NoModelError(f"{place} has no model {model!r}, or is no OpenAI-compatible server ({said}).")
    return EngineError(f"{place} answers nothing until that is mended: {said}.")


def refused_key(status: int) -> str:
    """What to say of a host that refuses the key."""
    return f"refuses the key (HTTP {status}). Put a valid one into the environment (api_key_env names the variable)."


def message(body: Any) -> str:
    """A host's own words for what went wrong, as far as they may be shown; "" where it has none."""
    error = body.get("error") if isinstance(body, Mapping) else body
    if isinstance(error, Mapping):
        inner = error.get("metadata")
        raw = inner.get("raw") if isinstance(inner, Mapping) else None
        found = error.get("message") or error.get("detail") or error.get("code") or error.get("type")
        error = f"{found} ({raw})" if found and isinstance(raw, str) else found
    if not error and isinstance(body, Mapping):
        error = next((body[key] for key in ("message", "detail", "errors", "msg", "object") if body.get(key)), None)
    if isinstance(error, list):
        error = "; ".join(map(_validation, error[:3]))
    return _short("" if error is None else error if isinstance(error, str) else json.dumps(error, default=str))


def _validation(item: Any) -> str:
    """One of FastAPI's complaints, without the input that it repeats."""
    if not isinstance(item, Mapping):
        return str(item)
    place = item.get("loc")
    named = ".".join(map(str, place)) if isinstance(place, list) else ""
    said = str(item.get("msg") or item.get("message") or "")
    return f"{named}: {said}" if named else said


def _inner(error: Mapping[str, Any]) -> Any:
    inner = error.get("innererror") or error.get("inner_error")
    return inner.get("code") if isinstance(inner, Mapping) else None


def _name(named: str) -> str:
    """A model's name as it may be kept: of a file on the host (llama.cpp) the last part alone."""
    path = re.match(r"(?:/|~|\\.{1,2}/|[A-Za-z]:[\\\\/]|\\\\).*[\\\\/](?=[^\\\\/])", named)
    return (named[path.end() :] if path else named)[:_WORDS]


def _short(text: str) -> str:
    flat = " ".join(redacted(text[: 4 * _WORDS]).split())
    return _SURROGATES.sub("\ufffd", flat if len(flat) <= _WORDS else flat[: _WORDS - 1] + "…").rstrip(".")


def _counted(answer: Mapping[str, Any]) -> Tokens | None:
    """The tokens that a host counted, None where it doesn't say both."""
    usage = answer.get("usage")
    if not isinstance(usage, Mapping):
        return None
    counts = [_count(usage.get(name)) for name in ("prompt_tokens", "completion_tokens")]
    prompt, completion = counts
    return None if prompt is None or completion is None else Tokens(prompt, completion)


def _count(value: Any) -> int | None:
    whole = type(value) is int or (type(value) is float and value.is_integer())
    return int(value) if whole and 0 <= value < _MOST_COUNTED else None


def _texts(message: Mapping[str, Any]) -> dict[str, str]:
    """The texts of a message by what they are: ``content`` (``text`` of a completion) and ``reasoning``."""
    content, thought = message.get("content"), ""
    if isinstance(content, list):
        thought, content = _parts(content)
    named = ("reasoning", "reasoning_content", "thinking", "thought")
    found = next((text for name in named if (text := _text(message.get(name)))), "")
    found = found or _text(message.get("reasoning_details")) or thought
    texts = {"text": message.get("text"), "content": content, "reasoning": found}
    return {name: text for name, text in texts.items() if isinstance(text, str) and text}


def _parts(parts: Iterable[Any]) -> tuple[str, str]:
    """The thinking and the text of a content that is a list of parts."""
    thinking: list[str] = []
    said: list[str] = []
    for part in parts:
        kind = str(part.get("type", "text")).lower() if isinstance(part, Mapping) else "text"
        (thinking if "think" in kind or "reason" in kind else said).append(_text(part))
    return "".join(thinking), "".join(said)


def _text(value: Any) -> str:
    """The text in a field: itself, or that of its parts."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(map(_text, value))
    if isinstance(value, Mapping):
        names = ("text", "thinking", "reasoning", "summary", "content")
        return next((text for name in names if (text := _text(value.get(name)))), "")
    return ""


def _logprobs(found: Any) -> tuple[list[str], list[list[tuple[str, float]]]]:
    """The token that was written at each place, and the most likely ones there; those of a completion have another
    form. Nothing where any of it is not as it should be.
    """
    if not isinstance(found, Mapping):
        return [], []
    try:
        if found.get("content"):
            places = found["content"]
            likely = [[(top["token"], top["logprob"]) for top in place["top_logprobs"]] for place in places]
            tokens = [place["token"] for place in places]
        else:
            likely = [list(place.items()) if place else [] for place in found.get("top_logprobs") or []]
            tokens = list(found.get("tokens") or [])
    except (LookupError, TypeError, AttributeError):
        return [], []
    sound = all(isinstance(token, str) and _likely(value) for place in likely for token, value in place)
    sound = sound and all(isinstance(token, str) for token in tokens)
    return (tokens, likely) if sound else ([], [])


def _likely(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value <= 1e-3
