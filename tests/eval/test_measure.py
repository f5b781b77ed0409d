"""One video, all figures: controls in their order, invariance, and what can't be measured."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from eval.companions import Looks, repetition
from eval.embedders import Embedder, PixelEmbedder
from eval.footage import find_footage
from eval.measure import MeasureSettings, look_at, measure
from eval.measures import Measures
from eval.protocols import consistency
from eval.single import drift_rows, horizon_in_words, possible_horizons, sentence
from tests.eval.clips import FPS, controls, write_clip, write_uneven

HORIZONS = (30.0, 60.0, 120.0)


@pytest.fixture(scope="module")
def control_videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("controls")
    return {name: find_footage(write_clip(folder / f"{name}.mp4", clip)) for name, clip in controls().items()}


@pytest.fixture(scope="module")
def control_figures(control_videos):
    embedders: dict[str, Embedder] = {"pixels": PixelEmbedder()}
    return {name: measure(video, embedders, MeasureSettings(HORIZONS)) for name, video in control_videos.items()}


def drifts(figures: Measures, embedder: str = "pixels") -> list[float]:
    return [each.value for each in figures.drift[embedder]]


def test_controls_order_by_drift(control_figures):
    d = {name: drifts(figures) for name, figures in control_figures.items()}
    assert np.abs(d["freeze"]).max() < 1e-3
    assert np.abs(d["real"]).max() < 0.05  # colours on a grid see a walk too
    assert d["fade"][0] < d["fade"][1] < d["fade"][2]
    assert d["swap"][:2] == pytest.approx(d["real"][:2], abs=0.01)  # the swap comes at 60 s: not before
    at_end = {name: values[2] for name, values in d.items()}
    assert at_end["freeze"] <= at_end["real"] + 0.05 < 0.1 < at_end["fade"] <= at_end["swap"]


def test_a_freeze_and_a_shuffle_are_told_by_their_companions(control_figures):
    last = {name: figures.companions[-1] for name, figures in control_figures.items()}
    assert last["freeze"]["motion"] < 0.1 * last["real"]["motion"]
    assert last["shuffled"]["motion"] > 2 * last["real"]["motion"]
    assert last["freeze"]["repetition"] == 1.0
    s = {name: f.protocols[-1].consistency["pixels"].vbench for name, f in control_figures.items()}
    assert s["freeze"] > s["real"] > s["shuffled"]
    assert s["real"] > s["swap"]


def test_a_horizon_is_read_from_the_prefix(control_figures, control_videos, tmp_path):
    short = write_clip(tmp_path / "v.mp4", controls()["fade"][: 60 * FPS])
    alone = measure(find_footage(short), {"pixels": PixelEmbedder()}, MeasureSettings((30.0, 60.0)))
    assert drifts(alone) == pytest.approx(drifts(control_figures["fade"])[:2], abs=1e-3)  # VP9 looks at no later frame
    again = measure(control_videos["fade"], {"pixels": PixelEmbedder()}, MeasureSettings((30.0,)))
    assert again.drift["pixels"][0] == control_figures["fade"].drift["pixels"][0]
    assert again.companions[0] == control_figures["fade"].companions[0]
    assert again.protocols[0] == control_figures["fade"].protocols[0]


def test_a_horizon_that_is_nearly_reached_is_measured_at_the_end(tmp_path):
    """119 of 120 frames: what 29.75 s are measured at is what a horizon of 30 s says."""
    video = find_footage(write_clip(tmp_path / "v.mp4", controls(30.0)["fade"][:-1]))
    with pytest.raises(ValueError, match=r"is 29\.75 s long and does not reach the horizon of 30 s"):
        measure(video, {"pixels": PixelEmbedder()}, MeasureSettings((30.0,)))
    near = measure(video, {"pixels": PixelEmbedder()}, MeasureSettings((12.0, 30.0), may_miss_s=1.0))
    exact = measure(video, {"pixels": PixelEmbedder()}, MeasureSettings((12.0, 29.75)))
    assert (near.horizons_s, near.measured_at_s) == ((12.0, 30.0), (12.0, 29.75))
    assert exact.measured_at_s == exact.horizons_s
    assert drifts(near) == drifts(exact)
    assert near.companions == [exact.companions[0], {**exact.companions[1], "horizon_s": 30.0}]
    assert near.protocols == [exact.protocols[0], replace(exact.protocols[1], horizon_s=30.0)]
    assert possible_horizons([video]) == (30.0,)
    first, last = drift_rows([near])
    assert (horizon_in_words(first), horizon_in_words(last)) == ("12 s", "30 s, measured at 29.8 s")
    assert sentence(last).startswith("v.mp4: D(30 s, measured at 29.8 s) = +")


def test_resolution_hardly_matters(tmp_path):
    clip = controls(30.0)["fade"]
    settings = MeasureSettings((30.0,))
    small, large = (
        measure(find_footage(write_clip(tmp_path / f"{u}.mp4", clip, upscale=u)), {"pixels": PixelEmbedder()}, settings)
        for u in (2, 6)
    )
    assert drifts(large) == pytest.approx(drifts(small), abs=0.01)
    for name in ("motion", "exposure", "saturation"):
        assert large.companions[0][name] == pytest.approx(small.companions[0][name], rel=0.05, abs=1e-3)


def test_every_nth_frame(control_videos):
    figures = measure(control_videos["fade"], {"pixels": PixelEmbedder()}, MeasureSettings(HORIZONS, embed_every=4))
    assert figures.protocols[0].consistency == {}  # they need every frame
    assert drifts(figures)[2] > 0.1
    seen = look_at(control_videos["fade"], {"pixels": PixelEmbedder()}, embed_every=4)
    np.testing.assert_allclose(seen.embedded_seconds, np.arange(120))


def test_the_pass_gives_what_whole_arrays_would(control_videos):
    seen = look_at(control_videos["real"], {"pixels": PixelEmbedder()})
    figures = measure(control_videos["real"], {"pixels": PixelEmbedder()}, MeasureSettings((120.0,)))
    expected = consistency(seen.embeddings["pixels"])
    assert figures.protocols[0].consistency["pixels"].vbench == pytest.approx(expected, abs=1e-9)


def test_a_loop_repeats_and_a_walk_does_not(tmp_path):
    rng = np.random.default_rng(2)
    walk = np.cumsum(rng.integers(-12, 13, (40 * 8, 1, 1, 3)), axis=0) % 200 + np.zeros((1, 32, 32, 1), int)
    loop = np.tile(walk[:80], (4, 1, 1, 1))
    shares = {}
    for name, clip in (("walk", walk), ("loop", loop)):
        video = find_footage(write_clip(tmp_path / f"{name}.mp4", clip.astype(np.uint8), fps=8))
        figures = measure(video, {"pixels": PixelEmbedder()}, MeasureSettings((40.0,)))
        shares[name] = figures.companions[0]["repetition"]
    assert shares["walk"] < 0.2
    assert shares["loop"] > 0.7


@pytest.mark.parametrize(("fps", "period"), [(8, 41), (30, 151), (25, 126), (24, 121)])
def test_a_loop_of_any_length_repeats(fps, period):
    """Each second after the first round is one that was there; worked out on thumbnails, without a video."""
    rng = np.random.default_rng(3)
    frames = 20 * fps
    thumbnails = np.resize(rng.random((period, 12)), (frames, 12)).astype(np.float32)
    zeros = np.zeros(frames)
    share = repetition(Looks(zeros, zeros, zeros, zeros, zeros, thumbnails), np.arange(frames) / fps)
    first_round_s = -(-period // fps)  # seconds that begin within it, and show something new
    assert share == pytest.approx((20 - first_round_s) / 18)  # of seconds 2 to 20


def test_frames_too_far_apart_are_refused_not_measured_in_part(tmp_path):
    clip = controls(20.0)["real"]
    path = write_uneven(tmp_path / "v.mp4", clip, [n / FPS if n < 40 else n / FPS + 20 for n in range(len(clip))])
    video = find_footage(path)
    assert video.seconds == pytest.approx(40, abs=0.6)
    with pytest.raises(ValueError, match="has no frame to measure between 20 and 25 s"):
        measure(video, {"pixels": PixelEmbedder()}, MeasureSettings((25.0,)))


def test_one_frame_of_each_second_must_be_embedded(control_videos):
    with pytest.raises(ValueError, match=r"embed_every is 5; it must be at most 4, since .* has 4 frames per second"):
        measure(control_videos["real"], {"pixels": PixelEmbedder()}, MeasureSettings((30.0,), embed_every=5))


def test_a_video_that_is_too_short_is_refused_before_it_is_decoded(control_videos):
    class Unused:
        name = "unused"

        def embed(self, frames):
            raise AssertionError("decoded")

        def describe(self):
            return {}

    video = replace(control_videos["real"], frames=50 * FPS)
    with pytest.raises(ValueError, match=r"is 50\.00 s long and does not reach the horizon of 60 s"):
        measure(video, {"unused": Unused()}, MeasureSettings((30.0, 60.0)))


def test_figures_are_plain_json(control_figures):
    text = json.dumps(control_figures["fade"].model_dump(mode="json"), allow_nan=False)
    assert json.loads(text)["curves"]["seconds"][:2] == [0.5, 1.5]
    assert len(json.loads(text)["curves"]["cosine"]["pixels"]) == 120


def test_adherence_is_of_each_prompt_to_its_own_frames(tmp_path):
    class Colours(PixelEmbedder):
        def embed(self, frames):
            rows = frames.astype(np.float32).mean((1, 2)) - 127.5
            return rows / np.linalg.norm(rows, axis=1, keepdims=True)

        def embed_prompts(self, prompts):
            return np.array([{"red": [1, -1, -1], "blue": [-1, -1, 1]}[p] for p in prompts], np.float32) / np.sqrt(3)

    clip = np.zeros((20 * FPS, 32, 32, 3), np.uint8)
    clip[: 12 * FPS, ..., 0] = 250
    clip[12 * FPS :, ..., 2] = 250
    video = find_footage(write_clip(tmp_path / "v.mp4", clip))
    settings = MeasureSettings((20.0,), prompts=((0.0, "red"), (12.0, "blue")))
    red, blue = measure(video, {"pixels": Colours()}, settings).adherence["pixels"]
    assert (red.start_s, red.end_s, blue.end_s) == (0.0, 12.0, 20.0)
    assert red.cosine > 0.97
    assert blue.cosine > 0.97
    wrong = measure(video, {"pixels": Colours()}, replace(settings, prompts=((0.0, "blue"), (12.0, "blue"))))
    assert wrong.adherence["pixels"][0].cosine < 0.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"horizons_s": ()}, "horizons is"),
        ({"horizons_s": (60.0, 30.0)}, "must be one or more increasing numbers of seconds"),
        ({"horizons_s": (30.0,), "embed_every": 0}, "embed_every is 0"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(ValueError, match=message):
        MeasureSettings(**settings)
