"""What a take on disk holds, and whether it is intact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from longlive_rag.media.sums import sha256_of, verified_frames
from longlive_rag.media.video import safe_frames
from longlive_rag.takes.folder import LATENTS, VIDEO, in_shell
from longlive_rag.takes.record import TakeRecord, read_record
from retrieval.lock import is_being_written
from retrieval.store import DamagedError, LatentStore, block_numbers


def describe(take: Path) -> dict[str, Any]:
    """Describe a take as plain data; every stored block is read and checked.

    Returns:
        `take`, `status`, `prompt`, `backbone`, `width`, `height`, `fps`, `seconds` (as requested), `frames` (of the
        video), `video_damage` (None, or a sentence), `cues`, `being_written`, and `latents`: None, or `blocks`,
        `frames`, `shape` of a latent frame, `embedding_dim`, `bytes`, and `damage`: None, or the first damaged `block`
        and a `message`.

    Raises:
        ValueError: if it is not a take, or its record is damaged.
        FutureFormatError: if a newer version wrote a block.
    """
    record = read_record(take)
    request = record.request
    return {
        "take": str(take),
        "status": record.status,
        "prompt": request.prompt,
        "backbone": record.run.backbone,
        "width": request.output.width,
        "height": request.output.height,
        "fps": request.output.fps,
        "seconds": request.seconds,
        "frames": _frames_shown(take, record),
        "video_damage": _video_damage(take, record),
        "cues": [cue.prompt for cue in record.cues],
        "being_written": is_being_written(take / LATENTS),
        "latents": describe_latents(take / LATENTS),
    }


def intact_frames(take: Path, record: TakeRecord) -> int:
    """Number of frames at the start of a take's video that are as written, and durably on disk.

    Records of older versions have no checksum of the video; then all readable frames count.
    """
    video = take / VIDEO
    if not video.is_file():
        return 0
    safe, written = safe_frames(video), record.video.sha256
    if written is not None and sha256_of(video) == written:
        return safe
    verified = verified_frames(video)
    if verified is None:
        verified = 0 if "sha256" in record.video.model_fields_set else safe
    return min(safe, verified)


def check_video(take: Path, record: TakeRecord) -> None:
    """Raise ValueError if a take's video is not as it was written; can't be checked while it is being made."""
    video, written = take / record.video.file, record.video.sha256
    if record.status != "running" and written is not None and (not video.is_file() or sha256_of(video) != written):
        raise ValueError(
            f"{video} is not as it was written: its checksum does not match; "
            f"`longlive-rag resume {in_shell(take)}` remakes it"
        )


def _video_damage(take: Path, record: TakeRecord) -> str | None:
    try:
        check_video(take, record)
    except ValueError as error:
        return str(error)
    return None


def _frames_shown(take: Path, record: TakeRecord) -> int:
    """Number of frames in the video, which is not on the record of a take being made or killed."""
    video = take / VIDEO
    return safe_frames(video) if record.status == "running" and video.exists() else record.video.frames


def describe_latents(folder: Path) -> dict[str, Any] | None:
    """Describe what a store holds up to the first damaged block; None if there is no store."""
    if not folder.is_dir() or not block_numbers(folder):
        return None
    blocks = frames = size = 0
    facts: dict[str, Any] = {"shape": None, "embedding_dim": None, "damage": None}
    try:
        store = LatentStore(folder)
        size = store.bytes
        for block in range(store.blocks):
            record = store.record(block)
            blocks, frames = block + 1, frames + len(record.latents)
            facts["shape"] = list(record.latents.shape[1:])
            facts["embedding_dim"] = None if record.embeddings is None else record.embeddings.shape[1]
    except DamagedError as damage:
        facts["damage"] = {"block": damage.block, "message": str(damage)}
    return {"blocks": blocks, "frames": frames, "bytes": size, **facts}
