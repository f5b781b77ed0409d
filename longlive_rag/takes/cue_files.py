"""Cue files: the prompts of a take and when each takes over, in several formats.

| suffix | content |
|---|---|
| `.txt` | one prompt per line, either all or none preceded by a timecode; a cut has `:cut` before its prompt |
| `.jsonl` | one schedule per line: `{"prompts": [...]}`, optionally with `"times": [...]` |
| `.json`, `.yaml`, `.yml` | one schedule: the same, or `cues:`, a list of `at` and `prompt`; a cut has `cut: true` |

The folder of a take can be read as well, for the cues on its record. Files written here read back as the same schedule.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_args

import yaml
from pydantic import AfterValidator, BeforeValidator

from backbone.errors import FieldError, Name
from backbone.files import read_bytes
from longlive_rag.config import Cue, Span, Steering, SteerVerb
from longlive_rag.documents import Document, load_json, parse
from longlive_rag.generation.cues import Schedule
from longlive_rag.takes.folder import RECORD
from longlive_rag.takes.record import read_record
from longlive_rag.timecode import CLOCK, EXAMPLES, SMPTE, format_timecode, parse_duration, parse_timecode
from retrieval.files import write_whole

SUFFIXES = (".txt", ".jsonl", ".json", ".yaml", ".yml")
VERBS: tuple[SteerVerb, ...] = get_args(SteerVerb)
STEER = re.compile(rf":(?P<verb>{'|'.join(VERBS)})\s+(?P<words>.+)")
NEARLY_TIMECODE = re.compile(r"[\[(]?[0-9]+([:;.,][0-9]+)+s?[\])]?")
"""What people write for a timecode that isn't one: 00:00:12;08, 1,5, 1.5s or [0:12]."""
LINE_END = re.compile(r"\r\n|\r|\n")
CUT = re.compile(r":cut\s+(?P<words>.+)")
YAML_HINTS = {
    "mapping values are not allowed here": "; put a prompt that contains a colon in quotes",
    "found character '\\t'": "; indent with spaces, not tabs",
}
"""By what the parser says: what it means to somebody who writes prompts."""
OFF = "off"
STEPS: Literal["steps"] = "steps"


def _timecode(value: Any) -> Any:
    if not isinstance(value, int | float | str | None) or isinstance(value, bool):
        raise ValueError(f"{value!r} is not a timecode")
    if isinstance(value, int | float) and not 0 <= value < math.inf:
        raise ValueError(f"{value!r} is not a time in a take")
    return value


def _in_words(value: Any) -> Any:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _truth(value: Any) -> Any:
    known = {"true": True, "false": False}  # YAML scalars are read as text
    value = known.get(value.lower(), value) if isinstance(value, str) else value
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} is not true or false")
    return value


Timecode = Annotated[Any, AfterValidator(_timecode)]
"""Text, a number of seconds, or None."""


class CueEntry(Document):
    """An entry of `cues`: a time, and a prompt (possibly a cut) or a steering verb."""

    at: Timecode = None
    prompt: str = ""
    cut: Annotated[bool, BeforeValidator(_truth)] = False
    pin: str = ""
    exclude: str = ""
    unpin: str = ""
    unexclude: str = ""
    establish: Annotated[str, BeforeValidator(_in_words)] = ""
    policy: str = ""


class ScheduleFile(Document):
    """A schedule in JSON or YAML: `prompts`, optionally with `times`, or `cues`, whose entries are parsed later."""

    prompts: list[Any] | None = None
    times: list[Any] | None = None
    cues: list[Any] | None = None
    seconds: Timecode = None


