"""Takes that are stopped, resumed, extended and branched, on a pipeline of random weights."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from backbone.config import ContextConfig, SamplerConfig
from longlive_rag import LatentStore, LongLiveRAGPipeline, MemoryConfig, TakeRequest, TakeRun, TakeWriter
from longlive_rag.config import CheckpointConfig, Cue, OutputConfig, Reseed, Steering
from longlive_rag.generation.batch import Batch
from longlive_rag.generation.rollout import Rollout, RolloutState
from longlive_rag.media.video import read_frames
from longlive_rag.presets.geometry import backbone_id
from longlive_rag.sessions.resuming import differences
from longlive_rag.takes import resume
from longlive_rag.takes.branch import (
    backbone_of,
    branched,
    check_latents,
    copy_start,
    extended,
)
from longlive_rag.takes.checkpoints import Checkpoints
from longlive_rag.takes.folder import (
    CHECKPOINTS,
    CONTACT_SHEET,
    INPUTS,
    LATENTS,
    MEMORY_MAP,
    RECORD,
    REMEMBERED,
    VIDEO,
    TakeClaim,
)
from longlive_rag.takes.record import Origin, TakeRecord, read_record
from retrieval.store import LatentWriter, pack, read_block

PROMPT = "a red circle walks in a meadow"
LATER = "a blue square jumps in the snow"
PAGE_GIB = 2 * 2 * 6 * 48 * 4 / 2**30
FRAME_WISE = ContextConfig(window_frames=6, sink_frames=1, memory_frames=3, recency_guard_frames=2, frames_per_block=1)
ONE_STEP, TWO_STEPS = SamplerConfig((1000,)), SamplerConfig((1000, 500))


@pytest.fixture(scope="module")
def opened(pipeline_folder: Path) -> LongLiveRAGPipeline:
    return LongLiveRAGPipeline.from_pretrained(pipeline_folder)


class Studio:
    """Makes takes, and stops them as a kill would: nothing is finished, closed or tidied."""

    def __init__(self, pipe: LongLiveRAGPipeline, folder: Path) -> None:
        self.pipe, self.folder = pipe, folder
        self._dead: list[TakeWriter] = []

    def run(self) -> TakeRun:
        return TakeRun("random", self.folder, "cpu", "float32", 1, "philox", backbone_id=backbone_id(self.folder))

    def make(self, take: TakeWriter, request: TakeRequest, kill_after: int | None = None) -> TakeRecord | None:
        """Blocks until block `kill_after` is committed but not shown; None finishes the take."""
        for block in self.pipe.stream(request, stores=[take]):
            if kill_after is not None and take.blocks > kill_after:
                assert take._claim is not None
                take._claim.store.close()
                self._dead.append(take)  # its files stay open, as nothing has closed them
                return None
            take.add(block)
        return take.finish("finished")

    def new(self, folder: Path, request: TakeRequest, kill_after: int | None = None, **settings) -> TakeRecord | None:
        take = TakeWriter(folder, request, self.pipe.timeline(request), self.run(), **settings)
        return self.make(take, request, kill_after)

    def side_by_side(self, folders: list[Path], requests: list[TakeRequest], kill_after: int | None = None) -> None:
        """As `new`, takes of one batch."""
        timeline, run = self.pipe.timeline(requests[0]), replace(self.run(), batch=len(requests))
        takes = [
            TakeWriter(folder, request, timeline, run, item)
            for item, (folder, request) in enumerate(zip(folders, requests, strict=True))
        ]
        for block in self.pipe.stream(requests, stores=takes):
            if kill_after is not None and block.index == kill_after:
                for take in takes:
                    assert take._claim is not None
                    take._claim.store.close()
                self._dead += takes
                return
            for take in takes:
                take.add(block)
        for take in takes:
            take.finish("finished")

    def resume(self, folder: Path, request: TakeRequest | None = None, event="resumed", kill_after=None, **settings):
        record = read_record(folder)
        request = request or record.request
        settings.setdefault("checkpoint", record.checkpoint_config)
        take = TakeWriter(folder, request, self.pipe.timeline(request), self.run(), event=event, **settings)
        return self.make(take, request, kill_after)


@pytest.fixture(scope="module")
def studio(opened: LongLiveRAGPipeline, pipeline_folder: Path) -> Studio:
    return Studio(opened, pipeline_folder)


def assert_same(take: Path, other: Path, blocks: int | None = None) -> None:
    """Equal latents, embeddings, selections, prompts and decoded frames, bit for bit; whole takes in all they show."""
    ours, theirs = LatentStore(take / LATENTS), LatentStore(other / LATENTS)
    if blocks is None:
        assert ours.blocks == theirs.blocks
    for block in range(ours.blocks if blocks is None else blocks):
        a, b = ours.record(block), theirs.record(block)
        assert np.array_equal(a.latents, b.latents), f"block {block}"
        assert a.embeddings is None if b.embeddings is None else np.array_equal(a.embeddings, b.embeddings)
        assert (a.selection, a.prompt, a.cue, a.entered) == (b.selection, b.prompt, b.cue, b.entered)
    if blocks is None:
        for name in (VIDEO, CONTACT_SHEET, MEMORY_MAP):
            assert (take / name).read_bytes() == (other / name).read_bytes(), name
    else:
        count = read_record(take).request.context.frames_per_block * 4 * blocks - 3
        assert np.array_equal(frames_of(take)[:count], frames_of(other)[:count])


def frames_of(take: Path) -> np.ndarray:
    return np.stack(list(read_frames(take / VIDEO)))


def files_of(take: Path) -> dict[str, str]:
    paths = [path for path in take.rglob("*") if path.is_file()]
    return {str(path.relative_to(take)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def ask(pipe: LongLiveRAGPipeline, seconds: float = 8.0, **settings) -> TakeRequest:
    return pipe.request(PROMPT, seconds=seconds, seed=3, **settings)


CASES = {
    "plain": {},
    "a cue": {"cues": [(4.0, LATER)]},
    "tight budget": {"cues": [(6.5, LATER)], "memory": MemoryConfig(host_gib=8 * PAGE_GIB)},
    "narrow pages": {"memory": MemoryConfig(page_precision="float8", diversity=0.5, prompt_weight=0.3, spread=1)},
    "gate": {"memory": MemoryConfig(anchor=(0, 1), admit_above=0.2, pin=((0, 0.5),), stale_pages="keep")},
    "native": {"memory": MemoryConfig(enabled=False)},
    "retried": {
        "cues": [(6.0, LATER)],
        "context": ContextConfig(memory_gain=1.8, first_gain=0.8, gain_above=0.9, fill_from_window=True),
        "memory": MemoryConfig(retry=2),
    },
    "a call": {
        "cues": [(3.0, LATER), (5.8, PROMPT)],  # at block 8, the first one after the kill
        "context": ContextConfig(memory_gain=1.8, first_gain=0.8, gain_above=0.9, recency_guard_frames=0),
        "memory": MemoryConfig(prompt_weight=0.3),
    },
    "looking ahead": {"cues": [(4.0, LATER)], "memory": MemoryConfig(policy="look-ahead", host_gib=8 * PAGE_GIB)},
    "shots": {
        "context": ContextConfig(memory_gain=1.5, fill_from_window=True),
        "cues": [Cue(3.0, LATER, cut=True), Cue(4.0, PROMPT), Cue(6.0, PROMPT, cut=True)],
        "memory": MemoryConfig(establish=0.5, new_view=0.9995, prompt_weight=0.3, host_gib=12 * PAGE_GIB),
    },
    "first showings": {
        "cues": [(4.0, LATER)],
        "memory": MemoryConfig(
            establish=0.5,
            new_view=0.9995,
            steering=(
                Steering(4.2, "pin", 3.1, 3.5),  # kept out until then
                Steering(5.0, "exclude", 0.0, 1.0),
                Steering(6.0, "establish", establish=1.0, new_view=0.999),
            ),
        ),
    },
    "frame by frame": {
        "cues": [(1.5, LATER), (2.4, PROMPT)],
        "context": FRAME_WISE,
        "memory": MemoryConfig(host_gib=8 * PAGE_GIB, steering=(Steering(2.6, "pin", 0.1, 0.4),)),
    },
    "frame by frame, two steps": {
        "cues": [(2.4, LATER)],
        "context": FRAME_WISE,
        "sampler": TWO_STEPS,
        "memory": MemoryConfig(policy="look-ahead"),
    },
    "frame by frame, one step": {
        "cues": [(2.4, LATER)],
        "context": FRAME_WISE,
        "sampler": ONE_STEP,
        "memory": MemoryConfig(policy="look-ahead", establish=0.5, new_view=0.9995),
    },
}


CHANCE = MemoryConfig(policy="random")

QUICK = (
    "shots", "a cue", "a call", "tight budget", "first showings", "looking ahead", "frame by frame",
    "frame by frame, one step",
)  # fmt: skip


@pytest.mark.parametrize("case", [pytest.param(c, marks=() if c in QUICK else pytest.mark.slow) for c in CASES])
def test_a_killed_take_goes_on_bit_for_bit(
    studio: Studio, tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if case == "retried":  # these weights' blocks never fall away by themselves
        monkeypatch.setattr("retrieval.memory.falls_away", lambda block, trusted: max(0.0, 2.0 - float(block.sum())))
    request = ask(studio.pipe, 4.0 if "frame by frame" in case else 8.0, **CASES[case])
    whole = studio.new(tmp_path / "whole", request)
    assert any(selection.retries for selection in whole.selections) == (case == "retried")
    studio.new(tmp_path / "killed", request, kill_after=7)
    studio.resume(tmp_path / "killed", kill_after=9)
    resumed = studio.resume(tmp_path / "killed")
    assert_same(tmp_path / "killed", tmp_path / "whole")
    assert resumed.status == "finished"
    assert resumed.selections == whole.selections
    for fact in ("frames_admitted", "frames_kept_out", "admitted"):
        assert getattr(resumed.memory, fact) == getattr(whole.memory, fact)
    assert resumed.cues == whole.cues
    assert [(entry.what, entry.from_block) for entry in resumed.history] == [
        ("generated", 0),
        ("resumed", 8),
        ("resumed", 10),
    ]
    ours, theirs = resumed.memory.pages, whole.memory.pages
    if theirs is not None:
        assert replace(ours, seconds_waited=0) == replace(theirs, seconds_waited=0)


@pytest.mark.parametrize("fps", [2, 16], ids=["checkpoints after every block", "none"])
def test_a_take_of_single_frames_goes_on_after_each_block(studio: Studio, tmp_path: Path, fps: int) -> None:
    """The first checkpoint is of a decoder that has decoded one latent frame alone."""
    noise = np.random.default_rng(0).integers(0, 255, (32, 48, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "first.png")
    context = ContextConfig(window_frames=3, sink_frames=1, memory_frames=1, recency_guard_frames=0, frames_per_block=1)
    settings = {"context": context, "sampler": TWO_STEPS, "output": OutputConfig(32, 48, fps=fps)}
    request = ask(studio.pipe, 24 / fps, cues=[(16 / fps, LATER)], start_image=str(tmp_path / "first.png"), **settings)
    whole = studio.new(tmp_path / "whole", request)
    assert [selection.block for selection in whole.selections] == [4, 5, 6]
    assert whole.cues[0].block == 5
    assert whole.checkpoints.after_blocks == ((1, 2, 3, 4, 5, 6, 7) if fps == 2 else ())
    studio.new(tmp_path / "killed", request, kill_after=0)
    for block in range(1, 7):
        studio.resume(tmp_path / "killed", kill_after=block)
    studio.resume(tmp_path / "killed")
    assert_same(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.parametrize("case", ["shots", "first showings", "plain"])
def test_each_take_of_a_batch_goes_on_alone(studio: Studio, tmp_path: Path, case: str) -> None:
    """Exactly from what it has; in the last bits another batch makes other takes."""
    noise = np.random.default_rng(0).integers(0, 255, (32, 48, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "first.png")
    studio.new(tmp_path / "other", ask(studio.pipe, 1.0))
    settings = {"memory": MemoryConfig(), **CASES[case]}
    settings["memory"] = replace(settings["memory"], remember=(f"{tmp_path / 'other'}@0-0.5",))
    one = ask(studio.pipe, start_image=str(tmp_path / "first.png"), **settings)
    two = replace(one, prompt=LATER, seed=9, cues=tuple(replace(cue, prompt=PROMPT) for cue in one.cues))
    whole = list(studio.pipe.stream([one, two]))
    killed = [tmp_path / name for name in ("one", "two")]
    studio.side_by_side(killed, [one, two], kill_after=7)
    (tmp_path / "first.png").unlink()
    shutil.rmtree(tmp_path / "other")
    for number, (take, request) in enumerate(zip(killed, (one, two), strict=True)):
        assert all((take / name).is_file() for name in INPUTS)
        assert [path.stem for path in sorted((take / CHECKPOINTS).iterdir())] == ["000003", "000006"]
        notes = differences(read_record(take), studio.run())
        assert notes == ["the take was begun in a batch of 2, now it is in a batch of 1"]
        store = LatentStore(take / LATENTS)
        assert all(np.array_equal(store.record(n).latents, whole[n].latents[number]) for n in range(8))
        by_latents = tmp_path / f"{take.name} by latents"
        shutil.copytree(take, by_latents)
        shutil.rmtree(by_latents / CHECKPOINTS)
        for folder in (take, by_latents):
            writer = TakeWriter(folder, request, studio.pipe.timeline(request), studio.run(), event="resumed")
            for block in studio.pipe.stream(request, stores=[writer]):
                writer.add(block)
                theirs = whole[block.index]
                torch.testing.assert_close(block.latents[0], theirs.latents[number], rtol=1e-4, atol=1e-4)
                assert (block.pixels[0].int() - theirs.pixels[number].int()).abs().max() <= 1
            assert writer.finish("finished").run.batch == 1


def test_what_entered_memory_is_on_the_record(studio: Studio, tmp_path: Path) -> None:
    record = studio.new(tmp_path / "take", ask(studio.pipe, **CASES["first showings"]))
    store = LatentStore(tmp_path / "take" / LATENTS)
    entered = [store.record(block).entered for block in range(store.blocks)]
    frames = sorted(frame for block in entered for frame in block)
    assert len(set(frames)) == len(frames)
    assert 0 < len(frames) < store.frames - 1
    assert frames == [frame for start, stop in record.memory.admitted for frame in range(start, stop)]
    assert record.memory.frames_admitted + record.memory.frames_kept_out == store.frames - 1
    late = studio.pipe.timeline(ask(studio.pipe)).latents_between(3.1, 3.5)
    assert set(late) <= set(frames)
    assert set(entered[6]) & set(late)  # some had been kept out, and entered when they were pinned
    retrieved = {frame for selection in record.selections for frame in selection.frames}
    assert retrieved <= set(frames)


def test_a_take_of_before_the_gate_was_recorded_goes_on_as_it_began(studio: Studio, tmp_path: Path) -> None:
    request = ask(studio.pipe, 6.5)
    studio.new(tmp_path / "whole", request)
    studio.new(tmp_path / "old", request, kill_after=6)
    for path in sorted((tmp_path / "old" / LATENTS).glob("*.h5")):
        record = read_block(path, int(path.stem))
        path.write_bytes(pack(replace(record, entered=None)))
    old = json.loads((tmp_path / "old" / RECORD).read_text())
    del old["checksum"]
    for name in ("establish", "new_view"):
        del old["request"]["memory"][name]
    (tmp_path / "old" / RECORD).write_text(json.dumps(old))
    record = studio.resume(tmp_path / "old")
    assert record.memory.frames_admitted is None
    assert read_record(tmp_path / "old").selections == read_record(tmp_path / "whole").selections
    assert np.array_equal(frames_of(tmp_path / "old"), frames_of(tmp_path / "whole"))


def test_without_checkpoints_all_commits_are_run_again(studio: Studio, tmp_path: Path) -> None:
    request = ask(studio.pipe, 6.5, cues=[(4.0, LATER)])
    studio.new(tmp_path / "whole", request, checkpoint=CheckpointConfig("light"))
    assert not (tmp_path / "whole" / CHECKPOINTS).exists()
    none = CheckpointConfig(gib=0)
    studio.new(tmp_path / "killed", request, kill_after=6, checkpoint=none)
    record = studio.resume(tmp_path / "killed")
    assert not (tmp_path / "killed" / CHECKPOINTS).exists()
    assert record.checkpoints.stopped == "the 0 bytes for checkpoints are used up"
    assert_same(tmp_path / "killed", tmp_path / "whole")


def test_a_checkpoint_without_room_is_not_copied_first(
    studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU its copy is gigabytes; what it will be is known before, to the byte."""
    request, said, real = ask(studio.pipe), [], []
    estimate, make = Rollout.state_bytes, Rollout.state

    def state(rollout: Rollout, known: frozenset[int] = frozenset()) -> RolloutState:
        made = make(rollout, known)
        pages = (*made.pages.gpu, *made.pages.host) if made.pages else ()
        real.append(made.cache_pages.nbytes + sum(tensor.nbytes for page in pages for tensor in page.tensors))
        said.append(estimate(rollout, 0, known))
        return made

    monkeypatch.setattr(Rollout, "state", state)
    record = studio.new(tmp_path / "roomy", request)
    assert said == real
    assert record.checkpoints.bytes > sum(real) > 0
    monkeypatch.setattr(Rollout, "state", lambda *_: pytest.fail("it was copied"))
    record = studio.new(tmp_path / "tight", request, checkpoint=CheckpointConfig(gib=(real[0] - 1) / 2**30))
    assert record.checkpoints.after_blocks == ()
    assert "for checkpoints are used up" in record.checkpoints.stopped


