"""Blocks as files: the packets of the video, each with its time in the take, decodable from a key block on."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longlive_rag.media import video
from longlive_rag.media.segments import FinishedError, split_fragments
from longlive_rag.media.video import VideoWriter, read_frames, whole_frames
from longlive_rag.studio.pictures import Pictures, decoded
from longlive_rag.studio.segments import DiskFilm, GrowingFilm
from longlive_rag.takes.folder import NEWEST
from longlive_rag.takes.newest import NewestBlock
from longlive_rag.timeline import Timeline

TIMELINE = Timeline(64, 16, 3, 4)  # the last block is trimmed


def frames_of(numbers: range) -> np.ndarray:
    frames = np.full((len(numbers), 48, 64, 3), 40, dtype=np.uint8)
    for place, number in enumerate(numbers):
        frames[place, 8:24, number % 48 : number % 48 + 8] = (220, 3 * number, 60)
    return frames


def written(path: Path, timeline: Timeline, pictures=frames_of, kept: int = 0, **options) -> Iterator[int]:
    """Write a take's video as a `TakeWriter` does; each block as soon as it is written."""
    newest = NewestBlock(path.parent, timeline, kept)
    options |= {"begin": (path, timeline.pixels_of(kept).start)} if kept else {}
    options |= {"width": 64, "height": 48, "fps": 16, "keyframe_every": 36}
    with VideoWriter(path, on_packet=newest.on_packet, **options) as writing:
        for block in range(kept, timeline.blocks):
            if block % timeline.segment_blocks == 0:
                writing.cut()
            writing.write(pictures(timeline.pixels_of(block)))
            yield block


@pytest.fixture(params=[("vp9", 3), ("h264", 3), ("vp9", 1)], ids=["vp9", "h264", "one latent frame a block"])
def films(request, tmp_path):
    """(segments, stamps and keys while it was written, segments of the finished file, the file)."""
    codec, frames_per_block = request.param
    timeline = replace(TIMELINE, frames_per_block=frames_per_block)
    path = tmp_path / "video.mp4"
    live = GrowingFilm(path, timeline)
    segments = []
    for block in written(path, timeline, codec=codec):
        live.refresh()
        assert len(live.stamps) == block + 1  # no block waits for the next one
        assert live.timeline.pixel_frames == timeline.pixels_of(block).stop
        segments.append(live.segment(block))
        for shown, segment in enumerate(segments):
            assert packets_of(live.segment(shown)) == packets_of(segment)
    stamps, keys = live.stamps, live.keys
    with pytest.raises(FinishedError):
        live.refresh()
    return (segments, stamps, keys, live.mime), DiskFilm(path, replace(timeline, pixel_frames=10**6)), path


def packets_of(data):
    with av.open(io.BytesIO(data)) as container:
        assert container.streams.video[0].time_base.denominator == 16384
        return [(float(p.pts * p.time_base), bytes(p)) for p in container.demux(video=0) if p.size]


def test_segments_are_the_packets_of_the_video_at_their_times(films):
    (segments, *live), disk, path = films
    assert live[:2] == [disk.stamps, disk.keys]
    assert all(disk.keys[:: disk.timeline.segment_blocks])
    assert disk.timeline.pixel_frames == 64
    whole = []
    for block in range(disk.timeline.blocks):
        assert packets_of(segments[block]) == packets_of(disk.segment(block))
        assert segments[block].count(b"moof") == 1
        whole += packets_of(disk.segment(block))
    assert [time for time, _ in whole] == [number / 16 for number in range(64)]
    with av.open(str(path)) as container:
        assert [bytes(p) for p in container.demux(video=0) if p.size] == [data for _, data in whole]


def test_a_frame_is_the_one_that_the_video_has_there(films):
    _, disk, path = films
    for number in (0, 8, 9, 40, 63):
        exact = next(read_frames(path, number, number + 1)).astype(int)
        assert np.abs(np.asarray(decoded(disk, number)).astype(int) - exact).max() <= 3  # another conversion to RGB
    data = Pictures().jpeg(disk, 40, 32)
    with av.open(io.BytesIO(data)) as picture:
        assert picture.streams.video[0].width == 32


