"""The client `vllm`: a model in this process, on its GPUs, without a server in between.

One engine serves all samplers of a build that use the same model. It is started when the first request is not in the
ledger, takes token ids, and batches whatever is in flight continuously.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import count
from typing import TYPE_CHECKING, Any

from pipeline.clients import Answer, Doubt, most_tokens, read_entry
from pipeline.clients.weights import hub_revision
from pipeline.engine import Engine, EngineError, Refused, Reply
from pipeline.errors import InputError
from pipeline.ledger import request_key
from pipeline.recipe import ModelConfig, answering

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM

_QUIET = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
}
"""Set in the environment unless it says something else: errors only, none of them on standard output, which is the
command's own; and processes that inherit no threads."""

HERE = ("this process",)
"""The one place that requests are sent to, for the engine's accounts."""


_SHUTDOWN = 30.0
"""Seconds that an engine has to end its processes; the default of 5 is too little for one."""


class LocalModel:
    """One model's engine, started when it is first asked, in an event loop of its own.

    It outlives the event loop of whoever asks: a build samples in rounds, and starting an engine takes a minute.
    """

    def __init__(self, config: ModelConfig) -> None:
        self._config = config
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="vllm", daemon=True)
        self._thread.start()
        self._started: asyncio.Task[AsyncLLM] | None = None
        self._number = count()

    async def generate(self, body: Mapping[str, Any]) -> Reply:
        """Continue the token ids of a request.

        Raises:
            Refused: the engine can't take the request: the prompt is too long, a parameter is unknown.
            InputError: vLLM is not installed, or can't load the model.
            EngineError: the engine died.
        """
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._generate(body), self._loop))

    def close(self) -> None:
        """Stop the engine, if it was started, and its loop."""
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _generate(self, body: Mapping[str, Any]) -> Reply:
        if self._started is None:
            self._started = asyncio.create_task(self._start())
        engine = await asyncio.shield(self._started)
        from vllm import SamplingParams, TokensPrompt
        from vllm.sampling_params import RequestOutputKind
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        options = {key: value for key, value in body.items() if key not in ("model", "prompt")}
        last = None
        try:
            parameters = SamplingParams(**options, output_kind=RequestOutputKind.FINAL_ONLY)
            prompt = TokensPrompt(prompt_token_ids=body["prompt"])
            async for output in engine.generate(prompt, parameters, f"r{next(self._number)}"):
                last = output
        except (ValueError, TypeError) as error:
            raise Refused(f"vLLM takes no such request: {error}", believed=1) from error
        except (EngineDeadError, EngineGenerateError) as error:
            raise EngineError(
                f"vLLM's engine for {self._config.model!r} died; what it said is above. Every answer so far is in the "
                "ledger: mend the cause (memory, or an argument in vllm:) and run the same command again."
            ) from error
        if last is None:
            raise EngineError(f"vLLM ended a request to {self._config.model} without an answer.")
        written = last.outputs[0]
        kept: dict[str, Any] = {"text": written.text}
        if written.logprobs:
            kept["logprobs"] = [
                [(top.decoded_token, top.logprob) for top in place.values()] for place in written.logprobs
            ]
            kept["tokens"] = [
                place[token].decoded_token for place, token in zip(written.logprobs, written.token_ids, strict=True)
            ]
        answer = json.dumps(kept, ensure_ascii=False, sort_keys=True)
        return Reply(answer, written.finish_reason, len(body["prompt"]), len(written.token_ids))

    async def _start(self) -> AsyncLLM:
        import_vllm()
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        revision = await asyncio.to_thread(hub_revision, self._config)
        quiet = {"disable_log_stats": True, "enable_log_requests": False, "use_tqdm_on_load": False}
        try:
            given: dict[str, Any] = {**quiet, **self._config.vllm}
            arguments = AsyncEngineArgs(model=self._config.model, revision=revision, **given)
            return AsyncLLM.from_engine_args(arguments)
        except (ValueError, TypeError, OSError, RuntimeError) as error:
            first = str(error).strip().partition("\n")[0]
            raise InputError(f"vLLM can't load {self._config.model!r}: {first}") from error

    async def _stop(self) -> None:
        """Shut the engine down and wait for its processes; its own second shutdown, at the exit, would be noise."""
        if self._started is None:
            return
        await asyncio.wait([self._started])
        if self._started.exception() is None:
            engine = self._started.result()
            if engine.output_handler is not None:
                engine.output_handler.cancel()
                await asyncio.gather(engine.output_handler, return_exceptions=True)
            await asyncio.to_thread(engine.shutdown, timeout=_SHUTDOWN)
            engine.shutdown = lambda timeout=None: None
        multiprocessing.active_children()


_RUNNING: ContextVar[dict[str, LocalModel]] = ContextVar("local_models")


@contextmanager
def local_models() -> Iterator[None]:
    """Keep the engines that are started within the block for as long as it lasts, one for each model."""
    running: dict[str, LocalModel] = {}
    before = _RUNNING.set(running)
    try:
        yield
    finally:
        _RUNNING.reset(before)
        for model in running.values():
            model.close()


def local_model(config: ModelConfig) -> LocalModel:
    """The engine of a model, shared by all that use it with the same arguments; within `local_models` only."""
    running = _RUNNING.get()
    identity = json.dumps([config.model, config.revision, config.vllm], sort_keys=True)
    if identity not in running:
        running[identity] = LocalModel(config)
    return running[identity]


class VLLMClient:
    """Asks a model in this process; implements `pipeline.clients.Client`."""

    engine = "vllm"

    def __init__(
        self,
        config: ModelConfig,
        engine: Engine,
        model: LocalModel,
    ) -> None:
        self._config, self._engine, self._model = config, engine, model

    async def ask(
        self,
        body: Mapping[str, Any],
        *,
        asker: str,
        template: str | None = None,
        attempt: int = 0,
        doubt: Doubt | None = None,
    ) -> Answer:
        """See `Client.ask`. There is no doubt: the engine takes the very token ids it is given."""
        del doubt
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
        """Nothing: the model runs on for the next round (`local_models`)."""

    async def _send(self, body: Mapping[str, Any]) -> Reply:
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
    """Import vLLM, which then logs errors only.

    Raises:
        InputError: it is not installed.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import vllm  # noqa: F401
    except ImportError as error:
        raise InputError(
            "The engine vllm needs vLLM in this environment: pip install 'recap-data[vllm]'. Or serve the model and "
            "say engine: openai with its base_url."
        ) from error
