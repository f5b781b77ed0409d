"""Model folders of others: refused in one line before anything of their size is allocated."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from longlive_rag import LongLiveRAGPipeline
from longlive_rag.presets.embeddings import encoder_id, read_embeddings, write_embeddings
from tests.hostile.commands import Ended, fault, run_here, run_in_child
from tests.hostile.world import MAKE, WORDS
from tests.layouts import peft_lora

AT_ONCE_SECONDS = 4.0
"""On a machine that is busy; `run_in_child` gives it 1 GB and no more."""


@pytest.fixture
def model(tmp_path: Path, pipeline_folder: Path) -> Path:
    """A copy of a backbone, to be spoilt."""
    shutil.copytree(pipeline_folder, tmp_path / "model")
    return tmp_path / "model"


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def refused(command: tuple[str, ...], folder: Path, wanted: str) -> Ended:
    ended = run_in_child(command, folder, folder)
    assert (ended.code, fault(ended)) == (2, ""), ended
    assert wanted in ended.err
    assert ended.seconds < AT_ONCE_SECONDS
    return ended


SIZES = {
    "transformer/config.json": (
        *("text_length", "num_layers", "attention_head_dim", "num_attention_heads"),
        *("ffn_dim", "in_channels", "text_dim", "freq_dim"),
    ),
    "vae/config.json": ("base_dim", "z_dim", "num_res_blocks"),
    "text_encoder/config.json": ("num_layers", "d_model", "d_ff", "vocab_size", "num_heads"),
    "encoder/config.json": ("embedding_dim", "in_channels"),
}  # fmt: skip


@pytest.mark.parametrize("value", [10**6, 10**9, 10**30])
@pytest.mark.parametrize(("name", "field"), [(name, field) for name, fields in SIZES.items() for field in fields])
def test_a_size_that_no_model_has_is_refused(model: Path, name: str, field: str, value: int) -> None:
    edit(model / name, **{field: value})
    refused(MAKE, model.parent, "Error: ")


@pytest.mark.parametrize("field", ["width", "height", "upscale", "fps"])
def test_a_picture_that_no_machine_has_room_for_is_refused(model: Path, field: str) -> None:
    refused((*MAKE, f"--{field}", "1000000"), model.parent, field)
    index = json.loads((model / "model_index.json").read_text())
    edit(model / "model_index.json", output={**index["output"], field: 1_000_000})
    refused(MAKE, model.parent, field)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("vae", {"scale_factor_spatial": 0}, "scale_factor_spatial is 0; it must be a whole number above 0"),
        ("vae", {"scale_factor_temporal": 0}, "scale_factor_temporal is 0; it must be a whole number above 0"),
        ("vae", {"scale_factor_temporal": -4}, "scale_factor_temporal is -4; it must be a whole number above 0"),
        ("vae", {"latents_mean": [0.0]}, "latents_mean must have 16 numbers, one per channel"),
        ("vae", {"latents_std": "x"}, "latents_std must have 16 numbers, one per channel"),
        ("transformer", {"quantization_config": {"quant_method": "bitsandbytes"}}, "has a quantization_config; only"),
        ("text_encoder", {"quantization_config": {"load_in_8bit": True}}, "has a quantization_config; only"),
        ("transformer", {"num_layers": "30"}, "num_layers is '30'; it must be like 30"),
        ("encoder", {"embedding_dim": {}}, "embedding_dim is {}; it must be a positive integer"),
        ("encoder", {"embedding_dim": 0}, "embedding_dim is 0; it must be a positive integer"),
    ],
)  # fmt: skip
def test_configs_that_ask_for_what_is_not_there(model: Path, name: str, changes: dict[str, Any], message: str) -> None:
    edit(model / name / "config.json", **changes)
    refused(MAKE, model.parent, message)


def rewrite(path: Path, header: bytes) -> None:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])


@pytest.mark.parametrize(
    "header",
    [
        b'{"a": ' + b"[" * 200_000,
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "a": 5}',
        b'{"a": {"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1e9], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [' + b"9" * 400 + b'], "data_offsets": [0, 4]}}',
        b"[]",
    ],
    ids=["deep", "twice", "negative", "float", "digits", "list"],
)
def test_headers_that_lie(model: Path, header: bytes) -> None:
    weights = next((model / "transformer").glob("*.safetensors"))
    rewrite(weights, header)
    refused(MAKE, model.parent, "is damaged or not a safetensors file")


def test_tensors_that_overlap_are_refused(model: Path) -> None:
    weights = next((model / "encoder").glob("*.safetensors"))
    data = weights.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    first, second = [name for name in header if name != "__metadata__"][:2]
    header[second] = header[first]
    rewrite(weights, json.dumps(header).encode())
    refused(MAKE, model.parent, "its tensors overlap or leave gaps")


def spoilt(change: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[Path, Path], None]:
    def write(model: Path, path: Path) -> None:
        tensors = peft_lora(LongLiveRAGPipeline.from_pretrained(model).transformer, 2)
        change(tensors)
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)

    return write


def with_nan(tensors: dict[str, torch.Tensor]) -> None:
    next(iter(tensors.values()))[0, 0] = float("nan")


def of_rank_0(tensors: dict[str, torch.Tensor]) -> None:
    for name, tensor in tensors.items():
        tensors[name] = tensor[:0] if "lora_A" in name else tensor[:, :0]


@pytest.mark.parametrize(
    ("write", "message"),
    [(spoilt(with_nan), "holds values that are not finite numbers"), (spoilt(of_rank_0), "has rank 0")],
    ids=["NaN", "rank 0"],
)
def test_loras_that_can_not_be(model: Path, write: Callable[[Path, Path], None], message: str) -> None:
    write(model, model.parent / "lora.safetensors")
    refused(
        ("models", "convert", "model", "new", "--lora", "lora.safetensors", "--lora-alpha", "2"), model.parent, message
    )


def test_prompt_embeddings_that_are_no_numbers(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "embeds.safetensors"
    write_embeddings(path, {WORDS: torch.ones(3, 32)}, encoder_id(model))
    tensors, header = load_file(path), path.read_bytes()
    assert list(read_embeddings(path, encoder_id(model))) == [WORDS]
    numbers = tensors["0"].numpy().tobytes()
    path.write_bytes(header.replace(numbers, numbers[:-4] + b"\x00\x00\xc0\x7f"))
    refused((*MAKE, "--prompt-embeds", "embeds.safetensors"), tmp_path, "holds values that are not finite numbers")


@pytest.mark.parametrize("seconds", ["9" * 400, "1e400", "-" + "9" * 400, "9" * 400 + ".5"])
def test_a_length_of_400_digits(tmp_path: Path, seconds: str) -> None:
    refused(("generate", WORDS, "--seconds", seconds, "-o", "new"), tmp_path, "--seconds")
    refused(("generate", WORDS, "--cue", seconds, "x", "-o", "new"), tmp_path, "cue")


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("tokenizer_config.json", {"unk_token": 5.5}),
        ("tokenizer_config.json", {"model_max_length": "x"}),
        ("tokenizer_config.json", {"pad_token": None}),
        ("tokenizer_config.json", {"extra_ids": 10**9}),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}}),
        ("tokenizer_config.json", {"tokenizer_class": "Evil"}),
        ("tokenizer.json", {"model": {"type": "Unigram", "vocab": []}}),
        ("tokenizer.json", {"added_tokens": [{"id": 10**9, "content": "red", "special": True}]}),
    ],
)
def test_a_tokenizer_of_a_wrong_kind_is_no_traceback(model: Path, file: str, changes: dict[str, Any]) -> None:
    edit(model / "tokenizer" / file, **changes)
    ended = run_here(MAKE, model.parent)
    assert not fault(ended), ended
    assert ended.code in (0, 2)


EVIL = "from pathlib import Path\nPath('ran').touch()\nclass CausalWanTransformer: pass\nclass X: pass\n"


@pytest.mark.parametrize(
    ("changes", "files"),
    [
        ({"_class_name": ["evil", "X"]}, ["evil.py"]),
        ({"_class_name": ["evil.py", "X"]}, ["evil.py", "pipeline.py"]),
        ({"transformer": ["evil", "CausalWanTransformer"]}, ["transformer/evil.py", "evil.py"]),
        ({"vae": ["evil", "X"]}, ["vae/evil.py", "evil.py"]),
        ({"tokenizer": ["evil", "X"]}, ["tokenizer/evil.py"]),
        ({"more": ["evil", "X"]}, ["more/evil.py"]),
        ({"vae": ["subprocess", "Popen"]}, []),
        ({"vae": ["builtins", "exec"]}, []),
        ({"tokenizer": ["transformers", "AutoModel"]}, []),
    ],
)
def test_code_that_a_model_folder_brings_along_is_not_run(
    model: Path, changes: dict[str, Any], files: list[str]
) -> None:
    for name in (*files, "tokenizer/evil.py"):
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_text(EVIL)
    edit(model / "model_index.json", **changes)
    edit(model / "tokenizer" / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.X", "evil.X"]})
    for command in (MAKE, ("models", "check", "model"), ("models", "convert", "model", "converted")):
        ended = run_here(command, model.parent)
        assert not fault(ended), ended
        assert not (model.parent / "ran").exists()
