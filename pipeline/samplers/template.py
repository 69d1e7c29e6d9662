"""The embedded sampler: heads of thinking from a grammar, without a model.

The grammar of each stance is a Markdown file in ``prompts/``: ``template-comply.md``, whose comment explains the
notation, and ``template-refuse.md``. A text thinks in the order of the grammar's ``order``: what is asked, what it
would take, doubts, and last the decision. Its first sentence and its last are written first, then one for each place
that is written once, then one more for each of the others in turn until the words are used up. No bullet is used twice
in one text, and the last sentences are chosen to fit, so a text ends where a sentence does and is rarely more than a
few words short of its length.

A text is a function of the row, the seed and the attempt, and of nothing else: not of the batch, the process or the
machine. Texts of one row at different lengths begin alike.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

from pipeline import templates
from pipeline.errors import InputError
from pipeline.filters.language import hardly_in
from pipeline.judges import Stance
from pipeline.samplers import PrefillRequest, Thought, Unwritable
from pipeline.samplers.grounding import QUOTED, Grounding, ground, plain
from pipeline.templates import Template
from pipeline.thinking import cut_prefix

_TEMPLATES: dict[Stance, str] = {"complies": "template-comply", "refuses": "template-refuse"}
_REVISION = "2"
"""Changes where a text would be another though the grammar files are the same."""
_FOREIGN = "prompt is in another language than the grammar's, English"
_NO_ASK = "prompt has no words that ask for anything"

_ORDER = "order"
_PARAGRAPH, _MANY = "/", "+"
_OPENING = 2 / 3
"""The first sentence has at most this share of the words: the last must have room."""
_ENOUGH = 0.8
"""A text is long enough from this share of its words on."""
_TRIES = 4
"""Sentences of a kind that are tried before the text counts as full."""

_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_TOKEN = re.compile(
    r"\{\{\s*(?P<variable>[\w-]+)\s*\}\}|\{(?P<name>[a-z][a-z0-9-]*)\}|(?P<mark>[\[\]|])|(?P<stray>[{}])"
)
_ARTICLE = re.compile(r"\b([Aa])\(n\)(\s+[\"“]?)(\w+)")
_VOWEL_SOUND = re.compile(r"(?!uni|us[aeiu]|ut[ei]|eu|ubiq|one\b|once\b)[aeiou]|hour|honest|hono|heir", re.IGNORECASE)
_SENTENCE_START = re.compile(r"[.!?] [a-z]")
_PLACE = re.compile(r"\{(\w+)\}")
_QUOTED_END = re.compile(r"([?!])”\.")


class Variable(NamedTuple):
    """A place that grounding fills."""

    name: str


class Choice(NamedTuple):
    """Alternatives, one of which is written. Those of plain text alone are kept as such: most are."""

    options: tuple[str | Phrase, ...]


Phrase = tuple["str | Variable | Choice", ...]
"""What is written in a row: plain text, fragments of the prompt and choices."""


class Place(NamedTuple):
    """A place in the order of a thought: its non-terminal, whether it may have many sentences, the gap before it."""

    name: str
    many: bool
    gap: str


class Grammar(NamedTuple):
    """A parsed grammar: the places of a text in their order, and the sentences by non-terminal."""

    order: tuple[Place, ...]
    sentences: dict[str, tuple[Phrase, ...]]


class TemplateSampler:
    """Writes prefills from the grammars in ``prompts/``; implements `pipeline.samplers.Sampler`."""

    def __init__(self, name: str = "template") -> None:
        """Take the name that the recipe gives this sampler."""
        self.name = name
        self.engine = "template"
        self.model: str | None = None
        self.revision: str | None = _REVISION
        self.parameters: dict[str, object] = {}

    def template(self, stance: Stance | None) -> str:
        """The sha256 of the grammar file that writes this stance."""
        return _template(stance).sha256

    @property
    def steering(self) -> tuple[str, ...]:
        """None: the grammar's words are those of the prefill."""
        return ()

    async def sample(self, request: PrefillRequest) -> Thought:
        """A text of at most `words` words. It is written here and now: there is nothing to wait for.

        Raises:
            Unwritable: the prompt is in another language than the grammar's, or has no words.
        """
        grammar = parse(_template(request.stance))
        grounding = ground(request.prompt, min(QUOTED, max(1, request.words // 3)))
        if grounding is None:
            raise Unwritable(_NO_ASK)
        if hardly_in("en", plain(request.prompt)):
            raise Unwritable(_FOREIGN)
        return Thought(write(grammar, grounding, request.words, _seed(request)))


def _template(stance: Stance | None) -> Template:
    if stance is None or stance not in _TEMPLATES:
        known = " or ".join(map(repr, _TEMPLATES))
        raise InputError(f"The template sampler has no grammar for the stance {stance!r}; ask for {known}.")
    return templates.load(_TEMPLATES[stance])


def _seed(request: PrefillRequest) -> int:
    key = "\x1f".join((str(request.stance), str(request.seed), str(request.attempt), request.id, request.prompt))
    return int.from_bytes(hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).digest(), "big")


# --- Writing


def write(grammar: Grammar, grounding: Grounding, words: int, seed: int) -> str:
    """Write one text of at most `words` words, and of at least four fifths of that where the grammar holds enough.

    Where not even one opening fits, the opening is cut at the word.
    """
    return _Writer(grammar, grounding, words, seed).text()


class _Writer:
    """One text in the making: what is written at each place, the words that are left, the sentences not used yet.

    Every place has a chance of its own, so that what is written there doesn't depend on how much is written elsewhere.
    """

    def __init__(self, grammar: Grammar, grounding: Grounding, words: int, seed: int) -> None:
        self._order = grammar.order
        self._values = grounding._asdict()
        self._words = self._left = words
        self._unused = [list(grammar.sentences[place.name]) for place in grammar.order]
        self._draws = [random.Random(seed + at).random for at in range(len(grammar.order))]
        self._out: list[list[str]] = [[] for _ in grammar.order]

    def text(self) -> str:
        """The ends first, then what stands between them, in turns until nothing fits."""
        last = len(self._order) - 1
        if not self._add(0, len(self._unused[0]), most=int(self._words * _OPENING)):
            return cut_prefix(self._draw(0)[1], self._words).text
        self._add(last, len(self._unused[last]))
        for at in range(1, last):
            if not self._order[at].many:
                self._add(at, _TRIES)
        many = [at for at in range(1, last) if self._order[at].many]
        turns = many
        while turns:
            turns = [at for at in turns if self._add(at, _TRIES)]
        while many and self._left > self._words * (1 - _ENOUGH):
            if not self._add(many[-1], len(self._unused[many[-1]])):
                many.pop()
        return self._joined()

    def _joined(self) -> str:
        text, gap = "", ""
        for place, sentences in zip(self._order, self._out, strict=True):
            gap = place.gap if place.gap != " " else gap or " "
            if sentences:
                text += (gap if text else "") + " ".join(sentences)
                gap = ""
        return text

    def _add(self, at: int, tries: int, most: int | None = None) -> bool:
        """Write a sentence at a place that fits and was not used; False if `tries` of them don't fit."""
        most = self._left if most is None else most
        for _ in range(min(tries, len(self._unused[at])) if most else 0):
            index, sentence = self._draw(at)
            length = len(sentence.split())
            if length <= most:
                unused = self._unused[at]
                unused[index] = unused[-1]
                unused.pop()
                self._left -= length
                self._out[at].append(sentence)
                return True
        return False

    def _draw(self, at: int) -> tuple[int, str]:
        unused, draw = self._unused[at], self._draws[at]
        index = int(draw() * len(unused))
        sentence = _polish(expand(unused[index], draw))
        return index, _QUOTED_END.sub(r"\1”", _PLACE.sub(lambda found: self._values[found[1]], sentence))


def expand(phrase: Phrase, draw: Callable[[], float]) -> str:
    """One way to write a phrase, with its variables' names in braces; `draw` gives numbers from 0 to 1."""
    text = ""
    for part in phrase:
        if isinstance(part, str):
            text += part
        elif isinstance(part, Choice):
            options = part.options
            option = options[int(draw() * len(options))]
            text += option if isinstance(option, str) else expand(option, draw)
        else:
            text += "{" + part.name + "}"
    return text


def _polish(sentence: str) -> str:
    """Capitals where sentences begin, "a" or "an" for "a(n)"."""
    if "(n)" in sentence:
        sentence = _ARTICLE.sub(_article, sentence)
    sentence = _SENTENCE_START.sub(lambda found: found.group().upper(), sentence)
    return sentence[:1].upper() + sentence[1:]


def _article(found: re.Match[str]) -> str:
    article, gap, word = found.groups()
    return f"{article}{'n' if _VOWEL_SOUND.match(word) else ''}{gap}{word}"


# --- Reading a grammar


@lru_cache(maxsize=16)
def parse(template: Template) -> Grammar:
    """Parse the body of a grammar file.

    Raises:
        InputError: the grammar can't be used; the message names the file, the section and what to change.
    """
    return _Parser(template).grammar()


class _Parser:
    """The sections of one file, and the non-terminals made of them so far."""

    def __init__(self, template: Template) -> None:
        self._template = template
        self._sections = self._read(_COMMENT.sub("", template.body))
        self._parsed: dict[str, tuple[Phrase, ...]] = {}
        self._open: list[str] = []

    def grammar(self) -> Grammar:
        order = self._order()
        sentences = {place.name: self._alternatives(place.name) for place in order}
        for name in self._sections:
            if name not in self._parsed and name != _ORDER:
                raise self._error(name, "nothing uses this section; put {" + name + "} where it belongs or remove it")
        return Grammar(order, sentences)

    def _error(self, section: str, problem: str) -> InputError:
        return InputError(f"prompts/{self._template.id}.md, section '{section}': {problem}.")

    def _read(self, body: str) -> dict[str, list[str]]:
        """The bullets by section; an indented line goes on with the bullet above it, other text is prose."""
        sections: dict[str, list[str]] = {}
        name = "(before the first)"
        bullets: list[str] = []
        for line in body.splitlines():
            if line.startswith("## "):
                name = line[3:].strip()
                if name in sections or not re.fullmatch(r"[a-z][a-z0-9-]*", name):
                    raise self._error(name, "give every section a name of its own, in lower-case letters and hyphens")
                bullets = sections[name] = []
            elif line.startswith("- ") or line.rstrip() == "-":
                if not line[2:].strip():
                    raise self._error(name, "a bullet is empty; write an alternative there or remove it")
                bullets.append(line[2:].strip())
            elif line.startswith("  ") and line.strip() and bullets:
                bullets[-1] += " " + line.strip()
        for name, bullets in sections.items():
            if not bullets:
                raise self._error(name, "it has no bullet; give it at least one alternative")
        if _ORDER not in sections:
            raise self._error(_ORDER, "it is missing; add '## order' with the places of a text")
        return sections

    def _order(self) -> tuple[Place, ...]:
        """The places that the bullet of `order` lists."""
        places: list[Place] = []
        gap = " "
        for word in " ".join(self._sections[_ORDER]).split():
            name = word.removesuffix(_MANY)
            if word == _PARAGRAPH:
                gap = "\n\n"
            elif name[:1] + name[-1:] == "{}" and name[1:-1] in self._sections and name[1:-1] != _ORDER:
                places.append(Place(name[1:-1], word.endswith(_MANY), gap))
                gap = " "
            else:
                raise self._error(_ORDER, f"{word!r} is no sentence section in braces, nor '/'")
        if len(places) < 2 or places[0].many or places[-1].many:
            raise self._error(_ORDER, "a text needs a first and a last sentence; put places without '+' at both ends")
        return tuple(places)

    def _alternatives(self, name: str) -> tuple[Phrase, ...]:
        """The alternatives of a non-terminal, with those it calls for put in."""
        if name not in self._parsed:
            self._open.append(name)
            self._parsed[name] = tuple(
                self._phrase(name, bullet, lambda called: self._called(called, name)) for bullet in self._sections[name]
            )
            self._open.pop()
        return self._parsed[name]

    def _called(self, name: str, section: str) -> Choice:
        if name not in self._sections:
            raise self._error(
                section, "it uses {" + name + "}, but there is no section of that name; add or correct it"
            )
        if name in self._open:
            raise self._error(section, "it uses {" + name + "}, which leads back to it; a text would never end")
        return _choice(self._alternatives(name))

    def _phrase(self, section: str, bullet: str, called: Callable[[str], str | Choice]) -> Phrase:
        """Parse one bullet."""
        levels: list[list[list[str | Variable | Choice]]] = [[[]]]
        place = 0
        for token in _TOKEN.finditer(bullet):
            levels[-1][-1] += [bullet[place : token.start()]] if token.start() > place else []
            place = token.end()
            variable, name, mark = token["variable"], token["name"], token["mark"]
            if variable:
                levels[-1][-1].append(self._variable(section, variable))
            elif name:
                levels[-1][-1].append(called(name))
            elif mark == "[":
                levels.append([[]])
            elif mark and len(levels) > 1:
                if mark == "|":
                    levels[-1].append([])
                    continue
                options: list[Phrase] = [tuple(option) for option in levels.pop()]
                if len(options) < 2:
                    raise self._error(
                        section, f"a choice has one option only, in {bullet!r}; add another or an empty one"
                    )
                levels[-1][-1].append(_choice(options))
            else:
                raise self._error(section, f"there is a stray {token.group()!r} in {bullet!r}; pair or remove it")
        if len(levels) > 1:
            raise self._error(section, f"a '[' is not closed in {bullet!r}; add the ']'")
        levels[0][0] += [bullet[place:]] if place < len(bullet) else []
        return tuple(levels[0][0])

    def _variable(self, section: str, name: str) -> Variable:
        if name not in self._template.variables:
            raise self._error(
                section, f"the variable {name!r} is not declared; add it to 'variables' in the front matter"
            )
        if name not in Grounding._fields:
            known = ", ".join(Grounding._fields)
            raise self._error(section, f"nothing fills the variable {name!r}; there are {known}")
        return Variable(name)


def _choice(options: Sequence[Phrase]) -> Choice:
    plain = ["".join(part for part in option if isinstance(part, str)) for option in options]
    pairs = zip(options, plain, strict=True)
    return Choice(tuple(text if option in ((), (text,)) else option for option, text in pairs))
