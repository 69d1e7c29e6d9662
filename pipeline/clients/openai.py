"""The client `openai`: a model behind one or several OpenAI-compatible servers, through the `openai` package.

Answers are read as JSON (`pipeline.clients.outcomes`) and not by the client's models: servers differ in what they add,
and a broken answer must be told from a good one.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from pipeline.budget import NO_TOKENS, BudgetSpent, EngineError, NoModelError, Tokens
from pipeline.clients import Answer, Doubt, most_tokens, read_entry
from pipeline.clients.outcomes import Names, read_error, read_reply, refused_key
from pipeline.engine import Engine, Reply, Retry
from pipeline.errors import InputError
from pipeline.ledger import request_key
from pipeline.recipe import ServedModel

if TYPE_CHECKING:
    from openai import AsyncOpenAI

_LOG = logging.getLogger(__name__)

_LISTING = 20.0
"""Seconds that a server has to list its models."""

_PAUSES = (0.1, 0.4, 1.0)
"""Seconds after each try of a question that is asked beforehand."""


_LONGEST_BODY = 64 << 20
"""Bytes of a response that are read: of an answer's longest text with twenty log-probabilities a token, and more."""


class OpenAIClient:
    """Asks servers; implements `pipeline.clients.Client`.

    Args:
        config: the model, its servers and its key.
        engine: sends the requests and keeps the answers.

    ``unproven`` are the servers that gave no answer to what was asked beforehand, and are not used.

    Raises:
        InputError: the key's environment variable is not set, or holds no key.
    """

    engine = "openai"
    _ASKED = "Every server is asked a harmless request first, and this one can't be used: nothing else was asked."

    def __init__(self, config: ServedModel, engine: Engine) -> None:
        self._config, self._engine = config, engine
        self._clients: dict[str, AsyncOpenAI] = {}
        self._key = _api_key(config)
        self._names = Names(config.model)
        self._listing = ""
        self.unproven: set[str] = set()

    async def ask(
        self,
        body: Mapping[str, Any],
        *,
        asker: str,
        template: str | None = None,
        attempt: int = 0,
        doubt: Doubt | None = None,
    ) -> Answer:
        """See `Client.ask`."""
        request = self._request(body, template, attempt)
        entry = await self._engine.ask(
            request,
            lambda url: self._checked(url, request["body"], doubt),
            asker=asker,
            model=self._config.model,
            attempt=attempt,
            most=most_tokens(request["body"]),
        )
        return read_entry(entry)

    def key(self, body: Mapping[str, Any], *, template: str | None = None, attempt: int = 0) -> bytes:
        """See `Client.key`."""
        return request_key(self._request(body, template, attempt))

    async def probe(self, body: Mapping[str, Any], *, asker: str) -> dict[str, Answer]:
        """See `Client.probe`."""
        request = self._request(body, None, 0)
        most = most_tokens(request["body"])
        answers: dict[str, Answer] = {}
        unproven: dict[str, EngineError] = {}
        send = partial(self._send, body=request["body"])
        before = self.probed(body)
        for url in dict.fromkeys(self._config.base_url):
            try:
                reply = await self._engine.probe(url, request, send, asker=asker, model=self._config.model, most=most)
            except BudgetSpent:
                raise
            except EngineError as error:
                unproven[url] = error
            else:
                answers[url] = read_entry(reply)
        if not answers:
            why = next(iter(unproven.values()))
            if self._listing and isinstance(why, NoModelError):
                raise InputError(f"{self._listing} It was asked all the same: {why}")
            raise EngineError(f"{' '.join(map(str, unproven.values()))} {self._ASKED}")
        for url, failure in unproven.items():
            _LOG.warning("%s is not used: %s", url, failure)
            self._engine.leave_out(url)
        self.unproven.update(unproven)
        self._check_name(before, answers)
        return answers

    def _check_name(self, before: Answer | None, answers: Mapping[str, Answer]) -> None:
        """Raise InputError where servers, or an earlier run and this one, call the model by different names."""
        names = {url: answer.model or self._config.model for url, answer in answers.items()}
        if before is not None:
            names["the ledger"] = before.model or self._config.model
        if len({name.casefold() for name in names.values()}) > 1:
            told = ", ".join(f"{name!r} at {place}" for place, name in names.items())
            raise InputError(
                f"Different models answer to the name {self._config.model!r}: {told}. Name the one that is meant, or "
                "give the sampler or judge an identity of its own, so that answers of both are kept apart."
            )

    def probed(self, body: Mapping[str, Any]) -> Answer | None:
        """See `Client.probed`."""
        entry = self._engine.kept(self._request(body, None, 0))
        return read_entry(entry) if entry else None

    async def check(self) -> None:
        """Ask each server which models it has. One that doesn't say, or doesn't name this one, may still answer it, as
        does one of several that is down: what counts is what it says to a harmless request (`probe`).

        Raises:
            EngineError: no server can be reached.
            InputError: a server refuses the key, or sends web pages.
        """
        down = []
        for url in dict.fromkeys(self._config.base_url):
            try:
                listed = await self._models(url)
            except Retry as retry:
                down.append(f"{url} ({retry})")
                continue
            if self._config.model in listed:
                self._names.sure()
            elif listed:
                has = ", ".join(sorted(listed)[:20])
                self._listing = f"{url} has no model {self._config.model!r}. It has: {has}."
        if len(down) == len(set(self._config.base_url)):
            raise EngineError(
                f"Nothing answers at {', '.join(down)}, and nothing was asked. Start the server of "
                f"{self._config.model!r}, or give its base_url."
            )

    async def _models(self, url: str) -> list[str]:
        """The names that a server lists; none where it lists them in no way that is known."""
        import openai

        text = why = ""
        for pause in _PAUSES:
            try:
                text = (await self._client(url).models.with_raw_response.list(timeout=_LISTING)).text
                return [model["id"] for model in json.loads(text)["data"] if isinstance(model["id"], str)]
            except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
                raise InputError(f"{url} {refused_key(error.status_code)}") from error
            except openai.APIStatusError as error:
                text = error.response.text
                if error.status_code < 500:
                    break
            except openai.APIConnectionError as error:
                text, why = "", str(error.__cause__ or error).replace(" ssl:default", "")
            except openai.APIError:
                text = why = ""
            except (LookupError, ValueError, TypeError, RecursionError):
                break
            await asyncio.sleep(pause)
        if text.lstrip()[:1] == "<":
            raise InputError(
                f"{url} answers with a web page and is no OpenAI-compatible server. base_url is the address of its "
                "API, which most often ends in /v1."
            )
        if why:
            raise Retry(why)
        return []

    async def close(self) -> None:
        """Close the connections."""
        for client in self._clients.values():
            await client.close()

    def _request(self, body: Mapping[str, Any], template: str | None, attempt: int) -> dict[str, Any]:
        return {
            "engine": self.engine,
            "server": self._config.identity,
            "revision": self._config.revision,
            "template": template,
            "body": {"model": self._config.model, **body},
            "attempt": attempt,
        }

    async def _checked(self, url: str, body: Mapping[str, Any], doubt: Doubt | None) -> Reply:
        reply = await self._send(url, body)
        found = doubt(read_entry(reply)) if doubt else None
        if found is not None:
            paid = None
            if reply.prompt_tokens is not None and reply.completion_tokens is not None:
                paid = Tokens(reply.prompt_tokens, reply.completion_tokens)
            raise Retry(found.why, paid=paid, reply=reply, doubtful=None if found.taken else found.why)
        return reply

    async def _send(self, url: str, body: Mapping[str, Any]) -> Reply:
        import openai

        model = self._config.model
        path = "/chat/completions" if "messages" in body else "/completions"
        try:
            text = await self._client(url).post(path, body=body, cast_to=str)
        except openai.APIStatusError as error:
            said = error.response.text.replace(self._key, "[key]") if len(self._key) > 4 else error.response.text
            raise read_error(error.status_code, error.response.headers, said, url, model) from error
        except openai.APIConnectionError as error:
            unmade = _unmade(error)
            if unmade is not None:
                raise Retry(str(unmade).replace(" ssl:default", ""), lost=True, paid=NO_TOKENS) from error
            raise Retry(f"{type(error).__name__}: {error}") from error
        except openai.APIError as error:
            raise Retry(f"{type(error).__name__}: {error}") from error
        try:
            return read_reply(text, model, self._names)
        except EngineError as error:
            raise EngineError(f"{url}: {error}") from None

    def _client(self, url: str) -> AsyncOpenAI:
        import openai

        if url not in self._clients:
            self._clients[url] = openai.AsyncOpenAI(
                base_url=url,
                api_key=self._key,
                max_retries=0,
                timeout=None,
                http_client=openai.DefaultAioHttpClient(event_hooks={"response": [_cap]}),
            )
        return self._clients[url]


def _api_key(config: ServedModel) -> str:
    key = os.environ.get(config.api_key_env)
    if key is None and config.api_key_env != ServedModel.model_fields["api_key_env"].default:
        raise InputError(f"The environment variable {config.api_key_env} is not set: put the server's key into it.")
    key = (key or "").strip()
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise InputError(
            f"The environment variable {config.api_key_env} holds no key: a key is one line of plain letters, digits "
            "and signs. Was something else, or more than the key, copied into it?"
        )
    return key or "none"


async def _cap(response: Any) -> None:
    """Have no more of a response's body read, unpacked, than an answer can have."""
    whole = response.aiter_bytes

    async def capped(chunk_size: int | None = None) -> AsyncIterator[bytes]:
        read = 0
        async for part in whole(chunk_size):
            read += len(part)
            if read > _LONGEST_BODY:
                await response.aclose()
                raise Retry(f"an answer of more than {_LONGEST_BODY >> 20} MiB")
            yield part

    response.aiter_bytes = capped


def _unmade(error: Exception) -> Exception | None:
    """Why a connection could not even be made, so that nothing was asked; None where it could."""
    import aiohttp

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, aiohttp.ClientConnectorError):
            return cause
        cause = cause.__cause__ or cause.__context__
    return None
