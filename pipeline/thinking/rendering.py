"""Render a prompt, and the head of a thinking, so that a model truly goes on with that head inside its thinking.

No message of the chat API does this on every model. A trailing assistant message with `<think>` in its content gets
an empty thinking block in front of it on Qwen3, lands in gpt-oss's final channel, and is closed and followed by a
second assistant turn wherever a trainer asks for a generation prompt. So the text is put together here:

    the turns, rendered with the template's generation prompt (thinking switched on where the template has a switch)
    + the model's own opening mark, unless the generation prompt already ends in it
    + the prefill, verbatim, trailing white space too

The opening mark is learned and not assumed: the template itself renders an assistant turn with some reasoning, and
what it writes between the generation prompt and that reasoning is the mark, white space included. A template that
never writes reasoning has no mark; one is used only if the caller knows it. What was learned is then proven with a
sentinel on two different user messages, and refused otherwise, with the tail that the model would have seen.

Token ids are those of the rendered text without any special token that the template didn't write, so a BOS is there
once where the template writes one, and not where it doesn't. Three parts are tokenised on their own and put behind
each other: prompt, opening mark, prefill. The ids of a plain row are therefore the beginning of those of a prefilled
row of the same prompt, and no token spans the boundary: the model sees its own mark as it would have written it.
(Tokenised in one go, a prefill that begins with white space could fuse with the mark's newline.) A control token that
stands in a message's text, as `<|im_start|>` in a prompt about chat formats, is tokenised as the plain text it is.
The *text* of a rendering can't say this: whoever sends text instead of ids lets the server read that token.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Protocol

from pipeline.errors import InputError
from pipeline.thinking.parsing import BLOCKS, LONE, Tags
from pipeline.thinking.prefix import control_token

Form = Literal["generation-prompt", "reasoning-field", "given", "plain"]

_SENTINEL = "Sentinel of copper, then a lantern"
_ANSWER = "Answer of tin, then a bell"
_USERS = ("Which river is longer?", "Two things, please:\n\n1. Name a colour.\n2. Say why.")
_TOOL_CALL = {"id": "call00001", "type": "function", "function": {"name": "look", "arguments": {}}}
_MARK = re.compile(r"<[^<>\s][^<>\n]{0,60}>|\[[^\[\]\n]{2,60}\]|◁[^◁▷\n]{1,20}▷")
"""What a closing mark looks like that no known family has."""

_START, _END = "\U000f1001", "\U000f1002"
"""Private-use characters around control tokens in the user's text, while the template renders it."""


class RenderingError(InputError):
    """A prompt or prefill that this model's chat template can't render as asked."""


class Tokenizer(Protocol):
    """What is needed of a tokenizer; those of `transformers` have it."""

    bos_token_id: int | None

    @property
    def added_tokens_decoder(self) -> Mapping[int, Any]:
        """The added tokens by id, each with `content` and `special`."""

    def get_chat_template(self) -> str:
        """Return the chat template in use."""

    def apply_chat_template(self, conversation: list[dict[str, Any]], **options: Any) -> Any:
        """Render a conversation."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Return the ids of a text."""

    def decode(self, token_ids: list[int]) -> str:
        """Return the text of ids."""


class Rendering(NamedTuple):
    """A rendered prompt, as text and as token ids. Send the ids where they can be sent."""

    text: str
    ids: list[int]


