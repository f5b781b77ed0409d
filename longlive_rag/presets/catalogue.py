"""Known backbones as data: their files, how to run them, and what is known about their terms.

There is one small file for each in `longlive_rag/models/*.toml`. What several share (the release they build on and the
configs of its parts) is in a folder there, whose `files.toml` lists the release's files. Nothing in them is guessed;
facts that nobody could look up are listed as `not_seen`.
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
        role: `base` has all parts (text encoder and VAE are taken from it); the others replace or add one part, except
            `prompts`, the prompts of a paper.
        repo: name of the repository on the hub.
        names: names of its files; `*` matches anything.
        looked_up_on: the day (ISO) on which names and terms were looked up.
        seen_at: where these names were seen; None if nowhere.
        statements: who states which terms.
        remark: a remark on the terms.
        revision: revision of the repository.
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
        """URL of the model card."""
        return f"{HUB}/{self.repo}"

    @property
    def terms(self) -> Terms:
        """What is known about the terms."""
        return Terms(self.page, self.looked_up_on, self.statements)


@dataclass(frozen=True)
class SharedFiles:
    """The files of a release that several backbones build on."""

    files: tuple[ReleasedFiles, ...]


@dataclass(frozen=True)
class KnownBackbone:
    """A backbone that this project knows by name.

    Attributes:
        name: name of its file, without suffix.
        title, summary: description for people.
        built_in: its folder inside the package; None if it must be fetched.
        configs: a folder inside the package with the configs of its parts without weights (enough to plan with before
            anything is fetched) and the list of files of the release it builds on; None for a built-in one.
        section: entry of the training checkpoint that holds the model; None if there is only one.
        lora_rank, lora_alpha: of its LoRA; None if it has none.
        ours: settings chosen by this project, not by the release.
        notes: what to know before running it or comparing with it.
        not_seen: facts that nobody could look up.
        context, sampler, memory, output: how to run it; None for a built-in one, whose folder says so.
        files: all files it consists of, those of `configs` first.
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
    """Return the names of all known backbones, built-in ones first."""
    names = sorted(path.stem for path in CATALOGUE.glob("*.toml"))
    return sorted(names, key=lambda name: known_backbone(name).built_in is None)


def known_backbone(name: str) -> KnownBackbone:
    """Read the description of a backbone.

    Raises:
        ValueError: if there is none of that name, or its description is invalid.
    """
    path = CATALOGUE / f"{name}.toml"
    if not name or Path(name).name != name or not path.is_file():
        raise ValueError(f"{name!r} is not a known backbone; known: {', '.join(known_names())}")
    from longlive_rag.documents import parse, read_toml  # pydantic is slow to import, and --help does not need it

    found = parse({**read_toml(path), "name": name}, KnownBackbone, str(path))
    if found.built_in is not None:
        return replace(found, built_in=CATALOGUE / found.built_in)
    if found.configs is None:
        return found
    configs = CATALOGUE / found.configs
    shared = parse(read_toml(configs / SHARED), SharedFiles, str(configs / SHARED))
    return replace(found, configs=configs, files=(*shared.files, *found.files))
