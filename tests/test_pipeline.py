"""The pipeline as a diffusers user meets it."""

import gc
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from backbone.cache import KVCache
from longlive_rag import (
    ContextConfig,
    Cue,
    LatentStore,
    LatentWriter,
    LongLiveRAGPipeline,
    MemoryConfig,
    TakeRequest,
    TakeRun,
    TakeWriter,
)
from longlive_rag.config import Steering
from longlive_rag.generation.noise import PhiloxNoise
from longlive_rag.generation.rollout import Rollout
from longlive_rag.presets.geometry import backbone_id
from retrieval.pages import PageCache
from tests.conftest import random_pipeline

PROMPT = "a red circle walks in a meadow"


def test_frames_are_exactly_what_was_asked_for(pipe: LongLiveRAGPipeline) -> None:
    for seconds, frames in ((0.25, 4), (0.5625, 9), (2.0, 32)):
        out = pipe(PROMPT, seconds=seconds)
        assert out.frames.shape == (1, frames, 32, 48, 3)
        assert out.frames.dtype == np.uint8


def test_a_longer_take_begins_with_the_shorter_one_bit_for_bit(pipe: LongLiveRAGPipeline) -> None:
    cues = [(1.0, "the red circle jumps")]
    short, long = (pipe(PROMPT, seconds=seconds, cues=cues, seed=4) for seconds in (3.0, 6.5))
    assert np.array_equal(long.frames[:, :48], short.frames)
    assert torch.equal(long.latents[:, : short.latents.shape[1]], short.latents)


def test_streaming_equals_decoding_the_latents_at_once(pipe: LongLiveRAGPipeline) -> None:
    from backbone.vae import denormalize_latents

    out = pipe(PROMPT, seconds=2.0, seed=1)
    with torch.no_grad():
        whole = pipe.vae.decode(denormalize_latents(pipe.vae, out.latents.transpose(1, 2))).sample
    pixels = ((whole + 1) * 127.5).round().clamp(0, 255).permute(0, 2, 3, 4, 1).numpy()
    assert np.abs(pixels[:, :32] - out.frames).max() <= 1


def test_stream_yields_each_block_with_what_it_remembers(pipe: LongLiveRAGPipeline) -> None:
    request = pipe.request(PROMPT, seconds=6.0, cues=[(1.0, "the red circle jumps")], seed=2)
    blocks = list(pipe.stream(request))
    assert [block.index for block in blocks] == list(range(9))
    assert [len(block.pixel_frames) for block in blocks] == [9, *[12] * 7, 3]
    assert [block.pixels.shape[1] for block in blocks] == [9, *[12] * 7, 3]
    assert [block.cue for block in blocks] == [None, None, 1, *[None] * 6]
    assert blocks[3].prompt == "the red circle jumps"
    assert [len(block.selections[0].frames) if block.selections else 0 for block in blocks] == [0] * 6 + [1, 4, 6]
    assert {"denoise", "commit", "decode"} <= set(blocks[4].seconds)
    assert "recache" in blocks[2].seconds
    assert "recache" not in blocks[3].seconds


def test_requests_side_by_side_equal_requests_alone(pipe: LongLiveRAGPipeline) -> None:
    requests = [
        pipe.request(PROMPT, seconds=5.5, seed=1),
        pipe.request("the blue square jumps in the snow", seconds=5.5, seed=2),
    ]
    both = pipe(requests)
    for take, request in enumerate(requests):
        alone = pipe(request)
        torch.testing.assert_close(both.latents[take], alone.latents[0], rtol=1e-3, atol=1e-3)
        assert np.abs(both.frames[take].astype(int) - alone.frames[0]).max() <= 2


def test_requests_that_differ_in_more_than_words_are_refused(pipe: LongLiveRAGPipeline) -> None:
    with pytest.raises(ValueError, match="prompt, cue prompts and seed only"):
        pipe([pipe.request(PROMPT, seconds=1.0), pipe.request(PROMPT, seconds=2.0)])


