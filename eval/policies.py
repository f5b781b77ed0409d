"""Comparing retrieval policies: turns their names into the arms of a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from backbone.errors import FieldError
from eval.plan import Arm
from eval.retrieval_controls import BY_ORACLE, Retrieval
from eval.takes import Takes
from longlive_rag.config import SEARCH
from longlive_rag.environment import plugin
from longlive_rag.presets.preset import Preset

GATE = "establishing"
ESTABLISH_S = 8.0
"""Default if the backbone's preset has none."""
CEILINGS: tuple[Retrieval, ...] = ("opening", BY_ORACLE)


def arms_of(names: Sequence[str], preset: Preset, ceilings: bool, upscale: int | None = None) -> tuple[Arm, ...]:
    """Make the arms: the baseline, one per policy, and the ceilings.

    Args:
        names: names of policies: installed ones, which choose from the whole past; `establishing`, the gate followed by
            the search; or `establishing+POLICY`.
        preset: preset of the backbone.
        ceilings: whether to add ceilings, for which tiny-world's oracle must be able to read the takes.
        upscale: upscaling factor of the videos; None is the preset's.

    Raises:
        FieldError: if a name is unknown.
        ValueError: if a name occurs twice.
    """
    output: dict[str, Any] = {} if upscale is None else {"output": {"upscale": upscale}}
    policies = [Arm(name.replace("+", "-"), {"memory": _memory(name, preset), **output}) for name in names]
    native = Arm("native", {"memory": {"enabled": False}, **output})
    return native, *policies, *(Arm(name, output, name) for name in (CEILINGS if ceilings else ()))


def _memory(name: str, preset: Preset) -> dict[str, Any]:
    """The memory settings for a policy's name; without the gate, neither looks nor words keep a frame from it."""
    gate, _, policy = name.rpartition("+") if "+" in name else (name, "", SEARCH) if name == GATE else ("", "", name)
    if gate not in ("", GATE):
        raise FieldError("policies", name, f"only {GATE} can come before the plus")
    plugin("policy", policy)
    if not gate:
        return {"policy": policy, "establish": 0.0, "like_words": 0.0}
    return {"policy": policy, "establish": preset.memory.establish or ESTABLISH_S}


def stages_by_arm(takes: Takes) -> dict[str, dict[str, float]]:
    """Seconds per block by stage, averaged over each arm's takes."""
    found: dict[str, dict[str, list[float]]] = {}
    for cell in takes.plan.cells:
        for stage, seconds in takes.figures[cell.name].stages.items():
            found.setdefault(cell.arm.name, {}).setdefault(stage, []).append(seconds)
    return {arm: {stage: float(np.mean(each)) for stage, each in stages.items()} for arm, stages in found.items()}