@dataclass(frozen=True)
class Renderer:
    """Renders prompts and prefills for one tokenizer and its chat template; made and proven by `renderer_for`.

    Attributes:
        template_sha256: Hash of the chat template.
        generation_prompt_tail: What every prompt has behind the last user's text: the end of the turn and the
            generation prompt.
        opener: The mark that opens the model's thinking, with its white space; empty in the form `plain`.
        closer: The mark that closes it, without white space.
        form: Where the opener came from. `generation-prompt`: the prompt already ends in it, and nothing is added.
            `reasoning-field`: the template writes it in front of an assistant's reasoning. `given`: the caller said so.
            `plain`: thinking was switched off, and no prefill is possible.
        variables: What the template is rendered with besides the messages.
    """

    template_sha256: str
    generation_prompt_tail: str
    opener: str
    closer: str
    form: Form
    variables: Mapping[str, Any]
    tokenizer: Tokenizer = field(repr=False)
    control_tokens: re.Pattern[str] = field(repr=False)

    def render(self, messages: Sequence[Mapping[str, str]], prefill: str | None) -> Rendering:
        """Render `messages`, which end in a user's turn, and let the model go on behind `prefill`.

        Args:
            messages: The turns, each with `role` and `content`; anything else in them is left out.
            prefill: The head of the thinking, without marks; kept verbatim, and "" just opens the thinking. None for
                a plain row, which ends in the generation prompt.

        Raises:
            RenderingError: The messages don't end with the user, the template can't write one of them, the prefill
                holds a control token or thinking mark, or there is a prefill and the form is `plain`.
        """
        prompt = self._prompt(messages)
        pieces = re.split(f"{_START}({self.control_tokens.pattern}){_END}|[{_START}{_END}]", prompt)
        text, ids = "", []
        for number, piece in enumerate(pieces):
            if piece:
                ids += self._plain_ids(piece) if number % 2 else self._ids(piece, first=not text)
                text += piece
        if prefill is None:
            return Rendering(text, ids)
        self._check(prefill)
        added = "" if self.form == "generation-prompt" else self.opener
        return Rendering(text + added + prefill, [*ids, *self._ids(added), *self._ids(prefill)])

    def behind(self, text: str) -> list[int]:
        """Tokenise text that goes behind a rendering, the marks in it as marks."""
        return self._ids(text)

    def _prompt(self, messages: Sequence[Mapping[str, str]]) -> str:
        if not messages or messages[-1]["role"] != "user":
            last = messages[-1]["role"] if messages else "nothing"
            raise RenderingError(f"A prompt must end with a user's message, and this one ends with {last}.")
        marked = [{"role": turn["role"], "content": self._marked(turn["content"])} for turn in messages]
        prompt = _apply(self.tokenizer, marked, self.variables)
        for message in marked:
            if message["role"] != "assistant" and message["content"].strip() not in prompt:
                raise RenderingError(
                    f"The chat template doesn't write the text of the {message['role']} message. Drop the message, or "
                    "use a model whose template has that role."
                )
        before = prompt.removesuffix(self.generation_prompt_tail)
        if before == prompt or not before.rstrip().endswith(marked[-1]["content"].strip()):
            raise RenderingError(
                "The chat template ends this prompt otherwise than the two it was proven on: it should end with "
                f"{self.generation_prompt_tail!r} right behind the user's text."
            )
        return prompt

    def _marked(self, content: str) -> str:
        content = content.replace(_START, "").replace(_END, "")
        return self.control_tokens.sub(f"{_START}\\g<0>{_END}", content)

    def _check(self, prefill: str) -> None:
        if self.form == "plain":
            raise RenderingError(
                "Thinking was switched off for this model, so there is no block that a prefill could stand in. Remove "
                "enable_thinking: false from template."
            )
        found = self.control_tokens.search(prefill)
        marks = (mark.strip() for mark in (self.opener, self.closer))
        token = found.group() if found else control_token(prefill) or next((m for m in marks if m in prefill), None)
        if token:
            raise RenderingError(
                f"The prefill holds {token!r}, which would close the thinking or open a turn. A prefill is plain text, "
                "without the marks around it."
            )

    def _ids(self, text: str, *, first: bool = False) -> list[int]:
        """Tokenise a part; behind another one, a SentencePiece tokenizer must not put a space in front of it."""
        if not text:
            return []
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        if first:
            return ids
        newline = self.tokenizer.encode("\n", add_special_tokens=False)
        behind = self.tokenizer.encode("\n" + text, add_special_tokens=False)
        return behind[len(newline) :] if behind[: len(newline)] == newline else ids

    def _plain_ids(self, token: str) -> list[int]:
        """Tokenise a control token as text: in two halves, neither of which is the token."""
        return self._ids(token[:1]) + self._ids(token[1:])


