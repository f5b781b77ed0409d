"""Making and measuring one take of a comparison. What is finished is on disk, whole, and is not made again."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eval.embedders import Embedder, parse_embedders
from eval.footage import find_footage
from eval.measure import measure
from eval.plan import Cell, Plan, read_json
from eval.retrieval_controls import choice_of
from eval.runs import MEASURES, NOISE, take_folder
from eval.runs import is_finished as is_measured
from longlive_rag.config import TakeRequest
from longlive_rag.continuing import is_finished
from longlive_rag.disk import write_json
from longlive_rag.geometry import backbone_id
from longlive_rag.load import load_pipeline, pick_device, use_threads
from longlive_rag.noise import NoiseSource, PhiloxNoise
from longlive_rag.pipeline import LongLiveRAGPipeline
from longlive_rag.presets import Preset, load_preset
from longlive_rag.take import TakeRun, TakeWriter
from longlive_rag.timeline import Timeline


class RecordedNoise:
    """A noise source that keeps a hash of all that was drawn from it.

    Two takes were made from the same noise if and only if their hashes are equal.
    """

    def __init__(self, source: NoiseSource) -> None:
        self._source, self._digest, self.draws = source, hashlib.sha256(), 0

    def __call__(self, block: int, step: int, shape: tuple[int, ...]) -> Tensor:
        noise = self._source(block, step, shape)
        self._digest.update(f"{block} {step} {tuple(noise.shape)} ".encode())
        self._digest.update(noise.contiguous().numpy().tobytes())
        self.draws += 1
        return noise

    @property
    def sha256(self) -> str:
        """Of everything drawn until now."""
        return self._digest.hexdigest()


class Maker:
    """Makes and measures takes, one after the other; loads the backbone and the embedders once.

    Args:
        plan: of the comparison.
        run: its folder.
        threads: of the CPU, for one operation; None chooses by the backbone's size.
        pipe: a backbone that is loaded already.

    Raises:
        ValueError: if the backbone or an embedder can't be loaded, or the backbone can't make a take.
    """

    def __init__(
        self, plan: Plan, run: Path, threads: int | None = None, pipe: LongLiveRAGPipeline | None = None
    ) -> None:
        self._plan, self._run, self._threads = plan, run, threads
        self._measuring_threads = threads or torch.get_num_threads()
        self._preset: Preset = load_preset(plan.backbone)
        device = str(pick_device(plan.device))
        begin_s = time.perf_counter()
        self._embedders: Mapping[str, Embedder] = {
            spec.kind: spec.open(device) for spec in parse_embedders(plan.embedders)
        }
        self._pipe = pipe or load_pipeline(plan.backbone, plan.dtype, plan.device)
        self._take_run = TakeRun(
            backbone=plan.backbone,
            folder=self._preset.folder,
            device=device,
            dtype=plan.dtype,
            threads=use_threads(self._pipe, threads),
            noise=PhiloxNoise.name,
            codec=plan.codec,
            load_seconds=round(time.perf_counter() - begin_s, 3),
            backbone_id=backbone_id(self._preset.folder),
        )

    def check(self) -> None:
        """Let the backbone look at every request.

        Raises:
            ValueError: naming the arm, the prompt and what would be right.
        """
        for cell in self._plan.cells:
            if cell.seed == 0:
                self._pipe.check(self._plan.request(self._preset, cell))

    def unknown_words(self) -> list[str]:
        """Words of the prompts that the backbone has never read, each once."""
        prompts = {prompt for story in self._plan.stories for _, prompt in story.prompts}
        return sorted({word for prompt in prompts for word in self._pipe.unknown_words(prompt)})

    def finish(self, cell: Cell) -> dict[str, Any]:
        """Make and measure a take, as far as that isn't done; returns its measures."""
        folder = take_folder(self._run, cell)
        if is_measured(self._run, cell):
            return read_json(folder / MEASURES)
        request = self._plan.request(self._preset, cell)
        if not _is_made(folder, request, str(self._take_run.backbone_id)):
            use_threads(self._pipe, self._threads)
            self._make(cell, request, folder)
        torch.set_num_threads(self._measuring_threads)
        measures = measure(find_footage(folder), self._embedders, self._plan.measure_settings(cell.story))
        write_json(folder / MEASURES, measures)
        return measures

    def _make(self, cell: Cell, request: TakeRequest, folder: Path) -> None:
        """One take and its noise's hash; what a run that ended left of it is removed first."""
        if folder.exists():
            shutil.rmtree(folder)
        noise = RecordedNoise(PhiloxNoise([cell.seed]))
        timeline = Timeline(
            request.pixel_frames, request.output.fps, request.context.frames_per_block, self._preset.temporal_factor
        )
        take = TakeWriter(folder, request, timeline, self._take_run)
        try:
            choose = choice_of(cell.arm.retrieval, cell.seed, request.context.memory_frames, cell.story.id)
            for block in self._pipe.stream(request, noise=noise, choose=choose):
                take.add(block)
        except BaseException as error:
            take.finish("interrupted" if isinstance(error, KeyboardInterrupt) else "failed", error)
            raise
        record = take.finish("finished")
        if record["status"] != "finished":
            raise OSError(f"{folder}: {record['error']['message']}")
        write_json(folder / NOISE, {"sha256": noise.sha256, "draws": noise.draws, "source": PhiloxNoise.name})


def _is_made(folder: Path, request: TakeRequest, backbone: str) -> bool:
    """Whether a folder holds this very take, finished, with its noise's hash."""
    return (folder / NOISE).exists() and is_finished(folder, request, backbone)
