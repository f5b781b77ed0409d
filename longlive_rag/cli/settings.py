"""Options that set fields of a request, and the request they make."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import click

from longlive_rag.config import Cue, TakeRequest
from longlive_rag.generation.cues import Schedule
from longlive_rag.presets.preset import Preset
from longlive_rag.timecode import parse_timecode
from retrieval.budgets import PAGE_PRECISIONS, PageBudgets, PagePrecision

Decorator = Callable[[Callable[..., None]], Callable[..., None]]


class Steps(click.ParamType):
    """Numbers with commas between them."""

    name = "n,n,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(int(step) for step in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is no list of whole numbers such as 1000,750,500,250", param, ctx)


class Span(click.ParamType):
    """Two timecodes with a dash between them."""

    name = "from-to"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, float]:
        if isinstance(value, tuple):
            return value
        try:
            start, end = value.split("-")
            return parse_timecode(start), parse_timecode(end)
        except ValueError:
            self.fail(f"{value!r} is no span of seconds such as 2-3.5 or 0:02-0:03.5", param, ctx)


class Gibibytes(click.ParamType):
    """A number of GiB, or a number with a unit."""

    name = "gib"
    UNITS: ClassVar[dict[str, int]] = {"": 2**30, "GiB": 2**30, "MiB": 2**20, "GB": 10**9, "MB": 10**6}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        number, unit = re.fullmatch(r"(-?[0-9.]*)\s*(.*)", value, re.DOTALL).groups()  # type: ignore[union-attr]
        try:
            return float(number) * self.UNITS[unit] / 2**30
        except (KeyError, ValueError):
            self.fail(f"{value!r} is no size such as 4 (GiB), 512MiB or 8GB", param, ctx)


class Switched(click.ParamType):
    """A number of seconds above 0; `false` (of an arms file) is 0, off."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            seconds = 0.0 if value in ("False", "off") else float(value)
        except ValueError:
            self.fail(f"{value!r} is no number of seconds", param, ctx)
        return seconds


@dataclass(frozen=True)
class Setting:
    """An option that sets one field of the request; left out, the backbone's preset stands.

    `off` is the help of a second option, --no-..., that sets the field to 0; `was` is the option's old name.
    """

    flag: str
    part: str
    field: str
    type: Any
    help: str
    repeats: bool = False
    off: str | None = None
    was: str | None = None

    @property
    def key(self) -> str:
        return f"{self.part}_{self.field}"


