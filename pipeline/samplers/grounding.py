"""What the template sampler reads off a prompt: a few short fragments that tie a text to the request it thinks about.

Plain rules, no model. The prompt is stripped of markup, the sentence that asks is found, its frame ("can you tell me
how to ...", "what are some ...") is taken off, the first person becomes the third ("my" is "their"), and what is left
is cut to a handful of words at a place where a reader would pause. A prompt that gives nothing to hold on to (too
short, code, another language) is called "this request".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from pipeline.thinking import control_token


class Grounding(NamedTuple):
    """Fragments of one prompt, without sentence ends, quotes, line breaks and control tokens; `category` may be "".

    Each fits one grammatical place::

        asks      "The user is asking {asks}"        how to pick a lock / for a poem about rain / about the price of tea
        wants     "The user wants {wants}"           to know how to pick a lock / a poem about rain
        action    "someone who wants to {action}"    pick a lock / get a poem about rain
        topic     "a question about {topic}"         picking a lock / the price of tea / whether they can fish there
        subject   "the {subject} part"               lock / poem / price
        category  "something about {category}"       privacy and personal data
    """

    asks: str
    wants: str
    action: str
    topic: str
    subject: str
    category: str


_FALLBACK = Grounding(
    asks="for an answer to this message",
    wants="an answer to this message",
    action="get an answer to this request",
    topic="this request",
    subject="request",
    category="",
)

_HEAD = 6000
_LONG, _SHORT = 15, 10


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_VERBS = _set("""
accept access achieve acquire act add address advise alter analyze answer apply approach argue arrange ask
assist attack attract author authorize avoid bake be beat become begin believe bet block book boost borrow break
brew bribe bring build bully burn buy bypass calculate call can care carry catch cause celebrate challenge
change cheat check choose claim clean close code coerce collect combat come commit communicate compare compile
complete compose conceal conduct confront connect consider construct consult consume contact control convert
convince cook cope copy counter counterfeit cover crack craft create criticize crush cut deal deceive decide
decorate decrease deepfake defame defeat defend defraud deliver deny depict deploy derive describe design
destroy detail detect determine develop devise disable discipline disclose discourage discover discriminate
discuss disguise display dispose disrupt distribute do doctor document download draft draw drink drive drop dump
earn eat educate eliminate embarrass embed employ empower encourage end engage enhance enjoy ensure enter escape
establish evade evaluate examine exclude execute exercise expand explain exploit explore expose express extract
fabricate fake feel fight figure file fill find finish fire fix follow force forge forget form formulate forward
found fund gain gather generate get give go grow guess guide hack handle harass harm help hide hire hit hold
host hurt identify illustrate imagine imitate impersonate implement import improve include incorporate increase
induce infect influence inform inject injure insert install insult intercept intimidate introduce invade invent
invest investigate join justify keep kidnap kill know launch launder lead learn leave lend let leverage lie list
live locate look lose lower lure maintain make manage manipulate manufacture mark market maximize mean measure
meet mimic minimize misuse mix mock modify monetize monitor motivate move murder name navigate need negotiate
obtain offer open operate order organize outline overcome pass pay perform permit persuade pick pirate place
plan plant play plot poison portray pose post practice predict prepare present pretend prevent print proceed
process produce profit program promote propose protect prove provide provoke publish punish purchase push put
question quit raise reach react read receive recommend recover recruit reduce refer refuse reject release
relieve remain remember remove rent repeat replace reply report represent reproduce research resist resolve
respond restore retrieve return reveal reverse review rewrite rob ruin run sabotage safeguard save say scam
scrape search secure seduce see seek sell send separate serve set settle share shoot shop show sign simulate
skip smoke smuggle sneak solve speak spend spoof spot spread spy stalk start stay steal stop strengthen study
submit sue suggest support survive synthesize take talk tamper target teach tell test think threaten torture
touch trace track trade train transfer transform translate transport trap travel treat trick try turn understand
unlock update upload use utilize verify violate visit vote wait walk want warn wash watch win wipe wish work
worry write
""")
_AUXILIARIES = _set("do does did can could should would will may might must is are was were has have had am")
_PRONOUNS = _set("""
they them he she it one we i you someone anyone people everyone somebody there this that these those
""")
_DETERMINERS = _set("""
the a an some any my your his her its our their this that these those each every all no several most many more
""")
_BREAKS = _set("""
and or but to by while without so because in on for with from that which who whom where when if before after as
using at into about during through under over against between among despite unless until although though whether
via than
""")
_DANGLING = (
    _BREAKS
    | _DETERMINERS
    | (_AUXILIARIES - {"do"})
    | _set("""
