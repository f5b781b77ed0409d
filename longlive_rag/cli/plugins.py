"""`longlive-rag plugins`: list installed plug-ins."""

from __future__ import annotations

import json

import click

from longlive_rag.cli.errors import refuse_bad_input
from longlive_rag.environment import PLUGINS
from longlive_rag.environment import plugins as installed


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON.")
def plugins(as_json: bool) -> None:
    """List retrieval policies, drift embedders, metrics and checkpoint layouts, with the package each comes from.

    Packages add them through entry points; CONTRIBUTING.md shows how.

    \b
    Example:
      longlive-rag plugins
      longlive-rag generate "a red circle walks in a meadow" -o takes/spread --policy stratified
    """
    with refuse_bad_input():
        found = [
            {
                "kind": kind,
                "name": name,
                "package": entry.dist.name if entry.dist else "?",
                "object": entry.value,
            }
            for kind in PLUGINS
            for name, entry in sorted(installed(kind).items())
        ]
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    widths = {key: max(len(row[key]) for row in found) for key in ("kind", "name", "package")}
    for row in found:
        click.echo("  ".join(f"{row[key]:<{width}}" for key, width in widths.items()) + f"  {row['object']}")
