"""The client `vllm`: a model in this process, on its GPUs, without a server in between.

One engine serves all samplers of a build that use the same model. It is started when the first request is not in the
ledger, takes token ids, and batches whatever is in flight continuously.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from itertools import count
from typing import TYPE_CHECKING, Any

from pipeline.clients import Answer, most_tokens, read_entry
from pipeline.engine import Engine, Refused, Reply
from pipeline.errors import InputError, RecapError
from pipeline.ledger import request_key
from pipeline.recipe import ModelConfig, answering

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM

HERE = ("this process",)
"""The one place that requests are sent to, for the engine's accounts."""


class LocalModel:
    """One model's engine, started when it is first asked."""

    def __init__(self, config: ModelConfig) -> None:
        self._config = config
        self._started: asyncio.Future[AsyncLLM] | None = None
        self._number = count()

    @staticmethod
    def identity(config: ModelConfig) -> str:
        """What two samplers have in common that can share an engine."""
        return json.dumps([config.model, config.revision, config.vllm], sort_keys=True)

    async def generate(self, body: Mapping[str, Any]) -> Reply:
        """Continue the token ids of a request.

        Raises:
            Refused: the engine can't take the request: the prompt is too long, a parameter is unknown.
            InputError: vLLM is not installed, or can't load the model.
        """
        from vllm import SamplingParams
        from vllm.inputs import TokensPrompt

        engine = await self._engine()
        options = {key: value for key, value in body.items() if key not in ("model", "prompt")}
        last = None
        try:
            prompt = TokensPrompt(prompt_token_ids=body["prompt"])
            async for output in engine.generate(prompt, SamplingParams(**options), f"r{next(self._number)}"):
                last = output
        except (ValueError, TypeError) as error:
            raise Refused(f"vLLM takes no such request: {error}") from error
        if last is None:
            raise RecapError(f"vLLM ended a request to {self._config.model} without an answer.")
        written = last.outputs[0]
        kept: dict[str, Any] = {"text": written.text}
        if written.logprobs:
            kept["logprobs"] = [
                [(top.decoded_token, top.logprob) for top in place.values()] for place in written.logprobs
            ]
        answer = json.dumps(kept, ensure_ascii=False, sort_keys=True)
        return Reply(answer, written.finish_reason, len(body["prompt"]), len(written.token_ids))

    async def close(self) -> None:
        """Stop the engine, if it was started."""
        started, self._started = self._started, None
        if started is not None:
            with contextlib.suppress(InputError, asyncio.CancelledError):
                (await started).shutdown()

    async def _engine(self) -> AsyncLLM:
        if self._started is None:
            self._started = asyncio.ensure_future(asyncio.to_thread(self._start))
        return await asyncio.shield(self._started)

    def _start(self) -> AsyncLLM:
        import_vllm()
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        given: dict[str, Any] = {"disable_log_stats": True, "enable_log_requests": False, **self._config.vllm}
        try:
            arguments = AsyncEngineArgs(model=self._config.model, revision=self._config.revision, **given)
            return AsyncLLM.from_engine_args(arguments)
        except (ValueError, TypeError, OSError, RuntimeError) as error:
            first = str(error).strip().partition("\n")[0]
            raise InputError(f"vLLM can't load {self._config.model!r}: {first}") from error


class VLLMClient:
    """Asks a model in this process; implements `pipeline.clients.Client`."""

    engine = "vllm"

    def __init__(
        self,
        config: ModelConfig,
        engine: Engine,
        model: LocalModel,
        before: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._config, self._engine, self._model, self._before = config, engine, model, before

    async def ask(
        self, body: Mapping[str, Any], *, asker: str, template: str | None = None, attempt: int = 0
    ) -> Answer:
        """See `Client.ask`."""
        request = self._request(body, template, attempt)
        entry = await self._engine.ask(
            request,
            lambda _: self._send(request["body"]),
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
        """Nothing is asked: the engine takes the very token ids it is given."""
        del body, asker
        return {}

    def probed(self, body: Mapping[str, Any]) -> Answer | None:
        """None: there is nothing to ask."""
        del body
        return None

    async def check(self) -> None:
        """Find out whether vLLM is installed. Raises InputError where it is not."""
        import_vllm()

    async def close(self) -> None:
        """Stop the engine."""
        await self._model.close()

    async def _send(self, body: Mapping[str, Any]) -> Reply:
        if self._before is not None:
            await self._before()
        return await self._model.generate(body)

    def _request(self, body: Mapping[str, Any], template: str | None, attempt: int) -> dict[str, Any]:
        return {
            "engine": self.engine,
            "arguments": answering(self._config.vllm),
            "revision": self._config.revision,
            "template": template,
            "body": {"model": self._config.model, **body},
            "attempt": attempt,
        }


def import_vllm() -> None:
    """Import vLLM, which then logs warnings only.

    Raises:
        InputError: it is not installed.
    """
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    try:
        import vllm  # noqa: F401
    except ImportError as error:
        raise InputError(
            "The engine vllm needs vLLM in this environment: pip install 'recap-data[vllm]'. Or serve the model and "
            "say engine: openai with its base_url."
        ) from error
    logging.getLogger("vllm").setLevel(logging.WARNING)
