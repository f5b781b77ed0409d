"""Whether a cue shows: what a new prompt changes within two seconds, and whether the character stays the same.

Half of the takes are cued to another action, the others to another place. The same takes are also made without a cue,
because hidden traits change by themselves, too.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longlive_rag.config import Cue
from longlive_rag.pipeline import LongLiveRAGPipeline
from longlive_rag.tinyworld.evaluate import PROMPT_SEED, Keep, Progress, unseen_sentences
from longlive_rag.tinyworld.grammar import PLACES, Sentence
from longlive_rag.tinyworld.measure import Reading, agreement, hidden_traits, read_take, shows_action
from longlive_rag.tinyworld.oracle import read_place
from longlive_rag.tinyworld.scripts import block_frame
from longlive_rag.tinyworld.world import FPS

CUE_BLOCK = 7
WITHIN_S, TRAITS_S = 2.0, 2.0
ACTIONS = ("walks", "jumps", "turns", "leaves")


def measure_cues(
    pipe: LongLiveRAGPipeline, takes: int, batch: int, progress: Progress, keep: Keep, memory: bool = True
) -> dict[str, Any]:
    """Measure takes of one cue each, and the same takes without it.

    Returns:
        `shown` (share of takes whose cue shows within two seconds: all, of an action, of a place), and `agreement` of
        the hidden traits in the two seconds before the cue with those two to four seconds after it, with and without.
    """
    pairs = cue_pairs(takes)
    rows = []
    for start in range(0, takes, batch):
        together = pairs[start : start + batch]
        cued = _make(pipe, together, start, memory, True)
        uncued = _make(pipe, together, start, memory, False)
        for index, ((first, then), video, control) in enumerate(zip(together, cued, uncued, strict=True), start):
            keep(f"{first} / {then}", video)
            rows.append(_figures(index, first, then, video, control))
        progress(len(together))

    def shown(kind: str | None = None) -> float:
        return float(np.mean([row["shown"] for row in rows if kind in (None, row["kind"])]))

    return {
        "shown": shown(), "shown_action": shown("action"), "shown_place": shown("place"),
        "agreement": _share(rows, "agreement"), "agreement_without_cue": _share(rows, "agreement_without_cue"),
        "within_seconds": WITHIN_S, "cue_at_block": CUE_BLOCK, "memory": memory, "prompt_seed": PROMPT_SEED,
        "seeds": f"0..{takes - 1}", "takes": rows,
    }  # fmt: skip


def cue_pairs(takes: int) -> list[tuple[Sentence, Sentence]]:
    """Return each take's sentences (before, after) the cue, which alternately changes the action and the place."""
    rng = np.random.default_rng(PROMPT_SEED)
    pairs = []
    for index, first in enumerate(unseen_sentences(takes, ("stands",))):
        if index % 2 == 0:
            then = replace(first, action=ACTIONS[index // 2 % len(ACTIONS)])
        else:
            then = replace(first, place=str(rng.choice([place for place in PLACES if place != first.place])))
        pairs.append((first, then))
    return pairs


def shows(first: Sentence, then: Sentence, video: NDArray[np.uint8], cue_frame: int) -> bool:
    """Whether what the cue changed can be seen within two seconds of it."""
    end = cue_frame + round(WITHIN_S * FPS)
    if first.place != then.place:
        return bool(read_place(video[end - 1]).value == then.place)
    return shows_action(then.action, read_take(video[:end]).between(cue_frame, end))


def _make(
    pipe: LongLiveRAGPipeline, pairs: list[tuple[Sentence, Sentence]], first_seed: int, memory: bool, cued: bool
) -> list[NDArray[np.uint8]]:
    cue_frame = block_frame(CUE_BLOCK)
    seconds = cue_frame / FPS + WITHIN_S + TRAITS_S
    settings = replace(pipe.memory, enabled=memory)
    requests = [
        pipe.request(
            str(first), seconds=seconds, seed=seed, memory=settings,
            cues=(Cue(cue_frame / FPS, str(then)),) if cued else (),
        )
        for seed, (first, then) in enumerate(pairs, first_seed)
    ]  # fmt: skip
    return list(pipe(requests).frames)


def _figures(
    seed: int, first: Sentence, then: Sentence, video: NDArray[np.uint8], control: NDArray[np.uint8]
) -> dict[str, Any]:
    cue_frame = block_frame(CUE_BLOCK)
    return {
        "prompt": str(first), "cue": str(then), "seed": seed,
        "kind": "action" if first.place == then.place else "place",
        "shown": shows(first, then, video, cue_frame),
        "agreement": _kept(read_take(video), cue_frame),
        "agreement_without_cue": _kept(read_take(control), cue_frame),
    }  # fmt: skip


def _kept(reading: Reading, cue_frame: int) -> dict[str, bool | None]:
    span, after = round(TRAITS_S * FPS), cue_frame + round(WITHIN_S * FPS)
    return agreement(
        hidden_traits(reading.between(cue_frame - span, cue_frame)),
        hidden_traits(reading.between(after, after + span)),
    )


def _share(rows: list[dict[str, Any]], name: str) -> float:
    return float(np.mean([value for row in rows for value in row[name].values() if value is not None]))