def test_saved_and_opened_again_gives_the_same_take(pipe: LongLiveRAGPipeline, pipeline_folder: Path) -> None:
    again = LongLiveRAGPipeline.from_pretrained(pipeline_folder)
    assert again.output == pipe.output
    assert again.context == pipe.context
    assert np.array_equal(again(PROMPT, seconds=1.0).frames, pipe(PROMPT, seconds=1.0).frames)


def test_bfloat16_runs_and_stays_near(pipe: LongLiveRAGPipeline, pipeline_folder: Path) -> None:
    types = {"transformer": torch.bfloat16, "default": torch.float32}
    half = LongLiveRAGPipeline.from_pretrained(pipeline_folder, dtype=types)
    ours, exact = half(PROMPT, seconds=0.5).latents, pipe(PROMPT, seconds=0.5).latents
    assert (ours - exact).norm() / exact.norm() < 0.1


def test_memory_off_is_the_native_backbone(pipe: LongLiveRAGPipeline) -> None:
    out = pipe(PROMPT, seconds=6.0, memory=MemoryConfig(enabled=False))
    assert out.selections == []
    zero = pipe(PROMPT, seconds=6.0, context=ContextConfig(memory_frames=0))
    assert np.array_equal(out.frames, zero.frames)


def test_lora_is_loaded_and_unloaded_as_diffusers_users_know_it(tmp_path: Path) -> None:
    pipe = random_pipeline()
    before = pipe(PROMPT, seconds=0.5).latents
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for layer in range(2):
        for name in ("to_q", "to_v"):
            stem = f"transformer.blocks.{layer}.attn1.{name}"
            weights[f"{stem}.lora_A.weight"] = torch.randn(4, 48, generator=generator)
            weights[f"{stem}.lora_B.weight"] = torch.randn(48, 4, generator=generator)
    save_file(weights, tmp_path / "lora.safetensors")
    pipe.load_lora_weights(tmp_path, weight_name="lora.safetensors")
    with_lora = pipe(PROMPT, seconds=0.5).latents
    assert not torch.allclose(before, with_lora)
    pipe.unload_lora_weights()
    assert torch.equal(pipe(PROMPT, seconds=0.5).latents, before)


def test_unknown_words_are_named(pipe: LongLiveRAGPipeline) -> None:
    assert pipe.unknown_words("a red elephant walks in a meadow") == ["elephant"]


def spoil(folder: Path, target: Path, component: str, change: str) -> Path:
    shutil.copytree(folder, target)
    path = target / component / "diffusion_pytorch_model.safetensors"
    if change == "truncated":
        path.write_bytes(path.read_bytes()[:-200])
    elif change == "gone":
        path.unlink()
    else:
        weights = load_file(path)
        name = sorted(weights)[0]
        weights[name] = torch.cat([weights[name], weights[name]])
        save_file(weights, path, {"format": "pt"})
    return target


