"""The subject's own motion, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from eval.companions import VISIBLE
from eval.subject import SMALLEST_SUBJECT, MaskingEmbedder, SubjectMeter, subject_figures

SIDE = 20


def grey(value: int = 100) -> np.ndarray:
    return np.full((SIDE, SIDE, 3), value, np.uint8)


def mask(*cells: tuple[int, int]) -> np.ndarray:
    found = np.zeros((SIDE, SIDE), bool)
    for cell in cells:
        found[cell] = True
    return found


FOUR = [(5, 5), (5, 6), (6, 5), (6, 6)]  # 1 % of the picture
SIX = [*FOUR, (7, 5), (7, 6)]


def moving(frames, masks) -> list[float]:
    meter = SubjectMeter()
    meter.add(np.stack(frames[:1]), np.stack(masks[:1]))
    meter.add(np.stack(frames[1:]), np.stack(masks[1:]))
    return meter.moving().tolist()


def test_only_what_changes_where_the_subject_is_counts():
    behind = grey()
    behind[10:, 10:] = 200
    first, second = moving([grey(), behind], [mask(*FOUR)] * 2)
    assert np.isnan(first)
    assert second == 0.0


def test_the_change_is_the_mean_over_where_it_is_in_either_frame():
    """It brightens by 51 of 255 in two of the six pixels of both masks, one of them in the later mask alone."""
    later = grey()
    later[5, 5] = later[7, 5] = 151
    _, value = moving([grey(), later], [mask(*FOUR), mask(*SIX)])
    assert value == pytest.approx(2 * (0.2 - VISIBLE) / 6, abs=1e-6)
    _, back = moving([later, grey()], [mask(*SIX), mask(*FOUR)])
    assert back == pytest.approx(value, abs=1e-6)


def test_a_faint_flicker_is_no_motion():
    flicker = grey(104)
    assert moving([grey(), flicker], [mask(*FOUR)] * 2)[1] == pytest.approx(0.0, abs=1e-6)
    assert moving([grey(), grey(106)], [mask(*FOUR)] * 2)[1] == pytest.approx(2 / 255, abs=1e-6)


@pytest.mark.parametrize("place", [0, 1])
def test_who_is_hardly_there_is_not_seen(place):
    masks = [mask(*FOUR)] * 3
    masks[place] = mask(*FOUR[:3])
    assert pytest.approx(len(FOUR) / SIDE**2) == SMALLEST_SUBJECT
    assert np.isnan(moving([grey(), grey(150), grey(100)], masks)).tolist() == [True, True, place == 1]


def test_luma_is_that_of_bt_601():
    green = grey()
    green[..., 1] = 200
    assert moving([grey(), green], [mask(*FOUR)] * 2)[1] == pytest.approx(0.587 * 100 / 255 - VISIBLE, abs=1e-6)


def test_larger_frames_are_brought_to_the_mask_s_size():
    large = np.kron(grey()[..., :1], np.ones((3, 3, 1))).repeat(3, axis=2).astype(np.uint8)
    brighter = large.copy()
    brighter[15:18, 15:18] = 151  # the pixel (5, 5)
    assert moving([large, brighter], [mask(*FOUR)] * 2)[1] == pytest.approx((0.2 - VISIBLE) / 4, abs=1e-6)


def test_pictures_may_be_wider_than_high():
    wide = np.full((SIDE, 2 * SIDE, 3), 100, np.uint8)
    brighter = wide.copy()
    brighter[5, 30] = 151
    where = np.zeros((SIDE, 2 * SIDE), bool)
    where[5, 25:35] = True
    assert moving([wide, brighter], [where, where])[1] == pytest.approx((0.2 - VISIBLE) / 10, abs=1e-6)


def test_figures_are_means_until_a_horizon_and_in_its_last_5_s():
    seconds = np.arange(0, 20, 0.5)
    values = np.where(seconds < 5, 0.1, np.where(seconds < 10, 0.3, 9.0))
    values[0] = np.nan
    found = subject_figures(values, seconds, 10.0)
    assert found["subject_moving"] == pytest.approx((9 * 0.1 + 10 * 0.3) / 19)
    assert found["last_subject_moving"] == pytest.approx(0.3)
    values[10:20] = np.nan
    found = subject_figures(values, seconds, 10.0)
    assert found["subject_moving"] == pytest.approx(0.1)
    assert np.isnan(found["last_subject_moving"])


def test_an_oracle_without_masks_sees_the_subject_nowhere():
    from eval.oracle import OracleEmbedder

    where = OracleEmbedder(lambda frame: (), {}, ()).masks(np.zeros((2, 64, 64, 3), np.uint8))
    assert where.shape == (2, 64, 64)
    assert not where.any()


def test_the_oracle_knows_where_the_subject_is():
    from eval.oracle import open_oracle
    from longlive_rag.tinyworld.grammar import Sentence
    from longlive_rag.tinyworld.world import render, script_for

    oracle = open_oracle()
    assert isinstance(oracle, MaskingEmbedder)
    script = script_for(Sentence("red", "square", "stands", "meadow"), 4, 0)
    frames = render(script)
    where = oracle.masks(frames)
    assert where.shape == (4, 64, 64)
    assert np.array_equal(oracle.masks(frames.repeat(2, axis=1).repeat(2, axis=2)), where)
    columns = np.nonzero(where[0])[1]
    (track,) = script.tracks()
    assert abs(columns.mean() - (track.x[0] - script.camera.shift_px(0, 1)[0])) < 3
    assert 0.02 < where[0].mean() < 0.3
