"""A take's folder: its files, who may write there, and whether there is room."""

from __future__ import annotations

import shlex
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from longlive_rag.config import TakeRequest
from longlive_rag.media.sums import sums_of
from retrieval.files import check_plain, in_words, leftover_parts, part_of
from retrieval.lock import LOCK, hold, is_being_written
from retrieval.store import BLOCK_FILES, LatentWriter, block_numbers, block_path

VIDEO = "video.mp4"
RECORD = "take.json"
CONTACT_SHEET = "contact_sheet.png"
MEMORY_MAP = "memory.png"
LATENTS = "latents"
CHECKPOINTS = "checkpoints"
CHECKPOINT_FILES = "[0-9]*.safetensors"
START_IMAGE = "start_image.png"
REMEMBERED = "remembered.safetensors"
INPUTS = (START_IMAGE, REMEMBERED)
FILES = (RECORD, VIDEO, CONTACT_SHEET, MEMORY_MAP)

NEWEST = ".newest.mp4"
"""The newest block of a take being made; until the next block begins, the video lacks its last frame."""
RESERVE = ".reserve"
RESERVE_BYTES = 256 * 1024
PICTURES_BYTES = 2 * 1024 * 1024
VIDEO_BYTES_PER_PIXEL = 0.05  # for busy pictures; VP9 at our quality takes 0.01 to 0.05


def in_shell(folder: Path) -> str:
    """A folder as it is typed in a shell: in quotes if it has to be."""
    return shlex.quote(str(folder))


def check_take_folder(
    folder: Path,
    request: TakeRequest,
    overwrite: bool = False,
    latents_bytes: int = 0,
    hint: str = ", or add --overwrite to replace it",
) -> None:
    """Check that a take can be written to a folder, without leaving a trace.

    Args:
        overwrite: whether an existing take may be replaced.
        latents_bytes: size of everything stored besides the video.
        hint: how an existing take could be replaced, for the message.

    Raises:
        ValueError: if it is a file, can't be written, already holds a take, or its disk has no room.
    """
    try:
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"{folder} is a file; a take is a folder")
        here = [folder / name for name in (*FILES, LATENTS, CHECKPOINTS, *INPUTS) if _holds_something(folder / name)]
        if here and not overwrite:
            raise ValueError(f"{folder} already holds a take ({here[0].name}); choose another folder{hint}")
        if is_being_written(folder / LATENTS):
            raise ValueError(f"{folder} is being written by another process; wait for it or stop it")
        free_bytes = check_folder_writable(folder) + sum(_bytes_of(path) for path in here)
    except OSError as error:
        raise ValueError(f"{folder} can't be written: {error.strerror or error}") from error
    needed_bytes = estimate_bytes(request) + latents_bytes
    if free_bytes < needed_bytes:
        raise ValueError(
            f"no space left for {folder}: the take needs about {in_words(needed_bytes)}, "
            f"{in_words(free_bytes)} are free"
        )


def check_folder_writable(folder: Path) -> int:
    """Check that files can be written to a folder, which need not exist, without leaving a trace.

    Returns:
        Free bytes on its disk.

    Raises:
        ValueError: if they can't.
    """
    if folder.is_file():
        raise ValueError(f"{folder} is a file; it must be a folder")
    try:
        with _made_for_now(folder), tempfile.TemporaryDirectory(prefix=".", dir=folder):
            return shutil.disk_usage(folder).free
    except OSError as error:
        raise ValueError(f"{folder} can't be written: {error.strerror or error}") from error