of be been being not their very really just also too only either both such like i they he she we it up-to into
own even what how
""")
)
_FUNCTION = (
    _DANGLING
    | _PRONOUNS
    | _VERBS
    | _set("""
true possible took stole seen okay ok u works effective around major real online real-looking example examples
list details idea fact used not up out off down there here any how what why who whom whose when where if then
than now get got other another else next best good better them themselves himself herself itself me mine theirs
us him hers way ways thing things kind kinds type types sort lot lots bit able being please new own same much
few little less least maybe perhaps every still yet ever never always often sometimes quite rather soon
""")
)
_ENGLISH = _set("""
the a an to of and in is are for on with how what can do i my me you it that this about from by as be or not at
their they get have if who was your any some want need help make write give why where
""")

_PERSONS = {
    **dict.fromkeys(("i", "we", "you"), "they"),
    **dict.fromkeys(("me", "us"), "them"),
    **dict.fromkeys(("my", "our", "your"), "their"),
    **dict.fromkeys(("mine", "ours", "yours"), "theirs"),
    **dict.fromkeys(("myself", "ourselves", "yourself"), "themselves"),
    **dict.fromkeys(("i'm", "im", "we're", "you're"), "they're"),
    **dict.fromkeys(("i've", "ive", "we've", "you've"), "they've"),
    **dict.fromkeys(("i'd", "we'd", "you'd"), "they'd"),
    **dict.fromkeys(("i'll", "we'll", "you'll"), "they'll"),
}
_AGREEMENT = {"am": "are", "was": "were", "wasn't": "weren't"}
_BEFORE_OBJECT = _set("""
for with to about from at on of by than give gives giving tell tells telling help show like
""")

_PLAIN = {
    **dict.fromkeys(map(ord, "\u2018\u2019\u02bc\u201b"), "'"),
    **dict.fromkeys(map(ord, "\u201c\u201d\u201e\u00ab\u00bb\u2039\u203a"), '"'),
    **dict.fromkeys(map(ord, "\u2013\u2014"), " - "),
    **dict.fromkeys(map(ord, "\u3002\uff01\uff1f"), ". "),
    ord("\u2026"): "... ",
}
_CLEANERS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), by)
    for pattern, by in (
        (r"```.*?(?:```|\Z)", " "),
        (r"(?:https?|ftp)://\S+|\bwww\.\S+", " "),
        (r"!?\[([^\]\n]{0,200})\]\([^)\s]*\)", r"\1"),
        (r"<[^<>]{0,200}>|\{\{[^{}]{0,200}\}\}", " "),
        (r"(?m)^\s*(?:#{1,6}|[-*+•]|\d+[.)])\s+", " "),
        (r"\([^()]{0,200}\)", " "),
        (r"\b(?-i:(Dr|Mr|Mrs|Ms|St|Jr|Sr|Inc|Prof|vs|etc|Co|Ltd|[A-HJ-Z])\.(?=\s|[A-Z]|,))", r"\1"),
        (r"(?<=\w)\"(?=\w)", "'"),
        (r"(?<!\w)'|'(?!\w)|[\"`*_~^|\\<>{}\[\]()#=@\u00a9\u00ae\u2122]", " "),
        (r"(?<=\w)\s*/\s*(?=\w)", " or "),
        (r"\bw/\s*", "with "),
    )
)
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+|(?<=[!?])(?=[A-Za-z])")
_EDGE = ".,;:!?-'\"&/+%$"

_LEAD = re.compile(
    r"(?:(?:hey|hi|hello|so|well|ok|okay|but|and|also|now|then|basically|actually|please|pls|dude|lol|thanks|assistant"
    r"|kindly|just|say|recently|anyway|or|yes|no|seriously|honestly|alright|first|i mean|as you know|you know"
    r"|did you know|imagine that|let's say)\b[\s,]*)+",
    re.IGNORECASE,
)
_TAIL = re.compile(
    r"\s+(?:please|thanks|thank you|lol|lmao|haha|if possible|right now|for me|in detail|step by step|or not|or no)$"
    r"|,?\s+(?:isn't|aren't|don't|doesn't|right|won't)(?: \w+)?$"
    r"|(?:,|,? and)\s+(?:how|what|where|why|can|could|should|is|are|who)\s+"
    r"(?:is|are|do|does|can|could|should|would|i|it|the)\b.*$",
    re.IGNORECASE,
)
_CLAUSE = re.compile(
    r"^(?=\S).{3,200}?(?:,\s*(?:so\s+|but\s+|and\s+)?|\s(?:so|and|but)\s)"
    r"(?=(?:how|what|where|why)\s+(?:do|can|could|should|is|are|would|to)\b"
    r"|(?:can|could|would|will)\s+you\b|can i\b|i\s+(?:want|need|would like|plan)\b"
    r"|(?:please\s+)?(?:write|give|tell|help|create|generate)\b)",
    re.IGNORECASE,
)
_ME = r"(?:\s+(?:me|us))?"
_NEED = (
    r"(?:want|need|would like|'d like|wish|plan|hope|intend|am trying|'m trying|am looking|'m looking"
    r"|have been wanting|am going|have)"
)
_FRAMES: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (kind, re.compile(pattern, re.IGNORECASE))
    for kind, pattern in (
        (
            "drop",
            r"(?:can|could|would|will) you (?:please |kindly |possibly |try to |try and |"
            r"be able to )*",
        ),
        ("drop", r"(?:would|do) you mind (?:helping me )?"),
        ("drop", rf"(?:i|we) ?{_NEED} (?:for )?you to "),
        ("drop", r"you (?:have|need) to (?=\w)|how about you |is it possible for you to |are you able to "),
        (
            "drop",
            r"(?:i was|i am|i'm|im) (?:just )?(?:wondering|curious|asking) (?:if |about |as to )?"
            r"(?=what|how|where|why|who|you)",
        ),
        ("drop", r"do you (?:know|have any (?:ideas?|suggestions|tips|advice)) (?=of|on|how|where|what|about|for)"),
        (
            "howto",
            r"(?:tell|show|teach|explain|inform|guide|instruct|advise|describe|detail|outline|know|"
            rf"learn|see|help|assist)(?:\s+to)?{_ME}(?:\s+(?:on|about|through|with|in))?"
            r"\s+(?:exactly )?how (?:to|(?:can|could|do|should|would|might) (?:i|we|you|one)|(?:i|we|"
            r"you|one) (?:can|could|should|would|might))\s+(?:best |properly |successfully )?",
        ),
        (
            "howto",
            r"how (?:exactly )?(?:to|(?:do|can|could|should|would|might|may|did|shall) (?:i|we|you|"
            r"one|someone|somebody|anyone|people))\s+(?:best |possibly |go about |properly )?",
        ),
        (
            "howto",
            rf"(?:give|show|provide|send|tell|share|write|list|outline|suggest|offer){_ME}(?: with)? "
            r"(?:(?:some|a|an|the|detailed|clear|step-by-step|full|few|useful) )*(?:instructions?|"
            r"tips|advice|steps|guide|tutorial|ideas|ways|methods|guidance|plan|walkthrough|"
            r"directions|strategies|techniques) (?:on how to|to|on how i can)\s+",
        ),
        ("howto", rf"(?:help|assist|teach|guide|train|show|allow){_ME}\s+to\s+"),
        ("howto", r"help (?:me|us)\s+(?!with\b|in\b|out\b)"),
        ("gerund", r"(?:help|assist)(?: (?:me|us))?\s+(?:with|in)\s+(?=\w+ing\b)"),
        (
            "gerund",
            r"(?:i|we) (?:really |just )?(?:need|want|could use|would like) (?:some |your )?help "
            r"(?:with|in) (?=\w+ing\b)",
        ),
        ("noun", r"(?:help|assist)(?: (?:me|us))?\s+with\s+"),
        ("get", r"(?:direct|point|lead|refer) (?:me|us) to(?:wards?)? (?=\w)"),
        (
            "howto",
            rf"(?:i|we) ?(?:just |really |also |still )*{_NEED} (?:(?:your|some) (?:help|advice) )?"
            r"(?:to (?:learn |know |find out )?(?:how to )?)(?:be able to )?",
        ),
        (
            "gerund",
            r"(?:i am|i'm|i have been|i've been|im|we are|we're) (?:currently |also |just )?"
            r"(?:thinking (?:about|of)|considering|planning on|interested in) (?=\w+ing\b)",
        ),
        ("get", r"(?:i am|i'm|im|we are|we're) (?:currently |also |just )?(?:looking for|searching for|after) "),
        ("noun", r"(?:i am|i'm|im|we are|we're) (?:currently |also |just )?(?:interested in|curious about) "),
        (
            "whether",
            r"(?:do|would|don't) (?:you|u) (?:really |also )?(?:think|believe|agree|say|"
            r"feel)(?: that)? (?!of\b|about\b)",
        ),
        (
            "noun",
            r"(?:what|how) (?:do|would|are) you(?:r)? (?:think|feel|thoughts|say|opinion)(?: is)? "
            r"(?:of|about|on) ",
        ),
        (
            "get",
            r"(?:i|we) (?:just |really |also )?(?:want|need|would like) (?:your help with |"
            r"some help with |help with |to know about )?(?=(?:a|an|the|some|all|his|her|their|this|"
            r"my|information|help|advice|details|images?|someone's)\b)",
        ),
        ("howto", r"(?:let's|lets|let us)(?: try)?(?: to)? (?:get )?(?!say\b)"),
        (
            "noun",
            r"(?:tell|inform|educate|teach|talk to|brief)(?: (?:me|us))?\s+(?:more |all |everything )?"
            r"about\s+",
        ),
        ("noun", r"do you know (?:of )?(?=(?:a|an|any|the|some)\b)"),
        (
            "noun",
            r"(?:(?:i|we)(?: want|'d like|'d love| would like| would love) to )?(?:talk|know|hear|"
            r"learn) (?:more )?(?:about|of)\s+",
        ),
        (
            "get",
            r"(?:give|show|tell|send|provide|share|list|suggest|recommend|name|display|offer|present|"
            rf"supply|reveal|disclose){_ME}(?: with)?\s+(?=\w)(?!(?:me |us )?(?:what|how|why|where|who|"
            r"if|whether|that)\b)",
        ),
        (
            "drop",
            r"(?:tell|show|teach|explain|describe|detail|outline|remind|discuss|know|see|analyze|"
            r"determine|research|find out|guess)(?: (?:to )?(?:me|us))?\s+(?:exactly )?(?=(?:what|how|"
            r"why|where|who|if|whether)\b)",
        ),
        ("true", r"(?:is it true|is it correct|is it possible) that\s+"),
        ("why_s", r"how come\s+"),
        (
            "noun",
            r"(?:what|who|where|when)(?:'s| is| are| was| were|s)\s+(?=the|a|an|some|any|my|your|his|"
            r"her|their|its|this|\w)",
        ),
        ("wh", r"(?=(?:what|which|who|whom|whose|where|when|why|how)\b)"),
        ("yesno", rf"(?=(?:{'|'.join(sorted(_AUXILIARIES))}|isn't|aren't|don't|doesn't|can't)\b)"),
    )
)
_SUFFIXES = ("ize", "ise", "ate", "ify")
_DOUBLED = _set("""
begin commit refer transfer forget submit admit control upset rebel regret permit compel deter occur prefer
equip patrol
""")
_CLAUSE_OPENERS: dict[str | None, str] = {
    "why_s": "why",
    "true": "whether it is true that",
    "whether": "whether",
}
_STATEMENT = _AUXILIARIES | _PRONOUNS | _set("want wants think need i'm don't never they're")
_THEY = _set("they their they're they've")
_CATEGORY_JUNK = re.compile(r"[^\w\s&,/'-]+")
_LETTERS = re.compile(r"[^\W\d_]")


def ground(prompt: str, category: str | None) -> Grounding:
    """Read the fragments off `prompt`; never raises, whatever the text."""
    found = _read(prompt) or _FALLBACK
    return found._replace(category=_category(category))


def _read(prompt: str) -> Grounding | None:
    for sentence in _candidates(prompt):
        grounding = _parse(sentence)
        if grounding is not None and not any(control_token(fragment) for fragment in grounding):
            return grounding
    return None


def _clean(prompt: str) -> str:
    text = prompt if len(prompt) <= _HEAD else f"{prompt[: _HEAD // 2]}\n{prompt[-_HEAD // 2 :]}"
    text = text.translate(_PLAIN)
    for pattern, by in _CLEANERS:
        text = pattern.sub(by, text)
    return "".join(c if c.isprintable() or c == "\n" else " " for c in text)


def _candidates(prompt: str) -> list[list[str]]:
    """The sentences of the prompt as lists of words, the one that most plainly asks for something first."""
    ranked: list[tuple[int, int, list[str]]] = []
    for place, raw in enumerate(_SENTENCE.split(_clean(prompt))[:40]):
        sentence = _LEAD.sub("", raw.strip(), count=1) if _LEAD.match(raw.strip()) else raw.strip()
        if sentence.isupper() and len(sentence) > 12:
            sentence = sentence.lower()
        asks = None if _frame(sentence)[0] else _CLAUSE.match(sentence)
        sentence = sentence[asks.end() :] if asks else sentence
        words = _words(sentence)
        if words and _is_english(sentence, words):
            ranked.append((-_score(raw, words), place, words))
    return [words for _, _, words in sorted(ranked)]


def _is_english(sentence: str, words: Sequence[str]) -> bool:
    letters = len(_LETTERS.findall(sentence))
    ascii_letters = sum(c.isascii() and c.isalpha() for c in sentence)
    if letters < 3 or ascii_letters < 0.9 * letters or letters < 0.6 * len(sentence.replace(" ", "")):
        return False
    return len(words) < 5 or any(word.lower() in _ENGLISH for word in words)


def _score(raw: str, words: Sequence[str]) -> int:
    """How plainly a sentence asks for something that can be named: frames count, vague words ("this", "it") don't."""
    kind, _ = _frame(" ".join(words[:40]))
    content = sum(word.lower() not in _FUNCTION or word.lower() in _VERBS for word in words[:16])
    score = min(content, 5)
    if kind in {"howto", "gerund", "noun", "get"} or words[0].lower() in _VERBS:
        score += 4
    elif kind or "?" in raw:
        score += 2
    return score if content > 1 else score - 5


