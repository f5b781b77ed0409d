"""Random, recent-only and empty memory: what is chosen, and that the pipeline takes it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from eval.making import RecordedNoise
from eval.retrieval_controls import RightFrames, by_chance, chooser_of, last_pixels, newest, nothing
from eval.scenarios import Story
from longlive_rag.config import Steering
from longlive_rag.generation.noise import PhiloxNoise
from longlive_rag.timeline import Timeline

FPS = 16
TIMELINE = Timeline(120 * FPS, FPS, 3, 4)
STORY = Story("s", "plain", "a red square walks in a meadow")


def test_recent_brings_back_the_newest_candidates_in_order():
    choose = newest(memory_frames=6)
    assert choose(9, range(1, 44)) == [43, 42, 41, 40, 39, 38]
    assert choose(9, range(1, 3)) == [2, 1]
    assert choose(9, range(1, 1)) == []


def test_random_brings_back_any_candidate_the_same_for_the_same_seed():
    choose, again, other = (by_chance(seed, "", memory_frames=2) for seed in (7, 7, 8))
    blocks = range(8, 160)
    found = [choose(block, range(1, 3 * block - 16)) for block in blocks]
    assert found == [again(block, range(1, 3 * block - 16)) for block in blocks]
    assert found != [other(block, range(1, 3 * block - 16)) for block in blocks]
    age = np.array(found).mean(axis=1) / np.array([3 * block - 16 for block in blocks])
    assert 0.4 < age.mean() < 0.6  # neither the newest nor the oldest
    assert choose(9, range(1, 2)) == [1]


def test_nothing_is_a_take_whose_whole_past_is_excluded_and_not_a_native_one(pipe):
    def latents(**settings):
        blocks = pipe.stream("a red circle walks", seconds=7, seed=3, **settings)
        return torch.cat([block.latents for block in blocks], 1)

    empty = latents(choose=lambda take, block, candidates: nothing(block, candidates))
    excluded = latents(memory=replace(pipe.memory, exclude=[(0, 7)]))
    native = latents(memory=replace(pipe.memory, enabled=False))
    assert torch.equal(empty, excluded)
    assert not torch.equal(empty[:, 12:], native[:, 12:])
    assert not torch.equal(empty, latents())


def test_takes_of_different_stories_draw_different_frames():
    one, same, other = (by_chance(0, story, 2) for story in ("fox", "fox", "owl"))
    draws = [[choose(block, range(1, 100)) for block in range(20)] for choose in (one, same, other)]
    assert draws[0] == draws[1] != draws[2]


def test_unknown_retrieval_is_refused():
    assert chooser_of("similar", STORY, 0, TIMELINE, 6) is None
    with pytest.raises(ValueError, match="similar, random, recent, nothing, opening or oracle"):
        chooser_of("best", STORY, 0, TIMELINE, 6)


def test_the_opening_alone_is_the_reference_and_the_opening():
    choose = chooser_of("opening", replace(STORY, origin_s=2.0), 0, TIMELINE, 3)
    second = TIMELINE.second_of
    assert choose(9, range(1, 5)) == []  # the subject was not there yet
    chosen = choose(90, range(1, 250))
    assert len(chosen) == 3
    assert 2.0 - 0.25 < second(chosen[0]) <= 2.0
    assert 6.75 <= second(chosen[-1]) < 7.0
    assert choose(90, range(10, 12)) == [10, 11]


class Drawn:
    """An oracle that reads what the tests wrote into a pixel."""

    hidden = ("hat", "bag")

    def embed(self, frames):
        return frames[:, 0, 0]

    def trait_values(self, rows):
        people = {
            1: {"shape": "square", "colour": "red", "hat": "tall", "bag": "none"},
            2: {"shape": "square", "colour": "red", "hat": "none", "bag": "none"},
            3: {"shape": "circle", "colour": "blue", "hat": "flat", "bag": "bag"},
            4: {"shape": "square", "colour": "red", "hat": "none", "bag": "bag"},
        }
        return [people.get(int(row[0]), {}) for row in rows]

    def characters_in(self, prompt):
        known = {"red square": ("square", "red"), "blue circle": ("circle", "blue")}
        return [dict(zip(("shape", "colour"), known[words], strict=True)) for words in known if words in prompt]


def right_frames(shown, story, limit=3):
    """With a person a latent frame."""
    frames = np.zeros((len(shown), 2, 2, 3), np.uint8)
    frames[:, 0, 0, 0] = shown
    chooser = RightFrames(story, TIMELINE, limit, Drawn())
    chooser.see(frames)
    chooser.see(frames[:0])  # a last block that was trimmed
    return chooser


def test_right_frames_show_whom_the_prompt_names_as_they_were_at_first():
    cues = ((10.0, "a blue circle returns in a city"), (20.0, "a red square returns in a meadow"))
    story = Story("s", "plain", "a red square walks in a meadow", cues)
    shown = [0, *[1] * 15, *[2] * 24, *[3] * 20, *[4] * 20]  # the square loses its hat after 4 s
    choose = right_frames(shown, story)
    block = TIMELINE.block_at(21 * FPS)
    assert choose(block, range(1, 80)) == [1, 8, 15]  # the first and the last that are right, and one between
    assert choose(block, range(12, 80)) == [12, 14, 15]
    assert choose(block, range(15, 80)) == [15, 16, 17]  # where they are too few, those next to them
    assert choose(TIMELINE.block_at(12 * FPS), range(1, 80)) == [40, 50, 59]  # the circle's turn
    assert choose(block, range(40, 60)) == []  # better nobody than somebody else


def test_of_two_with_the_same_words_the_subject_s_frames_are_right():
    """The one without a hat, at 5 s, is the subject; the other was there before."""
    story = Story("s", "plain", "a red square walks in a meadow", (), origin_s=5.0, rival_origin_s=0.0)
    shown = [0, *[1] * 19, *[2] * 20, *[0] * 10]
    choose = right_frames(shown, story)
    assert choose(TIMELINE.block_at(12 * FPS), range(1, 50)) == [20, 30, 39]
    told_not_to = replace(story, steering=(Steering(8.0, "exclude", 4.9, 11.0),))
    assert set(right_frames(shown, told_not_to)(TIMELINE.block_at(12 * FPS), range(1, 50))) <= set(range(1, 20))


def test_the_oracle_sees_the_last_pixel_frame_of_each_latent_frame():
    whole = np.arange(12)[:, None, None, None] * np.ones((1, 2, 2, 3), int)
    assert last_pixels(TIMELINE, TIMELINE.latents_of(3), whole)[:, 0, 0, 0].tolist() == [3, 7, 11]
    assert last_pixels(TIMELINE, TIMELINE.latents_of(0), whole[:9])[:, 0, 0, 0].tolist() == [0, 4, 8]
    assert last_pixels(TIMELINE, TIMELINE.latents_of(3), whole[:8])[:, 0, 0, 0].tolist() == [3, 7]


def test_the_real_pipeline_retrieves_by_them(pipe):
    chosen, hashes = {}, set()
    for retrieval in ("similar", "recent", "random"):
        noise = RecordedNoise(PhiloxNoise([3]))
        chooser = chooser_of(retrieval, STORY, 3, TIMELINE, pipe.context.memory_frames)
        choose = chooser and (lambda take, block, candidates, chooser=chooser: chooser(block, candidates))
        blocks = list(pipe.stream("a red circle walks", seconds=7, seed=3, noise=noise, choose=choose))
        chosen[retrieval] = [(s.candidates, s.frames) for block in blocks for s in block.selections]
        hashes.add((noise.sha256(), noise.draws))
    assert len(hashes) == 1  # all arms drew the same noise
    candidates, recent = chosen["recent"][-1]
    assert list(recent) == list(range(candidates, 0, -1))[: len(recent)]  # the sink is frame 0
    assert [len(frames) for _, frames in chosen["random"]] == [len(frames) for _, frames in chosen["similar"]]


def test_other_noise_has_another_hash():
    def drawn(seed: int, steps: int) -> str:
        noise = RecordedNoise(PhiloxNoise([seed]))
        for step in range(steps):
            noise(0, step, (2, 2))
        return noise.sha256()

    assert drawn(1, 2) == drawn(1, 2)
    assert len({drawn(1, 2), drawn(2, 2), drawn(1, 3)}) == 3
