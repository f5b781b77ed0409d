"""Retrieval memory for autoregressive video models: they look up what they generated earlier.

Every public name can be imported from here; each is loaded on first use, so that `import longlive_rag` is fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from longlive_rag.version import __version__

if TYPE_CHECKING:
    from backbone.config import ContextConfig, SamplerConfig
    from backbone.errors import FieldError
    from longlive_rag.config import CheckpointConfig, Cue, MemoryConfig, OutputConfig, Steering, TakeRequest
    from longlive_rag.generation.block import Block
    from longlive_rag.generation.cues import Schedule
    from longlive_rag.media.video import VideoWriter
    from longlive_rag.pipeline import LongLiveRAGOutput, LongLiveRAGPipeline
    from longlive_rag.presets.preset import Preset, find_folder, load_preset
    from longlive_rag.rights.policy import LicenseError
    from longlive_rag.rights.provenance import Provenance
    from longlive_rag.sessions.directing import LiveSession
    from longlive_rag.sessions.live import LiveTake
    from longlive_rag.sessions.making import NewTake, TakeFailed, TakeStopped, new_take
    from longlive_rag.sessions.opening import Labels, Opening
    from longlive_rag.sessions.resuming import Changes, branched_take, extended_take, open_take, resumed_take
    from longlive_rag.takes.cue_files import CueFile, read_cues, write_cues
    from longlive_rag.takes.record import TakeRecord, TakeRun, read_record
    from longlive_rag.takes.view import MemoryMap, Take
    from longlive_rag.takes.writer import TakeWriter
    from longlive_rag.timeline import Timeline
    from longlive_rag.weights.load import load_pipeline
    from retrieval.memory import Choose
    from retrieval.policies import Past
    from retrieval.selection import Selection
    from retrieval.store import LatentStore, LatentWriter

_MODULES = {
    "Block": "longlive_rag.generation.block",
    "branched_take": "longlive_rag.sessions.resuming",
    "Changes": "longlive_rag.sessions.resuming",
    "CheckpointConfig": "longlive_rag.config",
    "Choose": "retrieval.memory",
    "ContextConfig": "backbone.config",
    "Cue": "longlive_rag.config",
    "CueFile": "longlive_rag.takes.cue_files",
    "extended_take": "longlive_rag.sessions.resuming",
    "FieldError": "backbone.errors",
    "find_folder": "longlive_rag.presets.preset",
    "Labels": "longlive_rag.sessions.opening",
    "LatentStore": "retrieval.store",
    "LatentWriter": "retrieval.store",
    "LicenseError": "longlive_rag.rights.policy",
    "LiveSession": "longlive_rag.sessions.directing",
    "LiveTake": "longlive_rag.sessions.live",
    "load_pipeline": "longlive_rag.weights.load",
    "load_preset": "longlive_rag.presets.preset",
    "LongLiveRAGOutput": "longlive_rag.pipeline",
    "LongLiveRAGPipeline": "longlive_rag.pipeline",
    "MemoryConfig": "longlive_rag.config",
    "MemoryMap": "longlive_rag.takes.view",
    "new_take": "longlive_rag.sessions.making",
    "NewTake": "longlive_rag.sessions.making",
    "open_take": "longlive_rag.sessions.resuming",
    "Opening": "longlive_rag.sessions.opening",
    "OutputConfig": "longlive_rag.config",
    "Past": "retrieval.policies",
    "Preset": "longlive_rag.presets.preset",
    "Provenance": "longlive_rag.rights.provenance",
    "read_cues": "longlive_rag.takes.cue_files",
    "read_record": "longlive_rag.takes.record",
    "resumed_take": "longlive_rag.sessions.resuming",
    "SamplerConfig": "backbone.config",
    "Schedule": "longlive_rag.generation.cues",
    "Selection": "retrieval.selection",
    "Steering": "longlive_rag.config",
    "Take": "longlive_rag.takes.view",
    "TakeFailed": "longlive_rag.sessions.making",
    "TakeRequest": "longlive_rag.config",
    "TakeRecord": "longlive_rag.takes.record",
    "TakeRun": "longlive_rag.takes.record",
    "TakeStopped": "longlive_rag.sessions.making",
    "TakeWriter": "longlive_rag.takes.writer",
    "Timeline": "longlive_rag.timeline",
    "VideoWriter": "longlive_rag.media.video",
    "write_cues": "longlive_rag.takes.cue_files",
}

__all__ = [
    "Block",
    "Changes",
    "CheckpointConfig",
    "Choose",
    "ContextConfig",
    "Cue",
    "CueFile",
    "FieldError",
    "Labels",
    "LatentStore",
    "LatentWriter",
    "LicenseError",
    "LiveSession",
    "LiveTake",
    "LongLiveRAGOutput",
    "LongLiveRAGPipeline",
    "MemoryConfig",
    "MemoryMap",
    "NewTake",
    "Opening",
    "OutputConfig",
    "Past",
    "Preset",
    "Provenance",
    "SamplerConfig",
    "Schedule",
    "Selection",
    "Steering",
    "Take",
    "TakeFailed",
    "TakeRecord",
    "TakeRequest",
    "TakeRun",
    "TakeStopped",
    "TakeWriter",
    "Timeline",
    "VideoWriter",
    "__version__",
    "branched_take",
    "extended_take",
    "find_folder",
    "load_pipeline",
    "load_preset",
    "new_take",
    "open_take",
    "read_cues",
    "read_record",
    "resumed_take",
    "write_cues",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
