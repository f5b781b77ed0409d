"""The latent store: a take's committed blocks, each written durably, readable while the take grows.

Each block is one immutable HDF5 file. It is written under a temporary name, synced to disk and renamed to its number,
and the folder is synced: whenever the process or the machine dies, a numbered file is complete or absent. Committed
files are never modified, so readers need no lock.

The HDF5 content is preceded by one line of text (in what HDF5 calls the user block) with the format version and the
length and SHA-256 of what follows. Any HDF5 reader can open the file; this one checks the line first.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import h5py
import numpy as np
from numpy.typing import NDArray

from retrieval.files import (
    NotPlainError,
    check_plain,
    leftover_parts,
    open_plain,
    sync_folder,
    write_durably,
    write_whole,
)
from retrieval.lock import hold
from retrieval.sealed import HEADER_BYTES, BrokenSealError, seal, unseal
from retrieval.sealed import FutureFormatError as FutureFormatError
from retrieval.selection import Selection

FORMAT = 1
KIND = "block"
SET_ASIDE = "damaged"
BLOCK_NAME = re.compile(r"\d{6,}\.h5")
BLOCK_FILES = "[0-9]*.h5"


class DamagedError(ValueError):
    """A stored block is not as it was written.

    Attributes:
        block: its number; the blocks before it are intact.
    """

    def __init__(self, block: int, message: str) -> None:
        super().__init__(message)
        self.block = block


@dataclass(frozen=True)
class BlockRecord:
    """What is stored of a committed block.

    Attributes:
        block: its number in the take, from 0.
        latents: [T, C, h, w] float32.
        embeddings: [T, D] float32, by which memory is searched; None without memory.
        selection: what the block retrieved; None if nothing.
        prompt: the block's prompt.
        cue: number of the cue (from 1) that took over at this block, else None.
        seconds: time spent, by stage.
        entered: latent frames that have entered memory since the previous block; None without memory, and in blocks
            from before this was recorded.
    """

    block: int
    latents: NDArray[np.float32]
    embeddings: NDArray[np.float32] | None
    selection: Selection | None
    prompt: str
    cue: int | None
    seconds: dict[str, float]
    entered: tuple[int, ...] | None = None


class BlockStore(Protocol):
    """Stores committed blocks and reads past ones."""

    @property
    def blocks(self) -> int:
        """Number of committed blocks; a stream continues after them."""
        ...

    def record(self, block: int) -> BlockRecord:
        """Read a committed block."""
        ...

    def append(self, record: BlockRecord) -> None:
        """Store the next block; once this returns, it is stored."""
        ...

    def latents(self, frames: Sequence[int]) -> NDArray[np.float32]:
        """Latents [N, C, h, w] float32 of committed latent frames, numbered in the take."""
        ...


class LatentStore:
    """Reads a take's blocks, which another process may still be writing.

    Args:
        folder: folder of the store.

    Raises:
        ValueError: if there is no store, it is a link, or it has no blocks yet.
        DamagedError: if a block is missing between others, or block 0 is damaged.
        FutureFormatError: if it was written by a newer version.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = folder = Path(folder)
        check_plain(folder, folder=True)
        self.blocks = count_blocks(folder)
        if not self.blocks:
            raise ValueError(f"{folder} holds no latents")
        self._shape = read_block(block_path(folder, 0), 0).latents.shape
        self.frames_per_block = self._shape[0]

    @property
    def frames(self) -> int:
        """Number of latent frames in all blocks."""
        return self.blocks * self.frames_per_block

    @property
    def bytes(self) -> int:
        """Bytes on disk."""
        return sum(block_path(self.folder, block).stat().st_size for block in range(self.blocks))

    def refresh(self) -> int:
        """Look for newly committed blocks and return the number of blocks."""
        while block_path(self.folder, self.blocks).exists():
            self.blocks += 1
        return self.blocks

    def record(self, block: int) -> BlockRecord:
        """Read a block; DamagedError if it is not as it was written or has another shape than the others."""
        path = block_path(self.folder, block)
        record = read_block(path, block)
        if record.latents.shape != self._shape:
            raise DamagedError(
                block, f"{path} is damaged: its shape is {record.latents.shape}, block 0's is {self._shape}"
            )
        return record

    def check(self) -> None:
        """Read every block; DamagedError at the first damaged one."""
        for block in range(self.blocks):
            self.record(block)

    def latents(self, frames: Sequence[int]) -> NDArray[np.float32]:
        """Latents [N, C, h, w] float32 of latent frames, numbered in the take."""
        return gather_latents(self.folder, self.frames_per_block, frames)