def test_the_page_budget_that_the_machine_chose_is_on_the_record(studio: Studio, tmp_path: Path) -> None:
    """A fake GPU, which has less free when the take goes on."""
    request = ask(studio.pipe)
    batch = Batch((request,), studio.pipe.timeline(request))

    def chosen(room: int, *takes: TakeWriter, asked: float | str = "auto", device: str = "cuda") -> int | None:
        memory = replace(request.memory, gpu_gib=asked)
        gpu = SimpleNamespace(
            _execution_device=torch.device(device),
            room_for_pages=lambda *_: room,
            transformer=SimpleNamespace(ranks=None),
        )
        asked_for = replace(batch, requests=(replace(request, memory=memory),))
        return LongLiveRAGPipeline._budgets(gpu, asked_for, takes).gpu_bytes  # type: ignore[arg-type]

    take = TakeWriter(tmp_path / "take", request, studio.pipe.timeline(request), studio.run())
    assert chosen(7 * 2**30, take) == 7 * 2**30
    studio.make(take, request, kill_after=2)
    assert read_record(tmp_path / "take").memory.page_gpu_bytes == 7 * 2**30
    again = TakeWriter(tmp_path / "take", request, studio.pipe.timeline(request), studio.run(), event="resumed")
    assert [chosen(free * 2**30, again) for free in (9, 7, 3)] == [7 * 2**30, 7 * 2**30, 3 * 2**30]
    assert (chosen(5, asked=2.0), chosen(5, device="cpu")) == (2 * 2**30, None)
    studio.new(tmp_path / "on a CPU", request)
    assert "page_gpu_bytes" not in json.loads((tmp_path / "on a CPU" / RECORD).read_text())["memory"]


