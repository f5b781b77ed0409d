"""The latent store: what was committed comes back, whatever happens to the process or the files."""

from __future__ import annotations

import itertools
import math
import os
import random
import signal
import time
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from retrieval import files
from retrieval import store as store_module
from retrieval.lock import is_being_written
from retrieval.selection import Selection
from retrieval.store import (
    HEADER_BYTES,
    BlockRecord,
    DamagedError,
    FutureFormatError,
    LatentStore,
    LatentWriter,
    block_path,
    pack,
    read_block,
    repair,
)

SHAPE = (3, 4, 5, 6)


def record_of(block: int) -> BlockRecord:
    rng = np.random.default_rng(block)
    selection = Selection(block, 3 * block - 1, 7, (5, 2), (0.75, 0.5)) if block % 2 else None
    return BlockRecord(
        block=block,
        latents=rng.standard_normal(SHAPE, dtype=np.float32),
        embeddings=rng.standard_normal((SHAPE[0], 9), dtype=np.float32) if block != 2 else None,
        selection=selection,
        prompt=f"a fox, n\u00b0 {block}",
        cue=1 if block == 3 else None,
        seconds={"denoise": 0.1 + block},
    )


def assert_equal(found: BlockRecord, written: BlockRecord) -> None:
    assert np.array_equal(found.latents, written.latents)
    assert (found.embeddings is None) == (written.embeddings is None)
    if written.embeddings is not None:
        assert np.array_equal(found.embeddings, written.embeddings)
    for name in ("block", "selection", "prompt", "cue", "seconds"):
        assert getattr(found, name) == getattr(written, name)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with LatentWriter(tmp_path / "latents") as writer:
        for block in range(6):
            writer.append(record_of(block))
    return tmp_path / "latents"


def test_every_block_comes_back_bit_for_bit(folder: Path) -> None:
    store = LatentStore(folder)
    assert (store.blocks, store.frames_per_block, store.frames) == (6, 3, 18)
    for block in range(6):
        assert_equal(store.record(block), record_of(block))
    picked = store.latents([16, 1, 4, 16])
    assert np.array_equal(picked[1], record_of(0).latents[1])
    assert np.array_equal(picked[3], record_of(5).latents[1])
    assert store.bytes == sum(path.stat().st_size for path in folder.glob("*.h5"))


def test_any_hdf5_reader_opens_a_block(folder: Path) -> None:
    with h5py.File(block_path(folder, 1)) as file:
        assert np.array_equal(file["latents"][()], record_of(1).latents)


def test_others_read_while_one_writes(tmp_path: Path) -> None:
    with LatentWriter(tmp_path) as writer:
        writer.append(record_of(0))
        reader = LatentStore(tmp_path)
        writer.append(record_of(1))
        assert reader.blocks == 1
        assert reader.refresh() == 2
        assert_equal(reader.record(1), record_of(1))


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    with LatentWriter(tmp_path) as writer:
        writer.append(record_of(0))
        assert is_being_written(tmp_path)
        with pytest.raises(ValueError, match="being written by another process"):
            LatentWriter(tmp_path, overwrite=True)
        with pytest.raises(ValueError, match="being written"):
            repair(tmp_path)
    assert not is_being_written(tmp_path)
    with pytest.raises(ValueError, match="already holds 1 blocks"):
        LatentWriter(tmp_path)
    with LatentWriter(tmp_path, overwrite=True) as writer:
        writer.append(record_of(0))
    assert LatentStore(tmp_path).blocks == 1


def test_blocks_come_in_order_and_of_one_size(tmp_path: Path) -> None:
    with LatentWriter(tmp_path) as writer:
        with pytest.raises(ValueError, match="the next one is 0"):
            writer.append(record_of(1))
        writer.append(record_of(0))
        longer = BlockRecord(1, np.zeros((4, *SHAPE[1:]), np.float32), None, None, "", None, {})
        with pytest.raises(ValueError, match="4 latent frames; the take's others have 3"):
            writer.append(longer)


