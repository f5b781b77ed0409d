"""Known backbones as data: which files they are made of, how they are run, what is known about their terms.

One small file each, in `longlive_rag/models/*.toml`. What several share (the release that they are made on, and the
configs of its parts) is in a folder there, with its files in `files.toml`. Nothing in them is guessed: what nobody has
seen is said not to have been seen.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

from backbone.config import ContextConfig, SamplerConfig
from longlive_rag.config import MemoryConfig, OutputConfig
from longlive_rag.rights.terms import Statement, Terms, as_day

CATALOGUE = Path(__file__).parents[1] / "models"
SHARED = "files.toml"
HUB = "https://huggingface.co"
Role = Literal["base", "transformer", "lora", "encoder", "prompts"]


@dataclass(frozen=True)
class ReleasedFiles:
    """Files of one repository on the model hub that play one role.

    Attributes:
        role: `base` has everything (text encoder and VAE are taken from it); the others replace or add one part, except
            `prompts`, which are a paper's.
        repo: on the hub.
        names: of files in it; `*` stands for any.
        looked_up_on: the day (ISO) on which names and terms were looked up.
        seen_at: where these names were seen; None if they were not.
        statements: who says what their terms are.
        remark: on the terms, in words.
        revision: of the repository.
    """

    role: Role
    repo: str
    names: tuple[str, ...]
    looked_up_on: str
    seen_at: str | None = None
    statements: tuple[Statement, ...] = ()
    remark: str = ""
    revision: str = "main"

    def __post_init__(self) -> None:
        as_day("looked_up_on", self.looked_up_on)

    @property
    def page(self) -> str:
        """The model card."""
        return f"{HUB}/{self.repo}"

    @property
    def terms(self) -> Terms:
        """What is known of the terms."""
        return Terms(self.page, self.looked_up_on, self.statements)


@dataclass(frozen=True)
class SharedFiles:
    """The files of a release that several backbones are made on."""

    files: tuple[ReleasedFiles, ...]


@dataclass(frozen=True)
class KnownBackbone:
    """A backbone that this project knows by name.

    Attributes:
        name: of its file.
        title, summary: for people.
        built_in: the folder inside the package; None if it must be fetched.
        configs: a folder inside the package with the configs of its parts and no weights (enough to plan with before
            anything is fetched) and the files of the release that it is made on; None for a built-in one.
        section: entry of the training checkpoint that is the model; None if the only one is.
        lora_rank, lora_alpha: of its LoRA; None if it has none.
        ours: settings that are this project's, not the release's.
        notes: what one must know to run it, or to compare with it.
        not_seen: facts that nobody could look up.
        context, sampler, memory, output: how it is run; None for a built-in one, whose folder says it.
        files: what it is made of, those of `configs` first.
    """

    name: str
    title: str
    summary: str
    built_in: Path | None = None
    configs: Path | None = None
    section: str | None = None
    lora_rank: int | None = None
    lora_alpha: float | None = None
    ours: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    not_seen: tuple[str, ...] = ()
    context: ContextConfig | None = None
    sampler: SamplerConfig | None = None
    memory: MemoryConfig | None = None
    output: OutputConfig | None = None
    files: tuple[ReleasedFiles, ...] = ()

    def __post_init__(self) -> None:
        settings = {
            each.name for kind in (ContextConfig, SamplerConfig, MemoryConfig, OutputConfig) for each in fields(kind)
        }
        for name in self.ours:
            if name not in settings:
                raise ValueError(f"{self.name}: ours names {name}, which is not a setting")


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
    if found.built_in is not None:
        return replace(found, built_in=CATALOGUE / found.built_in)
    if found.configs is None:
        return found
    configs = CATALOGUE / found.configs
    shared = parse(read_toml(configs / SHARED), SharedFiles, str(configs / SHARED))
    return replace(found, configs=configs, files=(*shared.files, *found.files))
