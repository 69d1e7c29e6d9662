"""The tokenizer of a GGUF file, as a folder that `transformers` reads: what `tokenizer` of a recipe names."""

from __future__ import annotations

from pathlib import Path

_SPECIAL = 3


def tokenizer_of(gguf: Path, folder: Path) -> Path:
    """Write the byte-level BPE and the chat template that the file holds into `folder`."""
    from gguf import GGUFReader
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    fields = {name: field.contents() for name, field in GGUFReader(gguf).fields.items()}
    told = {name.removeprefix("tokenizer.ggml."): value for name, value in fields.items()}
    words = told["tokens"]
    merges = [tuple(merge.split(" ")) for merge in told["merges"]]
    made = Tokenizer(models.BPE(vocab={word: number for number, word in enumerate(words)}, merges=merges))
    digits = pre_tokenizers.Digits(individual_digits=True)
    made.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    made.decoder = decoders.ByteLevel()
    kinds = zip(words, told["token_type"], strict=True)
    made.add_special_tokens(
        [AddedToken(word, special=True, normalized=False) for word, kind in kinds if kind == _SPECIAL]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token=words[told["bos_token_id"]],
        eos_token=words[told["eos_token_id"]],
        chat_template=told["tokenizer.chat_template"],
    ).save_pretrained(folder)
    return folder
