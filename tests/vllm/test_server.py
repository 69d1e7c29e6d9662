"""What the project counts on when it sends token ids to vLLM, checked on a real server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.thinking import Rendering, renderer_for
from tests.vllm.server import Server, running

MESSAGES = [
    {"role": "system", "content": "Answer in one sentence."},
    {"role": "user", "content": "Which river is longer?\n\nNaïve text, with <|im_start|> in it, and ☃."},
]
PREFILL = "Okay, so I just answer. First"


@pytest.fixture(scope="session")
def server(vllm_server: Callable[[Path], Server], tiny: Path) -> Server:
    return vllm_server(tiny)


@pytest.fixture(scope="session")
def rendering(tiny: Path) -> Rendering:
    return rendered(tiny, PREFILL)


def tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def rendered(folder: Path, prefill: str | None) -> Rendering:
    return renderer_for(tokenizer(folder)).render(MESSAGES, prefill)


def ask(server: Server, prompt: Rendering, **options: Any) -> dict[str, Any]:
    body = {"prompt": prompt.ids, "max_tokens": 24, "temperature": 1.0, "return_token_ids": True, **options}
    return server.post("/completions", body)


def test_the_server_reads_exactly_the_ids_that_were_rendered(server: Server, rendering: Rendering) -> None:
    answer = ask(server, rendering)
    assert answer["choices"][0]["prompt_token_ids"] == rendering.ids
    assert answer["usage"]["prompt_tokens"] == len(rendering.ids)
    assert answer["usage"]["completion_tokens"] == len(answer["choices"][0]["token_ids"])


def test_the_server_renders_the_same_prompt_from_messages(server: Server, tiny: Path) -> None:
    messages = [{"role": "user", "content": "Which river is longer?"}]
    plain = renderer_for(tokenizer(tiny)).render(messages, None)
    answer = server.post("/chat/completions", {"messages": messages, "max_tokens": 1, "return_token_ids": True})
    assert answer["prompt_token_ids"] == plain.ids


def test_a_seed_gives_the_same_text_again_and_another_seed_another(server: Server, rendering: Rendering) -> None:
    def ids(seed: int) -> list[int]:
        found: list[int] = ask(server, rendering, seed=seed)["choices"][0]["token_ids"]
        return found

    assert ids(7) == ids(7)
    assert ids(7) != ids(8)


def test_log_probabilities_come_back_by_token_id(server: Server, rendering: Rendering) -> None:
    choice = ask(server, rendering, max_tokens=4, logprobs=3, return_tokens_as_token_ids=True)["choices"][0]
    found = choice["logprobs"]
    assert found["tokens"] == [f"token_id:{number}" for number in choice["token_ids"]]
    for token, logprob, top in zip(found["tokens"], found["token_logprobs"], found["top_logprobs"], strict=True):
        assert top[token] == logprob < 0
        assert 3 <= len(top) <= 4


def test_a_guards_verdicts_have_log_probabilities_as_words(vllm_server: Callable[[Path], Server], guard: Path) -> None:
    server = vllm_server(guard)
    wanted = ["Yes", "No"]
    body = {
        "messages": [{"role": "user", "content": "Is this text safe?"}],
        "chat_template_kwargs": {"enable_thinking": False},
        "max_tokens": 1,
        "temperature": 0,
        "logprobs": True,
        "top_logprobs": 20,
        "allowed_token_ids": [tokenizer(guard).convert_tokens_to_ids(word) for word in wanted],
    }
    (first,) = server.post("/chat/completions", body)["choices"][0]["logprobs"]["content"]
    assert first["token"] in wanted
    assert first["logprob"] < 0


def test_a_server_that_can_not_start_says_why_and_leaves_no_process(tmp_path: Path) -> None:
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    (tmp_path / "nothing").mkdir()
    with (
        pytest.raises(RuntimeError, match=r"ended with 1\. The end of its log:\n[\s\S]*config\.json"),
        running(tmp_path / "nothing", tmp_path / "log"),
    ):
        pass
    assert not {process.pid for process in psutil.Process().children(recursive=True)} - before
