from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.recipes import find, named
from pipeline.errors import RecipeError
from pipeline.recipe import Recipe, load, parse

GOOD = """
name: small
sources:
  harmful:
    - {files: harmful.jsonl, prompt: question, where: {kind: no}}
  math:
    - {dataset: openai/gsm8k}
samplers:
  template: {engine: template}
mixture:
  harmful: {rows: 10, prefill: {sampler: template, share: 5e-1}}
  math: {rows: 20}
"""


def mistakes(text: str, *overrides: str) -> str:
    with pytest.raises(RecipeError) as raised:
        parse(text, "small.yaml", overrides)
    return str(raised.value)


def test_a_good_recipe_gets_the_papers_defaults() -> None:
    recipe = parse(GOOD, "small.yaml")
    prefill = recipe.mixture["harmful"].prefill
    assert prefill is not None
    assert (prefill.share, prefill.words, prefill.min_words, prefill.attempts) == (0.5, 500, 50, 3)
    assert (recipe.publish.private, recipe.publish.gated) == (True, "manual")


def test_yaml_is_read_as_its_core_schema() -> None:
    assert parse(GOOD, "small.yaml").sources["harmful"][0].where == {"kind": "no"}


def test_every_mistake_is_told_at_once_with_its_place() -> None:
    told = mistakes(
        """name: small
sources:
  harmful:
    - {file: a.jsonl, prompt: q}
  bening: [{bundled: demo}]
samplers: {t: {engine: tempalte}}
mixture:
  harmful: {rows: 0, prefill: {sampler: u, share: 1.5}}
"""
    )
    assert told.startswith("small.yaml has 6 mistakes:")
    expected = [
        "small.yaml:4:8  sources.harmful.0.file: unknown key (did you mean 'files'?)",
        "small.yaml:5:3  sources.bening: unknown key (did you mean 'benign'?); allowed: harmful, benign, math",
        "small.yaml:6:16  samplers.t.engine: 'tempalte' is not allowed (did you mean 'template'?)",
        "small.yaml:8:13  mixture.harmful.rows: 0 is not allowed: should be greater than or equal to 1",
        "small.yaml:8:32  mixture.harmful.prefill.sampler: 'u' is no sampler; samplers has t",
        "small.yaml:8:44  mixture.harmful.prefill.share: 1.5 is not allowed: should be less than or equal to 1",
    ]
    for line in expected:
        assert line in told


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("rows: 10", "rows: true", "mixture.harmful.rows: True is not allowed"),
        ("rows: 10", "rows: '10'", "mixture.harmful.rows: '10' is not allowed"),
        ("share: 5e-1", "share: .nan", "should be a finite number"),
        ("share: 5e-1", "words: 10", "min_words (50) is more than words (10)"),
        ("math: {rows: 20}", "math: {rows: 20, prefill: {sampler: template}}", "math rows never carry a prefill"),
        ("math: {rows: 20}", "benign: {rows: 20}", "mixture.benign: has no prompts: add sources.benign"),
        ("math: {rows: 20}", "", "sources.math: is not used"),
        ("prompt: question, ", "", "prompt: is missing: name the field that holds the prompt"),
        ("{kind: no}", "{kind: {is: no}}", "must be a text, number, true, false, null, or a list of these"),
        ("files: harmful.jsonl", "files: []", "files: is empty: give something or remove it"),
        ("files: harmful.jsonl", "bundled: demo, files: a.jsonl", "bundled stands alone"),
        ("{dataset: openai/gsm8k}", "{prompt: q}", "names no place: give dataset, files or bundled"),
        (
            "{dataset: openai/gsm8k}",
            "{files: m.jsonl, prompt: q}",
            "sources.math.0.ground_truth: is missing: a math row needs one",
        ),
        (
            "{dataset: openai/gsm8k}",
            "{dataset: openai/gsm8k, ground_truth: {field: a, after: x, boxed: true}}",
            "takes one of after, regex and boxed, not several",
        ),
        (
            "{dataset: openai/gsm8k}",
            "{dataset: openai/gsm8k, ground_truth: {field: a, regex: '('}}",
            "is no regular expression",
        ),
        (
            "{dataset: openai/gsm8k}",
            "{dataset: openai/gsm8k, ground_truth: {field: a, after: ''}}",
            "ground_truth.after: is empty",
        ),
        ("{engine: template}", "{engine: opnai}", "'opnai' is not allowed (did you mean 'openai'?)"),
        ("{engine: template}", "{model: m}", "samplers.template.engine: is missing; allowed: template, openai"),
        (
            "{engine: template}",
            "{engine: openai, base_url: 'http://a:1/v1', model: m, temprature: 1}",
            "samplers.template.temprature: unknown key (did you mean 'temperature'?)",
        ),
        ("{engine: template}", "{engine: openai, base_url: a, model: m}", "'a' is no address of a server"),
        ("name: small", "name: a/b", "is no name"),
        ("name: small", "name: small\nname: other", "is given twice, the second time in line 3"),
        ("name: small", "name: small\nclean: {dedupe: {near: 0.2}}", "greater than or equal to 0.5"),
    ],
)
def test_one_mistake(old: str, new: str, said: str) -> None:
    assert old in GOOD
    assert said in mistakes(GOOD.replace(old, new))


