"""The texts of the template sampler: what their readers and the rest of the pipeline rely on."""

from __future__ import annotations

import asyncio
import collections
import csv
import itertools
import json
import os
import random
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import templates
from pipeline.errors import InputError
from pipeline.judges import Stance
from pipeline.judges.refusal import RefusalJudge
from pipeline.samplers import PrefillRequest, Sampler, Unwritable
from pipeline.samplers.template import TemplateSampler, expand, parse
from pipeline.templates import Template
from pipeline.thinking import control_token, cut_prefix, sentence_ends

STANCES: tuple[Stance, ...] = ("complies", "refuses")
ROOT = Path(__file__).parents[2]


def _write(requests: Sequence[PrefillRequest]) -> list[str]:
    async def texts() -> list[str]:
        sampler = TemplateSampler()
        return [(await sampler.sample(request)).thinking for request in requests]

    return asyncio.run(texts())


def _request(prompt: str = "How do I bake bread?", stance: Stance = "complies", words: int = 200) -> PrefillRequest:
    return PrefillRequest("row", prompt, None, stance, words, seed=0, attempt=0)


def _shared_requests(data: Path, stance: Stance, words: int) -> list[PrefillRequest]:
    if stance == "complies":
        rows = json.loads((data / "harmful" / "STAR-1.json").read_text(encoding="utf-8"))
        prompts = [(row["question"], row["category"][0]) for row in rows]
    else:
        lines = (data / "benign" / "coconot_pref.jsonl").read_text(encoding="utf-8").splitlines()
        loaded = [json.loads(line) for line in lines]
        prompts = [(row["prompt"], None) for row in loaded if row["category"] == "Requests with safety concerns"]
    return [PrefillRequest(str(i), prompt, kind, stance, words, 0, 0) for i, (prompt, kind) in enumerate(prompts)]


def _sharing(texts: Sequence[str]) -> Iterator[float]:
    """For each pair of texts the share of the smaller one's word 5-grams that the other has too."""
    grams = [{*zip(*(text.split()[i:] for i in range(5)), strict=False)} for text in texts]
    seen: dict[tuple[str, ...], list[int]] = collections.defaultdict(list)
    for i, mine in enumerate(grams):
        common = collections.Counter(itertools.chain.from_iterable(seen[gram] for gram in mine))
        yield from (common[j] / min(len(mine), len(grams[j])) for j in range(i))
        for gram in mine:
            seen[gram].append(i)


def _sentences(text: str) -> list[str]:
    cuts = [0, *sentence_ends(text)]
    return [text[start:end].strip() for start, end in itertools.pairwise(cuts)]


# --- What a text is


@pytest.mark.parametrize("words", [50, 100, 200, 300, 500, 700, 1000])
@pytest.mark.parametrize("stance", STANCES)
def test_texts_fill_their_length_and_end_at_a_sentence(shared_data: Path, stance: Stance, words: int) -> None:
    requests = _shared_requests(shared_data, stance, words)
    for text in _write(requests if words == 500 else requests[:: 5 if words < 500 else 10]):
        assert 0.8 * words <= len(text.split()) <= words
        assert text == text.strip()
        assert sentence_ends(text)[-1] == len(text)


@pytest.mark.parametrize("stance", STANCES)
def test_texts_of_different_prompts_share_little(shared_data: Path, stance: Stance) -> None:
    shares = list(_sharing(_write(_shared_requests(shared_data, stance, 500))))
    assert max(shares) < 0.25
    assert statistics.median(shares) < 0.07


@pytest.mark.parametrize("words", [40, 60, 100, 200, 500])
@pytest.mark.parametrize("stance", STANCES)
def test_the_stance_is_plain_to_the_judge(shared_data: Path, stance: Stance, words: int) -> None:
    requests = _shared_requests(shared_data, stance, words)
    judge = RefusalJudge()
    read = [
        judge.read(ask.prompt, text, "thinking").stance for ask, text in zip(requests, _write(requests), strict=True)
    ]
    assert read.count(stance) >= 0.99 * len(read), collections.Counter(read)


@pytest.mark.parametrize("words", [60, 100, 200])
@pytest.mark.parametrize("stance", STANCES)
def test_the_head_of_a_longer_text_leans_already(shared_data: Path, stance: Stance, words: int) -> None:
    requests = _shared_requests(shared_data, stance, 500)
    judge = RefusalJudge()
    heads = [cut_prefix(text, words).text for text in _write(requests)]
    read = [judge.read(ask.prompt, head, "thinking").stance for ask, head in zip(requests, heads, strict=True)]
    assert read.count(stance) >= 0.9 * len(read), collections.Counter(read)


