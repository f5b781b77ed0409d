"""The oracle against rendered truth, and against pictures that are worse than that."""

import math

import numpy as np
import pytest

from longlive_rag.tinyworld.cue_response import cue_pairs, shows
from longlive_rag.tinyworld.drawing import BAGS, HATS, PATTERNS, SIZES_PX, TINTS_DEGREES
from longlive_rag.tinyworld.grammar import ACTIONS, COLOURS, MEETS, PLACES, SHAPES, Sentence, parse
from longlive_rag.tinyworld.measure import agreement, hidden_traits, majority, read_take, shows_action, variety
from longlive_rag.tinyworld.oracle import HIDDEN_TRAITS, TRAITS, Sighting, Trait, read_frame, read_place
from longlive_rag.tinyworld.world import Actor, Character, Cue, Place, Script, render, script_for


def still(who: Character, place: str = "meadow", variation: int = 3) -> np.ndarray:
    return render(Script(((0, Place(place, variation)),), (Actor(who, (Cue(0, "stands"),)),), 1))[0]


def alone(frame: np.ndarray) -> Sighting:
    (sighting,) = read_frame(frame)
    return sighting


@pytest.mark.parametrize("place", PLACES)
def test_every_character_is_read_in_every_place(place: str) -> None:
    for shape in SHAPES:
        for colour in COLOURS:
            seen = alone(still(Character(shape, colour), place))
            assert (seen.shape.value, seen.colour.value) == (shape, colour)
            assert abs(seen.centre[0] - 0.5) < 0.03
            assert not seen.cut_off


@pytest.mark.parametrize("place", PLACES)
def test_nobody_is_seen_in_an_empty_place(place: str) -> None:
    for seed in range(20):
        script = script_for(parse(f"a red circle returns in a {place}"), 1, seed)
        assert read_frame(render(script)[0]) == ()


@pytest.mark.parametrize("shape", SHAPES)
def test_each_hidden_trait_is_read(shape: str) -> None:
    for colour in ("red", "yellow", "purple"):
        for tint in TINTS_DEGREES:
            assert alone(still(Character(shape, colour, tint=tint))).tint.value == tint
        for size in SIZES_PX:
            assert alone(still(Character(shape, colour, size_px=size))).size.value == size
        for pattern in PATTERNS:
            assert alone(still(Character(shape, colour, pattern=pattern))).pattern.value == pattern
        for hat in HATS:
            for bag in BAGS:
                seen = alone(still(Character(shape, colour, hat=hat, bag=bag)))
                assert (seen.hat.value, seen.bag.value) == (hat, bag)


def test_who_is_cut_by_the_edge_is_seen_and_nothing_about_it_is_sure() -> None:
    track_of = Script(((0, Place("snow")),), (Actor(Character("circle", "red"), (Cue(0, "leaves"),)),), 18)
    seen = alone(render(track_of)[-1])
    assert seen.cut_off
    assert not any(getattr(seen, name).sure for name in TRAITS)


def test_two_that_meet_are_counted_and_told_apart() -> None:
    sentence = Sentence("red", "circle", MEETS, "city", ("blue", "square"))
    left, right = read_frame(render(script_for(sentence, 80, 1))[-1])
    assert (left.colour.value, right.colour.value) == ("red", "blue")
    assert (left.shape.value, right.shape.value) == ("circle", "square")


def test_noise_lowers_the_confidence() -> None:
    rng = np.random.default_rng(0)
    clean = still(Character("circle", "green", pattern="band"))
    noisy = np.clip(clean + rng.normal(0, 40, clean.shape), 0, 255).astype(np.uint8)
    before = alone(clean)
    after = [each for each in read_frame(noisy) if abs(each.centre[0] - 0.5) < 0.1]
    assert after
    assert after[0].pattern.confidence < before.pattern.confidence


@pytest.mark.parametrize("action", [*ACTIONS, MEETS])
def test_each_action_is_recognised_and_not_taken_for_another(action: str) -> None:
    other = ("blue", "square") if action == MEETS else None
    reading = read_take(render(script_for(Sentence("green", "triangle", action, "beach", other), 80, 4)), every=2)
    assert shows_action(action, reading)
    for wrong in {"stands": ("walks", "leaves"), "walks": ("stands", "jumps"), "jumps": ("stands", "walks"),
                  "leaves": ("returns", "stands"), "returns": ("leaves", "stands"), "turns": ("stands", "walks"),
                  MEETS: ("stands", "leaves")}[action]:  # fmt: skip
        assert not shows_action(wrong, reading)


def test_hidden_traits_of_a_take_agree_with_themselves_and_not_with_another() -> None:
    def take(who: Character) -> dict:
        return hidden_traits(read_take(render(Script(((0, Place("snow")),), (Actor(who, (Cue(0, "walks"),)),), 32))))

    one = take(Character("circle", "red", 9.0, 28.0, "split", "tall", "bag"))
    other = take(Character("circle", "red", -9.0, 19.0, "plain", "none", "none"))
    assert one == {"tint": 9.0, "size": 28.0, "pattern": "split", "hat": "tall", "bag": "bag"}
    assert set(agreement(one, one).values()) == {True}
    assert set(agreement(one, other).values()) == {False}
    assert set(agreement(one, dict.fromkeys(HIDDEN_TRAITS)).values()) == {None}


def test_a_majority_is_of_sure_answers_only() -> None:
    sure, unsure = Trait("tall", 0.9, True), Trait("flat", 0.01, False)
    assert majority([sure, unsure, unsure]) == "tall"
    assert majority([unsure]) is None


@pytest.mark.parametrize("place", list(PLACES))
def test_places_are_told_apart_whoever_stands_in_them(place: str) -> None:
    for seed in range(4):
        frames = render(script_for(Sentence("green", "square", "stands", place), 60, seed))
        assert read_place(frames[0]).value == read_place(frames[-1]).value == place
        assert read_place(frames[0]).sure


@pytest.mark.parametrize("index", range(8))
def test_a_cue_that_the_world_follows_shows_and_one_that_it_ignores_does_not(index: int) -> None:
    first, then = cue_pairs(8)[index]
    who = Character(first.shape, first.colour)
    at, frames = 81, 113

    def video(followed: bool) -> np.ndarray:
        cues = (Cue(0, first.action), Cue(at, then.action)) if followed else (Cue(0, first.action),)
        places = ((0, Place(first.place)), (at, Place(then.place)))[: 1 + (followed and first.place != then.place)]
        return render(Script(places, (Actor(who, cues),), frames))

    assert shows(first, then, video(followed=True), at)
    assert not shows(first, then, video(followed=False), at)


def test_variety_is_that_of_the_values_seen():
    def seen(**values):
        return [{"tint": None, "size": None, "pattern": None, "hat": None, "bag": None, **values}]

    assert variety(3 * seen(hat="tall"))["hat"] == 0
    assert variety(seen(hat="tall") + seen(hat="flat") + seen(hat="none"))["hat"] == pytest.approx(1)
    assert variety(seen(size=19.0) + seen(size=28.0))["size"] == pytest.approx(math.log(2) / math.log(3))
    assert variety(seen(bag="bag") + seen(bag="none") + seen())["bag"] == pytest.approx(1)
    assert variety(seen())["tint"] is None