class YamlLoader(yaml.BaseLoader):
    """Reads every scalar as a string and refuses duplicate keys and aliases.

    YAML itself would read 0:12 as 12 and 00:00:12:08 as 728, and a few nested aliases could exhaust memory.
    """

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.MarkedYAMLError(problem="aliases are not supported", problem_mark=mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        found = super().construct_mapping(node, deep)
        if len(found) < len(node.value):
            keys = [key.value for key, _ in node.value]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise yaml.MarkedYAMLError(problem=f"{twice!r} occurs twice", problem_mark=node.start_mark)
        return found


@dataclass(frozen=True)
class CueLine:
    """One entry of a cue file.

    Attributes:
        prompt: its words.
        seconds: when it takes over; None if the file has no times.
        where: how to refer to it in messages, such as `line 3`.
        cut: whether it begins another shot.
    """

    prompt: str
    seconds: float | None
    where: str
    cut: bool = False


@dataclass(frozen=True)
class CueFile:
    """The content of a cue file; `schedule` fills in what it leaves open.

    Attributes:
        path: the file.
        lines: its prompts, in order, at least one; all with times, or none.
        seconds: length of the take, if the file gives it.
        steering: changes to memory.
    """

    path: Path
    lines: tuple[CueLine, ...]
    seconds: float | None = None
    steering: tuple[Steering, ...] = ()

    def schedule(
        self, *, prompt: str | None = None, seconds: float | None = None, switch_every: float | None = None
    ) -> Schedule:
        """Build the schedule of a take.

        Args:
            prompt: first prompt, if the file has none for the start; prompts without times come after it.
            seconds: length of the take; default is the file's, or `switch_every` for each prompt.
            switch_every: seconds between prompts without times; default spaces them evenly.

        Raises:
            ValueError: if that is not possible; names the file and the line.
        """
        timed = self.lines[0].seconds is not None
        if timed and switch_every is not None:
            wanted = ("drop ", Name("switch_every"))
            raise FieldError("switch_every", switch_every, wanted, claim=f"{self.path} already has times")
        if switch_every is not None and not 0 < switch_every < math.inf:
            raise FieldError("switch_every", switch_every, "it must be a number of seconds above 0")
        count = len(self.lines) + (prompt is not None)
        seconds = self.seconds if seconds is None else seconds
        if seconds is None and switch_every is not None:
            seconds = count * switch_every
        if seconds is None:
            shown = f"missing: {self.path} does not give the length of the take"
            raise FieldError("seconds", None, shown=shown)
        if timed:
            lines = self.lines
        else:
            every = seconds / count if switch_every is None else switch_every
            first = 0 if prompt is None else 1
            lines = tuple(replace(line, seconds=every * (first + place)) for place, line in enumerate(self.lines))
        return self._with_start(lines, prompt, seconds)

    def _with_start(self, lines: Sequence[CueLine], prompt: str | None, seconds: float) -> Schedule:
        has_start = lines[0].seconds == 0
        if has_start and prompt is not None:
            raise self._error(lines[0], "is the prompt at 0 s, but another prompt is given; drop one of them")
        if not has_start and prompt is None:
            raise self._error(
                lines[0],
                f"begins at {lines[0].seconds:g} s, but there is no prompt before it; add a line at 0, or a prompt "
                "(put a prompt that begins with a number in double quotes)",
            )
        if has_start and lines[0].cut:
            raise self._error(lines[0], "is a cut at 0 s, where the first shot begins anyway; drop the cut")
        cues = lines[1:] if has_start else lines
        for line in cues:
            assert line.seconds is not None
            if line.seconds >= seconds:
                raise self._error(
                    line, f"is at {line.seconds:g} s, past the end of a {seconds:g} s take; make the take longer"
                )
        start = lines[0].prompt if prompt is None else prompt
        timed = tuple(Cue(line.seconds or 0.0, line.prompt, line.cut) for line in cues)
        return Schedule(start, timed, seconds, self.steering)

    def _error(self, line: CueLine, message: str) -> ValueError:
        return ValueError(f"{self.path}, {line.where}, {message}")


def read_cues(source: Path, fps: int, line: int | None = None) -> CueFile:
    """Read a cue file, or the cues of a take.

    Args:
        source: the file, or the folder of a take.
        fps: frames per second of the take to be made, for SMPTE timecodes.
        line: line of a `.jsonl` file, from 1; required if it has more than one.

    Raises:
        ValueError: if it can't be read or is invalid; names the line.
        OSError: if reading fails.
    """
    if source.is_dir():
        return _of_take(source)
    suffix = source.suffix.lower()
    if not source.exists():
        raise ValueError(f"{source} is neither a file nor a take")
    if suffix not in SUFFIXES:
        raise ValueError(f"{source}: the suffix of a cue file must be one of {', '.join(SUFFIXES)}")
    if line is not None and suffix != ".jsonl":
        raise ValueError(f"{source} is a single schedule; a line can only be chosen from a .jsonl file")
    if source.name == RECORD:
        raise ValueError(f"{source} is the record of a take; to use its cues, name the take's folder: {source.parent}")
    text = _text_of(source)
    if suffix == ".txt":
        return _checked(_read_text(source, text, fps))
    content, where = _read_line(source, text, line) if suffix == ".jsonl" else (_parse(source, text, suffix), "")
    return _checked(_read_schedule(source, content, where, fps))


def write_cues(path: Path, schedule: Schedule) -> None:
    """Write a schedule atomically, in the format of the path's suffix; a `.txt` file does not hold its length.

    Raises:
        ValueError: if there is no such format.
        OSError: if writing fails.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{path}: the suffix of a cue file must be one of {', '.join(SUFFIXES)}")
    plain = all(words.isprintable() for words in (schedule.prompt, *(cue.prompt for cue in schedule.cues)))
    if suffix == ".txt":
        text = _as_text(schedule)
    elif suffix == ".jsonl":
        text = json.dumps(_as_prompts(schedule), ensure_ascii=not plain) + "\n"
    elif suffix == ".json":
        text = json.dumps(_as_cues(schedule), ensure_ascii=not plain, indent=2) + "\n"
    else:
        text = yaml.safe_dump(_as_cues(schedule), allow_unicode=plain, sort_keys=False, width=100)
    write_whole(path, text.encode())


# ---- reading ----


def _text_of(path: Path) -> str:
    try:
        data = read_bytes(path)
    except ValueError as error:
        raise ValueError(f"{path} can't be read: {error}") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = data[: error.start].count(b"\n") + 1
        raise ValueError(f"{path}, line {number}, is not UTF-8 text; save it as UTF-8") from error


def _read_text(path: Path, text: str, fps: int) -> CueFile:
    lines, steering = [], []
    for number, raw in enumerate(LINE_END.split(text), start=1):
        words, where = raw.strip(), f"line {number}"
        if not words or words.startswith("#"):
            continue
        try:
            seconds, words = _split_timecode(words, fps)
            cut = CUT.fullmatch(words)
            steer = None if cut else _read_steer(words, seconds, fps)
            if steer is None:
                prompt = cut["words"] if cut else words
                lines.append(CueLine(_unquoted(prompt), seconds, where, cut is not None))
            else:
                steering.append(steer)
        except ValueError as error:
            raise ValueError(f"{path}, {where}: {error}") from error
    return CueFile(path, tuple(lines), None, tuple(steering))


def _split_timecode(words: str, fps: int) -> tuple[float | None, str]:
    first, *rest = words.split(maxsplit=1)
    if CLOCK.fullmatch(first) or SMPTE.fullmatch(first):
        return parse_timecode(first, fps), "".join(rest)
    if NEARLY_TIMECODE.fullmatch(first):
        raise ValueError(
            f"{first!r} is not a timecode; write {EXAMPLES} (put a prompt that begins with a number in double quotes)"
        )
    return None, words


def _unquoted(words: str) -> str:
    """Decode a line in double quotes as a JSON string, as needed for prompts that begin with a number, a colon or #."""
    if len(words) > 1 and words[0] == words[-1] == '"':
        try:
            return str(json.loads(words))
        except ValueError:  # the quotation marks are part of the prompt
            return words
    return words


def _read_steer(words: str, seconds: float | None, fps: int) -> Steering | None:
    if not words.startswith(":"):
        return None
    match = STEER.fullmatch(words)
    if match is None:
        raise ValueError(
            f"{words[:40]!r} is not a direction; write :pin FROM-TO, :exclude FROM-TO, :establish SECONDS, "
            ":policy NAME, :cut PROMPT, or a prompt"
        )
    if seconds is None:
        raise ValueError(f"{words!r} has no timecode before it; say from when it applies")
    return read_steering(seconds, cast("SteerVerb", match["verb"]), match["words"], fps)


def read_steering(seconds: float, verb: SteerVerb, words: str, fps: int) -> Steering:
    """Parse a change to memory: `FROM-TO` of a span, `SECONDS [NEW_VIEW]` or `off` of `establish`, or a policy's name.

    Raises:
        ValueError: if it is invalid.
    """
    if verb == "policy":
        return Steering(seconds, verb, policy=words.strip())
    if verb != "establish":
        return Steering(seconds, verb, *read_span(words, fps))
    try:
        kept, *rest = ["0"] if words.strip() == OFF else words.split()
        if len(rest) > 1:
            raise ValueError(f"{1 + len(rest)} values")
        new_view = None if not rest else STEPS if rest[0] == STEPS else float(rest[0])
        return Steering(seconds, verb, establish=parse_duration(kept, fps), new_view=new_view)
    except ValueError as error:
        raise ValueError(
            f"{words!r} is not a value for establish; write SECONDS, SECONDS NEW_VIEW or off, such as 8, 0:08, "
            "8 0.95 or 8 steps"
        ) from error


def read_span(text: str, fps: int) -> Span:
    """Parse `FROM-TO`, two timecodes, into seconds.

    Raises:
        ValueError: if it is not a span.
    """
    start, dash, end = text.partition("-")
    if not dash:
        raise ValueError(f"{text!r} is not a span; write FROM-TO, such as 5-8 or 0:05-0:08")
    return parse_timecode(start, fps), parse_timecode(end, fps)


def _read_line(path: Path, text: str, line: int | None) -> tuple[Any, str]:
    """Parse the chosen line of a `.jsonl` file; also return how to refer to it in messages."""
    lines = [(number, raw) for number, raw in enumerate(text.split("\n"), start=1) if raw.strip()]
    if not lines:
        raise ValueError(f"{path} holds no prompt")
    if line is None and len(lines) > 1:
        wanted = ("choose one with ", Name("cues_line"), ", from 1")
        raise FieldError("cues_line", None, wanted, claim=f"{path} holds {len(lines)} schedules, one per line")
    chosen = dict(lines)
    number = lines[0][0] if line is None else line
    if number not in chosen:
        raise ValueError(f"{path} has no schedule in line {number}; the last one is in line {lines[-1][0]}")
    return _parse(path, chosen[number], ".jsonl", number), f"line {number}, "


def _parse(path: Path, text: str, suffix: str, first_line: int = 1) -> Any:
    """Parse JSON or YAML into plain data."""
    try:
        return yaml.load(text, Loader=YamlLoader) if suffix in (".yaml", ".yml") else load_json(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {first_line + error.lineno - 1}, is not JSON: {error.msg}") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f", line {mark.line + 1}," if mark else ""
        problem = error.problem or error.context or ""
        hint = next((hint for known, hint in YAML_HINTS.items() if known in problem), "")
        raise ValueError(f"{path}{place} can't be read as YAML: {problem}{hint}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path} can't be read as YAML: {error}") from error
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deeply to be a schedule") from error
    except ValueError as error:
        place = f", line {first_line}" if suffix == ".jsonl" else ""
        raise ValueError(f"{path}{place}: {error}") from error


def _read_schedule(path: Path, content: Any, where: str, fps: int) -> CueFile:
    file = f"{path}, {where}".removesuffix(", ")
    schedule = parse(content, ScheduleFile, file)
    if (schedule.prompts is None) == (schedule.cues is None):
        raise ValueError(f'{file}: a schedule is {{"prompts": [...]}} or {{"cues": [...]}}')
    if schedule.cues is not None and schedule.times is not None:
        raise ValueError(f"{file}: `times` belongs to `prompts`; entries of `cues` have their own `at`")
    try:
        seconds = _seconds(schedule.seconds, fps)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    read: list[CueLine | Steering] = []
    entries, name = (schedule.cues, "cue") if schedule.prompts is None else (_timed_prompts(schedule, file), "prompt")
    for number, entry in enumerate(entries or [], start=1):
        place = f"{where}{name} {number}"
        cue = parse(entry, CueEntry, f"{path}, {place}")
        try:
            read.append(_read_cue(cue, place, fps))
        except ValueError as error:
            raise ValueError(f"{path}, {place}: {error}") from error
    lines = tuple(line for line in read if isinstance(line, CueLine))
    return CueFile(path, lines, seconds, tuple(steer for steer in read if isinstance(steer, Steering)))


def _timed_prompts(schedule: ScheduleFile, file: str) -> list[Any]:
    """Convert `prompts` and `times` to the form of `cues`."""
    prompts = schedule.prompts or []
    times = [None] * len(prompts) if schedule.times is None else schedule.times
    if len(times) != len(prompts):
        raise ValueError(f"{file}: there are {len(times)} times for {len(prompts)} prompts")
    return [{"at": time, "prompt": prompt} for time, prompt in zip(times, prompts, strict=True)]


def _read_cue(entry: CueEntry, where: str, fps: int) -> CueLine | Steering:
    named = entry.model_fields_set - {"at", "cut"}
    if entry.cut and named != {"prompt"}:
        raise ValueError("`cut` needs a `prompt`, which describes the new shot")
    if len(named) != 1:
        raise ValueError("a cue must have exactly one of `prompt`, `pin`, `exclude`, `establish` and `policy`")
    seconds = _seconds(entry.at, fps)
    if "prompt" in named:
        return CueLine(entry.prompt, seconds, where, entry.cut)
    verb = cast("SteerVerb", named.pop())
    if seconds is None:
        raise ValueError(f"`{verb}` needs `at`; say from when it applies")
    return read_steering(seconds, verb, getattr(entry, verb), fps)


def _of_take(take: Path) -> CueFile:
    request = read_record(take).request
    lines = [CueLine(request.prompt, 0.0, "the prompt")]
    cues = enumerate(request.cues, start=1)
    lines += [CueLine(cue.prompt, cue.seconds, f"cue {number}", cue.cut) for number, cue in cues]
    return CueFile(take, tuple(lines), request.seconds, request.memory.steering)


def _checked(file: CueFile) -> CueFile:
    if not file.lines:
        raise ValueError(f"{file.path} holds no prompt")
    for line in file.lines:
        if not line.prompt.strip():
            raise file._error(line, "has an empty prompt; describe what to show")
        if (line.seconds is None) != (file.lines[0].seconds is None):
            one, other = (line, file.lines[0]) if line.seconds is None else (file.lines[0], line)
            raise file._error(
                one,
                f"has no timecode, but {other.where} has; give all prompts one, or none (put a prompt that begins with "
                "a number in double quotes)",
            )
    for before, line in pairwise(file.lines):
        if line.seconds is not None and before.seconds is not None and line.seconds <= before.seconds:
            raise file._error(
                line,
                f"is at {line.seconds:g} s, not after {before.where} at {before.seconds:g} s; put them in order",
            )
    return file


def _seconds(value: Any, fps: int) -> float | None:
    """Convert a `Timecode` to seconds."""
    if isinstance(value, str):
        return parse_timecode(value, fps)
    return None if value is None else float(value)


# ---- writing ----


def _as_text(schedule: Schedule) -> str:
    entries = [(0.0, 0, _quoted(schedule.prompt))]
    entries += [(cue.seconds, 0, ":cut " * cue.cut + _quoted(cue.prompt)) for cue in schedule.cues]
    entries += [(steer.seconds, 1, f":{steer.verb} {steering_words(steer)}") for steer in schedule.steering]
    ordered = sorted(entries, key=lambda entry: entry[:2])
    return "".join(f"{format_timecode(seconds)}  {words}\n" for seconds, _, words in ordered)


def _quoted(prompt: str) -> str:
    plain = prompt == prompt.strip() and prompt.isprintable() and not re.match(r'["#:.0-9]', prompt)
    return prompt if plain and prompt else json.dumps(prompt)


def _as_prompts(schedule: Schedule) -> dict[str, Any]:
    if schedule.steering or any(cue.cut for cue in schedule.cues):
        return _as_cues(schedule)
    return {
        "prompts": [schedule.prompt, *(cue.prompt for cue in schedule.cues)],
        "times": [0.0, *(cue.seconds for cue in schedule.cues)],
        "seconds": schedule.seconds,
    }


def _as_cues(schedule: Schedule) -> dict[str, Any]:
    entries: list[tuple[float, int, dict[str, Any]]] = [(0.0, 0, {"prompt": schedule.prompt})]
    entries += [(cue.seconds, 0, {"prompt": cue.prompt, **({"cut": True} if cue.cut else {})}) for cue in schedule.cues]
    entries += [(steer.seconds, 1, {steer.verb: steering_words(steer)}) for steer in schedule.steering]
    ordered = sorted(entries, key=lambda entry: entry[:2])
    return {
        "seconds": schedule.seconds,
        "cues": [{"at": format_timecode(seconds), **what} for seconds, _, what in ordered],
    }


def steering_words(steer: Steering) -> str:
    """Format what follows the verb, as `read_steering` parses it."""
    if steer.is_span:
        return f"{format_timecode(steer.start)}-{format_timecode(steer.end)}"
    if steer.verb == "policy":
        return steer.policy
    if not steer.establish and steer.new_view is None:
        return OFF
    return f"{steer.establish!r}" if steer.new_view is None else f"{steer.establish!r} {steer.new_view}"
