"""Prompt embeddings on disk: text is encoded once, on any machine with room for the text encoder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase, UMT5EncoderModel

from backbone.checkpoints import check_finite, check_part
from backbone.errors import refused_as
from backbone.files import CONFIG, check_tokenizer, load_json, read_header, read_json, weight_files
from backbone.text import clean_prompt, encode_prompts, prompt_ids
from longlive_rag.rights.hashing import sha256
from longlive_rag.rights.policy import enforce_place
from retrieval.files import write_whole
from retrieval.memory import pooled_prompts

FORMAT = "prompt-embeddings-1"
WAN_TEXT_LENGTH = 512
LARGE_TEXT_BYTES = 10**9
"""Larger text encoders run in bfloat16: in float32, UMT5-xxl would take 23 GB."""


def encoder_id(folder: Path) -> str:
    """Identify the text encoder of a pipeline folder by a hash of its weights."""
    digests = [sha256(path) for path in weight_files(folder / "text_encoder")]
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()


def write_embeddings(path: Path, embeddings: Mapping[str, Tensor], encoder: str) -> None:
    """Write prompt embeddings atomically.

    Args:
        path: a `.safetensors` file.
        embeddings: prompt -> [text_length, text_dim]; zeros after the prompt's end are not stored.
        encoder: the text encoder's `encoder_id`.
    """
    prompts = [clean_prompt(prompt) for prompt in embeddings]
    tensors = {}
    for number, states in enumerate(embeddings.values()):
        used = int(states.abs().amax(dim=1).nonzero().max()) + 1 if states.any() else 1
        tensors[str(number)] = states[:used].cpu().contiguous()
    metadata = {"format": FORMAT, "prompts": json.dumps(prompts, ensure_ascii=False), "encoder": encoder}
    write_whole(path, save(tensors, metadata))


def read_embeddings(path: Path, encoder: str) -> dict[str, Tensor]:
    """Read what `write_embeddings` wrote: prompt -> [tokens, text_dim].

    Raises:
        ValueError: if it is not such a file, or was made by a different text encoder.
    """
    read_header(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            prompts = load_json(metadata["prompts"])
            embeddings = {str(prompt): file.get_tensor(str(number)) for number, prompt in enumerate(prompts)}
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise ValueError(f"{path} holds no prompt embeddings: {error}") from error
    if metadata.get("encoder") != encoder:
        raise ValueError(f"{path} was made by a different text encoder than this backbone's; embed the prompts again")
    check_finite(embeddings, str(path))
    return embeddings


def stacked(embeddings: Mapping[str, Tensor], prompts: list[str], text_length: int) -> Tensor:
    """Stack embeddings to [prompts, text_length, text_dim], zero after each prompt's end."""
    rows = []
    for prompt in prompts:
        states = embeddings[clean_prompt(prompt)]
        rows.append(torch.nn.functional.pad(states, (0, 0, 0, text_length - states.shape[0])))
    return torch.stack(rows)


@torch.no_grad()
def embed_with_encoder_only(folder: Path, prompts: list[str], path: Path) -> int:
    """Encode prompts with a pipeline folder's text encoder, loading no other part, and write them.

    Args:
        folder: the pipeline folder.
        prompts: the prompts, each no longer than the backbone reads.
        path: the `.safetensors` file to write.

    Returns:
        The number of prompts written.

    Raises:
        ValueError: if a prompt is empty or too long (before the encoder loads), or the encoder's files are invalid.
    """
    tokenizer, length = open_tokenizer(folder)
    for prompt in prompts:
        prompt_ids(tokenizer, prompt, length)
    encoder = open_text_encoder(folder)
    embeddings = {prompt: encode_prompts(tokenizer, encoder, [prompt], length)[0] for prompt in prompts}
    write_embeddings(path, embeddings, encoder_id(folder))
    return len(embeddings)


def open_tokenizer(folder: Path) -> tuple[PreTrainedTokenizerBase, int]:
    """Load a pipeline folder's tokenizer; also return how many tokens its transformer reads."""
    length = int(read_json(folder / "transformer" / CONFIG).get("text_length", WAN_TEXT_LENGTH))
    return read_tokenizer(folder / "tokenizer"), length


def read_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load a tokenizer; ValueError naming its folder if it can't be used."""
    check_tokenizer(folder)
    with refused_as(str(folder)):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return tokenizer


def open_text_encoder(folder: Path) -> UMT5EncoderModel:
    """Load a pipeline folder's text encoder, in bfloat16 if it is large, and no other part.

    Raises:
        LicenseError: if the licence policy in force does not allow it.
        ValueError: if its files are invalid.
    """
    enforce_place(folder / "text_encoder")
    check_part(folder / "text_encoder", UMT5EncoderModel)
    dtype = text_dtype(folder)
    return UMT5EncoderModel.from_pretrained(folder / "text_encoder", dtype=dtype, local_files_only=True).eval()


def text_dtype(folder: Path) -> torch.dtype:
    """Return the dtype to load a folder's text encoder in: float32, or bfloat16 if it is large (UMT5-xxl: 11 GB)."""
    large = sum(file.stat().st_size for file in weight_files(folder / "text_encoder")) > LARGE_TEXT_BYTES
    return torch.bfloat16 if large else torch.float32


def prompt_units_of(folder: Path) -> Callable[[Sequence[str]], NDArray[np.float32]]:
    """Return a function from prompts to unit vectors [N, text_dim] by a folder's text encoder; no other part is loaded.

    A prompt that is empty or longer than the backbone reads gives a row of zeros.
    """
    tokenizer, length = open_tokenizer(folder)
    encoder = open_text_encoder(folder)
    width = int(encoder.config.d_model)

    @torch.no_grad()
    def units(prompts: Sequence[str]) -> NDArray[np.float32]:
        rows = np.zeros((len(prompts), width), np.float32)
        for place, prompt in enumerate(prompts):
            with suppress(ValueError):
                rows[place] = pooled_prompts(encode_prompts(tokenizer, encoder, [prompt], length))[0]
        return rows

    return units
