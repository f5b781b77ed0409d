"""The backbone's own eye, on random weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from backbone.vae import encode_video
from eval.embedders import EmbedderSpec
from tests.eval.clips import character


@pytest.fixture(scope="module")
def embedder(pipeline_folder):
    spec = EmbedderSpec(f"latent={pipeline_folder}")
    spec.check()
    return spec.open()


def test_a_frame_is_embedded_as_the_first_of_a_video(embedder, pipe):
    frame = np.random.default_rng(0).integers(0, 256, (1, 32, 48, 3), dtype=np.uint8)
    pixels = torch.from_numpy(frame).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    with torch.no_grad():
        expected = pipe.encoder.encode(encode_video(pipe.vae, pixels).transpose(1, 2))[0]
    np.testing.assert_allclose(embedder.embed(frame), expected, atol=1e-4)


def test_batch_size_and_resolution_hardly_matter(embedder):
    frames = character(3.0)
    rows = embedder.embed(frames)
    assert rows.shape == (12, 8)
    np.testing.assert_allclose(rows[3:4], embedder.embed(frames[3:4]), atol=1e-5)
    larger = frames.repeat(2, axis=1).repeat(2, axis=2)
    assert (rows * embedder.embed(larger)).sum(axis=1).min() > 0.99


def test_a_backbone_without_an_encoder_is_refused(tmp_path):
    from fakes import write_backbone

    folder = write_backbone(tmp_path / "backbone")
    with pytest.raises(ValueError, match="has no trained retrieval encoder"):
        EmbedderSpec(f"latent={folder}").check()
    with pytest.raises(ValueError, match="is neither a known name nor a folder"):
        EmbedderSpec("latent=nowhere").check()
