"""Every chat template that TRL ships, with a tiny tokenizer that has its family's tokens."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pipeline.thinking import Renderer, RenderingError, Tags, renderer_for

pytest.importorskip("transformers", reason="needs transformers, which comes with `pip install recap-data[trainer]`")

THINK = Tags("<think>\n", "</think>")
USER = [{"role": "user", "content": "Which river is longer?"}]
PREFILL = "Okay, so I just answer. First"


class Family(NamedTuple):
    """What a family's tokenizer has: special tokens (BOS first, if its template writes one) and other added ones."""

    special: tuple[str, ...]
    added: tuple[str, ...] = ()
    bos: str | None = None


CHATML = Family(("<|im_start|>", "<|im_end|>", "<|endoftext|>"), ("<think>", "</think>", "<tool_call>", "</tool_call>"))
DEEPSEEK = Family(
    ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
    ("<｜User｜>", "<｜Assistant｜>", "<think>", "</think>"),
    "<｜begin▁of▁sentence｜>",
)
GLM = Family(("<|endoftext|>", "[gMASK]", "<sop>", "<|user|>", "<|assistant|>", "<|system|>"), ("<think>", "</think>"))
GPTOSS = Family(("<|startoftext|>", "<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|return|>"))
MUSE = Family(("<|begin_of_text|>", "<|start|>", "<|message|>", "<|eot|>", "<|eom|>"), (), "<|begin_of_text|>")
GEMMA = Family(("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"), ("\n\n", "<table>"), "<bos>")
GEMMA4 = Family(("<bos>", "<|turn>", "<turn|>", "<|channel>", "<channel|>", "<|think|>"), ("\n\n",), "<bos>")
LLAMA = Family(
    ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|end_of_text|>"),
    (),
    "<|begin_of_text|>",
)
LFM = Family(("<|startoftext|>", "<|im_start|>", "<|im_end|>"), ("<think>", "</think>"), "<|startoftext|>")
PHI = Family(("<s>", "<|endoftext|>", "<|user|>", "<|assistant|>", "<|end|>"))
COHERE = Family(
    (
        *("<BOS_TOKEN>", "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|USER_TOKEN|>"),
        *("<|CHATBOT_TOKEN|>", "<|SYSTEM_TOKEN|>", "<|START_RESPONSE|>", "<|END_RESPONSE|>"),
    ),
    (),
    "<BOS_TOKEN>",
)
VISION = Family(("<|begin_of_text|>", "<end_of_utterance>", "<image>"))


class Case(NamedTuple):
    """A template's family, the tail of its prompts behind the user's text, and the marks it thinks in, if any."""

    family: Family
    tail: str
    added: str = ""
    closer: str = ""


