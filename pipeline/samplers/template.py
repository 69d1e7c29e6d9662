"""The embedded sampler: heads of thinking from a grammar, without a model.

The grammar of each stance is a Markdown file in ``prompts/``: ``template-comply.md``, whose comment explains the
notation, and ``template-refuse.md``. A text is one way to write ``start`` and then ways to write ``more``, each a list
of sentences and paragraph breaks, until the words are used up. No bullet is used twice in one text, and the last
sentence is chosen to fit, so a text ends where a sentence does and is rarely more than a few words short of its length.

A text is a function of the row, the seed and the attempt, and of nothing else: not of the batch, the process or the
machine. Texts of one row at different lengths begin alike.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple, TypeVar

from pipeline import templates
from pipeline.errors import InputError
from pipeline.judges import Stance
from pipeline.samplers import PrefillRequest, Thought
from pipeline.samplers.grounding import Grounding, ground
from pipeline.templates import Template
from pipeline.thinking import cut_prefix

_T = TypeVar("_T")

_TEMPLATES: dict[Stance, str] = {"complies": "template-comply", "refuses": "template-refuse"}
_LAYOUTS = ("start", "more")
_PARAGRAPH = "/"
_ENOUGH = 0.8
"""A text is long enough from this share of its words on."""
_TRIES = 12
"""Sentences of a kind that are tried before the text counts as full."""

_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_TOKEN = re.compile(
    r"\{\{\s*(?P<variable>[\w-]+)\s*\}\}|\{(?P<name>[a-z][a-z0-9-]*)\}|(?P<mark>[\[\]|])|(?P<stray>[{}])"
)
_ARTICLE = re.compile(r"\b([Aa])\(n\)(\s+[\"“]?)(\w+)")
_VOWEL_SOUND = re.compile(r"(?!uni|us[aeiu]|ut[ei]|eu|ubiq|one\b|once\b)[aeiou]|hour|honest|hono|heir", re.IGNORECASE)
_SENTENCE_START = re.compile(r"[.!?] [a-z]")


class Variable(NamedTuple):
    """A place that grounding fills."""

    name: str


class Choice(NamedTuple):
    """Alternatives, one of which is written. Those of plain text alone are kept as such: most are."""

    options: tuple[str | Phrase, ...]


Phrase = tuple["str | Variable | Choice", ...]
"""What is written in a row: plain text, fragments of the prompt and choices."""


class Sentence(NamedTuple):
    """One bullet that a layout may call for, and the variables in it."""

    phrase: Phrase
    variables: frozenset[str]


class Grammar(NamedTuple):
    """A parsed grammar: the layouts of a text's beginning and of its going on, and the sentences by non-terminal.

    ``recurring`` are the non-terminals that ``more`` calls for: a text can go on as long as one of them has a sentence.
    """

    start: tuple[Phrase, ...]
    more: tuple[Phrase, ...]
    sentences: dict[str, tuple[Sentence, ...]]
    recurring: tuple[str, ...]


class TemplateSampler:
    """Writes prefills from the grammars in ``prompts/``; implements `pipeline.samplers.Sampler`."""

    def __init__(self, name: str = "template") -> None:
        """Take the name that the recipe gives this sampler."""
        self.name = name
        self.engine = "template"
        self.model: str | None = None
        self.revision: str | None = None
        self.parameters: dict[str, object] = {}

    def template(self, stance: Stance | None) -> str:
        """The sha256 of the grammar file that writes this stance."""
        return _template(stance).sha256

    @property
    def steering(self) -> tuple[str, ...]:
        """None: the grammar's words are those of the prefill."""
        return ()

    async def sample(self, request: PrefillRequest) -> Thought:
        """A text of at most `words` words. It is written here and now: there is nothing to wait for."""
        grounding = ground(request.prompt, request.category)
        return Thought(write(parse(_template(request.stance)), grounding, request.words, random.Random(_seed(request))))


def _template(stance: Stance | None) -> Template:
    if stance is None or stance not in _TEMPLATES:
        known = " or ".join(map(repr, _TEMPLATES))
        raise InputError(f"The template sampler has no grammar for the stance {stance!r}; ask for {known}.")
    return templates.load(_TEMPLATES[stance])


def _seed(request: PrefillRequest) -> int:
    key = "\x1f".join((str(request.stance), str(request.seed), str(request.attempt), request.id, request.prompt))
    return int.from_bytes(hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).digest(), "big")


# --- Writing


def write(grammar: Grammar, grounding: Grounding, words: int, rng: random.Random) -> str:
    """Write one text of at most `words` words, and of at least four fifths of that where the grammar holds enough.

    Where not even one opening fits, the opening is cut at the word.
    """
    return _Writer(grammar, grounding, words, rng.random).text()


