"""Random and recent-only memory: what is chosen, and that the pipeline takes it."""

from __future__ import annotations

import numpy as np
import pytest

from eval.making import RecordedNoise
from eval.retrieval_controls import choice_of
from longlive_rag.generation.noise import PhiloxNoise


def test_recent_brings_back_the_newest_candidates_in_order():
    choose = choice_of("recent", seed=0, memory_frames=6)
    assert choose(0, 9, range(1, 44)) == [43, 42, 41, 40, 39, 38]
    assert choose(0, 9, range(1, 3)) == [2, 1]
    assert choose(0, 9, range(1, 1)) == []


def test_random_brings_back_any_candidate_the_same_for_the_same_seed():
    choose, again, other = (choice_of("random", seed, memory_frames=2) for seed in (7, 7, 8))
    blocks = range(8, 160)
    found = [choose(0, block, range(1, 3 * block - 16)) for block in blocks]
    assert found == [again(0, block, range(1, 3 * block - 16)) for block in blocks]
    assert found != [other(0, block, range(1, 3 * block - 16)) for block in blocks]
    age = np.array(found).mean(axis=1) / np.array([3 * block - 16 for block in blocks])
    assert 0.4 < age.mean() < 0.6  # neither the newest nor the oldest
    assert choose(0, 9, range(1, 2)) == [1]


def test_takes_of_different_stories_draw_different_frames():
    one, same, other = (choice_of("random", 0, 2, story) for story in ("fox", "fox", "owl"))
    draws = [[choose(0, block, range(1, 100)) for block in range(20)] for choose in (one, same, other)]
    assert draws[0] == draws[1] != draws[2]


def test_unknown_retrieval_is_refused():
    assert choice_of("similar", 0, 6) is None
    with pytest.raises(ValueError, match="similar, random or recent"):
        choice_of("best", 0, 6)


def test_the_real_pipeline_retrieves_by_them(pipe):
    chosen, hashes = {}, set()
    for retrieval in ("similar", "recent", "random"):
        noise = RecordedNoise(PhiloxNoise([3]))
        choose = choice_of(retrieval, 3, pipe.context.memory_frames)
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
