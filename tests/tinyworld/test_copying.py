"""What a backbone copies wrongly from a past that the world drew."""

from __future__ import annotations

import numpy as np
import pytest

from longlive_rag import LongLiveRAGPipeline, find_folder
from longlive_rag.tinyworld.copying import CALLED, PARTS, WORLD_SEED, _kept, _script, measure_copying
from longlive_rag.tinyworld.evaluate import unseen_sentences
from longlive_rag.tinyworld.oracle import TRAITS
from longlive_rag.tinyworld.scripts import block_frame
from longlive_rag.tinyworld.validate import through_vae
from longlive_rag.tinyworld.world import render


@pytest.fixture(scope="module")
def measured():
    pipe = LongLiveRAGPipeline.from_pretrained(find_folder("tiny-world"))
    videos: list[np.ndarray] = []
    figures = measure_copying(pipe, 2, 2, lambda count: None, lambda name, video: videos.append(video))
    return pipe, figures, videos


def test_the_past_is_the_world_s_and_the_rest_the_backbone_s(measured):
    pipe, _, videos = measured
    for number, sentence in enumerate(unseen_sentences(2, ("returns",))):
        world = through_vae(pipe.vae, render(_script(sentence, WORLD_SEED + number)))
        apart = np.abs(videos[number].astype(int) - world)
        called = block_frame(CALLED)
        assert apart[:called].max() <= 1  # rounding: one is decoded in blocks
        assert apart[called:].mean() > 10 * apart[:called].mean()


def test_traits_are_compared_with_the_world_s(measured):
    _, figures, _ = measured
    for number, row in enumerate(figures["takes"]):
        who = _script(unseen_sentences(2, ("returns",))[number], WORLD_SEED + number).actors[0].character
        assert row["world"]["hat"] == who.hat
        assert row["world"]["size"] == who.size_px
        assert row["later"]["colour"] == who.colour
    assert set(figures["parts"]) == set(PARTS)


def test_all_traits_count_together_only_where_each_is_right():
    world = dict.fromkeys(TRAITS, "so")
    rows = [{"world": world, "later": {**world, "hat": value}} for value in ("so", "other", None)]
    kept = _kept(rows, "later")
    assert kept["all"] == kept["hat"] == pytest.approx(1 / 3)
    assert kept["bag"] == 1
