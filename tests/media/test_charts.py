"""Charts: told apart by everybody, drawn without a display, and no Matplotlib before one is drawn."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from longlive_rag.media.charts import (
    BASELINE,
    BASELINE_COLOR,
    DPI,
    SERIES_COLORS,
    WIDTH_IN,
    Line,
    add_legend,
    check_charts,
    draw_lines,
    new_chart,
    save_chart,
    start_at_zero,
)
from longlive_rag.media.training_picture import draw_training
from longlive_rag.tinyworld.curve_picture import draw_agreement

# How linear RGB looks with full protanopia, deuteranopia and tritanopia: Machado, Oliveira and Fernandes 2009, table 1.
SIGHT = {
    "usual": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)


def lab(color: str, sight: np.ndarray) -> np.ndarray:
    """CIE Lab of a colour, as it is seen."""
    srgb = np.array([int(color[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    xyz = TO_XYZ @ np.clip(sight @ linear, 0, 1) / [0.95047, 1, 1.08883]
    x, y, z = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("sight", SIGHT)
def test_colors_are_told_apart(sight: str) -> None:
    seen = [lab(color, SIGHT[sight]) for color in (BASELINE_COLOR, *SERIES_COLORS)]
    assert min(np.linalg.norm(one - other) for one, other in combinations(seen, 2)) > 20  # 2.3 is just noticed


def test_lines_break_where_a_value_is_missing_and_colors_come_back_dashed() -> None:
    figure, (axes,) = new_chart(3.0)
    draw_lines(axes, [Line([0, 1, 2], [1.0, None, 3.0], "a", BASELINE), Line([0, 1, 2], [1, 2, 3], "b")])
    draw_lines(axes, [Line([0, 1], [1, 2], "c", len(SERIES_COLORS)), Line([0, 1], [4, 4])])
    broken, first, again, unnamed = axes.lines
    assert np.isnan(broken.get_ydata()).tolist() == [False, True, False]
    assert broken.get_color() == BASELINE_COLOR
    assert first.get_color() == again.get_color() == unnamed.get_color() == SERIES_COLORS[0]
    assert (first.get_linestyle(), again.get_linestyle()) == ("-", "--")
    start_at_zero(axes)
    assert (axes.get_xlim()[0], axes.get_ylim()[0]) == (0, 0)
    assert axes.get_ylim()[1] > 4
    add_legend(figure)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b", "c"]


def test_a_legend_says_each_word_once_and_shows_what_is_faint(tmp_path: Path) -> None:
    figure, panels = new_chart(2.0, panels=3, columns=2)
    for axes in panels:
        draw_lines(axes, [Line([0, 1], [0, 1], "take", opacity=0.1), Line([0, 1], [1, 0], "take", opacity=0.1)])
    add_legend(figure)
    assert len(figure.axes) == 3
    assert [(handle.get_label(), handle.get_alpha()) for handle in figure.legends[0].legend_handles] == [("take", 1)]
    save_chart(figure, tmp_path / "chart.png")
    with Image.open(tmp_path / "chart.png") as picture:
        assert (picture.width, picture.height) == (round(WIDTH_IN * DPI), 4 * DPI)
    assert [path.name for path in tmp_path.iterdir()] == ["chart.png"]


def test_pictures_are_drawn(tmp_path: Path) -> None:
    rows = [{"step": step, "seconds": 1.0, "norm": 1.0, "loss": 1 / step, "delta": 2.0} for step in range(1, 9)]
    draw_training([*rows, {"step": 9, "validation_loss": 0.2}], tmp_path / "training.png")
    takes = [{"agreement_curve": [1.0, None, 0.5]}, {"agreement_curve": [0.5, 0.5, 0.5]}]
    drift = {"agreement_curve": [0.75, 0.5, 0.5], "bin_seconds": 5.0, "takes": takes}
    draw_agreement(drift, tmp_path / "traits.png")
    for name in ("training.png", "traits.png"):
        with Image.open(tmp_path / name) as picture:
            assert len(picture.convert("RGB").getcolors(2**24)) > 10


def test_what_is_missing_is_said_with_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    check_charts("--output")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"^x\.png needs Matplotlib, .* pip install 'longlive-rag\[train\]'$"):
        check_charts("x.png", "train")


USERS = "eval.figures, eval.report, longlive_rag.diagnostics.footprint, longlive_rag.media.charts, "
USERS += "longlive_rag.media.training_picture, longlive_rag.tinyworld.curve_picture"


def test_no_module_needs_matplotlib_to_be_imported() -> None:
    code = f"import sys\nsys.modules['matplotlib'] = None\nimport {USERS}"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
