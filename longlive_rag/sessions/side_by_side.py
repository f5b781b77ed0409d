"""Making takes side by side, each of which is finished however the others end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from longlive_rag.config import CheckpointConfig, TakeRequest
from longlive_rag.generation.behind import AHEAD
from longlive_rag.generation.block import Block
from longlive_rag.generation.noise import NoiseSource
from longlive_rag.pipeline import LongLiveRAGPipeline
from longlive_rag.sessions.making import TakeFailed, check_finished, ending_well, exhaust
from longlive_rag.takes.record import TakeRun
from longlive_rag.takes.writer import TakeWriter
from retrieval.memory import Choose


def make_together(
    pipe: LongLiveRAGPipeline,
    requests: Sequence[TakeRequest],
    folders: Sequence[Path],
    run: TakeRun,
    checkpoint: CheckpointConfig | None,
    on_block: Callable[[Block], None] = lambda block: None,
    on_finished: Callable[[int], None] = lambda number: None,
    noise: NoiseSource | None = None,
    choose: Choose | None = None,
) -> None:
    """Make takes side by side, replacing existing ones.

    Args:
        pipe, run: the pipeline, and how it makes takes.
        requests: the requests; see `Batch`.
        folders: the folder of each take.
        checkpoint: checkpoints to resume from; None stores no latents.
        on_block: called with every finished and written block, in the writing thread.
        on_finished: called with the number of every finished take.
        noise, choose: see `LongLiveRAGPipeline.stream`.

    Raises:
        TakeStopped: on KeyboardInterrupt.
        TakeFailed: if disk or memory runs out; all other takes are still finished.
    """
    timeline, run = pipe.timeline(requests[0]), replace(run, batch=len(requests))
    takes = [
        TakeWriter(folder, request, timeline, run, number, checkpoint)
        for number, (folder, request) in enumerate(zip(folders, requests, strict=True))
    ]
    stores = takes if checkpoint else ()

    def write(block: Block) -> None:
        for take in takes:
            take.add(block)
        on_block(block)

    with ending_well(*takes):
        exhaust(pipe.stream(list(requests), stores=stores, noise=noise, choose=choose, then=write, ahead=AHEAD))
    failures = []
    for number, take in enumerate(takes):
        try:
            with ending_well(take):
                record = take.finish("finished")
            check_finished(record, take.folder)
            on_finished(number)
        except TakeFailed as failure:
            failures.append(failure)
    if failures:
        raise failures[0]