def _words(text: str) -> list[str]:
    """The words of a text up to its first colon, semicolon or dash, without stray punctuation but with their commas."""
    words: list[str] = []
    for token in text.split():
        if token.strip("-") == "" and len(words) > 3:
            break
        word = token.strip(_EDGE)
        if any(c.isalnum() for c in word) and len(word) <= 30 and not re.search(r"[.!?;:]{2}", word):
            words.append(word + "," if token.endswith(",") else word)
            if token.endswith((":", ";")) and len(words) > 3:
                break
    return words


@lru_cache(maxsize=64)
def _frame(text: str) -> tuple[str | None, str]:
    """The kind of question or request and what stands behind its frame; frames that only lead in are dropped first."""
    last: str | None = None
    for kind, pattern in _FRAMES:
        found = pattern.match(text)
        if found is None:
            continue
        last = kind
        rest = text[found.end() :]
        if kind != "drop":
            return kind, rest
        text = rest
        if text.split(" ", 1)[0].lower() in {"of", "on", "about"}:
            return "noun", text.split(" ", 1)[-1]
    return last, text


def _parse(sentence: Sequence[str]) -> Grounding | None:
    text = " ".join(sentence[:40])
    kind, rest = _frame(text)
    for _ in range(3):
        rest = _TAIL.sub("", rest)
    words = _third_person(rest.split())
    first = words[0].lower().rstrip(",") if words else ""
    if not any(word.lower().rstrip(",") not in _FUNCTION for word in words) and len(words) < 3:
        return None
    bare = kind in {None, "drop"}
    ordered = (
        first in _VERBS or first.endswith(("ing", "ly", *_SUFFIXES)) or (kind == "drop" and first not in _FUNCTION)
    )
    found: Grounding | None
    if kind in {"howto", "gerund"} or (bare and ordered):
        found = _from_verb(words, for_me=bare)
    elif kind in {"noun", "get"} and len(words) > 1 and first in {"to", "how"}:
        found = _from_verb(words[2:] if first == "how" else words[1:], for_me=False)
    elif kind in _CLAUSE_OPENERS:
        found = _from_clause(_CLAUSE_OPENERS[kind], words)
    elif kind == "wh":
        found = _from_wh(words)
    elif kind == "yesno":
        found = _from_yes_no(words)
    elif bare and not _STATEMENT.isdisjoint(word.lower() for word in words):
        found = _from_clause("the fact that" if first in _THEY else "the idea that", words)
    else:
        found = _from_noun(words, get=kind == "get")
    return found


