"""Recall tuning: films with impostors, and the blocks that are trained on."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from longlive_rag import LongLiveRAGPipeline, find_folder
from longlive_rag.tinyworld import tune_recall
from longlive_rag.tinyworld.corpus import CorpusSize
from longlive_rag.tinyworld.oracle import read_frame
from longlive_rag.tinyworld.scripts import block_frame, sample_film, with_impostors
from longlive_rag.tinyworld.train_backbone import CONTEXT, TextToVideo, degrade, flow_loss
from longlive_rag.tinyworld.tune_recall import _left_cache, draw_recall, make_films
from longlive_rag.tinyworld.world import render

SIZE = CONTEXT.frames_per_block


@pytest.fixture(scope="module")
def pipe():
    return LongLiveRAGPipeline.from_pretrained(find_folder("tiny-world"))


@pytest.fixture(scope="module")
def films(pipe, tmp_path_factory):
    return make_films(pipe.vae, tmp_path_factory.mktemp("recall"), lambda line: None, CorpusSize(5, 40, 6))


def test_impostors_have_the_same_words_and_do_the_same():
    rng = np.random.default_rng(2)
    for _ in range(20):
        film = sample_film(rng, block_frame(30))
        played = with_impostors(film, rng)
        assert replace(played, actors=film.actors) == film
        for one, other in zip(film.actors, played.actors, strict=True):
            assert one.cues == other.cues
            assert one.character != other.character
            assert (one.character.shape, one.character.colour) == (other.character.shape, other.character.colour)
    changed = [asdict(other.character)[name] != value for name, value in asdict(one.character).items()]
    assert 0 < sum(changed) < len(changed)


def test_memory_s_frames_show_the_lead_and_have_left_the_cache(films):
    assert len(films.shown) > 30
    for (film, block), frames in list(films.shown.items())[::7]:
        script = films.corpus.scripts[film]
        assert len(frames) >= CONTEXT.memory_frames
        assert frames.min() >= CONTEXT.sink_frames
        assert frames.max() < _left_cache(block * SIZE)
        lead = [actor for frame, actor in script.leads if frame <= block_frame(block)][-1]
        for latent in frames[:: max(1, len(frames) // 3)].tolist():
            (seen,) = read_frame(render(script, 4 * latent - 1, 4 * latent)[0])
            assert not seen.cut_off
            assert seen.colour.value == script.actors[lead].character.colour


def test_blocks_at_which_somebody_comes_are_those_after_their_call(films):
    assert films.coming
    for film, block in films.coming:
        calls = [frame for frame, _ in films.corpus.scripts[film].leads]
        assert any(0 <= block - (frame - 9) // 12 - 1 < tune_recall.COMING_BLOCKS for frame in calls)


def test_only_recent_frames_show_impostors_and_the_target_never_does(films, monkeypatch):
    monkeypatch.setattr(tune_recall, "IMPOSTORS_SHARE", 1.0)
    monkeypatch.setattr(tune_recall, "REPLAYED_SHARE", 0.0)
    sample, origin = draw_recall(films, np.random.default_rng(3), 8)
    again, _ = draw_recall(films, np.random.default_rng(3), 8)
    assert torch.equal(sample.clean, again.clean)
    assert sample.prompts == again.prompts
    memory = sum(offset is None for offset in sample.plan.offsets)
    for number, (film, block) in enumerate(zip(origin.scripts, origin.starts, strict=True)):
        true, start = films.corpus.latents[film], block * SIZE
        assert torch.equal(sample.target[number], true[:, start : start + SIZE])
        recent = [start + offset for offset in sample.plan.offsets[CONTEXT.sink_frames + memory :]]
        assert torch.equal(sample.clean[number][:, -len(recent) :], films.impostors[film][:, recent])
        for context in sample.clean[number][:, : -len(recent)].unbind(1):
            assert any(torch.equal(context, frame) for frame in true.unbind(1))


def test_the_own_versions_of_blocks_are_kept_apart_from_the_films(films):
    before = films.corpus.latents.clone()
    _, origin = draw_recall(films, np.random.default_rng(4), 2)
    origin.keep(torch.zeros(2, 16, SIZE, 8, 8))
    assert torch.equal(films.corpus.latents, before)
    film, start = origin.scripts[0], origin.starts[0] * SIZE
    assert not films.corpus.replay[film][:, start : start + SIZE].any()
    films.corpus.replay.copy_(before)


def test_what_is_spared_stays_as_it_is():
    torch.manual_seed(0)
    context = torch.randn(400, 4, 3, 4, 4)
    same = (degrade(context, 0.5) == context).flatten(1).all(1).float().mean()
    assert 0.4 < same < 0.6
    assert torch.equal(degrade(context, 1.0), context)
    torch.manual_seed(1)
    usual = (degrade(context) - context).square().mean()
    torch.manual_seed(1)
    spared = (degrade(context, 0.5) - context).square().mean()
    assert 0 < spared < 0.25 * usual


def test_where_somebody_comes_only_memory_tells_how_they_look(films, pipe, monkeypatch):
    """tiny-world expects the film's block after the right frames, more than after another film's."""
    monkeypatch.setattr(tune_recall, "COMING_SHARE", 1.0)
    monkeypatch.setattr(tune_recall, "IMPOSTORS_SHARE", 0.0)
    model = TextToVideo()
    model.take_over(pipe.tokenizer, pipe.text_encoder, pipe.transformer)
    sample, _ = draw_recall(films, np.random.default_rng(5), 12)
    memory = slice(CONTEXT.sink_frames, CONTEXT.sink_frames + sum(offset is None for offset in sample.plan.offsets))
    wrong = sample.clean.clone()
    wrong[:, :, memory] = sample.clean.roll(1, 0)[:, :, memory]
    losses = []
    for clean in (sample.clean, wrong):
        torch.manual_seed(0)
        with torch.no_grad():
            losses.append(flow_loss(model, replace(sample, clean=clean), spared=1.0)[0].item())
    assert losses[0] < 0.98 * losses[1]
