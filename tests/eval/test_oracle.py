"""Traits as embeddings, read by an oracle that a test can see through."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from eval.drift import cosine_to_reference, drift_at
from eval.oracle import OracleEmbedder, open_oracle
from eval.traits import distinct_characters, kept_traits, more_than_named, place_as_named
from eval.windows import DriftWindows
from longlive_rag.tinyworld.grammar import PLACES
from longlive_rag.tinyworld.scenery import MARGIN, place_image

TRAITS = {"shape": ("circle", "square"), "colour": ("red", "blue"), "hat": ("none", "tall"), "bag": ("none", "bag")}


def read(frame: np.ndarray) -> tuple[SimpleNamespace, ...]:
    """A frame's first pixels spell its characters: area, cut off, then (value, sure) of each trait."""
    seen = []
    for row in frame:
        if row[0, 0]:
            answers = {
                name: SimpleNamespace(value=values[row[2 + i, 0]], sure=bool(row[2 + i, 1]))
                for i, (name, values) in enumerate(TRAITS.items())
            }
            seen.append(SimpleNamespace(area_px=row[0, 0], cut_off=bool(row[1, 0]), **answers))
    return tuple(seen)


def frame(*characters: tuple) -> np.ndarray:
    """[64, 64, 3]: each character is (area, cut off, shape, colour, hat, bag), None for an unsure trait."""
    picture = np.zeros((64, 64, 3), np.uint8)
    for row, (area, cut_off, *values) in enumerate(characters):
        picture[row, 0, 0], picture[row, 1, 0] = area, cut_off
        for i, value in enumerate(values):
            picture[row, 2 + i, :2] = (0, 0) if value is None else (value, 1)
    return picture


@pytest.fixture
def oracle() -> OracleEmbedder:
    return OracleEmbedder(read, TRAITS, hidden=("hat", "bag"))


def test_the_cosine_is_the_share_of_traits_that_agree(oracle):
    a, b = oracle.embed(np.stack([frame((9, 0, 0, 0, 1, 1)), frame((9, 0, 0, 0, 0, 1))])) / 2
    assert a @ a == pytest.approx(1.0)
    assert a @ b == pytest.approx(3 / 4)


def test_the_largest_whole_character_is_the_subject(oracle):
    rows = oracle.embed(
        np.stack([frame((9, 1, 0, 0, 0, 0), (5, 0, 1, 1, None, 1)), frame((9, 1, 0, 0, 0, 0)), frame()])
    )
    assert oracle.trait_values(rows[:1]) == [{"shape": "square", "colour": "blue", "bag": "bag"}]
    assert np.isnan(rows[1:]).all()  # cut off, or nobody there
    assert oracle.trait_values(rows[1:]) == [{}, {}]


def test_a_character_that_comes_back_as_another(oracle):
    seconds = np.arange(120) / 4
    frames = [
        frame((9, 0, 0, 0, 1, 1)) if t < 12 else frame() if t < 22 else frame((9, 0, 0, 0, 0, 1)) for t in seconds
    ]
    rows = oracle.embed(np.stack(frames))
    drift = drift_at(cosine_to_reference(rows, seconds), seconds, 30)
    assert drift.value == pytest.approx(1 / 4, abs=1e-6)
    named = [oracle.characters_in("the blue square meets a red circle")] * len(seconds)
    kept = kept_traits(oracle.trait_values(rows), seconds, 30, oracle.hidden, named=named)
    assert (kept.known, kept.kept, kept.all_kept, kept.known_kept) == (2, 1, False, False)
    assert kept.as_named == 1.0
    others = [oracle.characters_in("a blue square, and no circle")] * len(seconds)
    assert kept_traits(oracle.trait_values(rows), seconds, 30, oracle.hidden, named=others).as_named == 0.0
    assert (kept.opening, kept.last) == ({"hat": "tall", "bag": "bag"}, {"hat": "none", "bag": "bag"})
    gone = kept_traits(oracle.trait_values(rows), seconds, 20, oracle.hidden)
    assert (gone.known, gone.kept, gone.all_kept) == (2, 0, False)
    unknown = kept_traits([{} for _ in seconds], seconds, 30, oracle.hidden)
    assert (unknown.all_kept, unknown.known_kept, unknown.as_named) == (False, None, None)


@pytest.mark.parametrize("first", ["none", "tall"])
def test_a_trait_that_is_read_in_two_ways_equally_often_has_no_value(first):
    seconds = np.arange(80) / 4
    second = {"none": "tall", "tall": "none"}[first]
    readings = [{"hat": first if place % 2 else second} for place in range(80)]
    kept = kept_traits(readings, seconds, 20, ["hat"])
    assert (kept.opening, kept.last, kept.known_kept) == ({}, {}, None)
    readings[-1] = readings[-2]
    assert kept_traits(readings, seconds, 20, ["hat"]).last == {"hat": second}


