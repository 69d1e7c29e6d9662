"""How often a model refuses benign prompts: sampled with transformers, read by the embedded judge of refusals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.clients.tokenizers import load as load_tokenizer
from pipeline.errors import InputError
from pipeline.judges import Part
from pipeline.judges.refusal import RefusalJudge
from pipeline.sources import files
from pipeline.sources.readers import records
from pipeline.thinking import Tags, marks_of, read_output, renderer_for
from pipeline.trainer.bootstrap import Interval, interval
from pipeline.trainer.sft import SftConfig

_BATCH = 16


class Rate(NamedTuple):
    """The share of texts that refuse, with its 95 % bootstrap interval, over those that are one or the other; and how
    many are ``unclear``, or not there (``none``: thinking that never closes has no answer).
    """

    refusing: Interval
    unclear: int
    none: int


class Refusals(NamedTuple):
    """How a model takes benign prompts: its thinking, which prefills are made of, and its answers."""

    model: str
    rows: int
    thinking: Rate
    answers: Rate

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        rates = {
            name: rate._asdict() | {"refusing": rate.refusing._asdict()}
            for name, rate in (("thinking", self.thinking), ("answers", self.answers))
        }
        return {"model": self.model, "rows": self.rows, **rates}

    def lines(self) -> list[str]:
        """The same for a terminal."""
        return [f"{self.model} on {self.rows:,} prompts:", *map(_line, ("thinking", "answers"), self[2:])]


def read_prompts(path: Path, field: str = "prompt", limit: int | None = None) -> list[str]:
    """The first `limit` prompts of a file (JSON, JSON Lines, CSV, Parquet).

    Raises:
        InputError: the file can't be read, or has no such field.
    """
    (file,) = files.find((str(path),), Path())
    prompts: list[str] = []
    for row in records(file, [field]):
        if len(prompts) == limit:
            break
        if not isinstance(row.get(field), str):
            raise InputError(f"{path} has a row without a text in the field {field!r}; it has {', '.join(row)}.")
        prompts.append(row[field])
    return prompts


def effect(model: str, tuned: Path, prompts: Sequence[str], config: SftConfig) -> list[Refusals]:
    """How the model takes the prompts before and after it was tuned."""
    return [measure(name, prompts, config) for name in (model, str(tuned))]


def measure(
    model: str, prompts: Sequence[str], config: SftConfig, *, max_tokens: int = 1024, seed: int = 0
) -> Refusals:
    """Sample a model on each prompt once, at temperature 0.6 and top_p 0.95, and read what it thinks and answers."""
    tags = Tags(*config.thinking) if config.thinking else None
    renderer = renderer_for(load_tokenizer(model), tags=tags, variables=config.template)
    given = [renderer.render([{"role": "user", "content": prompt}], None).ids for prompt in prompts]
    opened, marks = renderer.form == "generation-prompt", marks_of(renderer)
    texts = _generated(model, renderer.tokenizer, given, max_tokens, seed)
    read = [read_output(text, opened=opened, marks=marks) for text in texts]
    thoughts = [reading.thinking for reading in read]
    answers = [reading.answer if reading.closed else "" for reading in read]
    return Refusals(
        model, len(prompts), _rate(prompts, thoughts, "thinking", seed), _rate(prompts, answers, "response", seed)
    )


def _generated(model: str, tokenizer: Any, given: Sequence[list[int]], max_tokens: int, seed: int) -> list[str]:
    import torch
    from transformers import AutoModelForCausalLM

    device = "cuda" if torch.cuda.is_available() else "cpu"
    loaded: Any = AutoModelForCausalLM.from_pretrained(model, dtype="auto", trust_remote_code=False)
    loaded.to(device).eval()
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    torch.manual_seed(seed)
    texts: list[str] = []
    for start in range(0, len(given), _BATCH):
        batch = given[start : start + _BATCH]
        longest = max(map(len, batch))
        ids = torch.tensor([[pad] * (longest - len(row)) + row for row in batch], device=device)
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in batch], device=device)
        with torch.inference_mode():
            written = loaded.generate(
                input_ids=ids,
                attention_mask=mask,
                do_sample=True,
                temperature=0.6,
                top_p=0.95,
                max_new_tokens=max_tokens,
                pad_token_id=pad,
            )
        texts += [_until_end(tokenizer, row[longest:].tolist(), pad) for row in written]
    return texts


def _until_end(tokenizer: Any, ids: list[int], pad: int) -> str:
    end = next((place for place, id in enumerate(ids) if id in (pad, tokenizer.eos_token_id)), len(ids))
    return str(tokenizer.decode(ids[:end], skip_special_tokens=False))


def _rate(prompts: Sequence[str], texts: Sequence[str], part: Part, seed: int) -> Rate:
    judge = RefusalJudge()
    there = [(prompt, text) for prompt, text in zip(prompts, texts, strict=True) if text]
    stances = [judge.read(prompt, text, part).stance for prompt, text in there]
    told = [float(stance == "refuses") for stance in stances if stance in ("refuses", "complies")]
    return Rate(interval(told, seed), len(stances) - len(told), len(texts) - len(there))


def _line(name: str, rate: Rate) -> str:
    mean, low, high = rate.refusing
    share = "nothing to read" if mean is None else f"{mean:.1%} refuse ({low:.1%} – {high:.1%})"
    return f"  {name:<9} {share}, {rate.unclear:,} unclear, {rate.none:,} none"
