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
from pipeline.ledger import Entry


class Answer(NamedTuple):
    """What a model wrote.

    ``text`` is the content of a chat's message or the text of a completion; ``reasoning`` the field that a server puts
    the thinking into, None where it has none; ``finish`` why it ended; ``logprobs`` the most likely tokens at each
    place with their log-probabilities, ``prompt_ids`` the token ids that the server says it read, ``tokens`` the one
    that it says it wrote at each place: None where they were not asked for or not given.
    """

    text: str
    reasoning: str | None = None
    finish: str | None = None
    logprobs: tuple[dict[str, float], ...] | None = None
    prompt_ids: tuple[int, ...] | None = None
    tokens: tuple[str, ...] | None = None


Doubt = Callable[[Answer], str | None]


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
                once more, and taken at its word.

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

        The first answer goes into the ledger. Raises like `ask`.
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
    """The answer that the ledger keeps as JSON."""
    kept = json.loads(entry.answer)
    reasoning = next((kept[key] for key in ("reasoning", "reasoning_content") if kept.get(key)), None)
    logprobs = tuple(map(_likeliest, kept["logprobs"])) if kept.get("logprobs") else None
    ids = tuple(kept["prompt_token_ids"]) if kept.get("prompt_token_ids") else None
    tokens = tuple(kept["tokens"]) if kept.get("tokens") else None
    return Answer(kept.get("text") or kept.get("content") or "", reasoning, entry.finish, logprobs, ids, tokens)


def _likeliest(place: list[tuple[str, float]]) -> dict[str, float]:
    """Tokens by text, each with its best log-probability: two ids may read alike once they are text.

    One that is no number is NaN.
    """
    best: dict[str, float] = {}
    for token, given in place:
        logprob = given if isinstance(given, int | float) else math.nan
        best[token] = max(logprob, best.get(token, logprob))
    return best


def most_tokens(body: Mapping[str, Any]) -> Tokens:
    """The most tokens that a request may have: an upper bound, since a token is at least a character of text."""
    prompt = body.get("prompt")
    texts = [prompt] if prompt is not None else [message["content"] for message in body["messages"]]
    return Tokens(sum(map(len, texts)), body.get("max_tokens") or body.get("max_completion_tokens") or 0)
