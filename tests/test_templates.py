"""Nothing of a recipe, a manifest or a template is run, and a template is found by name alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import templates
from pipeline.errors import InputError, RecipeError
from pipeline.recipe import parse

RECIPE = """
name: small
sources:
  harmful: [{{bundled: demo}}]
samplers:
  m: {{engine: openai, base_url: "http://localhost:1/v1", model: m, {role}: "{name}"}}
mixture:
  harmful: {{rows: 5, prefill: {{sampler: m}}}}
"""
PATHS = (
    "../x",
    "../../../../../../../proc/self/cwd/evil",
    "/etc/hosts",
    "a/b",
    "..",
    ".",
    "~/x",
    r"a\\b",
    "C:x",
    "x y",
)


def text(body: str, **values: object) -> str:
    return templates.Sandboxed(templates.Template("x", "user", (), body, "")).render(values)


@pytest.mark.parametrize("name", [*PATHS, "", "a\0b", "x\n"])
@pytest.mark.parametrize("kind", ["prompts", "data_cards"])
def test_an_id_is_a_name(name: str, kind: str) -> None:
    with pytest.raises(InputError, match="is no name of a template"):
        templates.load(name, kind)


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("role", ["system", "user"])
def test_a_recipe_names_templates_and_no_paths(name: str, role: str) -> None:
    with pytest.raises(RecipeError, match=rf"samplers.m.{role}: .* is no name"):
        parse(RECIPE.format(role=role, name=name), "small.yaml")


@pytest.mark.parametrize(
    "body",
    [
        "{{ cycler.__init__.__globals__.os.system('touch ran') }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ self.__init__.__globals__ }}",
        "{{ prompt.format(prompt) }}",
        "{{ prompt | attr('__class__') }}{{ (prompt | attr('__class__')).__base__ }}",
        "{% include '/etc/hosts' %}",
        "{% import 'os' as os %}",
        "{% for i in range(10**9) %}x{% endfor %}",
        "{% for i in range(1000000000) %}x{% endfor %}",
        "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
        "{{ 'x' * 10000000000 }}",
        "{{ 10 ** 10 ** 10 }}",
        "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
        "{{ 1 / 0 }}",
        "{{ unknown }}",
        "{% if %}",
        "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    ],
)
def test_a_template_runs_nothing_and_ends(body: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"^The template 'x' [^\n]{1,300}$"):
        text(body, prompt="{0.__class__}")
    assert not list(tmp_path.iterdir())


def test_a_prompt_that_looks_like_a_template_stays_text() -> None:
    assert text("Do: {{ prompt }}", prompt="{{ 7 * 7 }} {% raw %}") == "Do: {{ 7 * 7 }} {% raw %}"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\xff\xfe", "can't be read"),
        (b"---\n- a\n---\nx", "must give id: x, role and variables"),
        (b"---\nid: x\nrole: user\n", "must give id"),
        (b"---\nid: x\nrole: user\nvariables: 5\n---\nx", "variables a list of names"),
        (b"---\nid: x\nrole: [user]\nvariables: []\n---\nx", "role must be a text"),
        (b"---\nid: x\nrole: user\nvariables: [1]\n---\nx", "variables a list of names"),
        (b"---\nid: &a [*a]\n---\nx", "no valid YAML"),
        (b"---\n" + b"[" * 200_000 + b"\n---\nx", "no valid YAML"),
    ],
)
def test_a_broken_template_file_is_one_line(tmp_path: Path, data: bytes, says: str) -> None:
    (tmp_path / "x.md").write_bytes(data)
    with pytest.raises(InputError, match=rf"x\.md[^\n]*{says}"):
        templates.read(tmp_path / "x.md", "x")