SETTINGS = (
    Setting("--window", "context", "window_frames", int, "Latent frames one attention may see."),
    Setting("--sink", "context", "sink_frames", int, "First latent frames, kept in attention for ever."),
    Setting("--memory-frames", "context", "memory_frames", int, "Past frames brought back for each block (K)."),
    Setting(
        "--recency-guard",
        "context",
        "recency_guard_frames",
        int,
        "Newest past frames that can't be brought back yet.",
    ),
    Setting("--frames-per-block", "context", "frames_per_block", int, "Latent frames denoised together."),
    Setting(
        "--rope",
        "context",
        "rope",
        click.Choice(["relative", "absolute"]),
        "Positions: slot in the cache or true frame.",
    ),
    Setting(
        "--encoder",
        "memory",
        "encoder",
        click.Choice(["autoencoder", "mean_pool"]),
        "What memory compares frames by.",
    ),
    Setting(
        "--page-gpu-gib",
        "memory",
        "gpu_gib",
        Gibibytes(),
        "GPU memory that the page cache may take.",
        was="--memory-gpu-gib",
    ),
    Setting(
        "--page-host-gib",
        "memory",
        "host_gib",
        Gibibytes(),
        "Host memory that the page cache may take.",
        was="--memory-host-gib",
    ),
    Setting(
        "--page-precision",
        "memory",
        "page_precision",
        click.Choice(PAGE_PRECISIONS),
        "Of pages in host memory.",
    ),
    Setting(
        "--stale-pages",
        "memory",
        "stale_pages",
        click.Choice(["remake", "keep"]),
        "Pages made before the last cue: make again, or keep.",
    ),
    Setting("--exclude", "memory", "exclude", Span(), "Seconds that are never remembered; repeat for more.", True),
    Setting("--pin", "memory", "pin", Span(), "Seconds that are remembered first; repeat for more.", True),
    Setting("--anchor", "memory", "anchor", Span(), "Seconds that show what is good, for --admit-above."),
    Setting(
        "--admit-above",
        "memory",
        "admit_above",
        float,
        "Frames less similar (cosine) to all of --anchor are not remembered.",
    ),
    Setting("--prompt-weight", "memory", "prompt_weight", float, "Share of the prompt in what memory compares."),
    Setting("--diversity", "memory", "diversity", float, "0: the most similar frames; towards 1: unlike each other."),
    Setting(
        "--spread",
        "memory",
        "spread",
        int,
        "Of memory's frames, so many are spread evenly over the past.",
    ),
    Setting(
        "--establish",
        "memory",
        "establish",
        Switched(),
        "Memory keeps first showings: this many seconds of each new view.",
        off="Every past frame can be brought back, not first showings only.",
    ),
    Setting(
        "--new-view",
        "memory",
        "new_view",
        float,
        "For --establish: a view is new if it is less similar (cosine) than this to all that memory holds.",
    ),
    Setting("--policy", "memory", "policy", str, "Which past frames are picked; 'plugins' lists what is installed."),
    Setting(
        "--remember",
        "memory",
        "remember",
        str,
        "TAKE or TAKE@FROM-TO: another take's frames, remembered from the start; repeat for more.",
        True,
    ),
    Setting("--steps", "sampler", "denoising_steps", Steps(), "Denoising steps, such as 1000,750,500,250."),
    Setting("--shift", "sampler", "timestep_shift", float, "Shift of the noise schedule."),
    Setting("--train-timesteps", "sampler", "num_train_timesteps", int, "Timesteps the backbone was trained with."),
    Setting(
        "--context-timestep",
        "sampler",
        "context_timestep",
        float,
        "Timestep at which finished frames are kept.",
    ),
    Setting("--height", "output", "height", int, "Pixels the backbone makes."),
    Setting("--width", "output", "width", int, "Pixels the backbone makes."),
    Setting("--fps", "output", "fps", int, "Frames a second of the video."),
    Setting("--upscale", "output", "upscale", int, "Each side of the video is this many times the backbone's."),
)
OF_MEMORY = ("memory_frames", "recency_guard_frames")  # of the context
DEFAULT_SECONDS = 30.0
POLICIES = ["any", "research", "commercial"]
POLICY = click.option(
    "--license-policy",
    type=click.Choice(POLICIES),
    help="Refuse weights whose recorded terms don't allow this. Default: LONGLIVE_RAG_LICENSE_POLICY, else the config "
    "file, else any.",
)
NAMED_LIKE_FIELDS = (
    "seconds", "seed", "device", "dtype", "codec", "phase", "at", "checkpoint", "checkpoint_gib", "start_image",
    "cues_line", "switch_every", "lora_alpha", "use", "source", "by", "expires", "horizons", "seeds", "arms",
    "embedders", "embed_every", "scenario", "workers", "batch", "address", "engine",
)  # fmt: skip
FLAGS = {
    **{field: f"--{field.replace('_', '-')}" for field in NAMED_LIKE_FIELDS},
    **{setting.field: setting.flag for setting in SETTINGS},
    **{"looked_up_on": "--on", "embedder": "--embedders"},
}
"""Field of a `FieldError` -> the option that sets it, of all commands."""


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of `SETTINGS`, in their order."""
    for setting in reversed(SETTINGS):
        more: dict[str, Any] = {"multiple": True} if setting.repeats else {"default": None}
        if setting.off is not None:
            name = setting.flag.replace("--", "--no-", 1)
            command = click.option(name, setting.key, flag_value=0.0, type=setting.type, help=setting.off)(command)
        add = named_option(setting.flag, setting.key, setting.was, type=setting.type, help=setting.help, **more)
        command = add(command)
    return command


def named_option(flag: str, key: str, was: str | None = None, **attributes: Any) -> Decorator:
    """`click.option`; its old name, if it has one, works for one more release, hidden from --help, with a note.

    Where both names are typed, the new one counts.
    """
    if was is None:
        return click.option(flag, key, **attributes)

    def note(context: click.Context, parameter: click.Parameter, value: Any) -> None:
        if value is not None:
            click.echo(f"Note: {was} {now(flag)}.", err=True)
            context.meta[was] = value

    def either(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
        typed = context.get_parameter_source(key) is click.core.ParameterSource.COMMANDLINE
        return value if typed else context.meta.get(was, value)

    new = click.option(flag, key, callback=either, **attributes)
    old = click.option(was, f"old_{key}", type=attributes["type"], hidden=True, expose_value=False, callback=note)
    return lambda command: old(new(command))


def now(name: str) -> str:
    """What is said after an old name."""
    return f"is now {name}; the old name works for one more release"


def with_page_budgets(gpu: str = "4", host: str = "8") -> Decorator:
    """Give a command the options about the page cache: `gpu_gib`, `host_gib` and `page_precision`.

    Args:
        gpu, host: their defaults.
    """
    defaults = {"gpu_gib": gpu, "host_gib": host, "page_precision": "same"}
    pages = [setting for setting in SETTINGS if setting.field in defaults]

    def add(command: Callable[..., None]) -> Callable[..., None]:
        for each in reversed(pages):
            more: dict[str, Any] = {"default": defaults[each.field], "show_default": True}
            command = named_option(each.flag, each.field, each.was, type=each.type, help=each.help, **more)(command)
        return command

    return add


def with_checkpoints(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options about going on with a take."""
    options = (
        click.option(
            "--checkpoint",
            type=click.Choice(["exact", "light"]),
            help="Going on with the take later is exact (checkpoints are stored) or light (nothing is, and what "
            "follows is near to, not equal to, an uninterrupted take). Default: exact, or what the take was made with.",
        ),
        click.option("--checkpoint-gib", type=Gibibytes(), help="What checkpoints may take of the disk. Default: 4."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def with_rights(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options about rights and labels."""
    options = (
        POLICY,
        click.option("--deliverable", is_flag=True, help="Label the take 'deliverable' instead of 'reference'."),
        click.option("--phase", metavar="WORDS", help="Production phase, for the record: previs, final ..."),
        click.option("--label", "show_label", is_flag=True, help="Show 'AI generated' and the label in the picture."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def with_cue_files(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that read cues from a file."""
    options = (
        click.option(
            "--cues",
            "cue_file",
            type=click.Path(path_type=Path),
            metavar="FILE|TAKE",
            help="Cues from a file (.txt, .jsonl, .json, .yaml) or from a take; PROMPT may be in it.",
        ),
        click.option("--cues-line", type=int, help="Which line of a .jsonl file, from 1."),
        click.option("--switch-every", type=float, help="Seconds between cues that have no times. Default: even."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@dataclass(frozen=True)
class CueSource:
    """Where cues are read: the options of `with_cue_files`."""

    file: Path | None = None
    line: int | None = None
    switch_every: float | None = None


def build_schedule(
    preset: Preset,
    prompt: str | None,
    seconds: float | None,
    cues: tuple[tuple[str, str], ...],
    source: CueSource,
    settings: dict[str, Any],
) -> Schedule:
    """What is seen when, by the options or the cue file.

    Raises:
        ValueError: naming the option or the file's line, the value and what would be right.
    """
    fps = settings.get("output_fps") or preset.output.fps
    if source.file is None:
        for flag, value in (("--cues-line", source.line), ("--switch-every", source.switch_every)):
            if value is not None:
                raise ValueError(f"{flag} is {value:g}, but there is no file of cues; add --cues FILE")
        if prompt is None:
            raise ValueError("PROMPT is missing; say what is to be seen, or add --cues FILE")
        timed = tuple(Cue(_cue_seconds(number, at, fps), words) for number, (at, words) in enumerate(cues, start=1))
        return Schedule(prompt, timed, DEFAULT_SECONDS if seconds is None else seconds)
    if cues:
        raise ValueError("--cue and --cues are both given; put all cues into the file")
    from longlive_rag.takes.cue_files import read_cues

    file = read_cues(source.file, fps, source.line)
    if seconds is None and file.seconds is None and source.switch_every is None:
        seconds = DEFAULT_SECONDS
    return file.schedule(prompt=prompt, seconds=seconds, switch_every=source.switch_every)


def _cue_seconds(number: int, at: str, fps: int) -> float:
    try:
        return parse_timecode(at, fps)
    except ValueError as error:
        raise ValueError(f"cue {number}: {error}") from error


def page_budgets(gpu_gib: float, host_gib: float, precision: PagePrecision) -> PageBudgets:
    """What the options about pages say; ValueError if a size is below 0."""
    if min(gpu_gib, host_gib) < 0:
        raise ValueError("page budgets must be 0 or more")
    return PageBudgets(gpu_bytes=int(gpu_gib * 2**30), host_bytes=int(host_gib * 2**30), precision=precision)


def build_request(
    preset: Preset,
    schedule: Schedule,
    seed: int,
    memory: bool | None,
    settings: dict[str, Any],
    start_image: str | None = None,
) -> TakeRequest:
    """The request: what the user said, and the preset for the rest.

    Raises:
        ValueError: naming the field, the value and what would be right.
    """
    changes: dict[str, dict[str, Any]] = {"context": {}, "sampler": {}, "memory": {}, "output": {}}
    for setting in SETTINGS:
        if settings.get(setting.key) not in (None, ()):
            if memory is False and (setting.part == "memory" or setting.field in OF_MEMORY):
                raise ValueError(f"{setting.flag} is given, but memory is off (--no-memory); drop one of them")
            changes[setting.part][setting.field] = settings[setting.key]
    if memory is not None:
        changes["memory"]["enabled"] = memory
    if not changes["memory"].get("enabled", preset.memory.enabled):
        changes["context"]["memory_frames"] = 0
    changes["memory"]["steering"] = schedule.steering
    opens = changes["memory"].get("establish", preset.memory.establish)
    if "new_view" in changes["memory"] and not opens and all(steer.is_span for steer in schedule.steering):
        raise ValueError("--new-view is given, but memory admits every frame; add --establish SECONDS")
    return TakeRequest(
        prompt=schedule.prompt,
        seconds=schedule.seconds,
        cues=schedule.cues,
        seed=seed,
        context=replace(preset.context, **changes["context"]),
        sampler=replace(preset.sampler, **changes["sampler"]),
        memory=replace(preset.memory, **changes["memory"]),
        output=replace(preset.output, **changes["output"]),
        start_image=start_image,
    )
