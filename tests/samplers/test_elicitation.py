"""Prefills elicited by a seed prefix or by steering, and what is told before anything is paid."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.thinking import control_token
from tests.byte_tokenizer import byte_tokenizer
from tests.models import CHAT_TEMPLATE
from tests.servers.endpoint import Endpoint, Record, endpoint

pytest.importorskip("transformers", reason="needs transformers: pip install 'recap-data[render]'")

SEED = "Okay, so I need to work out what is asked here."

RECIPE = """
name: seeded
sources:
  harmful: [{bundled: demo}]
samplers:
  unaligned: {engine: openai, base_url: "URL", model: toy-comply, tokenizer: TOKENIZER, max_tokens: 400}
mixture:
  harmful: {rows: 40, prefill: {sampler: unaligned, words: 100, min_words: 40}}
"""
SEEDED = ["--set", f"samplers.unaligned.seed_prefix={json.dumps(SEED)}"]


@pytest.fixture(scope="module")
def server() -> Iterator[Endpoint]:
    with endpoint(latency=0.002) as running:
        yield running


@pytest.fixture(autouse=True)
def _reset(server: Endpoint) -> None:
    server.reset()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return byte_tokenizer(tmp_path_factory.mktemp("tokenizers") / "bytes")


def recap_data(
    command: str, server: Endpoint, tokenizer: Path, folder: Path, *options: str, code: int = 0
) -> tuple[dict[str, Any], str]:
    folder.mkdir(exist_ok=True)
    (folder / "seeded.yaml").write_text(RECIPE.replace("URL", server.base_url).replace("TOKENIZER", str(tokenizer)))
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", command, "seeded.yaml", "--json", *options],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout or "{}"), done.stderr


def asked(server: Endpoint) -> list[Record]:
    return [record for record in server.log() if "completions" in record.path]


def prefilled(folder: Path) -> list[dict[str, Any]]:
    return [row for row in pq.read_table(folder / "out/seeded/data").to_pylist() if row["prefill"]]


def test_a_seed_prefix_is_gone_on_from_and_part_of_the_prefill(
    server: Endpoint, tokenizer: Path, tmp_path: Path
) -> None:
    recap_data("build", server, tokenizer, tmp_path, *SEEDED)
    rows = prefilled(tmp_path)
    assert len(rows) == 20
    for row in rows:
        assert row["prefill"].startswith(SEED)
        assert row["prefill"].count(SEED) == 1
        assert len(row["prefill"].split()) > 40
        assert control_token(row["prefill"]) is None
        assert json.loads(row["sampling"]["parameters"])["seed_prefix"] == SEED
    bodies = [json.loads(record.body) for record in asked(server)]
    texts = [bytes(body["prompt"]).decode() for body in bodies]
    assert {record.path for record in asked(server)} == {"/v1/completions"}
    assert all(body["skip_special_tokens"] is False for body in bodies)
    assert sum(text.endswith(f"<|im_start|>assistant\n<think>\n{SEED}") for text in texts) == len(texts) - 1


def test_a_server_is_probed_once_a_run_and_its_answer_recorded(
    server: Endpoint, tokenizer: Path, tmp_path: Path
) -> None:
    recap_data("build", server, tokenizer, tmp_path, *SEEDED)
    assert sum("lanterns" in bytes(json.loads(r.body)["prompt"]).decode() for r in asked(server)) == 1
    manifest = json.loads((tmp_path / "out/seeded/manifest.json").read_text())
    assert manifest["probes"] == {"unaligned": "went on with the canary's sentence"}
    assert "went on with the canary's sentence" in (tmp_path / "out/seeded/README.md").read_text()

    before = len(server.log())
    recap_data("build", server, tokenizer, tmp_path, *SEEDED, "--out", "out/again")
    assert len(server.log()) == before
    assert (tmp_path / "out/again/manifest.json").read_bytes() == (tmp_path / "out/seeded/manifest.json").read_bytes()


@pytest.mark.parametrize("fault", ["prefill-ignored", "prefill-repeated", "thinking-closed"])
def test_a_server_that_does_not_go_on_is_refused_before_anything_is_paid(
    server: Endpoint, tokenizer: Path, tmp_path: Path, fault: str
) -> None:
    server.set(faults=fault, fault_share=1.0)
    _, told = recap_data("build", server, tokenizer, tmp_path, *SEEDED, code=2)
    assert "doesn't go on from a prefill" in told
    assert "Traceback" not in told
    assert len(asked(server)) == 1


@pytest.mark.parametrize("fault", ["prefill-ignored", "prefill-repeated", "thinking-closed"])
def test_a_server_that_fails_to_go_on_at_times_changes_no_row(
    server: Endpoint, tokenizer: Path, tmp_path: Path, fault: str
) -> None:
    calm, _ = recap_data("build", server, tokenizer, tmp_path / "calm", *SEEDED)
    server.reset()
    server.set(faults=fault, fault_share=0.3, fault_times=1, seed=1)
    rough, _ = recap_data("build", server, tokenizer, tmp_path / "rough", *SEEDED)
    assert rough["content_hash"] == calm["content_hash"]
    assert len(asked(server)) > 21


def test_a_server_that_reads_our_token_ids_and_begins_anew_is_not_believed(
    server: Endpoint, tokenizer: Path, tmp_path: Path
) -> None:
    """The text decides, not the echo of the ids; what is doubted twice is rejected, and said so."""
    server.set(echo_ids=True, faults="prefill-anew", fault_share=1.0, fault_times=10**9)
    _, told = recap_data("build", server, tokenizer, tmp_path, *SEEDED, code=2)
    assert "doesn't go on from a prefill" in told
    assert len(asked(server)) == 1

    broken = ["--set", f"samplers.unaligned.seed_prefix={json.dumps('Okay, so I need to')}"]
    broken += ["--set", "mixture.harmful.prefill.attempts=1"]
    server.set(fault_bodies=f"^(?!.*{', *'.join(map(str, b'lanterns'))})")
    _, told = recap_data("build", server, tokenizer, tmp_path, *broken, code=1)
    assert "thinking that began anew behind the prefill" in told
    rejected = [json.loads(line) for line in (tmp_path / "out/seeded.rejected.jsonl").read_text().splitlines()]
    assert rejected
    assert not any(line["prefill"] for line in rejected), "nothing was glued to the seed"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--set", "samplers.unaligned.seed_prefix=<think>Okay"], "holds the control token '<think>'"),
        ([*SEEDED, "--set", "samplers.unaligned.tokenizer=nowhere/none"], "There is no tokenizer 'nowhere/none'"),
        ([*SEEDED, "--set", 'samplers.unaligned.thinking=["<r>", "</r>"]'], "knows thinking that ends in '</think>'"),
        ([*SEEDED, "--set", "samplers.unaligned.system=template-comply"], "uses the variable "),
    ],
)
def test_what_can_not_be_rendered_is_told_before_anything_is_paid(
    server: Endpoint, tokenizer: Path, tmp_path: Path, options: list[str], said: str
) -> None:
    _, told = recap_data("build", server, tokenizer, tmp_path, *options, code=2)
    assert said in told
    assert "Traceback" not in told
    assert not asked(server)


def test_a_prompt_that_the_template_can_not_write_costs_its_row_alone(server: Endpoint, tmp_path: Path) -> None:
    picky = "{%- for m in messages if 'rumour' in m.content -%}{{ raise_exception('no rumours') }}{%- endfor -%}"
    tokenizer = byte_tokenizer(tmp_path / "picky", picky + CHAT_TEMPLATE)
    every = ["--set", "mixture.harmful.prefill.share=1.0", "--set", "mixture.harmful.rows=75", "--allow-short"]
    told, _ = recap_data("build", server, tokenizer, tmp_path, *SEEDED, *every)
    (sampled,) = [row for row in told["funnel"] if row["step"] == "sample"]
    (refused,) = [n for why, n in sampled["dropped"].items() if why.startswith("request refused by the server")]
    assert refused >= 1
    assert len(prefilled(tmp_path)) == sampled["kept"] > 60
    recap_data("plan", server, tokenizer, tmp_path, *SEEDED, *every[:4])


def test_a_template_without_a_system_turn_can_not_be_steered_by_one(server: Endpoint, tmp_path: Path) -> None:
    drops = CHAT_TEMPLATE.replace("{%- else -%}\n        {{- '<|im_start|>' + message.role", DROPPED, 1)
    assert drops != CHAT_TEMPLATE
    tokenizer = byte_tokenizer(tmp_path / "no-system", drops)
    steered = ["--set", "samplers.unaligned.system=steer-overcautious"]
    _, told = recap_data("build", server, tokenizer, tmp_path, *SEEDED, *steered, code=2)
    assert "write the text of the system message" in told
    assert not asked(server)


DROPPED = "{%- elif message.role == 'user' -%}\n        {{- '<|im_start|>' + message.role"


def test_a_server_that_takes_no_system_turn_is_told_of_once(server: Endpoint, tokenizer: Path, tmp_path: Path) -> None:
    server.set(system_role=False)
    steered = ["--set", "samplers.unaligned.system=steer-overcautious"]
    _, told = recap_data("build", server, tokenizer, tmp_path, *steered, code=2)
    assert "System role not supported" in told
    assert len(asked(server)) == 3


def test_a_plan_counts_tokens_with_the_tokenizer_or_says_that_it_estimates(
    server: Endpoint, tokenizer: Path, tmp_path: Path
) -> None:
    counted, _ = recap_data("plan", server, tokenizer, tmp_path)
    estimated, _ = recap_data("plan", server, Path("nowhere/none"), tmp_path)
    (by_bytes,), (by_words,) = counted["estimates"], estimated["estimates"]
    assert (by_bytes["counted"], by_words["counted"]) == ("tokenizer", "estimate")
    assert by_bytes["prompt_tokens"] > 3 * by_words["prompt_tokens"] > 0
    assert not asked(server)