@pytest.mark.parametrize("component", ["transformer", "vae", "encoder"])
@pytest.mark.parametrize(
    ("change", "message"),
    [("misshapen", r"the config expects \["), ("truncated", "damaged"), ("gone", r"has no weights \(\.safetensors\)")],
)
def test_weights_that_do_not_fit_are_refused(
    pipeline_folder: Path, tmp_path: Path, component: str, change: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        LongLiveRAGPipeline.from_pretrained(spoil(pipeline_folder, tmp_path / "spoilt", component, change))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seconds": 0}, "seconds is 0"),
        ({"seconds": -3.0}, "seconds is -3"),
        ({"seconds": float("nan")}, "seconds is nan"),
        ({"seconds": 1e9}, "a day"),
        ({"seconds": 5, "prompt": "  "}, "prompt is empty"),
        ({"seconds": 5, "cues": [(6.0, "x")]}, "past the end"),
        ({"seconds": 5, "cues": [(5.0, "x")]}, "past the end"),
        ({"seconds": 5, "cues": [(4.9, "x")]}, "cue 1 is at 4.9 s; the last block .* so it would never take over"),
        (
            {"seconds": 5, "memory": MemoryConfig(steering=(Steering(4.0, "pin", 0, 1), Steering(4.4, "pin", 1, 2)))},
            r"change 2 to memory \(pin\) is at 4.4 s; the last block of this 5 s take begins at 4.3125 s, so it would "
            "never take over",
        ),
        (
            {"seconds": 5, "memory": MemoryConfig(steering=(Steering(4.9, "establish", establish=2.0),))},
            "so it would never take over",
        ),
        ({"seconds": 5, "cues": [(2.0, "x"), (1.0, "y")]}, "put cues in order"),
        ({"seconds": 5, "cues": [(2.0, "x"), (2.01, "y")]}, "one block between them"),
        ({"seconds": 5, "cues": [(0.0, "x")]}, "after the start"),
        ({"seconds": 5, "cues": [(2.0, "")]}, "cue 1 is empty"),
        (
            {"seconds": 5, "cues": [(2.0, "caf\udce9")]},
            r"the prompt of cue 1 is not valid UTF-8: 'caf\\udce9'",
        ),
        ({"seconds": 5, "seed": -1}, "seed is -1"),
        ({"seconds": 2000, "context": ContextConfig(rope="absolute")}, "Use rope 'relative', or at most"),
    ],
)
def test_bad_requests_are_refused_before_anything_runs(pipe: LongLiveRAGPipeline, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pipe.stream(settings.pop("prompt", PROMPT), **settings)


@pytest.mark.parametrize("prompts", [[], [PROMPT, PROMPT], [None]])
@pytest.mark.parametrize("settings", [{}, {"seconds": 2.0}])
def test_what_is_no_prompt_is_refused(pipe: LongLiveRAGPipeline, prompts: list, settings: dict) -> None:
    with pytest.raises(ValueError, match="pass a prompt, a TakeRequest, or one or more TakeRequests"):
        pipe(prompts, **settings)


def test_a_request_leaves_nothing_to_set(pipe: LongLiveRAGPipeline) -> None:
    with pytest.raises(ValueError, match="a TakeRequest already sets everything; drop seed"):
        pipe(pipe.request(PROMPT, seconds=1.0), seed=3)


def test_sizes_that_do_not_divide_are_refused(pipe: LongLiveRAGPipeline) -> None:
    from longlive_rag import OutputConfig

    with pytest.raises(ValueError, match="width is 50; it must be a multiple of 16, such as 48"):
        pipe.stream(PROMPT, seconds=1, output=OutputConfig(height=32, width=50))


def test_a_request_is_plain_data() -> None:
    request = TakeRequest(PROMPT, 10.0, cues=((2.0, "the red circle jumps"),), memory=MemoryConfig(enabled=False))
    assert request.cues == (Cue(2.0, "the red circle jumps"),)
    assert replace(request, cues=((2.0, PROMPT, True),)).cues == (Cue(2.0, PROMPT, cut=True),)
    assert request.context.memory_frames == 0
    assert request.pixel_frames == 160


def test_a_folder_without_an_encoder_searches_mean_pooled_latents_only(tmp_path: Path) -> None:
    bare = random_pipeline()
    bare.register_modules(encoder=None)
    bare.save_pretrained(tmp_path)
    again = LongLiveRAGPipeline.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="use 'mean_pool'"):
        again.stream(PROMPT, seconds=6.0)
    out = again(PROMPT, seconds=6.0, memory=MemoryConfig(encoder="mean_pool"))
    assert len(out.selections) == 3


