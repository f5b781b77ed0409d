"""Embedders, by whose vectors frames are compared: a small interface, and their names on the command line.

    pixels               colours on a coarse grid; no weights; for tests and controls
    dino[=WHERE]         class token of DINO ViT-B/16, preprocessed as VBench's subject consistency
    dinov2[=WHERE]       class token of DINOv2 ViT-B/14, as VBench-Long's fast subject branch
    clip[=WHERE]         image embedding of CLIP ViT-B/32, as VBench's background consistency; reads prompts too
    siglip[=WHERE]       image embedding of SigLIP; reads prompts too
    latent[=BACKBONE]    the backbone's own VAE and retrieval encoder
    tiny-world           traits read by tiny-world's oracle: the truth, for takes of tiny-world only
    face=FOLDER          your own face embedder; see `eval.faces` for its terms

WHERE is a local folder or a name on the Hugging Face hub; the default is the published weights. Each embedder is an
`EmbedderKind` in the entry point group `longlive_rag.embedders`, like those of other packages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from backbone.errors import FieldError
from longlive_rag.environment import plugin, plugins
from longlive_rag.rights.policy import enforce_place


class Embedder(Protocol):
    """Embeds each frame as one vector.

    Attributes:
        name: name in results, such as `dino`.
    """

    name: str

    def embed(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed frames [N, H, W, 3] uint8 RGB of any size as [N, D]; a row of NaN if no subject is seen.

        A frame's vector must not depend on other frames in the batch.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """Describe weights, their hash and the preprocessing, for the record."""
        ...


@runtime_checkable
class TextEmbedder(Protocol):
    """An embedder that also embeds prompts, into the same space."""

    def embed_prompts(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """Embed prompts as unit vectors [P, D]."""
        ...


class PixelEmbedder:
    """Colours on a coarse grid minus middle grey, so that different pictures have different directions.

    It does not know about subjects: a character's walk affects it as much as a change of character. For tests and
    controls.
    """

    name = "pixels"
    grid = 16

    def embed(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed frames [N, H, W, 3] as [N, 16 * 16 * 3]."""
        return np.stack([self._one(frame) for frame in frames])

    def describe(self) -> dict[str, Any]:
        return {"embedder": self.name, "preprocessing": f"box filter to {self.grid}x{self.grid}, minus 127.5"}

    def _one(self, frame: NDArray[np.uint8]) -> NDArray[np.float32]:
        small = Image.fromarray(frame).resize((self.grid, self.grid), Image.Resampling.BOX)
        return (np.asarray(small, np.float32) - 127.5).ravel() / 127.5


@dataclass(frozen=True)
class EmbedderKind:
    """How a kind of embedder is checked and opened.

    Attributes:
        published: the default place; None if the user must give one.
        check: called with the place before anything is loaded or made; may raise ValueError.
        open: opens the embedder, given (place, device).
    """

    published: str | None
    check: Callable[[str], None]
    open: Callable[[str, str], Embedder]


def _nothing_to_check(place: str) -> None:
    if place:
        raise ValueError(f"embedder pixels takes no place, got {place!r}")


def _open_vision(kind: str) -> Callable[[str, str], Embedder]:
    def open_(place: str, device: str) -> Embedder:
        from eval.vision import VISION_KINDS

        return VISION_KINDS[kind](place, device)

    return open_


def check_weights(place: str) -> None:
    """Check that a folder holds a model; for a hub name, fetch its small config to see that it is available.

    Raises:
        LicenseError: if the licence policy in force does not allow the weights.
        ValueError: if something is missing; says what, and what is expected.
    """
    folder = Path(place)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ValueError(f"the embedder's folder {place} has no config.json")
        if not _weight_files(folder):
            raise ValueError(f"the embedder's folder {place} has no weights (.safetensors or .bin)")
        enforce_place(place)
        return
    if place.startswith((".", "/", "~")) or place.count("/") != 1:
        raise ValueError(f"the embedder's folder {place} does not exist")
    enforce_place(place)
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        hf_hub_download(place, "config.json")
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise ValueError(
            f"the embedder's weights {place} are neither here nor available from the hub ({type(error).__name__}); "
            "name a local folder, such as dino=models/dino-vitb16"
        ) from error


def _weight_files(folder: Path) -> list[Path]:
    return sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")])


