"""A picture that a take begins with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from backbone.vae import StreamingDecoder, encode_video
from longlive_rag import ContextConfig, LongLiveRAGPipeline, OutputConfig, TakeRun, TakeWriter
from longlive_rag.media.start_image import decode_upload, read_start_image
from longlive_rag.takes.folder import LATENTS, START_IMAGE
from longlive_rag.takes.record import read_record

PROMPT = "a red circle walks in a meadow"
OUTPUT = OutputConfig(height=32, width=48, upscale=2)


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def test_a_picture_of_the_right_size_is_used_as_it_is(tmp_path: Path) -> None:
    picture(48, 32).save(tmp_path / "a.png")
    read = read_start_image(tmp_path / "a.png", OUTPUT)
    assert np.array_equal(read.pixels, np.asarray(picture(48, 32)))
    assert read.in_words == "48x32, used as it is"


def test_others_are_scaled_to_cover_and_cropped_to_the_centre(tmp_path: Path) -> None:
    wide = np.zeros((64, 200, 3), np.uint8)
    wide[:, 52:148] = (255, 0, 0)  # the middle 96 of 200 columns: 48 after halving
    Image.fromarray(wide).save(tmp_path / "wide.png")
    read = read_start_image(tmp_path / "wide.png", OUTPUT)
    assert read.pixels.shape == (32, 48, 3)
    assert read.pixels[:, 2:-2, 0].min() > 200
    assert read.in_words == "200x64, resized to 100x32 and cropped to its centre, 48x32"
    picture(24, 16).save(tmp_path / "small.jpg")
    assert read_start_image(tmp_path / "small.jpg", OUTPUT).in_words == "24x16, resized to 48x32"


def test_turned_transparent_and_deep_pictures(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6  # to be shown turned by 90 degrees
    picture(32, 48).save(tmp_path / "turned.jpg", exif=exif)
    assert read_start_image(tmp_path / "turned.jpg", OUTPUT).given == (48, 32)
    Image.new("RGBA", (48, 32), (200, 200, 200, 0)).save(tmp_path / "clear.png")
    assert read_start_image(tmp_path / "clear.png", OUTPUT).pixels.max() == 0
    Image.fromarray(np.full((32, 48), 128 * 257, np.uint16)).save(tmp_path / "deep.png")
    assert set(read_start_image(tmp_path / "deep.png", OUTPUT).pixels.flatten()) == {128}
    Image.new("P", (48, 32)).save(tmp_path / "palette.png")
    assert read_start_image(tmp_path / "palette.png", OUTPUT).pixels.shape == (32, 48, 3)


def test_an_upload_becomes_what_its_file_would(tmp_path: Path) -> None:
    deep, clear = np.linspace(0, 65535, 32 * 48).reshape(32, 48).astype(np.uint16), (200, 200, 200, 90)
    exif = Image.Exif()
    exif[274] = 6
    for name, shown, settings in (
        ("deep.png", Image.fromarray(deep), {}),
        ("clear.png", Image.new("RGBA", (48, 32), clear), {}),
        ("grey.png", Image.new("LA", (48, 32), (200, 90)), {}),
        ("turned.jpg", picture(32, 48), {"exif": exif}),
    ):
        shown.save(tmp_path / name, **settings)
        decode_upload((tmp_path / name).read_bytes()).save(tmp_path / "upload.png")
        read, upload = (read_start_image(tmp_path / each, OUTPUT) for each in (name, "upload.png"))
        assert np.array_equal(read.pixels, upload.pixels), name
        assert upload.given == (48, 32)


def test_what_is_no_picture(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not a picture")
    picture(480, 320).save(tmp_path / "whole.png")
    data = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    picture(48, 32).save(tmp_path / "a.gif")
    for name, message in (
        ("nowhere.png", "does not exist"),
        (".", "is a folder"),
        ("text.png", "is not a PNG or JPEG picture"),
        ("a.gif", "is not a PNG or JPEG picture"),
        ("cut.png", "can't be read"),
    ):
        with pytest.raises(ValueError, match=message) as refused:
            read_start_image(tmp_path / name, OUTPUT)
        assert str(refused.value).startswith("start_image is ")


def latent_of(pipe: LongLiveRAGPipeline, path: Path) -> torch.Tensor:
    pixels = torch.from_numpy(read_start_image(path, pipe.output).pixels).permute(2, 0, 1)[None, :, None]
    with torch.no_grad():
        return encode_video(pipe.vae, pixels / 127.5 - 1)[:, :, 0]


@pytest.mark.parametrize("frames_per_block", [3, 1])
def test_the_take_begins_with_the_picture(pipe: LongLiveRAGPipeline, tmp_path: Path, frames_per_block: int) -> None:
    picture(60, 40).save(tmp_path / "a.png")
    context = ContextConfig(frames_per_block=frames_per_block)
    out = pipe(PROMPT, seconds=1.0, seed=1, start_image=str(tmp_path / "a.png"), context=context)
    latent = latent_of(pipe, tmp_path / "a.png")
    assert torch.equal(out.latents[:, 0], latent)
    shown = StreamingDecoder(pipe.vae).decode(latent[:, :, None])
    expected = ((shown + 1) * 127.5).round().to(torch.uint8)[0, :, 0].permute(1, 2, 0).numpy()
    assert np.array_equal(out.frames[0, 0], expected)
    plain = pipe(PROMPT, seconds=1.0, seed=1, context=context)
    assert not torch.allclose(out.latents[:, 1:3], plain.latents[:, 1:3])  # its neighbours have seen it


def test_two_takes_begin_with_the_same_picture(pipe: LongLiveRAGPipeline, tmp_path: Path) -> None:
    picture(48, 32).save(tmp_path / "a.png")
    requests = [pipe.request(PROMPT, seconds=1.0, seed=seed, start_image=str(tmp_path / "a.png")) for seed in (1, 2)]
    out = pipe(requests)
    assert torch.equal(out.latents[0, 0], out.latents[1, 0])
    assert not torch.equal(out.latents[0, 1], out.latents[1, 1])


def test_the_picture_is_kept_in_the_take(pipe: LongLiveRAGPipeline, tmp_path: Path) -> None:
    picture(60, 40).save(tmp_path / "a.png")
    request = pipe.request(PROMPT, seconds=2.0, seed=1, start_image=str(tmp_path / "a.png"))
    run = TakeRun("random", tmp_path, "cpu", "float32", 1, "philox")
    folder = tmp_path / "take"
    take = TakeWriter(folder, request, pipe.timeline(request), run)
    blocks = pipe.stream(request, stores=[take])
    first = next(blocks)
    assert take._claim is not None
    take._claim.store.close()  # killed
    facts = read_record(folder).start_image
    assert facts.file == START_IMAGE
    assert facts.fitted == "60x40, resized to 48x32"
    kept = np.asarray(Image.open(folder / START_IMAGE))
    assert np.array_equal(kept, read_start_image(tmp_path / "a.png", pipe.output).pixels)
    (tmp_path / "a.png").unlink()
    (folder / LATENTS / "000000.h5").unlink()  # it goes on even from before its first block
    take = TakeWriter(folder, request, pipe.timeline(request), run, event="resumed")
    again = next(pipe.stream(request, stores=[take]))
    assert torch.equal(again.latents, first.latents)
