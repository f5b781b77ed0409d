"""Small drawn clips whose truth is known: the controls that every embedder must order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from longlive_rag.media.video import VideoWriter

FPS = 4
SIDE = 32
RED, BLUE = np.array([220, 40, 40], np.float32), np.array([40, 70, 220], np.float32)


def character(seconds: float, mix: np.ndarray | float = 0.0, moving: bool = True, fps: int = FPS) -> np.ndarray:
    """[F, SIDE, SIDE, 3] uint8: a body that walks to and fro; `mix` [F]: from a red square (0) to a blue disc (1)."""
    frames = round(seconds * fps)
    t = np.arange(frames) / fps if moving else np.zeros(frames)
    mix = np.broadcast_to(np.asarray(mix, np.float32), (frames,))[:, None, None]
    x = (SIDE / 2 + SIDE / 5 * np.sin(t))[:, None, None]
    rows, columns = np.mgrid[:SIDE, :SIDE].astype(np.float32) + 0.5
    square = np.clip(8 - np.maximum(np.abs(columns - x), np.abs(rows - SIDE / 2)), 0, 1)
    disc = np.clip(9 - np.sqrt((columns - x) ** 2 + (rows - SIDE / 2) ** 2), 0, 1)
    body = ((1 - mix) * square + mix * disc)[..., None]
    colour = (1 - mix[..., None]) * RED + mix[..., None] * BLUE
    place = np.array([205, 215, 190], np.float32) + 20 * np.sin(rows / 5)[..., None]
    return np.clip(place * (1 - body) + colour * body, 0, 255).astype(np.uint8)


def controls(seconds: float = 120.0, fps: int = FPS) -> dict[str, np.ndarray]:
    """Frames by control: freeze, real, fade (slow, to another character), swap (at half), shuffled."""
    t = np.arange(round(seconds * fps)) / fps
    real = character(seconds, fps=fps)
    return {
        "freeze": character(seconds, moving=False, fps=fps),
        "real": real,
        "fade": character(seconds, np.clip(t / seconds, 0, 1), fps=fps),
        "swap": character(seconds, t >= seconds / 2, fps=fps),
        "shuffled": real[np.random.default_rng(0).permutation(len(real))],
    }


def write_clip(path: Path, frames: np.ndarray, fps: int = FPS, upscale: int = 1) -> Path:
    """An MP4 of frames [F, H, W, 3]."""
    with VideoWriter(path, width=frames.shape[2], height=frames.shape[1], fps=fps, upscale=upscale) as video:
        video.write(frames)
    return path


def write_uneven(
    path: Path, frames: np.ndarray, times_s: Sequence[float], said_fps: int = FPS, last_s: float | None = None
) -> Path:
    """A video of frames [F, H, W, 3], each at its own time, whatever rate its header says.

    With `last_s` each frame's duration is written, too: up to the next, and this for the last.
    """
    ends_s = [*times_s[1:], times_s[-1] + (last_s or 0)]
    lasts = {round(at * 1000): round((end - at) * 1000) for at, end in zip(times_s, ends_s, strict=True)}
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx-vp9", rate=said_fps)
        stream.width, stream.height = frames.shape[2], frames.shape[1]
        stream.codec_context.time_base = Fraction(1, 1000)
        for frame, at in zip(frames, times_s, strict=True):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame)).reformat(format="yuv420p")
            picture.pts, picture.time_base = round(at * 1000), Fraction(1, 1000)
            _mux(container, stream.encode(picture), lasts if last_s else {})
        _mux(container, stream.encode(None), lasts if last_s else {})
    return path


def _mux(container: av.container.OutputContainer, packets: Sequence[av.Packet], lasts: Mapping[int, int]) -> None:
    for packet in packets:
        packet.duration = lasts.get(packet.pts, packet.duration)
        container.mux(packet)