def test_blocks_are_stored_before_they_are_yielded(pipe: LongLiveRAGPipeline, tmp_path: Path) -> None:
    request = pipe.request(PROMPT, seconds=6.5, cues=[(3.0, "the red circle jumps")], seed=4)
    plain = list(pipe.stream(request))
    with LatentWriter(tmp_path / "latents") as writer:
        for block in pipe.stream(request, stores=[writer]):
            stored = LatentStore(tmp_path / "latents").record(block.index)
            assert np.array_equal(stored.latents, block.latents[0].numpy())
            assert np.array_equal(stored.latents, plain[block.index].latents[0].numpy())
            assert (stored.prompt, stored.cue) == (block.prompt, block.cue)
            assert stored.selection == (block.selections[0] if block.selections else None)
            assert stored.embeddings is not None
            assert "denoise" in stored.seconds
            assert block.seconds["store"] > 0
    with pytest.raises(ValueError, match="2 stores given for 1 requests"):
        pipe.stream(request, stores=[writer, writer])


def test_pages_are_made_again_from_the_store(pipe: LongLiveRAGPipeline, tmp_path: Path) -> None:
    memory = MemoryConfig(host_gib=0)
    spooled = list(pipe.stream(PROMPT, seconds=7.0, memory=memory))
    with LatentWriter(tmp_path) as writer:
        stored = list(pipe.stream(PROMPT, seconds=7.0, memory=memory, stores=[writer]))
    assert stored[-1].pages is not None
    assert stored[-1].pages.remade == stored[-1].pages.fetched > 10
    for ours, theirs in zip(spooled, stored, strict=True):
        assert torch.equal(ours.latents, theirs.latents)


def test_what_is_excluded_is_not_retrieved(pipe: LongLiveRAGPipeline) -> None:
    memory = MemoryConfig(exclude=((0.0, 0.6),))
    blocks = list(pipe.stream(PROMPT, seconds=8.0, memory=memory))
    frames = {frame for block in blocks for selection in block.selections for frame in selection.frames}
    assert frames
    assert min(frames) == 4  # pixel frames 0..9 are shown in the first 0.6 s; they are latent frames 0..3


def test_a_pipeline_says_what_its_takes_are_made_with(pipe: LongLiveRAGPipeline, pipeline_folder: Path) -> None:
    run = LongLiveRAGPipeline.from_pretrained(pipeline_folder, dtype=torch.bfloat16).take_run("h264")
    threads, identity = torch.get_num_threads(), backbone_id(pipeline_folder)
    facts = (pipeline_folder, "cpu", "bfloat16", threads, PhiloxNoise.name, "h264")
    assert run == TakeRun(str(pipeline_folder), *facts, backbone_id=identity, vae_dtype="bfloat16")
    with pytest.raises(ValueError, match="was not opened from a folder"):
        pipe.take_run()


def test_another_take_is_remembered(pipe: LongLiveRAGPipeline, pipeline_folder: Path, tmp_path: Path) -> None:
    opened = LongLiveRAGPipeline.from_pretrained(pipeline_folder)
    request = opened.request(PROMPT, seconds=2.0, seed=3)
    folder = tmp_path / "first"
    run = opened.take_run()
    take = TakeWriter(folder, request, opened.timeline(request), run)
    for block in opened.stream(request, stores=[take]):
        take.add(block)
    take.finish("finished")
    for weight in (0.0, 0.5):
        memory = MemoryConfig(remember=(f"{folder}@0-1",), prompt_weight=weight)
        first, second = list(opened.stream(PROMPT, seconds=1.2, memory=memory, seed=8))[:2]
        assert first.selections[0].frames == (-5, -4, -3, -2, -1)
        assert sorted(second.selections[0].frames) == [-5, -4, -3, -2, -1]
        assert second.selections[0].similarities[0] > 0


def test_memory_that_can_not_be_is_refused() -> None:
    for settings, message in (
        ({"gpu_gib": -1}, "gpu_gib is -1"),
        ({"host_gib": float("nan")}, "host_gib is nan"),
        ({"gpu_gib": 1e308}, "it must be auto, or a number of GiB from 0 to 100000"),
        ({"page_precision": "int3"}, "same, bfloat16, float8"),
        ({"stale_pages": "burn"}, "remake, keep"),
        ({"pin": [(1,)]}, "a span has a start and an end"),
        ({"prompt_weight": 1.0}, "from 0 to below 1"),
        ({"anchor": (0, 1)}, "the gate needs both"),
    ):
        with pytest.raises(ValueError, match=message):
            MemoryConfig(**settings)


