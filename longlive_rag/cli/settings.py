"""Command-line options that set fields of a request, and the schedule built from them."""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import click

from backbone.knobs import Knob, knobs_of
from longlive_rag.config import PARTS, CheckpointConfig, Cue, MemoryConfig, TakeRequest
from longlive_rag.config import Span as SpanOfSeconds
from longlive_rag.generation.cues import Schedule
from longlive_rag.presets.preset import DEFAULT_BACKBONE, Preset
from longlive_rag.sessions.asking import SETTINGS, seconds_of
from longlive_rag.sessions.opening import Opening
from longlive_rag.timecode import parse_duration, parse_timecode
from retrieval.budgets import PageBudgets, PagePrecision

Decorator = Callable[[Callable[..., None]], Callable[..., None]]


class Steps(click.ParamType):
    """Comma-separated whole numbers."""

    name = "n,n,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(int(step) for step in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of whole numbers such as 1000,750,500,250", param, ctx)


class Span(click.ParamType):
    """Two timecodes separated by a dash."""

    name = "from-to"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, float]:
        if isinstance(value, tuple):
            return value
        try:
            start, end = value.split("-")
            return parse_timecode(start), parse_timecode(end)
        except ValueError:
            self.fail(f"{value!r} is not a span of seconds such as 2-3.5 or 0:02-0:03.5", param, ctx)


class Gibibytes(click.ParamType):
    """A number of GiB, or a number with a unit.

    Args:
        word: a word that is allowed too.
        positive: whether it must be above 0.
    """

    def __init__(self, word: str | None = None, positive: bool = False) -> None:
        self.word, self.positive, self.name = word, positive, f"{word}|gib" if word else "gib"

    UNITS: ClassVar[dict[str, int]] = {"": 2**30, "GiB": 2**30, "MiB": 2**20, "GB": 10**9, "MB": 10**6}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | str:
        if isinstance(value, float) or value == self.word:
            return value
        number, unit = re.fullmatch(r"(-?[0-9.]*)\s*(.*)", value, re.DOTALL).groups()  # type: ignore[union-attr]
        try:
            gib = float(number) * self.UNITS[unit] / 2**30
        except (KeyError, ValueError):
            self.fail(f"{value!r} is not a size such as 4 (GiB), 512MiB or 8GB", param, ctx)
        if self.positive and gib <= 0:
            self.fail(f"{value!r} is not a size above 0", param, ctx)
        return gib


class NumberOr(click.ParamType):
    """A number, or a word.

    Args:
        word: that is allowed instead.
    """

    def __init__(self, word: str) -> None:
        self.word, self.name = word, f"{word}|x"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | str:
        try:
            return self.word if value == self.word else float(value)
        except ValueError:
            self.fail(f"{value!r} is neither a number nor {self.word!r}", param, ctx)


