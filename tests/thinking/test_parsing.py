from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.thinking import Tags, head, read_output
from pipeline.thinking.parsing import BLOCKS

OUTPUTS = [
    # Qwen3, Nemotron, GLM: both marks, and white space of the template around them
    ("<think>\nI add.\n</think>\n\nFour.", ("I add.", "Four.", True, "block")),
    ("\n<think>I add.</think>\nFour.<|user|>", ("I add.", "Four.", True, "block")),
    ("<Think>I add.</THINK>Four.", ("I add.", "Four.", True, "block")),
    # R1, SafeChain: the opening mark stood in the prompt
    ("I add.\n</think>\n\nFour.<｜end▁of▁sentence｜>", ("I add.", "Four.", True, "closer")),
    # cut at its length
    ("<think>\nI add, and", ("I add, and", "", False, "opened")),
    ("<think>", ("", "", False, "opened")),
    # thinking switched off, or closed at once
    ("<think>\n\n</think>\n\nFour.", ("", "Four.", True, "block")),
    ("</think>Four.", ("", "Four.", True, "closer")),
    # behind the first closing mark all is answer: a block opened again, a closing mark too many
    ("<think>a</think>x<think>b</think>y", ("a", "x<think>b</think>y", True, "block")),
    ("<think>a</think>x<think>b", ("a", "x<think>b", True, "block")),
    ("<think>a</think>b</think>c", ("a", "b</think>c", True, "block")),
    ("a</think>b</think>c", ("a", "b</think>c", True, "closer")),
    ("<think>a</think><reasoning>b</reasoning>c", ("a", "<reasoning>b</reasoning>c", True, "block")),
    ("<think>a</think>b<analysis>c</analysis>", ("a", "b<analysis>c</analysis>", True, "block")),
    ("Sure.<think>a</think>b", ("a", "Sure.\n\nb", True, "block")),
    # marks of other families within thinking are thoughts
    (
        "<think>They wrote </scratchpad> and <|channel|>analysis<|message|> here.</think>Yes.",
        ("They wrote </scratchpad> and <|channel|>analysis<|message|> here.", "Yes.", True, "block"),
    ),
    # tags that a prompt asked for
    ("<reasoning>I add.</reasoning>Four.", ("I add.", "Four.", True, "block")),
    ("Write </analysis> at the end.", ("", "Write </analysis> at the end.", True, "none")),
    # gpt-oss
    (
        "<|channel|>analysis<|message|>I add.<|end|><|start|>assistant<|channel|>final<|message|>Four.<|return|>",
        ("I add.", "Four.", True, "block"),
    ),
    ("<|channel|>analysis<|message|>I add", ("I add", "", False, "opened")),
    ("<|channel|>analysis<|message|>I add.<|channel|>final<|message|>Four.", ("I add.", "Four.", True, "block")),
    ("<|channel|>final<|message|>Four.<|return|>", ("", "Four.", True, "none")),
    ("analysisI add.assistantfinalFour.", ("I add.", "Four.", True, "closer")),
    ("analysis of a sum", ("", "analysis of a sum", True, "none")),
    # Muse Glimmer
    (
        " to=self<|message|>I add.<|eom|><|start|>assistant to=user<|message|>Four.<|eot|>",
        ("I add.", "Four.", True, "block"),
    ),
    # Gemma 4
    ("<|channel>thought\nI add.\n<channel|>Four.<turn|>", ("I add.", "Four.", True, "block")),
    ("<|channel>thought\n<channel|>Four.<turn|>\n", ("", "Four.", True, "block")),
    # Magistral, Kimi, Seed, Command A, Sky-T1
    ("[THINK]I add.[/THINK]Four.</s>", ("I add.", "Four.", True, "block")),
    ("◁think▷I add.◁/think▷Four.", ("I add.", "Four.", True, "block")),
    ("<seed:think>I add.</seed:think>Four.", ("I add.", "Four.", True, "block")),
    (
        "<|START_THINKING|>I add.<|END_THINKING|><|START_RESPONSE|>Four.<|END_RESPONSE|><|END_OF_TURN_TOKEN|>",
        ("I add.", "Four.", True, "block"),
    ),
    (
        "<|begin_of_thought|>\nI add.\n<|end_of_thought|>\n\n<|begin_of_solution|>\nFour.\n<|end_of_solution|>",
        ("I add.", "Four.", True, "block"),
    ),
    # MiniMax-M3, Solar Open, Apertus
    ("<mm:think>I add.</mm:think>Four.", ("I add.", "Four.", True, "block")),
    (
        "<|think|>I add.<|end|><|begin|>assistant<|content|>Four.<|flush|>",
        ("I add.", "Four.", True, "block"),
    ),
    ("<|inner_prefix|>I add.<|inner_suffix|>Four.<|assistant_end|>", ("I add.", "Four.", True, "block")),
    # no thinking at all, Phi's end of a turn
    ("Four.<|end|>", ("", "Four.", True, "none")),
    ("", ("", "", True, "none")),
    (None, ("", "", True, "none")),
]