def values_in(seconds: np.ndarray, *parts: tuple[float, float, object]) -> list[dict]:
    """Readings of one trait, "hat": each part is from..to (seconds) and its value."""
    found = [{} for _ in seconds]
    for start, end, value in parts:
        for reading, second in zip(found, seconds, strict=True):
            if start <= second < end:
                reading["hat"] = value
    return found


@pytest.mark.parametrize(
    ("parts", "value"),
    [
        ([(1.5, 2.0, "tall")], "tall"),  # 2 of 16 frames of 4 s: half a second
        ([(1.75, 2.0, "tall")], None),
        ([(0.0, 1.0, "tall"), (1.0, 3.0, "none"), (3.0, 4.0, "tall")], "none"),  # the first second is not of it
        ([(1.0, 2.0, "none"), (2.0, 3.0, "tall")], None),  # as often
        ([(1.0, 2.0, "none"), (2.0, 3.25, "tall")], "tall"),
        ([(1.0, 2.0, "none"), (2.0, 3.0, "tall"), (3.0, 4.0, "wide")], None),
        ([], None),
    ],
)
def test_the_opening_shows_what_is_seen_most_and_for_half_a_second(parts, value):
    seconds = np.arange(40) / 4
    kept = kept_traits(values_in(seconds, *parts), seconds, 10, ("hat",))
    assert kept.opening.get("hat") == value
    assert kept.known == (value is not None)


def test_one_frame_a_second_is_enough_to_see_a_value():
    seconds = np.arange(10.0)
    assert kept_traits(values_in(seconds, (2, 3, "tall")), seconds, 10, ("hat",)).opening == {"hat": "tall"}


@pytest.mark.parametrize(("seen_s", "value"), [(0.5, "tall"), (0.25, None)])
def test_the_last_seconds_show_what_is_seen_for_half_a_second(seen_s, value):
    """2 of 20 frames; the opening's least is 2 of 16."""
    seconds = np.arange(40) / 4
    kept = kept_traits(values_in(seconds, (1, 5, "tall"), (7, 7 + seen_s, "tall")), seconds, 10, ("hat",))
    assert kept.last.get("hat") == value
    assert (kept.kept, kept.all_kept, kept.known_kept) == (int(value is not None),) + (value is not None,) * 2


def test_as_named_is_a_share_of_the_frames_for_which_a_prompt_names_someone():
    seconds = np.arange(40) / 4
    red = {"shape": "circle", "colour": "red"}
    readings = [red if second < 6 else {} for second in seconds]  # nothing else is read
    asked = [
        [red] if second < 8 else [] for second in seconds
    ]  # of the last five: 5 to 8 s, of which 5 to 6 s are right
    assert kept_traits(readings, seconds, 10, (), named=asked).as_named == pytest.approx(1 / 3)


def test_the_place_is_as_named_once_a_cue_has_had_three_seconds():
    """In a meadow until 6 s, then said to be in a desert; it arrives at 8 s, and is back in the meadow from 12 s on."""
    seconds = np.arange(80) / 4
    shown = ["meadow" if second < 8 or second >= 12 else "desert" for second in seconds]
    said = [(0.0, "meadow"), (6.0, "desert"), (10.0, "desert")]  # the second cue changes only what happens there
    assert place_as_named(shown, said, seconds, 6) == 1.0
    assert place_as_named(shown, said, seconds, 9) == 1.0  # only 3 to 6 s count
    assert place_as_named(shown, said, seconds, 15) == pytest.approx((3 + 3) / (3 + 6))
    assert place_as_named([None] * 80, said, seconds, 20) == 0.0  # what can't be read isn't as named
    assert place_as_named(shown, [(0.0, None)], seconds, 20) is None


def test_more_than_named_is_a_share_of_the_last_frames_whose_prompt_names_someone():
    """Two are seen until 7 s; one is named from 4 s on, two from 9 s on, and nobody before."""
    seconds = np.arange(40) / 4
    red, blue = {"shape": "circle", "colour": "red"}, {"shape": "square", "colour": "blue"}
    counts = [2 if second < 7 or second >= 9 else 1 for second in seconds]
    named = [[] if second < 4 else [red] if second < 9 else [red, blue] for second in seconds]
    assert more_than_named(counts, named, seconds, 10) == pytest.approx(2 / 5)  # 5 to 7 s, of 5 to 10
    assert more_than_named(counts, named, seconds, 6) == 1.0  # 4 to 6 s
    assert more_than_named(counts, named, seconds, 4) is None
    assert more_than_named(counts, [], seconds, 10) is None