class LatentWriter:
    """Appends blocks to a store. There is one writer at a time; its lock is released however it ends.

    Args:
        folder: folder of the store; it and its parents are created.
        overwrite: remove existing blocks when the first new one is written.
        resume: continue after the newest block.

    Raises:
        ValueError: if another process is writing here, or there are blocks and both flags are off.
        DamagedError: with `resume`, if a block is missing between others, or the newest one is damaged.
    """

    def __init__(self, folder: str | Path, overwrite: bool = False, resume: bool = False) -> None:
        self.folder = folder = Path(folder)
        check_plain(folder, folder=True)
        folder.mkdir(parents=True, exist_ok=True)
        sync_folder(folder.parent)
        self.blocks = 0
        self._frames_per_block = 0
        self._forgotten: list[int] = []
        self._lock = hold(folder)
        try:
            self._begin(overwrite, resume)
        except BaseException:
            self.close()
            raise

    def _begin(self, overwrite: bool, resume: bool) -> None:
        for part in leftover_parts(self.folder, BLOCK_FILES):
            part.unlink()
        if resume:
            self.adopt()
            return
        here = block_numbers(self.folder)
        if here and not overwrite:
            raise ValueError(f"{self.folder} already holds {len(here)} blocks")
        self._forgotten = here

    def adopt(self) -> None:
        """Continue after the blocks that exist now.

        Raises:
            DamagedError: if one is missing between others, or the newest is damaged.
        """
        self.blocks = count_blocks(self.folder)
        if self.blocks:
            self._frames_per_block = len(self.record(self.blocks - 1).latents)

    def forget(self) -> None:
        """Remove the blocks to be overwritten; the first `append` does this as well."""
        for block in reversed(self._forgotten):
            block_path(self.folder, block).unlink()
        sync_folder(self.folder)  # no old block may reappear among new ones
        self._forgotten = []

    def append(self, record: BlockRecord) -> None:
        """Write the next block; once this returns, it survives a crash or a power failure.

        Raises:
            ValueError: if it is not the next block, or has another size than the first.
            OSError: if it can't be written; the store is unchanged then.
        """
        if record.block != self.blocks:
            raise ValueError(f"block {record.block} can't be written: the next one is {self.blocks}")
        if self.blocks and len(record.latents) != self._frames_per_block:
            raise ValueError(
                f"block {record.block} has {len(record.latents)} latent frames; the take's others have "
                f"{self._frames_per_block}"
            )
        if self._forgotten:
            self.forget()
        write_durably(block_path(self.folder, record.block), pack(record))
        self.blocks += 1
        self._frames_per_block = len(record.latents)

    def record(self, block: int) -> BlockRecord:
        """Read a committed block; DamagedError if it is not as it was written."""
        return read_block(block_path(self.folder, block), block)

    def latents(self, frames: Sequence[int]) -> NDArray[np.float32]:
        """Latents [N, C, h, w] float32 of committed latent frames."""
        return gather_latents(self.folder, self._frames_per_block, frames)

    def close(self) -> None:
        """Release the lock."""
        self._lock.close()

    def __enter__(self) -> LatentWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def copy_blocks(source: Path, target: Path, count: int) -> None:
    """Copy the first `count` blocks of a store, in order; another process may be writing to `source`.

    Raises:
        DamagedError: if one of them is not as it was written.
        OSError: if writing fails; the blocks copied before are complete.
    """
    for block in range(count):
        path = block_path(source, block)
        content = path.read_bytes()
        try:
            unseal(path, content, KIND, FORMAT)
        except BrokenSealError as error:
            raise DamagedError(block, str(error)) from error
        write_whole(block_path(target, block), content)
    sync_folder(target)


