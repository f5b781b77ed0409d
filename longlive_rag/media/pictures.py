"""Two pictures of a take: a contact sheet of its frames, and a map of what each block remembered."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from backbone.config import ContextConfig
from longlive_rag.media.fonts import Font, font_for
from longlive_rag.media.video import read_some_frames
from longlive_rag.timeline import Timeline
from retrieval.selection import Selection, candidate_frames

Color = tuple[int, int, int]

BACKGROUND: Color = (20, 22, 27)
GRID: Color = (52, 57, 68)
TEXT: Color = (232, 234, 238)
FAINT_TEXT: Color = (150, 156, 168)
CUE: Color = (64, 196, 255)
CUT: Color = (255, 255, 255)
NOW: Color = (96, 108, 146)
SINK: Color = (66, 92, 84)
FREE: Color = (50, 58, 62)
FUTURE: Color = (25, 27, 33)
CACHE: Color = (58, 66, 92)
GUARD: Color = (78, 60, 66)
KEPT_OUT: Color = (46, 39, 36)

# Dark to bright, uniform in lightness, suitable for colour blindness: the upper part of the plasma colour map (CC0).
SIMILARITY_COLORS: tuple[Color, ...] = (
    (106, 0, 168),
    (139, 10, 165),
    (184, 50, 137),
    (219, 92, 104),
    (244, 136, 73),
    (254, 189, 42),
    (240, 249, 33),
)

MARGIN = 28
SHEET_FRAMES = 24
SMALL_SIDE = 240
SHEET_WIDTH = 1280
PROMPT_LINES = 3
MAP_SIZE = (1280, 900)
TICK_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200)


@dataclass(frozen=True)
class CueMark:
    """Where a cue took over.

    Attributes:
        seconds: time in the take, at the block's first frame.
        prompt: the prompt that took over.
        cut: whether it begins a new shot.
    """

    seconds: float
    prompt: str
    cut: bool = False

    @property
    def color(self) -> Color:
        """The colour it is drawn in."""
        return CUT if self.cut else CUE


def sheet_frames(video: Path, frames: range) -> list[tuple[int, Image.Image]]:
    """Read at most `SHEET_FRAMES` (frame number, small picture) pairs, spread evenly over `frames` of a video file."""
    count = min(SHEET_FRAMES, len(frames))
    numbers = [frames[round(i * (len(frames) - 1) / max(1, count - 1))] for i in range(count)]
    return [(number, _small(frame)) for number, frame in read_some_frames(video, numbers)]


def _small(frame: np.ndarray) -> Image.Image:
    picture = Image.fromarray(frame)
    picture.thumbnail((SMALL_SIDE, SMALL_SIDE), Image.Resampling.LANCZOS)
    return picture


def contact_sheet(
    frames: Sequence[tuple[int, Image.Image]],
    fps: int,
    prompt: str,
    caption: str,
    cues: Sequence[CueMark] = (),
) -> Image.Image:
    """Draw frames of a take with their timecodes.

    Args:
        frames: (frame number, picture) pairs in time order, at least one.
        fps: frames per second.
        prompt: the first prompt, shown at the top.
        caption: a line below it.
        cues: where other prompts took over; marked at the first picture that shows them, cuts in another colour.
    """
    width, height = frames[0][1].size
    columns = min(len(frames), 8 if width < 1.3 * height else 6)
    full_columns = 8 if width < 1.3 * height else 6
    gap, label = 10, 24
    tile_w = (SHEET_WIDTH - 2 * MARGIN - (full_columns - 1) * gap) // full_columns
    tile_h = round(tile_w * height / width)
    rows = -(-len(frames) // columns)
    lines = _header_lines(prompt, cues, SHEET_WIDTH - 2 * MARGIN)
    top = MARGIN + sum(size + 10 for _, size, _ in lines) + 34
    sheet = Image.new("RGB", (SHEET_WIDTH, top + rows * (tile_h + label + gap) + MARGIN - gap), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    _draw_header(draw, lines, caption, [cue.color for cue in cues])
    taken_over = _first_shown([number for number, _ in frames], [cue.seconds * fps for cue in cues])
    for place, (number, picture) in enumerate(frames):
        x = MARGIN + place % columns * (tile_w + gap)
        y = top + place // columns * (tile_h + label + gap)
        sheet.paste(picture.resize((tile_w, tile_h), Image.Resampling.BICUBIC), (x, y))
        draw.text((x, y + tile_h + 4), timecode(number / fps), FAINT_TEXT, _font(15))
        for order, cue in enumerate(taken_over.get(place, ())):
            draw.rectangle((x, y, x + tile_w - 1, y + tile_h - 1), outline=cues[cue].color, width=3)
            _badge(draw, (x + tile_w - 26 * (order + 1), y + tile_h + 2), str(cue + 1), cues[cue].color)
    return sheet


def found_sheet(found: Sequence[tuple[Image.Image, str, str]], title: str, caption: str) -> Image.Image:
    """Draw frames of different takes, each with two lines of text below it.

    Args:
        found: (picture, first line, second line), at least one; pictures may differ in size.
        title: text at the top.
        caption: a line below it.
    """
    columns, gap, label = 4, 14, 46
    tile_w = (SHEET_WIDTH - 2 * MARGIN - (columns - 1) * gap) // columns
    tile_h = max(min(round(tile_w * picture.height / picture.width), tile_w) for picture, _, _ in found)
    lines = _header_lines(title, (), SHEET_WIDTH - 2 * MARGIN)
    top = MARGIN + sum(size + 10 for _, size, _ in lines) + 34
    rows = -(-len(found) // columns)
    sheet = Image.new("RGB", (SHEET_WIDTH, top + rows * (tile_h + label + gap) + MARGIN - gap), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    _draw_header(draw, lines, caption)
    for place, (picture, first, second) in enumerate(found):
        x = MARGIN + place % columns * (tile_w + gap)
        y = top + place // columns * (tile_h + label + gap)
        scale = min(tile_w / picture.width, tile_h / picture.height)
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        sheet.paste(picture.resize(size, Image.Resampling.BICUBIC), (x, y + tile_h - size[1]))
        draw.text((x, y + tile_h + 4), _shorten(first, _font(15, first), tile_w), TEXT, _font(15, first))
        draw.text((x, y + tile_h + 24), _shorten(second, _font(15, second), tile_w), FAINT_TEXT, _font(15, second))
    return sheet


def memory_map(
    timeline: Timeline,
    context: ContextConfig,
    selections: Sequence[Selection],
    caption: str,
    cues: Sequence[CueMark] = (),
    entered: Mapping[int, int] | None = None,
) -> Image.Image:
    """Draw what each block remembered: the block's time on the x axis, the past frame's time on the y axis.

    Args:
        timeline: of the blocks that were made.
        context: what a block saw; `memory_frames` 0 draws a take without memory.
        selections: one for each block that retrieved.
        caption: a line below the title.
        cues: drawn as vertical lines, cuts in another colour.
        entered: latent frame -> block at which it entered memory; the others were kept out. None: all entered.
    """
    picture = Image.new("RGB", MAP_SIZE, BACKGROUND)
    draw = ImageDraw.Draw(picture)
    axes = _Axes(timeline, (MARGIN + 80, 130, MAP_SIZE[0] - 320, MAP_SIZE[1] - 92))
    low, high = _color_range(selections)
    draw.text((MARGIN, 22), "What each block remembered", TEXT, _font(28))
    font = _font(17, caption)
    draw.text((MARGIN, 62), _shorten(caption, font, MAP_SIZE[0] - 2 * MARGIN), FAINT_TEXT, font)
    draw.rectangle(axes.box, fill=FUTURE)
    shots = [0, *(timeline.cue_block(cue.seconds) for cue in cues if cue.cut)]
    for block in range(timeline.blocks):
        shot_start = timeline.latents_of(max(shot for shot in shots if shot <= block)).start
        for color, frames in _regions(block, shot_start, timeline, context, entered):
            draw.rectangle(axes.cell(block, frames), fill=color)
    axes.draw_scale(picture)
    for selection in selections:
        for frame, similarity in zip(selection.frames, selection.similarities, strict=True):
            color = similarity_color(similarity, low, high)
            draw.rectangle(axes.mark(selection.block, frame), fill=color)
    for number, cue in enumerate(cues, start=1):
        x = axes.x(cue.seconds)
        draw.line((x, axes.top, x, axes.bottom), cue.color, 2)
        _badge(draw, (x - 11, axes.top - 26), str(number), cue.color)
    gated = entered is not None and len(entered) < timeline.latent_frames - context.sink_frames
    _draw_legend(draw, axes, context, bool(selections), (low, high), {cue.color for cue in cues}, gated)
    if not selections:
        _draw_notice(draw, axes, _why_empty(timeline, context))
    return picture


def similarity_color(similarity: float, low: float, high: float) -> Color:
    """Return the colour of a cosine similarity on a scale from `low` (dark) to `high` (bright)."""
    place = (similarity - low) / (high - low) if high > low else 1.0
    place = min(max(place, 0.0), 1.0) * (len(SIMILARITY_COLORS) - 1)
    left = min(int(place), len(SIMILARITY_COLORS) - 2)
    a, b = SIMILARITY_COLORS[left], SIMILARITY_COLORS[left + 1]
    red, green, blue = (round(p + (q - p) * (place - left)) for p, q in zip(a, b, strict=True))
    return red, green, blue


def timecode(seconds: float) -> str:
    """Format as minutes, seconds and tenths, such as 1:07.5, preceded by hours if there are any."""
    tenths = round(seconds * 10)
    minutes, tenths = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    text = f"{minutes:02d}:{tenths / 10:04.1f}" if hours else f"{minutes}:{tenths / 10:04.1f}"
    return f"{hours}:{text}" if hours else text


# ---- contact sheet ----


def _header_lines(prompt: str, cues: Sequence[CueMark], width: int) -> list[tuple[str, int, int]]:
    """Return (text, font size, number of the cue or 0) for each line above the pictures."""
    lines = [(text, 26, 0) for text in _wrap(prompt, _font(26, prompt), width, PROMPT_LINES)]
    for number, cue in enumerate(cues, start=1):
        words = f"{timecode(cue.seconds)}  {'cut: ' if cue.cut else ''}{cue.prompt}"
        words = _shorten(words, _font(18, words), width - 34)
        lines.append((words, 18, number))
    return lines


def _draw_header(
    draw: ImageDraw.ImageDraw, lines: list[tuple[str, int, int]], caption: str, colors: Sequence[Color] = ()
) -> None:
    y = MARGIN - 6
    for text, size, cue in lines:
        if cue:
            _badge(draw, (MARGIN, y), str(cue), colors[cue - 1])
        draw.text((MARGIN + (32 if cue else 0), y), text, TEXT, _font(size, text))
        y += size + 10
    font = _font(16, caption)
    draw.text((MARGIN, y), _shorten(caption, font, SHEET_WIDTH - 2 * MARGIN), FAINT_TEXT, font)


def _first_shown(numbers: Sequence[int], cue_frames: Sequence[float]) -> dict[int, list[int]]:
    """Group cues by the place of the first picture made under them: {place: [cue, ...]}."""
    shown: dict[int, list[int]] = {}
    for cue, frame in enumerate(cue_frames):
        place = next((i for i, number in enumerate(numbers) if number >= frame), None)
        if place is not None:
            shown.setdefault(place, []).append(cue)
    return shown


# ---- memory map ----


class _Axes:
    """Maps seconds and frames to pixels of the plot."""

    def __init__(self, timeline: Timeline, box: tuple[int, int, int, int]) -> None:
        self.left, self.top, self.right, self.bottom = self.box = box
        self._timeline = timeline
        self._seconds = timeline.pixel_frames / timeline.fps

    def x(self, seconds: float) -> float:
        return self.left + (self.right - self.left) * min(seconds, self._seconds) / self._seconds

    def y(self, seconds: float) -> float:
        return self.bottom - (self.bottom - self.top) * min(seconds, self._seconds) / self._seconds

    def cell(self, block: int, frames: range) -> tuple[float, float, float, float]:
        """Return the rectangle of latent frames in a block's column, without gaps to its neighbours."""
        second = self._timeline.second_of
        left, right = self.x(self._timeline.starts_at(block)), self.x(self._timeline.starts_at(block + 1))
        top, bottom = self.y(second(frames.stop)), self.y(second(frames.start))
        return round(left), min(round(top), round(bottom) - 2), round(right), round(bottom)

    def mark(self, block: int, frame: int) -> tuple[float, float, float, float]:
        """Return the rectangle of one retrieved frame, thick enough to be seen."""
        left, top, right, bottom = self.cell(block, range(frame, frame + 1))
        gap = 1 if right - left > 5 else 0
        left, right = min(left + gap, self.right - 3), max(right - gap - 1, left + gap + 2)
        return left, min(top, bottom - 3), min(right, self.right), bottom - 1

    def draw_scale(self, picture: Image.Image) -> None:
        draw = ImageDraw.Draw(picture)
        step = next((s for s in TICK_STEPS if self._seconds / s <= 12), TICK_STEPS[-1])
        for tick in range(0, int(self._seconds) + 1, step):
            x, y = self.x(tick), self.y(tick)
            draw.line((x, self.top, x, self.bottom), GRID)
            draw.line((self.left, y, self.right, y), GRID)
            draw.text((x, self.bottom + 8), str(tick), FAINT_TEXT, _font(16), anchor="ma")
            draw.text((self.left - 10, y), str(tick), FAINT_TEXT, _font(16), anchor="rm")
        middle = (self.left + self.right) / 2
        draw.text((middle, self.bottom + 34), "time of the block being made (s)", TEXT, _font(18), anchor="ma")
        sideways = Image.new("RGB", (self.bottom - self.top, 26), BACKGROUND)
        label = "time of the past frame (s)"
        ImageDraw.Draw(sideways).text((sideways.width / 2, 2), label, TEXT, _font(18), anchor="ma")
        picture.paste(sideways.transpose(Image.Transpose.ROTATE_90), (MARGIN - 4, self.top))


