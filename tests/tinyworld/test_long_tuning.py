"""Long tuning: films, the model's own versions of them, and what is trained on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from longlive_rag import LongLiveRAGPipeline, find_folder
from longlive_rag.generation.directions import retrieval_rules
from longlive_rag.tinyworld.corpus import CorpusSize, make_corpus
from longlive_rag.tinyworld.grammar import held_out
from longlive_rag.tinyworld.motion import WAITS
from longlive_rag.tinyworld.rolled import Films
from longlive_rag.tinyworld.scripts import block_frame, block_of, sample_film
from longlive_rag.tinyworld.train_backbone import CONTEXT, SAMPLER, TextToVideo, flow_loss
from longlive_rag.tinyworld.tune_long import _places, _sample
from longlive_rag.tinyworld.world import render

BLOCKS = 40


def test_in_a_film_one_leads_at_a_time_and_nobody_is_seen_before_their_scene():
    rng = np.random.default_rng(3)
    for _ in range(8):
        film = sample_film(rng, block_frame(80))
        starts = [frame for frame, _ in film.leads]
        assert starts == sorted(starts)
        assert starts[0] == 0
        assert {block_frame(block_of(frame)) for frame in starts} == set(starts)  # prompts change between blocks
        on_screen = film.on_screen()
        for (start, lead), end in zip(film.leads, [*starts[1:], film.frames], strict=True):
            for actor in range(len(film.actors)):
                if actor != lead:
                    assert not on_screen[actor, start:end].any()
            who = film.actors[lead].character
            assert film.sentence(start).colour == who.colour
            assert not held_out(who.colour, who.shape, film.place(start).name)
        assert all(actor.action(0) == WAITS for number, actor in enumerate(film.actors) if number != film.leads[0][1])


def test_blocks_begin_at_their_frames():
    assert [block_of(block_frame(block)) for block in range(6)] == list(range(6))
    assert block_of(block_frame(4) - 1) == 4


@pytest.fixture(scope="module")
def pipe():
    return LongLiveRAGPipeline.from_pretrained(find_folder("tiny-world"))


@pytest.fixture(scope="module")
def films(pipe, tmp_path_factory):
    """Two films of half a minute, rolled by tiny-world."""
    path = tmp_path_factory.mktemp("films") / "films.npy"
    found = Films(make_corpus(pipe.vae, path, CorpusSize(2, BLOCKS, 5), lambda line: None, sample_film))
    roll(found, pipe)
    return found


def roll(films, pipe):
    model = TextToVideo()
    model.take_over(pipe.tokenizer, pipe.text_encoder, pipe.transformer)
    timeline = pipe.timeline(pipe.request("a red circle walks", seconds=30))
    rules = retrieval_rules(pipe.memory, timeline, CONTEXT.window_frames)
    films.roll([0, 1], model.transformer.eval(), model.prompt_embeds, pipe.encoder, CONTEXT, SAMPLER, rules, 0)
    return model


def test_first_showings_are_the_world_s_and_the_rest_is_the_model_s_own_beside_it(films):
    corpus, size = films.corpus, CONTEXT.frames_per_block
    for film in range(2):
        assert films.given[film, 0]
        for block in range(BLOCKS):
            part = slice(block * size, (block + 1) * size)
            same = torch.equal(corpus.replay[film][:, part], corpus.latents[film][:, part])
            assert same == bool(films.given[film, block])
    own = ~films.given.repeat_interleave(size, 1)
    apart = (corpus.replay - corpus.latents).square().mean(dim=(1, 3, 4))[own].mean()
    shuffled = (corpus.latents.flip(0) - corpus.latents).square().mean(dim=(1, 3, 4))[own].mean()
    assert 0 < apart < 0.5 * shuffled


def test_memory_brings_back_what_had_left_the_window(films):
    window = CONTEXT.window_frames - CONTEXT.sink_frames
    full = 0
    for film in range(2):
        for block, recalled in enumerate(films.recalled[film]):
            past = block * CONTEXT.frames_per_block - window - CONTEXT.recency_guard_frames
            assert all(CONTEXT.sink_frames <= frame < max(past, 1) for frame in recalled)
            full += len(recalled) == CONTEXT.memory_frames
    assert full > BLOCKS


@pytest.mark.parametrize("kind", ["recalled", "right", "forgotten"])
def test_a_sample_is_a_block_of_the_world_after_a_context_of_the_model_s(films, kind):
    sample = _sample(films, _places(films, kind), kind, np.random.default_rng(0), 6)
    again = _sample(films, _places(films, kind), kind, np.random.default_rng(0), 6)
    assert torch.equal(sample.clean, again.clean)
    assert sample.prompts == again.prompts
    assert sample.clean.shape[2] == len(sample.plan.offsets)
    own = films.corpus.replay.transpose(1, 2).flatten(0, 1)
    for context in sample.clean.transpose(1, 2).flatten(0, 1):
        assert (own == context).flatten(1).all(1).any()


def test_right_frames_are_of_the_lead_s_first_showing(films):
    script = films.corpus.scripts[0]
    for block in range(BLOCKS):
        shown = films.first_shown[0][block]
        if shown:
            lead = [actor for start, actor in script.leads if start <= block_frame(block)][-1]
            first = next(start for start, actor in script.leads if actor == lead)
            assert shown.start == block_of(first)
            assert shown.stop <= block
            assert films.given[0, shown.start : shown.stop].all()


def test_steadiness_asks_for_the_same_error_in_all_frames(films, pipe):
    model = TextToVideo()
    model.take_over(pipe.tokenizer, pipe.text_encoder, pipe.transformer)
    sample = _sample(films, _places(films, "right"), "right", np.random.default_rng(1), 6)
    losses = []
    for steadiness in (0.0, 1.0, 2.0):
        torch.manual_seed(0)
        loss, figures, _ = flow_loss(model, sample, steadiness=steadiness)
        losses.append(loss.item())
    assert losses[1] - losses[0] == pytest.approx(losses[2] - losses[1], rel=1e-4)
    assert losses[1] - losses[0] == pytest.approx(figures["change"], abs=1e-4)


def test_a_film_is_drawn_as_it_is_told(films):
    film = replace(films.corpus.scripts[0], frames=block_frame(6))
    assert render(film).shape == (block_frame(6), 64, 64, 3)
