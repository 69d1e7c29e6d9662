"""What the template sampler reads off a prompt: how to say what is asked, and what to call it.

Plain rules, no model, and no guess. An ask is reworded only where that is surely right: one short sentence, "How do I
..." or an order such as "Write a ...", without commas, quotation marks or any pronoun but "me" and "my". Whatever else
is quoted, word for word: a short prompt as a whole; of a long one the sentence that asks, where it is the only one that
does and opens or closes the prompt, and else how it opens and how it closes. A role-play is called one, and is quoted
in the same way: its frame alone is never taken for what is asked.
"""

from __future__ import annotations

import html
import re
from itertools import pairwise
from typing import NamedTuple

from pipeline.thinking import control_token, sentence_ends


class Grounding(NamedTuple):
    """Fragments of one prompt, each for one grammatical place.

        asks    "The user {asks}."              asks how to pick a lock / writes: “I love you” / asks: “Is it so?”
        matter  "an answer about {matter}"      how to pick a lock / what they ask / what they write / this role-play
        kind    "the {kind}"                    question / request / message / role-play

    ``asks`` ends its sentence: the full stop behind it is dropped where a quotation brings its own mark.
    """

    asks: str
    matter: str
    kind: str


_MATTERS = {"message": "what they write", "role-play": "this role-play"}

QUOTED = 24
"""Words that are quoted at most."""

_LEAST = 8
"""Words of a quotation below which it isn't worth making two."""

_HEAD = 6000
_LONGEST_WORD = 40
_REWORDED = 16

_CLEANERS = tuple(
    (re.compile(pattern), by)
    for pattern, by in (
        (r"(?:https?|ftp)://\S+|\bwww\.\S+", "…"),
        (r"</?[A-Za-z][^<>]{0,200}>|<!--.{0,200}?-->|```\w*|\*\*|__|`", " "),
        (r"(?m)^\s*(?:#{1,6}|[-*+•>])\s+", " "),
        (r"[\"“”„«»‟]|‘|’|&quot;", "'"),
        (r"\.{3,}", "…"),
    )
)
_LETTERS = re.compile(r"[^\W\d_]{2}|[\u3040-\ud7af]")
_QUESTION = re.compile(
    r"(?:and |but |so |now |please |then |or )?(?:how|what|where|why|who|whom|whose|which|when|can|could|would|will"
    r"|should|is|are|am|was|were|do|does|did|has|have|may|might|must)\b.*\?$",
    re.IGNORECASE | re.DOTALL,
)
_MAKE = (
    "write|create|compose|draft|generate|give|tell|explain|describe|list|provide|show|suggest|outline|summarize"
    "|summarise|design|develop|make|brainstorm|recommend|teach|help"
)
_OBJECT = (
    "me|a|an|the|some|any|how|several|two|three|four|five|ten|my|this|that|these|ways|steps|instructions|tips"
    "|information|details|examples"
)
_ORDER = re.compile(rf"(?:please )?((?:{_MAKE}) (?:{_OBJECT}) .+)", re.IGNORECASE)
_REQUEST = re.compile(
    rf"(?:please\b|(?:{_MAKE})\b|(?:can|could|will|would) you\b|i (?:want|need|would like) you to\b)", re.IGNORECASE
)
_HOW_TO = re.compile(r"how (?:(?:do|can|could|should) i|to) ([a-z].+)", re.IGNORECASE)
_NO_DEED = re.compile(
    r"(?:look|seem|sound|appear|feel|compare|differ|fare|rank|smell|taste|be|have|weigh|measure|come|not|know i)\b"
)
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9' -]*")
_PERSONS = {"me": "them", "my": "their", "myself": "themselves"}
_UNTURNED = re.compile(
    r"\b(?:i|im|id|ive|i'\w+|you|your|yours|yourself|u|ur|we|us|our|ours|mine|they|them|their|theirs|please|pls|plz"
    r"|thanks|lol)\b",
    re.IGNORECASE,
)
_ROLE_PLAY = re.compile(
    r"(?:^|[.!?:,]\s+|\b(?:you|you to|please|now|let's|let us|can we|we(?:'re| are)|want to|will|and) )"
    r"(?:role-?\s?play(?:ing)?\b|(?:pretend|pretending) (?:to be|you|that you|we|i)\b"
    r"|(?:act|behave|respond|reply|answer|speak|talk) (?:as|like) (?:if you|though you|an?|my|the)\b"
    r"|(?:play|take on|assume|adopt) (?:the|a) (?:role|part|persona|character|identity) of\b"
    r"|imagine (?:that )?you(?:'re| are)\b)"
    r"|\b(?:in|break|breaking|out of) character\b|\byou(?:'re| are) now (?:an?|the|my|called|named)\b"
    r"|\byour (?:character|persona|role) (?:is|will be)\b"
    r"|\byou(?:'ll| will) (?:play|act as|be playing|pretend|embody)\b"
    r"|\ba role-?\s?play(?: where| in which|:|,| with me)",
    re.IGNORECASE,
)
_FRAMED = re.compile(
    r"\b(?:you(?:'re| are|'ll| will| must| should| have)|your|imagine|pretend|scenario|story|tale|character|fiction\w*"
    r"|novel|scene|script|hypothetical\w*|game|persona|role|rules?|simulat\w+|let's|act|mode)\b",
    re.IGNORECASE,
)
_ABOUT_THE_FRAME = re.compile(
    r"\b(?:understand|understood|ready|agree|begin|start|clear|okay|ok|respond|reply|say|feel|next|you do|got it"
    r"|character|role|rules?|scene|story|game|persona|mode|play)\b",
    re.IGNORECASE,
)