def _regions(
    block: int, shot_start: int, timeline: Timeline, context: ContextConfig, entered: Mapping[int, int] | None
) -> list[tuple[Color, range]]:
    """Return how a block sees the past, apart from what it retrieved: (colour, latent frames).

    Args:
        shot_start: first latent frame of the block's shot.
    """
    latents = timeline.latents_of(block)
    done = latents.start
    sink = range(shot_start, min(shot_start + context.sink_frames, done))
    left_cache = max(sink.stop, done - (context.window_frames - context.sink_frames))
    sizes = context.window_frames, context.sink_frames, context.recency_guard_frames
    candidates = candidate_frames(done, *sizes, shot_start)
    regions = [(NOW, latents), (CACHE, range(left_cache, done))]
    if context.memory_frames:
        regions.append((GUARD, range(max(candidates[-1] + 1 if candidates else 0, sink.stop), left_cache)))
        regions += [(FREE if entered is None else KEPT_OUT, range(*run)) for run in runs(candidates)]
        if entered is not None:
            inside = [frame for frame in candidates if entered.get(frame, block + 1) <= block]
            regions += [(FREE, range(start, stop)) for start, stop in runs(inside)]
    regions.append((SINK, sink))  # last: it may be a mere line and must not be covered
    return [(color, frames) for color, frames in regions if len(frames)]


