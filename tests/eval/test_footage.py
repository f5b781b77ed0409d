"""Videos in: decoded once, whole or refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from eval.footage import find_footage, read_batches
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
    assert footage.seconds == pytest.approx(3.5 * 12 / 11)  # the last frame lasts as long as the others on average


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
        ("missing.mp4", "is not there; name a video file or the folder of a take"),
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
    with pytest.raises(ValueError, match="is damaged: its record says 40 frames, its video has 36"):
        find_footage(folder)