def test_characters_are_counted_whole_or_cut_off():
    """A blue square in a grey frame; beside it, a red one that the edge cuts off."""
    frame = np.full((64, 64, 3), 200, np.uint8)
    assert open_oracle().counts(frame[None]) == [0]
    frame[30:50, 20:40] = 30, 60, 230
    alone = frame.copy()
    frame[30:50, 56:] = 230, 60, 30
    large = np.repeat(np.repeat(frame, 2, axis=0), 2, axis=1)
    assert open_oracle().counts(np.stack([alone, frame])) == [1, 2]
    assert open_oracle().counts(large[None]) == [2]
    wide = np.stack([np.full((64, 64, 3), 200, np.uint8)] * 2)
    wide[0, 30:50, 10:52] = wide[1, 30:50, 10:53] = 30, 60, 230
    assert open_oracle().counts(wide) == [1, 2]  # smeared by walking; two that touch each other


def test_places_are_read_from_frames_and_prompts():
    oracle, left = open_oracle(), round(MARGIN * 64)
    frames = np.stack([255 * place_image(place, 0)[:, left : left + 64] for place in PLACES]).astype(np.uint8)
    assert oracle.places(frames) == list(PLACES)
    assert [oracle.place_in(f"a red circle walks {before} {place}") for place, before in PLACES.items()] == list(PLACES)
    assert oracle.place_in("a red circle walks") is None


def test_a_character_is_one_that_is_seen_for_half_a_second_after_the_start():
    seconds = np.arange(40) / 4
    red, blue = {"shape": "circle", "colour": "red"}, {"shape": "circle", "colour": "blue"}
    first_half_second = [red if second < 0.5 else blue for second in seconds]
    assert distinct_characters(first_half_second, seconds, 10) == 2
    assert distinct_characters([red if second < 0.25 else blue for second in seconds], seconds, 10) == 1
    assert distinct_characters([{"shape": "circle"} for _ in seconds], seconds, 10) == 0  # no colour is read


def test_of_two_whole_characters_the_larger_is_the_subject(oracle):
    rows = oracle.embed(np.stack([frame((5, 0, 0, 0, 0, 0), (9, 0, 1, 1, 1, 1), (7, 0, 0, 1, 0, 0))]))
    assert oracle.trait_values(rows) == [{"shape": "square", "colour": "blue", "hat": "tall", "bag": "bag"}]


def test_a_prompt_names_a_colour_and_the_shape_after_it(oracle):
    assert oracle.characters_in("a circle, then a Red circle and a square; a blue, tall square") == [
        {"shape": "circle", "colour": "red"},
        {"shape": "square", "colour": "blue"},
    ]


def test_distinct_characters(oracle):
    seconds = np.arange(80) / 4
    red, blue, blip = ((9, 0, 0, 0, 0, 0), (9, 0, 1, 1, 0, 0), (9, 0, 1, 0, 0, 0))
    frames = [frame(red) if t < 10 else frame(blip) if t == 10 else frame(blue) for t in seconds]
    readings = oracle.trait_values(oracle.embed(np.stack(frames)))
    assert distinct_characters(readings, seconds, 20) == 2  # one misread frame is nobody
    assert distinct_characters(readings, seconds, 10) == 1
    assert json.dumps(distinct_characters(readings, seconds, 10)) == "1"


def test_larger_videos_are_brought_to_the_oracle_s_size():
    sizes = []
    OracleEmbedder(lambda f: sizes.append(f.shape) or (), TRAITS, ()).embed(np.zeros((1, 256, 256, 3), np.uint8))
    assert sizes == [(64, 64, 3)]


def test_the_right_one_is_told_from_its_rival():
    """The subject has a hat and no bag, its rival a bag and no hat; what both share says nothing."""
    seconds = np.arange(0, 60, 0.25)
    subject, rival = ({"colour": "red", "hat": hat, "bag": bag} for hat, bag in (("tall", "none"), ("none", "bag")))
    traits, windows, other = ("colour", "hat", "bag"), DriftWindows(5.0), DriftWindows(20.0)

    def ends_as(last, second=rival):
        readings = [subject if s < 15 else second if s < 40 else last for s in seconds]
        return kept_traits(readings, seconds, 60.0, traits, windows, rival=other).right_one

    assert ends_as(subject) is True
    assert ends_as(rival) is False
    assert ends_as({**subject, "hat": "none"}) is False  # as much of one as of the other
    assert ends_as({"colour": "red", "hat": "tall"}) is True
    assert ends_as({}) is False
    assert ends_as(subject, second=subject) is None  # nobody could tell
    readings = [subject] * len(seconds)
    assert kept_traits(readings, seconds, 60.0, traits, windows).right_one is None


def test_videos_of_the_oracle_s_size_are_read_as_they_are():
    seen = []
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    OracleEmbedder(lambda f: seen.append(f) or (), TRAITS, ()).embed(picture[None])
    assert np.shares_memory(seen[0], picture)
