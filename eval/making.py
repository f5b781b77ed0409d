"""Making and measuring takes of a comparison. Finished takes are complete on disk and not made again."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eval.embedders import Embedder, parse_embedders
from eval.footage import find_footage
from eval.measure import measure
from eval.measures import Noise
from eval.plan import Cell, Plan
from eval.retrieval_controls import Chooser, RightFrames, chooser_of, last_pixels
from eval.runs import MEASURES, NOISE, take_folder
from eval.runs import is_finished as is_measured
from longlive_rag.config import TakeRequest
from longlive_rag.documents import write_document
from longlive_rag.generation.block import Block
from longlive_rag.generation.noise import NoiseSource, PhiloxNoise
from longlive_rag.generation.rollout import STEPS_OF_A_TRY
from longlive_rag.pipeline import LongLiveRAGPipeline
from longlive_rag.presets.preset import Preset, load_preset
from longlive_rag.sessions.opening import Labels, Opening, load_backbone, provenance_of
from longlive_rag.sessions.side_by_side import make_together
from longlive_rag.takes.branch import is_finished
from longlive_rag.weights.load import pick_device, use_threads
from retrieval.memory import Choose


class RecordedNoise:
    """A noise source that hashes everything drawn from it, for each take of a batch.

    Two takes were made from the same noise if and only if their hashes are equal, whatever batch they were made in.
    Draws for retries of blocks (`--retry`) are not included, because arms differ in them by design.
    """

    def __init__(self, source: NoiseSource, takes: int = 1) -> None:
        self._source, self._digests, self.draws = source, [hashlib.sha256() for _ in range(takes)], 0

    def __call__(self, block: int, step: int, shape: tuple[int, ...]) -> Tensor:
        noise = self._source(block, step, shape)
        if step >= STEPS_OF_A_TRY:
            return noise
        for digest, own in zip(self._digests, noise, strict=True):
            digest.update(f"{block} {step} {(1, *own.shape)} ".encode())
            digest.update(own.contiguous().numpy().tobytes())
        self.draws += 1
        return noise

    def sha256(self, take: int = 0) -> str:
        """Hash of everything drawn for a take so far."""
        return self._digests[take].hexdigest()


class Maker:
    """Makes and measures takes, loading the backbone and the embedders once.

    Args:
        plan: plan of the comparison.
        run: folder of the run.
        threads: CPU threads per operation; None chooses by the backbone's size.
        pipe: a backbone that is already loaded.

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
        self._embedders: Mapping[str, Embedder] = {
            spec.kind: spec.open(device) for spec in parse_embedders(plan.embedders)
        }
        opening = Opening(plan.device, plan.dtype, plan.codec, decoder=plan.decoder)
        provenance = provenance_of(self._preset, Labels())
        self._pipe, self._take_run = load_backbone(self._preset, opening, provenance, threads, pipe)

    def check(self) -> None:
        """Check every request against the backbone.

        Raises:
            ValueError: if it can't be made; names the arm, the prompt and what is expected.
        """
        for cell in self._plan.cells:
            if cell.seed == 0:
                self._pipe.check(self._plan.request(self._preset, cell))

    def unknown_words(self) -> list[str]:
        """Words of the prompts that the backbone has never read, without repeats."""
        prompts = {prompt for story in self._plan.stories for _, prompt in story.prompts}
        return sorted({word for prompt in prompts for word in self._pipe.unknown_words(prompt)})

    def finish(self, cells: Sequence[Cell]) -> None:
        """Make takes side by side and measure them, skipping what is already done.

        Args:
            cells: cells of one arm, with cues at the same times; see `batches`.

        Raises:
            TakeStopped: on KeyboardInterrupt while takes are made.
            TakeFailed: if disk or memory runs out meanwhile.
        """
        todo = [cell for cell in cells if not is_measured(self._run, cell)]
        asked = [(cell, self._plan.request(self._preset, cell)) for cell in todo]
        missing = [(cell, request) for cell, request in asked if not self._is_made(cell, request)]
        if missing:
            use_threads(self._pipe, self._threads)
            self._make([cell for cell, _ in missing], [request for _, request in missing])
        torch.set_num_threads(self._measuring_threads)
        for cell in todo:
            folder, settings = take_folder(self._run, cell), self._plan.measure_settings(cell.story)
            write_document(folder / MEASURES, measure(find_footage(folder), self._embedders, settings))

    def _is_made(self, cell: Cell, request: TakeRequest) -> bool:
        """Whether exactly this take exists, finished, with the hash of its noise."""
        folder = take_folder(self._run, cell)
        return (folder / NOISE).exists() and is_finished(folder, request, str(self._take_run.backbone_id))

    def _make(self, cells: Sequence[Cell], requests: Sequence[TakeRequest]) -> None:
        """Make takes and write the hashes of their noise, first removing remains of an interrupted run."""
        folders = [take_folder(self._run, cell) for cell in cells]
        for folder in folders:
            if folder.exists():
                shutil.rmtree(folder)
        noise = RecordedNoise(PhiloxNoise([cell.seed for cell in cells]), len(cells))

        def keep_hash(number: int) -> None:
            facts = Noise(sha256=noise.sha256(number), draws=noise.draws, source=PhiloxNoise.name)
            write_document(folders[number] / NOISE, facts)

        timeline, frames = self._pipe.timeline(requests[0]), requests[0].context.memory_frames
        choosers = [chooser_of(cell.arm.retrieval, cell.story, cell.seed, timeline, frames) for cell in cells]

        def show(block: Block) -> None:
            for chooser, pixels in zip(choosers, block.pixels.numpy(), strict=True):
                if isinstance(chooser, RightFrames):
                    chooser.see(last_pixels(timeline, block.frames, pixels))

        make_together(
            self._pipe, requests, folders, self._take_run, None, show, keep_hash, noise, _choice_of_all(choosers)
        )


def _choice_of_all(choosers: Sequence[Chooser | None]) -> Choose | None:
    """Combine the choosers of a batch's takes, each choosing as if alone; None if takes use their own policy."""
    known = [each for each in choosers if each is not None]
    return (lambda take, block, candidates: known[take](block, candidates)) if known else None


def batches(cells: Sequence[Cell], size: int) -> list[tuple[Cell, ...]]:
    """Group takes that can be made side by side, up to `size`: same arm and start image, cues at the same times."""
    groups: dict[Any, list[tuple[int, Cell]]] = {}
    for place, cell in enumerate(cells):
        times = tuple(second for second, _ in cell.story.cues), cell.story.cuts
        groups.setdefault((cell.arm.name, times, cell.story.start_image), []).append((place, cell))
    chunks = [group[start : start + size] for group in groups.values() for start in range(0, len(group), size)]
    return [tuple(cell for _, cell in chunk) for chunk in sorted(chunks, key=lambda chunk: chunk[0][0])]
