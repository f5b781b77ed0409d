"""The field's measures on closed forms and cases worked by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from eval.protocols import (
    PUBLISHED_KNOTS,
    MappingTable,
    clip_starts,
    consistency,
    cosine_to_first,
    fused,
    last_consistency,
    long_consistency,
    spread,
    start_end_contrast,
    weighted_drift,
)


def at(degrees: list[float]) -> np.ndarray:
    angles = np.deg2rad(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def test_consistency_by_hand():
    """Frames at 0, 60, 120 and 180 degrees: to the previous .5 .5 .5, to the first .5, then cut to 0 twice."""
    assert consistency(at([0, 60, 120, 180])) == pytest.approx((0.5 * 3 + 0.5 + 0 + 0) / 2 / 3, abs=1e-12)


def test_consistency_of_a_freeze_is_one_and_ignores_length():
    assert consistency(5 * at([33, 33, 33])) == pytest.approx(1.0, abs=1e-12)


def test_consistency_of_steady_turning():
    """f_t at angle (t - 1) a: half of cos a, and half of the mean of cos over the rest."""
    a, frames = 0.01, 100
    rows = np.stack([np.cos(a * np.arange(frames)), np.sin(a * np.arange(frames))], axis=1)
    count = frames - 1
    to_first = np.cos(a * (count + 1) / 2) * np.sin(count * a / 2) / np.sin(a / 2) / count
    assert consistency(rows) == pytest.approx((np.cos(a) + to_first) / 2, abs=1e-6)


def test_consistency_refuses_what_it_is_not_defined_for():
    with pytest.raises(ValueError, match="at least 2 frames, got 1"):
        consistency(at([0]))
    with pytest.raises(ValueError, match="every frame has an embedding"):
        consistency(np.array([[1.0, 0.0], [np.nan, np.nan]]))


def test_consistency_of_the_last_seconds_takes_them_for_a_video_of_their_own():
    """One frame a second, turning by 60 degrees from 6 s on: the window's own first frame is the one at 5 s."""
    rows, seconds = at([90, 0, 45, 90, 45, 0, 60, 120, 180, 180, 77]), np.arange(11.0)
    to_previous, to_first = [0.5, 0.5, 0.5, 1.0], [0.5, 0.0, 0.0, 0.0]
    expected = (sum(to_previous) + sum(to_first)) / 2 / 4
    assert last_consistency(3 * rows, seconds, 10.0) == pytest.approx(expected, abs=1e-12)
    assert last_consistency(at([0] * 6 + [33] * 5), seconds, 11.0) == pytest.approx(1.0, abs=1e-12)


def test_consistency_of_the_last_seconds_needs_two_frames_that_all_show_the_subject():
    rows, seconds = at([0, 10, 20, 30]), np.array([0.0, 5.0, 6.0, 9.0])
    assert last_consistency(rows, seconds, 10.0) is not None
    assert last_consistency(rows[:3], seconds[:3], 10.0) == pytest.approx(np.cos(np.deg2rad(10)), abs=1e-12)
    assert last_consistency(rows[:2], seconds[:2], 10.0) is None
    rows[2] = np.nan
    assert last_consistency(rows, seconds, 10.0) is None
    rows[2], rows[0] = rows[1], np.nan  # before the window
    assert last_consistency(rows, seconds, 10.0) is not None


def test_cosine_to_the_first_frame_by_hand():
    """Signed, of unit rows; steady turning gives the cosine of the angle."""
    np.testing.assert_allclose(cosine_to_first(7 * at([30, 30, 90, 120, 210])), [1, 1, 0.5, 0, -1], atol=1e-12)
    angles = np.rad2deg(0.01 * np.arange(100))
    np.testing.assert_allclose(cosine_to_first(at([*angles])), np.cos(0.01 * np.arange(100)), atol=1e-12)
    unseen = at([0, 60])
    unseen[0] = np.nan
    assert np.isnan(cosine_to_first(unseen)).all()
    assert np.isnan(cosine_to_first(unseen[::-1])).tolist() == [False, True]


@pytest.mark.parametrize(
    ("seconds", "clips"),
    [(30, 15), (60, 30), (120, 60)],
)
def test_clips_of_whole_takes(seconds, clips):
    starts = clip_starts(seconds * 16, 32)
    assert len(starts) == clips
    assert starts[-1] + 32 == seconds * 16


def test_a_short_tail_is_shifted_back():
    assert clip_starts(70, 32) == [0, 32, 38]
    assert clip_starts(20, 32) == [0]


def test_long_consistency_by_hand():
    """Two clips of two frames (1 fps): inside 60 degrees apart, first frames 90 apart."""
    parts = long_consistency(at([0, 60, 90, 150]), fps=1)
    assert parts.slow == pytest.approx(0.5, abs=1e-12)
    assert parts.fast == pytest.approx(0.0, abs=1e-12)
    assert parts.clips == 2
    other = long_consistency(at([0, 60, 90, 150]), fps=1, fast_embeddings=at([0, 9, 60, 9]))
    assert (other.slow, other.fast) == (pytest.approx(0.5), pytest.approx(0.5))
    assert long_consistency(at([0, 60]), fps=1).fast is None


