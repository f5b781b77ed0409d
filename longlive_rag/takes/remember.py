"""Memory from other takes: `--remember TAKE[@FROM-TO]` brings a character into a new one."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from backbone.errors import FieldError
from longlive_rag.config import OutputConfig
from longlive_rag.presets.geometry import Geometry, backbone_id
from longlive_rag.presets.preset import Preset
from longlive_rag.rights.policy import LicensePolicy, refuse_stricter
from longlive_rag.rights.provenance import together
from longlive_rag.rights.records import FileRights, unknown_weights
from longlive_rag.takes.folder import LATENTS
from longlive_rag.takes.record import TakeRecord, read_record
from longlive_rag.timecode import parse_timecode
from longlive_rag.timeline import Timeline
from retrieval.store import LatentStore

SPEC = re.compile(r"(?P<take>.+?)(?:@(?P<start>[0-9.:]+)-(?P<end>[0-9.:]+))?")


@dataclass(frozen=True)
class RememberedSpan:
    """Frames of another take.

    Attributes:
        take: folder of the take.
        frames: latent frames, numbered in that take.
    """

    take: Path
    frames: range


def find_remembered(
    specs: Sequence[str], preset: Preset, output: OutputConfig, geometry: Geometry, policy: LicensePolicy
) -> list[RememberedSpan]:
    """Find the frames named by `specs` and check them against this backbone and size, without loading a model.

    Raises:
        LicenseError: if a take was made under a weaker policy than `policy`.
        ValueError: if a take is missing or damaged, the span is outside it, or it has another backbone or size.
    """
    return [_find(spec, preset, output, geometry, policy) for spec in specs]


def read_remembered(
    spans: Sequence[RememberedSpan], prompt_unit: Callable[[str], NDArray[np.float32]] | None
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Read the latents [N, C, h, w] of all spans in order and, if requested, unit vectors [N, P] of their prompts."""
    latents, prompts = [], []
    for span in spans:
        store = LatentStore(span.take / LATENTS)
        latents.append(store.latents(span.frames))
        prompts += [store.record(frame // store.frames_per_block).prompt for frame in span.frames]
    units = None
    if prompt_unit is not None:
        by_prompt = {prompt: prompt_unit(prompt) for prompt in dict.fromkeys(prompts)}
        units = np.stack([by_prompt[prompt] for prompt in prompts])
    return np.concatenate(latents), units


def rights_of_remembered(spans: Sequence[RememberedSpan]) -> tuple[FileRights, ...]:
    """The weight files that takes were made with, and those of the takes that they remember in turn, each once."""
    found: tuple[FileRights, ...] = ()
    for take in dict.fromkeys(span.take for span in spans):
        rights = read_record(take).rights
        files = (*rights.files, *rights.remembered) if rights else ()  # an older version made it
        found = together(found, files or (unknown_weights(f"weights of {take.name}"),))
    return found


def _find(spec: str, preset: Preset, output: OutputConfig, geometry: Geometry, policy: LicensePolicy) -> RememberedSpan:
    match = SPEC.fullmatch(spec)
    if match is None:
        raise FieldError("remember", spec, "it must be TAKE or TAKE@FROM-TO, such as takes/first@2-6")
    take = Path(match["take"])
    if match["start"] is None and "@" in take.name and not take.exists():
        raise FieldError("remember", spec, "there is no such take; for a part of one, write TAKE@FROM-TO")
    record = read_record(take)
    run = record.run
    if run.backbone_id not in (None, backbone_id(preset.folder)):
        shown = f"{spec!r}, a take of another backbone ({run.backbone})"
        raise FieldError("remember", spec, f"this one is {preset.name}", shown)
    refuse_stricter(policy, record.rights.license_policy if record.rights else "any", f"{take} (to be remembered)")
    store = LatentStore(take / LATENTS)
    shape = store.record(0).latents.shape[1:]
    if shape != geometry.latent_shape:
        made = record.request.output
        shown = f"{spec!r}, a take of {made.width}x{made.height} pixels"
        raise FieldError("remember", spec, f"this one has {output.width}x{output.height}", shown)
    frames = _frames(spec, match, record, store, preset)
    for block in sorted({frame // store.frames_per_block for frame in frames}):
        store.record(block)
    return RememberedSpan(take, frames)


def _frames(spec: str, match: re.Match[str], record: TakeRecord, store: LatentStore, preset: Preset) -> range:
    fps = record.request.output.fps
    timeline = Timeline(record.request.pixel_frames, fps, store.frames_per_block, preset.temporal_factor)
    made = timeline.pixels_of(store.blocks).start  # without what the last block makes after the video's end
    if match["start"] is None:
        return range(timeline.latent_at(made - 1) + 1)
    try:
        start, end = (parse_timecode(match[name], fps) for name in ("start", "end"))
    except ValueError as error:
        raise FieldError("remember", spec, shown=f"{spec!r}: {error}") from error
    if not start < end or round(end * fps) > made:
        raise FieldError("remember", spec, f"that take lasts from 0 to {made / fps:g} s, and FROM must be before TO")
    frames = timeline.latents_between(start, end)
    return range(frames.start, min(frames.stop, store.frames))