class _Writer:
    """One text in the making: what is written, the words that are left, and the sentences not used yet."""

    def __init__(self, grammar: Grammar, grounding: Grounding, words: int, draw: Callable[[], float]) -> None:
        self._grammar = grammar
        self._values = grounding._asdict()
        self._words = self._left = words
        self._draw = draw
        self._out: list[str] = []
        missing = frozenset(name for name, value in self._values.items() if not value)
        self._unused = {
            name: [sentence for sentence in sentences if missing.isdisjoint(sentence.variables)]
            for name, sentences in grammar.sentences.items()
        }

    def text(self) -> str:
        """Lay out sentences until one no longer fits, then fill up with shorter ones if that is too little."""
        for name, gap in self._plan():
            if not self._add(name, gap, tries=_TRIES):
                break
        names = list(self._grammar.recurring)
        while self._out and names and self._left > self._words * (1 - _ENOUGH):
            if not self._add(names[-1], " ", tries=len(self._unused[names[-1]])):
                names.pop()
        return "".join(self._out) or cut_prefix(self._opening(), self._words).text

    def _plan(self) -> Iterator[tuple[str, str]]:
        """The non-terminals to write next, each with the gap before it, while there are sentences left for them."""
        run_on = 0.6 * self._draw()
        gap = ""
        layout = self._pick(self._grammar.start)
        following: list[Phrase] = []
        while True:
            for name in self._expand(layout).split():
                if name == _PARAGRAPH:
                    gap = "\n\n"
                elif self._unused[name]:
                    yield name, gap
                    gap = " "
            if not any(self._unused[name] for name in self._grammar.recurring):
                return
            following = following or list(self._grammar.more)
            layout = self._take(following, self._index(following))
            gap = " " if self._draw() < run_on else "\n\n"

    def _add(self, name: str, gap: str, tries: int) -> bool:
        """Write a sentence of this non-terminal that fits and was not used; False if `tries` of them don't fit."""
        unused = self._unused[name]
        for _ in range(min(tries, len(unused))):
            at = self._index(unused)
            sentence = _polish(self._expand(unused[at].phrase))
            length = len(sentence.split())
            if length <= self._left:
                self._take(unused, at)
                self._left -= length
                self._out += (gap, sentence)
                return True
        return False

    def _opening(self) -> str:
        first = self._expand(self._pick(self._grammar.start)).split()[0]
        return _polish(self._expand(self._pick(self._grammar.sentences[first]).phrase))

    def _expand(self, phrase: Phrase) -> str:
        text = ""
        for part in phrase:
            if isinstance(part, str):
                text += part
            elif isinstance(part, Choice):
                options = part.options
                option = options[int(self._draw() * len(options))]
                text += option if isinstance(option, str) else self._expand(option)
            else:
                text += self._values[part.name]
        return text

    def _index(self, items: Sequence[object]) -> int:
        return int(self._draw() * len(items))

    def _pick(self, items: Sequence[_T]) -> _T:
        return items[self._index(items)]

    def _take(self, items: list[_T], at: int) -> _T:
        items[at], items[-1] = items[-1], items[at]
        return items.pop()


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
        start, more = (self._layouts(name) for name in _LAYOUTS)
        called = {name: _names(layouts) for name, layouts in zip(_LAYOUTS, (start, more), strict=True)}
        recurring = tuple(dict.fromkeys(called["more"]))
        sentences = {
            name: tuple(Sentence(phrase, frozenset(_variables(phrase))) for phrase in self._alternatives(name))
            for name in dict.fromkeys((*called["start"], *recurring))
        }
        for name in self._sections:
            if name not in self._parsed and name not in _LAYOUTS:
                raise self._error(name, "nothing uses this section; put {" + name + "} where it belongs or remove it")
        return Grammar(start, more, sentences, recurring)

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
        for name in _LAYOUTS:
            if name not in sections:
                raise self._error(name, "it is missing; add '## " + name + "' with the layouts of a text")
        return sections

    def _layouts(self, name: str) -> tuple[Phrase, ...]:
        """The bullets of `start` or `more`, with the non-terminals they call for as plain names."""
        layouts = tuple(self._phrase(name, bullet, lambda called: called) for bullet in self._sections[name])
        for word in _names(layouts):
            if word not in self._sections or word in _LAYOUTS:
                raise self._error(
                    name, f"{word!r} is no sentence section; a layout holds only their names in braces and '/'"
                )
        return layouts

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


def _parts(phrase: Phrase) -> Iterator[str | Variable]:
    """Everything that a phrase may write, in order."""
    for part in phrase:
        if isinstance(part, Choice):
            for option in part.options:
                yield from _parts((option,) if isinstance(option, str) else option)
        else:
            yield part


def _names(layouts: Sequence[Phrase]) -> list[str]:
    parts = [part for layout in layouts for part in _parts(layout) if isinstance(part, str)]
    return [word for word in " ".join(parts).split() if word != _PARAGRAPH]


def _variables(phrase: Phrase) -> Iterator[str]:
    return (part.name for part in _parts(phrase) if isinstance(part, Variable))
