"""Prompt schedules as data: who does what, when, relative to the horizons.

A scenario is a template that subjects fill in. Both are JSON, so that a backbone with another vocabulary needs no code:
`eval/scenarios.json` uses words that tiny-world knows.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from backbone.errors import FieldError, Name
from longlive_rag.config import Steering, SteerVerb
from longlive_rag.documents import Document, parse, read_json
from longlive_rag.presets.prompts import read_prompts

BUILT_IN = Path(__file__).with_name("scenarios.json")
PLAIN = "plain"
Seconds = Annotated[float, Field(ge=0)]


@dataclass(frozen=True)
class Story:
    """One prompt schedule: the unit of a comparison.

    Attributes:
        id: short unique id, usable as a folder name.
        scenario: the scenario it belongs to.
        prompt: prompt from 0 s on.
        cues: (seconds, prompt), increasing.
        origin_s: when the subject is first seen as it should be.
        rival_origin_s: when another character that no prompt distinguishes from the subject is first seen; None if
            there is none.
        steering: changes to memory, for arms that have one.
        cuts: seconds of the cues that are cuts.
        start_image: PNG or JPEG file that the take begins with, showing what words alone could not bring back.
    """

    id: str
    scenario: str
    prompt: str
    cues: tuple[tuple[float, str], ...] = ()
    origin_s: float = 0.0
    rival_origin_s: float | None = None
    steering: tuple[Steering, ...] = ()
    cuts: tuple[float, ...] = ()
    start_image: str | None = None

    def __post_init__(self) -> None:
        check_folder_name("prompt", self.id)

    @property
    def prompts(self) -> tuple[tuple[float, str], ...]:
        """(second, prompt) from 0 s on."""
        return ((0.0, self.prompt), *self.cues)


class ScenarioCue(Document):
    """A prompt that takes over at `at` seconds, or some time before or after each horizon; a cut begins a shot."""

    prompt: str
    cut: bool = False
    at: Seconds | None = None
    before_horizon: Seconds | None = None
    after_horizon: Seconds | None = None

    @model_validator(mode="after")
    def _has_one_time(self) -> Self:
        if [self.at, self.before_horizon, self.after_horizon].count(None) != 2:
            raise ValueError("a cue must have exactly one of at, before_horizon and after_horizon, in seconds")
        return self


class ScenarioSteering(Document):
    """A span of seconds to exclude from memory from `at` seconds on, or to allow again."""

    at: Seconds
    exclude: tuple[Seconds, Seconds] | None = None
    unexclude: tuple[Seconds, Seconds] | None = None

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        if (self.exclude is None) == (self.unexclude is None):
            raise ValueError("a steering must have exactly one of exclude and unexclude, a span of seconds")
        return self

    def as_steering(self) -> Steering:
        """Convert to a request's steering."""
        verb: SteerVerb = "exclude" if self.exclude else "unexclude"
        start, end = self.exclude or self.unexclude or (0.0, 0.0)
        return Steering(self.at, verb, start, end)


class Schedule(Document):
    """A template of a prompt schedule, in which subjects fill in words in braces.

    Attributes:
        origin_s: when the subject is first seen as it should be.
        rival_origin_s: when another character that the prompts don't distinguish from the subject is first seen.
        steering: changes to memory.
    """

    prompt: str
    origin_s: Seconds = 0.0
    rival_origin_s: Seconds | None = None
    cues: list[ScenarioCue] = Field(default_factory=list)
    steering: list[ScenarioSteering] = Field(default_factory=list)

    def timed(self, horizons_s: Sequence[float]) -> list[tuple[float, ScenarioCue]]:
        """Cues with their seconds; relative ones once per horizon, except those after the last horizon."""
        timed = [(cue.at, cue) for cue in self.cues if cue.at is not None]
        for cue in self.cues:
            if cue.before_horizon is not None:
                timed += [(horizon - cue.before_horizon, cue) for horizon in horizons_s]
            elif cue.after_horizon is not None:
                timed += [(horizon + cue.after_horizon, cue) for horizon in horizons_s[:-1]]
        return sorted(timed, key=lambda cue: cue[0])

    def in_given_order(self, horizons_s: Sequence[float]) -> bool:
        """Whether all fixed cues come before those of the first horizon, and each horizon's before the next one's."""
        fixed = [cue.at for cue in self.cues if cue.at is not None]
        before = [cue.before_horizon for cue in self.cues if cue.before_horizon is not None]
        after = [cue.after_horizon for cue in self.cues if cue.after_horizon is not None]
        begin = [horizon - max(before, default=0) for horizon in horizons_s]
        end = [horizon + max(after, default=0) for horizon in horizons_s]
        fits = not before or max(fixed, default=0) < begin[0]
        return fits and all(a < b for a, b in zip(end, begin[1:], strict=False))

    @model_validator(mode="after")
    def _has_plain_blanks(self) -> Self:
        for text in self._texts:
            try:
                blanks = [blank for blank in string.Formatter().parse(text) if blank[1] is not None]
            except ValueError as error:
                raise ValueError(f"{text[:60]!r} is not a template ({error})") from error
            for _, word, width, conversion in blanks:
                if not word or not word.isidentifier() or width or conversion:
                    raise ValueError(f"{text[:60]!r} is not a template; words to fill in look like {{who}}")
        return self

    @property
    def words(self) -> list[str]:
        """The words that a subject must fill in."""
        words = (word for text in self._texts for _, word, _, _ in string.Formatter().parse(text) if word)
        return list(dict.fromkeys(words))

    @property
    def _texts(self) -> list[str]:
        return [self.prompt, *(cue.prompt for cue in self.cues)]


