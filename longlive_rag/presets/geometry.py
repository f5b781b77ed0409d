"""Sizes of a backbone, read from its configs alone, and the memory they imply."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backbone.errors import FieldError, Name
from backbone.files import read_config, weight_files
from backbone.vae_config import check_channels, pixels_per_latent
from longlive_rag.config import OutputConfig, TakeRequest
from longlive_rag.presets.preset import Preset
from longlive_rag.timeline import Timeline
from retrieval.budgets import PagePrecision

FLOAT32_BYTES = 4
BYTES = {"float32": 4, "bfloat16": 2}
SAMPLE_BYTES = 2**20
WAN_1_3B: dict[str, Any] = {
    "patch_size": [1, 2, 2], "num_attention_heads": 12, "attention_head_dim": 128, "in_channels": 16,
    "text_dim": 4096, "text_length": 512, "ffn_dim": 8960, "num_layers": 30,
}  # fmt: skip
"""Defaults for what a transformer's config leaves out."""
AUTOENCODER_DIM = 1024
"""Length of the published retrieval autoencoder's embedding of a latent frame."""


@dataclass(frozen=True)
class Geometry:
    """The sizes that a request's memory depends on.

    Attributes:
        layers, heads, head_dim, ffn_dim: of the transformer.
        in_channels: channels of the latents.
        text_dim, text_length: of prompt embeddings.
        patch_area: latent elements per token.
        latent_size: (height, width) of a latent frame.
        embedding_dim: length D of a frame's embedding.
    """

    layers: int
    heads: int
    head_dim: int
    ffn_dim: int
    in_channels: int
    text_dim: int
    text_length: int
    patch_area: int
    latent_size: tuple[int, int]
    embedding_dim: int

    @property
    def width(self) -> int:
        """Width of the transformer."""
        return self.heads * self.head_dim

    @property
    def tokens_per_frame(self) -> int:
        """Number of tokens per latent frame."""
        return self.latent_size[0] * self.latent_size[1] // self.patch_area

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of a latent frame."""
        return (self.in_channels, *self.latent_size)

    @property
    def latent_bytes(self) -> int:
        """Bytes of one latent frame as stored (float32)."""
        return self.in_channels * self.latent_size[0] * self.latent_size[1] * FLOAT32_BYTES

    @property
    def embedding_bytes(self) -> int:
        """Bytes of one latent frame's embedding (float32), in the index and in the store."""
        return self.embedding_dim * FLOAT32_BYTES

    def page_bytes(self, dtype: str) -> int:
        """Bytes of one latent frame's keys and values in all layers."""
        return 2 * self.layers * self.tokens_per_frame * self.width * BYTES[dtype]

    def stored_page_bytes(self, dtype: str, precision: PagePrecision) -> int:
        """Bytes of one page in host memory."""
        if precision == "float8":
            scales = 2 * self.layers * self.heads * FLOAT32_BYTES
            return self.page_bytes(dtype) // BYTES[dtype] + scales
        return self.page_bytes("bfloat16" if precision == "bfloat16" else dtype)


def read_geometry(preset: Preset, output: OutputConfig, encoder: str) -> Geometry:
    """Read the sizes of a pipeline folder, for frames of `output`, from its config files.

    Args:
        encoder: `autoencoder` or `mean_pool`.

    Raises:
        ValueError: if a config is missing or unreadable, VAE or encoder do not fit the transformer, or a side of the
            frames is not a whole number of tokens (a `FieldError`).
    """
    transformer, pixels = check_latents(preset.folder)
    check_size(output, pixels, transformer["patch_size"])
    embedding_dim = _embedding_dim(preset, encoder, transformer["in_channels"])
    return geometry_of(transformer, output, embedding_dim, pixels)


def check_latents(folder: Path) -> tuple[dict[str, Any], int]:
    """Check by their configs that transformer and VAE of a pipeline folder use the same latents.

    Returns:
        The transformer's config, completed with defaults, and the pixels along a side of a latent element.

    Raises:
        ValueError: if they don't match, or a config is missing or unreadable.
    """
    path = folder / "vae" / "config.json"
    transformer, vae = _with_defaults(folder, "transformer"), read_config(path)
    check_channels(vae, transformer["in_channels"], str(path))
    return transformer, pixels_per_latent(vae, str(path))


