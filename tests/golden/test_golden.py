"""Whole generations computed elsewhere, replayed (tests/golden/README.md)."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from longlive_rag.diagnostics.verify import TOLERANCE, replay
from retrieval.budgets import PageBudgets

FILES = sorted(Path(__file__).parent.glob("*.safetensors"))


def test_the_files_are_here() -> None:
    assert [file.stem for file in FILES] == [
        "native_sink3",
        "rag_ae",
        "rag_avgpool",
        "rag_sink3",
        "switch_absolute",
        "switch_relative",
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_golden_trajectory(path: Path) -> None:
    verdict = replay(path)
    assert verdict.passed
    assert verdict.selections_equal
    assert verdict.latent_error < 1e-4  # the tolerance is 1e-3; rounding alone is about 1e-6
    assert (verdict.embedding_error is not None) == path.stem.startswith("rag")


def rewrite(path: Path, target: Path, tensor: str | None = None, **metadata: str) -> Path:
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        kept = {**file.metadata(), **metadata}
    if tensor:
        tensors[tensor] = tensors[tensor] * 1.1
    save_file(tensors, target, kept)
    return target


def test_another_function_fails(tmp_path: Path) -> None:
    """Scaled weights are another model: the verdict must see it."""
    verdict = replay(rewrite(FILES[0], tmp_path / "wrong.safetensors", tensor="weights.blocks.1.self_attn.v.weight"))
    assert verdict.latent_error > TOLERANCE
    assert not verdict.passed


@pytest.mark.parametrize(
    ("budgets", "low", "high"),
    [
        (PageBudgets(host_bytes=0), 1e-3, 0.1),  # every page made again
        (PageBudgets(precision="bfloat16"), 1e-5, 2e-3),
        (PageBudgets(precision="float8"), 1e-3, 0.1),
    ],
)
def test_pages_that_are_not_kept_as_they_were_lead_away_but_not_far(
    budgets: PageBudgets, low: float, high: float
) -> None:
    verdict = replay(Path(__file__).parent / "rag_avgpool.safetensors", budgets=budgets)
    assert low < verdict.latent_error < high


def test_other_selections_fail(tmp_path: Path) -> None:
    verdict = replay(rewrite(FILES[2], tmp_path / "wrong.safetensors", selected_frames='{"18": [2]}'))
    assert not verdict.selections_equal
    assert verdict.first_difference == "block 6 retrieved [1], the golden file [2]"
    assert not verdict.passed


@pytest.mark.parametrize("content", [b"", b"not a safetensors file at all"])
def test_what_is_no_golden_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.safetensors can't be read"):
        replay(path)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="not a golden trajectory"):
        replay(path)