def _check_latent(place: str) -> None:
    from longlive_rag.presets.preset import load_preset

    if not (load_preset(place).folder / "encoder").is_dir():
        raise ValueError(f"backbone {place!r} has no trained retrieval encoder, so there is no embedder latent={place}")


def _open_latent(place: str, device: str) -> Embedder:
    from eval.latent import LatentEmbedder

    return LatentEmbedder(place, device)


def _check_oracle(place: str) -> None:
    from eval.oracle import check_oracle

    check_oracle(place)


def _open_oracle(place: str, device: str) -> Embedder:
    from eval.oracle import open_oracle

    return open_oracle()


def _check_face(place: str) -> None:
    from eval.faces import check_face_folder

    check_face_folder(Path(place))


def _open_face(place: str, device: str) -> Embedder:
    from eval.faces import open_face_embedder

    return open_face_embedder(Path(place), device)


PIXELS = EmbedderKind("", _nothing_to_check, lambda place, device: PixelEmbedder())
DINO = EmbedderKind("facebook/dino-vitb16", check_weights, _open_vision("dino"))
DINOV2 = EmbedderKind("facebook/dinov2-base", check_weights, _open_vision("dinov2"))
CLIP = EmbedderKind("openai/clip-vit-base-patch32", check_weights, _open_vision("clip"))
SIGLIP = EmbedderKind("google/siglip-base-patch16-224", check_weights, _open_vision("siglip"))
LATENT = EmbedderKind("tiny-world", _check_latent, _open_latent)
TINY_WORLD = EmbedderKind("", _check_oracle, _open_oracle)
FACE = EmbedderKind(None, _check_face, _open_face)


@dataclass(frozen=True)
class EmbedderSpec:
    """An embedder as named by the user: `kind` or `kind=place`.

    Raises:
        ValueError: if there is no such kind, or it lacks a required place.
    """

    text: str
    kind: str = field(init=False)
    place: str = field(init=False)

    def __post_init__(self) -> None:
        kind, separator, place = self.text.partition("=")
        published = plugin("embedder", kind).published
        if separator and not place:
            raise FieldError("embedder", self.text, "name a place after the =, or drop the =")
        if not place and published is None:
            raise ValueError(f"embedder {kind} needs a folder, as in {kind}=FOLDER")
        object.__setattr__(self, "kind", kind)
        object.__setattr__(self, "place", place or published)

    def check(self) -> None:
        """Raise ValueError if it can't be opened, as far as can be told without loading it."""
        plugin("embedder", self.kind).check(self.place)

    def open(self, device: str = "cpu") -> Embedder:
        """Load the embedder."""
        embedder: Embedder = plugin("embedder", self.kind).open(self.place, device)
        return embedder


def at_hand() -> tuple[str, ...]:
    """Names of the embedders that can be opened without naming a place or downloading anything."""
    return tuple(name for name in sorted(plugins("embedder")) if _is_at_hand(name))


def _is_at_hand(name: str) -> bool:
    try:
        kind = plugin("embedder", name)
        if kind.published is None:
            return False
        if kind.check is not check_weights:
            kind.check(kind.published)
            return True
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download(kind.published, local_files_only=True))
        enforce_place(kind.published)
        return (folder / "config.json").is_file() and bool(_weight_files(folder))
    except (ValueError, OSError):  # a licence policy refuses with the former, the hub with the latter
        return False


def default_embedders(backbones: Iterable[str | None]) -> str:
    """The default embedder: tiny-world's own oracle if tiny-world made everything, else DINO.

    Args:
        backbones: backbones of the videos to measure; None if unknown.
    """
    return "tiny-world" if set(backbones) == {"tiny-world"} else "dino"


def parse_embedders(text: str) -> tuple[EmbedderSpec, ...]:
    """Parse a comma-separated list of embedders, the primary one first.

    Raises:
        ValueError: if there is none, one is unknown, or two have the same kind and so would share a name.
    """
    specs = tuple(EmbedderSpec(part.strip()) for part in text.split(",") if part.strip())
    kinds = [spec.kind for spec in specs]
    if not specs:
        raise FieldError("embedders", text, f"name at least one of {', '.join(sorted(plugins('embedder')))}")
    if len(set(kinds)) < len(kinds):
        raise FieldError("embedders", text, "each kind can be used only once")
    return specs
