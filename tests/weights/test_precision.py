"""Which precision and device the parts of a backbone run in, chosen or as a record says."""

from __future__ import annotations

from contextlib import suppress
from types import SimpleNamespace

import pytest
import torch

from backbone.errors import FieldError
from longlive_rag.diagnostics import doctor
from longlive_rag.presets.precision import pick_precision
from longlive_rag.sessions import resuming
from longlive_rag.sessions.opening import Opening
from longlive_rag.takes.record import TakeRun
from longlive_rag.weights import load
from longlive_rag.weights.load import load_pipeline, place

PROMPT = "a red circle walks in a meadow"


@pytest.mark.parametrize(
    ("asked", "device", "vae", "picked"),
    [
        ("auto", "cuda", None, ("bfloat16", "bfloat16")),
        ("auto", "cpu", None, ("float32", "float32")),
        ("float32", "cuda", None, ("float32", "float32")),
        ("bfloat16", "cpu", None, ("bfloat16", "float32")),
        ("bfloat16", "cuda", "float32", ("bfloat16", "float32")),
        ("float32", "cpu", "bfloat16", ("float32", "bfloat16")),
    ],
)
def test_a_gpu_runs_in_bfloat16_and_a_cpu_in_float32_unless_told(asked, device, vae, picked) -> None:
    assert pick_precision(asked, device, vae) == picked


def test_other_precisions_are_refused() -> None:
    with pytest.raises(FieldError, match="dtype is 'float16'; it must be one of auto, float32, bfloat16"):
        pick_precision("float16", "cuda")
    with pytest.raises(FieldError, match="vae_dtype is 'auto'"):
        pick_precision("auto", "cuda", "auto")


def test_a_backbone_is_opened_in_what_suits_the_device(pipeline_folder, monkeypatch) -> None:
    monkeypatch.setattr(load, "pick_device", lambda *_: torch.device("cuda", 1))
    assert Opening().precision == ("bfloat16", "bfloat16")
    assert Opening(dtype="float32").precision == ("float32", "float32")
    monkeypatch.undo()
    assert Opening("cpu").precision == ("float32", "float32")
    pipe = load_pipeline(str(pipeline_folder), "bfloat16", "cpu", vae_dtype="bfloat16")
    found = {part: str(pipe.components[part].dtype) for part in ("transformer", "vae", "encoder")}
    assert found == {"transformer": "torch.bfloat16", "vae": "torch.bfloat16", "encoder": "torch.float32"}
    assert pipe.take_run().precision == ("bfloat16", "bfloat16")
    assert load_pipeline(str(pipeline_folder), device="cpu").take_run().precision == ("float32", "float32")


@pytest.mark.parametrize("vae_dtype", ["float32", "bfloat16"])
def test_a_take_goes_on_in_the_precision_of_its_record_whatever_suits_the_device(vae_dtype, monkeypatch) -> None:
    """Older records say nothing of the VAE, which was float32 then."""
    said = {} if vae_dtype == "float32" else {"vae_dtype": vae_dtype}
    run = TakeRun("tiny-world", "folder", "cuda", "bfloat16", 1, "philox", **said)
    opened = []
    monkeypatch.setattr(load, "pick_device", lambda *_: torch.device("cuda"))
    monkeypatch.setattr(resuming, "opened_backbone", lambda *given: opened.append(given[2]))
    take = SimpleNamespace(record=SimpleNamespace(run=run), preset=None, request=None)
    monkeypatch.setattr(resuming, "as_before", lambda opening, *_: opening)
    with suppress(TypeError, AttributeError), resuming.reopened(take, None, resuming.Changes(), None, print):
        pass  # what is opened is no pipeline here
    assert opened[0].precision == ("bfloat16", vae_dtype)