def test_a_damaged_video_is_said(films):
    _, disk, path = films
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises((OSError, ValueError)):
        disk.segment(2)


def test_the_newest_block_is_whole_after_a_kill(tmp_path):
    (take := tmp_path / "take").mkdir()
    live, writing = GrowingFilm(take / "video.mp4", TIMELINE), written(take / "video.mp4", TIMELINE)
    for _ in range(4):
        next(writing)
    live.refresh()
    killed = shutil.copytree(take, tmp_path / "killed")
    newest = (killed / NEWEST).read_bytes()
    frames = TIMELINE.pixels_of(3).start  # the muxer holds a frame of the fourth block back
    assert whole_frames(killed / "video.mp4") == frames + 11
    film = GrowingFilm(killed / "video.mp4", TIMELINE)
    film.refresh()
    assert (len(film.stamps), film.timeline.pixel_frames) == (4, TIMELINE.pixels_of(3).stop)
    assert packets_of(film.segment(3)) == packets_of(live.segment(3))
    exact = np.asarray(decoded(live, TIMELINE.pixels_of(3).stop - 1))
    assert np.array_equal(np.asarray(decoded(film, TIMELINE.pixels_of(3).stop - 1)), exact)
    (other := tmp_path / "other").mkdir()
    others = written(other / "video.mp4", TIMELINE, lambda numbers: 255 - frames_of(numbers))
    for _ in range(4):
        next(others)
    for stale in ((other / NEWEST).read_bytes(), live.segment(2), b"", newest[:100], None):
        (killed / NEWEST).unlink() if stale is None else (killed / NEWEST).write_bytes(stale)
        film.refresh()
        assert (len(film.stamps), len(film.keys)) == (3, 3)


def test_a_video_that_is_whole_but_not_closed(tmp_path, monkeypatch):
    monkeypatch.setattr(video, "put_index_in_front", lambda *_: None)
    path = tmp_path / "video.mp4"
    blocks = list(written(path, TIMELINE))
    film = GrowingFilm(path, TIMELINE)
    film.refresh()
    assert (len(film.stamps), film.timeline) == (len(blocks), TIMELINE)
    assert len(packets_of(film.segment(blocks[-1]))) == len(TIMELINE.pixels_of(blocks[-1]))


def test_segments_of_a_take_that_is_gone_on_with(tmp_path):
    path = tmp_path / "video.mp4"
    writing, film = written(path, TIMELINE), GrowingFilm(path, TIMELINE)
    for _ in range(5):
        next(writing)
    film.refresh()
    before, segments = film.stamps, [film.segment(block) for block in range(5)]
    again = written(path, TIMELINE, kept=3)
    next(again)
    with pytest.raises(OSError, match="has changed"):
        film.segment(2)  # it has not seen the new file yet
    film.refresh()
    assert film.stamps == before[:4]
    next(again)
    next(again)
    film.refresh()
    assert film.stamps[:5] == before
    assert [packets_of(film.segment(block)) for block in range(5)] == [packets_of(each) for each in segments]


@given(st.integers(0, 2**20))
def test_what_is_not_whole_is_not_there(whole_video, cut):
    """Any beginning of a video that is being written holds the frames whose fragments are whole."""
    data, ends = whole_video
    cut %= len(data) + 1
    found = split_fragments(data[:cut])
    assert found == [end for end in ends if end <= cut]
    assert not found or split_fragments(data[found[0] : cut]) == [end - found[0] for end in found[1:]]


@pytest.fixture(scope="module")
def whole_video(tmp_path_factory):
    """Bytes of a video that is being written, and where each frame ends in it, by FFmpeg's own reading."""
    path = tmp_path_factory.mktemp("video") / "video.mp4"
    writing = written(path, TIMELINE)
    for _ in range(4):
        next(writing)
    with av.open(str(path)) as container:
        ends = [packet.pos + packet.size for packet in container.demux(video=0) if packet.size]
    return path.read_bytes(), ends
