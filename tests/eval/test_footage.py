"""Videos in: decoded once, whole or refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from backbone.errors import FieldError
from eval.footage import find_footage, read_batches
from eval.measure import MeasureSettings
from tests.eval.clips import SIDE, character, write_clip, write_uneven

SAMPLES = Path(__file__).parents[1] / "takes" / "samples"


def test_all_frames_come_once_in_batches_of_any_size(tmp_path):
    footage = find_footage(write_clip(tmp_path / "v.mp4", character(10)))
    assert (footage.frames, footage.fps, footage.seconds, footage.width) == (40, 4.0, 10.0, SIDE)
    whole = {}
    for batch in (1, 7, 64):
        parts = list(read_batches(footage, batch))
        assert [len(seconds) for seconds, _ in parts[:-1]] == [batch] * (len(parts) - 1)
        whole[batch] = np.concatenate([frames for _, frames in parts])
        np.testing.assert_allclose(np.concatenate([seconds for seconds, _ in parts]), np.arange(40) / 4)
    assert np.array_equal(whole[1], whole[7])
    assert np.array_equal(whole[1], whole[64])
    assert np.abs(whole[1].astype(int) - character(10)).mean() < 8


def test_a_video_of_uneven_rate_keeps_its_times(tmp_path):
    times_s = [0, 0.1, 0.2, 0.3, 0.4, 0.5, 1, 1.5, 2, 2.5, 3, 3.5]
    footage = find_footage(write_uneven(tmp_path / "v.mp4", character(3), times_s))
    seconds = np.concatenate([s for s, _ in read_batches(footage)])
    np.testing.assert_allclose(seconds, times_s, atol=1e-6)
    assert footage.seconds == pytest.approx(3.75)  # the header's 4 frames a second tell how long the last one lasts


@pytest.mark.parametrize("name", ["v.mp4", "v.mkv"])
@pytest.mark.parametrize("last_s", [0.04, 0.5, 3.0])
def test_a_video_of_uneven_rate_ends_with_its_last_frame(tmp_path, name, last_s):
    times_s = [*np.arange(0, 5, 0.1).round(3), *np.arange(5, 9.5, 0.5)]
    clip = character(len(times_s) / 4)
    footage = find_footage(write_uneven(tmp_path / name, clip, times_s, last_s=last_s))
    assert footage.seconds == pytest.approx(9 + last_s, abs=0.002)


def test_a_video_that_does_not_tell_how_long_its_last_frame_lasts_is_given_the_mean(tmp_path):
    times_s = [0, 0.1, 0.2, 0.3, 0.4, 0.5, 1, 1.5, 2, 2.5, 3, 3.5]
    footage = find_footage(write_uneven(tmp_path / "v.mkv", character(3), times_s))
    assert footage.seconds == pytest.approx(3.5 * 12 / 11)


def test_a_single_picture_lasts_as_its_rate_says(tmp_path):
    assert find_footage(write_uneven(tmp_path / "v.mkv", character(0.25), [0])).seconds == 0.25


def test_horizons_of_a_video_of_uneven_rate_are_held_against_its_own_times(tmp_path):
    """At the mean rate the first would have 9.17 s and the second 9.99 s."""
    fast_first = [*np.arange(0, 5, 0.1).round(3), 5, 6, 7, 8, 9]
    slow_first = [0, 1, 2, 3, 4, *np.arange(5, 9.85, 0.1).round(3)]
    reaches, is_short = (
        find_footage(write_uneven(tmp_path / f"{last_s}.mp4", character(len(times_s) / 4), times_s, last_s=last_s))
        for times_s, last_s in ((fast_first, 1.0), (slow_first, 0.1))
    )
    settings = MeasureSettings((10.0,))
    settings.check(reaches)
    assert settings.ends_s(reaches) == (10.0,)
    with pytest.raises(FieldError, match=r"is 9\.90 s long and does not reach the horizon of 10 s"):
        settings.check(is_short)


def test_a_header_that_tells_another_rate_is_not_believed(tmp_path):
    times_s = [n / 25 for n in range(100)]
    footage = find_footage(write_uneven(tmp_path / "v.mkv", character(25), times_s, said_fps=10))
    assert footage.fps == pytest.approx(25, rel=1e-3)
    assert footage.seconds == pytest.approx(4, abs=0.01)


def test_what_is_no_video_is_refused(tmp_path):
    (tmp_path / "no.mp4").write_bytes(b"nonsense" * 100)
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "words.txt").write_text("a red circle walks in a meadow\n" * 100)
    for name, message in (
        ("missing.mp4", "does not exist; name a video file or the folder of a take"),
        ("no.mp4", "can't be read as a video: Invalid data"),
        ("empty.mp4", "can't be read as a video"),
        ("words.txt", "can't be read as a video: it holds none"),
    ):
        with pytest.raises(ValueError, match=message):
            find_footage(tmp_path / name)


def test_a_damaged_video_is_refused_not_measured_in_part(tmp_path):
    path = write_clip(tmp_path / "v.mp4", character(60))
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 1500] = bytes(1500)
    path.write_bytes(data)
    with pytest.raises(ValueError, match="is damaged"):
        list(read_batches(find_footage(path)))


def test_a_take_is_measured_by_its_folder(tmp_path):
    folder = tmp_path / "take"
    folder.mkdir()
    write_clip(folder / "video.mp4", character(10))
    with pytest.raises(ValueError, match=r"is not a take: it has no take\.json"):
        find_footage(folder)
    record = json.loads((SAMPLES / "native" / "take.json").read_text())
    record["video"]["frames"] = 40
    (folder / "take.json").write_text(json.dumps({**record, "status": "interrupted"}))
    with pytest.raises(ValueError, match=r"is interrupted, not finished; measure .*video\.mp4 itself"):
        find_footage(folder)
    (folder / "take.json").write_text(json.dumps({**record, "status": "finished"}))
    assert (find_footage(folder).frames, find_footage(folder).backbone) == (40, "tiny-world")
    assert find_footage(folder / "video.mp4").backbone is None
    write_clip(folder / "video.mp4", character(9))
    with pytest.raises(ValueError, match="is damaged: its record says 40 frames, but its video has 36"):
        find_footage(folder)
