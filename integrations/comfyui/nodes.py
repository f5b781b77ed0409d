"""Nodes that make, extend and branch takes. Each gives the frames, the take's folder, and frames a second.

A take is a folder in ComfyUI's output folder, in `longlive-rag/`. No node changes a take that is there: to extend one
copies it first, so that a graph gives the same however often it runs.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import folder_paths
import numpy as np
import torch
from comfy.utils import ProgressBar
from comfy_api.latest import ComfyExtension, io

from longlive_rag import (
    Changes,
    LongLiveRAGPipeline,
    NewTake,
    Opening,
    Schedule,
    TakeRecord,
    TakeStopped,
    branched_take,
    extended_take,
    load_preset,
    new_take,
    open_take,
)
from longlive_rag.media.video import read_frames
from longlive_rag.presets.precision import Precision
from longlive_rag.sessions.asking import build_request
from longlive_rag.sessions.making import TakeJob
from longlive_rag.sessions.resuming import OpenTake

FOLDER, CATEGORY = "longlive-rag", "longlive-rag"
LARGEST_SEED = 2**64 - 1

Loaded = tuple[Path, Precision]
_loaded: dict[Loaded, LongLiveRAGPipeline] = {}
"""The backbone that was used last, by its folder and precision."""


class MakeTake(io.ComfyNode):
    """A take from a prompt."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LongLiveRagMake",
            display_name="Make a take",
            category=CATEGORY,
            description="A video from a prompt, that remembers what it has shown.",
            inputs=[
                io.String.Input("prompt", multiline=True, default="a red circle walks in a meadow"),
                io.Float.Input("seconds", default=5.0, min=0.1, max=3600.0, step=0.1),
                io.Int.Input("seed", default=0, min=0, max=LARGEST_SEED, control_after_generate=True),
                io.Boolean.Input("memory", default=True, tooltip="Bring past frames back."),
                io.String.Input("backbone", default="tiny-world", tooltip="A known name or a pipeline folder."),
                io.String.Input("name", default="take", tooltip="Of the folder; a number follows."),
            ],
            outputs=outputs(),
        )

    @classmethod
    def execute(cls, prompt: str, seconds: float, seed: int, memory: bool, backbone: str, name: str) -> io.NodeOutput:
        preset = load_preset(backbone)
        settings = {} if memory else {"memory_enabled": False}
        request = build_request(preset, Schedule(prompt, (), seconds), seed, settings)
        loaded = preset.folder, Opening().precision
        asked = NewTake(preset, request, free_folder(name), pipe=_loaded.get(loaded))
        return made(lambda: new_take(asked, print), loaded)


class ExtendTake(io.ComfyNode):
    """A longer take that begins as another."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LongLiveRagExtend",
            display_name="Extend a take",
            category=CATEGORY,
            description="A copy of a take, made longer; under another prompt from its old end on, if one is given.",
            inputs=[
                io.String.Input("take", force_input=True),
                io.Float.Input("seconds", default=5.0, min=0.1, max=3600.0, step=0.1, tooltip="By how much."),
                io.String.Input("prompt", multiline=True, default=""),
                io.Boolean.Input("cut", default=False, tooltip="Another shot begins with the prompt."),
                io.String.Input("name", default="take", tooltip="Of the folder; a number follows."),
            ],
            outputs=outputs(),
        )

    @classmethod
    def execute(cls, take: str, seconds: float, prompt: str, cut: bool, name: str) -> io.NodeOutput:
        source = own_take(take)
        open_take(source)  # refused before anything is copied
        folder = free_folder(name)
        shutil.copytree(source, folder)
        try:
            there = open_take(folder)
            changes, loaded = as_loaded(there)
            return made(lambda: extended_take(there, seconds, prompt or None, changes, print, cut), loaded)
        except ValueError:  # refused, so nothing was made
            shutil.rmtree(folder, ignore_errors=True)
            raise


class BranchTake(io.ComfyNode):
    """Another ending of a take."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LongLiveRagBranch",
            display_name="Branch a take",
            category=CATEGORY,
            description="A new take that begins as another; under another prompt from there on, or with other noise.",
            inputs=[
                io.String.Input("take", force_input=True),
                io.Float.Input("at", default=2.0, min=0.0, max=86400.0, step=0.1, tooltip="Where it parts."),
                io.String.Input("prompt", multiline=True, default=""),
                io.Float.Input("seconds", default=0.0, min=0.0, max=86400.0, step=0.1, tooltip="0: those of the take."),
                io.String.Input("name", default="branch", tooltip="Of the folder; a number follows."),
            ],
            outputs=outputs(),
        )

    @classmethod
    def execute(cls, take: str, at: float, prompt: str, seconds: float, name: str) -> io.NodeOutput:
        there, folder = open_take(own_take(take)), free_folder(name)
        changes, loaded = as_loaded(there)
        return made(
            lambda: branched_take(there, at, folder, changes, print, prompt or None, seconds=seconds or None), loaded
        )


