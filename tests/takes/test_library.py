"""The library: every take is listed, and the frames that are found are the nearest by brute force."""

from __future__ import annotations

import json

import numpy as np
import pytest
from fakes import blocks_of, make_request, timeline_of

from longlive_rag.config import MemoryConfig
from longlive_rag.takes.folder import RECORD
from longlive_rag.takes.library import open_library, search_frame, search_words
from longlive_rag.takes.record import TakeRun
from longlive_rag.takes.writer import TakeWriter
from retrieval.store import BlockRecord, block_path

DIM = 6


def embeddings_of(seed, frames):
    return np.random.default_rng(seed).standard_normal((frames, DIM)).astype(np.float32)


def write(folder, prompt="a red circle walks in a meadow", seed=0, backbone_id="one", stored=True, **settings):
    request = make_request(settings.pop("seconds", 6.0), prompt=prompt, seed=seed, **settings)
    timeline = timeline_of(request)
    embeddings = embeddings_of(seed, timeline.latent_frames)
    run = TakeRun("fake", folder, "cpu", "float32", 2, "philox", backbone_id=backbone_id)
    writer = TakeWriter(folder, request, timeline, run)
    for block in blocks_of(request):
        latents = np.zeros((3, 16, 4, 4), np.float32)
        own = embeddings[3 * block.index : 3 * block.index + 3] if stored else None
        writer.append(BlockRecord(block.index, latents, own, None, prompt, None, {}))
        writer.add(block)
    writer.finish("finished")
    return folder


@pytest.fixture
def root(tmp_path):
    write(tmp_path / "a", seed=1)
    cues = [(3.0, "a blue square jumps in a desert")]
    write(tmp_path / "deep" / "b", "a red circle jumps in a desert", seed=2, cues=cues)
    return tmp_path


def test_every_take_is_listed(root):
    write(root / ".hidden" / "c")
    (root / "damaged").mkdir()
    (root / "damaged" / RECORD).write_text("{")
    library = open_library(root)
    assert [take.folder for take in library.takes] == [root / "a", root / "deep" / "b"]
    ((folder, reason),) = library.left_out
    assert folder == root / "damaged"
    assert "take.json can't be read" in reason
    record = json.loads((library.takes[0].folder / RECORD).read_text())
    (root / "damaged" / RECORD).write_text(json.dumps({**record, "request": {}}))
    (left,) = open_library(root).left_out
    assert left[1].endswith("take.json: request.prompt is missing")
    facts = library.takes[1].describe()
    assert (facts["seconds"], facts["seed"], facts["cues"]) == (6.0, 2, ["a blue square jumps in a desert"])
    with pytest.raises(ValueError, match="is not a folder"):
        open_library(root / "nowhere")


def brute_force(takes, query, asked, apart):
    """(take, latent frame) of the nearest frames, one a moment, by sorting all of them."""
    every = [(float(vector @ query / np.linalg.norm(vector) / np.linalg.norm(query)), take, frame)
             for take, seed in takes for frame, vector in enumerate(embeddings_of(seed, 27))]  # fmt: skip
    chosen = [(asked[0], asked[1])]
    for _, take, frame in sorted(every, key=lambda one: -one[0]):
        second = 0 if frame == 0 else (1 + 4 * (frame - 1)) / 16
        if second < 6 and all(take != other or abs(second - at) >= apart for other, at in chosen):
            chosen.append((take, second))
    return chosen[1:]


@pytest.mark.parametrize("apart", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("limit", [1, 4, 30])
def test_frames_like_a_frame_are_the_nearest(root, apart, limit):
    found = search_frame(open_library(root), root / "a", "0:02.3", limit, apart)
    latent = 9  # 2.3 s is pixel frame 36, the last of 33..36, which are the latent frame 9
    expected = brute_force([("a", 1), ("b", 2)], embeddings_of(1, 27)[latent], ("a", 36 / 16), apart)[:limit]
    assert [(hit.take.folder.name, hit.frames.start / 16) for hit in found.hits] == expected
    assert [hit.similarity for hit in found.hits] == sorted((hit.similarity for hit in found.hits), reverse=True)
    for hit in found.hits:
        assert hit.prompt == next(words for frames, words in hit.take.prompts if hit.shown in frames)
    assert found.left_out == ()


def test_what_can_not_be_compared_is_left_out(root):
    write(root / "c", seed=3, backbone_id="another")
    write(root / "d", seed=4, stored=False)
    write(root / "e", seed=5, memory=MemoryConfig(encoder="mean_pool"))
    write(root / "f", seed=6)
    path = block_path(root / "f" / "latents", 2)
    path.write_bytes(path.read_bytes()[:-1])
    found = search_frame(open_library(root), root / "a", "0", 100, 0)
    reasons = {folder.name: reason for folder, reason in found.left_out}
    assert {hit.take.folder.name for hit in found.hits} == {"a", "b", "f"}
    assert max(hit.frames.stop for hit in found.hits if hit.take.folder.name == "f") == 21
    assert "another backbone" in reasons["c"]
    assert "made without memory" in reasons["d"]
    assert "another encoder" in reasons["e"]
    assert "is damaged" in reasons["f"]
    with pytest.raises(ValueError, match="has no embedding: it has no embeddings"):
        search_frame(open_library(root), root / "d", "0", 1)


@pytest.mark.parametrize(("timecode", "message"), [("0:06", "lasts 6 s"), ("soon", "not a timecode")])
def test_a_frame_that_is_not_there(root, timecode, message):
    with pytest.raises(ValueError, match=message):
        search_frame(open_library(root), root / "a", timecode, 1)


def test_words_find_the_stretch_that_was_made_under_them(root):
    library = open_library(root)
    best, *rest = search_words(library, "Blue square!", 5).hits
    assert (best.take.folder.name, best.frames, best.prompt) == (
        "b", range(57, 96), "a blue square jumps in a desert",
    )  # fmt: skip
    assert best.shown in best.frames
    assert rest == []  # no other has a word in common
    order = [hit.prompt for hit in search_words(library, "a red circle jumps in a meadow", 5).hits]
    assert order[-1] == "a blue square jumps in a desert"
    assert len(search_words(library, "circle", 1).hits) == 1
    with pytest.raises(ValueError, match="describe in words"):
        search_words(library, " ?", 1)


def test_a_prompt_without_words_has_half_the_similarity_of_an_equal_embedding(tmp_path):
    write(tmp_path / "silent", "...")
    library = open_library(tmp_path)
    (hit,) = search_words(library, "a red circle", 1, lambda texts: np.ones((len(texts), 1), np.float32)).hits
    assert hit.similarity == pytest.approx(0.5, abs=1e-5)


def test_embeddings_find_what_words_do_not(root):
    def units(prompts):
        meaning = {"meadow": 0, "grass": 0, "desert": 1}
        rows = np.zeros((len(prompts), 2), np.float32)
        for row, prompt in enumerate(prompts):
            rows[row, next(place for word, place in meaning.items() if word in prompt)] = 1
        return rows

    hits = search_words(open_library(root), "grass", 5, units).hits
    assert [hit.take.folder.name for hit in hits] == ["a"]
    assert hits[0].similarity == pytest.approx(0.5)


def test_an_empty_library(tmp_path):
    assert search_words(open_library(tmp_path), "circle", 3).hits == ()
