"""A model that goes on from text of ours inside its thinking: its renderer, and the proof that its server goes on.

Such a prompt is rendered here and sent as token ids (`pipeline.thinking.rendering`). A server is shown a canary before
anything is paid: a sentence that stands in the prompt and is broken off in the thinking.
"""

from __future__ import annotations

import re
from typing import Any

from pipeline.clients import Answer, Client, Doubtful
from pipeline.clients.tokenizers import NoTokenizer, load
from pipeline.errors import InputError
from pipeline.recipe import ModelConfig
from pipeline.thinking import BLOCKS, Renderer, Tags, renderer_for

CANARY_PROMPT = "Please write this sentence twice: Seven copper lanterns hang above the quiet harbour."
CANARY_PREFILL = (
    "I am to write the sentence twice. Once: Seven copper lanterns hang above the quiet harbour. "
    "And once more: Seven copper lanterns"
)
CANARY_GOES_ON = "hang above"


_SENTENCE_ENDS = re.compile(r"[.!?:;…。！？»”\"')\]]\s*$|\n\s*$")
_BEGINNING = re.compile(
    r"(?:Okay|Ok|Alright|All right|Hmm|Well|So|First|Let me|Let's|The user|The question|We (?:need|have|should)"
    r"|To (?:answer|address|solve)|Sure|Thinking|Here(?:'s| is))\b"
)


def model_renderer(config: ModelConfig, need: str, *, thinks: bool = True) -> Renderer:
    """The renderer of a model's own chat template.

    Args:
        config: the model, its tokenizer, marks and variables of its template.
        need: what it is needed for, as the beginning of an error's sentence: "A seed_prefix is".
        thinks: False gives one for plain rows only, with thinking switched off.

    Raises:
        InputError: the tokenizer can't be had, or its template can't be continued inside the thinking.
    """
    name = config.tokenizer or config.model
    try:
        tokenizer = load(name, None if config.tokenizer else config.revision)
    except NoTokenizer as error:
        raise InputError(f"{need} rendered with the model's own chat template. {error}") from error
    if not thinks:
        return renderer_for(tokenizer, enable_thinking=False, variables=config.template)
    return renderer_for(tokenizer, tags=Tags(*config.thinking) if config.thinking else None, variables=config.template)


def canary(renderer: Renderer) -> dict[str, Any]:
    """The body of the request that shows whether a server goes on."""
    return {
        "prompt": renderer.render([{"role": "user", "content": CANARY_PROMPT}], CANARY_PREFILL).ids,
        "skip_special_tokens": False,
        "return_token_ids": True,
        "temperature": 0.0,
        "max_tokens": 24,
    }


def goes_on(ids: list[int], answer: Answer) -> str | None:
    """How a server was seen to go on from the canary's `ids`; None where it doesn't.

    The text decides. Where it is neither the sentence's continuation nor a beginning, that the server read the very
    token ids which were sent is proof, whatever a small model writes behind them.
    """
    if answer.text.lstrip(" ").startswith(CANARY_GOES_ON):
        return "went on with the canary's sentence"
    if begins_anew(answer.text, CANARY_PREFILL):
        return None
    return "read the token ids that were sent" if list(answer.prompt_ids or ()) == ids else None


async def check_goes_on(client: Client, renderer: Renderer, *, asker: str, advice: str) -> None:
    """Show every server the canary.

    Raises:
        InputError: one doesn't go on; the message ends with `advice`.
        Refused: one won't answer it.
    """
    body = canary(renderer)
    for place, answer in (await client.probe(body, asker=asker)).items():
        if goes_on(body["prompt"], answer) is None:
            raise InputError(
                f"{place} doesn't go on from a prefill: behind {CANARY_PREFILL[-37:]!r} it wrote "
                f"{answer.text[:120]!r}. {advice}"
            )


def begins_anew(text: str, prefill: str | None) -> Doubtful | None:
    """Why what was written behind a prefill looks as if the server had not gone on from it; None where it doesn't.

    A prefill that stands there again is cut off by whoever reads it. One that breaks off in the middle of a sentence is
    not gone on from by a text that begins one as thinking does.
    """
    goes_on_in_line = "\n" not in text[: len(text) - len(text.lstrip())]
    text = text.lstrip()
    if prefill and text.startswith(prefill):
        return Doubtful("the prefill again")
    if any(text.startswith(block.opener) for block in BLOCKS):
        return Doubtful("thinking that began anew behind the prefill", taken=False)
    if prefill and goes_on_in_line and not _SENTENCE_ENDS.search(prefill) and _BEGINNING.match(text):
        return Doubtful("thinking that began anew behind the prefill", taken=False)
    return None