def test_pixels_decoded_in_bfloat16_are_near_those_in_float32() -> None:
    pipe = load_pipeline("tiny-world", device="cpu")
    made = pipe(PROMPT, seconds=2.0)
    pipe.vae.to(torch.bfloat16)
    decoder, parts = pipe._new_decoder(), made.latents.split(3, dim=1)
    narrow = torch.cat([pipe._decode(decoder, part, False) for part in parts], dim=1)[0, : len(made.frames[0])]
    error = (narrow.float() - torch.from_numpy(made.frames[0]).float()).square().mean()
    assert 10 * torch.log10(255**2 / error) > 42
    assert error > 0


# ---- the decoder elsewhere ----


def test_latents_are_decoded_on_another_device(pipeline_folder) -> None:
    """`meta` stands for a second GPU: what lies there has a shape and no data."""
    cpu, other = torch.device("cpu"), torch.device("meta")
    pipe = place(load_pipeline(str(pipeline_folder), device="cpu"), cpu, cpu, other)
    found = {part: pipe.components[part].device for part in ("transformer", "text_encoder", "encoder", "vae")}
    assert found == {"transformer": cpu, "text_encoder": cpu, "encoder": cpu, "vae": other}
    decoder = pipe._new_decoder()
    for frames in (9, 12, 12):
        pixels = decoder.decode(torch.randn(1, 16, 3, 4, 6))
        assert (pixels.device, tuple(pixels.shape)) == (other, (1, 3, frames, 32, 48))
    assert decoder._mean.device == other


def test_takes_decoded_on_a_second_cpu_are_the_same(pipeline_folder) -> None:
    one, other = (load_pipeline(str(pipeline_folder), device="cpu", vae_device=where) for where in ("auto", "cpu:0"))
    request = one.request(PROMPT, seconds=1.5)
    assert torch.equal(torch.from_numpy(one(request).frames), torch.from_numpy(other(request).frames))


@pytest.mark.parametrize("where", ["cuda:7", "gpu"])
def test_a_device_to_decode_on_that_is_not_there_is_refused(where, pipeline_folder) -> None:
    with pytest.raises(FieldError) as error:
        load_pipeline(str(pipeline_folder), device="cpu", vae_device=where)
    assert (error.value.field, error.value.value) == ("vae_device", where)


# ---- what doctor says ----


def test_doctor_says_which_precision_it_would_choose_and_why(monkeypatch) -> None:
    assert doctor._precision().found.startswith("float32 for backbones, float32 for their VAEs")
    monkeypatch.setattr(doctor, "device_memory", lambda: ("GPU (some H100)", 80 * 2**30))
    assert doctor._precision().found.startswith("bfloat16 for backbones, bfloat16 for their VAEs")


@pytest.mark.parametrize(
    ("kernel", "compute", "verdict"),
    [("cudnn", 9, "ok"), ("flash", 9, "note"), ("flash", 8, "ok"), ("math", 9, "note")],
)
def test_doctor_wants_cudnn_s_attention_on_hopper(kernel, compute, verdict, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (compute, 0))
    monkeypatch.setattr(doctor, "attention_kernel", lambda _: kernel)
    finding = doctor._attention()
    assert (finding.found, finding.verdict, "cuDNN" in finding.advice) == (kernel, verdict, verdict == "note")


def test_doctor_says_what_a_gpu_lacks_to_compile(monkeypatch) -> None:
    assert doctor._compiling() == []  # on a CPU nothing is compiled unless it is told
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("backbone.compiling.missing_for_compiling", lambda _: "there is no C compiler (gcc or clang)")
    (lacking,) = doctor._compiling()
    assert (lacking.found, lacking.verdict) == ("not possible: there is no C compiler (gcc or clang)", "note")
    monkeypatch.setattr("backbone.compiling.missing_for_compiling", lambda _: None)
    assert doctor._compiling()[0].verdict == "ok"


def test_the_kernel_of_attention_has_a_name() -> None:
    assert doctor.attention_kernel("cpu") in ("math", "flash", "efficient", "overrideable")
    assert doctor.attention_kernel("nowhere").startswith("unknown (")
