"""Compiled layers: one program, the same numbers, nothing of the context's size made anew."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate import cpu_offload_with_hook
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from peft import LoraConfig
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch._inductor.utils import run_and_get_code

from backbone.cache import CacheShape, KVCache
from backbone.compiling import compile_for, missing_for_compiling, uncompile
from backbone.config import ContextConfig
from backbone.transformer import CausalWanTransformer

LATENT = (16, 4, 6)
CONTEXT = ContextConfig(window_frames=12, sink_frames=1, memory_frames=0)
LAYERS = 4


@pytest.fixture
def model() -> CausalWanTransformer:
    torch._dynamo.reset()
    torch.manual_seed(0)
    return CausalWanTransformer(
        num_attention_heads=2,
        attention_head_dim=24,
        num_layers=LAYERS,
        ffn_dim=96,
        freq_dim=32,
        text_dim=20,
        text_length=7,
    ).eval()


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> CompileCounterWithBackend:
    """Counts the graphs that are captured, and runs them as they are: quick, and no C++ compiler is needed."""
    counter, compile_blocks = CompileCounterWithBackend("eager"), CausalWanTransformer.compile_repeated_blocks

    def count(model: CausalWanTransformer, **settings: object) -> None:
        compile_blocks(model, backend=counter, **settings)

    monkeypatch.setattr(CausalWanTransformer, "compile_repeated_blocks", count)
    return counter


@torch.no_grad()
def take(model: CausalWanTransformer, context: ContextConfig = CONTEXT, cue: bool = False) -> list[Tensor]:
    """Six blocks: their flows, and the pages at the end; with `cue`, a recache before the fourth."""
    draw, config = torch.Generator().manual_seed(1), model.config
    shape = CacheShape(config.num_layers, 1, 2, 24, (2, 3), torch.float32, torch.device("cpu"))
    cache, text = KVCache(context, shape), model.encode_text(torch.randn(1, 7, 20, generator=draw))
    made = []
    for block in range(6):
        if cue and block == 3:
            frames = len(cache.assemble_refresh())
            model.commit_block(
                torch.randn(1, LATENT[0], frames, *LATENT[1:], generator=draw), torch.zeros(1), text, cache
            )
        cache.admit(3)
        cache.assemble()
        latents = torch.randn(1, LATENT[0], 3, *LATENT[1:], generator=draw)
        made += [model.forward_block(latents, torch.tensor([step]), text, cache) for step in (1000.0, 500.0)]
        model.commit_block(latents, torch.zeros(1), text, cache)
    return [*made, cache.pages()]


def assert_close(made: list[Tensor], expected: list[Tensor], atol: float = 1e-5) -> None:
    for one, other in zip(made, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=atol)


@pytest.mark.parametrize("rope", ["relative", "absolute"])
def test_a_step_and_a_commit_are_one_graph_each_for_all_layers_and_lengths_of_the_context(
    model: CausalWanTransformer, counter: CompileCounterWithBackend, rope: str
) -> None:
    context = ContextConfig(window_frames=12, sink_frames=1, memory_frames=0, rope=rope)
    expected = take(model, context, cue=True)
    assert compile_for(model, context, LATENT) > 0
    assert counter.frame_count == 2
    assert_close(take(model, context, cue=True), expected)
    assert counter.frame_count == 2  # neither the window that fills nor the recache compiled anything
    assert compile_for(model, context, LATENT) == 0


def test_other_shapes_run_as_they_are_until_they_are_compiled_for(
    model: CausalWanTransformer, counter: CompileCounterWithBackend
) -> None:
    compile_for(model, CONTEXT, (16, 8, 6))
    compiled = counter.frame_count
    take(model)
    assert counter.frame_count == compiled
    compile_for(model, CONTEXT, LATENT)
    assert counter.frame_count > compiled
    uncompile(model)
    assert all(layer._compiled_call_impl is None for layer in model.layers)


def test_an_adapter_that_is_loaded_afterwards_is_in_what_is_made(
    model: CausalWanTransformer, counter: CompileCounterWithBackend
) -> None:
    without = take(model)
    compile_for(model, CONTEXT, LATENT)
    model.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    made = take(model)
    uncompile(model)
    expected = take(model)
    assert_close(made, expected)
    assert not torch.allclose(made[-1], without[-1], atol=1e-2)


def test_a_model_that_is_moved_whole_is_compiled_and_layers_that_are_moved_in_parts_are_refused(
    model: CausalWanTransformer, counter: CompileCounterWithBackend
) -> None:
    expected = take(model)
    model, _ = cpu_offload_with_hook(model, torch.device("cpu"))
    compile_for(model, CONTEXT, LATENT)
    assert_close(take(model), expected)
    uncompile(model)
    add_hook_to_module(model.layers[1].attn1.to_q, AlignDevicesHook(execution_device="cpu"))
    with pytest.raises(
        ValueError, match=r"blocks\.1\.attn1\.to_q is offloaded separately; use enable_model_cpu_offload"
    ):
        compile_for(model, CONTEXT, LATENT)
    assert not model.compiled_for


@pytest.mark.slow
def test_the_generated_code_fuses_what_lies_between_products_and_writes_the_context_in_place(
    model: CausalWanTransformer,
) -> None:
    expected = take(model, cue=True)
    _, programs = run_and_get_code(compile_for, model, CONTEXT, LATENT)
    assert_close(take(model, cue=True), expected)
    assert len(programs) == 2
    for code in programs:
        calls = code[code.index("def call(") :]
        # Only the context's length is open, so what has a size in symbols is of the context's size.
        made = re.findall(r"empty_strided_\w+\(\(([^)]*)\)", calls)
        assert made
        assert not [sizes for sizes in made if re.search("[a-z]", sizes)]
        assert not re.search(r"\.clone\(|\.copy_\(|copy_\.default", calls)
        assert len(re.findall(r"extern_kernels\.addmm", calls)) == 8
        assert len(re.findall(r"_scaled_dot_product_\w+\.default\(", calls)) == 2
        fused = re.findall(r"^ +(cpp_fused_\w+)\(", calls, re.MULTILINE)
        assert len(fused) == 7  # of about fifty operations: each modulation, gate, norm and rotation is in one of them
        assert sum("layer_norm" in name and "addcmul" in name for name in fused) == 3


def test_the_real_products_that_are_compiled_turn_as_the_complex_ones_do(monkeypatch: pytest.MonkeyPatch) -> None:
    model = CausalWanTransformer(num_attention_heads=2, attention_head_dim=24, num_layers=1, ffn_dim=96)
    turn: Callable[[Tensor], Tensor] = model.rotation(torch.tensor([0, 3, 900]), (4, 6))
    x = torch.randn(2, 18, 2, 24)
    by_complex_numbers = turn(x)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(turn(x), by_complex_numbers, rtol=0, atol=1e-6)
    assert not torch.allclose(by_complex_numbers, x, atol=0.1)


# ---- compilers ----


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The only folder in which programs are looked for; triton is installed, and Python's headers are beside it."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("backbone.compiling.find_spec", lambda name: name)
    monkeypatch.setattr("backbone.compiling.sysconfig.get_config_var", lambda name: str(tmp_path / name))
    (tmp_path / "INCLUDEPY").mkdir()
    (tmp_path / "INCLUDEPY" / "Python.h").touch()
    return tmp_path


@pytest.mark.parametrize(("device", "compiler", "missing"), [("cuda", "gcc", "C"), ("cpu", "g++", r"C\+\+")])
def test_without_a_compiler_or_headers_nothing_is_compiled(
    programs: Path, device: str, compiler: str, missing: str
) -> None:
    """Triton has a C compiler build what launches its kernels: without one, a GPU can't run anything compiled."""
    on = torch.device(device)
    assert re.search(f"no {missing} compiler", missing_for_compiling(on) or "")
    (programs / compiler).touch(0o755)
    assert missing_for_compiling(on) is None
    (programs / "INCLUDEPY" / "Python.h").unlink()
    assert "headers" in (missing_for_compiling(on) or "")


def test_without_triton_nothing_is_compiled_for_a_gpu(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (programs / "gcc").touch(0o755)
    monkeypatch.setattr("backbone.compiling.find_spec", lambda _: None)
    assert "triton" in (missing_for_compiling(torch.device("cuda")) or "")
