"""Large weights load within their own size: at 150 MB here, at Wan2.1-1.3B's true size when asked.

    LONGLIVE_RAG_TRUE_SIZE=1 pytest tests/backbone/test_true_size.py

needs 9 GB of disk and 16 GB of memory. It opens the transformer from a file of either size that is published (2.8 GB in
bfloat16, 5.7 GB in float32 under the original release's names), and makes and decodes one block at 832x480: on two CPU
cores without AMX about ten minutes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from layouts import original_config, original_transformer
from torch import Tensor

from backbone.transformer import CausalWanTransformer

ROOT = Path(__file__).parents[2]
SMALL = {"num_attention_heads": 6, "num_layers": 8, "ffn_dim": 2560, "text_dim": 512}
TRUE_SIZE = bool(os.environ.get("LONGLIVE_RAG_TRUE_SIZE"))
LIMIT = 1.3
# Header's word for a dtype, and its bytes.
WORDS = {torch.bfloat16: ("BF16", 2), torch.float32: ("F32", 4)}

LOAD = """
import json, resource, sys, time
from pathlib import Path
import torch
from backbone.original import is_original_folder, open_transformer
from backbone.transformer import CausalWanTransformer

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

folder = Path(sys.argv[1])
before = peak()
if is_original_folder(folder):
    model = open_transformer(folder)
else:
    model = CausalWanTransformer.from_pretrained(folder, dtype=torch.bfloat16)
checksum = sum(float(parameter.detach().sum()) for parameter in model.parameters())
found = {"load_bytes": peak() - before, "checksum": checksum}
"""
BLOCK = """
from diffusers import AutoencoderKLWan
from backbone.config import ContextConfig, SamplerConfig
from backbone.vae import StreamingDecoder
from longlive_rag.generation.noise import PhiloxNoise
from longlive_rag.generation.rollout import Rollout
from retrieval.encoder import MeanPoolEncoder

torch.manual_seed(0)
vae = AutoencoderKLWan().eval()
rollout = Rollout(model, ContextConfig(), SamplerConfig(), PhiloxNoise([0]), (16, 60, 104), encoder=MeanPoolEncoder())
rollout.direct(torch.randn(1, model.config.text_length, model.config.text_dim))
begin = time.perf_counter()
block = rollout.next_block()
found.update(block_seconds=round(time.perf_counter() - begin, 1), block_peak_bytes=peak())
print(json.dumps(found), flush=True)
begin = time.perf_counter()
with torch.no_grad():
    pixels = StreamingDecoder(vae).decode(block.latents.transpose(1, 2))
found["decode_seconds"] = round(time.perf_counter() - begin, 1)
found.update(pixels=list(pixels.shape), finite=bool(block.latents.isfinite().all() and pixels.isfinite().all()))
found.update(threads=torch.get_num_threads(), peak_bytes=peak())
"""
SAY = "print(json.dumps(found))"


def write_random_weights(
    folder: Path,
    sizes: Mapping[str, int],
    dtype: torch.dtype,
    names: Callable[[CausalWanTransformer], Mapping[str, Tensor]] = CausalWanTransformer.state_dict,
) -> int:
    """The one file of a transformer's random weights, written tensor by tensor; returns its bytes."""
    with torch.device("meta"):
        tensors = names(CausalWanTransformer(**sizes))
    word, bytes_each = WORDS[dtype]
    header, offset = {}, 0
    for name, tensor in tensors.items():
        size = bytes_each * tensor.numel()
        header[name] = {"dtype": word, "shape": list(tensor.shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    path = folder / "diffusion_pytorch_model.safetensors"
    generator = torch.Generator().manual_seed(0)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            values = torch.randn(tensor.shape, generator=generator).mul_(0.02).to(dtype)
            file.write(values.contiguous().view(torch.uint8).numpy().tobytes())
    return path.stat().st_size


def write_folder(folder: Path, sizes: Mapping[str, int]) -> int:
    """As the library saves it, in bfloat16."""
    with torch.device("meta"):
        CausalWanTransformer(**sizes).save_config(folder)
    return write_random_weights(folder, sizes, torch.bfloat16)


def write_original(folder: Path, sizes: Mapping[str, int]) -> int:
    """As the original release has it, in float32."""
    folder.mkdir(exist_ok=True)
    with torch.device("meta"):
        config = original_config(CausalWanTransformer(**sizes))
    (folder / "config.json").write_text(json.dumps(config))
    return write_random_weights(folder, sizes, torch.float32, original_transformer)


def measure(folder: Path, block: bool = False) -> dict[str, float]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    code = LOAD + (BLOCK if block else "") + SAY
    done = subprocess.run([sys.executable, "-c", code, str(folder)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"exit code {done.returncode} after {done.stdout}: {done.stderr[-2000:]}"
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kB on Linux only")
@pytest.mark.parametrize("write", [write_folder, write_original])
def test_loading_takes_no_second_copy(tmp_path, write):
    size = write(tmp_path, SMALL)
    assert size > 100e6
    assert measure(tmp_path)["load_bytes"] < LIMIT * size


@pytest.mark.slow
@pytest.mark.skipif(not TRUE_SIZE, reason="set LONGLIVE_RAG_TRUE_SIZE=1: 9 GB of disk, 16 GB of memory, ten minutes")
def test_true_size(tmp_path, capsys):
    for write, at_least, block in ((write_folder, 2.8e9, False), (write_original, 5.6e9, True)):
        folder = tmp_path / write.__name__
        folder.mkdir()
        size = write(folder, {})
        assert size > at_least
        found = measure(folder, block)
        with capsys.disabled():
            print(f"\n{write.__name__}, {size / 1e9:.2f} GB: {found}")
        assert found["load_bytes"] < LIMIT * size
    assert found["finite"]
    assert found["pixels"] == [1, 3, 9, 480, 832]