def ground(prompt: str, quoted: int = QUOTED) -> Grounding | None:
    """Read the fragments off `prompt`, at most `quoted` words of it; None where it has no word, as "?" and a bare link.

    Never raises, whatever the text.
    """
    lines = [" ".join(map(_shortened, line.split())) for line in plain(prompt).splitlines()]
    sentences = [part for line in lines for part in _sentences(line)]
    whole = " ".join(lines)
    if not _LETTERS.search(whole):
        return None
    role_play, framed = bool(_ROLE_PLAY.search(whole)), bool(_FRAMED.search(whole))
    if len(sentences) == 1 and not role_play and (reworded := _reworded(sentences[0], quoted)):
        return reworded
    short = len(whole.split()) <= quoted or quoted < 2 * _LEAST
    asking = [sentence for sentence in sentences if _asks(sentence, framed=framed or role_play)]
    only = asking[0] if asking == sentences[-1:] else None
    kind = "role-play" if role_play else _kind(sentences, asking)
    if role_play:
        asks = "sets up a role-play"
        if short or len(sentences) == 1:
            asks += f": {_quote(whole, quoted)}"
        else:
            asks += f" and asks in it: {_quote(only, quoted)}" if only else _ends(whole, quoted)
    elif short or len(sentences) == 1:
        verb = "asks" if len(sentences) == 1 and kind != "message" else "writes"
        asks = f"{verb}: {_quote(whole, quoted)}"
    elif only:
        asks = f"asks in a longer message: {_quote(only, quoted)}"
    else:
        asks = f"writes a longer message{_ends(whole, quoted)}"
    return Grounding(asks, _MATTERS.get(kind, "what they ask"), kind)


def plain(prompt: str) -> str:
    """The prompt's lines that say something, without markup, control tokens and double quotation marks."""
    text = prompt if len(prompt) <= _HEAD else f"{prompt[: _HEAD // 2]}\n{prompt[-_HEAD // 2 :]}"
    text = html.unescape(text)
    for pattern, by in _CLEANERS:
        text = pattern.sub(by, text)
    text = "".join(c if c.isprintable() or c == "\n" else " " for c in text)
    while token := control_token(text):
        text = text.replace(token, " ")
    lines = (" ".join(line.split()) for line in text.splitlines())
    return "\n".join(line for line in lines if any(c.isalnum() or c == "…" for c in line))


def _shortened(word: str) -> str:
    return word if len(word) <= _LONGEST_WORD else f"{word[: _LONGEST_WORD - 1]}…"


def _sentences(line: str) -> list[str]:
    cuts = [0, *sentence_ends(line), len(line)]
    parts = (line[start:end].strip() for start, end in pairwise(cuts))
    return [part for part in parts if any(map(str.isalnum, part))] or [line]


def _reworded(sentence: str, most: int) -> Grounding | None:
    """The ask as a clause, where that is surely right."""
    text = sentence.rstrip(".?! ")
    question = sentence.rstrip().endswith("?")
    if (
        text.isupper()
        or not _PLAIN.fullmatch(text)
        or len(text.split()) > min(most, _REWORDED)
        or _UNTURNED.search(_behind(text))
    ):
        return None
    if how := _HOW_TO.fullmatch(text):
        deed = how[1]
        if _NO_DEED.match(deed) or len(deed.split()) < 2:
            return None
        phrase = f"how to {_turned(deed)}"
        return Grounding(f"asks {phrase}", phrase, "question")
    if (order := _ORDER.fullmatch(text)) and not question:
        words = order[1]
        return Grounding(f"asks me to {_turned(words[0].lower() + words[1:])}", "what they ask", "request")
    return None


def _behind(text: str) -> str:
    """The text without the words that a rewording takes off."""
    return re.sub(r"^(?:how \w+ i|please)\b", "", text, flags=re.IGNORECASE)


def _turned(words: str) -> str:
    return " ".join(_PERSONS.get(word.lower(), word) for word in words.split())


def _asks(sentence: str, *, framed: bool) -> bool:
    """Whether a sentence asks for something; within a frame a question alone surely does, and none about the frame."""
    if framed:
        return bool(_QUESTION.match(sentence)) and len(sentence.split()) > 3 and not _ABOUT_THE_FRAME.search(sentence)
    return sentence.endswith("?") or bool(_REQUEST.match(sentence))


def _kind(sentences: list[str], asking: list[str]) -> str:
    """What to call the prompt: a message, where it isn't plainly anything else."""
    if len(sentences) == len(asking) and all(sentence.endswith("?") for sentence in asking):
        return "question"
    return "request" if asking == sentences and len(sentences) == 1 else "message"


def _ends(whole: str, most: int) -> str:
    """How the prompt opens and how it closes, across its sentences: what is asked of a frame stands near an end."""
    words = whole.rstrip(". ").split()
    last = " ".join(words[-(most // 2) :])
    return f" that opens with {_quote(whole, most // 2)} and closes with “… {last}”"


def _quote(text: str, most: int) -> str:
    """Up to `most` words in quotation marks, with an ellipsis where it is cut, without a full stop at its end."""
    words = text.split()
    if len(words) > most:
        return f"“{' '.join(words[:most]).rstrip('.,;:!?…- ')} …”"
    return f"“{text.rstrip('. ') or text}”"
