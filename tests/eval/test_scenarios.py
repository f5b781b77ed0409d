"""Prompt schedules: who is seen doing what, when, relative to the horizons."""

from __future__ import annotations

import json
import re

import pytest

from eval.scenarios import read_scenarios, read_subjects, stories

WORDS = {
    "id": "fox", "who": "a fox", "does": "runs", "where": "in the snow", "other": "an owl", "elsewhere": "in a city",
}  # fmt: skip
HORIZONS = (30.0, 60.0, 120.0)


def told(name: str, horizons=HORIZONS):
    return stories([WORDS], [name], read_scenarios(), horizons)[0]


def test_walk_away_and_return():
    story = told("walk-away-and-return")
    assert (story.id, story.origin_s, story.prompt) == ("walk-away-and-return-fox", 5.0, "a fox returns in the snow")
    returns = [second for second, prompt in story.cues if "returns" in prompt]
    leaves = [second for second, prompt in story.cues if "leaves" in prompt]
    assert returns == [21.0, 51.0, 111.0]
    assert leaves == [15.0, 31.0, 61.0]  # and never after the end
    for horizon in HORIZONS:  # from its return on the subject stays until the horizon
        back = max(second for second in returns if second < horizon)
        assert horizon - back > 5
        assert not [second for second in leaves if back < second < horizon]


def test_the_others():
    assert told("plain").prompt == "a fox runs in the snow"
    assert told("long-stare").cues == ()
    meets = [second for second, prompt in told("two-characters").cues if prompt == "a fox meets an owl in the snow"]
    assert meets == [14.0, 44.0, 104.0]
    last = [prompt for _, prompt in told("change-of-place").cues]
    assert last[0] == "a fox walks in a city"
    assert last[-1] == "a fox walks in the snow"


@pytest.mark.parametrize("name", ["walk-away-and-return", "two-characters", "change-of-place"])
@pytest.mark.parametrize("horizons", [(12.0,), (30.0, 33.0)])
def test_horizons_that_leave_no_room_are_refused(name, horizons):
    if name == "two-characters" and horizons == (12.0,):
        horizons = (16.0,)
    with pytest.raises(ValueError, match=f"scenario '{name}' does not fit horizons"):
        told(name, horizons)


def test_prompts_as_text_and_as_json(tmp_path):
    text = tmp_path / "p.txt"
    text.write_text("# mine\na fox runs\n\n  an owl flies  \n")
    subjects = read_subjects(text)
    assert [subject["prompt"] for subject in subjects] == ["a fox runs", "an owl flies"]
    assert [story.id for story in stories(subjects, ["plain"], read_scenarios(), HORIZONS)] == [
        "plain-001",
        "plain-002",
    ]
    whole = tmp_path / "p.json"
    whole.write_text(json.dumps([{"id": "a/b c", "prompt": "a fox runs", "cues": [[8, "a fox sits"]]}]))
    story = stories(read_subjects(whole), ["plain"], read_scenarios(), HORIZONS)[0]
    assert (story.id, story.cues) == ("plain-a-b-c", ((8.0, "a fox sits"),))
    assert story.prompts == ((0.0, "a fox runs"), (8.0, "a fox sits"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.txt", "\n# nothing\n", "holds no prompts"),
        ("p.json", "[]", "holds no prompts"),
        ("p.json", "{}", "must hold a list of objects"),
        ("p.json", "[{", "can't be read"),
        ("p.json", '[{"id": "x", "prompt": "a"}, {"id": "x", "prompt": "b"}]', "names 'x' twice"),
        ("missing.txt", None, "can't be read"),
    ],
)
def test_prompts_that_are_none(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_subjects(path)


def test_what_does_not_fit_a_scenario():
    scenarios = read_scenarios()
    with pytest.raises(
        ValueError, match=r"prompt 1 is a whole sentence; scenario 'long-stare' needs its words by name"
    ):
        stories([{"id": "1", "prompt": "a fox runs"}], ["long-stare"], scenarios, HORIZONS)
    with pytest.raises(ValueError, match="prompt 1 has no other, which scenario 'two-characters' needs"):
        stories([{"id": "1", "who": "a fox", "where": "here"}], ["two-characters"], scenarios, HORIZONS)
    with pytest.raises(ValueError, match="scenario is 'chase'; it must be one of plain"):
        stories([WORDS], ["chase"], scenarios, HORIZONS)


@pytest.mark.parametrize(
    ("scenario", "message"),
    [
        ({"about": "x"}, "mine.prompt is missing"),
        ({"prompt": "x", "cue": []}, "mine.cue is not known; did you mean 'cues'?"),
        ({"prompt": "x", "cues": [{"at": 3}]}, "mine.cues[0].prompt is missing"),
        ({"prompt": "x", "cues": [{"at": -3, "prompt": "y"}]}, "mine.cues[0].at is -3; it should be greater than"),
        ({"prompt": "x", "cues": [{"at": 3, "before_horizon": 2, "prompt": "y"}]}, "mine.cues[0]: a cue has one of at"),
    ],
)
def test_scenarios_of_ones_own_are_checked(tmp_path, scenario, message):
    path = tmp_path / "s.json"
    path.write_text(json.dumps({"mine": scenario}))
    with pytest.raises(ValueError, match=re.escape(message)):
        read_scenarios(path)
