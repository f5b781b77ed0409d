"""Takes made side by side are each finished, however that ends."""

from __future__ import annotations

import errno
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes import blocks_of, make_request, timeline_of

from longlive_rag.sessions.making import TakeEnded, TakeFailed, TakeStopped
from longlive_rag.sessions.side_by_side import make_together
from longlive_rag.takes.record import TakeRun, read_record
from longlive_rag.takes.writer import TakeWriter

FULL = OSError(errno.ENOSPC, "No space left on device")


class TwoTakes:
    """Yields blocks of two takes; raises `error` before the third."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error

    def timeline(self, request):
        return timeline_of(request)

    def stream(self, requests, *, stores, noise, choose, then, ahead) -> Iterator:
        assert not stores
        for block in blocks_of(requests[0], batch=2):
            if block.index == 2 and self.error is not None:
                raise self.error
            then(block)
            yield block


def make(folder: Path, error: BaseException | None = None) -> tuple[list[int], list[int]]:
    """Blocks that were written, and takes that were finished."""
    run = TakeRun("fake", folder, "cpu", "float32", 2, "philox")
    blocks, finished = [], []
    make_together(
        TwoTakes(error), [make_request()] * 2, [folder / "a", folder / "b"], run, None,
        lambda block: blocks.append(block.index), finished.append,
    )  # fmt: skip
    return blocks, finished


def statuses(folder: Path) -> list[str]:
    return [read_record(folder / name).status for name in ("a", "b")]


def test_takes_are_finished_together(tmp_path: Path) -> None:
    blocks, finished = make(tmp_path)
    assert blocks == list(range(timeline_of(make_request()).blocks))
    assert finished == [0, 1]
    assert statuses(tmp_path) == ["finished"] * 2
    assert read_record(tmp_path / "b").run.batch == 2


@pytest.mark.parametrize(
    ("error", "raised", "reason", "status"),
    [
        (KeyboardInterrupt(), TakeStopped, "Stopped", "interrupted"),
        (FULL, TakeFailed, "No space left on device", "failed"),
        (RuntimeError("boom"), RuntimeError, None, "failed"),
    ],
)
def test_what_ends_one_ends_all_well(
    tmp_path: Path, error: BaseException, raised: type[Exception], reason: str | None, status: str
) -> None:
    with pytest.raises(raised) as ended:
        make(tmp_path, error)
    assert statuses(tmp_path) == [status] * 2
    if isinstance(ended.value, TakeEnded):
        assert str(ended.value) == f"{tmp_path / 'a'}: {reason}"
        assert str(pickle.loads(pickle.dumps(ended.value))) == str(ended.value)


def test_one_that_can_not_be_finished_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = TakeWriter._draw

    def no_room(take: TakeWriter) -> None:
        if take.folder.name == "a":
            raise FULL
        draw(take)

    monkeypatch.setattr(TakeWriter, "_draw", no_room)
    with pytest.raises(TakeFailed, match="No space left on device") as ended:
        make(tmp_path)
    assert ended.value.folder == tmp_path / "a"
    assert statuses(tmp_path) == ["failed", "finished"]