def _third_person(words: Sequence[str]) -> list[str]:
    """Turn "I" and "my" into "they" and "their", and "you" where the user is meant."""
    turned: list[str] = []
    for i, word in enumerate(words):
        bare = word.rstrip(",")
        comma = word[len(bare) :]
        low = bare.lower()
        before = turned[-1].lower() if turned else ""
        if low == "you" and (before in _BEFORE_OBJECT or i == len(words) - 1):
            new = "them"
        elif low in _AGREEMENT and before == "they":
            new = _AGREEMENT[low]
        else:
            new = _PERSONS.get(low, bare)
        turned.append(new + comma)
    return turned


def _clip(words: Sequence[str], limit: int) -> str:
    """At most `limit` words, cut where a reader would pause, without a dangling article or preposition."""
    kept = list(words)
    if len(kept) > limit:
        places = [i for i in range(4, limit + 1) if _is_pause(kept, i)]
        commas = [i for i in places if kept[i - 1].endswith(",")]
        kept = kept[: (commas or places or [limit])[-1]]
        while len(kept) > 2 and _is_open(kept[-1]):
            kept.pop()
    return " ".join(kept).strip(_EDGE + " ")


def _is_pause(words: Sequence[str], i: int) -> bool:
    """Whether a reader could pause before word `i`: after a comma or before a link word, but not inside a name."""
    before = words[i - 1]
    in_name = before[0].isupper() and any(word[0].isupper() for word in words[i : i + 3])
    return (
        (before.endswith(",") or words[i].lower() in _BREAKS - {"and", "or"}) and not in_name and not _is_open(before)
    )


