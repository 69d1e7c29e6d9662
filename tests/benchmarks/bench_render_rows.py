"""Measure loading a mixture of 5,000 rows and rendering it for a tokenizer: seconds, and memory over the imports.

Run with ``python tests/benchmarks/bench_render_rows.py [SHARED_DATA]``. The mixture is built first, from published
prompts and template prefills of 500 words, in the paper's shares: 1,000 harmful and 1,000 benign rows, half of them
prefilled, and 3,000 of mathematics. The tokenizer has one token a byte, so that there are four times the ids that a
real one has. The floor is 10 s and 1 GiB.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
os.environ["TRANSFORMERS_VERBOSITY"] = "error"

from transformers import AutoTokenizer  # noqa: E402

from pipeline.thinking import renderer_for  # noqa: E402
from pipeline.trainer.mixture import open_mixture, render  # noqa: E402
from tests.byte_tokenizer import byte_tokenizer  # noqa: E402

RECIPE = """
name: bench
sources:
  harmful: [{{files: ["{data}/harmful/STAR-1.json"], prompt: question}}, {{bundled: demo}}]
  benign: [{{files: ["{data}/benign/coconot_pref.jsonl"], prompt: prompt}}, {{bundled: demo}}]
  math: [{{files: ["{data}/math/gsm8k_train.jsonl"], prompt: question, ground_truth: {{field: answer, after: "####"}}}}]
samplers: {{template: {{engine: template}}}}
judges: {{stance: {{engine: refusal}}}}
mixture:
  harmful: {{rows: 1000, prefill: {{sampler: template, share: 0.5, words: 500, min_words: 50}}}}
  benign: {{rows: 1000, prefill: {{sampler: template, share: 0.5, words: 500, min_words: 50}}}}
  math: {{rows: 3000}}
"""


def peak() -> int:
    """The most memory that the process has held, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(folder: Path) -> None:
    """Load and render in a process of its own, and print."""
    tokenizer = AutoTokenizer.from_pretrained(str(folder / "tokenizer"))
    before, began, busy = peak(), time.perf_counter(), time.process_time()
    table, dropped = render(open_mixture(str(folder / "built")), renderer_for(tokenizer))
    seconds, busy = time.perf_counter() - began, time.process_time() - busy
    tokens = sum(map(len, table["prompt_ids"]))
    print(
        f"{len(table):,} rows, {tokens:,} tokens, {sum(dropped)} dropped: {seconds:.2f} s ({busy:.2f} s of a core), "
        f"{(peak() - before) / 2**20:,.0f} MiB over the imports"
    )


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("data", nargs="?", type=Path, default=ROOT.parent / "shared" / "data")
    data = arguments.parse_args().data.resolve()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        byte_tokenizer(folder / "tokenizer")
        (folder / "bench.yaml").write_text(RECIPE.format(data=data))
        command = ("build", str(folder / "bench.yaml"), "--out", str(folder / "built"), "--allow-short")
        subprocess.run(
            [sys.executable, "-m", "pipeline.cli", *command], check=True, stdout=subprocess.DEVNULL, cwd=ROOT
        )
        subprocess.run([sys.executable, __file__, "--measure", name], check=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(Path(sys.argv[2]))
    else:
        main()