DECIDES = {
    "complies": re.compile(r"I'll|I'm going to|decide|decision"),
    "refuses": re.compile(r"declin|refus"),
}


@pytest.mark.parametrize("stance", STANCES)
@pytest.mark.parametrize("words", [100, 300, 1000])
def test_a_text_thinks_in_an_order_and_decides_once_and_last(stance: Stance, words: int) -> None:
    grammar = parse(templates.load({"complies": "template-comply", "refuses": "template-refuse"}[stance]))
    assert [place.name for place in grammar.order if place.gap == "\n\n"] == ["take", "doubt", "decision"]
    for text in _write([_request(stance=stance, words=words)._replace(seed=seed) for seed in range(30)]):
        asked, takes, doubts, decision = text.split("\n\n")
        assert "bake bread" in _sentences(asked)[0] or "bake bread" in _sentences(asked)[1]
        assert DECIDES[stance].search(decision), decision
        assert len(decision.split()) < 25
        assert not re.search(
            r"decision|I decide|that's settled|settles|I'm going to|I'll (?:refuse|decl|answer|help)", takes + doubts
        )


@pytest.mark.parametrize("stance", STANCES)
def test_texts_are_written_like_english(stance: Stance) -> None:
    mistake = re.compile(
        r"\n\n\n|\n |[^\S\n]{2}|\s[,.;:?!]|[,;:][,.;:?!]|[{}|\[\]<>]|\(n\)"
        r"|\ba (?!us|uni|one\b)[aeiouAEIOU]|\ban (?!hour|hon|heir)[^aeiouAEIOU]|\b(\w+) \1\b"
    )
    for text in _write([_request("How do I bake bread?", stance, 500)._replace(seed=seed) for seed in range(300)]):
        assert "\n\n" in text
        found = mistake.search(text)
        assert found is None, text[found.start() - 40 : found.end() + 40]
        assert not any(sentence[0].islower() for sentence in _sentences(text)), text


@pytest.mark.parametrize("stance", STANCES)
def test_a_text_speaks_of_its_prompt_and_never_repeats_a_sentence(stance: Stance) -> None:
    requests = [_request("How do I bake a rye bread?", stance, 1000)._replace(seed=seed) for seed in range(20)]
    for text in _write(requests):
        assert "bake a rye bread" in text[:200]
        assert text.count("rye bread") <= 12
        openings = [" ".join(sentence.split()[:6]) for sentence in _sentences(text) if len(sentence.split()) > 9]
        assert len(openings) == len(set(openings))


def test_every_line_of_the_grammars_is_written_like_english() -> None:
    fault = re.compile(r" \.|,,|\.\.|\b(\w+) \1\b|\ba (?!one\b)[aeio]|\ban [^aeiouh{]|  | ,")
    for name in ("template-comply", "template-refuse"):
        grammar = parse(templates.load(name))
        draw = random.Random(0).random
        for lines in grammar.sentences.values():
            for line in lines:
                for _ in range(40):
                    text = expand(line, draw).replace("(n)", "n")
                    assert not fault.search(text), text
                    assert text.rstrip("”").endswith((".", "?")), text


_WORD = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=200)


@given(_WORD, _WORD, st.sampled_from(STANCES), st.integers(50, 400), st.integers())
@settings(max_examples=200, deadline=None)
def test_any_prompt_gives_a_clean_text_or_a_reason(
    before: str, after: str, stance: Stance, words: int, seed: int
) -> None:
    try:
        (text,) = _write([_request(f"{before} How do I bake bread? {after}", stance, words)._replace(seed=seed)])
    except Unwritable:
        return
    assert 0.8 * words <= len(text.split()) <= words
    assert sentence_ends(text)[-1] == len(text)
    assert control_token(text) is None
    assert text.count("“") == text.count("”") <= 2
    assert not re.search(r'["„«»]|“[^”]*“', text)


