"""Prompt embeddings by UMT5, as Wan2.1 expects them."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, UMT5EncoderModel

from backbone.errors import FieldError, refused_as
from backbone.words import words_with


def clean_prompt(prompt: str) -> str:
    """Collapse runs of whitespace.

    Raises:
        ValueError: if nothing is left.
    """
    cleaned = re.sub(r"\s+", " ", prompt).strip()
    if not cleaned:
        raise ValueError("the prompt is empty; describe what to show")
    return cleaned


def prompt_ids(tokenizer: PreTrainedTokenizerBase, prompt: str, text_length: int) -> list[int]:
    """Token ids of one prompt, including the end token.

    Raises:
        ValueError: if it is empty or, as a `FieldError`, longer than `text_length` tokens.
    """
    words = clean_prompt(prompt)
    with refused_as("the tokenizer"):
        ids: list[int] = tokenizer(words, add_special_tokens=True)["input_ids"]
    if len(ids) > text_length:
        claim = f"a prompt of {len(ids)} tokens is too long: this backbone reads at most {text_length}"
        raise FieldError("prompt", prompt, f"shorten {prompt[:60]!r}...", claim=claim)
    return ids


def check_known(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], text_encoder: UMT5EncoderModel) -> None:
    """Raise ValueError if a tokenizer produces ids, including padding, that a text encoder does not have."""
    known, pad = text_encoder.config.vocab_size, tokenizer.pad_token_id
    if not isinstance(pad, int) or not all(0 <= token < known for token in (pad, *ids)):
        raise ValueError(
            f"the tokenizer does not fit the text encoder: it produces id {max(ids)} and pads with {pad}, but ids must "
            f"be below {known}"
        )


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase, text_encoder: UMT5EncoderModel, prompts: Sequence[str], text_length: int
) -> Tensor:
    """Embed prompts as [prompts, text_length, text_dim]: the encoder's last states, zero after each prompt's end.

    Raises:
        ValueError: if a prompt is empty or longer than `text_length` tokens.
    """
    for prompt in prompts:
        check_known(tokenizer, prompt_ids(tokenizer, prompt, text_length), text_encoder)
    ids, mask = token_batch(tokenizer, prompts, text_length)
    device = text_encoder.device
    return masked_states(text_encoder, ids.to(device), mask.to(device))


def token_batch(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], text_length: int) -> tuple[Tensor, Tensor]:
    """Ids and mask of several prompts, both [prompts, text_length] int64, padded."""
    ids = torch.full((len(prompts), text_length), tokenizer.pad_token_id)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        tokens = prompt_ids(tokenizer, prompt, text_length)
        ids[row, : len(tokens)] = torch.tensor(tokens)
        mask[row, : len(tokens)] = 1
    return ids, mask


def masked_states(text_encoder: UMT5EncoderModel, ids: Tensor, mask: Tensor) -> Tensor:
    """The encoder's last states [prompts, tokens, text_dim], zero where `mask` is 0."""
    states = text_encoder(input_ids=ids, attention_mask=mask).last_hidden_state
    return states * mask[..., None].to(states.dtype)


def unknown_words(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[str]:
    """Words of `prompt`, in order and without repeats, that the tokenizer encodes with its unknown token."""
    return words_with(
        tokenizer.unk_token_id, lambda word: tokenizer(word, add_special_tokens=False)["input_ids"], prompt
    )
