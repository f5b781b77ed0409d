"""A backbone whose drift is known: takes without memory turn into another character, takes with memory turn less."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from fakes import run_of, selection_of, write_backbone

from eval.plan import ARMS, Plan
from eval.scenarios import Story
from longlive_rag.config import TakeRequest
from longlive_rag.takes.record import TakeRun
from longlive_rag.timeline import Timeline
from tests.eval.clips import FPS, SIDE, character

PROMPTS = ("a red square walks", "a red square jumps", "a red square turns", "a red square stands")


class DriftingPipeline:
    """Behaves as the real pipeline does towards `eval`.

    Args:
        kept: by how much memory slows the drift: 1 is no drift with memory, 0 the same as without.
        fail_after: takes after which it raises `error`.
    """

    def __init__(self, kept: float = 0.8, fail_after: int = 10**9, error: BaseException | None = None) -> None:
        self.kept, self.fail_after, self.error = kept, fail_after, error
        self.encoder: object = "own"
        self.transformer = torch.nn.Linear(1, 1)
        self.made: list[TakeRequest] = []
        self.backbone = ""

    def take_run(self, **facts: object) -> TakeRun:
        return run_of(self.backbone, **facts)

    def check(self, request: TakeRequest) -> None:
        if "dragon" in request.prompt:
            raise ValueError("prompt is about a dragon; this backbone draws squares")

    def host_bytes_for_pages(self, request: TakeRequest) -> int:
        return 0

    def unknown_words(self, prompt: str) -> list[str]:
        return [word for word in prompt.split() if word == "quietly"]

    def timeline(self, request: TakeRequest) -> Timeline:
        return Timeline(request.pixel_frames, FPS, 3, 4)

    def stream(
        self, requests: Sequence[TakeRequest], *, stores, noise, then, choose=None, ahead=0
    ) -> Iterator[SimpleNamespace]:
        first = requests[0]
        timeline = self.timeline(first)
        frames = np.stack([self._frames(request) for request in requests])
        for index in range(timeline.blocks):
            if len(self.made) >= self.fail_after and index == 2 and self.error:
                raise self.error
            for step in range(2):
                noise(index, step, (3, 4, 2, 2))
            numbers = timeline.pixels_of(index)
            selection = selection_of(first, index)
            block = SimpleNamespace(
                index=index,
                frames=timeline.latents_of(index),
                pixel_frames=numbers,
                pixels=torch.from_numpy(frames[:, numbers.start : numbers.stop]),
                selections=(selection,) * len(requests) if selection else (),
                entered=None,
                prompt=first.prompt,
                cue=None,
                seconds={"denoise": 0.01},
                pages=None,
            )
            then(block)
            yield block
        self.made += requests

    def _frames(self, request: TakeRequest) -> np.ndarray:
        rng = np.random.default_rng([request.seed, zlib.crc32(request.prompt.encode())])
        pace = rng.uniform(0.6, 1.0)
        if request.context.memory_frames:
            pace *= 1 - self.kept * rng.uniform(0.5, 1.0)
        t = np.arange(request.pixel_frames) / FPS
        return character(request.seconds, np.clip(pace * t / request.seconds, 0, 1))


def slow_backbone(folder: Path) -> Path:
    """A backbone's folder from outside, at the clips' rate and size."""
    write_backbone(folder)
    index = json.loads((folder / "model_index.json").read_text())
    index["output"] = {"height": SIDE, "width": SIDE, "fps": FPS, "upscale": 1}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def plan_of(backbone: Path, arms: str = "native,memory", prompts: int = 4, **changes) -> Plan:
    """Plain prompts, two seeds, horizons of 10 and 20 s, by pixels."""
    stories = tuple(Story(f"plain-{n:03d}", "plain", PROMPTS[n % 4] + "!" * (n // 4)) for n in range(prompts))
    settings = {"seeds": 2, "horizons_s": (10.0, 20.0), "embedders": "pixels", "device": "cpu", **changes}
    settings.setdefault("stories", stories)
    settings.setdefault("exploratory", len(settings["stories"]) < 7)
    return Plan(str(backbone), tuple(ARMS[name] for name in arms.split(",")), **settings)
