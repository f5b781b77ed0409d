"""A memory of what it has itself generated, for autoregressive video models.

Every public name is importable from here; it is loaded when it is first used, so that `import longlive_rag`
is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from longlive_rag.version import __version__

if TYPE_CHECKING:
    from backbone.config import ContextConfig, SamplerConfig
    from longlive_rag.config import CheckpointConfig, Cue, MemoryConfig, OutputConfig, Steering, TakeRequest
    from longlive_rag.generation.block import Block
    from longlive_rag.generation.cues import Schedule
    from longlive_rag.media.video import VideoWriter
    from longlive_rag.pipeline import LongLiveRAGOutput, LongLiveRAGPipeline
    from longlive_rag.presets.preset import Preset
    from longlive_rag.rights.policy import LicenseError
    from longlive_rag.rights.provenance import Provenance
    from longlive_rag.sessions.live import LiveTake
    from longlive_rag.takes.cue_files import CueFile, read_cues, write_cues
    from longlive_rag.takes.writer import TakeRun, TakeWriter
    from longlive_rag.timeline import Timeline
    from retrieval.selection import Selection
    from retrieval.store import LatentStore, LatentWriter

_MODULES = {
    "Block": "longlive_rag.generation.block",
    "CheckpointConfig": "longlive_rag.config",
    "Choose": "retrieval.memory",
    "ContextConfig": "backbone.config",
    "Cue": "longlive_rag.config",
    "CueFile": "longlive_rag.takes.cue_files",
    "LatentStore": "retrieval.store",
    "LatentWriter": "retrieval.store",
    "LicenseError": "longlive_rag.rights.policy",
    "LiveTake": "longlive_rag.sessions.live",
    "LongLiveRAGOutput": "longlive_rag.pipeline",
    "LongLiveRAGPipeline": "longlive_rag.pipeline",
    "MemoryConfig": "longlive_rag.config",
    "OutputConfig": "longlive_rag.config",
    "Preset": "longlive_rag.presets.preset",
    "Provenance": "longlive_rag.rights.provenance",
    "SamplerConfig": "backbone.config",
    "Schedule": "longlive_rag.generation.cues",
    "Selection": "retrieval.selection",
    "Steering": "longlive_rag.config",
    "TakeRequest": "longlive_rag.config",
    "TakeRun": "longlive_rag.takes.writer",
    "TakeWriter": "longlive_rag.takes.writer",
    "Timeline": "longlive_rag.timeline",
    "VideoWriter": "longlive_rag.media.video",
    "read_cues": "longlive_rag.takes.cue_files",
    "write_cues": "longlive_rag.takes.cue_files",
}

__all__ = [
    "Block",
    "CheckpointConfig",
    "Choose",
    "ContextConfig",
    "Cue",
    "CueFile",
    "LatentStore",
    "LatentWriter",
    "LicenseError",
    "LiveTake",
    "LongLiveRAGOutput",
    "LongLiveRAGPipeline",
    "MemoryConfig",
    "OutputConfig",
    "Preset",
    "Provenance",
    "SamplerConfig",
    "Schedule",
    "Selection",
    "Steering",
    "TakeRequest",
    "TakeRun",
    "TakeWriter",
    "Timeline",
    "VideoWriter",
    "__version__",
    "read_cues",
    "write_cues",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