def test_a_damaged_checkpoint_is_passed_over(studio: Studio, tmp_path: Path) -> None:
    request = ask(studio.pipe, 6.5)
    studio.new(tmp_path / "whole", request)
    shutil.copytree(tmp_path / "whole", tmp_path / "part")
    for block in (7, 8):
        (tmp_path / "part" / LATENTS / f"{block:06d}.h5").unlink()
    checkpoints = sorted((tmp_path / "part" / CHECKPOINTS).iterdir())
    assert [path.name for path in checkpoints] == [f"{blocks:06d}.safetensors" for blocks in (3, 6, 9)]
    checkpoints[1].write_bytes(checkpoints[1].read_bytes()[:-1] + b"x")
    studio.resume(tmp_path / "part")
    assert_same(tmp_path / "part", tmp_path / "whole")


def test_checkpoints_of_another_take_are_not_believed(studio: Studio, tmp_path: Path) -> None:
    studio.new(tmp_path / "one", ask(studio.pipe, 3.0))
    studio.new(tmp_path / "two", replace(ask(studio.pipe, 3.0), seed=9))
    store = LatentStore(tmp_path / "two" / LATENTS)
    checkpoints = Checkpoints(tmp_path / "one" / CHECKPOINTS, CheckpointConfig(), 3)
    size = checkpoints.bytes
    shutil.copyfile(checkpoints.folder / "000003.safetensors", checkpoints.folder / "000003 (copy).safetensors")
    assert (checkpoints.numbers(), checkpoints.bytes) == ([3], size)
    assert checkpoints.newest_state(4, lambda block: store.record(block).latents) is None
    assert checkpoints.newest_decoded(4, lambda block: store.record(block).latents) is None


