"""Who loses a trait, the oracle or the backbone? What docs/drift.md's yardstick says of films that lose nothing.

    python docs/truth.py

The world itself draws 30 s of a story for each subject of the report, and the oracle reads it as it is and through
tiny-world's VAE, by the rules for takes; and how much of each film repeats itself. Then, of the published takes with
establishing shots: which traits they had lost at 120 s, because another value was read, or none for sure. Some minutes
on a CPU core.
"""

from __future__ import annotations

import json
import lzma
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from eval.companions import LooksMeter, last_repetition, repetition
from eval.embedders import TINY_WORLD
from eval.oracle import OracleEmbedder
from eval.takes import TAKES_FILE
from eval.traits import KeptTraits, kept_traits
from eval.windows import DriftWindows, within
from longlive_rag import LongLiveRAGPipeline, find_folder
from longlive_rag.tinyworld.grammar import parse
from longlive_rag.tinyworld.motion import Cue
from longlive_rag.tinyworld.validate import through_vae
from longlive_rag.tinyworld.world import Script, render, script_for

DRIFT = Path(__file__).parent / "drift"
PUBLISHED = {"walk-away-and-return": "return", "long-stare": "stare"}
ARM, HORIZON_S = "establish", 120.0
FPS, FRAMES, READ_EVERY = 16, 477, 4  # 120 latent frames decode to 477
STORIES = {
    "walk-away-and-return": ((0, "returns"), (5, "walks"), (15, "leaves"), (21, "returns")),
    "long-stare": ((0, "stands"),),
}
WINDOWS = {"walk-away-and-return": DriftWindows(5.0), "long-stare": DriftWindows()}


def film(subject: dict[str, str], story: str, seed: int) -> Script:
    """A story about a subject, with hidden traits drawn from `seed`."""
    cues = tuple(Cue(second * FPS, action) for second, action in STORIES[story])
    script = script_for(parse(f"{subject['who']} {cues[0].action} {subject['where']}"), FRAMES, seed)
    return replace(script, actors=(replace(script.actors[0], cues=cues),))


def kept_by(video: NDArray[np.uint8], oracle: OracleEmbedder, windows: DriftWindows) -> KeptTraits:
    """What a video [F, 64, 64, 3] keeps until its end; frames outside the two windows aren't read."""
    seconds = np.arange(0, len(video), READ_EVERY) / FPS
    end_s = len(video) / FPS
    counts = within(seconds, windows.opening) | within(seconds, windows.last(end_s))
    readings = iter(oracle.trait_values(oracle.embed(video[::READ_EVERY][counts])))
    return kept_traits([next(readings) if one else {} for one in counts], seconds, end_s, list(oracle.traits), windows)


def repeated(video: NDArray[np.uint8]) -> tuple[float, float]:
    """Share of a video's seconds, and of its last 5, that repeat what it showed before."""
    meter, seconds = LooksMeter(), np.arange(len(video)) / FPS
    meter.add(video)
    return repetition(meter.looks(), seconds), last_repetition(meter.looks(), seconds, len(video) / FPS)


def published(file: Path) -> list[KeptTraits]:
    """What the takes of an arm in a published comparison kept until the horizon."""
    names = [field.name for field in fields(KeptTraits)]
    with lzma.open(file, "rt", encoding="utf-8") as lines:
        takes = [take for take in map(json.loads, lines) if take["name"].startswith(f"{ARM}/")]
    return [
        KeptTraits(**{name: kept[name] for name in names})
        for take in takes
        for kept in take["measures"]["traits"]
        if kept["horizon_s"] == HORIZON_S
    ]


def lost_traits(found: KeptTraits, traits: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(how, trait) of each trait that isn't kept."""
    for trait in traits:
        values = found.opening.get(trait), found.last.get(trait)
        if None in values:
            yield "unsure", trait
        elif values[0] != values[1]:
            yield "other value", trait


def line(name: str, found: Sequence[KeptTraits], traits: Collection[str]) -> str:
    """How many keep all traits, and what the others lost."""
    lost = Counter(one for each in found for one in lost_traits(each, traits))
    told = ", ".join(f"{trait} {count} ({how})" for (how, trait), count in lost.most_common())
    return f"{name}: {sum(each.all_kept for each in found)} of {len(found)} keep all traits; lost: {told or 'none'}"


def main() -> None:
    """Print what is kept, and which traits are lost, of every story."""
    oracle = cast(OracleEmbedder, TINY_WORLD.open("", "cpu"))
    vae = LongLiveRAGPipeline.from_pretrained(find_folder("tiny-world")).vae
    subjects = json.loads((DRIFT / "subjects.json").read_text(encoding="utf-8"))
    for story, windows in WINDOWS.items():
        drawn = [render(film(subject, story, seed)) for seed, subject in enumerate(subjects)]
        for name, videos in (("as drawn", drawn), ("through the VAE", [through_vae(vae, one) for one in drawn])):
            films = [kept_by(video, oracle, windows) for video in videos]
            print(line(f"{story}, films {name}", films, oracle.traits), flush=True)
            whole, last = np.mean([repeated(video) for video in videos], axis=0)
            print(f"{story}, films {name}: {whole:.0%} of their seconds repeat, {last:.0%} of the last 5", flush=True)
        ends = published(DRIFT / PUBLISHED[story] / TAKES_FILE)
        print(line(f"{story}, takes with establishing shots", ends, oracle.traits), flush=True)


if __name__ == "__main__":
    main()