def check_size(output: OutputConfig, pixels: int, patch_size: Sequence[int]) -> None:
    """Raise FieldError unless both sides of the frames are a whole number of tokens.

    Args:
        output: size of the frames.
        pixels: pixels along a side of a latent element.
        patch_size: (time, height, width) of a token in latent elements.
    """
    for name, patch in (("height", patch_size[1]), ("width", patch_size[2])):
        value, multiple = getattr(output, name), pixels * patch
        if value % multiple:
            nearest = max(multiple, round(value / multiple) * multiple)
            raise FieldError(name, value, f"it must be a multiple of {multiple}, such as {nearest}")


def check_positions(request: TakeRequest, timeline: Timeline, limit: int) -> None:
    """Raise FieldError if the take has more latent frames than the backbone can number, and its positions are absolute.

    Args:
        limit: latent frames that the backbone can number.
    """
    if request.context.rope != "absolute" or timeline.latent_frames <= limit:
        return
    longest_s = timeline.starts_at(limit // request.context.frames_per_block)
    more = f" 'absolute' this backbone can number {limit}. Use "
    raise FieldError(
        "seconds",
        request.seconds,
        wanted=("with ", Name("rope"), more, Name("rope"), f" 'relative', or at most {longest_s:g} s"),
        shown=f"{request.seconds:g}, which needs {timeline.latent_frames} latent frames",
    )


def geometry_of(
    transformer: Mapping[str, Any], output: OutputConfig, embedding_dim: int, spatial_factor: int = 8
) -> Geometry:
    """Return the sizes that follow from a transformer's config.

    Args:
        transformer: its config, with all fields of `WAN_1_3B`.
        output: size of the frames.
        embedding_dim: length of the retrieval encoder's embeddings.
        spatial_factor: pixels along a side of a latent element.
    """
    patch = transformer["patch_size"]
    return Geometry(
        layers=transformer["num_layers"],
        heads=transformer["num_attention_heads"],
        head_dim=transformer["attention_head_dim"],
        ffn_dim=transformer["ffn_dim"],
        in_channels=transformer["in_channels"],
        text_dim=transformer["text_dim"],
        text_length=transformer["text_length"],
        patch_area=patch[1] * patch[2],
        latent_size=(output.height // spatial_factor, output.width // spatial_factor),
        embedding_dim=embedding_dim,
    )


def _with_defaults(folder: Path, part: str) -> dict[str, Any]:
    """Read a transformer's config and complete it with defaults."""
    path = folder / part / "config.json"
    config = {**WAN_1_3B, **read_config(path)}
    for name, default in WAN_1_3B.items():
        if type(config[name]) is not type(default):
            raise ValueError(f"{path}: {name} is {config[name]!r}; it must be like {default!r}")
    patch = config["patch_size"]
    if len(patch) != 3 or not all(type(side) is int and side > 0 for side in patch):
        raise ValueError(f"{path}: patch_size is {patch}; it must be three positive integers, such as [1, 2, 2]")
    return config


def _embedding_dim(preset: Preset, encoder: str, channels: int) -> int:
    path = preset.folder / "encoder" / "config.json"
    if encoder != "mean_pool" and not preset.has_weights:
        return AUTOENCODER_DIM
    if encoder == "mean_pool" or not path.is_file():
        return channels
    config = read_config(path)
    check_encoder(f"the encoder in {path.parent}", config.get("in_channels", 16), channels)
    dim = config.get("embedding_dim", AUTOENCODER_DIM)
    if type(dim) is not int or dim < 1:
        raise ValueError(f"{path}: embedding_dim is {dim!r}; it must be a positive integer")
    return dim


def check_encoder(what: str, reads: int, channels: int) -> None:
    """Raise ValueError unless a retrieval encoder reads latents of as many channels as the backbone's have.

    Args:
        what: how to name the encoder in the message.
        reads: number of channels it reads.
        channels: number of channels of the backbone's latents.
    """
    if reads != channels:
        raise ValueError(
            f"{what} reads latents of {reads} channels, but this backbone's have {channels}; "
            "use one that was trained on its latents, or encoder 'mean_pool'"
        )


def backbone_id(folder: Path) -> str:
    """Identify the backbone that latents belong to, by a hash of samples of its transformer's and VAE's weights.

    It covers the size, start and end of every weight file, which no two trainings share, and takes no time.
    """
    digest = hashlib.sha256()
    for part in ("transformer", "vae"):
        for path in weight_files(folder / part):
            size = path.stat().st_size
            digest.update(f"{part}/{path.name} {size}\n".encode())
            with path.open("rb") as file:
                digest.update(file.read(SAMPLE_BYTES))
                file.seek(max(0, size - SAMPLE_BYTES))
                digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()