def test_light_is_near_and_stores_nothing(studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume, "LIGHT_WINDOWS", 1)  # with two, all of so short a take is run again
    request = ask(studio.pipe, 6.5)
    light = CheckpointConfig("light")
    studio.new(tmp_path / "whole", request, checkpoint=light)
    studio.new(tmp_path / "killed", request, kill_after=6, checkpoint=light)
    record = studio.resume(tmp_path / "killed")
    assert (record.checkpoints.mode, record.checkpoints.bytes) == ("light", 0)
    assert_same(tmp_path / "killed", tmp_path / "whole", blocks=7)
    ours, theirs = (LatentStore(tmp_path / name / LATENTS).record(7).latents for name in ("killed", "whole"))
    difference = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
    assert 0 < difference < 0.2


def test_a_shot_is_added_and_branched_off_as_if_asked_for(studio: Studio, tmp_path: Path) -> None:
    short = ask(studio.pipe, 4.0)
    studio.new(tmp_path / "take", short)
    record = studio.resume(tmp_path / "take", extended(short, 2.5, LATER, cut=True), "extended")
    assert record.cues[0].cut
    assert record.shot_blocks == (0, 6)
    studio.new(tmp_path / "whole", ask(studio.pipe, 6.5, cues=[Cue(4.0, LATER, cut=True)]))
    assert_same(tmp_path / "take", tmp_path / "whole")
    request, blocks = branched(record.request, studio.pipe.timeline(record.request), 9, 4.0, PROMPT, cut=True)
    assert (blocks, request.cues) == (6, (Cue(4.0, PROMPT, cut=True),))


