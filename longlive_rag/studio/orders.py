"""Turns the page's requests into orders for the engine; a refusal names the field."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from backbone.errors import FieldError
from longlive_rag.config import Cue, TakeRequest
from longlive_rag.engines.engine import Branch, Extend, Make, Resume, Undo
from longlive_rag.environment import plugins
from longlive_rag.generation.cues import Schedule
from longlive_rag.presets.precision import pick_precision
from longlive_rag.presets.preset import Preset
from longlive_rag.sessions.asking import SETTINGS, Setting, build_request, read_settings, seconds_of
from longlive_rag.sessions.resuming import OpenTake, open_take
from longlive_rag.studio import schema
from longlive_rag.studio.library import Takes
from longlive_rag.takes.folder import START_IMAGE
from longlive_rag.takes.record import TakeRecord
from longlive_rag.timecode import format_timecode

OFFERED = {each.key: each for each in SETTINGS if each.knob.name not in ("enabled", "remember")}
KINDS = {int: "int", float: "float", bool: "bool", str: "text", tuple[int, ...]: "steps"}
SLUG_WORDS = 6
SMALL_WORDS = {"a", "an", "the", "in", "on", "of", "at", "and", "is", "to"}


# ---- settings ----


def knob_facts(preset: Preset) -> list[schema.KnobFacts]:
    """The settings of a new take, with the backbone's defaults."""
    return [_knob_facts(setting, getattr(preset, setting.part)) for setting in OFFERED.values()]


def _knob_facts(setting: Setting, part: Any) -> schema.KnobFacts:
    knob = setting.knob
    choices = sorted(plugins("policy")) if setting.key == "memory_policy" else list(knob.choices)
    kind = KINDS.get(knob.type, "spans" if knob.repeats else "span")
    default = getattr(part, knob.name)
    return schema.KnobFacts(
        key=setting.key,
        part=setting.part,
        name=knob.name,
        flag=knob.flag,
        help=knob.help,
        type="choice" if choices else kind,  # type: ignore[arg-type]
        choices=choices or None,
        default=list(default) if isinstance(default, tuple) else default,
        at_least=knob.at_least,
        above=knob.above,
        at_most=knob.at_most,
        below=knob.below,
        unit=knob.unit,
    )


# ---- orders ----


def new_order(message: schema.NewTakeMessage, preset: Preset, takes: Takes, start_image: Path | None) -> Make:
    """The order for a new take.

    Raises:
        ValueError: naming the field, the value and what would be right.
        UnknownTakeError: if a take that is to be remembered doesn't exist.
    """
    settings = read_settings(message.settings, OFFERED)
    if message.memory is not None:
        settings["memory_enabled"] = message.memory
    specs = []
    for span in message.remember:
        start, end = format_timecode(span.start), format_timecode(span.end)
        specs.append(f"{takes.folder(span.take)}@{start}-{end}")
    if specs:
        settings["memory_remember"] = tuple(specs)
    cues = tuple(Cue(cue.seconds, cue.prompt, cue.cut) for cue in message.cues)
    seconds = seconds_of(message.seconds, settings.get("output_fps") or preset.output.fps)
    schedule = Schedule(message.prompt, cues, seconds)
    picture = str(start_image) if start_image is not None else None
    request = build_request(preset, schedule, message.seed, settings, picture)
    return Make(preset.name, request, takes.free_folder(slug(request.prompt)))


def twin_order(record: TakeRecord, folder: Path, preset: Preset, takes: Takes) -> Make:
    """The order for the same request and noise without memory."""
    request = record.request
    memory = replace(request.memory, enabled=False, pin=(), exclude=(), remember=(), steering=())
    memory = replace(memory, anchor=None, admit_above=None, spread=0)
    picture = str(folder / START_IMAGE) if (folder / START_IMAGE).is_file() else None
    context = replace(request.context, memory_frames=0)
    twin = replace(request, memory=memory, context=context, start_image=picture)
    return Make(preset.name, twin, takes.free_folder(f"{folder.name}-native"))


def slug(prompt: str) -> str:
    """A folder name made of a prompt's first words."""
    words = [word for word in re.findall(r"[a-z0-9]+", prompt.lower()) if word not in SMALL_WORDS]
    return "-".join(words[:SLUG_WORDS])[:60] or "take"


@dataclass(frozen=True)
class GoingOn:
    """Orders that continue a take on disk; call them when the take isn't being made.

    Attributes:
        source: folder of the take.
        target: folder of the new take, if the order makes one.
        backbone: where the take's backbone is; None looks for it under its name.
    """

    source: Path
    target: Path
    backbone: str | None

    def resumed(self) -> Resume:
        """Make the rest of the take; ValueError if there is none."""
        take = open_take(self.source, self.backbone)
        if take.is_whole:
            raise ValueError(f"{take.folder.name} already has its requested length; extend it, or branch from it")
        return Resume(self.source, self.backbone)

    def extended(self, message: schema.Extend) -> Extend:
        """Make the take longer."""
        return Extend(self.source, message.seconds, message.prompt, message.cut, self.backbone)

    def undone(self, block: int, seconds: float | None) -> Undo:
        """Keep `block` blocks, and go on from there; `seconds` None is the take's length. FieldError as `branched`."""
        if seconds is None:
            take = open_take(self.source, self.backbone)
            _begins_at(take, block)
            seconds = take.request.seconds
        return Undo(self.source, self.target, block, seconds, self.backbone)

    def branched(self, message: schema.BranchAt) -> Branch:
        """Make another ending from a block on; FieldError if the take has too few blocks, or ends there."""
        second = _begins_at(open_take(self.source, self.backbone), message.block)
        return Branch(self.source, self.target, second, message.prompt, None, message.seed, message.cut, self.backbone)


