"""Records of a take in a comparison: its measures, and the noise it was made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

from pydantic import model_validator

from eval.drift import Drift
from eval.protocols import LongConsistency
from eval.traits import KeptTraits
from longlive_rag.documents import Sealed

Curve = list[float | None]
"""One figure per second or per frame; None if no subject is seen."""


class Noise(Sealed):
    """`noise.json`: two takes were made from the same noise if and only if their hashes are equal."""

    sha256: str
    draws: int
    source: str


@dataclass(frozen=True)
class Video:
    """The measured file."""

    name: str
    width: int
    height: int
    fps: float
    frames: int
    seconds: float


@dataclass(frozen=True)
class Adherence:
    """Mean cosine of a prompt's frames to that prompt; None if no frame was embedded."""

    start_s: float
    end_s: float
    prompt: str
    cosine: float | None


@dataclass(frozen=True)
class Traits(KeptTraits):
    """Traits at a horizon, and what else the oracle says.

    Attributes:
        distinct_characters: number of characters seen up to the horizon.
        place_as_named: share of the frames up to it that show the named place.
        more_than_named: share of the last 5 s that show more characters than are named.

    Takes measured before the last two existed have none.
    """

    distinct_characters: int = field(kw_only=True)
    place_as_named: float | None = field(default=None, kw_only=True)
    more_than_named: float | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class Series:
    """The field's measures of a per-frame series; None if it is too short, or begins at 0."""

    start_end_contrast: float
    spread: float | None
    weighted_drift: float | None


@dataclass(frozen=True)
class Consistency:
    """VBench's formula over all frames, and VBench-Long's parts."""

    vbench: float
    vbench_long: LongConsistency


@dataclass(frozen=True)
class FusedConsistency(LongConsistency):
    """VBench-Long's score of the subject; `fused` is None if the fast score is missing or off the table."""

    fused: float | None


@dataclass(frozen=True)
class Protocols:
    """The field's measures up to a horizon: consistency by embedder, series by name.

    Attributes:
        last_consistency: by embedder, of the last 5 s alone; None if a frame of theirs shows no subject.
        cosine_to_first: by embedder, mean cosine of the last 5 s to the first frame; None if no subject is seen.

    Takes measured before these two existed have none.
    """

    horizon_s: float
    consistency: dict[str, Consistency]
    vbench_long_subject: FusedConsistency | None
    series: dict[str, Series]
    last_consistency: dict[str, float | None] = field(default_factory=dict)
    cosine_to_first: dict[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Curves:
    """Means over every second, at its middle: cosine to the reference and to the first frame by embedder, and looks.

    Takes measured before `cosine_to_first` existed have none.
    """

    seconds: list[float]
    cosine: dict[str, Curve]
    motion: Curve
    sharpness: Curve
    exposure: Curve
    saturation: Curve
    cosine_to_first: dict[str, Curve] = field(default_factory=dict)

    def __post_init__(self) -> None:
        looks = {name: getattr(self, name) for name in ("motion", "sharpness", "exposure", "saturation")}
        for curves in (self.cosine, self.cosine_to_first, looks):
            _check_lengths(self.seconds, curves)


@dataclass(frozen=True)
class PerFrame:
    """All embedded frames: their times, and cosines to the reference by embedder."""

    seconds: list[float]
    cosine: dict[str, Curve]

    def __post_init__(self) -> None:
        _check_lengths(self.seconds, self.cosine)


class Measures(Sealed):
    """`measures.json`; takes measured in an older format are measured again.

    Attributes:
        horizons_s, measured_at_s: seconds; they differ if a video ends just before a horizon.
        origin_s: when the subject is first seen as it should be.
        embedders: descriptions of the embedders, by name.
        drift: by embedder, one per horizon.
        companions: one per horizon: `horizon_s`, and a figure by metric, or None.
        adherence: by embedder that reads prompts, one per prompt, or two if a horizon splits it.
        traits: one per horizon; empty if no embedder reads them.
        protocols: one per horizon.
    """

    FORMAT: ClassVar[int] = 4
    format: Literal[4] = 4  # type: ignore[assignment]
    video: Video
    horizons_s: tuple[float, ...]
    measured_at_s: tuple[float, ...]
    origin_s: float
    embed_every: int
    embedders: dict[str, dict[str, Any]]
    drift: dict[str, list[Drift]]
    companions: list[dict[str, float | None]]
    adherence: dict[str, list[Adherence]]
    traits: list[Traits]
    protocols: list[Protocols]
    curves: Curves
    per_frame: PerFrame

    @model_validator(mode="after")
    def _has_every_frame(self) -> Self:
        if not self.embedders or self.embedders.keys() != self.per_frame.cosine.keys():
            known, measured = (", ".join(names) or "none" for names in (self.embedders, self.per_frame.cosine))
            raise ValueError(f"its embedders are {known}, but per_frame has figures of {measured}")
        return self


def _check_lengths(seconds: list[float], curves: Mapping[str, Curve]) -> None:
    for name, curve in curves.items():
        if len(curve) != len(seconds):
            raise ValueError(f"{name} has {len(curve)} figures for {len(seconds)} times")
