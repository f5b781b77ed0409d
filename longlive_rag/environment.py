"""Everything that comes from the environment, the user's config file or installed plug-ins, read here and nowhere else.

The config file is `~/.config/longlive-rag/config.toml` (or what LONGLIVE_RAG_CONFIG names):

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
"""What a package can add, and the entry point group that it registers it under; ours are registered the same way."""


@dataclass(frozen=True)
class Config:
    """The config file's fields; None where it doesn't say."""

    license_policy: str | None = None


def config_file() -> Path:
    """The user's config file; it need not exist."""
    named = os.environ.get(CONFIG_VARIABLE)
    if named:
        return Path(named)
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "longlive-rag" / "config.toml"


def cache_folder() -> Path:
    """Where what can be made again is remembered."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "longlive-rag"


def keep_compiled() -> Path:
    """Where torch keeps compiled code from now on: by TORCHINDUCTOR_CACHE_DIR, else in the user's cache."""
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    if os.environ.get(COMPILED_VARIABLE, "") in ("", default_cache_dir()):  # torch states its default there itself
        os.environ[COMPILED_VARIABLE] = str(cache_folder() / "compiled")
    return Path(os.environ[COMPILED_VARIABLE])


def models_folder() -> Path:
    """Where fetched backbones lie, each in a folder of its name: LONGLIVE_RAG_MODELS, else `models` where one works."""
    return Path(os.environ.get(MODELS_VARIABLE) or "models")


def use_gpu(number: int) -> None:
    """Let this process see one GPU alone, by its number among those that it may see; before CUDA is used."""
    visible = os.environ.get(GPUS_VARIABLE)
    os.environ[GPUS_VARIABLE] = visible.split(",")[number] if visible else str(number)


def stated_api_key() -> str | None:
    """The key of a server's clients, where the environment states one."""
    return os.environ.get(API_KEY_VARIABLE) or None


def stated_ray_address() -> str | None:
    """Of the Ray cluster, where the environment names one, as in a job that was submitted to it."""
    return os.environ.get(RAY_VARIABLE) or None


def read_config() -> Config:
    """The config file; empty if there is none.

    Raises:
        ValueError: if it can't be read or has an unknown field, or if LONGLIVE_RAG_CONFIG names no file.
    """
    path = config_file()
    if not path.is_file():
        if os.environ.get(CONFIG_VARIABLE):
            raise ValueError(f"{CONFIG_VARIABLE} names {path}, which is not a file")
        return Config()
    from longlive_rag.documents import parse, read_toml  # pydantic is slow to import, and help needs none

    return parse(read_toml(path), Config, str(path))


def stated_policy() -> tuple[str, str] | None:
    """The licence policy that the environment or else the config file states, and where; None if neither does."""
    if POLICY_VARIABLE in os.environ:
        return os.environ[POLICY_VARIABLE], POLICY_VARIABLE
    policy = read_config().license_policy
    return None if policy is None else (policy, f"license_policy in {config_file()}")


@dataclass(frozen=True)
class Launch:
    """This process among those that torchrun has started.

    Attributes:
        rank, size: its number, and how many there are.
        local_rank: its number on this machine.
    """

    rank: int
    size: int
    local_rank: int


def launched() -> Launch | None:
    """What torchrun says of this process; None if it did not start several."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR")
    if not all(os.environ.get(name) for name in names) or os.environ["WORLD_SIZE"] == "1":
        return None
    return Launch(*(int(os.environ[name]) for name in names[:3]))


def plugins(kind: str) -> dict[str, EntryPoint]:
    """What is installed of a key of `PLUGINS`, by name; nothing is imported.

    Raises:
        ValueError: if two packages register the same name.
    """
    found: dict[str, EntryPoint] = {}
    for entry in _entry_points(PLUGINS[kind], _places()):
        if found.setdefault(entry.name, entry).value != entry.value:
            raise ValueError(f"{kind} {entry.name!r} is registered twice: {found[entry.name].value} and {entry.value}")
    return found


def _places() -> tuple[tuple[str, int], ...]:
    """Folders in which packages are looked for, and when each was changed."""
    return tuple((path, os.stat(path or ".").st_mtime_ns) for path in sys.path if os.path.isdir(path or "."))


@lru_cache(maxsize=len(PLUGINS))
def _entry_points(group: str, places: tuple[tuple[str, int], ...]) -> EntryPoints:
    """Of a group, read again when a package was installed or removed: with many packages that takes 10 ms and more."""
    return entry_points(group=group)


def plugin(kind: str, name: str) -> Any:
    """A plug-in by its name.

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
