"""Takes as documents: the request of a take on disk, and its request once extended or branched."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path

from backbone.errors import FieldError
from longlive_rag.config import Cue, Reseed, TakeRequest
from longlive_rag.generation.cues import steered_before
from longlive_rag.media.video import VideoWriter
from longlive_rag.presets.geometry import backbone_id
from longlive_rag.presets.preset import Preset, load_preset
from longlive_rag.takes.folder import (
    CHECKPOINTS,
    CONTACT_SHEET,
    INPUTS,
    LATENTS,
    MEMORY_MAP,
    RECORD,
    VIDEO,
    checkpoint_files,
)  # fmt: skip
from longlive_rag.takes.inspection import intact_frames
from longlive_rag.takes.record import Origin, TakeRecord, read_record, write_record
from longlive_rag.timecode import format_timecode
from longlive_rag.timeline import Timeline
from retrieval.files import check_plain, sync_folder
from retrieval.store import LatentStore, block_numbers, block_path, copy_blocks

SEEDS = 2**64


def is_finished(take: Path, request: TakeRequest, backbone_id: str) -> bool:
    """Whether a folder holds exactly this take, finished and made with these weights.

    Raises:
        ValueError: if its record can't be read.
    """
    if not (take / RECORD).exists():
        return False
    record = read_record(take)
    return record.status == "finished" and record.run.backbone_id == backbone_id and record.request == request


def backbone_of(record: TakeRecord, take: Path, named: str | None = None) -> Preset:
    """Find the backbone that a take was made with, by its name or else in the folder where it was.

    Args:
        named: the name or folder given by the user.

    Raises:
        ValueError: if it can't be found, or has other weights.
    """
    run, found = record.run, None
    for name in [named] if named else dict.fromkeys([run.backbone, str(run.folder)]):
        try:
            found = load_preset(name)
        except ValueError as error:
            if named:
                raise
            missing = error
            continue
        if run.backbone_id in (None, backbone_id(found.folder)):
            return replace(found, name=run.backbone) if named is None else found
    if found is None:
        raise ValueError(
            f"{take} was made with the backbone {run.backbone!r}, which isn't here ({missing}); "
            "give its folder with --backbone"
        )
    raise ValueError(
        f"{take} was made with the backbone {run.backbone!r}, but {found.folder} has different weights; "
        "give the right folder with --backbone"
    )


def timeline_of(request: TakeRequest, preset: Preset) -> Timeline:
    """The timeline of a request."""
    return Timeline(request.pixel_frames, request.output.fps, request.context.frames_per_block, preset.temporal_factor)


def extended(request: TakeRequest, seconds: float, prompt: str | None, cut: bool = False) -> TakeRequest:
    """The request of a take extended by `seconds`, switching to `prompt` there if given.

    Args:
        cut: whether the prompt begins another shot.

    Raises:
        ValueError: if it would be too long, or longer by less than a frame.
    """
    if not seconds * request.output.fps > 0.5:
        raise FieldError("seconds", seconds, f"it must be at least one frame, {1 / request.output.fps:g} s")
    cues = request.cues if prompt is None else (*request.cues, Cue(request.seconds, prompt, cut))
    return replace(request, seconds=request.seconds + seconds, cues=cues)


def branched(
    request: TakeRequest,
    timeline: Timeline,
    blocks: int,
    at_seconds: float,
    prompt: str | None = None,
    seed: int | None = None,
    seconds: float | None = None,
    cut: bool = False,
) -> tuple[TakeRequest, int]:
    """The request of a take that begins like this one and then branches.

    Args:
        timeline: timeline of the request.
        blocks: number of blocks in the take.
        at_seconds: where to branch: at the first block that begins there or later.
        prompt: takes over there, and later cues are dropped, as are changes to memory that a shorter take does not
            reach; None keeps them.
        seed: noise seed from there on; default is the take's seed with a prompt, its successor without.
        seconds: length of the new take; default is the take's.
        cut: whether the prompt begins another shot.

    Returns:
        The request, and the number of blocks in common.

    Raises:
        ValueError: if the take is too short, or there would be nothing left to make.
    """
    first = timeline.cue_block(at_seconds) if 0 < at_seconds < math.inf else None
    made = timeline.pixels_of(blocks).start  # what the last block makes after the video's end is not part of it
    if first is None or first > blocks or round(at_seconds * timeline.fps) > made:
        wanted = f"the take can be branched after its start and up to {made / timeline.fps:g} s"
        raise FieldError("at", at_seconds, wanted, f"{at_seconds:g} s")
    cues, reseeds = request.cues, tuple(r for r in request.reseeds if timeline.cue_block(r.seconds) < first)
    if prompt is not None:
        cues = (*(cue for cue in cues if timeline.cue_block(cue.seconds) < first), Cue(at_seconds, prompt, cut))
    if seed is None and prompt is None:
        seed = (max([request.seed, *(reseed.seed for reseed in reseeds)]) + 1) % SEEDS
    if seed is not None:
        reseeds = (*reseeds, Reseed(at_seconds, seed))
    length = request.seconds if seconds is None else seconds
    if timeline.starts_at(first) >= length:
        shown = f"{length:g}, but the new part begins at {timeline.starts_at(first):g} s"
        raise FieldError("seconds", length, "give the length of the new take", shown)
    memory = request.memory if prompt is None else steered_before(request.memory, timeline, timeline.cue_block(length))
    return replace(request, seconds=length, cues=cues, reseeds=reseeds, memory=memory), first


def kept(request: TakeRequest, timeline: Timeline, blocks: int) -> TakeRequest:
    """The request of a take cut back to its first blocks by an undo: nothing that begins later is left of it.

    That is cues, changes to memory, and the seeds of branches; its length stays.
    """
    begins_in = timeline.cue_block
    return replace(
        request,
        cues=tuple(cue for cue in request.cues if begins_in(cue.seconds) < blocks),
        reseeds=tuple(reseed for reseed in request.reseeds if begins_in(reseed.seconds) < blocks),
        memory=steered_before(request.memory, timeline, blocks),
    )


def copy_start(
    parent: Path, record: TakeRecord, folder: Path, request: TakeRequest, timeline: Timeline, blocks: int
) -> None:
    """Make `folder` a take with copies of the first blocks of another one, ready to be resumed.

    The other take is only read. If the process dies meanwhile, `folder` is a take with fewer blocks; if writing fails,
    nothing is left.

    Args:
        parent: the other take.
        record: its record.
        folder: the new folder, which holds nothing but a claim.
        request, timeline: those of the new take, which must agree with the other's up to these blocks.
        blocks: number of blocks to copy.

    Raises:
        OSError: if writing fails.
    """
    try:
        _copy(parent, record, folder, request, timeline, blocks)
    except BaseException:
        for name in (RECORD, VIDEO, *INPUTS):
            (folder / name).unlink(missing_ok=True)
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
        for path in (folder / LATENTS).glob("*.h5"):
            path.unlink()
        raise


def _copy(
    parent: Path, record: TakeRecord, folder: Path, request: TakeRequest, timeline: Timeline, blocks: int
) -> None:
    for name in INPUTS:
        if (parent / name).is_file():
            shutil.copyfile(parent / name, folder / name)
    origin = Origin(take=str(parent), blocks=blocks, at=format_timecode(timeline.starts_at(blocks)))
    changes = {"status": "running", "request": request, "branched_from": origin}
    write_record(folder, record.model_copy(update=changes))
    copy_blocks(parent / LATENTS, folder / LATENTS, blocks)
    _copy_checkpoints(parent, folder, blocks)
    _copy_video(parent, record, folder, timeline, blocks)


def cut_back(take: Path, request: TakeRequest, timeline: Timeline, blocks: int) -> None:
    """Cut a take back to fewer blocks, in place, to continue with another request; the caller must hold its claim.

    If the process dies meanwhile, or writing fails, the take is incomplete: either the old one or the new one.

    Args:
        take: the take.
        request, timeline: those to continue with, which must agree with the take's up to these blocks.
        blocks: number of blocks to keep.

    Raises:
        OSError: if writing fails.
    """
    record = read_record(take)
    for block in reversed(block_numbers(take / LATENTS)[blocks:]):
        block_path(take / LATENTS, block).unlink()
    sync_folder(take / LATENTS)  # no old block may reappear under the new request
    for number, path in checkpoint_files(take / CHECKPOINTS).items():
        if number > blocks:
            path.unlink()
    for name in (CONTACT_SHEET, MEMORY_MAP):
        (take / name).unlink(missing_ok=True)
    write_record(take, record.model_copy(update={"status": "running", "request": request}))
    _copy_video(take, record, take, timeline, blocks)


def _copy_video(parent: Path, record: TakeRecord, folder: Path, timeline: Timeline, blocks: int) -> None:
    """Copy the part of a take's video that shows its first blocks to another folder, or cut it in place."""
    frames, output = min(timeline.pixels_of(blocks).start, intact_frames(parent, record)), record.request.output
    if frames:
        VideoWriter(
            folder / VIDEO,
            width=output.width,
            height=output.height,
            fps=output.fps,
            upscale=output.upscale,
            codec=record.run.codec,
            sums=True,
            begin=(parent / VIDEO, frames),
        ).close()


def check_latents(take: Path) -> LatentStore | None:
    """Read and check all stored blocks of a take; None if there are none.

    Raises:
        DamagedError: if one is damaged or missing.
    """
    folder = take / LATENTS
    if not folder.is_dir() or not block_numbers(folder):
        return None
    store = LatentStore(folder)
    store.check()
    return store


def _copy_checkpoints(parent: Path, folder: Path, blocks: int) -> None:
    for number, path in checkpoint_files(parent / CHECKPOINTS).items():
        if number <= blocks:
            check_plain(path)
            (folder / CHECKPOINTS).mkdir(exist_ok=True)
            shutil.copyfile(path, folder / CHECKPOINTS / path.name)
