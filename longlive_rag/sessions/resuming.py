"""Opening a take on disk, and resuming, extending or branching it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backbone.errors import FieldError
from longlive_rag.config import CheckpointConfig, CheckpointMode, TakeRequest
from longlive_rag.generation.cues import steered_before
from longlive_rag.generation.directions import check_policy
from longlive_rag.presets.geometry import read_geometry
from longlive_rag.presets.preset import Preset
from longlive_rag.rights.policy import pick_policy, refuse_stricter
from longlive_rag.rights.provenance import Provenance, refuse_other_weights
from longlive_rag.sessions.making import TakeJob, stored_bytes
from longlive_rag.sessions.opening import Labels, Note, Opening, provenance_of
from longlive_rag.sessions.several_gpus import count_gpus, opened_backbone
from longlive_rag.sessions.speed import as_before
from longlive_rag.takes.branch import backbone_of, branched, check_latents, copy_start, extended, kept, timeline_of
from longlive_rag.takes.folder import TakeClaim, check_take_folder, estimate_bytes, in_shell
from longlive_rag.takes.inspection import intact_frames
from longlive_rag.takes.record import Rights, TakeEvent, TakeRecord, TakeRun, read_record
from longlive_rag.timeline import Timeline
from longlive_rag.version import versions
from retrieval.files import in_words
from retrieval.store import DamagedError, LatentStore

if TYPE_CHECKING:
    from longlive_rag.pipeline import LongLiveRAGPipeline


@dataclass(frozen=True)
class Changes:
    """What may differ from when the take was begun.

    Attributes:
        backbone: where the take's backbone is; None looks for it by name.
        device, vae_device: devices to run on, and to decode latents.
        prompt_embeds: file of precomputed prompt embeddings.
        checkpoint, checkpoint_gib: None is the take's setting.
        license_policy: None is the policy in force; the take's own applies as well.
        pipe: the backbone, if it is already loaded.
        gpus: number of GPUs that make the rest together.
        exact: continue bit for bit even if the take stores no checkpoints, by rerunning all its commits.
    """

    backbone: str | None = None
    device: str = "auto"
    prompt_embeds: Path | None = None
    checkpoint: CheckpointMode | None = None
    checkpoint_gib: float | None = None
    license_policy: str | None = None
    pipe: LongLiveRAGPipeline | None = None
    vae_device: str = "auto"
    gpus: int = 1
    exact: bool = False


@dataclass(frozen=True)
class OpenTake:
    """A take on disk, checked, with its backbone found but not loaded.

    Attributes:
        folder: folder of the take.
        record: its record.
        request, timeline: what was requested.
        preset: preset of its backbone.
        blocks: number of intact stored blocks.
    """

    folder: Path
    record: TakeRecord
    request: TakeRequest
    timeline: Timeline
    preset: Preset
    blocks: int

    @property
    def is_whole(self) -> bool:
        """Whether it is finished and its video is complete."""
        finished = self.record.status == "finished" and self.blocks >= self.timeline.blocks
        return finished and intact_frames(self.folder, self.record) >= self.record.video.frames


def open_take(folder: Path, backbone: str | None = None) -> OpenTake:
    """Read and check a take.

    Raises:
        ValueError: if it is not a take, is damaged, or its backbone is not here.
    """
    record = read_record(folder)
    preset = backbone_of(record, folder, backbone)
    request = record.request
    check_policy(request.memory)
    try:
        store = check_latents(folder)
    except DamagedError as damage:
        repair = f"longlive-rag take repair {in_shell(folder)}"
        raise ValueError(f"{damage}; `{repair}` keeps the blocks before it") from damage
    if store is not None:
        _check_shapes(folder, store, request, preset)
    return OpenTake(folder, record, request, timeline_of(request, preset), preset, store.blocks if store else 0)


def _check_shapes(folder: Path, store: LatentStore, request: TakeRequest, preset: Preset) -> None:
    """Raise ValueError if the blocks don't have the sizes given by the request and the backbone."""
    geometry, found = read_geometry(preset, request.output, request.memory.encoder), store.record(0)
    wanted = (request.context.frames_per_block, *geometry.latent_shape)
    if found.latents.shape != wanted:
        raise ValueError(f"{folder}'s blocks are {found.latents.shape}, but its record and backbone make {wanted}")
    if request.context.memory_frames and (
        found.embeddings is None or found.embeddings.shape[1] != geometry.embedding_dim
    ):
        raise ValueError(f"{folder}'s blocks don't have the embeddings that its record requires")


