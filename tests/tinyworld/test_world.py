"""The world, its grammar, and the layouts that the backbone is trained in."""

import time

import numpy as np
import pytest
import torch
from PIL import Image

from backbone.config import ContextConfig
from longlive_rag.tinyworld.corpus import Corpus
from longlive_rag.tinyworld.drawing import BAGS, HATS, PATTERNS, SIZES_PX, TINTS_DEGREES
from longlive_rag.tinyworld.grammar import (
    ACTIONS,
    COLOURS,
    MEETS,
    PLACES,
    SHAPES,
    Sentence,
    held_out,
    held_out_sentences,
    parse,
    sentence_text,
    template_count,
)
from longlive_rag.tinyworld.motion import SIZE_PX, WAITS, simulate
from longlive_rag.tinyworld.oracle import read_frame
from longlive_rag.tinyworld.scripts import (
    block_frame,
    block_start,
    draw_subjects,
    sample_script,
    sample_sentences,
    sample_subjects,
)
from longlive_rag.tinyworld.train_backbone import layout
from longlive_rag.tinyworld.world import (
    DISSOLVE_FRAMES,
    Actor,
    Camera,
    Character,
    Cue,
    Place,
    Script,
    actor_cover,
    render,
    script_for,
)


def test_rendering_is_deterministic_and_cuts_anywhere() -> None:
    script = sample_script(np.random.default_rng(3), 120)
    whole = render(script)
    assert whole.shape == (120, SIZE_PX, SIZE_PX, 3)
    for start, stop in ((13, 29), (0, 1), (33, 120)):
        assert np.array_equal(whole[start:stop], render(script, start, stop))


def test_the_world_is_as_rich_as_promised() -> None:
    assert len(SHAPES) >= 3
    assert len(COLOURS) >= 6
    assert len(PLACES) >= 6
    assert len(TINTS_DEGREES) * len(SIZES_PX) * len(PATTERNS) * len(HATS) * len(BAGS) >= 200


@pytest.mark.parametrize(
    ("action", "moves"), [("stands", False), ("walks", True), ("jumps", True), ("leaves", True), ("returns", True)]
)
def test_actions_move_as_they_say(action: str, moves: bool) -> None:
    track = simulate((Cue(0, action),), 80)
    travelled = np.ptp(track.x) + np.ptp(track.y)
    assert (travelled > 8) == moves
    assert (0 < track.x[-1] < SIZE_PX) == (action != "leaves")


def test_two_meet_face_each_other_and_do_not_overlap() -> None:
    script = script_for(parse("a red circle meets a blue square in a city"), 80, seed=2)
    host, guest = script.tracks()
    assert script.on_screen()[:, -1].all()
    assert not script.on_screen()[1, 0]
    assert guest.x[-1] - host.x[-1] > 30
    assert (host.facing[-1], guest.facing[-1]) == (1, -1)


def test_a_camera_pans_the_place_and_the_characters_alike() -> None:
    camera = Camera(reach_px=4.0, period=40)
    actor = Actor(Character("circle", "red"), (Cue(0, "stands"),))
    moving = Script(((0, Place("city", 1)),), (actor,), 31, camera)
    still = Script(moving.places, moving.actors, 31)
    assert camera.shift_px(10, 11)[0] == pytest.approx(4.0)
    assert np.array_equal(render(moving)[10][:, :-4], render(still)[10][:, 4:])
    assert np.array_equal(render(moving)[0], render(still)[0])


def test_a_new_place_dissolves_into_view_and_is_then_all_there_is() -> None:
    actor = Actor(Character("circle", "red"), (Cue(0, "stands"),))
    two = Script(((0, Place("snow", 1)), (20, Place("forest", 2))), (actor,), 50)
    one = Script(((0, Place("forest", 2)),), (actor,), 50)
    assert two.sentence(19).place == "snow"
    assert two.sentence(20).place == "forest"
    assert not np.array_equal(render(two)[25], render(one)[25])
    assert np.array_equal(render(two)[20 + DISSOLVE_FRAMES], render(one)[20 + DISSOLVE_FRAMES])


def test_a_minute_is_drawn_quickly() -> None:
    script = sample_script(np.random.default_rng(4), 960)
    render(script, 0, 16)  # warm
    start = time.process_time()
    render(script)
    assert time.process_time() - start < 10  # about 0.6 s on a quiet core; ten times that is a fault