def _is_open(word: str) -> bool:
    """Whether a phrase that stops at `word` sounds broken off: at a verb, a participle, an article or a preposition."""
    low = word.lower()
    return (
        low in _VERBS
        or low in _DANGLING
        or low == "order"
        or low.endswith(("'s", "s'"))
        or (len(low) > 4 and low.endswith(("ed", "ing")))
    )


def _gerund(verb: str) -> str:
    low = verb.lower()
    if low.endswith("ing") and len(low) > 4 and low not in _VERBS:
        return low
    if low.endswith("ie"):
        return low[:-2] + "ying"
    if low.endswith("e") and not low.endswith(("ee", "ye", "oe")) and low != "be":
        return low[:-1] + "ing"
    one_vowel = re.fullmatch(r"(?:[^aeiou]|(?<=q)u)*[aeiou][bdglmnprt]", low.replace("qu", "q"))
    return low + low[-1] + "ing" if one_vowel or low in _DOUBLED else low + "ing"


def _from_verb(words: list[str], *, for_me: bool) -> Grounding | None:
    """A verb phrase: what the user wants to do, or (`for_me`) wants done for them."""
    if not words:
        return None
    at = next(
        (i for i, w in enumerate(words[:3]) if not w.lower().endswith("ly") and w.lower() not in {"and", "not"}), 0
    )
    head, verb, tail = [w.lower() for w in words[:at]], words[at].lower(), words[at + 1 :]
    if verb in _PRONOUNS:
        return _from_clause("the fact that", words)
    if not re.fullmatch(r"[a-z][a-z-]*", verb):
        return _from_noun(words)
    running = verb.endswith("ing") and verb not in _VERBS and len(verb) > 4
    if running and _AUXILIARIES & set(tail[:2]):
        return _from_clause("the idea that", words)
    if len(tail) > 1 and tail[0] in {"and", "or"} and tail[1] in _VERBS:
        gerunds = [*head, _gerund(verb), tail[0], _gerund(tail[1]), *tail[2:]]
    else:
        gerunds = [*head, _gerund(verb), *tail]
    if for_me and tail[:1] == ["them"] and len(tail) > 1:
        tail, gerunds = tail[1:], [word for word in gerunds if word != "them"]
    phrase = [*head, verb, *tail]
    long, short = _clip(phrase, _LONG), _clip(phrase, _SHORT)
    topic = _clip(gerunds, _SHORT)
    if running:
        asks, wants, short = f"for help with {long}", f"help with {long}", f"get help with {topic}"
    elif for_me:
        asks, wants = f"me to {long}", f"me to {long}"
    else:
        asks, wants = f"how to {long}", f"to know how to {long}"
    return Grounding(asks, wants, short, topic, _subject(tail) or _subject(words), "")