def runs(frames: Sequence[int]) -> list[tuple[int, int]]:
    """Group increasing numbers into stretches without gaps: (first, one past the last)."""
    found: list[tuple[int, int]] = []
    for frame in frames:
        begins_before = found and found[-1][1] == frame
        found.append((found.pop()[0] if begins_before else frame, frame + 1))
    return found


def _color_range(selections: Sequence[Selection]) -> tuple[float, float]:
    """Return the ends of the colour scale: the similarities that occur, except the lowest 10 %, rounded outwards."""
    values = [value for selection in selections for value in selection.similarities]
    if not values:
        return 0.0, 1.0
    low, high = float(np.quantile(values, 0.1)), max(values)
    step = next(step for step in (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0) if high - low <= 10 * step or step == 1.0)
    return float(np.floor(low / step) * step), float(np.ceil(high / step) * step)


def _draw_legend(
    draw: ImageDraw.ImageDraw,
    axes: _Axes,
    context: ContextConfig,
    has_marks: bool,
    scale: tuple[float, float],
    marked: Collection[Color],
    gated: bool,
) -> None:
    x, y = axes.right + 34, axes.top
    if has_marks:
        y = _draw_color_bar(draw, (x, y), scale) + 34
    first = "a shot's first" if CUT in marked else "the first"
    entries = [
        (SINK, f"sink: {first} {_frames(context.sink_frames)},", "always seen"),
        (NOW, "the block itself,", _at_once(context.frames_per_block)),
        (CACHE, "newest frames,", "still in the cache"),
    ]
    if context.memory_frames:
        if context.recency_guard_frames:
            entries.append((GUARD, "recency guard: too much", "like now to teach anything"))
        entries.append((FREE, "in memory: can be retrieved", f"(up to {context.memory_frames} a block)"))
    if gated:
        entries.append((KEPT_OUT, "kept out of memory: what", "it shows was there before"))
    if CUE in marked:
        entries.append((CUE, "cue: another prompt", "takes over"))
    if CUT in marked:
        entries.append((CUT, "cut: another shot begins,", "with an empty cache"))
    for color, first, second in entries:
        draw.rectangle((x, y + 3, x + 26, y + 37), fill=color, outline=GRID)
        draw.text((x + 38, y), first, TEXT, _font(17))
        draw.text((x + 38, y + 21), second, FAINT_TEXT, _font(17))
        y += 58


