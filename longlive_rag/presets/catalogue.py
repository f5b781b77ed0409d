"""Known backbones as data: which files they are made of, how they are run, what is known about their terms.

One small file each, in `longlive_rag/models/*.toml`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from backbone.config import ContextConfig, SamplerConfig
from longlive_rag.config import MemoryConfig, OutputConfig
from longlive_rag.rights.records import as_day
from longlive_rag.rights.spdx import Use, allowed_use

CATALOGUE = Path(__file__).parents[1] / "models"
Role = Literal["base", "transformer", "lora", "encoder"]


@dataclass(frozen=True)
class ReleasedFiles:
    """Files of one repository on the model hub that play one role.

    Attributes:
        role: `base` has everything (text encoder and VAE are taken from it); the others replace or add one part.
        repo: on the hub.
        names: of files in it; `*` stands for any.
        source: where the terms are stated.
        said: what the terms are believed to be, in words; binding for nobody.
        spdx: the terms, once somebody has looked them up; needs `looked_up_on` and `looked_up_by`.
        revision: of the repository.
    """

    role: Role
    repo: str
    names: tuple[str, ...]
    source: str
    said: str
    spdx: str | None = None
    looked_up_on: str | None = None
    looked_up_by: str | None = None
    revision: str = "main"

    def __post_init__(self) -> None:
        if self.spdx is not None:
            if self.looked_up_on is None or self.looked_up_by is None:
                raise ValueError(f"{self.repo}: spdx is stated without looked_up_on and looked_up_by")
            as_day("looked_up_on", self.looked_up_on)

    @property
    def use(self) -> Use:
        """What the terms allow; unknown until somebody has looked them up."""
        return "unknown" if self.spdx is None else allowed_use(self.spdx)


@dataclass(frozen=True)
class KnownBackbone:
    """A backbone that this project knows by name.

    Attributes:
        name: of its file.
        title, summary: for people.
        built_in: the folder inside the package; None if it must be fetched.
        configs: a folder inside the package with the configs of its parts and no weights: enough to plan with before
            anything is fetched; None for a built-in one.
        section: entry of the training checkpoint that is the model.
        lora_alpha: of its LoRA; None if it has none.
        context, sampler, memory, output: how it is run; None for a built-in one, whose folder says it.
        files: what it is made of.
    """

    name: str
    title: str
    summary: str
    built_in: Path | None = None
    configs: Path | None = None
    section: str | None = None
    lora_alpha: float | None = None
    context: ContextConfig | None = None
    sampler: SamplerConfig | None = None
    memory: MemoryConfig | None = None
    output: OutputConfig | None = None
    files: tuple[ReleasedFiles, ...] = ()


def known_names() -> list[str]:
    """Names of all known backbones, built-in ones first."""
    names = sorted(path.stem for path in CATALOGUE.glob("*.toml"))
    return sorted(names, key=lambda name: known_backbone(name).built_in is None)


def known_backbone(name: str) -> KnownBackbone:
    """Read the description of a backbone.

    Raises:
        ValueError: if there is none of that name, or it is damaged.
    """
    path = CATALOGUE / f"{name}.toml"
    if not name or Path(name).name != name or not path.is_file():
        raise ValueError(f"{name!r} is not a known backbone; known: {', '.join(known_names())}")
    from longlive_rag.documents import parse, read_toml  # pydantic is slow to import, and help needs none

    found = parse({**read_toml(path), "name": name}, KnownBackbone, str(path))
    folders = {key: CATALOGUE / getattr(found, key) for key in ("built_in", "configs") if getattr(found, key)}
    return replace(found, **folders)
