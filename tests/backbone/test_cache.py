"""The cache: what it holds, what leaves, and that a cached pass is the uncached function."""

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from backbone.attention import attention
from backbone.cache import CacheShape, KVCache
from backbone.config import ContextConfig
from backbone.transformer import CausalWanTransformer

LATENT = (16, 4, 6)


@pytest.fixture(scope="module")
def model() -> CausalWanTransformer:
    torch.manual_seed(0)
    return (
        CausalWanTransformer(
            num_attention_heads=2,
            attention_head_dim=24,
            num_layers=2,
            ffn_dim=96,
            freq_dim=32,
            text_dim=20,
            text_length=7,
        )
        .double()
        .eval()
    )


def new_cache(model: CausalWanTransformer, context: ContextConfig, batch: int = 1) -> KVCache:
    config = model.config
    grid = model.token_grid(LATENT[1:])
    shape = CacheShape(
        config.num_layers, batch, config.num_attention_heads, config.attention_head_dim, grid, model.dtype, model.device
    )
    return KVCache(context, shape)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_cached_block_equals_the_uncached_function_under_a_block_causal_mask(model: CausalWanTransformer) -> None:
    context = ContextConfig(window_frames=9, sink_frames=2, memory_frames=0)
    frames, block = 9, 3
    latents, text = draw(1, 16, frames, *LATENT[1:]), draw(1, 7, 20, seed=1)
    cache, prompt = new_cache(model, context), model.encode_text(text)
    zero, noisy = torch.zeros(1, dtype=torch.float64), torch.full((1,), 625.0, dtype=torch.float64)
    with torch.no_grad():
        for first in range(0, frames, block):
            cache.admit(block)
            cache.assemble()
            clean = latents[:, :, first : first + block]
            if first + block == frames:
                cached = model.forward_block(clean, noisy, prompt, cache)
            else:
                model.commit_block(clean, zero, prompt, cache)

        blocks = torch.arange(frames) // block
        times = torch.cat([zero.expand(frames - block), noisy.expand(block)])[None]
        whole = model(latents, times, text, frame_mask=blocks[:, None] >= blocks[None])
    torch.testing.assert_close(cached, whole[:, :, -block:], rtol=1e-6, atol=1e-6)


def test_the_oldest_frames_outside_the_sink_leave_first(model: CausalWanTransformer) -> None:
    cache = new_cache(model, ContextConfig(window_frames=7, sink_frames=1, memory_frames=2, recency_guard_frames=0))
    left = []
    for _ in range(5):
        left.append([frame for frame, _ in cache.admit(3)])
    assert left == [[], [], [1, 2], [3, 4, 5], [6, 7, 8]]
    assert cache.frames == [0, 9, 10, 11, 12, 13, 14]


def test_what_leaves_is_what_was_kept(model: CausalWanTransformer) -> None:
    """The page that leaves holds the keys and values that the commit pass wrote for that frame, not rotated."""
    cache = new_cache(model, ContextConfig(window_frames=7, sink_frames=1, memory_frames=0))
    tokens = cache.shape.tokens_per_frame
    written: dict[int, tuple[Tensor, Tensor]] = {}
    for block in range(4):
        for frame, page in cache.admit(3):
            for layer in range(2):
                assert torch.equal(page[0, layer], written[frame][0] + layer)
                assert torch.equal(page[1, layer], written[frame][1] + layer)
        cache.assemble()
        key, value = draw(1, 3 * tokens, 2, 24, seed=block), draw(1, 3 * tokens, 2, 24, seed=100 + block)
        for layer in range(2):
            cache.contexts(keep=True)[layer].write(key + layer, value + layer)
        for index in range(3):
            span = slice(index * tokens, (index + 1) * tokens)
            written[3 * block + index] = (key[:, span], value[:, span])
    assert cache.frames == [0, 6, 7, 8, 9, 10, 11]


@pytest.mark.parametrize(
    ("memory", "blocks", "seen_frames"),
    [(0, 1, 3), (0, 2, 6), (0, 5, 12), (0, 9, 12), (6, 1, 3), (6, 2, 6), (6, 3, 6), (6, 9, 6)],
)
def test_local_frames_are_limited_by_the_share_of_memory_even_while_it_is_empty(
    model: CausalWanTransformer, memory: int, blocks: int, seen_frames: int
) -> None:
    cache = new_cache(model, ContextConfig(memory_frames=memory))
    tokens = cache.shape.tokens_per_frame
    for _ in range(blocks):
        cache.admit(3)
        cache.assemble()
    assert cache.contexts(keep=False)[0].keys.shape[1] == seen_frames * tokens


def test_memory_joins_the_context_at_temporal_position_zero(model: CausalWanTransformer) -> None:
    cache = new_cache(model, ContextConfig(memory_frames=2, recency_guard_frames=0))
    tokens = cache.shape.tokens_per_frame
    for _ in range(2):
        cache.admit(3)
    pages = [draw(*cache.shape.page, seed=seed)[:, :, 0] for seed in (5, 6)]
    cache.assemble([[(3, pages[0]), (1, pages[1])]])
    context = cache.contexts(keep=False)[1]
    keys, values = context.keys, context.values
    at_zero = model.rotation(torch.tensor([0]), LATENT[1:])
    for place, page in enumerate(pages, start=1):
        span = slice(place * tokens, (place + 1) * tokens)
        assert torch.equal(values[:, span], page[1, 1][None])
        assert torch.equal(keys[:, span], at_zero(page[0, 1][None]))


