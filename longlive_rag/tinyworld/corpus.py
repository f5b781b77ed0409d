"""Encoded scripts, on which the backbone and the retrieval encoder are trained."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from numpy.typing import NDArray
from torch import Tensor

from backbone.vae import FRAMES_PER_LATENT, encode_video
from longlive_rag.tinyworld.grammar import MEETS, sentence_text, template_count
from longlive_rag.tinyworld.scripts import BLOCK_PX, FIRST_BLOCK_PX, block_frame, sample_script
from longlive_rag.tinyworld.train_vae import to_model
from longlive_rag.tinyworld.world import Script, actor_cover, render

CELL_PX = 8  # the VAE's spatial compression
ENCODED_FRAMES = 1200  # pixel frames encoded together
ENTRANCES = ("returns", MEETS)


@dataclass(frozen=True)
class CorpusSize:
    """Number of scripts, blocks per script, and the seed they are drawn from."""

    scripts: int
    blocks: int
    seed: int


LONG = CorpusSize(scripts=400, blocks=16, seed=7)
"""Long enough for a character to leave, drop out of the window, and return."""
OPENINGS = CorpusSize(scripts=2000, blocks=3, seed=8)
"""Many short scripts, so that every sentence is seen with many hidden traits."""


@dataclass(frozen=True)
class Corpus:
    """Encoded scripts.

    Attributes:
        latents: [N, C, T, h, w], normalised.
        scripts: what each shows.
        blocks: number of blocks in each.
        replay: the model's own latest prediction of every frame, like `latents`; the truth until there is one. It is
            not part of a checkpoint: a resumed run refills it.
        actors: [N, T, h, w] in 0..1, the share of each cell that actors cover.
        entrances: [M, 2] (script, block) of blocks in which someone enters the picture.
        moves: [M, 2] (script, block) of blocks in which the place changes.
    """

    latents: Tensor
    scripts: list[Script]
    blocks: int
    replay: Tensor = field(init=False)
    actors: Tensor = field(init=False)
    entrances: np.ndarray = field(init=False)
    moves: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "replay", self.latents.clone())
        object.__setattr__(self, "actors", torch.stack([_latent_cover(script) for script in self.scripts]))
        entered = [
            (index, cue.frame)
            for index, script in enumerate(self.scripts)
            for actor in script.actors
            for cue in actor.cues
            if cue.action in ENTRANCES
        ]
        moved = [(index, frame) for index, script in enumerate(self.scripts) for frame, _ in script.places]
        object.__setattr__(self, "entrances", self._blocks_from(entered))
        object.__setattr__(self, "moves", self._blocks_from(moved))

    def _blocks_from(self, cues: list[tuple[int, int]]) -> np.ndarray:
        """Return (script, block) of the two blocks from each cue (script, pixel frame) on; none for frame 0."""
        found = [
            (index, (frame - FIRST_BLOCK_PX) // BLOCK_PX + 1 + after)
            for index, frame in cues
            if frame > 0
            for after in (0, 1)
        ]
        return np.array([(index, block) for index, block in found if block < self.blocks]).reshape(-1, 2)

    def prompt(self, index: int, block: int, rng: np.random.Generator) -> str:
        """Return the prompt of script `index` at `block`, in a random word order."""
        return sentence_text(self.scripts[index].sentence(block_frame(block)), int(rng.integers(template_count())))


def _latent_cover(script: Script) -> Tensor:
    """Return `actor_cover` by latent frame [T, h, w]: the first spans one pixel frame, the others four."""
    cover = torch.from_numpy(actor_cover(script, CELL_PX))
    later = cover[1:].unflatten(0, (-1, FRAMES_PER_LATENT)).mean(1)
    return torch.cat([cover[:1], later])


def render_scripts(scripts: Sequence[Script]) -> Iterator[NDArray[np.uint8]]:
    """Yield the frames [F, 64, 64, 3] of each script in order, drawn by one process per core."""
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(render, scripts, chunksize=4)


def make_corpus(
    vae: AutoencoderKLWan,
    path: Path,
    size: CorpusSize,
    report: Callable[[str], None],
    sample: Callable[[np.random.Generator, int], Script] = sample_script,
) -> Corpus:
    """Render and encode scripts drawn by `sample`, or read from `path` (.npy) what an earlier run encoded."""
    rng = np.random.default_rng(size.seed)
    frames = block_frame(size.blocks)
    scripts = [sample(rng, frames) for _ in range(size.scripts)]
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        together = max(1, ENCODED_FRAMES // frames)
        encoded: list[NDArray[np.float16]] = []
        shown = render_scripts(scripts)
        while pixels := list(islice(shown, together)):
            with torch.no_grad():
                latents = encode_video(vae, to_model(np.stack(pixels)).to(vae.device))
            encoded.append(latents.cpu().half().numpy())
            report(f"encoded {sum(map(len, encoded))} of {size.scripts} scripts of {frames} frames")
        unfinished = path.with_suffix(".tmp.npy")
        np.save(unfinished, np.concatenate(encoded))
        unfinished.replace(path)
    return Corpus(torch.from_numpy(np.load(path)).float(), scripts, size.blocks)
