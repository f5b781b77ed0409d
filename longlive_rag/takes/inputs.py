"""What a take begins with beside its request: its start image, and frames of other takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from longlive_rag.config import TakeRequest
from longlive_rag.generation.rollout_memory import RememberedFrames
from longlive_rag.media.start_image import StartImage, read_start_image
from longlive_rag.presets.geometry import read_geometry
from longlive_rag.presets.preset import Preset
from longlive_rag.rights.policy import LicensePolicy
from longlive_rag.takes.remember import find_remembered, read_remembered, rights_of_remembered
from longlive_rag.takes.resume import TakeStore
from retrieval.store import BlockStore


def shared_inputs(
    request: TakeRequest,
    stores: Sequence[BlockStore],
    remembered: RememberedFrames | None,
    find: Callable[[], RememberedFrames],
) -> tuple[StartImage | None, RememberedFrames | None]:
    """The start image and the frames of other takes that all takes of a batch share, and each keeps.

    A take that has already begun uses its own copies; its start image is in its first block and not returned.

    Args:
        stores: the takes' stores, if any.
        remembered: frames that take the place of those named by the request.
        find: finds the frames named by the request.
    """
    takes = [store for store in stores if isinstance(store, TakeStore)]
    if request.memory.remember and remembered is None:
        remembered = next(filter(None, (take.kept_remembered() for take in takes)), None) or find()
    if stores and stores[0].blocks:
        return None, remembered
    picture = next(filter(None, (take.kept_start_image() for take in takes)), None)
    if request.start_image is not None and picture is None:
        picture = read_start_image(Path(request.start_image), request.output)
    for take in takes:
        take.keep_inputs(picture, remembered)
    return picture, remembered


def remembered_frames(
    request: TakeRequest, preset: Preset, policy: LicensePolicy, prompt_unit: Callable[[str], NDArray[np.float32]]
) -> RememberedFrames:
    """Read the frames of other takes that a request names.

    Args:
        prompt_unit: embeds a prompt as a unit vector [P], if prompts are part of memory's search.

    Raises:
        LicenseError, ValueError: as `find_remembered`.
    """
    geometry = read_geometry(preset, request.output, request.memory.encoder)
    spans = find_remembered(request.memory.remember, preset, request.output, geometry, policy)
    latents, units = read_remembered(spans, prompt_unit if request.memory.prompt_weight > 0 else None)
    return RememberedFrames(latents, units, rights_of_remembered(spans))
