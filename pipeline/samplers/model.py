"""Prefills from models: the head of the thinking that an unaligned or an over-cautious model writes (RECAP, Sec. 4.1).

The model is sampled plainly, started from a *seed prefix* that its thinking goes on from, or steered by a system or
user template from ``prompts/``. Asked by chat, the thinking is read from wherever the server puts it: a field of its
own, between tags, in front of a closing tag (`pipeline.thinking.read_output`). With a seed prefix, and always in this
process, the prompt is rendered here and sent as token ids, since no message of the chat API continues a thinking on
every model (`pipeline.thinking.rendering`); a server is then asked once a run whether it truly goes on.

The steering is no part of the row: only the thinking is taken from the answer.
"""

from __future__ import annotations

import hashlib
from typing import Any

from pipeline import templates
from pipeline.clients import Answer, Client, Doubtful
from pipeline.clients.continuing import begins_anew, canary, check_goes_on, goes_on, model_renderer
from pipeline.engine import Refused
from pipeline.errors import InputError
from pipeline.judges import Stance
from pipeline.recipe import ModelConfig
from pipeline.samplers import PrefillRequest, Thought
from pipeline.thinking import Reading, Renderer, RenderingError, head, marks_of, read_output

_TOKENS_PER_WORD = 2
_SPARE_TOKENS = 64
ROOM = 564
"""The fewest tokens that the answer to a harmless request may have."""

_STANDS_STILL = (
    "A seed prefix needs a server that continues token ids (/v1/completions of vLLM, SGLang or llama.cpp). Use one, or "
    "remove seed_prefix to keep the head of what the model thinks by itself."
)

_VARIABLES = ("prompt", "category", "stance")
_HARMLESS = PrefillRequest("", "Which river is longer, the Rhine or the Elbe? One word.", None, "complies", 250, 0, 0)


