"""Prompts to embeddings, against the library called by hand."""

import pytest
import torch

from backbone.text import encode_prompts, unknown_words
from backbone.words import unknown_words_of
from longlive_rag.tinyworld.grammar import held_out_sentences, vocabulary
from longlive_rag.tinyworld.text import TEXT_LENGTH, new_text_encoder, new_tokenizer, share_capitals


@pytest.fixture(scope="module")
def tokenizer():
    return new_tokenizer()


@pytest.fixture(scope="module")
def encoder(tokenizer):
    model = new_text_encoder(len(tokenizer)).eval()
    share_capitals(tokenizer, model)
    return model


@torch.no_grad()
def test_embeddings_are_the_encoders_states_and_zero_after_the_end(tokenizer, encoder) -> None:
    prompts = ["a red circle walks in a meadow", "the blue  square\njumps"]
    embeds = encode_prompts(tokenizer, encoder, prompts, TEXT_LENGTH)
    assert embeds.shape == (2, TEXT_LENGTH, encoder.config.d_model)
    for row, prompt in enumerate(prompts):
        ids = torch.tensor([tokenizer(" ".join(prompt.split()))["input_ids"]])
        states = encoder(input_ids=ids).last_hidden_state[0]
        torch.testing.assert_close(embeds[row, : len(states)], states, rtol=1e-4, atol=1e-5)
        assert embeds[row, len(states) :].eq(0).all()


def test_unknown_words_are_the_same_without_torch(tokenizer, tmp_path) -> None:
    tokenizer.save_pretrained(tmp_path)
    found = unknown_words_of(tmp_path)
    prompts = [
        "a red circle, walks in a meadow.",
        "Xyz a xyz  red-blue \u00c9 circlesquare ! wal ks",
        "",
        *vocabulary(),
    ]
    for prompt in [*prompts, *vocabulary(), *map(str.upper, vocabulary())]:
        assert found(prompt) == unknown_words(tokenizer, prompt)
    assert found(prompts[1]) == ["Xyz", "xyz", "red-blue", "\u00c9", "circlesquare", "wal", "ks"]
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer\.json can't be used"):
        unknown_words_of(tmp_path)


@torch.no_grad()
def test_case_means_nothing(tokenizer, encoder) -> None:
    plain, capital = encode_prompts(
        tokenizer, encoder, ["a red circle walks in a meadow", "A Red circle walks in a Meadow"], TEXT_LENGTH
    )
    assert torch.equal(plain, capital)


def test_every_sentence_of_the_grammar_is_known_and_fits(tokenizer) -> None:
    for sentence in held_out_sentences():
        assert unknown_words(tokenizer, str(sentence)) == []
        assert len(tokenizer(str(sentence))["input_ids"]) <= TEXT_LENGTH
    assert all(tokenizer.unk_token_id not in tokenizer(word)["input_ids"] for word in vocabulary())


def test_unknown_words_are_named_once_each_in_order(tokenizer) -> None:
    prompt = "A red elephant walks, slowly slowly, in a meadow."
    assert unknown_words(tokenizer, prompt) == ["elephant", "slowly", "slowly,"]


def test_a_saved_tokenizer_reads_the_same(tokenizer, tmp_path) -> None:
    tokenizer.save_pretrained(tmp_path)
    again = type(tokenizer).from_pretrained(tmp_path)
    prompt = "The purple triangle returns on a beach!"
    assert again(prompt)["input_ids"] == tokenizer(prompt)["input_ids"]
    assert tokenizer.unk_token_id not in again(prompt)["input_ids"]


@pytest.mark.parametrize("prompt", ["", "  \n\t "])
def test_empty_prompts_are_refused(tokenizer, encoder, prompt: str) -> None:
    with pytest.raises(ValueError, match="empty"):
        encode_prompts(tokenizer, encoder, [prompt], TEXT_LENGTH)


def test_prompts_that_are_too_long_are_refused(tokenizer, encoder) -> None:
    with pytest.raises(ValueError, match=f"reads at most {TEXT_LENGTH}"):
        encode_prompts(tokenizer, encoder, ["a red circle walks in a meadow " * 3], TEXT_LENGTH)
