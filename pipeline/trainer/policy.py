"""A model under test: asked plainly, or attacked with a prefill (RECAP, Sec. 2 and 5.4, Tables 2 to 4).

Every prompt is rendered with the model's own chat template and sent as token ids.

*prefill*: the model goes on from the prefill, inside its thinking.
*hijack*: the prefill is all of the thinking. It is closed as the template closes one, and the model writes the answer.
*ipr*, iterative prefill reset: the model goes on from the prefill; then, round after round, the transition sentence and
the same prefill are put behind what it wrote, and it goes on again. The paper says no more than that. Here a round is
what the model wrote inside its thinking: where it closed its thinking and answered, both are cut off, so that the next
round still happens there, and an answer stands only behind the last. A round cut at ``max_tokens`` is gone on from as
it is. Marks of other turns or blocks that the model wrote inside its thinking end a round as well. `k` rounds are `k`
resets, and so `k` + 1 requests.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from pipeline.clients import Answer, Client, Doubtful
from pipeline.clients.continuing import begins_anew, check_goes_on, model_renderer
from pipeline.clients.opening import Clients
from pipeline.engine import Refused
from pipeline.errors import InputError
from pipeline.recipe import ModelConfig
from pipeline.thinking import RenderingError, control_token, head, marks_of, turn_of

ASKER = "policy"

_ADVICE = (
    "A model under test needs a server that continues token ids (/v1/completions of vLLM, SGLang or llama.cpp): use "
    "one, or engine: vllm."
)
_NOT_HERE = ("system", "user", "seed_prefix", "batch")


class PolicyConfig(ModelConfig):
    """A model under test: behind servers that continue token ids, or in this process."""

    engine: Literal["openai", "vllm"] = "openai"
    max_tokens: Annotated[int, Field(ge=1)] = 8000
    """Most tokens of one request's answer, thinking included."""

    @model_validator(mode="after")
    def _plainly(self) -> PolicyConfig:
        for key in _NOT_HERE:
            if getattr(self, key):
                raise PydanticCustomError("place", "{key} is for samplers of prefills: remove it", {"key": key})
        return self


class Written(NamedTuple):
    """What a model wrote at last, behind all that it was given.

    ``opened`` says that what it was given ended inside the thinking, ``closed`` that it had closed it; ``requests`` how
    often it was asked.
    """

    completion: str
    opened: bool
    requests: int
    closed: bool = False


class Policy:
    """Asks a model under test through a `Client`, and so through the ledger; made by `open_policy`.

    Args:
        config: the model and how it is asked.
        client: asks it.
        seed: of the draws; with it, the same rows are drawn alike.

    Raises:
        InputError: the tokenizer can't be had, or its chat template can't be continued inside the thinking, or
            what the model answers not be read.
    """

    def __init__(self, config: PolicyConfig, client: Client, seed: int) -> None:
        self._config, self._client, self._seed = config, client, seed
        self._renderer = model_renderer(config, "What a model under test is asked is")
        self._turn, self.marks = turn_of(self._renderer), marks_of(self._renderer)

    async def answer(
        self,
        id: str,
        messages: Sequence[Mapping[str, str]],
        prefill: str | None = None,
        attack: Mapping[str, Any] | None = None,
        sample: int = 0,
    ) -> Written:
        """What the model writes.

        Args:
            id: of the row; with `sample`, the number of the draw, it decides the seed.
            messages: the user's turns.
            prefill: the head of the thinking, None to ask plainly.
            attack: what is done with it (the column ``attack``); without one, it is gone on from.
            sample: number of the draw.

        Raises:
            Refused: the server won't answer this, or the template can't write it.
            EngineError: the model could not be made to answer.
        """
        try:
            return await self._answer(id, messages, prefill, attack or {"kind": "prefill"}, sample)
        except RenderingError as error:
            raise Refused(str(error)) from error

    async def check(self) -> None:
        """Find out, before anything is paid, whether the model is there and goes on from a prefill.

        Raises:
            InputError: it isn't, or it doesn't.
        """
        await self._client.check()
        try:
            await check_goes_on(self._client, self._renderer, asker=ASKER, advice=_ADVICE)
        except Refused as refused:
            raise InputError(f"{self._config.model} refuses a harmless request: {refused} {_ADVICE}") from refused

    async def _answer(
        self,
        id: str,
        messages: Sequence[Mapping[str, str]],
        prefill: str | None,
        attack: Mapping[str, Any],
        sample: int,
    ) -> Written:
        ids = self._renderer.render(messages, prefill).ids
        if prefill is None:
            text = await self._ask(ids, id, sample)
            return Written(text, self._renderer.form == "generation-prompt", 1)
        if attack["kind"] == "hijack":
            text = await self._ask([*ids, *self._renderer.behind(self._turn.closing)], id, sample)
            return Written(text, False, 1, closed=True)
        text = await self._ask(ids, id, sample, prefill)
        thinking, rounds = prefill, attack.get("rounds") or 0
        for number in range(1, rounds + 1):
            thinking = f"{thinking}{self._head(text)}\n\n{attack['transition']}\n\n{prefill}"
            text = await self._ask(self._renderer.render(messages, thinking).ids, id, sample, prefill, number)
        return Written(text, True, 1 + rounds)

    async def _ask(self, ids: list[int], id: str, sample: int, prefill: str | None = None, number: int = 0) -> str:
        def doubt(answer: Answer) -> Doubtful | None:
            return begins_anew(answer.text, prefill)

        body = {
            "prompt": ids,
            "skip_special_tokens": False,
            "temperature": self._config.temperature,
            "top_p": self._config.top_p,
            "max_tokens": self._config.max_tokens,
            "seed": _drawn(self._seed, id, sample, number),
            **self._config.extra,
        }
        answer = await self._client.ask(body, asker=ASKER, attempt=sample, doubt=doubt if prefill else None)
        return answer.text

    def _head(self, text: str) -> str:
        """What was written inside the thinking, up to any mark."""
        text = head(text, closer=self._renderer.closer, opener=self._renderer.opener)
        found = self._renderer.control_tokens.search(text)
        ends = [found.start()] if found else []
        mark = control_token(text)
        ends += [text.index(mark)] if mark else []
        return text[: min(ends, default=len(text))].rstrip()


def open_policy(config: PolicyConfig, clients: Clients, seed: int) -> Policy:
    """A model under test, for one run. Raises like `Policy`."""
    policy = Policy(config, clients.open(config), seed)
    clients.checks.append(policy.check)
    return policy


def _drawn(seed: int, id: str, sample: int, number: int) -> int:
    key = f"{seed}\x1f{id}\x1f{sample}\x1f{number}"
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=4).digest(), "big") & 0x7FFFFFFF
