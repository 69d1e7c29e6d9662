"""Seconds that bespokelabs-curator takes for a list of prompts: `python curator_driver.py URL PROMPTS.json IN_FLIGHT`.

Run by `bench_engine.py` in an environment with bespokelabs-curator 0.1.31. Its fairest settings: the `openai` backend
(its own aiohttp session; litellm's is slower), as many concurrent requests as the others, limits per minute far above
what is reached, a fresh cache folder, no display, no viewer, no telemetry.
"""

from __future__ import annotations

import json
import os
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

os.environ |= {
    "CURATOR_DISABLE_CACHE": "1",
    "CURATOR_DISABLE_RICH_DISPLAY": "1",
    "TELEMETRY_ENABLED": "false",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "HF_HUB_OFFLINE": "1",
    "OPENAI_API_KEY": "none",
    # The tokenizer that it counts tokens with is downloaded otherwise; litellm brings it along.
    "TIKTOKEN_CACHE_DIR": sysconfig.get_path("purelib") + "/litellm/litellm_core_utils/tokenizers",
}

from bespokelabs import curator  # type: ignore[import-not-found]


class Ask(curator.LLM):  # type: ignore[misc]
    """Sends the prompt and keeps the answer."""

    def prompt(self, row: dict[str, str]) -> str:
        return row["prompt"]

    def parse(self, row: dict[str, str], response: str) -> dict[str, str]:
        return {"prompt": row["prompt"], "response": response}


def main() -> None:
    """Print the seconds."""
    url, prompts, in_flight = sys.argv[1], json.loads(Path(sys.argv[2]).read_text()), int(sys.argv[3])
    rows = [{"prompt": prompt} for prompt in prompts]
    with tempfile.TemporaryDirectory() as folder:
        began, worked = time.perf_counter(), time.process_time()
        ask = Ask(
            model_name="toy",
            backend="openai",
            generation_params={"temperature": 0.6, "top_p": 0.95, "max_tokens": 1000},
            backend_params={
                "base_url": url,
                "max_concurrent_requests": in_flight,
                "max_requests_per_minute": 100_000_000,
                "max_tokens_per_minute": 100_000_000_000,
            },
        )
        answers = ask(rows, working_dir=folder).dataset["response"]
        seconds, worked = time.perf_counter() - began, time.process_time() - worked
    assert len(answers) == len(prompts), f"{len(answers)} answers to {len(prompts)} prompts"
    assert all("</think>" in answer for answer in answers)
    print(json.dumps({"seconds": seconds, "cpu": worked}))


if __name__ == "__main__":
    main()
