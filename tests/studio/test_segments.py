"""Blocks as files: the packets of the video, each with its time in the take, decodable from a key block on."""

from __future__ import annotations

import io

import av
import numpy as np
import pytest

from longlive_rag.media.video import VideoWriter, read_frames
from longlive_rag.studio.pictures import Pictures, decoded
from longlive_rag.studio.segments import DiskFilm, LiveFilm
from longlive_rag.timeline import Timeline

TIMELINE = Timeline(64, 16, 3, 4)  # the last block is trimmed


def frames_of(numbers: range) -> np.ndarray:
    frames = np.full((len(numbers), 48, 64, 3), 40, dtype=np.uint8)
    for place, number in enumerate(numbers):
        frames[place, 8:24, number % 48 : number % 48 + 8] = (220, 3 * number, 60)
    return frames


@pytest.fixture(params=["vp9", "h264"])
def films(request, tmp_path):
    """(segments as they came, those of the finished file, the file)."""
    live = LiveFilm(TIMELINE)
    path = tmp_path / "video.mp4"
    with VideoWriter(
        path, width=64, height=48, fps=16, codec=request.param, keyframe_every=36, on_packet=live.on_packet
    ) as video:
        for block in range(TIMELINE.blocks):
            if block % TIMELINE.segment_blocks == 0:
                video.cut()
            video.write(frames_of(TIMELINE.pixels_of(block)))
            assert len(live.stamps) == block + 1  # no block waits for the next one
    return live, DiskFilm(path, Timeline(10**6, 16, 3, 4), None, live.stamps), path


def packets_of(data):
    with av.open(io.BytesIO(data)) as container:
        assert container.streams.video[0].time_base.denominator == 16384
        return [(float(p.pts * p.time_base), bytes(p)) for p in container.demux(video=0) if p.size]


def test_segments_are_the_packets_of_the_video_at_their_times(films):
    live, disk, path = films
    assert (live.stamps, live.keys) == (disk.stamps, disk.keys)
    assert disk.timeline == TIMELINE
    assert all(disk.keys[:: TIMELINE.segment_blocks])
    whole = []
    for block in range(TIMELINE.blocks):
        assert packets_of(live.segment(block)) == packets_of(disk.segment(block))
        assert live.segment(block).count(b"moof") == 1
        whole += packets_of(disk.segment(block))
    assert [time for time, _ in whole] == [number / 16 for number in range(64)]
    with av.open(str(path)) as container:
        assert [bytes(p) for p in container.demux(video=0) if p.size] == [data for _, data in whole]


def test_a_frame_is_the_one_that_the_video_has_there(films):
    live, disk, path = films
    for film in (live, disk):
        for number in (0, 8, 9, 40, 63):
            exact = next(read_frames(path, number, number + 1)).astype(int)
            assert np.abs(np.asarray(decoded(film, number)).astype(int) - exact).max() <= 3  # another conversion to RGB
    data = Pictures().jpeg(disk, 40, 32)
    with av.open(io.BytesIO(data)) as picture:
        assert picture.streams.video[0].width == 32


def test_a_damaged_video_is_said(films):
    _, disk, path = films
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises((OSError, ValueError)):
        disk.segment(2)
