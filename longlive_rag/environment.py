"""The only place that reads the environment, the user's config file and installed plug-ins.

The config file is `~/.config/longlive-rag/config.toml` (or the file named by LONGLIVE_RAG_CONFIG):

    license_policy = "commercial"
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from pathlib import Path
from typing import Any

from backbone.errors import FieldError

POLICY_VARIABLE = "LONGLIVE_RAG_LICENSE_POLICY"
CONFIG_VARIABLE = "LONGLIVE_RAG_CONFIG"
COMPILED_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
MODELS_VARIABLE = "LONGLIVE_RAG_MODELS"
API_KEY_VARIABLE = "LONGLIVE_RAG_API_KEY"
RAY_VARIABLE = "RAY_ADDRESS"
GPUS_VARIABLE = "CUDA_VISIBLE_DEVICES"
PLUGINS = {
    "policy": "longlive_rag.policies",
    "embedder": "longlive_rag.embedders",
    "metric": "longlive_rag.metrics",
    "checkpoint layout": "longlive_rag.checkpoint_layouts",
}
"""Maps each kind of plug-in to its entry point group. The built-in ones are registered the same way."""


@dataclass(frozen=True)
class Config:
    """The fields of the config file; None if it doesn't set them."""

    license_policy: str | None = None


def config_file() -> Path:
    """The user's config file; it need not exist."""
    named = os.environ.get(CONFIG_VARIABLE)
    if named:
        return Path(named)
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "longlive-rag" / "config.toml"


def cache_folder() -> Path:
    """The folder for files that can be recreated."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "longlive-rag"


def keep_compiled() -> Path:
    """Set and return where torch keeps compiled code: TORCHINDUCTOR_CACHE_DIR, else the user's cache."""
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    if os.environ.get(COMPILED_VARIABLE, "") in ("", default_cache_dir()):  # torch may have set its default itself
        os.environ[COMPILED_VARIABLE] = str(cache_folder() / "compiled")
    return Path(os.environ[COMPILED_VARIABLE])


def models_folder() -> Path:
    """The folder of fetched backbones, with a subfolder for each: LONGLIVE_RAG_MODELS, else `models` here."""
    return Path(os.environ.get(MODELS_VARIABLE) or "models")


def use_gpu(number: int) -> None:
    """Restrict this process to one of its visible GPUs, by number. Call before CUDA is initialised."""
    visible = os.environ.get(GPUS_VARIABLE)
    os.environ[GPUS_VARIABLE] = visible.split(",")[number] if visible else str(number)


def stated_api_key() -> str | None:
    """The API key set in the environment, if any."""
    return os.environ.get(API_KEY_VARIABLE) or None


def stated_ray_address() -> str | None:
    """Of the Ray cluster, where the environment names one, as in a job that was submitted to it."""
    return os.environ.get(RAY_VARIABLE) or None


def read_config() -> Config:
    """Read the config file; empty if there is none.

    Raises:
        ValueError: if it can't be read or has an unknown field, or if LONGLIVE_RAG_CONFIG is not a file.
    """
    path = config_file()
    if not path.is_file():
        if os.environ.get(CONFIG_VARIABLE):
            raise ValueError(f"{CONFIG_VARIABLE} names {path}, which is not a file")
        return Config()
    from longlive_rag.documents import parse, read_toml  # pydantic is slow to import and not needed for help

    return parse(read_toml(path), Config, str(path))


def stated_policy() -> tuple[str, str] | None:
    """The licence policy set in the environment, else in the config file, and where; None if neither sets one."""
    if POLICY_VARIABLE in os.environ:
        return os.environ[POLICY_VARIABLE], POLICY_VARIABLE
    policy = read_config().license_policy
    return None if policy is None else (policy, f"license_policy in {config_file()}")


@dataclass(frozen=True)
class Launch:
    """This process among those started by torchrun.

    Attributes:
        rank, size: its number, and the number of processes.
        local_rank: its number on this machine.
    """

    rank: int
    size: int
    local_rank: int


def launched() -> Launch | None:
    """What torchrun says about this process; None unless it started several."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR")
    if not all(os.environ.get(name) for name in names) or os.environ["WORLD_SIZE"] == "1":
        return None
    return Launch(*(int(os.environ[name]) for name in names[:3]))


def plugins(kind: str) -> dict[str, EntryPoint]:
    """List installed plug-ins of a kind (a key of `PLUGINS`), by name, without importing them.

    Raises:
        ValueError: if two packages register the same name.
    """
    found: dict[str, EntryPoint] = {}
    for entry in _entry_points(PLUGINS[kind], _places()):
        if found.setdefault(entry.name, entry).value != entry.value:
            raise ValueError(f"{kind} {entry.name!r} is registered twice: {found[entry.name].value} and {entry.value}")
    return found


def _places() -> tuple[tuple[str, int], ...]:
    """The folders searched for packages, with their modification times."""
    return tuple((path, os.stat(path or ".").st_mtime_ns) for path in sys.path if os.path.isdir(path or "."))


@lru_cache(maxsize=len(PLUGINS))
def _entry_points(group: str, places: tuple[tuple[str, int], ...]) -> EntryPoints:
    """Read a group's entry points; cached until a package is installed or removed, as it can take over 10 ms."""
    return entry_points(group=group)


def plugin(kind: str, name: str) -> Any:
    """Load a plug-in by name.

    Raises:
        ValueError: if there is none, or it can't be imported.
    """
    known = plugins(kind)
    if name not in known:
        raise FieldError(
            kind, name, f"it must be one of {', '.join(sorted(known))}; or install the package that adds it"
        )
    try:
        return known[name].load()
    except (ImportError, AttributeError) as error:
        raise FieldError(kind, name, f"{known[name].value} can't be imported: {error}") from error