@pytest.mark.parametrize(("text", "reading"), OUTPUTS, ids=[repr(text)[:40] for text, _ in OUTPUTS])
def test_outputs_of_the_families_are_read(text: str | None, reading: tuple[str, str, bool, str]) -> None:
    assert read_output(text) == reading


@pytest.mark.parametrize(
    ("text", "reading"),
    [
        (" and add", ("and add", "", False, "opened")),
        (" and add.</think>Four.", ("and add.", "Four.", True, "closer")),
        ("<think>\nI add.</think>Four.", ("I add.", "Four.", True, "block")),
        (" and add.<|end|><|start|>assistant<|channel|>final<|message|>Four.", ("and add.", "Four.", True, "closer")),
        (" and add.<|eom|><|start|>assistant to=user<|message|>Four.<|eot|>", ("and add.", "Four.", True, "closer")),
        (" and add.\n<channel|>Four.<turn|>", ("and add.", "Four.", True, "closer")),
    ],
)
def test_a_continuation_begins_inside_the_thinking(text: str, reading: tuple[str, str, bool, str]) -> None:
    assert read_output(text, opened=True) == reading


@pytest.mark.parametrize(
    ("content", "reasoning", "reading"),
    [
        ("Four.", "I add.", ("I add.", "Four.", True, "field")),
        ("Four.", "<think>\nI add.\n", ("I add.", "Four.", True, "field")),
        (None, "I add, and", ("I add, and", "", False, "field")),
        ("", "I add.</think>Four.", ("I add.", "Four.", True, "field")),
        ("<think>more</think>Four.", "I add.", ("I add.\n\nmore", "Four.", True, "field")),
        ("<think>I add.</think>Four.", "", ("I add.", "Four.", True, "block")),
        ("Four.", None, ("", "Four.", True, "none")),
    ],
)
def test_a_field_of_its_own_is_read(
    content: str | None, reasoning: str | None, reading: tuple[str, str, bool, str]
) -> None:
    assert read_output(content, reasoning=reasoning) == reading


def test_the_head_goes_on_from_the_prefill_and_ends_at_the_closing_mark() -> None:
    assert head(" so I add.\n</think>\n\nFour.") == " so I add."
    assert head(" so I add") == " so I add"
    assert head(" so I add.<|im_end|>\n") == " so I add."
    assert head("<think>\nSo I add.</think>") == "So I add."
    assert head(" so.<|end|><|start|>assistant<|channel|>final<|message|>Four.") == " so."
    assert head(" so.<|channel|>final<|message|>Four.", closer="<|end|>") == " so."
    assert head(" they wrote </thought> so.</think>Four.", closer="</think>") == " they wrote </thought> so."
    assert head("</think>Four.") == ""


PIECES = [
    *(mark for block in BLOCKS for mark in block),
    "<|im_end|>",
    "<|start|>assistant",
    "analysis",
    "x",
    "\n",
    " y.",
]
WORDS = st.lists(st.sampled_from(["so", "I", "add.", "two\n", "\n\n", "<b>", "a < b", "é"]), min_size=1).map(" ".join)


@given(st.one_of(st.text(), st.lists(st.sampled_from(PIECES)).map("".join)), st.booleans(), st.none() | st.text())
def test_no_text_is_too_odd(text: str, opened: bool, reasoning: str | None) -> None:
    reading = read_output(text, reasoning=reasoning, opened=opened)
    assert reading.thinking == reading.thinking.strip()
    assert reading.answer == reading.answer.strip()
    assert isinstance(head(text), str)


@given(st.sampled_from(BLOCKS), WORDS, WORDS)
def test_what_is_written_in_a_block_is_read_back(block: Tags, thinking: str, answer: str) -> None:
    thinking, answer = f"T {thinking}".strip(), f"A {answer}".strip()
    text = f"{block.opener}\n{thinking}\n{block.closer}\n\n{answer}"
    assert read_output(text) == (thinking, answer, True, "block")
    assert read_output(f"{block.opener}\n{thinking}") == (thinking, "", False, "opened")
    assert head(f" {thinking}{block.closer}{answer}", closer=block.closer) == f" {thinking}"


@given(WORDS)
def test_text_without_marks_is_all_answer_or_all_thinking(text: str) -> None:
    assert read_output(text) == ("", text.strip(), True, "none")
    assert read_output(text, opened=True) == (text.strip(), "", False, "opened")


def test_marks_and_white_space_at_the_end_are_cut_off_however_many() -> None:
    assert read_output("Four." + " <|im_end|>\n" * 20_000) == ("", "Four.", True, "none")
    assert head(" so" + "\n" * 100_000) == " so"


def test_importing_the_package_imports_nothing_heavy() -> None:
    script = (
        "import sys, pipeline.thinking; print({'transformers', 'tokenizers', 'jinja2', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
