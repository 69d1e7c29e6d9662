"""`AwarenessJudge`: which sentence of a thinking is the first to see that there is something unsafe about the prompt.

The sentences are numbered from 1 and shown to a judge model as JSON, and it answers with one number, or with null where
no sentence is aware. An answer that is not one such object, or names a sentence that there isn't, is no answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict

from pipeline import templates
from pipeline.clients import Answer, Client
from pipeline.engine import Refused
from pipeline.errors import InputError
from pipeline.judges._models import COMPLYING, REFUSING, ask_beforehand
from pipeline.judges.rubric import compiled, read_object
from pipeline.recipe import RubricConfig

_ENDS = re.compile(r"(?<=[.!?])\s+|\n+")


def sentences(text: str) -> list[str]:
    """The sentences of a text: it is split behind ``.``, ``!`` and ``?`` where white space follows, and at newlines."""
    return [piece.strip() for piece in _ENDS.split(text) if piece.strip()]


class Awareness(NamedTuple):
    """What was found: the number of the first aware sentence, from 1, or None where no sentence is aware."""

    first: int | None


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, title="awareness")

    reasoning: str
    first: int | None


_FORMAT = {
    "type": "json_schema",
    "json_schema": {"name": "awareness", "strict": True, "schema": _Answer.model_json_schema()},
}


class AwarenessJudge:
    """Asks a judge model for the first sentence that is aware of safety. See the module for how it is read.

    Args:
        config: the model and its template, whose variables are ``prompt`` and ``sentences``.
        client: asks it.

    Raises:
        InputError: there is no such template, or it has other variables.
    """

    def __init__(self, config: RubricConfig, client: Client) -> None:
        self.name = f"awareness:{config.model}"
        self._config, self._client = config, client
        template = templates.load(config.template)
        self.template = template.sha256
        self._text = compiled(template, ("prompt", "sentences"))

    async def find(self, prompt: str, found: Sequence[str]) -> Awareness | None:
        """Look for the first aware sentence among `found`; None where the answer can't be read.

        Raises:
            EngineError: the model could not be made to answer.
        """
        try:
            answer = await self._client.ask(self._body(prompt, found), asker=self.name, template=self.template)
        except Refused:
            return None
        return read(answer, len(found))

    async def check(self) -> None:
        """Find out, before anything is paid, whether the model is there and tells two harmless thinkings apart.

        Raises:
            InputError: it isn't, or it doesn't: a request is refused, an answer can't be read, or the thinking that
                sees harm isn't told from the one that sees none.
            EngineError: no server answers.
        """
        await self._client.check()
        shown = [(exchange.prompt, sentences(exchange.thinking or "")) for exchange in (COMPLYING, REFUSING)]
        try:
            answers = await ask_beforehand(self._client, [self._body(*each) for each in shown], name=self.name)
        except Refused as refused:
            raise InputError(
                f"The judge {self.name} can't be asked like this: a harmless request is refused: {refused} If its "
                "server takes no response_format, set extra: {response_format: null}."
            ) from refused
        for url, given in answers.items():
            unaware, aware = (
                self._read(url, answer, len(found)) for answer, (_, found) in zip(given, shown, strict=True)
            )
            if unaware.first is not None or aware.first is None:
                raise InputError(
                    f"The judge {self.name} at {url} can't tell whether a thinking is aware of safety: of a harmless "
                    f"one that sees no harm it says that {_said(unaware)} is, of one that does that {_said(aware)} is. "
                    f"Use a more capable model, or another template than prompts/{self._config.template}.md."
                )

    def _read(self, url: str, answer: Answer, count: int) -> Awareness:
        found = read(answer, count)
        if found is None:
            raise InputError(
                f"The judge {self.name} at {url} gives an answer that can't be read, of harmless thinking: "
                f"{answer.text[:120]!r}. prompts/{self._config.template}.md must ask for one JSON object with "
                "reasoning and first, and nothing else."
            )
        return found

    def _body(self, prompt: str, found: Sequence[str]) -> dict[str, Any]:
        numbered = {str(number): sentence for number, sentence in enumerate(found, 1)}
        text = self._text.render({"prompt": prompt, "sentences": numbered}).strip()
        body = {
            "messages": [{"role": "user", "content": text}],
            "temperature": self._config.temperature,
            "max_tokens": self._config.max_tokens,
            "response_format": _FORMAT,
            **self._config.extra,
        }
        return {key: value for key, value in body.items() if value is not None}


def _said(found: Awareness) -> str:
    return "no sentence" if found.first is None else f"sentence {found.first}"


def read(answer: Answer, count: int) -> Awareness | None:
    """What an answer says of `count` sentences, None where it can't be read."""
    said = read_object(answer, _Answer)
    if said is None or (said.first is not None and not 1 <= said.first <= count):
        return None
    return Awareness(said.first)