OPENED = Case(CHATML, "<|im_end|>\n<|im_start|>assistant\n<think>\n", "", "</think>")
INSTRUCT = Case(CHATML, "<|im_end|>\n<|im_start|>assistant\n")
GEMMA_PLAIN = Case(GEMMA, "<end_of_turn>\n<start_of_turn>model\n")
GEMMA_CHANNEL = Case(GEMMA4, "<turn|>\n<|turn>model\n", "<|channel>thought\n", "<channel|>")
LLAMA_PLAIN = Case(LLAMA, "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n")
LFM_THINK = Case(LFM, "<|im_end|>\n<|im_start|>assistant\n", "<think>", "</think>")
TEMPLATES = {
    "cohere": Case(COHERE, "<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>"),
    "cohere2": Case(COHERE, "<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|><|START_RESPONSE|>"),
    "deepseek_r1_distill": Case(DEEPSEEK, "<｜Assistant｜><think>\n", "", "</think>"),
    "deepseekv3": Case(DEEPSEEK, "<｜Assistant｜><think>\n", "", "</think>"),
    "diffusion_gemma": GEMMA_CHANNEL,
    "gemma": GEMMA_PLAIN,
    "gemma3": GEMMA_PLAIN,
    "gemma4": GEMMA_CHANNEL,
    "gemma4_v2": Case(GEMMA4, "<turn|>\n<|turn>model\n"),
    "gemma4_v3": GEMMA_CHANNEL,
    "gemma4_v4": GEMMA_CHANNEL,
    "gemma4_v5": GEMMA_CHANNEL,
    "glm4moe": Case(GLM, "<|assistant|>", "\n<think>", "</think>"),
    "gptoss": Case(GPTOSS, "<|end|><|start|>assistant", "<|channel|>analysis<|message|>", "<|end|>"),
    "lfm2": Case(LFM, "<|im_end|>\n<|im_start|>assistant\n"),
    "lfm2_v2": Case(LFM, "<|im_end|>\n<|im_start|>assistant\n"),
    "lfm2_2_5": LFM_THINK,
    "lfm2_2_5_v2": LFM_THINK,
    "lfm2_2_5_vl": LFM_THINK,
    "llama3": LLAMA_PLAIN,
    "llama3_1": LLAMA_PLAIN,
    "llama3_2": LLAMA_PLAIN,
    "muse_glimmer": Case(MUSE, "<|eot|><|start|>assistant", " to=self<|message|>", "<|eom|>"),
    "nemotron_3_5_lightning": OPENED,
    "nemotron_3_nano": OPENED,
    "nemotron_3_super": OPENED,
    "nemotron_3_ultra": OPENED,
    "phi3": Case(PHI, "<|end|>\n<|assistant|>\n"),
    "phi3_5": Case(PHI, "<|end|>\n<|assistant|>\n"),
    "qwen2_5": INSTRUCT,
    "qwen2_5_vl": INSTRUCT,
    "qwen3": Case(CHATML, "<|im_end|>\n<|im_start|>assistant\n", "<think>\n", "</think>"),
    "qwen3_5_nothink": OPENED,
    "qwen3_5_think": OPENED,
    "qwen3_6": OPENED,
    "qwen3_8": OPENED,
    "qwen3_instruct_2507": INSTRUCT,
    "qwen3_vl": INSTRUCT,
}
"""What a model must see behind the user's text, written down from the templates' sources. A training variant
(`…_training`) only marks the assistant's part and must render alike. `added` is what we put between tail and prefill.

What may surprise:

- *glm4moe* writes its `<think>` behind a newline and without one after it: `<|assistant|>\\n<think>PREFILL`.
- *lfm2_2_5* writes no newline behind `<think>` either.
- *deepseekv3* opens a thinking block in its generation prompt, exactly as R1's distills do.
- *qwen3_5_nothink* thinks here, since its switch `enable_thinking` is turned on. Only its default is another.
- *gemma4* needs the same switch, which puts `<|think|>` into a system turn: that stands before the user's text and so
  not in the tail. Before its fifth version it writes an assistant's reasoning only beside a tool call, which is where
  the mark is learned. *gemma4_v2* never writes reasoning and is refused, although the model thinks: the caller can give
  the marks, and the template still refuses foreign ones.
- *muse_glimmer* and *gptoss* write no tag, but a message to oneself (` to=self`) and a channel.
- *qwen3_vl* and *qwen3_instruct_2507* are those of the models that don't think, without a trace of a thinking block.
"""

VISION_ONLY = {"idefics3", "smolvlm", "llava_next"}
"""Their messages are lists of content blocks; they drop the text of others silently. Not even a plain row is right."""


def templates() -> list[Path]:
    """The folder is found without importing TRL, which wants PyTorch."""
    found = importlib.util.find_spec("trl")
    if found is None or not found.submodule_search_locations:
        return []
    return sorted(Path(found.submodule_search_locations[0], "chat_templates").glob("*.jinja"))


def name_of(path: Path) -> str:
    return path.stem.removesuffix("_training")


TRL = templates()
RENDERED = [path for path in TRL if name_of(path) in TEMPLATES]
THINKING = [path for path in RENDERED if TEMPLATES[name_of(path)].closer]
PLAIN = [path for path in RENDERED if not TEMPLATES[name_of(path)].closer]
needs_trl = pytest.mark.skipif(not TRL, reason="needs the chat templates of TRL: pip install recap-data[trainer]")