class Switched(click.ParamType):
    """A length of time, as `Duration` reads it; `false` (in an arms file) or `off` is 0."""

    name = "timecode"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return 0.0 if value in ("False", "off") else parse_duration(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Duration(click.FloatRange):
    """Seconds, or a timecode that counts no frames; see `seconds_of` for one that may."""

    name = "timecode"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            seconds = parse_duration(value) if isinstance(value, str) else value
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return super().convert(seconds, param, ctx)


DEFAULT_SECONDS = 30.0
STDOUT = "-"
POLICIES = ["any", "research", "commercial"]
POLICY = click.option(
    "--license-policy",
    type=click.Choice(POLICIES),
    help="Refuse weights whose recorded terms don't allow this use.  [default: LONGLIVE_RAG_LICENSE_POLICY, else the "
    "config file, else any]",
)
KNOBS = (*PARTS.values(), TakeRequest, CheckpointConfig, Opening)
NAMED_LIKE_FIELDS = (
    "seconds", "phase", "at", "start_image",
    "cues_line", "switch_every", "use", "source", "by", "expires", "horizons", "seeds", "arms",
    "lora", "lora_alpha", "keep_lora", "section", "preset",
    "embedders", "embed_every", "exploratory", "prompts", "scenario", "workers", "batch", "address", "engine",
    "gpus_per_worker",
    "protocol", "backbones", "text", "frame",
    "host", "port", "tls_cert", "tls_key", "allow_host", "keys",
    "gpu_report", "minutes", "blocks", "search", "allowed",
)  # fmt: skip
FLAGS = {
    **{field: f"--{field.replace('_', '-')}" for field in NAMED_LIKE_FIELDS},
    **{name: knob.flag for part in KNOBS for name, knob in knobs_of(part).items()},
    **{"looked_up_on": "--on", "embedder": "--embedders", "metric": "--metrics", "key": "--api-key"},
}
"""Maps the field of a `FieldError` to the option that sets it, across all commands."""


def options(*each: Decorator) -> Decorator:
    """Combine options into one decorator, in the order in which help shows them."""

    def add(command: Callable[..., None]) -> Callable[..., None]:
        for option in reversed(each):
            command = option(command)
        return command

    return add


def option_of(knob: Knob, key: str | None = None, **attributes: Any) -> Decorator:
    """Make a click option from a knob.

    Args:
        key: name of the command's parameter; defaults to the flag's name.
        attributes: arguments of `click.option` that override the knob's, such as another default or help.
    """
    key = key or knob.key.replace("-", "_")
    facts: dict[str, Any] = {"default": knob.default, "show_default": True, "help": knob.help} | attributes
    if facts["default"] is None:
        facts["show_default"] = False
    if knob.type is bool:
        return click.option(f"{knob.flag}/{knob.flag.replace('--', '--no-', 1)}", key, **facts)
    facts["type"] = option_type(knob)
    if knob.repeats:
        facts |= {"multiple": True, "default": (), "show_default": False}
    add = named_option(knob.flag, key, knob.was, **facts)
    if knob.off is None:
        return add
    off = click.option(knob.flag.replace("--", "--no-", 1), key, flag_value=0.0, type=facts["type"], help=knob.off)
    return lambda command: add(off(command))


def option_type(knob: Knob) -> Any:
    """The click type that parses a knob's value."""
    if knob.choices:
        return click.Choice(knob.choices)
    if knob.type == tuple[int, ...]:
        return Steps()
    if knob.type in (SpanOfSeconds, tuple[SpanOfSeconds, ...]):
        return Span()
    if knob.unit == "GiB":
        return Gibibytes(knob.word)
    if knob.word is not None:
        return NumberOr(knob.word)
    if knob.off is not None:
        return Switched()
    return str if knob.repeats else knob.type


def named_option(flag: str, key: str, was: str | None = None, **attributes: Any) -> Decorator:
    """A `click.option` whose old name, if any, is hidden but works for one more release, with a note.

    If both names are given, the new one counts.
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


def with_figures(help_: str = "Write all figures here.") -> Decorator:
    """Options of a command that measures: `output`, a file for its figures, and `as_json`, to print them as JSON.

    `--json FILE`, which was the name of `--output FILE`, works for one more release, with a note.
    """

    def printed(context: click.Context, parameter: click.Parameter, value: str | None) -> bool:
        if value not in (None, STDOUT):
            click.echo(f"Note: --json FILE {now('--output FILE')}.", err=True)
            context.meta["--json"] = Path(value)
        return value == STDOUT

    def either(context: click.Context, parameter: click.Parameter, value: Path | None) -> Path | None:
        return value or context.meta.get("--json")

    return options(
        # First, as options that weren't typed are read in this order.
        click.option(
            "--json", "as_json", is_flag=False, flag_value=STDOUT, metavar="", help="Print the figures as JSON.",
            callback=printed,
        ),
        click.option(
            "-o", "--output", type=click.Path(path_type=Path), metavar="FILE.json", help=help_, callback=either
        ),
    )  # fmt: skip


def now(name: str) -> str:
    """The rest of a note about an old name."""
    return f"is now {name}; the old name works for one more release"


def with_page_budgets(gpu: str = "4", host: str = "8") -> Decorator:
    """Add the page cache options to a command: `gpu_gib`, `host_gib` and `page_precision`.

    Args:
        gpu, host: default budgets, in GiB.
    """
    knobs, defaults = knobs_of(MemoryConfig), {"gpu_gib": gpu, "host_gib": host, "page_precision": "same"}
    return options(*(option_of(knobs[name], name, default=default) for name, default in defaults.items()))


def unset_option(knob: Knob, default: str | None = None, about: str = "") -> Decorator:
    """Make an option that is None unless it is given.

    Args:
        default: what help says holds without it, if not the knob's default.
        about: when the option applies, in a sentence for help.
    """
    default = default or (f"{knob.default:g}" if isinstance(knob.default, float) else str(knob.default))
    return option_of(knob, default=None, help=f"{knob.help}{about}  [default: {default}]")


with_settings = options(*(option_of(setting.knob, setting.key, default=None) for setting in SETTINGS))
"""The options in `SETTINGS`, each under its `key`."""
with_checkpoints, with_checkpoints_kept = (
    options(*(unset_option(knob, default) for knob in knobs_of(CheckpointConfig).values()))
    for default in (None, "the take's")
)
"""The options about checkpoints, from which a take is resumed: of a new take, and of one that exists."""
with_rights = options(
    POLICY,
    click.option("--deliverable", is_flag=True, help="Label the take 'deliverable' instead of 'reference'."),
    click.option("--phase", metavar="WORDS", help="Production phase to record, such as previs or final."),
    click.option("--label", "show_label", is_flag=True, help="Show 'AI generated' and the label in the video."),
)
"""The options about rights and labels."""
_opening = knobs_of(Opening)
DTYPE, DEVICE, CODEC, DECODER, VAE_DEVICE, GPUS = (
    option_of(_opening[name]) for name in ("dtype", "device", "codec", "decoder", "vae_device", "gpus")
)
COMPILE, ATTENTION = (option_of(_opening[name]) for name in ("compile", "attention"))
DTYPE_OF_NEW, CODEC_OF_NEW, DECODER_OF_NEW, COMPILE_OF_NEW, ATTENTION_OF_NEW = (
    unset_option(_opening[name], about=" For a new take.")
    for name in ("dtype", "codec", "decoder", "compile", "attention")
)
SEED = option_of(knobs_of(TakeRequest)["seed"])


def backbone_option(help_: str = "A name in 'models list', or a pipeline folder.") -> Decorator:
    """Make the option `--backbone`, whose default is tiny-world."""
    return click.option("--backbone", default=DEFAULT_BACKBONE, show_default=True, metavar="NAME|FOLDER", help=help_)


BACKBONE = backbone_option()
THREADS = click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: one per core]")
ADDRESS = click.option(
    "--address",
    metavar="ADDRESS",
    help="Address of a Ray cluster.  [default: RAY_ADDRESS, else a cluster started on this machine]",
)
PROMPT_EMBEDS = click.option(
    "--prompt-embeds",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="File of prompts encoded by 'models embed-prompts'; the text encoder is not loaded.",
)


def typed_options() -> dict[str, str]:
    """The options that the user typed, as a mapping from the command's parameter to the flag."""
    context = click.get_current_context()
    return {
        param.name: param.opts[0]
        for param in context.command.params
        if param.name and context.get_parameter_source(param.name) is click.core.ParameterSource.COMMANDLINE
    }


def asked_opening(options: Mapping[str, Any]) -> Opening:
    """Build an `Opening` from a command's options; an option that is None gets its default."""
    given = {each.name: options.get(each.name) for each in fields(Opening)}
    return Opening(**{name: value for name, value in given.items() if value is not None})


with_cue_files = options(
    click.option(
        "--cues",
        "cue_file",
        type=click.Path(path_type=Path),
        metavar="FILE|TAKE",
        help="Read cues from a file (.txt, .jsonl, .json, .yaml) or a take; it may include PROMPT.",
    ),
    click.option("--cues-line", type=int, help="Line of a .jsonl file to use, counted from 1."),
    click.option(
        "--switch-every",
        metavar="TIMECODE",
        help="Time between cues without times.  [default: spaced evenly over the take]",
    ),
)
"""The options that read cues from a file."""


@dataclass(frozen=True)
class CueSource:
    """Where cues are read from: the options of `with_cue_files`."""

    file: Path | None = None
    line: int | None = None
    switch_every: str | None = None


def build_schedule(
    preset: Preset,
    prompt: str | None,
    length: str | None,
    cues: tuple[tuple[str, str], ...],
    source: CueSource,
    settings: dict[str, Any],
    cuts: tuple[tuple[str, str], ...] = (),
) -> Schedule:
    """Build the schedule of prompts from the options or the cue file.

    Args:
        length: value of --seconds.

    Raises:
        ValueError: if they don't fit. The message names the option or the file's line, the value and what is expected.
    """
    fps = settings.get("output_fps") or preset.output.fps
    seconds = None if length is None else seconds_of(length, fps)
    if source.file is None:
        for flag, value in (("--cues-line", source.line), ("--switch-every", source.switch_every)):
            if value is not None:
                raise ValueError(f"{flag} is {value}, but there is no file of cues; add --cues FILE")
        if prompt is None:
            raise ValueError("PROMPT is missing; describe what to show, or add --cues FILE")
        timed = heapq.merge(_timed("cue", cues, fps), _timed("cut", cuts, fps), key=lambda cue: cue.seconds)
        return Schedule(prompt, tuple(timed), DEFAULT_SECONDS if seconds is None else seconds)
    if cues or cuts:
        raise ValueError(f"{'--cue' if cues else '--cut'} and --cues are both given; put all cues in the file")
    from longlive_rag.takes.cue_files import read_cues

    every = None if source.switch_every is None else seconds_of(source.switch_every, fps, "switch_every")
    file = read_cues(source.file, fps, source.line)
    if seconds is None and file.seconds is None and every is None:
        seconds = DEFAULT_SECONDS
    return file.schedule(prompt=prompt, seconds=seconds, switch_every=every)


def _timed(name: str, given: tuple[tuple[str, str], ...], fps: int) -> list[Cue]:
    """Parse the values of --cue or --cut, in order."""
    cues = []
    for number, (at, words) in enumerate(given, start=1):
        try:
            cues.append(Cue(parse_timecode(at, fps), words, cut=name == "cut"))
        except ValueError as error:
            raise ValueError(f"{name} {number}: {error}") from error
    return cues


def page_budgets(gpu_gib: Any, host_gib: float, page_precision: PagePrecision) -> PageBudgets:
    """Build page budgets from the options of `with_page_budgets`."""
    return MemoryConfig(gpu_gib=gpu_gib, host_gib=host_gib, page_precision=page_precision).budgets