def test_memorys_gain_sharpens_attention_to_memory_alone(model: CausalWanTransformer) -> None:
    """By closed form: a token of memory weighs exp(gain q.k / sqrt(d)) in attention, any other exp(q.k / sqrt(d))."""
    gain, query = 1.7, draw(1, 5, 2, 24, seed=3)
    cache = new_cache(model, ContextConfig(memory_frames=2, recency_guard_frames=0, memory_gain=gain))
    tokens = cache.shape.tokens_per_frame
    for number in range(3):
        cache.admit(3)
        cache.assemble()
        for context in cache.contexts(keep=True):
            context.write(*draw(2, 1, 3 * tokens, 2, 24, seed=number))
    page = draw(*cache.shape.page, seed=5)[:, :, 0]
    cache.assemble([[(3, page)]])
    context = cache.contexts(keep=False)[1]
    context.write(*draw(2, 1, 3 * tokens, 2, 24, seed=2))
    attended = attention(query, context.keys, context.values)

    keys, is_memory = context.keys.clone(), torch.zeros(context.keys.shape[1], dtype=torch.bool)
    is_memory[tokens : 2 * tokens] = True
    keys[:, is_memory] = model.rotation(torch.tensor([0]), LATENT[1:])(page[0, 1][None])
    scores = torch.einsum("bqhd,bkhd->bhqk", query, keys) / 24**0.5
    weights = torch.where(is_memory, gain * scores, scores).softmax(dim=-1)
    torch.testing.assert_close(attended, torch.einsum("bhqk,bkhd->bqhd", weights, context.values), rtol=1e-6, atol=1e-6)


def test_memorys_gain_changes_with_the_noise_and_leaves_the_rest_as_it_is(model: CausalWanTransformer) -> None:
    settings = ContextConfig(memory_frames=2, recency_guard_frames=0, memory_gain=1.25, first_gain=0.5)
    cache = new_cache(model, settings)
    tokens, page = cache.shape.tokens_per_frame, draw(*cache.shape.page, seed=5)[:, :, 0]
    cache._pages[0].copy_(draw(*cache.shape.page, seed=4))
    for _ in range(2):
        cache.admit(3)
    cache.assemble([[(3, page)]])
    (context, *_) = cache.contexts(keep=False)
    first, is_memory = context.keys.clone(), torch.zeros(context.keys.shape[1], dtype=torch.bool)
    is_memory[tokens : 2 * tokens] = True
    plain = model.rotation(torch.tensor([0]), LATENT[1:])(page[0, 0][None])
    for sigma, gain in ((1.0, 0.5), (0.8, 0.65), (0.2, 1.1), (0.0, 1.25)):
        cache.step_to(sigma)
        torch.testing.assert_close(context.keys[:, is_memory], plain * gain)
        assert torch.equal(context.keys[:, ~is_memory], first[:, ~is_memory])
    cache.admit(3)
    cache.assemble()
    before = context.keys.clone()
    cache.step_to(0.2)
    assert torch.equal(context.keys, before)


def test_memorys_gain_is_for_the_frames_that_are_given_it_and_others_have_what_is_below_1(
    model: CausalWanTransformer,
) -> None:
    settings = ContextConfig(memory_frames=2, recency_guard_frames=0, memory_gain=1.25, first_gain=0.5)
    cache = new_cache(model, settings, batch=2)
    tokens = cache.shape.tokens_per_frame
    pages = [draw(*new_cache(model, settings).shape.page, seed=seed)[:, :, 0] for seed in (5, 6, 7)]
    for _ in range(2):
        cache.admit(3)
    cache.assemble([[(3, pages[0]), (1, pages[1])], [(2, pages[2])]], [[False, True], [True]])
    keys = cache.contexts(keep=False)[0].keys[:, tokens : 3 * tokens].unflatten(1, (2, tokens))
    plain = [model.rotation(torch.tensor([0]), LATENT[1:])(page[0, 0][None])[0] for page in pages]
    for sigma, gain in ((1.0, 0.5), (0.2, 1.1), (0.0, 1.25)):
        cache.step_to(sigma)
        torch.testing.assert_close(keys[0, 0], plain[0] * min(gain, 1.0))
        torch.testing.assert_close(keys[0, 1], plain[1] * gain)
        torch.testing.assert_close(keys[1, 0], plain[2] * gain)


