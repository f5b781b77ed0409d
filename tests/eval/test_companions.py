"""Companions and metrics, worked out on pictures and thumbnails by hand."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import laplace

from eval.companions import (
    Looks,
    LooksMeter,
    _is_shown,
    _shorter_side,
    _some_of,
    change_of,
    first_last_change,
    last_change,
    last_repetition,
    repetition,
)
from eval.metrics import metrics_named

CELLS = 16 * 16 * 3


def looks_of(thumbnails: np.ndarray) -> Looks:
    """With nothing but thumbnails [T, cells]."""
    zeros = np.zeros(len(thumbnails))
    return Looks(zeros, zeros, zeros, zeros, zeros, thumbnails.astype(np.float32))


def seconds_shown(names: str, fps: int = 4) -> np.ndarray:
    """[T, CELLS]: a letter a second; the same letter shows the same frames."""
    return np.concatenate([np.random.default_rng(ord(name)).random((fps, CELLS)) for name in names])


def share(names: str, fps: int = 4) -> float:
    thumbnails = seconds_shown(names, fps)
    return repetition(looks_of(thumbnails), np.arange(len(thumbnails)) / fps)


def last_share(names: str, end_s: float) -> float:
    thumbnails = seconds_shown(names)
    return last_repetition(looks_of(thumbnails), np.arange(len(thumbnails)) / 4, end_s)


def test_looks_by_hand():
    """128 pixels on the shorter side: nothing is resized. BT.601; scipy's Laplacian; blocks of 8 x 10 pixels."""
    rng = np.random.default_rng(1)
    first = rng.integers(0, 256, (128, 160, 3), np.uint8)
    first[..., 1] //= 2
    first[:64, ..., 2] //= 4
    second = np.clip(first + rng.choice([-60, 0, 1, 3, 9], (128, 160, 1), p=[0.1, 0.3, 0.3, 0.2, 0.1]), 0, 255)
    frames = np.stack([first, second.astype(np.uint8)])
    meter = LooksMeter()
    meter.add(frames[:1])
    meter.add(frames[1:])
    looks = meter.looks()
    r, g, b = np.moveaxis(frames / 255.0, -1, 0)
    luma = 0.299 * r + 0.587 * g + 0.114 * b
    change = np.abs(luma[1] - luma[0])
    assert looks.motion == pytest.approx([0, change.mean()], rel=1e-5)
    assert looks.moving == pytest.approx([0, np.clip(change - 4 / 255, 0, None).mean()], rel=1e-4)
    assert looks.exposure == pytest.approx(luma.mean(axis=(1, 2)), rel=1e-5)
    assert looks.saturation == pytest.approx(np.ptp(frames / 255.0, axis=-1).mean(axis=(1, 2)), rel=1e-5)
    sharp = [np.abs(laplace(each)[1:-1, 1:-1]).mean() / 4 for each in luma]
    assert looks.sharpness == pytest.approx(sharp, rel=1e-4)
    blocks = frames.reshape(2, 16, 8, 16, 10, 3).mean(axis=(2, 4)).reshape(2, CELLS) / 255
    np.testing.assert_allclose(looks.thumbnails, blocks, atol=1.01 / 255)  # rounded along each side
    white = LooksMeter()
    white.add(np.full((1, 128, 128, 3), 255, np.uint8))
    np.testing.assert_array_equal(white.looks().thumbnails, 1)


@pytest.mark.parametrize(
    ("size", "expected"), [((320, 256), (160, 128)), ((64, 96), (128, 192)), ((150, 128), (150, 128))]
)
def test_pictures_are_brought_to_one_size(size, expected):
    assert _shorter_side(Image.new("RGB", size), 128).size == expected


def test_sharpness_is_of_the_small_picture():
    """A checkerboard of single pixels at 256 is grey at 128, whose Laplacian is 0."""
    board = (np.indices((256, 256)).sum(axis=0) % 2 * 255).astype(np.uint8)
    meter = LooksMeter()
    meter.add(np.repeat(board[None, ..., None], 3, axis=-1))
    assert meter.looks().sharpness[0] < 0.01


def test_changes_by_hand():
    """At one frame a second: seconds 5 to 9 hold 1, 1, 2, 3, 8, seconds 0 to 4 hold 9, 0, 0, 0, 1."""
    values, seconds = np.array([9.0, 0, 0, 0, 1, 1, 1, 2, 3, 8, 99]), np.arange(11.0)
    assert last_change(values, seconds, 10) == 3
    assert first_last_change(values, seconds, 10) == 1
    assert first_last_change(-values, seconds, 10) == 1
    assert first_last_change(values[::-1], seconds, 11) == pytest.approx(20.6)  # 99, 8, 3, 2, 1 and 0, 0, 0, 9 and 1
    assert change_of(np.array([7.0, 1, 2, 6])) == 3
    assert change_of(np.array([7.0, 5])) == 5
    assert change_of(np.array([7.0])) == 0


