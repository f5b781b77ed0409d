"""By region: of frames that look like the block, those in which each part of it is found again.

Idea: an embedding of a whole frame is mostly of the place; a small character counts as much as it covers. So the parts
of the block's own estimate are held against the parts of each frame, wherever they are in it, and what stands out
counts more than what is everywhere. Source: late interaction (MaxSim) of ColBERT (Khattab and Zaharia, 2020), on
latents.
Cost: that of looking ahead, a search `DEEPER` times as deep, and the latents of so many frames read in every block.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from retrieval.policies.past import Past, PolicyError
from retrieval.policy import unit

DEEPER, GRID = 8, 8


def regions(past: Past) -> list[int]:
    """The frames, among `DEEPER` times as many most similar ones, in which most of the block's parts are found."""
    if past.now is None:
        raise PolicyError("policy regions needs the latents of what is made now, and this memory has none")
    frames = [frame for frame, _ in past.most_similar(DEEPER * past.limit)]
    asked = parts(past.now[None])[0]
    weight = np.linalg.norm(asked, axis=-1)
    found = unit(parts(past.latents(frames)))
    likeness = np.einsum("qc,nkc->nqk", unit(asked), found).max(axis=2)
    scores = likeness @ (weight / max(float(weight.sum()), np.finfo(np.float32).tiny))
    order = sorted(range(len(frames)), key=lambda place: (-float(scores[place]), frames[place]))
    return [frames[place] for place in order[: past.limit]]


def parts(latents: NDArray[np.float32]) -> NDArray[np.float32]:
    """[N, C, h, w] to [N, parts, C]: means of up to `GRID` x `GRID` parts, less the frame's own mean."""
    rows, columns = min(GRID, latents.shape[2]), min(GRID, latents.shape[3])
    means = F.adaptive_avg_pool2d(torch.from_numpy(np.ascontiguousarray(latents)), (rows, columns)).flatten(2)
    return (means - means.mean(dim=2, keepdim=True)).transpose(1, 2).numpy()


regions.looks_ahead = True  # type: ignore[attr-defined]
