"""Orders: the check before they are queued, and opening by a worker, from the start or where a lost one stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from backbone.errors import FieldError
from longlive_rag.config import Cue, TakeRequest
from longlive_rag.engines.engine import Branch, Extend, Make, Order, Resume, Undo
from longlive_rag.engines.messages import Begin, Given, Withdrawn
from longlive_rag.presets.precision import Precision
from longlive_rag.presets.preset import Preset, load_preset
from longlive_rag.rights.policy import pick_policy
from longlive_rag.sessions.making import NewTake, TakeJob, check_new_take, new_take
from longlive_rag.sessions.opening import Note, provenance_of
from longlive_rag.sessions.resuming import (
    Changes,
    OpenTake,
    branched_take,
    check_room,
    extended_take,
    open_take,
    provenance_like,
    resumed_take,
    undone,
    undone_take,
)
from longlive_rag.takes.branch import branched, extended, timeline_of
from longlive_rag.takes.folder import INPUTS, LATENTS, RECORD, check_take_folder
from longlive_rag.takes.record import read_record
from longlive_rag.timeline import Timeline
from retrieval.lock import check_free, is_being_written

if TYPE_CHECKING:
    from longlive_rag.pipeline import LongLiveRAGPipeline

PREDECESSOR_S = 60.0
"""A worker on a lost machine may hold its take's lock for some time after contact with it is lost."""


@dataclass(frozen=True)
class BackboneKey:
    """Identifies a loaded backbone."""

    folder: Path
    precision: Precision
    license_policy: str
    prompt_embeds: Path | None = None


Another = TypeVar("Another", Branch, Undo)
Loaded = Callable[[BackboneKey], "LongLiveRAGPipeline | None"]
"""The backbone, if it is loaded already."""


# ---- before it is queued ----


def checked(order: Order, license_policy: str | None) -> Order:
    """Check an order as far as configs and files tell; returns it with absolute folders.

    Raises:
        ValueError: naming the field, the value and what would be right; nothing was written or loaded.
    """
    order = replace(order, folder=order.folder.absolute())
    match order:
        case Make():
            if order.opening.device != "auto":
                raise FieldError("device", order.opening.device, "leave it out: the engine's workers have theirs")
            labels = replace(order.labels, license_policy=order.labels.license_policy or license_policy)
            order = replace(order, labels=labels)
            asked = _as_new_take(order, load_preset(order.backbone))
            provenance_of(asked.preset, asked.labels)
            check_new_take(asked)
        case Resume():
            take = _opened_to_continue(order, license_policy)
            if take.is_whole:
                raise FieldError("folder", str(order.folder), "it already has its requested length; extend or branch")
            _check_room(take, order.folder, take.request)
        case Extend():
            take = _opened_to_continue(order, license_policy)
            _check_room(take, order.folder, extended(take.request, order.seconds, order.prompt, order.cut))
        case Branch():
            order, take = _opened_source(order, license_policy)
            end = (order.at, order.prompt, order.seed, order.seconds, order.cut)
            request, _ = branched(take.request, take.timeline, take.blocks, *end)
            check_take_folder(order.folder, request, hint="")
            _check_room(take, order.folder, request)
        case Undo():
            order, take = _opened_source(order, license_policy)
            request = undone(take, order.kept_blocks, order.seconds)
            check_take_folder(order.folder, request, hint="")
            _check_room(take, order.folder, request)
    return order


def seconds_before(order: Order) -> float | None:
    """For an `Extend`, the take's requested length before it; None for other orders."""
    return read_record(order.folder).request.seconds if isinstance(order, Extend) else None


def _as_new_take(order: Make, preset: Preset) -> NewTake:
    return NewTake(
        preset, order.request, order.folder, opening=order.opening, labels=order.labels, checkpoints=order.checkpoints
    )


def _opened_to_continue(order: Resume | Extend, license_policy: str | None) -> OpenTake:
    take = open_take(order.folder, order.backbone)
    check_free(order.folder / LATENTS)
    provenance_like(take, license_policy)
    return take


