"""Turns an order of the API into a take request: maps field names, and checks what a backbone can do."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from backbone.errors import FieldError
from longlive_rag.config import CheckpointConfig, Cue, TakeRequest
from longlive_rag.generation.cues import Schedule, cue_blocks
from longlive_rag.presets.geometry import check_latents, read_geometry
from longlive_rag.presets.preset import Preset
from longlive_rag.serving import schema
from longlive_rag.sessions.asking import SETTINGS, build_request, read_settings
from longlive_rag.sessions.making import stored_bytes
from longlive_rag.sessions.opening import Opening
from longlive_rag.takes.branch import timeline_of
from longlive_rag.takes.folder import estimate_bytes
from longlive_rag.timecode import format_timecode

SERVERS = {
    "memory_enabled", "memory_remember", "memory_gpu_gib", "memory_host_gib",
    "output_height", "output_width", "output_upscale",
}  # fmt: skip
"""Settings that have their own field in the API, or that only the server decides."""
OFFERED = {each.key: each for each in SETTINGS if each.key not in SERVERS}
PARAMS = {setting.knob.name: f"settings.{setting.key}" for setting in OFFERED.values()} | {
    "enabled": "memory", "remember": "remember", "height": "size", "width": "size", "start_image": "input_reference",
}  # fmt: skip
"""Field of a `FieldError` -> field of the API."""
LARGEST = 4
"""A video may have at most this many times the backbone's own pixels, frames a second, steps and window."""
FORM_FIELD = re.compile(r"(\w+)(?:\[(\w+)\]|\[\]\[(\w+)\])?")
NESTED = ("cues", "remember", "settings", "input_reference")
DATA_URL = re.compile(r"data:image/(?:png|jpeg);base64,", re.IGNORECASE)


@dataclass(frozen=True)
class Limits:
    """Limits that hold for every key.

    Attributes:
        seconds: maximum length of one video.
    """

    seconds: float = 3600.0


def request_of(
    order: schema.TakeOrder, preset: Preset, limits: Limits, folders: Mapping[str, Path], picture: Path | None
) -> TakeRequest:
    """The take request for a new video.

    Args:
        folders: folders of the takes that it may remember, by video id.
        picture: the picture that it begins with.

    Raises:
        ValueError: naming the field, the value and what would be right.
    """
    check_length(order.seconds, limits)
    settings = read_settings(order.settings, OFFERED)
    if order.memory is not None:
        settings["memory_enabled"] = order.memory
    if order.size is not None:
        settings |= size_settings(order.size, preset)
    specs = []
    for span in order.remember:
        if span.video not in folders:
            raise FieldError("remember", span.video, "there is no such video")
        specs.append(f"{folders[span.video]}@{format_timecode(span.start)}-{format_timecode(span.end)}")
    if specs:
        settings["memory_remember"] = tuple(specs)
    cues = tuple(Cue(cue.seconds, cue.prompt, cue.cut) for cue in order.cues)
    start_image = str(picture) if picture is not None else None
    schedule = Schedule(order.prompt, cues, order.seconds)
    request = build_request(preset, schedule, order.seed, settings, start_image)
    check_effort(request, preset)
    cue_blocks(request, timeline_of(request, preset))
    return request


def check_length(seconds: float, limits: Limits) -> None:
    """Raise FieldError if a video would be longer than the server makes."""
    if seconds > limits.seconds:
        raise FieldError("seconds", seconds, f"this server makes videos of at most {limits.seconds:g} s")


def check_effort(request: TakeRequest, preset: Preset) -> None:
    """Raise FieldError for settings that cost much more than the backbone's own: quotas count seconds of video."""
    asked = (request.output.fps, len(request.sampler.denoising_steps), request.context.window_frames)
    own = (preset.output.fps, len(preset.sampler.denoising_steps), preset.context.window_frames)
    names = ("fps", "denoising_steps", "window_frames")
    for name, value, usual in zip(names, asked, own, strict=True):
        if value > LARGEST * usual:
            shown = f"of {value} steps" if name == "denoising_steps" else None
            raise FieldError(name, value, f"this server makes at most {LARGEST * usual}", shown)