def _from_noun(words: list[str], *, get: bool = False) -> Grounding | None:
    """A noun phrase: something to be told about, or to be given."""
    if not words:
        return None
    if words[0].lower() in _DETERMINERS | _ENGLISH | _VERBS or words[0].endswith("ing"):
        words = [words[0].lower(), *words[1:]]
    long, short = _clip(words, _LONG), _clip(words, _SHORT)
    if not short:
        return None
    if get:
        return Grounding(f"for {long}", long, f"get {short}", short, _subject(words), "")
    return Grounding(f"about {long}", f"to know about {long}", f"find out about {short}", short, _subject(words), "")


def _from_clause(opener: str, words: list[str]) -> Grounding | None:
    """A clause in plain word order behind `opener` ("why", "whether", "the idea that")."""
    if not words:
        return None
    if words[0].lower() in _FUNCTION:
        words = [words[0].lower(), *words[1:]]
    long, short = f"{opener} {_clip(words, _LONG)}", f"{opener} {_clip(words, _SHORT)}"
    idea = opener.endswith((" idea that", " fact that"))
    asks = f"about {long}" if idea else long
    wants = f"an answer about {long}" if idea else f"to know {long}"
    action = f"talk about {short}" if idea else f"find out {short}"
    return Grounding(asks, wants, action, short, _subject([*opener.split(), *words]), "")


