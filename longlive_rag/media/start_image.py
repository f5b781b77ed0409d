"""The picture that a take begins with."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from backbone.errors import FieldError
from longlive_rag.config import OutputConfig

FORMATS = ("PNG", "JPEG")
MAX_UPLOAD_PIXELS = 50_000_000


@dataclass(frozen=True)
class StartImage:
    """A picture at the size of the backbone's frames.

    Attributes:
        pixels: [H, W, 3] uint8.
        given: (width, height) of the original picture, upright.
    """

    pixels: NDArray[np.uint8]
    given: tuple[int, int]

    @property
    def in_words(self) -> str:
        """What was done to the original."""
        height, width, _ = self.pixels.shape
        if self.given == (width, height):
            return f"{width}x{height}, used as it is"
        factor = max(width / self.given[0], height / self.given[1])
        sides = [round(side * factor) for side in self.given]
        resized = f"{self.given[0]}x{self.given[1]}, resized to {sides[0]}x{sides[1]}"
        return resized if sides == [width, height] else f"{resized} and cropped to its centre, {width}x{height}"


def read_start_image(path: Path, output: OutputConfig) -> StartImage:
    """Read a PNG or JPEG file and fit it: upright, scaled (Lanczos) to cover the frame, cropped to its centre.

    Transparent areas become black.

    Raises:
        FieldError: if it is not a PNG or JPEG file or can't be read.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise _refused(path, "which is not a plain file", "it must be a PNG or JPEG file")
    try:
        with Image.open(path, formats=FORMATS) as file:
            upright = ImageOps.exif_transpose(file)
            rgb = _to_rgb(upright)
    except FileNotFoundError as error:
        raise _refused(path, "which does not exist") from error
    except IsADirectoryError as error:
        raise _refused(path, "which is a folder", "it must be a PNG or JPEG file") from error
    except UnidentifiedImageError as error:
        raise _refused(path, "which is not a PNG or JPEG picture") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise _refused(path, f"which can't be read: {error}") from error
    fitted = ImageOps.fit(rgb, (output.width, output.height), Image.Resampling.LANCZOS)
    return StartImage(np.asarray(fitted, dtype=np.uint8).copy(), upright.size)


def decode_upload(data: bytes, field: str = "picture", max_pixels: int = MAX_UPLOAD_PIXELS) -> Image.Image:
    """Decode an uploaded picture, upright, in RGB as `read_start_image` does; its size is checked before it is decoded.

    Args:
        data: content of the file.
        field: how to name it in messages.
        max_pixels: the most pixels it may have.

    Raises:
        FieldError: if it is not a PNG or JPEG picture, or too large.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            if picture.width * picture.height > max_pixels:
                shown = f"of {picture.width}x{picture.height} pixels"
                raise FieldError(field, None, f"it may have at most {max_pixels // 10**6} million", shown)
            return _to_rgb(ImageOps.exif_transpose(picture))
    except FieldError:
        raise
    except Exception as error:  # decoders raise anything for bytes that are no picture
        raise FieldError(field, None, "it must be a PNG or JPEG file", "not a picture") from error


def _refused(path: Path, why: str, wanted: str = "") -> FieldError:
    return FieldError("start_image", path, wanted, f"{path}, {why}")


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):  # 16 bits per pixel: Pillow would clip instead of scaling
        return Image.fromarray((np.asarray(picture).astype(np.int64) // 257).clip(0, 255).astype(np.uint8)).convert(
            "RGB"
        )
    if "A" in picture.getbands() or "transparency" in picture.info:
        with_alpha = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, (0, 0, 0, 255)), with_alpha).convert("RGB")
    return picture.convert("RGB")
