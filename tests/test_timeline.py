"""Blocks, frames and seconds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longlive_rag.timecode import format_smpte, parse_timecode
from longlive_rag.timeline import Timeline

sizes = st.sampled_from([1, 3, 8])


def timeline(pixel_frames: int, frames_per_block: int = 3) -> Timeline:
    return Timeline(pixel_frames, fps=16, frames_per_block=frames_per_block, temporal_factor=4)


def test_thirty_seconds_are_480_frames_in_41_blocks() -> None:
    take = timeline(480)
    assert take.blocks == 41
    assert take.latent_frames == 123
    assert [take.pixels_of(block) for block in (0, 1, 40)] == [range(9), range(9, 21), range(477, 480)]


def test_blocks_of_one_latent_frame_last_a_quarter_of_a_second() -> None:
    take = timeline(480, frames_per_block=1)
    assert (take.blocks, take.latent_frames, take.segment_blocks) == (121, 121, 8)
    assert [take.pixels_of(block) for block in (0, 1, 120)] == [range(1), range(1, 5), range(477, 480)]
    assert [take.starts_at(block) for block in (0, 1, 2, 3)] == [0, 0.0625, 0.3125, 0.5625]


@given(pixel_frames=st.integers(1, 3000), frames_per_block=sizes)
def test_blocks_cover_the_video_without_gap_or_overlap(pixel_frames: int, frames_per_block: int) -> None:
    take = timeline(pixel_frames, frames_per_block)
    covered = [frame for block in range(take.blocks) for frame in take.pixels_of(block)]
    assert covered == list(range(pixel_frames))
    assert all(len(take.pixels_of(block)) for block in range(take.blocks))


@given(pixel_frame=st.integers(0, 2999), frames_per_block=sizes)
def test_block_at_is_the_block_that_holds_the_frame(pixel_frame: int, frames_per_block: int) -> None:
    take = timeline(3000, frames_per_block)
    assert pixel_frame in take.pixels_of(take.block_at(pixel_frame))


@pytest.mark.parametrize(
    ("frames_per_block", "seconds", "block"),
    [
        *[(3, 0.01, 1), (3, 0.5625, 1), (3, 0.57, 2), (3, 1.3125, 2), (3, 5.0, 7), (3, 10.0, 14)],
        *[(1, 0.01, 1), (1, 0.0625, 1), (1, 0.07, 2), (1, 0.3125, 2), (1, 5.0, 21), (1, 10.0, 41)],
    ],
)
def test_a_cue_waits_for_the_next_block(frames_per_block: int, seconds: float, block: int) -> None:
    take = timeline(480, frames_per_block)
    assert take.cue_block(seconds) == block
    assert take.starts_at(block) >= seconds
    assert take.starts_at(block) - seconds < frames_per_block * 4 / 16


def test_latents_between_cover_the_span_and_no_more() -> None:
    timeline = Timeline(pixel_frames=400, fps=16, frames_per_block=3, temporal_factor=4)
    for start, end in ((0.0, 0.01), (0.0, 1.0), (0.3, 0.9), (2.5, 2.6), (1.0, 20.0)):
        frames = timeline.latents_between(start, end)
        shown = range(int(start * 16), max(int(start * 16), -(-int(end * 160) // 10) - 1) + 1)
        covered = {0 if pixel == 0 else (pixel + 3) // 4 for pixel in shown}
        assert set(frames) == covered


@given(first=st.integers(0, 30_000), count=st.integers(1, 400), fps=st.sampled_from([15, 16, 24, 25, 30, 60]))
def test_a_span_of_whole_frames_is_of_their_latents(first: int, count: int, fps: int) -> None:
    """In seconds as a person writes them: 1.16 s times 25 is below 29, and 8.3 s times 30 is above 249."""
    take = Timeline(pixel_frames=40_000, fps=fps, frames_per_block=3, temporal_factor=4)
    start, end = (round(frame / fps, 9) for frame in (first, first + count))
    assert take.latents_between(start, end) == range(take.latent_at(first), take.latent_at(first + count - 1) + 1)


# ---- 24 frames a second, blocks of 8 latent frames ----


def at_24(pixel_frames: int) -> Timeline:
    return Timeline(pixel_frames, fps=24, frames_per_block=8, temporal_factor=4)


def test_blocks_of_eight_latent_frames() -> None:
    take = at_24(24 * 10)
    assert [len(take.pixels_of(block)) for block in range(take.blocks)] == [29, 32, 32, 32, 32, 32, 32, 19]
    assert (take.latent_frames, take.latents_of(1)) == (64, range(8, 16))
    assert [take.latent_at(frame) for frame in (0, 1, 4, 5, 28, 29)] == [0, 1, 1, 2, 7, 8]
    assert (take.starts_at(1), take.starts_at(2)) == (29 / 24, 61 / 24)
    assert (take.second_of(1), take.second_of(8)) == (1 / 24, 29 / 24)
    assert take.segment_blocks == 2


@pytest.mark.parametrize(
    ("timecode", "block"),
    [("00:00:00:01", 1), ("00:00:01:05", 1), ("00:00:01:06", 2), ("00:00:02:13", 2), ("00:00:02:14", 3), ("2.55", 3)],
)
def test_a_cue_at_24_frames_a_second_waits_for_the_next_block(timecode: str, block: int) -> None:
    take, seconds = at_24(24 * 10), parse_timecode(timecode, 24)
    assert take.cue_block(seconds) == block
    assert 0 <= take.starts_at(block) - seconds < 32 / 24


@given(block=st.integers(1, 2000))
def test_a_blocks_own_timecode_names_its_first_frame(block: int) -> None:
    take = at_24(24 * 3600)
    timecode = format_smpte(take.starts_at(block), 24)
    hours, minutes, seconds, frames = map(int, timecode.split(":"))
    assert ((hours * 60 + minutes) * 60 + seconds) * 24 + frames == take.pixels_of(block).start == 29 + 32 * (block - 1)
    assert take.cue_block(parse_timecode(timecode, 24)) == block
