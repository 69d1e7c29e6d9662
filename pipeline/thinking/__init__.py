"""The thinking block of a reasoning model: what may stand in it, and how it is read and written.

``prefix`` knows what may not stand in a prefill and cuts one to length; ``parsing`` splits what a model wrote into
thinking and answer; ``rendering`` writes a prompt that a model continues inside its thinking; ``turns`` knows what a
whole turn has behind it. Nothing here imports `transformers`: a tokenizer is handed in.
"""

from __future__ import annotations

from pipeline.thinking.parsing import BLOCKS, Marks, Reading, Tags, head, read_output
from pipeline.thinking.prefix import Prefix, control_token, cut_prefix, sentence_ends, without_tags
from pipeline.thinking.rendering import Renderer, Rendering, RenderingError, Tokenizer, renderer_for
from pipeline.thinking.turns import Turn, marks_of, turn_of

__all__ = [
    "BLOCKS",
    "Marks",
    "Prefix",
    "Reading",
    "Renderer",
    "Rendering",
    "RenderingError",
    "Tags",
    "Tokenizer",
    "Turn",
    "control_token",
    "cut_prefix",
    "head",
    "marks_of",
    "read_output",
    "renderer_for",
    "sentence_ends",
    "turn_of",
    "without_tags",
]
