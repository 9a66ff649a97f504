"""A synthetic tokenizer, so that a server can serve a model of which only config.json is there.

Its tokens are as long as real ones (a space and four letters), because the server turns every
generated token into text and sends it. Format: tokenizer.json of the Hugging Face `tokenizers`
library, byte-level BPE without merges.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytest_energy.cell.model import vocabulary_size

_LETTERS = "etaoinshrdlucmfwypvbgkqjxz"


def write(folder: Path, model_config: Mapping[str, Any]) -> None:
    """Write a tokenizer with as many tokens as the model has; equal for equal numbers.

    Args:
        folder: an existing one, to write to.
        model_config: the content of the model's config.json.

    Raises:
        KeyError: the configuration has no vocab_size, or an impossible one.
    """
    size = vocabulary_size(model_config)
    if size is None:
        raise KeyError("vocab_size")
    byte_level: dict[str, Any] = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": True,
    }
    model: dict[str, Any] = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "vocab": {token: number for number, token in enumerate(tokens(size))},
        "merges": [],
    }
    content: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": model,
    }
    (folder / "tokenizer.json").write_text(
        json.dumps(content, ensure_ascii=False), encoding="utf-8"
    )
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 10**9})
    )


def tokens(size: int) -> list[str]:
    """The 256 bytes, then words, whose letters are the digits of their numbers."""
    made = _byte_characters()[:size]
    for number in range(size - len(made)):
        letters = ""
        for _ in range(4):
            number, digit = divmod(number, len(_LETTERS))
            letters += _LETTERS[digit]
        made.append(f"\u0120{letters}{number or ''}")
    return made


def _byte_characters() -> list[str]:
    """The character of each byte in byte-level BPE: itself if printable, else from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (byte for byte in range(256) if byte not in printable)
    shifted = {byte: 0x100 + position for position, byte in enumerate(others)}
    return [chr(shifted.get(byte, byte)) for byte in range(256)]
