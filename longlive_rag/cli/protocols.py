"""`longlive-rag eval compare --protocol`: repeat a paper's comparison on all of its backbones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from longlive_rag.cli.arms import read_arms, read_contrasts
from longlive_rag.cli.comparing import engine_of, make, planned
from longlive_rag.cli.settings import typed_options

if TYPE_CHECKING:
    from eval.paper_protocols import PaperProtocol
    from eval.plan import Plan

REPLACES = ("backbones", "arms", "prompts", "horizons", "embedders", "seeds")
"""Options that replace the protocol's own settings."""
SINGLE = {
    "plan_file": "give one of the two",
    "backbone": "use --backbones",
    "scenarios": "its takes have one prompt each",
    "scenarios_file": "its takes have one prompt each",
}
"""Options of a single comparison, with the reason why they don't fit a protocol."""


def run_protocol(name: str, backbones: str | None, output: Path, as_json: bool, asked: dict[str, Any]) -> None:
    """Run the missing comparisons of a protocol, export the videos, and write and print the summary.

    Args:
        name: the protocol's name.
        backbones: comma-separated backbones to use instead of the protocol's.
        output: folder for one run per backbone, the exported videos and the summary.
        asked: all other options of `eval compare`.

    Raises:
        ValueError: before anything is made, if the options are invalid.
    """
    from eval import paper_protocols as papers

    typed = typed_options()
    _refuse_single(typed)
    where, protocol = engine_of(asked), papers.read_protocol(name)
    chosen = protocol.backbones if backbones is None else [each.strip() for each in backbones.split(",")]
    papers.check_backbones(chosen)
    prompts = asked.pop("prompts") or protocol.find_prompts(chosen)
    replaced = {key: value for key in ("arms", "horizons") if (value := asked.pop(key)) and key in typed}
    asked.pop("backbone")
    plans = {papers.folder_of(each): _plan(protocol, prompts, **replaced, **asked, backbone=each) for each in chosen}
    papers.check_runs(plans, output)
    results = {}
    for number, (folder, plan) in enumerate(plans.items(), 1):
        click.echo(f"{folder} ({number} of {len(plans)})", err=True)
        results[folder] = make(plan, output / folder, where)
    videos = papers.export_all(plans, output)
    summary = papers.summarise_protocol(protocol, plans, results, output, [key for key in REPLACES if key in typed])
    click.echo(json.dumps(summary.model_dump(mode="json"), indent=2) if as_json else summary.as_markdown())
    click.echo(f"  summary {output / 'summary.md'}\n  videos  {videos}, for VBench and VBench-Long", err=as_json)


def _plan(
    protocol: PaperProtocol,
    prompts: Path,
    backbone: str,
    embedders: str | None,
    arms: str | None = None,
    horizons: tuple[float, ...] | None = None,
    **asked: Any,
) -> Plan:
    """Plan one backbone's comparison; `arms` and `horizons` replace the protocol's."""
    from eval.embedders import default_embedders
    from longlive_rag.presets.preset import load_preset

    horizons = horizons or protocol.horizons_s(load_preset(backbone))
    chosen = read_arms(arms) if arms else tuple(protocol.arms)
    own = default_embedders([backbone])
    embedders = embedders or (protocol.embedders if own == "dino" else own)
    contrasts = read_contrasts(arms) if arms else ()
    plan = planned(
        lambda _: chosen,
        prompts,
        horizons=horizons,
        embedders=embedders,
        backbone=backbone,
        contrasts=contrasts,
        **asked,
    )
    return replace(plan, about={name: " ".join([protocol.about, *protocol.notes_on(backbone)]) for name in plan.about})


def _refuse_single(typed: Mapping[str, str]) -> None:
    for name, reason in SINGLE.items():
        if name in typed:
            raise ValueError(f"{typed[name]} can't be used with --protocol; {reason}")
