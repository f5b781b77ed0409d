"""The door for takes: files are a take's own, and what is not as it was written is named, and made again."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from longlive_rag import LongLiveRAGPipeline
from longlive_rag.media.sums import sums_of, verified_frames
from longlive_rag.takes.folder import CHECKPOINTS, LATENTS, RECORD, RESERVE, VIDEO, TakeClaim
from longlive_rag.takes.inspection import check_video, describe, intact_frames
from longlive_rag.takes.record import read_record, write_record
from retrieval.files import NotPlainError, appearing, check_plain, open_plain
from retrieval.lock import LOCK, hold, is_being_written
from tests.takes.test_resuming import Studio


class Takes:
    """Makes takes of the same few words by name."""

    def __init__(self, studio: Studio, folder: Path) -> None:
        self._studio, self._folder = studio, folder

    def make(self, name: str, seconds: float, kill_after_blocks: int | None = None, seed: int = 3) -> Path:
        request = self._studio.pipe.request("a red circle walks in a meadow", seconds=seconds, seed=seed)
        self._studio.new(self._folder / name, request, kill_after_blocks)
        return self._folder / name

    def go_on(self, name: str, seconds: float, event: str = "resumed") -> None:
        request = replace(read_record(self._folder / name).request, seconds=seconds)
        self._studio.resume(self._folder / name, request, event)


@pytest.fixture(scope="module")
def opened(pipeline_folder: Path) -> Studio:
    return Studio(LongLiveRAGPipeline.from_pretrained(pipeline_folder), pipeline_folder)


@pytest.fixture
def studio(opened: Studio, tmp_path: Path) -> Takes:
    return Takes(opened, tmp_path)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file of somebody else's, which nothing may touch."""
    (tmp_path / "secret").write_bytes(b"precious")
    return tmp_path / "secret"


def flip(path: Path, place: float = 0.5) -> None:
    content = bytearray(path.read_bytes())
    content[int(len(content) * place)] ^= 0x55
    path.write_bytes(content)


# ---- links ----


@pytest.mark.parametrize("name", [VIDEO, RECORD, "contact_sheet.png", "memory.png", "start_image.png", RESERVE])
def test_a_take_with_a_link_for_a_file_is_refused(studio: Takes, secret: Path, name: str) -> None:
    take = studio.make("take", 3.0)
    (take / name).unlink(missing_ok=True)
    (take / name).symlink_to(secret)
    with pytest.raises(NotPlainError, match=rf"{name} is a link; it must be a plain file"):
        read_record(take)
    assert secret.read_bytes() == b"precious"