def test_held_out_combinations_never_occur_in_training_scripts() -> None:
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(400):
        script = sample_script(rng, 120)
        for actor in script.actors:
            who = actor.character
            assert not any(held_out(who.colour, who.shape, place.name) for _, place in script.places[:1])
        who = script.actors[0].character
        assert not any(held_out(who.colour, who.shape, place.name) for _, place in script.places)
        seen.add((who.colour, who.shape))
    assert len(seen) == len(COLOURS) * len(SHAPES)
    for sentence in sample_sentences(200, seed=0):
        assert not held_out(sentence.colour, sentence.shape, sentence.place)
    assert len(held_out_sentences()) == len(COLOURS) * len(SHAPES) * len(ACTIONS)


def test_scripts_hold_what_memory_is_for() -> None:
    rng = np.random.default_rng(1)
    scripts = [sample_script(rng, 189) for _ in range(200)]
    actions = {cue.action for script in scripts for actor in script.actors for cue in actor.cues}
    assert actions == {*ACTIONS, MEETS, WAITS}
    empty_at_first = [not script.on_screen()[0, 0] for script in scripts]
    assert 0.2 < np.mean(empty_at_first) < 0.5
    assert any(len(script.places) > 1 for script in scripts)
    for script in scripts:
        for actor in script.actors:
            assert all(cue.frame == 0 or cue.frame == block_start(cue.frame) for cue in actor.cues)


def test_entrances_are_blocks_in_which_someone_comes_in() -> None:
    actor = Actor(Character("circle", "red"), (Cue(0, "leaves"), Cue(block_frame(5), "returns")))
    script = Script(((0, Place("snow")),), (actor,), block_frame(8))
    corpus = Corpus(torch.zeros(1, 16, 24, 8, 8), [script], 8)
    assert corpus.entrances.tolist() == [[0, 5], [0, 6]]
    rng = np.random.default_rng(0)
    assert "leaves" in corpus.prompt(0, 4, rng)
    assert "returns" in corpus.prompt(0, 5, rng)


def test_actors_are_where_their_cover_says() -> None:
    rng = np.random.default_rng(5)
    for _ in range(6):
        script = sample_script(rng, 60)
        bare = Script(script.places, (), 60, script.camera)
        change = np.abs(render(script).astype(int) - render(bare)).max(-1) > 60  # darker than a shadow makes it
        cells = change.reshape(60, 8, 8, 8, 8).any(axis=(2, 4))
        cover = actor_cover(script, 8)
        assert cover.shape == cells.shape
        assert (cover[cells] > 0).mean() > 0.98
        assert cells[cover > 0.9].mean() > 0.69  # boxes around outlines; a triangle fills least of it


def test_sentences_are_read_back_in_every_word_order() -> None:
    meeting = Sentence("red", "circle", MEETS, "city", ("blue", "square"))
    for sentence in (*held_out_sentences()[:12], meeting):
        for template in range(template_count()):
            assert parse(sentence_text(sentence, template)) == sentence
    with pytest.raises(ValueError, match="names no place"):
        parse("a red circle walks")
    with pytest.raises(ValueError, match="who is met"):
        parse("a red circle meets in a city")
    with pytest.raises(ValueError, match="can't have"):
        Sentence("red", "circle", "walks", "city", ("blue", "square"))


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


def test_subjects_of_comparisons_are_all_different_and_can_be_said() -> None:
    subjects = sample_subjects(108, seed=0)
    assert len({subject["id"] for subject in subjects}) == 108
    for subject in subjects:
        sentence = parse("{who} {does} {where}".format_map(subject))
        met = parse("{who} meets {other} {where}".format_map(subject))
        assert met.other is not None
        assert met.other[0] != met.colour
        assert met.other[1] != met.shape
        assert parse("{who} walks {elsewhere}".format_map(subject)).place != sentence.place
        cast = [subject[name] for name in ("who", "other", "third", "fourth", "fifth")]
        places = [subject[name] for name in ("where", "elsewhere", "third_place", "fourth_place", "fifth_place")]
        told = [parse(f"{who} returns {where}") for who, where in zip(cast, places, strict=True)]
        assert len({each.colour for each in told}) == len({each.place for each in told}) == 5
    assert sample_subjects(32, seed=0) == subjects[:32]
    with pytest.raises(ValueError, match="there are 108 combinations"):
        sample_subjects(109, seed=0)


def test_drawn_subjects_look_as_their_words_say(tmp_path) -> None:
    subjects = sample_subjects(6, seed=1)
    drawn = draw_subjects(subjects, tmp_path / "one", seed=1)
    assert draw_subjects(subjects, tmp_path / "two", seed=1) == drawn
    pictures = [(tmp_path / "one" / each["start_image"]).read_bytes() for each in drawn]
    assert pictures == [(tmp_path / "two" / each["start_image"]).read_bytes() for each in drawn]
    for each in drawn:
        (seen,) = read_frame(np.asarray(Image.open(tmp_path / "one" / each["start_image"])))
        assert f"{seen.colour.value} {seen.shape.value}" in each["who"]
