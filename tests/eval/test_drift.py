"""D(h), its windows and curves, on closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.drift import cosine_to_reference, curve, drift_at, unit
from eval.windows import DriftWindows, end_of, within

FPS = 16


def times(seconds: float, fps: float = FPS) -> np.ndarray:
    return np.arange(round(seconds * fps)) / fps


def turning(angles: np.ndarray) -> np.ndarray:
    """Unit vectors [T, 2] at these angles."""
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def test_a_video_that_does_not_change_does_not_drift():
    seconds = times(30)
    cosines = cosine_to_reference(np.tile([3.0, 4.0], (len(seconds), 1)), seconds)
    assert drift_at(cosines, seconds, 30).value == pytest.approx(0.0, abs=1e-12)


def test_a_swap_is_one_minus_the_cosine_between_both():
    seconds, angle = times(120), 0.7
    cosines = cosine_to_reference(turning(np.where(seconds < 60, 0.0, angle)), seconds)
    assert drift_at(cosines, seconds, 30).value == pytest.approx(0.0, abs=1e-12)
    assert drift_at(cosines, seconds, 60).value == pytest.approx(0.0, abs=1e-12)
    assert drift_at(cosines, seconds, 120).value == pytest.approx(1 - np.cos(angle), abs=1e-12)


def test_steady_turning_has_its_closed_form():
    """f_t at angle w t, t = i / fps; means of cosines over equal steps are Dirichlet kernels."""
    seconds, w = times(120), 0.01
    result = [drift_at(cosine_to_reference(turning(w * seconds), seconds), seconds, h) for h in (30.0, 60.0, 120.0)]
    reference = w * (FPS - 1) / 2 / FPS  # the mean direction of equally spaced angles is their middle

    def mean_cosine(start: float, stop: float) -> float:
        count = round((stop - start) * FPS)
        step = w / FPS
        middle = w * start + step * (count - 1) / 2 - reference
        return np.cos(middle) * np.sin(count * step / 2) / (count * np.sin(step / 2))

    for drift in result:
        expected = mean_cosine(1, 5) - mean_cosine(drift.horizon_s - 5, drift.horizon_s)
        assert drift.value == pytest.approx(expected, abs=1e-9)
    assert result[0].value < result[1].value < result[2].value


def test_a_drift_towards_the_reference_is_negative():
    seconds = times(10)
    angles = np.where(seconds < 1, 0.0, np.where(seconds < 5, 0.5, 0.1))
    assert drift_at(cosine_to_reference(turning(angles), seconds), seconds, 10).value < 0


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_prefix_scale_and_rotation_do_not_matter(seed):
    rng = np.random.default_rng(seed)
    seconds, rows = times(40), rng.normal(size=(640, 5)) + 1
    whole = drift_at(cosine_to_reference(rows, seconds), seconds, 30)
    prefix = seconds < 30
    cut = drift_at(cosine_to_reference(rows[prefix], seconds[prefix]), seconds[prefix], 30)
    assert cut == whole
    rotation = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    scaled = rows @ rotation * rng.uniform(0.5, 2, (640, 1))
    assert drift_at(cosine_to_reference(scaled, seconds), seconds, 30).value == pytest.approx(whole.value, abs=1e-9)


def test_frames_without_a_subject_count_nowhere_and_are_reported():
    seconds = times(20)
    rows = turning(np.where(seconds < 10, 0.0, 0.4))
    rows[::2] = np.nan
    drift = drift_at(cosine_to_reference(rows, seconds), seconds, 20)
    assert drift.value == pytest.approx(1 - np.cos(0.4), abs=1e-12)
    assert (drift.opening_coverage, drift.last_coverage) == (0.5, 0.5)
    rows[seconds >= 15] = np.nan
    gone = drift_at(cosine_to_reference(rows, seconds), seconds, 20)
    assert (gone.value, gone.last, gone.last_coverage) == (None, None, 0.0)


def test_a_subject_introduced_later_has_its_windows_moved():
    seconds = times(30)
    rows = turning(np.where(seconds < 5, 1.5, np.where(seconds < 12, 0.0, 0.3)))
    windows = DriftWindows(origin_s=5)
    drift = drift_at(cosine_to_reference(rows, seconds, windows), seconds, 30, windows)
    assert drift.value == pytest.approx(1 - np.cos(0.3), abs=1e-12)


def test_windows_hold_the_frames_that_they_say():
    seconds = times(30)
    assert np.flatnonzero(within(seconds, DriftWindows().reference)).tolist() == list(range(16))
    assert np.flatnonzero(within(seconds, DriftWindows().opening)).tolist() == list(range(16, 80))
    assert np.flatnonzero(within(seconds, DriftWindows().last(30))).tolist() == list(range(400, 480))
    ntsc = np.arange(900) * 1001 / 30000
    assert within(ntsc, (0, 1)).sum() == 30


@pytest.mark.parametrize(
    ("horizons", "message"),
    [
        ((30.0, 60.0), "clip is 59.00 s long and does not reach the horizon of 60 s; measure it at 59 s or less"),
        ((9.0,), "horizon 9 s is too short: the first 5 s and the last 5 s would overlap; it must be at least 10"),
        ((float("nan"),), "horizon nan s is too short"),
    ],
)
def test_horizons_that_can_not_be_measured(horizons, message):
    with pytest.raises(ValueError, match=message):
        DriftWindows().check(horizons, 59.0, 1 / FPS, "clip")


def test_a_horizon_may_be_missed_by_as_much_as_is_said():
    DriftWindows().check((30.0,), 29.8125, 1 / FPS, "clip", may_miss_s=1.0)
    assert end_of(30.0, 29.8125, 1 / FPS) == 29.8125
    assert end_of(30.0, 29.98, 1 / FPS) == 30.0  # within half a frame
    for seconds, may_miss_s in ((29.8125, 0.0), (29.0, 1.0)):
        with pytest.raises(ValueError, match=r"does not reach the horizon of 30 s; measure it at 29"):
            DriftWindows().check((30.0,), seconds, 1 / FPS, "clip", may_miss_s)
    with pytest.raises(ValueError, match="drift needs at least 10 s"):
        DriftWindows().check((10.0,), 9.8, 1 / FPS, "clip", may_miss_s=1.0)


def test_a_horizon_is_missed_by_more_than_half_a_frame():
    frame_s = 1 / FPS
    assert end_of(30.0, 30 - frame_s / 2, frame_s) == 30.0
    assert end_of(30.0, 29.97, frame_s) == 30.0
    assert end_of(30.0, 29.95, frame_s) == 29.95


@pytest.mark.parametrize(
    ("horizon_s", "seconds", "may_miss_s", "message"),
    [
        (30.0, 29.916, 0.0, "measure it at 29.91 s or less"),
        (30.0, 29.5, None, "measure it at 29.5 s or less"),
        (30.0, 10.0, 0.0, "measure it at 10 s or less"),
        (30.0, 9.999, 0.0, "drift needs at least 10 s"),
        (30.0, 30.0, None, ""),
        (10.0, 10.0, None, ""),
        (10.5, 10.0, 1.0, ""),
        (11.0, 10.0, 1.0, "measure it at 10 s or less"),
    ],
)
def test_what_a_video_is_told_that_does_not_reach_its_horizon(horizon_s, seconds, may_miss_s, message):
    more = () if may_miss_s is None else (may_miss_s,)
    if not message:
        return DriftWindows().check((horizon_s,), seconds, 1 / FPS, "clip", *more)
    with pytest.raises(ValueError, match=message):
        DriftWindows().check((horizon_s,), seconds, 1 / FPS, "clip", *more)


def test_every_window_needs_a_frame():
    seconds = np.array([0.0, 0.5, 2.0, 8.0, 18.0])
    DriftWindows().check_frames(seconds, (10.0, 20.0), "clip")
    for left_out, window in ((slice(2, None), "0 and 1"), ([0, 1, 3, 4], "1 and 5"), (slice(0, 4), "15 and 20")):
        with pytest.raises(ValueError, match=f"clip has no frame to measure between {window} s"):
            DriftWindows().check_frames(seconds[left_out], (10.0, 20.0), "clip")


def test_embeddings_of_no_length_are_no_direction():
    rows = np.array([[3.0, 4.0], [0.0, 0.0], [np.nan, np.nan], [0.0, -2.0]])
    with np.errstate(all="raise"):
        np.testing.assert_allclose(unit(rows), [[0.6, 0.8], [np.nan] * 2, [np.nan] * 2, [0, -1]])


def test_a_reference_of_no_direction_is_no_reference():
    """Two opposite embeddings have a mean of length 0."""
    with np.errstate(all="raise"):
        cosines = cosine_to_reference(turning(np.array([0.0, np.pi / 2, 0.0])), np.arange(3.0))
        np.testing.assert_allclose(cosines, [1, 0, 1], atol=1e-12)
        opposite = np.array([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]])
        assert np.isnan(cosine_to_reference(opposite, np.array([0.0, 0.5, 1.0]))).all()


def test_a_row_that_is_partly_unknown_is_no_reference():
    rows = np.array([[np.nan, 1.0], [1.0, 0.0], [1.0, 0.0]])
    np.testing.assert_allclose(cosine_to_reference(rows, np.array([0.0, 0.5, 1.0])), [np.nan, 1, 1])


def test_means_are_no_medians():
    """Cosines of 1, .8, .8, .4 in seconds 1 to 5, of .9, .9, .9, 0, 0 in the last five."""
    seconds = np.arange(10.0)
    cosines = np.array([1, 1, 0.8, 0.8, 0.4, 0.9, 0.9, 0.9, 0, 0])
    drift = drift_at(cosines, seconds, 10)
    assert (drift.opening, drift.last) == (pytest.approx(0.75), pytest.approx(0.54))
    assert drift.value == pytest.approx(0.21)
    rows = turning(np.array([0.0, 0.0, 0.0, 1.0, 0.0]))
    cosines = cosine_to_reference(rows, np.array([0.0, 0.2, 0.4, 0.6, 1.0]))
    direction = rows[:4].mean(axis=0)
    assert cosines[4] == pytest.approx(direction[0] / np.hypot(*direction))


def test_curve_by_other_steps():
    """Bins of half a second: 1 and 2; 6 alone; none; 4. A mean of one frame is that frame."""
    with np.errstate(all="raise"):
        middles, means = curve(np.array([1.0, 2, 6, 4]), np.array([0.0, 0.25, 0.5, 1.5]), step_s=0.5)
    assert middles.tolist() == [0.25, 0.75, 1.25, 1.75]
    np.testing.assert_array_equal(means, [1.5, 6, np.nan, 4])


def test_curve_bins_by_time_and_skips_what_is_not_seen():
    seconds = times(3)
    values = np.where(seconds < 1, 1.0, np.where(seconds < 2, np.nan, 3.0))
    middles, means = curve(values, seconds)
    assert middles.tolist() == [0.5, 1.5, 2.5]
    np.testing.assert_array_equal(means, [1.0, np.nan, 3.0])
