"""The client `openai`: a model behind one or several OpenAI-compatible servers, through the `openai` package.

Answers are read as JSON here and not by the client's models: servers differ in what they add, and a broken answer must
be told from a good one.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Mapping
from email.utils import parsedate_to_datetime
from time import time
from typing import TYPE_CHECKING, Any

from pipeline.clients import Answer, Doubt, most_tokens, read_entry
from pipeline.engine import Engine, EngineError, Refused, Reply, Retry
from pipeline.errors import InputError
from pipeline.ledger import request_key
from pipeline.recipe import ServedModel

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI


_LISTING = 20.0
"""Seconds that a server has to list its models."""

_PAUSES = (0.1, 0.4, 1.0)
"""Seconds after each try of a question that is asked beforehand."""


class OpenAIClient:
    """Asks servers; implements `pipeline.clients.Client`.

    Args:
        config: the model, its servers and its key.
        engine: sends the requests and keeps the answers.
        before: awaited before each request that is really sent; it has everything checked once, before the first
            answer is paid for.

    Raises:
        InputError: the key's environment variable is not set.
    """

    engine = "openai"

    def __init__(
        self, config: ServedModel, engine: Engine, before: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        self._config, self._engine, self._before = config, engine, before
        self._clients: dict[str, AsyncOpenAI] = {}
        self._key = _api_key(config)

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
        """See `Client.probe`.

        A server that fails for the moment is asked three times and then left out: the engine will try it again.
        """
        request = self._request(body, None, 0)
        answers = {}
        for url in dict.fromkeys(self._config.base_url):
            for pause in _PAUSES:
                try:
                    reply = await self._send(url, request["body"])
                except Retry:
                    await asyncio.sleep(pause)
                else:
                    self._engine.keep(request, reply, asker=asker, model=self._config.model)
                    answers[url] = read_entry(reply)
                    break
        return answers

    def probed(self, body: Mapping[str, Any]) -> Answer | None:
        """See `Client.probed`."""
        entry = self._engine.kept(self._request(body, None, 0))
        return read_entry(entry) if entry else None

    async def check(self) -> None:
        """Ask each server which models it has. One that doesn't say may still do, or one of several that is down.

        Raises:
            EngineError: no server can be reached.
            InputError: a server refuses the key, has other models, or sends web pages.
        """
        down = []
        for url in dict.fromkeys(self._config.base_url):
            try:
                listed = await self._models(url)
            except Retry as retry:
                down.append(f"{url} ({retry})")
                continue
            if listed and self._config.model not in listed:
                has = ", ".join(sorted(listed)[:20])
                raise InputError(f"{url} has no model {self._config.model!r}. It has: {has}.")
        if len(down) == len(set(self._config.base_url)):
            raise EngineError(
                f"Nothing answers at {', '.join(down)}, and nothing was asked. Start the server of "
                f"{self._config.model!r}, or give its base_url."
            )

    async def _models(self, url: str) -> list[str]:
        import openai

        text = why = ""
        for pause in _PAUSES:
            try:
                text = (await self._client(url).models.with_raw_response.list(timeout=_LISTING)).text
                return [model["id"] for model in json.loads(text)["data"]]
            except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
                raise InputError(refused_key(url, error.status_code)) from error
            except openai.APIStatusError as error:
                text = error.response.text
            except openai.APIConnectionError as error:
                text, why = "", str(error.__cause__ or error).replace(" ssl:default", "")
            except openai.APIError:
                text = why = ""
            except (LookupError, ValueError, TypeError):
                pass
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
        if self._before is not None:
            await self._before()
        reply = await self._send(url, body)
        why = doubt(read_entry(reply)) if doubt else None
        if why is not None:
            raise Retry(why, reply=reply)
        return reply

    async def _send(self, url: str, body: Mapping[str, Any]) -> Reply:
        import openai

        model = self._config.model
        client = self._client(url)
        try:
            path = "/chat/completions" if "messages" in body else "/completions"
            text = await client.post(path, body=body, cast_to=str)
        except openai.APIStatusError as error:
            raise _status_error(error, url, model) from error
        except openai.APIConnectionError as error:
            raise Retry(f"{type(error).__name__}: {error}") from error
        return reply(text, model)

    def _client(self, url: str) -> AsyncOpenAI:
        import openai

        if url not in self._clients:
            self._clients[url] = openai.AsyncOpenAI(
                base_url=url,
                api_key=self._key,
                max_retries=0,
                timeout=None,
                http_client=openai.DefaultAioHttpClient(),
            )
        return self._clients[url]


def _api_key(config: ServedModel) -> str:
    key = os.environ.get(config.api_key_env)
    if key is None and config.api_key_env != ServedModel.model_fields["api_key_env"].default:
        raise InputError(f"The environment variable {config.api_key_env} is not set: put the server's key into it.")
    return key or "none"


def reply(text: str, model: str) -> Reply:
    """The answer in the text of a completion or chat completion by `model`.

    Raises:
        Retry: it is no such answer, is empty, or is another model's.
    """
    try:
        answer = json.loads(text)
        choice = answer["choices"][0]
        message = choice["message"] if "message" in choice else {"text": choice["text"]}
        fields = ("text", "content", "reasoning", "reasoning_content")
        kept = {key: message[key] for key in fields if message.get(key)}
        finish, logprobs = choice.get("finish_reason"), _logprobs(choice.get("logprobs"))
        usage = answer.get("usage") or {}
        tokens = (usage.get("prompt_tokens"), usage.get("completion_tokens"))
        named = answer.get("model") or model
        known = named.startswith(model) or model.startswith(named) or model.endswith(named)
    except (ValueError, LookupError, TypeError, AttributeError):
        raise Retry("an answer that is no completion") from None
    if not known:
        raise Retry(f"an answer by the model {named!r}")
    if not kept:
        raise Retry("an answer without text")
    if logprobs:
        kept["logprobs"], kept["tokens"] = logprobs, _tokens(choice["logprobs"])
    if choice.get("prompt_token_ids"):
        kept["prompt_token_ids"] = choice["prompt_token_ids"]
    return Reply(json.dumps(kept, ensure_ascii=False, sort_keys=True), finish, *tokens)


def _logprobs(found: Any) -> list[list[tuple[str, float]]]:
    """The most likely tokens at each place: those of a chat, or those of a completion, which have another form."""
    if not found:
        return []
    if found.get("content"):
        return [[(top["token"], top["logprob"]) for top in place["top_logprobs"]] for place in found["content"]]
    return [list(place.items()) if place else [] for place in found.get("top_logprobs") or []]


def _tokens(found: Any) -> list[str]:
    """The written token at each place."""
    return [place["token"] for place in found.get("content") or ()] or list(found.get("tokens") or ())


def _status_error(error: APIStatusError, url: str, model: str) -> Exception:
    """What an HTTP status means for the request, and for all others."""
    status = error.status_code
    after = retry_after(error.response.headers.get("retry-after"))
    if status in (401, 403):
        return EngineError(refused_key(url, status))
    if status == 404:
        return EngineError(f"{url} has no model {model!r}, or is no OpenAI-compatible server: {error.message}.")
    if status in (400, 413, 422):
        return Refused(f"HTTP {status}: {error.message}")
    return Retry(f"HTTP {status}", busy=status in (429, 503, 529), after=after)


def refused_key(url: str, status: int) -> str:
    """What to say where a server refuses the key."""
    return (
        f"{url} refuses the key (HTTP {status}). Put a valid one into the environment (api_key_env names the variable)."
    )


def retry_after(value: str | None) -> float | None:
    """Seconds from a Retry-After header, which holds seconds or a date."""
    if value is None:
        return None
    try:
        return max(float(value), 0.0)
    except ValueError:
        try:
            return max(parsedate_to_datetime(value).timestamp() - time(), 0.0)
        except ValueError:
            return None
