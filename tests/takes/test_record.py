"""Records: those of every version are read, are written as they were, and are refused in a sentence where damaged."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longlive_rag.config import CheckpointConfig, MemoryConfig
from longlive_rag.documents import checksum_of
from longlive_rag.takes.folder import RECORD
from longlive_rag.takes.inspection import describe
from longlive_rag.takes.library import open_library
from longlive_rag.takes.record import TakeRecord, plain, read_record, write_record

SAMPLES = Path(__file__).parent / "samples"
NEW = ("memory", "cue", "branch", "native", "interrupted", "failed")
OLD = ("first", "before-checkpoints", "before-gate")


def sample(name: str = "branch") -> Any:
    return json.loads((SAMPLES / name / RECORD).read_text())


@pytest.mark.parametrize("name", NEW)
def test_a_record_is_written_as_it_was_read(name: str, tmp_path: Path) -> None:
    write_record(tmp_path, read_record(SAMPLES / name))
    written = written_in(tmp_path)
    assert (written, list(written)) == (sample(name), list(sample(name)))


def written_in(take: Path) -> dict[str, Any]:
    """A record as it lies there, without its checksum."""
    content = json.loads((take / RECORD).read_text())
    assert content.pop("checksum") == checksum_of(content)
    return content


def test_an_edited_record_is_refused(tmp_path: Path) -> None:
    write_record(tmp_path, read_record(SAMPLES / NEW[0]))
    content = json.loads((tmp_path / RECORD).read_text())
    (tmp_path / RECORD).write_text(json.dumps(content))  # spacing is no content
    assert read_record(tmp_path).request.seed == 0
    content["request"]["seed"] = 2
    (tmp_path / RECORD).write_text(json.dumps(content))
    with pytest.raises(ValueError, match="was changed after it was written: its checksum does not match; `longlive"):
        read_record(tmp_path)
    assert read_record(tmp_path, check=False).request.seed == 2


@pytest.mark.parametrize("name", OLD)
def test_a_record_of_an_older_version_has_its_request_and_run_completed(name: str, tmp_path: Path) -> None:
    record = read_record(SAMPLES / name)
    write_record(tmp_path, record)
    whole = {"request": asdict(record.request), "run": asdict(record.run)}
    assert written_in(tmp_path) == {**sample(name), **json.loads(json.dumps(whole, default=str))}
    again = read_record(tmp_path)
    assert again.checksum is not None
    assert again.model_copy(update={"checksum": None}) == record


@pytest.mark.parametrize("name", [*NEW, *OLD])
def test_takes_of_all_versions_are_described(name: str) -> None:
    facts = describe(SAMPLES / name)
    assert (facts["prompt"], facts["backbone"]) == ("a red circle walks in a meadow", "tiny-world")


def test_what_the_first_version_did_not_record() -> None:
    record = read_record(SAMPLES / "first")
    assert (record.rights, record.latents, record.branched_from, record.history) == (None, None, None, ())
    assert (record.run.backbone_id, record.run.batch, record.video.temporal_factor) == (None, 1, None)
    assert (record.memory.admitted, record.memory.pages, record.checkpoint_config) == (None, None, CheckpointConfig())
    assert (record.request.memory, record.request.reseeds) == (MemoryConfig(), ())


def test_an_error_is_there_where_one_came_up() -> None:
    failed = read_record(SAMPLES / "failed")
    assert failed.error is not None
    assert failed.error.message == "OSError: [Errno 28] No space left on device"
    assert "error" not in plain(read_record(SAMPLES / "native"))


def put(place: str, value: object) -> Callable[[Any], None]:
    def change(record: Any) -> None:
        *way, last = place.split(".")
        for part in way:
            record = record[part]
        record[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("history", 5), "history is 5; it should be a valid array"),
        (put("run", None), "run is null; it should be an object"),
        (lambda record: record.pop("video"), "video is missing"),
        (lambda record: record["cues"][0].pop("prompt"), "cues[0].prompt is missing"),
        (put("stauts", "finished"), "stauts is not known; did you mean 'status'?"),
        (put("request.memory.gpu_gb", 3), "request.memory.gpu_gb is not known; did you mean 'gpu_gib'?"),
        (put("run.bach", 3), "run.bach is not known; did you mean 'batch'?"),
        (put("status", "done"), "status is 'done'; it should be 'running', 'finished', 'interrupted' or 'failed'"),
        (put("video.fps", 0), "video.fps is 0; it should be greater than or equal to 1"),
        (put("video.frames", "64"), "video.frames is '64'; it should be a valid integer"),
        (put("request.seed", -1), "request: seed is -1; it must be a whole number from 0 to 2**64 - 1"),
        (put("request.prompt", "a \ud800 circle"), r"request.prompt is not valid UTF-8: 'a \ud800 circle'"),
        (put("\udcff", 1), r"it is not valid UTF-8: '\udcff'"),
        (put("format", float("inf")), "Infinity is not a finite number"),
        (put("format", 2), "has format 2; this version reads formats up to 1: install a newer longlive-rag"),
        (put("format", 10**400), "has 401 digits"),
        (put("versions", json.loads("[" * 400 + "]" * 400)), "recursion limit exceeded"),
    ],
)
def test_a_damaged_record_is_refused_by_name(change: Callable[[Any], None], message: str, tmp_path: Path) -> None:
    record = sample()
    change(record)
    (tmp_path / RECORD).write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"take\.json") as refused:
        read_record(tmp_path)
    assert type(refused.value) is ValueError
    assert str(refused.value).startswith(str(tmp_path / RECORD))
    assert message in str(refused.value)
    assert open_library(tmp_path).left_out == ((tmp_path, str(refused.value)),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "can't be read: Expecting property name"),
        ("[]", "it is a list; it should be an object"),
        ("[" * 100_000, "can't be read: it is nested too deeply"),
        ('{"format": 99}', "has format 99"),
    ],
)
def test_what_is_no_record(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is not a take: it has no take\.json"):
        read_record(tmp_path)
    (tmp_path / RECORD).write_text(text)
    with pytest.raises(ValueError, match=r"take\.json") as refused:
        read_record(tmp_path)
    assert message in str(refused.value)


def places(part: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inside = part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ()
    return [found for key, each in inside for found in ((*way, key), *places(each, (*way, key)))]


VALUES = st.sampled_from([None, True, 0, -1, 2**63, 1e300, "", "\ud800", "\0", [], {}, [[]], {"x": 1}])


@given(st.sampled_from([*NEW, *OLD]), st.data())
def test_whatever_a_record_holds_a_library_is_listed(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    record = sample(name)
    *way, last = data.draw(st.sampled_from(places(record)))
    part = record
    for key in way:
        part = part[key]
    part[last] = data.draw(VALUES)
    folder = tmp_path_factory.mktemp("take")
    (folder / RECORD).write_text(json.dumps(record))
    library = open_library(folder)
    assert len(library.takes) + len(library.left_out) == 1
    for take in library.takes:
        json.dumps(take.describe())
        assert take.prompts or not take.frames
        assert isinstance(take.record, TakeRecord)
