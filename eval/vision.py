"""DINO, DINOv2, CLIP and SigLIP through transformers, with the preprocessing of the field's suites.

    dino     frames as float 0-255; shorter side to 224, bilinear without antialias, no crop; /255; ImageNet statistics
    clip     shorter side to 224, bicubic without antialias, centre crop 224; /255; CLIP's own statistics
    dinov2   shorter side to 256, bicubic, centre crop 224; /255; ImageNet statistics
    siglip   both sides to 224, bicubic with antialias; /255; mean and deviation .5

For CLIP, DINOv2 and SigLIP models with another input size, 224 (and 256) scale with it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor

from longlive_rag.rights.policy import enforce_place

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
SIDE_PX = 224
DINOV2_RESIZE_PX = 256


def resize_shorter(frames: Tensor, side: int, mode: str, antialias: bool) -> Tensor:
    """Resize frames [N, 3, H, W] so that the shorter side has `side` pixels; the longer side is rounded down."""
    height, width = frames.shape[-2:]
    short, long = min(height, width), max(height, width)
    longer = int(side * long / short)
    size = (side, longer) if height <= width else (longer, side)
    return F.interpolate(frames, size=size, mode=mode, antialias=antialias, align_corners=False)


def centre_crop(frames: Tensor, side: int) -> Tensor:
    """Crop frames [N, 3, H, W] to their centre [N, 3, side, side]."""
    top, left = (round((length - side) / 2) for length in frames.shape[-2:])
    return frames[..., top : top + side, left : left + side]


def normalise(frames: Tensor, statistics: tuple[Sequence[float], Sequence[float]]) -> Tensor:
    """Normalise frames [N, 3, H, W] in 0..255 to the model's statistics."""
    mean, deviation = (torch.tensor(values, device=frames.device).view(3, 1, 1) for values in statistics)
    return (frames / 255 - mean) / deviation


class _Vision:
    """Base class of the four: weights, device and input conversion.

    Args:
        place: local folder or hub name.
        device: device to run on.

    Raises:
        LicenseError: if the licence policy in force does not allow the weights.
        ValueError: if the weights can't be loaded, or don't fit.
    """

    name: str
    model_class: str

    def __init__(self, place: str, device: str = "cpu") -> None:
        import transformers

        enforce_place(place)
        self.place, self._device = place, torch.device(device)
        try:
            model, report = getattr(transformers, self.model_class).from_pretrained(place, output_loading_info=True)
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise ValueError(f"the embedder {self.name} can't be loaded from {place}: {error}") from error
        missing = sorted(key for key in report["missing_keys"] if not key.startswith("pooler."))
        if missing:
            raise ValueError(f"{place} does not hold the weights of a {self.model_class}: {missing[0]} is missing")
        self._model = model.eval().to(self._device)

    def embed(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed frames [N, H, W, 3] uint8 as unit vectors [N, D]."""
        with torch.inference_mode():
            pixels = torch.from_numpy(np.ascontiguousarray(frames)).to(self._device).permute(0, 3, 1, 2).float()
            return F.normalize(self._features(self.preprocess(pixels)).float(), dim=-1).cpu().numpy()

    def preprocess(self, frames: Tensor) -> Tensor:
        """Convert frames [N, 3, H, W] float in 0..255 to the model's input."""
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        return {
            "embedder": self.name,
            "weights": self.place,
            "sha256": weights_hash(self._model),
            "model": self.model_class,
        }

    def _features(self, pixels: Tensor) -> Tensor:
        raise NotImplementedError

    def _input_side(self) -> int:
        config = self._model.config
        return int(getattr(config, "vision_config", config).image_size)


class DinoEmbedder(_Vision):
    """Class token of DINO ViT-B/16, with positions interpolated to the frame's size."""

    name, model_class = "dino", "ViTModel"

    def preprocess(self, frames: Tensor) -> Tensor:
        return normalise(resize_shorter(frames, SIDE_PX, "bilinear", antialias=False), IMAGENET)

    def _features(self, pixels: Tensor) -> Tensor:
        return self._model(pixel_values=pixels, interpolate_pos_encoding=True).last_hidden_state[:, 0]


class Dinov2Embedder(_Vision):
    """Class token of DINOv2 ViT-B/14."""

    name, model_class = "dinov2", "Dinov2Model"

    def preprocess(self, frames: Tensor) -> Tensor:
        resized = resize_shorter(frames, DINOV2_RESIZE_PX, "bicubic", antialias=True).clamp(0, 255)
        return normalise(centre_crop(resized, SIDE_PX), IMAGENET)

    def _features(self, pixels: Tensor) -> Tensor:
        return self._model(pixel_values=pixels).last_hidden_state[:, 0]


class _VisionAndText(_Vision):
    """Image and text towers whose embeddings are compared by cosine."""

    def __init__(self, place: str, device: str = "cpu") -> None:
        super().__init__(place, device)
        from transformers import AutoTokenizer

        try:
            self._tokenizer = AutoTokenizer.from_pretrained(place)
        except (OSError, ValueError) as error:
            raise ValueError(f"the embedder {self.name} has no tokenizer in {place}: {error}") from error

    def embed_prompts(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """Embed prompts as unit vectors [P, D], truncated to what the model reads."""
        length = self._model.config.text_config.max_position_embeddings
        tokens = self._tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        ).to(self._device)
        with torch.inference_mode():
            return F.normalize(_pooled(self._model.get_text_features(**tokens)).float(), dim=-1).cpu().numpy()

    def _features(self, pixels: Tensor) -> Tensor:
        return _pooled(self._model.get_image_features(pixel_values=pixels))


class ClipEmbedder(_VisionAndText):
    """Image embedding of CLIP ViT-B/32."""

    name, model_class = "clip", "CLIPModel"

    def preprocess(self, frames: Tensor) -> Tensor:
        side = self._input_side()
        resized = resize_shorter(frames, side, "bicubic", antialias=False).clamp(0, 255)
        return normalise(centre_crop(resized, side), CLIP)


class SiglipEmbedder(_VisionAndText):
    """Image embedding of SigLIP."""

    name, model_class = "siglip", "SiglipModel"

    def preprocess(self, frames: Tensor) -> Tensor:
        side = self._input_side()
        resized = F.interpolate(frames, (side, side), mode="bicubic", antialias=True, align_corners=False)
        return normalise(resized.clamp(0, 255), HALF)


VISION_KINDS: dict[str, type[_Vision]] = {
    "dino": DinoEmbedder,
    "dinov2": Dinov2Embedder,
    "clip": ClipEmbedder,
    "siglip": SiglipEmbedder,
}


def weights_hash(model: torch.nn.Module) -> str:
    """SHA-256 over the names and bytes of all parameters, in order of name."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _pooled(output: Any) -> Tensor:
    """Get the tensor: transformers 5 returns an output object where version 4 returned the tensor itself."""
    return output if isinstance(output, Tensor) else output.pooler_output
