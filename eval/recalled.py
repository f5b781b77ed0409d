"""What memory brought back: does it show the subject, and as it was? For comparison, what any past frame would show.

A memory can fail in two ways: the search finds nothing useful, or attention does not use what was found. Drift alone
can't distinguish these; this does. It is measured from the last cue before a horizon on, and also for the first seconds
of that span alone: right after a cue, the newest frame shows the past, not what is to come.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from backbone.config import ContextConfig
from eval.drift import Floats
from eval.measures import Measures
from eval.plan import Cell, Plan
from eval.windows import LAST_S
from longlive_rag.takes.record import TakeRecord
from longlive_rag.timeline import Timeline
from retrieval.selection import Selection, candidate_frames

AFTER_CUE_S = 2.0
SHOWN_FROM = 0.5
"""A frame shows the subject if its cosine to the reference is at least this; in tiny-world, half the traits."""


class Shown(NamedTuple):
    """What memory brought back in one take before a horizon.

    Attributes:
        seen: share of the frames that show the subject.
        likeness: mean cosine to the reference of those that show it; None if none does.
        seen_by_chance, likeness_by_chance: the same for all frames that could have been brought back.
        seen_at_cue: `seen` in the 2 s after the last cue; None if there is none, and in files of older versions.
    """

    seen: float
    likeness: float | None
    seen_by_chance: float
    likeness_by_chance: float | None
    seen_at_cue: float | None = None


@dataclass(frozen=True)
class Recalled:
    """Frames that an arm brought back before a horizon, over all takes of a scenario.

    They are those of blocks that begin between the last cue before the horizon and the horizon, or in the last 5 s
    before it if there is no cue. Frames of other takes are not included.

    Attributes:
        scenario, arm, horizon_s: scenario, arm and horizon.
        takes: number of takes in which frames were brought back in that time.
        seen, likeness, seen_by_chance, likeness_by_chance, seen_at_cue: as in `Shown`; means over takes.
    """

    scenario: str
    arm: str
    horizon_s: float
    takes: int
    seen: float
    likeness: float | None
    seen_by_chance: float
    likeness_by_chance: float | None
    seen_at_cue: float | None = None


def what_was_recalled(plan: Plan, shown: Mapping[str, Sequence[Shown | None]]) -> list[Recalled]:
    """Summarise what every arm with memory brought back before every horizon.

    Args:
        shown: what each take's memory brought back, one per horizon, by the cell's name.
    """
    found = []
    for scenario in plan.scenarios:
        stories = [story for story in plan.stories if story.scenario == scenario]
        for arm in plan.arms:
            cells = [Cell(arm, story, seed) for story in stories for seed in range(plan.seeds)]
            by_horizon = zip(*(shown[cell.name] for cell in cells), strict=True)
            for horizon_s, rows in zip(plan.horizons_s, by_horizon, strict=True):
                some = [row for row in rows if row is not None]
                if some:
                    found.append(Recalled(scenario, arm.name, horizon_s, len(some), *_mean(some)))
    return found


def timeline_of(record: TakeRecord) -> Timeline:
    """The timeline of a take in a comparison; ValueError if its record lacks the pixel frames per latent frame."""
    video = record.video
    if video.temporal_factor is None:
        raise ValueError("the record of a take in this comparison lacks video.temporal_factor; was it edited?")
    return Timeline(video.frames, video.fps, record.request.context.frames_per_block, video.temporal_factor)


def shown_by_take(measures: Measures, record: TakeRecord, embedder: str) -> list[Shown | None]:
    """What one take's memory brought back, and could have, before each horizon, according to `embedder`.

    None if nothing was brought back.
    """
    context, timeline, shots = record.request.context, timeline_of(record), record.shot_blocks
    cosines = cosine_of_latents(measures, timeline, embedder)
    found = []
    for horizon_s in measures.horizons_s:
        cues = [cue.seconds for cue in record.cues if cue.seconds < horizon_s]
        since = _selections(record, timeline, cues[-1] if cues else horizon_s - LAST_S, horizon_s)
        at_cue = _selections(record, timeline, cues[-1], min(cues[-1] + AFTER_CUE_S, horizon_s)) if cues else []
        found.append(_shown(cosines, since, at_cue, context, [timeline.latents_of(block).start for block in shots]))
    return found


def _shown(
    cosines: Floats,
    selections: Sequence[Selection],
    at_cue: Sequence[Selection],
    context: ContextConfig,
    shot_starts: Sequence[int],
) -> Shown | None:
    recalled, first = _frames_of(selections), _frames_of(at_cue)
    if not recalled:
        return None
    newest = max(*recalled, selections[-1].query_frame)
    if newest >= len(cosines):
        raise ValueError(
            f"a take's record says that frame {newest} was brought back; it has {len(cosines)} latent frames"
        )
    done, guard = selections[-1].query_frame + 1, context.recency_guard_frames
    shot_start = max(start for start in shot_starts if start <= done)
    past = candidate_frames(done, context.window_frames, context.sink_frames, guard, shot_start)
    at_once = _seen_and_likeness(cosines[first])[0] if first else None
    return Shown(*_seen_and_likeness(cosines[recalled]), *_seen_and_likeness(cosines[past]), at_once)


def _frames_of(selections: Sequence[Selection]) -> list[int]:
    """All frames brought back, except those of other takes."""
    return [frame for selection in selections for frame in selection.frames if frame >= 0]


def cosine_of_latents(measures: Measures, timeline: Timeline, embedder: str) -> Floats:
    """Mean cosine to the reference of every latent frame [latents], over its embedded pixel frames.

    NaN if the subject is not seen in them. A latent frame without embedded pixel frames has the value of the previous
    one.
    """
    seconds = np.array(measures.per_frame.seconds, np.float64)
    cosines = np.array(measures.per_frame.cosine[embedder], np.float64)
    latents = np.array([timeline.latent_at(round(second * timeline.fps)) for second in seconds])
    values = np.full(timeline.latent_frames, np.nan)
    for latent in range(timeline.latent_frames):
        here = cosines[latents == latent]
        if len(here):
            values[latent] = np.nan if np.isnan(here).all() else np.nanmean(here)
        elif latent:
            values[latent] = values[latent - 1]
    return values


def _selections(record: TakeRecord, timeline: Timeline, begin_s: float, end_s: float) -> list[Selection]:
    """The selections of blocks that begin in a span."""
    return [each for each in record.selections if begin_s <= timeline.starts_at(each.block) < end_s]


def _seen_and_likeness(cosines: NDArray[np.float64]) -> tuple[float, float | None]:
    seen = cosines >= SHOWN_FROM  # False for NaN
    return float(seen.mean()), float(cosines[seen].mean()) if seen.any() else None


def _mean(rows: Sequence[Shown]) -> Shown:
    """Average each column over the takes that have it."""
    seen, likeness, seen_by_chance, likeness_by_chance, seen_at_cue = np.array(rows, np.float64).T
    return Shown(
        float(seen.mean()),
        _mean_of_known(likeness),
        float(seen_by_chance.mean()),
        _mean_of_known(likeness_by_chance),
        _mean_of_known(seen_at_cue),
    )


def _mean_of_known(values: Floats) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None