@contextmanager
def resumed_take(take: OpenTake, changes: Changes, note: Note) -> Iterator[TakeJob]:
    """Continue a take to its requested length; the claim is held for the `with` body.

    Changes to memory that no block is left for, which older versions accepted, are dropped.

    Raises:
        ValueError: if that is not possible; the take is unchanged.
    """
    request = replace(take.request, memory=steered_before(take.request.memory, take.timeline, take.timeline.blocks))
    with _resumed(take, take.folder, request, "resumed", changes, note) as job:
        yield job


@contextmanager
def extended_take(
    take: OpenTake, seconds: float, prompt: str | None, changes: Changes, note: Note, cut: bool = False
) -> Iterator[TakeJob]:
    """Make a take longer, switching to `prompt` at its end if given; `cut` begins another shot with it.

    Raises:
        ValueError: if that is not possible; the take is unchanged.
    """
    request = extended(take.request, seconds, prompt, cut)
    asked_s, made_s = take.request.seconds, take.timeline.starts_at(take.blocks)
    with _resumed(take, take.folder, request, "extended", changes, note) as job:
        if made_s < asked_s:
            note(f"{take.folder} has {made_s:g} of the {asked_s:g} s that were asked for; the rest is made first")
        yield job


@contextmanager
def branched_take(
    take: OpenTake,
    at_seconds: float,
    folder: Path,
    changes: Changes,
    note: Note,
    prompt: str | None = None,
    seed: int | None = None,
    seconds: float | None = None,
    cut: bool = False,
) -> Iterator[TakeJob]:
    """Make another take that begins like this one, which is only read.

    Args:
        at_seconds: where to branch.
        folder: folder of the new take.
        prompt, seed, seconds, cut: see `branched`.

    Raises:
        ValueError: if that is not possible; nothing was written.
    """
    request, blocks = branched(take.request, take.timeline, take.blocks, at_seconds, prompt, seed, seconds, cut)
    check_take_folder(folder, request, hint="")
    begins = take.timeline.starts_at(blocks)
    note(f"the first {begins:g} s are copied from {take.folder}; the new part begins with the block there")

    def copy() -> None:
        copy_start(take.folder, take.record, folder, request, take.timeline, blocks)

    with _resumed(take, folder, request, "branched", changes, note, copy) as job:
        yield job


@contextmanager
def undone_take(
    take: OpenTake, blocks: int, seconds: float, folder: Path, changes: Changes, note: Note
) -> Iterator[TakeJob]:
    """Make another take from the first blocks of this one, which is only read, and nothing later.

    Args:
        blocks: number of blocks to keep; later cues and changes to memory are dropped.
        seconds: length of the new take.
        folder: folder of the new take.

    Raises:
        ValueError: if that is not possible; nothing was written.
    """
    request = undone(take, blocks, seconds)
    check_take_folder(folder, request, hint="")

    def copy() -> None:
        copy_start(take.folder, take.record, folder, request, take.timeline, blocks)

    with _resumed(take, folder, request, "branched", changes, note, copy) as job:
        yield job


def undone(take: OpenTake, blocks: int, seconds: float) -> TakeRequest:
    """The request for `undone_take`; FieldError if the take does not have that many blocks."""
    if not 0 < blocks <= take.blocks:
        raise FieldError("block", blocks, f"it must be from 1 to {take.blocks}, the number of blocks in the take")
    return replace(kept(take.request, take.timeline, blocks), seconds=max(seconds, take.request.seconds))


@contextmanager
def _resumed(
    take: OpenTake,
    folder: Path,
    request: TakeRequest,
    event: TakeEvent,
    changes: Changes,
    note: Note,
    prepare: Callable[[], None] | None = None,
) -> Iterator[TakeJob]:
    """Make what `request` asks for beyond what exists.

    Args:
        prepare: fills the folder once it is claimed and the backbone is loaded; None resumes in place.
    """
    from longlive_rag.takes.writer import TakeWriter

    checkpoints = take.record.checkpoint_config.changed(changes.checkpoint, changes.checkpoint_gib)
    timeline = timeline_of(request, take.preset)
    provenance = provenance_like(take, changes.license_policy)
    check_room(folder, request, timeline, take, checkpoints)
    with ExitStack() as held:
        claim = held.enter_context(TakeClaim(folder, resume=prepare is None))
        pipe, run = held.enter_context(reopened(take, request, changes, provenance, note))
        if prepare is not None:
            prepare()
            claim.store.adopt()
        writer = TakeWriter(folder, request, timeline, run, 0, checkpoints, claim, event, provenance)
        writer.kept_remembered()
        writer.checkpoints.reruns_all |= changes.exact
        yield TakeJob(pipe, request, writer)