def tokenizer(template: str | None, family: Family = CHATML, *, metaspace: bool = False) -> Any:
    """A tokenizer with some hundred merges of bytes (or, as SentencePiece does, of letters behind a space mark)."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    corpus = [
        "Okay, so I just answer the question. First I think\n\n\n- of a river, assistant user system thought model\n"
    ]
    made = Tokenizer(models.BPE())
    letters = pre_tokenizers.ByteLevel.alphabet()
    if metaspace:
        made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        letters = [chr(code) for code in range(32, 127)] + ["\n", "▁"]
    else:
        made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.train_from_iterator(
        corpus * 3, trainers.BpeTrainer(vocab_size=420, initial_alphabet=letters, show_progress=False)
    )
    made.add_special_tokens([AddedToken(token, special=True) for token in family.special])
    made.add_tokens([AddedToken(token, normalized=False) for token in family.added])
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token=family.bos, chat_template=template)


def made(path: Path) -> Any:
    return tokenizer(path.read_text(), TEMPLATES[name_of(path)].family)


def behind_user(text: str, user: str = USER[0]["content"]) -> str:
    return text[text.rindex(user) + len(user) :]


each = {"ids": lambda path: path.stem}


@needs_trl
@pytest.mark.parametrize("path", TRL, **each)
def test_the_table_has_every_template(path: Path) -> None:
    if name_of(path) not in TEMPLATES.keys() | VISION_ONLY:
        pytest.skip(f"TRL ships {path.name}, newer than the table: nothing is known of its tail")


@needs_trl
@pytest.mark.parametrize("path", THINKING, **each)
def test_a_prefill_stands_in_the_models_own_thinking(path: Path) -> None:
    case = TEMPLATES[name_of(path)]
    renderer = renderer_for(made(path))
    assert behind_user(renderer.render(USER, PREFILL).text) == case.tail + case.added + PREFILL
    assert behind_user(renderer.render(USER, None).text) == case.tail
    assert renderer.generation_prompt_tail == case.tail
    assert renderer.closer == case.closer
    assert renderer.opener == (case.added or "<think>\n")
    assert renderer.form == ("reasoning-field" if case.added else "generation-prompt")


@needs_trl
@pytest.mark.parametrize("path", PLAIN, **each)
def test_a_template_without_thinking_is_refused_with_its_tail(path: Path) -> None:
    with pytest.raises(RenderingError, match="no thinking block of its own") as caught:
        renderer_for(made(path))
    assert repr(TEMPLATES[name_of(path)].tail) in str(caught.value)


@needs_trl
@pytest.mark.parametrize("path", PLAIN, **each)
def test_given_tags_are_plain_text_behind_the_generation_prompt(path: Path) -> None:
    case = TEMPLATES[name_of(path)]
    tags = Tags("<|channel>thought\n", "<channel|>") if name_of(path) == "gemma4_v2" else THINK
    renderer = renderer_for(made(path), tags=tags)
    assert behind_user(renderer.render(USER, PREFILL).text) == case.tail + tags.opener + PREFILL
    assert (renderer.form, renderer.opener, renderer.closer) == ("given", *tags)


@needs_trl
@pytest.mark.parametrize("path", [path for path in TRL if name_of(path) in VISION_ONLY], **each)
@pytest.mark.parametrize("thinking", [True, False])
def test_a_template_that_drops_the_text_is_refused_for_any_row(path: Path, thinking: bool) -> None:
    with pytest.raises(RenderingError, match=r"drops the user's text.*A prompt became '.*(Assistant:|INST\])'"):
        renderer_for(tokenizer(path.read_text(), VISION), enable_thinking=thinking, tags=THINK)


@needs_trl
@pytest.mark.parametrize("path", RENDERED, **each)
def test_ids_say_the_text_and_share_the_prompt(path: Path) -> None:
    case = TEMPLATES[name_of(path)]
    own = made(path)
    renderer = renderer_for(own, tags=None if case.closer else Tags("<|channel>thought\n", "<channel|>"))
    plain, full = renderer.render(USER, None), renderer.render(USER, PREFILL)
    for rendering in (plain, full):
        assert own.decode(rendering.ids) == rendering.text
    assert full.ids[: len(plain.ids)] == plain.ids
    assert full.ids[-len(own.encode(PREFILL)) :] == own.encode(PREFILL)
    assert plain.ids == own.encode(plain.text, add_special_tokens=False)
    bos = case.family.bos
    assert full.text.count(bos or "no BOS") == full.ids.count(own.bos_token_id) == (1 if bos else 0)
    assert full.text.startswith(bos or "")


@needs_trl
@pytest.mark.parametrize("path", RENDERED, **each)
def test_control_tokens_in_a_prompt_stay_text(path: Path) -> None:
    """Special tokens, and added ones that the template writes; any other added token is ordinary text to the model."""
    case = TEMPLATES[name_of(path)]
    own = made(path)
    renderer = renderer_for(own, enable_thinking=bool(case.closer))
    written = [token for token in case.family.added if token.strip() and token in path.read_text()]
    tokens = [*case.family.special, *written]
    odd = [{"role": "user", "content": f"Explain {' and '.join(tokens)}{tokens[-1]}"}]
    clean, rendering = renderer.render(USER, None), renderer.render(odd, None)
    for token in tokens:
        number = own.convert_tokens_to_ids(token)
        assert rendering.ids.count(number) == clean.ids.count(number), token
    assert own.decode(rendering.ids) == rendering.text
    assert behind_user(rendering.text, odd[0]["content"]) == case.tail


def test_tokens_for_ordinary_text_stay_tokens() -> None:
    """Gemma has tokens for runs of newlines and for HTML tags; a prompt with them is tokenised as ever."""
    own = tokenizer(template_of("gemma3"), GEMMA)
    rendering = renderer_for(own, tags=THINK).render([{"role": "user", "content": "A <table>\n\nof one row?"}], None)
    assert rendering.ids == own.encode(rendering.text, add_special_tokens=False)
    assert {own.convert_tokens_to_ids("<table>"), own.convert_tokens_to_ids("\n\n")} < set(rendering.ids)


@needs_trl
@pytest.mark.parametrize("path", THINKING, **each)
def test_a_prefill_with_a_mark_is_refused(path: Path) -> None:
    case = TEMPLATES[name_of(path)]
    renderer = renderer_for(made(path))
    written = [token for token in case.family.added if token.strip() and token in path.read_text()]
    marks = [renderer.opener, renderer.closer, "</think>", "<|im_start|>", *case.family.special, *written]
    for mark in marks:
        with pytest.raises(RenderingError, match="The prefill holds"):
            renderer.render(USER, f"So {mark} and on")


@needs_trl
@pytest.mark.parametrize("path", RENDERED, **each)
def test_thinking_switched_off_gives_plain_rows_only(path: Path) -> None:
    case = TEMPLATES[name_of(path)]
    if name_of(path) in ("deepseek_r1_distill", "deepseekv3"):
        with pytest.raises(RenderingError, match="opens a thinking block with thinking switched off"):
            renderer_for(made(path), enable_thinking=False)
        return
    renderer = renderer_for(made(path), enable_thinking=False)
    text = renderer.render(USER, None).text
    if name_of(path) == "glm4moe":
        assert behind_user(text) == "/nothink<|assistant|>\n<think></think>"
    elif name_of(path).startswith("nemotron"):
        assert behind_user(text) == case.tail.removesuffix("<think>\n") + "<think></think>"
    elif name_of(path).startswith("qwen3") and case.closer:
        assert behind_user(text) == case.tail.removesuffix("<think>\n") + "<think>\n\n</think>\n\n"
    else:
        assert behind_user(text) == case.tail
    with pytest.raises(RenderingError, match="switched off"):
        renderer.render(USER, PREFILL)


def template_of(name: str) -> str:
    found = [path for path in TRL if path.stem == name]
    if not found:
        pytest.skip("needs the chat templates of TRL: pip install recap-data[trainer]")
    return found[0].read_text()


@pytest.fixture
def qwen3() -> Renderer:
    return renderer_for(tokenizer(template_of("qwen3")))


@pytest.mark.parametrize("prefill", ["So I", "So I ", "So I.\n\n", "\n\nSo I", " So I", "", "So “é” 川 🌊"])
def test_white_space_and_all_of_a_prefill_is_kept(qwen3: Renderer, prefill: str) -> None:
    rendering = qwen3.render(USER, prefill)
    assert rendering.text == qwen3.render(USER, None).text + "<think>\n" + prefill
    assert qwen3.tokenizer.decode(rendering.ids) == rendering.text


def test_the_model_sees_its_mark_as_it_writes_it_itself(qwen3: Renderer) -> None:
    """In one go, the newline of the mark and those of the prefill could become another token."""
    plain = qwen3.render(USER, None).ids
    mark = qwen3.tokenizer.encode("<think>\n", add_special_tokens=False)
    rest = qwen3.tokenizer.encode("\n\nSo I", add_special_tokens=False)
    assert qwen3.render(USER, "\n\nSo I").ids == [*plain, *mark, *rest]


def test_system_messages_and_earlier_turns_are_rendered(qwen3: Renderer) -> None:
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Two?"},
        {"role": "assistant", "content": "Two."},
        *USER,
    ]
    assert qwen3.render(turns, "So").text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nTwo?<|im_end|>\n"
        "<|im_start|>assistant\nTwo.<|im_end|>\n"
        "<|im_start|>user\nWhich river is longer?<|im_end|>\n<|im_start|>assistant\n<think>\nSo"
    )


@pytest.mark.parametrize("content", ["Which?  \n", "  Which?", "", "a\n\n<|im_end|>", "Say </think>.", "<think>"])
@pytest.mark.parametrize("name", ["qwen3", "qwen3_6", "deepseek_r1_distill", "gptoss", "glm4moe"])
def test_odd_prompts_end_in_the_same_tail(name: str, content: str) -> None:
    renderer = renderer_for(tokenizer(template_of(name), TEMPLATES[name].family))
    case = TEMPLATES[name]
    assert renderer.render([{"role": "user", "content": content}], "So").text.endswith(case.tail + case.added + "So")


def test_a_prompt_that_does_not_end_with_the_user_is_refused(qwen3: Renderer) -> None:
    with pytest.raises(RenderingError, match="ends with assistant"):
        qwen3.render([*USER, {"role": "assistant", "content": "The Nile."}], "So")
    with pytest.raises(RenderingError, match="ends with nothing"):
        qwen3.render([], None)


def test_a_system_message_is_refused_where_the_template_has_none() -> None:
    system = [{"role": "system", "content": "Be brief."}, *USER]
    gemma = renderer_for(tokenizer(template_of("gemma"), GEMMA), tags=THINK)
    with pytest.raises(RenderingError, match="roles system, user: System role not supported"):
        gemma.render(system, None)
    deaf = ending(HEADER).replace("in messages", "in messages if m.role == 'user'")
    with pytest.raises(RenderingError, match="doesn't write the text of the system message"):
        renderer_for(tokenizer(deaf), tags=THINK).render(system, None)


USER_PART = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
HEADER = "<|im_start|>assistant\n"


def ending(generation_prompt: str) -> str:
    return USER_PART + "{% if add_generation_prompt %}" + generation_prompt + "{% endif %}"


def test_a_switch_of_another_name_is_turned() -> None:
    """DeepSeek V3.1 asks for `thinking`, and closes the block where it isn't wanted."""
    template = ending(HEADER + "{{ '<think>' if thinking is defined and thinking else '</think>' }}")
    assert renderer_for(tokenizer(template)).opener == "<think>"
    assert renderer_for(tokenizer(template), enable_thinking=False).generation_prompt_tail.endswith("</think>")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (USER_PART, r"no generation prompt: prompts end with '<\|im_end\|>\\n'"),
        (ending(HEADER + "<think>\n\n</think>\n\n"), r"'<think>' is there 2 times.*Behind the user's text: .*</think>"),
        (ending(HEADER + "</think>"), "'</think>' has already closed the thinking"),
        (ending(HEADER + HEADER), "as if a second turn were opened"),
        (ending(HEADER + "<scratchpad>"), r'a thinking block of its own, \["<scratchpad>"'),
        (ending("{{ raise_exception('not today') }}"), "roles user: not today"),
        (ending("{{ messages[0].content | length }}"), "ends two prompts in two ways"),
        (ending(HEADER).replace("m.content", "m.content | upper"), "drops the user's text"),
        (ending(HEADER) + "{# [THINK] [/THINK] #}", r"thinking that ends in '\[/THINK\]'"),
        (None, "no chat template"),
    ],
)
def test_templates_that_can_not_be_right_are_refused(template: str | None, message: str) -> None:
    with pytest.raises(RenderingError, match=message):
        renderer_for(tokenizer(template), tags=THINK)