def size_step(preset: Preset) -> tuple[int, int]:
    """(width, height) steps: the sides of a video must be multiples of these."""
    transformer, pixels = check_latents(preset.folder)
    _, height, width = transformer["patch_size"]
    return pixels * width * preset.output.upscale, pixels * height * preset.output.upscale


def size_of(request: TakeRequest) -> str:
    """Size of a request's video, such as 384x384."""
    output = request.output
    return f"{output.width * output.upscale}x{output.height * output.upscale}"


def size_settings(size: str, preset: Preset) -> dict[str, int]:
    """The settings for a video of this size.

    Raises:
        FieldError: if the backbone can't make it, naming the nearest size that it can.
    """
    width, height = map(int, size.split("x"))
    (step_x, step_y), output = size_step(preset), preset.output
    if width % step_x or height % step_y:
        sides = (max(step_x, round(width / step_x) * step_x), max(step_y, round(height / step_y) * step_y))
        wanted = f"its sides must be multiples of {step_x} and {step_y}, such as {sides[0]}x{sides[1]}"
        raise FieldError("size", size, wanted)
    most = LARGEST * output.width * output.height * output.upscale**2
    if width * height > most:
        raise FieldError("size", size, f"it may have at most {most} pixels")
    return {"output_width": width // output.upscale, "output_height": height // output.upscale}


def disk_bytes(request: TakeRequest, preset: Preset, opening: Opening, checkpoints: CheckpointConfig) -> int:
    """Approximate disk space that a take needs."""
    geometry = read_geometry(preset, request.output, request.memory.encoder)
    stored = stored_bytes(request, timeline_of(request, preset), geometry, opening.dtype, checkpoints)
    return estimate_bytes(request) + stored


def under_another_prompt(request: TakeRequest, prompt: str, seconds: float | None, picture: Path | None) -> TakeRequest:
    """The same request under another prompt, from its start. Its cues belong to the old prompt and are dropped."""
    length = request.seconds if seconds is None else seconds
    memory = replace(request.memory, steering=())
    start_image = str(picture) if picture is not None else None
    return replace(request, prompt=prompt, seconds=length, cues=(), reseeds=(), memory=memory, start_image=start_image)


def picture_in(reference: schema.ImageReference) -> bytes:
    """The bytes of a picture inside a message; FieldError if the URL points anywhere else."""
    found = DATA_URL.match(reference.image_url)
    if found is None:
        wanted = "send a file, or a URL of the kind data:image/png;base64,...; nothing is fetched from elsewhere"
        raise FieldError("input_reference", None, wanted, f"{reference.image_url[:40]!r}")
    try:
        return base64.b64decode(reference.image_url[found.end() :], validate=True)
    except binascii.Error as error:
        raise FieldError("input_reference", None, shown="not valid base64") from error


def order_of_form(fields: list[tuple[str, str]]) -> dict[str, Any]:
    """The fields of a form as a message: `cues[][seconds]`, `settings[memory_policy]`, or `cues` as JSON text.

    Raises:
        FieldError: if a field occurs twice or is not understood, or items of a list can't be told apart.
    """
    order: dict[str, Any] = {}
    columns: dict[str, dict[str, list[str]]] = {}
    for name, text in fields:
        found = FORM_FIELD.fullmatch(name)
        head, key, column = found.groups() if found else (name, None, None)
        if column is not None:
            columns.setdefault(head, {}).setdefault(column, []).append(text)
        elif key is not None and isinstance(order.setdefault(head, {}), dict):
            order[head][key] = _plain_of(text)
        elif head in order or found is None:
            raise FieldError(head, None, "send it once, or as JSON text", claim=f"{name!r} is not understood")
        else:
            order[head] = _plain_of(text) if head in NESTED else text
    for head, values in columns.items():
        if len({len(column) for column in values.values()}) != 1 or head in order:
            raise FieldError(head, None, "send it as JSON text", claim=f"the items of {head} can't be told apart")
        order[head] = [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
    return order


def _plain_of(text: str) -> Any:
    """The text parsed as JSON, or the text itself if it isn't JSON."""
    try:
        return from_json(text)
    except ValueError:
        return text
