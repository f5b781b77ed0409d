"""Prompt schedules: who is seen doing what, when, relative to the horizons."""

from __future__ import annotations

import json
import re

import pytest

from eval.scenarios import read_scenarios, read_subjects, stories

WORDS = {
    "id": "fox", "who": "a fox", "does": "runs", "where": "in the snow", "other": "an owl", "elsewhere": "in a city",
    "third": "a crow", "third_place": "on a beach", "fourth": "a hare", "fourth_place": "in a desert", "fifth": "a cat",
    "fifth_place": "in a forest",
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


def seconds_of(story, who: str) -> float:
    """How long the prompts have somebody on stage, without the words that send them away."""
    ends = [*(second for second, _ in story.cues), 120.0]
    spans = zip(story.prompts, ends, strict=True)
    return sum(end - start for (start, prompt), end in spans if who in prompt and "leaves" not in prompt)


def test_in_a_long_absence_the_subject_is_rare_and_the_stage_is_empty_at_first():
    (story,) = stories([WORDS], ["long-absence"], read_scenarios(), (120.0,))
    assert story.prompt == "a fox returns in the snow"
    assert story.origin_s == 5.0
    assert seconds_of(story, "a fox") - 9 <= 10  # but for the return
    assert seconds_of(story, "an owl") > 80
    assert story.cues[-1] == (111.0, "a fox returns in the snow")


def test_a_subject_may_begin_with_a_picture_that_lies_beside_its_file(tmp_path):
    path = tmp_path / "drawn" / "subjects.json"
    path.parent.mkdir()
    path.write_text(json.dumps([{**WORDS, "start_image": "fox.png"}, {"prompt": "a fox", "start_image": "fox.png"}]))
    subjects = read_subjects(path)
    (told,) = stories(subjects[:1], ["cut-away-and-back"], read_scenarios(), (30.0,))
    (plain,) = stories(subjects[1:], ["plain"], read_scenarios(), (30.0,))
    assert told.start_image == plain.start_image == str(tmp_path / "drawn" / "fox.png")


def test_of_many_characters_each_subject_in_turn_calls_back_another():
    subjects = [{**WORDS, "id": str(number)} for number in range(6)]
    told = stories(subjects, ["many-characters"], read_scenarios(), (120.0,))
    assert [story.origin_s for story in told] == [5.0, 25.0, 45.0, 65.0, 85.0, 5.0]
    assert len({tuple(second for second, _ in story.cues) for story in told}) == 1  # so that they share batches
    for story in told:
        assert story.cues[-1] == (111.0, "a fox returns in the snow")
        reference = max((second, prompt) for second, prompt in story.prompts if second <= story.origin_s)
        assert reference == (story.origin_s, "a fox walks in the snow")
        for who in ("an owl", "a crow", "a hare", "a cat"):
            assert seconds_of(story, who) == 11


def test_of_two_with_the_same_words_one_is_made_without_a_memory_of_the_other():
    first, second = stories([WORDS, {**WORDS, "id": "2"}], ["same-words"], read_scenarios(), (120.0,))
    assert (first.origin_s, first.rival_origin_s) == (second.rival_origin_s, second.origin_s) == (5.0, 23.0)
    for story, places in ((first, ("in the snow", "in a city")), (second, ("in a city", "in the snow"))):
        assert story.prompts[0] == (0.0, f"a fox returns {places[0]}")
        assert (18.0, f"a fox returns {places[1]}") in story.prompts
        assert story.prompts[-1] == (111.0, "a fox returns in the snow")
        assert [(each.seconds, each.verb, each.start, each.end) for each in story.steering] == [
            (17.0, "exclude", 0.0, 17.0), (35.0, "unexclude", 0.0, 17.0),
        ]  # fmt: skip


def test_a_scenario_cuts_away_from_the_subject_and_back():
    (story,) = stories([WORDS], ["cut-away-and-back"], read_scenarios(), (30.0, 60.0))
    assert story.cuts == (10.0, 21.0, 31.0, 51.0) == tuple(second for second, _ in story.cues)
    assert [prompt for _, prompt in story.prompts] == [
        "a fox walks in the snow", "an owl walks in a city", "a fox walks in the snow", "an owl walks in a city",
        "a fox walks in the snow",
    ]  # fmt: skip


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
        (
            {"prompt": "x", "cues": [{"at": 3, "before_horizon": 2, "prompt": "y"}]},
            "mine.cues[0]: a cue must have exactly one of at",
        ),
    ],
)
def test_scenarios_of_ones_own_are_checked(tmp_path, scenario, message):
    path = tmp_path / "s.json"
    path.write_text(json.dumps({"mine": scenario}))
    with pytest.raises(ValueError, match=re.escape(message)):
        read_scenarios(path)