@pytest.mark.parametrize("context", [ContextConfig(), FRAME_WISE], ids=["three frames a block", "one frame a block"])
def test_extended_is_as_if_asked_for_so_long_from_the_start(
    studio: Studio, tmp_path: Path, context: ContextConfig
) -> None:
    short = ask(studio.pipe, 4.0, context=context)
    studio.new(tmp_path / "take", short)
    longer = extended(short, 2.5, LATER)
    record = studio.resume(tmp_path / "take", longer, "extended")
    assert (record.video.frames, record.request.seconds) == (104, 6.5)
    assert [entry.what for entry in record.history] == ["generated", "extended"]
    studio.new(tmp_path / "whole", ask(studio.pipe, 6.5, cues=[(4.0, LATER)], context=context))
    assert_same(tmp_path / "take", tmp_path / "whole")


def test_what_chance_draws_is_the_same_however_a_take_was_made(studio: Studio, tmp_path: Path) -> None:
    """Alone, in a batch, killed and resumed, extended, and branched under the same seed; not under another."""
    short, settings = ask(studio.pipe, 6.5, memory=CHANCE), {"memory": CHANCE}
    request = replace(short, seconds=8.0)
    whole = studio.new(tmp_path / "whole", request)
    drawn = [selection.frames for selection in whole.selections]
    assert [len(frames) for frames in drawn[-3:]] == [6, 6, 6]

    alike = replace(request, seed=4)
    studio.side_by_side([tmp_path / "beside", tmp_path / "batched"], [alike, request])
    beside, batched = (read_record(tmp_path / name).selections for name in ("beside", "batched"))
    assert [selection.frames for selection in batched] == drawn
    assert [selection.frames for selection in beside] != drawn

    studio.new(tmp_path / "killed", request, kill_after=8)
    studio.resume(tmp_path / "killed")
    assert_same(tmp_path / "killed", tmp_path / "whole")
    studio.new(tmp_path / "extended", short)
    studio.resume(tmp_path / "extended", extended(short, 1.5, None), "extended")
    assert_same(tmp_path / "extended", tmp_path / "whole")

    record = branch(studio, tmp_path / "whole", tmp_path / "branch", 7.0, LATER)
    as_one = studio.new(tmp_path / "as one", ask(studio.pipe, 8.0, cues=[(7.0, LATER)], **settings))
    assert record.selections == as_one.selections
    other = branch(studio, tmp_path / "whole", tmp_path / "other", 7.0)
    assert [selection.frames for selection in other.selections[:-1]] == drawn[:-1]
    assert other.selections[-1].frames != drawn[-1]


