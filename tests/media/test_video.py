"""The MP4 writer: exact counts, and a file that plays however the run ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap

import av
import numpy as np
import pytest
from fakes import SIZE, fill_disk, frames_of

from longlive_rag.media.video import CODECS, VideoWriter, copy_frames, count_frames, read_frame, read_frames


def write(path, blocks, **settings):
    with VideoWriter(path, width=SIZE, height=SIZE, fps=16, **settings) as video:
        for numbers in blocks:
            video.write(frames_of(numbers)[0])
    return path


@pytest.mark.parametrize("codec", [name for name in CODECS if CODECS[name].encoder in av.codecs_available])
def test_every_frame_arrives_at_a_constant_rate(tmp_path, codec):
    path = write(tmp_path / "v.mp4", [range(0, 9), range(9, 21), range(21, 40)], codec=codec)
    assert count_frames(path) == 40
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.frames == 40
        assert stream.average_rate == 16
        assert float(stream.duration * stream.time_base) == 40 / 16
        assert {p.duration * p.time_base * 16 for p in container.demux(stream) if p.size} == {1}
    assert not list(tmp_path.glob(".*"))


def test_a_damaged_video_that_states_no_frame_rate_is_refused(tmp_path):
    path = write(tmp_path / "v.mp4", [range(20)])
    data = bytearray(path.read_bytes())
    times = data.find(b"stts") + 12  # pairs of (number of frames, ticks of each)
    data[times + 4 : times + 8] = bytes(4)
    path.write_bytes(data)
    with av.open(str(path)) as container:
        assert container.streams.video[0].average_rate is None
    for start in (0, 3):
        with pytest.raises(ValueError, match=r"v\.mp4 can't be read as a video: it states no frame rate"):
            list(read_frames(path, start))
    with pytest.raises(ValueError, match="states no frame rate"):
        copy_frames(path, tmp_path / "copy.mp4", range(4), {})
    assert not (tmp_path / "copy.mp4").exists()


def test_one_frame_is_read_or_there_is_none(tmp_path):
    path = write(tmp_path / "v.mp4", [range(20)])
    for number, frame in enumerate(read_frames(path)):
        assert np.array_equal(read_frame(path, number), frame)
    with pytest.raises(ValueError, match=r"v\.mp4 has no frame 20"):
        read_frame(path, 20)


def test_index_is_in_front_when_finished(tmp_path):
    data = write(tmp_path / "v.mp4", [range(20)]).read_bytes()
    assert 0 < data.find(b"moov") < data.find(b"mdat")
    assert b"moof" not in data


def test_upscale_and_colours(tmp_path):
    path = write(tmp_path / "v.mp4", [range(10)], upscale=4)
    frames = list(read_frames(path))
    assert frames[0].shape == (4 * SIZE, 4 * SIZE, 3)
    expected = frames_of(range(10))[0]
    for frame, source in zip(frames, expected, strict=True):
        assert np.abs(frame[2::4, 2::4].astype(int) - source).mean() < 6
        assert np.abs(frame[2:20].mean((0, 1)) - 40).max() < 4  # the plain background keeps its colour


def test_odd_sizes_and_other_frames_are_refused(tmp_path):
    with pytest.raises(ValueError, match="33x32; both sides must be even"):
        VideoWriter(tmp_path / "v.mp4", width=33, height=32, fps=16)
    with pytest.raises(ValueError, match="codec is 'gif'; it must be one of vp9, h264"):
        VideoWriter(tmp_path / "v.mp4", width=32, height=32, fps=16, codec="gif")
    assert not list(tmp_path.iterdir())
    with (
        VideoWriter(tmp_path / "v.mp4", width=32, height=32, fps=16) as video,
        pytest.raises(ValueError, match=r"frames are float32 \[1, 32, 32, 3\]"),
    ):
        video.write(np.zeros((1, 32, 32, 3), dtype=np.float32))


def test_an_exception_leaves_what_was_written(tmp_path):
    with pytest.raises(ZeroDivisionError):
        write(tmp_path / "v.mp4", (range(17 // left) for left in (1, 0)))
    assert count_frames(tmp_path / "v.mp4") == 17


def test_a_killed_process_leaves_a_file_that_plays(tmp_path):
    script = textwrap.dedent(f"""
        import os, signal
        from fakes import SIZE, fill_disk, frames_of
        from longlive_rag.media.video import VideoWriter
        video = VideoWriter({str(tmp_path / "v.mp4")!r}, width=SIZE, height=SIZE, fps=16)
        video.write(frames_of(range(30))[0])
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    here = os.path.dirname(os.path.dirname(__file__))
    root = os.path.dirname(here)
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": f"{here}:{root}"}, check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert len(list(read_frames(tmp_path / "v.mp4"))) >= 29  # the muxer holds the newest frame back


def test_a_full_disk_keeps_whole_frames(tmp_path):
    video = VideoWriter(tmp_path / "v.mp4", width=SIZE, height=SIZE, fps=16)
    video.write(frames_of(range(20))[0])
    fill_disk(video, room_bytes=300)
    with pytest.raises(OSError, match="No space left on device"):
        video.write(frames_of(range(20, 60))[0])
    kept = video.close()
    assert 19 <= kept < 60
    assert len(list(read_frames(tmp_path / "v.mp4"))) == kept == video.close()