class Scenario(Schedule):
    """What happens to a subject.

    Attributes:
        about: a description in words.
        variants: other schedules with cues at the same seconds; subjects take turns, beginning with the scenario's own.
    """

    about: str = ""
    variants: list[Schedule] = Field(default_factory=list)

    @property
    def schedules(self) -> list[Schedule]:
        """Its own schedule and the variants."""
        return [self, *self.variants]


def read_scenarios(path: Path | None = None) -> dict[str, Scenario]:
    """Read scenarios by name, from a file or those in the package.

    Raises:
        ValueError: if the file can't be read, or a scenario has missing or unknown entries.
    """
    path = path or BUILT_IN
    scenarios = parse(read_json(path), dict[str, Scenario], str(path))
    for name in scenarios:
        check_folder_name(f"{path}: scenario", name)
    return scenarios


def read_subjects(path: Path) -> list[dict[str, Any]]:
    """Read the subjects in a prompts file.

    The file is either text, one prompt per line (# begins a comment), or JSON: a list of objects, each with `prompt`
    (and `cues`, as [seconds, prompt] pairs) or with the words that scenarios need, such as `who`, `does`, `where`. `id`
    is optional, as is `start_image`, a picture with a path relative to the file.

    Raises:
        ValueError: if the file can't be read, is empty, or has a duplicate id.
    """
    if path.suffix == ".json":
        subjects = read_json(path)
        if not isinstance(subjects, list) or not all(isinstance(subject, dict) for subject in subjects):
            raise ValueError(f"{path} must hold a list of objects")
    else:
        subjects = [{"prompt": prompt} for prompt in read_prompts(path)]
    if not subjects:
        raise ValueError(f"{path} holds no prompts")
    named = [{"id": f"{number:03d}", **subject} for number, subject in enumerate(subjects, start=1)]
    for subject in named:
        if "start_image" in subject:
            subject["start_image"] = str(path.parent / str(subject["start_image"]))
    ids = [str(subject["id"]) for subject in named]
    twice = sorted({each for each in ids if ids.count(each) > 1})
    if twice:
        raise ValueError(f"{path} names {twice[0]!r} twice; every prompt needs its own id")
    return named


def stories(
    subjects: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    scenarios: Mapping[str, Scenario],
    horizons_s: Sequence[float],
) -> tuple[Story, ...]:
    """Make the story of every subject in every scenario of `names`.

    Raises:
        ValueError: if a scenario is unknown, a subject lacks a word it needs, or cues would be out of order.
    """
    for name in names:
        if name not in scenarios:
            raise FieldError("scenario", name, f"it must be one of {', '.join(scenarios)}")
    return tuple(
        _story(subject, name, scenarios[name].schedules[number % len(scenarios[name].schedules)], horizons_s)
        for name in names
        for number, subject in enumerate(subjects)
    )


def _story(subject: Mapping[str, Any], name: str, scenario: Schedule, horizons_s: Sequence[float]) -> Story:
    story_id, picture = f"{name}-{_fit_for_a_folder(str(subject['id']))}", subject.get("start_image")
    if "prompt" in subject:
        if name != PLAIN:
            raise ValueError(
                f"prompt {subject['id']} is a whole sentence; scenario {name!r} needs its words by name: "
                f"a JSON file with {', '.join(scenario.words)}, such as 'longlive-rag world subjects' writes"
            )
        told = parse(subject.get("cues", []), tuple[tuple[Seconds, str], ...], f"cues of prompt {subject['id']}")
        return Story(story_id, name, str(subject["prompt"]), told, start_image=picture)
    missing = [word for word in scenario.words if word not in subject]
    if missing:
        raise ValueError(f"prompt {subject['id']} has no {', '.join(missing)}, which scenario {name!r} needs")
    timed = scenario.timed(horizons_s)
    seconds = [second for second, _ in timed]
    rising = all(a < b for a, b in zip([0.0, *seconds], seconds, strict=False))
    if not rising or not scenario.in_given_order(horizons_s):
        horizons = ", ".join(f"{horizon:g}" for horizon in horizons_s)
        claim = f"scenario {name!r} does not fit horizons {horizons}: its cues would be out of order"
        wanted = ("give ", Name("horizons"), " longer ones, further apart")
        raise FieldError("horizons", list(horizons_s), wanted, claim=claim)
    cues = tuple((second, cue.prompt.format_map(subject)) for second, cue in timed)
    cuts = tuple(second for second, cue in timed if cue.cut)
    prompt, steering = scenario.prompt.format_map(subject), tuple(each.as_steering() for each in scenario.steering)
    return Story(story_id, name, prompt, cues, scenario.origin_s, scenario.rival_origin_s, steering, cuts, picture)


def check_folder_name(what: str, name: str) -> None:
    """Raise ValueError unless `name` is safe to use in names of folders in a run."""
    if not name.strip(".") or not all(letter.isalnum() or letter in "-._" for letter in name):
        raise ValueError(f"{what} is named {name!r}; use letters, digits, -, _ and . only")


def _fit_for_a_folder(text: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-." else "-" for letter in text)
