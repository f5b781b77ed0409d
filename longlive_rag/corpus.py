"""Many takes from a list of prompts: what a retrieval encoder is trained on."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from longlive_rag.config import TakeRequest
from longlive_rag.pipeline import LongLiveRAGPipeline
from longlive_rag.take import RECORD, TakeRun, TakeWriter, read_record


def read_prompts(path: Path) -> list[str]:
    """Prompts of a text file, one a line; empty lines and lines that begin with # are left out.

    Raises:
        ValueError: if it can't be read as text or holds no prompt.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} can't be read as text: {getattr(error, 'strerror', None) or error}") from error
    prompts = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not prompts:
        raise ValueError(f"{path} holds no prompt; write one a line")
    return prompts


def take_folders(folder: Path, count: int) -> list[Path]:
    """Where the takes of a corpus go."""
    return [folder / f"take-{index:04d}" for index in range(count)]


def is_finished(folder: Path, request: TakeRequest) -> bool:
    """Whether a folder holds this very take, whole."""
    if not (folder / RECORD).is_file():
        return False
    record = read_record(folder)
    return record["status"] == "finished" and record["request"] == json.loads(json.dumps(asdict(request)))


def make_takes(
    pipe: LongLiveRAGPipeline,
    run: TakeRun,
    requests: Sequence[TakeRequest],
    folders: Sequence[Path],
    batch: int,
    on_frames: Callable[[int], None],
) -> None:
    """Make the takes that are not finished yet, `batch` side by side; a take that is half made is made anew.

    Args:
        requests, folders: one each; requests differ in prompt and seed only.
        on_frames: called with the number of pixel frames that were finished, over all takes of a batch.
    """
    left = [pair for pair in zip(requests, folders, strict=True) if not is_finished(pair[1], pair[0])]
    for start in range(0, len(left), batch):
        together = left[start : start + batch]
        timeline = pipe.timeline(together[0][0])
        takes = [TakeWriter(folder, request, timeline, run, item) for item, (request, folder) in enumerate(together)]
        try:
            for block in pipe.stream([request for request, _ in together], stores=takes):
                for take in takes:
                    take.add(block)
                on_frames(len(takes) * len(block.pixel_frames))
        except BaseException as error:
            for take in takes:
                take.finish("interrupted" if isinstance(error, KeyboardInterrupt) else "failed", error)
            raise
        for take in takes:
            record = take.finish("finished")
            if record["status"] != "finished":
                raise OSError(record["error"]["message"])
