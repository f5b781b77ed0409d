"""Large weights load within their own size: at 150 MB here, at Wan2.1-1.3B's true size when asked.

    LONGLIVE_RAG_TRUE_SIZE=1 pytest tests/backbone/test_true_size.py

needs 3 GB of disk, 8 GB of memory and some minutes; it also runs one block at 832x480.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from backbone.transformer import CausalWanTransformer

ROOT = Path(__file__).parents[2]
SMALL = {"num_attention_heads": 6, "num_layers": 8, "ffn_dim": 2560, "text_dim": 512}
TRUE_SIZE = bool(os.environ.get("LONGLIVE_RAG_TRUE_SIZE"))
LIMIT = 1.3

MEASURE = """
import json, resource, sys, time
from pathlib import Path
import torch
from backbone.transformer import CausalWanTransformer

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

folder, block = Path(sys.argv[1]), sys.argv[2] == "block"
before = peak()
model = CausalWanTransformer.from_pretrained(folder, dtype=torch.bfloat16)
checksum = sum(float(parameter.sum()) for parameter in model.parameters())
found = {"load_bytes": peak() - before, "checksum": checksum}
if block:
    begin = time.perf_counter()
    latents = torch.randn(1, 16, 3, 60, 104, dtype=torch.bfloat16)
    text = torch.randn(1, 32, model.config.text_dim, dtype=torch.bfloat16)
    with torch.no_grad():
        flow = model(latents, torch.tensor([900.0]), text)
    found.update(block_seconds=time.perf_counter() - begin, peak_bytes=peak(), finite=bool(flow.isfinite().all()))
print(json.dumps(found))
"""


def write_random_weights(folder: Path, sizes: dict[str, int]) -> int:
    """A folder of random bfloat16 weights, written tensor by tensor; returns the file's bytes."""
    with torch.device("meta"):
        model = CausalWanTransformer(**sizes)
    model.save_config(folder)
    header, offset = {}, 0
    for name, tensor in model.state_dict().items():
        size = 2 * tensor.numel()
        header[name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    path = folder / "diffusion_pytorch_model.safetensors"
    generator = torch.Generator().manual_seed(0)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in model.state_dict().values():
            values = torch.randn(tensor.shape, generator=generator).mul_(0.02).bfloat16()
            file.write(values.contiguous().view(torch.uint8).numpy().tobytes())
    return path.stat().st_size


def measure(folder: Path, block: bool) -> dict[str, float]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", MEASURE, str(folder), "block" if block else "load"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kB on Linux only")
def test_loading_takes_no_second_copy(tmp_path):
    size = write_random_weights(tmp_path, SMALL)
    assert size > 100e6
    assert measure(tmp_path, block=False)["load_bytes"] < LIMIT * size


@pytest.mark.slow
@pytest.mark.skipif(not TRUE_SIZE, reason="set LONGLIVE_RAG_TRUE_SIZE=1: 3 GB of disk, some minutes")
def test_true_size(tmp_path, capsys):
    size = write_random_weights(tmp_path, {})
    assert size > 2.8e9
    found = measure(tmp_path, block=True)
    with capsys.disabled():
        print(f"\n{size / 1e9:.2f} GB: {found}")
    assert found["load_bytes"] < LIMIT * size
    assert found["finite"]