def _from_wh(words: list[str]) -> Grounding | None:
    """A question that begins with a question word, as the clause it would be behind "they ask"."""
    opener = words[0].lower()
    if opener in {"how", "why", "what", "where"} and len(words) > 1 and words[1].lower() == "to":
        return _from_verb(words[2:], for_me=False)
    place = next((i for i, word in enumerate(words[:6]) if word.lower() in _AUXILIARIES), None)
    if place is None or _asks_for_subject(words, place):
        return _from_clause(opener, words[1:])
    return _from_question(" ".join([opener, *words[1:place]]), words[place].lower(), words[place + 1 :])


def _asks_for_subject(words: Sequence[str], place: int) -> bool:
    """Whether the question word is the subject ("what should be done"), so that the order is plain already."""
    auxiliary, behind = words[place].lower(), words[place + 1].lower() if place + 1 < len(words) else ""
    inner = {word.lower() for word in words[1:place]}
    return bool(
        (words[0].lower() in {"who", "what", "which"} and behind in _VERBS | {"be"})
        or (place > 1 and auxiliary in {"is", "are"} and behind not in _PRONOUNS | _DETERMINERS)
        or inner & (_PRONOUNS | {"if", "happens"})
        or (auxiliary in {"is", "are", "was", "were"} and behind.endswith("ed"))
    )