class TakeClaim:
    """Keeps other writers out of a take's folder, from before the backbone is loaded until the take is finished.

    Args:
        folder: folder of the take; it and its parents are created.
        overwrite: whether an existing take may be replaced.
        resume: whether to resume an existing take.

    Raises:
        ValueError: if another process is writing there, there is a take and both flags are off, or files can't be
            written there.
        DamagedError: with `resume`, if its newest block is damaged or an earlier one is missing.
    """

    def __init__(self, folder: Path, overwrite: bool = False, resume: bool = False) -> None:
        self._folder = folder
        self._made = [path for path in (folder, *folder.parents) if not path.exists()]
        self._held = False
        try:
            self.store = LatentWriter(folder / LATENTS, overwrite=overwrite, resume=resume)
            self._held = True
            _remove(leftovers(folder))
            self._check_writable()
        except BaseException:
            self.release() if self._held else self._tidy()
            raise

    def _check_writable(self) -> None:
        """Try to write where the take's files will be; `leftovers` has what a process killed meanwhile leaves."""
        for path in (self._folder / RECORD, block_path(self._folder / LATENTS, self.store.blocks)):
            try:
                part_of(path).touch()
                part_of(path).unlink()
            except OSError as error:
                raise ValueError(f"{path.parent} can't be written: {error.strerror or error}") from error

    def release(self) -> None:
        """Release the claim; if nothing was stored, the folder is as before. Safe to call twice."""
        if self._held:
            self._tidy()
            self._held = False
            self.store.close()

    def __enter__(self) -> TakeClaim:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _tidy(self) -> None:
        latents = self._folder / LATENTS
        if self._held and latents.is_dir() and not block_numbers(latents):
            (latents / LOCK).unlink(missing_ok=True)
        for path in (latents, *self._made):
            with suppress(OSError):  # not empty
                path.rmdir()


def leftovers(take: Path, finished: bool = False) -> list[Path]:
    """Temporary files left by a killed process and, if the take is finished, files that only exist while it is made."""
    sums = [path for path in (sums_of(take / VIDEO), take / NEWEST) if finished and path.is_file()]
    parts = sums + leftover_parts(take, *FILES, *INPUTS, NEWEST) + leftover_parts(take / LATENTS, BLOCK_FILES)
    return parts + leftover_parts(take / CHECKPOINTS, CHECKPOINT_FILES)


def checkpoint_files(folder: Path) -> dict[int, Path]:
    """The checkpoints in a folder, by the number of blocks before each; other files there, such as copies, are not."""
    return {int(path.stem): path for path in folder.glob(CHECKPOINT_FILES) if path.stem.isdecimal()}


def remove_leftovers(take: Path, finished: bool = False) -> None:
    """Remove what a killed process left behind; ValueError if another process is writing there."""
    if leftovers(take, finished):
        with hold(take / LATENTS):
            _remove(leftovers(take, finished))


def estimate_bytes(request: TakeRequest) -> int:
    """Rough upper bound of the disk space for a take: twice the video (its index moves) and the rest."""
    output = request.output
    pixels = output.width * output.height * output.upscale**2 * request.pixel_frames
    return round(2 * VIDEO_BYTES_PER_PIXEL * pixels) + PICTURES_BYTES + RESERVE_BYTES


def check_own_files(take: Path) -> None:
    """Check that all files of a take are plain files, not links, pipes or the like.

    Raises:
        NotPlainError: if one is not; names it.
    """
    for name in (*FILES, *INPUTS, NEWEST, RESERVE):
        check_plain(take / name)
    for name in (LATENTS, CHECKPOINTS):
        check_plain(take / name, folder=True)  # their contents are checked when opened


def check_no_take_file(path: Path) -> None:
    """Raise ValueError if `path` is one of a take's own files, which must not be overwritten."""
    if path.name in FILES and (path.parent / RECORD).is_file():
        raise ValueError(f"{path} belongs to the take in {path.parent}; choose another name")


def _remove(files: Iterable[Path]) -> None:
    for path in files:
        path.unlink(missing_ok=True)


def _holds_something(path: Path) -> bool:
    """Whether there is a file, or a folder with more in it than a dead process's lock."""
    return any(inside.name != LOCK for inside in path.iterdir()) if path.is_dir() else path.exists()


def _bytes_of(path: Path) -> int:
    """Size of a file, or of all files in a folder."""
    return path.stat().st_size if path.is_file() else sum(file.stat().st_size for file in path.rglob("*"))


@contextmanager
def _made_for_now(folder: Path) -> Iterator[None]:
    """Create a folder for the `with` body only: checking permissions is unreliable, trying is not."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    made = []
    try:
        for path in reversed(missing):
            path.mkdir()
            made.append(path)
        yield
    finally:
        for path in reversed(made):
            path.rmdir()