def _draw_color_bar(draw: ImageDraw.ImageDraw, corner: tuple[int, int], scale: tuple[float, float]) -> int:
    """Draw the similarity scale; return the y below it."""
    x, y = corner
    low, high = scale
    draw.text((x, y - 4), "a retrieved frame,", TEXT, _font(17))
    draw.text((x, y + 17), "by how much it is like now", FAINT_TEXT, _font(17))
    top, height = y + 52, 200
    for row in range(height):
        draw.line((x, top + row, x + 25, top + row), similarity_color(1 - row / (height - 1), 0.0, 1.0))
    decimals = 3 if high - low < 0.02 else 2
    for part in (0.0, 0.5, 1.0):
        level = top + (1 - part) * (height - 1)
        draw.line((x + 26, level, x + 32, level), FAINT_TEXT)
        value = low + part * (high - low)
        draw.text((x + 38, level), f"{value:.{decimals}f}", FAINT_TEXT, _font(16), anchor="lm")
    draw.text((x + 38, top + 0.75 * height), "cosine similarity", FAINT_TEXT, _font(16), anchor="lm")
    return top + height


def _draw_notice(draw: ImageDraw.ImageDraw, axes: _Axes, lines: Sequence[str]) -> None:
    x, y = axes.left + 36, axes.top + 36
    for order, line in enumerate(lines):
        draw.text((x, y), line, TEXT if order == 0 else FAINT_TEXT, _font(24 if order == 0 else 18))
        y += 38 if order == 0 else 26