def branch(studio: Studio, parent: Path, target: Path, at: float, *change) -> TakeRecord:
    record = read_record(parent)
    asked = record.request
    blocks = LatentStore(parent / LATENTS).blocks
    request, common = branched(asked, studio.pipe.timeline(asked), blocks, at, *change)
    claim = TakeClaim(target)
    copy_start(parent, record, target, request, studio.pipe.timeline(request), common)
    claim.store.adopt()
    return studio.resume(target, request, "branched", claim=claim)


@pytest.mark.parametrize(
    ("context", "blocks", "at"),
    [(ContextConfig(), 6, "0:04.3125"), (FRAME_WISE, 17, "0:04.0625")],
    ids=["three frames a block", "one frame a block"],
)
def test_a_branch_begins_alike_and_goes_its_way(
    studio: Studio, tmp_path: Path, context: ContextConfig, blocks: int, at: str
) -> None:
    parent = tmp_path / "parent"
    studio.new(parent, ask(studio.pipe, 6.5, cues=[(5.5, "the red circle leaves")], context=context))
    before = files_of(parent)
    with (parent / VIDEO).open("rb"), (parent / LATENTS / "000002.h5").open("rb"):  # somebody is looking
        record = branch(studio, parent, tmp_path / "other", 4.0, LATER)
        again = branch(studio, parent, tmp_path / "again", 4.0)
    assert files_of(parent) == before
    inodes = [{path.stat().st_ino for path in take.rglob("*")} for take in (parent, tmp_path / "other")]
    assert not inodes[0] & inodes[1]
    assert record.branched_from == Origin(take=str(parent), blocks=blocks, at=at)
    assert [cue.prompt for cue in record.cues] == [LATER]
    studio.new(tmp_path / "as one", ask(studio.pipe, 6.5, cues=[(4.0, LATER)], context=context))
    assert_same(tmp_path / "other", tmp_path / "as one")
    assert_same(tmp_path / "other", parent, blocks)
    assert again.request.reseeds == (Reseed(4.0, 4),)
    assert [cue.prompt for cue in again.cues] == ["the red circle leaves"]
    assert_same(tmp_path / "again", parent, blocks)
    ours, theirs = (LatentStore(take / LATENTS).record(blocks).latents for take in (tmp_path / "again", parent))
    assert not np.allclose(ours, theirs, atol=0.1)
    shutil.rmtree(parent)
    assert check_latents(tmp_path / "other").blocks == studio.pipe.timeline(record.request).blocks


