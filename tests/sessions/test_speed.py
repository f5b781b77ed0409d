"""By what the layers run: what is chosen, refused, noted, recorded and kept when a take is resumed."""

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from backbone.errors import FieldError
from longlive_rag.environment import COMPILED_VARIABLE, keep_compiled
from longlive_rag.presets.preset import load_preset
from longlive_rag.sessions import speed
from longlive_rag.sessions.opening import Opening
from longlive_rag.sessions.speed import as_before, check_speed_fits, is_compiled, is_decoder_compiled, speed_up
from tests.fakes import make_request, run_of

PRESET = load_preset("tiny-world")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A machine whose device and compilers a test chooses."""
    machine = SimpleNamespace(device="cpu", missing=None)
    monkeypatch.setattr("longlive_rag.weights.load.pick_device", lambda _: torch.device(machine.device))
    monkeypatch.setattr("backbone.compiling.missing_for_compiling", lambda _: machine.missing)
    return machine


@pytest.mark.parametrize(
    ("device", "missing", "seconds", "compiled"),
    [
        ("cuda", None, 150.0, True),
        ("cuda", None, 149.0, False),
        ("cuda", "no triton", 300.0, False),
        ("cpu", None, 3000.0, False),
    ],
)
def test_auto_compiles_for_long_takes_on_cuda(
    machine: SimpleNamespace, device: str, missing: str | None, seconds: float, compiled: bool
) -> None:
    machine.device, machine.missing = device, missing
    request = replace(make_request(), seconds=seconds)
    assert is_compiled(request, Opening()) is compiled
    assert is_compiled(request, Opening(compile="on"))
    assert not is_compiled(request, Opening(compile="off"))


def test_what_cant_be_done_here_is_refused(machine: SimpleNamespace) -> None:
    machine.missing = "there is no C++ compiler"
    with pytest.raises(FieldError, match=r"no C\+\+ compiler\. Use off"):
        check_speed_fits(PRESET, make_request(), Opening(compile="on"))
    check_speed_fits(PRESET, make_request(), Opening(compile="auto"))
    with pytest.raises(FieldError, match=r"it can't be used here: .*Use native"):
        check_speed_fits(PRESET, make_request(), Opening(attention="sage"))
    check_speed_fits(PRESET, make_request(), Opening(attention="native_math"))


def test_a_take_goes_on_as_it_was_made_where_that_can_be_done(machine: SimpleNamespace) -> None:
    before, request = run_of("tiny-world", compiled=True, attention="native_math"), make_request()
    opening = as_before(Opening(), before, PRESET, request)
    assert (opening.compile, opening.attention) == ("on", "native_math")
    machine.missing = "there is no C++ compiler"
    opening = as_before(Opening(), replace(before, attention="sage"), PRESET, request)
    assert (opening.compile, opening.attention) == ("off", "native")
    machine.missing = None
    assert as_before(Opening(), replace(before, compiled=False), PRESET, request).compile == "off"
    for decoder in (True, False):
        opening = as_before(Opening(), replace(before, compiled_decoder=decoder), PRESET, request)
        assert is_decoder_compiled(opening) is decoder
    assert not is_decoder_compiled(Opening(compile="auto"))
    assert not is_decoder_compiled(Opening(compile="on", decoder="tiny"))


def test_what_is_waited_for_is_said_before_and_how_long_it_took_after(
    machine: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(COMPILED_VARIABLE, str(tmp_path))
    notes: list[str] = []

    def compile_for(*given: object) -> float:
        assert "compiling the transformer's layers and the VAE's decoder for 32x32" in notes[0]
        assert str(tmp_path) in notes[0]
        compiled.append(given[1:])
        return 12.34

    compiled: list[object] = []
    for name in ("compile_for", "compile_decoder_for"):
        monkeypatch.setattr(f"backbone.compiling.{name}", compile_for)
    transformer = SimpleNamespace(attention_backend="native", compiled_for=frozenset(), ranks=None)
    decoder = SimpleNamespace(compiled_for=frozenset())
    pipe: Any = SimpleNamespace(transformer=transformer, vae=SimpleNamespace(decoder=decoder))
    request = make_request()
    speed_up(pipe, PRESET, request, Opening(compile="on"), notes.append)
    latents = (16, request.output.height // 8, request.output.width // 8)
    assert compiled == [(request.context, latents), (request.context.frames_per_block, latents)]
    assert notes[1:] == ["compiled in 24.7 s"]
    decoder.compiled_for = frozenset({(1, 16, 3, 8, 12)})
    speed_up(pipe, PRESET, request, Opening(), notes.append)
    assert len(notes) == 2
    assert not decoder.compiled_for


def test_compiled_code_is_kept_in_the_users_cache_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for stated in ("", default_cache_dir()):
        monkeypatch.setenv(COMPILED_VARIABLE, stated)
        assert keep_compiled() == tmp_path / "longlive-rag" / "compiled"
        assert os.environ[COMPILED_VARIABLE] == str(tmp_path / "longlive-rag" / "compiled")
    monkeypatch.setenv(COMPILED_VARIABLE, "/somewhere/else")
    assert keep_compiled() == Path("/somewhere/else")
    assert speed.AUTO_SECONDS > 60