@pytest.mark.parametrize("where", ["header", "middle", "end", "cut", "empty"])
def test_damage_is_found_and_what_precedes_it_is_salvaged(folder: Path, where: str) -> None:
    path = block_path(folder, 3)
    content = bytearray(path.read_bytes())
    if where in ("cut", "empty"):
        content = content[: len(content) // 2 if where == "cut" else 0]
    else:
        content[{"header": 3, "middle": len(content) // 2, "end": -1}[where]] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedError, match=r"000003\.h5 is damaged") as damage:
        LatentStore(folder).check()
    assert damage.value.block == 3

    done = repair(folder)

    assert (done.kept, done.set_aside) == (3, ("000003.h5", "000004.h5", "000005.h5"))
    assert done.folder is not None
    assert sorted(path.name for path in done.folder.iterdir()) == list(done.set_aside)
    store = LatentStore(folder)
    store.check()
    assert store.blocks == 3
    assert repair(folder).folder is None


def test_any_flipped_byte_is_found(folder: Path) -> None:
    path = block_path(folder, 0)
    whole = path.read_bytes()
    padding = whole.index(b"\n") + 1
    for place in random.Random(0).sample([*range(padding), *range(HEADER_BYTES, len(whole))], 200):
        spoilt = bytearray(whole)
        spoilt[place] ^= 1 << place % 8
        path.write_bytes(spoilt)
        with pytest.raises((DamagedError, FutureFormatError)):
            LatentStore(folder)


def test_a_missing_or_swapped_block_is_found(folder: Path) -> None:
    block_path(folder, 4).rename(folder / "away")
    with pytest.raises(DamagedError, match="block 4 is missing, though 5 is there"):
        LatentStore(folder)
    block_path(folder, 5).rename(block_path(folder, 4))
    with pytest.raises(DamagedError, match="holds block 5"):
        LatentStore(folder).check()


def test_a_file_from_the_future_is_left_alone(folder: Path) -> None:
    path = block_path(folder, 2)
    path.write_bytes(path.read_bytes().replace(b'"format": 1', b'"format": 9', 1))
    for act in (lambda: LatentStore(folder).check(), lambda: repair(folder)):
        with pytest.raises(FutureFormatError, match=r"format 9; this version reads formats up to 1"):
            act()


# ---- a process that is killed ----


def write_until_killed(folder: Path) -> None:
    with LatentWriter(folder) as writer:
        for block in itertools.count():
            writer.append(record_of(block))
            (folder.parent / "said").write_text(str(block + 1))


def assert_all_committed(folder: Path) -> int:
    """Every block that the dead process had committed is there, bit for bit, and no other."""
    said = folder.parent / "said"
    committed = int(said.read_text() or 0) if said.exists() else 0
    if not committed and not any(folder.glob("*.h5")):
        return 0
    store = LatentStore(folder)
    for block in range(store.blocks):
        assert_equal(store.record(block), record_of(block))
    assert store.blocks >= committed
    return store.blocks


def in_child(act) -> int:
    """Run `act` in a forked process; returns its wait status."""
    child = os.fork()
    if child == 0:
        try:
            act()
        finally:
            os._exit(0)
    return child


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_killed_at_a_hundred_random_moments(tmp_path: Path) -> None:
    delays = random.Random(1)
    blocks = []
    for attempt in range(100):
        folder = tmp_path / str(attempt) / "latents"
        child = in_child(lambda folder=folder: write_until_killed(folder))
        time.sleep(delays.uniform(0.002, 0.25))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WTERMSIG(status) == signal.SIGKILL
        if folder.exists():
            blocks.append(assert_all_committed(folder))
            with LatentWriter(folder, overwrite=True):  # the dead process's lock is gone, its half-written file too
                assert not list(folder.glob(".*"))
    assert sum(blocks) > 100


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.parametrize("at", ["half written", "before fsync", "before rename", "after rename"])
def test_killed_in_the_middle_of_a_write(tmp_path: Path, at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def write() -> None:
        with LatentWriter(tmp_path / "latents") as writer:
            for block in range(3):
                writer.append(record_of(block))
                (tmp_path / "said").write_text(str(block + 1))
            if at == "half written":
                whole = store_module.pack(record_of(3))
                part = tmp_path / "latents" / ".000003.h5.part"
                part.write_bytes(whole[: len(whole) // 2])
                die()
            target, name = {"before fsync": (os, "fsync"), "before rename": (Path, "replace")}.get(
                at, (files, "sync_folder")
            )
            monkeypatch.setattr(target, name, die)
            writer.append(record_of(3))

    _, status = os.waitpid(in_child(write), 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert assert_all_committed(tmp_path / "latents") == (4 if at == "after rename" else 3)


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("place", ["entered", "candidates", "frames"])
def test_a_number_that_no_integer_is_damages_a_block(folder: Path, place: str, number: float) -> None:
    """Its seal is right: who wrote it wrote that."""
    record = record_of(1)
    assert record.selection is not None
    if place == "entered":
        record = replace(record, entered=(number,))
    else:
        wrong = {"candidates": number, "frames": (number, 2)}[place]
        record = replace(record, selection=replace(record.selection, **{place: wrong}))
    block_path(folder, 1).write_bytes(pack(record))
    with pytest.raises(DamagedError, match="does not hold a block"):
        read_block(block_path(folder, 1), 1)
