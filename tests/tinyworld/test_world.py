"""The world, its grammar, its oracle, and the layouts that the backbone is trained in."""

import numpy as np
import pytest
import torch

from backbone.config import ContextConfig
from longlive_rag.tinyworld.grammar import COLOURS, PLACES, SHAPES, held_out, held_out_sentences, parse, sentence_text
from longlive_rag.tinyworld.oracle import read_frame
from longlive_rag.tinyworld.scripts import sample_script
from longlive_rag.tinyworld.train_backbone import layout
from longlive_rag.tinyworld.train_encoder import trajectory_smoothing, window_temporal_delta
from longlive_rag.tinyworld.world import Actor, Character, Cue, Place, Script, render, script_for, simulate


def still(shape: str, colour: str, place: str, frames: int = 1) -> np.ndarray:
    return render(Script(Place(place, 3), (Actor(Character(shape, colour), (Cue(0, "stands"),)),), frames))


def test_rendering_is_deterministic_and_cuts_anywhere() -> None:
    script = script_for(parse("a red circle walks in a meadow"), 40, seed=5)
    whole = render(script)
    assert whole.shape == (40, 64, 64, 3)
    assert np.array_equal(whole[13:29], render(script, 13, 29))


@pytest.mark.parametrize("place", PLACES)
def test_the_oracle_reads_every_character_in_every_place(place: str) -> None:
    for shape in SHAPES:
        for colour in COLOURS:
            reading = read_frame(still(shape, colour, place)[0])
            assert reading.present
            assert reading.colour == colour, (shape, colour, place)
            assert abs(reading.centre[0] - 0.5) < 0.06


@pytest.mark.parametrize("place", PLACES)
def test_the_oracle_sees_nobody_in_an_empty_place(place: str) -> None:
    for seed in range(20):
        script = script_for(parse(f"a red circle returns in a {place}"), 1, seed)
        assert not read_frame(render(script)[0]).present


def test_shapes_look_different_and_none_fills_the_picture() -> None:
    areas = {shape: read_frame(still(shape, "red", "meadow")[0]).area for shape in SHAPES}
    assert all(0.025 < area < 0.2 for area in areas.values()), areas
    pictures = [still(shape, "red", "meadow")[0].astype(float) for shape in SHAPES]
    for one in range(len(pictures)):
        for other in range(one):
            assert np.abs(pictures[one] - pictures[other]).mean() > 0.5


@pytest.mark.parametrize(
    ("action", "moves"), [("stands", False), ("walks", True), ("jumps", True), ("leaves", True), ("returns", True)]
)
def test_actions_move_as_they_say(action: str, moves: bool) -> None:
    track = simulate(Actor(Character("circle", "red"), (Cue(0, action),)), 80)
    travelled = np.ptp(track.x) + np.ptp(track.y)
    assert (travelled > 8) == moves
    assert track.on_stage()[-1] == (action != "leaves")


def test_held_out_combinations_never_occur_in_training_scripts() -> None:
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(400):
        script = sample_script(rng, 10)
        who = script.actors[0].character
        assert not held_out(who.colour, who.shape, script.place.name)
        seen.add((who.colour, who.shape))
    assert len(seen) == len(COLOURS) * len(SHAPES)
    assert len(held_out_sentences()) == len(COLOURS) * len(SHAPES) * 6


def test_sentences_are_read_back_in_every_word_order() -> None:
    for sentence in held_out_sentences()[:12]:
        for template in range(4):
            assert parse(sentence_text(sentence, template)) == sentence
    with pytest.raises(ValueError, match="names no place"):
        parse("a red circle walks")


def test_training_layout_of_a_full_window_is_that_of_inference() -> None:
    context = ContextConfig()
    plan = layout("memory", 4, context.memory_frames, copies=1)
    copy = plan.mask[-1]
    seen = [position for position, sees in zip(plan.positions, copy, strict=True) if sees]
    assert seen == [0, 0, 0, 0, 0, 0, 0, 7, 8, 9, 10, 11]  # sink, six memory frames, two local frames, the block
    native = layout("native", 4, copies=2)
    assert [p for p, sees in zip(native.positions, native.mask[-1], strict=True) if sees] == list(range(12))
    first_copy, second_copy = native.mask[-4], native.mask[-1]
    assert not (first_copy[9:] & second_copy[9:]).any()  # copies do not see each other
    assert layout("first", 0).offsets == ()


def test_encoder_losses_by_hand() -> None:
    same = torch.ones(2, 8, 4) / 2
    assert window_temporal_delta(same) == pytest.approx(0.15)
    assert trajectory_smoothing(same) == pytest.approx(1e-4)
    turning = torch.eye(8)[None]
    assert window_temporal_delta(turning) == 0
    assert trajectory_smoothing(turning) == pytest.approx(6**0.5, rel=1e-5)
