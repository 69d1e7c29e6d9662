"""Clients: how one model is asked, whatever it runs in. Samplers and judges ask through them and know no more.

A request's body is that of the OpenAI API: with ``messages`` it is a chat completion, with ``prompt`` (token ids, or
text) a completion. Every request goes through a `pipeline.engine.Engine`, and so through the ledger.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from pipeline.engine import Reply, Tokens
from pipeline.ledger import Entry, LedgerError


class Answer(NamedTuple):
    """What a model wrote.

    ``text`` is the content of a chat's message or the text of a completion; ``reasoning`` the field that a server puts
    the thinking into, None where it has none; ``finish`` why it ended; ``logprobs`` the most likely tokens at each
    place with their log-probabilities, ``prompt_ids`` the token ids that the server says it read, ``tokens`` those that
    were written at the places: None where they were not asked for or not given. ``model`` is what the server calls the
    model, None where that is the name it was asked by.
    """

    text: str
    reasoning: str | None = None
    finish: str | None = None
    logprobs: tuple[dict[str, float], ...] | None = None
    prompt_ids: tuple[int, ...] | None = None
    tokens: tuple[str, ...] | None = None
    model: str | None = None


class Doubtful(NamedTuple):
    """Why an answer looks as if the server had failed, and whether it is one at all: where it is not, a second such
    answer is this request's outcome, and not taken.
    """

    why: str
    taken: bool = True


Doubt = Callable[[Answer], Doubtful | None]


class Client(Protocol):
    """One model, asked once for each request: after that its answer is in the ledger.

    ``engine`` is what the model runs in (``openai``, ``vllm``), ``sent`` the requests that were really sent.
    """

    engine: str

    async def ask(
        self,
        body: Mapping[str, Any],
        *,
        asker: str,
        template: str | None = None,
        attempt: int = 0,
        doubt: Doubt | None = None,
    ) -> Answer:
        """The model's answer to a request.

        Args:
            body: the request without ``model``.
            asker: the sampler or judge that asks.
            template: the hash of the templates that the request was made with.
            attempt: which try at a prefill this is.
            doubt: says why an answer looks as if the server had failed, None where it doesn't. A server is then asked
                once more, and taken at its word where the answer may be one.

        Raises:
            Refused: the model won't answer this request.
            EngineError: the model could not be made to answer.
        """
        ...

    def key(self, body: Mapping[str, Any], *, template: str | None = None, attempt: int = 0) -> bytes:
        """The key under which the ledger has the answer to a request."""
        ...

    async def probe(self, body: Mapping[str, Any], *, asker: str) -> dict[str, Answer]:
        """Send a request to every server, answered before or not; the answers by base URL.

        The first answer goes into the ledger. A server that gives none in a few tries is unproven, and asked nothing
        more as long as there is another one. Raises like `ask`, EngineError also where no server answers.
        """
        ...

    def probed(self, body: Mapping[str, Any]) -> Answer | None:
        """The answer to a probe that the ledger has, of this run or an earlier one."""
        ...

    async def check(self) -> None:
        """Find out whether the model is there at all. Raises InputError where it is not."""
        ...

    async def close(self) -> None:
        """Free what the client holds."""
        ...


def read_entry(entry: Entry | Reply) -> Answer:
    """The answer that the ledger keeps as JSON. Raises LedgerError where it is none of ours."""
    try:
        kept = json.loads(entry.answer)
        reasoning = next((kept[key] for key in ("reasoning", "reasoning_content") if kept.get(key)), None)
        logprobs = tuple(map(_likeliest, kept["logprobs"])) if kept.get("logprobs") else None
        ids, tokens = (tuple(kept[key]) if kept.get(key) else None for key in ("prompt_token_ids", "tokens"))
        text = kept.get("text") or kept.get("content") or ""
        answer = Answer(text, reasoning, entry.finish, logprobs, ids, tokens, kept.get("model"))
        if not all(isinstance(said, str | None) for said in (text, reasoning, answer.model)):
            raise TypeError
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError):
        raise LedgerError(
            "An answer in the ledger can't be read: it was changed. `recap-data ledger verify` lists all such entries."
        ) from None
    return answer


def _likeliest(place: list[tuple[str, float]]) -> dict[str, float]:
    """Tokens by text, each with its best log-probability: two ids may read alike once they are text.

    One that is no number is NaN.
    """
    best: dict[str, float] = {}
    for token, given in place:
        logprob = given if isinstance(given, int | float) else math.nan
        best[token] = max(logprob, best.get(token, logprob))
    return best


_LENGTHS = ("max_tokens", "max_completion_tokens")

TEMPLATE_TOKENS = 512
"""Tokens that a chat template may add to a message's text, until a server has counted how many it does."""


def most_tokens(body: Mapping[str, Any]) -> Tokens:
    """The most tokens that a request may have.

    Of the prompt: those of its ids, or else a bound: a token is at least a byte of text. Of the answer: as many as were
    asked for, times the number of answers (``n``, ``best_of``), and infinitely many where nothing says how many.
    """
    prompt = body.get("prompt")
    if prompt is None:
        size = sum(len(_text_of(message).encode("utf-8", "surrogatepass")) for message in body["messages"])
        size += TEMPLATE_TOKENS + len(json.dumps([body.get("tools"), body.get("response_format")], default=str))
    else:
        size = len(prompt.encode("utf-8", "surrogatepass")) if isinstance(prompt, str) else len(prompt)
    longest = max((body[key] for key in _LENGTHS if _number(body.get(key))), default=math.inf)
    answers = max((body[key] for key in ("n", "best_of") if _number(body.get(key))), default=1)
    return Tokens(size, longest * answers)


def _text_of(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    return content if isinstance(content, str) else json.dumps(content, default=str)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0
