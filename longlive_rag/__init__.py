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
    from longlive_rag.cue_files import CueFile, read_cues, write_cues
    from longlive_rag.cues import Schedule
    from longlive_rag.live import LiveTake
    from longlive_rag.pipeline import Block, LongLiveRAGOutput, LongLiveRAGPipeline
    from longlive_rag.presets import Preset
    from longlive_rag.rights.policy import LicenseError
    from longlive_rag.rights.provenance import Provenance
    from longlive_rag.take import TakeRun, TakeWriter
    from longlive_rag.timeline import Timeline
    from longlive_rag.video import VideoWriter
    from retrieval.selection import Selection
    from retrieval.store import LatentStore, LatentWriter

_MODULES = {
    "Block": "longlive_rag.pipeline",
    "CheckpointConfig": "longlive_rag.config",
    "Choose": "retrieval.memory",
    "ContextConfig": "backbone.config",
    "Cue": "longlive_rag.config",
    "CueFile": "longlive_rag.cue_files",
    "LatentStore": "retrieval.store",
    "LatentWriter": "retrieval.store",
    "LicenseError": "longlive_rag.rights.policy",
    "LiveTake": "longlive_rag.live",
    "LongLiveRAGOutput": "longlive_rag.pipeline",
    "LongLiveRAGPipeline": "longlive_rag.pipeline",
    "MemoryConfig": "longlive_rag.config",
    "OutputConfig": "longlive_rag.config",
    "Preset": "longlive_rag.presets",
    "Provenance": "longlive_rag.rights.provenance",
    "SamplerConfig": "backbone.config",
    "Schedule": "longlive_rag.cues",
    "Selection": "retrieval.selection",
    "Steering": "longlive_rag.config",
    "TakeRequest": "longlive_rag.config",
    "TakeRun": "longlive_rag.take",
    "TakeWriter": "longlive_rag.take",
    "Timeline": "longlive_rag.timeline",
    "VideoWriter": "longlive_rag.video",
    "read_cues": "longlive_rag.cue_files",
    "write_cues": "longlive_rag.cue_files",
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
