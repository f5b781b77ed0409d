"""Words that a tokenizer can't encode. This module does not need torch, so that a server without models can use it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from backbone.errors import refused_as
from backbone.files import read_json

FILE, CONFIG = "tokenizer.json", "tokenizer_config.json"
UNKNOWN = "<unk>"


def words_with(token: int | None, ids_of: Callable[[str], Sequence[int]], prompt: str) -> list[str]:
    """Words of `prompt`, in order and without repeats, whose ids include `token`."""
    words = dict.fromkeys(re.findall(r"\S+", prompt))
    return [word for word in words if token in ids_of(word)]


def unknown_words_of(folder: Path) -> Callable[[str], list[str]]:
    """Return a function from prompts to the words that a tokenizer can't encode, like `backbone.text.unknown_words`.

    Args:
        folder: folder of the tokenizer; without `tokenizer.json`, transformers reads it, which imports torch.

    Raises:
        ValueError: if it can't be read.
    """
    if not (folder / FILE).is_file():
        from transformers import AutoTokenizer

        from backbone.text import unknown_words

        with refused_as(str(folder)):
            slow = AutoTokenizer.from_pretrained(folder)
        return lambda prompt: unknown_words(slow, prompt)
    from tokenizers import Tokenizer

    unknown = read_json(folder / CONFIG).get("unk_token") or UNKNOWN
    with refused_as(str(folder / FILE)):
        tokenizer = Tokenizer.from_file(str(folder / FILE))
        token = tokenizer.token_to_id(unknown["content"] if isinstance(unknown, dict) else unknown)
    return lambda prompt: words_with(token, lambda word: tokenizer.encode(word, add_special_tokens=False).ids, prompt)
