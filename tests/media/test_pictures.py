"""The contact sheet and the memory map show what they must, where they must."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fakes import SIZE, frames_of, make_request, selection_of, timeline_of
from PIL import Image

from backbone.config import ContextConfig
from longlive_rag.media import pictures
from longlive_rag.media.pictures import (
    CACHE,
    CUE,
    CUT,
    FREE,
    FUTURE,
    GUARD,
    KEPT_OUT,
    MAP_SIZE,
    SHEET_FRAMES,
    SINK,
    CueMark,
    _Axes,
    contact_sheet,
    memory_map,
    sheet_frames,
    similarity_color,
    timecode,
)
from longlive_rag.media.video import CODECS, VideoWriter, read_frames
from longlive_rag.timeline import Timeline

BOX = (108, 130, MAP_SIZE[0] - 320, MAP_SIZE[1] - 92)


def draw_map(seconds=30.0, cues=(), **settings):
    request = make_request(seconds, **settings)
    timeline = timeline_of(request)
    selections = [s for block in range(timeline.blocks) if (s := selection_of(request, block))]
    return memory_map(timeline, request.context, selections, "caption", cues), timeline, selections


def pixel_at(picture: Image.Image, timeline: Timeline, block: int, frame: int) -> tuple[int, ...]:
    """Colour in the middle of a latent frame in a block's column."""
    left, top, right, bottom = _Axes(timeline, BOX).cell(block, range(frame, frame + 1))
    return picture.getpixel(((left + right) // 2, (top + bottom) // 2))


@pytest.fixture
def video(tmp_path):
    """`video(frames, codec)` writes a video of so many frames, cut in the middle; returns its path."""

    def write(frames: int, codec: str = "vp9") -> Path:
        path = tmp_path / f"{frames}.{codec}.mp4"
        with VideoWriter(path, width=SIZE, height=SIZE, fps=16, codec=codec, keyframe_every=8) as writer:
            writer.write(frames_of(range(frames // 2))[0])
            writer.cut()
            writer.write(frames_of(range(frames // 2, frames))[0])
        return path

    return write


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("length", [1, 5, 24, 100])
def test_frames_of_a_sheet_are_evenly_spread(video, length, codec):
    path = video(length, codec)
    decoded = list(read_frames(path))
    for frames in (range(length), range(length // 3, length)):
        found = sheet_frames(path, frames)
        numbers = [number for number, _ in found]
        assert len(numbers) == min(SHEET_FRAMES, len(frames))
        assert (numbers[0], numbers[-1]) == (frames[0], frames[-1])
        assert length == 1 or np.ptp(np.diff(numbers)) <= 1
        assert all(np.array_equal(picture, decoded[number]) for number, picture in found)


def test_frames_that_are_not_there_are_left_out(video):
    assert [number for number, _ in sheet_frames(video(6), range(12))] == list(range(6))


def test_contact_sheet_shows_frames_and_cues(video):
    frames = sheet_frames(video(64), range(64))
    plain = contact_sheet(frames, 16, "a prompt", "caption")
    marked = contact_sheet(frames, 16, "a prompt", "caption", [CueMark(2.3, "another prompt")])
    assert plain.width == marked.width == 1280
    assert marked.height > plain.height  # a line more in the header
    assert CUE not in {color for _, color in plain.getcolors(1 << 24)}
    assert CUE in {color for _, color in marked.getcolors(1 << 24)}
    empty = contact_sheet(frames[:1], 16, "word " * 500, "caption " * 100)
    assert empty.height < 400


def test_memory_map_marks_what_was_retrieved():
    picture, timeline, selections = draw_map()
    values = [value for selection in selections for value in selection.similarities]
    low, high = 0.85, 0.90
    assert low <= min(values)
    for selection in selections[3::7]:
        for frame, similarity in zip(selection.frames, selection.similarities, strict=True):
            shown = np.array(pixel_at(picture, timeline, selection.block, frame))
            assert np.abs(shown - similarity_color(similarity, low, high)).max() <= 40


def test_memory_map_shows_the_regions():
    picture, timeline, _ = draw_map()
    context, block = ContextConfig(), 30
    done = timeline.latents_of(block).start
    assert pixel_at(picture, timeline, block, 0) == SINK
    assert pixel_at(picture, timeline, block, done - 2) == CACHE
    assert pixel_at(picture, timeline, block, done - context.window_frames - 1) == GUARD
    assert pixel_at(picture, timeline, block, done + 10) == FUTURE


@pytest.mark.parametrize(("guard", "shown"), [(5, True), (0, False)])
def test_memory_map_has_a_guard_only_where_there_is_one(guard, shown):
    picture, _, _ = draw_map(context=ContextConfig(recency_guard_frames=guard))
    assert (GUARD in {color for _, color in picture.getcolors(1 << 24)}) is shown


def test_memory_map_draws_cues_as_lines():
    picture, timeline, _ = draw_map(cues=[CueMark(15.0625, "x")])
    x = round(_Axes(timeline, BOX).x(15.0625))
    column = [picture.getpixel((x, y)) for y in range(BOX[1] + 2, BOX[3] - 2)]
    assert column.count(CUE) > 0.95 * len(column)


def test_after_a_cut_the_shot_has_a_sink_and_all_before_it_is_memory():
    """Whether memory holds it or not; before the cut nothing has changed."""
    plain, timeline, _ = draw_map(20.0)
    cut = 12
    first = timeline.latents_of(cut).start
    mark = CueMark(timeline.starts_at(cut), "x", cut=True)
    request = make_request(20.0)
    entered = dict.fromkeys(range(first - 4), 0)
    free, kept_out = (memory_map(timeline, request.context, [], "caption", [mark], known) for known in (None, entered))
    for picture in (free, kept_out):
        x = round(_Axes(timeline, BOX).x(mark.seconds))
        column = [picture.getpixel((x, y)) for y in range(BOX[1] + 2, BOX[3] - 2)]
        assert column.count(CUT) > 0.9 * len(column)
        assert pixel_at(picture, timeline, cut + 2, first) == SINK
        assert pixel_at(picture, timeline, cut + 2, first + 1) == CACHE
        assert pixel_at(picture, timeline, cut + 2, 1) == FREE
        assert pixel_at(picture, timeline, cut + 6, timeline.latents_of(cut + 6).start - 13) == GUARD
        assert pixel_at(picture, timeline, cut - 1, first - 4) == pixel_at(plain, timeline, cut - 1, first - 4) == CACHE
    assert pixel_at(free, timeline, cut + 2, first - 2) == FREE
    assert pixel_at(kept_out, timeline, cut + 2, first - 2) == KEPT_OUT


def test_a_cut_has_another_colour_on_a_contact_sheet(video):
    frames = sheet_frames(video(64), range(64))
    marked = contact_sheet(frames, 16, "", "", [CueMark(2.3, "another shot", cut=True)])
    colors = {color for _, color in marked.getcolors(1 << 24)}
    assert CUT in colors
    assert CUE not in colors


@pytest.mark.parametrize("settings", [{"context": ContextConfig(memory_frames=0)}, {"seconds": 2.0}])
def test_memory_map_without_memory_says_so(settings):
    picture, _, selections = draw_map(**settings)
    assert not selections
    notice = np.array(picture.crop((BOX[0] + 30, BOX[1] + 30, BOX[0] + 400, BOX[1] + 70)))
    assert (notice > 200).all(axis=-1).sum() > 100  # words


@pytest.mark.parametrize("seconds", [0.0625, 1.0, 600.0])
def test_memory_map_of_any_length(seconds):
    assert draw_map(seconds)[0].size == MAP_SIZE


def test_similarity_colours_get_lighter():
    lightness = [sum(similarity_color(value, 0.5, 1.0)) for value in (0.5, 0.7, 0.9)]
    assert lightness == sorted(lightness)
    assert similarity_color(0.2, 0.5, 1.0) == similarity_color(0.5, 0.5, 1.0)
    assert similarity_color(0.7, 0.7, 0.7) == similarity_color(1.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00.0"), (7.5, "0:07.5"), (59.96, "1:00.0"), (3725.25, "1:02:05.2")]
)
def test_timecode(seconds, text):
    assert timecode(seconds) == text


def test_a_text_of_any_length_is_cut_to_the_width_at_once(monkeypatch):
    font, asked = pictures._font(26), []
    monkeypatch.setattr(font, "getlength", lambda text, measure=font.getlength: asked.append(text) or measure(text))
    for words in ("x" * 5000, "w" * 5000 + " end", " ".join(["word"] * 2000), "short"):
        asked.clear()
        lines = pictures._wrap(words, font, 1200, 3)
        assert len(lines) <= 3
        assert all(font.getlength(line) <= 1200 for line in lines)
        assert len(asked) <= 2200
    assert pictures._wrap("x" * 5000, font, 1200, 3)[-1].endswith("...")
    assert pictures._shorten("x" * 80, font, 1200) == "x" * 80