class LongLiveRagExtension(ComfyExtension):
    """All nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [MakeTake, ExtendTake, BranchTake]


async def comfy_entrypoint() -> LongLiveRagExtension:
    """What ComfyUI calls."""
    return LongLiveRagExtension()


def outputs() -> list[io.Output]:
    """Of every node."""
    return [
        io.Image.Output(display_name="frames"),
        io.String.Output(display_name="take"),
        io.Float.Output(display_name="fps"),
    ]


def as_loaded(there: OpenTake) -> tuple[Changes, Loaded]:
    """What goes on with a take: the backbone, if it is loaded as the take was made, and what it is told by."""
    loaded = there.preset.folder, there.record.run.precision
    return Changes(pipe=_loaded.get(loaded)), loaded


def made(open_: Callable[[], AbstractContextManager[TakeJob]], loaded: Loaded) -> io.NodeOutput:
    """Make what a take lacks, with progress; Cancel ends it after the block in progress."""
    with open_() as job:
        if loaded not in _loaded:
            _loaded.clear()
            _loaded[loaded] = job.pipe
        bar = ProgressBar(job.request.pixel_frames)

        def on_block(block: object, take: object) -> None:
            try:
                bar.update_absolute(block.pixel_frames.stop)  # type: ignore[attr-defined]
            except Exception as cancelled:
                raise KeyboardInterrupt from cancelled  # a take ends well by it

        try:
            record = job.run(on_block)
        except TakeStopped as ended:
            interrupt = ended.__cause__
            raise (interrupt.__cause__ if interrupt and interrupt.__cause__ else ended) from ended
    folder = job.writer.folder
    return io.NodeOutput(frames_of(folder, record), str(folder), float(record.video.fps))


def frames_of(folder: Path, record: TakeRecord) -> torch.Tensor:
    """A take's frames: [F, H, W, 3] float32, 0 to 1."""
    video = record.video
    frames = torch.empty(video.frames, video.height, video.width, 3)
    for number, frame in enumerate(read_frames(folder / video.file, 0, video.frames)):
        frames[number] = torch.from_numpy(np.asarray(frame)).to(torch.float32) / 255
    return frames


def takes_folder() -> Path:
    """Where takes lie."""
    return (Path(folder_paths.get_output_directory()) / FOLDER).resolve()


def free_folder(name: str) -> Path:
    """A folder for a new take: the name and the next number.

    Raises:
        ValueError: if it isn't a plain name.
    """
    plain = name.strip()
    if not plain or plain.startswith(".") or set(plain) & set('/\\\0:*?"<>|'):
        raise ValueError(f"name is {name!r}; it must be a plain name, without a path")
    number = 1
    while (folder := takes_folder() / f"{plain}_{number:05d}").exists():
        number += 1
    return folder


def own_take(take: str) -> Path:
    """The folder of a take that lies in the output folder.

    Raises:
        ValueError: if it is elsewhere.
    """
    folder = Path(take).resolve()
    if not folder.is_relative_to(takes_folder()):
        raise ValueError(f"take is {take!r}; it must be a take in {takes_folder()}")
    return folder
