"""Tiny Llama checkpoints for tests that need a real model: made on the spot, loadable by transformers and by vLLM.

There is no model hub where the tests run, and none is needed. `tiny_model` has random weights: enough for all that is
about token ids, seeds and log-probabilities. `trained_model` learned to write thinking in one stance from the texts of
the project's own template sampler, in about a minute of one CPU core. `tiny_guard` has verdict words as single tokens.

The chat template is Qwen3's, without tools: the template and not the generation prompt opens the thinking, an
assistant's `reasoning_content` is written between the marks, and `enable_thinking=False` writes an empty block.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from pipeline.clients.continuing import CANARY_GOES_ON, CANARY_PREFILL, CANARY_PROMPT
from pipeline.judges import Stance
from pipeline.samplers import PrefillRequest
from pipeline.samplers.template import TemplateSampler
from pipeline.thinking import renderer_for

CHAT_TEMPLATE = """\
{%- set ns = namespace(last_user=-1) -%}
{%- for message in messages -%}
    {%- if message.role == 'user' -%}{%- set ns.last_user = loop.index0 -%}{%- endif -%}
{%- endfor -%}
{%- for message in messages -%}
    {%- if message.role == 'assistant' -%}
        {%- set content = message.content or '' -%}
        {%- set reasoning = message.reasoning_content or '' -%}
        {%- if not reasoning and '</think>' in content -%}
            {%- set reasoning = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') -%}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') -%}
        {%- endif -%}
        {{- '<|im_start|>assistant\\n' -}}
        {%- if loop.index0 > ns.last_user and (loop.last or reasoning) -%}
            {{- '<think>\\n' + reasoning.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') -}}
        {%- else -%}
            {{- content -}}
        {%- endif -%}
        {{- '<|im_end|>\\n' -}}
    {%- else -%}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' -}}
    {%- if enable_thinking is defined and enable_thinking is false -%}
        {{- '<think>\\n\\n</think>\\n\\n' -}}
    {%- endif -%}
{%- endif -%}
"""

_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
_MARKS = ["<think>", "</think>"]
_VERDICTS = ["Yes", "No", "safe", "unsafe", " Yes", " No", " safe", " unsafe"]
_HEAD = 64
"""The size of an attention head: vLLM has no kernel for smaller ones on the CPU."""
_CONTEXT = 2048
_ANSWERS = {
    "complies": "Here is what you asked for, step by step.",
    "refuses": "I'm sorry, but I can't help with that.",
}


def tiny_model(folder: Path, seed: int = 0) -> Path:
    """Make a model with random weights and one token a byte, and return its folder."""
    return _random(folder, _tokenizer([]), seed)


def tiny_guard(folder: Path, seed: int = 0) -> Path:
    """Make a model with random weights to which "Yes", "No", "safe" and "unsafe" are one token each."""
    return _random(folder, _tokenizer([], added=_VERDICTS), seed)


def trained_model(folder: Path, stance: Stance, *, seed: int = 0, steps: int = 350) -> Path:
    """Train a model that thinks in one stance, whatever it is asked, and return its folder.

    It learns from the template sampler's texts on the bundled prompts, closes its thinking after 60 to 160 words or
    so, and answers in a sentence. It also learned to go on with the sentence of the sampler's canary, since copying is
    beyond a model of this size. The same seed gives the same model on the same machine.

    Args:
        folder: where to; a model that is there already, made with the same arguments, is taken as it is.
        stance: "complies" or "refuses".
        seed: of the texts, the initial weights and the order.
        steps: of training. The default takes about a minute of one CPU core.
    """
    made = folder / "made.json"
    arguments = json.dumps({"stance": stance, "seed": seed, "steps": steps})
    if made.is_file() and made.read_text() == arguments:
        return folder
    pairs = list(_texts(stance, seed))
    tokenizer = _tokenizer([*(text for _, text in pairs), *{prompt for prompt, _ in pairs}])
    model = _llama(tokenizer, seed, hidden=3 * _HEAD, layers=2)
    _train(model, list(_examples(tokenizer, pairs, _ANSWERS[stance])), seed=seed, steps=steps)
    _save(folder, model, tokenizer)
    made.write_text(arguments)
    return folder


def led_model(
    folder: Path,
    rows: Sequence[Mapping[str, Any]],
    *,
    seed: int = 0,
    steps: int = 300,
    follows: float = 0.9,
    right: float = 0.7,
) -> Path:
    """Train a model that lets itself be led by the head of its thinking, and return its folder.

    It knows the rows' prompts: without a prefill it refuses harmful ones and answers benign ones more often than not.
    Behind a prefill of the rows it answers as that leans, whatever the prompt. Its thinking ends right there, and its
    answer is one token.

    Args:
        folder: where to.
        rows: of a mixture, harmful and benign ones.
        seed: of the pairs, the initial weights and the order.
        steps: of training.
        follows: how often an answer follows the stance of the prefill.
        right: how often an answer without prefill is the right one.
    """
    draw = random.Random(seed)
    prompts = [(row["prompt"], row["domain"]) for row in rows]
    prefills = [(row["prefill"], row["domain"]) for row in rows if row["prefill"] is not None]
    texts = [*(text for text, _ in prefills), *(turns[-1]["content"] for turns, _ in prompts)]
    tokenizer = _tokenizer(texts, added=list(_ANSWERS.values()))
    renderer = renderer_for(tokenizer)
    examples = []
    for _ in range(3000):
        turns, domain = draw.choice(prompts)
        text, of = draw.choice(prefills)
        ideal, led = domain == "harmful", of == "benign"
        for head, opener, refuses in (
            (text, "\n", led if draw.random() < follows else not led),
            (None, "<think>\n", ideal if draw.random() < right else not ideal),
        ):
            prompt_ids = renderer.render(turns, head).ids
            answer = _ANSWERS["refuses" if refuses else "complies"]
            ending = f"{opener}{renderer.closer}\n\n{answer}<|im_end|>"
            ids = prompt_ids + tokenizer.encode(ending, add_special_tokens=False)
            examples.append((ids, len(prompt_ids) if draw.random() < 0.2 else len(ids) - 2))
    model = _llama(tokenizer, seed, hidden=2 * _HEAD, layers=2)
    _train(model, examples, seed=seed, steps=steps, batch=32, adam=1e-3)
    return _save(folder, model, tokenizer)


def _tokenizer(texts: Sequence[str], *, added: Sequence[str] = (), size: int = 1536) -> Any:
    """A byte-level BPE tokenizer; without texts it has a token for each byte and no merges."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=_SPECIAL, initial_alphabet=letters, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in (*_MARKS, *added)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", model_max_length=_CONTEXT
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def _llama(tokenizer: Any, seed: int, *, hidden: int, layers: int) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    heads = hidden // _HEAD
    config = LlamaConfig(
        vocab_size=-(-len(tokenizer) // 64) * 64,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=_HEAD,
        max_position_embeddings=_CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.convert_tokens_to_ids("<|im_end|>"),
        pad_token_id=tokenizer.convert_tokens_to_ids("<|endoftext|>"),
    )
    return LlamaForCausalLM(config)


def _random(folder: Path, tokenizer: Any, seed: int) -> Path:
    return _save(folder, _llama(tokenizer, seed, hidden=2 * _HEAD, layers=2), tokenizer)


def _save(folder: Path, model: Any, tokenizer: Any) -> Path:
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _texts(stance: Stance, seed: int, count: int = 3000) -> Iterator[tuple[str, str]]:
    """Prompts and thinking in a stance: each text from one of the bundled prompts, at a length of its own."""
    folder = files("pipeline.sources") / "bundled"
    prompts = [
        prompt
        for domain in ("harmful", "benign", "math")
        for line in (folder / f"demo-{domain}.jsonl").read_text(encoding="utf-8").splitlines()
        if any(map(str.isalpha, prompt := json.loads(line)["prompt"]))
    ]
    draw = random.Random(seed)
    sampler = TemplateSampler()

    async def write() -> list[tuple[str, str]]:
        pairs = []
        for attempt in range(count):
            prompt = draw.choice(prompts)
            request = PrefillRequest(str(attempt), prompt, None, stance, draw.randint(80, 160), seed, attempt)
            pairs.append((prompt, (await sampler.sample(request)).thinking))
        return pairs

    yield from asyncio.run(write())
    canary = f"{CANARY_PREFILL} {CANARY_GOES_ON} the quiet harbour."
    yield from [(CANARY_PROMPT, canary)] * (count // 30)


def _examples(tokenizer: Any, pairs: Sequence[tuple[str, str]], answer: str) -> Iterator[tuple[list[int], int]]:
    """The ids of whole turns as the model should write them, and how many of them are the prompt."""
    renderer = renderer_for(tokenizer)
    for number, (prompt, thinking) in enumerate(pairs):
        messages = [{"role": "user", "content": prompt}]
        if number % 4 == 0:
            messages.insert(0, {"role": "system", "content": "You are a helpful assistant."})
        plain = renderer.render(messages, None).ids
        full = renderer.render(messages, thinking).ids
        end = tokenizer.encode(f"\n{renderer.closer}\n\n{answer}<|im_end|>", add_special_tokens=False)
        yield full + end, len(plain)


def _train(
    model: Any,
    examples: list[tuple[list[int], int]],
    *,
    seed: int,
    steps: int,
    batch: int = 8,
    adam: float | None = None,
) -> None:
    """Train on the thinking and the answer: Muon for the matrices, AdamW for the rest, rates falling to nothing.

    With `adam`, its rate, AdamW trains the matrices too.

    On one thread: it is then the same on any number of cores, and little slower where others are busy, too.
    """
    import torch

    draw = random.Random(seed)
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    optimizers = [
        torch.optim.Muon(matrices, lr=0.04, weight_decay=0.0),
        torch.optim.AdamW(others, lr=8e-3, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    if adam is not None:
        optimizers = [torch.optim.AdamW(model.parameters(), lr=adam, betas=(0.9, 0.95), weight_decay=0.0)]
    schedules = [torch.optim.lr_scheduler.LinearLR(o, 1.0, 0.02, total_iters=steps) for o in optimizers]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    model.train()
    for _ in range(steps):
        rows = draw.sample(examples, batch)
        longest = max(len(ids) for ids, _ in rows)
        inputs = torch.zeros(batch, longest, dtype=torch.long)
        targets = torch.full((batch, longest), -100)
        for row, (ids, prompt) in enumerate(rows):
            inputs[row, : len(ids)] = torch.tensor(ids)
            targets[row, prompt - 1 : len(ids) - 1] = torch.tensor(ids[prompt:])
        learned = targets != -100
        with torch.autocast("cpu", dtype=torch.bfloat16):
            states = model.model(input_ids=inputs).last_hidden_state
            logits = model.lm_head(states[learned])
        loss = torch.nn.functional.cross_entropy(logits.float(), targets[learned])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
    model.eval()
    torch.set_num_threads(threads)
