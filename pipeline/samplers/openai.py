"""The sampler `openai`: prefills from a model behind any OpenAI-compatible server, asked by chat.

The model is sampled plainly, or steered by a system or user template from ``prompts/``, and the head of its thinking is
kept (RECAP, Sec. 4.1). Where the thinking stands, in a field of its own, between tags or in front of a closing tag, is
read by `pipeline.thinking.read_output`. The steering is no part of the row: only the thinking is taken from the answer.

Answers are read as JSON here and not by the client's models: servers differ in what they add, and a broken answer must
be told from a good one.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Awaitable, Callable, Mapping
from email.utils import parsedate_to_datetime
from time import time
from typing import TYPE_CHECKING, Any

import jinja2

from pipeline import templates
from pipeline.engine import Engine, EngineError, Refused, Reply, Retry
from pipeline.errors import InputError
from pipeline.judges import Stance
from pipeline.recipe import OpenAIConfig
from pipeline.samplers import PrefillRequest
from pipeline.thinking import read_output

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI

_TOKENS_PER_WORD = 2
_SPARE_TOKENS = 64


class OpenAISampler:
    """Samples thinking through an `Engine`; implements `pipeline.samplers.Sampler`.

    Args:
        name: the recipe's name for it.
        config: the model, its servers and the parameters.
        engine: sends the requests and keeps the answers.
        before: awaited before each request that is really sent; it has the servers checked once, all samplers' servers
            before the first answer is paid for.

    Raises:
        InputError: the key's environment variable is not set, or a template lacks its variable.
    """

    engine = "openai"

    def __init__(
        self, name: str, config: OpenAIConfig, engine: Engine, before: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        self.name, self.revision = name, config.revision
        self.model: str | None = config.model
        self.parameters: dict[str, object] = {
            key: value
            for key, value in (
                ("temperature", config.temperature),
                ("top_p", config.top_p),
                ("max_tokens", config.max_tokens),
                ("system", config.system),
                ("user", config.user),
                *config.extra.items(),
            )
            if value is not None
        }
        self._config, self._engine, self._before = config, engine, before
        self._steer = {role: _template(template) for role, template in _steering(config).items()}
        self._clients: dict[str, AsyncOpenAI] = {}
        self._key = _api_key(config)

    def template(self, stance: Stance) -> str | None:
        """The sha256 of the steering templates, None where the model is sampled plainly."""
        del stance
        if not self._steer:
            return None
        hashes = (template.sha256 for _, template in sorted(_steering(self._config).items()))
        return hashlib.sha256("\n".join(hashes).encode()).hexdigest()

    async def sample(self, request: PrefillRequest) -> str:
        """The thinking that the model answers with; empty where it answers without.

        Raises:
            Refused: the server won't answer this request.
            EngineError: no server could be made to answer.
        """
        body = self._body(request)
        entry = await self._engine.ask(
            {
                "engine": self.engine,
                "server": self._config.identity,
                "revision": self.revision,
                "template": self.template(request.stance),
                "body": body,
                "attempt": request.attempt,
            },
            lambda url: self._send(url, body),
            asker=self.name,
            model=self.model,
            attempt=request.attempt,
        )
        message = json.loads(entry.answer)
        reasoning = next((message[key] for key in ("reasoning", "reasoning_content") if message.get(key)), None)
        return read_output(message.get("content"), reasoning=reasoning, opened=True).thinking

    async def check(self) -> None:
        """Ask each server which models it has. One that doesn't answer, or doesn't say, may still do.

        Raises:
            InputError: a server refuses the key, or has other models.
        """
        import openai

        for url in self._config.base_url:
            try:
                listed = [model.id for model in (await self._client(url).models.list()).data]
            except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
                raise InputError(_refused_key(url, error.status_code)) from error
            except (openai.APIError, AttributeError, ValueError, TypeError):
                continue
            if listed and self.model not in listed:
                raise InputError(f"{url} has no model {self.model!r}. It has: {', '.join(sorted(listed)[:20])}.")

    async def close(self) -> None:
        """Close the connections."""
        for client in self._clients.values():
            await client.close()

    def _body(self, request: PrefillRequest) -> dict[str, Any]:
        values = {"prompt": request.prompt, "category": request.category or "", "stance": request.stance}
        steered = {role: template.render(values).strip() for role, template in self._steer.items()}
        messages = [{"role": "system", "content": steered["system"]}] if "system" in steered else []
        messages.append({"role": "user", "content": steered.get("user", request.prompt)})
        tokens = self._config.max_tokens or request.words * _TOKENS_PER_WORD + _SPARE_TOKENS
        return {
            "model": self.model,
            "messages": messages,
            "temperature": self._config.temperature,
            "top_p": self._config.top_p,
            "max_tokens": tokens,
            "seed": _seed(request),
            **self._config.extra,
        }

    async def _send(self, url: str, body: Mapping[str, Any]) -> Reply:
        import openai

        if self._before is not None:
            await self._before()
        try:
            raw = await self._client(url).chat.completions.with_raw_response.create(
                model=body["model"],
                messages=body["messages"],
                extra_body={key: value for key, value in body.items() if key not in ("model", "messages")},
            )
        except openai.APIStatusError as error:
            raise _status_error(error, url, str(self.model)) from error
        except openai.APIConnectionError as error:
            raise Retry(f"{type(error).__name__}: {error}") from error
        return _reply(raw.text, str(self.model))

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


def _api_key(config: OpenAIConfig) -> str:
    key = os.environ.get(config.api_key_env)
    if key is None and config.api_key_env != OpenAIConfig.model_fields["api_key_env"].default:
        raise InputError(f"The environment variable {config.api_key_env} is not set: put the server's key into it.")
    return key or "none"


def _steering(config: OpenAIConfig) -> dict[str, templates.Template]:
    return {
        role: templates.load(name)
        for role, name in (("system", config.system), ("user", config.user))
        if name is not None
    }


def _template(template: templates.Template) -> jinja2.Template:
    if template.role == "user" and "prompt" not in template.variables:
        raise InputError(f"prompts/{template.id}.md must use the variable prompt: without it every row asks the same.")
    return jinja2.Environment(undefined=jinja2.StrictUndefined).from_string(template.body)


def _seed(request: PrefillRequest) -> int:
    key = f"{request.seed}\x1f{request.id}\x1f{request.attempt}"
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=4).digest(), "big") & 0x7FFFFFFF


def _reply(text: str, model: str) -> Reply:
    """The message of a chat completion. Raises Retry where the answer is none."""
    try:
        answer = json.loads(text)
        choice = answer["choices"][0]
        message = choice["message"]
        kept = {key: message[key] for key in ("content", "reasoning", "reasoning_content") if message.get(key)}
    except (ValueError, LookupError, TypeError, AttributeError):
        raise Retry("an answer that is no chat completion") from None
    named = answer.get("model") or model
    if not (named.startswith(model) or model.startswith(named) or model.endswith(named)):
        raise Retry(f"an answer by the model {named!r}")
    if not kept:
        raise Retry("an answer without text")
    usage = answer.get("usage") or {}
    return Reply(
        json.dumps(kept, ensure_ascii=False, sort_keys=True),
        choice.get("finish_reason"),
        usage.get("prompt_tokens"),
        usage.get("completion_tokens"),
    )


def _status_error(error: APIStatusError, url: str, model: str) -> Exception:
    """What an HTTP status means for the request, and for all others."""
    status = error.status_code
    after = _retry_after(error.response.headers.get("retry-after"))
    if status in (401, 403):
        return EngineError(_refused_key(url, status))
    if status == 404:
        return EngineError(f"{url} has no model {model!r}, or is no OpenAI-compatible server: {error.message}.")
    if status in (400, 413, 422):
        return Refused(f"HTTP {status}: {error.message}")
    return Retry(f"HTTP {status}", busy=status in (429, 503, 529), after=after)


def _refused_key(url: str, status: int) -> str:
    return (
        f"{url} refuses the key (HTTP {status}). Put a valid one into the environment (api_key_env names the variable)."
    )


def _retry_after(value: str | None) -> float | None:
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