def test_clips_of_takes_that_have_just_one():
    assert clip_starts(32, 32) == [0]
    assert clip_starts(33, 32) == [0, 1]
    assert clip_starts(63, 32) == [0, 31]
    assert clip_starts(64, 32) == [0, 32]


def test_slow_is_a_mean_over_clips():
    """Clips of 0, 0 and 90 degrees inside: 1, 1 and 0."""
    assert long_consistency(at([0, 0, 0, 0, 0, 90]), fps=1).slow == pytest.approx(2 / 3)


def test_long_consistency_hardly_sees_drift_inside_clips():
    rows = at([0] * 32 + [80] * 32)
    parts = long_consistency(rows, fps=16)
    assert parts.slow == pytest.approx(1.0)
    assert parts.fast == pytest.approx(np.cos(np.deg2rad(80)), abs=1e-6)


def test_mapping_table():
    table = MappingTable(PUBLISHED_KNOTS["subject"])
    assert table(0.7) == pytest.approx(0.9668)
    assert table(0.75) == pytest.approx((0.9668 + 0.9795) / 2)
    assert table(0.95) is None  # not published, and not made up
    # A raw fast score that falls from .9 to .7 lowers the final subject score by .011 only.
    high, low = (fused(long_consistency(at([0] * 4), 1), table) for _ in range(2))
    assert high is None
    assert low is None
    assert 0.5 * (table(0.9) - table(0.7)) == pytest.approx(0.011, abs=1e-4)


def test_tables_as_published():
    raw = (0.3, 0.5, 0.7, 0.8, 0.9)
    mapped = {
        "subject": (0.8857, 0.9327, 0.9668, 0.9795, 0.9887),
        "background": (0.9342, 0.9461, 0.9575, 0.9642, 0.9717),
    }
    assert {name: tuple(zip(raw, values, strict=True)) for name, values in mapped.items()} == PUBLISHED_KNOTS
    table = MappingTable(PUBLISHED_KNOTS["subject"])
    assert (table(0.3), table(0.9), table(0.29), table(0.91)) == (0.8857, 0.9887, None, None)


def test_fusion_is_half_and_half(tmp_path):
    path = tmp_path / "table.json"
    path.write_text(json.dumps([[0, 0.5], [1, 1.0]]))
    parts = long_consistency(at([0, 60, 60, 120]), fps=1)
    assert fused(parts, MappingTable.read(path)) == pytest.approx(0.5 * 0.5 + 0.5 * (0.5 + 0.5 * 0.5), abs=1e-12)


@pytest.mark.parametrize(
    "content", ["nonsense", "[[0.5, 1]]", "[[0.5, 1], [0.5, 2]]", "[[0.5, 1], [0.6, 2], [0.6, 3]]", "{}"]
)
def test_tables_that_are_none(tmp_path, content):
    path = tmp_path / "table.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="is not a mapping table"):
        MappingTable.read(path)


def test_series_measures_by_hand():
    ramp = np.arange(100, dtype=np.float64)
    assert start_end_contrast(ramp) == pytest.approx(85.0)  # means of 0..14 and 85..99
    assert spread(np.repeat([0.0, 2.0], 150)) == pytest.approx(1.0)
    # M = 1, 2, 3: (3-2+1) |2-1|/1 + (3-3+1) |3-1|/1 = 2 + 2
    assert weighted_drift(np.repeat([1.0, 2.0, 3.0], 5), chunks=3) == pytest.approx(4.0)
    # M = 2, 1, 5: 2 |1-2|/2 + 1 |5-2|/2
    assert weighted_drift(np.repeat([2.0, 1.0, 5.0], 5), chunks=3) == pytest.approx(2.5)
    # the means of 0, 0, 6 and of 0, 0, 3 are 2 and 1
    assert weighted_drift(np.array([0.0, 0, 6, 0, 0, 3]), chunks=2) == pytest.approx(0.5)
    assert weighted_drift(np.array([0.0, 1, 2]), chunks=3) is None
    assert weighted_drift(np.zeros(20)) is None
    # the first 15 % of 40 are 6 frames
    values = np.concatenate([[0, 0, 0, 0, 0, 6.0], np.full(28, 9.0), [0, 0, 0, 0, 0, 60.0]])
    assert start_end_contrast(values) == start_end_contrast(values[::-1]) == pytest.approx(9.0)
    assert start_end_contrast(np.array([1.0, 5, 4])) == 3.0  # of 3 frames, one
    assert spread(np.repeat([0.0, 6.0], 150)) == pytest.approx(3.0)
    assert spread(np.arange(3.0), segments=3) == pytest.approx(np.sqrt(2 / 3))
    with pytest.raises(ValueError, match="5 frames can't be cut into 10 chunks"):
        weighted_drift(np.ones(5))
