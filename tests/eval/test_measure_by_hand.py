"""One video, all figures, from frames whose embeddings and looks a test can see through: no file is decoded."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest

from eval import measure as module
from eval.drift import cosine_to_reference, drift_at
from eval.footage import Footage
from eval.measure import MeasureSettings, look_at, measure
from eval.oracle import OracleEmbedder
from eval.protocols import (
    PUBLISHED_KNOTS,
    MappingTable,
    consistency,
    cosine_to_first,
    fused,
    last_consistency,
    long_consistency,
    spread,
    start_end_contrast,
    weighted_drift,
)

FPS, SECONDS = 4, 21.0
LEVELS = np.random.default_rng(0).integers(0, 200, (int(FPS * SECONDS), 3)).astype(np.uint8)
"""Each frame is of one colour."""


class Eye:
    """Embeds a frame as its colour, seen or not; reads prompts as colours."""

    name = "eye"

    def __init__(self, blind_from: int = 10**6) -> None:
        self.blind_from, self.given = blind_from, 0

    def embed(self, frames: np.ndarray) -> np.ndarray:
        assert len(frames), "nothing to embed"
        rows = frames[:, 0, 0].astype(np.float32) + 1
        numbers = self.given + np.arange(len(frames))
        self.given += len(frames)
        rows[numbers >= self.blind_from] = np.nan
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def describe(self) -> dict[str, str]:
        return {"embedder": self.name}


class Reader(Eye):
    def embed_prompts(self, prompts: list[str]) -> np.ndarray:
        return np.array([{"red": [1, 0, 0], "blue": [0, 0, 1], "green": [0, 1, 0]}[each] for each in prompts], float)


def footage(frames: int = len(LEVELS)) -> Footage:
    return Footage(Path("clip.mp4"), "clip.mp4", 8, 8, FPS, frames)


def shown(frames: int = len(LEVELS), batch: int = 7, times: np.ndarray | None = None):
    """Stands for `read_batches`."""
    times = np.arange(frames) / FPS if times is None else times
    pictures = np.broadcast_to(LEVELS[:frames, None, None], (frames, 8, 8, 3))
    parts = [
        (times[at : at + batch], np.ascontiguousarray(pictures[at : at + batch])) for at in range(0, frames, batch)
    ]
    return patch.object(module, "read_batches", lambda _: iter(parts))


def measured(embedders, settings: MeasureSettings, frames: int = len(LEVELS)):
    with shown(frames):
        return measure(footage(frames), embedders, settings)


def unit_rows() -> np.ndarray:
    rows = LEVELS.astype(np.float64) + 1
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


TIMES = np.arange(len(LEVELS)) / FPS


def test_drift_and_every_frame_s_cosine():
    found = measured({"eye": Eye()}, MeasureSettings((10.0, 20.0)))
    cosines = cosine_to_reference(unit_rows(), TIMES)
    for drift, horizon_s in zip(found.drift["eye"], (10.0, 20.0), strict=True):
        assert drift.value == pytest.approx(drift_at(cosines, TIMES, horizon_s).value, abs=1e-6)
        assert drift.horizon_s == horizon_s
    before = TIMES < 20
    assert found.per_frame.seconds == TIMES[before].tolist()
    assert found.per_frame.cosine["eye"] == pytest.approx(cosines[before], abs=1e-6)
    assert (found.measured_at_s, found.embed_every) == ((10.0, 20.0), 1)


def test_every_frame_s_cosine_has_twelve_digits_and_its_second_six():
    times = TIMES + 1.23456789e-4
    with shown(times=times):
        found = measure(footage(), {"eye": Eye()}, MeasureSettings((10.0,)))
    assert found.per_frame.seconds[1] == 0.250123
    kept = np.array(found.per_frame.cosine["eye"])
    assert (kept == kept.round(12)).all()
    assert (kept != kept.round(11)).any()
    curves = np.array(found.curves.cosine["eye"])
    assert (curves == curves.round(6)).all()
    assert (curves != curves.round(5)).any()


def test_looks_are_those_before_the_horizon():
    """Means over frames of one colour: luma of BT.601, and no edge."""
    found = measured({"eye": Eye()}, MeasureSettings((10.0, 20.0)))
    luma = (LEVELS / 255) @ [0.299, 0.587, 0.114]
    for figures, horizon_s in zip(found.companions, (10.0, 20.0), strict=True):
        before = horizon_s > TIMES
        assert figures["horizon_s"] == horizon_s
        assert figures["exposure"] == pytest.approx(luma[before].mean(), rel=1e-5)
        assert figures["saturation"] == pytest.approx(np.ptp(LEVELS[before] / 255, axis=1).mean(), rel=1e-5)
        assert figures["motion"] == pytest.approx(np.abs(np.diff(luma[before])).mean(), rel=1e-5)
        assert figures["sharpness"] == pytest.approx(0, abs=1e-6)
    series = found.protocols[0].series["exposure"]
    values = luma[TIMES < 10]
    assert series.start_end_contrast == pytest.approx(start_end_contrast(values), rel=1e-4)
    assert series.spread == pytest.approx(spread(values), rel=1e-4)
    assert series.weighted_drift == pytest.approx(weighted_drift(values), rel=1e-4)
    assert found.curves.exposure[2] == pytest.approx(luma[8:12].mean(), abs=1e-6)
    assert found.curves.motion[1] == pytest.approx(np.abs(np.diff(luma))[3:7].mean(), abs=1e-6)
    assert found.curves.seconds == [n + 0.5 for n in range(20)]


def test_curves_are_means_over_every_second():
    found = measured({"eye": Eye(blind_from=60)}, MeasureSettings((20.0,)))
    cosines = cosine_to_reference(unit_rows()[:60], TIMES[:60]).reshape(15, 4).mean(axis=1)
    assert found.curves.cosine["eye"] == [*(pytest.approx(value, abs=1e-6) for value in cosines), *[None] * 5]


def test_consistency_of_the_frames_before_the_horizon():
    found = measured({"dino": Eye(), "dinov2": Eye(), "half": Eye(60)}, MeasureSettings((10.0, 20.0)))
    for protocols, horizon_s in zip(found.protocols, (10.0, 20.0), strict=True):
        rows = unit_rows()[horizon_s > TIMES]
        names = {"dino", "dinov2", "half"} if horizon_s == 10 else {"dino", "dinov2"}  # half sees all until 15 s
        assert set(protocols.consistency) == names
        parts = long_consistency(rows, FPS)
        assert protocols.consistency["dino"].vbench == pytest.approx(consistency(rows), abs=1e-6)
        assert protocols.consistency["dino"].vbench_long.slow == pytest.approx(parts.slow, abs=1e-6)
        assert protocols.consistency["dino"].vbench_long.clips == horizon_s / 2
        subject = protocols.vbench_long_subject
        assert (subject.slow, subject.fast) == pytest.approx((parts.slow, parts.fast), abs=1e-6)
        expected = fused(parts, MappingTable(PUBLISHED_KNOTS["subject"]))
        assert subject.fused == pytest.approx(expected, abs=1e-6)


def test_the_last_seconds_and_the_first_frame_at_each_horizon():
    """Nobody is seen from 15 s on by the second embedder, and from 18 s on by the third."""
    found = measured({"eye": Eye(), "half": Eye(60), "most": Eye(72)}, MeasureSettings((10.0, 20.0)))
    rows = unit_rows()
    to_first = cosine_to_first(rows)
    for protocols, horizon_s in zip(found.protocols, (10.0, 20.0), strict=True):
        last = (horizon_s - 5 <= TIMES) & (horizon_s > TIMES)
        assert protocols.last_consistency["eye"] == pytest.approx(last_consistency(rows, TIMES, horizon_s), abs=1e-6)
        assert protocols.last_consistency["eye"] == pytest.approx(consistency(rows[last]), abs=1e-6)
        assert protocols.cosine_to_first["eye"] == pytest.approx(to_first[last].mean(), abs=1e-6)
    late = found.protocols[1]
    assert (late.last_consistency["half"], late.cosine_to_first["half"]) == (None, None)
    assert late.last_consistency["most"] is None
    assert late.cosine_to_first["most"] == pytest.approx(to_first[60:72].mean(), abs=1e-6)
    by_second = to_first[:80].reshape(20, 4).mean(axis=1)
    assert found.curves.cosine_to_first["eye"] == pytest.approx(by_second, abs=2e-6)
    assert found.curves.cosine_to_first["half"] == [
        *(pytest.approx(each, abs=2e-6) for each in by_second[:15]),
        *[None] * 5,
    ]


@pytest.mark.parametrize("names", [("dino", "dinov2"), ("dino",), ("dinov2", "clip")])
def test_the_fused_score_needs_both_embedders(names):
    found = measured({name: Eye() for name in names}, MeasureSettings((10.0,)))
    assert (found.protocols[0].vbench_long_subject is None) is (set(names) != {"dino", "dinov2"})


def test_short_videos_have_no_series_of_many_segments():
    """10 s at a frame or three a second."""
    for fps, spreads, weighs in ((1, False, True), (3, True, True)):
        frames = 10 * fps
        video = Footage(Path("clip.mp4"), "clip.mp4", 8, 8, fps, frames)
        with shown(frames, times=np.arange(frames) / fps):
            series = measure(video, {"eye": Eye()}, MeasureSettings((10.0,))).protocols[0].series["exposure"]
        assert (series.spread is not None, series.weighted_drift is not None) == (spreads, weighs)
    assert module._series(np.ones(9)).weighted_drift is None
    assert module._series(np.ones(29)).spread is None


@pytest.mark.parametrize("every", [1, 3, 4])
def test_every_nth_frame_is_embedded_through_all_batches(every):
    settings = {} if every == 1 else {"embed_every": every}
    with shown(batch=7):
        seen = look_at(footage(), {"eye": Eye()}, **settings)
    np.testing.assert_array_equal(seen.embedded_seconds, TIMES[::every])
    np.testing.assert_allclose(seen.embeddings["eye"], unit_rows()[::every], atol=1e-6)
    np.testing.assert_array_equal(seen.seconds, TIMES)


def test_batches_in_which_nothing_is_embedded_are_passed_over():
    with shown(batch=2):
        seen = look_at(footage(), {"eye": Eye()}, embed_every=4, end_s=10.0)
    np.testing.assert_array_equal(seen.embedded_seconds, np.arange(10))
    assert seen.seconds.max() == 9.75


def test_measures_of_every_nth_frame_leave_out_consistency():
    found = measured({"dino": Eye(), "dinov2": Eye()}, MeasureSettings((10.0,), embed_every=2))
    assert (found.protocols[0].consistency, found.protocols[0].vbench_long_subject) == ({}, None)
    assert found.protocols[0].last_consistency == {}
    assert found.protocols[0].cosine_to_first["dino"] == pytest.approx(
        cosine_to_first(unit_rows())[20:40:2].mean(), abs=1e-6
    )
    assert found.protocols[0].series["exposure"].spread is not None
    assert found.embed_every == 2


def test_adherence_is_the_mean_cosine_under_each_prompt():
    prompts = ((0.0, "red"), (6.0, "blue"), (12.0, "green"))
    found = measured({"eye": Reader(), "mute": Eye()}, MeasureSettings((10.0, 20.0), prompts=prompts))
    assert set(found.adherence) == {"eye"}
    rows = unit_rows()
    spans = [(0.0, 6.0, 0), (6.0, 10.0, 2), (10.0, 12.0, 2), (12.0, 20.0, 1)]  # a horizon cuts the second in two
    for each, (start, end, place) in zip(found.adherence["eye"], spans, strict=True):
        inside = (start <= TIMES) & (end > TIMES)
        assert (each.start_s, each.end_s) == (start, end)
        assert each.cosine == pytest.approx(rows[inside, place].mean(), abs=1e-6)
    assert measured({"eye": Reader()}, MeasureSettings((10.0,))).adherence == {}


def test_a_prompt_that_begins_at_a_horizon_is_not_cut_by_it():
    prompts = ((0.0, "red"), (10.0, "blue"))
    found = measured({"eye": Reader()}, MeasureSettings((10.0, 20.0), prompts=prompts)).adherence["eye"]
    assert [(each.start_s, each.end_s) for each in found] == [(0.0, 10.0), (10.0, 20.0)]


def test_a_prompt_under_which_no_frame_lies_has_no_adherence():
    prompts = ((0.0, "red"), (5.1, "blue"), (5.2, "green"))
    red, blue, green = measured({"eye": Reader()}, MeasureSettings((10.0,), prompts=prompts)).adherence["eye"]
    assert red.cosine > 0
    assert blue.cosine is None
    assert green.cosine > 0


def test_the_place_is_held_against_the_prompt_in_force():
    """In a meadow until 10.5 s, then in a desert; the prompt goes there at 7 s, four frames a second."""
    read: list[str] = []

    def read_place(frame: np.ndarray) -> str:
        read.append("meadow" if len(read) < 42 else "desert")
        return read[-1]

    traits = {"shape": ("circle",), "colour": ("red",)}
    oracle = OracleEmbedder(lambda frame: (), traits, (), places=("meadow", "desert"), read_place=read_place)
    prompts = ((0.0, "a red circle in a meadow"), (7.0, "a red circle in a desert"))
    first, second = measured({"eye": Eye(), "world": oracle}, MeasureSettings((10.0, 20.0), prompts=prompts)).traits
    assert first.place_as_named == 1.0  # 3 to 7 s
    assert second.place_as_named == (16 + 38) / (16 + 40)


def test_traits_are_held_against_the_prompt_in_force():
    """A red circle is seen all the time; from 7 to 18 s the prompt names a blue one."""
    who = SimpleNamespace(
        area_px=1, cut_off=False, shape=SimpleNamespace(value="circle", sure=True),
        colour=SimpleNamespace(value="red", sure=True),
    )  # fmt: skip
    oracle = OracleEmbedder(lambda frame: (who,), {"shape": ("circle",), "colour": ("red", "blue")}, ())
    prompts = ((0.0, "a red circle"), (7.0, "a blue circle"), (18.0, "a red circle"))
    first, second = measured({"eye": Eye(), "world": oracle}, MeasureSettings((10.0, 20.0), prompts=prompts)).traits
    assert (first.horizon_s, first.as_named, first.kept, first.distinct_characters) == (10.0, 2 / 5, 2, 1)
    assert (second.horizon_s, second.as_named) == (20.0, 2 / 5)
    (unnamed,) = measured({"world": oracle}, MeasureSettings((10.0,))).traits
    assert (unnamed.as_named, unnamed.all_kept) == (None, True)
    assert measured({"eye": Eye()}, MeasureSettings((10.0,), prompts=prompts)).traits == []


def test_characters_are_counted_against_the_prompt_in_force():
    """Two are seen from 7.5 s on, four frames a second; from 10 s on the prompt names both."""
    seen: list[int] = []

    def count(frame: np.ndarray) -> int:
        seen.append(1 if len(seen) < 30 else 2)
        return seen[-1]

    oracle = OracleEmbedder(
        lambda frame: (), {"shape": ("circle", "square"), "colour": ("red", "blue")}, (), count_bodies=count
    )
    prompts = ((0.0, "a red circle"), (10.0, "a red circle meets a blue square"))
    first, second = measured({"eye": Eye(), "world": oracle}, MeasureSettings((10.0, 20.0), prompts=prompts)).traits
    assert (first.more_than_named, second.more_than_named) == (0.5, 0.0)


def test_horizons_that_a_video_nearly_reaches():
    frame_s = 1 / FPS
    with pytest.raises(ValueError, match="does not reach the horizon of 20 s"):
        measured({"eye": Eye()}, MeasureSettings((20.0,)), frames=79)
    near = measured({"eye": Eye()}, MeasureSettings((20.0,), may_miss_s=1.0), frames=79)
    assert near.measured_at_s == (20.0 - frame_s,)
    assert near.drift["eye"][0].horizon_s == 20.0
    exact = measured({"eye": Eye()}, MeasureSettings((19.75 + frame_s / 2,)), frames=79)
    assert exact.measured_at_s == (19.75 + frame_s / 2,)


def test_embedding_every_second_needs_a_frame_of_each():
    for fps, every, fits in ((4, 4, True), (4, 5, False), (0.5, 1, True), (0.5, 2, False), (4 - 5e-7, 4, True)):
        settings = MeasureSettings((10.0,), embed_every=every)
        if fits:
            settings.check_rate(fps, "clip")
        else:
            with pytest.raises(ValueError, match=rf"it must be at most {max(1, int(fps))}, since clip has"):
                settings.check_rate(fps, "clip")


@pytest.mark.parametrize("horizons_s", [(), (20.0, 20.0), (10.0, 30.0, 20.0), (20.0, 10.0)])
def test_horizons_rise(horizons_s):
    with pytest.raises(ValueError, match="must be one or more increasing numbers of seconds"):
        MeasureSettings(horizons_s)
    with pytest.raises(ValueError, match="embed_every is 0; it must be at least 1"):
        MeasureSettings((10.0,), embed_every=0)


def test_a_figure_that_is_no_number_is_none():
    looks = SimpleNamespace(**dict.fromkeys(("motion", "moving", "thumbnails"), np.zeros(80)))
    looks.sharpness, looks.exposure, looks.saturation = np.full(80, np.inf), np.ones(80), np.full(80, np.nan)
    seen = SimpleNamespace(seconds=TIMES[:80], looks=looks, subject_moving=np.zeros(0))
    found = module._companions(seen, 10.0, {})
    assert found == {"sharpness": None, "exposure": 1.0, "saturation": None}
    seen.subject_moving, seen.embedded_seconds = np.full(80, np.nan), TIMES[:80]
    assert module._companions(seen, 10.0, {})["subject_moving"] is None
