"""Building a request from a user's settings and the backbone's preset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, get_type_hints

from backbone.errors import FieldError, Name
from backbone.knobs import Knob, knobs_of
from longlive_rag.config import PARTS, TakeRequest
from longlive_rag.generation.cues import Schedule
from longlive_rag.presets.preset import Preset
from longlive_rag.timecode import parse_duration


@dataclass(frozen=True)
class Setting:
    """A knob of one part of the request; its default is the backbone's preset."""

    part: str
    knob: Knob

    @property
    def key(self) -> str:
        """Its key in a flat mapping of settings."""
        return f"{self.part}_{self.knob.name}"


SETTINGS = tuple(Setting(part, knob) for part, config in PARTS.items() for knob in knobs_of(config).values())


IN_SETTINGS = "settings"
"""Where an unknown key is, in the error about it."""


def read_settings(given: Mapping[str, Any], offered: Mapping[str, Setting]) -> dict[str, Any]:
    """Convert settings from plain JSON data to the types of their fields.

    Args:
        given: values by the settings' keys.
        offered: allowed settings, by key.

    Raises:
        FieldError: if a key is unknown or a value is invalid; names the key, or the field by its knob's name.
    """
    from longlive_rag.documents import parse, refuse_unknown  # pydantic is slow to import and not needed for options

    refuse_unknown(given, offered, IN_SETTINGS)
    read = {}
    for key, value in given.items():
        setting = offered[key]
        hint = get_type_hints(PARTS[setting.part])[setting.knob.name]
        try:
            if value is not None:
                setting.knob.check(value)
                value = parse(value, hint, setting.knob.name)
            read[key] = value
        except FieldError as error:
            wanted = error.wanted or str(error).removeprefix(f"{setting.knob.name}: ")
            raise FieldError(setting.knob.name, value, wanted) from error
    return read


def seconds_of(length: str, fps: int, field: str = "seconds") -> float:
    """Parse a length of time as a user writes it.

    Args:
        length: a number of seconds or a timecode.
        fps: frames per second of the take, for SMPTE timecodes.
        field: what it is the length of.

    Raises:
        FieldError: if it is neither.
    """
    try:
        return parse_duration(length, fps)
    except ValueError as error:
        raise FieldError(field, length, claim=(Name(field), f": {error}")) from error


def build_request(
    preset: Preset,
    schedule: Schedule,
    seed: int,
    settings: dict[str, Any],
    start_image: str | None = None,
) -> TakeRequest:
    """Build a request from the user's settings, with the preset for everything else.

    Raises:
        ValueError: if it is invalid; names the field, the value and what is expected.
    """
    changes: dict[str, dict[str, Any]] = {part: {} for part in PARTS}
    for setting in SETTINGS:
        if settings.get(setting.key) not in (None, ()):
            if setting.knob.needs_memory and settings.get("memory_enabled") is False:
                claim = (Name(setting.knob.name), " is given, but memory is off (--no-memory)")
                raise FieldError(setting.knob.name, settings[setting.key], "drop one of them", claim=claim)
            changes[setting.part][setting.knob.name] = settings[setting.key]
    if not changes["memory"].get("enabled", preset.memory.enabled):
        changes["context"]["memory_frames"] = 0
    changes["memory"]["steering"] = schedule.steering
    opens = changes["memory"].get("establish", preset.memory.establish)
    if "new_view" in changes["memory"] and not opens and all(steer.is_span for steer in schedule.steering):
        claim = (Name("new_view"), " is given, but memory admits every frame")
        wanted = ("add ", Name("establish"), " SECONDS")
        raise FieldError("new_view", changes["memory"]["new_view"], wanted, claim=claim)
    return TakeRequest(
        prompt=schedule.prompt,
        seconds=schedule.seconds,
        cues=schedule.cues,
        seed=seed,
        start_image=start_image,
        **{part: replace(getattr(preset, part), **changes[part]) for part in PARTS},
    )
