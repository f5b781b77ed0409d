"""Prompt schedules as data: who is to be seen doing what, when, relative to the horizons.

A scenario is a template; a subject fills it in. Both are JSON, so that a backbone of another vocabulary needs no code:
`eval/scenarios.json` is written for words that tiny-world knows.
"""

from __future__ import annotations

import json
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backbone.errors import FieldError
from longlive_rag.presets.prompts import read_prompts

BUILT_IN = Path(__file__).with_name("scenarios.json")
PLAIN = "plain"
TIMES = ("at", "before_horizon", "after_horizon")


@dataclass(frozen=True)
class Story:
    """One prompt schedule: the unit of a comparison.

    Attributes:
        id: short, unlike any other, fit for a folder's name.
        scenario: which scenario it belongs to.
        prompt: from 0 s on.
        cues: (seconds, prompt), rising.
        origin_s: when the subject is first seen as it should be.
    """

    id: str
    scenario: str
    prompt: str
    cues: tuple[tuple[float, str], ...] = ()
    origin_s: float = 0.0

    @property
    def prompts(self) -> tuple[tuple[float, str], ...]:
        """(second, prompt) from 0 s on."""
        return ((0.0, self.prompt), *self.cues)


def read_scenarios(path: Path | None = None) -> dict[str, dict[str, Any]]:
    """Scenarios by name, from a file or those that come with the package.

    Raises:
        ValueError: if the file can't be read, or a scenario lacks something or has something unknown.
    """
    path = path or BUILT_IN
    scenarios = _read_json(path)
    if not isinstance(scenarios, dict):
        raise ValueError(f"{path} must hold an object: scenario name to prompt and cues")
    for name, scenario in scenarios.items():
        if name != _fit_for_a_folder(name):
            raise ValueError(f"scenario {name!r} in {path} must be named by letters, digits, - and . only")
        if not isinstance(scenario, dict) or "prompt" not in scenario:
            raise ValueError(f"scenario {name!r} in {path} has no prompt")
        unknown = set(scenario) - {"about", "origin_s", "prompt", "cues"}
        if unknown:
            raise ValueError(f"scenario {name!r} in {path} has unknown fields: {', '.join(sorted(unknown))}")
        origin_s, cues = scenario.get("origin_s", 0), scenario.get("cues", [])
        if not isinstance(scenario["prompt"], str) or not _is_time(origin_s) or not isinstance(cues, list):
            raise ValueError(
                f"scenario {name!r} in {path} must have a prompt in words, origin_s in seconds and a list of cues"
            )
        for cue in cues:
            if not _is_timed_prompt(cue):
                raise ValueError(
                    f"a cue of scenario {name!r} in {path} must have a prompt and one of {', '.join(TIMES)} in "
                    f"seconds, got {cue}"
                )
    return scenarios