class ModelSampler:
    """Samples thinking through a `Client`; implements `pipeline.samplers.Sampler`.

    Args:
        name: the recipe's name for it.
        config: the model and how it is asked.
        client: asks it.

    Raises:
        InputError: a template lacks its variable, the tokenizer can't be had, or its chat template can't be rendered
            with the seed prefix or the steering asked for.
    """

    def __init__(self, name: str, config: ModelConfig, client: Client) -> None:
        self.name, self.revision = name, config.revision
        self.engine: str = config.engine
        self.model: str | None = config.model
        options = ("temperature", "top_p", "max_tokens", "system", "user", "seed_prefix")
        given = {key: getattr(config, key) for key in options} | config.extra
        self.parameters: dict[str, object] = {key: value for key, value in given.items() if value is not None}
        self._config, self._client = config, client
        self._shown: Reading | None = None
        self._seed_prefix = config.seed_prefix.rstrip() if config.seed_prefix else None
        self._steer = {role: _steering(role, name) for role in ("system", "user") if (name := getattr(config, role))}
        self._renderer = _renderer(config) if config.seed_prefix or config.engine == "vllm" else None
        self._marks = marks_of(self._renderer) if self._renderer and self._renderer.form != "plain" else None
        self._try_out()

    def template(self, stance: Stance | None) -> str | None:
        """The sha256 of the steering templates, None where the model is sampled plainly."""
        del stance
        if not self._steer:
            return None
        hashes = (template.sha256 for _, (template, _) in sorted(self._steer.items()))
        return hashlib.sha256("\n".join(hashes).encode()).hexdigest()

    @property
    def steering(self) -> tuple[str, ...]:
        """The texts of the steering templates, of which nothing may stand in a prefill."""
        return tuple(template.body for template, _ in self._steer.values())

    async def sample(self, request: PrefillRequest) -> Thought:
        """The thinking that the model writes; empty where it answers without.

        Raises:
            Refused: the server won't answer this request, or the chat template can't render its prompt.
            EngineError: the model could not be made to answer.
        """
        try:
            body = self._body(request)
        except RenderingError as error:
            raise Refused(str(error)) from error
        answer = await self._client.ask(
            body,
            asker=self.name,
            template=self.template(request.stance),
            attempt=request.attempt,
            doubt=self._doubt if self._renderer and self._seed_prefix else None,
        )
        return self._read(answer)

    def key(self, request: PrefillRequest) -> bytes:
        """The key under which the ledger has the answer to a request. Raises RenderingError where there is none."""
        return self._client.key(self._body(request), template=self.template(request.stance), attempt=request.attempt)

    def prompt_text(self, request: PrefillRequest) -> str:
        """All text of a request's prompt, as far as it is known here, for an estimate of its tokens."""
        return " ".join(message["content"] for message in self._messages(request))

    def most_tokens(self, request: PrefillRequest) -> int:
        """The most tokens that a request's answer may have."""
        return self._config.max_tokens or request.words * _TOKENS_PER_WORD + _SPARE_TOKENS

    async def check(self) -> None:
        """Find out, before anything is paid, whether the model is there and can be asked as the recipe says.

        Raises:
            InputError: it isn't, or it can't: a server takes no system turn, or doesn't go on from a prefill.
        """
        await self._client.check()
        try:
            if self._renderer and self._seed_prefix:
                await check_goes_on(self._client, self._renderer, asker=self.name, advice=_STANDS_STILL)
            else:
                await self._client.probe(self._harmless(), asker=self.name)
        except Refused as refused:
            raise InputError(
                f"The sampler {self.name!r} can't be asked as the recipe says: {self.model} refuses a harmless request "
                f"with its system, user, seed_prefix and extra: {refused}. A field of the request is left out where "
                "extra says null."
            ) from refused

    def probed(self) -> str | None:
        """What a harmless request showed, in this run or an earlier one: how a server goes on from a prefill, or that
        the model answers without thinking. None where there is nothing to say.
        """
        if not (self._renderer and self._seed_prefix):
            seen = self._seen()
            return "answered a harmless request without thinking" if seen and not seen.thinking else None
        body = canary(self._renderer)
        answer = self._client.probed(body)
        return goes_on(body["prompt"], answer) if answer else None

    def _seen(self) -> Reading | None:
        """The model's answer to a harmless request, in this run or an earlier one; None where there is none."""
        if self._shown is None:
            answer = self._client.probed(self._harmless())
            self._shown = self._reading(answer, opened=self._opened()) if answer else None
        return self._shown

    def _opened(self) -> bool:
        """Whether the rendered prompt is known to end inside the thinking."""
        return self._renderer is not None and self._renderer.form == "generation-prompt"

    async def close(self) -> None:
        """Free what the client holds."""
        await self._client.close()

    def _messages(self, request: PrefillRequest) -> list[dict[str, str]]:
        values = {"prompt": request.prompt, "category": request.category or "", "stance": request.stance or ""}
        steered = {role: body.render(values).strip() for role, (_, body) in self._steer.items()}
        messages = [{"role": "system", "content": steered["system"]}] if "system" in steered else []
        return [*messages, {"role": "user", "content": steered.get("user", request.prompt)}]

    def _body(self, request: PrefillRequest) -> dict[str, Any]:
        messages = self._messages(request)
        if self._renderer:
            ids = self._renderer.render(messages, self._seed_prefix).ids
            asked: dict[str, Any] = {"prompt": ids, "skip_special_tokens": False}
        else:
            asked = {"messages": messages}
            if self._config.template:
                asked["chat_template_kwargs"] = self._config.template
        body = {
            **asked,
            "temperature": self._config.temperature,
            "top_p": self._config.top_p,
            "max_tokens": self.most_tokens(request),
            "seed": _seed(request),
            **self._config.extra,
        }
        return {key: value for key, value in body.items() if value is not None}

    def _harmless(self) -> dict[str, Any]:
        """A harmless request, with room for the answer to end: of one that is cut, it can't be told whether the model
        thinks.
        """
        body = self._body(_HARMLESS)
        if isinstance(most := body.get("max_tokens"), int):
            body["max_tokens"] = max(most, ROOM)
        return body

    def _read(self, answer: Answer) -> Thought:
        if self._renderer and self._seed_prefix:
            behind = head(answer.text, closer=self._renderer.closer, opener=self._renderer.opener)
            again = behind.lstrip().startswith(self._seed_prefix)
            return Thought(behind.lstrip() if again else self._seed_prefix + behind, answered_by=answer.model)
        opened = self._opened()
        if self._renderer is None and answer.finish == "length":
            seen = self._seen()
            opened = seen is not None and seen.how == "closer"
        reading = self._reading(answer, opened=opened)
        return Thought(reading.thinking, reading.answer or None, answer.model)

    def _reading(self, answer: Answer, *, opened: bool) -> Reading:
        """An answer taken apart. A turn that came to its end without closing a thinking is an answer: what was cut at
        its length alone may have been cut inside one that the prompt had `opened`. A server that renders the prompt
        itself doesn't say whether it opens one: that its model once closed a thinking which it had not opened does.
        """
        cut = answer.finish == "length"
        reading = read_output(answer.text, reasoning=answer.reasoning, opened=opened and cut, marks=self._marks)
        if reading.closed or cut:
            return reading
        said = "\n\n".join(part for part in (reading.thinking, reading.answer) if part)
        return Reading("", said, True, "none")

    def _doubt(self, answer: Answer) -> Doubtful | None:
        """Why an answer to a request with a seed prefix looks as if the server had not gone on from it."""
        found = begins_anew(answer.text, self._seed_prefix)
        closer = self._renderer.closer if self._renderer else None
        return found or (None if head(answer.text, closer=closer) else Doubtful("thinking that was closed at once"))

    def _try_out(self) -> None:
        """Make a harmless request. A template may want a variable that there is none of, or write no system turn."""
        try:
            self._body(_HARMLESS)
        except RenderingError as error:
            raise InputError(f"The sampler {self.name!r} can't be asked as the recipe says. {error}") from error


def _renderer(config: ModelConfig) -> Renderer:
    need = "A seed_prefix is" if config.seed_prefix else "The engine vllm's prompts are"
    try:
        return model_renderer(config, need)
    except RenderingError:
        if config.seed_prefix:
            raise
        return model_renderer(config, need, thinks=False)


def _steering(role: str, name: str) -> tuple[templates.Template, templates.Sandboxed]:
    template = templates.load(name)
    if role == "user" and "prompt" not in template.variables:
        raise InputError(f"prompts/{template.id}.md must use the variable prompt: without it every row asks the same.")
    compiled = templates.Sandboxed(template)
    if unknown := compiled.used - set(_VARIABLES):
        raise InputError(
            f"prompts/{template.id}.md uses the variable {sorted(unknown)[0]}, which no sampler has. It may use: "
            f"{', '.join(_VARIABLES)}."
        )
    return template, compiled


def _seed(request: PrefillRequest) -> int:
    key = f"{request.seed}\x1f{request.id}\x1f{request.attempt}"
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=4).digest(), "big") & 0x7FFFFFFF