def _why_empty(timeline: Timeline, context: ContextConfig) -> list[str]:
    if not context.memory_frames:
        return ["Memory was off", "Each block saw the sink and the newest frames only (native backbone)."]
    waits_for = context.window_frames + context.recency_guard_frames
    first = -(-(waits_for + 1) // context.frames_per_block)
    return [
        "Nothing was old enough to be retrieved",
        f"With this window and guard, the block at {timeline.starts_at(first):.1f} s is the first to look back",
    ]


# ---- text ----


def _font(size: int, text: str = "") -> Font:
    return font_for(text, size)


def _badge(draw: ImageDraw.ImageDraw, corner: tuple[float, float], text: str, color: Color) -> None:
    x, y = corner
    draw.rounded_rectangle((x, y, x + 22, y + 22), 6, fill=color)
    draw.text((x + 11, y + 11), text, BACKGROUND, _font(15), anchor="mm")


def _frames(count: int) -> str:
    return "frame" if count == 1 else f"{count} frames"


def _at_once(count: int) -> str:
    return "one latent frame" if count == 1 else f"{count} latent frames at once"


def _wrap(text: str, font: Font, width: int, max_lines: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    if len(lines) > max_lines:
        lines = [*lines[: max_lines - 1], " ".join(lines[max_lines - 1 :])]
    return [_shorten(line, font, width) for line in lines if line]


def _shorten(text: str, font: Font, width: int) -> str:
    """Shorten text to at most `width` pixels, ending in three dots if anything is cut off."""
    if len(text) <= width and font.getlength(text) <= width:
        return text
    lengths = range(1, min(len(text), width) + 1)
    letters = bisect_right(lengths, width, key=lambda n: ceil(font.getlength(f"{text[:n]}...")))
    return text[:letters].rstrip() + "..."
