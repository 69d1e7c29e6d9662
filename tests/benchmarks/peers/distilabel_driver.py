"""Seconds that distilabel takes for a list of prompts: `python distilabel_driver.py URL PROMPTS.json IN_FLIGHT`.

Run by `bench_engine.py` in an environment with distilabel 1.5.3. Its fairest settings: batches as large as the requests
that may be in flight, since it sends a batch at once and waits for all of it, and no cache.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "DISTILABEL_LOG_LEVEL": "ERROR"}


def cpu() -> float:
    """Seconds of CPU time, with those of the processes that it runs its steps in."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


def main() -> None:
    """Print the seconds."""
    from distilabel.models import OpenAILLM  # type: ignore[import-not-found]
    from distilabel.pipeline import Pipeline  # type: ignore[import-not-found]
    from distilabel.steps import LoadDataFromDicts  # type: ignore[import-not-found]
    from distilabel.steps.tasks import TextGeneration  # type: ignore[import-not-found]

    url, prompts, in_flight = sys.argv[1], json.loads(Path(sys.argv[2]).read_text()), int(sys.argv[3])
    rows = [{"instruction": prompt} for prompt in prompts]
    with tempfile.TemporaryDirectory() as folder:
        began, worked = time.perf_counter(), cpu()
        with Pipeline(name="bench", cache_dir=folder) as pipeline:
            load = LoadDataFromDicts(data=rows, batch_size=in_flight)
            ask = TextGeneration(
                llm=OpenAILLM(
                    model="toy",
                    base_url=url,
                    api_key="none",
                    generation_kwargs={"temperature": 0.6, "top_p": 0.95, "max_new_tokens": 1000},
                ),
                input_batch_size=in_flight,
            )
            load >> ask
        answers = pipeline.run(use_cache=False)["default"]["train"]["generation"]
        seconds, worked = time.perf_counter() - began, cpu() - worked
    assert len(answers) == len(prompts), f"{len(answers)} answers to {len(prompts)} prompts"
    assert all("</think>" in answer for answer in answers)
    print(json.dumps({"seconds": seconds, "cpu": worked}))


if __name__ == "__main__":
    main()
