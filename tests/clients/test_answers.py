"""Whatever a host sends is an answer that can be kept and read again, or one error that the engine knows."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pipeline.budget import EngineError
from pipeline.clients import read_entry
from pipeline.clients.outcomes import Names, read_error, read_reply
from pipeline.engine import Refused, Retry
from pipeline.ledger import Entry, Ledger, LedgerError, request_key

LOGPROBS = {
    "content": [{"token": "safe", "logprob": -0.1, "top_logprobs": [{"token": "safe", "logprob": -0.1}]}],
}
CHAT = {
    "id": "a",
    "model": "m",
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": "text", "reasoning_content": "thinking", "refusal": None},
            "logprobs": LOGPROBS,
        }
    ],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2, "completion_tokens_details": {"reasoning_tokens": 1}},
}
COMPLETION = {
    "model": "m",
    "choices": [
        {"text": "text", "finish_reason": "length", "logprobs": {"tokens": ["a"], "top_logprobs": [{"a": -1}]}}
    ],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2},
}
ERROR = {"error": {"message": "no", "type": "x", "code": 400, "param": None}, "detail": [{"loc": ["a"], "msg": "no"}]}

words = st.sampled_from(["error", "content_filter", "m", "M", "", "stop", "thinking", "text", "\ud83d", "9" * 5000])
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), words)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
)


def paths(value: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path for key, inner in pairs for path in [(*above, key), *paths(inner, (*above, key))]]


@st.composite
def changed(draw: st.DrawFn) -> Any:
    """What a host might send, with one or two values changed or gone."""
    sent = copy.deepcopy(draw(st.sampled_from([CHAT, COMPLETION, ERROR, {**CHAT, **ERROR}])))
    for _ in range(draw(st.integers(1, 2))):
        *above, last = draw(st.sampled_from(paths(sent)))
        place: Any = sent
        for key in above:
            place = place[key]
        if draw(st.booleans()) and isinstance(place, dict):
            del place[last]
        else:
            place[last] = draw(anything)
        if not paths(sent):
            break
    return sent


def sent_as(value: Any) -> str:
    return json.dumps(value)


@given(st.one_of(changed(), anything).map(sent_as) | st.text(max_size=40))
def test_an_answer_is_kept_as_it_is_read_or_is_one_known_error(text: str) -> None:
    told = ""
    try:
        reply = read_reply(text, "m", Names("m"))
    except (Retry, Refused, EngineError) as error:
        told = str(error)
    if told:
        assert len(told) < 1000
        return
    for counted in (reply.prompt_tokens, reply.completion_tokens):
        assert counted is None or 0 <= counted < 2**63
    entry = Entry("s", "m", {}, **reply._asdict(), time=1.0)
    answer = read_entry(entry)
    (answer.text + (answer.reasoning or "")).encode()
    with Ledger(Path(":memory:")) as ledger:
        ledger.put([(b"key", entry)])
        assert ledger.get(b"key") == entry


@given(
    st.integers(400, 599),
    st.one_of(changed(), anything).map(sent_as) | st.text(max_size=40),
    st.dictionaries(st.sampled_from(["retry-after", "retry-after-ms"]), st.text(max_size=12) | words),
)
def test_an_error_of_a_host_is_one_that_the_engine_knows(status: int, text: str, headers: dict[str, str]) -> None:
    error = read_error(status, headers, text, "http://a/v1", "m")
    assert isinstance(error, Retry | Refused | EngineError)
    assert 0 < len(str(error)) < 1000
    if isinstance(error, Retry) and error.fault.after is not None:
        assert math.isfinite(error.fault.after)
        assert error.fault.after >= 0


@given(st.data())
def test_a_ledger_that_was_changed_anywhere_is_told_in_one_line(tmp_path_factory: Any, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("ledger")
    with Ledger(folder / "l") as ledger:
        requests = [{"n": n} for n in range(8)]
        ledger.put((request_key(r), Entry("s", "m", r, json.dumps({"text": f"answer {r['n']}"}))) for r in requests)
    content = bytearray((folder / "l").read_bytes())
    for _ in range(data.draw(st.integers(1, 40))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(1, len(content)) | st.just(len(content)))
    (folder / "l").write_bytes(content[:cut])
    told = ""
    try:
        with Ledger(folder / "l", read_only=True) as ledger:
            bad = ledger.verify()
            for request in requests:
                entry = ledger.get(request_key(request))
                if entry is not None and not bad:
                    assert json.loads(entry.answer) == {"text": f"answer {request['n']}"}
    except LedgerError as error:
        told = str(error)
    assert "\n" not in told
