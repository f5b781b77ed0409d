"""A page about a known backbone: how it is run, its files, and what is known about their terms."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from backbone.files import CONFIG, read_config
from longlive_rag.config import OutputConfig
from longlive_rag.presets.catalogue import KnownBackbone, ReleasedFiles
from longlive_rag.rights.policy import ALLOWED
from longlive_rag.rights.spdx import NO_ASSERTION
from longlive_rag.rights.terms import CLEARED, IN_WORDS, cleared_use

PARTS = {"base": ("vae", "text_encoder", "tokenizer"), "transformer": ("transformer",), "lora": ("transformer",),
         "encoder": ("encoder",), "prompts": ()}  # fmt: skip
"""Maps each role of files to the parts of the converted folder they go into."""
SHOWN: dict[str, tuple[str, ...]] = {
    "context": (),
    "sampler": ("denoising_steps", "timestep_shift"),
    "memory": ("encoder", "policy", "establish"),
    "output": ("height", "width", "fps"),
}
"""The settings that the page shows of each part; an empty tuple shows all of them."""


def page(known: KnownBackbone, folder: Path) -> str:
    """Format the page as text.

    Args:
        known: a backbone that is not built in.
        folder: where it is once it has been fetched.
    """
    lines = [f"{known.title} ({known.name}): {known.summary}", "", "How it is run", *_weights(known)]
    for part, names in SHOWN.items():
        values = {name: value for name, value in asdict(getattr(known, part)).items() if name in names or not names}
        lines.append(f"  {part}: " + ", ".join(_settings(values, known.ours)))
    lines += ["  (*: this project's setting, not the release's)"] if known.ours else []
    lines += [f"  {note}" for note in known.notes]
    lines += [f"  Not verified: {fact}." for fact in known.not_seen]
    lines += ["", "Files and their terms"]
    for files in known.files:
        lines += _files(files)
    lines += ["", "Under each licence policy", *_policies(known, folder)]
    return "\n".join([*lines, "", f"next: longlive-rag models fetch {known.name}"])


def _settings(values: dict[str, Any], ours: Iterable[str]) -> list[str]:
    """Format fields and values in words, with a star on our own; what is unset or off goes unsaid."""
    said = []
    for name, value in values.items():
        if value is None or value is False:
            continue
        words = "positions" if name == "rope" else name.replace("_", " ")
        shown = " ".join(f"{each:g}" for each in value) if isinstance(value, tuple) else value
        star = "*" if name in ours else ""
        said.append(f"{words} {shown:g}{star}" if isinstance(value, float) else f"{words} {shown}{star}")
    return said


def _weights(known: KnownBackbone) -> list[str]:
    section = f"section {known.section} of the checkpoint" if known.section else "the checkpoint's only section"
    lora = f", with a LoRA of rank {known.lora_rank}, alpha {known.lora_alpha:g}" if known.lora_alpha else ""
    assert known.configs is not None
    sizes, output = read_config(known.configs / "transformer" / CONFIG), known.output or OutputConfig()
    factor = read_config(known.configs / "vae" / CONFIG)["scale_factor_spatial"]
    heads, head_dim = sizes["num_attention_heads"], sizes["attention_head_dim"]
    return [
        f"  weights: {section}{lora}",
        f"  transformer: {sizes['num_layers']} layers, {heads} heads of {head_dim}, width {heads * head_dim}, latents "
        f"{sizes['in_channels']} x {output.height // factor} x {output.width // factor}",
    ]


def _files(files: ReleasedFiles) -> list[str]:
    terms = files.terms
    seen = f"names verified at: {files.seen_at}" if files.seen_at else "names not verified"
    said = "" if terms.spdx == NO_ASSERTION else f"{terms.spdx}, "
    lines = [
        f"  {files.role}: {files.repo}",
        f"    {', '.join(files.names)}",
        f"    {seen}; looked up on {files.looked_up_on}",
        f"    terms: {said}{IN_WORDS[terms.standing]}",
        *(f"      {statement.in_words}" for statement in terms.statements),
    ]
    lines += [f"      remark: {files.remark}"] if files.remark else []
    by_card = any(statement.by == "card" for statement in terms.statements)
    return lines if by_card else [*lines, f"      terms on the model card not seen; read it at {files.page}"]


def _policies(known: KnownBackbone, folder: Path) -> list[str]:
    lines = ["  any: loads it and shows the terms"]
    for policy in ("research", "commercial"):
        refused = [each for each in known.files if PARTS[each.role] and not _is_allowed(each, policy)]
        if not refused:
            lines.append(f"  {policy}: loads it")
            continue
        roles = ", ".join(dict.fromkeys(each.role for each in refused))
        lines.append(f"  {policy}: refuses {roles} until you have read the terms and recorded them with evidence")
    return [*lines, *(f"    {command}" for command in _commands(known, folder))]


def _is_allowed(files: ReleasedFiles, policy: str) -> bool:
    return cleared_use(files.terms.use, files.terms.standing) in ALLOWED[policy]


def _commands(known: KnownBackbone, folder: Path) -> list[str]:
    """The commands, one per page of terms, that record the terms of everything not cleared yet."""
    parts: dict[tuple[str, str], list[str]] = {}
    for files in known.files:
        if PARTS[files.role] and files.terms.standing not in CLEARED:
            terms = "ID" if files.terms.spdx == NO_ASSERTION else files.terms.spdx
            parts.setdefault((files.page, terms), []).extend(PARTS[files.role])
    return [
        f"longlive-rag license record {shlex.join(str(folder / part) for part in dict.fromkeys(names))} "
        f"--spdx {shlex.quote(terms)} --source {page_} --evidence FILE"
        for (page_, terms), names in parts.items()
    ]