@contextmanager
def reopened(
    take: OpenTake, request: TakeRequest, changes: Changes, provenance: Provenance, note: Note
) -> Iterator[tuple[Any, TakeRun]]:
    """Load the take's backbone as it was when the take was begun; notes what differs."""
    opening = opening_of(take, changes)
    with opened_backbone(take.preset, request, opening, provenance, note, changes.pipe) as (pipe, run):
        for difference in differences(take.record, run):
            note(f"{difference}; the last bits may differ from here on")
        yield pipe, run


def opening_of(take: OpenTake, changes: Changes) -> Opening:
    """How to reopen the take's backbone."""
    before = take.record.run
    opening = Opening(
        changes.device,
        before.dtype,  # type: ignore[arg-type]
        before.codec,  # type: ignore[arg-type]
        changes.prompt_embeds,
        before.decoder,  # type: ignore[arg-type]
        vae_device=changes.vae_device,
        vae_dtype=before.vae_dtype,
    )
    opening = replace(as_before(opening, before, take.preset, take.request), gpus=changes.gpus)
    return replace(opening, compile="off") if count_gpus(opening) > 1 == before.gpus else opening


def provenance_like(take: OpenTake, license_policy: str | None) -> Provenance:
    """Build the provenance from the rights of the backbone's files and the take's policy and labels.

    Raises:
        LicenseError: if the policy in force is stricter than the take's, or the take's does not allow one of the files.
        ValueError: if the take was made with other weights.
    """
    rights = take.record.rights or Rights.of(Provenance())
    refuse_stricter(pick_policy(license_policy), rights.license_policy, str(take.folder))
    visible = rights.visible_label is not None
    labels = Labels(rights.license_policy, rights.label == "deliverable", rights.phase, visible)
    provenance = provenance_of(take.preset, labels)
    refuse_other_weights(rights.files, provenance.files, take.folder)
    return provenance


def check_room(
    folder: Path, request: TakeRequest, timeline: Timeline, take: OpenTake, checkpoints: CheckpointConfig
) -> None:
    """Check that the disk has room for the rest of the take.

    Raises:
        ValueError: if it does not; says how much is needed and how much is free.
    """
    geometry = read_geometry(take.preset, request.output, request.memory.encoder)
    stored = stored_bytes(request, timeline, geometry, take.record.run.dtype, checkpoints)
    there = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0
    needed = max(0, estimate_bytes(request) + stored - there)
    where = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(where).free
    if free < needed:
        raise ValueError(f"no space left for {folder}: it needs about {in_words(needed)}, {in_words(free)} are free")


def differences(record: TakeRecord, run: TakeRun) -> list[str]:
    """List what differs from when the take was begun."""
    before, now = record.run, versions()
    pairs = [("device", before.device.removesuffix(":0"), run.device), ("threads", before.threads, run.threads)]
    libraries = ("torch", "diffusers", "faiss-cpu", "numpy")  # NumPy draws the noise
    pairs += [(name, record.versions.get(name), now.get(name)) for name in libraries]
    is_compiled = {True: "compiled", False: "not compiled"}
    pairs += [
        ("layers", is_compiled[before.compiled], is_compiled[run.compiled]),
        ("decoder", is_compiled[before.compiled_decoder], is_compiled[run.compiled_decoder]),
        ("attention", before.attention, run.attention),
    ]
    found = [f"the take was begun with {name} {old}, now it is {new}" for name, old, new in pairs if old != new]
    if before.gpus != run.gpus:
        found.append(f"the take was begun on {before.gpus} GPUs, now it is on {run.gpus}")
    if before.batch != run.batch:
        found.append(f"the take was begun in a batch of {before.batch}, now it is in a batch of {run.batch}")
    return found