@dataclass(frozen=True)
class Repair:
    """The result of a repair.

    Attributes:
        kept: number of intact blocks, from the first on.
        set_aside: names of the files that were moved away.
        folder: where they were moved; None if there was nothing to move.
    """

    kept: int
    set_aside: tuple[str, ...]
    folder: Path | None


def repair(folder: Path) -> Repair:
    """Keep the blocks before the first damaged or missing one and move the others aside, deleting nothing.

    Raises:
        ValueError: if another process is writing here, or there is no store.
        FutureFormatError: if it was written by a newer version.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; there are no latents to repair")
    with hold(folder):
        here = block_numbers(folder)
        kept = 0
        while kept < len(here) and here[kept] == kept and _is_whole(folder, kept):
            kept += 1
        moved = [block_path(folder, block) for block in here[kept:]]
        if not moved:
            return Repair(kept, (), None)
        aside = next(path for n in range(len(here) + 1) if not (path := folder / f"{SET_ASIDE}-{n}").exists())
        aside.mkdir()
        for path in reversed(moved):
            path.rename(aside / path.name)
        sync_folder(folder)
        return Repair(kept, tuple(path.name for path in moved), aside)


def _is_whole(folder: Path, block: int) -> bool:
    try:
        read_block(block_path(folder, block), block)
    except DamagedError:
        return False
    return True


# ---- the folder ----


def block_path(folder: Path, block: int) -> Path:
    """The file of a block."""
    return folder / f"{block:06d}.h5"


def block_numbers(folder: Path) -> list[int]:
    """The numbers of existing blocks, increasing."""
    return sorted(int(path.stem) for path in folder.iterdir() if BLOCK_NAME.fullmatch(path.name))


def count_blocks(folder: Path) -> int:
    """Number of committed blocks; 0 if there is no store. DamagedError if one is missing between others."""
    here = block_numbers(folder) if folder.is_dir() else []
    for expected, block in enumerate(here):
        if block != expected:
            raise DamagedError(expected, f"{folder}: block {expected} is missing, though {block} is there")
    return len(here)


def gather_latents(folder: Path, frames_per_block: int, frames: Sequence[int]) -> NDArray[np.float32]:
    """Latents [N, C, h, w] float32 of latent frames; each block's file is read once."""
    blocks = {frame // frames_per_block for frame in frames}
    latents = {block: read_block(block_path(folder, block), block).latents for block in blocks}
    return np.stack([latents[frame // frames_per_block][frame % frames_per_block] for frame in frames])


# ---- a block's file ----


def pack(record: BlockRecord) -> bytes:
    """Pack a block into the content of its file."""
    facts = {
        "block": record.block,
        "selection": asdict(record.selection) if record.selection else None,
        "prompt": record.prompt,
        "cue": record.cue,
        "seconds": record.seconds,
        "entered": record.entered,
    }
    image = io.BytesIO()
    with h5py.File(image, "w", userblock_size=HEADER_BYTES, libver="v110") as file:
        file.create_dataset("latents", data=np.ascontiguousarray(record.latents, dtype=np.float32))
        if record.embeddings is not None:
            file.create_dataset("embeddings", data=np.ascontiguousarray(record.embeddings, dtype=np.float32))
        file.create_dataset("facts", data=json.dumps(facts, ensure_ascii=False))
    return seal(KIND, FORMAT, image.getvalue()[HEADER_BYTES:])


def read_block(path: Path, block: int) -> BlockRecord:
    """Read and check a block's file.

    Raises:
        DamagedError: if it is missing or not as it was written.
        FutureFormatError: if a newer version wrote it.
    """
    try:
        with open_plain(path) as file:
            content = file.read()
        unseal(path, content, KIND, FORMAT)
        record = _unpacked(content)
    except FileNotFoundError as error:
        raise DamagedError(block, f"{path} is missing") from error
    except FutureFormatError:
        raise
    except (BrokenSealError, NotPlainError) as error:
        raise DamagedError(block, str(error)) from error
    except (ArithmeticError, AttributeError, KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise DamagedError(block, f"{path} is damaged: it does not hold a block ({error})") from error
    if record.block != block:
        raise DamagedError(block, f"{path} holds block {record.block}: was it renamed?")
    return record


def _unpacked(content: bytes) -> BlockRecord:
    """Unpack a block from the content of its file; content not written by `pack` may raise many kinds of errors."""
    with h5py.File(io.BytesIO(content), "r") as file:
        text = file["facts"][()]
        facts = json.loads(text)
        if not isinstance(facts["prompt"], str) or not isinstance(facts["block"], int):
            raise TypeError("its facts have the wrong types")
        latents = _floats(file, "latents", 4)
        embeddings = _floats(file, "embeddings", 2) if "embeddings" in file else None
        if embeddings is not None and len(embeddings) != len(latents):
            raise ValueError("it does not have one embedding per frame")
        return BlockRecord(
            block=facts["block"],
            latents=latents,
            embeddings=embeddings,
            selection=_selection(facts["selection"]),
            prompt=facts["prompt"],
            cue=facts["cue"],
            seconds=dict(facts["seconds"]),
            entered=None if facts.get("entered") is None else tuple(map(int, facts["entered"])),
        )


def _floats(file: h5py.File, name: str, dimensions: int) -> NDArray[np.float32]:
    """Read an array that is stored in the file itself, as `pack` writes it."""
    data = file[name] if isinstance(file.get(name, getlink=True), h5py.HardLink) else None
    if data is None or data.external or data.is_virtual or data.chunks or data.dtype != np.float32:
        raise ValueError(f"its {name} are not stored as they were written")
    values: NDArray[np.float32] = data[()]
    if values.ndim != dimensions or not values.size or not np.isfinite(values).all():
        raise ValueError(f"its {name} are {list(values.shape)}, or not finite numbers")
    return values


def _selection(facts: dict[str, Any] | None) -> Selection | None:
    if facts is None:
        return None
    frames, similarities = tuple(map(int, facts["frames"])), tuple(map(float, facts["similarities"]))
    if len(frames) != len(similarities):
        raise ValueError("its selection does not have one similarity per frame")
    numbers = {name: int(facts[name]) for name in facts.keys() - {"frames", "similarities"}}
    return Selection(**numbers, frames=frames, similarities=similarities)


class LatentSpool:
    """Latents of takes without a store, in an unnamed temporary file, which keeps the process's memory flat.

    The file disappears with the process.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="longlive-rag-")  # noqa: SIM115  # lives as long as the rollout
        self._shape: tuple[int, ...] = ()
        self._frames = 0

    def append(self, latents: NDArray[np.float32]) -> None:
        """Append the next latents [B, T, C, h, w] of B takes."""
        frame_major = np.ascontiguousarray(latents.swapaxes(0, 1), dtype=np.float32)
        self._shape = frame_major.shape[1:]
        self._file.seek(0, os.SEEK_END)
        self._file.write(frame_major.tobytes())
        self._frames += len(frame_major)

    def latents(self, take: int, frames: Sequence[int]) -> NDArray[np.float32]:
        """Latents [N, C, h, w] of one take's frames."""
        return np.stack([self._read(take, frame) for frame in frames])

    def _read(self, take: int, frame: int) -> NDArray[np.float32]:
        if not 0 <= frame < self._frames:
            raise IndexError(f"latent frame {frame} of {self._frames}")
        sizes = self._shape[1:]
        count = math.prod(sizes)
        self._file.seek((frame * self._shape[0] + take) * count * np.float32().itemsize)
        return np.frombuffer(self._file.read(count * np.float32().itemsize), np.float32).reshape(sizes)