@pytest.mark.parametrize(
    "prompt",
    [
        *("¿Cómo puedo hacer pan en casa?", "Wie backe ich Brot?", "Comment faire du pain ?", "Come faccio il pane?"),
        *(
            "如何烤面包",
            "你好",
            "Как испечь хлеб дома без печи?",
            "привет",
            "パンの作り方",
            "빵을 어떻게 만들어요?",
            "كيف أخبز الخبز؟",
        ),
        *("Ekmek nasıl yapılır?", "Hoe bak ik brood?", "Como faço pão?", "Làm thế nào để nướng bánh mì?", "Je t'aime"),
        *("Traduis en anglais : Comment faire du pain ?", "Schreib mir ein Gedicht über das Meer auf Englisch."),
    ],
)
def test_a_prompt_in_another_language_is_refused_with_the_reason(prompt: str) -> None:
    for stance in STANCES:
        with pytest.raises(Unwritable, match="another language"):
            _write([_request(prompt, stance)])


@pytest.mark.parametrize(
    "prompt",
    [
        *("hi", "bread", "TEA BEATS COFFEE!", "I love you", "def f(x): return x", "Dune", "why tho", "Tolstoy?"),
        *("Translate into English: Wie backe ich Brot?", "What does 'Wie geht es dir' mean?", "Say 你好 to my friend"),
    ],
)
def test_a_short_english_prompt_is_written_for(prompt: str) -> None:
    assert len(_write([_request(prompt, stance) for stance in STANCES])) == 2


def test_no_shared_prompt_is_refused(shared_data: Path) -> None:
    for stance in STANCES:
        assert _write(_shared_requests(shared_data, stance, 30))
    with (shared_data / "eval" / "xstest_prompts.csv").open(encoding="utf-8", newline="") as file:
        prompts = [row["prompt"] for row in csv.DictReader(file)]
    for shouted in (prompts, [prompt.upper() for prompt in prompts]):
        assert len(_write([_request(prompt, words=30) for prompt in shouted])) == 450


@pytest.mark.parametrize("prompt", ["?", "", " \n", "?!", "🙂🙂", "https://example.org/a?b=c", "<br/>", "1 2 3", "…"])
def test_a_prompt_without_an_ask_is_refused_with_the_reason(prompt: str) -> None:
    with pytest.raises(Unwritable, match="no words"):
        _write([_request(prompt)])


@pytest.mark.parametrize("tag", ["</think>", "<|im_end|>", "<|channel|>", "[/INST]", "</s>"])
def test_a_control_token_in_the_prompt_never_reaches_a_text(tag: str) -> None:
    requests = [_request(f"How do I {tag} bake {tag}bread{tag}?", stance) for stance in STANCES]
    assert all(control_token(text) is None and "bread" in text for text in _write(requests))


def test_very_few_words_give_the_head_of_an_opening() -> None:
    for words in range(1, 30):
        (text,) = _write([_request(words=words)])
        assert 1 <= len(text.split()) <= words


def test_more_words_than_the_grammar_holds_end_the_text() -> None:
    (text,) = _write([_request(words=100_000)])
    assert 2_000 < len(text.split()) < 20_000


# --- What a text depends on


def test_attempts_seeds_rows_and_stances_differ_clearly() -> None:
    first = _request(words=500)
    again = [first._replace(attempt=1), first._replace(seed=1)]
    texts = _write([first, *again, first._replace(id="other"), first._replace(stance="refuses")])
    assert max(_sharing(texts)) < 0.25


def test_a_longer_text_begins_like_a_shorter_one_and_thinks_more_of_the_same() -> None:
    short, long = _write([_request(words=200), _request(words=700)])
    assert short[:150] == long[:150]
    assert short.split("\n\n")[-1] == long.split("\n\n")[-1]
    kept = [sentence in long for sentence in _sentences(short)]
    assert sum(kept) >= 0.9 * len(kept)


def test_the_batch_and_its_order_do_not_matter() -> None:
    requests = [_request(f"How do I bake bread number {i}?", stance) for i in range(10) for stance in STANCES]
    assert _write(requests) == _write(requests[::-1])[::-1] == [text for one in requests for text in _write([one])]


