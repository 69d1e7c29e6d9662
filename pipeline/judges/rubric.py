"""`RubricJudge`: a stance from any judge model, asked with a template for an answer of a given shape.

The shape is that of `_Answer`, and the server is asked to hold the model to it (``response_format``). An answer is read
only if all of it is one such object: by itself or in one fence, behind the model's thinking. So nothing that a model
quotes from the text it judges can become its verdict. An answer that contradicts itself ("complies", yet less likely
than not) is ``unreadable``, like every other that can't be read.

The texts that are judged belong into a template as JSON (``{{ thinking | tojson }}``), which no text can break out of.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline import templates
from pipeline.clients import Answer, Client
from pipeline.engine import Refused
from pipeline.errors import InputError
from pipeline.judges import Exchange, Stance, Verdict
from pipeline.judges._models import COMPLYING, PARTS, REFUSING, ask_beforehand, final, shown
from pipeline.recipe import RubricConfig

_FENCED = re.compile(r"```(?:json)?[ \t]*\n(.*)\n[ \t]*```", re.DOTALL | re.IGNORECASE)


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, title="verdict")

    reasoning: str
    stance: Literal["complies", "refuses", "unclear"]
    score: Annotated[float, Field(ge=0, le=1)]


_FORMAT = {
    "type": "json_schema",
    "json_schema": {"name": "verdict", "strict": True, "schema": _Answer.model_json_schema()},
}


class RubricJudge:
    """Asks a judge model for a stance; implements `pipeline.judges.Judge`. See the module for how it is read.

    The score is the one that the model states: how likely the judged text goes on to comply, from 0 to 1. ``reads`` are
    the stances that it can tell, `unclear` aside; ``template`` is the sha256 of its template.

    Args:
        config: the model, its template, and what it is shown.
        client: asks it.

    Raises:
        InputError: there is no such template, or it doesn't show exactly what the judge is to see.
    """

    reads: frozenset[Stance] = frozenset(("complies", "refuses"))

    def __init__(self, config: RubricConfig, client: Client) -> None:
        self.name = f"rubric:{config.model}"
        self._config, self._client = config, client
        template = templates.load(config.template)
        self.template = template.sha256
        self._text = compiled(template, config.sees)

    async def judge(self, exchange: Exchange) -> Verdict:
        """Ask for the stance of what is seen of an exchange. Where there is no response, nothing is asked.

        Raises:
            EngineError: the model could not be made to answer.
        """
        parts = shown(exchange, self._config.sees)
        sees = tuple(parts)
        if not parts.keys() - {"prompt"}:
            return Verdict("unclear", self.name, None, sees)
        try:
            answer = await self._client.ask(self._body(parts), asker=self.name, template=self.template)
        except Refused:
            return Verdict("unreadable", self.name, None, sees)
        stance, score = read(answer) or ("unreadable", None)
        return Verdict(stance, self.name, score, sees)

    async def check(self) -> None:
        """Find out, before anything is paid, whether the model is there and tells two harmless exchanges apart.

        Raises:
            InputError: it isn't, or it doesn't: a request is refused, an answer can't be read, or what complies isn't
                read as such, compared with what refuses.
            EngineError: no server answers.
        """
        await self._client.check()
        bodies = [self._body(shown(exchange, self._config.sees)) for exchange in (COMPLYING, REFUSING)]
        try:
            answers = await ask_beforehand(self._client, bodies, name=self.name)
        except Refused as refused:
            way = (
                "If it takes no response_format, set extra: {response_format: null}: the template asks for that too."
                if "response_format" in bodies[0]
                else "Look at its extra: a field of the request is left out where extra says null."
            )
            raise InputError(
                f"The judge {self.name} can't be asked as the recipe says: a harmless request is refused: {refused} "
                f"{way}"
            ) from refused
        for url, (complying, refusing) in answers.items():
            self._prove(url, self._read(url, complying), self._read(url, refusing))

    def _read(self, url: str, answer: Answer) -> tuple[Stance, float]:
        found = read(answer)
        if found is None:
            why = " (cut at its length: raise max_tokens)" if answer.finish == "length" else ""
            raise InputError(
                f"The judge {self.name} at {url} gives an answer that can't be read, to a harmless exchange{why}: "
                f"{answer.text[:120]!r}. prompts/{self._config.template}.md must ask for one JSON object with "
                "reasoning, stance and score, and nothing else."
            )
        return found

    def _prove(self, url: str, complying: tuple[Stance, float], refusing: tuple[Stance, float]) -> None:
        if complying[0] != "refuses" and refusing[0] != "complies" and complying[1] > refusing[1]:
            return
        said = [f"{stance} with score {score:g}" for stance, score in (complying, refusing)]
        raise InputError(
            f"The judge {self.name} at {url} can't tell what complies from what refuses: of a harmless exchange that "
            f"complies it says {said[0]}, of one that refuses {said[1]}. Use a more capable model, or another template "
            f"than prompts/{self._config.template}.md."
        )

    def _body(self, parts: Mapping[str, str]) -> dict[str, Any]:
        text = self._text.render({name: parts.get(name) for name in self._config.sees}).strip()
        body = {
            "messages": [{"role": "user", "content": text}],
            "temperature": self._config.temperature,
            "max_tokens": self._config.max_tokens,
            "response_format": _FORMAT,
            **self._config.extra,
        }
        return {key: value for key, value in body.items() if value is not None}


def compiled(template: templates.Template, sees: Iterable[str]) -> templates.Sandboxed:
    """The template of a judge that sees so much. Raises InputError where it shows more or less."""
    place = f"prompts/{template.id}.md"
    if template.role != "user":
        raise InputError(f"{place} has the role {template.role}; a judge's template has the role user.")
    text = templates.Sandboxed(template)
    used = text.used
    if used != set(template.variables):
        raise InputError(
            f"{place} says that its variables are {_listed(template.variables)}, and uses {_listed(used)}."
        )
    if used != set(sees):
        raise InputError(
            f"{place} shows a judge {_listed(used)}, but the recipe says that it sees {_listed(sees)}. Change the "
            "judge's sees, or use a template for that."
        )
    return text


def _listed(names: Iterable[str]) -> str:
    known = {name: place for place, name in enumerate(PARTS)}
    return ", ".join(sorted(names, key=lambda name: (known.get(name, len(known)), name))) or "nothing"


def read(answer: Answer) -> tuple[Stance, float] | None:
    """The stance and the score of an answer, None where it can't be read or contradicts itself."""
    said = read_object(answer, _Answer)
    if said is None:
        return None
    if (said.stance == "complies" and said.score < 0.5) or (said.stance == "refuses" and said.score > 0.5):
        return None
    return said.stance, round(said.score, 4)


_Shape = TypeVar("_Shape", bound=BaseModel)


def read_object(answer: Answer, shape: type[_Shape]) -> _Shape | None:
    """The one object of a shape that an answer consists of, None where it is none."""
    return _parsed(answer.text.strip(), shape) or _parsed(final(answer), shape)


def _parsed(text: str, shape: type[_Shape]) -> _Shape | None:
    fenced = _FENCED.fullmatch(text)
    try:
        return shape.model_validate(json.loads(fenced[1] if fenced else text, object_pairs_hook=_once))
    except (ValueError, RecursionError, ValidationError):
        return None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found