def test_takes_of_a_batch_that_remember_different_numbers_of_frames_see_what_they_would_alone(
    model: CausalWanTransformer,
) -> None:
    context, text = ContextConfig(memory_frames=2, recency_guard_frames=0), draw(2, 7, 20, seed=9)
    pages = [draw(*new_cache(model, context).shape.page, seed=seed)[:, :, 0] for seed in (5, 6, 7)]
    remembered = [[(3, pages[0]), (1, pages[1])], [(2, pages[2])]]
    block, timestep = draw(2, 16, 3, *LATENT[1:], seed=4), torch.full((2,), 500.0)

    def flows(takes: slice) -> torch.Tensor:
        memory = remembered[takes]
        cache = new_cache(model, context, batch=len(memory))
        for tensor in (*cache._keys, *cache._values):
            tensor.fill_(float("nan"))
        for _ in range(2):
            cache.admit(3)
        cache.assemble(memory)
        assert (cache.contexts(keep=False)[0].mask is None) == (len(memory) == 1)
        return model.forward_block(block[takes], timestep[takes], model.encode_text(text[takes]), cache)

    together = flows(slice(0, 2))
    for take in (0, 1):
        torch.testing.assert_close(together[take], flows(slice(take, take + 1))[0])


class _Recorder(TorchDispatchMode):
    """Names of the operators that run, and the largest tensor that any of them makes."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.names.add(func.overloadpacket.__name__)
        if isinstance(out, Tensor) and not func.is_view and not out._is_view():
            self.largest = max(self.largest, out.numel())
        return out


def test_a_step_neither_synchronises_nor_concatenates_nor_copies_the_cache(model: CausalWanTransformer) -> None:
    cache = new_cache(model, ContextConfig(memory_frames=0))
    prompt = model.encode_text(draw(1, 7, 20))
    for _ in range(5):
        cache.admit(3)
        cache.assemble()
    block, time = draw(1, 16, 3, *LATENT[1:]), torch.full((1,), 625.0, dtype=torch.float64)
    with torch.no_grad(), _Recorder() as recorder:
        model.forward_block(block, time, prompt, cache)
    one_layer_of_context = 12 * cache.shape.tokens_per_frame * 48
    assert "_local_scalar_dense" not in recorder.names  # .item(), .tolist(), bool(tensor)
    assert recorder.names & {"addmm", "linear"}
    # The timestep's sinusoids (freq_dim numbers) are the only thing laid side by side.
    assert recorder.largest < one_layer_of_context


@pytest.mark.parametrize("rope", ["relative", "absolute"])
def test_a_page_made_again_is_the_committed_one_where_the_frame_saw_itself_alone(rope: str) -> None:
    """Blocks of one frame without sink, and a context of one frame: commit and remake are then the same function."""
    torch.manual_seed(2)
    model = CausalWanTransformer(
        num_attention_heads=2, attention_head_dim=24, num_layers=3, ffn_dim=96, freq_dim=32, text_dim=20, text_length=7
    ).eval()
    config = ContextConfig(window_frames=2, sink_frames=0, memory_frames=1, frames_per_block=1, rope=rope)
    cache = KVCache(config, CacheShape(3, 1, 2, 24, (2, 3), torch.float32, torch.device("cpu")))
    latents = torch.randn(1, 16, 5, 4, 6)
    with torch.no_grad():
        text = model.encode_text(torch.randn(1, 7, 20))
        committed = []
        for frame in range(5):
            committed += [(left, page.clone()) for left, page in cache.admit(1)]
            cache.assemble()
            model.commit_block(latents[:, :, frame : frame + 1], torch.zeros(1), text, cache)
        frames = [frame for frame, _ in committed]
        positions = torch.tensor([cache.committed_position(frame) for frame in frames])
        again = model.encode_pages(latents[0].transpose(0, 1)[frames], positions, 0.0, text)
    assert frames == [0, 1, 2]
    for (_, page), remade in zip(committed, again, strict=True):
        torch.testing.assert_close(remade, page[:, :, 0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rope", ["relative", "absolute"])
def test_a_shot_begins_with_an_empty_cache_as_a_take_does(model: CausalWanTransformer, rope: str) -> None:
    """What is computed in a second shot is, to the bit, what a take of this shot alone computes."""
    context = ContextConfig(window_frames=7, sink_frames=1, memory_frames=0, rope=rope)
    latents, text = draw(1, 16, 3, *LATENT[1:]), draw(1, 7, 20, seed=1)
    first, alone, prompt = new_cache(model, context), new_cache(model, context), model.encode_text(text)
    time = torch.zeros(1, dtype=torch.float64)

    def block(cache: KVCache, number: int) -> Tensor:
        cache.admit(3)
        cache.assemble()
        return model.commit_block(latents + number, time, prompt, cache)

    with torch.no_grad():
        for number in range(4):
            block(first, number)
        assert [frame for frame, _ in first.begin_shot(12)] == [0, 6, 7, 8, 9, 10, 11]
        assert first.frames == []
        for number in range(4, 8):
            block(first, number)
            block(alone, number)
            assert torch.equal(first.pages(), alone.pages())
            assert first.frames == [frame + 12 for frame in alone.frames]
            assert [frame - 12 for frame in first.assemble_refresh()] == list(alone.assemble_refresh())
    assert first.frames == [12, 18, 19, 20, 21, 22, 23]
    for frame in range(24):
        expected = frame % 12
        assert first.committed_position(frame) == alone.committed_position(expected)
    assert first.committed_position(-2) == alone.committed_position(-2)
