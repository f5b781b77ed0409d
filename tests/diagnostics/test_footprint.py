"""Memory over the length of a take: measured, planned, and flat."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageColor

from backbone.config import ContextConfig
from longlive_rag.diagnostics import search_bench
from longlive_rag.diagnostics.footprint import Footprint, Sample, check_lengths, draw, measure
from longlive_rag.diagnostics.search_bench import measure_search
from longlive_rag.diagnostics.subjects import Shape, random_subject
from longlive_rag.media.charts import SERIES_COLORS
from longlive_rag.presets.geometry import Geometry, read_geometry
from longlive_rag.presets.needs import (
    budgets_that_fit,
    bytes_for_pages,
    decode_bytes,
    disk_bytes_an_hour,
    make_plan,
    sessions_at_once,
    weight_bytes,
    working_bytes,
)
from longlive_rag.presets.preset import load_preset, preset_to_plan_with
from longlive_rag.timeline import Timeline
from retrieval.budgets import PageBudgets
from retrieval.index import FrameIndex
from tests import forked

CONTEXT = ContextConfig()
# Wide, and few tokens: what is planned outweighs what Python needs, and a block takes no time.
SHAPE = Shape(width=512, heads=4, layers=4, ffn_dim=1024, latent_size=(16, 16), context=CONTEXT)
PAGE_BYTES = 2 * 4 * 64 * 512 * 4
GEOMETRY = Geometry(4, 4, 128, 1024, 16, 4096, 512, 4, (16, 16), 1024)


def sample(seconds: float, size: int) -> Sample:
    return Sample(seconds, size, 0, 0)


def test_the_peak_of_a_length_is_of_the_blocks_that_it_needs() -> None:
    said: list[str] = []
    curve = measure(iter([sample(1, 10), sample(2, 30), sample(3, 20), sample(4, 40)]), [0.5, 2, 3.5], said.append)
    assert curve.peaks == {0.5: 10, 2: 30, 3.5: 40}
    assert curve.spread_bytes == 30
    assert len(said) == 4


@pytest.mark.parametrize("lengths", [[], [0.0], [-1.0, 2.0], [3.0, 2.0], [2.0, 2.0]])
def test_lengths_that_can_not_be(lengths: list[float]) -> None:
    with pytest.raises(ValueError, match="increasing numbers"):
        check_lengths(lengths)


def test_the_picture_shows_the_curve(tmp_path: Path) -> None:
    flat = Footprint([sample(s, 100 * 2**20) for s in range(1, 50)], {})
    rising = Footprint([sample(s, s * 4 * 2**20) for s in range(1, 50)], {})
    draw({"flat": flat, "rising": rising}, tmp_path / "curve.png")
    pixels = np.asarray(Image.open(tmp_path / "curve.png").convert("RGB")).astype(int)
    pixels = pixels[60:]  # below the legend

    def rows_of(series: int) -> np.ndarray:
        return np.nonzero(np.abs(pixels - ImageColor.getrgb(SERIES_COLORS[series])).sum(-1) < 30)[0]

    assert np.ptp(rows_of(0)) < 8
    assert np.ptp(rows_of(1)) > 300


MEASURED = """
import json, sys
import torch
torch.set_num_threads(1)
from longlive_rag.diagnostics import footprint, subjects
from longlive_rag.pipeline import LongLiveRAGPipeline
from retrieval.budgets import PageBudgets
from retrieval.index import FrameIndex
from tests.diagnostics.test_footprint import SHAPE
subjects.SHAPES["test"] = SHAPE
footprint.reset_peak()
before = footprint.peak_resident_bytes()
seconds, host_bytes = float(sys.argv[1]), int(sys.argv[2])
subject = subjects.random_subject("test", torch.float32, torch.device("cpu"))
samples = footprint.samples_of_subject(subject, seconds, PageBudgets(host_bytes=host_bytes), steps=1)
curve = footprint.measure(samples, [length for length in (15.0, 50.0, 90.0) if length <= seconds], lambda _: None)
print(json.dumps({"before": before, "peaks": curve.peaks, "remade": curve.samples[-1].pages_remade}))
"""


def measured(seconds: float, host_bytes: int) -> dict:
    words = [sys.executable, "-c", MEASURED, str(seconds), str(host_bytes)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    return json.loads(done.stdout)


def planned(seconds: float, host_bytes: int) -> dict[str, int]:
    with torch.device("meta"):
        subject = random_subject_of_shape()
    parts = {"transformer": subject.transformer, "encoder": subject.encoder}
    weights = {name: 4 * sum(p.numel() for p in model.parameters()) for name, model in parts.items()}
    timeline = Timeline(round(seconds * 16), 16, 3, 4)
    return make_plan(GEOMETRY, CONTEXT, PageBudgets(host_bytes=host_bytes), timeline, weights).device


def random_subject_of_shape():
    from longlive_rag.diagnostics import subjects

    subjects.SHAPES["test"] = SHAPE
    return random_subject("test", torch.float32, torch.device("meta"))


@pytest.fixture(scope="module")
def long_take() -> dict:
    """What 90 s take with few pages."""
    return measured(90.0, 16 * PAGE_BYTES)


@pytest.mark.slow
@pytest.mark.parametrize("pages", [16, 120])
def test_the_plan_is_within_a_tenth_of_what_is_measured(pages: int, request: pytest.FixtureRequest) -> None:
    seconds = 50.0
    found = request.getfixturevalue("long_take") if pages == 16 else measured(seconds, pages * PAGE_BYTES)
    plan = planned(seconds, pages * PAGE_BYTES)
    ours = sum(plan.values()) - plan["libraries"] + found["before"]
    assert ours == pytest.approx(found["peaks"][str(seconds)], rel=0.1)
    own = found["peaks"][str(seconds)] - found["before"]
    assert own > 0.2 * found["before"]  # the figure is not Python's alone
    assert sum(plan.values()) - plan["libraries"] == pytest.approx(own, rel=0.3)


@pytest.mark.slow
def test_peak_memory_is_flat_in_the_length_of_the_take(long_take: dict) -> None:
    assert long_take["remade"] > 100
    assert abs(long_take["peaks"]["90.0"] - long_take["peaks"]["15.0"]) < 64 * 2**20


def test_pages_grow_with_the_take_only_up_to_the_budget() -> None:
    def pages(seconds: float) -> int:
        timeline = Timeline(round(seconds * 16), 16, 3, 4)
        return make_plan(GEOMETRY, CONTEXT, PageBudgets(host_bytes=100 * PAGE_BYTES), timeline, {}).host_pages

    assert [pages(seconds) for seconds in (1, 10, 60, 6000)] == [0, 30, 100, 100]


def test_a_plan_for_a_gpu_has_room_for_one_block_in_any_case() -> None:
    timeline = Timeline(16 * 60, 16, 3, 4)
    budgets = PageBudgets(gpu_bytes=0, host_bytes=40 * PAGE_BYTES)
    plan = make_plan(GEOMETRY, CONTEXT, budgets, timeline, {"transformer": 2**30}, on_gpu=True)
    assert (plan.gpu_pages, plan.host_pages) == (6, 40)
    assert plan.host["page tier"] == 40 * PAGE_BYTES
    advice = budgets_that_fit(plan, gpu_bytes=4 * 2**30, host_bytes=None)
    assert 0 < advice["page_gpu_gib"] < 3
    with pytest.raises(ValueError, match=r"the GPU has 1 GiB, but \d"):
        budgets_that_fit(plan, gpu_bytes=2**30, host_bytes=None)


def test_how_many_takes_at_once_is_the_least_that_a_tenth_of_the_memory_is_left_free_by() -> None:
    timeline, budgets = Timeline(16 * 60, 16, 3, 4), PageBudgets(gpu_bytes=0, host_bytes=40 * PAGE_BYTES)
    plan = make_plan(GEOMETRY, CONTEXT, budgets, timeline, {"transformer": 2**30}, on_gpu=True)
    roomy = 10**12
    assert sessions_at_once(plan, None, None) is None
    assert sessions_at_once(plan, math.ceil(3 * plan.device_bytes / 0.9), roomy) == 3
    assert sessions_at_once(plan, math.floor(3 * plan.device_bytes / 0.9) - 1, None) == 2
    assert sessions_at_once(plan, roomy, math.ceil(2 * plan.host_bytes / 0.9)) == 2
    on_cpu = make_plan(GEOMETRY, CONTEXT, budgets, timeline, {"transformer": 2**30})
    assert sessions_at_once(on_cpu, roomy, math.ceil(4 * on_cpu.device_bytes / 0.9)) == 4


def test_an_hour_of_video_takes_as_much_disk_as_the_takes_that_it_is_made_in() -> None:
    plan = make_plan(GEOMETRY, CONTEXT, PageBudgets(), Timeline(16 * 60, 16, 3, 4), {}, video_bytes=10**6)
    assert disk_bytes_an_hour(plan, 60) == 60 * plan.disk_bytes > 60 * 10**6


def test_a_text_encoder_beside_a_gpu_is_in_host_memory() -> None:
    timeline, budgets = Timeline(16 * 60, 16, 3, 4), PageBudgets(host_bytes=0)
    weights = {"transformer": 2**30, "text encoder": 2**33}
    beside, apart = (
        make_plan(GEOMETRY, CONTEXT, budgets, timeline, weights, on_gpu=True, text_on_host=where)
        for where in (False, True)
    )
    assert beside.device_bytes - apart.device_bytes == apart.host_bytes - beside.host_bytes == 2**33


def test_weights_are_planned_as_they_are_loaded(pipeline_folder, monkeypatch) -> None:
    from longlive_rag.presets import embeddings
    from longlive_rag.weights.load import load_pipeline

    for large in (10**9, 0):
        monkeypatch.setattr(embeddings, "LARGE_TEXT_BYTES", large)
        encoder = load_pipeline(str(pipeline_folder)).text_encoder
        loaded = sum(weight.nbytes for weight in encoder.parameters())
        assert weight_bytes(load_preset(str(pipeline_folder)), "float32")["text encoder"] == loaded


def test_search_is_measured() -> None:
    (figures,) = measure_search(3000, embedding_dim=64, queries=20)
    assert figures.exact
    assert figures.recall == 1
    assert 0 < figures.median_ms <= figures.p99_ms
    with pytest.raises(ValueError, match="search is 3; it must be at least 6"):
        measure_search(3)


def test_search_among_some_frames_is_measured(monkeypatch) -> None:
    """As much is found as an exhaustive search among the same frames finds, where all lists are searched."""
    monkeypatch.setattr(search_bench, "FrameIndex", partial(FrameIndex, approximate_from=2000))
    every, row, scattered = measure_search(3000, embedding_dim=16, queries=20, allowed=[40])
    assert [(one.allowed, one.scattered) for one in (every, row, scattered)] == [(3000, False), (40, False), (40, True)]
    assert not any(one.exact for one in (every, row, scattered))
    assert row.recall == scattered.recall == 1
    assert every.recall < 1
    for wrong in (5, 3001):
        with pytest.raises(ValueError, match=rf"allowed is {wrong}; it must be from 6 to the 3000 frames"):
            measure_search(3000, embedding_dim=16, allowed=[wrong])


def test_the_nearest_are_those_of_a_sort() -> None:
    index, rng = FrameIndex(8), np.random.default_rng(1)
    index.add(rng.standard_normal((50, 8), dtype=np.float32))
    query = rng.standard_normal((1, 8), dtype=np.float32)
    candidates = [3, 4, 9, 20, 21, 30, 44]
    by_likeness = sorted(candidates, key=lambda frame: -float(index.units([frame])[0] @ query[0]))
    assert search_bench.nearest(index, query, 3, candidates) == [set(by_likeness[:3])]


GONE_AGAIN = """
import numpy as np
from longlive_rag.diagnostics import footprint
footprint.reset_peak()
before = footprint.peak_resident_bytes()
block = np.ones(64 * 2**20, dtype=np.uint8)
del block
print(footprint.peak_resident_bytes() - before)
"""


def test_peak_memory_sees_what_is_gone_again(tmp_path: Path) -> None:
    (tmp_path / "gone.py").write_text(GONE_AGAIN)
    done = forked.run([tmp_path / "gone.py"], tmp_path)  # of its own: not every system can forget an earlier peak
    assert int(done.stdout) > 48 * 2**20


# ---- the GPU's pages, where nobody says how many ----


@pytest.mark.parametrize(
    ("gib", "text_on_host", "pages"), [(80, False, (190, 210)), (80, True, (230, 250)), (24, True, (25, 40))]
)
def test_pages_fill_what_a_gpu_has_free(gib: int, text_on_host: bool, pages: tuple[int, int]) -> None:
    """Wan2.1-1.3B at 832x480 in bfloat16, a long take."""
    known = preset_to_plan_with("longlive")
    geometry, timeline = read_geometry(known, known.output, known.memory.encoder), Timeline(16 * 900, 16, 3, 4)
    plan = make_plan(
        geometry, known.context, PageBudgets(), timeline, weight_bytes(known, "bfloat16", "bfloat16"), dtype="bfloat16",
        on_gpu=True, gpu_bytes=gib * 2**30, text_on_host=text_on_host, has_cues=True,
        decode_bytes=decode_bytes(known, known.output, "cuda", "bfloat16"),
    )  # fmt: skip
    assert pages[0] <= plan.gpu_pages == plan.gpu_page_budget // plan.page_bytes <= pages[1]
    assert 0.9 * gib * 2**30 < plan.device_bytes < gib * 2**30
    short = make_plan(geometry, known.context, PageBudgets(), Timeline(16 * 10, 16, 3, 4), {}, dtype="bfloat16",
                      on_gpu=True, gpu_bytes=gib * 2**30)  # fmt: skip
    assert (short.gpu_pages, short.host_pages) == (short.past_pages, 0)


def test_a_full_gpu_has_no_room_for_pages() -> None:
    assert bytes_for_pages(2**30, 2**34, 2**31) == 0
    assert bytes_for_pages(2**34, 2**34, 0) == pytest.approx(0.97 * 2**34)
    one, two = (working_bytes(GEOMETRY, CONTEXT, "bfloat16", 100, batch) for batch in (1, 2))
    assert two == 2 * one > 4 * CONTEXT.window_frames * GEOMETRY.page_bytes("bfloat16")