def renderer_for(
    tokenizer: Tokenizer,
    *,
    enable_thinking: bool = True,
    tags: Tags | None = None,
    variables: Mapping[str, Any] | None = None,
) -> Renderer:
    """Learn how a model's chat template opens its thinking, prove it, and return the renderer.

    Args:
        tokenizer: A tokenizer of `transformers`, with its chat template.
        enable_thinking: False gives a renderer for plain rows only, with thinking switched off where the template has
            a switch for it.
        tags: The marks to think in, for a model whose template has none, such as ``Tags("<think>\\n", "</think>")``
            for a Llama that was trained to think.
        variables: More variables of the template, such as `reasoning_effort`, or `date_string` where a template
            would write today's date and so another prompt every day.

    Raises:
        RenderingError: There is no chat template, or it drops the user's text, has no generation prompt, has no
            thinking block of its own while no `tags` are given, or knows another one than `tags`; or the sentinel
            didn't end up right behind one opening mark. The message shows the rendered tail.
    """
    if tags and not all(mark.strip() for mark in tags):
        raise RenderingError(f"thinking takes two marks, not just white space, and was {_pair(tags)}.")
    try:
        template = tokenizer.get_chat_template()
    except ValueError as error:
        raise RenderingError(f"The tokenizer has no chat template to render prompts with: {error}") from error
    foreign = [block.closer for block in BLOCKS if block.closer.lower() in LONE and block.closer in template]
    if tags and foreign and tags.closer.strip() not in foreign:
        raise RenderingError(
            f"The chat template knows thinking that ends in {foreign[0]!r}, and thinking: {_pair(tags)} has another "
            "closing mark. Name the template's, or remove thinking."
        )
    switches = {"enable_thinking": enable_thinking, "thinking": enable_thinking, **(variables or {})}
    learned = {_learn(tokenizer, user, switches, tags) for user in _USERS}
    tail, block, form = learned.pop()
    if learned:
        raise RenderingError(f"The chat template ends two prompts in two ways, {tail!r} and {learned.pop().tail!r}.")
    renderer = Renderer(
        template_sha256=hashlib.sha256(template.encode()).hexdigest(),
        generation_prompt_tail=tail,
        opener=block.opener,
        closer=block.closer.strip(),
        form=form,
        variables=MappingProxyType(switches),
        tokenizer=tokenizer,
        control_tokens=_control_tokens(tokenizer, template),
    )
    for user in _USERS:
        _prove(renderer, user)
    return renderer


def _pair(tags: Tags) -> str:
    return json.dumps(tags, ensure_ascii=False)


class _Learned(NamedTuple):
    tail: str
    block: Tags
    form: Form


def _learn(tokenizer: Tokenizer, user: str, variables: Mapping[str, Any], given: Tags | None) -> _Learned:
    messages = [{"role": "user", "content": user}]
    prompt = _apply(tokenizer, messages, variables)
    if user not in prompt:
        raise RenderingError(
            "The chat template drops the user's text. It may be that of a vision model, which wants its messages in "
            f"content blocks: use a text model's. A prompt became {prompt[-200:]!r}."
        )
    tail = prompt[prompt.rindex(user) + len(user) :]
    if prompt == _apply(tokenizer, messages, variables, generation_prompt=False):
        raise RenderingError(f"The chat template has no generation prompt: prompts end with {tail!r}.")
    own = _opened(tail)
    if not variables["enable_thinking"]:
        if own:
            raise RenderingError(
                f"The chat template opens a thinking block with thinking switched off, too: prompts end with {tail!r}."
            )
        return _Learned(tail, Tags("", ""), "plain")
    written = None if own else _written(tokenizer, messages, prompt, variables)
    if written and not written.opener:
        own = _ending(tail, Tags(written.closer.replace("/", "", 1), written.closer))
    begun = _ending(tail, given) if given else None
    form: Form = "generation-prompt" if own or begun else "reasoning-field"
    own, given = own or (written if written and written.opener else None), begun or given
    if own and given and [mark.strip() for mark in own] != [mark.strip() for mark in given]:
        raise RenderingError(
            f"The chat template has a thinking block of its own, {_pair(own)}: remove thinking: {_pair(given)}."
        )
    if own:
        return _Learned(tail, own, form)
    if given:
        return _Learned(tail, given, form if form == "generation-prompt" else "given")
    raise RenderingError(
        f"The chat template has no thinking block of its own that could follow its generation prompt: prompts end with "
        f'{tail!r}. If the model was trained to think, say in which marks: thinking: ["<think>\\n", "</think>"].'
    )


