"""What memory brought back: read from records and measures that are written by hand."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from eval.measures import Measures, PerFrame
from eval.plan import Arm, Cell
from eval.recalled import cosine_of_latents, shown_by_take, what_was_recalled
from eval.scenarios import Story
from longlive_rag.takes.record import TakeRecord, read_record
from longlive_rag.timeline import Timeline
from retrieval.selection import Selection

FPS, SECONDS = 16, 20.0
TIMELINE = Timeline(int(FPS * SECONDS), FPS, 3, 4)
SAMPLE = read_record(Path(__file__).parents[1] / "takes" / "samples" / "cue")
ARM = Arm("memory")
STORY = Story("s", "plain", "a fox")


def measures_of(cosines: list[float | None], every: int = 4) -> Measures:
    """One cosine a latent frame, read in the last of its pixel frames."""
    numbers = range(0, TIMELINE.pixel_frames, every)
    values = [cosines[min(TIMELINE.latent_at(number), len(cosines) - 1)] for number in numbers]
    frames = PerFrame([round(n / FPS, 6) for n in numbers], {"eye": values})
    return Measures.model_construct(horizons_s=(10.0, SECONDS), per_frame=frames)


def record_of(selections: dict[int, list[int]], cues: tuple[float, ...] = ()) -> TakeRecord:
    """Block to the frames that it brought back."""
    changes = {
        "video": SAMPLE.video.model_copy(update={"frames": TIMELINE.pixel_frames}),
        "cues": [
            SAMPLE.cues[0].model_copy(update={"seconds": TIMELINE.starts_at(TIMELINE.cue_block(second))})
            for second in cues
        ],
        "selections": [
            Selection(b, 3 * b - 1, 9, tuple(frames), (0.9,) * len(frames)) for b, frames in selections.items()
        ],
    }
    return SAMPLE.model_copy(update=changes)


def recalled(*takes: tuple[Measures, TakeRecord]) -> list:
    plan = SimpleNamespace(
        scenarios=("plain",), stories=(STORY,), arms=(ARM,), seeds=len(takes), horizons_s=(10.0, SECONDS)
    )
    shown = {
        Cell(ARM, STORY, seed).name: shown_by_take(measures, record, "eye")
        for seed, (measures, record) in enumerate(takes)
    }
    return what_was_recalled(plan, shown)


def half_seen() -> list[float | None]:
    """The subject is there, a little less alike in every frame, until frame 29; then the stage is empty."""
    return [1 - 0.01 * frame if frame < 30 else None for frame in range(TIMELINE.latent_frames)]


def test_frames_after_the_last_cue_are_counted_and_chance_beside_them():
    cue = TIMELINE.cue_block(14.0)
    after = {
        cue - 1: [9, 9, 9],
        cue: [4, 6, 35, 36],
        cue + 1: [4, 6, 35, 36],
        cue + 4: [9, 9, 9, 50],  # 3 s later: no longer at the cue
    }
    (row,) = recalled((measures_of(half_seen()), record_of(after, (4.0, 14.0))))
    assert (row.horizon_s, row.takes, row.seen_at_cue, row.seen) == (SECONDS, 1, 0.5, 7 / 12)
    assert row.likeness == pytest.approx(1 - 0.01 * (2 * (4 + 6) + 3 * 9) / 7)
    past = range(1, 3 * (cue + 4) - 11 - 5)  # what could be retrieved at the last of the three blocks
    assert row.seen_by_chance == pytest.approx(29 / len(past))
    assert row.likeness_by_chance == pytest.approx(1 - 0.01 * np.mean(range(1, 30)))


def test_without_cues_the_last_seconds_count():
    last = TIMELINE.blocks - 1
    rows = recalled((measures_of(half_seen()), record_of({10: [1], 12: [2], last: [3, 40]})))
    assert [(row.horizon_s, row.seen, row.likeness, row.seen_at_cue) for row in rows] == [
        (10.0, 1.0, pytest.approx(0.985), None),  # blocks 10 and 12 begin at 7.3 and 8.8 s
        (SECONDS, 0.5, pytest.approx(0.97), None),
    ]


def test_who_is_like_the_subject_in_less_than_half_is_somebody_else():
    last = TIMELINE.blocks - 1
    cosines = [0.9, 0.5, 0.499, 0.3] + [None] * (TIMELINE.latent_frames - 4)
    (row,) = recalled((measures_of(cosines), record_of({last: [1, 2, 3, 30]})))
    assert (row.seen, row.likeness) == (0.25, 0.5)


def test_a_cue_after_which_nothing_was_brought_back_at_once_has_no_figure_of_that():
    cue = TIMELINE.cue_block(14.0)
    (row,) = recalled((measures_of(half_seen()), record_of({cue + 4: [3]}, (14.0,))))
    assert (row.seen, row.seen_at_cue) == (1.0, None)


def test_the_mean_is_over_takes_and_where_nothing_was_brought_back_there_is_no_figure():
    last = TIMELINE.blocks - 1
    nobody = [None] * TIMELINE.latent_frames
    rows = recalled(
        (measures_of(half_seen()), record_of({last: [1, 2, 3]})),
        (measures_of(nobody), record_of({last: [4]})),
        (measures_of(half_seen()), record_of({})),
        (measures_of(half_seen()), record_of({last: [-5]})),  # a frame of another take
    )
    assert [(row.takes, row.seen, row.likeness) for row in rows] == [(2, 0.5, pytest.approx(0.98))]
    assert recalled((measures_of(half_seen()), record_of({}))) == []


def test_figures_are_means():
    """Likeness of 1, .9 and .5 in one take, of .8 and of 1 in two others."""
    last = TIMELINE.blocks - 1
    cosines = [0.0] + [1.0, 0.9, 0.5, 0.8] + [0.2] * (TIMELINE.latent_frames - 5)
    takes = [(measures_of(cosines), record_of({last: frames})) for frames in ([1, 2, 3], [4], [1])]
    assert [(row.takes, row.seen, row.likeness) for row in recalled(*takes)] == [(3, 1.0, pytest.approx(2.6 / 3))]
    takes = [(measures_of(half_seen()), record_of({last: frames})) for frames in ([1, 50], [1, 50], [1])]
    assert [row.seen for row in recalled(*takes)] == [pytest.approx(2 / 3)]


def test_chance_is_a_mean_over_takes():
    """Of frames that could have been brought back at a take's last block, a share shows the subject."""
    last, until = TIMELINE.blocks - 1, 3 * (TIMELINE.blocks - 1) - 11 - 5
    shares = []
    takes = []
    for seen in (10, 10, 40):
        cosines = [0.5 if frame < seen else None for frame in range(TIMELINE.latent_frames)]
        takes.append((measures_of(cosines), record_of({last: [1]})))
        shares.append((seen - 1) / (until - 1))
    (row,) = recalled(*takes)
    assert row.seen_by_chance == pytest.approx(np.mean(shares))
    assert row.likeness_by_chance == pytest.approx(0.5)