def test_metrics_are_of_what_they_say():
    seconds = np.arange(12.0)
    rows = {name: np.arange(12.0) ** power for power, name in enumerate(NAMES, start=2)}
    looks = Looks(**rows, thumbnails=seconds_shown("abcdefabcdef", fps=1).astype(np.float32))
    last, first = slice(7, 12), slice(0, 5)
    found = {name: metric.of(looks, seconds, 12.0) for name, metric in metrics_named(()).items()}
    assert found == pytest.approx(
        {
            "motion": rows["motion"][1:].mean(),
            "last_motion": rows["motion"][last].mean(),
            "moving": rows["moving"][1:].mean(),
            "last_moving": rows["moving"][last].mean(),
            "sharpness": rows["sharpness"].mean(),
            "sharpness_drift": rows["sharpness"][last].mean() - rows["sharpness"][first].mean(),
            "exposure_drift": rows["exposure"][last].mean() - rows["exposure"][first].mean(),
            "saturation_drift": rows["saturation"][last].mean() - rows["saturation"][first].mean(),
            "repetition": 6 / 10,
            "last_repetition": 1.0,
        }
    )
    better_low = {"sharpness_drift", "exposure_drift", "saturation_drift", "repetition", "last_repetition"}
    assert {name for name, metric in metrics_named(()).items() if metric.lower_is_better} == better_low


NAMES = ("motion", "moving", "exposure", "saturation", "sharpness")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("abab", 1.0),  # exactly 2 s earlier is early enough
        ("aab", 0.0),  # 1 s earlier is not
        ("abac", 1 / 2),
        ("abcd", 0.0),
        ("abcda", 1 / 3),
        ("abcdac", 2 / 4),
        ("ab", 0.0),  # shorter than 3 s
    ],
)
def test_repetition_is_the_share_of_seconds_that_were_there(names, expected):
    assert share(names) == pytest.approx(expected)
    assert share(names, fps=1) == pytest.approx(expected)


def test_a_second_counts_only_if_it_is_whole():
    """Half a second of something new at the end of 4.5 s."""
    thumbnails = seconds_shown("ababx")[:18]
    assert repetition(looks_of(thumbnails), np.arange(18) / 4) == 1.0
    thumbnails = seconds_shown("abababababax")[:47]  # of 11.75 s
    assert repetition(looks_of(thumbnails), np.arange(47) / 4) == 1.0


def test_a_second_repeats_only_if_all_its_frames_do():
    thumbnails = seconds_shown("abab")
    thumbnails[9] = seconds_shown("x")[0]  # one frame of second 2
    assert repetition(looks_of(thumbnails), np.arange(16) / 4) == 1 / 2


def test_a_second_without_a_frame_is_passed_over():
    thumbnails, seconds = seconds_shown("ababc", fps=1), np.array([0.0, 1, 2, 4, 5])  # none in second 3
    assert repetition(looks_of(thumbnails), seconds) == 2 / 3


def test_repetition_of_the_last_seconds():
    """Of whole seconds that begin in the last five, which are 5 to 9, or 6 to 9 before 10.5 s."""
    assert last_share("abababcdab", 10) == 3 / 5  # b, a and b; c and d are new
    assert last_share("abcdeabcde", 10) == 1.0
    assert last_share("abcdexxabx", 10) == 3 / 5  # a, b, and x of 2 s before
    assert last_share("abcdeabcdxe", 10.5) == 4 / 5  # 6 to 10
    assert last_share("ababab", 6) == 1.0  # from 2 s on, since nothing is earlier


def apart(flat: float = 0.0, cell: float = 0.0) -> bool:
    """Whether second 3 counts as second 0, from which it differs by so many grey levels in all cells, and in one."""
    thumbnails = np.repeat([[0.4], [0.9], [0.1], [0.4]], CELLS, axis=1)
    thumbnails[3] += flat * np.where(np.arange(CELLS) % 2, 1, -1) / 255
    thumbnails[3, 10] = 0.4 + cell / 255
    return repetition(looks_of(thumbnails), np.arange(4.0)) == 1 / 2


def test_pictures_are_the_same_within_a_grey_level():
    """Of root mean square distance: one cell that is d away makes d / sqrt(CELLS)."""
    one = np.sqrt(CELLS)
    for sign in (1, -1):
        assert apart(cell=sign * 0.998 * one)
        assert not apart(cell=sign * 1.002 * one)


def test_noise_is_everywhere_a_little():
    """Up to 3 grey levels, and no cell by 16 or more."""
    assert apart(flat=2.995)
    assert not apart(flat=3.005)
    for sign in (1, -1):
        assert apart(flat=1.5, cell=sign * 15.98)
        assert not apart(flat=1.5, cell=sign * 16.02)


@pytest.mark.parametrize(("worse", "shown"), [(7, True), (8, False)])
def test_only_the_eight_nearest_are_looked_at_cell_by_cell(worse, shown):
    rows = np.zeros((10, CELLS))
    rows[:9] = 2.5 / 255
    rows[:worse] = 1.2 / 255
    rows[:worse, 0] = 20 / 255  # nearer, but a step
    frames = np.arange(9)[:, None]
    distances = ((rows[:9] - rows[9]) ** 2).mean(axis=1)
    assert _is_shown(rows, np.array([9]), frames, distances) is shown


def test_up_to_eight_frames_of_a_second_evenly():
    assert _some_of(np.arange(100, 116)).tolist() == list(range(100, 116, 2))
    assert _some_of(np.arange(5)).tolist() == list(range(5))
    assert _some_of(np.arange(24)).tolist() == list(range(0, 24, 3))
    assert _some_of(np.arange(0)).tolist() == []