def test_a_shorter_branch_with_a_prompt_drops_the_changes_to_memory_that_it_does_not_reach(studio: Studio) -> None:
    early, late = Steering(3.0, "pin", 0.0, 1.0), Steering(5.0, "exclude", 1.0, 2.0)
    request = ask(studio.pipe, 6.5, memory=MemoryConfig(steering=(early, late)))
    timeline = studio.pipe.timeline(request)
    for seconds, steering in ((None, (early, late)), (5.1, (early, late)), (5.0625, (early,)), (4.9, (early,))):
        shorter, _ = branched(request, timeline, 9, 4.0, LATER, None, seconds)
        assert shorter.memory.steering == steering
        studio.pipe.check(shorter)
    kept, _ = branched(request, timeline, 9, 4.0, None, None, 5.05)
    with pytest.raises(
        ValueError, match=r"change 2 to memory \(exclude\) is at 5 s; the last block of this 5.05 s take"
    ):
        studio.pipe.check(kept)


def test_a_branch_of_a_take_that_is_being_made(studio: Studio, tmp_path: Path) -> None:
    request = ask(studio.pipe, 6.5)
    parent = TakeWriter(tmp_path / "parent", request, studio.pipe.timeline(request), studio.run())
    for block in studio.pipe.stream(request, stores=[parent]):
        parent.add(block)
        if block.index == 6:
            branch(studio, tmp_path / "parent", tmp_path / "branch", 4.0, None, 3)  # with the same seed: the same take
    parent.finish("finished")
    assert_same(tmp_path / "parent", tmp_path / "branch")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((0.0,), "at is 0 s; the take can be branched after its start and up to 6.5 s"),
        ((6.55,), "at is 6.55 s; the take can be branched after its start and up to 6.5 s"),
        ((float("nan"),), "after its start"),
        ((5.0, None, None, 4.0), "the new part begins at 5.0625 s"),
        ((5.0, "  "), "prompt of cue 1 is empty"),
        ((5.0, None, -1), "seed is -1"),
    ],
)
def test_branches_that_can_not_be(opened: LongLiveRAGPipeline, change: tuple, message: str) -> None:
    request = ask(opened, 6.5)
    with pytest.raises(ValueError, match=" is ") as refused:
        branched(request, opened.timeline(request), 9, *change)
    assert message in str(refused.value)


def test_takes_made_before_there_were_checkpoints_go_on_too(studio: Studio, tmp_path: Path) -> None:
    request = ask(studio.pipe, 3.0)
    studio.new(tmp_path / "whole", request)
    studio.new(tmp_path / "old", request, kill_after=2)
    shutil.rmtree(tmp_path / "old" / CHECKPOINTS, ignore_errors=True)
    path = tmp_path / "old" / RECORD
    record = json.loads(path.read_text())
    del record["checksum"]
    for name in ("checkpoints", "history", "start_image", "branched_from"):
        del record[name]
    for name in ("start_image", "reseeds"):
        del record["request"][name]
    path.write_text(json.dumps(record))
    studio.resume(tmp_path / "old")
    assert_same(tmp_path / "old", tmp_path / "whole")


def test_a_take_killed_before_its_first_block_goes_on_from_nothing(studio: Studio, tmp_path: Path) -> None:
    request = ask(studio.pipe, 2.0)
    studio.new(tmp_path / "whole", request)
    studio.new(tmp_path / "killed", request, kill_after=0)
    (tmp_path / "killed" / LATENTS / "000000.h5").unlink()
    studio.resume(tmp_path / "killed")
    assert_same(tmp_path / "killed", tmp_path / "whole")


