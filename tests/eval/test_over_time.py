"""Every second's figures over the takes of a comparison, worked by hand."""

from __future__ import annotations

from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest

from eval.figures import first_frame_curves
from eval.measures import Curve, Curves
from eval.over_time import FirstFrame, likeness_to_first_frames
from eval.scenarios import Story
from eval.statistics import mean_and_error

SECONDS = [0.5, 1.5, 2.5]
TO_FIRST: dict[str, list[Curve]] = {  # by take: a cosine every second by seed; None where nobody is seen
    "native/a": [[1.0, 0.8, None], [1.0, 0.6, None]],
    "native/b": [[1.0, 0.5, 0.5], [0.8, None, 0.3]],
    "native/c": [[0.7, 0.1, None], [0.7, 0.1, None]],
    "memory/a": [[1.0] * 3] * 2,
    "memory/b": [[1.0] * 3] * 2,
    "memory/c": [[1.0, None, 1.0]] * 2,
}


def takes(older: str = "") -> SimpleNamespace:
    """Six stories and seeds; the takes named `older` were measured before there was a cosine to the first frame."""
    plan = SimpleNamespace(
        arms=(SimpleNamespace(name="native"), SimpleNamespace(name="memory")),
        stories=tuple(Story(name, "plain", "a fox") for name in "abc"),
        seeds=2,
        scenarios=("plain",),
    )
    looks = [[0.0] * 3] * 4
    figures = {}
    for name, seed in product(TO_FIRST, range(2)):
        first = {} if name == older else {"eye": TO_FIRST[name][seed]}
        curves = Curves(SECONDS, {"eye": [1.0] * 3}, *looks, cosine_to_first=first)
        figures[f"{name}-{seed}"] = SimpleNamespace(measures=SimpleNamespace(curves=curves))

    def of(arm: str, story: str, seed: int) -> SimpleNamespace:
        return figures[f"{arm}/{story}-{seed}"].measures

    return SimpleNamespace(plan=plan, figures=figures, of=of)


def test_likeness_to_the_first_frame_is_a_mean_over_prompts_with_its_standard_error():
    native, memory = likeness_to_first_frames(takes())
    first, second = [1.0, 0.9, 0.7], [0.7, 0.5, 0.1]
    assert (native.scenario, native.arm, native.embedder, native.seconds) == ("plain", "native", "eye", SECONDS)
    assert native.cosine == pytest.approx([np.mean(first), np.mean(second), 0.4], abs=1e-6)
    assert native.cosine[0] == 0.866667  # six digits
    errors = [np.std(each, ddof=1) / np.sqrt(3) for each in (first, second)]
    assert native.standard_error[:2] == pytest.approx(errors, abs=1e-6)
    assert native.standard_error[2] is None  # one prompt
    assert (memory.arm, memory.cosine, memory.standard_error) == ("memory", [1.0] * 3, [0.0] * 3)


def test_takes_measured_before_there_was_one_have_none():
    assert likeness_to_first_frames(takes(older="memory/b")) == []


def test_mean_and_error_on_closed_forms():
    """1 to n: mean (n + 1) / 2, variance n (n + 1) / 12."""
    count = 9
    values = np.stack([np.arange(1.0, count + 1), np.full(count, 5.0), np.full(count, np.nan)], axis=1)
    mean, error = mean_and_error(values)
    np.testing.assert_allclose(mean, [(count + 1) / 2, 5.0, np.nan])
    np.testing.assert_allclose(error, [np.sqrt(count * (count + 1) / 12 / count), 0.0, np.nan])
    values[2:, 0] = np.nan
    mean, error = mean_and_error(values)
    assert (mean[0], error[0]) == pytest.approx((1.5, 0.5))  # of 1 and 2: sqrt(.5) / sqrt(2)


def test_the_curves_of_a_report_show_a_standard_error_either_way():
    found = [
        FirstFrame("plain", name, "eye", SECONDS, [0.9, 0.8, None], [0.1, 0.2, None]) for name in ("native", "memory")
    ]
    (axes,) = first_frame_curves(found).axes
    lines = {line.get_label(): line.get_ydata() for line in axes.get_lines()}
    np.testing.assert_allclose(lines["memory"], [0.9, 0.8, np.nan])
    heights = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert {round(height, 6) for height in heights} == {0.8, 1.0, 0.6}