def test_memory_is_steered_from_the_block_on_that_was_said(pipe):
    plain = pipe.request("a red circle walks", seconds=9, seed=4)
    steering = (Steering(6.0, "exclude", 0.4, 1.5), Steering(7.5, "pin", 1.5, 2.0))
    told = replace(plain, memory=replace(plain.memory, steering=steering))
    timeline = pipe.timeline(plain)
    first, second = (timeline.cue_block(steer.seconds) for steer in steering)
    runs = [[block.selections for block in pipe.stream(request)] for request in (plain, told)]
    assert runs[0][:first] == runs[1][:first]
    assert runs[0][first:] != runs[1][first:]
    excluded, pinned = timeline.latents_between(0.4, 1.5), timeline.latents_between(1.5, 2.0)
    pinned = set(pinned) - set(excluded)
    for block, selections in enumerate(runs[1]):
        frames = {frame for selection in selections for frame in selection.frames}
        if block >= first:
            assert not frames & set(excluded)
        if block >= second:
            assert pinned <= frames
    assert any(set(excluded) & set(selection.frames) for one in runs[0][first:] for selection in one)


def test_a_remembered_take_goes_with_cues(pipe: LongLiveRAGPipeline, pipeline_folder: Path, tmp_path: Path) -> None:
    opened = LongLiveRAGPipeline.from_pretrained(pipeline_folder)
    shot = opened.request("a red circle walks in a meadow", seconds=2, seed=1)
    run = opened.take_run()
    writer = TakeWriter(tmp_path / "first", shot, opened.timeline(shot), run)
    for block in opened.stream(shot, stores=[writer]):
        writer.add(block)
    writer.finish("finished")
    memory = replace(opened.memory, remember=(str(tmp_path / "first"),))
    cues = [(1.0, "a red circle jumps in a desert")]
    blocks = list(opened.stream("a red circle walks in a desert", seconds=3, seed=2, cues=cues, memory=memory))
    cue = next(block.index for block in blocks if block.cue)
    remembered = [any(frame < 0 for frame in block.selections[0].frames) for block in blocks]
    assert remembered == [True] * len(blocks)
    plain = list(opened.stream("a red circle walks in a desert", seconds=3, seed=2, memory=memory))
    assert torch.equal(blocks[cue - 1].latents, plain[cue - 1].latents)
    assert not torch.equal(blocks[cue].latents, plain[cue].latents)


def test_what_a_take_held_is_free_at_once(pipe):
    """By its references, not when cycles are next looked for: on a GPU the next take may not fit beside it."""

    def held() -> int:
        return sum(type(thing) in (Rollout, KVCache, PageCache) for thing in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        before, most = held(), 0
        for _ in pipe.stream(pipe.request(PROMPT, seconds=6)):
            most = max(most, held() - before)
        assert most == 3
        assert held() == before
    finally:
        gc.enable()


def test_a_take_whose_values_are_no_numbers_any_more_fails_by_name(
    pipe: LongLiveRAGPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was finished before is kept, and nothing of the block is stored."""
    from longlive_rag.generation.block import NotFiniteError

    next_block = Rollout.next_block

    def broken(rollout: Rollout) -> object:
        finished = next_block(rollout)
        if rollout._blocks_done == 3:
            finished.latents[0, 0, 0, 0, 0] = float("nan")
        return finished

    monkeypatch.setattr(Rollout, "next_block", broken)
    with LatentWriter(tmp_path / "latents") as store:
        with pytest.raises(NotFiniteError, match="block 2 holds values that are not finite numbers"):
            list(pipe.stream(PROMPT, seconds=4.0, stores=[store]))
        assert store.blocks == 2
