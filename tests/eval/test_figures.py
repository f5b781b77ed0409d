"""The curves of a report, from takes worked by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from eval.figures import drift_curves
from eval.scenarios import Story

SECONDS = [0.5, 1.5, 2.5, 3.5]
CURVES: dict[str, list[list[float | None]]] = {  # by take: a cosine every second; None where nobody is seen
    "native/a": [[1.0, 0.8, 0.4, None], [1.0, 0.6, None, None]],
    "native/b": [[1.0, 0.5, None, None], [0.8, 0.3, None, None]],
    "native/c": [[0.7, 0.1, 0.2, None], [0.7, 0.1, 0.2, 0.9]],
    "memory/a": [[1.0] * 4, [0.5] * 4],
    "memory/b": [[1.0] * 4, [0.5] * 4],
    "memory/c": [[0.75] * 4, [0.75] * 4],
    "native/elsewhere": [[0.0] * 4] * 2,
    "memory/elsewhere": [[0.0] * 4] * 2,
}


def test_curves_are_means_over_prompts_of_means_over_seeds():
    """A second that less than half of the prompts show has no mean; one seed is enough for a prompt to show it."""
    told = (*(Story(name, "plain", "a fox") for name in "abc"), Story("elsewhere", "walk", "a fox"))
    arms = (SimpleNamespace(name="native"), SimpleNamespace(name="memory"))
    plan = SimpleNamespace(arms=arms, stories=told, seeds=2, horizons_s=(4.0,), seconds=4.0)

    def of(arm: str, story: str, seed: int) -> SimpleNamespace:
        return SimpleNamespace(curves=SimpleNamespace(seconds=SECONDS, cosine={"eye": CURVES[f"{arm}/{story}"][seed]}))

    (axes,) = drift_curves(SimpleNamespace(plan=plan, of=of), "plain", "eye").axes
    lines = {line.get_label(): line.get_ydata() for line in axes.get_lines()}
    native = [(1.0 + 0.9 + 0.7) / 3, (0.7 + 0.4 + 0.1) / 3, (0.4 + 0.2) / 2, np.nan]
    np.testing.assert_allclose(lines["native"], native)
    np.testing.assert_allclose(lines["memory"], [0.75] * 4)
    assert len(axes.collections) == len(arms)  # their bands
