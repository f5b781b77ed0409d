"""How often the oracle is right: on rendered frames, and on the same frames blurred, noisy, or through the VAE."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from longlive_rag.tinyworld.oracle import TRAITS, Sighting, read_frame, true_value
from longlive_rag.tinyworld.scripts import sample_script
from longlive_rag.tinyworld.train_vae import reconstruct, to_model, to_pixels
from longlive_rag.tinyworld.world import SIZE_PX, Character, Script, render

CLIP_FRAMES, READ_EVERY, SCRIPT_FRAMES = 17, 4, 160
BLUR_PX, NOISE_LEVELS = 0.8, 10.0
MATCH_PX, INSIDE_PX = 6.0, 15.0
CONDITIONS = ("clean", "blurred", "noisy", "vae")
SEED = 90_011


def validate_oracle(vae: AutoencoderKLWan, clips: int, progress: Callable[[int], None], seed: int = SEED) -> dict:
    """Read `clips` random clips in each condition.

    A reading counts as right if its value is the truth, sure or not; a character that isn't found counts as wrong.
    Characters within 15 pixels of the picture's side are left out (the edge may cut them off), as are frames whose
    number of characters is ambiguous for that reason.

    Returns:
        For each condition: `right`, `unsure`, `right_if_sure` by trait, `confusion` by trait ("truth -> read": count),
        `presence_right` (share of frames with the right number of characters), `characters` and `frames` read.
    """
    tallies: dict[str, _Tally] = {condition: _Tally() for condition in CONDITIONS}
    rng = np.random.default_rng(seed)
    for _ in range(clips):
        script = sample_script(rng, SCRIPT_FRAMES)
        start = int(rng.integers(SCRIPT_FRAMES - CLIP_FRAMES))
        pixels = render(script, start, start + CLIP_FRAMES)
        versions = {
            "clean": pixels,
            "blurred": _blurred(pixels),
            "noisy": np.clip(pixels + rng.normal(0, NOISE_LEVELS, pixels.shape), 0, 255).astype(np.uint8),
            "vae": through_vae(vae, pixels),
        }
        for frame in range(0, CLIP_FRAMES, READ_EVERY):
            truth = _truth(script, start + frame)
            if truth is not None:
                for condition, version in versions.items():
                    tallies[condition].add(truth, read_frame(version[frame]))
        progress(1)
    return {
        **{condition: tally.figures() for condition, tally in tallies.items()},
        "settings": {"clips": clips, "seed": seed, "blur_px": BLUR_PX, "noise_levels": NOISE_LEVELS},
    }


class _Tally:
    def __init__(self) -> None:
        self.frames = self.counted_right = 0
        self.answers: dict[str, list[tuple[bool, bool]]] = defaultdict(list)  # by trait: (right, sure)
        self.confusion: dict[str, Counter[str]] = defaultdict(Counter)

    def add(self, truth: list[tuple[float, Character]], seen: tuple[Sighting, ...]) -> None:
        self.frames += 1
        self.counted_right += len(truth) == len(seen)
        for x, who in truth:
            near = [each for each in seen if abs(each.centre[0] * SIZE_PX - x) < MATCH_PX]
            for trait in TRAITS:
                true = true_value(who, trait)
                read = getattr(near[0], trait) if near else None
                self.answers[trait].append((read is not None and read.value == true, read is not None and read.sure))
                self.confusion[trait][f"{true} -> {read.value if read else 'not found'}"] += 1

    def figures(self) -> dict[str, Any]:
        return {
            "frames": self.frames,
            "characters": len(self.answers[TRAITS[0]]),
            "presence_right": self.counted_right / max(1, self.frames),
            "right": {trait: _share([right for right, _ in self.answers[trait]]) for trait in TRAITS},
            "unsure": {trait: _share([not sure for _, sure in self.answers[trait]]) for trait in TRAITS},
            "right_if_sure": {
                trait: _share([right for right, sure in self.answers[trait] if sure]) for trait in TRAITS
            },
            "confusion": {trait: dict(sorted(self.confusion[trait].items())) for trait in TRAITS},
        }


def _truth(script: Script, frame: int) -> list[tuple[float, Character]] | None:
    """Return (x on the screen, character) of everyone entirely in the picture; None if someone is partly in it."""
    shift = float(script.camera.shift_px(frame, frame + 1)[0])
    found = []
    for actor, track in zip(script.actors, script.tracks(frame + 1), strict=True):
        x = float(track.x[frame]) - shift
        if INSIDE_PX <= x <= SIZE_PX - INSIDE_PX:
            found.append((x, actor.character))
        elif -INSIDE_PX < x < SIZE_PX + INSIDE_PX:
            return None
    return found


def _blurred(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    blur = ImageFilter.GaussianBlur(BLUR_PX)
    return np.stack([np.asarray(Image.fromarray(frame).filter(blur)) for frame in pixels])


@torch.no_grad()
def through_vae(vae: AutoencoderKLWan, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pixels [F, H, W, 3] uint8 as the VAE reconstructs them, in the same form."""
    return to_pixels(reconstruct(vae, to_model(pixels[None]))[0])


def _share(values: list[bool]) -> float | None:
    return sum(values) / len(values) if values else None