def _is_time(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


def _is_timed_prompt(cue: Any) -> bool:
    """Whether this is a cue of a scenario: a prompt, and one time."""
    if not isinstance(cue, dict) or len(cue) != 2 or not isinstance(cue.get("prompt"), str):
        return False
    return all(name in TIMES and _is_time(value) for name, value in cue.items() if name != "prompt")


def read_subjects(path: Path) -> list[dict[str, Any]]:
    """Subjects of a prompts file.

    Either text, one prompt a line (# begins a comment), or JSON: a list of objects, each with `prompt` (and `cues`, as
    [seconds, prompt] pairs) or with the words that scenarios fill in, such as `who`, `does`, `where`; `id` is optional.

    Raises:
        ValueError: if the file can't be read, is empty, or names a subject twice.
    """
    if path.suffix == ".json":
        subjects = _read_json(path)
        if not isinstance(subjects, list) or not all(isinstance(subject, dict) for subject in subjects):
            raise ValueError(f"{path} must hold a list of objects")
    else:
        subjects = [{"prompt": prompt} for prompt in read_prompts(path)]
    if not subjects:
        raise ValueError(f"{path} holds no prompts")
    named = [{"id": f"{number:03d}", **subject} for number, subject in enumerate(subjects, start=1)]
    ids = [subject["id"] for subject in named]
    twice = sorted({each for each in ids if ids.count(each) > 1})
    if twice:
        raise ValueError(f"{path} names {twice[0]!r} twice; every prompt needs an id of its own")
    return named


def stories(
    subjects: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    scenarios: Mapping[str, Mapping[str, Any]],
    horizons_s: Sequence[float],
) -> tuple[Story, ...]:
    """Every subject in every scenario of `names`.

    Raises:
        ValueError: if a scenario is unknown, a subject lacks a word that it needs, or its cues would not be in order.
    """
    for name in names:
        if name not in scenarios:
            raise FieldError("scenario", name, f"it must be one of {', '.join(scenarios)}")
    return tuple(_story(subject, name, scenarios[name], horizons_s) for name in names for subject in subjects)


def _story(subject: Mapping[str, Any], name: str, scenario: Mapping[str, Any], horizons_s: Sequence[float]) -> Story:
    story_id = f"{name}-{_fit_for_a_folder(str(subject['id']))}"
    if "prompt" in subject:
        if name != PLAIN:
            raise ValueError(
                f"prompt {subject['id']} is a whole sentence; scenario {name!r} needs its words by name: "
                f"a JSON file with {', '.join(_words(scenario))}"
            )
        cues = tuple((float(second), prompt) for second, prompt in _cues_of(subject))
        return Story(story_id, name, str(subject["prompt"]), cues)
    missing = [word for word in _words(scenario) if word not in subject]
    if missing:
        raise ValueError(f"prompt {subject['id']} has no {', '.join(missing)}, which scenario {name!r} needs")
    timed = sorted(_timed(scenario, horizons_s), key=lambda cue: cue[0])
    seconds = [second for second, _ in timed]
    if any(a >= b for a, b in zip([0.0, *seconds], seconds, strict=False)) or not _in_given_order(scenario, horizons_s):
        horizons = ", ".join(f"{horizon:g}" for horizon in horizons_s)
        claim = f"scenario {name!r} does not fit horizons {horizons}: its cues would not be in their order"
        raise FieldError("horizons", list(horizons_s), "use longer horizons, further apart", claim=claim)
    cues = tuple((second, prompt.format_map(subject)) for second, prompt in timed)
    return Story(story_id, name, scenario["prompt"].format_map(subject), cues, float(scenario.get("origin_s", 0)))


def _cues_of(subject: Mapping[str, Any]) -> list[list[Any]]:
    """The cues of a prompt that is a whole sentence.

    Raises:
        ValueError: unless they are a list of [seconds, prompt].
    """
    cues = subject.get("cues", [])
    pairs: list[Any] = cues if isinstance(cues, list) else [None]
    if not all(
        isinstance(cue, list) and len(cue) == 2 and _is_time(cue[0]) and isinstance(cue[1], str) for cue in pairs
    ):
        raise ValueError(
            f'cues of prompt {subject["id"]} is {cues!r}; it must be a list as in [[8, "..."], [14, "..."]]'
        )
    return pairs


def _timed(scenario: Mapping[str, Any], horizons_s: Sequence[float]) -> list[tuple[float, str]]:
    """Cues with their seconds; those relative to a horizon once for each, those after the last one left out."""
    timed = []
    for cue in scenario.get("cues", ()):
        if "at" in cue:
            timed.append((float(cue["at"]), cue["prompt"]))
        elif "before_horizon" in cue:
            timed += [(horizon - cue["before_horizon"], cue["prompt"]) for horizon in horizons_s]
        else:
            timed += [(horizon + cue["after_horizon"], cue["prompt"]) for horizon in horizons_s[:-1]]
    return timed


def _in_given_order(scenario: Mapping[str, Any], horizons_s: Sequence[float]) -> bool:
    """Whether all fixed cues come before those of the first horizon, and one horizon's before the next one's."""
    fixed = [float(cue["at"]) for cue in scenario.get("cues", ()) if "at" in cue]
    before = [cue["before_horizon"] for cue in scenario.get("cues", ()) if "before_horizon" in cue]
    after = [cue["after_horizon"] for cue in scenario.get("cues", ()) if "after_horizon" in cue]
    begin = [horizon - max(before, default=0) for horizon in horizons_s]
    end = [horizon + max(after, default=0) for horizon in horizons_s]
    fits = not before or max(fixed, default=0) < begin[0]
    return fits and all(a < b for a, b in zip(end, begin[1:], strict=False))


def _words(scenario: Mapping[str, Any]) -> list[str]:
    texts = [scenario["prompt"], *(cue["prompt"] for cue in scenario.get("cues", ()))]
    words = (word for text in texts for _, word, _, _ in string.Formatter().parse(text) if word)
    return list(dict.fromkeys(words))


def _fit_for_a_folder(text: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-." else "-" for letter in text)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} can't be read: {error}") from error
