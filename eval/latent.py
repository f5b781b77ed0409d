"""The backbone as an embedder: frames are encoded by its VAE and embedded by its retrieval encoder.

It is not an independent judge, since memory itself searches by these embeddings. Each frame is encoded as the first of
a video, so that no embedding depends on other frames.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from backbone.vae import encode_video


class LatentEmbedder:
    """Embeds frames at the backbone's own size with its VAE encoder and retrieval encoder.

    Args:
        backbone: name of a preset, or a pipeline folder; it must have a trained retrieval encoder.
        device: device to run on.

    Raises:
        ValueError: if the backbone does not exist, or has no retrieval encoder.
    """

    name = "latent"

    def __init__(self, backbone: str, device: str = "cpu") -> None:
        from longlive_rag.weights.load import load_pipeline

        pipe = load_pipeline(backbone, "float32", device)
        if pipe.encoder is None:
            raise ValueError(f"backbone {backbone!r} has no trained retrieval encoder")
        self._backbone, self._vae, self._encoder = backbone, pipe.vae, pipe.encoder
        self._size = (pipe.output.height, pipe.output.width)

    def embed(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed frames [N, H, W, 3] uint8 as unit vectors [N, D]."""
        with torch.inference_mode():
            pixels = torch.from_numpy(np.ascontiguousarray(frames)).to(self._vae.device).permute(0, 3, 1, 2).float()
            if pixels.shape[-2:] != self._size:
                pixels = F.interpolate(pixels, self._size, mode="bilinear", antialias=True, align_corners=False)
            clips = (pixels / 127.5 - 1).unsqueeze(2)
            latents = encode_video(self._vae, clips)
            return self._encoder.encode(latents.transpose(1, 2))[:, 0].cpu().numpy()

    def describe(self) -> dict[str, Any]:
        from eval.vision import weights_hash

        return {
            "embedder": self.name,
            "backbone": self._backbone,
            "sha256": weights_hash(self._encoder),
            "preprocessing": f"to {self._size[1]}x{self._size[0]}, each frame as the first of a video",
        }
