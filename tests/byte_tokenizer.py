"""A tokenizer whose ids are bytes, as the test endpoint reads them, in a folder that `transformers` loads."""

from __future__ import annotations

import json
from pathlib import Path

from tests.models import CHAT_TEMPLATE


def byte_tokenizer(folder: Path, template: str = CHAT_TEMPLATE) -> Path:
    """Write a tokenizer with `template`; the id of each token is the byte that it stands for."""
    letters = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in letters]
    vocabulary = {chr(byte): byte for byte in letters} | {chr(256 + place): byte for place, byte in enumerate(others)}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text(
        json.dumps(
            {
                "version": "1.0",
                "truncation": None,
                "padding": None,
                "added_tokens": [],
                "normalizer": None,
                "pre_tokenizer": byte_level,
                "post_processor": None,
                "decoder": byte_level,
                "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
            }
        )
    )
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": template})
    )
    return folder
