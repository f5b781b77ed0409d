"""Training on the model's own predictions: they are kept where they belong and are used as context only."""

import numpy as np
import torch
from transformers import T5Tokenizer

from backbone.text import masked_states, token_batch
from longlive_rag.tinyworld.corpus import Corpus
from longlive_rag.tinyworld.scripts import sample_script
from longlive_rag.tinyworld.text import TEXT_LENGTH, new_text_encoder
from longlive_rag.tinyworld.train_backbone import Origin, TextToVideo, _keep_predictions, gather, guided_goal, layout


def corpus() -> Corpus:
    rng = np.random.default_rng(0)
    latents = torch.randn(2, 16, 18, 4, 4)
    made = Corpus(latents, [sample_script(rng, 69) for _ in range(2)], blocks=6)
    made.replay.zero_()
    return made


def test_a_prediction_lands_on_its_block_and_nowhere_else() -> None:
    data = corpus()
    predicted = torch.ones(1, 16, 12, 4, 4) * torch.arange(1, 5).repeat_interleave(3)[None, None, :, None, None]
    _keep_predictions(Origin(data, np.array([1]), np.array([2])), predicted, np.random.default_rng(0))
    assert data.replay[0].eq(0).all()
    assert data.replay[1, :, 6:9].unique().tolist()[0] in (2, 3, 4)  # never that of pure noise
    assert data.replay[1, :, :6].eq(0).all()
    assert data.replay[1, :, 9:].eq(0).all()


def test_replay_is_context_and_the_target_stays_true() -> None:
    data, plan = corpus(), layout("native", 4)
    scripts, starts = np.array([0, 1]), np.array([4, 5])
    for share, source in ((0.0, data.latents), (1.0, data.replay)):
        context, target = gather(data, plan, scripts, starts, np.random.default_rng(0), share)
        assert torch.equal(context[1, :, 1:], source[1, :, 7:15])
        assert torch.equal(target[1], data.latents[1, :, 15:18])


def test_local_frames_see_the_memory_that_they_were_committed_with() -> None:
    plan = layout("memory", 4, memory_frames=6, copies=1)
    assert plan.mask[7:12, 1:7].all()
    assert not plan.mask[0, 1:].any()  # the sink came first
    assert not plan.mask[:12, 12:].any()  # clean frames never see noise


def test_guidance_settles_where_a_scale_of_one_over_one_minus_its_strength_would() -> None:
    data, untold = torch.randn(2, 16, 3, 4, 4), torch.randn(2, 16, 3, 4, 4)
    strength = torch.tensor([0.5, 0.0])
    flow = torch.zeros_like(data)
    for _ in range(40):  # a model that learns its target exactly
        flow = guided_goal(data, flow, untold, strength)
    assert torch.allclose(flow[0], untold[0] + 2 * (data[0] - untold[0]), atol=1e-5)
    assert torch.equal(flow[1], data[1])


def test_an_earlier_model_is_taken_over_word_by_word() -> None:
    pieces = ["red", "heart", "circle", "walks", "in", "a", "meadow"]  # some words known, one gone, another order
    words = [
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        ("\u2581", -8.0),
        *((f"\u2581{word}", -1.0) for word in pieces),
    ]
    tokenizer = T5Tokenizer(vocab=words, extra_ids=0)
    earlier = TextToVideo(seed=1)
    text_encoder = new_text_encoder(len(tokenizer), seed=2).eval()
    model = TextToVideo(seed=3).eval()
    fresh = model.text_encoder.get_input_embeddings().weight.detach().clone()
    model.take_over(tokenizer, text_encoder, earlier.transformer)

    prompt = ["a red circle walks in a meadow"]
    ids, mask = token_batch(tokenizer, prompt, TEXT_LENGTH)
    with torch.no_grad():
        assert torch.allclose(model.prompt_embeds(prompt), masked_states(text_encoder, ids, mask), atol=1e-6)
    assert all(torch.equal(one, other) for one, other in zip(
        model.transformer.parameters(), earlier.transformer.parameters(), strict=True
    ))  # fmt: skip
    unknown_before = model.tokenizer.convert_tokens_to_ids("\u2581desert")
    assert torch.equal(model.text_encoder.get_input_embeddings().weight[unknown_before], fresh[unknown_before])