def _opened_source(order: Another, license_policy: str | None) -> tuple[Another, OpenTake]:
    order = replace(order, source=order.source.absolute())
    take = open_take(order.source, order.backbone)
    provenance_like(take, license_policy)
    return order, take


def _check_room(take: OpenTake, folder: Path, request: TakeRequest) -> None:
    check_room(folder, request, timeline_of(request, take.preset), take, take.record.checkpoint_config)


# ---- in a worker ----


@contextmanager
def opened(begin: Begin, device: str, loaded: Loaded, note: Note) -> Iterator[TakeJob | OpenTake]:
    """The job of a session, or its take if a lost worker had just finished it.

    Raises:
        ValueError, OSError: if it can't be made.
    """
    order, take = begin.order, None
    if begin.begun:
        _wait_for_predecessor(order.folder)
        if (order.folder / RECORD).is_file():
            take = open_take(order.folder, order.backbone)
        else:
            for name in INPUTS:  # these are written before the record
                (order.folder / name).unlink(missing_ok=True)
    if take is not None and take.request.seconds != begin.seconds_before:
        if take.is_whole:
            yield take
            return
        order = Resume(order.folder, order.backbone)
    with _job(order, begin, take, device, loaded, note) as job:
        yield job


def _job(
    order: Order, begin: Begin, take: OpenTake | None, device: str, loaded: Loaded, note: Note
) -> AbstractContextManager[TakeJob]:
    if isinstance(order, Make):
        preset = load_preset(order.backbone)
        opening = replace(order.opening, device=device)
        policy = pick_policy(order.labels.license_policy)
        pipe = loaded(BackboneKey(preset.folder, opening.precision, policy, opening.prompt_embeds))
        return new_take(replace(_as_new_take(order, preset), opening=opening, pipe=pipe), note)
    take = take or open_take(order.source if isinstance(order, Branch | Undo) else order.folder, order.backbone)
    rights = take.record.rights
    embeds = begin.order.opening.prompt_embeds if isinstance(begin.order, Make) else None
    stated = begin.order.labels.license_policy if isinstance(begin.order, Make) else begin.license_policy
    allowed = rights.license_policy if rights else "any"
    key = BackboneKey(take.preset.folder, take.record.run.precision, allowed, embeds)
    pipe = loaded(key)
    changes = Changes(order.backbone, device, embeds, license_policy=stated, pipe=pipe, exact=True)
    match order:
        case Extend():
            return extended_take(take, order.seconds, order.prompt, changes, note, order.cut)
        case Branch():
            end = (order.prompt, order.seed, order.seconds, order.cut)
            return branched_take(take, order.at, order.folder, changes, note, *end)
        case Undo():
            return undone_take(take, order.kept_blocks, order.seconds, order.folder, changes, note)
    return resumed_take(take, changes, note)


def _wait_for_predecessor(folder: Path) -> None:
    deadline = time.monotonic() + PREDECESSOR_S
    while is_being_written(folder / LATENTS) and time.monotonic() < deadline:
        time.sleep(0.2)


def with_given(request: TakeRequest, timeline: Timeline, given: Sequence[Given]) -> TakeRequest:
    """A request with the directions that were given live added, unless it has them already.

    Raises:
        ValueError: if it can't be.
    """
    cues = {timeline.cue_block(cue.seconds): cue for cue in request.cues}
    steering = list(request.memory.steering)
    prompt = request.prompt
    for each in given:
        if isinstance(each, Cue) and each.seconds:
            cues[timeline.cue_block(each.seconds)] = each
        elif isinstance(each, Cue):
            prompt = each.prompt
        elif isinstance(each, Withdrawn):
            cues.pop(timeline.cue_block(each.seconds), None)
        elif each not in steering:
            steering.append(each)
    memory = replace(request.memory, steering=tuple(steering))
    return replace(request, prompt=prompt, cues=tuple(cues[block] for block in sorted(cues)), memory=memory)
