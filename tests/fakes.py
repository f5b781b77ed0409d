"""Stand-ins for a backbone, so that what surrounds it can be tested without weights."""

from __future__ import annotations

import errno
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from longlive_rag.config import OutputConfig, TakeRequest
from longlive_rag.media.video import VideoWriter
from longlive_rag.presets.geometry import backbone_id
from longlive_rag.presets.preset import find_folder
from longlive_rag.rights.provenance import Provenance
from longlive_rag.takes.finishing import Then
from longlive_rag.takes.folder import CHECKPOINTS, LATENTS
from longlive_rag.takes.record import TakeRun
from longlive_rag.takes.writer import TakeWriter
from longlive_rag.timeline import Timeline
from retrieval.selection import Selection, candidate_frames
from retrieval.store import LatentStore

SIZE = 32
KNOWN_WORDS = {"a", "the", "red", "blue", "circle", "walks", "jumps", "in", "meadow"}


def make_request(seconds: float = 8.0, **settings) -> TakeRequest:
    settings.setdefault("output", OutputConfig(height=SIZE, width=SIZE, fps=16, upscale=2))
    return TakeRequest(settings.pop("prompt", "a red circle walks in a meadow"), seconds, **settings)


def copy_blocks(take: Path, folder: Path, blocks: int) -> None:
    """Copy a take's folder, with so many of its blocks and the checkpoints that these have."""
    shutil.copytree(take, folder)
    for block in range(blocks, LatentStore(folder / LATENTS).blocks):
        (folder / LATENTS / f"{block:06d}.h5").unlink()
    for path in (folder / CHECKPOINTS).iterdir():
        if int(path.stem) > blocks:
            path.unlink()


def timeline_of(request: TakeRequest) -> Timeline:
    return Timeline(request.pixel_frames, request.output.fps, request.context.frames_per_block, 4)


def frames_of(numbers: range, batch: int = 1) -> np.ndarray:
    """[B, F, H, W, 3]: a square whose place and shade tell the frame's number."""
    pixels = np.full((batch, len(numbers), SIZE, SIZE, 3), 40, dtype=np.uint8)
    for place, number in enumerate(numbers):
        x = number % (SIZE - 8)
        pixels[:, place, 8:24, x : x + 8] = (220, number % 200, 60)
    return pixels


def selection_of(request: TakeRequest, block: int) -> Selection | None:
    context, done = request.context, block * request.context.frames_per_block
    candidates = candidate_frames(done, context.window_frames, context.sink_frames, context.recency_guard_frames)
    if not context.memory_frames or not candidates:
        return None
    chosen = tuple(candidates)[: context.memory_frames]
    return Selection(block, done - 1, len(candidates), chosen, tuple(0.9 - 0.01 * i for i in range(len(chosen))))


def blocks_of(request: TakeRequest, batch: int = 1) -> Iterator[SimpleNamespace]:
    timeline = timeline_of(request)
    for index in range(timeline.blocks):
        numbers = timeline.pixels_of(index)
        selection = selection_of(request, index)
        yield SimpleNamespace(
            index=index,
            frames=timeline.latents_of(index),
            pixel_frames=numbers,
            pixels=frames_of(numbers, batch),
            selections=(selection,) * batch if selection else (),
            entered=(tuple(timeline.latents_of(index)),) * batch if request.context.memory_frames else None,
            prompt=request.prompt,
            cue=None,
            seconds={"denoise": 0.01, "decode": 0.005},
            pages=None,
        )


def fill_disk(video: VideoWriter, room_bytes: int) -> None:
    """After `room_bytes` more the video's disk is full."""
    file = video._file._file
    room = [room_bytes]

    class FullDisk:
        def __getattr__(self, name: str) -> object:
            return getattr(file, name)

        def write(self, data: bytes) -> int:
            if room[0] <= 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            written = file.write(bytes(data)[: room[0]])
            room[0] -= written
            return written

    video._file._file = FullDisk()


def run_of(backbone: str, dtype: str = "float32", **facts: object) -> TakeRun:
    """What takes are made with, as a pipeline that was opened from a folder says it."""
    folder, threads = find_folder(backbone), torch.get_num_threads()
    return TakeRun(backbone, folder, "cpu", dtype, threads, "fake", backbone_id=backbone_id(folder), **facts)  # type: ignore[arg-type]


class FakeTransformer(torch.nn.Linear):
    compiled_for, attention_backend = frozenset(), "native"

    def set_attention_backend(self, backend: str) -> None:
        self.attention_backend = backend


class FakePipeline:
    """Behaves as the real pipeline does towards the command line.

    Args:
        seconds_per_block: how long it pretends to think.
        fail_at: block before which it raises `error`.
        error: what it raises there.
        parameters: of its transformer, which take no memory.
        dtype: as which it was loaded.
    """

    def __init__(
        self,
        seconds_per_block: float = 0.0,
        fail_at: int = -1,
        error: BaseException | None = None,
        parameters: int = 1,
        dtype: str = "float32",
    ):
        self.seconds_per_block, self.fail_at, self.error = seconds_per_block, fail_at, error
        self.backbone, self.dtype = "", dtype
        self.transformer = FakeTransformer(parameters, 1, bias=False, device="meta")
        self.vae = SimpleNamespace(decoder=SimpleNamespace())

    def check(self, request: TakeRequest) -> None:
        """It can make anything."""

    def take_run(self, **facts: object) -> TakeRun:
        return run_of(self.backbone, self.dtype, **facts)

    def host_bytes_for_pages(self, request: TakeRequest) -> int:
        return 0

    def unknown_words(self, prompt: str) -> list[str]:
        return [word for word in prompt.split() if word not in KNOWN_WORDS]

    def stream(
        self, request: TakeRequest, stores: Sequence[object] = (), then: Then = lambda block: None, ahead: int = 0
    ) -> Iterator[SimpleNamespace]:
        for block in blocks_of(request):
            time.sleep(self.seconds_per_block)
            if block.index == self.fail_at and self.error is not None:
                raise self.error
            then(block)
            yield block


def write_backbone(folder: Path) -> Path:
    """A folder that looks like a pipeline's from outside; no model could load it."""
    parts = {"transformer": "config.json", "vae": "config.json", "text_encoder": "config.json"}
    for part, config in parts.items():
        (folder / part).mkdir(parents=True)
        (folder / part / config).write_text("{}")
        (folder / part / "model.safetensors").write_bytes(b"")
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "tokenizer.json").write_text("{}")
    index = {
        "_class_name": "LongLiveRAGPipeline",
        "transformer": ["backbone", "CausalWanTransformer"],
        "encoder": [None, None],
        "output": {"height": SIZE, "width": SIZE, "fps": 16, "upscale": 2},
        "sampler": {"denoising_steps": [1000, 500]},
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def write_take(
    folder: Path, request: TakeRequest | None = None, provenance: Provenance | None = None, **run: object
) -> Path:
    """A finished take of stand-in frames."""
    request = request or make_request()
    facts = TakeRun("fake", folder, "cpu", "float32", 2, "philox", **run)  # type: ignore[arg-type]
    writer = TakeWriter(folder, request, timeline_of(request), facts, provenance=provenance)
    for block in blocks_of(request):
        writer.add(block)  # type: ignore[arg-type]
    writer.finish("finished")
    return folder