@pytest.mark.parametrize("name", [LATENTS, CHECKPOINTS])
def test_a_take_with_a_link_for_a_folder_is_refused(studio: Takes, tmp_path: Path, name: str) -> None:
    take = studio.make("take", 3.0)
    (take / name).rename(tmp_path / "elsewhere")
    (take / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(NotPlainError, match=rf"{name} is a link"):
        read_record(take)


@pytest.mark.parametrize("name", [".contact_sheet.png.part", ".take.json.part", ".video.mp4.part", ".memory.png.part"])
def test_what_is_written_does_not_follow_a_link_that_lies_in_its_place(studio: Takes, secret: Path, name: str) -> None:
    take = studio.make("take", 3.0)
    (take / name).symlink_to(secret)
    studio.go_on("take", 5.0, "extended")
    assert secret.read_bytes() == b"precious"
    assert not (take / name).is_symlink()
    assert read_record(take).video.frames == 80


def test_a_new_take_replaces_a_link_instead_of_following_it(studio: Takes, secret: Path) -> None:
    take = studio.make("take", 3.0)
    for name in (VIDEO, RESERVE, RECORD):
        (take / name).unlink(missing_ok=True)
        (take / name).symlink_to(secret)
    studio.make("take", 3.0)
    assert secret.read_bytes() == b"precious"
    assert read_record(take).status == "finished"


def test_a_file_that_appears_takes_no_link(tmp_path: Path, secret: Path) -> None:
    (tmp_path / ".new.part").symlink_to(secret)
    with appearing(tmp_path / "new") as part:
        part.write_bytes(b"mine")
    assert (secret.read_bytes(), (tmp_path / "new").read_bytes()) == (b"precious", b"mine")


# ---- pipes ----


def pipe_at(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


@pytest.mark.parametrize("use", [hold, is_being_written, lambda folder: TakeClaim(folder.parent, resume=True)])
def test_a_pipe_for_a_lock_is_refused_at_once(studio: Takes, use: Callable[[Path], object]) -> None:
    take = studio.make("take", 3.0)
    pipe_at(take / LATENTS / LOCK)
    with pytest.raises(NotPlainError, match="lock is not a plain file"):
        use(take / LATENTS)


def test_a_pipe_for_a_block_is_damage(studio: Takes) -> None:
    take = studio.make("take", 3.0)
    pipe_at(take / LATENTS / "000001.h5")
    assert describe(take)["latents"]["damage"]["block"] == 1


def test_a_pipe_for_a_video_is_refused(studio: Takes) -> None:
    take = studio.make("take", 3.0)
    pipe_at(take / VIDEO)
    with pytest.raises(NotPlainError, match=r"video\.mp4 is not a plain file"):
        read_record(take)


def test_a_plain_file_is_opened(tmp_path: Path, secret: Path) -> None:
    with open_plain(secret) as file:
        assert file.read() == b"precious"
    check_plain(tmp_path / "nothing")
    with pytest.raises(NotPlainError, match="is a folder"):
        open_plain(tmp_path)


# ---- the video ----


@pytest.mark.parametrize("place", [0.3, 0.6, 0.95])
def test_a_byte_of_a_finished_video_is_noticed_and_made_again(studio: Takes, place: float) -> None:
    take = studio.make("take", 8.0)
    whole = (take / VIDEO).read_bytes()
    check_video(take, read_record(take))
    flip(take / VIDEO, place)
    damage = r"video\.mp4 is not as it was written: its checksum does not match; `longlive"
    with pytest.raises(ValueError, match=damage):
        check_video(take, read_record(take))
    assert describe(take)["video_damage"] is not None
    studio.go_on("take", 8.0)
    assert (take / VIDEO).read_bytes() == whole
    assert describe(take)["video_damage"] is None


def test_a_foreign_video_is_noticed_and_made_again(studio: Takes) -> None:
    take, other = studio.make("take", 8.0), studio.make("other", 8.0, seed=5)
    whole = (take / VIDEO).read_bytes()
    (take / VIDEO).write_bytes((other / VIDEO).read_bytes())
    assert intact_frames(take, read_record(take)) == 0
    studio.go_on("take", 8.0)
    assert (take / VIDEO).read_bytes() == whole


def test_a_byte_of_a_killed_take_s_video_is_noticed_and_made_again(studio: Takes) -> None:
    """Up to the last cut before it, the video is kept; the rest is decoded again."""
    whole = studio.make("whole", 12.0)
    take = studio.make("take", 12.0, kill_after_blocks=11)
    record = read_record(take)
    assert record.status == "running"
    assert verified_frames(take / VIDEO) == intact_frames(take, record) > 0
    kept = intact_frames(take, record)
    flip(take / VIDEO, 0.6)
    assert intact_frames(take, record) < kept
    studio.go_on("take", 12.0)
    assert (take / VIDEO).read_bytes() == (whole / VIDEO).read_bytes()
    assert not sums_of(take / VIDEO).exists()


def test_a_take_of_an_older_version_has_a_video_that_nothing_is_known_of(studio: Takes) -> None:
    take = studio.make("take", 4.0)
    record = read_record(take)
    facts = {name: value for name, value in record.video.model_dump().items() if name != "sha256"}
    write_record(take, record.model_copy(update={"video": type(record.video)(**facts)}))
    assert intact_frames(take, read_record(take)) == 64
    check_video(take, read_record(take))


def test_hashes_of_a_take_of_a_day_are_all_read(tmp_path: Path) -> None:
    video, lines = tmp_path / "video.mp4", 20_000
    video.write_bytes(b"the frames so far")
    digest = hashlib.sha256(video.read_bytes()).hexdigest()
    earlier = "".join(f"{32 * number} {10**9 + number} {digest}\n" for number in range(lines))
    sums_of(video).write_text(f"{earlier}{32 * lines} {video.stat().st_size} {digest}\n")
    assert sums_of(video).stat().st_size > 2**20
    assert verified_frames(video) == 32 * lines