def test_reasoning_that_the_generation_prompt_does_not_lead_to_gives_no_mark() -> None:
    """The template can write reasoning, but its generation prompt has already closed an empty block."""
    turn = "{{ '<think>\\n' + m.reasoning_content + '\\n</think>\\n\\n' if m.reasoning_content }}{{ m.content }}"
    template = ending(HEADER).replace("{{ m.content }}", turn)
    assert renderer_for(tokenizer(template)).opener == "<think>\n"
    closed = template.replace(HEADER + "{% endif %}", HEADER + "<think>\n\n</think>\n\n{% endif %}")
    with pytest.raises(RenderingError, match=r"no thinking block of its own that could follow.*</think>"):
        renderer_for(tokenizer(closed))


@pytest.mark.parametrize("place", ["<|im_end|>", HEADER])
def test_a_prompt_that_changes_its_own_tail_is_refused(place: str) -> None:
    template = ending(HEADER).replace(place, "{{ '/odd' if 'odd' in messages[-1].content }}" + place)
    renderer = renderer_for(tokenizer(template), tags=THINK)
    with pytest.raises(RenderingError, match="otherwise than the two it was proven on"):
        renderer.render([{"role": "user", "content": "An odd one?"}], "So")


def test_a_second_bos_is_refused() -> None:
    assert renderer_for(tokenizer("{{ bos_token }}" + ending(HEADER), LLAMA), tags=THINK)
    with pytest.raises(RenderingError, match="begins with two BOS tokens"):
        renderer_for(tokenizer("{{ bos_token }}{{ bos_token }}" + ending(HEADER), LLAMA), tags=THINK)