def _begins_at(take: OpenTake, block: int) -> float:
    if not 0 < block <= take.blocks:
        raise FieldError("block", block, f"it must be from 1 to {take.blocks}, as many as the take has")
    second = take.timeline.starts_at(block)
    if second >= take.request.seconds:
        claim = f"after {second:g} s nothing of this take is left to make"
        raise FieldError("block", block, "choose an earlier block, or extend the take", claim=claim)
    return second


# ---- how to make it again ----


def command_of(record: TakeRecord, name: str, parent: str | None, preset: Preset | None) -> str:
    """The command that makes a take again.

    Args:
        name: path of the take in the user's shell.
        parent: the same for the take that it was branched from.
        preset: preset of its backbone, if available: settings that equal its defaults are left out.
    """
    request = record.request
    if request.reseeds and parent is not None:
        last = request.reseeds[-1]
        words = [cue for cue in request.cues if cue.seconds == last.seconds]
        parts = ["branch", parent, "--at", _exact(last.seconds), "--seed", str(last.seed), "-o", f"{name}-again"]
        parts += ["--cut" if words[0].cut else "--prompt", words[0].prompt] if words else []
        return shlex.join(["longlive-rag", *parts])
    parts = ["generate", "--cues", name, "-o", f"{name}-again", "--seed", str(request.seed)]
    parts += ["--backbone", _backbone_in_words(record, preset)]
    kind = "cuda" if record.run.device.startswith("cuda") else "cpu"
    parts += ["--dtype", record.run.dtype] if record.run.dtype != pick_precision("auto", kind).dtype else []
    parts += ["--decoder", record.run.decoder] if record.run.decoder != "full" else []
    parts += ["--compile", "on"] if record.run.compiled else []
    parts += ["--attention", record.run.attention] if record.run.attention != "native" else []
    parts += ["--start-image", f"{name}/{START_IMAGE}"] if request.start_image is not None else []
    for spec in request.memory.remember:
        parts += ["--remember", f"{Path(name).parent}/{Path(spec).name}" if Path(spec).is_absolute() else spec]
    return shlex.join(["longlive-rag", *parts, *_flags(request, preset)])


def _backbone_in_words(record: TakeRecord, preset: Preset | None) -> str:
    """The backbone's name or folder as given to the studio; of a full path, only the last name."""
    name = record.run.backbone if preset is None else preset.name
    return Path(name).name if Path(name).is_absolute() else name


def _flags(request: TakeRequest, preset: Preset | None) -> list[str]:
    """Options for every setting that isn't the default."""
    flags = []
    for setting in OFFERED.values():
        knob, part = setting.knob, getattr(request, setting.part)
        value = getattr(part, knob.name)
        default = knob.default if preset is None else getattr(getattr(preset, setting.part), knob.name)
        if value == default or knob.repeats or (knob.needs_memory and not request.memory.enabled):
            continue
        if knob.type is bool:
            flags.append(knob.flag if value else knob.flag.replace("--", "--no-", 1))
        elif isinstance(value, tuple):
            between = "," if knob.type == tuple[int, ...] else "-"
            flags += [knob.flag, between.join(map(_exact, value))]
        elif value is not None:
            flags += [knob.flag, _exact(value) if isinstance(value, float) else str(value)]
        elif knob.word is not None:
            flags += [knob.flag, knob.word]
    for verb in ("pin", "exclude"):
        for start, end in getattr(request.memory, verb):
            flags += [f"--{verb}", f"{_exact(start)}-{_exact(end)}"]
    return flags if request.memory.enabled else ["--no-memory", *flags]


def _exact(value: float) -> str:
    """Format a number so that it parses back to the same one; 6 digits would move a frame of a long take."""
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def python_of(record: TakeRecord, name: str, preset: Preset | None) -> str:
    """The lines of Python that make a take again; see `command_of`."""
    return (
        "from pathlib import Path\n\n"
        "from longlive_rag import VideoWriter, load_pipeline, read_record\n\n"
        f"request = read_record(Path({name!r})).request\n"
        f"pipe = load_pipeline({_backbone_in_words(record, preset)!r}, dtype={record.run.dtype!r}, "
        f"vae_dtype={record.run.vae_dtype!r})\n"
        f"{'' if record.run.decoder == 'full' else f'pipe.decoder = {record.run.decoder!r}' + chr(10)}"
        f"with VideoWriter('again.mp4', width={record.request.output.width}, height={record.request.output.height}, "
        f"fps={record.request.output.fps}, upscale={record.request.output.upscale}) as video:\n"
        "    for block in pipe.stream(request):\n"
        "        video.write(block.pixels[0].numpy())\n"
    )