def test_secrets_are_refused_and_not_repeated() -> None:
    token = "hf_" + "a1B2" * 8
    for line in (f"token: {token}", f"name2: {token}", f"publish: {{to: 'https://user:{token}@host/x'}}"):
        told = mistakes(f"{GOOD}{line}\n")
        assert "set it in the environment" in told
        assert token not in told


def test_overrides_are_checked_like_the_file() -> None:
    recipe = parse(GOOD, "small.yaml", ["mixture.harmful.rows=200", "sources.harmful.0.where={kind: [a, b]}", "seed=7"])
    assert recipe.mixture["harmful"].rows == 200
    assert recipe.sources["harmful"][0].where == {"kind": ["a", "b"]}
    assert recipe.seed == 7
    told = mistakes(GOOD, "mixture.harmful.prefill.shar=0.2", "mixture.harmful.rows=many", "clean.dedupe.near=null")
    assert (
        "--set mixture.harmful.prefill.shar  mixture.harmful.prefill.shar: unknown key (did you mean 'share'?)" in told
    )
    assert "--set mixture.harmful.rows  mixture.harmful.rows: 'many' is not allowed" in told
    assert "has 2 mistakes" in told


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("mixture.harmful.rows", "is not of the form a.b.c=value"),
        ("=3", "is not of the form a.b.c=value"),
        ("seed=[1", "is no valid YAML value"),
        ("sources.harmful.4.prompt=x", "'4' is no place in a list of 1"),
        ("name.x=1", "has nothing below it to set"),
    ],
)
def test_an_override_that_leads_nowhere(override: str, said: str) -> None:
    assert said in mistakes(GOOD, override)