def _opened(tail: str) -> Tags | None:
    """Return the block that a tail ends in the opening mark of, with the white space behind the mark."""
    return next((found for block in BLOCKS if (found := _ending(tail, block))), None)


def _ending(tail: str, block: Tags) -> Tags | None:
    opener = block.opener.strip()
    if opener == block.closer.strip() or not tail.rstrip().endswith(opener):
        return None
    return Tags(tail[tail.rindex(opener) :], block.closer)


def _written(
    tokenizer: Tokenizer, messages: list[dict[str, Any]], prompt: str, variables: Mapping[str, Any]
) -> Tags | None:
    """Return the marks that the template itself puts around an assistant's reasoning right behind `prompt`.

    The opening one is empty where the generation prompt ends in it.

    Gemma 4 before its fifth template writes reasoning only in turns that call a tool, so this is tried as well.
    """
    turn = dict.fromkeys(("reasoning_content", "reasoning", "thinking"), _SENTINEL)
    for extra in ({}, {"tool_calls": [_TOOL_CALL]}):
        answer = {"role": "assistant", "content": _ANSWER, **turn, **extra}
        try:
            text = _apply(tokenizer, [*messages, answer], variables, generation_prompt=False)
        except RenderingError:
            continue
        opener, sentinel, rest = text.removeprefix(prompt).partition(_SENTINEL)
        closing = rest.partition(_ANSWER)[0]
        mark = _MARK.search(closing)
        closer = (
            control_token(closing)
            or next((block.closer for block in BLOCKS if block.closer in closing), None)
            or (mark.group() if mark else None)
        )
        if text.startswith(prompt) and sentinel and closer and _ANSWER not in opener:
            return Tags(opener, closer)
    return None


def _prove(renderer: Renderer, user: str) -> None:
    messages = [{"role": "user", "content": user}]
    prefilled = renderer.form != "plain"
    full = renderer.render(messages, _SENTINEL if prefilled else None)
    tail = full.text[full.text.rindex(user) + len(user) :]
    opener, closer = renderer.opener.strip(), renderer.closer
    marks = renderer.control_tokens.findall(tail)
    decoded = renderer.tokenizer.decode(full.ids)
    bos = renderer.tokenizer.bos_token_id
    faults = {
        "the prefill doesn't stand right behind the opening mark": prefilled
        and not tail.endswith(renderer.opener + _SENTINEL),
        f"{opener!r} is there {tail.count(opener)} times": prefilled and tail.count(opener) != 1,
        f"{closer!r} has already closed the thinking": prefilled and closer in tail.lstrip()[1:],
        "a mark is repeated, as if a second turn were opened": len(marks) != len(set(marks)),
        f"its ids decode to another text, ending in {decoded[-200:]!r}": "".join(decoded.split())
        != "".join(full.text.split()),
        "it begins with two BOS tokens": bos is not None and full.ids[:2] == [bos, bos],
    }
    for fault, found in faults.items():
        if found:
            raise RenderingError(f"This chat template can't be used: {fault}. Behind the user's text: {tail!r}.")


def _control_tokens(tokenizer: Tokenizer, template: str) -> re.Pattern[str]:
    """Match the added tokens that act on the model: special ones, and those that a template writes.

    Ordinary text that a tokenizer has a token for (Gemma's runs of newlines, HTML tags) is none of them.
    """
    tokens = {
        token.content
        for token in tokenizer.added_tokens_decoder.values()
        if len(token.content) > 1
        and not token.content.isspace()
        and (token.special or token.content in template or control_token(token.content))
    }
    return re.compile("|".join(map(re.escape, sorted(tokens, key=lambda token: (-len(token), token)))) or "(?!)")


def _apply(
    tokenizer: Tokenizer,
    messages: list[dict[str, Any]],
    variables: Mapping[str, Any],
    *,
    generation_prompt: bool = True,
) -> str:
    from jinja2 import TemplateError

    try:
        return str(
            tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=generation_prompt, **variables
            )
        )
    except (TemplateError, TypeError, ValueError) as error:
        roles = ", ".join(message["role"] for message in messages)
        raise RenderingError(f"The chat template can't render a prompt of the roles {roles}: {error}") from error
