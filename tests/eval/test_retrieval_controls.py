"""Random and recent-only memory, by the search that memory really does."""

from __future__ import annotations

import numpy as np
import torch

from eval.making import RecordedNoise
from eval.retrieval_controls import RandomKeys, RecencyKeys, retrieval_of
from longlive_rag.noise import PhiloxNoise
from retrieval.index import FrameIndex

LATENTS = torch.zeros(1, 3, 16, 4, 4)


def index_of(keys, blocks: int) -> tuple[FrameIndex, np.ndarray]:
    rows = np.concatenate([keys.encode(LATENTS)[0].numpy() for _ in range(blocks)])
    index = FrameIndex(rows.shape[1])
    index.add(rows)
    return index, rows


def test_recent_brings_back_the_newest_candidates_in_order():
    index, rows = index_of(RecencyKeys(), 160)  # 120 s
    for done in (60, 240, 480):
        found = [frame for frame, _ in index.search(rows[done - 1], range(1, done - 16), 6)]
        assert found == list(range(done - 17, done - 23, -1))


def test_random_brings_back_any_candidate_the_same_for_the_same_seed():
    index, rows = index_of(RandomKeys(7), 160)
    found = [
        frame for block in range(8, 160) for frame, _ in index.search(rows[3 * block - 1], range(1, 3 * block - 16), 2)
    ]
    again, _ = index_of(RandomKeys(7), 160)
    assert [frame for frame, _ in again.search(rows[-1], range(1, 460), 6)] == [
        frame for frame, _ in index.search(rows[-1], range(1, 460), 6)
    ]
    age = np.array(found) / np.repeat([3 * block - 16 for block in range(8, 160)], 2)
    assert 0.4 < age.mean() < 0.6  # neither the newest nor the oldest
    assert len(set(found)) > 150


def test_the_real_pipeline_retrieves_by_them(pipe):
    own = pipe.encoder
    chosen = {}
    for retrieval in ("similar", "recent", "random"):
        noise = RecordedNoise(PhiloxNoise([3]))
        with retrieval_of(pipe, retrieval, 3):
            blocks = list(pipe.stream("a red circle walks", seconds=7, seed=3, noise=noise))
        chosen[retrieval] = [(s.candidates, s.frames) for block in blocks for s in block.selections]
        assert pipe.encoder is own
        hashes = chosen.setdefault("hashes", [])
        hashes.append((noise.sha256, noise.draws))
    assert len(set(chosen["hashes"])) == 1  # all arms drew the same noise
    candidates, recent = chosen["recent"][-1]
    assert list(recent) == list(range(candidates, 0, -1))[: len(recent)]  # the sink is frame 0
    assert [len(frames) for _, frames in chosen["random"]] == [len(frames) for _, frames in chosen["similar"]]


def test_other_noise_has_another_hash():
    def drawn(seed: int, steps: int) -> str:
        noise = RecordedNoise(PhiloxNoise([seed]))
        for step in range(steps):
            noise(0, step, (2, 2))
        return noise.sha256

    assert drawn(1, 2) == drawn(1, 2)
    assert len({drawn(1, 2), drawn(2, 2), drawn(1, 3)}) == 3