def test_what_is_no_recipe_at_all(tmp_path: Path) -> None:
    assert "is no valid YAML" in mistakes("a: [1")
    assert "small.yaml:1:7" in mistakes("a: [1 }")
    assert "holds no recipe" in mistakes("")
    assert "holds no recipe" in mistakes("- 1")
    with pytest.raises(RecipeError, match="There is no recipe"):
        load(tmp_path / "none.yaml")
    with pytest.raises(RecipeError, match="can't be read"):
        load(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("name: é".encode("latin-1"))
    with pytest.raises(RecipeError, match="must be a UTF-8 YAML file"):
        load(tmp_path / "latin.yaml")


def test_the_named_recipes_are_valid() -> None:
    assert "demo" in named()
    for path in named().values():
        assert load(path).recipe.name == path.stem
    with pytest.raises(RecipeError, match=r"no named recipe 'dmeo' \(did you mean demo\?\)"):
        find("dmeo")


def test_the_order_of_files_is_no_part_of_a_recipe() -> None:
    one, other = (GOOD.replace("harmful.jsonl", f"[{files}]") for files in ("a.jsonl, b.jsonl", "b.jsonl, a.jsonl"))
    assert parse(one, "x").fingerprint == parse(other, "x").fingerprint


def test_the_fingerprint_knows_what_changes_rows() -> None:
    recipe = parse(GOOD, "x")
    assert recipe.fingerprint == parse(GOOD, "y", ["publish.private=false"]).fingerprint
    assert recipe.fingerprint != parse(GOOD, "x", ["seed=1"]).fingerprint
    assert recipe.fingerprint != parse(GOOD, "x", ["samplers.other.engine=template"]).fingerprint


def test_the_fingerprint_does_not_know_where_a_server_stands() -> None:
    served = GOOD.replace("{engine: template}", "{engine: openai, base_url: 'http://a:1/v1', model: m}")
    moved = ["samplers.template.base_url=[http://b:2/v1, http://c:3/v1]", "samplers.template.in_flight=8"]
    assert parse(served, "x").fingerprint == parse(served, "x", moved).fingerprint
    assert parse(served, "x").fingerprint != parse(served, "x", ["samplers.template.model=n"]).fingerprint


names = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
"""Whatever a recipe may hold: a null byte is refused where one is read."""
scalars = st.one_of(texts, st.integers(-5, 5), st.booleans(), st.none(), st.floats(-2, 2))


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    domains = draw(st.sets(st.sampled_from(["harmful", "benign"]), min_size=1))
    where = st.dictionaries(names, scalars | st.lists(scalars, max_size=3), max_size=2)
    source = st.fixed_dictionaries({"files": st.lists(names, min_size=1, max_size=3), "prompt": names, "where": where})
    prefill = st.fixed_dictionaries(
        {
            "sampler": st.just("t"),
            "share": st.floats(0, 1),
            "words": st.integers(60, 900),
            "attempts": st.integers(1, 9),
        }
    )
    return Recipe.model_validate(
        {
            "name": "r" + draw(names),
            "seed": draw(st.integers(0, 2**63 - 1)),
            "sources": {d: draw(st.lists(source, min_size=1, max_size=2)) for d in domains},
            "samplers": {"t": {"engine": "template"}},
            "mixture": {d: {"rows": draw(st.integers(1, 9)), "prefill": draw(prefill | st.none())} for d in domains},
        }
    )


@given(recipes())
def test_a_recipe_survives_being_printed_and_read(recipe: Recipe) -> None:
    again = parse(recipe.to_yaml(), "printed")
    assert again == recipe
    assert again.fingerprint == recipe.fingerprint


@pytest.mark.parametrize(
    "text", ["a\x85b", "'\x85'", "1e3", "1.5e3", ".5E3", "1_0", "no", "~", "2020-01-01", "a\u2028b"]
)
def test_a_text_that_yaml_would_read_as_something_else_stays_a_text(text: str) -> None:
    data = load(find("demo")).recipe.dump()
    data["sources"]["harmful"][0]["where"] = {"field": text}
    recipe = Recipe.model_validate(data, strict=False)
    assert parse(recipe.to_yaml(), "printed").sources["harmful"][0].where == {"field": text}


SECRETS = (
    *("hf_" + "a1B2" * 5, "sk-ant-api03-" + "a1B2" * 4, "gsk_" + "a1B2" * 5, "AIza" + "a1B2" * 8, "ghp_" + "a1B2" * 9),
    *(
        "github_pat_" + "a1B2" * 9,
        "nvapi-" + "a1B2" * 5,
        "xai-" + "a1B2" * 9,
        "AKIA" + "A1B2" * 4,
        "ya29." + "a1B2" * 5,
    ),
    *(
        "glpat-" + "a1B2" * 5,
        "r8_" + "a1B2" * 9,
        "pplx-" + "a1B2" * 9,
        "eyJ" + "a1B2" * 5 + ".eyJ" + "a1B2" * 5 + ".c3",
    ),
    *("https://me:pw@host/v1", "https://me@host/v1", "http://h/v1?api_key=abc", "http://h/v1?a=b&token=abc"),
    *("http://h/v1?X-Amz-Signature=abc", "Bearer a1B2c3D4e5F6g7", "Authorization: Basic a1B2c3D4"),
)
SECRET_KEYS = (
    *("x-api-key", "X-Api-Key", "api key", "apiKey", "bearer", "Authorization", "Proxy-Authorization", "cookie"),
    *("access_token", "accessToken", "hf_token", "token", "client-secret", "aws_secret_access_key", "password"),
    *("Ocp-Apim-Subscription-Key", "X-Auth-Token", "x-functions-key"),
)


@pytest.mark.parametrize("place", ["extra.a.b", "extra.list.0", "template.x", "vllm.x", "model", "tokenizer"])
@pytest.mark.parametrize("secret", SECRETS)
def test_a_secret_is_refused_wherever_it_stands_and_is_not_repeated(secret: str, place: str) -> None:
    overrides = ["samplers.t={engine: vllm, model: m, extra: {list: [x]}, vllm: {x: 1}}"]
    told = mistakes(GOOD, *overrides, f"samplers.t.{place}='{secret}'")
    assert "looks like a secret" in told
    assert secret not in told


@pytest.mark.parametrize("key", SECRET_KEYS)
def test_a_key_that_is_named_like_a_secret_is_refused(key: str) -> None:
    told = mistakes(GOOD, "samplers.t={engine: vllm, model: m, extra: {'" + key + "': plain-value, other: 1}}")
    assert "a secret has no place in a recipe" in told
    assert "plain-value" not in told


@pytest.mark.parametrize(
    "value",
    [
        *("max_tokens: 5", "pad_token: <pad>", "eos_token: </s>", "stop_token_ids: [1]", "skip_special_tokens: true"),
        *("api_key: null", "tokens: [a]", "key: id", "image_token: <img>", "u: 'http://h/v1?max_tokens=5'"),
        *("a: xai-org/grok-1", "a: perplexity-ai/pplx-70b-online", "a: Basic understanding of bearer bonds"),
    ],
)
def test_what_only_looks_like_a_secret_is_taken(value: str) -> None:
    parse(GOOD, "small.yaml", ["samplers.t={engine: vllm, model: m, extra: {" + value + "}}"])
    parse(GOOD, "small.yaml", ["sources.harmful.0.where={token: abc}", "sources.harmful.0.prompt=token_count"])


@pytest.mark.parametrize("key", ["trust_remote_code", "trust-remote-code", "worker_cls", "tool_parser_plugin"])
def test_code_of_elsewhere_is_refused(key: str) -> None:
    told = mistakes(GOOD, "samplers.t={engine: vllm, model: m, vllm: {deep: {" + key + ": yes-please}}}")
    assert f"samplers.t.vllm.deep.{key}: would have code run" in told


@pytest.mark.parametrize("judge", ["stance", "harmful", "benign"])
def test_a_mistake_in_any_judge_says_what_is_allowed(judge: str) -> None:
    told = mistakes(GOOD, "judges." + judge + "={engine: rubrik}")
    assert f"judges.{judge}.engine: 'rubrik' is not allowed (did you mean 'rubric'?); allowed: refusal, guard" in told
    told = mistakes(GOOD, "judges." + judge + "={engine: refusal, modle: x}")
    assert f"judges.{judge}.modle: unknown key; allowed: engine." in told
    told = mistakes(GOOD, "judges." + judge + "={engine: guard, model: m, base_url: 'http://h/v1', family: wildgard}")
    assert f"judges.{judge}.family: 'wildgard' is not allowed (did you mean 'wildguard'?); allowed: granite" in told
    assert f"judges.{judge}.engine: is missing; allowed: refusal" in mistakes(GOOD, "judges." + judge + "={a: 1}")


WHOLE = """
name: small
seed: 3
sources:
  harmful: [{files: [a.jsonl, b.jsonl], prompt: question, where: {kind: [no, yes]}, limit: 5}]
  math: [{dataset: openai/gsm8k, ground_truth: {field: answer, after: '####'}}]
clean: {max_chars: 100, dedupe: {near: 0.9}, decontaminate: {against: [{bundled: demo-eval}], coverage: 0.5}}
samplers:
  t: {engine: template}
  m: {engine: openai, base_url: 'http://localhost:1/v1', model: m, system: steer, extra: {top_k: 5}}
judges:
  harmful: {engine: rubric, base_url: ['http://localhost:1/v1'], model: j, sees: [prompt, thinking]}
  stance: {engine: refusal}
mixture:
  harmful: {rows: 10, prefill: {sampler: m, share: 0.5, words: 100}}
  math: {rows: 20}
variants: {half: {harmful: {share: 0.25, sampler: t}}}
trained_on: [hub:a/b]
publish: {to: hub:a/b, private: true}
"""
FUZZED = settings(deadline=None, derandomize=True, database=None)
PIECES = (
    "[",
    "]",
    "{",
    "}",
    ":",
    "- ",
    "*a",
    "&a ",
    "!!int ",
    "? ",
    "null",
    "-1",
    "1e400",
    "''",
    "../x",
    "\n",
    "  ",
    "\t",
    "é",
    "<<: ",
)


@FUZZED
@given(
    st.lists(st.tuples(st.integers(0, len(WHOLE)), st.integers(0, 12), st.sampled_from(PIECES)), min_size=1, max_size=3)
)
def test_a_recipe_with_anything_in_it_is_read_or_is_one_error(edits: list[tuple[int, int, str]]) -> None:
    text = WHOLE
    for place, length, piece in edits:
        text = text[:place] + piece + text[place + length :]
    with suppress(RecipeError):
        parse(text, "small.yaml")


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["t", "m", "harmful", "x/y"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.none(), inner, max_size=3),
    max_leaves=4,
)


@FUZZED
@given(st.data())
def test_a_recipe_with_any_value_in_any_place_is_read_or_is_one_error(data: st.DataObject) -> None:
    recipe = yaml.safe_load(WHOLE)
    here, path = recipe, []
    while True:
        keys = list(here) if isinstance(here, dict) else range(len(here))
        path.append(data.draw(st.sampled_from(list(keys))))
        if not isinstance(here[path[-1]], dict | list) or not here[path[-1]] or data.draw(st.booleans()):
            break
        here = here[path[-1]]
    here[path[-1]] = data.draw(VALUES)
    with suppress(RecipeError):
        parse(yaml.safe_dump(recipe, allow_unicode=True), "small.yaml")