def test_remembered_frames_travel_with_the_take(studio: Studio, tmp_path: Path) -> None:
    studio.new(tmp_path / "first", ask(studio.pipe, 2.0))
    memory = MemoryConfig(remember=(f"{tmp_path / 'first'}@0-1",), prompt_weight=0.4)
    request = ask(studio.pipe, 3.0, memory=memory)
    studio.new(tmp_path / "whole", request)
    studio.new(tmp_path / "killed", request, kill_after=2)
    shutil.rmtree(tmp_path / "first")
    assert (tmp_path / "killed" / REMEMBERED).is_file()
    studio.resume(tmp_path / "killed")
    assert_same(tmp_path / "killed", tmp_path / "whole")


def test_a_take_opens_elsewhere_with_the_same_backbone(studio: Studio, tmp_path: Path, pipeline_folder: Path) -> None:
    request = ask(studio.pipe, 2.0)
    studio.new(tmp_path / "whole", request)
    studio.new(tmp_path / "killed", request, kill_after=1)
    shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path / "killed")
    shutil.unpack_archive(str(tmp_path / "packed.zip"), tmp_path / "elsewhere")
    record = read_record(tmp_path / "elsewhere")
    assert backbone_of(record, tmp_path / "elsewhere").folder == pipeline_folder  # by the folder in its record
    gone = record.model_copy(update={"run": replace(record.run, folder=Path("/nowhere"))})
    with pytest.raises(ValueError, match=r"made with the backbone 'random', which isn't here .*--backbone"):
        backbone_of(gone, tmp_path)
    assert backbone_of(gone, tmp_path, str(pipeline_folder)).folder == pipeline_folder
    other = record.model_copy(update={"run": replace(record.run, backbone_id="0")})
    with pytest.raises(ValueError, match=r"but .* has different weights"):
        backbone_of(other, tmp_path)
    studio.resume(tmp_path / "elsewhere")
    assert_same(tmp_path / "elsewhere", tmp_path / "whole")


def test_one_writer_and_any_readers(studio: Studio, tmp_path: Path) -> None:
    request = ask(studio.pipe, 3.0)
    folder = tmp_path / "take"
    studio.new(folder, request, kill_after=2)
    take = TakeWriter(folder, request, studio.pipe.timeline(request), studio.run(), event="resumed")
    before = files_of(folder)
    for event in ("resumed", "extended"):
        with pytest.raises(ValueError, match="being written by another process"):
            TakeWriter(folder, request, studio.pipe.timeline(request), studio.run(), event=event)
    with pytest.raises(ValueError, match="being written by another process"):
        TakeClaim(folder, overwrite=True)
    assert files_of(folder) == before
    assert check_latents(folder).blocks == 3
    studio.make(take, request)
    assert read_record(folder).status == "finished"


def test_a_claim_leaves_no_trace(tmp_path: Path) -> None:
    with TakeClaim(tmp_path / "a" / "take"), pytest.raises(ValueError, match="being written"):
        TakeClaim(tmp_path / "a" / "take")
    assert not list(tmp_path.iterdir())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with TakeClaim(tmp_path / "mine"):
        pass
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_a_finished_take_is_not_overwritten_by_one_that_waited(studio: Studio, tmp_path: Path) -> None:
    studio.new(tmp_path / "take", ask(studio.pipe, 1.0))
    with pytest.raises(ValueError, match="already holds 2 blocks"):
        TakeClaim(tmp_path / "take")


def test_a_store_goes_on(studio: Studio, tmp_path: Path) -> None:
    """A plain store of latents is gone on with, too."""
    request = ask(studio.pipe, 3.0)
    whole = studio.pipe(request)
    with LatentWriter(tmp_path / "latents") as store:
        for block in studio.pipe.stream(request, stores=[store]):
            if block.index == 1:
                break
    with LatentWriter(tmp_path / "latents", resume=True) as store:
        rest = list(studio.pipe.stream(request, stores=[store]))
    assert [block.index for block in rest] == [2, 3, 4]
    assert torch.equal(torch.cat([block.latents for block in rest], 1), whole.latents[:, 6:])
    assert np.array_equal(torch.cat([block.pixels for block in rest], 1).numpy(), whole.frames[:, 21:])
    with LatentWriter(tmp_path / "latents", resume=True) as store, pytest.raises(ValueError, match="one at a time"):
        studio.pipe.stream([request, request], stores=[store, store])