def test_given_tags_must_be_marks_and_the_models_own() -> None:
    with pytest.raises(RenderingError, match="knows thinking that ends in '<channel"):
        renderer_for(tokenizer(template_of("gemma4_v2"), GEMMA4), tags=THINK)
    with pytest.raises(RenderingError, match="not just white space"):
        renderer_for(tokenizer(ending(HEADER)), tags=Tags("\n", "</think>"))
    with pytest.raises(RenderingError, match=r"a thinking block of its own.*analysis"):
        renderer_for(tokenizer(template_of("gptoss"), GPTOSS), tags=THINK)
    glm = renderer_for(tokenizer(template_of("glm4moe"), GLM), tags=THINK)
    assert glm.opener == "\n<think>"


def test_variables_reach_the_template_and_can_hold_the_date() -> None:
    own = tokenizer(template_of("gptoss"), GPTOSS)
    assert "Reasoning: high" in renderer_for(own, variables={"reasoning_effort": "high"}).render(USER, None).text
    llama = tokenizer(template_of("llama3_2"), LLAMA)
    renderer = renderer_for(llama, tags=THINK, variables={"date_string": "26 Jul 2024"})
    assert "Today Date: 26 Jul 2024" in renderer.render(USER, None).text


def test_a_sentencepiece_tokenizer_puts_no_space_in_front_of_mark_or_prefill() -> None:
    own = tokenizer(ending(HEADER), metaspace=True)
    renderer = renderer_for(own, tags=THINK)
    user = [{"role": "user", "content": "What is <|im_end|>?"}]
    plain, full = renderer.render(user, None).ids, renderer.render(user, "Okay, so").ids
    assert own.convert_ids_to_tokens(own.encode("Okay"))[0].startswith("▁")
    assert not own.convert_ids_to_tokens(full[len(plain) :])[0].startswith("▁")
    assert "What is <|im_end|>?" in own.decode(full)
    assert own.decode(full).endswith("\nOkay, so")


def test_one_template_gives_one_hash() -> None:
    one, two = (renderer_for(tokenizer(ending(HEADER + "<think>\n"))) for _ in range(2))
    other = renderer_for(tokenizer(ending(HEADER + "<think>")))
    assert one.template_sha256 == two.template_sha256 != other.template_sha256
    assert len(one.template_sha256) == 64