def _from_question(opener: str, auxiliary: str, words: list[str]) -> Grounding | None:
    """What stands behind an auxiliary, in plain order behind `opener`: "(can) the city pay" is "the city can pay".

    Where the end of the subject isn't plain to see, what the question is about.
    """
    pronoun = bool(words) and words[0].lower() in _PRONOUNS and (len(words) < 2 or words[0].lower() not in _DETERMINERS)
    end = 1 if pronoun else next((i for i, word in enumerate(words[:9]) if i and word.lower() in _VERBS), None)
    if end is None and auxiliary == "does" and 1 < len(words) < 6:
        end = len(words) - 1
    if end is None:
        return _from_noun(words)
    subject, rest = words[:end], words[end:]
    if auxiliary == "does" and rest:
        rest[0] = _with_s(rest[0])
    elif auxiliary not in {"do", "did"}:
        rest = ["are" if auxiliary == "am" else auxiliary, *rest]
    return _from_clause(opener, [*subject, *rest])


def _with_s(verb: str) -> str:
    if verb == "have":
        return "has"
    if verb.endswith("y") and not verb.endswith(("ay", "ey", "oy", "uy")):
        return verb[:-1] + "ies"
    return verb + ("es" if verb.endswith(("s", "x", "z", "ch", "sh", "o")) else "s")


def _from_yes_no(words: list[str]) -> Grounding | None:
    """A yes-or-no question, as "whether they can ..."; "is there a ..." asks about the thing itself."""
    auxiliary, behind = words[0].lower(), words[1:]
    if "n't" in auxiliary or (behind and behind[0].lower() == "there"):
        return _from_noun(behind[1:])
    return _from_question("whether", auxiliary, behind)


def _subject(words: Sequence[str]) -> str:
    """Up to three content words that stand together: a name for the matter that fits "the ... part"."""
    run: list[str] = []
    for word in words:
        bare = word.strip(_EDGE)
        low = bare.lower()
        if "'" in bare or (not run and low in _VERBS):
            run = []
        elif (low in _FUNCTION and low not in _VERBS) or low in _AUXILIARIES or low.endswith(("ly", "ing")):
            if run:
                break
        else:
            run.append(bare)
            if len(run) == 5 or word.endswith(","):
                break
    while len(run) > 1 and run[-1].endswith("ed"):
        run.pop()
    return " ".join(run[-3:]) or "request"


def _category(category: str | None) -> str:
    """The category as a phrase: "Illicit / Criminal Behavior" is "illicit or criminal behavior"; "" for none."""
    if not category or control_token(category):
        return ""
    text = re.sub(r"\s*/\s*", " or ", _CATEGORY_JUNK.sub(" ", category[:200].translate(_PLAIN)).replace("_", " "))
    text = " ".join(text.replace("&", "and").split()[:8]).strip(_EDGE + " ")
    return text.lower() if any(c.isalpha() for c in text) else ""