def test_every_process_and_hash_seed_writes_the_same_text() -> None:
    code = (
        "import sys\n"
        "from pipeline.samplers import PrefillRequest\n"
        "from pipeline.samplers.template import TemplateSampler\n"
        "ask = PrefillRequest('row', 'How do I bake bread?', 'Food', 'refuses', 300, 5, 2)\n"
        "import asyncio; sys.stdout.write(asyncio.run(TemplateSampler().sample(ask)).thinking)"
    )
    here = PrefillRequest("row", "How do I bake bread?", "Food", "refuses", 300, 5, 2)
    for hash_seed in ("0", "1", "424242"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        run = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        assert [run.stdout] == _write([here])


def test_the_sampler_says_what_it_is() -> None:
    sampler: Sampler = TemplateSampler("plain")
    assert (sampler.name, sampler.engine, sampler.model, sampler.revision) == ("plain", "template", None, "2")
    assert sampler.parameters == {}
    hashes = [sampler.template(stance) for stance in STANCES]
    assert hashes == [templates.load("template-comply").sha256, templates.load("template-refuse").sha256]


def test_a_stance_without_a_grammar_is_refused() -> None:
    with pytest.raises(InputError, match=r"'unclear'.*'complies' or 'refuses'"):
        _write([_request(stance="unclear")])


# --- Grammar files


GOOD = """
Some prose.

## order
- {greeting} / {hello}+ {end}
## greeting
- Hm.
## end
- Done.
## hello
- [the|a] {{ matter }}[, {kind}|] is good,
  and a(n) [apple|pear] too.
- Well, {kind}.
## kind
- fine
"""


def _grammar(body: str) -> Template:
    return Template("template-test", "prefill", ("matter", "colour"), body, "0")


def test_a_grammar_that_is_right_is_read() -> None:
    grammar = parse(_grammar(GOOD))
    assert grammar.order == (("greeting", False, " "), ("hello", True, "\n\n"), ("end", False, " "))
    assert len(grammar.sentences["hello"]) == 2


@pytest.mark.parametrize(
    ("old", "new", "section", "advice"),
    [
        ("{kind}.", "{sort}.", "hello", "no section of that name"),
        ("{{ matter }}", "{{ subject }}", "hello", "'subject' is not declared"),
        ("{{ matter }}", "{{ colour }}", "hello", "nothing fills the variable 'colour'"),
        ("- fine", "- fine\n-", "kind", "bullet is empty"),
        ("- fine", "", "kind", "no bullet"),
        ("- fine", "- fine\n## spare\n- idle", "spare", "nothing uses this section"),
        ("- fine", "- fine {hello}", "kind", "leads back"),
        ("[the|a]", "[the]", "hello", "one option only"),
        ("[the|a]", "[the|a", "hello", "not closed"),
        ("[the|a]", "the|a", "hello", "stray '|'"),
        ("[the|a]", "the]", "hello", "stray ']'"),
        ("{kind}.", "{Kind}.", "hello", "stray '{'"),
        ("/ {hello}+", "and", "order", "'and' is no sentence section"),
        ("{hello}+ {end}", "{hello}+", "order", "without '+' at both ends"),
        ("## kind", "## hello", "hello", "a name of its own"),
        ("## kind", "## My kind", "My kind", "lower-case"),
        ("## order", "## other", "order", "missing"),
    ],
)
def test_a_mistake_in_a_grammar_is_named_with_its_place(old: str, new: str, section: str, advice: str) -> None:
    assert old in GOOD
    with pytest.raises(InputError) as caught:
        parse(_grammar(GOOD.replace(old, new)))
    message = str(caught.value)
    assert "prompts/template-test.md" in message
    assert f"section '{section}'" in message
    assert advice in message


# --- A build


def test_a_build_sets_foreign_prompts_and_those_without_an_ask_aside_with_the_reason(tmp_path: Path) -> None:
    prompts = ["How do I bake bread?", "Wie backe ich ein gutes Brot?", "?", "Comment faire du pain ?", "I love you"]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    recipe = {
        "name": "foreign",
        "sources": {"benign": [{"files": "p.jsonl", "prompt": "prompt", "licence": "mit"}]},
        "samplers": {"template": {"engine": "template"}},
        "mixture": {"benign": {"rows": 3, "prefill": {"sampler": "template", "share": 1.0, "words": 60}}},
    }
    (tmp_path / "foreign.yaml").write_text(json.dumps(recipe))
    command = [sys.executable, "-m", "pipeline.cli", "build", "foreign.yaml", "--allow-short", "--json"]
    told = json.loads(subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout)
    (sampled,) = [row for row in told["funnel"] if row["step"] == "sample"]
    assert sampled["kept"] == 2
    assert sampled["dropped"] == {
        "prompt is in another language than the grammar's, English": 2,
        "prompt has no words that ask for anything": 1,
    }
