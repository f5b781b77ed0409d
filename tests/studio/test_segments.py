"""Blocks as files: the packets of the video, each with its time in the take, decodable from a key block on."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace

import av
import numpy as np
import pytest

from longlive_rag.media.video import VideoWriter, read_frames, whole_frames
from longlive_rag.studio.pictures import Pictures, decoded
from longlive_rag.studio.segments import DiskFilm, LiveFilm
from longlive_rag.takes.folder import NEWEST
from longlive_rag.timeline import Timeline

TIMELINE = Timeline(64, 16, 3, 4)  # the last block is trimmed


def frames_of(numbers: range) -> np.ndarray:
    frames = np.full((len(numbers), 48, 64, 3), 40, dtype=np.uint8)
    for place, number in enumerate(numbers):
        frames[place, 8:24, number % 48 : number % 48 + 8] = (220, 3 * number, 60)
    return frames


@pytest.fixture(params=[("vp9", 3), ("h264", 3), ("vp9", 1)], ids=["vp9", "h264", "one latent frame a block"])
def films(request, tmp_path):
    """(segments as they came, those of the finished file, the file)."""
    codec, frames_per_block = request.param
    timeline = replace(TIMELINE, frames_per_block=frames_per_block)
    live = LiveFilm(timeline)
    path = tmp_path / "video.mp4"
    with VideoWriter(
        path, width=64, height=48, fps=16, codec=codec, keyframe_every=36, on_packet=live.on_packet
    ) as video:
        for block in range(timeline.blocks):
            if block % timeline.segment_blocks == 0:
                video.cut()
            video.write(frames_of(timeline.pixels_of(block)))
            assert len(live.stamps) == block + 1  # no block waits for the next one
    return live, DiskFilm(path, replace(timeline, pixel_frames=10**6), None, live.stamps), path


def packets_of(data):
    with av.open(io.BytesIO(data)) as container:
        assert container.streams.video[0].time_base.denominator == 16384
        return [(float(p.pts * p.time_base), bytes(p)) for p in container.demux(video=0) if p.size]


def test_segments_are_the_packets_of_the_video_at_their_times(films):
    live, disk, path = films
    assert (live.stamps, live.keys) == (disk.stamps, disk.keys)
    assert disk.timeline == live.timeline
    assert all(disk.keys[:: disk.timeline.segment_blocks])
    whole = []
    for block in range(disk.timeline.blocks):
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


def test_the_newest_block_is_whole_after_a_kill(tmp_path):
    take = tmp_path / "take"
    take.mkdir()
    live = LiveFilm(TIMELINE, folder=take)
    video = VideoWriter(take / "video.mp4", width=64, height=48, fps=16, on_packet=live.on_packet)
    for block in range(4):
        video.write(frames_of(TIMELINE.pixels_of(block)))
    killed = shutil.copytree(take, tmp_path / "killed")
    newest = (killed / NEWEST).read_bytes()
    frames = TIMELINE.pixels_of(3).start  # the muxer holds a frame of the fourth block back
    assert whole_frames(killed / "video.mp4") == frames + 11
    film = DiskFilm(killed / "video.mp4", TIMELINE, frames, (), newest)
    assert (len(film.stamps), film.timeline.pixel_frames) == (4, TIMELINE.pixels_of(3).stop)
    assert packets_of(film.segment(3)) == packets_of(live.segment(3))
    exact = np.asarray(decoded(live, TIMELINE.pixels_of(3).stop - 1))
    assert np.array_equal(np.asarray(decoded(film, TIMELINE.pixels_of(3).stop - 1)), exact)
    other = LiveFilm(TIMELINE)
    with VideoWriter(tmp_path / "other.mp4", width=64, height=48, fps=16, on_packet=other.on_packet) as another:
        for block in range(4):
            another.write(255 - frames_of(TIMELINE.pixels_of(block)))
    for stale in (other.segment(3), live.segment(2), b"", newest[:100]):
        assert len(DiskFilm(killed / "video.mp4", TIMELINE, frames, (), stale).stamps) == 3
    video.close()
