"""Tokenizer and text encoder of tiny-world: small instances of the classes that Wan2.1 uses."""

from __future__ import annotations

import torch
from transformers import T5Tokenizer, UMT5Config, UMT5EncoderModel

from longlive_rag.tinyworld.grammar import vocabulary

TEXT_DIM = 64
TEXT_LENGTH = 16
PUNCTUATION = (".", ",", "!")
END, UNKNOWN = "</s>", "<unk>"


def new_tokenizer() -> T5Tokenizer:
    """Make a tokenizer of the grammar's words, plain or Capitalised; every other word becomes `<unk>`."""
    words = vocabulary()
    pieces = [("<pad>", 0.0), (END, 0.0), (UNKNOWN, 0.0), ("\u2581", -8.0)]
    pieces += [(f"\u2581{word}", -1.0) for word in words]
    pieces += [(f"\u2581{word.capitalize()}", -1.0) for word in words]
    pieces += [(mark, -1.0) for mark in PUNCTUATION]
    return T5Tokenizer(vocab=pieces, extra_ids=0)


@torch.no_grad()
def share_capitals(tokenizer: T5Tokenizer, text_encoder: UMT5EncoderModel) -> None:
    """Give every Capitalised word the embedding of the plain one, so that case does not matter."""
    embeddings = text_encoder.get_input_embeddings().weight
    for word in vocabulary():
        plain, capital = tokenizer.convert_tokens_to_ids([f"\u2581{word}", f"\u2581{word.capitalize()}"])
        embeddings[capital] = embeddings[plain]


def new_text_encoder(vocab_size: int, seed: int = 0) -> UMT5EncoderModel:
    """Make an untrained UMT5 encoder of two layers."""
    torch.manual_seed(seed)
    config = UMT5Config(
        vocab_size=vocab_size,
        d_model=TEXT_DIM,
        d_kv=16,
        d_ff=128,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.0,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=16,
    )
    return UMT5EncoderModel(config)