def test_the_first_latent_frame_can_be_brought_back():
    last = TIMELINE.blocks - 1
    cosines = [0.75] + [None] * (TIMELINE.latent_frames - 1)
    (row,) = recalled((measures_of(cosines), record_of({last: [0, 1]})))
    assert (row.seen, row.likeness) == (0.5, 0.75)


@pytest.mark.parametrize("beyond", [0, 7])
def test_a_record_of_frames_that_are_not_there_is_refused(beyond):
    last, frames = TIMELINE.blocks - 1, TIMELINE.latent_frames
    recalled((measures_of(half_seen()), record_of({last: [1, frames - 1]})))
    with pytest.raises(ValueError, match=f"frame {frames + beyond} was brought back; it has {frames} latent frames"):
        recalled((measures_of(half_seen()), record_of({last: [1, frames + beyond]})))


def test_seconds_after_a_cue_begin_with_it_and_end_before_a_horizon():
    """A latent frame a block is brought back, and each block's own is the only one that shows the subject in turn."""
    cue = TIMELINE.cue_block(14.0)
    at_s = TIMELINE.starts_at(cue)
    blocks = range(cue - 2, TIMELINE.blocks)
    counted = {"seen": [], "seen_at_cue": []}
    for block in blocks:
        record = record_of({each: [1 if each == block else 2] for each in blocks}, (14.0,))
        (row,) = recalled((measures_of([0.0, 1.0] + [None] * (TIMELINE.latent_frames - 2)), record))
        for name, found in counted.items():
            found += [block] if getattr(row, name) else []
    assert counted["seen"] == [block for block in blocks if at_s <= TIMELINE.starts_at(block) < SECONDS]
    assert counted["seen_at_cue"] == [block for block in blocks if at_s <= TIMELINE.starts_at(block) < at_s + 2]


@pytest.mark.parametrize("brought_back_in", ["the shot's first block", "a later one"])
def test_after_a_cut_all_of_earlier_shots_could_have_been_brought_back(brought_back_in):
    cut = TIMELINE.cue_block(12.0)
    block = cut if brought_back_in == "the shot's first block" else TIMELINE.blocks - 1
    record = record_of({block: [1]}, (4.0, 12.0))
    cues = [
        cue.model_copy(update={"cut": number == 1, "block": TIMELINE.cue_block(cue.seconds), "reached": True})
        for number, cue in enumerate(record.cues)
    ]
    (row,) = recalled((measures_of(half_seen()), record.model_copy(update={"cues": cues})))
    left = 0 if block == cut else 3 * block - 11 - 5 - (3 * cut + 1)
    assert row.seen_by_chance == pytest.approx(30 / (3 * cut + max(0, left)))


def test_a_cue_at_the_horizon_is_none():
    at_s = TIMELINE.starts_at(TIMELINE.cue_block(10.0))
    record = record_of({TIMELINE.cue_block(10.0) - 2: [1], TIMELINE.cue_block(10.0): [50]}, (10.0,))
    measures = measures_of(half_seen()).model_copy(update={"horizons_s": (at_s, SECONDS)})
    first, _ = shown_by_take(measures, record, "eye")
    assert (first.seen, first.seen_at_cue) == (1.0, None)


@pytest.mark.parametrize("every", [1, 4, 12])
def test_latents_are_as_their_pixel_frames(every):
    cosines = half_seen()
    found = cosine_of_latents(measures_of(cosines, every), TIMELINE, "eye")
    step = max(1, every // 4)
    known = np.array([np.nan if cosines[f] is None else cosines[f] for f in range(len(cosines))])
    np.testing.assert_allclose(found[::step], known[::step])
    assert len(found) == TIMELINE.latent_frames


def test_a_latent_is_the_mean_of_its_pixel_frames_that_show_the_subject():
    """Pixel frame 0 is latent 0; frames 1 to 4 are latent 1, of which one shows nobody; no frame of 2 was embedded."""
    frames = PerFrame([n / FPS for n in (0, 1, 2, 3, 4, 9)], {"eye": [0.1, 0.9, None, 0.8, 0.4, None]})
    found = cosine_of_latents(Measures.model_construct(per_frame=frames), TIMELINE, "eye")
    np.testing.assert_allclose(found[:4], [0.1, 0.7, 0.7, np.nan])
